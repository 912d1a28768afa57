//! Rekey: every password moves to the newest master key, tenant by tenant, while requests go on.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::server::{role_exists, run};
use super::{Fleet, FleetError, router};
use crate::catalog::{Filter, TenantRow};
use crate::pg::{Ident, literal};
use crate::tenant::Sealed;
use crate::vault::KeyState;

/// How often the catalog is asked which routers have the new key.
const ROUTERS_POLL: Duration = Duration::from_millis(200);

/// Secrets of a tenant that nobody can open any more.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Lost {
    /// The tenant.
    pub tenant: String,
    /// The database, if it is an adopted one.
    pub adopted: Option<String>,
    /// The secrets' names.
    pub secrets: Vec<String>,
}

impl Fleet {
    /// Tells the catalog of the newest master key, if it has not been told.
    ///
    /// # Errors
    /// When its number is another key's, or the catalog can't be changed.
    pub async fn introduce_key(&self) -> Result<(), FleetError> {
        let newest = self.keys.newest();
        let known = self.catalog.master_keys().await?;
        if let Some(other) =
            known.iter().find(|key| key.number == newest.id() && key.fingerprint != newest.fingerprint())
        {
            return Err(FleetError::Settings(format!(
                "{} has another key of that number: give the new one a number above {}",
                self.keys.place(),
                other.number.max(self.catalog.highest_key().await?)
            )));
        }
        Ok(self.catalog.key_introduced(newest.id(), newest.fingerprint()).await?)
    }

    /// Waits until every live router has said that it has the newest key, `most` at the longest. Returns those that have
    /// not. `waiting` hears of them.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn wait_for_routers(
        &self,
        most: Duration,
        waiting: impl Fn(&[String]),
    ) -> Result<Vec<String>, FleetError> {
        let until = Instant::now() + most;
        let newest = self.keys.newest();
        let login = newest.router_login(&self.settings.catalog.database).user;
        loop {
            let without = self.catalog.routers_without(newest.fingerprint(), &login).await?;
            if without.is_empty() || Instant::now() >= until {
                return Ok(without);
            }
            waiting(&without);
            sleep(ROUTERS_POLL).await;
        }
    }

    /// From now on everything new is made from the newest key. Those before it are former ones, or lost where nobody has
    /// them.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn promote_key(&self) -> Result<(), FleetError> {
        let (newest, here) = (self.keys.newest(), self.keys.fingerprints());
        let mut to = BTreeMap::new();
        for key in self.catalog.master_keys().await? {
            let state = if key.fingerprint == newest.fingerprint() {
                KeyState::Current
            } else if key.state == KeyState::Ended {
                continue;
            } else if here.contains(&key.fingerprint) {
                KeyState::Former
            } else {
                KeyState::Lost
            };
            to.insert(key.number, state);
        }
        self.catalog.keys_moved(&to).await?;
        self.hear_keys().await
    }

    /// Ends the keys in this state: nothing derives from them any more.
    ///
    /// # Errors
    /// When the catalog can't be changed.
    pub async fn end_keys(&self, state: KeyState) -> Result<(), FleetError> {
        let known = self.catalog.master_keys().await?;
        let ended = known.iter().filter(|key| key.state == state).map(|key| (key.number, KeyState::Ended));
        self.catalog.keys_moved(&ended.collect()).await?;
        self.hear_keys().await
    }

    async fn hear_keys(&self) -> Result<(), FleetError> {
        self.keys.hear(self.catalog.master_keys().await?);
        Ok(())
    }

    /// Whether secrets may be set aside that can't be opened: a key is known to be lost.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn has_lost_key(&self) -> Result<bool, FleetError> {
        Ok(self.catalog.master_keys().await?.iter().any(|key| key.state == KeyState::Lost))
    }

    /// The tenants whose password or secrets do not derive from the newest master key yet.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn to_rekey(&self) -> Result<Vec<TenantRow>, FleetError> {
        let newest = self.keys.newest().id();
        let prefix = format!("{newest}:");
        let mut rows = self.catalog.tenants(&Filter::default()).await?;
        rows.retain(|row| {
            row.record.key != newest || !row.record.sealed.values().all(|text| text.starts_with(&prefix))
        });
        Ok(rows)
    }

    /// Every secret that was set aside and has not been set anew.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn lost_secrets(&self) -> Result<Vec<Lost>, FleetError> {
        let mut rows = self.catalog.tenants(&Filter::default()).await?;
        rows.retain(|row| !row.lost_secrets.is_empty());
        Ok(rows.into_iter().map(|row| lost(&row, row.lost_secrets.clone())).collect())
    }

    /// Gives the router's login the newest key's password, on every server. Returns the servers where it could not be done,
    /// and why.
    pub async fn rekey_router(&self) -> BTreeMap<String, FleetError> {
        let mut failed = BTreeMap::new();
        for (name, _) in self.servers.iter() {
            let moved = async {
                let (_, client) = self.admin(name).await?;
                router::set_password(&client, &self.keys, &self.settings.catalog.database).await?;
                self.keep(name, client);
                Ok::<_, FleetError>(())
            };
            if let Err(error) = moved.await {
                failed.insert(name.to_owned(), error);
            }
        }
        failed
    }

    /// Gives one tenant's login the newest key's password, and seals its secrets with that key. Sessions that are open
    /// stay; routers try both keys for new ones, so it does not matter whether they hear of the row before or after the
    /// change. With `set_aside`, secrets that can't be opened are put by, and returned.
    ///
    /// # Errors
    /// When the server refuses, or a secret can't be opened and may not be put by.
    pub async fn rekey(&self, row: &TenantRow, set_aside: bool) -> Result<Option<Lost>, FleetError> {
        let record = &row.record;
        let (sealed, unopened) = self.resealed(record, set_aside)?;
        // Of an adopted tenant the password is the operator's: only how it is kept changes.
        if !record.is_adopted() {
            let (_, client) = self.admin(&record.server).await?;
            let login = self.keys.newest().tenant_login(record);
            if role_exists(&client, &login.user).await? {
                let (role, verifier) = (Ident::new(&login.user), login.verifier()?);
                run(&client, &format!("ALTER ROLE {role} PASSWORD {}", literal(&verifier))).await?;
            }
            self.keep(&record.server, client);
        }
        self.rekeyed(row, &sealed, &unopened).await
    }

    async fn rekeyed(
        &self,
        row: &TenantRow,
        sealed: &Sealed,
        unopened: &Sealed,
    ) -> Result<Option<Lost>, FleetError> {
        let newest = self.keys.newest().id();
        if !self.catalog.tenant_rekeyed(&row.record, newest, sealed, unopened).await? {
            return Err(FleetError::Busy(format!("tenant `{}`", row.record.slug)));
        }
        let names: Vec<_> = unopened.keys().cloned().collect();
        Ok((!names.is_empty()).then(|| lost(row, names)))
    }
}

fn lost(row: &TenantRow, secrets: Vec<String>) -> Lost {
    let adopted = row.record.is_adopted().then(|| row.record.database());
    Lost { tenant: row.record.slug.to_string(), adopted, secrets }
}
