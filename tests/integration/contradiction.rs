//! Files that are not those that the fleet was made by: told before anything is touched, by name.

use manybox::catalog::{Filter, Template};
use manybox::migrate::{Edition, Limits};

use crate::support::{Running, TestFleet, eventually};

const SLUGS: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

/// The edition's files, changed and put back.
struct Files(std::path::PathBuf);

impl Files {
    fn of(fleet: &TestFleet) -> Self {
        Self(fleet.folder.path().join("migrations/shop"))
    }

    fn write(&self, file: &str, sql: &str) {
        std::fs::write(self.0.join(file), sql).unwrap();
    }

    fn remove(&self, file: &str) -> String {
        let text = std::fs::read_to_string(self.0.join(file)).unwrap();
        std::fs::remove_file(self.0.join(file)).unwrap();
        text
    }

    fn edit(&self, file: &str) -> String {
        let text = std::fs::read_to_string(self.0.join(file)).unwrap();
        self.write(file, &format!("{text}\n-- edited\n"));
        text
    }
}

/// All that the catalog knows of templates and tenants.
async fn records(fleet: &TestFleet) -> (Vec<Template>, Vec<String>) {
    let tenants = fleet.fleet.catalog.tenants(&Filter::default()).await.unwrap();
    let rows = tenants.iter().map(|row| serde_json::to_string(row).unwrap());
    (fleet.fleet.catalog.templates().await.unwrap(), rows.collect())
}

/// Every command that makes something from the files tells the same, and nothing is touched.
async fn told(fleet: &TestFleet, says: &[&str]) {
    let before = records(fleet).await;
    let create = ["tenant", "create", "new", "--edition", "shop"];
    for command in
        [&["migrate"][..], &["migrate", "plan"], &["migrate", "--tenant", "a"], &create, &["apply"]]
    {
        let (code, _, error) = fleet.run(command).await;
        assert_eq!(code, 1, "{command:?}: {error}");
        for text in says {
            assert!(error.contains(text), "{command:?}: {text} in: {error}");
        }
        assert_eq!(records(fleet).await, before, "{command:?}");
    }
}

#[tokio::test]
async fn a_wrong_set_of_files_is_told_before_anything_is_touched() {
    let fleet = TestFleet::builder()
        .toml("[defaults]\nedition = 'shop'\n[tenants.declared]")
        .tenants(&SLUGS)
        .build()
        .await;
    let files = Files::of(&fleet);
    files.write("V4__more.sql", "CREATE TABLE more (id int PRIMARY KEY);");
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    let everybody = "the template on server `main` and 7 tenant(s): a, b, c, d, e and 2 more";

    let text = files.edit("V2__notes.sql");
    told(&fleet, &["V2__notes", "not those that the fleet was made by", everybody]).await;
    files.write("V2__notes.sql", &text);

    let text = files.edit("V4__more.sql");
    told(&fleet, &["V4__more", everybody]).await;
    files.write("V4__more.sql", &text);

    let text = files.remove("V2__notes.sql");
    told(&fleet, &["V2__notes", everybody]).await;
    files.write("V2__notes.sql", &text);

    files.write("V3__late.sql", "CREATE TABLE late (id int);");
    told(&fleet, &["V3__late.sql", everybody]).await;
    files.remove("V3__late.sql");

    let text = files.remove("V4__more.sql");
    told(&fleet, &["older than the fleet", "end at version 2 where 4 is applied", "V4__more", everybody])
        .await;
    // An older checkout that goes another way.
    files.write("V3__other.sql", "CREATE TABLE other (id int);");
    told(&fleet, &["V3__other.sql", everybody]).await;
    files.remove("V3__other.sql");
    files.write("V4__more.sql", &text);

    // With the right files all is well, and nothing was lost.
    files.write("V5__last.sql", "CREATE TABLE last (id int);");
    for command in ["migrate", "apply"] {
        let (code, _, error) = fleet.run(&[command]).await;
        assert_eq!(code, 0, "{command}: {error}");
    }
    assert_eq!(fleet.row("declared").await.record.lineage().unwrap().version, 5);
}

#[tokio::test]
async fn a_template_alone_is_enough() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    fleet.fleet.carry_out("a", manybox::tenant::Verb::Retire).await.unwrap();
    fleet.fleet.carry_out("a", manybox::tenant::Verb::Purge).await.unwrap();
    let files = Files::of(&fleet);
    files.edit("V1__shop.sql");
    let (code, _, error) = fleet.run(&["tenant", "create", "b", "--edition", "shop"]).await;
    assert!(code == 1 && error.contains("version 1 was applied as `V1__shop.sql`"), "{error}");
    assert!(error.contains("the template on server `main`") && !error.contains("tenant(s)"), "{error}");
    assert_eq!(fleet.fleet.catalog.templates().await.unwrap().len(), 1, "the copy that was read is gone");
}

