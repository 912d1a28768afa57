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
mod root;
mod sql;
mod transaction;

pub use auth::check_jwt_secret;
pub use error::{Code, Error};
pub use root::Root;
pub use transaction::Session;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method};

use crate::policy::OpenApiMode;
use crate::pool::Pools;
use crate::telemetry::{Metrics, Stage};
use crate::tenant::Tenant;
use crate::vault::KeyRing;
use auth::{Caller, Keyring, Roles};
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
    keys: Keyring,
    cache: Cache,
    metrics: Metrics,
}

impl Rest {
    /// Serves over these pools and accepts tokens signed with the tenants' keys from this ring.
    pub fn new(pools: Pools, keys: Arc<KeyRing>, metrics: Metrics) -> Self {
        Self { pools, keys: Keyring::new(keys), cache: Cache::new(metrics.clone()), metrics }
    }

    /// Forgets the tenant's schema, and that of its kin: the next request reads it again.
    pub async fn forget(&self, tenant: &Tenant) {
        self.cache.forget(tenant).await;
    }

    /// Answers one request. Its path starts after the tenant's base URL and `/rest/v1`.
    pub async fn serve(&self, tenant: &Arc<Tenant>, request: http::Request<Bytes>) -> http::Response<Bytes> {
        let head = request.method() == Method::HEAD;
        let (parts, body) = request.into_parts();
        // Boxed, as are the seldom parts inside: its state is large, and would be moved with every future around it.
        let answer = Box::pin(self.answer(tenant, parts, body)).await;
        let mut response = answer.unwrap_or_else(Error::into_response);
        if head {
            *response.body_mut() = Bytes::new();
        }
        response
    }

    async fn answer(
        &self,
        tenant: &Arc<Tenant>,
        parts: Parts,
        body: Bytes,
    ) -> Result<http::Response<Bytes>, Error> {
        // An adopted database may say itself how its API is exposed.
        let known = if tenant.is_adopted() { Some(self.cache.get(tenant, &self.pools).await?) } else { None };
        let configured = known.as_ref().and_then(|entry| entry.configured.as_ref());
        let over = configured.map(|configured| configured.over(tenant));
        let tenant = over.as_ref().unwrap_or(tenant);
        let mut timing = Timing::new(tenant.api.server_timing_enabled);
        let caller = self.caller(tenant, &parts.headers)?;
        timing.lap("jwt");
        let (parts, request) = parse(parts, body, tenant).await?;
        timing.lap("parse");
        let mut settings = Settings::new(tenant, &caller, &parts, &request.schema);
        if let Some(own) = configured.and_then(|configured| configured.roles.get(&caller.role)) {
            settings = settings.with_role_settings(tenant, own);
        }
        let entry = match known.clone() {
            Some(entry) => entry,
            None => self.cache.get(tenant, &self.pools).await?,
        };
        let mut response =
            match self.attempt(tenant, &request, &settings, &entry, false, &mut timing).await {
                Err(failure) if is_worth_another(&failure) => {
                    Box::pin(self.again(tenant, &request, &settings, &entry, failure, &mut timing)).await
                }
                first => first,
            }
            .map_err(|failure| refusal(failure, &caller))?;
        if tenant.api.server_timing_enabled {
            timing.lap("response");
            response.headers_mut().insert("server-timing", timing.header()?);
        }
        Ok(response)
    }

    /// Once more, and only once. Nothing was changed: the transaction was rolled back.
    async fn again(
        &self,
        tenant: &Arc<Tenant>,
        request: &Request,
        settings: &Settings<'_>,
        entry: &Entry,
        failure: Failure,
        timing: &mut Timing,
    ) -> Result<http::Response<Bytes>, Failure> {
        if failure.is_stale() || is_unknown(&failure) {
            let reload = self.cache.reload(tenant, &self.pools, entry).await;
            match reload.map_err(Failure::Refused)? {
                Some(newer) => return self.attempt(tenant, request, settings, &newer, true, timing).await,
                // The same schema: only what the connection remembered can have been wrong.
                None if failure.is_remembered() || failure.wants_settings() => {}
                None => return Err(failure),
            }
        }
        self.attempt(tenant, request, settings, entry, true, timing).await
    }

