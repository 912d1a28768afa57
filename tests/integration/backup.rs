//! Backups: all rows whatever row-level security says, archives that are whole or not there, and databases that come back
//! as they were, without anything of a dump having run where it must not.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Running, TestFleet, eventually, superuser_in};

/// Rows in an ordinary table, in one that hides its rows from its owner, in a partitioned one; a sequence that moved on, and
/// large objects.
async fn fill(fleet: &TestFleet, slug: &str) {
    fleet
        .owner(slug)
        .await
        .batch_execute(
            "INSERT INTO items (name, price) SELECT 'item ' || i, i FROM generate_series(1, 300) i;
             ALTER TABLE secrets NO FORCE ROW LEVEL SECURITY;
             INSERT INTO secrets SELECT i, 'o' || i % 3, 'word' || i FROM generate_series(1, 50) i;
             ALTER TABLE secrets FORCE ROW LEVEL SECURITY;
             CREATE TABLE parts (id int, made date) PARTITION BY RANGE (made);
             CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
             INSERT INTO parts VALUES (1, '2020-05-05'), (2, '2020-06-06');
             CREATE SCHEMA \"odd \"\" name\"; CREATE TABLE \"odd \"\" name\".\"a'b\" (\"x\ny\" text);
             INSERT INTO \"odd \"\" name\".\"a'b\" VALUES (E'tab\\tnewline\\n\\\\.');
             CREATE MATERIALIZED VIEW dear AS SELECT * FROM items WHERE price > 100;
             -- PostgreSQL writes nested ANDs with parentheses that their next reading takes away.
             CREATE VIEW nested AS SELECT * FROM items WHERE price BETWEEN 1 AND 50 AND (id BETWEEN 2 AND 9 OR id > 90);
             ALTER TABLE items ADD CONSTRAINT nested CHECK (price BETWEEN 0 AND 900 AND id > 0);
             CREATE INDEX nested_index ON items (name) WHERE price BETWEEN 1 AND 50 AND id > 3;
             CREATE POLICY nested ON secrets FOR UPDATE USING (id BETWEEN 1 AND 9 AND owner <> '');
             ALTER TABLE parts ADD low boolean GENERATED ALWAYS AS (id BETWEEN 1 AND 9 AND id > 3) STORED;
             SELECT lo_from_bytea(0, decode(repeat('ab', 5000), 'hex')); SELECT lo_from_bytea(0, 'two');",
        )
        .await
        .unwrap();
}

/// Every table's rows, the policies, and the large objects of a tenant, as a superuser sees them.
async fn content(fleet: &TestFleet, slug: &str) -> BTreeMap<String, String> {
    let database = fleet.row(slug).await.record.database();
    let client = crate::support::superuser_in(&database).await;
    let tables =
        "SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
                  WHERE relkind IN ('r', 'm') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
                    -- Whose it is, each database says itself.
                    AND (nspname, relname) <> ('manybox', 'mark') ORDER BY 1";
    let mut content = BTreeMap::new();
    for row in client.query(tables, &[]).await.unwrap() {
        let table: String = row.get(0);
        let sql = format!("SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM ONLY {table} t");
        let sum: Option<String> = client.query_one(&sql, &[]).await.unwrap().get(0);
        content.insert(table, sum.unwrap_or_default());
    }
    let others = "SELECT 'policies', md5(string_agg(concat_ws(' ', polrelid::regclass, polname, polcmd, polpermissive,
                      polroles::regrole[], pg_get_expr(polqual, polrelid, true), pg_get_expr(polwithcheck, polrelid, true)),
                      E'\\n' ORDER BY polrelid::regclass::text, polname)) FROM pg_policy
                  UNION ALL SELECT 'large objects', md5(string_agg(encode(lo_get(oid), 'hex'), ' ' ORDER BY oid))
                  FROM pg_largeobject_metadata
                  UNION ALL SELECT 'sequences', string_agg(s.sequencename || s.last_value, ' ' ORDER BY s.sequencename)
                  FROM pg_sequences s";
    for row in client.query(others, &[]).await.unwrap() {
        content.insert(row.get(0), row.get::<_, Option<String>>(1).unwrap_or_default());
    }
    content
}

