//! Router: the login that `serve` has on every server, and the functions by which it ends tenants' sessions there and
//! measures their databases.
//!
//! A tenant's code can ignore a request to cancel for as long as it likes. What it can't ignore is to be terminated, for
//! which PostgreSQL wants the session's own role, or `pg_signal_backend`, which reaches every login of the server. So the
//! right is the admin's, and a function lends it for one session at a time, of a login that is a tenant's. It stands in a
//! database of its own, into which nobody else may connect: no tenant's code runs there, or can keep the router out.

use tokio_postgres::Client;

use super::server::{FleetServer, role_exists, run};
use super::{Doing, Fleet, FleetError, database};
use crate::catalog::{Catalog, Filter};
use crate::pg::{self, Ident, literal};
use crate::tenant::{Record, State};
use crate::vault::KeyRing;

/// Ends a session of a login that manybox made, in its own database, or of one that is listed as an adopted tenant's.
///
/// The role of the session and its database are compared, because a process's number may have passed on to another.
const END_SESSION: &str = r"
    CREATE TABLE IF NOT EXISTS public.adopted (database text PRIMARY KEY, login text NOT NULL);
    CREATE OR REPLACE FUNCTION public.end_session(process int, login text, database text) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT pg_stat_clear_snapshot();
        SELECT coalesce(bool_or(pg_terminate_backend(pid)), false) FROM pg_stat_activity
        WHERE pid = $1 AND usename = $2 AND datname = $3
          AND (($3 = $2 AND $2 ~ '^mb_[0-9a-z]{16}$')
               OR EXISTS (SELECT FROM public.adopted a JOIN pg_roles r ON r.rolname = a.login
                          WHERE a.database = $3 AND a.login = $2 AND NOT r.rolsuper))
    $$;
    REVOKE ALL ON TABLE public.adopted FROM PUBLIC;
    REVOKE ALL ON FUNCTION public.end_session FROM PUBLIC";

/// Ends sessions of tenants that want a lock on what all databases share, of a mode that nobody's data needs and that keeps
/// everybody waiting; gives their logins, and whether each was told to end.
///
/// PostgreSQL takes some locks before it looks whether they are allowed: a `CREATE RULE` on `pg_database`, an `ALTER
/// DATABASE … RENAME` of another's. While that waits for somebody who reads there, every login of the server waits behind
/// it. Nothing that a tenant or a migration may do wants such a lock, but for a COMMIT behind a NOTIFY, which has one on no
/// database at all. An adopted login may own databases and drop them, so of
/// its locks those on tables count only.
const END_BLOCKERS: &str = r"
    CREATE OR REPLACE FUNCTION public.end_blockers(OUT login text, OUT ended boolean) RETURNS SETOF record
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        SELECT pg_stat_clear_snapshot();
        WITH blocker AS MATERIALIZED (
            SELECT pid, bool_or(locktype = 'relation') AS of_a_table FROM pg_locks
            WHERE database = 0 AND (locktype = 'relation' OR locktype = 'object' AND objid <> 0)
              AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
            GROUP BY pid)
        SELECT a.usename::text, pg_terminate_backend(a.pid) FROM blocker b JOIN pg_stat_activity a USING (pid)
        WHERE a.usename ~ '^mb_([0-9a-z]{16}|m_(t_)?[0-9a-z]{16}|p_(t_)?[0-9a-z]{16}_.*)$'
           OR b.of_a_table AND EXISTS (
               SELECT FROM public.adopted d JOIN pg_roles r ON r.rolname = d.login
               WHERE d.database = a.datname AND d.login = a.usename AND NOT r.rolsuper)
    $$;
    REVOKE ALL ON FUNCTION public.end_blockers FROM PUBLIC";

/// How large databases are, with the time that each took to measure: one after the other in the order of the names, until
/// `patience` is over. Those that are gone, or not the admin's to look at, are left out.
///
/// `pg_database_size` wants CONNECT on the database, which the admin has on its own and the router on none.
const DATABASE_SIZES: &str = r"
    CREATE OR REPLACE FUNCTION public.database_sizes(
        names text[], patience interval, OUT database text, OUT bytes int8, OUT took float8
    ) RETURNS SETOF record
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        begun   timestamptz := clock_timestamp();
        started timestamptz;
        each    record;
    BEGIN
        FOR each IN
            SELECT d.oid, d.datname FROM unnest(names) WITH ORDINALITY AS n (name, place)
            JOIN pg_database d ON d.datname = n.name ORDER BY n.place
        LOOP
            started := clock_timestamp();
            EXIT WHEN started - begun > patience;
            BEGIN
                bytes := pg_database_size(each.oid);
                -- Its files are gone: a drop of it was cut off.
                CONTINUE WHEN bytes IS NULL;
                database := each.datname;
                took := extract(epoch FROM clock_timestamp() - started);
                RETURN NEXT;
            EXCEPTION WHEN insufficient_privilege OR invalid_catalog_name OR undefined_object THEN
                CONTINUE;
            END;
        END LOOP;
    END $$;
    REVOKE ALL ON FUNCTION public.database_sizes FROM PUBLIC";

/// The name of the router's login, and of the database from which it ends sessions.
pub(super) fn login_of(catalog: &str) -> String {
    format!("{catalog}_router")
}

