//! What every tenant's database begins with: schemas, and default privileges.

use tokio_postgres::Client;

use crate::pg::{Error, Ident};

/// Sets a new template's rights, as its database's owner (the admin). Run before the first migration, and again at
/// will: nothing changes then.
///
/// The role `owner` gets the right to make schemas in the database, and the schemas `public`, `extensions` (where
/// extensions go, so that no API exposes their functions) and `manybox` (the history, closed to everybody). The
/// API roles may use the first two. PUBLIC loses everything, and EXECUTE on functions yet to be made.
///
/// # Errors
/// When a role is missing or the login isn't the database's owner and a member of `owner`.
pub async fn prepare_template(client: &Client, owner: &str, api_roles: &[String]) -> Result<(), Error> {
    let database: String =
        client.query_one("SELECT pg_catalog.current_database()::text", &[]).await?.try_get(0)?;
    let (database, owner) = (Ident::new(database), Ident::new(owner));
    // One message, and so one transaction. The default privileges are not IN SCHEMA: those can only add to the
    // global ones, and EXECUTE for PUBLIC is among the global ones.
    let mut sql = format!(
        "SET LOCAL client_min_messages = warning;
         GRANT CREATE ON DATABASE {database} TO {owner};
         ALTER SCHEMA public OWNER TO {owner};
         CREATE SCHEMA IF NOT EXISTS extensions AUTHORIZATION {owner};
         CREATE SCHEMA IF NOT EXISTS manybox AUTHORIZATION {owner};
         REVOKE ALL ON SCHEMA public, extensions, manybox FROM PUBLIC;
         ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;"
    );
    for role in api_roles {
        sql.push_str(&format!("GRANT USAGE ON SCHEMA public, extensions TO {};", Ident::new(role)));
    }
    Ok(client.batch_execute(&sql).await?)
}
