-- Relations of the exposed schemas ($1), one JSON text each.
WITH RECURSIVE bases AS (
    -- What a domain is over, through domains over domains.
    SELECT oid, oid AS base FROM pg_type WHERE typtype <> 'd'
    UNION ALL
    SELECT d.oid, bases.base FROM bases JOIN pg_type d ON d.typbasetype = bases.oid AND d.typtype = 'd'
),
shown AS (
    SELECT c.oid, c.reltype, n.nspname, c.relname, c.relkind
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY ($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
),
columns AS (
    -- Without what is null: most of a large schema is columns, and most of a column would be that.
    SELECT a.attrelid, json_agg(json_strip_nulls(json_build_object(
            'name', a.attname,
            'type', format_type(a.atttypid, a.atttypmod),
            'cast', json_build_object('schema', tn.nspname, 'name', t.typname),
            'base_type', CASE
                WHEN t.typtype = 'd' AND base.typnamespace = 'pg_catalog'::regnamespace THEN format_type(base.oid, NULL)
                WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN format_type(a.atttypid, NULL)
                ELSE format_type(a.atttypid, a.atttypmod) END,
            'not_null', NULLIF(a.attnotnull OR (t.typtype = 'd' AND t.typnotnull), false),
            'has_default', NULLIF(a.atthasdef OR a.attidentity <> '' OR t.typdefaultbin IS NOT NULL, false),
            'default', CASE
                WHEN a.attidentity = 'd' THEN format('nextval(%L)', (
                    SELECT d.objid::regclass FROM pg_depend d
                    WHERE d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype = 'i'
                        AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass))
                WHEN a.attgenerated <> '' THEN NULL
                -- No column can stand in it. With the relation instead of 0 the time grows with the cube of its columns.
                WHEN e.adbin IS NOT NULL THEN pg_get_expr(e.adbin, 0)
                ELSE pg_get_expr(t.typdefaultbin, 0) END,
            'identity', NULLIF(a.attidentity = 'a', false),
            'generated', NULLIF(a.attgenerated <> '', false),
            -- As information_schema has it: the domain's own length, if there is no other.
            'max_length', information_schema._pg_char_max_length(
                information_schema._pg_truetypid(a, t), information_schema._pg_truetypmod(a, t)),
            'enum', (SELECT json_agg(enumlabel ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = base.oid),
            'comment', col_description(a.attrelid, a.attnum)
        )) ORDER BY a.attnum) AS list
    FROM pg_attribute a
    JOIN shown ON shown.oid = a.attrelid
    JOIN pg_type t ON t.oid = a.atttypid
    JOIN pg_namespace tn ON tn.oid = t.typnamespace
    JOIN bases ON bases.oid = t.oid
    JOIN pg_type base ON base.oid = bases.base
    LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped
    GROUP BY a.attrelid
),
computed AS (
    SELECT p.proargtypes[0] AS row_type, json_agg(json_build_object(
            'name', p.proname, 'schema', n.nspname, 'type', format_type(p.prorettype, NULL)
        ) ORDER BY p.proname, n.nspname) AS list
    FROM pg_proc p
    JOIN pg_namespace n ON n.oid = p.pronamespace
    JOIN shown ON shown.reltype = p.proargtypes[0]
    WHERE p.pronargs = 1 AND p.prokind = 'f' AND NOT p.proretset
        AND NOT EXISTS (SELECT FROM pg_class WHERE reltype = p.prorettype AND relkind IN ('r', 'p', 'v', 'm', 'f'))
    GROUP BY p.proargtypes[0]
)
SELECT json_build_object(
    'schema', s.nspname,
    'name', s.relname,
    'kind', CASE s.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned' WHEN 'v' THEN 'view'
                           WHEN 'm' THEN 'materialized' ELSE 'foreign' END,
    'comment', obj_description(s.oid, 'pg_class'),
    'columns', COALESCE(columns.list, '[]'),
    'primary_key', COALESCE((
        SELECT json_agg(a.attname ORDER BY a.attname)
        FROM pg_constraint p
        JOIN pg_attribute a ON a.attrelid = s.oid AND a.attnum = ANY (p.conkey)
        WHERE p.conrelid = s.oid AND p.contype = 'p'
    ), '[]'),
    'computed_columns', COALESCE(computed.list, '[]'),
    -- Bits by CmdType (nodes.h): 4 update, 8 insert, 16 delete; INSTEAD OF triggers count.
    'insertable', u.bits & 8 = 8,
    'updatable', u.bits & 4 = 4,
    'deletable', u.bits & 16 = 16
)::text
FROM shown s
LEFT JOIN columns ON columns.attrelid = s.oid
LEFT JOIN computed ON computed.row_type = s.reltype
CROSS JOIN LATERAL (SELECT CASE
    WHEN s.relkind IN ('r', 'p') THEN 28
    WHEN s.relkind = 'm' THEN 0
    ELSE pg_relation_is_updatable(s.oid::regclass, true) END AS bits) u
