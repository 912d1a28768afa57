//! From keys and what views show of them to relationships: both directions, views, junctions, computed ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::{Facts, ForeignKey, Name, ViewColumn};
use super::{ColumnPair, Join, Junction, Relationship};

/// For each way to choose them: columns of a view, one for each of a key.
type Ways<'a> = Vec<Vec<&'a str>>;

/// Most pairs of columns in the relationships of one database, of one direction. Keys, and the views that show them, make
/// as many as the product of their numbers, so that a schema of some kilobytes could ask for any amount of memory.
pub(in crate::schema) const MAX_PAIRS: usize = 100_000;

/// There are more pairs of columns than [`MAX_PAIRS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::schema) struct TooMany;

/// What is left of [`MAX_PAIRS`].
struct Room(usize);

impl Room {
    fn take(&mut self, pairs: usize) -> Result<(), TooMany> {
        self.0 = self.0.checked_sub(pairs).ok_or(TooMany)?;
        Ok(())
    }
}

/// A view shows a column of a key once for each of these.
type Shown<'a> = HashMap<(&'a Name, &'a str), BTreeMap<&'a Name, Vec<&'a str>>>;

/// Fills in the primary keys of the views among `facts.relations`, and gives all relationships in their final order.
pub(in crate::schema) fn derive(facts: &mut Facts) -> Result<Vec<Relationship>, TooMany> {
    let mut columns = std::mem::take(&mut facts.view_columns);
    columns.sort();
    columns.dedup();
    let shown = shown(&columns);
    view_keys(facts, &shown)?;
    let exposed: BTreeSet<&str> = facts.relations.iter().map(|r| r.schema.as_str()).collect();
    let (mut found, mut room) = (Vec::new(), Room(MAX_PAIRS));
    for key in &facts.foreign_keys {
        forward(key, &shown, &mut found, &mut room)?;
    }
    let through = many_to_many(facts, &found, &mut room)?;
    found.extend(through);
    let inverse: Vec<_> = found.iter().filter_map(inverse).collect();
    found.extend(inverse);
    // Only what one request can reach: both ends in its schema, a junction in any exposed one.
    found.retain(|r| {
        let junction = match &r.join {
            Join::ManyToMany(junction) => exposed.contains(junction.relation.schema.as_str()),
            _ => true,
        };
        junction && r.from.schema == r.to.schema && exposed.contains(r.from.schema.as_str())
    });
    // A function that is named like the relation it takes the place of is there to replace what was found.
    let replaced: BTreeSet<(&Name, &Name)> = facts.computed.iter().map(|c| (&c.from, &c.function)).collect();
    found.retain(|r| !replaced.contains(&(&r.from, &r.to)));
    let views: BTreeSet<(&str, &str)> = facts
        .relations
        .iter()
        .filter(|r| r.is_view())
        .map(|r| (r.schema.as_str(), r.name.as_str()))
        .collect();
    let is_view = |name: &Name| views.contains(&(name.schema.as_str(), name.name.as_str()));
    for c in &facts.computed {
        let reachable = exposed.contains(c.from.schema.as_str()) && exposed.contains(c.to.schema.as_str());
        if reachable && c.function.schema == c.from.schema {
            found.push(Relationship {
                is_self: c.from == c.to,
                from_view: is_view(&c.from),
                to_view: is_view(&c.to),
                from: c.from.clone(),
                to: c.to.clone(),
                join: Join::Computed { function: c.function.clone(), single_row: c.single_row },
            });
        }
    }
    let order = |r: &Relationship| {
        let computed = matches!(r.join, Join::Computed { .. });
        (computed, r.from.clone(), r.to.clone(), r.is_self, r.join.clone())
    };
    found.sort_by_cached_key(order);
    found.dedup();
    Ok(found)
}

fn shown(columns: &[ViewColumn]) -> Shown<'_> {
    let mut shown = Shown::new();
    for c in columns {
        let views = shown.entry((&c.source, c.source_column.as_str())).or_default();
        views.entry(&c.view).or_default().push(&c.column);
    }
    shown
}

/// The views that show all of these columns of `table`, with every way to choose one column for each of them.
fn choices<'a>(
    shown: &Shown<'a>,
    table: &'a Name,
    columns: impl Iterator<Item = &'a str>,
) -> Result<Vec<(&'a Name, Ways<'a>)>, TooMany> {
    let none = BTreeMap::new();
    let per_column: Vec<_> = columns.map(|c| shown.get(&(table, c)).unwrap_or(&none)).collect();
    let Some((first, others)) = per_column.split_first() else { return Ok(Vec::new()) };
    let (mut found, mut room) = (Vec::new(), Room(MAX_PAIRS));
    for (view, names) in *first {
        let Some(more) = others.iter().map(|views| views.get(view)).collect::<Option<Vec<_>>>() else {
            continue;
        };
        room.take(names.len())?;
        let mut ways: Ways<'_> = names.iter().map(|name| vec![*name]).collect();
        for names in more {
            room.take(ways.len().saturating_mul(names.len()))?;
            ways = ways
                .iter()
                .flat_map(|way| names.iter().map(|name| [way.as_slice(), &[*name]].concat()))
                .collect();
        }
        found.push((*view, ways));
    }
    Ok(found)
}

