//! Telemetry: what manybox says about itself while it runs: log lines, metrics, each tenant's traffic.

mod latencies;
mod metrics;
mod notes;
pub mod printable;
mod trace_context;
mod traffic;

pub use latencies::Latencies;
pub use metrics::{Metrics, Outcome, Stage};
pub use notes::{Cause, Lap, Noted, Notes};
pub use trace_context::TraceContext;
pub use traffic::{Flow, TenantTraffic, Traffic};

use std::io::{self, IsTerminal as _};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

use printable::{JsonLines, PrintableFields};

/// Sends log lines to standard error: standard output belongs to a command's answer.
///
/// `RUST_LOG` filters; without it warnings are shown, and in a `service`, whose log is all that is seen of it, what
/// it does as well. `json` writes one JSON object a line, for log collectors. Called once by a process; a second call
/// is ignored, so that tests may call it too.
pub fn init(service: bool, json: bool) {
    let terminal = std::io::stderr().is_terminal();
    let _ = subscriber(service, json, terminal, || Forgiving(std::io::stderr())).try_init();
}

/// What can't be written is lost: a terminal that was closed, or a full disk, must not end what is logged about.
struct Forgiving<W>(W);

impl<W: io::Write> io::Write for Forgiving<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.0.write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// What [`init`] sets up. Values of a database, a header or a file reach no terminal as they are: here, for all of them.
fn subscriber<W, M>(service: bool, json: bool, colours: bool, writer: M) -> Box<dyn Subscriber + Send + Sync>
where
    W: std::io::Write,
    M: Fn() -> W + Send + Sync + 'static,
    for<'a> M: MakeWriter<'a>,
{
    // A command tells of failed migrations itself, at its end, and not across its progress bar.
    let usual = if service { "manybox=info,warn" } else { "warn,manybox::migrate=error" };
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    // Below that the driver writes statements with their values, what somebody gave as a key or a name among them.
    if let Ok(driver) = "tokio_postgres=warn".parse() {
        filter = filter.add_directive(driver);
    }
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    if json {
        return Box::new(subscriber.json().with_writer(move || JsonLines(writer())).finish());
    }
    Box::new(subscriber.compact().fmt_fields(PrintableFields).with_writer(writer).finish())
}
