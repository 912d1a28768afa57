//! Routing: base URL to tenant, refusals, and changes that reach a running router.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};

use manybox::catalog::Reader;
use manybox::directory::{self, Directory, Snapshots};
use manybox::pool::Budget;
use manybox::tenant::Verb;
use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;

use crate::support::{Answer, TestFleet, eventually, private_server};

async fn by_host(fleet: &TestFleet, host: &str, path: &str) -> Answer {
    Answer::of(fleet.request(Method::GET, path).header("Host", host).send().await.unwrap()).await
}

#[tokio::test]
async fn by_prefix_subdomain_and_custom_host() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).serve().await;
    assert_eq!(fleet.get("/acme/items").await.json(), json!([]));
    assert_eq!(by_host(&fleet, "globex.localhost:8080", "/items").await.json(), json!([]));
    assert_eq!(by_host(&fleet, "GLOBEX.localhost.", "/items").await.status, 200);
    assert_eq!(by_host(&fleet, "clinic.example", "/items").await.status, 404);
    // A new base URL reaches the running router.
    let (code, _, error) = fleet
        .run(&["tenant", "set", "acme", "base_urls=https://clinic.example,https://shared.example/a/b"])
        .await;
    assert_eq!(code, 0, "{error}");
    eventually("the custom host answers", || async {
        by_host(&fleet, "clinic.example", "/items").await.status == 200
    })
    .await;
    assert_eq!(by_host(&fleet, "shared.example", "/a/b/items").await.status, 200);
    assert_eq!(by_host(&fleet, "shared.example", "/a/items").await.status, 404);
    // And one that is taken away leaves it.
    fleet.run(&["tenant", "set", "acme", "base_urls="]).await;
    eventually("the custom host is gone", || async {
        by_host(&fleet, "clinic.example", "/items").await.status == 404
    })
    .await;
    assert_eq!(fleet.get("/acme/items").await.status, 200);
}

#[tokio::test]
async fn definite_answers() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    for path in ["/acme/items", "/acme/rest/v1/items", "/acme", "/acme/", "/acme/rest/v1/"] {
        assert_eq!(fleet.get(path).await.status, 200, "{path}");
    }
    // As PostgREST: a slash at the end names something inside a table, and there is nothing.
    let inside = fleet.get("/acme/items/").await;
    assert_eq!((inside.status.as_u16(), inside.code().as_str()), (404, "PGRST125"));
    let unknown = fleet.get("/acme/itemss").await;
    assert_eq!((unknown.status.as_u16(), unknown.code().as_str()), (404, "PGRST205"));
    assert!(unknown.json()["hint"].as_str().unwrap().contains("items"), "{}", unknown.text);
    let nowhere = fleet.get("/nobody/items").await;
    assert_eq!((nowhere.status.as_u16(), nowhere.code().as_str()), (404, "MBX102"));
    let options = Answer::of(fleet.request(Method::OPTIONS, "/acme/items").send().await.unwrap()).await;
    assert_eq!(options.status, 200);
    assert!(options.headers["allow"].contains("GET"), "{:?}", options.headers);
    let preflight = fleet
        .request(Method::OPTIONS, "/acme/items")
        .header("Origin", "https://app.example")
        .header("Access-Control-Request-Method", "PATCH")
        .header("Access-Control-Request-Headers", "authorization, x-own");
    let preflight = Answer::of(preflight.send().await.unwrap()).await;
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.headers["access-control-allow-origin"], "*");
    assert_eq!(
        preflight.headers["access-control-allow-headers"],
        "Authorization, x-own, Accept, Accept-Language, Content-Language"
    );
}

#[tokio::test]
async fn states_reach_a_running_router() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let answers = |status: u16| {
        let fleet = &fleet;
        move || async move { fleet.get("/acme/items").await.status == status }
    };
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    fleet.fleet.carry_out("acme", Verb::Suspend).await.unwrap();
    eventually("suspended is 403", answers(403)).await;
    let refused = fleet.get("/acme/items").await;
    assert_eq!(refused.code(), "MBX103");
    assert!(refused.json()["hint"].is_string());
    fleet.fleet.carry_out("acme", Verb::Resume).await.unwrap();
    eventually("resumed is 200", answers(200)).await;
    fleet.fleet.carry_out("acme", Verb::Retire).await.unwrap();
    eventually("retired is 404", answers(404)).await;
    fleet.fleet.carry_out("acme", Verb::Restore).await.unwrap();
    eventually("restored is 200", answers(200)).await;
    // A tenant made while the router runs.
    fleet.create("delta").await;
    eventually("a new tenant answers", || async { fleet.get("/delta/items").await.status == 200 }).await;
}

#[tokio::test]
async fn a_router_that_missed_the_notice_is_fenced() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let before = fleet.tenant("acme").await;
    let app = fleet.app.as_ref().unwrap();
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    app.abort();
    fleet.fleet.carry_out("acme", Verb::Suspend).await.unwrap();
    // This router still believes that the tenant is served.
    assert!(app.directory.get(&before.id).unwrap().is_served());
    for _ in 0..3 {
        let answer = fleet.get("/acme/items").await;
        assert_eq!(answer.status, 503, "{}", answer.text);
    }
}

