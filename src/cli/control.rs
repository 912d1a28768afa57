//! `manybox control`: the composition root of the control service.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::{Context, Done, Failure};
use crate::control::{self, Control};
use crate::fleet::Fleet;
use crate::front::{self, Clients};
use crate::otlp::Exporter;
use crate::settings::Settings;
use crate::telemetry::Metrics;

/// What a control service is called behind `telemetry.service_name`.
const PART: &str = "-control";

/// Serves until SIGINT or SIGTERM, then finishes what is under way.
pub(super) async fn control(context: &Context) -> Done {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let metrics = Metrics::default();
    let exporter = Exporter::start(&context.settings.telemetry, PART, &metrics).map_err(Failure)?;
    let tracer = exporter.as_ref().map(Exporter::tracer);
    let control = Arc::new(Control::new(context.fleet().await?, tracer));
    let settings = &context.settings.control;
    let listener = listen(settings.http).await?;
    tracing::info!(control = %listener.local_addr()?, "listening");
    let clients = Clients::of_control(&context.settings.listen, metrics);
    let (jobs, drain) = (control.jobs.clone(), settings.drain_timeout);
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        jobs.stop();
        drain
    };
    front::serve(listener, control::router(&control), clients, stop).await?;
    // What has not stopped by then is cut off, and resumed.
    let _ = tokio::time::timeout(settings.drain_timeout, control.stop()).await;
    if let Some(exporter) = exporter {
        exporter.stop().await;
    }
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure(format!("control.http: cannot listen on {address}: {error}; is another manybox running?"))
    })
}

/// Serves beside a router, in its process, until both of what is returned are stopped. Gives the address, too.
pub(super) async fn beside(
    fleet: Fleet,
    settings: &Settings,
) -> Result<(SocketAddr, Arc<Control>, JoinHandle<std::io::Result<()>>), Failure> {
    let listener = listen(settings.control.http).await?;
    let address = listener.local_addr()?;
    let metrics = Metrics::default();
    let exporter = Exporter::start(&settings.telemetry, PART, &metrics).map_err(Failure)?;
    let clients = Clients::of_control(&settings.listen, metrics);
    let control = Arc::new(Control::new(fleet, exporter.as_ref().map(Exporter::tracer)));
    let serving = front::serve(listener, control::router(&control), clients, std::future::pending());
    let serving = async move {
        let outcome = serving.await;
        // It sends for as long as this serves.
        drop(exporter);
        outcome
    };
    Ok((address, control, tokio::spawn(serving)))
}
