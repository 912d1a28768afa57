//! Output: tables and sentences for people, JSON for programs, progress for those who wait at a terminal. What a
//! terminal would obey in a database's or a file's words is escaped here, for all commands.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Done, Failure};
use crate::telemetry::printable;

#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub(super) json: bool,
}

impl Output {
    /// Prints a value as JSON, or as the text that `words` makes of it.
    pub(super) fn answer<T: Serialize>(self, value: &T, words: impl FnOnce(&T) -> String) -> Done {
        if self.json {
            self::json(value)?;
        } else {
            line(&words(value));
        }
        Ok(())
    }

    /// Prints rows as a JSON array, or as a table.
    pub(super) fn list<T: Serialize>(
        self,
        rows: &[T],
        columns: &[&str],
        cells: impl Fn(&T) -> Vec<String>,
        none: &str,
    ) -> Done {
        if self.json {
            self::json(rows)?;
        } else if rows.is_empty() {
            line(none);
        } else {
            line(&table(columns, rows.iter().map(cells)));
        }
        Ok(())
    }

    /// Prints what somebody should know besides the answer, on standard error.
    pub(super) fn note(self, text: &str) {
        if self.json {
            eprintln!("{}", printable::json(&serde_json::json!({ "note": text }).to_string()));
        } else {
            eprintln!("manybox: {}", printable::one_line(text));
        }
    }

    /// Prints a failure and gives its exit code.
    pub(super) fn failed(self, failure: &Failure) -> ExitCode {
        if self.json {
            let error = serde_json::json!({ "error": failure.0 }).to_string();
            eprintln!("{}", printable::json(&error));
        } else {
            // Further lines stand indented, so that no message can pass for another of ours.
            eprintln!("manybox: {}", printable::lines(&failure.0).replace('\n', "\n  "));
        }
        ExitCode::from(1)
    }

    /// A bar for `length` pieces of work. Silent when standard error is no terminal.
    pub(super) fn bar(self, length: usize, what: &'static str) -> ProgressBar {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
        let bar = ProgressBar::new(length as u64).with_message(what);
        bar.set_draw_target(self.target());
        style.map_or(bar.clone(), |style| bar.with_style(style))
    }

    /// A spinner for work of unknown length. Silent when standard error is no terminal.
    pub(super) fn spinner(self, what: impl Into<String>) -> ProgressBar {
        let spinner = ProgressBar::new_spinner().with_message(printable::one_line(&what.into()).into_owned());
        spinner.set_draw_target(self.target());
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    }

    fn target(self) -> ProgressDrawTarget {
        if self.json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
    }
}

/// Prints a text of one line or more.
///
/// A reader that went away (`manybox tenant list | head`) is no failure of ours, so this does not panic as `println!`
/// does.
pub(super) fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", printable::lines(text));
}

/// Prints a value as JSON.
fn json<T: Serialize + ?Sized>(value: &T) -> Done {
    let _ = writeln!(std::io::stdout().lock(), "{}", printable::json(&serde_json::to_string_pretty(value)?));
    Ok(())
}

/// Prints a value as JSON on one line. `false` when the reader went away, which ends a stream that has no other end.
pub(super) fn json_line<T: Serialize>(value: &T) -> Result<bool, Failure> {
    let text = serde_json::to_string(value)?;
    Ok(writeln!(std::io::stdout().lock(), "{}", printable::json(&text)).is_ok())
}

/// Puts a text on the cleared terminal, as far as it has room, and a line below it.
pub(super) fn screen(text: &str, below: &str) -> Done {
    // Written at once, so that nothing flickers.
    let terminal = console::Term::buffered_stdout();
    let rows = usize::from(terminal.size().0).saturating_sub(2);
    terminal.clear_screen()?;
    for row in text.lines().take(rows).chain([below]) {
        terminal.write_line(&printable::one_line(row))?;
    }
    Ok(terminal.flush()?)
}

/// A time as programs and people read it: RFC 3339, in whole seconds.
pub(super) fn time(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// Rows under a header, without frames, so that columns can be cut out by other programs.
pub(super) fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    // On an output that is no terminal lines are as long as they are.
    if let Some((_, width)) = console::Term::stdout().size_checked() {
        table.set_width(width);
    }
    table.set_header(columns);
    for row in rows {
        table.add_row(row.iter().map(|cell| printable::one_line(cell)));
    }
    table
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}
