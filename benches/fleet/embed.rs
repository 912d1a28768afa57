//! Embeds: the price of routing for a query that has some work to do.

use std::time::Instant;

use crate::load::Client;
use crate::report::Scenario;
use crate::setting::{Setting, logins};
use crate::{Done, Scale, bare, scenario};

const PATH: &str = "/t0/patients?select=id,family_name,given_name,appointments(id,starts_at,status)\
                    &appointments.order=starts_at.desc&appointments.limit=5&order=id&limit=50";

/// As manybox's own for that.
const READ: &str = "SELECT COALESCE(pg_catalog.json_agg(_mb_row), '[]') AS body, pg_catalog.count(*) AS rows, \
    NULL::pg_catalog.int8 AS total, NULL::pg_catalog.text[] AS location, NULL::pg_catalog.int4 AS inserted, \
    NULLIF(pg_catalog.current_setting('response.headers', true), '') AS headers, \
    NULLIF(pg_catalog.current_setting('response.status', true), '') AS status FROM (\
    SELECT \"public\".\"patients\".\"id\", \"public\".\"patients\".\"family_name\", \
    \"public\".\"patients\".\"given_name\", \
    COALESCE(\"patients_appointments_1\".\"patients_appointments_1\", '[]') AS \"appointments\" \
    FROM \"public\".\"patients\" LEFT JOIN LATERAL (\
    SELECT pg_catalog.json_agg(\"patients_appointments_1\")::pg_catalog.jsonb AS \"patients_appointments_1\" FROM (\
    SELECT \"appointments_1\".\"id\", \"appointments_1\".\"starts_at\", \"appointments_1\".\"status\" \
    FROM \"public\".\"appointments\" AS \"appointments_1\" \
    WHERE \"appointments_1\".\"patient_id\" = \"public\".\"patients\".\"id\" \
    ORDER BY \"appointments_1\".\"starts_at\" DESC LIMIT $1) AS \"patients_appointments_1\") \
    AS \"patients_appointments_1\" ON TRUE ORDER BY \"public\".\"patients\".\"id\" LIMIT $2) AS _mb_row";

/// Questions in a row to one of the two.
const QUESTIONS: usize = 200;

/// 50 patients with their last five appointments, one after the other, against the same by a bare client.
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
    let mut config: tokio_postgres::Config = bare::url(setting).await?.parse()?;
    let (client, connection) = config.options(bare::OPTIONS).connect(tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let (set, read) = (client.prepare(bare::SET).await?, client.prepare(READ).await?);
    let router = setting.serve("").await?;
    let mut routed = Client::connect(&router.http).await?;
    let by_hand = bare::ask(&client, &set, &read, "/patients", "{}", &[&5_i64, &50_i64]).await?;
    let (status, body, _) = routed.get(PATH).await?;
    if status != 200 || body != by_hand {
        return Err(format!("embed: manybox answers {status} {body:?}, the bare client {by_hand}").into());
    }
    let (mut values, mut baselines) = (Vec::new(), Vec::new());
    // The first warms up.
    for round in 0..=scale.rounds * 2 {
        let begun = Instant::now();
        for _ in 0..QUESTIONS {
            routed.get(PATH).await?;
        }
        let value = begun.elapsed();
        let begun = Instant::now();
        for _ in 0..QUESTIONS {
            bare::ask(&client, &set, &read, "/patients", "{}", &[&5_i64, &50_i64]).await?;
        }
        if round > 0 {
            values.push(value.as_secs_f64() * 1e3 / QUESTIONS as f64);
            baselines.push(begun.elapsed().as_secs_f64() * 1e3 / QUESTIONS as f64);
        }
    }
    Ok(scenario("embed", "ms", values, baselines).at_most(1.15))
}
