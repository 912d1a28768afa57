//! Operators of the control service, their API tokens, and the sessions of their browsers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::{Catalog, CatalogError, TenantRow};
use crate::policy::Invalid;

/// What an operator may do; each may what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperatorRole {
    /// Looks, and changes nothing.
    Viewer,
    /// Creates, changes and retires tenants, runs rollouts.
    Operator,
    /// Everything: purges, operators and their tokens, webhooks.
    Owner,
}

impl OperatorRole {
    /// Every role, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Owner];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for OperatorRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for OperatorRole {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| Invalid(format!("`{text}` is no role: expected viewer, operator or owner")))
    }
}

/// Which tenants somebody may see and change. Empty: all, and what belongs to the fleet as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scopes {
    /// Those of one of these editions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub editions: Option<BTreeSet<String>>,
    /// Those with all of these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Scopes {
    /// Whether nothing is left out.
    pub fn is_all(&self) -> bool {
        self.editions.is_none() && self.labels.is_empty()
    }

    /// Whether a tenant is among them. One with an adopted database is of no edition.
    pub fn admits(&self, row: &TenantRow) -> bool {
        let edition = row.record.lineage().map(|lineage| lineage.edition.as_str());
        self.admits_edition(edition)
            && self.labels.iter().all(|(key, value)| row.labels.get(key) == Some(value))
    }

    /// Whether tenants of an edition can be among them.
    pub fn admits_edition(&self, edition: Option<&str>) -> bool {
        self.editions
            .as_ref()
            .is_none_or(|editions| edition.is_some_and(|edition| editions.contains(edition)))
    }

    /// What both admit.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut editions = match (&self.editions, &other.editions) {
            (Some(one), Some(other)) => Some(one & other),
            (one, other) => one.as_ref().or(other.as_ref()).cloned(),
        };
        let mut labels = self.labels.clone();
        for (key, value) in &other.labels {
            // A label has one value: no tenant is in both.
            if labels.insert(key.clone(), value.clone()).is_some_and(|before| before != *value) {
                editions = Some(BTreeSet::new());
            }
        }
        Self { editions, labels }
    }
}

/// An operator.
#[derive(Debug, Clone, Serialize)]
pub struct OperatorRow {
    /// Its name: of a person, a service, or what the issuer calls it.
    pub name: String,
    /// The most that it may do.
    pub role: OperatorRole,
    /// For which tenants.
    pub scopes: Scopes,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Since when no more.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// Its tokens.
    pub tokens: Vec<TokenRow>,
}

/// An API token, without its secret, which nobody has but its holder.
#[derive(Debug, Clone, Serialize)]
pub struct TokenRow {
    /// The part of the token that may be shown.
    pub id: String,
    /// The most that may be done by it.
    pub role: OperatorRole,
    /// For which tenants.
    pub scopes: Scopes,
    /// What it is for.
    pub note: Option<String>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Until when it holds.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// Since when it does no more.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// When it was used last, to the minute.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
}

/// A token to be.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Fresh.
    pub id: String,
    /// Of its secret.
    pub hash: Vec<u8>,
    /// The most that may be done by it.
    pub role: OperatorRole,
    /// For which tenants.
    pub scopes: Scopes,
    /// What it is for.
    pub note: Option<String>,
    /// Until when it holds; `None`: until it is revoked.
    pub expires_at: Option<OffsetDateTime>,
}

/// Who holds a token or a session, and what may be done by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The operator.
    pub operator: String,
    /// The lesser of the operator's and the token's.
    pub role: OperatorRole,
    /// What both admit.
    pub scopes: Scopes,
    /// `token ID`, or what the session was opened by.
    pub by: String,
}

const CREDENTIAL: &str = "o.name, o.role, o.scopes, c.role, c.scopes";

fn credential(row: &Row) -> Result<Credential, CatalogError> {
    let role = |column: usize| Ok::<OperatorRole, CatalogError>(row.try_get::<_, String>(column)?.parse()?);
    let scopes = |column: usize| Ok::<Scopes, CatalogError>(row.try_get::<_, Json<Scopes>>(column)?.0);
    Ok(Credential {
        operator: row.try_get(0)?,
        role: role(1)?.min(role(3)?),
        scopes: scopes(2)?.and(&scopes(4)?),
        by: row.try_get(5)?,
    })
}

