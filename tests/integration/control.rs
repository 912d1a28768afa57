//! The control service: who may ask it, and what it does to the fleet.

mod chain;
mod console;
mod databases;
mod jobs;
mod logs;
mod oidc;
mod tenants;
mod webhooks;
mod who;

use std::net::SocketAddr;
use std::sync::Arc;

use manybox::catalog::{NewToken, OperatorRole, Scopes};
use manybox::control::access::ApiToken;
use manybox::control::{self, Control};
use manybox::front::{self, Clients};
use manybox::telemetry::Metrics;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::support::{Answer, TestFleet};

/// A control service in this process, and tokens for it.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    client: reqwest::Client,
    pub(crate) owner: String,
}

impl Service {
    pub(crate) async fn start(fleet: &TestFleet) -> Self {
        let control = Arc::new(Control::new(fleet.another().await, None));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let clients = Clients::of_control(&fleet.fleet.settings.listen, Metrics::default());
        let routes = control::router(&control);
        tokio::spawn(front::serve(listener, routes, clients, std::future::pending()));
        let owner = token(fleet, "ada", OperatorRole::Owner, Scopes::default()).await;
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { address, client, owner }
    }

    /// A request without any credential.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Answer {
        Answer::of(self.bare(Method::GET, path).bearer_auth(token).send().await.unwrap()).await
    }

    pub(crate) async fn send(&self, token: &str, method: Method, path: &str, body: &Value) -> Answer {
        Answer::of(self.bare(method, path).bearer_auth(token).json(body).send().await.unwrap()).await
    }
}

/// An operator of this name with a token.
pub(crate) async fn token(fleet: &TestFleet, name: &str, role: OperatorRole, scopes: Scopes) -> String {
    let (catalog, token) = (&fleet.fleet.catalog, ApiToken::random().unwrap());
    catalog.operator_put(name, role, &scopes).await.unwrap();
    let (id, hash) = (token.id().to_owned(), token.hash());
    let new = NewToken { id, hash, role, scopes, note: None, expires_at: None };
    catalog.token_add(name, &new).await.unwrap();
    token.reveal().expose().to_owned()
}
