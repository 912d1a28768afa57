//! `Socket`: a client's socket that tells its connection what it moves and when it is blocked.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::clients::Client;

/// Bytes of a head, or of a single read, above which hyper's buffer has grown.
const USUAL: usize = 16 * 1024;

pub(super) struct Socket {
    stream: TcpStream,
    client: Arc<Client>,
    /// Bytes read since the request of this number, while none was under way: those of the next one's head.
    head: (u32, usize),
    has_grown: bool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, client: Arc<Client>) -> Self {
        Self { stream, client, head: (0, 0), has_grown: false }
    }

    fn read(&mut self, bytes: usize) -> io::Result<()> {
        let (requests, is_idle) = self.client.requests();
        if requests != self.head.0 {
            self.head = (requests, 0);
        }
        if is_idle {
            self.head.1 += bytes;
        }
        if !self.has_grown && (self.head.1 > USUAL || bytes > USUAL) {
            self.has_grown = true;
            if !self.client.grow() {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
        }
        Ok(())
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.client.flow.wrote(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.client.flow.blocked(),
        }
        written
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        Poll::Ready(this.read(buffer.filled().len() - before))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bytes);
        this.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Asked when all that was to be written has been.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.client.flow.flushed();
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
