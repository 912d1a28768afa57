//! What the grammars of the query parameters share: names, quotes, JSON paths, and errors in PostgREST's words.

use std::borrow::Cow;

use winnow::combinator::{alt, opt, preceded, repeat, separated};
use winnow::error::{EmptyError, ErrMode};
use winnow::stream::Stateful;
use winnow::{ModalParser, Parser};

use super::super::error::Error;

/// Deepest nesting of select lists and logic trees: the parsers are recursive and must not exhaust the stack.
const MAX_DEPTH: usize = 48;

/// Most steps of a JSON path: PostgreSQL's parser is recursive too.
const MAX_STEPS: usize = 100;

/// A parameter's text, and the furthest failure in it.
pub(super) type Input<'a> = Stateful<&'a str, Trace>;
/// The result of a parser.
pub(super) type Parsed<T> = Result<T, ErrMode<EmptyError>>;

/// The furthest failure: what an error reports. Parsers backtrack, so the last failure may be far before it.
#[derive(Debug, Clone, Default)]
pub(super) struct Trace {
    /// The length of the whole text, in bytes.
    length: usize,
    depth: usize,
    /// Failures are not recorded. Most texts are right, and recording costs more than reading them.
    quiet: bool,
    /// The position of the furthest failure, in bytes.
    at: usize,
    found: Option<Unexpected>,
    expected: Vec<Cow<'static, str>>,
}

/// What was found instead of what was expected.
#[derive(Debug, Clone, PartialEq)]
enum Unexpected {
    /// A character after the end of what could be read.
    Trailing(char),
    Char(char),
    End,
}

impl Trace {
    fn record(&mut self, at: usize, found: Option<Unexpected>, expected: Option<Cow<'static, str>>) {
        if self.quiet {
            return;
        }
        if at > self.at || (self.found.is_none() && self.expected.is_empty()) {
            (self.at, self.found) = (at, None);
            self.expected.clear();
        }
        if at == self.at {
            if self.found.is_none() || matches!(found, Some(Unexpected::Trailing(_))) {
                self.found = found.or(self.found.take());
            }
            if let Some(expected) = expected.filter(|e| !self.expected.contains(e)) {
                self.expected.push(expected);
            }
        }
    }

    fn merge(&mut self, other: Self) {
        let Self { at, found, expected, .. } = other;
        if expected.is_empty() && found.is_some() {
            self.record(at, found, None);
        } else {
            for item in expected {
                self.record(at, found.clone(), Some(item));
            }
        }
    }

    /// `unexpected "x" expecting "a", b or c`
    fn message(&self) -> String {
        let mut text = match &self.found {
            Some(Unexpected::Trailing(c)) => format!("unexpected {c:?}"),
            Some(Unexpected::Char(c)) => format!("unexpected {:?}", c.to_string()),
            Some(Unexpected::End) => "unexpected end of input".to_owned(),
            None => String::new(),
        };
        if let [first @ .., last] = &self.expected[..] {
            text.push_str(if text.is_empty() { "expecting " } else { " expecting " });
            if !first.is_empty() {
                text.push_str(&first.join(", "));
                text.push_str(" or ");
            }
            text.push_str(last);
        }
        text
    }
}

/// Reads `text`; `what` names the parameter in errors.
pub(super) fn read<'a, T>(
    what: &str,
    text: &'a str,
    mut parser: impl ModalParser<Input<'a>, T, EmptyError>,
) -> Result<T, Error> {
    let state = Trace { length: text.len(), quiet: true, ..Trace::default() };
    let mut input = Input { input: text, state };
    if let Ok(parsed) = parser.parse_next(&mut input) {
        return Ok(parsed);
    }
    // Once more, recording failures for the error.
    let state = Trace { length: text.len(), ..Trace::default() };
    let mut input = Input { input: text, state };
    parser.parse_next(&mut input).map_err(|_| {
        let before = text.get(..input.state.at).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let message = format!("\"failed to parse {what} ({text})\" (line {line}, column {column})");
        Error::query(message, input.state.message())
    })
}

fn position(input: &Input<'_>) -> usize {
    input.state.length - input.input.len()
}

fn found(input: &Input<'_>) -> Unexpected {
    input.input.chars().next().map_or(Unexpected::End, Unexpected::Char)
}

fn fail<T>(input: &mut Input<'_>, expected: impl FnOnce() -> Option<Cow<'static, str>>) -> Parsed<T> {
    if !input.state.quiet {
        let (at, found) = (position(input), found(input));
        input.state.record(at, Some(found), expected());
    }
    Err(ErrMode::Backtrack(EmptyError))
}

/// A character for which `test` holds. `expected` names it in errors; empty for no name.
pub(super) fn one<'a>(
    expected: &'static str,
    test: impl Fn(char) -> bool,
) -> impl ModalParser<Input<'a>, char, EmptyError> {
    move |input: &mut Input<'a>| match input.input.chars().next() {
        Some(c) if test(c) => {
            input.input = &input.input[c.len_utf8()..];
            Ok(c)
        }
        _ => fail(input, || Some(Cow::Borrowed(expected)).filter(|e| !e.is_empty())),
    }
}

