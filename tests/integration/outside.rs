//! Files outside transactions: statement by statement, each once, continued where they stopped.

use manybox::migrate::{FailureKind, MigrationFailure, MigrationOutcome, Options};
use manybox::pg::Connection;
use tokio_util::sync::CancellationToken;

use crate::support::{Running, TestFleet, eventually};

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    let text = format!("-- manybox: no-transaction\n{sql}");
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), text).unwrap();
}

/// Migrates tenant `a`, and nothing else.
async fn migrate_a(fleet: &TestFleet) -> Result<MigrationOutcome, MigrationFailure> {
    migrate_with(fleet, &fleet.fleet.migrate_options()).await
}

async fn migrate_with(fleet: &TestFleet, options: &Options) -> Result<MigrationOutcome, MigrationFailure> {
    let record = fleet.row("a").await.record;
    let edition = fleet.fleet.edition("shop").unwrap();
    let stop = CancellationToken::new();
    fleet.fleet.migrate_database("main", &record.id.database(), 2, &edition, options, &stop).await.unwrap()
}

async fn text(client: &Connection, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Which statements have run, by the rows that they leave.
const RAN: &str = "SELECT string_agg(what, ' ' ORDER BY at) FROM public.ran";
const COUNTED: &str = "CREATE TABLE ran (at serial, what text);\nINSERT INTO ran (what) VALUES ('one');\nVACUUM items;\n\
                       INSERT INTO ran (what) VALUES ('two');\n";

#[tokio::test]
async fn statements_run_one_by_one_and_the_file_goes_on_where_it_failed() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(&fleet, "V3__steps.sql", &format!("{COUNTED}CREATE INDEX CONCURRENTLY items_made ON items (nix);"));
    let failure = migrate_a(&fleet).await.unwrap_err();
    let place = failure.place.clone().unwrap();
    assert_eq!(
        (failure.kind, place.line, place.statement),
        (FailureKind::Sql, Some(6), Some(5)),
        "{failure}"
    );
    assert_eq!(failure.reached, 2);
    let admin = fleet.admin("a").await;
    assert_eq!(text(&admin, RAN).await, "one two");

    // What is done must stay what it was; what is behind it may be mended.
    let mended =
        "CREATE INDEX CONCURRENTLY items_made ON items (made);\nINSERT INTO ran (what) VALUES ('three');";
    add(&fleet, "V3__steps.sql", &format!("{}{mended}", COUNTED.replace("'one'", "'uno'")));
    let failure = migrate_a(&fleet).await.unwrap_err();
    assert!(
        failure.kind == FailureKind::Divergent && failure.message.contains("first 4 statement"),
        "{failure}"
    );
    add(&fleet, "V3__steps.sql", &format!("{COUNTED}{mended}"));
    let outcome = migrate_a(&fleet).await.unwrap();
    assert_eq!((outcome.after, outcome.applied), (3, vec![3]));
    assert_eq!(text(&admin, RAN).await, "one two three");
    let left = "SELECT count(*)::text FROM manybox.schema_unfinished";
    assert_eq!(text(&admin, left).await, "0");

    // The whole fleet, and whoever is born later, has it as well.
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    fleet.create("born").await;
    assert_eq!(text(&fleet.admin("born").await, RAN).await, "one two three");
}

#[tokio::test]
async fn a_file_that_was_begun_can_be_marked_as_not_begun() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(&fleet, "V3__steps.sql", &format!("{COUNTED}SELECT 1 / 0;"));
    migrate_a(&fleet).await.unwrap_err();
    add(&fleet, "V3__steps.sql", &format!("{}SELECT 1;", COUNTED.replace("'one'", "'uno'")));
    migrate_a(&fleet).await.unwrap_err();
    fleet.owner("a").await.batch_execute("DROP TABLE public.ran").await.unwrap();
    let repair = ["migrate", "repair", "--edition", "shop", "--tenant", "a", "--mark-not-applied", "3"];
    let reason = ["--reason", "undone by hand"];
    let (code, out, error) = fleet.run(&[&repair[..], &["--dry-run"]].concat()).await;
    assert!(code == 0 && out.contains("not begun"), "{out}{error}");
    let (code, _, error) = fleet.run(&[&repair[..], &reason].concat()).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(migrate_a(&fleet).await.unwrap().after, 3);
    assert_eq!(text(&fleet.admin("a").await, RAN).await, "uno two");
}

