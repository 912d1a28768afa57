//! Claims: whether an issuer's token holds for this sign-in (OpenID Connect Core 1.0, 3.1.3.7), and whose it is.

use serde_json::{Map, Value};

use crate::catalog::{Account, OperatorRole};
use crate::settings::OidcSettings;

/// Tolerated difference of clocks, seconds.
const LEEWAY: f64 = 30.0;
/// Longest name of an operator, bytes.
const MAX_NAME: usize = 200;

/// The account of a token whose signature holds, at `now`, in seconds since 1970.
///
/// # Errors
/// A sentence that says what does not hold.
pub(super) fn account(
    claims: &Map<String, Value>,
    settings: &OidcSettings,
    nonce: &str,
    now: i64,
) -> Result<Account, String> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(&settings.issuer) {
        return Err("the token is another issuer's (iss)".into());
    }
    let audience: Vec<_> = match claims.get("aud") {
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(one)) => vec![one.as_str()],
        _ => Vec::new(),
    };
    let is_for_us = audience.contains(&settings.client_id.as_str());
    // Of several, `azp` says for whom it was made.
    let party = claims.get("azp");
    let is_ours = party.map_or(audience.len() == 1, |party| party.as_str() == Some(&settings.client_id));
    if !is_for_us || !is_ours {
        return Err("the token is for another service (aud, azp)".into());
    }
    times(claims, now as f64)?;
    if text("nonce") != Some(nonce) {
        return Err("the token is another sign-in's (nonce)".into());
    }
    let subject = text("sub").filter(|subject| !subject.is_empty() && subject.len() <= 255);
    let subject = subject.ok_or("the token says of nobody (sub)")?;
    let name = name(claims, settings)?;
    let role = role(claims, settings)?;
    let domain = name.split_once('@').map(|(_, domain)| domain);
    let may_be_new = settings.is_by_email()
        && domain.is_some_and(|domain| settings.domains.iter().any(|own| own.eq_ignore_ascii_case(domain)));
    Ok(Account { issuer: settings.issuer.clone(), subject: subject.to_owned(), name, role, may_be_new })
}

fn times(claims: &Map<String, Value>, now: f64) -> Result<(), String> {
    let time = |name: &str| claims.get(name).map(|at| at.as_f64().ok_or(format!("`{name}` is no number")));
    let needed = |name: &str| time(name).unwrap_or_else(|| Err(format!("the token has no `{name}`")));
    if needed("exp")? < now - LEEWAY {
        return Err("the token has expired (exp)".into());
    }
    if needed("iat")? > now + LEEWAY || time("nbf").transpose()?.is_some_and(|nbf| nbf > now + LEEWAY) {
        return Err("the token is of a time to come (iat, nbf)".into());
    }
    Ok(())
}

/// The operator's name.
fn name(claims: &Map<String, Value>, settings: &OidcSettings) -> Result<String, String> {
    let claim = &settings.name_claim;
    let name = at(claims, claim).and_then(Value::as_str);
    let name = name.ok_or_else(|| format!("the token has no `{claim}` (control.oidc.name_claim, scopes)"))?;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(format!("the token's `{claim}` is no name: expected 1 to {MAX_NAME} bytes in one line"));
    }
    if !settings.is_by_email() {
        return Ok(name.to_owned());
    }
    // Some write it as a text.
    let is_verified =
        claims.get("email_verified").is_some_and(|said| *said == Value::Bool(true) || said == "true");
    if !is_verified {
        return Err("the issuer has not verified the account's e-mail address (email_verified)".into());
    }
    if name.matches('@').count() != 1 {
        return Err("the token's `email` is no e-mail address".into());
    }
    Ok(name.to_ascii_lowercase())
}

/// The most that the claims make of somebody; `None` where they say nothing of it.
fn role(claims: &Map<String, Value>, settings: &OidcSettings) -> Result<Option<OperatorRole>, String> {
    let Some(claim) = &settings.roles_claim else { return Ok(None) };
    let values: Vec<_> = match at(claims, claim) {
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(one)) => vec![one.as_str()],
        _ => Vec::new(),
    };
    let ranks = [
        (OperatorRole::Owner, &settings.owners),
        (OperatorRole::Operator, &settings.operators),
        (OperatorRole::Viewer, &settings.viewers),
    ];
    let found = ranks.into_iter().find(|(_, of)| of.iter().any(|one| values.contains(&one.as_str())));
    let (role, _) =
        found.ok_or_else(|| format!("the account has none of the roles that are let in (`{claim}`)"))?;
    Ok(Some(role))
}

