//! Reads: every level of the select list with its conditions, order, limits, and its join to the level above.

use std::collections::BTreeSet;

use super::super::error::{Code, Error};
use super::super::request::filter::{Compare, Filter, Is, Test};
use super::super::request::order::Term;
use super::super::request::query::Query;
use super::super::request::range::Rows;
use super::super::request::select::{self, Aggregate, Item};
use super::super::request::{Field, Key, Step};
use super::columns::Columns;
use super::join;
use super::tree::{
    Column, Condition, Embed, FromItem, Name, Operand, Order, OrderBy, Read, Shape, SpreadColumn,
};
use super::work::Work;
use crate::schema::{Join, Relation, Schema};

/// Longest identifier, in bytes: PostgreSQL cuts longer ones off, and two that begin alike become the same.
const MAX_IDENTIFIER: usize = 63;

/// What a read is planned with.
pub(super) struct Context<'a> {
    pub(super) schema: &'a Schema,
    pub(super) aggregates: bool,
    pub(super) max_rows: Option<u64>,
    /// An embed that has an alias may also be named by its target.
    pub(super) legacy_target_names: bool,
    /// The rows are those of a change, which has their conditions and limits already.
    pub(super) change: bool,
    pub(super) work: Work,
}

/// One level of the select list, with what the other parameters have for it.
struct Node<'a> {
    embed: Option<&'a select::Embed>,
    /// A parameter named it by its target although it has an alias.
    by_target: bool,
    columns: Vec<&'a select::Column>,
    children: Vec<Node<'a>>,
    compares: Vec<&'a Compare>,
    groups: Vec<&'a Filter>,
    order: &'a [Term],
    rows: Rows,
}

impl<'a> Node<'a> {
    fn new(embed: Option<&'a select::Embed>, items: &'a [Item]) -> Self {
        let (mut columns, mut children) = (Vec::new(), Vec::new());
        for item in items {
            match item {
                Item::Column(column) => columns.push(column),
                Item::Embed(embed) => children.push(Self::new(Some(embed), &embed.items)),
            }
        }
        let (compares, groups, order) = (Vec::new(), Vec::new(), &[][..]);
        Self { embed, by_target: false, columns, children, compares, groups, order, rows: Rows::default() }
    }

    /// Its name in the answer and in the other parameters.
    fn name(&self) -> &'a str {
        self.embed.map_or("", |embed| embed.alias.as_deref().unwrap_or(&embed.name))
    }

    /// The level that these names lead to.
    fn at(&mut self, path: &[String], legacy: bool) -> Result<&mut Self, Error> {
        let Some((first, rest)) = path.split_first() else { return Ok(self) };
        let by_target = |node: &Self| node.embed.is_some_and(|embed| embed.name == *first);
        let found = self.children.iter().position(|node| node.name() == first || (legacy && by_target(node)));
        let Some(found) = found else {
            let aliased = self.children.iter().find(|node| by_target(node));
            return Err(aliased.map_or_else(|| not_embedded(first), |node| target_name(first, node.name())));
        };
        let node = &mut self.children[found];
        node.by_target |= node.name() != first;
        node.at(rest, legacy)
    }
}

fn target_name(target: &str, alias: &str) -> Error {
    not_embedded(target)
        .with_details("Target names are not allowed in filters if they have an alias")
        .with_hint(format!("Change '{target}' to '{alias}' in filters, orders or limits."))
}

fn not_embedded(name: &str) -> Error {
    let message = format!("'{name}' is not an embedded resource in this request");
    let hint = format!("Verify that '{name}' is included in the 'select' query parameter.");
    Error::new(Code::NotEmbedded, message).with_hint(hint)
}

fn aggregates_disabled() -> Error {
    Error::new(Code::AggregatesNotAllowed, "Use of aggregate functions is not allowed")
}

