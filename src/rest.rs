//! The REST API of one tenant: a request becomes a plan, SQL, a transaction, and a response.
//!
//! [`Rest::serve`] shows the stages on one page; each is a file, and uses earlier ones only:
//! `request` (what is asked) -> `plan` (what that is in the schema) -> `sql` -> `execute` -> `response`. The first three
//! are pure, and `offload` takes the long ones beside the threads that serve requests. Beside them: `auth` (who asks),
//! `cache` (the schema), `context` (what a request brings to its transaction), `body` (how an answer reaches the client),
//! `documents` (the answers at the root), `disk` (what a full database may still do), `error` (what a refusal looks like).

mod auth;
mod body;
mod cache;
mod context;
mod disk;
mod documents;
mod error;
mod execute;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod head;
mod offload;
mod plan;
mod planned;
mod renewal;
mod request;
mod response;
mod root;
mod sql;
mod timing;
mod transaction;

pub use auth::{IssuerKeys, check_jwt_secret, sign_token};
pub use body::{Body, CutOff};
pub use cache::{Loading, SharedSchemas};
pub use context::DatabaseTrace;
pub use error::{Code, Documentation, Error};
pub use root::{BasePath, Root};
pub use transaction::Session;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http::request::Parts;

use crate::pg::wire::Names;
use crate::pg::wire::ServerError;
use crate::policy::OpenApiMode;
use crate::pool::Pools;
use crate::settings::ClientSettings;
use crate::telemetry::{Metrics, Stage};
use crate::tenant::{Tenant, TenantId};
use crate::vault::KeyRing;
use auth::{Caller, Keyring, Roles};
use cache::{Cache, Entry, InDatabaseSettings};
use context::{Access, RequestContext};
use documents::{Documents, MAX_PRIVILEGES};
use execute::{Ending, Expect, Failure, Job, Outcome, Output, Remedy};
use offload::Offload;
use plan::{Plan, Query, Source};
use planned::{Origins, Planned};
use renewal::Renewals;
use request::media::Media;
use request::prefer::Count;
use request::{Action, Change, Request};
use timing::Timing;

/// The REST API of all tenants; a handle, cheap to clone.
#[derive(Clone)]
pub struct Rest {
    pools: Pools,
    keys: Keyring,
    cache: Cache,
    metrics: Metrics,
    budget: body::Budget,
    offload: Offload,
    documents: Documents,
    pace: body::Pace,
    renewals: Renewals,
}

impl Rest {
    /// Serves over these pools and accepts tokens signed with the tenants' keys from this ring.
    /// The schemas of lineages come from `schemas`; without it every tenant's own is read.
    pub fn new(
        pools: Pools,
        keys: Arc<KeyRing>,
        schemas: Option<Arc<dyn SharedSchemas>>,
        metrics: Metrics,
        clients: &ClientSettings,
    ) -> Self {
        let offload = Offload::default();
        Self {
            pools,
            keys: Keyring::new(keys),
            cache: Cache::new(schemas, metrics.clone()),
            metrics,
            budget: body::Budget::new(clients.max_buffered),
            pace: body::Pace { stall: clients.stall_timeout, min_rate: clients.min_rate },
            documents: Documents::new(offload.clone()),
            offload,
            renewals: Renewals::default(),
        }
    }

    /// Wants the tenant's own schema read again. Until then what is in use serves; then that is used for it alone.
    pub async fn forget(&self, tenant: &Tenant) {
        self.cache.forget(tenant).await;
    }

    /// Looks whether the tenant's own database has changed since its schema was read, and reads it again if it has. Gives how
    /// long to wait and then to ask once more, where a look came too early or another is under way.
    pub async fn look(&self, tenant: &Arc<Tenant>) -> Option<Duration> {
        self.cache.look_again(tenant, &self.pools).await
    }

    /// Forgets a tenant that left.
    pub fn remove(&self, tenant: &TenantId) {
        self.budget.forget(tenant);
    }

