//! Lifecycle: create, suspend, retire, purge, apply, rekey; killed anywhere, run again, whole.

use std::time::Duration;

use manybox::fleet::{self, Change, TenantSpec};
use manybox::pg;
use manybox::tenant::{State, TenantId, Verb};
use serde_json::json;

use crate::support::{TestFleet, eventually, superuser, superuser_in};

/// The login refused, by its SQLSTATE; `None` when it got in.
async fn refused(fleet: &TestFleet, record: &manybox::tenant::Record) -> Option<String> {
    let login = fleet.fleet.keys.tenant_logins(record).remove(0);
    let server = fleet.fleet.servers.get(&record.server).unwrap();
    let error = pg::connect(&server.endpoint, &login, &record.id.database()).await.err()?;
    Some(error.code().map_or("none", |c| c.code()).to_owned())
}

/// As a function of the tenant's can, which is the login after `RESET ROLE`.
#[tokio::test]
async fn resuming_mends_a_login_whose_password_was_changed() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let record = fleet.row("acme").await.record;
    let login = record.id.database();
    let change = format!("ALTER ROLE {login} PASSWORD 'guessed'; ALTER ROLE {login} SET work_mem = '1GB'");
    fleet.admin("acme").await.batch_execute(&change).await.unwrap();
    assert_eq!(refused(&fleet, &record).await.as_deref(), Some("28P01"));
    fleet.fleet.carry_out("acme", Verb::Suspend).await.unwrap();
    fleet.fleet.carry_out("acme", Verb::Resume).await.unwrap();
    assert_eq!(refused(&fleet, &record).await, None);
    let kept = "SELECT FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole WHERE rolname = $1";
    assert!(fleet.admin("acme").await.query(kept, &[&login]).await.unwrap().is_empty());
}

#[tokio::test]
async fn suspended_is_fenced_and_the_admin_still_gets_in() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let record = fleet.row("acme").await.record;
    let login = fleet.fleet.keys.tenant_logins(&record).remove(0);
    let server = fleet.fleet.servers.get("main").unwrap();
    let open = pg::connect(&server.endpoint, &login, &record.id.database()).await.unwrap();
    let row = fleet.fleet.carry_out("acme", Verb::Suspend).await.unwrap();
    assert_eq!((row.record.state, row.unsettled), (State::Suspended, false));
    assert!(open.batch_execute("SELECT 1").await.is_err(), "its session was ended");
    assert_eq!(refused(&fleet, &record).await.as_deref(), Some("28000"));
    fleet.admin("acme").await.batch_execute("SELECT 1").await.unwrap();
    fleet.fleet.carry_out("acme", Verb::Resume).await.unwrap();
    assert_eq!(refused(&fleet, &record).await, None);
}

#[tokio::test]
async fn verbs_start_from_the_right_states_only() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    for verb in [Verb::Purge, Verb::Restore] {
        // Restore of an active tenant is done already; purge of one needs retire first.
        let outcome = fleet.fleet.carry_out("acme", verb).await;
        assert_eq!(outcome.is_ok(), verb == Verb::Restore);
    }
    fleet.fleet.carry_out("acme", Verb::Retire).await.unwrap();
    let error = fleet.fleet.carry_out("acme", Verb::Resume).await.unwrap_err().to_string();
    assert!(error.contains("retired") && error.contains("restore"), "{error}");
    assert!(matches!(
        fleet.fleet.carry_out("nobody", Verb::Suspend).await,
        Err(fleet::FleetError::Unknown(_))
    ));
}

