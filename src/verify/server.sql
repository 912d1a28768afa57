-- Over all databases and roles of a server, from its catalogs alone.
-- $1, $2: roles and what they are: login, migrator, router, owner, api, adopted
-- $3, $4: databases and what they are: tenant, template, catalog, adopted
-- $5, $6: which role may connect to which database
-- $7, $8: which role may be a member of which
-- $9: the roles that may make schemas in our databases
-- $10, $11: which role may make temporary tables in which database
WITH kind_of (role, kind) AS MATERIALIZED (SELECT * FROM unnest($1::text[], $2::text[])),
databases AS MATERIALIZED (
    SELECT d.oid, d.datname, d.datdba, d.datallowconn, d.datacl, k.kind,
           has_database_privilege('public', d.oid, 'CONNECT') AS open
    FROM pg_database d LEFT JOIN unnest($3::text[], $4::text[]) k (name, kind) ON k.name = d.datname
),
may_connect (role, database) AS MATERIALIZED (SELECT * FROM unnest($5::text[], $6::text[])),
may_become (member, role) AS MATERIALIZED (SELECT * FROM unnest($7::text[], $8::text[])),
roles AS MATERIALIZED (
    SELECT r.*, k.kind FROM pg_roles r LEFT JOIN kind_of k ON k.role = r.rolname
    WHERE r.rolname <> session_user
)
SELECT CASE WHEN r.kind IN ('owner', 'api') THEN 'V14' ELSE 'V01' END AS code, d.datname::text AS database,
       format('%s %I may connect to database %I', CASE WHEN r.rolcanlogin THEN 'login' ELSE 'role' END, r.rolname, d.datname) AS seen,
       format('REVOKE ALL ON DATABASE %I FROM %I; -- and from roles that it is a member of', d.datname, r.rolname) AS remedy
FROM roles r CROSS JOIN databases d
WHERE NOT r.rolsuper AND NOT d.open AND (r.rolcanlogin OR r.kind IS NOT NULL)
  AND (r.kind <> 'adopted' OR d.kind = 'adopted' OR d.kind IN ('tenant', 'template', 'catalog'))
  AND (r.kind IS NOT NULL OR d.kind IN ('tenant', 'template', 'catalog'))
  AND has_database_privilege(r.oid, d.oid, 'CONNECT')
  AND NOT EXISTS (SELECT FROM may_connect c WHERE c.role = r.rolname AND c.database = d.datname)
UNION ALL
SELECT 'V02', d.datname,
       format('every login may connect to database %I%s', d.datname, CASE WHEN d.kind IS NULL THEN ', which is not manybox''s' ELSE '' END),
       format('REVOKE CONNECT, TEMPORARY ON DATABASE %I FROM PUBLIC;', d.datname)
       || COALESCE((SELECT string_agg(format(' GRANT CONNECT ON DATABASE %I TO %I;', d.datname, c.role), '')
                    FROM may_connect c WHERE c.database = d.datname), '')
FROM databases d WHERE d.open AND (d.datallowconn OR d.kind IS NOT NULL)
UNION ALL
SELECT 'V03', d.datname, format('database %I belongs to %I', d.datname, pg_get_userbyid(d.datdba)),
       format('ALTER DATABASE %I OWNER TO %I;', d.datname, session_user)
FROM databases d WHERE d.kind IN ('tenant', 'template', 'catalog') AND pg_get_userbyid(d.datdba) <> session_user
UNION ALL
SELECT 'V03', d.datname,
       format('%s has %s on database %I%s', COALESCE(quote_ident(r.rolname), 'PUBLIC'), a.privilege_type, d.datname,
              CASE WHEN a.is_grantable THEN ' and may pass it on' ELSE '' END),
       format('REVOKE %s ON DATABASE %I FROM %s;', CASE WHEN a.is_grantable THEN 'ALL' ELSE a.privilege_type END, d.datname,
              COALESCE(quote_ident(r.rolname), 'PUBLIC'))
