//! Databases on a server: created closed, opened after their ACL was read back, dropped.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::roles::{self, MIGRATORS, OWNER, migrator_of};
use super::server::{role_exists, run};
use super::{Doing, FleetError};
use crate::pg::{Ident, literal};

/// How long the last session of a template may take to exit.
const LEAVE: Duration = Duration::from_secs(10);

/// Whether a database of this name is there.
pub(super) async fn exists(client: &Client, database: &str) -> Result<bool, FleetError> {
    client
        .query_opt("SELECT FROM pg_catalog.pg_database WHERE datname = $1", &[&database])
        .await
        .map(|row| row.is_some())
        .doing(|| format!("looking for database `{database}`"))
}

/// What is there of a tenant.
pub(super) struct Found {
    pub(super) login: bool,
    pub(super) migrator: bool,
    pub(super) database: bool,
}

/// Whether a login and a database of this name are there, and the database's migrator.
pub(super) async fn found(client: &Client, name: &str) -> Result<Found, FleetError> {
    client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1),
                    EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $2),
                    EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)",
            &[&name, &migrator_of(name)],
        )
        .await
        .and_then(|row| {
            Ok(Found { login: row.try_get(0)?, migrator: row.try_get(1)?, database: row.try_get(2)? })
        })
        .doing(|| format!("looking for role and database `{name}`"))
}

/// Creates a database that nobody can connect to yet.
///
/// The strategy is spelled out: `wal_log` copies a small template in 35 ms where `file_copy` takes two checkpoints.
pub(super) async fn create_closed(client: &Client, database: &str, template: &str) -> Result<(), FleetError> {
    let sql = format!(
        "CREATE DATABASE {} TEMPLATE {} STRATEGY wal_log ALLOW_CONNECTIONS false",
        Ident::new(database),
        Ident::new(template)
    );
    run(client, &sql).await
}

/// Who gets what on a database.
pub(super) struct DatabaseRights<'a> {
    /// May create schemas, but not pass that right on, nor connect: whatever could log in with the rights of a role that
    /// all tenants have would reach all databases.
    pub(super) owner: &'a str,
    /// May connect.
    pub(super) logins: &'a [&'a str],
    /// May make temporary tables.
    pub(super) temporary: &'a [String],
}

/// Runs the statements `first`, which make the logins, takes everything on the database from PUBLIC and from roles
/// that all tenants have, grants what `rights` says, and opens it, in one transaction: every commit waits for the disk,
/// behind the copies of other databases.
///
/// # Errors
/// When the ACL that is read back is not what was asked for: a REVOKE without the right only warns (01006).
pub(super) async fn open(
    client: &Client,
    database: &str,
    rights: &DatabaseRights<'_>,
    first: &str,
) -> Result<(), FleetError> {
    let opened = opening(client, database, rights, first).await;
    if opened.is_err() {
        // Its own outcome adds nothing: where it fails the session is over.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    opened
}

async fn opening(
    client: &Client,
    database: &str,
    rights: &DatabaseRights<'_>,
    first: &str,
) -> Result<(), FleetError> {
    let name = Ident::new(database);
    let mut sql = format!(
        "BEGIN;
         {first}
         REVOKE ALL ON DATABASE {name} FROM PUBLIC, {}, {};
         GRANT CREATE ON DATABASE {name} TO {};",
        Ident::new(OWNER),
        Ident::new(MIGRATORS),
        Ident::new(rights.owner)
    );
    for login in rights.logins {
        sql.push_str(&format!("GRANT CONNECT ON DATABASE {name} TO {};", Ident::new(*login)));
    }
    for role in rights.temporary {
        sql.push_str(&format!("GRANT TEMPORARY ON DATABASE {name} TO {};", Ident::new(role)));
    }
    client.batch_execute(&sql).await.doing(|| format!("setting the rights on database `{database}`"))?;

    let mut expected = vec![format!("{}:CREATE", rights.owner)];
    expected.extend(rights.logins.iter().map(|login| format!("{login}:CONNECT")));
    expected.extend(rights.temporary.iter().map(|role| format!("{role}:TEMPORARY")));
    expected.sort();
    let mut granted = granted(client, database).await?;
    granted.sort();
    if granted != expected {
        return Err(FleetError::Settings(format!(
            "database `{database}` stays closed: its ACL is {granted:?} where {expected:?} was asked for; does the admin own it?"
        )));
    }
    run(client, &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true; COMMIT")).await
}

/// What is granted on a database to others than its owner, as `role:PRIVILEGE`.
async fn granted(client: &Client, database: &str) -> Result<Vec<String>, FleetError> {
    client
        .query_one(
            "SELECT ARRAY(
                SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE r.rolname END || ':' || a.privilege_type
                FROM pg_catalog.pg_database d
                CROSS JOIN LATERAL pg_catalog.aclexplode(COALESCE(d.datacl, pg_catalog.acldefault('d', d.datdba))) a
                LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
                WHERE d.datname = $1 AND a.grantee <> d.datdba)",
            &[&database],
        )
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| format!("reading back the ACL of database `{database}`"))
}

