//! The clauses that reads, changes and calls share: what is selected, filtered, ordered, limited.

use super::super::request::filter::{Filter, Test};
use super::super::request::order::{Rows, Term};
use super::super::request::select::{Field, Item, Key};
use super::snippet::Snippet;
use crate::pg::Ident;
use crate::schema::Relation;

/// Type names that SQL spells as keywords, and what they are; any other name is quoted as an identifier.
const TYPES: [(&str, &str); 29] = [
    ("int", "pg_catalog.int4"),
    ("integer", "pg_catalog.int4"),
    ("int2", "pg_catalog.int2"),
    ("int4", "pg_catalog.int4"),
    ("int8", "pg_catalog.int8"),
    ("smallint", "pg_catalog.int2"),
    ("bigint", "pg_catalog.int8"),
    ("real", "pg_catalog.float4"),
    ("float4", "pg_catalog.float4"),
    ("float8", "pg_catalog.float8"),
    ("float", "pg_catalog.float8"),
    ("double precision", "pg_catalog.float8"),
    ("decimal", "pg_catalog.numeric"),
    ("numeric", "pg_catalog.numeric"),
    ("boolean", "pg_catalog.bool"),
    ("bool", "pg_catalog.bool"),
    ("text", "pg_catalog.text"),
    ("varchar", "pg_catalog.varchar"),
    ("character varying", "pg_catalog.varchar"),
    ("char", "pg_catalog.bpchar"),
    ("character", "pg_catalog.bpchar"),
    ("timestamp", "pg_catalog.timestamp"),
    ("timestamp without time zone", "pg_catalog.timestamp"),
    ("timestamp with time zone", "pg_catalog.timestamptz"),
    ("time", "pg_catalog.time"),
    ("time without time zone", "pg_catalog.time"),
    ("time with time zone", "pg_catalog.timetz"),
    ("bit varying", "pg_catalog.varbit"),
    ("dec", "pg_catalog.numeric"),
];

/// Where rows come from: a relation, or the CTE `_mb_source`.
pub(super) struct Place<'a> {
    name: String,
    relation: Option<&'a Relation>,
}

impl<'a> Place<'a> {
    /// A relation of the schema.
    pub(super) fn relation(relation: &'a Relation) -> Self {
        let name = format!("{}.{}", Ident::new(relation.schema.as_str()), Ident::new(relation.name.as_str()));
        Self { name, relation: Some(relation) }
    }

    /// What a change or a call gave; its columns' types are the relation's, where there is one.
    pub(super) fn source(relation: Option<&'a Relation>) -> Self {
        Self { name: "_mb_source".into(), relation }
    }

    /// The name to put after FROM.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn select(&self, sql: &mut Snippet, items: &[Item]) {
        sql.join(items, ", ", |sql, item| match item {
            Item::All => {
                sql.push(&self.name).push(".*");
            }
            Item::Field { field, alias, cast } => {
                match cast {
                    Some(cast) => {
                        sql.push("CAST(");
                        self.field(sql, field);
                        sql.push(" AS ").push(type_name(cast)).push(")");
                    }
                    None => self.field(sql, field),
                }
                sql.push(" AS ").push(Ident::new(alias.as_deref().unwrap_or(field.label())));
            }
        });
    }

    fn field(&self, sql: &mut Snippet, field: &Field) {
        let column = format!("{}.{}", self.name, Ident::new(field.name.as_str()));
        if field.path.is_empty() {
            sql.push(column);
            return;
        }
        let kind = self.relation.and_then(|r| r.column(&field.name)).map(|c| c.type_name.as_str());
        if matches!(kind, Some("json" | "jsonb")) {
            sql.push("(").push(column);
        } else {
            sql.push("(pg_catalog.to_jsonb(").push(column).push(")");
        }
        for step in &field.path {
            sql.push(if step.as_text { " ->> " } else { " -> " });
            match &step.key {
                Key::Name(key) => sql.bind(key.as_str()).push("::pg_catalog.text"),
                Key::Index(index) => sql.bind(index.to_string()).push("::pg_catalog.int4"),
            };
        }
        sql.push(")");
    }

    /// ` WHERE …`, or nothing.
    pub(super) fn filter(&self, sql: &mut Snippet, filters: &[Filter]) {
        if !filters.is_empty() {
            sql.push(" WHERE ").join(filters, " AND ", |sql, filter| self.condition(sql, filter));
        }
    }

    fn condition(&self, sql: &mut Snippet, filter: &Filter) {
        let (negated, items, between) = match filter {
            Filter::Compare { field, negated, test } => {
                sql.push(if *negated { "NOT (" } else { "" });
                self.compare(sql, field, test);
                sql.push(if *negated { ")" } else { "" });
                return;
            }
            Filter::And(negated, items) => (negated, items, " AND "),
            Filter::Or(negated, items) => (negated, items, " OR "),
        };
        sql.push(if *negated { "NOT (" } else { "(" });
        sql.join(items, between, |sql, item| self.condition(sql, item)).push(")");
    }

    fn compare(&self, sql: &mut Snippet, field: &Field, test: &Test) {
        self.field(sql, field);
        match test {
            Test::Operator(operator, value) => {
                sql.push(" ").push(operator).push(" ").bind(value.as_str());
            }
            Test::Quantified(operator, word, value) => {
                sql.push(" ").push(operator).push(" ").push(word).push(" (").bind(value.as_str()).push(")");
            }
            Test::In(values) => {
                sql.push(" = ANY (").bind(array(values.iter().map(String::as_str))).push(")");
            }
            Test::Is(keyword) => {
                sql.push(" IS ").push(keyword);
            }
            Test::Search(function, configuration, value) => {
                sql.push(" @@ pg_catalog.").push(function).push("(");
                if let Some(configuration) = configuration {
                    sql.bind(configuration.as_str()).push("::pg_catalog.regconfig, ");
                }
                sql.bind(value.as_str()).push(")");
            }
        }
    }

    /// ` ORDER BY …`, or nothing.
    pub(super) fn order(&self, sql: &mut Snippet, terms: &[Term]) {
        if !terms.is_empty() {
            sql.push(" ORDER BY ").join(terms, ", ", |sql, term| {
                self.field(sql, &term.field);
                sql.push(term.direction).push(term.nulls);
            });
        }
    }
}

/// ` LIMIT $n OFFSET $n`, as far as there is a limit.
pub(super) fn limit(sql: &mut Snippet, rows: Rows) {
    if let Some(limit) = rows.limit {
        sql.push(" LIMIT ").bind(limit.to_string());
    }
    if rows.offset > 0 {
        sql.push(" OFFSET ").bind(rows.offset.to_string());
    }
}

/// An array literal (PostgreSQL, "Arrays", 8.15.6), every element quoted, so that none is read as NULL.
pub(super) fn array<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<_> =
        values.map(|value| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    format!("{{{}}}", quoted.join(","))
}

/// A caller's type name as SQL: from the table above, or a quoted identifier, as unquoted SQL would fold it.
fn type_name(spelled: &str) -> String {
    let folded = spelled.trim().to_lowercase();
    let (element, brackets) = folded.strip_suffix("[]").map_or((&*folded, ""), |element| (element, "[]"));
    let known = TYPES.iter().find(|(name, _)| *name == element).map(|(_, name)| (*name).to_owned());
    let named = || element.split('.').map(|part| Ident::new(part).to_string()).collect::<Vec<_>>().join(".");
    format!("{}{brackets}", known.unwrap_or_else(named))
}
