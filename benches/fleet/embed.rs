//! Embeds: the price of routing for a query that has some work to do.

use std::time::Instant;

use futures_util::future::try_join_all;
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Statement};

use crate::bare::{self, statements};
use crate::load::Client;
use crate::report::Scenario;
use crate::setting::{Setting, logins};
use crate::{Done, Scale, median, scenario};

const PATH: &str = "/t0/patients?select=id,family_name,given_name,appointments(id,starts_at,status)\
                    &appointments.order=starts_at.desc&appointments.limit=5&order=id&limit=50";

/// The rows, as manybox's own for that.
const ROWS: &str = "\
    SELECT \"public\".\"patients\".\"id\", \"public\".\"patients\".\"family_name\", \
    \"public\".\"patients\".\"given_name\", \
    COALESCE(\"patients_appointments_1\".\"patients_appointments_1\", '[]') AS \"appointments\" \
    FROM \"public\".\"patients\" LEFT JOIN LATERAL (\
    SELECT pg_catalog.json_agg(\"patients_appointments_1\")::pg_catalog.jsonb AS \"patients_appointments_1\" FROM (\
    SELECT \"appointments_1\".\"id\", \"appointments_1\".\"starts_at\", \"appointments_1\".\"status\" \
    FROM \"public\".\"appointments\" AS \"appointments_1\" \
    WHERE \"appointments_1\".\"patient_id\" = \"public\".\"patients\".\"id\" \
    ORDER BY \"appointments_1\".\"starts_at\" DESC LIMIT $1) AS \"patients_appointments_1\") \
    AS \"patients_appointments_1\" ON TRUE ORDER BY \"public\".\"patients\".\"id\" LIMIT $2";

/// Questions of each client in one measured run.
const QUESTIONS: usize = 150;
/// Clients at a time: as many as the tenant may have connections on a machine of two cores.
const CLIENTS: usize = 4;

/// 50 patients with their last five appointments, against the same by bare clients.
pub(crate) async fn embed(setting: &mut Setting, scale: Scale) -> Done<Scenario> {
    let (_, _, database) = logins(setting, 1).await?.remove(0);
    let admin = setting.superuser(&database).await?;
    admin
        .batch_execute(
            "TRUNCATE patients, appointments;
             INSERT INTO patients SELECT n, 'Family ' || n, 'Given ' || n, date '1950-01-01' + n
             FROM generate_series(1, 1000) n;
             INSERT INTO appointments
             SELECT n, 1 + n % 1000, timestamptz '2026-01-01' + n * interval '7 minutes', 'booked'
             FROM generate_series(1, 20000) n",
        )
        .await?;
    admin.batch_execute("VACUUM ANALYZE patients, appointments").await?;
    let url = bare::url(setting).await?;
    let router = setting.serve("").await?;
    let (mut bare, mut routed) = (Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        bare.push(Bare::connect(&url).await?);
        routed.push(Client::connect(&router.http).await?);
    }
    let by_hand = bare[0].ask().await?;
    let (status, body, _) = routed[0].get(PATH).await?;
    if status != 200 || body != by_hand {
        return Err(format!("embed: manybox answers {status} {body:?}, the bare client {by_hand}").into());
    }
    let (mut values, mut baselines, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    // The first warms up.
    for round in 0..=scale.rounds * 2 {
        let value = by_all(&mut routed, async |client| client.get(PATH).await.map(drop)).await?;
        let baseline = by_all(&mut bare, async |client| client.ask().await.map(drop)).await?;
        let one = by_all(&mut routed[..1], async |client| client.get(PATH).await.map(drop)).await?;
        let one_bare = by_all(&mut bare[..1], async |client| client.ask().await.map(drop)).await?;
        if round > 0 {
            values.push(value);
            baselines.push(baseline);
            alone.push((one, one_bare));
        }
    }
    let (one, one_bare): (Vec<_>, Vec<_>) = alone.into_iter().unzip();
    Ok(scenario("embed", "ms", values, baselines)
        .at_most(1.0)
        .detail("one client, ms", median(one))
        .detail("one bare client, ms", median(one_bare)))
}

/// Milliseconds for each question, of all clients at a time.
async fn by_all<C>(clients: &mut [C], ask: impl AsyncFn(&mut C) -> Done) -> Done<f64> {
    let (begun, number) = (Instant::now(), clients.len() * QUESTIONS);
    let ask = &ask;
    try_join_all(clients.iter_mut().map(async |client| {
        for _ in 0..QUESTIONS {
            ask(client).await?;
        }
        Done::Ok(())
    }))
    .await?;
    Ok(begun.elapsed().as_secs_f64() * 1e3 / number as f64)
}

/// A client that knows only this question.
struct Bare {
    client: tokio_postgres::Client,
    work: bare::Work,
    set: Statement,
    read: Statement,
}

impl Bare {
    async fn connect(url: &str) -> Done<Self> {
        let mut config: tokio_postgres::Config = url.parse()?;
        let (client, connection) = config.options(statements::OPTIONS).connect(NoTls).await?;
        tokio::spawn(connection);
        let work = bare::Work::read("/patients", statements::reading(ROWS));
        let (set, read) = (client.prepare(statements::SET).await?, client.prepare(&work.sql).await?);
        Ok(Self { client, work, set, read })
    }

    async fn ask(&self) -> Done<String> {
        let values = [&5_i64 as &(dyn ToSql + Sync), &50_i64];
        let body = self.work.run(&self.client, &self.set, &self.read, "{}", &values).await?;
        body.ok_or_else(|| "no body".into())
    }
}
