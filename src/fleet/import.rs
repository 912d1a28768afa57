//! Import: a tenant of another fleet, from its archive and manifest. Both are a stranger's word: nothing of them runs as the
//! admin, nothing of them says what is another tenant's, and what came out is compared with what they say.

use super::fill::Source;
use super::{BackupFiles, CopySpec, Filled, Fleet, FleetError, Manifest, Proof, Watcher};
use crate::catalog::TenantRow;
use crate::migrate::{self, Edition};
use crate::tenant::Slug;

/// Most settings that are told to be of no use here.
const TOLD: usize = 20;

/// How a tenant of another fleet is taken in.
#[derive(Debug, Clone, Default)]
pub struct ImportSpec {
    /// Its slug; the one that it had when not given.
    pub slug: Option<Slug>,
    /// Its edition, where this fleet calls that otherwise.
    pub edition: Option<String>,
    /// The rest.
    pub copy: CopySpec,
}

impl Fleet {
    /// Makes a tenant of an archive and a manifest that another fleet wrote. It gets an id of its own, and so other passwords
    /// and another key for its tokens. Its settings and labels are those of the manifest; base URLs it gets from this fleet's
    /// settings and from `spec` alone.
    ///
    /// # Errors
    /// When the archive is not what its manifest says, the slug is taken, the files of the edition here are not those that its
    /// database was made by, the watcher stopped it, or what came out is not what the manifest says. Nothing is left then.
    pub async fn import(
        &self,
        files: &BackupFiles,
        spec: &ImportSpec,
        watcher: Watcher<'_>,
    ) -> Result<Filled, FleetError> {
        let mut manifest = self.check_archive(files, watcher).await?;
        let slug = match &spec.slug {
            Some(slug) => slug.clone(),
            None => manifest.tenant.slug.parse()?,
        };
        if let Some(edition) = &spec.edition {
            manifest.tenant.edition.clone_from(edition);
        }
        refuse_other_files(&manifest, &self.edition(&manifest.tenant.edition)?)?;
        let work = async {
            self.refuse_taken(&slug).await?;
            self.fill_new(&slug, Source::Files(files, &manifest), &spec.copy, watcher).await
        };
        let mut filled = self.alone_into(&slug, Box::pin(work)).await?;
        filled.notes.extend(self.to_know(&filled, &manifest).await);
        Ok(filled)
    }

    /// What an operator should know of a tenant that came from another fleet.
    async fn to_know(&self, filled: &Filled, manifest: &Manifest) -> Vec<String> {
        let (record, of) = (&filled.tenant.record, &manifest.tenant);
        let mut notes = Vec::new();
        let left_out = record.overrides.left_out();
        notes
            .extend(left_out.iter().take(TOLD).map(|(_, why)| format!("not taken from the manifest: {why}")));
        let is_known = |key: &str| !left_out.iter().any(|(unknown, _)| *unknown == key);
        let known = record.overrides.iter().filter(|(key, _)| is_known(key));
        let set: Vec<_> = known.map(|(key, value)| format!("{key} = {value}")).collect();
        if !set.is_empty() {
            notes.push(format!("settings taken from the manifest: {}", set.join(", ")));
        }
        let labels: Vec<_> =
            filled.tenant.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !labels.is_empty() {
            notes.push(format!("labels taken from the manifest: {}", labels.join(", ")));
        }
        let has = |url: &&String| record.base_urls.iter().any(|own| own.to_string() == **url);
        let urls: Vec<_> = of.base_urls.iter().filter(|url| !has(url)).map(String::as_str).collect();
        if !urls.is_empty() {
            notes.push(format!("base URLs that it had there and has not here: {}", urls.join(", ")));
        }
        match self.prove_anew(&filled.tenant).await {
            Ok(Proof::Equal(_) | Proof::Accepted(..)) => {}
            Ok(Proof::Drifted(drift) | Proof::DriftedBefore(drift)) => notes.push(format!(
                "its schema differs from what the files of its edition make, in {} place(s): `manybox drift --tenant {}`",
                drift.len(),
                record.slug
            )),
            Ok(Proof::Unknown(why)) => notes.push(format!("its schema was not compared with its edition's: {why}")),
            Err(error) => notes.push(format!("its schema was not compared with its edition's: {error}")),
        }
        notes
    }

    /// Compares a tenant's schema with what its edition's files make, though no other tenant has its lineage yet.
    async fn prove_anew(&self, tenant: &TenantRow) -> Result<Proof, FleetError> {
        let record = &tenant.record;
        let lineage = record
            .lineage()
            .ok_or_else(|| FleetError::Adopted(record.slug.to_string(), "compared with an edition"))?;
        // Repeatable files were run in an order that nobody knows here.
        let files = self.edition(&lineage.edition)?.ending_at(lineage.version).versions_only();
        if files.history_digest(lineage.version) == lineage.history {
            self.keep_facts(self.servers.get(&record.server)?, &files, lineage).await?;
        }
        self.prove(tenant, lineage, None).await
    }
}

/// Refuses a database that the files of this edition did not make, or newer ones than are here.
fn refuse_other_files(manifest: &Manifest, edition: &Edition) -> Result<(), FleetError> {
    let lineage = manifest.tenant.lineage();
    let why = match migrate::standing(edition, &lineage) {
        migrate::Standing::Current | migrate::Standing::Behind { .. } => return Ok(()),
        migrate::Standing::Ahead => {
            format!("it is at version {}, and the files end at {}", lineage.version, edition.latest())
        }
        migrate::Standing::Divergent => manifest
            .history
            .stranger(edition)
            .unwrap_or_else(|| "its history is not one that these files make in their order".into()),
    };
    Err(FleetError::Settings(format!(
        "`{}` of the archive is not of edition `{}` as it is here: {why}. Bring the files that made it, or name the edition that \
         has them by --edition",
        manifest.tenant.slug, edition.name
    )))
}
