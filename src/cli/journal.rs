//! `manybox journal`: what was done to the fleet, and whether anybody changed the record of it.

use std::time::Duration;

use super::output::{json_line, line, time};
use super::{Context, Done, Failure, Output};
use crate::catalog::{Catalog, Entry, JournalHead};

/// How often new lines are looked for.
const LOOK: Duration = Duration::from_secs(1);

#[derive(clap::Subcommand)]
pub(super) enum JournalCommand {
    /// Compute every hash of the chain anew; fails when a line was changed, taken away or written past it
    Verify {
        /// An end of the chain that was kept, as this prints it and manifests of backups have it; may be given more than once
        #[arg(long = "head", value_name = "POSITION:HASH")]
        heads: Vec<JournalHead>,
    },
    /// Show the newest lines
    Tail {
        /// How many
        #[arg(short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=1000))]
        lines: i64,
        /// Go on until Ctrl-C
        #[arg(long, short)]
        follow: bool,
    },
    /// Print the chain, a JSON object a line: place, number, the line as it is hashed, hash
    Export,
}

impl JournalCommand {
    pub(super) async fn run(self, context: &Context, output: Output) -> Done {
        let catalog = context.catalog().await?;
        match self {
            Self::Verify { heads } => {
                let report = catalog.journal_verify(&heads).await?;
                output.answer(&report, |report| match &report.head {
                    Some(head) => format!("{head}"),
                    None => "the journal is empty".into(),
                })?;
                if report.breaks.is_empty() {
                    return Ok(());
                }
                Err(Failure(format!("the journal was changed:\n{}", report.breaks.join("\n"))))
            }
            Self::Tail { lines, follow } => tail(&catalog, lines, follow, output).await,
            Self::Export => export(&catalog).await,
        }
    }
}

async fn tail(catalog: &Catalog, lines: i64, follow: bool, output: Output) -> Done {
    let (mut after, mut most) = (None, lines);
    loop {
        for (id, slug, entry) in catalog.journal_tail(after, most).await? {
            after = Some(id);
            let goes_on = if output.json {
                json_line(&serde_json::json!({ "id": id, "tenant": slug, "entry": entry }))?
            } else {
                line(&words(slug.as_deref(), &entry));
                true
            };
            if !goes_on {
                return Ok(());
            }
        }
        if !follow {
            return Ok(());
        }
        (after, most) = (after.or(Some(0)), 1000);
        tokio::time::sleep(LOOK).await;
    }
}

fn words(slug: Option<&str>, entry: &Entry) -> String {
    let who = entry.act.as_ref().map_or(entry.actor.as_str(), |act| &act.operator);
    let outcome = entry.outcome.as_ref().map(|outcome| format!(" -> {outcome}")).unwrap_or_default();
    format!("{}  {who}  {}  {}{outcome}  {}", time(entry.at), slug.unwrap_or("-"), entry.action, entry.detail)
}

async fn export(catalog: &Catalog) -> Done {
    while catalog.journal_seal().await? > 0 {}
    let mut at = 0;
    loop {
        let links = catalog.journal_links(at).await?;
        let Some(last) = links.last() else { return Ok(()) };
        at = last.position;
        for link in &links {
            if !json_line(link)? {
                return Ok(());
            }
        }
    }
}
