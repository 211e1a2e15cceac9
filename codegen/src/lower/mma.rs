//! Products on tensor cores: `ldmatrix` and `mma.sync.m16n8k16`, f32 accumulators.
//!
//! A warp owns whole bands of 16 rows. The left operand is in registers, or is read from shared memory a step of 16 at a
//! time; the right operand is read from shared memory, 16 columns by 16 of the contraction with one `ldmatrix.x4`, plain
//! where its rows are the result's columns (`q · kᵀ`) and transposed where its rows are contracted (`p · v`).

use lacuna_ptx::{Class, Operand, Reg};

use super::Lower;
use super::shared::TileLayout;
use super::value::{Cell, Low, Tile};
use crate::ir::{BufferId, Elem, ValueId};

/// The lanes' addresses of one operand in shared memory.
struct Matrix {
    tile: TileLayout,
    /// A register for each pair of chunks among those that are permuted; the rest is an immediate.
    bases: Vec<Reg>,
    offset: u32,
}

impl Matrix {
    /// The address of the 16 x 16 matrix at `row` (a multiple of 8) and pair of chunks `pair`.
    fn at(&self, row: u32, pair: u32) -> Operand {
        let pairs = self.tile.span() / 2;
        let beyond = self.tile.ahead(pair / pairs * self.tile.span() * super::shared::CHUNK);
        super::Emit::at(self.bases[(pair % pairs) as usize], self.offset + row * self.tile.pitch + beyond)
    }
}

/// How the 32 lanes name the 32 rows of an `ldmatrix.x4`.
#[derive(Clone, Copy)]
enum Lanes {
    /// Rows `lane % 16`, chunk `lane / 16`: a left operand, or a transposed right one.
    RowsFirst,
    /// Rows `lane % 8 + 8 (lane / 16)`, chunk `lane / 8 % 2`: a right operand whose rows are the result's columns.
    ColsFirst,
}

