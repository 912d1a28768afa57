//! Master keys: a wrong one is noticed before anything is made from it, and a lost one has a way back.

use std::path::PathBuf;

use manybox::settings::{Paths, Settings};
use manybox::vault::KeyRing;
use serde_json::{Value, json};

use crate::adopt::Legacy;
use crate::support::{Running, TestFleet, eventually, sign};

const OWN: &str = "a secret of its own that is long enough";

fn file(fleet: &TestFleet) -> PathBuf {
    fleet.folder.path().join("master.key")
}

fn put(fleet: &TestFleet, ring: &KeyRing) {
    ring.save(&file(fleet)).unwrap();
}

/// What tells a key apart, as it is shown.
fn shown(ring: &KeyRing) -> String {
    format!("master key {} (fingerprint {})", ring.newest().id(), ring.newest().fingerprint())
}

/// Everything of the catalog that a command could have changed, and the router's password.
async fn state(fleet: &TestFleet) -> String {
    let server = fleet.fleet.servers.get("main").unwrap();
    let catalog = server.connect_admin_to(&fleet.fleet.settings.catalog.database).await.unwrap();
    let sql = "SELECT json_build_object('tenants', (SELECT json_agg(t ORDER BY id) FROM catalog.tenant t),
                   'keys', (SELECT json_agg(k) FROM catalog.master_key k),
                   'journal', (SELECT count(*) FROM catalog.journal))::text";
    let stored: String = catalog.query_one(sql, &[]).await.unwrap().get(0);
    let router = format!("{}_router", fleet.fleet.settings.catalog.database);
    let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
    let password: String = crate::support::superuser().await.query_one(sql, &[&router]).await.unwrap().get(0);
    format!("{stored} {password}")
}

#[tokio::test]
async fn every_command_refuses_a_wrong_key_by_number_and_fingerprint() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let right = KeyRing::load(&fleet.fleet.settings.keys).unwrap();
    let before = state(&fleet).await;
    // Of the same number, and of another.
    for wrong in [KeyRing::generate().unwrap(), KeyRing::numbered(7).unwrap()] {
        put(&fleet, &wrong);
        for arguments in [
            &["tenant", "list"][..],
            &["tenant", "create", "globex"],
            &["tenant", "set", "acme", "max_rows=5"],
            &["apply"],
            &["apply", "--dry-run"],
            &["init"],
            &["rekey"],
            &["rekey", "--finish"],
            &["migrate"],
            &["verify"],
            &["keys"],
        ] {
            let (code, out, error) = fleet.run(arguments).await;
            assert_eq!(code, 1, "{arguments:?} {out} {error}");
            assert!(error.contains(&shown(&right)), "{arguments:?} {error}");
            assert!(error.contains(&shown(&wrong)) && error.contains("master.key"), "{arguments:?} {error}");
        }
        assert_eq!(state(&fleet).await, before);
    }
    put(&fleet, &right);
    let (code, _, error) = fleet.run(&["tenant", "create", "globex"]).await;
    assert_eq!(code, 0, "{error}");
}

#[tokio::test]
async fn init_without_the_key_changes_nothing_where_the_catalog_is() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let right = KeyRing::load(&fleet.fleet.settings.keys).unwrap();
    let before = state(&fleet).await;
    std::fs::remove_file(file(&fleet)).unwrap();
    for arguments in [&["init"][..], &["apply"], &["rekey"], &["tenant", "list"]] {
        let (code, _, error) = fleet.run(arguments).await;
        assert_eq!(code, 1, "{arguments:?} {error}");
        assert!(error.contains("master.key") && error.contains("backup"), "{arguments:?} {error}");
        assert!(!file(&fleet).exists(), "{arguments:?}");
    }
    let (_, _, error) = fleet.run(&["init"]).await;
    assert!(error.contains(&shown(&right)) && error.contains("rekey --lost"), "{error}");
    assert_eq!(state(&fleet).await, before);
    put(&fleet, &right);
    assert_eq!(fleet.run(&["init"]).await.0, 0);
}