/// A view has the keys of the tables it shows them of.
fn view_keys(facts: &mut Facts, shown: &Shown<'_>) -> Result<(), TooMany> {
    let mut keys: BTreeMap<Name, Vec<String>> = BTreeMap::new();
    for key in &facts.primary_keys {
        for (view, ways) in choices(shown, &key.relation, key.columns.iter().map(String::as_str))? {
            // Any way will do: the columns are equal.
            let way = ways.into_iter().next().unwrap_or_default();
            keys.entry(view.clone()).or_default().extend(way.into_iter().map(str::to_owned));
        }
    }
    for relation in facts.relations.iter_mut().filter(|r| r.is_view()) {
        let name = Name::new(relation.schema.as_str(), relation.name.as_str());
        relation.primary_key = keys.remove(&name).unwrap_or_default();
    }
    Ok(())
}

/// From the side that holds the key to the other: the tables themselves, and views that show either side.
fn forward<'a>(
    key: &'a ForeignKey,
    shown: &Shown<'a>,
    found: &mut Vec<Relationship>,
    room: &mut Room,
) -> Result<(), TooMany> {
    let own: Vec<&str> = key.columns.iter().map(|(own, _)| own.as_str()).collect();
    let other: Vec<&str> = key.columns.iter().map(|(_, other)| other.as_str()).collect();
    let mut from = choices(shown, &key.relation, own.iter().copied())?;
    let mut to = choices(shown, &key.target, other.iter().copied())?;
    let tables = (from.len(), to.len());
    from.push((&key.relation, vec![own]));
    to.push((&key.target, vec![other]));
    for (i, (from, own)) in from.iter().enumerate() {
        for (j, (to, other)) in to.iter().enumerate() {
            for (own, other) in own.iter().flat_map(|own| other.iter().map(move |other| (own, other))) {
                let columns: Vec<ColumnPair> =
                    own.iter().zip(other).map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
                let constraint = key.name.clone();
                room.take(columns.len())?;
                found.push(Relationship {
                    from: (*from).clone(),
                    to: (*to).clone(),
                    is_self: from == to,
                    join: if key.unique {
                        Join::OneToOne { constraint, columns, is_parent: false }
                    } else {
                        Join::ManyToOne { constraint, columns }
                    },
                    from_view: i < tables.0,
                    to_view: j < tables.1,
                });
            }
        }
    }
    Ok(())
}

/// The same key from the other side.
fn inverse(r: &Relationship) -> Option<Relationship> {
    let join = match &r.join {
        Join::ManyToOne { constraint, columns } => {
            Join::OneToMany { constraint: constraint.clone(), columns: swap(columns) }
        }
        Join::OneToOne { constraint, columns, is_parent } => {
            Join::OneToOne { constraint: constraint.clone(), columns: swap(columns), is_parent: !is_parent }
        }
        _ => return None,
    };
    Some(Relationship {
        from: r.to.clone(),
        to: r.from.clone(),
        is_self: r.is_self,
        join,
        from_view: r.to_view,
        to_view: r.from_view,
    })
}

fn swap(columns: &[ColumnPair]) -> Vec<ColumnPair> {
    columns.iter().map(|(a, b)| (b.clone(), a.clone())).collect()
}

/// Two keys of one relation whose columns all belong to its primary key make it a junction.
fn many_to_many(
    facts: &Facts,
    found: &[Relationship],
    room: &mut Room,
) -> Result<Vec<Relationship>, TooMany> {
    let mut keys: BTreeMap<&Name, Vec<&Relationship>> = BTreeMap::new();
    for r in found.iter().filter(|r| matches!(r.join, Join::ManyToOne { .. })) {
        keys.entry(&r.from).or_default().push(r);
    }
    let mut made = Vec::new();
    for relation in facts.relations.iter().filter(|r| !r.primary_key.is_empty()) {
        let name = Name::new(relation.schema.as_str(), relation.name.as_str());
        let all = keys.get(&name).map_or(&[][..], Vec::as_slice);
        let of_key = |r: &&&Relationship| r.columns().iter().all(|(own, _)| relation.is_key(own));
        let keys: Vec<_> = all.iter().filter(of_key).collect();
        for (one, other) in keys.iter().flat_map(|one| keys.iter().map(move |other| (one, other))) {
            let (Some(from), Some(to)) = (one.constraint(), other.constraint()) else { continue };
            if from == to || one.to.schema != other.to.schema {
                continue;
            }
            room.take(one.columns().len() + other.columns().len())?;
            made.push(Relationship {
                from: one.to.clone(),
                to: other.to.clone(),
                is_self: one.to == other.to,
                join: Join::ManyToMany(Junction {
                    relation: name.clone(),
                    from_constraint: from.to_owned(),
                    to_constraint: to.to_owned(),
                    from_columns: swap(one.columns()),
                    to_columns: swap(other.columns()),
                }),
                from_view: one.to_view,
                to_view: other.to_view,
            });
        }
    }
    Ok(made)
}
