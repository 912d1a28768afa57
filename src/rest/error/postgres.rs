//! Errors of PostgreSQL as answers: PostgREST's table of SQLSTATEs, and errors whose JSON a function wrote.

use std::collections::BTreeMap;

use http::header::HeaderName;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use tokio_postgres::error::SqlState;

use super::super::head::{MAX_CHOSEN_HEADERS, chosen_status, may_choose};
use super::{Code, Error};
use crate::pg::wire::{ServerError, WireError};

impl Error {
    /// What a broken connection means to the caller. Its own words could name hosts, so they stay out of the answer.
    pub(crate) fn broken() -> Self {
        let message = "The connection to the database broke while the request ran";
        let hint = "try again; whether a write took effect is unknown if it was being committed";
        Self::new(Code::ServerUnreachable, message).with_hint(hint)
    }

    /// The server refused to begin a transaction that writes.
    pub(crate) fn standby() -> Self {
        Self::new(Code::ServerIsStandby, "The database takes no writes now")
            .with_hint("its server is a standby, or became one a moment ago; nothing was changed, try again")
    }

    /// What a failed statement or a broken connection means to the caller.
    pub(crate) fn from_wire(error: &WireError, anonymous: bool) -> Self {
        error.as_server().map_or_else(Self::broken, |error| Self::from_server(error, anonymous))
    }

    /// What a failed statement means to the caller; `anonymous` decides between 401 and 403.
    pub(crate) fn from_server(db: &ServerError, anonymous: bool) -> Self {
        if db.code.code() == "PGRST" {
            return shaped(&db.message, db.detail.as_deref()).unwrap_or_else(|error| error);
        }
        let error = Self::new(code(db, anonymous), db.message.as_str())
            .with_details(db.detail.as_deref())
            .with_hint(db.hint.as_deref());
        // Other messages may quote values.
        if db.is_fatal() { error.with_cause(&db.message) } else { error }
    }
}

/// Whose error it is: a function may raise any SQLSTATE, also those of a server in trouble. It can't raise what ends the
/// session, which may come while a function runs.
fn code(db: &ServerError, anonymous: bool) -> Code {
    let (text, status) = (Box::from(db.code.code()), status(db, anonymous));
    if (db.is_of_a_function() && !db.is_fatal()) || db.code.code().starts_with("PT") {
        Code::Function { code: text, status }
    } else {
        Code::Sqlstate { state: text, status }
    }
}

/// PostgREST, "Errors", table "HTTP Status Codes". One difference: 57014, a statement stopped by
/// `statement_timeout`, is 504, because the limit is the gateway's and not a fault of the server.
fn status(db: &ServerError, anonymous: bool) -> StatusCode {
    let (code, message) = (db.code.code(), db.message.as_str());
    match code {
        "23503" | "23505" => StatusCode::CONFLICT,
        "25006" => StatusCode::METHOD_NOT_ALLOWED,
        "21000" if message.ends_with("requires a WHERE clause") => StatusCode::BAD_REQUEST,
        "22023" if message.starts_with("role") && message.ends_with("does not exist") => {
            StatusCode::UNAUTHORIZED
        }
        "42501" if anonymous => StatusCode::UNAUTHORIZED,
        "42501" => StatusCode::FORBIDDEN,
        "42883" if message.starts_with("function xmlagg(") => StatusCode::NOT_ACCEPTABLE,
        "42883" | "42P01" => StatusCode::NOT_FOUND,
        "21000" | "42P17" | "53400" => StatusCode::INTERNAL_SERVER_ERROR,
        "57014" => StatusCode::GATEWAY_TIMEOUT,
        // Too complex. Outside any function that is the request: its arrays, its body, its list of columns.
        _ if code.starts_with("54") && !db.is_of_a_function() => StatusCode::BAD_REQUEST,
        "57P01" | "57P02" | "57P03" | "57P05" => StatusCode::SERVICE_UNAVAILABLE,
        "P0001" => StatusCode::BAD_REQUEST,
        _ => match (&code[..2], &code[2..]) {
            ("PT", number) => {
                number.parse().ok().and_then(chosen_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
            ("08" | "53", _) => StatusCode::SERVICE_UNAVAILABLE,
            ("0L" | "0P" | "28", _) => StatusCode::FORBIDDEN,
            (
                "09" | "25" | "2D" | "38" | "39" | "3B" | "40" | "54" | "55" | "57" | "58" | "F0" | "HV"
                | "P0" | "XX",
                _,
            ) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        },
    }
}

/// `RAISE SQLSTATE 'PGRST' USING MESSAGE = '{"code": …, "message": …}', DETAIL = '{"status": …, "headers": {…}}'`
#[derive(Deserialize)]
struct Message {
    code: String,
    message: String,
    details: Option<String>,
    hint: Option<String>,
}

#[derive(Deserialize)]
struct Detail {
    status: u16,
    #[expect(dead_code, reason = "HTTP/2 has no reason phrases; the key is checked to be a text")]
    status_text: Option<String>,
    headers: BTreeMap<String, String>,
}

fn shaped(message: &str, detail: Option<&str>) -> Result<Error, Error> {
    let bad = |details: String, what: &str, keys: &str| {
        let message = "Could not parse JSON in the \"RAISE SQLSTATE 'PGRST'\" error";
        let hint = format!("{what} must be a JSON object with obligatory keys: {keys}.");
        Error::new(Code::PgrstParseError, message).with_details(details).with_hint(hint)
    };
    let detail_keys = "'status', 'headers' and optional key: 'status_text'";
    let parsed: Message = serde_json::from_str(message).map_err(|_| {
        let details = format!("Invalid JSON value for MESSAGE: '{message}'");
        bad(details, "MESSAGE", "'code', 'message' and optional keys: 'details', 'hint'")
    })?;
    let missing = || bad("DETAIL is missing in the RAISE statement".into(), "DETAIL", detail_keys);
    let detail = detail.ok_or_else(missing)?;
    let shape: Detail = serde_json::from_str(detail)
        .map_err(|_| bad(format!("Invalid JSON value for DETAIL: '{detail}'"), "DETAIL", detail_keys))?;
    let status = chosen_status(shape.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let code = Code::Function { code: parsed.code.into(), status };
    let mut error = Error::new(code, parsed.message).with_details(parsed.details).with_hint(parsed.hint);
    for (name, value) in shape.headers.into_iter().take(MAX_CHOSEN_HEADERS) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value))
            && may_choose(&name)
        {
            error = error.with_header(name, value);
        }
    }
    Ok(error)
}

/// Whether the statement may have failed because the schema we planned with is not the database's any more.
pub(in crate::rest) fn is_stale(code: &SqlState) -> bool {
    [
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::INVALID_SQL_STATEMENT_NAME,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        // A type.
        SqlState::UNDEFINED_OBJECT,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::DATATYPE_MISMATCH,
    ]
    .contains(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Outcome;

    #[test]
    fn a_session_that_ends_amid_a_function_is_the_servers_trouble() {
        let outcome = |severity: &str| {
            let error = ServerError {
                severity: severity.into(),
                code: SqlState::ADMIN_SHUTDOWN,
                message: "terminating connection due to administrator command".into(),
                detail: None,
                hint: None,
                context: Some("PL/pgSQL function api.slow() line 2 at PERFORM".into()),
            };
            code(&error, false).outcome()
        };
        assert_eq!(outcome("FATAL"), Outcome::Unavailable);
        assert_eq!(outcome("ERROR"), Outcome::ServerError, "raised by the function");
    }
}