#[tokio::test]
async fn init_says_that_it_made_a_key() {
    let fleet = TestFleet::builder().build().await;
    // Another fleet of the same folder: neither key nor catalog is there.
    std::fs::remove_file(file(&fleet)).unwrap();
    let name = format!("{}_new", fleet.fleet.settings.catalog.database);
    let mut init = fleet.program(&["init"]);
    init.env("MANYBOX__CATALOG__DATABASE", name);
    let init = tokio::task::spawn_blocking(move || init.output()).await.unwrap().unwrap();
    let error = String::from_utf8_lossy(&init.stderr).into_owned();
    assert!(init.status.success(), "{error}");
    let made = KeyRing::load(&fleet.fleet.settings.keys).unwrap();
    assert!(
        error.contains(&format!("made {}", shown(&made))) && error.contains("back this file up"),
        "{error}"
    );
}

/// `manybox serve` as a process of its own: where it listens for tenants, and for operators.
async fn serving(fleet: &TestFleet) -> (Running, String, String) {
    let free = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [http, admin] = free.map(|listener| listener.local_addr().unwrap().to_string());
    let mut serve = fleet.program(&["serve"]);
    serve.env("MANYBOX__LISTEN__HTTP", &http).env("MANYBOX__LISTEN__ADMIN", &admin);
    let serve = Running(serve.stderr(std::process::Stdio::null()).spawn().unwrap());
    (serve, format!("http://{http}"), format!("http://{admin}/ready"))
}

async fn readiness(url: &str) -> (u16, Value) {
    match reqwest::get(url).await {
        Ok(answer) => (answer.status().as_u16(), answer.json().await.unwrap_or_default()),
        Err(_) => (0, Value::Null),
    }
}

#[tokio::test]
async fn a_router_with_a_wrong_key_is_not_ready_until_it_has_the_right_one() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let (right, wrong) = (KeyRing::load(&fleet.fleet.settings.keys).unwrap(), KeyRing::generate().unwrap());
    put(&fleet, &wrong);
    let (_serve, http, ready) = serving(&fleet).await;
    eventually("it says that its key is wrong", || async {
        let (status, answer) = readiness(&ready).await;
        let reason = answer["reason"].as_str().unwrap_or_default();
        status == 503 && reason.contains("wrong master key") && reason.contains(&shown(&wrong))
    })
    .await;
    put(&fleet, &right);
    let items = format!("{http}/acme/items");
    eventually("it serves", || async { reqwest::get(&items).await.is_ok_and(|a| a.status() == 200) }).await;
    assert_eq!(readiness(&ready).await.0, 200);
    // What is put there while it serves is compared, and takes nothing from it.
    put(&fleet, &wrong);
    eventually("it says what is amiss", || async {
        let (status, answer) = readiness(&ready).await;
        let warning = answer["warning"].as_str().unwrap_or_default();
        status == 200 && warning.contains(&shown(&right)) && warning.contains(&shown(&wrong))
    })
    .await;
    assert_eq!(reqwest::get(&items).await.unwrap().status(), 200);
}

#[tokio::test]
async fn answers_tell_a_wrong_key_from_a_tenant_that_moved() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    // Its password is made from a key that this router does not have, as after a rotation that it did not hear of.
    let server = fleet.fleet.servers.get("main").unwrap();
    let catalog = server.connect_admin_to(&fleet.fleet.settings.catalog.database).await.unwrap();
    let other = KeyRing::numbered(2).unwrap();
    let record = fleet.row("acme").await.record;
    let login = other.newest().tenant_login(&record);
    let sql = format!("ALTER ROLE {} PASSWORD '{}'", login.user, login.verifier().unwrap());
    server.connect_admin().await.unwrap().batch_execute(&sql).await.unwrap();
    catalog.execute("UPDATE catalog.tenant SET key = 2 WHERE slug = 'acme'", &[]).await.unwrap();
    eventually("the answer names it", || async {
        let answer = fleet.get("/acme/items").await;
        answer.status == 503 && answer.code() == "MBX211"
    })
    .await;
}

