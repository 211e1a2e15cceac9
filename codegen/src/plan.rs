//! What a compiled operation is: ordered launches with typed arguments, and everything a device needs to check and run
//! them. A plan is data; it touches no device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lacuna_ptx::Target;
use serde::{Deserialize, Serialize};

use crate::ir::Elem;

mod map;
mod tiles;

pub use map::{MapBase, MapDim, MapRow, MapStride, Promotion, RAGGED_ORIGIN, Swizzle, TensorMap, WRAP};
pub use tiles::Tiles;
pub(crate) use tiles::{COUNTER as TILE_COUNTER, DRAWN as DRAWN_PARAMS, PARAMS as TILE_PARAMS};

/// The symbol that stands for the multiprocessors of the device that a plan is run on.
pub const MULTIPROCESSORS: &str = "multiprocessors";

/// A compiled operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The kernel's name in the registry.
    pub name: String,
    /// What its PTX is for.
    #[serde(with = "crate::wire::target")]
    pub target: Target,
    /// The tensors it reads and writes, by name.
    pub tensors: Vec<TensorSpec>,
    /// The numbers it takes, by name.
    pub scalars: Vec<ScalarSpec>,
    /// What must hold between extents.
    pub requires: Vec<Requirement>,
    /// Scratch memory in bytes.
    pub workspace: Expr,
    /// What runs, in order on one stream.
    pub launches: Vec<Launch>,
}

/// A tensor of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub elem: Elem,
    /// Its dimensions, outermost first. Equal symbols must be equal extents. The last one is contiguous.
    pub dims: Vec<Dim>,
    /// Whether the plan reads or writes it.
    pub access: Access,
    /// What the pointer and every stride in bytes must be a multiple of.
    pub align: u32,
}

/// An extent of a [`TensorSpec`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dim {
    /// Any extent, the same wherever this symbol stands: `tokens`, `heads_q`.
    Symbol(String),
    /// Exactly this extent, baked into the PTX.
    Fixed(u64),
}

/// Two expressions of extents that must be equal, because the PTX has their relation baked in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// What must hold, as a sentence without its end.
    pub what: String,
    /// One.
    pub left: Expr,
    /// The other.
    pub right: Expr,
}

/// How a plan uses a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Read only.
    Read,
    /// Written in full, never read.
    Write,
}

/// A number that a plan takes at launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalarSpec {
    /// Its name.
    pub name: String,
    /// `I32` or `F32`.
    pub elem: Elem,
}

/// A number given at launch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Scalar {
    /// An integer.
    I32(i32),
    /// A float.
    F32(f32),
}

/// Registers that a thread may have.
pub const MAX_REGISTERS: u32 = 255;

/// Warps that a multiprocessor should have at once: two for each of its four schedulers, so that one issues while the other
/// waits for a product or for its softmax.
pub const WARPS: u32 = 8;

/// One kernel launch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Launch {
    /// The whole PTX text.
    #[serde(with = "crate::wire::text")]
    pub ptx: Arc<str>,
    /// Which entry of it.
    pub entry: String,
    /// CTAs along x, y and z.
    pub grid: [Expr; 3],
    /// Threads of a CTA.
    pub threads: u32,
    /// Dynamic shared memory of a CTA in bytes.
    pub shared: u32,
    /// Registers that a thread needs, estimated: it has [`MAX_REGISTERS`], and what is beyond them spills to memory.
    pub registers: u32,
    /// CTAs that a multiprocessor has at once, estimated.
    pub resident: u32,
    /// CTAs of a cluster along x, y and z; ones where there is none.
    pub cluster: [u32; 3],
    /// Arguments, in the order of the entry's parameters.
    pub args: Vec<Arg>,
}

impl Launch {
    /// Whether warpgroups multiply in it, asynchronously: `wgmma`.
    pub fn by_warpgroups(&self) -> bool {
        self.ptx.contains("wgmma.mma_async")
    }

    /// Whether they compute while a product is under way.
    pub fn overlaps(&self) -> bool {
        self.ptx.contains("wgmma.wait_group.sync.aligned 1;")
    }
}