/// The read of `from`, whose columns are those of `origin`.
pub(super) fn plan<'a>(
    context: &Context<'a>,
    query: &'a Query,
    rows: Rows,
    from: FromItem<'a>,
    origin: Name<'a>,
) -> Result<Read<'a>, Error> {
    let mut root = Node::new(None, &query.select);
    let legacy = context.legacy_target_names;
    for (path, compare) in query.filters.iter().filter(|(path, _)| !context.change || !path.is_empty()) {
        root.at(path, legacy)?.compares.push(compare);
    }
    for (path, terms) in &query.order {
        root.at(path, legacy)?.order = terms;
    }
    if !context.change {
        root.rows = rows;
        for (path, rows) in &query.ranges {
            root.at(path, legacy)?.rows = *rows;
        }
    }
    for (path, group) in query.logic.iter().filter(|(path, _)| !context.change || !path.is_empty()) {
        root.at(path, legacy)?.groups.push(group);
    }
    let alias = match from {
        FromItem::Cte => Some(origin.name.to_owned()),
        _ => None,
    };
    let read = Read::new(from, alias);
    let mut level = Level { context, depth: 0, origin, aggregated: false, spread: None };
    level.fill(read, &root)
}

/// How a level is spread into its parent.
#[derive(Clone, Copy, PartialEq)]
enum Spread {
    ToOne,
    ToMany,
}

struct Level<'c, 'a> {
    context: &'c Context<'a>,
    depth: usize,
    /// The relation whose columns its rows have.
    origin: Name<'a>,
    /// A level above is aggregated.
    aggregated: bool,
    spread: Option<Spread>,
}