#[tokio::test]
async fn a_lost_key_has_a_way_back() {
    let mut fleet = TestFleet::builder().tenants(&["acme", "globex"]).serve().await;
    let legacy = Legacy::make(&fleet).await;
    legacy.adopt(&fleet, "old", &[]).await;
    let set = format!("jwt_secret={OWN}");
    assert_eq!(fleet.run(&["tenant", "set", "acme", &set]).await.0, 0);
    assert_eq!(fleet.run(&["tenant", "set", "globex", &set]).await.0, 0);
    // After an earlier rotation, so that numbers don't begin at 1.
    for arguments in [&["rekey"][..], &["rekey", "--finish"]] {
        let (code, _, error) = fleet.run(arguments).await;
        assert_eq!(code, 0, "{error}");
    }
    std::fs::remove_file(file(&fleet)).unwrap();
    let (code, out, error) = fleet.run(&["rekey", "--lost", "--json"]).await;
    assert_eq!(code, 0, "{out} {error}");
    let outcome: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(outcome["key"], 3);
    let lost = outcome["lost"].as_array().unwrap();
    let secrets = |slug: &str| lost.iter().find(|lost| lost["tenant"] == slug).unwrap()["secrets"].clone();
    assert_eq!(lost.len(), 3, "{out}");
    assert_eq!(secrets("acme"), json!(["jwt_secret"]));
    assert_eq!(secrets("old"), json!(["jwt_secret", "password"]));
    let (_, out, _) = fleet.run(&["keys"]).await;
    assert!(out.contains("current") && out.contains("tenant set acme jwt_secret=@FILE"), "{out}");

    // Every tenant serves, by the router that was there and by a new one.
    fleet.reopen().await;
    for router in ["the router that runs", "a new one"] {
        for slug in ["acme", "globex"] {
            fleet.app.as_ref().unwrap().pools.drain(&fleet.row(slug).await.record.id);
            let answer = fleet.get(&format!("/{slug}/items")).await;
            assert_eq!(answer.status, 200, "{router} {slug} {}", answer.text);
            let token = fleet.token(slug, json!({ "role": "service" })).await;
            assert_eq!(fleet.get_as(&token, &format!("/{slug}/items")).await.status, 200, "{router} {slug}");
        }
        let app = fleet.app.take().unwrap();
        app.stop().await;
        fleet.start_router().await;
    }
    // Nobody has the adopted one's password now: that is no outage of its server.
    let refused = fleet.get("/old/todos").await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert_eq!(refused.code(), "MBX203", "{}", refused.text);
    // What was set aside is settable, and then nothing is lost any more.
    let token = sign(OWN.as_bytes(), json!({ "role": "service" }));
    assert_eq!(fleet.get_as(&token, "/acme/items").await.status, 401);
    let (code, out, error) = fleet.run(&["tenant", "set", "acme", &set]).await;
    assert_eq!(code, 0, "{out} {error}");
    eventually("its own tokens hold", || async { fleet.get_as(&token, "/acme/items").await.status == 200 })
        .await;
    // Or it is given up.
    let (code, out, error) = fleet.run(&["tenant", "set", "globex", "jwt_secret="]).await;
    assert!(code == 0 && out.contains("jwt_secret: (a lost secret) -> (default)"), "{out} {error}");
    let role = format!("{}_login", legacy.name);
    let adopt = ["tenant", "adopt", "old", "--database", &legacy.name, "--login-role", &role];
    let adopt = [&adopt[..], &["--password-env", "OLD", "--jwt-secret-env", "OWN"]].concat();
    let mut adopt = fleet.program(&adopt);
    adopt.env("OLD", "hunter2").env("OWN", OWN);
    let adopt = tokio::task::spawn_blocking(move || adopt.output()).await.unwrap().unwrap();
    assert!(adopt.status.success(), "{}", String::from_utf8_lossy(&adopt.stderr));
    eventually("it is served", || async { fleet.get("/old/todos").await.status == 200 }).await;
    let (code, out, error) = fleet.run(&["keys", "--json"]).await;
    assert_eq!(code, 0, "{error}");
    let keys: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(keys["lost"], json!([]), "{out}");
    assert_eq!(keys["keys"][2]["state"], "current");
    assert_eq!(keys["keys"][1]["state"], "ended");
}

#[tokio::test]
async fn a_wrong_file_is_kept_when_a_lost_key_is_replaced() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let wrong = KeyRing::generate().unwrap();
    put(&fleet, &wrong);
    let (code, _, error) = fleet.run(&["rekey", "--lost"]).await;
    assert_eq!(code, 0, "{error}");
    let kept = fleet.folder.path().join(format!("master.key.before-{}", wrong.newest().fingerprint()));
    assert!(kept.exists() && error.contains("before-"), "{error}");
    assert_eq!(fleet.run(&["tenant", "create", "globex"]).await.0, 0);
    // Nothing is lost: again, it makes no other key.
    let (code, out, error) = fleet.run(&["rekey", "--lost", "--json"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["key"], 2);
}

