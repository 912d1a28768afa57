//! Rehearsals: pending files on copies of real tenants, which say what they lock, rewrite and leave, and are then gone.

use std::process::Command;

use serde_json::Value;

use crate::support::{Running, TestFleet, eventually, private_server};

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

async fn rehearse(fleet: &TestFleet, arguments: &[&str]) -> (i32, Value, String) {
    let arguments: Vec<_> = ["migrate", "rehearse", "--json"].iter().chain(arguments).copied().collect();
    let (code, out, error) = fleet.run(&arguments).await;
    (code, serde_json::from_str(&out).unwrap_or_default(), error)
}

/// Copies, and logins of copies, that are there for a tenant's database.
async fn leftovers(fleet: &TestFleet, slug: &str) -> i64 {
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let database = fleet.row(slug).await.record.database();
    let operators = format!("mb_p_{}_", database.strip_prefix("mb_").unwrap());
    let sql = "SELECT (SELECT count(*) FROM pg_roles WHERE starts_with(rolname, $1))";
    admin.query_one(sql, &[&operators]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_rehearsal_says_what_files_do_and_leaves_the_tenant_alone() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).serve().await;
    let owner = fleet.owner("a").await;
    owner
        .batch_execute("INSERT INTO items (name, made) SELECT 'x' || i, now() FROM generate_series(1, 500) i")
        .await
        .unwrap();
    let pool = fleet.get("/a/items?limit=1").await;
    assert_eq!(pool.status, 200, "a connection of the pool's is there: {}", pool.text);
    add(
        &fleet,
        "V3__wide.sql",
        "ALTER TABLE items ALTER COLUMN made TYPE text; CREATE TABLE fresh (id int);",
    );
    add(&fleet, "V4__rows.sql", "UPDATE items SET name = name || '!'; CREATE INDEX ON notes (body);");
    let (code, found, error) = rehearse(&fleet, &["--tenant", "a"]).await;
    assert_eq!(code, 0, "{error} {found}");
    let [a] = found.as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!((&a["slug"], &a["before"], &a["after"]), (&"a".into(), &2.into(), &4.into()), "{found}");
    assert_eq!(a["failure"], Value::Null);
    assert_eq!(a["drift"], serde_json::json!({ "missing": [], "extra": [], "changed": [] }), "{found}");
    let (wide, rows) = (&a["files"][0], &a["files"][1]);
    assert_eq!(wide["file"], "V3__wide.sql");
    assert_eq!(wide["locks"], serde_json::json!([{ "table": "public.items", "mode": "ACCESS EXCLUSIVE" }]));
    assert_eq!(wide["rewritten"][0]["table"], "public.items");
    assert_eq!(rows["rows"], 500);
    assert_eq!(
        rows["locks"],
        serde_json::json!([
            { "table": "public.items", "mode": "ROW EXCLUSIVE" },
            { "table": "public.notes", "mode": "SHARE" },
        ])
    );
    assert_eq!(a["left_out"], serde_json::json!([]), "{found}");

    assert_eq!(fleet.row("a").await.record.lineage().unwrap().version, 2);
    let there = owner.query_one("SELECT to_regclass('public.fresh') IS NULL", &[]).await.unwrap();
    assert!(there.get::<_, bool>(0));
    assert_eq!(fleet.get("/a/items?limit=1").await.status, 200);
    assert_eq!(leftovers(&fleet, "a").await, 0);
    let (code, out, _) = fleet.run(&["migrate", "rehearse", "--sample", "5"]).await;
    assert!(code == 0 && out.contains("a (shop): 2 to 4") && out.contains("b (shop): 2 to 4"), "{out}");
}

#[tokio::test]
async fn a_file_that_fails_on_a_tenants_rows_fails_in_the_rehearsal() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    fleet.owner("a").await.batch_execute("INSERT INTO notes VALUES (1, NULL)").await.unwrap();
    fleet.owner("b").await.batch_execute("ALTER TABLE notes ADD COLUMN own int").await.unwrap();
    add(&fleet, "V3__strict.sql", "ALTER TABLE notes ALTER COLUMN body SET NOT NULL;");
    let (code, found, error) = rehearse(&fleet, &["--sample", "2"]).await;
    assert!(code == 1 && error.contains("went wrong for a, b"), "{error}");
    assert!(found[0]["failure"].to_string().contains("V3__strict.sql"), "{found}");
    assert!(found[1]["drift"]["extra"][0]["name"].to_string().contains("column own"), "{found}");

    let (code, _, error) = rehearse(&fleet, &["--tenant", "a", "--max-size", "1"]).await;
    assert!(code == 1 && error.contains("--max-size"), "{error}");
    let mut without = fleet.program(&["migrate", "rehearse", "--tenant", "a"]);
    without.env("MANYBOX_PG_BIN", "/nowhere");
    let output = tokio::task::spawn_blocking(move || without.output()).await.unwrap().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("pg_dump could not be started"), "{error}");
    assert_eq!(leftovers(&fleet, "a").await, 0);
}

