//! A script of random changes that a tenant makes to its own schema and to roles, over restarts and a rollout: every other
//! tenant's answers, documents and hints are byte for byte those of a fleet where nobody changed anything, its history is the
//! same, and nobody's password has changed.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use reqwest::Method;

use super::schema::{add_file, populate};
use crate::support::{Answer, TestFleet, eventually, private_server};

const OTHERS: [&str; 19] = [
    "acme", "globex", "initech", "hooli", "t5", "t6", "t7", "t8", "t9", "t10", "t11", "t12", "t13", "t14",
    "t15", "t16", "t17", "t18", "t19",
];
/// How many of them are asked after each round but the last, in turn.
const ASKED: usize = 4;
const ROUNDS: usize = 6;
/// Tried in each round. At least a hundred of all are made.
const CHANGES: usize = 36;

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
    "ALTER ROLE CURRENT_USER SET default_transaction_read_only = on",
    "ALTER ROLE CURRENT_USER SET statement_timeout = '{n}ms'",
    "ALTER ROLE CURRENT_USER SET session_replication_role = 'replica'",
];

/// The same by a function that a caller of the API runs: as `anon`, or as the login. `{acme}` is another tenant's.
const CALLS: &[&str] = &[
    "ALTER ROLE anon SET statement_timeout = '{n}ms'",
    "ALTER ROLE anon SET search_path = 'mallory'",
    "ALTER ROLE anon SET default_transaction_read_only = on",
    "ALTER ROLE anon SET DateStyle = 'German'",
    "ALTER ROLE anon SET lock_timeout = '{n}ms'",
    "ALTER ROLE anon SET row_security = off",
    "SET ROLE service; ALTER ROLE service SET role = 'anon'",
    "RESET ROLE; ALTER ROLE CURRENT_USER SET search_path = 'mallory'",
    "RESET ROLE; ALTER ROLE CURRENT_USER SET statement_timeout = '{n}ms'",
    "RESET ROLE; ALTER ROLE CURRENT_USER PASSWORD 'taken {n}'",
    "ALTER ROLE {acme} PASSWORD 'taken'",
    "RESET ROLE; ALTER ROLE {acme} PASSWORD 'taken'",
    "RESET ROLE; ALTER ROLE {acme} SET statement_timeout = '1ms'",
    "RESET ROLE; ALTER ROLE mb_owner SET search_path = 'mallory'",
    "RESET ROLE; GRANT anon TO {acme}",
    "RESET ROLE; REVOKE anon FROM {acme}",
    "ALTER DATABASE {acme} SET default_transaction_read_only = on",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity",
    "SELECT pg_advisory_lock(n) FROM generate_series(1, 1000) n",
];

