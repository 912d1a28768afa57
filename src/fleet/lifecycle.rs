//! Lifecycle: suspend, resume, retire, restore, purge. The catalog says what shall be, `settle` makes it so.

use std::time::Duration;

use time::OffsetDateTime;
use tokio_postgres::Client;

use super::psql::sweep_operators;
use super::server::{role_exists, run};
use super::{Doing, Fleet, FleetError, database, moment};
use crate::catalog::TenantRow;
use crate::pg::{AdvisoryLock, Ident, literal};
use crate::tenant::{Record, State, TenantId, Verb};

/// How long to wait for another command that is at work on the same tenant.
const LOCK_WAIT: Duration = Duration::from_secs(60);

impl Fleet {
    /// Carries out a verb on the tenant that has this slug, or finishes what a killed command began.
    ///
    /// Suspend and retire take LOGIN from the tenant's role and end its sessions, so that a router that missed the
    /// notice is fenced; the database stays open, because a closed one locks the admin out as well. Retire lets
    /// requests under way finish first, for at most `listen.drain_timeout`.
    ///
    /// # Errors
    /// [`FleetError::State`] when the verb may not start from the tenant's state; [`FleetError::Kept`] for a purge before
    /// the time until which the tenant is kept.
    pub async fn carry_out(&self, slug: &str, verb: Verb) -> Result<TenantRow, FleetError> {
        let row = self.tenant(slug).await?;
        if let (Verb::Purge, Some(until)) = (verb, row.keep_until)
            && until > OffsetDateTime::now_utc()
        {
            return Err(FleetError::Kept { slug: slug.to_owned(), until });
        }
        self.carry_out_now(slug, verb).await
    }

    /// Takes a tenant out of service, and keeps it until then; when nothing is said, for the time that the settings say.
    ///
    /// # Errors
    /// As [`Fleet::carry_out`].
    pub async fn retire(&self, slug: &str, until: Option<OffsetDateTime>) -> Result<TenantRow, FleetError> {
        if let Some(until) = until.filter(|until| *until <= OffsetDateTime::now_utc()) {
            return Err(FleetError::Settings(format!(
                "tenant `{slug}` can't be kept until {}, which is over; nothing was changed",
                moment(until)
            )));
        }
        let grace = self.settings.defaults.purge_grace;
        let row = self.carry_out(slug, Verb::Retire).await?;
        // Run again, it is not kept longer than it was.
        let usual = (!grace.is_zero() && row.keep_until.is_none()).then(|| OffsetDateTime::now_utc() + grace);
        match until.or(usual) {
            Some(until) => {
                self.catalog.tenant_keep(&row.record.id, until).await?;
                self.mark(&row.record.id).await;
            }
            None => return Ok(row),
        }
        self.tenant(slug).await
    }

    /// The same whatever time it is kept for.
    ///
    /// # Errors
    /// [`FleetError::State`] when the verb may not start from the tenant's state.
    pub async fn carry_out_now(&self, slug: &str, verb: Verb) -> Result<TenantRow, FleetError> {
        let row = self.tenant(slug).await?;
        let id = &row.record.id;
        if !self.catalog.tenant_transition(id, verb).await? {
            let state = self.tenant(slug).await?.record.state;
            return Err(FleetError::State { slug: slug.to_owned(), verb, state });
        }
        Box::pin(self.settle(id)).await
    }

    /// Makes the server do what the tenant's state says.
    ///
    /// # Errors
    /// When the server refuses or can't be reached: the row stays unsettled, and `apply` tries again.
    pub async fn settle(&self, id: &TenantId) -> Result<TenantRow, FleetError> {
        let unknown = || FleetError::Unknown(id.to_string());
        // Rare, and larger than the rest.
        Box::pin(self.finish_exchange(id)).await?;
        let row = self.catalog.tenant(id).await?.ok_or_else(unknown)?;
        let (server, client) = self.admin(&row.record.server).await?;
        let lock = AdvisoryLock::acquire(&client, self.keys.lock_key(&["tenant", id.as_str()]), LOCK_WAIT)
            .await
            .doing(|| format!("locking tenant `{}`", row.record.slug))?
            .ok_or_else(|| FleetError::Busy(format!("tenant `{}`", row.record.slug)))?;
        // Read again: another command may have moved it while this one waited for the lock.
        let row = self.catalog.tenant(id).await?.ok_or_else(unknown)?;
        if row.record.is_adopted() {
            // The role is not ours, so the catalog's word is all: routers refuse requests, and nothing is dropped.
            match row.record.state {
                State::Purging => {
                    // What stays listed names a session of a login in a database that no router serves any more.
                    let _ = self.let_router_end(&row.record).await;
                    self.catalog.tenant_purged(id).await?;
                }
                _ => self.catalog.tenant_settled(id).await?,
            }
            lock.release(&client).await.doing(|| "releasing the tenant's lock".into())?;
            return self.catalog.tenant(id).await?.ok_or_else(unknown);
        }
        server.unhindered(Box::pin(self.make_true(&client, &row.record))).await?;
        if !matches!(row.record.state, State::Creating | State::Purging | State::Purged) {
            self.catalog.tenant_settled(id).await?;
            self.mark(id).await;
        }
        lock.release(&client).await.doing(|| "releasing the tenant's lock".into())?;
        self.catalog.tenant(id).await?.ok_or_else(unknown)
    }

    /// Has the server do what the state of a tenant says whose database manybox made.
    async fn make_true(&self, client: &Client, record: &Record) -> Result<(), FleetError> {
        let (id, name) = (&record.id, record.id.database());
        let role = Ident::new(&name);
        match record.state {
            // A server whose databases came back without its roles.
            State::Active if !role_exists(client, &name).await? => self.give_logins(client, record).await?,
            // The tenant's own code can have changed its login's password and settings; this is how to mend that.
            State::Active => {
                let verifier = self.keys.newest().tenant_login(record).verifier()?;
                let sql = format!(
                    "ALTER ROLE {role} LOGIN PASSWORD {}; ALTER ROLE {role} RESET ALL; \
                     ALTER ROLE {role} IN DATABASE {role} RESET ALL",
                    literal(&verifier)
                );
                run(client, &sql).await?;
            }
            State::Suspended | State::Retired | State::Purging => {
                // A server that went back to its backup may not know it: nobody logs in there.
                if role_exists(client, &name).await? {
                    run(client, &format!("ALTER ROLE {role} NOLOGIN")).await?;
                    if record.state == State::Retired {
                        database::drain(client, &name, self.settings.listen.drain_timeout).await?;
                    }
                    database::terminate(client, &name).await?;
                }
            }
            State::Creating | State::Purged => {}
        }
        if record.state == State::Purging {
            // The role last: a database without its role can still be found by the id that both are named by.
            database::drop(client, &name).await?;
            sweep_operators(client, &name).await?;
            run(client, &format!("DROP ROLE IF EXISTS {role}")).await?;
            self.catalog.tenant_purged(id).await?;
        }
        Ok(())
    }
}
