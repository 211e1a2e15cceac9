//! The best of each row where warpgroups multiply: scores that stand in registers are parked in shared memory, from where a
//! lane takes the one that it wants by its number.
//!
//! Products cost no instructions here, so what comes of them is counted. Lists, their order and [`Lower::settle`] are those of
//! [`best`](super::best). For each row of a lane, where `K` are kept:
//!
//! ```text
//!   floor     a score that K elements of the row have or pass: the greatest of `min(the ⌈K/2⌉th best of two lanes, the
//!             ⌊K/2⌋th of the other two)`, either way round. Of rows that have seen too little, the same of what lanes find
//!             greatest in groups of this tile's columns
//!   mask      a bit for each of 32 elements that is at least the floor and the lane's own Kth
//!   park      where a lane of the warp has a bit: a lane's elements, behind one another
//!   while a lane of the warp has a bit: each takes its lowest one out, and puts that element into the ⌈K/2⌉ places of its
//!             list that vouch, fetching the next one meanwhile; what leaves these goes on where some lane's has the floor
//! ```
//!
//! A tile costs two instructions an element, and 60 a row of a lane; a round 13, 5 a place that vouches, and 6 to see
//! whether anything goes on. Picking an element by selections would be 31 more. Only the lane that parked an element reads
//! it, so nothing waits. What counts is rounds: of drawn scores, K 7, a warp goes through 5.8 for 128 columns, 18.5 for 512
//! and 27 for 1024, where 9, 24 and 30 elements of a row pass. A close floor saves more than it costs: of a first tile 9
//! elements of a row pass, and 22 would if each lane vouched for two.

use lacuna_ptx::{Class, Operand, Reg};

use super::best::{ALL, Offered, ahead};
use super::{Emit, Lower};
use crate::ir::{BestId, Func, Op, Stmt, ValueId};

/// Column blocks whose elements are looked at together: 32 elements of a row for each lane, a bit each.
const TOGETHER: usize = 16;

/// Groups of a lane's elements whose greatest vouch for a first floor, at least.
const GROUPS: usize = 4;

/// Column blocks of a tile that are looked at together, of so many.
const fn together(blocks: usize) -> usize {
    if blocks < TOGETHER { blocks } else { TOGETHER }
}

/// What a lane parks: its elements of a row, and 8 bytes, so that pairs of 16 lanes lie in different banks.
const fn lane_bytes(blocks: usize) -> u32 {
    together(blocks) as u32 * 8 + 8
}

/// Shared memory for what the statements of a func's body park.
pub(crate) fn bytes(func: &Func, body: &[Stmt]) -> u32 {
    if func.partition.is_none_or(|part| part.roles.is_none()) {
        return 0;
    }
    let mut bytes = 0;
    crate::passes::visit(body, &mut |stmt| {
        if let Op::Take { scores, .. } = stmt.op {
            let columns = func.axes[func.values[scores.index()].ty.axes[1].index()].extent;
            bytes = bytes.max(lane_bytes(columns as usize / 8));
        }
    });
    bytes * 32 * func.warps
}

