//! A script of random changes that a tenant makes to its own schema, over restarts and a rollout: every other tenant's
//! answers, documents and hints are byte for byte those of a fleet where nobody changed anything.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use reqwest::Method;

use super::schema::{add_file, fleet};
use crate::support::{Answer, TestFleet, eventually};

const OTHERS: [&str; 4] = ["acme", "globex", "initech", "hooli"];
const ROUNDS: usize = 6;
const CHANGES: usize = 18;

/// One change as the owner; `n` and `m` are random. Those that fail change nothing.
const SCRIPT: &[&str] = &[
    "ALTER TABLE items ALTER price SET DEFAULT {n}",
    "ALTER TABLE items ALTER name SET DEFAULT 'mallory {n}'",
    "ALTER TABLE items ALTER price SET DEFAULT (SELECT 1) + {n}",
    "ALTER TABLE parents ALTER label SET DEFAULT current_setting('role') || current_database()",
    "ALTER TABLE items ALTER name TYPE char({n})",
    "ALTER TABLE items ALTER price TYPE int",
    "ALTER TABLE items ALTER made TYPE date",
    "ALTER TABLE items ADD COLUMN extra{n} text DEFAULT 'x'",
    "ALTER TABLE items RENAME COLUMN tags TO tags{n}",
    "ALTER TABLE kids DROP COLUMN other_id",
    "ALTER TABLE kids ADD CONSTRAINT again{n} FOREIGN KEY (other_id) REFERENCES parents",
    "ALTER TABLE kids DROP CONSTRAINT kids_parent_id_fkey",
    "ALTER TABLE parents DROP CONSTRAINT parents_pkey CASCADE",
    "COMMENT ON SCHEMA public IS 'mallory {n}'",
    "COMMENT ON TABLE items IS 'mallory {n}'",
    "COMMENT ON COLUMN parents.label IS 'mallory {n}'",
    "COMMENT ON FUNCTION add IS 'mallory {n}'",
    "CREATE TABLE itemz{n} (id int PRIMARY KEY); GRANT SELECT ON itemz{n} TO anon",
    "CREATE TABLE pairs{n} (p int REFERENCES parents, k int REFERENCES kids, PRIMARY KEY (p, k)); GRANT SELECT ON pairs{n} TO anon",
    "CREATE OR REPLACE VIEW cheap AS SELECT id, name, {n} AS more FROM items; GRANT SELECT ON cheap TO anon",
    "CREATE FUNCTION add(a int, b int, c{n} int DEFAULT {n}) RETURNS int LANGUAGE sql AS 'SELECT {n}'",
    "CREATE FUNCTION kids{n}(parents) RETURNS SETOF kids LANGUAGE sql STABLE AS 'SELECT * FROM kids'",
    "CREATE FUNCTION kids(parents) RETURNS SETOF kids LANGUAGE sql STABLE AS 'SELECT * FROM kids'",
    "CREATE DOMAIN price{n} AS numeric; ALTER TABLE items ALTER price TYPE price{n}",
    "CREATE FUNCTION shown{n}(items) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1.name'",
    "CREATE FUNCTION trigger{n}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.name := ''mallory''; RETURN NEW; END';
     CREATE TRIGGER t{n} BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION trigger{n}()",
    "ALTER FUNCTION cheaper_than SET statement_timeout = '1ms'",
    "DROP FUNCTION add(int, int)",
    "DROP TABLE notes",
    "ALTER TABLE parents ENABLE ROW LEVEL SECURITY",
    "REVOKE ALL ON parents FROM anon",
    "GRANT SELECT ON secrets TO anon",
    "ALTER ROLE CURRENT_USER SET search_path = 'mallory'",
    "ALTER DATABASE CURRENT_DATABASE SET default_transaction_read_only = on",
];

/// What mallory's own callers ask in between.
const FIRST: &[&str] = &[
    "items",
    "nothing",
    "items?select=nothing",
    "items?select=*,kids(*)",
    "parents?select=*,kids(*)",
    "rpc/add?a=1",
    "rpc/add?c=1",
    "",
];