    /// Answers one request. Its path starts after the tenant's base URL and `/rest/v1`. Its body is not read before all is
    /// known that the head alone decides.
    pub async fn serve<B>(&self, tenant: &Arc<Tenant>, request: http::Request<B>) -> http::Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let head = request.method() == Method::HEAD;
        let (parts, body) = request.into_parts();
        // Boxed, as are the seldom parts inside: its state is large, and would be moved with every future around it.
        let answer = Box::pin(self.answer(tenant, parts, body)).await;
        let mut response = answer.unwrap_or_else(|error| error.into_response().map(Body::from));
        if head {
            *response.body_mut() = Body::empty();
        }
        response
    }

    async fn answer<B>(
        &self,
        tenant: &Arc<Tenant>,
        parts: Parts,
        body: B,
    ) -> Result<http::Response<Body>, Error>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        // An adopted database may say itself how its API is exposed, and who may ask. Its schema is not read for others.
        let configured = self.cache.configured(tenant, &self.pools).await?;
        let (known, over) = (tenant, configured.as_ref().map(|settings| settings.applied_to(tenant)));
        let over = over.transpose()?;
        let tenant = over.as_ref().unwrap_or(tenant);
        let answer = self.answer_with(tenant, known, configured.as_deref(), parts, body).await;
        answer.map_err(|error| error.with_verbosity(tenant.api.client_error_verbosity))
    }

    /// Answers with the settings that hold; `known` is the tenant as the directory has it, without what its database says.
    async fn answer_with<B>(
        &self,
        tenant: &Arc<Tenant>,
        known: &Arc<Tenant>,
        configured: Option<&InDatabaseSettings>,
        parts: Parts,
        body: B,
    ) -> Result<http::Response<Body>, Error>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let mut timing = Timing::new(tenant.api.server_timing_enabled, &parts);
        let caller = self.caller(tenant, &parts.headers)?;
        timing.lap("jwt");
        context::note_role(&parts, &caller);
        let share = self.budget.of(&tenant.id);
        if share.is_used_up() {
            return Err(body::full());
        }
        // Kept to the end, as the body is.
        let (body, mut room) = if body.is_end_stream() {
            (Bytes::new(), None)
        } else {
            Request::check(&parts, &tenant.api)?;
            let (body, room) = Box::pin(body::read(body, &share, self.pace, tenant.limits.max_body)).await?;
            (body, Some(room))
        };
        let (parts, request) = self.parse(parts, body, tenant).await?;
        if let (Some(room), Some(payload)) = (&mut room, &request.payload) {
            body::becomes(room, payload.bytes())?;
        }
        let request = Arc::new(request);
        timing.lap("parse");
        let mut context = RequestContext::new(tenant, &caller, &parts, &request.schema);
        if let Some(own) = configured.and_then(|configured| configured.roles.get(&caller.role)) {
            context = context.with_role_settings(tenant, own);
        }
        let entry = self.cache.get(known, &self.pools).await?;
        let first = self.attempt(tenant, &request, &context, &entry, Names::Kept, &mut timing).await;
        let mut response = match first {
            Err(failure) => {
                let asked = (known, tenant, &request, &context);
                Box::pin(self.again(asked, &entry, failure, &mut timing)).await
            }
            first => first,
        }
        .map_err(|failure| refusal(failure, &caller))?;
        timing.lap("response");
        if tenant.api.server_timing_enabled {
            response.headers_mut().insert("server-timing", timing.header()?);
        }
        Ok(response)
    }

    /// Once more, where that may help, and only once. Nothing was changed: the transaction was undone.
    async fn again(
        &self,
        (known, tenant, request, context): (&Arc<Tenant>, &Arc<Tenant>, &Arc<Request>, &RequestContext<'_>),
        entry: &Arc<Entry>,
        failure: Failure,
        timing: &mut Timing,
    ) -> Result<http::Response<Body>, Failure> {
        let remedy = execute::remedy(&failure);
        let newer = match remedy {
            Remedy::Nothing => return Err(failure),
            Remedy::Again => None,
            Remedy::Session | Remedy::Elsewhere => {
                self.renewals.renew(&tenant.id, &self.pools);
                None
            }
            Remedy::Schema | Remedy::SchemaOrAgain => {
                self.cache.reload(known, &self.pools, entry).await.map_err(Failure::Unexpected)?
            }
        };
        if newer.is_none() && remedy == Remedy::Schema {
            return Err(failure);
        }
        let entry = newer.as_ref().unwrap_or(entry);
        self.attempt(tenant, request, context, entry, Names::None, timing).await
    }

    /// The request; its head is given back.
    async fn parse(
        &self,
        parts: Parts,
        body: Bytes,
        tenant: &Arc<Tenant>,
    ) -> Result<(Parts, Request), Error> {
        if body.len() <= SHORT_BODY && parts.uri.query().map_or(0, str::len) <= SHORT_QUERY {
            let request = Request::parse(&parts, body, &tenant.api)?;
            return Ok((parts, request));
        }
        let own = Arc::clone(tenant);
        let parse = move || Request::parse(&parts, body, &own.api).map(|request| (parts, request));
        Box::pin(self.offload.run(&tenant.id, parse)).await?
    }

    fn caller(&self, tenant: &Tenant, headers: &http::HeaderMap) -> Result<Caller, Error> {
        let roles = if tenant.is_adopted() { Roles::Servers } else { Roles::Listed };
        auth::authenticate(headers, &tenant.api, || self.keys.get(tenant, &tenant.api), roles)
    }

    /// The stages after the first, with one schema.
    async fn attempt(
        &self,
        tenant: &Arc<Tenant>,
        request: &Arc<Request>,
        context: &RequestContext<'_>,
        entry: &Arc<Entry>,
        names: Names,
        timing: &mut Timing,
    ) -> Result<http::Response<Body>, Failure> {
        let max_rows = tenant.api.max_rows(&tenant.limits);
        let (here, beside);
        let (plan, long) = if plan::is_long(request, &entry.schema) {
            let job;
            (beside, job) = Box::pin(self.plan_long(tenant, request, entry, names)).await?;
            (beside.plan(), job)
        } else {
            let made = Plan::new(request, &entry.schema, &tenant.api, &tenant.limits);
            here = made.map_err(Failure::Unexpected)?;
            (&here, None)
        };
        timing.lap("plan");
        let response = match plan {
            Plan::Info(methods) => response::info(methods),
            Plan::Document => {
                let question = Box::pin(self.documents.question(&tenant.id)).await;
                let outcome = self.run(tenant, context, &document_job(tenant, request)).await;
                drop(question);
                let outcome = outcome.map_err(|failure| match failure {
                    Failure::TooLong => Failure::Unexpected(documents::too_long()),
                    other => other,
                })?;
                timing.lap(timing::TRANSACTION);
                // Boxed as the other seldom parts are.
                let document = match request.head {
                    true => Ok(None),
                    false => {
                        Box::pin(self.documents.get(tenant, request, &entry.schema, &outcome)).await.map(Some)
                    }
                };
                document.and_then(|document| response::document(request, document))
            }
            Plan::Query(query) => {
                let context = own_context(tenant, context, query);
                let mut job = long.unwrap_or_else(|| job(tenant, request, query, names));
                let room = self.pools.disk().enter(tenant);
                disk::limit(&mut job, &query.source, room)?;
                let outcome = self.run(tenant, &context, &job).await;
                let outcome = outcome.map_err(|failure| disk::explained(failure, room))?;
                timing.lap(timing::TRANSACTION);
                response::build(query, request, outcome, max_rows)
            }
        };
        let share = self.budget.of(&tenant.id);
        Ok(response.map_err(Failure::Unexpected)?.map(|answered| answered.start(&share)))
    }

    /// Plan and statements, made beside the threads that serve requests.
    async fn plan_long(
        &self,
        tenant: &Arc<Tenant>,
        request: &Arc<Request>,
        entry: &Arc<Entry>,
        names: Names,
    ) -> Result<(Planned, Option<Job>), Failure> {
        let (tenant, request) = (Arc::clone(tenant), Arc::clone(request));
        let origins =
            Origins { tenant: Arc::clone(&tenant), request: Arc::clone(&request), entry: Arc::clone(entry) };
        let id = tenant.id.clone();
        let make = move || {
            let planned = Planned::make(origins)?;
            let job = match planned.plan() {
                Plan::Query(query) => Some(job(&tenant, &request, query, names)),
                Plan::Document | Plan::Info(_) => None,
            };
            Ok((planned, job))
        };
        self.offload.run(&id, make).await.and_then(|made| made).map_err(Failure::Unexpected)
    }

    async fn run(
        &self,
        tenant: &Arc<Tenant>,
        context: &RequestContext<'_>,
        job: &Job,
    ) -> Result<Outcome, Failure> {
        let (begun, notes) = (Instant::now(), context.notes());
        notes.begin(Stage::Checkout);
        let checkout = self.pools.checkout(tenant).await.map_err(|e| Failure::Unexpected(e.into()))?;
        let ready = Instant::now();
        self.metrics.stage(Stage::Checkout, ready - begun);
        notes.begin(Stage::Execute);
        let share = self.budget.of(&tenant.id);
        if share.is_used_up() {
            // Looked at here, where no more are under way than there are connections: what waits takes no answer's room.
            checkout.clean();
            return Err(Failure::Unexpected(body::full()));
        }
        let outcome = execute::run(checkout, context, job, &share).await;
        self.metrics.stage(Stage::Execute, ready.elapsed());
        notes.end();
        outcome
    }

    /// Opens a transaction for a handler of one's own, with the role and the claims of the request's token.
    ///
    /// # Errors
    /// 401 and 403 as the REST API gives them, 503 when no connection can be had.
    pub async fn begin(&self, tenant: &Arc<Tenant>, parts: &Parts) -> Result<Session, Error> {
        let configured = self.cache.configured(tenant, &self.pools).await?;
        let over = configured.as_ref().map(|settings| settings.applied_to(tenant)).transpose()?;
        let tenant = over.as_ref().unwrap_or(tenant);
        let caller = self.caller(tenant, &parts.headers)?;
        let access = disk::access(self.pools.disk().enter(tenant));
        let checkout = self.pools.checkout(tenant).await?;
        Session::begin(checkout, caller, tenant, parts, access).await
    }
}

