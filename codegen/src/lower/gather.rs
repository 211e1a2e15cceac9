//! Rows that are anywhere: gathered by asynchronous copies, scattered by stores.
//!
//! Where row `r` is, is a tree over `r`: its number, scalars, arithmetic, table elements. No tile of it is ever made: the tree
//! is worked out at the row that a thread is about to touch.
//!
//! Where CTAs persist, rows are gathered ahead by warps of the producer, one for each slot of the ring: a slot's warp waits until
//! the slot is empty, copies all of its rows, and arrives at its `full` barrier once they have landed and products can see
//! them. Every such warp goes through all tiles, so that each has as many tiles' time for a gather as there are slots.

use lacuna_ptx::{Class, Operand, Reg};

use super::Lower;
use super::shared::{CHUNK, PERIOD, TileLayout};
use super::value::{Low, Share};
use crate::ir::{BufferId, Op, Slice, Stmt, ValueId};

/// Which lane of a warp works out the first of the rows that the warp copies in a pass.
fn lane_of(tile: TileLayout, pass: u32) -> u32 {
    pass * (32 / tile.panel()) % 32
}

impl Lower<'_> {
    /// One element of a tile over rows, worked out at a row.
    fn at_row(&mut self, value: ValueId, row: &Operand) -> Operand {
        let Low::Lazy(op) = self.get(value).clone() else { return self.scalar(value) };
        let operands = match op {
            Op::Iota(_) => return row.clone(),
            Op::Broadcast(x) => return self.at_row(x, row),
            _ => crate::passes::operands(&op),
        };
        let operands: Vec<Operand> = operands.into_iter().map(|v| self.at_row(v, row)).collect();
        if let Op::Element { tensor, .. } = op {
            return self.tile_element(tensor, &operands).into();
        }
        let source = self.source_elem(&op);
        self.compute(&op, self.ty(value).elem, source, operands, None, Share::Level)
    }

    /// Where a row is, from where the indices that are the same for every row lead to.
    fn row_address(&mut self, slice: &Slice, mut base: Reg, row: &Operand) -> Reg {
        if let Some(along) = slice.along {
            base = self.step(base, slice.tensor, along, row.clone());
        }
        for (dim, &index) in slice.index.iter().enumerate().filter(|(_, v)| self.ty(**v).rank() > 0).collect::<Vec<_>>()
        {
            let index = self.at_row(index, row);
            base = self.step(base, slice.tensor, dim, index);
        }
        base
    }

    /// Whether there is such a row.
    fn row_counts(&mut self, slice: &Slice, row: &Operand) -> Reg {
        if self.ty(slice.count).rank() > 0 {
            let counts = self.at_row(slice.count, row);
            return self.in_predicate(counts);
        }
        let count = self.scalar(slice.count);
        let row = self.e.in_reg(Class::B32, row.clone());
        self.e.invariant(Class::Pred, "setp.lt.s32", [row.into(), count])
    }

    /// Where a row is loaded or stored, and whether it is. `base` is where the indices that are the same for every row lead to.
    pub(super) fn row_at(&mut self, to: &Slice, base: Reg, row: Operand) -> (Reg, Reg) {
        let address = self.row_address(to, base, &row);
        (address, self.row_counts(to, &row))
    }

    /// Loads one number a row: zero where there is no such row.
    pub(super) fn load_rows(&mut self, from: &Slice, result: ValueId) {
        let base = self.pointer(from.tensor);
        let base = self.address(base, from.tensor, &from.index);
        let (class, form) = self.read_only(from.tensor);
        let zero = if class == Class::F32 { 0f32.into() } else { 0i64.into() };
        let mut regs = Vec::with_capacity(self.bands() * 2);
        for (band, half) in (0..self.bands()).flat_map(|band| [(band, 0), (band, 1)]) {
            let row = self.row(band, half);
            let (address, there) = self.row_at(from, base, row);
            let reg = self.e.mutable(class);
            self.e.mov(reg, Operand::clone(&zero));
            self.e.guarded((there, false), form, [reg.into(), super::Emit::at(address, 0)]);
            regs.push(reg);
        }
        self.set(result, Low::Rows(regs));
    }

    /// Starts copying gathered rows into a slot: 16 bytes a thread, pass and panel, zeros for rows that do not
    /// count.
    ///
    /// Several lanes copy one row, pass after pass. Each lane of a warp works out where one of the warp's rows is, and hands it
    /// to those that copy it: a tree of table elements and divisions is walked once for 32 rows, not once a pass. A row that
    /// does not count is nowhere, at address 0, and nothing is read of it (PTX ISA, `cp.async`: `src-size` 0). What is in `ahead`
    /// was worked out before.
    pub(super) fn gather_async(
        &mut self,
        from: &Slice,
        tile: TileLayout,
        (buffer, slot): (BufferId, Operand),
        ahead: Vec<[Operand; 2]>,
    ) {
        let (row, chunk, _, column) = self.first_chunk(from, tile);
        let slot = self.slot_base(buffer, slot, tile);
        let panel = tile.panel();
        let (rows_a_pass, passes) = self.passes(tile);
        let phases = (PERIOD / rows_a_pass.min(PERIOD)).max(1);
        let lane = self.lane();
        let sub = self.e.invariant(Class::B32, "shr.u32", [lane.into(), i64::from(panel.trailing_zeros()).into()]);

        let mut ahead = ahead.into_iter();
        let mut halves = [Operand::Int(0), Operand::Int(0)];
        for pass in 0..passes {
            let first = pass * rows_a_pass;
            let at = lane_of(tile, pass);
            if at == 0 {
                halves = ahead.next().unwrap_or_else(|| self.place_of_lane(from, tile, pass));
            }
            let source = self.e.add(sub.into(), i64::from(at).into());
            let [low, high] = halves.clone().map(|half| {
                let all = [half, source.clone(), 31i64.into(), 0xffff_ffffi64.into()];
                self.e.op(Class::B32, "shfl.sync.idx.b32", all)
            });
            let address = self.e.reg(Class::B64);
            self.e.inst("mov.b64", [address.into(), vec![low, high].into()]);
            let counts = self.e.op(Class::Pred, "setp.ne.u64", [address.into(), 0i64.into()]);
            let bytes = self.e.op(Class::B32, "selp.b32", [i64::from(CHUNK).into(), 0i64.into(), counts.into()]);
            let address = self.e.op(Class::B64, "add.s64", [address.into(), column.into()]);

            let phase = pass % phases;
            let place = self.chunk_place(tile, row, chunk, phase * rows_a_pass);
            let (dst, offset) = self.shared_address(place, &slot, (first - phase * rows_a_pass) * tile.pitch);
            let inside = (first + rows_a_pass > tile.rows).then(|| {
                let rows = i64::from(tile.rows - first);
                self.e.invariant(Class::Pred, "setp.lt.u32", [row.into(), rows.into()])
            });
            for ahead in (0..tile.row_bytes()).step_by((panel * CHUNK) as usize) {
                let (to, from) = (super::Emit::at(dst, offset + tile.ahead(ahead)), super::Emit::at(address, ahead));
                let operands = [to, from, i64::from(CHUNK).into(), bytes.into()];
                match inside {
                    Some(inside) => self.e.guarded((inside, false), "cp.async.cg.shared.global", operands),
                    None => self.e.inst("cp.async.cg.shared.global", operands),
                }
            }
        }
    }

    /// Rows that a pass of this thread's copies brings, and how many passes bring a tile.
    fn passes(&mut self, tile: TileLayout) -> (u32, u32) {
        let rows_a_pass = self.copiers().0 / tile.panel();
        (rows_a_pass, tile.rows.div_ceil(rows_a_pass))
    }

    /// Threads that copy rows together, and the number of this one among them.
    pub(super) fn copiers(&mut self) -> (u32, Reg) {
        match self.gatherer {
            Some(_) => (32, self.lane()),
            None => (self.func.warps * 32, self.tid()),
        }
    }

    /// The rings that a producer gathers rows for.
    pub(super) fn gathered_rings(&self, producer: &[Stmt]) -> Vec<BufferId> {
        let mut rings = Vec::new();
        crate::passes::visit(producer, &mut |stmt| match &stmt.op {
            Op::Fill { from, buffer, .. } if self.func.is_gathered(from) => rings.push(*buffer),
            _ => {}
        });
        rings
    }

    /// Warps that gather rows for rings: as many as these have slots.
    pub(super) fn gatherers(&self, rings: &[BufferId]) -> u32 {
        rings.iter().map(|ring| self.func.buffers[ring.index()].slots).max().unwrap_or(0)
    }

    /// Warps beside the one that fetches go on, as many as gather; others have nothing to do.
    pub(super) fn begin_gatherers(&mut self, rings: &[BufferId]) {
        let gatherers = self.gatherers(rings);
        let first = i64::from(self.func.warps + 1);
        let tid = self.tid();
        let warp = self.e.op(Class::B32, "shr.u32", [tid.into(), 5i64.into()]);
        let own = self.e.op(Class::B32, "sub.s32", [warp.into(), first.into()]);
        // The same in every lane, also to ptxas.
        let all = [own.into(), 0i64.into(), 31i64.into(), 0xffff_ffffi64.into()];
        let own = self.e.op(Class::B32, "shfl.sync.idx.b32", all);
        let idle = self.e.op(Class::Pred, "setp.ge.s32", [own.into(), i64::from(gatherers).into()]);
        self.e.guarded((idle, false), "ret", []);
        self.gatherer = Some(if gatherers > 1 { own.into() } else { 0i64.into() });
    }

    /// What the warp that has a slot does, among those that gather.
    pub(super) fn of_its_slot(&mut self, slot: ValueId, run: impl FnOnce(&mut Self)) {
        let (own, slot) = (self.gatherer.clone().expect("these warps gather"), self.scalar(slot));
        if own == slot {
            return run(self);
        }
        let other = self.e.op(Class::Pred, "setp.ne.s32", [slot, own]);
        let past = self.e.label("past");
        self.e.open(false);
        self.e.guarded((other, false), "bra", [Operand::Label(past.clone())]);
        run(self);
        self.e.place(&past);
        self.e.close();
    }

    /// Gathers rows into a slot of a ring, by its warp: where they are is worked out while the slot may not be empty yet. Each
    /// lane arrives, once what it copied has landed and it has made products see it.
    pub(super) fn gather(&mut self, from: &Slice, buffer: BufferId, slot: ValueId) {
        let tile = TileLayout::of(self.func, &self.func.buffers[buffer.index()]);
        let acquired = self.acquired.remove(&buffer);
        self.of_its_slot(slot, |lower| {
            let passes = 0..lower.passes(tile).1;
            // A warp alone has many rows: what says where they are is fetched for all of them at once.
            let firsts: Vec<u32> = passes.filter(|&pass| lane_of(tile, pass) == 0).collect();
            let ahead = firsts.into_iter().map(|pass| lower.place_of_lane(from, tile, pass)).collect();
            if let Some([slot, phase]) = acquired {
                lower.wait_until_empty(buffer, slot, phase);
            }
            let full = lower.full_barrier(buffer, slot);
            let slot = lower.scalar(slot);
            lower.gather_async(from, tile, (buffer, slot), ahead);
            lower.e.inst("cp.async.commit_group", []);
            lower.e.inst("cp.async.wait_group", [0i64.into()]);
            lower.e.inst("fence.proxy.async.shared::cta", []);
            lower.e.inst("mbarrier.arrive.shared::cta.b64", [Operand::Sink, full]);
        });
    }

    /// Where the row is that this lane works out for its warp, as two halves.
    fn place_of_lane(&mut self, from: &Slice, tile: TileLayout, pass: u32) -> [Operand; 2] {
        let nowhere = self.e.invariant(Class::B64, "mov.b64", [0i64.into()]);
        let base = self.pointer(from.tensor);
        let base = self.address(base, from.tensor, &from.index);
        let own = self.row_of_lane(tile, pass);
        let address = self.row_address(from, base, &own);
        let counts = self.row_counts(from, &own);
        let address = self.e.op(Class::B64, "selp.b64", [address.into(), nowhere.into(), counts.into()]);
        let (low, high) = (self.e.reg(Class::B32), self.e.reg(Class::B32));
        self.e.inst("mov.b64", [vec![low, high].into(), address.into()]);
        [low.into(), high.into()]
    }

    /// The row that this lane works out for its warp: of the 32 or fewer that the warp copies from `pass` on.
    fn row_of_lane(&mut self, tile: TileLayout, pass: u32) -> Operand {
        let (rows_a_pass, rows_a_warp) = (self.passes(tile).0, 32 / tile.panel());
        let (lane, tid) = (self.lane(), self.copiers().1);
        let warp = self.e.invariant(Class::B32, "shr.u32", [tid.into(), 5i64.into()]);
        let shift = i64::from(rows_a_warp.trailing_zeros());
        let ahead = self.e.invariant(Class::B32, "shr.u32", [lane.into(), shift.into()]);
        let ahead = self.e.mul(ahead.into(), rows_a_pass.into());
        let sub = self.e.invariant(Class::B32, "and.b32", [lane.into(), i64::from(rows_a_warp - 1).into()]);
        let of_warp = self.e.mul(warp.into(), rows_a_warp.into());
        let row = self.e.add(ahead, of_warp);
        let row = self.e.add(row, sub.into());
        let row = self.e.add(row, i64::from(pass * rows_a_pass).into());
        // Lanes that have no row work out the last one: what a table holds past it is not theirs to read.
        if pass * rows_a_pass + 32 / rows_a_warp * rows_a_pass <= tile.rows {
            return row;
        }
        let last = i64::from(tile.rows - 1);
        self.e.invariant(Class::B32, "min.s32", [row, last.into()]).into()
    }
}
