//! `lacuna completions` and `lacuna man`: what the shell and `man` know of the command, from the definitions that parse it.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::failure::{Failure, Result};
use super::output;

/// What `lacuna completions` takes.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
    /// Write to this file
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Completions {
    /// Prints the script, or writes it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn write(&self, mut command: Command) -> Result {
        let mut script = Vec::new();
        let name = command.get_name().to_owned();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        match &self.output {
            Some(path) => output::write(path, &script),
            None => output::print(&String::from_utf8_lossy(&script)),
        }
    }
}

/// What `lacuna man` takes.
#[derive(Debug, Args)]
pub(crate) struct Manual {
    /// The page of this command [default: of lacuna itself]
    command: Option<String>,
    /// Write every page to this directory: lacuna.1, lacuna-run.1, and so on
    #[arg(long, short, value_name = "DIR", conflicts_with = "command")]
    output: Option<PathBuf>,
}

impl Manual {
    /// Prints a page, or writes all of them.
    ///
    /// # Errors
    /// A command that there is not; a directory that cannot be written.
    pub(crate) fn write(&self, mut command: Command) -> Result {
        // The names of pages, `lacuna-run`, are made by building.
        command.build();
        if let Some(dir) = &self.output {
            return pages(&command, dir);
        }
        let page = match &self.command {
            None => &command,
            Some(name) => command.find_subcommand(name).ok_or_else(|| {
                let known: Vec<&str> = documented(&command).map(Command::get_name).collect();
                Failure::usage(format!("no command `{name}`; there are {}", known.join(", ")))
            })?,
        };
        output::print(&String::from_utf8_lossy(&rendered(page)?))
    }
}

/// A page each: of the command, and of what stands under it.
fn pages(command: &Command, dir: &Path) -> Result {
    output::directory(dir)?;
    for page in std::iter::once(command).chain(documented(command)) {
        let name = page.get_display_name().unwrap_or(page.get_name());
        output::write(&dir.join(format!("{name}.1")), &rendered(page)?)?;
    }
    Ok(())
}

/// The commands that have pages: clap's own `help` has none, nor has what the command runs for itself.
fn documented(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| command.get_name() != "help" && !command.is_hide_set())
}

fn rendered(command: &Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    let failed = |error: io::Error| Failure::usage(format!("cannot render a page: {error}"));
    Man::new(command.clone()).render(&mut page).map_err(failed)?;
    Ok(page)
}
