//! The configuration files of the cluster: written by manybox at every start, so that they never differ from what it says.

use std::fs;
use std::path::Path;

use super::EmbeddedError;
use super::files::{ClusterFiles, write};
use super::user::User;

/// The bootstrap superuser. Comes in by its OS user only, and has no password.
pub(super) const SUPERUSER: &str = "postgres";

/// Who may log in, and how. TCP is open to nobody unless the server listens, and to the superuser never.
fn hba() -> String {
    format!(
        "# Written by manybox at every start.\n\
         local all,replication {SUPERUSER} peer map=manybox\n\
         local all all scram-sha-256\n\
         host all {SUPERUSER} all reject\n\
         host all all 127.0.0.1/32 scram-sha-256\n"
    )
}

/// Which OS users are the bootstrap superuser: who runs the server (it owns the data anyway) and who runs manybox.
fn ident(files: &ClusterFiles) -> Result<String, EmbeddedError> {
    let mut names = vec![files.user.name.clone(), User::current()?.name];
    names.dedup();
    let lines: String = names.iter().map(|name| format!("manybox \"{name}\" {SUPERUSER}\n")).collect();
    Ok(format!("# Written by manybox at every start.\n{lines}"))
}

/// Writes the rules of access; whether they are other than before, so that a running server must read them again.
pub(super) fn write_access(files: &ClusterFiles) -> Result<bool, EmbeddedError> {
    let mut changed = false;
    for (name, text) in [("pg_hba.conf", hba()), ("pg_ident.conf", ident(files)?)] {
        let path = files.data().join(name);
        if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
            write(&path, &text, &files.user)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Writes `postgresql.conf`. What an operator sets with ALTER SYSTEM still wins.
pub(super) fn write_settings(
    files: &ClusterFiles,
    port: u16,
    tcp: bool,
    extra: &[(String, String)],
) -> Result<(), EmbeddedError> {
    let socket = files.socket.to_string_lossy();
    let port = port.to_string();
    let mut settings = vec![
        ("listen_addresses", if tcp { "127.0.0.1" } else { "" }),
        ("port", &port),
        ("unix_socket_directories", &socket),
        // Its folder is private already. Root passes both, everybody else is to be the server's user.
        ("unix_socket_permissions", "0700"),
        ("max_connections", "200"),
        ("shared_buffers", "128MB"),
        ("password_encryption", "scram-sha-256"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("log_line_prefix", "%m [%p] %q%u@%d "),
        // A thousand databases are a million files: an fsync for each makes a start after a crash take minutes.
        #[cfg(target_os = "linux")]
        ("recovery_init_sync_method", "syncfs"),
    ];
    settings.extend(extra.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let lines: String =
        settings.iter().map(|(name, value)| format!("{name} = {}\n", quoted(value))).collect();
    let text = format!("# Written by manybox at every start; ALTER SYSTEM keeps changes of yours.\n{lines}");
    write(&files.data().join("postgresql.conf"), &text, &files.user)
}

/// Refuses settings that would change the meaning of the lines after them.
pub(super) fn check(settings: &[(String, String)]) -> Result<(), EmbeddedError> {
    let name_ok = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.')
    };
    match settings.iter().find(|(name, value)| !name_ok(name) || value.contains(['\n', '\r', '\0'])) {
        Some((name, _)) => Err(EmbeddedError::Setting(name.clone())),
        None => Ok(()),
    }
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// The last lines that the server logged behind `from` bytes, to be shown with an error.
pub(super) fn log_tail(log: &Path, from: u64) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let new = bytes.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default();
    let text = String::from_utf8_lossy(new);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return String::new();
    }
    let last = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default();
    format!("\nthe last lines of {}:\n  {}", log.display(), last.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_on_their_line() {
        assert_eq!(quoted(r"it's a \"), r"'it''s a \\'");
        let bad = |name: &str, value: &str| check(&[(name.into(), value.into())]).is_err();
        assert!(bad("fsync", "off\nport = 1") && bad("a = b", "c") && bad("", "x"));
        assert!(!bad("log_statement", "all") && !bad("auto_explain.log_min_duration", "0"));
    }
}
