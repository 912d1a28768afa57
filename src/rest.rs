//! The REST API of one tenant: a request becomes a plan, SQL, a transaction, and a response.
//!
//! [`Rest::serve`] shows the stages on one page; each is a file, and uses earlier ones only:
//! `request` (what is asked) -> `plan` (what that is in the schema) -> `sql` -> `execute` -> `response`. The first
//! three are pure. Beside them: `auth` (who asks), `cache` (the schema), `error` (what a refusal looks like).

mod auth;
mod cache;
mod error;
mod execute;
mod plan;
mod request;
mod response;
mod sql;
mod transaction;

pub use auth::check_jwt_secret;
pub use error::Error;
pub use transaction::Session;

use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use crate::pg::KeyRing;
use crate::pool::Pools;
use crate::tenant::Tenant;
use auth::{Caller, Keyring, Roles};
use cache::{Cache, Entry};
use execute::{Expect, Failure};
use request::{Accept, Request};
use sql::session::Settings;

/// The REST API of all tenants; a handle, cheap to clone.
#[derive(Clone)]
pub struct Rest {
    pools: Pools,
    keys: Keyring,
    cache: Cache,
}

impl Rest {
    /// Serves over these pools and accepts tokens signed with the tenants' keys from this ring.
    pub fn new(pools: Pools, keys: Arc<KeyRing>) -> Self {
        Self { pools, keys: Keyring::new(keys), cache: Cache::new() }
    }

    /// Forgets the tenant's schema, and that of its kin: the next request reads it again.
    pub async fn forget(&self, tenant: &Tenant) {
        self.cache.forget(tenant).await;
    }

    /// Answers one request. Its path starts after the tenant's base URL and `/rest/v1`.
    pub async fn serve(&self, tenant: &Arc<Tenant>, request: http::Request<Bytes>) -> http::Response<Bytes> {
        let head = request.method() == Method::HEAD;
        let (parts, body) = request.into_parts();
        let answer = self.answer(tenant, parts, body).await;
        let mut response = answer.unwrap_or_else(Error::into_response);
        if head {
            *response.body_mut() = Bytes::new();
        }
        response
    }

    async fn answer(
        &self,
        tenant: &Arc<Tenant>,
        parts: http::request::Parts,
        body: Bytes,
    ) -> Result<http::Response<Bytes>, Error> {
        let caller = self.caller(tenant, &parts.headers)?;
        let request = Request::parse(&parts, body, &tenant.api)?;
        let settings = Settings::new(tenant, &caller, &parts, &request.schema);
        let entry = self.cache.get(tenant, &self.pools).await?;
        match self.attempt(tenant, &request, &settings, &entry).await {
            Ok(response) => Ok(response),
            // Nothing was changed: the transaction was rolled back. Once more, with the schema as it is now.
            Err(failure) if failure.is_stale() || is_unknown(&failure) => {
                match self.cache.reload(tenant, &self.pools, &entry).await? {
                    Some(newer) => self.attempt(tenant, &request, &settings, &newer).await,
                    // The same schema: only what the connection remembered can have been wrong.
                    None if failure.is_remembered() => {
                        self.attempt(tenant, &request, &settings, &entry).await
                    }
                    None => Err(failure),
                }
            }
            Err(failure) => Err(failure),
        }
        .map_err(|failure| refusal(failure, &caller))
    }

    fn caller(&self, tenant: &Tenant, headers: &http::HeaderMap) -> Result<Caller, Error> {
        let roles = if tenant.is_adopted() { Roles::Servers } else { Roles::Listed };
        let keys = self.keys.get(tenant, &tenant.api);
        auth::authenticate(headers, &tenant.api, &keys.keys, roles)
    }

    /// The stages after the first, with one schema.
    async fn attempt(
        &self,
        tenant: &Arc<Tenant>,
        request: &Request,
        settings: &Settings,
        entry: &Entry,
    ) -> Result<http::Response<Bytes>, Failure> {
        let plan = plan::Plan::new(request, &entry.schema).map_err(Failure::Refused)?;
        let outcome = match sql::build(&plan, request, tenant.api.max_rows(&tenant.limits)) {
            Some(statement) => {
                let checkout = self.pools.checkout(tenant).await.map_err(|e| Failure::Refused(e.into()))?;
                execute::run(checkout, settings, &statement, expect(&plan, request)).await?
            }
            None => execute::Outcome::default(),
        };
        response::build(&plan, request, outcome, &entry.schema).map_err(Failure::Refused)
    }

    /// Opens a transaction for a handler of one's own, with the role and the claims of the request's token.
    ///
    /// # Errors
    /// 401 and 403 as the REST API gives them, 503 when no connection can be had.
    pub async fn begin(&self, tenant: &Arc<Tenant>, parts: &http::request::Parts) -> Result<Session, Error> {
        let caller = self.caller(tenant, &parts.headers)?;
        let namespace = tenant.api.db_schemas.first().map_or("public", String::as_str);
        let settings = Settings::new(tenant, &caller, parts, namespace);
        let checkout = self.pools.checkout(tenant).await?;
        Session::begin(checkout, caller, settings).await
    }
}

/// What the caller relies on; checked before COMMIT where something was changed or may have been.
fn expect(plan: &plan::Plan<'_>, request: &Request) -> Expect {
    let changes = matches!(plan, plan::Plan::Update { .. } | plan::Plan::Delete(_));
    Expect {
        one: request.accept == Accept::Object && !plan.gives_one_value(),
        at_most: request.prefer.max_affected.filter(|_| changes),
    }
}

/// Names that the schema does not have may have been made a moment ago.
fn is_unknown(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(error) if matches!(error.code(), "PGRST202" | "PGRST204" | "PGRST205"))
}

fn refusal(failure: Failure, caller: &Caller) -> Error {
    match failure {
        Failure::Postgres(error) => Error::from_postgres(&error, caller.anonymous),
        Failure::Refused(error) => error,
    }
}
