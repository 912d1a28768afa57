//! Fingerprints of schemas: equal for databases made by the same files, different after every kind of change, which the
//! difference names.

use std::process::Stdio;

use manybox::migrate::{Facts, facts, fingerprint};
use tokio::process::Command;

use crate::support::TestFleet;

#[tokio::test]
async fn copies_of_a_template_are_equal_and_the_facts_make_the_same_hash() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    let (a, b) = (fleet.admin("a").await, fleet.owner("b").await);
    let kept = facts(&a).await.unwrap();
    assert_eq!(fingerprint(&a).await.unwrap(), kept.fingerprint());
    assert_eq!(fingerprint(&b).await.unwrap(), kept.fingerprint(), "whoever asks");
    assert!(kept.iter().any(|fact| fact.name == "table public.items: column price"));
    assert!(!kept.iter().any(|fact| fact.name.contains("manybox")), "the history is no part of it");
    assert_eq!(Facts::from_json(&kept.to_json().unwrap()).unwrap(), kept);
}

/// A change by the owner, and a line of the difference that it makes.
const CHANGES: &[(&str, &str)] = &[
    ("CREATE TABLE t (a int, b text)", "table public.t not expected: owner mb_owner"),
    ("CREATE UNLOGGED TABLE u (a int)", "table public.u not expected: owner mb_owner, unlogged"),
    (
        "ALTER TABLE t ADD c int NOT NULL DEFAULT 1",
        "table public.t: column c not expected: integer NOT NULL DEFAULT 1",
    ),
    (
        "ALTER TABLE t ALTER b TYPE varchar(20)",
        "table public.t: column b: character varying(20) instead of text",
    ),
    ("ALTER TABLE t ALTER b SET NOT NULL", "(20) NOT NULL instead of character varying(20)"),
    ("ALTER TABLE t ALTER c DROP DEFAULT", "integer NOT NULL instead of integer NOT NULL DEFAULT 1"),
    (
        "ALTER TABLE t ALTER c ADD GENERATED ALWAYS AS IDENTITY",
        "NOT NULL GENERATED ALWAYS AS IDENTITY instead of",
    ),
    ("ALTER TABLE t ADD g int GENERATED ALWAYS AS (a * 2) STORED", "GENERATED ALWAYS AS (a * 2) STORED"),
    ("ALTER TABLE t ALTER b SET STORAGE EXTERNAL", "STORAGE EXTERNAL instead of"),
    ("ALTER TABLE t ALTER b SET STATISTICS 500", "STATISTICS 500 instead of"),
    ("ALTER TABLE t ALTER b SET (n_distinct = 5)", "OPTIONS (n_distinct=5)"),
    ("ALTER TABLE t ALTER b TYPE varchar(20) COLLATE \"C\"", "COLLATE \"C\""),
    ("CREATE INDEX t_a ON t (a)", "table public.t: index t_a not expected: CREATE INDEX t_a ON public.t"),
    ("DROP INDEX t_a; CREATE INDEX t_a ON t (a DESC)", "(a DESC) instead of CREATE INDEX"),
    (
        "ALTER TABLE t ADD CONSTRAINT pos CHECK (a > 0) NOT VALID",
        "constraint pos not expected: CHECK (a > 0) NOT VALID",
    ),
    ("ALTER TABLE t VALIDATE CONSTRAINT pos", "CHECK (a > 0) instead of CHECK (a > 0) NOT VALID"),
    ("ALTER TABLE t ADD PRIMARY KEY (a)", "table public.t: constraint t_pkey not expected: PRIMARY KEY (a)"),
    ("ALTER INDEX t_pkey SET (fillfactor = 60)", "index t_pkey: of the constraint, options fillfactor=60"),
    ("ALTER TABLE t ADD FOREIGN KEY (c) REFERENCES t", "FOREIGN KEY (c) REFERENCES public.t(a)"),
    ("ALTER TABLE t ALTER CONSTRAINT t_c_fkey DEFERRABLE", "DEFERRABLE instead of"),
    (
        "ALTER TABLE t SET (fillfactor = 50)",
        "table public.t: owner mb_owner, options fillfactor=50 instead of",
    ),
    ("ALTER TABLE t CLUSTER ON t_pkey", "clustered instead of"),
    ("ALTER TABLE t REPLICA IDENTITY FULL", "replica identity full instead of"),
    ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "row-level security, replica"),
    ("ALTER TABLE t FORCE ROW LEVEL SECURITY", "row-level security forced"),
    (
        "CREATE POLICY p ON t FOR SELECT TO anon USING (a = 1)",
        "policy p not expected: PERMISSIVE FOR SELECT TO anon USING (a = 1)",
    ),
    ("ALTER POLICY p ON t TO service, anon", "TO anon, service USING"),
    (
        "CREATE FUNCTION f(x int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "function public.f(integer) not expected: owner mb_owner CREATE OR REPLACE",
    ),
    (
        "CREATE OR REPLACE FUNCTION f(x int) RETURNS int LANGUAGE sql AS 'SELECT 2'",
        "$function$SELECT 2$function$ instead of",
    ),
    ("ALTER FUNCTION f(int) SECURITY DEFINER", "SECURITY DEFINER"),
    ("ALTER FUNCTION f(int) SET search_path = public", "SET search_path TO 'public'"),
    ("ALTER FUNCTION f(int) STABLE", "STABLE"),
    ("ALTER FUNCTION f(int) COST 7", "COST 7"),
    (
        "GRANT EXECUTE ON FUNCTION f(int) TO anon",
        "function public.f(integer): rights of anon: EXECUTE instead of none",
    ),
    ("CREATE PROCEDURE pr() LANGUAGE sql AS ''", "procedure public.pr() not expected"),
    (
        "CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION tf()",
        "table public.t: trigger tr not expected: CREATE TRIGGER tr",
    ),
    ("ALTER TABLE t DISABLE TRIGGER tr", "disabled instead of"),
    (
        "CREATE RULE r AS ON UPDATE TO u DO INSTEAD NOTHING",
        "table public.u: rule r not expected: CREATE RULE",
    ),
    ("CREATE VIEW v AS SELECT a FROM t", "view public.v not expected"),
    ("CREATE OR REPLACE VIEW v AS SELECT a FROM t WHERE a > 1", "a > 1"),
    (
        "ALTER VIEW v SET (security_invoker = true)",
        "view public.v: owner mb_owner, options security_invoker=true",
    ),
    ("ALTER VIEW v ALTER a SET DEFAULT 5", "view public.v: column a: integer DEFAULT 5 instead of integer"),
    ("CREATE MATERIALIZED VIEW m AS SELECT 1 AS x", "materialized view public.m not expected"),
    ("CREATE TYPE colour AS ENUM ('red')", "type public.colour not expected: owner mb_owner, labels 'red'"),
    ("ALTER TYPE colour ADD VALUE 'blue' BEFORE 'red'", "labels 'blue', 'red' instead of"),
    ("CREATE DOMAIN age AS int CHECK (VALUE > 0)", "domain public.age not expected: owner mb_owner, integer"),
    ("ALTER DOMAIN age SET NOT NULL", "integer NOT NULL instead of"),
    ("ALTER DOMAIN age SET DEFAULT 3", "DEFAULT 3 instead of"),
    (
        "ALTER DOMAIN age ADD CONSTRAINT old CHECK (VALUE < 200)",
        "domain public.age: constraint old not expected",
    ),
    ("CREATE TYPE pair AS (x int, y int)", "type public.pair not expected"),
    ("ALTER TYPE pair ADD ATTRIBUTE z int", "type public.pair: column z not expected: integer"),
    (
        "CREATE TYPE span AS RANGE (subtype = float8)",
        "type public.span not expected: owner mb_owner, range of double",
    ),
    ("CREATE SEQUENCE s", "sequence public.s not expected"),
    ("ALTER SEQUENCE s INCREMENT 5", "increment 5, from"),
    ("ALTER SEQUENCE s OWNED BY t.c", "owned by public.t.c instead of"),
    ("GRANT SELECT ON t TO anon", "table public.t: rights: anon SELECT; mb_owner "),
    ("GRANT INSERT ON t TO anon", "table public.t: rights of anon: INSERT, SELECT instead of SELECT"),
    (
        "GRANT SELECT (b) ON t TO authenticated",
        "table public.t: column b: rights: authenticated SELECT instead of the usual",
    ),
    ("GRANT USAGE ON TYPE colour TO anon", "type public.colour: rights"),
    ("GRANT USAGE ON SEQUENCE s TO anon", "sequence public.s: rights"),
    (
        "GRANT CREATE ON SCHEMA public TO service",
        "schema public: rights of service: USAGE, CREATE instead of USAGE",
    ),
    (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO anon",
        "default privileges of mb_owner in schema public on tables: rights",
    ),
    ("COMMENT ON TABLE t IS 'tea'", "table public.t: comment not expected: tea"),
    ("COMMENT ON COLUMN t.b IS 'bee'", "table public.t: column b: comment not expected: bee"),
    ("COMMENT ON FUNCTION f(int) IS 'eff'", "function public.f(integer): comment not expected: eff"),
    ("COMMENT ON INDEX t_a IS 'i'", "index public.t_a: comment not expected: i"),
    ("COMMENT ON SCHEMA public IS 'p'", "schema public: comment: p instead of"),
    ("CREATE SCHEMA more", "schema more not expected: owner mb_owner"),
    ("CREATE STATISTICS st ON a, c FROM t", "statistics public.st not expected"),
    ("CREATE PUBLICATION pub FOR TABLE t", "publication pub not expected"),
    (
        "ALTER PUBLICATION pub ADD TABLE notes WHERE (id > 1)",
        "publication pub: table public.notes not expected: published WHERE",
    ),
    (
        "CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)",
        "operator public.===(integer,integer) not",
    ),
    (
        "CREATE FUNCTION first(pair) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1.x'; CREATE CAST (pair AS int) WITH FUNCTION first(pair)",
        "cast (public.pair AS integer) not expected",
    ),
    ("CREATE COLLATION co FROM \"C\"", "collation public.co not expected"),
    (
        "CREATE TEXT SEARCH CONFIGURATION ts (COPY = english)",
        "text search configuration public.ts not expected",
    ),
    ("ALTER TEXT SEARCH CONFIGURATION ts DROP MAPPING FOR email", "text search configuration public.ts: "),
    ("CREATE TEXT SEARCH DICTIONARY td (TEMPLATE = simple)", "text search dictionary public.td not expected"),
    (
        "CREATE CONVERSION cv FOR 'UTF8' TO 'LATIN1' FROM utf8_to_iso8859_1",
        "conversion public.cv not expected",
    ),
    (
        "CREATE AGGREGATE ag (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0')",
        "aggregate public.ag(integer) not expected: owner mb_owner returns integer",
    ),
    (
        "CREATE TABLE part (a int) PARTITION BY RANGE (a); CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (1) TO (10)",
        "partition of public.part, FOR VALUES FROM (1) TO (10)",
    ),
    ("ALTER TABLE part DETACH PARTITION part1", "table public.part1: owner mb_owner instead of"),
    (
        "CREATE TABLE child () INHERITS (part1)",
        "table public.child not expected: owner mb_owner, inherits public.part1",
    ),
    ("CREATE EXTENSION citext", "extension citext not expected: version"),
    ("ALTER TABLE t RENAME c TO d", "table public.t: column c missing"),
    ("DROP TABLE u", "table public.u missing"),
    (
        "CREATE SCHEMA \"odd: name\"; CREATE TABLE \"odd: name\".\"a \"\"b\" (x int)",
        "table \"odd: name\".\"a \"\"b\" not expected",
    ),
];

