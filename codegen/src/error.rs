//! Why something could not be compiled.

use crate::ir::Diagnostic;

/// `16, 32 or 64`: what would be right, in a message.
pub fn one_of(values: &[impl std::fmt::Display]) -> String {
    let words: Vec<String> = values.iter().map(ToString::to_string).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

/// Why something could not be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The author's function is wrong, at these places.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Staging(Vec<Diagnostic>),
    /// A pick, width or target that this schedule cannot be compiled for: what it is, and what would be right.
    #[error("{0}")]
    Unsupported(String),
    /// A kernel that needs more shared memory than a CTA may use on its target.
    #[error(
        "{kernel} at {pick} needs {needs} bytes of shared memory, and a CTA of {target} may use {limit}; fewer stages or smaller blocks fit"
    )]
    SharedMemory {
        /// The kernel.
        kernel: String,
        /// The pick, as `stages = 4, warps = 4`.
        pick: String,
        /// The target.
        target: lacuna_ptx::Target,
        /// Bytes needed.
        needs: u64,
        /// Bytes that there are.
        limit: u64,
    },
    /// A pass left something that does not hold: a bug in lacuna, not in the schedule.
    #[error("internal error in {pass}: {message}")]
    Internal {
        /// Which pass.
        pass: &'static str,
        /// What does not hold.
        message: String,
    },
}
