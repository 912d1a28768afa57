//! Marks: a tenant whose row is lost comes back by what its database says, and nobody can make a database say another's name.

use serde_json::{Value, json};

use crate::support::{TestFleet, eventually, private_server};

async fn doctor(fleet: &TestFleet) -> Vec<(String, String)> {
    let (_, out, error) = fleet.run(&["doctor", "--json"]).await;
    let findings: Vec<Value> = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out} {error}"));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    findings
        .iter()
        .map(|f| (text(f, "code"), format!("{} {} {}", text(f, "where"), text(f, "what"), text(f, "next"))))
        .collect()
}

async fn done(fleet: &TestFleet, arguments: &[&str]) -> String {
    let (code, out, error) = fleet.run(arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {error}");
    out
}

#[tokio::test]
async fn nobody_in_a_database_can_read_or_forge_its_mark() {
    let fleet = TestFleet::builder().tenants(&["a"]).build().await;
    let admin = fleet.admin("a").await;
    let slug = "SELECT what::jsonb ->> 'slug' FROM manybox.mark";
    assert_eq!(admin.query_one(slug, &[]).await.unwrap().get::<_, String>(0), "a");
    for role in ["mb_owner", "mb_migrator", "anon", "service"] {
        for attempt in [
            "SELECT * FROM manybox.mark",
            "UPDATE manybox.mark SET what = '{}'",
            "DELETE FROM manybox.mark",
            "DROP TABLE manybox.mark",
            "DROP SCHEMA manybox CASCADE",
            "ALTER SCHEMA manybox RENAME TO other",
            "ALTER TABLE manybox.mark OWNER TO mb_owner",
            "CREATE TRIGGER t BEFORE UPDATE ON manybox.mark EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "CREATE RULE r AS ON SELECT TO manybox.mark DO INSTEAD SELECT true, '{}'::jsonb",
            "CREATE TABLE manybox.mark2 (what jsonb)",
            "SET ROLE mb_history",
        ] {
            let sql =
                format!("BEGIN; SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL ROLE {role}; {attempt}");
            // A role that became another one goes back to the session's, so `SET ROLE` is tried by the login itself.
            if attempt.starts_with("SET ROLE") {
                let may = "SELECT pg_has_role($1, 'mb_history', 'MEMBER')";
                let login = fleet.row("a").await.record.login_role();
                for who in [role, &login, &manybox::fleet::migrator_of(&login)] {
                    assert!(!admin.query_one(may, &[&who]).await.unwrap().get::<_, bool>(0), "{who}");
                }
                continue;
            }
            let refused = admin.batch_execute(&sql).await.unwrap_err();
            let state = refused.code().map(|code| code.code().to_owned()).unwrap_or_default();
            assert_eq!(state, "42501", "{role}: {attempt}: {refused:?}");
            admin.batch_execute("ROLLBACK").await.unwrap();
        }
    }
    // What it says follows what becomes of the tenant.
    done(&fleet, &["tenant", "rename", "a", "b"]).await;
    done(&fleet, &["tenant", "set", "b", "max_rows=7", "label.region=eu"]).await;
    done(&fleet, &["tenant", "suspend", "b"]).await;
    let what: Value = admin.query_one("SELECT what::jsonb FROM manybox.mark", &[]).await.unwrap().get(0);
    let told = (&what["slug"], &what["state"], &what["overrides"], &what["labels"]);
    assert_eq!(told, (&json!("b"), &json!("suspended"), &json!({"max_rows": "7"}), &json!({"region": "eu"})));
}

/// Writes a mark, with its signature if `sign` gives one, as only the admin can.
async fn forge(fleet: &TestFleet, database: &str, what: &str, signature: &str) {
    let client = server_admin(fleet, database).await;
    let sql = "UPDATE manybox.mark SET what = $1, signature = $2";
    assert_eq!(client.execute(sql, &[&what, &signature]).await.unwrap(), 1);
}

async fn mark_of(fleet: &TestFleet, database: &str) -> (String, String) {
    let client = server_admin(fleet, database).await;
    let row = client.query_one("SELECT what, signature FROM manybox.mark", &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn a_lost_row_and_a_lost_catalog_come_back_by_the_marks() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = private_server(folder.path().join("pg"), false).await;
    let builder = TestFleet::builder().tenants(&["a", "b", "c"]);
    let mut fleet = Box::pin(builder.build_on(&server.admin_url())).await;
    done(&fleet, &["tenant", "set", "a", "max_rows=7", "label.region=eu", "base_urls=https://a.example"])
        .await;
    let secret = "jwt_secret=reallyreallyreallyreallyverysafe";
    done(&fleet, &["tenant", "set", "b", secret]).await;
    done(&fleet, &["tenant", "suspend", "b"]).await;
    done(&fleet, &["tenant", "suspend", "c"]).await;
    done(&fleet, &["tenant", "retire", "c", "--until", "2099-01-31"]).await;
    let (before, row) = (fleet.row("a").await, fleet.row("b").await);
    let (a, b) = (before.record.database(), row.record.database());
    let token = fleet.token("a", json!({ "role": "service" })).await;
    assert_eq!(doctor(&fleet).await, []);
    let client = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    client.batch_execute("CREATE DATABASE legacy").await.unwrap();
    client.batch_execute("CREATE ROLE authenticator LOGIN PASSWORD 'hunter2'").await.unwrap();
    std::fs::write(fleet.folder.path().join("password"), "hunter2").unwrap();
    let adopt = ["tenant", "adopt", "old", "--database", "legacy", "--password-file", "password"];
    done(&fleet, &adopt).await;

    // Two rows are lost.
    let lose = |id: &str| {
        format!(
            "DELETE FROM catalog.mark WHERE tenant = '{id}'; DELETE FROM catalog.base_url WHERE tenant = '{id}';
             DELETE FROM catalog.tenant WHERE id = '{id}'"
        )
    };
    let catalog = fleet.admin_of_catalog().await;
    catalog.batch_execute(&lose(before.record.id.as_str())).await.unwrap();
    let found = doctor(&fleet).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].0 == "D50" && found[0].1.contains(&format!("tenant recover --database {a}")),
        "{found:?}"
    );
    catalog.batch_execute(&lose(row.record.id.as_str())).await.unwrap();

    // A mark that says what another one does: as anybody might write it; with the other's signature; as the other's is. None is
    // believed.
    let (of_a, of_b) = (mark_of(&fleet, &a).await, mark_of(&fleet, &b).await);
    let as_a = of_b.0.replace("\"slug\":\"b\"", "\"slug\":\"a\"");
    assert_ne!(as_a, of_b.0);
    for (what, signature) in [(&as_a, &of_b.1), (&as_a, &of_a.1), (&of_a.0, &of_a.1)] {
        forge(&fleet, &b, what, signature).await;
        let found = doctor(&fleet).await;
        let of = |database: &str| {
            let (code, text) = found
                .iter()
                .find(|(_, text)| text.starts_with(&format!("server main, database {database} ")))
                .unwrap();
            (code.as_str(), text.as_str())
        };
        assert!(matches!(of(&a), ("D50", text) if text.contains("by its mark it is `a`")), "{found:?}");
        assert!(matches!(of(&b), ("D50", text) if text.contains("forged it")), "{found:?}");
        let (code, _, error) = fleet.run(&["tenant", "recover", "--database", &b, "--as", "b"]).await;
        assert!(code == 1 && error.contains("was not written for this database"), "{error}");
    }
    // Nor is what is no table, whatever would run when it is read.
    let inside = server_admin(&fleet, &b).await;
    let view = "ALTER TABLE manybox.mark RENAME TO kept; GRANT USAGE ON SCHEMA manybox TO mb_owner;
                CREATE VIEW manybox.mark AS SELECT what, signature FROM manybox.kept;
                ALTER VIEW manybox.mark OWNER TO mb_history";
    inside.batch_execute(view).await.unwrap();
    let (code, _, error) = fleet.run(&["tenant", "recover", "--database", &b, "--as", "b"]).await;
    assert!(code == 1 && error.contains("not as manybox made it"), "{error}");
    let back = "DROP VIEW manybox.mark; ALTER TABLE manybox.kept RENAME TO mark;
                REVOKE USAGE ON SCHEMA manybox FROM mb_owner";
    inside.batch_execute(back).await.unwrap();

    // Two of the fleet's own that say the same: which is which, nobody but an operator can say.
    let signature = fleet.fleet.keys.newest().sign(&["mark", &b, &as_a]);
    forge(&fleet, &b, &as_a, &signature).await;
    let found = doctor(&fleet).await;
    assert_eq!(found.iter().map(|(code, _)| code.as_str()).collect::<Vec<_>>(), ["D54", "D54"], "{found:?}");
    assert!(found.iter().all(|(_, text)| text.contains(&a) && text.contains(&b)), "{found:?}");
    let (code, _, error) = fleet.run(&["tenant", "recover", "--all"]).await;
    assert!(code == 1 && error.contains(&a) && error.contains("--as NAME"), "{error}");
    done(&fleet, &["tenant", "recover", "--database", &b, "--as", "b"]).await;
    done(&fleet, &["tenant", "recover", "--database", &a]).await;
    let after = fleet.row("a").await;
    let mut expected = before.record.clone();
    expected.reloads = after.record.reloads;
    assert_eq!((after.record, after.labels, after.created_at), (expected, before.labels, before.created_at));
    let recovered = fleet.row("b").await;
    assert_eq!(
        (recovered.record.state.as_str(), recovered.lost_secrets),
        ("suspended", vec!["jwt_secret".to_owned()])
    );
    assert_eq!(doctor(&fleet).await, []);
    fleet.start_router().await;
    assert_eq!(fleet.get_as(&token, "/a/secrets?select=id").await.status, 200, "its tokens hold");

    // A new key signs the marks anew, so that the former one can end.
    done(&fleet, &["rekey"]).await;
    done(&fleet, &["rekey", "--finish"]).await;
    eventually("the router says that it has the new key", || async { doctor(&fleet).await.is_empty() }).await;
    fleet.reopen().await;
    let token = fleet.token("a", json!({ "role": "service" })).await;

    // All of the catalog is lost. The router serves on.
    let name = fleet.fleet.settings.catalog.database.clone();
    client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    let (code, _, error) = fleet.run(&["init"]).await;
    assert!(code == 1 && error.contains("doctor --rebuild-catalog"), "{error}");
    let wrong = fleet.folder.path().join("wrong.key");
    manybox::vault::KeyRing::generate().unwrap().save(&wrong).unwrap();
    let refused = fleet.program(&["doctor", "--rebuild-catalog"]).env("MANYBOX__KEYS__FILE", &wrong).output();
    let error = String::from_utf8(refused.unwrap().stderr).unwrap();
    assert!(error.contains("master key"), "another key: {error}");
    // A server that is away keeps nobody from the others.
    let away = "postgres://mb_admin:x@127.0.0.1:1/postgres";
    let mut rebuild = fleet.program(&["doctor", "--rebuild-catalog"]);
    rebuild.env("MANYBOX__SERVERS__AWAY__URL", away);
    let rebuilding = tokio::task::spawn_blocking(move || rebuild.output());
    while !rebuilding.is_finished() {
        assert_eq!(fleet.get("/a/items?select=id").await.status, 200, "meanwhile");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let rebuilt = rebuilding.await.unwrap().unwrap();
    let (out, error) = (String::from_utf8_lossy(&rebuilt.stdout), String::from_utf8_lossy(&rebuilt.stderr));
    assert!(rebuilt.status.code() == Some(1) && error.contains("2 left"), "{error}");
    assert!(error.contains("--database legacy") && error.contains("server `away`"), "{error}");
    assert!(
        out.contains("a is active") && out.contains("b is suspended") && out.contains("c is retired"),
        "{out}"
    );
    assert_eq!(fleet.get("/a/items?select=id").await.status, 200);
    // Killed before routers may read it, it goes on.
    let catalog = server_admin(&fleet, &name).await;
    let cut = format!("REVOKE USAGE ON SCHEMA catalog FROM {name}_router; {}", lose(row.record.id.as_str()));
    catalog.batch_execute(&cut).await.unwrap();
    let (code, out, error) = fleet.run(&["doctor", "--rebuild-catalog"]).await;
    assert!(
        code == 1 && error.contains("1 left") && out.trim().starts_with("b is suspended"),
        "{out} {error}"
    );
    assert_eq!(fleet.get("/a/items?select=id").await.status, 200);
    fleet.reopen().await;
    done(&fleet, &adopt).await;
    let a = fleet.row("a").await;
    assert_eq!((a.record.id, a.record.base_urls), (before.record.id, before.record.base_urls));
    let c = fleet.row("c").await;
    assert_eq!((c.record.state.as_str(), c.keep_until.map(|at| at.year())), ("retired", Some(2099)));
    assert_eq!(fleet.row("b").await.record.state.as_str(), "suspended");
    let restored = done(&fleet, &["tenant", "restore", "c"]).await;
    assert!(restored.starts_with("c is suspended"), "as it was when it was retired: {restored}");
    let left = doctor(&fleet).await;
    assert!(left.iter().all(|(code, text)| code == "D50" && text.contains("IS_TEMPLATE false")), "{left:?}");
    fleet.create("d").await;
    eventually("the router follows the new catalog", || async { fleet.get("/d/items").await.status == 200 })
        .await;
    assert_eq!(fleet.get_as(&token, "/a/secrets?select=id").await.status, 200, "its tokens hold");
}

async fn server_admin(fleet: &TestFleet, database: &str) -> manybox::pg::Connection {
    fleet.fleet.servers.get("main").unwrap().connect_admin_to(database).await.unwrap()
}
