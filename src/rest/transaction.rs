//! `Session`: an authenticated transaction for handlers of one's own, beside the REST API.

use http::request::Parts;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::auth::Caller;
use super::error::Error;
use super::execute;
use super::sql::session::Settings;
use crate::pool::{COMMIT, Checkout, ROLLBACK, StatementKey};
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
}

impl Session {
    pub(super) async fn begin(
        mut checkout: Checkout,
        caller: Caller,
        tenant: &Tenant,
        parts: &Parts,
    ) -> Result<Self, Error> {
        let namespace = tenant.api.db_schemas.first().map_or("public", String::as_str);
        let settings = Settings::new(tenant, &caller, parts, namespace);
        match execute::begin(&mut checkout, &settings).await {
            Ok(()) => Ok(Self { checkout, search_path: settings.search_path().to_owned(), caller }),
            Err(error) => Err(Error::from_postgres(&error, caller.anonymous)),
        }
    }

    /// The role that the transaction runs as.
    pub fn role(&self) -> &str {
        &self.caller.role
    }

    /// Runs one statement and gives its rows. The statement is prepared and kept with the connection, so its text
    /// must be one of few: values belong in `params`.
    ///
    /// # Errors
    /// As the REST API answers: the SQLSTATE as code, and its status. Afterwards the transaction is good for
    /// nothing but dropping.
    pub async fn query(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let statement = self.prepared(sql).await?;
        self.checkout.client().query(&statement, params).await.map_err(|e| self.failed(&e))
    }

    /// Runs one statement and gives the number of rows it changed.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub async fn execute(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        let statement = self.prepared(sql).await?;
        self.checkout.client().execute(&statement, params).await.map_err(|e| self.failed(&e))
    }

    /// Makes the changes last, and gives the connection back.
    ///
    /// # Errors
    /// When a deferred constraint fails, or the transaction had failed before: nothing was changed then.
    pub async fn commit(self) -> Result<(), Error> {
        // COMMIT of a failed transaction is a ROLLBACK that reports success; a statement of ours would fail in it.
        let client = self.checkout.client();
        let (alive, committed) =
            futures_util::future::join(client.query_typed("SELECT 1", &[]), client.batch_execute(COMMIT))
                .await;
        let result = alive.map(drop).and(committed).map_err(|e| self.failed(&e));
        if result.is_ok() || self.checkout.client().batch_execute(ROLLBACK).await.is_ok() {
            self.checkout.clean();
        }
        result
    }

    fn failed(&self, error: &tokio_postgres::Error) -> Error {
        Error::from_postgres(error, self.caller.anonymous)
    }

    async fn prepared(&self, sql: &str) -> Result<tokio_postgres::Statement, Error> {
        let word: String = sql.trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
        if CONTROL.contains(&word.to_ascii_lowercase().as_str()) || word.is_empty() {
            let message = format!("A session's statement begins with `{word}`");
            let hint =
                "send queries and changes only, without a comment before; end the transaction by `commit`";
            let status = http::StatusCode::INTERNAL_SERVER_ERROR;
            return Err(Error::new(status, "MBX501", message, None, Some(hint.into())));
        }
        let key = StatementKey::new(self.role(), &self.search_path, sql);
        if let Some(statement) = self.checkout.statement(&key) {
            return Ok(statement);
        }
        let statement = self.checkout.client().prepare(sql).await.map_err(|e| self.failed(&e))?;
        self.checkout.keep(key, statement.clone());
        Ok(statement)
    }
}
