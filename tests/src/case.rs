//! What is computed, in which shape, at which pick, from which numbers.

use std::collections::BTreeMap;
use std::fmt;

use lacuna_dsl::{Bound, Elem, Error, Knobs, Mask, Pick, Plan, Schedule, Shape, Space, Target, Tunable};
use lacuna_kernels::dense::{QueryMajor, QueryMajorPick};
use lacuna_kernels::inputs::{Locality, Route, Spoil};
use lacuna_kernels::moba::{Moba, RoutingIs};
use lacuna_kernels::nsa::{BlockMajorPick, ByBlock, GroupCentric, GroupCentricPick};
use lacuna_kernels::patterns;
use lacuna_kernels::reference::masks;
use lacuna_runtime::Scalar;

/// The head widths that the schedules are made for.
pub const fn widths() -> [u32; 6] {
    lacuna_dsl::schedule::WIDTHS
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    /// Every key of its document.
    Full,
    /// Itself and what came before.
    Causal,
    /// The last so many.
    Window(u32),
    /// The last so many, and the first so many.
    WindowSink(u32, u32),
    /// The first so many, itself and what came before.
    PrefixLm(u32),
    /// Itself and every so-manieth before it.
    Dilated(u32),
    /// Those of its chunk of so many.
    BlockDiagonal(u32),
    /// Those so far away on either side, and so many first ones, which see all.
    Longformer(u32, u32),
}

impl Seen {
    /// The shipped pattern.
    pub fn mask(self) -> Mask {
        match self {
            Seen::Full => patterns::full(),
            Seen::Causal => patterns::causal(),
            Seen::Window(window) => patterns::window(window),
            Seen::WindowSink(window, sink) => patterns::window_sink(window, sink),
            Seen::PrefixLm(prefix) => patterns::prefix_lm(prefix),
            Seen::Dilated(step) => patterns::dilated(step),
            Seen::BlockDiagonal(chunk) => patterns::block_diagonal(chunk),
            Seen::Longformer(reach, global) => patterns::longformer(reach, global),
        }
    }

    /// The same by hand, for the reference.
    pub fn by_hand(self) -> Box<dyn Fn(i64, i64) -> bool + Sync> {
        match self {
            Seen::Full => Box::new(masks::full),
            Seen::Causal => Box::new(masks::causal),
            Seen::Window(window) => Box::new(masks::window(window.into())),
            Seen::WindowSink(window, sink) => Box::new(masks::window_sink(window.into(), sink.into())),
            Seen::PrefixLm(prefix) => Box::new(masks::prefix_lm(prefix.into())),
            Seen::Dilated(step) => Box::new(masks::dilated(step.into())),
            Seen::BlockDiagonal(chunk) => Box::new(masks::block_diagonal(chunk.into())),
            Seen::Longformer(reach, global) => Box::new(masks::longformer(reach.into(), global.into())),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Full => f.write_str("full"),
            Seen::Causal => f.write_str("causal"),
            Seen::Window(window) => write!(f, "window {window}"),
            Seen::WindowSink(window, sink) => write!(f, "window {window} sink {sink}"),
            Seen::PrefixLm(prefix) => write!(f, "prefix {prefix}"),
            Seen::Dilated(step) => write!(f, "dilated {step}"),
            Seen::BlockDiagonal(chunk) => write!(f, "block diagonal {chunk}"),
            Seen::Longformer(reach, global) => write!(f, "longformer {reach} global {global}"),
        }
    }
}

/// Where a selection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Picks {
    /// Drawn, with the forced blocks.
    Drawn(Locality),
    /// Drawn for every token, then spoiled so.
    Spoiled(Spoil),
    /// Drawn, shuffled, and with indices that are no block instead of -1.
    Wild,
    /// Nothing for any token.
    Nothing,
    /// Every block that there is, in descending order.
    Everything,
    /// Those that Native Sparse Attention selects, by the reference.
    Scored,
}

/// Where a routing comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Routes {
    /// The gate, on the device.
    Made,
    /// Drawn: past blocks, each once.
    Drawn(Route),
    /// Drawn, and in the place of what is none garbage, which is none either.
    Garbage,
    /// Drawn, and every third row lists its first past block in every place.
    Repeated,
    /// Nothing for any row: each has its own block.
    Nothing,
    /// Every past block, in descending order.
    Everything,
}

/// Mixture of Block Attention, in blocks of the shape's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mixture {
    /// Where its routing comes from.
    pub routes: Routes,
    /// Blocks of a row, its own among them.
    pub top: u32,
    /// VMoBA: not causal, and rows take others until they have so many hundredths of the softmax over the scores.
    pub share: Option<u8>,
    /// Chunks of KV heads, and of tokens.
    pub chunks: [u32; 2],
    /// Whether the own block is seen where the parts are merged.
    pub fused: bool,
    /// The query heads that attend fully, from the lowest bit on; without any there is no table of them.
    pub full_heads: u64,
    /// Whether the plan is the one for choices that cover every block.
    pub covering: bool,
}

