//! `manybox migrate rehearse`: what pending files would do to real tenants, seen on copies of them.

use super::super::output::line;
use super::super::progress::Bar;
use super::super::{Done, Failure, Output};
use super::stop::Stop;
use crate::catalog::{Filter, TenantRow};
use crate::fleet::{Fleet, FleetError, Rehearsal};
use crate::migrate::{Standing, standing};
use crate::tenant::State;

/// Largest database that is copied when nothing is said, in MB.
const MAX_SIZE: u64 = 1000;

#[derive(clap::Args)]
pub(super) struct Rehearse {
    /// Rehearse on a copy of this tenant
    #[arg(long, value_name = "SLUG", required_unless_present = "sample", conflicts_with = "sample")]
    tenant: Option<String>,
    /// Rehearse on copies of so many tenants that lack files, spread over the fleet
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sample: Option<u32>,
    /// Only tenants of this edition
    #[arg(long, value_name = "EDITION", conflicts_with = "tenant")]
    edition: Option<String>,
    /// Largest database that is copied, in MB
    #[arg(long, value_name = "MB", default_value_t = MAX_SIZE)]
    max_size: u64,
}

impl Rehearse {
    /// A signal ends it when the copy that is there has been dropped.
    pub(super) async fn run(self, fleet: &Fleet, stop: &Stop, output: Output) -> Done {
        let token = stop.armed();
        for swept in fleet.sweep_scratch().await? {
            output.note(&format!("dropped `{swept}`, a copy of a rehearsal that was killed"));
        }
        let tenants = self.tenants(fleet).await?;
        let bar = Bar::new(output, tenants.len(), "rehearsing");
        let (mut rehearsals, mut failures) = (Vec::new(), Vec::new());
        for tenant in &tenants {
            let slug = &tenant.record.slug;
            bar.set_message(format!("rehearsing on a copy of {slug}"));
            let edition = tenant.record.lineage().map(|lineage| lineage.edition.clone()).unwrap_or_default();
            let most = self.max_size.saturating_mul(1_000_000);
            let rehearsed = match fleet.edition(&edition) {
                Ok(edition) => fleet.rehearse(tenant, &edition, most, token.clone().cancelled_owned()).await,
                Err(error) => Err(error),
            };
            bar.inc();
            match rehearsed {
                Ok(Some(rehearsal)) => rehearsals.push(rehearsal),
                Ok(None) => {
                    bar.finish();
                    return Err(Failure(format!("interrupted; the copy of `{slug}` was dropped")));
                }
                Err(error) => failures.push(format!("{slug}: {error}")),
            }
        }
        bar.finish();
        output.answer(&rehearsals, |all| all.iter().map(words).collect::<Vec<_>>().join("\n"))?;
        let bad: Vec<_> = rehearsals.iter().filter(|r| !r.is_good()).map(|r| r.slug.as_str()).collect();
        if !bad.is_empty() {
            failures.push(format!("the rehearsal went wrong for {}", bad.join(", ")));
        }
        if failures.is_empty() { Ok(()) } else { Err(Failure(failures.join("\n"))) }
    }

    /// The tenant that was named, or some of those that lack files.
    async fn tenants(&self, fleet: &Fleet) -> Result<Vec<TenantRow>, Failure> {
        let Some(most) = self.sample else {
            let slug = self.tenant.as_deref().unwrap_or_default();
            let row = fleet.tenant(slug).await?;
            if row.record.is_adopted() {
                return Err(FleetError::Adopted(slug.to_owned(), "rehearsed by an edition").into());
            }
            if !lacks_files(fleet, &row)? {
                line(&format!("nothing to rehearse: `{slug}` has all files of its edition"));
                return Ok(Vec::new());
            }
            return Ok(vec![row]);
        };
        let rows =
            fleet.catalog.tenants(&Filter { edition: self.edition.clone(), ..Filter::default() }).await?;
        let mut behind = Vec::new();
        for row in rows {
            if matches!(row.record.state, State::Active | State::Suspended) && lacks_files(fleet, &row)? {
                behind.push(row);
            }
        }
        let most = (most as usize).min(behind.len());
        // Evenly spread, so that tenants of one day's creation are not all of them.
        Ok((0..most).filter_map(|i| behind.get(i * behind.len() / most).cloned()).collect())
    }
}

fn lacks_files(fleet: &Fleet, row: &TenantRow) -> Result<bool, Failure> {
    let Some(lineage) = row.record.lineage() else { return Ok(false) };
    Ok(matches!(
        standing(&fleet.edition(&lineage.edition)?, lineage),
        Standing::Behind { .. } | Standing::Divergent
    ))
}

fn words(rehearsal: &Rehearsal) -> String {
    let Rehearsal { slug, edition, before, after, bytes, copy_seconds, .. } = rehearsal;
    let mut text = format!(
        "{slug} ({edition}): {before} to {after} on a copy ({} MB, copied in {copy_seconds:.1} s)",
        bytes / 1_000_000
    );
    for file in &rehearsal.files {
        text.push_str(&format!("\n  {} {:.2} s, {} row(s) changed", file.file, file.seconds, file.rows));
        for lock in &file.locks {
            text.push_str(&format!("\n    locks {} {}", lock.table, lock.mode));
        }
        if let Some(why) = &file.untried {
            text.push_str(&format!("\n    locks and rewrites are not known: {}", why.replace('\n', " ")));
        }
        for table in &file.rewritten {
            text.push_str(&format!("\n    rewrites {} ({:.1} MB)", table.table, table.bytes as f64 / 1e6));
        }
    }
    if let Some(failure) = &rehearsal.failure {
        text.push_str(&format!("\n  failed: {}", failure.replace('\n', " ")));
    }
    match &rehearsal.drift {
        Some(drift) if drift.is_empty() => text.push_str("\n  the schema is what the files make"),
        Some(drift) => {
            for difference in drift.lines().iter().take(50) {
                text.push_str(&format!("\n  drift: {}", difference.replace('\n', " ")));
            }
        }
        None => {}
    }
    for what in &rehearsal.left_out {
        text.push_str(&format!("\n  not in the copy: {}", what.replace('\n', " ")));
    }
    text
}
