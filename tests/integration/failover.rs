//! Servers that fail over: which host is found, what a switch costs, and what a host that says nothing can hold up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use manybox::directory::Freshness;
use manybox::front::App;
use manybox::pg::wire::Query;
use manybox::pg::{self, Endpoint, Error, Guard, Login};
use manybox::pool::{Budget, Pools};
use manybox::rest::Rest;
use manybox::settings::{ClientSettings, Settings};
use manybox::telemetry::Metrics;
use manybox::tenant::Tenant;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::cluster::{Cluster, Node};
use crate::support::{Answer, TestFleet, eventually};

const WHERE: &str = "SELECT current_setting('port')::int";

/// Where a session of the data plane comes to, and one of the control plane.
async fn found(url: &str) -> [Result<u16, Error>; 2] {
    let (endpoint, login) = Endpoint::parse("main", url, None).unwrap();
    let login = login.unwrap();
    let port = |port: i32| u16::try_from(port).unwrap();
    [data_plane(&endpoint, &login).await.map(port), control_plane(&endpoint, &login).await.map(port)]
}

async fn data_plane(endpoint: &Endpoint, login: &Login) -> Result<i32, Error> {
    let guard: Guard = Arc::new(());
    let mut session = endpoint.open(login, "postgres", "", &guard).await?;
    let query = Query { sql: WHERE, types: &[], key: None, parameters: &[] };
    Ok(session.rows(&query, 1000).await.unwrap().0[0].try_get(0).unwrap())
}

async fn control_plane(endpoint: &Endpoint, login: &Login) -> Result<i32, Error> {
    let session = pg::connect(endpoint, login, "postgres").await?;
    Ok(session.query_one(WHERE, &[]).await.unwrap().get(0))
}

async fn assert_finds(cluster: &Cluster, hosts: [&Node; 2], target: &str, expected: Option<&Node>) {
    let url = cluster.url(hosts, &format!("target_session_attrs={target}"));
    for found in found(&url).await {
        match (expected, found) {
            (Some(node), Ok(port)) => assert_eq!(port, node.port(), "{target}"),
            (None, Err(Error::NoHost { .. })) => {}
            (expected, found) => panic!("{target}: {found:?} instead of {:?}", expected.map(Node::port)),
        }
    }
}

#[tokio::test]
async fn each_target_finds_its_host_as_in_libpq() {
    let cluster = Cluster::start().await;
    let (primary, standby) = (&cluster.first, &cluster.second);
    for hosts in [[primary, standby], [standby, primary]] {
        assert_finds(&cluster, hosts, "any", Some(hosts[0])).await;
        for target in ["read-write", "primary"] {
            assert_finds(&cluster, hosts, target, Some(primary)).await;
        }
        for target in ["read-only", "standby", "prefer-standby"] {
            assert_finds(&cluster, hosts, target, Some(standby)).await;
        }
    }
    for target in ["standby", "read-only"] {
        assert_finds(&cluster, [primary, primary], target, None).await;
    }
    for target in ["primary", "read-write"] {
        assert_finds(&cluster, [standby, standby], target, None).await;
    }
    assert_finds(&cluster, [primary, primary], "prefer-standby", Some(primary)).await;

    // What any function can set for its login says nothing of the host.
    let superuser = primary.superuser().await;
    let set = async |sql: &str| {
        superuser.batch_execute(sql).await.unwrap();
        superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    };
    set("ALTER ROLE mb_admin SET default_transaction_read_only = on").await;
    assert_finds(&cluster, [primary, primary], "read-write", Some(primary)).await;
    assert_finds(&cluster, [primary, primary], "read-only", None).await;
    set("ALTER ROLE mb_admin RESET default_transaction_read_only").await;
    // What the operator sets for the server does.
    set("ALTER SYSTEM SET default_transaction_read_only = on").await;
    eventually("it has read its settings", async || {
        let row =
            primary.superuser().await.query_one("SHOW default_transaction_read_only", &[]).await.unwrap();
        row.get::<_, &str>(0) == "on"
    })
    .await;
    assert_finds(&cluster, [primary, primary], "read-write", None).await;
    assert_finds(&cluster, [standby, primary], "primary", Some(primary)).await;
    assert_finds(&cluster, [primary, primary], "read-only", Some(primary)).await;
}