/// Kills `manybox migrate --tenant a` as soon as this holds in the tenant's database.
async fn killed_when(fleet: &TestFleet, sql: &str) {
    let admin = fleet.admin("a").await;
    let mut command = fleet.program(&["migrate", "--tenant", "a"]);
    let command = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = Running(command.spawn().unwrap());
    eventually(sql, || async { admin.query_one(sql, &[]).await.is_ok_and(|row| row.get(0)) }).await;
    child.0.kill().unwrap();
    child.0.wait().unwrap();
}

#[tokio::test]
async fn a_file_killed_between_two_statements_goes_on_behind_the_first() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    fleet.owner("a").await.batch_execute("INSERT INTO public.items (name) VALUES ('x')").await.unwrap();
    add(
        &fleet,
        "V3__steps.sql",
        &format!("{COUNTED}SELECT pg_sleep(600) FROM items;\nINSERT INTO ran (what) VALUES ('three');"),
    );
    let asleep = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'public.items'::regclass AND mode = 'AccessShareLock'
                  AND pid <> pg_backend_pid())";
    killed_when(&fleet, asleep).await;
    add(&fleet, "V3__steps.sql", &format!("{COUNTED}INSERT INTO ran (what) VALUES ('three');"));
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(text(&fleet.admin("a").await, RAN).await, "one two three");
}

#[tokio::test]
async fn files_killed_anywhere_run_each_statement_once() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let mut whole = std::time::Duration::ZERO;
    for round in 0..10_u32 {
        let version = 3 + round;
        let table = format!("t{version}");
        let sql = format!(
            "CREATE TABLE {table} (a int);\nINSERT INTO {table} VALUES (1);\nCREATE INDEX CONCURRENTLY {table}_a ON {table} (a);\n\
             VACUUM {table};\nINSERT INTO {table} VALUES (2);\nDROP INDEX CONCURRENTLY {table}_a;\n\
             CREATE UNIQUE INDEX CONCURRENTLY {table}_b ON {table} (a);\nREINDEX TABLE CONCURRENTLY {table};"
        );
        add(&fleet, &format!("V{version}__steps.sql"), &sql);
        let begun = std::time::Instant::now();
        if round > 0 {
            let mut child = fleet.program(&["migrate", "--tenant", "a"]);
            let child = child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            let mut child = child.spawn().unwrap();
            // Spread over the time that a whole run takes here.
            tokio::time::sleep(whole * round / 10).await;
            let _ = child.kill();
            let _ = child.wait();
        }
        let (code, _, error) = fleet.run(&["migrate", "--tenant", "a"]).await;
        assert_eq!(code, 0, "{error}");
        whole = if round == 0 { begun.elapsed() } else { whole };
        let admin = fleet.admin("a").await;
        let rows = format!("SELECT string_agg(a::text, ' ' ORDER BY a) FROM public.{table}");
        assert_eq!(text(&admin, &rows).await, "1 2");
        let indexes = format!(
            "SELECT string_agg(indexrelid::regclass || ' ' || indisvalid, ',') FROM pg_index WHERE indrelid = 'public.{table}'::regclass"
        );
        assert!(text(&admin, &indexes).await.ends_with(&format!("{table}_b true")));
    }
}

