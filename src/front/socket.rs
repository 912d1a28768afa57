//! `Socket`: a client's socket that tells its connection what it moves and when it is blocked.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::clients::Client;
use super::tls::Transport;

/// Bytes of a head, or of a single read, above which hyper's buffer has grown.
const USUAL: usize = 16 * 1024;
/// Bytes written at a time, after which others have their turn on this thread. Some tens of microseconds: a client that takes
/// a long answer as fast as it comes would keep the thread for all of it.
const STINT: usize = 128 * 1024;

pub(super) struct Socket {
    stream: Transport,
    client: Arc<Client>,
    /// Bytes read since the request of this number, while none was under way: those of the next one's head.
    head: (u32, usize),
    has_grown: bool,
    /// Bytes written since others had their turn.
    stint: usize,
}

impl Socket {
    pub(super) fn new(stream: Transport, client: Arc<Client>) -> Self {
        Self { stream, client, head: (0, 0), has_grown: false, stint: 0 }
    }

    /// Whether it has written for long enough. Then it goes on when the others have had their turn.
    fn yields(&mut self, cx: &Context<'_>) -> bool {
        let yields = self.stint >= STINT;
        if yields {
            self.stint = 0;
            cx.waker().wake_by_ref();
        }
        yields
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

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => {
                self.stint += bytes;
                self.client.flow.wrote(*bytes);
            }
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
        if this.yields(cx) {
            return Poll::Pending;
        }
        let written = Pin::new(&mut this.stream).poll_write(cx, &bytes[..bytes.len().min(STINT)]);
        this.wrote(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The first are written alone where they are long.
        let mut total = 0;
        let short = bytes.iter().take_while(|slice| {
            total += slice.len();
            total <= STINT
        });
        match short.count() {
            0 => {
                let first = bytes.first().map_or(&[][..], |slice| slice);
                self.poll_write(cx, first)
            }
            count => {
                let this = self.get_mut();
                if this.yields(cx) {
                    return Poll::Pending;
                }
                let written = Pin::new(&mut this.stream).poll_write_vectored(cx, &bytes[..count]);
                this.wrote(written)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Asked when all that was to be written has been.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        // TLS keeps what the socket doesn't take.
        if flushed.is_pending() {
            this.client.flow.blocked()
        } else {
            this.client.flow.flushed()
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpSocket, TcpStream};

    use super::*;
    use crate::front::Clients;
    use crate::settings::ListenSettings;
    use crate::telemetry::Metrics;

    #[tokio::test]
    async fn a_long_answer_leaves_others_their_turn() {
        let listener = TcpSocket::new_v4().unwrap();
        listener.set_send_buffer_size(1024 * 1024).unwrap();
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = listener.listen(1).unwrap();
        let mut taker = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let clients = Clients::new(&ListenSettings::default(), Metrics::default());
        let mut socket = Socket::new(Transport::Plain(stream), clients.admit(peer.ip()).unwrap());
        let piece = vec![1; 64 * 1024];
        let (long, pieces) = (piece.repeat(64), vec![IoSlice::new(&piece); 64]);
        // As hyper writes: until there is no going on.
        let mut cx = Context::from_waker(Waker::noop());
        let mut written = 0;
        while let Poll::Ready(more) = Pin::new(&mut socket).poll_write(&mut cx, &long) {
            written += more.unwrap();
        }
        assert!(written > 0 && written <= STINT, "{written}");
        let mut vectored = 0;
        while let Poll::Ready(more) = Pin::new(&mut socket).poll_write_vectored(&mut cx, &pieces) {
            vectored += more.unwrap();
        }
        assert!(vectored > 0 && vectored <= STINT, "{vectored}");
        // And it goes on.
        let mut taken = vec![0; written + vectored + long.len()];
        let (given, read) = tokio::join!(socket.write_all(&long), taker.read_exact(&mut taken));
        assert!(given.is_ok() && read.is_ok() && taken.iter().all(|byte| *byte == 1));
    }
}
