//! The data of the tile IR.

use std::panic::Location;

use lacuna_ptx::Target;

/// Where in the author's source something was said.
pub type Loc = Option<&'static Location<'static>>;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);
        impl $name {
            /// Dense index.
            pub const fn index(self) -> usize { self.0 as usize }
        }
    )*};
}

ids! {
    /// An axis of a [`Func`].
    AxisId
    /// A parameter of a [`Func`].
    ParamId
    /// A value of a [`Func`].
    ValueId
    /// Named storage of a [`Func`].
    VarId
    /// A shared-memory buffer of a [`Func`].
    BufferId
    /// A table in shared memory of a [`Func`].
    TableId
    /// The best of each row, of a [`Func`].
    BestId
}

/// One CTA's work.
#[derive(Clone, Debug)]
pub struct Func {
    /// The kernel's name.
    pub name: String,
    /// What it is compiled for.
    pub target: Target,
    /// Warps of a CTA that compute.
    pub warps: u32,
    /// How the products of a loop overlap, where warpgroups multiply.
    pub overlap: Overlap,
    /// Whether those warpgroups start their products in turns, where they overlap: one computes while another multiplies.
    pub turns: bool,
    /// Whether a CTA does tile after tile: as many CTAs are launched as run at once, and each does what the body says for the
    /// tiles that are its own. Every role works out by itself what stands before the roles, and goes on to its next tile as
    /// soon as it can; an [`Op::Exit`] ends a tile. `produce` keeps it where that can be, and clears it elsewhere.
    pub persist: bool,
    /// Whether those CTAs draw their tiles from a counter, each its next one once it gets to it, and not by where they stand: the
    /// faster do more. A thread of the producer draws, and tells every other role.
    pub draws: bool,
    /// Axes, by [`AxisId`].
    pub axes: Vec<Axis>,
    /// Parameters, by [`ParamId`].
    pub params: Vec<Param>,
    /// Named storage, by [`VarId`].
    pub vars: Vec<Var>,
    /// Every value, by [`ValueId`].
    pub values: Vec<Value>,
    /// Shared-memory buffers, by [`BufferId`]; made by `layout` and `pipeline`.
    pub buffers: Vec<Buffer>,
    /// Tables in shared memory, by [`TableId`].
    pub tables: Vec<Table>,
    /// The best of rows, by [`BestId`].
    pub bests: Vec<Best>,
    /// Who does what; made by `partition`.
    pub partition: Option<Partition>,
    /// The operations.
    pub body: Vec<Stmt>,
}

impl Func {
    /// A func that does nothing yet.
    pub fn new(name: impl Into<String>, target: Target, warps: u32) -> Self {
        Func {
            name: name.into(),
            target,
            warps,
            overlap: Overlap::default(),
            turns: false,
            persist: false,
            draws: false,
            axes: Vec::new(),
            params: Vec::new(),
            vars: Vec::new(),
            values: Vec::new(),
            buffers: Vec::new(),
            tables: Vec::new(),
            bests: Vec::new(),
            partition: None,
            body: Vec::new(),
        }
    }

    /// Whether each row of a slice says for itself where it is, or whether it is there.
    pub fn is_gathered(&self, slice: &Slice) -> bool {
        slice.index.iter().chain([&slice.count]).any(|value| self.values[value.index()].ty.rank() > 0)
    }
}

/// A named axis with its extent in this func: a block size, a head width, a padded group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// The author's name for it.
    pub name: String,
    /// Elements.
    pub extent: u32,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Param {
    /// A tensor in global memory.
    Tensor(Tensor),
    /// A number, the same for every CTA: `I32` or `F32`.
    Scalar {
        /// Its name.
        name: String,
        /// Its type.
        elem: Elem,
    },
}

/// A tensor in global memory: a pointer, and a 64-bit stride in elements for every dimension but the last, which is
/// contiguous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub elem: Elem,
    /// The names of its dimensions, outermost first: `token`, `head`, `Dk`.
    pub dims: Vec<String>,
}

/// What one element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Elem {
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
    /// 32-bit signed integer.
    I32,
    /// A truth value; lives in registers only.
    Bool,
}

impl Elem {
    /// Bytes in memory. A `Bool` has none.
    pub const fn bytes(self) -> u32 {
        match self {
            Elem::Bf16 | Elem::F16 => 2,
            Elem::F32 | Elem::I32 => 4,
            Elem::Bool => 0,
        }
    }

