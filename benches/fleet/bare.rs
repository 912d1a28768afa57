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
    pg_catalog.set_config('statement_timeout', $7, true), \
    pg_catalog.set_config('idle_in_transaction_session_timeout', $8, true), \
    pg_catalog.set_config('response.headers', '', true), \
    pg_catalog.set_config('response.status', '', true), \
    pg_catalog.set_config('role', $9, true)";

/// As manybox's own for `items?id=eq.N` (src/rest/sql.rs).
const READ: &str = "SELECT COALESCE(pg_catalog.json_agg(_mb_row), '[]')::pg_catalog.text AS body, \
    pg_catalog.count(*) AS rows, NULL::pg_catalog.int8 AS total, \
    NULLIF(pg_catalog.current_setting('response.headers', true), '') AS headers, \
    NULLIF(pg_catalog.current_setting('response.status', true), '') AS status, \
    NULL::pg_catalog.text AS location \
    FROM (SELECT \"public\".\"items\".* FROM \"public\".\"items\" WHERE \"public\".\"items\".\"id\" = $1) AS _mb_row";

/// Serves the database at `url` until it is killed.
pub(crate) async fn serve(url: &str, port: u16) -> Done {
    let manager =
        Manager::from_config(url.parse()?, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
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
                &"15000",
                &"30000",
                &"anon",
            ],
        ),
        client.query(&read, &[&id]),
        client.batch_execute("COMMIT"),
    )
    .await;
    begin?;
    set?;
    let body = rows?.first().ok_or("no row")?.try_get(0)?;
    commit?;
    Ok(body)
}
