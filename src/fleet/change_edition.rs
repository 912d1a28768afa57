//! Change of edition: a tenant's database goes on by another edition's files, from the version of them that it has.

use std::time::Duration;

use super::baseline::files_up_to;
use super::{Doing, EditionAdoption, Fleet, FleetError, IntoEdition, database};
use crate::catalog::TenantRow;
use crate::migrate::{BaselineError, Drift, Edition};
use crate::pg::AdvisoryLock;
use crate::policy::Limits;
use crate::tenant::{Lineage, State};

/// How long another command that is at work on the tenant is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Most differences that are told.
const TOLD: usize = 20;

impl Fleet {
    /// Makes a tenant one of another edition: its history says that the files of that edition up to the version were applied,
    /// in place of those before, and owners and rights are as they make them. No file is run, and no row is changed. Where its
    /// schema differs from what they make, that is refused, unless it is accepted for this reason.
    ///
    /// # Errors
    /// When the edition has no file of that version, its schema differs and that is not accepted, a migration of it is under
    /// way, it is declared to be of another edition, or a server refuses. Nothing is lost: run again, it goes on where it
    /// stopped.
    pub async fn change_edition(
        &self,
        slug: &str,
        into: IntoEdition<'_>,
        accept: Option<&str>,
    ) -> Result<EditionAdoption, FleetError> {
        let files = files_up_to(into)?;
        self.refuse_contradiction(into.edition).await?;
        let row = self.tenant(slug).await?;
        let from = self.changeable(&row, into)?;
        let (server, client) = self.admin(&row.record.server).await?;
        let key = self.keys.lock_key(&["tenant", row.record.id.as_str()]);
        let lock = AdvisoryLock::acquire(&client, key, LOCK_WAIT).await;
        let lock = lock.doing(|| format!("locking tenant `{slug}`"))?;
        let lock = lock.ok_or_else(|| FleetError::Busy(format!("tenant `{slug}`")))?;
        let changed = async {
            let name = row.record.database();
            let lineage = Lineage {
                edition: files.name.clone(),
                version: into.version,
                history: files.history_digest(into.version),
            };
            if !into.dry_run {
                self.keep_facts(server, &files, &lineage).await?;
            }
            let taken = self.take_in(server, &name, into, &files, Some(accept.is_some())).await;
            let (taken, notes) = taken.map_err(|error| refused(slug, into, error))?;
            if !into.dry_run {
                let (api_roles, temporary) = (self.settings.roles(), self.temporary(&files.name));
                server.unhindered(database::give_migrator(&client, &name, &api_roles, &temporary)).await?;
                let detail = serde_json::json!({
                    "from": { "edition": from.edition, "version": from.version, "files": taken.replaced },
                    "edition": lineage.edition, "baseline": lineage.version, "recorded": taken.recorded,
                    "changes": taken.changes.len(), "differences": taken.drift.len(),
                });
                let lineage = taken.history.lineage(&files.name);
                self.catalog.tenant_edition_changed(&row.record.id, &lineage, into.version, &detail).await?;
                if let (Some(reason), false) = (accept, taken.drift.is_empty()) {
                    self.accept(&row.record, &taken.drift, reason).await?;
                }
                // Somebody may have swept what no tenant had yet.
                self.keep_facts(server, &files, &lineage).await?;
                self.mark(&row.record.id).await;
            }
            let tenant = self.tenant(slug).await?;
            Ok(EditionAdoption::of(Some(tenant), into, name, taken, notes))
        };
        let changed = changed.await;
        lock.release(&client).await.doing(|| format!("unlocking tenant `{slug}`"))?;
        self.keep(&row.record.server, client);
        changed
    }

    /// Looks whether a tenant may become one of this edition, and gives what it is one of.
    fn changeable<'a>(&self, row: &'a TenantRow, into: IntoEdition<'_>) -> Result<&'a Lineage, FleetError> {
        let (record, Edition { name, .. }) = (&row.record, into.edition);
        let slug = &record.slug;
        let lineage = record.lineage().ok_or_else(|| {
            FleetError::Settings(format!(
                "tenant `{slug}` has an adopted database, of no edition: `manybox tenant adopt {slug} --database {} --edition \
                 {name} --baseline {}` takes it into one",
                record.database(),
                into.version
            ))
        })?;
        if !matches!(record.state, State::Active | State::Suspended) {
            return Err(FleetError::Settings(format!(
                "tenant `{slug}` is {}: only one that is active or suspended can be of another edition",
                record.state
            )));
        }
        // The same once more does nothing.
        if lineage.edition == *name && (row.baseline, lineage.version) != (Some(into.version), into.version) {
            return Err(FleetError::Settings(format!(
                "tenant `{slug}` is of edition `{name}` already, at version {}: `manybox migrate` brings it further, `manybox \
                 migrate repair` corrects its history",
                lineage.version
            )));
        }
        let declared =
            self.settings.tenants.get(slug.as_str()).and_then(|declared| declared.edition.as_ref());
        if let Some(declared) = declared.filter(|declared| *declared != name) {
            return Err(FleetError::Settings(format!(
                "tenant `{slug}` is declared to be of edition `{declared}`, and `apply` would find a conflict: change \
                 [tenants.{slug}] first"
            )));
        }
        let (_, api) = record.overrides.applied_to(Limits::default(), self.settings.edition_api(name));
        self.settings.check_roles(&api)?;
        Ok(lineage)
    }
}

/// The refusal in the words of this command.
fn refused(slug: &str, into: IntoEdition<'_>, error: FleetError) -> FleetError {
    let drift: Box<Drift> = match error {
        FleetError::Baseline { source: BaselineError::Drift(drift), .. } => drift,
        FleetError::Baseline { source, .. } => {
            return FleetError::Settings(format!("tenant `{slug}` stays as it is: {source}"));
        }
        other => return other,
    };
    let mut lines = drift.lines();
    let more = lines.len().saturating_sub(TOLD);
    lines.truncate(TOLD);
    if more > 0 {
        lines.push(format!("and {more} more: --dry-run --json shows all"));
    }
    FleetError::Settings(format!(
        "tenant `{slug}` stays as it is: its schema differs from what edition `{}` has at version {}, in {} place(s):\n  {}\n\
         change that in its database, or accept it with --accept --reason TEXT",
        into.edition.name,
        into.version,
        drift.len(),
        lines.join("\n  ")
    ))
}
