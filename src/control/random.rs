//! Random: texts that nobody can guess.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::policy::{Invalid, Secret};

/// Random bytes of a secret.
pub(super) const RANDOM: usize = 32;

/// A text that nobody can guess: 256 random bits.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn random_secret() -> Result<Secret, Invalid> {
    let mut bytes = Zeroizing::new([0_u8; RANDOM]);
    getrandom::fill(&mut bytes[..])
        .map_err(|e| Invalid(format!("no random bytes from the operating system: {e}")))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(&bytes[..])))
}
