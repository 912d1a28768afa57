//! Splitting a migration into statements, by the tokens of squawk's lexer, which follows the server's own.

use std::borrow::Cow;
use std::ops::Range;

use squawk_lexer::{LiteralKind, TokenKind, tokenize};

/// A token that is neither space nor comment.
#[derive(Debug, Clone)]
struct Token {
    kind: Kind,
    /// Bytes of the text.
    range: Range<usize>,
    /// The line that it begins on, from 1.
    line: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    /// `"…"`
    Quoted,
    /// `U&"…"`, which may spell any name.
    UnicodeQuoted,
    /// `'…'`
    Text,
    /// `E'…'`
    Escaped,
    /// `$tag$…$tag$`
    Dollar,
    Semicolon,
    Open,
    Close,
    Dot,
    Backslash,
    /// Numbers, operators, and strings of which nobody asks what they hold.
    Other,
}

/// A comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Comment<'s> {
    /// What stands between its marks, without spaces around it.
    pub(super) text: &'s str,
    /// The line that it begins on, from 1.
    pub(super) line: u64,
    /// The line that it ends on.
    pub(super) last_line: u64,
    /// Whether nothing but spaces stands before it on its line.
    pub(super) alone: bool,
    /// Where it begins in the text.
    pub(super) at: usize,
}

/// All statements of a text.
#[derive(Debug)]
pub(super) struct Statements<'s> {
    sql: &'s str,
    tokens: Vec<Token>,
    /// Half-open ranges of `tokens`.
    ranges: Vec<Range<usize>>,
    /// In the order of the text.
    pub(super) comments: Vec<Comment<'s>>,
}

/// The tokens of one statement, without spaces and comments. A function body in SQL (`BEGIN ATOMIC … END`) and the
/// actions of a rule hold semicolons of their own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statement<'t> {
    sql: &'t str,
    tokens: &'t [Token],
}

/// Splits a text into its statements, leaving out empty ones.
///
/// # Errors
/// The line and the reason, when a string, a quoted name or a comment is not closed.
pub(super) fn split(sql: &str) -> Result<Statements<'_>, (u64, String)> {
    let (tokens, comments) = read(sql)?;
    let mut ranges = Vec::new();
    let mut start = 0;
    let (mut parentheses, mut blocks) = (0_usize, 0_usize);
    for (i, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Open => parentheses += 1,
            Kind::Close => parentheses = parentheses.saturating_sub(1),
            Kind::Semicolon if parentheses == 0 && blocks == 0 => {
                if start < i {
                    ranges.push(start..i);
                }
                start = i + 1;
            }
            Kind::Word if parentheses == 0 => {
                let statement = Statement { sql, tokens: &tokens[start..] };
                match statement.keyword(i - start).as_deref() {
                    Some("BEGIN") if blocks == 0 && is_body(statement, i - start) => blocks = 1,
                    Some("CASE") if blocks > 0 => blocks += 1,
                    Some("END") if blocks > 0 => blocks -= 1,
                    _ => {}
                }
            }
            _ => {}
        }
    }
    if start < tokens.len() {
        ranges.push(start..tokens.len());
    }
    Ok(Statements { sql, tokens, ranges, comments })
}

type Read<'s> = (Vec<Token>, Vec<Comment<'s>>);

