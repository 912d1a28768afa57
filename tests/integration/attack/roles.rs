//! Roles: code that runs as a tenant's owner, or in a migrator's session, reaches for other roles, sessions and databases.

use manybox::fleet::migrator_of;
use manybox::pg::{self, Connection, Login};
use manybox::policy::Secret;
use manybox::tenant::Verb;

use crate::support::{TestFleet, private_server};

fn code(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("none", tokio_postgres::error::SqlState::code)
}

async fn refused(client: &Connection, sql: &str) {
    let error = client.batch_execute(sql).await.expect_err(sql);
    // 42704: a role that is not there any more, or never was.
    assert!(["42501", "0LP01", "2BP01"].contains(&code(&error)), "{sql}: {error}");
}

/// A migrator's session, as the code of a trigger or of a file has it.
async fn migrator(fleet: &TestFleet, slug: &str) -> manybox::fleet::Migrator {
    let database = fleet.row(slug).await.record.database();
    fleet.fleet.migrator("main", &database).await.expect("the migrator gets in")
}

fn add(fleet: &TestFleet, file: &str, sql: &str) {
    std::fs::write(fleet.folder.path().join("migrations/shop").join(file), sql).unwrap();
}

/// Takes a database back to what it was before the schema `manybox` was taken from the tenants' owner.
async fn as_before(fleet: &TestFleet, slug: &str) {
    let database = fleet.row(slug).await.record.database();
    let (admin, migrator) = (fleet.admin(slug).await, migrator_of(&database));
    admin
        .batch_execute(&format!(
            "ALTER SCHEMA manybox OWNER TO mb_owner;
             ALTER TABLE manybox.schema_history OWNER TO mb_owner;
             ALTER TABLE manybox.schema_unfinished OWNER TO mb_owner;
             GRANT CONNECT ON DATABASE {database} TO mb_owner, mb_migrator;
             REVOKE ALL ON DATABASE {database} FROM {migrator};
             DROP ROLE {migrator}"
        ))
        .await
        .unwrap();
}

/// Functions that take the login's password and settings when they run.
const GRAB: &str = "CREATE OR REPLACE FUNCTION public.grab() RETURNS trigger LANGUAGE plpgsql AS $f$
    BEGIN
        EXECUTE 'RESET ROLE';
        EXECUTE format('ALTER ROLE %I PASSWORD %L', current_user, 'taken');
        EXECUTE format('ALTER ROLE %I SET statement_timeout = 1', current_user);
        EXECUTE 'SET ROLE mb_owner';
        RETURN NULL;
    END $f$;
    CREATE OR REPLACE FUNCTION public.grabbed() RETURNS int LANGUAGE plpgsql AS $f$
    BEGIN
        EXECUTE format('ALTER ROLE %I PASSWORD %L', session_user, 'taken');
        RETURN 2000;
    EXCEPTION WHEN OTHERS THEN RETURN 2000; END $f$";

/// Which of the roles can log in with the password `taken`, to this database, the catalog or the maintenance database.
async fn taken(fleet: &TestFleet, database: &str, roles: &[String]) -> Vec<String> {
    let server = fleet.fleet.servers.get("main").unwrap();
    let mut taken = Vec::new();
    for role in roles {
        for database in [database, &fleet.fleet.settings.catalog.database, "postgres"] {
            let login = Login { user: role.clone(), password: Some(Secret::new("taken")) };
            if pg::connect(&server.endpoint, &login, database).await.is_ok() {
                taken.push(format!("{role} in {database}"));
            }
        }
    }
    taken
}

