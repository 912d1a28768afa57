//! Webhooks: told in order, at least once, signed, and to nobody inside.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Service;
use crate::support::{TestFleet, eventually};

/// What a receiver was sent: head and body.
type Heard = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A receiver that refuses the first messages.
async fn receiver(refuses: usize) -> (std::net::SocketAddr, Heard) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, heard) = (listener.local_addr().unwrap(), Heard::default());
    let told = Arc::clone(&heard);
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            let (head, body) = loop {
                let mut buffer = [0; 4096];
                let read = socket.read(&mut buffer).await.unwrap_or(0);
                bytes.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
                let Some(end) = text.find("\r\n\r\n") else { continue };
                let length = text
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
                let body = &bytes[end + 4..];
                if body.len() >= length.unwrap_or(0) {
                    break (text[..end].to_owned(), body.to_vec());
                }
            };
            count += 1;
            let status = if count <= refuses {
                "302 Found\r\nlocation: http://127.0.0.1:1/"
            } else {
                "204 No Content"
            };
            if count > refuses {
                told.lock().unwrap().push((head, body));
            }
            let _ =
                socket.write_all(format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n").as_bytes()).await;
        }
    });
    (address, heard)
}

#[tokio::test]
async fn what_happens_is_told_in_order_and_signed() {
    let fleet = TestFleet::builder()
        .toml("[control]\nwebhook_networks = ['127.0.0.0/8']")
        .tenants(&["acme"])
        .build()
        .await;
    let service = Service::start(&fleet).await;
    let (address, heard) = receiver(1).await;
    let new =
        json!({ "url": format!("http://{address}/hook?a=b"), "events": ["tenant.suspend", "tenant.resume"] });
    let added = service.send(&service.owner, Method::POST, "/v1/webhooks", &new).await;
    assert_eq!(added.status, 201, "{}", added.text);
    let secret = added.json()["secret"].as_str().unwrap().to_owned();
    for verb in ["suspend", "resume", "suspend"] {
        let path = format!("/v1/tenants/acme/{verb}");
        assert_eq!(service.send(&service.owner, Method::POST, &path, &json!({})).await.status, 200);
    }
    eventually("all are told", || async { heard.lock().unwrap().len() >= 3 }).await;
    let heard = heard.lock().unwrap().clone();
    let kinds: Vec<_> = heard
        .iter()
        .map(|(_, body)| serde_json::from_slice::<Value>(body).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, ["tenant.suspend", "tenant.resume", "tenant.suspend"]);
    let (head, body) = &heard[0];
    let of = |name: &str| {
        head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap().to_owned()
    };
    assert!(head.starts_with("post /hook?a=b http/1.1"), "{head}");
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let signed = [of("webhook-id").as_bytes(), b".", of("webhook-timestamp").as_bytes(), b".", body].concat();
    let expected = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key), &signed);
    assert_eq!(of("webhook-signature"), format!("v1,{}", STANDARD.encode(expected)).to_ascii_lowercase());
    let data = serde_json::from_slice::<Value>(body).unwrap();
    assert_eq!((&data["data"]["tenant"]["slug"], &data["data"]["operator"]), (&json!("acme"), &json!("ada")));
    // The secret was told once.
    let listed = service.get(&service.owner, "/v1/webhooks").await;
    assert!(!listed.text.contains("whsec_") && !listed.text.contains("sealed"), "{}", listed.text);
    let id = listed.json()["webhooks"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        service.send(&service.owner, Method::DELETE, &format!("/v1/webhooks/{id}"), &json!({})).await.status,
        204
    );
}

/// A receiver that takes all and answers nothing.
async fn silent() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            held.push(socket);
        }
    });
    address
}

#[tokio::test]
async fn a_silent_receiver_holds_up_no_other_and_a_rotation_changes_no_signature() {
    let fleet = TestFleet::builder()
        .toml("[control]\nwebhook_networks = ['127.0.0.0/8']")
        .tenants(&["acme"])
        .build()
        .await;
    let service = Service::start(&fleet).await;
    // Plain http goes to the allowed network alone.
    let elsewhere = json!({ "url": "http://1.1.1.1/" });
    assert_eq!(service.send(&service.owner, Method::POST, "/v1/webhooks", &elsewhere).await.status, 422);
    let (address, heard) = receiver(0).await;
    let mut secrets = Vec::new();
    for address in [silent().await, address] {
        let new =
            json!({ "url": format!("http://{address}/"), "events": ["tenant.suspend", "tenant.resume"] });
        let added = service.send(&service.owner, Method::POST, "/v1/webhooks", &new).await;
        secrets.push(added.json()["secret"].as_str().unwrap().to_owned());
    }
    let told = async |verb: &str, count: usize| {
        let path = format!("/v1/tenants/acme/{verb}");
        assert_eq!(service.send(&service.owner, Method::POST, &path, &json!({})).await.status, 200);
        eventually("it is told", || async { heard.lock().unwrap().len() == count }).await;
    };
    told("suspend", 1).await;
    told("resume", 2).await;

    for arguments in [&["rekey"][..], &["rekey", "--finish"]] {
        let (code, _, error) = fleet.run(arguments).await;
        assert_eq!(code, 0, "{error}");
    }
    let newest = fleet.fleet.keys.clone();
    eventually("the service has the new key alone", || async { newest.ids() == [2] }).await;
    assert!(fleet.fleet.catalog.webhooks().await.unwrap().iter().all(|w| w.sealed.starts_with("2:")));
    told("suspend", 3).await;
    let (head, body) = heard.lock().unwrap()[2].clone();
    let of = |name: &str| head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap();
    let key = STANDARD.decode(secrets[1].strip_prefix("whsec_").unwrap()).unwrap();
    let signed =
        [of("webhook-id").as_bytes(), b".", of("webhook-timestamp").as_bytes(), b".", &body].concat();
    let expected = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key), &signed);
    assert_eq!(of("webhook-signature"), format!("v1,{}", STANDARD.encode(expected)).to_ascii_lowercase());
}

#[tokio::test]
async fn no_webhook_reaches_inside() {
    let fleet = TestFleet::builder().tenants(&["acme"]).build().await;
    let service = Service::start(&fleet).await;
    for url in [
        "http://127.0.0.1/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest",
        "https://10.0.0.1/",
        "https://[::ffff:127.0.0.1]/",
        "http://hooks.example/",
        "https://a@hooks.example/",
        "gopher://x/",
        "",
    ] {
        let added = service.send(&service.owner, Method::POST, "/v1/webhooks", &json!({ "url": url })).await;
        assert_eq!(added.status, 422, "{url}");
    }
    // A name that leads inside is found out when it is asked for.
    let (address, heard) = receiver(0).await;
    let url = format!("https://localhost:{}/", address.port());
    assert_eq!(
        service.send(&service.owner, Method::POST, "/v1/webhooks", &json!({ "url": url })).await.status,
        201
    );
    assert_eq!(
        service.send(&service.owner, Method::POST, "/v1/tenants/acme/suspend", &json!({})).await.status,
        200
    );
    eventually("it is refused", || async {
        let webhooks = fleet.fleet.catalog.webhooks().await.unwrap();
        webhooks[0].failure.as_ref().is_some_and(|why| why.contains("webhook_networks"))
    })
    .await;
    assert_eq!(heard.lock().unwrap().len(), 0);
}
