//! Whether every tenant has a database and every database a tenant, and which copies were left half. D5x.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::timeout;

use super::{Finding, PATIENCE, Patient, or_unread};
use crate::catalog::{Catalog, CatalogError, Filter, TenantRow};
use crate::fleet::{self, FleetError, FleetServer, Unclaimed};
use crate::tenant::State;

/// The admin's databases whose names are of the form that manybox gives to tenants and templates. Copies have another. One whose
/// drop was cut off is none any more.
const OURS: &str = "
SELECT datname::pg_catalog.text FROM pg_catalog.pg_database
WHERE datname ~ '^mb_(t_)?[0-9a-z]{16}$' AND datconnlimit <> -2 AND pg_catalog.pg_get_userbyid(datdba) = session_user";

/// Logins of tenants, and whether they are open.
const LOGINS: &str = "
SELECT rolname::pg_catalog.text, rolcanlogin FROM pg_catalog.pg_roles WHERE rolname ~ '^mb_[0-9a-z]{16}$'";

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
        findings.extend(half_made(row, &tenants));
    }
    for (name, server) in patient.servers.iter() {
        // One that doesn't answer is a finding of another part.
        let Ok(Some((there, fleets, logins))) = timeout(PATIENCE, databases(server)).await else { continue };
        let of_server = known.remove(name).unwrap_or_default();
        for database in there.iter().filter(|database| fleets <= 1 && !of_server.contains(*database)) {
            if !database.starts_with("mb_t_") {
                // Looked at by its mark.
                continue;
            }
            findings.push(Finding::new(
                "D50",
                format!("server {name}, database {database}"),
                "no template of the catalog has this database; it was one of a catalog that is lost",
                format!(
                    "in `psql` as the server's admin: ALTER DATABASE {database} IS_TEMPLATE false; {}",
                    dropped(database)
                ),
            ));
        }
        let has_one = |state| matches!(state, State::Active | State::Suspended | State::Retired);
        for row in tenants.iter().filter(|row| row.record.server == name && has_one(row.record.state)) {
            let (slug, database) = (&row.record.slug, row.record.database());
            if row.record.is_adopted() {
                continue;
            }
            if there.contains(&database) {
                findings.extend(misfit_login(row, logins.get(&database).copied()));
            } else {
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
    findings.extend(unclaimed(patient, catalog, &tenants).await?);
    let key = patient.keys.as_ref().filter(|_| !patient.begun).map(|keys| keys.newest().id());
    let mut unmarked = fleet::outdated_marks(catalog, key).await.map_err(row_error)?;
    // Of servers that the settings lack another part tells.
    unmarked.retain(|one| patient.servers.get(&one.server).is_ok());
    if let Some(one) = unmarked.first() {
        let what = format!(
            "{} tenant(s), this one among them, have a database without the mark by which it could be recovered as it is now",
            unmarked.len()
        );
        findings.push(Finding::new("D53", format!("tenant {}", one.slug), what, "manybox init"));
    }
    Ok(findings)
}

/// A copy that is under way, or whose command was killed.
fn half_made(row: &TenantRow, tenants: &[TenantRow]) -> Option<Finding> {
    let (slug, state) = (&row.record.slug, row.record.state);
    let live = tenants.iter().find(|other| Some(other.record.id.as_str()) == row.replaces.as_deref());
    let (what, again) = match (state, &row.filling, live) {
        (State::Creating, Some(filling), _) => {
            (format!("is being {filling}, or that was killed"), "that".to_owned())
        }
        // Once it is to change places, `apply` finishes that: another part tells.
        (State::Retired, _, Some(live)) if live.exchange.is_none() => (
            format!(
                "has what was restored for `{}`, which was not switched to it: the restore is at work, or was killed",
                live.record.slug
            ),
            format!("the restore of `{}`", live.record.slug),
        ),
        _ => return None,
    };
    let next = format!("if no command is at work on it, run {again} again, or `manybox tenant purge {slug}`");
    Some(Finding::new("D52", format!("tenant {slug}"), what, next))
}

/// A login that is open where the tenant's state says closed, or the other way round, or that is gone.
fn misfit_login(row: &TenantRow, is_open: Option<bool>) -> Option<Finding> {
    let (record, state) = (&row.record, row.record.state);
    let (slug, server) = (&record.slug, &record.server);
    let (is, next) = match (state, is_open) {
        // Another part tells.
        _ if row.unsettled => return None,
        (State::Suspended, Some(true)) => ("open", format!("manybox tenant suspend {slug}")),
        (State::Retired, Some(true)) => ("open", format!("manybox tenant retire {slug}")),
        (State::Active, Some(false)) => (
            "closed",
            format!(
                "where the server went back: manybox tenant resume {slug}; where the catalog did, and somebody had suspended or \
                 retired it since its dump: manybox tenant suspend {slug}, or retire"
            ),
        ),
        (State::Active, None) => ("not there", format!("manybox tenant resume {slug}, which makes it anew")),
        _ => return None,
    };
    let what = format!("is {state}, and its login on server `{server}` is {is}, as after a backup came back");
    Some(Finding::new("D55", format!("tenant {slug}"), what, next))
}

fn row_error(error: FleetError) -> CatalogError {
    match error {
        FleetError::Catalog(error) => error,
        other => CatalogError::Row(other.to_string()),
    }
}

/// Tenants' databases that no row has.
async fn unclaimed(
    patient: &Patient<'_>,
    catalog: &Catalog,
    tenants: &[TenantRow],
) -> Result<Vec<Finding>, CatalogError> {
    let catalog = (catalog, patient.settings.catalog.database.as_str());
    let found = fleet::unclaimed(catalog, patient.servers, patient.keys.as_ref(), false).await;
    let found = found.map_err(row_error)?;
    let purged = purged(catalog.0, &found.unclaimed).await?;
    let none = "no tenant of the catalog has this database";
    let finding = |one: &Unclaimed| {
        let Unclaimed { server, database, mark } = one;
        let (place, rivals) =
            (format!("server {server}, database {database}"), one.rivals(&found.unclaimed, tenants));
        match mark {
            Err(why) => Finding::new(
                "D50",
                place,
                format!("{none}, and {why}"),
                "restore the catalog's backup; else look into it, keep a `pg_dump`, and drop it by hand",
            ),
            Ok(mark) if purged.contains(&mark.id) => Finding::new(
                "D50",
                place,
                format!(
                    "it was that of `{}`, which was purged; it came back, as by a backup of the server",
                    mark.slug
                ),
                format!("in `psql` as the server's admin: {}", dropped(database)),
            ),
            Ok(mark) if rivals.is_empty() => Finding::new(
                "D50",
                place,
                format!("{none}; by its mark it is `{}`", mark.slug),
                format!("manybox tenant recover --database {database}"),
            ),
            Ok(mark) => Finding::new(
                "D54",
                place,
                format!("{none}; its mark says `{}`, and so does {}", mark.slug, rivals.join(" and ")),
                format!(
                    "look into them; manybox tenant recover --database {database} --server {server} --as NAME"
                ),
            ),
        }
    };
    let adopted = found.adopted.iter().map(|one| {
        let place = format!("server {}, database {}", one.server, one.database);
        let what = format!("it was an adopted tenant's, with login `{}`, and no tenant has it", one.login);
        let next = format!(
            "manybox tenant adopt SLUG --database {} --server {} --login-role {}",
            one.database, one.server, one.login
        );
        Finding::new("D50", place, what, next)
    });
    Ok(found.unclaimed.iter().map(finding).chain(adopted).collect())
}

/// The statements that drop a database and the logins that are for it alone.
fn dropped(database: &str) -> String {
    format!("DROP DATABASE {database}; DROP ROLE IF EXISTS {database}, {}", fleet::migrator_of(database))
}

/// The ids, among those of these databases, of tenants that were purged.
async fn purged(catalog: &Catalog, unclaimed: &[Unclaimed]) -> Result<BTreeSet<String>, CatalogError> {
    let mut purged = BTreeSet::new();
    for mark in unclaimed.iter().filter_map(|one| one.mark.as_ref().ok()) {
        // A mark that can't be of this fleet's making is left to whoever recovers it.
        let Ok(id) = mark.id.parse() else { continue };
        if catalog.tenant(&id).await?.is_some_and(|row| row.record.state == State::Purged) {
            purged.insert(mark.id.clone());
        }
    }
    Ok(purged)
}

/// The databases, how many fleets the server has, and whether tenants' logins are open.
async fn databases(server: &FleetServer) -> Option<(BTreeSet<String>, i64, BTreeMap<String, bool>)> {
    let client = server.connect_admin().await.ok()?;
    let rows = client.query(OURS, &[]).await.ok()?;
    let databases = rows.iter().map(|row| row.try_get(0).ok()).collect::<Option<_>>()?;
    let fleets = client.query_one(ROUTERS, &[]).await.ok()?.try_get(0).ok()?;
    let rows = client.query(LOGINS, &[]).await.ok()?;
    let login = |row: &tokio_postgres::Row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?));
    Some((databases, fleets, rows.iter().map(login).collect::<Option<_>>()?))
}
