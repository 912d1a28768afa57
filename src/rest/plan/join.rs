//! Relationships: which one an embed means, and how its rows are joined.

use serde_json::{Value, json};

use super::super::error::{Code, Error};
use super::super::request::select::Embed;
use super::listed;
use super::suggest::{self, LOOSE_SIMILARITY};
use super::tree::{JoinCondition, Name, Qualifier};
use crate::schema::{ColumnPair, Join, Relationship, Schema};

/// Finds the relationship that an embed in `origin` names.
///
/// # Errors
/// 400 PGRST200 when there is none, 300 PGRST201 when there are several.
pub(super) fn find<'a>(
    schema: &'a Schema,
    origin: Name<'a>,
    asked: &Embed,
) -> Result<&'a Relationship, Error> {
    let all = schema.relationships(origin.schema, origin.name);
    let named: Vec<_> = all.iter().filter(|r| is_named(r, &asked.name, asked.hint.as_deref())).collect();
    // A computed relationship overrides those of foreign keys.
    let function = named.iter().find(|r| matches!(r.join, Join::Computed { .. }));
    match (function, &named[..]) {
        (Some(relationship), _) | (None, [relationship]) => Ok(relationship),
        (None, []) => Err(not_found(schema, origin, asked)),
        (None, several) => Err(ambiguous(origin, &asked.name, several)),
    }
}

/// PostgREST, "Resource Embedding": a target is named by its relation, or by the foreign key that leads there. The hint
/// is a foreign key, a column of one on either side, or the junction.
fn is_named(relationship: &Relationship, target: &str, hint: Option<&str>) -> bool {
    let to = relationship.to.name == target;
    let one = |columns: &[ColumnPair]| match columns {
        [pair] => Some(pair.clone()),
        _ => None,
    };
    let pair = one(relationship.columns());
    let own_column = |name: &str| pair.as_ref().is_some_and(|(own, _)| own == name);
    let other_column = |name: &str| pair.as_ref().is_some_and(|(_, other)| other == name);
    let many = matches!(relationship.join, Join::OneToMany { .. });
    match (&relationship.join, hint) {
        (Join::Computed { function, .. }, _) => function.name == target,
        // One key makes two relationships here: the relation's name means many, the column's name means one.
        (_, None) if relationship.is_self => {
            (to && many) || (own_column(target) && matches!(relationship.join, Join::ManyToOne { .. }))
        }
        (_, Some(hint)) if relationship.is_self => to && many && other_column(hint),
        (_, None) => {
            let key = relationship.constraint() == Some(target) || own_column(target);
            to || (key && !relationship.to_view)
        }
        (Join::ManyToMany(junction), Some(hint)) => to && junction.relation.name == hint,
        (_, Some(hint)) => {
            to && (relationship.constraint() == Some(hint) || own_column(hint) || other_column(hint))
        }
    }
}

/// The columns that join a child to its parent.
pub(super) fn conditions<'a>(
    relationship: &'a Relationship,
    parent: &Qualifier<'a>,
    child: &Qualifier<'a>,
) -> Vec<JoinCondition<'a>> {
    let equal = |first: &Qualifier<'a>, second: &Qualifier<'a>, columns: &'a [ColumnPair]| {
        let pair = |(a, b): &'a ColumnPair| JoinCondition {
            left: (second.clone(), b.as_str()),
            right: (first.clone(), a.as_str()),
        };
        columns.iter().map(pair).collect::<Vec<_>>()
    };
    match &relationship.join {
        Join::ManyToMany(junction) => {
            let between = Qualifier::Relation(Name::from(&junction.relation));
            let mut joins = equal(child, &between, &junction.to_columns);
            joins.extend(equal(parent, &between, &junction.from_columns));
            joins
        }
        _ => equal(parent, child, relationship.columns()),
    }
}

/// 400 PGRST200, with a hint when a similar name exists.
fn not_found(schema: &Schema, origin: Name<'_>, asked: &Embed) -> Error {
    let (namespace, parent, child) = (origin.schema, origin.name, asked.name.as_str());
    let message =
        format!("Could not find a relationship between '{parent}' and '{child}' in the schema cache");
    let hinted = asked.hint.as_ref().map(|hint| format!("' using the hint '{hint}")).unwrap_or_default();
    let details = format!(
        "Searched for a foreign key relationship between '{parent}' and '{child}{hinted}' in the schema \
         '{namespace}', but no matches were found."
    );
    let from_here = schema.relationships(namespace, parent);
    let hint = if from_here.is_empty() {
        let parents = schema.related(namespace);
        suggest::nearest(parent, parents, LOOSE_SIMILARITY)
            .filter(|near| *near != parent)
            .map(|near| format!("Perhaps you meant '{near}' instead of '{parent}'."))
    } else {
        // A child that exists is not misspelled; then the hint is wrong.
        let children = from_here.iter().map(|r| r.to.name.as_str()).filter(|name| *name != child);
        let known = from_here.iter().any(|r| r.to.name == child);
        suggest::nearest(child, children, LOOSE_SIMILARITY)
            .filter(|_| !known)
            .map(|near| format!("Perhaps you meant '{near}' instead of '{child}'."))
    };
    Error::new(Code::NoRelBetween, message).with_details(details).with_hint(hint)
}

/// Most candidates that are described. Nobody reads more, and the schema's owner chooses how many there are.
const MAX_DESCRIBED: usize = 100;

/// 300 PGRST201, with the candidates.
fn ambiguous(origin: Name<'_>, target: &str, several: &[&Relationship]) -> Error {
    let message = format!(
        "Could not embed because more than one relationship was found for '{}' and '{target}'",
        origin.name
    );
    let choice = |r: &&Relationship| {
        let by = match &r.join {
            Join::ManyToMany(junction) => junction.relation.name.as_str(),
            _ => r.constraint().unwrap_or_default(),
        };
        format!("'{}!{by}'", r.to.name)
    };
    let choices = listed(several.iter().map(choice));
    let hint = format!(
        "Try changing '{target}' to one of the following: {choices}. Find the desired relationship in the \
         'details' key."
    );
    let details: Vec<Value> = several.iter().take(MAX_DESCRIBED).map(|r| described(r)).collect();
    Error::new(Code::AmbiguousRelBetween, message).with_details(details).with_hint(hint)
}

fn described(relationship: &Relationship) -> Value {
    let list = |names: Vec<&str>| format!("({})", names.join(", "));
    let own = |pairs: &[ColumnPair]| list(pairs.iter().map(|(own, _)| own.as_str()).collect());
    let other = |pairs: &[ColumnPair]| list(pairs.iter().map(|(_, other)| other.as_str()).collect());
    let (from, to) = (&relationship.from.name, &relationship.to.name);
    let (cardinality, by) = match &relationship.join {
        Join::ManyToMany(junction) => (
            "many-to-many",
            format!(
                "{} using {}{} and {}{}",
                junction.relation.name,
                junction.from_constraint,
                other(&junction.from_columns),
                junction.to_constraint,
                other(&junction.to_columns)
            ),
        ),
        join => {
            let cardinality = match join {
                Join::ManyToOne { .. } => "many-to-one",
                Join::OneToOne { .. } => "one-to-one",
                _ => "one-to-many",
            };
            let columns = relationship.columns();
            let constraint = relationship.constraint().unwrap_or_default();
            (cardinality, format!("{constraint} using {from}{} and {to}{}", own(columns), other(columns)))
        }
    };
    json!({"cardinality": cardinality, "embedding": format!("{from} with {to}"), "relationship": by})
}