impl Mixture {
    /// In one chunk, with the own block at the merge, and without full heads.
    pub fn new(routes: Routes, top: u32) -> Self {
        Mixture { routes, top, share: None, chunks: [1, 1], fused: true, full_heads: 0, covering: false }
    }

    /// The operation at a shape.
    pub fn at(self, shape: &Shape) -> Moba {
        let (shape, block) = (shape.clone(), shape.block);
        let moba = match self.share {
            None => Moba::new(shape, block, self.top),
            Some(hundredths) => Moba::by_share(shape, block, self.top, f32::from(hundredths) / 100.0),
        };
        let moba = moba.in_chunks(self.chunks[0], self.chunks[1]);
        let routing = if self.routes == Routes::Made { RoutingIs::Returned } else { RoutingIs::Given };
        let mut moba = moba.with_routing(routing);
        moba.blocks.fused = self.fused;
        moba.full_heads = self.full_heads != 0;
        if self.covering { moba.covering(0) } else { moba }
    }

    /// The table of full heads.
    pub fn full_heads(self, heads: usize) -> Option<Vec<i32>> {
        let full = |head: usize| i32::from(head < 64 && self.full_heads >> head & 1 == 1);
        (self.full_heads != 0).then(|| (0..heads).map(full).collect())
    }
}

/// Which schedule, and what only it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// `query_major` under a mask.
    QueryMajor(Seen),
    /// `group_centric` with so many picks for each token and KV head.
    GroupCentric(Picks, usize),
    /// `block_major`, from lists to merge, with so many picks for each token and KV head.
    ByBlock(Picks, usize),
    /// `moba`, from the routing or from the pooled keys to the merge.
    Moba(Mixture),
}

impl Work {
    /// The schedule's knobs on a target.
    pub fn space(self, target: Target) -> Space {
        match self {
            Work::QueryMajor(_) => QueryMajorPick::space(target),
            Work::GroupCentric(..) => GroupCentricPick::space(target),
            Work::ByBlock(..) => BlockMajorPick::space(target),
            Work::Moba(mixture) => mixture.at(&Shape::new(Elem::Bf16, 64, 64, 1)).space(target),
        }
    }

    /// The schedule's default pick at a shape, for the smallest GPU that cases run on: it fits every other one they run on.
    ///
    /// # Panics
    /// If no pick can be planned.
    pub fn default_pick(self, shape: &Shape) -> Pick {
        self.default_pick_on(Target::SM_80, shape)
    }

    /// The schedule's default pick at a shape on a target.
    ///
    /// # Panics
    /// If no pick can be planned.
    pub fn default_pick_on(self, target: Target, shape: &Shape) -> Pick {
        let chosen = match self {
            Work::QueryMajor(seen) => QueryMajor::new(seen.mask()).at(shape.clone()).choose(target, &Pick::new()),
            Work::GroupCentric(..) => GroupCentric::new().at(shape.clone()).choose(target, &Pick::new()),
            Work::ByBlock(..) => ByBlock::new(shape.clone()).choose(target, &Pick::new()),
            Work::Moba(mixture) => mixture.at(shape).choose(target, &Pick::new()),
        };
        chosen.unwrap_or_else(|error| panic!("no pick of {shape:?}: {error}"))
    }

    /// Compiles it.
    pub fn plan(self, target: Target, shape: &Shape, pick: &Pick) -> Result<Plan, Error> {
        match self {
            Work::QueryMajor(seen) => QueryMajor::new(seen.mask()).at(shape.clone()).plan(target, pick),
            Work::GroupCentric(..) => GroupCentric::new().at(shape.clone()).plan(target, pick),
            Work::ByBlock(..) => ByBlock::new(shape.clone()).plan(target, pick),
            Work::Moba(mixture) => mixture.at(shape).plan(target, pick),
        }
    }

    /// The numbers that the schedule itself gives at launch.
    pub fn given(self, target: Target, shape: &Shape) -> Result<BTreeMap<String, Scalar>, Error> {
        fn of<S: Schedule>(bound: &Bound<S>, target: Target) -> Result<BTreeMap<String, Scalar>, Error> {
            bound.given(target)
        }
        match self {
            Work::QueryMajor(seen) => of(&QueryMajor::new(seen.mask()).at(shape.clone()), target),
            Work::GroupCentric(..) => of(&GroupCentric::new().at(shape.clone()), target),
            Work::ByBlock(..) => ByBlock::new(shape.clone()).given(target),
            Work::Moba(mixture) => mixture.at(shape).given(target),
        }
    }
}

/// Which numbers Q, K and V hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Numbers {
    /// Standard normal ones.
    Normal,
    /// Ones that make logits of this standard deviation.
    Large(f32),
    /// Every third query row has the logit -inf with every key.
    InfiniteRows,
    /// Every fifth query row holds a NaN.
    NanQueries,
    /// One key in the middle of each document holds a NaN: who sees it is NaN, and nobody else.
    NanKey,
    /// One key in the middle of each document has an infinite product with every query: who sees it is NaN or does not
    /// notice, by its sign.
    InfiniteKey,
    /// One value in the middle of each document is a NaN: who sees it is NaN, and nobody else.
    NanValue,
    /// Those of a real model over a real text: bf16, at most 12 heads of width 32, documents of 512, 512 and 317 tokens.
    Real,
}