/// The claim of this name; or else, along its dots, one inside others.
fn at<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (outer, inner) = name.split_once('.')?;
        at(claims.get(outer)?.as_object()?, inner)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn settings() -> OidcSettings {
        serde_json::from_value(json!({
            "issuer": "https://login.example", "client_id": "manybox", "roles_claim": "realm.roles",
            "viewers": ["staff"], "operators": ["sre"], "owners": ["platform"], "domains": ["example.com"],
        }))
        .unwrap()
    }

    fn good() -> Value {
        json!({
            "iss": "https://login.example", "aud": "manybox", "sub": "7", "nonce": "n", "exp": NOW + 60, "iat": NOW,
            "email": "Ada@Example.com", "email_verified": true, "realm": { "roles": ["staff", "sre", "other"] },
        })
    }

    fn with(changes: Value) -> Result<Account, String> {
        let mut claims = good();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        account(claims.as_object().unwrap(), &settings(), "n", NOW)
    }

    #[test]
    fn a_good_token_is_somebodys() {
        let account = with(json!({})).unwrap();
        assert_eq!((account.name.as_str(), account.subject.as_str()), ("ada@example.com", "7"));
        assert_eq!((account.role, account.may_be_new), (Some(OperatorRole::Operator), true));
        let owner = with(json!({ "realm": { "roles": ["platform", "staff"] } })).unwrap();
        assert_eq!(owner.role, Some(OperatorRole::Owner));
        assert!(with(json!({ "aud": ["manybox", "other"], "azp": "manybox" })).is_ok());
        assert!(with(json!({ "email_verified": "true", "exp": NOW - 10 })).is_ok());
        assert!(!with(json!({ "email": "ada@example.com.evil" })).unwrap().may_be_new);
    }

    #[test]
    fn what_does_not_hold_is_refused_by_name() {
        for (changes, word) in [
            (json!({ "iss": "https://login.example/" }), "iss"),
            (json!({ "iss": null }), "iss"),
            (json!({ "aud": "other" }), "aud"),
            (json!({ "aud": [] }), "aud"),
            (json!({ "aud": null }), "aud"),
            (json!({ "aud": ["manybox", "other"] }), "aud"),
            (json!({ "azp": "other" }), "azp"),
            (json!({ "exp": NOW - 31 }), "exp"),
            (json!({ "exp": null }), "exp"),
            (json!({ "exp": "later" }), "exp"),
            (json!({ "iat": NOW + 100 }), "iat"),
            (json!({ "iat": null }), "iat"),
            (json!({ "nbf": NOW + 100 }), "nbf"),
            (json!({ "nonce": "other" }), "nonce"),
            (json!({ "nonce": null }), "nonce"),
            (json!({ "sub": "" }), "sub"),
            (json!({ "email": null }), "email"),
            (json!({ "email": "a\nb@example.com" }), "email"),
            (json!({ "email": "a@evil@example.com" }), "email"),
            (json!({ "email_verified": false }), "email_verified"),
            (json!({ "email_verified": null }), "email_verified"),
            (json!({ "email_verified": 1 }), "email_verified"),
            (json!({ "realm": { "roles": ["nobody"] } }), "roles"),
            (json!({ "realm": null }), "roles"),
        ] {
            let refused = with(changes.clone()).unwrap_err();
            assert!(refused.contains(word), "{changes}: {refused}");
        }
    }

    #[test]
    fn a_claim_is_found_by_its_name_or_along_its_dots() {
        let claims = json!({ "https://x.example/roles": 1, "a": { "b.c": 2, "d": { "e": 3 } } });
        let claims = claims.as_object().unwrap();
        let number = |name: &str| at(claims, name).and_then(Value::as_i64);
        assert_eq!(
            (number("https://x.example/roles"), number("a.b.c"), number("a.d.e")),
            (Some(1), Some(2), Some(3))
        );
        assert_eq!((number("a.x"), number("a.d.e.f"), number("")), (None, None, None));
    }
}