#[tokio::test]
async fn what_a_killed_rehearsal_left_is_swept_and_an_interrupted_one_leaves_nothing() {
    // A server of its own: a copy doesn't tell whose it is.
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = private_server(folder.path().join("own"), false).await;
    let fleet = TestFleet::builder().tenants(&["a"]).build_on(&server.admin_url()).await;
    add(&fleet, "V3__slow.sql", "SELECT pg_sleep(60);");
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let copies = || async {
        let sql = "SELECT datname::text FROM pg_stat_activity
                   WHERE starts_with(datname, 'mb_x_') AND starts_with(usename, 'mb_m_x_')";
        let rows = admin.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    let is_there = |name: String| {
        let admin = &admin;
        async move {
            let sql = "SELECT count(*) FROM pg_database WHERE datname = $1";
            admin.query_one(sql, &[&name]).await.unwrap().get::<_, i64>(0) == 1
        }
    };
    let mut running = Running(fleet.program(&["migrate", "rehearse", "--tenant", "a"]).spawn().unwrap());
    eventually("the copy is migrated", || async { !copies().await.is_empty() }).await;
    let killed = copies().await.remove(0);
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    assert!(is_there(killed.clone()).await);

    let mut running = Running(fleet.program(&["migrate", "rehearse", "--tenant", "a"]).spawn().unwrap());
    eventually("another copy is migrated", || async { copies().await.iter().any(|name| *name != killed) })
        .await;
    assert!(!is_there(killed.clone()).await, "the next one swept it");
    let interrupted = copies().await.into_iter().find(|name| *name != killed).unwrap();
    let pid = running.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let status = running.0.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(!is_there(interrupted).await);
    assert_eq!(leftovers(&fleet, "a").await, 0);
    drop(admin);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_rehearsal_tries_files_as_they_are_migrated_and_goes_on_where_the_tenant_stopped() {
    let fleet = TestFleet::builder().toml("[migrate]\nlock_timeout = '123ms'").tenants(&["a"]).build().await;
    // Half done in the tenant: what is done there is done in the copy.
    let steps = "-- manybox: no-transaction\nCREATE TABLE steps (a int);\nVACUUM steps;\n";
    add(&fleet, "V3__steps.sql", &format!("{steps}SELECT 1 / 0;"));
    assert_eq!(fleet.run(&["migrate", "--tenant", "a"]).await.0, 1);
    add(&fleet, "V3__steps.sql", &format!("{steps}SELECT 1;"));
    let timeout = "DO $$ BEGIN PERFORM set_config('lock_' || 'timeout', '0', false); END $$;\n\
                   DO $$ BEGIN IF current_setting('lock_timeout') = '0' THEN RAISE 'no timeout'; END IF; END $$;\n\
                   CREATE INDEX ON items (made);";
    add(&fleet, "V4__timeout.sql", timeout);
    let (code, found, error) = rehearse(&fleet, &["--tenant", "a"]).await;
    assert_eq!(code, 0, "{error} {found}");
    let files = &found[0]["files"];
    assert!(files[0]["untried"].to_string().contains("outside transactions"), "{found}");
    assert_eq!(
        (&files[1]["untried"], &files[1]["locks"][0]["table"]),
        (&Value::Null, &"public.items".into())
    );
}

#[tokio::test]
async fn rows_that_their_owner_may_not_see_are_in_the_copy() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    fleet
        .owner("a")
        .await
        .batch_execute(
            "ALTER TABLE secrets NO FORCE ROW LEVEL SECURITY; INSERT INTO secrets VALUES (1, 'o', 'taken');
             ALTER TABLE secrets FORCE ROW LEVEL SECURITY",
        )
        .await
        .unwrap();
    add(&fleet, "V3__words.sql", "ALTER TABLE secrets ADD CONSTRAINT free CHECK (word <> 'taken');");
    let (code, found, error) = rehearse(&fleet, &["--tenant", "a"]).await;
    assert!(code == 1 && found[0]["failure"].to_string().contains("free"), "{error} {found}");
    assert_eq!(found[0]["left_out"], serde_json::json!([]), "{found}");
    assert_eq!(leftovers(&fleet, "a").await, 0);
}

#[tokio::test]
async fn a_policy_can_ask_for_rehearsals() {
    let fleet = TestFleet::builder()
        .tenants(&["a", "b", "c"])
        .toml("[rollouts.careful]\nrehearse = 2\n[[rollouts.careful.waves]]\nname = 'all'")
        .build()
        .await;
    let file = fleet.folder.path().join("migrations/shop/V3__more.sql");
    std::fs::write(&file, "CREATE TABLE more (id int PRIMARY KEY);").unwrap();
    let asked = async || fleet.run(&["migrate", "--policy", "careful"]).await;
    let (code, _, error) = asked().await;
    assert!(
        code == 1 && error.contains("2 tenant(s) of edition `shop`, and these files passed on 0"),
        "{error}"
    );
    // Nobody asked for a plan, and none is left.
    assert_eq!(fleet.fleet.catalog.rollouts_open().await.unwrap().len(), 0);
    assert_eq!(fleet.run(&["migrate", "rehearse", "--tenant", "a"]).await.0, 0);
    assert!(asked().await.2.contains("passed on 1"));
    // Others than those that passed.
    std::fs::write(&file, "CREATE TABLE more (id bigint PRIMARY KEY);").unwrap();
    assert!(asked().await.2.contains("passed on 0"));
    let (code, out, error) = fleet.run(&["migrate", "rehearse", "--sample", "2"]).await;
    assert_eq!(code, 0, "{out} {error}");
    let (code, out, error) = asked().await;
    assert_eq!(code, 0, "{out} {error}");
    let (code, _, error) = fleet.run(&["migrate", "status", "--check"]).await;
    assert_eq!(code, 0, "{error}");
}
