//! What one database contains, as far as a request can reach it, and a fingerprint over that.
//!
//! | question | look-up |
//! |---|---|
//! | a relation or function by name | [`Schema::relation`], [`Schema::routines`] |
//! | what can be embedded in a relation | [`Schema::relationships`] |
//! | how a domain's values look outside | [`Schema::representation`] |
//! | who makes the body for a media type | [`Schema::media_handler`] |
//! | whether any of that has changed | [`stamp`] |
//! | what the database says about roles and settings | [`in_database_settings`], [`role_settings`] |
//!
//! [`ask`] reads `pg_catalog`, [`Answers::into_facts`] makes [`Facts`] of what it says, and [`Schema::new`] works out the
//! rest: keys seen through views, relationships in both directions, junctions. Facts can be stored, and narrowed to the
//! schemas that are exposed, so that what was read once serves many.

mod facts;
mod handler;
mod load;
mod relation;
mod relationship;
mod room;
mod routine;
mod settings;
mod view;

pub use facts::{ComputedRelationship, FORMAT, Facts, ForeignKey, PrimaryKey, ViewColumn};
pub use handler::{MediaHandler, Representation, Target};
pub use load::{Answers, SchemaError, ask, ask_all, stamp};
pub use relation::{Column, ComputedColumn, Kind, Relation};
pub use relationship::{ColumnPair, Join, Junction, Relationship};
pub use room::Room;
pub use routine::{Argument, Mode, Returns, Routine, Shape, Volatility};
pub use settings::{IN_DATABASE_SETTINGS, SHARED_ROLES, in_database_settings, role_settings};

use std::collections::BTreeMap;
use std::{fmt, io};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// A schema and a name in it, both unquoted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    /// The schema.
    pub schema: String,
    /// The name.
    pub name: String,
}

impl Name {
    /// Joins the two.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

/// As messages show it; SQL is made by `crate::pg::Ident`.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// The exposed part of one database, as read from its `pg_catalog`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Hex SHA-256 over all fields but those about the server; equal for databases made by the same statements. No
    /// oid, owner or privilege is part of it.
    pub fingerprint: String,
    /// Schema name, then relation name.
    pub relations: BTreeMap<String, BTreeMap<String, Relation>>,
    /// Schema name, then function name; overloads with fewest arguments first.
    pub routines: BTreeMap<String, BTreeMap<String, Vec<Routine>>>,
    /// `COMMENT ON SCHEMA`, by schema.
    pub comments: BTreeMap<String, String>,
    /// Schema name, then the name of the relation they start from.
    relationships: BTreeMap<String, BTreeMap<String, Vec<Relationship>>>,
    /// The functions, by source and target type.
    representations: BTreeMap<String, BTreeMap<String, Name>>,
    /// By what they are for, and media type.
    media_handlers: BTreeMap<Target, BTreeMap<String, MediaHandler>>,
    /// PostGIS's `ST_AsGeoJSON`, where that extension is installed.
    pub geojson: Option<Name>,
    /// PostgreSQL's version as a number: 150018 for 15.18. Not part of the fingerprint.
    pub server_version: i32,
}

impl Schema {
    /// Works a schema out of facts.
    ///
    /// # Errors
    /// [`SchemaError::TooMany`]; never [`SchemaError::Unreadable`], for no part has a map with keys that JSON can't write.
    pub fn new(mut facts: Facts) -> Result<Self, SchemaError> {
        let relationships = relationship::derive(&mut facts)?;
        let mut schema = Self {
            fingerprint: String::new(),
            relations: BTreeMap::new(),
            routines: BTreeMap::new(),
            comments: facts.comments.into_iter().collect(),
            relationships: BTreeMap::new(),
            representations: BTreeMap::new(),
            media_handlers: BTreeMap::new(),
            geojson: facts.geojson,
            server_version: facts.server_version,
        };
        for relation in facts.relations {
            let named = schema.relations.entry(relation.schema.clone()).or_default();
            named.insert(relation.name.clone(), relation);
        }
        for routine in facts.routines {
            let named = schema.routines.entry(routine.schema.clone()).or_default();
            named.entry(routine.name.clone()).or_default().push(routine);
        }
        for relationship in relationships {
            let named = schema.relationships.entry(relationship.from.schema.clone()).or_default();
            named.entry(relationship.from.name.clone()).or_default().push(relationship);
        }
        // Oids, by which the server sorts argument types, differ between databases.
        let signature = |r: &Routine| {
            let types: Vec<_> = r.inputs().map(|a| (a.name.clone(), a.type_name.clone())).collect();
            (types.len(), types)
        };
        for overloads in schema.routines.values_mut().flat_map(BTreeMap::values_mut) {
            overloads.sort_by_cached_key(signature);
        }
        facts.media_handlers.sort();
        for handler in facts.media_handlers {
            let by_type = schema.media_handlers.entry(handler.target.clone()).or_default();
            by_type.entry(handler.media_type.clone()).or_insert(handler);
        }
        for Representation { source, target, function } in facts.representations {
            schema.representations.entry(source).or_default().insert(target, function);
        }
        let handlers: Vec<&MediaHandler> =
            schema.media_handlers.values().flat_map(BTreeMap::values).collect();
        let mut digest = Digest(Context::new(&SHA256));
        serde_json::to_writer(
            &mut digest,
            &(
                (&schema.relations, &schema.routines, &schema.comments),
                (&schema.relationships, &schema.representations, handlers, &schema.geojson),
            ),
        )?;
        schema.fingerprint = digest.0.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(schema)
    }

    /// The relation of this name.
    pub fn relation(&self, schema: &str, name: &str) -> Option<&Relation> {
        self.relations.get(schema)?.get(name)
    }

    /// The functions of this name.
    pub fn routines(&self, schema: &str, name: &str) -> &[Routine] {
        self.routines.get(schema).and_then(|named| named.get(name)).map_or(&[], Vec::as_slice)
    }

    /// The relationships that start from this relation and lead to one of the same schema (for a computed one: are
    /// made by a function of the same schema), in a fixed order: those by keys before computed ones, then by where
    /// they lead. None is between schemas, because a request is about one.
    pub fn relationships(&self, schema: &str, relation: &str) -> &[Relationship] {
        self.relationships.get(schema).and_then(|named| named.get(relation)).map_or(&[], Vec::as_slice)
    }

    /// The relations of this schema from which relationships start.
    pub fn related(&self, schema: &str) -> impl Iterator<Item = &str> {
        self.relationships.get(schema).into_iter().flat_map(|named| named.keys().map(String::as_str))
    }

    /// The function that turns `source` into `target`; both are types as in [`Column::type_name`], one of them a
    /// domain and the other `json` or `text`.
    pub fn representation(&self, source: &str, target: &str) -> Option<&Name> {
        self.representations.get(source)?.get(target)
    }

    /// The handler for a media type (lower case, or `*/*`) and exactly this target.
    pub fn media_handler(&self, target: &Target, media_type: &str) -> Option<&MediaHandler> {
        self.media_handlers.get(target)?.get(media_type)
    }
}

/// Digests what is written to it.
struct Digest(Context);

impl io::Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
