//! A running router, asked with what it must refuse: another tenant's token, another tenant's host name.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Outcome, of_tenant};
use crate::catalog::TenantRow;
use crate::fleet::Fleet;
use crate::rest::sign_token;
use crate::tenant::BaseUrl;

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read, bytes: that of an error.
const MAX_ANSWER: usize = 64 * 1024;
/// How long the tokens hold that are tried.
const TOKEN: Duration = Duration::from_secs(300);
/// Requests at the same time.
const AT_A_TIME: usize = 4;
/// What is asked for: nothing that any schema has, so that a token that is let through makes no work.
const NOTHING: &str = "/rest/v1/manybox_verify";

/// What came back.
struct Answer {
    status: u16,
    /// The `code` of an error.
    code: String,
}

/// Asks for every tenant of these, in turn with its neighbour's credentials and name.
pub(super) async fn ask(fleet: &Fleet, address: &str, rows: &[&TenantRow]) -> Outcome {
    let mut outcome = Outcome::default();
    if let Err(error) = TcpStream::connect(address).await {
        outcome.left_out.push(format!("the router (V40, V41): nobody answers at {address}: {error}"));
        return outcome;
    }
    let served: Vec<_> = rows.iter().copied().filter(|row| row.record.is_served()).collect();
    if served.len() < 2 {
        outcome.left_out.push("the router (V40, V41): it takes two tenants in service".into());
        return outcome;
    }
    let pairs = served.iter().zip(served.iter().cycle().skip(1));
    let mut asked =
        stream::iter(pairs).map(|(row, next)| pair(fleet, address, row, next)).buffer_unordered(AT_A_TIME);
    while let Some(one) = asked.next().await {
        outcome.add(one);
    }
    outcome
}

async fn pair(fleet: &Fleet, address: &str, row: &TenantRow, next: &TenantRow) -> Outcome {
    let mut outcome = Outcome::default();
    let slug = &row.record.slug;
    // Of adopted tenants, whoever holds their secret signs tokens.
    if let (Some(token), Some(url)) = (token(fleet, next), row.record.base_urls.first()) {
        outcome.tried("V40", 1);
        let path = format!("{}{NOTHING}", url.prefix.as_str());
        match request(address, url.host.as_str(), &path, &token).await {
            Ok(Answer { status: 401, .. }) => {}
            Ok(answer) if answer.says_nothing() => outcome.left_out.push(format!("`{slug}` at {url}: {}", answer.words())),
            Ok(answer) => outcome.findings.push(of_tenant(
                row,
                "V40",
                format!("{url} answers a token of `{}` with {}", next.record.slug, answer.words()),
                "take the router out of service, and compare its master key and its version with this command's".into(),
            )),
            Err(error) => outcome.left_out.push(format!("`{slug}` at {url}: {error}")),
        }
    }
    let prefixed = row.record.base_urls.iter().find(|url| !url.prefix.as_str().is_empty());
    if let (Some(token), Some(url)) = (token(fleet, row), prefixed)
        && let Some(other) = next.record.base_urls.iter().find(|other| leads_elsewhere(row, url, other))
    {
        outcome.tried("V41", 1);
        let path = format!("{}{NOTHING}", url.prefix.as_str());
        match request(address, other.host.as_str(), &path, &token).await {
            // Refused by the tenant whose host it is, or unknown to the router.
            Ok(Answer { status: 401, .. }) => {}
            Ok(answer) if answer.status == 404 && !answer.is_of_a_tenant() => {}
            Ok(answer) if answer.says_nothing() => {
                outcome.left_out.push(format!("`{slug}` at {other}: {}", answer.words()))
            }
            Ok(answer) => outcome.findings.push(of_tenant(
                row,
                "V41",
                format!("{}{} leads to `{slug}`: {}", other.host, url.prefix.as_str(), answer.words()),
                "take the router out of service, and see its base URLs by `manybox tenant list`".into(),
            )),
            Err(error) => outcome.left_out.push(format!("`{slug}` at {other}: {error}")),
        }
    }
    outcome
}

/// Whether the prefix of one under the host of the other is no base URL of the first.
fn leads_elsewhere(row: &TenantRow, url: &BaseUrl, other: &BaseUrl) -> bool {
    other.host != url.host
        && !row
            .record
            .base_urls
            .iter()
            .any(|own| own.host == other.host && (own.prefix == url.prefix || own.prefix.as_str().is_empty()))
}

impl Answer {
    /// Whether it tells neither that the token was taken nor that it was refused.
    fn says_nothing(&self) -> bool {
        self.status >= 500 || self.status == 429 || (self.status == 404 && !self.is_of_a_tenant())
    }

    /// Whether a tenant's API gave it, and not the router in front of all.
    fn is_of_a_tenant(&self) -> bool {
        self.code.starts_with("PGRST")
    }

    fn words(&self) -> String {
        format!("{} {}", self.status, self.code)
    }
}

/// A token of the tenant, if manybox made its key.
fn token(fleet: &Fleet, row: &TenantRow) -> Option<String> {
    if row.record.is_adopted() {
        return None;
    }
    let roles = fleet.settings.tenant(row.record.clone()).api.roles;
    let role = roles.iter().find(|role| *role == "authenticated").or(roles.first())?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    let claims = serde_json::json!({ "role": role, "exp": (now + TOKEN).as_secs() });
    Some(sign_token(&claims, &fleet.keys.newest().jwt_key(&row.record)))
}

async fn request(address: &str, host: &str, path: &str, token: &str) -> Result<Answer, String> {
    let asked = async {
        let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        // Ends with the sender.
        tokio::spawn(connection);
        let request = hyper::Request::get(path)
            .header("host", host)
            .header("authorization", format!("Bearer {token}"))
            .header("connection", "close")
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let error: Value = serde_json::from_slice(&body).unwrap_or_default();
        Ok(Answer { status, code: error["code"].as_str().unwrap_or_default().to_owned() })
    };
    match timeout(ANSWER_TIMEOUT, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
    }
}
