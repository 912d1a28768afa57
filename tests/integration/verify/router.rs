//! A running router, and a false one.

use std::io::{Read as _, Write as _};

use manybox::verify::{Request, Scope, Verification, verify};

use super::Own;
use crate::support::TestFleet;

async fn asked(fleet: &TestFleet, router: &str) -> Verification {
    let request = Request { scope: Scope::All, router: Some(router.to_owned()) };
    verify(&fleet.fleet, &request, |_| ()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_keeps_tenants_apart_is_green() {
    let mut own = Own::make().await;
    own.fleet.start_router().await;
    let address = own.fleet.url("").trim_start_matches("http://").to_owned();
    let verification = asked(&own.fleet, &address).await;
    assert!(verification.is_green(), "{:#?}", verification.findings);
    assert_eq!(verification.left_out, [""; 0]);
    assert_eq!((verification.tried["V40"], verification.tried["V41"]), (3, 3));
}

/// One that takes any token, and answers by path whatever the host is.
#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_takes_any_token_is_found() {
    let own = Own::make().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.read(&mut [0; 4096]);
            let body = r#"{"code":"PGRST205"}"#;
            let head = "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\nconnection: close\r\n";
            let _ =
                stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
        }
    });
    let found = asked(&own.fleet, &address).await.findings;
    let count = |code| found.iter().filter(|f| f.code == code).count();
    assert_eq!((count("V40"), count("V41"), found.len()), (3, 3, 6), "{found:#?}");
}
