//! The vector clocks of a CTA: how far each warp's time has gone, and what each has seen of the others'.
//!
//! A row a warp. Its columns are first the warps; then a column a warpgroup, whose time is its groups of `wgmma`; then one
//! for everything else that completes by itself and is waited for, such as an mbarrier, whose time is its phases. A warp's
//! entry is the first moment of the column that it has not seen: of a warp that it has not synchronised with, of the others
//! that it has not waited for.
//!
//! The generic proxy's writes reach the asynchronous proxy by their writer's `fence.proxy.async`. So each warp has a second
//! row, over the warps alone: the first of their clocks whose writes were not both fenced and seen here.

use crate::shared::{CLOCK_LIMIT, Toucher};

/// What is known of a CTA: over its columns, and over its warps.
#[derive(Clone, Debug, Default)]
struct Rows {
    seen: Vec<u32>,
    fenced: Vec<u32>,
}

impl Rows {
    fn join(&mut self, other: &Rows) {
        join_longer(&mut self.seen, &other.seen);
        join_longer(&mut self.fenced, &other.fenced);
    }
}

/// What a warp hands to those who synchronise with it: its rows, and what it knows of the other CTAs of its cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Knowledge {
    seen: Vec<u32>,
    fenced: Vec<u32>,
    /// By rank in the cluster; the own rank's are not here.
    others: Vec<Rows>,
}

impl Knowledge {
    pub(crate) fn clear(&mut self) {
        self.seen.clear();
        self.fenced.clear();
        self.others.clear();
    }

    /// Knows what the other knows too.
    pub(crate) fn join(&mut self, other: &Knowledge) {
        join_longer(&mut self.seen, &other.seen);
        join_longer(&mut self.fenced, &other.fenced);
        self.others.resize(self.others.len().max(other.others.len()), Rows::default());
        self.others.iter_mut().zip(&other.others).for_each(|(mine, other)| mine.join(other));
    }

    /// The clocks of this many warps start anew.
    pub(crate) fn forget(&mut self, warps: usize) {
        self.seen.iter_mut().take(warps).for_each(|clock| *clock = 1);
        self.fenced.fill(1);
    }

    /// Keeps what the other knows too: what all of several warps have seen.
    pub(crate) fn narrow(&mut self, other: &Knowledge) {
        self.seen.truncate(other.seen.len());
        self.seen.iter_mut().zip(&other.seen).for_each(|(mine, other)| *mine = (*mine).min(*other));
        self.fenced.iter_mut().zip(&other.fenced).for_each(|(mine, other)| *mine = (*mine).min(*other));
    }

    /// These as the rows of somebody who touches memory.
    pub(crate) fn toucher(&self, warp: usize, pc: u32) -> Toucher<'_> {
        Toucher { warp, clock: self.seen[warp], pc, seen: &self.seen, fenced: &self.fenced }
    }

    /// The same in the eyes of another CTA of the cluster, for whose columns there is room.
    pub(crate) fn handed(mut self, from: usize, to: &Clocks) -> Knowledge {
        let rank = to.rank;
        let Some(there) = self.others.get_mut(rank) else { return self };
        let Rows { mut seen, mut fenced } = std::mem::take(there);
        std::mem::swap(&mut seen, &mut self.seen);
        std::mem::swap(&mut fenced, &mut self.fenced);
        self.others[from] = Rows { seen, fenced };
        self.seen.resize(to.columns.max(self.seen.len()), 0);
        self.fenced.resize(to.warps, 0);
        self
    }

    /// These as the rows of somebody in another CTA who touches memory of this one.
    pub(crate) fn from_afar(&self, pc: u32) -> Toucher<'_> {
        Toucher { warp: usize::MAX, clock: 0, pc, seen: &self.seen, fenced: &self.fenced }
    }
}

fn join(mine: &mut [u32], other: &[u32]) {
    mine.iter_mut().zip(other).for_each(|(mine, other)| *mine = (*mine).max(*other));
}

/// The same where the other may know of more columns.
fn join_longer(mine: &mut Vec<u32>, other: &[u32]) {
    mine.resize(mine.len().max(other.len()), 0);
    join(mine, other);
}

/// The clocks of a CTA.
#[derive(Debug)]
pub(crate) struct Clocks {
    warps: usize,
    /// Columns of a CTA at its beginning.
    fixed: usize,
    columns: usize,
    /// Columns that there is room for.
    stride: usize,
    /// Row by warp; a warp's own clock at its own column.
    seen: Vec<u32>,
    /// Row by warp, over the warps.
    fenced: Vec<u32>,
    /// The CTA's rank in its cluster.
    rank: usize,
    /// What is known of the other CTAs, by rank and warp of this one; nothing where the CTA is alone.
    others: Vec<Vec<Rows>>,
}

impl Clocks {
    pub(crate) fn new(warps: usize) -> Clocks {
        let fixed = warps + warps.div_ceil(4);
        let mut clocks = Clocks {
            warps,
            fixed,
            columns: fixed,
            stride: fixed,
            seen: vec![0; warps * fixed],
            fenced: vec![1; warps * warps],
            rank: 0,
            others: Vec::new(),
        };
        clocks.forget();
        clocks
    }

