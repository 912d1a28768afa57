//! Public keys as the secret of HS256: whoever has one could sign tokens, so no place takes it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use manybox::policy::{JWT_SECRET, Secret};
use serde_json::json;

use super::{Findings, two_tenants};
use crate::adopt::Legacy;
use crate::support::{TestFleet, eventually, sign, superuser};

/// RFC 8410, 10.1, and the same key in the shapes that people have it in.
const PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
const BODY: &str = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBm/RAlphM3+hUG6wWfcO5bIUIaqMLa2ywxcOK1wMWbh ann@host";
const JWK: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE"}"#;

/// Name, `jwt_secret`, `jwt_secret_is_base64`.
fn shapes() -> Vec<(&'static str, String, bool)> {
    let inside = |key: &str| json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(key) }).to_string();
    vec![
        ("PEM", PEM.into(), false),
        ("PEM of a certificate", PEM.replace("PUBLIC KEY", "CERTIFICATE"), false),
        ("PEM of PKCS#1", PEM.replace("PUBLIC", "RSA PUBLIC"), false),
        ("PEM on one line", PEM.replace('\n', "\\n"), false),
        ("PEM without its armor", BODY.into(), false),
        ("DER by base64", BODY.into(), true),
        ("base64 of PEM", STANDARD.encode(PEM), false),
        ("base64 of PEM, said to be base64", STANDARD.encode(PEM), true),
        ("an OpenSSH key", SSH.into(), false),
        ("an OpenSSH key without its name", SSH.split(' ').nth(1).unwrap().into(), false),
        ("an OpenSSH key by base64", SSH.split(' ').nth(1).unwrap().into(), true),
        ("a JWK in a list", format!("[{JWK}]"), false),
        ("a JWK that is no JSON any more", JWK.trim_end_matches('}').into(), false),
        ("base64 of a JWK, not said to be base64", STANDARD.encode(JWK), false),
        ("PEM as a JWK's secret", inside(PEM), false),
        ("a JWK as a JWK's secret", inside(JWK), false),
        (
            "PEM as a secret in a set",
            json!({ "keys": [serde_json::from_str::<serde_json::Value>(&inside(PEM)).unwrap()] }).to_string(),
            false,
        ),
        ("the URL of a JWKS", "https://login.example.com/.well-known/jwks.json".into(), false),
    ]
}

/// What a token would be signed with if the secret were taken.
fn keys(secret: &str) -> Vec<Vec<u8>> {
    let decoded = STANDARD.decode(secret).ok();
    let inner = [PEM, JWK, BODY].map(|text| text.as_bytes().to_vec());
    decoded.into_iter().chain([secret.as_bytes().to_vec()]).chain(inner).collect()
}

#[tokio::test]
async fn a_public_key_is_no_secret_by_tenant_set() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let mut findings = Findings::default();
    for (name, secret, is_base64) in shapes() {
        let (secret, flag) = (format!("jwt_secret={secret}"), format!("jwt_secret_is_base64={is_base64}"));
        let (code, out, error) = fleet.run(&["tenant", "set", "acme", &flag, &secret]).await;
        findings.check(code == 1 && error.contains("jwt_secret"), name, format!("{code} {out} {error}"));
        findings.check(error.contains("JWK"), name, format!("what to do isn't said: {error}"));
    }
    assert!(fleet.row("acme").await.record.sealed.is_empty());
    // What it should have been is taken.
    let (code, _, error) = fleet.run(&["tenant", "set", "acme", &format!("jwt_secret={JWK}")]).await;
    assert_eq!(code, 0, "{error}");
    findings.none();
}

#[tokio::test]
async fn a_public_key_is_no_secret_by_tenant_adopt() {
    let fleet = TestFleet::builder().tenants(&[]).build().await;
    let legacy = Legacy::make(&fleet).await;
    let mut findings = Findings::default();
    for (name, secret, is_base64) in shapes() {
        let (secret, flag) = (format!("jwt_secret={secret}"), format!("jwt_secret_is_base64={is_base64}"));
        let adopt = ["tenant", "adopt", "old", "--database", &legacy.name, "--set", &flag, "--set", &secret];
        let (code, out, error) = fleet.run(&adopt).await;
        findings.check(code == 1 && error.contains("jwt_secret"), name, format!("{code} {out} {error}"));
    }
    findings.none();
}

