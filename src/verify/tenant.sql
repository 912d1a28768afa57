-- Within one tenant's database, from its catalogs alone: nothing of the tenant's is run, and no table of its is opened.
-- $1: the owner of its objects, $2: of its history, $3: the API roles, $4: those of them that row-level security is not for
-- $5: tables under row-level security ('*' for all), $6: schemas of the API, $7: extensions of the edition
WITH RECURSIVE schemas AS MATERIALIZED (
    SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
),
brought AS MATERIALIZED (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
api AS MATERIALIZED (SELECT oid, rolname, rolname <> ALL ($4::text[]) AS bound FROM pg_roles WHERE rolname = ANY ($3::text[])),
functions AS MATERIALIZED (
    SELECT p.*, s.nspname, l.lanname, l.lanpltrusted, p.oid::regprocedure::text AS signature,
           CASE p.prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END AS word
    FROM pg_proc p JOIN pg_namespace s ON s.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    -- In PostgreSQL's own schemas, what did not come with it.
    WHERE (s.oid IN (SELECT oid FROM schemas) OR p.oid >= 16384 AND s.nspname IN ('pg_catalog', 'information_schema')) AND (p.oid, 'pg_proc'::regclass) NOT IN (SELECT objid, classid FROM brought)
),
relations AS MATERIALIZED (
    SELECT c.*, s.nspname, format('%I.%I', s.nspname, c.relname) AS name
    FROM pg_class c JOIN schemas s ON s.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND (c.oid, 'pg_class'::regclass) NOT IN (SELECT objid, classid FROM brought)
),
wanted AS MATERIALIZED (SELECT unnest($5::text[]) AS name),
guarded AS MATERIALIZED (
    SELECT r.* FROM relations r WHERE r.relkind IN ('r', 'p') AND r.nspname <> 'manybox' AND EXISTS (
        SELECT FROM wanted w WHERE w.name = '*' OR w.name = r.nspname || '.' || r.relname
            OR w.name = r.relname AND r.nspname = ANY ($6::text[]))
),
-- What is below them, where row-level security is not on.
parts (oid, whole) AS (
    SELECT i.inhrelid, g.name FROM guarded g JOIN pg_inherits i ON i.inhparent = g.oid
    UNION
    SELECT i.inhrelid, p.whole FROM parts p JOIN pg_inherits i ON i.inhparent = p.oid
),
views AS MATERIALIZED (
    SELECT r.oid, r.name, r.relkind, r.relowner, o.rolsuper OR o.rolbypassrls AS mighty, EXISTS (
        SELECT FROM unnest(r.reloptions) x WHERE starts_with(x, 'security_invoker=') AND split_part(x, '=', 2)::boolean) AS asks_caller
    FROM relations r JOIN pg_roles o ON o.oid = r.relowner WHERE r.relkind IN ('v', 'm')
),
over AS MATERIALIZED (
    SELECT DISTINCT w.ev_class AS view, d.refobjid AS relation FROM pg_rewrite w JOIN pg_depend d
    ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> w.ev_class
),
-- Views that show a guarded table, themselves or by others; and whether its policies are passed by on the way.
shows (view, guarded, passes) AS (
    SELECT v.oid, g.oid, v.relkind = 'm' OR NOT v.asks_caller AND (v.mighty OR v.relowner = g.relowner AND NOT g.relforcerowsecurity)
    FROM over o JOIN views v ON v.oid = o.view JOIN guarded g ON g.oid = o.relation
    UNION
    SELECT v.oid, g.oid, s.passes OR v.relkind = 'm' OR NOT v.asks_caller AND (v.mighty OR v.relowner = g.relowner AND NOT g.relforcerowsecurity)
    FROM shows s JOIN over o ON o.relation = s.view JOIN views v ON v.oid = o.view JOIN guarded g ON g.oid = s.guarded
),
-- Functions that read a setting or the role: by name where the body is text, by number where it is parsed.
reaching (oid, proname) AS (
    SELECT f.oid, f.proname FROM functions f
    WHERE f.prosrc ~* '\m(current_setting|current_user|current_role|session_user|auth\.uid|auth\.jwt)\M'
       OR f.prosqlbody::text ~ ':funcid (2077|3294) |SQLVALUEFUNCTION'
    UNION
    SELECT f.oid, f.proname FROM functions f JOIN reaching r ON r.oid <> f.oid
    WHERE strpos(f.prosrc, r.proname) > 0 OR strpos(f.prosqlbody::text, ':funcid ' || r.oid || ' ') > 0
),
answers (code, seen, remedy) AS (
SELECT 'table', name, '' FROM guarded
UNION ALL
SELECT 'V20', format('PUBLIC has %s on schema %I', a.privilege_type, s.nspname), format('REVOKE ALL ON SCHEMA %I FROM PUBLIC;', s.nspname)
FROM schemas s CROSS JOIN LATERAL aclexplode(COALESCE(s.nspacl, acldefault('n', s.nspowner))) a WHERE a.grantee = 0
UNION ALL
SELECT 'V21', format('PUBLIC may call %s', f.signature), format('REVOKE EXECUTE ON %s %s FROM PUBLIC;', CASE f.word WHEN 'PROCEDURE' THEN f.word ELSE 'FUNCTION' END, f.signature)
FROM functions f CROSS JOIN LATERAL aclexplode(COALESCE(f.proacl, acldefault('f', f.proowner))) a WHERE a.grantee = 0
UNION ALL
SELECT 'V22', format('PUBLIC has %s on %s', a.privilege_type, r.name), format('REVOKE ALL ON %s FROM PUBLIC;', r.name)
FROM relations r CROSS JOIN LATERAL aclexplode(r.relacl) a WHERE a.grantee = 0
UNION ALL
SELECT 'V22', format('PUBLIC has %s on column %I of %s', a.privilege_type, t.attname, r.name), format('REVOKE ALL (%I) ON %s FROM PUBLIC;', t.attname, r.name)
FROM relations r JOIN pg_attribute t ON t.attrelid = r.oid CROSS JOIN LATERAL aclexplode(t.attacl) a WHERE a.grantee = 0
UNION ALL
SELECT 'V23', format('API role %I may %s schema %I', r.rolname, CASE a.privilege_type WHEN 'CREATE' THEN 'make objects in' ELSE 'use' END, s.nspname),
       format('REVOKE %s ON SCHEMA %I FROM %I;', a.privilege_type, s.nspname, r.rolname)
FROM schemas s CROSS JOIN LATERAL aclexplode(s.nspacl) a JOIN api r ON r.oid = a.grantee
WHERE a.privilege_type = 'CREATE' OR s.nspname = 'manybox'
UNION ALL
SELECT 'V24', format('%s runs with the rights of %I%s', f.signature, pg_get_userbyid(f.proowner), CASE WHEN o.rolsuper THEN ', a superuser' ELSE '' END),
       format('ALTER %s %s OWNER TO %I;', f.word, f.signature, $1::text)
FROM functions f JOIN pg_roles o ON o.oid = f.proowner WHERE f.prosecdef AND o.rolname <> $1::text
UNION ALL
SELECT 'V24', format('%s runs with its owner''s rights, and has no fixed search path', f.signature),
       format('ALTER %s %s SET search_path = %I, pg_temp;', f.word, f.signature, f.nspname)
FROM functions f WHERE f.prosecdef AND NOT EXISTS (
    SELECT FROM unnest(f.proconfig) c WHERE starts_with(c, 'search_path=') AND strpos(c, '$user') = 0)
UNION ALL
SELECT 'V24', format('%s runs with its owner''s rights, and %I may put temporary tables before the tables that it means', f.signature, r.rolname),
       format('ALTER %s %s SET search_path = %I, pg_temp;', f.word, f.signature, f.nspname)
FROM functions f CROSS JOIN LATERAL (SELECT rolname FROM api WHERE has_database_privilege(oid, current_database(), 'TEMPORARY') LIMIT 1) r
WHERE f.prosecdef AND EXISTS (
    SELECT FROM unnest(f.proconfig) c WHERE starts_with(c, 'search_path=') AND c <> 'search_path=""' AND strpos(c, 'pg_temp') = 0)
UNION ALL
SELECT 'V25', format('%s is in schema manybox', r.name), format('DROP TABLE %s; -- or as what it is', r.name)
FROM relations r WHERE r.nspname = 'manybox' AND r.relname NOT IN ('schema_history', 'schema_unfinished', 'schema_repeatable', 'mark')
UNION ALL
SELECT 'V25', format('%s is in schema manybox', f.signature), format('DROP %s %s;', f.word, f.signature)
FROM functions f WHERE f.nspname = 'manybox'
UNION ALL
SELECT 'V25', format('%s has %s on %s', COALESCE(g.rolname, 'PUBLIC'), a.privilege_type, x.name),
       'run `manybox init`'
FROM (SELECT 'schema manybox' AS name, nspacl AS acl FROM schemas WHERE nspname = 'manybox'
      UNION ALL SELECT name, relacl FROM relations WHERE nspname = 'manybox') x
CROSS JOIN LATERAL aclexplode(x.acl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
WHERE COALESCE(g.rolname, '') NOT IN ($2::text, $8::text)
UNION ALL
SELECT 'V26', format('foreign-data wrapper %I', fdwname), format('DROP FOREIGN DATA WRAPPER %I CASCADE;', fdwname) FROM pg_foreign_data_wrapper
UNION ALL
SELECT 'V26', format('foreign server %I', srvname), format('DROP SERVER %I CASCADE;', srvname) FROM pg_foreign_server
UNION ALL
SELECT 'V26', format('a mapping of %s to foreign server %I', usename, srvname), format('DROP USER MAPPING FOR %s SERVER %I;', usename, srvname) FROM pg_user_mappings
UNION ALL
SELECT 'V26', format('extension %I', extname), format('DROP EXTENSION %I;', extname) FROM pg_extension WHERE extname IN ('dblink', 'postgres_fdw', 'file_fdw', 'http', 'pg_net', 'pg_cron', 'plproxy')
UNION ALL
SELECT 'V26', format('subscription %I', subname), format('DROP SUBSCRIPTION %I;', subname)
FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL
SELECT 'V27', format('untrusted language %I', lanname), format('DROP LANGUAGE %I;', lanname) FROM pg_language WHERE lanispl AND NOT lanpltrusted
UNION ALL
SELECT 'V27', format('%s is written in %s', f.signature, f.lanname), format('DROP %s %s;', f.word, f.signature)
FROM functions f WHERE NOT f.lanpltrusted AND f.lanname <> 'sql' AND f.prokind <> 'a'
UNION ALL
SELECT 'V27', format('extension %I is not trusted, and not one of the edition', e.extname), format('DROP EXTENSION %I; -- or add it to the edition''s extensions', e.extname)
FROM pg_extension e WHERE e.extname <> ALL ($7::text[]) AND e.extname <> 'plpgsql'
  AND NOT EXISTS (SELECT FROM pg_available_extension_versions v WHERE v.name = e.extname AND v.version = e.extversion AND v.trusted)
UNION ALL
SELECT 'V28', format('what %I makes%s is open to %s (%s) by itself', pg_get_userbyid(d.defaclrole), COALESCE(' in schema ' || quote_ident(s.nspname), ''),
              COALESCE(quote_ident(g.rolname), 'PUBLIC'), a.privilege_type),
       format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s REVOKE ALL ON %s FROM %s;', pg_get_userbyid(d.defaclrole), COALESCE(' IN SCHEMA ' || quote_ident(s.nspname), ''),
              CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' ELSE 'SCHEMAS' END,
              COALESCE(quote_ident(g.rolname), 'PUBLIC'))
FROM pg_default_acl d CROSS JOIN LATERAL aclexplode(d.defaclacl) a
LEFT JOIN pg_roles g ON g.oid = a.grantee LEFT JOIN schemas s ON s.oid = d.defaclnamespace
WHERE a.grantee <> d.defaclrole AND NOT (a.grantee = 0 AND d.defaclobjtype = 'T')
UNION ALL
SELECT 'V28', format('functions that %I makes are open to PUBLIC by themselves', $1::text),
       format('ALTER DEFAULT PRIVILEGES FOR ROLE %I REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;', $1::text)
WHERE NOT EXISTS (SELECT FROM pg_default_acl WHERE defaclrole = (SELECT oid FROM pg_roles WHERE rolname = $1::text) AND defaclnamespace = 0 AND defaclobjtype = 'f')
UNION ALL
SELECT 'V29', format('%s large object(s), the first is %s of %I', count(*), min(oid::bigint), min(pg_get_userbyid(lomowner)::text)),
       format('SELECT lo_unlink(%s); -- as its owner, when nobody needs it', min(oid::bigint))
FROM pg_largeobject_metadata HAVING count(*) > 0
UNION ALL
SELECT 'V29', 'large objects are open to every role (lo_compat_privileges)', format('ALTER DATABASE %I RESET lo_compat_privileges;', current_database())
WHERE current_setting('lo_compat_privileges')::boolean
UNION ALL
SELECT 'V30', format('row-level security of %s is %s', g.name, CASE WHEN g.relrowsecurity THEN 'not forced: its owner sees every row' ELSE 'off' END),
       format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;', g.name)
FROM guarded g WHERE NOT (g.relrowsecurity AND g.relforcerowsecurity)
UNION ALL
SELECT 'V30', format('%s is a part of %s, and open to %I without its policies', c.name, p.whole, r.rolname),
       format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; -- or REVOKE ALL ON %s FROM %I;', c.name, c.name, r.rolname)
FROM parts p JOIN relations c ON c.oid = p.oid CROSS JOIN api r
WHERE r.bound AND NOT c.relrowsecurity AND c.oid NOT IN (SELECT oid FROM guarded)
  AND has_any_column_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE')
UNION ALL
SELECT 'V30', format('there is no table %I, which the edition''s row_security names', w.name), 'correct row_security of the edition, or bring the tenant to the version that has it'
FROM wanted w WHERE w.name <> '*' AND NOT EXISTS (SELECT FROM guarded g WHERE w.name IN (g.relname, g.nspname || '.' || g.relname))
UNION ALL
SELECT 'V31', format('policy %I of %s is always true for %s', p.polname, g.name, COALESCE((SELECT string_agg(r.rolname, ', ') FROM api r WHERE r.oid = ANY (p.polroles)), 'PUBLIC')),
       format('DROP POLICY %I ON %s;', p.polname, g.name)
FROM pg_policy p JOIN guarded g ON g.oid = p.polrelid
WHERE p.polpermissive AND p.polcmd IN ('r', '*', 'w', 'd') AND pg_get_expr(p.polqual, p.polrelid) = 'true'
  AND (0 = ANY (p.polroles) OR EXISTS (SELECT FROM api r WHERE r.bound AND r.oid = ANY (p.polroles)))
UNION ALL
SELECT 'V32', format('%s %s shows rows of %s without its policies', CASE v.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END, v.name, min(g.name)),
       CASE WHEN v.relkind = 'v' AND NOT v.asks_caller THEN format('ALTER VIEW %s SET (security_invoker = true); -- and those below it', v.name)
            ELSE format('REVOKE ALL ON %s FROM %s;', v.name, (SELECT string_agg(quote_ident(rolname), ', ') FROM api WHERE bound)) END
FROM shows s JOIN views v ON v.oid = s.view JOIN guarded g ON g.oid = s.guarded
WHERE s.passes AND EXISTS (SELECT FROM api r WHERE r.bound AND has_any_column_privilege(r.oid, v.oid, 'SELECT'))
GROUP BY v.relkind, v.name, v.asks_caller
UNION ALL
SELECT 'V33', format('%s is IMMUTABLE, and depends on settings or on who calls it', f.signature), format('ALTER %s %s STABLE;', f.word, f.signature)
FROM functions f WHERE f.provolatile = 'i' AND f.oid IN (SELECT oid FROM reaching)
UNION ALL
SELECT 'V34', format('%s belongs to %I', pg_describe_object(s.classid, s.objid, s.objsubid), pg_get_userbyid(s.refobjid)),
       format('REASSIGN OWNED BY %I TO %I;', pg_get_userbyid(s.refobjid), $1::text)
FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid AND d.datname = current_database()
WHERE s.deptype = 'o' AND pg_get_userbyid(s.refobjid) NOT IN ($1::text, $2::text)
  AND NOT (s.refobjid = d.datdba AND (s.objid, s.classid) IN (SELECT objid, classid FROM brought))
  AND NOT (s.refobjid = d.datdba AND s.classid = 'pg_extension'::regclass)
UNION ALL
SELECT 'V35', format('event trigger %I', evtname), format('DROP EVENT TRIGGER %I;', evtname)
FROM pg_event_trigger WHERE (oid, 'pg_event_trigger'::regclass) NOT IN (SELECT objid, classid FROM brought)
UNION ALL
SELECT 'V36', format('%I may call %s', r.rolname, p.oid::regprocedure), format('REVOKE ALL ON FUNCTION pg_catalog.%s FROM %I, PUBLIC;', p.oid::regprocedure, r.rolname)
FROM pg_proc p CROSS JOIN (SELECT oid, rolname FROM api UNION ALL SELECT oid, rolname FROM pg_roles WHERE rolname = $1::text) r
WHERE p.pronamespace = 'pg_catalog'::regnamespace
  AND p.proname IN ('pg_read_file', 'pg_read_binary_file', 'pg_ls_dir', 'pg_stat_file', 'pg_ls_logdir', 'pg_ls_waldir', 'lo_import', 'lo_export', 'pg_reload_conf', 'pg_rotate_logfile', 'pg_switch_wal', 'pg_promote')
  AND has_function_privilege(r.oid, p.oid, 'EXECUTE')
UNION ALL
SELECT 'V37', format('%s is LEAKPROOF', f.signature), format('ALTER %s %s NOT LEAKPROOF;', f.word, f.signature)
FROM functions f WHERE f.proleakproof
UNION ALL
SELECT 'V38', format('%s may %s%s %s', COALESCE(quote_ident(g.rolname), 'PUBLIC'), a.privilege_type, x.part, n.name),
       format('REVOKE %s%s ON %s %s FROM %s;', a.privilege_type, x.part, x.word, n.name, COALESCE(quote_ident(g.rolname), 'PUBLIC'))
FROM (
    SELECT 'pg_class'::regclass AS classid, c.oid, 0 AS sub, c.relacl AS acl, acldefault('r', c.relowner) AS usual, 'TABLE' AS word, '' AS part
    FROM pg_class c WHERE c.relacl IS NOT NULL AND c.relnamespace = 'pg_catalog'::regnamespace
    UNION ALL
    SELECT 'pg_class'::regclass, t.attrelid, t.attnum, t.attacl, NULL, 'TABLE', format(' (%I)', t.attname)
    FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid
    WHERE t.attacl IS NOT NULL AND c.relnamespace = 'pg_catalog'::regnamespace
    UNION ALL
    SELECT 'pg_proc'::regclass, p.oid, 0, p.proacl, acldefault('f', p.proowner), 'FUNCTION', ''
    FROM pg_proc p WHERE p.proacl IS NOT NULL AND p.pronamespace = 'pg_catalog'::regnamespace
) x CROSS JOIN LATERAL aclexplode(x.acl) a
LEFT JOIN pg_init_privs i ON i.classoid = x.classid AND i.objoid = x.oid AND i.objsubid = x.sub
LEFT JOIN pg_roles g ON g.oid = a.grantee
CROSS JOIN LATERAL (SELECT CASE x.word WHEN 'TABLE' THEN x.oid::regclass::text ELSE x.oid::regprocedure::text END AS name) n
WHERE (a.grantee = 0 OR a.grantee IN (SELECT oid FROM api) OR g.rolname IN ($1::text, current_database()))
  AND NOT EXISTS (SELECT FROM aclexplode(COALESCE(i.initprivs, x.usual)) b WHERE b.grantee IN (0, a.grantee) AND b.privilege_type = a.privilege_type)
)
-- Its tenant may have made any number of them, of one code to hide another.
SELECT code, seen, remedy FROM (SELECT *, row_number() OVER (PARTITION BY code) AS place FROM answers) a
WHERE place <= CASE code WHEN 'table' THEN 2001 ELSE 500 END
ORDER BY code, place
