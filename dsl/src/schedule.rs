//! What the outside sees of a schedule: its shape, its pick, and the plan it becomes.

use std::collections::BTreeMap;
use std::sync::Arc;

use lacuna_codegen::ir::{Elem, Func};
use lacuna_codegen::plan::{
    Arg, Dim, Expr, Launch, Pick, Plan, Promotion, Requirement, Scalar, ScalarSpec, Space, TensorMap, TensorSpec,
    Tiles, Tunable, first_fit,
};
use lacuna_codegen::{Boxes, Error, compile, one_of};
use lacuna_ptx::Target;

use crate::Cx;
use crate::staging::Staging;

/// Head widths that tiles are made for: Dk and Dv may be any of them each.
pub const WIDTHS: [u32; 6] = [32, 64, 96, 128, 192, 256];

/// Query heads of a KV head, at most.
const MAX_GROUP: u32 = 64;

/// What is baked into a kernel besides its pick.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// What queries, keys, values and the output hold: `Bf16` or `F16`.
    pub elem: Elem,
    /// The width of queries and keys.
    pub dk: u32,
    /// The width of values and of the output.
    pub dv: u32,
    /// Query heads of each KV head, from 1 to 64.
    pub group: u32,
    /// Keys of a block: the selection's, where blocks are selected.
    pub block: u32,
    /// Whether a document has a number of keys of its own, as in a chunked prefill or a decode step: keys and values are then
    /// `[tokens_k, ..]`, and the tensor `cu_seqlens_k` says which of them are whose. Queries and keys end together
    /// ([`Document::position`](crate::input::Document::position)).
    pub keys_apart: bool,
}

impl Shape {
    /// A shape with blocks of 64 keys, and as many keys as queries.
    pub fn new(elem: Elem, dk: u32, dv: u32, group: u32) -> Self {
        Shape { elem, dk, dv, group, block: 64, keys_apart: false }
    }

    /// The shape with other blocks.
    pub fn with_block(self, block: u32) -> Self {
        Shape { block, ..self }
    }

    /// The shape with a number of keys of its own for each document.
    pub fn with_keys_apart(self) -> Self {
        Shape { keys_apart: true, ..self }
    }

    /// The extent that says how many keys all documents have: `tokens_k` where they are apart from the queries, else
    /// `tokens`.
    pub fn key_tokens(&self) -> &'static str {
        if self.keys_apart { "tokens_k" } else { "tokens" }
    }

    /// The number of a launch that says how many keys the longest document has, or more: `max_seqlen_k` where they are apart
    /// from the queries, else `max_seqlen`.
    pub fn longest_keys(&self) -> &'static str {
        if self.keys_apart { "max_seqlen_k" } else { "max_seqlen" }
    }

    /// Refuses what no kernel is made for.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |message: String| Err(Error::Unsupported(message));
        if !matches!(self.elem, Elem::Bf16 | Elem::F16) {
            return refuse(format!("tensor cores take bf16 and f16 here, not {}", self.elem.name()));
        }
        for (name, width) in [("Dk", self.dk), ("Dv", self.dv)] {
            if !WIDTHS.contains(&width) {
                return refuse(format!("{name} is {width}; heads of {} are right", one_of(&WIDTHS)));
            }
        }
        if self.group == 0 || self.group > MAX_GROUP {
            return refuse(format!("{} query heads share a KV head; from 1 to {MAX_GROUP} are right", self.group));
        }
        if self.block == 0 || !self.block.is_multiple_of(16) {
            return refuse(format!("blocks have {} keys; a multiple of 16 is right", self.block));
        }
        Ok(())
    }
}

/// A target, and the knobs that vary there, each with the values to try.
pub type OfTarget = (&'static str, &'static [(&'static str, &'static [u32])]);

/// A value for each knob of a schedule: what [`#[schedule]`](macro@crate::schedule) makes as `QueryMajorPick`, say. The
/// default is the first value of each knob.
pub trait Knobs: Copy + Default {
    /// The knobs by name, each with the values to try. One that only some targets have has one value here, its default.
    const KNOBS: &'static [(&'static str, &'static [u32])];

    /// Those that vary where a target has no values of its own: all of them, or fewer.
    const PORTABLE: usize;

    /// What varies instead on a target, by its name: knobs with the values to try. The others have their defaults.
    const TARGETS: &'static [OfTarget];

    /// The values, in the order of the knobs.
    fn values(&self) -> Vec<u32>;

    /// A pick from values in the order of the knobs.
    #[doc(hidden)]
    fn from_values(values: &[u32]) -> Self;

