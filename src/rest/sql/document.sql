SELECT pg_catalog.json_build_object(
    'relations', (
        SELECT COALESCE(pg_catalog.json_agg(c.relname), '[]')
        FROM pg_catalog.pg_class c
        WHERE c.relnamespace = space.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
            -- Any privilege shows it, as in PostgREST.
            AND (pg_catalog.pg_has_role(c.relowner, 'USAGE')
                OR pg_catalog.has_table_privilege(c.oid,
                    'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                OR pg_catalog.has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'))),
    -- Overloads are told apart by their types, spelled as the schema was loaded: with the schema's name. What is shown
    -- leaves it out where the search path makes it superfluous. Each is spelled once: functions by the hundred, each
    -- with many arguments, would take longer than all else.
    'types', (
        SELECT COALESCE(pg_catalog.json_object_agg(t.oid, pg_catalog.json_build_object(
            'known', CASE
                WHEN n.nspname = 'pg_catalog' THEN pg_catalog.format_type(t.oid, NULL)
                WHEN e.oid IS NULL THEN pg_catalog.format('%I.%I', n.nspname, t.typname)
                ELSE pg_catalog.format('%I.%I[]', n.nspname, e.typname) END,
            'shown', pg_catalog.format_type(t.oid, NULL))), '{}')
        FROM pg_catalog.pg_type t
        JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
        LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
        WHERE t.oid IN (
            SELECT pg_catalog.unnest(p.proargtypes::pg_catalog.oid[])
            FROM pg_catalog.pg_proc p
            WHERE p.pronamespace = space.oid AND p.prokind = 'f')),
    'routines', (
        SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object(
            'name', p.proname, 'types', p.proargtypes::pg_catalog.oid[]::pg_catalog.int8[])), '[]')
        FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = space.oid AND p.prokind = 'f'
            AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE'))
    )::pg_catalog.text
FROM (SELECT (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1) AS oid) AS space
