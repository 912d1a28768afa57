//! Adopted databases: they are served as PostgREST served them, kept apart, and never changed.

use manybox::fleet::AdoptionSpec;
use manybox::pg::Connection;
use manybox::policy::Secret;
use manybox::tenant::{Record, State, TenantId, Verb};
use manybox::vault::PASSWORD;
use serde_json::json;

use crate::support::{TestFleet, eventually, sign};

const JWT_SECRET: &str = "reallyreallyreallyreallyverysafe";

/// A database as a PostgREST user has it, with roles of its own.
pub(crate) struct Legacy {
    pub(crate) name: String,
}

impl Legacy {
    pub(crate) async fn make(fleet: &TestFleet) -> Self {
        // Roles belong to the server that all tests share.
        let name = format!("legacy_{}", TenantId::random().unwrap());
        let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
        admin
            .batch_execute(&format!(
                "CREATE ROLE {name}_login LOGIN NOINHERIT PASSWORD 'hunter2';
                 CREATE ROLE {name}_anon; CREATE ROLE {name}_user;
                 GRANT {name}_anon, {name}_user TO {name}_login;"
            ))
            .await
            .unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let legacy = Self { name };
        legacy
            .run(
                fleet,
                "CREATE SCHEMA api; CREATE TABLE api.todos (id int PRIMARY KEY, task text);
                 INSERT INTO api.todos VALUES (1, 'finish');
                 CREATE FUNCTION api.who() RETURNS json LANGUAGE sql STABLE AS $$
                    SELECT json_build_object('role', current_user, 'login', session_user, 'database', current_database(),
                        'claims', current_setting('request.jwt.claims', true), 'app', current_setting('app.settings.Host', true),
                        'timeout', current_setting('statement_timeout'), 'isolation', current_setting('transaction_isolation'),
                        'pre', current_setting('pre.request', true)) $$;
                 CREATE FUNCTION api.before() RETURNS void LANGUAGE plpgsql AS $$
                    BEGIN PERFORM set_config('pre.request', current_user || ' ' || current_setting('request.method'), true); END $$;
                 GRANT USAGE ON SCHEMA api TO {}_anon, {}_user;
                 GRANT SELECT ON api.todos TO {}_anon; GRANT ALL ON api.todos TO {}_user;",
            )
            .await;
        legacy
    }

    pub(crate) async fn client(&self, fleet: &TestFleet) -> Connection {
        fleet.fleet.servers.get("main").unwrap().connect_admin_to(&self.name).await.unwrap()
    }

    /// Runs statements in it as its owner; `{}` is the prefix of its roles.
    pub(crate) async fn run(&self, fleet: &TestFleet, sql: &str) {
        self.client(fleet).await.batch_execute(&sql.replace("{}", &self.name)).await.unwrap();
    }

    pub(crate) fn wanted(&self, settings: &[(&str, &str)]) -> AdoptionSpec {
        let anon = format!("{}_anon", self.name);
        let settings = [("db_schemas", "api"), ("db_anon_role", anon.as_str()), ("jwt_secret", JWT_SECRET)]
            .iter()
            .chain(settings)
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        AdoptionSpec {
            database: self.name.clone(),
            login_role: Some(format!("{}_login", self.name)),
            password: Some(Secret::new("hunter2")),
            settings,
            ..AdoptionSpec::default()
        }
    }

    pub(crate) async fn adopt(&self, fleet: &TestFleet, slug: &str, settings: &[(&str, &str)]) -> Record {
        let adoption = fleet.fleet.adopt(&slug.parse().unwrap(), &self.wanted(settings)).await.unwrap();
        assert_eq!(adoption.warnings, Vec::<String>::new());
        adoption.tenant.record
    }

