//! `RequestContext`: what a request brings to its transaction: role, claims, the request itself, search path.
//!
//! The tier's time limits are the session's own, which every transaction begins with (`pool::connect`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use http::HeaderMap;
use http::header::COOKIE;
use http::request::Parts;
use serde::Serializer as _;
use serde_json::{Map, Value};

use super::auth::Caller;
use crate::pg::Ident;
use crate::pg::wire::Command;
use crate::telemetry::{Notes, TraceContext};
use crate::tenant::Tenant;

/// The setting by which a server shows whose session it is.
const APPLICATION_NAME: &str = "application_name";

/// The span that a request's transaction tells the server of, among the request's extensions: as `application_name`, which takes
/// 63 bytes and so the 55 of a `traceparent`. A comment in the statement would tell it as well, but no statement would be
/// the same as another, and none would be prepared.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseTrace(pub TraceContext);

/// How much a transaction sees of others; PostgREST takes it from the role's `default_transaction_isolation`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// PostgreSQL's own default.
    #[default]
    ReadCommitted,
    /// One snapshot for all statements.
    RepeatableRead,
    /// As if one after the other.
    Serializable,
}

impl Isolation {
    /// As PostgREST reads it: what it does not know is the default.
    fn of(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "repeatable read" => Self::RepeatableRead,
            "serializable" => Self::Serializable,
            _ => Self::ReadCommitted,
        }
    }
}

/// One column, because nobody reads it. All but the role, which comes last: a setting that the login may change and the
/// role may not is changed as the login (`GRANT SET ON PARAMETER … TO login`). The two of the answer are emptied, because
/// a function of an earlier request may have set them for the whole session.
macro_rules! head {
    () => {
        "SELECT pg_catalog.num_nulls(pg_catalog.set_config('search_path', $1, true), \
         pg_catalog.set_config('request.jwt.claims', $2, true), \
         pg_catalog.set_config('request.headers', $3, true), \
         pg_catalog.set_config('request.cookies', $4, true), \
         pg_catalog.set_config('request.method', $5, true), \
         pg_catalog.set_config('request.path', $6, true), \
         pg_catalog.set_config('response.headers', '', true), \
         pg_catalog.set_config('response.status', '', true)"
    };
}
macro_rules! tail {
    () => {
        ", pg_catalog.set_config('role', $7, true))"
    };
}

/// The statement of most tenants.
const SET: &str = concat!(head!(), tail!());

/// How many values it has.
const USUAL: usize = 7;

/// Settings that a role may have and a request does not take from it: who it runs as, where names are looked for, how
/// texts are written and read, how its transaction begins, and how much the server tells beside its answers.
const NOT_OF_ROLES: [&str; 12] = [
    "role",
    "session_authorization",
    "search_path",
    "client_encoding",
    "client_min_messages",
    "standard_conforming_strings",
    "backslash_quote",
    "transaction_isolation",
    "transaction_read_only",
    "transaction_deferrable",
    "default_transaction_read_only",
    "default_transaction_deferrable",
];

/// Whether a transaction may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// `READ ONLY`
    Read,
    /// `READ WRITE`
    Write,
}

/// Tells the request's line in the log whom it runs as.
pub(super) fn note_role(parts: &Parts, caller: &Caller) {
    if let Some(notes) = parts.extensions.get::<Notes>() {
        notes.role(&caller.role);
    }
}

/// What one request brings to its transaction, and the statements that begin it.
#[derive(Debug, Clone)]
pub(crate) struct RequestContext<'a> {
    search_path: String,
    caller: &'a Caller,
    parts: &'a Parts,
    /// Those that not every request has: name and value.
    more: Vec<(String, String)>,
    isolation: Isolation,
    sets_timezone: bool,
}

