//! Secrets: what operators give a tenant in the clear, sealed for the catalog, and opened to be compared.

use super::{Fleet, FleetError};
use crate::policy::{JWT_SECRET, Overrides};
use crate::tenant::{Record, Sealed, TenantId};

impl Fleet {
    /// Changes a tenant's tier and settings; `overrides` has the token secret in the clear, and it is sealed here.
    ///
    /// # Errors
    /// When a role is none of the fleet's, or the catalog can't be changed.
    pub async fn configure(
        &self,
        record: &Record,
        tier: &str,
        overrides: &Overrides,
    ) -> Result<(), FleetError> {
        self.known_tier(tier)?;
        if !record.is_adopted() {
            let tenant = self.settings.tenant(Record { overrides: overrides.clone(), ..record.clone() });
            self.settings.check_roles(&tenant.api)?;
        }
        let sealed = self.sealed(&record.id, &record.sealed, overrides)?;
        self.catalog.tenant_configure(&record.id, tier, overrides, &sealed).await?;
        let tier = tier.to_owned();
        self.limit_login(&Record { tier, overrides: overrides.clone(), ..record.clone() }).await
    }

    pub(super) fn known_tier(&self, tier: &str) -> Result<(), FleetError> {
        let known: Vec<_> = self.settings.tiers.keys().map(String::as_str).collect();
        if known.contains(&tier) {
            return Ok(());
        }
        Err(FleetError::Settings(format!(
            "there is no tier `{tier}` in the settings; expected one of {}, or add [tiers.{tier}]",
            known.join(", ")
        )))
    }

    /// The tenant's settings with its token secret in the clear, as an operator gave them.
    ///
    /// # Errors
    /// When the master key that sealed the secret is gone.
    pub fn unsealed(&self, record: &Record) -> Result<Overrides, FleetError> {
        Ok(record.overrides.clone().with_jwt_secret(self.keys.open(record, JWT_SECRET)?))
    }

    /// The tenant's secrets with the token secret of these settings among them, or without any.
    pub(super) fn sealed(
        &self,
        id: &TenantId,
        before: &Sealed,
        overrides: &Overrides,
    ) -> Result<Sealed, FleetError> {
        let mut sealed = before.clone();
        match overrides.jwt_secret() {
            Some(secret) => {
                sealed.insert(JWT_SECRET.into(), self.keys.newest().seal(id, JWT_SECRET, secret)?);
            }
            None => drop(sealed.remove(JWT_SECRET)),
        }
        Ok(sealed)
    }

    /// The tenant's secrets, sealed with the newest master key.
    pub(super) fn resealed(&self, record: &Record) -> Result<Sealed, FleetError> {
        let newest = self.keys.newest();
        let mut sealed = Sealed::new();
        for name in record.sealed.keys() {
            if let Some(secret) = self.keys.open(record, name)? {
                sealed.insert(name.clone(), newest.seal(&record.id, name, &secret)?);
            }
        }
        Ok(sealed)
    }
}
