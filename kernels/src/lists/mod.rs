//! Choices turned around: for each block of keys the tokens that chose it, as lists, and the lists as work.
//!
//! A *slot* is a block of a document: block `b` of document `d`, whose first key is `k`, has slot `k / B + d + b`, which no other
//! block has. Per KV head, the *list* of a slot has the entry `token * n + j` for the `j`th of the `n` choices of a token where
//! that is the slot's block, in ascending order. A choice that does not count is in no list; one that stands twice is twice in
//! its list. A piece of *work* is a tile of a list.
//!
//! Six launches, without atomics in global memory and without the host: where an order shows, it is always the same.
//!
//! ```text
//!   slots     per document: the document and the first key of each of its slots
//!   count     a CTA for each chunk of choices and head: how often each slot is chosen there
//!   sums      per slot over chunks: how often it was chosen before each; then over the slots of a head, where lists begin
//!   scatter   a warp for each chunk and head: sorts it by counting again, and stores its share of each list
//!   work      a thread for each piece: whole tiles first, so that what is started last is shortest
//! ```

mod choose;
mod count;
mod scatter;
mod slots;
mod sums;
mod work;

use lacuna_codegen::Temporary;
use lacuna_codegen::plan::Requirement;
use lacuna_dsl::lists::WORK_FIELDS;
use lacuna_dsl::prelude::*;
use lacuna_dsl::{Error, Expr, Plan};

pub use choose::{Chosen, Reach};
pub use count::{CountPicks, CountPicksPick, count_picks};
pub use scatter::{ScatterPicks, ScatterPicksPick, scatter_picks};
pub use slots::{NumberSlots, NumberSlotsPick, number_slots};
pub use sums::{SumCounts, SumCountsPick, SumLengths, SumLengthsPick, sum_counts, sum_lengths};
pub use work::{ListWork, ListWorkPick, list_work};

axes! {
    /// Choices that one CTA counts.
    pub Chunk;
    /// Slots that are counted at a time.
    pub Slot;
    /// Choices, or slots, at a time.
    pub Lane;
}

extents! {
    /// Chunks of choices.
    pub Chunks = "chunks";
    /// Blocks of all documents, and some that are none.
    pub Slots = "list_slots";
    /// Slots, and where the last one ends.
    pub SlotEnds = "list_slots_plus_one";
    /// Choices of all tokens.
    pub Entries = "entries";
    /// Pieces of work, and room for some that are none.
    pub Works = "work";
    /// What a piece of work is made of.
    pub WorkFields = "work_fields";
}

/// Turns choices around. What it makes:
///
/// | tensor | shape | |
/// |---|---|---|
/// | `list_entries` | i32 `[list_heads, entries]` | the lists of a KV head, one behind the other; what is behind the last is not written |
/// | `list_work` | i32 `[list_heads, work, 4]` | for each tile of each list where it begins, how many entries it has, the first key of its block, its document; whole tiles first; no entries behind the last |
///
/// There are `ceil(tokens / B) + documents` slots, `entries` is `tokens * n`, and `work` as many as there can be. `entries` is
/// below 2^31.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InverseLists {
    /// The shape.
    pub shape: Shape,
    /// What is chosen, and which choices count.
    pub chosen: Chosen,
    /// Entries of a tile of a list.
    pub tile: u32,
    /// Choices that are counted together and sorted by one warp, in 4 bytes each of shared memory: fewer make more warps, and more counts to sum up.
    pub chunk: u32,
    /// Slots that are counted at a time, in 4 bytes each of shared memory. Where there are more, choices are read again.
    pub slots: u32,
    /// Whether the launches are about a [`Span`].
    pub span: bool,
}

/// How large the choices are that lists are made of, in extents and numbers of the plan.
#[derive(Clone, Debug)]
pub struct Many {
    /// KV heads, at most.
    pub heads: Expr,
    /// Entries of a KV head, at most.
    pub entries: Expr,
    /// Those of them that can be in lists.
    pub listed: Expr,
    /// Slots.
    pub slots: Expr,
}

impl InverseLists {
    /// Lists of blocks of `chosen`, to be worked through `tile` entries at a time.
    pub fn new(shape: Shape, chosen: Chosen, tile: u32) -> Self {
        let CountPicksPick { chunk, slot, .. } = CountPicksPick::default();
        InverseLists { shape, chosen, tile, chunk, slots: slot, span: false }
    }

    /// The launch that numbers the slots: the same for every span.
    ///
    /// # Errors
    /// As [`plans`](Self::plans).
    pub fn slots_plan(&self, target: Target) -> Result<Plan, Error> {
        NumberSlots::new(self.chosen.block).stage(target, &self.shape, &NumberSlotsPick::default())?.compile()
    }

