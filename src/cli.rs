//! The command line: the tree of commands, exit codes, and what runs before and after each of them.

mod apply;
mod arguments;
mod context;
mod control;
mod demo;
mod doctor;
mod drift;
mod fleet;
mod journal;
mod keys;
mod migrate;
mod operator;
mod output;
mod progress;
mod rekey;
mod serve;
mod server;
mod setup;
mod shell;
mod stop;
mod tenant;
mod top;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::fleet::Servers;
use crate::settings::{LogFormat, Paths, Settings};
use context::{Context, SettingsSource};
use output::Output;

/// A failure, in the operator's words. What it says is all that is printed.
#[derive(Debug)]
struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

type Done = Result<(), Failure>;

/// The settings file when none is named: the only one that may be missing.
const SETTINGS_FILE: &str = "tenants.toml";
/// The exit code of wrong usage and of settings that can't be used.
const USAGE: u8 = 2;

/// A database-per-tenant router for PostgreSQL.
#[derive(Parser)]
#[command(name = "manybox", version, propagate_version = true)]
struct Cli {
    /// The settings file, tenants.toml when not given; what it does not say comes from defaults and MANYBOX__SECTION__KEY
    #[arg(long, global = true, env = "MANYBOX_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON instead of tables and sentences; log lines become JSON as well
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the master key, the servers' roles and the catalog; run again, it changes nothing
    Init,
    /// Print the effective settings, secrets masked
    Config,
    /// Make catalog and databases match the tenants declared in the settings; never deletes
    Apply(apply::Apply),
    /// Create and look after tenants
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// Look after all tenants together
    #[command(subcommand)]
    Fleet(fleet::FleetCommand),
    /// Look after PostgreSQL servers
    #[command(subcommand)]
    Server(server::ServerCommand),
    /// Bring every tenant to its edition's newest version
    Migrate(migrate::MigrateCommand),
    /// Compare tenants' schemas with what their files make; changes nothing unless told to accept
    Drift(drift::DriftCommand),
    /// Look whether tenants are kept apart as they must be; changes nothing
    Verify(verify::Verify),
    /// Look the fleet over for what is not as it should be, and say what to do; changes nothing unless told to rebuild
    Doctor(doctor::Doctor),
    /// Serve tenants: the router
    Serve,
    /// Serve operators: the fleet by HTTP, and a console
    Control,
    /// Say who may use the control service
    #[command(subcommand)]
    Operator(operator::OperatorCommand),
    /// Show what was done to the fleet, and whether anybody changed the record of it
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// Show what a running router does: servers, busiest tenants
    Top(top::Top),
    /// Apply, fill with data, and serve: manybox to look at
    Demo,
    /// Move every password to a new master key, tenant by tenant, while requests go on
    Rekey(rekey::Rekey),
    /// List the fleet's master keys by fingerprint, what derives from each, and the secrets that a lost one took along
    Keys,
    /// Print what a shell needs to complete commands and options
    Completions(shell::Completions),
    /// Print the manual page, or write one for each command
    Man {
        /// A folder for the pages of all commands
        #[arg(long, value_name = "FOLDER")]
        to: Option<PathBuf>,
    },
}

/// Runs the program: 0 done, 1 failed, 2 wrong usage or wrong settings. `apply --dry-run` has 2 for changes, and 1 for all
/// that is wrong.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let output = Output { json: cli.json };
    // Those that need no settings.
    let done = match &cli.command {
        Command::Completions(completions) => Some(completions.print(Cli::command())),
        Command::Man { to } => Some(shell::man(Cli::command(), to.as_deref())),
        _ => None,
    };
    if let Some(done) = done {
        return done.map_or_else(|failure| output.failed(&failure), |()| ExitCode::SUCCESS);
    }
    let tells_changes = matches!(&cli.command, Command::Apply(apply) if apply.dry_run);
    let (settings, source) = match settings(&cli) {
        Ok(settings) => settings,
        Err(failure) if tells_changes => return output.failed(&failure),
        Err(failure) => {
            output.failed(&failure);
            return ExitCode::from(USAGE);
        }
    };
    let serves = matches!(cli.command, Command::Serve | Command::Control);
    let logs_json = serves && (cli.json || settings.log.format == LogFormat::Json);
    crate::telemetry::init(serves, logs_json);
    // What ends a service is the last line of its log.
    let output = Output { json: cli.json || logs_json };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output.failed(&Failure(format!("no async runtime: {error}"))),
    };
    match runtime.block_on(command(cli.command, settings, source, output)) {
        Ok(code) => code,
        Err(failure) => output.failed(&failure),
    }
}

