//! Tokens: forged, of another tenant, of another time, and claims that mean more than they should.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use manybox::tenant::Verb;
use reqwest::Method;
use ring::hmac;
use serde_json::{Value, json};

use super::{Findings, two_tenants};
use crate::support::{Answer, TestFleet, eventually, sign};

/// Each tenant has a secret, which nobody may read without the right token.
async fn fleet(toml: &str) -> TestFleet {
    let fleet = two_tenants(toml).await;
    for slug in ["acme", "globex"] {
        let token = fleet.token(slug, json!({ "role": "service" })).await;
        let path = format!("/{slug}/secrets");
        let row = r#"{"id":1,"owner":"ann","word":"TOPSECRET"}"#;
        assert_eq!(fleet.send(Method::POST, &path, Some(&token), "", row).await.status, 201);
    }
    fleet
}

fn b64(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A token with this header as it stands, signed with HMAC.
fn signed(head: &str, claims: &str, key: &[u8], algorithm: hmac::Algorithm) -> String {
    let message = format!("{}.{}", b64(head), b64(claims));
    let signature = hmac::sign(&hmac::Key::new(algorithm, key), message.as_bytes());
    format!("{message}.{}", b64(signature))
}

const SERVICE: &str = r#"{"role":"service"}"#;
const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

#[tokio::test]
async fn forged_tokens_open_nothing() {
    let fleet = fleet("").await;
    let key = fleet.fleet.keys.jwt_keys(&fleet.row("acme").await.record)[0];
    let with = |head: &str| signed(head, SERVICE, &key, hmac::HMAC_SHA256);
    let good = with(HS256);
    let parts: Vec<&str> = good.split('.').collect();
    let (head, claims, signature) = (parts[0], parts[1], parts[2]);
    let none = |alg: &str| format!("{}.{claims}.", b64(format!(r#"{{"alg":"{alg}"}}"#)));
    let id = fleet.row("acme").await.record.id;
    let hs = |key: &[u8]| signed(HS256, SERVICE, key, hmac::HMAC_SHA256);
    let flipped = format!("{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]);
    let mut findings = Findings::default();
    for (name, token) in [
        ("alg none", none("none")),
        ("alg None", none("None")),
        ("alg nOnE with a signature", format!("{}{signature}", none("nOnE"))),
        ("an empty alg", none("")),
        ("alg HS256 and no signature", format!("{head}.{claims}.")),
        ("no alg", with(r#"{"typ":"JWT"}"#)),
        ("alg null", with(r#"{"alg":null}"#)),
        ("alg a list", with(r#"{"alg":["HS256"]}"#)),
        ("alg with a space", with(r#"{"alg":"HS256 "}"#)),
        ("alg in small letters", with(r#"{"alg":"hs256"}"#)),
        ("alg twice", with(r#"{"alg":"HS256","alg":"none"}"#)),
        ("alg twice, none first", with(r#"{"alg":"none","alg":"HS256"}"#)),
        ("alg RS256 by HMAC", with(r#"{"alg":"RS256"}"#)),
        ("alg ES256 by HMAC", with(r#"{"alg":"ES256"}"#)),
        ("alg EdDSA by HMAC", with(r#"{"alg":"EdDSA"}"#)),
        ("alg HS384 by the key of HS256", signed(r#"{"alg":"HS384"}"#, SERVICE, &key, hmac::HMAC_SHA384)),
        ("alg HS512 by the key of HS256", signed(r#"{"alg":"HS512"}"#, SERVICE, &key, hmac::HMAC_SHA512)),
        ("kid of a file", with(r#"{"alg":"HS256","kid":"../../../../dev/null"}"#)),
        ("kid of SQL", with(r#"{"alg":"HS256","kid":"x' UNION SELECT 'key"}"#)),
        ("kid of a URL", with(r#"{"alg":"HS256","kid":"http://mallory.example/key"}"#)),
        ("kid a number", with(r#"{"alg":"HS256","kid":1}"#)),
        ("kid empty", with(r#"{"alg":"HS256","kid":""}"#)),
        (
            "kid of a file, signed with nothing",
            signed(r#"{"alg":"HS256","kid":"/dev/null"}"#, SERVICE, b"", hmac::HMAC_SHA256),
        ),
        ("crit", with(r#"{"alg":"HS256","crit":["exp"],"exp":1}"#)),
        ("an empty crit", with(r#"{"alg":"HS256","crit":[]}"#)),
        (
            "jwk of its own",
            signed(
                &json!({"alg":"HS256","jwk":{"kty":"oct","k":b64([7_u8; 32])}}).to_string(),
                SERVICE,
                &[7; 32],
                hmac::HMAC_SHA256,
            ),
        ),
        (
            "jku of its own",
            signed(r#"{"alg":"HS256","jku":"http://127.0.0.1/jwks"}"#, SERVICE, &[7; 32], hmac::HMAC_SHA256),
        ),
        (
            "x5u of its own",
            signed(r#"{"alg":"HS256","x5u":"http://127.0.0.1/x"}"#, SERVICE, &[7; 32], hmac::HMAC_SHA256),
        ),
        ("no key", hs(b"")),
        ("a guess", hs(b"secret")),
        ("zeros", hs(&[0; 32])),
        ("the tenant's id", hs(id.as_str().as_bytes())),
        ("the database's name", hs(id.database().as_bytes())),
        ("the key as base64", hs(STANDARD.encode(key).as_bytes())),
        ("half the key", hs(&key[..16])),
        ("other claims", format!("{head}.{}.{signature}", b64(r#"{"role":"service","x":1}"#))),
        ("another head", format!("{}.{claims}.{signature}", b64(r#"{"alg":"HS256"}"#))),
        ("another signature", format!("{head}.{claims}.{flipped}")),
        ("half a signature", format!("{head}.{claims}.{}", &signature[..22])),
        ("a signature and more", format!("{head}.{claims}.{signature}AAAA")),
        ("a padded signature", format!("{head}.{claims}.{signature}=")),
        ("four parts", format!("{good}.{signature}")),
        ("two parts", format!("{head}.{claims}")),
        ("an encrypted token", format!("{good}.a.b")),
        ("a padded head", format!("{head}=.{claims}.{signature}")),
        ("claims that are a list", signed(HS256, r#"["service"]"#, &key, hmac::HMAC_SHA256)),
        ("claims that are a text", signed(HS256, r#""service""#, &key, hmac::HMAC_SHA256)),
        ("claims that are no JSON", signed(HS256, "role=service", &key, hmac::HMAC_SHA256)),
        ("claims that are no UTF-8", {
            let message = format!("{head}.{}", b64(b"{\"role\":\"service\",\"x\":\"\xff\"}"));
            let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), message.as_bytes());
            format!("{message}.{}", b64(signature))
        }),
        (
            "a token of 20,000 bytes",
            signed(
                HS256,
                &json!({"role":"service","x":"y".repeat(20_000)}).to_string(),
                &key,
                hmac::HMAC_SHA256,
            ),
        ),
        ("a line of its own", "x".into()),
    ] {
        let answer = fleet.get_as(&token, "/acme/secrets").await;
        let refused = answer.status == 401 && !answer.text.contains("TOPSECRET");
        findings.check(refused, name, format!("{} {}", answer.status, answer.text));
    }
    assert!(fleet.get_as(&good, "/acme/secrets").await.text.contains("TOPSECRET"));
    findings.none();
}

#[tokio::test]
async fn tokens_in_the_wrong_place_count_for_nothing() {
    let fleet = fleet("").await;
    let token = fleet.token("acme", json!({ "role": "service" })).await;
    let mut findings = Findings::default();
    for (name, path, headers) in [
        ("in the query", format!("/acme/secrets?access_token={token}"), vec![]),
        ("as apikey in the query", format!("/acme/secrets?apikey={token}"), vec![]),
        ("as apikey", "/acme/secrets".into(), vec![("apikey", token.clone())]),
        ("in a cookie", "/acme/secrets".into(), vec![("Cookie", format!("Authorization=Bearer {token}"))]),
        ("by another scheme", "/acme/secrets".into(), vec![("Authorization", format!("Basic {token}"))]),
        ("without a scheme", "/acme/secrets".into(), vec![("Authorization", token.clone())]),
        ("for a proxy", "/acme/secrets".into(), vec![("Proxy-Authorization", format!("Bearer {token}"))]),
        ("forwarded", "/acme/secrets".into(), vec![("X-Forwarded-Authorization", format!("Bearer {token}"))]),
        (
            "twice",
            "/acme/secrets".into(),
            vec![("Authorization", format!("Bearer {token}")), ("Authorization", format!("Bearer {token}"))],
        ),
        (
            "two in one",
            "/acme/secrets".into(),
            vec![("Authorization", format!("Bearer {token}, Bearer {token}"))],
        ),
        ("none of them", "/acme/secrets".into(), vec![("Authorization", "Bearer ".into())]),
    ] {
        let request = headers
            .into_iter()
            .fold(fleet.request(Method::GET, &path), |request, (name, value)| request.header(name, value));
        let answer = Answer::of(request.send().await.unwrap()).await;
        let refused = [400, 401].contains(&answer.status.as_u16()) && !answer.text.contains("TOPSECRET");
        findings.check(refused, name, format!("{} {}", answer.status, answer.text));
    }
    findings.none();
}

#[tokio::test]
async fn claims_open_no_more_than_the_list_of_roles() {
    let fleet = fleet("[defaults.api]\njwt_aud = 'us'").await;
    let login = fleet.row("acme").await.record.id.database();
    let other = fleet.row("globex").await.record.id.database();
    let claim = |role: Value| json!({ "role": role });
    let mut findings = Findings::default();
    for (name, claims) in [
        ("the owner", claim(json!("mb_owner"))),
        ("the migrator", claim(json!("mb_migrator"))),
        ("the admin", claim(json!("mb_admin"))),
        ("the superuser", claim(json!("postgres"))),
        ("the login", claim(json!(login))),
        ("another tenant's login", claim(json!(other))),
        ("a predefined role", claim(json!("pg_read_all_data"))),
        ("none", claim(json!("none"))),
        ("NONE", claim(json!("NONE"))),
        ("public", claim(json!("public"))),
        ("current_user", claim(json!("current_user"))),
        ("nothing", claim(json!(""))),
        ("a space behind", claim(json!("service "))),
        ("another case", claim(json!("SERVICE"))),
        ("quotes", claim(json!("\"service\""))),
        ("SQL", claim(json!("service\"; RESET ROLE; --"))),
        ("a setting", claim(json!("service' SET x"))),
        ("a NUL", claim(json!("service\0"))),
        ("a list", claim(json!(["service"]))),
        ("an object", claim(json!({"service": true}))),
        ("a number", claim(json!(10))),
        ("null", claim(json!(null))),
        ("64 letters", claim(json!("s".repeat(64)))),
        ("expired", json!({"role": "service", "exp": 1_000_000_000})),
        ("expired by a fraction", json!({"role": "service", "exp": 0.5})),
        ("exp below zero", json!({"role": "service", "exp": -1})),
        ("exp far below zero", json!({"role": "service", "exp": -1e300})),
        ("exp as a text", json!({"role": "service", "exp": "9999999999"})),
        ("exp as a list", json!({"role": "service", "exp": [9_999_999_999_u64]})),
        ("exp true", json!({"role": "service", "exp": true})),
        ("not yet", json!({"role": "service", "nbf": 9_999_999_999_u64})),
        ("not for long yet", json!({"role": "service", "nbf": 1e300})),
        ("issued in the future", json!({"role": "service", "iat": 9_999_999_999_u64})),
        ("for others", json!({"role": "service", "aud": "them"})),
        ("for others in a list", json!({"role": "service", "aud": ["them", "US", "us "]})),
        ("for an object", json!({"role": "service", "aud": {"us": true}})),
        ("for a list with a number", json!({"role": "service", "aud": ["us", 1]})),
        ("the role deeper", json!({"app_metadata": {"role": "service"}})),
        ("the role in another case", json!({"Role": "service"})),
    ] {
        let token = fleet.token("acme", claims).await;
        let answer = fleet.get_as(&token, "/acme/secrets").await;
        let refused = [401, 403].contains(&answer.status.as_u16()) && !answer.text.contains("TOPSECRET");
        findings.check(refused, name, format!("{} {}", answer.status, answer.text));
    }
    // What it says of itself twice counts once, for manybox and for the database alike.
    let key = fleet.fleet.keys.jwt_keys(&fleet.row("acme").await.record)[0];
    let twice = signed(HS256, r#"{"role":"service","role":"anon"}"#, &key, hmac::HMAC_SHA256);
    let seen = fleet.get_as(&twice, "/acme/rpc/seen").await.json();
    findings.check(seen["role"] == "anon" && seen["claims"] == r#"{"role":"anon"}"#, "the role twice", seen);
    for (name, exp) in [("a huge exp", json!(1e300)), ("an exp of 2^64", json!(u64::MAX))] {
        let token = fleet.token("acme", json!({ "role": "service", "exp": exp })).await;
        let answer = fleet.get_as(&token, "/acme/secrets").await;
        findings.check(answer.status == 200, name, answer.status);
    }
    findings.none();
}

#[tokio::test]
async fn another_tenants_token_opens_nothing_by_any_way() {
    let fleet = fleet("").await;
    let foreign = fleet.token("globex", json!({ "role": "service" })).await;
    assert_eq!(fleet.get_as(&foreign, "/globex/secrets").await.status, 200);
    let mut findings = Findings::default();
    for (name, path, host) in [
        ("on its prefix", "/acme/secrets", None),
        ("on its prefix and alias", "/acme/rest/v1/secrets", None),
        ("on its host", "/secrets", Some("acme.localhost")),
        ("on the root", "/acme/", None),
        ("on a function", "/acme/rpc/seen", None),
        ("on what anybody may read", "/acme/items", None),
    ] {
        for method in [Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::PUT, Method::DELETE] {
            let request = fleet.request(method.clone(), path).bearer_auth(&foreign);
            let request = host.iter().fold(request, |request, host| request.header("Host", *host));
            let answer = Answer::of(request.send().await.unwrap()).await;
            let refused =
                [401, 404, 405].contains(&answer.status.as_u16()) && !answer.text.contains("TOPSECRET");
            findings.check(
                refused,
                &format!("{method} {name}"),
                format!("{} {}", answer.status, answer.text),
            );
        }
    }
    findings.none();
}

#[tokio::test]
async fn a_tenant_out_of_service_answers_no_token() {
    let fleet = fleet("").await;
    let token = fleet.token("acme", json!({ "role": "service" })).await;
    let old = fleet.row("acme").await.record;
    let mut findings = Findings::default();
    for (verb, status) in [(Verb::Suspend, 403), (Verb::Resume, 200), (Verb::Retire, 404), (Verb::Purge, 404)]
    {
        fleet.fleet.carry_out("acme", verb).await.unwrap();
        eventually("the router follows", async || {
            fleet.get_as(&token, "/acme/secrets").await.status == status
        })
        .await;
        for path in ["/acme/secrets", "/acme/rpc/seen", "/acme/"] {
            let answer = fleet.get_as(&token, path).await;
            findings.check(answer.status == status, &format!("{verb:?} {path}"), answer.status);
        }
    }
    fleet.create("acme").await;
    let key = fleet.fleet.keys.jwt_keys(&old)[0];
    for (name, token) in [
        ("the former tenant's token", token),
        (
            "a new token by the former tenant's key",
            sign(&key, json!({ "role": "service", "exp": 9_999_999_999_u64 })),
        ),
    ] {
        eventually("the new tenant answers", async || fleet.get("/acme/items").await.status == 200).await;
        let answer = fleet.get_as(&token, "/acme/secrets").await;
        findings.check(answer.status == 401, name, answer.status);
    }
    findings.none();
}
