//! Signing in by an OpenID issuer: who gets in as what, and what an attacker, or another issuer, tries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Form, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use manybox::catalog::{OperatorRole, Scopes};
use reqwest::{Method, Url};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::Service;
use crate::support::{Answer, TestFleet};

const SECRET: &str = "s3cret: with/signs";

/// An issuer with one key, that makes the tokens it is told to.
struct Issuer {
    url: String,
    key: EcdsaKeyPair,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    /// What the next codes are worth: the nonce and the challenge.
    codes: HashMap<String, (String, String)>,
    /// What tokens say besides.
    claims: Value,
    /// What the discovery document says otherwise.
    discovered: Value,
    /// How tokens are made instead.
    forged: Option<fn(&Issuer, &Value) -> String>,
    asked: usize,
}

impl Issuer {
    async fn start() -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let issuer = Arc::new(Self { url, key: key(), told: Mutex::default() });
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(|State(issuer): State<Arc<Self>>| async move { Json(issuer.keys()) }))
            .route("/token", post(token))
            .with_state(Arc::clone(&issuer));
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        issuer
    }

    fn point(&self) -> (String, String) {
        let point = &self.key.public_key().as_ref()[1..];
        (URL_SAFE_NO_PAD.encode(&point[..32]), URL_SAFE_NO_PAD.encode(&point[32..]))
    }

    fn keys(&self) -> Value {
        let (x, y) = self.point();
        // What is symmetric there must sign nothing.
        json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "use": "sig", "kid": "one", "alg": "ES256", "x": x, "y": y },
            { "kty": "oct", "kid": "public", "k": URL_SAFE_NO_PAD.encode([7; 32]) },
        ]})
    }

    fn says(&self, claims: Value) {
        *self.told.lock().unwrap() = Told { claims, ..Told::default() };
    }

    fn claims(&self, nonce: &str) -> Value {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({
            "iss": self.url, "aud": "manybox", "sub": "1", "nonce": nonce, "iat": now, "exp": now + 300,
            "email": "ada@example.com", "email_verified": true, "groups": ["platform"],
        });
        for (name, value) in self.told.lock().unwrap().claims.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        claims
    }
}

fn key() -> EcdsaKeyPair {
    let (random, how) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(how, pkcs8.as_ref(), &random).unwrap()
}

fn signed(key: &EcdsaKeyPair, head: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(head), part(claims));
    let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

async fn discovery(State(issuer): State<Arc<Issuer>>) -> Json<Value> {
    let url = &issuer.url;
    let mut document = json!({
        "issuer": url, "authorization_endpoint": format!("{url}/authorize?prompt=login"),
        "token_endpoint": format!("{url}/token"), "jwks_uri": format!("{url}/keys"),
    });
    let mut told = issuer.told.lock().unwrap();
    told.asked += 1;
    for (name, value) in told.discovered.as_object().into_iter().flatten() {
        document[name] = value.clone();
    }
    Json(document)
}

async fn token(
    State(issuer): State<Arc<Issuer>>,
    headers: http::HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> (http::StatusCode, Json<Value>) {
    let known = issuer.told.lock().unwrap().codes.get(&form["code"]).cloned();
    let refused = |why: &str| (http::StatusCode::BAD_REQUEST, Json(json!({ "error": why })));
    let Some((nonce, challenge)) = known else { return refused("invalid_grant") };
    let basic = STANDARD.encode("manybox:s3cret%3A%20with%2Fsigns");
    if headers["authorization"] != format!("Basic {basic}") {
        return refused("invalid_client");
    }
    let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, form["code_verifier"].as_bytes()));
    if hash != challenge || !form["redirect_uri"].ends_with("/sign-in/oidc/callback") {
        return refused("invalid_grant");
    }
    let claims = issuer.claims(&nonce);
    let forged = issuer.told.lock().unwrap().forged;
    let token = match forged {
        Some(forge) => forge(&issuer, &claims),
        None => signed(&issuer.key, &json!({ "alg": "ES256", "kid": "one" }), &claims),
    };
    (http::StatusCode::OK, Json(json!({ "id_token": token, "access_token": "x", "token_type": "Bearer" })))
}

/// A browser that was sent to the issuer, where somebody signed in.
struct Browser<'a> {
    service: &'a Service,
    cookie: String,
    state: String,
    code: String,
}