/// An argument of a launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arg {
    /// The address of a tensor, u64.
    Pointer(String),
    /// A stride of a tensor in elements, u64.
    Stride {
        /// The tensor.
        tensor: String,
        /// Its dimension.
        dim: usize,
    },
    /// A number of the plan's, i32 or f32.
    Scalar(String),
    /// A number made from extents and other numbers, i32.
    Computed(Expr),
    /// A number made from extents and other numbers, u64: a stride of a tensor in the workspace.
    Wide(Expr),
    /// An address in the workspace, u64.
    Workspace {
        /// Bytes from its start.
        offset: Expr,
    },
    /// The address of a counter, u64: 4 bytes that are zero when the launch begins, and that it leaves at zero. No launch that runs
    /// at the same time may have the same.
    Counter,
    /// A tensor map, 128 bytes.
    TensorMap(TensorMap),
}

/// Arithmetic on extents and numbers known to the host at launch. Never negative.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expr {
    /// A constant.
    Const(u64),
    /// The extent that a symbol of the tensors' dimensions has; or [`MULTIPROCESSORS`], which the device says.
    Symbol(String),
    /// An integer of the plan's scalars.
    Scalar(String),
    /// Sum.
    Add(Box<Expr>, Box<Expr>),
    /// Difference; below zero is out of range.
    Sub(Box<Expr>, Box<Expr>),
    /// Product.
    Mul(Box<Expr>, Box<Expr>),
    /// Quotient, rounded up.
    CeilDiv(Box<Expr>, Box<Expr>),
    /// The smaller of two.
    Min(Box<Expr>, Box<Expr>),
    /// The larger of two.
    Max(Box<Expr>, Box<Expr>),
}

/// An expression could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExprError {
    /// A name that nothing gives a number.
    #[error("nothing gives `{0}` a number")]
    Unknown(String),
    /// A negative number where an extent is meant.
    #[error("`{name}` is {value}, and must not be negative")]
    Negative {
        /// Which.
        name: String,
        /// Its value.
        value: i32,
    },
    /// Past 64 bits, below zero, or a division by zero.
    #[error("arithmetic on extents is out of range")]
    Range,
}

impl Expr {
    /// A symbol's extent.
    pub fn symbol(name: impl Into<String>) -> Self {
        Expr::Symbol(name.into())
    }

    /// How many multiprocessors the device has.
    pub fn multiprocessors() -> Self {
        Expr::symbol(MULTIPROCESSORS)
    }

    /// An integer scalar.
    pub fn scalar(name: impl Into<String>) -> Self {
        Expr::Scalar(name.into())
    }

    /// `ceil(self / by)`.
    pub fn ceil_div(self, by: impl Into<Expr>) -> Self {
        Expr::CeilDiv(Box::new(self), Box::new(by.into()))
    }

    /// The smaller of two.
    pub fn min(self, other: impl Into<Expr>) -> Self {
        Expr::Min(Box::new(self), Box::new(other.into()))
    }

    /// The larger of two.
    pub fn max(self, other: impl Into<Expr>) -> Self {
        Expr::Max(Box::new(self), Box::new(other.into()))
    }

    /// Its value, given the extents of symbols and the plan's scalars.
    pub fn eval(&self, symbols: &BTreeMap<String, u64>, scalars: &BTreeMap<String, Scalar>) -> Result<u64, ExprError> {
        let both = |a: &Expr, b: &Expr| Ok((a.eval(symbols, scalars)?, b.eval(symbols, scalars)?));
        match self {
            Expr::Const(value) => Ok(*value),
            Expr::Symbol(name) => symbols.get(name).copied().ok_or_else(|| ExprError::Unknown(name.clone())),
            Expr::Scalar(name) => match scalars.get(name) {
                Some(Scalar::I32(value)) => {
                    u64::try_from(*value).map_err(|_| ExprError::Negative { name: name.clone(), value: *value })
                }
                _ => Err(ExprError::Unknown(name.clone())),
            },
            Expr::Add(a, b) => both(a, b).and_then(|(a, b)| a.checked_add(b).ok_or(ExprError::Range)),
            Expr::Sub(a, b) => both(a, b).and_then(|(a, b)| a.checked_sub(b).ok_or(ExprError::Range)),
            Expr::Mul(a, b) => both(a, b).and_then(|(a, b)| a.checked_mul(b).ok_or(ExprError::Range)),
            Expr::CeilDiv(a, b) => {
                both(a, b).and_then(|(a, b)| if b == 0 { Err(ExprError::Range) } else { Ok(a.div_ceil(b)) })
            }
            Expr::Min(a, b) => both(a, b).map(|(a, b)| a.min(b)),
            Expr::Max(a, b) => both(a, b).map(|(a, b)| a.max(b)),
        }
    }
}

