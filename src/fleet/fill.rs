//! Fill: a database made from an archive or from another tenant, and compared with the manifest before anybody is served
//! from it.

use std::convert::Infallible;
use std::fs::File;
use std::io::Seek as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use super::backup::{BackupFiles, Manifest, input, named};
use super::dump::{self, Snapshot, facts_of, finished};
use super::{Doing, Fleet, FleetError, FleetServer, OperatorLogin, Progress, Watcher};
use crate::catalog::TenantRow;
use crate::migrate;
use crate::pg;
use crate::tenant::Lineage;

/// Most differences that are told.
const MAX_DIFFERENCES: usize = 20;
/// How often somebody who waits is told how far it is.
const LOOK: Duration = Duration::from_millis(200);

/// Where a database's content comes from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// An archive, with what its manifest says.
    Files(&'a BackupFiles, &'a Manifest),
    /// A tenant as it is now.
    Tenant(&'a TenantRow),
}

impl Fleet {
    /// Fills an empty database of an edition, and compares it with what the source was; then its owner runs `anonymise`. Gives
    /// its lineage and what should be known.
    pub(super) async fn fill(
        &self,
        server: &FleetServer,
        (name, edition): (&str, &str),
        source: Source<'_>,
        anonymise: Option<&str>,
        watcher: Watcher<'_>,
    ) -> Result<(Lineage, Vec<String>), FleetError> {
        let edition = self.edition(edition)?;
        self.prepare_for_edition(server, &edition, name).await?;
        let writer = self.make_operator(server.endpoint.name(), name).await?;
        let poured = tokio::select! {
            poured = self.pour(server, (name, &writer), source, watcher) => poured,
            () = watcher.stop.cancelled() => Err(FleetError::Interrupted(format!("filling database `{name}`"))),
        };
        let closed = self.drop_made(server.endpoint.name(), name, &writer).await;
        let (manifest, complaints) = poured?;
        closed?;
        let mut notes = Vec::new();
        watcher.tell(Progress::Comparing);
        let differences = self.differences_from(server, name, &manifest, &mut notes, watcher).await?;
        if !differences.is_empty() {
            let told = differences.iter().take(MAX_DIFFERENCES).cloned().collect::<Vec<_>>().join("\n  ");
            return Err(FleetError::Settings(format!(
                "what came out differs from what was backed up:\n  {told}\n  pg_restore said: {complaints}"
            )));
        }
        if let Some(sql) = anonymise {
            self.anonymise(server, name, sql, watcher).await?;
        }
        let lineage = manifest.tenant.lineage();
        notes.extend(edition.needed_by(lineage.version, &lineage.history));
        Ok((lineage, notes))
    }

    /// Runs `pg_restore` on the source, and writes the history. Gives the manifest, and what `pg_restore` complained about:
    /// it goes on past errors, because what every database begins with is there already.
    async fn pour(
        &self,
        server: &FleetServer,
        (name, writer): (&str, &OperatorLogin),
        source: Source<'_>,
        watcher: Watcher<'_>,
    ) -> Result<(Manifest, String), FleetError> {
        let endpoint = &server.endpoint;
        let (manifest, complaints) = match source {
            Source::Files(files, manifest) => {
                let path = files.archive();
                let file = File::open(&path).map_err(|error| named(&path, &error))?;
                // They share the place in the file that was read up to.
                let place = file.try_clone().map_err(|error| named(&path, &error))?;
                let mut restoring = dump::restore(endpoint, (name, writer), input(file), &[])?;
                let (status, complaints) = tokio::select! {
                    ended = finished("pg_restore", &mut restoring) => ended?,
                    never = follow(&place, manifest.archive.bytes, watcher) => match never {},
                };
                (manifest.clone(), whole(status, complaints)?)
            }
            Source::Tenant(row) => {
                let mut restoring = dump::restore(endpoint, (name, writer), Stdio::piped(), &[])?;
                let Some(sink) = restoring.stdin.take() else {
                    return Err(FleetError::File("pg_restore has no input".into()));
                };
                let (manifest, restored) =
                    tokio::join!(self.backup(row, "", sink, watcher), finished("pg_restore", &mut restoring));
                let (status, complaints) = restored?;
                let gave_up = |error: FleetError| FleetError::File(format!("{error}; {complaints}"));
                (manifest.map_err(gave_up)?, whole(status, complaints)?)
            }
        };
        let session = pg::connect(endpoint, &writer.login, name).await;
        let session = session.doing(|| format!("connecting to `{name}` to write its history"))?;
        manifest.history.write(&session).await?;
        session.close().await;
        Ok((manifest, complaints))
    }

