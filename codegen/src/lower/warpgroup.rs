//! Warpgroups: roles, tiles that a producer fetches, products of 64 rows.
//!
//! One thread of the last warpgroup starts bulk tensor copies; the bytes that land complete the `full` barrier of a slot, an
//! arrival of each consumer warp its `empty` one. Warps beside that thread gather rows (`gather`), and arrive themselves. A warpgroup's accumulators lie as those of four warps with a band of 16
//! rows each: register `4 j + c` of a lane is its cell `c` of column block `j`, so everything but products is lowered as for
//! `mma.sync`. Right operands, and left ones that were fetched, are read where they lie, by descriptors:
//!
//! ```text
//! bits    0..14  address / 16                       48 KiB and more: shared addresses are below 256 KiB
//!        16..30  bytes between panels / 16          where the rows of the tile are contracted; else not looked at
//!        32..46  bytes of 8 rows of a panel / 16
//!        62..64  swizzle: 1, 2, 3 for panels of 128, 64, 32 bytes
//! ```
//!
//! A step of 16 along the contraction is 32 bytes within a panel, then the next panel, where the rows are the result's; 16
//! rows where rows are contracted.

use lacuna_ptx::{Address, Class, Form, Operand, Param, ParamType, Reg};

use super::shared::{DRAWN, TileLayout};
use super::value::Low;
use super::{Lower, VarRegs};
use crate::ir::{BestId, BufferId, Elem, Op, ParamId, Slice, Stmt, ValueId, VarId};
use crate::plan::{RAGGED_ORIGIN, Swizzle};

/// The barrier at which consumers meet; 0 is where all threads do, before they part.
const MEETING: i64 = 1;

/// The barrier at which the first warpgroup waits for its turn; the others' follow.
const TURNS: i64 = 2;

/// Threads of the warpgroup that waits for its turn, and of the one that passes it.
const BETWEEN_TWO: i64 = 256;

/// A tensor map that a kernel takes: boxes of rows of one head of a tensor `[rows, heads, features]`, which end where a document
/// does ([`TensorMap::ragged`](crate::plan::TensorMap::ragged)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boxes {
    /// The parameter's name.
    pub name: String,
    /// The tensor.
    pub tensor: ParamId,
    /// Rows of a box.
    pub rows: u32,
    /// Features of a box: those of a panel.
    pub features: u32,
    /// How a box lies in shared memory.
    pub swizzle: Swizzle,
}

impl Boxes {
    pub(super) fn param(&self) -> Param {
        Param { name: self.name.clone(), ty: ParamType::Bytes { align: 64, bytes: 128 } }
    }
}

/// Which barrier of a slot.
#[derive(Clone, Copy)]
enum Turn {
    Full,
    Empty,
}

/// Where the k16 steps of an operand in shared memory are.
struct Operands {
    /// The low half of the first step's descriptor.
    low: Operand,
    /// The high half of all of them.
    high: Reg,
    tile: TileLayout,
    /// Whether rows are contracted.
    by_rows: bool,
}