impl Lower<'_> {
    /// Offers a tile of scores to the lists of its rows.
    pub(super) fn take_parked(&mut self, best: BestId, scores: ValueId, first: ValueId, after: Option<[ValueId; 2]>) {
        let first = self.scalar(first);
        let (blocks, _) = self.shape_of(scores);
        let starts: Vec<usize> = (0..blocks).step_by(together(blocks)).collect();
        for row in 0..self.bands() * 2 {
            let lists = &self.bests[best.index()];
            let (list, columns) = (lists.scores[row].clone(), lists.columns[row].clone());
            for (n, &start) in starts.iter().rev().enumerate() {
                let part = start..blocks.min(start + together(blocks));
                let Offered { elements, column, after } = self.offered(scores, &first, row, part, after);
                let found = self.vouched(&list, list.len());
                let floor = self.e.mutable(Class::F32);
                self.e.mov(floor, found.into());
                if n == 0 && after.is_none() {
                    self.raise(floor, &elements, list.len());
                }
                // -inf is no score.
                self.e.inst("max.f32", [floor.into(), floor.into(), f32::MIN.into()]);
                let mask = self.beats(&elements, floor, list[list.len() - 1], &column, after);
                let lists = [list.as_slice(), columns.as_slice()];
                self.take_parked_bits(mask, &elements, lane_bytes(blocks), column, floor, lists);
            }
        }
    }

    /// What `count` elements of a row have or pass, from the best that its four lanes know, each in descending order.
    fn vouched(&mut self, list: &[Reg], count: usize) -> Reg {
        let (more, less) = (count.div_ceil(2), count / 2);
        let theirs: Vec<Reg> = list[..more].iter().map(|&reg| self.shuffle(reg, 1)).collect();
        let most = self.best_of_two(list, &theirs, more);
        let others_most = self.shuffle(most, 2);
        let min = |lower: &mut Self, a: Reg, b: Reg| lower.e.op(Class::F32, "min.f32", [a.into(), b.into()]);
        match less {
            0 => self.e.op(Class::F32, "max.f32", [most.into(), others_most.into()]),
            _ if less == more => min(self, most, others_most),
            _ => {
                let least = self.best_of_two(list, &theirs, less);
                let others_least = self.shuffle(least, 2);
                let (one, other) = (min(self, most, others_least), min(self, least, others_most));
                self.e.op(Class::F32, "max.f32", [one.into(), other.into()])
            }
        }
    }

    /// The `count`th best of two lists in descending order, of which one gives `i` and the other the rest.
    fn best_of_two(&mut self, own: &[Reg], theirs: &[Reg], count: usize) -> Reg {
        let mut found = self.e.op(Class::F32, "max.f32", [own[count - 1].into(), theirs[count - 1].into()]);
        for i in 1..count {
            let both = self.e.op(Class::F32, "min.f32", [own[i - 1].into(), theirs[count - i - 1].into()]);
            found = self.e.op(Class::F32, "max.f32", [found.into(), both.into()]);
        }
        found
    }

    /// What `count` of a tile's elements of a row have or pass: each lane vouches for the greatest of each of some groups of
    /// its own; of an empty group -inf.
    pub(super) fn vouched_by_groups(&mut self, elements: &[Operand], count: usize) -> Reg {
        let groups = count.div_ceil(2).max(GROUPS);
        let mut greatest: Vec<Reg> = Vec::with_capacity(groups);
        for group in 0..groups {
            let (from, to) = (group * elements.len() / groups, (group + 1) * elements.len() / groups);
            let most = self.greatest(&elements[from..to]);
            let mut most = self.e.in_reg(Class::F32, most);
            // Into its place among those before it.
            for before in &mut greatest {
                let [high, low] =
                    ["max.f32", "min.f32"].map(|form| self.e.op(Class::F32, form, [(*before).into(), most.into()]));
                (*before, most) = (high, low);
            }
            greatest.push(most);
        }
        self.vouched(&greatest, count)
    }

    /// While a lane of the warp has a bit, puts the element of each lane's lowest bit into its list.
    fn take_parked_bits(
        &mut self,
        mask: Reg,
        elements: &[Operand],
        lane_bytes: u32,
        column: Operand,
        floor: Reg,
        lists: [&[Reg]; 2],
    ) {
        let (head, done) = (self.e.label("take"), self.e.label("taken"));
        let (has, some) = (self.e.mutable(Class::Pred), self.e.mutable(Class::Pred));
        let place = self.parking(lane_bytes);
        self.any_bit(mask, has, some);
        self.e.open(true);
        self.e.guarded((some, true), "bra", [Operand::Label(done.clone())]);
        for pair in (0..elements.len()).step_by(2) {
            let at = self.shared.parked + 4 * (elements.len() - 2 - pair) as u32;
            let two = [&elements[pair + 1], &elements[pair]].map(|x| self.e.in_reg(Class::F32, x.clone()));
            self.e.inst("st.shared.v2.f32", [Emit::at(place, at), two.to_vec().into()]);
        }
        let (element, at) = (self.e.mutable(Class::F32), self.e.mutable(Class::B32));
        let last = self.shared.parked + 4 * (elements.len() - 1) as u32;
        let fetch = |lower: &mut Self| lower.fetch_lowest(mask, has, (place, last), &column, (element, at));
        fetch(self);
        self.e.place(&head);
        self.e.pragma("nounroll");
        let now = [self.e.reg(Class::F32), self.e.reg(Class::B32)];
        self.e.copy(&now, &[element, at]);
        self.any_bit(mask, has, some);
        fetch(self);
        self.put(now[0], now[1], floor, lists);
        self.e.guarded((some, false), "bra", [Operand::Label(head)]);
        self.e.place(&done);
        self.e.close();
    }

    /// Takes the lowest bit out of a mask: its element, which lies so far before `last` of what the lane parked, and its column. A
    /// lane without a bit has what beats nothing.
    fn fetch_lowest(
        &mut self,
        mask: Reg,
        has: Reg,
        (place, last): (Reg, u32),
        column: &Operand,
        (element, at): (Reg, Reg),
    ) {
        let below = self.e.op(Class::B32, "add.s32", [mask.into(), (-1i64).into()]);
        let lower = self.e.op(Class::B32, "not.b32", [mask.into()]);
        let lower = self.e.op(Class::B32, "and.b32", [lower.into(), below.into()]);
        // Without a bit, that of no element.
        let number = self.e.op(Class::B32, "popc.b32", [lower.into()]);
        self.e.inst("and.b32", [mask.into(), mask.into(), below.into()]);
        let from = self.e.op(Class::B32, "mad.lo.s32", [number.into(), (-4i64).into(), place.into()]);
        self.e.mov(element, f32::NAN.into());
        self.e.guarded((has, false), "ld.shared.f32", [element.into(), Emit::at(from, last)]);
        let pairs = self.e.op(Class::B32, "shr.u32", [number.into(), 1i64.into()]);
        let single = self.e.op(Class::B32, "sub.s32", [column.clone(), number.into()]);
        self.e.inst("mad.lo.s32", [at.into(), pairs.into(), (2 - ahead(2)).into(), single.into()]);
    }

    /// Puts an element into a list. What it pushes out of the places that vouch goes on into those behind them where some
    /// lane's has the floor, which is rare: else it is none of the best.
    fn put(&mut self, element: Reg, column: Reg, floor: Reg, [list, columns]: [&[Reg]; 2]) {
        let vouch = list.len().div_ceil(2);
        if list.len() - vouch < 2 {
            return self.insert(element, column, list, columns);
        }
        let (last, at) = (list[vouch - 1], columns[vouch - 1]);
        let beats = self.e.op(Class::Pred, "setp.ge.f32", [element.into(), last.into()]);
        let down = self.e.op(Class::F32, "selp.f32", [last.into(), element.into(), beats.into()]);
        let at = self.e.op(Class::B32, "selp.b32", [at.into(), column.into(), beats.into()]);
        self.insert(element, column, &list[..vouch], &columns[..vouch]);
        let goes_on = self.e.op(Class::Pred, "setp.ge.f32", [down.into(), floor.into()]);
        let some = self.e.op(Class::Pred, "vote.sync.any.pred", [goes_on.into(), ALL.into()]);
        let skip = self.e.label("kept");
        self.e.open(false);
        self.e.guarded((some, true), "bra", [Operand::Label(skip.clone())]);
        self.insert(down, at, &list[vouch..], &columns[vouch..]);
        self.e.place(&skip);
        self.e.close();
    }

    /// Where a lane parks.
    fn parking(&mut self, lane_bytes: u32) -> Reg {
        let (tid, memory) = (self.tid(), self.memory());
        self.e.invariant(Class::B32, "mad.lo.s32", [tid.into(), i64::from(lane_bytes).into(), memory.into()])
    }
}