fn read(sql: &str) -> Result<Read<'_>, (u64, String)> {
    let (mut tokens, mut comments) = (Vec::<Token>::new(), Vec::new());
    let (mut at, mut line) = (0, 1);
    for token in tokenize(sql) {
        let range = at..at + token.len as usize;
        let text = sql.get(range.clone()).unwrap_or_default();
        let open = |what: &str| Err((line, format!("can't be read as SQL: {what} is not closed")));
        let kind = match token.kind {
            TokenKind::Whitespace => None,
            TokenKind::LineComment | TokenKind::BlockComment { terminated: true } => {
                let before = sql[..at].rsplit('\n').next().unwrap_or_default();
                let inner = text.strip_prefix("/*").and_then(|t| t.strip_suffix("*/"));
                comments.push(Comment {
                    text: inner.unwrap_or_else(|| text.trim_start_matches('-')).trim(),
                    line,
                    last_line: line + breaks(text),
                    alone: before.trim().is_empty(),
                    at,
                });
                None
            }
            TokenKind::BlockComment { terminated: false } => return open("a comment"),
            TokenKind::Ident => Some(Kind::Word),
            TokenKind::QuotedIdent { terminated: false, .. } => return open("a quoted name"),
            TokenKind::QuotedIdent { uescape: true, .. } => Some(Kind::UnicodeQuoted),
            TokenKind::QuotedIdent { .. } => Some(Kind::Quoted),
            TokenKind::Literal { kind } => Some(match kind {
                LiteralKind::Str { terminated: false }
                | LiteralKind::NationalStr { terminated: false }
                | LiteralKind::ByteStr { terminated: false }
                | LiteralKind::BitStr { terminated: false }
                | LiteralKind::UnicodeEscStr { terminated: false }
                | LiteralKind::EscStr { terminated: false }
                | LiteralKind::DollarQuotedString { terminated: false } => return open("a string"),
                // The server goes on reading escapes in it, the lexer doesn't.
                LiteralKind::Str { .. }
                    if tokens.last().is_some_and(|last| {
                        last.kind == Kind::Escaped && sql[last.range.end..at].contains('\n')
                    }) =>
                {
                    return Err((
                        line,
                        "continues an `E'…'` string on a new line: write it as one".to_owned(),
                    ));
                }
                LiteralKind::Str { .. } => Kind::Text,
                LiteralKind::EscStr { .. } => Kind::Escaped,
                LiteralKind::DollarQuotedString { .. } => Kind::Dollar,
                _ => Kind::Other,
            }),
            TokenKind::Semi => Some(Kind::Semicolon),
            TokenKind::OpenParen => Some(Kind::Open),
            TokenKind::CloseParen => Some(Kind::Close),
            TokenKind::Dot => Some(Kind::Dot),
            TokenKind::Unknown if text == "\\" => Some(Kind::Backslash),
            _ => Some(Kind::Other),
        };
        tokens.extend(kind.map(|kind| Token { kind, range: range.clone(), line }));
        at = range.end;
        line += breaks(text);
    }
    Ok((tokens, comments))
}

fn breaks(text: &str) -> u64 {
    text.bytes().filter(|byte| *byte == b'\n').count() as u64
}

/// Whether the word at `begin` opens a function's body: `CREATE [OR REPLACE] {FUNCTION|PROCEDURE} … BEGIN ATOMIC`.
fn is_body(statement: Statement<'_>, begin: usize) -> bool {
    let at = if statement.has_at(1, &["OR"]) { 3 } else { 1 };
    statement.has_at(0, &["CREATE"])
        && (statement.has_at(at, &["FUNCTION"]) || statement.has_at(at, &["PROCEDURE"]))
        && statement.has_at(begin + 1, &["ATOMIC"])
}

impl Statements<'_> {
    pub(super) fn iter(&self) -> impl Iterator<Item = Statement<'_>> {
        self.ranges.iter().map(|range| Statement { sql: self.sql, tokens: &self.tokens[range.clone()] })
    }
}

impl<'t> Statement<'t> {
    /// The line of the first token, from 1.
    pub(super) fn line(&self) -> u64 {
        self.tokens.first().map_or(1, |token| token.line)
    }

    /// The line that it ends on.
    pub(super) fn last_line(&self) -> u64 {
        self.tokens.last().map_or(1, |token| token.line + breaks(&self.sql[token.range.clone()]))
    }

    /// The line of the token at a position.
    pub(super) fn line_at(&self, at: usize) -> u64 {
        self.tokens.get(at).map_or_else(|| self.line(), |token| token.line)
    }

    /// Its bytes of the text, without the semicolon.
    pub(super) fn range(&self) -> Range<usize> {
        match self.tokens {
            [] => 0..0,
            [first, .., last] => first.range.start..last.range.end,
            [only] => only.range.clone(),
        }
    }