impl<'a> Level<'_, 'a> {
    fn fill(&mut self, mut read: Read<'a>, node: &Node<'a>) -> Result<Read<'a>, Error> {
        let context = self.context;
        let relation = context.schema.relation(self.origin.schema, self.origin.name);
        if !context.aggregates && node.columns.iter().any(|c| c.aggregate.is_some()) {
            return Err(aggregates_disabled());
        }
        self.aggregated |= node.columns.iter().any(|c| c.aggregate.is_some());
        self.aggregated |= self.spread == Some(Spread::ToMany);
        for child in &node.children {
            read.embeds.push(self.embed(&read, child)?);
        }
        let expands = self.aggregated
            || relation.is_some_and(|r| {
                r.columns.iter().any(|c| json_representation(context.schema, &c.type_name).is_some())
            });
        let known = Columns::of(relation);
        for column in &node.columns {
            self.column(&mut read.columns, &known, column, expands)?;
        }
        for compare in &node.compares {
            read.filters.push(comparison(context.schema, &known, compare, &read.embeds));
        }
        for group in &node.groups {
            read.filters.push(condition(context.schema, &known, group, &read.embeds));
        }
        for term in node.order {
            read.order.push(self.term(&known, term, &read)?);
        }
        read.rows = if context.change { node.rows } else { node.rows.at_most(context.max_rows) };
        Ok(read)
    }

    fn column(
        &self,
        columns: &mut Vec<Column<'a>>,
        known: &Columns<'a>,
        item: &'a select::Column,
        expands: bool,
    ) -> Result<(), Error> {
        let schema = self.context.schema;
        if item.field.name == "*"
            && item.field.path.is_empty()
            && item.aggregate.is_none()
            && expands
            && !known.all().is_empty()
        {
            self.context.work.columns(known.all().len())?;
            columns.extend(known.all().iter().map(|column| {
                let convert = json_representation(schema, &column.type_name);
                let alias = convert.map(|_| column.name.clone());
                let operand = Operand { convert, ..Operand::column(&column.name) };
                Column { alias, ..Column::new(operand) }
            }));
            return Ok(());
        }
        let mut operand = operand(known, &item.field);
        operand.convert =
            column_type(known, &item.field.name).and_then(|kind| json_representation(schema, kind));
        // `count(*)` in the parent would count the parent's rows.
        operand.whole_row =
            self.spread.is_some() && item.aggregate == Some(Aggregate::Count) && item.field.name == "*";
        let alias = item.alias.clone().or_else(|| match item.aggregate {
            Some(aggregate) => self.spread.map(|_| aggregate.name().to_owned()),
            None => last_key(&item.field).or_else(|| operand.convert.map(|_| item.field.name.clone())),
        });
        columns.push(Column {
            operand,
            cast: item.cast.as_deref(),
            aggregate: item.aggregate,
            aggregate_cast: item.aggregate_cast.as_deref(),
            alias,
        });
        Ok(())
    }

    fn term(&self, known: &Columns<'a>, term: &'a Term, read: &Read<'a>) -> Result<Order<'a>, Error> {
        let Term { embed, field, descending, nulls_first } = term;
        let (descending, nulls_first) = (*descending, *nulls_first);
        let Some(name) = embed else {
            let operand = operand(known, field);
            return Ok(Order { embed: None, operand, descending, nulls_first });
        };
        let at = read.embeds.iter().position(|embed| embed.name == name).ok_or_else(|| not_embedded(name))?;
        if !read.embeds[at].to_one {
            let message = format!("A related order on '{name}' is not possible");
            let origin = self.origin.name;
            let details =
                format!("'{origin}' and '{name}' do not form a many-to-one or one-to-one relationship");
            return Err(Error::new(Code::RelatedOrderNotToOne, message).with_details(details));
        }
        let operand = operand(&Columns::of(None), field);
        Ok(Order { embed: Some(at), operand, descending, nulls_first })
    }

    /// Plans a child of `read`.
    fn embed(&self, read: &Read<'a>, node: &Node<'a>) -> Result<Embed<'a>, Error> {
        let Some(asked) = node.embed else { return Err(Error::internal("an embed without a name")) };
        let context = self.context;
        let depth = self.depth + 1;
        let origin = self.origin;
        context.work.relationships(context.schema.relationships(origin.schema, origin.name).len())?;
        let relationship = join::find(context.schema, origin, asked)?;
        let target = Name::from(&relationship.to);
        let label = label(&[origin.name, node.name()], depth);
        let alias = label_of(target.name, depth);
        let to_one = relationship.is_to_one();
        let spread = asked.spread.then_some(if to_one { Spread::ToOne } else { Spread::ToMany });
        let mut child = Read::new(FromItem::Relation(target), Some(alias));
        match &relationship.join {
            Join::Computed { function, .. } => {
                let (function, row_type) = (Name::from(function), Name::from(&relationship.from));
                child.from = FromItem::Function { function, argument: read.qualifier(), row_type };
            }
            join => {
                child.joins = join::conditions(relationship, &read.qualifier(), &child.qualifier());
                child.junction = match join {
                    Join::ManyToMany(junction) => Some(Name::from(&junction.relation)),
                    _ => None,
                };
            }
        }
        let mut level = Level { context, depth, origin: target, aggregated: self.aggregated, spread };
        let mut child = level.fill(child, node)?;
        let shape = match spread {
            None if to_one => Shape::Object,
            None => Shape::Array,
            Some(Spread::ToOne) => Shape::Spread(hoist(&mut child)),
            Some(Spread::ToMany) => arrays(&label, &mut child)?,
        };
        if let Shape::Spread(outputs) | Shape::SpreadArrays { outputs, .. } = &shape {
            context.work.columns(outputs.len())?;
        }
        let hidden = spread.is_none() && is_hidden(&child);
        let (name, target) = (node.name(), asked.name.as_str());
        let by_target = node.by_target;
        Ok(Embed { label, name, target, by_target, inner: asked.inner, shape, to_one, hidden, read: child })
    }
}

/// Whether nothing is selected of it, nor of its children.
fn is_hidden(read: &Read<'_>) -> bool {
    read.columns.is_empty() && read.embeds.iter().all(|embed| is_hidden(&embed.read))
}

fn label(parts: &[&str], depth: usize) -> String {
    label_of(&parts.join("_"), depth)
}

fn label_of(name: &str, depth: usize) -> String {
    let mut label = format!("{name}_{depth}");
    if label.len() > MAX_IDENTIFIER {
        // Two long names may begin alike: a checksum keeps them apart.
        let sum = name.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let mut end = MAX_IDENTIFIER - 24;
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        label = format!("{}_{sum:08x}_{depth}", &name[..end]);
    }
    label
}

