//! Squashed files: new templates begin with one, and nobody can tell their tenants from those that ran every file.

use std::path::PathBuf;

use crate::support::{TestFleet, superuser_in};

const FIRST: &str = "
CREATE SCHEMA app;
CREATE EXTENSION IF NOT EXISTS citext;
CREATE TYPE app.state AS ENUM ('new', 'it''s done');
CREATE DOMAIN app.price AS numeric(10, 2) CHECK (VALUE BETWEEN 0 AND 1000);
CREATE TABLE app.kinds (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind varchar(20) NOT NULL CHECK (kind IN ('a', 'b')),
    name citext UNIQUE, made_at timestamptz NOT NULL DEFAULT now(), raw bytea, doc jsonb DEFAULT '{\"a\": [1, null]}',
    size int, twice int GENERATED ALWAYS AS (size * 2) STORED, state app.state DEFAULT 'it''s done', price app.price);
CREATE TABLE app.parts (id bigserial PRIMARY KEY, kind int REFERENCES app.kinds, next bigint);
ALTER TABLE app.parts ADD FOREIGN KEY (next) REFERENCES app.parts DEFERRABLE;
COMMENT ON TABLE app.kinds IS 'kinds; of things';
INSERT INTO app.kinds (kind, name, raw, size, price) VALUES ('a', 'One; \"quoted\" ''x''', '\\x00ff', 1, 9.5), ('b', NULL, NULL, NULL, NULL);
INSERT INTO app.parts (kind, next) VALUES (1, 2), (2, 1);
SELECT nextval('app.parts_id_seq');
CREATE FUNCTION app.open(text) RETURNS text LANGUAGE sql AS $$ SELECT $1 -- ; $$;
GRANT EXECUTE ON FUNCTION app.open(text) TO PUBLIC;
CREATE FUNCTION app.closed() RETURNS int LANGUAGE plpgsql AS $f$ BEGIN RETURN 1; END $f$;
CREATE FUNCTION app.standard(a int) RETURNS int BEGIN ATOMIC SELECT a + 1; SELECT size FROM app.kinds WHERE id = a; END;
GRANT USAGE ON SCHEMA app TO anon;
GRANT EXECUTE ON FUNCTION app.closed() TO anon;";

const SECOND: &str = "
ALTER TABLE app.kinds ADD COLUMN dropped int;
ALTER TABLE app.kinds DROP COLUMN dropped;
CREATE VIEW app.seen WITH (security_invoker = true) AS SELECT id, kind FROM app.kinds WHERE size BETWEEN 0 AND 5 AND kind <> 'b';
CREATE MATERIALIZED VIEW app.sums AS SELECT kind, count(*) FROM app.kinds GROUP BY kind;
ALTER TABLE app.kinds ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.kinds FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON app.kinds TO anon USING (kind = ANY (ARRAY['a', 'b']));
CREATE TABLE app.log (at date NOT NULL, what text COLLATE \"C\") PARTITION BY RANGE (at);
CREATE TABLE app.log_2024 PARTITION OF app.log FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
INSERT INTO app.log VALUES ('2024-05-05', '');
CREATE FUNCTION app.on_log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER logged BEFORE INSERT ON app.log FOR EACH ROW WHEN (NEW.what <> 'x') EXECUTE FUNCTION app.on_log();
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO anon;
CREATE TABLE app.late (id int);
CREATE TABLE public.seals (name text PRIMARY KEY, secret uuid NOT NULL DEFAULT gen_random_uuid());

-- manybox: per-tenant
INSERT INTO seals (name) VALUES ('one; two');

-- manybox: per-tenant
SET search_path = app, public;

-- manybox: per-tenant
INSERT INTO late SELECT 1;";

const THIRD: &str = "-- manybox: no-transaction
CREATE INDEX CONCURRENTLY kinds_lower ON app.kinds (lower(kind)) WHERE kind IN ('a', 'b');";

fn path(fleet: &TestFleet, file: &str) -> PathBuf {
    fleet.folder.path().join("migrations/shop").join(file)
}

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(path(fleet, file), sql).unwrap();
}

