//! The pool: whatever happens to a request, the next one gets a clean connection, and nothing is left behind.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use manybox::pg::Connection;
use manybox::pg::wire::{Query, StatementKey};
use manybox::pool::{Budget, Checkout, End, Error, Pools, Wait, end_batch};
use manybox::tenant::Tenant;

use crate::support::{TestFleet, eventually, one};

async fn fleet() -> (TestFleet, Pools, Arc<Tenant>) {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let pools = fleet.pools(Budget::default());
    let tenant = fleet.tenant("acme").await;
    (fleet, pools, tenant)
}

/// The same tenant with other limits.
fn limited(tenant: &Tenant, change: impl FnOnce(&mut manybox::policy::Limits)) -> Arc<Tenant> {
    let mut tenant = tenant.clone();
    change(&mut tenant.limits);
    Arc::new(tenant)
}

async fn backend(checkout: &mut Checkout) -> i32 {
    one(checkout, "SELECT pg_backend_pid()").await
}

/// Whether the backend with this pid has exited.
async fn is_gone(admin: &Connection, pid: i32) -> bool {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
    admin.query_one(sql, &[&pid]).await.unwrap().get::<_, i64>(0) == 0
}

/// What one request could leave for the next.
async fn traces(checkout: &mut Checkout) -> String {
    let sql = "SELECT concat_ws(' ', current_user = session_user, current_setting('role'), \
               current_setting('work_mem'), coalesce(current_setting('my.trace', true), ''), \
               current_setting('statement_timeout'), \
               (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
               (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_cursors WHERE name <> ''))";
    one(checkout, sql).await
}

#[tokio::test]
async fn a_request_dropped_at_any_point_leaves_nothing() {
    let (fleet, pools, tenant) = fleet().await;
    let admin = fleet.admin("acme").await;
    for dropped in ["before BEGIN's answer", "between statements", "mid-query"] {
        let mut checkout = pools.checkout(&tenant).await.unwrap();
        let pid = backend(&mut checkout).await;
        let clean = traces(&mut checkout).await;
        let request = async {
            let wire = checkout.wire();
            let begin = wire.run("BEGIN; SELECT set_config('role', 'anon', true)");
            if dropped == "before BEGIN's answer" {
                tokio::select! { biased; _ = begin => unreachable!(), () = async {} => return }
            }
            begin.await.unwrap();
            if dropped == "mid-query" {
                let sleep = checkout.wire().run("SELECT pg_sleep(60)");
                let _ = tokio::time::timeout(Duration::from_millis(100), sleep).await;
            }
        };
        request.await;
        drop(checkout);
        let mut next = pools.checkout(&tenant).await.unwrap();
        assert_ne!(backend(&mut next).await, pid, "{dropped}");
        assert_eq!(traces(&mut next).await, clean, "{dropped}");
        next.wire().run(&end_batch(End::Rollback)).await.unwrap();
        next.clean();
        eventually(dropped, || is_gone(&admin, pid)).await;
    }
}

#[tokio::test]
async fn what_a_function_leaves_in_the_session_is_gone() {
    let (fleet, pools, tenant) = fleet().await;
    let owner = fleet.owner("acme").await;
    owner
        .batch_execute(
            "CREATE FUNCTION public.leave_traces() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
               PERFORM set_config('work_mem', '9MB', false), set_config('my.trace', 'seen', false),
                 set_config('statement_timeout', '0', false), pg_advisory_lock(42);
               EXECUTE 'LISTEN gossip';
               EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT 1';
               PERFORM set_config('role', 'service', false);
             END $$;
             GRANT EXECUTE ON FUNCTION public.leave_traces() TO anon",
        )
        .await
        .unwrap();
    let mut checkout = pools.checkout(&tenant).await.unwrap();
    let (pid, clean) = (backend(&mut checkout).await, traces(&mut checkout).await);
    for end in [End::Commit, End::Rollback] {
        checkout.wire().run("BEGIN; SET LOCAL ROLE anon; SELECT public.leave_traces()").await.unwrap();
        checkout.wire().run(&end_batch(end)).await.unwrap();
        assert_eq!(traces(&mut checkout).await, clean, "{end:?}");
    }
    // Without the reset it would have been seen.
    checkout.wire().run("BEGIN; SET LOCAL ROLE anon; SELECT public.leave_traces(); COMMIT").await.unwrap();
    assert_ne!(traces(&mut checkout).await, clean);
    checkout.wire().run(&end_batch(End::None)).await.unwrap();
    assert_eq!(traces(&mut checkout).await, clean);
    checkout.clean();
    let mut next = pools.checkout(&tenant).await.unwrap();
    assert_eq!(backend(&mut next).await, pid);
    // A notification that arrives for a session that no longer listens troubles nobody.
    fleet.admin("acme").await.batch_execute("NOTIFY gossip").await.unwrap();
    assert_eq!(traces(&mut next).await, clean);
    next.clean();
}

