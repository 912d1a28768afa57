//! Outbound: a connection to an HTTP/1.1 server, in the clear or by TLS, for requests that manybox makes of its own accord.
//!
//! Which addresses may be asked, and for how long an answer is waited for, is the caller's matter.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// Where to: what a URL says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// A name or an address, an IPv6 one without its brackets.
    pub host: String,
    /// As it is, or that of the scheme.
    pub port: u16,
    /// Whether by TLS.
    pub is_tls: bool,
    /// What the `Host` header says.
    authority: String,
}

impl Origin {
    /// That of an absolute URL; `None` for any other.
    pub fn of(url: &Uri) -> Option<Self> {
        let is_tls = match url.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = url.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        (!host.is_empty()).then(|| Self { host, port, is_tls, authority: authority.as_str().to_owned() })
    }

    /// The addresses that its host has now.
    ///
    /// # Errors
    /// When there is none; a sentence.
    pub async fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        Ok(found.map_err(|error| format!("`{}`: {error}", self.host))?.collect())
    }
}

/// Whose certificates are believed: those of the system, read when the first is asked for.
#[derive(Debug, Default)]
pub struct Trust(OnceCell<Arc<ClientConfig>>);

/// A connection. It ends when it is dropped.
pub struct Link {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    _driver: AbortOnDropHandle<hyper::Result<()>>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body, or why it could not be read.
    pub body: Result<Bytes, String>,
}

impl Link {
    /// Connects to this one of the origin's addresses.
    ///
    /// # Errors
    /// A sentence.
    pub async fn open(origin: &Origin, address: SocketAddr, trust: &Trust) -> Result<Self, String> {
        let socket = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let authority = origin.authority.clone();
        if !origin.is_tls {
            return Self::over(TokioIo::new(socket), authority).await;
        }
        let name = ServerName::try_from(origin.host.clone()).map_err(|error| error.to_string())?;
        let tls = trust.0.get_or_try_init(|| async { trusted() }).await?;
        let socket =
            TlsConnector::from(Arc::clone(tls)).connect(name, socket).await.map_err(|e| e.to_string())?;
        Self::over(TokioIo::new(socket), authority).await
    }

    async fn over<S>(socket: S, authority: String) -> Result<Self, String>
    where
        S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(socket).await.map_err(|error| error.to_string())?;
        // Beside the answer, because it may end with it; and it ends with who waits for it.
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        Ok(Self { sender, authority, _driver: driver })
    }

    /// Whether the other side has not closed it, as far as is known.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request and reads its answer, up to so many bytes. Redirects are not followed.
    ///
    /// # Errors
    /// A sentence.
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Vec<u8>,
        max_answer: usize,
    ) -> Result<Answer, String> {
        let request = Request::builder().method(method).uri(path).body(Full::from(body));
        let mut request = request.map_err(|error| error.to_string())?;
        *request.headers_mut() = headers;
        let host = self.authority.parse().map_err(|_| "its host can't be a header".to_owned())?;
        request.headers_mut().insert(header::HOST, host);
        self.sender.ready().await.map_err(|error| error.to_string())?;
        let response = self.sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), max_answer).collect().await;
        let body =
            body.map(Collected::to_bytes).map_err(|error| format!("its answer can't be read: {error}"));
        Ok(Answer { status, body })
    }
}

fn trusted() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("the system has no certificates to trust".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_url_leads() {
        for (url, expected) in [
            ("http://127.0.0.1:4318", Some(("127.0.0.1", 4318, false))),
            ("https://otel.example/v1", Some(("otel.example", 443, true))),
            ("http://[::1]/", Some(("::1", 80, false))),
            ("https://user:secret@otel.example/", None),
            ("ftp://otel.example/", None),
            ("/v1/traces", None),
            ("otel.example:4318", None),
        ] {
            let origin = url.parse().ok().and_then(|url| Origin::of(&url));
            let found = origin.as_ref().map(|origin| (origin.host.as_str(), origin.port, origin.is_tls));
            assert_eq!(found, expected, "{url}");
        }
    }
}
