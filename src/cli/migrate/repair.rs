//! `manybox migrate repair`: the way out where histories say what is not so.

use std::collections::BTreeSet;

use futures_util::stream::{self, StreamExt as _};

use super::super::output::table;
use super::super::progress::Bar;
use super::super::{Done, Failure, Output};
use crate::catalog::{Filter, StepRow, StepState, TenantRow};
use crate::fleet::{Fleet, RepairResult};
use crate::migrate::{Edition, Repair, Standing};
use crate::rollout::some_of;
use crate::tenant::State;

/// Changes what tenants' histories say was applied; no file is run
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
#[command(group(clap::ArgGroup::new("whose").required(true).multiple(true)))]
pub(in crate::cli) struct RepairCommand {
    /// The edition
    #[arg(long, value_name = "EDITION")]
    edition: String,
    /// Only this tenant; may be given more than once
    #[arg(long = "tenant", value_name = "SLUG", group = "whose")]
    tenants: Vec<String>,
    /// Every tenant of the edition
    #[arg(long, group = "whose", conflicts_with = "tenants")]
    all: bool,
    /// The file of this version is what was applied, though it was edited since
    #[arg(long, value_name = "VERSION", group = "what")]
    accept_checksum: Option<i64>,
    /// The file of this version counts as applied
    #[arg(long, value_name = "VERSION", group = "what")]
    mark_applied: Option<i64>,
    /// The file of this version counts as not applied
    #[arg(long, value_name = "VERSION", group = "what")]
    mark_not_applied: Option<i64>,
    /// Why; the tenants' journals keep it
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Databases worked on at the same time
    #[arg(long, default_value_t = 4, value_name = "N")]
    jobs: usize,
}

impl RepairCommand {
    fn what(&self) -> Result<Repair, Failure> {
        let chosen = self.accept_checksum.map(Repair::AcceptChecksum);
        let chosen = chosen.or(self.mark_applied.map(Repair::MarkApplied));
        chosen
            .or(self.mark_not_applied.map(Repair::MarkNotApplied))
            .ok_or_else(|| Failure("give --accept-checksum, --mark-applied or --mark-not-applied".into()))
    }

    pub(in crate::cli) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        let repair = self.what()?;
        let edition = fleet.edition(&self.edition)?;
        let rows = self.rows(fleet).await?;
        let reason = self.reason.as_deref().unwrap_or_default();
        let bar = Bar::new(output, rows.len(), "repairing");
        let mut results: Vec<RepairResult> = Vec::with_capacity(rows.len());
        let mut repairing = stream::iter(&rows)
            .map(|row| fleet.repair(row, &edition, repair, reason, self.dry_run))
            .buffered(self.jobs.max(1));
        while let Some(result) = repairing.next().await {
            results.push(result?);
            bar.inc();
        }
        drop(repairing);
        bar.finish();
        let failed = results.iter().filter(|result| result.failure.is_some()).count();
        // Templates follow what was decided for tenants, not what failed for some of them.
        if failed == 0 {
            results.extend(self.templates(fleet, &edition, reason).await?);
        }
        let failed = results.iter().filter(|result| result.failure.is_some()).count();
        let changed = results.iter().filter(|result| result.change.is_some()).count();
        output.answer(&results, |results| words(results, changed, self.dry_run))?;
        if changed > 0 && !self.dry_run {
            self.what_next(fleet, &results, output).await?;
        }
        if failed == 0 {
            return Ok(());
        }
        Err(Failure(format!("{failed} of {} stay as they were; the list says why", results.len())))
    }

    /// Says how a rollout goes on in which a tenant failed that is mended now.
    async fn what_next(&self, fleet: &Fleet, results: &[RepairResult], output: Output) -> Done {
        let mended: BTreeSet<_> = results
            .iter()
            .filter(|result| result.failure.is_none())
            .filter_map(|result| result.slug.as_deref())
            .collect();
        for rollout in fleet.catalog.rollouts_open().await? {
            let steps = fleet.catalog.steps(rollout.id).await?;
            let failed =
                |step: &&StepRow| step.state == StepState::Failed && mended.contains(step.slug.as_str());
            let slugs: Vec<_> = steps.iter().filter(failed).map(|step| step.slug.as_str()).collect();
            if !slugs.is_empty() {
                output.note(&format!(
                    "rollout {} is {}, and {} failed in it: `manybox migrate retry {}` tries again and goes on",
                    rollout.id,
                    rollout.state.as_str(),
                    some_of(&slugs),
                    rollout.id
                ));
            }
        }
        Ok(())
    }

    async fn rows(&self, fleet: &Fleet) -> Result<Vec<TenantRow>, Failure> {
        let filter = Filter { edition: Some(self.edition.clone()), ..Filter::default() };
        let all = fleet.catalog.tenants(&filter).await?;
        let has_one =
            |row: &&TenantRow| matches!(row.record.state, State::Active | State::Suspended | State::Retired);
        if self.all {
            return Ok(all.iter().filter(has_one).cloned().collect());
        }
        let wanted: BTreeSet<_> = self.tenants.iter().map(String::as_str).collect();
        let rows: Vec<_> = all
            .iter()
            .filter(has_one)
            .filter(|row| wanted.contains(row.record.slug.as_str()))
            .cloned()
            .collect();
        let found: BTreeSet<_> = rows.iter().map(|row| row.record.slug.as_str()).collect();
        match wanted.difference(&found).next() {
            None => Ok(rows),
            Some(slug) => Err(Failure(format!(
                "no tenant `{slug}` of edition `{}` has a database; see `manybox tenant list`",
                self.edition
            ))),
        }
    }

    /// Templates that the files contradict, made anew.
    async fn templates(
        &self,
        fleet: &Fleet,
        edition: &Edition,
        reason: &str,
    ) -> Result<Vec<RepairResult>, Failure> {
        let mut results = Vec::new();
        for template in fleet.contradicted_templates(edition).await? {
            let remade =
                if self.dry_run { Ok(()) } else { fleet.remake_template(&template, edition, reason).await };
            results.push(RepairResult {
                slug: None,
                whose: format!("the template on server `{}`", template.server),
                change: Some("made anew from the files".into()),
                version: Some(edition.latest()),
                standing: remade.is_ok().then_some(Standing::Current),
                quarantine_ended: false,
                failure: remade.err().map(|error| error.to_string()),
            });
        }
        Ok(results)
    }
}

fn words(results: &[RepairResult], changed: usize, dry_run: bool) -> String {
    let cells = |result: &RepairResult| {
        let version = result.version.map(|version| version.to_string()).unwrap_or_default();
        let change = match (&result.failure, &result.change) {
            (Some(failure), _) => format!("failed: {failure}"),
            (None, Some(change)) => change.clone(),
            (None, None) => "nothing to change".to_owned(),
        };
        let taken_again = if result.quarantine_ended { "; rollouts take it again" } else { "" };
        let change = format!("{change}{taken_again}");
        let standing = match result.standing {
            None => "",
            Some(Standing::Current) => "current",
            Some(Standing::Behind { .. }) => "behind",
            Some(Standing::Ahead) => "ahead",
            Some(Standing::Divergent) => "divergent",
        };
        vec![result.whose.clone(), change, version, standing.to_owned()]
    };
    let list = table(&["WHOSE", "CHANGE", "VERSION", "THEN"], results.iter().map(cells));
    let what = if dry_run { "would change; run it again without --dry-run" } else { "changed" };
    format!("{list}\n{changed} of {} {what}", results.len())
}