/// Makes the migrator of a database that is open already, takes from roles that all tenants have what they must not have
/// there, and gives them what they may. What an operator granted to others stays. Of `api_roles`, those in `temporary` may
/// make temporary tables.
pub(super) async fn give_migrator(
    client: &Client,
    database: &str,
    api_roles: &[String],
    temporary: &[String],
) -> Result<(), FleetError> {
    let (name, login) = (Ident::new(database), migrator_of(database));
    let there = role_exists(client, &login).await?;
    let mut sql = format!(
        "{} REVOKE ALL ON DATABASE {name} FROM PUBLIC, {owner}, {migrators};
         GRANT CREATE ON DATABASE {name} TO {owner};
         GRANT CONNECT ON DATABASE {name} TO {};",
        roles::migrator(&login, MIGRATORS, there),
        Ident::new(&login),
        owner = Ident::new(OWNER),
        migrators = Ident::new(MIGRATORS),
    );
    for role in api_roles {
        sql.push_str(&format!("REVOKE TEMPORARY ON DATABASE {name} FROM {};", Ident::new(role)));
    }
    for role in temporary {
        sql.push_str(&format!("GRANT TEMPORARY ON DATABASE {name} TO {};", Ident::new(role)));
    }
    // One message, and so one transaction.
    client
        .batch_execute(&sql)
        .await
        .doing(|| format!("giving database `{database}` its migrator and its rights"))
}

/// Writes on a template the digest of its history, for when nobody can look into it any more. Everybody on the server can read
/// it, and it tells them nothing; copies don't have it.
pub(super) async fn label(client: &Client, database: &str, history: &str) -> Result<(), FleetError> {
    run(client, &format!("COMMENT ON DATABASE {} IS {}", Ident::new(database), literal(history))).await
}

