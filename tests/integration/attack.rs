//! Attacks: what a hostile tenant or caller tries on its neighbours and on manybox, each by its name.

mod admin;
mod answers;
mod bytes;
mod connections;
mod http2;
mod injection;
mod killer;
mod lockout;
mod locks;
mod psql;
mod roles;
mod routes;
pub(crate) mod schema;
mod script;
mod secrets;
mod sessions;
mod smuggling;
mod terminal;
mod tokens;
mod work;

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::TestFleet;

/// Two tenants, each with a row that names it, and a router.
async fn two_tenants(toml: &str) -> TestFleet {
    let mut fleet = TestFleet::builder().toml(toml).tenants(&["acme", "globex"]).build().await;
    for slug in ["acme", "globex"] {
        let row = format!("INSERT INTO items (id, name) VALUES (1, '{slug}-row')");
        fleet.owner(slug).await.batch_execute(&row).await.unwrap();
    }
    fleet.start_router().await;
    fleet
}

/// Sends bytes as they are, for what no client would send, and reads until the server closes.
async fn raw(fleet: &TestFleet, bytes: &[u8]) -> String {
    let address = fleet.url("").replace("http://", "");
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    // A server that has heard enough may close before it has read all.
    let _ = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The statuses of the answers over HTTP/1.
fn statuses(answers: &str) -> Vec<u16> {
    let status = |(at, _)| answers.get(at + 9..at + 12).and_then(|digits: &str| digits.parse().ok());
    answers.match_indices("HTTP/1.").filter_map(status).collect()
}

/// What went otherwise than it should have, each with the attack's name; to be empty.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn check(&mut self, holds: bool, name: &str, found: impl std::fmt::Display) {
        if !holds {
            self.0.push(format!("{name}: {found}"));
        }
    }

    fn none(self) {
        assert!(self.0.is_empty(), "{} attack(s) got through:\n{}", self.0.len(), self.0.join("\n"));
    }
}
