//! Recover: databases without a row in the catalog become tenants again, by the marks that they carry.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::time::timeout;
use tokio_postgres::Client;

use super::database::{self, DatabaseRights};
use super::mark::{self, Mark};
use super::roles::{self, MIGRATORS, OWNER, migrator_of};
use super::{Doing, Fleet, FleetError, FleetServer, Servers, router};
use crate::catalog::{Catalog, Filter, Recovered, TenantRow};
use crate::pg::AdvisoryLock;
use crate::policy::JWT_SECRET;
use crate::tenant::{BaseUrl, Lineage, Origin, Record, Sealed, Slug, State, TenantId};
use crate::vault::KeyRing;

/// Longest wait for one question to a server or a database.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for another command that is at work on the tenant.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// Databases of one server that are looked into, or tenants that are recovered, at the same time.
const AT_A_TIME: usize = 4;

/// The admin's databases whose names are of the form that manybox gives to tenants.
const OURS: &str = "
SELECT datname::pg_catalog.text FROM pg_catalog.pg_database
WHERE datname ~ '^mb_[0-9a-z]{16}$' AND datallowconn AND pg_catalog.pg_get_userbyid(datdba) = session_user ORDER BY 1";

/// Routers' logins: each is a fleet's.
const FLEETS: &str = "SELECT count(*) FROM pg_catalog.pg_roles WHERE rolname ~ '_router$' AND rolcanlogin";

/// A tenant's database that no row of the catalog has.
#[derive(Debug, Clone)]
pub struct Unclaimed {
    /// The server.
    pub server: String,
    /// The database.
    pub database: String,
    /// What it says about itself, or why that can't be believed.
    pub mark: Result<Mark, String>,
}

/// An adopted database of which only its login is known still: manybox writes nothing into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerlyAdopted {
    /// The server.
    pub server: String,
    /// The database.
    pub database: String,
    /// The role that its tenant logged in as.
    pub login: String,
}

impl fmt::Display for FormerlyAdopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, database, login } = self;
        write!(
            f,
            "database `{database}` on server `{server}` was an adopted tenant's, and only the lost catalog had its name and \
             settings: `manybox tenant adopt SLUG --database {database} --server {server} --login-role {login}`"
        )
    }
}

/// What was looked for and what could not be.
#[derive(Debug, Default)]
pub struct Found {
    /// Databases without a row, those of other fleets left out.
    pub unclaimed: Vec<Unclaimed>,
    /// Adopted ones without a row.
    pub adopted: Vec<FormerlyAdopted>,
    /// Servers that could not be asked, and why.
    pub unasked: Vec<(String, FleetError)>,
}

/// What is looked for, and how.
struct Search<'a> {
    known: BTreeSet<(String, String)>,
    keys: Option<&'a KeyRing>,
    router: &'a str,
    shared: bool,
}

/// Looks on servers for tenants' databases that no row of the catalog of this name has. On servers that several fleets share,
/// only if told to, for it opens a session in each of their databases.
///
/// # Errors
/// When the catalog can't be read.
pub async fn unclaimed(
    (catalog, name): (&Catalog, &str),
    servers: &Servers,
    keys: Option<&KeyRing>,
    shared: bool,
) -> Result<Found, FleetError> {
    let fleet = catalog.fleet_id().await?;
    let rows = catalog.tenants(&Filter::default()).await?;
    let known = rows.iter().map(|row| (row.record.server.clone(), row.record.database())).collect();
    let search = Search { known, keys, router: &router::login_of(name), shared };
    let mut found = Found::default();
    for (name, server) in servers.iter() {
        match search.on(name, server, &mut found).await {
            Ok(()) => {}
            Err(error) => found.unasked.push((name.to_owned(), error)),
        }
    }
    found.unclaimed.retain(|one| one.mark.as_ref().map_or(true, |mark| mark.fleet == fleet));
    Ok(found)
}

