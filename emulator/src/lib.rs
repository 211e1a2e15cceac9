//! Runs PTX text on the CPU, and checks it while it runs.
//!
//! ```text
//!  PTX text ── lacuna-ptx: read, verify ──▶ Module ── decode ──▶ Program     slots, constants, meeting points
//!                                                                   │
//!  Launch, Memory ── run ──▶ CTAs over cores ── cta ──▶ warps in turn ── step ──▶ one instruction, 32 lanes
//!                                                          │                        │
//!                                            barriers, vector clocks      access: shared, memory, cp.async
//!                                                                         sync: barriers, shuffles, votes
//!                                                                         lanes, mma, wgmma: arithmetic
//! ```
//! It knows nothing of how the text was made. It takes what the driver would take, and besides computing it finds
//! accesses out of bounds or off their alignment, reads of what nobody wrote (registers by lane, memory by byte), races
//! in shared and global memory, touches of an asynchronous copy's destination or source before its wait, divergence where a warp must be
//! together, and deadlocks. Each report names the PTX line and, where `// from file:line:column` comments say so, the
//! author's line.
//!
//! ```
//! use lacuna_emulator::{Arg, Launch, Memory, Options, Program, run};
//!
//! let program = Program::from_text(
//!     ".version 7.0 .target sm_80 .address_size 64
//!      .visible .entry double(.param .u64 data) {
//!        .reg .b32 %r<2>; .reg .b64 %d<3>;
//!        ld.param.u64 %d0, [data];
//!        mov.u32 %r0, %tid.x;
//!        mul.wide.u32 %d1, %r0, 4;
//!        add.u64 %d2, %d0, %d1;
//!        ld.global.u32 %r1, [%d2];
//!        add.u32 %r1, %r1, %r1;
//!        st.global.u32 [%d2], %r1;
//!        ret;
//!      }",
//! )?;
//! let memory = Memory::new();
//! let data = memory.alloc(4 * 32);
//! memory.write(data, &[1; 4 * 32])?;
//! let launch = Launch { entry: "double", grid: [1, 1, 1], block: [32, 1, 1], shared: 0, args: &[Arg::U64(data)] };
//! run(&program, &launch, &memory, &Options::default())?;
//! let mut out = [0; 4 * 32];
//! memory.read(data, &mut out)?;
//! assert_eq!(out, [2; 4 * 32]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod access;
mod bulk;
mod clocks;
mod cluster;
mod cta;
mod decode;
mod fault;
mod flow;
mod global;
mod lanes;
mod launch;
mod mbarrier;
mod memory;
mod micro;
mod mma;
mod order;
mod pool;
mod program;
mod run;
mod shared;
mod step;
mod stores;
mod sync;
mod tensor;
mod warp;
mod wgmma;

pub use fault::{BarrierState, Fault, FaultKind, MbarrierState, Misuse, RegisterPool, Site, Space};
pub use launch::{Arg, Launch};
pub use memory::{Memory, MemoryError};
pub use program::{LoadError, Program};
pub use run::{Options, Stats, run};
pub use tensor::{Swizzle, TensorDim, TensorElem, TensorMap};
