//! Filters, preferences and bodies that paths refer to: `parameters`.

use serde_json::{Map, Value, json};

use super::{object, reference};
use crate::schema::Relation;

/// Those of every relation, then of each.
pub(super) fn parameters(relations: &[&Relation]) -> Value {
    let prefer = |values: &[&str]| {
        object([
            ("name", "Prefer".into()),
            ("description", "Preference".into()),
            ("required", false.into()),
            ("enum", values.into()),
            ("in", "header".into()),
            ("type", "string".into()),
        ])
    };
    let returns = ["return=representation", "return=minimal", "return=none"];
    let resolutions = ["resolution=ignore-duplicates", "resolution=merge-duplicates"];
    let page = "Limiting and Pagination";
    let mut all = Map::new();
    for (key, value) in [
        ("preferParams", prefer(&[])),
        ("preferReturn", prefer(&returns)),
        ("preferCount", prefer(&["count=none"])),
        ("preferPost", prefer(&[&returns[..], &resolutions].concat())),
        ("select", text("select", Some("Filtering Columns"), "query")),
        ("on_conflict", text("on_conflict", Some("On Conflict"), "query")),
        ("order", text("order", Some("Ordering"), "query")),
        ("range", text("Range", Some(page), "header")),
        ("rangeUnit", with_default(text("Range-Unit", Some(page), "header"), "items")),
        ("offset", text("offset", Some(page), "query")),
        ("limit", text("limit", Some(page), "query")),
    ] {
        all.insert(key.to_owned(), value);
    }
    for relation in relations {
        let name = &relation.name;
        let body = json!({
            "name": name,
            "description": name,
            "required": false,
            "in": "body",
            "schema": reference("definitions", name),
        });
        all.insert(format!("body.{name}"), body);
        for column in &relation.columns {
            let filter = text(&column.name, column.comment.as_deref(), "query");
            all.insert(format!("rowFilter.{name}.{}", column.name), filter);
        }
    }
    all.into()
}

fn text(name: &str, description: Option<&str>, place: &str) -> Value {
    object([
        ("name", name.into()),
        ("description", description.into()),
        ("required", false.into()),
        ("in", place.into()),
        ("type", "string".into()),
    ])
}

fn with_default(mut parameter: Value, default: &str) -> Value {
    parameter["default"] = default.into();
    parameter
}