    /// Its name in the text form: `bf16`, `f16`, `f32`, `i32`, `bool`.
    pub const fn name(self) -> &'static str {
        match self {
            Elem::Bf16 => "bf16",
            Elem::F16 => "f16",
            Elem::F32 => "f32",
            Elem::I32 => "i32",
            Elem::Bool => "bool",
        }
    }
}

/// The type of a value: `f32`, `f32<Q>`, `f32<Q, Kv>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// What it holds.
    pub elem: Elem,
    /// Its axes: none (a scalar), one, or two (rows, columns).
    pub axes: Vec<AxisId>,
    /// A sum whose addends are still spread over lanes (and warps): `partial f32<Q>`. Made by a `sum` reduction; it may be
    /// scaled, added to another, kept in a var, and completed by [`Op::Merge`]; nothing else.
    pub partial: bool,
}

impl Type {
    /// A scalar.
    pub const fn scalar(elem: Elem) -> Self {
        Type { elem, axes: Vec::new(), partial: false }
    }

    /// A tile.
    pub fn tile(elem: Elem, axes: impl Into<Vec<AxisId>>) -> Self {
        Type { elem, axes: axes.into(), partial: false }
    }

    /// Rank: 0, 1 or 2.
    pub fn rank(&self) -> usize {
        self.axes.len()
    }
}

/// A value: its type and where it was made.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its type.
    pub ty: Type,
    /// The author's line.
    pub loc: Loc,
}

/// Named storage, set to `init` before the body runs: before each tile's, where a CTA does several.
#[derive(Clone, Debug)]
pub struct Var {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub ty: Type,
    /// Its first content, in every element.
    pub init: Const,
    /// Whether it is set before the first tile only, and keeps its content from one tile to the next.
    pub lasts: bool,
    /// The author's line.
    pub loc: Loc,
}

/// How the products and the arithmetic of neighbouring rounds of a loop overlap in a warpgroup that multiplies asynchronously.
///
/// With `QK` the product whose result a round computes with, and `PV` the one that takes what it computed:
///
/// | | a round |
/// |---|---|
/// | serial | QK(j), its end, arithmetic(j), PV(j), its end |
/// | fenced | QK(j) and PV(j-1) together, the end of QK, arithmetic(j) beside PV(j-1), its end |
/// | deferred | QK(j+1) beside the rescaling of PV's sum, PV(j), arithmetic(j+1) beside it; its end is in the next round |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Overlap {
    /// Nothing overlaps within a warpgroup.
    #[default]
    Serial,
    /// Arithmetic beside the second product of the round before.
    Fenced,
    /// Arithmetic beside the second product, rescaling beside the first. What the second product takes is held twice.
    Deferred,
}

impl Overlap {
    /// Every one of them; a knob's value is the place here.
    pub const ALL: [Overlap; 3] = [Overlap::Serial, Overlap::Fenced, Overlap::Deferred];

    /// Its name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Overlap::Serial => "serial",
            Overlap::Fenced => "fenced",
            Overlap::Deferred => "deferred",
        }
    }
}

/// A shared-memory buffer of `slots` tiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its name.
    pub name: String,
    /// What it holds: rank 2, rows then columns.
    pub ty: Type,
    /// How many tiles of that type stand in it: the stages of a pipelined loop, or one.
    pub slots: u32,
    /// Whether it is handed from a producer to consumers, slot by slot: each slot has two barriers of its own, `full`, which
    /// the bytes of a [`Op::Fill`] complete, and `empty`, which every consumer warp's [`Op::Release`] completes together.
    pub ring: bool,
}

/// A table in shared memory: an i32 for each position along an axis. It holds nothing until it is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// What it is indexed by.
    pub axis: AxisId,
}

/// The `count` greatest scores that each row has been offered, with the columns that they stand in: in descending order, ties
/// by ascending column. Empty before the body runs.
///
/// While scores are [taken](Op::Take), each lane that has elements of a row keeps the best of those it saw; once
/// [settled](Op::Settle), all of them have the row's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    /// Its name.
    pub name: String,
    /// The axis of the rows.
    pub axis: AxisId,
    /// How many are kept, from 1 to [`Best::MOST`].
    pub count: u32,
}

impl Best {
    /// As many as can be kept: each is two registers for every row that a lane has elements of.
    pub const MOST: u32 = 32;
}

