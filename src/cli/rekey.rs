//! `manybox rekey` and `keys`: the fleet's master keys, changed while requests go on, and what becomes of a lost one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;

use super::context::renew_marks;
use super::output::table;
use super::progress::Bar;
use super::{Context, Done, Failure, Output, arguments};
use crate::catalog::{KeyUse, TenantRow};
use crate::fleet::{self, Fleet, Lost, Standing};
use crate::vault::{KeyMisfit, KeyRing, KeyState};

/// Tenants that move at the same time.
const AT_A_TIME: usize = 4;
/// How often tenants are looked for that were created or changed meanwhile.
const ROUNDS: usize = 3;

#[derive(clap::Args)]
pub(super) struct Rekey {
    /// Forget the key before: tokens and passwords made from it end. Run it when everybody who signs tokens has the
    /// new JWT keys (`manybox tenant show SLUG --jwt-key`)
    #[arg(long, conflicts_with = "lost")]
    finish: bool,
    /// The master key is lost: make another, give every login a password of it, and set aside the secrets that can't be
    /// opened any more
    #[arg(long)]
    lost: bool,
    /// How long to wait until every router has said that it has the new key
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = arguments::time)]
    wait: Duration,
}

/// What came of it.
#[derive(Serialize)]
struct Outcome {
    key: i32,
    fingerprint: String,
    /// How many tenants moved.
    tenants: usize,
    finished: bool,
    /// Secrets that nobody can open, and that are set aside.
    lost: Vec<Lost>,
    /// The URLs of webhooks whose secrets nobody can open: they are told no more.
    lost_webhooks: Vec<String>,
    /// What has not moved, one sentence each.
    left: Vec<String>,
}

impl Rekey {
    pub(super) async fn run(self, context: &Context, output: Output) -> Done {
        let keys = Arc::new(self.keys(context, output).await?);
        let fleet =
            Fleet::open_with_any_key(context.settings.clone(), context.servers.clone(), Arc::clone(&keys))
                .await?;
        fleet.introduce_key().await?;
        let spinner = output.spinner("waiting for routers to take up the new key");
        let without = fleet
            .wait_for_routers(self.wait, |routers| {
                spinner.set_message(format!(
                    "waiting for routers to take up the new key: {}",
                    routers.join(", ")
                ));
            })
            .await;
        spinner.finish_and_clear();
        let without = without?;
        if !without.is_empty() {
            return Err(Failure(format!(
                "no tenant was moved, because these routers have not taken up {} within {}: {}. Put the key file of this \
                 machine ({}) on theirs, or stop them; then run `manybox rekey` again",
                told(&keys),
                humantime::format_duration(self.wait),
                without.join(", "),
                keys.place()
            )));
        }
        fleet.promote_key().await?;
        let set_aside = self.lost || fleet.has_lost_key().await?;
        let mut outcome = move_all(&fleet, set_aside, output).await?;
        if outcome.left.is_empty() {
            fleet.end_keys(KeyState::Lost).await?;
            if self.finish {
                fleet.end_keys(KeyState::Former).await?;
                if context.settings.keys.master.is_none() {
                    keys.finished().save(&context.settings.keys.file)?;
                }
                outcome.finished = true;
            }
        }
        let in_file = context.settings.keys.master.is_none();
        output.answer(&outcome, |outcome| words(outcome, keys.is_rotating(), in_file))?;
        if outcome.left.is_empty() {
            return Ok(());
        }
        Err(Failure(format!(
            "not all has moved to {}; what was left works with the key before. Run `manybox rekey` again when what hinders \
             it is mended:\n  {}",
            told(&keys),
            outcome.left.join("\n  ")
        )))
    }