impl<'a> Browser<'a> {
    async fn there(service: &'a Service, issuer: &Issuer, next: &str) -> Self {
        let request = service.bare(Method::GET, "/sign-in/oidc").query(&[("next", next)]);
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!(answer.status, 303, "{}", answer.text);
        let set = &answer.headers["set-cookie"];
        assert!(set.contains("HttpOnly; SameSite=Lax"), "{set}");
        let to = Url::parse(&answer.headers["location"]).unwrap();
        let asked: HashMap<_, _> = to.query_pairs().into_owned().collect();
        assert_eq!((asked["prompt"].as_str(), asked["scope"].as_str()), ("login", "openid email"));
        assert_eq!(asked["code_challenge_method"], "S256");
        let code = format!("code-{}", asked["state"]);
        let worth = (asked["nonce"].clone(), asked["code_challenge"].clone());
        issuer.told.lock().unwrap().codes.insert(code.clone(), worth);
        let cookie = set.split(';').next().unwrap().to_owned();
        Self { service, cookie, state: asked["state"].clone(), code }
    }

    async fn back(&self, query: &[(&str, &str)]) -> Answer {
        let request = self.service.bare(Method::GET, "/sign-in/oidc/callback").query(query);
        let response = request.header("Cookie", &self.cookie).send().await.unwrap();
        let set = response.headers().get_all("set-cookie").iter().map(|set| set.to_str().unwrap().to_owned());
        let (session, kept): (Vec<_>, Vec<_>) = set.partition(|set| set.starts_with("manybox-session="));
        assert!(
            kept.len() == 1 && kept[0].contains("manybox-oidc=;") && kept[0].contains("Max-Age=0"),
            "{kept:?}"
        );
        let mut answer = Answer::of(response).await;
        answer.headers.extend(session.into_iter().map(|set| ("session".to_owned(), set)));
        answer
    }

    async fn back_as_sent(&self) -> Answer {
        self.back(&[("code", &self.code), ("state", &self.state)]).await
    }
}

/// The cookie of the session that an answer opens.
fn session(answer: &Answer) -> Option<String> {
    answer.headers.get("session").map(|set| {
        assert!(set.contains("SameSite=Strict"), "{set}");
        set.split(';').next().unwrap().to_owned()
    })
}

async fn sign_in(service: &Service, issuer: &Issuer) -> Answer {
    Browser::there(service, issuer, "/tenants").await.back_as_sent().await
}