#[tokio::test]
async fn settings_hold_for_the_statements_behind_them_and_nothing_else_does() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let sql = "CREATE SCHEMA app;\nSELECT pg_catalog.set_config('search_path', 'app', false);\nCREATE TABLE placed (a int);\n\
               CREATE INDEX CONCURRENTLY placed_a ON placed (a);\n\
               DO $$ BEGIN PERFORM set_config('search_path', 'public', false); END $$;\nINSERT INTO placed VALUES (1);\n\
               RESET search_path;\nSELECT 1 / count(*) FROM placed;";
    add(&fleet, "V3__placed.sql", sql);
    let failure = migrate_a(&fleet).await.unwrap_err();
    // RESET gives what the session began with, and there is no such table.
    assert_eq!(failure.place.clone().unwrap().line, Some(9), "{failure}");
    add(&fleet, "V3__placed.sql", &sql.replace("RESET search_path;", "SET search_path = app;"));
    migrate_a(&fleet).await.unwrap();
    let admin = fleet.admin("a").await;
    assert_eq!(text(&admin, "SELECT count(*)::text FROM app.placed").await, "1");
}

#[tokio::test]
async fn an_index_that_is_there_is_judged_by_what_it_is() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let owner = fleet.owner("a").await;
    owner.batch_execute("INSERT INTO public.items (name, price) VALUES ('x', 1), ('y', 1)").await.unwrap();
    let unique = "CREATE UNIQUE INDEX CONCURRENTLY items_price ON public.items (price)";
    let duplicate = owner.batch_execute(unique).await.unwrap_err();
    assert_eq!(duplicate.code().unwrap().code(), "23505");
    // It is invalid now, and somebody else's.
    let failing = async |sql: &str, says: &str| {
        add(&fleet, "V3__index.sql", sql);
        let failure = migrate_a(&fleet).await.unwrap_err();
        assert!(failure.message.contains(says) && failure.message.contains("V3__index.sql:"), "{failure}");
    };
    failing("CREATE INDEX CONCURRENTLY items_price ON items (price);", "and invalid").await;
    let valid = "SELECT string_agg(indrelid::regclass || ' ' || indisvalid, ',') FROM pg_index i
                 JOIN pg_class c ON c.oid = indexrelid WHERE relname = 'items_price'";
    assert_eq!(text(&owner, valid).await, "items false");
    let there = "CREATE INDEX CONCURRENTLY IF NOT EXISTS items_price ON items (price);\nSELECT 1 / 0;";
    failing(&there.replace("1 / 0", "2 / 0"), "division by zero").await;
    assert_eq!(text(&owner, valid).await, "items true");

    // Of a file that has come further than this, the index is its own; of another it is somebody's.
    add(&fleet, "V3__index.sql", &there.replace("1 / 0", "1"));
    assert_eq!(migrate_a(&fleet).await.unwrap().after, 3);
    add(&fleet, "V4__index.sql", "CREATE INDEX CONCURRENTLY items_price ON items (price);");
    let failure = migrate_a(&fleet).await.unwrap_err();
    assert!(failure.message.contains("is there already: drop it"), "{failure}");
    add(&fleet, "V4__index.sql", "CREATE INDEX CONCURRENTLY IF NOT EXISTS items_price ON notes (id);");
    let failure = migrate_a(&fleet).await.unwrap_err();
    assert!(failure.message.contains("on table items"), "{failure}");
    add(&fleet, "V4__index.sql", "CREATE INDEX CONCURRENTLY IF NOT EXISTS items_price ON items (price);");
    assert_eq!(migrate_a(&fleet).await.unwrap().after, 4);
}

