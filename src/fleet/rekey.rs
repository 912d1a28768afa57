//! Rekey: every password moves to the newest master key, tenant by tenant, while requests go on.

use super::server::{role_exists, run};
use super::{Fleet, FleetError, router};
use crate::catalog::{Filter, TenantRow};
use crate::pg::{Ident, literal};

impl Fleet {
    /// The tenants whose password or secrets do not derive from the newest master key yet.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn to_rekey(&self) -> Result<Vec<TenantRow>, FleetError> {
        let newest = self.keys.newest().id();
        let mut rows = self.catalog.tenants(&Filter::default()).await?;
        rows.retain(|row| row.record.key != newest);
        Ok(rows)
    }

    /// Gives the router's login the newest key's password, on every server.
    ///
    /// # Errors
    /// When a server refuses.
    pub async fn rekey_router(&self) -> Result<(), FleetError> {
        for (name, _) in self.servers.iter() {
            let (_, client) = self.admin(name).await?;
            router::set_password(&client, &self.keys, &self.settings.catalog.database).await?;
            self.keep(name, client);
        }
        Ok(())
    }

    /// Gives one tenant's login the newest key's password. Sessions that are open stay; routers try both keys for
    /// new ones, so it does not matter whether they hear of the row before or after the change.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn rekey(&self, row: &TenantRow) -> Result<(), FleetError> {
        let record = &row.record;
        let (newest, sealed) = (self.keys.newest().id(), self.resealed(record)?);
        if record.is_adopted() {
            // Its password is the operator's: only how it is kept changes.
            return Ok(self.catalog.tenant_rekeyed(&record.id, newest, &sealed).await?);
        }
        let (_, client) = self.admin(&record.server).await?;
        let login = self.keys.newest().tenant_login(record);
        if role_exists(&client, &login.user).await? {
            let verifier = login.verifier()?;
            run(&client, &format!("ALTER ROLE {} PASSWORD {}", Ident::new(&login.user), literal(&verifier)))
                .await?;
        }
        Ok(self.catalog.tenant_rekeyed(&record.id, newest, &sealed).await?)
    }
}
