//! What adopted databases say about settings: read without their schemas, so that a request is judged before those are.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::auth::check_jwt_secret;
use super::super::error::{Code, Error};
use crate::pg::wire::Connection;
use crate::policy::{InDatabase, Invalid};
use crate::schema::{self, SchemaError};
use crate::tenant::Tenant;

/// How soon settings that close an API are looked at again.
const CLOSED_INTERVAL: Duration = Duration::from_secs(1);

/// What an adopted database says about settings.
#[derive(Debug)]
pub(in crate::rest) struct InDatabaseSettings {
    /// Of the login that was asked as: another one has others.
    generation: i32,
    read: Instant,
    /// In-database configuration, by name.
    values: BTreeMap<String, String>,
    /// Names of those that can't be obeyed.
    refused: Vec<String>,
    /// A tenant as the directory has it, and with in-database configuration on top.
    joined: Mutex<Option<(Arc<Tenant>, Arc<Tenant>)>>,
    /// By role, what `ALTER ROLE … SET` gave it.
    pub(in crate::rest) roles: HashMap<String, BTreeMap<String, String>>,
}

impl InDatabaseSettings {
    /// Asks as the tenant's login. Outside a transaction, or as the first in one.
    /// What is amiss is logged, unless `former` had it too.
    pub(super) async fn ask(
        tenant: &Tenant,
        wire: &mut Connection,
        former: Option<&Self>,
    ) -> Result<Self, SchemaError> {
        let values = schema::in_database_settings(wire).await?;
        let roles = schema::role_settings(wire).await?;
        let found = tenant.api.with_in_database(&values);
        let why = refused(&found);
        let is_known = |name: &String| former.is_some_and(|former| former.refused.contains(name));
        for (name, invalid) in why.iter().filter(|(name, _)| !is_known(name)) {
            tracing::warn!(
                tenant.id = %tenant.id,
                setting = name,
                "in-database configuration of tenant {}: {invalid}; its API is closed until that is mended",
                tenant.slug
            );
        }
        Ok(Self {
            generation: tenant.generation,
            read: Instant::now(),
            values,
            refused: why.into_iter().map(|(name, _)| name).collect(),
            joined: Mutex::default(),
            roles,
        })
    }

    /// The tenant with in-database configuration on top. Made again when an operator changed the tenant.
    ///
    /// # Errors
    /// 503 where a setting can't be obeyed.
    pub(in crate::rest) fn applied_to(&self, tenant: &Arc<Tenant>) -> Result<Arc<Tenant>, Error> {
        if !self.refused.is_empty() {
            return Err(closed(&self.refused));
        }
        if self.values.is_empty() {
            return Ok(Arc::clone(tenant));
        }
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, over)) = joined.as_ref().filter(|(base, _)| Arc::ptr_eq(base, tenant)) {
            return Ok(Arc::clone(over));
        }
        let over = Arc::new(tenant.with_api(tenant.api.with_in_database(&self.values).api));
        *joined = Some((Arc::clone(tenant), Arc::clone(&over)));
        Ok(over)
    }

    /// Whether they were read by the login that the tenant has now, and need not be read again at once.
    pub(super) fn holds_for(&self, tenant: &Tenant) -> bool {
        self.generation == tenant.generation
            && (self.refused.is_empty() || self.read.elapsed() < CLOSED_INTERVAL)
    }
}

/// Also those whose text is right, but not what it stands for.
fn refused(found: &InDatabase) -> Vec<(String, Invalid)> {
    let mut refused = found.refused.clone();
    if let Some(secret) = &found.api.jwt_secret
        && let Err(invalid) = check_jwt_secret(secret, found.api.jwt_secret_is_base64)
    {
        refused.push(("pgrst.jwt_secret".to_owned(), invalid));
    }
    refused
}

fn closed(names: &[String]) -> Error {
    let message = "This API is closed: its database has settings that can't be obeyed";
    Error::new(Code::InDatabaseSettings, message)
        .with_details(names.join(", "))
        .with_hint("the operator's log says why; mend or RESET them")
}
