//! Media types: of `Accept` and of `Content-Type`.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

/// A media type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Media {
    /// `application/json`, or `application/vnd.pgrst.array+json`
    Json,
    /// `application/vnd.pgrst.array+json;nulls=stripped`
    ArrayStripped,
    /// `application/vnd.pgrst.object+json`, with or without `nulls=stripped`
    Object { stripped: bool },
    /// `application/geo+json`
    GeoJson,
    /// `text/csv`
    Csv,
    /// `text/plain`
    Plain,
    /// `text/xml`
    Xml,
    /// `application/openapi+json`
    OpenApi,
    /// `application/x-www-form-urlencoded`
    Form,
    /// `application/octet-stream`
    Octets,
    /// `*/*`
    Any,
    /// `application/vnd.pgrst.plan`: the query's execution plan instead of its rows.
    Plan(Box<PlanMedia>),
    /// Any other, as spelled.
    Other(String),
}

/// Which query is explained, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PlanMedia {
    /// The media type whose query is explained.
    pub(crate) of: Media,
    /// JSON instead of text.
    pub(crate) json: bool,
    /// Of [`OPTIONS`], in their order.
    pub(crate) options: Vec<&'static str>,
}

/// EXPLAIN's options that may be asked for.
const OPTIONS: [&str; 5] = ["analyze", "verbose", "settings", "buffers", "wal"];

impl Media {
    /// Reads a media type; case does not matter.
    pub(crate) fn parse(text: &str) -> Self {
        let text = text.trim();
        let mut parts = split(text).into_iter();
        let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
        let params: Vec<(String, String)> = parts
            .filter_map(|part| part.split_once('='))
            .map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_owned()))
            .collect();
        let param = |name: &str| params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let stripped = param("nulls") == Some("stripped");
        let plan = |json| {
            let asked: Vec<_> = param("options").unwrap_or_default().split('|').collect();
            let of = param("for").map_or(Self::Json, |text| match Self::parse(text) {
                // There is no plan of a plan.
                Self::Plan(inner) => inner.of,
                of => of,
            });
            let options = OPTIONS.into_iter().filter(|option| asked.contains(option)).collect();
            Self::Plan(Box::new(PlanMedia { of, json, options }))
        };
        match essence.as_str() {
            "application/json" => Self::Json,
            "application/vnd.pgrst.array+json" | "application/vnd.pgrst.array" if stripped => {
                Self::ArrayStripped
            }
            "application/vnd.pgrst.array+json" | "application/vnd.pgrst.array" => Self::Json,
            "application/vnd.pgrst.object+json" | "application/vnd.pgrst.object" => Self::Object { stripped },
            "application/geo+json" => Self::GeoJson,
            "text/csv" => Self::Csv,
            "text/plain" => Self::Plain,
            "text/xml" => Self::Xml,
            "application/openapi+json" => Self::OpenApi,
            "application/x-www-form-urlencoded" => Self::Form,
            "application/octet-stream" => Self::Octets,
            "application/vnd.pgrst.plan" | "application/vnd.pgrst.plan+text" => plan(false),
            "application/vnd.pgrst.plan+json" => plan(true),
            "*/*" => Self::Any,
            _ => Self::Other(text.to_owned()),
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        let fixed = match self {
            Self::Json => "application/json",
            Self::ArrayStripped => "application/vnd.pgrst.array+json;nulls=stripped",
            Self::Object { stripped: true } => "application/vnd.pgrst.object+json;nulls=stripped",
            Self::Object { stripped: false } => "application/vnd.pgrst.object+json",
            Self::GeoJson => "application/geo+json",
            Self::Csv => "text/csv",
            Self::Plain => "text/plain",
            Self::Xml => "text/xml",
            Self::OpenApi => "application/openapi+json",
            Self::Form => "application/x-www-form-urlencoded",
            Self::Octets => "application/octet-stream",
            Self::Any => "*/*",
            Self::Other(text) => return text.clone(),
            Self::Plan(plan) => {
                let format = if plan.json { "json" } else { "text" };
                let mut name = format!("application/vnd.pgrst.plan+{format}; for=\"{}\"", plan.of.name());
                if !plan.options.is_empty() {
                    name.push_str("; options=");
                    name.push_str(&plan.options.join("|"));
                }
                return name;
            }
        };
        fixed.to_owned()
    }

    /// `Content-Type` of an answer of this type.
    pub(crate) fn content_type(&self) -> String {
        match self {
            Self::Octets | Self::Other(_) => self.name(),
            _ => format!("{}; charset=utf-8", self.name()),
        }
    }
}

