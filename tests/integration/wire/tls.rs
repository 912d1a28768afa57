//! TLS and SCRAM as the url asks for them, and a server that is killed.

use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use manybox::embedded::Embedded;
use manybox::pg::Endpoint;
use manybox::pool::{Budget, Pools};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SignatureAlgorithm};
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{NARROW, Tested};
use crate::support::{TestFleet, eventually, one, private_server};

/// An authority whose key is of this kind, and a server's certificate that it signed.
struct Certified {
    authority: String,
    certificate: rcgen::Certificate,
    key: KeyPair,
    issuer: Issuer<'static, KeyPair>,
}

fn certified(kind: &'static SignatureAlgorithm) -> Certified {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate_for(kind).unwrap();
    let text = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    Certified { authority: text, certificate, key, issuer }
}

impl Certified {
    /// A client's certificate of the same authority, and its key.
    fn client(&self, role: &str) -> (String, String) {
        let mut client = CertificateParams::new(Vec::new()).unwrap();
        client.distinguished_name.push(rcgen::DnType::CommonName, role);
        let key = KeyPair::generate().unwrap();
        (client.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Gives a file to whoever owns the data: PostgreSQL takes no key that others could read.
fn hand_over(path: &Path, text: &str, data: &Path) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let owner = std::fs::metadata(data).unwrap();
    std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
}

/// A PostgreSQL with TLS, a fleet on it, and a file of the authority to trust.
struct Secured {
    server: Embedded,
    fleet: TestFleet,
    folder: tempfile::TempDir,
}

impl Secured {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = private_server(folder.path().join("pg"), true).await;
        let fleet = TestFleet::builder().tenants(&["acme"]).build_on(&server.admin_url()).await;
        Self { server, fleet, folder }
    }

    fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// From now on the server has this certificate, or none.
    async fn present(&self, certified: Option<&Certified>) {
        let (superuser, connection) =
            tokio_postgres::connect(&self.server.superuser_url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let data: String = superuser.query_one("SHOW data_directory", &[]).await.unwrap().get(0);
        let data = Path::new(&data);
        if let Some(certified) = certified {
            std::fs::write(self.authority(), &certified.authority).unwrap();
            hand_over(&data.join("server.crt"), &certified.certificate.pem(), data);
            hand_over(&data.join("server.key"), &certified.key.serialize_pem(), data);
        }
        let on = if certified.is_some() { "on" } else { "off" };
        superuser.batch_execute(&format!("ALTER SYSTEM SET ssl = {on}")).await.unwrap();
        superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        eventually("the setting counts", || async {
            superuser.query_one("SHOW ssl", &[]).await.unwrap().get::<_, String>(0) == on
        })
        .await;
    }

    async fn end(self) {
        drop(self.fleet);
        self.server.stop().await.unwrap();
    }

    /// Whether a session of the data plane has TLS; why there is none.
    async fn open(&self, host: &str, port: u16, parameters: &str) -> Result<bool, String> {
        let url = format!("postgres://{host}:{port}/postgres?{parameters}");
        let endpoint = Endpoint::parse("main", &url, Some(&self.authority())).unwrap().0;
        let servers = HashMap::from([("main".to_owned(), (endpoint, Budget::default()))]);
        let pools = Pools::new(servers, Arc::clone(&self.fleet.fleet.keys));
        let mut checkout =
            pools.checkout(&self.fleet.tenant("acme").await).await.map_err(|error| error.to_string())?;
        Ok(one(&mut checkout, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await)
    }
}

#[tokio::test]
async fn tls_and_channel_binding() {
    let secured = Secured::new().await;
    let port = secured.server.tcp_port().unwrap();
    for (certified, binds) in [
        (Some(certified(&rcgen::PKCS_ECDSA_P256_SHA256)), true),
        (Some(certified(&rcgen::PKCS_ECDSA_P384_SHA384)), true),
        // Its signature has no hash of its own, so that nobody agrees on one to bind by.
        (Some(certified(&rcgen::PKCS_ED25519)), false),
        (None, false),
    ] {
        secured.present(certified.as_ref()).await;
        let has_tls = certified.is_some();
        let mode = if has_tls { "require" } else { "disable" };
        eventually("it is presented", || async {
            secured.open("localhost", port, &format!("sslmode={mode}")).await == Ok(has_tls)
        })
        .await;
        for host in ["localhost", "127.0.0.1"] {
            for (mode, expected) in
                [("disable", Some(false)), ("prefer", Some(has_tls)), ("require", has_tls.then_some(true))]
            {
                for binding in ["disable", "prefer", "require"] {
                    let parameters = format!("sslmode={mode}&channel_binding={binding}");
                    let opened = secured.open(host, port, &parameters).await;
                    match (expected, binding) {
                        (None, _) => {
                            assert!(opened.unwrap_err().contains("the server has no TLS"), "{parameters}")
                        }
                        (Some(tls), "require") if !(tls && binds) => {
                            assert!(
                                opened.unwrap_err().contains("channel binding"),
                                "{has_tls} {parameters}"
                            );
                        }
                        (Some(tls), _) => assert_eq!(opened, Ok(tls), "{parameters}"),
                    }
                }
            }
        }
    }
    secured.end().await;
}

/// What a URL alone says: no `root_cert` of the settings.
#[tokio::test]
async fn sslmode_and_sslrootcert_are_libpqs() {
    let secured = Secured::new().await;
    let own = certified(&rcgen::PKCS_ECDSA_P256_SHA256);
    secured.present(Some(&own)).await;
    let port = secured.server.tcp_port().unwrap();
    let strange = secured.folder.path().join("strange.pem");
    std::fs::write(&strange, certified(&rcgen::PKCS_ECDSA_P256_SHA256).authority).unwrap();
    let login = Endpoint::parse("main", &secured.server.admin_url(), None).unwrap().1.unwrap();
    let ask = async |host: &str, parameters: &str| {
        let url = format!("postgres://{host}:{port}/postgres?{parameters}");
        let endpoint = Endpoint::parse("main", &url, None).map_err(|error| error.to_string())?.0;
        let session = manybox::pg::connect(&endpoint, &login, "postgres").await;
        let session = session.map_err(|error| error.to_string())?;
        let row = session.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await;
        Ok::<bool, String>(row.unwrap().get(0))
    };
    let (trusted, strange) = (secured.authority().display().to_string(), strange.display().to_string());
    for (parameters, expected) in [
        ("sslmode=disable".to_owned(), Ok(false)),
        ("sslmode=allow".into(), Ok(false)),
        // Whose certificate that is does not matter.
        ("sslmode=prefer".into(), Ok(true)),
        ("sslmode=require".into(), Ok(true)),
        // With a root it does; `prefer` then goes without.
        (format!("sslmode=require&sslrootcert={trusted}"), Ok(true)),
        (format!("sslmode=prefer&sslrootcert={strange}"), Ok(false)),
        (format!("sslmode=require&sslrootcert={strange}"), Err("certificate")),
        (format!("sslmode=verify-ca&sslrootcert={strange}"), Err("certificate")),
        (format!("sslmode=verify-full&sslrootcert={strange}"), Err("certificate")),
        (format!("sslmode=verify-ca&sslrootcert={trusted}"), Ok(true)),
        (format!("sslmode=verify-full&sslrootcert={trusted}"), Ok(true)),
        // The system's authorities don't know it.
        ("sslrootcert=system".into(), Err("certificate")),
        ("sslmode=verify-full".into(), Err("certificate")),
    ] {
        match (ask("localhost", &parameters).await, expected) {
            (Ok(has_tls), Ok(expected)) => assert_eq!(has_tls, expected, "{parameters}"),
            (Err(words), Err(expected)) => assert!(words.contains(expected), "{parameters}: {words}"),
            (found, expected) => panic!("{parameters}: {found:?} instead of {expected:?}"),
        }
    }
    let empty = secured.folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let words =
        ask("localhost", &format!("sslmode=verify-full&sslrootcert={}", empty.display())).await.unwrap_err();
    assert!(words.contains("no certificate") && words.contains("empty.pem"), "{words}");
    secured.end().await;
}

/// `hostssl … cert`: no password, but a certificate of the role's name.
#[tokio::test]
async fn a_client_certificate_logs_in() {
    let secured = Secured::new().await;
    let own = certified(&rcgen::PKCS_ECDSA_P256_SHA256);
    let (client, key) = own.client("mb_admin");
    secured.present(Some(&own)).await;
    let port = secured.server.tcp_port().unwrap();
    let (superuser, connection) =
        tokio_postgres::connect(&secured.server.superuser_url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let data: String = superuser.query_one("SHOW data_directory", &[]).await.unwrap().get(0);
    let data = Path::new(&data);
    hand_over(&data.join("clients.crt"), &own.authority, data);
    let rules = std::fs::read_to_string(data.join("pg_hba.conf")).unwrap();
    hand_over(&data.join("pg_hba.conf"), &format!("hostssl all mb_admin 127.0.0.1/32 cert\n{rules}"), data);
    superuser.batch_execute("ALTER SYSTEM SET ssl_ca_file = 'clients.crt'").await.unwrap();
    superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let (certificate, secret) =
        (secured.folder.path().join("client.crt"), secured.folder.path().join("client.key"));
    std::fs::write(&certificate, client).unwrap();
    std::fs::write(&secret, key).unwrap();
    let login = manybox::pg::Login { user: "mb_admin".into(), password: None };
    let url = format!(
        "postgres://localhost:{port}/postgres?sslmode=require&sslcert={}&sslkey={}",
        certificate.display(),
        secret.display()
    );
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&secret, readable).unwrap();
    let words = Endpoint::parse("main", &url, None).unwrap_err().to_string();
    assert!(words.contains("chmod 600"), "{words}");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let endpoint = Endpoint::parse("main", &url, None).unwrap().0;
    eventually("it gets in", async || manybox::pg::connect(&endpoint, &login, "postgres").await.is_ok())
        .await;
    let without =
        Endpoint::parse("main", &format!("postgres://localhost:{port}/postgres?sslmode=require"), None);
    manybox::pg::connect(&without.unwrap().0, &login, "postgres").await.err().unwrap();
    secured.end().await;
}

#[tokio::test]
async fn somebody_between_the_router_and_its_server() {
    let secured = Secured::new().await;
    let own = certified(&rcgen::PKCS_ECDSA_P256_SHA256);
    secured.present(Some(&own)).await;
    let port = secured.server.tcp_port().unwrap();
    // With a certificate of another authority.
    let strange = between(&certified(&rcgen::PKCS_ECDSA_P256_SHA256), port).await;
    let refused = secured.open("localhost", strange, "sslmode=require").await.unwrap_err();
    assert!(refused.contains("certificate"), "{refused}");
    // With one that is trusted; to the server it speaks without TLS.
    let trusted = between(&own, port).await;
    let refused =
        secured.open("localhost", trusted, "sslmode=require&channel_binding=require").await.unwrap_err();
    assert!(refused.contains("channel binding"), "{refused}");
    // For another name than the one that was dialled, which only `verify-full` looks at.
    let refused = secured.open("127.0.0.2", trusted, "sslmode=verify-full").await.unwrap_err();
    assert!(refused.contains("certificate"), "{refused}");
    for mode in ["verify-ca", "require"] {
        assert_eq!(secured.open("127.0.0.2", trusted, &format!("sslmode={mode}")).await, Ok(false), "{mode}");
    }
    secured.end().await;
}

/// Ends TLS with this certificate, and passes on to the server without it.
async fn between(certified: &Certified, port: u16) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(certified.certificate.der().to_vec())],
            PrivateKeyDer::try_from(certified.key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut request = [0; 8];
                client.read_exact(&mut request).await?;
                client.write_all(b"S").await?;
                let mut client = acceptor.accept(client).await?;
                let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
            });
        }
    });
    address.port()
}