#[tokio::test]
async fn every_kind_of_change_is_seen_and_named() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let owner = fleet.owner("a").await;
    let mut before = facts(&owner).await.unwrap();
    let mut unnamed = Vec::new();
    for (sql, line) in CHANGES {
        owner.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let after = facts(&owner).await.unwrap();
        assert_ne!(after.fingerprint(), before.fingerprint(), "{sql}");
        let drift = after.difference(&before);
        if !drift.lines().iter().any(|told| told.contains(line)) {
            unnamed.push(format!("{sql}\n  {line}\n  {drift}"));
        }
        let mirrored = before.difference(&after);
        assert_eq!(
            (drift.missing.len(), drift.changed.len()),
            (mirrored.extra.len(), mirrored.changed.len())
        );
        before = after;
    }
    assert!(unnamed.is_empty(), "{}", unnamed.join("\n"));
    assert_eq!(fingerprint(&owner).await.unwrap(), before.fingerprint());
}

#[tokio::test]
async fn what_is_no_part_of_a_schema_changes_nothing() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let owner = fleet.owner("a").await;
    owner.batch_execute("CREATE TABLE t (a int, b int); CREATE TABLE u (x int)").await.unwrap();
    let before = facts(&owner).await.unwrap();
    for sql in [
        "INSERT INTO items (name) VALUES ('x')",
        "ALTER TABLE t ADD c int; ALTER TABLE t DROP c",
        "DROP TABLE t; DROP TABLE u; CREATE TABLE u (x int); CREATE TABLE t (a int, b int)",
        "GRANT SELECT ON t TO anon; REVOKE SELECT ON t FROM anon",
        "CREATE TEMP TABLE gone (a int)",
        "SELECT nextval('items_id_seq')",
        "SET DateStyle = 'German'; SET search_path = public; SET quote_all_identifiers = on; SET extra_float_digits = -5",
        "ANALYZE; COMMENT ON TABLE t IS 'x'; COMMENT ON TABLE t IS NULL",
    ] {
        owner.batch_execute(sql).await.unwrap();
        let after = facts(&owner).await.unwrap();
        assert_eq!(after.difference(&before).to_string(), "", "{sql}");
        assert_eq!(fingerprint(&owner).await.unwrap(), before.fingerprint(), "{sql}");
    }
}