/// Reads, documents, hints and changes of every other tenant, with what differs by its place made equal.
async fn answers(fleet: &TestFleet, round: usize) -> Vec<String> {
    let mut all = Vec::new();
    let prefer = "missing=default,return=representation";
    for slug in OTHERS {
        let mut asked = Vec::new();
        for path in [
            "",
            "items?order=id",
            "items?select=name,price,tags&order=name",
            "items?select=nam",
            "itemz1",
            "itms",
            "cheap?order=id",
            "parents?select=id,label,kids(id,other_id)&order=id",
            "kids?select=id,parents(label)",
            "parents?select=id,kidz(*)",
            "pairs1",
            "secrets",
            "rpc/add?a=1",
            "rpc/add?a=1&c1=2",
            "rpc/ad",
            "rpc/cheaper_than?most=100",
        ] {
            asked.push((path.to_owned(), fleet.get(&format!("/{slug}/{path}")).await));
        }
        let uneven = format!(r#"[{{"name":"u{round}"}},{{"name":"v{round}","price":2}}]"#);
        for (method, path, body) in [
            (Method::POST, "items?columns=name,price", format!(r#"{{"name":"n{round}"}}"#)),
            (Method::POST, "items?columns=name,price", uneven),
            (
                Method::POST,
                "items?columns=name,price,made,tags&on_conflict=name",
                format!(r#"{{"name":"n{round}"}}"#),
            ),
            (Method::PATCH, "parents?id=eq.1&columns=label", "{}".to_owned()),
            (Method::PATCH, "parents?id=eq.1", r#"{"label":"a longer label than one"}"#.to_owned()),
            (Method::POST, "rpc/add", r#"{"a":70000,"b":2}"#.to_owned()),
        ] {
            let answer = fleet.send(method.clone(), &format!("/{slug}/{path}"), None, prefer, &body).await;
            asked.push((format!("{method} {path} {body}"), answer));
        }
        all.extend(asked.iter().map(|(path, answer)| shown(fleet, slug, path, answer)));
    }
    all
}

fn shown(fleet: &TestFleet, slug: &str, path: &str, answer: &Answer) -> String {
    let host = fleet.url("").replace("http://", "");
    let headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let text = format!("{slug} {path}: {} {} {}", answer.status, headers.join(", "), answer.text);
    text.replace(&host, "HOST")
}

#[tokio::test]
async fn a_script_of_changes_to_one_tenants_schema_shows_in_no_other() {
    let slugs = [&["mallory"], &OTHERS[..]].concat();
    let (mut quiet, mut hostile) = (fleet(&slugs, "").await, fleet(&slugs, "").await);
    let mut random = StdRng::seed_from_u64(12);
    let mut made = Vec::new();
    for round in 0..ROUNDS {
        let owner = hostile.owner("mallory").await;
        let mut change = async |number: usize| {
            let number = number.to_string();
            let sql = SCRIPT.choose(&mut random).unwrap().replace("{n}", &number);
            if owner.batch_execute(&sql).await.is_ok() {
                made.push(sql);
            }
        };
        for number in 0..CHANGES / 2 {
            change(number % 4 + 1).await;
        }
        // Some rounds begin with a new router; mallory is the first that it serves.
        if round % 2 == 0 {
            quiet.start_router().await;
            hostile.start_router().await;
        }
        let more = async {
            for number in 0..CHANGES / 2 {
                change(number % 3 + 1).await;
                for path in FIRST {
                    hostile.get(&format!("/mallory/{path}")).await;
                }
            }
        };
        let rollout = async {
            if round == ROUNDS / 2 {
                for fleet in [&quiet, &hostile] {
                    add_file(fleet, "V4__more.sql", "ALTER TABLE parents ADD COLUMN more int DEFAULT 4;");
                }
                let (quiet, hostile) = tokio::join!(quiet.run(&["migrate"]), hostile.run(&["migrate"]));
                assert_eq!(quiet.0, 0, "{}", quiet.2);
                // Mallory's own migration may fail over what it changed.
                assert!(hostile.2.is_empty() || hostile.2.contains("mallory"), "{}", hostile.2);
            }
        };
        tokio::join!(more, rollout);
        if round >= ROUNDS / 2 {
            for (fleet, slug) in [&quiet, &hostile].into_iter().flat_map(|f| OTHERS.map(|slug| (f, slug))) {
                eventually("the router knows the new version", || async {
                    fleet.get(&format!("/{slug}/parents?select=more")).await.status == 200
                })
                .await;
            }
        }
        let (expected, found) = tokio::join!(answers(&quiet, round), answers(&hostile, round));
        for (expected, found) in expected.iter().zip(&found) {
            assert_eq!(expected, found, "round {round}, after {made:#?}");
        }
    }
    assert!(made.len() > 30, "{made:#?}");
}
