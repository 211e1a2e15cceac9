//! ptxas, NVIDIA's assembler: the last word on whether text is PTX, and on registers and spills.
//!
//! It is found by `LACUNA_PTXAS`, else at `target/tools/ptxas` under the workspace root, where `cargo xtask tools` puts
//! it, else on `PATH`. Nothing in this crate needs it but this module.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Target;

/// The absolute path of ptxas, where there is one. `LACUNA_PTXAS` is taken at its word.
pub fn ptxas() -> Option<PathBuf> {
    if let Some(path) = env::var_os("LACUNA_PTXAS").filter(|path| !path.is_empty()) {
        return std::path::absolute(path).ok();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let local = root.join("target").join("tools").join("ptxas");
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join("ptxas"));
    std::iter::once(local).chain(on_path).find(|path| path.is_file()).and_then(|path| std::path::absolute(path).ok())
}

/// What ptxas made of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// The machine code.
    pub cubin: Vec<u8>,
    /// What every entry uses, in the order in which ptxas reports them (not that of the text).
    pub entries: Vec<Usage>,
    /// Everything that ptxas said, warnings included.
    pub log: String,
}

impl Assembled {
    /// What this entry uses.
    pub fn usage(&self, entry: &str) -> Option<&Usage> {
        self.entries.iter().find(|usage| usage.entry == entry)
    }
}

/// What the machine code of an entry uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The entry's name.
    pub entry: String,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes that are spilled to local memory.
    pub spill_stores: u32,
    /// Bytes that are loaded back.
    pub spill_loads: u32,
    /// Bytes of stack a thread, spills included.
    pub stack: u32,
    /// Bytes of shared memory of a fixed size.
    pub shared_static: u32,
}

/// ptxas could not be asked, or refused the text.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// There is no ptxas.
    #[error("there is no ptxas: run `cargo xtask tools`, or set LACUNA_PTXAS to its path")]
    Missing,
    /// ptxas, or the files between us and it, failed.
    #[error("cannot run {}: {error}", .program.display())]
    Run {
        /// What was run.
        program: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// The text is not PTX for this target.
    #[error("ptxas refuses the text for {target}:\n{log}")]
    Refused {
        /// What it was to be assembled for.
        target: Target,
        /// Everything that ptxas said.
        log: String,
    },
}

/// Assembles a module for the GPU that `target` names.
///
/// # Errors
/// When there is no ptxas, when it cannot be run, and when it refuses the text.
pub fn assemble(text: &str, target: Target) -> Result<Assembled, AssembleError> {
    let program = ptxas().ok_or(AssembleError::Missing)?;
    let (ok, cubin, log) = match run(&program, text, target) {
        Ok(result) => result,
        Err(error) => return Err(AssembleError::Run { program, error }),
    };
    if !ok {
        return Err(AssembleError::Refused { target, log });
    }
    Ok(Assembled { cubin, entries: usages(&log), log })
}

/// Whether it succeeded, the cubin, the log.
fn run(program: &Path, text: &str, target: Target) -> io::Result<(bool, Vec<u8>, String)> {
    let folder = tempfile::Builder::new().prefix("lacuna-ptxas-").tempdir()?;
    std::fs::write(folder.path().join("module.ptx"), text)?;
    // Bare file names, so that no message holds the name of a temporary folder.
    let args = ["-v", "-arch", &target.to_string(), "module.ptx", "-o", "module.cubin"].map(OsString::from);
    let output = Command::new(program).args(args).current_dir(folder.path()).output()?;
    let mut log = String::from_utf8_lossy(&output.stdout).into_owned();
    log += &String::from_utf8_lossy(&output.stderr);
    let ok = output.status.success();
    let cubin = if ok { std::fs::read(folder.path().join("module.cubin"))? } else { Vec::new() };
    Ok((ok, cubin, log))
}

/// What `-v` says of every entry:
/// ```text
/// ptxas info    : Compiling entry function 'k' for 'sm_80'
/// ptxas info    : Function properties for k
///     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
/// ptxas info    : Used 8 registers, used 1 barriers, 1024 bytes smem, 352 bytes cmem[0]
/// ```
fn usages(log: &str) -> Vec<Usage> {
    let mut usages: Vec<Usage> = Vec::new();
    for line in log.lines() {
        if let Some((_, entry)) = line.split_once("Compiling entry function '") {
            let entry = entry.split('\'').next().unwrap_or_default().to_owned();
            usages.push(Usage { entry, ..Usage::default() });
        }
        let Some(usage) = usages.last_mut() else { continue };
        for part in line.split(',') {
            let before = |what: &str| {
                let number = part.split_once(what)?.0.trim().rsplit(' ').next()?;
                number.parse::<u32>().ok()
            };
            let fields = [
                (" registers", &mut usage.registers),
                (" bytes stack frame", &mut usage.stack),
                (" bytes spill stores", &mut usage.spill_stores),
                (" bytes spill loads", &mut usage.spill_loads),
                (" bytes smem", &mut usage.shared_static),
            ];
            for (what, field) in fields {
                *field = before(what).unwrap_or(*field);
            }
        }
    }
    usages
}
