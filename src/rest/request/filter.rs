//! Filters: `column=op.value`, and `and=(…)`, `or=(…)` trees of them.

use winnow::Parser;
use winnow::combinator::{alt, delimited, opt, preceded, repeat, separated, terminated};
use winnow::error::ErrMode;

use super::super::error::Error;
use super::grammar::{
    Field, Input, Parsed, char, delimiter, field, identifier, json_path, label, lexeme, list, nested, one,
    path, quoted, read, word,
};

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Filter {
    /// `and(…)`, `or(…)`
    Group(Group),
    /// One comparison.
    Compare(Compare),
}

/// Conditions joined by AND or OR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// `not.`
    pub(crate) negated: bool,
    /// OR, or else AND.
    pub(crate) any: bool,
    /// At least one.
    pub(crate) items: Vec<Filter>,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compare {
    /// The left side.
    pub(crate) field: Field,
    /// `not.`
    pub(crate) negated: bool,
    /// The operator and the right side.
    pub(crate) test: Test,
}

/// An operator and its right side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    /// A binary operator, with `any` or `all`, and a value.
    Operator(Operator, Option<Quantifier>, String),
    /// `isdistinct.…`
    Distinct(String),
    /// `in.(…)`
    In(Vec<String>),
    /// `is.…`
    Is(Is),
    /// Full text search: the function that parses the query, a configuration, the query.
    Search(Search, Option<String>, String),
}

/// `op(any).{…}`, `op(all).{…}`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantifier {
    /// One element must match.
    Any,
    /// All elements must match.
    All,
}

/// The right side of IS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Is {
    Null,
    NotNull,
    True,
    False,
    Unknown,
}

/// The function that parses a text search query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    Query,
    Plain,
    Phrase,
    Web,
}

macro_rules! operators {
    ($($name:ident $text:literal $quantified:literal),* $(,)?) => {
        /// Operators, as PostgREST's "Tables and Views" lists them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Operator { $($name),* }
        /// By their spelling, and whether `(any)` and `(all)` may follow. A prefix of another stands behind it.
        const OPERATORS: &[(&str, Operator, bool)] = &[$(($text, Operator::$name, $quantified)),*];
    };
}

operators! {
    NotEqual "neq" false, Contains "cs" false, Contained "cd" false, Overlaps "ov" false, Left "sl" false,
    Right "sr" false, NotRight "nxr" false, NotLeft "nxl" false, Adjacent "adj" false,
    Equal "eq" true, GreaterEqual "gte" true, Greater "gt" true, LessEqual "lte" true, Less "lt" true,
    Like "like" true, Ilike "ilike" true, Match "match" true, Imatch "imatch" true,
}

/// The path of embeds to a level, and what a parameter has for that level.
pub(super) type AtPath<T> = (Vec<String>, T);

/// What a parameter is whose name is not reserved.
pub(super) enum Parameter {
    /// A filter.
    Filter(AtPath<Compare>),
    /// The argument of this name.
    Argument(String),
}

/// Reads `key=value`. With `may_be_argument` a value that is no filter is an argument.
pub(super) fn parameter(key: &str, value: &str, may_be_argument: bool) -> Result<Parameter, Error> {
    let (mut names, json) = read("tree path", key, (path, json_path))?;
    let test = |input: &mut Input<'_>| test(input, remainder);
    let parsed =
        if may_be_argument { read("filter", value, opt(test))? } else { Some(read("filter", value, test)?) };
    let name = names.pop().unwrap_or_default();
    let Some((negated, test)) = parsed else { return Ok(Parameter::Argument(name)) };
    Ok(Parameter::Filter((names, Compare { field: Field { name, path: json }, negated, test })))
}

/// Reads `or=(…)`, `clients.not.and=(…)`.
pub(super) fn logic(key: &str, value: &str) -> Result<AtPath<Filter>, Error> {
    let mut names = read("logic path", key, path)?;
    let negated = names.iter().any(|name| name == "not");
    let any = names.pop().is_some_and(|word| word == "or");
    names.retain(|name| name != "not");
    // Columns in errors count from the operator, as in PostgREST.
    let text = format!("{}{}{value}", if negated { "not." } else { "" }, if any { "or" } else { "and" });
    let filter = read_as(value, &text)?;
    Ok((names, filter))
}

