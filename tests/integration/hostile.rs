//! What a caller can send that is wrong, too much or meant badly: a named refusal each, and the router lives on.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, TestFleet};

const TABLES: &str = "
    CREATE TABLE authors (id int PRIMARY KEY, name text, data jsonb);
    CREATE TABLE books (id int PRIMARY KEY, title text, author_id int REFERENCES authors, words tsvector, made timestamptz);
    CREATE FUNCTION found(word text, VARIADIC among text[] DEFAULT '{}') RETURNS SETOF books LANGUAGE sql STABLE AS 'SELECT * FROM books';
    CREATE FUNCTION chooses(headers text, status text) RETURNS void LANGUAGE sql AS
        $$ SELECT set_config('response.headers', headers, true), set_config('response.status', status, true) $$;
    CREATE FUNCTION endless(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN endless(n + 1); END';
    GRANT SELECT, INSERT, UPDATE, DELETE ON authors, books TO anon;
    CREATE FUNCTION forgets() RETURNS void LANGUAGE plpgsql AS 'BEGIN DEALLOCATE ALL; END';
    GRANT EXECUTE ON FUNCTION found, chooses, endless, forgets TO anon;
    INSERT INTO authors VALUES (1, 'ann', '{\"a\": [1]}'); INSERT INTO books VALUES (1, 'one', 1, 'one', now());";

async fn library(toml: &str) -> TestFleet {
    let fleet = TestFleet::builder().toml(toml).tenants(&["acme"]).serve().await;
    fleet.owner("acme").await.batch_execute(TABLES).await.unwrap();
    fleet
}

fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

async fn post(fleet: &TestFleet, path: &str, kind: &str, body: Vec<u8>) -> Answer {
    let request = fleet.request(Method::POST, path).header("Content-Type", kind).body(body);
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn too_much_is_refused_by_name() {
    let fleet = library("").await;
    let many = |text: &str, count: usize| vec![text; count].join(",");
    for (path, status, code) in [
        (format!("books?select={}", many("id", 1000)), 200, ""),
        (format!("books?select={}", many("id", 1001)), 400, "PGRST100"),
        (format!("books?select={}", many("authors()", 101)), 400, "PGRST100"),
        (format!("books?select={}id{}", "authors(books(".repeat(40), "))".repeat(40)), 400, "PGRST100"),
        (format!("books?select=title{}", encode(&"->a".repeat(101))), 400, "PGRST100"),
        (format!("books?and={}(id.eq.1){}", "(or".repeat(200), ")".repeat(200)), 400, "PGRST100"),
        (format!("books?id=in.({})", many("1", 20_000)), 200, ""),
        (format!("books?or=({})", many("id.eq.1", 5000)), 200, ""),
        (
            format!("books?id=eq(any).{}", encode(&format!("{}1{}", "{".repeat(9), "}".repeat(9)))),
            400,
            "54000",
        ),
        (format!("books?order={}", many("id", 5000)), 200, ""),
        (format!("books?title=match.{}", encode("(")), 400, "2201B"),
        ("books?offset=99999999999999999999".into(), 200, ""),
        ("books?title=eq.%00".into(), 400, "22021"),
        ("books?title=eq.%ff".into(), 400, "PGRST100"),
        ("books?select=%22a%00b%22".into(), 400, "42703"),
        ("books?select=id::int%5B%5D".into(), 400, "PGRST100"),
        ("books?select=id&select=no&limit=1&limit=2".into(), 200, ""),
    ] {
        let answer = fleet.get(&format!("/acme/{path}")).await;
        let found = if answer.status == 200 { String::new() } else { answer.code() };
        let start: String = path.chars().take(60).collect();
        assert_eq!((answer.status.as_u16(), found.as_str()), (status, code), "{start}");
        // No header grows with a list in the URL: proxies refuse such answers.
        assert!(answer.headers.get("content-location").is_none_or(|text| text.len() < 10_000), "{start}");
    }
}

#[tokio::test]
async fn bodies_that_are_none() {
    let fleet = library("[tiers.standard]\nmax_body = 300000").await;
    let deep = |count: usize| format!("{{\"data\":{}{}}}", "[".repeat(count), "]".repeat(count)).into_bytes();
    let keys: Vec<String> = (0..5000).map(|number| format!("\"k{number}\":1")).collect();
    for (path, kind, body, status, code) in [
        ("authors", "application/json", deep(100_000), 400, "54001"),
        ("authors?columns=data", "application/json", deep(100_000), 400, "54001"),
        ("authors", "application/json", format!("{{{}}}", keys.join(",")).into_bytes(), 400, "PGRST204"),
        ("authors", "application/json", b"{\"name\":\"\xff\"}".to_vec(), 400, "PGRST102"),
        ("authors?columns=name", "application/json", b"{\"name\":\"\xff\"}".to_vec(), 400, "22021"),
        ("authors", "application/json", b"{\"id\":2,\"name\":\"\\u0000\"}".to_vec(), 400, "22P05"),
        ("authors", "application/json", b"{\"id\":2,\"name\":\"\\ud800\"}".to_vec(), 400, "22P02"),
        ("authors", "application/json", b"[[".to_vec(), 400, "PGRST102"),
        ("authors", "text/csv", b"".to_vec(), 400, "PGRST102"),
        ("authors", "text/csv", b"id,name\n2\n".to_vec(), 400, "PGRST102"),
        ("authors", "text/csv", b"id,name\n2,\xff\n".to_vec(), 400, "PGRST102"),
        ("authors", "image/png", b"x".to_vec(), 400, "PGRST102"),
        ("authors", "application/json", vec![b' '; 300_001], 413, "MBX105"),
        // What a function does to itself is no fault of the caller.
        ("rpc/endless", "application/json", b"{\"n\":1}".to_vec(), 500, "54001"),
    ] {
        let start = String::from_utf8_lossy(&body[..body.len().min(30)]).into_owned();
        let answer = post(&fleet, &format!("/acme/{path}"), kind, body).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{path} {start}");
    }
    assert_eq!(fleet.get("/acme/authors?select=id").await.json(), json!([{ "id": 1 }]));
}

#[tokio::test]
async fn headers_that_a_function_chooses() {
    let fleet = library("").await;
    let chooses = |headers: &str, status: &str| {
        let body = json!({ "headers": headers, "status": status }).to_string();
        let fleet = &fleet;
        async move { fleet.send(Method::POST, "/acme/rpc/chooses", None, "", &body).await }
    };
    let good =
        chooses(r#"[{"X-Colour": "red"}, {"Content-Length": "5"}, {"Transfer-Encoding": "chunked"}]"#, "202")
            .await;
    assert_eq!(
        (good.status.as_u16(), good.headers["x-colour"].as_str(), good.text.as_str()),
        (202, "red", "")
    );
    for headers in [
        r#"[{"X-A": 1}]"#,
        r#"[{"X-A": "1", "X-B": "2"}]"#,
        r#"{"X-A": "1"}"#,
        "not json",
        &format!("[{}]", (0..40_000).map(|n| format!(r#"{{"X-{n}": "1"}}"#)).collect::<Vec<_>>().join(",")),
    ] {
        let answer = chooses(headers, "").await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (500, "PGRST111"), "{headers}");
    }
}

/// There is one connection, so the requests after it meet what the function did.
#[tokio::test]
async fn a_function_that_deallocates_our_statements() {
    let fleet = library("[tiers.standard]\nmax_connections = 1").await;
    for _ in 0..3 {
        assert_eq!(fleet.get("/acme/authors?select=id").await.json(), json!([{ "id": 1 }]));
        assert_eq!(fleet.get("/acme/books?select=id").await.json(), json!([{ "id": 1 }]));
        assert_eq!(fleet.send(Method::POST, "/acme/rpc/forgets", None, "", "{}").await.status, 204);
    }
}

/// Pieces of which query strings are made: right ones, wrong ones, and ones that fit together only by chance.
fn queries() -> impl Strategy<Value = (String, bool)> {
    // Mostly what is right, or else nothing but the first mistake would be looked at.
    let name = prop_oneof![
        24 => Just("id".to_owned()),
        6 => Just("title".to_owned()),
        1 => Just("name".to_owned()),
        1 => Just("data".to_owned()),
        1 => Just("words".to_owned()),
        1 => Just("made".to_owned()),
        1 => Just("nosuch".to_owned()),
        2 => Just("*".to_owned()),
        1 => Just("\"a b\"".to_owned()),
        1 => Just("\"x\"\"y\"".to_owned()),
        2 => Just("data->a->>0".to_owned()),
        2 => Just("made->-1".to_owned()),
        1 => Just("title::int".to_owned()),
        6 => Just("c:id".to_owned()),
        1 => Just("id.sum()".to_owned()),
        1 => Just("count()".to_owned()),
        1 => "[a-z\"'\\\\;$().,:>-]{0,6}".prop_map(|text| text),
    ];
    let names = prop::collection::vec(name.clone(), 1..3).prop_map(|names| names.join(","));
    let embed = prop_oneof![
        4 => Just("authors"),
        1 => Just("a:authors!inner"),
        1 => Just("...authors"),
        1 => Just("authors!books_author_id_fkey"),
        1 => Just("nosuch"),
        1 => Just("authors!left")
    ];
    let select = (names.clone(), embed, names.clone(), any::<bool>())
        .prop_map(|(own, embed, inside, with)| if with { format!("{own},{embed}({inside})") } else { own });
    let value = prop_oneof![
        16 => Just("1".to_owned()),
        1 => Just("{1,2}".to_owned()),
        1 => Just("(1,2)".to_owned()),
        1 => Just("(\"a\",b)".to_owned()),
        1 => Just("null".to_owned()),
        1 => Just("a & b".to_owned()),
        1 => Just("*x%_\\".to_owned()),
        1 => Just("[1,2)".to_owned()),
        1 => "\\PC{0,8}".prop_map(|text| text),
    ];
    let operator = prop_oneof![
        24 => Just("eq"),
        1 => Just("neq"),
        8 => Just("gt"),
        1 => Just("lte"),
        1 => Just("like"),
        1 => Just("ilike"),
        1 => Just("match"),
        1 => Just("imatch"),
        1 => Just("in"),
        1 => Just("is"),
        1 => Just("isdistinct"),
        1 => Just("fts"),
        1 => Just("plfts(english)"),
        1 => Just("wfts(nosuch)"),
        1 => Just("cs"),
        1 => Just("cd"),
        1 => Just("ov"),
        1 => Just("sl"),
        1 => Just("adj"),
        1 => Just("eq(any)"),
        1 => Just("like(all)"),
        8 => Just("not.eq"),
        1 => Just("not.in"),
        1 => Just("nope"),
    ];
    let test = (operator, value).prop_map(|(operator, value)| format!("{operator}.{value}"));
    let filter = (name.clone(), test.clone()).prop_map(|(name, test)| (name, test));
    let tree = prop::collection::vec((name.clone(), test), 0..3).prop_map(|list| {
        let items: Vec<_> = list.into_iter().map(|(name, test)| format!("{name}.{test}")).collect();
        format!("({})", items.join(","))
    });
    let ordered = (
        names,
        prop_oneof![Just(""), Just(".desc"), Just(".nullsfirst"), Just(".asc.nullslast"), Just(".x")],
    )
        .prop_map(|(names, end)| format!("{names}{end}"));
    (select, prop::collection::vec(filter, 0..3), tree, ordered, any::<[bool; 5]>()).prop_map(
        |(select, filters, tree, ordered, [with_tree, with_order, embedded, related, post])| {
            let mut query = format!("select={}", encode(&select));
            for (name, test) in filters {
                let before = if embedded { "authors." } else { "" };
                query.push_str(&format!("&{before}{}={}", encode(&name), encode(&test)));
            }
            if with_tree {
                query.push_str(&format!("&or={}", encode(&tree)));
            }
            if with_order {
                let order = if related { format!("authors({ordered})") } else { ordered };
                query.push_str(&format!("&order={}", encode(&order)));
            }
            (query, post)
        },
    )
}

/// Any query gives SQL that PostgreSQL accepts, or an error that has a name: ours, or PostgreSQL's about a value, a name
/// or a type. Never a syntax error, a parameter that is not there, or a fault of the server.
#[tokio::test]
async fn any_query_is_answered_or_refused_by_name() {
    let fleet = library("[defaults.api]\ndb_aggregates_enabled = true").await;
    let mut runner = TestRunner::deterministic();
    let (strategy, mut answered) = (queries(), 0);
    for _ in 0..400 {
        let (query, post) = strategy.new_tree(&mut runner).unwrap().current();
        let answer = if post {
            let body = r#"[{"id":7,"title":"x"}]"#;
            fleet
                .send(
                    Method::POST,
                    &format!("/acme/books?{query}"),
                    None,
                    "return=representation, tx=rollback",
                    body,
                )
                .await
        } else {
            fleet.get(&format!("/acme/books?{query}")).await
        };
        if answer.status.is_success() {
            answered += 1;
            fleet.owner("acme").await.batch_execute("DELETE FROM books WHERE id = 7").await.unwrap();
            continue;
        }
        assert!(answer.status.is_client_error(), "{} {query}", answer.text);
        let (code, message) = (answer.code(), answer.json()["message"].as_str().unwrap().to_owned());
        assert!(!code.is_empty() && !code.starts_with("MBX"), "{} {query}", answer.text);
        // The texts of text searches have a syntax of their own, and names can be empty.
        let of_the_caller =
            message.contains("tsquery") || message.starts_with("zero-length delimited identifier");
        assert!(
            of_the_caller || !["42601", "42P02", "42P18", "08P01"].contains(&code.as_str()),
            "{} {query}",
            answer.text
        );
    }
    assert!(answered > 20, "{answered} of 400 were right");
}