#[tokio::test]
async fn retire_lets_requests_finish() {
    let mut fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    fleet.edit_settings(|text| text.replace("drain_timeout = '1s'", "drain_timeout = '20s'")).await;
    fleet.start_router().await;
    // Reads the schema, so that the transaction seen below is the slow request's own.
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    let slow = fleet
        .request(reqwest::Method::POST, "/acme/rpc/sleepy")
        .header("Content-Type", "application/json")
        .body(r#"{"seconds": 1.5}"#);
    let slow = tokio::spawn(slow.send());
    fleet.until_under_way("acme").await;
    fleet.fleet.carry_out("acme", Verb::Retire).await.unwrap();
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    assert_eq!(fleet.get("/acme/items").await.status, 404);
}

#[tokio::test]
async fn nothing_of_a_purged_tenant_reaches_the_next_of_its_slug() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let old = fleet.row("acme").await.record;
    let token = fleet.token("acme", json!({ "role": "service" })).await;
    let insert =
        fleet.send(reqwest::Method::POST, "/acme/items", Some(&token), "", r#"{"name":"old"}"#).await;
    assert_eq!(insert.status, 201, "{}", insert.text);
    let stale = fleet.tenant("acme").await;
    fleet.fleet.carry_out("acme", Verb::Retire).await.unwrap();
    fleet.fleet.carry_out("acme", Verb::Purge).await.unwrap();
    fleet.create("acme").await;
    let new = fleet.row("acme").await.record;
    assert_ne!(old.id, new.id);
    eventually("the new tenant answers", || async { fleet.get("/acme/items").await.status == 200 }).await;
    assert_eq!(fleet.get("/acme/items").await.json(), json!([]));
    // The old token.
    assert_eq!(fleet.get_as(&token, "/acme/items").await.status, 401);
    // A router that still has the old tenant.
    let pools = fleet.app.as_ref().unwrap().pools.clone();
    assert!(pools.checkout(&stale).await.is_err());
    // The old login, on the old and on the new database.
    let login = fleet.fleet.keys.tenant_logins(&old).remove(0);
    let server = fleet.fleet.servers.get("main").unwrap();
    for database in [old.id.database(), new.id.database()] {
        let error = pg::connect(&server.endpoint, &login, &database).await.err().expect("refused");
        assert_eq!(error.code().map(|c| c.code()), Some("28P01"));
    }
}

#[tokio::test]
async fn what_we_did_not_make_is_named_and_left_alone() {
    let fleet = TestFleet::builder().tenants(&[]).build().await;
    let server = fleet.fleet.servers.get("main").unwrap();
    let admin = server.connect_admin().await.unwrap();
    for what in ["ROLE", "DATABASE"] {
        let id = TenantId::random().unwrap();
        let name = id.database();
        admin.batch_execute(&format!("CREATE {what} {name}")).await.unwrap();
        let error =
            fleet.fleet.intend(id, &"acme".parse().unwrap(), &TenantSpec::default()).await.unwrap_err();
        assert!(matches!(&error, fleet::FleetError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains(&name), "{error}");
        assert!(fleet.fleet.tenant("acme").await.is_err(), "no intent is left");
        admin.batch_execute(&format!("DROP {what} {name}")).await.unwrap();
    }
}

#[tokio::test]
async fn an_intent_can_be_undone() {
    let fleet = TestFleet::builder().tenants(&[]).build().await;
    let id = TenantId::random().unwrap();
    let row = fleet.fleet.intend(id, &"acme".parse().unwrap(), &TenantSpec::default()).await.unwrap();
    // As far as a killed create may have come: its role is there, its database is not.
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let name = row.record.id.database();
    admin.batch_execute(&format!("CREATE ROLE {name}")).await.unwrap();
    fleet.fleet.carry_out("acme", Verb::Purge).await.unwrap();
    let left = "SELECT count(*) FROM pg_roles WHERE rolname = $1";
    assert_eq!(admin.query_one(left, &[&name]).await.unwrap().get::<_, i64>(0), 0);
    assert!(fleet.fleet.tenant("acme").await.is_err(), "the slug is free");
}

#[tokio::test]
async fn apply_makes_what_is_declared_and_deletes_nothing() {
    let fleet = TestFleet::builder()
        .toml("[tiers.large]\n[tenants.acme]\n[tenants.globex]\ntier = 'large'\nbase_urls = ['https://globex.example']")
        .tenants(&["undeclared"])
        .build()
        .await;
    let (code, dry, error) = fleet.run(&["apply", "--dry-run"]).await;
    assert_eq!(code, 2, "{error}");
    assert!(dry.contains("acme") && dry.contains("would create"), "{dry}");
    assert!(fleet.fleet.tenant("acme").await.is_err(), "a dry run does nothing");
    let (code, _, error) = fleet.run(&["apply"]).await;
    assert_eq!(code, 0, "{error}");
    let globex = fleet.row("globex").await.record;
    assert_eq!(globex.tier, "large");
    assert!(globex.base_urls.iter().any(|url| url.to_string() == "https://globex.example"));
    assert_eq!(fleet.row("undeclared").await.record.state, State::Active);
    let (code, again, _) = fleet.run(&["apply", "--json"]).await;
    assert_eq!((code, again.trim()), (0, "[]"));
}

#[tokio::test]
async fn apply_finishes_what_was_begun() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    fleet
        .fleet
        .intend(TenantId::random().unwrap(), &"half".parse().unwrap(), &TenantSpec::default())
        .await
        .unwrap();
    let acme = fleet.row("acme").await.record;
    // The catalog says suspended, the server has not heard of it.
    assert!(fleet.fleet.catalog.tenant_transition(&acme.id, Verb::Suspend).await.unwrap());
    assert_eq!(refused(&fleet, &acme).await, None);
    let plan = fleet.fleet.plan().await.unwrap();
    assert!(matches!(plan.changes.as_slice(), [Change::Settle { .. }, Change::Finish { .. }]), "{plan:?}");
    assert_eq!(fleet.run(&["apply"]).await.0, 0);
    assert_eq!(refused(&fleet, &acme).await.as_deref(), Some("28000"));
    assert_eq!(fleet.row("half").await.record.state, State::Active);
}

#[tokio::test]
async fn base_urls_belong_to_one_tenant() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build().await;
    assert_eq!(fleet.run(&["tenant", "set", "acme", "base_urls=https://x.example/a"]).await.0, 0);
    for taken in
        ["https://x.example/a", "http://X.example:8080/a/b", "https://x.example", "http://127.0.0.1/acme"]
    {
        let (code, _, error) = fleet.run(&["tenant", "set", "globex", &format!("base_urls={taken}")]).await;
        assert_eq!(code, 1, "{taken}");
        assert!(error.contains("acme"), "{taken}: {error}");
    }
    let (code, _, error) = fleet.run(&["tenant", "set", "globex", "base_urls=https://x.example/b"]).await;
    assert_eq!(code, 0, "{error}");
}

