//! `baseline`: takes a database that other tools made into an edition: files recorded as applied, owners and rights as
//! manybox gives them, and how its schema differs from what the files make.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::fingerprint::{Drift, Facts, RIGHTS, Right, facts_inside, rights};
use super::history::{self, Applied, HISTORY, HistoryError, REPEATED, Rows, UNFINISHED};
use super::session::LOCK;
use super::template::{grant_basics, take_over_inside};
use super::{Edition, FingerprintError, History, Roles};
use crate::pg::{self, Ident};

const OWNED: &str = include_str!("baseline/owned.sql");
const REFUSED: &str = include_str!("baseline/refused.sql");
const TARGETS: &str = include_str!("baseline/targets.sql");

/// Who may what on the database, but for its owner and for `$1`, as (role or PUBLIC, privileges).
const GRANTEES: &str = "
SELECT CASE a.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(a.grantee)::text END, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type)
FROM pg_database d CROSS JOIN LATERAL aclexplode(COALESCE(d.datacl, acldefault('d', d.datdba))) a
WHERE d.datname = current_database() AND a.grantee <> d.datdba AND a.grantee IS DISTINCT FROM $1::text::regrole
GROUP BY a.grantee ORDER BY 1";

/// What was done to a database, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baselined {
    /// Owners and rights that change, one sentence each.
    pub changes: Vec<String>,
    /// Files that are recorded as applied; none when the history has them already.
    pub recorded: Vec<String>,
    /// Rows of another edition's history that those take the place of, as file names.
    pub replaced: Vec<String>,
    /// How the schema differs from what the files make, after the changes.
    pub drift: Drift,
    /// The history afterwards.
    pub history: History,
    /// How long the tables were locked.
    pub locked: Duration,
}

/// Why a database is not taken in. Nothing of it was changed.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// It has what can't be taken in.
    #[error("{0}")]
    Refused(String),
    /// The server refused, or the connection broke.
    #[error("{0}{advice}", advice = advice(.0))]
    Server(#[from] pg::Error),
    /// Its schema could not be read.
    #[error(transparent)]
    Fingerprint(#[from] FingerprintError),
    /// Its schema differs from what the files make, and may not.
    #[error("its schema differs from what the files make, in {} place(s)", .0.len())]
    Drift(Box<Drift>),
}

/// What to do where the admin may not change what is another's.
fn advice(error: &pg::Error) -> &'static str {
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            "; an admin who is no superuser must be a member of every role that owns something in the database: as a superuser, \
             GRANT its owner TO the admin; what a superuser owns, REASSIGN OWNED to such a role first"
        }
        _ => "",
    }
}

impl From<tokio_postgres::Error> for BaselineError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error.into())
    }
}

impl From<HistoryError> for BaselineError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Database(error) => Self::Server(error),
            HistoryError::Tampered(why) => Self::Refused(why),
        }
    }
}

/// How a database is taken in.
#[derive(Debug, Clone, Copy)]
pub struct Baseline<'a> {
    /// Whose what will be in it.
    pub roles: &'a Roles,
    /// The roles of requests, whose rights become those that the files give.
    pub api_roles: &'a [String],
    /// The edition, ending at the version that the database is said to have.
    pub edition: &'a Edition,
    /// The newest version that its history must have room for.
    pub newest: i64,
    /// What the files make.
    pub expected: &'a Facts,
    /// Longest wait for the lock of a table, before anything is changed.
    pub lock_timeout: Duration,
    /// Whether it is a tenant's of another edition: its history gives way, and who may what on the database stays.
    pub from_edition: bool,
    /// Whether its schema may differ from what the files make.
    pub may_drift: bool,
    /// To undo it all at the end, and tell how the schema differs in any case.
    pub dry_run: bool,
}

/// Takes the database behind `client` in, in one transaction; with `dry_run`, that is rolled back. `client` is a session of the
/// admin's that finds `pg_catalog` only. No code of the database runs.
///
/// # Errors
/// When the database has what can't be taken in, another history, or the server refuses; nothing was changed then.
pub async fn baseline(client: &Client, how: Baseline<'_>) -> Result<Baselined, BaselineError> {
    let refused = client.query(REFUSED, &[]).await?;
    let refused = refused.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    if !refused.is_empty() {
        return Err(BaselineError::Refused(format!(
            "it has what `{}` can't own: {}; drop that, or adopt the database without an edition",
            how.roles.owner,
            refused.join("; ")
        )));
    }
    let begin = format!("BEGIN; SET LOCAL lock_timeout = {}", how.lock_timeout.as_millis());
    client.batch_execute(&begin).await?;
    let begun = Instant::now();
    let done = take_in(client, how).await;
    let end = if done.is_ok() && !how.dry_run { "COMMIT" } else { "ROLLBACK" };
    let ended = client.batch_execute(end).await;
    let mut done = done?;
    ended?;
    done.locked = begun.elapsed();
    Ok(done)
}

