//! The program: exit codes, `--json`, settings by environment, secrets masked.

use serde_json::Value;

use crate::support::{Running, TestFleet, eventually};

#[tokio::test]
async fn exit_codes_tell_failure_from_wrong_usage() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    assert_eq!(fleet.run(&["tenant", "show", "acme"]).await.0, 0);
    assert_eq!(fleet.run(&["tenant", "show", "nobody"]).await.0, 1);
    assert_eq!(fleet.run(&["tenant", "create", "Bad_Slug"]).await.0, 2);
    assert_eq!(fleet.run(&["no-such-command"]).await.0, 2);
}

#[tokio::test]
async fn a_claim_that_an_option_sets_is_refused() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    for (claim, option) in [("exp=1000", "--expires"), ("role=service", "--role")] {
        let (code, output, error) =
            fleet.run(&["tenant", "token", "acme", "--role", "anon", "--claim", claim]).await;
        assert!(code == 1 && output.is_empty() && error.contains(option), "{claim}: {error}");
    }
    assert_eq!(fleet.run(&["tenant", "token", "acme", "--role", "anon", "--claim", "sub=me"]).await.0, 0);
}

#[tokio::test]
async fn a_limit_that_has_no_effect_is_warned_of_and_no_other() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    for (limit, warned) in [("1", false), ("3", false), ("100", true)] {
        let set = format!("max_connections={limit}");
        let (code, out, error) = fleet.run(&["tenant", "set", "acme", &set]).await;
        assert!(code == 0 && out.contains("warning") == warned, "{limit}: {out} {error}");
    }
    for (arguments, what) in [
        (&["edition=x"][..], "change-edition"),
        (&["server=x"], "--server OTHER"),
        (&["max_rows=1", "max_rows=2"], "more than once"),
    ] {
        let (code, _, error) = fleet.run(&[&["tenant", "set", "acme"], arguments].concat()).await;
        assert!(code == 1 && error.contains(what) && error.contains("nothing was changed"), "{error}");
    }
}

#[tokio::test]
async fn every_list_and_answer_has_json() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build().await;
    for arguments in [
        &["tenant", "list"][..],
        &["tenant", "show", "acme"],
        &["tenant", "token", "acme", "--role", "anon"],
        &["tenant", "set", "acme", "max_rows=10"],
        &["migrate", "status"],
        &["apply", "--dry-run"],
        &["config"],
        &["init"],
    ] {
        let (code, out, error) = fleet.run(&[arguments, &["--json"]].concat()).await;
        assert_eq!(code, 0, "{arguments:?}: {error}");
        serde_json::from_str::<Value>(&out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"));
    }
    let (_, out, _) = fleet.run(&["tenant", "list", "--search", "glob", "--json"]).await;
    let rows: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["slug"], "globex");
}

#[tokio::test]
async fn no_secret_is_printed() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let password = fleet
        .fleet
        .servers
        .get("main")
        .unwrap()
        .admin()
        .unwrap()
        .password
        .as_ref()
        .unwrap()
        .expose()
        .to_owned();
    let login = fleet.fleet.keys.tenant_logins(&fleet.row("acme").await.record).remove(0);
    for arguments in [&["config"][..], &["tenant", "show", "acme", "--json"], &["server", "check"]] {
        let (_, out, error) = fleet.run(arguments).await;
        for secret in [password.as_str(), login.password.as_ref().unwrap().expose()] {
            assert!(!out.contains(secret) && !error.contains(secret), "{arguments:?}");
        }
    }
}

#[tokio::test]
async fn a_server_can_be_given_by_the_environment_alone() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let file = fleet.folder.path().join("tenants.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let url =
        text.lines().find_map(|line| line.strip_prefix("url = '")).unwrap().trim_end_matches('\'').to_owned();
    let without: Vec<&str> =
        text.lines().filter(|l| !l.starts_with("url = ") && *l != "[servers.main]").collect();
    std::fs::write(&file, without.join("\n")).unwrap();
    let mut command = fleet.program(&["tenant", "list"]);
    command.env("MANYBOX__SERVERS__MAIN__URL", url);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("acme"));
}

