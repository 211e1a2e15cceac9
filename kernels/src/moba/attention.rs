//! All of it as one operation.

use std::collections::BTreeMap;

use lacuna_codegen::plan::{MAX_REGISTERS, Scalar};
use lacuna_codegen::{Temporary, one_of};
use lacuna_dsl::prelude::*;
use lacuna_dsl::{Bound, Error, Expr, Pick, Plan, Space, Span};

use super::{
    Blocking, ChosenBlocks, ChosenBlocksPick, Gate, JoinChoices, MobaPool, MobaRoute, MobaRoutePick, OwnAndParts,
    OwnAndPartsPick, RoutingIs, VmobaRoute,
};
use crate::dense::QueryMajor;
use crate::lists::{Chosen, CountPicksPick, InverseLists, Many};
use crate::patterns::causal;

/// What the knobs of the last launch begin with, and those of the gate.
const OWN: &str = "own_";
const ROUTE: &str = "route_";

/// The knob of how many neighbouring blocks are one, and what it may be.
const JOINED: &str = "joined";
const JOIN: [u32; 3] = [1, 2, 4];

/// The knob of how many bits a part's elements have.
const PARTS: &str = "part_bits";

/// Keys of a block up to which a CTA of warpgroups waits more than it multiplies: for chosen blocks the next tile's rows then come
/// beside; of own blocks two small CTAs share a multiprocessor, and have parts in flight in the place of a second stage of keys.
const SMALL: u32 = 256;
const SMALL_PARTS: [(&str, u32); 3] = [("rows", 128), ("stages", 1), ("persist", 2)];
const SMALL_OWN: [(&str, u32); 5] = [("rows", 64), ("kv", 64), ("stages", 1), ("ahead", 3), ("overlap", 1)];

/// The same for chosen blocks that are one round: its product needs no registers before it begins, which leaves enough for a third
/// warpgroup where heads are not wide.
const ONE_ROUND: u32 = 128;
const ONE_ROUND_PARTS: [(&str, u32); 4] = [("rows", 192), ("kv", ONE_ROUND), ("stages", 1), ("persist", 2)];

/// Choices of a query head, at most, where neighbours are joined: each is compared with each.
const MOST_JOINED: u32 = 16;

/// Choices of a query head, at most.
pub const MOST_CHOICES: u32 = 64;

/// Bytes of workspace that [`Moba::within`] is given where nobody says otherwise.
pub const WORKSPACE: u64 = 2_000_000_000;

/// Choices that a warp sorts at a time, and up to how many slots: as many choices as slots, or more, so that counts do not outgrow
/// what they count; and few where there are few slots, so that there are many warps.
const LIST_CHUNKS: [(u32, u64); 4] = [(2048, 512), (4096, 4096), (8192, 8192), (16384, u64::MAX)];

/// Those that a warp sorts where nobody says how many slots there are.
const LIST_CHUNK: u32 = 4096;

/// Mixture of Block Attention (arXiv 2502.13189) as one operation, bit for bit the same in every run: pooling, the gate, the
/// routing turned around, the chosen blocks, the own block and the merge.
///
/// ```text
///   moba_pool        the mean of each block of keys
///   moba_route       q against them, the best of each row
///   number_slots     ┐
///   count_picks      │
///   sum_counts       │ who chose each block, as work: `lists`
///   sum_lengths      │                                              ┐
///   scatter_picks    │                                              │ for each chunk
///   list_work        ┘                                              │ of KV heads and
///   chosen_blocks    each block, for the rows that chose it         │ of tokens
///   own_and_parts    each row's own block, and the merge            ┘
/// ```
///
/// What lies between the launches is in the workspace: mostly the parts, `2 Dv + 4` bytes for each token, query head and chosen
/// block. Tokens and KV heads are taken in chunks, one after the other in the same workspace; [`within`](Self::within) finds how
/// many it takes.
///
/// Where the choices cover every block, all of it is full attention, and [`covering`](Self::covering) makes it that.
#[derive(Clone, Debug, PartialEq)]
pub struct Moba {
    /// The shape. Its own block says nothing here.
    pub shape: Shape,
    /// Blocks and choices.
    pub blocks: Blocking,
    /// How rows choose, where they are not told.
    pub gate: Gate,
    /// Whose the routing is.
    pub routing: RoutingIs,
    /// Whether some heads attend fully, as the table `full_heads`, i32 `[heads_q]`, says: 1 for those that do, and 0.
    pub full_heads: bool,
    /// Whether the choices of every row cover all of its blocks.
    pub full: bool,
    /// Chunks of KV heads.
    pub head_chunks: u32,
    /// Chunks of tokens.
    pub token_chunks: u32,
    /// Choices that a warp sorts at a time.
    pub list_chunk: u32,
    /// Blocks of all documents that a warp counts at a time, in 4 bytes each of shared memory.
    pub list_slots: u32,
}

