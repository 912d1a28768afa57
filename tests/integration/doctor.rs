//! `manybox doctor`, and what routers and commands say themselves where catalog, settings and versions don't fit.

use manybox::vault::KeyRing;
use serde_json::Value;

use crate::support::router::{Router, addresses};
use crate::support::{TestFleet, as_superuser, eventually};

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

#[tokio::test]
async fn a_wrong_key_is_a_finding_and_nothing_that_it_says_is_believed() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let file = fleet.folder.path().join("master.key");
    let (right, router) = (std::fs::read_to_string(&file).unwrap(), Router::start(&fleet, &[]).await);
    let wrong = KeyRing::numbered(7).unwrap();
    wrong.save(&file).unwrap();
    let (code, findings) = doctor(&fleet).await;
    assert_eq!((code, codes(&findings)), (1, vec!["D01"]), "{findings:?}");
    let what = findings[0]["what"].as_str().unwrap();
    let expected = fleet.fleet.keys.fingerprints();
    assert!(what.contains(&expected[0]) && what.contains(wrong.newest().fingerprint()), "{what}");
    assert!(findings[0]["next"].as_str().unwrap().contains("manybox keys"), "{findings:?}");
    // A rotation that was begun here, of which the router has heard as it looks at the same file.
    std::fs::write(&file, format!("{right}{}", wrong.to_text().expose())).unwrap();
    eventually("doctor says how it goes on", || async {
        let (_, findings) = doctor(&fleet).await;
        let right = codes(&findings).first() == Some(&"D01") && findings[0]["next"] == "manybox rekey";
        // Marks are as they must be.
        right && !codes(&findings).contains(&"D53")
    })
    .await;
    std::fs::write(&file, right).unwrap();
    drop(router);
}

#[tokio::test]
async fn a_login_that_is_gone_is_a_finding_and_resume_makes_it_anew() {
    let fleet = TestFleet::builder().tenants(&["acme", "other"]).serve().await;
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    // As after a server whose databases came back from dumps, and not its roles.
    let login = fleet.row("acme").await.record.id.database();
    let migrator = manybox::fleet::migrator_of(&login);
    as_superuser(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{login}';
         REVOKE ALL ON DATABASE {login} FROM {login}, {migrator}; DROP ROLE {login}; DROP ROLE {migrator};"
    ))
    .await;
    let (code, findings) = doctor(&fleet).await;
    assert_eq!((code, codes(&findings)), (1, vec!["D55"]), "{findings:?}");
    assert!(findings[0]["next"].as_str().unwrap().contains("tenant resume acme"), "{findings:?}");
    let (code, out, error) = fleet.run(&["tenant", "resume", "acme"]).await;
    assert_eq!(code, 0, "{out} {error}");
    assert_eq!(doctor(&fleet).await, (0, vec![]));
    eventually("it is served", || async { fleet.get("/acme/items").await.status == 200 }).await;
    // Other tests' fleets are on the server too.
    let (_, out, error) = fleet.run(&["verify", "--json"]).await;
    assert!(out.contains("looked_into") && !out.contains(&format!("\"{login}\"")), "{out} {error}");
}

#[tokio::test]
async fn what_a_finding_says_to_do_can_be_done() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    // A catalog that went back to a dump of before the tenant was suspended: to resume it would be wrong.
    assert_eq!(fleet.run(&["tenant", "suspend", "acme"]).await.0, 0);
    change(&fleet, "UPDATE catalog.tenant SET state = 'active'").await;
    let (_, findings) = doctor(&fleet).await;
    assert!(codes(&findings).contains(&"D55"), "{findings:?}");
    let closed = findings.iter().find(|finding| finding["code"] == "D55").unwrap();
    let next = closed["next"].as_str().unwrap();
    assert!(next.contains("resume acme") && next.contains("suspend acme"), "{next}");
    assert_eq!(fleet.run(&["tenant", "resume", "acme"]).await.0, 0);
    // `apply` finishes no copy, so nothing says that it does.
    change(&fleet, "UPDATE catalog.tenant SET state = 'creating', filling = 'restored from x.dump'").await;
    let (_, findings) = doctor(&fleet).await;
    assert!(codes(&findings).contains(&"D52") && !codes(&findings).contains(&"D12"), "{findings:?}");
    change(&fleet, "UPDATE catalog.tenant SET state = 'active', filling = NULL").await;
}
