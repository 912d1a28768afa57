//! The copy: a dump of the tenant's database by a login that reads all of it, restored by the copy's migrator.
//!
//! CREATE DATABASE … TEMPLATE would be quicker, but takes a source without sessions: a tenant that is served has some.

use std::process::Stdio;

use tokio_postgres::Client;

use crate::catalog::TenantRow;
use crate::fleet::dump::{self, HistoryRows, Snapshot, beginning, facts_of, finished};
use crate::fleet::scratch::Scratch;
use crate::fleet::{Doing, Fleet, FleetError, FleetServer, OperatorLogin};
use crate::pg::{self, Endpoint};

/// Most differences between tenant and copy that are told.
const MAX_DIFFERENCES: usize = 50;

/// How large a database is, in bytes.
pub(super) async fn size(admin: &Client, database: &str) -> Result<i64, FleetError> {
    let sql = "SELECT pg_catalog.pg_database_size($1::pg_catalog.text::pg_catalog.name)";
    admin
        .query_one(sql, &[&database])
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| format!("asking for the size of database `{database}`"))
}

impl Fleet {
    /// Fills an empty database with a tenant's. Gives what could not be copied.
    pub(super) async fn copy_into(
        &self,
        scratch: &Scratch,
        tenant: &TenantRow,
    ) -> Result<Vec<String>, FleetError> {
        let server = self.servers.get(&tenant.record.server)?;
        let (name, source) = (server.endpoint.name(), tenant.record.database());
        let reader = scratch.keep_login(&source, self.make_reader(name, &source).await?);
        let writer = scratch.keep_login(&scratch.name, self.make_operator(name, &scratch.name).await?);
        let copied = copy(server, (&source, &reader), (&scratch.name, &writer)).await;
        self.drop_logins(server, scratch).await?;
        copied
    }
}

/// Copies from one database to the other, each with a login of its own, which nobody else has.
async fn copy(
    server: &FleetServer,
    (source, reader): (&str, &OperatorLogin),
    (scratch, writer): (&str, &OperatorLogin),
) -> Result<Vec<String>, FleetError> {
    let snapshot = Snapshot::take(&server.endpoint, source, reader).await?;
    let history = HistoryRows::read(snapshot.session()).await?;
    let complaints = transfer(&server.endpoint, (source, reader), (scratch, writer), &snapshot.name).await?;
    snapshot.close().await;

    let session = pg::connect(&server.endpoint, &writer.login, scratch).await;
    let session = session.doing(|| format!("connecting to `{scratch}` to write its history"))?;
    history.write(&session).await?;
    session.close().await;

    let difference = facts_of(server, scratch).await?.difference(&facts_of(server, source).await?);
    let mut left_out: Vec<String> = difference.lines().into_iter().take(MAX_DIFFERENCES).collect();
    left_out.iter_mut().for_each(|line| *line = format!("as it is there: {line}"));
    if !difference.is_empty() && !complaints.is_empty() {
        left_out.push(format!("pg_restore said: {complaints}"));
    }
    Ok(left_out)
}

/// Runs `pg_dump` into `pg_restore`. Gives what the second complained about: it goes on past errors, because what every
/// database begins with is there already.
async fn transfer(
    endpoint: &Endpoint,
    (source, reader): (&str, &OperatorLogin),
    (scratch, writer): (&str, &OperatorLogin),
    snapshot: &str,
) -> Result<String, FleetError> {
    let mut dumping =
        dump::dump(endpoint, (source, reader), snapshot, &["--compress=0", "--no-blobs"]).await?;
    let archive: Stdio = match dumping.stdout.take().map(TryInto::try_into) {
        Some(Ok(archive)) => archive,
        _ => return Err(FleetError::File("pg_dump's output can't be handed to pg_restore".into())),
    };
    let mut restoring = dump::restore(endpoint, (scratch, writer), archive, &[])?;
    let dump_said = dumping.stderr.take();
    let (said, dumped, restored) =
        tokio::join!(beginning(dump_said), dumping.wait(), finished("pg_restore", &mut restoring));
    let (_, complaints) = restored?;
    if !dumped.is_ok_and(|status| status.success()) {
        // Where pg_restore gave up, pg_dump only says that nobody listens.
        return Err(FleetError::File(format!("pg_dump could not copy `{source}`: {said} {complaints}")));
    }
    Ok(complaints)
}