impl Lower<'_> {
    /// The address of a slot: a register for what is not known, and bytes.
    pub(super) fn slot_base(&mut self, buffer: BufferId, slot: Operand, tile: TileLayout) -> (Option<Reg>, u32) {
        let offset = self.shared.offset(buffer);
        match slot {
            Operand::Int(slot) => (None, offset + slot as u32 * tile.bytes()),
            slot => {
                let bytes = self.e.mul(slot, i64::from(tile.bytes()));
                (Some(self.e.in_reg(Class::B32, bytes)), offset)
            }
        }
    }

    /// A place within a tile brought to a slot.
    pub(super) fn shared_address(&mut self, place: Reg, slot: &(Option<Reg>, u32), bytes: u32) -> (Reg, u32) {
        match slot.0 {
            None => (place, slot.1 + bytes),
            Some(dynamic) => (self.e.invariant(Class::B32, "add.s32", [place.into(), dynamic.into()]), slot.1 + bytes),
        }
    }

    /// The shared address of 16-byte chunk `chunk` of row `row + ahead` in a tile that begins where shared memory does.
    pub(super) fn chunk_place(&mut self, tile: TileLayout, row: Reg, chunk: Reg, ahead: u32) -> Reg {
        let row = self.e.add(row.into(), i64::from(ahead).into());
        let row = self.e.in_reg(Class::B32, row);
        let mut twist = row;
        if tile.row_shift() > 0 {
            twist = self.e.invariant(Class::B32, "shr.u32", [twist.into(), i64::from(tile.row_shift()).into()]);
        }
        let twist = self.e.invariant(Class::B32, "and.b32", [twist.into(), i64::from(tile.span() - 1).into()]);
        let chunk = self.e.invariant(Class::B32, "xor.b32", [chunk.into(), twist.into()]);
        let chunk = self.e.mul(chunk.into(), 16);
        let row = self.e.mul(row.into(), i64::from(tile.pitch));
        let place = self.e.add(row, chunk);
        let memory = self.e.invariant(Class::B32, "mov.u32", [Operand::Symbol(super::SHARED.to_owned())]);
        let place = self.e.add(place, memory.into());
        self.e.in_reg(Class::B32, place)
    }

    /// The lanes' addresses of the operand in `buffer`, from row `first` on, a multiple of 8.
    fn matrix(&mut self, buffer: BufferId, slot: Operand, lanes: Lanes, first: Operand) -> Matrix {
        let tile = TileLayout::of(self.func, &self.func.buffers[buffer.index()]);
        let lane = self.lane();
        let (row, chunk) = match lanes {
            Lanes::RowsFirst => (
                self.e.cheap(Class::B32, "and.b32", [lane.into(), 15i64.into()]),
                self.e.cheap(Class::B32, "shr.u32", [lane.into(), 4i64.into()]),
            ),
            Lanes::ColsFirst => {
                let low = self.e.invariant(Class::B32, "and.b32", [lane.into(), 7i64.into()]);
                let high = self.e.invariant(Class::B32, "shr.u32", [lane.into(), 4i64.into()]);
                let high = self.e.mul(high.into(), 8);
                let row = self.e.add(low.into(), high);
                let chunk = self.e.invariant(Class::B32, "shr.u32", [lane.into(), 3i64.into()]);
                (self.e.in_reg(Class::B32, row), self.e.invariant(Class::B32, "and.b32", [chunk.into(), 1i64.into()]))
            }
        };
        let slot = self.slot_base(buffer, slot, tile);
        let place = self.chunk_place(tile, row, chunk, 0);
        // `first` is a multiple of the rows after which the permutation repeats: it moves the lanes' places and no more.
        let first = match first {
            Operand::Int(rows) => Operand::Int(rows * i64::from(tile.pitch)),
            rows => self.e.cheap(Class::B32, "mul.lo.s32", [rows, i64::from(tile.pitch).into()]).into(),
        };
        let place = self.near_sum(place.into(), first);
        let place = self.e.in_reg(Class::B32, place);
        let (first, offset) = self.shared_address(place, &slot, 0);
        // Slots and rows begin at multiples of the permuted bytes, so another pair of chunks is another pattern of the
        // address bits above a pair: one register has to live, not one a pair.
        let bases = (0..tile.span() / 2)
            .map(|pair| match pair {
                0 => first,
                pair => self.e.op(Class::B32, "xor.b32", [first.into(), i64::from(pair * 32).into()]),
            })
            .collect();
        Matrix { tile, bases, offset }
    }

    fn load_matrix(&mut self, matrix: &Matrix, row: u32, pair: u32, transposed: bool) -> Vec<Reg> {
        let form = if transposed {
            "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"
        } else {
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16"
        };
        let regs: Vec<Reg> = (0..4).map(|_| self.e.reg(Class::B32)).collect();
        self.e.inst(form, [regs.clone().into(), matrix.at(row, pair)]);
        regs
    }

    /// A warp's first row of the row axis.
    fn first_row(&mut self) -> Operand {
        let (warp_row, _) = self.warp_grid();
        let rows = self.bands() as i64 * 16;
        self.e.mul(warp_row, rows)
    }

    /// A shared tile into registers as the left operand.
    pub(super) fn operand(&mut self, shared: ValueId, result: ValueId) {
        let Low::Shared(buffer, slot) = self.get(shared).clone() else { unreachable!("verified: a shared tile") };
        let first = self.first_row();
        let matrix = self.matrix(buffer, slot, Lanes::RowsFirst, first);
        let steps = matrix.tile.chunks() / 2;
        let blocks = steps as usize * 2;
        let mut regs = vec![None; self.bands() * blocks * 2];
        for band in 0..self.bands() {
            for step in 0..steps {
                let four = self.load_matrix(&matrix, band as u32 * 16, step, false);
                for (r, reg) in four.into_iter().enumerate() {
                    regs[(band * blocks + step as usize * 2 + r / 2) * 2 + r % 2] = Some(reg);
                }
            }
        }
        let regs = regs.into_iter().map(|r| r.expect("every step of every band is loaded")).collect();
        self.set(result, Low::Packed(Tile { regs, blocks, split: false }));
    }

    /// `acc += lhs · rhs`, or `acc = lhs · rhs` where `fresh`: its first step then adds to zero.
    pub(super) fn product(&mut self, acc: &Tile, lhs: ValueId, rhs: ValueId, fresh: bool) {
        let elem = self.ty(lhs).elem;
        let form = match elem {
            Elem::F16 => "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
            _ => "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
        };
        let contracted = self.ty(lhs).axes[1];
        let transposed = self.ty(rhs).axes[0] == contracted;
        let (_, warp_col) = self.warp_grid();
        let shares_contraction = Some(contracted) == self.part.col_axis && self.part.cols > 1;

        let Low::Shared(buffer, slot) = self.get(rhs).clone() else { unreachable!("verified: a shared tile") };
        // Rows of the right operand that are this warp's: its columns of the result, or its part of the contraction.
        let own = if acc.split {
            self.e.mul(warp_col, acc.blocks as i64 * 8)
        } else if shares_contraction {
            let extent = self.func.axes[contracted.index()].extent / self.part.cols;
            self.e.mul(warp_col, i64::from(extent))
        } else {
            Operand::Int(0)
        };
        let lanes = if transposed { Lanes::RowsFirst } else { Lanes::ColsFirst };
        let right = self.matrix(buffer, slot, lanes, own);
        let extent = self.func.axes[contracted.index()].extent / if shares_contraction { self.part.cols } else { 1 };

        let mut left = match self.get(lhs).clone() {
            Low::Packed(tile) => Left::Registers(tile),
            Low::Stepped(tile) => {
                let sums = self.placement.summed.get(&tile).map(|summed| match summed.start {
                    None => vec![None; self.bands() * 2],
                    Some(start) => match self.get(start) {
                        Low::Rows(regs) => regs.iter().copied().map(Some).collect(),
                        _ => unreachable!("verified: a sum over the rows"),
                    },
                });
                Left::Stepped(Stepped { tile, form: Self::packing(elem), sums })
            }
            Low::Shared(buffer, slot) => {
                let first = self.first_row();
                Left::Shared(self.matrix(buffer, slot, Lanes::RowsFirst, first))
            }
            _ => unreachable!("verified: a tile of 16-bit elements"),
        };
        let zero = fresh.then(|| self.e.invariant(Class::F32, "mov.f32", [0f32.into()]));
        for step in 0..extent / 16 {
            let bands: Vec<[Reg; 4]> = (0..self.bands())
                .map(|band| match &mut left {
                    Left::Stepped(stepped) => self.made_step(stepped, band, step as usize),
                    Left::Registers(tile) => {
                        let first = (band * tile.blocks + step as usize * 2) * 2;
                        tile.regs[first..first + 4].try_into().expect("four registers a step")
                    }
                    Left::Shared(matrix) => self
                        .load_matrix(matrix, band as u32 * 16, step, false)
                        .try_into()
                        .expect("four registers a matrix"),
                })
                .collect();
            for pair in 0..acc.blocks.div_ceil(2) {
                let b = if transposed {
                    self.load_matrix(&right, step * 16, pair as u32, true)
                } else {
                    self.load_matrix(&right, pair as u32 * 16, step, false)
                };
                for (band, a) in bands.iter().enumerate() {
                    for (j, b) in b.chunks(2).enumerate().take(acc.blocks - pair * 2) {
                        let first = (band * acc.blocks + pair * 2 + j) * 4;
                        let d = acc.regs[first..first + 4].to_vec();
                        let c = match zero {
                            Some(zero) if step == 0 => vec![zero; 4],
                            _ => d.clone(),
                        };
                        self.e.inst(form, [d.into(), a.to_vec().into(), b.to_vec().into(), c.into()]);
                    }
                }
            }
        }
        if let Left::Stepped(Stepped { tile, sums: Some(sums), .. }) = left {
            let sums = sums.into_iter().map(|sum| sum.expect("a product has one step at least")).collect();
            self.set(self.placement.summed[&tile].result, Low::Rows(sums));
        }
    }

    /// One step of a left operand, 16 columns of a band, made here; its elements join the row sums in order of columns.
    fn made_step(&mut self, stepped: &mut Stepped, band: usize, step: usize) -> [Reg; 4] {
        let mut regs = Vec::with_capacity(4);
        for block in [step * 2, step * 2 + 1] {
            for half in 0..2 {
                let [low, high] =
                    [0, 1].map(|pair| self.element(stepped.tile, Cell { band, block, cell: half * 2 + pair }));
                if let Some(sums) = &mut stepped.sums {
                    let sum = &mut sums[band * 2 + half];
                    let with_low = match *sum {
                        Some(sum) => self.e.op(Class::F32, "add.f32", [sum.into(), low.clone()]).into(),
                        None => low.clone(),
                    };
                    *sum = Some(self.e.op(Class::F32, "add.f32", [with_low, high.clone()]));
                }
                regs.push(self.e.op(Class::B32, stepped.form, [high, low]));
            }
        }
        regs.try_into().expect("two blocks have two halves each")
    }
}

/// Where the left operand is.
enum Left {
    Registers(Tile),
    Shared(Matrix),
    Stepped(Stepped),
}

/// A left operand that is made as the product needs it.
struct Stepped {
    /// What it is rounded from.
    tile: ValueId,
    /// The instruction that rounds.
    form: &'static str,
    /// The row sums so far, where they are wanted.
    sums: Option<Vec<Option<Reg>>>,
}
