//! PTX text, read, verified and decoded.

use lacuna_ptx::{Module, ReadError, Stmt, Target, VerifyError};

use crate::decode::Kernel;

/// A PTX module, ready to run.
#[derive(Debug)]
pub struct Program {
    target: Target,
    kernels: Vec<Kernel>,
}

/// Text that is not a program.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LoadError {
    /// The reader does not understand it.
    #[error("PTX that cannot be read: {0}")]
    Read(#[from] ReadError),
    /// The verifier refuses it.
    #[error("PTX that is not well formed: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Verify(Vec<VerifyError>),
    /// The emulator has no room for it, or it reads outside a parameter.
    #[error("{entry}: {what}")]
    Decode {
        /// The kernel.
        entry: String,
        /// Why.
        what: String,
    },
}

impl Program {
    /// Reads, verifies and decodes a module. Reports give the lines of this text.
    ///
    /// # Errors
    /// When it cannot be read, is not well formed, or is too large.
    pub fn from_text(ptx: &str) -> Result<Program, LoadError> {
        let (module, lines) = lacuna_ptx::read_with_lines(ptx)?;
        Self::load(&module, &lines)
    }

    /// The same for a module that is at hand already; reports give the lines of its printed text.
    ///
    /// # Errors
    /// As for [`Program::from_text`].
    pub fn new(module: &Module) -> Result<Program, LoadError> {
        Self::from_text(&module.to_string())
    }

    fn load(module: &Module, lines: &[Vec<usize>]) -> Result<Program, LoadError> {
        lacuna_ptx::verify(module).map_err(LoadError::Verify)?;
        let mut kernels = Vec::new();
        for (entry, lines) in module.entries.iter().zip(lines) {
            let instructions = entry.body.iter().zip(lines).filter(|(stmt, _)| matches!(stmt, Stmt::Inst(_)));
            let lines = instructions.map(|(_, line)| *line).collect();
            let kernel = Kernel::decode(module, entry, lines);
            kernels.push(kernel.map_err(|what| LoadError::Decode { entry: entry.name.clone(), what })?);
        }
        Ok(Program { target: module.target, kernels })
    }

    /// The kernels' names, in order.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(|kernel| kernel.name.as_str())
    }

    /// The module's target.
    pub const fn target(&self) -> Target {
        self.target
    }

    pub(crate) fn kernel(&self, entry: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == entry)
    }
}
