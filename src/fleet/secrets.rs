//! Secrets: what operators give a tenant in the clear, and what webhooks' messages are signed with: sealed for the catalog,
//! opened to be compared or used, sealed anew.

use super::{Fleet, FleetError};
use crate::catalog::WebhookRow;
use crate::policy::{JWT_SECRET, Overrides, Secret};
use crate::tenant::{Record, Sealed, TenantId};
use crate::vault::KeyState;

/// The name under which a webhook's secret is sealed.
const WEBHOOK: &str = "secret";

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
        let sealed = self.sealed(record, overrides)?;
        self.configure_with(record, tier, overrides, &sealed).await
    }

    /// The same, but its secrets stay as they are sealed: they may be ones that nobody can open any more.
    ///
    /// # Errors
    /// As [`Fleet::configure`].
    pub async fn configure_beside_secrets(
        &self,
        record: &Record,
        tier: &str,
        overrides: &Overrides,
    ) -> Result<(), FleetError> {
        self.configure_with(record, tier, overrides, &record.sealed).await
    }

    async fn configure_with(
        &self,
        record: &Record,
        tier: &str,
        overrides: &Overrides,
        sealed: &Sealed,
    ) -> Result<(), FleetError> {
        self.known_tier(tier)?;
        if !record.is_adopted() {
            let tenant = self.settings.tenant(Record { overrides: overrides.clone(), ..record.clone() });
            self.settings.check_roles(&tenant.api)?;
        }
        self.catalog.tenant_configure(&record.id, tier, overrides, sealed).await?;
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

    /// A new tenant's secrets: the token secret of these settings, or none.
    pub(super) fn sealed_anew(&self, id: &TenantId, overrides: &Overrides) -> Result<Sealed, FleetError> {
        let mut sealed = Sealed::new();
        if let Some(secret) = overrides.jwt_secret() {
            sealed.insert(JWT_SECRET.into(), self.keys.newest().seal(id, JWT_SECRET, secret)?);
        }
        Ok(sealed)
    }

    /// The tenant's secrets with the token secret of these settings instead of its own. One that is the same stays as it is
    /// sealed.
    fn sealed(&self, record: &Record, overrides: &Overrides) -> Result<Sealed, FleetError> {
        let mut sealed = record.sealed.clone();
        let before = self.keys.open(record, JWT_SECRET).unwrap_or_default();
        if before.as_ref() != overrides.jwt_secret() || before.is_none() {
            sealed.remove(JWT_SECRET);
            sealed.extend(self.sealed_anew(&record.id, overrides)?);
        }
        Ok(sealed)
    }

    /// The tenant's secrets, sealed with the newest master key; and behind them those that can't be opened, as they are
    /// sealed, where `set_aside` says that such may be.
    ///
    /// # Errors
    /// When one can't be opened and may not be set aside.
    pub(super) fn resealed(&self, record: &Record, set_aside: bool) -> Result<(Sealed, Sealed), FleetError> {
        let newest = self.keys.newest();
        let (mut sealed, mut lost) = (Sealed::new(), Sealed::new());
        for (name, text) in &record.sealed {
            match self.keys.open(record, name) {
                Ok(Some(secret)) => {
                    sealed.insert(name.clone(), newest.seal(&record.id, name, &secret)?);
                }
                Ok(None) => {}
                Err(_) if set_aside => drop(lost.insert(name.clone(), text.clone())),
                Err(error) => return Err(error.into()),
            }
        }
        Ok((sealed, lost))
    }

    /// A webhook's secret, sealed.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn seal_webhook(&self, id: &TenantId, secret: &Secret) -> Result<String, FleetError> {
        Ok(self.keys.newest().seal(id, WEBHOOK, secret)?)
    }

    /// A webhook's secret.
    ///
    /// # Errors
    /// When the master key that sealed it is gone.
    pub fn open_webhook(&self, webhook: &WebhookRow) -> Result<Secret, FleetError> {
        let id: TenantId = webhook.id.parse()?;
        Ok(self.keys.open_sealed((&id, &format!("webhook `{id}`")), WEBHOOK, &webhook.sealed)?)
    }

    /// Seals one webhook's secret with the newest master key, if it is not. One that nobody can open is told no more, where
    /// `set_aside` says so or its key has ended. Returns whether it is lost.
    ///
    /// # Errors
    /// When it can't be opened and may not be set aside, or the catalog can't be changed.
    pub async fn rekey_webhook(&self, webhook: &WebhookRow, set_aside: bool) -> Result<bool, FleetError> {
        let newest = self.keys.newest();
        if webhook.sealed.starts_with(&format!("{}:", newest.id())) {
            return Ok(false);
        }
        match self.open_webhook(webhook) {
            Ok(secret) => {
                let sealed = newest.seal(&webhook.id.parse()?, WEBHOOK, &secret)?;
                self.catalog.webhook_resealed(&webhook.id, &webhook.sealed, &sealed).await?;
                Ok(false)
            }
            Err(error) => {
                let number = webhook.sealed.split_once(':').and_then(|(number, _)| number.parse().ok());
                let known = self.catalog.master_keys().await?;
                let is_over =
                    known.iter().any(|key| Some(key.number) == number && key.state == KeyState::Ended);
                if !set_aside && !is_over {
                    return Err(error);
                }
                let why = "its secret was sealed with a master key that is gone: remove it, and make it anew";
                self.catalog.webhook_failed(&webhook.id, why, None).await?;
                Ok(true)
            }
        }
    }
}
