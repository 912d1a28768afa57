//! Labels: names and values by which operators choose among tenants.

use std::collections::BTreeMap;

use crate::policy::Invalid;

/// Most labels of a tenant, and most bytes in a name or a value.
const MOST_LABELS: usize = 50;
const MOST_BYTES: usize = 100;

/// These labels with these changes; an empty value takes a label away.
///
/// # Errors
/// When one is not of a label's form, or there would be too many.
pub fn labelled(
    labels: &BTreeMap<String, String>,
    changes: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Invalid> {
    let mut labels = labels.clone();
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    for (name, value) in changes {
        if name.is_empty() || name.len() > MOST_BYTES || !name.chars().all(known) {
            let shown: String = name.chars().take(MOST_BYTES).collect();
            return Err(Invalid(format!(
                "label `{shown}`: expected a name of up to {MOST_BYTES} letters, digits, `-`, `_`, `.` and `/`"
            )));
        }
        if value.len() > MOST_BYTES || value.chars().any(char::is_control) {
            return Err(Invalid(format!(
                "label `{name}`: expected a text of up to {MOST_BYTES} bytes in one line"
            )));
        }
        match value.is_empty() {
            true => drop(labels.remove(name)),
            false => drop(labels.insert(name.clone(), value.clone())),
        }
    }
    if labels.len() > MOST_LABELS {
        return Err(Invalid(format!("a tenant has {MOST_LABELS} labels at most")));
    }
    Ok(labels)
}