    /// All that could have been changed in it, and around it.
    async fn state(&self, fleet: &TestFleet) -> String {
        let sql = "SELECT json_build_object(
            'database', (SELECT row_to_json(d)::jsonb - 'datfrozenxid' - 'datminmxid' FROM pg_database d WHERE datname = current_database()),
            'roles', (SELECT json_agg(r ORDER BY rolname) FROM pg_roles r WHERE starts_with(rolname, current_database())),
            'members', (SELECT json_agg(m ORDER BY member, roleid) FROM pg_auth_members m JOIN pg_roles r ON r.oid = member WHERE starts_with(rolname, current_database())),
            'settings', (SELECT json_agg(s) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = setrole WHERE starts_with(rolname, current_database())),
            'objects', (SELECT json_agg((relname, relacl, relowner) ORDER BY oid) FROM pg_class WHERE oid >= 16384),
            'schemas', (SELECT json_agg((nspname, nspacl) ORDER BY nspname) FROM pg_namespace),
            'functions', (SELECT json_agg((proname, proacl) ORDER BY oid) FROM pg_proc WHERE oid >= 16384))::text";
        self.client(fleet).await.query_one(sql, &[]).await.unwrap().get(0)
    }
}

#[tokio::test]
async fn an_adopted_database_is_served_and_never_changed() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let legacy = Legacy::make(&fleet).await;
    let before = legacy.state(&fleet).await;
    let record = legacy.adopt(&fleet, "old", &[("app.settings.Host", "here")]).await;
    assert_eq!((record.database(), record.state), (legacy.name.clone(), State::Active));
    eventually("the router serves it", || async { fleet.get("/old/todos").await.status == 200 }).await;
    assert_eq!(fleet.get("/old/todos").await.json(), json!([{ "id": 1, "task": "finish" }]));
    let user = format!("{}_user", legacy.name);
    let token = sign(JWT_SECRET.as_bytes(), json!({ "role": user }));
    let who = fleet.get_as(&token, "/old/rpc/who").await.json();
    assert_eq!((&who["role"], &who["app"]), (&json!(user), &json!("here")));
    assert_eq!(who["login"], json!(format!("{}_login", legacy.name)));
    // A made tenant's token is none of the adopted one's, and the other way round.
    let acme = fleet.token("acme", json!({ "role": user })).await;
    assert_eq!(fleet.get_as(&acme, "/old/todos").await.status, 401);
    assert_eq!(fleet.get_as(&token, "/acme/items").await.status, 401);

    for (verb, status) in
        [(Verb::Suspend, 403), (Verb::Resume, 200), (Verb::Retire, 404), (Verb::Restore, 200)]
    {
        fleet.fleet.carry_out("old", verb).await.unwrap();
        eventually("the router follows", || async { fleet.get("/old/todos").await.status == status }).await;
    }
    // What the control plane does to all tenants leaves it out.
    let (code, out, err) = fleet.run(&["migrate"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("1 tenant(s) with an adopted database skipped"), "{out}");
    let (code, _, err) = fleet.run(&["migrate", "--tenant", "old"]).await;
    assert!(code == 1 && err.contains("adopted"), "{err}");
    let (code, out, err) = fleet.run(&["migrate", "status"]).await;
    assert!(code == 0 && out.contains("acme") && !out.contains("old"), "{out} {err}");
    let (code, _, err) = fleet.run(&["apply"]).await;
    assert_eq!(code, 0, "{err}");
    fleet.fleet.carry_out("old", Verb::Retire).await.unwrap();
    let (code, out, err) = fleet.run(&["tenant", "purge", "old"]).await;
    assert!(code == 0 && out.contains("stay as they are"), "{out} {err}");
    assert_eq!(legacy.state(&fleet).await, before, "nothing was changed");
    // Its slug and its database are free again.
    legacy.adopt(&fleet, "old", &[]).await;
}

