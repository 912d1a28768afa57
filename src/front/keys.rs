//! Keys: keeps a router's master keys those of its key file, and tells the catalog which they are.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::catalog::{CatalogError, KEY_REPORT, Reader};
use crate::settings::Settings;
use crate::vault::KeyRing;

/// How often the key file is looked at, so that neither a rotation nor a wrong key needs a restart.
const FILE_POLL: Duration = Duration::from_secs(1);
/// Longest wait for an answer of the catalog.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until it is aborted. `lessor` is where the catalog is read, and this router's name there.
pub(super) async fn follow(settings: Arc<Settings>, keys: Arc<KeyRing>, lessor: Option<(Reader, String)>) {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut file = Told::default();
    let mut fit = Told::default();
    let mut next_report = Instant::now();
    loop {
        let before = keys.version();
        if settings.keys.master.is_none() {
            let amiss = take_up(&settings, &keys);
            file.tell(amiss.as_deref(), "the key file is as it must be again");
            keys.warn(amiss);
        }
        if keys.version() != before {
            tracing::info!(key = keys.newest().id(), "master keys reloaded");
            next_report = Instant::now();
        }
        if let Some((reader, router)) = &lessor
            && next_report <= Instant::now()
        {
            let reported = report(reader, router, &host, &keys).await;
            // The directory's watch tells of a catalog that is away.
            let soon = if reported.is_ok() { KEY_REPORT } else { FILE_POLL };
            next_report = Instant::now() + soon;
        }
        let misfit = keys.misfit().map(|misfit| misfit.to_string());
        fit.tell(misfit.as_deref(), "the master keys are the fleet's");
        tokio::select! {
            () = sleep(FILE_POLL) => {}
            () = changed(lessor.as_ref()) => next_report = Instant::now(),
        }
    }
}

/// Takes up what the key file has. If that can't be read, or is not the fleet's, tenants are served on with the keys that
/// are here: either it is just being replaced, or an operator has to mend it. Returns what is amiss.
fn take_up(settings: &Settings, keys: &KeyRing) -> Option<String> {
    match KeyRing::load(&settings.keys) {
        Ok(ring) => {
            keys.take_up(&ring);
            keys.misfit_of(&ring).map(|misfit| misfit.to_string())
        }
        Err(error) => Some(error.to_string()),
    }
}

async fn report(reader: &Reader, router: &str, host: &str, keys: &KeyRing) -> Result<(), CatalogError> {
    let asked = timeout(ANSWER_TIMEOUT, reader.report_keys(router, host, &keys.fingerprints())).await;
    match asked {
        Ok(Ok(known)) => {
            keys.hear(known);
            Ok(())
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "the catalog was not told of the master keys");
            Err(error)
        }
        Err(_) => Err(CatalogError::Row("no answer".into())),
    }
}

/// Says that this router has no keys any more, if the catalog can be reached.
pub(super) async fn end(reader: &Reader, router: &str) {
    // Whoever waits for it waits a little longer.
    let _: Result<Result<(), CatalogError>, _> = timeout(ANSWER_TIMEOUT, reader.forget_keys(router)).await;
}

async fn changed(lessor: Option<&(Reader, String)>) {
    match lessor {
        Some((reader, _)) => reader.keys_changed().await,
        None => std::future::pending().await,
    }
}

/// What was said last, so that the log has it once.
#[derive(Default)]
struct Told(Option<String>);

impl Told {
    fn tell(&mut self, amiss: Option<&str>, mended: &str) {
        if amiss == self.0.as_deref() {
            return;
        }
        match amiss {
            Some(amiss) => tracing::error!("{amiss}"),
            None => tracing::info!("{mended}"),
        }
        self.0 = amiss.map(str::to_owned);
    }
}
