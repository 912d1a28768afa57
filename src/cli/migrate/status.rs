//! `manybox migrate status`: every tenant's version, and whether anything needs an operator.

use super::super::output::line;
use super::super::{Done, Failure, Output};
use super::plan::verify;
use crate::catalog::{Filter, RolloutState};
use crate::fleet::Fleet;
use crate::migrate::{Edition, Standing, standing};

#[derive(clap::Args)]
pub(super) struct Status {
    /// Only tenants of this edition
    #[arg(long, value_name = "EDITION")]
    edition: Option<String>,
    /// Ask every database what was applied to it, instead of the catalog
    #[arg(long)]
    verify: bool,
    /// Exit with 1 when any tenant is behind, ahead, divergent, failed or set aside
    #[arg(long)]
    check: bool,
}

/// One line of `migrate status`.
#[derive(serde::Serialize)]
struct Line {
    slug: String,
    edition: String,
    version: i64,
    newest: i64,
    standing: &'static str,
    behind: usize,
    failure: Option<String>,
    quarantined: bool,
}

impl Status {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        if self.verify {
            verify(fleet, self.edition.as_ref(), output).await?;
        }
        let mut editions = fleet.editions();
        for edition in editions.sound.values_mut() {
            *edition = fleet.with_admitted_gaps(edition).await?;
        }
        let filter = Filter { edition: self.edition, ..Filter::default() };
        let rows = fleet.catalog.tenants(&filter).await?;
        let lines: Vec<Line> = rows
            .iter()
            // Adopted databases have no version: their migrations are their owners'.
            .filter_map(|row| row.record.lineage().map(|lineage| (row, lineage)))
            .map(|(row, lineage)| {
                let edition = editions.sound.get(&lineage.edition);
                let (standing, behind) = match edition.map(|e| standing(e, lineage)) {
                    None if editions.broken.contains_key(&lineage.edition) => ("broken edition", 0),
                    None => ("unknown edition", 0),
                    Some(Standing::Current) => ("current", 0),
                    Some(Standing::Behind { by }) => ("behind", by),
                    Some(Standing::Ahead) => ("ahead", 0),
                    Some(Standing::Divergent) => ("divergent", 0),
                };
                Line {
                    slug: row.record.slug.to_string(),
                    edition: lineage.edition.clone(),
                    version: lineage.version,
                    newest: edition.map_or(0, Edition::latest),
                    standing,
                    behind,
                    failure: row.failure.clone(),
                    quarantined: row.quarantined.is_some(),
                }
            })
            .collect();
        for broken in editions.broken.values() {
            output.note(&broken.to_string());
        }
        let open = fleet.catalog.rollouts_open().await?;
        if output.json {
            let count = |wanted: &str| lines.iter().filter(|l| l.standing == wanted).count();
            let answer = serde_json::json!({
                "summary": {
                    "tenants": lines.len(),
                    "current": count("current"),
                    "behind": count("behind"),
                    "ahead": count("ahead"),
                    "divergent": count("divergent"),
                    "failed": lines.iter().filter(|l| l.failure.is_some()).count(),
                },
                "rollouts": open,
                "tenants": lines,
            });
            output.answer(&answer, |_| String::new())?;
        } else {
            list(&lines, output)?;
            for rollout in &open {
                let attended =
                    rollout.state != RolloutState::Running || fleet.is_attended(rollout.id).await?;
                let nobody = if attended { "" } else { " (no process is at work on it)" };
                line(&format!("\nrollout {} is {}{nobody}", rollout.id, rollout.standing()));
            }
        }
        if self.check { check(&lines, editions.broken.len()) } else { Ok(()) }
    }
}

fn list(lines: &[Line], output: Output) -> Done {
    output.list(
        lines,
        &["TENANT", "EDITION", "VERSION", "NEWEST", "STANDING", "FAILURE"],
        |l| {
            let mut standing = match l.behind {
                0 => l.standing.to_owned(),
                by => format!("{} by {by}", l.standing),
            };
            if l.quarantined {
                standing.push_str(", set aside");
            }
            vec![
                l.slug.clone(),
                l.edition.clone(),
                l.version.to_string(),
                l.newest.to_string(),
                standing,
                l.failure.clone().unwrap_or_default(),
            ]
        },
        "there are no tenants",
    )?;
    if lines.iter().any(|l| l.failure.is_some() || l.standing == "divergent") {
        line("\nfailed and divergent tenants keep serving at the version shown; see docs/migrations.md");
    }
    Ok(())
}

fn check(lines: &[Line], broken: usize) -> Done {
    let wrong =
        lines.iter().filter(|l| l.standing != "current" || l.failure.is_some() || l.quarantined).count();
    if wrong == 0 && broken == 0 {
        return Ok(());
    }
    let editions =
        if broken > 0 { format!(", and {broken} edition(s) can't be used") } else { String::new() };
    Err(Failure(format!("{wrong} of {} tenant(s) are not current{editions}", lines.len())))
}
