//! Apply: what the settings declare and the fleet does not have yet, as a plan and then as deeds. Never deletes.

use std::collections::{BTreeMap, BTreeSet};

use super::desired::{SettingChange, remembered};
use super::{Fleet, FleetError, TenantSpec};
use crate::catalog::{DeclaredBefore, Filter, TenantRow};
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
        /// What differs, from what to what.
        changes: Vec<SettingChange>,
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

    /// Whether it is one that can't be carried out.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// What would be done, in words.
    pub fn words(&self) -> String {
        match self {
            Self::Create { edition, server, .. } => format!("create (edition {edition}, server {server})"),
            Self::Finish { .. } => "finish its creation".into(),
            Self::Settle { state, .. } => format!("make its server follow its state ({state})"),
            Self::Update { changes, .. } => {
                let all: Vec<_> = changes.iter().map(ToString::to_string).collect();
                format!("update {}", all.join("; "))
            }
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
        let before = self.catalog.declared_before().await?;
        let mut changes = Vec::new();
        let mut there = BTreeSet::new();
        for row in &rows {
            let slug = row.record.slug.to_string();
            let declared = self.settings.tenants.get(&slug);
            there.insert(slug.clone());
            match row.record.state {
                State::Creating if row.filling.is_some() => changes.push(Change::Conflict {
                    slug,
                    reason: format!(
                        "it was being {}, and is not finished: run that again, or `manybox tenant purge` it",
                        row.filling.as_deref().unwrap_or_default()
                    ),
                }),
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
                    let before = before.get(row.record.id.as_str());
                    changes.extend(self.differences(row, declared, before, given)?);
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
        before: Option<&DeclaredBefore>,
        given: &[String],
    ) -> Result<Option<Change>, FleetError> {
        let record = &row.record;
        let slug = record.slug.to_string();
        let mut changes = Vec::new();
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
            let (is, wanted) = self.desired(row, declared, before, given)?;
            changes = is.changes(&wanted);
        }
        let given = |url: &String| given.contains(url);
        let is: BTreeSet<_> =
            record.base_urls.iter().map(ToString::to_string).filter(|url| !given(url)).collect();
        let wanted = self.templated(&record.slug)?.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let wanted: BTreeSet<_> = wanted.into_iter().filter(|url| !given(url)).collect();
        if is != wanted {
            let all = |urls: BTreeSet<String>| Some(urls.into_iter().collect::<Vec<_>>().join(","));
            changes.push(SettingChange { key: "default base URLs".into(), from: all(is), to: all(wanted) });
        }
        Ok((!changes.is_empty()).then_some(Change::Update { slug, changes }))
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

    /// Remembers what is declared of the tenants that are as declared, so that a later `apply` takes back what is then no
    /// more. Those named in `except` are not: something of theirs failed.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn remember_declared(&self, except: &BTreeSet<String>) -> Result<(), FleetError> {
        let mut declared = Vec::new();
        for row in self.catalog.tenants(&Filter::default()).await? {
            let slug = row.record.slug.as_str();
            if let Some(of_tenant) = self.settings.tenants.get(slug).filter(|_| !except.contains(slug)) {
                declared.push((row.record.id.clone(), remembered(of_tenant)?));
            }
        }
        if declared.is_empty() {
            return Ok(());
        }
        Ok(self.catalog.declared_now(&declared).await?)
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
                    ..TenantSpec::default()
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
                    let given = self.catalog.base_urls_given(&record.id).await?;
                    let given: Vec<_> = given.iter().map(ToString::to_string).collect();
                    let before = self.catalog.declared_before().await?.remove(record.id.as_str());
                    let (is, wanted) = self.desired(&row, declared, before.as_ref(), &given)?;
                    if (&is.tier, &is.overrides) != (&wanted.tier, &wanted.overrides) {
                        self.configure(record, &wanted.tier, &wanted.overrides).await?;
                    }
                    if is.base_urls != wanted.base_urls {
                        let wanted: Vec<_> = wanted.base_urls.into_iter().collect();
                        self.catalog.base_urls_replace(&record.id, &urls(&wanted)?, false).await?;
                    }
                }
                self.catalog.base_urls_replace(&record.id, &self.templated(&record.slug)?, true).await?;
                self.mark(&record.id).await;
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
