//! Block lists turned around: for each block of keys the picks of the tokens that picked it.
//!
//! A *slot* is a block of a document: block `b` of document `d` has slot `first / B + d + b`, where `first` is the document's
//! first key, `cu_seqlens[d]` or `cu_seqlens_k[d]`. No other block has it.
//! Per KV head, the *list* of a slot has the entry `token * n + j` for the `j`th of the `n` picks of a token where that is the
//! slot's block, in ascending order. A pick that is no block of its document is in no list; one that stands twice is twice in
//! its list.
//!
//! Four launches, without atomics and without the host: each counts, sums up or places in an order that is always the same.
//!
//! ```text
//!   count     a warp for each chunk of picks and head: how often each slot is picked there
//!   sums      per slot over chunks: how often it was picked before each; then over the slots of a head, where lists begin
//!   scatter   a warp for each chunk and head: sorts it by counting again, and stores its share of each list
//! ```

mod count;
mod picks;
mod scatter;
mod sums;

use lacuna_codegen::Temporary;
use lacuna_codegen::plan::Requirement;
use lacuna_dsl::prelude::*;
use lacuna_dsl::{Error, Expr, Plan};

pub use count::{CountPicks, CountPicksPick, count_picks};
pub use scatter::{ScatterPicks, ScatterPicksPick, scatter_picks};
pub use sums::{SumCounts, SumCountsPick, SumLengths, SumLengthsPick, sum_counts, sum_lengths};

axes! {
    /// Picks that one warp counts.
    pub Chunk;
    /// Slots that a warp counts at a time.
    pub Slot;
    /// Picks, or slots, at a time.
    pub Lane;
}

extents! {
    /// Chunks of picks.
    pub Chunks = "chunks";
    /// Blocks of all documents, and some that are none.
    pub Slots = "slots";
    /// Slots, and where the last one ends.
    pub SlotEnds = "slots_plus_one";
    /// Picks of all tokens.
    pub Entries = "entries";
}

/// Turns block lists around. What it makes:
///
/// | tensor | shape | |
/// |---|---|---|
/// | `list_starts` | i32 `[heads_kv, slots + 1]` | where each list begins among the head's entries; the last: how many there are |
/// | `list_tiles` | i32 `[heads_kv, slots + 1]` | how many tiles of `tile` entries the lists before have; the last: all |
/// | `list_entries` | i32 `[heads_kv, tokens * n]` | the lists, one behind the other; what is behind the last is not written |
///
/// There are `ceil(tokens / B) + documents` slots, where `B` is the shape's block, and `tokens` those of keys. `tokens * n`,
/// of the tokens that pick, is below 2^31.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InverseLists {
    /// The shape; its block counts.
    pub shape: Shape,
    /// Entries of a tile of a list.
    pub tile: u32,
    /// Picks that one warp counts and sorts, in 4 bytes each of shared memory: fewer make more warps, and more counts to sum up.
    pub chunk: u32,
    /// Slots that a warp counts at a time, in 4 bytes each of shared memory. Where there are more, picks are read again.
    pub slots: u32,
}

impl InverseLists {
    /// Lists of blocks of the shape, to be worked through `tile` entries at a time.
    pub fn new(shape: Shape, tile: u32) -> Self {
        let CountPicksPick { chunk, slot, .. } = CountPicksPick::default();
        InverseLists { shape, tile, chunk, slots: slot }
    }

    /// The launches, in their order, to be [chained](Plan::chain) with those that read the lists.
    ///
    /// # Errors
    /// A shape that no kernel is made for; a tile, chunk or number of slots of zero or beyond what shared memory holds.
    pub fn plans(&self, target: Target) -> Result<Vec<Plan>, Error> {
        let shape = &self.shape;
        let (chunk, slot) = (self.chunk, self.slots);
        if self.tile == 0 {
            return Err(Error::Unsupported("a tile of a list has no entries; 1 or more are right".to_owned()));
        }
        if u64::from(chunk) * u64::from(slot) > 1 << 31 {
            let message = format!("{chunk} picks and {slot} slots at a time; 2^31 for the product of the two is most");
            return Err(Error::Unsupported(message));
        }
        let count = CountPicksPick { chunk, slot, ..CountPicksPick::default() };
        let scatter = ScatterPicksPick { chunk, slot, ..ScatterPicksPick::default() };
        let mut plans = vec![
            CountPicks.stage(target, shape, &count)?.compile()?,
            SumCounts.stage(target, shape, &SumCountsPick::default())?.compile()?,
            SumLengths::new(self.tile).stage(target, shape, &SumLengthsPick::default())?.compile()?,
            ScatterPicks.stage(target, shape, &scatter)?.compile()?,
        ];
        let few = (entries() + 1.into()).ceil_div(1 << 31);
        let what = "`tokens` times `blocks` must be below 2^31: an entry of a list is 32 bits wide".to_owned();
        plans[0].requires.push(Requirement { what, left: few, right: 1.into() });
        Ok(plans)
    }

    /// What lies between the launches, and is of no use afterwards.
    pub fn scratch(&self) -> Vec<Temporary> {
        let chunks = entries().ceil_div(u64::from(self.chunk));
        let dims = [Expr::symbol("heads_kv"), chunks, self.slots()];
        let mut scratch =
            ["list_counts", "list_offsets"].map(|name| Temporary::new(name, Elem::I32, dims.clone())).to_vec();
        scratch.push(Temporary::new("list_lengths", Elem::I32, [Expr::symbol("heads_kv"), self.slots()]));
        scratch
    }

    /// The lists themselves, where they lie between launches too.
    pub fn lists(&self) -> Vec<Temporary> {
        let heads = Expr::symbol("heads_kv");
        let ends = [heads.clone(), self.slots() + 1.into()];
        vec![
            Temporary::new("list_starts", Elem::I32, ends.clone()),
            Temporary::new("list_tiles", Elem::I32, ends),
            Temporary::new("list_entries", Elem::I32, [heads, entries()]),
        ]
    }

    /// The lists as one operation, which writes them for its caller.
    ///
    /// # Errors
    /// As [`plans`](Self::plans); a shape with keys apart: no tensor of the lists alone says how many keys there are.
    pub fn plan(&self, target: Target) -> Result<Plan, Error> {
        if self.shape.keys_apart {
            let message = "lists by themselves are of documents with as many keys as queries; with keys apart, chain them with what reads the keys";
            return Err(Error::Unsupported(message.to_owned()));
        }
        let mut plan = Plan::chain("inverse_lists", self.plans(target)?, &self.scratch())?;
        let must = |symbol: &str, right: Expr, is: &str| Requirement {
            what: format!("`{symbol}` must be {is}"),
            left: Expr::symbol(symbol),
            right,
        };
        let ends = format!("the blocks of {} tokens, rounded up, and the documents, and one", self.shape.block);
        plan.requires.push(must("slots_plus_one", self.slots() + 1.into(), &ends));
        plan.requires.push(must("entries", entries(), "`tokens` times `blocks`"));
        Ok(plan)
    }

    /// How many slots there are.
    fn slots(&self) -> Expr {
        let documents = Expr::symbol("segments_plus_one") - 1.into();
        Expr::symbol(self.shape.key_tokens()).ceil_div(u64::from(self.shape.block)) + documents
    }
}

/// How many picks there are for each KV head.
fn entries() -> Expr {
    Expr::symbol("tokens") * Expr::symbol("blocks")
}
