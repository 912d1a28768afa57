//! `manybox tenant`: create and look after tenants.

mod adopt;
mod backup;
mod change_edition;
mod list;
mod recover;
mod secret;
mod set;
mod travel;

use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitStatus;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};
use tokio::signal::unix::{SignalKind, signal};

pub(super) use recover::recover_all;

use super::output::{line, table, time};
use super::{Context, Done, Failure, Output, arguments};
use crate::catalog::{Filter, TenantRow};
use crate::control::issue_token;
use crate::fleet::{Fleet, FleetError, TenantSpec};
use crate::pg::{Endpoint, Login};
use crate::policy::Secret;
use crate::tenant::{BaseUrl, Slug, State, Verb};

#[derive(clap::Subcommand)]
pub(super) enum TenantCommand {
    /// Create a tenant, or finish a creation that was interrupted
    Create {
        /// Its name: a-z, 0-9 and dashes
        slug: Slug,
        /// Its line of schema versions; defaults.edition when not given
        #[arg(long)]
        edition: Option<String>,
        /// Its limits; defaults.tier when not given
        #[arg(long)]
        tier: Option<String>,
        /// Where its database is made; defaults.server when not given
        #[arg(long)]
        server: Option<String>,
        /// A base URL beside those from listen.base_urls; may be given more than once
        #[arg(long = "base-url", value_name = "URL")]
        base_urls: Vec<BaseUrl>,
    },
    /// Serve a database that is there already, as PostgREST did; nothing in it is changed
    Adopt(adopt::Adopt),
    /// List tenants
    List(list::List),
    /// Show one tenant and what was done to it
    Show {
        /// The tenant
        slug: String,
        /// Show the key that signs its tokens (HS256, base64) as well
        #[arg(long)]
        jwt_key: bool,
    },
    /// Change settings; an empty value goes back to the default
    #[command(after_help = set::keys())]
    Set {
        /// The tenant
        slug: String,
        /// KEY=VALUE; of a secret KEY=@FILE, or KEY=- for standard input
        #[arg(required_unless_present_any = ["jwt_secret_file", "jwt_secret_env"], value_name = "KEY=VALUE")]
        settings: Vec<String>,
        #[command(flatten)]
        jwt_secret: secret::JwtSecret,
    },
    /// Have routers read its schema and in-database configuration again, as `NOTIFY pgrst` does with PostgREST
    Reload {
        /// The tenants
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        slugs: Vec<String>,
        /// All tenants
        #[arg(long)]
        all: bool,
    },
    /// Refuse its requests (403), data untouched
    Suspend {
        /// The tenant
        slug: String,
    },
    /// Serve it again after `suspend`
    Resume {
        /// The tenant
        slug: String,
    },
    /// Take it out of service (404) and keep its database
    Retire {
        /// The tenant
        slug: String,
        /// Keep it until then at least: 2027-01-31, or with a time as in RFC 3339; defaults.purge_grace when not given
        #[arg(long, value_name = "TIME", value_parser = moment)]
        until: Option<OffsetDateTime>,
    },
    /// Bring it back into service after `retire`, or its database back from a backup
    Restore(backup::Restore),
    /// Back its database up while it is served: an archive that `pg_restore` reads, and a manifest
    Backup(backup::Backup),
    /// Make a tenant from another as it is now
    Clone(backup::Clone),
    /// Write it out for another fleet, while it is served: its database, and what it has different
    Export(travel::Export),
    /// Make a tenant of what another fleet wrote out
    Import(travel::Import),
    /// Make a database that the catalog lost a tenant again, as the mark in it says
    Recover(recover::Recover),
    /// Make it one of another edition, whose files up to a version say what its database is already
    ChangeEdition(change_edition::ChangeEdition),
    /// Give it another name, and the base URLs that go with it
    Rename(backup::Rename),
    /// Drop a retired tenant's database and login for good; of an adopted database only the tenant goes
    Purge {
        /// The tenant
        slug: String,
        /// Don't ask for the slug again
        #[arg(long)]
        yes: bool,
        /// Before the time until which it is kept
        #[arg(long)]
        now: bool,
    },
    /// Make a signed token to try things with
    Token {
        /// The tenant
        slug: String,
        /// The API role to claim
        #[arg(long)]
        role: String,
        /// A further claim; a value that is JSON is taken as such
        #[arg(long = "claim", value_name = "KEY=VALUE")]
        claims: Vec<String>,
        /// How long it holds
        #[arg(long, default_value = "1h", value_parser = arguments::time)]
        expires: Duration,
    },
    /// Open psql in its database, by a login for this session, as the owner
    Psql {
        /// The tenant
        slug: String,
        /// As the server's admin: whatever the tenant put into its views and functions then runs with the admin's rights
        #[arg(long, requires = "reason")]
        admin: bool,
        /// Why it takes the admin; the tenant's journal keeps it
        #[arg(long, requires = "admin", value_name = "TEXT")]
        reason: Option<String>,
        /// What to hand on to psql
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

impl TenantCommand {
    /// Whether it has its own use for Ctrl-C.
    pub(super) fn heeds_signals(&self) -> bool {
        match self {
            Self::Psql { .. } | Self::Backup(_) | Self::Clone(_) | Self::Export(_) | Self::Import(_) => true,
            Self::Restore(restore) => restore.from.is_some(),
            _ => false,
        }
    }

    pub(super) async fn run(self, context: &Context, output: Output) -> Done {
        let fleet = context.fleet().await?;
        match self {
            Self::Create { slug, edition, tier, server, base_urls } => {
                let spec = TenantSpec { edition, tier, server, base_urls, ..TenantSpec::default() };
                let spinner = output.spinner(format!("creating {slug}"));
                let row = fleet.create(&slug, &spec).await;
                spinner.finish_and_clear();
                output.answer(&row?, |row| format!("{}\n{}", done(row), urls(row)))
            }
            Self::Adopt(adopt) => adopt.run(&fleet, output).await,
            Self::List(list) => list.run(&fleet, output).await,
            Self::Show { slug, jwt_key } => show(&fleet, &slug, jwt_key, output).await,
            Self::Set { slug, settings, jwt_secret } => {
                let changed = set::set(&fleet, &slug, &settings, &jwt_secret, output).await?;
                output.answer(&changed, set::words)
            }
            Self::Reload { slugs, all } => reload(&fleet, slugs, all, output).await,
            Self::Suspend { slug } => verb(&fleet, &slug, Verb::Suspend, output).await,
            Self::Resume { slug } => verb(&fleet, &slug, Verb::Resume, output).await,
            Self::Retire { slug, until } => {
                let row = match fleet.retire(&slug, until).await {
                    Ok(row) => row,
                    Err(error) => return Err(half_done(&fleet, &slug, Verb::Retire, error).await),
                };
                output.answer(&row, |row| {
                    let until =
                        row.keep_until.map(|until| format!(", and kept until {} at least", time(until)));
                    format!("{}{}{}", done(row), left_alone(row), until.unwrap_or_default())
                })
            }
            Self::Restore(restore) => match restore.from.clone() {
                Some(file) => restore.run_from(&fleet, &file, output).await,
                None => verb(&fleet, restore.slug(), Verb::Restore, output).await,
            },
            Self::Backup(backup) => backup.run(&fleet, output).await,
            Self::Clone(clone) => clone.run(&fleet, output).await,
            Self::Export(export) => export.run(&fleet, output).await,
            Self::Import(import) => import.run(&fleet, output).await,
            Self::Recover(recover) => recover.run(&fleet, output).await,
            Self::ChangeEdition(change) => change.run(&fleet, output).await,
            Self::Rename(rename) => rename.run(&fleet, output).await,
            Self::Purge { slug, yes, now } => {
                let row = fleet.tenant(&slug).await?;
                let is_kept = !now && row.keep_until.is_some_and(|until| until > OffsetDateTime::now_utc());
                if is_kept || !Verb::Purge.from().contains(&row.record.state) {
                    return verb(&fleet, &slug, Verb::Purge, output).await;
                }
                if !yes && !row.record.is_adopted() {
                    confirm(&slug)?;
                }
                let row = match fleet.carry_out_now(&slug, Verb::Purge).await {
                    Ok(row) => row,
                    Err(error) => return Err(half_done(&fleet, &slug, Verb::Purge, error).await),
                };
                output.answer(&row, |row| format!("{}{}", done(row), left_alone(row)))
            }
            Self::Token { slug, role, claims, expires } => {
                let row = fleet.tenant(&slug).await?;
                let token = token(&fleet, &row, &role, &claims, expires)?;
                output.answer(&serde_json::json!({ "token": token }), |_| token.clone())
            }
            Self::Psql { slug, admin: _, reason, arguments } => {
                psql(&fleet, &slug, reason.as_deref(), arguments).await
            }
        }
    }
}

/// A day, which begins at midnight UTC, or a moment.
fn moment(text: &str) -> Result<OffsetDateTime, String> {
    let day = time::macros::format_description!("[year]-[month]-[day]");
    OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| Ok(Date::parse(text, day)?.midnight().assume_utc()))
        .map_err(|_: time::error::Parse| "expected 2027-01-31 or 2027-01-31T12:00:00Z".into())
}

async fn verb(fleet: &Fleet, slug: &str, verb: Verb, output: Output) -> Done {
    let spinner = output.spinner(format!("{verb} {slug}"));
    let row = fleet.carry_out(slug, verb).await;
    spinner.finish_and_clear();
    let row = match row {
        Ok(row) => row,
        Err(error) => return Err(half_done(fleet, slug, verb, error).await),
    };
    output.answer(&row, |row| format!("{}{}", done(row), left_alone(row)))
}

/// What a verb did before it failed: routers obey the catalog, which says it already.
async fn half_done(fleet: &Fleet, slug: &str, verb: Verb, error: FleetError) -> Failure {
    match fleet.tenant(slug).await {
        Ok(row) if row.unsettled && verb.to() == row.record.state => Failure(format!(
            "{slug} is {} in the catalog, and routers obey that. Its server could not be made to follow ({error}): `manybox \
             apply` does it when that is mended",
            row.record.state
        )),
        _ => error.into(),
    }
}

async fn reload(fleet: &Fleet, slugs: Vec<String>, all: bool, output: Output) -> Done {
    let mut rows = Vec::new();
    if all {
        rows = fleet.catalog.tenants(&Filter { state: Some(State::Active), ..Filter::default() }).await?;
    }
    for slug in &slugs {
        rows.push(fleet.tenant(slug).await?);
    }
    for row in &rows {
        fleet.catalog.tenant_reload(&row.record.id).await?;
    }
    let slugs: Vec<_> = rows.iter().map(|row| row.record.slug.as_str()).collect();
    output.answer(&serde_json::json!({ "reloaded": slugs }), |_| match slugs.as_slice() {
        [] => "there are no tenants in service".into(),
        [one] => format!("{one}: routers read its schema again"),
        more => format!("{} tenants: routers read their schemas again", more.len()),
    })
}

/// What a verb does not do to an adopted database.
fn left_alone(row: &TenantRow) -> String {
    let record = &row.record;
    if !record.is_adopted() {
        return String::new();
    }
    let (database, role) = (record.database(), record.login_role());
    match record.state {
        State::Suspended | State::Retired => format!(
            ": routers refuse its requests; role `{role}` is not manybox's, so it can still log in to `{database}`"
        ),
        State::Purged => format!(": unregistered; database `{database}` and role `{role}` stay as they are"),
        _ => String::new(),
    }
}

fn done(row: &TenantRow) -> String {
    format!("{} is {}", row.record.slug, row.record.state)
}

fn urls(row: &TenantRow) -> String {
    row.record.base_urls.iter().map(|url| format!("  {url}")).collect::<Vec<_>>().join("\n")
}

async fn show(fleet: &Fleet, slug: &str, jwt_key: bool, output: Output) -> Done {
    let row = fleet.tenant(slug).await?;
    let journal = fleet.catalog.journal(&row.record.id, 20).await?;
    let key = fleet.keys.jwt_keys(&row.record).first().map(|key| STANDARD.encode(key)).filter(|_| jwt_key);
    let mut warnings = fleet.settings.idle_limits(&row.record);
    warnings.extend(fleet.refused_settings(&row.record).await);
    let answer = serde_json::json!({
        "tenant": row, "database": row.record.database(), "login": row.record.login_role(),
        "api": fleet.settings.tenant(row.record.clone()).api, "secrets": row.record.sealed.keys().collect::<Vec<_>>(),
        "journal": journal, "jwt_key": key, "warnings": warnings,
    });
    output.answer(&answer, |_| {
        let record = &row.record;
        let mut facts = vec![
            ("slug", record.slug.to_string()),
            ("id", record.id.to_string()),
            (
                "state",
                format!(
                    "{}{}",
                    record.state,
                    if row.unsettled { " (unsettled: run `manybox apply`)" } else { "" }
                ),
            ),
            (
                "edition",
                record.lineage().map_or_else(
                    || "none: the database was adopted".into(),
                    |lineage| format!("{} at version {}", lineage.edition, lineage.version),
                ),
            ),
            ("tier", record.tier.clone()),
            ("server", record.server.clone()),
            ("database", record.database()),
            ("login", record.login_role()),
            ("created", time(row.created_at)),
        ];
        facts.extend(row.baseline.map(|version| {
            ("baseline", format!("version {version}: the files up to it were recorded, not run"))
        }));
        facts.extend(row.quarantined.map(|since| ("quarantined", format!("since {}", time(since)))));
        facts.extend(record.overrides.iter().map(|(key, value)| ("setting", format!("{key} = {value}"))));
        facts.extend(record.sealed.keys().map(|name| ("sealed", format!("{name} (set, never shown)"))));
        let lost = |name: &String| {
            (
                "lost",
                format!(
                    "{name} (sealed with a master key that is lost: `manybox keys` says how to set it anew)"
                ),
            )
        };
        facts.extend(row.lost_secrets.iter().map(lost));
        facts.extend(row.failure.clone().map(|failure| ("failure", failure)));
        facts.extend(warnings.iter().map(|warning| ("warning", warning.clone())));
        facts.extend(key.clone().map(|key| ("jwt key", key)));
        facts.extend(record.base_urls.iter().map(|url| ("base url", url.to_string())));
        let facts = table(&["", ""], facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]));
        let lines =
            journal.iter().map(|e| vec![time(e.at), e.actor.clone(), e.action.clone(), e.detail.to_string()]);
        format!("{}\n\n{}", facts.trim_start(), table(&["AT", "ACTOR", "ACTION", "DETAIL"], lines))
    })
}

