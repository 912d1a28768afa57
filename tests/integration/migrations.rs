//! Migrations: a fleet brought to a new version; one that fails stops nobody else.

use manybox::tenant::Verb;
use serde_json::{Value, json};

use crate::support::TestFleet;

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

async fn status(fleet: &TestFleet) -> Value {
    let (code, out, error) = fleet.run(&["migrate", "status", "--json"]).await;
    assert_eq!(code, 0, "{error}");
    serde_json::from_str(&out).unwrap()
}

#[tokio::test]
async fn a_fleet_is_brought_up_past_a_broken_tenant() {
    let fleet = TestFleet::builder().tenants(&["a", "b", "c", "d"]).serve().await;
    assert_eq!(fleet.get("/a/items?select=id,colour").await.status, 400);
    fleet.fleet.carry_out("d", Verb::Suspend).await.unwrap();
    // Broken on purpose: the column is there already.
    fleet.owner("b").await.batch_execute("ALTER TABLE public.items ADD COLUMN colour text").await.unwrap();
    add(&fleet, "V3__colour.sql", "ALTER TABLE items ADD COLUMN colour text;");
    assert_eq!(status(&fleet).await["summary"]["behind"], 4);

    let (code, _, error) = fleet.run(&["migrate", "--jobs", "2"]).await;
    assert_eq!(code, 1, "one failed");
    assert!(error.contains('b') && error.contains("colour") && error.contains("1 of 4"), "{error}");
    let now = status(&fleet).await;
    assert_eq!(
        now["summary"],
        json!({ "tenants": 4, "current": 3, "behind": 1, "ahead": 0, "divergent": 0, "failed": 1 })
    );

    // The new column is served without a restart, and a new tenant is born with it.
    crate::support::eventually("the router sees the new column", || async {
        fleet.get("/a/items?select=id,colour").await.status == 200
    })
    .await;
    let new = fleet.create("e").await;
    assert_eq!(new.record.lineage().unwrap().version, 3);

    // Mended, only that one is touched.
    fleet.owner("b").await.batch_execute("ALTER TABLE public.items DROP COLUMN colour").await.unwrap();
    let (code, out, error) = fleet.run(&["migrate", "--json"]).await;
    assert_eq!(code, 0, "{error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let tenants = report["tenants"].as_array().unwrap();
    let [touched] = tenants.as_slice() else { panic!("only one is touched: {tenants:?}") };
    for (key, value) in
        [("slug", json!("b")), ("before", json!(2)), ("after", json!(3)), ("failure", json!(null))]
    {
        assert_eq!(touched[key], value, "{touched}");
    }
    assert_eq!(status(&fleet).await["summary"]["current"], 5);
}

#[tokio::test]
async fn changed_files_are_divergence_and_are_not_applied() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(&fleet, "V2__notes.sql", "CREATE TABLE notes (id int PRIMARY KEY, body text, more text);");
    assert_eq!(status(&fleet).await["tenants"][0]["standing"], "divergent");
    let (code, _, error) = fleet.run(&["migrate", "--tenant", "a"]).await;
    assert_eq!(code, 1);
    assert!(error.contains("version 2"), "{error}");
}

#[tokio::test]
async fn files_that_would_be_misread_are_refused_before_anything_runs() {
    for (file, sql) in [
        ("V3__add-col.sql", "SELECT 1;"),
        ("v3__low.sql", "SELECT 1;"),
        ("V3__commits.sql", "CREATE TABLE x (a int); COMMIT; CREATE TABLE y (a int);"),
        ("V3__role.sql", "RESET ROLE; CREATE TABLE x (a int);"),
        ("V3__setting.sql", "ALTER DATABASE x SET work_mem = '1GB';"),
    ] {
        let fleet = TestFleet::builder().tenants(&["a"]).build().await;
        add(&fleet, file, sql);
        let (code, _, error) = fleet.run(&["migrate"]).await;
        assert_eq!(code, 1, "{file}");
        assert!(error.contains(file), "{file}: {error}");
        assert_eq!(fleet.row("a").await.record.lineage().unwrap().version, 2);
    }
}

#[tokio::test]
async fn a_file_that_escapes_its_role_fails() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(&fleet, "V3__escape.sql", "DO $$ BEGIN EXECUTE 'RESET ROLE'; END $$; CREATE TABLE escaped (a int);");
    let (code, _, error) = fleet.run(&["migrate", "--tenant", "a"]).await;
    assert_eq!(code, 1, "{error}");
    let there = fleet
        .admin("a")
        .await
        .query_one("SELECT to_regclass('public.escaped') IS NOT NULL", &[])
        .await
        .unwrap();
    assert!(!there.get::<_, bool>(0));
}

