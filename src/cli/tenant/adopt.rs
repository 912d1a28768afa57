//! `manybox tenant adopt`: a tenant over a database that is there already.

use super::super::Done;
use super::super::output::Output;
use super::secret::{self, JwtSecret};
use super::{done, set, urls};
use crate::fleet::{AdoptionSpec, EditionAdoption, Fleet, IntoEdition};
use crate::policy::{Api, JWT_SECRET, Overrides};
use crate::tenant::{BaseUrl, Slug};

/// Most lines of one kind that are printed. All are in the JSON.
const PRINTED: usize = 50;

#[derive(clap::Args)]
#[command(after_help = set::keys())]
pub(in crate::cli) struct Adopt {
    /// Its name: a-z, 0-9 and dashes
    slug: Slug,
    /// The database
    #[arg(long, value_name = "NAME")]
    database: String,
    /// The server that has it; defaults.server when not given
    #[arg(long)]
    server: Option<String>,
    /// Make it a tenant of this edition, with owners, rights and login as all have: it is migrated from then on
    #[arg(long, value_name = "EDITION", requires = "baseline")]
    edition: Option<String>,
    /// The version that it has: the edition's files up to this one are recorded as applied
    #[arg(long, value_name = "VERSION", requires = "edition")]
    baseline: Option<i64>,
    /// Show what would be done to it and how its schema differs, and change nothing
    #[arg(long, requires = "edition")]
    dry_run: bool,
    /// The role to log in as, PostgREST's authenticator; `authenticator` when not given
    #[arg(long, value_name = "ROLE", conflicts_with = "edition")]
    login_role: Option<String>,
    /// The environment variable that holds the role's password; trust or peer without it
    #[arg(long, value_name = "NAME", conflicts_with_all = ["password_file", "edition"])]
    password_env: Option<String>,
    /// The file that has the role's password; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "edition")]
    password_file: Option<String>,
    #[command(flatten)]
    jwt_secret: JwtSecret,
    /// Its limits; defaults.tier when not given
    #[arg(long)]
    tier: Option<String>,
    /// A base URL beside those from listen.base_urls; may be given more than once
    #[arg(long = "base-url", value_name = "URL")]
    base_urls: Vec<BaseUrl>,
    /// A setting as in `tenant set`; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Adopt {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        let password = match (&self.password_env, &self.password_file) {
            (Some(name), _) => Some(secret::of_environment("--password-env", name)?),
            (None, Some(file)) => Some(secret::of_file("--password-file", file)?),
            (None, None) => None,
        };
        let (mut settings, mut overrides) = (Vec::new(), Overrides::default());
        for setting in &self.settings {
            let (key, given) = set::pair(setting)?;
            let value = secret::value(key, given, output)?;
            overrides.set(key, value.expose())?;
            settings.push((key.to_owned(), value.expose().to_owned()));
        }
        if let Some(secret) = self.jwt_secret.read()? {
            overrides.set(JWT_SECRET, secret.expose())?;
            settings.push((JWT_SECRET.to_owned(), secret.expose().to_owned()));
        }
        let of_edition = self.edition.as_ref().map(|edition| fleet.settings.edition_api(edition));
        set::check_secret(&of_edition.unwrap_or_else(Api::adopted), &overrides)?;
        let spec = AdoptionSpec {
            database: self.database,
            server: self.server,
            login_role: self.login_role,
            password,
            tier: self.tier,
            base_urls: self.base_urls,
            settings,
        };
        if let (Some(edition), Some(version)) = (&self.edition, self.baseline) {
            let edition = fleet.edition(edition)?;
            let into = IntoEdition { edition: &edition, version, dry_run: self.dry_run };
            let adopted = fleet.adopt_into_edition(&self.slug, &spec, into).await?;
            return output.answer(&adopted, words);
        }
        let adoption = fleet.adopt(&self.slug, &spec).await?;
        output.answer(&adoption, |adoption| {
            let warnings: String = adoption.warnings.iter().map(|w| format!("\nwarning: {w}")).collect();
            let read = adoption.schema_ms.map(|ms| format!("\nits schema was read in {ms} ms"));
            let read = read.unwrap_or_default();
            format!("{}\n{}{read}{warnings}", done(&adoption.tenant), urls(&adoption.tenant))
        })
    }
}

pub(super) fn words(adopted: &EditionAdoption) -> String {
    let EditionAdoption { dry_run, edition, version, database, locked_ms, replaced, .. } = adopted;
    let mut text = match (&adopted.tenant, dry_run) {
        (Some(tenant), false) => {
            format!("{}, of edition {edition} at version {version}\n{}", done(tenant), urls(tenant))
        }
        _ => format!(
            "database {database} would be of edition {edition} at version {version}; nothing was changed, run it again without \
             --dry-run"
        ),
    };
    let mut list = |title: &str, lines: &[String]| {
        text.push_str(&format!("\n{title}"));
        for line in lines.iter().take(PRINTED) {
            text.push_str(&format!("\n  {}", line.replace('\n', " ")));
        }
        if let Some(more @ 1..) = lines.len().checked_sub(PRINTED) {
            text.push_str(&format!("\n  and {more} more: --json shows all"));
        }
    };
    if !replaced.is_empty() {
        list(&format!("{} file(s) of its history give way", replaced.len()), replaced);
    }
    match adopted.recorded.as_slice() {
        [] => list("its history has these files already", &[]),
        recorded => list(&format!("{} file(s) recorded as applied, not run", recorded.len()), recorded),
    }
    match adopted.changes.as_slice() {
        [] => list("owners and rights are as they should be", &[]),
        changes => list(&format!("{} change(s) of owners and rights", changes.len()), changes),
    }
    match adopted.differences.as_slice() {
        [] => list("its schema is what the files make", &[]),
        differences => {
            list(
                &format!("its schema differs from what the files make, in {} place(s)", differences.len()),
                differences,
            );
            list(
                "change that by hand, or accept it with `manybox drift --tenant … --accept --reason …`",
                &[],
            );
        }
    }
    if !adopted.notes.is_empty() {
        list("to be known", &adopted.notes);
    }
    list(&format!("its tables were locked for {locked_ms} ms"), &[]);
    text
}
