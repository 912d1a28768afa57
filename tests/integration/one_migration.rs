//! The migration of one database: where it failed and what it said, how it is stopped, what it waits for.

use manybox::migrate::{Activity, FailureKind, MigrationFailure, MigrationOutcome, Options};
use tokio_util::sync::CancellationToken;

use crate::support::{Running, TestFleet, eventually};

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

/// Migrates tenant `a`, and nothing else.
async fn migrate_a(
    fleet: &TestFleet,
    options: &Options,
    stop: &CancellationToken,
) -> Result<MigrationOutcome, MigrationFailure> {
    let record = fleet.row("a").await.record;
    let edition = fleet.fleet.edition("shop").unwrap();
    fleet.fleet.migrate_database("main", &record.id.database(), 2, &edition, options, stop).await.unwrap()
}

async fn failure_of(fleet: &TestFleet, sql: &str) -> MigrationFailure {
    add(fleet, "V3__it.sql", sql);
    let options = fleet.fleet.migrate_options();
    migrate_a(fleet, &options, &CancellationToken::new()).await.unwrap_err()
}

/// How many sessions the migrator of tenant `a` has.
async fn sessions(fleet: &TestFleet) -> i64 {
    let database = fleet.row("a").await.record.id.database();
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND usename LIKE 'mb\\_m\\_%'";
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    admin.query_one(sql, &[&database]).await.unwrap().get(0)
}

#[tokio::test]
async fn errors_at_run_time_name_line_and_statement_and_all_that_the_server_said() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let failure = failure_of(
        &fleet,
        "-- a comment; with a semicolon\nCREATE TABLE t (a int CONSTRAINT small CHECK (a < 10));\n\n\
         CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;\n\
         INSERT INTO t\n  VALUES (1), (20);\nDROP TABLE t;",
    )
    .await;
    assert_eq!(failure.kind, FailureKind::Sql);
    let place = failure.place.clone().unwrap();
    assert_eq!((place.file.as_str(), place.line, place.statement), ("V3__it.sql", Some(5), Some(3)));
    assert!(place.text.as_deref().unwrap().starts_with("INSERT INTO t"));
    let server = failure.server.clone().unwrap();
    assert_eq!((server.sqlstate.as_str(), server.table.as_deref()), ("23514", Some("t")));
    assert_eq!((server.schema.as_deref(), server.constraint.as_deref()), (Some("public"), Some("small")));
    assert!(server.detail.as_deref().unwrap().contains("(20)"));
    for said in ["V3__it.sql:5", "23514", "(20)", "statement 3", "INSERT INTO t VALUES (1), (20)"] {
        assert!(failure.message.contains(said), "{failure}");
    }
    let json = serde_json::to_string(&failure).unwrap();
    assert_eq!(serde_json::from_str::<MigrationFailure>(&json).unwrap(), failure);

    let raise = "CREATE TABLE t (a int);\nDO $$\nBEGIN\n  RAISE NOTICE 'begun';\n  RAISE EXCEPTION 'no'\n    USING \
                 DETAIL = 'why', HINT = 'do that';\nEND $$;";
    let failure = failure_of(&fleet, raise).await;
    let (place, server) = (failure.place.unwrap(), failure.server.unwrap());
    assert_eq!((place.line, place.statement), (Some(2), Some(2)));
    assert_eq!((server.detail.as_deref(), server.hint.as_deref()), (Some("why"), Some("do that")));
    assert!(server.context.unwrap().contains("line 4 at RAISE"));
    assert_eq!(failure.notices[0].to_string(), "V3__it.sql:2: NOTICE: begun");
    // Where the server points at a character, that line; where a constraint is deferred, the file.
    let failure = failure_of(&fleet, "CREATE TABLE t (\n  a int,\n  b nonsense\n);").await;
    assert_eq!(failure.place.unwrap().line, Some(3));
    let deferred =
        "CREATE TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED);\nINSERT INTO t VALUES (1), (1);";
    let failure = failure_of(&fleet, deferred).await;
    assert_eq!(failure.server.unwrap().sqlstate, "23505");
    assert_eq!(failure.place.unwrap().to_string(), "V3__it.sql");
}