#[tokio::test]
async fn the_owner_puts_nothing_on_the_history() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let owner = fleet.owner("acme").await;
    owner.batch_execute(GRAB).await.unwrap();
    for sql in [
        "CREATE TRIGGER grab AFTER INSERT ON manybox.schema_history FOR EACH ROW EXECUTE FUNCTION public.grab()",
        "CREATE TRIGGER grab BEFORE INSERT ON manybox.schema_unfinished FOR EACH ROW EXECUTE FUNCTION public.grab()",
        "CREATE RULE grab AS ON INSERT TO manybox.schema_history DO ALSO SELECT public.add(1)",
        "CREATE POLICY grab ON manybox.schema_history USING (true)",
        "ALTER TABLE manybox.schema_history ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE manybox.schema_history ADD CHECK (public.add(version) > 0)",
        "ALTER TABLE manybox.schema_history ALTER name SET DEFAULT public.add(1)::text",
        "ALTER TABLE manybox.schema_history ADD COLUMN more int DEFAULT public.add(1)",
        "ALTER TABLE manybox.schema_history RENAME TO other",
        "ALTER TABLE manybox.schema_history OWNER TO mb_owner",
        "ALTER TABLE manybox.schema_history SET SCHEMA public",
        "ALTER SCHEMA manybox OWNER TO mb_owner",
        "ALTER SCHEMA manybox RENAME TO other",
        "CREATE INDEX ON manybox.schema_history (public.add(version))",
        "CREATE TABLE manybox.mine (a int)",
        "CREATE FUNCTION manybox.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE public.child () INHERITS (manybox.schema_history)",
        "CREATE TABLE public.child (v int REFERENCES manybox.schema_history)",
        "GRANT ALL ON manybox.schema_history TO mb_owner",
        "GRANT USAGE ON SCHEMA manybox TO mb_owner",
        "INSERT INTO manybox.schema_history VALUES (99, 'x', 'now', '1')",
        "DELETE FROM manybox.schema_history",
        "UPDATE manybox.schema_history SET checksum = '1'",
        "TRUNCATE manybox.schema_history",
        "SELECT * FROM manybox.schema_history",
        "DROP TABLE manybox.schema_history",
        "DROP SCHEMA manybox CASCADE",
        "REASSIGN OWNED BY mb_history TO mb_owner",
        "DROP OWNED BY mb_history",
        "DROP OWNED BY mb_migrator",
        "SET SESSION AUTHORIZATION mb_history",
        "CREATE PUBLICATION mine FOR TABLE manybox.schema_history",
        "COMMENT ON TABLE manybox.schema_history IS 'mine'",
    ] {
        refused(&owner, sql).await;
    }
    add(&fleet, "V3__more.sql", "CREATE TABLE more (a int);");
    let (status, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(status, 0, "{error}");
}

/// What a tenant of an older fleet, where the history was its owner's, may have put there; how it is called; whether it
/// can be removed without guessing.
const TRAPS: [(&str, &str, bool); 9] = [
    (
        "CREATE TRIGGER grab AFTER INSERT ON manybox.schema_history FOR EACH ROW EXECUTE FUNCTION public.grab()",
        "trigger grab on manybox.schema_history",
        true,
    ),
    (
        "CREATE CONSTRAINT TRIGGER later AFTER INSERT ON manybox.schema_history DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION public.grab()",
        "trigger later on manybox.schema_history",
        true,
    ),
    (
        "CREATE RULE grab AS ON INSERT TO manybox.schema_history DO ALSO SELECT public.grabbed()",
        "rule grab on manybox.schema_history",
        true,
    ),
    (
        "ALTER TABLE manybox.schema_history ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE POLICY grab ON manybox.schema_history USING (public.grabbed() > 0)",
        "policy grab on manybox.schema_history",
        true,
    ),
    (
        "ALTER TABLE manybox.schema_history ADD CONSTRAINT grab CHECK (public.grabbed() > version - 1000)",
        "constraint grab on manybox.schema_history",
        false,
    ),
    (
        "ALTER TABLE manybox.schema_history ADD COLUMN more int DEFAULT public.grabbed()",
        "column more of manybox.schema_history",
        false,
    ),
    (
        "ALTER TABLE manybox.schema_unfinished ALTER begun_at SET DEFAULT now() + public.grabbed() * interval '1 s'",
        "default of column begun_at of manybox.schema_unfinished",
        false,
    ),
    (
        "CREATE FUNCTION public.calm(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
         CREATE INDEX grab ON manybox.schema_history (public.calm(version))",
        "index manybox.grab",
        false,
    ),
    (
        "CREATE TABLE public.held (v int REFERENCES manybox.schema_history)",
        "to manybox.schema_history",
        false,
    ),
];

