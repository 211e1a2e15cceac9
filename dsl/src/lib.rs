//! What an author writes: schedules, patterns, and the tiles they are made of.
//!
//! ```ignore
//! #[schedule(tune(stages in [2, 3, 4], warps in [4, 2]))]
//! pub fn group_centric(cx: &Cx, q: Queries<Dk>, k: Keys<Dk>, v: Values<Dv>, picks: Blocks, docs: Segments) -> OutLse<Dv> {
//!     let (t, h) = cx.grid2(q.tokens(), k.heads());
//!     let rows = q.group::<Group>(docs.locate(t), h);
//!     let softmax = OnlineSoftmax::new(cx, &rows);
//!     for b in cx.pipelined(picks.of::<Kv>(&rows), stages) {
//!         let s = cx.dot(rows.q, k.block(b, h));
//!         softmax.step(causal().keep(s, &rows, b), v.block(b, h));
//!     }
//!     softmax.finish()
//! }
//! ```
//! * **Axes are types, extents are values.** `Tile<Half, Kv, Dk>` and `Tile<Half, Kv, Dv>` differ even where `Dk` and `Dv`
//!   are equally wide, so a mix-up is rustc's own error. How wide an axis is, is known when the schedule is staged.
//! * **A schedule is staged once per pick.** Its function runs in Rust, records what it does through the handles, and the
//!   record is compiled. So a staged body runs once; state that changes is a [`Var`], and a handle does not outlive the loop
//!   or branch that it was made in. Both are checked: by the macro where it can see it, else when the handle is used.
//! * Every operation remembers the line it was written on.
//!
//! Module by module: [`axis`], [`extent`](mod@extent) and [`value`] are the vocabulary, [`cx`](Cx) and [`flow`] what a schedule does with it,
//! [`input`], [`table`] and [`grid`] what it works on, [`lanes`] what it does with whole vectors, [`best`] finds each row's best scores, [`pooled`] has blocks of keys by their means, [`mask`], [`score`](mod@score) and [`softmax`] the parts every attention shares, [`schedule`](mod@schedule)
//! what the outside sees.

pub mod axis;
pub mod best;
pub mod choices;
pub mod classes;
pub mod extent;
pub mod flow;
pub mod grid;
pub mod input;
pub mod lanes;
pub mod lists;
pub mod mask;
pub mod parts;
pub mod pooled;
pub mod schedule;
pub mod score;
pub mod softmax;
pub mod table;
pub mod tiles;
pub mod value;

mod cx;
mod staging;

pub use axis::{Axis, Bool, Dk, Dv, F32, Group, Half, I32, Kv, Rows};
pub use best::{Mass, TopK};
pub use choices::{Choices, Routed, Span};
pub use cx::Cx;
pub use extent::{Extent, Piece};
pub use flow::{BlockList, Var};
pub use input::{Blocks, Input, Keys, OutLse, Output, Queries, QueryRows, Segments, Sinks, Values};
pub use lacuna_codegen::Error;
pub use lacuna_codegen::ir::Elem;
pub use lacuna_codegen::pattern::{Keep, Pattern, Pos, Table};
pub use lacuna_codegen::plan::{Expr, Pick, Plan, Space, Tunable};
pub use lacuna_macros::{pattern, schedule, score};
#[doc(hidden)]
pub use lacuna_macros::{pattern_of_lacuna, schedule_of_lacuna, score_of_lacuna};
pub use lacuna_ptx::Target;
pub use lanes::{PrefixSum, SharedTable};
pub use lists::Lists;
pub use mask::Mask;
pub use parts::{PartLse, Parts};
pub use pooled::{PooledKey, PooledKeys, Routing};
pub use schedule::{Bound, Knobs, OfTarget, Schedule, Shape, Staged};
pub use score::{Logit, PerHead, PerHeadTable, Score};
pub use softmax::{LseMerge, OnlineSoftmax};
pub use staging::Staging;
pub use table::{TableIn, TableOut};
pub use tiles::{TileBlocks, TileSize};
pub use value::{PartialSum, Scalar, Tile, Vector};

/// Everything that a file of schedules and patterns uses.
pub mod prelude {
    pub use crate::{
        Axis, BlockList, Blocks, Bool, Choices, Cx, Dk, Dv, Elem, Extent, F32, Group, Half, I32, Input, Keep, Keys,
        Knobs, Kv, Lists, Logit, LseMerge, Mask, Mass, OnlineSoftmax, OutLse, Output, PartLse, PartialSum, Parts,
        PerHead, PerHeadTable, Piece, PooledKey, PooledKeys, Pos, PrefixSum, Queries, QueryRows, Routed, Routing, Rows,
        Scalar, Schedule, Score, Segments, Shape, SharedTable, Sinks, Span, Table, TableIn, TableOut, Target, Tile,
        TileBlocks, TileSize, TopK, Tunable, Values, Var, Vector, axes, extents,
    };
    pub use lacuna_macros::{pattern, schedule, score};
}
