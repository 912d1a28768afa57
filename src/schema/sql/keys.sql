-- Primary and foreign keys of all schemas, one JSON text each: an exposed view can show those of a hidden table.
WITH uniques AS (
    SELECT u.conrelid, array_agg(key ORDER BY key) AS columns
    FROM pg_constraint u
    CROSS JOIN unnest(u.conkey) AS key
    WHERE u.contype IN ('p', 'u')
    GROUP BY u.oid, u.conrelid
)
SELECT json_build_object(
    'name', k.conname,
    'oid', k.conrelid::int8,
    'relation', json_build_object('schema', n.nspname, 'name', c.relname),
    'columns', own.columns,
    'target', CASE WHEN t.oid IS NOT NULL THEN json_build_object(
        'oid', k.confrelid::int8,
        'relation', json_build_object('schema', tn.nspname, 'name', t.relname),
        'columns', other.columns,
        'unique', EXISTS (SELECT FROM uniques WHERE conrelid = k.conrelid AND columns = own.sorted)
    ) END
)::text
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT json_agg(json_build_array(a.attnum, a.attname) ORDER BY x.position) AS columns,
        array_agg(a.attnum ORDER BY a.attnum) AS sorted
    FROM unnest(k.conkey) WITH ORDINALITY AS x (number, position)
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.number
) own
LEFT JOIN pg_class t ON k.contype = 'f' AND t.oid = k.confrelid
LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
LEFT JOIN LATERAL (
    SELECT json_agg(json_build_array(a.attnum, a.attname) ORDER BY x.position) AS columns
    FROM unnest(k.confkey) WITH ORDINALITY AS x (number, position)
    JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = x.number
) other ON true
-- A partition repeats the keys of its parent, and so does a key that refers to a partitioned table.
WHERE (k.contype = 'f' AND k.conparentid = 0) OR (k.contype = 'p' AND NOT c.relispartition)
