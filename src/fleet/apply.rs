//! Apply: what the settings declare and the fleet does not have yet, as a plan and then as deeds. Never deletes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fleet, FleetError, TenantSpec};
use crate::catalog::{Filter, TenantRow};
use crate::policy::Overrides;
use crate::settings::Declared;
use crate::tenant::{BaseUrl, Slug, State};

/// One thing that `apply` would do.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Change {
    /// A declared tenant that isn't there.
    Create {
        /// Its slug.
        slug: String,
        /// Its edition.
        edition: String,
        /// Its server.
        server: String,
    },
    /// A creation that a killed command began.
    Finish {
        /// Its slug.
        slug: String,
        /// Its edition.
        edition: String,
        /// Its server.
        server: String,
    },
    /// A change of state that has not reached the server.
    Settle {
        /// Its slug.
        slug: String,
        /// The state.
        state: State,
    },
    /// A tenant whose tier, settings or base URLs are not as declared.
    Update {
        /// Its slug.
        slug: String,
        /// What differs.
        what: Vec<&'static str>,
    },
    /// A tenant whose login may open another number of connections on its server than the settings say.
    Limit {
        /// Its slug.
        slug: String,
        /// As many as now; -1 for no limit.
        is: i32,
        /// As many as the settings say.
        wanted: i32,
    },
    /// A declared tenant that `apply` can't make as declared, and why.
    Conflict {
        /// Its slug.
        slug: String,
        /// Why, and what to do.
        reason: String,
    },
}

impl Change {
    /// The tenant's slug.
    pub fn slug(&self) -> &str {
        match self {
            Self::Create { slug, .. }
            | Self::Finish { slug, .. }
            | Self::Settle { slug, .. }
            | Self::Update { slug, .. }
            | Self::Limit { slug, .. }
            | Self::Conflict { slug, .. } => slug,
        }
    }

    /// What would be done, in words.
    pub fn words(&self) -> String {
        match self {
            Self::Create { edition, server, .. } => format!("create (edition {edition}, server {server})"),
            Self::Finish { .. } => "finish its creation".into(),
            Self::Settle { state, .. } => format!("make its server follow its state ({state})"),
            Self::Update { what, .. } => format!("update {}", what.join(", ")),
            Self::Limit { is, wanted, .. } => {
                format!("let its login have {wanted} connections instead of {is}")
            }
            Self::Conflict { reason, .. } => format!("conflict: {reason}"),
        }
    }
}

/// All that `apply` would do, by slug.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Plan {
    /// One entry a tenant at most.
    pub changes: Vec<Change>,
}

