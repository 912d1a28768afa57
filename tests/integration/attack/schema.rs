//! A tenant that runs SQL as the owner in its own database changes its schema, to reach another tenant's requests by it.

use std::time::Duration;

use manybox::pg::{self, Connection};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestFleet, eventually};

/// What the edition has besides `items`.
const EDITION: &str = "
    CREATE TABLE parents (id int PRIMARY KEY, label text DEFAULT 'none');
    CREATE TABLE kids (id int PRIMARY KEY, parent_id int REFERENCES parents, other_id int);
    INSERT INTO parents VALUES (1, 'one');
    INSERT INTO kids VALUES (1, 1, 1);
    COMMENT ON TABLE parents IS 'Who has kids';
    GRANT SELECT, INSERT, UPDATE, DELETE ON items, parents, kids TO anon;";

/// A fleet whose edition has these tables; no router yet.
pub(super) async fn fleet(tenants: &[&'static str], toml: &str) -> TestFleet {
    let fleet = TestFleet::builder().toml(toml).build().await;
    populate(&fleet, tenants).await;
    fleet
}

/// Adds the edition's tables, and then tenants.
pub(super) async fn populate(fleet: &TestFleet, tenants: &[&'static str]) {
    add_file(fleet, "V3__family.sql", EDITION);
    for slug in tenants {
        fleet.create(slug).await;
    }
}

pub(super) fn add_file(fleet: &TestFleet, name: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(name), sql).unwrap();
}

/// Changes mallory's schema as the owner, starts a router, and lets mallory ask first: for what is there, what is not, and
/// what only mallory has.
async fn poisoned(sql: &str) -> TestFleet {
    let mut fleet = fleet(&["mallory", "acme"], "").await;
    fleet.owner("mallory").await.batch_execute(sql).await.unwrap();
    fleet.start_router().await;
    ask_first(&fleet).await;
    fleet
}

async fn ask_first(fleet: &TestFleet) {
    for path in ["items", "nothing", "items?select=nothing", "parents?select=*,kids(*)", "", "rpc/none"] {
        fleet.get(&format!("/mallory/{path}")).await;
    }
}

async fn post(fleet: &TestFleet, path: &str, prefer: &str, body: Value) -> Answer {
    let prefer = format!("return=representation,{prefer}");
    fleet.send(Method::POST, path, None, &prefer, &body.to_string()).await
}

pub(crate) async fn schema_reads(fleet: &TestFleet) -> u64 {
    let mut text = String::new();
    let mut registry = prometheus_client::registry::Registry::default();
    fleet.app.as_ref().unwrap().metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("schema_reads_total "));
    line.unwrap().parse().unwrap()
}

/// Every way in which a row can lack a column that the request names.
async fn defaults_are_the_editions(fleet: &TestFleet) {
    let path = "/acme/items?columns=name,price&select=name,price";
    for (number, body) in [
        json!({ "name": "a" }),
        json!([{ "name": "b" }]),
        json!([{ "name": "c" }, { "name": "d", "price": 0 }]),
        json!([{ "name": "e", "price": 0 }, { "name": "f" }]),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = post(fleet, path, "missing=default", body).await;
        assert_eq!(answer.status, 201, "{number}: {}", answer.text);
        for row in answer.json().as_array().unwrap() {
            assert_eq!(row["price"], 0.0, "{number}: {}", answer.text);
        }
    }
    let path = "/acme/items?name=eq.a&columns=price&select=price";
    let prefer = "missing=default,return=representation";
    let answer = fleet.send(Method::PATCH, path, None, prefer, "{}").await;
    assert_eq!(answer.json(), json!([{ "price": 0.0 }]));
    let path = "/acme/items?columns=name,price&on_conflict=name&select=price";
    let answer =
        post(fleet, path, "missing=default,resolution=merge-duplicates", json!([{ "name": "a" }])).await;
    assert_eq!(answer.json(), json!([{ "price": 0.0 }]));
}

const POISON: &str = "ALTER TABLE items ALTER price SET DEFAULT
    CASE WHEN set_config('role', 'service', true) = 'service' THEN length(query_to_xml(
        'SELECT pg_advisory_xact_lock(7700), count(*) FROM secrets', true, false, '')::text) END";

