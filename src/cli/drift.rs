//! `manybox drift`: which tenants' schemas are not what their files make, and in what they differ.

use futures_util::stream::{self, StreamExt as _};

use super::output::line;
use super::progress::Bar;
use super::{Context, Done, Failure, Output};
use crate::catalog::{Filter, TenantRow};
use crate::fleet::{Fleet, FleetError, Proof};
use crate::migrate::Drift;
use crate::tenant::State;

#[derive(clap::Args)]
pub(super) struct DriftCommand {
    /// Only this tenant
    #[arg(long, value_name = "SLUG")]
    tenant: Option<String>,
    /// Only tenants of this edition
    #[arg(long, value_name = "EDITION", conflicts_with = "tenant")]
    edition: Option<String>,
    /// Databases looked into at the same time; migrate.jobs when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
    /// Accept what is found of this tenant, until it differs in something else too
    #[arg(long, requires_all = ["tenant", "reason"])]
    accept: bool,
    /// Why it is accepted, for the journal
    #[arg(long, value_name = "TEXT", requires = "accept")]
    reason: Option<String>,
}

/// What was found of one tenant.
#[derive(serde::Serialize)]
struct Line {
    slug: String,
    server: String,
    edition: String,
    version: i64,
    /// `equal`, `drifted`, `accepted`, `unknown`, or `failed`.
    standing: &'static str,
    /// How it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    drift: Option<Drift>,
    /// The same in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differences: Vec<String>,
    /// Why it was accepted, is unknown, or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl DriftCommand {
    pub(super) async fn run(self, context: &Context, output: Output) -> Done {
        let fleet = context.fleet().await?;
        let tenants = self.tenants(&fleet).await?;
        let jobs = self.jobs.map_or(context.settings.migrate.jobs, |jobs| jobs as usize);
        let bar = Bar::new(output, tenants.len(), "comparing schemas");
        let mut lines: Vec<_> = stream::iter(&tenants)
            .map(|tenant| async {
                let line = self.look(&fleet, tenant).await;
                bar.inc();
                line
            })
            .buffer_unordered(jobs.max(1))
            .collect()
            .await;
        bar.finish();
        lines.sort_by(|a, b| a.slug.cmp(&b.slug));
        let count = |wanted: &str| lines.iter().filter(|line| line.standing == wanted).count();
        let (drifted, failed) = (count("drifted"), count("failed"));
        let summary = format!(
            "{} tenant(s) compared: {} equal, {drifted} drifted, {} accepted, {} unknown, {failed} failed",
            lines.len(),
            count("equal"),
            count("accepted"),
            count("unknown")
        );
        if output.json {
            let answer = serde_json::json!({
                "summary": {
                    "tenants": lines.len(), "equal": count("equal"), "drifted": drifted,
                    "accepted": count("accepted"), "unknown": count("unknown"), "failed": failed,
                },
                "tenants": lines,
            });
            output.answer(&answer, |_| String::new())?;
        } else {
            lines.iter().filter(|found| found.standing != "equal").for_each(|found| line(&words(found)));
            line(&summary);
        }
        match drifted + failed {
            0 => Ok(()),
            _ => Err(Failure(format!(
                "{drifted} tenant(s) drifted, {failed} could not be looked into; undo the drift, or accept it with `manybox \
                 drift --tenant … --accept --reason …`"
            ))),
        }
    }

    /// Those that have a database of an edition.
    async fn tenants(&self, fleet: &Fleet) -> Result<Vec<TenantRow>, Failure> {
        if let Some(slug) = &self.tenant {
            let row = fleet.tenant(slug).await?;
            if row.record.is_adopted() {
                return Err(FleetError::Adopted(slug.clone(), "compared with an edition").into());
            }
            return Ok(vec![row]);
        }
        let mut rows =
            fleet.catalog.tenants(&Filter { edition: self.edition.clone(), ..Filter::default() }).await?;
        if rows.is_empty()
            && let Some(edition) = &self.edition
            && !fleet.settings.editions.contains_key(edition)
        {
            return Err(Failure(format!("there is no edition `{edition}`, in the settings or of a tenant")));
        }
        let has_database =
            |row: &TenantRow| matches!(row.record.state, State::Active | State::Suspended | State::Retired);
        rows.retain(|row| row.record.lineage().is_some() && has_database(row));
        Ok(rows)
    }

    async fn look(&self, fleet: &Fleet, tenant: &TenantRow) -> Line {
        let record = &tenant.record;
        let (edition, version) =
            record.lineage().map(|lineage| (lineage.edition.clone(), lineage.version)).unwrap_or_default();
        let proof = match (&self.reason, record.lineage()) {
            (Some(reason), _) => fleet.accept_drift(tenant, reason).await,
            (None, Some(lineage)) => fleet.prove(tenant, lineage, None).await,
            (None, None) => Ok(Proof::Unknown("its database is adopted".into())),
        };
        let (standing, drift, reason) = match proof {
            Ok(proof) => {
                let reason = match &proof {
                    Proof::Accepted(_, reason) | Proof::Unknown(reason) => Some(reason.clone()),
                    _ => None,
                };
                (proof.word(), proof.drift().cloned(), reason)
            }
            Err(error) => ("failed", None, Some(error.to_string())),
        };
        Line {
            slug: record.slug.to_string(),
            server: record.server.clone(),
            edition,
            version,
            standing,
            differences: drift.as_ref().map(Drift::lines).unwrap_or_default(),
            drift,
            reason,
        }
    }
}

/// Most differences of a tenant that are printed. All are in the JSON.
const PRINTED: usize = 50;

fn words(found: &Line) -> String {
    let Line { slug, edition, version, standing, differences, reason, .. } = found;
    let reason =
        reason.as_deref().map(|reason| format!(": {}", reason.replace('\n', " "))).unwrap_or_default();
    let mut text = format!("{slug} ({edition} {version}) {standing}{reason}");
    for difference in differences.iter().take(PRINTED) {
        text.push_str("\n  ");
        text.push_str(&difference.replace('\n', " "));
    }
    if let Some(more @ 1..) = differences.len().checked_sub(PRINTED) {
        text.push_str(&format!("\n  and {more} more: --json shows all"));
    }
    text
}
