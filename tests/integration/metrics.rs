//! What a router tells of itself: metrics, `manybox top`, and the limit on requests.

use manybox::admin::{Access, Admin, TenantLine};
use manybox::tenant::{State, Verb};
use reqwest::Method;
use serde_json::json;

use crate::support::{TestFleet, eventually, private_server};

fn admin(fleet: &TestFleet, top: usize) -> axum::Router {
    admin_for(fleet, top, &fleet.fleet.settings.listen)
}

fn admin_for(fleet: &TestFleet, top: usize, listen: &manybox::settings::ListenSettings) -> axum::Router {
    let app = fleet.app.as_ref().unwrap();
    let told = Admin {
        directory: app.directory.clone(),
        pools: app.pools.clone(),
        metrics: app.metrics.clone(),
        traffic: app.traffic.clone(),
        keys: app.keys.clone(),
        top,
        phase: tokio::sync::watch::channel(manybox::admin::Phase::Open).1,
    };
    manybox::admin::router(told, Access::new(listen).unwrap())
}

fn operators(fleet: &TestFleet) -> manybox::front::Clients {
    let metrics = fleet.app.as_ref().unwrap().metrics.clone();
    manybox::front::Clients::of_admin(&fleet.fleet.settings.listen, metrics)
}

async fn status(admin: &axum::Router, path: &str) -> u16 {
    use tower::ServiceExt as _;
    let request =
        http::Request::get(path).header("host", "localhost").body(axum::body::Body::empty()).unwrap();
    admin.clone().oneshot(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_proxy_learns_for_which_hosts_it_may_get_certificates() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let mut listen = fleet.fleet.settings.listen.clone();
    listen.admin_token = Some(manybox::policy::Secret::new("0123456789abcdef"));
    let admin = admin_for(&fleet, 0, &listen);
    let host =
        |fleet: &TestFleet| fleet.app.as_ref().unwrap().directory.tenants()[0].base_urls[0].host.to_string();
    let known = host(&fleet);
    assert_eq!(status(&admin, &format!("/allowed?domain={known}")).await, 200, "{known}");
    for (query, expected) in [
        ("?domain=elsewhere.test", 404),
        ("?domain=", 400),
        ("", 400),
        ("?domain=a.test:443", 400),
        ("?domain=a/b", 400),
        ("?domain=a.test&domain=b.test", 400),
        ("?other=a.test", 400),
    ] {
        assert_eq!(status(&admin, &format!("/allowed{query}")).await, expected, "{query}");
    }
    assert_eq!(status(&admin, "/metrics").await, 401, "the rest still wants the token");
    assert_eq!(fleet.run(&["tenant", "retire", "acme"]).await.0, 0);
    let gone = format!("/allowed?domain={known}");
    eventually("its host is nobody's", async || status(&admin, &gone).await == 404).await;
}

async fn ask(admin: &axum::Router, path: &str) -> String {
    use tower::ServiceExt as _;
    let request =
        http::Request::get(path).header("host", "localhost").body(axum::body::Body::empty()).unwrap();
    let answer = admin.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

/// The value of a metric with these labels.
fn value(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn metrics_move_with_what_requests_come_to() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex", "initech", "hooli"]).serve().await;
    let admin = admin(&fleet, 2);
    for _ in 0..3 {
        assert_eq!(fleet.get("/acme/items").await.status, 200);
    }
    assert_eq!(fleet.get("/globex/items").await.status, 200);
    assert_eq!(fleet.get("/globex/nothing").await.status, 404);
    let refused = fleet.get("/initech/secrets").await;
    assert_eq!(refused.status, 401, "{}", refused.text);
    assert_eq!(fleet.get("/nobody/items").await.status, 404);
    // A suspended tenant is no unknown one.
    let hooli = fleet.fleet.carry_out("hooli", Verb::Suspend).await.unwrap().record.id;
    let directory = &fleet.app.as_ref().unwrap().directory;
    eventually("it is known", || async { directory.get(&hooli).unwrap().state == State::Suspended }).await;
    assert_eq!(fleet.get("/hooli/items").await.status, 403);
    let text = ask(&admin, "/metrics").await;
    for (outcome, count) in
        [("ok", 4.0), ("client_error", 1.0), ("unauthorized", 2.0), ("unknown_tenant", 1.0)]
    {
        let name = format!("manybox_requests_total{{outcome=\"{outcome}\"}}");
        assert_eq!(value(&text, &name), count, "{outcome}");
    }
    assert_eq!(value(&text, "manybox_request_seconds_count"), 8.0);
    assert_eq!(value(&text, "manybox_connects_total{server=\"main\",outcome=\"ok\"}"), 3.0);
    assert_eq!(value(&text, "manybox_connections{server=\"main\",state=\"idle\"}"), 3.0);
    assert_eq!(value(&text, "manybox_breaker_open{server=\"main\"}"), 0.0);
    assert_eq!(value(&text, "manybox_tenants"), 4.0);
    assert!(value(&text, "manybox_stage_seconds_sum{stage=\"execute\"}") > 0.0);
    // The two busiest and no more, however many there are.
    assert_eq!(value(&text, "manybox_tenant_requests_total{tenant=\"acme\"}"), 3.0);
    let requests_of =
        |slug: &str| text.contains(&format!("manybox_tenant_requests_total{{tenant=\"{slug}\"}}"));
    assert!(requests_of("globex") && !requests_of("initech"), "{text}");
    assert!(text.ends_with("# EOF\n"));
    let tenants: Vec<TenantLine> = serde_json::from_str(&ask(&admin, "/tenants").await).unwrap();
    assert_eq!(tenants.len(), 4, "also who is suspended, and asked for all the same");
}

#[tokio::test]
async fn a_full_house_is_told_from_one_that_burns() {
    let limits = "[tiers.standard]\nmax_connections = 1\nacquire_timeout = '50ms'";
    let fleet = TestFleet::builder().toml(limits).tenants(&["acme"]).serve().await;
    let held = fleet.app.as_ref().unwrap().pools.checkout(&fleet.tenant("acme").await).await.unwrap();
    let refused = fleet.get("/acme/items").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "MBX201"));
    drop(held);
    let text = ask(&admin(&fleet, 20), "/metrics").await;
    assert_eq!(value(&text, "manybox_requests_total{outcome=\"backpressure\"}"), 1.0);
    assert_eq!(value(&text, "manybox_requests_total{outcome=\"unavailable\"}"), 0.0);
    assert_eq!(value(&text, "manybox_waits_ended_total{server=\"main\",reason=\"tenant\"}"), 1.0);
    assert_eq!(value(&text, "manybox_tenant_refusals_total{tenant=\"acme\"}"), 1.0);
}

