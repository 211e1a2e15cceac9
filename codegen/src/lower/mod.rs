//! Lowering to PTX: one rule per operation, for the mma.sync family (sm_80 and up), and for that of wgmma, where a func has
//! roles (sm_90a).
//!
//! In:  a func that has been through every pass.
//! Out: one entry. Every scalar is in a register that all threads of a role agree on; every branch is uniform in a role.

mod best;
mod emit;
mod flow;
mod gather;
mod lanes;
mod memory;
mod merge;
mod mma;
mod parked;
mod persist;
mod place;
mod shared;
mod table;
mod value;
mod warpgroup;

use std::collections::{HashMap, HashSet};

use lacuna_ptx::{
    Class, Entry, Limits, Module, Operand, Param as PtxParam, ParamType, Reg, SharedArray, Special, Version,
};

pub(crate) use self::parked::bytes as parked_bytes;

use self::best::Lists;
use self::emit::Emit;
use self::place::Placement;
use self::shared::Layout;
use self::value::{Low, Tile, class, immediate};
pub use self::warpgroup::Boxes;
use crate::Error;
use crate::ir::{BufferId, Elem, Func, Op, Overlap, Param, Partition, Stmt, Tensor, ValueId, VarId};
use crate::plan::MAX_REGISTERS;

/// The symbol of a CTA's dynamic shared memory.
const SHARED: &str = "smem";

/// What lowering makes.
#[derive(Clone, Debug)]
pub(crate) struct Lowered {
    /// The module with its one entry.
    pub(crate) module: Module,
    /// Dynamic shared memory of a CTA in bytes.
    pub(crate) shared: u32,
    /// Threads of a CTA.
    pub(crate) threads: u32,
    /// Registers of a thread, estimated.
    pub(crate) registers: u32,
    /// CTAs that a multiprocessor has at once, estimated.
    pub(crate) resident: u32,
    /// Whether its CTAs do tile after tile: the entry is told of them behind its other parameters.
    pub(crate) persists: bool,
    /// Whether they draw them from a counter, whose address it is told as well.
    pub(crate) draws: bool,
    /// Whether a producer gathers rows for them.
    pub(crate) gathers: bool,
    /// The tensor maps that the entry takes, behind its other parameters.
    pub(crate) maps: Vec<Boxes>,
}

/// A var's registers.
#[derive(Clone)]
enum VarRegs {
    Scalar(Reg),
    Rows(Vec<Reg>),
    Cols(Vec<Reg>),
    Lanes(Vec<Reg>),
    Tile(Tile),
    Packed(Tile),
}

impl VarRegs {
    fn regs(&self) -> &[Reg] {
        match self {
            VarRegs::Scalar(reg) => std::slice::from_ref(reg),
            VarRegs::Rows(regs) | VarRegs::Cols(regs) | VarRegs::Lanes(regs) => regs,
            VarRegs::Tile(tile) | VarRegs::Packed(tile) => &tile.regs,
        }
    }

    fn low(&self) -> Low {
        match self.clone() {
            VarRegs::Scalar(reg) => Low::Scalar(reg),
            VarRegs::Rows(regs) => Low::Rows(regs),
            VarRegs::Cols(regs) => Low::Cols(regs),
            VarRegs::Lanes(regs) => Low::Lanes(regs),
            VarRegs::Tile(tile) => Low::Tile(tile),
            VarRegs::Packed(tile) => Low::Packed(tile),
        }
    }

    /// The same shape in other registers.
    fn with(&self, regs: Vec<Reg>) -> Low {
        match self {
            VarRegs::Scalar(_) => Low::Scalar(regs[0]),
            VarRegs::Rows(_) => Low::Rows(regs),
            VarRegs::Cols(_) => Low::Cols(regs),
            VarRegs::Lanes(_) => Low::Lanes(regs),
            VarRegs::Tile(tile) => Low::Tile(Tile { regs, ..*tile }),
            VarRegs::Packed(tile) => Low::Packed(Tile { regs, ..*tile }),
        }
    }
}