#[tokio::test]
async fn a_damaged_key_file_is_as_lost_as_one_that_is_not_there() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let whole = std::fs::read(file(&fleet)).unwrap();
    let mut key = 1;
    for damaged in [&b""[..], &whole[..whole.len() / 2], &[0xff, 0xfe, 0, 1]] {
        std::fs::write(file(&fleet), damaged).unwrap();
        for arguments in [&["init"][..], &["tenant", "list"], &["rekey"], &["keys"]] {
            let (code, _, error) = fleet.run(arguments).await;
            assert_eq!(code, 1, "{arguments:?} {error}");
            assert!(error.contains("backup") && error.contains("rekey --lost"), "{arguments:?} {error}");
            assert_eq!(std::fs::read(file(&fleet)).unwrap(), damaged, "{arguments:?}");
        }
        let (code, out, error) = fleet.run(&["rekey", "--lost", "--json"]).await;
        assert_eq!(code, 0, "{out} {error}");
        key += 1;
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["key"], key);
        let (_, kept) = error.split_once("is kept in `").unwrap();
        let kept = fleet.folder.path().join(kept.split('`').next().unwrap());
        assert_eq!(std::fs::read(kept).unwrap(), damaged, "{error}");
        assert_eq!(fleet.run(&["tenant", "list"]).await.0, 0);
    }
    std::fs::remove_file(file(&fleet)).unwrap();
    std::fs::create_dir(file(&fleet)).unwrap();
    let (code, _, error) = fleet.run(&["tenant", "list"]).await;
    assert!(code == 1 && error.contains("folder"), "{error}");
    // A key that can't be put in its place is left nowhere.
    assert!(KeyRing::generate().unwrap().save(&file(&fleet)).is_err());
    let names = std::fs::read_dir(fleet.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.map(|name| name.into_string().unwrap()).all(|name| !name.contains("new-")));
}

#[tokio::test]
async fn rekey_waits_for_every_live_router_and_names_those_that_lack_the_key() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let catalog = fleet.fleet.settings.catalog.database.clone();
    let (server, keys) = (fleet.fleet.servers.get("main").unwrap(), &fleet.fleet.keys);
    // A router on another machine, whose key file nobody has replaced.
    let login = keys.router_logins(&catalog).newest;
    let other = manybox::pg::connect(&server.endpoint, &login, &catalog).await.unwrap();
    let report = "SELECT count(*) FROM catalog.report_keys('r1', 'elsewhere', $1)";
    other.query_one(report, &[&keys.fingerprints()]).await.unwrap();
    let (code, _, error) = fleet.run(&["rekey", "--wait", "500ms"]).await;
    assert_eq!(code, 1);
    assert!(error.contains("elsewhere (r1)") && error.contains("no tenant was moved"), "{error}");
    assert_eq!(fleet.row("acme").await.record.key, 1);
    // It has the file now.
    let ring = KeyRing::load(&fleet.fleet.settings.keys).unwrap();
    other.query_one(report, &[&ring.fingerprints()]).await.unwrap();
    let (code, out, error) = fleet.run(&["rekey", "--wait", "500ms"]).await;
    assert_eq!(code, 0, "{out} {error}");
    assert_eq!(fleet.row("acme").await.record.key, 2);
}

/// A fleet with a second name of the same server, whose tenants' server can be taken away.
async fn two_servers() -> TestFleet {
    let mut fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    fleet
        .edit_settings(|text| {
            let url = text.lines().find(|line| line.starts_with("url = ")).unwrap().to_owned();
            format!("{text}\n[servers.other]\n{url}\n")
        })
        .await;
    let spec = manybox::fleet::TenantSpec { server: Some("other".into()), ..Default::default() };
    fleet.fleet.create(&"globex".parse().unwrap(), &spec).await.unwrap();
    fleet
}

