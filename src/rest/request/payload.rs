//! The body: JSON goes to PostgreSQL unchanged, after its keys were read; CSV and forms become JSON.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serializer as _};
use serde_json::value::RawValue;
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
    /// Which of the `columns` its objects lack, where that was looked for.
    pub(crate) lacking: Lacking,
}

/// Which of the columns that a request names the objects of its body have no key for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lacking {
    /// None of them has one.
    pub(crate) everywhere: BTreeSet<String>,
    /// Some have none, or nobody knows.
    pub(crate) somewhere: BTreeSet<String>,
}

impl Lacking {
    /// Looks through the objects. PostgreSQL has the words for what is no JSON, or no object.
    fn of(text: &[u8], columns: &BTreeSet<String>) -> Self {
        let unknown = || Self { everywhere: BTreeSet::new(), somewhere: columns.clone() };
        let Ok(json) = std::str::from_utf8(text) else { return unknown() };
        let rows: Result<Vec<&RawValue>, _> = match json.trim_ascii_start().bytes().next() {
            Some(b'[') => serde_json::from_str(json),
            _ => serde_json::from_str(json).map(|row| vec![row]),
        };
        let Ok(rows) = rows else { return unknown() };
        let mut with: BTreeMap<&str, usize> = columns.iter().map(|column| (column.as_str(), 0)).collect();
        for row in &rows {
            let Ok(object) = serde_json::from_str::<Object<'_>>(row.get()) else { return unknown() };
            for key in object.0.keys() {
                if let Some(count) = with.get_mut(&*key.0) {
                    *count += 1;
                }
            }
        }
        let mut lacking = Self::default();
        for (column, count) in with.into_iter().filter(|(_, count)| *count < rows.len()) {
            let place = if count == 0 { &mut lacking.everywhere } else { &mut lacking.somewhere };
            place.insert(column.to_owned());
        }
        lacking
    }
}

impl Json {
    /// Whether it is an object, or else an array.
    pub(crate) fn is_object(&self) -> bool {
        self.text.trim_ascii_start().starts_with(b"{")
    }

    /// Reads the keys; values are only checked to be JSON.
    fn parse(text: Bytes) -> Result<Self, Error> {
        let invalid = |_| Error::body("Empty or invalid json");
        // serde_json checks only the strings that it keeps; PostgreSQL would refuse the others with 22021.
        let json = std::str::from_utf8(&text).map_err(|_| Error::body("Empty or invalid json"))?;
        let keys = match json.trim_ascii_start().bytes().next() {
            Some(b'{') => serde_json::from_str::<Object<'_>>(json).map_err(invalid)?.owned(),
            Some(b'[') => {
                let rows: Vec<&RawValue> = serde_json::from_str(json).map_err(invalid)?;
                // What is no object can't have the keys of one.
                let unfit =
                    |error: serde_json::Error| if error.is_data() { unlike() } else { invalid(error) };
                shared(rows.iter().map(|row| serde_json::from_str(row.get()).map_err(unfit)))?
            }
            _ => {
                serde_json::from_str::<IgnoredAny>(json).map_err(invalid)?;
                return Ok(Self::encoded(Bytes::from_static(b"[]"), BTreeSet::new()));
            }
        };
        Ok(Self::encoded(text, keys))
    }

    fn encoded(text: Bytes, keys: BTreeSet<String>) -> Self {
        Self { text, keys, lacking: Lacking::default() }
    }

    /// Looks for the columns that its objects lack.
    pub(super) fn find_lacking(&mut self, columns: &BTreeSet<String>) {
        self.lacking = Lacking::of(&self.text, columns);
    }
}

/// What a name or a field takes besides its letters, in bytes: its place in a list or a tree, and the allocator's part.
const ENTRY: usize = 64;

impl Payload {
    /// The bytes that it takes, roughly: the body may have been far shorter.
    pub(crate) fn bytes(&self) -> usize {
        let entry = |text: &String| text.len() + ENTRY;
        match self {
            Self::Json(json) => json.text.len() + json.keys.iter().map(entry).sum::<usize>(),
            Self::Form(fields) => fields.iter().map(|(name, value)| entry(name) + entry(value)).sum(),
            Self::Raw(body) => body.len(),
        }
    }

