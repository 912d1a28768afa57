SELECT pg_catalog.json_build_object(
    'relations', COALESCE((
        SELECT pg_catalog.json_object_agg(c.relname, pg_catalog.json_build_array(
            pg_catalog.has_any_column_privilege(c.oid, 'SELECT'),
            pg_catalog.has_any_column_privilege(c.oid, 'INSERT'),
            pg_catalog.has_any_column_privilege(c.oid, 'UPDATE'),
            pg_catalog.has_table_privilege(c.oid, 'DELETE')))
        FROM pg_catalog.pg_class c
        WHERE c.relnamespace = n.oid AND c.relkind = ANY ('{r,p,v,m,f}'::pg_catalog."char"[])
            AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')), '{}'),
    'routines', COALESCE((
        SELECT pg_catalog.json_agg(DISTINCT p.proname::pg_catalog.text)
        FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = n.oid AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
            AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')), '[]')
    )::pg_catalog.text AS body,
    1::pg_catalog.int8 AS rows,
    NULL::pg_catalog.int8 AS total,
    NULL::pg_catalog.text AS headers,
    NULL::pg_catalog.text AS status,
    NULL::pg_catalog.text AS location
FROM pg_catalog.pg_namespace n
WHERE n.nspname = $1
