//! Listing: a hundred thousand tenants a page at a time, and what the whole fleet comes to.

use manybox::catalog::{Listing, Order, Page, Trouble};
use manybox::tenant::{State, TenantId};

use crate::support::TestFleet;

/// The most that a page of a large fleet may cost the catalog's server, in its own units of reading: a page's tenants and
/// their base URLs, not the fleet's.
const MOST_BUFFERS: i64 = 2_000;

fn slugs(page: &Page) -> Vec<String> {
    page.tenants.iter().map(|row| row.record.slug.to_string()).collect()
}

async fn page(fleet: &TestFleet, listing: Listing, most: usize) -> Page {
    fleet.fleet.catalog.tenants_page(&listing, most).await.unwrap()
}

/// All pages of a list.
async fn all(fleet: &TestFleet, mut listing: Listing, most: usize) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        let page = page(fleet, listing.clone(), most).await;
        found.extend(slugs(&page));
        let Some(next) = page.next else { return found };
        listing.after = Some(next.to_string().parse().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_fleet_is_listed_page_by_page_and_found_by_parts_of_names() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let admin = fleet.admin_of_catalog().await;
    let copies = "
        ALTER TABLE catalog.tenant DISABLE TRIGGER USER; ALTER TABLE catalog.base_url DISABLE TRIGGER USER;
        INSERT INTO catalog.tenant (id, slug, state, unsettled, tier, server, edition, version, key, created_at, failure, quarantined, labels)
        SELECT substr(md5(n::text) || md5(n::text || 'x'), 1, length(t.id)), 't-' || lpad(n::text, 6, '0'),
               CASE n % 50 WHEN 1 THEN 'suspended' WHEN 2 THEN 'retired' ELSE 'active' END, false, t.tier,
               CASE n % 3 WHEN 0 THEN 'second' ELSE t.server END, t.edition, n % 4, t.key, t.created_at - n * interval '1 second',
               CASE WHEN n % 10000 = 7 THEN 'it failed' END, CASE WHEN n % 20000 = 7 THEN now() END,
               CASE n % 1000 WHEN 0 THEN '{\"ring\": \"canary\"}'::jsonb ELSE '{}' END
        FROM catalog.tenant t, generate_series(1, 20000) n WHERE t.slug = 'acme';
        INSERT INTO catalog.base_url (host, prefix, url, tenant, templated)
        SELECT slug || '.example', '', 'https://' || slug || '.example', id, true FROM catalog.tenant WHERE slug LIKE 't-%';
        ANALYZE catalog.tenant; ANALYZE catalog.base_url";
    admin.batch_execute(copies).await.unwrap();

    let begin = Listing::default();
    let first = page(&fleet, begin.clone(), 50).await;
    assert_eq!((slugs(&first).len(), slugs(&first)[0].as_str()), (50, "acme"));
    let second = page(&fleet, Listing { after: first.next.clone(), ..begin.clone() }, 50).await;
    assert_eq!(slugs(&second)[0], "t-000050");
    // Every one once, whatever the order, also where many have the same key.
    for order in Order::ALL {
        let mut found = all(&fleet, Listing { order, ..begin.clone() }, 500).await;
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 20_001, "{order:?}");
    }
    let newest = Listing { order: Order::Newest, ..begin.clone() };
    assert_eq!(slugs(&page(&fleet, newest, 3).await), ["acme", "t-000001", "t-000002"]);
    // A place in another list begins anew.
    let foreign = Listing { order: Order::Version, after: first.next.clone(), ..begin.clone() };
    assert_eq!(page(&fleet, foreign, 1).await.tenants.len(), 1);

    let search = |text: &str| Listing { search: Some(text.into()), ..begin.clone() };
    assert_eq!(all(&fleet, search("T-0123 "), 40).await.len(), 100);
    assert_eq!(all(&fleet, search("t-012345.EXAMPLE"), 40).await, ["t-012345"]);
    assert_eq!(all(&fleet, search("%"), 40).await, [""; 0], "it is text, not a pattern");
    assert_eq!(all(&fleet, search("' OR true --"), 40).await, [""; 0]);
    let state = Listing { state: Some(State::Suspended), server: Some("second".into()), ..begin.clone() };
    assert_eq!(all(&fleet, state, 500).await.len(), 133);
    let labels = [("ring".to_owned(), "canary".to_owned())].into();
    assert_eq!(all(&fleet, Listing { labels, ..begin.clone() }, 500).await.len(), 20);
    let trouble = Listing { trouble: Some(Trouble::Quarantined), ..begin.clone() };
    assert_eq!(all(&fleet, trouble, 500).await, ["t-000007"]);

    let groups = fleet.fleet.catalog.groups().await.unwrap();
    let sum = |of: fn(&manybox::catalog::Group) -> u64| groups.iter().map(of).sum::<u64>();
    assert_eq!((sum(|g| g.tenants), sum(|g| g.failed), sum(|g| g.quarantined)), (20_001, 2, 1));
    let suspended = groups.iter().filter(|g| g.state == State::Suspended).map(|g| g.tenants).sum::<u64>();
    assert_eq!(suspended, 400);

    // A page in the middle of the fleet reads that page, not the fleet.
    let sql = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT t.id FROM catalog.tenant t
        WHERE t.state <> 'purged' AND (t.slug, t.id) > ('t-010000', '') ORDER BY t.slug, t.id LIMIT 51";
    let plan: serde_json::Value = admin.query_one(sql, &[]).await.unwrap().get(0);
    let read = plan[0]["Plan"]["Shared Hit Blocks"].as_i64().unwrap()
        + plan[0]["Plan"]["Shared Read Blocks"].as_i64().unwrap();
    assert!(read < MOST_BUFFERS, "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn minutes_add_up_what_routers_report() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build().await;
    let admin = fleet.admin_of_catalog().await;
    let ids = [fleet.row("acme").await.record.id, fleet.row("globex").await.record.id];
    // Two tenants: 3 requests in buckets 2 and 4, and 5 in bucket 4; then 1 in bucket 0, of which one failed.
    let report = "SELECT catalog.report_traffic($1, $2, $3, $4, $5, $6, $7)";
    let of = |id: &TenantId| id.to_string();
    let (two, one) = (vec![of(&ids[0]), of(&ids[1])], vec![of(&ids[1])]);
    let first: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&two, &vec![3, 5], &vec![0, 0], &vec![2_i16, 4], &vec![3_i16, 1], &vec![1, 0, 2, 5]];
    let second: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&one, &vec![1], &vec![1], &vec![0_i16], &vec![1_i16], &vec![1]];
    for (router, values) in [("one", first), ("one", second), ("two", second)] {
        let mut parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = vec![&router];
        parameters.extend(values);
        admin.execute(report, &parameters).await.unwrap();
    }
    let nothing: Vec<String> = Vec::new();
    let (ints, shorts) = (Vec::<i32>::new(), Vec::<i16>::new());
    admin.execute(report, &[&"idle", &nothing, &ints, &ints, &shorts, &shorts, &ints]).await.unwrap();

    let catalog = &fleet.fleet.catalog;
    let minutes = catalog.traffic_of_fleet(5).await.unwrap();
    let count = |minutes: &[manybox::catalog::Minute]| {
        let requests = minutes.iter().map(|minute| minute.traffic.requests()).sum::<u64>();
        (requests, minutes.iter().map(|minute| minute.traffic.errors).sum::<u64>())
    };
    assert_eq!(count(&minutes), (10, 2));
    let mut all = manybox::telemetry::Latencies::default();
    minutes.iter().for_each(|minute| all.merge(&minute.traffic.latencies));
    assert_eq!(all.used(), Some((0, &[2, 0, 1, 0, 7][..])));
    assert_eq!(count(&catalog.traffic_of_tenant(&ids[0], 5).await.unwrap()), (3, 0));
    assert_eq!(count(&catalog.traffic_of_tenant(&ids[1], 5).await.unwrap()), (7, 2));
    let busiest = catalog.busiest(5).await.unwrap();
    assert_eq!(busiest.iter().map(|busy| busy.slug.as_str()).collect::<Vec<_>>(), ["globex", "acme"]);
}
