//! What is marked per-tenant: run in each tenant and never in a template, so that no two share what a file makes at random.

use std::collections::BTreeSet;
use std::process::Stdio;

use crate::support::{TestFleet, eventually};

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

const SECRETS: &str = "
-- Größe: what stands in front has characters of several bytes, and comes before a mark.
CREATE TABLE keys (name text PRIMARY KEY, secret text NOT NULL DEFAULT gen_random_uuid());
CREATE FUNCTION token() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT md5(random()::text || clock_timestamp()) $$;
CREATE TABLE settings (id int PRIMARY KEY, salt text);
INSERT INTO settings VALUES (1, 'none');

-- manybox: per-tenant
INSERT INTO keys (name) VALUES ('dürfen'), ('default');

-- manybox: per-tenant
INSERT INTO keys (name, secret) SELECT 'function', token();

-- manybox: per-tenant
UPDATE settings SET salt = gen_random_uuid();

-- manybox: per-tenant
DO $$ BEGIN INSERT INTO keys (name) VALUES ('block'); END $$;

CREATE INDEX ON keys (secret);
GRANT SELECT ON keys, settings TO service;";

async fn secrets(fleet: &TestFleet, slug: &str) -> Vec<String> {
    let sql = "SELECT secret FROM public.keys UNION ALL SELECT salt FROM public.settings";
    fleet.owner(slug).await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn no_two_tenants_share_a_secret() {
    let fleet = TestFleet::builder().tenants(&["before"]).build().await;
    add(&fleet, "V3__secrets.sql", SECRETS);
    add(&fleet, "V4__more.sql", "CREATE TABLE more (id int);");
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    let mut slugs = vec!["before".to_owned()];
    for number in 0..4 {
        slugs.push(format!("t{number}"));
        fleet.create(&slugs[slugs.len() - 1]).await;
    }
    let (mut all, mut lineages) = (Vec::new(), BTreeSet::new());
    for slug in &slugs {
        let own = secrets(&fleet, slug).await;
        assert_eq!(own.len(), 5, "{slug}: {own:?}");
        assert!(!own.contains(&"none".to_owned()), "{slug}: the update ran behind the insert");
        all.extend(own);
        let lineage = fleet.row(slug).await.record.lineage().unwrap().clone();
        lineages.insert((lineage.version, lineage.history));
    }
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), slugs.len() * 5);
    assert_eq!(lineages.len(), 1, "histories are the same");
    // Nothing is pending anywhere, and the files still agree with everything.
    let (code, out, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{out} {error}");
}

#[tokio::test]
async fn what_fails_in_a_copy_is_named_and_finished_later() {
    let fleet = TestFleet::builder().build().await;
    let file =
        |sql: &str| format!("CREATE TABLE keys (name text PRIMARY KEY);\n\n-- manybox: per-tenant\n{sql}\n");
    add(&fleet, "V3__keys.sql", &file("INSERT INTO keys SELECT 'one' FROM generate_series(1, 2);"));
    let create = ["tenant", "create", "acme", "--edition", "shop"];
    let (code, _, error) = fleet.run(&create).await;
    let says = ["V3__keys.sql:4", "duplicate key", "in statement 2: INSERT INTO keys"];
    assert!(code == 1 && says.iter().all(|said| error.contains(said)), "{error}");
    assert_eq!(fleet.row("acme").await.record.state, manybox::tenant::State::Creating);

    // Killed while it runs, it is begun again from the copy.
    add(&fleet, "V3__keys.sql", &file("INSERT INTO keys VALUES ('one');"));
    let templates = fleet.fleet.catalog.templates().await.unwrap();
    let edition = fleet.fleet.edition("shop").unwrap();
    fleet.fleet.remake_template(&templates[0], &edition, "the file was edited").await.unwrap();
    add(&fleet, "V4__slow.sql", "-- manybox: per-tenant\nINSERT INTO keys SELECT 'two' FROM pg_sleep(5);");
    let edition = fleet.fleet.edition("shop").unwrap();
    fleet.fleet.refresh_template("main", &edition, &|| ()).await.unwrap();
    let mut child = fleet.program(&create).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("it sleeps in the copy", async || {
        let row = fleet.row("acme").await;
        let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
        let sql = "SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid)
                   WHERE datname = $1 AND locktype = 'virtualxid'";
        let name = row.record.id.database();
        admin.query_one(sql, &[&name]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
    let (code, _, error) = fleet.run(&create).await;
    assert_eq!(code, 0, "{error}");
    let sql = "SELECT array_agg(name ORDER BY name) FROM public.keys";
    let names: Vec<String> = fleet.owner("acme").await.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(names, ["one", "two"]);
}

#[tokio::test]
async fn what_runs_in_a_copy_has_the_timeouts_of_files() {
    let fleet = TestFleet::builder().toml("[migrate]\nlock_timeout = '123ms'").build().await;
    let sql = "CREATE TABLE seen (what text);\n-- manybox: per-tenant\n\
               DO $$ BEGIN PERFORM set_config('lock_' || 'timeout', '0', false); END $$;\n\n-- manybox: per-tenant\n\
               INSERT INTO seen SELECT current_setting('lock_timeout');";
    add(&fleet, "V3__seen.sql", sql);
    fleet.create("a").await;
    let seen = fleet.owner("a").await.query_one("SELECT what FROM public.seen", &[]).await.unwrap();
    assert_eq!(seen.get::<_, String>(0), "123ms");
}