FROM databases d CROSS JOIN LATERAL aclexplode(COALESCE(d.datacl, acldefault('d', d.datdba))) a
LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE d.kind IN ('tenant', 'template', 'catalog') AND a.grantee <> d.datdba
  AND (a.is_grantable
       OR a.privilege_type = 'TEMPORARY' AND NOT EXISTS (
           SELECT FROM unnest($10::text[], $11::text[]) t (role, database)
           WHERE t.role = r.rolname AND t.database = d.datname)
       OR a.privilege_type = 'CREATE' AND NOT COALESCE(r.rolname = ANY ($9::text[]), false))
UNION ALL
SELECT 'V04', d.datname, format('template %I takes connections', d.datname),
       format('ALTER DATABASE %I ALLOW_CONNECTIONS false;', d.datname)
FROM databases d WHERE d.kind = 'template' AND d.datallowconn
UNION ALL
SELECT 'V10', NULL, format('role %I %s', r.rolname, w.wrong), format('ALTER ROLE %I %s;', r.rolname, w.remedy)
FROM roles r CROSS JOIN LATERAL (VALUES
    (r.rolsuper, 'is a superuser', 'NOSUPERUSER', true),
    (r.rolcreaterole, 'may create roles', 'NOCREATEROLE', true),
    (r.rolreplication, 'may replicate the server', 'NOREPLICATION', true),
    (r.rolcreatedb, 'may create databases', 'NOCREATEDB', r.kind <> 'adopted'),
    (r.rolbypassrls, 'reads past row-level security', 'NOBYPASSRLS', r.kind NOT IN ('adopted', 'backup')),
    (r.rolinherit, 'has the rights of the roles that it may become, without becoming them', 'NOINHERIT',
     r.kind IN ('login', 'migrator', 'router')),
    (r.rolcanlogin, 'may log in', 'NOLOGIN', r.kind IN ('owner', 'api', 'backup')),
    (r.rolconnlimit < 0, 'has no limit of connections', 'CONNECTION LIMIT 20', r.kind = 'login')
) w (holds, wrong, remedy, matters)
WHERE r.kind IS NOT NULL AND w.holds AND w.matters
UNION ALL
SELECT 'V11', NULL,
       format('role %I is a member of %I%s', m.rolname, g.rolname, CASE WHEN a.admin_option THEN ' and may make others members' ELSE '' END),
       format('REVOKE %I FROM %I;', g.rolname, m.rolname)
FROM pg_auth_members a JOIN roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
LEFT JOIN kind_of k ON k.role = g.rolname
WHERE (a.admin_option OR NOT EXISTS (SELECT FROM may_become b WHERE b.member = m.rolname AND b.role = g.rolname))
  AND (m.kind IN ('login', 'migrator', 'router', 'owner', 'api', 'backup')
       OR NOT m.rolsuper AND k.kind IN ('login', 'migrator', 'router', 'owner', 'backup')
       OR m.kind = 'adopted' AND (g.rolsuper OR g.rolcreaterole OR g.rolname ~ '^pg_'))
UNION ALL
SELECT 'V11', d.datname, format('the administrator %I is a member of %I, and may change the journal', session_user, g.rolname),
       format('REVOKE %I FROM %I;', g.rolname, session_user)
FROM databases d JOIN pg_roles g ON g.rolname = d.datname || '_journal'
WHERE d.kind = 'catalog' AND pg_has_role(session_user, g.oid, 'USAGE')
  AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = session_user AND rolsuper)
UNION ALL
SELECT 'V12', d.datname,
       format('role %I %s %s object(s) %s', r.rolname, CASE s.deptype WHEN 'o' THEN 'owns' ELSE 'has rights of its own on' END,
              count(*), COALESCE('in database ' || quote_ident(d.datname), 'that all databases share')),
       CASE s.deptype WHEN 'o' THEN format('REASSIGN OWNED BY %I TO %I;', r.rolname, ($9::text[])[1]) ELSE format('DROP OWNED BY %I; -- in that database', r.rolname) END