/// Makes the router's login on a server, and the database from which it ends sessions. Run again, it changes nothing but
/// the password.
pub(super) async fn prepare(
    server: &FleetServer,
    client: &Client,
    keys: &KeyRing,
    catalog: &str,
) -> Result<(), FleetError> {
    set_password(client, keys, catalog).await?;
    // It has the login's name, as a tenant's database has its login's.
    let name = keys.newest().router_login(catalog).user;
    if !database::exists(client, &name).await? {
        database::create_closed(client, &name, "template0").await?;
    }
    let ident = Ident::new(&name);
    let rights =
        format!("REVOKE ALL ON DATABASE {ident} FROM PUBLIC; GRANT CONNECT ON DATABASE {ident} TO {ident}");
    run(client, &rights).await?;
    // A REVOKE without the right only warns.
    let is_open: bool = client
        .query_one("SELECT pg_catalog.has_database_privilege('public', $1, 'CONNECT')", &[&name])
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| format!("looking at database `{name}`"))?;
    if is_open {
        return Err(FleetError::Settings(format!(
            "every login can connect to database `{name}`; does the admin own it?"
        )));
    }
    run(client, &format!("ALTER DATABASE {ident} ALLOW_CONNECTIONS true")).await?;
    let inside = server.connect_admin_to(&name).await?;
    run(&inside, END_SESSION).await?;
    run(&inside, END_BLOCKERS).await?;
    run(&inside, DATABASE_SIZES).await?;
    let lent = "public.end_session, public.end_blockers, public.database_sizes";
    run(&inside, &format!("GRANT EXECUTE ON FUNCTION {lent} TO {ident}")).await
}

/// Refuses master keys of which the router's password on this server was not made: all that derives from them would be
/// another's. `database` is one that the router may connect to there.
pub(super) async fn refuse_wrong_key(
    server: &FleetServer,
    keys: &KeyRing,
    catalog: &str,
    database: &str,
) -> Result<(), FleetError> {
    let logins = keys.router_logins(catalog);
    for login in std::iter::once(&logins.newest).chain(&logins.older) {
        match pg::connect(&server.endpoint, login, database).await {
            Ok(session) => {
                session.close().await;
                return Ok(());
            }
            Err(error) if pg::is_refused_login(error.code()) => {}
            Err(source) => {
                return Err(FleetError::Server { doing: "trying the master key".into(), source });
            }
        }
    }
    Err(keys.refused().into())
}

/// Gives the router's login the password of the newest master key.
pub(super) async fn set_password(client: &Client, keys: &KeyRing, catalog: &str) -> Result<(), FleetError> {
    let router = keys.newest().router_login(catalog);
    let verifier = router.verifier()?;
    let verb = if role_exists(client, &router.user).await? { "ALTER" } else { "CREATE" };
    run(
        client,
        &format!("{verb} ROLE {} LOGIN NOINHERIT PASSWORD {}", Ident::new(&router.user), literal(&verifier)),
    )
    .await
}

/// Lists the sessions of this adopted tenant's login, in its database, as ones that the router may end; not any more if
/// the tenant is gone.
///
/// # Errors
/// When the server refuses, or was not prepared.
pub(super) async fn list_adopted(
    server: &FleetServer,
    router: &str,
    tenant: &Record,
) -> Result<(), FleetError> {
    let doing = || format!("listing the sessions that `{router}` may end");
    let inside = server.connect_admin_to(router).await?;
    if matches!(tenant.state, State::Purging | State::Purged) {
        let sql = "DELETE FROM public.adopted WHERE database = $1";
        return inside.execute(sql, &[&tenant.database()]).await.map(drop).doing(doing);
    }
    let sql = "INSERT INTO public.adopted (database, login) VALUES ($1, $2)
               ON CONFLICT (database) DO UPDATE SET login = excluded.login";
    inside.execute(sql, &[&tenant.database(), &tenant.login_role()]).await.map(drop).doing(doing)
}

/// The adopted databases of this server whose sessions the router may end, each with its tenant's login.
pub(super) async fn adopted(
    server: &FleetServer,
    client: &Client,
    router: &str,
) -> Result<Vec<(String, String)>, FleetError> {
    if !database::exists(client, router).await? {
        return Ok(Vec::new());
    }
    let reading = || format!("reading which sessions `{router}` may end");
    let inside = server.connect_admin_to(router).await?;
    let there = inside.query_one("SELECT pg_catalog.to_regclass('public.adopted') IS NOT NULL", &[]).await;
    if !there.and_then(|row| row.try_get::<_, bool>(0)).doing(reading)? {
        return Ok(Vec::new());
    }
    // One that became a tenant of an edition has another name since.
    let sql = "SELECT a.database, a.login FROM public.adopted a JOIN pg_catalog.pg_database d ON d.datname = a.database ORDER BY 1";
    let rows = inside.query(sql, &[]).await.doing(reading)?;
    inside.close().await;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, tokio_postgres::Error>>()
        .doing(reading)
}

/// Lists those of every adopted tenant on this server.
pub(super) async fn list_all_adopted(
    catalog: &Catalog,
    server: &FleetServer,
    router: &str,
) -> Result<(), FleetError> {
    for row in catalog.tenants(&Filter::default()).await? {
        if row.record.is_adopted() && row.record.server == server.endpoint.name() {
            list_adopted(server, router, &row.record).await?;
        }
    }
    Ok(())
}

impl Fleet {
    /// [`list_adopted`], or a warning where that can't be done.
    pub(super) async fn let_router_end(&self, tenant: &Record) -> Option<String> {
        let listed = async {
            let router = self.keys.newest().router_login(&self.settings.catalog.database).user;
            list_adopted(self.servers.get(&tenant.server)?, &router, tenant).await
        };
        listed.await.err().map(|error| {
            format!(
                "sessions of this tenant that ignore a request to cancel will not be ended: {error}; run `manybox init` \
                 with an admin's login of server `{}`",
                tenant.server
            )
        })
    }
}
