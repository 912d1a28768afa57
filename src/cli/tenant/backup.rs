//! `manybox tenant backup`, `restore --from`, `clone` and `rename`: a tenant's database as files, and from files or another
//! tenant.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::super::progress::Stages;
use super::super::stop::stoppable;
use super::super::{Done, Failure, Output};
use super::{done, urls};
use crate::fleet::{BackupFiles, CopySpec, Filled, Fleet, Progress, Watcher, backup_stem, write_whole};
use crate::tenant::Slug;

#[derive(clap::Args)]
pub(crate) struct Backup {
    /// The tenant
    slug: String,
    /// A folder for the archive and its manifest, or `-` for the archive on standard output
    #[arg(long, value_name = "DIR|-")]
    to: PathBuf,
    /// Where the manifest goes when the archive goes to standard output: `restore` wants it beside the archive, as NAME.json
    /// beside NAME.dump
    #[arg(long, value_name = "FILE", required_if_eq("to", "-"))]
    manifest: Option<PathBuf>,
}

impl Backup {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        stoppable(output, |stop| async move {
            let tenant = fleet.tenant(&self.slug).await?;
            let stages = Stages::new(output, format!("backing up {}", self.slug));
            let told = |progress: Progress| stages.show(progress);
            let watcher = Watcher::new(&told, &stop);
            if let Some(file) = &self.manifest
                && self.to == Path::new("-")
            {
                let name = file.with_extension("dump").file_name().map(|n| n.to_string_lossy().into_owned());
                let manifest =
                    fleet.backup(&tenant, &name.unwrap_or_default(), tokio::io::stdout(), watcher).await;
                stages.finish();
                let manifest = manifest?;
                write_whole(file, &serde_json::to_vec_pretty(&manifest)?)?;
                output.note(&format!(
                    "{} byte(s) written; its manifest is {}",
                    manifest.archive.bytes,
                    file.display()
                ));
                return Ok(());
            }
            let stem = backup_stem(&tenant, OffsetDateTime::now_utc());
            let files = BackupFiles::new(&self.to, stem)?;
            let manifest = fleet.backup_into(&tenant, &files, watcher).await;
            stages.finish();
            let manifest = manifest?;
            let answer = serde_json::json!({
                "slug": self.slug, "archive": files.archive(), "manifest": files.manifest(),
                "bytes": manifest.archive.bytes, "sha256": manifest.archive.sha256,
                "version": manifest.tenant.version, "rows": manifest.rows.values().sum::<i64>(),
            });
            output.answer(&answer, |_| {
                format!(
                    "{} backed up: {} ({:.1} MB, {} row(s), version {})",
                    self.slug,
                    files.archive().display(),
                    manifest.archive.bytes as f64 / 1e6,
                    manifest.rows.values().sum::<i64>(),
                    manifest.tenant.version
                )
            })
        })
        .await
    }
}

#[derive(clap::Args)]
pub(crate) struct Restore {
    /// The tenant
    slug: Slug,
    /// Bring its database back from this backup, beside the one that it has, and switch to it when it is what the manifest
    /// says; without this, bring a retired tenant back into service
    #[arg(long, value_name = "FILE.dump")]
    pub(super) from: Option<PathBuf>,
    /// Make a tenant of this name from the backup, and leave the one it is of alone
    #[arg(long = "as", value_name = "NEW", requires = "from")]
    name: Option<Slug>,
    /// The tier of the new tenant; as in the backup when not given
    #[arg(long, requires = "name")]
    tier: Option<String>,
    /// Where its database is made; as in the backup when not given
    #[arg(long, requires = "name")]
    server: Option<String>,
}

impl Restore {
    pub(super) fn slug(&self) -> &str {
        self.slug.as_str()
    }

    pub(super) async fn run_from(self, fleet: &Fleet, file: &Path, output: Output) -> Done {
        let files = BackupFiles::of(file);
        let spec = CopySpec { tier: self.tier, server: self.server, ..CopySpec::default() };
        stoppable(output, |stop| async move {
            let stages =
                Stages::new(output, format!("restoring {}", self.name.as_ref().unwrap_or(&self.slug)));
            let told = |progress: Progress| stages.show(progress);
            let watcher = Watcher::new(&told, &stop);
            let filled = match &self.name {
                Some(name) => fleet.restore_as((&self.slug, name), &files, &spec, watcher).await,
                None => fleet.restore_from(&self.slug, &files, &spec, watcher).await,
            };
            stages.finish();
            tell(&filled?, output)
        })
        .await
    }
}

#[derive(clap::Args)]
pub(crate) struct Clone {
    /// The tenant to copy; it is served meanwhile
    slug: String,
    /// The name of the copy
    name: Slug,
    /// The tier of the copy; that of the tenant when not given
    #[arg(long)]
    tier: Option<String>,
    /// Where its database is made; where the tenant's is when not given
    #[arg(long)]
    server: Option<String>,
    /// SQL that is run in the copy as its owner, before it opens
    #[arg(long, value_name = "FILE.sql")]
    anonymise: Option<PathBuf>,
}

impl Clone {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        let read = |file: &PathBuf| {
            std::fs::read_to_string(file)
                .map_err(|error| Failure(format!("--anonymise `{}`: {error}", file.display())))
        };
        let anonymise = self.anonymise.as_ref().map(read).transpose()?;
        let spec = CopySpec { tier: self.tier, server: self.server, anonymise, ..CopySpec::default() };
        stoppable(output, |stop| async move {
            let source = fleet.tenant(&self.slug).await?;
            let stages = Stages::new(output, format!("cloning {} as {}", self.slug, self.name));
            let told = |progress: Progress| stages.show(progress);
            let watcher = Watcher::new(&told, &stop);
            let filled = fleet.clone_tenant(&source, &self.name, &spec, watcher).await;
            stages.finish();
            tell(&filled?, output)
        })
        .await
    }
}

pub(super) fn tell(filled: &Filled, output: Output) -> Done {
    output.answer(filled, |filled| {
        let replaced = filled.replaced.as_ref().map_or_else(String::new, |kept| {
            format!("\nthe database from before is kept by `{kept}`, retired; drop it with `manybox tenant purge {kept}`")
        });
        let notes = filled.notes.iter().map(|note| format!("\nnote: {note}")).collect::<String>();
        format!("{}\n{}{replaced}{notes}", done(&filled.tenant), urls(&filled.tenant))
    })
}

#[derive(clap::Args)]
pub(crate) struct Rename {
    /// The tenant
    slug: String,
    /// Its new name: a-z, 0-9 and dashes
    name: Slug,
}

impl Rename {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        let row = fleet.rename(&self.slug, &self.name).await?;
        output.answer(&row, |row| {
            format!(
                "{} is {} now; its tokens and its database stay\n{}",
                self.slug,
                row.record.slug,
                urls(row)
            )
        })
    }
}
