//! Load: wrk where throughput counts, clients of our own where each client's own story counts.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::Done;

/// What wrk saw.
pub(crate) struct Seen {
    pub(crate) per_second: f64,
    /// Answers that were not 2xx or 3xx, broken and timed out connections.
    pub(crate) failed: u64,
}

/// Asks `http://address` for these paths in turn, over this many connections.
pub(crate) async fn wrk(
    folder: &Path,
    address: &str,
    paths: &[String],
    connections: usize,
    run: Duration,
) -> Done<Seen> {
    let script = folder.join("paths.lua");
    let list: Vec<_> = paths.iter().map(|path| format!("{path:?}")).collect();
    // The requests are written beforehand: wrk shares the machine with what it measures.
    std::fs::write(
        &script,
        format!(
            "local paths, requests, at = {{{}}}, {{}}, 0\n\
             function init(args) for i, path in ipairs(paths) do requests[i] = wrk.format('GET', path) end end\n\
             function request() at = at % #requests + 1; return requests[at] end\n",
            list.join(", ")
        ),
    )?;
    let output = Command::new("wrk")
        .args([
            "-t1",
            &format!("-c{connections}"),
            &format!("-d{}s", run.as_secs()),
            "--timeout",
            "10s",
            "-s",
        ])
        .arg(&script)
        .arg(format!("http://{address}"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| {
            format!("wrk: {e}; install it (Debian, Ubuntu: apt install wrk; macOS: brew install wrk)")
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |line: &str| -> Option<u64> { line.split([' ', ',']).find_map(|word| word.parse().ok()) };
    let all =
        |line: &str| -> u64 { line.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()).sum() };
    let after = |what: &str| text.lines().find_map(|line| line.trim().strip_prefix(what));
    let per_second = after("Requests/sec:").and_then(|rest| rest.trim().parse().ok());
    Ok(Seen {
        per_second: per_second.ok_or_else(|| format!("wrk said:\n{text}"))?,
        failed: after("Non-2xx or 3xx responses:").and_then(number).unwrap_or(0)
            + after("Socket errors:").map_or(0, all),
    })
}

/// One client with one connection, which it keeps.
pub(crate) struct Client {
    host: String,
    sender: SendRequest<Empty<Bytes>>,
}

impl Client {
    pub(crate) async fn connect(address: &str) -> Done<Self> {
        let stream = TcpStream::connect(address.parse::<SocketAddr>()?).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { host: address.to_owned(), sender })
    }

    /// Status, body, and the time until the body's end.
    pub(crate) async fn get(&mut self, path: &str) -> Done<(u16, Bytes, Duration)> {
        let request = Request::get(path).header("Host", &self.host).body(Empty::new())?;
        let begun = Instant::now();
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, body, begun.elapsed()))
    }
}

pub(crate) async fn get(address: &str, path: &str) -> Done<(u16, Bytes)> {
    let (status, body, _) = Client::connect(address).await?.get(path).await?;
    Ok((status, body))
}