impl Moba {
    /// Blocks of `block` keys, `top` for each query head, its own among them; in one chunk.
    pub fn new(shape: Shape, block: u32, top: u32) -> Self {
        Moba {
            shape,
            blocks: Blocking { block, top, causal: true, fused: true, joined: 1, wide: false },
            gate: Gate::Best,
            routing: RoutingIs::default(),
            full_heads: false,
            full: false,
            head_chunks: 1,
            token_chunks: 1,
            list_chunk: LIST_CHUNK,
            list_slots: CountPicksPick::default().slot,
        }
    }

    /// VMoBA (arXiv 2506.23858): not causal, and each row takes the best of all other blocks, `top - 1` at most, until those taken
    /// have the share `threshold` of the softmax over their scores.
    pub fn by_share(shape: Shape, block: u32, top: u32, threshold: f32) -> Self {
        let moba = Moba::new(shape, block, top);
        Moba { blocks: Blocking { causal: false, ..moba.blocks }, gate: Gate::Share(threshold), ..moba }
    }

    /// The same with another routing.
    #[must_use]
    pub fn with_routing(self, routing: RoutingIs) -> Self {
        Moba { routing, ..self }
    }

    /// The same with a table of heads that attend fully.
    #[must_use]
    pub fn with_full_heads(self) -> Self {
        Moba { full_heads: true, ..self }
    }

    /// The same in chunks: so many of KV heads, and of tokens.
    #[must_use]
    pub fn in_chunks(self, heads: u32, tokens: u32) -> Self {
        Moba { head_chunks: heads, token_chunks: tokens, ..self }
    }

    /// Full attention, if `top` blocks are all that a document of `max_seqlen` keys has, and no routing is given.
    #[must_use]
    pub fn covering(self, max_seqlen: u64) -> Self {
        let Blocking { block, top, .. } = self.blocks;
        let all = u64::from(block) * u64::from(top) >= max_seqlen;
        Moba { full: all && self.gate == Gate::Best && self.routing != RoutingIs::Given, ..self }
    }

    /// The same in as few chunks as keep the workspace within `bytes`, for tensors of these extents: `tokens`, `heads_q`,
    /// `heads_kv` and `segments_plus_one`, and `tokens_k` where keys are apart.
    ///
    /// # Errors
    /// If no number of chunks does, or an extent is missing.
    pub fn within(mut self, bytes: u64, extents: &BTreeMap<String, u64>) -> Result<Self, Error> {
        let eval = |expr: &Expr| {
            expr.eval(extents, &BTreeMap::new()).map_err(|error| Error::Unsupported(format!("the workspace: {error}")))
        };
        let slots = eval(&self.chosen().slots(&self.shape))?;
        self.list_chunk =
            LIST_CHUNKS.into_iter().find(|&(_, most)| slots <= most).map_or(LIST_CHUNK, |(chunk, _)| chunk);
        let heads = eval(&Expr::symbol("heads_kv"))?.clamp(1, u32::MAX.into()) as u32;
        let tokens = eval(&Expr::symbol("tokens"))?.max(1);
        let mut least = u64::MAX;
        let of_heads = (1..=heads).map(|heads| (heads, 1));
        let of_tokens = (1..32).map(|doublings| (heads, 1 << doublings)).take_while(|&(_, chunks)| chunks < 2 * tokens);
        for (heads, tokens) in of_heads.chain(of_tokens.map(|(heads, tokens)| (heads, tokens as u32))) {
            let chunked = self.clone().in_chunks(heads, tokens);
            let needs = chunked.between(1).iter().try_fold(0u64, |sum, temporary| {
                let bytes = u64::from(temporary.elem.bytes());
                let elements = temporary.dims.iter().try_fold(bytes, |n, dim| Ok(n.saturating_mul(eval(dim)?)))?;
                Ok::<u64, Error>(sum.saturating_add(elements.next_multiple_of(256)))
            })?;
            if needs <= bytes && eval(&chunked.many().entries)? < 1 << 31 {
                return Ok(chunked);
            }
            least = least.min(needs);
        }
        let message =
            format!("the workspace may have {bytes} bytes, and {least} are the least that it needs in chunks");
        Err(Error::Unsupported(message))
    }