#[tokio::test]
async fn a_disk_that_hangs_holds_up_no_news() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    // The directory is written to a disk that takes it when this is dropped.
    let (disk, hung) = mpsc::channel::<()>();
    let (writes, mut written) = watch::channel(0);
    let hung = Mutex::new(hung);
    let shares = move || {
        writes.send_modify(|writes| *writes += 1);
        let _ = hung.lock().unwrap().recv();
        BTreeMap::new()
    };
    let settings = &fleet.fleet.settings;
    let catalog = fleet.fleet.servers.endpoints()[&settings.catalog.server].clone();
    let reader = Reader::new(catalog, Arc::clone(&fleet.fleet.keys), settings.catalog.database.clone());
    let (directory, pools) = (Directory::default(), fleet.pools(Budget::default()));
    let snapshots = Snapshots::new(settings, shares, |_| {}).unwrap();
    let (_live, settings) = watch::channel(Arc::new(settings.clone()));
    let follows =
        directory::watch(directory.clone(), reader, settings, pools.refused(), Some(snapshots), |_| {});
    let follows = tokio::spawn(follows);
    written.wait_for(|writes| *writes == 1).await.unwrap();
    let id = fleet.row("acme").await.record.id;
    assert!(directory.get(&id).unwrap().is_served());
    fleet.fleet.carry_out("acme", Verb::Suspend).await.unwrap();
    eventually("it is heard", || async { !directory.get(&id).unwrap().is_served() }).await;
    follows.abort();
    drop(disk);
}

#[tokio::test]
async fn a_lost_catalog_is_found_again_and_serving_goes_on() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let router = format!("{}_router", fleet.fleet.settings.catalog.database);
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1";
    for round in 0..3 {
        let ended: i64 = admin.query_one(cut, &[&router]).await.unwrap().get(0);
        assert!(ended > 0 || round > 0);
        assert_eq!(fleet.get("/acme/items").await.status, 200, "served from memory");
    }
    // What was missed meanwhile is loaded with the rest, and what comes later is heard.
    fleet.create("missed").await;
    eventually("the new tenant answers", || async { fleet.get("/missed/items").await.status == 200 }).await;
    fleet.fleet.carry_out("missed", Verb::Suspend).await.unwrap();
    eventually("the change is heard", || async { fleet.get("/missed/items").await.status == 403 }).await;
}

#[tokio::test]
async fn a_router_without_a_catalog_says_so() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let settings = manybox::settings::Settings {
        catalog: manybox::settings::CatalogSettings {
            database: "nowhere".into(),
            ..fleet.fleet.settings.catalog.clone()
        },
        ..fleet.fleet.settings.clone()
    };
    let keys = std::sync::Arc::clone(&fleet.fleet.keys);
    let app =
        manybox::front::App::start(std::sync::Arc::new(settings), fleet.fleet.servers.endpoints(), keys);
    let request =
        http::Request::get("/items").header("Host", "acme.localhost").body(axum::body::Body::empty());
    let answer = manybox::front::router(app.clone()).call(request.unwrap()).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    app.abort();
}

#[tokio::test]
async fn survives_a_killed_postgresql() {
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = private_server(folder.path().join("own"), false).await;
    let mut fleet = TestFleet::builder().tenants(&["acme"]).build_on(&server.admin_url()).await;
    fleet.start_router().await;
    let supervisor = server.supervise();
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    let pid = server.postmaster_pid().unwrap();
    std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    // Until it is back: an outage, said as one, and never a wrong answer.
    eventually("the tenant answers again", || async {
        let answer = fleet.get("/acme/items").await;
        assert!([200, 503].contains(&answer.status.as_u16()), "{} {}", answer.status, answer.text);
        assert!(answer.status != 503 || answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
        answer.status == 200 && server.postmaster_pid() != Some(pid)
    })
    .await;
    // The router's connection to the catalog is mended as well: a change reaches it.
    fleet.reopen().await;
    fleet.fleet.carry_out("acme", Verb::Suspend).await.unwrap();
    eventually("the change reaches the router", || async { fleet.get("/acme/items").await.status == 403 })
        .await;
    supervisor.abort();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_setting_of_a_newer_program_has_no_effect_and_stays() {
    let mut fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    fleet.start_router().await;
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    let rows = "INSERT INTO public.items (name) SELECT 'x' || n FROM generate_series(1, 3) n";
    fleet.owner("acme").await.batch_execute(rows).await.unwrap();
    let catalog = &fleet.fleet.settings.catalog.database;
    let catalog = fleet.fleet.servers.get("main").unwrap().connect_admin_to(catalog).await.unwrap();
    let store = r#"UPDATE catalog.tenant SET overrides = '{"from_tomorrow": "x", "db_max_rows": "1"}'"#;
    catalog.batch_execute(store).await.unwrap();
    // What it knows of that row holds.
    eventually("one row", async || {
        fleet.get("/acme/items?select=id").await.json().as_array().is_some_and(|a| a.len() == 1)
    })
    .await;
    // An operator's own is a mistake until this program knows it; what is stored is kept.
    let (code, _, error) = fleet.run(&["tenant", "set", "acme", "from_tomorow=x"]).await;
    assert!(code != 0 && error.contains("from_tomorow"), "{error}");
    assert_eq!(fleet.run(&["tenant", "set", "acme", "db_max_rows=2"]).await.0, 0);
    let overrides = fleet.row("acme").await.record.overrides;
    assert_eq!((overrides.get("from_tomorrow"), overrides.get("db_max_rows")), (Some("x"), Some("2")));
}
