//! `manybox serve`: the composition root of the router process.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::context::start_embedded;
use super::{Done, Failure};
use crate::admin;
use crate::embedded::Embedded;
use crate::fleet::Servers;
use crate::front::{self, App};
use crate::settings::Settings;
use crate::vault::KeyRing;

pub(super) async fn serve(settings: Settings) -> Done {
    let embedded = start_embedded(&settings).await?;
    let outcome = with(&settings, embedded.as_ref(), |_| ()).await;
    match embedded {
        Some(embedded) => outcome.and(embedded.stop().await.map_err(Failure::from)),
        None => outcome,
    }
}

/// Serves until SIGINT or SIGTERM, then drains; a second one ends that too. `ready` is called when the first request
/// can be answered.
pub(super) async fn with(settings: &Settings, embedded: Option<&Embedded>, ready: impl FnOnce(&App)) -> Done {
    let keys = Arc::new(KeyRing::load(&settings.keys)?);
    // Without user and password: the router has its own login to the catalog, and those of the tenants.
    let place = embedded.map(Embedded::place_url);
    let servers = Servers::new(settings, place.as_deref())?;
    let supervisor = embedded.map(Embedded::supervise);
    let app = App::start(Arc::new(settings.clone()), servers.endpoints(), keys);
    let http = bind(settings.listen.http, "listen.http").await?;
    let admin = bind(settings.listen.admin, "listen.admin").await?;
    tracing::info!(http = %http.local_addr()?, admin = %admin.local_addr()?, "listening");

    let (stop, stopping) = watch::channel(false);
    let mut until = stopping.clone();
    let until = async move {
        let _ = until.wait_for(|stop| *stop).await;
    };
    let data = front::serve(http, front::router(app.clone()), until, settings.listen.drain_timeout);
    let data = tokio::spawn(data);
    let told = admin::Admin {
        directory: app.directory.clone(),
        pools: app.pools.clone(),
        metrics: app.metrics.clone(),
        traffic: app.traffic.clone(),
        top: settings.listen.metrics_tenants,
        stopping,
    };
    // Kept to the very end: a load balancer that asks `/ready` must learn that this router stops, and an operator must
    // be able to see what it still waits for.
    let control = front::serve(admin, admin::router(told), std::future::pending(), std::time::Duration::ZERO);
    let control = tokio::spawn(control);
    let mut signals = Signals(signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let signalled = tokio::select! {
        () = app.wait_ready() => false,
        () = signals.next() => true,
    };
    if !signalled {
        ready(&app);
        signals.next().await;
    }
    tracing::info!("stopping; a second signal stops at once");
    stop.send_replace(true);
    let drained = async {
        let outcome = data.await;
        app.stop().await;
        Ok(outcome??)
    };
    let outcome = tokio::select! {
        outcome = drained => outcome,
        () = signals.next() => {
            tracing::warn!("stopped at once: requests under way were cut off");
            app.abort();
            Ok(())
        }
    };
    control.abort();
    if let Some(supervisor) = supervisor {
        supervisor.abort();
    }
    outcome
}

/// SIGINT and SIGTERM.
struct Signals(Signal, Signal);

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

async fn bind(address: std::net::SocketAddr, key: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|e| Failure(format!("{key}: cannot listen on {address}: {e}; is another manybox running?")))
}
