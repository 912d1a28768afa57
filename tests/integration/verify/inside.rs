//! What is done inside a tenant's database.

use super::As::{AdminInside, Owner, SuperuserInside};
use super::{Own, Tampering};

const WAYS: &[Tampering] = &[
    Tampering(
        "a function with a superuser's rights among PostgreSQL's own",
        "V24",
        SuperuserInside,
        "CREATE FUNCTION pg_catalog.peek() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS 'SELECT 1'",
        "DROP FUNCTION pg_catalog.peek",
    ),
    Tampering(
        "a function that takes a caller's temporary tables for its own",
        "V24",
        AdminInside,
        "GRANT TEMPORARY ON DATABASE {acme} TO anon; SET ROLE mb_owner;
         CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = public AS 'SELECT 1'",
        "REVOKE TEMPORARY ON DATABASE {acme} FROM anon; SET ROLE mb_owner; DROP FUNCTION public.f",
    ),
    Tampering(
        "a function that sees rows before their policies",
        "V37",
        SuperuserInside,
        "CREATE FUNCTION public.f(text) RETURNS boolean LANGUAGE sql IMMUTABLE LEAKPROOF AS 'SELECT true';
         REVOKE ALL ON FUNCTION public.f FROM PUBLIC; ALTER FUNCTION public.f OWNER TO mb_owner",
        "DROP FUNCTION public.f",
    ),
    Tampering(
        "all passwords' verifiers",
        "V38",
        SuperuserInside,
        "GRANT SELECT ON pg_catalog.pg_authid TO anon",
        "REVOKE SELECT ON pg_catalog.pg_authid FROM anon",
    ),
    Tampering(
        "one column of them",
        "V38",
        SuperuserInside,
        "GRANT SELECT (rolpassword) ON pg_catalog.pg_authid TO authenticated",
        "REVOKE SELECT (rolpassword) ON pg_catalog.pg_authid FROM authenticated",
    ),
    Tampering(
        "a catalog that the owner writes to",
        "V38",
        SuperuserInside,
        "GRANT UPDATE ON pg_catalog.pg_class TO mb_owner",
        "REVOKE UPDATE ON pg_catalog.pg_class FROM mb_owner",
    ),
    Tampering(
        "a function that PostgreSQL keeps to superusers",
        "V38",
        SuperuserInside,
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_reset() TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_stat_reset() FROM PUBLIC",
    ),
    Tampering(
        "PUBLIC uses a schema",
        "V20",
        Owner,
        "GRANT USAGE ON SCHEMA public TO PUBLIC",
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC",
    ),
    Tampering(
        "PUBLIC calls a function",
        "V21",
        Owner,
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; GRANT EXECUTE ON FUNCTION public.f TO PUBLIC",
        "DROP FUNCTION public.f",
    ),
    Tampering(
        "PUBLIC reads a table",
        "V22",
        Owner,
        "GRANT SELECT ON public.items TO PUBLIC",
        "REVOKE ALL ON public.items FROM PUBLIC",
    ),
    Tampering(
        "PUBLIC reads a column",
        "V22",
        Owner,
        "GRANT SELECT (word) ON public.secrets TO PUBLIC",
        "REVOKE ALL (word) ON public.secrets FROM PUBLIC",
    ),
    Tampering(
        "an API role makes objects",
        "V23",
        Owner,
        "GRANT CREATE ON SCHEMA public TO authenticated",
        "REVOKE CREATE ON SCHEMA public FROM authenticated",
    ),
    Tampering(
        "a function with its owner's rights and any search path",
        "V24",
        Owner,
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "DROP FUNCTION public.f",
    ),
    Tampering(
        "a function with a superuser's rights",
        "V24",
        SuperuserInside,
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS 'SELECT 1';
         REVOKE ALL ON FUNCTION public.f FROM PUBLIC; GRANT EXECUTE ON FUNCTION public.f TO anon",
        "DROP FUNCTION public.f",
    ),
    Tampering(
        "a function with the admin's rights",
        "V24",
        SuperuserInside,
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS 'SELECT 1';
         REVOKE ALL ON FUNCTION public.f FROM PUBLIC; ALTER FUNCTION public.f OWNER TO mb_admin",
        "DROP FUNCTION public.f",
    ),
    Tampering(
        "a trigger on the history",
        "V25",
        SuperuserInside,
        "CREATE FUNCTION public.grab() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         REVOKE ALL ON FUNCTION public.grab FROM PUBLIC; ALTER FUNCTION public.grab OWNER TO mb_owner;
         CREATE TRIGGER grab AFTER INSERT ON manybox.schema_history FOR EACH ROW EXECUTE FUNCTION public.grab()",
        "DROP FUNCTION public.grab CASCADE",
    ),
    Tampering(
        "a rule on the history",
        "V25",
        SuperuserInside,
        "CREATE RULE r AS ON INSERT TO manybox.schema_history DO ALSO NOTHING",
        "DROP RULE r ON manybox.schema_history",
    ),
    Tampering(
        "a policy on the history",
        "V25",
        SuperuserInside,
        "CREATE POLICY p ON manybox.schema_history USING (true)",
        "DROP POLICY p ON manybox.schema_history",
    ),
    Tampering(
        "a table beside the history",
        "V25",
        SuperuserInside,
        "CREATE TABLE manybox.more (a int); ALTER TABLE manybox.more OWNER TO mb_history",
        "DROP TABLE manybox.more",
    ),
    Tampering(
        "the history is a tenant's",
        "V25",
        SuperuserInside,
        "ALTER TABLE manybox.schema_history OWNER TO mb_owner",
        "ALTER TABLE manybox.schema_history OWNER TO mb_history;
         GRANT SELECT, INSERT, DELETE ON manybox.schema_history TO mb_migrator",
    ),
    Tampering(
        "an API role reads the history",
        "V25",
        AdminInside,
        "GRANT SELECT ON manybox.schema_history TO anon",
        "REVOKE ALL ON manybox.schema_history FROM anon",
    ),
    Tampering(
        "a foreign server",
        "V26",
        SuperuserInside,
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE USER MAPPING FOR PUBLIC SERVER s",
        "DROP FOREIGN DATA WRAPPER w CASCADE",
    ),
    Tampering(
        "a function in C",
        "V27",
        SuperuserInside,
        "CREATE FUNCTION public.f(text) RETURNS text LANGUAGE internal STRICT IMMUTABLE AS 'upper';
         REVOKE ALL ON FUNCTION public.f FROM PUBLIC; ALTER FUNCTION public.f OWNER TO mb_owner",
        "DROP FUNCTION public.f",
    ),
    Tampering(
        "an untrusted language",
        "V27",
        SuperuserInside,
        "CREATE LANGUAGE wild HANDLER plpgsql_call_handler",
        "DROP LANGUAGE wild",
    ),
    Tampering(
        "later tables for all",
        "V28",
        AdminInside,
        "ALTER DEFAULT PRIVILEGES FOR ROLE mb_owner GRANT SELECT ON TABLES TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE mb_owner REVOKE SELECT ON TABLES FROM PUBLIC",
    ),
    Tampering(
        "later tables for anonymous callers",
        "V28",
        Owner,
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO anon",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT ON TABLES FROM anon",
    ),
    Tampering(
        "later functions for all",
        "V28",
        Owner,
        "ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    ),
    Tampering("a large object", "V29", Owner, "SELECT lo_create(4711)", "SELECT lo_unlink(4711)"),
    Tampering(
        "an IMMUTABLE function that reads a setting",
        "V33",
        Owner,
        "CREATE FUNCTION public.f() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT current_setting('request.jwt.claims', true) $$",
        "DROP FUNCTION public.f",
    ),
    Tampering(
        "an IMMUTABLE function that reaches a setting by another",
        "V33",
        Owner,
        "CREATE FUNCTION public.inner_one() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN current_setting('a.b', true); END $$;
         CREATE FUNCTION public.f() RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT public.inner_one()'",
        "DROP FUNCTION public.f; DROP FUNCTION public.inner_one",
    ),
    Tampering(
        "an IMMUTABLE function with a parsed body",
        "V33",
        Owner,
        "CREATE FUNCTION public.f() RETURNS text LANGUAGE sql IMMUTABLE RETURN pg_catalog.current_setting('a.b', true)",
        "DROP FUNCTION public.f",
    ),
    Tampering(
        "a table of the admin's",
        "V34",
        SuperuserInside,
        "CREATE TABLE public.theirs (a int); ALTER TABLE public.theirs OWNER TO mb_admin",
        "DROP TABLE public.theirs",
    ),
    Tampering(
        "an event trigger",
        "V35",
        SuperuserInside,
        "CREATE FUNCTION public.e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         REVOKE ALL ON FUNCTION public.e FROM PUBLIC; ALTER FUNCTION public.e OWNER TO mb_owner;
         CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION public.e()",
        "DROP EVENT TRIGGER e; DROP FUNCTION public.e",
    ),
    Tampering(
        "the server's files",
        "V36",
        SuperuserInside,
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO service",
        "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) FROM service",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_inside_a_tenants_database_is_found() {
    Own::make().await.tamper(WAYS).await;
}
