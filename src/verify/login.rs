//! A tenant's login, tried: into its own database, into others', with a false password; and rows, asked for without claims.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use super::{Known, Outcome, of_tenant};
use crate::catalog::TenantRow;
use crate::fleet::Fleet;
use crate::pg::{self, Connection, Endpoint, Ident, Login};
use crate::vault::random_login;

/// Longest wait for one table's rows, in the server and here: a policy may call functions that do not end.
const ROWS_TIMEOUT: Duration = Duration::from_secs(2);

/// What is to be done about a session that does not begin.
const HOLDER: &str = "SELECT a.pid, a.usename, a.query FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.granted \
     AND l.mode = 'AccessExclusiveLock'; -- in its database: then pg_terminate_backend(pid) of who holds it";

/// Tries what the tenant's credentials open. `guarded` are tables under row-level security, quoted by the server.
pub(super) async fn try_out(fleet: &Fleet, row: &TenantRow, guarded: &[String], known: &Known) -> Outcome {
    let mut outcome = Outcome::default();
    let record = &row.record;
    let Ok(server) = fleet.servers.get(&record.server) else { return outcome };
    // Of suspended and retired ones the login is closed; of adopted ones it is not manybox's.
    if !record.is_served() {
        return outcome;
    }
    let endpoint = &server.endpoint;
    let (own, session) = log_in(fleet, row, endpoint).await;
    outcome.tried("V05", 1);
    match session {
        Ok(session) => {
            if !guarded.is_empty() {
                outcome.add(rows(fleet, row, &session, guarded).await);
            }
            session.close().await;
        }
        // A server that is away says nothing of the login.
        Err(error) if is_full(&error) || pg::is_outage(error.code()) && !error.is_of_the_login() => {
            outcome.left_out.push(format!("the login of `{}`: {error}", record.slug));
            return outcome;
        }
        Err(error) => {
            let remedy = match record.is_adopted() {
                // The login is right.
                _ if matches!(error, pg::Error::Stuck { .. }) => HOLDER.to_owned(),
                true => format!("`manybox tenant adopt {} … --password-file` sets its password", record.slug),
                false => format!("`manybox tenant resume {}` sets its login anew", record.slug),
            };
            outcome.findings.push(of_tenant(row, "V05", error.to_string(), remedy));
        }
    }
    for database in others(fleet, row, known) {
        outcome.tried("V05", 1);
        match pg::connect(endpoint, &own, &database).await {
            Ok(session) => {
                session.close().await;
                let (name, login) = (Ident::new(&database), Ident::new(&own.user));
                outcome.findings.push(of_tenant(
                    row,
                    "V05",
                    format!("login {login} was let into database {name}"),
                    format!("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC, {login};"),
                ));
            }
            Err(error) if is_refused(&error) => {}
            Err(error) => {
                outcome.left_out.push(format!("`{}` into database `{database}`: {error}", record.slug))
            }
        }
    }
    // Where the server trusts an adopted login without a password, that was its operator's to decide.
    if own.password.is_some()
        && let Ok(wrong) = random_login(&own.user)
    {
        outcome.tried("V06", 1);
        if let Ok(session) = pg::connect(endpoint, &wrong, &record.database()).await {
            session.close().await;
            outcome.findings.push(of_tenant(
                row,
                "V06",
                format!("login {} was let in with a random password", Ident::new(&own.user)),
                "in pg_hba.conf, ask for scram-sha-256 instead of trust; then SELECT pg_reload_conf();"
                    .into(),
            ));
        }
    }
    outcome
}

/// The tenant's session by the first of its logins that is let in; and that login, or the first.
async fn log_in(
    fleet: &Fleet,
    row: &TenantRow,
    endpoint: &Endpoint,
) -> (Login, Result<Connection, pg::Error>) {
    let logins = fleet.keys.tenant_logins(&row.record);
    let mut last = None;
    for login in &logins {
        match pg::connect(endpoint, login, &row.record.database()).await {
            Ok(session) => return (login.clone(), Ok(session)),
            Err(error) => last = Some((login.clone(), Err(error))),
        }
    }
    // There is at least one key, and so one login.
    last.unwrap_or_else(|| {
        let none = pg::Error::Settings { server: endpoint.name().to_owned(), reason: "no master key".into() };
        (Login { user: row.record.login_role(), password: None }, Err(none))
    })
}

