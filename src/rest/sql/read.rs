//! A read as one SELECT: embeds are lateral joins, so that each level is planned and limited on its own.

use super::super::plan::tree::{Column, Embed, Order, Qualifier, Read, Shape, SpreadColumn};
use super::super::request::range::Rows;
use super::condition::{self, Embeds};
use super::kind::type_name;
use super::snippet::Snippet;
use crate::pg::Ident;

/// The whole SELECT.
pub(super) fn read(sql: &mut Snippet, read: &Read<'_>) {
    level(sql, read, &[]);
}

/// With columns that an array in the parent is ordered by.
fn level(sql: &mut Snippet, read: &Read<'_>, order_columns: &[(Option<usize>, Column<'_>)]) {
    let table = read.qualifier();
    sql.push("SELECT ");
    let mut items = Items::default();
    if read.columns.is_empty() && read.embeds.is_empty() {
        items.next(sql, true);
        condition::column(sql, &table, "*");
    }
    for column in &read.columns {
        items.next(sql, column.aggregate.is_none());
        selected(sql, &table, column);
    }
    for (embed, column) in order_columns {
        items.next(sql, true);
        let of = embed.and_then(|embed| read.embeds.get(embed));
        selected(
            sql,
            &of.map_or_else(|| table.clone(), |embed| Qualifier::Alias(embed.label.clone())),
            column,
        );
    }
    for embed in &read.embeds {
        embedded(sql, &mut items, embed);
    }
    sql.push(" FROM ");
    condition::from(sql, read);
    for embed in &read.embeds {
        lateral(sql, embed);
    }
    condition::restrict(sql, read, Embeds::Joined(&read.embeds));
    if items.aggregated && !items.grouped.is_empty() {
        sql.push(" GROUP BY ").join(&items.grouped, ", ", |sql, number| {
            sql.push(*number);
        });
    }
    order(sql, &table, &read.order, &read.embeds);
    limit(sql, read.rows);
}

/// The items of a SELECT: by their number those are grouped by that are not aggregated.
#[derive(Default)]
struct Items {
    count: usize,
    aggregated: bool,
    grouped: Vec<usize>,
}

impl Items {
    fn next(&mut self, sql: &mut Snippet, groups: bool) {
        if self.count > 0 {
            sql.push(", ");
        }
        self.count += 1;
        if groups {
            self.grouped.push(self.count);
        } else {
            self.aggregated = true;
        }
    }
}

fn selected(sql: &mut Snippet, table: &Qualifier<'_>, column: &Column<'_>) {
    if let (Some(_), Some(cast)) = (column.aggregate, column.aggregate_cast) {
        sql.push("CAST(");
        aggregated(sql, table, column);
        type_name(sql.push(" AS "), cast).push(")");
    } else {
        aggregated(sql, table, column);
    }
    if let Some(alias) = &column.alias {
        sql.push(" AS ").push(Ident::new(alias.as_str()));
    }
}

fn aggregated(sql: &mut Snippet, table: &Qualifier<'_>, column: &Column<'_>) {
    if let Some(aggregate) = column.aggregate {
        sql.push("pg_catalog.").push(aggregate.name()).push("(");
    }
    match (column.aggregate, column.cast) {
        (Some(_), _) if column.operand.column == "*" && !column.operand.whole_row => {
            sql.push("*");
        }
        (_, Some(cast)) => {
            sql.push("CAST(");
            condition::converted(sql, table, &column.operand);
            type_name(sql.push(" AS "), cast).push(")");
        }
        (_, None) => condition::converted(sql, table, &column.operand),
    }
    if column.aggregate.is_some() {
        sql.push(")");
    }
}

/// The columns that an embed has in its parent.
fn embedded(sql: &mut Snippet, items: &mut Items, embed: &Embed<'_>) {
    let label = || Ident::new(embed.label.as_str());
    match &embed.shape {
        _ if embed.hidden => {}
        Shape::Object => {
            items.next(sql, true);
            sql.push("pg_catalog.row_to_json(").push(label()).push(".*)::pg_catalog.jsonb AS ");
            sql.push(Ident::new(embed.name));
        }
        Shape::Array => {
            items.next(sql, true);
            sql.push("COALESCE(").push(label()).push(".").push(label()).push(", '[]') AS ");
            sql.push(Ident::new(embed.name));
        }
        Shape::Spread(outputs) | Shape::SpreadArrays { outputs, .. } => {
            for output in outputs {
                items.next(sql, output.aggregate.is_none());
                spread(sql, &embed.label, output);
            }
        }
    }
}

