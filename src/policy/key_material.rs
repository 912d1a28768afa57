//! What is no secret of HS256: public keys, and other texts that people hand around.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

use super::Invalid;

/// Shortest word of a text that is looked at as an encoding of something else, in bytes: a key is longer.
const MIN_ENCODED: usize = 40;
/// An encoding of an encoding of a key is still no secret; nobody goes further by mistake.
const MAX_DEPTH: usize = 3;

/// What a key material turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyMaterial {
    /// PEM, or a PEM-like armor (RFC 7468, RFC 4716, OpenPGP).
    Pem,
    /// A key or certificate in DER, such as a SubjectPublicKeyInfo.
    Der,
    /// A key as OpenSSH writes it.
    Ssh,
    /// A JWK or a JWKS.
    Jwk,
    /// A key as XML or as OpenSSL prints it.
    Printed,
    /// An uncompressed point of an elliptic curve (SEC 1, 2.3.3).
    Point,
    /// A token.
    Jwt,
    /// Where a key can be fetched.
    Url,
}

impl KeyMaterial {
    /// What the bytes are, themselves or encoded in base64 or hexadecimal; `None` if they may be a secret. A public key
    /// without any shape (32 bytes of Ed25519, a bare modulus) can't be told from one.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Self::within(bytes, MAX_DEPTH)
    }

    fn within(bytes: &[u8], depth: usize) -> Option<Self> {
        if is_der(bytes) {
            return Some(Self::Der);
        }
        if is_ssh_key(bytes) {
            return Some(Self::Ssh);
        }
        if matches!(bytes.len(), 65 | 97 | 133) && bytes[0] == 4 {
            return Some(Self::Point);
        }
        // UTF-16, as some editors save a key, has a NUL beside each letter.
        let text: String = String::from_utf8_lossy(bytes).chars().filter(|c| *c != '\0').collect();
        let text = text.trim_start_matches('\u{feff}').trim();
        if let Some(found) = Self::of_text(text) {
            return Some(found);
        }
        let depth = depth.checked_sub(1)?;
        let joined: String = text.split_whitespace().collect();
        let words =
            text.split(|c: char| c.is_whitespace() || "\"',:;=".contains(c)).filter(|word| *word != text);
        std::iter::once(joined.as_str())
            .chain(words)
            .filter(|word| word.len() >= MIN_ENCODED)
            .flat_map(|word| [base64(word), hexadecimal(word)])
            .flatten()
            .find_map(|decoded| Self::within(&decoded, depth))
    }

    fn of_text(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
        if has(&["--begin", "-- begin", "--end", "-- end"]) {
            return Some(Self::Pem);
        }
        if has(&["ssh-rsa", "ssh-dss", "ssh-ed", "ecdsa-sha2-", "sk-ssh-"]) && text.contains("AAAA") {
            return Some(Self::Ssh);
        }
        // Also with single or escaped quotes, and in the middle of something that is no JSON.
        if has(&["kty\"", "kty'", "kty\\", "kty%22", "kty:"]) {
            return Some(Self::Jwk);
        }
        if has(&["<rsakeyvalue", "<modulus", "modulus=", "modulus:", "public-key:"]) {
            return Some(Self::Printed);
        }
        if lower.starts_with("https://") || lower.starts_with("http://") {
            return Some(Self::Url);
        }
        is_token(text).then_some(Self::Jwt)
    }

    /// What it is, in words.
    fn words(self) -> &'static str {
        match self {
            Self::Pem => "a PEM file",
            Self::Der => "a key or certificate in DER",
            Self::Ssh => "an OpenSSH key",
            Self::Jwk => "a JWK, but not read as one",
            Self::Printed => "a printed key",
            Self::Point => "a point of an elliptic curve",
            Self::Jwt => "a token",
            Self::Url => "a URL",
        }
    }

    /// Why it can't be the secret of HS256, and what to do.
    pub fn refusal(self) -> Invalid {
        Invalid(format!(
            "jwt_secret: is {}: used as the secret of HS256, it would let everybody who has it sign tokens. Give a public \
             key as a JWK or a JWKS, {{\"kty\":\"RSA\",\"n\":…,\"e\":…}}; make a secret with `openssl rand -base64 32`",
            self.words()
        ))
    }
}

