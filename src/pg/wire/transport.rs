//! `Transport`: bytes to and from the server, with the messages' frames, and nothing of what they mean.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::future::poll_fn;
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::error::{ServerError, WireError};
use crate::pg::socket::Socket;

/// Bytes asked of the socket at a time.
const CHUNK: usize = 16 * 1024;
/// Longest message that is read whole, in bytes: a description of 1,600 columns. Rows are read in pieces, and of an error,
/// whose texts functions choose, no more than this.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Buffers that grew beyond this, in bytes, are let go of: there are thousands of idle connections.
const KEPT_BUFFER: usize = 64 * 1024;
/// The type byte and the length.
pub(super) const FRAME: usize = 5;

/// The socket as it is, or with TLS over it.
pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// Calls the same method on whichever stream it is.
macro_rules! on_stream {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Plain($inner) => $call,
            Stream::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_stream!(self.get_mut(), s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_stream!(self.get_mut(), s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self.get_mut(), s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self.get_mut(), s => Pin::new(s).poll_shutdown(cx))
    }
}

/// A stream and what was not yet written to it or looked at.
pub(super) struct Transport {
    stream: Stream,
    inbox: BytesMut,
    /// What is to be written; it goes out when the next answer is waited for.
    pub(super) outbox: BytesMut,
}

impl Transport {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, inbox: BytesMut::new(), outbox: BytesMut::with_capacity(1024) }
    }

    /// Whether nothing is on its way in either direction, as far as is known.
    pub(super) fn is_empty(&self) -> bool {
        self.inbox.is_empty() && self.outbox.is_empty()
    }

    /// Writes what is to be written, and reads at least one byte.
    ///
    /// Both at once: a server that can't send its rows doesn't read either, and would wait for us while we wait for it.
    async fn fill(&mut self) -> io::Result<()> {
        if self.inbox.capacity() - self.inbox.len() < CHUNK / 2 {
            self.inbox.reserve(CHUNK);
        }
        poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = self.poll_write_out(cx) {
                return Poll::Ready(Err(error));
            }
            let Self { stream, inbox, .. } = self;
            pin!(stream.read_buf(inbox)).poll(cx).map(|read| match read? {
                0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
                _ => Ok(()),
            })
        })
        .await
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, outbox, .. } = self;
        if outbox.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !outbox.is_empty() {
            match pin!(stream.write_buf(outbox)).poll(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(_)) => {}
                other => return other.map_ok(drop),
            }
        }
        Pin::new(stream).poll_flush(cx)
    }

    /// Writes all that is to be written.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_write_out(cx)).await?;
        self.stream.flush().await
    }

    /// Reads until so many bytes are there.
    async fn need(&mut self, bytes: usize) -> io::Result<()> {
        while self.inbox.len() < bytes {
            self.fill().await?;
        }
        Ok(())
    }

    /// The frame of the next message, which stays where it is.
    pub(super) async fn header(&mut self) -> Result<Header, WireError> {
        self.need(FRAME).await?;
        Header::parse(&self.inbox)?.ok_or_else(|| WireError::Protocol("a message without a frame".into()))
    }

    /// The next message, whole.
    pub(super) async fn message(&mut self) -> Result<Message, WireError> {
        self.whole().await?;
        Message::parse(&mut self.inbox)?.ok_or_else(|| WireError::Protocol("half a message".into()))
    }

    /// Reads the next message to its end, and gives its length with the frame.
    async fn whole(&mut self) -> Result<usize, WireError> {
        let length = self.header().await?.len() as usize + 1;
        if length > MAX_MESSAGE {
            return Err(WireError::TooLong { bytes: length, most: MAX_MESSAGE });
        }
        self.need(length).await?;
        Ok(length)
    }

    /// The next message, which is an error. The code and the sentence come first.
    pub(super) async fn error(&mut self) -> Result<ServerError, WireError> {
        let length = self.header().await?.len() as usize + 1;
        let kept = length.min(MAX_MESSAGE);
        self.need(kept).await?;
        let error = ServerError::read(self.inbox.get(FRAME..kept).unwrap_or_default());
        self.skip(length).await?;
        Ok(error)
    }

    /// The body of the next message, which is thrown away when `read` has looked at it.
    pub(super) async fn body<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Result<T, WireError> {
        let length = self.whole().await?;
        let seen = read(self.inbox.get(FRAME..length).unwrap_or_default());
        self.inbox.advance(length);
        Ok(seen)
    }

    /// Throws so many bytes away, without keeping them.
    pub(super) async fn skip(&mut self, mut bytes: usize) -> Result<(), WireError> {
        while bytes > 0 {
            if self.inbox.is_empty() {
                self.fill().await?;
            }
            let here = bytes.min(self.inbox.len());
            self.inbox.advance(here);
            bytes -= here;
        }
        Ok(())
    }

    /// So many bytes, in a piece of their own. What is not here yet goes from the socket right into it.
    pub(super) async fn take(&mut self, bytes: usize) -> Result<Bytes, WireError> {
        let here = bytes.min(self.inbox.len());
        let mut taken = BytesMut::with_capacity(bytes);
        taken.extend_from_slice(self.inbox.get(..here).unwrap_or_default());
        self.inbox.advance(here);
        while taken.len() < bytes {
            // What was to be written may still be on its way.
            poll_fn(|cx| match self.poll_write_out(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => {
                    let missing = (bytes - taken.len()) as u64;
                    pin!((&mut self.stream).take(missing).read_buf(&mut taken)).poll(cx).map(|read| {
                        match read? {
                            0 => Err(io::ErrorKind::UnexpectedEof.into()),
                            _ => Ok(()),
                        }
                    })
                }
            })
            .await?;
        }
        Ok(taken.freeze())
    }

    /// A big-endian number of so many bytes.
    pub(super) async fn number<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.need(N).await?;
        let mut number = [0; N];
        self.inbox.copy_to_slice(&mut number);
        Ok(number)
    }

    /// Reads what has arrived without being waited for; false when the stream has ended. Costs no system call as long
    /// as nothing has arrived.
    pub(super) fn look(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            // Nobody owes us more than a few notices.
            if self.inbox.len() > MAX_MESSAGE {
                return false;
            }
            let Self { stream, inbox, .. } = self;
            match pin!(stream.read_buf(inbox)).poll(&mut cx) {
                Poll::Pending => return true,
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return false,
            }
        }
    }

    /// The tag of the next message, when all of it is here; thrown away then.
    pub(super) fn discard_message(&mut self) -> Result<Option<u8>, WireError> {
        let Some(header) = Header::parse(&self.inbox)? else { return Ok(None) };
        let length = header.len() as usize + 1;
        if self.inbox.len() < length {
            return Ok(None);
        }
        self.inbox.advance(length);
        Ok(Some(header.tag()))
    }

    /// Waits for the end of the stream.
    pub(super) async fn ended(&mut self) {
        while self.fill().await.is_ok() {
            self.inbox.clear();
        }
    }

    /// Says good-bye, as far as that can be done without waiting.
    pub(super) fn terminate(&mut self) {
        postgres_protocol::message::frontend::terminate(&mut self.outbox);
        let _ = self.poll_write_out(&mut Context::from_waker(Waker::noop()));
    }

    /// Lets go of memory that one large answer or value needed.
    pub(super) fn shrink(&mut self) {
        for buffer in [&mut self.inbox, &mut self.outbox] {
            if buffer.is_empty() && buffer.capacity() > KEPT_BUFFER {
                *buffer = BytesMut::new();
            }
        }
    }
}