impl Expr {
    /// The expression with others in the place of its symbols and scalars, where `f` has one for them.
    pub(crate) fn replaced(&self, f: &impl Fn(&Expr) -> Option<Expr>) -> Expr {
        if let Some(other) = f(self) {
            return other;
        }
        let both = |a: &Expr, b: &Expr| (Box::new(a.replaced(f)), Box::new(b.replaced(f)));
        match self {
            Expr::Const(_) | Expr::Scalar(_) | Expr::Symbol(_) => self.clone(),
            Expr::Add(a, b) => {
                let (a, b) = both(a, b);
                Expr::Add(a, b)
            }
            Expr::Sub(a, b) => {
                let (a, b) = both(a, b);
                Expr::Sub(a, b)
            }
            Expr::Mul(a, b) => {
                let (a, b) = both(a, b);
                Expr::Mul(a, b)
            }
            Expr::CeilDiv(a, b) => {
                let (a, b) = both(a, b);
                Expr::CeilDiv(a, b)
            }
            Expr::Min(a, b) => {
                let (a, b) = both(a, b);
                Expr::Min(a, b)
            }
            Expr::Max(a, b) => {
                let (a, b) = both(a, b);
                Expr::Max(a, b)
            }
        }
    }
}

impl Plan {
    /// The plan with one of its numbers made from extents, no longer given at launch: an integer, wherever it stands.
    #[must_use]
    pub fn bind(mut self, scalar: &str, value: &Expr) -> Plan {
        let bound = |expr: &Expr| expr.replaced(&|e| (*e == Expr::scalar(scalar)).then(|| value.clone()));
        self.scalars.retain(|s| s.name != scalar);
        self.workspace = bound(&self.workspace);
        for requirement in &mut self.requires {
            requirement.left = bound(&requirement.left);
            requirement.right = bound(&requirement.right);
        }
        for launch in &mut self.launches {
            launch.grid = launch.grid.each_ref().map(&bound);
            for arg in &mut launch.args {
                *arg = match arg {
                    Arg::Scalar(name) if name == scalar => Arg::Computed(value.clone()),
                    Arg::Computed(expr) => Arg::Computed(bound(expr)),
                    Arg::Wide(expr) => Arg::Wide(bound(expr)),
                    Arg::Workspace { offset } => Arg::Workspace { offset: bound(offset) },
                    Arg::TensorMap(map) => Arg::TensorMap(map.replaced(bound)),
                    Arg::Pointer(_) | Arg::Stride { .. } | Arg::Scalar(_) | Arg::Counter => continue,
                };
            }
        }
        self
    }
}

impl Plan {
    /// The launch that attends: the last one that multiplies. Those before it find the blocks that it visits, those after it
    /// put its parts together.
    ///
    /// # Panics
    /// If the plan launches nothing.
    pub fn attending(&self) -> &Launch {
        let multiplies = |launch: &&Launch| launch.by_warpgroups() || launch.ptx.contains("mma.sync");
        self.launches.iter().rfind(multiplies).or(self.launches.last()).expect("a plan launches something")
    }

    /// The plan with another tensor in the place of one of its own: of the same type and dimensions, under another name.
    #[must_use]
    pub fn with_tensor(mut self, name: &str, other: &str) -> Plan {
        self.tensors.iter_mut().filter(|t| t.name == name).for_each(|t| other.clone_into(&mut t.name));
        for arg in self.launches.iter_mut().flat_map(|launch| &mut launch.args) {
            match arg {
                Arg::Pointer(tensor) | Arg::Stride { tensor, .. } if tensor == name => other.clone_into(tensor),
                Arg::TensorMap(map) => {
                    map.tensors_mut().filter(|tensor| *tensor == name).for_each(|tensor| other.clone_into(tensor));
                }
                _ => {}
            }
        }
        self
    }
}

impl From<u64> for Expr {
    fn from(value: u64) -> Self {
        Expr::Const(value)
    }
}

