//! Accounts of an OpenID issuer, and the operators that they are.

use tokio_postgres::types::Json;

use super::{Catalog, CatalogError, Credential, OperatorRole, Scopes};

/// An account at an issuer, as its token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The issuer's URL.
    pub issuer: String,
    /// What it is to the issuer, for ever.
    pub subject: String,
    /// The operator's name.
    pub name: String,
    /// The role that its claims say, where they say one.
    pub role: Option<OperatorRole>,
    /// Whether it is an operator without having been added.
    pub may_be_new: bool,
}

impl Catalog {
    /// Notes that a sign-in came to its end, by the hash of its nonce. Returns whether it is the first time. Those of before
    /// yesterday are forgotten.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn sign_in_finished(&self, nonce: &[u8]) -> Result<bool, CatalogError> {
        let sql = "WITH old AS (
                DELETE FROM catalog.finished_sign_in WHERE finished_at < now() - interval '1 day'
             )
             INSERT INTO catalog.finished_sign_in (nonce) VALUES ($1) ON CONFLICT (nonce) DO NOTHING";
        Ok(self.sessions.execute(sql, &[&nonce]).await? == 1)
    }

    /// What an account may do; `None` when it is no operator, one that was revoked, or another account's.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn operator_of(&self, account: &Account) -> Result<Option<Credential>, CatalogError> {
        let Account { issuer, subject, name, role, may_be_new } = account;
        let claimed = role.map(OperatorRole::as_str);
        let known = "WITH before AS (
                SELECT name, role FROM catalog.operator
                WHERE name = $1 AND revoked_at IS NULL AND (subject IS NULL OR issuer = $2 AND subject = $3) FOR UPDATE
             ), o AS (
                UPDATE catalog.operator o
                SET issuer = $2, subject = $3, role = CASE WHEN o.is_claimed THEN coalesce($4, o.role) ELSE o.role END
                FROM before WHERE o.name = before.name
                RETURNING o.name, o.role, o.scopes, before.role AS former
             ), j AS (
                INSERT INTO journal.line (action, detail)
                SELECT 'operator-put', jsonb_build_object('operator', name, 'role', role, 'issuer', $2::text)
                FROM o WHERE role <> former
             )
             SELECT role, scopes FROM o";
        let mut row = self.sessions.query_opt(known, &[name, issuer, subject, &claimed]).await?;
        if row.is_none() && *may_be_new && role.is_some() {
            let new = "WITH o AS (
                    INSERT INTO catalog.operator (name, role, issuer, subject, is_claimed) VALUES ($1, $4, $2, $3, true)
                    ON CONFLICT (name) DO NOTHING RETURNING name, role, scopes
                 ), j AS (
                    INSERT INTO journal.line (action, detail)
                    SELECT 'operator-put', jsonb_build_object('operator', name, 'role', role, 'issuer', $2::text) FROM o
                 )
                 SELECT role, scopes FROM o";
            row = self.sessions.query_opt(new, &[name, issuer, subject, &claimed]).await?;
        }
        let Some(row) = row else { return Ok(None) };
        let own: OperatorRole = row.try_get::<_, String>(0)?.parse()?;
        Ok(Some(Credential {
            operator: name.clone(),
            role: role.map_or(own, |claimed| claimed.min(own)),
            scopes: row.try_get::<_, Json<Scopes>>(1)?.0,
            by: format!("oidc {issuer}"),
        }))
    }
}
