//! The journal's own role: `init` gives it the journal's schema and all in it, so that no login of manybox's can do more than
//! append.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::catalog::OF_JOURNAL;
use crate::fleet::roles::{catalog_journal, catalog_owner};
use crate::fleet::server::version;
use crate::fleet::{Doing, FleetError, FleetServer};
use crate::pg::Ident;

/// The statements that give another owner, $1, to the schema and to what in it has not got that one. Sequences and indexes go
/// with their tables.
const GIVE: &str = "
SELECT pg_catalog.format('ALTER SCHEMA journal OWNER TO %I', $1::text)
FROM pg_catalog.pg_namespace n WHERE n.nspname = 'journal' AND pg_catalog.pg_get_userbyid(n.nspowner) <> $1
UNION ALL
SELECT pg_catalog.format('ALTER TABLE %s OWNER TO %I', c.oid::pg_catalog.regclass, $1::text)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'journal' AND c.relkind = 'r' AND pg_catalog.pg_get_userbyid(c.relowner) <> $1
UNION ALL
SELECT pg_catalog.format('ALTER FUNCTION %s OWNER TO %I', p.oid::pg_catalog.regprocedure, $1::text)
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'journal' AND pg_catalog.pg_get_userbyid(p.proowner) <> $1";

/// Gives the journal to its own role, which the admin leaves in the same transaction, and its readers what they need.
///
/// # Errors
/// When the server refuses. Where a superuser keeps the role from the admin, the error says what to run.
pub(super) async fn hand_over(
    server: &FleetServer,
    inside: &Client,
    catalog: &str,
) -> Result<(), FleetError> {
    let (owner, journal) = (Ident::new(catalog_owner(catalog)), catalog_journal(catalog));
    let rights = format!(
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA journal FROM PUBLIC;
         GRANT USAGE ON SCHEMA journal TO {owner};
         GRANT SELECT ON ALL TABLES IN SCHEMA journal TO {owner};
         GRANT SELECT ON ALL SEQUENCES IN SCHEMA journal TO {owner};
         GRANT INSERT (tenant, action, detail, outcome) ON journal.line TO {owner};
         GRANT EXECUTE ON FUNCTION journal.form, journal.seal_lines TO {owner};"
    );
    give(server, inside, &journal, &journal, &rights).await
}

/// Takes it back for migrations that alter it. In between, whoever owns the catalog owns the journal, as everybody did before it
/// had a role of its own.
///
/// # Errors
/// As [`hand_over`].
pub(super) async fn take_back(
    server: &FleetServer,
    inside: &Client,
    catalog: &str,
) -> Result<(), FleetError> {
    let looking = || "looking at the catalog's version".to_owned();
    let there = inside.query_one("SELECT pg_catalog.to_regnamespace('journal') IS NOT NULL", &[]).await;
    if !there.and_then(|row| row.try_get::<_, bool>(0)).doing(looking)? {
        return Ok(());
    }
    let newest = OF_JOURNAL.iter().max().copied().unwrap_or(0);
    let made = inside.query_opt("SELECT FROM catalog.made WHERE migration >= $1", &[&newest]).await;
    if made.doing(looking)?.is_none() {
        let (owner, journal) = (catalog_owner(catalog), catalog_journal(catalog));
        give(server, inside, &owner, &journal, "").await?;
    }
    Ok(())
}

/// Gives what is not there yet to this owner and runs `rights`, as a member of the journal's role, in one transaction. No
/// membership outlives it.
async fn give(
    server: &FleetServer,
    inside: &Client,
    to: &str,
    journal: &str,
    rights: &str,
) -> Result<(), FleetError> {
    let admin = &server.admin()?.user;
    let looking = || "looking whose the journal is".to_owned();
    let statements = inside.query(GIVE, &[&to]).await.doing(looking)?;
    let statements: Vec<String> =
        statements.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().doing(looking)?;
    let is_member = "SELECT pg_catalog.pg_has_role($1::name, $2::name, 'USAGE')
                            AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = $1)";
    let is_member = inside.query_one(is_member, &[&admin, &journal]).await.and_then(|row| row.try_get(0));
    let is_member: bool = is_member.doing(looking)?;
    if statements.is_empty() && !is_member {
        return Ok(());
    }
    let (major, _) = version(inside, server.endpoint.name()).await?;
    let (admin, role) = (Ident::new(admin), Ident::new(journal));
    // 16 and later: whoever creates a role administers it but neither inherits from it nor may become it.
    let options = if major >= 16 { " WITH SET TRUE, INHERIT TRUE" } else { "" };
    let sql = format!(
        "BEGIN; GRANT {role} TO {admin}{options}; {}; {rights} REVOKE {role} FROM {admin}; COMMIT",
        statements.join("; ")
    );
    match inside.batch_execute(&sql).await {
        Ok(()) => Ok(()),
        Err(error) => {
            // Its own outcome adds nothing: where it fails the session is over.
            let _ = inside.batch_execute("ROLLBACK").await;
            if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
                return Err(FleetError::Settings(format!(
                    "the journal can't be given to {role}: {error}; as a superuser: GRANT {role} TO {admin} WITH ADMIN OPTION; \
                     then run `manybox init` again, and after it: REVOKE {role} FROM {admin}"
                )));
            }
            Err(error).doing(|| format!("giving the journal to {role}"))
        }
    }
}
