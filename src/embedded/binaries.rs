//! Finding PostgreSQL's server programs, which most systems keep off the PATH.

use std::env;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::EmbeddedError;

/// The oldest version that will do: views with `security_invoker` came with it.
const MINIMUM: u32 = 15;

/// Folders that hold one folder per version, and where the programs are in those.
const USUAL_FOLDERS: [(&str, &str, &str); 4] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
];

/// The server programs of one version.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Looks in `MANYBOX_PG_BIN`, at what `pg_config` says, on the PATH and in the usual folders, newest first. With
    /// data of version `wanted` only that version will do; the first one found otherwise.
    pub(super) async fn find(wanted: Option<u32>, data: &Path) -> Result<Self, EmbeddedError> {
        let mut searched = Vec::new();
        let mut found = Vec::new();
        for (origin, folder) in candidates().await {
            let shown = format!("{} ({origin})", folder.display());
            match version(&folder).await {
                Some(version) if wanted == Some(version) || (wanted.is_none() && version >= MINIMUM) => {
                    return Ok(Self { folder });
                }
                Some(version) => {
                    if !found.contains(&version) {
                        found.push(version);
                    }
                    searched.push(format!("{shown}: version {version}"));
                }
                None => searched.push(format!("{shown}: no initdb, pg_ctl and postgres there")),
            }
        }
        match wanted {
            Some(data_version) if !found.is_empty() => Err(EmbeddedError::OtherMajor {
                data: data.to_owned(),
                data_version,
                found: found.iter().map(u32::to_string).collect::<Vec<_>>().join(" and "),
            }),
            _ => {
                if named().is_none() {
                    searched.extend(
                        USUAL_FOLDERS.iter().map(|(above, prefix, bin)| format!("{above}/{prefix}*/{bin}")),
                    );
                }
                Err(EmbeddedError::NoBinaries { minimum: MINIMUM, searched: searched.join(", ") })
            }
        }
    }

    /// The path of one of the programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Folders to look in, best first, with how we came by each.
async fn candidates() -> Vec<(&'static str, PathBuf)> {
    if let Some(folder) = named() {
        // Whoever names a folder means that one: another version would be a surprise, not a help.
        return vec![("MANYBOX_PG_BIN", folder)];
    }
    let mut folders = Vec::new();
    if let Ok(said) = Command::new("pg_config").arg("--bindir").output().await
        && said.status.success()
    {
        folders.push(("pg_config", PathBuf::from(String::from_utf8_lossy(&said.stdout).trim())));
    }
    if let Some(path) = env::var_os("PATH") {
        folders.extend(
            env::split_paths(&path)
                .filter(|folder| folder.join("pg_ctl").exists())
                .map(|folder| ("PATH", folder)),
        );
    }
    let mut versions = Vec::new();
    for (above, prefix, bin) in USUAL_FOLDERS {
        for entry in std::fs::read_dir(above).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(number) =
                name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse::<u32>().ok())
            {
                versions.push((number, entry.path().join(bin)));
            }
        }
    }
    versions.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    folders.extend(versions.into_iter().map(|(_, folder)| ("usual folder", folder)));
    folders
}

/// The folder that the environment names.
fn named() -> Option<PathBuf> {
    env::var_os("MANYBOX_PG_BIN").filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

/// The major version of the server in a folder; `None` when a program is missing or does not run.
async fn version(folder: &Path) -> Option<u32> {
    if !["initdb", "pg_ctl"].iter().all(|program| folder.join(program).exists()) {
        return None;
    }
    let said = Command::new(folder.join("postgres")).arg("--version").output().await.ok()?;
    major(&String::from_utf8_lossy(&said.stdout))
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0)` -> 15, also for `16beta1`.
fn major(said: &str) -> Option<u32> {
    let version = said.split_once("(PostgreSQL) ")?.1;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn major_version_of_releases_and_previews() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 19beta2"), Some(19));
        assert_eq!(major("postgres: command not found"), None);
    }
}
