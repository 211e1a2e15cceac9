//! Values in registers, and arithmetic on them.
//!
//! | value | registers of a thread |
//! |---|---|
//! | scalar | one, the same in every thread |
//! | tile over the row axis | for each band of 16 rows, rows `lane / 4` and `lane / 4 + 8` |
//! | tile over the column axis | for each 8 columns, columns `2 (lane % 4)` and the next |
//! | tile over an axis that no product has | element `i` in thread `i % threads`, register `i / threads` |
//! | tile over rows and columns | the accumulator fragment of `mma.m16n8k16`: four for each band and 8 columns |
//! | 16-bit tile over rows and columns | the same cells packed in pairs: two for each band and 8 columns |
//!
//! Truth and index tiles over rows and columns are never kept, nor what is made of rows and columns alone: their elements
//! are computed where they are used, those of a mask in a branch that few blocks take as a rule.

use lacuna_ptx::{Class, Operand, Reg};

use super::lanes::Keep;
use super::{Emit, Lower};
use crate::ir::{AxisId, Binary, Compare, Const, Elem, Op, Reduce, Stmt, Type, Unary, ValueId};

/// A value as registers.
#[derive(Clone)]
pub(super) enum Low {
    /// A constant scalar.
    Const(Const),
    /// A scalar.
    Scalar(Reg),
    /// Over the row axis: `[band][half]`.
    Rows(Vec<Reg>),
    /// Over the column axis: `[column block][pair]`.
    Cols(Vec<Reg>),
    /// Over an axis that lies across the threads: `[element / threads]`.
    Lanes(Vec<Reg>),
    /// Over both.
    Tile(Tile),
    /// 16-bit, over both: `[band][column block][half]`.
    Packed(Tile),
    /// 16-bit, over both, rounded from a lazy tile where a product needs it.
    Stepped(ValueId),
    /// In shared memory.
    Shared(crate::ir::BufferId, Operand),
    /// f32, over both, in global memory: fetched where it is used. Where the lane's first column of each row is, and whether
    /// there is such a row: `[band][half]`.
    Far(Vec<(Reg, Reg)>),
    /// Computed where it is used.
    Lazy(Op),
}

/// Registers over rows and columns.
#[derive(Clone)]
pub(super) struct Tile {
    /// `[band][column block][cell]`.
    pub(super) regs: Vec<Reg>,
    /// Column blocks of 8 that this warp has.
    pub(super) blocks: usize,
    /// Whether the columns are shared out among the warps of a row band.
    pub(super) split: bool,
}

/// A place in a fragment.
#[derive(Clone, Copy)]
pub(super) struct Cell {
    pub(super) band: usize,
    pub(super) block: usize,
    /// 0..4: bit 0 is the column of the pair, bit 1 the row half.
    pub(super) cell: usize,
}

impl Cell {
    /// A register of a lane tile.
    pub(super) const fn lane(register: usize) -> Self {
        Cell { band: register, block: 0, cell: 0 }
    }
}

/// Who may use the same instruction.
#[derive(Clone, Copy)]
pub(super) enum Share {
    No,
    /// Whoever computes the same at this level.
    Level,
    /// Anyone, from outside every loop that does not change it.
    All,
}

pub(super) fn class(elem: Elem) -> Class {
    match elem {
        Elem::F32 => Class::F32,
        Elem::Bool => Class::Pred,
        Elem::I32 | Elem::Bf16 | Elem::F16 => Class::B32,
    }
}

pub(super) fn immediate(value: Const) -> Operand {
    match value {
        Const::I32(v) => Operand::Int(i64::from(v)),
        Const::F32(bits) => Operand::Float(bits),
        Const::Bool(v) => Operand::Int(i64::from(v)),
    }
}

