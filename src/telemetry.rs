//! Telemetry: the set-up of what manybox says about itself while it runs.

use tracing_subscriber::EnvFilter;

/// Sends log lines to standard error: standard output belongs to a command's answer.
///
/// `RUST_LOG` filters (default `manybox=info,warn`). `json` writes one JSON object a line, for log collectors.
/// Called once by a process; a second call is ignored, so that tests may call it too.
pub fn init(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("manybox=info,warn"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = if json { subscriber.json().try_init() } else { subscriber.compact().try_init() };
}
