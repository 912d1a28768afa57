//! `Code`: why a request was refused, with the status, the outcome and the documentation of each reason.

use std::fmt;

use http::StatusCode;

use crate::telemetry::Outcome;

/// What a code means and what to do about it, in Markdown. docs/errors.md is made from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Documentation {
    /// When the code is sent.
    pub raised: &'static str,
    /// What the caller of the API should do.
    pub caller: &'static str,
    /// What the operator of manybox should do; empty when there is nothing to do.
    pub operator: &'static str,
}

macro_rules! codes {
    ($(
        $(#[doc = $raised:literal])+
        $name:ident = $text:literal, $status:ident, $outcome:ident;
        caller: $caller:literal;
        $(operator: $operator:literal;)?
    )*) => {
        /// Why a request was refused.
        ///
        /// The names of PostgREST's codes are those of its source. Compare variants, never texts: a tenant's function
        /// may choose any text, and what it chose is a [`Code::Function`].
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[doc = $raised])+ $name,)*
            /// PostgreSQL refused a statement of manybox's own making.
            Sqlstate {
                /// The SQLSTATE.
                state: Box<str>,
                /// The status that PostgREST gives it.
                status: StatusCode,
            },
            /// Code of the tenant failed, or raised an error. Nothing may be decided by the text: the function may have
            /// chosen that of any other code.
            Function {
                /// The SQLSTATE, or the code in `RAISE SQLSTATE 'PGRST'`.
                code: Box<str>,
                /// The status that the function chose, or that PostgREST gives the SQLSTATE.
                status: StatusCode,
            },
        }

        impl Code {
            /// All codes of manybox and PostgREST, in their order.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The text, as callers see it.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Sqlstate { state: text, .. } | Self::Function { code: text, .. } => text,
                }
            }

            /// The status of the response.
            pub fn status(&self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)*
                    Self::Sqlstate { status, .. } | Self::Function { status, .. } => *status,
                }
            }

            /// Whether it is one of manybox's own (`MBX…`). What a function chose never is.
            pub fn is_of_the_router(&self) -> bool {
                !matches!(self, Self::Sqlstate { .. } | Self::Function { .. }) && self.as_str().starts_with("MBX")
            }

            /// What the request counts as.
            pub fn outcome(&self) -> Outcome {
                match self {
                    $(Self::$name => Outcome::$outcome,)*
                    Self::Sqlstate { status: StatusCode::SERVICE_UNAVAILABLE, .. } => Outcome::Unavailable,
                    Self::Sqlstate { status, .. } | Self::Function { status, .. } => {
                        Outcome::of_status(status.as_u16())
                    }
                }
            }

            /// What the code means and what to do about it; `None` for codes out of the database.
            pub fn documentation(&self) -> Option<Documentation> {
                match self {
                    $(Self::$name => Some(Documentation {
                        raised: concat!($($raised),+).trim_ascii(),
                        caller: $caller,
                        operator: concat!($($operator)?),
                    }),)*
                    Self::Sqlstate { .. } | Self::Function { .. } => None,
                }
            }
        }
    };
}

