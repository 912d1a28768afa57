//! The catalog's sessions: few, shared by calls side by side, and replaced when they break.

use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use manybox::catalog::{Catalog, CatalogError, Filter, Reader};
use manybox::pg::{self, Connection, Endpoint, Waits};
use tokio::net::TcpListener;

use crate::support::proxy::{Fault, Proxy, Side};
use crate::support::{TestFleet, eventually};

/// The process ids of this role's sessions in the fleet's catalog.
async fn sessions(fleet: &TestFleet, admin: &Connection, role: &str) -> Vec<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND usename = $2";
    let rows = admin.query(sql, &[&fleet.fleet.settings.catalog.database, &role]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn terminate(admin: &Connection, pids: &[i32]) {
    assert!(!pids.is_empty());
    admin.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", &[&pids]).await.unwrap();
}

fn server(fleet: &TestFleet) -> &manybox::fleet::FleetServer {
    fleet.fleet.servers.get("main").unwrap()
}

/// The catalog of a command of its own.
async fn open(fleet: &TestFleet, waits: Waits) -> Catalog {
    let server = server(fleet);
    let database = &fleet.fleet.settings.catalog.database;
    Catalog::open(&server.endpoint, server.admin().unwrap(), database, waits).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_outlives_its_sessions() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let (catalog, id) = (&fleet.fleet.catalog, fleet.row("acme").await.record.id);
    let admin = server(&fleet).connect_admin().await.unwrap();
    let role = &server(&fleet).admin().unwrap().user;

    terminate(&admin, &sessions(&fleet, &admin, role).await).await;
    assert_eq!(catalog.tenants(&Filter::default()).await.unwrap().len(), 1);
    terminate(&admin, &sessions(&fleet, &admin, role).await).await;
    catalog.tenant_reload(&id).await.unwrap();

    assert_eq!(fleet.row("acme").await.record.reloads, 1);
    let reloads =
        catalog.journal(&id, 20).await.unwrap().into_iter().filter(|entry| entry.action == "reload");
    assert_eq!(reloads.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_side_by_side_share_two_sessions() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build().await;
    let (acme, globex) = (fleet.row("acme").await.record.id, fleet.row("globex").await.record.id);
    let catalog = &fleet.fleet.catalog;
    // The same hosts in opposite order, each of which is locked while a base URL of it is written.
    let urls = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap());
    let here = urls(["http://one.example/acme", "http://two.example/acme"]);
    let there = urls(["http://two.example/globex", "http://one.example/globex"]);
    let calls = join_all((0..200).map(|call| {
        let (acme, globex, here, there) = (&acme, &globex, &here, &there);
        async move {
            match call % 4 {
                0 => catalog.tenant_reload(acme).await,
                1 => catalog.base_urls_replace(acme, here, false).await,
                2 => catalog.base_urls_replace(globex, there, false).await,
                _ => catalog.tenants(&Filter::default()).await.map(drop),
            }
        }
    }));
    let admin = server(&fleet).connect_admin().await.unwrap();
    let role = &server(&fleet).admin().unwrap().user;
    let referee = async {
        loop {
            let open = sessions(&fleet, &admin, role).await.len();
            assert!((1..=2).contains(&open), "{open} sessions");
        }
    };
    let (calls, referee) = (Box::pin(calls), Box::pin(referee));
    let Either::Left((outcomes, _)) = select(calls, referee).await;
    outcomes.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(fleet.row("acme").await.record.reloads, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_all_sessions_in_use_is_told_so() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build().await;
    let (acme, globex) = (fleet.row("acme").await.record.id, fleet.row("globex").await.record.id);
    let catalog = open(&fleet, Waits { free: Duration::from_millis(50), ..Waits::default() }).await;
    let database = &fleet.fleet.settings.catalog.database;
    let holder = server(&fleet).connect_admin_to(database).await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE catalog.clock").await.unwrap();

    let changes = async { tokio::join!(catalog.tenant_reload(&acme), catalog.tenant_reload(&globex)) };
    let third = async {
        eventually("both changes wait for a lock", || async {
            let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
            holder.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 2
        })
        .await;
        let error = catalog.tenant(&acme).await.unwrap_err();
        holder.batch_execute("COMMIT").await.unwrap();
        error
    };
    let ((first, second), error) = tokio::join!(changes, third);
    first.and(second).unwrap();
    assert!(matches!(error, CatalogError::Server(pg::Error::Busy { most: 2, .. })), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!(
            "catalog: all 2 sessions in database `{database}` of server `main` were in use for 50ms; see there in \
             pg_stat_activity and pg_locks what they wait for"
        )
    );
    assert_eq!(catalog.tenant(&acme).await.unwrap().unwrap().record.reloads, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_not_waited_for_without_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://admin:secret@{}/postgres", listener.local_addr().unwrap());
    let (endpoint, login) = Endpoint::parse("mute", &url, None).unwrap();
    let waits = Waits { login: Duration::from_millis(50), ..Waits::default() };
    let error = Catalog::open(&endpoint, &login.unwrap(), "catalog", waits).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "catalog: server `mute` did not finish a login within 50ms; is it overloaded, does its session wait for a lock in \
         the database (pg_locks), or does something else listen there?"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_went_silent_is_replaced() {
    let proxy = Proxy::start().await;
    let fleet = TestFleet::builder().tenants(&["acme"]).build_on(&proxy.admin_url().await).await;
    let catalog = open(&fleet, Waits { alive: Duration::from_millis(50), ..Waits::default() }).await;
    proxy.watch(&fleet.fleet.settings.catalog.database);
    proxy.arm(Side::Server, 0, Fault::Stall);
    assert_eq!(catalog.tenants(&Filter::default()).await.unwrap().len(), 1);
    assert!(proxy.has_struck());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_listens_on_when_its_other_session_breaks() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let id = fleet.row("acme").await.record.id;
    let database = &fleet.fleet.settings.catalog.database;
    let role = fleet.fleet.keys.router_logins(database).newest.user;
    let admin = server(&fleet).connect_admin().await.unwrap();
    let reader = Reader::new(
        server(&fleet).endpoint.clone(),
        std::sync::Arc::clone(&fleet.fleet.keys),
        database.as_str(),
    );
    let mut feed = reader.open().await.unwrap();
    let listening = sessions(&fleet, &admin, &role).await;
    assert_eq!(listening.len(), 1);

    assert_eq!(feed.load_all().await.unwrap().len(), 1);
    let mut other = sessions(&fleet, &admin, &role).await;
    other.retain(|pid| !listening.contains(pid));
    assert_eq!(other.len(), 1);
    terminate(&admin, &other).await;
    assert!(feed.load(&id).await.unwrap().is_some());

    fleet.fleet.catalog.tenant_reload(&id).await.unwrap();
    assert_eq!(feed.next().await, Some(id));
    assert_eq!(sessions(&fleet, &admin, &role).await.len(), 2);
}
