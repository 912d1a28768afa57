//! `manybox init` and `config`: setting an installation up.

use super::output::line;
use super::{Context, Done, Output};
use crate::settings::Settings;

pub(super) async fn init(context: &Context, output: Output) -> Done {
    let initialised = context.init(output).await?;
    let (place, key) = (&context.settings.catalog, initialised.fleet.keys.newest());
    let answer = serde_json::json!({
        "catalog": place.database, "server": place.server, "left": initialised.left,
        "key": { "number": key.id(), "fingerprint": key.fingerprint() },
    });
    output.answer(&answer, |_| {
        format!("catalog `{}` on server `{}` is ready; next: manybox apply", place.database, place.server)
    })?;
    initialised.whole()
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