#[tokio::test]
async fn a_default_of_another_database_is_not_run() {
    let fleet = poisoned(POISON).await;
    defaults_are_the_editions(&fleet).await;
    // At home it is a default like any other, whether PostgreSQL fills it in or the statement does.
    for body in [json!([{ "name": "a" }]), json!([{ "name": "b" }, { "name": "c", "price": 1 }])] {
        let answer =
            post(&fleet, "/mallory/items?columns=name,price&select=price", "missing=default", body).await;
        assert!(answer.status == 201 || answer.code() == "42501", "{}", answer.text);
    }
}

#[tokio::test]
async fn a_default_that_looks_like_the_rest_of_a_statement_is_one_value() {
    let fleet = poisoned("ALTER TABLE items ALTER name SET DEFAULT '), (SELECT 1)) --'").await;
    let body = json!([{ "price": 1 }, { "name": "b", "price": 2 }]);
    let path = "items?columns=name,price&select=name";
    let answer = post(&fleet, &format!("/mallory/{path}"), "missing=default", body.clone()).await;
    assert_eq!(answer.json(), json!([{ "name": "), (SELECT 1)) --" }, { "name": "b" }]));
    let answer = post(&fleet, &format!("/acme/{path}"), "missing=default", body).await;
    assert_eq!(answer.code(), "23502", "{}", answer.text);
}

#[tokio::test]
async fn a_changed_type_loses_nothing_of_anothers_values() {
    let fleet = poisoned(
        "DROP VIEW cheap; ALTER TABLE items ALTER name TYPE char(1) USING left(name, 1);
         ALTER TABLE items ALTER price DROP DEFAULT, ALTER price TYPE int;
         ALTER TABLE items ALTER tags DROP DEFAULT, ALTER tags TYPE char(2)[];
         ALTER TABLE items ALTER made TYPE date;
         ALTER FUNCTION add RENAME TO added;
         CREATE FUNCTION add(a smallint, b bool) RETURNS int LANGUAGE sql AS 'SELECT 7';
         GRANT EXECUTE ON FUNCTION add(smallint, bool) TO anon;",
    )
    .await;
    let row =
        json!({ "name": "whole", "price": 1.25, "tags": ["long one"], "made": "2026-01-02T03:04:05+00:00" });
    let answer = post(&fleet, "/acme/items?select=name,price,tags,made", "", json!([row])).await;
    assert_eq!(answer.json(), json!([row]));
    let answer = post(&fleet, "/acme/rpc/add", "", json!({ "a": 70000, "b": 2 })).await;
    assert_eq!(answer.json(), 70002);
    assert_eq!(fleet.get("/acme/rpc/add?a=70000&b=2").await.json(), 70002);
}

#[tokio::test]
async fn a_type_that_is_named_like_sql_is_a_name() {
    // The type's name would end the list of columns, were it not quoted; it takes the place of one with another name.
    let fleet = poisoned(
        r#"CREATE DOMAIN "text); DROP TABLE items; --" AS text;
           CREATE TABLE odd (id int, it "text); DROP TABLE items; --");
           CREATE FUNCTION odd(it "text); DROP TABLE items; --") RETURNS text LANGUAGE sql AS 'SELECT it';
           GRANT SELECT, INSERT ON odd TO anon; GRANT EXECUTE ON FUNCTION odd("text); DROP TABLE items; --") TO anon;"#,
    )
    .await;
    let answer = post(&fleet, "/mallory/odd?select=it", "", json!({ "id": 1, "it": "x" })).await;
    assert_eq!(answer.json(), json!([{ "it": "x" }]));
    assert_eq!(post(&fleet, "/mallory/rpc/odd", "", json!({ "it": "y" })).await.json(), "y");
    assert_eq!(fleet.get("/mallory/rpc/odd?it=z").await.json(), "z");
    assert_eq!(fleet.get("/mallory/items").await.status, 200);
}

