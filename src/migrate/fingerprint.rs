//! What a database's schema is: one hash to compare it by, and the facts behind the hash, to say where two differ.
//!
//! The server makes both from the same query ([`facts.sql`](fingerprint/facts.sql)), so they can't disagree. It reads
//! catalogs alone: the owner of the database can make its answer differ, long or late, which is its own drift, and can't
//! have anything run by asking.

mod difference;
mod facts;
mod question;
mod rights;

pub use difference::{Changed, Drift};
pub use facts::{Fact, Facts};
pub(super) use rights::{RIGHTS, Right, rights};

use std::pin::pin;

use futures_util::TryStreamExt as _;
use ring::digest::SHA256;
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::pg;

/// The form of the facts, which changes with the statement that makes them.
const FORM: i32 = 3;

/// Most bytes of facts that are read. 100 tables have some 200 kB.
const MAX_FACTS: usize = 32 * 1024 * 1024;

/// Opens a transaction in which nothing can be changed.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;";
/// For the rest of a transaction, has the server write every name outside of pg_catalog with its schema, and every value in
/// one way, whatever the session has been set to.
const PIN: &str = "
SET LOCAL statement_timeout = '30s';
SET LOCAL lock_timeout = '2s';
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL quote_all_identifiers = off;
SET LOCAL DateStyle = 'ISO, MDY';
SET LOCAL IntervalStyle = 'postgres';
SET LOCAL TimeZone = 'UTC';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex';
SET LOCAL lc_monetary = 'C';
SET LOCAL jit = off;
SET LOCAL work_mem = '16MB';
";
const MAJOR: &str = "current_setting('server_version_num')::int4 / 10000";

/// The hash of a database's schema, with what it is of: fingerprints of two forms of facts, or of two major versions of
/// PostgreSQL, are never equal, and nothing follows from that.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    /// `1.15`: the form of the facts and PostgreSQL's major version.
    pub basis: String,
    /// SHA-256 in hex.
    pub hash: String,
}

/// The [`Fingerprint::basis`] of what the server behind `client` makes.
///
/// # Errors
/// When the connection fails.
pub async fn fingerprint_basis(client: &Client) -> Result<String, tokio_postgres::Error> {
    let sql =
        "SELECT (pg_catalog.current_setting('server_version_num')::pg_catalog.int4 / 10000)::pg_catalog.text";
    Ok(basis(client.query_one(sql, &[]).await?.try_get(0)?))
}

fn basis(major: &str) -> String {
    format!("{FORM}.{major}")
}

/// Why a schema's fingerprint or facts could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FingerprintError {
    /// A statement failed, or the connection broke.
    #[error(transparent)]
    Server(#[from] pg::Error),
    /// Somebody wrote more into the schema than is read.
    #[error("what its schema says is longer than {MAX_FACTS} bytes")]
    TooLong,
    /// The server answered something else than was asked for.
    #[error("the server's answer about its schema has another form than manybox's question")]
    Unreadable,
}

impl From<tokio_postgres::Error> for FingerprintError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error.into())
    }
}

/// The fingerprint of the schema behind `client`, in two messages. Any login may ask. No transaction may be open.
///
/// # Errors
/// When the server refuses, the connection breaks, or somebody keeps a lock for two seconds. No transaction is open then
/// either.
pub async fn fingerprint(client: &Client) -> Result<Fingerprint, FingerprintError> {
    let asked = async {
        let sql = format!(
            "SELECT {MAJOR}, encode(sha256(convert_to(string_agg(concat(name, E'\\t', definition), E'\\n'
                ORDER BY name COLLATE \"C\", definition COLLATE \"C\"), 'UTF8')), 'hex') FROM ({}) f; ROLLBACK",
            bounded(&kinds(client, BEGIN).await?)
        );
        client.simple_query(&sql).await
    };
    let messages = or_roll_back(client, asked.await).await?;
    messages
        .iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some(Fingerprint { basis: basis(row.get(0)?), hash: row.get(1)?.to_owned() })
            }
            _ => None,
        })
        .ok_or(FingerprintError::Unreadable)
}

