//! ptxas, NVIDIA's assembler.

use std::fs;
use std::path::PathBuf;

use super::{Folder, ToolError};
use crate::Target;

/// The absolute path of ptxas, where there is one. `LACUNA_PTXAS` is taken at its word.
pub fn ptxas() -> Option<PathBuf> {
    super::find("ptxas", "LACUNA_PTXAS")
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

    /// What ptxas says of products of warpgroups that it makes wait for each other, or of what else it changes about them. C7519 is
    /// none of these: it puts a fence where there is none.
    pub fn remark(&self) -> Option<&str> {
        self.log.lines().find(|line| line.contains("(C75") && !line.contains("(C7519)"))
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

/// Assembles a module for the GPU that `target` names.
///
/// # Errors
/// When there is no ptxas, when it cannot be run or does not end, when it refuses the text, and when it says that it is done
/// and has written no machine code.
pub fn assemble(text: &str, target: Target) -> Result<Assembled, ToolError> {
    let program = ptxas().ok_or(ToolError::Missing { tool: "ptxas", variable: "LACUNA_PTXAS" })?;
    let failed = |error| ToolError::Run { program: program.clone(), error };
    let folder = Folder::new().map_err(failed)?;
    fs::write(folder.path().join("module.ptx"), text).map_err(failed)?;
    // Bare file names, so that no message holds the name of a temporary folder.
    let done =
        super::run(&program, &["-v", "-arch", &target.to_string(), "module.ptx", "-o", "module.cubin"], &folder)?;
    let mut log = String::from_utf8_lossy(&done.stdout).into_owned();
    log += &String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        return Err(ToolError::Refused { target, log });
    }
    match fs::read(folder.path().join("module.cubin")) {
        Ok(cubin) => Ok(Assembled { cubin, entries: usages(&log), log }),
        Err(_) => {
            Err(ToolError::Failed { program, what: "says that it is done, and wrote no machine code".to_owned() })
        }
    }
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
