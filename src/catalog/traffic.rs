//! Traffic in the catalog: what routers report of tenants' requests, and what a rollout reads of it.

use std::collections::HashMap;
use std::time::Duration;

use time::OffsetDateTime;

use super::{Catalog, CatalogError, Reader};
use crate::telemetry::TenantTraffic;
use crate::tenant::TenantId;

/// How often each router reports. A request is in the first report after it was answered, and stands at its time.
pub const TRAFFIC_REPORT: Duration = Duration::from_secs(5);

/// What was reported of some tenants over a time.
#[derive(Debug, Clone, Default)]
pub struct FleetTraffic {
    /// By tenant, over all routers; a tenant without requests has no entry.
    pub tenants: HashMap<TenantId, TenantTraffic>,
    /// The routers that live now: those with a session in the catalog, and those that reported in the last half minute, for
    /// one may just have lost its session.
    pub routers: Vec<RouterReport>,
}

/// A router that lives, and when it reported last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterReport {
    /// The name of its leases.
    pub router: String,
    /// By the catalog's clock; `None` when it has not reported in two hours, or never.
    pub reported: Option<OffsetDateTime>,
}

impl FleetTraffic {
    /// The routers that live and have not reported since `at`: of their requests until then nothing is known. No such
    /// router and no traffic means that there were no requests.
    pub fn silent_since(&self, at: OffsetDateTime) -> impl Iterator<Item = &str> {
        let silent = move |report: &&RouterReport| report.reported.is_none_or(|reported| reported < at);
        self.routers.iter().filter(silent).map(|report| report.router.as_str())
    }
}

impl Reader {
    /// Reports what `router` counted since its last report, all of it or nothing. An empty report tells that there
    /// were no requests.
    ///
    /// # Errors
    /// When the catalog can't be reached, or was made by an older manybox.
    pub async fn report_traffic(
        &self,
        router: &str,
        counted: &[(TenantId, TenantTraffic)],
    ) -> Result<(), CatalogError> {
        let number = |count: u64| i32::try_from(count).unwrap_or(i32::MAX);
        let (mut tenants, mut requests, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        let (mut lowest, mut lengths, mut latencies) = (Vec::<i16>::new(), Vec::<i16>::new(), Vec::new());
        for (tenant, traffic) in counted {
            let Some((first, buckets)) = traffic.latencies.used() else { continue };
            tenants.push(tenant.as_str());
            requests.push(number(traffic.requests()));
            errors.push(number(traffic.errors));
            // There are far fewer buckets.
            lowest.push(i16::try_from(first).unwrap_or(i16::MAX));
            lengths.push(i16::try_from(buckets.len()).unwrap_or(i16::MAX));
            latencies.extend(buckets.iter().copied().map(number));
        }
        self.sessions
            .execute(
                "SELECT catalog.report_traffic($1, $2, $3, $4, $5, $6, $7)",
                &[&router, &tenants, &requests, &errors, &lowest, &lengths, &latencies],
            )
            .await?;
        Ok(())
    }
}

impl Catalog {
    /// What routers reported of these tenants' requests after `from` and until `to`, by the catalog's clock, and which
    /// routers there are. Reports are kept for two hours, and none outlives a crash of the catalog's server.
    ///
    /// A report stands at its own time, and tells of the [`TRAFFIC_REPORT`] before it; so whoever wants to know about
    /// all until `to` asks again until nobody is [silent](FleetTraffic::silent_since) since then.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn traffic(
        &self,
        tenants: &[TenantId],
        from: OffsetDateTime,
        to: OffsetDateTime,
    ) -> Result<FleetTraffic, CatalogError> {
        // The routers first: what they had reported by then is there when the rows are read.
        let sql = "SELECT router, r.at
                   FROM (SELECT name AS router, true AS lives FROM catalog.router
                         WHERE catalog.is_alive(catalog.router_lock(name))) l
                   FULL JOIN catalog.traffic_report r USING (router)
                   WHERE lives OR r.at > now() - interval '30 seconds' ORDER BY router";
        let mut traffic = FleetTraffic::default();
        for row in self.sessions.query(sql, &[]).await? {
            traffic.routers.push(RouterReport { router: row.try_get(0)?, reported: row.try_get(1)? });
        }
        let sql = "SELECT tenant, errors, lowest, latencies FROM catalog.traffic
                   WHERE tenant = ANY ($1) AND at > $2 AND at <= $3";
        let ids: Vec<_> = tenants.iter().map(TenantId::as_str).collect();
        for row in self.sessions.query(sql, &[&ids, &from, &to]).await? {
            let id: TenantId = row.try_get::<_, &str>(0)?.parse()?;
            let (errors, lowest): (i32, i16) = (row.try_get(1)?, row.try_get(2)?);
            let counts: Vec<i32> = row.try_get(3)?;
            let of_tenant = traffic.tenants.entry(id).or_default();
            of_tenant.errors += u64::try_from(errors).unwrap_or(0);
            let buckets = (usize::try_from(lowest).unwrap_or(0)..).zip(counts);
            for (bucket, count) in buckets {
                of_tenant.latencies.add(bucket, u64::try_from(count).unwrap_or(0));
            }
        }
        Ok(traffic)
    }
}
