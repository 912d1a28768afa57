//! The journal's chain: nobody changes a line unnoticed.

use std::process::Command;

use manybox::catalog::JournalHead;

use crate::support::{TestFleet, superuser_in};

#[tokio::test]
async fn who_changes_the_journal_is_found_out() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    let (code, out, error) = fleet.run(&["journal", "verify"]).await;
    assert_eq!(code, 0, "{error}");
    let kept: JournalHead = out.trim().parse().unwrap();
    assert!(kept.position >= 4);
    // Lines of many at once all find their places.
    let catalog = &fleet.fleet.catalog;
    let id = fleet.row("a").await.record.id;
    let detail = serde_json::json!({ "é": "\u{1F600}" });
    futures_util::future::join_all((0..20).map(|_| catalog.note(&id, "note", &detail))).await;
    let head = catalog.journal_verify(std::slice::from_ref(&kept)).await.unwrap();
    assert_eq!(head.breaks, [""; 0]);
    assert_eq!(head.head.unwrap().position, kept.position + 20);
    let (_, exported, _) = fleet.run(&["journal", "export"]).await;
    assert_eq!(exported.lines().count() as i64, kept.position + 20);
    assert_eq!(fleet.run(&["journal", "tail", "-n", "3"]).await.1.lines().count(), 3);

    // A superuser, whom the triggers stop, unless it takes them off.
    let superuser = superuser_in(&fleet.fleet.settings.catalog.database).await;
    for change in [
        "UPDATE journal.line SET actor = 'nobody'",
        "DELETE FROM journal.line",
        "TRUNCATE journal.line",
        "UPDATE journal.seal SET hash = ''",
        "DELETE FROM journal.seal",
    ] {
        let refused = superuser.batch_execute(change).await.unwrap_err();
        assert!(refused.as_db_error().unwrap().message().contains("only appended to"), "{change}");
    }
    superuser
        .batch_execute(
            "ALTER TABLE journal.line DISABLE TRIGGER append_only; ALTER TABLE journal.line DISABLE TRIGGER pending;
             UPDATE journal.line SET detail = '{}' WHERE id = (SELECT line FROM journal.seal WHERE position = 2);
             DELETE FROM journal.line WHERE id = (SELECT line FROM journal.seal WHERE position = 3);
             INSERT INTO journal.line (action) VALUES ('unseen')",
        )
        .await
        .unwrap();
    let (code, _, error) = fleet.run(&["journal", "verify"]).await;
    assert_eq!(code, 1);
    for word in [
        "place 2 is not what was sealed",
        "place 3 is gone",
        "1 line(s) were written past the chain",
        "trigger append_only of journal.line is off",
    ] {
        assert!(error.contains(word), "{word}: {error}");
    }
    // Somebody who makes the whole chain anew is betrayed by what was kept of it.
    let anew = JournalHead { hash: "0".repeat(64), ..kept };
    let report = catalog.journal_verify(&[anew]).await.unwrap();
    assert!(report.breaks.iter().any(|what| what.contains("made anew")), "{report:?}");
}

/// What somebody with the admin's credentials could try. `{c}` is the catalog's name.
const ATTACKS: &[&str] = &[
    "UPDATE journal.line SET actor = 'nobody'",
    "DELETE FROM journal.line",
    "TRUNCATE journal.line CASCADE",
    "UPDATE catalog.journal SET actor = 'nobody'",
    "DELETE FROM catalog.journal",
    "UPDATE journal.seal SET hash = ''",
    "DELETE FROM journal.seal",
    "DELETE FROM journal.pending",
    "TRUNCATE journal.seal, journal.pending",
    "MERGE INTO journal.line USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
    // Lines of another's, or of another time.
    "INSERT INTO journal.line (action, actor) VALUES ('forged', 'somebody')",
    "INSERT INTO journal.line (action, at) VALUES ('forged', '2001-01-01')",
    "INSERT INTO journal.line (action, act) VALUES ('forged', '{\"operator\": \"ada\"}')",
    "INSERT INTO journal.line (id, action) OVERRIDING SYSTEM VALUE VALUES (-1, 'forged')",
    "INSERT INTO catalog.journal (action, actor) VALUES ('forged', 'somebody')",
    "INSERT INTO journal.seal VALUES (1000, 1000, '')",
    "INSERT INTO journal.pending VALUES (1)",
    "SELECT setval('journal.journal_id_seq', 1)",
    // The guards themselves.
    "ALTER TABLE journal.line DISABLE TRIGGER append_only",
    "ALTER TABLE journal.line DISABLE TRIGGER ALL",
    "DROP TRIGGER append_only ON journal.line",
    "CREATE TRIGGER away BEFORE INSERT ON journal.line FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE away AS ON INSERT TO journal.line DO INSTEAD NOTHING",
    "ALTER TABLE journal.line ENABLE ROW LEVEL SECURITY",
    "CREATE OR REPLACE FUNCTION journal.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
    "ALTER FUNCTION journal.note_pending() OWNER TO session_user",
    "DROP FUNCTION journal.refuse_change() CASCADE",
    "SET session_replication_role = replica",
    // What they stand on.
    "ALTER TABLE journal.line DROP COLUMN actor",
    "ALTER TABLE journal.line RENAME TO other",
    "ALTER TABLE journal.line SET SCHEMA catalog",
    "ALTER TABLE journal.line OWNER TO session_user",
    "DROP TABLE journal.line CASCADE",
    "DROP TABLE journal.seal",
    "ALTER SCHEMA journal RENAME TO other",
    "DROP SCHEMA journal CASCADE",
    "CREATE TABLE journal.mine (a int)",
    "LOCK TABLE journal.line IN ACCESS EXCLUSIVE MODE",
    "CREATE TABLE catalog.holds (l bigint REFERENCES journal.line)",
    // Its owner.
    "SET ROLE {c}_journal",
    "REASSIGN OWNED BY {c}_journal TO session_user",
    "DROP OWNED BY {c}_journal CASCADE",
    "SET SESSION AUTHORIZATION {c}_journal",
];

