//! Filters: `column=op.value`, and `and=(…)`, `or=(…)` trees of them.

use super::super::error::Error;
use super::select::{Field, unquote};
use super::split;

/// Trees nest at most this deep, so that reading one can't exhaust the stack.
const DEPTH: usize = 16;

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Filter {
    /// `and=(…)`
    And(bool, Vec<Filter>),
    /// `or=(…)`
    Or(bool, Vec<Filter>),
    /// One comparison.
    Compare {
        /// What is compared.
        field: Field,
        /// `not.`
        negated: bool,
        /// With what, and how.
        test: Test,
    },
}

/// A comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    /// An operator and its right side.
    Operator(&'static str, String),
    /// An operator with `ANY` or `ALL` over an array literal.
    Quantified(&'static str, &'static str, String),
    /// `in.(…)`
    In(Vec<String>),
    /// `is.…`; the SQL keyword.
    Is(&'static str),
    /// Full text search: the function that makes the query, a configuration, the query.
    Search(&'static str, Option<String>, String),
}

/// PostgREST, "Tables and Views", "Operators". `like` and `ilike` write `*` for `%`.
const OPERATORS: [(&str, &str); 19] = [
    ("eq", "="),
    ("neq", "<>"),
    ("gt", ">"),
    ("gte", ">="),
    ("lt", "<"),
    ("lte", "<="),
    ("like", "LIKE"),
    ("ilike", "ILIKE"),
    ("match", "~"),
    ("imatch", "~*"),
    ("isdistinct", "IS DISTINCT FROM"),
    ("cs", "@>"),
    ("cd", "<@"),
    ("ov", "&&"),
    ("sl", "<<"),
    ("sr", ">>"),
    ("nxr", "&<"),
    ("nxl", "&>"),
    ("adj", "-|-"),
];
const SEARCHES: [(&str, &str); 4] = [
    ("fts", "to_tsquery"),
    ("plfts", "plainto_tsquery"),
    ("phfts", "phraseto_tsquery"),
    ("wfts", "websearch_to_tsquery"),
];
const IS: [(&str, &str); 6] = [
    ("null", "NULL"),
    ("not_null", "NOT NULL"),
    ("true", "TRUE"),
    ("false", "FALSE"),
    ("unknown", "UNKNOWN"),
    ("not_unknown", "NOT UNKNOWN"),
];

impl Filter {
    /// Reads one query parameter.
    pub(crate) fn parse(key: &str, value: &str) -> Result<Self, Error> {
        let (tree, negated) = key.strip_prefix("not.").map_or((key, false), |tree| (tree, true));
        match tree {
            "and" | "or" => logic(tree, negated, value, 0),
            _ if tree_key(key) => Err(Error::query(
                format!("failed to parse filter ({key})"),
                "filters on embedded tables need embedding, which isn't there yet",
            )),
            _ => {
                let (negated, test) = test(value, false)?;
                Ok(Self::Compare { field: Field::parse(key)?, negated, test })
            }
        }
    }
}

/// `table.column` outside quotes names an embedded table's column.
fn tree_key(key: &str) -> bool {
    split(key, ".").is_ok_and(|parts| parts.len() > 1)
}

fn logic(word: &str, negated: bool, value: &str, depth: usize) -> Result<Filter, Error> {
    let bad = |details: &str| Error::query(format!("failed to parse logic tree ({value})"), details);
    if depth > DEPTH {
        return Err(bad("the tree is nested too deep"));
    }
    let inner =
        value.strip_prefix('(').and_then(|v| v.strip_suffix(')')).ok_or_else(|| bad("expected ( … )"))?;
    let parts = split(inner, ",").map_err(|reason| bad(&reason))?;
    let items: Vec<_> =
        parts.into_iter().map(|part| item(part.trim(), depth + 1)).collect::<Result<_, _>>()?;
    Ok(if word == "and" { Filter::And(negated, items) } else { Filter::Or(negated, items) })
}

/// `column.op.value`, or a nested tree.
fn item(text: &str, depth: usize) -> Result<Filter, Error> {
    let (rest, negated) = text.strip_prefix("not.").map_or((text, false), |rest| (rest, true));
    for word in ["and", "or"] {
        if let Some(list) = rest.strip_prefix(word).filter(|list| list.starts_with('(')) {
            return logic(word, negated, list, depth);
        }
    }
    let bad =
        || Error::query(format!("failed to parse logic tree ({text})"), "expected column.operator.value");
    let parts = split(text, ".").map_err(|_| bad())?;
    let [column, _, ..] = parts[..] else { return Err(bad()) };
    let (negated, test) = test(&text[column.len() + 1..], true)?;
    Ok(Filter::Compare { field: Field::parse(column)?, negated, test })
}

/// Reads `[not.]op.value`. Only inside a tree may a value stand in quotes.
fn test(text: &str, in_tree: bool) -> Result<(bool, Test), Error> {
    let bad = |details: &str| Error::query(format!("failed to parse filter ({text})"), details);
    let (rest, negated) = text.strip_prefix("not.").map_or((text, false), |rest| (rest, true));
    let (word, value) = rest.split_once('.').ok_or_else(|| bad("expected operator.value, as in eq.1"))?;
    let (word, argument) = match word.split_once('(') {
        Some((word, argument)) => {
            (word, Some(argument.strip_suffix(')').ok_or_else(|| bad("the operator's ( is not closed"))?))
        }
        None => (word, None),
    };
    let value = || if in_tree { unquote(value) } else { value.to_owned() };
    if word == "in" && argument.is_none() {
        return Ok((
            negated,
            Test::In(list(&rest["in.".len()..]).ok_or_else(|| bad("expected in.(a,b,c)"))?),
        ));
    }
    if word == "is" && argument.is_none() {
        let value = value().to_ascii_lowercase();
        let keyword = IS.iter().find(|(name, _)| *name == value);
        let keyword =
            keyword.ok_or_else(|| bad("expected is.null, not_null, true, false, unknown or not_unknown"))?;
        return Ok((negated, Test::Is(keyword.1)));
    }
    if let Some((_, function)) = SEARCHES.iter().find(|(name, _)| *name == word) {
        return Ok((negated, Test::Search(function, argument.map(str::to_owned), value())));
    }
    let Some((_, operator)) = OPERATORS.iter().find(|(name, _)| *name == word) else {
        return Err(bad("unknown operator"));
    };
    let value = if word.ends_with("like") { value().replace('*', "%") } else { value() };
    let test = match argument {
        None => Test::Operator(operator, value),
        Some("any") if *operator != "IS DISTINCT FROM" => Test::Quantified(operator, "ANY", value),
        Some("all") if *operator != "IS DISTINCT FROM" => Test::Quantified(operator, "ALL", value),
        Some(_) => return Err(bad("only (any) and (all) may follow this operator")),
    };
    Ok((negated, test))
}

/// `(a,"b,c")` as values; `()` is none.
fn list(text: &str) -> Option<Vec<String>> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    if inner.is_empty() {
        return Some(Vec::new());
    }
    // Here only quotes protect a comma: brackets in a value are the value's.
    let (mut values, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (index, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' if quoted || index == start => quoted = !quoted,
            ',' if !quoted => {
                values.push(unquote(&inner[start..index]));
                start = index + 1;
            }
            _ => {}
        }
    }
    values.push(unquote(&inner[start..]));
    (!quoted).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_what_is_theirs() {
        let Filter::Compare { test, .. } = Filter::parse("a", r#"in.(1,"x,y","q\"r",(z)"#).unwrap() else {
            panic!()
        };
        assert_eq!(test, Test::In(vec!["1".into(), "x,y".into(), "q\"r".into(), "(z".into()]));
        let Filter::Compare { test, .. } = Filter::parse("a", "eq.a.b,c").unwrap() else { panic!() };
        assert_eq!(test, Test::Operator("=", "a.b,c".into()));
        let Filter::Or(true, items) =
            Filter::parse("not.or", r#"(a.eq."x,)",and(b.gt.1,c.not.is.null))"#).unwrap()
        else {
            panic!()
        };
        assert_eq!(items.len(), 2);
    }

    #[test]
    fn what_is_refused() {
        for (key, value) in [
            ("a", "1"),
            ("a", "xx.1"),
            ("a", "is.maybe"),
            ("a", "in.1"),
            ("a", "in.(\"1)"),
            ("a.b", "eq.1"),
            ("or", "a.eq.1"),
            ("or", "(a)"),
            ("", "eq.1"),
        ] {
            assert_eq!(Filter::parse(key, value).unwrap_err().code(), "PGRST100", "{key}={value}");
        }
        let deep = format!("{}a.eq.1{}", "(and".repeat(64), ")".repeat(64));
        assert!(Filter::parse("and", &deep).is_err());
    }
}
