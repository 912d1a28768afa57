//! What a plan is made of: reads with their columns, conditions, orders and embeds, all names resolved.

use bytes::Bytes;

use super::super::request::Step;
use super::super::request::filter::Test;
use super::super::request::payload::Json;
use super::super::request::prefer::Resolution;
use super::super::request::range::Rows;
use super::super::request::select::Aggregate;
use crate::schema;

/// A name with its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name<'a> {
    /// The schema.
    pub(crate) schema: &'a str,
    /// The name in it.
    pub(crate) name: &'a str,
}

impl<'a> From<&'a schema::Name> for Name<'a> {
    fn from(name: &'a schema::Name) -> Self {
        Self { schema: &name.schema, name: &name.name }
    }
}

/// What stands before the dot in a column reference.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Qualifier<'a> {
    /// The relation's name.
    Relation(Name<'a>),
    /// An alias of the relation.
    Alias(String),
}

/// One level of a read: one SELECT.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Read<'a> {
    /// What it reads from.
    pub(crate) from: FromItem<'a>,
    /// The alias of that; only relations can do without.
    pub(crate) alias: Option<String>,
    /// The junction table between this level and its parent.
    pub(crate) junction: Option<Name<'a>>,
    /// The conditions that join this level to its parent.
    pub(crate) joins: Vec<JoinCondition<'a>>,
    /// The columns that are selected. None, without embeds, means `*`.
    pub(crate) columns: Vec<Column<'a>>,
    /// WHERE; all must hold.
    pub(crate) filters: Vec<Condition<'a>>,
    /// ORDER BY
    pub(crate) order: Vec<Order<'a>>,
    /// LIMIT and OFFSET.
    pub(crate) rows: Rows,
    /// The child levels.
    pub(crate) embeds: Vec<Embed<'a>>,
}

/// What stands in FROM.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FromItem<'a> {
    /// A relation.
    Relation(Name<'a>),
    /// The common table expression [`SOURCE`](super::SOURCE): rows that a change or a call returned.
    Cte,
    /// A computed relationship: a function of the parent's row.
    Function {
        /// The function.
        function: Name<'a>,
        /// The parent.
        argument: Qualifier<'a>,
        /// The parent's row type, which tells overloads apart.
        row_type: Name<'a>,
    },
}

impl<'a> Read<'a> {
    /// A level that selects nothing yet.
    pub(crate) fn new(from: FromItem<'a>, alias: Option<String>) -> Self {
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

    /// Targets and aliases of the embeds that a parameter named by their target, outer ones first.
    pub(crate) fn named_by_target(&self) -> Vec<(&'a str, &'a str)> {
        let mut names = Vec::new();
        for embed in &self.embeds {
            names.extend(embed.by_target.then_some((embed.target, embed.name)));
            names.extend(embed.read.named_by_target());
        }
        names
    }

    /// What qualifies its columns.
    pub(crate) fn qualifier(&self) -> Qualifier<'a> {
        match (&self.alias, &self.from) {
            (Some(alias), _) => Qualifier::Alias(alias.clone()),
            (None, FromItem::Relation(name)) => Qualifier::Relation(*name),
            (None, FromItem::Function { function, .. }) => Qualifier::Alias(function.name.to_owned()),
            (None, FromItem::Cte) => Qualifier::Alias(super::SOURCE.to_owned()),
        }
    }
}

/// `left = right`, two columns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JoinCondition<'a> {
    /// One column.
    pub(crate) left: (Qualifier<'a>, &'a str),
    /// The other.
    pub(crate) right: (Qualifier<'a>, &'a str),
}

/// A value of a row: a column, or a JSON path into it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Operand<'a> {
    /// The column; `*` for all.
    pub(crate) column: &'a str,
    /// The JSON path.
    pub(crate) path: &'a [Step],
    /// The column is json or jsonb. Others are converted before the path is followed; these are not, so that indexes on
    /// their paths are used.
    pub(crate) json: bool,
    /// The whole row instead of a column.
    pub(crate) whole_row: bool,
    /// A domain representation: a function that makes the answer's value of the column's, or the column's of a text.
    pub(crate) convert: Option<Name<'a>>,
}

impl<'a> Operand<'a> {
    /// A column as it is.
    pub(crate) fn column(column: &'a str) -> Self {
        Self { column, path: &[], json: false, whole_row: false, convert: None }
    }
}

/// A column of the answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column<'a> {
    /// What is selected.
    pub(crate) operand: Operand<'a>,
    /// The type to cast to, as the caller spelled it.
    pub(crate) cast: Option<&'a str>,
    /// The aggregate of it.
    pub(crate) aggregate: Option<Aggregate>,
    /// The type to cast the aggregate to, as the caller spelled it.
    pub(crate) aggregate_cast: Option<&'a str>,
    /// Its name in the answer, where that is not the column's.
    pub(crate) alias: Option<String>,
}

impl<'a> Column<'a> {
    /// Without cast, aggregate and alias.
    pub(crate) fn new(operand: Operand<'a>) -> Self {
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
    /// Several conditions in parentheses.
    Group {
        /// NOT
        negated: bool,
        /// OR, or else AND.
        any: bool,
        /// At least one.
        items: Vec<Self>,
    },
    /// A comparison.
    Compare {
        /// Its left side.
        operand: Operand<'a>,
        /// For text search: the operand is no tsvector yet.
        to_tsvector: bool,
        /// NOT
        negated: bool,
        /// Its operator and right side.
        test: &'a Test,
    },
    /// Whether an embed of this level has rows.
    Embed {
        /// Its index in the embeds.
        embed: usize,
        /// It must have none.
        empty: bool,
    },
}

/// A term of ORDER BY.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Order<'a> {
    /// The embed whose column it is, by its index; `None` for this level's own.
    pub(crate) embed: Option<usize>,
    /// What to order by.
    pub(crate) operand: Operand<'a>,
    /// DESC, or ASC.
    pub(crate) descending: Option<bool>,
    /// NULLS FIRST, or NULLS LAST.
    pub(crate) nulls_first: Option<bool>,
}

