//! `manybox verify`: a fleet as manybox makes it is green; whatever is tampered with is found, by its code.

mod inside;
mod program;
mod roles;
mod router;
mod rows;

use manybox::catalog::TenantRow;
use manybox::embedded::Embedded;
use manybox::pg::{Connection, Endpoint, Login};
use manybox::verify::{Request, Scope, Verification, verify};

use crate::adopt::Legacy;
use crate::support::{TestFleet, private_server};

/// The edition's setting of the test fleets.
const ROW_SECURITY: &str = "row_security = ['secrets']";

/// A fleet on a server of its own, where nobody else's roles and databases are.
pub(crate) struct Own {
    pub(crate) fleet: TestFleet,
    server: Embedded,
    _folder: tempfile::TempDir,
}

/// Who tampers, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    /// The admin, in the maintenance database.
    Admin,
    /// The owner, in acme's database: what its own code may do.
    Owner,
    /// The admin, in acme's database.
    AdminInside,
    /// A superuser, in the maintenance database.
    Superuser,
    /// A superuser, in acme's database.
    SuperuserInside,
}

/// A way to tamper: what it is, the code that finds it, who does it, how, and how it is undone.
struct Tampering(&'static str, &'static str, As, &'static str, &'static str);

impl Own {
    pub(crate) async fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = private_server(folder.path().join("own"), false).await;
        let fleet = TestFleet::builder().toml(ROW_SECURITY).tenants(&["acme", "globex", "initech"]);
        let fleet = fleet.build_on(&server.admin_url()).await;
        for slug in ["acme", "globex"] {
            let fill = "INSERT INTO public.secrets VALUES (1, 'ada', 'lovelace')";
            let admin = fleet.admin(slug).await;
            admin
                .batch_execute(&format!(
                    "SET ROLE mb_owner; ALTER TABLE public.secrets NO FORCE ROW LEVEL SECURITY;
                {fill}; ALTER TABLE public.secrets FORCE ROW LEVEL SECURITY"
                ))
                .await
                .unwrap();
        }
        Self { fleet, server, _folder: folder }
    }

    async fn row(&self, slug: &str) -> TenantRow {
        self.fleet.row(slug).await
    }

    /// The bootstrap superuser, in this database.
    pub(crate) async fn superuser(&self, database: &str) -> Connection {
        let (endpoint, _) = Endpoint::parse("main", &self.server.superuser_url(), None).unwrap();
        let login = Login { user: "postgres".into(), password: None };
        manybox::pg::connect(&endpoint, &login, database).await.unwrap()
    }

    async fn verified(&self, scope: Scope) -> Verification {
        verify(&self.fleet.fleet, &Request { scope, router: None }, |_| ()).await.unwrap()
    }

    /// Runs statements; names in braces are those of this fleet.
    async fn run(&self, who: As, sql: &str) {
        if sql.is_empty() {
            return;
        }
        let (acme, globex) = (self.row("acme").await.record, self.row("globex").await.record);
        let template = self.fleet.fleet.catalog.templates().await.unwrap()[0].database.clone();
        let catalog = self.fleet.fleet.settings.catalog.database.clone();
        let sql = sql
            .replace("{acme}", &acme.database())
            .replace("{globex}", &globex.database())
            .replace("{migrator}", &manybox::fleet::migrator_of(&acme.database()))
            .replace("{template}", &template)
            .replace("{catalog}", &catalog);
        let client = match who {
            As::Admin => self.fleet.fleet.servers.get("main").unwrap().connect_admin().await.unwrap(),
            As::Owner => self.fleet.owner("acme").await,
            As::AdminInside => self.fleet.admin("acme").await,
            As::Superuser => self.superuser("postgres").await,
            As::SuperuserInside => self.superuser(&acme.database()).await,
        };
        let done = client.batch_execute(&sql).await;
        done.unwrap_or_else(|e| panic!("{who:?}: {sql}: {}", manybox::pg::Error::from(e)));
        client.close().await;
    }

    /// Tampers in each of these ways, one after the other, and asserts that each is found by its code, with a remedy.
    async fn tamper(&self, ways: &[Tampering]) {
        let before = self.verified(Scope::All).await;
        assert!(before.is_green(), "clean: {:#?}", before.findings);
        let mut missed = Vec::new();
        for Tampering(what, code, who, sql, undo) in ways {
            self.run(*who, sql).await;
            let found = self.verified(Scope::Tenant("acme".into())).await.findings;
            let named = found.iter().any(|f| f.code == *code && !f.seen.is_empty() && !f.remedy.is_empty());
            // Who tampers chooses no length of ours.
            assert!(found.iter().all(|f| f.seen.len() < 5_000), "{what}");
            if !named {
                missed.push(format!("{what} ({code}): {found:#?}"));
            }
            self.run(*who, undo).await;
            let after = self.verified(Scope::Tenant("acme".into())).await;
            assert!(after.is_green(), "{what} was undone: {:#?}", after.findings);
        }
        assert!(missed.is_empty(), "not found: {}", missed.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_fleet_is_green_with_adopted_suspended_and_retired_tenants() {
    let own = Own::make().await;
    let fleet = &own.fleet;
    let legacy = Legacy::make(fleet).await;
    let record = legacy.adopt(fleet, "old", &[]).await;
    // As PostgreSQL makes it, every login of the server gets in: that is found, and what mends it is said.
    let found = own.verified(Scope::All).await.findings;
    assert_eq!(found.iter().map(|f| f.code).collect::<Vec<_>>(), ["V02", "V05"], "{found:#?}");
    assert_eq!(found[0].tenant.as_deref(), Some("old"));
    own.run(As::Admin, &found[0].remedy).await;
    fleet.fleet.carry_out("globex", manybox::tenant::Verb::Suspend).await.unwrap();
    fleet.fleet.carry_out("initech", manybox::tenant::Verb::Retire).await.unwrap();
    let verification = own.verified(Scope::All).await;
    assert!(verification.is_green(), "{:#?}", verification.findings);
    assert_eq!((verification.tenants, verification.looked_into.len()), (4, 4));
    assert!(verification.tried["V01"] > 20 && verification.tried["V31"] >= 2, "{:?}", verification.tried);

    // An adopted login that gets into what manybox made.
    let acme = own.row("acme").await.record.database();
    own.run(As::Admin, &format!("GRANT CONNECT ON DATABASE {acme} TO {}", record.login_role())).await;
    let found = own.verified(Scope::Tenant("old".into())).await.findings;
    assert!(found.iter().any(|f| f.code == "V01" && f.seen.contains(&record.login_role())), "{found:#?}");
    own.run(As::Admin, &format!("REVOKE CONNECT ON DATABASE {acme} FROM {}", record.login_role())).await;
    // One that may become a superuser.
    own.run(As::Superuser, &format!("ALTER ROLE {} CREATEROLE", record.login_role())).await;
    let found = own.verified(Scope::Tenant("old".into())).await.findings;
    assert_eq!(found.iter().map(|f| f.code).collect::<Vec<_>>(), ["V10"], "{found:#?}");
}