#[tokio::test]
async fn the_way_to_a_version_is_no_part_of_it() {
    let mut fleet = TestFleet::builder().tenants(&["old"]).build().await;
    let shop = fleet.folder.path().join("migrations/shop");
    let files = [
        (
            "V3__more.sql",
            "ALTER TABLE items ADD COLUMN colour text; CREATE INDEX items_colour ON items (colour);",
        ),
        (
            "V4__less.sql",
            "ALTER TABLE items DROP COLUMN made; CREATE VIEW plain AS SELECT id, colour FROM items;",
        ),
        (
            "V5__rights.sql",
            "GRANT SELECT ON plain TO anon; CREATE TYPE mood AS ENUM ('good'); ALTER TABLE items ADD mood mood DEFAULT 'good';",
        ),
    ];
    for (name, sql) in files {
        std::fs::write(shop.join(name), sql).unwrap();
        let (code, _, error) = fleet.run(&["migrate"]).await;
        assert_eq!(code, 0, "{error}");
    }
    fleet.reopen().await;
    fleet.create("new").await;
    let (old, new) = (fleet.admin("old").await, fleet.admin("new").await);
    let (old, new) = (facts(&old).await.unwrap(), facts(&new).await.unwrap());
    assert_eq!(old.difference(&new).to_string(), "");
    assert_eq!(old.fingerprint(), new.fingerprint());
    let (code, out, error) = fleet.run(&["drift"]).await;
    assert!(code == 0 && out.contains("2 equal"), "{out} {error}");
}

