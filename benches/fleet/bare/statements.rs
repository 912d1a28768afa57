//! The statements that manybox sends, as somebody writes them by hand for one request: kept in this one place, because
//! they must stay the same.

/// As manybox's own (src/rest/context.rs).
pub(crate) const SET: &str = "SELECT pg_catalog.num_nulls(pg_catalog.set_config('search_path', $1, true), \
    pg_catalog.set_config('request.jwt.claims', $2, true), \
    pg_catalog.set_config('request.headers', $3, true), \
    pg_catalog.set_config('request.cookies', $4, true), \
    pg_catalog.set_config('request.method', $5, true), \
    pg_catalog.set_config('request.path', $6, true), \
    pg_catalog.set_config('response.headers', '', true), \
    pg_catalog.set_config('response.status', '', true), \
    pg_catalog.set_config('role', $7, true))";

/// The session's settings, as manybox's own (src/pool/connect.rs).
pub(crate) const OPTIONS: &str = "-c role=none -c search_path=pg_catalog,pg_temp \
    -c statement_timeout=15000 -c idle_in_transaction_session_timeout=30000 -c client_min_messages=error -c client_connection_check_interval=5000";

/// The main query, as manybox's own (src/rest/sql.rs) but for the columns that are only manybox's business: totals, keys
/// of new rows, the check of `max_answer`, and what resets the session.
fn main(with: &str, body: &str, count: &str, rows: &str) -> String {
    format!(
        "{with}SELECT {count} AS rows, \
         NULLIF(pg_catalog.current_setting('response.headers', true), '') AS headers, \
         NULLIF(pg_catalog.current_setting('response.status', true), '') AS status, \
         {body} AS body FROM ({rows}) AS _mb_row"
    )
}

/// These rows.
pub(crate) fn reading(rows: &str) -> String {
    main("", "COALESCE(pg_catalog.json_agg(_mb_row), '[]')", "pg_catalog.count(*)", rows)
}

/// A change whose rows nobody wants back.
fn changing(change: &str) -> String {
    let with = format!("WITH _mb_source AS ({change} RETURNING 1) ");
    main(&with, "NULL::pg_catalog.text", "pg_catalog.count(*)", "SELECT * FROM _mb_source")
}

/// `GET /table?id=eq.N`: the id.
pub(crate) fn point(table: &str) -> String {
    reading(&format!(
        "SELECT \"public\".\"{table}\".* FROM \"public\".\"{table}\" \
         WHERE \"public\".\"{table}\".\"id\" = $1"
    ))
}

/// `GET /table?order=id&limit=N`: the limit.
pub(crate) fn page(table: &str) -> String {
    reading(&format!(
        "SELECT \"public\".\"{table}\".* FROM \"public\".\"{table}\" \
         ORDER BY \"public\".\"{table}\".\"id\" LIMIT $1"
    ))
}

/// `POST /rpc/price_of`: the body.
pub(crate) fn price_of() -> String {
    let with = "WITH _mb_source AS (SELECT _mb_call.pgrst_scalar \
         FROM (SELECT $1::pg_catalog.json AS body) AS _mb_payload, \
         LATERAL (SELECT \"item\", \"quantity\" FROM pg_catalog.json_to_record(_mb_payload.body) \
         AS _(\"item\" integer, \"quantity\" integer) LIMIT 1) AS _mb_body, \
         LATERAL (SELECT \"public\".\"price_of\"(\"item\" := _mb_body.\"item\", \"quantity\" := _mb_body.\"quantity\") \
         AS pgrst_scalar) AS _mb_call) ";
    let body = "COALESCE(pg_catalog.json_agg(_mb_row.pgrst_scalar) -> 0, 'null')";
    main(with, body, "1::pg_catalog.int8", "SELECT \"price_of\".* FROM _mb_source AS \"price_of\"")
}

/// `POST /orders`: the body.
pub(crate) fn insert() -> String {
    changing(
        "INSERT INTO \"public\".\"orders\" (\"item\", \"note\", \"quantity\") \
         SELECT _mb_body.\"item\", _mb_body.\"note\", _mb_body.\"quantity\" \
         FROM (SELECT $1::pg_catalog.json AS body) AS _mb_payload, \
         LATERAL (SELECT \"item\", \"note\", \"quantity\" FROM pg_catalog.json_to_record(_mb_payload.body) \
         AS _(\"item\" integer, \"note\" text, \"quantity\" integer)) AS _mb_body",
    )
}

/// `PATCH /stock?id=eq.N`: the body and the id.
pub(crate) fn update() -> String {
    changing(
        "UPDATE \"public\".\"stock\" SET \"quantity\" = _mb_body.\"quantity\" \
         FROM (SELECT $1::pg_catalog.json AS body) AS _mb_payload, \
         LATERAL (SELECT \"quantity\" FROM pg_catalog.json_to_record(_mb_payload.body) \
         AS _(\"quantity\" integer)) AS _mb_body \
         WHERE \"public\".\"stock\".\"id\" = $2",
    )
}