#[tokio::test]
async fn an_index_can_be_built_concurrently() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(
        &fleet,
        "V3__index.sql",
        "-- manybox: no-transaction\nCREATE INDEX CONCURRENTLY items_made ON items (made);",
    );
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'public.items_made'::regclass";
    assert!(fleet.admin("a").await.query_one(valid, &[]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn a_table_in_use_is_waited_for_and_tried_again() {
    let fleet = TestFleet::builder().toml("[migrate]\nlock_timeout = '50ms'").tenants(&["a"]).build().await;
    add(&fleet, "V3__colour.sql", "ALTER TABLE items ADD COLUMN colour text;");
    let reader = fleet.owner("a").await;
    reader.batch_execute("BEGIN; SELECT * FROM public.items").await.unwrap();
    let migrate = fleet.run(&["migrate", "--tenant", "a"]);
    let release = async {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        reader.batch_execute("COMMIT").await.unwrap();
    };
    let ((code, _, error), ()) = tokio::join!(migrate, release);
    assert_eq!(code, 0, "{error}");
}

#[tokio::test]
async fn what_a_file_may_not_leave_is_rolled_back_with_it() {
    for (sql, said) in [
        ("DO $$ BEGIN DELETE FROM manybox.schema_history WHERE version = 1; END $$", "changed the history"),
        ("DO $$ BEGIN PERFORM set_config('role', 'mb_migrator', false); END $$", "leaves the owner's role"),
        (
            "DO $$ BEGIN GRANT USAGE, CREATE ON SCHEMA public TO PUBLIC; PERFORM set_config('role', 'none', false);
             CREATE TABLE public.stray (a int); PERFORM set_config('role', 'mb_owner', false); END $$",
            "belongs to `mb_m_",
        ),
        ("INSERT INTO items (id, name) SELECT 1, 'a' FROM generate_series(1, 2)", "duplicate key"),
    ] {
        let fleet = TestFleet::builder().tenants(&["a"]).build().await;
        add(&fleet, "V3__bad.sql", &format!("CREATE TABLE made (a int);\n{sql};"));
        let (code, _, error) = fleet.run(&["migrate", "--tenant", "a"]).await;
        assert!(code == 1 && error.contains(said), "{error}");
        let admin = fleet.admin("a").await;
        let left = "SELECT (SELECT count(*) FROM pg_class WHERE relname = 'made')";
        assert_eq!(admin.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0, "{sql}");
        assert_eq!(versions(&fleet, "a").await, [1, 2], "{sql}");
    }
}

#[tokio::test]
async fn of_files_that_only_define_the_one_that_fails_is_rolled_back() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(&fleet, "V3__one.sql", "CREATE TABLE one (a int);");
    add(&fleet, "V4__two.sql", "CREATE INDEX ON one (a);\nCREATE TABLE two (a int);");
    add(&fleet, "V5__three.sql", "CREATE TABLE three (a int);\nCREATE TABLE one (a int);");
    let (code, _, error) = fleet.run(&["migrate", "--tenant", "a"]).await;
    assert!(code == 1 && error.contains("V5__three.sql") && error.contains("already exists"), "{error}");
    assert_eq!(versions(&fleet, "a").await, [1, 2, 3, 4]);
    let sql = "SELECT array_agg(relname::text ORDER BY relname) FROM pg_class WHERE relname IN ('one', 'two', 'three')";
    let made = fleet.admin("a").await.query_one(sql, &[]).await.unwrap().get::<_, Vec<String>>(0);
    assert_eq!(made, ["one", "two"]);
    assert_eq!(fleet.row("a").await.record.lineage().unwrap().version, 4);
}

/// What the tenant's database says was applied.
async fn versions(fleet: &TestFleet, slug: &str) -> Vec<i64> {
    let sql = "SELECT version::int8 FROM manybox.schema_history ORDER BY version";
    fleet.admin(slug).await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn what_somebody_else_left_is_not_laid_at_a_files_door() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let grant = "GRANT CREATE ON SCHEMA public TO CURRENT_USER; CREATE TABLE public.stray (a int)";
    let admin = fleet.admin("a").await;
    admin.batch_execute(grant).await.unwrap();
    add(&fleet, "V3__colour.sql", "ALTER TABLE items ADD COLUMN colour text;");
    let (code, _, error) = fleet.run(&["migrate", "--tenant", "a"]).await;
    assert!(code == 1 && error.contains("before any file was applied") && error.contains("stray"), "{error}");
    assert_eq!(versions(&fleet, "a").await, [1, 2]);
    admin.batch_execute("DROP TABLE public.stray").await.unwrap();
    assert_eq!(fleet.run(&["migrate", "--tenant", "a"]).await.0, 0);
    assert_eq!(versions(&fleet, "a").await, [1, 2, 3]);
}

#[tokio::test]
async fn each_file_finds_the_session_as_the_first_did() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(&fleet, "V3__lost.sql", "SET search_path TO pg_catalog; CREATE TABLE public.lost (a int);");
    add(
        &fleet,
        "V4__index.sql",
        "-- manybox: no-transaction\nCREATE INDEX CONCURRENTLY made_at ON items (made);",
    );
    add(&fleet, "V5__found.sql", "CREATE TABLE found (a int);");
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(versions(&fleet, "a").await, [1, 2, 3, 4, 5]);
    fleet.owner("a").await.batch_execute("SELECT FROM public.found").await.unwrap();
}

