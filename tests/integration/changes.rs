//! Changes: a tenant's other row ends connections only if a session keeps what changed.

use std::collections::HashMap;
use std::sync::Arc;

use manybox::pg::Connection;
use manybox::pool::{Budget, Pools};
use manybox::tenant::{State, Tenant, Verb};

use crate::support::{TestFleet, eventually};

/// The router's connections to the tenant's database, by the server's word.
async fn backends(admin: &Connection, tenant: &Tenant) -> Vec<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE usename = $1 ORDER BY pid";
    admin.query(sql, &[&tenant.login_role()]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Waits until the router's directory has the tenant like this.
async fn known(fleet: &TestFleet, slug: &str, like: impl Fn(&Tenant) -> bool) {
    let id = fleet.row(slug).await.record.id;
    let directory = &fleet.app.as_ref().unwrap().directory;
    eventually("the router knows", async || directory.get(&id).is_some_and(|tenant| like(&tenant))).await;
}

async fn set(fleet: &TestFleet, setting: &str) {
    let (code, _, error) = fleet.run(&["tenant", "set", "acme", setting]).await;
    assert_eq!(code, 0, "{error}");
}

#[tokio::test]
async fn a_migration_and_limits_of_the_pool_keep_connections() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let (admin, tenant) = (fleet.admin("acme").await, fleet.tenant("acme").await);
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    let warm = backends(&admin, &tenant).await;
    assert_eq!(warm.len(), 1);
    let file = fleet.folder.path().join("migrations/shop/V3__colour.sql");
    std::fs::write(file, "ALTER TABLE items ADD COLUMN colour text;").unwrap();
    let (code, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{error}");
    known(&fleet, "acme", |tenant| tenant.lineage().unwrap().version == 3).await;
    assert_eq!(fleet.get("/acme/items?select=id,colour").await.status, 200);
    assert_eq!(backends(&admin, &tenant).await, warm, "after a migration");
    set(&fleet, "max_connections=2").await;
    set(&fleet, "max_requests_per_second=1000").await;
    set(&fleet, "db_max_rows=7").await;
    known(&fleet, "acme", |tenant| tenant.api.db_max_rows == Some(7)).await;
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    assert_eq!(backends(&admin, &tenant).await, warm, "after other limits");
}

#[tokio::test]
async fn what_a_session_keeps_ends_it() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let (admin, tenant) = (fleet.admin("acme").await, fleet.tenant("acme").await);
    let warm = async || {
        assert_eq!(fleet.get("/acme/items").await.status, 200);
        backends(&admin, &tenant).await
    };
    let gone = async |what: &str, former: Vec<i32>| {
        assert_eq!(former.len(), 1, "{what}");
        eventually(what, async || !backends(&admin, &tenant).await.contains(&former[0])).await;
    };
    let former = warm().await;
    set(&fleet, "statement_timeout=3s").await;
    gone("another statement_timeout", former).await;
    let former = warm().await;
    let (code, _, error) = fleet.run(&["rekey"]).await;
    assert_eq!(code, 0, "{error}");
    gone("another password", former).await;
    let former = warm().await;
    fleet.fleet.carry_out("acme", Verb::Suspend).await.unwrap();
    gone("suspended", former).await;
    known(&fleet, "acme", |tenant| tenant.state == State::Suspended).await;
    let pools = &fleet.app.as_ref().unwrap().pools;
    eventually("the pool knows", async || pools.status().iter().all(|pool| pool.open == 0)).await;
}

#[tokio::test]
async fn another_server_ends_connections_to_the_former() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let (admin, tenant) = (fleet.admin("acme").await, fleet.tenant("acme").await);
    let endpoint = fleet.fleet.servers.endpoints().remove("main").unwrap();
    // Two names of one server: what counts here is whose connection it is.
    let servers = ["main", "other"].map(|name| (name.to_owned(), (endpoint.clone(), Budget::default())));
    let pools = Pools::new(HashMap::from(servers), Arc::clone(&fleet.fleet.keys));
    pools.checkout(&tenant).await.unwrap().clean();
    let former = backends(&admin, &tenant).await;
    let mut record = (**tenant).clone();
    record.server = "other".into();
    let moved = Arc::new(Tenant::new(record, tenant.limits.clone(), tenant.api.clone()));
    pools.update(&moved);
    eventually("the former is closed", async || backends(&admin, &tenant).await.is_empty()).await;
    pools.checkout(&moved).await.unwrap().clean();
    pools.update(&moved);
    let now = backends(&admin, &tenant).await;
    assert!(now.len() == 1 && now != former);
    assert_eq!(pools.status()[0].server, "other");
}