const RUN: &str = "CREATE FUNCTION run(sql text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE sql; END';
    GRANT EXECUTE ON FUNCTION run TO anon";

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
async fn answers(fleet: &TestFleet, slugs: &[&str], round: usize) -> Vec<String> {
    let mut all = Vec::new();
    let prefer = "missing=default,return=representation";
    for slug in slugs {
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

/// A fleet on a server of its own: roles are a server's.
struct Side {
    fleet: TestFleet,
    server: manybox::embedded::Embedded,
    _folder: tempfile::TempDir,
}

impl Side {
    async fn new(slugs: &[&'static str]) -> Self {
        let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let server = private_server(folder.path().join("own"), false).await;
        let fleet = TestFleet::builder().build_on(&server.admin_url()).await;
        populate(&fleet, slugs).await;
        Self { fleet, server, _folder: folder }
    }

    /// What roles may do and log in with, less mallory's login; migrators are given a limit at their first use.
    async fn roles(&self) -> Vec<String> {
        let (client, connection) =
            tokio_postgres::connect(&self.server.superuser_url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let mallory = self.fleet.row("mallory").await.record.id.database();
        let sql = "SELECT concat_ws(' ', rolname, rolpassword, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin,
                       CASE WHEN rolcanlogin THEN rolconnlimit END, ARRAY(SELECT g.rolname
                           FROM pg_auth_members a JOIN pg_authid g ON g.oid = a.roleid
                           WHERE a.member = r.oid AND g.rolname NOT LIKE 'mb\\_m\\_t\\_%' ORDER BY 1))
                   FROM pg_authid r WHERE rolname <> $1 AND rolname NOT LIKE 'mb\\_m\\_t\\_%' ORDER BY rolname";
        client.query(sql, &[&mallory]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// The other tenants' histories.
    async fn histories(&self) -> Vec<String> {
        let mut all = Vec::new();
        for slug in OTHERS {
            let admin = self.fleet.admin(slug).await;
            admin.batch_execute("SET ROLE mb_history").await.unwrap();
            let sql = "SELECT version::text || name || checksum FROM manybox.schema_history ORDER BY version";
            let rows = admin.query(sql, &[]).await.unwrap();
            all.extend(rows.iter().map(|row| format!("{slug} {}", row.get::<_, String>(0))));
        }
        all
    }
}

#[tokio::test]
async fn a_script_of_changes_of_one_tenant_shows_in_no_other() {
    let slugs = [&["mallory"], &OTHERS[..]].concat();
    let (mut quiet, mut hostile) = tokio::join!(Side::new(&slugs), Side::new(&slugs));
    let acme = hostile.fleet.row("acme").await.record.id.database();
    hostile.fleet.owner("mallory").await.batch_execute(RUN).await.unwrap();
    let before = hostile.roles().await;
    let mut random = StdRng::seed_from_u64(12);
    let (mut made, mut called) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        // A login whose password its own code has changed gets in again by this.
        for verb in ["suspend", "resume"] {
            let (code, _, error) = hostile.fleet.run(&["tenant", verb, "mallory"]).await;
            assert_eq!(code, 0, "{error}");
        }
        // Some rounds begin with a new router; mallory is the first that it serves.
        if round % 2 == 0 {
            quiet.fleet.start_router().await;
            hostile.fleet.start_router().await;
        }
        let fleet = &hostile.fleet;
        let owner = fleet.owner("mallory").await;
        let mut change = async |number: usize| {
            let (list, calls) = if number.is_multiple_of(3) { (CALLS, true) } else { (SCRIPT, false) };
            let sql = list.choose(&mut random).unwrap().replace("{n}", &(number % 4 + 1).to_string());
            let sql = sql.replace("{acme}", &acme);
            let is_made = if calls {
                let body = serde_json::json!({ "sql": sql }).to_string();
                fleet.send(Method::POST, "/mallory/rpc/run", None, "", &body).await.status.is_success()
            } else {
                owner.batch_execute(&sql).await.is_ok()
            };
            if is_made {
                called += usize::from(calls);
                made.push(sql);
            }
        };
        for number in 0..CHANGES / 2 {
            change(number).await;
        }
        let more = async {
            for number in 0..CHANGES / 2 {
                change(number).await;
                fleet.get(&format!("/mallory/{}", FIRST[number % FIRST.len()])).await;
            }
        };
        let rollout = async {
            if round == ROUNDS / 2 {
                for side in [&quiet, &hostile] {
                    add_file(
                        &side.fleet,
                        "V4__more.sql",
                        "ALTER TABLE parents ADD COLUMN more int DEFAULT 4;",
                    );
                }
                let (quiet, hostile) =
                    tokio::join!(quiet.fleet.run(&["migrate"]), hostile.fleet.run(&["migrate"]));
                assert_eq!(quiet.0, 0, "{}", quiet.2);
                // Mallory's own migration may fail over what it changed.
                assert!(hostile.2.is_empty() || hostile.2.contains("mallory"), "{}", hostile.2);
            }
        };
        tokio::join!(more, rollout);
        let is_last = round + 1 == ROUNDS;
        let first = round * ASKED % OTHERS.len();
        let asked: Vec<_> = OTHERS.into_iter().cycle().skip(first).take(ASKED).collect();
        let asked = if is_last { &OTHERS[..] } else { &asked };
        if round >= ROUNDS / 2 {
            for (side, slug) in
                [&quiet, &hostile].into_iter().flat_map(|s| asked.iter().map(move |slug| (s, slug)))
            {
                eventually("the router knows the new version", || async {
                    side.fleet.get(&format!("/{slug}/parents?select=more")).await.status == 200
                })
                .await;
            }
        }
        let (expected, found) =
            tokio::join!(answers(&quiet.fleet, asked, round), answers(&hostile.fleet, asked, round));
        for (expected, found) in expected.iter().zip(&found) {
            assert_eq!(expected, found, "round {round}, after {made:#?}");
        }
    }
    assert_eq!(hostile.roles().await, before, "after {made:#?}");
    assert_eq!(quiet.histories().await, hostile.histories().await);
    assert!(made.len() >= 100, "{}: {made:#?}", made.len());
    assert!(called >= 20, "{called} of {made:#?}");
}