#[tokio::test]
async fn lengths_and_precisions_hold_without_being_in_the_statement() {
    let types = [
        ("varchar(3)", json!("abc"), json!("abcd"), "22001"),
        ("char(3)", json!("abc"), json!("abcd"), "22001"),
        ("bit(3)", json!("101"), json!("10"), "22026"),
        ("varbit(3)", json!("10"), json!("1010"), "22001"),
        ("numeric(3,1)", json!(12.3), json!(123.4), "22003"),
        ("varchar(2)[]", json!(["ab"]), json!(["abc"]), "22001"),
        ("\"char\"", json!("a"), Value::Null, ""),
        ("interval day to second(0)", json!("1 day"), Value::Null, ""),
        ("timestamp(0)", json!("2026-01-02T03:04:05"), Value::Null, ""),
    ];
    let columns: Vec<_> = types.iter().enumerate().map(|(n, (kind, ..))| format!("c{n} {kind}")).collect();
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let table = format!("CREATE TABLE typed ({}); GRANT SELECT, INSERT ON typed TO anon", columns.join(", "));
    fleet.owner("acme").await.batch_execute(&table).await.unwrap();
    for (number, (kind, fits, unfit, code)) in types.into_iter().enumerate() {
        let (path, column) = (format!("/acme/typed?select=c{number}"), format!("c{number}"));
        let answer = post(&fleet, &path, "", json!({ column.as_str(): fits })).await;
        assert_eq!(answer.json(), json!([{ column.as_str(): fits }]), "{kind}");
        if !unfit.is_null() {
            let answer = post(&fleet, &path, "", json!({ column.as_str(): unfit })).await;
            assert_eq!(answer.code(), code, "{kind}: {}", answer.text);
        }
    }
}

/// What a tenant's callers see of its schema, with a wrong name of each kind.
async fn seen(fleet: &TestFleet, slug: &str) -> Vec<String> {
    let mut seen = Vec::new();
    for path in [
        "",
        "item",
        "itemz",
        "secretkids",
        "parents?select=labels",
        "parents?select=*,kid(*)",
        "parents?select=*,kids(*)",
        "kids?select=*,parents(*)",
        "rpc/ad",
        "rpc/add?aa=1",
        "rpc/cheaper",
    ] {
        let answer = fleet.get(&format!("/{slug}/{path}")).await;
        let text = answer.text.replace(&fleet.url(&format!("/{slug}")), "URL").replace(slug, "SLUG");
        let host = fleet.url("").replace("http://", "");
        seen.push(format!("{path}: {} {}", answer.status, text.replace(&host, "HOST")));
    }
    seen
}

#[tokio::test]
async fn comments_defaults_and_names_stay_out_of_anothers_documents_and_hints() {
    let mut fleet = fleet(&["mallory", "acme"], "").await;
    fleet.start_router().await;
    let before = seen(&fleet, "acme").await;
    let owner = fleet.owner("mallory").await;
    owner
        .batch_execute(
            "COMMENT ON SCHEMA public IS 'mallory was here';
             COMMENT ON TABLE items IS 'mallory was here'; COMMENT ON TABLE parents IS NULL;
             COMMENT ON COLUMN items.name IS 'mallory was here';
             COMMENT ON FUNCTION add IS 'mallory was here';
             ALTER TABLE items ALTER price SET DEFAULT 13;
             CREATE TABLE secretkids (id int); GRANT SELECT ON secretkids TO anon;
             CREATE TABLE itemz (id int); ALTER TABLE parents ADD COLUMN labels text;
             CREATE FUNCTION ad(a int) RETURNS int LANGUAGE sql AS 'SELECT 1';
             CREATE FUNCTION cheaper() RETURNS int LANGUAGE sql AS 'SELECT 1';
             GRANT EXECUTE ON FUNCTION ad, cheaper TO anon; GRANT SELECT ON itemz TO anon;",
        )
        .await
        .unwrap();
    for restart in [false, true] {
        if restart {
            fleet.start_router().await;
        }
        ask_first(&fleet).await;
        assert_eq!(seen(&fleet, "acme").await, before, "restarted: {restart}");
    }
}

#[tokio::test]
async fn an_extra_key_makes_no_embed_of_anothers_ambiguous() {
    let fleet = poisoned(
        "ALTER TABLE kids ADD CONSTRAINT again FOREIGN KEY (other_id) REFERENCES parents;
         CREATE TABLE pairs (parent_id int REFERENCES parents, kid_id int REFERENCES kids, PRIMARY KEY (parent_id, kid_id));
         CREATE FUNCTION kids(parents) RETURNS SETOF kids LANGUAGE sql STABLE AS 'SELECT * FROM kids WHERE false';
         GRANT EXECUTE ON FUNCTION kids(parents) TO anon; GRANT SELECT ON pairs TO anon;",
    )
    .await;
    let whole = json!([{ "id": 1, "kids": [{ "id": 1 }] }]);
    assert_eq!(fleet.get("/acme/parents?select=id,kids(id)").await.json(), whole);
    assert_eq!(
        fleet.get("/acme/kids?select=id,parents(id)").await.json(),
        json!([{ "id": 1, "parents": { "id": 1 } }])
    );
}