#[tokio::test]
async fn no_login_of_manyboxs_does_more_to_the_journal_than_append() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let catalog = fleet.fleet.settings.catalog.database.clone();
    let refused = async || {
        let admin = fleet.admin_of_catalog().await;
        for role in ["RESET ROLE".to_owned(), format!("SET ROLE {catalog}_owner")] {
            for attack in ATTACKS {
                admin.batch_execute(&format!("ROLLBACK; {role}; BEGIN")).await.unwrap();
                let tried = admin.batch_execute(&attack.replace("{c}", &catalog)).await;
                let code = tried.err().and_then(|error| error.code().cloned());
                assert_eq!(code.as_ref().map(|code| code.code()), Some("42501"), "{role}: {attack}");
            }
        }
    };
    refused().await;
    let kept = fleet.run(&["journal", "verify"]).await;
    assert_eq!(kept.0, 0, "{}", kept.2);
    let kept = kept.1.trim().to_owned();
    let is_kept = async || {
        let (code, _, error) = fleet.run(&["journal", "verify", "--head", &kept]).await;
        assert_eq!(code, 0, "{error}");
    };

    // A catalog of before, with the same lines: the journal was the owner's, among its other tables.
    let superuser = superuser_in(&catalog).await;
    let version = |name: &str| name[1..].split("__").next().unwrap().parse::<i32>().unwrap();
    let former = manybox::catalog::MIGRATIONS.iter().filter(|(name, _)| version(name) <= 20);
    let before = format!(
        "CREATE TEMP TABLE fleet AS TABLE catalog.fleet; CREATE TEMP TABLE key AS TABLE catalog.master_key;
         CREATE TEMP TABLE line AS TABLE journal.line; CREATE TEMP TABLE seal AS TABLE journal.seal;
         DROP SCHEMA catalog, journal CASCADE; DELETE FROM manybox.schema_history WHERE version > 20;
         DROP OWNED BY {catalog}_journal; DROP ROLE {catalog}_journal; SET ROLE {catalog}_owner;
         {};
         RESET ROLE; SET session_replication_role = replica;
         DELETE FROM catalog.fleet; INSERT INTO catalog.fleet TABLE fleet; INSERT INTO catalog.master_key TABLE key;
         INSERT INTO catalog.journal OVERRIDING SYSTEM VALUE TABLE line; INSERT INTO catalog.journal_seal TABLE seal;
         SELECT setval('catalog.journal_id_seq', 1000);
         INSERT INTO catalog.made (migration, by) VALUES (20, 'before') ON CONFLICT (one) DO UPDATE SET migration = 20;
         RESET session_replication_role",
        former.map(|(_, text)| *text).collect::<Vec<_>>().join(";\n")
    );
    superuser.batch_execute(&before).await.unwrap();
    let (code, _, error) = fleet.run(&["init"]).await;
    assert_eq!(code, 0, "{error}");
    is_kept().await;
    refused().await;

    // One that a migration of the journal is to come to, which `init` takes back for it; and again.
    superuser.batch_execute("UPDATE catalog.made SET migration = 21").await.unwrap();
    for _ in 0..2 {
        assert_eq!(fleet.run(&["init"]).await.0, 0);
    }
    is_kept().await;
    refused().await;

    // An admin who made itself a member leaves a trace, and `init` ends it.
    let admin = fleet.admin_of_catalog().await;
    admin.batch_execute(&format!("GRANT {catalog}_journal TO session_user")).await.unwrap();
    let (_, found, _) = fleet.run(&["verify", "--json"]).await;
    assert!(found.contains("may change the journal"), "{found}");
    assert_eq!(fleet.run(&["init"]).await.0, 0);
    refused().await;
    let (_, found, _) = fleet.run(&["verify", "--json"]).await;
    assert!(!found.contains("may change the journal"), "{found}");

    // A lost catalog comes back from its dump.
    let url = &fleet.fleet.settings.servers["main"].url;
    let of_catalog = format!("{}/{catalog}", url.rsplit_once('/').unwrap().0);
    let dump = fleet.folder.path().join("catalog.dump");
    let program = |name: &str, arguments: &[&str]| {
        let output = Command::new(name).args(arguments).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    };
    program("pg_dump", &["--format=custom", "--file", dump.to_str().unwrap(), &of_catalog]);
    superuser_in("postgres")
        .await
        .batch_execute(&format!("DROP DATABASE {catalog} WITH (FORCE)"))
        .await
        .unwrap();
    program("psql", &["-qc", &format!("GRANT {catalog}_journal TO CURRENT_USER"), url]);
    program("pg_restore", &["--create", "--exit-on-error", "--dbname", url, dump.to_str().unwrap()]);
    assert_eq!(fleet.run(&["init"]).await.0, 0);
    is_kept().await;
    refused().await;
}
