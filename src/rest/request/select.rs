//! `select=`: columns, JSON paths, aliases, casts, aggregates, and embedded relations with lists of their own.

use winnow::Parser;
use winnow::combinator::{alt, delimited, opt, preceded, terminated};

use super::super::error::Error;
use super::grammar::{
    Field, Input, Parsed, char, end, field, identifier, lexeme, list, name, nested, read, word,
};

/// One item of a select list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// `alias:column->path::cast.sum()::cast`; the column may be `*`.
    Column(Column),
    /// `alias:relation!hint!inner(…)` or `...relation(…)`
    Embed(Embed),
}

/// A column of a select list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    /// The column.
    pub(crate) field: Field,
    /// Its name in the answer, if that is not the column's.
    pub(crate) alias: Option<String>,
    /// The type to cast to: letters, digits, `_`, `$` and spaces.
    pub(crate) cast: Option<String>,
    /// The aggregate of it.
    pub(crate) aggregate: Option<Aggregate>,
    /// The type to cast the aggregate to.
    pub(crate) aggregate_cast: Option<String>,
}

/// Aggregate functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aggregate {
    /// `sum()`
    Sum,
    /// `avg()`
    Avg,
    /// `count()`
    Count,
    /// `max()`
    Max,
    /// `min()`
    Min,
}

impl Aggregate {
    /// The function's name, in SQL and in an answer.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Count => "count",
            Self::Max => "max",
            Self::Min => "min",
        }
    }
}

impl Column {
    fn star() -> Self {
        Self { field: Field::column("*"), alias: None, cast: None, aggregate: None, aggregate_cast: None }
    }
}

/// An embedded relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Embed {
    /// A relation, a foreign key, a column of one, or a computed relationship.
    pub(crate) name: String,
    /// Its name in the answer, if that is not `name`.
    pub(crate) alias: Option<String>,
    /// `!hint`: chooses among several relationships.
    pub(crate) hint: Option<String>,
    /// `!inner`: parents without it are left out.
    pub(crate) inner: bool,
    /// `...`: its columns become columns of the parent.
    pub(crate) spread: bool,
    /// Its own select list.
    pub(crate) items: Vec<Item>,
}

/// Most items of a select list, on all levels together. PostgreSQL takes 1,664 a level.
pub(super) const MAX_ITEMS: usize = 1000;
/// Most embeds among them. PostgreSQL takes seconds to plan more joins.
pub(super) const MAX_EMBEDS: usize = 100;

/// The select list of a request without one: `*`.
pub(super) fn star() -> Vec<Item> {
    vec![Item::Column(Column::star())]
}

/// Reads the parameter.
pub(super) fn select(text: &str) -> Result<Vec<Item>, Error> {
    let list = read("select parameter", text, items)?;
    let (all, embeds) = count_items(&list);
    if all > MAX_ITEMS || embeds > MAX_EMBEDS {
        let details = format!(
            "it has {all} items, {embeds} of them embedded; at most {MAX_ITEMS} and {MAX_EMBEDS} may be"
        );
        return Err(Error::query("\"failed to parse select parameter\"", details));
    }
    Ok(list)
}

/// The number of items, and of embeds among them.
fn count_items(items: &[Item]) -> (usize, usize) {
    items.iter().fold((0, 0), |(all, embeds), item| match item {
        Item::Column(_) => (all + 1, embeds),
        Item::Embed(embed) => {
            let (nested, nested_embeds) = count_items(&embed.items);
            (all + nested + 1, embeds + nested_embeds + 1)
        }
    })
}

fn items(input: &mut Input<'_>) -> Parsed<Vec<Item>> {
    list(0, item, lexeme(char(','))).parse_next(input)
}

fn item(input: &mut Input<'_>) -> Parsed<Item> {
    alt((embed.map(Item::Embed), column.map(Item::Column))).parse_next(input)
}

fn embed(input: &mut Input<'_>) -> Parsed<Embed> {
    let mut embed = alt((lexeme(spread), lexeme(relation))).parse_next(input)?;
    // Only an embed has a list in parentheses: an error in it is final.
    embed.items = delimited(char('('), nested(items), char(')'))
        .parse_next(input)
        .map_err(winnow::error::ErrMode::cut)?;
    Ok(embed)
}

fn spread(input: &mut Input<'_>) -> Parsed<Embed> {
    let name = preceded(word("..."), name).parse_next(input)?;
    params(input, Embed { name, alias: None, hint: None, inner: false, spread: true, items: Vec::new() })
}

fn relation(input: &mut Input<'_>) -> Parsed<Embed> {
    let alias = opt(terminated(name, alias_separator)).parse_next(input)?;
    // `count()` is the aggregate.
    let name = name.verify(|name: &String| name != "count").parse_next(input)?;
    params(input, Embed { name, alias, hint: None, inner: false, spread: false, items: Vec::new() })
}

#[derive(Clone)]
enum Param {
    Join(bool),
    Hint(String),
}

fn params(input: &mut Input<'_>, mut embed: Embed) -> Parsed<Embed> {
    let mut join = None;
    for _ in 0..2 {
        let param = alt((
            word("left").value(Param::Join(false)),
            word("inner").value(Param::Join(true)),
            name.map(Param::Hint),
        ));
        match opt(preceded(char('!'), param)).parse_next(input)? {
            Some(Param::Join(inner)) => join = join.or(Some(inner)),
            Some(Param::Hint(hint)) => embed.hint = embed.hint.or(Some(hint)),
            None => break,
        }
    }
    embed.inner = join.unwrap_or(false);
    winnow::combinator::peek(char('(')).value(embed).parse_next(input)
}

fn alias_separator(input: &mut Input<'_>) -> Parsed<()> {
    if input.input.starts_with("::") {
        return Err(winnow::error::ErrMode::Backtrack(winnow::error::EmptyError));
    }
    char(':').void().parse_next(input)
}

fn column(input: &mut Input<'_>) -> Parsed<Column> {
    lexeme(alt((
        terminated(star_item, end("),")),
        terminated(count_star, end("),")),
        terminated(named_column, end("),")),
    )))
    .parse_next(input)
}

fn star_item(input: &mut Input<'_>) -> Parsed<Column> {
    word("*").map(|_| Column::star()).parse_next(input)
}

fn cast(input: &mut Input<'_>) -> Parsed<Option<String>> {
    opt(preceded(word("::"), identifier)).parse_next(input)
}

fn count_star(input: &mut Input<'_>) -> Parsed<Column> {
    let alias = opt(terminated(name, alias_separator)).parse_next(input)?;
    let aggregate_cast = preceded(word("count()"), cast).parse_next(input)?;
    let field = Field::column("*");
    Ok(Column { field, alias, cast: None, aggregate: Some(Aggregate::Count), aggregate_cast })
}

fn named_column(input: &mut Input<'_>) -> Parsed<Column> {
    let alias = opt(terminated(name, alias_separator)).parse_next(input)?;
    let (field, cast_to) = (field, cast).parse_next(input)?;
    let function = alt((
        word("sum").value(Aggregate::Sum),
        word("avg").value(Aggregate::Avg),
        word("count").value(Aggregate::Count),
        word("max").value(Aggregate::Max),
        word("min").value(Aggregate::Min),
    ));
    let aggregate = opt(delimited(char('.'), function, word("()"))).parse_next(input)?;
    let aggregate_cast = cast(input)?;
    Ok(Column { field, alias, cast: cast_to, aggregate, aggregate_cast })
}