#[tokio::test]
async fn a_login_that_gave_itself_a_default_role_gains_nothing() {
    let (_fleet, pools, tenant) = fleet().await;
    let mut checkout = pools.checkout(&tenant).await.unwrap();
    let login = tenant.id.database();
    let alter = format!(
        "BEGIN READ WRITE; ALTER ROLE {login} SET role = 'service'; ALTER ROLE {login} SET statement_timeout = 0; COMMIT"
    );
    checkout.wire().run(&alter).await.unwrap();
    let clean = traces(&mut checkout).await;
    checkout.clean();
    pools.drain(&tenant.id);
    let mut next = pools.checkout(&tenant).await.unwrap();
    assert_eq!(traces(&mut next).await, clean);
    next.wire().run(&end_batch(End::Rollback)).await.unwrap();
    assert_eq!(traces(&mut next).await, clean);
    next.clean();
}

#[tokio::test]
async fn a_full_pool_makes_wait_and_says_how_long() {
    let (_fleet, pools, tenant) = fleet().await;
    let tenant = limited(&tenant, |limits| {
        limits.max_connections = 2;
        limits.acquire_timeout = Duration::from_millis(200);
    });
    let mut first = pools.checkout(&tenant).await.unwrap();
    let second = pools.checkout(&tenant).await.unwrap();
    let start = Instant::now();
    let refused = pools.checkout(&tenant).await.err().unwrap();
    assert!(matches!(refused, Error::Wait { wait: Wait::Tenant, .. }), "{refused}");
    assert!((200..1000).contains(&start.elapsed().as_millis()));
    // A waiter that gives up takes nothing along, and one that waits gets what comes back.
    let impatient = tokio::time::timeout(Duration::from_millis(20), pools.checkout(&tenant)).await;
    assert!(impatient.is_err());
    let pid = backend(&mut first).await;
    let (waited, ()) = tokio::join!(pools.checkout(&tenant), async {
        tokio::task::yield_now().await;
        first.clean();
    });
    let mut waited = waited.unwrap();
    assert_eq!(backend(&mut waited).await, pid);
    waited.clean();
    second.clean();
    let status = pools.status();
    assert_eq!((status.len(), status[0].open, status[0].idle, status[0].waiting), (1, 2, 2, 0));
}

#[tokio::test]
async fn hanging_up_on_slow_queries_piles_up_no_backends() {
    let (fleet, pools, tenant) = fleet().await;
    let tenant = limited(&tenant, |limits| limits.max_connections = 2);
    let admin = fleet.admin("acme").await;
    for _ in 0..20 {
        let mut checkout = pools.checkout(&tenant).await.unwrap();
        let sleep = checkout.wire().run("SELECT pg_sleep(60)");
        let _ = tokio::time::timeout(Duration::from_millis(10), sleep).await;
        drop(checkout);
        let sql = "SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid)
                   WHERE usename = $1 AND locktype = 'virtualxid'";
        let active: i64 = admin.query_one(sql, &[&tenant.id.database()]).await.unwrap().get(0);
        assert!(active <= 2, "{active}");
    }
}