impl<'a> RequestContext<'a> {
    /// `namespace` is the exposed schema that unqualified names are looked for in first.
    pub(crate) fn new(tenant: &Tenant, caller: &'a Caller, parts: &'a Parts, namespace: &str) -> Self {
        let own = tenant.api.app_settings.iter();
        let own = own.map(|(name, value)| (format!("app.settings.{name}"), value.clone()));
        // Written anew from what was read: nothing of a header is in it.
        let trace = parts.extensions.get::<DatabaseTrace>();
        let trace = trace.map(|DatabaseTrace(trace)| (APPLICATION_NAME.to_owned(), trace.to_string()));
        Self {
            search_path: search_path(tenant, namespace),
            caller,
            parts,
            more: own.chain(trace).collect(),
            isolation: Isolation::default(),
            sets_timezone: false,
        }
    }

    /// What the request's line in the log is told.
    pub(crate) fn notes(&self) -> Notes {
        self.parts.extensions.get::<Notes>().cloned().unwrap_or_default()
    }

    /// Adds the settings that the role has of its own (`ALTER ROLE … SET`, by name), as PostgREST does: all that a session
    /// may set, but for what the request, the answer's form and the tier decide.
    ///
    /// Of adopted databases only: the API roles of tenants that manybox makes are shared by all of them, and any function
    /// of any tenant can write their settings, so what such a role "has" is not looked at.
    #[must_use]
    pub(crate) fn with_role_settings(mut self, tenant: &Tenant, role: &BTreeMap<String, String>) -> Self {
        if tenant.is_adopted() {
            role.iter().filter(|(name, _)| is_of_a_role(name)).for_each(|(n, v)| self.apply(tenant, n, v));
        }
        self
    }

    /// Adds the settings that a function has of its own (`CREATE FUNCTION … SET`), as far as the API hoists them: they
    /// then count from the start of its transaction.
    #[must_use]
    pub(crate) fn with_routine_settings(mut self, tenant: &Tenant, own: &[(String, String)]) -> Self {
        let hoisted = own.iter().filter(|(name, _)| tenant.api.db_hoisted_tx_settings.contains(name));
        hoisted.for_each(|(name, value)| self.apply(tenant, name, value));
        self
    }

    /// Adds the time zone that the request prefers, which PostgreSQL may refuse (22023).
    #[must_use]
    pub(crate) fn with_timezone(mut self, zone: &str) -> Self {
        self.add("timezone".into(), zone);
        self.sets_timezone = true;
        self
    }

    /// Whether the request chose a time zone.
    pub(crate) fn sets_timezone(&self) -> bool {
        self.sets_timezone
    }

    /// The tier's limits are the session's; a longer one doesn't count.
    fn apply(&mut self, tenant: &Tenant, name: &str, value: &str) {
        let limits = &tenant.limits;
        match name {
            "default_transaction_isolation" => self.isolation = Isolation::of(value),
            "statement_timeout" => self.shorten(name, value, limits.statement_timeout),
            "idle_in_transaction_session_timeout" => {
                self.shorten(name, value, limits.transaction_idle_timeout);
            }
            // The trace's, which is there already.
            APPLICATION_NAME if self.more.iter().any(|(known, _)| known == name) => {}
            _ => self.add(name.to_owned(), value),
        }
    }

    fn shorten(&mut self, name: &str, value: &str, limit: Duration) {
        let limit = limit.as_millis();
        let own = milliseconds(value).filter(|own| *own > 0 && (limit == 0 || *own < limit));
        if let Some(own) = own {
            self.add(name.to_owned(), &own.to_string());
        }
    }

    fn add(&mut self, name: String, value: &str) {
        self.more.push((name, value.to_owned()));
    }

    /// How the transaction begins.
    pub(crate) fn begin(&self, access: Access) -> Command {
        let sql = match (self.isolation, access) {
            (Isolation::ReadCommitted, Access::Read) => "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY",
            (Isolation::ReadCommitted, Access::Write) => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
            (Isolation::RepeatableRead, Access::Read) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            (Isolation::RepeatableRead, Access::Write) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE",
            (Isolation::Serializable, Access::Read) => "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
            (Isolation::Serializable, Access::Write) => "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE",
        };
        Command::new(sql, "BEGIN")
    }