/// Databases that the login must not open: the next tenant's, and one of the server's and manybox's own, another for each
/// tenant, so that a fleet's logins try all of them.
fn others(fleet: &Fleet, row: &TenantRow, known: &Known) -> Vec<String> {
    let here = |server: &str| server == row.record.server;
    let tenants: Vec<_> = known.tenants.iter().map(|t| &t.record).filter(|r| here(&r.server)).collect();
    let place = tenants.iter().position(|record| record.id == row.record.id).unwrap_or_default();
    let next = tenants.get((place + 1) % tenants.len().max(1)).map(|record| record.database());
    let mut common = vec!["postgres".to_owned(), "template1".to_owned()];
    if here(&fleet.settings.catalog.server) {
        common.push(fleet.settings.catalog.database.clone());
    }
    common.extend(known.templates.iter().filter(|t| here(&t.server)).map(|t| t.database.clone()));
    let mut others: Vec<_> = next.into_iter().chain(common.get(place % common.len()).cloned()).collect();
    if tenants.len() <= 3 {
        others.extend(common);
    }
    others.sort();
    others.dedup();
    // Two adopted tenants may share a database.
    others.retain(|database| *database != row.record.database());
    others
}

fn is_refused(error: &pg::Error) -> bool {
    let refusals = [
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
    ];
    error.code().is_some_and(|code| refusals.contains(code))
}

fn is_full(error: &pg::Error) -> bool {
    error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS)
}

/// Asks for one row of each table, as each API role that row-level security is for, without claims.
async fn rows(fleet: &Fleet, row: &TenantRow, session: &Connection, guarded: &[String]) -> Outcome {
    let mut outcome = Outcome::default();
    let Some(lineage) = row.record.lineage() else { return outcome };
    let backend = session.query_one("SELECT pg_catalog.pg_backend_pid()", &[]).await;
    let backend = backend.and_then(|row| row.try_get::<_, i32>(0)).ok();
    let except = fleet.settings.editions.get(&lineage.edition).map(|e| e.row_security_except.clone());
    let except = except.unwrap_or_default();
    let api = fleet.settings.edition_api(&lineage.edition);
    let path: Vec<_> = api.db_schemas.iter().chain(&api.db_extra_search_path).map(Ident::new).collect();
    let path = path.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    for role in fleet.settings.roles().iter().filter(|role| !except.contains(role)) {
        for table in guarded {
            outcome.tried("V31", 1);
            let sql = format!(
                "BEGIN READ ONLY; SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = '1s';
                 SET LOCAL client_min_messages = error; SET LOCAL ROLE {};
                 SET LOCAL search_path = {path}; SELECT 1 FROM {table} LIMIT 1; ROLLBACK",
                ROWS_TIMEOUT.as_millis(),
                Ident::new(role)
            );
            let asked = timeout(ROWS_TIMEOUT * 2, session.simple_query(&sql)).await;
            let role = Ident::new(role);
            match asked {
                Ok(Ok(messages)) => {
                    let has_row = |m: &_| matches!(m, tokio_postgres::SimpleQueryMessage::Row(_));
                    if messages.iter().any(has_row) {
                        let seen = format!("role {role} without claims sees rows of {table}");
                        let remedy =
                            format!("SELECT * FROM pg_policies; -- then narrow those of {table} for {role}");
                        outcome.findings.push(of_tenant(row, "V31", seen, remedy));
                    }
                }
                Ok(Err(error)) => {
                    // No right, or a policy that fails without claims: nothing is seen.
                    let unanswered = [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE];
                    if error.is_closed() || error.code().is_none_or(|code| unanswered.contains(code)) {
                        let seen = format!("{table} as role {role}: {}", pg::Error::from(error));
                        outcome.findings.push(of_tenant(
                            row,
                            "V00",
                            seen,
                            "see what its policies call".into(),
                        ));
                    }
                    if session.batch_execute("ROLLBACK").await.is_err() {
                        return outcome;
                    }
                }
                Err(_) => {
                    let seen =
                        format!("{table} as role {role}: no end, and the request to cancel was ignored");
                    outcome.findings.push(of_tenant(row, "V00", seen, "see what its policies call".into()));
                    end(fleet, row, backend).await;
                    return outcome;
                }
            }
        }
    }
    outcome
}

/// Ends the backend that asked: it would run on for as long as the tenant's code likes.
async fn end(fleet: &Fleet, row: &TenantRow, backend: Option<i32>) {
    let (Ok(server), Some(backend)) = (fleet.servers.get(&row.record.server), backend) else { return };
    let Ok(admin) = server.connect_admin().await else { return };
    let sql = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
               WHERE pid = $1 AND usename = $2";
    // The finding is there already; that the backend goes is a courtesy to the server.
    let _ = admin.execute(sql, &[&backend, &row.record.login_role()]).await;
    admin.close().await;
}
