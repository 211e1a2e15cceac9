//! Completing an online softmax whose columns were shared out.
//!
//! Lanes first: a row's sum is spread over four. Then warps, where several had parts of the columns: each writes its maxima,
//! sums and output to shared memory, over the buffers of the loop that has ended; each then reads every part of a share of
//! the output's columns. With `c` the scale, `m = max m_w`, `f_w = 2^((m_w - m) c)`, `l = Σ l_w f_w`, `o = Σ o_w f_w`.

use lacuna_ptx::{Class, Operand, Reg};

use super::value::Tile;
use super::{Lower, VarRegs};
use crate::ir::VarId;

/// A row of a part: its output, then maximum and sum, padded so that the rows of a store fall into different banks.
const PAD: u32 = 8;

/// Shared memory that a merge takes.
pub(super) fn scratch_bytes(rows: u32, features: u32, parts: u32) -> u32 {
    if parts > 1 { parts * rows * (features + PAD) * 4 } else { 0 }
}

impl Lower<'_> {
    pub(super) fn merge(&mut self, max: VarId, sum: VarId, acc: Option<VarId>, scale: Operand) -> Vec<Reg> {
        let (VarRegs::Rows(m), VarRegs::Rows(l)) = (self.vars[max.index()].clone(), self.vars[sum.index()].clone())
        else {
            unreachable!("verified: row vectors")
        };
        // Without an output it is one of no features.
        let o = match acc.map(|acc| self.vars[acc.index()].clone()) {
            None => Tile { regs: Vec::new(), blocks: 0, split: false },
            Some(VarRegs::Tile(o)) => o,
            Some(_) => unreachable!("verified: a tile"),
        };
        let l: Vec<Reg> = l.into_iter().map(|reg| self.quad("add.f32", reg)).collect();
        let parts = self.part.cols;
        if parts == 1 {
            return l;
        }

        let features = o.blocks as u32 * 8;
        let pitch = (features + PAD) * 4;
        let tile_rows = self.func.axes[self.func.vars[max.index()].ty.axes[0].index()].extent;
        let (_, warp_col) = self.warp_grid();
        let memory = self.e.invariant(Class::B32, "mov.u32", [Operand::Symbol(super::SHARED.to_owned())]);
        let row = self.row(0, 0);
        let rows = self.e.mul(row, i64::from(pitch));
        let rows = self.e.add(rows, memory.into());
        let lane = self.lane();
        let quad = self.e.invariant(Class::B32, "and.b32", [lane.into(), 3i64.into()]);
        let pair = self.e.mul(quad.into(), 8);
        let cells = self.e.add(rows.clone(), pair);
        let part_bytes = tile_rows * pitch;
        let own = self.e.mul(warp_col.clone(), i64::from(part_bytes));
        let own_cells = self.e.add(cells.clone(), own.clone());
        let own_cells = self.e.in_reg(Class::B32, own_cells);
        let own_rows = self.e.add(rows.clone(), own);
        let own_rows = self.e.in_reg(Class::B32, own_rows);
        let first_lane = self.e.invariant(Class::Pred, "setp.eq.s32", [quad.into(), 0i64.into()]);

        // Every warp is done with the loop's buffers.
        self.e.inst("bar.sync", [0i64.into()]);
        let at_row = |band: usize, half: usize| (band * 16 + half * 8) as u32 * pitch;
        for band in 0..self.bands() {
            for half in 0..2 {
                for block in 0..o.blocks {
                    let first = (band * o.blocks + block) * 4 + half * 2;
                    let to = super::Emit::at(own_cells, at_row(band, half) + block as u32 * 32);
                    self.e.inst("st.shared.v2.f32", [to, vec![o.regs[first], o.regs[first + 1]].into()]);
                }
                let to = super::Emit::at(own_rows, at_row(band, half) + features * 4);
                let state = vec![m[band * 2 + half], l[band * 2 + half]];
                self.e.guarded((first_lane, false), "st.shared.v2.f32", [to, state.into()]);
            }
        }
        self.e.inst("bar.sync", [0i64.into()]);

        let rows = self.e.in_reg(Class::B32, rows);
        let blocks = o.blocks / parts as usize;
        let share = self.e.mul(warp_col, blocks as i64 * 32);
        let cells = self.e.add(cells, share);
        let cells = self.e.in_reg(Class::B32, cells);
        let merged = self.e.mutables(Class::F32, self.bands() * blocks * 4);
        let mut totals = Vec::with_capacity(l.len());
        for band in 0..self.bands() {
            for half in 0..2 {
                let states: Vec<[Reg; 2]> = (0..parts)
                    .map(|part| {
                        let state = [self.e.reg(Class::F32), self.e.reg(Class::F32)];
                        let from = super::Emit::at(rows, part * part_bytes + at_row(band, half) + features * 4);
                        self.e.inst("ld.shared.v2.f32", [state.to_vec().into(), from]);
                        state
                    })
                    .collect();
                let whole = self.max_of(&states);
                let finite = self.or_zero_at_minus_infinity(whole);
                let mut total: Option<Reg> = None;
                let mut factors = Vec::new();
                for [part_max, part_sum] in &states {
                    let below = self.e.op(Class::F32, "sub.f32", [(*part_max).into(), finite.into()]);
                    let below = self.e.op(Class::F32, "mul.f32", [below.into(), scale.clone()]);
                    let factor = self.e.op(Class::F32, "ex2.approx.ftz.f32", [below.into()]);
                    total = Some(match total {
                        None => self.e.op(Class::F32, "mul.f32", [(*part_sum).into(), factor.into()]),
                        Some(t) => self.e.op(Class::F32, "fma.rn.f32", [(*part_sum).into(), factor.into(), t.into()]),
                    });
                    factors.push(factor);
                }
                self.e.mov(m[band * 2 + half], whole.into());
                totals.push(total.expect("one part at least"));
                for block in 0..blocks {
                    let first = (band * blocks + block) * 4 + half * 2;
                    for (part, factor) in factors.iter().enumerate() {
                        let two = [self.e.reg(Class::F32), self.e.reg(Class::F32)];
                        let offset = part as u32 * part_bytes + at_row(band, half) + block as u32 * 32;
                        self.e.inst("ld.shared.v2.f32", [two.to_vec().into(), super::Emit::at(cells, offset)]);
                        for (j, cell) in two.into_iter().enumerate() {
                            let to = merged[first + j];
                            if part == 0 {
                                self.e.inst("mul.f32", [to.into(), cell.into(), (*factor).into()]);
                            } else {
                                self.e.inst("fma.rn.f32", [to.into(), cell.into(), (*factor).into(), to.into()]);
                            }
                        }
                    }
                }
            }
        }
        if let Some(acc) = acc {
            self.vars[acc.index()] = VarRegs::Tile(Tile { regs: merged, blocks, split: true });
        }
        totals
    }

    fn max_of(&mut self, states: &[[Reg; 2]]) -> Reg {
        let mut whole = states[0][0];
        for [max, _] in &states[1..] {
            whole = self.e.op(Class::F32, "max.f32", [whole.into(), (*max).into()]);
        }
        whole
    }

    /// A row that saw no key has a maximum of -inf; minus that, 0 keeps every difference a number.
    fn or_zero_at_minus_infinity(&mut self, max: Reg) -> Reg {
        let empty = self.e.op(Class::Pred, "setp.eq.f32", [max.into(), f32::NEG_INFINITY.into()]);
        self.e.op(Class::F32, "selp.f32", [0f32.into(), max.into(), empty.into()])
    }
}