impl Search<'_> {
    async fn on(&self, name: &str, server: &FleetServer, found: &mut Found) -> Result<(), FleetError> {
        let listing = || format!("listing the databases of server `{name}`");
        let listed = async {
            let client = server.connect_admin().await?;
            let fleets = client.query_one(FLEETS, &[]).await.and_then(|row| row.try_get::<_, i64>(0));
            let rows = client.query(OURS, &[]).await.doing(listing)?;
            let there: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get(0)).collect();
            let adopted = router::adopted(server, &client, self.router).await?;
            Ok::<_, FleetError>((fleets.doing(listing)?, there.doing(listing)?, adopted))
        };
        let (fleets, there, adopted) = in_time(listed).await?;
        let is_unknown = |database: &String| !self.known.contains(&(name.to_owned(), database.clone()));
        let adopted = adopted.into_iter().filter(|(database, _)| is_unknown(database));
        found.adopted.extend(adopted.map(|(database, login)| FormerlyAdopted {
            server: name.to_owned(),
            database,
            login,
        }));
        if fleets > 1 && !self.shared {
            return Ok(());
        }
        let looked: Vec<_> = stream::iter(there.into_iter().filter(is_unknown))
            .map(|database| async move {
                let mark = match in_time(mark::read(server, &database, self.keys)).await {
                    Ok(Ok(mark)) if format!("mb_{}", mark.id) != database => {
                        Err(format!("its mark is that of tenant {}", mark.id))
                    }
                    Ok(mark) => mark,
                    Err(error) => Err(error.to_string()),
                };
                Unclaimed { server: name.to_owned(), database, mark }
            })
            .buffered(AT_A_TIME)
            .collect()
            .await;
        // Of one without a mark nobody can tell which fleet's it is.
        found.unclaimed.extend(looked.into_iter().filter(|one| fleets <= 1 || one.mark.is_ok()));
        Ok(())
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T, FleetError>>) -> Result<T, FleetError> {
    let silent = || FleetError::Settings(format!("no answer within {} seconds", PATIENCE.as_secs()));
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(silent()))
}

impl Unclaimed {
    /// Other databases, and tenants, that have the same slug or one of its base URLs: nobody but an operator can say whose it
    /// is.
    pub fn rivals(&self, all: &[Self], rows: &[TenantRow]) -> Vec<String> {
        let Ok(mark) = &self.mark else { return Vec::new() };
        let others = all.iter().filter(|other| {
            (&other.server, &other.database) != (&self.server, &self.database)
                && other.mark.as_ref().is_ok_and(|theirs| {
                    theirs.slug == mark.slug
                        || theirs.base_urls.iter().any(|url| mark.base_urls.contains(url))
                })
        });
        let others = others.map(|other| format!("database {} on server {}", other.database, other.server));
        let tenants = rows.iter().map(|row| &row.record).filter(|record| {
            let has = |url: &String| record.base_urls.iter().any(|theirs| theirs.to_string() == *url);
            record.slug.as_str() == mark.slug || mark.base_urls.iter().any(has)
        });
        let tenants = tenants.map(|record| format!("tenant {} ({})", record.slug, record.id));
        others.chain(tenants).collect()
    }
}

