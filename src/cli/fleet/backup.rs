//! `manybox fleet backup`: one backup of each tenant in a folder, and whether such backups can be restored.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::stream::{self, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::super::output::line;
use super::super::progress::Bar;
use super::super::stop::stoppable;
use super::super::{Done, Failure, Output};
use crate::catalog::{Filter, TenantRow};
use crate::fleet::{BackupRun, Fleet, FleetError, Progress, Watcher};
use crate::settings::Wave;
use crate::tenant::State;

#[derive(clap::Args)]
pub(crate) struct Backup {
    /// The folder; each backup of the fleet is a folder in it, named by its time
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Tenants at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Only tenants to which all of these apply: tenant=SLUG (any of several), label.KEY=VALUE, tier=, server=, edition=
    #[arg(long = "match", value_name = "KEY=VALUE")]
    matching: Vec<String>,
    /// Back nothing up: restore a sample of the newest whole backup into scratch databases and compare what comes out
    #[arg(long)]
    verify: bool,
    /// How many tenants are tried
    #[arg(long, value_name = "N", default_value_t = 3, requires = "verify", value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,
}

/// What became of one tenant.
#[derive(serde::Serialize)]
struct Line {
    slug: String,
    /// `done`, `kept` (an earlier command did it), `left out`, or `failed`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    seconds: f64,
    /// Why it was left out or failed, and what should be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Line {
    fn words(&self) -> String {
        let Self { slug, outcome, bytes, seconds, reason } = self;
        let bytes =
            bytes.map_or_else(String::new, |bytes| format!(", {} in {seconds:.1} s", megabytes(bytes)));
        let reason =
            reason.as_ref().map_or_else(String::new, |reason| format!(": {}", reason.replace('\n', " ")));
        format!("{slug} {outcome}{bytes}{reason}")
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

impl Backup {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        stoppable(output, |stop| async move {
            match self.verify {
                true => self.verify(fleet, &stop, output).await,
                false => self.back_up(fleet, &stop, output).await,
            }
        })
        .await
    }

    async fn back_up(&self, fleet: &Fleet, stop: &CancellationToken, output: Output) -> Done {
        let wave = Wave::matching(&self.matching).map_err(Failure)?;
        let mut tenants = fleet.catalog.tenants(&Filter::default()).await?;
        tenants.retain(|row| {
            matches!(row.record.state, State::Active | State::Suspended | State::Retired)
                && row.is_taken_by(&wave)
        });
        if tenants.is_empty() {
            return Err(Failure("there are no tenants that match; see `manybox tenant list`".into()));
        }
        let run = BackupRun::open(&self.to, &self.matching)?;
        if run.resumed {
            output.note(&format!("going on with the backup of {}", run.folder.display()));
        }
        let bar = Bar::new(output, tenants.len(), "backing up");
        let written = AtomicU64::new(0);
        let mut lines: Vec<_> = stream::iter(&tenants)
            .map(|tenant| async {
                let before = AtomicU64::new(0);
                let told = |progress: Progress| {
                    if let Some((bytes, _)) = progress.bytes() {
                        let more = bytes.saturating_sub(before.swap(bytes, Ordering::Relaxed));
                        let all = written.fetch_add(more, Ordering::Relaxed) + more;
                        bar.set_message(format!("backing up, {}", megabytes(all)));
                    }
                };
                let line = back_up(fleet, &run, tenant, Watcher::new(&told, stop)).await;
                bar.inc();
                if line.outcome == "failed" || (line.outcome == "done" && !bar.is_seen()) {
                    bar.event(&line.words());
                }
                line
            })
            .buffer_unordered(self.jobs as usize)
            .collect()
            .await;
        bar.finish();
        lines.sort_by(|a, b| a.slug.cmp(&b.slug));
        let count = |outcome: &str| lines.iter().filter(|line| line.outcome == outcome).count();
        let failed = count("failed");
        if failed == 0 {
            run.finish(lines.len() - count("left out"))?;
        }
        let bytes: u64 = lines.iter().filter_map(|line| line.bytes).sum();
        tell(&lines, output, || {
            format!(
                "{} tenant(s) backed up to {} ({}), {} kept from before, {} left out, {failed} failed",
                count("done"),
                run.folder.display(),
                megabytes(bytes),
                count("kept"),
                count("left out")
            )
        })?;
        match (failed, stop.is_cancelled()) {
            (0, _) => Ok(()),
            (_, true) => Err(Failure("interrupted; run it again to go on".into())),
            _ => Err(Failure(format!("{failed} tenant(s) were not backed up; run it again to try those"))),
        }
    }

    async fn verify(&self, fleet: &Fleet, stop: &CancellationToken, output: Output) -> Done {
        let folder = BackupRun::newest_finished(&self.to)?;
        let backups = BackupRun::backups(&folder)?;
        let most = (self.sample as usize).min(backups.len());
        // Spread over the whole, so that tenants of one name are not all of them.
        let sample: Vec<_> = (0..most).filter_map(|i| backups.get(i * backups.len() / most)).collect();
        if sample.is_empty() {
            return Err(Failure(format!("`{}` has no backup", folder.display())));
        }
        for swept in fleet.sweep_scratch().await? {
            output.note(&format!("dropped `{swept}`, a copy that was left by a killed command"));
        }
        let bar = Bar::new(output, sample.len(), "restoring a sample");
        let mut lines = Vec::new();
        for files in sample {
            if stop.is_cancelled() {
                break;
            }
            let begun = Instant::now();
            let slug = files.manifest().file_stem().map(|stem| stem.to_string_lossy().into_owned());
            let slug = slug.unwrap_or_default();
            let told = |progress: Progress| bar.set_message(format!("{slug}: {progress}"));
            let outcome = fleet.verify_backup(files, Watcher::new(&told, stop)).await;
            bar.inc();
            let seconds = begun.elapsed().as_secs_f64();
            let line = match outcome {
                Ok(notes) => {
                    let reason = (!notes.is_empty()).then(|| notes.join("; "));
                    Line { slug, outcome: "done", bytes: None, seconds, reason }
                }
                Err(error) => {
                    Line { slug, outcome: "failed", bytes: None, seconds, reason: Some(error.to_string()) }
                }
            };
            if line.outcome == "failed" || !bar.is_seen() {
                bar.event(&line.words());
            }
            lines.push(line);
        }
        bar.finish();
        let failed = lines.iter().filter(|line| line.outcome == "failed").count();
        tell(&lines, output, || {
            format!(
                "{} of {} backup(s) of {} restored into scratch databases and compared: {failed} failed",
                lines.len(),
                backups.len(),
                folder.display()
            )
        })?;
        match failed {
            0 => Ok(()),
            _ => Err(Failure(format!("{failed} backup(s) can't be relied on; take another backup"))),
        }
    }
}

async fn back_up(fleet: &Fleet, run: &BackupRun, tenant: &TenantRow, watcher: Watcher<'_>) -> Line {
    let begun = Instant::now();
    let backed_up = async {
        if let Some(manifest) = run.done(tenant)? {
            return Ok(("kept", manifest.archive.bytes));
        }
        if watcher.stop.is_cancelled() {
            return Err(FleetError::Interrupted("it was not begun".into()));
        }
        let files = run.files(tenant)?;
        Ok(("done", fleet.backup_into(tenant, &files, watcher).await?.archive.bytes))
    };
    let backed_up = backed_up.await;
    let (slug, seconds) = (tenant.record.slug.to_string(), begun.elapsed().as_secs_f64());
    match backed_up {
        Ok((outcome, bytes)) => Line { slug, outcome, bytes: Some(bytes), seconds, reason: None },
        Err(error) => {
            let outcome = if matches!(error, FleetError::Adopted(..)) { "left out" } else { "failed" };
            Line { slug, outcome, bytes: None, seconds, reason: Some(error.to_string()) }
        }
    }
}

/// Prints what became of whom: all of it as JSON, and for people what did not go well, and the sum.
fn tell(lines: &[Line], output: Output, summary: impl FnOnce() -> String) -> Done {
    if output.json {
        return output.answer(&lines, |_| String::new());
    }
    for found in lines.iter().filter(|line| line.reason.is_some()) {
        line(&found.words());
    }
    line(&summary());
    Ok(())
}
