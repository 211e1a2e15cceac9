//! Tables in shared memory: set, read, added to and counted up by lane tiles.
//!
//! A place outside of the table is never touched. Before each operation all threads of the CTA meet, so that it sees what
//! was done before; one warp meets without a barrier of the CTA.

use lacuna_ptx::{Class, Operand, Reg};

use super::lanes::Keep;
use super::value::{Cell, Low};
use super::{Emit, Lower};
use crate::ir::{TableId, ValueId};

/// Every lane of a warp.
const ALL: i64 = 0xffff_ffff;

impl Lower<'_> {
    /// All threads are here, and what they did to shared memory is seen.
    fn meet(&mut self) {
        match self.func.warps {
            1 => self.e.inst("bar.warp.sync", [ALL.into()]),
            _ => self.e.inst("bar.sync", [0i64.into()]),
        }
    }

    /// Where a place of a table is, and whether it is one.
    fn place(&mut self, table: TableId, index: Operand) -> (Operand, Reg) {
        let extent = self.func.axes[self.func.tables[table.index()].axis.index()].extent;
        let index = self.e.in_reg(Class::B32, index);
        let memory = self.memory();
        let address = self.e.local(Class::B32, "mad.lo.s32", [index.into(), 4i64.into(), memory.into()]);
        let inside = self.e.local(Class::Pred, "setp.lt.u32", [index.into(), i64::from(extent).into()]);
        (Emit::at(address, self.shared.table(table)), inside)
    }

    /// What a table holds.
    pub(super) fn table_get(&mut self, table: TableId, index: ValueId, result: ValueId) {
        let axis = self.ty(index).axes.first().copied();
        self.meet();
        let mut regs = Vec::new();
        for register in 0..axis.map_or(1, |axis| self.lane_regs(axis)) {
            let at = self.element(index, Cell::lane(register));
            let (from, inside) = self.place(table, at);
            let there = axis.map_or(Keep::Always, |axis| self.there(axis, register));
            let there = self.and(there, Keep::Where(inside));
            regs.push(self.loaded(&there, Class::B32, "ld.shared.b32", from));
        }
        self.set(result, if axis.is_some() { Low::Lanes(regs) } else { Low::Scalar(regs[0]) });
    }

    /// Sets a table.
    pub(super) fn table_set(&mut self, table: TableId, index: ValueId, value: ValueId, keep: ValueId) {
        self.table_change("st.shared.b32", table, index, value, keep);
    }

    /// Adds to a table: in any order, so that nobody need find whose places are alike.
    pub(super) fn table_add(&mut self, table: TableId, index: ValueId, value: ValueId, keep: ValueId) {
        self.table_change("red.shared.add.u32", table, index, value, keep);
    }

    fn table_change(&mut self, how: &'static str, table: TableId, index: ValueId, value: ValueId, keep: ValueId) {
        let axis = self.axis_of(&[index, value, keep]);
        self.meet();
        for (cell, there) in self.stored(axis) {
            let wanted = Self::truth(self.element(keep, cell));
            let keep = self.and(there, wanted);
            let at = self.element(index, cell);
            let (to, inside) = self.place(table, at);
            let keep = self.and(keep, Keep::Where(inside));
            let element = self.element(value, cell);
            let element = self.e.in_reg(Class::B32, element);
            self.kept(&keep, how, vec![to, element.into()]);
        }
    }

    /// The lanes that count whose keys are this lane's: bit by bit, those that have the bit alike. (`match.any` says the same, and
    /// takes an H200 longer, as it goes from value to value.)
    fn alike(&mut self, table: TableId, key: Operand, counts: Reg) -> Reg {
        let extent = self.func.axes[self.func.tables[table.index()].axis.index()].extent;
        let mut same = self.e.op(Class::B32, "vote.sync.ballot.b32", [counts.into(), ALL.into()]);
        let key = self.e.in_reg(Class::B32, key);
        for bit in 0..extent.next_power_of_two().trailing_zeros() {
            let bit = self.e.op(Class::B32, "and.b32", [key.into(), (1i64 << bit).into()]);
            let zero = self.e.op(Class::Pred, "setp.eq.s32", [bit.into(), 0i64.into()]);
            let zeros = self.e.op(Class::B32, "vote.sync.ballot.b32", [zero.into(), ALL.into()]);
            let others = self.e.op(Class::B32, "selp.b32", [0i64.into(), ALL.into(), zero.into()]);
            let alike = self.e.op(Class::B32, "xor.b32", [zeros.into(), others.into()]);
            same = self.e.op(Class::B32, "and.b32", [same.into(), alike.into()]);
        }
        same
    }

    /// Counts keys in their order: 32 elements at a time, the lanes of one key find each other, each takes its place after
    /// those before it, and the first adds them all.
    pub(super) fn count_up(&mut self, table: TableId, key: ValueId, keep: ValueId, result: ValueId) {
        struct Counted {
            place: Operand,
            counts: Reg,
            rank: Reg,
            same: Reg,
            first: Reg,
        }
        let axis = self.ty(key).axes[0];
        let before = self.lanes_before();
        // What needs no table comes first, for all registers: it does not wait for the one before.
        let mut counted = Vec::with_capacity(self.lane_regs(axis));
        for register in 0..self.lane_regs(axis) {
            let at = self.element(key, Cell::lane(register));
            let (place, inside) = self.place(table, at.clone());
            let wanted = Self::truth(self.element(keep, Cell::lane(register)));
            let there = self.there(axis, register);
            let keep = self.and(there, wanted);
            let keep = self.and(keep, Keep::Where(inside));
            let Keep::Where(counts) = keep else {
                counted.push(None);
                continue;
            };
            let same = self.alike(table, at, counts);
            let below = self.e.op(Class::B32, "and.b32", [same.into(), before.into()]);
            let rank = self.e.op(Class::B32, "popc.b32", [below.into()]);
            let same = self.e.op(Class::B32, "popc.b32", [same.into()]);
            let first = self.e.op(Class::Pred, "setp.eq.s32", [below.into(), 0i64.into()]);
            let first = self.e.op(Class::Pred, "and.pred", [first.into(), counts.into()]);
            counted.push(Some(Counted { place, counts, rank, same, first }));
        }
        let mut regs = Vec::with_capacity(counted.len());
        for counted in counted {
            let Some(Counted { place, counts, rank, same, first }) = counted else {
                regs.push(self.e.in_reg(Class::B32, 0i64.into()));
                continue;
            };
            self.meet();
            let held = self.loaded(&Keep::Where(counts), Class::B32, "ld.shared.b32", place.clone());
            let after = self.e.op(Class::B32, "add.s32", [held.into(), same.into()]);
            // All have read the count before the first lane changes it.
            self.meet();
            self.e.guarded((first, false), "st.shared.b32", [place, after.into()]);
            let at = self.e.op(Class::B32, "add.s32", [held.into(), rank.into()]);
            regs.push(self.e.op(Class::B32, "selp.b32", [at.into(), 0i64.into(), counts.into()]));
        }
        self.set(result, Low::Lanes(regs));
    }
}