/// One or more such characters.
pub(super) fn many<'a>(
    expected: &'static str,
    test: impl Fn(char) -> bool,
) -> impl ModalParser<Input<'a>, &'a str, EmptyError> {
    move |input: &mut Input<'a>| {
        let end = input.input.find(|c| !test(c)).unwrap_or(input.input.len());
        let (text, rest) = input.input.split_at(end);
        input.input = rest;
        // Also after some of them: one more would have fitted.
        let none = fail(input, || Some(Cow::Borrowed(expected)).filter(|e| !e.is_empty()));
        if text.is_empty() { none } else { Ok(text) }
    }
}

/// This character.
pub(super) fn char<'a>(c: char) -> impl ModalParser<Input<'a>, char, EmptyError> {
    move |input: &mut Input<'a>| match input.input.strip_prefix(c) {
        Some(rest) => {
            input.input = rest;
            Ok(c)
        }
        None => fail(input, || Some(Cow::Owned(format!("{:?}", c.to_string())))),
    }
}

/// This word; anything may follow.
pub(super) fn word<'a>(word: &'static str) -> impl ModalParser<Input<'a>, &'static str, EmptyError> {
    move |input: &mut Input<'a>| match input.input.strip_prefix(word) {
        Some(rest) => {
            input.input = rest;
            Ok(word)
        }
        None => fail(input, || Some(Cow::Owned(format!("{word:?}")))),
    }
}

/// The end of the text, or one of these characters, which is not consumed.
pub(super) fn end<'a>(others: &'static str) -> impl ModalParser<Input<'a>, (), EmptyError> {
    move |input: &mut Input<'a>| {
        let Some(next) = input.input.chars().next() else { return Ok(()) };
        if others.contains(next) {
            return Ok(());
        }
        let at = position(input);
        for other in others.chars() {
            input.state.record(at, None, Some(Cow::Owned(format!("{:?}", other.to_string()))));
        }
        input.state.record(at, Some(Unexpected::Trailing(next)), Some(Cow::Borrowed("end of input")));
        Err(ErrMode::Backtrack(EmptyError))
    }
}

/// Names what `parser` reads. An error at its start reports the name; one further on reports the part.
pub(super) fn label<'a, T>(
    name: &'static str,
    mut parser: impl ModalParser<Input<'a>, T, EmptyError>,
) -> impl ModalParser<Input<'a>, T, EmptyError> {
    move |input: &mut Input<'a>| {
        if input.state.quiet {
            return parser.parse_next(input);
        }
        let start = position(input);
        let fresh = Trace { length: input.state.length, depth: input.state.depth, ..Trace::default() };
        let before = std::mem::replace(&mut input.state, fresh);
        let result = parser.parse_next(input);
        let inner = std::mem::replace(&mut input.state, before);
        if inner.at == start {
            if inner.found.is_some() || !inner.expected.is_empty() {
                input.state.record(start, inner.found, Some(Cow::Borrowed(name)));
            }
        } else {
            input.state.merge(inner);
        }
        result
    }
}

/// Items with commas between them, `least` or more. After a comma an item must follow, and a text that begins like an
/// item must be one: with backtracking a misspelled list would be read as a shorter one.
pub(super) fn list<'a, T>(
    least: usize,
    mut item: impl ModalParser<Input<'a>, T, EmptyError>,
    mut comma: impl ModalParser<Input<'a>, char, EmptyError>,
) -> impl ModalParser<Input<'a>, Vec<T>, EmptyError> {
    move |input: &mut Input<'a>| {
        let mut items = Vec::new();
        loop {
            let begins = input.input.starts_with(|c: char| c == '"' || is_letter(c));
            match opt(item.by_ref()).parse_next(input)? {
                Some(item) => items.push(item),
                None if items.is_empty() && !begins => break,
                None => return Err(ErrMode::Cut(EmptyError)),
            }
            if opt(comma.by_ref()).parse_next(input)?.is_none() {
                break;
            }
        }
        if items.len() < least { Err(ErrMode::Backtrack(EmptyError)) } else { Ok(items) }
    }
}

/// Refuses trees that nest too deep.
pub(super) fn nested<'a, T>(
    mut parser: impl ModalParser<Input<'a>, T, EmptyError>,
) -> impl ModalParser<Input<'a>, T, EmptyError> {
    move |input: &mut Input<'a>| {
        if input.state.depth >= MAX_DEPTH {
            let _: Parsed<()> = fail(input, || Some(Cow::Borrowed("a tree that is not nested so deep")));
            return Err(ErrMode::Cut(EmptyError));
        }
        input.state.depth += 1;
        let result = parser.parse_next(input);
        input.state.depth -= 1;
        result
    }
}