/// Lowering under way.
struct Lower<'a> {
    func: &'a Func,
    part: Partition,
    e: Emit,
    low: Vec<Option<Low>>,
    vars: Vec<VarRegs>,
    bests: Vec<Lists>,
    shared: Layout,
    /// Which axes lie across the threads of the CTA.
    lane_axes: Vec<bool>,
    /// The totals of prefix sums.
    totals: HashMap<ValueId, Reg>,
    placement: Placement,
    /// Scalar sums, by their parts.
    sums: HashMap<ValueId, (ValueId, ValueId)>,
    /// What is never negative: indices of loops that count from zero or more, and all that follows where there are roles.
    counts: HashSet<ValueId>,
    /// The tensor maps that are asked for.
    maps: Vec<Boxes>,
    /// Where the loops that are left end, outermost first.
    ends: Vec<String>,
    /// The number of a warpgroup, once there are roles.
    group: Option<Reg>,
    /// Which of the producer's warps that gather this is, while what they do is made: 0 where there is one.
    gatherer: Option<Operand>,
    /// The slot of a ring that it is to fill next, and its phase.
    acquired: HashMap<BufferId, [ValueId; 2]>,
    /// The tile under way, where a CTA does tile after tile.
    tile: Option<persist::Tile>,
}

/// The PTX parameter that holds a tensor's address, or a scalar.
fn pointer_name(param: &Param) -> String {
    match param {
        Param::Tensor(tensor) => format!("{}_ptr", tensor.name),
        Param::Scalar { name, .. } => name.clone(),
    }
}

/// The PTX parameter that holds a tensor's stride.
fn stride_name(tensor: &Tensor, dim: usize) -> String {
    format!("{}_{}_stride", tensor.name, tensor.dims[dim])
}

fn params(func: &Func) -> Vec<PtxParam> {
    let mut params = Vec::new();
    for param in &func.params {
        match param {
            Param::Tensor(tensor) => {
                params.push(PtxParam { name: pointer_name(param), ty: ParamType::U64 });
                let strides = 0..tensor.dims.len() - 1;
                params.extend(strides.map(|dim| PtxParam { name: stride_name(tensor, dim), ty: ParamType::U64 }));
            }
            Param::Scalar { name, elem } => {
                let ty = if *elem == Elem::F32 { ParamType::F32 } else { ParamType::U32 };
                params.push(PtxParam { name: name.clone(), ty });
            }
        }
    }
    params
}

/// Lowers a func.
pub(crate) fn lower(func: &Func) -> Result<Lowered, Error> {
    let internal = |message: &str| Error::Internal { pass: "lower", message: message.to_owned() };
    let part = func.partition.ok_or_else(|| internal("the func has no partition"))?;
    let lane_axes = crate::passes::lane_axes(func);
    let layout = Layout::new(func, scratch(func, part), lanes::scratch(func), parked::bytes(func, &func.body));
    let mut lower = Lower {
        func,
        part,
        e: Emit::new(),
        low: vec![None; func.values.len()],
        vars: Vec::new(),
        bests: Vec::new(),
        shared: layout,
        lane_axes,
        totals: HashMap::new(),
        placement: place::place(func),
        sums: HashMap::new(),
        counts: part.roles.map_or_else(HashSet::new, |_| crate::passes::never_negative(func)),
        maps: Vec::new(),
        ends: Vec::new(),
        group: None,
        gatherer: None,
        acquired: HashMap::new(),
        tile: None,
    };
    let shared = lower.shared.bytes;
    let limit = func.target.shared_per_cta();
    if shared > limit {
        return Err(Error::SharedMemory {
            kernel: func.name.clone(),
            pick: String::new(),
            target: func.target,
            needs: u64::from(shared),
            limit: u64::from(limit),
        });
    }
    let (state, lhs) = crate::passes::registers(func);
    lower.e.tight = state + lhs + scalars_through_loops(func) > TIGHT;
    lower.declare_vars();
    lower.declare_bests();
    if func.persist {
        lower.tile_after_tile(&func.body);
    } else {
        lower.body(&func.body);
    }
    lower.e.inst("ret", []);
    let gathers = !lower.gathered_rings(&func.body).is_empty();
    let maps = std::mem::take(&mut lower.maps);
    let (body, regs) = lower.e.finish();
    let threads = 32 * (func.warps + part.roles.map_or(0, |_| crate::passes::WARPGROUP));
    let mut entry = Entry {
        name: func.name.clone(),
        params: params(func).into_iter().chain(persist::params(func)).chain(maps.iter().map(Boxes::param)).collect(),
        limits: Limits { max_threads: Some([threads, 1, 1]), ..Limits::default() },
        regs,
        shared: Vec::new(),
        body,
    };
    let registers = match part.roles {
        None => entry.pressure() + SPARE,
        // What a consumer has less than a thread can have counts as taken.
        Some(roles) => {
            let spare = if func.overlap == Overlap::Deferred { DEFERRED } else { 0 };
            let uniform = if func.draws { BETWEEN_TILES } else { 0 };
            entry.pressure() - uniform + spare + MAX_REGISTERS.saturating_sub(roles.consumer)
        }
    };
    // Roles share out all registers of a multiprocessor.
    let by_registers = part.roles.map_or_else(|| resident(func, shared, registers), |roles| roles.ctas);
    entry.limits.min_ctas = Some(by_registers);
    let resident = by_registers.min((limit + 1024) / (shared + 1024)).max(1);
    let memory = SharedArray { name: SHARED.to_owned(), align: 1024, bytes: None };
    let version = func.target.since().max(Version::new(7, 0));
    let module = Module { version, target: func.target, shared: vec![memory], entries: vec![entry] };
    Ok(Lowered {
        module,
        shared,
        threads,
        registers,
        resident,
        persists: func.persist,
        draws: func.draws,
        gathers,
        maps,
    })
}

