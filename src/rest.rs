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

pub use error::Error;
pub use transaction::Session;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method};

use crate::pg::KeyRing;
use crate::pool::Pools;
use crate::tenant::Tenant;
use auth::Caller;
use cache::{Cache, Entry};
use execute::{Expect, Failure, Job, Outcome};
use plan::{Plan, Query, Source};
use request::media::Media;
use request::prefer::Count;
use request::{Action, Change, Request};
use sql::session::Settings;

/// The REST API of all tenants; a handle, cheap to clone.
#[derive(Clone)]
pub struct Rest {
    pools: Pools,
    keys: Arc<KeyRing>,
    cache: Cache,
}

impl Rest {
    /// Serves over these pools and accepts tokens signed with the tenants' keys from this ring.
    pub fn new(pools: Pools, keys: Arc<KeyRing>) -> Self {
        Self { pools, keys, cache: Cache::new() }
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
        let mut timing = Timing::new();
        let caller = auth::authenticate(&parts.headers, &tenant.api, &self.keys.jwt_keys(tenant))?;
        timing.lap("jwt");
        let request = Request::parse(&parts, body, &tenant.api)?;
        timing.lap("parse");
        let settings = Settings::new(tenant, &caller, &parts, &request.schema);
        let entry = self.cache.get(tenant, &self.pools).await?;
        let mut response = match self.attempt(tenant, &request, &settings, &entry, &mut timing).await {
            Ok(response) => Ok(response),
            // Nothing was changed: the transaction was rolled back. Once more, with the schema as it is now.
            Err(failure) if failure.is_stale() || is_unknown(&failure) => {
                match self.cache.reload(tenant, &self.pools, &entry).await? {
                    Some(newer) => self.attempt(tenant, &request, &settings, &newer, &mut timing).await,
                    // The same schema: only what the connection remembered can have been wrong.
                    None if failure.is_remembered() => {
                        self.attempt(tenant, &request, &settings, &entry, &mut timing).await
                    }
                    None => Err(failure),
                }
            }
            Err(failure) => Err(failure),
        }
        .map_err(|failure| refusal(failure, &caller))?;
        if tenant.api.server_timing_enabled {
            timing.lap("response");
            response.headers_mut().insert("server-timing", timing.header()?);
        }
        Ok(response)
    }

    /// The stages after the first, with one schema.
    async fn attempt(
        &self,
        tenant: &Arc<Tenant>,
        request: &Request,
        settings: &Settings,
        entry: &Entry,
        timing: &mut Timing,
    ) -> Result<http::Response<Bytes>, Failure> {
        let max_rows = tenant.api.max_rows(&tenant.limits);
        let plan = Plan::new(request, &entry.schema, &tenant.api, &tenant.limits).map_err(Failure::Refused)?;
        timing.lap("plan");
        let response = match &plan {
            Plan::Info(methods) => response::info(methods),
            Plan::Document => response::document(request, Bytes::new()),
            Plan::Query(query) => {
                let job = job(tenant, request, query, max_rows);
                let outcome = self.run(tenant, settings, &job).await?;
                timing.lap("transaction");
                response::build(query, request, outcome, max_rows)
            }
        };
        response.map_err(Failure::Refused)
    }

    async fn run(&self, tenant: &Arc<Tenant>, settings: &Settings, job: &Job) -> Result<Outcome, Failure> {
        let checkout = self.pools.checkout(tenant).await.map_err(|e| Failure::Refused(e.into()))?;
        execute::run(checkout, settings, job).await
    }

    /// Opens a transaction for a handler of one's own, with the role and the claims of the request's token.
    ///
    /// # Errors
    /// 401 and 403 as the REST API gives them, 503 when no connection can be had.
    pub async fn begin(&self, tenant: &Arc<Tenant>, parts: &http::request::Parts) -> Result<Session, Error> {
        let caller = auth::authenticate(&parts.headers, &tenant.api, &self.keys.jwt_keys(tenant))?;
        let namespace = tenant.api.db_schemas.first().map_or("public", String::as_str);
        let settings = Settings::new(tenant, &caller, parts, namespace);
        let checkout = self.pools.checkout(tenant).await?;
        Session::begin(checkout, caller, settings).await
    }
}

/// What is sent to the database, and what must come back.
fn job(tenant: &Tenant, request: &Request, query: &Query<'_>, max_rows: Option<u64>) -> Job {
    let prefer = &request.prefer;
    let reads = matches!(query.source, Source::Read);
    let estimated = matches!(prefer.count, Some(Count::Planned | Count::Estimated)) && reads;
    let change = match &request.action {
        Action::Change(_, change) => Some(*change),
        _ => None,
    };
    let limited = matches!(change, Some(Change::Update | Change::Delete)) || matches!(request.action, Action::Call(..));
    let lines = matches!(query.media, Media::Plan(_));
    let expect = Expect {
        one: matches!(query.media, Media::Object { .. }) && change != Some(Change::Put),
        put: change == Some(Change::Put) && !lines,
        at_most: prefer.at_most().filter(|_| limited && !lines),
    };
    let mut own: Vec<(String, String)> = Vec::new();
    if let Some(zone) = query.timezone {
        own.push(("timezone".into(), zone.into()));
    }
    if let Source::Call(_, routine) = &query.source {
        let hoisted = |(name, _): &&(String, String)| tenant.api.db_hoisted_tx_settings.contains(name);
        own.extend(routine.settings.iter().filter(hoisted).cloned());
    }
    Job {
        settings: sql::settings(&own),
        before: tenant.api.db_pre_request.as_ref().map(sql::before),
        main: sql::main(query, prefer.count, max_rows),
        lines,
        estimate: estimated.then(|| sql::estimate(query)),
        writes: query.writes,
        isolation: None,
        rolls_back: prefer.rollback.unwrap_or(tenant.api.db_tx_end.rolls_back()),
        expect,
    }
}

/// How long the stages took, for `Server-Timing`.
struct Timing {
    last: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Timing {
    fn new() -> Self {
        Self { last: Instant::now(), laps: Vec::with_capacity(5) }
    }

    fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        // A stage that ran twice counts once, with its last time.
        self.laps.retain(|(lap, _)| *lap != name);
        self.laps.push((name, now - self.last));
        self.last = now;
    }

    fn header(&self) -> Result<HeaderValue, Error> {
        let lap = |(name, time): &(&str, Duration)| format!("{name};dur={:.1}", time.as_secs_f64() * 1000.0);
        let text = self.laps.iter().map(lap).collect::<Vec<_>>().join(", ");
        HeaderValue::from_str(&text).map_err(|_| Error::internal("times are no header"))
    }
}

/// Names that the schema does not have may have been made a moment ago.
fn is_unknown(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(error) if matches!(error.code(), "PGRST200" | "PGRST202" | "PGRST204" | "PGRST205"))
}

fn refusal(failure: Failure, caller: &Caller) -> Error {
    match failure {
        Failure::Postgres(error) => Error::from_postgres(&error, caller.anonymous),
        Failure::Refused(error) => error,
    }
}
