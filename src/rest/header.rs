//! The bounds on headers that the tenant's code may choose for an answer.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};

/// Headers that frame the message: with them a function could make the client read two answers where there is one.
pub(super) const FRAMING_HEADERS: [HeaderName; 6] =
    [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Most headers that a function may choose: clients and proxies refuse more, and a `HeaderMap` panics at 32768.
pub(super) const MAX_CHOSEN_HEADERS: usize = 100;