#[tokio::test]
async fn a_dump_makes_the_same_schema() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let owner = fleet.owner("a").await;
    // Dropped columns leave a gap that the restored table doesn't have.
    owner
        .batch_execute("ALTER TABLE items DROP COLUMN tags; ALTER TABLE items ADD COLUMN late int")
        .await
        .unwrap();
    let before = facts(&owner).await.unwrap();
    let server = fleet.fleet.servers.get("main").unwrap();
    let admin = server.admin().unwrap();
    let program = |program: &str, database: &str| {
        let mut command = Command::new(program);
        command.args(server.endpoint.psql_arguments(&admin.user, database)).stdin(Stdio::piped());
        command.env("PGPASSWORD", admin.password.as_ref().unwrap().expose()).stdout(Stdio::piped());
        command
    };
    let database = fleet.row("a").await.record.database();
    let mut dump = program("pg_dump", &database);
    dump.args(["--schema-only", "--role=mb_owner", "--exclude-schema=manybox"]);
    let dump = dump.output().await.unwrap();
    assert!(dump.status.success());

    let copy = format!("{database}_restored");
    let maintenance = server.connect_admin().await.unwrap();
    maintenance.batch_execute(&format!("CREATE DATABASE {copy} TEMPLATE template0")).await.unwrap();
    maintenance.batch_execute(&format!("GRANT CREATE ON DATABASE {copy} TO mb_owner")).await.unwrap();
    let restored = server.connect_admin_to(&copy).await.unwrap();
    restored.batch_execute("ALTER SCHEMA public OWNER TO mb_owner").await.unwrap();
    let file = fleet.folder.path().join("dump.sql");
    std::fs::write(&file, &dump.stdout).unwrap();
    let mut psql = program("psql", &copy);
    psql.args(["--quiet", "--no-psqlrc", "--file"]).arg(&file).stdin(Stdio::null());
    assert!(psql.output().await.unwrap().status.success());
    let after = facts(&restored).await.unwrap();
    assert_eq!(after.difference(&before).to_string(), "");
    drop(restored);
    maintenance.batch_execute(&format!("DROP DATABASE {copy} WITH (FORCE)")).await.unwrap();
}

