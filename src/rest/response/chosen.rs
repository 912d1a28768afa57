//! Status and headers that a function chose, with `set_config('response.status', …)` and
//! `set_config('response.headers', …)`.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value};

use super::super::error::{Code, Error};
use super::super::head::{MAX_CHOSEN_BYTES, MAX_CHOSEN_HEADERS, chosen_status, may_choose};

/// The chosen status, if any.
pub(super) fn status(text: Option<&str>) -> Result<Option<StatusCode>, Error> {
    let Some(text) = text else { return Ok(None) };
    // The leading digits, as PostgREST reads it.
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse().ok().and_then(chosen_status) {
        Some(status) => Ok(Some(status)),
        None => {
            let message = "response.status guc must be a valid status code";
            Err(Error::new(Code::GucStatusError, message))
        }
    }
}

/// Adds the chosen headers; they replace those of the same name. Those that are not the tenant's to choose are left out.
pub(super) fn headers(headers: &mut HeaderMap, text: Option<&str>) -> Result<(), Error> {
    let Some(text) = text else { return Ok(()) };
    let bad = || {
        let message = "response.headers guc must be a JSON array composed of objects with a single key and a string value";
        Error::new(Code::GucHeadersError, message)
    };
    if text.len() > MAX_CHOSEN_BYTES {
        return Err(bad().with_details(format!("It is longer than {MAX_CHOSEN_BYTES} bytes.")));
    }
    let list: Vec<Map<String, Value>> = serde_json::from_str(text).map_err(|_| bad())?;
    if list.len() > MAX_CHOSEN_HEADERS {
        return Err(bad().with_details(format!("There are more than {MAX_CHOSEN_HEADERS} of them.")));
    }
    let mut chosen = HeaderMap::new();
    for object in list {
        let mut pairs = object.into_iter();
        let (Some((name, Value::String(text))), None) = (pairs.next(), pairs.next()) else {
            return Err(bad());
        };
        let name: HeaderName = name.parse().map_err(|_| bad())?;
        if may_choose(&name) {
            chosen.append(name, HeaderValue::from_str(&text).map_err(|_| bad())?);
        }
    }
    // extend() replaces headers of one name and keeps several chosen ones.
    headers.extend(chosen);
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_LENGTH;

    use super::*;

    #[test]
    fn a_function_chooses_headers_but_not_the_framing() {
        let mut all = HeaderMap::new();
        all.insert("x-a", HeaderValue::from_static("ours"));
        headers(&mut all, Some(r#"[{"X-A": "1"}, {"X-A": "2"}, {"Content-Length": "9"}]"#)).unwrap();
        assert_eq!(all.get_all("x-a").iter().count(), 2);
        assert!(!all.contains_key(CONTENT_LENGTH));
        assert_eq!(headers(&mut all, Some("{}")).unwrap_err().code(), &Code::GucHeadersError);
        let many: Vec<_> = (0..101).map(|n| serde_json::json!({ format!("x-{n}"): "v" })).collect();
        let many = serde_json::to_string(&many).unwrap();
        assert_eq!(headers(&mut all, Some(&many)).unwrap_err().code(), &Code::GucHeadersError);
        let long = format!(r#"[{{"x-long": "{}"}}]"#, "v".repeat(MAX_CHOSEN_BYTES));
        let error = headers(&mut all, Some(&long)).unwrap_err();
        assert_eq!(error.code(), &Code::GucHeadersError);
        assert_eq!(status(Some("418")).unwrap(), Some(StatusCode::IM_A_TEAPOT));
        assert_eq!(status(Some("nope")).unwrap_err().code(), &Code::GucStatusError);
        assert_eq!(status(Some("100")).unwrap_err().code(), &Code::GucStatusError);
    }
}