    /// Refuses what cannot be.
    fn check(&self) -> Result<(), Error> {
        let refuse = |message: String| Err(Error::Unsupported(message));
        let Blocking { block, top, causal, fused, joined, .. } = self.blocks;
        if block == 0 || !block.is_multiple_of(16) || i32::try_from(block).is_err() {
            return refuse(format!("blocks have {block} keys; a multiple of 16 is right, below 2^31"));
        }
        if top == 0 || top > MOST_CHOICES {
            return refuse(format!("{top} blocks are chosen for each query head; from 1 to {MOST_CHOICES} are right"));
        }
        if self.head_chunks == 0 || self.token_chunks == 0 {
            return refuse("there are no chunks; 1 or more are right".to_owned());
        }
        if let Gate::Share(share) = self.gate
            && !(0.0..=1.0).contains(&share)
        {
            return refuse(format!("blocks are taken until they have the share {share}; from 0 to 1 is right"));
        }
        if self.makes_routing() && causal != (self.gate == Gate::Best) {
            return refuse(
                "the best blocks of the past are chosen causally, and a share of all blocks is not".to_owned(),
            );
        }
        if !JOIN.contains(&joined) {
            return refuse(format!("{joined} neighbouring blocks are joined; {} are right", one_of(&JOIN)));
        }
        if joined > 1 && !(causal && fused && top <= MOST_JOINED && self.routing != RoutingIs::Given) {
            let what = "neighbouring blocks are joined where the gate is causal and chooses them, none of them twice";
            return refuse(format!("{what}: up to {MOST_JOINED} of them, the own block fused with the merge"));
        }
        if u64::from(block) * u64::from(joined) > i32::MAX as u64 {
            return refuse(format!("{joined} blocks of {block} keys are joined; 2^31 keys are too many"));
        }
        if self.full_heads && !(causal && fused) {
            return refuse(
                "some heads attend fully where the own block is fused with the merge, and causal".to_owned(),
            );
        }
        if self.routing == RoutingIs::Given && !fused {
            return refuse(
                "the own block is fused with the merge where a routing is given: it need not list it".to_owned(),
            );
        }
        Ok(())
    }

    fn is_chunked(&self) -> bool {
        self.head_chunks > 1 || self.token_chunks > 1
    }

    fn chosen(&self) -> Chosen {
        Chosen { block: self.blocks.keys(), top: Some(self.blocks.top), reach: self.blocks.reach() }
    }

    /// The lists of a chunk, in tiles of `rows`.
    fn lists(&self, rows: u32) -> InverseLists {
        let lists = InverseLists::new(self.shape.clone(), self.chosen(), rows);
        InverseLists { span: self.is_chunked(), chunk: self.list_chunk, slots: self.list_slots, ..lists }
    }

    /// The KV heads and the tokens of a chunk, at most.
    fn most(&self) -> [Expr; 2] {
        let of = |symbol: &str, chunks: u32| match chunks {
            1 => Expr::symbol(symbol),
            _ => Expr::symbol(symbol).ceil_div(u64::from(chunks)),
        };
        [of("heads_kv", self.head_chunks), of("tokens", self.token_chunks)]
    }