#[tokio::test]
async fn a_trap_on_the_history_of_an_older_fleet_is_refused_by_name_and_removed() {
    let slugs = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8"];
    let fleet = TestFleet::builder().tenants(&slugs).build().await;
    for (slug, (trap, _, _)) in slugs.iter().zip(TRAPS) {
        as_before(&fleet, slug).await;
        let owner = fleet.owner(slug).await;
        owner.batch_execute(GRAB).await.unwrap();
        owner.batch_execute(trap).await.unwrap_or_else(|e| panic!("{trap}: {e}"));
    }
    add(&fleet, "V3__more.sql", "CREATE TABLE more (a int);");
    // Without their migrators nothing is done in them; with one, each trap is named before anything is written.
    let (status, _, error) = fleet.run(&["migrate"]).await;
    assert!(status == 1 && error.contains("manybox init") && error.contains("9 of 9"), "{error}");
    for slug in slugs {
        let database = fleet.row(slug).await.record.database();
        let half = "CREATE ROLE {m} NOLOGIN NOINHERIT; GRANT mb_migrator TO {m}; GRANT CONNECT ON DATABASE {d} TO {m};
                    GRANT USAGE ON SCHEMA manybox TO mb_migrator;
                    GRANT SELECT, INSERT, DELETE ON ALL TABLES IN SCHEMA manybox TO mb_migrator";
        let half = half.replace("{m}", &migrator_of(&database)).replace("{d}", &database);
        fleet.admin(slug).await.batch_execute(&half).await.unwrap();
    }
    let (status, _, refused) = fleet.run(&["migrate"]).await;
    assert!(
        status == 1 && refused.contains("9 of 9") && refused.contains("nothing was written"),
        "{refused}"
    );
    let (status, _, told) = fleet.run(&["init"]).await;
    assert!(status == 1 && told.matches("the rights of tenant").count() == 5, "{told}");
    for (_, name, _) in TRAPS {
        assert!(refused.contains(name), "{name}: {refused}");
        assert!(told.contains(name), "{name}: {told}");
    }
    let (status, _, error) = fleet.run(&["migrate"]).await;
    assert!(status == 1 && error.contains("5 of 9"), "{error}");
    for (slug, (_, name, removed)) in slugs.iter().zip(TRAPS) {
        let record = fleet.row(slug).await.record;
        assert_eq!(record.lineage().unwrap().version == 3, removed, "{name}");
        let database = record.database();
        assert_eq!(taken(&fleet, &database, &[migrator_of(&database)]).await, Vec::<String>::new(), "{name}");
    }
}

#[tokio::test]
async fn a_trigger_that_takes_the_migrators_password_has_nothing() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build().await;
    let acme = fleet.row("acme").await.record.database();
    let owner = fleet.owner("acme").await;
    owner.batch_execute(GRAB).await.unwrap();
    owner
        .batch_execute(
            "CREATE TRIGGER grab AFTER INSERT ON public.notes FOR EACH ROW EXECUTE FUNCTION public.grab()",
        )
        .await
        .unwrap();
    add(&fleet, "V3__note.sql", "INSERT INTO notes VALUES (1, 'x');");
    let (status, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(status, 0, "{error}");
    let roles = [migrator_of(&acme), acme.clone(), "mb_migrator".into(), "mb_owner".into()];
    assert_eq!(taken(&fleet, &acme, &roles).await, Vec::<String>::new());
    // Its settings are gone at the next use, and its password never was one that we use.
    add(&fleet, "V4__more.sql", "SELECT pg_sleep(0.1); CREATE TABLE more (a int);");
    let (status, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(status, 0, "{error}");
}

#[tokio::test]
async fn a_migrators_session_reaches_nothing_beyond_its_database() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build().await;
    let (acme, globex) =
        (fleet.row("acme").await.record.database(), fleet.row("globex").await.record.database());
    let catalog = fleet.fleet.settings.catalog.database.clone();
    let template = fleet.fleet.template("main", "shop").await.unwrap().database;
    let server = fleet.fleet.servers.get("main").unwrap();
    let session = migrator(&fleet, "acme").await;
    session.batch_execute("ALTER ROLE CURRENT_USER PASSWORD 'taken'").await.unwrap();
    let login = Login { user: migrator_of(&acme), password: Some(Secret::new("taken")) };
    for other in [globex.as_str(), &catalog, "postgres", "template1", &template] {
        let error = pg::connect(&server.endpoint, &login, other).await.err().expect(other);
        let code = error.code().map_or("none", |c| c.code());
        assert!(["42501", "55000", "53300"].contains(&code), "{other}: {error}");
    }
    for sql in [
        format!("SET ROLE {}", migrator_of(&globex)),
        format!("SET ROLE {globex}"),
        format!("SET ROLE {catalog}_owner"),
        format!("SET ROLE {catalog}_migrator"),
        "SET ROLE mb_history".into(),
        "SET ROLE mb_admin".into(),
        "CREATE ROLE mine".into(),
        "CREATE DATABASE mine".into(),
        format!("ALTER ROLE {} PASSWORD 'taken'", migrator_of(&globex)),
        format!("ALTER ROLE {globex} PASSWORD 'taken'"),
        format!("ALTER ROLE {globex} SET search_path = mine"),
        format!("ALTER DATABASE {globex} SET search_path = mine"),
        "ALTER ROLE CURRENT_USER CREATEDB".into(),
        "ALTER ROLE CURRENT_USER VALID UNTIL 'infinity'".into(),
        "ALTER ROLE CURRENT_USER CONNECTION LIMIT 100".into(),
        "ALTER ROLE ALL SET search_path = mine".into(),
        format!("GRANT {} TO mb_owner", migrator_of(&acme)),
        format!("GRANT mb_owner TO {globex}"),
        format!("GRANT mb_migrator TO {globex}"),
        format!("GRANT CONNECT ON DATABASE {globex} TO mb_owner"),
        "SELECT pg_read_file('/etc/passwd')".into(),
        "COPY (SELECT 1) TO PROGRAM 'true'".into(),
        "SET session_replication_role = replica".into(),
    ] {
        for role in ["NONE", "mb_owner", "mb_migrator"] {
            session.batch_execute(&format!("SET ROLE {role}")).await.unwrap();
            match session.batch_execute(&sql).await {
                Err(error) => assert!(["42501", "42601"].contains(&code(&error)), "{role}: {sql}: {error}"),
                // A GRANT without the right of it grants nothing, with a warning.
                Ok(()) => assert!(sql.starts_with("GRANT CONNECT"), "{role}: {sql}"),
            }
        }
    }
    fleet.fleet.close_migrator("main", session).await.unwrap();
    let closed = pg::connect(&server.endpoint, &login, &acme).await.err().expect("NOLOGIN");
    // Neither a login nor a password: which of them the server says first is its own choice.
    assert!(["28000", "28P01"].contains(&closed.code().map_or("none", |c| c.code())), "{closed}");
}