/// A host that takes connections and says this.
async fn says(words: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = [0; 1024];
                while let Ok(1..) = client.read(&mut heard).await {
                    let _ = client.write_all(words).await;
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn hosts_that_are_silent_or_start_up_do_not_end_the_search() {
    const STARTS: &[u8] = b"E\0\0\0\x22SFATAL\0VFATAL\0C57P03\0Mstarts\0\0";
    let fleet = TestFleet::builder().tcp().build().await;
    let (own, login) = {
        let text = std::fs::read_to_string(fleet.folder.path().join("tenants.toml")).unwrap();
        let url = text.split("url = '").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        let login = Endpoint::parse("main", &url, None).unwrap().1.unwrap();
        (url.split("127.0.0.1:").nth(1).unwrap().split('/').next().unwrap().to_owned(), login)
    };
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    for (first, target) in [
        (says(b"").await, "any"),
        (says(b"").await, "primary"),
        (says(STARTS).await, "any"),
        (says(STARTS).await, "primary"),
        (closed, "any"),
    ] {
        let url = format!(
            "postgres://127.0.0.1:{first},127.0.0.1:{own}/postgres?sslmode=disable&connect_timeout=2&target_session_attrs={target}"
        );
        let (endpoint, _) = Endpoint::parse("main", &url, None).unwrap();
        data_plane(&endpoint, &login).await.unwrap();
        control_plane(&endpoint, &login).await.unwrap();
    }
}

/// A router and two tenants on the cluster, its standby listed first.
async fn fleet(cluster: &Cluster, target: &str) -> TestFleet {
    let url = cluster.url([&cluster.second, &cluster.first], &format!("target_session_attrs={target}"));
    let mut fleet = TestFleet::builder().tenants(&["acme", "globex"]).build_on(&url).await;
    fleet.start_router().await;
    fleet
}

async fn write(fleet: &TestFleet, slug: &str, id: i32) -> Answer {
    let body = json!({ "id": id, "body": "x" }).to_string();
    fleet.send(Method::POST, &format!("/{slug}/notes"), None, "", &body).await
}

/// Writes without a pause, and notes what was acknowledged.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<(&'static str, i32)>>>,
}

impl Writers {
    fn start(fleet: &Arc<TestFleet>) -> Self {
        let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(1)));
        let tasks = (0..8).map(|n| {
            let (fleet, stop, next) = (Arc::clone(fleet), Arc::clone(&stop), Arc::clone(&next));
            let slug = ["acme", "globex"][n % 2];
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    let answer = write(&fleet, slug, id).await;
                    match answer.status.as_u16() {
                        201 => acknowledged.push((slug, id)),
                        503 => {
                            assert!(answer.headers.contains_key("retry-after"), "{}", answer.text);
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                        other => panic!("{other} {}", answer.text),
                    }
                }
                acknowledged
            })
        });
        Self { tasks: tasks.collect(), stop }
    }

    async fn end(self) -> Vec<(&'static str, i32)> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = futures_util::future::join_all(self.tasks).await;
        ended.into_iter().flat_map(|task| task.unwrap()).collect()
    }
}

