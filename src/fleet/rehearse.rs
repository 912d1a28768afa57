//! Rehearsal: a tenant's pending files on a copy of its database, which nobody else can connect to and which is then
//! dropped.

mod copy;
mod measure;

pub use measure::{FileRehearsal, TableLock, TableRewrite};

use std::time::Instant;

use serde::Serialize;

use super::dump::facts_of;
use super::scratch::Scratch;
use super::{Fleet, FleetError, FleetServer};
use crate::catalog::TenantRow;
use crate::migrate::{Drift, Edition, Facts};
use crate::tenant::Lineage;

/// What came of a rehearsal.
#[derive(Debug, Clone, Serialize)]
pub struct Rehearsal {
    /// The tenant that was copied.
    pub slug: String,
    /// Its edition.
    pub edition: String,
    /// The version it has.
    pub before: i64,
    /// The version that the copy reached.
    pub after: i64,
    /// How large the tenant's database is.
    pub bytes: i64,
    /// How long it took to copy it.
    pub copy_seconds: f64,
    /// The files that were applied, in their order.
    pub files: Vec<FileRehearsal>,
    /// Why the copy went no further.
    pub failure: Option<String>,
    /// How the copy differs from what the files make of the edition's template; `None` when there was nothing to compare
    /// it with, or it went no further.
    pub drift: Option<Drift>,
    /// What of the tenant's database the copy did not have, and what could not be looked at.
    pub left_out: Vec<String>,
}

impl Rehearsal {
    /// Whether all files were applied, and the copy is what they make.
    pub fn is_good(&self) -> bool {
        self.failure.is_none() && self.drift.as_ref().is_none_or(Drift::is_empty)
    }
}

impl Fleet {
    /// Applies the files that a tenant lacks to a copy of its database, and says what they did. The tenant itself is only
    /// read, by a login made for that. `most` bounds the size of what is copied, in bytes. When `stop` comes first, the
    /// copy is dropped and nothing said.
    ///
    /// # Errors
    /// When the tenant can't be copied: it is too large, the client programs are missing, or a server refuses. A file that
    /// fails is no error, but what the rehearsal was for.
    pub async fn rehearse(
        &self,
        tenant: &TenantRow,
        edition: &Edition,
        most: u64,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<Rehearsal>, FleetError> {
        let server = self.servers.get(&tenant.record.server)?;
        let scratch = self.make_scratch(server, &edition.name, "template0").await?;
        let rehearsed = tokio::select! {
            rehearsed = self.rehearse_in(&scratch, tenant, edition, most) => rehearsed.map(Some),
            () = stop => Ok(None),
        };
        let dropped = self.drop_scratch(server, scratch).await;
        let rehearsed = rehearsed?;
        dropped.map(|()| rehearsed)
    }

    async fn rehearse_in(
        &self,
        scratch: &Scratch,
        tenant: &TenantRow,
        edition: &Edition,
        most: u64,
    ) -> Result<Rehearsal, FleetError> {
        let record = &tenant.record;
        let server = self.servers.get(&record.server)?;
        let slug = record.slug.to_string();
        let lineage =
            record.lineage().ok_or_else(|| FleetError::Adopted(slug.clone(), "rehearsed by an edition"))?;
        let bytes = copy::size(&scratch.holder, &record.database()).await?;
        if u64::try_from(bytes).unwrap_or_default() > most {
            return Err(FleetError::Settings(format!(
                "the database of `{slug}` has {} MB, more than the {} MB that a rehearsal may copy; allow more with \
                 --max-size, or take a smaller tenant",
                bytes / 1_000_000,
                most / 1_000_000
            )));
        }
        let begun = Instant::now();
        self.prepare_for_edition(server, edition, &scratch.name).await?;
        let mut left_out = self.copy_into(scratch, tenant).await?;
        let copy_seconds = begun.elapsed().as_secs_f64();
        let measured = measure::files(self, server, &scratch.name, edition, lineage.version).await?;
        let drift = match measured.failure {
            Some(_) => None,
            None => match self.drift_of_copy(server, edition, &scratch.name).await {
                Ok(drift) => Some(drift),
                Err(error) => {
                    left_out.push(format!("drift: {error}"));
                    None
                }
            },
        };
        let rehearsal = Rehearsal {
            slug,
            edition: edition.name.clone(),
            before: lineage.version,
            after: measured.after.unwrap_or(lineage.version),
            bytes,
            copy_seconds,
            files: measured.files,
            failure: measured.failure,
            drift,
            left_out,
        };
        let version = edition.latest();
        let files =
            Lineage { edition: edition.name.clone(), version, history: edition.history_digest(version) };
        self.catalog.rehearsed(&record.id, &files, rehearsal.is_good()).await?;
        Ok(rehearsal)
    }

    /// How a copy that has all files differs from what they make.
    async fn drift_of_copy(
        &self,
        server: &FleetServer,
        edition: &Edition,
        copy: &str,
    ) -> Result<Drift, FleetError> {
        let expected = self.facts_after(server, edition).await?;
        Ok(facts_of(server, copy).await?.difference(&expected))
    }

    /// What the edition's files make: as its template says, or as they make it of a copy of the template.
    async fn facts_after(&self, server: &FleetServer, edition: &Edition) -> Result<Facts, FleetError> {
        let (name, version) = (server.endpoint.name(), edition.latest());
        let lineage =
            Lineage { edition: edition.name.clone(), version, history: edition.history_digest(version) };
        let basis = self.fingerprint_basis(name).await?;
        if let Some(kept) = self.kept_facts(name, &lineage, &basis).await? {
            return Ok(kept);
        }
        let templates = self.catalog.templates().await?;
        let template = templates
            .iter()
            .find(|t| t.server == name && t.lineage.edition == edition.name && t.state == "ready")
            .ok_or_else(|| FleetError::Settings(format!("edition `{}` has no template yet", edition.name)))?;
        let scratch = self.make_scratch(server, &edition.name, &template.database).await?;
        let made = async {
            let measured = self.migrate_scratch(server, &scratch.name, edition, None).await?;
            measured.map_err(|failure| FleetError::Migrate {
                doing: format!("applying the files to a copy of the template of edition `{}`", edition.name),
                source: Box::new(failure),
            })?;
            facts_of(server, &scratch.name).await
        };
        let made = made.await;
        self.drop_scratch(server, scratch).await?;
        made
    }
}
