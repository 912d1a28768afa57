//! Backups of the fleet that are killed again and again, and files that are another tenant's: nothing half is taken for
//! whole, nothing is done twice, and nobody's rows come under another's name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use manybox::catalog::Filter;
use manybox::fleet::{BackupFiles, Watcher};
use manybox::tenant::State;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::support::{Running, TestFleet, eventually};

const ALL: [&str; 7] = ["fleet", "backup", "--to", "all", "--jobs", "2", "--json"];

/// The files of the only run that end so, and when each was written.
fn files(fleet: &TestFleet, ending: &str) -> BTreeMap<PathBuf, SystemTime> {
    let runs = std::fs::read_dir(fleet.folder.path().join("all")).into_iter().flatten().flatten();
    let files = runs.flat_map(|run| std::fs::read_dir(run.path()).into_iter().flatten().flatten());
    let is_meant = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.ends_with(ending) && !matches!(&*name, "begun.json" | "finished.json")
    };
    let files = files.map(|file| file.path()).filter(|path| is_meant(path));
    files.map(|path| (path.clone(), path.metadata().unwrap().modified().unwrap())).collect()
}

/// How many logins of commands there are for the fleet's databases.
async fn logins(fleet: &TestFleet) -> i64 {
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let mut logins = 0;
    for row in fleet.fleet.catalog.tenants(&Filter::default()).await.unwrap() {
        let sql = "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, $1)";
        logins +=
            admin.query_one(sql, &[&format!("mb_p_{}_", row.record.id)]).await.unwrap().get::<_, i64>(0);
    }
    logins
}

#[tokio::test]
async fn a_backup_of_the_fleet_that_is_killed_goes_on_and_keeps_what_is_whole() {
    let slugs = ["a", "b", "c", "d", "e"];
    let fleet = Box::pin(TestFleet::builder().tenants(&slugs).build()).await;
    for slug in slugs {
        let rows = "INSERT INTO items (name, price) SELECT 'item ' || i, i FROM generate_series(1, 2000) i";
        fleet.owner(slug).await.batch_execute(rows).await.unwrap();
    }
    // A lock holds the last of them up, so that each command is killed amid its work.
    let held = fleet.owner("e").await;
    held.batch_execute("BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut whole = BTreeMap::new();
    for least in [0, 1, 3] {
        let before = logins(&fleet).await;
        let mut running = Running(fleet.program(&ALL).spawn().unwrap());
        eventually("it is under way", || async {
            files(&fleet, ".json").len() >= least && logins(&fleet).await > before
        })
        .await;
        running.0.kill().unwrap();
        running.0.wait().unwrap();
        let now = files(&fleet, ".json");
        assert!(whole.iter().all(|(path, at)| now.get(path) == Some(at)), "{whole:?} {now:?}");
        for manifest in now.keys() {
            let stop = CancellationToken::new();
            let files = BackupFiles::of(manifest);
            fleet.fleet.check_archive(&files, Watcher::silent(&stop)).await.unwrap();
        }
        whole = now;
    }
    assert!(whole.len() >= 3 && !whole.keys().any(|path| path.to_string_lossy().contains("/e.")));

    // What a killed command leaves of one, and one that was cut since.
    let run = whole.keys().next().unwrap().parent().unwrap().to_owned();
    std::fs::write(run.join("gone.0123456789.dump.part"), "half of it").unwrap();
    let (cut, _) = whole.pop_first().unwrap();
    let archive = cut.with_extension("dump");
    let half = std::fs::metadata(&archive).unwrap().len() / 2;
    std::fs::OpenOptions::new().write(true).open(&archive).unwrap().set_len(half).unwrap();
    held.batch_execute("ROLLBACK").await.unwrap();
    let (code, out, error) = fleet.run(&ALL).await;
    assert_eq!(code, 0, "{out} {error}");
    let lines: Value = serde_json::from_str(&out).unwrap();
    let kept = lines.as_array().unwrap().iter().filter(|line| line["outcome"] == "kept").count();
    assert_eq!(kept, whole.len(), "{out}");
    let now = files(&fleet, ".json");
    assert!(now.len() == 5 && whole.iter().all(|(path, at)| now.get(path) == Some(at)), "{now:?}");
    assert!(files(&fleet, ".part").is_empty());
    assert!(error.contains("e done"), "what happens is told where nobody sees a bar: {error}");
    let (code, out, error) =
        fleet.run(&["fleet", "backup", "--to", "all", "--verify", "--sample", "5"]).await;
    assert!(code == 0 && out.contains("5 of 5"), "{out} {error}");
}

#[tokio::test]
async fn the_backup_of_another_tenant_is_refused() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    let (code, out, error) = fleet.run(&["tenant", "backup", "a", "--to", "backups", "--json"]).await;
    assert!(code == 0 && error.contains("dumping"), "{error}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    let name = fleet.folder.path().join(answer["archive"].as_str().unwrap());
    let name = name.to_str().unwrap();
    for (slug, more) in [("b", &[][..]), ("nobody", &[][..]), ("b", &["--as", "c"][..])] {
        let arguments: Vec<_> =
            ["tenant", "restore", slug, "--from", name].into_iter().chain(more.iter().copied()).collect();
        let (code, _, error) = fleet.run(&arguments).await;
        assert!(code == 1 && error.contains(&format!("is not of `{slug}`")), "{error}");
        assert!(error.contains("nothing was restored") && error.contains("--as NEW"), "{error}");
    }
    let rows = fleet.fleet.catalog.tenants(&Filter::default()).await.unwrap();
    assert_eq!(rows.iter().filter(|row| row.record.state != State::Purged).count(), 2);

    // Its name is its own where it is renamed, and that of a tenant of another fleet where there is none.
    let (code, _, error) = fleet.run(&["tenant", "rename", "a", "apex"]).await;
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = fleet.run(&["tenant", "restore", "apex", "--from", name]).await;
    assert!(code == 0 && error.contains("restoring"), "{error}");
    let (code, _, error) = fleet.run(&["tenant", "restore", "a", "--from", name]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(fleet.row("a").await.record.state, State::Active);
}
