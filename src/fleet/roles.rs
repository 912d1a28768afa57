//! Roles: the names of those that manybox makes, and which of them own what in which database.

use crate::migrate::Roles;
use crate::pg::Ident;

/// The role that owns schemas and objects in tenants' databases. NOLOGIN, and CONNECT nowhere.
pub const OWNER: &str = "mb_owner";
/// The role that owns the schema `manybox` in tenants' databases. NOLOGIN; only the admin is a member.
pub const HISTORY: &str = "mb_history";
/// The role whose members are the migrators of single databases: it may write their histories and become [`OWNER`].
/// NOLOGIN, and CONNECT nowhere.
pub const MIGRATORS: &str = "mb_migrator";

/// The role that reads whole databases, past row-level security. NOLOGIN; only the admin may make others members, and does so
/// with logins of single databases, for the time of a dump.
pub const BACKUP: &str = "mb_backup";

/// The login that migrates this database, a tenant's, a template or a scratch copy, and can connect to no other.
/// NOLOGIN while nobody migrates.
pub fn migrator_of(database: &str) -> String {
    format!("mb_m_{}", database.strip_prefix("mb_").unwrap_or(database))
}

/// How the names of operators' logins for this database begin; each ends with what is its own.
pub(super) fn operators_of(database: &str) -> String {
    format!("mb_p_{}_", database.strip_prefix("mb_").unwrap_or(database))
}

/// The role that owns everything in the catalog of this name. NOLOGIN.
pub fn catalog_owner(catalog: &str) -> String {
    format!("{catalog}_owner")
}

/// The login that migrates the catalog of this name. NOLOGIN while nobody does.
pub fn catalog_migrator(catalog: &str) -> String {
    format!("{catalog}_migrator")
}

/// The role that owns the journal in the catalog of this name, so that the journal is only appended to. NOLOGIN; the admin is a
/// member while `init` gives it what is its own, and nobody otherwise.
pub(super) fn catalog_journal(catalog: &str) -> String {
    format!("{catalog}_journal")
}

/// Whose what is in a tenant's database, a template or a scratch copy.
pub(super) fn of_tenants() -> Roles {
    Roles { owner: OWNER.into(), history: HISTORY.into(), writer: MIGRATORS.into(), others: Vec::new() }
}

/// The same for a session of the admin, which may become the history's owner and not its writer.
pub(super) fn of_tenants_for_admin() -> Roles {
    Roles { writer: HISTORY.into(), ..of_tenants() }
}

/// Whose what is in the catalog. No tenant's code runs there, so one role is enough, but for the journal.
pub(super) fn of_catalog(catalog: &str) -> Roles {
    Roles { others: vec![catalog_journal(catalog)], ..Roles::all(&catalog_owner(catalog)) }
}

/// The statements that make a migrator's login, which may become what `group` may and has no right of its own.
pub(super) fn migrator(login: &str, group: &str, there: bool) -> String {
    let (verb, login, group) = (if there { "ALTER" } else { "CREATE" }, Ident::new(login), Ident::new(group));
    format!("{verb} ROLE {login} NOLOGIN NOINHERIT PASSWORD NULL; GRANT {group} TO {login};")
}