impl Fleet {
    /// Compares the settings with the catalog.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn plan(&self) -> Result<Plan, FleetError> {
        let rows = self.catalog.tenants(&Filter::default()).await?;
        let given = self.catalog.every_base_url_given().await?;
        let mut changes = Vec::new();
        let mut there = BTreeSet::new();
        for row in &rows {
            let slug = row.record.slug.to_string();
            let declared = self.settings.tenants.get(&slug);
            there.insert(slug.clone());
            match row.record.state {
                State::Creating => changes.push(Change::Finish {
                    slug,
                    edition: row.record.lineage().map(|lineage| lineage.edition.clone()).unwrap_or_default(),
                    server: row.record.server.clone(),
                }),
                state if row.unsettled || state == State::Purging => {
                    changes.push(Change::Settle { slug, state })
                }
                _ => {
                    let given = given.get(row.record.id.as_str()).map_or(&[][..], Vec::as_slice);
                    changes.extend(self.differences(row, declared, given)?);
                }
            }
        }
        for (slug, declared) in &self.settings.tenants {
            if !there.contains(slug) {
                let defaults = &self.settings.defaults;
                changes.push(Change::Create {
                    slug: slug.clone(),
                    edition: declared
                        .edition
                        .clone()
                        .or_else(|| defaults.edition.clone())
                        .unwrap_or_default(),
                    server: declared.server.clone().unwrap_or_else(|| defaults.server.clone()),
                });
            }
        }
        for (slug, is, wanted) in self.login_limits(&rows).await {
            if !changes.iter().any(|change| change.slug() == slug) {
                changes.push(Change::Limit { slug, is, wanted });
            }
        }
        changes.sort_by(|a, b| a.slug().cmp(b.slug()));
        Ok(Plan { changes })
    }

    fn differences(
        &self,
        row: &TenantRow,
        declared: Option<&Declared>,
        given: &[String],
    ) -> Result<Option<Change>, FleetError> {
        let record = &row.record;
        let slug = record.slug.to_string();
        let mut what = Vec::new();
        if let Some(declared) = declared {
            let Some(lineage) = record.lineage() else {
                let reason =
                    "it has an adopted database, so it can't be declared; take it out of the settings".into();
                return Ok(Some(Change::Conflict { slug, reason }));
            };
            for (name, wanted, is) in [
                ("edition", &declared.edition, &lineage.edition),
                ("server", &declared.server, &record.server),
            ] {
                if let Some(wanted) = wanted
                    && wanted != is
                {
                    let reason =
                        format!("its {name} is `{is}` and can't be changed to `{wanted}`; declare `{is}`");
                    return Ok(Some(Change::Conflict { slug, reason }));
                }
            }
            if matches!(record.state, State::Retired) {
                let reason = "it is declared but retired; restore it, or take it out of the settings".into();
                return Ok(Some(Change::Conflict { slug, reason }));
            }
            if declared.tier.as_ref().is_some_and(|tier| *tier != record.tier) {
                what.push("tier");
            }
            if declared.settings != Overrides::default() && declared.settings != self.unsealed(record)? {
                what.push("settings");
            }
            if !urls(&declared.base_urls)?.iter().all(|url| given.contains(&url.to_string())) {
                what.push("base URLs");
            }
        }
        let all: BTreeSet<_> = record.base_urls.iter().map(ToString::to_string).collect();
        if !self.templated(&record.slug)?.iter().all(|url| all.contains(&url.to_string())) {
            what.push("default base URLs");
        }
        Ok((!what.is_empty()).then_some(Change::Update { slug, what }))
    }

    /// Makes the templates that these changes need, each once, so that files which fail do not fail once for each tenant.
    /// Returns a sentence for each that can't be made, with the slugs of the tenants that it keeps from being created.
    pub async fn make_templates(&self, changes: &[Change]) -> Vec<(String, Vec<String>)> {
        let mut needed: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
        for change in changes {
            if let Change::Create { slug, edition, server } | Change::Finish { slug, edition, server } = change
                // Without an edition it can't be created, and is told so by itself.
                && !edition.is_empty()
            {
                needed.entry((server, edition)).or_default().push(slug.clone());
            }
        }
        let mut failed = Vec::new();
        for ((server, edition), slugs) in needed {
            if let Err(error) = self.template(server, edition).await {
                failed.push((error.to_string(), slugs));
            }
        }
        failed
    }

    /// Carries out one change of a plan.
    ///
    /// # Errors
    /// As the verb it stands for. A conflict is an error.
    pub async fn apply(&self, change: &Change) -> Result<(), FleetError> {
        let slug = change.slug();
        match change {
            Change::Create { .. } | Change::Finish { .. } => {
                let declared = self.settings.tenants.get(slug).cloned().unwrap_or_default();
                let spec = TenantSpec {
                    edition: declared.edition.clone(),
                    tier: declared.tier.clone(),
                    server: declared.server.clone(),
                    base_urls: urls(&declared.base_urls)?,
                    overrides: declared.settings,
                };
                self.create(&slug.parse::<Slug>()?, &spec).await?;
            }
            Change::Settle { .. } => {
                let row = self.tenant(slug).await?;
                self.settle(&row.record.id).await?;
            }
            Change::Update { .. } => {
                let row = self.tenant(slug).await?;
                let record = &row.record;
                if let Some(declared) = self.settings.tenants.get(slug) {
                    let tier = declared.tier.clone().unwrap_or_else(|| record.tier.clone());
                    let overrides = if declared.settings == Overrides::default() {
                        self.unsealed(record)?
                    } else {
                        declared.settings.clone()
                    };
                    self.configure(record, &tier, &overrides).await?;
                    // Added to, never taken from: `apply` deletes nothing.
                    let mut given = self.catalog.base_urls_given(&record.id).await?;
                    for url in urls(&declared.base_urls)? {
                        if !given.contains(&url) {
                            given.push(url);
                        }
                    }
                    self.catalog.base_urls_replace(&record.id, &given, false).await?;
                }
                self.catalog.base_urls_replace(&record.id, &self.templated(&record.slug)?, true).await?;
            }
            Change::Limit { .. } => self.limit_login(&self.tenant(slug).await?.record).await?,
            Change::Conflict { reason, .. } => {
                return Err(FleetError::Settings(format!("tenant `{slug}`: {reason}")));
            }
        }
        Ok(())
    }
}

fn urls(texts: &[String]) -> Result<Vec<BaseUrl>, FleetError> {
    texts.iter().map(|url| Ok(url.parse()?)).collect()
}