    /// As at the beginning of a CTA, of this rank in a cluster of so many.
    pub(crate) fn clear(&mut self, rank: usize, size: usize) {
        self.rank = rank;
        self.others.clear();
        if size > 1 {
            self.others.resize(size, vec![Rows::default(); self.warps]);
        }
        self.columns = self.fixed;
        self.seen.fill(0);
        self.forget();
    }

    /// The warps' clocks start anew: whoever did something until now has been seen.
    fn forget(&mut self) {
        for row in self.seen.chunks_exact_mut(self.stride) {
            row[..self.warps].fill(1);
        }
        self.fenced.fill(1);
    }

    pub(crate) const fn warps(&self) -> usize {
        self.warps
    }

    /// The column of a warpgroup's `wgmma`.
    pub(crate) const fn group_column(&self, group: usize) -> usize {
        self.warps + group
    }

    /// A new column, of which nobody has seen anything.
    pub(crate) fn add_column(&mut self) -> usize {
        let column = self.columns;
        self.columns += 1;
        if self.columns > self.stride {
            let stride = 2 * self.stride;
            let mut seen = vec![0; self.warps * stride];
            for (to, from) in seen.chunks_exact_mut(stride).zip(self.seen.chunks_exact(self.stride)) {
                to[..self.stride].copy_from_slice(from);
            }
            (self.seen, self.stride) = (seen, stride);
        }
        column
    }

    fn row(&self, warp: usize) -> &[u32] {
        &self.seen[warp * self.stride..][..self.columns]
    }

    fn fenced(&self, warp: usize) -> &[u32] {
        &self.fenced[warp * self.warps..][..self.warps]
    }

    /// What a warp has seen of the warps of its CTA, itself included.
    pub(crate) fn of_warps(&self, warp: usize) -> &[u32] {
        &self.row(warp)[..self.warps]
    }

    /// Who touches memory, for the checks.
    #[inline(always)]
    pub(crate) fn toucher(&self, warp: usize, pc: u32) -> Toucher<'_> {
        let seen = self.row(warp);
        Toucher { warp, clock: seen[warp], pc, seen, fenced: self.fenced(warp) }
    }

    /// A moment passes for a warp. Whether the clocks have run full and start anew.
    pub(crate) fn tick(&mut self, warp: usize) -> bool {
        let own = &mut self.seen[warp * self.stride + warp];
        *own += 1;
        let full = *own == CLOCK_LIMIT;
        if full {
            self.forget();
        }
        full
    }

    /// What a warp has seen goes into what is handed over.
    pub(crate) fn release(&self, warp: usize, to: &mut Knowledge) {
        to.seen.resize(to.seen.len().max(self.columns), 0);
        to.fenced.resize(self.warps, 0);
        join(&mut to.seen, self.row(warp));
        join(&mut to.fenced, self.fenced(warp));
        to.others.resize(self.others.len(), Rows::default());
        to.others.iter_mut().zip(&self.others).for_each(|(to, other)| to.join(&other[warp]));
    }

    /// A warp sees what was handed over.
    pub(crate) fn acquire(&mut self, warp: usize, from: &Knowledge) {
        join(&mut self.seen[warp * self.stride..][..self.columns], &from.seen);
        join(&mut self.fenced[warp * self.warps..][..self.warps], &from.fenced);
        self.others.iter_mut().zip(&from.others).for_each(|(mine, other)| mine[warp].join(other));
    }

    /// A warp has waited until a column's time was this.
    pub(crate) fn saw(&mut self, warp: usize, column: usize, time: u32) {
        let known = &mut self.seen[warp * self.stride + column];
        *known = (*known).max(time);
    }

    /// `fence.proxy.async` by a warp, after it has ticked: the asynchronous proxy sees what it wrote before.
    pub(crate) fn fence_proxy(&mut self, warp: usize) {
        self.fenced[warp * self.warps + warp] = self.seen[warp * self.stride + warp];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_is_seen_in_every_column() {
        let mut clocks = Clocks::new(8);
        let columns: Vec<usize> = (0..9).map(|_| clocks.add_column()).collect();
        assert_eq!((columns[0], columns[8]), (10, 18));
        clocks.tick(3);
        clocks.fence_proxy(3);
        clocks.saw(3, clocks.group_column(1), 7);
        clocks.saw(3, columns[8], 2);
        let mut handed = Knowledge::default();
        clocks.release(3, &mut handed);
        clocks.acquire(5, &handed);
        let by = clocks.toucher(5, 0);
        assert_eq!((by.seen[3], by.seen[9], by.seen[18], by.fenced[3], by.clock), (2, 7, 2, 2, 1));
        assert_eq!(clocks.toucher(4, 0).seen[18], 0);
    }

    #[test]
    fn what_all_have_seen_is_the_least_of_it() {
        let mut clocks = Clocks::new(4);
        clocks.saw(0, 4, 3);
        clocks.saw(1, 4, 2);
        let [mut both, mut other] = [Knowledge::default(), Knowledge::default()];
        clocks.release(0, &mut both);
        clocks.release(1, &mut other);
        both.narrow(&other);
        assert_eq!(both.toucher(0, 0).seen[4], 2);
    }
}
