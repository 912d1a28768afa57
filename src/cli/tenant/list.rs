//! `manybox tenant list`: the tenants, and how large their databases are.

use indicatif::BinaryBytes;
use serde::Serialize;

use super::super::{Done, Failure, Output};
use crate::catalog::{Filter, TenantRow};
use crate::fleet::Fleet;
use crate::tenant::State;

#[derive(clap::Args)]
pub(in crate::cli) struct List {
    /// Only in this state: creating, active, suspended, retired, purging, purged
    #[arg(long)]
    state: Option<State>,
    /// Only of this edition
    #[arg(long)]
    edition: Option<String>,
    /// Only with this text in slug or base URL
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Ask each server how large their databases are on its disk
    #[arg(long)]
    size: bool,
}

const COLUMNS: [&str; 7] = ["TENANT", "STATE", "EDITION", "VERSION", "TIER", "SERVER", "BASE URL"];
const NONE: &str = "there are no tenants that match; create one with `manybox tenant create SLUG`";

/// A tenant and its database's size.
#[derive(Serialize)]
struct Sized {
    #[serde(flatten)]
    row: TenantRow,
    /// None where it could not be asked.
    database_bytes: Option<u64>,
    max_database_size: Option<u64>,
}

impl List {
    pub(super) async fn run(self, fleet: &Fleet, output: Output) -> Done {
        let Self { state, edition, search, size } = self;
        let rows = fleet.catalog.tenants(&Filter { state, edition, search }).await?;
        if !size {
            return output.list(&rows, &COLUMNS, cells, NONE);
        }
        let spinner = output.spinner("measuring");
        let mut sizes = fleet.servers.sizes(&rows).await;
        spinner.finish_and_clear();
        let sized = rows.into_iter().map(|row| Sized {
            database_bytes: sizes.bytes.remove(&row.record.id),
            max_database_size: fleet.settings.tenant(row.record.clone()).limits.max_database_size,
            row,
        });
        let sized: Vec<_> = sized.collect();
        let columns = ["TENANT", "STATE", "SIZE", "MOST", "USED", "TIER", "SERVER"];
        output.list(&sized, &columns, sized_cells, NONE)?;
        if sizes.unasked.is_empty() {
            return Ok(());
        }
        let reasons: Vec<_> =
            sizes.unasked.iter().map(|(server, error)| format!("server `{server}`: {error}")).collect();
        Err(Failure(format!("sizes are missing:\n{}", reasons.join("\n"))))
    }
}

fn cells(row: &TenantRow) -> Vec<String> {
    let record = &row.record;
    vec![
        record.slug.to_string(),
        record.state.to_string(),
        record.lineage().map_or("(adopted)".into(), |l| l.edition.clone()),
        record.lineage().map(|l| l.version.to_string()).unwrap_or_default(),
        record.tier.clone(),
        record.server.clone(),
        record.base_urls.first().map(ToString::to_string).unwrap_or_default(),
    ]
}

fn sized_cells(sized: &Sized) -> Vec<String> {
    let record = &sized.row.record;
    let bytes = |bytes: u64| BinaryBytes(bytes).to_string();
    let used = sized.database_bytes.zip(sized.max_database_size);
    vec![
        record.slug.to_string(),
        record.state.to_string(),
        sized.database_bytes.map(bytes).unwrap_or_default(),
        sized.max_database_size.map(bytes).unwrap_or_default(),
        used.map(|(bytes, most)| format!("{:.0} %", bytes as f64 * 100.0 / most as f64)).unwrap_or_default(),
        record.tier.clone(),
        record.server.clone(),
    ]
}