    fn caller(&self, tenant: &Tenant, headers: &http::HeaderMap) -> Result<Caller, Error> {
        let roles = if tenant.is_adopted() { Roles::Servers } else { Roles::Listed };
        auth::authenticate(headers, &tenant.api, || self.keys.get(tenant, &tenant.api), roles)
    }

    /// The stages after the first, with one schema. `fresh`: without statements of earlier requests.
    async fn attempt(
        &self,
        tenant: &Arc<Tenant>,
        request: &Request,
        settings: &Settings<'_>,
        entry: &Entry,
        fresh: bool,
        timing: &mut Timing,
    ) -> Result<http::Response<Bytes>, Failure> {
        let max_rows = tenant.api.max_rows(&tenant.limits);
        let plan =
            Plan::new(request, &entry.schema, &tenant.api, &tenant.limits).map_err(Failure::Refused)?;
        timing.lap("plan");
        let response = match &plan {
            Plan::Info(methods) => response::info(methods),
            Plan::Document => {
                let outcome = self.run(tenant, settings, &document_job(tenant, request)).await?;
                timing.lap("transaction");
                response::document(request, &entry.schema, &tenant.api, &outcome)
            }
            Plan::Query(query) => {
                let settings = own_settings(tenant, settings, query);
                let job = job(tenant, request, query, &settings, fresh);
                let outcome = self.run(tenant, &settings, &job).await?;
                timing.lap("transaction");
                response::build(query, request, outcome, max_rows)
            }
        };
        response.map_err(Failure::Refused)
    }

    async fn run(
        &self,
        tenant: &Arc<Tenant>,
        settings: &Settings<'_>,
        job: &Job,
    ) -> Result<Outcome, Failure> {
        let begun = Instant::now();
        let checkout = self.pools.checkout(tenant).await.map_err(|e| Failure::Refused(e.into()))?;
        let ready = Instant::now();
        self.metrics.stage(Stage::Checkout, ready - begun);
        let outcome = execute::run(checkout, settings, job).await;
        self.metrics.stage(Stage::Execute, ready.elapsed());
        outcome
    }

    /// Opens a transaction for a handler of one's own, with the role and the claims of the request's token.
    ///
    /// # Errors
    /// 401 and 403 as the REST API gives them, 503 when no connection can be had.
    pub async fn begin(&self, tenant: &Arc<Tenant>, parts: &Parts) -> Result<Session, Error> {
        let caller = self.caller(tenant, &parts.headers)?;
        let checkout = self.pools.checkout(tenant).await?;
        Session::begin(checkout, caller, tenant, parts).await
    }
}

/// Longest body that is read where other requests are served too: some tenths of a millisecond.
const SHORT: usize = 64 * 1024;

/// The request; its head is given back. A long body is read beside the threads that serve the others.
async fn parse(parts: Parts, body: Bytes, tenant: &Arc<Tenant>) -> Result<(Parts, Request), Error> {
    if body.len() <= SHORT {
        let request = Request::parse(&parts, body, &tenant.api)?;
        return Ok((parts, request));
    }
    let tenant = Arc::clone(tenant);
    let parse = move || Request::parse(&parts, body, &tenant.api).map(|request| (parts, request));
    tokio::task::spawn_blocking(parse).await.map_err(|_| Error::internal("the body could not be read"))?
}

/// The settings with what this question wants besides.
fn own_settings<'a, 's>(
    tenant: &Tenant,
    settings: &'a Settings<'s>,
    query: &Query<'_>,
) -> Cow<'a, Settings<'s>> {
    let mut settings = Cow::Borrowed(settings);
    if let Source::Call(_, routine) = &query.source
        && !routine.settings.is_empty()
    {
        settings = Cow::Owned(settings.into_owned().with_routine_settings(tenant, &routine.settings));
    }
    match query.timezone {
        Some(zone) => Cow::Owned(settings.into_owned().with_timezone(zone)),
        None => settings,
    }
}