codes! {
    /// The URL can be read in two ways: two `Host` headers or none, encoded separators, dot segments.
    AmbiguousUrl = "MBX101", BAD_REQUEST, UnknownTenant;
    caller: "Send one `Host` header and a plain path.";
    operator: "If all requests fail, check what the proxy in front does to `Host` and to paths.";

    /// No tenant has this base URL. A tenant that is retired, purged or being created is not told apart.
    UnknownBaseUrl = "MBX102", NOT_FOUND, UnknownTenant;
    caller: "Check host and path prefix.";
    operator: "`manybox tenant list` shows base URLs and states.";

    /// The tenant is suspended.
    TenantSuspended = "MBX103", FORBIDDEN, Unauthorized;
    caller: "Ask whoever runs the service; no data is lost.";
    operator: "`manybox tenant resume` ends it.";

    /// The router has not read its catalog since it started.
    RouterNotReady = "MBX104", SERVICE_UNAVAILABLE, Unavailable;
    caller: "Try again after `Retry-After`.";
    operator: "Send traffic only to routers whose `/ready` is 200. If it stays, check the catalog's server.";

    /// The body is larger than the tier's `max_body`.
    BodyTooLarge = "MBX105", PAYLOAD_TOO_LARGE, ClientError;
    caller: "Send it in smaller parts.";
    operator: "Raise the `max_body` of the tier or the tenant.";

    /// The body ended before its announced end.
    BodyIncomplete = "MBX106", BAD_REQUEST, ClientError;
    caller: "Send the request again.";

    /// The request took longer than the tier's `request_timeout`.
    RequestTimeout = "MBX107", GATEWAY_TIMEOUT, ServerError;
    caller: "Ask for less at once.";
    operator: "Look for slow statements and missing indexes, or raise `request_timeout`.";

    /// The router panicked on this request.
    RouterPanic = "MBX108", INTERNAL_SERVER_ERROR, ServerError;
    caller: "Report the `x-request-id` of the answer to whoever runs the service.";
    operator: "Report it to manybox with the log's lines of that request.";

    /// The tenant's `max_requests_per_second` is used up.
    RateLimited = "MBX109", TOO_MANY_REQUESTS, RateLimited;
    caller: "Try again after `Retry-After`; send fewer.";
    operator: "Raise the limit of the tier or the tenant.";

    /// The answer is longer than the tier's `max_answer`.
    AnswerTooLong = "MBX110", BAD_REQUEST, ClientError;
    caller: "Ask for fewer rows or columns at once.";
    operator: "Raise the `max_answer` of the tier or the tenant.";

    /// The clients of the tenant have all the connections that they may have, `listen.clients.max_per_tenant`, and none of
    /// them is idle.
    TooManyClients = "MBX111", SERVICE_UNAVAILABLE, Backpressure;
    caller: "Try again after `Retry-After`; keep fewer connections.";
    operator: "Raise `listen.clients.max_per_tenant`, or look for clients that hold requests open.";

    /// What the bodies of requests and answers of the tenant, or of all tenants, hold in memory is used up.
    BuffersFull = "MBX112", SERVICE_UNAVAILABLE, Backpressure;
    caller: "Try again after `Retry-After`; send and ask for less at once.";
    operator: "Raise `listen.clients.max_buffered`, or look for clients that take their answers slowly.";

    /// The body came slower than `listen.clients.min_rate`.
    BodyTooSlow = "MBX113", REQUEST_TIMEOUT, ClientError;
    caller: "Send it faster, or in smaller parts.";

    /// The request's head is none: a byte that a URL or a header can't have, a version or a form that is not HTTP. Over HTTP/2
    /// the stream is reset without an answer.
    UnreadableHead = "MBX114", BAD_REQUEST, ClientError;
    caller: "Percent-encode control characters, blanks and bytes that are no UTF-8 in the URL.";

    /// The URL is longer than 65,534 bytes.
    UrlTooLong = "MBX115", URI_TOO_LONG, ClientError;
    caller: "Send long lists in a body: call a function by POST.";

    /// The request has more than 100 headers, or more bytes of them than fit the connection's buffer.
    HeadTooLarge = "MBX116", REQUEST_HEADER_FIELDS_TOO_LARGE, ClientError;
    caller: "Send fewer and shorter headers; cookies are headers too.";

    /// The tenant's schema has a version that the router's `require_version` excludes: it waits for its migration.
    SchemaVersionRefused = "MBX117", SERVICE_UNAVAILABLE, Unavailable;
    caller: "Try again after `Retry-After`.";
    operator: "`manybox migrate status` shows who is behind and why; or lower `require_version` of the edition or the tenant.";

    /// The router can't read its catalog, which was made by a newer manybox.
    CatalogTooNew = "MBX118", SERVICE_UNAVAILABLE, Unavailable;
    caller: "Try again after `Retry-After`.";
    operator: "Upgrade this router: its log and `/ready` say which version made the catalog.";

    /// The tenant's database has grown over its tier's `max_database_size`: it takes no inserts, updates or writes by functions.
    /// Reads and deletes go on; when it has grown by a further tenth all the same, reads only.
    DatabaseFull = "MBX119", INSUFFICIENT_STORAGE, ClientError;
    caller: "Delete what is no longer needed, or ask for more room.";
    operator: "`manybox tenant list --size` shows sizes; raise the tier's or the tenant's `max_database_size`. Deleted rows give \
               their room to new ones only: `VACUUM FULL` by `manybox tenant psql` gives it back to the disk.";

    /// All connections that the tenant may have stayed in use for its tier's `acquire_timeout`.
    TenantConnectionsBusy = "MBX201", SERVICE_UNAVAILABLE, Backpressure;
    caller: "Try again after `Retry-After`; send fewer at once.";
    operator: "Look for slow statements; or raise the tenant's or the tier's `max_connections` and the server's \
               `budget.max_per_tenant`: the smaller of the two counts.";

    /// The tenant's database server can't be reached, or the connection broke while the request ran. Whether a write took
    /// effect is unknown if it was being committed.
    ServerUnreachable = "MBX202", SERVICE_UNAVAILABLE, Unavailable;
    caller: "Try again after `Retry-After`.";
    operator: "Check the server; the log says what the connection failed with.";

    /// The server refused the tenant's login: the tenant was suspended, moved or rekeyed a moment ago; or nobody has the password of its
    /// adopted database any more.
    LoginRefused = "MBX203", SERVICE_UNAVAILABLE, Unavailable;
    caller: "Try again after `Retry-After`.";
    operator: "If it stays, `manybox tenant resume` sets its login anew, `manybox keys` names a password that is lost; check that the \
               router has the current master key.";

    /// All connections of the server's budget, over all tenants, stayed in use for `acquire_timeout`.
    BudgetBusy = "MBX204", SERVICE_UNAVAILABLE, Backpressure;
    caller: "Try again after `Retry-After`.";
    operator: "Look in `manybox top` at who holds the budget: other routers, or lost ones, are named there, and in `details`. Give \
               the server a larger `max_connections`, or put new tenants on another server.";

    /// There was room for a connection, but the server did not open it within `acquire_timeout`.
    ConnectTooSlow = "MBX205", SERVICE_UNAVAILABLE, Backpressure;
    caller: "Try again after `Retry-After`.";
    operator: "See how busy the server is.";

    /// The server, or the tenant's login on it, had no connections left (SQLSTATE 53300).
    ServerFull = "MBX206", SERVICE_UNAVAILABLE, Backpressure;
    caller: "Try again after `Retry-After`.";
    operator: "Lower the server's `max_connections` in manybox's settings, or end what else uses the server.";

    /// `max_waiting` requests of the tenant wait for a connection already.
    QueueFull = "MBX207", TOO_MANY_REQUESTS, Backpressure;
    caller: "Send fewer at once.";
    operator: "Raise the tier's `max_connections` or `max_waiting`.";

    /// The adopted database has in-database configuration (`ALTER ROLE … SET pgrst.…`) that manybox can't understand or obey.
    /// The API stays closed: what was meant may be stricter than what is left.
    InDatabaseSettings = "MBX208", SERVICE_UNAVAILABLE, Unavailable;
    caller: "Report it to whoever runs the service; `details` names the settings.";
    operator: "Mend or RESET the settings that the log, `tenant show` and `tenant adopt` name; the API opens a second later.";

    /// The tenant's database server takes no writes now: it is a standby, or became one a moment ago. Nothing was changed.
    ServerIsStandby = "MBX209", SERVICE_UNAVAILABLE, Unavailable;
    caller: "Try again after `Retry-After`.";
    operator: "If it stays, the server's url leads to a standby: `manybox server check` says which host answers; give \
               `target_session_attrs=primary` and all hosts, or mend the proxy in front of them.";

    /// The tenant is on a server that the settings of this router don't have.
    ServerNotInSettings = "MBX210", SERVICE_UNAVAILABLE, Unavailable;
    caller: "Try again after `Retry-After`.";
    operator: "`manybox doctor` names the server; add it to the settings of every router, and restart those that lack it.";

    /// The router's master key is not the fleet's, or not that of which the tenant's password was made.
    WrongMasterKey = "MBX211", SERVICE_UNAVAILABLE, Unavailable;
    caller: "Report it to whoever runs the service; no data is lost.";
    operator: "`/ready` and the log say which key the router has, `manybox keys` which one is expected. Put the right key file \
               there; it is taken up without a restart.";

    /// The token's role is none of the API's.
    RoleNotAllowed = "MBX301", FORBIDDEN, Unauthorized;
    caller: "Sign tokens with a role of the tenant's API.";
    operator: "`defaults.api.roles` lists the roles.";

    /// The REST pipeline of manybox failed on this request.
    Internal = "MBX500", INTERNAL_SERVER_ERROR, ServerError;
    caller: "Report the request to whoever runs the service.";
    operator: "Report it to manybox: it is a defect.";

    /// A route of your own sent transaction control through its session, or values that its statement does not take.
    SessionMisuse = "MBX501", INTERNAL_SERVER_ERROR, ServerError;
    caller: "Report it to whoever runs the service.";
    operator: "Mend the route: transactions end by `Session::commit`, or when the session is dropped.";

    /// The schema can't be read from the database.
    NoSchemaCache = "PGRST002", SERVICE_UNAVAILABLE, Unavailable;
    caller: "Try again after `Retry-After`.";
    operator: "The log has the reason.";

    /// A parameter can't be read, is not UTF-8, or is over a [limit](rest-api.md#limits).
    QueryParamError = "PGRST100", BAD_REQUEST, ClientError;
    caller: "`message` has the place in the parameter, `details` what was expected there.";

    /// A function was called by another method than GET, HEAD, POST or OPTIONS.
    InvalidRpcMethod = "PGRST101", METHOD_NOT_ALLOWED, ClientError;
    caller: "Call it by POST, or by GET if it only reads.";

    /// The body can't be read, or has a type that is not taken.
    InvalidBody = "PGRST102", BAD_REQUEST, ClientError;
    caller: "Send JSON, CSV or a form, with its `Content-Type`.";

    /// The range is none, or starts after the last row.
    InvalidRange = "PGRST103", RANGE_NOT_SATISFIABLE, ClientError;
    caller: "Ask for rows that are there; `details` says how many.";

    /// PUT without `eq` filters on all columns of the primary key, or with others.
    InvalidFilters = "PGRST105", METHOD_NOT_ALLOWED, ClientError;
    caller: "Filter by the whole primary key and nothing else.";

    /// The schema in `Accept-Profile` or `Content-Profile` is none of `db_schemas`.
    UnacceptableSchema = "PGRST106", NOT_ACCEPTABLE, ClientError;
    caller: "Name one of the schemas in `hint`.";
    operator: "Add the schema to `db_schemas` if it shall be exposed.";

    /// None of the accepted media types can be made.
    MediaTypeError = "PGRST107", NOT_ACCEPTABLE, ClientError;
    caller: "Accept `application/json`.";

    /// A filter, order or limit for a relation that is not embedded.
    NotEmbedded = "PGRST108", BAD_REQUEST, ClientError;
    caller: "Add the relation to `select`.";

    /// A function left something in `response.headers` that is no list of headers.
    GucHeadersError = "PGRST111", INTERNAL_SERVER_ERROR, ServerError;
    caller: "Mend the function.";

    /// A function left something in `response.status` that is no status.
    GucStatusError = "PGRST112", INTERNAL_SERVER_ERROR, ServerError;
    caller: "Mend the function.";

    /// PUT with a limit or an offset.
    PutLimitNotAllowed = "PGRST114", BAD_REQUEST, ClientError;
    caller: "Leave them out.";

    /// PUT whose body is another row than its URL.
    PutMatchingPk = "PGRST115", BAD_REQUEST, ClientError;
    caller: "Send the same key in both.";

    /// One object was asked for, and there are none or several.
    SingularityError = "PGRST116", NOT_ACCEPTABLE, ClientError;
    caller: "Filter by a key, or accept an array.";

    /// The method is none of those in `Allow`.
    UnsupportedMethod = "PGRST117", METHOD_NOT_ALLOWED, ClientError;
    caller: "Use one of `Allow`.";

    /// Ordered by an embedded relation of which many rows belong to one.
    RelatedOrderNotToOne = "PGRST118", BAD_REQUEST, ClientError;
    caller: "Order by a to-one relation.";

    /// `RAISE SQLSTATE 'PGRST'` with JSON that can't be read.
    PgrstParseError = "PGRST121", INTERNAL_SERVER_ERROR, ServerError;
    caller: "Mend the function; `details` and `hint` say how.";

    /// `handling=strict` with preferences that are not known.
    InvalidPreferences = "PGRST122", BAD_REQUEST, ClientError;
    caller: "Leave out what `details` lists.";

    /// An aggregate, where aggregates are off.
    AggregatesNotAllowed = "PGRST123", BAD_REQUEST, ClientError;
    caller: "Leave it out, or call a function that has it.";
    operator: "Set `db_aggregates_enabled` for the tenant or its edition.";

    /// The change touches more rows than `max-affected`; nothing was changed.
    MaxAffectedViolation = "PGRST124", BAD_REQUEST, ClientError;
    caller: "Filter more closely, or allow more.";

    /// The path is neither a relation nor a function.
    InvalidResourcePath = "PGRST125", NOT_FOUND, ClientError;
    caller: "Ask for `/relation` or `/rpc/function`.";

    /// The root document is off.
    OpenApiDisabled = "PGRST126", NOT_FOUND, ClientError;
    caller: "Do without it.";
    operator: "Set `openapi_mode`.";

    /// An aggregate inside a to-many spread.
    NotImplemented = "PGRST127", BAD_REQUEST, ClientError;
    caller: "Embed the relation without spreading it.";

    /// `max-affected` for a function that does not return a set.
    MaxAffectedRpcViolation = "PGRST128", BAD_REQUEST, ClientError;
    caller: "Leave it out, or let the function return `SETOF` or `TABLE`.";

    /// There is no relationship between the two relations.
    NoRelBetween = "PGRST200", BAD_REQUEST, ClientError;
    caller: "Check the names; `hint` guesses. A relationship needs a foreign key.";

    /// There is more than one relationship between the two relations.
    AmbiguousRelBetween = "PGRST201", MULTIPLE_CHOICES, ClientError;
    caller: "Name one as `hint` says.";

    /// There is no function with these arguments.
    NoRpc = "PGRST202", NOT_FOUND, ClientError;
    caller: "Check the names of function and arguments; `hint` guesses.";

    /// There is more than one function with these arguments.
    AmbiguousRpc = "PGRST203", MULTIPLE_CHOICES, ClientError;
    caller: "Rename the function or its arguments in the database.";

    /// The relation has no such column.
    ColumnNotFound = "PGRST204", BAD_REQUEST, ClientError;
    caller: "Check the keys of the body and of `columns`.";

    /// The schema has no such relation.
    TableNotFound = "PGRST205", NOT_FOUND, ClientError;
    caller: "Check the name; `hint` guesses.";

    /// The tenant is adopted and has no `jwt_secret` to check a token with.
    JwtSecretMissing = "PGRST300", INTERNAL_SERVER_ERROR, ServerError;
    caller: "Send no token, or report it to whoever runs the service.";
    operator: "Set the tenant's `jwt_secret`.";

    /// The token can't be decoded, or no key of the tenant verifies it.
    JwtDecodeError = "PGRST301", UNAUTHORIZED, Unauthorized;
    caller: "Get a token that is signed for this tenant.";

    /// There is no token, and the API has no anonymous role.
    JwtTokenRequired = "PGRST302", UNAUTHORIZED, Unauthorized;
    caller: "Send a token.";
    operator: "Set `db_anon_role` if the API shall be open.";

    /// A claim of the token does not hold: it is expired, not yet valid, or for another audience.
    JwtClaimsError = "PGRST303", UNAUTHORIZED, Unauthorized;
    caller: "Get a new token.";
}

impl Code {
    /// Texts that are never sent and why. They stay reserved, so that none ever gets a second meaning.
    pub const RESERVED: &[(&str, &str)] = &[
        ("PGRST000", "PostgREST can't connect; MBX202 to 206 say more"),
        ("PGRST001", "PostgREST can't connect; MBX202 to 206 say more"),
        ("PGRST003", "PostgREST's pool timed out; MBX201 and MBX204 to 207 say more"),
        ("PGRST104", "retired by PostgREST"),
        ("PGRST109", "retired by PostgREST"),
        ("PGRST110", "retired by PostgREST"),
        ("PGRST113", "retired by PostgREST"),
        ("PGRST119", "retired by PostgREST"),
        ("PGRST120", "in PostgREST's list, but PostgREST 14 does not raise it"),
        ("PGRSTX00", "a defect of PostgREST; MBX500 is one of manybox"),
    ];
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
