//! Who may ask: tokens, roles, scopes, cookies, and pages of other sites.

use std::time::Duration;

use manybox::catalog::{Credential, OperatorRole, Scopes};
use manybox::control::access::{random_secret, session_hash};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Service, token};
use crate::support::{Answer, TestFleet};

#[tokio::test]
async fn operators_come_and_go_by_command() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let service = Service::start(&fleet).await;
    let (code, out, error) =
        fleet.run(&["operator", "add", "ci", "--role", "operator", "--expires", "1h", "--json"]).await;
    assert_eq!(code, 0, "{error}");
    let added: Value = serde_json::from_str(&out).unwrap();
    let given = added["token"].as_str().unwrap();
    assert_eq!(service.get(given, "/v1/tenants").await.status, 200);
    let (_, listed, _) = fleet.run(&["operator", "list", "--json"]).await;
    // A secret may have underscores of its own.
    let secret = given.splitn(3, '_').nth(2).unwrap();
    assert!(listed.contains("\"ci\"") && !listed.contains(secret), "{listed}");
    let id = given.split('_').nth(1).unwrap();
    for (arguments, left) in
        [(vec!["operator", "revoke", "--token", id], 401), (vec!["operator", "revoke", "ada"], 401)]
    {
        assert_eq!(fleet.run(&arguments).await.0, 0);
        let gone = if arguments.len() == 4 { given } else { &service.owner };
        assert_eq!(service.get(gone, "/v1/tenants").await.status, left);
    }
    assert_eq!(fleet.run(&["operator", "revoke", "nobody"]).await.0, 1);
}

#[tokio::test]
async fn a_role_or_a_scope_admits_no_more_than_it_says() {
    let fleet = TestFleet::builder().tenants(&["acme", "beta"]).build().await;
    let service = Service::start(&fleet).await;
    let acme = fleet.row("acme").await.record.id;
    fleet.fleet.catalog.tenant_label(&acme, &[("region".into(), "eu".into())].into()).await.unwrap();
    let eu = Scopes { editions: None, labels: [("region".into(), "eu".into())].into() };
    let other = Scopes { editions: Some(["other".into()].into()), ..Scopes::default() };
    let viewer = token(&fleet, "vera", OperatorRole::Viewer, Scopes::default()).await;
    let european = token(&fleet, "emil", OperatorRole::Operator, eu).await;
    let foreign = token(&fleet, "otto", OperatorRole::Operator, other).await;

    let refused = service.send(&viewer, Method::POST, "/v1/tenants/acme/suspend", &json!({})).await;
    assert_eq!((refused.status.as_u16(), refused.json()["code"].as_str()), (403, Some("MBX602")));
    let seen = |answer: Answer| answer.json()["tenants"].as_array().unwrap().len();
    assert_eq!(seen(service.get(&viewer, "/v1/tenants").await), 2);
    assert_eq!(seen(service.get(&european, "/v1/tenants").await), 1);
    assert_eq!(seen(service.get(&foreign, "/v1/tenants").await), 0);
    // What is there and what is not are one answer, but for the name.
    for path in ["/v1/tenants/beta", "/v1/tenants/none", "/v1/tenants/beta/journal"] {
        assert_eq!(service.get(&european, path).await.status, 404, "{path}");
    }
    let hidden = service.get(&european, "/v1/tenants/beta").await.text.replace("beta", "none");
    assert_eq!(hidden, service.get(&european, "/v1/tenants/none").await.text);
    assert_eq!(
        service.send(&european, Method::POST, "/v1/tenants/beta/suspend", &json!({})).await.status,
        404
    );
    assert_eq!(
        service.send(&european, Method::POST, "/v1/tenants/acme/suspend", &json!({})).await.status,
        200
    );
    assert_eq!(
        service.send(&foreign, Method::POST, "/v1/tenants", &json!({ "slug": "new" })).await.status,
        403
    );
    // What somebody makes is within their scope.
    let made = service.send(&european, Method::POST, "/v1/tenants", &json!({ "slug": "new" })).await;
    assert_eq!((made.status.as_u16(), made.json()["labels"]["region"].as_str()), (201, Some("eu")));
    assert_eq!(
        service.send(&european, Method::POST, "/v1/tenants", &json!({ "slug": "beta" })).await.status,
        409
    );
}

#[tokio::test]
async fn nobody_gets_in_by_less_than_a_whole_credential() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let service = Service::start(&fleet).await;
    assert_eq!(service.bare(Method::GET, "/healthz").send().await.unwrap().status(), 200);
    let none = service.bare(Method::GET, "/v1/tenants").send().await.unwrap();
    assert_eq!(none.status(), 401);
    assert_eq!(none.headers()["content-type"], "application/problem+json");
    assert_eq!(none.headers()["www-authenticate"], "Bearer");
    let owner = &service.owner;
    let secret = owner.splitn(3, '_').nth(2).unwrap();
    let head = owner.strip_suffix(&format!("_{secret}")).unwrap();
    let swapped = format!("{head}_{}", secret.chars().rev().collect::<String>());
    for bad in ["", "x", head, &swapped, &format!("{owner}x"), &owner.to_uppercase()] {
        assert_eq!(service.get(bad, "/v1/tenants").await.status, 401, "{bad}");
    }
    let named = service.bare(Method::GET, "/v1/tenants").bearer_auth(owner).header("Host", "evil.example");
    assert_eq!(named.send().await.unwrap().status(), 421);
}

#[tokio::test]
async fn a_cookie_changes_nothing_for_pages_of_other_sites() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let service = Service::start(&fleet).await;
    let secret = random_secret().unwrap();
    let credential = Credential {
        operator: "ada".into(),
        role: OperatorRole::Owner,
        scopes: Scopes::default(),
        by: "token x".into(),
    };
    let hash = session_hash(secret.expose());
    fleet.fleet.catalog.session_open(&hash, &credential, Duration::from_secs(60)).await.unwrap();
    let cookie = format!("manybox-session={}", secret.expose());
    let suspend = |headers: &[(&'static str, String)]| {
        let mut request = service.bare(Method::POST, "/v1/tenants/acme/suspend").header("Cookie", &cookie);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.send()
    };
    let own = format!("http://{}", service.address);
    for forged in [
        vec![],
        vec![("Origin", "http://evil.example".to_owned())],
        vec![("Origin", "null".to_owned())],
        vec![("Sec-Fetch-Site", "cross-site".to_owned()), ("Origin", own.clone())],
        vec![("Sec-Fetch-Site", "same-site".to_owned())],
    ] {
        assert_eq!(suspend(&forged).await.unwrap().status(), 403, "{forged:?}");
    }
    assert_eq!(fleet.row("acme").await.record.state.as_str(), "active");
    assert_eq!(suspend(&[("Origin", own)]).await.unwrap().status(), 200);
    fleet.fleet.catalog.session_close(&hash).await.unwrap();
    assert_eq!(suspend(&[("Sec-Fetch-Site", "same-origin".into())]).await.unwrap().status(), 401);
}