/// What is sent to the database, and what must come back.
fn job(tenant: &Tenant, request: &Request, query: &Query<'_>, settings: &Settings<'_>, fresh: bool) -> Job {
    let prefer = &request.prefer;
    let reads = matches!(query.source, Source::Read);
    let estimated = matches!(prefer.count, Some(Count::Planned | Count::Estimated)) && reads;
    let change = match &request.action {
        Action::Change(_, change) => Some(*change),
        _ => None,
    };
    let limited =
        matches!(change, Some(Change::Update | Change::Delete)) || matches!(request.action, Action::Call(..));
    let lines = matches!(query.media, Media::Plan(_));
    let expect = Expect {
        one: matches!(query.media, Media::Object { .. }) && change != Some(Change::Put),
        put: change == Some(Change::Put) && !lines,
        at_most: prefer.at_most().filter(|_| limited && !lines),
    };
    let rolls_back = prefer.rollback.unwrap_or(tenant.api.db_tx_end.rolls_back());
    // What nobody asked to be sure of, and what no earlier request has shown to be wrong.
    // An estimate plans anew what may be another's by then: it needs the reset.
    let plain = query.plain.as_deref().filter(|_| !fresh && !rolls_back && !estimated && settings.is_plain());
    Job {
        before: tenant.api.db_pre_request.as_ref().map(sql::before),
        plain: plain.is_some(),
        main: sql::main(query, prefer.count, tenant.api.max_rows(&tenant.limits), plain),
        lines,
        estimate: estimated.then(|| sql::estimate(query)),
        writes: query.writes,
        rolls_back,
        expect,
        fresh,
    }
}

/// What the document at the root needs of the database. The pre-request function and the caller's role have their say
/// even where nothing is asked.
fn document_job(tenant: &Tenant, request: &Request) -> Job {
    let follows = tenant.api.openapi_mode == OpenApiMode::FollowPrivileges && !request.head;
    Job {
        before: tenant.api.db_pre_request.as_ref().map(sql::before),
        plain: false,
        main: if follows { sql::document::privileges(&request.schema) } else { sql::document::nothing() },
        lines: false,
        estimate: None,
        writes: false,
        rolls_back: false,
        expect: Expect::default(),
        fresh: false,
    }
}

/// How long the stages took, for `Server-Timing`.
struct Timing {
    last: Instant,
    /// `None` where nobody wants to know.
    laps: Option<Vec<(&'static str, Duration)>>,
}

impl Timing {
    fn new(wanted: bool) -> Self {
        Self { last: Instant::now(), laps: wanted.then(Vec::new) }
    }

    fn lap(&mut self, name: &'static str) {
        let Some(laps) = &mut self.laps else { return };
        let now = Instant::now();
        // A stage that ran twice counts once, with its last time.
        laps.retain(|(lap, _)| *lap != name);
        laps.push((name, now - self.last));
        self.last = now;
    }

    fn header(&self) -> Result<HeaderValue, Error> {
        let lap = |(name, time): &(&str, Duration)| format!("{name};dur={:.1}", time.as_secs_f64() * 1000.0);
        let text = self.laps.iter().flatten().map(lap).collect::<Vec<_>>().join(", ");
        HeaderValue::from_str(&text).map_err(|_| Error::internal("times are no header"))
    }
}

/// Whether the same request may do better: with the schema as it is now, with statements prepared anew, with all
/// settings, or after those it stood in a deadlock with.
fn is_worth_another(failure: &Failure) -> bool {
    failure.is_stale()
        || is_unknown(failure)
        || failure.is_remembered()
        || failure.wants_settings()
        || failure.is_deadlock()
}

/// Names that the schema does not have may have been made a moment ago.
fn is_unknown(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(error) if matches!(error.code(), "PGRST200" | "PGRST202" | "PGRST204" | "PGRST205"))
}

fn refusal(failure: Failure, caller: &Caller) -> Error {
    match failure {
        Failure::Postgres(error) | Failure::Remembered(error) | Failure::Plain { error, .. } => {
            Error::from_postgres(&error, caller.anonymous)
        }
        Failure::Changed => Error::internal("a relation changed while it was read"),
        Failure::Refused(error) => error,
    }
}
