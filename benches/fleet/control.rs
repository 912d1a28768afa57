//! Tenants created a second by `manybox apply`, against the bare statements.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use manybox::pg::{self, Endpoint, Login};

use crate::report::Scenario;
use crate::setting::Setting;
use crate::{Done, Scale, middle};

/// As many databases at a time as `manybox apply` copies and `manybox migrate` brings up by themselves.
pub(crate) const JOBS: usize = 4;
pub(crate) const UNIT: &str = "tenants/s";

/// `manybox apply` of new tenants, against CREATE DATABASE from the same template.
pub(crate) async fn create(setting: &mut Setting, scale: Scale) -> Done<Scenario> {
    // The template and one tenant.
    setting.tenants(setting.has() + 1).await?;
    let mut rounds = Vec::new();
    for round in 0..scale.turns {
        quiet(setting).await?;
        let begun = Instant::now();
        setting.tenants(setting.has() + scale.changed).await?;
        let value = scale.changed as f64 / begun.elapsed().as_secs_f64();
        let template = template(setting).await?;
        quiet(setting).await?;
        let begun = Instant::now();
        each(setting, scale.changed, move |connection, number| {
            let template = template.clone();
            async move {
                let name = format!("bare_{round}_{number}");
                connection
                    .batch_execute(&format!(
                        "CREATE DATABASE {name} TEMPLATE \"{template}\" STRATEGY wal_log"
                    ))
                    .await?;
                Ok(())
            }
        })
        .await?;
        rounds.push((value, scale.changed as f64 / begun.elapsed().as_secs_f64()));
    }
    Ok(middle("create", UNIT, rounds).at_least(0.8))
}

/// Has the server write down what was done before, so that it is nobody else's work.
pub(crate) async fn quiet(setting: &Setting) -> Done {
    let (endpoint, login) = superuser(setting)?;
    Ok(pg::connect(&endpoint, &login, "postgres").await?.batch_execute("CHECKPOINT").await?)
}

fn superuser(setting: &Setting) -> Done<(Endpoint, Login)> {
    let (endpoint, _) = Endpoint::parse("bench", &setting.embedded.superuser_url(), None)?;
    Ok((endpoint, Login { user: "postgres".into(), password: None }))
}

async fn template(setting: &Setting) -> Done<String> {
    let (endpoint, login) = superuser(setting)?;
    let connection = pg::connect(&endpoint, &login, "manybox_catalog").await?;
    let sql = "SELECT database FROM catalog.template WHERE state = 'ready' AND edition = 'bench'";
    Ok(connection.query_one(sql, &[]).await?.try_get(0)?)
}

/// Does it this many times, as many at a time as manybox, each worker with a connection of its own.
async fn each<F, W>(setting: &Setting, times: usize, work: F) -> Done
where
    F: Fn(Arc<pg::Connection>, usize) -> W + Clone + Send + 'static,
    W: Future<Output = Done> + Send,
{
    let (endpoint, login) = superuser(setting)?;
    let next = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..JOBS)
        .map(|_| {
            let (endpoint, login, next, work) =
                (endpoint.clone(), login.clone(), Arc::clone(&next), work.clone());
            tokio::spawn(async move {
                let connection = Arc::new(pg::connect(&endpoint, &login, "postgres").await?);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= times {
                        return Done::Ok(());
                    }
                    work(Arc::clone(&connection), number).await?;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    Ok(())
}
