//! `server check` looks and changes nothing; servers know whose they are.

use serde_json::Value;

use crate::support::{TestFleet, private_server, superuser};

/// What is on a server that all databases share.
async fn shared(client: &tokio_postgres::Client) -> String {
    let sql = "SELECT json_build_object(
        'roles', (SELECT json_agg((rolname, rolpassword, rolcanlogin) ORDER BY rolname) FROM pg_authid),
        'members', (SELECT json_agg((roleid, member) ORDER BY roleid, member) FROM pg_auth_members),
        'databases', (SELECT json_agg((datname, datacl, datallowconn) ORDER BY datname) FROM pg_database))::text";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn findings(fleet: &TestFleet, arguments: &[&str]) -> (i32, Vec<Value>) {
    let (code, out, error) = fleet.run(&[&["server", "check", "--json"], arguments].concat()).await;
    (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e} {out} {error}")))
}

/// Those that failed, by their words.
fn failed(findings: &[Value]) -> Vec<String> {
    let words = |f: &Value| format!("{}: {} {}", f["trial"], f["message"], f["remedy"]);
    findings.iter().filter(|f| f["ok"] == false).map(words).collect()
}

#[tokio::test]
async fn it_changes_nothing_unless_it_is_told_to_and_reports_what_is_too_much() {
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = private_server(folder.path().join("own"), false).await;
    let root = connect(&server.superuser_url()).await;
    let fleet = TestFleet::builder().tenants(&["acme"]).build_on(&server.admin_url()).await;
    // A role of its own that the settings ask for, and that nobody has made.
    let mut fleet = fleet;
    fleet
        .edit_settings(|text| {
            format!("{text}\n[defaults.api]\nroles = ['anon', 'authenticated', 'service', 'check_role']\n")
        })
        .await;
    let before = shared(&root).await;
    let (code, all) = findings(&fleet, &[]).await;
    assert_eq!(code, 0, "{:?}", failed(&all));
    assert_eq!(shared(&root).await, before, "it only looks");
    let (code, all) = findings(&fleet, &["--fix"]).await;
    assert_eq!(code, 0, "{:?}", failed(&all));
    assert!(shared(&root).await.contains("check_role"));

    root.batch_execute(
        "GRANT pg_read_all_data TO service; ALTER ROLE anon CREATEDB; CREATE ROLE elsewhere_router LOGIN;",
    )
    .await
    .unwrap();
    root.batch_execute("CREATE DATABASE other").await.unwrap();
    root.batch_execute("CREATE DATABASE elsewhere_router").await.unwrap();
    root.batch_execute("REVOKE CONNECT ON DATABASE elsewhere_router FROM PUBLIC").await.unwrap();
    let before = shared(&root).await;
    let (code, all) = findings(&fleet, &[]).await;
    let told = failed(&all).join("\n");
    assert_eq!(code, 1);
    for expected in ["pg_read_all_data", "NOCREATEDB", "database other is closed", "elsewhere"] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    assert_eq!(failed(&all).len(), 4, "{told}");
    assert_eq!(shared(&root).await, before);
    drop(root);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn it_goes_on_past_a_dead_server() {
    let mut fleet = TestFleet::builder().build().await;
    fleet
        .edit_settings(|text| {
            format!("{text}\n[servers.dead]\nurl = 'postgres://a:b@127.0.0.1:1/postgres'\n")
        })
        .await;
    let (code, all) = findings(&fleet, &[]).await;
    assert_eq!(code, 1);
    assert!(all.iter().any(|f| f["server"] == "dead" && f["ok"] == false));
    assert!(all.iter().filter(|f| f["server"] == "main" && f["ok"] == true).count() > 8, "{all:?}");
}

#[tokio::test]
async fn a_server_of_another_fleet_is_not_taken_over_silently() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let catalog = fleet.fleet.settings.catalog.database.clone();
    let password = async || {
        let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
        let name = format!("{catalog}_router");
        superuser().await.query_one(sql, &[&name]).await.unwrap().get::<_, String>(0)
    };
    // Another fleet with its catalog elsewhere, of the same name, adds this server to its own.
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let elsewhere = private_server(folder.path().join("own"), false).await;
    let before = password().await;
    let text = std::fs::read_to_string(fleet.folder.path().join("tenants.toml")).unwrap();
    let url = text.lines().find(|line| line.starts_with("url = ")).unwrap();
    let text = text.replace(url, &format!("url = '{}'\n[servers.common]\n{url}", elsewhere.admin_url()));
    let second = tempfile::tempdir().unwrap();
    std::fs::write(second.path().join("tenants.toml"), text).unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_manybox"));
        command.current_dir(second.path()).args(arguments).stdin(std::process::Stdio::null());
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    };
    let init = async |arguments: &[&str]| {
        let output = run(arguments).await;
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for arguments in [&["init"][..], &["init"]] {
        let (code, error) = init(arguments).await;
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("`common`") && error.contains("server claim common"), "{error}");
    }
    assert_eq!(password().await, before, "the first fleet's routers still get in");
    // Who says so takes it over.
    assert_eq!(init(&["server", "claim", "common"]).await.0, Some(0));
    let (code, error) = init(&["init"]).await;
    assert_eq!(code, Some(0), "{error}");
    assert_ne!(password().await, before);
    let (code, error) = init(&["server", "claim", "common"]).await;
    assert!(code == Some(1) && error.contains("belongs to this fleet"), "{error}");
    let (code, _, error) = fleet.run(&["init"]).await;
    assert!(code == 1 && error.contains("belongs to fleet"), "{error}");
    // A server that was set up without the role that backups are read by is told of before they are due.
    let (client, connection) =
        tokio_postgres::connect(&elsewhere.superuser_url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let failed = async || {
        let all: Vec<Value> =
            serde_json::from_slice(&run(&["server", "check", "--json"]).await.stdout).unwrap();
        let of_backup =
            |f: &&Value| f["server"] == "main" && f["trial"].as_str().unwrap().contains("backups");
        let one = all.iter().find(of_backup).unwrap().clone();
        (one["ok"] == false).then(|| one["remedy"].as_str().unwrap().to_owned())
    };
    assert_eq!(failed().await, None);
    client.batch_execute("ALTER ROLE mb_backup RENAME TO away").await.unwrap();
    assert!(failed().await.unwrap().contains("CREATE ROLE mb_backup NOLOGIN BYPASSRLS"));
    client.batch_execute("ALTER ROLE away RENAME TO mb_backup").await.unwrap();
    // Where the catalog is lost no key is made: it would be taken for the fleet's when the catalog is back.
    client.batch_execute(&format!("DROP DATABASE {catalog} WITH (FORCE)")).await.unwrap();
    std::fs::remove_file(second.path().join("master.key")).unwrap();
    let (code, error) = init(&["init"]).await;
    assert!(code == Some(1) && error.contains("belongs to fleet"), "{error}");
    assert!(!second.path().join("master.key").exists(), "{error}");
    elsewhere.stop().await.unwrap();
}