/// Who does what. Warps form a grid: `rows` of them split the row axis in bands of 16, and `cols` of them split the column
/// axis, each with private state that [`Op::Merge`] combines. An axis that is in no tile of two axes belongs to neither:
/// a tile over it lies across all threads of the CTA, element `i` in thread `i % threads`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The axis of query rows: the free axis of every left operand. `None` where there is no product.
    pub row_axis: Option<AxisId>,
    /// The axis of keys: columns of the scores, contracted by the second product. `None` where there is none.
    pub col_axis: Option<AxisId>,
    /// Warps along the row axis.
    pub rows: u32,
    /// Warps along the column axis.
    pub cols: u32,
    /// Where warpgroups multiply: how the registers of a multiprocessor are shared out. A warpgroup more than `rows * cols`
    /// warps fetches what the others multiply, and each of those has one band of 16 rows. `None` where each warp multiplies for
    /// itself and all threads copy.
    pub roles: Option<Roles>,
}

/// Registers of a thread by its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Of the warpgroup that fetches.
    pub producer: u32,
    /// Of those that multiply.
    pub consumer: u32,
    /// CTAs that share the registers of a multiprocessor.
    pub ctas: u32,
}

/// A constant; a float by its bits, so that constants compare and print exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Const {
    /// An integer.
    I32(i32),
    /// A float.
    F32(u32),
    /// A truth value.
    Bool(bool),
}

impl Const {
    /// A float constant.
    pub const fn f32(value: f32) -> Self {
        Const::F32(value.to_bits())
    }

    /// Its type.
    pub const fn elem(self) -> Elem {
        match self {
            Const::I32(_) => Elem::I32,
            Const::F32(_) => Elem::F32,
            Const::Bool(_) => Elem::Bool,
        }
    }
}

/// One operation in its place.
#[derive(Clone, Debug)]
pub struct Stmt {
    /// The value it makes.
    pub result: Option<ValueId>,
    /// What it does.
    pub op: Op,
    /// The author's line.
    pub loc: Loc,
}

/// Rows of a tensor, as a tile loads or stores them.
///
/// Row `r` of the tile is the tensor at `index`: where an entry is a tile, at its element `r`, so that rows are gathered
/// from anywhere and scattered anywhere; with `index[along] + r` in the place of `index[along]`, where rows run along a
/// dimension. A tile of rank 2 spans the tensor's last dimension, so `index` has one entry fewer than the tensor has
/// dimensions; a tile of rank 1 takes one element a row, and `index` has an entry for every dimension. Rows that do not
/// count are not touched: they load as zeros, and are not stored.
///
/// Tiles among `index` and `count` are worked out where a row is: they are made of the row's number, scalars and table
/// elements. The author keeps those elements' indices in bounds for every row, also for those that do not count, and
/// scatters no two rows to one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The tensor.
    pub tensor: ParamId,
    /// `I32` scalars, and `I32` tiles over the row axis.
    pub index: Vec<ValueId>,
    /// Which dimension the rows run along; `None` where tiles alone say where they are.
    pub along: Option<usize>,
    /// Which rows there are. An `I32` scalar: so many, at most the row axis' extent counts; zero or less means none. A
    /// `Bool` tile over the row axis: those where it is true.
    pub count: ValueId,
}

/// One-operand arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// `-x`, i32 or f32.
    Neg,
    /// `2^x`, f32, approximate.
    Exp2,
    /// `log2 x`, f32, approximate.
    Log2,
    /// `1/x`, f32, approximate.
    Recip,
    /// Hyperbolic tangent, f32, approximate.
    Tanh,
    /// Logical not, bool.
    Not,
}

/// Two-operand arithmetic; both operands have the result's type. `Mul` and `Add` also take a partial sum with a complete one
/// (scaling) and two partial sums (adding).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// Product.
    Mul,
    /// Quotient: i32 truncates towards zero and the divisor must be positive; f32 is approximate.
    Div,
    /// Remainder, i32; the divisor must be positive.
    Rem,
    /// Smaller.
    Min,
    /// Larger.
    Max,
    /// Logical and, bool.
    And,
    /// Logical or, bool.
    Or,
}

/// Comparisons of i32 or f32; the result is bool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compare {
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

/// Reductions along the column axis of a tile of rank 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduce {
    /// Largest element of each row. Where warps split the column axis, each warp has its own.
    Max,
    /// Sum of each row, partial.
    Sum,
}

