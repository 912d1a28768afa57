//! Work without an end: schemas and requests that ask for the product of what they have.

use reqwest::Method;
use serde_json::json;

use crate::support::TestFleet;

/// The longest answer to a request that is wrong.
const MAX_ERROR: usize = 100_000;

/// 500 functions of one name with 99 arguments, whose names are as long as names can be.
const OVERLOADS: &str = "DO $do$ DECLARE a text; BEGIN
    FOR k IN 0..499 LOOP
        SELECT string_agg(rpad('p' || j || '_', 63, 'qwxyzvbnmk') || ' ' ||
                          CASE WHEN j <= 9 AND (k >> (j - 1)) & 1 = 1 THEN 'text' ELSE 'int' END, ', ')
        INTO a FROM generate_series(1, 99) j;
        EXECUTE 'CREATE FUNCTION overloaded(' || a || ') RETURNS int LANGUAGE sql AS ''SELECT 1''';
    END LOOP; END $do$;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO anon";

/// Tables with so many columns, each.
fn wide(tables: usize, columns: usize) -> String {
    format!(
        "DO $do$ BEGIN FOR t IN 1..{tables} LOOP
             EXECUTE (SELECT format('CREATE TABLE wide_%s (%s)', t, string_agg('column_' || c || ' int', ', '))
                      FROM generate_series(1, {columns}) c);
         END LOOP; END $do$;
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO anon"
    )
}

/// The tenant that attacks, with these objects, and another.
async fn hostile(sql: &str) -> TestFleet {
    let fleet = TestFleet::builder().tenants(&["acme", "other"]).serve().await;
    fleet.owner("acme").await.batch_execute(sql).await.unwrap();
    let (code, _, err) = fleet.run(&["tenant", "reload", "acme"]).await;
    assert_eq!(code, 0, "{err}");
    fleet
}

/// What was made after the router knew the schema is there once a request has missed it.
async fn known(fleet: &TestFleet, path: &str) {
    crate::support::eventually("the schema was read again", || async {
        fleet.get(path).await.code() != "PGRST202" && fleet.get(path).await.code() != "PGRST205"
    })
    .await;
}

#[tokio::test]
async fn hints_among_many_overloads_with_long_names() {
    let fleet = hostile(OVERLOADS).await;
    let similar: Vec<String> = (1..=99).map(|j| format!("p{j}_qwxyzvbnmk={j}")).collect();
    crate::support::eventually("the schema was read again", || async {
        let answer = fleet.get("/acme/rpc/overloadet").await;
        answer.text.contains("public.overloaded")
    })
    .await;
    for (name, arguments) in
        [("overloaded", &similar[..10]), ("overloaded", &similar), ("overloade", &similar)]
    {
        let answer = fleet.get(&format!("/acme/rpc/{name}?{}", arguments.join("&"))).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "PGRST202"));
        assert!(answer.text.len() < MAX_ERROR, "{}", answer.text.len());
    }
    // All fit: as many as a person can read are named.
    let names: Vec<String> = (1..=99)
        .map(|j| {
            let name: String =
                format!("p{j}_").chars().chain("qwxyzvbnmk".chars().cycle()).take(63).collect();
            format!("{name}=1")
        })
        .collect();
    let answer = fleet.get(&format!("/acme/rpc/overloaded?{}", names.join("&"))).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (300, "PGRST203"), "{}", answer.text);
    assert!(answer.text.len() < MAX_ERROR, "{}", answer.text.len());
    // Names by the hundred thousand are not repeated.
    let body: serde_json::Map<_, _> = (0..100_000).map(|n| (format!("name_{n}"), json!(1))).collect();
    let body = serde_json::Value::Object(body).to_string();
    let answer = fleet.send(Method::POST, "/acme/rpc/overloaded", None, "", &body).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "PGRST202"));
    assert!(answer.text.len() < MAX_ERROR, "{}", answer.text.len());
}

#[tokio::test]
async fn documents_that_are_too_long_to_make() {
    let comment = "SELECT format('COMMENT ON TABLE wide_%s IS %L', t, repeat('x', 1000000)) FROM generate_series(1, 5) t";
    let sql = format!(
        "{}; DO $do$ DECLARE s text; BEGIN FOR s IN {comment} LOOP EXECUTE s; END LOOP; END $do$",
        wide(5, 2)
    );
    let fleet = hostile(&sql).await;
    known(&fleet, "/acme/wide_1").await;
    let answer = fleet.get("/acme/").await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "MBX110"), "{:.200}", answer.text);
    assert_eq!(fleet.request(Method::HEAD, "/acme/").send().await.unwrap().status(), 200);
    assert_eq!(fleet.get("/other/").await.status, 200);
}

#[tokio::test]
async fn a_document_is_made_once_and_follows_privileges() {
    let fleet = hostile(&wide(20, 100)).await;
    known(&fleet, "/acme/wide_1").await;
    let first = fleet.get("/acme/").await;
    assert!(first.text.contains("/wide_20") && first.text.len() > 500_000, "{}", first.text.len());
    for _ in 0..20 {
        assert_eq!(fleet.get("/acme/").await.text, first.text);
    }
    fleet.owner("acme").await.batch_execute("REVOKE SELECT ON wide_20 FROM anon").await.unwrap();
    let after = fleet.get("/acme/").await;
    assert!(!after.text.contains("/wide_20") && after.text.contains("/wide_19"));
    assert!(!fleet.get("/other/").await.text.contains("wide"));
    // Its own address is in it, however the caller spells that.
    let other = fleet.request(Method::GET, "/").header("Host", "acme.localhost").send().await.unwrap();
    assert_eq!(other.json::<serde_json::Value>().await.unwrap()["host"], json!("acme.localhost:80"));
}

#[tokio::test]
async fn a_short_select_list_that_stands_for_many_columns() {
    let sql = format!(
        "CREATE DOMAIN shown AS int;
         CREATE FUNCTION shown_json(shown) RETURNS json LANGUAGE sql IMMUTABLE AS 'SELECT to_json($1::int)';
         CREATE CAST (shown AS json) WITH FUNCTION shown_json(shown) AS IMPLICIT;
         GRANT EXECUTE ON FUNCTION shown_json TO anon;
         {};
         ALTER TABLE wide_1 ADD COLUMN shown shown",
        wide(1, 1000)
    );
    let fleet = hostile(&sql).await;
    known(&fleet, "/acme/wide_1").await;
    let answer = fleet.get(&format!("/acme/wide_1?select={}", vec!["*"; 1000].join(","))).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "54011"), "{:.300}", answer.text);
    // PostgreSQL would say the same in the end.
    assert!(answer.text.contains("stands for too many columns"), "{:.300}", answer.text);
    // Every one of these names is found among a thousand.
    let filters: Vec<String> = (0..3000).map(|n| format!("column_{}=eq.1", 999 - n % 10)).collect();
    let answer = fleet.get(&format!("/acme/wide_1?{}", filters.join("&"))).await;
    assert_eq!(answer.status, 200, "{:.300}", answer.text);
    assert_eq!(fleet.get("/other/items").await.status, 200);
}