#[tokio::test]
async fn versions_may_be_timestamps() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(&fleet, "V20240115180414__dated.sql", "CREATE TABLE dated (a int);");
    add(
        &fleet,
        "V20240115180415__index.sql",
        "-- manybox: no-transaction\nCREATE INDEX CONCURRENTLY dated_a ON dated (a);",
    );
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    fleet.create("born").await;
    for slug in ["a", "born"] {
        assert_eq!(versions(&fleet, slug).await, [1, 2, 20_240_115_180_414, 20_240_115_180_415]);
        assert_eq!(fleet.row(slug).await.record.lineage().unwrap().version, 20_240_115_180_415);
    }
    assert_eq!(status(&fleet).await["summary"]["current"], 2);
}

#[tokio::test]
async fn refinery_reads_the_history() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let text = "CREATE TABLE third (a int);";
    add(&fleet, "V3__third.sql", text);
    assert_eq!(fleet.run(&["migrate"]).await.0, 0);
    let mut runner = refinery::Runner::new(&[]);
    runner.set_migration_table_name("manybox.schema_history");
    let mut admin = fleet.admin("a").await;
    let applied = runner.get_applied_migrations_async(&mut *admin).await.unwrap();
    let third = refinery::Migration::unapplied("V3__third.sql", text).unwrap();
    assert_eq!(applied.iter().map(refinery::Migration::version).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((applied[2].name(), applied[2].checksum()), ("third", third.checksum()));
}

#[tokio::test]
async fn templates_take_turns() {
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = crate::support::private_server(folder.path().join("own"), false).await;
    let fleet = TestFleet::builder().tenants(&["a"]).build_on(&server.admin_url()).await;
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let names = async || -> Vec<String> {
        let sql = r"SELECT datname::text FROM pg_database WHERE datname LIKE 'mb\_t\_%' ORDER BY 1";
        admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let mut pairs = Vec::new();
    for version in 3..7 {
        add(&fleet, &format!("V{version}__more.sql"), &format!("CREATE TABLE more_{version} (a int);"));
        let (code, _, error) = fleet.run(&["migrate"]).await;
        assert_eq!(code, 0, "{error}");
        pairs.push(names().await);
        let slug = format!("t{version}");
        let new = fleet.create(&slug).await;
        assert_eq!(new.record.lineage().unwrap().version, version);
        assert_eq!(versions(&fleet, &slug).await.last(), Some(&version));
    }
    assert!(pairs[0].len() == 2 && pairs.iter().all(|pair| *pair == pairs[0]), "{pairs:?}");
    // One that was changed by hand is not built upon.
    let stale =
        fleet.fleet.catalog.templates().await.unwrap().into_iter().find(|t| t.state == "stale").unwrap();
    let name = &stale.database;
    admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await.unwrap();
    let hand = fleet.fleet.servers.get("main").unwrap().connect_admin_to(name).await.unwrap();
    hand.batch_execute("SET ROLE mb_owner; CREATE TABLE public.more_7 (a int)").await.unwrap();
    hand.close().await;
    add(&fleet, "V7__more.sql", "CREATE TABLE more_7 (a int);");
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    assert!(!names().await.contains(name), "it is dropped");
    assert_eq!(fleet.create("last").await.record.lineage().unwrap().version, 7);
    drop(admin);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_rollout_killed_anywhere_goes_on() {
    let slugs = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let fleet = TestFleet::builder().tenants(&slugs).build().await;
    let (mut version, mut whole) = (3, std::time::Duration::ZERO);
    for round in 0..12_u32 {
        // Not repeatable: applied twice, it fails.
        add(&fleet, &format!("V{version}__more.sql"), &format!("CREATE TABLE more_{version} (a int);"));
        let begun = std::time::Instant::now();
        if round > 0 {
            let mut child = fleet.program(&["migrate", "--json"]);
            let child = child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            let mut child = child.spawn().unwrap();
            // Spread over the time that a whole rollout takes here.
            tokio::time::sleep(whole * round / 12).await;
            let _ = child.kill();
            let _ = child.wait();
        }
        let (code, _, error) = fleet.run(&["migrate"]).await;
        assert_eq!(code, 0, "{error}");
        if round == 0 {
            whole = begun.elapsed();
        }
        version += 1;
    }
    let now = status(&fleet).await;
    assert_eq!((&now["summary"]["current"], &now["summary"]["failed"]), (&json!(8), &json!(0)));
    for slug in slugs {
        assert_eq!(versions(&fleet, slug).await, (1..version).collect::<Vec<_>>(), "{slug}");
    }
}