/// Registers of tiles and scalars above which addresses are worked out anew where they are used. Below, ptxas (13.0) finds
/// room for them in 255 registers; working them out costs a causal forward of width 128 about 3%.
const TIGHT: u32 = 230;

/// Scalars that are made before a loop and read in it: each holds a register through it.
fn scalars_through_loops(func: &Func) -> u32 {
    let scalar = |v: &ValueId| func.values[v.index()].ty.rank() == 0;
    let mut most = 0;
    for (at, stmt) in func.body.iter().enumerate() {
        if !matches!(stmt.op, Op::For { .. }) {
            continue;
        }
        let made: HashSet<ValueId> = func.body[..at]
            .iter()
            .filter(|s| !matches!(s.op, Op::Const(_)))
            .filter_map(|s| s.result)
            .filter(scalar)
            .collect();
        let mut read = HashSet::new();
        crate::passes::visit(std::slice::from_ref(stmt), &mut |s| {
            read.extend(crate::passes::operands(&s.op).into_iter().filter(|v| made.contains(v)));
        });
        most = most.max(read.len() as u32);
    }
    most
}

/// Registers that ptxas (13.0) needs beside those that are live at once: with fewer it spills, at every pick of what ships.
const SPARE: u32 = 15;

/// The same for consumers whose products are deferred: ptxas moves the arithmetic of a round into the next one's product. In other
/// orders consumers need none.
const DEFERRED: u32 = 42;

/// Registers that count from tile to tile, where tiles are drawn, and are the same in all lanes: ptxas has them, and what is made of
/// them, in those that a warp has once.
const BETWEEN_TILES: u32 = 4;

/// CTAs that should fit on a multiprocessor at once, which caps the registers that ptxas may take: what shared memory
/// allows, as far as the estimates of registers allow it too. `registers` are those without which it spills.
fn resident(func: &Func, shared: u32, registers: u32) -> u32 {
    let (state, lhs) = crate::passes::registers(func);
    let regs = (state + lhs + lanes::live(func) + 56).max(registers).min(255).next_multiple_of(8);
    let by_regs = 65536 / (32 * func.warps * regs);
    let by_shared = (func.target.shared_per_cta() + 1024) / (shared + 1024);
    by_regs.min(by_shared).clamp(1, 32)
}

/// Shared memory that merges take, over the buffers of loops that have ended.
fn scratch(func: &Func, part: Partition) -> u32 {
    let mut bytes = 0;
    crate::passes::visit(&func.body, &mut |stmt| {
        if let Op::Merge { max, acc, .. } = stmt.op {
            let extent = |axis: crate::ir::AxisId| func.axes[axis.index()].extent;
            let features = acc.map_or(0, |acc| extent(func.vars[acc.index()].ty.axes[1]));
            bytes = bytes.max(merge::scratch_bytes(extent(func.vars[max.index()].ty.axes[0]), features, part.cols));
        }
    });
    bytes
}

