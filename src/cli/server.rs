//! `manybox server`: what PostgreSQL servers must allow.

use super::{Context, Done, Failure, Output};
use crate::fleet;

#[derive(clap::Subcommand)]
pub(super) enum ServerCommand {
    /// Try on a scratch database everything manybox needs there, and print the GRANT that is missing
    Check {
        /// Only this server
        #[arg(long, value_name = "NAME")]
        server: Option<String>,
    },
}

/// One line of `server check`.
#[derive(serde::Serialize)]
struct Line {
    server: String,
    #[serde(flatten)]
    finding: fleet::Finding,
}

impl ServerCommand {
    pub(super) async fn run(self, context: &Context, output: Output) -> Done {
        let Self::Check { server } = self;
        if let Some(name) = &server {
            context.servers.get(name)?;
        }
        let mut lines = Vec::new();
        for (name, access) in
            context.servers.iter().filter(|(name, _)| server.as_deref().is_none_or(|s| s == *name))
        {
            let spinner = output.spinner(format!("checking server {name}"));
            let findings = fleet::check(&context.settings, access).await?;
            spinner.finish_and_clear();
            lines.extend(findings.into_iter().map(|finding| Line { server: name.to_owned(), finding }));
        }
        output.list(
            &lines,
            &["SERVER", "TRIAL", "", "MESSAGE", "AS A SUPERUSER"],
            |l| {
                let ok = if l.finding.ok { "ok" } else { "FAILED" };
                vec![
                    l.server.clone(),
                    l.finding.trial.clone(),
                    ok.into(),
                    l.finding.message.clone(),
                    l.finding.remedy.clone(),
                ]
            },
            "there are no servers",
        )?;
        match lines.iter().filter(|l| !l.finding.ok).count() {
            0 => Ok(()),
            failed => Err(Failure(format!("{failed} of {} trials failed", lines.len()))),
        }
    }
}
