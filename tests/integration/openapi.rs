//! The document at the root: what it shows to whom, and where it says the API is.

use reqwest::Method;
use serde_json::{Value, json};

use crate::adopt::Legacy;
use crate::support::{Answer, TestFleet, eventually};

fn paths(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/openapi+json; charset=utf-8");
    let paths: Vec<_> = answer.json()["paths"].as_object().unwrap().keys().cloned().collect();
    assert!(paths.contains(&"/".to_owned()));
    paths
}

#[tokio::test]
async fn the_document_follows_privileges() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).serve().await;
    // Overloads, of which anonymous callers may use one; a type that only its schema's name tells apart; a column only.
    fleet
        .owner("globex")
        .await
        .batch_execute(
            "CREATE TYPE tone AS ENUM ('low', 'high');
             CREATE FUNCTION sing(tones tone[]) RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
             CREATE FUNCTION sing(tones tone[], loud boolean) RETURNS int LANGUAGE sql STABLE AS 'SELECT 2';
             GRANT EXECUTE ON FUNCTION sing(tone[]) TO anon;
             CREATE TABLE half (open int, shut int); GRANT SELECT (open) ON half TO anon;
             COMMENT ON SCHEMA public IS 'Songs';",
        )
        .await
        .unwrap();
    let acme = fleet.get("/acme").await;
    let theirs = paths(&acme);
    assert!(theirs.contains(&"/items".to_owned()) && theirs.contains(&"/rpc/add".to_owned()));
    assert!(!theirs.contains(&"/secrets".to_owned()), "anonymous callers have no right on it");
    assert!(!acme.text.contains("/sing") && !acme.text.contains("/half"), "of another tenant");
    let token = fleet.token("acme", json!({ "role": "service" })).await;
    assert!(paths(&fleet.get_as(&token, "/acme").await).contains(&"/secrets".to_owned()));

    // Not known to the schema of the edition; a reload reads it as this tenant's own.
    let (code, _, err) = fleet.run(&["tenant", "reload", "globex"]).await;
    assert_eq!(code, 0, "{err}");
    eventually("the router read it again", || async {
        fleet.get("/globex").await.text.contains("/rpc/sing")
    })
    .await;
    let globex = fleet.get("/globex").await;
    assert!(paths(&globex).contains(&"/half".to_owned()));
    let document = globex.json();
    let sing = &document["paths"]["/rpc/sing"]["get"]["parameters"];
    assert_eq!(
        *sing,
        json!([{ "name": "tones", "required": true, "in": "query", "format": "tone[]", "type": "string" }])
    );
    assert_eq!(document["info"]["title"], "Songs");
    assert!(!paths(&fleet.get("/acme").await).contains(&"/half".to_owned()));
}

#[tokio::test]
async fn modes_and_places() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let legacy = Legacy::make(&fleet).await;
    legacy
        .run(&fleet, "CREATE TABLE api.wages (id int); CREATE FUNCTION api.home() RETURNS json LANGUAGE sql AS $$ SELECT '{\"own\":true}'::json $$;
              CREATE FUNCTION api.stop() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE 'PT418' USING MESSAGE = 'no'; END $$;")
        .await;
    legacy.adopt(&fleet, "old", &[]).await;
    eventually("the router serves it", || async { fleet.get("/old/todos").await.status == 200 }).await;
    let set = async |settings: &[&str], holds: &dyn Fn(&Answer) -> bool| {
        let (code, _, err) = fleet.run(&[&["tenant", "set", "old"], settings].concat()).await;
        assert_eq!(code, 0, "{err}");
        eventually("the router follows", || async { holds(&fleet.get("/old").await) }).await;
        fleet.get("/old").await
    };
    assert_eq!(
        paths(&fleet.get("/old").await),
        ["/", "/todos", "/rpc/before", "/rpc/home", "/rpc/stop", "/rpc/who"]
    );
    let all = set(&["openapi_mode=ignore-privileges"], &|a| a.text.contains("/wages")).await;
    assert!(paths(&all).contains(&"/wages".to_owned()));
    // Nothing is asked of the database then, but the function before it is called still.
    let refused = set(&["db_pre_request=api.stop"], &|a| a.status == 418).await;
    assert_eq!(refused.json()["message"], "no");
    let proxied = set(
        &["db_pre_request=none", "openapi_security_active=true", "openapi_server_proxy_uri=https://a.test/b"],
        &|a| a.text.contains("a.test"),
    )
    .await
    .json();
    let place = |document: &Value| {
        [&document["schemes"][0], &document["host"], &document["basePath"]].map(Value::to_string)
    };
    assert_eq!(place(&proxied), ["\"https\"", "\"a.test:443\"", "\"/b\""]);
    assert_eq!(proxied["security"], json!([{ "JWT": [] }]));
    let disabled = set(&["openapi_mode=disabled"], &|a| a.status == 404).await;
    assert_eq!(disabled.code(), "PGRST126");
    let own =
        set(&["openapi_mode=follow-privileges", "db_root_spec=api.home"], &|a| a.text.contains("own")).await;
    assert_eq!(
        (own.json(), own.headers["content-type"].as_str()),
        (json!({ "own": true }), "application/json; charset=utf-8")
    );

    // Where the API is depends on the URL that it was asked by.
    let document =
        async |request: reqwest::RequestBuilder| Answer::of(request.send().await.unwrap()).await.json();
    let prefixed = document(fleet.request(Method::GET, "/acme/rest/v1/")).await;
    assert_eq!(place(&prefixed), ["\"http\"", "\"127.0.0.1:80\"", "\"/acme/rest/v1\""]);
    let subdomain = document(fleet.request(Method::GET, "/").header("Host", "acme.localhost:1234")).await;
    assert_eq!(place(&subdomain), ["\"http\"", "\"acme.localhost:80\"", "\"/\""]);
    let head = Answer::of(fleet.request(Method::HEAD, "/acme").send().await.unwrap()).await;
    assert_eq!(head.headers["content-type"], "application/openapi+json; charset=utf-8");
    assert!(head.text.is_empty() && !head.headers.contains_key("content-length"));
    let csv = document(fleet.request(Method::GET, "/acme").header("Accept", "text/csv")).await;
    assert_eq!(csv["code"], "PGRST107");
}
