//! Staging: one run of an author's function, and what it records.
//!
//! Handles are `Copy` and hold no reference, so that they go where an author needs them; operators on them find the run that
//! is under way through the thread. Each handle carries the number of its run and of the region (function, loop or branch)
//! that it was made in, and both are checked at every use: a value that belongs elsewhere is a mistake at that line, and a
//! stand-in of the same type takes its place, so that staging goes on and tells about the next mistake too.

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::panic::Location;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use lacuna_codegen::Error;
use lacuna_codegen::ir::{AxisId, Builder, Const, Elem, Op, Overlap, Param, ParamId, Type, ValueId};
use lacuna_codegen::plan::{Access, Arg, Dim, Expr, Requirement, Scalar, ScalarSpec, TensorSpec};
use lacuna_ptx::Target;

use crate::axis::{Axis, Element};
use crate::value::Handle;
use crate::{Cx, Dk, Dv, Group, Kv, Shape, Staged};

/// Warps of a CTA where a schedule does not say.
const WARPS: u32 = 4;

/// Where a handle lives: the run and the region that it was made in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    run: u32,
    region: u32,
}

/// What a handle holds.
#[derive(Clone, Copy, Debug)]
pub struct Raw {
    id: ValueId,
    home: Home,
}

/// A loop, a branch, or the function itself.
struct Region {
    /// As an author says it: `the loop`.
    what: &'static str,
    loc: &'static Location<'static>,
}

/// One run.
pub struct State {
    pub(crate) builder: Builder,
    run: u32,
    regions: Vec<Region>,
    /// Open regions by their number, outermost first.
    open: Vec<u32>,
    pub(crate) shape: Shape,
    /// Query heads of a group whose rows share a tile: one, or all of them.
    pub(crate) packed: u32,
    knobs: HashMap<String, u32>,
    extents: HashMap<TypeId, u32>,
    axes: HashMap<TypeId, AxisId>,
    pub(crate) grid: Option<[Expr; 3]>,
    /// Whether what a tile of queries sees depends on where it is, or is listed.
    pub(crate) uneven: bool,
    pub(crate) tensors: Vec<TensorSpec>,
    scalars: Vec<ScalarSpec>,
    args: Vec<Arg>,
    /// Scalar parameters by what identifies them.
    params: HashMap<String, ParamId>,
    /// Values that the schedule itself gives at launch.
    given: BTreeMap<String, Scalar>,
    /// What must hold between extents, besides their grouping.
    pub(crate) requires: Vec<Requirement>,
}

thread_local! {
    static RUNS: RefCell<Vec<Rc<RefCell<State>>>> = const { RefCell::new(Vec::new()) };
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The run under way on this thread.
///
/// # Panics
/// If there is none.
pub(crate) fn current() -> Rc<RefCell<State>> {
    let run = RUNS.with_borrow(|runs| runs.last().cloned());
    run.expect("tiles, scalars and inputs exist only while a schedule is staged, on the thread that stages it")
}

/// Ends the run also where the author's function panics.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        RUNS.with_borrow_mut(|runs| runs.pop());
    }
}

/// Everything that is decided before an author's function runs: the name, the target, the shape, and the pick.
///
/// [`Schedule::stage`](crate::Schedule::stage) makes one; by hand it stages a function that no macro has seen.
#[derive(Debug)]
pub struct Staging {
    name: String,
    target: Target,
    shape: Shape,
    warps: u32,
    overlap: u32,
    turns: u32,
    pack: u32,
    persist: u32,
    knobs: HashMap<String, u32>,
    extents: HashMap<TypeId, u32>,
    pick: Vec<String>,
}