/// Reductions of a lane tile to one scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fold {
    /// Sum, i32 or f32. i32 wraps around; f32 is added in an order that depends on the extent and the warps alone.
    Sum,
    /// Smallest element, i32 or f32.
    Min,
    /// Largest element, i32 or f32.
    Max,
    /// Whether one element is true, bool.
    Any,
}

/// An operation.
///
/// A *lane tile* is a tile of one axis that is in no tile of two axes: its elements lie across the threads of the CTA.
#[derive(Clone, Debug)]
pub enum Op {
    /// A constant scalar.
    Const(Const),
    /// A scalar parameter.
    Param(ParamId),
    /// The CTA's index along grid dimension 0, 1 or 2.
    ProgramId(u8),
    /// One-operand arithmetic on scalars or tiles.
    Unary(Unary, ValueId),
    /// Two-operand arithmetic.
    Binary(Binary, ValueId, ValueId),
    /// A comparison.
    Compare(Compare, ValueId, ValueId),
    /// `if a { b } else { c }`, element by element.
    Select(ValueId, ValueId, ValueId),
    /// `a * b + c`, f32, rounded once.
    Fma(ValueId, ValueId, ValueId),
    /// To the result's element type: f32 to bf16 or f16 (nearest even), bf16 or f16 to f32, i32 to f32.
    Convert(ValueId),
    /// `0, 1, 2, ..` along an axis, i32.
    Iota(AxisId),
    /// The operand repeated along the axes that it lacks.
    Broadcast(ValueId),
    /// Reduces the columns.
    Reduce(Reduce, ValueId),
    /// Elements of a tensor, i32 or f32: one, or one for each element of the indices. Where an index is a tile, so is the
    /// result, over the same axes. The author keeps every index in bounds, also those of rows and columns that count for
    /// nothing.
    Element {
        /// The tensor.
        tensor: ParamId,
        /// For every dimension an `I32` scalar, or an `I32` tile; all tiles have the same axes.
        index: Vec<ValueId>,
    },
    /// The segment that holds position `at`: the largest `s` in `0..segments` with `table[s] <= at`, where `table` is
    /// non-decreasing, starts with 0 and has `segments + 1` entries. i32.
    Segment {
        /// An i32 tensor: `cu_seqlens`.
        table: ParamId,
        /// Which row of it is the table: an `I32` scalar for every dimension but the last.
        row: Vec<ValueId>,
        /// How many segments, i32.
        segments: ValueId,
        /// The position, i32.
        at: ValueId,
    },
    /// A lane tile reduced to a scalar, which every thread has.
    Fold(Fold, ValueId),
    /// The exclusive prefix sum of a lane tile: element `i` is the sum of the elements before it. Of a bool tile, how many
    /// of them are true. i32.
    Scan(ValueId),
    /// The sum of all elements that a [`Op::Scan`] went through: the operand is its result. An i32 scalar.
    Total(ValueId),
    /// Stores elements of a tensor, i32 or f32, where `keep` is true: one, or one for each element of a lane tile. The
    /// author keeps the index in bounds where `keep` is true, and gives no place to two elements. What a func stores to, it
    /// does not read.
    SetElement {
        /// The tensor.
        tensor: ParamId,
        /// For every dimension an `I32` scalar or lane tile.
        index: Vec<ValueId>,
        /// What is stored, a scalar or a lane tile. All lane tiles here have the same axis.
        value: ValueId,
        /// Whether it is, a scalar or a lane tile.
        keep: ValueId,
    },
    /// What a table holds at each of a lane tile of places, i32; 0 where the place is outside of it.
    TableGet {
        /// The table.
        table: TableId,
        /// Which places, an i32 lane tile.
        index: ValueId,
    },
    /// Sets a table at each of a lane tile of places, where `keep` is true and the place is in the table. The author gives
    /// no place twice.
    TableSet {
        /// The table.
        table: TableId,
        /// Which places, an i32 lane tile.
        index: ValueId,
        /// What it holds there afterwards, an i32 scalar or lane tile.
        value: ValueId,
        /// Whether it is set, a bool scalar or lane tile.
        keep: ValueId,
    },
    /// Adds to a table at each of a lane tile of places, where `keep` is true and the place is in the table. A place may be given
    /// any number of times, and each of them counts.
    TableAdd {
        /// The table.
        table: TableId,
        /// Which places, an i32 lane tile.
        index: ValueId,
        /// What is added, an i32 scalar or lane tile.
        value: ValueId,
        /// Whether it is added, a bool scalar or lane tile.
        keep: ValueId,
    },
    /// Counts the elements of a lane tile, in their order, where `keep` is true and the key is in the table: what
    /// `table[key]` was before the element, and one more is what it is after. 0 for the other elements. i32. In a CTA of one
    /// warp.
    CountUp {
        /// The table.
        table: TableId,
        /// Which count, an i32 lane tile.
        key: ValueId,
        /// Whether it counts, a bool scalar or lane tile.
        keep: ValueId,
    },
    /// Offers a tile of scores to the best of its rows. An element that is -inf or NaN is never taken. Tiles come in
    /// descending order of their columns: of equal scores the one taken last is before the others.
    Take {
        /// The best of the tile's rows, not yet settled.
        best: BestId,
        /// The scores, f32, over rows and columns.
        scores: ValueId,
        /// The column of the tile's first, an i32 scalar, zero or more.
        first: ValueId,
        /// A score and a column for each row, f32 and i32 over the rows: only what comes after it, in descending order of
        /// scores and ascending order of columns, is taken.
        after: Option<[ValueId; 2]>,
    },
    /// Lanes tell each other what they took: each row's best can be read from here on, and nothing more be taken.
    Settle(BestId),
    /// Forgets what was taken.
    Clear(BestId),
    /// The column of each row's `n`th best, from 0, i32 over the rows; -1 where there are no more than `n`.
    BestColumn(BestId, u32),
    /// The score of each row's `n`th best, f32 over the rows; -inf where there are no more than `n`.
    BestScore(BestId, u32),
    /// Loads rows as a tile.
    Load(Slice),
    /// Stores a tile's rows.
    Store(Slice, ValueId),
    /// `lhs · rhs`: contracts the axis that both have. `lhs` is `[M, K]`; `rhs` is `[N, K]` or `[K, N]`. f32 `[M, N]`.
    Dot(ValueId, ValueId),
    /// The content of a var.
    Read(VarId),
    /// Sets a var.
    Write(VarId, ValueId),
    /// `var += lhs · rhs`, in place.
    Accumulate(VarId, ValueId, ValueId),
    /// Completes an online softmax: `max` and `sum` (partial) over the row axis and `acc`, if there is one, over rows and
    /// features hold what each part of the column axis saw. Afterwards `max` and `acc` hold what the whole row saw, with
    /// `part -> part * 2^((max_part - max) * scale)`; the result is the whole sum, complete; `sum` is not read again.
    Merge {
        /// Row maxima of unscaled scores.
        max: VarId,
        /// Row sums of exponentials.
        sum: VarId,
        /// Unnormalised output; none where only the sums are wanted.
        acc: Option<VarId>,
        /// Softmax scale times log2(e), an f32 scalar.
        scale: ValueId,
    },
    /// `for index in lo..hi`. The bounds are i32 scalars; an empty range runs nothing.
    For {
        /// The loop's index, i32.
        index: ValueId,
        /// First.
        lo: ValueId,
        /// One past the last.
        hi: ValueId,
        /// How many tiles deep its loads are staged, once `pipeline` has run; `None` for a plain loop.
        pipelined: Option<u32>,
        /// Its body.
        body: Vec<Stmt>,
    },
    /// Runs the body where the scalar condition holds.
    If {
        /// A bool scalar.
        cond: ValueId,
        /// Its body.
        body: Vec<Stmt>,
    },
    /// Ends the CTA where the scalar condition holds. Only at the top level, before any store.
    Exit(ValueId),

