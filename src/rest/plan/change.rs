//! Changes: the columns that the body fills, the key that duplicates are found by, the rows that are changed.

use std::collections::BTreeSet;

use super::super::error::{Code, Error};
use super::super::request::filter::{Operator, Test};
use super::super::request::payload::{Json, Payload};
use super::super::request::prefer::{Resolution, Return};
use super::super::request::{Change as Method, Request};
use super::columns::Columns;
use super::read;
use super::tree::{Change, ChangeKind, Name, Read, Target, Values};
use crate::schema::{Relation, Schema};

/// What a domain representation is made of.
const JSON: Name<'static> = Name { schema: "pg_catalog", name: "json" };

/// Plans a change; `read` is the read of its rows.
pub(super) fn plan<'a>(
    request: &'a Request,
    schema: &'a Schema,
    relation: &'a Relation,
    method: Method,
    read: &Read<'a>,
) -> Result<Change<'a>, Error> {
    let key: Vec<&str> = relation.primary_key.iter().map(String::as_str).collect();
    let defaults = request.prefer.missing_default == Some(true) && method != Method::Put;
    let values = || -> Result<Values<'a>, Error> {
        let json = body(request)?;
        let known = Columns::of(Some(relation));
        let (mut columns, mut defaulted) = (Vec::new(), Vec::new());
        for name in &request.columns {
            let (mut target, default) = target(schema, relation, &known, name)?;
            if default.is_some() && defaults && json.lacking.everywhere.contains(name) {
                defaulted.push(target.name);
                continue;
            }
            target.default = default.filter(|_| defaults && json.lacking.somewhere.contains(name));
            columns.push(target);
        }
        Ok(Values { json, columns, defaulted })
    };
    let mut filters = read::conditions(schema, relation, &request.query);
    let kind = match method {
        Method::Insert => {
            filters.clear();
            let conflict = request.prefer.resolution.map(|resolution| {
                let named = request.query.on_conflict.as_ref();
                let key = named.map_or_else(|| key.clone(), |n| n.iter().map(String::as_str).collect());
                (key, resolution)
            });
            ChangeKind::Insert { values: values()?, conflict }
        }
        Method::Update => ChangeKind::Update(values()?),
        Method::Put => {
            if !names_one_row(request, &key) {
                let message = "Filters must include all and only primary key columns with 'eq' operators";
                return Err(Error::new(Code::InvalidFilters, message));
            }
            ChangeKind::Insert { values: values()?, conflict: Some((key.clone(), Resolution::Merge)) }
        }
        Method::Delete => ChangeKind::Delete,
    };
    let returning = match request.prefer.returns {
        Some(Return::Representation | Return::HeadersOnly) => read::needed(read, &key),
        Some(Return::Minimal) | None => Vec::new(),
    };
    let relation = Name { schema: &relation.schema, name: &relation.name };
    Ok(Change { relation, kind, filters, returning, key })
}

fn body(request: &Request) -> Result<&Json, Error> {
    match &request.payload {
        Some(Payload::Json(json)) => Ok(json),
        _ => Err(Error::internal("a change without rows")),
    }
}

/// Whether the filters are the whole primary key by `eq`: PUT makes the row that its URL names.
fn names_one_row(request: &Request, key: &[&str]) -> bool {
    let query = &request.query;
    let equal = |test: &Test| matches!(test, Test::Operator(Operator::Equal, None, _));
    let named: BTreeSet<&str> = query.filtered.iter().map(String::as_str).collect();
    query.logic.is_empty()
        && !key.is_empty()
        && named == key.iter().copied().collect()
        && query.filters.iter().all(|(path, f)| !path.is_empty() || (!f.negated && equal(&f.test)))
}

/// Where the value of this key goes, and the column's default.
fn target<'a>(
    schema: &'a Schema,
    relation: &Relation,
    known: &Columns<'a>,
    name: &str,
) -> Result<(Target<'a>, Option<&'a str>), Error> {
    let column = known.get(name).ok_or_else(|| {
        let message =
            format!("Could not find the '{name}' column of '{}' in the schema cache", relation.name);
        Error::new(Code::ColumnNotFound, message)
    })?;
    let convert = schema.representation("json", &column.type_name).map(Name::from);
    let cast = if convert.is_some() { JSON } else { Name::from(&column.cast) };
    Ok((Target { name: &column.name, cast, convert, default: None }, column.default.as_deref()))
}
