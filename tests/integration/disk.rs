//! Disk: how large tenants are is known to operators and routers, and a quota holds against what a tenant's own code can do.

use reqwest::Method;
use serde_json::Value;

use crate::support::{TestFleet, eventually};

/// Rows of some megabytes, by the owner.
async fn grow(fleet: &TestFleet, slug: &str, megabytes: u32) {
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS ballast (of text);
         INSERT INTO ballast SELECT repeat('x', 1000) FROM generate_series(1, {})",
        megabytes * 1000
    );
    fleet.owner(slug).await.batch_execute(&sql).await.unwrap();
}

#[tokio::test]
async fn a_database_over_its_quota_takes_deletes_and_reads() {
    let fleet = Box::pin(TestFleet::builder().tenants(&["a", "b"]).serve()).await;
    let owner = fleet.owner("a").await;
    // What a hostile owner would hide its writes in.
    owner
        .batch_execute(
            "CREATE FUNCTION fill(n int) RETURNS int LANGUAGE sql SECURITY DEFINER AS $$
                 INSERT INTO items (name, price) SELECT 'f' || i, 1 FROM generate_series(1, n) i RETURNING 1 $$;
             CREATE FUNCTION calm() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM set_config('transaction_read_only', 'off', true);
                 INSERT INTO items (name) VALUES ('calm'); RETURN 1; END $$;
             CREATE FUNCTION total() RETURNS int8 LANGUAGE sql AS 'SELECT count(*) FROM items';
             GRANT EXECUTE ON FUNCTION fill, calm, total TO service;",
        )
        .await
        .unwrap();
    drop(owner);
    let service = fleet.token("a", serde_json::json!({ "role": "service" })).await;
    let send =
        async |method, path: &str, body: &str| fleet.send(method, path, Some(&service), "", body).await;
    let insert = async || send(Method::POST, "/a/items", r#"{"name": "one", "price": 1}"#).await;
    assert_eq!(insert().await.status, 201);
    let (code, out, error) = fleet.run(&["tenant", "list", "--size", "--json"]).await;
    assert_eq!(code, 0, "{error}");
    let listed: Value = serde_json::from_str(&out).unwrap();
    let bytes = listed[0]["database_bytes"].as_u64().unwrap();
    assert!(bytes > 5_000_000 && listed[0]["max_database_size"].is_null(), "{out}");

    let most = format!("max_database_size={}MB", bytes / 1_000_000 + 2);
    let (code, _, error) = fleet.run(&["tenant", "set", "a", &most]).await;
    assert_eq!(code, 0, "{error}");
    grow(&fleet, "a", 8).await;
    eventually("the router has measured", || async { insert().await.code() == "MBX119" }).await;
    let refused = insert().await;
    assert_eq!(refused.status, 507, "{}", refused.text);
    assert_eq!(send(Method::PATCH, "/a/items?name=eq.one", r#"{"price": 2}"#).await.code(), "MBX119");
    assert_eq!(send(Method::POST, "/a/rpc/fill", r#"{"n": 10}"#).await.code(), "MBX119");
    assert_ne!(send(Method::POST, "/a/rpc/calm", "{}").await.status, 200);
    let total = send(Method::POST, "/a/rpc/total", "{}").await;
    assert_eq!((total.status.as_u16(), total.text.as_str()), (200, "1"), "a function that reads");
    assert_eq!(send(Method::GET, "/a/items?select=name", "").await.text, r#"[{"name":"one"}]"#);
    assert_eq!(send(Method::DELETE, "/a/items?name=eq.one", "").await.status, 204);
    // Nobody else is concerned.
    let other = fleet.token("b", serde_json::json!({ "role": "service" })).await;
    let added =
        fleet.send(Method::POST, "/b/items", Some(&other), "", r#"{"name": "two", "price": 1}"#).await;
    assert_eq!(added.status, 201, "{}", added.text);
    // More room, and at once.
    let (code, _, error) = fleet.run(&["tenant", "set", "a", "max_database_size=1GB"]).await;
    assert_eq!(code, 0, "{error}");
    eventually("the quota is raised", || async { insert().await.status == 201 }).await;
}

#[tokio::test]
async fn all_databases_are_measured_by_one_router_and_told_to_the_next() {
    let mut fleet = Box::pin(TestFleet::builder().tenants(&["a"]).serve()).await;
    let catalog = fleet.admin_of_catalog().await;
    let sql = "SELECT bytes FROM catalog.database_size";
    eventually("the router has reported", || async { catalog.query_opt(sql, &[]).await.unwrap().is_some() })
        .await;
    // The next router knows it before it has measured anything, and leaves the measuring to the first.
    catalog.batch_execute("UPDATE catalog.database_size SET bytes = 50000000").await.unwrap();
    let (code, _, error) = fleet.run(&["tenant", "set", "a", "max_database_size=40MB"]).await;
    assert_eq!(code, 0, "{error}");
    fleet.start_router().await;
    let app = fleet.app.as_ref().unwrap();
    let tenant = fleet.tenant("a").await;
    eventually("the second router has heard", || async {
        app.pools.disk().sizes() == [(tenant.id.clone(), 50_000_000)]
    })
    .await;
    // A role of the API, or a tenant's login, has no way to ask for others' sizes.
    let router = format!("{}_router", fleet.fleet.settings.catalog.database);
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin_to(&router).await.unwrap();
    let may = "SELECT has_function_privilege($1, 'public.database_sizes(text[], interval)', 'EXECUTE')";
    for role in ["anon", "mb_owner", &tenant.login_role()] {
        assert!(!admin.query_one(may, &[&role]).await.unwrap().get::<_, bool>(0), "{role}");
    }
    // A database that is gone is passed over.
    let sizes = "SELECT count(*) FROM public.database_sizes(ARRAY['no_such', $1, $2], '5 s')";
    let login = tenant.login_role();
    let known: i64 = admin.query_one(sizes, &[&login, &"postgres"]).await.unwrap().get(0);
    assert!(known >= 1);
}
