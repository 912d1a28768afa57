//! The bare handler: what a good engineer writes by hand for one database, and the baseline for what routing costs.
//!
//! axum, deadpool-postgres, and the very statements that manybox sends for a point read, in one pipeline. It resolves
//! no tenant, reads no query language, has no schema, limits, metrics or logs, and resets nothing in the session.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use futures_util::future::join4;
use tokio_postgres::NoTls;
use tokio_postgres::types::{FromSql, Type};

use crate::Done;

/// The hidden argument that makes this program the handler.
pub(crate) const WORD: &str = "bare-handler";

/// As manybox's own (src/rest/sql/session.rs).
const SET: &str = "SELECT pg_catalog.set_config('search_path', $1, true), \
    pg_catalog.set_config('request.jwt.claims', $2, true), \
    pg_catalog.set_config('request.headers', $3, true), \
    pg_catalog.set_config('request.cookies', $4, true), \
    pg_catalog.set_config('request.method', $5, true), \
    pg_catalog.set_config('request.path', $6, true), \
    pg_catalog.set_config('response.headers', '', true), \
    pg_catalog.set_config('response.status', '', true), \
    pg_catalog.set_config('role', $7, true)";

/// As manybox's own for `items?id=eq.N` (src/rest/sql.rs).
const READ: &str = "SELECT COALESCE(pg_catalog.json_agg(_mb_row), '[]') AS body, pg_catalog.count(*) AS rows, \
    NULL::pg_catalog.int8 AS total, NULL::pg_catalog.text[] AS location, NULL::pg_catalog.int4 AS inserted, \
    NULLIF(pg_catalog.current_setting('response.headers', true), '') AS headers, \
    NULLIF(pg_catalog.current_setting('response.status', true), '') AS status \
    FROM (SELECT \"public\".\"items\".* FROM \"public\".\"items\" WHERE \"public\".\"items\".\"id\" = $1) AS _mb_row";

/// The session's settings, as manybox's own (src/pool/connect.rs).
pub(crate) const OPTIONS: &str = "-c role=none -c statement_timeout=15000 \
    -c idle_in_transaction_session_timeout=30000 -c client_min_messages=error -c client_connection_check_interval=5000";

/// Serves the database at `url` until it is killed.
pub(crate) async fn serve(url: &str, port: u16) -> Done {
    let mut config: tokio_postgres::Config = url.parse()?;
    config.options(OPTIONS);
    let manager =
        Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    // As many as manybox opens for one tenant.
    let pool = manybox::pool::Budget::default().busy as usize;
    let pool = Pool::builder(manager).max_size(pool).build()?;
    let app = Router::new().route("/{tenant}/items", get(items)).with_state(Arc::new(pool));
    let listener = tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    Ok(axum::serve(listener, app).await?)
}

async fn items(
    State(pool): State<Arc<Pool>>,
    Path(_): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    match read(&pool, query.as_deref().unwrap_or_default(), &headers).await {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn read(pool: &Pool, query: &str, headers: &HeaderMap) -> Done<String> {
    let id: i32 = query.strip_prefix("id=eq.").ok_or("id=eq.N is all it knows")?.parse()?;
    let headers: serde_json::Map<_, _> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let headers = serde_json::to_string(&headers)?;
    let client = pool.get().await?;
    let (set, read) = (client.prepare_cached(SET).await?, client.prepare_cached(READ).await?);
    let (begin, set, rows, commit) = join4(
        client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"),
        client.query(
            &set,
            &[
                &"\"public\", \"extensions\"",
                &"{\"role\":\"anon\"}",
                &headers,
                &"{}",
                &"GET",
                &"/items",
                &"anon",
            ],
        ),
        client.query(&read, &[&id]),
        client.batch_execute("COMMIT"),
    )
    .await;
    begin?;
    set?;
    let body: Body = rows?.first().ok_or("no row")?.try_get(0)?;
    commit?;
    Ok(body.0)
}

/// JSON as PostgreSQL wrote it.
struct Body(String);

impl<'a> FromSql<'a> for Body {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::JSON
    }
}
