//! Serve: the listener, and a stop that lets requests under way finish.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::layers::Service;

/// Serves until `shutdown` ends, then takes no new requests and gives those under way `drain` to finish.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    service: Service,
    shutdown: impl Future<Output = ()> + Send + 'static,
    drain: Duration,
) -> io::Result<()> {
    let (stopped, stopping) = oneshot::channel();
    let make = service.0.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, make).with_graceful_shutdown(async move {
        shutdown.await;
        let _ = stopped.send(());
    });
    tokio::select! {
        outcome = server.into_future() => outcome,
        () = async {
            // A dropped sender means that the server has ended by itself: then its own branch is the one to win.
            if stopping.await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(drain).await;
        } => {
            tracing::warn!(ms = drain.as_millis() as u64, "requests still under way were cut off");
            Ok(())
        }
    }
}
