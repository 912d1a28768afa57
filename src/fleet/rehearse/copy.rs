//! The copy: a dump of the tenant's database by a login of that database, restored by the copy's migrator.
//!
//! CREATE DATABASE … TEMPLATE would be quicker, but takes a source without sessions: a tenant that is served has some.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::PoisonError;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio_postgres::Client;

use super::{Scratch, facts_of};
use crate::catalog::TenantRow;
use crate::fleet::roles::{MIGRATORS, OWNER};
use crate::fleet::{Doing, Fleet, FleetError, FleetServer};
use crate::pg::{self, Endpoint, Login};

/// Longest part of a program's complaints that is told.
const MAX_COMPLAINT: usize = 2000;

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

/// Tables whose owner doesn't see all rows, as pg_dump's patterns.
const FORCED: &str = r#"
SELECT pg_catalog.format('"%s"."%s"', pg_catalog.replace(n.nspname, '"', '""'), pg_catalog.replace(c.relname, '"', '""'))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND c.relforcerowsecurity ORDER BY 1"#;

impl Fleet {
    /// Fills an empty database with a tenant's. Gives what could not be copied.
    pub(super) async fn copy_into(
        &self,
        scratch: &Scratch,
        tenant: &TenantRow,
    ) -> Result<Vec<String>, FleetError> {
        let server = self.servers.get(&tenant.record.server)?;
        let source = tenant.record.database();
        let reader = self.login_of_copy(server, scratch, &source).await?;
        let writer = self.login_of_copy(server, scratch, &scratch.name).await?;
        let copied = copy(server, (&source, &reader), (&scratch.name, &writer)).await;
        self.drop_logins(server, scratch).await?;
        copied
    }

    /// A login for this database, which is dropped with the copy at the latest.
    async fn login_of_copy(
        &self,
        server: &FleetServer,
        scratch: &Scratch,
        database: &str,
    ) -> Result<Login, FleetError> {
        let operator = self.make_operator(server.endpoint.name(), database).await?;
        let login = operator.login.clone();
        scratch.logins.lock().unwrap_or_else(PoisonError::into_inner).push((database.to_owned(), operator));
        Ok(login)
    }
}

/// Copies from one database to the other, each with a login of its own, which nobody else has.
async fn copy(
    server: &FleetServer,
    (source, reader): (&str, &Login),
    (scratch, writer): (&str, &Login),
) -> Result<Vec<String>, FleetError> {
    let session = pg::connect(&server.endpoint, reader, source).await;
    let session = session.doing(|| format!("connecting to `{source}` to copy it"))?;
    let forced = forced(&session).await?;
    let history = History::read(&session).await?;
    session.close().await;

    let complaints = transfer(&server.endpoint, (source, reader), (scratch, writer), &forced).await?;

    let session = pg::connect(&server.endpoint, writer, scratch).await;
    let session = session.doing(|| format!("connecting to `{scratch}` to write its history"))?;
    history.write(&session).await?;
    session.close().await;

    let rows = |table: &String| {
        format!("the rows of {table}: row-level security is forced on its owner, who copies")
    };
    let mut left_out: Vec<String> = forced.iter().map(rows).collect();
    let difference = facts_of(server, scratch).await?.difference(&facts_of(server, source).await?);
    left_out.extend(
        difference.lines().into_iter().take(MAX_DIFFERENCES).map(|line| format!("as it is there: {line}")),
    );
    if !difference.is_empty() && !complaints.is_empty() {
        left_out.push(format!("pg_restore said: {complaints}"));
    }
    Ok(left_out)
}

async fn forced(session: &Client) -> Result<Vec<String>, FleetError> {
    let rows = session.query(FORCED, &[]).await.doing(|| "looking for forced row-level security".into())?;
    rows.iter().map(|row| row.try_get(0).doing(|| "reading the names of tables".into())).collect()
}

/// The tables of the schema `manybox`; a database of an older one lacks some.
const TABLES: [&str; 3] =
    ["manybox.schema_history", "manybox.schema_unfinished", "manybox.schema_repeatable"];

