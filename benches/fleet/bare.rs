//! The bare handler: what a good engineer writes by hand for one database, and the baseline for what routing costs.
//!
//! axum and deadpool-postgres. It sends a transaction in four messages with a Sync each, in one pipeline: BEGIN,
//! settings and role, the statement, COMMIT. The statement is manybox's own without the columns that only manybox needs.
//! It resolves no tenant, reads no query language, has no schema, limits, metrics or logs, and resets nothing in the
//! session.

pub(crate) mod statements;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, patch, post};
use bytes::Bytes;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use futures_util::future::join4;
use serde_json::value::RawValue;
use tokio::time::sleep;
use tokio_postgres::types::{FromSql, Json, ToSql, Type};
use tokio_postgres::{NoTls, Statement};

use crate::setting::{Setting, free_port, logins};
use crate::{Done, Failure};

/// The hidden argument that makes this program the handler.
pub(crate) const WORD: &str = "bare-handler";

const READS: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY";
const WRITES: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Where the first tenant's database is, for a login of its own: the tenant's can't even prepare a statement outside
/// a request's role.
pub(crate) async fn url(setting: &Setting) -> Done<String> {
    let (_, _, database) = logins(setting, 1).await?.remove(0);
    setting
        .superuser(&database)
        .await?
        .batch_execute(&format!(
            "DO $$ BEGIN CREATE ROLE bare LOGIN INHERIT PASSWORD 'bare' IN ROLE anon;
             EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             GRANT CONNECT ON DATABASE {database} TO bare"
        ))
        .await?;
    let (host, port) = (setting.embedded.host().display(), setting.embedded.port());
    Ok(format!("host={host} port={port} user=bare password=bare dbname={database}"))
}

/// The handler as a process of its own; killed when dropped.
pub(crate) struct Process {
    child: Child,
    /// `127.0.0.1:port`
    pub(crate) address: String,
}

