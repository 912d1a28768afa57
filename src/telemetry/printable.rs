//! Printable: text of a database, a header or a file, made safe to look at in a terminal.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::io;

use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

/// Whether a terminal would obey the character instead of showing it: control characters (C0, DEL, C1), what changes
/// the direction of the text around it, and line separators that are no newline.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One line: every character that a terminal would obey stands there escaped, newlines and tabs too.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_obeyed)
}

/// The same for a text of several lines: its newlines and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_obeyed(c) && c != '\n' && c != '\t')
}

/// JSON with every such character outside of ASCII (and DEL) escaped, which `serde_json` writes as they are. It stays
/// the same value: they can stand in its strings only.
pub fn json(text: &str) -> Cow<'_, str> {
    let escape = |c: char| is_obeyed(c) && c >= '\u{7f}';
    if !text.contains(escape) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            // All of them are in the basic plane: four digits do.
            c if escape(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn escaped(text: &str, escape: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&escape) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if escape(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// A log line's fields, each event on a line of its own whatever its values hold.
pub(super) struct PrintableFields;

impl<'writer> FormatFields<'writer> for PrintableFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        // A writer of its own has no colours, so what it is given is nothing but names and values.
        DefaultFields::new().format_fields(Writer::new(&mut OneLine(writer)), fields)
    }
}

/// Escapes what passes through.
struct OneLine<'writer>(Writer<'writer>);

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&one_line(text))
    }
}

/// Where log lines of JSON go. Each is handed over whole.
pub(super) struct JsonLines<W>(pub(super) W);

impl<W: io::Write> io::Write for JsonLines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(json(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What terminals obey: colours, titles (OSC), the one-byte forms (C1), rubout, overprinting, reversed text.
    const TRICKS: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{90}x\u{9c}\u{7f}\u{8}\rok\u{202e}txt\u{2066}\u{2069}\u{2028}\0";

    #[test]
    fn nothing_a_terminal_obeys_is_left() {
        let told = one_line(TRICKS);
        assert!(!told.contains(is_obeyed), "{told:?}");
        assert!(told.contains(r"\u{1b}[2J") && told.contains(r"\rok\u{202e}txt"), "{told}");
        assert_eq!(one_line("a\nb\tc"), r"a\nb\tc");
        assert_eq!(lines("a\nb\tc\u{1b}"), "a\nb\tc\\u{1b}");
        // What people write is left alone, whatever their script.
        let names = "Zoë · שלום · 診療所 · 👩‍⚕️ · مرحبا";
        assert!(matches!(one_line(names), Cow::Borrowed(same) if same == names));
    }

    #[test]
    fn json_is_the_same_value() {
        let value = serde_json::json!({ "a": TRICKS, "é": "ü" });
        let text = value.to_string();
        let told = json(&text);
        assert!(!told.contains(is_obeyed), "{told:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&told).unwrap(), value);
    }

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Logs the same by every kind of field, and gives what was written.
    fn logged(as_json: bool) -> String {
        let kept = Kept::default();
        let subscriber = super::super::subscriber(false, as_json, false, {
            let kept = kept.clone();
            move || kept.clone()
        });
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::warn_span!("request", header = %TRICKS).entered();
            tracing::error!(shown = %TRICKS, kept = TRICKS, seen = ?TRICKS, "failed: {TRICKS}\nINFO all is well");
        });
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_log_line_is_one_line_and_obeys_nothing() {
        for as_json in [false, true] {
            let told = logged(as_json);
            let line = told.strip_suffix('\n').unwrap();
            assert!(!line.contains(is_obeyed), "{line:?}");
            assert!(line.contains("all is well"), "{line}");
        }
    }
}
