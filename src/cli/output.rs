//! Output: tables and sentences for people, JSON for programs, progress for those who wait at a terminal. What a
//! terminal would obey in a database's or a file's words is escaped here, for all commands.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::{Cell, ContentArrangement, Row, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;

use super::{Done, Failure};
pub(super) use crate::fleet::moment as time;
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

    /// A spinner for work of unknown length. Silent when standard error is no terminal.
    pub(super) fn spinner(self, what: impl Into<String>) -> ProgressBar {
        let spinner = ProgressBar::new_spinner().with_message(printable::one_line(&what.into()).into_owned());
        spinner.set_draw_target(self.draw_target());
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    }

    /// Where bars are drawn, if anywhere.
    pub(super) fn draw_target(self) -> ProgressDrawTarget {
        if self.json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
    }
}

fn one_line<T: Into<Cell>>(cells: impl IntoIterator<Item = T>) -> Row {
    let mut row = Row::from(cells);
    row.max_height(1);
    row
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

/// Rows under a header, without frames, so that columns can be cut out by other programs. At a terminal they fit into it;
/// elsewhere lines are as long as they are.
pub(super) fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let width = console::Term::stdout().size_checked().map(|(_, width)| width);
    arranged(columns, rows, width)
}

/// A table of this width. What has no room is cut off where a row has only names, which takes one line then; sentences,
/// which nobody could guess the end of, are broken between words.
fn arranged(columns: &[&str], rows: impl Iterator<Item = Vec<String>>, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_truncation_indicator("…");
    if let Some(width) = width {
        table.set_width(width);
    }
    table.set_header(one_line(columns));
    for row in rows {
        let cells = row.iter().map(|cell| printable::one_line(cell));
        match row.iter().any(|cell| cell.contains(' ')) {
            true => table.add_row(cells),
            false => table.add_row(one_line(cells)),
        };
    }
    table
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        let named = [
            "a-tenant-with-a-long-name",
            "active",
            "clinic",
            "https://a-tenant-with-a-long-name.example.com",
        ];
        vec![
            named.map(str::to_owned).to_vec(),
            ["b", "suspended", "shop", "http://b"].map(str::to_owned).to_vec(),
        ]
    }

    #[test]
    fn a_table_fits_the_terminal_and_is_whole_elsewhere() {
        let columns = ["TENANT", "STATE", "EDITION", "BASE URL"];
        for width in [40, 60, 80] {
            let text = arranged(&columns, rows().into_iter(), Some(width));
            assert_eq!(text.lines().count(), 3, "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{text}");
            assert!(text.contains('…') && text.contains("active"), "{text}");
        }
        for whole in
            [arranged(&columns, rows().into_iter(), None), arranged(&columns, rows().into_iter(), Some(200))]
        {
            assert!(
                whole.contains("https://a-tenant-with-a-long-name.example.com") && !whole.contains('…'),
                "{whole}"
            );
        }
    }

    #[test]
    fn a_sentence_is_never_cut() {
        let advice = "add the server to the settings of every router, and restart those that lack it";
        let row = vec!["D20".to_owned(), "router a".to_owned(), advice.to_owned()];
        let text = arranged(&["CODE", "WHERE", "NEXT"], [row].into_iter(), Some(40));
        let words: Vec<_> = text.split_whitespace().collect();
        assert!(advice.split_whitespace().all(|word| words.contains(&word)), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
    }
}
