//! Psql: who an operator is in a tenant's database: a login for one session, with rights in that database alone.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::prepare::check_backup;
use super::roles::{BACKUP, MIGRATORS, OWNER, operators_of};
use super::server::run;
use super::{Doing, Fleet, FleetError, database};
use crate::catalog::TenantRow;
use crate::pg::{Ident, Login, literal};
use crate::tenant::{Record, TenantId};
use crate::vault::random_login;

/// The login of one session of an operator.
#[derive(Debug)]
pub struct OperatorLogin {
    /// To log in with.
    pub login: Login,
    /// The role to begin as.
    pub role: Option<&'static str>,
    /// Whether the login was made for this session.
    is_made: bool,
}

impl Fleet {
    /// A login for an operator's session in a tenant's database. Whoever looks at a view there runs what the tenant put
    /// into it, so it may become the owner and the API roles, and reach no other database. Of an adopted database it is the
    /// tenant's own login. The journal says that there was one.
    ///
    /// # Errors
    /// When the server refuses, or the catalog can't be written.
    pub async fn open_operator(&self, row: &TenantRow) -> Result<OperatorLogin, FleetError> {
        let record = &row.record;
        self.catalog.note(&record.id, "psql", &serde_json::json!({ "admin": false })).await?;
        if record.is_adopted() {
            let login = self.keys.tenant_logins(record).into_iter().next();
            let login = login.ok_or_else(|| FleetError::Unknown(record.slug.to_string()))?;
            return Ok(OperatorLogin { login, role: None, is_made: false });
        }
        self.make_operator(&record.server, &record.database()).await
    }

    /// A login for this database alone, which may become the owner, whoever writes its history and the API roles.
    pub(super) async fn make_operator(
        &self,
        server: &str,
        database: &str,
    ) -> Result<OperatorLogin, FleetError> {
        let (_, client) = self.admin(server).await?;
        let api_roles = self.settings.roles();
        let becomes = api_roles.iter().map(String::as_str).chain([MIGRATORS]);
        let login = make_login(&client, database, becomes).await?;
        self.keep(server, client);
        Ok(OperatorLogin { login, role: Some(OWNER), is_made: true })
    }

    /// A login that reads all rows of this database, past row-level security, by becoming [`BACKUP`]. No code of the
    /// database's owner may run in its sessions: `pg_read_all_data` shows the verifiers of all passwords of the server.
    pub(super) async fn make_reader(
        &self,
        server: &str,
        database: &str,
    ) -> Result<OperatorLogin, FleetError> {
        let (access, client) = self.admin(server).await?;
        check_backup(access, &client).await?;
        let login = make_login(&client, database, [BACKUP]).await?;
        self.keep(server, client);
        Ok(OperatorLogin { login, role: Some(BACKUP), is_made: true })
    }

    /// Ends the sessions of the login, and drops it if it was made for them.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn close_operator(&self, record: &Record, operator: &OperatorLogin) -> Result<(), FleetError> {
        if !operator.is_made {
            return Ok(());
        }
        self.drop_made(&record.server, &record.database(), operator).await
    }

    /// The same for a login that was made for this database.
    pub(super) async fn drop_made(
        &self,
        server: &str,
        database: &str,
        operator: &OperatorLogin,
    ) -> Result<(), FleetError> {
        let (access, client) = self.admin(server).await?;
        access.unhindered(drop_operator(&client, database, &operator.login.user)).await?;
        self.keep(server, client);
        Ok(())
    }
}

/// Makes a login for this database alone, which may become these roles.
async fn make_login<'a>(
    client: &Client,
    database: &str,
    becomes: impl IntoIterator<Item = &'a str>,
) -> Result<Login, FleetError> {
    // One for each session: two at a time don't end each other's.
    let login = random_login(&format!("{}{}", operators_of(database), &TenantId::random()?.as_str()[..8]))?;
    let role = Ident::new(&login.user);
    let mut sql = format!(
        "CREATE ROLE {role} LOGIN NOINHERIT PASSWORD {}; GRANT CONNECT ON DATABASE {} TO {role};",
        literal(&login.verifier()?),
        Ident::new(database)
    );
    for other in becomes {
        sql.push_str(&format!("GRANT {} TO {role};", Ident::new(other)));
    }
    // One message, and so one transaction.
    client.batch_execute(&sql).await.doing(|| format!("making a login for database `{database}`"))?;
    Ok(login)
}

/// Drops logins of operators whose session is over, and whose command was killed before it could.
pub(super) async fn sweep_operators(client: &Client, database: &str) -> Result<(), FleetError> {
    let sql = "SELECT rolname::text FROM pg_catalog.pg_roles r WHERE pg_catalog.starts_with(rolname, $1)
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE usesysid = r.oid)";
    let rows = client.query(sql, &[&operators_of(database)]).await;
    for row in rows.doing(|| "looking for operators' logins".into())? {
        let login: String = row.try_get(0).doing(|| "reading operators' logins".into())?;
        drop_operator(client, database, &login).await?;
    }
    Ok(())
}

async fn drop_operator(client: &Client, database: &str, login: &str) -> Result<(), FleetError> {
    let role = Ident::new(login);
    run(client, &format!("ALTER ROLE {role} NOLOGIN PASSWORD NULL")).await?;
    database::terminate(client, login).await?;
    if database::exists(client, database).await? {
        run(client, &format!("REVOKE ALL ON DATABASE {} FROM {role}", Ident::new(database))).await?;
    }
    match run(client, &format!("DROP ROLE {role}")).await {
        // Somebody granted it something in the database. It can't log in any more, and goes with the database.
        Err(FleetError::Server { source, .. })
            if source.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) =>
        {
            tracing::warn!(role = login, "role `{login}` stays, closed: something in its database names it");
            Ok(())
        }
        outcome => outcome,
    }
}