#[tokio::test]
async fn migrators_neither_see_nor_end_each_other() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build().await;
    let (acme, globex) = (migrator(&fleet, "acme").await, migrator(&fleet, "globex").await);
    globex.batch_execute("SET ROLE mb_owner; SELECT 'secret'").await.unwrap();
    let pid: i32 = globex.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    globex.batch_execute("SELECT 'secret'").await.unwrap();
    for role in ["NONE", "mb_owner", "mb_migrator"] {
        acme.batch_execute(&format!("SET ROLE {role}")).await.unwrap();
        let sql = "SELECT query, application_name, client_port, state FROM pg_stat_activity WHERE pid = $1";
        let row = acme.query_one(sql, &[&pid]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "<insufficient privilege>", "{role}");
        assert_eq!(row.get::<_, Option<&str>>(3), None, "{role}");
        let all = "SELECT count(*) FROM pg_stat_get_activity(NULL) WHERE query LIKE '%secret%' AND pid <> pg_backend_pid()";
        assert_eq!(acme.query_one(all, &[]).await.unwrap().get::<_, i64>(0), 0, "{role}");
        for end in ["pg_terminate_backend", "pg_cancel_backend"] {
            refused(&acme, &format!("SELECT {end}({pid})")).await;
        }
    }
    // Nor the sessions of requests, nor those of the control plane.
    let login = fleet.fleet.keys.tenant_logins(&fleet.row("globex").await.record).remove(0);
    let server = fleet.fleet.servers.get("main").unwrap();
    let database = fleet.row("globex").await.record.database();
    let request = pg::connect(&server.endpoint, &login, &database).await.unwrap();
    let admin = fleet.admin("globex").await;
    for other in [&request, &admin] {
        let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        refused(&acme, &format!("SELECT pg_terminate_backend({pid})")).await;
        // And a request's function that became an API role ends no migrator.
        request.batch_execute("SET ROLE service").await.unwrap();
    }
    refused(&request, &format!("SELECT pg_terminate_backend({pid})")).await;
    globex.batch_execute("SELECT 1").await.expect("it still runs");
    for session in [acme, globex] {
        fleet.fleet.close_migrator("main", session).await.unwrap();
    }
}