#[tokio::test]
async fn what_may_not_be_adopted() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let legacy = Legacy::make(&fleet).await;
    let refused = async |slug: &str, change: &dyn Fn(&mut AdoptionSpec)| {
        let mut wanted = legacy.wanted(&[]);
        change(&mut wanted);
        fleet.fleet.adopt(&slug.parse().unwrap(), &wanted).await.unwrap_err().to_string()
    };
    let acme = fleet.row("acme").await.record.database();
    let catalog = fleet.fleet.settings.catalog.database.clone();
    for (what, expected, change) in [
        (
            "another tenant's database",
            "manybox's own",
            &(|w: &mut AdoptionSpec| w.database = acme.clone()) as &dyn Fn(&mut AdoptionSpec),
        ),
        ("the catalog", "manybox's own", &|w| w.database = catalog.clone()),
        ("a template", "a template", &|w| w.database = "template1".into()),
        ("the admin's login", "manybox's own", &|w| w.login_role = Some("mb_admin".into())),
        ("the router's login", "manybox's own", &|w| w.login_role = Some(format!("{catalog}_router"))),
        ("another tenant's login", "manybox's own", &|w| w.login_role = Some(acme.clone())),
        ("a wrong password", "password authentication failed", &|w| w.password = Some(Secret::new("x"))),
        ("no password", "--password-env", &|w| w.password = None),
        ("no such database", "does not exist", &|w| w.database = "nowhere".into()),
        ("an unknown setting", "did you mean `db_schemas`?", &|w| {
            w.settings = vec![("schemas".into(), "x".into())]
        }),
        ("an unknown tier", "there is no tier", &|w| w.tier = Some("huge".into())),
    ] {
        let error = refused("old", change).await;
        assert!(error.contains(expected) && !error.contains("hunter2"), "{what}: {error}");
    }
    let taken = refused("acme", &|_| ()).await;
    assert!(taken.contains("is there already"), "{taken}");
    legacy.adopt(&fleet, "old", &[]).await;
    let twice = refused("other", &|_| ()).await;
    assert!(twice.contains("is tenant `old`'s"), "{twice}");
    // A slug that is adopted can't be created over, nor declared.
    let wish = manybox::fleet::TenantSpec::default();
    assert!(fleet.fleet.create(&"old".parse().unwrap(), &wish).await.is_err());
}

#[tokio::test]
async fn secrets_are_sealed_and_follow_the_master_key() {
    let mut fleet = TestFleet::builder().build().await;
    let legacy = Legacy::make(&fleet).await;
    let record = legacy.adopt(&fleet, "old", &[]).await;
    let admin = fleet.fleet.servers.get("main").unwrap();
    let catalog = admin.connect_admin_to(&fleet.fleet.settings.catalog.database).await.unwrap();
    let row = async |catalog: &Connection| -> String {
        let sql = "SELECT to_jsonb(t)::text || (SELECT json_agg(j) FROM catalog.journal j)::text
                   FROM catalog.tenant t WHERE slug = 'old'";
        catalog.query_one(sql, &[]).await.unwrap().get(0)
    };
    let stored = row(&catalog).await;
    assert!(stored.contains("\"password\": \"1:") && !stored.contains("hunter2"), "{stored}");
    assert!(stored.contains("\"jwt_secret\": \"1:") && !stored.contains("really"), "{stored}");
    for arguments in
        [&["tenant", "show", "old"][..], &["--json", "tenant", "show", "old", "--jwt-key"], &["config"]]
    {
        let (code, out, err) = fleet.run(arguments).await;
        assert!(code == 0 && !out.contains("hunter2") && !out.contains("really"), "{out} {err}");
    }

    // Another tenant's sealed password in this row opens nothing.
    let other = fleet.create("acme").await.record;
    let stranger = fleet.fleet.keys.newest().seal(&other.id, PASSWORD, &Secret::new("hunter2")).unwrap();
    let mut moved = record.clone();
    moved.sealed.insert(PASSWORD.into(), stranger);
    assert!(fleet.fleet.keys.tenant_logins(&moved)[0].password.is_none());

    let (code, _, err) = fleet.run(&["rekey"]).await;
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = fleet.run(&["rekey", "--finish"]).await;
    assert_eq!(code, 0, "{err}");
    let stored = row(&catalog).await;
    assert!(stored.contains("\"password\": \"2:") && stored.contains("\"jwt_secret\": \"2:"), "{stored}");
    fleet.reopen().await;
    fleet.start_router().await;
    assert_eq!(fleet.get("/old/todos").await.status, 200);
    let token = sign(JWT_SECRET.as_bytes(), json!({ "role": format!("{}_user", legacy.name) }));
    assert_eq!(fleet.get_as(&token, "/old/todos").await.status, 200);
}