    /// Starts copying rows into a slot of a buffer; belongs to the group that the next commit closes.
    CopyAsync {
        /// From.
        from: Slice,
        /// Into.
        buffer: BufferId,
        /// Which slot, an i32 scalar.
        slot: ValueId,
    },
    /// Closes a group of asynchronous copies.
    Commit,
    /// Waits until at most so many of this thread's groups are in flight.
    Wait(u32),
    /// All threads of the CTA meet; shared-memory writes before it are seen after it.
    Barrier,
    /// The tile that stands in a slot of a buffer.
    Shared(BufferId, ValueId),
    /// A shared tile brought into registers as the left operand of products.
    Operand(ValueId),

    /// What the producer's warpgroup does, beside [`Op::Consume`]: one thread of it, and for rings whose rows are gathered a warp
    /// for each slot. Each does what is about its own rings, in this order. At the top level, once, right before it. Vars
    /// that are named in one of the two are in no other.
    Produce(Vec<Stmt>),
    /// What all other warps do. Ends the func. Only in here are tiles computed with, and everything is stored.
    Consume(Vec<Stmt>),
    /// The producer waits until a slot of a ring is empty: until its phase before `phase` has been released by all consumers.
    /// The first phase of a slot is 0, and waits for nothing.
    Acquire {
        /// The ring.
        buffer: BufferId,
        /// Which slot, an i32 scalar.
        slot: ValueId,
        /// How often the slot was filled before, modulo 2: an i32 scalar.
        phase: ValueId,
    },
    /// The producer announces a tile's bytes to the `full` barrier of a slot, and starts to copy the rows; the copies complete
    /// it. Rows that do not count come as zeros. Rows that are gathered, which they are where CTAs persist, are copied by a warp
    /// that completes the barrier itself, once it has waited for them and products can see them.
    Fill {
        /// From.
        from: Slice,
        /// Into: a ring.
        buffer: BufferId,
        /// Which slot, an i32 scalar.
        slot: ValueId,
    },
    /// Consumers wait until a slot of a ring is full, in this phase: what was copied is seen, by products as well.
    Await {
        /// The ring.
        buffer: BufferId,
        /// Which slot, an i32 scalar.
        slot: ValueId,
        /// How often the slot was filled before, modulo 2: an i32 scalar.
        phase: ValueId,
    },
    /// A consumer warp is done with a slot of a ring; none of its products that read it is in flight.
    Release {
        /// The ring.
        buffer: BufferId,
        /// Which slot, an i32 scalar.
        slot: ValueId,
    },
    /// What consumers have copied or stored to shared memory, and has landed, is seen by products after the next barrier.
    Publish,
    /// What was done to registers so far comes before the products that start next.
    Fence,
    /// Starts `acc += lhs · rhs`, or `acc = lhs · rhs` where `fresh`, in the group that the next close ends. Until the group has
    /// landed, nothing touches `acc`, the registers of `lhs`, or the tiles in shared memory.
    Start {
        /// What is added to, or set.
        acc: VarId,
        /// A tile in shared memory, or a 16-bit tile in registers.
        lhs: ValueId,
        /// A tile in shared memory.
        rhs: ValueId,
        /// Whether `acc` is set.
        fresh: bool,
    },
    /// Ends a group of products.
    Close,
    /// Waits until at most so many groups of products are in flight, the latest ones.
    Land(u32),
    /// Keeps what makes these tiles and rows before the wait that follows: an assembler moves a wait up over arithmetic that
    /// could run beside the products.
    Hold(Vec<ValueId>),
    /// A warpgroup waits for its turn to start products: until the one before it, around the circle of the consumers', has
    /// [passed](Op::Pass) it. The first turn is the first one's.
    Turn,
    /// A warpgroup passes the turn to the next one.
    Pass,
    /// Repeats its body until it is [left](Op::Leave).
    Loop(Vec<Stmt>),
    /// Where the scalar condition holds, does the body and ends the loop in whose body it stands.
    Leave {
        /// A bool scalar.
        cond: ValueId,
        /// Its body.
        body: Vec<Stmt>,
    },
    /// Where the scalar condition holds, does the body in the place of what stands behind it, and the loop in whose body it
    /// stands goes on with its next round. Rounds of that kind that follow one another are a loop of their own. Before it stand
    /// scalars and ends of the loop alone, and its body knows of them by vars.
    Again {
        /// A bool scalar.
        cond: ValueId,
        /// Its body.
        body: Vec<Stmt>,
    },
}

impl Op {
    /// The statements that it encloses.
    pub fn body(&self) -> Option<&Vec<Stmt>> {
        match self {
            Op::For { body, .. } | Op::If { body, .. } => Some(body),
            Op::Leave { body, .. } | Op::Again { body, .. } => Some(body),
            Op::Produce(body) | Op::Consume(body) | Op::Loop(body) => Some(body),
            _ => None,
        }
    }

    /// The statements that it encloses.
    pub fn body_mut(&mut self) -> Option<&mut Vec<Stmt>> {
        match self {
            Op::For { body, .. } | Op::If { body, .. } => Some(body),
            Op::Leave { body, .. } | Op::Again { body, .. } => Some(body),
            Op::Produce(body) | Op::Consume(body) | Op::Loop(body) => Some(body),
            _ => None,
        }
    }
}