impl Lower<'_> {
    pub(super) fn ty(&self, value: ValueId) -> &Type {
        &self.func.values[value.index()].ty
    }

    pub(super) fn get(&self, value: ValueId) -> &Low {
        self.low[value.index()].as_ref().expect("verified: a value is made before it is used")
    }

    pub(super) fn set(&mut self, value: ValueId, low: Low) {
        self.low[value.index()] = Some(low);
    }

    /// A scalar as an operand.
    pub(super) fn scalar(&self, value: ValueId) -> Operand {
        match self.get(value) {
            Low::Const(c) => immediate(*c),
            Low::Scalar(reg) => (*reg).into(),
            _ => unreachable!("verified: a scalar"),
        }
    }

    /// One element of a value. Lazy values are computed here.
    pub(super) fn element(&mut self, value: ValueId, at: Cell) -> Operand {
        match self.get(value) {
            Low::Const(c) => immediate(*c),
            Low::Scalar(reg) => (*reg).into(),
            Low::Rows(regs) => regs[at.band * 2 + (at.cell >> 1)].into(),
            Low::Cols(regs) => regs[at.block * 2 + (at.cell & 1)].into(),
            Low::Lanes(regs) => regs[at.band].into(),
            Low::Tile(tile) => tile.regs[(at.band * tile.blocks + at.block) * 4 + at.cell].into(),
            Low::Packed(_) | Low::Stepped(_) | Low::Shared(..) => {
                unreachable!("verified: not an operand of arithmetic")
            }
            Low::Far(rows) => {
                let (address, there) = rows[at.band * 2 + (at.cell >> 1)];
                let ahead = at.block as u32 * 32 + (at.cell as u32 & 1) * 4;
                self.loaded(&Keep::Where(there), Class::F32, "ld.global.nc.f32", Emit::at(address, ahead)).into()
            }
            Low::Lazy(op) => {
                let op = op.clone();
                match op {
                    Op::Broadcast(x) => return self.element(x, at),
                    Op::Iota(axis) if self.lane_axes[axis.index()] => return self.lane_position(at.band),
                    Op::Iota(axis) if Some(axis) == self.part.row_axis => return self.row(at.band, at.cell >> 1),
                    Op::Iota(_) => return self.column(at.block, at.cell & 1),
                    _ => {}
                }
                let operands: Vec<Operand> =
                    crate::passes::operands(&op).into_iter().map(|v| self.element(v, at)).collect();
                if let Op::Element { tensor, .. } = op {
                    return self.tile_element(tensor, &operands).into();
                }
                let elem = self.ty(value).elem;
                let source = self.source_elem(&op);
                let share = if self.ty(value).rank() == 1 { Share::Level } else { Share::No };
                self.compute(&op, elem, source, operands, None, share)
            }
        }
    }

    /// What a comparison compares.
    pub(super) fn source_elem(&self, op: &Op) -> Elem {
        match op {
            Op::Compare(_, a, _) | Op::Convert(a) => self.ty(*a).elem,
            _ => Elem::F32,
        }
    }

    /// The places of a tile of one axis that this thread has.
    fn vector_cells(&self, axis: AxisId) -> Vec<Cell> {
        if self.lane_axes[axis.index()] {
            (0..self.lane_regs(axis)).map(Cell::lane).collect()
        } else if Some(axis) == self.part.row_axis {
            (0..self.bands() * 2).map(|i| Cell { band: i / 2, block: 0, cell: (i % 2) * 2 }).collect()
        } else {
            (0..self.col_blocks() * 2).map(|i| Cell { band: 0, block: i / 2, cell: i % 2 }).collect()
        }
    }

    /// A tile of one axis, from a register for each of those places.
    fn vector(&self, axis: AxisId, regs: Vec<Reg>) -> Low {
        if self.lane_axes[axis.index()] {
            Low::Lanes(regs)
        } else if Some(axis) == self.part.row_axis {
            Low::Rows(regs)
        } else {
            Low::Cols(regs)
        }
    }

    /// Column blocks of 8 that a warp has of a tile with these columns, before any merge.
    pub(super) fn blocks_of(&self, ty: &Type) -> (usize, bool) {
        let axis = ty.axes[1];
        let split = Some(axis) == self.part.col_axis && self.part.cols > 1;
        let extent = self.func.axes[axis.index()].extent / if split { self.part.cols } else { 1 };
        (extent as usize / 8, split)
    }

    /// The shape of an element-by-element result: that of its widest operand.
    pub(super) fn shape_of(&self, value: ValueId) -> (usize, bool) {
        fn find(lower: &Lower<'_>, value: ValueId) -> Option<(usize, bool)> {
            match lower.get(value) {
                Low::Tile(tile) => Some((tile.blocks, tile.split)),
                Low::Lazy(op) => crate::passes::operands(op).into_iter().find_map(|v| find(lower, v)),
                _ => None,
            }
        }
        find(self, value).unwrap_or_else(|| self.blocks_of(self.ty(value)))
    }

    /// Element-by-element arithmetic.
    pub(super) fn arithmetic(&mut self, stmt: &Stmt) {
        let result = stmt.result.expect("arithmetic makes a value");
        let operands = crate::passes::operands(&stmt.op);
        let ty = self.ty(result).clone();
        let source = self.source_elem(&stmt.op);
        if self.placement.lazy.contains(&result) {
            return self.set(result, Low::Lazy(stmt.op.clone()));
        }
        let into = self.home(result);
        let low = match ty.rank() {
            0 => {
                let parts = operands.clone();
                let operands: Vec<Operand> = operands.iter().map(|&v| self.scalar(v)).collect();
                if let Op::Binary(Binary::Add, ..) = stmt.op
                    && ty.elem == Elem::I32
                {
                    self.sums.insert(result, (parts[0], parts[1]));
                }
                match fold(&stmt.op, &operands) {
                    Some(folded) => folded,
                    None if self.masks(&stmt.op, &parts, &operands) => {
                        let Operand::Int(divisor) = operands[1] else { unreachable!("a constant divisor") };
                        let operands = [operands[0].clone(), (divisor - 1).into()];
                        Low::Scalar(self.e.invariant(Class::B32, "and.b32", operands))
                    }
                    None if self.shifts(&stmt.op, &parts, &operands) => {
                        let Operand::Int(divisor) = operands[1] else { unreachable!("a constant divisor") };
                        let by = i64::from(divisor.trailing_zeros());
                        Low::Scalar(self.e.invariant(Class::B32, "shr.u32", [operands[0].clone(), by.into()]))
                    }
                    None => match self.compute(&stmt.op, ty.elem, source, operands, None, Share::All) {
                        Operand::Reg(reg) => Low::Scalar(reg),
                        _ => unreachable!("computed into a register"),
                    },
                }
            }
            1 => {
                let cells = self.vector_cells(ty.axes[0]);
                let regs = cells
                    .into_iter()
                    .enumerate()
                    .map(|(i, at)| {
                        let operands: Vec<Operand> = operands.iter().map(|&v| self.element(v, at)).collect();
                        if self.lane_axes[ty.axes[0].index()]
                            && into.is_none()
                            && let Some(shifted) = self.shifted(&stmt.op, &operands)
                        {
                            return shifted;
                        }
                        let into = into.as_ref().map(|regs| regs[i]);
                        self.compute_reg(&stmt.op, ty.elem, source, operands, into)
                    })
                    .collect();
                self.vector(ty.axes[0], regs)
            }
            _ => {
                let (blocks, split) = operands
                    .iter()
                    .filter(|v| self.ty(**v).rank() == 2)
                    .map(|&v| self.shape_of(v))
                    .next()
                    .unwrap_or_else(|| self.blocks_of(&ty));
                let skip =
                    into.as_ref().and_then(|_| self.factors(&stmt.op)).map(|factors| self.skip_if_ones(&factors));
                let mut regs = vec![None; self.bands() * blocks * 4];
                // Block by block: what is of its columns is done with before the next one's is made.
                for block in 0..blocks {
                    for band in 0..self.bands() {
                        for cell in 0..4 {
                            let at = Cell { band, block, cell };
                            let sources = operands.iter().map(|&v| self.element(v, at)).collect();
                            let place = (band * blocks + block) * 4 + cell;
                            let into = into.as_ref().map(|r| r[place]);
                            regs[place] = Some(self.compute_reg(&stmt.op, ty.elem, source, sources, into));
                        }
                    }
                }
                let regs = regs.into_iter().map(|reg| reg.expect("every cell is made")).collect();
                if let Some(skip) = skip {
                    self.e.place(&skip);
                    self.e.close();
                }
                Low::Tile(Tile { regs, blocks, split })
            }
        };
        self.set(result, low);
    }

    /// The row factors of a product in place, `tile *= factor of the row`.
    fn factors(&self, op: &Op) -> Option<Vec<Reg>> {
        let Op::Binary(Binary::Mul, _, factor) = op else { return None };
        match self.get(*factor) {
            Low::Lazy(Op::Broadcast(rows)) => match self.get(*rows) {
                Low::Rows(regs) => Some(regs.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Opens a branch that a warp takes when all its row factors are one: the product would change nothing. That is what
    /// an online softmax's factors are once a row has met its maximum.
    fn skip_if_ones(&mut self, factors: &[Reg]) -> String {
        let mut ones: Option<Reg> = None;
        for &factor in factors {
            let one = self.e.op(Class::Pred, "setp.eq.f32", [factor.into(), 1f32.into()]);
            ones = Some(match ones {
                None => one,
                Some(ones) => self.e.op(Class::Pred, "and.pred", [ones.into(), one.into()]),
            });
        }
        let ones = ones.expect("a tile has rows");
        let all = self.e.op(Class::Pred, "vote.sync.all.pred", [ones.into(), 0xffff_ffffi64.into()]);
        let skip = self.e.label("ones");
        self.e.open(false);
        self.e.guarded((all, false), "bra", [Operand::Label(skip.clone())]);
        skip
    }

    /// Whether a remainder is a mask: of what is never negative, by a power of two.
    fn masks(&self, op: &Op, parts: &[ValueId], operands: &[Operand]) -> bool {
        matches!(op, Op::Binary(Binary::Rem, ..))
            && self.counts.contains(&parts[0])
            && matches!(operands[1], Operand::Int(divisor) if divisor > 0 && divisor & (divisor - 1) == 0)
    }

    /// Whether a quotient is a shift, as a remainder is a mask. The mma.sync family has none.
    fn shifts(&self, op: &Op, parts: &[ValueId], operands: &[Operand]) -> bool {
        self.part.roles.is_some()
            && matches!(op, Op::Binary(Binary::Div, ..))
            && self.counts.contains(&parts[0])
            && matches!(operands[1], Operand::Int(divisor) if divisor > 0 && divisor & (divisor - 1) == 0)
    }

    fn compute_reg(&mut self, op: &Op, elem: Elem, source: Elem, operands: Vec<Operand>, into: Option<Reg>) -> Reg {
        match self.compute(op, elem, source, operands, into, Share::No) {
            Operand::Reg(reg) => reg,
            other => {
                let dst = into.unwrap_or_else(|| self.e.reg(class(elem)));
                self.e.mov(dst, other);
                dst
            }
        }
    }

    /// One instruction on one element.
    pub(super) fn compute(
        &mut self,
        op: &Op,
        elem: Elem,
        source: Elem,
        mut operands: Vec<Operand>,
        into: Option<Reg>,
        share: Share,
    ) -> Operand {
        // ptxas (13.0) divides by constants as by anything.
        if self.part.roles.is_some()
            && into.is_none()
            && elem == Elem::I32
            && let Some(shifted) = self.shifted(op, &operands)
        {
            return shifted.into();
        }
        let form = match op {
            Op::Unary(op, _) => match (op, elem) {
                (Unary::Neg, Elem::I32) => "neg.s32",
                (Unary::Neg, _) => "neg.f32",
                (Unary::Exp2, _) => "ex2.approx.ftz.f32",
                (Unary::Log2, _) => "lg2.approx.ftz.f32",
                (Unary::Recip, _) => "rcp.approx.ftz.f32",
                (Unary::Tanh, _) => "tanh.approx.f32",
                (Unary::Not, _) => "not.pred",
            },
            Op::Binary(op, ..) => match (op, elem) {
                (Binary::Add, Elem::I32) => "add.s32",
                (Binary::Add, _) => "add.f32",
                (Binary::Sub, Elem::I32) => "sub.s32",
                (Binary::Sub, _) => "sub.f32",
                (Binary::Mul, Elem::I32) => "mul.lo.s32",
                (Binary::Mul, _) => "mul.f32",
                (Binary::Div, Elem::I32) => "div.s32",
                (Binary::Div, _) => "div.full.f32",
                (Binary::Rem, _) => "rem.s32",
                (Binary::Min, Elem::I32) => "min.s32",
                (Binary::Min, _) => "min.f32",
                (Binary::Max, Elem::I32) => "max.s32",
                (Binary::Max, _) => "max.f32",
                (Binary::And, _) => "and.pred",
                (Binary::Or, _) => "or.pred",
            },
            Op::Compare(op, ..) => match (op, source) {
                (Compare::Eq, Elem::I32) => "setp.eq.s32",
                (Compare::Ne, Elem::I32) => "setp.ne.s32",
                (Compare::Lt, Elem::I32) => "setp.lt.s32",
                (Compare::Le, Elem::I32) => "setp.le.s32",
                (Compare::Gt, Elem::I32) => "setp.gt.s32",
                (Compare::Ge, Elem::I32) => "setp.ge.s32",
                (Compare::Eq, _) => "setp.eq.f32",
                (Compare::Ne, _) => "setp.ne.f32",
                (Compare::Lt, _) => "setp.lt.f32",
                (Compare::Le, _) => "setp.le.f32",
                (Compare::Gt, _) => "setp.gt.f32",
                (Compare::Ge, _) => "setp.ge.f32",
            },
            Op::Select(..) => {
                if let Operand::Int(known) = operands[0] {
                    return operands.swap_remove(if known != 0 { 1 } else { 2 });
                }
                operands.rotate_left(1);
                if elem == Elem::Bool {
                    return self.select_truth(operands, into);
                }
                if elem == Elem::F32 { "selp.f32" } else { "selp.b32" }
            }
            Op::Fma(..) => "fma.rn.f32",
            Op::Convert(_) => "cvt.rn.f32.s32",
            Op::Broadcast(_) => return operands.swap_remove(0),
            _ => unreachable!("arithmetic"),
        };
        if let (Op::Binary(connective @ (Binary::And | Binary::Or), ..), None) = (op, into)
            && let [other, Operand::Int(known)] | [Operand::Int(known), other] = operands.as_slice()
        {
            let decides = (*known != 0) == (*connective == Binary::Or);
            return if decides { Operand::Int(*known) } else { other.clone() };
        }
        // A truth constant has no immediate form.
        if matches!(op, Op::Unary(Unary::Not, _) | Op::Binary(Binary::And | Binary::Or, ..)) {
            operands = operands.into_iter().map(|o| self.in_predicate(o).into()).collect();
        }
        let dst = match into {
            Some(dst) => {
                self.e.inst(form, [Operand::Reg(dst)].into_iter().chain(operands));
                dst
            }
            None => match share {
                Share::No => self.e.op(class(elem), form, operands),
                Share::Level => self.e.local(class(elem), form, operands),
                Share::All => self.e.cheap(class(elem), form, operands),
            },
        };
        dst.into()
    }

    /// `p ? a : b` on predicates: `(p & a) | (!p & b)`. The operands come as `a, b, p`.
    fn select_truth(&mut self, operands: Vec<Operand>, into: Option<Reg>) -> Operand {
        let [a, b, p]: [Reg; 3] =
            operands.into_iter().map(|o| self.in_predicate(o)).collect::<Vec<_>>().try_into().expect("three operands");
        let yes = self.e.op(Class::Pred, "and.pred", [p.into(), a.into()]);
        let not = self.e.op(Class::Pred, "not.pred", [p.into()]);
        let no = self.e.op(Class::Pred, "and.pred", [not.into(), b.into()]);
        let dst = into.unwrap_or_else(|| self.e.reg(Class::Pred));
        self.e.inst("or.pred", [dst.into(), yes.into(), no.into()]);
        dst.into()
    }

    /// A truth operand as a predicate register.
    pub(super) fn in_predicate(&mut self, operand: Operand) -> Reg {
        match operand {
            Operand::Reg(reg) => reg,
            Operand::Int(value) => self.e.invariant(Class::Pred, "setp.ne.s32", [Operand::Int(value), Operand::Int(0)]),
            _ => unreachable!("a truth value"),
        }
    }

    /// Reduces the columns of a tile. A maximum is completed over the four lanes that share a row; a sum stays spread over
    /// them.
    pub(super) fn reduce(&mut self, op: Reduce, x: ValueId, result: ValueId) {
        let form = match op {
            Reduce::Max => "max.f32",
            Reduce::Sum => "add.f32",
        };
        let (blocks, _) = self.shape_of(x);
        let into = self.home(result);
        let mut regs = Vec::with_capacity(self.bands() * 2);
        for band in 0..self.bands() {
            for half in 0..2 {
                // One chain a row: the other rows hide its latency, and it holds one register.
                let mut local = self.element(x, Cell { band, block: 0, cell: half * 2 });
                for i in 1..blocks * 2 {
                    let element = self.element(x, Cell { band, block: i / 2, cell: half * 2 + i % 2 });
                    local = self.e.op(Class::F32, form, [local, element]).into();
                }
                let mut reg = self.e.in_reg(Class::F32, local);
                if op == Reduce::Max {
                    reg = self.quad(form, reg);
                }
                if let Some(into) = &into {
                    self.e.mov(into[regs.len()], reg.into());
                    reg = into[regs.len()];
                }
                regs.push(reg);
            }
        }
        self.set(result, Low::Rows(regs));
    }

    /// Combines a register over the four lanes that share a row.
    pub(super) fn quad(&mut self, form: &'static str, mut reg: Reg) -> Reg {
        for distance in [1i64, 2] {
            let other = self.shuffle(reg, distance);
            reg = self.e.op(Class::F32, form, [reg.into(), other.into()]);
        }
        reg
    }

    /// The register of the lane whose number differs by `mask`.
    pub(super) fn shuffle(&mut self, reg: Reg, mask: i64) -> Reg {
        self.e.op(reg.class, "shfl.sync.bfly.b32", [reg.into(), mask.into(), 31i64.into(), 0xffff_ffffi64.into()])
    }

    /// The instruction that rounds two f32 into one register.
    pub(super) fn packing(elem: Elem) -> &'static str {
        if elem == Elem::Bf16 { "cvt.rn.bf16x2.f32" } else { "cvt.rn.f16x2.f32" }
    }

    /// To 16 bits: pairs of neighbouring columns share a register.
    pub(super) fn pack(&mut self, x: ValueId, elem: Elem, result: ValueId) {
        let form = Self::packing(elem);
        let (blocks, split) = self.shape_of(x);
        let into = self.home(result);
        let mut regs = Vec::with_capacity(self.bands() * blocks * 2);
        for band in 0..self.bands() {
            for block in 0..blocks {
                for half in 0..2 {
                    let low = self.element(x, Cell { band, block, cell: half * 2 });
                    let high = self.element(x, Cell { band, block, cell: half * 2 + 1 });
                    let reg = match &into {
                        Some(into) => into[regs.len()],
                        None => self.e.reg(Class::B32),
                    };
                    self.e.inst(form, [reg.into(), high, low]);
                    regs.push(reg);
                }
            }
        }
        self.set(result, Low::Packed(Tile { regs, blocks, split }));
    }

    /// From 16 bits: each register has a pair of neighbouring columns, the first in its low half. A bf16 is the high half of
    /// the f32 that it stands for.
    pub(super) fn unpack(&mut self, x: ValueId, result: ValueId) {
        let Low::Packed(tile) = self.get(x).clone() else { unreachable!("layout: a 16-bit tile in registers") };
        let bf16 = self.ty(x).elem == Elem::Bf16;
        let mut regs = Vec::with_capacity(tile.regs.len() * 2);
        for pair in tile.regs {
            let halves = if bf16 {
                let low = self.e.op(Class::B32, "shl.b32", [pair.into(), 16i64.into()]);
                let high = self.e.op(Class::B32, "and.b32", [pair.into(), 0xffff_0000i64.into()]);
                [low, high].map(|bits| self.e.op(Class::F32, "mov.b32", [bits.into()]))
            } else {
                let halves = [self.e.reg(Class::B16), self.e.reg(Class::B16)];
                self.e.inst("mov.b32", [halves.to_vec().into(), pair.into()]);
                halves.map(|half| self.e.op(Class::F32, "cvt.f32.f16", [half.into()]))
            };
            regs.extend(halves);
        }
        self.set(result, Low::Tile(Tile { regs, blocks: tile.blocks, split: tile.split }));
    }
}

/// Scalar arithmetic on constants, and what leaves an operand as it is.
fn fold(op: &Op, operands: &[Operand]) -> Option<Low> {
    let int = |v: i64| Some(Low::Const(Const::I32(v as i32)));
    let truth = |v: bool| Some(Low::Const(Const::Bool(v)));
    let same = |o: &Operand| match o {
        Operand::Reg(reg) => Some(Low::Scalar(*reg)),
        _ => None,
    };
    match (op, operands) {
        (Op::Binary(op, ..), [Operand::Int(x), Operand::Int(y)]) => {
            let (x, y) = (*x, *y);
            match op {
                Binary::Add => int((x as i32).wrapping_add(y as i32).into()),
                Binary::Sub => int((x as i32).wrapping_sub(y as i32).into()),
                Binary::Mul => int((x as i32).wrapping_mul(y as i32).into()),
                Binary::Div if y > 0 => int(x / y),
                Binary::Rem if y > 0 => int(x % y),
                Binary::Min => int(x.min(y)),
                Binary::Max => int(x.max(y)),
                Binary::And => truth(x != 0 && y != 0),
                Binary::Or => truth(x != 0 || y != 0),
                _ => None,
            }
        }
        (Op::Binary(Binary::Add, ..), [x, Operand::Int(0)] | [Operand::Int(0), x]) => same(x),
        (Op::Binary(Binary::Sub, ..), [x, Operand::Int(0)]) => same(x),
        (Op::Binary(Binary::Mul | Binary::And, ..), [x, Operand::Int(1)] | [Operand::Int(1), x]) => same(x),
        (Op::Binary(Binary::Div, ..), [x, Operand::Int(1)]) => same(x),
        (Op::Binary(Binary::And, ..), [_, Operand::Int(0)] | [Operand::Int(0), _]) => truth(false),
        (Op::Binary(Binary::Or, ..), [x, Operand::Int(0)] | [Operand::Int(0), x]) => same(x),
        (Op::Binary(Binary::Or, ..), [_, Operand::Int(1)] | [Operand::Int(1), _]) => truth(true),
        (Op::Compare(op, ..), [Operand::Int(x), Operand::Int(y)]) => truth(match op {
            Compare::Eq => x == y,
            Compare::Ne => x != y,
            Compare::Lt => x < y,
            Compare::Le => x <= y,
            Compare::Gt => x > y,
            Compare::Ge => x >= y,
        }),
        (Op::Unary(Unary::Not, _), [Operand::Int(x)]) => truth(*x == 0),
        (Op::Unary(Unary::Neg, _), [Operand::Int(x)]) => int((*x as i32).wrapping_neg().into()),
        (Op::Select(..), [Operand::Int(c), a, b]) => {
            let taken = if *c != 0 { a } else { b };
            match taken {
                Operand::Reg(reg) => Some(Low::Scalar(*reg)),
                Operand::Int(v) => int(*v),
                Operand::Float(bits) => Some(Low::Const(Const::F32(*bits))),
                _ => None,
            }
        }
        _ => None,
    }
}