#[tokio::test]
async fn dropping_what_shared_roles_own_takes_nothing_from_others() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build().await;
    let admin = fleet.admin("globex").await;
    let state = async || -> String {
        let sql = "SELECT json_build_object('acl', (SELECT json_agg((datname, datacl) ORDER BY datname) FROM pg_database
                WHERE datname = current_database()),
             'members', (SELECT json_agg((roleid::regrole, member::regrole) ORDER BY 1, 2) FROM pg_auth_members
                WHERE member::regrole::text IN ('mb_migrator', current_database(), 'mb_m_' || substr(current_database(), 4))),
             'objects', (SELECT json_agg((oid::regclass, relowner::regrole, relacl) ORDER BY oid) FROM pg_class WHERE oid >= 16384))::text";
        admin.query_one(sql, &[]).await.unwrap().get(0)
    };
    let before = state().await;
    let session = migrator(&fleet, "acme").await;
    for role in ["mb_owner", "mb_migrator", "NONE"] {
        session.batch_execute(&format!("SET ROLE {role}")).await.unwrap();
        for sql in ["REASSIGN OWNED BY CURRENT_USER TO CURRENT_USER", "DROP OWNED BY CURRENT_USER CASCADE"] {
            let _ = session.batch_execute(sql).await;
        }
    }
    fleet.fleet.close_migrator("main", session).await.unwrap();
    assert_eq!(state().await, before);
    // The next migrator of globex does its work.
    add(&fleet, "V3__more.sql", "CREATE TABLE more (a int);");
    let (status, _, error) = fleet.run(&["migrate", "--tenant", "globex"]).await;
    assert_eq!(status, 0, "{error}");
}

#[tokio::test]
async fn locks_on_what_databases_share_hold_nobody_up() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex", "initech"]).build().await;
    let (globex, initech) =
        (fleet.row("globex").await.record.database(), fleet.row("initech").await.record.database());
    let session = migrator(&fleet, "acme").await;
    // In another's database: it holds that database against a DROP; and a right that changes nothing writes its row.
    session
        .batch_execute(&format!(
            "SET ROLE mb_owner; BEGIN; ALTER ROLE mb_owner IN DATABASE {globex} SET work_mem = '1MB';
             GRANT CREATE ON DATABASE {globex} TO anon; GRANT CREATE ON DATABASE {initech} TO anon"
        ))
        .await
        .unwrap();
    fleet.fleet.carry_out("globex", Verb::Retire).await.unwrap();
    fleet.fleet.carry_out("globex", Verb::Purge).await.expect("nobody holds it up");
    assert!(session.batch_execute("SELECT 1").await.is_err(), "who held it up was ended");
    drop(session);
    assert_eq!(fleet.row("initech").await.record.state.to_string(), "active");
}