/// The columns that a spread level has in its parent.
fn outputs<'a>(read: &Read<'a>) -> Vec<SpreadColumn<'a>> {
    let column =
        |name: &str| SpreadColumn { name: name.to_owned(), aggregate: None, cast: None, alias: None };
    let mut outputs: Vec<_> = read.columns.iter().map(|selected| column(selected.label())).collect();
    for embed in read.embeds.iter().filter(|embed| !embed.hidden) {
        match &embed.shape {
            Shape::Object | Shape::Array => outputs.push(column(embed.name)),
            Shape::Spread(inner) | Shape::SpreadArrays { outputs: inner, .. } => {
                outputs.extend(inner.iter().map(|o| column(o.alias.as_deref().unwrap_or(&o.name))));
            }
        }
    }
    outputs
}

/// Moves aggregates of a to-one spread into the parent: an aggregate of one row would be none.
fn hoist<'a>(read: &mut Read<'a>) -> Vec<SpreadColumn<'a>> {
    let mut outputs = outputs(read);
    let mut slots = outputs.iter_mut();
    for (column, output) in read.columns.iter_mut().zip(&mut slots) {
        if let Some(aggregate) = column.aggregate.take() {
            output.aggregate = Some(aggregate);
            output.cast = column.aggregate_cast.take();
            output.alias.clone_from(&column.alias);
        }
    }
    for embed in read.embeds.iter_mut().filter(|embed| !embed.hidden) {
        match &mut embed.shape {
            Shape::Object | Shape::Array => drop(slots.next()),
            Shape::Spread(inner) | Shape::SpreadArrays { outputs: inner, .. } => {
                for (nested, output) in inner.iter_mut().zip(&mut slots) {
                    if let Some(aggregate) = nested.aggregate.take() {
                        output.name.clone_from(&nested.name);
                        output.aggregate = Some(aggregate);
                        output.cast = nested.cast.take();
                        output.alias = nested.alias.take();
                    }
                }
            }
        }
    }
    outputs
}

fn arrays<'a>(label: &str, read: &mut Read<'a>) -> Result<Shape<'a>, Error> {
    let inner = |embed: &Embed<'a>| match &embed.shape {
        Shape::Spread(outputs) => outputs.iter().any(|output| output.aggregate.is_some()),
        _ => false,
    };
    if read.columns.iter().any(|c| c.aggregate.is_some()) || read.embeds.iter().any(inner) {
        let details = "Aggregates are not implemented for one-to-many or many-to-many spreads.";
        return Err(Error::new(Code::NotImplemented, "Feature not implemented").with_details(details));
    }
    let outputs = outputs(read);
    let (mut order_columns, mut order) = (Vec::new(), Vec::new());
    // The order is that inside the arrays, by columns that need not be among the selected ones.
    for (index, term) in std::mem::take(&mut read.order).into_iter().enumerate() {
        let alias = label_of(&format!("{label}_{}", term.operand.column), index + 1);
        order.push((alias.clone(), term.descending, term.nulls_first));
        order_columns.push((term.embed, Column { alias: Some(alias), ..Column::new(term.operand) }));
    }
    let order = order
        .into_iter()
        .map(|(alias, descending, nulls_first)| OrderBy { alias, descending, nulls_first })
        .collect();
    Ok(Shape::SpreadArrays { outputs, order_columns, order })
}