    fn many(&self) -> Many {
        let [heads, tokens] = self.most();
        let Blocking { top, .. } = self.blocks;
        let listed = top - u32::from(self.blocks.reach().passes_over_first());
        let [entries, listed] = [top, listed].map(|each| tokens.clone() * u64::from(each * self.shape.group).into());
        Many { heads, entries, listed, slots: self.chosen().slots(&self.shape) }
    }

    /// What lies between the launches, with lists in tiles of `rows`.
    fn between(&self, rows: u32) -> Vec<Temporary> {
        let (many, parts) = (self.many(), self.blocks.parts());
        let group = u64::from(self.shape.group);
        let mut between = Vec::new();
        if self.makes_routing() {
            let heads = Expr::symbol("heads_kv");
            let pooled = [many.slots.clone(), heads, u64::from(self.shape.dk).into()];
            between.push(Temporary::new("pooled", self.shape.elem, pooled));
        }
        if self.routing == RoutingIs::Internal && self.makes_routing() {
            let routing = [Expr::symbol("tokens"), Expr::symbol("heads_q"), u64::from(self.blocks.top).into()];
            between.push(Temporary::new("routing", Elem::I32, routing));
        }
        if parts > 0 && !self.full {
            if self.blocks.joined > 1 {
                let each = [Expr::symbol("tokens"), Expr::symbol("heads_q"), u64::from(self.blocks.top).into()];
                between.extend(["joined", "members"].map(|name| Temporary::new(name, Elem::I32, each.clone())));
            }
            let lists = self.lists(rows);
            between.extend(lists.slot_tables(&many));
            between.extend(lists.scratch(&many));
            between.extend(lists.lists(&many));
            let [heads, tokens] = self.most();
            let (heads, parts) = (heads * group.into(), Expr::Const(parts.into()));
            let o_parts = [tokens.clone(), parts.clone(), heads.clone(), u64::from(self.shape.dv).into()];
            between.push(Temporary::new(
                "o_parts",
                if self.blocks.wide { Elem::F32 } else { self.shape.elem },
                o_parts,
            ));
            between.push(Temporary::new("lse_parts", Elem::F32, [heads, tokens, parts]));
        }
        between
    }

    /// Whether keys are pooled and the gate is asked.
    fn makes_routing(&self) -> bool {
        match self.routing {
            RoutingIs::Internal => self.blocks.parts() > 0 && !self.full,
            RoutingIs::Returned => true,
            RoutingIs::Given => false,
        }
    }

    /// A plan for one chunk.
    fn of_chunk(&self, plan: Plan, head: u32, token: u32) -> Plan {
        let bound = |symbol: &str, chunk: u32, chunks: u32| match (chunk, chunks) {
            (0, _) => Expr::Const(0),
            (chunk, chunks) if chunk == chunks => Expr::symbol(symbol),
            _ => (Expr::symbol(symbol) * u64::from(chunk).into()).ceil_div(u64::from(chunks)),
        };
        let span = |symbol: &str, chunk: u32, chunks: u32| {
            let first = bound(symbol, chunk, chunks);
            let end = bound(symbol, chunk + 1, chunks);
            let many = if chunk == 0 { end } else { end - first.clone() };
            [first, many]
        };
        let [first_token, tokens] = span("tokens", token, self.token_chunks);
        let [first_head, heads] = span("heads_kv", head, self.head_chunks);
        let names = Span::NAMES.into_iter().zip([first_token, tokens, first_head, heads]);
        names.fold(plan, |plan, (name, expr)| plan.bind(name, &expr))
    }

    fn parts_schedule(&self) -> Bound<ChosenBlocks> {
        let members = self.blocks.joined > 1;
        ChosenBlocks { members, span: self.is_chunked(), ..ChosenBlocks::new(self.blocks) }.at(self.shape.clone())
    }

