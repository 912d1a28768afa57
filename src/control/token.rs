//! Tokens for a tenant's API, signed with its newest key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::catalog::TenantRow;
use crate::fleet::Fleet;
use crate::policy::Invalid;
use crate::rest::sign_token;

/// A token that claims this role, for so long.
///
/// # Errors
/// When the role is none of the fleet's, or the database was adopted: then its keys are its owner's.
pub fn issue(
    fleet: &Fleet,
    row: &TenantRow,
    role: &str,
    mut claims: Map<String, Value>,
    expires: Duration,
) -> Result<String, Invalid> {
    if row.record.is_adopted() {
        return Err(Invalid(format!(
            "`{}`: the database was adopted: tokens are signed with its own jwt_secret, by whoever holds it",
            row.record.slug
        )));
    }
    let roles = fleet.settings.roles();
    if !roles.iter().any(|r| r == role) {
        return Err(Invalid(format!("`{role}` is not an API role; expected one of {}", roles.join(", "))));
    }
    if let Some(claim) = ["role", "exp"].into_iter().find(|claim| claims.contains_key(*claim)) {
        return Err(Invalid(format!("`{claim}` is a claim that is set by manybox")));
    }
    let until = (SystemTime::now() + expires).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    claims.insert("role".into(), role.into());
    claims.insert("exp".into(), until.into());
    Ok(sign_token(&Value::Object(claims), &fleet.keys.newest().jwt_key(&row.record)))
}
