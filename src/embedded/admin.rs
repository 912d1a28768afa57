//! The admin role of the embedded server: what manybox logs in as, and never a superuser.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use tokio_postgres::Client;

use super::EmbeddedError;
use super::files::{random, write};
use super::user::User;
use crate::pg::literal;
use crate::policy::Secret;
use crate::vault::scram_verifier;

/// The role's name.
pub(super) const NAME: &str = "mb_admin";

/// Makes the role that reads past row-level security, unless it is there; the admin may make logins members of it.
const BACKUP: &str = "DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'mb_backup') THEN
        CREATE ROLE mb_backup NOLOGIN BYPASSRLS IN ROLE pg_read_all_data ADMIN mb_admin;
    END IF;
END $$";

/// Makes the role and closes the maintenance databases to everybody else, unless that was done; tells the password.
///
/// The password's file is written last and so marks the work as done: after a crash in between, all is done again
/// with a new password.
pub(super) async fn ensure(superuser: &Client, file: &Path) -> Result<String, EmbeddedError> {
    let known = match fs::read_to_string(file) {
        Ok(text) => Some(text.trim().to_owned()).filter(|password| is_password(password)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(EmbeddedError::at(file)(error)),
    };
    let exists = superuser
        .query_opt(
            "SELECT FROM pg_catalog.pg_authid WHERE rolname = 'mb_admin' AND rolpassword IS NOT NULL",
            &[],
        )
        .await
        .map_err(EmbeddedError::Admin)?
        .is_some();
    if exists && let Some(password) = known {
        // A cluster of an earlier version lacks this one.
        superuser.batch_execute(BACKUP).await.map_err(EmbeddedError::Admin)?;
        return Ok(password);
    }
    // Kept when only the role is gone: another command may have read it already.
    let password = match known {
        Some(password) => password,
        None => random(32)?,
    };
    let verifier = scram_verifier(&Secret::new(&password))?;
    superuser.batch_execute(&statements(&verifier)).await.map_err(EmbeddedError::Admin)?;
    superuser.batch_execute(BACKUP).await.map_err(EmbeddedError::Admin)?;
    write(file, &format!("{password}\n"), &User::current()?)?;
    Ok(password)
}

/// One message, and so one transaction. It holds the verifier only: whatever the server logs, the password is not in it.
fn statements(verifier: &str) -> String {
    format!(
        "DO $$ BEGIN
             IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{NAME}') THEN
                 CREATE ROLE {NAME};
             END IF;
         END $$;
         ALTER ROLE {NAME} LOGIN CREATEDB CREATEROLE NOSUPERUSER NOREPLICATION NOBYPASSRLS PASSWORD {};
         GRANT pg_signal_backend TO {NAME};
         REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
         GRANT CONNECT, TEMPORARY ON DATABASE postgres TO {NAME};",
        literal(verifier)
    )
}

/// What [`random`] makes, so that it can stand between quotes and in a URL as it is.
fn is_password(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
