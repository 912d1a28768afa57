//! Faults on the wire between the router and PostgreSQL: an answer is right or says that it failed, and the next request
//! meets a clean session.

mod boundaries;
mod imposter;
mod outcomes;
mod tls;
mod volume;

use std::sync::Arc;

use bytes::Bytes;
use manybox::pg::Connection;
use manybox::tenant::Tenant;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_postgres::types::Type;

use crate::support::TestFleet;
use crate::support::proxy::Proxy;

/// One connection only: what a request leaves in its session, the next one meets.
const NARROW: &str = "[tiers.standard]\nmax_connections = 1\nacquire_timeout = '10s'\n";

const SCHEMA: &str = "
    CREATE TABLE marks (id int PRIMARY KEY, word text);
    INSERT INTO marks VALUES (0, 'kept');
    CREATE FUNCTION make(id int) RETURNS int LANGUAGE sql AS $$ INSERT INTO marks VALUES (id, 'made') RETURNING id $$;
    CREATE FUNCTION make_some(id int) RETURNS SETOF int LANGUAGE sql AS
        $$ INSERT INTO marks VALUES (id, 'made') RETURNING id $$;
    CREATE VIEW pages AS SELECT repeat('long', 50000) AS text;
    GRANT SELECT, INSERT, UPDATE, DELETE ON marks TO anon;
    GRANT SELECT ON pages TO anon;
    CREATE FUNCTION state() RETURNS json LANGUAGE sql AS $$
        SELECT json_build_object(
            'roles', ARRAY[current_user, current_setting('role')],
            'claims', current_setting('request.jwt.claims', true),
            'settings', (SELECT json_object_agg(name, setting ORDER BY name) FROM pg_settings
                WHERE source IN ('session', 'client', 'user', 'database')),
            'left', coalesce(current_setting('left.behind', true), ''),
            'locks', (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
            'listening', (SELECT count(*) FROM pg_listening_channels()),
            'cursors', (SELECT count(*) FROM pg_cursors WHERE name <> ''),
            'backend', pg_backend_pid()) $$;
    GRANT EXECUTE ON FUNCTION make, make_some, state TO anon;";

/// A tenant, `acme`, with tables of its own, perhaps behind a proxy, and what its session looks like when nothing was
/// left in it.
struct Tested {
    fleet: TestFleet,
    tenant: Arc<Tenant>,
    owner: Connection,
    clean: Value,
}

impl Tested {
    async fn new(toml: &str, more: &str) -> Self {
        Self::on(TestFleet::builder().toml(toml).tenants(&["acme"]).serve().await, more).await
    }

    /// Every connection goes through the proxy, and what it counts and breaks are the tenant's.
    async fn behind(proxy: &Proxy, toml: &str, more: &str) -> Self {
        let builder = TestFleet::builder().toml(toml).tenants(&["acme"]);
        let mut fleet = builder.build_on(&proxy.admin_url().await).await;
        fleet.start_router().await;
        let tested = Self::on(fleet, more).await;
        proxy.watch(&tested.tenant.database());
        tested
    }

    async fn on(fleet: TestFleet, more: &str) -> Self {
        let (tenant, owner) = (fleet.tenant("acme").await, fleet.owner("acme").await);
        owner.batch_execute(SCHEMA).await.unwrap();
        owner.batch_execute(more).await.unwrap();
        let mut tested = Self { fleet, tenant, owner, clean: Value::Null };
        tested.clean = tested.state().await.unwrap().0;
        assert_eq!(tested.clean["roles"], json!(["anon", "anon"]));
        tested
    }

    /// What the session looks like to a request, and which one it is.
    async fn state(&self) -> Result<(Value, i64), Reply> {
        let reply = self.call("state", "{}").await;
        let Reply::Whole(200, text) = &reply else { return Err(reply) };
        let mut state: Value = serde_json::from_str(text).unwrap();
        let backend = state["backend"].take().as_i64().unwrap();
        Ok((state, backend))
    }

    /// The backend of a session in which nothing was left.
    async fn clean(&self) -> i64 {
        let (state, backend) = self.state().await.unwrap();
        assert_eq!(state, self.clean);
        backend
    }

    async fn call(&self, function: &str, body: &str) -> Reply {
        self.ask(Method::POST, &format!("rpc/{function}"), "", body).await
    }

    async fn ask(&self, method: Method, path: &str, prefer: &str, body: &str) -> Reply {
        let mut request = self.fleet.request(method, &format!("/acme/{path}"));
        if !body.is_empty() {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        if !prefer.is_empty() {
            request = request.header("prefer", prefer);
        }
        let Ok(answer) = request.send().await else { return Reply::CutOff };
        let status = answer.status().as_u16();
        answer.text().await.map_or(Reply::CutOff, |text| Reply::Whole(status, text))
    }

    /// How many rows of `marks` have this id.
    async fn made(&self, id: i32) -> i64 {
        // Typed, and so not prepared: what closes a prepared statement is sent some time later.
        let rows =
            self.owner.query_typed("SELECT count(*) FROM marks WHERE id = $1", &[(&id, Type::INT4)]).await;
        rows.unwrap()[0].get(0)
    }

    /// Closes the tenant's idle connections.
    async fn without_sessions(&self) {
        let pools = &self.fleet.app.as_ref().unwrap().pools;
        pools.drain(&self.tenant.id);
        crate::support::eventually("all are closed", || async {
            pools.status().iter().all(|pool| pool.open == 0)
        })
        .await;
    }

    /// A request for the service in this process.
    fn request(method: Method, path: &str, body: &str) -> http::Request<Bytes> {
        http::Request::builder()
            .method(method)
            .uri(format!("/{path}"))
            .header("content-type", "application/json")
            .body(Bytes::copy_from_slice(body.as_bytes()))
            .unwrap()
    }
}

/// What a client got.
#[derive(Debug, PartialEq)]
enum Reply {
    Whole(u16, String),
    /// The answer broke off, and the client knows.
    CutOff,
}

impl Reply {
    fn status(&self) -> u16 {
        match self {
            Self::Whole(status, _) => *status,
            Self::CutOff => 0,
        }
    }

    /// Status and code of a refusal.
    fn refused(&self) -> (u16, String) {
        let Self::Whole(status, text) = self else { return (0, "cut off".into()) };
        let error: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {status} {text:.200}"));
        (*status, error["code"].as_str().unwrap_or_default().to_owned())
    }

    /// Whether it tells that the request failed for a reason of ours.
    fn says_so(&self) -> bool {
        let (status, code) = self.refused();
        *self == Self::CutOff || (status >= 500 && !code.is_empty())
    }
}
