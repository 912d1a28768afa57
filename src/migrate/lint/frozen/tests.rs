//! Tests of what is found frozen, statement by statement.

use super::*;

/// The lines of what freezes a value.
fn frozen(sql: &str) -> Vec<u64> {
    let mut known = Known::default();
    split(sql).unwrap().iter().filter_map(|s| known.look(&s, false)).map(|f| f.line).collect()
}

#[test]
fn random_values_of_rows_are_found() {
    for sql in [
        "INSERT INTO t VALUES (gen_random_uuid())",
        "INSERT INTO t (a) SELECT encode(extensions.gen_random_bytes(32), 'hex')",
        "UPDATE t SET a = random()",
        "WITH s AS (SELECT gen_random_uuid() AS id) INSERT INTO t SELECT id FROM s",
        "WITH i AS (INSERT INTO t VALUES (uuidv7()) RETURNING a) SELECT * FROM i",
        "MERGE INTO t USING u ON t.a = u.a WHEN NOT MATCHED THEN INSERT VALUES (random())",
        "DO $$ DECLARE k uuid := gen_random_uuid(); BEGIN INSERT INTO t VALUES (k); END $$",
        "CREATE TABLE t AS SELECT gen_random_uuid()",
        "CREATE MATERIALIZED VIEW v AS SELECT random()",
    ] {
        assert_eq!(frozen(sql), [1], "{sql}");
    }
    for sql in [
        "CREATE TABLE t (id uuid DEFAULT gen_random_uuid())",
        "CREATE FUNCTION f() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()'",
        "CREATE VIEW v AS SELECT random()",
        "CREATE TEMP TABLE t AS SELECT random()",
        "CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (random())",
        "SELECT gen_random_uuid()",
        "INSERT INTO t VALUES (now(), 'random()', nextval('s')) -- gen_random_uuid()",
        "SELECT random() FROM t FOR UPDATE",
    ] {
        assert_eq!(frozen(sql), [0; 0], "{sql}");
    }
}

#[test]
fn random_defaults_are_known_from_earlier_statements() {
    let table = "CREATE TABLE IF NOT EXISTS app.t (name text, secret uuid NOT NULL DEFAULT gen_random_uuid(), PRIMARY KEY (name));\n";
    for (sql, there) in [
        ("INSERT INTO app.t (name) VALUES ('a')", true),
        ("INSERT INTO t DEFAULT VALUES", true),
        ("INSERT INTO t VALUES ('a')", true),
        ("INSERT INTO t (name, secret) VALUES ('a', DEFAULT)", true),
        ("INSERT INTO t (name) SELECT 'a'", true),
        ("INSERT INTO t VALUES ('a', 'b'); UPDATE t SET secret = DEFAULT", true),
        ("COPY t (name) FROM '/x'", true),
        ("DO $$ BEGIN INSERT INTO t (name) VALUES ('a'); END $$", true),
        ("INSERT INTO t (name, secret) VALUES ('a', 'b')", false),
        ("INSERT INTO t VALUES ('a', 'b')", false),
        ("INSERT INTO other (name) VALUES ('a')", false),
        ("UPDATE t SET name = 'b'", false),
    ] {
        assert_eq!(!frozen(&format!("{table}{sql}")).is_empty(), there, "{sql}");
    }
    for definition in [
        "CREATE TABLE t (name text);\nALTER TABLE t ADD COLUMN IF NOT EXISTS secret text DEFAULT md5(random()::text), ADD b int;\n",
        "CREATE TABLE t (name text, secret uuid);\nALTER TABLE ONLY t ALTER COLUMN secret SET DEFAULT gen_random_uuid();\n",
        "CREATE DOMAIN secret AS uuid DEFAULT gen_random_uuid();\nCREATE TABLE t (name text, s secret);\n",
        "CREATE FUNCTION token() RETURNS text LANGUAGE sql AS $$ SELECT random()::text $$;\nCREATE TABLE t (name text, s text DEFAULT token());\n",
        "CREATE FUNCTION a() RETURNS uuid RETURN gen_random_uuid();\nCREATE TABLE t (name text, s uuid DEFAULT a());\n",
        "CREATE TABLE u (name text, s uuid DEFAULT gen_random_uuid());\nCREATE TABLE t (LIKE u INCLUDING ALL);\n",
        "CREATE TABLE u (name text, s uuid DEFAULT gen_random_uuid());\nCREATE TABLE t () INHERITS (u);\n",
        "CREATE TABLE u (name text, s uuid DEFAULT gen_random_uuid());\nALTER TABLE u RENAME TO t;\n",
        "CREATE TABLE t (name text, s uuid);\nCREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.s := gen_random_uuid(); RETURN NEW; END $$;\nCREATE TRIGGER g BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f();\n",
    ] {
        let line = definition.lines().count() as u64 + 1;
        assert_eq!(frozen(&format!("{definition}INSERT INTO t (name) VALUES ('a')")), [line], "{definition}");
    }
    let gone = "ALTER TABLE t ALTER secret DROP DEFAULT;\nINSERT INTO t (name) VALUES ('a')";
    assert_eq!(frozen(&format!("{table}{gone}")), [0; 0]);
    let later = "CREATE TABLE t (a int);\nINSERT INTO t VALUES (1);\nALTER TABLE t ADD s uuid DEFAULT gen_random_uuid()";
    assert_eq!(frozen(later), [3]);
    assert_eq!(frozen("CREATE TABLE t (a int);\nALTER TABLE t ADD s uuid DEFAULT gen_random_uuid()"), [0; 0]);
}

#[test]
fn a_backfill_of_empty_tables_freezes_nothing() {
    let tables = "CREATE TABLE t (a int, s uuid); CREATE TABLE u (a int);\n";
    for (sql, there) in [
        ("UPDATE t SET s = gen_random_uuid()", false),
        ("INSERT INTO t SELECT a, gen_random_uuid() FROM u", false),
        ("INSERT INTO t SELECT a, gen_random_uuid() FROM u; UPDATE t SET s = gen_random_uuid()", false),
        ("INSERT INTO t SELECT a, gen_random_uuid() FROM generate_series(1, 2) a", true),
        ("INSERT INTO t VALUES (1, NULL); UPDATE t SET s = gen_random_uuid()", true),
        ("INSERT INTO u VALUES (1); INSERT INTO t SELECT a, gen_random_uuid() FROM u", true),
        ("UPDATE other SET s = gen_random_uuid()", true),
    ] {
        assert_eq!(!frozen(&format!("{tables}{sql}")).is_empty(), there, "{sql}");
    }
}

#[test]
fn functions_that_write_are_followed() {
    let f = "CREATE FUNCTION seed() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (gen_random_uuid()); END $$;\n";
    for call in ["SELECT seed()", "SELECT app.seed()", "DO $$ BEGIN PERFORM seed(); END $$", "CALL seed()"] {
        assert_eq!(frozen(&format!("{f}{call}")), [2], "{call}");
    }
    // Calls that go in a circle end.
    let circle = "CREATE FUNCTION a() RETURNS int AS 'SELECT b()' LANGUAGE sql; CREATE FUNCTION b() RETURNS int AS 'SELECT a()' LANGUAGE sql;\nINSERT INTO t VALUES (a())";
    assert_eq!(frozen(circle), [0; 0]);
    let replaced =
        "CREATE OR REPLACE FUNCTION seed() RETURNS void LANGUAGE sql AS $$ SELECT $$;\nSELECT seed()";
    assert_eq!(frozen(&format!("{f}{replaced}")), [0; 0]);
}
