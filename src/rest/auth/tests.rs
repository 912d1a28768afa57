//! Attacks on tokens, and what a genuine one gives.

use ring::hmac;
use serde_json::json;

use super::*;
use crate::policy::{Overrides, Secret};

const SECRET: &str = "reallyreallyreallyreallyverysafe";
/// RFC 7515, A.2 and A.3: the keys, and tokens over the same claims, which expired in 2011.
const RSA: &str = r#"{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}"#;
const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
/// Of 1,024 bits.
const SMALL_RSA: &str = r#"{"kty":"RSA","e":"AQAB","n":"uDxSGYs4gc8xOLrjxRoWC66s7bdWDYMlNG10-8TS9srbbJh7LK_JdoPPMuaryADNT9gC0BDSBHV6kfkWgJlWzErZXhTwyBG6jPmXA3SeW8BrqneGYjPK1QB8n-xB5EwvbAgIR5z2h0u6Mxf6OBnlbtQMPfwLOEWRk_iGe6YF82E"}"#;
const EC: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
const EC_TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
/// RFC 8037, A.4; its payload is no JSON.
const ED: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const ED_TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

const PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

fn ask(api: &Api, secret: &str, token: Option<&str>) -> Result<Caller, Error> {
    ask_as(api, &keys(secret, false), token, Roles::Listed)
}

fn keys(secret: &str, is_base64: bool) -> Arc<TokenKeys> {
    Arc::new(TokenKeys::read(&Secret::new(secret), is_base64).unwrap())
}

fn ask_as(api: &Api, keys: &Arc<TokenKeys>, token: Option<&str>, roles: Roles) -> Result<Caller, Error> {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    }
    authenticate(&headers, api, || Arc::clone(keys), roles)
}