    /// What may vary on a target.
    fn space(target: Target) -> Space {
        let target = target.to_string();
        let own = Self::TARGETS.iter().find(|(name, _)| *name == target).map(|(_, knobs)| *knobs);
        let knobs = own.unwrap_or(&Self::KNOBS[..Self::PORTABLE]);
        Space { knobs: knobs.iter().map(|&(name, values)| (name.to_owned(), values.to_vec())).collect() }
    }

    /// The pick by names.
    fn to_pick(&self) -> Pick {
        Self::KNOBS.iter().map(|&(name, _)| name.to_owned()).zip(self.values()).collect()
    }

    /// A pick from names. A knob that is not named has its default; a name that is no knob is refused.
    fn from_pick(pick: &Pick) -> Result<Self, Error> {
        if let Some(name) = pick.keys().find(|&name| Self::KNOBS.iter().all(|(knob, _)| knob != name)) {
            let known: Vec<&str> = Self::KNOBS.iter().map(|(knob, _)| *knob).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Error::Unsupported(format!("there is no knob `{name}`; this schedule has {known}")));
        }
        let values: Vec<u32> = Self::KNOBS
            .iter()
            .zip(Self::default().values())
            .map(|((name, _), default)| pick.get(*name).copied().unwrap_or(default))
            .collect();
        Ok(Self::from_values(&values))
    }
}

/// A schedule: what one CTA of an attention does. [`#[schedule]`](macro@crate::schedule) makes them.
pub trait Schedule {
    /// Its knobs.
    type Pick: Knobs;

    /// Its name, which is also that of its kernels.
    fn name(&self) -> &'static str;

    /// Settles extents, warps and knobs.
    #[doc(hidden)]
    fn declare(&self, staging: &mut Staging, pick: &Self::Pick);

    /// Runs the author's function and stores what it returns.
    #[doc(hidden)]
    fn body(&self, cx: &Cx);

    /// Runs the author's function once, for one target, shape and pick.
    fn stage(&self, target: Target, shape: &Shape, pick: &Self::Pick) -> Result<Staged, Error> {
        let mut staging = Staging::new(self.name(), target, shape);
        self.declare(&mut staging, pick);
        staging.run(|cx| self.body(cx))
    }

    /// The schedule at one shape, to be planned and tuned.
    fn at(self, shape: Shape) -> Bound<Self>
    where
        Self: Sized,
    {
        Bound { schedule: self, shape }
    }
}

/// A schedule at one shape.
#[derive(Clone, Debug)]
pub struct Bound<S> {
    /// The schedule.
    pub schedule: S,
    /// The shape.
    pub shape: Shape,
}

impl<S: Schedule> Bound<S> {
    /// Stages it at one pick.
    pub fn stage(&self, target: Target, pick: &Pick) -> Result<Staged, Error> {
        self.schedule.stage(target, &self.shape, &S::Pick::from_pick(pick)?)
    }

    /// The numbers that the schedule itself gives at launch: the arguments of its masks, by the names the plan has for them.
    pub fn given(&self, target: Target) -> Result<BTreeMap<String, Scalar>, Error> {
        // They are the same at every pick; not every pick goes with every schedule.
        let mut refused = None;
        for pick in S::Pick::space(target).each() {
            match self.stage(target, &pick) {
                Ok(staged) => return Ok(staged.given),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| Error::Unsupported("the space of picks is empty".to_owned())))
    }
}

impl<S: Schedule> Tunable for Bound<S> {
    fn space(&self, target: Target) -> Space {
        S::Pick::space(target)
    }

    fn plan(&self, target: Target, pick: &Pick) -> Result<Plan, Error> {
        self.stage(target, pick)?.compile()
    }

    /// The first that fits, but for what measurements say of every schedule (`leanings`), where it is not asked for and can be.
    fn choose(&self, target: Target, wanted: &Pick) -> Result<Pick, Error> {
        let mut pick = first_fit(self, target, wanted)?;
        let mut wanted = wanted.clone();
        let leanings = leanings(&pick, self.stage(target, &pick)?.uneven);
        for (knob, value) in leanings.into_iter().flatten() {
            if wanted.contains_key(knob) || !pick.contains_key(knob) {
                continue;
            }
            let leaning = wanted.clone().into_iter().chain([(knob.to_owned(), value)]).collect();
            if let Ok(other) = first_fit(self, target, &leaning) {
                (pick, wanted) = (other, leaning);
            }
        }
        Ok(pick)
    }
}