    /// The launches behind [`slots_plan`](Self::slots_plan), in their order, to be [chained](Plan::chain) with those that read
    /// the lists.
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
        let heads = self.chosen.top.is_some();
        let (count_picks, scatter_picks) = (CountPicks::new(self.chosen), ScatterPicks::new(self.chosen));
        let count_picks = CountPicks { picks: !heads, routing: heads, span: self.span, ..count_picks };
        let scatter_picks = ScatterPicks { picks: !heads, routing: heads, span: self.span, ..scatter_picks };
        Ok(vec![
            count_picks.stage(target, shape, &count)?.compile()?,
            SumCounts.stage(target, shape, &SumCountsPick::default())?.compile()?,
            SumLengths::new(self.tile).stage(target, shape, &SumLengthsPick::default())?.compile()?,
            scatter_picks.stage(target, shape, &scatter)?.compile()?,
            ListWork::new(self.tile).stage(target, shape, &ListWorkPick::default())?.compile()?,
        ])
    }

    /// What a plan with these launches requires.
    pub fn requires(&self, many: &Many) -> Requirement {
        let few = (many.entries.clone() + 1.into()).ceil_div(1 << 31);
        let what = "`tokens` times `blocks` must be below 2^31: an entry of a list is 32 bits wide".to_owned();
        Requirement { what, left: few, right: 1.into() }
    }

    /// What lies between the launches, and is of no use afterwards.
    pub fn scratch(&self, many: &Many) -> Vec<Temporary> {
        let chunks = many.entries.clone().ceil_div(u64::from(self.chunk));
        let (heads, ends) = (many.heads.clone(), many.slots.clone() + 1.into());
        let mut scratch = ["list_counts", "list_offsets"]
            .map(|name| Temporary::new(name, Elem::I32, [heads.clone(), chunks.clone(), many.slots.clone()]))
            .to_vec();
        scratch.push(Temporary::new("list_lengths", Elem::I32, [heads.clone(), many.slots.clone()]));
        scratch.extend(
            ["list_starts", "list_whole", "list_rest"]
                .map(|name| Temporary::new(name, Elem::I32, [heads.clone(), ends.clone()])),
        );
        scratch
    }

    /// What [`slots_plan`](Self::slots_plan) makes.
    pub fn slot_tables(&self, many: &Many) -> Vec<Temporary> {
        ["slot_keys", "slot_documents"].map(|name| Temporary::new(name, Elem::I32, [many.slots.clone()])).to_vec()
    }

    /// The lists themselves, where they lie between launches too.
    pub fn lists(&self, many: &Many) -> Vec<Temporary> {
        let entries = [many.heads.clone(), many.entries.clone()];
        let work = [many.heads.clone(), self.work(many), u64::from(WORK_FIELDS).into()];
        vec![Temporary::new("list_entries", Elem::I32, entries), Temporary::new("list_work", Elem::I32, work)]
    }

    /// How large the choices of a whole call are.
    pub fn all(&self) -> Many {
        let [tokens, blocks, heads] = ["tokens", "blocks", "heads_kv"].map(Expr::symbol);
        let entries = match self.chosen.top {
            Some(top) => tokens * u64::from(top * self.shape.group).into(),
            None => tokens * blocks,
        };
        Many { heads, listed: entries.clone(), entries, slots: self.chosen.slots(&self.shape) }
    }

    /// As many pieces of work as there can be: every list may leave a tile unfilled.
    fn work(&self, many: &Many) -> Expr {
        many.listed.clone().ceil_div(u64::from(self.tile)) + many.slots.clone()
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
        let many = self.all();
        let mut plans = vec![self.slots_plan(target)?];
        plans.extend(self.plans(target)?);
        let mut between = self.scratch(&many);
        between.extend(self.slot_tables(&many));
        let mut plan = Plan::chain("inverse_lists", plans, &between)?;
        let must = |symbol: &str, right: Expr, is: &str| Requirement {
            what: format!("`{symbol}` must be {is}"),
            left: Expr::symbol(symbol),
            right,
        };
        let work = format!("`entries` in tiles of {}, and the blocks of all documents", self.tile);
        plan.requires.push(must("entries", many.entries.clone(), "`tokens` times the choices of each"));
        plan.requires.push(must("work", self.work(&many), &work));
        plan.requires.push(must("list_heads", many.heads.clone(), "the KV heads"));
        plan.requires.push(must("work_fields", u64::from(WORK_FIELDS).into(), "4"));
        plan.requires.push(self.requires(&many));
        Ok(plan)
    }
}