#[tokio::test]
async fn a_login_with_too_much_is_told_of() {
    let fleet = TestFleet::builder().build().await;
    let legacy = Legacy::make(&fleet).await;
    let wanted = legacy.wanted(&[("db_schemas", "api,nowhere"), ("roles", "mb_owner")]);
    legacy.run(&fleet, "ALTER ROLE {}_user CREATEROLE").await;
    let warnings = fleet.fleet.adopt(&"old".parse().unwrap(), &wanted).await.unwrap().warnings;
    let all = warnings.join("\n");
    assert!(all.contains("create roles") && all.contains("`nowhere`") && all.contains("`mb_owner`"), "{all}");
    assert_eq!(warnings.len(), 3);
}

#[tokio::test]
async fn a_login_that_others_have_is_told_of() {
    let fleet = TestFleet::builder().build().await;
    let (one, two) = (Legacy::make(&fleet).await, Legacy::make(&fleet).await);
    one.adopt(&fleet, "one", &[]).await;
    let wanted = AdoptionSpec { database: two.name.clone(), ..one.wanted(&[]) };
    let warnings = fleet.fleet.adopt(&"two".parse().unwrap(), &wanted).await.unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("login of one:"), "{warnings:?}");
}

#[tokio::test]
async fn adopting_again_changes_the_login() {
    let fleet = TestFleet::builder().serve().await;
    let legacy = Legacy::make(&fleet).await;
    let first = legacy.adopt(&fleet, "old", &[]).await;
    eventually("the router serves it", || async { fleet.get("/old/todos").await.status == 200 }).await;
    legacy.run(&fleet, "ALTER ROLE {}_login PASSWORD 'hunter3'").await;
    let wanted =
        AdoptionSpec { password: Some(Secret::new("hunter3")), ..legacy.wanted(&[("db_max_rows", "0")]) };
    let again = fleet.fleet.adopt(&"old".parse().unwrap(), &wanted).await.unwrap().tenant.record;
    assert_eq!((again.id, again.generation), (first.id, first.generation + 1));
    eventually("the router follows", || async { fleet.get("/old/todos").await.text == "[]" }).await;
}

