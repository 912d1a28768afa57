//! A server: who may connect where, what roles are, and what they were given, over all of its databases at once.

use std::time::Duration;

use tokio::time::timeout;

use super::{Finding, Known, Outcome, check};
use crate::fleet::{
    self, BACKUP, Fleet, FleetError, FleetServer, HISTORY, MIGRATORS, OWNER, catalog_migrator, catalog_owner,
    migrator_of,
};
use crate::pg::Connection;
use crate::tenant::State;

/// Every pair of a role and a database is asked about, some microseconds each.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(120);

/// All checks of a server, as one question.
const QUESTIONS: &str = include_str!("server.sql");

/// The checks that it answers.
const CODES: [&str; 13] =
    ["V01", "V02", "V03", "V04", "V10", "V11", "V12", "V13", "V14", "V15", "V16", "V17", "V18"];

pub(super) struct Looked {
    pub(super) version: String,
    pub(super) outcome: Outcome,
}

/// Names beside what they are, as two arrays of one statement.
#[derive(Default)]
struct Pairs(Vec<String>, Vec<String>);

impl Pairs {
    fn add(&mut self, name: impl Into<String>, of: impl Into<String>) {
        self.0.push(name.into());
        self.1.push(of.into());
    }
}

/// What the model says of a server.
#[derive(Default)]
struct Model {
    roles: Pairs,
    databases: Pairs,
    may_connect: Pairs,
    may_become: Pairs,
    may_make_temporary: Pairs,
    /// May make schemas in databases; the owner of tenants' objects first.
    may_create: Vec<String>,
}

/// Asks the server everything. What it does not answer is a finding.
pub(super) async fn look(fleet: &Fleet, name: &str, server: &FleetServer, known: &Known) -> Looked {
    let mut looked = Looked { version: String::new(), outcome: Outcome::default() };
    let finding = |code, seen: String, remedy: &str| Finding {
        code,
        server: name.to_owned(),
        tenant: None,
        database: None,
        seen,
        remedy: remedy.to_owned(),
    };
    match timeout(STATEMENT_TIMEOUT * 2, ask(fleet, name, server, known, &mut looked)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => looked.outcome.findings.push(finding(
            "V00",
            error.to_string(),
            "see whether the server is up, and verify again",
        )),
        Err(_) => looked.outcome.findings.push(finding("V00", "no answer in time".into(), "verify again")),
    }
    looked
}

async fn ask(
    fleet: &Fleet,
    name: &str,
    server: &FleetServer,
    known: &Known,
    looked: &mut Looked,
) -> Result<(), FleetError> {
    let client = session(server, "postgres", STATEMENT_TIMEOUT).await?;
    let version = client.query_one("SELECT current_setting('server_version')", &[]).await;
    looked.version = version.and_then(|row| row.try_get(0)).map_err(asking(name))?;
    let outcome = &mut looked.outcome;
    if let Err(error) = fleet::check_version(&client, name).await {
        outcome.findings.push(Finding {
            code: "V18",
            server: name.to_owned(),
            tenant: None,
            database: None,
            seen: error.to_string(),
            remedy: "upgrade PostgreSQL".into(),
        });
    }
    let model = model(fleet, name, known);
    for code in CODES {
        outcome.tried(code, model.roles.0.len());
    }
    outcome.tried.insert("V01", model.roles.0.len() * model.databases.0.len());
    for code in ["V02", "V03"] {
        outcome.tried.insert(code, model.databases.0.len());
    }
    let templates = known.templates.iter().filter(|template| template.server == name).count();
    outcome.tried.extend([("V04", templates), ("V17", 1), ("V18", 1)]);
    let Model { roles, databases, may_connect, may_become, may_make_temporary, may_create } = &model;
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 11] = [
        &roles.0,
        &roles.1,
        &databases.0,
        &databases.1,
        &may_connect.0,
        &may_connect.1,
        &may_become.0,
        &may_become.1,
        may_create,
        &may_make_temporary.0,
        &may_make_temporary.1,
    ];
    let rows = client.query(QUESTIONS, &parameters).await.map_err(asking(name))?;
    for row in rows {
        let code: String = row.try_get(0).map_err(asking(name))?;
        let database: Option<String> = row.try_get(1).map_err(asking(name))?;
        let Some(known_check) = check(&code) else { continue };
        let tenant = known
            .tenants
            .iter()
            .find(|t| t.record.server == name && database.as_deref() == Some(t.record.database().as_str()));
        outcome.findings.push(Finding {
            code: known_check.code,
            server: name.to_owned(),
            tenant: tenant.map(|t| t.record.slug.to_string()),
            database,
            seen: row.try_get(2).map_err(asking(name))?,
            remedy: row.try_get(3).map_err(asking(name))?,
        });
    }
    client.close().await;
    Ok(())
}

