//! What the rows of relations look like: `definitions`.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{format, items, kind, object};
use crate::schema::{Column, Join, Relation, Schema};

/// One for each relation, by its name.
pub(super) fn definitions(schema: &Schema, relations: &[&Relation]) -> Value {
    relations
        .iter()
        .map(|relation| (relation.name.clone(), row(schema, relation)))
        .collect::<Map<_, _>>()
        .into()
}

fn row(schema: &Schema, relation: &Relation) -> Value {
    let required = relation.columns.iter().filter(|column| column.not_null);
    let referred = referred(schema, relation);
    let properties = relation.columns.iter().map(|column| {
        let referred = referred.get(column.name.as_str()).copied();
        (column.name.clone(), property(relation, column, referred))
    });
    let properties: Map<_, _> = properties.collect();
    object([
        ("description", relation.comment.as_deref().into()),
        ("required", required.map(|column| column.name.as_str()).collect()),
        ("properties", if properties.is_empty() { Value::Null } else { properties.into() }),
        ("type", "object".into()),
    ])
}

/// The relation and the column that a foreign key refers to.
type Referred<'a> = (&'a str, &'a str);

fn property(relation: &Relation, column: &Column, referred: Option<Referred<'_>>) -> Value {
    object([
        ("description", description(relation, column, referred).into()),
        ("default", column.default.as_deref().map_or(Value::Null, |sql| default(&column.base_type, sql))),
        ("enum", column.enum_values.iter().map(String::as_str).collect()),
        ("format", format(&column.base_type)),
        ("items", items(&column.base_type)),
        ("maxLength", column.max_length.into()),
        ("type", kind(&column.base_type).into()),
    ])
}

/// The comment, and a note about keys: generators of forms and clients look for its tags.
fn description(relation: &Relation, column: &Column, referred: Option<Referred<'_>>) -> Option<String> {
    let mut notes = String::new();
    if relation.is_key(&column.name) {
        notes.push_str("\nThis is a Primary Key.<pk/>");
    }
    if let Some((table, key)) = referred {
        notes.push_str(&format!(
            "\nThis is a Foreign Key to `{table}.{key}`.<fk table='{table}' column='{key}'/>"
        ));
    }
    let comment = column.comment.as_deref();
    if notes.is_empty() {
        return comment.map(str::to_owned);
    }
    let before = comment.map(|comment| format!("{comment}\n\n")).unwrap_or_default();
    Some(format!("{before}Note:{notes}"))
}

/// By column, what a foreign key of that one column refers to; a table rather than a view of it. Of several the first.
fn referred<'a>(schema: &'a Schema, relation: &Relation) -> HashMap<&'a str, Referred<'a>> {
    let mut found: HashMap<&str, (bool, Referred<'_>)> = HashMap::new();
    for r in schema.relationships(&relation.schema, &relation.name) {
        let (Join::ManyToOne { columns, .. } | Join::OneToOne { columns, is_parent: false, .. }) = &r.join
        else {
            continue;
        };
        let [(own, other)] = &columns[..] else { continue };
        let place = found.entry(own).or_insert((r.to_view, (&r.to.name, other)));
        if place.0 && !r.to_view {
            *place = (false, (&r.to.name, other));
        }
    }
    found.into_iter().map(|(column, (_, referred))| (column, referred)).collect()
}

/// The value that a DEFAULT stands for. An expression can only be shown where a text can.
fn default(base_type: &str, sql: &str) -> Value {
    if kind(base_type) != Some("string") {
        return serde_json::from_str(sql).unwrap_or_default();
    }
    let Some(literal) = sql.strip_suffix(base_type).and_then(|rest| rest.strip_suffix("::")) else {
        return sql.into();
    };
    let text = literal.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    text.map_or_else(|| literal.into(), |text| text.replace("''", "'").into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_values() {
        for (base_type, sql, expected) in [
            ("text", "'default'::text", json!("default")),
            ("text", "'it''s \"so\"'::text", json!("it's \"so\"")),
            ("character varying", "''::character varying", json!("")),
            ("date", "'1900-01-01'::date", json!("1900-01-01")),
            ("uuid", "gen_random_uuid()", json!("gen_random_uuid()")),
            ("api.color", "'red'::api.color", json!("red")),
            ("boolean", "false", json!(false)),
            ("integer", "42", json!(42)),
            ("numeric", "42.2", json!(42.2)),
            ("bigint", "nextval('a_id_seq'::regclass)", Value::Null),
            ("text[]", "'{}'::text[]", Value::Null),
            ("jsonb", "'{}'::jsonb", Value::Null),
        ] {
            assert_eq!(default(base_type, sql), expected, "{sql}");
        }
    }
}
