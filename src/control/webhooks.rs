//! Webhooks: what happens to tenants and rollouts, told to other services: signed as standard-webhooks has it, in order, at
//! least once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ring::hmac;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinHandle;

use super::jobs::Jobs;
use super::outgoing::{Answer, Inside, Outgoing};
use crate::catalog::{CatalogError, Happened, WebhookRow};
use crate::fleet::Fleet;
use crate::policy::Secret;

/// How often it is looked whether there is something to tell.
const LOOK: Duration = Duration::from_secs(1);
/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(3 * 3600);
/// Tries of one message: over four days of them.
const MAX_TRIES: i32 = 45;
/// So that receivers' libraries know one.
const PREFIX: &str = "whsec_";

/// Tells receivers, until the jobs are stopped. Each has a task of its own, so that none waits for another.
pub(super) fn start(fleet: Fleet, jobs: Jobs) {
    let outgoing = Arc::new(Outgoing::default());
    tokio::spawn(async move {
        // Those who are being told: as many as there are webhooks at most.
        let mut told: HashMap<String, JoinHandle<()>> = HashMap::new();
        while jobs.goes_on_for(LOOK).await {
            let Ok(seat) = jobs.seat().await else { continue };
            // Only what has a place in the chain is told.
            if let Err(error) = fleet.catalog.journal_seal().await {
                tracing::warn!(%error, "lines of the journal can't be chained; trying again");
            }
            told.retain(|_, task| !task.is_finished());
            let at: Vec<_> = told.keys().cloned().collect();
            match fleet.catalog.webhooks_claim(seat, &at).await {
                Ok(due) => told.extend(due.into_iter().map(|webhook| {
                    let (fleet, outgoing, id) = (fleet.clone(), Arc::clone(&outgoing), webhook.id.clone());
                    let task = tokio::spawn(async move {
                        if let Err(error) = tell(&fleet, &outgoing, &webhook).await {
                            tracing::warn!(%error, webhook = webhook.id, "a webhook's receiver can't be told");
                        }
                    });
                    (id, task)
                })),
                Err(error) => tracing::warn!(%error, "webhooks can't be looked for; trying again"),
            }
        }
    });
}

/// Tells one receiver what it has not heard, one message after the other.
async fn tell(fleet: &Fleet, outgoing: &Outgoing, webhook: &WebhookRow) -> Result<(), CatalogError> {
    let catalog = &fleet.catalog;
    let secret = match fleet.open_webhook(webhook) {
        Ok(secret) => secret,
        // The key may be here in a moment, or the secret sealed anew.
        Err(why) => {
            let again = (webhook.tries + 1 < MAX_TRIES).then(|| wait(webhook.tries));
            return catalog.webhook_failed(&webhook.id, &why.to_string(), again).await;
        }
    };
    let happened = catalog.happened(webhook.position).await?;
    let mut heard = webhook.position;
    for one in &happened {
        let kind = kind(one);
        if let Some(kind) = kind.filter(|kind| webhook.events.is_empty() || webhook.events.contains(kind)) {
            let body = message(&kind, one).to_string().into_bytes();
            let headers = signed(&secret, one.position, OffsetDateTime::now_utc(), &body);
            let inside = Inside::of_webhooks(&fleet.settings.control);
            let failure = match outgoing.post(&webhook.url, headers, body, inside).await {
                Ok(Answer { status: 200..=299, .. }) => None,
                Ok(Answer { status, .. }) => Some(format!("it answered {status}")),
                Err(why) => Some(why),
            };
            if let Some(failure) = failure {
                if heard > webhook.position {
                    catalog.webhook_heard(&webhook.id, heard).await?;
                }
                let tries = if heard > webhook.position { 0 } else { webhook.tries };
                let again = (tries + 1 < MAX_TRIES).then(|| wait(tries));
                return catalog.webhook_failed(&webhook.id, &failure, again).await;
            }
        }
        heard = one.position;
    }
    if heard > webhook.position {
        catalog.webhook_heard(&webhook.id, heard).await?;
    }
    Ok(())
}

/// How long to wait after this many tries.
fn wait(tries: i32) -> Duration {
    let seconds = 2_u64.saturating_pow(u32::try_from(tries).unwrap_or(0).min(20)).saturating_mul(2);
    Duration::from_secs(seconds).min(LONGEST_WAIT)
}

/// The kind of an event: `tenant.suspend`, `rollout.halted`. `None` for what concerns nobody outside.
pub(super) fn kind(happened: &Happened) -> Option<String> {
    let action = happened.action.as_str();
    if let Some(what) = action.strip_prefix("rollout-") {
        return Some(format!("rollout.{what}"));
    }
    let is_word = action.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    (happened.tenant.is_some() && is_word).then(|| format!("tenant.{action}"))
}

fn message(kind: &str, happened: &Happened) -> Value {
    let tenant = happened.tenant.as_ref().map(|(id, slug)| json!({ "id": id, "slug": slug }));
    json!({
        "type": kind,
        "timestamp": happened.at.format(&Rfc3339).unwrap_or_default(),
        "data": {
            "tenant": tenant, "detail": happened.detail,
            "operator": happened.act.as_ref().map(|act| &act.operator),
        },
    })
}

/// The headers of a message: its id is the same each time it is sent.
fn signed(secret: &Secret, position: i64, at: OffsetDateTime, body: &[u8]) -> HeaderMap {
    let (id, at) = (format!("msg_{position}"), at.unix_timestamp().to_string());
    let key = STANDARD.decode(secret.expose().trim_start_matches(PREFIX)).unwrap_or_default();
    let signed = [id.as_bytes(), b".", at.as_bytes(), b".", body].concat();
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed);
    let signature = format!("v1,{}", STANDARD.encode(signature));
    let mut headers = HeaderMap::new();
    for (name, value) in [("webhook-id", id), ("webhook-timestamp", at), ("webhook-signature", signature)] {
        // Letters, digits and a few signs, all of which a header may have.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
        .insert(header::USER_AGENT, HeaderValue::from_static(concat!("manybox/", env!("CARGO_PKG_VERSION"))));
    headers
}

/// A new webhook's secret.
pub(super) fn new_secret() -> Result<Secret, crate::policy::Invalid> {
    let mut bytes = zeroize::Zeroizing::new([0_u8; 32]);
    getrandom::fill(&mut bytes[..])
        .map_err(|e| crate::policy::Invalid(format!("no random bytes from the operating system: {e}")))?;
    Ok(Secret::new(format!("{PREFIX}{}", STANDARD.encode(&bytes[..]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the standard-webhooks specification.
    #[test]
    fn messages_are_signed_as_the_standard_has_it() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let at = OffsetDateTime::from_unix_timestamp(1_614_265_330).unwrap();
        let headers = signed(&secret, 7, at, b"{\"test\": 2432232314}");
        let expected =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), b"msg_7.1614265330.{\"test\": 2432232314}");
        assert_eq!(headers["webhook-signature"], format!("v1,{}", STANDARD.encode(expected)));
        assert_eq!(
            (&headers["webhook-id"], &headers["webhook-timestamp"]),
            (&"msg_7".parse().unwrap(), &"1614265330".parse().unwrap())
        );
    }

    #[test]
    fn waits_grow_and_end() {
        assert_eq!(
            (wait(0), wait(3), wait(60)),
            (Duration::from_secs(2), Duration::from_secs(16), LONGEST_WAIT)
        );
    }
}
