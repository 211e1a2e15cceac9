//! Lane tiles: elements across the threads of a CTA, element `i` in thread `i % threads`, register `i / threads`.
//!
//! Where the extent is no multiple of the threads, the last register of some threads has no element: what it holds is
//! nobody's, it is neither loaded nor stored, and reductions put in its place what changes nothing.
//!
//! Warps tell each other through shared memory, a part of which is there for nothing else: all wait, leave their part, wait,
//! and read what the others left. One warp alone needs neither.

use std::collections::HashMap;

use lacuna_ptx::{Class, Operand, Reg};

use super::value::{Cell, Low};
use super::{Emit, Lower};
use crate::ir::{AxisId, Binary, Elem, Fold, Func, Op, ParamId, Type, ValueId};

/// Every lane of a warp.
const ALL: i64 = 0xffff_ffff;

/// A NaN as every instruction makes it: `min` and `max` give the other operand.
const NAN: u32 = 0x7fff_ffff;

/// Whether something is done to an element.
pub(super) enum Keep {
    Never,
    Always,
    Where(Reg),
}

/// Registers that a thread has of a tile over an axis.
fn regs_of(func: &Func, axis: AxisId) -> usize {
    func.axes[axis.index()].extent.div_ceil(32 * func.warps) as usize
}

/// The parts of a register that warps leave for a prefix sum: one a warp, up to a power of two.
fn parts(func: &Func) -> u32 {
    func.warps.next_power_of_two()
}

/// Shared memory in which warps leave each other their parts of reductions and prefix sums.
pub(super) fn scratch(func: &Func) -> u32 {
    if func.warps == 1 {
        return 0;
    }
    let mut words = 0;
    crate::passes::visit(&func.body, &mut |stmt| {
        words = words.max(match stmt.op {
            Op::Fold(..) => func.warps,
            Op::Scan(x) => parts(func) * regs_of(func, func.values[x.index()].ty.axes[0]) as u32,
            _ => 0,
        });
    });
    4 * words
}

/// Registers that a thread needs for lane tiles, at the place where it needs most: vars, and values between where they are
/// made and last read. Truth values are in predicates.
pub(super) fn live(func: &Func) -> u32 {
    let lanes = crate::passes::lane_axes(func);
    let held = |ty: &Type| match ty.axes.as_slice() {
        [axis] if lanes[axis.index()] && ty.elem != Elem::Bool => regs_of(func, *axis) as u32,
        _ => 0,
    };
    // What is read through values that are computed where they are used, is read there.
    let mut reads: HashMap<ValueId, Vec<ValueId>> = HashMap::new();
    let mut lives: HashMap<ValueId, (usize, usize)> = HashMap::new();
    let mut at = 0;
    crate::passes::visit(&func.body, &mut |stmt| {
        at += 1;
        let mut read = crate::passes::operands(&stmt.op);
        while let Some(value) = read.pop() {
            match reads.get(&value) {
                Some(through) => read.extend(through),
                None => {
                    lives.entry(value).and_modify(|(_, last)| *last = at);
                }
            }
        }
        match (&stmt.op, stmt.result) {
            (Op::Broadcast(x), Some(result)) => {
                reads.insert(result, vec![*x]);
            }
            (Op::Iota(_), Some(result)) => {
                reads.insert(result, Vec::new());
            }
            (_, Some(result)) => {
                lives.insert(result, (at, at));
            }
            _ => {}
        }
    });
    let mut change = vec![0i64; at + 2];
    for (value, (first, last)) in lives {
        let held = i64::from(held(&func.values[value.index()].ty));
        change[first] += held;
        change[last + 1] -= held;
    }
    let most = change.iter().scan(0, |live, change| {
        *live += change;
        Some(*live)
    });
    let vars: u32 = func.vars.iter().map(|var| held(&var.ty)).sum();
    vars + most.max().unwrap_or(0) as u32
}

