//! How a session begins: TLS, the startup message, the login, the key for cancelling.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{AuthenticationSaslBody, ERROR_RESPONSE_TAG, Message};
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::oid::db::rfc5912;

use super::error::WireError;
use super::transport::{Stream, Transport};
use crate::pg::socket::Socket;

/// Most rounds of hashing for a password: eight times PostgreSQL's default, some ten milliseconds. The server says how
/// many, and what it says, any login may have written for itself, by `ALTER ROLE … PASSWORD` with a verifier. Unbounded,
/// it would occupy a thread that serves all tenants for half an hour.
const MAX_ITERATIONS: u32 = 32 * 1024;

/// What a session begins with.
pub(crate) struct Startup<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: Option<&'a [u8]>,
    pub(crate) database: &'a str,
    pub(crate) application_name: &'a str,
    /// Defaults of the session, as in `PGOPTIONS`.
    pub(crate) options: &'a str,
    pub(crate) channel_binding: ChannelBinding,
    /// Set as soon as the server has answered: what it waits for from then on is this login's, or in its database. That it
    /// has taken the login it says only when the session has begun.
    pub(crate) answered: &'a AtomicBool,
}

/// TLS as the URL asks for it.
pub(crate) struct TlsRequest<'a> {
    pub(crate) mode: SslMode,
    /// The name that the server's certificate must bear; none for sockets, which have no TLS.
    pub(crate) hostname: Option<&'a str>,
    pub(crate) config: &'a Arc<rustls::ClientConfig>,
}

/// What the server gave besides the session.
pub(super) struct Begun {
    pub(super) transport: Transport,
    pub(super) process: i32,
    pub(super) secret: i32,
    /// Whether the server is a standby, which it reports from PostgreSQL 14 on.
    pub(super) is_standby: bool,
    /// Whether transactions of this session only read unless they say otherwise.
    pub(super) is_read_only: bool,
}

/// Asks for TLS. Nothing that came before it is taken for an answer that came through it.
pub(super) async fn encrypt(mut socket: Socket, tls: &TlsRequest<'_>) -> Result<Stream, WireError> {
    let Some(hostname) = tls.hostname.filter(|_| tls.mode != SslMode::Disable) else {
        return Ok(Stream::Plain(socket));
    };
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    // One byte and no more: what an attacker puts behind it must not be read as if it had been encrypted.
    match socket.read_u8().await? {
        b'S' => {}
        _ if tls.mode == SslMode::Prefer => return Ok(Stream::Plain(socket)),
        _ => return Err(WireError::Login("the server has no TLS, and the url's sslmode asks for it".into())),
    }
    let name = ServerName::try_from(hostname.to_owned())
        .map_err(|error| WireError::Login(format!("`{hostname}` is no name for a certificate: {error}")))?;
    let stream = TlsConnector::from(Arc::clone(tls.config)).connect(name, socket).await?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// Logs in and reads to the first ReadyForQuery.
pub(super) async fn begin(stream: Stream, startup: &Startup<'_>) -> Result<Begun, WireError> {
    let binding = match &stream {
        Stream::Tls(stream) if startup.channel_binding != ChannelBinding::Disable => server_end_point(stream),
        _ => None,
    };
    let mut transport = Transport::new(stream);
    let parameters = [
        ("client_encoding", "UTF8"),
        ("user", startup.user),
        ("database", startup.database),
        ("application_name", startup.application_name),
        ("options", startup.options),
    ];
    frontend::startup_message(parameters, &mut transport.outbox).map_err(WireError::Unsendable)?;
    authenticate(&mut transport, startup, binding).await?;
    let (mut process, mut secret, mut is_standby, mut is_read_only) = (0, 0, false, false);
    loop {
        match answer(&mut transport).await? {
            Message::BackendKeyData(key) => (process, secret) = (key.process_id(), key.secret_key()),
            Message::ParameterStatus(status) => match status.name()? {
                "in_hot_standby" => is_standby = status.value()? == "on",
                "default_transaction_read_only" => is_read_only = status.value()? == "on",
                _ => {}
            },
            Message::NoticeResponse(_) => {}
            Message::ReadyForQuery(_) => {
                return Ok(Begun { transport, process, secret, is_standby, is_read_only });
            }
            other => return Err(unexpected(other)),
        }
    }
}

async fn authenticate(
    transport: &mut Transport,
    startup: &Startup<'_>,
    binding: Option<Vec<u8>>,
) -> Result<(), WireError> {
    let password = || {
        startup
            .password
            .ok_or_else(|| WireError::Login("the server asks for a password, and there is none".into()))
    };
    let first = answer(transport).await?;
    startup.answered.store(true, Ordering::Relaxed);
    let bound = match first {
        Message::AuthenticationOk => return may_go_unbound(startup),
        Message::AuthenticationCleartextPassword => {
            send(transport, |out| {
                frontend::password_message(password()?, out).map_err(WireError::Unsendable)
            })
            .await?;
            false
        }
        Message::AuthenticationMd5Password(body) => {
            let hash = md5_hash(startup.user.as_bytes(), password()?, body.salt());
            send(transport, |out| {
                frontend::password_message(hash.as_bytes(), out).map_err(WireError::Unsendable)
            })
            .await?;
            false
        }
        Message::AuthenticationSasl(body) => scram(transport, &body, password()?, binding).await?,
        other => return Err(unexpected(other)),
    };
    match answer(transport).await? {
        Message::AuthenticationOk if bound => Ok(()),
        Message::AuthenticationOk => may_go_unbound(startup),
        other => Err(unexpected(other)),
    }
}

fn may_go_unbound(startup: &Startup<'_>) -> Result<(), WireError> {
    match startup.channel_binding {
        ChannelBinding::Require => {
            Err(WireError::Login("the server did not use channel binding, which the url requires".into()))
        }
        _ => Ok(()),
    }
}

/// SCRAM-SHA-256 (RFC 7677), bound to the TLS channel where both sides can; whether it was.
async fn scram(
    transport: &mut Transport,
    body: &AuthenticationSaslBody,
    password: &[u8],
    binding: Option<Vec<u8>>,
) -> Result<bool, WireError> {
    let offered: Vec<_> = body.mechanisms().map(|mechanism| Ok(mechanism.to_owned())).collect()?;
    let offers = |mechanism: &str| offered.iter().any(|offer| offer == mechanism);
    let (mechanism, channel) = match binding {
        Some(hash) if offers(sasl::SCRAM_SHA_256_PLUS) => {
            (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash))
        }
        // Told so, the server notices somebody between us who took the offer away (RFC 5802, "n" and "y").
        Some(_) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
        None => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
    };
    if !offers(mechanism) {
        return Err(WireError::Login(format!("the server offers {}, not {mechanism}", offered.join(", "))));
    }
    let refused = |error: io::Error| WireError::Login(error.to_string());
    let mut scram = sasl::ScramSha256::new(password, channel);
    send(transport, |out| {
        frontend::sasl_initial_response(mechanism, scram.message(), out).map_err(WireError::Unsendable)
    })
    .await?;
    match answer(transport).await? {
        Message::AuthenticationSaslContinue(body) => {
            affordable(body.data())?;
            scram.update(body.data()).map_err(refused)?;
        }
        other => return Err(unexpected(other)),
    }
    send(transport, |out| frontend::sasl_response(scram.message(), out).map_err(WireError::Unsendable))
        .await?;
    match answer(transport).await? {
        Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).map_err(refused)?,
        other => return Err(unexpected(other)),
    }
    Ok(mechanism == sasl::SCRAM_SHA_256_PLUS)
}

