//! Check: what is verified, each by a code that stays, in words for people who are no engineers.

use serde::Serialize;

/// One thing that must hold, for isolation to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Check {
    /// Stays the same over versions of manybox: programs may compare it.
    pub code: &'static str,
    /// What must hold.
    pub title: &'static str,
    /// How it was looked at.
    pub tried: &'static str,
    /// What it would mean if it did not hold.
    pub risk: &'static str,
}

/// All of them, by code: V0x doors of databases, V1x roles, V2x what is inside a tenant's database, V3x row-level
/// security, V4x a running router.
pub const CHECKS: &[Check] = &[
    Check {
        code: "V00",
        title: "Everything could be looked at",
        tried: "Each database that was chosen was opened and asked within a few seconds.",
        risk: "What could not be looked at is not known to be right.",
    },
    Check {
        code: "V01",
        title: "A login may connect to its own database only",
        tried: "The server was asked about every pair of a login and a database (has_database_privilege).",
        risk: "One customer's credentials would open another customer's database.",
    },
    Check {
        code: "V02",
        title: "No database is open to every login",
        tried: "Each database of the server, manybox's or not, was looked at for rights of PUBLIC.",
        risk: "Every customer's login could connect there, and what PostgreSQL leaves open in it could be read.",
    },
    Check {
        code: "V03",
        title: "Databases belong to the administrator and grant nothing beyond the model",
        tried: "The owner and the access list of each of manybox's databases were read.",
        risk: "Code in a database could let others in, or make objects that outlive it.",
    },
    Check {
        code: "V04",
        title: "Templates and working copies are closed",
        tried: "The templates that new databases are copied from were looked at for whether they take connections.",
        risk: "What is put into a template is copied into every new customer's database.",
    },
    Check {
        code: "V05",
        title: "Logins get in where they should, and nowhere else",
        tried: "Connections were opened with customers' own credentials: to their own database, which must work, and to \
                another's, the catalog, templates and the server's own databases, which must be refused.",
        risk: "The rules on paper and what the server does would differ.",
    },
    Check {
        code: "V06",
        title: "A wrong password is refused",
        tried: "Connections were opened with a customer's login and a random password.",
        risk: "Whoever reaches the server could log in as any customer.",
    },
    Check {
        code: "V10",
        title: "Roles have no power over the server",
        tried: "Each role's attributes were read: superuser, creating databases or roles, replication, reading past \
                row-level security, logging in where it must not, inheriting rights.",
        risk: "Whoever may become such a role could reach every database of the server.",
    },
    Check {
        code: "V11",
        title: "Roles are members of nothing beyond the model",
        tried: "All memberships of and in manybox's roles were read.",
        risk: "A customer's login could become a role that has other customers' rights.",
    },
    Check {
        code: "V12",
        title: "Logins and API roles own nothing, and logins have no rights of their own",
        tried: "The server's list of who owns or may use which object, over all databases, was read.",
        risk: "Rights that hold without the checks of a request.",
    },
    Check {
        code: "V13",
        title: "Roles have no settings of their own, and databases none by which sessions look up or do other things",
        tried: "The server's list of settings by role and database was read.",
        risk: "One customer's code could change how another's sessions behave, for roles are shared by a server's databases.",
    },
    Check {
        code: "V14",
        title: "Roles that own things can't connect",
        tried: "The server was asked where the roles that own customers' objects, and the API roles, may connect.",
        risk: "Whoever may become such a role would reach all databases where it may connect.",
    },
    Check {
        code: "V15",
        title: "Migrators are closed while nobody migrates",
        tried: "The logins that change databases' structure were looked at for whether they may log in.",
        risk: "A login that owns a customer's objects would stand open.",
    },
    Check {
        code: "V16",
        title: "No right on the server's parameters or disks",
        tried: "The access lists of parameters and tablespaces were read.",
        risk: "One customer's code could change the server's settings or fill its disks.",
    },
    Check {
        code: "V17",
        title: "The administrator that manybox uses is no superuser",
        tried: "The administrator's role was read.",
        risk: "A mistake in an administrative command would have no limit.",
    },
    Check {
        code: "V18",
        title: "The server has the known security fixes",
        tried: "The server's version was compared with the oldest that has the fixes which isolation needs.",
        risk: "Published faults of older versions break row-level security.",
    },
    Check {
        code: "V20",
        title: "PUBLIC has no right on schemas",
        tried: "The access list of each schema was read.",
        risk: "Every role could find, or make, objects there.",
    },
    Check {
        code: "V21",
        title: "PUBLIC may call no function",
        tried: "The access list of each function that no extension brought was read.",
        risk: "Anonymous callers could run it.",
    },
    Check {
        code: "V22",
        title: "PUBLIC has no right on tables, views and sequences",
        tried: "The access lists of tables, their columns, views and sequences were read.",
        risk: "Anonymous callers could read or change what stands there.",
    },
    Check {
        code: "V23",
        title: "API roles may make nothing, and have no right on manybox's own schema",
        tried: "The API roles' rights on each schema were read.",
        risk: "Callers could leave code behind that runs with others' rights.",
    },
    Check {
        code: "V24",
        title: "Functions that run with their owner's rights are safe to call",
        tried: "Each SECURITY DEFINER function was looked at: whose it is, and whether its search path is fixed.",
        risk: "A caller could have it run other code with the owner's, or a superuser's, rights.",
    },
    Check {
        code: "V25",
        title: "Nobody put anything into manybox's own schema",
        tried: "The history's tables were compared with what manybox makes: owners, triggers, rules, policies, columns, \
                rights.",
        risk: "Code there would run with the rights of whoever migrates the database.",
    },
    Check {
        code: "V26",
        title: "Nothing leads to other servers",
        tried: "Foreign servers, user mappings, subscriptions, dblink and the like were looked for.",
        risk: "Data could leave the database, or come from elsewhere, past all other rules.",
    },
    Check {
        code: "V27",
        title: "No untrusted language or extension",
        tried: "Languages, functions and extensions were looked at for those that run outside of PostgreSQL's rules.",
        risk: "Their code does with the server's machine what it likes.",
    },
    Check {
        code: "V28",
        title: "What is made later is open to nobody by itself",
        tried: "The default privileges were read.",
        risk: "A table or function of a later migration would be open without anybody deciding it.",
    },
    Check {
        code: "V29",
        title: "No large objects",
        tried: "Large objects were counted, and the setting that opens them to all was read.",
        risk: "Row-level security does not hold for them.",
    },
    Check {
        code: "V30",
        title: "Row-level security is on, for the tables that the edition names",
        tried: "Each named table was looked at, and its parts: enabled, and forced for its owner too.",
        risk: "Everybody with a right on the table sees all of its rows.",
    },
    Check {
        code: "V31",
        title: "Policies let nobody see rows without claims",
        tried: "Each named table was read as each API role without claims, by the customer's own login; and policies that \
                are always true were looked for.",
        risk: "Anonymous callers, or any token, would see rows that are somebody's own.",
    },
    Check {
        code: "V32",
        title: "No view reads past row-level security",
        tried: "Views and materialized views over the named tables were looked at, and views over these.",
        risk: "Callers would see by the view what the table's policies keep from them.",
    },
    Check {
        code: "V33",
        title: "Functions that claim to be constant don't depend on the caller",
        tried: "IMMUTABLE functions were followed for reading settings or the current role.",
        risk: "PostgreSQL may keep one caller's answer for another.",
    },
    Check {
        code: "V34",
        title: "Everything in a customer's database belongs to the model's owner",
        tried: "The owners of all objects in the database were read.",
        risk: "Code that belongs to somebody else runs with that role's rights.",
    },
    Check {
        code: "V35",
        title: "No event triggers",
        tried: "Event triggers that no extension brought were looked for.",
        risk: "They run in sessions of whoever changes the database's structure, the administrator's too.",
    },
    Check {
        code: "V36",
        title: "The server's files can't be reached from SQL",
        tried: "The rights on PostgreSQL's functions that read and write the server's files were read.",
        risk: "Other customers' data lies in those files.",
    },
    Check {
        code: "V37",
        title: "No function is trusted to keep what it is given to itself",
        tried: "Functions that are marked LEAKPROOF were looked for.",
        risk: "PostgreSQL may run such a function on rows before their policies, and it can tell what it saw.",
    },
    Check {
        code: "V38",
        title: "PostgreSQL's own tables and functions are open to nobody to whom it did not open them",
        tried: "Rights on them were compared with those that PostgreSQL came with.",
        risk: "All customers' passwords' verifiers, or the structure of the database itself, could be read or changed.",
    },
    Check {
        code: "V40",
        title: "Another customer's token is refused",
        tried: "Each customer's base URL was asked with a valid token of another customer.",
        risk: "A token would open what it was not made for.",
    },
    Check {
        code: "V41",
        title: "Another customer's host name does not lead astray",
        tried: "Each customer's path was asked under another customer's host name.",
        risk: "Requests would reach another customer than the address says.",
    },
];

/// The check of this code.
pub fn check(code: &str) -> Option<&'static Check> {
    CHECKS.iter().find(|check| check.code == code)
}