fn spread(sql: &mut Snippet, label: &str, output: &SpreadColumn<'_>) {
    let column =
        |sql: &mut Snippet| condition::column(sql, &Qualifier::Alias(label.to_owned()), &output.name);
    match output.aggregate {
        Some(aggregate) => {
            sql.push(if output.cast.is_some() { "CAST(" } else { "" });
            sql.push("pg_catalog.").push(aggregate.name()).push("(");
            column(sql);
            sql.push(")");
            if let Some(cast) = output.cast {
                type_name(sql.push(" AS "), cast).push(")");
            }
        }
        None => column(sql),
    }
    if let Some(alias) = &output.alias {
        sql.push(" AS ").push(Ident::new(alias.as_str()));
    }
}

fn lateral(sql: &mut Snippet, embed: &Embed<'_>) {
    let label = || Ident::new(embed.label.as_str());
    sql.push(if embed.inner { " INNER" } else { " LEFT" }).push(" JOIN LATERAL (");
    let mut on_rows = false;
    match &embed.shape {
        Shape::Object | Shape::Spread(_) => read(sql, &embed.read),
        Shape::Array => {
            on_rows = true;
            sql.push("SELECT pg_catalog.json_agg(")
                .push(label())
                .push(")::pg_catalog.jsonb AS ")
                .push(label());
            sql.push(" FROM (");
            read(sql, &embed.read);
            sql.push(") AS ").push(label());
        }
        Shape::SpreadArrays { outputs, order_columns, order: terms } => {
            on_rows = true;
            let table = Qualifier::Alias(embed.label.clone());
            sql.push("SELECT pg_catalog.json_agg(")
                .push(label())
                .push(")::pg_catalog.jsonb AS ")
                .push(label());
            for output in outputs {
                sql.push(", COALESCE(pg_catalog.json_agg(");
                condition::column(sql, &table, &output.name);
                if !terms.is_empty() {
                    sql.push(" ORDER BY ").join(terms, ", ", |sql, term| {
                        condition::column(sql, &table, &term.alias);
                        direction(sql, term.descending, term.nulls_first);
                    });
                }
                let name = output.alias.as_deref().unwrap_or(&output.name);
                sql.push("), '[]')::pg_catalog.jsonb AS ").push(Ident::new(name));
            }
            sql.push(" FROM (");
            level(sql, &embed.read, order_columns);
            sql.push(") AS ").push(label());
        }
    }
    sql.push(") AS ").push(label()).push(" ON ");
    if embed.inner && on_rows {
        sql.push(label()).push(" IS NOT NULL");
    } else {
        sql.push("TRUE");
    }
}

fn order(sql: &mut Snippet, table: &Qualifier<'_>, terms: &[Order<'_>], embeds: &[Embed<'_>]) {
    if terms.is_empty() {
        return;
    }
    sql.push(" ORDER BY ").join(terms, ", ", |sql, term| {
        let embed = term.embed.and_then(|embed| embeds.get(embed));
        match embed {
            Some(embed) => condition::operand(sql, &Qualifier::Alias(embed.label.clone()), &term.operand),
            None => condition::operand(sql, table, &term.operand),
        }
        direction(sql, term.descending, term.nulls_first);
    });
}

fn direction(sql: &mut Snippet, descending: Option<bool>, nulls_first: Option<bool>) {
    sql.push(match descending {
        Some(true) => " DESC",
        Some(false) => " ASC",
        None => "",
    });
    sql.push(match nulls_first {
        Some(true) => " NULLS FIRST",
        Some(false) => " NULLS LAST",
        None => "",
    });
}

fn limit(sql: &mut Snippet, rows: Rows) {
    if let Some(limit) = rows.limit {
        sql.push(" LIMIT ").bind(limit.to_string());
    }
    if rows.offset != 0 {
        sql.push(" OFFSET ").bind(rows.offset.to_string());
    }
}