impl Lower<'_> {
    /// Sets up what the roles share, and parts them: `fetch` makes what the producer's thread does, `gather` what the warps beside
    /// it do that fill these rings, and what follows is the consumers'.
    pub(super) fn part(
        &mut self,
        gathered: &[BufferId],
        fetch: impl FnOnce(&mut Self),
        gather: impl FnOnce(&mut Self),
    ) {
        let roles = self.part.roles.expect("a func with a producer has roles");
        // Before the branch, so that every thread has them.
        let (tid, memory) = (self.tid(), self.memory());
        let first = self.e.op(Class::Pred, "setp.ne.s32", [tid.into(), 0i64.into()]);
        let ready = self.e.label("ready");
        self.e.guarded((first, false), "bra", [Operand::Label(ready.clone())]);
        self.make_barriers(memory, gathered);
        self.e.inst("fence.mbarrier_init.release.cluster", []);
        self.e.place(&ready);
        self.e.inst("bar.sync", [0i64.into()]);

        // The same in every lane, also to ptxas.
        let group = self.e.op(Class::B32, "shr.u32", [tid.into(), 7i64.into()]);
        let all = [group.into(), 0i64.into(), 31i64.into(), 0xffff_ffffi64.into()];
        let group = self.e.op(Class::B32, "shfl.sync.idx.b32", all);
        self.group = Some(group);
        let last = i64::from(self.func.warps / crate::passes::WARPGROUP);
        let computes = self.e.op(Class::Pred, "setp.lt.s32", [group.into(), last.into()]);
        let consumers = self.e.label("consumers");
        self.e.guarded((computes, false), "bra", [Operand::Label(consumers.clone())]);
        self.e.open(false);
        self.e.inst("setmaxnreg.dec.sync.aligned.u32", [i64::from(roles.producer).into()]);
        let threads = i64::from(self.func.warps + 1) * 32;
        let idle = self.e.op(Class::Pred, "setp.ge.s32", [tid.into(), threads.into()]);
        let beside = (!gathered.is_empty()).then(|| self.e.label("gatherers"));
        match &beside {
            Some(beside) => self.e.guarded((idle, false), "bra", [Operand::Label(beside.clone())]),
            None => self.e.guarded((idle, false), "ret", []),
        }
        let elected = self.e.reg(Class::Pred);
        self.e.inst("elect.sync", [Operand::WithPred(None, elected), 0xffff_ffffi64.into()]);
        self.e.guarded((elected, true), "ret", []);
        fetch(self);
        self.e.inst("ret", []);
        if let Some(beside) = beside {
            self.e.close();
            self.e.forget();
            self.e.open(false);
            self.e.place(&beside);
            self.begin_gatherers(gathered);
            gather(self);
            self.gatherer = None;
            self.e.inst("ret", []);
        }
        self.e.place(&consumers);
        self.e.close();
    }

    /// The barriers of each slot: by whom it is filled, a thread or the lanes of a warp, and by whom emptied.
    fn make_barriers(&mut self, memory: Reg, gathered: &[BufferId]) {
        let warps = self.func.warps;
        let mut all = Vec::new();
        for ring in self.rings() {
            let slots = self.func.buffers[ring.index()].slots;
            let fill = if gathered.contains(&ring) { 32 } else { 1 };
            all.extend([(self.shared.full(ring), fill, slots), (self.shared.empty(self.func, ring), warps, slots)]);
        }
        if self.func.draws {
            let [full, empty] = self.shared.drawn_barriers();
            all.extend([(full, 1, DRAWN), (empty, warps + self.gatherers(gathered), DRAWN)]);
        }
        for (base, arrivals, slots) in all {
            for slot in 0..slots {
                let barrier = super::Emit::at(memory, base + 8 * slot);
                self.e.inst("mbarrier.init.shared::cta.b64", [barrier, i64::from(arrivals).into()]);
            }
        }
    }

    /// What consumers do first.
    pub(super) fn begin_consumers(&mut self, body: &[Stmt]) {
        let roles = self.part.roles.expect("a func with consumers has roles");
        self.e.inst("setmaxnreg.inc.sync.aligned.u32", [i64::from(roles.consumer).into()]);
        self.set_vars(body, self.func.persist);
        (0..self.func.bests.len()).for_each(|best| self.clear(BestId(best as u32)));
        let mut in_turns = false;
        crate::passes::visit(body, &mut |stmt| in_turns |= matches!(stmt.op, Op::Turn));
        if in_turns {
            // The last warpgroup passes the first turn.
            let last = i64::from(self.groups() - 1);
            let group = self.group.expect("roles have parted");
            let passes = self.e.op(Class::Pred, "setp.eq.s32", [group.into(), last.into()]);
            self.e.guarded((passes, false), "bar.arrive", [TURNS.into(), BETWEEN_TWO.into()]);
        }
    }

    /// Warpgroups that multiply.
    fn groups(&self) -> u32 {
        self.func.warps / crate::passes::WARPGROUP
    }

    pub(super) fn turn(&mut self) {
        let group = self.group.expect("turns are the consumers'");
        let own = self.e.invariant(Class::B32, "add.s32", [group.into(), TURNS.into()]);
        self.e.inst("bar.sync", [own.into(), BETWEEN_TWO.into()]);
    }

    pub(super) fn pass(&mut self) {
        let group = self.group.expect("turns are the consumers'");
        let next = self.e.invariant(Class::B32, "add.s32", [group.into(), (TURNS + 1).into()]);
        let end = TURNS + i64::from(self.groups());
        let around = self.e.invariant(Class::Pred, "setp.eq.s32", [next.into(), end.into()]);
        let next = self.e.invariant(Class::B32, "selp.b32", [TURNS.into(), next.into(), around.into()]);
        self.e.inst("bar.arrive", [next.into(), BETWEEN_TWO.into()]);
    }

    /// Sets the vars that a role names: all of them; where CTAs persist, those that last from tile to tile, or the others.
    pub(super) fn set_vars(&mut self, body: &[Stmt], lasting: bool) {
        let mut named = vec![false; self.func.vars.len()];
        crate::passes::visit(body, &mut |stmt| match &stmt.op {
            Op::Read(var) | Op::Write(var, _) | Op::Start { acc: var, .. } => named[var.index()] = true,
            Op::Merge { max, sum, acc, .. } => {
                [Some(max), Some(sum), acc.as_ref()].into_iter().flatten().for_each(|var| named[var.index()] = true);
            }
            _ => {}
        });
        let set = |var: usize| named[var] && (!self.func.persist || self.func.vars[var].lasts == lasting);
        for var in (0..named.len()).filter(|&var| set(var)).collect::<Vec<_>>() {
            self.set_first(VarId(var as u32));
        }
    }

    /// All threads that compute meet.
    pub(super) fn meet_all(&mut self) {
        match self.part.roles {
            None => self.e.inst("bar.sync", [0i64.into()]),
            Some(_) => self.e.inst("bar.sync", [MEETING.into(), i64::from(self.func.warps * 32).into()]),
        }
    }

    fn rings(&self) -> Vec<BufferId> {
        let all = self.func.buffers.iter().enumerate();
        all.filter(|(_, buffer)| buffer.ring).map(|(at, _)| BufferId(at as u32)).collect()
    }

    /// The barrier that says that a slot is full.
    pub(super) fn full_barrier(&mut self, buffer: BufferId, slot: ValueId) -> Operand {
        self.barrier(buffer, slot, Turn::Full)
    }

    /// A slot's barrier.
    fn barrier(&mut self, buffer: BufferId, slot: ValueId, turn: Turn) -> Operand {
        let base = match turn {
            Turn::Full => self.shared.full(buffer),
            Turn::Empty => self.shared.empty(self.func, buffer),
        };
        let memory = self.memory();
        match self.scalar(slot) {
            Operand::Int(slot) => super::Emit::at(memory, base + 8 * slot as u32),
            slot => {
                let bytes = self.e.mul(slot, 8);
                let place = self.e.add(memory.into(), bytes);
                let place = self.e.in_reg(Class::B32, place);
                super::Emit::at(place, base)
            }
        }
    }

    /// Spins until a phase of a barrier is complete.
    pub(super) fn wait_for(&mut self, barrier: Operand, parity: Operand) {
        let head = self.e.label("wait");
        self.e.place(&head);
        let done = self.e.op(Class::Pred, "mbarrier.try_wait.parity.shared::cta.b64", [barrier, parity]);
        self.e.guarded((done, true), "bra", [Operand::Label(head)]);
    }

    pub(super) fn acquire(&mut self, buffer: BufferId, slot: ValueId, phase: ValueId) {
        match self.gatherer {
            // It waits where it fills the slot.
            Some(_) => drop(self.acquired.insert(buffer, [slot, phase])),
            None => self.wait_until_empty(buffer, slot, phase),
        }
    }

    pub(super) fn wait_until_empty(&mut self, buffer: BufferId, slot: ValueId, phase: ValueId) {
        let barrier = self.barrier(buffer, slot, Turn::Empty);
        // Before its first phase a barrier counts as if that of the other parity were complete.
        let parity = match self.scalar(phase) {
            Operand::Int(phase) => Operand::Int(phase ^ 1),
            phase => self.e.op(Class::B32, "xor.b32", [phase, 1i64.into()]).into(),
        };
        self.wait_for(barrier, parity);
    }

    pub(super) fn await_full(&mut self, buffer: BufferId, slot: ValueId, phase: ValueId) {
        let barrier = self.barrier(buffer, slot, Turn::Full);
        let parity = self.scalar(phase);
        self.wait_for(barrier, parity);
    }

    /// One lane of each warp arrives: its products that read the slot have landed.
    pub(super) fn release(&mut self, buffer: BufferId, slot: ValueId) {
        let barrier = self.barrier(buffer, slot, Turn::Empty);
        let lane = self.lane();
        let one = self.e.invariant(Class::Pred, "setp.eq.s32", [lane.into(), 0i64.into()]);
        self.e.guarded((one, false), "mbarrier.arrive.shared::cta.b64", [Operand::Sink, barrier]);
    }

    /// Rows of a tensor into a slot, a box a panel. Coordinates are those of a ragged map: rows end where the count does.
    pub(super) fn fill(&mut self, from: &Slice, buffer: BufferId, slot: ValueId) {
        let tile = TileLayout::of(self.func, &self.func.buffers[buffer.index()]);
        let full = self.barrier(buffer, slot, Turn::Full);
        self.e.inst(
            "mbarrier.arrive.expect_tx.shared::cta.b64",
            [Operand::Sink, full.clone(), i64::from(tile.bytes()).into()],
        );
        let map = self.map(from.tensor, tile);
        let (token, head, count) = (self.scalar(from.index[0]), self.scalar(from.index[1]), self.scalar(from.count));
        let origin = i64::from(RAGGED_ORIGIN);
        let row = self.e.op(Class::B32, "sub.s32", [origin.into(), count.clone()]);
        let end = self.e.add(token, count);
        let rows = [row, self.e.in_reg(Class::B32, end), self.e.in_reg(Class::B32, origin.into())];
        let head = self.e.in_reg(Class::B32, head);

        let slot = self.scalar(slot);
        let slot = self.slot_base(buffer, slot, tile);
        let memory = self.memory();
        let (to, offset) = self.shared_address(memory, &slot, 0);
        for panel in 0..tile.panels {
            let features = i64::from(panel * tile.pitch / self.elem_bytes(from.tensor));
            let feature = self.e.in_reg(Class::B32, features.into());
            let coords = [feature].into_iter().chain(rows).chain([head]).collect();
            let place = Operand::Tensor { map: Address::at(map, 0), coords };
            let to = super::Emit::at(to, offset + panel * tile.panel_bytes());
            self.e.inst(
                "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes",
                [to, place, full.clone()],
            );
        }
    }

    fn elem_bytes(&self, tensor: ParamId) -> u32 {
        match &self.func.params[tensor.index()] {
            crate::ir::Param::Tensor(tensor) => tensor.elem.bytes(),
            crate::ir::Param::Scalar { .. } => unreachable!("verified: a tensor"),
        }
    }

    /// The address of a tensor map.
    fn map(&mut self, tensor: ParamId, tile: TileLayout) -> Reg {
        let features = tile.pitch / self.elem_bytes(tensor);
        let swizzle = match tile.pitch {
            128 => Swizzle::B128,
            64 => Swizzle::B64,
            _ => Swizzle::B32,
        };
        let same = |b: &&Boxes| (b.tensor, b.rows, b.features) == (tensor, tile.rows, features);
        let name = match self.maps.iter().find(same) {
            Some(known) => known.name.clone(),
            None => {
                let own = self.func.params[tensor.index()].name();
                let others = self.maps.iter().filter(|b| b.tensor == tensor).count();
                let name = if others == 0 { format!("{own}_map") } else { format!("{own}_map_{}", others + 1) };
                self.maps.push(Boxes { name: name.clone(), tensor, rows: tile.rows, features, swizzle });
                name
            }
        };
        let place = self.e.invariant(Class::B64, "mov.b64", [Operand::Symbol(name)]);
        self.e.invariant(Class::B64, "cvta.param.u64", [place.into()])
    }

    /// The descriptors of an operand, from row `first` on.
    fn operands(&mut self, buffer: BufferId, slot: Operand, by_rows: bool, first: Option<(Reg, u32)>) -> Operands {
        let tile = TileLayout::of(self.func, &self.func.buffers[buffer.index()]);
        let memory = self.memory();
        let base = self.e.invariant(Class::B32, "shr.u32", [memory.into(), 4i64.into()]);
        let mut low = Operand::from(base);
        let mut offset = self.shared.offset(buffer);
        match slot {
            Operand::Int(slot) => offset += slot as u32 * tile.bytes(),
            slot => {
                let ahead = self.e.mul(slot, i64::from(tile.bytes() / 16));
                low = self.e.add(low, ahead);
            }
        }
        if let Some((group, rows)) = first {
            let ahead = self.e.mul(group.into(), i64::from(rows * tile.pitch / 16));
            low = self.e.add(low, ahead);
        }
        let panels = if by_rows { tile.panel_bytes() } else { 16 };
        low = self.e.add(low, i64::from(offset / 16 + ((panels / 16) << 16)).into());
        let swizzle = match tile.pitch {
            128 => 1,
            64 => 2,
            _ => 3,
        };
        let high = i64::from((swizzle << 30) | (8 * tile.pitch / 16));
        let high = self.e.invariant(Class::B32, "mov.b32", [high.into()]);
        Operands { low, high, tile, by_rows }
    }

    /// The descriptor of a step of 16.
    fn descriptor(&mut self, of: &Operands, step: u32) -> Reg {
        let a_panel = of.tile.pitch / 32;
        let bytes = if of.by_rows {
            step * 16 * of.tile.pitch
        } else {
            step / a_panel * of.tile.panel_bytes() + step % a_panel * 32
        };
        // Made anew each time: what is made once lives through the loop.
        let low = match bytes {
            0 => of.low.clone(),
            bytes => self.e.op(Class::B32, "add.s32", [of.low.clone(), i64::from(bytes / 16).into()]).into(),
        };
        let low = self.e.in_reg(Class::B32, low);
        let descriptor = self.e.reg(Class::B64);
        self.e.inst("mov.b64", [descriptor.into(), vec![low, of.high].into()]);
        descriptor
    }

    /// Starts a product, a step of 16 at a time.
    pub(super) fn start(&mut self, acc: VarId, lhs: ValueId, rhs: ValueId, fresh: bool) {
        let VarRegs::Tile(acc) = self.vars[acc.index()].clone() else { unreachable!("verified: a tile") };
        let contracted = self.ty(lhs).axes[1];
        let steps = self.func.axes[contracted.index()].extent / 16;
        let by_rows = self.ty(rhs).axes[0] == contracted;
        let Low::Shared(buffer, slot) = self.get(rhs).clone() else { unreachable!("verified: a shared tile") };
        let right = self.operands(buffer, slot, by_rows, None);
        let left = match self.get(lhs).clone() {
            Low::Packed(tile) => Err(tile),
            Low::Shared(buffer, slot) => {
                let group = self.group.expect("products are the consumers'");
                Ok(self.operands(buffer, slot, false, Some((group, 64))))
            }
            _ => unreachable!("verified: a tile of 16-bit elements"),
        };
        let elem = if self.ty(lhs).elem == Elem::F16 { "f16.f16" } else { "bf16.bf16" };
        let form = format!("wgmma.mma_async.sync.aligned.m64n{}k16.f32.{elem}", acc.blocks * 8);
        let form = Form::find(&form).unwrap_or_else(|| panic!("`partition` lets no `{form}` pass")).name();
        for step in 0..steps {
            let (a, transposed) = match &left {
                Ok(shared) => (self.descriptor(shared, step).into(), vec![0i64.into()]),
                Err(tile) => (tile.regs[step as usize * 4..step as usize * 4 + 4].to_vec().into(), Vec::new()),
            };
            let b = self.descriptor(&right, step);
            let adds = i64::from(!fresh || step > 0);
            let operands = [acc.regs.clone().into(), a, b.into(), adds.into(), 1i64.into(), 1i64.into()];
            let transposed: Vec<Operand> = transposed.into_iter().chain([i64::from(by_rows).into()]).collect();
            self.e.inst(form, operands.into_iter().chain(transposed));
        }
    }

    /// A store that is never done, of everything that is to be made before what follows: no assembler moves a wait for
    /// products over it.
    pub(super) fn hold(&mut self, values: &[ValueId]) {
        let tid = self.tid();
        let never = self.e.invariant(Class::Pred, "setp.eq.s32", [tid.into(), (-1i64).into()]);
        let memory = self.memory();
        for &value in values {
            let Low::Rows(regs) = self.get(value).clone() else { unreachable!("verified: numbers of the rows") };
            for reg in regs {
                self.e.guarded((never, false), "st.shared.f32", [super::Emit::at(memory, 0), reg.into()]);
            }
        }
    }
}
