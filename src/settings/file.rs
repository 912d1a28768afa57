//! The settings' file: whether one that is there can be read, and whether its values are of the types that were made of them.

use std::path::Path;

use toml::{Table, Value};

use super::Settings;

/// The first value of the file that was taken for one of another type, by its key, and what would be right: `config` makes 1 of
/// `true` and 3 of 2.5, which nobody meant.
pub(super) fn miscast(file: &Path, settings: &Settings) -> Option<(String, &'static str)> {
    let given = std::fs::read_to_string(file).ok()?.parse::<Table>().ok()?;
    miscast_in(&given, &Table::try_from(settings).ok()?, "")
}

fn miscast_in(given: &Table, taken: &Table, at: &str) -> Option<(String, &'static str)> {
    given.iter().find_map(|(name, value)| {
        let key = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        let reason = match (value, taken.get(name)?) {
            (Value::Table(given), Value::Table(taken)) => return miscast_in(given, taken, &key),
            (Value::Boolean(_) | Value::Float(_), Value::Integer(_)) => "expected a whole number",
            (Value::Boolean(_), Value::Float(_)) => "expected a number",
            (Value::Integer(_) | Value::Float(_), Value::Boolean(_)) => "expected true or false",
            _ => return None,
        };
        Some((key, reason))
    })
}

/// Why a file that is there can't be read.
pub(super) fn unreadable(file: &Path) -> Option<String> {
    let can_not = |error: std::io::Error| Some(format!("can't be read: {error}"));
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => std::fs::File::open(file).err().and_then(can_not),
        Ok(metadata) if metadata.is_dir() => Some("is a folder".into()),
        // It is read more than once: by SIGHUP as well.
        Ok(_) => Some("is no regular file".into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            file.symlink_metadata().is_ok().then(|| "is a symbolic link to a file that is not there".into())
        }
        Err(error) => can_not(error),
    }
}
