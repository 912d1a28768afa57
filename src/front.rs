//! Front: the data plane's HTTP. A request's tenant is known before its route is looked for.

mod app;
mod channels;
mod clients;
mod cors;
mod disk;
mod error;
mod keys;
mod layers;
mod proxy;
mod rate_limit;
mod refused;
mod request_log;
mod schemas;
mod serve;
mod share;
mod socket;
mod supervisor;
mod tenant;
mod tls;
mod trace;
mod traffic;
mod version;

pub use app::{App, DataPlane};
pub use clients::Clients;
pub use layers::{Service, router, router_with};
pub use serve::{Listener, serve};
pub use tenant::{Tenant, Transaction};
pub use tls::{CertificateError, Certificates};