impl Staging {
    /// A staging of `name`: `Dk`, `Dv`, `Group` and `Kv` have the extents that the shape gives them.
    pub fn new(name: impl Into<String>, target: Target, shape: &Shape) -> Self {
        let extents = HashMap::from([
            (TypeId::of::<Dk>(), shape.dk),
            (TypeId::of::<Dv>(), shape.dv),
            (TypeId::of::<Group>(), shape.group.next_power_of_two().max(16)),
            (TypeId::of::<Kv>(), shape.block),
        ]);
        let shape = shape.clone();
        Self {
            name: name.into(),
            target,
            shape,
            warps: WARPS,
            overlap: 1,
            turns: 1,
            pack: 1,
            persist: 1,
            knobs: HashMap::new(),
            extents,
            pick: Vec::new(),
        }
    }

    /// Sets the extent of an axis.
    pub fn axis<A: Axis>(&mut self, extent: u32) {
        self.extents.insert(TypeId::of::<A>(), extent);
        self.pick.push(format!("{} = {extent}", A::NAME));
    }

    /// Sets the warps of a CTA.
    pub fn warps(&mut self, warps: u32) {
        self.warps = warps;
        self.pick.push(format!("warps = {warps}"));
    }

    /// Sets how products overlap in a loop, where warpgroups multiply: 1 is serial, 2 fenced, 3 deferred
    /// ([`Overlap`](lacuna_codegen::ir::Overlap)).
    pub fn overlap(&mut self, overlap: u32) {
        self.overlap = overlap;
        self.pick.push(format!("overlap = {overlap}"));
    }

    /// Sets whether warpgroups start products in turns, where they overlap: 1 is no, 2 yes.
    pub fn turns(&mut self, turns: u32) {
        self.turns = turns;
        self.pick.push(format!("turns = {turns}"));
    }

    /// Sets what rows of a tile of tokens are ([`Queries::tile`](crate::Queries::tile)): 1, those of one query head; 2, those of
    /// all query heads that share a KV head, so that few tokens fill a tile.
    pub fn pack(&mut self, pack: u32) {
        self.pack = pack;
        self.pick.push(format!("pack = {pack}"));
    }

    /// Sets whether a CTA does tile after tile, where warpgroups multiply and a producer fetches all that they do: 1 is no, 2 is
    /// yes, those that fall to it by where it stands, 3 is yes, those that it draws from a counter.
    pub fn persist(&mut self, persist: u32) {
        self.persist = persist;
        self.pick.push(format!("persist = {persist}"));
    }

    /// Sets a knob that the body reads by its name.
    pub fn knob(&mut self, name: &str, value: u32) {
        self.knobs.insert(name.to_owned(), value);
        self.pick.push(format!("{name} = {value}"));
    }

    /// Runs `body` once and keeps what it does.
    #[track_caller]
    pub fn run(self, body: impl FnOnce(&Cx)) -> Result<Staged, Error> {
        self.shape.check()?;
        let packed = self.packed()?;
        let state = State {
            builder: Builder::new(self.name.as_str(), self.target, self.warps),
            run: NUMBER.fetch_add(1, Ordering::Relaxed),
            regions: vec![Region { what: "the schedule", loc: Location::caller() }],
            open: vec![0],
            shape: self.shape,
            packed,
            knobs: self.knobs,
            extents: self.extents,
            axes: HashMap::new(),
            grid: None,
            uneven: false,
            tensors: Vec::new(),
            scalars: Vec::new(),
            args: Vec::new(),
            params: HashMap::new(),
            given: BTreeMap::new(),
            requires: Vec::new(),
        };
        let state = Rc::new(RefCell::new(state));
        RUNS.with_borrow_mut(|runs| runs.push(Rc::clone(&state)));
        let running = Running;
        let cx = Cx { state: Rc::clone(&state) };
        body(&cx);
        drop((cx, running));
        let mut state = Rc::into_inner(state).expect("nothing keeps a run beyond its end").into_inner();
        if state.grid.is_none() {
            let label = "name its grid first: `let (t, h) = cx.grid2(q.tokens(), k.heads());`";
            state.builder.fail_at(state.regions[0].loc, "the schedule does not say which CTAs there are", label);
        }
        let mut func = state.builder.finish().map_err(Error::Staging)?;
        func.turns = switch(self.turns, "warpgroups take turns, 2, or do not, 1")?;
        (func.persist, func.draws) = match self.persist {
            3 => (true, true),
            other => (switch(other, "a CTA persists, 2, persists and draws its tiles, 3, or does not, 1")?, false),
        };
        func.overlap = *Overlap::ALL.get(self.overlap.wrapping_sub(1) as usize).ok_or_else(|| {
            let ways = Overlap::ALL.iter().enumerate().map(|(n, way)| format!("{} is {}", n + 1, way.name()));
            let ways = ways.collect::<Vec<_>>().join(", ");
            Error::Unsupported(format!("products overlap in one of {} ways: {ways}", Overlap::ALL.len()))
        })?;
        Ok(Staged {
            name: self.name,
            pick: self.pick.join(", "),
            func,
            bytes: bytes(&state.shape, &state.tensors, &state.scalars),
            group: state.shape.group.into(),
            uneven: state.uneven,
            grid: state.grid.unwrap_or([Expr::Const(1), Expr::Const(1), Expr::Const(1)]),
            requires: [grouping(&state.tensors, state.shape.group), state.requires].concat(),
            tensors: state.tensors,
            scalars: state.scalars,
            args: state.args,
            given: state.given,
        })
    }
}

