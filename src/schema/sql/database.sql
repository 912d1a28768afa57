-- The rest of what requests need, in one JSON text. $1: the exposed schemas.
WITH rows AS (
    SELECT c.reltype, json_build_object('schema', n.nspname, 'name', c.relname) AS name
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.reltype <> 0
),
media_types AS (
    SELECT oid, lower(typname) AS media_type,
        CASE typname WHEN '*/*' THEN 'application/octet-stream' ELSE lower(typname) END AS content_type
    FROM pg_type
    WHERE typtype = 'd' AND (typname ~* '^[a-z0-9.-]+/[a-z0-9.+-]+$' OR typname = '*/*')
),
handlers AS (
    SELECT p.oid, n.nspname, p.proname, p.prokind, p.pronargs, p.proargtypes[0] AS argument, p.proretset,
        m.media_type, m.content_type
    FROM media_types m
    JOIN pg_proc p ON p.prorettype = m.oid
    JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = ANY ($1)
)
SELECT json_build_object(
    'computed', COALESCE((
        SELECT json_agg(json_build_object(
            'function', json_build_object('schema', n.nspname, 'name', p.proname),
            'from', argument.name,
            'to', result.name,
            'single_row', NOT p.proretset OR p.prorows = 1))
        FROM pg_proc p
        JOIN pg_namespace n ON n.oid = p.pronamespace
        JOIN rows argument ON argument.reltype = p.proargtypes[0]
        JOIN rows result ON result.reltype = p.prorettype
        WHERE p.pronargs = 1
    ), '[]'),
    'media_handlers', COALESCE((
        SELECT json_agg(json_build_object(
            'target', CASE
                WHEN h.prokind = 'f' THEN
                    json_build_object('routine', json_build_object('schema', h.nspname, 'name', h.proname))
                WHEN h.argument = 'anyelement'::regtype THEN to_json('any_element'::text)
                ELSE json_build_object('relation', rows.name) END,
            'media_type', h.media_type,
            'content_type', h.content_type,
            'function', json_build_object('schema', h.nspname, 'name', h.proname)))
        FROM handlers h
        LEFT JOIN rows ON rows.reltype = h.argument
        WHERE (h.prokind = 'f' AND NOT h.proretset)
            OR (h.prokind = 'a' AND h.pronargs = 1
                AND (rows.reltype IS NOT NULL OR h.argument = 'anyelement'::regtype))
    ), '[]'),
    'representations', COALESCE((
        SELECT json_agg(json_build_object(
            'source', format_type(k.castsource, NULL),
            'target', format_type(k.casttarget, NULL),
            'function', json_build_object('schema', n.nspname, 'name', p.proname)))
        FROM pg_cast k
        JOIN pg_type s ON s.oid = k.castsource
        JOIN pg_type t ON t.oid = k.casttarget
        JOIN pg_proc p ON p.oid = k.castfunc
        JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE k.castcontext = 'i' AND k.castmethod = 'f'
            AND ((s.typtype = 'd' AND t.oid IN ('json'::regtype, 'text'::regtype))
                OR (t.typtype = 'd' AND s.oid IN ('json'::regtype, 'text'::regtype)))
    ), '[]'),
    'comments', COALESCE((
        SELECT json_agg(json_build_array(n.nspname, obj_description(n.oid, 'pg_namespace')))
        FROM pg_namespace n
        WHERE n.nspname = ANY ($1) AND obj_description(n.oid, 'pg_namespace') IS NOT NULL
    ), '[]'),
    'geojson', (
        SELECT json_build_object('schema', n.nspname, 'name', p.proname)
        FROM pg_extension x
        JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = x.oid
            AND d.classid = 'pg_proc'::regclass
        JOIN pg_proc p ON p.oid = d.objid AND p.proname = 'st_asgeojson' AND p.proargtypes[0] = 'record'::regtype
        JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE x.extname = 'postgis'
        LIMIT 1
    ),
    'server_version', current_setting('server_version_num')::int4
)::text
