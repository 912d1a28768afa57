//! Traffic: what routers report of tenants' requests to the catalog, which a rollout looks at.

use std::time::Duration;

use manybox::catalog::{CatalogError, FleetTraffic, Reader};
use manybox::pg::Connection;
use manybox::telemetry::TenantTraffic;
use manybox::tenant::TenantId;
use reqwest::Method;
use time::OffsetDateTime;

use crate::support::{TestFleet, eventually};

/// The admin, in the catalog.
async fn inside(fleet: &TestFleet) -> Connection {
    let server = fleet.fleet.servers.get("main").unwrap();
    server.connect_admin_to(&fleet.fleet.settings.catalog.database).await.unwrap()
}

fn reader(fleet: &TestFleet) -> Reader {
    let endpoint = fleet.fleet.servers.get("main").unwrap().endpoint.clone();
    Reader::new(endpoint, fleet.fleet.keys.clone(), fleet.fleet.settings.catalog.database.clone())
}

async fn traffic(fleet: &TestFleet, ids: &[TenantId], from: OffsetDateTime) -> FleetTraffic {
    fleet.fleet.catalog.traffic(ids, from, from + time::Duration::hours(1)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_requests_came_to_is_in_the_catalog_within_seconds() {
    let mut fleet = TestFleet::builder().tenants(&["acme", "globex", "initech"]).build().await;
    let functions = "CREATE FUNCTION goes_wrong() RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = 'PT500'; END $$;
        CREATE FUNCTION naps() RETURNS void LANGUAGE sql AS $$ SELECT pg_sleep(0.3) $$;
        GRANT EXECUTE ON FUNCTION goes_wrong, naps TO anon";
    fleet.owner("globex").await.batch_execute(functions).await.unwrap();
    let mut ids = Vec::new();
    for slug in ["acme", "globex", "initech"] {
        ids.push(fleet.row(slug).await.record.id);
    }
    let start: OffsetDateTime = inside(&fleet).await.query_one("SELECT now()", &[]).await.unwrap().get(0);
    fleet.start_router().await;
    for _ in 0..7 {
        assert_eq!(fleet.get("/acme/items").await.status, 200);
    }
    assert_eq!(fleet.get("/acme/nothing").await.status, 404);
    for _ in 0..3 {
        assert_eq!(fleet.send(Method::POST, "/globex/rpc/goes_wrong", None, "", "").await.status, 500);
    }
    for _ in 0..2 {
        assert_eq!(fleet.send(Method::POST, "/globex/rpc/naps", None, "", "").await.status, 204);
    }
    let answered = OffsetDateTime::now_utc();
    eventually("all of it is reported", || async {
        let seen = traffic(&fleet, &ids, start).await;
        let count = |id| seen.tenants.get(id).map_or(0, TenantTraffic::requests);
        seen.silent_since(answered).next().is_none() && (count(&ids[0]), count(&ids[1])) == (8, 5)
    })
    .await;
    let seen = traffic(&fleet, &ids, start).await;
    assert_eq!((seen.tenants[&ids[0]].errors, seen.tenants[&ids[1]].errors), (0, 3));
    assert!(!seen.tenants.contains_key(&ids[2]), "no requests, no row");
    let p99 = seen.tenants[&ids[1]].latencies.quantile(0.99).unwrap();
    assert!(p99 >= Duration::from_millis(300), "{p99:?}");
    assert!(traffic(&fleet, &ids[2..], start).await.tenants.is_empty(), "of those that were asked for");

    // One that reports nothing is told from one without requests.
    let [router] = seen.routers.as_slice() else { panic!("{:?}", seen.routers) };
    assert_eq!(seen.silent_since(start).count(), 0);
    fleet.app.as_ref().unwrap().abort();
    let now = OffsetDateTime::now_utc() + time::Duration::seconds(1);
    let silent = traffic(&fleet, &ids, start).await;
    assert_eq!(silent.silent_since(now).collect::<Vec<_>>(), [router.router.as_str()]);
    fleet.app.as_ref().unwrap().stop().await;
    assert_eq!(traffic(&fleet, &ids, start).await.routers, [], "it left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_tenant_is_one_row_of_each_report() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).serve().await;
    let admin = inside(&fleet).await;
    let (acme, globex) = (fleet.row("acme").await.record.id, fleet.row("globex").await.record.id);
    for at in 0..400 {
        // Paths, hosts and tokens that are all different.
        let path = format!("/acme/nothing{at}?a=eq.{at}");
        fleet.get_as(&format!("token{at}"), &path).await;
        fleet.get(&format!("/nobody{at}/items")).await;
        if at % 100 == 0 {
            fleet.get("/globex/items").await;
        }
    }
    let start = OffsetDateTime::now_utc() - time::Duration::minutes(5);
    eventually("both are reported", || async {
        let seen = traffic(&fleet, &[acme.clone(), globex.clone()], start).await.tenants;
        let count = |id| seen.get(id).map_or(0, TenantTraffic::requests);
        (count(&acme), count(&globex)) == (400, 4)
    })
    .await;
    let sql = "SELECT count(*), count(DISTINCT (tenant, at)), count(DISTINCT tenant), max(pg_column_size(latencies))
               FROM catalog.traffic";
    let row = admin.query_one(sql, &[]).await.unwrap();
    let (rows, reports, tenants, size): (i64, i64, i64, i32) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    assert!(rows == reports && tenants == 2 && size < 200, "{rows} {reports} {tenants} {size}");
}

#[tokio::test]
async fn a_router_reports_in_bounds_and_what_is_old_is_deleted() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let (admin, reader) = (inside(&fleet).await, reader(&fleet));
    let id = fleet.row("acme").await.record.id;
    let mut counted = TenantTraffic { errors: 1, ..TenantTraffic::default() };
    counted.latencies.add(3, 2);
    counted.latencies.add(9, 5);
    // Of a tenant that the catalog doesn't have, nothing is kept.
    let unknown = TenantId::random().unwrap();
    reader.report_traffic("one", &[(unknown, counted), (id.clone(), counted)]).await.unwrap();
    reader.report_traffic("two", &[(id.clone(), counted)]).await.unwrap();
    reader.report_traffic("three", &[]).await.unwrap();
    let start = OffsetDateTime::now_utc() - time::Duration::minutes(5);
    let seen = traffic(&fleet, std::slice::from_ref(&id), start).await;
    let mut twice = counted;
    twice.errors = 2;
    twice.latencies.merge(&counted.latencies);
    assert_eq!(seen.tenants.into_iter().collect::<Vec<_>>(), [(id.clone(), twice)]);
    let routers: Vec<_> = seen.routers.iter().map(|report| report.router.as_str()).collect();
    assert_eq!(routers, ["one", "three", "two"], "who reports lives");
    let count = async |of: &str| -> i64 {
        admin.query_one(&format!("SELECT count(*) FROM catalog.{of}"), &[]).await.unwrap().get(0)
    };
    assert_eq!((count("traffic").await, count("traffic_report").await), (2, 3));

    let many: Vec<_> = (0..20_001).map(|_| (TenantId::random().unwrap(), counted)).collect();
    let refused = reader.report_traffic("one", &many).await;
    assert!(
        matches!(&refused, Err(CatalogError::Server(error)) if error.to_string().contains("20000")),
        "{refused:?}"
    );
    reader.report_traffic(&"long".repeat(30), &[]).await.unwrap_err();

    admin
        .batch_execute(
            "UPDATE catalog.traffic SET at = at - interval '3 hours' WHERE router = 'one';
             UPDATE catalog.traffic_report SET at = at - interval '3 hours' WHERE router <> 'two'",
        )
        .await
        .unwrap();
    reader.report_traffic("two", &[]).await.unwrap();
    assert_eq!((count("traffic").await, count("traffic_report").await), (1, 1));
}

#[tokio::test]
async fn a_router_may_report_and_write_nothing_else() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let admin = inside(&fleet).await;
    let router = format!("{}_router", fleet.fleet.settings.catalog.database);
    let sql = "SELECT has_table_privilege($1, t, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
               FROM unnest('{catalog.traffic,catalog.traffic_report}'::text[]) t";
    for row in admin.query(sql, &[&router]).await.unwrap() {
        assert!(!row.get::<_, bool>(0));
    }
    let sql =
        "SELECT has_function_privilege('public', oid, 'EXECUTE'), has_function_privilege($1, oid, 'EXECUTE')
               FROM pg_proc WHERE proname = 'report_traffic'";
    let row = admin.query_one(sql, &[&router]).await.unwrap();
    assert_eq!((row.get::<_, bool>(0), row.get::<_, bool>(1)), (false, true));
}
