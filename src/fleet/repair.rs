//! Repair: histories of tenants changed by an operator who knows better, with the catalog and the templates that follow.

use super::{Fleet, FleetError, contradiction_among, roles};
use crate::catalog::{Filter, Template, TenantRow};
use crate::migrate::{self, Edition, Repair, Standing, standing};

/// What a repair did to one database, or would do.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RepairResult {
    /// The tenant; `None` of a template.
    pub slug: Option<String>,
    /// Whose database it is, for people.
    pub whose: String,
    /// What changes, in words; `None` when nothing does.
    pub change: Option<String>,
    /// The version that the history ends at afterwards.
    pub version: Option<i64>,
    /// Where the database stands beside the edition afterwards.
    pub standing: Option<Standing>,
    /// Whether rollouts take it again, which left it out because a migration had failed.
    pub quarantine_ended: bool,
    /// Why nothing was changed.
    pub failure: Option<String>,
}

impl Fleet {
    /// Repairs one tenant's history, and has the catalog say the same. The journal keeps why.
    ///
    /// # Errors
    /// When the catalog can't be changed: run again, it finds the history as it should be, and corrects the catalog. What is
    /// wrong with the tenant's database is told in the result.
    pub async fn repair(
        &self,
        row: &TenantRow,
        edition: &Edition,
        repair: Repair,
        reason: &str,
        dry_run: bool,
    ) -> Result<RepairResult, FleetError> {
        let record = &row.record;
        let mut result = RepairResult {
            slug: Some(record.slug.to_string()),
            whose: format!("tenant `{}`", record.slug),
            change: None,
            version: None,
            standing: None,
            quarantine_ended: false,
            failure: None,
        };
        let repaired = async {
            let mut migrator = self.migrator(&record.server, &record.database()).await?;
            let repaired =
                migrate::repair(&mut migrator, &roles::of_tenants(), edition, repair, dry_run).await;
            self.close_migrator(&record.server, migrator).await?;
            Ok::<_, FleetError>(repaired)
        };
        let repaired = match repaired.await {
            Ok(Ok(repaired)) => repaired,
            Ok(Err(refused)) => {
                result.failure = Some(refused.to_string());
                return Ok(result);
            }
            Err(error) => {
                result.failure = Some(error.to_string());
                return Ok(result);
            }
        };
        let lineage = repaired.history.lineage(&edition.name);
        if !dry_run && (repaired.change.is_some() || record.lineage() != Some(&lineage)) {
            let detail = serde_json::json!({
                "repair": repair, "reason": reason, "change": repaired.change, "before": record.lineage(), "after": lineage,
            });
            self.catalog.tenant_lineage_corrected(&record.id, &lineage, "repair", &detail).await?;
        }
        let stands = standing(edition, &lineage);
        // It was set aside for what its history had; the files lead on from what it has now.
        let mended = matches!(stands, Standing::Current | Standing::Behind { .. });
        if mended && row.quarantined.is_some() {
            result.quarantine_ended = true;
            if !dry_run {
                self.catalog.tenant_quarantine(&record.id, false).await?;
            }
        }
        result.change = repaired.change;
        result.version = Some(lineage.version);
        result.standing = Some(stands);
        Ok(result)
    }

    /// The ready templates that the edition's files contradict: they were made by files that are no more.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn contradicted_templates(&self, edition: &Edition) -> Result<Vec<Template>, FleetError> {
        let templates = self.catalog.templates().await?;
        let contradicted = |t: &Template| {
            t.state == "ready"
                && t.lineage.edition == edition.name
                && matches!(standing(edition, &t.lineage), Standing::Ahead | Standing::Divergent)
        };
        Ok(templates.into_iter().filter(contradicted).collect())
    }

    /// Makes templates anew that were made by files that are no more.
    ///
    /// # Errors
    /// When tenants contradict the files still, the server refuses, or one of the files fails: then the next creation tries
    /// again.
    pub async fn remake_template(
        &self,
        template: &Template,
        edition: &Edition,
        reason: &str,
    ) -> Result<(), FleetError> {
        let filter = Filter { edition: Some(edition.name.clone()), ..Filter::default() };
        if let Some(contradiction) = contradiction_among(edition, &[], &self.catalog.tenants(&filter).await?)
        {
            return Err(FleetError::Contradiction(Box::new(contradiction)));
        }
        self.catalog.template_retire(template, reason).await?;
        self.refresh_template(&template.server, edition, &|| ()).await?;
        self.sweep_templates(&template.server, &edition.name).await
    }
}
