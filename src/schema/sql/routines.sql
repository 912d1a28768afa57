-- Functions of the exposed schemas that a request can call, one JSON text each. Reads pg_catalog only.
WITH types AS (
    SELECT t.oid,
        CASE
            WHEN tn.nspname OPERATOR(pg_catalog.=) 'pg_catalog'
                AND (en.nspname IS NULL OR en.nspname OPERATOR(pg_catalog.=) 'pg_catalog')
                THEN pg_catalog.format_type(t.oid, NULL)
            WHEN e.oid IS NOT NULL THEN pg_catalog.format('%I.%I[]', en.nspname, e.typname)
            ELSE pg_catalog.format('%I.%I', tn.nspname, t.typname)
        END AS name,
        t.typtype,
        t.typbasetype
    FROM pg_catalog.pg_type t
    JOIN pg_catalog.pg_namespace tn ON tn.oid OPERATOR(pg_catalog.=) t.typnamespace
    LEFT JOIN pg_catalog.pg_type e ON e.oid OPERATOR(pg_catalog.=) t.typelem AND t.typcategory OPERATOR(pg_catalog.=) 'A'
    LEFT JOIN pg_catalog.pg_namespace en ON en.oid OPERATOR(pg_catalog.=) e.typnamespace
)
SELECT pg_catalog.json_build_object(
    'schema', n.nspname,
    'name', p.proname,
    'comment', pg_catalog.obj_description(p.oid, 'pg_proc'),
    'arguments', COALESCE((
        SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
                'name', COALESCE(p.proargnames[a.position], ''),
                'type', types.name,
                'mode', CASE COALESCE(p.proargmodes[a.position], 'i')
                    WHEN 'i' THEN 'in' WHEN 'o' THEN 'out' WHEN 'b' THEN 'in_out' WHEN 'v' THEN 'variadic' ELSE 'table' END,
                -- Defaults belong to the last input arguments.
                'has_default', a.input
                    AND a.input_position OPERATOR(pg_catalog.>) (p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults)
            ) ORDER BY a.position)
        FROM (
            SELECT x.type, x.position, i.input,
                pg_catalog.count(*) FILTER (WHERE i.input) OVER (ORDER BY x.position) AS input_position
            FROM pg_catalog.unnest(COALESCE(p.proallargtypes, p.proargtypes::pg_catalog.oid[]))
                WITH ORDINALITY AS x (type, position)
            CROSS JOIN LATERAL (
                SELECT COALESCE(p.proargmodes[x.position], 'i') OPERATOR(pg_catalog.=) ANY ('{i,b,v}'::pg_catalog."char"[]) AS input
            ) i
        ) a
        JOIN types ON types.oid OPERATOR(pg_catalog.=) a.type
    ), '[]'),
    'returns', pg_catalog.json_build_object(
        'type', r.name,
        'set', p.proretset,
        'shape', CASE
            WHEN p.prorettype OPERATOR(pg_catalog.=) 'pg_catalog.void'::pg_catalog.regtype THEN 'void'
            WHEN r.typtype OPERATOR(pg_catalog.=) 'c' OR b.typtype OPERATOR(pg_catalog.=) 'c' THEN 'composite'
            -- A set of one column is named by TABLE(column type), so it is a table as the caller sees it.
            WHEN 't'::pg_catalog."char" OPERATOR(pg_catalog.=) ANY (p.proargmodes) THEN 'composite'
            WHEN p.prorettype OPERATOR(pg_catalog.=) 'pg_catalog.record'::pg_catalog.regtype AND p.proargmodes IS NOT NULL
                THEN 'composite'
            ELSE 'scalar' END
    ),
    'volatility', CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END
)::pg_catalog.text
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
JOIN types r ON r.oid OPERATOR(pg_catalog.=) p.prorettype
LEFT JOIN pg_catalog.pg_type b ON b.oid OPERATOR(pg_catalog.=) r.typbasetype
WHERE n.nspname OPERATOR(pg_catalog.=) ANY ($1)
    AND p.prokind OPERATOR(pg_catalog.=) 'f'
    AND p.prorettype OPERATOR(pg_catalog.<>) ALL (
        '{pg_catalog.trigger,pg_catalog.event_trigger,pg_catalog.internal}'::pg_catalog.regtype[])
ORDER BY n.nspname, p.proname, p.proargtypes::pg_catalog.text