fn read_as(shown: &str, text: &str) -> Result<Filter, Error> {
    read("logic tree", text, tree).map_err(|error| {
        let message = error.message().replacen(&format!("({text})"), &format!("({shown})"), 1);
        error.with_message(message)
    })
}

fn tree(input: &mut Input<'_>) -> Parsed<Filter> {
    let compare = (terminated(field, delimiter), |input: &mut Input<'_>| test(input, value_in_tree))
        .map(|(field, (negated, test))| Filter::Compare(Compare { field, negated, test }));
    alt((compare, group.map(Filter::Group))).parse_next(input)
}

fn group(input: &mut Input<'_>) -> Parsed<Group> {
    let negated = label("negation operator (not)", not).parse_next(input)?;
    let word = alt((word("and").value(false), word("or").value(true)));
    let any = label("logic operator (and, or)", word).parse_next(input)?;
    let items = list(1, tree, lexeme(char(',')));
    let items = delimited(lexeme(char('(')), nested(items), lexeme(char(')'))).parse_next(input)?;
    Ok(Group { negated, any, items })
}

fn not(input: &mut Input<'_>) -> Parsed<bool> {
    opt((word("not"), delimiter)).map(|not| not.is_some()).parse_next(input)
}

type Value = fn(&mut Input<'_>) -> Parsed<String>;

/// `[not.]op.value`. After `not.` and after some operators the parser does not go back.
fn test(input: &mut Input<'_>, value: Value) -> Parsed<(bool, Test)> {
    let negated = not(input)?;
    let result = label(
        "operator (eq, gt, ...)",
        alt((
            preceded((word("in"), delimiter), cut(elements)).map(Test::In),
            preceded((word("is"), delimiter), cut(is)).map(Test::Is),
            preceded((word("isdistinct"), delimiter), value).map(Test::Distinct),
            (search, opt(delimited(char('('), identifier, char(')'))), preceded(delimiter, value))
                .map(|(search, language, text)| Test::Search(search, language, text)),
            (operator, preceded(delimiter, value))
                .map(|((operator, quantifier), text)| Test::Operator(operator, quantifier, text)),
        )),
    )
    .parse_next(input);
    match result {
        Err(error) if negated => Err(error.cut()),
        result => result.map(|test| (negated, test)),
    }
}

fn cut<'a, T>(
    mut parser: impl winnow::ModalParser<Input<'a>, T, winnow::error::EmptyError>,
) -> impl winnow::ModalParser<Input<'a>, T, winnow::error::EmptyError> {
    move |input: &mut Input<'a>| parser.parse_next(input).map_err(ErrMode::cut)
}

fn operator(input: &mut Input<'_>) -> Parsed<(Operator, Option<Quantifier>)> {
    for (text, operator, quantified) in OPERATORS {
        let quantifier = alt((word("any").value(Quantifier::Any), word("all").value(Quantifier::All)));
        if opt(word(text)).parse_next(input)?.is_some() {
            let quantifier = if *quantified {
                opt(delimited(char('('), quantifier, char(')'))).parse_next(input)?
            } else {
                None
            };
            return Ok((*operator, quantifier));
        }
    }
    Err(ErrMode::Backtrack(winnow::error::EmptyError))
}

fn search(input: &mut Input<'_>) -> Parsed<Search> {
    alt((
        word("fts").value(Search::Query),
        word("plfts").value(Search::Plain),
        word("phfts").value(Search::Phrase),
        word("wfts").value(Search::Web),
    ))
    .parse_next(input)
}

fn is(input: &mut Input<'_>) -> Parsed<Is> {
    let words = |input: &mut Input<'_>| {
        let text = input.input;
        for (word, is) in [
            ("null", Is::Null),
            ("not_null", Is::NotNull),
            ("true", Is::True),
            ("false", Is::False),
            ("unknown", Is::Unknown),
        ] {
            if text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word)) {
                input.input = &text[word.len()..];
                return Ok(is);
            }
        }
        one("", |_| false).parse_next(input).map(|_| Is::Null)
    };
    label("isVal: (null, not_null, true, false, unknown)", words).parse_next(input)
}

fn elements(input: &mut Input<'_>) -> Parsed<Vec<String>> {
    delimited(lexeme(char('(')), separated(1.., element, char(',')), lexeme(char(')'))).parse_next(input)
}

