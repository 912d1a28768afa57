//! What tenants cost that nobody asks for: memory, and the look for the right one.

use std::time::{Duration, Instant};

use manybox::directory::{Directory, RequestUrl};
use manybox::policy::{Api, Limits, Overrides};
use manybox::tenant::{Lineage, Origin, Record, Sealed, State, Tenant};
use tokio::time::sleep;

use crate::load::{Client, get};
use crate::report::Scenario;
use crate::setting::Setting;
use crate::{Done, Failure, Scale};

const MEGABYTE: f64 = 1024.0 * 1024.0;

/// The router's memory after every tenant has been asked once, and its connections have been closed again: all of it,
/// and what each tenant added.
pub(crate) async fn process(setting: &mut Setting, scale: Scale) -> Done<Vec<Scenario>> {
    // Fewer connections than tenants that warm it up, so that their memory is the same before and after.
    let budget = "[tiers.standard]\nidle_timeout = '1s'\n[servers.main.budget]\nmax_connections = 60\n";
    let router = setting.serve(budget).await?;
    let mut client = Client::connect(&router.http).await?;
    let mut ask = async |tenant: usize| match client.get(&format!("/t{tenant}/items?id=eq.1")).await? {
        (200, ..) => Ok(()),
        (status, ..) => Err(Failure::from(format!("size-process: {status}"))),
    };
    // The first loads the schema, which belongs to all; the others fill what does not grow with the number of tenants:
    // as many connections as are open at a time, the allocator's pages.
    let warm = scale.touched / 3;
    for tenant in 0..warm {
        ask(tenant).await?;
    }
    let before = router.resident()?;
    for tenant in warm..scale.touched {
        ask(tenant).await?;
    }
    let touched = router.resident()?;
    sleep(Duration::from_secs(3)).await;
    let (_, metrics) = get(&router.admin, "/metrics").await?;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    let reads = metrics.lines().find_map(|line| line.strip_prefix("manybox_schema_reads_total "));
    if reads != Some("0") {
        return Err(format!("size-process: schemas were read {reads:?} times").into());
    }
    let after = router.resident()?;
    let each = (touched.max(after) - before).max(0.0) / (scale.touched - warm) as f64 / 1024.0;
    Ok(vec![
        Scenario::new("size-process", "MB", after / MEGABYTE, 60.0)
            .at_most(1.0)
            .detail("tenants touched", scale.touched)
            .detail("MB after a third of them", before / MEGABYTE),
        Scenario::new("size-touched", "KB", each, 20.0)
            .at_most(1.0)
            .detail("tenants", scale.touched - warm)
            .detail("schemas read", 0),
    ])
}

/// The router's memory by tenant that is only a row of the catalog.
pub(crate) async fn tenant(setting: &mut Setting, scale: Scale) -> Done<Scenario> {
    let few = {
        let router = setting.serve("").await?;
        sleep(Duration::from_millis(500)).await;
        router.resident()?
    };
    let catalog = setting.superuser("manybox_catalog").await?;
    catalog
        .batch_execute(&format!(
            "SET session_replication_role = replica;
             INSERT INTO catalog.tenant (id, slug, state, tier, server, edition, version, key, unsettled)
             SELECT lpad(n::text, 16, '0'), 'row' || n, 'active', 'standard', 'main', 'bench', 1, 1, false
             FROM generate_series(1, {0}) n;
             INSERT INTO catalog.base_url (host, prefix, url, tenant, templated)
             SELECT 'row' || n || '.localhost', '', 'http://row' || n || '.localhost', lpad(n::text, 16, '0'), true
             FROM generate_series(1, {0}) n
             UNION ALL
             SELECT '127.0.0.1', '/row' || n, 'http://127.0.0.1/row' || n, lpad(n::text, 16, '0'), true
             FROM generate_series(1, {0}) n",
            scale.rows
        ))
        .await?;
    let many = {
        let router = setting.serve("").await?;
        sleep(Duration::from_millis(500)).await;
        router.resident()?
    };
    catalog
        .batch_execute(
            "SET session_replication_role = replica;
             DELETE FROM catalog.base_url WHERE tenant LIKE '0%'; DELETE FROM catalog.tenant WHERE slug LIKE 'row%'",
        )
        .await?;
    Ok(Scenario::new("size-tenant", "KB", (many - few) / f64::from(scale.rows) / 1024.0, 10.0)
        .at_most(1.0)
        .detail("tenants", scale.rows)
        .detail("MB", many / MEGABYTE)
        .detail("MB with few", few / MEGABYTE))
}

/// The time to find the tenant of a base URL, among 100,000 and among 10.
pub(crate) fn resolve() -> Done<Scenario> {
    let (few, many) = (one_resolve(10)?, one_resolve(100_000)?);
    Ok(Scenario::new("resolve", "ns", many, few).at_most(2.0))
}

fn one_resolve(tenants: usize) -> Done<f64> {
    let directory = Directory::default();
    for number in 0..tenants {
        let record = Record {
            id: format!("{number:0>16}").parse()?,
            slug: format!("t{number}").parse()?,
            state: State::Active,
            tier: "standard".into(),
            server: "main".into(),
            generation: 1,
            key: 1,
            origin: Origin::Lineage(Lineage { edition: "bench".into(), version: 1, history: String::new() }),
            sealed: Sealed::new(),
            reloads: 0,
            base_urls: vec![
                format!("http://t{number}.example.com").parse()?,
                format!("http://shared.example.com/t{number}").parse()?,
            ],
            overrides: Overrides::default(),
        };
        directory.put(Tenant::new(record, Limits::default(), Api::default()));
    }
    const LOOKS: usize = 400_000;
    let hosts: Vec<_> = (0..10).map(|n| format!("t{}.example.com", n * tenants / 10)).collect();
    let paths: Vec<_> = (0..10).map(|n| format!("/t{}/items", n * tenants / 10)).collect();
    let begun = Instant::now();
    for look in 0..LOOKS {
        let asked = if look % 2 == 0 {
            RequestUrl {
                hosts: vec![hosts[look / 2 % 10].as_bytes()],
                path: "/items",
                ..RequestUrl::default()
            }
        } else {
            RequestUrl {
                hosts: vec![b"shared.example.com"],
                path: &paths[look / 2 % 10],
                ..RequestUrl::default()
            }
        };
        std::hint::black_box(directory.resolve(&asked)).map_err(|e| format!("{e:?}"))?;
    }
    Ok(begun.elapsed().as_nanos() as f64 / LOOKS as f64)
}
