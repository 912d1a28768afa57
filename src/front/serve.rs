//! Serve: the listener, with every wait for a client bounded, and a stop that lets requests under way finish.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt as _;

/// Longest wait for the head of a request, also of the next one on a kept connection: without it clients that send a
/// byte a minute hold sockets for ever.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time in which a client's socket takes nothing: one that never reads would hold its answer in memory, and its
/// place, for ever. An HTTP/2 client that answers pings but opens no window still does.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a quiet HTTP/2 client is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Most clients at once; later ones wait in the kernel's queue, which is bounded too.
const MAX_CLIENTS: usize = 10_000;
/// The pause after the process has run out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves, on the data or the admin port, until `shutdown` ends, then takes no new requests and gives those under way
/// `drain` to finish.
///
/// # Errors
/// None now; a listener that fails for a moment is tried again.
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    shutdown: impl Future<Output = ()> + Send + 'static,
    drain: Duration,
) -> io::Result<()>
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).max_concurrent_streams(100);
    let (graceful, places) = (GracefulShutdown::new(), Arc::new(Semaphore::new(MAX_CLIENTS)));
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = &mut shutdown => break,
        };
        let Some((socket, peer, place)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let service = service.clone().map_request(move |request: Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            request
        });
        let connection = http
            .serve_connection(
                TokioIo::new(with_write_timeout(socket, WRITE_TIMEOUT)),
                TowerToHyperService::new(service),
            )
            .into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that breaks off or sends no HTTP is its own affair.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(drain) => {
            tracing::warn!(ms = drain.as_millis() as u64, "requests still under way were cut off");
        }
    }
    Ok(())
}

/// A socket whose writes fail when the client has taken nothing for so long.
fn with_write_timeout(socket: TcpStream, limit: Duration) -> Pin<Box<TimeoutStream<TcpStream>>> {
    let mut stream = TimeoutStream::new(socket);
    stream.set_write_timeout(Some(limit));
    Box::pin(stream)
}

type Accepted = (TcpStream, std::net::SocketAddr, tokio::sync::OwnedSemaphorePermit);

/// The next client, when there is a place for it; `None` when the system refused.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<Accepted> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, peer)) => {
            let _ = socket.set_nodelay(true);
            Some((socket, peer, place))
        }
        Err(error) => {
            tracing::warn!(%error, "a client could not be accepted");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = with_write_timeout(listener.accept().await.unwrap().0, Duration::from_millis(50));
        let answer = vec![0; 64 * 1024 * 1024];
        assert_eq!(socket.write_all(&answer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(client);
    }
}