/// Most media ranges of `Accept` that count. Each is looked for among the handlers of the database.
const MAX_RANGES: usize = 100;

/// `Accept`, the most preferred first; never empty. Of a longer list the first [`MAX_RANGES`] count.
pub(super) fn accept(headers: &HeaderMap) -> Vec<Media> {
    let texts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges: Vec<_> =
        texts.flat_map(|text| split_at(text, ',')).take(MAX_RANGES).filter_map(precedence).collect();
    // A stable sort: of equal ranges the first one wins.
    ranges.sort_by_key(|(precedence, _)| std::cmp::Reverse(*precedence));
    if ranges.is_empty() {
        return vec![Media::Any];
    }
    ranges.into_iter().map(|(_, media)| media).collect()
}

/// A media range with its precedence: the weight in thousandths (RFC 9110, 12.4.2), then how specific it is.
fn precedence(range: &str) -> Option<((i32, i32), Media)> {
    let range = range.trim();
    let mut parts = split(range);
    let weight = parts.iter().position(|part| part.trim().starts_with("q="));
    let q = weight.and_then(|at| parts[at].trim()[2..].parse::<f32>().ok()).unwrap_or(1.0);
    if let Some(at) = weight {
        parts.truncate(at);
    }
    let range = parts.join(";");
    if range.is_empty() {
        return None;
    }
    let count = |c| i32::try_from(range.matches(c).count()).unwrap_or(i32::MAX / 2);
    #[expect(clippy::cast_possible_truncation, reason = "clamped to 0..=1000 before")]
    let q = (q * 1000.0).clamp(0.0, 1000.0) as i32;
    Some(((q, count(';') - count('*')), Media::parse(&range)))
}

/// `Content-Type`; JSON where there is none.
pub(super) fn content_type(headers: &HeaderMap) -> Media {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map_or(Media::Json, Media::parse)
}

fn split(text: &str) -> Vec<&str> {
    split_at(text, ';')
}

/// Splits outside double quotes.
fn split_at(text: &str, separator: char) -> Vec<&str> {
    let mut quoted = false;
    text.split(|c| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(text: &str) -> Vec<String> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, text.parse().unwrap());
        accept(&headers).iter().map(Media::name).collect()
    }

    #[test]
    fn weights_decide() {
        assert_eq!(accepted("text/csv; q=0.5, application/json"), ["application/json", "text/csv"]);
        assert_eq!(accepted("*/*, text/csv"), ["text/csv", "*/*"]);
        assert_eq!(accepted("a/b;x=1;q=0.8, c/d;q=0.9"), ["c/d", "a/b;x=1"]);
        assert_eq!(accept(&HeaderMap::new()), [Media::Any]);
        assert_eq!(accepted(&"a/b,".repeat(10_000)).len(), MAX_RANGES);
    }

    #[test]
    fn plans_have_parameters() {
        let media = Media::parse("application/vnd.pgrst.plan+json; for=\"text/csv\"; options=wal|analyze|x");
        assert_eq!(media.name(), "application/vnd.pgrst.plan+json; for=\"text/csv\"; options=analyze|wal");
        assert_eq!(
            Media::parse("Application/Vnd.Pgrst.Object;NULLS=stripped"),
            Media::Object { stripped: true }
        );
    }
}
