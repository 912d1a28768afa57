//! Lineages: an edition's files beside what the catalog knows of every database, and what the databases themselves say.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt as _};

use super::{Fleet, FleetError, roles};
use crate::catalog::{Filter, Template, TenantRow};
use crate::migrate::{self, Contradiction, Edition, History, Member, Standing, Whose, standing};
use crate::tenant::{Lineage, State, TenantId};

/// Databases that are asked, one after the other, which file differs.
const ASKED: usize = 3;

/// A tenant whose database was asked what was applied to it.
#[derive(Debug, serde::Serialize)]
pub struct ReadLineage {
    /// The tenant.
    pub slug: String,
    #[serde(skip)]
    id: TenantId,
    /// What the catalog knew.
    pub known: Lineage,
    /// What its database says; `None` when it could not be asked.
    pub found: Option<Lineage>,
    /// Why it could not be asked.
    pub failure: Option<String>,
}

/// Whether the edition's files contradict these templates and tenants, by what the catalog knows of them. Tenants that are
/// quarantined were set aside, and have no say.
pub fn contradiction_among(
    edition: &Edition,
    templates: &[Template],
    tenants: &[TenantRow],
) -> Option<Contradiction> {
    let ready = templates.iter().filter(|t| t.state == "ready");
    let templates = ready.map(|t| Member { whose: Whose::Template(&t.server), lineage: &t.lineage });
    let asked = |row: &&TenantRow| has_database(row.record.state) && row.quarantined.is_none();
    let tenants = tenants.iter().filter(asked).filter_map(|row| {
        let lineage = row.record.lineage()?;
        Some(Member { whose: Whose::Tenant(row.record.slug.as_str()), lineage })
    });
    migrate::contradiction(edition, &templates.chain(tenants).collect::<Vec<_>>())
}

fn has_database(state: State) -> bool {
    matches!(state, State::Active | State::Suspended | State::Retired)
}

