//! Secrets that commands take: from a file, standard input or the environment, because arguments are seen by everybody on the
//! machine and stay in the shell's history.

use std::io::Read as _;

use super::super::{Failure, Output};
use crate::policy::{JWT_SECRET, Secret};

/// Longest secret, in bytes: a JWKS with all the keys that one may have is far shorter.
const MOST: u64 = 256 * 1024;

/// Where a tenant's `jwt_secret` is read from.
#[derive(clap::Args, Default)]
pub(in crate::cli) struct JwtSecret {
    /// The file that has its jwt_secret; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "jwt_secret_env")]
    jwt_secret_file: Option<String>,
    /// The environment variable that holds its jwt_secret
    #[arg(long, value_name = "NAME")]
    jwt_secret_env: Option<String>,
}

impl JwtSecret {
    /// The secret; `None` when no place was given.
    pub(in crate::cli) fn read(&self) -> Result<Option<Secret>, Failure> {
        match (&self.jwt_secret_file, &self.jwt_secret_env) {
            (Some(file), _) => Ok(Some(of_file("--jwt-secret-file", file)?)),
            (None, Some(name)) => Ok(Some(of_environment("--jwt-secret-env", name)?)),
            (None, None) => Ok(None),
        }
    }
}

/// The value of a setting: as it is given, or of a secret what the file behind an `@` has, or standard input for `-`.
pub(super) fn value(key: &str, given: &str, output: Output) -> Result<Secret, Failure> {
    if key != JWT_SECRET || given.is_empty() {
        return Ok(Secret::new(given));
    }
    match given.strip_prefix('@').unwrap_or(if given == "-" { given } else { "" }) {
        "" => {
            output.note(
                "a secret among the arguments is seen by everybody on this machine (ps) and stays in the shell's history; \
                 give jwt_secret=@FILE, jwt_secret=- (standard input) or --jwt-secret-env NAME",
            );
            Ok(Secret::new(given))
        }
        file => of_file(JWT_SECRET, file),
    }
}

/// What a file has, or standard input for `-`; without the newline at its end.
pub(super) fn of_file(option: &str, file: &str) -> Result<Secret, Failure> {
    let mut text = String::new();
    let read = match file {
        "-" => std::io::stdin().lock().take(MOST + 1).read_to_string(&mut text),
        file => std::fs::File::open(file).and_then(|file| file.take(MOST + 1).read_to_string(&mut text)),
    };
    let place = if file == "-" { "standard input".to_owned() } else { format!("`{file}`") };
    read.map_err(|e| Failure(format!("{option}: {place}: {e}")))?;
    if text.len() as u64 > MOST {
        return Err(Failure(format!("{option}: {place} is longer than {MOST} bytes")));
    }
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() {
        return Err(Failure(format!("{option}: {place} is empty")));
    }
    Ok(Secret::new(secret))
}

/// What a variable of the environment holds.
pub(super) fn of_environment(option: &str, name: &str) -> Result<Secret, Failure> {
    match std::env::var(name) {
        Ok(secret) if !secret.is_empty() => Ok(Secret::new(secret)),
        _ => Err(Failure(format!("{option}: there is no {name} in the environment, or it is empty"))),
    }
}
