//! `manybox tenant recover`: databases without a row in the catalog become tenants again.

use super::super::progress::Bar;
use super::super::{Done, Failure, Output};
use super::{done, urls};
use crate::catalog::TenantRow;
use crate::fleet::{Fleet, Unclaimed};
use crate::tenant::Slug;

#[derive(clap::Args)]
pub(in crate::cli) struct Recover {
    /// The database, as `manybox doctor` names it
    #[arg(long, required_unless_present = "all", conflicts_with = "all")]
    database: Option<String>,
    /// The server that has it, where several have one of this name
    #[arg(long, requires = "database")]
    server: Option<String>,
    /// Another name than its mark says
    #[arg(long = "as", requires = "database", value_name = "SLUG")]
    slug: Option<Slug>,
    /// All databases whose name nobody else claims
    #[arg(long)]
    all: bool,
}

impl Recover {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        let Some(database) = self.database else { return recover_all(fleet, output).await };
        let found = fleet.unclaimed().await?;
        let is_meant = |one: &&Unclaimed| {
            one.database == database && self.server.as_ref().is_none_or(|server| *server == one.server)
        };
        let mut meant = found.unclaimed.iter().filter(is_meant);
        let one = match (meant.next(), meant.next()) {
            (Some(one), None) => one,
            (Some(one), Some(other)) => {
                return Err(Failure(format!(
                    "servers `{}` and `{}` both have a database `{database}`; say which by --server",
                    one.server, other.server
                )));
            }
            _ => {
                let unasked =
                    found.unasked.iter().map(|(server, error)| format!("; server `{server}`: {error}"));
                return Err(Failure(format!(
                    "there is no database `{database}` of this fleet without a tenant; `manybox doctor` names them (D50){}",
                    unasked.collect::<String>()
                )));
            }
        };
        let row = fleet.recover(one, self.slug.as_ref()).await?;
        output.answer(&row, |row| format!("{}\n{}{}", done(row), urls(row), lost(row)))
    }
}

fn lost(row: &TenantRow) -> String {
    match row.lost_secrets.join(", ") {
        names if names.is_empty() => String::new(),
        names => format!("\nset anew, for only the lost catalog had it: {names}"),
    }
}

/// Recovers what can be, and says what can't.
pub(in crate::cli) async fn recover_all(fleet: &Fleet, output: Output) -> Done {
    let spinner = output.spinner("looking for databases without a tenant");
    let found = fleet.unclaimed().await?;
    spinner.finish_and_clear();
    let bar = Bar::new(output, found.unclaimed.len(), "recovering");
    let outcomes = fleet.recover_all(&found.unclaimed, &|_| bar.inc()).await;
    bar.finish();
    let (mut rows, mut left) = (Vec::new(), Vec::new());
    for outcome in outcomes? {
        match outcome {
            Ok(row) => rows.push(row),
            Err(error) => left.push(error.to_string()),
        }
    }
    left.extend(found.adopted.iter().map(ToString::to_string));
    left.extend(found.unasked.iter().map(|(server, error)| format!("server `{server}`: {error}")));
    output.answer(&serde_json::json!({ "recovered": rows, "left": left }), |_| {
        let lines: Vec<_> = rows.iter().map(|row| format!("{}{}", done(row), lost(row))).collect();
        if lines.is_empty() { "no tenant came back".into() } else { lines.join("\n") }
    })?;
    match left.as_slice() {
        [] => Ok(()),
        left => Err(Failure(format!("{} left:\n{}", left.len(), left.join("\n")))),
    }
}
