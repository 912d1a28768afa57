//! Backup: a tenant's database as an archive of `pg_dump`'s, and a manifest that says what it is of and what must be in it.

mod files;
mod manifest;
mod run;

pub use files::{BackupFiles, backup_stem, write_whole};
pub(super) use files::{named, written};
pub use manifest::{ArchiveManifest, Manifest, TenantManifest};
pub use run::BackupRun;

use std::process::Stdio;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::process::Child;
use tokio::time::timeout;

use super::dump::{self, HistoryRows, Snapshot, beginning, facts_of};
use super::{Doing, Fleet, FleetError, FleetServer, OperatorLogin, Progress, Watcher};
use crate::catalog::TenantRow;
use crate::migrate;
use crate::tenant::{Lineage, State};

/// How long `pg_dump` may say nothing. A tenant's code can hold a lock that it waits for; those it gives up by itself.
const STALL: Duration = Duration::from_secs(600);
const BUFFER: usize = 256 * 1024;

impl Fleet {
    /// Writes an archive of a tenant's database to `sink` while it is served. What it says is one moment's, all rows are in
    /// it whatever row-level security says, and large objects are. The manifest calls the archive `file`.
    ///
    /// # Errors
    /// When the tenant has no database that manybox made, the watcher stopped it, a server refuses, the client programs are
    /// missing or too old, or the tenant's schema changed meanwhile: what was written is of no use then.
    pub async fn backup(
        &self,
        tenant: &TenantRow,
        file: &str,
        sink: impl AsyncWrite + Unpin,
        watcher: Watcher<'_>,
    ) -> Result<Manifest, FleetError> {
        let record = &tenant.record;
        let lineage = record
            .lineage()
            .ok_or_else(|| FleetError::Adopted(record.slug.to_string(), "backed up, but by its owner"))?;
        if !matches!(record.state, State::Active | State::Suspended | State::Retired) {
            let (slug, state) = (&record.slug, record.state);
            return Err(FleetError::Settings(format!(
                "tenant `{slug}` is {state}: it has nothing to back up"
            )));
        }
        let (server, database) = (self.servers.get(&record.server)?, record.database());
        let reader = self.make_reader(&record.server, &database).await?;
        let archiving = archive(server, (&database, &reader), &lineage.edition, sink, watcher);
        let archived = tokio::select! {
            archived = archiving => archived,
            () = watcher.stop.cancelled() => Err(FleetError::Interrupted(format!("the backup of `{}`", record.slug))),
        };
        let dropped = self.drop_made(&record.server, &database, &reader).await;
        let archived = archived?;
        dropped?;
        // What it chains may lag behind by some seconds.
        let journal = self.catalog.journal_head().await?;
        Ok(Manifest {
            format: manifest::FORMAT,
            journal,
            made_at: OffsetDateTime::now_utc(),
            tenant: TenantManifest::of(tenant, &archived.lineage),
            postgres: archived.postgres,
            archive: ArchiveManifest {
                file: file.to_owned(),
                bytes: archived.bytes,
                sha256: archived.sha256,
            },
            rows: archived.rows,
            sequences: archived.sequences,
            large_objects: archived.large_objects,
            history: archived.history,
            fingerprint: archived.facts.fingerprint(),
            facts: archived.facts,
        })
    }
}

/// What an archive holds, and how it came out.
struct Archived {
    lineage: Lineage,
    postgres: String,
    bytes: u64,
    sha256: String,
    rows: std::collections::BTreeMap<String, i64>,
    sequences: std::collections::BTreeMap<String, i64>,
    large_objects: i64,
    history: HistoryRows,
    facts: migrate::Facts,
}

async fn archive(
    server: &FleetServer,
    (database, reader): (&str, &OperatorLogin),
    edition: &str,
    sink: impl AsyncWrite + Unpin,
    watcher: Watcher<'_>,
) -> Result<Archived, FleetError> {
    let snapshot = Snapshot::take(&server.endpoint, database, reader).await?;
    let session = snapshot.session();
    let facts = facts_of(server, database).await?;
    let history = HistoryRows::read(session).await?;
    let lineage = migrate::lineage(session, edition).await;
    let lineage = lineage.doing(|| format!("reading the history of `{database}`"))?;
    let postgres = session.query_one("SELECT pg_catalog.current_setting('server_version')", &[]).await;
    let postgres = postgres.and_then(|row| row.try_get(0)).doing(|| "asking for the version".into())?;
    let sequences = snapshot.sequences().await?;
    let mut dumping = dump::dump(&server.endpoint, (database, reader), &snapshot.name, &["--blobs"]).await?;
    let counting = async { Ok((snapshot.rows().await?, snapshot.large_objects().await?)) };
    let ((bytes, sha256), (rows, large_objects)) =
        tokio::try_join!(copy_out(&mut dumping, database, sink, watcher), counting)?;
    snapshot.close().await;
    if facts_of(server, database).await? != facts {
        return Err(FleetError::Busy(format!("the schema of database `{database}`")));
    }
    Ok(Archived { lineage, postgres, bytes, sha256, rows, sequences, large_objects, history, facts })
}

/// Hands on what the program writes, and gives how many bytes that was and their SHA-256.
async fn copy_out(
    dumping: &mut Child,
    database: &str,
    sink: impl AsyncWrite + Unpin,
    watcher: Watcher<'_>,
) -> Result<(u64, String), FleetError> {
    let (output, errors) = (dumping.stdout.take(), dumping.stderr.take());
    let copying = async {
        let Some(output) = output else { return Err(FleetError::File("pg_dump has no output".into())) };
        let copied = copy(output, sink, watcher).await;
        if copied.is_err() {
            // Its errors end with it.
            let _ = dumping.start_kill();
        }
        copied
    };
    let (copied, said) = tokio::join!(copying, beginning(errors));
    let ended = dumping.wait().await.map_err(|error| FleetError::File(format!("pg_dump: {error}")))?;
    let copied = copied?;
    if !ended.success() {
        return Err(FleetError::File(format!("pg_dump could not dump `{database}`: {said}")));
    }
    Ok(copied)
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut sink: impl AsyncWrite + Unpin,
    watcher: Watcher<'_>,
) -> Result<(u64, String), FleetError> {
    let (mut buffer, mut bytes, mut digest) = (vec![0_u8; BUFFER], 0_u64, Context::new(&SHA256));
    loop {
        let Ok(read) = timeout(STALL, from.read(&mut buffer)).await else {
            let stall = humantime::format_duration(STALL);
            return Err(FleetError::File(format!("pg_dump said nothing for {stall} and was ended")));
        };
        let read = read.map_err(|error| FleetError::File(format!("reading from pg_dump: {error}")))?;
        if read == 0 {
            break;
        }
        let piece = &buffer[..read];
        digest.update(piece);
        sink.write_all(piece).await.map_err(not_written)?;
        bytes += read as u64;
        watcher.tell(Progress::Dumping { bytes });
    }
    sink.flush().await.map_err(not_written)?;
    Ok((bytes, hex(digest.finish().as_ref())))
}

fn not_written(error: std::io::Error) -> FleetError {
    FleetError::File(format!("writing the archive: {error}"))
}

/// Bytes as a manifest writes them.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A program's standard input that reads this file.
pub(super) fn input(file: std::fs::File) -> Stdio {
    file.into()
}
