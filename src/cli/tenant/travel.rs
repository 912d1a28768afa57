//! `manybox tenant export` and `import`: a tenant from one fleet to another.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::super::progress::Stages;
use super::super::stop::stoppable;
use super::super::{Done, Failure, Output};
use super::backup::tell;
use super::secret::JwtSecret;
use crate::fleet::{BackupFiles, CopySpec, Fleet, ImportSpec, Progress, Watcher, backup_stem, write_whole};
use crate::policy::JWT_SECRET;
use crate::tenant::{BaseUrl, Slug};

#[derive(clap::Args)]
pub(crate) struct Export {
    /// The tenant; it is served meanwhile
    slug: String,
    /// A folder for the archive and its manifest, or the archive, FILE.dump: its manifest is FILE.json then
    #[arg(long, value_name = "DIR|FILE.dump")]
    to: PathBuf,
    /// Write its jwt_secret into this file, in the clear; it is in no other
    #[arg(long, value_name = "FILE")]
    jwt_secret_to: Option<PathBuf>,
}

impl Export {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        stoppable(output, |stop| async move {
            let tenant = fleet.tenant(&self.slug).await?;
            let secret = fleet.keys.open(&tenant.record, JWT_SECRET);
            let secret = match (&self.jwt_secret_to, secret) {
                (Some(file), Ok(None)) => {
                    return Err(Failure(format!(
                        "tenant `{}` has no jwt_secret of its own to write into `{}`: its tokens' key derives from the master \
                         key (`manybox tenant show {0} --jwt-key`)",
                        self.slug,
                        file.display()
                    )));
                }
                (Some(file), secret) => secret?.map(|secret| (file, secret)),
                (None, _) => None,
            };
            let files = self.files(&backup_stem(&tenant, OffsetDateTime::now_utc()))?;
            let stages = Stages::new(output, format!("exporting {}", self.slug));
            let told = |progress: Progress| stages.show(progress);
            let manifest = fleet.backup_into(&tenant, &files, Watcher::new(&told, &stop)).await;
            stages.finish();
            let manifest = manifest?;
            if let Some((file, secret)) = &secret {
                write_whole(file, secret.expose().as_bytes())?;
            } else if tenant.record.sealed.contains_key(JWT_SECRET) {
                output.note("its jwt_secret is not in the files: give --jwt-secret-to FILE, or set another one there");
            }
            let answer = serde_json::json!({
                "slug": self.slug, "archive": files.archive(), "manifest": files.manifest(),
                "bytes": manifest.archive.bytes, "sha256": manifest.archive.sha256, "edition": manifest.tenant.edition,
                "version": manifest.tenant.version, "jwt_secret": self.jwt_secret_to,
            });
            output.answer(&answer, |_| {
                format!(
                    "{} exported: {} and its manifest ({:.1} MB, edition {} at version {}); the other fleet takes it in by \
                     `manybox tenant import`",
                    self.slug,
                    files.archive().display(),
                    manifest.archive.bytes as f64 / 1e6,
                    manifest.tenant.edition,
                    manifest.tenant.version
                )
            })
        })
        .await
    }

    /// Where it goes. Nothing that is there is written over.
    fn files(&self, stem: &str) -> Result<BackupFiles, Failure> {
        if self.to.extension().is_none_or(|ending| ending != "dump") {
            return Ok(BackupFiles::new(&self.to, stem.to_owned())?);
        }
        let folder = self.to.parent().filter(|folder| !folder.as_os_str().is_empty());
        let stem = self.to.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let files = BackupFiles::new(folder.unwrap_or(Path::new(".")), stem)?;
        match [files.archive(), files.manifest()].iter().find(|file| file.exists()) {
            Some(file) => Err(Failure(format!("`{}` is there already; give another name", file.display()))),
            None => Ok(files),
        }
    }
}

#[derive(clap::Args)]
pub(crate) struct Import {
    /// The archive that `tenant export` or `tenant backup` wrote, its manifest beside it
    #[arg(value_name = "FILE.dump")]
    file: PathBuf,
    /// Its name here; the one that it had when not given
    #[arg(long = "as", value_name = "NEW")]
    name: Option<Slug>,
    /// What this fleet calls its edition; as in the manifest when not given
    #[arg(long)]
    edition: Option<String>,
    /// Its limits; as in the manifest when not given
    #[arg(long)]
    tier: Option<String>,
    /// Where its database is made; as in the manifest when not given
    #[arg(long)]
    server: Option<String>,
    /// A base URL beside those from listen.base_urls; may be given more than once
    #[arg(long = "base-url", value_name = "URL")]
    base_urls: Vec<BaseUrl>,
    #[command(flatten)]
    jwt_secret: JwtSecret,
}

impl Import {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        let files = BackupFiles::of(&self.file);
        let spec = ImportSpec {
            slug: self.name,
            edition: self.edition,
            copy: CopySpec {
                tier: self.tier,
                server: self.server,
                base_urls: self.base_urls,
                jwt_secret: self.jwt_secret.read()?,
                ..CopySpec::default()
            },
        };
        stoppable(output, |stop| async move {
            let stages = Stages::new(output, format!("importing {}", self.file.display()));
            let told = |progress: Progress| stages.show(progress);
            let filled = fleet.import(&files, &spec, Watcher::new(&told, &stop)).await;
            stages.finish();
            tell(&filled?, output)
        })
        .await
    }
}