impl std::ops::Add for Expr {
    type Output = Expr;

    fn add(self, other: Expr) -> Expr {
        Expr::Add(Box::new(self), Box::new(other))
    }
}

impl std::ops::Sub for Expr {
    type Output = Expr;

    fn sub(self, other: Expr) -> Expr {
        Expr::Sub(Box::new(self), Box::new(other))
    }
}

impl std::ops::Mul for Expr {
    type Output = Expr;

    fn mul(self, other: Expr) -> Expr {
        Expr::Mul(Box::new(self), Box::new(other))
    }
}

/// A choice of values for a schedule's tunable knobs, by name: `stages = 3, warps = 4`.
pub type Pick = BTreeMap<String, u32>;

/// The values that each knob may take, by name: those to be preferred first. See [`Tunable::choose`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Knobs in the order the author wrote them, each with its values.
    pub knobs: Vec<(String, Vec<u32>)>,
}

impl Space {
    /// How many picks there are.
    pub fn size(&self) -> usize {
        self.knobs.iter().map(|(_, values)| values.len()).product()
    }

    /// Whether a pick is of this space.
    pub fn has(&self, pick: &Pick) -> bool {
        let has = |(name, values): &(String, Vec<u32>)| pick.get(name).is_some_and(|value| values.contains(value));
        pick.len() == self.knobs.len() && self.knobs.iter().all(has)
    }

    /// A pick, and those that differ from it in one knob.
    pub fn around(&self, pick: &Pick) -> Vec<Pick> {
        let others = self.knobs.iter().flat_map(|(name, values)| {
            let other = move |&value: &u32| {
                (pick.get(name) != Some(&value)).then(|| {
                    let mut other = pick.clone();
                    other.insert(name.clone(), value);
                    other
                })
            };
            values.iter().filter_map(other)
        });
        std::iter::once(pick.clone()).chain(others).collect()
    }

    /// Picks that differ from one in the tile and loop of one launch alone: in any of its `rows`, `kv`, `stages` and `overlap`,
    /// which fit or spill together, so that the way from one that is good to another may lead over some that are not.
    pub fn tiles(&self, pick: &Pick) -> Vec<Pick> {
        let of = |(name, _): &(String, Vec<u32>)| -> Option<String> {
            let ends = ["rows", "kv", "stages", "overlap"].into_iter().find_map(|knob| name.strip_suffix(knob))?;
            (ends.is_empty() || ends.ends_with('_')).then(|| ends.to_owned())
        };
        let launches: BTreeSet<String> = self.knobs.iter().filter_map(of).collect();
        let tiles = |launch: String| {
            let knobs = self.knobs.iter().filter(|knob| of(knob).as_ref() == Some(&launch)).cloned().collect();
            let others = Space { knobs }.picks().into_iter().map(|tile| pick.clone().into_iter().chain(tile).collect());
            others.filter(|other| other != pick).collect::<Vec<Pick>>()
        };
        launches.into_iter().flat_map(tiles).collect()
    }

    /// Every pick, the last knob fastest. A chain of launches may have millions: then [`each`](Self::each) is better.
    pub fn picks(&self) -> Vec<Pick> {
        self.each().collect()
    }

    /// Every pick, made as it is asked for, the last knob fastest.
    pub fn each(&self) -> impl Iterator<Item = Pick> {
        (0..self.size()).map(|number| {
            let mut left = number;
            let value = |(name, values): &(String, Vec<u32>)| {
                let at = left % values.len();
                left /= values.len();
                (name.clone(), values[at])
            };
            self.knobs.iter().rev().map(value).collect()
        })
    }

    /// The picks of this space that have the wanted values: none, where it has no such knob or value.
    fn with(mut self, wanted: &Pick) -> Self {
        for (name, value) in wanted {
            match self.knobs.iter_mut().find(|(knob, _)| knob == name) {
                Some((_, values)) => values.retain(|of| of == value),
                None => self.knobs.push((name.clone(), Vec::new())),
            }
        }
        self
    }
}

/// Something that can be planned in several ways: what a tuner needs to know.
pub trait Tunable {
    /// What may vary on a target.
    fn space(&self, target: Target) -> Space;

