//! Databases that other tools made become tenants of an edition: nothing in them is lost, and from then on they are migrated.

use manybox::pg::Connection;
use manybox::tenant::TenantId;
use serde_json::{Value, json};

use crate::support::{TestFleet, eventually, superuser_in};

const FILES: [&str; 2] =
    [include_str!("migrations/shop/V1__shop.sql"), include_str!("migrations/shop/V2__notes.sql")];

/// A database in which somebody ran the first files by hand, and a row in it.
async fn made_by_hand(fleet: &TestFleet, files: usize) -> String {
    let name = format!("legacy_{}", TenantId::random().unwrap());
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let client = inside(fleet, &name).await;
    for file in &FILES[..files] {
        client.batch_execute(file).await.unwrap();
    }
    client.batch_execute("INSERT INTO items (name) VALUES ('kept')").await.unwrap();
    name
}

async fn inside(fleet: &TestFleet, database: &str) -> Connection {
    fleet.fleet.servers.get("main").unwrap().connect_admin_to(database).await.unwrap()
}

/// Owners, rights and schemas of all that is in the database, and what may be done with it.
async fn state(client: &Connection) -> String {
    let sql = "SELECT json_build_object(
        'database', (SELECT (datname, datdba, datacl::text, datallowconn) FROM pg_database WHERE datname = current_database()),
        'schemas', (SELECT json_agg((nspname, nspowner, nspacl::text) ORDER BY oid) FROM pg_namespace),
        'relations', (SELECT json_agg((relname, relowner, relacl::text) ORDER BY oid) FROM pg_class WHERE oid >= 16384),
        'functions', (SELECT json_agg((proname, proowner, proacl::text) ORDER BY oid) FROM pg_proc WHERE oid >= 16384),
        'defaults', (SELECT json_agg(defaclacl::text) FROM pg_default_acl))::text";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn adopt(fleet: &TestFleet, database: &str, version: &str, more: &[&str]) -> (i32, Value, String) {
    let adopt = [
        "tenant",
        "adopt",
        "old",
        "--json",
        "--database",
        database,
        "--edition",
        "shop",
        "--baseline",
        version,
    ];
    let (code, out, error) = fleet.run(&[&adopt[..], more].concat()).await;
    (code, serde_json::from_str(&out).unwrap_or_default(), error)
}

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