    /// The statement. Names of settings are values too: no text from anywhere stands in it.
    pub(crate) fn sql(&self) -> Cow<'static, str> {
        if self.more.is_empty() {
            return Cow::Borrowed(SET);
        }
        let mut sql = String::from(head!());
        for number in (USUAL + 1..).step_by(2).take(self.more.len()) {
            let _ = write!(sql, ", pg_catalog.set_config(${number}, ${}, true)", number + 1);
        }
        Cow::Owned(sql + tail!())
    }

    /// Its values, all of them texts.
    pub(crate) fn values(&self) -> Vec<Cow<'_, str>> {
        let (headers, cookies) = headers(&self.parts.headers);
        let usual: [Cow<'_, str>; USUAL] = [
            self.search_path().into(),
            self.caller.claims.as_str().into(),
            headers.into(),
            cookies.into(),
            self.parts.method.as_str().into(),
            self.parts.uri.path().into(),
            self.role().into(),
        ];
        let more = self.more.iter().flat_map(|(name, value)| [name.into(), value.into()]);
        usual.into_iter().chain(more).collect()
    }

    /// The text of `search_path`.
    pub(crate) fn search_path(&self) -> &str {
        &self.search_path
    }

    /// The role.
    pub(crate) fn role(&self) -> &'a str {
        &self.caller.role
    }
}

/// The text of `search_path`: this schema, then those that unqualified names may be in besides.
pub(crate) fn search_path(tenant: &Tenant, namespace: &str) -> String {
    let along = tenant.api.db_extra_search_path.iter().map(String::as_str);
    let mut path = String::new();
    for schema in std::iter::once(namespace).chain(along) {
        let _ = write!(path, "{}{}", if path.is_empty() { "" } else { ", " }, Ident::new(schema));
    }
    path
}

/// Whether a role's setting of this name holds for requests.
fn is_of_a_role(name: &str) -> bool {
    let ours = ["request.", "response.", "pgrst.", "app.settings."];
    !NOT_OF_ROLES.contains(&name) && !ours.iter().any(|prefix| name.starts_with(prefix))
}