async fn serves(fleet: &TestFleet, id: i32) -> bool {
    write(fleet, "acme", id).await.status == 201 && write(fleet, "globex", id).await.status == 201
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_costs_503s_and_no_write() {
    let cluster = Cluster::start().await;
    let fleet = Arc::new(fleet(&cluster, "read-write").await);
    // Nothing that is acknowledged is on one node only.
    let superuser = cluster.first.superuser().await;
    superuser.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    assert!(serves(&fleet, -1).await);
    let writers = Writers::start(&fleet);
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.switch_over();
    let next = AtomicI32::new(-2);
    eventually("service is whole", async || serves(&fleet, next.fetch_sub(1, Ordering::Relaxed)).await).await;
    let acknowledged = writers.end().await;
    assert!(!acknowledged.is_empty());
    for slug in ["acme", "globex"] {
        let kept = fleet.get(&format!("/{slug}/notes?select=id")).await.json();
        let kept: Vec<_> = kept.as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect();
        for (_, id) in acknowledged.iter().filter(|(of, _)| *of == slug) {
            assert!(kept.contains(&i64::from(*id)), "{slug} {id}");
        }
    }
    // The catalog has moved with it: commands change it, and the router hears of that.
    fleet.create("initech").await;
    eventually("the feed goes on", async || fleet.get("/initech/items").await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_a_switchover_cuts_goes_on_by_itself() {
    let cluster = Cluster::start().await;
    let url = cluster.url([&cluster.second, &cluster.first], "target_session_attrs=primary");
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build_on(&url).await;
    // It ends on the first node by being cut only: where there are items, and so not in the template.
    let sql = format!(
        "CREATE TABLE later (id int); SELECT pg_sleep(60) FROM items WHERE current_setting('port') = '{}';",
        cluster.first.port()
    );
    std::fs::write(fleet.folder.path().join("migrations/shop/V3__later.sql"), sql).unwrap();
    for slug in ["acme", "globex"] {
        fleet.owner(slug).await.batch_execute("INSERT INTO items (name) VALUES ('x')").await.unwrap();
    }
    let mut migrate = fleet.program(&["migrate"]);
    let migrate = tokio::task::spawn_blocking(move || migrate.output().unwrap());
    let superuser = cluster.first.superuser().await;
    let under_way =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%FROM items%'";
    eventually("it runs in a tenant's database", async || {
        superuser.query_one(under_way, &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    cluster.switch_over();
    let output = migrate.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for slug in ["acme", "globex"] {
        fleet.owner(slug).await.query("SELECT FROM later", &[]).await.unwrap();
    }
    assert_eq!(fleet.run(&["migrate", "status", "--check"]).await.0, 0);
}

/// The old primary takes connections and says nothing until the end of the test.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_falls_silent_holds_up_nobody_for_long() {
    let cluster = Cluster::start().await;
    let fleet = Arc::new(fleet(&cluster, "primary").await);
    assert!(serves(&fleet, i32::MIN).await);
    let writers = Writers::start(&fleet);
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.first.pause();
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.second.promote();
    let next = AtomicI32::new(-1);
    eventually("service is whole", async || {
        let id = next.fetch_sub(1, Ordering::Relaxed);
        tokio::time::timeout(Duration::from_secs(5), serves(&fleet, id)).await.unwrap_or(false)
    })
    .await;
    let pools = &fleet.app.as_ref().unwrap().pools;
    assert_eq!(pools.servers()[0].closing, 0, "what lingers on the silent host counts no more");
    // Nobody goes back to it when it speaks again and still thinks it is the primary.
    cluster.first.resume();
    tokio::time::sleep(Duration::from_millis(500)).await;
    writers.end().await;
    let last = next.load(Ordering::Relaxed) + 1;
    let there = fleet.get(&format!("/acme/notes?id=eq.{last}")).await.json();
    assert_eq!(there.as_array().unwrap().len(), 1, "what was written to the new one is seen");
}

/// A router's REST API over this URL alone.
fn rest(fleet: &TestFleet, url: &str) -> Rest {
    let endpoint = Endpoint::parse("main", url, None).unwrap().0;
    let servers = HashMap::from([("main".to_owned(), (endpoint, Budget::default()))]);
    let pools = Pools::new(servers, Arc::clone(&fleet.fleet.keys));
    Rest::new(pools, Arc::clone(&fleet.fleet.keys), None, Metrics::default(), &ClientSettings::default())
}

async fn ask(
    rest: &Rest,
    tenant: &Arc<Tenant>,
    method: Method,
    path: &str,
    body: &str,
) -> (u16, bool, String) {
    let request =
        http::Request::builder().method(method).uri(path).header("content-type", "application/json");
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
    let (parts, body) = rest.serve(tenant, request).await.into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&text).into_owned();
    (parts.status.as_u16(), parts.headers.contains_key("retry-after"), text)
}

#[tokio::test]
async fn a_write_on_a_standby_is_503_and_a_functions_words_are_none() {
    let cluster = Cluster::start().await;
    let url = cluster.url([&cluster.second, &cluster.first], "target_session_attrs=primary");
    let fleet = TestFleet::builder().tenants(&["acme"]).build_on(&url).await;
    fleet
        .owner("acme")
        .await
        .batch_execute(
            "CREATE FUNCTION public.pretends() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
                 RAISE EXCEPTION 'cannot set transaction read-write mode during recovery' USING ERRCODE = '0A000';
             END $$;
             GRANT EXECUTE ON FUNCTION public.pretends TO anon",
        )
        .await
        .unwrap();
    let acme = fleet.tenant("acme").await;
    let primary = rest(&fleet, &url);
    for _ in 0..3 {
        let (status, _, text) = ask(&primary, &acme, Method::POST, "/rpc/pretends", "{}").await;
        assert!(status == 400 && text.contains("0A000"), "{status} {text}");
    }
    let standby = rest(&fleet, &cluster.url([&cluster.second, &cluster.second], "target_session_attrs=any"));
    eventually("the standby has the tenant", async || {
        ask(&standby, &acme, Method::GET, "/notes", "").await.0 == 200
    })
    .await;
    let note = |id: i32| json!({ "id": id, "body": "x" }).to_string();
    for _ in 0..3 {
        let (status, later, text) = ask(&standby, &acme, Method::POST, "/notes", &note(1)).await;
        assert!(status == 503 && later && text.contains("MBX209"), "{status} {text}");
        assert_eq!(ask(&standby, &acme, Method::GET, "/notes", "").await.0, 200, "it reads on");
    }
    // Any host would do, and the first is a standby: who writes finds the other all the same.
    let any = rest(&fleet, &cluster.url([&cluster.second, &cluster.first], "target_session_attrs=any"));
    assert_eq!(ask(&any, &acme, Method::GET, "/notes", "").await.0, 200);
    eventually("a write finds the primary", async || {
        ask(&any, &acme, Method::POST, "/notes", &note(2)).await.0 == 201
    })
    .await;
    cluster.first.stop("fast");
    cluster.second.promote();
    eventually("the former standby takes writes", async || {
        ask(&standby, &acme, Method::POST, "/notes", &note(3)).await.0 == 201
    })
    .await;
}

#[tokio::test]
async fn server_check_says_which_host_is_what() {
    let cluster = Cluster::start().await;
    let url = cluster.url([&cluster.second, &cluster.first], "target_session_attrs=primary");
    let fleet = TestFleet::builder().build_on(&url).await;
    let look = async || {
        let (_, out, error) = fleet.run(&["server", "check", "--json"]).await;
        let lines: Vec<serde_json::Value> =
            serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out} {error}"));
        let of = |node: &Node| {
            let line = lines.iter().find(|line| {
                line["trial"].as_str().is_some_and(|trial| trial.ends_with(&format!(":{}", node.port())))
            });
            let line = line.unwrap_or_else(|| panic!("{out}"));
            (line["ok"].as_bool().unwrap(), line["message"].as_str().unwrap().to_owned())
        };
        [of(&cluster.first), of(&cluster.second)]
    };
    let [first, second] = look().await;
    assert!(first.0 && first.1.starts_with("in use: primary"), "{first:?}");
    assert!(first.1.contains("standbys"), "{first:?}");
    assert!(second.0 && second.1.starts_with("standby"), "{second:?}");
    cluster.first.stop("fast");
    cluster.second.promote();
    let [first, second] = look().await;
    assert!(!first.0 && second.1.starts_with("in use: primary"), "{first:?} {second:?}");
}

#[tokio::test]
async fn a_router_starts_without_the_catalog() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).build().await;
    let secret = ["0123456789abcdef"; 3].join("");
    let (code, out, error) = fleet.run(&["tenant", "set", "globex", &format!("jwt_secret={secret}")]).await;
    assert_eq!(code, 0, "{out} {error}");
    let mut settings = fleet.fleet.settings.clone();
    settings.catalog.server = "away".into();
    let mut endpoints = fleet.fleet.servers.endpoints();
    endpoints.insert("away".into(), endpoints["main"].clone());
    let start = |settings: &Settings, endpoints: &HashMap<String, Endpoint>| {
        App::start(Arc::new(settings.clone()), endpoints.clone(), Arc::clone(&fleet.fleet.keys))
    };
    let app = start(&settings, &endpoints);
    app.wait_ready().await;
    let file = settings.listen.directory_file.clone();
    eventually("the directory is on disk", async || file.exists()).await;
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains(&secret) && !text.contains("jwt_secret"), "{text}");
    app.stop().await;

    endpoints
        .insert("away".into(), Endpoint::parse("away", "postgres://127.0.0.1:1/postgres", None).unwrap().0);
    let app = start(&settings, &endpoints);
    app.wait_ready().await;
    assert!(matches!(app.directory.freshness(), Freshness::Snapshot(_)));
    let acme = app.directory.get(&fleet.row("acme").await.record.id).unwrap();
    let (status, _, text) = ask(&app.rest, &acme, Method::GET, "/items", "").await;
    assert_eq!(status, 200, "{text}");
    assert!(app.directory.get(&fleet.row("globex").await.record.id).is_none(), "its secret is not there");
    app.stop().await;

    settings.listen.stale_directory = Duration::from_millis(1);
    let app = start(&settings, &endpoints);
    let waited = tokio::time::timeout(Duration::from_secs(1), app.wait_ready()).await;
    assert!(waited.is_err(), "an old one is not used");
    app.abort();
}

