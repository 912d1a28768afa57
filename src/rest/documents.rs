//! Documents: the answers at the root, each made once for a schema and what a caller may use of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::future::Cache;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::error::{Code, Error};
use super::execute::{Answered, Outcome};
use super::offload::{Offload, Turn, Turns};
use super::request::Request;
use super::response::openapi::{self, Facts};
use super::root::Root;
use crate::schema::Schema;
use crate::tenant::{Tenant, TenantId};

/// Longest document, in bytes. While it is made it takes some four times as much.
const MAX_DOCUMENT: usize = 16 * 1024 * 1024;
/// Longest text of what a caller may use, in bytes. A function or relation has some 50.
pub(super) const MAX_PRIVILEGES: usize = 1024 * 1024;
/// Bytes of documents that are kept, of all tenants.
const MAX_KEPT: u64 = 64 * 1024 * 1024;
/// One that nobody asked for in this time is forgotten.
const IDLE: Duration = Duration::from_secs(3600);

/// How many times as long as one question about it took until the tenant's next, and how long at most.
const REST: u32 = 4;
const MAX_REST: Duration = Duration::from_secs(1);

/// All that a document is made of.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Nobody waits for another tenant's document, were it the same.
    tenant: TenantId,
    /// The fingerprint.
    schema: String,
    namespace: String,
    /// As the database told it; `None` where nobody asked.
    privileges: Option<Bytes>,
    root: Option<Root>,
    secured: bool,
}

/// A turn to ask what may be used. Dropped, it ends after a rest.
pub(super) struct Question {
    turn: Option<Turn>,
    begun: Instant,
}

impl Drop for Question {
    fn drop(&mut self) {
        let rest = (self.begun.elapsed() * REST).min(MAX_REST);
        let turn = self.turn.take();
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                sleep(rest).await;
                drop(turn);
            });
        }
    }
}

/// A handle, cheap to clone.
#[derive(Clone)]
pub(super) struct Documents {
    made: Cache<Key, Bytes>,
    offload: Offload,
    asking: Turns,
}

impl Documents {
    pub(super) fn new(offload: Offload) -> Self {
        let weight = |key: &Key, document: &Bytes| {
            let privileges = key.privileges.as_ref().map_or(0, Bytes::len);
            u32::try_from(document.len() + privileges).unwrap_or(u32::MAX)
        };
        let made = Cache::builder().weigher(weight).max_capacity(MAX_KEPT).time_to_idle(IDLE).build();
        Self { made, offload, asking: Turns::default() }
    }

    /// A turn to ask the tenant's database what may be used. Of a large schema that takes it long, and anybody may ask: it
    /// is not to be at work on it with all of the tenant's connections, nor all the time.
    pub(super) async fn question(&self, tenant: &TenantId) -> Question {
        let turn = self.asking.take(tenant).await;
        Question { turn: Some(turn), begun: Instant::now() }
    }

    /// The document for this caller. `outcome`: of the question what may be used.
    ///
    /// # Errors
    /// [`Code::AnswerTooLong`], or 500 when privileges are no JSON.
    pub(super) async fn get(
        &self,
        tenant: &Tenant,
        request: &Request,
        schema: &Arc<Schema>,
        outcome: &Outcome,
    ) -> Result<Bytes, Error> {
        let api = &tenant.api;
        let proxy = api.openapi_server_proxy_uri.as_deref().and_then(Root::parse);
        let key = Key {
            tenant: tenant.id.clone(),
            schema: schema.fingerprint.clone(),
            namespace: request.schema.clone(),
            privileges: match &outcome.body {
                Answered::Whole(body) => Some(body.clone()),
                _ => None,
            },
            root: proxy.or_else(|| request.root.clone()),
            secured: api.openapi_security_active,
        };
        let (parts, schema) = (key.clone(), Arc::clone(schema));
        let most = MAX_DOCUMENT.min(tenant.limits.max_answer);
        let making = async move {
            let made = self.offload.run(&tenant.id, move || make(&parts, &schema, most));
            made.await?
        };
        self.made.try_get_with(key, making).await.map_err(|error: Arc<Error>| (*error).clone())
    }
}

fn make(key: &Key, schema: &Schema, most: usize) -> Result<Bytes, Error> {
    let unreadable = |_| Error::internal("privileges or the document are no JSON");
    let usable = key.privileges.as_ref().map(|text| serde_json::from_slice(text)).transpose();
    let usable = usable.map_err(unreadable)?;
    let facts = Facts {
        schema,
        namespace: &key.namespace,
        usable: usable.as_ref(),
        root: key.root.as_ref(),
        secured: key.secured,
    };
    if openapi::length(&facts) > most {
        return Err(too_long());
    }
    let body = serde_json::to_vec(&openapi::document(&facts)).map_err(unreadable)?;
    if body.len() > most { Err(too_long()) } else { Ok(body.into()) }
}

/// Why there is no document.
pub(super) fn too_long() -> Error {
    let message = "The document of this API is longer than may be answered";
    let hint = "expose fewer relations and functions, or set openapi_mode or db_root_spec";
    Error::new(Code::AnswerTooLong, message).with_hint(hint)
}
