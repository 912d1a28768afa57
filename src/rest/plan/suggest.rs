//! Did-you-mean hints.

/// Most candidates that are compared: a hint must not make a wrong URL expensive.
const MAX_CANDIDATES: usize = 500;

/// Longest name that is compared, in bytes. The work grows with it, and no name in a schema is that long.
const MAX_NAME: usize = 1000;

/// Least similarity, 0 to 1, of names whose existence the hint would tell.
pub(super) const STRICT_SIMILARITY: f64 = 0.75;
/// Least similarity, 0 to 1, where the request has named the right relation or function already.
pub(super) const LOOSE_SIMILARITY: f64 = 0.33;

/// The candidate most similar to `name`, if its similarity is `least` or more.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    least: f64,
) -> Option<&'a str> {
    if name.len() > MAX_NAME {
        return None;
    }
    let folded = name.to_lowercase();
    let mut best = None;
    for candidate in candidates.into_iter().take(MAX_CANDIDATES) {
        let other = candidate.to_lowercase();
        let score = strsim::normalized_levenshtein(&folded, &other);
        let better = best.is_none_or(|(highest, _)| score > highest);
        if score >= least && better && share_a_pair(&folded, &other) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Whether both have some pair of neighbouring letters. Without it names of a few letters are similar to everything.
fn share_a_pair(one: &str, other: &str) -> bool {
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
    fn only_similar_names_are_suggested() {
        assert_eq!(nearest("itemss", ["items", "clients"], STRICT_SIMILARITY), Some("items"));
        assert_eq!(nearest("xyz", ["items", "clients"], STRICT_SIMILARITY), None);
        let long = "items".repeat(1000);
        assert_eq!(nearest(&long, [long.as_str()], STRICT_SIMILARITY), None);
        assert_eq!(nearest("role", ["directors", "roles"], LOOSE_SIMILARITY), Some("roles"));
    }
}
