//! The body: JSON goes to PostgreSQL unchanged, after its keys were read; CSV and forms become JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use serde::Serializer as _;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::super::error::Error;
use super::media::Media;

/// A body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    /// JSON.
    Json(Json),
    /// The fields of a form, for a function.
    Form(Vec<(String, String)>),
    /// Any other body, for a function that takes it whole.
    Raw(Bytes),
}

/// A JSON body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Json {
    /// The text.
    pub(crate) text: Bytes,
    /// The keys of its objects, which all have the same; none if the request has `columns`.
    pub(crate) keys: BTreeSet<String>,
}

impl Json {
    /// Whether it is an object, or else an array.
    pub(crate) fn is_object(&self) -> bool {
        self.text.trim_ascii_start().starts_with(b"{")
    }

    /// Reads the keys; values are only checked to be JSON.
    fn parse(text: Bytes) -> Result<Self, Error> {
        let invalid = || Error::body("Empty or invalid json");
        // serde_json checks only the strings that it keeps; PostgreSQL would refuse the others with 22021.
        std::str::from_utf8(&text).map_err(|_| invalid())?;
        let Outline { shape, keys, uniform } = serde_json::from_slice(&text).map_err(|_| invalid())?;
        match shape {
            Shape::Value => Ok(Self { text: Bytes::from_static(b"[]"), keys: BTreeSet::new() }),
            Shape::Object | Shape::Objects if uniform => Ok(Self { text, keys }),
            _ => Err(Error::body("All object keys must match")),
        }
    }

    fn encode(value: &Value, keys: BTreeSet<String>) -> Self {
        Self { text: Bytes::from(value.to_string()), keys }
    }
}

impl Payload {
    /// Reads a body. `columns`: the request names the keys itself.
    pub(super) fn parse(body: Bytes, media: &Media, columns: bool, call: bool) -> Result<Self, Error> {
        match media {
            Media::Json if columns => Ok(Self::Json(Json { text: body, keys: BTreeSet::new() })),
            Media::Json if body.is_empty() && call => Json::parse(Bytes::from_static(b"{}")).map(Self::Json),
            Media::Json => Json::parse(body).map(Self::Json),
            Media::Csv => csv(&body).map(Self::Json),
            Media::Form => {
                let fields: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
                if call {
                    return Ok(Self::Form(fields));
                }
                let object: Map<String, Value> =
                    fields.into_iter().map(|(key, value)| (key, Value::String(value))).collect();
                let keys = object.keys().cloned().collect();
                Ok(Self::Json(Json::encode(&Value::Object(object), keys)))
            }
            Media::Plain | Media::Xml | Media::Octets if call => Ok(Self::Raw(body)),
            other => Err(Error::body(format!("Content-Type not acceptable: {}", other.name()))),
        }
    }
}

/// How much longer than its CSV the JSON may be. Every row repeats the names: without a bound a header of 1 MB over a
/// million short rows would become 1 TB.
const MAX_CSV_GROWTH: usize = 16;
/// The length of JSON that any CSV may become, in bytes.
const MIN_CSV_LIMIT: usize = 1024 * 1024;

/// Rows under a header; `NULL` is null, as in PostgREST.
fn csv(body: &[u8]) -> Result<Json, Error> {
    let bad = |error: csv::Error| Error::body(format!("The CSV can't be read: {error}"));
    let unwritten = |_| Error::body("The CSV can't be read: it is not text");
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(body);
    let header = reader.headers().map_err(bad)?.clone();
    if header.is_empty() {
        return Err(Error::body("The CSV can't be read: it has no line of names"));
    }
    // Of several columns with one name the last is taken.
    let names: BTreeMap<&str, usize> =
        header.iter().enumerate().map(|(column, name)| (name, column)).collect();
    let most = body.len().saturating_mul(MAX_CSV_GROWTH).max(MIN_CSV_LIMIT);
    let mut json = vec![b'['];
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(bad)? {
        if record.len() != header.len() {
            return Err(Error::body("All lines must have same number of fields"));
        }
        let value = |column: usize| record.get(column).filter(|text| *text != "NULL");
        let row = names.iter().map(|(name, column)| (name, value(*column)));
        if json.len() > 1 {
            json.push(b',');
        }
        serde_json::Serializer::new(&mut json).collect_map(row).map_err(unwritten)?;
        if json.len() > most {
            return Err(Error::body(format!(
                "The CSV's names, which stand in every row, make it more than {MAX_CSV_GROWTH} times as long"
            )));
        }
    }
    let keys = if json.len() == 1 { BTreeSet::new() } else { names.into_keys().map(str::to_owned).collect() };
    json.push(b']');
    Ok(Json { text: json.into(), keys })
}

