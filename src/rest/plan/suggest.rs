//! Did-you-mean hints, within a bound of work: a wrong name must not cost more than a right one.

/// Most work of one hint: pairs of letters that are compared, and letters that are read. Some tenths of a millisecond.
///
/// Whoever owns the schema chooses how many candidates there are and how long, so their number alone bounds nothing.
const MAX_WORK: usize = 200_000;

/// Longest name that is compared, in bytes.
const MAX_NAME: usize = 1000;

/// Least similarity, 0 to 1, of names whose existence the hint would tell.
pub(super) const STRICT_SIMILARITY: f64 = 0.75;
/// Least similarity, 0 to 1, where the request has named the right relation or function already.
pub(super) const LOOSE_SIMILARITY: f64 = 0.33;

/// The candidate most similar to `name`, if its similarity is `least` or more. Candidates are taken one by one, until the
/// work is done that a hint is worth.
pub(super) fn nearest<C: AsRef<str>>(
    name: &str,
    candidates: impl IntoIterator<Item = C>,
    least: f64,
) -> Option<C> {
    if name.len() > MAX_NAME {
        return None;
    }
    let folded = name.to_lowercase();
    let letters = folded.chars().count();
    let (mut best, mut left) = (None, MAX_WORK);
    for candidate in candidates {
        let Some(after) = left.checked_sub(candidate.as_ref().len() + 1) else { break };
        left = after;
        let others = candidate.as_ref().chars().count();
        let wanted = best.as_ref().map_or(least, |(highest, _): &(f64, C)| highest.max(least));
        if could_reach(letters, others) < wanted {
            continue;
        }
        let Some(after) = left.checked_sub(letters * others) else { break };
        left = after;
        let other = candidate.as_ref().to_lowercase();
        let score = strsim::normalized_levenshtein(&folded, &other);
        let better = best.as_ref().is_none_or(|(highest, _)| score > *highest);
        if score >= least && better && share_a_pair(&folded, &other) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The highest similarity that texts of these lengths can have.
#[expect(clippy::cast_precision_loss, reason = "names are shorter than 2^52 letters")]
fn could_reach(one: usize, other: usize) -> f64 {
    let (shorter, longer) = (one.min(other), one.max(other).max(1));
    shorter as f64 / longer as f64
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

    #[test]
    fn what_can_not_be_similar_costs_nothing_but_a_look() {
        let far = std::iter::repeat_n("an entirely different name", 5000);
        assert_eq!(nearest("itemss", far.chain(["items"]), STRICT_SIMILARITY), Some("items"));
    }

    /// However many candidates there are and however long: so many letters are read, and so many pairs compared.
    #[test]
    fn the_work_is_bounded() {
        for length in [1, 60, 900, 7000, 1_000_000] {
            for name in ["a", &"ab".repeat(30), &"ab".repeat(450)] {
                let (mut drawn, mut letters) = (0, 0);
                let candidates = (0..).map(|number| {
                    let candidate = format!("{number}{}", "x".repeat(length));
                    (drawn, letters) = (drawn + 1, letters + candidate.len());
                    candidate
                });
                assert_eq!(nearest(name, candidates, LOOSE_SIMILARITY), None, "{length}");
                assert!(
                    drawn <= MAX_WORK && letters <= MAX_WORK + length + 20,
                    "{length}: {drawn} {letters}"
                );
                let alike = drawn > 1 && could_reach(name.len(), length) >= LOOSE_SIMILARITY;
                assert!(!alike || drawn * name.len() * length <= 2 * MAX_WORK, "{length}: {drawn}");
            }
        }
    }
}