/// Without a request: those look by themselves, sooner or later.
#[tokio::test]
async fn a_notice_has_the_schema_read_again_where_that_is_asked_for() {
    let fleet = TestFleet::builder().serve().await;
    let legacy = Legacy::make(&fleet).await;
    legacy.adopt(&fleet, "old", &[]).await;
    eventually("the router serves it", || async { fleet.get("/old/todos").await.status == 200 }).await;
    let reads = || {
        let mut registry = prometheus_client::registry::Registry::default();
        fleet.app.as_ref().unwrap().metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("schema_reads_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let before = reads();
    legacy.run(&fleet, "CREATE TABLE api.unheard (id int); NOTIFY pgrst").await;
    let set =
        fleet.run(&["tenant", "set", "old", "db_channel_enabled=true", "db_channel=my \"channel"]).await;
    assert_eq!(set.0, 0, "{}", set.2);
    assert_eq!(reads(), before, "nobody was told");
    legacy.run(&fleet, "CREATE TABLE api.heard (id int)").await;
    // Sent until somebody listens.
    let told = async |payload: &str, least: u64| {
        legacy.run(&fleet, &format!(r#"NOTIFY "my ""channel", '{payload}'"#)).await;
        reads() >= least
    };
    eventually("the schema was read again", async || told("reload schema", before + 1).await).await;
    legacy.run(&fleet, "CREATE TABLE api.more (id int)").await;
    assert!(!told("good morning", before + 2).await);

    // Neither any number of them nor who ends the session has it read more often, or stops it for good.
    let flood = r#"DO $$ BEGIN FOR n IN 1..20000 LOOP PERFORM pg_notify('my "channel', repeat('x', n % 7000)); END LOOP; END $$"#;
    legacy.run(&fleet, flood).await;
    let login = fleet.row("old").await.record.login_role();
    let client = legacy.client(&fleet).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
    assert!(client.execute(end, &[&login]).await.unwrap() > 0);
    eventually("the schema was read once more", async || told("", before + 2).await).await;
    client.execute(end, &[&login]).await.unwrap();
    let sessions = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
        client.query_one(sql, &[&login]).await.unwrap().get::<_, i64>(0)
    };
    eventually("it listens again", async || sessions().await == 1).await;
    assert_eq!(fleet.run(&["tenant", "set", "old", "db_channel_enabled="]).await.0, 0);
    eventually("nobody listens", async || sessions().await == 0).await;
}

#[tokio::test]
async fn reload_reads_the_schema_again() {
    let fleet = TestFleet::builder().serve().await;
    let legacy = Legacy::make(&fleet).await;
    legacy.adopt(&fleet, "old", &[]).await;
    eventually("the router serves it", || async { fleet.get("/old/todos").await.status == 200 }).await;
    // The document at the root is made from the schema that was read; nothing else tells the router of the table.
    let knows = async || fleet.get("/old/").await.text.contains("/later");
    legacy.run(&fleet, "CREATE TABLE api.later (id int); GRANT SELECT ON api.later TO {}_anon").await;
    assert!(!knows().await);
    let (code, out, err) = fleet.run(&["tenant", "reload", "old"]).await;
    assert!(code == 0 && out.contains("read its schema again"), "{out} {err}");
    eventually("the schema was read again", knows).await;
    let (code, _, err) = fleet.run(&["tenant", "reload"]).await;
    assert_eq!(code, 2, "{err}");
    assert_eq!(fleet.run(&["tenant", "reload", "--all"]).await.0, 0);
}

#[tokio::test]
async fn a_tenants_own_secret_opens_that_tenant_only() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).serve().await;
    let claims = json!({ "role": "authenticated" });
    let own = sign(JWT_SECRET.as_bytes(), claims.clone());
    assert_eq!(fleet.get_as(&own, "/acme/items").await.status, 401);
    let (code, _, err) =
        fleet.run(&["tenant", "set", "acme", &format!("jwt_secret={JWT_SECRET}"), "jwt_aud=acme"]).await;
    assert_eq!(code, 0, "{err}");
    eventually("the router follows", || async { fleet.get_as(&own, "/acme/items").await.status == 200 })
        .await;
    // The derived key still works, and neither opens the other tenant.
    assert_eq!(fleet.get_as(&fleet.token("acme", claims.clone()).await, "/acme/items").await.status, 200);
    assert_eq!(fleet.get_as(&own, "/globex/items").await.status, 401);
    // A role beyond the API's stays closed, whoever signs.
    for role in ["mb_owner", "none", "postgres"] {
        let token = sign(JWT_SECRET.as_bytes(), json!({ "role": role }));
        assert_eq!(fleet.get_as(&token, "/acme/items").await.status, 403, "{role}");
    }
    let other = sign(JWT_SECRET.as_bytes(), json!({ "role": "anon", "aud": "globex" }));
    assert_eq!(fleet.get_as(&other, "/acme/items").await.code(), "PGRST303");
    // What no token could be checked with is refused, and not repeated.
    for bad in ["jwt_secret=hunter2", "jwt_secret={\"keys\":[]}", "roles=mb_owner", "db_anon_role=mb_owner"] {
        let (code, out, err) = fleet.run(&["tenant", "set", "acme", bad]).await;
        assert!(code == 1 && !err.contains("hunter2"), "{bad}: {out} {err}");
    }
    let (code, _, err) = fleet.run(&["tenant", "set", "acme", "jwt_secret=", "jwt_aud="]).await;
    assert_eq!(code, 0, "{err}");
    eventually("the router follows", || async { fleet.get_as(&own, "/acme/items").await.status == 401 })
        .await;
}

#[tokio::test]
async fn a_token_claims_what_the_server_lets_the_login_become() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let legacy = Legacy::make(&fleet).await;
    legacy.adopt(&fleet, "old", &[]).await;
    eventually("the router serves it", || async { fleet.get("/old/todos").await.status == 200 }).await;
    let claim = async |role: &str| {
        let answer = fleet.get_as(&sign(JWT_SECRET.as_bytes(), json!({ "role": role })), "/old/todos").await;
        (answer.status.as_u16(), answer.code())
    };
    let client = legacy.client(&fleet).await;
    let sessions = async || {
        let sql =
            "SELECT COALESCE(array_agg(pid ORDER BY pid), '{}') FROM pg_stat_activity WHERE usename = $1";
        client.query_one(sql, &[&format!("{}_login", legacy.name)]).await.unwrap().get::<_, Vec<i32>>(0)
    };
    let before = sessions().await;
    // 42501: not a member; 22023: no such role, and `none` would be the login itself.
    for (role, expected) in [
        ("service", (403, "42501")),
        ("mb_owner", (403, "42501")),
        ("postgres", (403, "42501")),
        ("nobody_at_all", (401, "22023")),
        ("none", (401, "22023")),
        ("", (401, "22023")),
        ("a\"b'c", (401, "22023")),
    ] {
        assert_eq!(claim(role).await, (expected.0, expected.1.to_owned()), "{role}");
    }
    assert_eq!(sessions().await, before, "a role that is refused costs no connection");
    // The login's own password opens no other database of the fleet.
    let server = fleet.fleet.servers.get("main").unwrap();
    let login = fleet.fleet.keys.tenant_logins(&fleet.row("old").await.record).remove(0);
    let acme = fleet.row("acme").await.record.database();
    let catalog = fleet.fleet.settings.catalog.database.clone();
    for other in [&acme, &catalog] {
        let refused = manybox::pg::connect(&server.endpoint, &login, other).await.err().unwrap();
        assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{other}: {refused}");
    }
}