pub(super) fn asking(name: &str) -> impl Fn(tokio_postgres::Error) -> FleetError {
    move |error| FleetError::Server { doing: format!("asking server `{name}`"), source: error.into() }
}

/// A session of the admin that reads only, finds PostgreSQL's own names only, and waits for nobody.
pub(super) async fn session(
    server: &FleetServer,
    database: &str,
    most: Duration,
) -> Result<Connection, FleetError> {
    let client = server.connect_admin_to(database).await?;
    let sql = format!(
        "SET search_path = pg_catalog, pg_temp; SET default_transaction_read_only = on; SET lock_timeout = '1s';
         SET statement_timeout = {}",
        most.as_millis()
    );
    client.batch_execute(&sql).await.map_err(asking(server.endpoint.name()))?;
    Ok(client)
}

/// What should be on a server, by the catalog and the settings.
fn model(fleet: &Fleet, name: &str, known: &Known) -> Model {
    let (catalog, api_roles) = (&fleet.settings.catalog.database, fleet.settings.roles());
    let mut model = Model::default();
    for role in [OWNER, HISTORY, MIGRATORS] {
        model.roles.add(role, "owner");
    }
    model.may_become.add(MIGRATORS, OWNER);
    model.roles.add(BACKUP, "backup");
    for role in [OWNER, "pg_read_all_data"].into_iter().chain(api_roles.iter().map(String::as_str)) {
        model.may_become.add(BACKUP, role);
    }
    model.may_create.push(OWNER.into());
    api_roles.iter().for_each(|role| model.roles.add(role, "api"));
    // The router's login is on every server, with a database of its name from which it ends sessions.
    let router = fleet.keys.newest().router_login(catalog).user;
    model.roles.add(&router, "router");
    model.databases.add(&router, "catalog");
    model.may_connect.add(&router, &router);
    if name == fleet.settings.catalog.server {
        let (owner, migrator) = (catalog_owner(catalog), catalog_migrator(catalog));
        model.databases.add(catalog, "catalog");
        model.may_connect.add(&router, catalog);
        model.may_connect.add(&migrator, catalog);
        model.may_become.add(&migrator, &owner);
        model.may_create.push(owner.clone());
        model.roles.add(owner, "owner");
        model.roles.add(format!("{catalog}_journal"), "owner");
        model.roles.add(migrator, "migrator");
    }
    let migrator = |model: &mut Model, database: &str| {
        let login = migrator_of(database);
        model.may_connect.add(&login, database);
        model.may_become.add(&login, MIGRATORS);
        model.roles.add(login, "migrator");
    };
    for template in known.templates.iter().filter(|t| t.server == name) {
        migrator(&mut model, &template.database);
        for role in fleet.temporary(&template.lineage.edition) {
            model.may_make_temporary.add(role, &template.database);
        }
        // One that is being built is open to its migrator.
        if template.state != "building" {
            model.databases.add(&template.database, "template");
        }
    }
    for record in known.tenants.iter().map(|row| &row.record).filter(|r| r.server == name) {
        let (database, login) = (record.database(), record.login_role());
        model.may_connect.add(&login, &database);
        if record.is_adopted() {
            model.databases.add(database, "adopted");
            model.roles.add(login, "adopted");
            continue;
        }
        migrator(&mut model, &database);
        for role in record.lineage().into_iter().flat_map(|lineage| fleet.temporary(&lineage.edition)) {
            model.may_make_temporary.add(role, &database);
        }
        api_roles.iter().for_each(|role| model.may_become.add(&login, role));
        // While one is made or dropped its database is closed, and has no rights yet.
        if !matches!(record.state, State::Creating | State::Purging) {
            model.databases.add(database, "tenant");
        }
        model.roles.add(login, "login");
    }
    model
}