/// The settings as they are while the second server is down.
fn without_the_other(fleet: &TestFleet, down: bool) {
    let path = fleet.folder.path().join("tenants.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, _) = text.split_once("[servers.other]").unwrap();
    let url = text.lines().find(|line| line.starts_with("url = ")).unwrap();
    let url = if down { "url = 'postgres://a:b@127.0.0.1:1/postgres'" } else { url };
    std::fs::write(&path, format!("{head}[servers.other]\n{url}\n")).unwrap();
    Settings::load(&Paths { file: path }).unwrap();
}

#[tokio::test]
async fn a_dead_server_stops_neither_init_nor_apply_nor_rekey() {
    let fleet = two_servers().await;
    let next = fleet.folder.path().join("migrations/shop/V90__further.sql");
    std::fs::write(next, "CREATE TABLE public.further (id int);").unwrap();
    without_the_other(&fleet, true);
    let (code, out, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 1, "{out} {error}");
    assert!(error.contains("globex") || out.contains("globex"), "{out} {error}");
    let version = async |slug: &str| fleet.row(slug).await.record.lineage().unwrap().version;
    assert_eq!(version("acme").await, 90, "tenants of healthy servers were migrated");
    for arguments in [&["init"][..], &["apply"], &["rekey"]] {
        let (code, out, error) = fleet.run(arguments).await;
        assert_eq!(code, 1, "{arguments:?} {out}");
        assert!(error.contains("server `other`"), "{arguments:?} {error}");
    }
    assert_eq!(fleet.row("acme").await.record.key, 2, "tenants of healthy servers moved");
    // What routers obey already is said, for somebody may need it at once.
    for (verb, is) in
        [("suspend", "suspended"), ("resume", "active"), ("retire", "retired"), ("restore", "active")]
    {
        let (code, _, error) = fleet.run(&["tenant", verb, "globex"]).await;
        assert_eq!(code, 1, "{verb} {error}");
        assert!(
            error.contains(&format!("globex is {is}")) && error.contains("manybox apply"),
            "{verb} {error}"
        );
    }
    let (code, out, error) = fleet.run(&["verify", "--json"]).await;
    assert_eq!(code, 1, "{error}");
    let verified: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(verified["looked_into"], json!(["acme"]), "{out}");
    assert!(!out.contains("\"V05\",\"server\":\"other\""), "{out}");
    assert_eq!(fleet.row("globex").await.record.key, 1);
    let (code, _, error) = fleet.run(&["rekey", "--finish"]).await;
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("1 tenant(s)"), "{error}");
    without_the_other(&fleet, false);
    for arguments in [&["rekey"][..], &["rekey", "--finish"], &["init"]] {
        let (code, _, error) = fleet.run(arguments).await;
        assert_eq!(code, 0, "{arguments:?} {error}");
    }
    assert_eq!(fleet.row("globex").await.record.key, 2);
    let (code, out, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{out} {error}");
    assert_eq!(version("globex").await, 90);
}

#[tokio::test]
async fn secrets_come_from_files_standard_input_and_the_environment() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let secrets = ["file", "stdin", "option", "variable"].map(|how| format!("{how} {OWN}"));
    std::fs::write(fleet.folder.path().join("secret"), format!("{}\n", secrets[0])).unwrap();
    std::fs::write(fleet.folder.path().join("option"), &secrets[2]).unwrap();
    let ways: [&[&str]; 4] = [
        &["jwt_secret=@secret"],
        &["jwt_secret=-"],
        &["--jwt-secret-file", "option"],
        &["--jwt-secret-env", "ITS_SECRET", "max_rows=10"],
    ];
    for (way, secret) in ways.iter().zip(&secrets) {
        let mut set = fleet.program(&[&["tenant", "set", "acme"], *way].concat());
        set.env("ITS_SECRET", secret).stdin(std::process::Stdio::piped());
        set.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let secret = secret.clone();
        let (done, secret) = tokio::task::spawn_blocking(move || {
            use std::io::Write as _;
            let mut child = set.spawn().unwrap();
            child.stdin.take().unwrap().write_all(secret.as_bytes()).ok();
            (child.wait_with_output().unwrap(), secret)
        })
        .await
        .unwrap();
        let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{way:?} {error}");
        assert!(!out.contains(&secret) && error.is_empty(), "{way:?} {out} {error}");
        assert!(out.contains("jwt_secret: "), "{way:?} {out}");
        let token = sign(secret.as_bytes(), json!({ "role": "service" }));
        eventually("its tokens hold", || async { fleet.get_as(&token, "/acme/items").await.status == 200 })
            .await;
    }
    let (_, _, error) = fleet.run(&["tenant", "set", "acme", &format!("jwt_secret={OWN}")]).await;
    assert!(error.contains("history") && error.contains("@FILE"), "{error}");
    let (code, _, error) = fleet.run(&["tenant", "set", "acme", "jwt_secret=@nowhere"]).await;
    assert!(code == 1 && error.contains("`nowhere`"), "{error}");
    let journal = fleet.fleet.catalog.journal(&fleet.row("acme").await.record.id, 1).await.unwrap();
    assert_eq!(journal[0].detail["secrets_set"], json!(["jwt_secret"]), "{journal:?}");
}