FROM pg_shdepend s JOIN roles r ON s.refclassid = 'pg_authid'::regclass AND r.oid = s.refobjid
LEFT JOIN pg_database d ON d.oid = s.dbid LEFT JOIN databases o ON o.oid = s.dbid
WHERE s.deptype IN ('o', 'a') AND s.classid <> 'pg_database'::regclass
  AND (s.deptype = 'o' AND r.kind IN ('login', 'migrator', 'router', 'api')
       OR s.deptype = 'a' AND r.kind IN ('login', 'migrator')
       OR o.kind = 'catalog' AND (r.kind IN ('login', 'api') OR r.rolname = ($9::text[])[1]))
GROUP BY r.rolname, s.deptype, d.datname
UNION ALL
SELECT 'V12', d.datname, format('role %I owns database %I', r.rolname, d.datname),
       format('ALTER DATABASE %I OWNER TO %I;', d.datname, session_user)
FROM databases d JOIN roles r ON r.oid = d.datdba WHERE r.kind IN ('login', 'migrator', 'router', 'owner', 'api')
UNION ALL
SELECT 'V13', d.datname,
       format('role %I has settings of its own%s: %s', r.rolname, COALESCE(' in database ' || quote_ident(d.datname), ''),
              left(array_to_string(s.setconfig, ', '), 1000)),
       format('ALTER ROLE %I%s RESET ALL;', r.rolname, COALESCE(' IN DATABASE ' || quote_ident(d.datname), ''))
FROM pg_db_role_setting s JOIN roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
WHERE r.kind IN ('login', 'migrator', 'router', 'owner', 'api')
UNION ALL
SELECT 'V13', d.datname, format('%s begins its sessions with %s', COALESCE('database ' || quote_ident(d.datname), 'every database'), left(c.setting, 1000)),
       format('ALTER %s RESET %I;', COALESCE('DATABASE ' || quote_ident(d.datname), 'ROLE ALL'), split_part(c.setting, '=', 1))
FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS c (setting) LEFT JOIN databases d ON d.oid = s.setdatabase
WHERE s.setrole = 0 AND (s.setdatabase = 0 OR d.kind IN ('tenant', 'template', 'catalog'))
  AND split_part(c.setting, '=', 1) IN ('role', 'session_authorization', 'search_path', 'row_security', 'session_replication_role',
      'session_preload_libraries', 'local_preload_libraries', 'dynamic_library_path', 'check_function_bodies', 'allow_system_table_mods')
UNION ALL
SELECT 'V15', NULL, format('migrator %I may log in, and nobody is at work with it', r.rolname), format('ALTER ROLE %I NOLOGIN PASSWORD NULL;', r.rolname)
FROM roles r WHERE r.kind = 'migrator' AND r.rolcanlogin AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.usesysid = r.oid)
UNION ALL
SELECT 'V16', NULL, format('%s may %s parameter %s', COALESCE(quote_ident(r.rolname), 'PUBLIC'), a.privilege_type, p.parname),
       format('REVOKE ALL ON PARAMETER %s FROM %s;', p.parname, COALESCE(quote_ident(r.rolname), 'PUBLIC'))
FROM pg_parameter_acl p CROSS JOIN LATERAL aclexplode(p.paracl) a LEFT JOIN roles r ON r.oid = a.grantee
WHERE a.grantee = 0 OR r.kind IS NOT NULL
UNION ALL
SELECT 'V16', NULL, format('%s may make objects in tablespace %I', COALESCE(quote_ident(r.rolname), 'PUBLIC'), t.spcname),
       format('REVOKE ALL ON TABLESPACE %I FROM %s;', t.spcname, COALESCE(quote_ident(r.rolname), 'PUBLIC'))
FROM pg_tablespace t CROSS JOIN LATERAL aclexplode(t.spcacl) a LEFT JOIN roles r ON r.oid = a.grantee
WHERE a.grantee = 0 OR r.kind IS NOT NULL
UNION ALL
SELECT 'V17', NULL, format('the administrator %I is a superuser', rolname),
       format('ALTER ROLE %I NOSUPERUSER CREATEDB CREATEROLE;', rolname)
FROM pg_roles WHERE rolname = session_user AND rolsuper
LIMIT 20000
