//! `manybox migrate` and what belongs to it.

mod lint;
mod repair;

use super::output::{line, table};
use super::{Context, Done, Failure, Output};
use crate::catalog::Filter;
use crate::fleet::Fleet;
use crate::migrate::{Standing, standing};
use crate::rollout::{self, RolloutScope};
use crate::settings::Settings;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct MigrateCommand {
    #[command(subcommand)]
    command: Option<Sub>,
    /// Only tenants of this edition
    #[arg(long, value_name = "EDITION")]
    edition: Option<String>,
    /// Only this tenant
    #[arg(long, value_name = "SLUG")]
    tenant: Option<String>,
    /// Databases brought up at the same time; migrate.jobs when not given
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

#[derive(clap::Subcommand)]
enum Sub {
    /// Say what the linter finds in the files, without server or catalog
    Lint(lint::Lint),
    /// Change what histories say was applied, where they are not as the files are; no file is run
    Repair(repair::RepairCommand),
    /// Show every tenant's version, from the catalog: no tenant's database is connected to
    Status {
        /// Only tenants of this edition
        #[arg(long, value_name = "EDITION")]
        edition: Option<String>,
    },
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
}

impl MigrateCommand {
    /// Runs what needs neither catalog nor server; `None` for everything else.
    pub(super) fn offline(&self, settings: &Settings, output: Output) -> Option<Done> {
        match &self.command {
            Some(Sub::Lint(lint)) => Some(lint.run(settings, output)),
            _ => None,
        }
    }

    pub(super) async fn run(self, context: &Context, output: Output) -> Done {
        let fleet = context.fleet().await?;
        match self.command {
            Some(Sub::Lint(lint)) => lint.run(&context.settings, output),
            Some(Sub::Repair(repair)) => repair.run(&fleet, output).await,
            Some(Sub::Status { edition }) => status(&fleet, edition, output).await,
            None => {
                let jobs = self.jobs.unwrap_or(context.settings.migrate.jobs);
                migrate(&fleet, RolloutScope { edition: self.edition, tenant: self.tenant }, jobs, output)
                    .await
            }
        }
    }
}

async fn migrate(fleet: &Fleet, scope: RolloutScope, jobs: usize, output: Output) -> Done {
    if let Some(edition) = &scope.edition {
        fleet.edition(edition)?;
    }
    if let Some(slug) = &scope.tenant {
        let Some(lineage) = fleet.tenant(slug).await?.record.lineage().cloned() else {
            return Err(Failure(format!(
                "tenant `{slug}` has an adopted database: its schema is its owner's to change; after a change run `manybox tenant reload {slug}`"
            )));
        };
        fleet.edition(&lineage.edition)?;
    }
    let mut editions = fleet.editions();
    let mut refused = Vec::new();
    for name in editions.sound.keys().cloned().collect::<Vec<_>>() {
        let in_scope =
            scope.edition.as_ref().is_none_or(|edition| *edition == name) && scope.tenant.is_none();
        if let Some(edition) = editions.sound.get(&name).filter(|_| in_scope)
            && let Err(error) = fleet.refuse_contradiction(edition).await
        {
            refused.push(error.to_string());
            editions.sound.remove(&name);
        }
    }
    let everything = scope.edition.is_none() && scope.tenant.is_none();
    let templates = fleet.catalog.templates().await?;
    let tenants = fleet.catalog.tenants(&Filter::default()).await?;
    let rollout = rollout::plan(&editions.sound, &templates, &tenants, &scope);
    let adopted = tenants.iter().filter(|row| row.record.is_adopted() && scope.edition.is_none()).count();
    let bar = output.bar(rollout.steps.len(), "migrating");
    let report = rollout.execute(fleet, jobs, &|_| bar.inc(1)).await;
    bar.finish_and_clear();
    let report = report?;
    let failed: Vec<_> = report.failures().cloned().collect();
    output.answer(&report, |report| {
        let skipped = match adopted {
            0 => String::new(),
            n => format!("; {n} tenant(s) with an adopted database skipped"),
        };
        if report.tenants.is_empty() && report.templates.is_empty() {
            return format!("nothing to do: every tenant is at its edition's newest version{skipped}");
        }
        let done = report.tenants.len() - failed.len();
        format!("{done} tenant(s) and {} template(s) brought up{skipped}", report.templates.len())
    })?;
    // Said after the others' work is done: a broken edition stops its own tenants only.
    let broken = editions.broken.values().filter(|_| everything).map(ToString::to_string);
    let broken: Vec<_> = broken.chain(refused).collect();
    if failed.is_empty() {
        return if broken.is_empty() { Ok(()) } else { Err(Failure(broken.join("\n"))) };
    }
    let rows = failed
        .iter()
        .map(|f| vec![f.slug.clone(), f.after.to_string(), f.failure.clone().unwrap_or_default()]);
    let list = table(&["TENANT", "VERSION", "FAILURE"], rows);
    Err(Failure(format!(
        "{} of {} tenant(s) failed; the others are done. Mend these, then run `manybox migrate` again: it touches only them.\n{}",
        failed.len(),
        report.tenants.len(),
        [broken, vec![list]].concat().join("\n")
    )))
}

async fn status(fleet: &Fleet, edition: Option<String>, output: Output) -> Done {
    let editions = fleet.editions();
    let rows = fleet.catalog.tenants(&Filter { edition, ..Filter::default() }).await?;
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
                newest: edition.map_or(0, crate::migrate::Edition::latest),
                standing,
                behind,
                failure: row.failure.clone(),
            }
        })
        .collect();
    for broken in editions.broken.values() {
        output.note(&broken.to_string());
    }
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
            "tenants": lines,
        });
        return output.answer(&answer, |_| String::new());
    }
    output.list(
        &lines,
        &["TENANT", "EDITION", "VERSION", "NEWEST", "STANDING", "FAILURE"],
        |l| {
            vec![
                l.slug.clone(),
                l.edition.clone(),
                l.version.to_string(),
                l.newest.to_string(),
                if l.behind > 0 { format!("{} by {}", l.standing, l.behind) } else { l.standing.to_owned() },
                l.failure.clone().unwrap_or_default(),
            ]
        },
        "there are no tenants",
    )?;
    if lines.iter().any(|l| l.failure.is_some() || l.standing == "divergent") {
        line("\nfailed and divergent tenants keep serving at the version shown; see docs/operations.md");
    }
    Ok(())
}