impl Staging {
    /// Query heads of a group whose rows share a tile.
    fn packed(&self) -> Result<u32, Error> {
        match (self.pack, self.shape.group) {
            (1, _) => Ok(1),
            (2, 1) => Err(Error::Unsupported("a KV head has one query head here: no heads share a tile".to_owned())),
            (2, group) => Ok(group),
            (other, _) => Err(Error::Unsupported(format!(
                "a tile has rows of one query head, 1, or of all that share a KV head, 2; {other} is neither"
            ))),
        }
    }
}

/// A knob that is 1, no, or 2, yes.
fn switch(value: u32, what: &str) -> Result<bool, Error> {
    match value {
        1 => Ok(false),
        2 => Ok(true),
        other => Err(Error::Unsupported(format!("{what}; {other} is neither"))),
    }
}

/// Bytes of keys and values of a KV head of the longest document, or of all where none is said to be the longest. None where no
/// tensor has keys.
fn bytes(shape: &Shape, tensors: &[TensorSpec], scalars: &[ScalarSpec]) -> Expr {
    let is = |dim: &Dim, symbol: &str| matches!(dim, Dim::Symbol(s) if s == symbol);
    let has = |tensor: &TensorSpec, symbol: &str| tensor.dims.iter().any(|dim| is(dim, symbol));
    if !tensors.iter().any(|tensor| has(tensor, shape.key_tokens()) && has(tensor, "heads_kv")) {
        return Expr::Const(0);
    }
    let width = u64::from((shape.dk + shape.dv) * shape.elem.bytes());
    let said = scalars.iter().any(|scalar| scalar.name == shape.longest_keys());
    let keys = if said { Expr::scalar(shape.longest_keys()) } else { Expr::symbol(shape.key_tokens()) };
    keys * width.into()
}

/// That the heads of queries and of keys are in the relation that the kernel has baked in, where it has both.
fn grouping(tensors: &[TensorSpec], group: u32) -> Vec<Requirement> {
    let has = |name: &str| tensors.iter().flat_map(|t| &t.dims).any(|d| matches!(d, Dim::Symbol(s) if s == name));
    if !has("heads_q") || !has("heads_kv") {
        return Vec::new();
    }
    let right = Expr::symbol("heads_kv") * u64::from(group).into();
    let what =
        format!("`heads_q` must be {group} times `heads_kv`: the plan is compiled for {group} query heads a KV head");
    vec![Requirement { what, left: Expr::symbol("heads_q"), right }]
}

impl State {
    /// The element type that `E` is in this run.
    pub(crate) fn elem<E: Element>(&self) -> Elem {
        E::elem(self.shape.elem)
    }

