//! Load: wrk where throughput counts, clients of our own where each client's own story counts.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::Done;

const JSON: &str = "application/json";

/// What is asked.
pub(crate) struct Request {
    pub(crate) method: &'static str,
    /// With its query.
    pub(crate) path: String,
    /// JSON, or nothing.
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), body: String::new() }
    }

    /// The arguments of `wrk.format`. What Rust escapes in ASCII, Lua reads.
    fn lua(&self) -> String {
        let Self { method, path, body } = self;
        match body.as_str() {
            "" => format!("{{{method:?}, {path:?}}}"),
            _ => format!("{{{method:?}, {path:?}, {{['Content-Type'] = {JSON:?}}}, {body:?}}}"),
        }
    }
}

/// What wrk saw.
pub(crate) struct Seen {
    pub(crate) per_second: f64,
    /// Answers that were not 2xx or 3xx, broken and timed out connections.
    pub(crate) failed: u64,
}

/// Sends `http://address` these requests in turn, over this many connections.
pub(crate) async fn wrk(
    folder: &Path,
    address: &str,
    requests: &[Request],
    connections: usize,
    run: Duration,
) -> Done<Seen> {
    let script = folder.join("requests.lua");
    let list: Vec<_> = requests.iter().map(Request::lua).collect();
    // The requests are written beforehand: wrk shares the machine with what it measures.
    std::fs::write(
        &script,
        format!(
            "local list, requests, at = {{{}}}, {{}}, 0\n\
             function init(args) for i, one in ipairs(list) do requests[i] = wrk.format(unpack(one)) end end\n\
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
    sender: SendRequest<Full<Bytes>>,
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
        self.send(&Request::get(path)).await
    }

    /// The same of any request.
    pub(crate) async fn send(&mut self, request: &Request) -> Done<(u16, Bytes, Duration)> {
        let mut head =
            hyper::Request::builder().method(request.method).uri(&request.path).header(HOST, &self.host);
        if !request.body.is_empty() {
            head = head.header(CONTENT_TYPE, JSON);
        }
        let request = head.body(Full::from(request.body.clone()))?;
        let begun = Instant::now();
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, body, begun.elapsed()))
    }
}

pub(crate) async fn get(address: &str, path: &str) -> Done<(u16, Bytes)> {
    send(address, &Request::get(path)).await
}

pub(crate) async fn send(address: &str, request: &Request) -> Done<(u16, Bytes)> {
    let (status, body, _) = Client::connect(address).await?.send(request).await?;
    Ok((status, body))
}
