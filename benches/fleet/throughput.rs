//! Throughput: the same requests through manybox and through the bare handler, one kind in each scenario.

use std::time::Duration;

use bytes::Bytes;
use manybox::pg::Connection;

use crate::load::{Request, send, wrk};
use crate::report::Scenario;
use crate::setting::{Setting, logins};
use crate::{Done, Scale, bare, middle, scenario};

/// Connections of the load generator.
const CONNECTIONS: usize = 32;
const UNIT: &str = "requests/s";

/// One kind of request. `{n}` stands for a number from 1 to 1000, another in each request.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    method: &'static str,
    /// Below the tenant's base URL.
    path: &'static str,
    /// Where the bare handler does the same.
    bare: &'static str,
    /// JSON, or nothing.
    body: &'static str,
    /// How many tenants are asked in turn, of whom the bare handler has one.
    pub(crate) tenants: usize,
    /// The least ratio.
    goal: f64,
    writes: Option<Writes>,
}

/// What is written.
struct Writes {
    /// Brings the table to where it began, and leaves the server nothing to tidy up behind a run's back.
    restore: &'static [&'static str],
    /// All that is in it, as one text.
    rows: &'static str,
}

/// What the cases have in common.
const READ: Case =
    Case { name: "", method: "GET", path: "", bare: "", body: "", tenants: 1, goal: 1.0, writes: None };

pub(crate) const CASES: [Case; 7] = [
    Case { name: "overhead-1", path: "/items?id=eq.{n}", bare: "/items?id=eq.{n}", ..READ },
    Case { name: "overhead-40", path: "/items?id=eq.{n}", bare: "/items?id=eq.{n}", tenants: 40, ..READ },
    Case { name: "overhead-policy", path: "/guarded?id=eq.{n}", bare: "/guarded?id=eq.{n}", ..READ },
    Case {
        name: "rows-policy",
        path: "/guarded?order=id&limit=100",
        bare: "/guarded/page?limit=100",
        ..READ
    },
    Case {
        name: "rpc",
        method: "POST",
        path: "/rpc/price_of",
        bare: "/rpc/price_of",
        body: r#"{"item":{n},"quantity":3}"#,
        ..READ
    },
    Case {
        name: "insert",
        method: "POST",
        path: "/orders",
        bare: "/orders",
        body: r#"{"item":{n},"quantity":3,"note":"leave it with the neighbours"}"#,
        writes: Some(Writes {
            restore: &["TRUNCATE orders RESTART IDENTITY", "VACUUM (ANALYZE) orders", "CHECKPOINT"],
            rows: "SELECT json_agg(orders ORDER BY id)::text FROM orders",
        }),
        ..READ
    },
    Case {
        name: "update",
        method: "PATCH",
        path: "/stock?id=eq.{n}",
        bare: "/stock?id=eq.{n}",
        body: r#"{"quantity":{n}}"#,
        writes: Some(Writes {
            restore: &[
                "TRUNCATE stock",
                "INSERT INTO stock SELECT n, 0 FROM generate_series(1, 1000) n",
                "VACUUM (ANALYZE) stock",
                "CHECKPOINT",
            ],
            rows: "SELECT json_agg(stock ORDER BY id)::text FROM stock",
        }),
        ..READ
    },
];

/// These cases through both, in turn.
pub(crate) async fn throughput(setting: &Setting, scale: Scale, cases: &[&Case]) -> Done<Vec<Scenario>> {
    let (_, _, database) = logins(setting, 1).await?.remove(0);
    let router = setting.serve("").await?;
    let bare = bare::Process::start(setting).await?;
    let database = setting.superuser(&database).await?;
    let rig = Rig { setting, scale, manybox: &router.http, bare: &bare.address, database };
    let mut scenarios = Vec::new();
    for case in cases {
        scenarios.push(rig.measure(case).await?);
    }
    Ok(scenarios)
}

/// What all cases are measured with.
struct Rig<'a> {
    setting: &'a Setting,
    scale: Scale,
    /// `127.0.0.1:port`
    manybox: &'a str,
    bare: &'a str,
    /// The first tenant's, which both write to.
    database: Connection,
}

impl Rig<'_> {
    async fn measure(&self, case: &Case) -> Done<Scenario> {
        let (requests, baseline) = (case.requests(case.path), case.requests(case.bare));
        let one = self.effect(case, self.manybox, &requests[1]).await?;
        let other = self.effect(case, self.bare, &baseline[1]).await?;
        if one != other || one.0 >= 300 {
            let name = case.name;
            return Err(format!("{name}: manybox answers {one:?}, the bare handler {other:?}").into());
        }
        // Writes wait for the disk.
        let number = if case.writes.is_some() { self.scale.turns } else { self.scale.rounds };
        let mut rounds = Vec::new();
        for round in 0..=number {
            let time = if round == 0 { Duration::from_secs(1) } else { self.scale.run };
            let value = self.run(case, self.manybox, &requests, time).await?;
            let baseline = self.run(case, self.bare, &baseline, time).await?;
            // The first warms up.
            if round > 0 {
                rounds.push((value, baseline));
            }
        }
        let scenario = if case.writes.is_some() {
            middle(case.name, UNIT, rounds)
        } else {
            let (values, baselines) = rounds.into_iter().unzip();
            scenario(case.name, UNIT, values, baselines)
        };
        Ok(scenario.at_least(case.goal))
    }

    /// Status and body of one request, and what is in the table afterwards.
    async fn effect(
        &self,
        case: &Case,
        address: &str,
        request: &Request,
    ) -> Done<(u16, Bytes, Option<String>)> {
        self.restore(case).await?;
        let (status, body) = send(address, request).await?;
        let rows = match &case.writes {
            Some(writes) => self.database.query_one(writes.rows, &[]).await?.try_get(0)?,
            None => None,
        };
        Ok((status, body, rows))
    }

    /// Requests a second.
    async fn run(&self, case: &Case, address: &str, requests: &[Request], time: Duration) -> Done<f64> {
        self.restore(case).await?;
        let seen = wrk(self.setting.folder.path(), address, requests, CONNECTIONS, time).await?;
        match seen.failed {
            0 => Ok(seen.per_second),
            failed => Err(format!("{}: {failed} requests to {address} failed", case.name).into()),
        }
    }

    async fn restore(&self, case: &Case) -> Done {
        for sql in case.writes.iter().flat_map(|writes| writes.restore) {
            self.database.batch_execute(sql).await?;
        }
        Ok(())
    }
}

impl Case {
    fn requests(&self, path: &str) -> Vec<Request> {
        let request = |n: usize| {
            let number = (1 + n * 7 % 1000).to_string();
            let path = format!("/t{}{}", n % self.tenants, path.replace("{n}", &number));
            Request { method: self.method, path, body: self.body.replace("{n}", &number) }
        };
        (0..1000).map(request).collect()
    }
}
