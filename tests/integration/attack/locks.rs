//! Advisory locks: those that a tenant takes stop nobody, and those that manybox takes tell nothing.

use manybox::tenant::Verb;

use super::two_tenants;

#[tokio::test]
async fn a_tenant_that_holds_every_lock_of_manybox_stops_no_other() {
    let fleet = two_tenants("").await;
    let hostile = fleet.owner("acme").await;
    let of_tenants = [fleet.row("acme").await.record.id, fleet.row("globex").await.record.id];
    // What `init`, migrators, and creation, changes of state and purge of a tenant take.
    let fixed = [0x6d61_6e79_626f_7800, i64::from_be_bytes(*b"mb:migra")];
    for key in
        of_tenants.map(|id| fleet.fleet.keys.lock_key(&["tenant", id.as_str()])).into_iter().chain(fixed)
    {
        hostile.query_one("SELECT pg_advisory_lock($1)", &[&key]).await.unwrap();
    }
    std::fs::write(fleet.folder.path().join("migrations/shop/V3__more.sql"), "CREATE TABLE more (id int);")
        .unwrap();
    let (code, out, error) = fleet.run(&["migrate", "--tenant", "globex"]).await;
    assert_eq!(code, 0, "{out} {error}");
    assert_eq!(fleet.run(&["init"]).await.0, 0);
    for verb in [Verb::Suspend, Verb::Resume] {
        fleet.fleet.carry_out("globex", verb).await.unwrap();
        fleet.fleet.carry_out("acme", verb).await.unwrap();
    }
    fleet.create("delta").await;
}

#[tokio::test]
async fn a_key_in_pg_locks_tells_no_tenant() {
    use ring::digest::{SHA256, digest};

    let fleet = two_tenants("").await;
    let record = fleet.row("acme").await.record;
    let key = fleet.fleet.keys.lock_key(&["tenant", record.id.as_str()]);
    let database = record.id.database();
    for known in [record.id.as_str(), database.as_str(), "acme"] {
        let guess = digest(&SHA256, known.as_bytes());
        let half = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().unwrap());
        assert!(guess.as_ref().windows(8).all(|bytes| half(bytes) != key), "{known}");
        let client = fleet.owner("globex").await;
        let sql = "SELECT hashtextextended($1, 0), hashtext($1)::bigint";
        let row = client.query_one(sql, &[&known]).await.unwrap();
        assert!(row.get::<_, i64>(0) != key && row.get::<_, i64>(1) != key, "{known}");
    }
}