#[tokio::test]
async fn what_is_left_of_a_migrator_is_ended_before_the_next() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let acme = fleet.row("acme").await.record.database();
    let login = Login { user: migrator_of(&acme), password: Some(Secret::new("taken")) };
    let session = migrator(&fleet, "acme").await;
    session.batch_execute("ALTER ROLE CURRENT_USER PASSWORD 'taken'").await.unwrap();
    // As if the command had been killed: the login stays open.
    drop(session);
    let server = fleet.fleet.servers.get("main").unwrap();
    let mut stray = None;
    crate::support::eventually("its own backend has gone", || async {
        pg::connect(&server.endpoint, &login, &acme).await.is_ok()
    })
    .await;
    for _ in 0..100 {
        match pg::connect(&server.endpoint, &login, &acme).await {
            Ok(connection) => {
                stray = Some(connection);
                break;
            }
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
    let stray = stray.expect("the password holds while nobody has used the login again");
    stray.batch_execute("BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'again'").await.unwrap();
    add(&fleet, "V3__more.sql", "CREATE TABLE more (a int);");
    let (status, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(status, 0, "{error}");
    assert!(stray.batch_execute("SELECT 1").await.is_err(), "the stray session was ended");
    assert_eq!(taken(&fleet, &acme, &[migrator_of(&acme)]).await, Vec::<String>::new());
}

#[tokio::test]
async fn nothing_on_the_server_connects_as_an_owner() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let catalog = fleet.fleet.settings.catalog.database.clone();
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin_to(&catalog).await.unwrap();
    // Databases that other tests adopt are open to everybody.
    let may = "SELECT array_agg(r.rolname || ' ' || d.datname) FROM pg_database d, pg_roles r
               WHERE r.rolname = ANY ($1) AND d.datallowconn AND d.datname !~ '^legacy_' AND has_database_privilege(r.oid, d.oid, 'CONNECT')";
    let owners =
        ["mb_owner".to_owned(), "mb_history".into(), "mb_migrator".into(), format!("{catalog}_owner")];
    let found = admin.query_one(may, &[&owners.as_slice()]).await.unwrap();
    assert_eq!(found.get::<_, Option<Vec<String>>>(0), None);
    let open = "SELECT count(*) FROM pg_roles WHERE rolname = ANY ($1) AND rolcanlogin";
    assert_eq!(admin.query_one(open, &[&owners.as_slice()]).await.unwrap().get::<_, i64>(0), 0);
    // The catalog is its owner's alone, and whoever may become the tenants' owner has no say in it.
    let theirs = "SELECT count(*) FROM pg_shdepend WHERE refobjid = 'mb_owner'::regrole
                  AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(admin.query_one(theirs, &[]).await.unwrap().get::<_, i64>(0), 0);
    let migrators = [migrator_of(&fleet.row("acme").await.record.database()), format!("{catalog}_migrator")];
    assert_eq!(admin.query_one(open, &[&migrators.as_slice()]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn an_older_fleet_comes_to_its_rights_while_it_serves() {
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = private_server(folder.path().join("own"), false).await;
    let mut fleet = TestFleet::builder().tenants(&["acme", "globex"]).build_on(&server.admin_url()).await;
    fleet.start_router().await;
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    let admin = fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap();
    let template = fleet.fleet.template("main", "shop").await.unwrap().database;
    for slug in ["acme", "globex"] {
        as_before(&fleet, slug).await;
    }
    // The catalog, the template and the one migrator of before.
    let catalog = fleet.fleet.settings.catalog.database.clone();
    let inside = fleet.fleet.servers.get("main").unwrap().connect_admin_to(&catalog).await.unwrap();
    inside
        .batch_execute(&format!(
            "REASSIGN OWNED BY {catalog}_owner TO mb_owner;
             GRANT CONNECT, CREATE ON DATABASE {catalog} TO mb_owner; GRANT CONNECT ON DATABASE {catalog} TO mb_migrator;
             REVOKE ALL ON DATABASE {catalog} FROM {catalog}_owner, {catalog}_migrator;
             DROP ROLE {catalog}_migrator;
             ALTER ROLE mb_migrator LOGIN PASSWORD 'taken';
             ALTER ROLE mb_owner SET statement_timeout = 1; ALTER ROLE anon SET role = service;
             ALTER ROLE service IN DATABASE {catalog} SET search_path = mine;
             ALTER DATABASE {template} ALLOW_CONNECTIONS true"
        ))
        .await
        .unwrap();
    drop(inside);
    let in_template = fleet.fleet.servers.get("main").unwrap().connect_admin_to(&template).await.unwrap();
    in_template
        .batch_execute(
            "ALTER SCHEMA manybox OWNER TO mb_owner; ALTER TABLE manybox.schema_history OWNER TO mb_owner;
             DROP TABLE manybox.schema_unfinished",
        )
        .await
        .unwrap();
    in_template.close().await;
    admin.batch_execute(&format!("ALTER DATABASE {template} ALLOW_CONNECTIONS false")).await.unwrap();
    let login = Login { user: "mb_migrator".into(), password: Some(Secret::new("taken")) };
    let acme = fleet.row("acme").await.record.database();
    let endpoint = &fleet.fleet.servers.get("main").unwrap().endpoint;
    let thief = pg::connect(endpoint, &login, &acme).await.expect("as it was");

    let (status, _, error) = fleet.run(&["init"]).await;
    assert_eq!(status, 0, "{error}");
    for told in ["role `mb_owner` had", "role `anon` had", "role `service` had", "statement_timeout=1"] {
        assert!(error.contains(told), "{told}: {error}");
    }
    assert!(thief.batch_execute("SELECT 1").await.is_err(), "whoever had the migrator has lost it");
    assert!(pg::connect(endpoint, &login, &acme).await.is_err());
    for slug in ["acme", "globex"] {
        assert_eq!(fleet.get(&format!("/{slug}/items")).await.status, 200);
    }
    let (status, _, error) = fleet.run(&["init"]).await;
    assert!(status == 0 && error.is_empty(), "run again, it changes nothing: {error}");
    add(&fleet, "V3__more.sql", "CREATE TABLE more (a int);");
    add(&fleet, "V4__index.sql", "-- manybox: no-transaction\nCREATE INDEX CONCURRENTLY more_a ON more (a);");
    let (status, _, error) = fleet.run(&["migrate"]).await;
    assert_eq!(status, 0, "{error}");
    assert_eq!(fleet.create("initech").await.record.lineage().unwrap().version, 4);
    drop((admin, thief));
    server.stop().await.unwrap();
}