/// Knobs that a pick had better have another value of. Where what a tile sees depends on where it is, or a list says it, CTAs draw
/// tile after tile: what is left of a tile is done beside the next one's loads, and whoever is done first takes the next; tiles that
/// see all there is are alike and long, and as well dealt out by the device. Deferred products keep values for a round longer: with
/// two stages, copies run dry, and fenced ones take less time.
fn leanings(pick: &Pick, uneven: bool) -> [Option<(&'static str, u32)>; 2] {
    let is = |knob: &str, value: u32| pick.get(knob) == Some(&value);
    let fenced = is("overlap", 3) && is("stages", 2);
    [fenced.then_some(("overlap", 2)), uneven.then_some(("persist", 3))]
}

/// A schedule that has been staged: everything about one kernel but its PTX.
#[derive(Clone, Debug)]
pub struct Staged {
    /// The schedule's name.
    pub name: String,
    /// The pick, as `Rows = 64, stages = 2, warps = 4`.
    pub pick: String,
    /// What a CTA does.
    pub func: Func,
    /// CTAs along x, y and z; or tiles, where a CTA does several.
    pub grid: [Expr; 3],
    /// Bytes of keys and values of a KV head of the longest document.
    pub bytes: Expr,
    /// Query heads of a KV head.
    pub group: u64,
    /// Whether what a tile of queries sees depends on where it is, or is listed.
    pub uneven: bool,
    /// The tensors that it reads and writes.
    pub tensors: Vec<TensorSpec>,
    /// The numbers that it takes at launch.
    pub scalars: Vec<ScalarSpec>,
    /// What must hold between extents.
    pub requires: Vec<Requirement>,
    /// Its arguments, in the order of the kernel's parameters.
    pub args: Vec<Arg>,
    /// Those of the numbers that the schedule itself gives: the arguments of its masks.
    pub given: BTreeMap<String, Scalar>,
}

impl Staged {
    /// Compiles it.
    pub fn compile(self) -> Result<Plan, Error> {
        let target = self.func.target;
        let named: Vec<String> = self.func.params.iter().map(|param| param.name().to_owned()).collect();
        // The compiler knows what is too much; only here it is known which pick that was.
        let compiled = compile(self.func).map_err(|error| match error {
            Error::SharedMemory { kernel, target, needs, limit, .. } => {
                Error::SharedMemory { kernel, pick: self.pick, target, needs, limit }
            }
            other => other,
        })?;
        let maps =
            compiled.maps.iter().map(|boxes| Arg::TensorMap(map(&self.tensors, &named[boxes.tensor.index()], boxes)));
        let grid = self.grid.clone();
        let ctas = compiled.resident;
        let tiles = compiled.persists.then(|| match (compiled.draws, compiled.gathers) {
            (false, true) => Tiles::pair_by_pair(grid, ctas),
            (false, false) => Tiles::of(grid, self.bytes, self.group, ctas),
            (true, true) => Tiles::drawn_pair_by_pair(grid, ctas),
            (true, false) => Tiles::drawn(grid, self.bytes, self.group, ctas),
        });
        let (grid, told) = tiles.map_or((self.grid, Vec::new()), |tiles| (tiles.grid, tiles.args));
        let drawn_from = compiled.draws.then_some(Arg::Counter);
        let args = self.args.into_iter().chain(told).chain(drawn_from).chain(maps).collect();
        let launch = Launch {
            ptx: Arc::from(compiled.text),
            entry: self.name.clone(),
            grid,
            threads: compiled.threads,
            shared: compiled.shared,
            registers: compiled.registers,
            resident: compiled.resident,
            cluster: [1, 1, 1],
            args,
        };
        Ok(Plan {
            name: self.name,
            target,
            tensors: self.tensors,
            scalars: self.scalars,
            requires: self.requires,
            workspace: Expr::Const(0),
            launches: vec![launch],
        })
    }
}

/// The tensor map that a kernel takes of a tensor `[rows, heads, features]`.
fn map(tensors: &[TensorSpec], name: &str, boxes: &Boxes) -> TensorMap {
    let tensor = tensors.iter().find(|tensor| tensor.name == name).expect("the kernel's tensors are the plan's");
    let extent = |dim: usize| match &tensor.dims[dim] {
        Dim::Symbol(symbol) => Expr::symbol(symbol),
        Dim::Fixed(extent) => Expr::Const(*extent),
    };
    TensorMap::ragged(name, tensor.elem, [0, 1], [extent(1), extent(2)], [boxes.rows, boxes.features])
        .swizzled(boxes.swizzle)
        .promoted(Promotion::B256)
}
