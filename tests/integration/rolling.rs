//! A router's start, its end, and what it is told between: no request of a well-behaved balancer fails.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Client;

use crate::support::router::{Router, addresses};
use crate::support::{TestFleet, eventually};

/// Longer than the balancer takes to look twice.
const DELAY: (&str, &str) = ("MANYBOX__LISTEN__STOP_DELAY", "1500ms");

async fn is_ready(admin: &str) -> bool {
    let asked = reqwest::get(format!("http://{admin}/ready")).await;
    asked.is_ok_and(|answer| answer.status() == 200)
}

/// A balancer that asks `/ready`, and sends requests to routers that say yes.
struct Balancer {
    /// Data port and admin port.
    routers: Vec<[String; 2]>,
    ready: Mutex<Vec<String>>,
    next: AtomicUsize,
    stop: AtomicBool,
}

impl Balancer {
    async fn look(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let mut ready = Vec::new();
            for [http, admin] in &self.routers {
                if is_ready(admin).await {
                    ready.push(http.clone());
                }
            }
            *self.ready.lock().unwrap() = ready;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn choose(&self) -> Option<String> {
        let ready = self.ready.lock().unwrap();
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        (!ready.is_empty()).then(|| ready[next % ready.len()].clone())
    }
}

#[tokio::test]
async fn a_rolling_restart_fails_no_request() {
    let fleet = TestFleet::builder().tenants(&["acme", "other"]).build().await;
    let places = [addresses(), addresses()];
    let mut routers: Vec<_> =
        places.iter().map(|place| Some(Router::begin(&fleet, place.clone(), &[DELAY]))).collect();
    for router in routers.iter().flatten() {
        router.until_ready().await;
    }
    let balancer = Arc::new(Balancer {
        routers: places.to_vec(),
        ready: Mutex::default(),
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    });
    let looking = tokio::spawn({
        let balancer = Arc::clone(&balancer);
        async move { balancer.look().await }
    });
    let served = Arc::new(AtomicU32::new(0));
    let clients: Vec<_> = (0..20)
        .map(|n| {
            let (balancer, served) = (Arc::clone(&balancer), Arc::clone(&served));
            tokio::spawn(async move {
                // They keep their connections; some speak HTTP/2.
                let client =
                    if n % 3 == 0 { Client::builder().http2_prior_knowledge() } else { Client::builder() };
                let client = client.build().unwrap();
                while !balancer.stop.load(Ordering::Relaxed) {
                    let Some(http) = balancer.choose() else {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    };
                    let slug = if n % 2 == 0 { "acme" } else { "other" };
                    // A change, which nobody would send again.
                    let asked = client
                        .post(format!("http://{http}/{slug}/rpc/sleepy"))
                        .json(&serde_json::json!({ "seconds": 0.005 }))
                        .send()
                        .await;
                    let answer = asked.unwrap_or_else(|error| panic!("{http}: {error:?}"));
                    assert_eq!(answer.status(), 200, "{http}");
                    answer.bytes().await.unwrap();
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for which in [0, 1, 0] {
        let before = served.load(Ordering::Relaxed);
        eventually("requests are served", || async { served.load(Ordering::Relaxed) > before + 50 }).await;
        let router = routers[which].take().unwrap();
        router.signal("TERM");
        assert!(router.ended().await);
        let router = Router::begin(&fleet, places[which].clone(), &[DELAY]);
        router.until_ready().await;
        routers[which] = Some(router);
    }
    balancer.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    looking.await.unwrap();
}

#[tokio::test]
async fn a_router_that_is_about_to_stop_serves_on_and_says_so() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let router = Router::start(&fleet, &[("MANYBOX__LISTEN__STOP_DELAY", "10min")]).await;
    let items = router.url("/acme/items");
    let client = Client::new();
    assert!(!client.get(&items).send().await.unwrap().headers().contains_key("connection"));
    router.signal("TERM");
    eventually("it says so", || async { !is_ready(&router.admin).await }).await;
    eventually("and to clients that keep their connections", || async {
        let answer = client.get(&items).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.headers().get("connection").is_some_and(|value| value == "close")
    })
    .await;
    router.signal("TERM");
    assert!(router.ended().await);
}

#[tokio::test]
async fn the_data_port_is_closed_until_tenants_are_known() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let router = Router::begin(&fleet, addresses(), &[("MANYBOX__CATALOG__DATABASE", "nowhere")]);
    eventually("the admin port is open", || async {
        let Ok(answer) = reqwest::get(router.of_admin("/ready")).await else { return false };
        answer.status() == 503 && answer.text().await.unwrap().contains("catalog.database")
    })
    .await;
    assert!(reqwest::get(router.url("/acme/items")).await.unwrap_err().is_connect());
    router.signal("TERM");
    assert!(router.ended().await);
}

#[tokio::test]
async fn settings_are_reloaded_and_no_signal_kills() {
    let toml = "[tiers.standard]\nmax_rows = 100";
    let fleet = TestFleet::builder().toml(toml).tenants(&["acme"]).build().await;
    let insert = "INSERT INTO items (name) SELECT 'item ' || n FROM generate_series(1, 9) n";
    fleet.owner("acme").await.batch_execute(insert).await.unwrap();
    let nap = "CREATE FUNCTION nap() RETURNS int STABLE LANGUAGE plpgsql
               AS 'BEGIN PERFORM pg_sleep(2); RETURN 1; END'; GRANT EXECUTE ON FUNCTION nap TO anon";
    fleet.owner("acme").await.batch_execute(nap).await.unwrap();
    let router = Router::start(&fleet, &[("MANYBOX__LISTEN__STOP_DELAY", "0s")]).await;
    let rows = || async {
        let items: Vec<serde_json::Value> =
            reqwest::get(router.url("/acme/items")).await.unwrap().json().await.unwrap();
        items.len()
    };
    assert_eq!(rows().await, 9);
    let file = fleet.folder.path().join("tenants.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let changed =
        text.replace("max_rows = 100", "max_rows = 3").replace("[listen]", "[listen]\nmetrics_tenants = 7");
    std::fs::write(&file, changed).unwrap();
    router.signal("HUP");
    eventually("the limit holds", || async { rows().await == 3 }).await;
    eventually("what it can't take up is named", || async {
        let log = router.log();
        log.contains("tiers.standard.max_rows")
            && log.contains("listen.metrics_tenants")
            && log.contains("restart")
    })
    .await;
    // As a proxy would say it; 127.0.0.1 is none yet.
    let proxied = || async {
        let asked = Client::new().get(router.url("/items")).header("x-forwarded-host", "acme.localhost");
        asked.send().await.unwrap().status().as_u16()
    };
    assert_eq!(proxied().await, 404);
    let changed = std::fs::read_to_string(&file).unwrap();
    let listen = "[listen]\ntrusted_proxies = ['127.0.0.0/8']";
    let changed = changed.replace("[listen]", listen).replace("drain_timeout = '1s'", "drain_timeout = '1m'");
    std::fs::write(&file, changed + "[servers.main.budget]\nmax_connections = 17\nmax_per_tenant = 1")
        .unwrap();
    router.signal("HUP");
    eventually("the proxy is believed", || async { proxied().await == 200 }).await;
    eventually("the budget holds", || async {
        let servers = router.told("/servers").await;
        servers[0]["total"] == 17 && servers[0]["budget"] == 17
    })
    .await;
    std::fs::write(&file, "[listen]\nhtp = 1").unwrap();
    router.signal("USR2");
    eventually("a mistake changes nothing", || async { router.log().contains("settings not reloaded") })
        .await;
    router.signal("USR1");
    eventually("this does nothing", || async { router.log().contains("SIGUSR1") }).await;
    assert_eq!(rows().await, 3);
    // A file that is just being replaced is not an empty one.
    std::fs::remove_file(fleet.folder.path().join("tenants.toml")).unwrap();
    router.signal("HUP");
    eventually("it says so", || async { router.log().contains("there is no file") }).await;
    assert_eq!(rows().await, 3);
    // Longer than what was listen.drain_timeout at the start.
    let slow = tokio::spawn(reqwest::get(router.url("/acme/rpc/nap")));
    eventually("it is under way", || async { router.told("/servers").await[0]["busy"] == 1 }).await;
    router.signal("TERM");
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    assert!(router.ended().await);
}

/// A terminal that is closed takes the router's standard error with it, and tells it by SIGHUP.
#[tokio::test]
async fn a_closed_terminal_kills_nothing() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let [http, admin] = addresses();
    let mut serve = fleet.program(&["serve"]);
    serve.env("MANYBOX__LISTEN__HTTP", &http).env("MANYBOX__LISTEN__ADMIN", &admin);
    serve.env("MANYBOX__LISTEN__STOP_DELAY", "0s").env("MANYBOX__LISTEN__ACCESS_LOG", "all");
    let mut child = serve.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let errors = child.stderr.take().unwrap();
    let mut running = crate::support::Running(child);
    eventually("it is ready", || async { is_ready(&admin).await }).await;
    drop(errors);
    let pid = running.0.id().to_string();
    std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap();
    for _ in 0..20 {
        let answer = reqwest::get(format!("http://{http}/acme/items")).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    let status = tokio::task::spawn_blocking(move || running.0.wait()).await.unwrap().unwrap();
    assert!(status.success());
}
