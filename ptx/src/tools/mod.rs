//! NVIDIA's own programs, where they are: [`ptxas()`], the last word on whether text is PTX, and on registers and spills;
//! [`nvdisasm()`], which names the machine instructions that it makes. [`Warpgroups`] reads from both what became of products of
//! warpgroups.
//!
//! Each is found by a variable (`LACUNA_PTXAS`, `LACUNA_NVDISASM`), else at `target/tools` under the workspace root, where
//! `cargo xtask tools` puts it, else on `PATH`. One that has not ended after [`time_limit`] is stopped. Nothing in this crate
//! needs either of them but this module.

mod nvdisasm;
mod ptxas;
mod warpgroups;

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use wait_timeout::ChildExt as _;

use crate::{Target, tidy};

pub use nvdisasm::{Disassembled, disassemble, nvdisasm};
pub use ptxas::{Assembled, Usage, assemble, ptxas};
pub use warpgroups::{Kept, Stage, Warpgroups};

/// How long a program may take: `LACUNA_TOOL_SECONDS`, else two minutes.
pub fn time_limit() -> Duration {
    let given = env::var("LACUNA_TOOL_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(given.unwrap_or(120))
}

/// A program could not be asked, or refused what it was given.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not there.
    #[error("there is no {tool}: run `cargo xtask tools`, or set {variable} to its path")]
    Missing {
        /// Its name.
        tool: &'static str,
        /// What may name its place.
        variable: &'static str,
    },
    /// It, or the files between us and it, failed.
    #[error("cannot run {}: {error}", .program.display())]
    Run {
        /// What was run.
        program: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// It took too long and was stopped.
    #[error("{} has not ended after {} s (LACUNA_TOOL_SECONDS) and was stopped", .program.display(), .limit.as_secs())]
    Slow {
        /// What was run.
        program: PathBuf,
        /// How long it was given.
        limit: Duration,
    },
    /// The text is not PTX for this target.
    #[error("ptxas refuses the text for {target}:\n{log}")]
    Refused {
        /// What it was to be assembled for.
        target: Target,
        /// Everything that ptxas said.
        log: String,
    },
    /// It failed for another reason, or what it gave back is not what it gives back.
    #[error("{} {what}", .program.display())]
    Failed {
        /// What was run.
        program: PathBuf,
        /// What it did.
        what: String,
    },
}

/// The absolute path of a program, where there is one. The variable is taken at its word.
fn find(name: &str, variable: &str) -> Option<PathBuf> {
    if let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) {
        return std::path::absolute(path).ok();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let local = root.join("target").join("tools").join(name);
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join(name));
    std::iter::once(local).chain(on_path).find(|path| path.is_file()).and_then(|path| std::path::absolute(path).ok())
}

/// A folder of its own for a program's files.
struct Folder(Option<tempfile::TempDir>, PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let made = tidy::make(|| tempfile::Builder::new().prefix("lacuna-tool-").tempdir())?;
        let path = made.path().to_owned();
        Ok(Folder(Some(made), path))
    }

    fn path(&self) -> &Path {
        &self.1
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        tidy::settle(&self.1, || drop(self.0.take()));
    }
}

/// What a program that has ended left.
struct Ended {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Runs a program in its folder. What it prints goes to files there: a pipe that nobody empties would stop it.
fn run(program: &Path, args: &[impl AsRef<OsStr>], folder: &Folder) -> Result<Ended, ToolError> {
    let failed = |error| ToolError::Run { program: program.to_owned(), error };
    let path = |name| folder.path().join(name);
    let file = |name| File::create(path(name)).map_err(failed);
    let mut child = Command::new(program)
        .args(args)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(file("stdout")?)
        .stderr(file("stderr")?)
        .spawn()
        .map_err(failed)?;
    let limit = time_limit();
    let Some(status) = child.wait_timeout(limit).map_err(failed)? else {
        // It may end of itself meanwhile; either way it is waited for.
        let _ = child.kill();
        let _ = child.wait();
        return Err(ToolError::Slow { program: program.to_owned(), limit });
    };
    let read = |name| fs::read(path(name)).map_err(failed);
    Ok(Ended { status, stdout: read("stdout")?, stderr: read("stderr")? })
}
