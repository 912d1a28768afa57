//! A route of your own beside the REST API, on every tenant.
//!
//! With the demo's catalog and data there (`make demo` once, then Ctrl-C):
//!
//! ```sh
//! cargo run --example custom_routes
//! curl http://127.0.0.1:8090/acme/summary
//! curl http://127.0.0.1:8090/globex/summary
//! curl 'http://127.0.0.1:8090/acme/branches?select=name'
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use manybox::embedded::{Embedded, Options};
use manybox::fleet::Servers;
use manybox::front::{self, App, Tenant, Transaction};
use manybox::settings::{Paths, Settings};
use manybox::vault::KeyRing;
use serde_json::{Value, json};

/// Runs in the tenant's database, under the role and with the claims of the request's token. A handler that doesn't
/// ask for a tenant can't ask for a connection either.
async fn summary(tenant: Tenant, mut transaction: Transaction) -> Result<Json<Value>, StatusCode> {
    let failed = |_| StatusCode::INTERNAL_SERVER_ERROR;
    let rows = transaction.query("SELECT count(*) FROM branches", &[]).await.map_err(failed)?;
    let branches: i64 = rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default();
    let answer = json!({ "tenant": tenant.slug.as_str(), "role": transaction.role(), "branches": branches });
    transaction.0.commit().await.map_err(failed)?;
    Ok(Json(answer))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let settings = Settings::load(&Paths { file: "tenants.toml".into() })?;
    let options = Options { folder: settings.embedded.folder.clone(), tcp: false, settings: Vec::new() };
    let embedded = if settings.is_embedded() { Some(Embedded::start(&options).await?) } else { None };
    let servers = Servers::new(&settings, embedded.as_ref().map(Embedded::place_url).as_deref())?;
    let keys = Arc::new(KeyRing::load(&settings.keys)?);

    let app = App::start(Arc::new(settings), servers.endpoints(), keys);
    let own: Router<App> = Router::new().route("/summary", get(summary));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8090").await?;
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
        Duration::from_secs(5)
    };
    let service = front::router_with(app.clone(), own);
    front::serve(listener, service, app.clients.clone(), stop).await?;
    app.pools.close().await;
    if let Some(embedded) = embedded {
        embedded.stop().await?;
    }
    Ok(())
}