impl Lower<'_> {
    fn bands(&self) -> usize {
        let extent = self.part.row_axis.map_or(0, |axis| self.func.axes[axis.index()].extent);
        (extent / (16 * self.part.rows)) as usize
    }

    fn col_blocks(&self) -> usize {
        let extent = self.part.col_axis.map_or(0, |axis| self.func.axes[axis.index()].extent);
        (extent / self.part.cols) as usize / 8
    }

    fn tid(&mut self) -> Reg {
        self.e.invariant(Class::B32, "mov.u32", [Special::Tid(0).into()])
    }

    fn lane(&mut self) -> Reg {
        let tid = self.tid();
        self.e.invariant(Class::B32, "and.b32", [tid.into(), 31i64.into()])
    }

    /// This warp's place in the grid of warps: along rows, along columns.
    fn warp_grid(&mut self) -> (Operand, Operand) {
        let tid = self.tid();
        let warp = self.e.invariant(Class::B32, "shr.u32", [tid.into(), 5i64.into()]);
        match (self.part.rows, self.part.cols) {
            (1, 1) => (Operand::Int(0), Operand::Int(0)),
            (_, 1) => (warp.into(), Operand::Int(0)),
            (1, _) => (Operand::Int(0), warp.into()),
            (_, cols) => {
                let cols = i64::from(cols);
                let row = self.e.invariant(Class::B32, "div.u32", [warp.into(), cols.into()]);
                let col = self.e.invariant(Class::B32, "rem.u32", [warp.into(), cols.into()]);
                (row.into(), col.into())
            }
        }
    }

    /// The row of the tile that a lane has in a half of a band.
    fn row(&mut self, band: usize, half: usize) -> Operand {
        let lane = self.near_lane();
        let in_band = self.e.cheap(Class::B32, "shr.u32", [lane.into(), 2i64.into()]);
        let (warp_row, _) = self.warp_grid();
        let rows = self.bands() as i64 * 16;
        let first = self.e.mul(warp_row, rows);
        let base = self.near_sum(in_band.into(), first);
        match band * 16 + half * 8 {
            0 => base,
            ahead => self.e.local(Class::B32, "add.s32", [base, (ahead as i64).into()]).into(),
        }
    }

    /// The column of the tile that a lane has in a pair of a block of 8.
    fn column(&mut self, block: usize, pair: usize) -> Operand {
        let lane = self.near_lane();
        let quad = self.e.cheap(Class::B32, "and.b32", [lane.into(), 3i64.into()]);
        let base = self.e.cheap(Class::B32, "shl.b32", [quad.into(), 1i64.into()]);
        let (_, warp_col) = self.warp_grid();
        let first = self.e.mul(warp_col, self.col_blocks() as i64 * 8);
        let base = self.near_sum(base.into(), first);
        match block * 8 + pair {
            0 => base,
            ahead => self.e.local(Class::B32, "add.s32", [base, (ahead as i64).into()]).into(),
        }
    }

    fn near_lane(&mut self) -> Reg {
        let tid = self.tid();
        self.e.cheap(Class::B32, "and.b32", [tid.into(), 31i64.into()])
    }

    fn near_sum(&mut self, a: Operand, b: Operand) -> Operand {
        match b {
            Operand::Int(0) => a,
            b => self.e.cheap(Class::B32, "add.s32", [a, b]).into(),
        }
    }

    /// The registers of a var that a value may be made in.
    fn home(&self, value: ValueId) -> Option<Vec<Reg>> {
        self.placement.made_in.get(&value).map(|var| self.vars[var.index()].regs().to_vec())
    }

    fn declare_vars(&mut self) {
        for var in &self.func.vars {
            let kind = class(var.ty.elem);
            let regs = match var.ty.axes.as_slice() {
                [] => VarRegs::Scalar(self.e.mutable(kind)),
                [axis] if self.lane_axes[axis.index()] => VarRegs::Lanes(self.e.mutables(kind, self.lane_regs(*axis))),
                [axis] if Some(*axis) == self.part.row_axis => VarRegs::Rows(self.e.mutables(kind, self.bands() * 2)),
                [_] => VarRegs::Cols(self.e.mutables(kind, self.col_blocks() * 2)),
                _ if matches!(var.ty.elem, Elem::Bf16 | Elem::F16) => {
                    let (blocks, split) = self.blocks_of(&var.ty);
                    VarRegs::Packed(Tile { regs: self.e.mutables(kind, self.bands() * blocks * 2), blocks, split })
                }
                _ => {
                    let (blocks, split) = self.blocks_of(&var.ty);
                    VarRegs::Tile(Tile { regs: self.e.mutables(kind, self.bands() * blocks * 4), blocks, split })
                }
            };
            self.vars.push(regs);
        }
        // Roles set what they have.
        if self.part.roles.is_none() {
            (0..self.vars.len()).for_each(|var| self.set_first(VarId(var as u32)));
        }
    }

    /// Sets a var to what it holds first.
    fn set_first(&mut self, id: VarId) {
        let var = &self.func.vars[id.index()];
        self.e.from(var.loc, &format!("var {}", var.name));
        let first = if let VarRegs::Packed(_) = self.vars[id.index()] { 0i64.into() } else { immediate(var.init) };
        for reg in self.vars[id.index()].regs().to_vec() {
            self.e.mov(reg, Operand::clone(&first));
        }
    }

    fn body(&mut self, stmts: &[Stmt]) {
        for stmt in stmts {
            self.stmt(stmt);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        if !matches!(stmt.op, Op::Const(_) | Op::Read(_) | Op::Shared(..) | Op::Param(_)) {
            self.e.from(stmt.loc, word(&stmt.op));
        }
        if stmt.result.is_some_and(|result| self.placement.by_the_way.contains(&result)) {
            return;
        }
        let made = |stmt: &Stmt| stmt.result.expect("this operation makes a value");
        match &stmt.op {
            Op::Const(c) => self.set(made(stmt), Low::Const(*c)),
            Op::Param(id) => {
                let reg = self.scalar_param(*id);
                self.set(made(stmt), Low::Scalar(reg));
            }
            Op::ProgramId(dim) if let Some(tile) = &self.tile => {
                let place = tile.place[usize::from(*dim)];
                self.set(made(stmt), Low::Scalar(place));
            }
            Op::ProgramId(dim) => {
                let reg = self.e.invariant(Class::B32, "mov.u32", [Special::Ctaid(*dim).into()]);
                self.set(made(stmt), Low::Scalar(reg));
            }
            Op::Convert(x) if matches!(self.ty(made(stmt)).elem, Elem::Bf16 | Elem::F16) => {
                let result = made(stmt);
                if self.placement.stepped.contains_key(&result) {
                    return self.set(result, Low::Stepped(*x));
                }
                self.pack(*x, self.ty(result).elem, result);
            }
            Op::Convert(x) if matches!(self.ty(*x).elem, Elem::Bf16 | Elem::F16) => self.unpack(*x, made(stmt)),
            Op::Unary(..) | Op::Binary(..) | Op::Compare(..) | Op::Select(..) | Op::Fma(..) | Op::Convert(_) => {
                self.arithmetic(stmt);
            }
            Op::Broadcast(_) | Op::Iota(_) => self.set(made(stmt), Low::Lazy(stmt.op.clone())),
            Op::Reduce(op, x) => self.reduce(*op, *x, made(stmt)),
            Op::Element { tensor, index } => {
                let result = made(stmt);
                if self.placement.lazy.contains(&result) {
                    return self.set(result, Low::Lazy(stmt.op.clone()));
                }
                if self.ty(result).rank() == 1 {
                    return self.lane_elements(*tensor, index, result);
                }
                let reg = self.table_element(*tensor, index);
                self.set(result, Low::Scalar(reg));
            }
            Op::Segment { table, row, segments, at } => {
                let (segments, at) = (self.scalar(*segments), self.scalar(*at));
                let reg = self.segment(*table, row, segments, at);
                self.set(made(stmt), Low::Scalar(reg));
            }
            Op::Fold(op, x) => self.fold_lanes(*op, *x, made(stmt)),
            Op::Scan(x) => self.scan_lanes(*x, made(stmt)),
            Op::Total(scan) => {
                let total = self.totals[scan];
                self.set(made(stmt), Low::Scalar(total));
            }
            Op::SetElement { tensor, index, value, keep } => self.set_elements(*tensor, index, *value, *keep),
            Op::TableGet { table, index } => self.table_get(*table, *index, made(stmt)),
            Op::TableSet { table, index, value, keep } => self.table_set(*table, *index, *value, *keep),
            Op::TableAdd { table, index, value, keep } => self.table_add(*table, *index, *value, *keep),
            Op::CountUp { table, key, keep } => self.count_up(*table, *key, *keep, made(stmt)),
            Op::Take { best, scores, first, after } => self.take(*best, *scores, *first, *after),
            Op::Settle(best) => self.settle(*best),
            Op::Clear(best) => self.clear(*best),
            Op::BestColumn(best, n) => self.read_best(*best, *n, Class::B32, made(stmt)),
            Op::BestScore(best, n) => self.read_best(*best, *n, Class::F32, made(stmt)),
            Op::Store(slice, value) => {
                if self.ty(*value).rank() == 2 && self.ty(*value).elem == Elem::F32 {
                    self.store_numbers(slice, *value);
                } else if self.ty(*value).rank() == 2 {
                    self.store_tile(slice, *value);
                } else {
                    self.store_rows(slice, *value);
                }
            }
            Op::Dot(lhs, rhs) => {
                let result = made(stmt);
                let (blocks, split) = self.blocks_of(self.ty(result));
                let count = self.bands() * blocks * 4;
                let regs = self.home(result).unwrap_or_else(|| self.e.mutables(Class::F32, count));
                let tile = Tile { regs, blocks, split };
                self.product(&tile, *lhs, *rhs, true);
                self.set(result, Low::Tile(tile));
            }
            Op::Accumulate(var, lhs, rhs) => {
                let VarRegs::Tile(acc) = self.vars[var.index()].clone() else { unreachable!("verified: a tile") };
                self.product(&acc, *lhs, *rhs, false);
            }
            Op::Read(var) => self.read(*var, made(stmt)),
            Op::Write(var, value) => self.write(*var, *value),
            Op::Merge { max, sum, acc, scale } => {
                let scale = self.scalar(*scale);
                let total = self.merge(*max, *sum, *acc, scale);
                self.set(made(stmt), Low::Rows(total));
            }
            Op::For { index, lo, hi, body, .. } => self.for_loop(*index, *lo, *hi, body),
            Op::If { cond, body } => self.branch(*cond, body),
            Op::Exit(cond) => match self.scalar(*cond) {
                Operand::Int(0) => {}
                cond => {
                    let cond = self.in_predicate(cond);
                    match self.tile.as_ref().map(|tile| tile.next.clone()) {
                        Some(next) => self.e.guarded((cond, false), "bra", [Operand::Label(next)]),
                        None => self.e.guarded((cond, false), "ret", []),
                    }
                }
            },
            Op::CopyAsync { from, buffer, slot } => {
                let slot = self.scalar(*slot);
                self.copy_async(from, *buffer, slot);
            }
            Op::Commit => self.e.inst("cp.async.commit_group", []),
            Op::Wait(groups) => self.e.inst("cp.async.wait_group", [i64::from(*groups).into()]),
            Op::Barrier => self.meet_all(),
            Op::Shared(buffer, slot) => {
                let slot = self.scalar(*slot);
                self.set(made(stmt), Low::Shared(*buffer, slot));
            }
            Op::Operand(shared) => self.operand(*shared, made(stmt)),
            Op::Produce(body) => {
                let fetch = |lower: &mut Self| {
                    lower.set_vars(body, false);
                    lower.body(body);
                };
                self.part(&[], fetch, |_| ());
            }
            Op::Consume(body) => {
                self.begin_consumers(body);
                self.body(body);
            }
            Op::Acquire { buffer, slot, phase } => self.acquire(*buffer, *slot, *phase),
            Op::Fill { from, buffer, slot } if self.func.is_gathered(from) => self.gather(from, *buffer, *slot),
            Op::Fill { from, buffer, slot } => self.fill(from, *buffer, *slot),
            Op::Await { buffer, slot, phase } => self.await_full(*buffer, *slot, *phase),
            Op::Release { buffer, slot } => self.release(*buffer, *slot),
            Op::Publish => self.e.inst("fence.proxy.async.shared::cta", []),
            Op::Fence => self.e.inst("wgmma.fence.sync.aligned", []),
            Op::Start { acc, lhs, rhs, fresh } => self.start(*acc, *lhs, *rhs, *fresh),
            Op::Close => self.e.inst("wgmma.commit_group.sync.aligned", []),
            Op::Land(groups) => self.e.inst("wgmma.wait_group.sync.aligned", [i64::from(*groups).into()]),
            Op::Hold(values) => self.hold(values),
            Op::Turn => self.turn(),
            Op::Pass => self.pass(),
            Op::Loop(body) => self.endless(body),
            Op::Leave { cond, body } => self.leave(*cond, body),
            Op::Again { .. } => unreachable!("verified: it stands in a loop, which lowers it"),
            // `layout` leaves no other loads of two axes.
            Op::Load(slice) if self.ty(made(stmt)).rank() == 2 => self.load_numbers(slice, made(stmt)),
            Op::Load(slice) => self.load_rows(slice, made(stmt)),
        }
    }

    fn read(&mut self, var: VarId, result: ValueId) {
        let held = self.vars[var.index()].clone();
        let low = match &held {
            // A scalar's copy is what lets its addresses be shared; ptxas drops it.
            VarRegs::Scalar(reg) => {
                let copy = self.e.reg(reg.class);
                self.e.mov(copy, (*reg).into());
                Low::Scalar(copy)
            }
            _ if self.placement.copied.contains(&result) => {
                let copies: Vec<Reg> = held.regs().iter().map(|reg| self.e.reg(reg.class)).collect();
                self.e.copy(&copies, held.regs());
                held.with(copies)
            }
            _ => held.low(),
        };
        self.set(result, low);
    }

    fn write(&mut self, var: VarId, value: ValueId) {
        if self.placement.made_in.get(&value) == Some(&var) {
            return;
        }
        let held = self.vars[var.index()].clone();
        match &held {
            VarRegs::Scalar(reg) => {
                let value = self.scalar(value);
                if reg.class == Class::Pred {
                    let value = self.in_predicate(value);
                    self.e.mov(*reg, value.into());
                } else {
                    self.e.mov(*reg, value);
                }
            }
            VarRegs::Rows(regs) | VarRegs::Cols(regs) | VarRegs::Lanes(regs) => {
                for (i, &reg) in regs.iter().enumerate() {
                    let at = match held {
                        VarRegs::Rows(_) => value::Cell { band: i / 2, block: 0, cell: (i % 2) * 2 },
                        VarRegs::Cols(_) => value::Cell { band: 0, block: i / 2, cell: i % 2 },
                        _ => value::Cell::lane(i),
                    };
                    let element = self.element(value, at);
                    self.e.mov(reg, element);
                }
            }
            VarRegs::Packed(tile) => {
                let Low::Packed(from) = self.get(value).clone() else { unreachable!("verified: a 16-bit tile") };
                self.e.copy(&tile.regs, &from.regs);
            }
            VarRegs::Tile(tile) => {
                for (i, &reg) in tile.regs.iter().enumerate() {
                    let (band, block) = (i / (tile.blocks * 4), i / 4 % tile.blocks);
                    let element = self.element(value, value::Cell { band, block, cell: i % 4 });
                    self.e.mov(reg, element);
                }
            }
        }
    }
}