/// What was applied to a database: the rows of each table as JSON, with the columns that it has there.
struct History(Vec<(&'static str, String)>);

impl History {
    async fn read(session: &Client) -> Result<Self, FleetError> {
        become_writer(session).await?;
        let mut tables = Vec::with_capacity(TABLES.len());
        for table in TABLES {
            let reading = || format!("reading {table} of the tenant");
            let there = "SELECT pg_catalog.to_regclass($1::pg_catalog.text) IS NOT NULL";
            let there =
                session.query_one(there, &[&table]).await.and_then(|row| row.try_get(0)).doing(reading)?;
            if there {
                let all = format!(
                    "SELECT COALESCE(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(r)), '[]')::pg_catalog.text FROM {table} r"
                );
                let rows =
                    session.query_one(&all, &[]).await.and_then(|row| row.try_get(0)).doing(reading)?;
                tables.push((table, rows));
            }
        }
        Ok(Self(tables))
    }

    async fn write(&self, session: &Client) -> Result<(), FleetError> {
        become_writer(session).await?;
        for (table, rows) in &self.0 {
            let sql = format!(
                "INSERT INTO {table} SELECT r.* FROM pg_catalog.jsonb_populate_recordset(
                     NULL::{table}, $1::pg_catalog.text::pg_catalog.jsonb) r"
            );
            session.execute(&sql, &[rows]).await.doing(|| format!("writing {table} of the copy"))?;
        }
        Ok(())
    }
}

async fn become_writer(session: &Client) -> Result<(), FleetError> {
    let sql = format!("SET search_path = pg_catalog, pg_temp; SET ROLE {MIGRATORS}");
    session.batch_execute(&sql).await.doing(|| format!("becoming `{MIGRATORS}`"))
}

/// Runs `pg_dump` into `pg_restore`, both as the owner. Gives what the second complained about: it goes on past errors,
/// because what every database begins with is there already.
async fn transfer(
    endpoint: &Endpoint,
    (source, reader): (&str, &Login),
    (scratch, writer): (&str, &Login),
    forced: &[String],
) -> Result<String, FleetError> {
    let role = format!("--role={OWNER}");
    let mut dump = program("pg_dump", endpoint, source, reader);
    // The archive form, which no psql reads: names in it can't become its commands.
    dump.args([
        "--format=custom",
        "--compress=0",
        "--no-subscriptions",
        "--no-blobs",
        "--lock-wait-timeout=5s",
    ]);
    dump.args(["--exclude-schema=manybox", &role]);
    dump.args(forced.iter().map(|table| format!("--exclude-table-data={table}")));
    let mut dump = dump.stdout(Stdio::piped()).spawn().map_err(|error| not_started("pg_dump", &error))?;
    let archive: Stdio = match dump.stdout.take().map(TryInto::try_into) {
        Some(Ok(archive)) => archive,
        _ => return Err(FleetError::File("pg_dump's output can't be handed to pg_restore".into())),
    };
    let mut restore = program("pg_restore", endpoint, scratch, writer);
    let mut restore = restore
        .arg(&role)
        .stdin(archive)
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| not_started("pg_restore", &error))?;
    let (dump_said, restore_said) = (dump.stderr.take(), restore.stderr.take());
    let (said, complaints, dumped, restored) =
        tokio::join!(beginning(dump_said), beginning(restore_said), dump.wait(), restore.wait());
    let ended = |name: &str, outcome: std::io::Result<std::process::ExitStatus>| {
        outcome.map_err(|error| FleetError::File(format!("{name}: {error}")))
    };
    if !ended("pg_dump", dumped)?.success() {
        // Where pg_restore gave up, pg_dump only says that nobody listens.
        return Err(FleetError::File(format!("pg_dump could not copy `{source}`: {said} {complaints}")));
    }
    ended("pg_restore", restored)?;
    Ok(complaints)
}

/// One of PostgreSQL's client programs, which dies with us: from `MANYBOX_PG_BIN` if that is set, or the PATH.
fn program(name: &str, endpoint: &Endpoint, database: &str, login: &Login) -> Command {
    let folder = std::env::var_os("MANYBOX_PG_BIN").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let mut command = Command::new(folder.map_or_else(|| name.into(), |folder| folder.join(name)));
    command.args(endpoint.psql_arguments(&login.user, database)).arg("--no-password");
    if let Some(password) = &login.password {
        command.env("PGPASSWORD", password.expose());
    }
    command.env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn not_started(name: &str, error: &std::io::Error) -> FleetError {
    FleetError::File(format!(
        "{name} could not be started: {error}; a rehearsal copies by it: install PostgreSQL's client programs, or say          in MANYBOX_PG_BIN where they are"
    ))
}

/// The beginning of what a program says. The rest is read as well, so that it is not held up.
async fn beginning(output: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut output) = output else { return String::new() };
    let (mut kept, mut buffer) = (Vec::new(), [0_u8; 4096]);
    while let Ok(read @ 1..) = output.read(&mut buffer).await {
        let room = MAX_COMPLAINT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
    String::from_utf8_lossy(&kept).split_whitespace().collect::<Vec<_>>().join(" ")
}
