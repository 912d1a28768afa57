//! TLS for tenants' hosts: certificates by the name that a client asks for, read anew when their files change.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use crate::settings::CertificateFiles;

/// How often the files are looked at, so that a renewal needs no restart and no signal.
const FILES_POLL: Duration = Duration::from_secs(1);
/// What is offered by ALPN, the better one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why a certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file that can't be read, or holds no PEM of its kind.
    #[error("listen.certificates: {file}: {reason}; expected {expected}")]
    File {
        /// Its path.
        file: String,
        /// What is wrong with it.
        reason: String,
        /// What it must hold.
        expected: &'static str,
    },
    /// The files don't belong together, or are of a kind that is not known.
    #[error("listen.certificates: {file} can't be used with its key: {reason}")]
    Pair {
        /// The certificate's path.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// Nobody could be served.
    #[error("listen.certificates: expected at least one")]
    None,
}

/// The certificates of a port: a handle, cheap to clone.
#[derive(Debug, Clone)]
pub struct Certificates(Arc<Books>);

#[derive(Debug)]
struct Books {
    files: Vec<CertificateFiles>,
    loaded: RwLock<Loaded>,
}

/// What the files held when they were last read whole.
#[derive(Debug)]
struct Loaded {
    /// By DNS name in lower case, wildcards as they are written: `*.example.com`.
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// The first: for clients that name no host, or one that no certificate has.
    first: Arc<CertifiedKey>,
}

impl Certificates {
    /// Reads all files.
    ///
    /// # Errors
    /// Names the first that can't be used.
    pub fn load(files: &[CertificateFiles]) -> Result<Self, CertificateError> {
        let loaded = RwLock::new(Loaded::read(files)?);
        Ok(Self(Arc::new(Books { files: files.to_vec(), loaded })))
    }

    /// The settings of a listener that shows them.
    ///
    /// # Errors
    /// None with the cryptography that is built in.
    pub fn config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// Takes up changed files, for ever. Those that can't be used leave in force what was: either they are just being
    /// replaced, one after the other, or an operator has to mend them.
    pub async fn follow(self) {
        let mut known = self.modified();
        let mut told = None;
        // Read once in any case: they may have changed since they were loaded.
        let mut is_due = true;
        loop {
            if is_due {
                match Loaded::read(&self.0.files) {
                    Ok(loaded) => {
                        *self.0.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
                        is_due = false;
                    }
                    Err(error) if told.as_ref() != Some(&known) => {
                        tracing::warn!(%error, "certificates not reloaded: those from before stay in force");
                        told = Some(known.clone());
                    }
                    Err(_) => {}
                }
            }
            tokio::time::sleep(FILES_POLL).await;
            let now = self.modified();
            if now != known {
                known = now;
                is_due = true;
            }
        }
    }

    fn modified(&self) -> Vec<Option<SystemTime>> {
        let paths = self.0.files.iter().flat_map(|files| [&files.certificate, &files.key]);
        paths.map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok()).collect()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let loaded = self.0.loaded.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(loaded.for_name(hello.server_name())))
    }
}

impl Loaded {
    fn read(files: &[CertificateFiles]) -> Result<Self, CertificateError> {
        let mut by_name = HashMap::new();
        let mut first = None;
        for files in files {
            let key = Arc::new(certified(files)?);
            let names = key.cert.first().map(names).unwrap_or_default();
            for name in names {
                by_name.entry(name).or_insert_with(|| Arc::clone(&key));
            }
            first.get_or_insert(key);
        }
        Ok(Self { by_name, first: first.ok_or(CertificateError::None)? })
    }

    /// The whole name before a wildcard, which stands for one label: RFC 9525, 6.3.
    fn for_name(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = name.map(str::to_ascii_lowercase) else { return &self.first };
        let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
        self.by_name.get(&name).or_else(wildcard).unwrap_or(&self.first)
    }
}

/// The DNS names of a certificate; none when it can't be understood, which its use as the first one doesn't need.
fn names(certificate: &CertificateDer<'static>) -> Vec<String> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    parsed.map(|parsed| parsed.valid_dns_names().map(str::to_ascii_lowercase).collect()).unwrap_or_default()
}

fn certified(files: &CertificateFiles) -> Result<CertifiedKey, CertificateError> {
    let wrong = |path: &Path, reason: String, expected| CertificateError::File {
        file: path.display().to_string(),
        reason,
        expected,
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| error.to_string());
    let chain = match chain {
        Ok(chain) if chain.is_empty() => Err("it holds no certificate".to_owned()),
        other => other,
    };
    let chain = chain.map_err(|reason| {
        wrong(&files.certificate, reason, "PEM: the host's certificate, then those that signed it")
    })?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| {
        wrong(&files.key, error.to_string(), "PEM: the certificate's private key, not encrypted")
    })?;
    CertifiedKey::from_der(chain, key, &default_provider()).map_err(|error| CertificateError::Pair {
        file: files.certificate.display().to_string(),
        reason: error.to_string(),
    })
}

/// A client's bytes, whether or not they come by TLS.
pub(super) enum Transport {
    Plain(TcpStream),
    /// The handshake goes on when somebody reads: whoever sends nothing has the deadline of a first head.
    Opening(Box<Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
    /// The handshake failed.
    Failed,
}

impl Transport {
    pub(super) fn new(stream: TcpStream, tls: Option<&Arc<ServerConfig>>) -> Self {
        match tls {
            None => Self::Plain(stream),
            Some(config) => Self::Opening(Box::new(TlsAcceptor::from(Arc::clone(config)).accept(stream))),
        }
    }

    /// Goes on with the handshake, if there is one.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self::Opening(accept) = self else { return Poll::Ready(Ok(())) };
        let opened = ready!(Pin::new(accept.as_mut()).poll(cx));
        let (next, outcome) = match opened {
            Ok(stream) => (Self::Tls(Box::new(stream)), Ok(())),
            Err(error) => (Self::Failed, Err(error)),
        };
        *self = next;
        Poll::Ready(outcome)
    }
}

/// Does with whichever stream there is what both can.
macro_rules! either {
    ($self:ident, $cx:ident, $stream:ident => $done:expr) => {{
        let this = $self.get_mut();
        ready!(this.poll_open($cx))?;
        match this {
            Self::Plain($stream) => $done,
            Self::Tls(stream) => {
                let $stream = stream.as_mut();
                $done
            }
            Self::Opening(_) | Self::Failed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }};
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, cx, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, cx, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, cx, stream => Pin::new(stream).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        // Both can.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, cx, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, cx, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