/// What comes behind the server's answer to the question for TLS was not sent through it.
#[tokio::test]
async fn bytes_in_front_of_tls() {
    let secured = Secured::new().await;
    let own = certified(&rcgen::PKCS_ECDSA_P256_SHA256);
    secured.present(Some(&own)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut request = [0; 8];
            let _ = client.read_exact(&mut request).await;
            let _ = client.write_all(b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await;
            let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
        }
    });
    secured.open("localhost", port, "sslmode=require").await.unwrap_err();
    secured.end().await;
}

fn kill(pid: i64) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_server_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let server = private_server(folder.path().join("pg"), true).await;
    server.supervise();
    let builder = TestFleet::builder().toml(NARROW).tenants(&["acme"]);
    let mut fleet = builder.build_on(&server.admin_url()).await;
    fleet.start_router().await;
    let slow = "CREATE FUNCTION slow(id int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO marks VALUES (id, 'slow'); PERFORM pg_sleep(30); RETURN id; END $$;
        CREATE VIEW slow_marks AS SELECT id, pg_sleep(30)::text AS slept FROM marks;
        GRANT SELECT ON slow_marks TO anon; GRANT EXECUTE ON FUNCTION slow TO anon;";
    let mut tested = Tested::on(fleet, slow).await;
    // All sessions of the server end with either, the fleet's own as well.
    for (method, path, body, whole) in [
        (Method::GET, "slow_marks", "", false),
        (Method::POST, "rpc/slow", r#"{"id":1}"#, false),
        (Method::GET, "slow_marks", "", true),
        (Method::POST, "rpc/slow", r#"{"id":1}"#, true),
    ] {
        let backend = tested.clean().await;
        let killed = async {
            tested.fleet.until_under_way("acme").await;
            kill(if whole { server.postmaster_pid().unwrap().into() } else { backend });
        };
        let (reply, ()) = tokio::join!(tested.ask(method, path, "", body), killed);
        assert!(reply.says_so(), "{path} {whole}: {reply:?}");
        eventually("it is served again", || async { tested.state().await.is_ok() }).await;
        assert_ne!(tested.clean().await, backend);
        tested.fleet.reopen().await;
        tested.owner = tested.fleet.owner("acme").await;
        assert_eq!(tested.made(1).await, 0);
    }
    server.stop().await.unwrap();
}