#[tokio::test]
async fn what_a_tenant_took_away_is_there_for_the_others() {
    let fleet = poisoned(
        "DROP TABLE kids; ALTER TABLE parents RENAME label TO name; DROP VIEW cheap; DROP FUNCTION add;
         ALTER TABLE items DROP COLUMN tags; ALTER TABLE items RENAME TO things",
    )
    .await;
    for path in ["parents?select=label,kids(id)", "cheap", "rpc/add?a=1", "items?select=tags"] {
        assert_eq!(fleet.get(&format!("/acme/{path}")).await.status, 200, "{path}");
    }
    assert_eq!(fleet.get("/mallory/things").await.status, 200);
}

/// Waits in `session` until it holds the whole table for itself.
async fn lock(session: &Connection, table: &str) {
    session.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await.unwrap();
}

#[tokio::test]
async fn a_schema_that_is_slow_to_read_holds_up_its_own_tenant_alone() {
    let toml = "[tiers.standard]\nstatement_timeout = '1min'\nrequest_timeout = '1min'";
    let mut fleet = fleet(&["mallory", "acme", "globex"], toml).await;
    let owner = fleet.owner("mallory").await;
    // Whether a view can be written is asked of the view itself, which waits for the lock.
    owner
        .batch_execute("CREATE TABLE under (id int); CREATE VIEW slow AS SELECT id FROM under")
        .await
        .unwrap();
    lock(&owner, "slow").await;
    fleet.start_router().await;
    let slow = async {
        let (first, second) = tokio::join!(fleet.get("/mallory/nothing"), fleet.get("/mallory/nothing"));
        assert_eq!((first.status.as_u16(), first.code().as_str()), (503, "PGRST002"), "{}", first.text);
        assert_eq!((second.status.as_u16(), second.code().as_str()), (503, "PGRST002"), "{}", second.text);
        // What the lineage knows needs no reading.
        assert_eq!(fleet.get("/mallory/items").await.status, 200);
    };
    let others = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for round in 0..3 {
            for slug in ["acme", "globex"] {
                assert_eq!(fleet.get(&format!("/{slug}/items")).await.status, 200, "{round}");
                assert_eq!(fleet.get(&format!("/{slug}/nothing")).await.code(), "PGRST205", "{round}");
                assert_eq!(fleet.get(&format!("/{slug}")).await.status, 200, "{round}");
            }
        }
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let slow = async {
        slow.await;
        assert!(done.load(std::sync::atomic::Ordering::Relaxed), "the others were answered before");
    };
    let others = async {
        others.await;
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(slow, others);
    owner.batch_execute("ROLLBACK").await.unwrap();
    eventually("its schema is read after all", || async {
        fleet.get("/mallory/nothing").await.code() == "PGRST205"
    })
    .await;
}

#[tokio::test]
async fn a_schema_that_is_too_large_fails_its_own_tenant_alone() {
    for sql in [
        // A comment that is a book.
        "CREATE TABLE long (id int); DO $$ BEGIN
            EXECUTE format('COMMENT ON TABLE long IS %L', repeat('x', 101000000)); END $$",
        // A key that a view shows in 248,832 ways.
        "CREATE TABLE wide (a int, b int, c int, d int, e int, PRIMARY KEY (a, b, c, d, e)); DO $$ BEGIN
            EXECUTE 'CREATE VIEW shown AS SELECT ' || (SELECT string_agg(format('%s AS %1$s%s', c, n), ', ')
                FROM unnest('{a,b,c,d,e}'::text[]) c, generate_series(1, 12) n) || ' FROM wide'; END $$",
        // A key between two tables that 400 views show each.
        "CREATE TABLE one (id int PRIMARY KEY); CREATE TABLE many (id int REFERENCES one); DO $$ BEGIN
            FOR n IN 1..400 LOOP
                EXECUTE format('CREATE VIEW one%s AS SELECT id FROM one', n);
                EXECUTE format('CREATE VIEW many%s AS SELECT id FROM many', n);
            END LOOP; END $$",
    ] {
        let mut fleet = fleet(&["mallory", "acme"], "").await;
        fleet.owner("mallory").await.batch_execute(sql).await.unwrap();
        fleet.start_router().await;
        let answer = fleet.get("/mallory/nothing").await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "PGRST002"), "{}", answer.text);
        assert_eq!(fleet.get("/mallory/items").await.status, 200);
        assert_eq!(fleet.get("/acme/items").await.status, 200);
        assert_eq!(fleet.get("/acme/nothing").await.code(), "PGRST205");
    }
}

