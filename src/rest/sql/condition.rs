//! What rows are read from, which of them, and the values in conditions.

use super::super::plan::tree::{Condition, Embed, FromItem, Name, Operand, Qualifier, Read};
use super::super::request::Key;
use super::super::request::filter::{Is, Operator, Quantifier, Search, Test};
use super::snippet::Snippet;
use crate::pg::Ident;

/// `"schema"."name"`
pub(super) fn name(sql: &mut Snippet, name: Name<'_>) {
    sql.push(Ident::new(name.schema)).push(".").push(Ident::new(name.name));
}

/// `"schema"."relation"`, or an alias.
pub(super) fn qualifier(sql: &mut Snippet, qualifier: &Qualifier<'_>) {
    match qualifier {
        Qualifier::Relation(relation) => name(sql, *relation),
        Qualifier::Alias(alias) => {
            sql.push(Ident::new(alias.as_str()));
        }
    }
}

/// A qualified column; `*` for all.
pub(super) fn column(sql: &mut Snippet, table: &Qualifier<'_>, column: &str) {
    qualifier(sql, table);
    if column == "*" {
        sql.push(".*");
    } else {
        sql.push(".").push(Ident::new(column));
    }
}

/// A value, without what converts it.
pub(super) fn operand(sql: &mut Snippet, table: &Qualifier<'_>, operand: &Operand<'_>) {
    if operand.whole_row {
        return qualifier(sql, table);
    }
    if operand.path.is_empty() {
        return column(sql, table, operand.column);
    }
    if operand.json {
        sql.push("(");
        column(sql, table, operand.column);
    } else {
        sql.push("(pg_catalog.to_jsonb(");
        column(sql, table, operand.column);
        sql.push(")");
    }
    for step in operand.path {
        sql.push(if step.as_text { "->>" } else { "->" });
        match &step.key {
            Key::Name(key) => sql.bind(key.as_str()),
            Key::Index(index) => sql.bind(index.as_str()).push("::pg_catalog.int4"),
        };
    }
    sql.push(")");
}

/// A value as it is answered.
pub(super) fn converted(sql: &mut Snippet, table: &Qualifier<'_>, value: &Operand<'_>) {
    match value.convert {
        Some(function) => {
            name(sql, function);
            sql.push("(");
            operand(sql, table, value);
            sql.push(")");
        }
        None => operand(sql, table, value),
    }
}

/// ` WHERE …` and more, ` AND ` between.
pub(super) fn all(sql: &mut Snippet, table: &Qualifier<'_>, filters: &[Condition<'_>], embeds: Embeds<'_>) {
    sql.join(filters, " AND ", |sql, filter| condition(sql, table, filter, embeds));
}

/// What is behind FROM, but for embeds.
pub(super) fn from(sql: &mut Snippet, read: &Read<'_>) {
    match &read.from {
        FromItem::Relation(relation) => name(sql, *relation),
        FromItem::Cte => {
            sql.push(super::SOURCE);
        }
        FromItem::Function { function, argument, row_type } => {
            name(sql, *function);
            sql.push("(");
            // A relation's own name would be a column's here.
            match argument {
                Qualifier::Relation(relation) => sql.push(Ident::new(relation.name)),
                Qualifier::Alias(alias) => sql.push(Ident::new(alias.as_str())),
            };
            sql.push("::");
            name(sql, *row_type);
            sql.push(")");
        }
    }
    if let Some(alias) = &read.alias {
        sql.push(" AS ").push(Ident::new(alias.as_str()));
    }
    if let Some(junction) = read.junction {
        sql.push(", ");
        name(sql, junction);
    }
}

/// ` WHERE …`, if there is anything to hold.
pub(super) fn restrict(sql: &mut Snippet, read: &Read<'_>, embeds: Embeds<'_>) {
    let lookups: Vec<_> = match embeds {
        Embeds::Joined(_) => Vec::new(),
        Embeds::Looked(list) => list.iter().filter(|embed| embed.inner).collect(),
    };
    if read.filters.is_empty() && read.joins.is_empty() && lookups.is_empty() {
        return;
    }
    sql.push(" WHERE ");
    all(sql, &read.qualifier(), &read.filters, embeds);
    let mut first = read.filters.is_empty();
    for join in &read.joins {
        sql.push(if first { "" } else { " AND " });
        first = false;
        column(sql, &join.left.0, join.left.1);
        sql.push(" = ");
        column(sql, &join.right.0, join.right.1);
    }
    for embed in lookups {
        sql.push(if first { "" } else { " AND " }).push("EXISTS (");
        first = false;
        counted(sql, &embed.read);
        sql.push(")");
    }
}

/// A SELECT with the same rows, before any limit, and nothing in them.
pub(super) fn counted(sql: &mut Snippet, read: &Read<'_>) {
    sql.push("SELECT 1 FROM ");
    from(sql, read);
    restrict(sql, read, Embeds::Looked(&read.embeds));
}

/// How an embed in a condition is meant.
#[derive(Clone, Copy)]
pub(super) enum Embeds<'a> {
    /// By the name under which it was joined.
    Joined(&'a [Embed<'a>]),
    /// It is not there, so whether it has rows is looked up.
    Looked(&'a [Embed<'a>]),
}

