//! Drift: whether a tenant's schema is what its lineage's template was; kept in the catalog, proved after each step.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::{Doing, Fleet, FleetError};
use crate::catalog::TenantRow;
use crate::migrate::{self, Drift, Facts, Fingerprint, FingerprintError};
use crate::tenant::{Lineage, Record, TenantId};

/// Longest time for one database, from connecting to the last fact. A tenant's owner can make every question last.
const DEADLINE: Duration = Duration::from_secs(60);
/// Most bytes of accepted drift that are kept. Who has more than that should make it an edition of its own.
const MAX_ACCEPTED: usize = 1024 * 1024;

/// What a database was before a step of a rollout.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// Its lineage then.
    pub lineage: &'a Lineage,
    /// Its fingerprint then, where somebody asked. Without it, drift counts as older than the step when it is about
    /// nothing that the step's files changed in the template.
    pub fingerprint: Option<&'a Fingerprint>,
}

/// How a database's schema compares with its lineage's template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// It is the same.
    Equal(Fingerprint),
    /// It differs, and if there was a step, by the step.
    Drifted(Drift),
    /// It differs, and did before the step.
    DriftedBefore(Drift),
    /// It differs in what an operator accepted, for this reason, and in nothing else.
    Accepted(Drift, String),
    /// Nothing is known to compare it with; the text says why.
    Unknown(String),
}

impl Proof {
    /// How it differs.
    pub fn drift(&self) -> Option<&Drift> {
        match self {
            Self::Drifted(drift) | Self::DriftedBefore(drift) | Self::Accepted(drift, _) => Some(drift),
            Self::Equal(_) | Self::Unknown(_) => None,
        }
    }

    /// One word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Equal(_) => "equal",
            Self::Drifted(_) => "drifted",
            Self::DriftedBefore(_) => "drifted before",
            Self::Accepted(..) => "accepted",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl Fleet {
    /// Reads what the schema of `database`, of this lineage, is, and stores it. No tenant may have had a hand in that
    /// database: all tenants of the lineage are compared with it.
    pub(super) async fn record_fingerprint(
        &self,
        server: &str,
        database: &str,
        lineage: &Lineage,
    ) -> Result<(), FleetError> {
        let client = self.servers.get(server)?.connect_admin_inside(database).await?;
        let facts = migrate::facts(&client).await.map_err(|source| unread(database, source))?;
        client.close().await;
        let Fingerprint { basis, hash } = facts.fingerprint();
        let json = facts.to_json().map_err(|error| not_json(&error))?;
        Ok(self.catalog.fingerprint_put(server, lineage, &basis, &hash, &json).await?)
    }

    /// What the schema of this lineage's databases on this server should be, for each basis of which it is kept.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn expected_fingerprints(
        &self,
        server: &str,
        lineage: &Lineage,
    ) -> Result<Vec<Fingerprint>, FleetError> {
        let kept = self.catalog.fingerprints(server, lineage).await?;
        Ok(kept.into_iter().map(|(basis, hash)| Fingerprint { basis, hash }).collect())
    }

    /// Compares the schema of a tenant's database with its lineage's template. `before` says what it was before a step of
    /// a rollout, to tell drift of the step from older drift.
    ///
    /// # Errors
    /// When the database can't be reached or doesn't answer within a minute, or the catalog can't be read.
    pub async fn prove(
        &self,
        tenant: &TenantRow,
        lineage: &Lineage,
        before: Option<Before<'_>>,
    ) -> Result<Proof, FleetError> {
        let database = tenant.record.database();
        let asking = async {
            let client = self.servers.get(&tenant.record.server)?.connect_admin_inside(&database).await?;
            let of = (&tenant.record.id, tenant.record.server.as_str());
            let proof = self.prove_by(&client, of, lineage, before).await;
            client.close().await;
            proof
        };
        let late = || {
            FleetError::Busy(format!(
                "database `{database}` did not tell its schema within {} s, and so perhaps it",
                DEADLINE.as_secs()
            ))
        };
        timeout(DEADLINE, asking).await.unwrap_or_else(|_| Err(late()))
    }

