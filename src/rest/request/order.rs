//! `order=`: columns, and columns of embedded relations.

use winnow::Parser;
use winnow::combinator::{alt, delimited, opt, preceded, terminated};

use super::super::error::Error;
use super::filter::AtPath;
use super::grammar::{
    Field, Input, Parsed, char, delimiter, end, field, lexeme, list, name, path, read, word,
};

/// One term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Term {
    /// The embed whose column it is; `None` for the level's own.
    pub(crate) embed: Option<String>,
    /// The column.
    pub(crate) field: Field,
    /// `.desc`, or `.asc`.
    pub(crate) descending: Option<bool>,
    /// `.nullsfirst`, or `.nullslast`.
    pub(crate) nulls_first: Option<bool>,
}

/// Reads `order=…`, `clients.order=…`.
pub(super) fn order(key: &str, value: &str) -> Result<AtPath<Vec<Term>>, Error> {
    let mut names = read("tree path", key, path)?;
    names.pop();
    let terms = read("order", value, list(1, lexeme(term), char(',')))?;
    Ok((names, terms))
}

fn term(input: &mut Input<'_>) -> Parsed<Term> {
    let related = (name, delimited(char('('), field, char(')'))).map(|(name, field)| (Some(name), field));
    let own = field.map(|field| (None, field));
    let related = (related, ending).map(|((embed, field), ending)| (embed, field, ending));
    let own = (own, ending).map(|((embed, field), ending)| (embed, field, ending));
    let (embed, field, (descending, nulls_first)) = alt((related, own)).parse_next(input)?;
    Ok(Term { embed, field, descending, nulls_first })
}

fn ending(input: &mut Input<'_>) -> Parsed<(Option<bool>, Option<bool>)> {
    let direction = alt((word("asc").value(false), word("desc").value(true)));
    let nulls = alt((word("nullsfirst").value(true), word("nullslast").value(false)));
    terminated((opt(preceded(delimiter, direction)), opt(preceded(delimiter, nulls))), end(","))
        .parse_next(input)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms() {
        let (path, terms) = order("a.order", "x.desc.nullslast, b(y->z).asc").unwrap();
        assert_eq!(path, ["a"]);
        assert_eq!((terms[0].descending, terms[0].nulls_first), (Some(true), Some(false)));
        assert_eq!((terms[1].embed.as_deref(), terms[1].field.path.len()), (Some("b"), 1));
        let error = order("order", "id.asc.nullslasttt").unwrap_err().to_string();
        insta::assert_snapshot!(error, @r#""failed to parse order (id.asc.nullslasttt)" (line 1, column 17) (PGRST100); unexpected 't' expecting "," or end of input"#);
    }
}