fn spaces(input: &mut Input<'_>) -> Parsed<()> {
    input.input = input.input.trim_start_matches([' ', '\t']);
    Ok(())
}

/// With spaces around it.
pub(super) fn lexeme<'a, T>(
    parser: impl ModalParser<Input<'a>, T, EmptyError>,
) -> impl ModalParser<Input<'a>, T, EmptyError> {
    winnow::combinator::delimited(spaces, parser, spaces)
}

/// The dot between parts.
pub(super) fn delimiter(input: &mut Input<'_>) -> Parsed<char> {
    label("delimiter (.)", char('.')).parse_next(input)
}

/// `"…"`, with backslash escapes.
pub(super) fn quoted(input: &mut Input<'_>) -> Parsed<String> {
    let content =
        repeat(0.., alt((one("", |c| c != '\\' && c != '"'), preceded(char('\\'), one("", |_| true)))));
    winnow::combinator::delimited(char('"'), content, char('"')).parse_next(input)
}

/// The name of a type or a text search configuration: letters, digits, `_`, `$` and spaces, so nothing that ends a name
/// in SQL.
pub(super) fn identifier(input: &mut Input<'_>) -> Parsed<String> {
    word_of_letters(input).map(str::to_owned)
}

fn word_of_letters<'a>(input: &mut Input<'a>) -> Parsed<&'a str> {
    many("letter", is_letter).map(str::trim).parse_next(input)
}

fn is_letter(c: char) -> bool {
    c.is_alphabetic() || c.is_ascii_digit() || "_ $".contains(c)
}

fn dash(input: &mut Input<'_>) -> Parsed<char> {
    if input.input.starts_with("->") {
        return fail(input, || None);
    }
    char('-').parse_next(input)
}

/// The name of a column, table, key or function.
pub(super) fn name(input: &mut Input<'_>) -> Parsed<String> {
    let dashed = separated(1.., word_of_letters, dash).map(|parts: Vec<&str>| parts.join("-"));
    label("field name (* or [a..z0..9_$])", alt((quoted, dashed))).parse_next(input)
}

/// A column, or a JSON path into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    /// The column's name.
    pub(crate) name: String,
    /// The JSON path.
    pub(crate) path: Vec<Step>,
}

impl Field {
    /// A column as it is.
    pub(crate) fn column(name: impl Into<String>) -> Self {
        Self { name: name.into(), path: Vec::new() }
    }
}

/// One step of a JSON path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// `->>` instead of `->`.
    pub(crate) as_text: bool,
    /// The key or index.
    pub(crate) key: Key,
}

/// A key or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// An object's key.
    Name(String),
    /// An array's index, negative from its end, as the caller spelled it.
    Index(String),
}

/// `->a->>0`, or nothing.
pub(super) fn json_path(input: &mut Input<'_>) -> Parsed<Vec<Step>> {
    let steps: Vec<Step> = repeat(0..=MAX_STEPS, step).parse_next(input)?;
    if steps.len() == MAX_STEPS && input.input.starts_with("->") {
        let _: Parsed<()> = fail(input, || Some(Cow::Borrowed("a shorter JSON path")));
        return Err(ErrMode::Cut(EmptyError));
    }
    Ok(steps)
}

fn step(input: &mut Input<'_>) -> Parsed<Step> {
    let mut arrow = alt((word("->>").value(true), word("->").value(false)));
    let as_text = arrow.parse_next(input)?;
    // After an arrow the parser does not go back.
    let key = alt((index.map(Key::Index), key.map(Key::Name))).parse_next(input).map_err(ErrMode::cut)?;
    Ok(Step { as_text, key })
}

fn index(input: &mut Input<'_>) -> Parsed<String> {
    let sign = opt(char('-')).parse_next(input)?;
    let digits = many("digit", |c| c.is_ascii_digit()).parse_next(input)?;
    let ended = ["->", "::", ".", ","].iter().any(|e| input.input.starts_with(e));
    if !ended && !input.input.is_empty() {
        return fail(input, || None);
    }
    Ok(sign.into_iter().chain(digits.chars()).collect())
}

fn key(input: &mut Input<'_>) -> Parsed<String> {
    let part = many("", |c| !"(-:.,>)".contains(c)).map(str::trim);
    let dashed = separated(1.., part, dash).map(|parts: Vec<&str>| parts.join("-"));
    label("any non reserved character different from: .,>()", alt((quoted, dashed))).parse_next(input)
}

/// A column with its JSON path, and spaces around it.
pub(super) fn field(input: &mut Input<'_>) -> Parsed<Field> {
    lexeme((name, json_path)).map(|(name, path)| Field { name, path }).parse_next(input)
}

/// Names with dots between them: a path of embeds, then a column or keyword.
pub(super) fn path(input: &mut Input<'_>) -> Parsed<Vec<String>> {
    separated(1.., name, delimiter).parse_next(input)
}
