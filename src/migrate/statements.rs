//! Splitting a migration into statements, by the tokens of sqlparser.

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};

/// The tokens of one statement, without spaces and comments. A function body in SQL (`BEGIN ATOMIC … END`) and the
/// actions of a rule hold semicolons of their own.
pub(super) struct Statement<'t>(&'t [TokenWithSpan]);

/// All statements of a text, which owns its tokens.
pub(super) struct Statements {
    tokens: Vec<TokenWithSpan>,
    /// Half-open ranges of `tokens`.
    ranges: Vec<std::ops::Range<usize>>,
}

/// Splits a text into its statements, leaving out empty ones.
///
/// # Errors
/// The line and the reason, when a string or comment is not closed.
pub(super) fn split(sql: &str) -> Result<Statements, (u64, String)> {
    // Strings stay as written: their content doesn't matter here, and PostgreSQL's own rules for escapes differ.
    let mut tokens = Tokenizer::new(&PostgreSqlDialect {}, sql)
        .with_unescape(false)
        .tokenize_with_location()
        .map_err(|e| (e.location.line, format!("can't be read as SQL: {}", e.message)))?;
    tokens.retain(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF));
    let mut ranges = Vec::new();
    let mut start = 0;
    let (mut parentheses, mut blocks) = (0_usize, 0_usize);
    for (i, token) in tokens.iter().enumerate() {
        match &token.token {
            Token::LParen => parentheses += 1,
            Token::RParen => parentheses = parentheses.saturating_sub(1),
            Token::SemiColon if parentheses == 0 && blocks == 0 => {
                if start < i {
                    ranges.push(start..i);
                }
                start = i + 1;
            }
            Token::Word(word) if parentheses == 0 => match unquoted(word).as_deref() {
                Some("BEGIN") if blocks == 0 && is_body(&tokens[start..], i - start) => blocks = 1,
                Some("CASE") if blocks > 0 => blocks += 1,
                Some("END") if blocks > 0 => blocks -= 1,
                _ => {}
            },
            _ => {}
        }
    }
    if start < tokens.len() {
        ranges.push(start..tokens.len());
    }
    Ok(Statements { tokens, ranges })
}

/// Whether the word at `begin` opens a function's body: `CREATE [OR REPLACE] {FUNCTION|PROCEDURE} … BEGIN ATOMIC`.
fn is_body(statement: &[TokenWithSpan], begin: usize) -> bool {
    let word = |i: usize| match statement.get(i).map(|t| &t.token) {
        Some(Token::Word(word)) => unquoted(word).unwrap_or_default(),
        _ => String::new(),
    };
    let kind = if word(1) == "OR" { word(3) } else { word(1) };
    word(0) == "CREATE" && matches!(kind.as_str(), "FUNCTION" | "PROCEDURE") && word(begin + 1) == "ATOMIC"
}

/// An unquoted word in capitals; quoted ones are never keywords.
fn unquoted(word: &Word) -> Option<String> {
    word.quote_style.is_none().then(|| word.value.to_ascii_uppercase())
}

impl Statements {
    pub(super) fn iter(&self) -> impl Iterator<Item = Statement<'_>> {
        self.ranges.iter().map(|range| Statement(&self.tokens[range.clone()]))
    }
}

impl<'t> Statement<'t> {
    /// The line of the first token, from 1.
    pub(super) fn line(&self) -> u64 {
        self.0.first().map_or(1, |t| t.span.start.line)
    }

    /// The pieces between all semicolons, so that nothing hides in what was taken for a body; without the `END` that
    /// closes one.
    pub(super) fn parts(&self) -> impl Iterator<Item = Statement<'t>> {
        let mut pieces: Vec<_> = self
            .0
            .split(|t| t.token == Token::SemiColon)
            .filter(|piece| !piece.is_empty())
            .map(Statement)
            .collect();
        // `split` ends a statement with a body at its END: an END before that closed nothing.
        if pieces.len() > 1 && pieces.last().is_some_and(|p| p.keyword(0).as_deref() == Some("END")) {
            pieces.pop();
        }
        pieces.into_iter()
    }

    /// The unquoted word at a position, in capitals.
    pub(super) fn keyword(&self, at: usize) -> Option<String> {
        match &self.0.get(at)?.token {
            Token::Word(word) => unquoted(word),
            _ => None,
        }
    }

    /// The words at successive positions, compared with `expected`.
    pub(super) fn has_at(&self, at: usize, expected: &[&str]) -> bool {
        expected.iter().enumerate().all(|(i, word)| self.keyword(at + i).as_deref() == Some(*word))
    }

    /// Whether one word follows another anywhere.
    pub(super) fn has_pair(&self, first: &str, second: &str) -> bool {
        (0..self.0.len()).any(|i| self.has_at(i, &[first, second]))
    }

    /// Whether a word is anywhere.
    pub(super) fn has(&self, word: &str) -> bool {
        (0..self.0.len()).any(|i| self.has_at(i, &[word]))
    }

    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a word is anywhere and a parenthesis, which every call has, behind it.
    pub(super) fn calls_after(&self, word: &str) -> bool {
        let from = (0..self.0.len()).find(|i| self.has_at(*i, &[word])).unwrap_or(self.0.len());
        self.0[from..].iter().any(|t| t.token == Token::LParen)
    }

    /// The identifier at a position as PostgreSQL reads it: unquoted ones in lower case.
    pub(super) fn name(&self, at: usize) -> Option<String> {
        match &self.0.get(at)?.token {
            Token::Word(word) if word.quote_style.is_some() => Some(word.value.replace("\"\"", "\"")),
            Token::Word(word) => Some(word.value.to_ascii_lowercase()),
            _ => None,
        }
    }

    /// Every identifier and keyword as [`Statement::name`] gives it.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        (0..self.0.len()).filter_map(|i| self.name(i))
    }

    /// Whether there is a dot at a position.
    pub(super) fn has_dot(&self, at: usize) -> bool {
        self.0.get(at).is_some_and(|t| t.token == Token::Period)
    }

    /// Whether there is a backslash outside of strings: no SQL has one, psql's commands begin with it.
    pub(super) fn has_backslash(&self) -> bool {
        self.0.iter().any(|t| t.token == Token::Backslash)
    }
}