    /// The same by a session in the tenant's database that is there already, such as its migrator's. No transaction may be
    /// open in it.
    ///
    /// # Errors
    /// As [`Fleet::prove`]; the session's waits are bounded by the server alone.
    pub async fn prove_by(
        &self,
        client: &Client,
        (id, server): (&TenantId, &str),
        lineage: &Lineage,
        before: Option<Before<'_>>,
    ) -> Result<Proof, FleetError> {
        let database = id.database();
        let found = migrate::fingerprint(client).await.map_err(|source| unread(&database, source))?;
        let of = (server.to_owned(), lineage.clone());
        if self.proved.lock().unwrap_or_else(PoisonError::into_inner).get(&of) == Some(&found) {
            return Ok(Proof::Equal(found));
        }
        let expected = self.expected_fingerprints(server, lineage).await?;
        if expected.is_empty() {
            return Ok(Proof::Unknown(format!(
                "no fingerprint of edition `{}` at version {} is kept for server `{server}`",
                lineage.edition, lineage.version
            )));
        }
        if expected.contains(&found) {
            self.proved.lock().unwrap_or_else(PoisonError::into_inner).insert(of, found.clone());
            return Ok(Proof::Equal(found));
        }
        let kept = self.kept_facts(server, lineage, &found.basis).await?;
        let Some(kept) = kept else {
            return Ok(Proof::Unknown(format!(
                "what is kept of edition `{}` at version {} is of another PostgreSQL or manybox: run `manybox init`",
                lineage.edition, lineage.version
            )));
        };
        let facts = migrate::facts(client).await.map_err(|source| unread(&database, source))?;
        let drift = facts.difference(&kept);
        if drift.is_empty() {
            // It changed between the two questions, or the template was read again between them.
            return Ok(Proof::Equal(facts.fingerprint()));
        }
        if let Some(accepted) = self.catalog.accepted_drift(id).await?
            && let Ok(known) = serde_json::from_str(&accepted.drift)
            && drift.is_within(&known)
        {
            return Ok(Proof::Accepted(drift, accepted.reason));
        }
        let Some(before) = before else { return Ok(Proof::Drifted(drift)) };
        let Some(kept_before) = self.kept_facts(server, before.lineage, &found.basis).await? else {
            return Ok(Proof::Drifted(drift));
        };
        let is_older = match before.fingerprint {
            Some(fingerprint) => *fingerprint != kept_before.fingerprint(),
            None => !drift.overlaps(&kept.difference(&kept_before)),
        };
        Ok(if is_older { Proof::DriftedBefore(drift) } else { Proof::Drifted(drift) })
    }

    /// Accepts what a tenant's schema has different from its lineage's template, until it differs in something else too.
    /// Gives what was accepted, which is nothing when it doesn't differ.
    ///
    /// # Errors
    /// When there is nothing to compare it with, it differs in too much, or as [`Fleet::prove`].
    pub async fn accept_drift(&self, tenant: &TenantRow, reason: &str) -> Result<Proof, FleetError> {
        let slug = &tenant.record.slug;
        let lineage = tenant
            .record
            .lineage()
            .ok_or_else(|| FleetError::Adopted(slug.to_string(), "compared with an edition"))?;
        match self.prove(tenant, lineage, None).await? {
            Proof::Drifted(drift) | Proof::DriftedBefore(drift) | Proof::Accepted(drift, _) => {
                self.accept(&tenant.record, &drift, reason).await?;
                Ok(Proof::Accepted(drift, reason.to_owned()))
            }
            equal @ Proof::Equal(_) => Ok(equal),
            Proof::Unknown(why) => Err(FleetError::Settings(format!("nothing to accept of `{slug}`: {why}"))),
        }
    }

    /// Accepts this drift of a tenant.
    pub(super) async fn accept(
        &self,
        record: &Record,
        drift: &Drift,
        reason: &str,
    ) -> Result<(), FleetError> {
        let json = serde_json::to_string(drift).map_err(|error| not_json(&error))?;
        if json.len() > MAX_ACCEPTED {
            return Err(FleetError::Settings(format!(
                "the drift of `{}` is longer than {MAX_ACCEPTED} bytes, which is too much to accept: undo it, or give the \
                 tenant an edition of its own",
                record.slug
            )));
        }
        Ok(self.catalog.drift_accept(&record.id, &json, drift.len(), reason).await?)
    }

    pub(super) async fn kept_facts(
        &self,
        server: &str,
        lineage: &Lineage,
        basis: &str,
    ) -> Result<Option<Facts>, FleetError> {
        let kept = self.catalog.facts(server, lineage, basis).await?;
        kept.map(|text| Facts::from_json(&text)).transpose().map_err(|error| {
            FleetError::Settings(format!(
                "what the catalog keeps of edition `{}` at version {} can't be read: {error}; was it written by a newer \
                 manybox?",
                lineage.edition, lineage.version
            ))
        })
    }

    /// What fingerprints that this server makes are of.
    pub(super) async fn fingerprint_basis(&self, server: &str) -> Result<String, FleetError> {
        let (_, client) = self.admin(server).await?;
        let basis =
            migrate::fingerprint_basis(&client).await.doing(|| "asking for the server's version".into())?;
        self.keep(server, client);
        Ok(basis)
    }
}

fn unread(database: &str, source: FingerprintError) -> FleetError {
    FleetError::Fingerprint { database: database.to_owned(), source }
}

fn not_json(error: &serde_json::Error) -> FleetError {
    FleetError::Settings(format!("facts can't be written as JSON: {error}"))
}