/// `manybox serve` as a process of its own, and where it listens: for tenants, for operators.
async fn serving(fleet: &TestFleet) -> (Running, String, String) {
    // Both at once, so that they differ.
    let free = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [http, admin] = free.map(|listener| listener.local_addr().unwrap().to_string());
    let mut serve = fleet.program(&["serve"]);
    serve.env("MANYBOX__LISTEN__HTTP", &http).env("MANYBOX__LISTEN__ADMIN", &admin);
    serve.env("MANYBOX__LISTEN__DRAIN_TIMEOUT", "60s").env("MANYBOX__LISTEN__STOP_DELAY", "0s");
    let serve = Running(serve.stderr(std::process::Stdio::null()).spawn().unwrap());
    let items = format!("http://{http}/acme/items");
    eventually("it serves", || async { reqwest::get(&items).await.is_ok_and(|a| a.status() == 200) }).await;
    (serve, http, admin)
}

/// A request that takes this long, once it is under way.
async fn slow(
    fleet: &TestFleet,
    http: &str,
    seconds: f64,
) -> tokio::task::JoinHandle<reqwest::Result<reqwest::Response>> {
    let slow = reqwest::Client::new()
        .post(format!("http://{http}/acme/rpc/sleepy"))
        .json(&serde_json::json!({ "seconds": seconds }))
        .send();
    let slow = tokio::spawn(slow);
    fleet.until_under_way("acme").await;
    slow
}

fn terminate(program: &Running) {
    std::process::Command::new("kill").args(["-TERM", &program.0.id().to_string()]).status().unwrap();
}

#[tokio::test]
async fn a_stop_lets_requests_finish() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let (mut serve, http, admin) = serving(&fleet).await;
    let (items, ready) = (format!("http://{http}/acme/items"), format!("http://{admin}/ready"));
    assert_eq!(reqwest::get(&ready).await.unwrap().status(), 200);
    let slow = slow(&fleet, &http, 1.5).await;
    terminate(&serve);
    eventually("no new requests are taken", || async { reqwest::get(&items).await.is_err() }).await;
    // Whoever asks hears it for as long as something is under way.
    assert!(!slow.is_finished());
    let said = reqwest::get(&ready).await.unwrap();
    assert_eq!(said.status(), 503);
    assert!(said.text().await.unwrap().contains("stopping"));
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    let status = tokio::task::spawn_blocking(move || serve.0.wait()).await.unwrap().unwrap();
    assert!(status.success());
    // The tenant's, and the router's own to the catalog.
    let logins = vec![
        fleet.row("acme").await.record.id.database(),
        format!("{}_router", fleet.fleet.settings.catalog.database),
    ];
    let admin = fleet.admin("acme").await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = ANY($1)";
    eventually("no backend is left", || async {
        admin.query_one(sql, &[&logins]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let (mut serve, http, admin) = serving(&fleet).await;
    let slow = slow(&fleet, &http, 20.0).await;
    terminate(&serve);
    let ready = format!("http://{admin}/ready");
    eventually("it stops", || async { reqwest::get(&ready).await.unwrap().status() == 503 }).await;
    terminate(&serve);
    let status = tokio::task::spawn_blocking(move || serve.0.wait()).await.unwrap().unwrap();
    assert!(status.success());
    assert!(slow.await.unwrap().is_err(), "it was cut off");
}

#[tokio::test]
async fn a_readable_key_file_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let key = fleet.folder.path().join("master.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, error) = fleet.run(&["tenant", "list"]).await;
    assert_eq!(code, 1);
    assert!(error.contains("chmod 600"), "{error}");
}

#[tokio::test]
async fn completions_and_pages_of_the_manual_need_no_settings() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_manybox"));
        let output = program.args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        let text = run(&["completions", shell]);
        assert!(text.contains("manybox") && text.contains("rekey"), "{shell}");
    }
    assert!(run(&["man"]).contains(".TH manybox 1"));
    run(&["man", "--to", "."]);
    let page = std::fs::read_to_string(folder.path().join("manybox-tenant-create.1")).unwrap();
    assert!(page.contains("SLUG"), "{page}");
    assert!(!folder.path().join(".manybox").exists(), "no server was started");
}
