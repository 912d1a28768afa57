-- Functions of the exposed schemas ($1) that a request can call, one JSON text each.
WITH RECURSIVE bases AS (
    SELECT oid, oid AS base FROM pg_type WHERE typtype <> 'd'
    UNION ALL
    SELECT d.oid, bases.base FROM bases JOIN pg_type d ON d.typbasetype = bases.oid AND d.typtype = 'd'
)
SELECT json_build_object(
    'schema', n.nspname,
    'name', p.proname,
    'comment', obj_description(p.oid, 'pg_proc'),
    'arguments', COALESCE(arguments.list, '[]'),
    'returns', json_build_object(
        'type', format_type(p.prorettype, NULL),
        'set', p.proretset,
        'shape', CASE
            WHEN p.prorettype = 'void'::regtype THEN 'void'
            WHEN base.typtype = 'c' OR arguments.has_out THEN 'composite'
            ELSE 'scalar' END,
        'row_of', CASE WHEN base.typtype = 'c' THEN json_build_object('schema', bn.nspname, 'name', base.typname) END,
        'is_composite_domain', base.typtype = 'c' AND base.oid <> p.prorettype
    ),
    'volatility', CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END,
    'settings', COALESCE((
        SELECT json_agg(json_build_array(
                substr(setting, 1, strpos(setting, '=') - 1), substr(setting, strpos(setting, '=') + 1)
            ) ORDER BY setting)
        FROM unnest(p.proconfig) AS setting
    ), '[]')
)::text
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN bases ON bases.oid = p.prorettype
JOIN pg_type base ON base.oid = bases.base
JOIN pg_namespace bn ON bn.oid = base.typnamespace
CROSS JOIN LATERAL (
    SELECT json_agg(json_build_object(
            'name', COALESCE(x.name, ''),
            'type', format_type(x.type, NULL),
            'cast', json_build_object('schema', tn.nspname, 'name', t.typname),
            'mode', CASE x.mode WHEN 'i' THEN 'in' WHEN 'o' THEN 'out' WHEN 'b' THEN 'in_out' WHEN 'v' THEN 'variadic'
                                ELSE 'table' END,
            -- Defaults belong to the last input arguments.
            'has_default', x.input AND x.inputs > p.pronargs - p.pronargdefaults
        ) ORDER BY x.position) AS list,
        bool_or(x.mode IN ('o', 'b', 't')) AS has_out,
        count(*) FILTER (WHERE x.input AND x.name = '') AS unnamed,
        bool_and(x.type IN ('bytea'::regtype, 'json'::regtype, 'jsonb'::regtype, 'text'::regtype, 'xml'::regtype))
            FILTER (WHERE x.input AND x.name = '') AS takes_body
    FROM (
        SELECT a.type, a.position, m.mode, m.mode IN ('i', 'b', 'v') AS input,
            COALESCE(p.proargnames[a.position], '') AS name,
            count(*) FILTER (WHERE m.mode IN ('i', 'b', 'v')) OVER (ORDER BY a.position) AS inputs
        FROM unnest(COALESCE(p.proallargtypes, p.proargtypes::oid[])) WITH ORDINALITY AS a (type, position)
        CROSS JOIN LATERAL (SELECT COALESCE(p.proargmodes[a.position], 'i') AS mode) m
    ) x
    JOIN pg_type t ON t.oid = x.type
    JOIN pg_namespace tn ON tn.oid = t.typnamespace
) arguments
WHERE n.nspname = ANY ($1)
    AND p.prokind = 'f'
    AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype)
    -- Without names a call can only give one whole body.
    AND (arguments.unnamed = 0 OR (arguments.unnamed = 1 AND arguments.takes_body AND p.pronargs = 1))