fn signed(claims: &Value, key: &str, head: &Value) -> String {
    let hash = match head["alg"].as_str() {
        Some("HS384") => hmac::HMAC_SHA384,
        Some("HS512") => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let message = format!("{}.{}", b64(head.to_string()), b64(claims.to_string()));
    let signature = hmac::sign(&hmac::Key::new(hash, key.as_bytes()), message.as_bytes());
    format!("{message}.{}", b64(signature))
}

fn token(claims: &Value) -> String {
    sign_token(claims, SECRET.as_bytes())
}

fn told(result: Result<Caller, Error>) -> (u16, String, String) {
    let error = result.unwrap_err();
    (error.status().as_u16(), error.code().to_string(), error.message().to_owned())
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

#[test]
fn a_token_gives_its_role_and_claims() {
    let claims = json!({"role": "authenticated", "sub": "x", "exp": now() + 60});
    let caller = ask(&Api::default(), SECRET, Some(&token(&claims))).unwrap();
    assert_eq!(
        (caller.role.as_str(), caller.claims, caller.anonymous),
        ("authenticated", claims.to_string(), false)
    );
    let caller = ask(&Api::default(), SECRET, None).unwrap();
    assert_eq!((caller.role.as_str(), caller.claims.as_str()), ("anon", r#"{"role":"anon"}"#));
    // Without a role the token's bearer is anonymous.
    let caller = ask(&Api::default(), SECRET, Some(&token(&json!({"sub": "x"})))).unwrap();
    assert_eq!((caller.role.as_str(), caller.claims.as_str()), ("anon", r#"{"sub":"x","role":"anon"}"#));
    assert!(caller.anonymous);
}

#[test]
fn forged_tokens_are_refused() {
    let good = json!({"role": "service"});
    let none = |alg: &str| format!("{}.eyJyb2xlIjoic2VydmljZSJ9.", b64(json!({ "alg": alg }).to_string()));
    let good_parts = token(&good);
    let good_parts: Vec<&str> = good_parts.split('.').collect();
    let (suitable, decodable) = ("No suitable key or wrong key type", "JWT cryptographic operation failed");
    let (alg, parts) = ("Wrong or unsupported encoding algorithm", "Expected 3 parts in JWT; got");
    for (bad, message) in [
        (signed(&good, "another tenant's key of 32 bytes", &json!({"alg": "HS256"})), suitable),
        (signed(&good, "", &json!({"alg": "HS256"})), suitable),
        (signed(&good, SECRET, &json!({"alg": "HS512"})), suitable),
        (signed(&good, SECRET, &json!({"alg": "HS256", "kid": "other"})), suitable),
        (none("none"), alg),
        (none("nOnE"), alg),
        (none("HS1"), alg),
        (none("HS256"), suitable),
        (format!("{}.{}.AAAA", good_parts[0], good_parts[1]), suitable),
        (format!("{}.{}.{}", good_parts[0], b64(r#"{"role":"anon"}"#), good_parts[2]), suitable),
        (
            format!("{}.{}.{}", b64(r#"{"alg":"HS256","crit":["exp"]}"#), good_parts[1], good_parts[2]),
            decodable,
        ),
        ("quifquirndsjagnrgniur.fonvoienqhhdj.iuqvnvhojah".into(), decodable),
        ("..".into(), decodable),
        ("a.b".into(), parts),
        ("a.b.c.d.e".into(), parts),
        ("x".repeat(20_000), "JWT couldn't be decoded"),
        (String::new(), "Empty JWT is sent in Authorization header"),
    ] {
        let (status, code, said) = told(ask(&Api::default(), SECRET, Some(&bad)));
        assert_eq!((status, code.as_str()), (401, "PGRST301"), "{bad}");
        assert!(said.starts_with(message), "{bad}: {said}");
    }
}

fn b64(text: impl AsRef<[u8]>) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

#[test]
fn claims_that_do_not_hold() {
    let at = |name: &str, value: Value| json!({"role": "anon", name: value});
    let mut api = Api { jwt_aud: Some("us".into()), ..Api::default() };
    for (claims, message) in [
        (at("exp", (now() - 35).into()), "JWT expired"),
        (at("nbf", (now() + 35).into()), "JWT not yet valid"),
        (at("iat", (now() + 35).into()), "JWT issued at future"),
        (at("exp", "never".into()), "The JWT 'exp' claim must be a number"),
        (at("nbf", json!([1])), "The JWT 'nbf' claim must be a number"),
        (at("iat", true.into()), "The JWT 'iat' claim must be a number"),
        (at("aud", "them".into()), "JWT not in audience"),
        (at("aud", "".into()), "JWT not in audience"),
        (at("aud", json!(["them", "usual"])), "JWT not in audience"),
        (at("aud", json!(["us", 1])), "The JWT 'aud' claim must be a string or an array of strings"),
        (at("aud", json!({})), "The JWT 'aud' claim must be a string or an array of strings"),
        (json!(["role"]), "Parsing claims failed"),
    ] {
        let refused = told(ask(&api, SECRET, Some(&token(&claims))));
        assert_eq!(refused, (401, "PGRST303".into(), message.into()), "{claims}");
    }
    let fine = [
        at("exp", (now() - 25).into()),
        at("nbf", (now() + 25).into()),
        at("iat", (now() + 25).into()),
        at("exp", Value::Null),
        at("aud", "us".into()),
        at("aud", json!(["them", "us"])),
        at("aud", json!([])),
        at("aud", Value::Null),
        at("sub", 1.into()),
    ];
    for claims in &fine {
        assert!(ask(&api, SECRET, Some(&token(claims))).is_ok(), "{claims}");
    }
    api.jwt_aud = None;
    assert!(ask(&api, SECRET, Some(&token(&at("aud", "them".into())))).is_ok());
}

#[test]
fn keys_of_every_kind_and_no_confusion_between_them() {
    let set = format!(r#"{{"keys":[{RSA},{EC},{ED},{{"kty":"what"}}]}}"#);
    // Genuine, and so refused only for what they say.
    for (secret, token, code) in [
        (RSA, RSA_TOKEN, "PGRST303"),
        (EC, EC_TOKEN, "PGRST303"),
        (ED, ED_TOKEN, "PGRST303"),
        (&set, RSA_TOKEN, "PGRST303"),
        (&set, EC_TOKEN, "PGRST303"),
        (&set, ED_TOKEN, "PGRST303"),
        (RSA, EC_TOKEN, "PGRST301"),
        (EC, RSA_TOKEN, "PGRST301"),
        (SECRET, RSA_TOKEN, "PGRST301"),
    ] {
        assert_eq!(told(ask(&Api::default(), secret, Some(token))).1, code, "{secret} {token}");
    }
    let forged = format!("{}A.{}", &RSA_TOKEN[..RSA_TOKEN.len() - 350], &RSA_TOKEN[RSA_TOKEN.len() - 342..]);
    assert_eq!(told(ask(&Api::default(), RSA, Some(&forged))).1, "PGRST301");
    // The classic: HMAC with what is public of an RSA key. In every form in which a server could take it.
    let n: Value = serde_json::from_str(RSA).unwrap();
    for public in [RSA, n["n"].as_str().unwrap(), &set] {
        for alg in ["HS256", "HS384", "HS512"] {
            let confused = signed(&json!({"role": "service"}), public, &json!({ "alg": alg }));
            for secret in [RSA, &set] {
                assert_eq!(told(ask(&Api::default(), secret, Some(&confused))).1, "PGRST301");
            }
        }
    }
}

/// Made with OpenSSL, so that two implementations must agree.
#[test]
fn tokens_of_every_algorithm_are_checked_as_another_library_signs_them() {
    let set = include_str!("tokens/keys.json");
    let keys: Value = serde_json::from_str(set).unwrap();
    for token in include_str!("tokens/genuine.txt").lines() {
        assert_eq!(ask(&Api::default(), set, Some(token)).unwrap().role, "anon", "{token}");
        let accepts = |key: &&Value| ask(&Api::default(), &key.to_string(), Some(token)).is_ok();
        assert_eq!(keys["keys"].as_array().unwrap().iter().filter(accepts).count(), 1, "{token}");
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let head = signed.split_once('.').unwrap().0;
        let forged = format!("{head}.{}.{signature}", b64(r#"{"role":"service"}"#));
        assert_eq!(told(ask(&Api::default(), set, Some(&forged))).1, "PGRST301", "{forged}");
    }
    for token in include_str!("tokens/forged.txt").lines().filter(|line| !line.starts_with('#')) {
        let (status, code, message) = told(ask(&Api::default(), set, Some(token)));
        assert_eq!((status, code.as_str()), (401, "PGRST301"), "{token}");
        assert_eq!(message, "No suitable key or wrong key type", "{token}");
    }
}

#[test]
fn a_key_of_a_set_is_found_by_its_id() {
    let key = |kid: &str, text: &str, more: &str| {
        format!(r#"{{"kty":"oct","kid":"{kid}","k":"{}"{more}}}"#, b64(text))
    };
    let (one, two) = ("the first key of at least 32 bytes", "the second key of at least 32 bytes");
    let set = format!(
        r#"{{"keys":[{},{},{}]}}"#,
        key("one", one, ""),
        key("two", two, r#","alg":"HS512""#),
        key("enc", SECRET, r#","use":"enc""#)
    );
    let claims = json!({"role": "anon"});
    let with = |key: &str, kid: Option<&str>, alg| {
        let head = json!({ "alg": alg, "kid": kid });
        ask(&Api::default(), &set, Some(&signed(&claims, key, &head))).is_ok()
    };
    let (hs256, hs512) = ("HS256", "HS512");
    assert!(with(one, Some("one"), hs256) && with(one, Some("one"), hs512) && with(one, None, hs256));
    assert!(with(two, Some("two"), hs512) && with(two, None, hs512));
    assert!(!with(two, Some("two"), hs256), "its alg is another");
    assert!(
        !with(one, Some("two"), hs512) && !with(one, Some("three"), hs256) && !with(one, Some(""), hs256)
    );
    assert!(!with(SECRET, Some("enc"), hs256) && !with(SECRET, None, hs256), "not for signatures");
}

#[test]
fn secrets_that_check_nothing_are_refused_when_they_are_set() {
    let check = |secret: &str, is_base64| check_jwt_secret(&Secret::new(secret), is_base64).map_err(|e| e.0);
    check(SECRET, false).unwrap();
    check("cmVhbGx5cmVhbGx5cmVhbGx5cmVhbGx5dmVyeXNhZmU=", true).unwrap();
    check("cmVhbGx5cmVhbGx5cmVhbGx5cmVhbGx5dmVyeXNhZmU.", true).unwrap();
    // Base64 of a JWK is one, where it is said to be base64.
    check(&format!("{}{}", b64(RSA), "=".repeat((4 - b64(RSA).len() % 4) % 4)), true).unwrap();
    let binary = keys("cmVhbGx5cmVhbGx5cmVhbGx5cmVhbGx5dmVyeXNhZmU=", true);
    let good = token(&json!({"role": "anon"}));
    assert!(ask_as(&Api::default(), &binary, Some(&good), Roles::Listed).is_ok());
    for (secret, is_base64, expected) in [
        ("", false, "shorter than 32"),
        ("", true, "shorter than 32"),
        ("c2hvcnQ=", true, "shorter than 32"),
        (SECRET.trim_end_matches('e'), false, "shorter than 32"),
        ("not base64 at all, whatever it looks like!", true, "not base64"),
        (r#"{"keys":[]}"#, false, "no key"),
        (r#"{"keys":1}"#, false, "not a list"),
        (r#"{"kty":"oct","k":""}"#, false, "no key"),
        (r#"{"kty":"oct","k":"c2hvcnQ"}"#, false, "no key"),
        (r#"{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}"#, false, "no key"),
        (r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#, false, "no key"),
        (&EC.replace("P-256", "P-384"), false, "no key"),
        (&EC.replace('}', r#","alg":"RS256"}"#), false, "no key"),
        (&ED.replace("Ed25519", "X25519"), false, "no key"),
        (SMALL_RSA, false, "no key"),
        (&format!("[{RSA}]"), false, "is a JWK"),
        (&format!(" {}", &RSA[..RSA.len() - 1]), false, "is a JWK"),
        (&b64(RSA), false, "is a JWK"),
        (PEM, false, "is a PEM"),
        (&b64(PEM), false, "is a PEM"),
        (PEM.lines().nth(1).unwrap(), false, "in DER"),
        (PEM.lines().nth(1).unwrap(), true, "in DER"),
        (&json!({"kty": "oct", "k": b64(PEM)}).to_string(), false, "is a PEM"),
        (&json!({"keys": [{"kty": "oct", "k": b64(RSA)}, {"kty": "what"}]}).to_string(), false, "is a JWK"),
    ] {
        let error = check(secret, is_base64).unwrap_err();
        assert!(error.contains(expected), "{secret}: {error}");
    }
}

#[test]
fn roles_by_path_and_by_rule() {
    let mut overrides = Overrides::default();
    overrides.set("jwt_role_claim_key", ".realm.roles[?(@ ^== \"serv\")]").unwrap();
    let (_, api) = overrides.applied_to(crate::policy::Limits::default(), Api::default());
    let caller = ask(&api, SECRET, Some(&token(&json!({"realm": {"roles": ["x", "service"]}})))).unwrap();
    assert_eq!(caller.role, "service");
    assert!(caller.claims.ends_with(r#""role":"service"}"#), "{}", caller.claims);

    let claim = |role: Value| token(&json!({ "role": role }));
    let refused = |api: &Api, role: Value, roles| {
        let (status, code, _) = told(ask_as(api, &keys(SECRET, false), Some(&claim(role)), roles));
        (status, code)
    };
    let listed = Api::default();
    for role in [json!("postgres"), json!(1), json!(null), json!("none"), json!("")] {
        assert_eq!(refused(&listed, role, Roles::Listed), (403, "MBX301".into()));
    }
    // No list is no permission, but where the server decides.
    let empty = Api { roles: Vec::new(), ..Api::default() };
    assert_eq!(refused(&empty, json!("anon"), Roles::Listed), (403, "MBX301".into()));
    let servers = |role| ask_as(&empty, &keys(SECRET, false), Some(&claim(role)), Roles::Servers);
    assert_eq!(servers(json!("whoever")).unwrap().role, "whoever");
    assert_eq!(refused(&empty, json!("none"), Roles::Servers), (401, "22023".into()));
    assert_eq!(refused(&listed, json!("whoever"), Roles::Servers), (403, "MBX301".into()));

    let closed = Api { db_anon_role: None, ..Api::default() };
    assert_eq!(told(ask(&closed, SECRET, None)).1, "PGRST302");
    assert_eq!(told(ask(&closed, SECRET, Some(&token(&json!({}))))).1, "PGRST302");
    let none = ask_as(&Api::default(), &Arc::default(), Some(&claim(json!("anon"))), Roles::Servers);
    assert_eq!(told(none), (500, "PGRST300".into(), "Server lacks JWT secret".into()));
    assert!(ask_as(&Api::default(), &Arc::default(), None, Roles::Servers).is_ok());
}

#[test]
fn names_that_postgresql_would_read_as_others_are_none() {
    assert!(is_role_name("web_anon") && is_role_name(&"r".repeat(63)) && is_role_name("Ö\"; --"));
    for name in ["", "none", "we\0b", &"r".repeat(64)] {
        assert!(!is_role_name(name), "{name:?}");
    }
}
