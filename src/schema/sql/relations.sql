-- Relations of the exposed schemas, one JSON text each. Reads pg_catalog only, which every login may.
-- Types outside pg_catalog are spelled with their schema, whatever the session's search_path is.
SELECT pg_catalog.json_build_object(
    'schema', n.nspname,
    'name', c.relname,
    'kind', CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned' WHEN 'v' THEN 'view'
                           WHEN 'm' THEN 'materialized' ELSE 'foreign' END,
    'comment', pg_catalog.obj_description(c.oid, 'pg_class'),
    'columns', COALESCE((
        SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                'name', a.attname,
                'type', CASE
                    WHEN tn.nspname OPERATOR(pg_catalog.=) 'pg_catalog'
                        AND (en.nspname IS NULL OR en.nspname OPERATOR(pg_catalog.=) 'pg_catalog')
                        THEN pg_catalog.format_type(a.atttypid, a.atttypmod)
                    WHEN e.oid IS NOT NULL
                        THEN pg_catalog.format('%I.%I[]', en.nspname, e.typname)
                    ELSE pg_catalog.format('%I.%I', tn.nspname, t.typname) END,
                'not_null', a.attnotnull,
                'has_default', a.atthasdef OR a.attidentity OPERATOR(pg_catalog.<>) '',
                'identity', a.attidentity OPERATOR(pg_catalog.=) 'a',
                'generated', a.attgenerated OPERATOR(pg_catalog.<>) '',
                'comment', pg_catalog.col_description(c.oid, a.attnum::pg_catalog.int4)
            ) ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
        JOIN pg_catalog.pg_namespace tn ON tn.oid OPERATOR(pg_catalog.=) t.typnamespace
        LEFT JOIN pg_catalog.pg_type e ON e.oid OPERATOR(pg_catalog.=) t.typelem AND t.typcategory OPERATOR(pg_catalog.=) 'A'
        LEFT JOIN pg_catalog.pg_namespace en ON en.oid OPERATOR(pg_catalog.=) e.typnamespace
        WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
    ), '[]'),
    'primary_key', COALESCE((
        SELECT pg_catalog.json_agg(a.attname ORDER BY k.position)
        FROM pg_catalog.pg_constraint p
        CROSS JOIN LATERAL pg_catalog.unnest(p.conkey) WITH ORDINALITY AS k (attnum, position)
        JOIN pg_catalog.pg_attribute a
            ON a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.=) k.attnum
        WHERE p.conrelid OPERATOR(pg_catalog.=) c.oid AND p.contype OPERATOR(pg_catalog.=) 'p'
    ), '[]'),
    'foreign_keys', COALESCE((
        SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                'name', f.conname,
                'columns', (SELECT pg_catalog.json_agg(a.attname ORDER BY k.position)
                    FROM pg_catalog.unnest(f.conkey) WITH ORDINALITY AS k (attnum, position)
                    JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) f.conrelid
                        AND a.attnum OPERATOR(pg_catalog.=) k.attnum),
                'target_schema', fn.nspname,
                'target', fc.relname,
                'target_columns', (SELECT pg_catalog.json_agg(a.attname ORDER BY k.position)
                    FROM pg_catalog.unnest(f.confkey) WITH ORDINALITY AS k (attnum, position)
                    JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) f.confrelid
                        AND a.attnum OPERATOR(pg_catalog.=) k.attnum)
            ) ORDER BY f.conname)
        FROM pg_catalog.pg_constraint f
        JOIN pg_catalog.pg_class fc ON fc.oid OPERATOR(pg_catalog.=) f.confrelid
        JOIN pg_catalog.pg_namespace fn ON fn.oid OPERATOR(pg_catalog.=) fc.relnamespace
        WHERE f.conrelid OPERATOR(pg_catalog.=) c.oid AND f.contype OPERATOR(pg_catalog.=) 'f'
    ), '[]'),
    -- Bits by CmdType (nodes.h): 4 update, 8 insert, 16 delete; INSTEAD OF triggers count.
    'insertable', (u.bits OPERATOR(pg_catalog.&) 8) OPERATOR(pg_catalog.=) 8,
    'updatable', (u.bits OPERATOR(pg_catalog.&) 4) OPERATOR(pg_catalog.=) 4,
    'deletable', (u.bits OPERATOR(pg_catalog.&) 16) OPERATOR(pg_catalog.=) 16
)::pg_catalog.text
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
CROSS JOIN LATERAL (SELECT pg_catalog.pg_relation_is_updatable(c.oid::pg_catalog.regclass, true) AS bits) u
WHERE n.nspname OPERATOR(pg_catalog.=) ANY ($1)
    AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f}'::pg_catalog."char"[])
    AND NOT c.relispartition
ORDER BY n.nspname, c.relname