#[tokio::test]
async fn a_database_is_taken_in_at_the_version_that_it_has() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let name = made_by_hand(&fleet, 2).await;
    let client = inside(&fleet, &name).await;
    let before = state(&client).await;

    let (code, shown, error) = adopt(&fleet, &name, "2", &["--dry-run"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(shown["recorded"], json!(["V1__shop.sql", "V2__notes.sql"]));
    assert_eq!(shown["differences"], json!([]), "owners and rights are made as the files make them");
    let changes = shown["changes"].to_string();
    for change in [
        "table public.items belongs to `mb_owner`",
        "PUBLIC loses CONNECT, TEMPORARY on the database",
        "PUBLIC loses EXECUTE",
    ] {
        assert!(changes.contains(change), "{change}: {changes}");
    }
    assert_eq!(state(&client).await, before, "a dry run changes nothing");
    assert!(fleet.fleet.tenant("old").await.is_err());
    let (_, out, _) = fleet
        .run(&[
            "tenant",
            "adopt",
            "old",
            "--database",
            &name,
            "--edition",
            "shop",
            "--baseline",
            "2",
            "--dry-run",
        ])
        .await;
    assert!(
        out.contains("nothing was changed") && out.contains("its schema is what the files make"),
        "{out}"
    );

    let (code, done, error) = adopt(&fleet, &name, "2", &[]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!((&done["changes"], &done["differences"]), (&shown["changes"], &json!([])));
    let row = fleet.row("old").await;
    assert_eq!(row.record.lineage(), fleet.row("acme").await.record.lineage());
    assert_eq!((row.baseline, row.unsettled), (Some(2), false));
    let journal = fleet.fleet.catalog.journal(&row.record.id, 9).await.unwrap();
    let line = journal.iter().find(|line| line.action == "baseline").unwrap();
    assert_eq!((&line.detail["database"], &line.detail["baseline"]), (&json!(name), &json!(2)));
    eventually("the router serves it", || async { fleet.get("/old/items").await.status == 200 }).await;
    assert_eq!(fleet.get("/old/items?select=name").await.json(), json!([{ "name": "kept" }]));

    // It is one of the fleet: compared, verified, migrated, and counted.
    let (code, out, error) = fleet.run(&["drift", "--tenant", "old"]).await;
    assert!(code == 0 && out.contains("1 equal"), "{out} {error}");
    // What is found of other tests' databases and roles is theirs.
    let (_, out, error) = fleet.run(&["verify", "--tenant", "old"]).await;
    let id = row.record.id.as_str();
    let ours = |line: &&str| line.contains(id) || line.split_whitespace().any(|word| word == "old");
    let found: Vec<_> = out.lines().filter(|line| line.starts_with('V')).filter(ours).collect();
    assert!(found.is_empty(), "{found:?} {error}");
    add(&fleet, "V3__more.sql", "CREATE TABLE more (id int PRIMARY KEY); GRANT SELECT ON more TO anon;");
    let (code, out, error) = fleet.run(&["migrate"]).await;
    assert!(code == 0 && !out.contains("adopted"), "{out} {error}");
    assert_eq!(fleet.row("old").await.record.lineage(), fleet.row("acme").await.record.lineage());
    let (code, _, error) = fleet.run(&["migrate", "status", "--check", "--verify"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(fleet.run(&["drift"]).await.0, 0);
    let (code, _, error) = adopt(&fleet, &name, "2", &[]).await;
    assert!(code == 1 && error.contains("is there already"), "{error}");
}

#[tokio::test]
async fn an_older_database_with_a_schema_of_its_own_keeps_that_and_is_migrated() {
    let fleet = TestFleet::builder().build().await;
    let name = made_by_hand(&fleet, 1).await;
    let client = inside(&fleet, &name).await;
    client
        .batch_execute(
            "ALTER TABLE items ADD COLUMN colour text; CREATE SCHEMA theirs; CREATE TABLE theirs.t (a serial, b text);
             CREATE TYPE theirs.mood AS ENUM ('good'); CREATE DOMAIN theirs.short AS text CHECK (length(VALUE) < 9);
             CREATE VIEW theirs.v AS SELECT * FROM theirs.t; CREATE PROCEDURE theirs.p() LANGUAGE sql AS 'SELECT 1';
             CREATE AGGREGATE theirs.total(int) (SFUNC = int4pl, STYPE = int);
             CREATE FUNCTION theirs.eq(int, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
             CREATE OPERATOR theirs.=== (LEFTARG = int, RIGHTARG = text, FUNCTION = theirs.eq);
             CREATE STATISTICS theirs.s ON a, b FROM theirs.t; CREATE COLLATION theirs.c FROM \"C\";
             CREATE TABLE theirs.\"od: column d\" (id int) PARTITION BY RANGE (id);
             CREATE TYPE theirs.pair AS (a int, b int); CREATE TYPE theirs.span AS RANGE (SUBTYPE = float8);
             GRANT SELECT (name), INSERT ON items TO anon; REVOKE SELECT ON items FROM anon;
             GRANT EXECUTE ON FUNCTION add TO PUBLIC; GRANT UPDATE ON items TO service WITH GRANT OPTION;",
        )
        .await
        .unwrap();
    client.close().await;
    let (code, done, error) = adopt(&fleet, &name, "1", &[]).await;
    assert_eq!(code, 0, "{error}");
    let differences: Vec<_> =
        done["differences"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(differences.contains(&"table public.items: column colour not expected: text"), "{differences:?}");
    assert!(differences.iter().all(|d| d.contains("colour") || d.contains("theirs")), "{differences:?}");
    assert!(differences.iter().all(|d| !d.contains("rights")), "{differences:?}");
    let changes = done["changes"].to_string();
    for change in [
        "`anon` loses INSERT",
        "`anon` gets SELECT",
        "`service` loses UPDATE",
        "public.add(integer,integer): PUBLIC loses EXECUTE",
    ] {
        assert!(changes.contains(change), "{change}: {changes}");
    }
    let (code, out, _) = fleet.run(&["drift", "--tenant", "old"]).await;
    assert!(code == 1 && out.contains("column colour not expected"), "{out}");
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "older drift is told, and is no failure: {error}");
    assert_eq!(fleet.row("old").await.record.lineage().unwrap().version, 2);
    let theirs = fleet.owner("old").await;
    theirs.batch_execute("ALTER VIEW theirs.v RENAME TO w; DROP SCHEMA theirs CASCADE").await.unwrap();
    let kept = theirs.query_one("SELECT count(*) FROM items WHERE name = 'kept'", &[]).await.unwrap();
    assert_eq!(kept.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn what_can_not_be_taken_in_is_left_as_it_was() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let name = made_by_hand(&fleet, 2).await;
    let client = inside(&fleet, &name).await;
    for (version, why) in
        [("7", "ends at version 2"), ("0", "no file of version 0"), ("-1", "no file of version")]
    {
        let given = format!("--baseline={version}");
        let (code, _, error) = fleet
            .run(&["tenant", "adopt", "old", "--database", &name, "--edition", "shop", &given, "--dry-run"])
            .await;
        assert!(code == 1 && error.contains(why), "{error}");
    }
    for more in [&["--edition", "shop"][..], &["--baseline", "2"], &["--dry-run"]] {
        let all = [&["tenant", "adopt", "old", "--database", &name], more].concat();
        assert_eq!(fleet.run(&all).await.0, 2, "{more:?}");
    }
    let (code, _, error) = adopt(&fleet, "nowhere", "2", &[]).await;
    assert!(code == 1 && error.contains("no database `nowhere`"), "{error}");
    let acme = fleet.row("acme").await.record.database();
    assert!(adopt(&fleet, &acme, "2", &[]).await.2.contains("not one to adopt"));

    // Another history, and what would run as the admin.
    let before = state(&client).await;
    client
        .batch_execute(
            "CREATE SCHEMA manybox; CREATE TABLE manybox.schema_history (version int PRIMARY KEY, name varchar(255),
                 applied_on varchar(255), checksum varchar(255));
             INSERT INTO manybox.schema_history VALUES (1, 'other', '2024-01-01T00:00:00Z', '7')",
        )
        .await
        .unwrap();
    let (code, _, error) = adopt(&fleet, &name, "2", &[]).await;
    assert!(code == 1 && error.contains("ends at version 1: give --baseline 1"), "{error}");
    let (code, _, error) = adopt(&fleet, &name, "1", &[]).await;
    assert!(
        code == 1 && error.contains("V1__other.sql") && error.contains("not that of the files"),
        "{error}"
    );
    client.batch_execute("DROP SCHEMA manybox CASCADE").await.unwrap();
    let root = superuser_in(&name).await;
    root.batch_execute(
        "CREATE FUNCTION trap() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''ran''; END';
         CREATE EVENT TRIGGER trap ON ddl_command_end EXECUTE FUNCTION trap()",
    )
    .await
    .unwrap();
    let (code, _, error) = adopt(&fleet, &name, "2", &[]).await;
    assert!(code == 1 && error.contains("event trigger trap"), "{error}");
    root.batch_execute("DROP EVENT TRIGGER trap; DROP FUNCTION trap").await.unwrap();
    assert_eq!(state(&client).await, before);
    assert!(fleet.fleet.tenant("old").await.is_err());
}

#[tokio::test]
async fn an_adopted_tenant_is_taken_in_and_a_killed_command_is_finished() {
    let fleet = TestFleet::builder().build().await;
    let legacy = crate::adopt::Legacy::make(&fleet).await;
    legacy.run(&fleet, "DROP SCHEMA api CASCADE; GRANT anon TO {}_login").await;
    for file in FILES {
        legacy.client(&fleet).await.batch_execute(file).await.unwrap();
    }
    legacy.adopt(&fleet, "old", &[("db_schemas", "public"), ("db_anon_role", "anon")]).await;
    let id = fleet.row("old").await.record.id;
    let (code, _, error) = adopt(&fleet, &legacy.name, "2", &[]).await;
    assert_eq!(code, 0, "{error}");
    let row = fleet.row("old").await;
    assert_eq!((&row.record.id, row.record.database()), (&id, id.database()));
    assert!(row.record.sealed.keys().all(|name| name == "jwt_secret"), "{row:?}");

    // As if it had been killed when the database had its new name, and the catalog did not say so yet.
    let catalog = &fleet.fleet.settings.catalog.database;
    let catalog = inside(&fleet, catalog).await;
    let sql = "UPDATE catalog.tenant SET edition = NULL, version = 0, history = '', database = $2, login_role = 'x' WHERE id = $1";
    catalog.execute(sql, &[&id.as_str(), &legacy.name]).await.unwrap();
    let (code, done, error) = adopt(&fleet, &legacy.name, "2", &[]).await;
    assert_eq!((code, &done["recorded"], &done["changes"]), (0, &json!([]), &done["changes"]), "{error}");
    assert_eq!(fleet.row("old").await.record.lineage(), row.record.lineage());
    assert_eq!(fleet.run(&["drift", "--tenant", "old"]).await.0, 0);
}