/// Longest body that is read where other requests are served too: some tenths of a millisecond.
const SHORT_BODY: usize = 64 * 1024;
/// Longest query string, likewise. It may have 64 KiB, and each of its parts is looked at several times.
const SHORT_QUERY: usize = 8 * 1024;

/// The context with what this question wants besides.
fn own_context<'a, 's>(
    tenant: &Tenant,
    context: &'a RequestContext<'s>,
    query: &Query<'_>,
) -> Cow<'a, RequestContext<'s>> {
    let mut context = Cow::Borrowed(context);
    if let Source::Call(_, routine) = &query.source
        && !routine.settings.is_empty()
    {
        context = Cow::Owned(context.into_owned().with_routine_settings(tenant, &routine.settings));
    }
    match query.timezone {
        Some(zone) => Cow::Owned(context.into_owned().with_timezone(zone)),
        None => context,
    }
}

/// What is sent to the database, and what must come back.
fn job(tenant: &Tenant, request: &Request, query: &Query<'_>, names: Names) -> Job {
    let prefer = &request.prefer;
    let reads = matches!(query.source, Source::Read);
    let change = match &request.action {
        Action::Change(_, change) => Some(*change),
        _ => None,
    };
    let limited =
        matches!(change, Some(Change::Update | Change::Delete)) || matches!(request.action, Action::Call(..));
    let output = if matches!(query.media, Media::Plan(_)) { Output::Lines } else { Output::Row };
    let expect = Expect {
        one: matches!(query.media, Media::Object { .. }) && change != Some(Change::Put),
        put: change == Some(Change::Put) && output == Output::Row,
        at_most: prefer.at_most().filter(|_| limited && output == Output::Row),
    };
    let ending = match (reads, prefer.rollback.unwrap_or(tenant.api.db_tx_end.rolls_back())) {
        // The main query of a plan is not run, and so frees no advisory locks: that needs the full reset.
        (true, _) if output == Output::Row => Ending::Undo,
        (true, _) | (_, true) => Ending::Rollback,
        (false, false) => Ending::Commit,
    };
    let estimated = matches!(prefer.count, Some(Count::Planned | Count::Estimated)) && reads;
    let max_answer = tenant.limits.max_answer;
    let checked = (ending != Ending::Undo && output == Output::Row).then_some(max_answer);
    Job {
        before: tenant.api.db_pre_request.as_ref().map(sql::before),
        main: sql::main(query, prefer.count, tenant.api.max_rows(&tenant.limits), checked),
        output,
        estimate: estimated.then(|| sql::estimate(query)),
        access: if query.writes { Access::Write } else { Access::Read },
        ending,
        expect,
        names,
        max_answer,
    }
}

