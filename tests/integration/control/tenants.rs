//! Tenants by HTTP.

use manybox::catalog::{OperatorRole, Scopes};
use reqwest::Method;
use serde_json::json;

use super::{Service, token};
use crate::support::TestFleet;

#[tokio::test]
async fn a_tenant_is_signed_up_and_its_journal_says_by_whom() {
    let fleet = TestFleet::builder().serve().await;
    let service = Service::start(&fleet).await;
    let ci = token(&fleet, "ci", OperatorRole::Operator, Scopes::default()).await;
    let made = service
        .send(&ci, Method::POST, "/v1/tenants", &json!({ "slug": "acme", "labels": { "a": "b" } }))
        .await;
    assert_eq!(
        (made.status.as_u16(), made.headers["location"].as_str()),
        (201, "/v1/tenants/acme"),
        "{}",
        made.text
    );
    // The router learns of it by itself.
    crate::support::eventually("the new tenant is served", || async {
        fleet.get("/acme/items?limit=1").await.status.as_u16() != 404
    })
    .await;
    let again = service.send(&ci, Method::POST, "/v1/tenants", &json!({ "slug": "acme" })).await;
    assert_eq!(again.status, 201);
    let other =
        service.send(&ci, Method::POST, "/v1/tenants", &json!({ "slug": "acme", "tier": "gold" })).await;
    assert_eq!((other.status.as_u16(), other.json()["code"].as_str()), (422, Some("MBX606")));
    let request =
        service.bare(Method::POST, "/v1/tenants/acme/suspend").bearer_auth(&ci).header("X-Reason", "unpaid");
    let answer = request.send().await.unwrap();
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(answer.status(), 200);
    let journal = service.get(&ci, "/v1/tenants/acme/journal").await.json();
    let line = &journal["entries"][0];
    assert_eq!(line["action"], "suspend");
    assert_eq!(line["act"]["operator"], "ci");
    assert_eq!(line["act"]["reason"], "unpaid");
    assert_eq!(line["act"]["request"], id);
    assert!(line["act"]["by"].as_str().unwrap().starts_with("token "), "{line}");
    // A command beside it is nobody's order.
    fleet.fleet.carry_out("acme", manybox::tenant::Verb::Resume).await.unwrap();
    let journal = service.get(&ci, "/v1/tenants/acme/journal").await.json();
    assert!(journal["entries"][0].get("act").is_none(), "{journal}");
}

#[tokio::test]
async fn what_can_not_be_read_is_told_in_problems() {
    let fleet = TestFleet::builder().build().await;
    let service = Service::start(&fleet).await;
    let owner = &service.owner;
    for (body, kind, status, code) in [
        ("{", "application/json", 400, "MBX605"),
        ("{}", "application/json", 422, "MBX606"),
        ("{\"slug\":\"a\",\"x\":1}", "application/json", 422, "MBX606"),
        ("{\"slug\":\"-\"}", "application/json", 422, "MBX606"),
        ("{\"slug\":\"a\",\"settings\":{\"max_row\":1}}", "application/json", 422, "MBX606"),
        ("{\"slug\":\"a\",\"server\":\"x\"}", "application/json", 422, "MBX606"),
        ("slug=a", "application/x-www-form-urlencoded", 415, "MBX608"),
    ] {
        let request = service.bare(Method::POST, "/v1/tenants").bearer_auth(owner);
        let sent = request.header("Content-Type", kind).body(body.to_owned()).send().await.unwrap();
        let answer = crate::support::Answer::of(sent).await;
        assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (status, Some(code)), "{body}");
    }
    assert_eq!(service.get(owner, "/v1/nothing").await.json()["code"], "MBX603");
    assert_eq!(service.send(owner, Method::PUT, "/v1/tenants", &json!({})).await.json()["code"], "MBX604");
    let document = service.get(owner, "/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/v1/tenants/{slug}/suspend"]["post"].is_object(), "{document}");
}