/// The settings, and where they come from.
fn settings(cli: &Cli) -> Result<(Settings, SettingsSource), Failure> {
    let file = cli.config.clone().unwrap_or_else(|| SETTINGS_FILE.into());
    let is_there = file.exists();
    if cli.config.is_some() && !is_there {
        return Err(Failure(format!(
            "there is no settings file `{}` (--config or MANYBOX_CONFIG); nothing was done",
            file.display()
        )));
    }
    // `apply` without a file has nothing to make.
    let makes_server = match &cli.command {
        Command::Init | Command::Demo => true,
        Command::Apply(apply) => is_there && !apply.dry_run,
        _ => false,
    };
    let tells = !matches!(cli.command, Command::Init | Command::Demo);
    let settings = Settings::load(&Paths { file: file.clone() })?;
    Ok((settings, SettingsSource { file, is_there, makes_server, tells }))
}

async fn command(
    command: Command,
    settings: Settings,
    source: SettingsSource,
    output: Output,
) -> Result<ExitCode, Failure> {
    let success = |()| ExitCode::SUCCESS;
    // Those that need neither catalog nor server.
    let command = match command {
        Command::Config => return setup::config(&settings, output).map(success),
        Command::Top(top) => return top.run(&settings, output).await.map(success),
        Command::Migrate(migrate) => match migrate.offline(&settings, output) {
            Some(done) => return done.map(success),
            None => Command::Migrate(migrate),
        },
        other => other,
    };
    // A URL or a certificate that can't be used is found before anything begins: these are settings, too.
    if let Err(error) = Servers::new(&settings, None) {
        output.failed(&error.into());
        let tells_changes = matches!(&command, Command::Apply(apply) if apply.dry_run);
        return Ok(if tells_changes { ExitCode::FAILURE } else { ExitCode::from(USAGE) });
    }
    if let Command::Serve = command {
        return serve::serve(settings, &source, output).await.map(success);
    }
    let context = Context::start(settings, &source, output).await?;
    // These have their own use for Ctrl-C: a drained stop, and the cancelling of what runs in a database.
    let own = match &command {
        Command::Demo | Command::Control | Command::Journal(_) | Command::Migrate(_) | Command::Fleet(_) => {
            true
        }
        Command::Tenant(tenant) => tenant.heeds_signals(),
        _ => false,
    };
    let outcome = tokio::select! {
        outcome = dispatch(command, &context, output) => outcome,
        _ = tokio::signal::ctrl_c(), if !own => Err(Failure("interrupted; what was begun goes on when the command is run again".into())),
    };
    // The server is let go whatever happened, but the first failure is the one to tell.
    let stopped = context.stop().await;
    outcome.and_then(|code| stopped.map(|()| code))
}

async fn dispatch(command: Command, context: &Context, output: Output) -> Result<ExitCode, Failure> {
    let done = match command {
        Command::Init => setup::init(context, output).await,
        Command::Apply(apply) => return apply.run(context, output).await,
        Command::Tenant(tenant) => tenant.run(context, output).await,
        Command::Fleet(fleet) => fleet.run(context, output).await,
        Command::Server(server) => server.run(context, output).await,
        Command::Migrate(migrate) => Box::pin(migrate.run(context, output)).await,
        Command::Drift(drift) => drift.run(context, output).await,
        Command::Verify(verify) => verify.run(context, output).await,
        Command::Doctor(doctor) => doctor.run(context, output).await,
        Command::Rekey(rekey) => rekey.run(context, output).await,
        Command::Keys => rekey::keys(context, output).await,
        Command::Control => control::control(context).await,
        Command::Journal(journal) => journal.run(context, output).await,
        Command::Operator(operator) => operator.run(context, output).await,
        Command::Demo => demo::demo(context).await,
        Command::Config
        | Command::Serve
        | Command::Top(_)
        | Command::Completions(_)
        | Command::Man { .. } => Ok(()),
    };
    done.map(|()| ExitCode::SUCCESS)
}
