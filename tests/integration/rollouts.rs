//! Rollouts: waves, budgets, gates, an operator's word, and executors that are killed or many.

mod kills;
mod live;

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{TestFleet, eventually};

const WAVES: &str = r#"
[rollouts.careful]
[[rollouts.careful.waves]]
name = "canaries"
tenants = ["c1", "c2"]
[[rollouts.careful.waves]]
name = "europe"
labels = { region = "eu" }
failures = 1
[[rollouts.careful.waves]]
name = "half"
percent = 50
"#;

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

async fn json(fleet: &TestFleet, arguments: &[&str]) -> Value {
    let (_, out, error) = fleet.run(&[arguments, &["--json"]].concat()).await;
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("{arguments:?}: {out}{error}"))
}

/// The states of a report's tenants, by slug.
fn states(report: &Value) -> Vec<(String, String)> {
    let text = |step: &Value, key: &str| step[key].as_str().unwrap().to_owned();
    let steps = report["tenants"].as_array().unwrap();
    steps.iter().map(|step| (text(step, "slug"), text(step, "state"))).collect()
}

async fn version(fleet: &TestFleet, slug: &str) -> i64 {
    fleet.row(slug).await.record.lineage().unwrap().version
}

/// Makes the column that `V3__colour.sql` would make, so that this fails there.
async fn spoil(fleet: &TestFleet, slug: &str) {
    fleet.owner(slug).await.batch_execute("ALTER TABLE public.items ADD COLUMN colour text").await.unwrap();
}

async fn mend(fleet: &TestFleet, slug: &str) {
    fleet.owner(slug).await.batch_execute("ALTER TABLE public.items DROP COLUMN colour").await.unwrap();
}

fn colour(fleet: &TestFleet) {
    add(fleet, "V3__colour.sql", "ALTER TABLE items ADD COLUMN colour text;");
}

#[tokio::test]
async fn a_failing_canary_halts_before_the_second_wave() {
    let slugs = ["c1", "c2", "e1", "e2", "r1", "r2", "r3", "r4"];
    let fleet = TestFleet::builder().toml(WAVES).tenants(&slugs).build().await;
    for slug in ["e1", "e2"] {
        assert_eq!(fleet.run(&["tenant", "set", slug, "label.region=eu"]).await.0, 0);
    }
    colour(&fleet);
    spoil(&fleet, "c2").await;
    let plan = json(&fleet, &["migrate", "plan", "--policy", "careful"]).await;
    let waves: Vec<_> =
        plan["waves"].as_array().unwrap().iter().map(|w| (&w["name"], &w["tenants"])).collect();
    let expected = [("canaries", 2), ("europe", 2), ("half", 4)].map(|(n, t)| (json!(n), json!(t)));
    assert_eq!(waves, expected.iter().map(|(n, t)| (n, t)).collect::<Vec<_>>());

    let id = plan["rollout"].to_string();
    let (code, _, error) = fleet.run(&["migrate", "run", &id]).await;
    assert!(code == 1 && error.contains("halted") && error.contains("c2"), "{error}");
    assert!(error.contains("V3__colour.sql") && error.contains("colour"), "{error}");
    for slug in ["e1", "r1"] {
        assert_eq!(version(&fleet, slug).await, 2, "{slug} was not begun");
    }
    // A second rollout would pass the first by.
    let (code, _, error) = fleet.run(&["migrate", "--policy", "careful"]).await;
    assert!(code == 1 && error.contains("is halted") && error.contains(&id), "{error}");

    mend(&fleet, "c2").await;
    let (code, _, error) = fleet.run(&["migrate", "retry"]).await;
    assert_eq!(code, 0, "{error}");
    let report = json(&fleet, &["migrate", "report"]).await;
    assert_eq!(report["state"], "done");
    assert!(states(&report).iter().all(|(_, state)| state == "done"), "{report}");
    for slug in slugs {
        assert_eq!(version(&fleet, slug).await, 3, "{slug}");
    }
}

#[tokio::test]
async fn a_file_that_follows_is_planned_anew() {
    let fleet = TestFleet::builder().toml(WAVES).tenants(&["c1", "r1"]).build().await;
    colour(&fleet);
    spoil(&fleet, "c1").await;
    assert_eq!(fleet.run(&["migrate", "--policy", "careful"]).await.0, 1);
    mend(&fleet, "c1").await;
    add(&fleet, "V4__more.sql", "CREATE TABLE more (a int);");
    let (code, _, error) = fleet.run(&["migrate", "retry"]).await;
    assert!(code == 0 && error.contains("planned anew"), "{error}");
    for slug in ["c1", "r1"] {
        assert_eq!(version(&fleet, slug).await, 4);
    }
    let list = json(&fleet, &["migrate", "list"]).await;
    let states: Vec<_> = list.as_array().unwrap().iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["done", "aborted"]);
}