    /// The pieces between all semicolons, so that nothing hides in what was taken for a body; without the `END` that
    /// closes one.
    pub(super) fn parts(&self) -> impl Iterator<Item = Statement<'t>> {
        let sql = self.sql;
        let mut pieces: Vec<_> = self
            .tokens
            .split(|token| token.kind == Kind::Semicolon)
            .filter(|piece| !piece.is_empty())
            .map(|tokens| Statement { sql, tokens })
            .collect();
        // `split` ends a statement with a body at its END: an END before that closed nothing.
        if pieces.len() > 1 && pieces.last().is_some_and(|p| p.has_at(0, &["END"])) {
            pieces.pop();
        }
        pieces.into_iter()
    }

    fn text(&self, at: usize) -> Option<(Kind, &'t str)> {
        let token = self.tokens.get(at)?;
        Some((token.kind, &self.sql[token.range.clone()]))
    }

    /// The unquoted word at a position, in capitals; quoted ones are never keywords.
    pub(super) fn keyword(&self, at: usize) -> Option<String> {
        match self.text(at)? {
            (Kind::Word, text) => Some(text.to_ascii_uppercase()),
            _ => None,
        }
    }

    /// The words at successive positions, compared with `expected`.
    pub(super) fn has_at(&self, at: usize, expected: &[&str]) -> bool {
        expected.iter().enumerate().all(|(i, word)| {
            matches!(self.text(at + i), Some((Kind::Word, text)) if text.eq_ignore_ascii_case(word))
        })
    }

    /// Where some words follow each other first, at or behind a position.
    pub(super) fn find(&self, from: usize, words: &[&str]) -> Option<usize> {
        (from..self.len()).find(|at| self.has_at(*at, words))
    }

    /// Whether one word follows another anywhere.
    pub(super) fn has_pair(&self, first: &str, second: &str) -> bool {
        self.find(0, &[first, second]).is_some()
    }

    /// Whether a word is anywhere.
    pub(super) fn has(&self, word: &str) -> bool {
        self.find(0, &[word]).is_some()
    }

    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The identifier at a position as PostgreSQL reads it: unquoted ones in lower case. None has been read of
    /// `U&"…"`, see [`Statement::is_escaped_name`].
    pub(super) fn name(&self, at: usize) -> Option<String> {
        match self.text(at)? {
            (Kind::Quoted, text) => Some(text[1..text.len() - 1].replace("\"\"", "\"")),
            (Kind::Word, text) => Some(text.to_ascii_lowercase()),
            _ => None,
        }
    }

    /// The name at a position, with its schema if it has one, and the position behind it.
    pub(super) fn qualified_name(&self, at: usize) -> Option<(Option<String>, String, usize)> {
        let first = self.name(at)?;
        if !self.has_dot(at + 1) {
            return Some((None, first, at + 1));
        }
        Some((Some(first), self.name(at + 2)?, at + 3))
    }

    /// Whether a name in Unicode escapes stands at a position.
    pub(super) fn is_escaped_name(&self, at: usize) -> bool {
        matches!(self.text(at), Some((Kind::UnicodeQuoted, _)))
    }

    /// Whether there is a dot at a position.
    pub(super) fn has_dot(&self, at: usize) -> bool {
        self.text(at).is_some_and(|(kind, _)| kind == Kind::Dot)
    }

    /// Whether there is an opening parenthesis at a position.
    pub(super) fn opens_at(&self, at: usize) -> bool {
        self.text(at).is_some_and(|(kind, _)| kind == Kind::Open)
    }

    /// What a string at a position holds, as far as plain text goes, and the line that the string begins on. Escapes of
    /// `E'…'` are left as written, but for quotes.
    pub(super) fn string(&self, at: usize) -> Option<(Cow<'t, str>, u64)> {
        let (kind, text) = self.text(at)?;
        let inner = match kind {
            Kind::Text => Cow::Owned(text.get(1..text.len() - 1)?.replace("''", "'")),
            Kind::Escaped => Cow::Owned(text.get(2..text.len() - 1)?.replace("''", "'").replace("\\'", "'")),
            Kind::Dollar => {
                let tag = text[1..].find('$')? + 2;
                Cow::Borrowed(text.get(tag..text.len().checked_sub(tag)?)?)
            }
            _ => return None,
        };
        Some((inner, self.line_at(at)))
    }

    /// Every string that [`Statement::string`] can read.
    pub(super) fn strings(&self) -> impl Iterator<Item = (Cow<'t, str>, u64)> {
        (0..self.len()).filter_map(|at| self.string(at))
    }

    /// What is written at a position.
    pub(super) fn written(&self, at: usize) -> &'t str {
        self.text(at).map_or("", |(_, text)| text)
    }

    /// Whether a statement of PL/pgSQL may begin at a position, when this is a piece of a body.
    pub(super) fn begins_at(&self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1) else { return true };
        ["BEGIN", "THEN", "LOOP", "ELSE"].iter().any(|word| self.has_at(before, &[word]))
            || self.written(before) == ">"
    }

    /// Whether there is a backslash outside of strings: no SQL has one, psql's commands begin with it.
    pub(super) fn has_backslash(&self) -> bool {
        self.tokens.iter().any(|token| token.kind == Kind::Backslash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(sql: &str) -> Vec<&str> {
        let split = split(sql).unwrap();
        split.iter().map(|statement| &sql[statement.range()]).collect()
    }

    #[test]
    fn strings_and_comments_are_read_as_the_server_does() {
        for (sql, expected) in [
            (r"SELECT E'it\'s; '; SELECT 2", vec![r"SELECT E'it\'s; '", "SELECT 2"]),
            (r"SELECT '\'; SELECT 2", vec![r"SELECT '\'", "SELECT 2"]),
            ("SELECT $$;$$, $a$ ;$b$; $a$; SELECT 2", vec!["SELECT $$;$$, $a$ ;$b$; $a$", "SELECT 2"]),
            ("SELECT a$b$ FROM t; SELECT 2", vec!["SELECT a$b$ FROM t", "SELECT 2"]),
            ("SELECT 1 /* ; /* ; */ ; */; SELECT 2", vec!["SELECT 1", "SELECT 2"]),
            ("SELECT 4 *-- ;\n 2; SELECT 2", vec!["SELECT 4 *-- ;\n 2", "SELECT 2"]),
            (
                "SELECT \"a\"\";\", U&\"\\0061;\"; SELECT 2",
                vec!["SELECT \"a\"\";\", U&\"\\0061;\"", "SELECT 2"],
            ),
            ("SELECT $1; SELECT 'таблица'; SELECT ж", vec!["SELECT $1", "SELECT 'таблица'", "SELECT ж"]),
            (";;SELECT 1;;", vec!["SELECT 1"]),
        ] {
            assert_eq!(statements(sql), expected, "{sql}");
        }
        for (sql, line) in [
            ("SELECT 1;\nSELECT 'a", 2),
            ("\n\n/* /* */", 3),
            ("SELECT \"a", 1),
            ("SELECT $a$ $b$", 1),
            ("SELECT E'a'\n'b\\'; COMMIT; --'", 2),
        ] {
            assert_eq!(split(sql).unwrap_err().0, line, "{sql}");
        }
    }

    #[test]
    fn comments_say_where_they_stand() {
        let split = split("-- a\nSELECT 1; /* b\nc */ -- d\n  -- e").unwrap();
        let seen: Vec<_> = split.comments.iter().map(|c| (c.text, c.line, c.last_line, c.alone)).collect();
        assert_eq!(seen, [("a", 1, 1, true), ("b\nc", 2, 3, false), ("d", 3, 3, false), ("e", 4, 4, true)]);
    }

    #[test]
    fn what_strings_hold_is_read() {
        let split = split("DO 'it''s'; DO $x$\na$x$; DO E'b\\'c'").unwrap();
        let held: Vec<_> = split.iter().flat_map(|s| s.strings().collect::<Vec<_>>()).collect();
        let held: Vec<_> = held.iter().map(|(text, line)| (text.as_ref(), *line)).collect();
        assert_eq!(held, [("it's", 1), ("\na", 1), ("b'c", 2)]);
    }
}