impl Process {
    pub(crate) async fn start(setting: &Setting) -> Done<Self> {
        let url = url(setting).await?;
        let free = free_port()?;
        let child = std::process::Command::new(std::env::current_exe()?)
            .args([WORD, &url, &free.to_string()])
            .stdin(Stdio::null())
            .spawn()?;
        let process = Self { child, address: format!("127.0.0.1:{free}") };
        for _ in 0..100 {
            if let Ok((200, _)) = crate::load::get(&process.address, "/t0/items?id=eq.1").await {
                return Ok(process);
            }
            sleep(Duration::from_millis(50)).await;
        }
        Err("the bare handler does not answer".into())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves the database at `url` until it is killed.
pub(crate) async fn serve(url: &str, port: u16) -> Done {
    let mut config: tokio_postgres::Config = url.parse()?;
    config.options(statements::OPTIONS);
    let manager =
        Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    // As many as manybox opens for one tenant.
    let pool = manybox::pool::Budget::default().max_per_tenant as usize;
    let pool = Pool::builder(manager).max_size(pool).build()?;
    let handler = |work| Arc::new(Handler { pool: pool.clone(), work });
    let items = Work::read("/items", statements::point("items"));
    let guarded = Work::read("/guarded", statements::point("guarded"));
    let page = Work::read("/guarded", statements::page("guarded"));
    // A function that only reads.
    let price = Work { method: "POST", ..Work::read("/rpc/price_of", statements::price_of()) };
    let insert = Work::write("POST", "/orders", statements::insert(), StatusCode::CREATED);
    let update = Work::write("PATCH", "/stock", statements::update(), StatusCode::NO_CONTENT);
    let app = Router::new()
        .route("/{tenant}/items", get(by_id).with_state(handler(items)))
        .route("/{tenant}/guarded", get(by_id).with_state(handler(guarded)))
        .route("/{tenant}/guarded/page", get(by_limit).with_state(handler(page)))
        .route("/{tenant}/rpc/price_of", post(by_body).with_state(handler(price)))
        .route("/{tenant}/orders", post(by_body).with_state(handler(insert)))
        .route("/{tenant}/stock", patch(by_body_and_id).with_state(handler(update)));
    let listener = tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    Ok(axum::serve(listener, app).await?)
}

/// What one kind of request does.
pub(crate) struct Work {
    begin: &'static str,
    method: &'static str,
    path: &'static str,
    pub(crate) sql: String,
    status: StatusCode,
}

impl Work {
    pub(crate) fn read(path: &'static str, sql: String) -> Self {
        Self { begin: READS, method: "GET", path, sql, status: StatusCode::OK }
    }

    fn write(method: &'static str, path: &'static str, sql: String, status: StatusCode) -> Self {
        Self { begin: WRITES, method, path, sql, status }
    }

    /// One transaction, in one pipeline: the body.
    pub(crate) async fn run(
        &self,
        client: &tokio_postgres::Client,
        set: &Statement,
        main: &Statement,
        headers: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Done<Option<String>> {
        let settings: [&(dyn ToSql + Sync); 7] = [
            &"\"public\", \"extensions\"",
            &"{\"role\":\"anon\"}",
            &headers,
            &"{}",
            &self.method,
            &self.path,
            &"anon",
        ];
        let (begin, set, rows, commit) = join4(
            client.batch_execute(self.begin),
            client.query(set, &settings),
            client.query(main, values),
            client.batch_execute("COMMIT"),
        )
        .await;
        begin?;
        set?;
        let body: Option<Body> = rows?.first().ok_or("no row")?.try_get("body")?;
        commit?;
        Ok(body.map(|body| body.0))
    }
}

struct Handler {
    pool: Pool,
    work: Work,
}

type Asked = State<Arc<Handler>>;

async fn by_id(State(handler): Asked, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    answer(async { handler.run(&headers, &[&number::<i32>(query, "id=eq.")?]).await }.await)
}

async fn by_limit(State(handler): Asked, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    answer(async { handler.run(&headers, &[&number::<i64>(query, "limit=")?]).await }.await)
}

async fn by_body(State(handler): Asked, headers: HeaderMap, body: Bytes) -> Response {
    answer(async { handler.run(&headers, &[&json(&body)?]).await }.await)
}

async fn by_body_and_id(
    State(handler): Asked,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(async { handler.run(&headers, &[&json(&body)?, &number::<i32>(query, "id=eq.")?]).await }.await)
}

fn number<N: FromStr<Err: Into<Failure>>>(query: Option<String>, before: &str) -> Done<N> {
    let query = query.unwrap_or_default();
    let number = query.strip_prefix(before).ok_or_else(|| format!("{before}N is all it knows"))?;
    number.parse().map_err(Into::into)
}

fn json(body: &[u8]) -> Done<Json<&RawValue>> {
    Ok(Json(serde_json::from_slice(body)?))
}

fn answer(outcome: Done<(StatusCode, Option<String>)>) -> Response {
    match outcome {
        Ok((status, Some(body))) => {
            (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response()
        }
        Ok((status, None)) => status.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl Handler {
    async fn run(
        &self,
        headers: &HeaderMap,
        values: &[&(dyn ToSql + Sync)],
    ) -> Done<(StatusCode, Option<String>)> {
        let headers: serde_json::Map<_, _> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect();
        let headers = serde_json::to_string(&headers)?;
        let client = self.pool.get().await?;
        let set = client.prepare_cached(statements::SET).await?;
        let main = client.prepare_cached(&self.work.sql).await?;
        Ok((self.work.status, self.work.run(&client, &set, &main, &headers, values).await?))
    }
}

/// A value as PostgreSQL wrote it.
struct Body(String);

impl<'a> FromSql<'a> for Body {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(kind: &Type) -> bool {
        [Type::JSON, Type::TEXT].contains(kind)
    }
}
