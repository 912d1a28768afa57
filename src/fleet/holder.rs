//! Holder: who has what a migration waits for, in words.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Row};

use super::{Doing, FleetError};
use crate::migrate::Activity;
use crate::pg::literal;

/// A statement that lasts longer is told to other commands.
const LASTING: Duration = Duration::from_millis(500);
/// How often it is asked who holds a lock that a statement waits for.
const ASK: Duration = Duration::from_millis(100);
/// Bytes of a name of an application that PostgreSQL keeps.
const NAME: usize = 63;

/// The session that holds an advisory lock. An idle session whose client has gone ends at once, if the client's machine
/// is there to say so.
const HOLDER: &str = "
SELECT a.pid, a.application_name, pg_catalog.host(a.client_addr), a.backend_start, a.query_start, a.state
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  AND l.classid::pg_catalog.int8 = ($1::int8 >> 32) & 4294967295 AND l.objid::pg_catalog.int8 = $1::int8 & 4294967295";

/// Who holds an advisory lock of the maintenance database; `None` when nobody does by now.
pub(super) async fn of_lock(admin: &Client, key: i64) -> Result<Option<String>, FleetError> {
    let row = admin.query_opt(HOLDER, &[&key]).await.doing(|| "asking who has a migrator".into())?;
    row.map(|row| described(&row)).transpose().doing(|| "reading who has a migrator".into())
}

fn described(row: &Row) -> Result<String, tokio_postgres::Error> {
    let (pid, name): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
    let from = row.try_get::<_, Option<String>>(2)?.unwrap_or_else(|| "this machine".to_owned());
    let age = |at: Option<SystemTime>| {
        let age = at.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
    };
    let (begun, asked) = (age(row.try_get(3)?), age(row.try_get(4)?));
    let client = match row.try_get::<_, Option<&str>>(5)? {
        Some("idle") => "its client is connected",
        _ => "it is working",
    };
    Ok(format!(
        "process {pid} of the server, from {from}, connected {begun} ago, says `{name}` since {asked}; {client}"
    ))
}

/// What the admin's session says of itself while it holds a migrator: [`HOLDER`] is answered with it. A process of the
/// operating system, and what it is at.
pub(super) fn name(what: &str) -> String {
    let mut name = format!("manybox[{}] {what}", std::process::id());
    while name.len() > NAME {
        name.pop();
    }
    name
}

/// The statement that gives a session that name.
pub(super) fn named(what: &str) -> String {
    format!("SET application_name = {}", literal(&name(what)))
}

/// Who stands in the way of this login's session. What the admin may not see of others is left out.
const BLOCKERS: &str = "
SELECT a.pid, a.usename::pg_catalog.text, a.application_name, a.state, a.xact_start
FROM pg_catalog.pg_stat_activity m
CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(m.pid)) AS b(pid)
JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
WHERE m.usename = $1 LIMIT 3";

async fn blockers(admin: &Client, login: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = admin.query(BLOCKERS, &[&login]).await?;
    rows.iter()
        .map(|row| {
            let (pid, role): (i32, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
            let mut text = format!("process {pid} of role `{}`", role.unwrap_or_default());
            if let Some(name) = row.try_get::<_, Option<&str>>(2)?.filter(|name| !name.is_empty()) {
                text.push_str(&format!(" (`{name}`)"));
            }
            if let Some(state) = row.try_get::<_, Option<&str>>(3)? {
                text.push_str(&format!(", {state}"));
            }
            let since = row.try_get::<_, Option<SystemTime>>(4)?;
            if let Some(age) = since.and_then(|at| SystemTime::now().duration_since(at).ok()) {
                let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
                text.push_str(&format!(", in a transaction for {age}"));
            }
            Ok(text)
        })
        .collect()
}

/// Follows a migration by the admin's session that holds its migrator, for as long as it is polled: says to other commands
/// what lasts, and keeps in `found` who stands in the way when a lock could not be had.
pub(super) async fn follow(
    admin: &Client,
    login: &str,
    mut activity: watch::Receiver<Activity>,
    found: &Mutex<Vec<String>>,
) -> Infallible {
    let mut said = Activity::Beginning;
    loop {
        let now = activity.borrow_and_update().clone();
        let tried = matches!(&now, Activity::Applying { tries, .. } if *tries > 0);
        if tried {
            // Its failures are no news: the next question may do better.
            if let Ok(names) = blockers(admin, login).await
                && !names.is_empty()
            {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                if found.is_empty() {
                    tracing::warn!("{now} waits for a lock that is held by {}", names.join("; "));
                }
                *found = names;
            }
            sleep(ASK).await;
            continue;
        }
        if let Ok(changed) = timeout(LASTING, activity.changed()).await {
            if changed.is_err() {
                // Nobody tells any more.
                return std::future::pending().await;
            }
        } else if now != said {
            let _ = admin.batch_execute(&named(&now.to_string())).await;
            said = now;
        }
    }
}
