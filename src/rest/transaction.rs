//! `Session`: an authenticated transaction for handlers of one's own, beside the REST API.

use bytes::BytesMut;
use http::request::Parts;
use tokio_postgres::types::{IsNull, ToSql, Type};

use super::auth::Caller;
use super::context::{Access, RequestContext};
use super::error::{Code, Error};
use super::execute::{self, Failure};
use crate::pg::wire::{Parameter, Query, Row, StatementKey, Status, WireError};
use crate::pool::Checkout;
use crate::tenant::Tenant;

/// Words that would end or nest the transaction behind the session's back.
const CONTROL: [&str; 10] =
    ["begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare", "deallocate"];

/// A transaction in the tenant's database with the caller's role and claims, as the REST API runs its own.
///
/// Dropped without [`Session::commit`] it is cancelled and its connection is not used again. There is no way to the
/// client inside: a COMMIT sent through it would leave later statements outside the transaction, as another role.
pub struct Session {
    checkout: Checkout,
    caller: Caller,
    search_path: String,
    most: usize,
}

impl Session {
    pub(super) async fn begin(
        mut checkout: Checkout,
        caller: Caller,
        tenant: &Tenant,
        parts: &Parts,
        access: Access,
    ) -> Result<Self, Error> {
        let namespace = tenant.api.db_schemas.first().map_or("public", String::as_str);
        let context = RequestContext::new(tenant, &caller, parts, namespace);
        match execute::begin(checkout.wire(), &context, access).await {
            Ok(()) => Ok(Self {
                checkout,
                search_path: context.search_path().to_owned(),
                most: tenant.limits.max_answer,
                caller,
            }),
            Err(failure) if failure.is_of_a_standby() => {
                checkout.leave_standby();
                Err(Error::standby())
            }
            Err(Failure::Refused(refusal)) => Err(Error::from_server(&refusal.error, caller.anonymous)),
            Err(_) => Err(Error::broken()),
        }
    }

    /// The role that the transaction runs as.
    pub fn role(&self) -> &str {
        &self.caller.role
    }

    /// Runs one statement and gives its rows, of at most the tier's `max_answer` bytes. The statement is prepared and kept
    /// with the connection, so its text must be one of few: values belong in `params`. Columns of types that are not
    /// PostgreSQL's own (enums, domains' bases aside) are read by a cast to one that is.
    ///
    /// # Errors
    /// As the REST API answers: the SQLSTATE as code, and its status. Afterwards the transaction is good for
    /// nothing but dropping.
    pub async fn query(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.send(sql, params).await.map(|(rows, _)| rows)
    }

    /// Runs one statement and gives the number of rows it changed.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub async fn execute(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        self.send(sql, params).await.map(|(_, changed)| changed)
    }

    /// Makes the changes last, and gives the connection back.
    ///
    /// # Errors
    /// When a deferred constraint fails, or the transaction had failed before: nothing was changed then.
    pub async fn commit(mut self) -> Result<(), Error> {
        // COMMIT of a failed transaction is a ROLLBACK that reports success.
        if self.checkout.wire().status() != Status::InTransaction {
            let message = "The transaction failed before it was committed";
            let status = http::StatusCode::INTERNAL_SERVER_ERROR;
            return Err(Error::new(Code::Sqlstate { state: "25P02".into(), status }, message));
        }
        let anonymous = self.caller.anonymous;
        match execute::commit(self.checkout).await {
            Ok(None) => Ok(()),
            Ok(Some(refusal)) => Err(Error::from_server(&refusal.error, anonymous)),
            Err(error) => Err(Error::from_wire(&error, anonymous)),
        }
    }

    async fn send(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<(Vec<Row>, u64), Error> {
        check(sql)?;
        let key = StatementKey::new(&self.caller.role, &self.search_path, sql);
        let types = self.checkout.wire().prepare(sql, &key).await.map_err(|error| self.failed(&error))?;
        let values = encode(&types, params)?;
        let parameters: Vec<_> =
            values.iter().map(|value| Parameter { bytes: value.as_deref(), binary: true }).collect();
        let query = Query { sql, types: &types, key: Some(&key), parameters: &parameters };
        let most = self.most;
        self.checkout.wire().rows(&query, most).await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &WireError) -> Error {
        Error::from_wire(error, self.caller.anonymous)
    }
}

fn check(sql: &str) -> Result<(), Error> {
    let word: String = sql.trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
    if CONTROL.contains(&word.to_ascii_lowercase().as_str()) || word.is_empty() {
        let message = format!("A session's statement begins with `{word}`");
        let hint = "send queries and changes only, without a comment before; end the transaction by `commit`";
        return Err(misused(message, hint));
    }
    Ok(())
}

/// The values in PostgreSQL's binary form, of the types that the server found.
fn encode(types: &[Type], params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Option<BytesMut>>, Error> {
    if types.len() != params.len() {
        let message =
            format!("A session's statement has {} values and was given {}", types.len(), params.len());
        return Err(misused(message, "give one value for each `$n`"));
    }
    let encode = |(kind, value): (&Type, &&(dyn ToSql + Sync))| {
        let mut bytes = BytesMut::new();
        match value.to_sql_checked(kind, &mut bytes) {
            Ok(IsNull::No) => Ok(Some(bytes)),
            Ok(IsNull::Yes) => Ok(None),
            Err(error) => Err(misused(
                format!("A value of a session's statement: {error}"),
                "give one of the type that is asked",
            )),
        }
    };
    types.iter().zip(params).map(encode).collect()
}

fn misused(message: String, hint: &str) -> Error {
    Error::new(Code::SessionMisuse, message).with_hint(hint)
}
