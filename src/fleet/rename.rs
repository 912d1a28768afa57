//! Rename: another slug for a tenant. Its id, database, keys and the base URLs that it was given stay.

use super::{Fleet, FleetError};
use crate::catalog::TenantRow;
use crate::tenant::Slug;

impl Fleet {
    /// Gives a tenant another slug, and the base URLs that the settings make of it in place of those of the old one. Run
    /// again after it was killed, it goes on.
    ///
    /// # Errors
    /// When the slug or one of the URLs is another tenant's, the tenant is declared in the settings, or there is none.
    pub async fn rename(&self, slug: &str, new: &Slug) -> Result<TenantRow, FleetError> {
        let row = match self.catalog.tenant_by_slug(slug).await? {
            Some(row) => row,
            // Perhaps an earlier attempt was killed behind its first step: the second is done again.
            None => match self.catalog.tenant_by_slug(new.as_str()).await? {
                Some(row) if self.was_renamed(&row, slug).await? => row,
                _ => return Err(FleetError::Unknown(slug.to_owned())),
            },
        };
        if self.settings.tenants.contains_key(slug) {
            return Err(FleetError::Settings(format!(
                "tenant `{slug}` is declared in the settings, and `apply` would make it anew: change [tenants.{slug}] to \
                 [tenants.{new}] there first"
            )));
        }
        if let Some(other) = self.catalog.tenant_by_slug(new.as_str()).await?
            && other.record.id != row.record.id
        {
            return Err(FleetError::Settings(format!(
                "tenant `{new}` is there already ({}); choose another name",
                other.record.state
            )));
        }
        let urls = self.templated(new)?;
        self.catalog.tenant_rename(&row.record.id, new.as_str()).await?;
        self.catalog.base_urls_replace(&row.record.id, &urls, true).await?;
        self.mark(&row.record.id).await;
        self.tenant(new.as_str()).await
    }

    /// Whether the newest name of a tenant was given to it in place of this one.
    async fn was_renamed(&self, row: &TenantRow, slug: &str) -> Result<bool, FleetError> {
        let journal = self.catalog.journal(&row.record.id, 20).await?;
        let newest = journal.iter().find(|entry| entry.action == "rename");
        Ok(newest.is_some_and(|entry| entry.detail.get("from").and_then(|from| from.as_str()) == Some(slug)))
    }
}