/// What the document at the root needs of the database. The pre-request function and the caller's role have their say
/// even where nothing is asked.
fn document_job(tenant: &Tenant, request: &Request) -> Job {
    let follows = tenant.api.openapi_mode == OpenApiMode::FollowPrivileges && !request.head;
    Job {
        before: tenant.api.db_pre_request.as_ref().map(sql::before),
        main: if follows { sql::document::privileges(&request.schema) } else { sql::document::nothing() },
        output: Output::Privileges,
        estimate: None,
        access: Access::Read,
        ending: Ending::Undo,
        expect: Expect::default(),
        names: Names::Kept,
        max_answer: tenant.limits.max_answer.min(MAX_PRIVILEGES),
    }
}

fn refusal(failure: Failure, caller: &Caller) -> Error {
    if failure.is_of_a_standby() {
        return Error::standby();
    }
    match failure {
        Failure::Refused(refusal) if is_too_long(&refusal.error) => too_long(),
        Failure::Refused(refusal) => Error::from_server(&refusal.error, caller.anonymous),
        Failure::Broken(error) => Error::broken().with_cause(format_args!("a connection broke: {error}")),
        Failure::TooLong => too_long(),
        Failure::Unexpected(error) => error,
    }
}

/// The main query refuses an answer by a text that is no boolean. A function may raise the same words.
fn is_too_long(error: &ServerError) -> bool {
    error.message.contains(sql::TOO_LONG) && !error.is_of_a_function()
}

fn too_long() -> Error {
    let message = "The answer is longer than the tenant's max_answer";
    let hint = "ask for fewer rows or columns at once";
    Error::new(Code::AnswerTooLong, message).with_hint(hint)
}
