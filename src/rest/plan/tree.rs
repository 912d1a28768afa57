//! What a plan is made of: readings with their columns, conditions, orders and embeds, all names resolved.

use bytes::Bytes;

use super::super::request::Step;
use super::super::request::filter::Test;
use super::super::request::payload::Json;
use super::super::request::prefer::Resolution;
use super::super::request::range::Rows;
use super::super::request::select::Aggregate;
use crate::schema;

/// The name of something in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name<'a> {
    /// The schema that holds it.
    pub(crate) schema: &'a str,
    /// Its own name.
    pub(crate) name: &'a str,
}

impl<'a> std::convert::From<&'a schema::Name> for Name<'a> {
    fn from(name: &'a schema::Name) -> Self {
        Self { schema: &name.schema, name: &name.name }
    }
}

/// By what name columns of a level are spoken of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Place<'a> {
    /// By the relation's own.
    Relation(Name<'a>),
    /// By an alias.
    Alias(String),
}

/// A reading: one SELECT.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Read<'a> {
    /// Where its rows come from.
    pub(crate) from: From<'a>,
    /// What they are called; needed for all but relations.
    pub(crate) alias: Option<String>,
    /// A table between it and the level around it.
    pub(crate) junction: Option<Name<'a>>,
    /// How it hangs together with the level around it.
    pub(crate) joins: Vec<Join<'a>>,
    /// What is read. Empty without embeds means everything.
    pub(crate) columns: Vec<Column<'a>>,
    /// Which rows.
    pub(crate) filters: Vec<Condition<'a>>,
    /// In which order.
    pub(crate) order: Vec<Order<'a>>,
    /// How many.
    pub(crate) rows: Rows,
    /// What is read with each row.
    pub(crate) embeds: Vec<Embed<'a>>,
}

/// Where rows come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum From<'a> {
    /// A relation.
    Relation(Name<'a>),
    /// What a change or a function gave.
    Source,
    /// A function of the row around it.
    Function {
        /// Its name.
        function: Name<'a>,
        /// What the row around it is called.
        argument: Place<'a>,
        /// Its type, which tells overloads apart.
        of: Name<'a>,
    },
}

impl<'a> Read<'a> {
    /// One that reads nothing yet.
    pub(crate) fn of(from: From<'a>, alias: Option<String>) -> Self {
        Self {
            from,
            alias,
            junction: None,
            joins: Vec::new(),
            columns: Vec::new(),
            filters: Vec::new(),
            order: Vec::new(),
            rows: Rows::default(),
            embeds: Vec::new(),
        }
    }

    /// By what name its columns are spoken of.
    pub(crate) fn place(&self) -> Place<'a> {
        match (&self.alias, &self.from) {
            (Some(alias), _) => Place::Alias(alias.clone()),
            (None, From::Relation(name)) => Place::Relation(*name),
            (None, From::Function { function, .. }) => Place::Alias(function.name.to_owned()),
            (None, From::Source) => Place::Alias(super::SOURCE.to_owned()),
        }
    }
}

/// Two columns that must be equal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Join<'a> {
    /// One.
    pub(crate) one: (Place<'a>, &'a str),
    /// The other.
    pub(crate) other: (Place<'a>, &'a str),
}

/// A value of a row: a column, or a place in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Operand<'a> {
    /// The column; `*` for all.
    pub(crate) column: &'a str,
    /// Steps into it.
    pub(crate) path: &'a [Step],
    /// It is JSON already, so that steps can be made, and indexes on them used.
    pub(crate) json: bool,
    /// Not a column but the whole row.
    pub(crate) whole: bool,
    /// A function that makes of it what is answered, or of a caller's text what it is compared with.
    pub(crate) convert: Option<Name<'a>>,
}

impl<'a> Operand<'a> {
    /// A column as it is.
    pub(crate) fn column(column: &'a str) -> Self {
        Self { column, path: &[], json: false, whole: false, convert: None }
    }
}

/// A column of the answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column<'a> {
    /// What is read.
    pub(crate) operand: Operand<'a>,
    /// The type to cast to, as spelled.
    pub(crate) cast: Option<&'a str>,
    /// What is made of all values.
    pub(crate) aggregate: Option<Aggregate>,
    /// The type to cast that to, as spelled.
    pub(crate) aggregate_cast: Option<&'a str>,
    /// Its name, where that is not the column's.
    pub(crate) alias: Option<String>,
}

impl<'a> Column<'a> {
    /// As it is.
    pub(crate) fn plain(operand: Operand<'a>) -> Self {
        Self { operand, cast: None, aggregate: None, aggregate_cast: None, alias: None }
    }

    /// Its name in the answer.
    pub(crate) fn label(&self) -> &str {
        self.alias.as_deref().unwrap_or(self.operand.column)
    }
}

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Condition<'a> {
    /// Several.
    Group {
        /// NOT
        negated: bool,
        /// OR, or else AND.
        any: bool,
        /// At least one.
        items: Vec<Self>,
    },
    /// One comparison.
    Compare {
        /// What is compared.
        operand: Operand<'a>,
        /// It becomes a text search vector first.
        vector: bool,
        /// NOT
        negated: bool,
        /// With what, and how.
        test: &'a Test,
    },
    /// Whether an embed of this level has rows.
    Embed {
        /// Its place among the embeds.
        embed: usize,
        /// It must have none.
        empty: bool,
    },
}