#[tokio::test]
async fn what_files_say_is_kept_with_its_place_and_within_bounds() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(
        &fleet,
        "V3__it.sql",
        "CREATE TABLE t (a int);\nDO $$ BEGIN RAISE WARNING 'first'; END $$;\n\
         DO $$ BEGIN FOR i IN 1..1000 LOOP RAISE NOTICE '%', repeat('x', 10000); END LOOP; END $$;",
    );
    let options = fleet.fleet.migrate_options();
    let outcome = migrate_a(&fleet, &options, &CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.notices[0].to_string(), "V3__it.sql:2: WARNING: first");
    assert!(outcome.notices[1].line == Some(3) && outcome.notices.len() <= 100);
    assert!(outcome.notices.iter().all(|notice| notice.message.len() <= 1_003));
}

#[tokio::test]
async fn what_runs_is_cancelled_when_a_migration_is_told_to_stop() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(&fleet, "V3__first.sql", "CREATE TABLE first (a int);");
    add(&fleet, "V4__long.sql", "ALTER TABLE items ADD COLUMN late int;\nSELECT pg_sleep(600);");
    let (options, stop) = (fleet.fleet.migrate_options(), CancellationToken::new());
    let mut activity = options.activity.subscribe();
    let stopping = async {
        let sleeps =
            |now: &Activity| matches!(now, Activity::Applying { place, .. } if place.line == Some(2));
        activity.wait_for(sleeps).await.unwrap();
        stop.cancel();
    };
    let (outcome, ()) = tokio::join!(migrate_a(&fleet, &options, &stop), stopping);
    let failure = outcome.unwrap_err();
    assert_eq!((failure.kind, failure.reached), (FailureKind::Stopped, 3), "{failure}");
    assert!(failure.message.contains("V4__long.sql:2"), "{failure}");
    assert_eq!(sessions(&fleet).await, 0, "its session is closed");
    // Nothing holds the table, and the file that was stopped left nothing.
    fleet.owner("a").await.batch_execute("ALTER TABLE public.items ADD COLUMN late int").await.unwrap();
}

#[tokio::test]
async fn a_statement_that_shrugs_cancelling_off_is_ended() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let stubborn = "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; \
                    END $$;";
    add(&fleet, "V3__stubborn.sql", stubborn);
    let (options, stop) = (fleet.fleet.migrate_options(), CancellationToken::new());
    let mut activity = options.activity.subscribe();
    let stopping = async {
        activity.wait_for(|now| matches!(now, Activity::Applying { .. })).await.unwrap();
        stop.cancel();
    };
    let (outcome, ()) = tokio::join!(migrate_a(&fleet, &options, &stop), stopping);
    assert_eq!(outcome.unwrap_err().kind, FailureKind::Stopped);
    assert_eq!(sessions(&fleet).await, 0);
}

/// Starts the command on a file that holds the table `items` of tenant `a` for minutes, and waits until it does.
async fn long_command(fleet: &TestFleet, admin: &tokio_postgres::Client) -> Running {
    fleet.owner("a").await.batch_execute("INSERT INTO public.items (name) VALUES ('x')").await.unwrap();
    // The template has no rows. What manybox sets for the session is what a function may reset.
    let sql = "DO $$ BEGIN EXECUTE 'RESET ALL'; END $$; ALTER TABLE public.items ADD COLUMN late int;
               SELECT pg_sleep(600) FROM public.items;";
    add(fleet, "V3__long.sql", sql);
    let mut command = fleet.program(&["migrate", "--tenant", "a"]);
    let command = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let child = Running(command.spawn().unwrap());
    eventually("the statement runs", || async { locks(admin).await == 1 }).await;
    child
}