/// A time as PostgreSQL's settings have it (a number of milliseconds, or with a unit).
fn milliseconds(text: &str) -> Option<u128> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u128 = number.parse().ok()?;
    let factor = match unit.trim() {
        "" | "ms" => 1,
        "us" => return Some(number.div_ceil(1000)),
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// `request.headers` and `request.cookies` as PostgREST gives them: cookies are not among the headers. Of a header
/// that was sent twice the last one counts.
fn headers(all: &HeaderMap) -> (String, String) {
    let text = |name| all.get_all(name).iter().next_back().map(|v| String::from_utf8_lossy(v.as_bytes()));
    let headers = all.keys().filter(|name| *name != COOKIE).map(|name| (name.as_str(), text(name)));
    let cookies = all.get_all(COOKIE).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let mut pairs = Map::new();
    for line in cookies {
        for (name, value) in line.split(';').filter_map(|pair| pair.trim().split_once('=')) {
            pairs.insert(name.to_owned(), Value::String(value.to_owned()));
        }
    }
    (object(headers), if pairs.is_empty() { "{}".to_owned() } else { Value::Object(pairs).to_string() })
}

/// A JSON object, written as it is read: these are made for every request.
fn object<'a>(pairs: impl Iterator<Item = (&'a str, Option<Cow<'a, str>>)>) -> String {
    let mut json = Vec::with_capacity(256);
    // Neither a string as a key nor memory to write to can fail.
    let _ = serde_json::Serializer::new(&mut json).collect_map(pairs);
    String::from_utf8(json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::policy::{Api, Limits, Overrides};
    use crate::tenant::{Adopted, Lineage, Origin, Record, Sealed, State, TenantId};

    fn tenant(adopted: bool) -> Tenant {
        let lineage = Lineage { edition: "shop".into(), version: 1, history: String::new() };
        let record = Record {
            id: TenantId::random().unwrap(),
            slug: "acme".parse().unwrap(),
            state: State::Active,
            tier: "standard".into(),
            server: "main".into(),
            generation: 1,
            key: 1,
            origin: match adopted {
                true => Origin::Adopted(Adopted { database: "app".into(), login_role: "login".into() }),
                false => Origin::Lineage(lineage),
            },
            base_urls: Vec::new(),
            overrides: Overrides::default(),
            sealed: Sealed::new(),
            reloads: 0,
        };
        let api = Api {
            db_extra_search_path: vec!["ext\"ra".into()],
            app_settings: [("host".to_owned(), "it's".to_owned())].into(),
            ..Api::adopted()
        };
        Tenant::new(record, Limits::default(), api)
    }

    fn caller(role: &str) -> Caller {
        Caller { role: role.into(), claims: r#"{"role":"web"}"#.into(), anonymous: false }
    }

    /// As the role `web` asks.
    fn settings(tenant: &Tenant) -> RequestContext<'static> {
        static ASKED: LazyLock<(Caller, Parts)> = LazyLock::new(|| {
            let request =
                http::Request::get("/items?id=eq.1").header("cookie", "a=b; c=d").header("x-y", "z");
            (caller("web"), request.body(()).unwrap().into_parts().0)
        });
        RequestContext::new(tenant, &ASKED.0, &ASKED.1, "api")
    }

    fn role() -> BTreeMap<String, String> {
        [
            ("statement_timeout", "2s"),
            ("default_transaction_isolation", "REPEATABLE READ"),
            ("plan_filter.statement_cost_limit", "1e6"),
            ("work_mem", "1GB"),
            ("role", "postgres"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    #[test]
    fn no_value_stands_in_the_statement() {
        let settings =
            settings(&tenant(true)).with_role_settings(&tenant(true), &role()).with_timezone("UTC");
        for (value, position) in settings.values().iter().zip(1..) {
            assert!(settings.sql().contains(&format!("${position},")), "{position}");
            assert!(
                value.is_empty() || ["web", "GET"].contains(&&**value) || !settings.sql().contains(&**value)
            );
        }
        assert!(settings.sql().ends_with("pg_catalog.set_config('role', $7, true))"), "the role comes last");
        assert_eq!((settings.search_path(), settings.role()), (r#""api", "ext""ra""#, "web"));
        insta::assert_debug_snapshot!((settings.values(), settings.isolation));
    }

    #[test]
    fn the_settings_of_a_role_that_tenants_share_are_not_looked_at() {
        let made = tenant(false);
        let with = settings(&made).with_role_settings(&made, &role());
        assert_eq!(with.values(), settings(&made).values());
        assert_eq!(with.begin(Access::Write).sql, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE");
    }

    #[test]
    fn a_role_brings_what_a_session_may_set() {
        let adopted = tenant(true);
        let own = [
            ("timezone", "Asia/Kolkata"),
            ("work_mem", "8MB"),
            ("lock_timeout", "777ms"),
            ("idle_in_transaction_session_timeout", "1d"),
            ("client_encoding", "LATIN1"),
            ("search_path", "evil"),
            ("request.jwt.claims", "{}"),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let with = settings(&adopted).with_role_settings(&adopted, &own);
        let names: Vec<_> = with.more.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["app.settings.host", "lock_timeout", "timezone", "work_mem"]);
    }

    #[test]
    fn the_shorter_time_counts() {
        let adopted = tenant(true);
        for (own, expected) in [
            ("2s", Some("2000")),
            ("1h", None),
            ("0", None),
            ("100", Some("100")),
            ("1500us", Some("2")),
            ("soon", None),
        ] {
            let role = [("statement_timeout".to_owned(), own.to_owned())].into();
            let settings = settings(&adopted).with_role_settings(&adopted, &role);
            let found = settings.more.iter().find(|(name, _)| name == "statement_timeout");
            assert_eq!(found.map(|(_, value)| value.as_str()), expected, "{own}");
        }
    }
}