    /// The keys to go on with, the new one first; it is in its file before anybody hears of it.
    async fn keys(&self, context: &Context, output: Output) -> Result<KeyRing, Failure> {
        let settings = &context.settings.keys;
        // One from which no key can be read is as lost as one that is not there.
        let given = KeyRing::is_given(settings) && !(self.lost && KeyRing::unusable(settings).is_some());
        let standing = fleet::standing(&context.settings, &context.servers).await?;
        let known = match &standing {
            Standing::Absent => {
                return Err(Failure(
                    "there is no catalog, so there is nothing to rekey; run `manybox init`".into(),
                ));
            }
            Standing::Untold if self.lost => {
                // Who has the right key after all needs no other.
                let right = match given.then(|| KeyRing::load(settings)).transpose()? {
                    Some(ring) => standing.fits(&context.settings, &context.servers, &ring).await.is_ok(),
                    None => false,
                };
                if right {
                    drop(context.init(output).await?);
                    return Ok(KeyRing::load(settings)?);
                }
                fleet::upgrade_catalog(&context.settings, &context.servers).await?;
                if given {
                    put_by(context, output)?;
                }
                let highest = context.catalog().await?.highest_key().await?;
                return self.another(context, None, highest, output);
            }
            Standing::Untold => {
                // Tells the catalog, if the key is the right one.
                drop(context.init(output).await?);
                context.catalog().await?.master_keys().await?
            }
            Standing::Keys(known) => known.clone(),
        };
        let ring = match (given, self.lost) {
            (true, _) => Some(KeyRing::load(settings)?),
            (false, true) => None,
            (false, false) => {
                return Err(Failure(format!(
                    "there is no master key at `{}`. The catalog expects {}: copy the key file from a machine of this fleet \
                     or from its backup; if it is lost for good, run `manybox rekey --lost`",
                    settings.file.display(),
                    standing.expects()
                )));
            }
        };
        let fit = ring.as_ref().map(|ring| ring.fit(&known));
        let highest = context.catalog().await?.highest_key().await?;
        let is_new = |ring: &KeyRing| {
            let newest = ring.newest();
            let same = known.iter().find(|key| key.fingerprint == newest.fingerprint());
            same.map_or(newest.id() > highest, |key| key.state == KeyState::Introduced)
        };
        match (ring, fit) {
            (Some(ring), Some(Ok(()))) => {
                ring.retain(&known);
                let begun = known.iter().any(|key| matches!(key.state, KeyState::Former | KeyState::Lost));
                if self.lost || self.finish || begun || is_new(&ring) {
                    return Ok(ring);
                }
                self.another(context, Some(ring), highest, output)
            }
            // A rotation that was begun, by an operator or a killed command.
            (Some(ring), Some(Err(KeyMisfit::Begun { .. }))) if is_new(&ring) => {
                ring.retain(&known);
                Ok(ring)
            }
            (Some(ring), Some(Err(KeyMisfit::Begun { .. }))) => Err(Failure(format!(
                "{} has a key that the fleet does not know, with a number that was given before: give it one above {highest}",
                ring.place()
            ))),
            (Some(ring), Some(Err(misfit))) => {
                if !self.lost {
                    return Err(misfit.into());
                }
                let new = is_new(&ring);
                let had = ring.ids().len();
                ring.retain(&known);
                if new {
                    return Ok(ring);
                }
                // What is kept of it is the fleet's; a ring keeps its last key whatever that is.
                let ours = ring.newest();
                let ours = known.iter().any(|key| key.fingerprint == ours.fingerprint());
                if !ours || ring.ids().len() < had {
                    put_by(context, output)?;
                }
                self.another(context, ours.then_some(ring), highest, output)
            }
            _ => self.another(context, None, highest, output),
        }
    }

    /// A ring with a new key on top, in its file.
    fn another(
        &self,
        context: &Context,
        before: Option<KeyRing>,
        highest: i32,
        output: Output,
    ) -> Result<KeyRing, Failure> {
        if context.settings.keys.master.is_some() {
            let next = highest + 1;
            let (what, old) =
                if self.lost { ("NEW", "") } else { ("NEW,OLD", ", and the one before behind it") };
            return Err(Failure(format!(
                "the master key comes from MANYBOX__KEYS__MASTER: give every router and this command {what} there, a new key \
                 (`{next}:$(openssl rand -base64 32)`, made once){old}, then run this again"
            )));
        }
        let ring = match before {
            Some(ring) => ring.rotated(highest + 1)?,
            None => KeyRing::numbered(highest + 1)?,
        };
        let file = &context.settings.keys.file;
        if KeyRing::unusable(&context.settings.keys).is_some() {
            put_by(context, output)?;
        }
        ring.save(file)?;
        let ring = KeyRing::load(&context.settings.keys)?;
        let key = ring.newest();
        output.note(&format!(
            "made master key {} (fingerprint {}) in `{}`: put this file on every router's machine, and back it up",
            key.id(),
            key.fingerprint(),
            file.display()
        ));
        Ok(ring)
    }
}