#[tokio::test]
async fn a_wave_may_fail_as_often_as_its_budget_says() {
    let fleet = TestFleet::builder().toml(WAVES).tenants(&["e1", "e2", "e3", "r1"]).build().await;
    for slug in ["e1", "e2", "e3"] {
        assert_eq!(fleet.run(&["tenant", "set", slug, "label.region=eu"]).await.0, 0);
    }
    colour(&fleet);
    for slug in ["e1", "e2"] {
        spoil(&fleet, slug).await;
    }
    let (code, _, error) = fleet.run(&["migrate", "--policy", "careful", "--jobs", "1"]).await;
    assert!(code == 1 && error.contains("where 1 may"), "{error}");
    assert_eq!(version(&fleet, "e3").await, 2, "nothing is begun any more");
    // Left out, it isn't counted: one failure may be.
    let (code, _, error) = fleet.run(&["migrate", "skip", "--tenant", "e2", "--reason", "known"]).await;
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = fleet.run(&["migrate", "resume"]).await;
    assert!(code == 1 && error.contains("1 of 4 tenant(s) failed; the others are done"), "{error}");
    let report = json(&fleet, &["migrate", "report"]).await;
    let expected = [("e1", "failed"), ("e2", "skipped"), ("e3", "done"), ("r1", "done")];
    assert_eq!(states(&report), expected.map(|(slug, state)| (slug.to_owned(), state.to_owned())));
    let junit = fleet.folder.path().join("report.xml");
    let (code, _, error) = fleet.run(&["migrate", "report", "--junit", junit.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{error}");
    let junit = std::fs::read_to_string(junit).unwrap();
    assert!(junit.contains("failures=\"1\"") && junit.contains("e1") && junit.contains("colour"), "{junit}");
}

#[tokio::test]
async fn what_failed_is_set_aside_until_it_is_taken_in_again() {
    let toml = "[rollouts.default]\non_error = 'quarantine'\n[[rollouts.default.waves]]\nfailures = '100%'";
    let fleet = TestFleet::builder().toml(toml).tenants(&["a", "b"]).build().await;
    colour(&fleet);
    spoil(&fleet, "b").await;
    assert_eq!(fleet.run(&["migrate"]).await.0, 1);
    let (code, out, error) = fleet.run(&["migrate"]).await;
    assert!(code == 0 && out.contains("1 tenant(s) set aside") && error.contains("`b`"), "{out}{error}");
    let (code, _, error) = fleet.run(&["migrate", "status", "--check"]).await;
    assert!(code == 1 && error.contains("1 of 2"), "{error}");
    mend(&fleet, "b").await;
    let (code, _, error) = fleet.run(&["migrate", "retry", "--tenant", "b"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(fleet.run(&["migrate", "status", "--check"]).await.0, 0);
}

#[tokio::test]
async fn a_version_can_be_named() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    colour(&fleet);
    add(&fleet, "V4__more.sql", "CREATE TABLE more (a int);");
    let (code, _, error) = fleet.run(&["migrate", "--target", "5"]).await;
    assert!(code == 1 && error.contains("no edition has a file of version 5"), "{error}");
    assert_eq!(fleet.run(&["migrate", "--target", "3"]).await.0, 0);
    fleet.create("b").await;
    for slug in ["a", "b"] {
        assert_eq!(version(&fleet, slug).await, 3, "{slug}");
    }
    // Those who have more than is asked for keep it, and so do those to be born.
    assert_eq!(fleet.run(&["migrate"]).await.0, 0);
    assert_eq!(fleet.run(&["migrate", "--target", "3"]).await.0, 0);
    fleet.create("c").await;
    for slug in ["a", "b", "c"] {
        assert_eq!(version(&fleet, slug).await, 4, "{slug}");
    }
}

#[tokio::test]
async fn a_killed_executors_steps_are_taken_over_and_two_share_the_work() {
    let slugs = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let fleet = TestFleet::builder().tenants(&slugs).build().await;
    // Counted where no rollback reaches: how often each file ran in each database.
    add(&fleet, "V3__ran.sql", "CREATE TABLE ran (version int);");
    assert_eq!(fleet.run(&["migrate"]).await.0, 0);
    add(&fleet, "V4__slow.sql", "INSERT INTO ran VALUES (4); SELECT pg_sleep(0.3);");
    let spawn = |arguments: &[&str]| {
        fleet.program(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut killed = spawn(&["migrate", "--jobs", "2"]);
    eventually("some tenants are done", async || version(&fleet, "a").await == 4).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let (first, second) = tokio::join!(
        fleet.run(&["migrate", "resume", "--jobs", "2"]),
        fleet.run(&["migrate", "resume", "--jobs", "2"])
    );
    assert_eq!((first.0, second.0), (0, 0), "{}{}", first.2, second.2);
    for slug in slugs {
        let ran = fleet.admin(slug).await.query_one("SELECT count(*) FROM public.ran", &[]).await.unwrap();
        assert_eq!((version(&fleet, slug).await, ran.get::<_, i64>(0)), (4, 1), "{slug}");
    }
}

#[tokio::test]
async fn a_rollout_is_paused_watched_and_resumed_from_elsewhere() {
    let slugs = ["a", "b", "c", "d"];
    let fleet = TestFleet::builder().tenants(&slugs).build().await;
    add(&fleet, "V3__slow.sql", "SELECT pg_sleep(0.5);");
    let pause = async {
        eventually("it runs", async || {
            json(&fleet, &["migrate", "list"]).await[0]["state"] == "running"
                && version(&fleet, "a").await == 3
        })
        .await;
        fleet.run(&["migrate", "pause", "--reason", "lunch"]).await
    };
    let (run, paused) = tokio::join!(fleet.run(&["migrate", "--jobs", "1"]), pause);
    assert_eq!(paused.0, 0, "{}", paused.2);
    assert!(run.0 == 1 && run.2.contains("is paused"), "{}", run.2);
    assert_eq!(version(&fleet, "d").await, 2);
    let (code, out, _) = fleet.run(&["migrate", "status"]).await;
    assert!(code == 0 && out.contains("is paused: lunch"), "{out}");
    let (watched, resumed) = tokio::join!(
        async {
            eventually("it runs again", async || {
                json(&fleet, &["migrate", "list"]).await[0]["state"] != "paused"
            })
            .await;
            fleet.run(&["migrate", "watch", "1"]).await
        },
        fleet.run(&["migrate", "resume"])
    );
    assert_eq!((watched.0, resumed.0), (0, 0), "{}{}", watched.2, resumed.2);
    assert_eq!(version(&fleet, "d").await, 3);
    let (code, _, error) = fleet.run(&["migrate", "resume", "1"]).await;
    assert!(code == 1 && error.contains("is done"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_waits_for_reports_and_holds_for_what_got_worse() {
    let toml = "[rollouts.gated]\n[[rollouts.gated.waves]]\nname = 'first'\ntenants = ['a']\n\
                [rollouts.gated.waves.gate]\nwindow = '1s'\nsql = \"SELECT count(*) < 1 FROM items\"\n\
                error_rate = 0.5\n";
    let fleet = TestFleet::builder().toml(toml).tenants(&["a", "b"]).build().await;
    colour(&fleet);
    // No router runs, so nobody tells of errors: that is not the same as none.
    let mut child = fleet.program(&["migrate", "--policy", "gated"]);
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("it waits", async || {
        let row = &json(&fleet, &["migrate", "list"]).await[0];
        row["reason"].as_str().is_some_and(|reason| reason.contains("no router runs"))
    })
    .await;
    assert_eq!(version(&fleet, "b").await, 2);
    let mut fleet = fleet;
    fleet.start_router().await;
    eventually("the gate opens", async || json(&fleet, &["migrate", "list"]).await[0]["state"] == "done")
        .await;
    assert!(child.wait().unwrap().success());
    assert_eq!(version(&fleet, "b").await, 3);

    // The gate's query holds it, and an operator's word opens it.
    fleet.owner("a").await.batch_execute("INSERT INTO public.items (name) VALUES ('x')").await.unwrap();
    add(&fleet, "V4__more.sql", "CREATE TABLE more (a int);");
    let (code, _, error) = fleet.run(&["migrate", "--policy", "gated"]).await;
    assert!(code == 1 && error.contains("a: the gate's query answered false"), "{error}");
    assert_eq!(version(&fleet, "b").await, 3);
    let (code, _, error) = fleet.run(&["migrate", "resume", "--approve"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(version(&fleet, "b").await, 4);
}
