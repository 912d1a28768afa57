//! Whether every tenant has a database and every database a tenant, and which copies were left half. D5x.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::timeout;

use super::{Finding, PATIENCE, Patient, or_unread};
use crate::catalog::{Catalog, CatalogError, Filter};
use crate::fleet::FleetServer;
use crate::tenant::State;

/// The admin's databases whose names are of the form that manybox gives to tenants and templates. Copies have another.
const OURS: &str = "
SELECT datname::pg_catalog.text FROM pg_catalog.pg_database
WHERE datname ~ '^mb_(t_)?[0-9a-z]{16}$' AND pg_catalog.pg_get_userbyid(datdba) = session_user";

/// Routers' logins. Where there are two, two fleets share the server, and nobody can tell whose a database is.
const ROUTERS: &str = "SELECT count(*) FROM pg_catalog.pg_roles WHERE rolname ~ '_router$' AND rolcanlogin";

pub(super) async fn look(patient: &Patient<'_>) -> Vec<Finding> {
    let Some(catalog) = &patient.catalog else { return Vec::new() };
    or_unread("databases", compare(patient, catalog).await)
}

async fn compare(patient: &Patient<'_>, catalog: &Catalog) -> Result<Vec<Finding>, CatalogError> {
    let mut findings = Vec::new();
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for template in catalog.templates().await? {
        known.entry(template.server).or_default().insert(template.database);
    }
    let tenants = catalog.tenants(&Filter::default()).await?;
    for row in &tenants {
        let record = &row.record;
        known.entry(record.server.clone()).or_default().insert(record.database());
        if let (State::Creating, Some(filling)) = (record.state, &row.filling) {
            findings.push(Finding::new(
                "D52",
                format!("tenant {}", record.slug),
                format!("is being {filling}, or that was killed"),
                format!(
                    "if no command is at work on it, run that again, or `manybox tenant purge {}`",
                    record.slug
                ),
            ));
        }
    }
    for (name, server) in patient.servers.iter() {
        // One that doesn't answer is a finding of another part.
        let Ok(Some((there, fleets))) = timeout(PATIENCE, databases(server)).await else { continue };
        let of_server = known.remove(name).unwrap_or_default();
        for database in there.iter().filter(|database| fleets <= 1 && !of_server.contains(*database)) {
            findings.push(Finding::new(
                "D50",
                format!("server {name}, database {database}"),
                "no tenant and no template of the catalog has this database",
                "if its tenant was lost with a catalog, restore the catalog's backup; \
                 else look into it, keep a `pg_dump`, and drop it by hand",
            ));
        }
        let has_one = |state| matches!(state, State::Active | State::Suspended | State::Retired);
        for row in tenants.iter().filter(|row| row.record.server == name && has_one(row.record.state)) {
            let (slug, database) = (&row.record.slug, row.record.database());
            if !row.record.is_adopted() && !there.contains(&database) {
                findings.push(Finding::new(
                    "D51",
                    format!("tenant {slug}"),
                    format!("its database `{database}` is not on server `{name}`"),
                    format!(
                        "retire and purge it, and `manybox tenant restore {slug} --from` its newest backup, or restore the \
                         server's own backup"
                    ),
                ));
            }
        }
    }
    Ok(findings)
}

/// The databases, and how many fleets the server has.
async fn databases(server: &FleetServer) -> Option<(BTreeSet<String>, i64)> {
    let client = server.connect_admin().await.ok()?;
    let rows = client.query(OURS, &[]).await.ok()?;
    let databases = rows.iter().map(|row| row.try_get(0).ok()).collect::<Option<_>>()?;
    let fleets = client.query_one(ROUTERS, &[]).await.ok()?.try_get(0).ok()?;
    Some((databases, fleets))
}
