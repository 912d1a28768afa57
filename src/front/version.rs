//! Version: which version of its edition a tenant has, told with each answer where that is wanted.

use http::header::ACCESS_CONTROL_EXPOSE_HEADERS;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::tenant::Tenant;

const HEADER: HeaderName = HeaderName::from_static("mb-schema-version");

/// Says the version as the catalog has it, if the tenant's settings want that. Nobody else has a say: a function's header of
/// this name is replaced. A page that may read the answer may read this too.
pub(super) fn tell(tenant: &Tenant, answer: &mut HeaderMap) {
    if tenant.api.schema_version_header
        && let Some(lineage) = tenant.lineage()
    {
        answer.insert(HEADER, HeaderValue::from(lineage.version));
        if answer.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS) {
            answer.append(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from(HEADER));
        }
    }
}
