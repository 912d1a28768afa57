//! Did-you-mean hints.

/// Names compared at most: a hint must not make a wrong URL expensive.
const COMPARED: usize = 500;

/// Longest name that is looked for, bytes: the work grows with it, and nothing in a schema is called so.
const LONGEST: usize = 1000;

/// How near a name of a relation or function must be: a hint tells that it exists.
pub(super) const NEAR: f64 = 0.75;
/// How near a name must be among those that the caller was told of anyway.
pub(super) const LOOSE: f64 = 0.33;

/// The candidate nearest to `name`, if it is near enough to be meant.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    least: f64,
) -> Option<&'a str> {
    if name.len() > LONGEST {
        return None;
    }
    let folded = name.to_lowercase();
    let mut best = None;
    for candidate in candidates.into_iter().take(COMPARED) {
        let other = candidate.to_lowercase();
        let score = strsim::normalized_levenshtein(&folded, &other);
        let better = best.is_none_or(|(most, _)| score > most);
        if score >= least && better && alike(&folded, &other) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Whether two neighbouring letters are in both: names of a few letters are near to everything otherwise.
fn alike(one: &str, other: &str) -> bool {
    let pairs = |text: &str| {
        let letters: Vec<char> =
            std::iter::once('-').chain(text.chars()).chain(std::iter::once('-')).collect();
        letters.windows(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>()
    };
    let others = pairs(other);
    pairs(one).iter().any(|pair| others.contains(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_meant() {
        assert_eq!(nearest("itemss", ["items", "clients"], NEAR), Some("items"));
        assert_eq!(nearest("xyz", ["items", "clients"], NEAR), None);
        let long = "items".repeat(1000);
        assert_eq!(nearest(&long, [long.as_str()], NEAR), None);
        assert_eq!(nearest("role", ["directors", "roles"], LOOSE), Some("roles"));
    }
}