/// Functions that raise what looks like manybox's or PostgREST's own refusals, or like a server in trouble.
const IMPOSTORS: &str = "
    CREATE FUNCTION raises_json(code text, status int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        RAISE SQLSTATE 'PGRST' USING
            MESSAGE = json_build_object('code', code, 'message', 'mine')::text,
            DETAIL = json_build_object('status', status, 'headers', '{}'::json)::text;
    END $$;
    CREATE FUNCTION raises(state text) RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the answer is longer than max_answer' USING ERRCODE = state; END $$;
    CREATE FUNCTION answers(status text) RETURNS void LANGUAGE sql AS
        $$ SELECT set_config('response.status', status, true) $$;
    GRANT EXECUTE ON FUNCTION raises_json, raises, answers TO anon;";

#[tokio::test]
async fn a_function_cannot_pass_its_errors_off_as_the_routers() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    fleet.owner("acme").await.batch_execute(IMPOSTORS).await.unwrap();
    // The edition has no such function, so this tenant's own schema is read.
    let first = fleet.send(Method::POST, "/acme/rpc/answers", None, "", r#"{"status":"200"}"#).await;
    assert_eq!(first.status, 200, "{}", first.text);
    // So that the next reason to read the schema again would be followed.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let mut asked = 0.0;
    for (function, body, status) in [
        ("raises_json", json!({ "code": "MBX102", "status": 404 }), 404),
        ("raises_json", json!({ "code": "MBX109", "status": 429 }), 429),
        ("raises_json", json!({ "code": "MBX207", "status": 429 }), 429),
        ("raises_json", json!({ "code": "MBX201", "status": 503 }), 503),
        ("raises_json", json!({ "code": "MBX202", "status": 503 }), 503),
        ("raises_json", json!({ "code": "PGRST205", "status": 404 }), 404),
        ("raises", json!({ "state": "PT503" }), 503),
        ("raises", json!({ "state": "53300" }), 503),
        ("raises", json!({ "state": "57P03" }), 503),
        ("raises", json!({ "state": "22P02" }), 400),
        ("answers", json!({ "status": "429" }), 429),
        ("answers", json!({ "status": "503" }), 503),
    ] {
        let path = format!("/acme/rpc/{function}");
        let answer = fleet.send(Method::POST, &path, None, "", &body.to_string()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        if let Some(raised) = body.get("code").or(body.get("state")) {
            assert_eq!(answer.code(), raised.as_str().unwrap());
        }
        asked += 1.0;
    }
    let text = ask(&admin(&fleet, 20), "/metrics").await;
    let requests = |outcome: &str| value(&text, &format!("manybox_requests_total{{outcome=\"{outcome}\"}}"));
    for outcome in ["unknown_tenant", "rate_limited", "backpressure", "unavailable"] {
        assert_eq!(requests(outcome), 0.0, "{outcome}");
    }
    assert_eq!(requests("client_error") + requests("server_error"), asked);
    assert_eq!(value(&text, "manybox_tenant_refusals_total{tenant=\"acme\"}"), 0.0);
    assert_eq!(value(&text, "manybox_schema_reads_total"), 1.0);
    // Where PGRST205 is ours, the schema is read again, if it has changed.
    assert_eq!(fleet.get("/acme/nothing").await.code(), "PGRST205");
    fleet
        .owner("acme")
        .await
        .batch_execute("CREATE TABLE nothing (); GRANT SELECT ON nothing TO anon")
        .await
        .unwrap();
    eventually("it is read again", || async {
        fleet.get("/acme/nothing").await.status == 200
            && value(&ask(&admin(&fleet, 20), "/metrics").await, "manybox_schema_reads_total") == 2.0
    })
    .await;
}

#[tokio::test]
async fn a_dead_server_is_seen_without_asking_it() {
    let folder = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = private_server(folder.path().join("own"), false).await;
    let mut fleet = TestFleet::builder().tenants(&["acme"]).build_on(&server.admin_url()).await;
    fleet.start_router().await;
    let admin = admin(&fleet, 20);
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    server.stop().await.unwrap();
    eventually("requests are refused", || async { fleet.get("/acme/items").await.status == 503 }).await;
    let text = ask(&admin, "/metrics").await;
    assert_eq!(value(&text, "manybox_breaker_open{server=\"main\"}"), 1.0);
    assert!(value(&text, "manybox_requests_total{outcome=\"unavailable\"}") >= 1.0);
    assert!(value(&text, "manybox_tenant_refusals_total{tenant=\"acme\"}") >= 1.0);
}

#[tokio::test]
async fn a_tenant_above_its_rate_is_told_to_wait_and_others_are_not() {
    let mut fleet = TestFleet::builder().tenants(&["acme", "globex"]).serve().await;
    let (code, _, said) = fleet.run(&["tenant", "set", "acme", "max_requests_per_second=2"]).await;
    assert_eq!(code, 0, "{said}");
    eventually("the limit holds", || async {
        let answer = fleet.get("/acme/items").await;
        if answer.status != 429 {
            return false;
        }
        assert_eq!((answer.code().as_str(), answer.headers["retry-after"].as_str()), ("MBX109", "1"));
        true
    })
    .await;
    for _ in 0..20 {
        assert_eq!(fleet.get("/globex/items").await.status, 200);
    }
    let (code, _, said) = fleet.run(&["tenant", "set", "acme", "max_requests_per_second="]).await;
    assert_eq!(code, 0, "{said}");
    eventually("it is lifted", || async {
        let answers =
            [fleet.get("/acme/items").await, fleet.get("/acme/items").await, fleet.get("/acme/items").await];
        answers.iter().all(|answer| answer.status == 200)
    })
    .await;
    for wrong in [
        "max_requests_per_second=many",
        "max_requests_per_second=0",
        "max_connections=0",
        "max_speed=1",
        "statement_timeout=soon",
        "request_timeout=0s",
    ] {
        let (code, _, said) = fleet.run(&["tenant", "set", "acme", wrong]).await;
        let (key, value) = wrong.split_once('=').unwrap();
        assert!(code == 1 && said.contains(key) && (key == "max_speed" || said.contains(value)), "{said}");
    }
    fleet.reopen().await;
    assert_eq!(fleet.row("acme").await.record.overrides, manybox::policy::Overrides::default());
}

#[tokio::test]
async fn top_shows_who_is_busy() {
    let fleet = TestFleet::builder().tenants(&["acme", "globex"]).serve().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = admin(&fleet, 20);
    tokio::spawn(manybox::front::serve(listener, router, operators(&fleet), std::future::pending()));
    let flood = async {
        loop {
            assert_eq!(fleet.get("/globex/items").await.status, 200);
        }
    };
    let arguments = ["top", "--once", "--json", "--interval", "500ms", "--admin", &address];
    let (code, sample, said) = tokio::select! {
        done = fleet.run(&arguments) => done,
        () = flood => unreachable!(),
    };
    assert_eq!(code, 0, "{said}");
    let sample: serde_json::Value = serde_json::from_str(&sample).unwrap();
    assert_eq!(sample["tenants"][0]["slug"], "globex");
    assert!(sample["tenants"][0]["requests_per_second"].as_f64().unwrap() > 1.0, "{sample}");
    assert!(sample["tenants"][0]["idle"].is_u64() && sample["tenants"][0]["waits"].is_u64(), "{sample}");
    assert_eq!(sample["servers"][0]["breaker"], "closed");
    let (code, table, _) = fleet.run(&["top", "--interval", "100ms", "--admin", &address]).await;
    assert!(code == 0 && table.contains("globex") && table.contains("BREAKER"), "{table}");
    let (code, _, said) = fleet.run(&["top", "--once", "--admin", "127.0.0.1:1"]).await;
    assert!(code == 1 && said.contains("is `manybox serve` running"), "{said}");
}

#[tokio::test]
async fn top_outlives_a_restart_of_the_router() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    assert_eq!(fleet.get("/acme/items").await.status, 200);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router =
        manybox::front::serve(listener, admin(&fleet, 20), operators(&fleet), std::future::pending());
    let router = tokio::spawn(router);
    let arguments = ["top", "--json", "--interval", "100ms", "--admin", &address.to_string()];
    let mut top = tokio::process::Command::from(fleet.program(&arguments));
    let pipe = std::process::Stdio::piped;
    let mut top = top.stdout(pipe()).stderr(pipe()).kill_on_drop(true).spawn().unwrap();
    let mut samples = BufReader::new(top.stdout.take().unwrap()).lines();
    let mut said = BufReader::new(top.stderr.take().unwrap()).lines();
    assert!(samples.next_line().await.unwrap().unwrap().contains("acme"));
    router.abort();
    let _ = router.await;
    assert!(said.next_line().await.unwrap().unwrap().contains("trying again"));
    // What was on its way came before that.
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    tokio::spawn(manybox::front::serve(
        listener,
        admin(&fleet, 20),
        operators(&fleet),
        std::future::pending(),
    ));
    for _ in 0..5 {
        assert!(samples.next_line().await.unwrap().unwrap().contains("acme"));
    }
}