/// Refuses a challenge that costs too much. One that can't be read is refused by whoever reads it next.
fn affordable(challenge: &[u8]) -> Result<(), WireError> {
    let asked = challenge.split(|byte| *byte == b',').find_map(|part| part.strip_prefix(b"i="));
    let asked = asked.and_then(|number| std::str::from_utf8(number).ok());
    match asked.map(str::parse) {
        Some(Ok(0..=MAX_ITERATIONS)) | None => Ok(()),
        _ => Err(WireError::Login(format!(
            "the server asks for {} iterations of SCRAM, and {MAX_ITERATIONS} are the most",
            asked.unwrap_or_default()
        ))),
    }
}

/// The server's next message, or its refusal.
async fn answer(transport: &mut Transport) -> Result<Message, WireError> {
    if transport.header().await?.tag() == ERROR_RESPONSE_TAG {
        return Err(WireError::Server(Box::new(transport.error().await?)));
    }
    transport.message().await
}

async fn send(
    transport: &mut Transport,
    write: impl FnOnce(&mut bytes::BytesMut) -> Result<(), WireError>,
) -> Result<(), WireError> {
    write(&mut transport.outbox)?;
    Ok(transport.flush().await?)
}

fn unexpected(message: Message) -> WireError {
    match message {
        Message::AuthenticationGss
        | Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential
        | Message::AuthenticationSspi => WireError::Login(
            "the server asks for a way to log in that manybox does not have; use scram-sha-256".into(),
        ),
        _ => WireError::Protocol("a message that does not belong to a login".into()),
    }
}

/// The hash of the server's certificate that binds SCRAM to this very channel (RFC 5929, `tls-server-end-point`): by
/// the certificate's own hash function, MD5 and SHA-1 replaced by SHA-256. None where its signature has no such
/// function (Ed25519).
fn server_end_point(stream: &TlsStream<Socket>) -> Option<Vec<u8>> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let algorithm = Certificate::from_der(certificate).ok()?.signature_algorithm.oid;
    let digest = match algorithm {
        rfc5912::SHA_1_WITH_RSA_ENCRYPTION
        | rfc5912::SHA_256_WITH_RSA_ENCRYPTION
        | rfc5912::ECDSA_WITH_SHA_256 => &ring::digest::SHA256,
        rfc5912::SHA_384_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_384 => &ring::digest::SHA384,
        rfc5912::SHA_512_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_512 => &ring::digest::SHA512,
        _ => return None,
    };
    Some(ring::digest::digest(digest, certificate).as_ref().to_vec())
}
