//! The history of traffic: requests, errors and latencies minute by minute, of the fleet and of one tenant.

use time::OffsetDateTime;
use tokio_postgres::Row;

use super::{Catalog, CatalogError};
use crate::telemetry::TenantTraffic;

/// What was reported in one minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minute {
    /// When it began.
    pub at: OffsetDateTime,
    /// What came to it.
    pub traffic: TenantTraffic,
}

/// A tenant with much traffic of late.
#[derive(Debug, Clone, PartialEq)]
pub struct Busy {
    /// Its slug.
    pub slug: String,
    /// Requests a second.
    pub rate: f64,
    /// Of these, those answered with 5xx.
    pub errors: f64,
}

/// The time that [`Catalog::busiest`] looks back, seconds: three reports of each router.
const OF_LATE: f64 = 15.0;

impl Catalog {
    /// Requests to all tenants in each of the last `minutes`, by the catalog's clock, oldest first. Minutes without a report
    /// are not among them. Six hours are kept.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn traffic_of_fleet(&self, minutes: u32) -> Result<Vec<Minute>, CatalogError> {
        let sql = "SELECT at, errors, 0::int2 AS lowest, latencies FROM catalog.traffic_minute
                   WHERE at > now() - make_interval(mins => $1) ORDER BY at";
        let rows = self.sessions.query(sql, &[&i32::try_from(minutes).unwrap_or(i32::MAX)]).await?;
        by_minute(&rows)
    }

    /// The same of one tenant, from what routers reported in the last two hours.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn traffic_of_tenant(
        &self,
        tenant: &crate::tenant::TenantId,
        minutes: u32,
    ) -> Result<Vec<Minute>, CatalogError> {
        let sql = "SELECT date_trunc('minute', at) AS at, errors::int8, lowest, latencies::int8[] FROM catalog.traffic
                   WHERE tenant = $1 AND at > now() - make_interval(mins => $2) ORDER BY 1";
        let minutes = i32::try_from(minutes).unwrap_or(i32::MAX);
        let rows = self.sessions.query(sql, &[&tenant.as_str(), &minutes]).await?;
        by_minute(&rows)
    }

    /// The tenants with the most requests in the last quarter of a minute.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn busiest(&self, most: i64) -> Result<Vec<Busy>, CatalogError> {
        let sql = "SELECT t.slug, b.requests, b.errors FROM (
                       SELECT tenant, sum(requests) AS requests, sum(errors) AS errors FROM catalog.traffic
                       WHERE at > now() - make_interval(secs => $1)
                       GROUP BY tenant ORDER BY 2 DESC, 1 LIMIT $2) b
                   JOIN catalog.tenant t ON t.id = b.tenant ORDER BY 2 DESC, 1";
        let rows = self.sessions.query(sql, &[&OF_LATE, &most]).await?;
        rows.iter()
            .map(|row| {
                let per_second = |column: usize| row.try_get::<_, i64>(column).map(|n| n as f64 / OF_LATE);
                Ok(Busy { slug: row.try_get(0)?, rate: per_second(1)?, errors: per_second(2)? })
            })
            .collect()
    }
}

/// Adds up rows of the same minute, which follow each other.
fn by_minute(rows: &[Row]) -> Result<Vec<Minute>, CatalogError> {
    let number = |count: i64| u64::try_from(count).unwrap_or(0);
    let mut minutes: Vec<Minute> = Vec::new();
    for row in rows {
        let at = row.try_get("at")?;
        if minutes.last().is_none_or(|minute| minute.at != at) {
            minutes.push(Minute { at, traffic: TenantTraffic::default() });
        }
        let Some(Minute { traffic, .. }) = minutes.last_mut() else { continue };
        let lowest: i16 = row.try_get("lowest")?;
        traffic.errors += number(row.try_get("errors")?);
        let counts: Vec<i64> = row.try_get("latencies")?;
        for (bucket, count) in (usize::try_from(lowest).unwrap_or(0)..).zip(counts) {
            traffic.latencies.add(bucket, number(count));
        }
    }
    Ok(minutes)
}