/// Whether this is one DER SEQUENCE that begins as keys and certificates do: with a SEQUENCE or an INTEGER that fits.
fn is_der(bytes: &[u8]) -> bool {
    let Some((0x30, content, [])) = element(bytes.trim_ascii_end()).or_else(|| element(bytes)) else {
        return false;
    };
    matches!(element(content), Some((0x30 | 0x02, inner, _)) if !inner.is_empty())
}

/// Tag, content and what follows, of a DER element with a definite length.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = match usize::from(first) {
        short @ 0..=0x7f => (short, rest),
        long @ 0x81..=0x83 => {
            let (length, rest) = rest.split_at_checked(long - 0x80)?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// The binary form of RFC 4253, 6.6: a string that names the kind of key comes first.
fn is_ssh_key(bytes: &[u8]) -> bool {
    let kinds: [&[u8]; 5] = [b"ssh-", b"ecdsa-", b"sk-ssh-", b"sk-ecdsa-", b"rsa-sha2-"];
    matches!(bytes, [0, 0, 0, 7..=64, name @ ..] if kinds.iter().any(|kind| name.starts_with(kind)))
}

/// Whether this is a JWT in its compact form.
fn is_token(text: &str) -> bool {
    let mut parts = text.split('.');
    let (Some(head), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let head = base64(head).and_then(|head| serde_json::from_slice::<serde_json::Value>(&head).ok());
    head.is_some_and(|head| head.get("alg").is_some())
}

/// Base64 in either alphabet, with padding or without.
fn base64(text: &str) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const ENGINE: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    ENGINE.decode(text.replace('-', "+").replace('_', "/")).ok()
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    (digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit))
        .then(|| digits.chunks(2).map(pair).collect())
        .flatten()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    /// Ed25519, as `openssl pkey -pubout -outform DER` writes it (RFC 8410, 10.1).
    const SPKI: [u8; 44] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00\x19\xbf\x44\x09\x69\x84\xcd\xfe\x85\x41\xba\xc1\x67\xdc\x3b\x96\xc8\x50\x86\xaa\x30\xb6\xb6\xcb\x0c\x5c\x38\xad\x70\x31\x66\xe1";
    const PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    const SSH: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBm/RAlphM3+hUG6wWfcO5bIUIaqMLa2ywxcOK1wMWbh ann@host";
    const JWK: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    #[test]
    fn public_keys_in_any_shape_are_told() {
        let hexadecimal: String = SPKI.iter().map(|byte| format!("{byte:02x}")).collect();
        let utf16: Vec<u8> = PEM.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let wrapped = format!("{}\n{}", &STANDARD.encode(PEM)[..64], &STANDARD.encode(PEM)[64..]);
        let body = PEM.lines().nth(1).unwrap();
        let point = [&[4_u8][..], &[7; 64]].concat();
        for (what, bytes, expected) in [
            ("PEM", PEM.into(), KeyMaterial::Pem),
            ("PEM with \\n", PEM.replace('\n', "\\n"), KeyMaterial::Pem),
            ("PEM on one line", PEM.replace('\n', " "), KeyMaterial::Pem),
            ("PEM with CRLF behind a space", format!("  {}", PEM.replace('\n', "\r\n")), KeyMaterial::Pem),
            ("PEM in small letters", PEM.to_lowercase(), KeyMaterial::Pem),
            ("a certificate", PEM.replace("PUBLIC KEY", "CERTIFICATE"), KeyMaterial::Pem),
            ("a private key", PEM.replace("PUBLIC", "PRIVATE"), KeyMaterial::Pem),
            ("RFC 4716", "---- BEGIN SSH2 PUBLIC KEY ----\nAAAAB3".into(), KeyMaterial::Pem),
            ("PEM with a byte order mark", format!("\u{feff}{PEM}"), KeyMaterial::Pem),
            ("PEM with spaces encoded", PEM.replace(' ', "%20"), KeyMaterial::Pem),
            ("base64 of PEM", STANDARD.encode(PEM), KeyMaterial::Pem),
            ("base64 of PEM over lines", wrapped, KeyMaterial::Pem),
            ("base64 of base64 of PEM", STANDARD.encode(STANDARD.encode(PEM)), KeyMaterial::Pem),
            ("base64url of PEM", URL_SAFE_NO_PAD.encode(PEM), KeyMaterial::Pem),
            ("PEM without its first line", PEM.split_once('\n').unwrap().1.into(), KeyMaterial::Pem),
            ("PEM without its armor", body.into(), KeyMaterial::Der),
            ("PEM without its armor, named", format!("key: {body}"), KeyMaterial::Der),
            ("DER in hexadecimal", hexadecimal, KeyMaterial::Der),
            ("OpenSSH", SSH.into(), KeyMaterial::Ssh),
            ("OpenSSH with options", format!("no-pty,command=\"x\" {SSH}"), KeyMaterial::Ssh),
            ("OpenSSH without its name", SSH.split(' ').nth(1).unwrap().into(), KeyMaterial::Ssh),
            ("a JWK in a list", format!("[{JWK}]"), KeyMaterial::Jwk),
            ("a JWK as a text", serde_json::Value::from(JWK).to_string(), KeyMaterial::Jwk),
            ("a JWK cut off", JWK[..70].into(), KeyMaterial::Jwk),
            ("a JWK with single quotes", JWK.replace('"', "'"), KeyMaterial::Jwk),
            ("base64 of a JWK", STANDARD.encode(JWK), KeyMaterial::Jwk),
            ("XML", "<RSAKeyValue><Modulus>xA7SE</Modulus></RSAKeyValue>".into(), KeyMaterial::Printed),
            ("OpenSSL's print", "Public-Key: (2048 bit)\nModulus:\n 00:a1".into(), KeyMaterial::Printed),
            ("a URL", "https://login.example.com/.well-known/jwks.json".into(), KeyMaterial::Url),
            ("a token", "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.AAAA".into(), KeyMaterial::Jwt),
            ("base64 of a point", STANDARD.encode(&point), KeyMaterial::Point),
        ] {
            assert_eq!(KeyMaterial::of(bytes.as_bytes()), Some(expected), "{what}");
        }
        assert_eq!(KeyMaterial::of(&SPKI), Some(KeyMaterial::Der));
        assert_eq!(KeyMaterial::of(&[&SPKI[..], b"\n"].concat()), Some(KeyMaterial::Der));
        assert_eq!(KeyMaterial::of(&utf16), Some(KeyMaterial::Pem));
        let error = KeyMaterial::Pem.refusal().0;
        assert!(error.contains("PEM") && error.contains("JWKS") && error.contains("openssl rand"), "{error}");
    }

    #[test]
    fn secrets_are_not_taken_for_keys() {
        for text in [
            "reallyreallyreallyreallyverysafe",
            "correct horse battery staple, and then some more",
            "k3N1z0S4xGQ0pQ9y1mC3b0o6y5Jr2m9dO0tq1sYw7uE=",
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "a--b--c--d--e--f--g--h--i--j--k--l--m",
            "my.secret.of.many.words.with.dots.in.it",
        ] {
            assert_eq!(KeyMaterial::of(text.as_bytes()), None, "{text}");
        }
        assert_eq!(KeyMaterial::of(&[]), None);
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>) {
            let _ = KeyMaterial::of(&bytes);
        }

        #[test]
        fn random_bytes_are_a_secret(bytes: [u8; 32]) {
            proptest::prop_assert_eq!(KeyMaterial::of(&bytes), None);
            proptest::prop_assert_eq!(KeyMaterial::of(STANDARD.encode(bytes).as_bytes()), None);
        }
    }
}
