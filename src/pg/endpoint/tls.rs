//! TLS to a server as libpq's `sslmode`, `sslrootcert`, `sslcert` and `sslkey` mean it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Whether a connection is encrypted, and what of the server's certificate is looked at: libpq's `sslmode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Encryption {
    /// Not.
    Disable,
    /// Where the server wants it.
    Allow,
    /// Where the server has it.
    #[default]
    Prefer,
    /// Always; whose certificate that is does not matter, unless there are roots.
    Require,
    /// The certificate must come from one of the roots.
    VerifyCa,
    /// And be that of the host.
    VerifyFull,
}

impl Encryption {
    const ALL: [(&'static str, Self); 6] = [
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    pub(super) fn named(name: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, mode)| *mode).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("sslmode={name}: expected one of {}", known.join(", "))
        })
    }
}

/// Whose certificates are trusted: libpq's `sslrootcert`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Roots {
    /// Those of a PEM file.
    File(PathBuf),
    /// The system's.
    System,
}

impl Roots {
    pub(super) fn named(name: &str) -> Self {
        if name == "system" { Self::System } else { Self::File(name.into()) }
    }
}

/// What the server is shown: libpq's `sslcert` and `sslkey`.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    certificate: PathBuf,
    key: PathBuf,
}

impl Identity {
    pub(super) fn of(certificate: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<Self>, String> {
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some(Self { certificate, key })),
            (None, None) => Ok(None),
            (Some(_), None) => Err("its url has sslcert without sslkey: give both".into()),
            (None, Some(_)) => Err("its url has sslkey without sslcert: give both".into()),
        }
    }
}

/// All of it, free of contradictions.
#[derive(Debug, Default)]
pub(super) struct TlsSettings {
    pub(super) encryption: Encryption,
    roots: Option<Roots>,
    identity: Option<Identity>,
}

impl TlsSettings {
    pub(super) fn new(
        given: Option<Encryption>,
        roots: Option<Roots>,
        identity: Option<Identity>,
        only_sockets: bool,
    ) -> Result<Self, String> {
        let encryption = match (&roots, given) {
            // As libpq: no socket has TLS.
            _ if only_sockets => Encryption::Disable,
            // Anybody gets a certificate of the system's authorities for a name of his own.
            (Some(Roots::System), None) => Encryption::VerifyFull,
            (Some(Roots::System), Some(mode)) if mode < Encryption::VerifyFull => {
                return Err(
                    "sslrootcert=system needs sslmode=verify-full: a weaker one would trust anybody's host"
                        .into(),
                );
            }
            (None, Some(Encryption::VerifyCa)) => {
                return Err(
                    "sslmode=verify-ca needs sslrootcert=FILE: the certificate authority to trust".into()
                );
            }
            (_, given) => given.unwrap_or_default(),
        };
        Ok(Self { encryption, roots, identity })
    }
}

/// The TLS client. Files are read also where the mode needs none of them: a wrong one is found now, not at the next change.
pub(super) fn client(settings: &TlsSettings) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let roots = match (&settings.roots, settings.encryption) {
        (Some(roots), _) => Some(load(roots)?),
        (None, Encryption::VerifyFull) => Some(load(&Roots::System)?),
        (None, _) => None,
    };
    let builder = match roots {
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        Some(roots) if settings.encryption == Encryption::VerifyFull => builder.with_root_certificates(roots),
        Some(roots) => {
            let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let chain = chain.map_err(|e| e.to_string())?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyHost(chain)))
        }
    };
    let config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.load()?;
            builder.with_client_auth_cert(chain, key).map_err(|e| {
                format!(
                    "sslcert `{}` and sslkey `{}`: {e}",
                    identity.certificate.display(),
                    identity.key.display()
                )
            })?
        }
    };
    Ok(Arc::new(config))
}

fn load(roots: &Roots) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::System => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err("this system has no certificates to trust; give sslrootcert=FILE".into());
            }
        }
        Roots::File(path) => {
            let unreadable = |e: &dyn std::fmt::Display| format!("sslrootcert `{}`: {e}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unreadable(&e))? {
                store.add(certificate.map_err(|e| unreadable(&e))?).map_err(|e| unreadable(&e))?;
            }
            if store.is_empty() {
                return Err(unreadable(&"there is no certificate in it (expected PEM)"));
            }
        }
    }
    Ok(store)
}

impl Identity {
    fn load(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(&self.certificate).and_then(Iterator::collect);
        let chain = chain.map_err(|e| format!("sslcert `{certificate}`: {e}"))?;
        if chain.is_empty() {
            return Err(format!("sslcert `{certificate}`: there is no certificate in it (expected PEM)"));
        }
        let found = fs::metadata(&self.key).map_err(|e| format!("sslkey `{key}`: {e}"))?;
        // As libpq: 0600, or 0640 where it is root's.
        let forbidden = if found.uid() == 0 { 0o027 } else { 0o077 };
        if found.mode() & forbidden != 0 {
            return Err(format!("sslkey `{key}`: others may read or change it; `chmod 600` it"));
        }
        let secret = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| format!("sslkey `{key}`: {e}"))?;
        Ok((chain, secret))
    }
}

/// Takes any certificate: `require` and less, without roots. The other side has its key all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Takes a certificate of the roots, whichever host's it is: `verify-ca`.
#[derive(Debug)]
struct AnyHost(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyHost {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(certificate, between, name, ocsp, now) {
            // The name is looked at after the chain.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
