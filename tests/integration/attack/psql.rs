//! psql: an operator looks at what a hostile tenant put into its database.

use serde_json::Value;

use crate::adopt::Legacy;
use crate::support::TestFleet;

/// What `tenant psql` prints for a statement.
async fn psql(fleet: &TestFleet, more: &[&str], sql: &str) -> (i32, String, String) {
    let arguments = [&["tenant", "psql"], more, &["--", "-XAt", "-v", "ON_ERROR_STOP=1", "-c", sql]].concat();
    fleet.run(&arguments).await
}

/// The logins that were made for operators' sessions in this tenant's database.
async fn logins(fleet: &TestFleet, slug: &str) -> Vec<(String, bool)> {
    let like = fleet.row(slug).await.record.database().replace("mb_", "mb_p_");
    let sql = "SELECT rolname::text, rolcanlogin FROM pg_roles WHERE starts_with(rolname, $1)";
    let rows = fleet.admin(slug).await.query(sql, &[&like]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn journal(fleet: &TestFleet, slug: &str) -> Vec<Value> {
    let id = fleet.row(slug).await.record.id;
    let lines = fleet.fleet.catalog.journal(&id, 50).await.unwrap();
    lines.into_iter().filter(|line| line.action == "psql").map(|line| line.detail).collect()
}

#[tokio::test]
async fn a_view_that_an_operator_looks_at_reaches_nothing_beyond_its_database() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build().await;
    let globex = fleet.row("globex").await.record.database();
    let attempts = [
        format!("ALTER ROLE {globex} PASSWORD 'taken'"),
        format!("ALTER ROLE mb_m_{} PASSWORD 'taken'", globex.replace("mb_", "")),
        format!("SET ROLE {globex}"),
        "SET ROLE mb_admin".into(),
        "SET ROLE mb_history".into(),
        "CREATE ROLE mine LOGIN".into(),
        format!("ALTER DATABASE {globex} SET search_path = mine"),
        format!("DROP DATABASE {globex}"),
    ];
    // Not RESET ROLE: that goes back to the role that psql began with.
    let attempts: String = attempts
        .iter()
        .map(|sql| {
            format!(
                "BEGIN EXECUTE 'SET ROLE NONE'; EXECUTE $s${sql}$s$; done := done || $s${sql}$s$::text;
                 EXCEPTION WHEN OTHERS THEN NULL; END;"
            )
        })
        .collect();
    let trap = format!(
        "CREATE FUNCTION public.trap() RETURNS text[] LANGUAGE plpgsql AS $f$
         DECLARE done text[] := '{{}}'; BEGIN {attempts} RETURN done; END $f$;
         CREATE VIEW public.invoices AS SELECT 1 AS id, public.trap() AS done"
    );
    fleet.owner("acme").await.batch_execute(&trap).await.unwrap();
    let (status, out, error) = psql(&fleet, &["acme"], "SELECT done FROM invoices").await;
    assert_eq!((status, out.trim()), (0, "{}"), "{error}");
    let (status, out, error) = psql(&fleet, &["acme"], "SELECT current_user, session_user").await;
    assert!(status == 0 && out.starts_with("mb_owner|mb_p_"), "{out} {error}");
    // It may change what the tenant's own code may, and look through the eyes of an API role.
    let work = "CREATE TABLE mended (a int); SET ROLE anon; SELECT current_user";
    let (status, out, error) = psql(&fleet, &["acme"], work).await;
    assert!(status == 0 && out.trim().ends_with("anon"), "{out} {error}");
    assert_eq!(logins(&fleet, "acme").await, [], "each login went with its session");
    let (status, _, _) = psql(&fleet, &["acme"], "SELECT 1/0").await;
    assert_eq!(status, 1);
    assert_eq!(logins(&fleet, "acme").await, []);
    assert_eq!(journal(&fleet, "acme").await.len(), 4);
}

#[tokio::test]
async fn the_admin_is_asked_for_by_a_reason_that_the_journal_keeps() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let (status, _, error) = psql(&fleet, &["acme", "--admin"], "SELECT 1").await;
    assert!(status == 2 && error.contains("--reason"), "{error}");
    let (status, _, error) = psql(&fleet, &["acme", "--reason", "x"], "SELECT 1").await;
    assert!(status == 2 && error.contains("--admin"), "{error}");
    assert_eq!(journal(&fleet, "acme").await, Vec::<Value>::new());
    let why = ["acme", "--admin", "--reason", "to see pg_locks; ticket 7"];
    let (status, out, error) = psql(&fleet, &why, "SELECT current_user").await;
    assert_eq!((status, out.trim()), (0, "mb_admin"), "{error}");
    let told = journal(&fleet, "acme").await;
    assert_eq!(told, [serde_json::json!({ "admin": true, "reason": "to see pg_locks; ticket 7" })]);
}

#[tokio::test]
async fn a_login_that_can_not_be_dropped_is_closed() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let keep = "CREATE FUNCTION public.keep() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN
            EXECUTE format('GRANT SELECT ON public.items TO %I', session_user);
            EXECUTE 'SET ROLE NONE';
            EXECUTE 'ALTER ROLE CURRENT_USER PASSWORD ''taken''';
        END $f$";
    fleet.owner("acme").await.batch_execute(keep).await.unwrap();
    let (status, _, error) = psql(&fleet, &["acme"], "SELECT keep()").await;
    assert_eq!(status, 0, "{error}");
    let left = logins(&fleet, "acme").await;
    assert!(left.len() == 1 && !left[0].1, "{left:?}");
    let user = left[0].0.clone();
    let login = manybox::pg::Login { user, password: Some(manybox::policy::Secret::new("taken")) };
    let endpoint = &fleet.fleet.servers.get("main").unwrap().endpoint;
    let database = fleet.row("acme").await.record.database();
    assert!(manybox::pg::connect(endpoint, &login, &database).await.is_err());
    // It goes with the tenant.
    for verb in [manybox::tenant::Verb::Retire, manybox::tenant::Verb::Purge] {
        fleet.fleet.carry_out("acme", verb).await.unwrap();
    }
    let sql = "SELECT count(*) FROM pg_roles WHERE rolname = $1";
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    assert_eq!(admin.query_one(sql, &[&login.user]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn an_adopted_database_is_opened_by_its_own_login() {
    let fleet = TestFleet::builder().build().await;
    let legacy = Legacy::make(&fleet).await;
    legacy.adopt(&fleet, "old", &[]).await;
    let (status, out, error) = psql(&fleet, &["old"], "SELECT session_user").await;
    assert_eq!((status, out.trim()), (0, format!("{}_login", legacy.name).as_str()), "{error}");
}