#[tokio::test]
async fn views_that_show_each_other_are_read_to_an_end() {
    let fleet = poisoned(
        "CREATE VIEW ping AS SELECT 1 AS id; CREATE VIEW pong AS SELECT id FROM ping;
         CREATE OR REPLACE VIEW ping AS SELECT id FROM pong; GRANT SELECT ON ping TO anon;",
    )
    .await;
    assert_eq!(fleet.get("/mallory/ping").await.code(), "42P17");
    assert_eq!(fleet.get("/acme/items").await.status, 200);
}

#[tokio::test]
async fn whoever_asks_first_during_a_rollout_decides_nothing() {
    let mut fleet = fleet(&["mallory", "acme"], "").await;
    fleet.start_router().await;
    add_file(
        &fleet,
        "V4__more.sql",
        "ALTER TABLE items ADD COLUMN colour text DEFAULT 'red'; ALTER TABLE items ADD COLUMN size int DEFAULT 1;",
    );
    // What the file is going to make is changed as soon as it is there.
    let owner = fleet.owner("mallory").await;
    let change = async {
        eventually("the file has run", || async {
            let poison = "ALTER TABLE items ALTER colour SET DEFAULT 'mallory', ALTER size SET DEFAULT 666";
            owner.batch_execute(poison).await.is_ok()
        })
        .await;
        ask_first(&fleet).await;
    };
    let ((), (code, _, error)) = tokio::join!(change, fleet.run(&["migrate"]));
    // Changed before it was compared with the template, it has drifted. That is told of it alone.
    assert!(code == 0 || error.contains("mallory drifted") && !error.contains("acme"), "{error}");
    ask_first(&fleet).await;
    let path = "/acme/items?columns=name,colour,size&select=colour,size";
    let even = json!([{ "name": "a" }]);
    let uneven = json!([{ "name": "b" }, { "name": "c", "colour": "red", "size": 1 }]);
    let is_known = async || post(&fleet, path, "missing=default", even.clone()).await.status == 201;
    eventually("the router knows the new version", &is_known).await;
    let answer = post(&fleet, path, "missing=default", uneven).await;
    assert_eq!(answer.json(), json!([{ "colour": "red", "size": 1 }, { "colour": "red", "size": 1 }]));
    assert_eq!(fleet.get("/acme/items?name=eq.a&select=colour,size").await.json()[0]["colour"], "red");
}

#[tokio::test]
async fn tenants_that_are_migrated_one_by_one_do_not_share_what_no_template_has() {
    let mut fleet = fleet(&["mallory", "acme"], "").await;
    add_file(&fleet, "V4__more.sql", "ALTER TABLE items ADD COLUMN colour text DEFAULT 'red';");
    // The template stays at the version before.
    for slug in ["mallory", "acme"] {
        let (code, _, error) = fleet.run(&["migrate", "--tenant", slug]).await;
        assert_eq!(code, 0, "{error}");
    }
    let poison = "ALTER TABLE items ALTER colour SET DEFAULT 'mallory'; COMMENT ON TABLE items IS 'mallory'";
    fleet.owner("mallory").await.batch_execute(poison).await.unwrap();
    fleet.start_router().await;
    ask_first(&fleet).await;
    let path = "/acme/items?columns=name,colour&select=colour";
    let uneven = json!([{ "name": "a" }, { "name": "b", "colour": "red" }]);
    let answer = post(&fleet, path, "missing=default", uneven).await;
    assert_eq!(answer.json(), json!([{ "colour": "red" }, { "colour": "red" }]));
    assert!(!fleet.get("/acme").await.text.contains("mallory"));
    assert!(fleet.get("/mallory").await.text.contains("mallory"), "its own");
    assert_eq!(schema_reads(&fleet).await, 2);
}