fn condition(sql: &mut Snippet, table: &Qualifier<'_>, filter: &Condition<'_>, embeds: Embeds<'_>) {
    match filter {
        Condition::Group { negated, any, items } => {
            sql.push(if *negated { "NOT (" } else { "(" });
            let between = if *any { " OR " } else { " AND " };
            sql.join(items, between, |sql, item| condition(sql, table, item, embeds)).push(")");
        }
        Condition::Embed { embed, empty } => match embeds {
            Embeds::Joined(list) => {
                if let Some(embed) = list.get(*embed) {
                    sql.push(Ident::new(embed.label.as_str()));
                    sql.push(if *empty { " IS NOT DISTINCT FROM NULL" } else { " IS DISTINCT FROM NULL" });
                }
            }
            Embeds::Looked(list) => {
                if let Some(embed) = list.get(*embed) {
                    sql.push(if *empty { "NOT EXISTS (" } else { "EXISTS (" });
                    counted(sql, &embed.read);
                    sql.push(")");
                }
            }
        },
        Condition::Compare { operand: value, to_tsvector, negated, test } => {
            if *negated {
                sql.push("NOT ");
            }
            match test {
                Test::Search(_, language, _) if *to_tsvector => {
                    sql.push("pg_catalog.to_tsvector(");
                    configuration(sql, language.as_deref());
                    operand(sql, table, value);
                    sql.push(")");
                }
                _ => operand(sql, table, value),
            }
            compare(sql, test, value.convert);
        }
    }
}

fn configuration(sql: &mut Snippet, language: Option<&str>) {
    if let Some(language) = language {
        sql.bind(language).push("::pg_catalog.regconfig, ");
    }
}

fn compare(sql: &mut Snippet, test: &Test, convert: Option<Name<'_>>) {
    let value = |sql: &mut Snippet, text: &str| match convert {
        Some(function) => {
            name(sql, function);
            sql.push("(").bind(text).push(")");
        }
        None => {
            sql.bind(text);
        }
    };
    match test {
        Test::Operator(operator, quantifier, text) => {
            sql.push(" ").push(symbol(*operator)).push(" ");
            let like = matches!(operator, Operator::Like | Operator::Ilike);
            let word = match quantifier {
                Some(Quantifier::Any) => "ANY(",
                Some(Quantifier::All) => "ALL(",
                None => "",
            };
            sql.push(word);
            if like {
                // `*` is easier to write in a URL than `%`.
                sql.bind(text.replace('*', "%"));
            } else {
                value(sql, text);
            }
            sql.push(if word.is_empty() { "" } else { ")" });
        }
        Test::Distinct(text) => {
            sql.push(" IS DISTINCT FROM ").bind(text.as_str());
        }
        Test::In(values) if values.len() == 1 && values[0].is_empty() => {
            sql.push(" = ANY ('{}')");
        }
        Test::In(values) => {
            let literal = array(values.iter().map(String::as_str));
            sql.push(" = ANY (");
            match convert {
                Some(function) => {
                    sql.push("(SELECT ");
                    name(sql, function);
                    sql.push("(pg_catalog.unnest(").bind(literal).push("::pg_catalog.text[])))");
                }
                None => {
                    sql.bind(literal);
                }
            }
            sql.push(")");
        }
        Test::Is(is) => {
            sql.push(match is {
                Is::Null => " IS NULL",
                Is::NotNull => " IS NOT NULL",
                Is::True => " IS TRUE",
                Is::False => " IS FALSE",
                Is::Unknown => " IS UNKNOWN",
            });
        }
        Test::Search(search, language, text) => {
            sql.push(match search {
                Search::Query => " @@ pg_catalog.to_tsquery(",
                Search::Plain => " @@ pg_catalog.plainto_tsquery(",
                Search::Phrase => " @@ pg_catalog.phraseto_tsquery(",
                Search::Web => " @@ pg_catalog.websearch_to_tsquery(",
            });
            configuration(sql, language.as_deref());
            sql.bind(text.as_str()).push(")");
        }
    }
}

fn symbol(operator: Operator) -> &'static str {
    match operator {
        Operator::NotEqual => "<>",
        Operator::Contains => "@>",
        Operator::Contained => "<@",
        Operator::Overlaps => "&&",
        Operator::Left => "<<",
        Operator::Right => ">>",
        Operator::NotRight => "&<",
        Operator::NotLeft => "&>",
        Operator::Adjacent => "-|-",
        Operator::Equal => "=",
        Operator::GreaterEqual => ">=",
        Operator::Greater => ">",
        Operator::LessEqual => "<=",
        Operator::Less => "<",
        Operator::Like => "LIKE",
        Operator::Ilike => "ILIKE",
        Operator::Match => "~",
        Operator::Imatch => "~*",
    }
}

/// An array literal (PostgreSQL, "Arrays", 8.15.6), every element quoted, so that none is read as NULL.
pub(super) fn array<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<_> =
        values.map(|value| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    format!("{{{}}}", quoted.join(","))
}