#[tokio::test]
async fn a_hostile_owner_changes_its_own_answer_at_most() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    let other = fleet.admin("b").await;
    let expected = fingerprint(&other).await.unwrap();
    let owner = fleet.owner("a").await;
    // Names of the catalog, in the session that asks, and a search path that finds them first.
    let traps = "CREATE TABLE ran (what text);
        CREATE FUNCTION public.trap() RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ran VALUES ('x'); RETURN 'x'; END $$;
        CREATE FUNCTION public.concat(VARIADIC text[]) RETURNS text LANGUAGE sql AS 'SELECT public.trap()';
        CREATE FUNCTION public.quote_ident(text) RETURNS text LANGUAGE sql AS 'SELECT public.trap()';
        CREATE FUNCTION public.never(oid, oid) RETURNS boolean LANGUAGE sql AS 'SELECT public.trap() IS NULL';
        CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = public.never);
        CREATE VIEW public.pg_class AS SELECT public.trap() AS relname;
        CREATE DOMAIN public.text AS pg_catalog.text CHECK (public.trap() IS NULL);
        CREATE TEMP TABLE pg_namespace (oid oid, nspname name);
        SET search_path = public, pg_temp, pg_catalog";
    owner.batch_execute(traps).await.unwrap();
    let first = facts(&owner).await.unwrap();
    assert_eq!(fingerprint(&owner).await.unwrap(), first.fingerprint());
    let ran = owner.query_one("SELECT pg_catalog.count(*) FROM public.ran", &[]).await.unwrap();
    assert_eq!(ran.get::<_, i64>(0), 0, "nothing of the owner's ran");
    assert!(first.iter().any(|fact| fact.name == "table public.items: column price"));

    // What is long is told by its hash.
    let long = "DO $$ BEGIN EXECUTE pg_catalog.format('COMMENT ON TABLE public.items IS %L', pg_catalog.repeat('x', 40000000)); END $$";
    owner.batch_execute(long).await.unwrap();
    let longer = facts(&owner).await.unwrap();
    let comment = longer.iter().find(|fact| fact.name == "table public.items: comment").unwrap();
    assert!(comment.definition.len() < 2000 && comment.definition.contains("40000000 bytes"));
    assert_eq!(fingerprint(&owner).await.unwrap(), longer.fingerprint());

    // And there is an end to how much is taken.
    let many = "DO $$ BEGIN FOR i IN 1..600 LOOP EXECUTE pg_catalog.format(
        'CREATE FUNCTION public.f%s() RETURNS int LANGUAGE sql AS %L', i, 'SELECT 1 --' || pg_catalog.repeat('y', 60000)); END LOOP; END $$";
    owner.batch_execute(many).await.unwrap();
    let error = facts(&owner).await.unwrap_err().to_string();
    assert!(error.contains("longer than"), "{error}");

    // A lock is not waited for for long, and the session is as before.
    let holder = fleet.owner("a").await;
    holder.batch_execute("BEGIN; LOCK TABLE public.secrets IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let admin = fleet.admin("a").await;
    if let Err(error) = fingerprint(&admin).await {
        assert!(error.to_string().contains("55P03"), "{error}");
    }
    admin.batch_execute("BEGIN; COMMIT").await.unwrap();
    assert_eq!(fingerprint(&other).await.unwrap(), expected);
}

#[tokio::test]
async fn an_extension_hides_nothing_of_the_owners() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let owner = fleet.owner("a").await;
    let make = "CREATE EXTENSION citext WITH SCHEMA extensions; CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    owner.batch_execute(make).await.unwrap();
    let before = facts(&owner).await.unwrap();
    assert!(!before.iter().any(|fact| fact.name.contains("citext_")), "its version tells what it brought");
    owner.batch_execute("ALTER EXTENSION citext ADD FUNCTION public.f()").await.unwrap();
    owner
        .batch_execute("CREATE OR REPLACE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 2'")
        .await
        .unwrap();
    let drift = facts(&owner).await.unwrap().difference(&before);
    assert!(drift.to_string().starts_with("function public.f():"), "{drift}");
}
