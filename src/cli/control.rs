//! `manybox control`: the composition root of the control service.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Context, Done, Failure};
use crate::control::{self, Control};
use crate::front::{self, Clients};
use crate::telemetry::Metrics;

/// Serves until SIGINT or SIGTERM, then finishes what is under way.
pub(super) async fn control(context: &Context) -> Done {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let control = Arc::new(Control::new(context.fleet().await?));
    let settings = &context.settings.control;
    let listener = TcpListener::bind(settings.http).await.map_err(|error| {
        let address = settings.http;
        Failure(format!("control.http: cannot listen on {address}: {error}; is another manybox running?"))
    })?;
    tracing::info!(control = %listener.local_addr()?, "listening");
    let clients = Clients::of_control(&context.settings.listen, Metrics::default());
    let drain = settings.drain_timeout;
    let stop = async move {
        tokio::select! {
            _ = interrupt.recv() => drain,
            _ = terminate.recv() => drain,
        }
    };
    front::serve(listener, control::router(&control), clients, stop).await?;
    // What has not stopped by then is cut off, and resumed.
    let _ = tokio::time::timeout(settings.drain_timeout, control.stop()).await;
    Ok(())
}
