//! The bare handler: what a good engineer writes by hand for one database, and the baseline for what routing costs.
//!
//! axum, deadpool-postgres, and the very statements that manybox sends for a point read wherever a tenant's code may
//! run, in one pipeline. It resolves no tenant, reads no query language, has no schema, limits, metrics or logs, and
//! resets nothing in the session. Nor can it know, as manybox does by its schema, where no such code runs and the
//! settings may be left out.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use futures_util::future::join4;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{NoTls, Statement};

use crate::Done;
use crate::setting::{Setting, logins};

/// The hidden argument that makes this program the handler.
pub(crate) const WORD: &str = "bare-handler";

/// As manybox's own (src/rest/sql/session.rs).
pub(crate) const SET: &str = "SELECT pg_catalog.num_nulls(pg_catalog.set_config('search_path', $1, true), \
    pg_catalog.set_config('request.jwt.claims', $2, true), \
    pg_catalog.set_config('request.headers', $3, true), \
    pg_catalog.set_config('request.cookies', $4, true), \
    pg_catalog.set_config('request.method', $5, true), \
    pg_catalog.set_config('request.path', $6, true), \
    pg_catalog.set_config('response.headers', '', true), \
    pg_catalog.set_config('response.status', '', true), \
    pg_catalog.set_config('role', $7, true))";

/// What manybox asks besides the body, where functions may have set headers.
pub(crate) const LEFT: &str = "pg_catalog.count(*) AS rows, \
    NULLIF(pg_catalog.current_setting('response.headers', true), '') AS headers, \
    NULLIF(pg_catalog.current_setting('response.status', true), '') AS status";

/// As manybox's own for `table?id=eq.N` (src/rest/sql.rs).
fn point(table: &str) -> String {
    format!(
        "SELECT COALESCE(pg_catalog.json_agg(_mb_row), '[]') AS body, {LEFT} FROM (\
         SELECT \"public\".\"{table}\".* FROM \"public\".\"{table}\" \
         WHERE \"public\".\"{table}\".\"id\" = $1) AS _mb_row"
    )
}

/// The session's settings, as manybox's own (src/pool/connect.rs).
pub(crate) const OPTIONS: &str = "-c role=none -c search_path=pg_catalog,pg_temp \
    -c statement_timeout=15000 -c idle_in_transaction_session_timeout=30000 -c client_min_messages=error -c client_connection_check_interval=5000";

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

/// Serves the database at `url` until it is killed.
pub(crate) async fn serve(url: &str, port: u16) -> Done {
    let mut config: tokio_postgres::Config = url.parse()?;
    config.options(OPTIONS);
    let manager =
        Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    // As many as manybox opens for one tenant.
    let pool = manybox::pool::Budget::default().busy as usize;
    let pool = Pool::builder(manager).max_size(pool).build()?;
    let open = Handler { pool: pool.clone(), path: "/items", read: point("items") };
    let guarded = Handler { pool, path: "/guarded", read: point("guarded") };
    let app = Router::new()
        .route("/{tenant}/items", get(answer).with_state(Arc::new(open)))
        .route("/{tenant}/guarded", get(answer).with_state(Arc::new(guarded)));
    let listener = tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    Ok(axum::serve(listener, app).await?)
}

struct Handler {
    pool: Pool,
    path: &'static str,
    read: String,
}

async fn answer(
    State(handler): State<Arc<Handler>>,
    Path(_): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    match read(&handler, query.as_deref().unwrap_or_default(), &headers).await {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn read(handler: &Handler, query: &str, headers: &HeaderMap) -> Done<String> {
    let id: i32 = query.strip_prefix("id=eq.").ok_or("id=eq.N is all it knows")?.parse()?;
    let headers: serde_json::Map<_, _> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let headers = serde_json::to_string(&headers)?;
    let client = handler.pool.get().await?;
    let (set, read) = (client.prepare_cached(SET).await?, client.prepare_cached(&handler.read).await?);
    ask(&client, &set, &read, handler.path, &headers, &[&id]).await
}

/// One transaction, in one pipeline.
pub(crate) async fn ask(
    client: &tokio_postgres::Client,
    set: &Statement,
    read: &Statement,
    path: &str,
    headers: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Done<String> {
    let settings: [&(dyn ToSql + Sync); 7] =
        [&"\"public\", \"extensions\"", &"{\"role\":\"anon\"}", &headers, &"{}", &"GET", &path, &"anon"];
    let (begin, set, rows, commit) = join4(
        client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"),
        client.query(set, &settings),
        client.query(read, values),
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
