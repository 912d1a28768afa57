//! `manybox serve`: the composition root of the router process.

use std::future::IntoFuture as _;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::context::start_embedded;
use super::{Done, Failure};
use crate::admin;
use crate::embedded::Embedded;
use crate::fleet::Servers;
use crate::front::{self, App};
use crate::pg::KeyRing;
use crate::settings::Settings;

pub(super) async fn serve(settings: Settings) -> Done {
    let embedded = start_embedded(&settings).await?;
    let outcome = with(&settings, embedded.as_ref(), |_| ()).await;
    match embedded {
        Some(embedded) => outcome.and(embedded.stop().await.map_err(Failure::from)),
        None => outcome,
    }
}

/// Serves until SIGINT or SIGTERM. `ready` is called when the first request can be answered.
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

    let (stop, stopped) = watch::channel(false);
    let until = |mut stopped: watch::Receiver<bool>| async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let data =
        front::serve(http, front::router(app.clone()), until(stopped.clone()), settings.listen.drain_timeout);
    let data = tokio::spawn(data);
    let told = admin::Admin {
        directory: app.directory.clone(),
        pools: app.pools.clone(),
        metrics: app.metrics.clone(),
        traffic: app.traffic.clone(),
        top: settings.listen.metrics_tenants,
    };
    let control = front::serve(admin, admin::router(told), until(stopped), settings.listen.drain_timeout);
    let control = tokio::spawn(control);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let signalled = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::pin!(signalled);
    tokio::select! {
        () = app.wait_ready() => {
            ready(&app);
            signalled.await;
        }
        () = &mut signalled => {}
    }
    tracing::info!("stopping");
    stop.send_replace(true);
    let outcome = data.into_future().await;
    control.abort();
    app.stop().await;
    if let Some(supervisor) = supervisor {
        supervisor.abort();
    }
    Ok(outcome??)
}

async fn bind(address: std::net::SocketAddr, key: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|e| Failure(format!("{key}: cannot listen on {address}: {e}; is another manybox running?")))
}