    fn own_schedule(&self) -> Bound<OwnAndParts> {
        let parts = self.blocks.parts() > 0;
        let (span, full_heads) = (self.is_chunked(), self.full_heads);
        let wide = self.blocks.wide;
        let (narrow, wide_parts) = (parts && !wide, parts && wide);
        let own = OwnAndParts {
            parts: narrow,
            wide_parts,
            routing: parts,
            span,
            full_heads,
            ..OwnAndParts::new(self.blocks)
        };
        own.at(self.shape.clone())
    }

    /// The gate.
    fn route_schedule(&self) -> Box<dyn Tunable> {
        let (Blocking { block, top, .. }, shape) = (self.blocks, self.shape.clone());
        match self.gate {
            Gate::Best => Box::new(MobaRoute { full_heads: self.full_heads, ..MobaRoute::new(block, top) }.at(shape)),
            Gate::Share(threshold) => Box::new(VmobaRoute::new(block, top, threshold).at(shape)),
        }
    }

    /// The launches that make a routing.
    fn routing_plans(&self, target: Target, pick: &Pick) -> Result<Vec<Plan>, Error> {
        let pool = MobaPool::new(self.blocks.block).at(self.shape.clone());
        let pool_pick = pool.choose(target, &Pick::new())?;
        Ok(vec![pool.plan(target, &pool_pick)?, self.route_schedule().plan(target, pick)?])
    }
}

/// What a schedule chooses where it is wanted to have these knobs besides; if it cannot, without them.
fn leaning(schedule: &impl Tunable, target: Target, wanted: &Pick, besides: &[(&str, u32)]) -> Result<Pick, Error> {
    let mut leaning = wanted.clone();
    for &(knob, value) in besides {
        leaning.entry(knob.to_owned()).or_insert(value);
    }
    schedule.choose(target, &leaning).or_else(|_| schedule.choose(target, wanted))
}

/// The knobs of the chosen blocks, those of the own block and those of the gate.
fn apart(pick: &Pick) -> [Pick; 3] {
    let mut of = [Pick::new(), Pick::new(), Pick::new()];
    for (name, &value) in pick {
        let (launch, name) = match (name.strip_prefix(OWN), name.strip_prefix(ROUTE)) {
            (Some(name), _) => (1, name),
            (_, Some(name)) => (2, name),
            _ => (0, name.as_str()),
        };
        of[launch].insert(name.to_owned(), value);
    }
    of
}

impl Tunable for Moba {
    fn space(&self, target: Target) -> Space {
        let mut space = ChosenBlocksPick::space(target);
        space.knobs.push((JOINED.to_owned(), JOIN.to_vec()));
        space.knobs.push((PARTS.to_owned(), vec![16, 32]));
        for (prefix, more) in [(OWN, OwnAndPartsPick::space(target)), (ROUTE, MobaRoutePick::space(target))] {
            space.knobs.extend(more.knobs.into_iter().map(|(name, values)| (format!("{prefix}{name}"), values)));
        }
        space
    }

    /// Each of the launches that the knobs are of is chosen for by itself.
    fn choose(&self, target: Target, wanted: &Pick) -> Result<Pick, Error> {
        self.check()?;
        let space = self.space(target);
        if let Some(name) = wanted.keys().find(|&name| space.knobs.iter().all(|(knob, _)| knob != name)) {
            let known: Vec<&str> = space.knobs.iter().map(|(knob, _)| knob.as_str()).collect();
            return Err(Error::Unsupported(format!("there is no knob `{name}`; this has {}", known.join(", "))));
        }
        let [mut of_parts, of_own, of_route] = apart(wanted);
        let this = self.taking(&mut of_parts)?;
        let small = target.has(Target::SM_90A) && this.blocks.keys() <= SMALL;
        let mut pick = this.parts_pick(target, &of_parts, small)?;
        let own = leaning(&this.own_schedule(), target, &of_own, if small { &SMALL_OWN } else { &[] })?;
        let route = this.route_schedule().choose(target, &of_route)?;
        for (prefix, more) in [(OWN, own), (ROUTE, route)] {
            pick.extend(more.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)));
        }
        pick.insert(JOINED.to_owned(), this.blocks.joined);
        pick.insert(PARTS.to_owned(), if this.blocks.wide { 32 } else { 16 });
        Ok(pick)
    }

    fn plan(&self, target: Target, pick: &Pick) -> Result<Plan, Error> {
        let [mut pick, own_pick, route_pick] = apart(pick);
        let this = self.taking(&mut pick)?;
        this.planned(target, &pick, &own_pick, &route_pick)
    }
}