#[tokio::test]
async fn draining_closes_idle_connections_now_and_others_on_return() {
    let (fleet, pools, tenant) = fleet().await;
    let admin = fleet.admin("acme").await;
    let (mut idle, mut busy) =
        (pools.checkout(&tenant).await.unwrap(), pools.checkout(&tenant).await.unwrap());
    let (idle_pid, busy_pid) = (backend(&mut idle).await, backend(&mut busy).await);
    idle.clean();
    pools.drain(&tenant.id);
    eventually("the idle one is closed", || is_gone(&admin, idle_pid)).await;
    assert_eq!(backend(&mut busy).await, busy_pid);
    busy.clean();
    eventually("the busy one is closed", || is_gone(&admin, busy_pid)).await;
    pools.checkout(&tenant).await.unwrap().clean();
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_not_handed_out() {
    let (fleet, pools, tenant) = fleet().await;
    let mut checkout = pools.checkout(&tenant).await.unwrap();
    let pid = backend(&mut checkout).await;
    checkout.clean();
    let admin = fleet.admin("acme").await;
    admin.execute("SELECT pg_terminate_backend($1, 5000)", &[&pid]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut next = pools.checkout(&tenant).await.unwrap();
    assert_ne!(backend(&mut next).await, pid);
    next.clean();
}

#[tokio::test]
async fn a_fenced_tenant_is_reported() {
    let (fleet, pools, tenant) = fleet().await;
    let mut refused = pools.refused();
    let admin = fleet.admin("acme").await;
    admin.batch_execute(&format!("ALTER ROLE {} NOLOGIN", tenant.id.database())).await.unwrap();
    let error = pools.checkout(&tenant).await.err().unwrap();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_eq!(refused.try_recv().unwrap(), tenant.id);
    admin
        .batch_execute(&format!("ALTER ROLE {} LOGIN CONNECTION LIMIT 1", tenant.id.database()))
        .await
        .unwrap();
    pools.drain(&tenant.id);
    let tenant = limited(&tenant, |limits| limits.acquire_timeout = Duration::from_millis(300));
    let only = pools.checkout(&tenant).await.unwrap();
    let error = pools.checkout(&tenant).await.err().unwrap();
    assert!(matches!(error, Error::Wait { wait: Wait::Full, .. }), "{error}");
    // Back-pressure and no more: whoever waits gets what comes back.
    let (waited, ()) = tokio::join!(pools.checkout(&tenant), async {
        tokio::task::yield_now().await;
        only.clean();
    });
    waited.unwrap().clean();
}

#[tokio::test]
async fn a_server_that_is_silent_or_unknown_fails_fast() {
    let (fleet, _, tenant) = fleet().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://{}/postgres", silent.local_addr().unwrap());
    let endpoint = manybox::pg::Endpoint::parse("main", &url, None).unwrap().0;
    let servers = HashMap::from([("main".to_owned(), (endpoint, Budget::default()))]);
    let pools = Pools::new(servers, Arc::clone(&fleet.fleet.keys));
    let tenant = limited(&tenant, |limits| limits.acquire_timeout = Duration::from_millis(200));
    let start = Instant::now();
    let error = pools.checkout(&tenant).await.err().unwrap();
    assert!(matches!(error, Error::Wait { wait: Wait::Connect, .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2));
    drop(silent);
    let (_, address) = url.rsplit_once("//").unwrap();
    let refusing = manybox::pg::Endpoint::parse("main", &format!("postgres://{address}"), None).unwrap().0;
    let servers = HashMap::from([("main".to_owned(), (refusing, Budget::default()))]);
    let error = Pools::new(servers, Arc::clone(&fleet.fleet.keys)).checkout(&tenant).await.err().unwrap();
    assert!(matches!(error, Error::Server { .. }), "{error}");
    let error =
        Pools::new(HashMap::new(), Arc::clone(&fleet.fleet.keys)).checkout(&tenant).await.err().unwrap();
    assert!(matches!(error, Error::Connect(_)), "{error}");
}

#[tokio::test]
async fn idle_connections_are_reaped_and_statements_stay_with_theirs() {
    let (fleet, pools, tenant) = fleet().await;
    let tenant = limited(&tenant, |limits| limits.idle_timeout = Duration::from_secs(2));
    let key = StatementKey::new("anon", "public", "SELECT 1");
    let mut checkout = pools.checkout(&tenant).await.unwrap();
    let pid = backend(&mut checkout).await;
    let names = "SELECT count(*) FROM pg_prepared_statements";
    let query = Query { sql: "SELECT 1", types: &[], key: Some(&key), parameters: &[] };
    checkout.wire().rows(&query, 1000).await.unwrap();
    checkout.clean();
    let mut checkout = pools.checkout(&tenant).await.unwrap();
    checkout.wire().rows(&query, 1000).await.unwrap();
    assert_eq!(one::<i64>(&mut checkout, names).await, 1);
    let mut other = pools.checkout(&tenant).await.unwrap();
    assert_eq!(one::<i64>(&mut other, names).await, 0);
    checkout.wire().forget(&key);
    assert_eq!(one::<i64>(&mut checkout, names).await, 0);
    other.clean();
    checkout.clean();
    let admin = fleet.admin("acme").await;
    eventually("reaped", || is_gone(&admin, pid)).await;
    eventually("no pool left", || async { pools.status().is_empty() }).await;
}

#[tokio::test]
async fn closing_says_good_bye_to_all() {
    let (fleet, pools, tenant) = fleet().await;
    let mut checkout = pools.checkout(&tenant).await.unwrap();
    let pid = backend(&mut checkout).await;
    checkout.clean();
    let start = Instant::now();
    pools.close().await;
    assert!(start.elapsed() < Duration::from_secs(1));
    let admin = fleet.admin("acme").await;
    eventually("closed", || is_gone(&admin, pid)).await;
    let error = pools.checkout(&tenant).await.err().unwrap();
    assert!(matches!(error, Error::Server { .. }), "{error}");
}

#[test]
fn a_checkout_may_outlive_its_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (_fleet, pools, checkout) = runtime.block_on(async {
        let (fleet, pools, tenant) = fleet().await;
        let checkout = pools.checkout(&tenant).await.unwrap();
        (fleet, pools, checkout)
    });
    runtime.shutdown_background();
    drop(checkout);
    assert_eq!(pools.status().iter().map(|pool| pool.open).sum::<u32>(), 0);
}