#[tokio::test]
async fn a_partition_that_is_half_detached_is_detached() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let owner = fleet.owner("a").await;
    owner
        .batch_execute(
            "CREATE TABLE public.p (a int) PARTITION BY RANGE (a);
             CREATE TABLE public.q PARTITION OF public.p FOR VALUES FROM (0) TO (10)",
        )
        .await
        .unwrap();
    add(&fleet, "V3__detach.sql", "ALTER TABLE p DETACH PARTITION q CONCURRENTLY;\nDROP TABLE q;");
    let reader = fleet.owner("a").await;
    reader.batch_execute("BEGIN; SELECT FROM public.p").await.unwrap();
    // It waits for the reader, when the first half of it is committed.
    killed_when(&fleet, "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'public.q'::regclass")
        .await;
    reader.batch_execute("COMMIT").await.unwrap();
    assert_eq!(migrate_a(&fleet).await.unwrap().after, 3);
    assert_eq!(text(&owner, "SELECT (to_regclass('public.q') IS NULL)::text").await, "true");

    // The same when it gave up for want of a lock, without a crash.
    owner
        .batch_execute("CREATE TABLE public.q PARTITION OF public.p FOR VALUES FROM (0) TO (10)")
        .await
        .unwrap();
    add(
        &fleet,
        "V4__detach.sql",
        "SET lock_timeout = '50ms';\nALTER TABLE p DETACH PARTITION q CONCURRENTLY;",
    );
    reader.batch_execute("BEGIN; SELECT FROM public.p").await.unwrap();
    let options =
        Options { lock_patience: std::time::Duration::from_millis(300), ..fleet.fleet.migrate_options() };
    let failure = migrate_with(&fleet, &options).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Lock, "{failure}");
    reader.batch_execute("COMMIT").await.unwrap();
    assert_eq!(migrate_a(&fleet).await.unwrap().after, 4);
    assert_eq!(
        text(&owner, "SELECT count(*)::text FROM pg_inherits WHERE inhparent = 'public.p'::regclass").await,
        "0"
    );
}

#[tokio::test]
async fn what_an_interrupted_reindex_left_is_dropped() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    add(
        &fleet,
        "V3__reindex.sql",
        "REINDEX TABLE CONCURRENTLY items;\nREINDEX INDEX CONCURRENTLY items_pkey;",
    );
    let writer = fleet.owner("a").await;
    writer.batch_execute("BEGIN; INSERT INTO public.items (name) VALUES ('x')").await.unwrap();
    killed_when(&fleet, "SELECT EXISTS (SELECT FROM pg_class WHERE relname ~ '_ccnew')").await;
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(migrate_a(&fleet).await.unwrap().after, 3);
    assert_eq!(
        text(&writer, "SELECT count(*)::text FROM pg_class WHERE relname ~ '_cc(new|old)' AND relkind = 'i' AND relnamespace <> 'pg_toast'::regnamespace").await,
        "0"
    );
}

#[tokio::test]
async fn a_backfill_in_batches_goes_on_with_what_is_left() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let owner = fleet.owner("a").await;
    let rows = "INSERT INTO public.items (name) SELECT 'item ' || n FROM generate_series(1, 500) n";
    owner.batch_execute(rows).await.unwrap();
    let backfill = |pause: &str| {
        format!(
            "ALTER TABLE items ADD COLUMN colour text;\nDO $$\nBEGIN\n  LOOP\n    UPDATE items SET colour = 'red' WHERE id IN\n      \
             (SELECT id FROM items WHERE colour IS NULL LIMIT 100);\n    EXIT WHEN NOT FOUND;\n    COMMIT;\n    {pause}\n  \
             END LOOP;\nEND $$;\nALTER TABLE items ALTER COLUMN colour SET NOT NULL;"
        )
    };
    add(&fleet, "V3__backfill.sql", &backfill("PERFORM pg_sleep(600);"));
    killed_when(&fleet, "SELECT count(*) = 100 FROM public.items WHERE colour = 'red'").await;
    add(&fleet, "V3__backfill.sql", &backfill(""));
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(text(&owner, "SELECT count(*)::text FROM public.items WHERE colour = 'red'").await, "500");
}

