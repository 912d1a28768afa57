//! The `manybox` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    manybox::cli::run()
}