/// Puts a key file by that is not this fleet's, or has no key: it may be another's, or somebody can mend it.
fn put_by(context: &Context, output: Output) -> Done {
    let file = &context.settings.keys.file;
    if context.settings.keys.master.is_some() || !file.exists() {
        return Ok(());
    }
    let content = match KeyRing::unusable(&context.settings.keys) {
        Some(digest) => digest,
        None => KeyRing::load(&context.settings.keys)?.newest().fingerprint().to_owned(),
    };
    let beside = beside(file, &content);
    std::fs::copy(file, &beside).map_err(|e| Failure(format!("`{}`: {e}", beside.display())))?;
    output.note(&format!("what was in `{}` is kept in `{}`", file.display(), beside.display()));
    Ok(())
}

fn beside(file: &Path, content: &str) -> std::path::PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".before-{content}"));
    file.with_file_name(name)
}

/// Moves the routers' login and every tenant. What can't be moved does not stop the rest.
async fn move_all(fleet: &Fleet, set_aside: bool, output: Output) -> Result<Outcome, Failure> {
    let newest = fleet.keys.newest();
    let mut outcome = Outcome {
        key: newest.id(),
        fingerprint: newest.fingerprint().to_owned(),
        tenants: 0,
        finished: false,
        lost: Vec::new(),
        lost_webhooks: Vec::new(),
        left: Vec::new(),
    };
    let unreached = fleet.rekey_router().await;
    let mut left: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let mut rows = fleet.to_rekey().await?;
        // Not asked again for each of its tenants.
        let away = |row: &TenantRow| !row.record.is_adopted() && unreached.contains_key(&row.record.server);
        rows.retain(|row| !away(row) && !left.contains_key(row.record.slug.as_str()));
        if rows.is_empty() {
            break;
        }
        let bar = Bar::new(output, rows.len(), "rekeying");
        let moved: Vec<_> = stream::iter(&rows)
            .map(|row| async {
                let outcome = fleet.rekey(row, set_aside).await;
                bar.inc();
                (row.record.slug.to_string(), outcome)
            })
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        bar.finish();
        for (slug, moved) in moved {
            match moved {
                Ok(lost) => {
                    outcome.tenants += 1;
                    outcome.lost.extend(lost);
                }
                // It was changed meanwhile, and is looked at again.
                Err(fleet::FleetError::Busy(_)) => {}
                Err(error) => drop(left.insert(slug, error.to_string())),
            }
        }
    }
    // A mark that the former key signed could not be believed any more when that has ended.
    let unmarked = renew_marks(fleet, output).await?;
    let waiting = fleet.to_rekey().await?;
    for (server, error) in unreached {
        let of_server = waiting.iter().filter(|row| row.record.server == server && !row.record.is_adopted());
        let tenants = of_server.count();
        outcome.left.push(format!("server `{server}` with {tenants} tenant(s): {error}"));
    }
    outcome.left.extend(left.into_iter().map(|(slug, why)| format!("tenant `{slug}`: {why}")));
    outcome.left.extend(unmarked);
    for webhook in fleet.catalog.webhooks().await? {
        match fleet.rekey_webhook(&webhook, set_aside).await {
            Ok(true) => outcome.lost_webhooks.push(webhook.url),
            Ok(false) => {}
            Err(error) => outcome.left.push(format!("webhook `{}`: {error}", webhook.id)),
        }
    }
    Ok(outcome)
}

fn told(keys: &KeyRing) -> String {
    let key = keys.newest();
    format!("master key {} (fingerprint {})", key.id(), key.fingerprint())
}

