//! `manybox tenant adopt`: a tenant over a database that is there already.

use super::super::Done;
use super::super::output::Output;
use super::secret::{self, JwtSecret};
use super::{done, set, urls};
use crate::fleet::{AdoptionSpec, Fleet};
use crate::policy::{Api, JWT_SECRET, Overrides};
use crate::tenant::{BaseUrl, Slug};

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
    /// The role to log in as, PostgREST's authenticator; `authenticator` when not given
    #[arg(long, value_name = "ROLE")]
    login_role: Option<String>,
    /// The environment variable that holds the role's password; trust or peer without it
    #[arg(long, value_name = "NAME", conflicts_with = "password_file")]
    password_env: Option<String>,
    /// The file that has the role's password; - for standard input
    #[arg(long, value_name = "FILE")]
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
        set::check_secret(&Api::adopted(), &overrides)?;
        let spec = AdoptionSpec {
            database: self.database,
            server: self.server,
            login_role: self.login_role,
            password,
            tier: self.tier,
            base_urls: self.base_urls,
            settings,
        };
        let adoption = fleet.adopt(&self.slug, &spec).await?;
        output.answer(&adoption, |adoption| {
            let warnings: String = adoption.warnings.iter().map(|w| format!("\nwarning: {w}")).collect();
            let read = adoption.schema_ms.map(|ms| format!("\nits schema was read in {ms} ms"));
            let read = read.unwrap_or_default();
            format!("{}\n{}{read}{warnings}", done(&adoption.tenant), urls(&adoption.tenant))
        })
    }
}
