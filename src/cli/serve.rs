//! `manybox serve`: the composition root of the router process.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::context::start_embedded;
use super::{Done, Failure};
use crate::admin;
use crate::directory::Directory;
use crate::embedded::Embedded;
use crate::fleet::Servers;
use crate::front::{self, App, Certificates, Clients, Listener};
use crate::migrate::{Editions, Limits, Member, Whose, contradiction};
use crate::settings::Settings;
use crate::vault::KeyRing;

/// File descriptors that are not clients': connections to databases, the catalog, files.
const OWN_DESCRIPTORS: usize = 1000;

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
    // Before anything listens.
    let access = admin::Access::new(&settings.listen).map_err(|error| Failure(error.to_string()))?;
    let certificates = match settings.listen.https {
        Some(_) => Some(Certificates::load(&settings.listen.certificates)?),
        None => None,
    };
    raise_descriptors(settings.listen.clients.max_connections);
    let http = bind(settings.listen.http, "listen.http").await?;
    let admin = bind(settings.listen.admin, "listen.admin").await?;
    tracing::info!(http = %http.local_addr()?, admin = %admin.local_addr()?, "listening");
    let mut listeners = vec![Listener::from(http)];
    if let (Some(address), Some(certificates)) = (settings.listen.https, certificates) {
        let https = bind(address, "listen.https").await?;
        tracing::info!(https = %https.local_addr()?, "listening");
        listeners.push(Listener::with_tls(https, certificates.config()?));
        app.follow(&certificates);
    }

    let (stop, stopping) = watch::channel(false);
    let service = front::router(app.clone());
    let data = listeners.into_iter().map(|listener| {
        let mut until = stopping.clone();
        let until = async move {
            let _ = until.wait_for(|stop| *stop).await;
        };
        let clients = app.clients.clone();
        front::serve(listener, service.clone(), clients, until, settings.listen.drain_timeout)
    });
    let data = tokio::spawn(try_join_all(data.collect::<Vec<_>>()));
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
    let operators = Clients::of_admin(&settings.listen, app.metrics.clone());
    let control =
        front::serve(admin, admin::router(told, access), operators, std::future::pending(), Duration::ZERO);
    let control = tokio::spawn(control);
    let mut signals = Signals(signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let signalled = tokio::select! {
        () = app.wait_ready() => false,
        () = signals.next() => true,
    };
    if !signalled {
        ready(&app);
        let (directory, settings) = (app.directory.clone(), settings.clone());
        tokio::task::spawn_blocking(move || tell_of_contradictions(&directory, &settings));
        signals.next().await;
    }
    tracing::info!("stopping; a second signal stops at once");
    stop.send_replace(true);
    let drained = async {
        let outcome = data.await;
        app.stop().await;
        outcome??;
        Ok(())
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

/// Says in the log which editions' files on this machine are not those that the fleet was made by, or older. A router needs
/// none, but whoever runs a command beside it would.
fn tell_of_contradictions(directory: &Directory, settings: &Settings) {
    let folders = settings.editions.iter().filter_map(|(name, edition)| {
        let folder = edition.migrations.as_deref().filter(|folder| folder.is_dir())?;
        Some((name.as_str(), folder))
    });
    let tenants = directory.tenants();
    let members: Vec<_> = tenants
        .iter()
        .filter_map(|tenant| {
            Some(Member { whose: Whose::Tenant(tenant.slug.as_str()), lineage: tenant.lineage()? })
        })
        .collect();
    for edition in Editions::read(folders, &Limits::default()).sound.values() {
        if let Some(found) = contradiction(edition, &members) {
            tracing::warn!(edition = edition.name, "{found}");
        }
    }
}

/// Lets the process have as many file descriptors as the system allows it: each client takes one, and the usual limit of
/// 1,024 is for programs that use select(2).
fn raise_descriptors(clients: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on file descriptors could not be raised");
    }
    let has = getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |has| usize::try_from(has).unwrap_or(usize::MAX));
    if has < clients.saturating_add(OWN_DESCRIPTORS) {
        tracing::warn!(
            has,
            "too few file descriptors for listen.clients.max_connections ({clients}): idle clients will be closed for new \
             ones before; raise the limit (`ulimit -n`, LimitNOFILE) or lower max_connections"
        );
    }
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