/// An element of `in.(…)`: quoted, or up to the next comma.
fn element(input: &mut Input<'_>) -> Parsed<String> {
    alt((terminated(quoted, winnow::combinator::peek(end_of_value)), unquoted)).parse_next(input)
}

fn unquoted(input: &mut Input<'_>) -> Parsed<String> {
    repeat(0.., one("", |c| c != ',' && c != ')')).parse_next(input)
}

fn end_of_value(input: &mut Input<'_>) -> Parsed<()> {
    if input.input.is_empty() { Ok(()) } else { one("", |c| c == ',' || c == ')').void().parse_next(input) }
}

/// A value outside a tree: the rest of the parameter.
fn remainder(input: &mut Input<'_>) -> Parsed<String> {
    let text = std::mem::take(&mut input.input);
    Ok(text.to_owned())
}

/// A value in a tree: quoted, an array in braces, or up to the next comma.
fn value_in_tree(input: &mut Input<'_>) -> Parsed<String> {
    let array = delimited(char('{'), repeat(0.., one("", |c| c != '{' && c != '}')), char('}'))
        .map(|elements: String| format!("{{{elements}}}"));
    alt((terminated(quoted, winnow::combinator::peek(end_of_value)), array, unquoted)).parse_next(input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::Code;

    fn filter(key: &str, value: &str) -> Result<AtPath<Compare>, Error> {
        match parameter(key, value, false)? {
            Parameter::Filter(filter) => Ok(filter),
            Parameter::Argument(_) => panic!("{key}={value} is no filter"),
        }
    }

    #[test]
    fn values_are_read_whole() {
        let test = |value: &str| filter("a", value).unwrap().1.test;
        let list = ["1", "x,y", "q\"r", "(z"].map(str::to_owned).to_vec();
        assert_eq!(test(r#"in.(1,"x,y","q\"r",(z)"#), Test::In(list));
        assert_eq!(test("eq.a.b,c)"), Test::Operator(Operator::Equal, None, "a.b,c)".into()));
        assert_eq!(
            test("gte(any).{1}"),
            Test::Operator(Operator::GreaterEqual, Some(Quantifier::Any), "{1}".into())
        );
        assert_eq!(test("fts(english).x"), Test::Search(Search::Query, Some("english".into()), "x".into()));
        assert_eq!(test("is.NULL"), Test::Is(Is::Null));
        let (path, compare) = filter("a.b.c->d", "not.eq.1").unwrap();
        assert_eq!(
            (path, compare.negated, compare.field.path.len()),
            (vec!["a".into(), "b".into()], true, 1)
        );
    }

    #[test]
    fn trees_and_where_they_belong() {
        let (path, Filter::Group(group)) =
            logic("x.not.or", r#"(a.eq."x,)",and(b.gt.1,c.not.is.null),d.cs.{1,2})"#).unwrap()
        else {
            panic!()
        };
        assert_eq!((path, group.negated, group.any, group.items.len()), (vec!["x".into()], true, true, 3));
        assert_eq!(
            group.items[2],
            Filter::Compare(Compare {
                field: Field::column("d"),
                negated: false,
                test: Test::Operator(Operator::Contains, None, "{1,2}".into())
            })
        );
    }

    #[test]
    fn errors_say_where_and_what() {
        let error = filter("a", "0").unwrap_err().to_string();
        insta::assert_snapshot!(error, @r#""failed to parse filter (0)" (line 1, column 1) (PGRST100); unexpected "0" expecting "not" or operator (eq, gt, ...)"#);
        let error = logic("or", "()").unwrap_err().to_string();
        insta::assert_snapshot!(error, @r#""failed to parse logic tree (())" (line 1, column 4) (PGRST100); unexpected ")" expecting field name (* or [a..z0..9_$]), negation operator (not) or logic operator (and, or)"#);
        let deep = format!("{}a.eq.1{}", "(and".repeat(60), ")".repeat(60));
        assert_eq!(logic("and", &deep).unwrap_err().code(), &Code::QueryParamError);
    }

    #[test]
    fn what_is_no_filter_may_be_an_argument() {
        assert!(matches!(parameter("a", "hello", true), Ok(Parameter::Argument(_))));
        assert!(matches!(parameter("a", "eq.1", true), Ok(Parameter::Filter(_))));
        assert!(parameter("a", "not.hello", true).is_err());
        assert!(parameter("a", "hello", false).is_err());
    }
}