    /// How a database differs from what a manifest says, one sentence each.
    async fn differences_from(
        &self,
        server: &FleetServer,
        name: &str,
        manifest: &Manifest,
        notes: &mut Vec<String>,
        watcher: Watcher<'_>,
    ) -> Result<Vec<String>, FleetError> {
        let mut differences = Vec::new();
        let facts = facts_of(server, name).await?;
        if facts.fingerprint().basis == manifest.fingerprint.basis {
            differences.extend(facts.difference(&manifest.facts).lines());
        } else {
            notes.push(format!(
                "the schema was not compared line by line: it comes from PostgreSQL {}, and two versions write schemas \
                 differently",
                manifest.postgres
            ));
        }
        let reader = self.make_reader(server.endpoint.name(), name).await?;
        let counted = async {
            let snapshot = Snapshot::take(&server.endpoint, name, &reader).await?;
            let lineage = migrate::lineage(snapshot.session(), &manifest.tenant.edition).await;
            let lineage = lineage.doing(|| format!("reading the history of `{name}`"))?;
            let unfilled = snapshot.unfilled_views().await?;
            let counted =
                (snapshot.rows().await?, snapshot.sequences().await?, snapshot.large_objects().await?);
            snapshot.close().await;
            Ok::<_, FleetError>((lineage, unfilled, counted))
        };
        let counted = tokio::select! {
            counted = counted => counted,
            () = watcher.stop.cancelled() => Err(FleetError::Interrupted(format!("comparing database `{name}`"))),
        };
        self.drop_made(server.endpoint.name(), name, &reader).await?;
        let (lineage, unfilled, (rows, sequences, large_objects)) = counted?;
        notes.extend(unfilled.iter().map(|view| {
            format!("materialized view {view} is empty, and can't be read before REFRESH MATERIALIZED VIEW {view}: its owner may \
                     not read what it shows, or it was empty where it comes from")
        }));
        if lineage != manifest.tenant.lineage() {
            differences.push("its history is another".into());
        }
        for (table, expected) in &manifest.rows {
            match rows.get(table) {
                Some(count) if count == expected => {}
                Some(count) => differences.push(format!("{table} has {count} row(s) where {expected} were")),
                None => differences.push(format!("{table} is missing")),
            }
        }
        let unset = manifest.sequences.keys().filter(|name| !sequences.contains_key(*name));
        differences.extend(unset.map(|sequence| format!("sequence {sequence} stands at its beginning")));
        if large_objects != manifest.large_objects {
            differences
                .push(format!("{large_objects} large object(s) where {} were", manifest.large_objects));
        }
        Ok(differences)
    }
}

/// Tells how far an archive was read.
async fn follow(mut place: &File, of: u64, watcher: Watcher<'_>) -> Infallible {
    let mut read = 0;
    loop {
        // It may go back for a moment.
        read = read.max(place.stream_position().unwrap_or(read));
        watcher.tell(Progress::Restoring { bytes: read, of });
        tokio::time::sleep(LOOK).await;
    }
}

/// What `pg_restore` complained about, when it came to its end.
fn whole(status: ExitStatus, complaints: String) -> Result<String, FleetError> {
    match status.code() {
        Some(_) => Ok(complaints),
        None => Err(FleetError::File(format!("pg_restore was ended by a signal ({status}): {complaints}"))),
    }
}