impl Lower<'_> {
    fn threads(&self) -> u32 {
        32 * self.func.warps
    }

    /// Registers that a thread has of a lane tile.
    pub(super) fn lane_regs(&self, axis: AxisId) -> usize {
        regs_of(self.func, axis)
    }

    /// Which element a register of this thread is.
    pub(super) fn lane_position(&mut self, register: usize) -> Operand {
        let tid = self.tid();
        match register as i64 * i64::from(self.threads()) {
            0 => tid.into(),
            ahead => self.e.cheap(Class::B32, "add.s32", [tid.into(), ahead.into()]).into(),
        }
    }

    /// Whether a register of this thread is an element of the tile.
    pub(super) fn there(&mut self, axis: AxisId, register: usize) -> Keep {
        let extent = self.func.axes[axis.index()].extent;
        if (register as u32 + 1) * self.threads() <= extent {
            return Keep::Always;
        }
        let position = self.lane_position(register);
        Keep::Where(self.e.cheap(Class::Pred, "setp.lt.u32", [position, i64::from(extent).into()]))
    }

    /// Both.
    pub(super) fn and(&mut self, a: Keep, b: Keep) -> Keep {
        match (a, b) {
            (Keep::Never, _) | (_, Keep::Never) => Keep::Never,
            (Keep::Always, other) | (other, Keep::Always) => other,
            (Keep::Where(a), Keep::Where(b)) => Keep::Where(self.e.op(Class::Pred, "and.pred", [a.into(), b.into()])),
        }
    }

    pub(super) fn truth(operand: Operand) -> Keep {
        match operand {
            Operand::Int(0) => Keep::Never,
            Operand::Reg(reg) => Keep::Where(reg),
            _ => Keep::Always,
        }
    }

    /// An instruction where an element is kept.
    pub(super) fn kept(&mut self, keep: &Keep, form: &'static str, operands: Vec<Operand>) {
        match keep {
            Keep::Never => {}
            Keep::Always => self.e.inst(form, operands),
            Keep::Where(guard) => self.e.guarded((*guard, false), form, operands),
        }
    }

    /// A new register from memory where the element is kept, and zero elsewhere.
    pub(super) fn loaded(&mut self, keep: &Keep, class: Class, form: &'static str, from: Operand) -> Reg {
        let reg = self.e.reg(class);
        if !matches!(keep, Keep::Always) {
            let zero = if class == Class::F32 { 0f32.into() } else { 0i64.into() };
            self.e.mov(reg, zero);
        }
        self.kept(keep, form, vec![reg.into(), from]);
        reg
    }

    /// The axis of the lane tiles among some values.
    pub(super) fn axis_of(&self, values: &[ValueId]) -> Option<AxisId> {
        values.iter().find_map(|&value| self.ty(value).axes.first().copied())
    }

    /// The places of a store: of all threads, or of the first one where a scalar is stored.
    pub(super) fn stored(&mut self, axis: Option<AxisId>) -> Vec<(Cell, Keep)> {
        match axis {
            Some(axis) => (0..self.lane_regs(axis)).map(|i| (Cell::lane(i), self.there(axis, i))).collect(),
            None => {
                let tid = self.tid();
                let first = self.e.cheap(Class::Pred, "setp.eq.s32", [tid.into(), 0i64.into()]);
                vec![(Cell::lane(0), Keep::Where(first))]
            }
        }
    }

    /// A quotient or remainder by a power of two, by shifts: ptxas divides.
    pub(super) fn shifted(&mut self, op: &Op, operands: &[Operand]) -> Option<Reg> {
        let (Op::Binary(op @ (Binary::Div | Binary::Rem), ..), [Operand::Reg(x), Operand::Int(by)]) = (op, operands)
        else {
            return None;
        };
        if x.class != Class::B32 || *by < 2 || by & (by - 1) != 0 {
            return None;
        }
        // Towards zero: what is negative is first made larger by all but one.
        let bits = i64::from(by.trailing_zeros());
        let sign = self.e.op(Class::B32, "shr.s32", [(*x).into(), 31i64.into()]);
        let ahead = self.e.op(Class::B32, "shr.u32", [sign.into(), (32 - bits).into()]);
        let sum = self.e.op(Class::B32, "add.s32", [(*x).into(), ahead.into()]);
        if *op == Binary::Div {
            return Some(self.e.op(Class::B32, "shr.s32", [sum.into(), bits.into()]));
        }
        let rest = self.e.op(Class::B32, "and.b32", [sum.into(), (by - 1).into()]);
        Some(self.e.op(Class::B32, "sub.s32", [rest.into(), ahead.into()]))
    }

    /// A lane tile of a tensor's elements.
    pub(super) fn lane_elements(&mut self, id: ParamId, index: &[ValueId], result: ValueId) {
        let axis = self.ty(result).axes[0];
        let (class, form) = self.read_only(id);
        let mut regs = Vec::with_capacity(self.lane_regs(axis));
        for register in 0..self.lane_regs(axis) {
            let at: Vec<Operand> = index.iter().map(|&i| self.element(i, Cell::lane(register))).collect();
            let address = self.element_address(id, &at);
            let there = self.there(axis, register);
            regs.push(self.loaded(&there, class, form, Emit::at(address, 0)));
        }
        self.set(result, Low::Lanes(regs));
    }

    /// Stores elements of a tensor where they are kept.
    pub(super) fn set_elements(&mut self, id: ParamId, index: &[ValueId], value: ValueId, keep: ValueId) {
        let mut values = index.to_vec();
        values.extend([value, keep]);
        let axis = self.axis_of(&values);
        for (cell, there) in self.stored(axis) {
            let wanted = Self::truth(self.element(keep, cell));
            let keep = self.and(there, wanted);
            if matches!(keep, Keep::Never) {
                continue;
            }
            let at: Vec<Operand> = index.iter().map(|&i| self.element(i, cell)).collect();
            let address = self.element_address(id, &at);
            let (class, form) = match self.ty(value).elem {
                Elem::F32 => (Class::F32, "st.global.f32"),
                _ => (Class::B32, "st.global.b32"),
            };
            let element = self.element(value, cell);
            let element = self.e.in_reg(class, element);
            self.kept(&keep, form, vec![Emit::at(address, 0), element.into()]);
        }
    }

    /// The register of an element, or what stands for one that is none.
    fn or_neutral(&mut self, x: ValueId, axis: AxisId, register: usize, neutral: Operand) -> Operand {
        let element = self.element(x, Cell::lane(register));
        let elem = self.ty(x).elem;
        match self.there(axis, register) {
            Keep::Where(there) => match elem {
                Elem::Bool => {
                    let truth = self.in_predicate(element);
                    self.e.op(Class::Pred, "and.pred", [truth.into(), there.into()]).into()
                }
                Elem::F32 => self.e.op(Class::F32, "selp.f32", [element, neutral, there.into()]).into(),
                _ => self.e.op(Class::B32, "selp.b32", [element, neutral, there.into()]).into(),
            },
            _ => element,
        }
    }

    /// A lane tile reduced to a scalar: over the registers of a thread, the lanes of a warp, the warps.
    pub(super) fn fold_lanes(&mut self, fold: Fold, x: ValueId, result: ValueId) {
        let (axis, elem) = (self.ty(x).axes[0], self.ty(x).elem);
        let (form, neutral) = match (fold, elem) {
            (Fold::Any, _) => ("or.pred", 0i64.into()),
            // Minus zero: plus zero would make a zero of a sum of minus zeros.
            (Fold::Sum, Elem::F32) => ("add.f32", (-0f32).into()),
            (Fold::Sum, _) => ("add.s32", 0i64.into()),
            (Fold::Min, Elem::F32) => ("min.f32", Operand::Float(NAN)),
            (Fold::Min, _) => ("min.s32", i64::from(i32::MAX).into()),
            (Fold::Max, Elem::F32) => ("max.f32", Operand::Float(NAN)),
            (Fold::Max, _) => ("max.s32", i64::from(i32::MIN).into()),
        };
        let class = super::class(elem);
        let mut own: Option<Reg> = None;
        for register in 0..self.lane_regs(axis) {
            let element = self.or_neutral(x, axis, register, neutral.clone());
            let element = if elem == Elem::Bool { self.in_predicate(element) } else { self.e.in_reg(class, element) };
            own = Some(match own {
                None => element,
                Some(own) => self.e.op(class, form, [own.into(), element.into()]),
            });
        }
        let own = own.expect("an axis has an element");
        let mut whole = self.fold_warp(fold, form, own);
        if self.func.warps > 1 {
            let truth = whole.class == Class::Pred;
            if truth {
                whole = self.e.op(Class::B32, "selp.b32", [1i64.into(), 0i64.into(), whole.into()]);
            }
            let neutral = if truth { 0i64.into() } else { neutral };
            let lane = self.lane();
            let first = self.e.cheap(Class::Pred, "setp.eq.s32", [lane.into(), 0i64.into()]);
            let warp = self.warp();
            let place = self.exchange(warp);
            self.e.inst("bar.sync", [0i64.into()]);
            let store = if whole.class == Class::F32 { "st.shared.f32" } else { "st.shared.b32" };
            self.e.guarded((first, false), store, [Emit::at(place, self.shared.exchange), whole.into()]);
            self.e.inst("bar.sync", [0i64.into()]);
            let warps = i64::from(self.func.warps);
            let one = self.e.cheap(Class::Pred, "setp.lt.u32", [lane.into(), warps.into()]);
            let place = self.exchange(lane);
            let part = self.e.reg(whole.class);
            self.e.mov(part, neutral);
            let load = if whole.class == Class::F32 { "ld.shared.f32" } else { "ld.shared.b32" };
            self.e.guarded((one, false), load, [part.into(), Emit::at(place, self.shared.exchange)]);
            whole = match truth {
                true => {
                    let any = self.fold_warp(Fold::Max, "max.s32", part);
                    self.e.op(Class::Pred, "setp.ne.s32", [any.into(), 0i64.into()])
                }
                false => self.fold_warp(fold, form, part),
            };
        }
        self.set(result, Low::Scalar(whole));
    }

    /// Combines a register over the lanes of a warp; every lane has the result.
    fn fold_warp(&mut self, fold: Fold, form: &'static str, mut reg: Reg) -> Reg {
        let whole = match (fold, reg.class) {
            (Fold::Any, _) => "vote.sync.any.pred",
            (_, Class::F32) => {
                // Both lanes of a pair make the same sum of the same two, so all 32 come to one.
                for distance in [1, 2, 4, 8, 16] {
                    let other = self.shuffle(reg, distance);
                    reg = self.e.op(Class::F32, form, [reg.into(), other.into()]);
                }
                return reg;
            }
            (Fold::Sum, _) => "redux.sync.add.s32",
            (Fold::Min, _) => "redux.sync.min.s32",
            (Fold::Max, _) => "redux.sync.max.s32",
        };
        self.e.op(reg.class, whole, [reg.into(), ALL.into()])
    }

    fn warp(&mut self) -> Reg {
        let tid = self.tid();
        self.e.invariant(Class::B32, "shr.u32", [tid.into(), 5i64.into()])
    }

    /// The address of a word of what warps exchange, less where that begins.
    fn exchange(&mut self, word: Reg) -> Reg {
        let memory = self.memory();
        self.e.cheap(Class::B32, "mad.lo.s32", [word.into(), 4i64.into(), memory.into()])
    }

    pub(super) fn memory(&mut self) -> Reg {
        self.e.invariant(Class::B32, "mov.u32", [Operand::Symbol(super::SHARED.to_owned())])
    }

    /// The sum over the lanes up to this one.
    fn scan_warp(&mut self, x: Operand) -> Reg {
        let lane = self.lane();
        let sum = self.e.reg(Class::B32);
        self.e.mov(sum, x);
        for distance in [1i64, 2, 4, 8, 16] {
            let reaches = self.e.cheap(Class::Pred, "setp.ge.u32", [lane.into(), distance.into()]);
            let operands = [sum.into(), distance.into(), 0i64.into(), ALL.into()];
            let other = self.e.op(Class::B32, "shfl.sync.up.b32", operands);
            self.e.guarded((reaches, false), "add.s32", [sum.into(), sum.into(), other.into()]);
        }
        sum
    }

    /// A register of one lane, in every lane.
    fn of_lane(&mut self, reg: Reg, lane: Operand) -> Reg {
        self.e.op(reg.class, "shfl.sync.idx.b32", [reg.into(), lane, 31i64.into(), ALL.into()])
    }

    /// The lanes before this one, as a mask.
    pub(super) fn lanes_before(&mut self) -> Reg {
        let lane = self.lane();
        let bit = self.e.cheap(Class::B32, "shl.b32", [1i64.into(), lane.into()]);
        self.e.cheap(Class::B32, "sub.s32", [bit.into(), 1i64.into()])
    }

    /// The exclusive prefix sum of a lane tile. Each register is one run of neighbouring elements over the whole CTA, so what
    /// comes before an element is: the registers before, then the warps before, then the lanes before.
    pub(super) fn scan_lanes(&mut self, x: ValueId, result: ValueId) {
        let axis = self.ty(x).axes[0];
        let count = self.lane_regs(axis);
        let mut before = Vec::with_capacity(count);
        let mut sums = Vec::with_capacity(count);
        for register in 0..count {
            let element = self.or_neutral(x, axis, register, 0i64.into());
            if self.ty(x).elem == Elem::Bool {
                let truth = self.in_predicate(element);
                let mask = self.e.op(Class::B32, "vote.sync.ballot.b32", [truth.into(), ALL.into()]);
                let lanes = self.lanes_before();
                let below = self.e.op(Class::B32, "and.b32", [mask.into(), lanes.into()]);
                before.push(self.e.op(Class::B32, "popc.b32", [below.into()]));
                sums.push(self.e.op(Class::B32, "popc.b32", [mask.into()]));
            } else {
                let up_to = self.scan_warp(element.clone());
                before.push(self.e.op(Class::B32, "sub.s32", [up_to.into(), element]));
                sums.push(up_to);
            }
        }
        // Of an i32 tile the last lane has the warp's sum, of a bool tile every lane.
        let (bases, total) = match self.func.warps {
            1 => self.bases_of_one_warp(&sums),
            _ => self.bases_of_warps(&sums),
        };
        let regs = before.into_iter().zip(bases).map(|(reg, base)| match base {
            Some(base) => self.e.op(Class::B32, "add.s32", [reg.into(), base.into()]),
            None => reg,
        });
        let regs = regs.collect();
        self.totals.insert(result, total);
        self.set(result, Low::Lanes(regs));
    }

    fn bases_of_one_warp(&mut self, sums: &[Reg]) -> (Vec<Option<Reg>>, Reg) {
        let mut bases = Vec::with_capacity(sums.len());
        let mut running: Option<Reg> = None;
        for &sum in sums {
            bases.push(running);
            let sum = self.of_lane(sum, 31i64.into());
            running = Some(match running {
                None => sum,
                Some(running) => self.e.op(Class::B32, "add.s32", [running.into(), sum.into()]),
            });
        }
        (bases, running.expect("an axis has an element"))
    }

    /// Every warp leaves the sum of each of its registers; then every warp makes the prefix sum of all of them, 32 at a time.
    fn bases_of_warps(&mut self, sums: &[Reg]) -> (Vec<Option<Reg>>, Reg) {
        let (parts, warps) = (i64::from(parts(self.func)), i64::from(self.func.warps));
        let exchange = self.shared.exchange;
        let (lane, warp) = (self.lane(), self.warp());
        let last = self.e.cheap(Class::Pred, "setp.eq.s32", [lane.into(), 31i64.into()]);
        let own = self.exchange(warp);
        self.e.inst("bar.sync", [0i64.into()]);
        for (register, &sum) in sums.iter().enumerate() {
            let to = Emit::at(own, exchange + 4 * register as u32 * parts as u32);
            self.e.guarded((last, false), "st.shared.b32", [to, sum.into()]);
        }
        self.e.inst("bar.sync", [0i64.into()]);

        let words = sums.len() as i64 * parts;
        let place = self.exchange(lane);
        let part = self.e.cheap(Class::B32, "and.b32", [lane.into(), (parts - 1).into()]);
        let mut scans = Vec::new();
        let mut running: Option<Reg> = None;
        for first in (0..words).step_by(32) {
            // A place behind the last word, or of a warp that is none, was not written.
            let mut filled = Keep::Always;
            if first + 32 > words {
                let left = self.e.cheap(Class::Pred, "setp.lt.u32", [lane.into(), (words - first).into()]);
                filled = Keep::Where(left);
            }
            if parts > warps {
                let one = self.e.cheap(Class::Pred, "setp.lt.u32", [part.into(), warps.into()]);
                filled = self.and(filled, Keep::Where(one));
            }
            let from = Emit::at(place, exchange + 4 * first as u32);
            let sum = self.loaded(&filled, Class::B32, "ld.shared.b32", from);
            let up_to = self.scan_warp(sum.into());
            let mut before = self.e.op(Class::B32, "sub.s32", [up_to.into(), sum.into()]);
            let mut all = self.of_lane(up_to, 31i64.into());
            if let Some(running) = running {
                before = self.e.op(Class::B32, "add.s32", [before.into(), running.into()]);
                all = self.e.op(Class::B32, "add.s32", [all.into(), running.into()]);
            }
            running = Some(all);
            scans.push(before);
        }
        let bases = (0..sums.len() as i64).map(|register| {
            let word = register * parts;
            let lane = self.e.add(warp.into(), (word % 32).into());
            Some(self.of_lane(scans[(word / 32) as usize], lane))
        });
        let bases = bases.collect();
        (bases, running.expect("an axis has an element"))
    }
}
