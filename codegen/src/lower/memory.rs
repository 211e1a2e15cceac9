//! Global memory: addresses, asynchronous copies into shared memory, stores, table elements.
//!
//! Offsets are 64-bit: an index is widened before it meets a stride. Terms are added outermost-known first, so that what a
//! loop does not change is added before it.

use lacuna_ptx::{Class, Operand, Reg};

use super::Lower;
use super::shared::{CHUNK, PERIOD, TileLayout};
use super::value::{Cell, Low};
use crate::ir::{BufferId, Elem, Param, ParamId, Slice, ValueId};

impl Lower<'_> {
    pub(super) fn load_param(&mut self, class: Class, form: &'static str, name: &str) -> Reg {
        let name = name.to_owned();
        self.e.invariant(class, form, [Operand::Address(lacuna_ptx::Address::symbol(name, 0))])
    }

    /// A scalar parameter.
    pub(super) fn scalar_param(&mut self, id: ParamId) -> Reg {
        let Param::Scalar { name, elem } = &self.func.params[id.index()] else { unreachable!("verified: a scalar") };
        let (class, form) =
            if *elem == Elem::F32 { (Class::F32, "ld.param.f32") } else { (Class::B32, "ld.param.b32") };
        let name = name.clone();
        self.load_param(class, form, &name)
    }

    pub(super) fn pointer(&mut self, id: ParamId) -> Reg {
        let name = super::pointer_name(&self.func.params[id.index()]);
        let generic = self.load_param(Class::B64, "ld.param.u64", &name);
        self.e.invariant(Class::B64, "cvta.to.global.u64", [generic.into()])
    }

    fn tensor(&self, id: ParamId) -> &crate::ir::Tensor {
        match &self.func.params[id.index()] {
            Param::Tensor(tensor) => tensor,
            Param::Scalar { .. } => unreachable!("verified: a tensor"),
        }
    }

    /// A stride in elements; `None` for the last dimension, which is contiguous. It stays a parameter: an instruction reads
    /// it from constant memory, where a product made from it would hold two registers over a whole loop.
    fn stride(&mut self, id: ParamId, dim: usize) -> Option<Reg> {
        let tensor = self.tensor(id);
        if dim + 1 == tensor.dims.len() {
            return None;
        }
        let name = super::stride_name(tensor, dim);
        Some(self.load_param(Class::B64, "ld.param.u64", &name))
    }

    /// Bytes of an element as a shift.
    fn shift(&self, id: ParamId) -> i64 {
        i64::from(self.tensor(id).elem.bytes().trailing_zeros())
    }

    /// An index as 64 bits.
    fn wide(&mut self, index: Operand) -> Operand {
        match index {
            Operand::Int(_) => index,
            index => self.e.invariant(Class::B64, "cvt.s64.s32", [index]).into(),
        }
    }

    /// `base + index * stride of dim`, in bytes.
    pub(super) fn step(&mut self, base: Reg, id: ParamId, dim: usize, index: Operand) -> Reg {
        if let Operand::Int(0) = index {
            return base;
        }
        let wide = self.wide(index);
        let shift = self.shift(id);
        let elements = match self.stride(id, dim) {
            Some(stride) => self.e.invariant(Class::B64, "mul.lo.s64", [wide, stride.into()]).into(),
            None => wide,
        };
        let bytes = match elements {
            Operand::Int(v) => Operand::Int(v << shift),
            elements => self.e.invariant(Class::B64, "shl.b64", [elements, shift.into()]).into(),
        };
        self.e.invariant(Class::B64, "add.s64", [base.into(), bytes])
    }

    /// `base + index[..]`, terms known furthest out first; tiles of indices are left out, as each row has its own. A sum is taken apart: the start of a document is added before the
    /// loop over its blocks, and what the loop needs anyway need not be kept a second time as a sum.
    pub(super) fn address(&mut self, mut base: Reg, id: ParamId, index: &[ValueId]) -> Reg {
        let mut terms = Vec::new();
        for (dim, &value) in index.iter().enumerate().filter(|(_, value)| self.ty(**value).rank() == 0) {
            self.addends(value, dim, &mut terms);
        }
        terms.sort_by_key(|(_, index)| self.e.known_at(index));
        for (dim, index) in terms {
            base = self.step(base, id, dim, index);
        }
        base
    }

    fn addends(&self, value: ValueId, dim: usize, terms: &mut Vec<(usize, Operand)>) {
        match self.sums.get(&value) {
            Some(&(a, b)) => {
                self.addends(a, dim, terms);
                self.addends(b, dim, terms);
            }
            None => terms.push((dim, self.scalar(value))),
        }
    }

    /// Starts copying rows of a tensor into a slot: 16 bytes a thread, pass and panel, zeros past the last row.
    pub(super) fn copy_async(&mut self, from: &Slice, buffer: BufferId, slot: Operand) {
        let tile = TileLayout::of(self.func, &self.func.buffers[buffer.index()]);
        let Some(along) = from.along.filter(|_| !self.func.is_gathered(from)) else {
            return self.gather_async(from, tile, (buffer, slot), Vec::new());
        };
        let panel = tile.panel();
        let rows_a_pass = self.copiers().0 / panel;
        let (row, chunk, base, column) = self.first_chunk(from, tile);
        let base = self.e.invariant(Class::B64, "add.s64", [base.into(), column.into()]);
        let base = self.step(base, from.tensor, along, row.into());
        let mut source = self.address(base, from.tensor, &from.index);
        let stride = self.stride(from.tensor, along).expect("verified: rows do not run along the last dimension");
        // Made anew each time: a shift costs less than two registers over a whole loop.
        let shift = i64::from(rows_a_pass.trailing_zeros()) + self.shift(from.tensor);
        let stride = self.e.op(Class::B64, "shl.b64", [stride.into(), shift.into()]);

        let slot_base = self.slot_base(buffer, slot, tile);
        let phases = (PERIOD / rows_a_pass.min(PERIOD)).max(1);
        let count = self.scalar(from.count);
        let whole = matches!(count, Operand::Int(n) if n >= i64::from(tile.rows));
        for pass in 0..tile.rows.div_ceil(rows_a_pass) {
            let first = pass * rows_a_pass;
            let phase = pass % phases;
            let place = self.chunk_place(tile, row, chunk, phase * rows_a_pass);
            let (dst, offset) = self.shared_address(place, &slot_base, (first - phase * rows_a_pass) * tile.pitch);
            if pass > 0 {
                source = self.e.op(Class::B64, "add.s64", [source.into(), stride.into()]);
            }
            let left = (!whole).then(|| {
                let left = self.e.invariant(Class::B32, "sub.s32", [count.clone(), row.into()]);
                let there = self.e.invariant(Class::Pred, "setp.gt.s32", [left.into(), i64::from(first).into()]);
                self.e.invariant(Class::B32, "selp.b32", [i64::from(CHUNK).into(), 0i64.into(), there.into()])
            });
            let inside = (first + rows_a_pass > tile.rows).then(|| {
                let rows = i64::from(tile.rows - first);
                self.e.invariant(Class::Pred, "setp.lt.u32", [row.into(), rows.into()])
            });
            for ahead in (0..tile.row_bytes()).step_by((panel * CHUNK) as usize) {
                let (to, from) = (super::Emit::at(dst, offset + tile.ahead(ahead)), super::Emit::at(source, ahead));
                let operands: Vec<Operand> =
                    [to, from, i64::from(CHUNK).into()].into_iter().chain(left.map(Operand::from)).collect();
                match inside {
                    Some(inside) => self.e.guarded((inside, false), "cp.async.cg.shared.global", operands),
                    None => self.e.inst("cp.async.cg.shared.global", operands),
                }
            }
        }
    }

    /// This thread's row and chunk of the first pass and panel; the tensor, and how far behind a row's begin the chunk is.
    pub(super) fn first_chunk(&mut self, from: &Slice, tile: TileLayout) -> (Reg, Reg, Reg, Reg) {
        let (tid, panel) = (self.copiers().1, tile.panel());
        let row = self.e.cheap(Class::B32, "shr.u32", [tid.into(), i64::from(panel.trailing_zeros()).into()]);
        let chunk = self.e.cheap(Class::B32, "and.b32", [tid.into(), i64::from(panel - 1).into()]);
        let base = self.pointer(from.tensor);
        let column = self.e.cheap(Class::B32, "shl.b32", [chunk.into(), 4i64.into()]);
        let column = self.e.invariant(Class::B64, "cvt.u64.u32", [column.into()]);
        (row, chunk, base, column)
    }

    /// Stores a tile over rows and features. Four neighbouring lanes exchange what they have of four column blocks, so that
    /// each writes 16 bytes.
    pub(super) fn store_tile(&mut self, to: &Slice, value: ValueId) {
        let Low::Packed(tile) = self.get(value).clone() else { unreachable!("verified: a 16-bit tile") };
        let lane = self.lane();
        let quad = self.e.invariant(Class::B32, "and.b32", [lane.into(), 3i64.into()]);
        let wide = tile.blocks % 4 == 0;

        // The lane's first column: a whole block of 8 for a wide store, else its pair.
        let mut column = if wide { self.e.mul(quad.into(), 16) } else { self.e.mul(quad.into(), 4) };
        if tile.split {
            let (_, warp_col) = self.warp_grid();
            let first = self.e.mul(warp_col, tile.blocks as i64 * 16);
            column = self.e.add(column, first);
        }
        let base = self.pointer(to.tensor);
        let column = self.e.in_reg(Class::B32, column);
        let column = self.e.invariant(Class::B64, "cvt.u64.u32", [column.into()]);
        let base = self.e.invariant(Class::B64, "add.s64", [base.into(), column.into()]);
        let base = self.address(base, to.tensor, &to.index);
        for band in 0..self.bands() {
            for half in 0..2 {
                let row = self.row(band, half);
                let (address, there) = self.row_at(to, base, row);
                let cells: Vec<Reg> =
                    (0..tile.blocks).map(|block| tile.regs[(band * tile.blocks + block) * 2 + half]).collect();
                for (group, cells) in cells.chunks(if wide { 4 } else { 1 }).enumerate() {
                    if wide {
                        let cells = self.transpose_quad([cells[0], cells[1], cells[2], cells[3]]);
                        let to = super::Emit::at(address, group as u32 * 64);
                        self.e.guarded((there, false), "st.global.v4.b32", [to, cells.to_vec().into()]);
                    } else {
                        let to = super::Emit::at(address, group as u32 * 16);
                        self.e.guarded((there, false), "st.global.b32", [to, cells[0].into()]);
                    }
                }
            }
        }
    }

    /// Where the rows of an f32 tile over rows and features are, each at the lane's first column, and which rows there are:
    /// `[band][half]`. `blocks` are the blocks of 8 columns that the warp has.
    fn rows_of_numbers(&mut self, at: &Slice, blocks: usize, split: bool) -> Vec<(Reg, Reg)> {
        let lane = self.lane();
        let quad = self.e.invariant(Class::B32, "and.b32", [lane.into(), 3i64.into()]);
        let mut column = self.e.mul(quad.into(), 8);
        if split {
            let (_, warp_col) = self.warp_grid();
            let first = self.e.mul(warp_col, blocks as i64 * 32);
            column = self.e.add(column, first);
        }
        let column = self.e.in_reg(Class::B32, column);
        let column = self.e.invariant(Class::B64, "cvt.u64.u32", [column.into()]);
        let base = self.pointer(at.tensor);
        let base = self.e.invariant(Class::B64, "add.s64", [base.into(), column.into()]);
        let base = self.address(base, at.tensor, &at.index);
        let mut rows = Vec::with_capacity(self.bands() * 2);
        for (band, half) in (0..self.bands()).flat_map(|band| [(band, 0), (band, 1)]) {
            let row = self.row(band, half);
            rows.push(self.row_at(at, base, row));
        }
        rows
    }

    /// An f32 tile over rows and features, whose elements are fetched where they are used.
    pub(super) fn load_numbers(&mut self, from: &Slice, result: ValueId) {
        let (blocks, split) = self.blocks_of(self.ty(result));
        let rows = self.rows_of_numbers(from, blocks, split);
        self.set(result, Low::Far(rows));
    }

    /// Stores an f32 tile over rows and features: a lane's pairs, of which four lanes have 32 bytes.
    pub(super) fn store_numbers(&mut self, to: &Slice, value: ValueId) {
        let (blocks, split) = self.shape_of(value);
        let rows = self.rows_of_numbers(to, blocks, split);
        for (row, (address, there)) in rows.into_iter().enumerate() {
            for block in 0..blocks {
                let pair = [0, 1].map(|column| {
                    let cell = Cell { band: row / 2, block, cell: row % 2 * 2 + column };
                    let element = self.element(value, cell);
                    self.e.in_reg(Class::F32, element)
                });
                let to = super::Emit::at(address, block as u32 * 32);
                self.e.guarded((there, false), "st.global.v2.f32", [to, pair.to_vec().into()]);
            }
        }
    }

    /// Register `j` of lane `i` of a quad goes to register `i` of lane `j`.
    fn transpose_quad(&mut self, x: [Reg; 4]) -> [Reg; 4] {
        let lane = self.lane();
        let mut odd = |bit: i64| {
            let bit = self.e.invariant(Class::B32, "and.b32", [lane.into(), bit.into()]);
            self.e.invariant(Class::Pred, "setp.ne.s32", [bit.into(), 0i64.into()])
        };
        let (odd1, odd2) = (odd(1), odd(2));
        let mut exchange = |even: Reg, other: Reg, odd: Reg, mask: i64| {
            // The even lane keeps `even` and gives `other`; the odd lane the reverse.
            let give = self.e.op(Class::B32, "selp.b32", [even.into(), other.into(), odd.into()]);
            let got = self.shuffle(give, mask);
            let first = self.e.op(Class::B32, "selp.b32", [got.into(), even.into(), odd.into()]);
            let second = self.e.op(Class::B32, "selp.b32", [other.into(), got.into(), odd.into()]);
            [first, second]
        };
        let [a0, a1] = exchange(x[0], x[1], odd1, 1);
        let [a2, a3] = exchange(x[2], x[3], odd1, 1);
        let [b0, b2] = exchange(a0, a2, odd2, 2);
        let [b1, b3] = exchange(a1, a3, odd2, 2);
        [b0, b1, b2, b3]
    }

    /// Stores one number a row: one lane of the four that have it, of one warp.
    pub(super) fn store_rows(&mut self, to: &Slice, value: ValueId) {
        let (class, form) = match self.ty(value).elem {
            Elem::F32 => (Class::F32, "st.global.f32"),
            _ => (Class::B32, "st.global.b32"),
        };
        let lane = self.lane();
        let quad = self.e.invariant(Class::B32, "and.b32", [lane.into(), 3i64.into()]);
        let mut writer = self.e.invariant(Class::Pred, "setp.eq.s32", [quad.into(), 0i64.into()]);
        if self.part.cols > 1 {
            let (_, warp_col) = self.warp_grid();
            let first = self.e.invariant(Class::Pred, "setp.eq.s32", [warp_col, 0i64.into()]);
            writer = self.e.invariant(Class::Pred, "and.pred", [writer.into(), first.into()]);
        }
        let base = self.pointer(to.tensor);
        // A constant place in the last dimension is an offset: neighbouring places share an address.
        let (index, offset) = match to.index.split_last() {
            Some((&last, before)) if to.along != Some(before.len()) && self.ty(last).rank() == 0 => {
                match self.scalar(last) {
                    Operand::Int(place @ 0..1024) => (before, place as u32 * self.tensor(to.tensor).elem.bytes()),
                    _ => (&to.index[..], 0),
                }
            }
            _ => (&to.index[..], 0),
        };
        let base = self.address(base, to.tensor, index);
        for band in 0..self.bands() {
            for half in 0..2 {
                let row = self.row(band, half);
                let (address, there) = self.row_at(to, base, row);
                let there = self.e.op(Class::Pred, "and.pred", [there.into(), writer.into()]);
                let element = self.element(value, super::value::Cell { band, block: 0, cell: half * 2 });
                let element = self.e.in_reg(class, element);
                self.e.guarded((there, false), form, [super::Emit::at(address, offset), element.into()]);
            }
        }
    }

    /// One element of a tensor.
    pub(super) fn table_element(&mut self, id: ParamId, index: &[ValueId]) -> Reg {
        let base = self.pointer(id);
        let address = self.address(base, id, index);
        let (class, form) = self.read_only(id);
        self.e.op(class, form, [super::Emit::at(address, 0)])
    }

    /// One element of a tensor, at one place of a tile of indices. What a level reads twice from one place it reads once.
    pub(super) fn tile_element(&mut self, id: ParamId, index: &[Operand]) -> Reg {
        let address = self.element_address(id, index);
        let (class, form) = self.read_only(id);
        self.e.local(class, form, [super::Emit::at(address, 0)])
    }

    /// Where one element of a tensor is, at one place of a tile of indices.
    pub(super) fn element_address(&mut self, id: ParamId, index: &[Operand]) -> Reg {
        let mut terms: Vec<(usize, Operand)> = index.iter().cloned().enumerate().collect();
        terms.sort_by_key(|(_, index)| self.e.known_at(index));
        let mut address = self.pointer(id);
        for (dim, index) in terms {
            address = match index {
                Operand::Reg(_) if dim + 1 == self.tensor(id).dims.len() => {
                    let bytes = i64::from(self.tensor(id).elem.bytes());
                    self.e.local(Class::B64, "mad.wide.s32", [index, bytes.into(), address.into()])
                }
                index => self.step(address, id, dim, index),
            };
        }
        address
    }

    pub(super) fn read_only(&self, id: ParamId) -> (Class, &'static str) {
        match self.tensor(id).elem {
            Elem::F32 => (Class::F32, "ld.global.nc.f32"),
            _ => (Class::B32, "ld.global.nc.b32"),
        }
    }

    /// Bisects a row of a table: the largest `s` in `0..segments` with `table[s] <= at`.
    pub(super) fn segment(&mut self, table: ParamId, row: &[ValueId], segments: Operand, at: Operand) -> Reg {
        let base = self.pointer(table);
        let base = self.address(base, table, row);
        let (low, high) = (self.e.mutable(Class::B32), self.e.mutable(Class::B32));
        self.e.mov(low, 0i64.into());
        self.e.mov(high, segments);
        let (head, done) = (self.e.label("bisect"), self.e.label("bisected"));
        self.e.open(true);
        self.e.place(&head);
        let width = self.e.op(Class::B32, "sub.s32", [high.into(), low.into()]);
        let found = self.e.op(Class::Pred, "setp.le.s32", [width.into(), 1i64.into()]);
        self.e.guarded((found, false), "bra", [Operand::Label(done.clone())]);
        let half = self.e.op(Class::B32, "shr.s32", [width.into(), 1i64.into()]);
        let middle = self.e.op(Class::B32, "add.s32", [low.into(), half.into()]);
        let address = self.e.op(Class::B64, "mad.wide.s32", [middle.into(), 4i64.into(), base.into()]);
        let start = self.e.op(Class::B32, "ld.global.nc.b32", [super::Emit::at(address, 0)]);
        let right = self.e.op(Class::Pred, "setp.le.s32", [start.into(), at]);
        self.e.inst("selp.b32", [low.into(), middle.into(), low.into(), right.into()]);
        self.e.inst("selp.b32", [high.into(), high.into(), middle.into(), right.into()]);
        self.e.inst("bra", [Operand::Label(head)]);
        self.e.place(&done);
        self.e.close();
        let result = self.e.reg(Class::B32);
        self.e.mov(result, low.into());
        result
    }
}