/// How the tensors lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Each by itself, without gaps.
    Packed,
    /// Q, K and V as heads of one tensor; outputs, LSE and picks as parts of larger ones.
    Fused,
}

/// An attention to be computed.
#[derive(Clone, Debug)]
pub struct Case {
    /// The schedule.
    pub work: Work,
    /// What is baked into the kernel.
    pub shape: Shape,
    /// KV heads.
    pub hk: usize,
    /// Tokens of each document.
    pub lengths: Vec<usize>,
    /// Keys of each document, where they are apart from its queries; else they are as many.
    pub keys: Option<Vec<usize>>,
    /// The pick.
    pub pick: Pick,
    /// What it is compiled for; what each device would have it compiled for, where it is not said.
    pub target: Option<Target>,
    /// The numbers.
    pub numbers: Numbers,
    /// The tensors.
    pub layout: Layout,
    /// The softmax scale; `1/sqrt(Dk)` where it is not said.
    pub scale: Option<f32>,
    /// By how much `max_seqlen` is above the longest document.
    pub slack: usize,
    /// What the numbers are drawn from.
    pub seed: u64,
}

impl Case {
    /// One KV head, bf16, the default pick, normal numbers, packed.
    pub fn new(work: Work, width: u32, group: u32, lengths: &[usize]) -> Self {
        Case::of(work, Shape::new(Elem::Bf16, width, width, group), lengths)
    }

    /// One KV head, the default pick, normal numbers, packed.
    pub fn of(work: Work, shape: Shape, lengths: &[usize]) -> Self {
        Case {
            work,
            hk: 1,
            lengths: lengths.to_vec(),
            keys: None,
            pick: work.default_pick(&shape),
            target: None,
            shape,
            numbers: Numbers::Normal,
            layout: Layout::Packed,
            scale: None,
            slack: 0,
            seed: 1,
        }
    }

    /// The case with so many keys in each document, whatever its queries.
    #[must_use]
    pub fn with_keys(self, keys: &[usize]) -> Self {
        assert_eq!(self.lengths.len(), keys.len(), "each document has queries and keys");
        Case { keys: Some(keys.to_vec()), shape: self.shape.with_keys_apart(), ..self }
    }

    /// The case for a target, at a pick.
    #[must_use]
    pub fn on(self, target: Target, pick: Pick) -> Self {
        Case { target: Some(target), pick, ..self }
    }

    /// Keys of each document.
    pub fn key_lengths(&self) -> &[usize] {
        self.keys.as_ref().unwrap_or(&self.lengths)
    }

    /// Tokens of all documents.
    pub fn total(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Query heads.
    pub fn hq(&self) -> usize {
        self.hk * self.shape.group as usize
    }

    /// Compiles it.
    pub fn plan(&self, target: Target) -> Result<Plan, Error> {
        self.work.plan(target, &self.shape, &self.pick)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { elem, dk, dv, group, block, .. } = &self.shape;
        match self.work {
            Work::QueryMajor(seen) => write!(f, "{seen}")?,
            Work::GroupCentric(picks, n) | Work::ByBlock(picks, n) => {
                let how = match picks {
                    Picks::Drawn(Locality::PerToken) => "drawn".to_owned(),
                    Picks::Drawn(Locality::PerBlock) => "shared".to_owned(),
                    Picks::Spoiled(how) => format!("{how:?}").to_lowercase(),
                    other => format!("{other:?}").to_lowercase(),
                };
                let schedule = if matches!(self.work, Work::ByBlock(..)) { "by block: " } else { "" };
                write!(f, "{schedule}{n} {how} of {block}")?;
            }
            Work::Moba(Mixture { routes, top, share, chunks: [heads, tokens], fused, full_heads, covering }) => {
                write!(f, "moba {top} {routes:?} of {block} in {heads}x{tokens}")?;
                if !fused {
                    f.write_str(" own apart")?;
                }
                if full_heads != 0 {
                    write!(f, " full {full_heads:b}")?;
                }
                if covering {
                    f.write_str(" covering")?;
                }
                if let Some(share) = share {
                    write!(f, " by {share}%")?;
                }
            }
        }
        if let Some(target) = self.target {
            write!(f, " {target}")?;
        }
        write!(f, " D{dk}")?;
        if dv != dk {
            write!(f, "/{dv}")?;
        }
        let joined = |all: &[usize]| all.iter().map(ToString::to_string).collect::<Vec<String>>().join("+");
        write!(f, " G{group}x{} {} S{}", self.hk, elem.name(), joined(&self.lengths))?;
        if let Some(keys) = &self.keys {
            write!(f, " over {}", joined(keys))?;
        }
        for (knob, value) in &self.pick {
            write!(f, " {}{value}", &knob[..1])?;
        }
        if self.numbers != Numbers::Normal {
            write!(f, " {:?}", self.numbers)?;
        }
        if self.layout != Layout::Packed {
            write!(f, " {:?}", self.layout)?;
        }
        if let Some(scale) = self.scale {
            write!(f, " scale {scale}")?;
        }
        Ok(())
    }
}