/// What a statement does, in a comment.
fn word(op: &Op) -> &'static str {
    match op {
        Op::Dot(..) => "dot",
        Op::Accumulate(..) => "accumulate",
        Op::CopyAsync { .. } => "copy",
        Op::Operand(_) => "operand",
        Op::Store(..) => "store",
        Op::Merge { .. } => "merge",
        Op::Reduce(crate::ir::Reduce::Max, _) => "row max",
        Op::Reduce(crate::ir::Reduce::Sum, _) => "row sum",
        Op::Element { .. } | Op::SetElement { .. } => "element",
        Op::Fold(..) => "reduction",
        Op::Scan(_) | Op::Total(_) => "prefix sum",
        Op::TableGet { .. } | Op::TableSet { .. } | Op::TableAdd { .. } => "table",
        Op::CountUp { .. } => "count",
        Op::Take { .. } => "take",
        Op::Settle(_) => "settle",
        Op::Clear(_) => "clear",
        Op::Segment { .. } => "segment",
        Op::For { .. } | Op::Loop(_) | Op::Leave { .. } | Op::Again { .. } => "loop",
        Op::If { .. } => "branch",
        Op::Exit(_) => "end",
        Op::Write(..) => "write",
        Op::Commit | Op::Wait(_) | Op::Barrier | Op::Publish => "pipeline",
        Op::Produce(_) => "producer",
        Op::Consume(_) => "consumers",
        Op::Acquire { .. } | Op::Await { .. } => "wait",
        Op::Release { .. } => "release",
        Op::Fill { .. } => "fill",
        Op::Start { .. } | Op::Fence | Op::Close => "product",
        Op::Land(_) | Op::Hold(_) => "landing",
        Op::Turn | Op::Pass => "turn",
        Op::Convert(_) => "convert",
        Op::Iota(_) => "index",
        _ => "arithmetic",
    }
}