#[tokio::test]
async fn a_public_key_is_no_secret_by_the_settings_and_the_environment() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let file = fleet.folder.path().join("tenants.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let mut findings = Findings::default();
    for (name, secret) in [("PEM", PEM), ("DER", BODY), ("an OpenSSH key", SSH)] {
        let declared = format!("{before}\n[tenants.acme.settings]\njwt_secret = {secret:?}\n");
        std::fs::write(&file, declared).unwrap();
        let (code, out, error) = fleet.run(&["apply"]).await;
        findings.check(code != 0 && error.contains("JWK"), name, format!("settings: {code} {out} {error}"));
        std::fs::write(&file, &before).unwrap();
        let mut command = fleet.program(&["apply"]);
        command.env("MANYBOX__TENANTS__ACME__SETTINGS__JWT_SECRET", secret);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        findings.check(
            !output.status.success() && error.contains("JWK"),
            name,
            format!("environment: {error}"),
        );
    }
    findings.none();
}

/// As a version that did not look at it stored it.
#[tokio::test]
async fn a_public_key_that_is_stored_already_checks_no_token() {
    let fleet = two_tenants("").await;
    let id = fleet.row("acme").await.record.id;
    let catalog = &fleet.fleet.settings.catalog.database;
    let catalog = fleet.fleet.servers.get("main").unwrap().connect_admin_to(catalog).await.unwrap();
    let mut findings = Findings::default();
    let derived = fleet.token("acme", json!({ "role": "service" })).await;
    for (number, (name, secret, is_base64)) in shapes().into_iter().enumerate() {
        let sealed = fleet.fleet.keys.newest().seal(&id, JWT_SECRET, &Secret::new(secret.as_str())).unwrap();
        // The rows that the router serves tell when it has heard of the change.
        let most = number % 2;
        let overrides =
            json!({ "jwt_secret_is_base64": is_base64.to_string(), "db_max_rows": most.to_string() });
        let sql =
            "UPDATE catalog.tenant SET sealed = $1::text::jsonb, overrides = $2::text::jsonb WHERE id = $3";
        let sealed = json!({ JWT_SECRET: sealed }).to_string();
        catalog.execute(sql, &[&sealed, &overrides.to_string(), &id.as_str()]).await.unwrap();
        eventually("the router has heard of it", async || {
            let answer = fleet.get_as(&derived, "/acme/items?select=id").await;
            answer.json().as_array().is_some_and(|rows| rows.len() == most)
        })
        .await;
        for key in keys(&secret) {
            let forged = sign(&key, json!({ "role": "service" }));
            let answer = fleet.get_as(&forged, "/acme/secrets").await;
            findings.check(answer.status == 401, name, format!("{} {}", answer.status, answer.text));
        }
    }
    findings.none();
}

#[tokio::test]
async fn a_public_key_is_no_secret_by_in_database_configuration() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let legacy = Legacy::make(&fleet).await;
    legacy.adopt(&fleet, "old", &[]).await;
    eventually("the router serves it", || async { fleet.get("/old/todos").await.status == 200 }).await;
    let (role, login) = (format!("{}_user", legacy.name), format!("{}_login", legacy.name));
    // Settings that PostgreSQL doesn't know are a superuser's to set.
    let superuser = superuser().await;
    let mut findings = Findings::default();
    // Either the API is closed, or the settings beside the secret show that they were read.
    let reloaded = async |sql: String, most: usize| {
        superuser
            .batch_execute(&format!("{sql}; ALTER ROLE {login} SET pgrst.db_max_rows = '{most}'"))
            .await
            .unwrap();
        assert_eq!(fleet.run(&["tenant", "reload", "old"]).await.0, 0);
        eventually("the router has read it", async || {
            let answer = fleet.get("/old/todos").await;
            let rows = answer.json().as_array().map(Vec::len);
            rows == Some(most) || (most == 0 && rows.is_none() && answer.code() == "MBX208")
        })
        .await;
    };
    for (name, secret, is_base64) in shapes() {
        reloaded(format!("ALTER ROLE {login} RESET ALL"), 1).await;
        let sql = format!(
            "ALTER ROLE {login} SET pgrst.jwt_secret = '{secret}';
             ALTER ROLE {login} SET pgrst.jwt_secret_is_base64 = '{is_base64}'"
        );
        reloaded(sql, 0).await;
        for key in keys(&secret) {
            let answer = fleet.get_as(&sign(&key, json!({ "role": role })), "/old/todos").await;
            let refused = [401, 500, 503].contains(&answer.status.as_u16());
            findings.check(refused, name, format!("{} {}", answer.status, answer.text));
        }
    }
    findings.none();
}
