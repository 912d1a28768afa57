//! One rollout whose executors are killed, doubled and interrupted at many points of it.

use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use super::{add, json, states, version};
use crate::support::{Running, TestFleet, eventually};

const KILLS: u64 = 20;
const WAVES: &str = "[[rollouts.default.waves]]\nname = 'canaries'\ntenants = ['t01', 't02']\n\
                     [[rollouts.default.waves]]\nname = 'tenth'\npercent = 10\n\
                     [[rollouts.default.waves]]\nname = 'rest'\n";
const SLUGS: [&str; 20] = [
    "t01", "t02", "t03", "t04", "t05", "t06", "t07", "t08", "t09", "t10", "t11", "t12", "t13", "t14", "t15",
    "t16", "t17", "t18", "t19", "t20",
];

fn spawn(fleet: &TestFleet, arguments: &[&str]) -> Running {
    let mut program = fleet.program(arguments);
    Running(program.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Kills it as the kernel does, and says whether it was still at work.
fn kill(child: &mut Child) -> bool {
    let was_at_work = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    was_at_work
}

/// The sessions in these databases.
async fn sessions(fleet: &TestFleet, databases: &[String]) -> i64 {
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = ANY ($1)";
    admin.query_one(sql, &[&databases]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_of_one_rollout_lose_nothing_and_repeat_nothing() {
    let fleet = TestFleet::builder().toml(WAVES).tenants(&SLUGS).build().await;
    // Rows say what was committed; the sequence, which no rollback reaches, how often it was tried.
    add(&fleet, "V3__ran.sql", "CREATE TABLE ran (version int); CREATE SEQUENCE tries;");
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    add(
        &fleet,
        "V4__slow.sql",
        "SELECT nextval('tries'); INSERT INTO ran VALUES (4); SELECT pg_sleep(0.1); ALTER TABLE items ADD COLUMN kind text;",
    );
    add(
        &fleet,
        "V5__index.sql",
        "-- manybox: no-transaction\nCREATE INDEX CONCURRENTLY items_by_kind ON items (kind);\n",
    );
    add(
        &fleet,
        "V6__after.sql",
        "INSERT INTO ran VALUES (6); SELECT pg_sleep(0.1); CREATE TABLE after (a int);",
    );
    let mut databases = Vec::new();
    for slug in SLUGS {
        databases.push(fleet.row(slug).await.record.id.database());
    }
    let (code, _, error) = fleet.run(&["migrate", "plan"]).await;
    assert_eq!(code, 0, "{error}");
    let id = json(&fleet, &["migrate", "list"]).await[0]["id"].to_string();

    let mut first = spawn(&fleet, &["migrate", "run", &id, "--jobs", "2"]);
    eventually("it runs", async || json(&fleet, &["migrate", "list"]).await[0]["state"] == "running").await;
    for number in 0..KILLS {
        // Spread over what one executor does from its start on; the same at each run of this test.
        let wait = |salt: u64| Duration::from_millis(40 + (number * 97 + salt) % 360);
        if number % 5 == 4 {
            // Two at once: one is killed, and the other goes on until it is killed itself.
            let mut second = spawn(&fleet, &["migrate", "resume", &id, "--jobs", "2"]);
            sleep(wait(0)).await;
            assert!(kill(&mut first.0), "kill {number} came too late to matter");
            sleep(wait(31)).await;
            assert!(kill(&mut second.0), "kill {number} came too late to matter");
        } else {
            sleep(wait(0)).await;
            assert!(kill(&mut first.0), "kill {number} came too late to matter");
        }
        first = spawn(&fleet, &["migrate", "resume", &id, "--jobs", "2"]);
    }
    let report = json(&fleet, &["migrate", "report", &id]).await;
    assert_eq!(report["state"], "running", "all kills were amid the rollout");
    // And one by Ctrl-C, which leaves nothing running behind it.
    sleep(Duration::from_millis(400)).await;
    kill_process(Pid::from_child(&first.0), Signal::INT).unwrap();
    let ended = tokio::task::spawn_blocking(move || first.0.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(1));
    assert_eq!(sessions(&fleet, &databases).await, 0);

    let resume = ["migrate", "resume", &id, "--jobs", "2"];
    let (one, other) = tokio::join!(fleet.run(&resume), fleet.run(&resume));
    // Whoever comes when all is done is told so.
    assert!(one.0 == 0 || other.0 == 0, "{}{}", one.2, other.2);
    let report = json(&fleet, &["migrate", "report", &id]).await;
    assert_eq!(report["state"], "done");
    assert!(states(&report).iter().all(|(_, state)| state == "done"), "{report}");
    for slug in SLUGS {
        let admin = fleet.admin(slug).await;
        let sql = "SELECT ARRAY(SELECT version FROM public.ran ORDER BY version), (SELECT last_value FROM public.tries),
                     (SELECT indisvalid FROM pg_index WHERE indexrelid = 'public.items_by_kind'::regclass)";
        let row = admin.query_one(sql, &[]).await.unwrap();
        assert_eq!((row.get::<_, Vec<i32>>(0), row.get(2)), (vec![4, 6], true), "{slug}");
        assert!(
            row.get::<_, i64>(1) <= i64::try_from(KILLS).unwrap(),
            "{slug}: tried {} times",
            row.get::<_, i64>(1)
        );
        assert_eq!(version(&fleet, slug).await, 6, "{slug}");
        admin.close().await;
    }
    eventually("no session is left", async || sessions(&fleet, &databases).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_done_only_when_its_tenants_row_says_so() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    add(&fleet, "V3__more.sql", "CREATE TABLE more (id int);");
    let (holder, admin) = (fleet.admin_of_catalog().await, fleet.admin_of_catalog().await);
    // The row can be read and referred to, and not be written.
    holder.batch_execute("BEGIN; SELECT FROM catalog.tenant FOR NO KEY UPDATE").await.unwrap();
    let mut child = spawn(&fleet, &["migrate"]);
    let waiting = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let waits = async || !admin.query(&format!("SELECT {waiting}"), &[]).await.unwrap().is_empty();
    eventually("the row is to be written", &waits).await;
    let report = json(&fleet, &["migrate", "report"]).await;
    assert_ne!(states(&report), [("acme".to_owned(), "done".to_owned())]);
    // Killed there, and what it asked for last is never carried out.
    assert!(kill(&mut child.0));
    admin.batch_execute(&format!("SELECT pg_terminate_backend(pid) {waiting}")).await.unwrap();
    eventually("nobody asks for it any more", async || !waits().await).await;
    holder.batch_execute("COMMIT").await.unwrap();
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(version(&fleet, "acme").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_statement_is_over_when_the_command_is() {
    let fleet = TestFleet::builder().tenants(&["a", "b", "c"]).build().await;
    // Where there are items, and so not in the template.
    let sql =
        "ALTER TABLE items ADD COLUMN kind text; SELECT pg_sleep(60) FROM (SELECT FROM items LIMIT 1) item;";
    add(&fleet, "V3__long.sql", sql);
    let mut databases = Vec::new();
    for slug in ["a", "b", "c"] {
        let insert = "INSERT INTO public.items (name) VALUES ('x')";
        fleet.owner(slug).await.batch_execute(insert).await.unwrap();
        databases.push(fleet.row(slug).await.record.id.database());
    }
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let locked = async || {
        let sql = "SELECT count(DISTINCT d.oid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                   WHERE d.datname = ANY ($1) AND l.mode = 'AccessExclusiveLock' AND l.granted";
        admin.query_one(sql, &[&databases]).await.unwrap().get::<_, i64>(0)
    };
    let mut child = spawn(&fleet, &["migrate", "--jobs", "3"]);
    eventually("all three sleep", async || locked().await == 3).await;
    kill_process(Pid::from_child(&child.0), Signal::INT).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.0.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(1));
    assert_eq!((locked().await, sessions(&fleet, &databases).await), (0, 0));
    let report = json(&fleet, &["migrate", "report"]).await;
    assert_eq!(report["state"], "running");
    assert!(states(&report).iter().all(|(_, state)| state == "pending"), "{report}");

    for slug in ["a", "b", "c"] {
        fleet.owner(slug).await.batch_execute("DELETE FROM public.items").await.unwrap();
    }
    let (code, _, error) = fleet.run(&["migrate", "resume"]).await;
    assert_eq!(code, 0, "{error}");
    for slug in ["a", "b", "c"] {
        assert_eq!(version(&fleet, slug).await, 3, "{slug}");
    }
}
