//! The JSON body: passed to PostgreSQL as it came, after its keys were read.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::error::Error;

/// A JSON body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    /// The body as it came.
    pub(crate) json: Bytes,
    /// What it is.
    pub(crate) shape: Shape,
    /// Keys of all its objects.
    pub(crate) keys: BTreeSet<String>,
    /// Whether all its objects have the same keys.
    pub(crate) uniform: bool,
}

/// What a body is at its top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `{…}`
    Object,
    /// `[{…}, …]`, and how many.
    Objects(usize),
    /// Anything else that is JSON.
    Other,
}

impl Payload {
    /// Reads the keys of a body; values are only checked to be JSON.
    pub(crate) fn parse(json: Bytes) -> Result<Self, Error> {
        if json.is_empty() {
            return Err(Error::body("Empty or invalid json"));
        }
        let Node { shape, keys, uniform } =
            serde_json::from_slice(&json).map_err(|e| Error::body(format!("Empty or invalid json: {e}")))?;
        // serde_json checks strings it keeps only; PostgreSQL would refuse the rest with 22021.
        if std::str::from_utf8(&json).is_err() {
            return Err(Error::body("Empty or invalid json: the body is not UTF-8"));
        }
        Ok(Self { json, shape, keys, uniform })
    }

    /// `{}`
    pub(crate) fn empty() -> Self {
        let json = Bytes::from_static(b"{}");
        Self { json, shape: Shape::Object, keys: BTreeSet::new(), uniform: true }
    }
}

/// One JSON value, of which only the keys of its top objects are kept.
struct Node {
    shape: Shape,
    keys: BTreeSet<String>,
    uniform: bool,
}

impl Node {
    fn other() -> Self {
        Self { shape: Shape::Other, keys: BTreeSet::new(), uniform: true }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Top)
    }
}

struct Top;

/// An element of a top array: its keys when it is an object.
struct Element(Option<BTreeSet<String>>);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Inside)
    }
}

struct Inside;

macro_rules! scalars {
    ($value:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("JSON")
        }
    };
}

impl<'de> Visitor<'de> for Inside {
    type Value = Element;

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Element, A::Error> {
        keys(map).map(|keys| Element(Some(keys)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Element, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Element(None))
    }

    scalars!(Element(None));
}

impl<'de> Visitor<'de> for Top {
    type Value = Node;

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Node, A::Error> {
        Ok(Node { shape: Shape::Object, keys: keys(map)?, uniform: true })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let (mut count, mut objects, mut uniform) = (0, true, true);
        let mut all = BTreeSet::new();
        while let Some(Element(element)) = seq.next_element()? {
            let Some(keys) = element else {
                objects = false;
                continue;
            };
            uniform &= count == 0 || keys == all;
            all.extend(keys);
            count += 1;
        }
        Ok(if objects { Node { shape: Shape::Objects(count), keys: all, uniform } } else { Node::other() })
    }

    scalars!(Node::other());
}

fn keys<'de, A: MapAccess<'de>>(mut map: A) -> Result<BTreeSet<String>, A::Error> {
    let mut keys = BTreeSet::new();
    while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
        keys.insert(key);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &'static str) -> Option<(Shape, String, bool)> {
        let payload = Payload::parse(Bytes::from_static(json.as_bytes())).ok()?;
        Some((payload.shape, payload.keys.into_iter().collect::<Vec<_>>().join(","), payload.uniform))
    }

    #[test]
    fn the_keys_are_read_and_nothing_else() {
        assert_eq!(parse(r#"{"b":1,"a":{"c":[2]}}"#), Some((Shape::Object, "a,b".into(), true)));
        assert_eq!(parse(r#"[{"a":1},{"a":2}]"#), Some((Shape::Objects(2), "a".into(), true)));
        assert_eq!(parse(r#"[{"a":1},{"b":2}]"#), Some((Shape::Objects(2), "a,b".into(), false)));
        assert_eq!(parse("[]"), Some((Shape::Objects(0), String::new(), true)));
        for other in
            ["1", "null", "\"x\"", "[1,{}]", "[[1]]", "true", "-1.5", "123456789012345678901234567890"]
        {
            assert_eq!(parse(other).map(|p| p.0), Some(Shape::Other), "{other}");
        }
        for bad in ["", "{", "{\"a\"}", "[1,]", "x", "{} {}"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