/// The outermost value of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `{…}`
    Object,
    /// `[{…}, …]`
    Objects,
    /// An array that has other values.
    Mixed,
    /// Any other value.
    Value,
}

/// A body, of which only the keys of the outermost objects are kept.
struct Outline {
    shape: Shape,
    keys: BTreeSet<String>,
    uniform: bool,
}

impl<'de> Deserialize<'de> for Outline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OutlineVisitor)
    }
}

struct OutlineVisitor;

/// An element of an outermost array: its keys, if it is an object.
struct Element(Option<BTreeSet<String>>);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

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

impl<'de> Visitor<'de> for ElementVisitor {
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

impl<'de> Visitor<'de> for OutlineVisitor {
    type Value = Outline;

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Outline, A::Error> {
        Ok(Outline { shape: Shape::Object, keys: keys(map)?, uniform: true })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Outline, A::Error> {
        let (mut first, mut objects, mut uniform) = (true, true, true);
        let mut all = BTreeSet::new();
        while let Some(Element(element)) = seq.next_element()? {
            let Some(keys) = element else {
                objects = false;
                continue;
            };
            uniform &= first || keys == all;
            all.extend(keys);
            first = false;
        }
        let shape = if objects { Shape::Objects } else { Shape::Mixed };
        Ok(Outline { shape, keys: all, uniform })
    }

    scalars!(Outline { shape: Shape::Value, keys: BTreeSet::new(), uniform: true });
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

    fn parse(body: &'static str, media: Media) -> Result<(String, String), String> {
        match Payload::parse(Bytes::from_static(body.as_bytes()), &media, false, false) {
            Ok(Payload::Json(json)) => Ok((
                String::from_utf8_lossy(&json.text).into_owned(),
                json.keys.into_iter().collect::<Vec<_>>().join(","),
            )),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.message().to_owned()),
        }
    }

    #[test]
    fn the_keys_are_read_and_nothing_else() {
        for (text, keys) in
            [(r#"{"b":1,"a":{"c":[2]}}"#, "a,b"), (r#"[{"a":1},{"a":2}]"#, "a"), ("[]", ""), ("[{},{}]", "")]
        {
            assert_eq!(parse(text, Media::Json), Ok((text.into(), keys.into())));
        }
        for value in ["1", "null", "\"x\"", "true", "-1.5", "123456789012345678901234567890"] {
            assert_eq!(parse(value, Media::Json), Ok(("[]".into(), String::new())), "{value}");
        }
        for mixed in ["[1,{}]", "[[1]]", r#"[{"a":1},{"b":2}]"#] {
            assert_eq!(parse(mixed, Media::Json), Err("All object keys must match".into()), "{mixed}");
        }
        for bad in ["", "{", "{\"a\"}", "[1,]", "x", "{} {}"] {
            assert_eq!(parse(bad, Media::Json), Err("Empty or invalid json".into()), "{bad}");
        }
    }

    #[test]
    fn rows_and_forms_become_json() {
        let rows = r#"[{"a":"1","b":null},{"a":"x,y","b":""}]"#;
        assert_eq!(parse("a,b\n1,NULL\n\"x,y\",\n", Media::Csv), Ok((rows.into(), "a,b".into())));
        assert!(parse("a,b\n1\n", Media::Csv).is_err());
        assert!(parse("", Media::Csv).is_err());
        assert_eq!(parse("a\n", Media::Csv), Ok(("[]".into(), String::new())));
        assert_eq!(parse("a=1&b=%20", Media::Form), Ok((r#"{"a":"1","b":" "}"#.into(), "a,b".into())));
        assert!(parse("x", Media::Plain).is_err());
        assert_eq!(parse("b,a,b\n1,2,3\n", Media::Csv), Ok((r#"[{"a":"2","b":"3"}]"#.into(), "a,b".into())));
    }
    #[test]
    fn names_that_every_row_repeats_have_a_bound() {
        let body = format!("{}\n{}", "n".repeat(100_000), "1\n".repeat(2000));
        let error = csv(body.as_bytes()).unwrap_err();
        assert!(error.message().contains("16 times"), "{error}");
        let body = format!("{}\n{}", "n".repeat(60), "1\n".repeat(2000));
        assert!(csv(body.as_bytes()).is_ok());
    }
}