#[tokio::test]
async fn a_cold_tenant_reads_no_schema() {
    let mut fleet = fleet(&["acme", "globex", "initech"], "").await;
    fleet.start_router().await;
    for slug in ["acme", "globex", "initech"] {
        assert_eq!(fleet.get(&format!("/{slug}/items")).await.status, 200);
    }
    assert_eq!(schema_reads(&fleet).await, 0);
    // A name that the lineage does not have is looked for in the tenant's own database, and in no other.
    assert_eq!(fleet.get("/acme/nothing").await.code(), "PGRST205");
    assert_eq!(schema_reads(&fleet).await, 1);
}

#[tokio::test]
async fn without_a_stored_schema_everybody_is_served_by_its_own() {
    let mut fleet = fleet(&["mallory", "acme"], "").await;
    let catalog = fleet.fleet.settings.catalog.database.clone();
    let server = fleet.fleet.servers.get("main").unwrap().clone();
    let admin = server.connect_admin_to(&catalog).await.unwrap();
    let empty = "DELETE FROM catalog.schema";
    admin.batch_execute(empty).await.unwrap();
    fleet.owner("mallory").await.batch_execute(POISON).await.unwrap();
    fleet.start_router().await;
    ask_first(&fleet).await;
    defaults_are_the_editions(&fleet).await;
    assert!(schema_reads(&fleet).await >= 2);
    // A catalog that can't be asked is no different.
    admin.batch_execute("ALTER TABLE catalog.schema RENAME TO gone").await.unwrap();
    fleet.start_router().await;
    ask_first(&fleet).await;
    assert_eq!(fleet.get("/acme/parents?select=id,kids(id)").await.status, 200);
    admin.batch_execute("ALTER TABLE catalog.gone RENAME TO schema").await.unwrap();

    // An operator's next command stores what is missing, from the sealed templates.
    let (code, _, error) = fleet.run(&["init"]).await;
    assert_eq!(code, 0, "{error}");
    let count = "SELECT count(*) FROM catalog.schema";
    assert_eq!(admin.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 1);
    let leftover = "SELECT count(*) FROM catalog.template WHERE state = 'building'";
    assert_eq!(admin.query_one(leftover, &[]).await.unwrap().get::<_, i64>(0), 0);
    fleet.start_router().await;
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    assert_eq!(schema_reads(&fleet).await, 0);
}

#[tokio::test]
async fn stored_schemas_are_read_by_routers_and_written_by_nobody_who_serves() {
    let fleet = fleet(&["acme"], "").await;
    let catalog = fleet.fleet.settings.catalog.database.clone();
    let server = fleet.fleet.servers.get("main").unwrap();
    let login = fleet.fleet.keys.newest().router_login(&catalog);
    let router = pg::connect(&server.endpoint, &login, &catalog).await.unwrap();
    assert_eq!(router.query("SELECT facts FROM catalog.schema", &[]).await.unwrap().len(), 1);
    for sql in [
        "UPDATE catalog.schema SET facts = '{}'",
        "DELETE FROM catalog.schema",
        "INSERT INTO catalog.schema SELECT 'x', edition, version, history, format, facts FROM catalog.schema",
        "TRUNCATE catalog.schema",
        "CREATE TRIGGER t AFTER INSERT ON catalog.schema EXECUTE FUNCTION catalog.tick()",
    ] {
        let refused = router.batch_execute(sql).await.unwrap_err();
        assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{sql}");
    }
    // A tenant does not even get in.
    let tenant = fleet.fleet.keys.tenant_logins(&fleet.row("acme").await.record).remove(0);
    assert!(pg::connect(&server.endpoint, &tenant, &catalog).await.is_err());
}

#[tokio::test]
async fn schemas_of_versions_that_nobody_has_are_forgotten() {
    let fleet = fleet(&["acme"], "").await;
    let catalog = fleet.fleet.settings.catalog.database.clone();
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin_to(&catalog).await.unwrap();
    for version in 4..8 {
        add_file(&fleet, &format!("V{version}__next.sql"), &format!("CREATE TABLE t{version} (id int);"));
        let (code, _, error) = fleet.run(&["migrate"]).await;
        assert_eq!(code, 0, "{error}");
    }
    // Two templates take turns, and there is one version for each.
    let versions = "SELECT array_agg(version ORDER BY version) FROM catalog.schema";
    assert_eq!(admin.query_one(versions, &[]).await.unwrap().get::<_, Vec<i64>>(0), [6, 7]);
}