    /// The operation at one pick, or why that pick cannot be (it does not fit the target's shared memory, say).
    fn plan(&self, target: Target, pick: &Pick) -> Result<Plan, crate::Error>;

    /// The default pick for a target, where nothing is `wanted`; the best of those that agree with `wanted`, otherwise. By
    /// the compiler's estimates: the author's first pick, where it fits and its registers suffice; else the first whose
    /// registers suffice and which leaves a multiprocessor [`WARPS`]; else the first whose registers suffice; else the first
    /// with the fewest.
    ///
    /// # Errors
    /// If none can be planned, why the first one cannot.
    fn choose(&self, target: Target, wanted: &Pick) -> Result<Pick, crate::Error> {
        first_fit(self, target, wanted)
    }
}

/// The first pick with the wanted values that fits, as [`Tunable::choose`] says.
///
/// # Errors
/// If none can be planned, why the first one cannot.
pub fn first_fit<T: Tunable + ?Sized>(tunable: &T, target: Target, wanted: &Pick) -> Result<Pick, crate::Error> {
    let mut refusal = None;
    let mut best: Option<(u32, Pick)> = None;
    for pick in tunable.space(target).with(wanted).each() {
        match tunable.plan(target, &pick) {
            Ok(plan) => {
                let spilled = plan.launches.iter().map(|l| l.registers.saturating_sub(MAX_REGISTERS)).max();
                let spilled = spilled.unwrap_or(0);
                let first = best.is_none() && refusal.is_none();
                let busy = plan.launches.iter().all(|l| l.resident * l.threads / 32 >= WARPS);
                if spilled == 0 && (first || busy) {
                    return Ok(pick);
                }
                if best.as_ref().is_none_or(|(fewest, _)| spilled < *fewest) {
                    best = Some((spilled, pick));
                }
            }
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    let nothing = || crate::Error::Unsupported(format!("no pick of the space has {wanted:?}"));
    best.map(|(_, pick)| pick).ok_or_else(|| refusal.unwrap_or_else(nothing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_near_a_pick_differ_from_it_in_one_knob_or_in_the_tile() {
        let knobs = [("rows", vec![128, 64]), ("stages", vec![2, 3, 1]), ("warps", vec![4])];
        let space = Space { knobs: knobs.map(|(name, values)| (name.to_owned(), values)).into() };
        let pick = |rows, stages| -> Pick {
            [("rows", rows), ("stages", stages), ("warps", 4)].map(|(name, value)| (name.to_owned(), value)).into()
        };
        assert_eq!((space.size(), space.picks().len()), (6, 6));
        let (other, fewer) = (pick(64, 4), Pick::from([("rows".to_owned(), 64)]));
        assert!(space.picks().iter().all(|pick| space.has(pick)) && !space.has(&other) && !space.has(&fewer));
        assert_eq!(space.around(&pick(64, 3)), [pick(64, 3), pick(128, 3), pick(64, 2), pick(64, 1)]);
        let both = [pick(128, 2), pick(128, 3), pick(128, 1), pick(64, 2), pick(64, 1)];
        assert_eq!(space.tiles(&pick(64, 3)), both);
    }

    #[test]
    fn picks_come_in_the_order_of_their_knobs_and_as_they_are_asked_for() {
        let knob = |name: &str, values: &[u32]| (name.to_owned(), values.to_vec());
        let space = Space { knobs: vec![knob("a", &[5, 3]), knob("b", &[1, 2, 0])] };
        let order: Vec<(u32, u32)> = space.each().map(|pick| (pick["a"], pick["b"])).collect();
        assert_eq!(order, [(5, 1), (5, 2), (5, 0), (3, 1), (3, 2), (3, 0)]);
        assert_eq!(Space::default().picks(), [Pick::new()]);
        let with = |name: &str, value| space.clone().with(&Pick::from([(name.to_owned(), value)])).picks();
        assert_eq!(with("b", 0).iter().map(|pick| pick["a"]).collect::<Vec<_>>(), [5, 3]);
        assert!(with("b", 7).is_empty() && with("c", 1).is_empty());

        let many = Space { knobs: (0..15).map(|name| (name.to_string(), (0..16).collect())).collect() };
        assert_eq!(many.size(), 1 << 60);
        assert_eq!(many.each().nth(1).unwrap()["14"], 1);
    }
}
