//! PostgreSQL's client programs: which are used, how, and what they say when they fail.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use crate::fleet::roles::{BACKUP, OWNER};
use crate::fleet::server::is_supported;
use crate::fleet::{FleetError, OperatorLogin};
use crate::pg::Endpoint;

/// Longest part of a program's complaints that is told.
const MAX_COMPLAINT: usize = 2000;

/// Starts `pg_dump` of a database, as a reader of all its rows, with the snapshot of another session of the reader. It ends
/// when what this gives is dropped. The archive comes from its standard output, in the custom form, which no psql reads:
/// names in it can't become its commands. The schema `manybox` is not in it, because whoever restores it may not write
/// there.
///
/// What runs in this session runs with the rights of [`BACKUP`], so nothing of the database's owner may: `pg_dump` looks up
/// names in `pg_catalog` only, lets row-level security be, and reads plain tables and sequences only, however quickly
/// somebody makes views of them. Versions that don't do the last (CVE-2024-7348) are refused.
pub(in crate::fleet) async fn dump(
    endpoint: &Endpoint,
    (database, reader): (&str, &OperatorLogin),
    snapshot: &str,
    more: &[&str],
) -> Result<Child, FleetError> {
    refuse_old("pg_dump").await?;
    let mut command = program("pg_dump", endpoint, database, reader);
    command.arg(format!("--role={BACKUP}")).arg(format!("--snapshot={snapshot}"));
    command.args([
        "--format=custom",
        "--no-subscriptions",
        "--lock-wait-timeout=5s",
        "--exclude-schema=manybox",
    ]);
    command.args(more).stdout(Stdio::piped());
    command.spawn().map_err(|error| not_started("pg_dump", &error))
}

/// `pg_restore` into a database as the owner of its objects, whoever owned them where they were dumped: it reads the
/// archive from its standard input, goes on past errors, and says them on its standard error.
///
/// The archive's own SQL runs in this session, as `writer`, who can connect to this database only.
pub(in crate::fleet) fn restore(
    endpoint: &Endpoint,
    (database, writer): (&str, &OperatorLogin),
    archive: Stdio,
    more: &[String],
) -> Result<Child, FleetError> {
    let mut command = program("pg_restore", endpoint, database, writer);
    command.arg(format!("--role={OWNER}")).arg("--no-owner").args(more);
    command.stdin(archive).stdout(Stdio::null());
    command.spawn().map_err(|error| not_started("pg_restore", &error))
}

/// One of PostgreSQL's client programs, which dies with us.
fn program(name: &str, endpoint: &Endpoint, database: &str, login: &OperatorLogin) -> Command {
    let mut command = Command::new(path(name));
    command.args(endpoint.psql_arguments(&login.login.user, database)).arg("--no-password");
    if let Some(password) = &login.login.password {
        command.env("PGPASSWORD", password.expose());
    }
    command.env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Where it is: in `MANYBOX_PG_BIN` if that is set, or on the PATH.
fn path(name: &str) -> PathBuf {
    let folder = std::env::var_os("MANYBOX_PG_BIN").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    folder.map_or_else(|| name.into(), |folder| folder.join(name))
}

async fn refuse_old(name: &str) -> Result<(), FleetError> {
    let output = Command::new(path(name)).arg("--version").stdin(Stdio::null()).output().await;
    let output = output.map_err(|error| not_started(name, &error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match version(&text) {
        Some((major, minor)) if is_supported(major, minor) => Ok(()),
        _ => Err(FleetError::Settings(format!(
            "{name} is `{}`; 15.9, 16.5, 17.1 or newer is needed: an older one can be led to run what a tenant wrote",
            text.trim()
        ))),
    }
}

/// The numbers of `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, or of `18beta1`.
fn version(text: &str) -> Option<(i32, i32)> {
    let number = text.split_once("(PostgreSQL)")?.1.split_whitespace().next()?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next().and_then(Result::ok).unwrap_or_default()))
}

fn not_started(name: &str, error: &std::io::Error) -> FleetError {
    FleetError::File(format!(
        "{name} could not be started: {error}; install PostgreSQL's client programs, or say in MANYBOX_PG_BIN where they are"
    ))
}

/// Waits for a program's end, with the beginning of what it says.
pub(in crate::fleet) async fn finished(
    name: &str,
    child: &mut Child,
) -> Result<(ExitStatus, String), FleetError> {
    let said = child.stderr.take();
    let (said, ended) = tokio::join!(beginning(said), child.wait());
    ended.map(|status| (status, said)).map_err(|error| FleetError::File(format!("{name}: {error}")))
}

/// The beginning of what a program says. The rest is read as well, so that it is not held up.
pub(in crate::fleet) async fn beginning(output: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut output) = output else { return String::new() };
    let (mut kept, mut buffer) = (Vec::new(), [0_u8; 4096]);
    while let Ok(read @ 1..) = output.read(&mut buffer).await {
        let room = MAX_COMPLAINT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..read.min(room)]);
    }
    String::from_utf8_lossy(&kept).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_programs_say_them() {
        for (text, expected) in [
            ("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some((15, 18))),
            ("pg_dump (PostgreSQL) 17.1\n", Some((17, 1))),
            ("pg_dump (PostgreSQL) 18beta1\n", Some((18, 0))),
            ("pg_dump (PostgreSQL) 19devel\n", Some((19, 0))),
            ("something else", None),
        ] {
            assert_eq!(version(text), expected, "{text}");
        }
    }
}
