//! The best of each row, found while its scores come by.
//!
//! A row of a fragment lies in four lanes. Each keeps the best that it saw itself, a list in registers in descending
//! order; [`Lower::settle`] merges the four once, at the end. Where `K` are kept:
//!
//! ```text
//!   take      floor = a score that K elements of the row have or pass, which stand behind these: `Lower::floor`
//!             mask  = a bit for each element of the lane's that is at least the floor and the lane's own Kth
//!             while a lane of the warp has a bit: each takes its lowest one out, picks that element by a tree of
//!             selections, and puts it into its list
//!   settle    K times: the best of the four lists' heads by (score, -column), taken off its list, and put where all
//!             lists have come to be one shorter: the best is last
//! ```
//!
//! An element that beats nothing costs the two instructions of its bit. A bit costs the warp a round, so what counts is
//! how many the lane with most has, not in how many elements some lane has one. The row's floor, not the lane's alone,
//! keeps rounds few. Of drawn scores, K 7, tiles of 64 columns: 3.7 rounds a tile and row half on the way to 1024
//! columns, 1.9 to 4096.
//!
//! Ties go to the lower column: elements come in descending order of columns, the last of a tile first, and what equals
//! passes. The order is that of a causal row, whose later columns score higher as a rule: what is seen first keeps the
//! rest out.
//!
//! Where warpgroups multiply, elements are found and picked in another way: [`parked`](super::parked).

use std::ops::Range;

use lacuna_ptx::{Class, Operand, Reg, Special};

use super::Lower;
use super::value::{Cell, Low};
use crate::ir::{BestId, ValueId};

/// Every lane of a warp.
pub(super) const ALL: i64 = 0xffff_ffff;

/// Column blocks whose elements are looked at together: 16 elements of a row for each lane. The tree that selects one
/// of them costs less than what is done with it.
const TOGETHER: usize = 8;

/// No column.
const NONE: i64 = -1;

/// The lists of a lane: for each row that it has elements of, `[band][half]`, the scores and columns of the best.
pub(super) struct Lists {
    pub(super) scores: Vec<Vec<Reg>>,
    pub(super) columns: Vec<Vec<Reg>>,
}

/// Elements that a row of a lane looks at together.
pub(super) struct Offered {
    /// The last column first.
    pub(super) elements: Vec<Operand>,
    /// The column of the first of them, which is the last one.
    pub(super) column: Operand,
    /// The score and the column that only what comes after is taken of.
    pub(super) after: Option<[Operand; 2]>,
}