#[tokio::test]
async fn a_create_killed_anywhere_leaves_a_tenant_whole_or_absent() {
    // On a server of its own, so that whatever is left there is left by this.
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = crate::support::private_server(folder.path().join("own"), false).await;
    let fleet = TestFleet::builder().tenants(&["first"]).build_on(&server.admin_url()).await;
    let begun = std::time::Instant::now();
    assert_eq!(fleet.run(&["tenant", "create", "second"]).await.0, 0);
    let whole = begun.elapsed();
    for round in 0..50_u32 {
        let slug = format!("t{round}");
        let mut child = fleet
            .program(&["tenant", "create", &slug])
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Spread over the time that a whole create takes here.
        tokio::time::sleep(whole * round / 50).await;
        let _ = child.kill();
        let _ = child.wait();
        if round % 10 == 9 {
            // Half of them are finished by `apply`, as an operator would.
            assert_eq!(fleet.run(&["apply"]).await.0, 0);
        }
    }
    let (code, _, error) = fleet.run(&["apply"]).await;
    assert_eq!(code, 0, "{error}");
    let rows = fleet.fleet.catalog.tenants(&manybox::catalog::Filter::default()).await.unwrap();
    assert!(rows.len() > 2, "some creates got as far as the intent");
    for row in &rows {
        assert_eq!(row.record.state, State::Active, "{}", row.record.slug);
        let items = fleet.admin(row.record.slug.as_str()).await;
        items.batch_execute("SELECT FROM public.items, public.notes").await.expect("its schema is whole");
        assert_eq!(refused(&fleet, &row.record).await, None);
    }
    // Nothing is on the server that the catalog does not know.
    let known: Vec<String> = rows.iter().map(|row| row.record.id.database()).collect();
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let sql = "SELECT rolname::text FROM pg_roles WHERE rolname ~ '^mb_[0-9a-z]{16}$'
               UNION SELECT datname::text FROM pg_database WHERE datname ~ '^mb_[0-9a-z]{16}$'";
    let there: Vec<String> = admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(there.iter().all(|name| known.contains(name)), "{there:?}");
    assert_eq!(there.len(), known.len());
    drop(admin);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_purge_frees_base_urls_and_leaves_nothing_on_the_server() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let name = fleet.row("acme").await.record.id.database();
    assert_eq!(fleet.run(&["tenant", "retire", "acme"]).await.0, 0);
    let (code, _, error) = fleet.run(&["tenant", "purge", "acme"]).await;
    assert_eq!(code, 1);
    assert!(error.contains("--yes"), "{error}");
    assert_eq!(fleet.run(&["tenant", "purge", "acme", "--yes"]).await.0, 0);
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let left = "SELECT (SELECT count(*) FROM pg_roles WHERE rolname = $1) + (SELECT count(*) FROM pg_database WHERE datname = $1)";
    assert_eq!(admin.query_one(left, &[&name]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(fleet.run(&["tenant", "create", "acme"]).await.0, 0);
}

#[tokio::test]
async fn rekey_needs_no_downtime_and_finish_ends_the_old_key() {
    let mut fleet = TestFleet::builder().tenants(&["acme", "globex"]).serve().await;
    let token = fleet.token("acme", json!({ "role": "service" })).await;
    assert_eq!(fleet.get_as(&token, "/acme/items").await.status, 200);
    let mut rekey = Box::pin(fleet.run(&["rekey"]));
    // Requests go on all the while, and none fails.
    let (code, _, error) = loop {
        tokio::select! {
            outcome = &mut rekey => break outcome,
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                for slug in ["acme", "globex"] {
                    let answer = fleet.get(&format!("/{slug}/items")).await;
                    assert_eq!(answer.status, 200, "{}", answer.text);
                }
            }
        }
    };
    drop(rekey);
    assert_eq!(code, 0, "{error}");
    // New connections work with the new password, and tokens of the old key hold.
    fleet.app.as_ref().unwrap().pools.drain(&fleet.row("acme").await.record.id);
    assert_eq!(fleet.get_as(&token, "/acme/items").await.status, 200);
    let (code, _, error) = fleet.run(&["rekey", "--finish"]).await;
    assert_eq!(code, 0, "{error}");
    eventually("tokens of the old key end", || async {
        fleet.get_as(&token, "/acme/items").await.status == 401
    })
    .await;
    fleet.reopen().await;
    let token = fleet.token("acme", json!({ "role": "service" })).await;
    assert_eq!(fleet.get_as(&token, "/acme/items").await.status, 200);
}

#[tokio::test]
async fn a_database_whose_drop_was_cut_is_named_and_purged() {
    let fleet = TestFleet::builder().tenants(&["a", "b"]).build().await;
    let (a, b) = (fleet.row("a").await.record.database(), fleet.row("b").await.record.database());
    let superuser = superuser().await;
    // What a crash of the server amid DROP DATABASE leaves.
    superuser.batch_execute("CHECKPOINT").await.unwrap();
    let place = superuser
        .query_one(
            "UPDATE pg_database SET datconnlimit = -2 WHERE datname = $1
             RETURNING current_setting('data_directory') || '/base/' || oid::text",
            &[&a],
        )
        .await
        .unwrap();
    std::fs::remove_dir_all(place.get::<_, String>(0)).unwrap();

    let (_, out, _) = fleet.run(&["doctor", "--json"]).await;
    assert!(out.contains("D51"), "{out}");
    let router = superuser_in(&format!("{}_router", fleet.fleet.settings.catalog.database)).await;
    let sizes = "SELECT database, bytes FROM database_sizes($1, '1 minute')";
    let sizes = router.query(sizes, &[&vec![&a, &b]]).await.unwrap();
    let measured: Vec<_> =
        sizes.iter().map(|row| (row.get(0), row.get::<_, Option<i64>>(1).is_some())).collect();
    assert_eq!(measured, [(b, true)]);
    let (code, _, error) = fleet.run(&["tenant", "retire", "a"]).await;
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = fleet.run(&["tenant", "purge", "a", "--yes", "--now"]).await;
    assert_eq!(code, 0, "{error}");
    let left = "SELECT FROM pg_database WHERE datname = $1";
    assert!(superuser.query_opt(left, &[&a]).await.unwrap().is_none());
}
