-- What of this database belongs to somebody else than `$1`, with its owner and the statement that changes it, but for the new
-- owner's name. Schemas come first: the new owner of what is in them must be allowed to make things there. What is a part of
-- something else (arrays, row types, the sequences of columns) follows it, and what an extension brought stays with it.
WITH owned (rank, class, oid, owner) AS (
    SELECT 1, 'pg_namespace'::regclass, oid, nspowner FROM pg_namespace
    UNION ALL SELECT 2, 'pg_class'::regclass, c.oid, relowner FROM pg_class c
        WHERE relkind IN ('r', 'p', 'v', 'm', 'f') OR relkind = 'S' AND NOT EXISTS (
            SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))
    UNION ALL SELECT 3, 'pg_type'::regclass, t.oid, typowner FROM pg_type t
        WHERE typtype IN ('b', 'd', 'e', 'r', 'p', 'c')
          AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
          AND (typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = typrelid AND c.relkind = 'c'))
    UNION ALL SELECT 4, 'pg_proc'::regclass, oid, proowner FROM pg_proc
    UNION ALL SELECT 5, 'pg_operator'::regclass, oid, oprowner FROM pg_operator
    UNION ALL SELECT 5, 'pg_opfamily'::regclass, oid, opfowner FROM pg_opfamily
    UNION ALL SELECT 5, 'pg_opclass'::regclass, oid, opcowner FROM pg_opclass
    UNION ALL SELECT 5, 'pg_collation'::regclass, oid, collowner FROM pg_collation
    UNION ALL SELECT 5, 'pg_conversion'::regclass, oid, conowner FROM pg_conversion
    UNION ALL SELECT 5, 'pg_ts_dict'::regclass, oid, dictowner FROM pg_ts_dict
    UNION ALL SELECT 5, 'pg_ts_config'::regclass, oid, cfgowner FROM pg_ts_config
    UNION ALL SELECT 5, 'pg_statistic_ext'::regclass, oid, stxowner FROM pg_statistic_ext
    UNION ALL SELECT 5, 'pg_foreign_server'::regclass, oid, srvowner FROM pg_foreign_server
    UNION ALL SELECT 5, 'pg_publication'::regclass, oid, pubowner FROM pg_publication
    UNION ALL SELECT 5, 'pg_largeobject'::regclass, oid, lomowner FROM pg_largeobject_metadata
)
SELECT concat(o.type, ' ', o.identity), pg_get_userbyid(w.owner)::text,
       format('ALTER %s %s OWNER TO ', CASE o.type WHEN 'statistics object' THEN 'STATISTICS' ELSE upper(o.type) END, o.identity)
FROM owned w CROSS JOIN LATERAL pg_identify_object(w.class, w.oid, 0) o
WHERE (w.oid >= 16384 OR w.rank = 1 AND o.identity = 'public')
  AND w.owner <> $1::text::regrole
  AND COALESCE(o.schema, o.identity) !~ '^pg_' AND COALESCE(o.schema, o.identity) NOT IN ('manybox', 'information_schema')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = w.class AND d.objid = w.oid AND d.deptype IN ('e', 'i'))
ORDER BY w.rank, 1