impl Moba {
    /// The pick of chosen blocks, of blocks that are `small` for warpgroups or not.
    fn parts_pick(&self, target: Target, wanted: &Pick, small: bool) -> Result<Pick, Error> {
        let schedule = self.parts_schedule();
        if small && self.blocks.joined == 1 && self.blocks.keys() == ONE_ROUND {
            let pick = leaning(&schedule, target, wanted, &ONE_ROUND_PARTS)?;
            let spills = |plan: Plan| plan.attending().registers > MAX_REGISTERS;
            if schedule.plan(target, &pick).is_ok_and(|plan| !spills(plan)) {
                return Ok(pick);
            }
        }
        leaning(&schedule, target, wanted, if small { &SMALL_PARTS } else { &[] })
    }

    /// The same with the knobs that are of no launch by itself, which are taken out of a pick.
    fn taking(&self, pick: &mut Pick) -> Result<Self, Error> {
        let joined = pick.remove(JOINED).unwrap_or(self.blocks.joined);
        let wide = match pick.remove(PARTS) {
            None => self.blocks.wide,
            Some(bits @ (16 | 32)) => bits == 32,
            Some(bits) => return Err(Error::Unsupported(format!("parts have {bits} bits; 16 or 32 are right"))),
        };
        let this = Moba { blocks: Blocking { joined, wide, ..self.blocks }, ..self.clone() };
        this.check()?;
        Ok(this)
    }

    fn planned(&self, target: Target, pick: &Pick, own_pick: &Pick, route_pick: &Pick) -> Result<Plan, Error> {
        let rows = ChosenBlocksPick::from_pick(pick)?.rows;
        let (blocks, shape, span) = (self.blocks, || self.shape.clone(), self.is_chunked());
        let mut plans = if self.makes_routing() { self.routing_plans(target, route_pick)? } else { Vec::new() };
        if self.full {
            let dense = QueryMajor::new(causal()).at(shape());
            plans.push(dense.plan(target, &dense.choose(target, &Pick::new())?)?);
            return Plan::chain("moba", plans, &self.between(rows));
        }

        let (lists, parts) = (self.lists(rows), blocks.parts() > 0);
        let mut chunk = Vec::new();
        if parts {
            if blocks.joined > 1 {
                let join = JoinChoices::new(blocks).at(shape());
                plans.push(join.plan(target, &Pick::new())?);
            }
            plans.push(lists.slots_plan(target)?);
            chunk.extend(lists.plans(target)?);
            chunk.push(self.parts_schedule().plan(target, pick)?);
        }
        let own = self.own_schedule().plan(target, own_pick)?;
        // What the own block's mask has as its argument.
        let block = Expr::Const(blocks.block.into());
        chunk.push(["block", "chunk"].into_iter().fold(own, |plan, name| plan.bind(name, &block)));
        if blocks.joined > 1 {
            chunk = chunk.into_iter().map(|plan| plan.with_tensor("routing", "joined")).collect();
        }
        for head in 0..self.head_chunks {
            for token in 0..self.token_chunks {
                plans.extend(chunk.iter().map(|plan| match span {
                    true => self.of_chunk(plan.clone(), head, token),
                    false => plan.clone(),
                }));
            }
        }
        let mut plan = Plan::chain("moba", plans, &self.between(rows))?;
        if parts {
            plan.requires.push(lists.requires(&self.many()));
        }
        Ok(plan)
    }
}

impl Moba {
    /// The numbers that the schedules themselves give at launch: none, whatever the target.
    ///
    /// # Errors
    /// None so far.
    pub fn given(&self, _: Target) -> Result<BTreeMap<String, Scalar>, Error> {
        Ok(BTreeMap::new())
    }
}
