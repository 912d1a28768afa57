//! `manybox doctor`, and what routers and commands say themselves where catalog, settings and versions don't fit.

use serde_json::Value;

use crate::support::router::{Router, addresses};
use crate::support::{TestFleet, eventually};

async fn doctor(fleet: &TestFleet) -> (i32, Vec<Value>) {
    let (code, out, error) = fleet.run(&["doctor", "--json"]).await;
    let findings = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out} {error}"));
    (code, findings)
}

async fn change(fleet: &TestFleet, sql: &str) {
    fleet.admin_of_catalog().await.batch_execute(sql).await.unwrap();
}

fn codes(findings: &[Value]) -> Vec<&str> {
    findings.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_sound_fleet_has_no_findings() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    assert_eq!(doctor(&fleet).await, (0, vec![]));
    let (code, out, _) = fleet.run(&["doctor"]).await;
    assert_eq!((code, out.trim()), (0, "nothing was found"));
}

#[tokio::test]
async fn what_the_settings_lack_is_said_everywhere() {
    let fleet = TestFleet::builder().tenants(&["acme", "other"]).build().await;
    change(
        &fleet,
        "UPDATE catalog.tenant SET server = 'db9', tier = 'gold', edition = 'books' WHERE slug = 'acme'",
    )
    .await;
    let (code, findings) = doctor(&fleet).await;
    assert_eq!((code, codes(&findings)), (1, vec!["D20", "D21", "D22"]));
    assert_eq!(findings[0]["where"], "servers.db9");
    assert!(findings[0]["what"].as_str().unwrap().contains("acme"), "{findings:?}");
    assert!(findings[0]["next"].as_str().unwrap().contains("[servers.db9]"), "{findings:?}");
    let (_, _, error) = fleet.run(&["tenant", "list"]).await;
    assert!(error.contains("servers.db9") && error.contains("tiers.gold"), "{error}");
    let router = Router::start(&fleet, &[]).await;
    let refused = reqwest::get(router.url("/acme/items")).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "MBX210");
    assert_eq!(reqwest::get(router.url("/other/items")).await.unwrap().status(), 200);
    eventually("the router says so", || async {
        let log = router.log();
        log.contains("add [servers.db9]") && log.contains("add [tiers.gold]")
    })
    .await;
}

#[tokio::test]
async fn an_older_program_at_a_newer_catalog_says_so() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    change(&fleet, "UPDATE catalog.made SET migration = migration + 1, by = '9.9.9'").await;
    let (code, findings) = doctor(&fleet).await;
    assert_eq!((code, codes(&findings)), (1, vec!["D11"]));
    let router = Router::start(&fleet, &[]).await;
    assert!(router.log().contains("made by a newer manybox (9.9.9"), "{}", router.log());
    assert_eq!(
        reqwest::get(router.url("/acme/items")).await.unwrap().status(),
        200,
        "what it can read it serves"
    );
    // Now something that it can't read.
    change(&fleet, "UPDATE catalog.tenant SET slug = 'From 9.9.9: acme!'").await;
    let stuck = Router::begin(&fleet, addresses(), &[]);
    eventually("it says why it is not ready", || async {
        let Ok(answer) = reqwest::get(stuck.of_admin("/ready")).await else { return false };
        answer.status() == 503 && answer.text().await.is_ok_and(|text| text.contains("newer manybox"))
    })
    .await;
    let settings = std::sync::Arc::new(fleet.fleet.settings.clone());
    let keys = std::sync::Arc::clone(&fleet.fleet.keys);
    let app = manybox::front::App::start(settings, fleet.fleet.servers.endpoints(), keys);
    let service = manybox::front::router(app.clone());
    eventually("so do its answers", || async {
        let request =
            http::Request::get("http://acme.localhost/items").body(axum::body::Body::empty()).unwrap();
        let answer = service.call(request).await;
        answer.headers().get("proxy-status").is_some_and(|v| v.to_str().unwrap().contains("MBX118"))
    })
    .await;
    app.abort();
}

#[tokio::test]
async fn an_older_catalog_is_told_of() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    change(&fleet, "UPDATE catalog.made SET migration = 8, by = '0.0.1'").await;
    let (code, findings) = doctor(&fleet).await;
    assert_eq!((code, codes(&findings)), (1, vec!["D11"]));
    assert_eq!(findings[0]["next"], "manybox init");
    assert_eq!(fleet.run(&["init"]).await.0, 0);
    assert_eq!(doctor(&fleet).await, (0, vec![]));
}

#[tokio::test]
async fn routers_that_know_different_budgets_are_found() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let most = "MANYBOX__SERVERS__MAIN__BUDGET__MAX_CONNECTIONS";
    let first = Router::start(&fleet, &[(most, "20")]).await;
    let _second = Router::start(&fleet, &[(most, "30")]).await;
    eventually("both are known", || async {
        let told = first.told("/servers").await;
        let (_, findings) = doctor(&fleet).await;
        told[0]["total"] == 20 && codes(&findings) == ["D32"]
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_a_finding() {
    let mut fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    std::fs::remove_file(fleet.folder.path().join("master.key")).unwrap();
    let (code, findings) = doctor(&fleet).await;
    assert_eq!((code, codes(&findings)), (1, vec!["D01"]));
    let file = fleet.folder.path().join("tenants.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "\n[servers.db2]\nurl = 'postgres://mb_admin:x@127.0.0.1:1/postgres'\n")
        .unwrap();
    let (code, findings) = doctor(&fleet).await;
    assert_eq!((code, codes(&findings)), (1, vec!["D01", "D40"]));
    assert_eq!(findings[1]["where"], "servers.db2");
    fleet.app = None;
}
