//! `manybox migrate squash`: one file in place of many, for templates that are made from nothing.

use serde::Serialize;

use super::super::{Done, Failure, Output};
use super::stop::Stop;
use crate::catalog::Filter;
use crate::fleet::{Fleet, SquashedFile, write_whole};
use crate::rollout::some_of;
use crate::tenant::State;

#[derive(clap::Args)]
pub(super) struct Squash {
    /// The edition
    #[arg(long, value_name = "EDITION")]
    edition: String,
    /// Squash the files up to this version
    #[arg(long, value_name = "VERSION")]
    to: i64,
    /// What the file is called behind its version, B<VERSION>__NAME.sql
    #[arg(long, value_name = "NAME", default_value = "squashed")]
    name: String,
    /// The server on which it is proved; the default one when not given
    #[arg(long, value_name = "SERVER")]
    server: Option<String>,
    /// Make and prove it, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// What was made.
#[derive(Serialize)]
struct Made<'a> {
    edition: &'a str,
    version: i64,
    file: String,
    replaces: &'a [String],
    rows: i64,
    tables: usize,
    per_tenant: usize,
    bytes: usize,
    written: bool,
    /// Tenants that lack some of the files that it takes the place of.
    below: Vec<String>,
}

impl Squash {
    /// A signal ends it when the scratch databases have been dropped.
    pub(super) async fn run(self, fleet: &Fleet, stop: &Stop, output: Output) -> Done {
        for swept in fleet.sweep_scratch().await? {
            output.note(&format!("dropped `{swept}`, which a killed command left"));
        }
        let edition = fleet.edition(&self.edition)?;
        let folder =
            fleet.settings.editions.get(&self.edition).and_then(|edition| edition.migrations.clone());
        let folder = folder.ok_or_else(|| Failure(format!("edition `{}` has no folder", self.edition)))?;
        let server = self.server.as_deref().unwrap_or(&fleet.settings.defaults.server);
        let spinner = output.spinner("building from the files, and from what they are squashed to");
        let squashed = stop.or_swept(fleet, fleet.squash(server, &edition, self.to, &self.name)).await;
        spinner.finish_and_clear();
        let SquashedFile { name, text, replaces, rows, tables, per_tenant } = squashed??;
        let path = folder.join(&name);
        if !self.dry_run {
            write_whole(&path, text.as_bytes())?;
        }
        let made = Made {
            edition: &self.edition,
            version: self.to,
            file: path.display().to_string(),
            replaces: &replaces,
            rows,
            tables,
            per_tenant,
            bytes: text.len(),
            written: !self.dry_run,
            below: self.below(fleet).await?,
        };
        output.answer(&made, words)
    }

    /// The tenants whose history ends below the version.
    async fn below(&self, fleet: &Fleet) -> Result<Vec<String>, Failure> {
        let filter = Filter { edition: Some(self.edition.clone()), ..Filter::default() };
        let rows = fleet.catalog.tenants(&filter).await?;
        let is_below = |row: &&crate::catalog::TenantRow| {
            matches!(row.record.state, State::Active | State::Suspended | State::Retired)
                && row.record.lineage().is_some_and(|lineage| lineage.version < self.to)
        };
        Ok(rows.iter().filter(is_below).map(|row| row.record.slug.to_string()).collect())
    }
}

fn words(made: &Made<'_>) -> String {
    let Made { file, replaces, rows, tables, per_tenant, bytes, .. } = made;
    let ends = match *replaces {
        [only] => only.clone(),
        [first, .., last] => format!("{} files, {first} to {last}", replaces.len()),
        [] => String::new(),
    };
    let mut text = format!(
        "{file} ({:.1} kB) makes what {ends}, make: the same schema, {rows} row(s) of {tables} table(s), and {per_tenant} \
         statement(s) in each tenant; proved by building both",
        *bytes as f64 / 1e3
    );
    text.push_str(match made.written {
        true => "\nwritten; new templates begin with it",
        false => "\nnot written; run it again without --dry-run",
    });
    let below: Vec<_> = made.below.iter().map(String::as_str).collect();
    text.push_str(&match below.is_empty() {
        true => "\nevery tenant has these files, so they may be deleted; for an older backup they have to be put back".to_owned(),
        false => format!("\nkeep these files: {} of the edition's tenants still need some of them ({})", below.len(), some_of(&below)),
    });
    text
}
