//! TLS for tenants' hosts: the certificate by name, renewed without a restart, and hosts that a proxy may ask about.

use std::path::Path;
use std::sync::Arc;

use manybox::front::{self, Certificates, Listener};
use manybox::settings::CertificateFiles;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{TestFleet, eventually};

/// Writes a certificate that signs itself, and its key.
fn certificate(folder: &Path, file: &str, names: &[&str]) -> (CertificateFiles, CertificateDer<'static>) {
    let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let files = CertificateFiles {
        certificate: folder.join(format!("{file}.pem")),
        key: folder.join(format!("{file}.key")),
    };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    (files, made.cert.der().clone())
}

/// A session in which this certificate alone is trusted.
async fn connect(
    address: std::net::SocketAddr,
    name: &str,
    trusted: &CertificateDer<'static>,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let socket = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), socket).await
}

async fn shown(address: std::net::SocketAddr, name: &str, trusted: &CertificateDer<'static>) -> bool {
    connect(address, name, trusted, &[]).await.is_ok()
}

struct Https {
    fleet: TestFleet,
    address: std::net::SocketAddr,
    certificates: Certificates,
}

async fn serve(files: &[CertificateFiles]) -> Https {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let app = fleet.app.clone().unwrap();
    let certificates = Certificates::load(files).unwrap();
    app.follow(&certificates);
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let listener = Listener::with_tls(tcp, certificates.config().unwrap());
    let (service, clients) = (front::router(app.clone()), app.clients.clone());
    tokio::spawn(front::serve(listener, service, clients, std::future::pending()));
    Https { fleet, address, certificates }
}

#[tokio::test]
async fn a_host_gets_its_own_certificate_and_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (first, own) = certificate(folder.path(), "first", &["api.first.test"]);
    let (second, wild) = certificate(folder.path(), "second", &["*.second.test", "second.test"]);
    let https = serve(&[first, second]).await;
    let at = https.address;
    assert!(shown(at, "api.first.test", &own).await);
    for name in ["acme.second.test", "ACME.second.test", "second.test"] {
        assert!(shown(at, name, &wild).await, "{name}");
    }
    // The first, which isn't theirs: the client says so.
    for name in ["a.b.second.test", "elsewhere.test"] {
        assert!(!shown(at, name, &wild).await && !shown(at, name, &own).await, "{name}");
    }

    // Longer than TLS takes at a time.
    let mut stream = connect(at, "api.first.test", &own, &[b"http/1.1"]).await.unwrap();
    let path = format!("/acme/items?select=id,name&name=neq.{}", "x".repeat(30_000));
    let head = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let stream = connect(at, "api.first.test", &own, &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(https.fleet.get("/acme/items").await.status, 200, "without TLS as before");
}

#[tokio::test]
async fn what_is_no_tls_ends_its_own_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (files, own) = certificate(folder.path(), "own", &["api.test"]);
    let https = serve(&[files]).await;
    for bytes in
        [&b"GET /acme/items HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"[..], &[0x16, 3, 1, 255, 255, 0, 1, 2]]
    {
        let mut socket = TcpStream::connect(https.address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    assert!(shown(https.address, "api.test", &own).await);
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (files, old) = certificate(folder.path(), "own", &["api.test"]);
    let https = serve(std::slice::from_ref(&files)).await;
    assert!(shown(https.address, "api.test", &old).await);
    let (_, new) = certificate(folder.path(), "own", &["api.test"]);
    eventually("the new one is shown", || shown(https.address, "api.test", &new)).await;
    assert!(!shown(https.address, "api.test", &old).await);

    // A renewal that is half there: the certificate of one key beside another.
    let pem = std::fs::read(&files.certificate).unwrap();
    let (other, _) = certificate(folder.path(), "other", &["api.test"]);
    std::fs::copy(&other.certificate, &files.certificate).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert!(shown(https.address, "api.test", &new).await, "what was stays");
    std::fs::remove_file(&files.certificate).unwrap();
    std::fs::write(&files.certificate, pem).unwrap();
    assert!(shown(https.address, "api.test", &new).await);
    drop(https.certificates);
}

#[test]
fn what_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (own, _) = certificate(folder.path(), "own", &["a.test"]);
    let (other, _) = certificate(folder.path(), "other", &["a.test"]);
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let absent = folder.path().join("absent.pem");
    for (certificate, key, named) in [
        (&absent, &own.key, "absent.pem"),
        (&own.certificate, &absent, "absent.pem"),
        (&empty, &own.key, "empty.pem"),
        (&own.certificate, &empty, "empty.pem"),
        (&own.certificate, &own.certificate, "own.pem"),
        (&own.certificate, &other.key, "own.pem"),
    ] {
        let files = CertificateFiles { certificate: certificate.clone(), key: key.clone() };
        let error = Certificates::load(&[files]).unwrap_err().to_string();
        assert!(error.contains("listen.certificates") && error.contains(named), "{named}: {error}");
    }
    assert!(Certificates::load(&[]).is_err());
}