/// A term of an order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Order<'a> {
    /// The embed of this level whose column it is.
    pub(crate) embed: Option<usize>,
    /// What is ordered by.
    pub(crate) operand: Operand<'a>,
    /// DESC, or ASC.
    pub(crate) descending: Option<bool>,
    /// NULLS FIRST, or NULLS LAST.
    pub(crate) nulls_first: Option<bool>,
}

/// A term of an order by something that was selected under this name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OrderBy {
    /// The name.
    pub(crate) alias: String,
    /// DESC, or ASC.
    pub(crate) descending: Option<bool>,
    /// NULLS FIRST, or NULLS LAST.
    pub(crate) nulls_first: Option<bool>,
}

/// Something that is read with each row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Embed<'a> {
    /// What it is called in SQL.
    pub(crate) label: String,
    /// What it is called in the request: by its alias, or by its name.
    pub(crate) name: &'a str,
    /// Its name without the alias.
    pub(crate) target: &'a str,
    /// Rows without it are left out.
    pub(crate) inner: bool,
    /// What becomes of it.
    pub(crate) shape: Shape<'a>,
    /// At most one row belongs to each row around it.
    pub(crate) to_one: bool,
    /// Nothing was selected of it: it only filters.
    pub(crate) hidden: bool,
    /// What is read.
    pub(crate) read: Read<'a>,
}

/// What becomes of an embed's rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape<'a> {
    /// A JSON object.
    Object,
    /// A JSON array of objects.
    Array,
    /// The columns of the one row become columns of the row around it.
    Spread(Vec<Output<'a>>),
    /// Each column becomes an array, a column of the row around it.
    SpreadArrays {
        /// Those columns.
        outputs: Vec<Output<'a>>,
        /// Read besides, to order by; and the embed inside whose column it is.
        extra: Vec<(Option<usize>, Column<'a>)>,
        /// By those, in the order of the arrays.
        order: Vec<OrderBy>,
    },
}

/// A column that a spread embed gives to the row around it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Output<'a> {
    /// Its name inside; `*` for all.
    pub(crate) name: String,
    /// What is made of all values, which the row around it does.
    pub(crate) aggregate: Option<Aggregate>,
    /// The type to cast that to.
    pub(crate) cast: Option<&'a str>,
    /// Its name outside.
    pub(crate) alias: Option<String>,
}

/// A change of a relation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change<'a> {
    /// What is changed.
    pub(crate) relation: Name<'a>,
    /// How.
    pub(crate) kind: Kind<'a>,
    /// Which rows; for PUT what the row in the body must be like.
    pub(crate) filters: Vec<Condition<'a>>,
    /// The columns that a reading of the rows needs; `*` alone for all, none when nothing is read.
    pub(crate) returning: Vec<&'a str>,
    /// The columns of its primary key.
    pub(crate) key: Vec<&'a str>,
}

/// Kinds of changes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind<'a> {
    /// INSERT
    Insert {
        /// The rows.
        values: Values<'a>,
        /// ON CONFLICT: the key, and what to do.
        conflict: Option<(Vec<&'a str>, Resolution)>,
    },
    /// UPDATE
    Update(Values<'a>),
    /// DELETE
    Delete,
}

/// The rows of a body.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Values<'a> {
    /// The body.
    pub(crate) json: &'a Json,
    /// The keys that are used.
    pub(crate) columns: Vec<Target<'a>>,
    /// Keys that are missing get the columns' defaults, instead of null.
    pub(crate) defaults: bool,
}

/// A key of a body, and what becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target<'a> {
    /// The column, or the argument.
    pub(crate) name: &'a str,
    /// What PostgreSQL reads it as; SQL text out of its own catalog.
    pub(crate) kind: &'a str,
    /// A function that makes the column's value of it.
    pub(crate) convert: Option<Name<'a>>,
    /// The column's default; SQL text out of PostgreSQL's catalog.
    pub(crate) default: Option<&'a str>,
}

/// A call of a function.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call<'a> {
    /// The function.
    pub(crate) function: Name<'a>,
    /// What it is given.
    pub(crate) arguments: Arguments<'a>,
    /// What it gives.
    pub(crate) gives: Gives,
    /// The columns that a reading of its rows needs; `*` alone, or none, for all.
    pub(crate) returning: Vec<&'a str>,
}

/// What a function is given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Arguments<'a> {
    /// The whole body, as this type.
    Whole(Bytes, &'a str),
    /// Keys of a JSON body. True: VARIADIC.
    Json(&'a Json, Vec<(Target<'a>, bool)>),
    /// Texts, and their types. Several for a variadic argument.
    Texts(Vec<(&'a str, &'a str, Given<'a>)>),
}

/// The text of one argument.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Given<'a> {
    /// One.
    One(&'a str),
    /// Those of a variadic argument.
    Many(Vec<&'a str>),
}

/// What a function gives, or a relation has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gives {
    /// Rows.
    Rows,
    /// One row.
    Row,
    /// One value.
    Value,
    /// Values.
    Values,
}

/// Who writes the body.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Handler<'a> {
    /// Nobody: there is none.
    None,
    /// A JSON array, or what a function gives.
    Json { stripped: bool },
    /// One JSON object.
    Object { stripped: bool },
    /// CSV
    Csv,
    /// A GeoJSON collection, by this `ST_AsGeoJSON`.
    GeoJson(Name<'a>),
    /// An aggregate of the database; of rows of this relation, or of any.
    Aggregate(Name<'a>, Option<Name<'a>>),
    /// The value of the function that is called is a body.
    Value,
}