fn words(outcome: &Outcome, is_rotating: bool, in_file: bool) -> String {
    let next = match (outcome.finished, is_rotating, in_file) {
        (true, _, true) => "; the key before is forgotten",
        (true, _, false) => "; the key before has ended: take it out of MANYBOX__KEYS__MASTER",
        (false, true, _) => "; tokens of the key before still hold; end them with `manybox rekey --finish`",
        (false, false, _) => "",
    };
    let key = format!("{} (fingerprint {})", outcome.key, outcome.fingerprint);
    let mut moved = format!("{} tenant(s) moved to master key {key}{next}", outcome.tenants);
    for url in &outcome.lost_webhooks {
        moved.push_str(&format!("\nwebhook {url} is told no more: its secret is lost; make it anew"));
    }
    match lost_words(&outcome.lost) {
        Some(lost) => format!("{moved}\n\n{lost}"),
        None => moved,
    }
}

/// The secrets that are lost, each with the command that sets it anew.
fn lost_words(lost: &[Lost]) -> Option<String> {
    if lost.is_empty() {
        return None;
    }
    let rows = lost.iter().flat_map(|lost| {
        lost.secrets.iter().map(move |name| {
            let anew = match (&lost.adopted, name == crate::vault::PASSWORD) {
                (Some(database), true) => {
                    format!("manybox tenant adopt {} --database {database} --password-file FILE", lost.tenant)
                }
                _ => format!("manybox tenant set {} {name}=@FILE", lost.tenant),
            };
            vec![lost.tenant.clone(), name.clone(), anew]
        })
    });
    let rows = table(&["TENANT", "LOST", "SET IT ANEW BY"], rows);
    Some(format!("sealed with a key that is lost, and set aside; nothing can open them any more:\n{rows}"))
}

/// What `manybox keys` shows.
#[derive(Serialize)]
struct Keys {
    keys: Vec<Line>,
    /// Why the key on this machine can't be used, if it can't.
    misfit: Option<String>,
    lost: Vec<Lost>,
}

#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    key: KeyUse,
    /// Whether this machine has it.
    here: bool,
}

/// Lists the fleet's master keys, also where this machine has a wrong one or none.
pub(super) async fn keys(context: &Context, output: Output) -> Done {
    let (uses, loaded) = (context.catalog().await?.key_uses().await?, KeyRing::load(&context.settings.keys));
    let here = loaded.as_ref().map(KeyRing::fingerprints).unwrap_or_default();
    let known: Vec<_> = uses.iter().map(|key| key.key.clone()).collect();
    let misfit = match &loaded {
        Ok(ring) => ring.fit(&known).err().map(|misfit| misfit.to_string()),
        Err(error) => Some(error.to_string()),
    };
    // Any ring does: nothing is made from it.
    let ring = loaded.or_else(|_| KeyRing::generate())?;
    let fleet =
        Fleet::open_with_any_key(context.settings.clone(), context.servers.clone(), Arc::new(ring)).await?;
    let lines = uses.into_iter().map(|key| Line { here: here.contains(&key.key.fingerprint), key });
    let shown = Keys { keys: lines.collect(), misfit, lost: fleet.lost_secrets().await? };
    output.answer(&shown, |shown| {
        let rows = shown.keys.iter().map(|line| {
            let KeyUse { key, tenants, secrets } = &line.key;
            let here = if line.here { "yes" } else { "no" };
            let (tenants, secrets) = (tenants.to_string(), secrets.to_string());
            vec![
                key.number.to_string(),
                key.fingerprint.clone(),
                key.state.to_string(),
                here.into(),
                tenants,
                secrets,
            ]
        });
        let mut text = table(&["KEY", "FINGERPRINT", "STATE", "HERE", "TENANTS", "SECRETS"], rows);
        if let Some(lost) = lost_words(&shown.lost) {
            text.push_str(&format!("\n\n{lost}"));
        }
        text
    })?;
    match shown.misfit {
        None => Ok(()),
        Some(misfit) => Err(Failure(misfit)),
    }
}