#[tokio::test]
async fn a_settings_file_that_is_named_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let run = async |arguments: &[&str], variable: Option<&str>| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_manybox"));
        command.current_dir(folder.path()).args(arguments).stdin(std::process::Stdio::null());
        command.envs(variable.map(|file| ("MANYBOX_CONFIG", file)));
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (arguments, variable) in [
        (&["--config", "nowhere.toml", "tenant", "list"][..], None),
        (&["tenant", "list"], Some("nowhere.toml")),
        (&["--config", "nowhere.toml", "config"], None),
    ] {
        let (code, error) = run(arguments, variable).await;
        assert_eq!(code, Some(2), "{arguments:?} {error}");
        assert!(error.contains("`nowhere.toml`"), "{error}");
    }
    // In an empty folder nothing is made, by whatever asks.
    for arguments in [&["tenant", "list"][..], &["serve"], &["apply"], &["server", "check"], &["keys"]] {
        let (code, error) = run(arguments, None).await;
        assert_eq!(code, Some(1), "{arguments:?} {error}");
        assert!(error.contains("manybox init") && error.contains(".manybox"), "{arguments:?} {error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{arguments:?}");
    }
    // One that is there and can't be read is not taken for one that is missing, which would make a fleet of its own.
    let unreadable = folder.path().join("tenants.toml");
    let refused = async |what: &str| {
        for arguments in [&["init"][..], &["config"], &["--config", "tenants.toml", "tenant", "list"]] {
            let (code, error) = run(arguments, None).await;
            assert_eq!(code, Some(2), "{what} {arguments:?} {error}");
            assert!(error.contains("`tenants.toml`"), "{what} {arguments:?} {error}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{what} {arguments:?}");
        }
    };
    std::fs::create_dir(&unreadable).unwrap();
    refused("a folder").await;
    std::fs::remove_dir(&unreadable).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", &unreadable).unwrap();
    refused("a link to nowhere").await;
    std::fs::remove_file(&unreadable).unwrap();
    let mut pipe = std::process::Command::new("mkfifo");
    assert!(pipe.arg(&unreadable).status().unwrap().success());
    refused("a pipe").await;
    std::fs::remove_file(&unreadable).unwrap();
    // So is a variable with too few underscores, which would set nothing.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_manybox"));
    command.current_dir(folder.path()).arg("config").env("MANYBOX_SERVERS__MAIN__URL", "postgres://h/d");
    let misnamed = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let error = String::from_utf8_lossy(&misnamed.stderr);
    assert!(misnamed.status.code() == Some(2) && error.contains("`MANYBOX_SERVERS__MAIN__URL`"), "{error}");
    // A URL that can't be used is a wrong setting.
    for url in [
        "mysql://h/d",
        "postgres://h:99999/d",
        "postgres://h/d?sslmode=verify",
        "postgres://h/d?sslrootcert=/no",
    ] {
        std::fs::write(&unreadable, format!("[servers.main]\nurl = '{url}'\n")).unwrap();
        for arguments in [&["serve"][..], &["tenant", "list"], &["server", "check"]] {
            let (code, error) = run(arguments, None).await;
            assert_eq!(code, Some(2), "{url} {arguments:?} {error}");
            assert!(error.contains("server `main`"), "{url} {arguments:?} {error}");
        }
    }
    // Wrong settings and wrong usage are the same to a script; a dry run has another meaning for that code.
    std::fs::write(folder.path().join("tenants.toml"), "[listen]\nhtp = 1").unwrap();
    assert_eq!(run(&["tenant", "list"], None).await.0, Some(2));
    assert_eq!(run(&["apply", "--dry-run"], None).await.0, Some(1));
}
