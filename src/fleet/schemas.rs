//! Schemas of lineages: read from a template that is about to be sealed, and stored in the catalog for routers.

use std::sync::Arc;

use super::database::DatabaseRights;
use super::roles::OWNER;
use super::{Fleet, FleetError, database};
use crate::catalog::Template;
use crate::pg::{Connection, Guard};
use crate::schema::{FORMAT, Facts, SchemaError, ask_all};
use crate::tenant::{Lineage, TenantId};

impl Fleet {
    /// Reads what `database`, of this lineage, contains, and stores it, for routers and to compare tenants with. No tenant
    /// may have had a hand in that database: the schema is used for all tenants of the lineage.
    pub(super) async fn record_schema(
        &self,
        server: &str,
        database: &str,
        lineage: &Lineage,
    ) -> Result<(), FleetError> {
        let failed = |source: SchemaError| FleetError::Schema { database: database.to_owned(), source };
        let access = self.servers.get(server)?;
        let guard: Guard = Arc::new(());
        let opened = access.endpoint.open(access.admin()?, database, "", &guard).await;
        let mut connection = opened.map_err(|source| FleetError::Server {
            doing: format!("connecting to `{database}` to read its schema"),
            source,
        })?;
        let answers = ask_all(&mut connection).await.map_err(failed)?;
        drop(connection);
        let facts: Facts = answers.into_facts().map_err(failed)?;
        let facts = facts.to_json().map_err(|error| failed(error.into()))?;
        self.catalog.schema_put(server, lineage, FORMAT, &facts).await?;
        self.record_fingerprint(server, database, lineage).await
    }

    /// Stores the schemas and fingerprints of finished templates that the catalog does not have: those of a fleet that an
    /// older manybox made, or whose server was upgraded. A template that can't be read is told of in the log and left
    /// out; its tenants are served by schemas of their own until then.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn record_missing_schemas(&self) -> Result<(), FleetError> {
        for template in self.unrecorded_templates().await? {
            if let Err(error) = self.record_from_copy(&template).await {
                let (database, edition) = (&template.database, &template.lineage.edition);
                tracing::warn!(
                    template = database,
                    edition,
                    %error,
                    "the schema of edition {edition} can't be read from its template; every tenant's own is used"
                );
            }
        }
        Ok(())
    }

    /// The finished templates of which something is not stored. A server that can't be reached is left out, and told of in
    /// the log: commands go on without it.
    async fn unrecorded_templates(&self) -> Result<Vec<Template>, FleetError> {
        let mut templates = self.catalog.templates_without_schema(FORMAT).await?;
        for (server, _) in self.servers.iter() {
            let basis = match self.fingerprint_basis(server).await {
                Ok(basis) => basis,
                Err(error) => {
                    tracing::warn!(server, %error, "the templates of server {server} are not looked at");
                    continue;
                }
            };
            let lacking = self.catalog.templates_without_fingerprint(server, &basis).await?;
            templates.extend(
                lacking.into_iter().filter(|template| !templates.contains(template)).collect::<Vec<_>>(),
            );
        }
        Ok(templates)
    }

    async fn record_from_copy(&self, template: &Template) -> Result<(), FleetError> {
        let Template { server, lineage, .. } = template;
        let (_, client) = self.admin(server).await?;
        let lock = self.lock_template(&client, server, &lineage.edition).await?;
        // Somebody else may have stored it meanwhile, or brought the template to another version.
        let recorded = if self.unrecorded_templates().await?.contains(template) {
            self.in_copy(&client, template, async |copy| self.record_schema(server, copy, lineage).await)
                .await
        } else {
            Ok(())
        };
        self.unlock_template(&client, lock).await?;
        recorded
    }

    /// Does `work` in a copy of a sealed template, and drops the copy: unsealed, the template could be neither trusted nor
    /// copied by others meanwhile. Called under the template's lock.
    pub(super) async fn in_copy<T>(
        &self,
        client: &Connection,
        template: &Template,
        work: impl AsyncFnOnce(&str) -> Result<T, FleetError>,
    ) -> Result<T, FleetError> {
        // In the catalog first, as a template that is being built: should this be killed, it is swept away as one.
        let copy = format!("mb_t_{}", TenantId::random()?);
        self.catalog.template_insert(&copy, &template.server, &template.lineage.edition).await?;
        let worked = async {
            database::create_closed(client, &copy, &template.database).await?;
            let rights = DatabaseRights { owner: OWNER, logins: &[], temporary: &[] };
            database::open(client, &copy, &rights, "").await?;
            work(&copy).await
        };
        let worked = worked.await;
        database::drop(client, &copy).await?;
        self.catalog.template_delete(&copy).await?;
        worked
    }
}