/// A way to the server whose connections can all fall silent, while new ones go through.
struct Way {
    port: u16,
    era: Arc<AtomicI32>,
}

impl Way {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let era = Arc::<AtomicI32>::default();
        let now = Arc::clone(&era);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mine, now) = (now.load(Ordering::Relaxed), Arc::clone(&now));
                tokio::spawn(async move {
                    let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let silent = Arc::clone(&now);
                    let forth = async move {
                        let mut bytes = [0; 4096];
                        while let Ok(n @ 1..) = from_client.read(&mut bytes).await {
                            if now.load(Ordering::Relaxed) == mine {
                                let _ = to_server.write_all(&bytes[..n]).await;
                            }
                        }
                        if now.load(Ordering::Relaxed) != mine {
                            std::future::pending::<()>().await;
                        }
                    };
                    let back = async move {
                        let mut bytes = [0; 4096];
                        while let Ok(n @ 1..) = from_server.read(&mut bytes).await {
                            if silent.load(Ordering::Relaxed) == mine {
                                let _ = to_client.write_all(&bytes[..n]).await;
                            }
                        }
                        if silent.load(Ordering::Relaxed) != mine {
                            std::future::pending::<()>().await;
                        }
                    };
                    tokio::join!(forth, back);
                });
            }
        });
        Self { port, era }
    }

    fn fall_silent(&self) {
        self.era.fetch_add(1, Ordering::Relaxed);
    }
}

/// Behind a proxy nothing tells that the sessions of before are gone; they would hold the whole budget.
#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_linger_do_not_keep_others_from_being_opened() {
    let fleet = TestFleet::builder().tcp().tenants(&["acme", "globex"]).build().await;
    let endpoints = fleet.fleet.servers.endpoints();
    let own = endpoints["main"].places().rsplit(':').next().unwrap().parse().unwrap();
    let way = Way::to(own).await;
    let url = format!("postgres://127.0.0.1:{}/postgres?sslmode=disable", way.port);
    let endpoint = Endpoint::parse("main", &url, None).unwrap().0;
    let budget = Budget { total: Some(4), max_per_tenant: 4, max_connecting: 2, ..Budget::default() };
    let servers = HashMap::from([("main".to_owned(), (endpoint, budget))]);
    let pools = Pools::new(servers, Arc::clone(&fleet.fleet.keys));
    let (acme, globex) = (fleet.tenant("acme").await, fleet.tenant("globex").await);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(pools.checkout(&acme).await.unwrap());
    }
    way.fall_silent();
    drop(held);
    eventually("another tenant is served", async || pools.checkout(&globex).await.is_ok()).await;
    eventually("and so is this one", async || pools.checkout(&acme).await.is_ok()).await;
}
