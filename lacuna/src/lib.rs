//! Block-sparse attention for NVIDIA tensor cores: patterns and schedules written as Rust functions, compiled to PTX.
//!
//! An author writes [`pattern`]s (which keys a query sees) and [`schedule`](macro@schedule)s (who walks what); lacuna turns
//! them into a [`Plan`](dsl::Plan), whose PTX anyone can read, and a [`runtime`] device runs the plan: a GPU, or the emulator
//! where there is none.
//!
//! ```
//! use lacuna::prelude::*;
//!
//! /// The last `window` tokens, the token itself included, and the first `sink` ones.
//! #[pattern]
//! fn streaming(q: Pos, kv: Pos, window: u32, sink: u32) -> Keep {
//!     kv.le(q) & ((q - kv).lt(window) | kv.lt(sink))
//! }
//!
//! /// One tile of queries over the blocks that its mask lets it see.
//! #[schedule(tune(Rows in [64, 128], Kv in [64, 32], stages in [2, 3], warps in [4, 8]))]
//! fn tiled(cx: &Cx, q: Queries<Dk>, k: Keys<Dk>, v: Values<Dv>, docs: Segments, #[fixed] mask: &Mask) -> OutLse<Dv> {
//!     let (i, h, d) = cx.grid3(docs.tiles::<Rows>().longest_first(), q.heads(), docs.count());
//!     let rows = q.tile(docs.at(d), i, h);
//!     let softmax = OnlineSoftmax::new(cx, &rows);
//!     for b in cx.pipelined(mask.visits::<Kv>(&rows), stages) {
//!         let s = cx.dot(rows.q, k.block(b, h));
//!         softmax.step(mask.keep(s, &rows, b), v.block(b, h));
//!     }
//!     softmax.finish()
//! }
//!
//! let shape = Shape::new(Elem::Bf16, 64, 64, 4);
//! let attention = Tiled::new(streaming(4096, 64)).at(shape);
//! let plan = attention.plan(Target::SM_80, &TiledPick { stages: 3, ..Default::default() }.to_pick())?;
//! assert!(plan.launches[0].ptx.contains("mma.sync"));
//! # Ok::<(), lacuna::dsl::Error>(())
//! ```

//!
//! [`Trial`] runs a schedule on drawn numbers and compares it with f64. `examples/own-pattern` in the repository is a whole
//! crate with a pattern, a score and a schedule of its own, and a beginning for another one.

mod trial;
pub mod tuning;

pub use half::{bf16, f16};
pub use lacuna_codegen as codegen;
pub use lacuna_dsl as dsl;
pub use lacuna_dsl::{axes, pattern_of_lacuna as pattern, schedule_of_lacuna as schedule, score_of_lacuna as score};
pub use lacuna_kernels as kernels;
pub use lacuna_ptx as ptx;
pub use lacuna_runtime as runtime;
pub use trial::Trial;
pub use tuning::tune;

/// What a score reads, as a recorded one says it: in the body of a `#[score]`, a table is a [`Table`](score::Table).
pub mod score {
    pub use lacuna_dsl::score::{Arg, Holds, Table};
}

/// Everything that a file of schedules and patterns uses.
pub mod prelude {
    pub use lacuna_dsl::prelude::*;
    pub use lacuna_dsl::{pattern_of_lacuna as pattern, schedule_of_lacuna as schedule, score_of_lacuna as score};
}