async fn good(fleet: &TestFleet, arguments: &[&str]) -> String {
    let (code, out, error) = fleet.run(arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {out}\n{error}");
    format!("{out}{error}")
}

async fn bad(fleet: &TestFleet, arguments: &[&str]) -> String {
    let (code, out, error) = fleet.run(arguments).await;
    assert_ne!(code, 0, "{arguments:?}: {out}\n{error}");
    format!("{out}{error}")
}

async fn with_files() -> TestFleet {
    let fleet = TestFleet::builder().build().await;
    add(&fleet, "V3__first.sql", FIRST);
    add(&fleet, "V4__second.sql", SECOND);
    add(&fleet, "V5__third.sql", THIRD);
    fleet
}

async fn forget_templates(fleet: &TestFleet) {
    let catalog = fleet.admin_of_catalog().await;
    catalog.batch_execute("DELETE FROM catalog.template").await.unwrap();
}

const SQUASH: [&str; 6] = ["migrate", "squash", "--edition", "shop", "--to", "5"];

#[tokio::test]
async fn a_new_tenant_is_as_if_it_had_run_every_file() {
    let mut fleet = with_files().await;
    fleet.create("old").await;
    add(
        &fleet,
        "R__names.sql",
        "CREATE OR REPLACE VIEW app.names WITH (security_invoker = true) AS SELECT name FROM app.kinds;",
    );
    let said = good(&fleet, &[&SQUASH[..], &["--dry-run"]].concat()).await;
    assert!(said.contains("not written") && !path(&fleet, "B5__squashed.sql").exists(), "{said}");
    let said = good(&fleet, &SQUASH).await;
    assert!(said.contains("5 files, V1__") && said.contains("3 statement(s) in each tenant"), "{said}");
    good(&fleet, &["migrate"]).await;
    good(&fleet, &["migrate", "lint", "--edition", "shop"]).await;

    // The files are kept or deleted: templates begin with the squashed one, and tenants are the same in everything.
    for (slug, delete) in [("kept", false), ("deleted", true)] {
        if delete {
            for file in std::fs::read_dir(path(&fleet, "")).unwrap() {
                let file = file.unwrap();
                if file.file_name().to_string_lossy().starts_with('V') {
                    std::fs::remove_file(file.path()).unwrap();
                }
            }
        }
        forget_templates(&fleet).await;
        fleet.reopen().await;
        fleet.create(slug).await;
        let (old, new) = (fleet.row("old").await, fleet.row(slug).await);
        assert_eq!(old.record.lineage(), new.record.lineage());
        let said = good(&fleet, &["drift"]).await;
        assert!(said.contains(" 0 drifted"), "{said}");
        let rows = "SELECT count(*), count(*) FILTER (WHERE made_at = (SELECT min(made_at) FROM app.kinds)),
                           (SELECT count(*) FROM public.seals JOIN app.late ON true), nextval('app.parts_id_seq') FROM app.kinds";
        let row = superuser_in(&new.record.database()).await.query_one(rows, &[]).await.unwrap();
        assert_eq!((row.get(0), row.get(1), row.get(2), row.get(3)), (2_i64, 2_i64, 1_i64, 4_i64));
        let history = "SELECT string_agg(version || name || checksum, ',' ORDER BY version) FROM manybox.schema_history";
        let of = async |slug: &str| -> String {
            superuser_in(&fleet.row(slug).await.record.database())
                .await
                .query_one(history, &[])
                .await
                .unwrap()
                .get(0)
        };
        assert_eq!(of("old").await, of(slug).await);
    }
    for command in [
        &["migrate", "status", "--check", "--verify"][..],
        &["migrate", "--verify"],
        &["migrate", "lint"],
        &["migrate", "plan"],
    ] {
        good(&fleet, command).await;
    }
    // A file above it goes to both.
    add(&fleet, "V6__more.sql", "ALTER TABLE app.kinds ADD COLUMN more int;");
    good(&fleet, &["migrate"]).await;
    good(&fleet, &["drift"]).await;
    good(&fleet, &["migrate", "squash", "--edition", "shop", "--to", "6", "--name", "again"]).await;
    std::fs::remove_file(path(&fleet, "B5__squashed.sql")).unwrap();
    std::fs::remove_file(path(&fleet, "V6__more.sql")).unwrap();
    forget_templates(&fleet).await;
    fleet.reopen().await;
    fleet.create("newest").await;
    assert_eq!(fleet.row("newest").await.record.lineage().unwrap().version, 6);
    good(&fleet, &["drift"]).await;
    let secret = "SELECT secret::text FROM public.seals";
    let secrets = [
        fleet.admin("deleted").await.query_one(secret, &[]).await.unwrap(),
        fleet.admin("newest").await.query_one(secret, &[]).await.unwrap(),
    ];
    assert_ne!(secrets[0].get::<_, String>(0), secrets[1].get::<_, String>(0));
}

#[tokio::test]
async fn whoever_lacks_deleted_files_is_told_which() {
    let mut fleet = TestFleet::builder().tenants(&["old"]).build().await;
    add(&fleet, "V3__three.sql", "CREATE TABLE three (id int);");
    add(&fleet, "V4__four.sql", "CREATE TABLE four (id int);");
    let said = good(&fleet, &["migrate", "squash", "--edition", "shop", "--to", "4"]).await;
    assert!(said.contains("keep these files") && said.contains("`old`"), "{said}");
    let text = std::fs::read_to_string(path(&fleet, "V3__three.sql")).unwrap();
    std::fs::remove_file(path(&fleet, "V3__three.sql")).unwrap();
    std::fs::remove_file(path(&fleet, "V4__four.sql")).unwrap();
    fleet.reopen().await;
    // The ready template can't be brought further either, so a new tenant's is made anew.
    fleet.create("new").await;
    assert_eq!(fleet.row("new").await.record.lineage().unwrap().version, 4);
    let said = bad(&fleet, &["migrate"]).await;
    assert!(said.contains("`old` stay(s) behind"), "{said}");
    let said = bad(&fleet, &["migrate", "--tenant", "old"]).await;
    assert!(said.contains("`old` stay(s) behind"), "{said}");
    let said = bad(&fleet, &["migrate", "rehearse", "--tenant", "old"]).await;
    assert!(said.contains("V3__three.sql of edition") && said.contains("B4__squashed.sql"), "{said}");
    let said = bad(&fleet, &["migrate", "--target", "3"]).await;
    assert!(said.contains("V3__three.sql"), "{said}");
    assert_eq!(fleet.row("old").await.record.lineage().unwrap().version, 2);
    good(&fleet, &["migrate", "status"]).await;

    // A file that is put back edited is told; the right one is taken.
    add(&fleet, "V3__three.sql", "CREATE TABLE three (id bigint);");
    let said = bad(&fleet, &["migrate"]).await;
    assert!(
        said.contains("B4__squashed.sql") && said.contains("where `V3__three.sql` with checksum"),
        "{said}"
    );
    add(&fleet, "V3__three.sql", &text);
    add(&fleet, "V4__four.sql", "CREATE TABLE four (id int);");
    good(&fleet, &["migrate"]).await;
    good(&fleet, &["migrate", "status", "--check"]).await;
    good(&fleet, &["drift"]).await;

    // What was written is not changed, and nothing goes below it.
    let squashed = std::fs::read_to_string(path(&fleet, "B4__squashed.sql")).unwrap();
    add(
        &fleet,
        "B4__squashed.sql",
        &squashed.replace("CREATE TABLE public.four", "CREATE UNLOGGED TABLE public.four"),
    );
    assert!(bad(&fleet, &["migrate", "lint"]).await.contains("was changed since it was made"));
    add(&fleet, "B4__squashed.sql", "CREATE TABLE four (id int);");
    assert!(bad(&fleet, &["migrate", "lint"]).await.contains("did not write"));
    add(&fleet, "B4__squashed.sql", &squashed);
    std::fs::remove_file(path(&fleet, "B4__squashed.sql")).unwrap();
    assert!(
        bad(&fleet, &["migrate", "squash", "--edition", "shop", "--to", "9"])
            .await
            .contains("no file of version 9")
    );
}

#[tokio::test]
async fn what_one_file_cannot_make_is_refused() {
    let fleet = TestFleet::builder().build().await;
    // A dump says the rights on large objects, and a migration can't hold what is in them.
    add(&fleet, "V3__large.sql", "SELECT lo_from_bytea(0, 'x');");
    let said = bad(&fleet, &["migrate", "squash", "--edition", "shop", "--to", "3"]).await;
    assert!(said.contains("large object"), "{said}");
    // Only the files' own order makes it: the function looks at the database that it is made in.
    add(&fleet, "V3__large.sql", "CREATE TABLE seen (id int);");
    add(&fleet, "V4__late.sql", "CREATE FUNCTION of_rows() RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT count(*) FROM seen $$;
        CREATE TABLE checked (n int CHECK (of_rows() = 0)); INSERT INTO checked VALUES (1); INSERT INTO seen VALUES (1);");
    let said = bad(&fleet, &["migrate", "squash", "--edition", "shop", "--to", "4"]).await;
    assert!(said.contains("B4__squashed.sql:"), "{said}");
    assert!(!path(&fleet, "B4__squashed.sql").exists());
    let left = fleet.fleet.sweep_scratch().await.unwrap();
    assert_eq!(left, [""; 0], "scratch databases are dropped when it fails, too");
}
