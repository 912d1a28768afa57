-- Views of these schemas with the trees of their queries, one JSON text each. $1: the exposed schemas; $2: those
-- looked through besides.
SELECT json_build_object(
    'oid', c.oid::int8,
    'name', json_build_object('schema', n.nspname, 'name', c.relname),
    'exposed', n.nspname = ANY ($1),
    'columns', (
        SELECT json_agg(json_build_array(a.attnum, a.attname))
        FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ),
    'tree', r.ev_action::text
)::text
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
-- 1: the rule ON SELECT, which makes it a view.
JOIN pg_rewrite r ON r.ev_class = c.oid AND r.ev_type = '1'
WHERE c.relkind IN ('v', 'm') AND (n.nspname = ANY ($1) OR n.nspname = ANY ($2))
