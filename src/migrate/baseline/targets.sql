-- What rights can be granted on, by the names that facts have: as GRANT names it, the column, and who may what unless said.
WITH schemas AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'manybox')
),
relations AS (
    SELECT c.oid, relkind, concat(CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
               WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' ELSE 'foreign table' END, ' ', oid::regclass) AS name
    FROM pg_class c
    WHERE relnamespace IN (SELECT oid FROM schemas) AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
)
SELECT concat('schema ', quote_ident(nspname)), concat('SCHEMA ', quote_ident(nspname)), NULL, NULL FROM schemas
UNION ALL
SELECT name, concat(CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END, oid::regclass), NULL, NULL FROM relations
UNION ALL
SELECT concat(r.name, ': column ', quote_ident(attname)), concat('TABLE ', r.oid::regclass), quote_ident(attname), NULL
FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid WHERE attnum > 0 AND NOT attisdropped AND relkind <> 'S'
UNION ALL
SELECT concat(CASE prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END, ' ', oid::regprocedure),
       concat('ROUTINE ', oid::regprocedure), NULL, 'EXECUTE'
FROM pg_proc WHERE pronamespace IN (SELECT oid FROM schemas)
UNION ALL
SELECT concat(CASE typtype WHEN 'd' THEN 'domain' ELSE 'type' END, ' ', oid::regtype), concat('TYPE ', oid::regtype), NULL, 'USAGE'
FROM pg_type WHERE typnamespace IN (SELECT oid FROM schemas) AND typtype IN ('b', 'd', 'e', 'p', 'r')
