//! Temporary tables: the owner's code makes them, API roles where the edition's settings let them, and fleets of before get the
//! rights by `init`.

use reqwest::Method;
use serde_json::Value;

use crate::support::{Answer, TestFleet};

const FILE: &str = "
CREATE TEMPORARY TABLE gathered AS SELECT 1 AS id;
CREATE TABLE counted AS SELECT count(*) FROM gathered;
CREATE TABLE sales (id int PRIMARY KEY, amount int NOT NULL);
CREATE MATERIALIZED VIEW totals AS SELECT id, sum(amount) AS amount FROM sales GROUP BY id;
CREATE UNIQUE INDEX ON totals (id);
CREATE FUNCTION refresh() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO sales SELECT COALESCE(max(id), 0) + 1, 1 FROM sales;
    REFRESH MATERIALIZED VIEW CONCURRENTLY totals;
    RETURN (SELECT count(*) FROM totals);
END $$;
CREATE FUNCTION as_owner() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    CREATE TEMPORARY TABLE scratch AS SELECT generate_series(1, 3);
    RETURN (SELECT count(*) FROM scratch);
END $$;
CREATE FUNCTION as_caller() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    CREATE TEMPORARY TABLE scratch AS SELECT generate_series(1, 3);
    RETURN (SELECT count(*) FROM scratch);
END $$;
GRANT EXECUTE ON FUNCTION refresh, as_owner, as_caller TO anon;";

async fn fleet(toml: &str) -> TestFleet {
    let mut fleet = TestFleet::builder().toml(toml).build().await;
    std::fs::write(fleet.folder.path().join("migrations/shop/V3__temporary.sql"), FILE).unwrap();
    fleet.create("acme").await;
    fleet.start_router().await;
    fleet
}

async fn call(fleet: &TestFleet, function: &str) -> Answer {
    fleet.send(Method::POST, &format!("/acme/rpc/{function}"), None, "", "{}").await
}

/// What the database's ACL says of temporary tables.
async fn may(fleet: &TestFleet, slug: &str) -> Vec<String> {
    let sql = "SELECT a.grantee::regrole::text FROM pg_database d, aclexplode(d.datacl) a
               WHERE d.datname = current_database() AND a.privilege_type = 'TEMPORARY' AND a.grantee <> d.datdba ORDER BY 1";
    fleet.admin(slug).await.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn the_owners_code_makes_them_and_its_callers_dont() {
    let fleet = fleet("").await;
    // Twice: what a call leaves is not met by the next.
    for round in 1..3 {
        assert_eq!(call(&fleet, "refresh").await.json(), round);
        assert_eq!(call(&fleet, "as_owner").await.json(), 3);
        assert_eq!(call(&fleet, "as_caller").await.code(), "42501");
    }
    assert_eq!(may(&fleet, "acme").await, ["mb_owner"]);
    let (code, out, error) = fleet.run(&["verify", "--tenant", "acme", "--json"]).await;
    assert_eq!(findings(&out), [""; 0], "{code} {error}");
}

#[tokio::test]
async fn callers_make_them_where_the_edition_lets_them() {
    let mut fleet = fleet("temporary_tables = true").await;
    for _ in 0..2 {
        assert_eq!(call(&fleet, "as_caller").await.json(), 3);
    }
    let (code, out, error) = fleet.run(&["verify", "--tenant", "acme", "--json"]).await;
    assert_eq!(findings(&out), [""; 0], "{code} {error}");
    // The setting holds for databases that are there as soon as `init` has run.
    fleet.edit_settings(|text| text.replace("temporary_tables = true", "")).await;
    let (code, _, error) = fleet.run(&["init"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(may(&fleet, "acme").await, ["mb_owner"]);
    assert_eq!(call(&fleet, "as_caller").await.code(), "42501");
    fleet
        .edit_settings(|text| text.replace("[editions.shop]", "[editions.shop]\ntemporary_tables = true"))
        .await;
    assert_eq!(fleet.run(&["init"]).await.0, 0);
    assert_eq!(may(&fleet, "acme").await, ["anon", "authenticated", "mb_owner", "service"]);
}

#[tokio::test]
async fn a_fleet_of_before_gets_the_right() {
    let fleet = fleet("").await;
    let admin = fleet.admin("acme").await;
    let name = fleet.row("acme").await.record.database();
    admin.batch_execute(&format!("REVOKE TEMPORARY ON DATABASE {name} FROM mb_owner")).await.unwrap();
    assert_eq!(call(&fleet, "refresh").await.code(), "42501");
    let (code, _, error) = fleet.run(&["init"]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(call(&fleet, "refresh").await.json(), 1);
    assert!(fleet.fleet.outdated_databases().await.unwrap().0.is_empty());
}

/// What `verify` found in or about a tenant's database; the test server's own faults are not the subject.
fn findings(out: &str) -> Vec<String> {
    let report: Value = serde_json::from_str(out).unwrap();
    let all = report["findings"].as_array().unwrap().iter();
    all.filter(|finding| finding["code"] == "V03").map(|finding| finding["seen"].to_string()).collect()
}