async fn take_in(client: &Client, how: Baseline<'_>) -> Result<Baselined, BaselineError> {
    let Baseline { roles, edition, .. } = how;
    let mut changes = Vec::new();
    if how.from_edition {
        refuse_migration(client).await?;
    } else {
        changes.extend(database_rights(client, roles).await?);
    }
    changes.extend(owners(client, roles).await?);
    grant_basics(client, roles, how.api_roles).await?;
    let taken = take_over_inside(client, roles, how.newest).await?;
    if !taken.refused.is_empty() {
        return Err(BaselineError::Refused(format!(
            "its schema `manybox` has what manybox did not make: {}",
            taken.refused.join("; ")
        )));
    }
    changes.extend(taken.removed.iter().map(|what| format!("{what} is removed")));
    let replaced = if how.from_edition { replace(client, edition).await? } else { Vec::new() };
    let (recorded, history) = record(client, edition).await?;
    let mut drift = facts_inside(client).await?.difference(how.expected);
    let granted = grants(client, &drift, how.api_roles).await?;
    if !granted.is_empty() {
        let sql: Vec<_> = granted.iter().map(|(_, sql)| sql.as_str()).collect();
        client.batch_execute(&sql.join(";")).await?;
        changes.extend(granted.into_iter().map(|(words, _)| words));
        drift = facts_inside(client).await?.difference(how.expected);
    }
    if !(drift.is_empty() || how.may_drift || how.dry_run) {
        return Err(BaselineError::Drift(Box::new(drift)));
    }
    Ok(Baselined { changes, recorded, replaced, drift, history, locked: Duration::ZERO })
}

/// Keeps migrations of the database out until the transaction ends.
async fn refuse_migration(client: &Client) -> Result<(), BaselineError> {
    let sql = format!("SELECT pg_try_advisory_xact_lock({LOCK}) AND NOT EXISTS (SELECT FROM {UNFINISHED})");
    if client.query_one(&sql, &[]).await?.try_get(0)? {
        return Ok(());
    }
    Err(BaselineError::Refused(
        "a migration of it is under way, or was cut off amid a file: let it end, or go on with it by `manybox migrate`".into(),
    ))
}

/// Takes the history of another edition away, unless it is this one's already. Gives its rows as file names.
async fn replace(client: &Client, edition: &Edition) -> Result<Vec<String>, BaselineError> {
    let Rows { versions, repeatables } = history::read_known(client).await?;
    let wanted: Vec<Applied> = edition.files.iter().map(history::row_of).collect();
    if versions == wanted {
        return Ok(Vec::new());
    }
    client.batch_execute(&format!("DELETE FROM {HISTORY}; DELETE FROM {REPEATED}")).await?;
    let versions = versions.iter().map(|row| format!("V{}__{}", row.version, row.name));
    Ok(versions.chain(repeatables.iter().map(|row| format!("R__{}", row.name))).collect())
}

/// Makes the database the admin's, and takes from all others what they may on it.
async fn database_rights(client: &Client, roles: &Roles) -> Result<Vec<String>, BaselineError> {
    let sql = "SELECT datname::text, pg_get_userbyid(datdba)::text, current_user::text FROM pg_database
               WHERE datname = current_database()";
    let row = client.query_one(sql, &[]).await?;
    let (name, owner, admin): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (name, mut changes) = (Ident::new(name), Vec::new());
    let mut statements = Vec::new();
    if owner != admin {
        statements.push(format!("ALTER DATABASE {name} OWNER TO {}", Ident::new(&admin)));
        changes.push(format!("the database belongs to `{admin}` instead of `{owner}`"));
    }
    client.batch_execute(&statements.join(";")).await?;
    let mut revokes = Vec::new();
    for row in client.query(GRANTEES, &[&Ident::new(&roles.owner).to_string()]).await? {
        let (role, privileges): (Option<String>, String) = (row.try_get(0)?, row.try_get(1)?);
        let ident = role.as_ref().map_or_else(|| "PUBLIC".to_owned(), |role| Ident::new(role).to_string());
        revokes.push(format!("REVOKE ALL ON DATABASE {name} FROM {ident} CASCADE"));
        let who = role.map_or_else(|| "PUBLIC".to_owned(), |role| format!("`{role}`"));
        changes.push(format!("{who} loses {privileges} on the database"));
    }
    client.batch_execute(&revokes.join(";")).await?;
    Ok(changes)
}