async fn locks(admin: &tokio_postgres::Client) -> i64 {
    let held = "SELECT count(*) FROM pg_locks WHERE relation = 'public.items'::regclass AND mode = 'AccessExclusiveLock'";
    admin.query_one(held, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_statement_ends_with_the_command_that_was_killed() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let admin = fleet.admin("a").await;
    let mut child = long_command(&fleet, &admin).await;
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    eventually("the table is free, though nobody came back", || async { locks(&admin).await == 0 }).await;
}

#[tokio::test]
async fn nothing_runs_when_a_command_that_was_interrupted_has_ended() {
    for signal in ["-INT", "-TERM"] {
        let fleet = TestFleet::builder().tenants(&["a"]).build().await;
        let admin = fleet.admin("a").await;
        let mut child = long_command(&fleet, &admin).await;
        let pid = child.0.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let ended = tokio::task::spawn_blocking(move || child.0.wait()).await.unwrap().unwrap();
        assert!(!ended.success(), "{signal}: {ended}");
        assert_eq!((locks(&admin).await, sessions(&fleet).await), (0, 0), "{signal}");
        assert_eq!(fleet.row("a").await.record.lineage().unwrap().version, 2, "{signal}");
    }
}

#[tokio::test]
async fn timeouts_that_files_raise_are_taken_back() {
    let toml = "[migrate]\nlock_timeout = '100ms'\nlock_patience = '2s'";
    let fleet = TestFleet::builder().toml(toml).tenants(&["a"]).build().await;
    let reader = fleet.owner("a").await;
    reader
        .batch_execute("SET application_name = 'the reader'; BEGIN; SELECT FROM public.items")
        .await
        .unwrap();
    let raise = "DO $$ BEGIN PERFORM set_config('lock_' || 'timeout', '0', false); END $$;\n";
    let failure = failure_of(&fleet, &format!("{raise}ALTER TABLE items ADD COLUMN late int;")).await;
    assert_eq!(failure.kind, FailureKind::Lock, "{failure}");
    assert!(failure.lock_retries > 0 && failure.message.contains("lock_patience"), "{failure}");
    assert!(
        failure.message.contains("held by process") && failure.message.contains("the reader"),
        "{failure}"
    );
    assert_eq!(failure.place.unwrap().line, Some(2));
    // Lower is theirs to choose, and kept.
    let lower = "SET lock_timeout = '7ms';\nSELECT 1;\n\
                 DO $$ BEGIN RAISE WARNING '%', current_setting('lock_timeout'); END $$;";
    add(&fleet, "V3__it.sql", lower);
    let options = fleet.fleet.migrate_options();
    let outcome = migrate_a(&fleet, &options, &CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.notices[0].message, "7ms");
}

#[tokio::test]
async fn another_migrator_is_named_at_once() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let database = fleet.row("a").await.record.id.database();
    let held = fleet.fleet.migrator("main", &database).await.unwrap();
    let (options, stop) = (fleet.fleet.migrate_options(), CancellationToken::new());
    let mut activity = options.activity.subscribe();
    let told = async {
        let now = activity.wait_for(|now| matches!(now, Activity::Waiting { .. })).await.unwrap().to_string();
        let own = format!("manybox[{}]", std::process::id());
        assert!(now.contains(&own) && now.contains("ago") && now.contains("client is connected"), "{now}");
        stop.cancel();
    };
    let (outcome, ()) = tokio::join!(migrate_a(&fleet, &options, &stop), told);
    let failure = outcome.unwrap_err();
    assert!(failure.kind == FailureKind::Stopped && failure.message.contains("process"), "{failure}");
    held.close().await.unwrap();
    let outcome = migrate_a(&fleet, &options, &CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.after, 2);
}

#[tokio::test]
async fn files_below_what_was_applied_are_applied_where_that_is_allowed() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(&fleet, "V5__late.sql", "CREATE TABLE late (a int);");
    let (options, stop) = (fleet.fleet.migrate_options(), CancellationToken::new());
    migrate_a(&fleet, &options, &stop).await.unwrap();
    add(&fleet, "V3__early.sql", "CREATE TABLE early (a int);");
    let failure = migrate_a(&fleet, &options, &stop).await.unwrap_err();
    assert!(
        failure.kind == FailureKind::OutOfOrder && failure.message.contains("V3__early.sql"),
        "{failure}"
    );
    let allowed = Options { allow_out_of_order: true, ..options };
    let outcome = migrate_a(&fleet, &allowed, &stop).await.unwrap();
    assert_eq!((outcome.before, outcome.after, outcome.applied), (5, 5, vec![3]));
    // The same history as of a database that had them in order.
    assert_eq!(outcome.history, fleet.fleet.edition("shop").unwrap().history_digest(5));
}

#[tokio::test]
async fn the_setting_that_patience_replaced_is_named() {
    let fleet = TestFleet::builder().build().await;
    let file = fleet.folder.path().join("tenants.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[migrate]\nlock_retries = 3\n")).unwrap();
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert!(code != 0 && error.contains("migrate.lock_patience"), "{error}");
}