impl Lower<'_> {
    pub(super) fn declare_bests(&mut self) {
        for (n, best) in self.func.bests.iter().enumerate() {
            let (rows, count) = (self.bands() * 2, best.count as usize);
            let mut lists = |class| (0..rows).map(|_| self.e.mutables(class, count)).collect();
            let lists = Lists { scores: lists(Class::F32), columns: lists(Class::B32) };
            self.bests.push(lists);
            // Roles clear what they have.
            if self.part.roles.is_none() {
                self.clear(BestId(n as u32));
            }
        }
    }

    /// Empties the lists.
    pub(super) fn clear(&mut self, best: BestId) {
        let Lists { scores, columns } = &self.bests[best.index()];
        for &score in scores.iter().flatten() {
            self.e.mov(score, f32::NEG_INFINITY.into());
        }
        for &column in columns.iter().flatten() {
            self.e.mov(column, NONE.into());
        }
    }

    /// The columns, or the scores, of one place of settled lists, which have the best last. Copied: lists may be
    /// cleared.
    pub(super) fn read_best(&mut self, best: BestId, place: u32, class: Class, result: ValueId) {
        let Lists { scores, columns } = &self.bests[best.index()];
        let lists = if class == Class::F32 { scores } else { columns };
        let regs: Vec<Reg> = lists.iter().map(|list| list[list.len() - 1 - place as usize]).collect();
        let copies: Vec<Reg> = regs.iter().map(|reg| self.e.reg(reg.class)).collect();
        self.e.copy(&copies, &regs);
        self.set(result, Low::Rows(copies));
    }

    /// Offers a tile of scores to the lists of its rows.
    pub(super) fn take(&mut self, best: BestId, scores: ValueId, first: ValueId, after: Option<[ValueId; 2]>) {
        if self.part.roles.is_some() {
            return self.take_parked(best, scores, first, after);
        }
        let first = self.scalar(first);
        let (blocks, _) = self.shape_of(scores);
        for row in 0..self.bands() * 2 {
            let lists = &self.bests[best.index()];
            let (list, columns) = (lists.scores[row].clone(), lists.columns[row].clone());
            let floor = self.floor(&list);
            let starts: Vec<usize> = (0..blocks).step_by(TOGETHER).collect();
            for (n, &start) in starts.iter().rev().enumerate() {
                let part = start..blocks.min(start + TOGETHER);
                let Offered { elements, column, after } = self.offered(scores, &first, row, part, after);
                if n == 0 && after.is_none() {
                    self.raise(floor, &elements, list.len());
                }
                let mask = self.beats(&elements, floor, list[list.len() - 1], &column, after);
                self.take_bits(mask, &elements, column, &list, &columns);
            }
        }
    }

    /// What some column blocks of a tile offer to a row of a lane.
    pub(super) fn offered(
        &mut self,
        scores: ValueId,
        first: &Operand,
        row: usize,
        part: Range<usize>,
        after: Option<[ValueId; 2]>,
    ) -> Offered {
        let (band, half) = (row / 2, row % 2);
        let elements: Vec<Operand> = (0..part.len() * 2)
            .rev()
            .map(|c| self.element(scores, Cell { band, block: part.start + c / 2, cell: half * 2 + c % 2 }))
            .collect();
        let column = self.column(part.start, 0);
        let column = self.e.add(column, first.clone());
        let column = self.e.add(column, ahead(elements.len() - 1).into());
        let after = after.map(|[score, at]| {
            let cell = Cell { band, block: 0, cell: half * 2 };
            [self.element(score, cell), self.element(at, cell)]
        });
        Offered { elements, column, after }
    }

    /// A score that as many elements of a row as lists have places are at least as good as, from what its four lanes
    /// know.
    ///
    /// `K = 4 n + r`: `r` lanes vouch for `n + 1` elements each with their `n + 1`th best, the others for `n` with
    /// their `n`th; best where those `r` lanes have most. Which they are is tried for one lane against the other three,
    /// so 2 go for 3; but the second best of four is found as such.
    fn floor(&mut self, list: &[Reg]) -> Reg {
        let floor = self.e.mutable(Class::F32);
        let more = (list.len() - 1) / 4;
        let (next, whole) = (list[more], more.checked_sub(1).map(|n| list[n]));
        let found = match (list.len() % 4, whole) {
            (0, _) => self.quad("min.f32", next),
            (1, None) => self.quad("max.f32", next),
            (1, Some(whole)) => self.one_beside_three(next, whole),
            (2, None) => {
                let other = self.shuffle(next, 1);
                let high = self.e.op(Class::F32, "max.f32", [next.into(), other.into()]);
                let low = self.e.op(Class::F32, "min.f32", [next.into(), other.into()]);
                let other = self.shuffle(high, 2);
                let second = self.e.op(Class::F32, "min.f32", [high.into(), other.into()]);
                let other = self.shuffle(low, 2);
                let low = self.e.op(Class::F32, "max.f32", [low.into(), other.into()]);
                self.e.op(Class::F32, "max.f32", [second.into(), low.into()])
            }
            (_, Some(whole)) => self.one_beside_three(whole, next),
            (_, None) => {
                let most = self.e.in_reg(Class::F32, f32::INFINITY.into());
                self.one_beside_three(most, next)
            }
        };
        self.e.mov(floor, found.into());
        floor
    }

    /// The most that a lane's `own` and the other three lanes' `theirs` are all at least, whichever lane it is.
    fn one_beside_three(&mut self, own: Reg, theirs: Reg) -> Reg {
        let beside = self.shuffle(theirs, 1);
        let two = self.e.op(Class::F32, "min.f32", [theirs.into(), beside.into()]);
        let across = self.shuffle(two, 2);
        let three = self.e.op(Class::F32, "min.f32", [beside.into(), across.into()]);
        let all = self.e.op(Class::F32, "min.f32", [three.into(), own.into()]);
        self.quad("max.f32", all)
    }

    /// Raises a floor of -inf, that of rows which have seen too little, by the elements themselves.
    pub(super) fn raise(&mut self, floor: Reg, elements: &[Operand], count: usize) {
        if elements.len() < count.div_ceil(4) {
            return;
        }
        let skip = self.e.label("floored");
        let low = self.e.op(Class::Pred, "setp.eq.f32", [floor.into(), f32::NEG_INFINITY.into()]);
        let some = self.e.op(Class::Pred, "vote.sync.any.pred", [low.into(), ALL.into()]);
        self.e.open(false);
        self.e.guarded((some, true), "bra", [Operand::Label(skip.clone())]);
        let least = match self.part.roles {
            Some(_) => self.vouched_by_groups(elements, count),
            None => self.least_of_greatest(elements, count),
        };
        self.e.inst("max.f32", [floor.into(), floor.into(), least.into()]);
        self.e.place(&skip);
        self.e.close();
    }

    /// What `count` elements of a row have or pass: each lane vouches for the greatest of each of `⌈count/4⌉` groups of its
    /// own.
    fn least_of_greatest(&mut self, elements: &[Operand], count: usize) -> Reg {
        let groups = count.div_ceil(4);
        let mut least: Option<Reg> = None;
        for group in 0..groups {
            let most = self.greatest(&elements[group * elements.len() / groups..(group + 1) * elements.len() / groups]);
            least = Some(match least {
                None => self.e.in_reg(Class::F32, most),
                Some(least) => self.e.op(Class::F32, "min.f32", [most, least.into()]),
            });
        }
        self.quad("min.f32", least.expect("a list has a place"))
    }

    /// The greatest of some elements; -inf of NaN alone.
    pub(super) fn greatest(&mut self, elements: &[Operand]) -> Operand {
        let mut most: Operand = f32::NEG_INFINITY.into();
        for element in elements {
            most = self.e.op(Class::F32, "max.f32", [element.clone(), most]).into();
        }
        most
    }

    /// A bit for each element that beats the floor and the last of the list, and comes after a score and column.
    pub(super) fn beats(
        &mut self,
        elements: &[Operand],
        floor: Reg,
        last: Reg,
        column: &Operand,
        after: Option<[Operand; 2]>,
    ) -> Reg {
        let least = self.e.op(Class::F32, "max.f32", [floor.into(), last.into()]);
        // -inf is no score.
        let least = self.e.op(Class::F32, "max.f32", [least.into(), f32::MIN.into()]);
        let after = after.map(|[score, at]| {
            let at = self.e.in_reg(Class::B32, at);
            (score, self.e.op(Class::B32, "sub.s32", [at.into(), column.clone()]))
        });
        let mask = self.e.mutable(Class::B32);
        self.e.mov(mask, 0i64.into());
        for (c, element) in elements.iter().enumerate() {
            let mut beats = self.e.op(Class::Pred, "setp.ge.f32", [element.clone(), least.into()]);
            if let Some((score, at)) = &after {
                let below = self.e.op(Class::Pred, "setp.lt.f32", [element.clone(), score.clone()]);
                let equal = self.e.op(Class::Pred, "setp.eq.f32", [element.clone(), score.clone()]);
                let behind = self.e.op(Class::Pred, "setp.lt.s32", [(*at).into(), (-ahead(c)).into()]);
                let behind = self.e.op(Class::Pred, "and.pred", [equal.into(), behind.into()]);
                let comes = self.e.op(Class::Pred, "or.pred", [below.into(), behind.into()]);
                beats = self.e.op(Class::Pred, "and.pred", [beats.into(), comes.into()]);
            }
            self.add_where(beats, mask, i64::from((1u32 << c).cast_signed()));
        }
        mask
    }

    /// While a lane of the warp has a bit, puts the element of each lane's lowest bit into its list.
    fn take_bits(&mut self, mask: Reg, elements: &[Operand], column: Operand, list: &[Reg], columns: &[Reg]) {
        let (head, done) = (self.e.label("take"), self.e.label("taken"));
        let (has, some) = (self.e.mutable(Class::Pred), self.e.mutable(Class::Pred));
        self.any_bit(mask, has, some);
        self.e.open(true);
        self.e.guarded((some, true), "bra", [Operand::Label(done.clone())]);
        self.e.place(&head);
        self.e.pragma("nounroll");
        let lowest = self.e.op(Class::B32, "neg.s32", [mask.into()]);
        let lowest = self.e.op(Class::B32, "and.b32", [lowest.into(), mask.into()]);
        self.e.inst("xor.b32", [mask.into(), mask.into(), lowest.into()]);

        // Bit by bit of the element's number: which half of what is left it is in, and how far on its column.
        let mut left = elements.to_vec();
        let at = self.e.mutable(Class::B32);
        self.e.mov(at, column);
        for bit in 0..elements.len().next_power_of_two().trailing_zeros() {
            let numbers = (0..elements.len()).filter(|c| c >> bit & 1 == 1);
            let odd = numbers.fold(0i64, |numbers, c| numbers | 1 << c);
            let odd = self.e.op(Class::B32, "and.b32", [lowest.into(), odd.into()]);
            let odd = self.e.op(Class::Pred, "setp.ne.s32", [odd.into(), 0i64.into()]);
            self.add_where(odd, at, -ahead(1 << bit));
            left = left
                .chunks(2)
                .map(|two| match two {
                    // Elements are kept; what was made of them need not be.
                    [Operand::Reg(low), high] if bit > 0 => {
                        self.move_where(odd, *low, high.clone());
                        (*low).into()
                    }
                    [low, high] => self.e.op(Class::F32, "selp.f32", [high.clone(), low.clone(), odd.into()]).into(),
                    one => one[0].clone(),
                })
                .collect();
        }
        // A lane without a bit puts in what beats nothing.
        let element = self.e.op(Class::F32, "selp.f32", [left[0].clone(), f32::NAN.into(), has.into()]);
        self.insert(element, at, list, columns);
        self.any_bit(mask, has, some);
        self.e.guarded((some, false), "bra", [Operand::Label(head)]);
        self.e.place(&done);
        self.e.close();
    }

    /// Whether the lane has a bit, and whether some lane of the warp has.
    pub(super) fn any_bit(&mut self, mask: Reg, has: Reg, some: Reg) {
        self.e.inst("setp.ne.s32", [has.into(), mask.into(), 0i64.into()]);
        self.e.inst("vote.sync.any.pred", [some.into(), has.into(), ALL.into()]);
    }

    /// Puts an element into a list, before the first that it beats.
    pub(super) fn insert(&mut self, element: Reg, column: Reg, list: &[Reg], columns: &[Reg]) {
        let beats = |lower: &mut Self, place: usize| {
            lower.e.op(Class::Pred, "setp.ge.f32", [element.into(), list[place].into()])
        };
        let mut here = beats(self, list.len() - 1);
        for place in (0..list.len()).rev() {
            self.e.guarded((here, false), "mov.f32", [list[place].into(), element.into()]);
            self.e.guarded((here, false), "mov.b32", [columns[place].into(), column.into()]);
            if place > 0 {
                // It goes further up, and what stands there comes down.
                here = beats(self, place - 1);
                self.move_where(here, list[place], list[place - 1].into());
                self.move_where(here, columns[place], columns[place - 1].into());
            }
        }
    }

    /// `to = from` where `cond`, as a product with one. ptxas makes a selection of a move under a guard, and
    /// selections, comparisons and logic have half the rate of products, of which there are few here: what can be one,
    /// is.
    fn move_where(&mut self, cond: Reg, to: Reg, from: Operand) {
        let one = self.one(to.class);
        match to.class {
            Class::F32 => self.e.guarded((cond, false), "mul.f32", [to.into(), from, one.into()]),
            _ => self.e.guarded((cond, false), "mad.lo.s32", [to.into(), from, one.into(), 0i64.into()]),
        }
    }

    /// `to += by` where `cond`, on integers, likewise.
    fn add_where(&mut self, cond: Reg, to: Reg, by: i64) {
        let one = self.one(Class::B32);
        self.e.guarded((cond, false), "mad.lo.s32", [to.into(), to.into(), one.into(), by.into()]);
    }

    /// One, as an integer or a float, which ptxas (13.0) does not know to be it: threads of a CTA along y.
    fn one(&mut self, class: Class) -> Reg {
        let one = self.e.invariant(Class::B32, "mov.u32", [Special::Ntid(1).into()]);
        match class {
            Class::F32 => self.e.invariant(Class::F32, "cvt.rn.f32.s32", [one.into()]),
            _ => one,
        }
    }

    /// Merges the lists of the four lanes that share a row.
    pub(super) fn settle(&mut self, best: BestId) {
        for row in 0..self.bands() * 2 {
            let lists = &self.bests[best.index()];
            let (list, columns) = (lists.scores[row].clone(), lists.columns[row].clone());
            for left in (0..list.len()).rev() {
                let (mut score, mut column) = (list[0], columns[0]);
                for distance in [1, 2] {
                    let other = [self.shuffle(score, distance), self.shuffle(column, distance)];
                    let above = self.e.op(Class::Pred, "setp.gt.f32", [other[0].into(), score.into()]);
                    let equal = self.e.op(Class::Pred, "setp.eq.f32", [other[0].into(), score.into()]);
                    let before = self.e.op(Class::Pred, "setp.lt.s32", [other[1].into(), column.into()]);
                    let before = self.e.op(Class::Pred, "and.pred", [equal.into(), before.into()]);
                    let theirs = self.e.op(Class::Pred, "or.pred", [above.into(), before.into()]);
                    score = self.e.op(Class::F32, "selp.f32", [other[0].into(), score.into(), theirs.into()]);
                    column = self.e.op(Class::B32, "selp.b32", [other[1].into(), column.into(), theirs.into()]);
                }
                // Columns differ, so at most one lane has it; where no lane has any, taking nothing off changes
                // nothing.
                if left > 0 {
                    let own = self.e.op(Class::Pred, "setp.eq.s32", [columns[0].into(), column.into()]);
                    for place in 0..left {
                        self.e.guarded((own, false), "mov.f32", [list[place].into(), list[place + 1].into()]);
                        self.e.guarded((own, false), "mov.b32", [columns[place].into(), columns[place + 1].into()]);
                    }
                }
                // The list is one shorter.
                self.e.mov(list[left], score.into());
                self.e.mov(columns[left], column.into());
            }
        }
    }
}

/// How far from a lane's last column its `c`th element from there stands: it has two neighbours of every 8.
pub(super) const fn ahead(c: usize) -> i64 {
    (c / 2 * 8 + c % 2) as i64
}