async fn backup(fleet: &TestFleet, slug: &str) -> PathBuf {
    let (code, out, error) = fleet.run(&["tenant", "backup", slug, "--to", "backups", "--json"]).await;
    assert_eq!(code, 0, "{error}");
    let answer: Value = serde_json::from_str(&out).unwrap();
    fleet.folder.path().join(answer["archive"].as_str().unwrap())
}

/// Logins, copies and sessions of backups that are there for a tenant's database.
async fn leftovers(fleet: &TestFleet, slug: &str) -> i64 {
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let database = fleet.row(slug).await.record.database();
    let operators = format!("mb_p_{}_", database.strip_prefix("mb_").unwrap());
    let sql = "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, $1)";
    admin.query_one(sql, &[&operators]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_backup_has_all_rows_and_comes_back_as_it_was() {
    let fleet = Box::pin(TestFleet::builder().tenants(&["a", "b"]).serve()).await;
    Box::pin(fill(&fleet, "a")).await;
    let (code, _, error) = fleet.run(&["tenant", "set", "a", "max_rows=7", "label.region=eu"]).await;
    assert_eq!(code, 0, "{error}");
    let (before, row) = (content(&fleet, "a").await, fleet.row("a").await);
    let archive = backup(&fleet, "a").await;
    assert_eq!(leftovers(&fleet, "a").await, 0);
    let manifest = std::fs::read_to_string(archive.with_extension("json")).unwrap();
    let told: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(told["rows"]["\"public\".\"secrets\""], 50, "{manifest}");
    assert_eq!((&told["tenant"]["version"], &told["large_objects"]), (&2.into(), &2.into()));
    let mode = std::fs::metadata(&archive).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);

    // Yesterday's database, in place of what became of it.
    let owner = fleet.owner("a").await;
    owner
        .batch_execute(
            "DELETE FROM items; DROP TABLE notes; SELECT lo_unlink(oid) FROM pg_largeobject_metadata",
        )
        .await
        .unwrap();
    drop(owner);
    let token = fleet.token("a", serde_json::json!({ "role": "service" })).await;
    let name = archive.to_str().unwrap();
    let (code, out, error) = fleet.run(&["tenant", "restore", "a", "--from", name]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(content(&fleet, "a").await, before);
    let after = fleet.row("a").await.record;
    assert_eq!((&after.id, after.base_urls.len()), (&row.record.id, row.record.base_urls.len()));
    assert_eq!(after.lineage(), row.record.lineage());
    // Old tokens hold, and the router serves it without having been told.
    let secrets = || async { fleet.get_as(&token, "/a/secrets?select=id").await };
    eventually("the restored rows are served", || async { secrets().await.status == 200 }).await;
    assert_eq!(serde_json::from_str::<Value>(&secrets().await.text).unwrap().as_array().unwrap().len(), 7);
    // What it had before is kept.
    let kept = out.split('`').nth(1).unwrap().to_owned();
    assert!(kept.starts_with("a-old-"), "{out}");
    assert_eq!(fleet.row(&kept).await.record.state.as_str(), "retired");
    assert!(!content(&fleet, &kept).await.contains_key("public.notes"));
    let (code, _, error) = fleet.run(&["tenant", "purge", &kept, "--yes"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(content(&fleet, "a").await, before);
}

#[tokio::test]
async fn a_backup_under_another_name_is_migrated_from_where_it_stands() {
    let mut fleet = Box::pin(TestFleet::builder().tenants(&["a"]).build()).await;
    Box::pin(fill(&fleet, "a")).await;
    let (code, _, error) = fleet.run(&["tenant", "set", "a", "label.region=eu"]).await;
    assert_eq!(code, 0, "{error}");
    let (before, archive) = (content(&fleet, "a").await, backup(&fleet, "a").await);
    let name = archive.to_str().unwrap();
    let (code, _, error) = fleet.run(&["tenant", "restore", "a", "--from", name, "--as", "c"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(content(&fleet, "c").await, before);
    assert_eq!(fleet.row("c").await.labels.get("region").map(String::as_str), Some("eu"));
    let file = fleet.folder.path().join("migrations/shop/V3__more.sql");
    std::fs::write(file, "CREATE TABLE more (id int);").unwrap();
    fleet.reopen().await;
    let (code, out, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{out} {error}");
    assert_eq!(fleet.row("c").await.record.lineage().unwrap().version, 3);
    let database = fleet.row("c").await.record.id;
    let (_, out, _) = fleet.run(&["verify", "--tenant", "c"]).await;
    assert!(!out.contains(database.as_str()), "{out}");
}

#[tokio::test]
async fn a_damaged_backup_changes_nothing() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    fill(&fleet, "a").await;
    let before = content(&fleet, "a").await;
    let archive = backup(&fleet, "a").await;
    let arguments = ["tenant", "restore", "a", "--from", archive.to_str().unwrap()];
    let restore = || fleet.run(&arguments);
    let whole = std::fs::read(&archive).unwrap();
    let mut damaged = whole.clone();
    let at = damaged.len() / 2;
    damaged[at] ^= 1;
    std::fs::write(&archive, &damaged).unwrap();
    let (code, _, error) = restore().await;
    assert!(code == 1 && error.contains("checksum"), "{error}");
    std::fs::write(&archive, &whole[..at]).unwrap();
    let (code, _, error) = restore().await;
    assert!(code == 1 && error.contains("was cut or changed"), "{error}");

    // One that is not what its manifest says: rows that pg_restore could not bring back are noticed by their number.
    std::fs::write(&archive, &whole).unwrap();
    let manifest = archive.with_extension("json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(
        &manifest,
        text.replace("\"\\\"public\\\".\\\"secrets\\\"\": 50", "\"\\\"public\\\".\\\"secrets\\\"\": 51"),
    )
    .unwrap();
    let (code, _, error) = restore().await;
    assert!(code == 1 && error.contains("50 row(s) where 51 were"), "{error}");
    std::fs::remove_file(&manifest).unwrap();
    let (code, _, error) = restore().await;
    assert!(code == 1 && error.contains("a backup is two files"), "{error}");

    assert_eq!(content(&fleet, "a").await, before);
    let (_, list, _) = fleet.run(&["tenant", "list", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&list).unwrap().as_array().unwrap().len(), 1, "{list}");
    assert_eq!(leftovers(&fleet, "a").await, 0);
}

/// Everything in a schema that could run when somebody looks at it, set to fail where it runs for a backup, and to take
/// what it can reach where it runs for a restore.
const TRAPS: &str = "
SET trap.off = 'yes';
CREATE FUNCTION trap(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF current_setting('trap.off', true) = 'yes' THEN RETURN t; END IF;
    IF pg_has_role(session_user, 'mb_backup', 'MEMBER') OR pg_has_role(current_user, 'mb_backup', 'MEMBER') THEN
        RAISE EXCEPTION 'tenant code ran in a backup as %', current_user;
    END IF;
    IF pg_has_role(session_user, 'mb_history', 'MEMBER') THEN
        RAISE EXCEPTION 'tenant code ran as the admin';
    END IF;
    RETURN t;
END $$;
CREATE FUNCTION trap_bool(t text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT public.trap(t) IS NOT NULL';
CREATE FUNCTION trap_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM public.trap(''x''); RETURN NEW; END';
CREATE DOMAIN word AS text CHECK (public.trap_bool(VALUE));
CREATE TABLE traps (id serial, w word, g text GENERATED ALWAYS AS (public.trap(w::text)) STORED, d text DEFAULT public.trap('x'),
                    CHECK (public.trap_bool(w::text)));
INSERT INTO traps (w) SELECT 'w' || i FROM generate_series(1, 20) i;
CREATE INDEX ON traps (public.trap(w::text)) WHERE public.trap_bool(w::text);
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON traps FOR EACH ROW EXECUTE FUNCTION trap_trigger();
ALTER TABLE traps ENABLE ALWAYS TRIGGER t;
ALTER TABLE traps ENABLE ROW LEVEL SECURITY; ALTER TABLE traps FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON traps USING (public.trap_bool(w::text)) WITH CHECK (public.trap_bool(w::text));
CREATE VIEW seen AS SELECT public.trap(w::text) FROM traps;
CREATE MATERIALIZED VIEW kept AS SELECT public.trap('x') AS x;
CREATE FUNCTION trapped(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT public.trap_bool($1)';
CREATE FUNCTION format(text, text) RETURNS text LANGUAGE sql AS 'SELECT public.trap($1)';
CREATE FUNCTION set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT public.trap($1)';
CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = trapped);
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO PUBLIC;
GRANT ALL ON TABLE traps TO mb_backup, mb_history, PUBLIC;
CREATE TABLE \"x\n\\! touch /tmp/manybox-was-here\nSELECT \" (a int);
COMMENT ON TABLE notes IS E'x\\n\\\\! touch /tmp/manybox-was-here\\n';
";

#[tokio::test]
async fn nothing_of_a_tenant_runs_with_the_rights_of_a_backup_or_of_the_admin() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    fleet.owner("a").await.batch_execute(TRAPS).await.unwrap();
    let archive = backup(&fleet, "a").await;
    let (code, _, error) =
        fleet.run(&["tenant", "restore", "a", "--from", archive.to_str().unwrap(), "--as", "c"]).await;
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = fleet.run(&["tenant", "clone", "a", "d"]).await;
    assert_eq!(code, 0, "{error}");
    assert!(!std::path::Path::new("/tmp/manybox-was-here").exists());
    let admin = crate::support::superuser().await;

    // A reader's login reaches its own database alone, and nobody else may become what reads past policies.
    let members = "SELECT r.rolname::text FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
                   WHERE m.roleid = 'mb_backup'::regrole AND NOT starts_with(r.rolname, 'mb_p_')";
    let members = admin.query(members, &[]).await.unwrap();
    assert_eq!(members.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["mb_admin"]);
    for slug in ["a", "b", "c"] {
        let database = fleet.row(slug).await.record.database();
        let reach = "SELECT has_database_privilege('mb_backup', $1::text, 'CONNECT')";
        assert!(!admin.query_one(reach, &[&database]).await.unwrap().get::<_, bool>(0));
    }
}

#[tokio::test]
async fn a_clone_is_a_tenant_of_its_own_and_anonymous_where_it_shall_be() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    fill(&fleet, "a").await;
    // Policies hold for the owner too, who has none: what the script does not see it would leave as it is. And it forgot its end.
    let owner = fleet.owner("a").await;
    owner
        .batch_execute(
            "CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people VALUES (1, 'Ada'), (2, 'Alan');
             ALTER TABLE people ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        )
        .await
        .unwrap();
    drop(owner);
    let script = fleet.folder.path().join("anonymous.sql");
    for nothing in ["", "-- names\n;", "UPDATE items SET name = 'x"] {
        std::fs::write(&script, nothing).unwrap();
        let (code, _, error) =
            fleet.run(&["tenant", "clone", "a", "c", "--anonymise", "anonymous.sql"]).await;
        assert!(code == 1 && error.contains("nothing was made"), "{nothing}: {error}");
    }
    std::fs::write(&script, "BEGIN;\nUPDATE people SET name = 'x' || id;").unwrap();
    let (code, _, error) = fleet.run(&["tenant", "clone", "a", "c", "--anonymise", "anonymous.sql"]).await;
    assert_eq!(code, 0, "{error}");
    let copy = superuser_in(&fleet.row("c").await.record.database()).await;
    let left = "SELECT (SELECT count(*) FROM people WHERE name <> 'x' || id), count(*)
                FROM pg_class WHERE relname = 'people' AND relforcerowsecurity AND relrowsecurity";
    let left = copy.query_one(left, &[]).await.unwrap();
    assert_eq!((left.get::<_, i64>(0), left.get::<_, i64>(1)), (0, 1), "all rows, and policies as they were");
    let (mut a, mut c) = (content(&fleet, "a").await, content(&fleet, "c").await);
    assert_ne!(a.remove("public.people"), c.remove("public.people"));
    assert_eq!(a, c);
    std::fs::write(fleet.folder.path().join("anonymous.sql"), "UPDATE nowhere SET x = 1;").unwrap();
    let (code, _, error) = fleet.run(&["tenant", "clone", "a", "d", "--anonymise", "anonymous.sql"]).await;
    assert!(code == 1 && error.contains("nowhere") && error.contains("line 1"), "{error}");
    assert!(fleet.fleet.catalog.tenant_by_slug("d").await.unwrap().is_none(), "nothing is left of it");
    // One that does nothing makes nothing anonymous.
    for nothing in ["", "\n  \n", "-- later\n"] {
        std::fs::write(fleet.folder.path().join("anonymous.sql"), nothing).unwrap();
        let (code, _, error) =
            fleet.run(&["tenant", "clone", "a", "d", "--anonymise", "anonymous.sql"]).await;
        assert!(code == 1 && error.contains("no statement"), "{error}");
        assert!(fleet.fleet.catalog.tenant_by_slug("d").await.unwrap().is_none(), "nothing was made");
    }
    let (code, _, error) = fleet.run(&["tenant", "clone", "a", "c"]).await;
    assert!(code == 1 && error.contains("there already"), "{error}");

    // A view of rows that its owner may not see can't be filled in the copy.
    let owner = fleet.owner("a").await;
    owner
        .batch_execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        .await
        .unwrap();
    drop(owner);
    let (code, out, error) = fleet.run(&["tenant", "clone", "a", "d"]).await;
    assert!(code == 0 && out.contains(r#"materialized view "public"."dear" is empty"#), "{out} {error}");
}

#[tokio::test]
async fn a_purged_tenant_comes_back_with_its_own_base_urls() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    let urls = "base_urls=http://a.example,http://b.example";
    assert_eq!(fleet.run(&["tenant", "set", "a", urls]).await.0, 0);
    let archive = backup(&fleet, "a").await;
    for arguments in [
        &["tenant", "retire", "a"][..],
        &["tenant", "purge", "a", "--yes"],
        &["tenant", "set", "b", "base_urls=http://b.example"],
    ] {
        let (code, _, error) = fleet.run(arguments).await;
        assert_eq!(code, 0, "{arguments:?} {error}");
    }
    let (code, out, error) =
        fleet.run(&["tenant", "restore", "a", "--from", archive.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{error}");
    assert!(
        out.contains("http://a.example")
            && out.contains("http://b.example was not taken over: it is tenant `b`'s"),
        "{out}"
    );
    let given = fleet.fleet.catalog.base_urls_given(&fleet.row("a").await.record.id).await.unwrap();
    assert_eq!(given.iter().map(ToString::to_string).collect::<Vec<_>>(), ["http://a.example"]);
}

#[tokio::test]
async fn a_rename_keeps_everything_but_the_name() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).serve().await;
    let token = fleet.token("a", serde_json::json!({ "role": "service" })).await;
    let id = fleet.row("a").await.record.id;
    let (code, _, error) = fleet.run(&["tenant", "rename", "a", "b"]).await;
    assert!(code == 1 && error.contains("there already"), "{error}");
    for _ in 0..2 {
        let (code, _, error) = fleet.run(&["tenant", "rename", "a", "newer"]).await;
        assert_eq!(code, 0, "{error}");
    }
    assert_eq!(fleet.row("newer").await.record.id, id);
    eventually("the new URL is served", || async {
        fleet.get_as(&token, "/newer/items").await.status == 200
    })
    .await;
    assert_eq!(fleet.get("/a/items").await.status, 404);
}

#[tokio::test]
async fn a_backup_of_the_fleet_is_gone_on_with_and_one_bad_tenant_stops_nobody() {
    let fleet = TestFleet::builder().tenants(&["a", "b", "c", "d"]).build().await;
    fill(&fleet, "b").await;
    let held = fleet.owner("c").await;
    held.batch_execute("BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let all = ["fleet", "backup", "--to", "all", "--json"];
    let (code, out, error) = fleet.run(&all).await;
    assert!(code == 1 && error.contains("1 tenant(s) were not backed up"), "{out} {error}");
    let outcome = |out: &str| -> Vec<String> {
        let lines: Value = serde_json::from_str(out).unwrap();
        lines.as_array().unwrap().iter().map(|l| l["outcome"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(outcome(&out), ["done", "done", "failed", "done"], "{out}");
    assert!(out.contains("lock timeout") || out.contains("statement timeout"), "{out}");
    let (code, _, error) = fleet.run(&["fleet", "backup", "--to", "all", "--verify"]).await;
    assert!(code == 1 && error.contains("no backup that is whole"), "{error}");
    held.batch_execute("ROLLBACK").await.unwrap();
    let (code, out, error) = fleet.run(&all).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(outcome(&out), ["kept", "kept", "done", "kept"]);
    let (code, out, error) =
        fleet.run(&["fleet", "backup", "--to", "all", "--verify", "--sample", "4"]).await;
    assert!(code == 0 && out.contains("4 of 4") && out.contains("0 failed"), "{out} {error}");
    let (code, out, _) =
        fleet.run(&["fleet", "backup", "--to", "some", "--match", "tenant=a", "--json"]).await;
    assert_eq!((code, outcome(&out).len()), (0, 1), "{out}");
    for slug in ["a", "b", "c", "d"] {
        assert_eq!(leftovers(&fleet, slug).await, 0);
    }
}

#[tokio::test]
async fn what_is_killed_amid_a_backup_leaves_no_half_of_one() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    fill(&fleet, "a").await;
    // A lock stops pg_dump in the middle.
    let held = fleet.owner("a").await;
    let manifests = || {
        let files = std::fs::read_dir(fleet.folder.path().join("backups")).map(Iterator::flatten);
        files.map_or(0, |files| files.filter(|f| f.path().extension().is_some_and(|e| e != "part")).count())
    };
    for signal in ["-KILL", "-INT"] {
        held.batch_execute("BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let mut running =
            Running(fleet.program(&["tenant", "backup", "a", "--to", "backups"]).spawn().unwrap());
        eventually("the backup is under way", || async { leftovers(&fleet, "a").await > 0 }).await;
        let pid = running.0.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
        running.0.wait().unwrap();
        held.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(manifests(), 0);
        if signal == "-INT" {
            eventually("nothing is left of it", || async { leftovers(&fleet, "a").await <= 1 }).await;
        }
    }
    backup(&fleet, "a").await;
    let (code, _, error) = fleet.run(&["init"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(leftovers(&fleet, "a").await, 0, "init drops the logins of killed commands");
}

#[tokio::test]
async fn an_exchange_that_was_cut_is_finished_by_apply() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    fill(&fleet, "a").await;
    let (a, b) = (content(&fleet, "a").await, content(&fleet, "b").await);
    let (one, other) = (fleet.row("a").await.record.id, fleet.row("b").await.record.id);
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let before: u32 = admin
        .query_one("SELECT oid FROM pg_database WHERE datname = $1", &[&one.database()])
        .await
        .unwrap()
        .get(0);
    let exchange = manybox::catalog::Exchange { with: other.to_string(), before };
    let quarantined =
        "UPDATE catalog.tenant SET baseline = 1, quarantined = now(), failure = 'x' WHERE slug = 'a'";
    fleet.admin_of_catalog().await.batch_execute(quarantined).await.unwrap();
    assert!(fleet.fleet.catalog.exchange_begin(&one, &exchange).await.unwrap());
    assert!(!fleet.fleet.catalog.exchange_begin(&one, &exchange).await.unwrap(), "it has begun");
    let (code, _, error) = fleet.run(&["apply"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!((content(&fleet, "b").await, content(&fleet, "a").await), (a, b));
    // What is the database's goes with it.
    for (slug, baseline) in [("a", None), ("b", Some(1))] {
        let row = fleet.row(slug).await;
        let of_database = (row.baseline, row.quarantined.is_some(), row.failure.is_some());
        assert_eq!(of_database, (baseline, baseline.is_some(), baseline.is_some()), "{slug}");
    }
    // Begun again in the catalog, but done on the server: only the catalog is put right.
    assert!(fleet.row("a").await.exchange.is_none());
    fleet.fleet.catalog.exchange_begin(&one, &exchange).await.unwrap();
    fleet.fleet.finish_exchange(&one).await.unwrap();
    assert_eq!(fleet.row("a").await.record.state.as_str(), "active");
}

#[tokio::test]
async fn a_restore_that_was_killed_is_not_finished_as_an_empty_tenant() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    fill(&fleet, "a").await;
    let before = content(&fleet, "a").await;
    let archive = backup(&fleet, "a").await;
    let arguments = ["tenant", "restore", "a", "--from", archive.to_str().unwrap()];
    let mut running = Running(fleet.program(&arguments).spawn().unwrap());
    let creating = || async {
        let filter =
            manybox::catalog::Filter { state: Some(manybox::tenant::State::Creating), ..Default::default() };
        fleet.fleet.catalog.tenants(&filter).await.unwrap()
    };
    eventually("it is being filled", || async { !creating().await.is_empty() }).await;
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    if !creating().await.is_empty() {
        let (code, out, error) = fleet.run(&["apply"]).await;
        assert!(code == 1 && format!("{out}{error}").contains("is not finished"), "{out} {error}");
    }
    let (code, _, error) = fleet.run(&arguments).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(content(&fleet, "a").await, before);
    assert!(creating().await.is_empty());

    // Killed when all is ready, and nothing was switched yet. Nobody was ever served from what waits.
    let filter = manybox::catalog::Filter { search: Some("a-old".into()), ..Default::default() };
    let beside = || async { fleet.fleet.catalog.tenants(&filter).await.unwrap() };
    let first = beside().await.remove(0);
    let catalog = fleet.admin_of_catalog().await;
    let held = "BEGIN; SELECT FROM catalog.tenant WHERE slug = 'a' FOR NO KEY UPDATE";
    catalog.batch_execute(held).await.unwrap();
    let mut running = Running(fleet.program(&arguments).spawn().unwrap());
    eventually("it is ready", || async { beside().await.len() == 2 && creating().await.is_empty() }).await;
    let waiting = beside().await.into_iter().find(|row| row.replaces.is_some()).unwrap();
    assert_eq!(waiting.record.state.as_str(), "retired");
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let can_log_in = "SELECT rolcanlogin FROM pg_roles WHERE rolname = $1";
    let login = waiting.record.login_role();
    assert!(!admin.query_one(can_log_in, &[&login]).await.unwrap().get::<_, bool>(0));
    let (code, _, error) = fleet.run(&arguments).await;
    assert!(code == 1 && error.contains("worked on by another command"), "two at once: {error}");
    let pid: i32 = catalog.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    crate::support::as_superuser(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {pid} = ANY (pg_blocking_pids(pid))"
    ))
    .await;
    catalog.batch_execute("ROLLBACK").await.unwrap();
    let (_, out, _) = fleet.run(&["doctor"]).await;
    let next = format!("run the restore of `a` again, or `manybox tenant purge {}`", waiting.record.slug);
    assert!(out.contains("D52") && out.contains(&next), "{out}");

    // Killed when they were about to trade: that is finished first, so that the last backup that was asked for is the one.
    let (one, other) = (fleet.row("a").await.record.id, fleet.row("b").await.record.id);
    let oid = "SELECT oid FROM pg_database WHERE datname = $1";
    let oid: u32 = admin.query_one(oid, &[&one.database()]).await.unwrap().get(0);
    let exchange = manybox::catalog::Exchange { with: other.to_string(), before: oid };
    assert!(fleet.fleet.catalog.exchange_begin(&one, &exchange).await.unwrap());
    let (code, _, error) = fleet.run(&arguments).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!((content(&fleet, "a").await, content(&fleet, "b").await), (before.clone(), before));
    let left: Vec<_> = beside().await;
    assert!(left.len() == 2 && left.iter().any(|row| row.record.id == first.record.id), "{left:?}");
    assert!(left.iter().all(|row| row.replaces.is_none() && row.exchange.is_none()), "{left:?}");
}

#[tokio::test]
async fn a_retired_tenant_is_kept_as_long_as_was_said() {
    let fleet =
        TestFleet::builder().toml("[defaults]\npurge_grace = '7d'").tenants(&["a", "b"]).build().await;
    for (slug, more) in [("a", &[][..]), ("b", &["--until", "2999-01-31"][..])] {
        let retire: Vec<_> = ["tenant", "retire", slug].iter().chain(more).copied().collect();
        let (code, out, error) = fleet.run(&retire).await;
        assert!(code == 0 && out.contains("kept until"), "{out} {error}");
        let (code, _, error) = fleet.run(&["tenant", "purge", slug, "--yes"]).await;
        assert!(code == 1 && error.contains("is kept until") && error.contains("--now"), "{error}");
        // As RFC 3339 has it.
        let until = out.split("kept until ").nth(1).unwrap().split(' ').next().unwrap();
        let rfc3339 = &time::format_description::well_known::Rfc3339;
        assert!(time::OffsetDateTime::parse(until, rfc3339).is_ok(), "{out}");
    }
    assert!(fleet.row("b").await.keep_until.unwrap().year() == 2999);
    let (code, _, error) = fleet.run(&["tenant", "restore", "a"]).await;
    assert_eq!(code, 0, "{error}");
    assert!(fleet.row("a").await.keep_until.is_none());
    let (code, _, error) = fleet.run(&["tenant", "purge", "b", "--yes", "--now"]).await;
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = fleet.run(&["tenant", "retire", "a", "--until", "tomorrow"]).await;
    assert!(code == 2 && error.contains("expected 2027-01-31"), "{error}");
    // A slip of the pen, which would leave it to the next purge.
    let (code, _, error) = fleet.run(&["tenant", "retire", "a", "--until", "2020-01-31"]).await;
    assert!(code == 1 && error.contains("2020-01-31T00:00:00Z, which is over"), "{error}");
    assert!(fleet.row("a").await.record.is_served());
}

#[tokio::test]
async fn a_database_without_a_tenant_and_a_tenant_without_a_database_are_found() {
    // A server of its own: where fleets share one, nobody can tell whose a database is.
    let folder = tempfile::tempdir().unwrap();
    let server = crate::support::private_server(folder.path().join("pg"), false).await;
    let builder = TestFleet::builder().tenants(&["a", "b"]);
    let fleet = Box::pin(builder.build_on(&server.admin_url())).await;
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let database = fleet.row("a").await.record.database();
    let stray = "mb_0123456789strays";
    admin.batch_execute(&format!("ALTER DATABASE {database} RENAME TO {stray}")).await.unwrap();
    let (code, out, error) = fleet.run(&["doctor", "--json"]).await;
    admin.batch_execute(&format!("ALTER DATABASE {stray} RENAME TO {database}")).await.unwrap();
    let findings: Value = serde_json::from_str(&out).unwrap();
    let of = |code: &str, place: &str| {
        let all = findings.as_array().unwrap().iter();
        all.filter(|f| f["code"] == code && f["where"].as_str().unwrap().contains(place)).count()
    };
    assert!(code == 1 && of("D50", stray) == 1 && of("D51", "tenant a") == 1, "{out} {error}");
    assert_eq!(of("D51", "tenant b"), 0, "{out}");

    // A server that went back to its backup: a login is open that was closed since, and one is gone.
    let (code, _, error) = fleet.run(&["tenant", "suspend", "b"]).await;
    assert_eq!(code, 0, "{error}");
    let login = fleet.row("b").await.record.database();
    admin.batch_execute(&format!("ALTER ROLE {login} LOGIN")).await.unwrap();
    let (code, out, _) = fleet.run(&["doctor"]).await;
    assert!(code == 1 && out.contains("D55") && out.contains("manybox tenant suspend b"), "{out}");
    let (code, _, error) = fleet.run(&["tenant", "suspend", "b"]).await;
    assert_eq!(code, 0, "{error}");
    let (code, out, _) = fleet.run(&["doctor"]).await;
    assert_eq!(code, 0, "{out}");
    admin.batch_execute(&format!("ALTER ROLE {database} RENAME TO gone")).await.unwrap();
    let (code, _, error) = fleet.run(&["tenant", "retire", "a"]).await;
    assert_eq!(code, 0, "{error}");
    admin.batch_execute(&format!("ALTER ROLE gone RENAME TO {database}")).await.unwrap();

    // And the database of one that was purged since is back.
    admin.batch_execute(&format!("CREATE DATABASE kept TEMPLATE {login}")).await.unwrap();
    for purge in [&["tenant", "retire", "b"][..], &["tenant", "purge", "b", "--yes"]] {
        let (code, _, error) = fleet.run(purge).await;
        assert_eq!(code, 0, "{error}");
    }
    admin.batch_execute(&format!("ALTER DATABASE kept RENAME TO {login}")).await.unwrap();
    let (_, out, _) = fleet.run(&["doctor"]).await;
    let drop_it = format!("DROP DATABASE {login}; DROP ROLE IF EXISTS {login}, mb_m_{}", &login[3..]);
    assert!(out.contains("D50") && out.contains("`b`, which was purged") && out.contains(&drop_it), "{out}");
    let (code, _, error) = fleet.run(&["tenant", "recover", "--database", &login]).await;
    assert!(code == 1 && error.contains(&drop_it), "{error}");
    for statement in drop_it.split("; ") {
        admin.batch_execute(statement).await.unwrap();
    }
    let (_, out, _) = fleet.run(&["doctor"]).await;
    assert!(!out.contains("D50"), "{out}");
    drop(admin);
    server.stop().await.unwrap();
}