#[tokio::test]
async fn pages_of_a_tenants_own_origins() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).serve().await;
    let (code, _, err) = fleet
        .run(&["tenant", "set", "acme", "server_cors_allowed_origins=https://app.test,https://b.test"])
        .await;
    assert_eq!(code, 0, "{err}");
    let origin = async |path: &str, origin: &str| {
        let request = fleet.request(reqwest::Method::GET, path).header("Origin", origin);
        let answer = crate::support::Answer::of(request.send().await.unwrap()).await;
        answer.headers.get("access-control-allow-origin").cloned()
    };
    eventually("the router follows", || async {
        origin("/acme/items", "https://app.test").await.as_deref() == Some("https://app.test")
    })
    .await;
    assert_eq!(origin("/acme/items", "https://evil.test").await, None);
    assert_eq!(origin("/globex/items", "https://evil.test").await.as_deref(), Some("*"));
}

#[tokio::test]
async fn a_role_made_anew_reads_at_once() {
    let fleet = TestFleet::builder().serve().await;
    let legacy = Legacy::make(&fleet).await;
    legacy.adopt(&fleet, "old", &[]).await;
    eventually("the router serves it", || async { fleet.get("/old/todos").await.status == 200 }).await;
    // The session has the first of the two roles, which is nobody's any more.
    let anew = "REVOKE ALL ON api.todos FROM {}_anon; REVOKE ALL ON SCHEMA api FROM {}_anon; DROP ROLE {}_anon; CREATE ROLE {}_anon; GRANT {}_anon TO {}_login;
                GRANT USAGE ON SCHEMA api TO {}_anon; GRANT SELECT ON api.todos TO {}_anon";
    legacy.run(&fleet, anew).await;
    let answer = fleet.get("/old/todos").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}
