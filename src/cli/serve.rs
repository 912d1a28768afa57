//! `manybox serve`: the composition root of the router process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::try_join_all;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::context::{SettingsSource, start_embedded};
use super::{Done, Failure, Output};
use crate::admin::{self, Phase};
use crate::directory::Directory;
use crate::embedded::Embedded;
use crate::fleet::Servers;
use crate::front::{self, App, Certificates, Clients, Listener};
use crate::migrate::{Editions, Limits, Member, Whose, contradiction};
use crate::otlp::Exporter;
use crate::settings::{Paths, Reloaded, Settings};
use crate::vault::KeyRing;

/// File descriptors that are not clients': connections to databases, the catalog, files.
const OWN_DESCRIPTORS: usize = 1000;
/// Clients that the system lets wait until they are accepted.
const BACKLOG: u32 = 1024;

pub(super) async fn serve(settings: Settings, source: &SettingsSource, output: Output) -> Done {
    let embedded = start_embedded(&settings, source, output).await?;
    let paths = Paths { file: source.file.clone() };
    let outcome = with(&settings, embedded.as_ref(), Some(paths), |_| ()).await;
    match embedded {
        Some(embedded) => outcome.and(embedded.stop().await.map_err(Failure::from)),
        None => outcome,
    }
}

/// Serves until SIGINT or SIGTERM, then drains; a second one ends that too. SIGHUP reads the settings at `paths` again;
/// without these it stops. `ready` is called when the first request can be answered.
pub(super) async fn with(
    settings: &Settings,
    embedded: Option<&Embedded>,
    paths: Option<Paths>,
    ready: impl FnOnce(&App),
) -> Done {
    // First of all: what nobody has asked for ends the process.
    let mut signals = Signals::new(paths.is_some())?;
    let keys = Arc::new(KeyRing::load(&settings.keys)?);
    // Without user and password: the router has its own login to the catalog, and those of the tenants.
    let place = embedded.map(Embedded::place_url);
    let servers = Servers::new(settings, place.as_deref())?;
    let supervisor = embedded.map(Embedded::supervise);
    let app = App::start(Arc::new(settings.clone()), servers.endpoints(), keys);
    let mut exporter = Exporter::start(&settings.telemetry, "", &app.metrics).map_err(Failure)?;
    // Before anything listens.
    let access = admin::Access::new(&settings.listen).map_err(|error| Failure(error.to_string()))?;
    let certificates = match settings.listen.https {
        Some(_) => Some(Certificates::load(&settings.listen.certificates)?),
        None => None,
    };
    raise_descriptors(settings.listen.clients.max_connections);
    // Nobody can connect to these yet, but whoever has them already is told of now.
    let http = reserve(settings.listen.http, "listen.http")?;
    let https = settings.listen.https.map(|address| reserve(address, "listen.https")).transpose()?;
    let admin = listen(reserve(settings.listen.admin, "listen.admin")?)?;
    tracing::info!(admin = %admin.local_addr()?, "listening");
    let (phase, phases) = watch::channel(Phase::Opening);
    let told = Arc::new(admin::Admin {
        directory: app.directory.clone(),
        pools: app.pools.clone(),
        metrics: app.metrics.clone(),
        traffic: app.traffic.clone(),
        keys: Arc::clone(&app.keys),
        top: settings.listen.metrics_tenants,
        phase: phases,
    });
    if let Some(exporter) = &mut exporter {
        app.trace(exporter.tracer());
        exporter.report(admin::scrape(&told)).map_err(Failure)?;
    }
    // Kept to the very end: a load balancer that asks `/ready` must learn that this router stops, and an operator must
    // be able to see what it still waits for.
    let operators = Clients::of_admin(&settings.listen, app.metrics.clone());
    let control = front::serve(admin, admin::router(told, access), operators, std::future::pending());
    let control = tokio::spawn(control);
    let reload = || reload(&app, paths.as_ref());
    let is_ready = tokio::select! {
        () = app.wait_ready() => true,
        () = signals.stop(reload) => false,
    };
    let mut outcome = Ok(());
    if is_ready {
        // Only now: a client that is let in must find its tenant.
        let http = listen(http)?;
        tracing::info!(http = %http.local_addr()?, "listening");
        let mut listeners = vec![Listener::from(http)];
        if let (Some(https), Some(certificates)) = (https, certificates) {
            let https = listen(https)?;
            tracing::info!(https = %https.local_addr()?, "listening");
            listeners.push(Listener::with_tls(https, certificates.config()?));
            app.follow(&certificates);
        }
        let (close, closing) = watch::channel(false);
        let service = front::router(app.clone());
        let data = listeners.into_iter().map(|listener| {
            let (mut closing, app) = (closing.clone(), app.clone());
            let clients = app.clients.clone();
            let until = async move {
                let _ = closing.wait_for(|close| *close).await;
                app.settings().listen.drain_timeout
            };
            front::serve(listener, service.clone(), clients, until)
        });
        let data = tokio::spawn(try_join_all(data.collect::<Vec<_>>()));
        phase.send_replace(Phase::Open);
        ready(&app);
        let (directory, known) = (app.directory.clone(), settings.clone());
        tokio::task::spawn_blocking(move || {
            tell_of_misfits(&directory, &known);
            tell_of_contradictions(&directory, &known);
        });
        signals.stop(reload).await;
        phase.send_replace(Phase::Stopping);
        let delay = app.settings().listen.stop_delay;
        tracing::info!(
            delay.ms = delay.as_millis() as u64,
            "stopping: `/ready` says so, requests are served for listen.stop_delay and then finished; a second signal stops at once"
        );
        let stopped = async {
            app.clients.wind_down();
            tokio::time::sleep(delay).await;
            close.send_replace(true);
            let outcome = data.await;
            app.stop().await;
            if let Some(exporter) = exporter {
                exporter.stop().await;
            }
            outcome??;
            Ok(())
        };
        outcome = tokio::select! {
            outcome = stopped => outcome,
            () = signals.stop(|| ()) => {
                tracing::warn!("stopped at once: requests under way were cut off");
                app.abort();
                Ok(())
            }
        };
    } else {
        phase.send_replace(Phase::Stopping);
        tokio::select! {
            () = app.stop() => {}
            () = signals.stop(|| ()) => app.abort(),
        }
    }
    control.abort();
    if let Some(supervisor) = supervisor {
        supervisor.abort();
    }
    outcome
}

