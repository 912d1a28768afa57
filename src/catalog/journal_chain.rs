//! The chain of the journal: each line's place and hash, and whether they are as they were.

use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::journal::entry;
use super::{Catalog, CatalogError, Entry};
use crate::policy::Invalid;

/// Lines that are read, and sealed, at a time.
const PAGE: i64 = 5000;

/// The end of the chain at some time: who knows it can tell later whether anything before it was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalHead {
    /// How many lines there are up to it.
    pub position: i64,
    /// Its hash, in hex.
    pub hash: String,
}

impl fmt::Display for JournalHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.position, self.hash)
    }
}

impl FromStr for JournalHead {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parts = text.split_once(':').and_then(|(position, hash)| Some((position.parse().ok()?, hash)));
        let (position, hash) = parts.filter(|(_, hash)| hash.len() == 64).ok_or_else(|| {
            Invalid(format!("`{text}` is not the head of a journal: expected POSITION:HASH, as `manybox journal verify` prints it"))
        })?;
        Ok(Self { position, hash: hash.to_ascii_lowercase() })
    }
}

/// A line in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Its place, from 1.
    pub position: i64,
    /// Its number in the journal.
    pub line: i64,
    /// The line as it is hashed: id, time, actor, tenant, action, detail, order, outcome. `None` when the journal has it no
    /// more.
    pub form: Option<String>,
    /// SHA-256 of the hash before and of this, in hex.
    pub hash: String,
}

/// What came of looking at the whole chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainReport {
    /// Its end; `None` while there is no line.
    pub head: Option<JournalHead>,
    /// What is not as it was: one sentence each, a hundred at most.
    pub breaks: Vec<String>,
}

/// What keeps the journal from being changed, where it is not as `init` leaves it.
const UNGUARDED: &str = "
SELECT pg_catalog.format('%s belongs to %I, who may change it: run `manybox init`, which gives it back to %I', c.oid::regclass,
                         pg_catalog.pg_get_userbyid(c.relowner), o.name)
FROM pg_catalog.pg_class c, (SELECT pg_catalog.current_database() || '_journal' AS name) o
WHERE c.relnamespace = 'journal'::regnamespace AND c.relkind = 'r' AND pg_catalog.pg_get_userbyid(c.relowner) <> o.name
UNION ALL
SELECT pg_catalog.format('trigger %I of %s is off', t.tgname, t.tgrelid::regclass)
FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'journal'::regnamespace AND NOT t.tgisinternal AND t.tgenabled <> 'O'";

/// Most breaks that are told.
const MAX_BREAKS: usize = 100;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Catalog {
    /// Gives lines that are committed by now their places in the chain. Returns how many.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn journal_seal(&self) -> Result<usize, CatalogError> {
        let most = i32::try_from(PAGE).unwrap_or(i32::MAX);
        let row = self.sessions.query_one("SELECT journal.seal_lines($1)", &[&most]).await?;
        Ok(usize::try_from(row.try_get::<_, i32>(0)?).unwrap_or(0))
    }

    /// The end of the chain.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn journal_head(&self) -> Result<Option<JournalHead>, CatalogError> {
        let sql = "SELECT position, hash FROM journal.seal ORDER BY position DESC LIMIT 1";
        let row = self.sessions.query_opt(sql, &[]).await?;
        row.map(|row| Ok(JournalHead { position: row.try_get(0)?, hash: hex(row.try_get(1)?) })).transpose()
    }

    /// The lines behind this place, in their order, some at a time.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn journal_links(&self, after: i64) -> Result<Vec<Link>, CatalogError> {
        let sql = "SELECT s.position, s.line, CASE WHEN j.id IS NOT NULL THEN journal.form(j) END, s.hash
                   FROM journal.seal s LEFT JOIN journal.line j ON j.id = s.line
                   WHERE s.position > $1 ORDER BY s.position LIMIT $2";
        let rows = self.sessions.query(sql, &[&after, &PAGE]).await?;
        rows.iter()
            .map(|row| {
                Ok(Link {
                    position: row.try_get(0)?,
                    line: row.try_get(1)?,
                    form: row.try_get(2)?,
                    hash: hex(row.try_get(3)?),
                })
            })
            .collect()
    }

    /// The lines behind this number, oldest first; without one the newest. Each with its number and its tenant's name.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn journal_tail(
        &self,
        after: Option<i64>,
        most: i64,
    ) -> Result<Vec<(i64, Option<String>, Entry)>, CatalogError> {
        let sql = "SELECT * FROM (
                SELECT j.id, t.slug, j.at, j.actor, j.action, j.detail, j.act, j.outcome
                FROM journal.line j LEFT JOIN catalog.tenant t ON t.id = j.tenant
                WHERE $1::int8 IS NULL OR j.id > $1
                ORDER BY CASE WHEN $1 IS NULL THEN -j.id ELSE j.id END LIMIT $2) newest
             ORDER BY id";
        let rows = self.sessions.query(sql, &[&after, &most]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, entry(row)?))).collect()
    }

    /// Seals what is there, then computes every hash anew, and compares the chain with what somebody kept of it.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn journal_verify(&self, known: &[JournalHead]) -> Result<ChainReport, CatalogError> {
        while self.journal_seal().await? > 0 {}
        let mut report = ChainReport { head: None, breaks: Vec::new() };
        let (mut at, mut former) = (0, Vec::new());
        loop {
            let links = self.journal_links(at).await?;
            if links.is_empty() {
                break;
            }
            for link in links {
                let mut broken = |what: String| {
                    if report.breaks.len() < MAX_BREAKS {
                        report.breaks.push(what);
                    }
                };
                if link.position != at + 1 {
                    broken(format!("places {} to {} are missing", at + 1, link.position - 1));
                }
                match &link.form {
                    None => broken(format!("line {} at place {} is gone", link.line, link.position)),
                    Some(form) => {
                        let computed = digest(&SHA256, &[&former[..], form.as_bytes()].concat());
                        if hex(computed.as_ref()) != link.hash {
                            broken(format!(
                                "line {} at place {} is not what was sealed",
                                link.line, link.position
                            ));
                        }
                    }
                }
                for known in
                    known.iter().filter(|known| known.position == link.position && known.hash != link.hash)
                {
                    broken(format!(
                        "place {} is not as it was kept: the chain was made anew",
                        known.position
                    ));
                }
                former = unhex(&link.hash);
                at = link.position;
                report.head = Some(JournalHead { position: at, hash: link.hash });
            }
        }
        for known in known.iter().filter(|known| known.position > at) {
            report.breaks.push(format!("the chain ends at {at}, and was kept up to {}", known.position));
        }
        let sql = "SELECT count(*) FROM journal.line j
                   WHERE NOT EXISTS (SELECT FROM journal.seal s WHERE s.line = j.id)
                     AND NOT EXISTS (SELECT FROM journal.pending p WHERE p.line = j.id)";
        let stray: i64 = self.sessions.query_one(sql, &[]).await?.try_get(0)?;
        if stray > 0 {
            report.breaks.push(format!("{stray} line(s) were written past the chain"));
        }
        for row in self.sessions.query(UNGUARDED, &[]).await? {
            report.breaks.push(row.try_get(0)?);
        }
        Ok(report)
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).filter_map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_back() {
        let head = JournalHead { position: 7, hash: "ab".repeat(32) };
        assert_eq!(head.to_string().parse::<JournalHead>().unwrap(), head);
        assert!("7:ab".parse::<JournalHead>().is_err() && "x".parse::<JournalHead>().is_err());
        assert_eq!(unhex("00ff10"), [0, 255, 16]);
    }
}