fn confirm(slug: &str) -> Done {
    if !std::io::stdin().is_terminal() {
        return Err(Failure(format!(
            "purge drops the database of `{slug}` for good; give --yes to do it without being asked"
        )));
    }
    line(&format!("This drops the database of `{slug}` for good. Type its slug to go on:"));
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed)?;
    if typed.trim() == slug { Ok(()) } else { Err(Failure("that is not its slug; nothing was done".into())) }
}

/// A token of this role, signed with the tenant's newest key.
pub(super) fn token(
    fleet: &Fleet,
    row: &TenantRow,
    role: &str,
    claims: &[String],
    expires: Duration,
) -> Result<String, Failure> {
    let mut body = Map::new();
    for claim in claims {
        let (key, value) =
            claim.split_once('=').ok_or_else(|| Failure(format!("`{claim}`: expected KEY=VALUE")))?;
        if let Some((_, option)) = [("role", "--role"), ("exp", "--expires")].iter().find(|(k, _)| *k == key)
        {
            return Err(Failure(format!("`--claim {claim}`: `{key}` is what {option} sets; give {option}")));
        }
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        body.insert(key.to_owned(), value);
    }
    Ok(issue_token(fleet, row, role, body, expires)?)
}

/// Opens psql; as the admin when there is a reason for that.
async fn psql(fleet: &Fleet, slug: &str, reason: Option<&str>, arguments: Vec<String>) -> Done {
    let row = fleet.tenant(slug).await?;
    let server = fleet.servers.get(&row.record.server)?;
    let (run, operator) = match reason {
        Some(reason) => {
            let admin = server.admin()?;
            let detail = serde_json::json!({ "admin": true, "reason": reason });
            fleet.catalog.note(&row.record.id, "psql", &detail).await?;
            (run_psql(&server.endpoint, admin, None, &row, arguments).await, None)
        }
        None => {
            let operator = fleet.open_operator(&row).await?;
            let run = run_psql(&server.endpoint, &operator.login, operator.role, &row, arguments).await;
            (run, Some(operator))
        }
    };
    let closed = match operator {
        Some(operator) => fleet.close_operator(&row.record, &operator).await,
        None => Ok(()),
    };
    let status = run?;
    closed?;
    if status.success() { Ok(()) } else { Err(Failure(format!("psql ended with {status}"))) }
}

async fn run_psql(
    endpoint: &Endpoint,
    login: &Login,
    role: Option<&str>,
    row: &TenantRow,
    arguments: Vec<String>,
) -> Result<ExitStatus, Failure> {
    // With a listener of its own Ctrl-C does not end this process: it is psql's, to cancel a query. A hang-up
    // reaches psql as well, and the login must be dropped behind it.
    let _ctrl_c = signal(SignalKind::interrupt())?;
    let _hang_up = signal(SignalKind::hangup())?;
    let mut command = tokio::process::Command::new("psql");
    command
        .args(endpoint.psql_arguments(&login.user, &row.record.database()))
        .args(arguments)
        .env("PGPASSWORD", login.password.as_ref().map_or("", Secret::expose));
    if let Some(role) = role {
        let given = std::env::var("PGOPTIONS").unwrap_or_default();
        command.env("PGOPTIONS", format!("{given} -c role={role}"));
    }
    command
        .status()
        .await
        .map_err(|e| Failure(format!("psql could not be started: {e}; install PostgreSQL's client programs")))
}
