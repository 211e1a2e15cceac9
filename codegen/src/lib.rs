//! Tile IR, the passes over it, and lowering to PTX.
//!
//! ```text
//!   staging (lacuna-dsl)           one run of the author's function per pick
//!        │
//!        ▼
//!   ir::Func ──────────────── SSA tiles with axes and dtype; accumulators are named storage; no layout, no threads
//!        │ verify             axes, dtypes, dominance, one writer
//!        │ sweep              what nothing needs is left out
//!        │ partition          who does what: warps over the row axis and over the column axis; on sm_90a warpgroups, where the
//!        │                    func fits them, and one more that fetches for them
//!        │ layout             where each tile lives: registers or shared memory; swizzles; operand placement
//!        │ produce            with roles: a producer fills rings of slots, consumers await and release them
//!        │ pipeline           loads of a pipelined loop become asynchronous copies, staged; nothing in flight on exit
//!        │ multiply           with roles: products are started, closed in groups, and landed
//!        │ skew               with roles: a round's first product starts before the arithmetic of the round before is done
//!        │ check              with roles: what they hand to one another and hold in flight is in order
//!        ▼
//!   ir::Func ──────────────── the same language, with buffers and slots; commit, wait and barrier; or fill, await and release
//!        │ lower              one rule per operation: mma.sync, ldmatrix, cp.async; or wgmma, tensor copies, mbarriers
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