    /// The axis that `A` is in this run.
    #[track_caller]
    pub(crate) fn axis<A: Axis>(&mut self) -> AxisId {
        if let Some(&id) = self.axes.get(&TypeId::of::<A>()) {
            return id;
        }
        let extent = self.extents.get(&TypeId::of::<A>()).copied().unwrap_or_else(|| {
            let label = format!("name it among the knobs: `tune({} in [64, 32])`", A::NAME);
            self.builder.fail(format!("nothing says how wide `{}` is", A::NAME), label);
            16
        });
        let id = self.builder.axis(A::NAME, extent);
        self.axes.insert(TypeId::of::<A>(), id);
        id
    }

    /// How wide `A` is.
    #[track_caller]
    pub(crate) fn extent<A: Axis>(&mut self) -> u32 {
        let id = self.axis::<A>();
        self.builder.func().axes[id.index()].extent
    }

    /// A knob by its name.
    #[track_caller]
    pub(crate) fn knob(&mut self, name: &str) -> u32 {
        self.knobs.get(name).copied().unwrap_or_else(|| {
            self.builder.fail(format!("nothing sets the knob `{name}`"), format!("name it: `tune({name} in [2, 3])`"));
            1
        })
    }

    /// The value behind a handle, for use here.
    #[track_caller]
    pub(crate) fn take<H: Handle>(&mut self, handle: H) -> ValueId {
        let raw = handle.raw();
        if self.lives(raw.home, "value") { raw.id } else { self.stand_in::<H>() }
    }

    /// The value of a handle whose type is not known any more, for use here.
    #[track_caller]
    pub(crate) fn take_raw(&mut self, raw: Raw, ty: Type) -> ValueId {
        if self.lives(raw.home, "value") { raw.id } else { self.builder.push(Op::Const(Const::I32(0)), ty) }
    }

    /// Whether what was made at `home` exists here; if not, that is a mistake at the caller's line.
    #[track_caller]
    pub(crate) fn lives(&mut self, home: Home, what: &str) -> bool {
        if home.run != self.run {
            self.builder.fail(
                format!("this {what} belongs to another schedule"),
                "it was made while another schedule, or another pick, was staged",
            );
            return false;
        }
        if !self.open.contains(&home.region) {
            let Region { what: inside, loc } = &self.regions[home.region as usize];
            self.builder.fail(
                format!(
                    "this {what} was made inside {inside} at {}:{} and does not exist outside",
                    loc.file(),
                    loc.line()
                ),
                "keep it in a `cx.var(..)` that is made before",
            );
            return false;
        }
        true
    }

    /// A value of `H`'s type, where the one that was meant does not exist.
    #[track_caller]
    pub(crate) fn stand_in<H: Handle>(&mut self) -> ValueId {
        let ty = H::ty(self);
        self.builder.push(Op::Const(Const::I32(0)), ty)
    }

    /// A handle for a value made just now.
    pub(crate) fn give<H: Handle>(&self, id: ValueId) -> H {
        H::from_raw(Raw { id, home: self.home() })
    }

    /// Here.
    pub(crate) fn home(&self) -> Home {
        Home { run: self.run, region: self.region() }
    }

    /// The innermost open region.
    pub(crate) fn region(&self) -> u32 {
        *self.open.last().expect("the function's region is always open")
    }

    /// Whether a region is open.
    pub(crate) fn is_open(&self, region: u32) -> bool {
        self.open.contains(&region)
    }

    /// Says where the function stands.
    #[track_caller]
    pub(crate) fn begin(&mut self) {
        self.regions[0].loc = Location::caller();
    }

    /// Whether the function's own region is the innermost.
    pub(crate) fn at_top(&self) -> bool {
        self.open.len() == 1
    }

    /// Marks a loop or branch that the builder has just opened.
    pub(crate) fn enter(&mut self, what: &'static str, loc: &'static Location<'static>) -> u32 {
        self.regions.push(Region { what, loc });
        let region = self.regions.len() as u32 - 1;
        self.open.push(region);
        region
    }

    /// Closes a loop or branch, and what is still open in it.
    pub(crate) fn leave(&mut self, region: u32) {
        while self.is_open(region) && !self.at_top() {
            self.open.pop();
            self.builder.close();
        }
    }