impl Fleet {
    /// Looks for databases without a row in the catalog, on shared servers too.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn unclaimed(&self) -> Result<Found, FleetError> {
        let catalog = (&self.catalog, self.settings.catalog.database.as_str());
        unclaimed(catalog, &self.servers, Some(&self.keys), true).await
    }

    /// Makes a database without a row a tenant again, as its mark says, under another slug if one is given: then without the
    /// base URLs that it had, which may be another's. Its id, and so its tokens' key and its password, derive as before; its
    /// version is that of its own history. A secret of its own has to be set anew.
    ///
    /// # Errors
    /// When the mark can't be believed, the slug or a base URL is another's, the settings lack its edition, or a server
    /// refuses. Run again, it goes on where it stopped; from the row on, `apply` does.
    pub async fn recover(&self, one: &Unclaimed, slug: Option<&Slug>) -> Result<TenantRow, FleetError> {
        let refused = |why: String| {
            FleetError::Settings(format!("database `{}` on server `{}`: {why}", one.database, one.server))
        };
        let mark = one.mark.as_ref().map_err(|why| refused(why.clone()))?;
        let id: TenantId = mark.id.parse()?;
        let given = match slug {
            Some(_) => Vec::new(),
            None => mark.base_urls.iter().map(|url| url.parse()).collect::<Result<Vec<BaseUrl>, _>>()?,
        };
        let slug = slug.map_or_else(|| mark.slug.parse(), |slug| Ok(slug.clone()))?;
        self.edition(&mark.edition)?;
        if let Some(row) = self.catalog.tenant(&id).await? {
            return Err(refused(match row.record.state {
                State::Purged => format!(
                    "its tenant was purged. To drop it too, in `psql` as the server's admin: DROP DATABASE {0}; DROP ROLE IF \
                     EXISTS {0}, {1}",
                    one.database,
                    migrator_of(&one.database)
                ),
                state => format!(
                    "tenant `{}` has its id, {id}, and a database on server `{}` ({state})",
                    row.record.slug, row.record.server
                ),
            }));
        }
        if let Some(row) = self.catalog.tenant_by_slug(slug.as_str()).await? {
            return Err(refused(format!(
                "its slug `{slug}` is that of tenant {} ({}); give it another with --as",
                row.record.id, row.record.state
            )));
        }
        let state: State = mark.state.parse()?;
        if !matches!(state, State::Active | State::Suspended | State::Retired) {
            return Err(refused(format!("its mark says that it is {state}")));
        }
        let tier = match self.known_tier(&mark.tier) {
            Ok(()) => mark.tier.clone(),
            Err(_) => self.settings.defaults.tier.clone(),
        };
        let lineage = Lineage { edition: mark.edition.clone(), version: 0, history: String::new() };
        let templated = self.templated(&slug)?;
        let mut record = Record {
            id,
            slug,
            state,
            tier,
            server: one.server.clone(),
            generation: mark.generation,
            key: self.keys.newest().id(),
            origin: Origin::Lineage(lineage),
            base_urls: Vec::new(),
            overrides: mark.settings()?.0,
            sealed: Sealed::new(),
            reloads: 0,
        };
        record.origin = Origin::Lineage(self.open_again(&record, &mark.edition).await?);
        let id = record.id.clone();
        self.catalog
            .tenant_recover(&Recovered {
                record,
                baseline: mark.baseline,
                templated,
                given,
                labels: mark.labels.clone(),
                // A password of its own only an adopted one has.
                lost_secrets: mark.secrets.iter().filter(|name| *name == JWT_SECRET).cloned().collect(),
                created_at: mark.created_at,
                keep_until: mark.keep_until,
                was_suspended: mark.was_suspended,
            })
            .await?;
        Box::pin(self.settle(&id)).await
    }

    /// Gives a database its login, its migrator and the rights of a tenant's, whatever is there of them, and reads what its
    /// history says. Without a row in the catalog nobody is served from it.
    async fn open_again(&self, record: &Record, edition: &str) -> Result<Lineage, FleetError> {
        let (server, client) = self.admin(&record.server).await?;
        let name = record.id.database();
        let key = self.keys.lock_key(&["tenant", record.id.as_str()]);
        let lock = AdvisoryLock::acquire(&client, key, LOCK_WAIT).await;
        let lock = lock.doing(|| format!("locking database `{name}`"))?;
        let lock = lock.ok_or_else(|| FleetError::Busy(format!("database `{name}`")))?;
        let opened = async {
            server.unhindered(self.give_logins(&client, record)).await?;
            Ok::<_, FleetError>(self.history(&record.server, &name).await?.lineage(edition))
        };
        let opened = opened.await;
        lock.release(&client).await.doing(|| format!("unlocking database `{name}`"))?;
        self.keep(&record.server, client);
        opened
    }

    /// Gives a tenant's database its login, its migrator and their rights, whatever is there of them.
    pub(super) async fn give_logins(&self, client: &Client, record: &Record) -> Result<(), FleetError> {
        let name = record.id.database();
        let found = database::found(client, &name).await?;
        let migrator = migrator_of(&name);
        let mut logins = self.login(record, found.login)?;
        logins.push_str(&roles::migrator(&migrator, MIGRATORS, found.migrator));
        let edition = record.lineage().map_or("", |lineage| &lineage.edition);
        let temporary = self.temporary(edition);
        let rights = DatabaseRights { owner: OWNER, logins: &[&name, &migrator], temporary: &temporary };
        database::open(client, &name, &rights, &logins).await
    }

    /// Recovers all of these whose slug and base URLs nobody else has. `progress` is told of each. Gives, for each, its tenant
    /// or why there is none.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub async fn recover_all(
        &self,
        unclaimed: &[Unclaimed],
        progress: &(dyn Fn(&Unclaimed) + Sync),
    ) -> Result<Vec<Result<TenantRow, FleetError>>, FleetError> {
        let rows = self.catalog.tenants(&Filter::default()).await?;
        let rivals: Vec<_> = unclaimed.iter().map(|one| (one, one.rivals(unclaimed, &rows))).collect();
        Ok(stream::iter(rivals)
            .map(|(one, rivals)| async move {
                let recovered = match &one.mark {
                    Ok(mark) if !rivals.is_empty() => Err(FleetError::Settings(format!(
                        "database `{}` on server `{}` says that it is `{}`, and so does {}: look into them, and give one another \
                         name with `manybox tenant recover --database {0} --server {1} --as NAME`",
                        one.database,
                        one.server,
                        mark.slug,
                        rivals.join(" and ")
                    ))),
                    _ => Box::pin(self.recover(one, None)).await,
                };
                progress(one);
                recovered
            })
            .buffered(AT_A_TIME)
            .collect()
            .await)
    }
}