/// The facts behind the [`fingerprint`]. Any login may ask. No transaction may be open.
///
/// # Errors
/// As [`fingerprint`], and when there is too much of it.
pub async fn facts(client: &Client) -> Result<Facts, FingerprintError> {
    let read = read(client, BEGIN, "ROLLBACK").await;
    or_roll_back(client, read).await?.unwrap_or(Err(FingerprintError::TooLong))
}

/// The facts as the transaction that is open sees them, its own changes included. It finds `pg_catalog` only from then on.
///
/// # Errors
/// As [`facts`]; the transaction is aborted then.
pub(super) async fn facts_inside(client: &Client) -> Result<Facts, FingerprintError> {
    read(client, "", "").await?.unwrap_or(Err(FingerprintError::TooLong))
}

/// `None` when there is too much.
type Read = Option<Result<Facts, FingerprintError>>;

async fn read(client: &Client, begin: &str, end: &str) -> Result<Read, tokio_postgres::Error> {
    // Summed up by the server, so that what is too long never leaves it.
    let sql = format!(
        "SELECT name, definition, bytes > {MAX_FACTS}, {MAJOR} FROM (
            SELECT name, definition, octet_length(name) + octet_length(definition) AS own,
                   sum(octet_length(name) + octet_length(definition)) OVER (
                       ORDER BY name COLLATE \"C\", definition COLLATE \"C\" ROWS UNBOUNDED PRECEDING) AS bytes
            FROM ({}) b) f
         WHERE bytes - own <= {MAX_FACTS}; {end}",
        bounded(&kinds(client, begin).await?)
    );
    let (mut facts, mut of) = (Vec::new(), String::new());
    let mut answer = pin!(client.simple_query_raw(&sql).await?);
    while let Some(message) = answer.try_next().await? {
        let SimpleQueryMessage::Row(row) = message else { continue };
        of = basis(row.try_get(3)?.unwrap_or_default());
        match (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?) {
            (Some(name), Some(definition), Some("f")) => {
                facts.push(Fact { name: name.to_owned(), definition: definition.to_owned() });
            }
            (_, _, Some("t")) => return Ok(None),
            _ => return Ok(Some(Err(FingerprintError::Unreadable))),
        }
    }
    Ok(Some(Ok(Facts::new(of, facts))))
}

/// Opens the transaction by `begin`, and asks which kinds of facts there are. What it doesn't answer counts as there.
async fn kinds(client: &Client, begin: &str) -> Result<String, tokio_postgres::Error> {
    let messages = client.simple_query(&format!("{begin} {PIN} SELECT {}", question::kinds())).await?;
    let kinds = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(kinds.unwrap_or_default().to_owned())
}

/// A definition as it is after a dump and its restore, too: lists of `varchar` values have their casts inside then, and outside
/// before. Written without a backslash, whatever the session takes that for.
const SETTLED: &str = "CASE WHEN definition LIKE '%::character varying%' THEN regexp_replace(regexp_replace(definition,
    '::character varying(::text)?(?=[],])', '::text', 'g'), '::text[]]::text[[][]]', '::text]', 'g') ELSE COALESCE(definition, '') END";

/// The facts of these kinds, with long definitions replaced by their beginning and hash.
fn bounded(kinds: &str) -> String {
    format!(
        "SELECT name, CASE WHEN octet_length(definition) <= 65536 THEN definition ELSE concat(left(definition, 1000),
            ' … ', octet_length(definition), ' bytes, SHA-256 ', encode(sha256(convert_to(definition, 'UTF8')), 'hex')) END
         AS definition FROM (SELECT name, {SETTLED} AS definition FROM ({}) unbounded) whole",
        question::of_kinds(kinds)
    )
}

/// The outcome, with no transaction left open behind a failure.
async fn or_roll_back<T>(
    client: &Client,
    outcome: Result<T, tokio_postgres::Error>,
) -> Result<T, FingerprintError> {
    if outcome.is_err() {
        // Its own outcome adds nothing: where it fails the session is over.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    Ok(outcome?)
}

impl Facts {
    /// What the server makes of the same facts.
    pub fn fingerprint(&self) -> Fingerprint {
        let digest = ring::digest::digest(&SHA256, self.text().as_bytes());
        let hash = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Fingerprint { basis: self.basis.clone(), hash }
    }
}