fn settings(issuer: &Issuer) -> String {
    format!(
        "[control.oidc]\nissuer = '{}'\nclient_id = 'manybox'\nclient_secret = '{SECRET}'\nroles_claim = 'groups'\n\
         viewers = ['staff']\noperators = ['sre']\nowners = ['platform']\ndomains = ['new.example']\nnetworks = ['127.0.0.0/8']",
        issuer.url
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_the_operator_that_its_claims_and_the_catalog_say() {
    let issuer = Issuer::start().await;
    let fleet = TestFleet::builder().toml(&settings(&issuer)).tenants(&["acme"]).build().await;
    let service = Service::start(&fleet).await;
    let catalog = &fleet.fleet.catalog;
    let page = Answer::of(service.bare(Method::GET, "/sign-in").send().await.unwrap()).await;
    assert!(page.text.contains("/sign-in/oidc?next=") && page.text.contains("127.0.0.1"), "{}", page.text);

    // Of no domain that is let in, and not added.
    assert_eq!(sign_in(&service, &issuer).await.status, 403);
    let (code, _, error) =
        fleet.run(&["operator", "add", "ada@example.com", "--role", "operator", "--no-token"]).await;
    assert_eq!(code, 0, "{error}");
    issuer.says(json!({ "email": "Ada@Example.com" }));
    let answer = sign_in(&service, &issuer).await;
    assert_eq!((answer.status.as_u16(), answer.headers["refresh"].as_str()), (200, "0; url=/tenants"));
    let cookie = session(&answer).unwrap();
    let get = async |cookie: &str, path: &str| {
        service.bare(Method::GET, path).header("Cookie", cookie).send().await.unwrap().status().as_u16()
    };
    let is_owner = async |cookie: &str| {
        let page = service.bare(Method::GET, "/settings").header("Cookie", cookie).send().await.unwrap();
        page.text().await.unwrap().contains("action=\"/settings/operators\"")
    };
    // The issuer says owner, the catalog operator: the lesser holds.
    assert_eq!((get(&cookie, "/tenants").await, is_owner(&cookie).await), (200, false));
    let (_, told, _) = fleet.run(&["journal", "tail", "--json"]).await;
    assert!(told.contains("sign-in") && told.contains(&format!("oidc {}", issuer.url)), "{told}");

    // The same address is another account's: it was given to somebody else.
    issuer.says(json!({ "sub": "2" }));
    assert_eq!(sign_in(&service, &issuer).await.status, 403);
    // Fewer rights at the issuer are fewer here.
    issuer.says(json!({ "groups": ["staff"] }));
    let viewer = session(&sign_in(&service, &issuer).await).unwrap();
    assert_eq!((get(&viewer, "/tenants").await, get(&viewer, "/new-tenant").await), (200, 403));

    // Of a domain that is let in: what the claims say, at each sign-in.
    for (groups, expected) in [(["sre"], OperatorRole::Operator), (["platform"], OperatorRole::Owner)] {
        issuer.says(json!({ "sub": "3", "email": "bo@new.example", "groups": groups }));
        let cookie = session(&sign_in(&service, &issuer).await).unwrap();
        assert_eq!(is_owner(&cookie).await, expected == OperatorRole::Owner);
        let operators = catalog.operators().await.unwrap();
        assert_eq!(operators.iter().find(|o| o.name == "bo@new.example").unwrap().role, expected);
    }
    // Who is revoked is not let in, nor kept.
    let cookie = session(&sign_in(&service, &issuer).await).unwrap();
    assert!(catalog.operator_revoke("bo@new.example").await.unwrap());
    assert_eq!(get(&cookie, "/tenants").await, 303);
    assert_eq!(sign_in(&service, &issuer).await.status, 403);
    catalog.operator_put("bo@new.example", OperatorRole::Viewer, &Scopes::default()).await.unwrap();
    assert_eq!(sign_in(&service, &issuer).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_by_a_sign_in_that_does_not_hold() {
    let issuer = Issuer::start().await;
    let fleet = TestFleet::builder().toml(&settings(&issuer)).build().await;
    let service = Service::start(&fleet).await;
    fleet
        .fleet
        .catalog
        .operator_put("ada@example.com", OperatorRole::Owner, &Scopes::default())
        .await
        .unwrap();
    let refused = |answer: &Answer, word: &str| {
        assert_eq!(answer.status, 401, "{word}: {}", answer.text);
        assert!(answer.text.contains(word), "{word}: {}", answer.text);
        assert_eq!(session(answer), None, "{word}");
    };

    // Another browser's, or nobody's.
    let (one, other) =
        (Browser::there(&service, &issuer, "/").await, Browser::there(&service, &issuer, "/").await);
    refused(&one.back(&[("code", &one.code), ("state", &other.state)]).await, "state");
    refused(&one.back(&[("code", &one.code)]).await, "state");
    refused(&one.back(&[("code", &one.code), ("state", "")]).await, "state");
    for cookie in ["", "manybox-oidc=x.1:AAAA", &one.cookie[..one.cookie.len() - 2]] {
        let stranger = Browser {
            service: &service,
            cookie: cookie.to_owned(),
            state: one.state.clone(),
            code: one.code.clone(),
        };
        refused(&stranger.back_as_sent().await, "ten minutes");
    }
    // Another's code: it is worth nothing without its verifier.
    refused(&one.back(&[("code", &other.code), ("state", &one.state)]).await, "invalid_grant");
    refused(&one.back(&[("code", "guessed"), ("state", &one.state)]).await, "invalid_grant");
    refused(&one.back(&[("state", &one.state)]).await, "no code");
    refused(&one.back(&[("error", "access_denied"), ("state", &one.state)]).await, "access_denied");
    let mixed = [("code", one.code.as_str()), ("state", &one.state), ("iss", "https://evil.example")];
    refused(&one.back(&mixed).await, "iss");
    // The same once more, by an issuer that takes its code again.
    assert_eq!(one.back_as_sent().await.status, 200);
    refused(&one.back_as_sent().await, "nonce");

    // Tokens that are not for this sign-in.
    for (claims, word) in [
        (json!({ "nonce": "another" }), "nonce"),
        (json!({ "nonce": null }), "nonce"),
        (json!({ "aud": "other" }), "aud"),
        (json!({ "aud": ["manybox", "other"] }), "aud"),
        (json!({ "aud": ["manybox", "other"], "azp": "other" }), "azp"),
        (json!({ "exp": 1_000_000_000 }), "expired"),
        (json!({ "iss": "https://evil.example" }), "iss"),
        (json!({ "email_verified": false }), "email_verified"),
        (json!({ "groups": ["others"] }), "roles"),
    ] {
        issuer.says(claims);
        refused(&sign_in(&service, &issuer).await, word);
    }
    // Tokens that the issuer's key did not sign.
    let forgeries: [fn(&Issuer, &Value) -> String; 6] = [
        |_, claims| {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            format!("{}.{}.", part(&json!({ "alg": "none" })), part(claims))
        },
        // With what is public as the secret of HMAC.
        |issuer, claims| manybox::rest::sign_token(claims, issuer.key.public_key().as_ref()),
        |issuer, claims| manybox::rest::sign_token(claims, issuer.point().0.as_bytes()),
        |_, claims| manybox::rest::sign_token(claims, &[7; 32]),
        // With a key that it brings along, under the right name.
        |_, claims| {
            let own = key();
            let point = &own.public_key().as_ref()[1..];
            let (x, y) = (URL_SAFE_NO_PAD.encode(&point[..32]), URL_SAFE_NO_PAD.encode(&point[32..]));
            let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
            signed(&own, &json!({ "alg": "ES256", "kid": "one", "jwk": jwk }), claims)
        },
        |issuer, claims| {
            let mut token = signed(&issuer.key, &json!({ "alg": "ES256", "kid": "one" }), claims);
            token.truncate(token.len() - 4);
            token
        },
    ];
    for forge in forgeries {
        issuer.says(json!({}));
        issuer.told.lock().unwrap().forged = Some(forge);
        refused(&sign_in(&service, &issuer).await, "the issuer's token");
    }
    // Nobody is led elsewhere.
    issuer.says(json!({}));
    for next in ["//evil.example", "https://evil.example", "/\\evil.example", "/sign-out"] {
        let answer = Browser::there(&service, &issuer, next).await.back_as_sent().await;
        assert_eq!(answer.headers["refresh"], "0; url=/", "{next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_leads_the_service_nowhere_inside() {
    // What it says of itself is judged like what an operator says.
    let outside = "http://169.254.169.254/latest";
    for (discovered, word) in [
        (json!({ "issuer": "http://127.0.0.1:1" }), "is of the issuer"),
        (json!({ "jwks_uri": outside }), "control.oidc.networks"),
        (json!({ "jwks_uri": "file:///etc/passwd" }), "not a URL"),
        (json!({ "authorization_endpoint": "javascript:alert(1)" }), "authorization_endpoint"),
        (json!({ "padding": "x".repeat(300_000) }), "can't be read"),
    ] {
        let issuer = Issuer::start().await;
        issuer.told.lock().unwrap().discovered = discovered;
        let fleet = TestFleet::builder().toml(&settings(&issuer)).build().await;
        let service = Service::start(&fleet).await;
        for _ in 0..3 {
            let answer = Answer::of(service.bare(Method::GET, "/sign-in/oidc").send().await.unwrap()).await;
            assert_eq!(answer.status, 503, "{word}: {}", answer.text);
            assert!(answer.text.contains(word), "{word}: {}", answer.text);
        }
        assert_eq!(issuer.told.lock().unwrap().asked, 1, "one that fails is not asked at each click");
    }
    let issuer = Issuer::start().await;
    issuer.told.lock().unwrap().discovered = json!({ "token_endpoint": outside });
    let fleet = TestFleet::builder().toml(&settings(&issuer)).build().await;
    let service = Service::start(&fleet).await;
    let answer = sign_in(&service, &issuer).await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(answer.text.contains("control.oidc.networks"), "{}", answer.text);

    // A private network that no setting allows.
    let port = issuer.url.rsplit_once(':').unwrap().1;
    let text = settings(&issuer)
        .replace(&issuer.url, &format!("https://localhost:{port}"))
        .replace("networks = ['127.0.0.0/8']", "");
    let fleet = TestFleet::builder().toml(&text).build().await;
    let service = Service::start(&fleet).await;
    let asked = issuer.told.lock().unwrap().asked;
    let answer = Answer::of(service.bare(Method::GET, "/sign-in/oidc").send().await.unwrap()).await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(answer.text.contains("control.oidc.networks"), "{}", answer.text);
    assert_eq!(issuer.told.lock().unwrap().asked, asked);
    // Nor does a file of settings get past.
    std::fs::write(fleet.folder.path().join("tenants.toml"), settings(&issuer).replace("networks", "#"))
        .unwrap();
    let (code, _, error) = fleet.run(&["config"]).await;
    assert!(code != 0 && error.contains("control.oidc.issuer"), "{error}");
}