/// A term of ORDER BY that names a selected column by its alias.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OrderBy {
    /// The alias.
    pub(crate) alias: String,
    /// DESC, or ASC.
    pub(crate) descending: Option<bool>,
    /// NULLS FIRST, or NULLS LAST.
    pub(crate) nulls_first: Option<bool>,
}

/// A relation that is read with each row of its parent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Embed<'a> {
    /// Its alias in SQL.
    pub(crate) label: String,
    /// Its name in the answer and in the request's other parameters: the caller's alias, or the target.
    pub(crate) name: &'a str,
    /// What the caller named it by, without the alias.
    pub(crate) target: &'a str,
    /// Another parameter named it by its target although it has an alias, which PostgREST 16 warns of.
    pub(crate) by_target: bool,
    /// `!inner`: parents without it are left out.
    pub(crate) inner: bool,
    /// What becomes of its rows.
    pub(crate) shape: Shape<'a>,
    /// Each parent has one row of it at most.
    pub(crate) to_one: bool,
    /// Nothing of it is selected: it only filters.
    pub(crate) hidden: bool,
    /// The child level.
    pub(crate) read: Read<'a>,
}

/// What becomes of an embed's rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape<'a> {
    /// A JSON object.
    Object,
    /// A JSON array of objects.
    Array,
    /// To-one spread: its columns become columns of the parent.
    Spread(Vec<SpreadColumn<'a>>),
    /// To-many spread: its columns become arrays in the parent.
    SpreadArrays {
        /// Those columns.
        outputs: Vec<SpreadColumn<'a>>,
        /// Columns that are selected only to order by, and the child's embed they are of, if they are of one.
        order_columns: Vec<(Option<usize>, Column<'a>)>,
        /// The order inside the arrays, by aliases of `order_columns`.
        order: Vec<OrderBy>,
    },
}

/// A column that a spread embed has in its parent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SpreadColumn<'a> {
    /// Its name in the child; `*` for all.
    pub(crate) name: String,
    /// The aggregate of it, made in the parent.
    pub(crate) aggregate: Option<Aggregate>,
    /// The type to cast that to.
    pub(crate) cast: Option<&'a str>,
    /// Its name in the parent, where that is another.
    pub(crate) alias: Option<String>,
}

/// A change of a relation's rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change<'a> {
    /// The relation.
    pub(crate) relation: Name<'a>,
    /// The statement.
    pub(crate) kind: ChangeKind<'a>,
    /// WHERE; for PUT, what must hold for the row in the body.
    pub(crate) filters: Vec<Condition<'a>>,
    /// RETURNING: the columns that the read of the changed rows needs; `*` alone for all.
    pub(crate) returning: Vec<&'a str>,
    /// The columns of the primary key.
    pub(crate) key: Vec<&'a str>,
}

/// The statement of a change.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ChangeKind<'a> {
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
    /// The keys that are used, and where their values go.
    pub(crate) columns: Vec<Target<'a>>,
    /// Columns that get their default, because no row has a key for them.
    pub(crate) defaulted: Vec<&'a str>,
}

/// Where the value of a body's key goes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target<'a> {
    /// The column or argument; also the key.
    pub(crate) name: &'a str,
    /// The type that PostgreSQL reads the value as.
    pub(crate) cast: Name<'a>,
    /// A domain representation: a function that makes the column's value of it.
    pub(crate) convert: Option<Name<'a>>,
    /// Where some rows have no key for it, and then get the column's default: that, as SQL text. PostgreSQL's own DEFAULT
    /// stands for a column in all rows or in none.
    pub(crate) default: Option<&'a str>,
}

/// A call of a function.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call<'a> {
    /// The function.
    pub(crate) function: Name<'a>,
    /// Its arguments.
    pub(crate) arguments: Arguments<'a>,
    /// What it returns.
    pub(crate) result: ResultShape,
    /// The columns of its rows that are read; `*` alone, or none, for all.
    pub(crate) returning: Vec<&'a str>,
}

/// Where the arguments of a call come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Arguments<'a> {
    /// The whole body is the only argument, of this type.
    Whole(Bytes, Name<'a>),
    /// Keys of a JSON body; `true` for a VARIADIC argument.
    Json(&'a Json, Vec<(Target<'a>, bool)>),
    /// Texts of a form or a query string: name, type and value of each argument.
    Texts(Vec<(&'a str, Name<'a>, ArgumentValue<'a>)>),
}

/// The value of an argument, as text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ArgumentValue<'a> {
    /// Of an ordinary argument.
    Single(&'a str),
    /// Of a VARIADIC argument.
    Variadic(Vec<&'a str>),
}

/// What a function returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResultShape {
    /// A set of rows; also what is read of relations.
    Rows,
    /// One row.
    Row,
    /// One value that is no row.
    Scalar,
    /// A set of such values.
    Scalars,
}

/// What makes the body of the answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Handler<'a> {
    /// Nothing: there is no body.
    None,
    /// A JSON array; of a function that returns no set, its one row or value.
    Json { stripped: bool },
    /// One JSON object.
    Object { stripped: bool },
    /// CSV
    Csv,
    /// A GeoJSON collection, by this `ST_AsGeoJSON`.
    GeoJson(Name<'a>),
    /// An aggregate of the database; its argument's row type, if it takes but one.
    Aggregate(Name<'a>, Option<Name<'a>>),
    /// The function that is called returns the body itself.
    Value,
}
