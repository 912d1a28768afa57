//! Flights: one look at a tenant's own database at a time, which goes on when those who wait for it have gone.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

use super::super::error::Error;
use super::own::Entry;
use crate::tenant::TenantId;

type Outcome = Result<Arc<Entry>, Error>;

/// The outcome of a look that is under way; it can be waited for, or dropped.
pub(super) type Flight = Shared<BoxFuture<'static, Outcome>>;

/// Those under way, by tenant. A handle, cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<TenantId, Flight>>>);

impl Flights {
    /// The tenant's look that is under way.
    pub(super) fn under_way(&self, id: &TenantId) -> Option<Flight> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Joins the tenant's look that is under way, or begins this one.
    pub(super) fn join(&self, id: &TenantId, look: impl Future<Output = Outcome> + Send + 'static) -> Flight {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(id) {
            return flight.clone();
        }
        let end = End(self.clone(), id.clone());
        // Its state is large, and would be moved with every future around it.
        let look: Pin<Box<dyn Future<Output = Outcome> + Send>> = Box::pin(look);
        let task = tokio::spawn(async move {
            let outcome = look.await;
            drop(end);
            outcome
        });
        let flight = task
            .map(|joined| joined.unwrap_or_else(|_| Err(Error::internal("the schema could not be read"))))
            .boxed()
            .shared();
        flights.insert(id.clone(), flight.clone());
        flight
    }
}

/// Takes a look off the list when it has ended, however it did. It can't before it stands there: that is done under the
/// lock.
struct End(Flights, TenantId);

impl Drop for End {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}
