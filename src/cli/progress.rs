//! Progress: at a terminal a bar or a spinner; elsewhere a line for each thing that happens, and now and then how far it is.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Output;
use crate::fleet::Progress;
use crate::telemetry::printable;

/// How often it is told how far long work is where nobody sees a bar.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How far work on several things is.
pub(super) struct Bar {
    output: Output,
    what: String,
    bar: ProgressBar,
    begun: Instant,
    told: Mutex<Instant>,
}

impl Bar {
    pub(super) fn new(output: Output, length: usize, what: &str) -> Self {
        let bar = ProgressBar::new(length as u64).with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
            bar.set_style(style);
        }
        bar.set_draw_target(output.draw_target());
        let now = Instant::now();
        Self { output, what: what.to_owned(), bar, begun: now, told: Mutex::new(now) }
    }

    /// One more is done.
    pub(super) fn inc(&self) {
        self.bar.inc(1);
        self.tell();
    }

    /// What is done now.
    pub(super) fn set_message(&self, what: String) {
        self.bar.set_message(printable::one_line(&what).into_owned());
        self.tell();
    }

    /// Says what happened to one of them.
    pub(super) fn event(&self, text: &str) {
        match self.is_seen() {
            true => self.bar.println(printable::one_line(text)),
            false => self.output.note(text),
        }
    }

    /// Whether somebody sees the bar.
    pub(super) fn is_seen(&self) -> bool {
        !self.bar.is_hidden()
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn tell(&self) {
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
        if !self.is_seen() && done < all && is_time(&self.told) {
            let left = left(self.begun.elapsed(), done, all).map(|left| format!(", about {left} left"));
            self.output.note(&format!("{}: {done} of {all}{}", self.what, left.unwrap_or_default()));
        }
    }
}

/// How far a backup, a restore or a clone of one tenant is.
pub(super) struct Stages {
    output: Output,
    what: String,
    bar: ProgressBar,
    told: Mutex<(&'static str, Instant)>,
}

impl Stages {
    pub(super) fn new(output: Output, what: String) -> Self {
        let bar = output.spinner(what.clone());
        Self { output, what, bar, told: Mutex::new(("", Instant::now())) }
    }

    pub(super) fn show(&self, progress: Progress) {
        let mut told = lock(&self.told);
        let is_new = told.0 != progress.stage();
        if is_new || told.1.elapsed() >= TOLD_EVERY {
            *told = (progress.stage(), Instant::now());
            if self.bar.is_hidden() {
                self.output.note(&format!("{}: {progress}", self.what));
            }
        }
        if is_new {
            let template = match progress.bytes() {
                Some((_, Some(_))) => "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {eta}",
                Some((_, None)) => "{spinner} {msg} {decimal_bytes} in {elapsed}",
                None => "{spinner} {msg}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style);
            }
            let message = format!("{}: {}", self.what, progress.stage());
            self.bar.set_message(printable::one_line(&message).into_owned());
            self.bar.reset_eta();
        }
        if let Some((bytes, of)) = progress.bytes() {
            of.into_iter().for_each(|of| self.bar.set_length(of));
            self.bar.set_position(bytes);
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Whether it was long ago that something was told, and is being told now.
fn is_time(told: &Mutex<Instant>) -> bool {
    let mut told = lock(told);
    let is_time = told.elapsed() >= TOLD_EVERY;
    if is_time {
        *told = Instant::now();
    }
    is_time
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long the rest takes when it goes on as before, in whole seconds.
fn left(elapsed: Duration, done: u64, all: u64) -> Option<humantime::FormattedDuration> {
    let seconds = elapsed.as_secs().checked_mul(all.saturating_sub(done))?.checked_div(done)?;
    Some(humantime::format_duration(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_as_long_as_what_was_done() {
        let left = |done, all| left(Duration::from_secs(90), done, all).map(|left| left.to_string());
        assert_eq!(left(50, 100).as_deref(), Some("1m 30s"));
        assert_eq!(left(100, 100).as_deref(), Some("0s"));
        assert_eq!(left(0, 100), None, "nobody knows yet");
    }
}
