//! The admin port: asked by a page under a name of its own, from elsewhere, without its token.

use manybox::admin::{Access, Admin, router};
use manybox::front::Clients;
use manybox::policy::Secret;
use manybox::settings::ListenSettings;
use reqwest::Client;

use crate::support::TestFleet;

const TOKEN: &str = "a token that nobody can guess";
const PATHS: [&str; 5] = ["/live", "/ready", "/metrics", "/servers", "/tenants"];

/// The admin port with these settings: its address.
async fn port(fleet: &TestFleet, change: impl FnOnce(&mut ListenSettings)) -> String {
    let app = fleet.app.as_ref().unwrap();
    let mut listen = fleet.fleet.settings.listen.clone();
    change(&mut listen);
    let told = Admin {
        directory: app.directory.clone(),
        pools: app.pools.clone(),
        metrics: app.metrics.clone(),
        traffic: app.traffic.clone(),
        keys: app.keys.clone(),
        top: 10,
        phase: tokio::sync::watch::channel(manybox::admin::Phase::Open).1,
    };
    let service = router(told, Access::new(&listen).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let clients = Clients::of_admin(&listen, app.metrics.clone());
    tokio::spawn(manybox::front::serve(listener, service, clients, std::future::pending()));
    address.to_string()
}

async fn status(address: &str, path: &str, host: &str, token: Option<&str>) -> u16 {
    let mut request = Client::new().get(format!("http://{address}{path}")).header("host", host);
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    request.send().await.unwrap().status().as_u16()
}

/// Its name leads to 127.0.0.1 when the operator's browser asks for the second time.
#[tokio::test]
async fn a_page_that_rebinds_its_name() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let address = port(&fleet, |listen| listen.admin_hosts = vec!["ops.example".into()]).await;
    for path in PATHS {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "ops.example.evil.example:80",
            "10.0.0.7",
            "127.0.0.1@evil.example",
            "",
        ] {
            assert_ne!(status(&address, path, host, None).await, 200, "{host}{path}");
        }
        for host in ["localhost", "localhost:9", "127.0.0.1", "[::1]:8081", "ops.example", &address] {
            assert_eq!(status(&address, path, host, None).await, 200, "{host}{path}");
        }
    }
}

#[tokio::test]
async fn beyond_this_machine_only_with_the_token() {
    let fleet = TestFleet::builder().tenants(&["acme"]).serve().await;
    let address = port(&fleet, |listen| {
        listen.admin = "0.0.0.0:8081".parse().unwrap();
        listen.admin_token = Some(Secret::new(TOKEN));
    })
    .await;
    let right = format!("Bearer {TOKEN}");
    for path in &PATHS[2..] {
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer x",
            "Basic dTpw",
            TOKEN,
            &right[..right.len() - 1],
            &format!("{right}x"),
        ] {
            assert_eq!(status(&address, path, "10.0.0.7", Some(wrong)).await, 401, "{path} {wrong}");
        }
        assert_eq!(status(&address, path, "10.0.0.7", None).await, 401, "{path}");
        assert_eq!(status(&address, path, "10.0.0.7", Some(&right)).await, 200, "{path}");
        assert_eq!(status(&address, path, "evil.example", Some(&right)).await, 403, "{path}");
    }
    // Probes can't always be given a secret.
    for path in &PATHS[..2] {
        assert_eq!(status(&address, path, "10.0.0.7", None).await, 200, "{path}");
    }
}

#[tokio::test]
async fn a_router_that_would_tell_everybody_does_not_start() {
    let fleet = TestFleet::builder().build().await;
    let serve = async |token: &str| {
        let mut command = fleet.program(&["serve"]);
        command.env("MANYBOX__LISTEN__ADMIN", "0.0.0.0:0").env("MANYBOX__LISTEN__ADMIN_TOKEN", token);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = serve("").await;
    assert!(code == Some(1) && said.contains("listen.admin_token_file"), "{said}");
    let (code, said) = serve("guessed").await;
    assert!(code == Some(1) && said.contains("16 characters") && !said.contains("guessed"), "{said}");
    let mut command = fleet.program(&["config"]);
    command.env("MANYBOX__LISTEN__ADMIN_TOKEN", TOKEN);
    let shown = command.output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("admin_token = \"***\"") && !shown.contains(TOKEN), "{shown}");
}