/// Gives everything to the owner of tenants' objects.
async fn owners(client: &Client, roles: &Roles) -> Result<Vec<String>, BaselineError> {
    let owner = Ident::new(&roles.owner).to_string();
    let (mut changes, mut statements) = (Vec::new(), Vec::new());
    for row in client.query(OWNED, &[&owner]).await? {
        let (what, whose): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        // Quoted by the server itself.
        statements.push(format!("{}{owner}", row.try_get::<_, &str>(2)?));
        changes.push(format!("{what} belongs to `{}` instead of `{whose}`", roles.owner));
    }
    client.batch_execute(&statements.join(";")).await?;
    Ok(changes)
}

/// Records the edition's files as applied. Gives their names, none when the history has exactly these already, and the history
/// afterwards.
async fn record(client: &Client, edition: &Edition) -> Result<(Vec<String>, History), BaselineError> {
    let found = history::read_known(client).await?;
    let wanted: Vec<Applied> = edition.files.iter().map(history::row_of).collect();
    if found.versions == wanted {
        return Ok((Vec::new(), History(found)));
    }
    let last = found.newest();
    if last > 0 {
        let disagreement = History(found).disagreement(edition).unwrap_or_default();
        return Err(BaselineError::Refused(match last == edition.latest() {
            true => format!("it has a history already, which is not that of the files: {disagreement}"),
            false => {
                format!("it has a history already, which ends at version {last}: give --baseline {last}")
            }
        }));
    }
    let applied_on = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    let sql =
        format!("INSERT INTO {HISTORY} (version, name, applied_on, checksum) VALUES ($1::int8, $2, $3, $4)");
    let insert = client.prepare(&sql).await?;
    for row in &wanted {
        let checksum = row.checksum.to_string();
        client.execute(&insert, &[&row.version, &row.name, &applied_on, &checksum]).await?;
    }
    let recorded = edition.files.iter().map(super::File::file_name).collect();
    Ok((recorded, History(Rows { versions: wanted, ..found })))
}

/// What GRANT names a thing.
struct Target {
    on: String,
    column: Option<String>,
    /// What PUBLIC may unless it is said otherwise.
    usual: Option<String>,
}

/// The statements, with their words, by which PUBLIC and the roles of requests may what the files let them, on what the files
/// make.
async fn grants(
    client: &Client,
    drift: &Drift,
    api_roles: &[String],
) -> Result<Vec<(String, String)>, BaselineError> {
    if !drift.changed.iter().any(|changed| changed.name.ends_with(RIGHTS)) {
        return Ok(Vec::new());
    }
    let mut targets = HashMap::new();
    for row in client.query(TARGETS, &[]).await? {
        let target = Target { on: row.try_get(1)?, column: row.try_get(2)?, usual: row.try_get(3)? };
        targets.insert(row.try_get::<_, String>(0)?, target);
    }
    let mut statements = Vec::new();
    for changed in &drift.changed {
        let Some(name) = changed.name.strip_suffix(RIGHTS) else { continue };
        let Some(target) = targets.get(name) else { continue };
        let of = |text: &str| -> BTreeSet<Right> {
            let public = |right: &Right| right.role.is_empty() || api_roles.contains(&right.role);
            match (text.is_empty(), target.usual.as_deref()) {
                (false, _) => rights(text).into_iter().filter(public).collect(),
                (true, Some("EXECUTE")) => BTreeSet::from([Right::of_public("EXECUTE")]),
                (true, Some(_)) => BTreeSet::from([Right::of_public("USAGE")]),
                (true, None) => BTreeSet::new(),
            }
        };
        let (found, expected) = (of(&changed.found), of(&changed.expected));
        // First what is too much: the right to pass on goes with the right itself.
        statements.extend(found.difference(&expected).map(|right| target.statement(name, right, false)));
        statements.extend(expected.difference(&found).map(|right| target.statement(name, right, true)));
    }
    Ok(statements)
}

impl Target {
    /// In words and in SQL; its parts were quoted by the server itself.
    fn statement(&self, name: &str, right: &Right, grant: bool) -> (String, String) {
        let Right { role, privilege, grantable } = right;
        let column = self.column.as_ref().map(|column| format!(" ({column})")).unwrap_or_default();
        let (who, role) = match role.as_str() {
            "" => ("PUBLIC".to_owned(), "PUBLIC".to_owned()),
            role => (format!("`{role}`"), Ident::new(role).to_string()),
        };
        let on = &self.on;
        if grant {
            let option = if *grantable { " WITH GRANT OPTION" } else { "" };
            let sql = format!("GRANT {privilege}{column} ON {on} TO {role}{option}");
            return (format!("{name}: {who} gets {privilege}{option}"), sql);
        }
        let sql = format!("REVOKE {privilege}{column} ON {on} FROM {role} CASCADE");
        (format!("{name}: {who} loses {privilege}"), sql)
    }
}
