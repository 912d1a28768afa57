//! The id of a request, which its answer and its lines in the journal have, and what its caller says of it.

use http::HeaderName;

/// The id of a request.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// Why an operator does it, in their words.
pub(super) static REASON: HeaderName = HeaderName::from_static("x-reason");
/// The header of an answer that has the id.
pub(super) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