    /// Declares a tensor of the plan. A dimension of fixed extent has the name of its axis.
    #[track_caller]
    pub(crate) fn tensor(&mut self, name: &str, elem: Elem, dims: &[(&str, Dim)], access: Access) -> ParamId {
        if self.tensors.iter().any(|t| t.name == name) {
            self.builder.fail(format!("two tensors are called `{name}`"), "each needs a name of its own");
        }
        let names: Vec<&str> = dims.iter().map(|(name, _)| *name).collect();
        let dims: Vec<Dim> = dims.iter().map(|(_, dim)| dim.clone()).collect();
        self.args.push(Arg::Pointer(name.to_owned()));
        self.args.extend((0..dims.len() - 1).map(|dim| Arg::Stride { tensor: name.to_owned(), dim }));
        // 16-bit tensors are copied 16 bytes at a time.
        let align = if elem.bytes() == 2 { 16 } else { elem.bytes() };
        let id = self.builder.tensor(name, elem, &names);
        self.tensors.push(TensorSpec { name: name.to_owned(), elem, dims, access, align });
        id
    }

    /// Adds what must hold between extents.
    pub(crate) fn require(&mut self, requirement: Requirement) {
        if !self.requires.contains(&requirement) {
            self.requires.push(requirement);
        }
    }

    /// A tensor that is declared already, if it is read only and of this type and these dimensions.
    pub(crate) fn known(&self, name: &str, elem: Elem, dims: &[(&str, Dim)]) -> Option<ParamId> {
        let same = |t: &TensorSpec| {
            (t.name.as_str(), t.elem, t.access) == (name, elem, Access::Read)
                && t.dims.iter().eq(dims.iter().map(|d| &d.1))
        };
        self.tensors.iter().find(|t| same(t))?;
        let params = &self.builder.func().params;
        let at = params.iter().position(|param| matches!(param, Param::Tensor(t) if t.name == name))?;
        Some(ParamId(at as u32))
    }

    /// Reads a number that the caller gives at launch; declares it the first time.
    #[track_caller]
    pub(crate) fn scalar(&mut self, name: &str, elem: Elem) -> ValueId {
        if !self.params.contains_key(name) {
            self.scalars.push(ScalarSpec { name: name.to_owned(), elem });
        }
        self.param(name, elem, Arg::Scalar(name.to_owned()))
    }

    /// Reads a number that is made from extents at launch; declares it the first time.
    #[track_caller]
    pub(crate) fn computed(&mut self, name: &str, expr: Expr) -> ValueId {
        self.param(name, Elem::I32, Arg::Computed(expr))
    }

    /// Reads a number that the schedule itself gives, under a name that no other one has.
    #[track_caller]
    pub(crate) fn given(&mut self, name: &str, owner: usize, value: Scalar) -> ValueId {
        let key = format!("{name} of {owner}");
        let elem = match value {
            Scalar::I32(_) => Elem::I32,
            Scalar::F32(_) => Elem::F32,
        };
        if !self.params.contains_key(&key) {
            let taken = |name: &str| self.scalars.iter().any(|s| s.name == name);
            let free = std::iter::once(name.to_owned()).chain((2..).map(|n| format!("{name}_{n}"))).find(|n| !taken(n));
            let free = free.expect("numbers do not end");
            let value_id = self.scalar(&free, elem);
            let param = self.params[&free];
            self.params.insert(key, param);
            self.given.insert(free, value);
            return value_id;
        }
        self.param(&key, elem, Arg::Scalar(String::new()))
    }

    /// A parameter that is known is read again: the first reading may be in a region that is closed by now.
    #[track_caller]
    fn param(&mut self, key: &str, elem: Elem, arg: Arg) -> ValueId {
        if let Some(&id) = self.params.get(key) {
            return self.builder.push(Op::Param(id), Type::scalar(elem));
        }
        let id = ParamId(self.builder.func().params.len() as u32);
        let value = self.builder.scalar_param(key, elem);
        self.params.insert(key.to_owned(), id);
        self.args.push(arg);
        value
    }
}