#[tokio::test]
async fn one_tenant_that_differs_does_not_stop_the_others() {
    let fleet = TestFleet::builder().tenants(&["a", "b", "c"]).build().await;
    // Somebody who may do anything changed one history by hand.
    let change = "UPDATE manybox.schema_history SET checksum = '7' WHERE version = 2";
    fleet.admin("b").await.batch_execute(change).await.unwrap();
    let read = fleet.fleet.read_lineages(&Filter::default(), 2, &|_| ()).await.unwrap();
    let changed = read.iter().filter(|r| r.found.as_ref() != Some(&r.known)).map(|r| r.slug.as_str());
    assert_eq!(changed.collect::<Vec<_>>(), ["b"]);
    let files = Files::of(&fleet);
    files.write("V3__colour.sql", "ALTER TABLE items ADD COLUMN colour text;");
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert!(code == 1 && error.contains("1 of 3") && error.contains("checksum 7"), "{error}");
    for (slug, version) in [("a", 3), ("b", 2), ("c", 3)] {
        assert_eq!(fleet.row(slug).await.record.lineage().unwrap().version, version, "{slug}");
    }
    assert_eq!(fleet.create("d").await.record.lineage().unwrap().version, 3);
}

#[tokio::test]
async fn a_template_that_other_files_made_is_made_anew() {
    let fleet = TestFleet::builder().tenants(&["a", "b", "c"]).build().await;
    let files = Files::of(&fleet);
    let right = files.edit("V2__notes.sql");
    let edition = Edition::read("shop", &files.0, &Limits::default()).unwrap();
    // As an earlier manybox left it: it built the template from whatever files there were.
    let ready = fleet.fleet.catalog.templates().await.unwrap().remove(0);
    fleet.fleet.catalog.template_ready(&ready.database, 2, &edition.history_digest(2)).await.unwrap();
    files.write("V2__notes.sql", &right);
    let created = fleet.create("d").await;
    assert_eq!(created.record.lineage(), fleet.row("a").await.record.lineage());
}

#[tokio::test]
async fn the_catalog_is_corrected_from_what_databases_say() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    let files = Files::of(&fleet);
    files.write("V3__more.sql", "CREATE TABLE more (id int PRIMARY KEY);");
    assert_eq!(fleet.run(&["migrate"]).await.0, 0);
    // As after a restore from an older dump.
    let restore = "DROP TABLE public.more; DELETE FROM manybox.schema_history WHERE version = 3";
    fleet.admin("a").await.batch_execute(restore).await.unwrap();
    let read = fleet.fleet.read_lineages(&Filter::default(), 4, &|_| ()).await.unwrap();
    assert_eq!(read[0].found.as_ref().unwrap().version, 2);
    assert_eq!(fleet.row("a").await.record.lineage().unwrap().version, 2);
    let journal = fleet.fleet.catalog.journal(&fleet.row("a").await.record.id, 1).await.unwrap();
    assert_eq!(
        (journal[0].action.as_str(), &journal[0].detail["known"]["version"]),
        ("history-read", &3.into())
    );
    // Then it is behind like any other.
    let (code, out, error) = fleet.run(&["migrate"]).await;
    assert!(code == 0 && out.contains("1 tenant(s)"), "{out} {error}");
    let again = fleet.fleet.read_lineages(&Filter::default(), 4, &|_| ()).await.unwrap();
    assert!(again.iter().all(|r| r.found.as_ref() == Some(&r.known)));
}

#[tokio::test]
async fn one_editions_contradiction_stops_no_other() {
    let fleet = TestFleet::builder()
        .toml("[editions.lite]\n[defaults]\nedition = 'shop'")
        .tenants(&["a"])
        .build()
        .await;
    let lite = fleet.folder.path().join("migrations/lite");
    std::fs::create_dir_all(&lite).unwrap();
    std::fs::write(lite.join("V1__one.sql"), "CREATE TABLE one (id int);").unwrap();
    let (code, _, error) = fleet.run(&["tenant", "create", "l", "--edition", "lite"]).await;
    assert_eq!(code, 0, "{error}");
    std::fs::write(lite.join("V2__two.sql"), "CREATE TABLE two (id int);").unwrap();
    Files::of(&fleet).edit("V1__shop.sql");
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert!(code == 1 && error.contains("edition `shop`") && !error.contains("edition `lite`"), "{error}");
    assert_eq!(fleet.row("l").await.record.lineage().unwrap().version, 2);
    assert!(fleet.row("a").await.failure.is_none());
}

#[tokio::test]
async fn a_router_with_other_files_says_so() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    Files::of(&fleet).remove("V2__notes.sql");
    let log = fleet.folder.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let _serve = Running(fleet.program(&["serve"]).stderr(file).spawn().unwrap());
    eventually("it is in the log", async || {
        std::fs::read_to_string(&log).unwrap().contains("end at version 1 where 2 is applied")
    })
    .await;
}