/// Closes a finished template, for everybody.
pub(super) async fn seal(client: &Client, database: &str) -> Result<(), FleetError> {
    run(client, &format!("ALTER DATABASE {} IS_TEMPLATE true ALLOW_CONNECTIONS false", Ident::new(database)))
        .await?;
    // A session that is still leaving makes every copy wait.
    let deadline = Instant::now() + LEAVE;
    while sessions(client, database).await? > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// The digest that is written on a template, empty where none is; `None` when there is no such database.
pub(super) async fn label_of(client: &Client, database: &str) -> Result<Option<String>, FleetError> {
    let sql =
        "SELECT COALESCE(pg_catalog.shobj_description(oid, 'pg_database'), '') FROM pg_catalog.pg_database
               WHERE datname = $1 AND datconnlimit <> -2";
    let row = client.query_opt(sql, &[&database]).await;
    let digest = row.and_then(|row| row.map(|row| row.try_get(0)).transpose());
    digest.doing(|| format!("looking at the template `{database}`"))
}

/// Opens a template that nobody copies from any more, to those in its ACL.
pub(super) async fn unseal(client: &Client, database: &str) -> Result<(), FleetError> {
    run(client, &format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", Ident::new(database))).await
}

async fn sessions(client: &Client, database: &str) -> Result<i64, FleetError> {
    client
        .query_one("SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = $1", &[&database])
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| format!("counting the sessions of database `{database}`"))
}

/// Drops a database with whatever sessions it has, and its migrator; what is gone already is fine.
///
/// # Errors
/// With `object_in_use` when a database is being copied from it.
pub(super) async fn drop(client: &Client, database: &str) -> Result<(), FleetError> {
    let name = Ident::new(database);
    let valid = "SELECT datconnlimit <> -2 FROM pg_catalog.pg_database WHERE datname = $1";
    let valid =
        client.query_opt(valid, &[&database]).await.and_then(|row| row.map(|row| row.try_get(0)).transpose());
    if let Some(valid) = valid.doing(|| format!("looking for database `{database}`"))? {
        // One whose drop was cut off, by a crash of the server for instance, can't be altered, and nobody connects to it.
        if valid {
            run(client, &format!("ALTER DATABASE {name} IS_TEMPLATE false ALLOW_CONNECTIONS false")).await?;
        }
        run(client, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
    }
    let migrator = migrator_of(database);
    match run(client, &format!("DROP ROLE IF EXISTS {}", Ident::new(&migrator))).await {
        // A file granted it something, and copies of a template have that as well. NOLOGIN and without CONNECT it can
        // do nothing with it.
        Err(FleetError::Server { source, .. })
            if source.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) =>
        {
            tracing::warn!(
                role = migrator,
                "role `{migrator}` stays: other databases name it in what they grant"
            );
            Ok(())
        }
        outcome => outcome,
    }
}

/// Ends every session of a login, and waits until their backends have exited.
///
/// # Errors
/// When a backend is still there after ten seconds.
pub(super) async fn terminate(client: &Client, login: &str) -> Result<(), FleetError> {
    let deadline = Instant::now() + LEAVE;
    let role = Ident::new(login).to_string();
    loop {
        // Each migration asks twice: typed, so that it is one round trip, and not by the view pg_stat_activity, whose joins
        // cost four times as much.
        let sql = "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_get_activity(NULL)
                   WHERE usesysid = pg_catalog.to_regrole($1)";
        let rows = client.query_typed(sql, &[(&role, Type::TEXT)]).await;
        let left: i64 = rows
            .and_then(|rows| rows.first().map_or(Ok(0), |row| row.try_get(0)))
            .doing(|| format!("ending the sessions of `{login}`"))?;
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(FleetError::Busy(format!("{left} session(s) of `{login}` did not end; the tenant")));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Ends every session in a database, and waits until their backends have exited. It must be closed.
///
/// # Errors
/// When a backend is still there after ten seconds.
pub(super) async fn terminate_in(client: &Client, database: &str) -> Result<(), FleetError> {
    let deadline = Instant::now() + LEAVE;
    loop {
        let sql = "SELECT count(pg_catalog.pg_terminate_backend(a.pid)) FROM pg_catalog.pg_stat_activity a
                   JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid WHERE a.datname = $1 AND NOT r.rolsuper";
        let left: i64 = client
            .query_one(sql, &[&database])
            .await
            .and_then(|row| row.try_get(0))
            .doing(|| format!("ending the sessions in `{database}`"))?;
        if left == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(FleetError::Busy(format!("{left} session(s) did not end; database `{database}`")));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Gives a database another name. Its sessions are ended, by `ender`, for as long as the server waits for them to go.
///
/// # Errors
/// When there are sessions still after some tries, or they are not the admin's to end.
pub(super) async fn rename(client: &Client, ender: &Client, from: &str, to: &str) -> Result<(), FleetError> {
    let sql = format!("ALTER DATABASE {} RENAME TO {}", Ident::new(from), Ident::new(to));
    let deadline = Instant::now() + LEAVE;
    loop {
        let renamed = tokio::select! {
            renamed = run(client, &sql) => renamed,
            Err(error) = end_sessions(ender, from) => Err(error),
        };
        match renamed {
            Err(error) if in_use(&error) && Instant::now() < deadline => {}
            done => return done,
        }
    }
}

/// Ends the sessions of a database again and again.
async fn end_sessions(client: &Client, database: &str) -> Result<std::convert::Infallible, FleetError> {
    let sql = "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity
               WHERE datname = $1 AND backend_type = 'client backend'";
    loop {
        client
            .execute(sql, &[&database])
            .await
            .doing(|| format!("ending the sessions of database `{database}`"))?;
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until no session of a login is in a transaction, for at most `wait`.
///
/// `pg_stat_activity` hides the transactions of other roles from the admin; `pg_locks` hides nothing, and every
/// transaction holds the lock on its own virtual id.
pub(super) async fn drain(client: &Client, login: &str, wait: Duration) -> Result<(), FleetError> {
    let deadline = Instant::now() + wait;
    while Instant::now() < deadline {
        let busy: i64 = client
            .query_one(
                "SELECT count(*) FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_locks l USING (pid)
                 WHERE a.usename = $1 AND l.locktype = 'virtualxid'",
                &[&login],
            )
            .await
            .and_then(|row| row.try_get(0))
            .doing(|| format!("watching the sessions of `{login}`"))?;
        if busy == 0 {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Whether the error says that somebody else is using the object right now.
pub(super) fn in_use(error: &FleetError) -> bool {
    matches!(error, FleetError::Server { source, .. } if source.code() == Some(&SqlState::OBJECT_IN_USE))
}
