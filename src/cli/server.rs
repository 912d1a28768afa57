//! `manybox server`: what PostgreSQL servers must allow.

use super::{Context, Done, Failure, Output};
use crate::fleet;

#[derive(clap::Subcommand)]
pub(super) enum ServerCommand {
    /// Look whether servers have what manybox needs, and nothing that it must not have; changes nothing unless told to
    Check {
        /// Only this server
        #[arg(long, value_name = "NAME")]
        server: Option<String>,
        /// Make the roles that are missing, and try everything on a scratch database, which is dropped again
        #[arg(long)]
        fix: bool,
    },
    /// Take over a server whose fleet is gone: `init` refuses one that belongs to another fleet
    Claim {
        /// The server
        #[arg(value_name = "NAME")]
        server: String,
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
        match self {
            Self::Check { server, fix } => check(context, server.as_deref(), fix, output).await,
            Self::Claim { server } => {
                let former = fleet::release(&context.settings, &context.servers, &server).await?;
                let answer = serde_json::json!({ "server": server, "former": former });
                output.answer(&answer, |_| match &former {
                    Some(former) => format!(
                        "server `{server}` belonged to fleet {former}; next: `manybox init`, which takes it for this one"
                    ),
                    None => format!("server `{server}` belonged to no fleet; nothing was done"),
                })
            }
        }
    }
}

/// Looks at every server, past those that can't be reached.
async fn check(context: &Context, only: Option<&str>, fix: bool, output: Output) -> Done {
    if let Some(name) = only {
        context.servers.get(name)?;
    }
    let mut lines = Vec::new();
    for (name, access) in context.servers.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        let spinner = output.spinner(format!("checking server {name}"));
        let mut findings = fleet::check(&context.settings, access).await;
        if fix {
            match fleet::try_out(&context.settings, access).await {
                Ok(tried) => findings.extend(tried),
                Err(error) => findings.push(fleet::Finding {
                    trial: "try everything on a scratch database".into(),
                    ok: false,
                    message: error.to_string(),
                    remedy: String::new(),
                }),
            }
        }
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
