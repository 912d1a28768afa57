//! `Planned`: a plan together with what its names are borrowed from, so that it can be made in another thread.

use std::sync::Arc;

use self_cell::self_cell;

use super::cache::Entry;
use super::error::Error;
use super::plan::Plan;
use super::request::Request;
use crate::tenant::Tenant;

/// What a plan is made of.
pub(super) struct Origins {
    pub(super) tenant: Arc<Tenant>,
    pub(super) request: Arc<Request>,
    pub(super) entry: Arc<Entry>,
}

self_cell! {
    pub(super) struct Planned {
        owner: Origins,
        #[covariant]
        dependent: Plan,
    }
}

impl Planned {
    /// As [`Plan::new`].
    pub(super) fn make(origins: Origins) -> Result<Self, Error> {
        Self::try_new(origins, |origins| {
            let Origins { tenant, request, entry } = origins;
            Plan::new(request, &entry.schema, &tenant.api, &tenant.limits)
        })
    }

    /// The plan.
    pub(super) fn plan(&self) -> &Plan<'_> {
        self.borrow_dependent()
    }
}
