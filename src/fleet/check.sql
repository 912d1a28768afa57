-- What a server must have and must not, from its catalogs alone: what was looked at, whether it is wrong, what was seen, and
-- what a superuser runs to mend it.
-- $1: the roles that manybox makes or may find; $2: those of them that the admin must have the rights of; $3: the catalog
WITH admin AS (SELECT r.* FROM pg_catalog.pg_roles r WHERE r.rolname = current_user),
ours AS (
    SELECT r.*, r.rolname = ANY ($2::text[]) AS becomes
    FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ($1::text[])
),
-- Databases that are manybox's: tenants', templates, catalogs, routers'.
databases AS (
    SELECT d.*, d.datname ~ '^mb_' OR d.datname IN ($3::text, $3::text || '_router') AS is_ours,
           pg_catalog.has_database_privilege('public', d.oid, 'CONNECT') AS is_open
    FROM pg_catalog.pg_database d
)
SELECT 'the admin is no superuser', rolsuper, 'nothing on this server would be kept from it',
       pg_catalog.format('ALTER ROLE %I NOSUPERUSER CREATEDB CREATEROLE;', rolname)
FROM admin
UNION ALL
SELECT 'the admin may create databases', NOT rolcreatedb, 'it may not', pg_catalog.format('ALTER ROLE %I CREATEDB;', rolname)
FROM admin
UNION ALL
SELECT 'the admin may create roles', NOT rolcreaterole, 'it may not',
       pg_catalog.format('ALTER ROLE %I CREATEROLE;', rolname)
FROM admin
UNION ALL
SELECT 'the admin may end tenants'' sessions', NOT pg_catalog.pg_has_role(rolname, 'pg_signal_backend', 'USAGE'), 'it may not',
       pg_catalog.format('GRANT pg_signal_backend TO %I;', rolname)
FROM admin
UNION ALL
SELECT pg_catalog.format('the admin has the rights of %I', o.rolname), NOT pg_catalog.pg_has_role(a.rolname, o.oid, 'USAGE'),
       'it has not', pg_catalog.format('GRANT %I TO %I;', o.rolname, a.rolname)
FROM ours o, admin a WHERE o.becomes
UNION ALL
-- Before 16 whoever may create roles may grant all of them.
SELECT pg_catalog.format('the admin may grant %I', o.rolname),
       pg_catalog.current_setting('server_version_num')::int >= 160000
       AND NOT pg_catalog.pg_has_role(a.rolname, o.oid, 'MEMBER WITH ADMIN OPTION'),
       'it may not', pg_catalog.format('GRANT %I TO %I WITH ADMIN OPTION;', o.rolname, a.rolname)
FROM ours o, admin a
UNION ALL
SELECT pg_catalog.format('role %I is no more than it must be', o.rolname), w.wrong IS NOT NULL, COALESCE(w.wrong, ''),
       COALESCE(w.remedy, '')
FROM ours o LEFT JOIN LATERAL (
    SELECT pg_catalog.string_agg(x.wrong, ', ') AS wrong, pg_catalog.string_agg(x.remedy, ' ') AS remedy
    FROM (
        SELECT a.wrong, pg_catalog.format('ALTER ROLE %I %s;', o.rolname, a.remedy) AS remedy
        FROM (VALUES
            (o.rolsuper, 'it is a superuser', 'NOSUPERUSER'),
            (o.rolcreaterole, 'it may create roles', 'NOCREATEROLE'),
            (o.rolcreatedb, 'it may create databases', 'NOCREATEDB'),
            (o.rolreplication, 'it may replicate the server', 'NOREPLICATION'),
            (o.rolbypassrls, 'it reads past row-level security', 'NOBYPASSRLS'),
            (o.rolcanlogin, 'it may log in', 'NOLOGIN')
        ) a (holds, wrong, remedy) WHERE a.holds
        UNION ALL
        SELECT pg_catalog.format('it is a member of %I', g.rolname), pg_catalog.format('REVOKE %I FROM %I;', g.rolname, o.rolname)
        FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
        WHERE m.member = o.oid AND NOT (o.rolname = 'mb_migrator' AND g.rolname = 'mb_owner')
        UNION ALL
        SELECT pg_catalog.format('it may connect to database %I', d.datname),
               pg_catalog.format('REVOKE CONNECT ON DATABASE %I FROM %I;', d.datname, o.rolname)
        FROM databases d, pg_catalog.aclexplode(d.datacl) c WHERE c.grantee = o.oid AND c.privilege_type = 'CONNECT'
        UNION ALL
        -- An adopted database may have roles of these names for its own.
        SELECT pg_catalog.format('it owns or was given %s object(s) in database %I', pg_catalog.count(*), d.datname),
               pg_catalog.format('-- in %I: REASSIGN OWNED BY or REVOKE, or rename the role and set defaults.api.roles', d.datname)
        FROM pg_catalog.pg_shdepend s JOIN databases d ON d.oid = s.dbid
        WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND s.refobjid = o.oid
          AND NOT d.is_ours AND d.datname !~ '_router$'
          -- The catalog of another fleet, which is told of by itself.
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = d.datname || '_router')
        GROUP BY d.datname
    ) x
) w ON true
UNION ALL
SELECT pg_catalog.format('database %I is closed to PUBLIC', d.datname), d.is_open, 'every tenant''s login can connect to it',
       pg_catalog.format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC;', d.datname)
       || CASE WHEN d.datname = 'postgres' THEN pg_catalog.format(' GRANT CONNECT ON DATABASE postgres TO %I;', a.rolname) ELSE '' END
FROM databases d, admin a
WHERE d.datallowconn AND (d.is_open OR d.datname IN ('postgres', 'template1'))