#[tokio::test]
async fn timeouts_hold_outside_transactions() {
    let toml = "[migrate]\nlock_timeout = '100ms'\nlock_patience = '1s'";
    let fleet = TestFleet::builder().toml(toml).tenants(&["a"]).build().await;
    let reader = fleet.owner("a").await;
    reader.batch_execute("BEGIN; SELECT FROM public.items").await.unwrap();
    let raise = "DO $$ BEGIN PERFORM set_config('lock_' || 'timeout', '0', false); END $$;";
    add(&fleet, "V3__it.sql", &format!("{COUNTED}{raise}\nALTER TABLE items ADD COLUMN late int;"));
    let failure = migrate_a(&fleet).await.unwrap_err();
    assert!(failure.kind == FailureKind::Lock && failure.lock_retries > 0, "{failure}");
    assert_eq!(failure.place.unwrap().line, Some(7));
    assert_eq!(text(&fleet.admin("a").await, RAN).await, "one two");
    reader.batch_execute("COMMIT").await.unwrap();

    let show = "DO $$ BEGIN RAISE WARNING '% %', current_setting('lock_timeout'), current_setting('statement_timeout'); END $$;";
    let longest = std::time::Duration::from_secs(20);
    let options = Options { statement_timeout: Some(longest), ..fleet.fleet.migrate_options() };
    let said = async |version: i64, sql: &str| -> Vec<String> {
        add(&fleet, &format!("V{version}__show.sql"), &format!("{sql}\n{show}\nVACUUM notes;\n{show}"));
        let outcome = migrate_with(&fleet, &options).await.unwrap();
        let of_file = outcome.notices.into_iter().filter(|notice| notice.file.contains("show"));
        of_file.map(|notice| notice.message).collect()
    };
    assert_eq!(
        said(4, "SET lock_timeout = '7ms';\nSET statement_timeout = '1s';").await,
        ["7ms 1s", "7ms 1s"]
    );
    let computed = "SELECT set_config('statement_' || 'timeout', '1h', false);";
    assert!(said(5, computed).await.iter().all(|said| said.ends_with(" 20s")));
    let allowed = "-- manybox: allow raises-timeout because nobody reads it\nSET lock_timeout = '30s';";
    assert_eq!(said(6, allowed).await, ["30s 20s", "30s 20s"]);
    // Without a reason it is refused, where requests could stand behind it.
    add(&fleet, "V7__it.sql", "SET lock_timeout = '30s';\nALTER TABLE items ADD COLUMN later int;");
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert!(code == 1 && error.contains("V7__it.sql:2"), "{error}");
    add(
        &fleet,
        "V7__it.sql",
        "SET lock_timeout = '30s';\nCREATE INDEX CONCURRENTLY items_made ON items (made);",
    );
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
}

#[tokio::test]
async fn databases_of_an_older_manybox_get_room_for_the_record() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let older =
        "SET ROLE mb_history; ALTER TABLE manybox.schema_unfinished DROP COLUMN done, DROP COLUMN checksum,
                 ALTER begun_at SET NOT NULL";
    fleet.admin("a").await.batch_execute(older).await.unwrap();
    add(&fleet, "V3__steps.sql", &format!("{COUNTED}VACUUM;"));
    assert_eq!(migrate_a(&fleet).await.unwrap().after, 3);
    assert_eq!(text(&fleet.admin("a").await, RAN).await, "one two");
}

#[tokio::test]
async fn a_statement_that_leaves_the_owners_role_is_rolled_back_and_not_recorded() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let leaves =
        "DO $$ BEGIN CREATE TABLE left_behind (); PERFORM set_config('role', 'mb_migrator', false); END $$;";
    add(&fleet, "V3__steps.sql", &format!("{COUNTED}{leaves}"));
    let failure = migrate_a(&fleet).await.unwrap_err();
    assert!(failure.kind == FailureKind::Owner && failure.message.contains("V3__steps.sql:6"), "{failure}");
    let admin = fleet.admin("a").await;
    assert_eq!(text(&admin, "SELECT (to_regclass('public.left_behind') IS NULL)::text").await, "true");
    assert_eq!(text(&admin, "SELECT done::text FROM manybox.schema_unfinished").await, "4");
    add(&fleet, "V3__steps.sql", &format!("{COUNTED}SELECT 1;"));
    assert_eq!(migrate_a(&fleet).await.unwrap().after, 3);
}