impl Catalog {
    /// Adds an operator, or gives one that is there another role and other scopes, and takes back its revocation. The next account
    /// of its name that signs in is its own.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn operator_put(
        &self,
        name: &str,
        role: OperatorRole,
        scopes: &Scopes,
    ) -> Result<(), CatalogError> {
        self.change(
            "WITH o AS (
                INSERT INTO catalog.operator (name, role, scopes) VALUES ($1, $2, $3)
                ON CONFLICT (name) DO UPDATE SET role = excluded.role, scopes = excluded.scopes, revoked_at = NULL,
                    issuer = NULL, subject = NULL, is_claimed = false
                RETURNING name
             )
             INSERT INTO journal.line (action, detail)
             SELECT 'operator-put', jsonb_build_object('operator', name, 'role', $2::text, 'scopes', $3::jsonb) FROM o",
            &[&name, &role.as_str(), &Json(scopes)],
        )
        .await
    }

    /// Gives an operator a token.
    ///
    /// # Errors
    /// `foreign_key_violation` when there is no such operator.
    pub async fn token_add(&self, operator: &str, token: &NewToken) -> Result<(), CatalogError> {
        let NewToken { id, hash, role, scopes, note, expires_at } = token;
        self.change(
            "WITH t AS (
                INSERT INTO catalog.api_token (id, operator, hash, role, scopes, note, expires_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id
             )
             INSERT INTO journal.line (action, detail)
             SELECT 'token-add', jsonb_build_object('operator', $2::text, 'token', id, 'role', $4::text, 'expires', $7::timestamptz)
             FROM t",
            &[id, &operator, hash, &role.as_str(), &Json(scopes), note, expires_at],
        )
        .await
    }

    /// Every operator with its tokens, by name.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn operators(&self) -> Result<Vec<OperatorRow>, CatalogError> {
        let sql = "SELECT name, role, scopes, created_at, revoked_at FROM catalog.operator ORDER BY name";
        let mut operators = BTreeMap::new();
        for row in self.sessions.query(sql, &[]).await? {
            let operator = OperatorRow {
                name: row.try_get(0)?,
                role: row.try_get::<_, String>(1)?.parse()?,
                scopes: row.try_get::<_, Json<Scopes>>(2)?.0,
                created_at: row.try_get(3)?,
                revoked_at: row.try_get(4)?,
                tokens: Vec::new(),
            };
            operators.insert(operator.name.clone(), operator);
        }
        let sql = "SELECT operator, id, role, scopes, note, created_at, expires_at, revoked_at, last_used_at
                   FROM catalog.api_token ORDER BY created_at, id";
        for row in self.sessions.query(sql, &[]).await? {
            let Some(operator) = operators.get_mut(row.try_get::<_, &str>(0)?) else { continue };
            operator.tokens.push(TokenRow {
                id: row.try_get(1)?,
                role: row.try_get::<_, String>(2)?.parse()?,
                scopes: row.try_get::<_, Json<Scopes>>(3)?.0,
                note: row.try_get(4)?,
                created_at: row.try_get(5)?,
                expires_at: row.try_get(6)?,
                revoked_at: row.try_get(7)?,
                last_used_at: row.try_get(8)?,
            });
        }
        Ok(operators.into_values().collect())
    }

    /// Makes an operator nobody: its tokens and sessions hold no more. Returns whether there was one.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn operator_revoke(&self, name: &str) -> Result<bool, CatalogError> {
        let sql = "WITH o AS (
                UPDATE catalog.operator SET revoked_at = coalesce(revoked_at, now()) WHERE name = $1 RETURNING name
             ), t AS (
                UPDATE catalog.api_token SET revoked_at = coalesce(revoked_at, now()) WHERE operator = $1
             ), s AS (DELETE FROM catalog.session WHERE operator = $1)
             INSERT INTO journal.line (action, detail)
             SELECT 'operator-revoke', jsonb_build_object('operator', name) FROM o";
        Ok(self.sessions.execute(sql, &[&name]).await? == 1)
    }

    /// Makes a token hold no more, nor the sessions that were opened by it. Returns whether there was one.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn token_revoke(&self, id: &str) -> Result<bool, CatalogError> {
        let sql = "WITH t AS (
                UPDATE catalog.api_token SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1 RETURNING id, operator
             ), s AS (DELETE FROM catalog.session WHERE opened_by = 'token ' || $1)
             INSERT INTO journal.line (action, detail)
             SELECT 'token-revoke', jsonb_build_object('operator', operator, 'token', id) FROM t";
        Ok(self.sessions.execute(sql, &[&id]).await? == 1)
    }

    /// Who holds the token of this id, with the hash of its secret, which the caller compares. `None` when it is unknown,
    /// revoked or expired.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn token_holder(&self, id: &str) -> Result<Option<(Credential, Vec<u8>)>, CatalogError> {
        let sql = format!(
            "WITH used AS (
                UPDATE catalog.api_token SET last_used_at = now()
                WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
             )
             SELECT {CREDENTIAL}, 'token ' || c.id, c.hash
             FROM catalog.api_token c JOIN catalog.operator o ON o.name = c.operator
             WHERE c.id = $1 AND c.revoked_at IS NULL AND (c.expires_at IS NULL OR c.expires_at > now())
               AND o.revoked_at IS NULL"
        );
        let row = self.sessions.query_opt(&sql, &[&id]).await?;
        row.map(|row| Ok((credential(&row)?, row.try_get(6)?))).transpose()
    }

    /// Opens a browser's session, and forgets those that have ended.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn session_open(
        &self,
        hash: &[u8],
        credential: &Credential,
        lifetime: Duration,
    ) -> Result<(), CatalogError> {
        let Credential { operator, role, scopes, by } = credential;
        self.change(
            "WITH old AS (DELETE FROM catalog.session WHERE expires_at < now()), s AS (
                INSERT INTO catalog.session (hash, operator, role, scopes, opened_by, expires_at)
                VALUES ($1, $2, $3, $4, $5, now() + $6 * interval '1 second') RETURNING operator
             )
             INSERT INTO journal.line (action, detail)
             SELECT 'sign-in', jsonb_build_object('operator', operator, 'by', $5::text) FROM s",
            &[&hash, operator, &role.as_str(), &Json(scopes), by, &lifetime.as_secs_f64()],
        )
        .await
    }

    /// Who holds a session, which ends when it was not used for `idle`.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn session_holder(
        &self,
        hash: &[u8],
        idle: Duration,
    ) -> Result<Option<Credential>, CatalogError> {
        let sql = format!(
            "WITH seen AS (
                UPDATE catalog.session SET seen_at = now()
                WHERE hash = $1 AND seen_at < now() - interval '1 minute'
                  AND seen_at > now() - $2 * interval '1 second'
             )
             SELECT {CREDENTIAL}, c.opened_by
             FROM catalog.session c JOIN catalog.operator o ON o.name = c.operator
             WHERE c.hash = $1 AND c.expires_at > now() AND c.seen_at > now() - $2 * interval '1 second'
               AND o.revoked_at IS NULL"
        );
        let row = self.sessions.query_opt(&sql, &[&hash, &idle.as_secs_f64()]).await?;
        row.as_ref().map(credential).transpose()
    }

    /// Ends a session.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn session_close(&self, hash: &[u8]) -> Result<(), CatalogError> {
        self.change(
            "WITH s AS (DELETE FROM catalog.session WHERE hash = $1 RETURNING operator)
             INSERT INTO journal.line (action, detail)
             SELECT 'sign-out', jsonb_build_object('operator', operator) FROM s",
            &[&hash],
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(editions: Option<&[&str]>, labels: &[(&str, &str)]) -> Scopes {
        Scopes {
            editions: editions.map(|e| e.iter().map(ToString::to_string).collect()),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn both_scopes_hold() {
        let all = Scopes::default();
        let clinic = scopes(Some(&["clinic", "shop"]), &[("region", "eu")]);
        assert_eq!(all.and(&clinic), clinic);
        assert_eq!(clinic.and(&all), clinic);
        let shop = scopes(Some(&["shop"]), &[("size", "s")]);
        assert_eq!(clinic.and(&shop), scopes(Some(&["shop"]), &[("region", "eu"), ("size", "s")]));
        assert!(!clinic.and(&scopes(None, &[("region", "us")])).admits_edition(Some("clinic")));
    }
}
