//! `manybox completions` and `manybox man`: what packages install beside the program, made from the tree of commands.

use std::io::{self, Write as _};
use std::path::Path;

use clap::{Args, Command};
use clap_complete::Shell;

use super::Done;

/// `manybox completions`
#[derive(Args)]
pub(super) struct Completions {
    /// For which shell
    shell: Shell,
}

impl Completions {
    /// Of `command`, the tree of all commands.
    pub(super) fn print(&self, mut command: Command) -> Done {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command, "manybox", &mut text);
        print(&text)
    }
}

/// Prints the manual's page, or writes those of all commands into a folder.
pub(super) fn man(command: Command, folder: Option<&Path>) -> Done {
    match folder {
        // One page for each command, named as git's are: manybox-tenant-create.1.
        Some(folder) => Ok(clap_mangen::generate_to(command, folder)?),
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(command).render(&mut text)?;
            print(&text)
        }
    }
}

/// A reader that has seen enough, as `head` has, is no failure.
fn print(text: &[u8]) -> Done {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
