//! `manybox init`, `config` and `rekey`: setting an installation up, and changing its master key.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::output::line;
use super::{Context, Done, Failure, Output};
use crate::fleet::Fleet;
use crate::settings::Settings;
use crate::vault::KeyRing;

/// How long routers get to read a changed key file: they look every second.
const KEY_FILE_NOTICE: Duration = Duration::from_secs(3);

pub(super) async fn init(context: &Context, output: Output) -> Done {
    context.init(output).await?;
    let place = &context.settings.catalog;
    let answer = serde_json::json!({ "catalog": place.database, "server": place.server });
    output.answer(&answer, |_| {
        format!("catalog `{}` on server `{}` is ready; next: manybox apply", place.database, place.server)
    })
}

pub(super) fn config(settings: &Settings, output: Output) -> Done {
    let text = settings.masked_toml()?;
    if output.json {
        let value: toml::Value = toml::from_str(&text)?;
        return output.answer(&value, |_| String::new());
    }
    line(text.trim_end());
    Ok(())
}

#[derive(clap::Args)]
pub(super) struct Rekey {
    /// Forget the key before: tokens and passwords made from it end. Run it when everybody who signs tokens has the
    /// new JWT keys (`manybox tenant show SLUG --jwt-key`)
    #[arg(long)]
    finish: bool,
}

impl Rekey {
    pub(super) async fn run(self, context: &Context, output: Output) -> Done {
        let keys = KeyRing::load(&context.settings.keys)?;
        let in_file = context.settings.keys.master.is_none();
        let file = &context.settings.keys.file;
        if !in_file && !keys.is_rotating() {
            return Err(Failure(
                "the master key comes from MANYBOX__KEYS__MASTER: give every router and this command NEW,OLD there \
                 (`NUMBER:BASE64,NUMBER:BASE64`, the higher number is the newer), then run this again"
                    .into(),
            ));
        }
        let keys = if keys.is_rotating() || self.finish {
            keys
        } else {
            let rotated = keys.rotated()?;
            rotated.save(file)?;
            // Routers must know the new key before the first tenant's password is made from it.
            let spinner = output.spinner("waiting for routers to read the new key");
            tokio::time::sleep(KEY_FILE_NOTICE).await;
            spinner.finish_and_clear();
            rotated
        };
        let keys = Arc::new(keys);
        let fleet = Fleet::open(context.settings.clone(), context.servers.clone(), Arc::clone(&keys)).await?;
        fleet.rekey_router().await?;
        let rows = fleet.to_rekey().await?;
        let bar = output.bar(rows.len(), "rekeying");
        stream::iter(&rows)
            .map(|row| async {
                let outcome = fleet.rekey(row).await;
                bar.inc(1);
                outcome
            })
            .buffer_unordered(4)
            .try_collect::<Vec<()>>()
            .await?;
        bar.finish_and_clear();
        if self.finish && in_file {
            keys.finished().save(file)?;
        }
        let answer =
            serde_json::json!({ "key": keys.newest().id(), "tenants": rows.len(), "finished": self.finish });
        output.answer(&answer, |_| {
            let next = if self.finish {
                "the key before is forgotten"
            } else {
                "tokens of the key before still hold; end them with `manybox rekey --finish`"
            };
            format!("{} tenant(s) moved to master key {}; {next}", rows.len(), keys.newest().id())
        })
    }
}
