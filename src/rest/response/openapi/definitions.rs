//! What the rows of relations look like: `definitions`.

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
    let properties = relation.columns.iter().map(|c| (c.name.clone(), property(schema, relation, c)));
    let properties: Map<_, _> = properties.collect();
    object([
        ("description", relation.comment.as_deref().into()),
        ("required", required.map(|column| column.name.as_str()).collect()),
        ("properties", if properties.is_empty() { Value::Null } else { properties.into() }),
        ("type", "object".into()),
    ])
}

fn property(schema: &Schema, relation: &Relation, column: &Column) -> Value {
    object([
        ("description", description(schema, relation, column).into()),
        ("default", column.default.as_deref().map_or(Value::Null, |sql| default(&column.base_type, sql))),
        ("enum", column.enum_values.iter().map(String::as_str).collect()),
        ("format", format(&column.base_type)),
        ("items", items(&column.base_type)),
        ("maxLength", column.max_length.into()),
        ("type", kind(&column.base_type).into()),
    ])
}

/// The comment, and a note about keys: generators of forms and clients look for its tags.
fn description(schema: &Schema, relation: &Relation, column: &Column) -> Option<String> {
    let mut notes = String::new();
    if relation.is_key(&column.name) {
        notes.push_str("\nThis is a Primary Key.<pk/>");
    }
    if let Some((table, key)) = referred(schema, relation, column) {
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

/// The relation and column that a foreign key of this one column refers to; a table rather than a view of it.
fn referred<'a>(schema: &'a Schema, relation: &Relation, column: &Column) -> Option<(&'a str, &'a str)> {
    let referring =
        schema.relationships(&relation.schema, &relation.name).iter().filter_map(|r| match &r.join {
            Join::ManyToOne { columns, .. } | Join::OneToOne { columns, is_parent: false, .. } => {
                match &columns[..] {
                    [(own, other)] if *own == column.name => {
                        Some((r.to_view, r.to.name.as_str(), other.as_str()))
                    }
                    _ => None,
                }
            }
            _ => None,
        });
    referring.min_by_key(|(view, ..)| *view).map(|(_, table, key)| (table, key))
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
