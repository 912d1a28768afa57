//! Refused: says in an answer's body why hyper refused a head. It writes such answers itself, and leaves them empty.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::clients::Clients;
use crate::rest::{Code, Error};

/// What a connection of HTTP/1 has in hand: whether bytes that hyper writes may be an answer of ours. A handle.
#[derive(Clone, Default)]
pub(super) struct Exchange(Arc<InHand>);

#[derive(Default)]
struct InHand {
    /// Answers that hyper has not taken to their ends.
    answers: AtomicUsize,
    /// Something of one may still be in hyper's buffer.
    buffered: AtomicBool,
}

impl Exchange {
    /// A request is about to be answered.
    pub(super) fn begin(&self) -> Answering {
        self.0.answers.fetch_add(1, Ordering::AcqRel);
        self.0.buffered.store(true, Ordering::Release);
        Answering(self.clone())
    }

    /// All that hyper had in its buffer has left it. What it took of an answer it put there before it let go of its body.
    fn flushed(&self) {
        if self.0.answers.load(Ordering::Acquire) == 0 {
            self.0.buffered.store(false, Ordering::Release);
        }
    }

    /// Whether all answers of ours have left: what is written now is hyper's own.
    fn is_quiet(&self) -> bool {
        !self.0.buffered.load(Ordering::Acquire)
    }
}

/// An answer that is being made or sent.
pub(super) struct Answering(Exchange);

impl Answering {
    /// Its body, which ends it.
    pub(super) fn of<B>(self, body: B) -> AnswerBody<B> {
        AnswerBody { body, _answering: self }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.answers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of an answer that is being sent.
pub(super) struct AnswerBody<B> {
    body: B,
    _answering: Answering,
}

impl<B: Body + Unpin> Body for AnswerBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client's socket. Where hyper refuses a head, which it does as the last thing on a connection, an answer with a body
/// goes out instead of its own.
///
/// A function of a tenant chooses bodies, and may choose one that looks like such an answer; to replace that would put
/// client and router out of step. So only what is written while no answer of ours is in hand is looked at.
pub(super) struct ExplainedSocket<S> {
    socket: S,
    exchange: Exchange,
    /// What is left to write of an answer in place of hyper's, and how long hyper's is.
    instead: Option<(Bytes, usize)>,
    /// Who is told of it.
    refusals: Option<Refusals>,
}

/// Writes the log's lines of refusals that no route knows of.
#[derive(Clone)]
pub(super) struct Refusals {
    pub(super) clients: Clients,
    pub(super) peer: SocketAddr,
}

impl Refusals {
    pub(super) fn log(&self, status: StatusCode, code: Option<&Code>) {
        if self.clients.logs_refusals() {
            tracing::info!(
                client.address = %self.peer.ip(),
                http.status = status.as_u16(),
                code = code.map(Code::as_str),
                "request"
            );
        }
    }
}

impl<S> ExplainedSocket<S> {
    pub(super) fn new(socket: S, exchange: Exchange) -> Self {
        Self { socket, exchange, instead: None, refusals: None }
    }

    /// The same, and each refusal has its line in the log.
    pub(super) fn telling(self, refusals: Refusals) -> Self {
        Self { refusals: Some(refusals), ..self }
    }
}

impl<S: AsyncWrite + Unpin> ExplainedSocket<S> {
    /// Writes an answer in place of this one, if it is a refusal of hyper's.
    fn poll_explain(&mut self, cx: &mut Context<'_>, written: &[u8]) -> Poll<Option<io::Result<usize>>> {
        if self.instead.is_none() && self.exchange.is_quiet() {
            self.instead = explained(written).map(|(error, answer)| {
                if let Some(refusals) = &self.refusals {
                    refusals.log(error.status(), Some(&error));
                }
                (answer, written.len())
            });
        }
        let Some((left, length)) = &mut self.instead else { return Poll::Ready(None) };
        while !left.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, left)) {
                Ok(0) => return Poll::Ready(Some(Err(io::ErrorKind::WriteZero.into()))),
                Ok(count) => left.advance(count),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        let length = *length;
        self.instead = None;
        Poll::Ready(Some(Ok(length)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ExplainedSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ExplainedSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(self.poll_explain(cx, buffer)) {
            Some(done) => Poll::Ready(done),
            None => Pin::new(&mut self.socket).poll_write(cx, buffer),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = buffers
            && let Some(done) = ready!(self.poll_explain(cx, only))
        {
            return Poll::Ready(done);
        }
        Pin::new(&mut self.socket).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.exchange.flushed();
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The answer in place of hyper's to a head that it refuses; `None` when this is no such.
fn explained(written: &[u8]) -> Option<(Code, Bytes)> {
    let status = written.strip_prefix(b"HTTP/1.1 ").filter(|_| written.ends_with(b"\r\n\r\n"))?.get(..3)?;
    let error = match status {
        b"400" => Error::new(Code::UnreadableHead, "The request's head can't be read").with_hint(
            "Percent-encode blanks, control characters and bytes that are no UTF-8 in the URL, and check its headers",
        ),
        b"414" => Error::new(Code::UrlTooLong, "The request's URL is longer than 65534 bytes")
            .with_hint("Send long lists in a body: call a function by POST"),
        b"431" => Error::new(Code::HeadTooLarge, "The request has too many or too long headers")
            .with_hint("At most 100 headers are taken; send fewer and shorter ones"),
        _ => return None,
    };
    let code = error.code().clone();
    let mut response: Response<Bytes> = error.into_response();
    let length = response.body().len();
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    // Nobody knows whose it is, and it tells nothing.
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut answer = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in response.headers() {
        answer.extend_from_slice(name.as_str().as_bytes());
        answer.extend_from_slice(b": ");
        answer.extend_from_slice(value.as_bytes());
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(response.body());
    Some((code, answer.into()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const REFUSAL: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test]
    async fn only_hypers_own_answers_are_replaced() {
        let (mut client, socket) = duplex(4096);
        let exchange = Exchange::default();
        let mut socket = ExplainedSocket::new(socket, exchange.clone());
        // A tenant's answer that looks like one: while it is made, while it is in hyper's buffer, and in pieces.
        let answering = exchange.begin();
        socket.write_all(REFUSAL).await.unwrap();
        socket.flush().await.unwrap();
        socket.write_all(REFUSAL).await.unwrap();
        drop(answering);
        socket.write_all(REFUSAL).await.unwrap();
        socket.flush().await.unwrap();
        let mut read = vec![0; 3 * REFUSAL.len()];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(read, REFUSAL.repeat(3));
        socket.write_all(REFUSAL).await.unwrap();
        drop(socket);
        let mut last = String::new();
        client.read_to_string(&mut last).await.unwrap();
        let (head, body) = last.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 431 ") && head.contains(&format!("content-length: {}", body.len()))
        );
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["code"], "MBX116");
    }
}