/// Takes a database's history in among those that lack only files below their newest version, if it is one, and the one that
/// the catalog knows of.
fn admit(edition: &mut Edition, known: &Lineage, read: Result<History, FleetError>) {
    match read {
        Ok(history) if history.lineage(&known.edition) == *known => {
            if let Some(below) = history.gaps(edition) {
                edition.gaps.insert(history.versions_digest(), below);
            }
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(edition = edition.name, %error, "a history can't be read"),
    }
}

impl Fleet {
    /// Refuses files that are not those that the fleet was made by, before anything is made from them. Which file it is, one
    /// of the databases is asked.
    ///
    /// # Errors
    /// [`FleetError::Contradiction`], or when the catalog can't be read.
    pub async fn refuse_contradiction(&self, edition: &Edition) -> Result<(), FleetError> {
        // Held over the check, so that of many creations in one command one checks for all.
        let mut agreed = self.agreed.lock().await;
        let templates = self.catalog.templates().await?;
        let of_edition = templates.iter().filter(|t| t.lineage.edition == edition.name && t.state == "ready");
        let agreement = (edition.history_digest(edition.latest()), of_edition.cloned().collect::<Vec<_>>());
        if agreed.get(&edition.name) == Some(&agreement) {
            return Ok(());
        }
        let filter = Filter { edition: Some(edition.name.clone()), ..Filter::default() };
        let tenants = self.catalog.tenants(&filter).await?;
        let contradiction = match contradiction_among(edition, &templates, &tenants) {
            Some(_) => contradiction_among(&self.with_admitted_gaps(edition).await?, &templates, &tenants),
            None => None,
        };
        if let Some(mut contradiction) = contradiction {
            contradiction.file = self.differing_file(edition, &contradiction, &agreement.1, &tenants).await;
            return Err(FleetError::Contradiction(Box::new(contradiction)));
        }
        agreed.insert(edition.name.clone(), agreement);
        Ok(())
    }

    /// The edition with the histories that rollouts may bring up out of order, as it was when they were planned.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn with_admitted_gaps(&self, edition: &Edition) -> Result<Edition, FleetError> {
        let mut admitted = edition.clone();
        for planned in self.catalog.planned_gaps(&edition.name).await? {
            // By files that begin as those of today do: by others the same history may lack more.
            if edition.history_digest(planned.version) == planned.history {
                admitted.gaps.extend(planned.gaps);
            }
        }
        Ok(admitted)
    }

    /// The edition with the histories, of tenants and templates, that lack nothing but files below their newest version: one
    /// database of each history is asked for it.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn with_gaps(&self, edition: &Edition) -> Result<Edition, FleetError> {
        let mut admitted = edition.clone();
        let filter = Filter { edition: Some(edition.name.clone()), ..Filter::default() };
        let templates = self.catalog.templates().await?;
        let rows = self.catalog.tenants(&filter).await?;
        let mut asked: BTreeMap<&str, usize> = BTreeMap::new();
        let wanted = |admitted: &Edition, lineage: &Lineage| {
            lineage.edition == edition.name && standing(admitted, lineage) == Standing::Divergent
        };
        for row in rows.iter().filter(|row| has_database(row.record.state)) {
            let Some(lineage) = row.record.lineage().filter(|lineage| wanted(&admitted, lineage)) else {
                continue;
            };
            let times = asked.entry(&lineage.history).or_default();
            *times += 1;
            if *times <= ASKED {
                let read = self.history(&row.record.server, &row.record.database()).await;
                admit(&mut admitted, lineage, read);
            }
        }
        for template in templates.iter().filter(|t| t.state == "ready") {
            if wanted(&admitted, &template.lineage) {
                let read = self.template_history(template).await;
                admit(&mut admitted, &template.lineage, read);
            }
        }
        Ok(admitted)
    }

    /// The names of the edition's repeatable files that these tenants lack, or have otherwise than they are now: one database
    /// of each kind is asked. `None` when that can't be told, or none of them lacks any.
    pub async fn repeats<'r>(
        &self,
        edition: &Edition,
        tenants: impl Iterator<Item = &'r TenantRow>,
    ) -> Option<BTreeSet<String>> {
        let (mut repeats, mut asked) = (BTreeSet::new(), BTreeMap::new());
        for row in tenants {
            let Some(lineage) = row.record.lineage().filter(|lineage| lineage.edition == edition.name) else {
                continue;
            };
            if !edition.has_other_repeatables(&lineage.history) {
                continue;
            }
            // As many of a kind as there are tries, until one answers.
            let (times, answered) =
                asked.entry(Edition::repeatables_in(&lineage.history)).or_insert((0, false));
            if *answered || *times == ASKED {
                continue;
            }
            *times += 1;
            match self.history(&row.record.server, &row.record.database()).await {
                Ok(history) => {
                    repeats.extend(history.repeats(edition));
                    *answered = true;
                }
                Err(error) => {
                    tracing::warn!(tenant.slug = %row.record.slug, %error, "its history can't be read")
                }
            }
        }
        (!asked.is_empty() && asked.values().all(|(_, answered)| *answered)).then_some(repeats)
    }

    /// Which file differs, by the history of one of the databases that contradict it; `None` when none could be asked.
    async fn differing_file(
        &self,
        edition: &Edition,
        contradiction: &Contradiction,
        templates: &[Template],
        tenants: &[TenantRow],
    ) -> Option<String> {
        let contradicts =
            |row: &&TenantRow| contradiction.tenants.iter().any(|slug| *slug == row.record.slug.as_str());
        for row in tenants.iter().filter(contradicts).take(ASKED) {
            match self.history(&row.record.server, &row.record.database()).await {
                Ok(history) => return history.disagreement(edition),
                Err(error) => {
                    tracing::warn!(tenant.slug = %row.record.slug, %error, "its history can't be read");
                }
            }
        }
        for template in templates.iter().filter(|t| contradiction.templates.contains(&t.server)) {
            match self.template_history(template).await {
                Ok(history) => return history.disagreement(edition),
                Err(error) => {
                    tracing::warn!(template = template.database, %error, "its history can't be read");
                }
            }
        }
        None
    }

    /// What was applied to a database that manybox made, by its own history.
    ///
    /// # Errors
    /// When its migrator can't be had, or the history is not one that manybox wrote.
    pub async fn history(&self, server: &str, database: &str) -> Result<History, FleetError> {
        let migrator = self.migrator(server, database).await?;
        let history = History::read(&migrator, &roles::of_tenants()).await;
        self.close_migrator(server, migrator).await?;
        history.map_err(|source| FleetError::History { database: database.to_owned(), source })
    }

    /// The same of a sealed template.
    async fn template_history(&self, template: &Template) -> Result<History, FleetError> {
        let Template { server, database, lineage, .. } = template;
        let (access, client) = self.admin(server).await?;
        let lock = self.lock_template(&client, server, &lineage.edition).await?;
        let history = self.in_copy(&client, template, async |copy| {
            let admin = access.connect_admin_inside(copy).await?;
            let history = History::read(&admin, &roles::of_tenants_for_admin()).await;
            admin.close().await;
            history.map_err(|source| FleetError::History { database: database.clone(), source })
        });
        let history = history.await;
        self.unlock_template(&client, lock).await?;
        history
    }

    /// Asks the databases of the tenants that match what was applied to them, `jobs` at a time, and corrects the catalog
    /// where it knew otherwise: after a database was restored from an older dump, or changed by hand. Tells `progress` of each.
    ///
    /// # Errors
    /// When the catalog can't be read or changed. A database that can't be asked is told of in its place.
    pub async fn read_lineages(
        &self,
        filter: &Filter,
        jobs: usize,
        progress: &(dyn Fn(&ReadLineage) + Sync),
    ) -> Result<Vec<ReadLineage>, FleetError> {
        let rows = self.catalog.tenants(filter).await?;
        let asked = rows.iter().filter(|row| has_database(row.record.state)).filter_map(|row| {
            let known = row.record.lineage()?.clone();
            Some(async move {
                let record = &row.record;
                let read = self.history(&record.server, &record.database()).await;
                let (found, failure) = match read {
                    Ok(history) => (Some(history.lineage(&known.edition)), None),
                    Err(error) => (None, Some(error.to_string())),
                };
                ReadLineage { slug: record.slug.to_string(), id: record.id.clone(), known, found, failure }
            })
        });
        let mut asked = stream::iter(asked).buffered(jobs.max(1));
        let mut all = Vec::with_capacity(rows.len());
        while let Some(read) = asked.next().await {
            if let Some(found) = read.found.as_ref().filter(|found| **found != read.known) {
                let detail = serde_json::json!({ "known": read.known, "found": found });
                self.catalog.tenant_lineage_corrected(&read.id, found, "history-read", &detail).await?;
            }
            progress(&read);
            all.push(read);
        }
        Ok(all)
    }
}
