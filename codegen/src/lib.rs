//! Tile IR, the passes over it, and lowering to PTX.
//!
//! ```text
//!   staging (lacuna-dsl)           one run of the author's function per pick
//!        │
//!        ▼
//!   ir::Func ──────────────── SSA tiles with axes and dtype; accumulators are named storage; no layout, no threads
//!        │ verify             axes, dtypes, dominance, one writer
//!        │ partition          who does what: warps over the row axis and over the column axis
//!        │ layout             where each tile lives: registers or shared memory; swizzles; operand placement
//!        │ pipeline           loads of a pipelined loop become asynchronous copies, staged; nothing in flight on exit
//!        ▼
//!   ir::Func ──────────────── the same language, with buffers, slots, commit, wait and barrier
//!        │ lower              one rule per operation: mma.sync, ldmatrix, cp.async
//!        ▼
//!   ptx::Module ──▶ text
//! ```
//! This crate never touches a device: no I/O, no clock. The same input gives the same bytes of PTX.

pub mod ir;
pub mod passes;
pub mod pattern;
pub mod plan;

mod chain;
mod check;
mod compile;
mod error;
mod lower;
mod wire;
mod work;

pub use chain::Temporary;
pub use check::check;
pub use compile::{Compiled, compile};
pub use error::{Error, one_of};
pub use lower::Boxes;
pub use work::Work;
