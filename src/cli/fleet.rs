//! `manybox fleet`: what is done to all tenants.

mod backup;

use super::{Context, Done, Output};

#[derive(clap::Subcommand)]
pub(super) enum FleetCommand {
    /// Back up every tenant, a few at a time, while they are served; again, it goes on with what was stopped
    Backup(backup::Backup),
}

impl FleetCommand {
    pub(super) async fn run(self, context: &Context, output: Output) -> Done {
        let fleet = context.fleet().await?;
        match self {
            Self::Backup(backup) => backup.run(&fleet, output).await,
        }
    }
}