/// The columns that a change or call must return for this read of its rows; `*` alone for all.
pub(super) fn needed<'a>(read: &Read<'a>, keys: &[&'a str]) -> Vec<&'a str> {
    let mut names: BTreeSet<&'a str> = read.columns.iter().map(|column| column.operand.column).collect();
    let function = |embed: &Embed<'_>| matches!(embed.read.from, FromItem::Function { .. });
    if names.contains("*") || read.embeds.iter().any(function) {
        return vec!["*"];
    }
    let qualifier = read.qualifier();
    for join in read.embeds.iter().flat_map(|embed| &embed.read.joins) {
        for (table, column) in [&join.left, &join.right] {
            if *table == qualifier {
                names.insert(column);
            }
        }
    }
    names.extend(keys);
    names.into_iter().collect()
}

/// The columns that conditions and order of a level name.
pub(super) fn named<'a>(read: &Read<'a>) -> Vec<&'a str> {
    fn collect<'a>(condition: &Condition<'a>, names: &mut Vec<&'a str>) {
        match condition {
            Condition::Group { items, .. } => items.iter().for_each(|item| collect(item, names)),
            Condition::Compare { operand, .. } => names.push(operand.column),
            Condition::Embed { .. } => {}
        }
    }
    let mut names = Vec::new();
    read.filters.iter().for_each(|filter| collect(filter, &mut names));
    names.extend(read.order.iter().filter(|term| term.embed.is_none()).map(|term| term.operand.column));
    names
}

fn column_type<'a>(known: &Columns<'a>, name: &str) -> Option<&'a str> {
    known.get(name).map(|column| column.type_name.as_str())
}

/// The domain representation of a type in JSON, if it has one.
fn json_representation<'a>(schema: &'a Schema, kind: &str) -> Option<Name<'a>> {
    schema.representation(kind, "json").map(Name::from)
}

fn operand<'a>(known: &Columns<'a>, field: &'a Field) -> Operand<'a> {
    let json = matches!(column_type(known, &field.name), Some("json" | "jsonb"));
    Operand { path: &field.path, json, ..Operand::column(&field.name) }
}

/// The name of a JSON path in an answer: its last key that is no index, or else the column.
fn last_key(field: &Field) -> Option<String> {
    field.path.last()?;
    let named = |step: &Step| match &step.key {
        Key::Name(name) => Some(name.clone()),
        Key::Index(_) => None,
    };
    Some(field.path.iter().rev().find_map(named).unwrap_or_else(|| field.name.clone()))
}

fn comparison<'a>(
    schema: &'a Schema,
    known: &Columns<'a>,
    compare: &'a Compare,
    embeds: &[Embed<'a>],
) -> Condition<'a> {
    let Compare { field, negated, test } = compare;
    if field.path.is_empty()
        && *test == Test::Is(Is::Null)
        && let Some(embed) = embeds.iter().position(|embed| embed.name == field.name)
    {
        return Condition::Embed { embed, empty: !negated };
    }
    let mut operand = operand(known, field);
    let column = known.get(&field.name);
    operand.convert =
        column.and_then(|column| schema.representation("text", &column.type_name)).map(Name::from);
    let to_tsvector = column.is_some_and(|column| column.base_type != "tsvector");
    Condition::Compare { operand, to_tsvector, negated: *negated, test }
}

/// A condition on a level's columns, or on its embeds.
pub(super) fn condition<'a>(
    schema: &'a Schema,
    known: &Columns<'a>,
    filter: &'a Filter,
    embeds: &[Embed<'a>],
) -> Condition<'a> {
    match filter {
        Filter::Compare(compare) => comparison(schema, known, compare, embeds),
        Filter::Group(group) => Condition::Group {
            negated: group.negated,
            any: group.any,
            items: group.items.iter().map(|item| condition(schema, known, item, embeds)).collect(),
        },
    }
}

/// The conditions of a change: those that are not for embeds.
pub(super) fn conditions<'a>(
    schema: &'a Schema,
    relation: &'a Relation,
    query: &'a Query,
) -> Vec<Condition<'a>> {
    let known = Columns::of(Some(relation));
    let own = query.filters.iter().filter(|(path, _)| path.is_empty());
    let compares = own.map(|(_, compare)| comparison(schema, &known, compare, &[]));
    let groups = query.logic.iter().filter(|(path, _)| path.is_empty());
    let groups = groups.map(|(_, group)| condition(schema, &known, group, &[]));
    compares.chain(groups).collect()
}