/// Reads the settings again, and says what of them holds from now on.
fn reload(app: &App, paths: Option<&Paths>) {
    let Some(paths) = paths else { return };
    // Missing at start, it is an empty one; missing now, it is being replaced, and every tier and proxy would be gone.
    if !paths.file.exists() {
        let file = paths.file.display();
        tracing::error!("settings not reloaded: there is no file `{file}`; they stay as they were");
        return;
    }
    match Settings::load(paths) {
        Ok(settings) => {
            let Reloaded { taken_up, need_restart } = app.reload(&settings);
            tracing::info!(changed = taken_up.join(", "), "settings reloaded");
            if !need_restart.is_empty() {
                tracing::warn!(
                    settings = need_restart.join(", "),
                    "changed settings that need a restart of this router"
                );
            }
        }
        Err(error) => tracing::error!(%error, "settings not reloaded: they stay as they were"),
    }
}

/// Says in the log which servers and tiers tenants have that the settings lack.
fn tell_of_misfits(directory: &Directory, settings: &Settings) {
    let (mut servers, mut tiers) = (BTreeMap::new(), BTreeMap::new());
    for tenant in directory.tenants() {
        if !settings.has_server(&tenant.server) {
            servers.entry(tenant.server.clone()).or_insert((0_u32, tenant.slug.clone())).0 += 1;
        }
        if !settings.tiers.contains_key(&tenant.tier) {
            tiers.entry(tenant.tier.clone()).or_insert((0_u32, tenant.slug.clone())).0 += 1;
        }
    }
    for (server, (tenants, example)) in servers {
        tracing::warn!(
            server,
            tenants,
            tenant.slug = %example,
            "tenants are on a server that the settings don't have: their requests get 503 MBX210; add [servers.{server}]"
        );
    }
    for (tier, (tenants, example)) in tiers {
        tracing::warn!(
            tier,
            tenants,
            tenant.slug = %example,
            "tenants have a tier that the settings don't have: the default tier's limits hold for them; add [tiers.{tier}]"
        );
    }
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

/// The signals that a router is sent. All are taken, because the others would end the process with requests under way.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Also when the terminal is closed.
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    /// Whether SIGHUP reads the settings again. Otherwise it stops.
    reloads: bool,
}

impl Signals {
    fn new(reloads: bool) -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            reloads,
        })
    }

    /// Waits for one that stops. `reload` is called for each that wants the settings read again.
    async fn stop(&mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => {
                    if !self.reloads {
                        return;
                    }
                    reload();
                }
                // PostgREST's: the schema, and the settings.
                _ = self.user1.recv() => tracing::info!(
                    "SIGUSR1 does nothing: changed schemas are noticed, and `manybox tenant reload` has one read again"
                ),
                _ = self.user2.recv() => reload(),
            }
        }
    }
}

/// Takes an address without listening there.
fn reserve(address: SocketAddr, key: &str) -> Result<TcpSocket, Failure> {
    let reserved = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // For a successor: what was closed a moment ago is no reason to refuse.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok::<_, std::io::Error>(socket)
    };
    reserved()
        .map_err(|e| Failure(format!("{key}: cannot listen on {address}: {e}; is another manybox running?")))
}

fn listen(socket: TcpSocket) -> Result<TcpListener, Failure> {
    let address = socket.local_addr()?;
    socket
        .listen(BACKLOG)
        .map_err(|e| Failure(format!("cannot listen on {address}: {e}; is another manybox running?")))
}
