-- One text that changes whenever something that the other queries read has changed. Over the transactions that wrote the
-- rows, all of them: the newest alone would miss a transaction that began before it and was committed after it. What
-- temporary tables write is left out, as far as it can be told.
WITH shown AS (
    SELECT oid, xmin FROM pg_class
    WHERE oid >= 16384 AND relpersistence <> 't' AND relkind IN ('r', 'p', 'v', 'm', 'f')
),
written (place, key, xid) AS (
    SELECT 1, oid::int8, xmin FROM shown
    UNION ALL
    SELECT 2, (a.attrelid::int8 << 16) + a.attnum, a.xmin FROM pg_attribute a JOIN shown ON shown.oid = a.attrelid
    UNION ALL
    SELECT 3, d.oid::int8, d.xmin FROM pg_attrdef d JOIN shown ON shown.oid = d.adrelid
    UNION ALL
    SELECT 4, k.oid::int8, k.xmin FROM pg_constraint k JOIN shown ON shown.oid = k.conrelid
    UNION ALL
    SELECT 5, r.oid::int8, r.xmin FROM pg_rewrite r JOIN shown ON shown.oid = r.ev_class
    UNION ALL
    SELECT 6, t.oid::int8, t.xmin FROM pg_trigger t WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 7, oid::int8, xmin FROM pg_proc WHERE oid >= 16384
    UNION ALL
    SELECT 8, oid::int8, xmin FROM pg_type WHERE oid >= 16384 AND typtype IN ('d', 'e')
    UNION ALL
    SELECT 9, oid::int8, xmin FROM pg_enum
    UNION ALL
    SELECT 10, oid::int8, xmin FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
    UNION ALL
    SELECT 11, (objoid::int8 << 16) + objsubid, xmin FROM pg_description WHERE objoid >= 2200
    UNION ALL
    SELECT 12, oid::int8, xmin FROM pg_cast WHERE oid >= 16384
    UNION ALL
    SELECT 13, oid::int8, xmin FROM pg_extension
)
SELECT concat(count(*), ' ', sum(hashint8extended((place::int8 << 48) # key, xid::text::int8))) FROM written