    /// Reads a body. `columns`: the request names the keys itself.
    pub(super) fn parse(body: Bytes, media: &Media, columns: bool, call: bool) -> Result<Self, Error> {
        match media {
            Media::Json if columns => Ok(Self::Json(Json::encoded(body, BTreeSet::new()))),
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
                Ok(Self::Json(Json::encoded(Value::Object(object).to_string().into(), keys)))
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
/// The length of JSON beyond which it may be twice as long as its CSV and no longer, in bytes.
const MAX_CSV_LIMIT: usize = 32 * 1024 * 1024;

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
    let most =
        body.len().saturating_mul(MAX_CSV_GROWTH).clamp(MIN_CSV_LIMIT, MAX_CSV_LIMIT.max(2 * body.len()));
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
                "The CSV's names, which stand in every row, make it more than {MAX_CSV_GROWTH} times as long, or longer than \
                 {most} bytes"
            )));
        }
    }
    let keys = if json.len() == 1 { BTreeSet::new() } else { names.into_keys().map(str::to_owned).collect() };
    json.push(b']');
    Ok(Json::encoded(json.into(), keys))
}

/// The keys of an object.
#[derive(Deserialize, PartialEq)]
struct Object<'t>(#[serde(borrow)] BTreeMap<Key<'t>, IgnoredAny>);

/// Borrowed unless it has escapes.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'t>(#[serde(borrow)] Cow<'t, str>);

impl Object<'_> {
    fn owned(self) -> BTreeSet<String> {
        self.0.into_keys().map(|key| key.0.into_owned()).collect()
    }
}

/// The keys that all objects have.
fn shared<'t>(
    mut objects: impl Iterator<Item = Result<Object<'t>, Error>>,
) -> Result<BTreeSet<String>, Error> {
    let Some(first) = objects.next().transpose()? else { return Ok(BTreeSet::new()) };
    for object in objects {
        if object? != first {
            return Err(unlike());
        }
    }
    Ok(first.owned())
}

fn unlike() -> Error {
    Error::body("All object keys must match")
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
        for bad in ["", "{", "{\"a\"}", "[1,]", "x", "{} {}", r#"{"\ud800":1}"#, r#"[{"\ud800":1}]"#] {
            assert_eq!(parse(bad, Media::Json), Err("Empty or invalid json".into()), "{bad}");
        }
    }

    #[test]
    fn columns_that_objects_lack_are_found() {
        let columns: BTreeSet<String> = ["a", "b", "c"].map(str::to_owned).into();
        for (text, everywhere, somewhere) in [
            (r#"{"a":1,"\u0062":null}"#, "c", ""),
            (r#" [{"a":1},{"a":2,"b":3}] "#, "c", "b"),
            ("[{},{}]", "a,b,c", ""),
            ("[]", "", ""),
            ("[1]", "", "a,b,c"),
            ("{", "", "a,b,c"),
            ("null", "", "a,b,c"),
        ] {
            let lacking = Lacking::of(text.as_bytes(), &columns);
            let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(",");
            assert_eq!(
                (names(&lacking.everywhere), names(&lacking.somewhere)),
                (everywhere.into(), somewhere.into()),
                "{text}"
            );
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
    fn what_a_body_becomes_is_counted() {
        let becomes = |body: String, media: Media, call: bool| {
            Payload::parse(Bytes::from(body), &media, false, call).unwrap().bytes()
        };
        let rows = format!("{}\n{}", "n".repeat(20), "1\n".repeat(1000));
        assert!(becomes(rows, Media::Csv, false) > 20_000);
        assert!(becomes("a&".repeat(1000), Media::Form, true) > 100_000);
        let keys: Vec<_> = (0..1000).map(|n| format!("\"{n}\":1")).collect();
        assert!(becomes(format!("{{{}}}", keys.join(",")), Media::Json, false) > 60_000);
        assert_eq!(becomes("x".repeat(1000), Media::Plain, true), 1000);
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
