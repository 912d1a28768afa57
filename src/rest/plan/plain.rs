//! Whether a reading runs nothing but the server's own code. Then nobody is there who could look at the request's
//! settings or leave anything in the session, so the one need not be sent and the other not be reset. Nor does it
//! depend on the search path.

use super::super::request::filter::Test;
use super::tree::{Column, Condition, Embed, From, Name, Operand, Output, Read, Shape};
use crate::schema::{Relation, Schema};

/// Most columns of all relations together: each is one of the main query's as well.
const COLUMNS: usize = 200;

/// The relations that are read, each once, when all of them are [plain](Relation::plain) and so is all that is made of
/// their columns: no function, no cast to a type that might be the owner's.
pub(super) fn relations<'a>(schema: &Schema, read: &Read<'a>) -> Option<Vec<Name<'a>>> {
    let mut found = Vec::new();
    let plain = level(schema, read, &mut found);
    let columns = |name: &Name<'_>| schema.relation(name.schema, name.name).map_or(0, |of| of.columns.len());
    (plain && found.iter().map(columns).sum::<usize>() <= COLUMNS).then_some(found)
}

fn level<'a>(schema: &Schema, read: &Read<'a>, found: &mut Vec<Name<'a>>) -> bool {
    let Some(relation) = relation(schema, read) else { return false };
    let From::Relation(name) = read.from else { return false };
    if !found.contains(&name) {
        found.push(name);
    }
    if let Some(junction) = read.junction {
        if !schema.relation(junction.schema, junction.name).is_some_and(|relation| relation.plain) {
            return false;
        }
        if !found.contains(&junction) {
            found.push(junction);
        }
    }
    // What a term of an order speaks of may be a column of an embed.
    let of = |embed: Option<usize>| match embed {
        Some(embed) => self::relation(schema, &read.embeds.get(embed)?.read),
        None => Some(relation),
    };
    read.columns.iter().all(|column| is_plain(relation, column))
        && read.filters.iter().all(|filter| compares(relation, filter))
        && read.order.iter().all(|term| of(term.embed).is_some_and(|relation| knows(relation, &term.operand)))
        && read.embeds.iter().all(|embed| shape(schema, embed) && level(schema, &embed.read, found))
}

fn relation<'s>(schema: &'s Schema, read: &Read<'_>) -> Option<&'s Relation> {
    let From::Relation(name) = read.from else { return None };
    schema.relation(name.schema, name.name).filter(|relation| relation.plain)
}

fn is_plain(relation: &Relation, column: &Column<'_>) -> bool {
    column.cast.is_none() && column.aggregate_cast.is_none() && knows(relation, &column.operand)
}

/// A name that is no column could be a function's: `row.name` is also a way to call one.
fn knows(relation: &Relation, operand: &Operand<'_>) -> bool {
    operand.convert.is_none() && (operand.column == "*" || relation.column(operand.column).is_some())
}

fn compares(relation: &Relation, condition: &Condition<'_>) -> bool {
    match condition {
        Condition::Group { items, .. } => items.iter().all(|item| compares(relation, item)),
        // Names of search configurations are looked for along the search path.
        Condition::Compare { operand, test, .. } => {
            knows(relation, operand) && !matches!(test, Test::Search(..))
        }
        Condition::Embed { .. } => true,
    }
}

fn shape(schema: &Schema, embed: &Embed<'_>) -> bool {
    let uncast = |outputs: &[Output<'_>]| outputs.iter().all(|output| output.cast.is_none());
    match &embed.shape {
        Shape::Object | Shape::Array => true,
        Shape::Spread(outputs) => uncast(outputs),
        Shape::SpreadArrays { outputs, extra, .. } => {
            uncast(outputs)
                && extra.iter().all(|(inside, column)| {
                    let of = match inside {
                        Some(inside) => embed.read.embeds.get(*inside).map(|embed| &embed.read),
                        None => Some(&embed.read),
                    };
                    of.and_then(|read| relation(schema, read)).is_some_and(|of| is_plain(of, column))
                })
        }
    }
}
