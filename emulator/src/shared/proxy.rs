//! Shared memory through the asynchronous proxy: what bulk copies write and read, and what `wgmma` reads.
//!
//! All of it goes by granules of 16 bytes. A write is issued, from when on the bytes belong to it, and lands; it bears a
//! column of the clocks and a time of it, and is seen by whoever has waited until that time. A read is noted with a column
//! and a time too: it is under way for a warp that has not waited so far.

use super::{
    ASYNC, CLOCK_LIMIT, CLOCK_SHIFT, Earlier, MIXED, PENDING, READ_CLOCK, Refusal, Shared, Thread, Toucher, WRITTEN,
    clock_of, column_of, seen, warp_of,
};

/// What a bulk copy reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    /// The first granule, and the first behind it.
    first: u32,
    end: u32,
    column: usize,
    time: u32,
    by: Earlier,
}

/// No state of a word: nothing was found to be right yet.
pub(crate) const UNKNOWN: u32 = u32::MAX;

const fn stamp(column: usize, time: u32) -> u32 {
    time << CLOCK_SHIFT | (column as u32) << 6 | ASYNC
}

/// Whether the asynchronous proxy may read a word for those who know this.
#[inline(always)]
fn readable(state: u32, by: Toucher<'_>) -> bool {
    let known = if state & ASYNC != 0 { by.seen.get(column_of(state)) } else { by.fenced.get(warp_of(state)) };
    state & (WRITTEN | PENDING) == WRITTEN
        && (state & MIXED != 0 || known.is_some_and(|known| clock_of(state) < *known))
}

impl Shared {
    /// As new.
    pub(super) fn forget_async(&mut self) {
        self.watched = false;
        self.tensor_reads.clear();
        self.sources.clear();
        self.issuers.clear();
    }

    /// The granules of a bulk copy, if they are in bounds and aligned.
    fn granules(&self, address: u32, bytes: u32) -> Result<std::ops::Range<usize>, Refusal> {
        if !address.is_multiple_of(16) || !bytes.is_multiple_of(16) {
            return Err(Refusal::Misaligned);
        }
        match address.checked_add(bytes).filter(|end| *end <= self.bytes) {
            Some(end) => Ok(address as usize / 16..end as usize / 16),
            None => Err(Refusal::OutOfBounds),
        }
    }

    /// A granule that the asynchronous proxy reads for those who know this. `good` is a state that was found to be right
    /// for them, since most granules have the same.
    #[inline(always)]
    pub(crate) fn async_granule(&self, granule: u32, by: Toucher<'_>, good: &mut u32) -> Result<[u32; 4], Refusal> {
        let at = granule as usize * 4;
        if at + 4 > self.bytes as usize / 4 {
            return Err(Refusal::OutOfBounds);
        }
        let mut state = [0; 4];
        state.copy_from_slice(&self.state[at..at + 4]);
        if state != [*good; 4] {
            self.examine_async_read(at, by)?;
            *good = state[0];
        }
        self.adds.fenced(at, by)?;
        let mut out = [0; 4];
        out.copy_from_slice(&self.data[at..at + 4]);
        Ok(out)
    }

    #[inline(never)]
    fn examine_async_read(&self, at: usize, by: Toucher<'_>) -> Result<(), Refusal> {
        for at in at..at + 4 {
            let (state, address) = (self.state[at], 4 * at as u32);
            if state & PENDING != 0 {
                return Err(Refusal::Pending { address, copy: self.writer_of(at) });
            }
            if state & WRITTEN != WRITTEN {
                return Err(Refusal::Unwritten { address });
            }
            if !readable(state, by) {
                return Err(self.unordered(at, by));
            }
        }
        Ok(())
    }

    /// Why the asynchronous proxy may not touch what was written here.
    fn unordered(&self, at: usize, by: Toucher<'_>) -> Refusal {
        let (state, address, write) = (self.state[at], 4 * at as u32, self.writer_of(at));
        let ordered = state & ASYNC == 0 && (warp_of(state) == by.warp || seen(state, by));
        if ordered { Refusal::Unfenced { address, write } } else { Refusal::AfterWrite { address, write } }
    }

    /// What a bulk copy reads: the words, and from now on it is under way for all who have not seen `time` of `column`.
    ///
    /// The copy that a thread issues later ends later, so one that reads the same takes the place of the earlier.
    pub(crate) fn async_read(
        &mut self,
        address: u32,
        bytes: u32,
        thread: Thread,
        by: Toucher<'_>,
        column: usize,
        time: u32,
    ) -> Result<Vec<u32>, Refusal> {
        let granules = self.granules(address, bytes)?;
        let (mut words, mut good) = (Vec::with_capacity(granules.len() * 4), UNKNOWN);
        for granule in granules.clone() {
            words.extend(self.async_granule(granule as u32, by, &mut good)?);
        }
        let (first, end) = (granules.start as u32, granules.end as u32);
        self.sources.retain(|source| (source.first, source.end, source.column) != (first, end, column));
        self.sources.push(Source { first, end, column, time, by: Earlier { thread, pc: by.pc } });
        self.watched = true;
        Ok(words)
    }

    /// A `wgmma` of a warpgroup's group `time` reads a granule.
    pub(crate) fn tensor_read(&mut self, granule: u32, group: usize, time: u32, pc: u32) -> Result<(), Refusal> {
        let groups = self.warps.div_ceil(4);
        if granule >= self.bytes / 16 {
            return Err(Refusal::OutOfBounds);
        }
        if self.tensor_reads.is_empty() {
            self.tensor_reads.resize(self.data.len() / 4 * groups, 0);
            self.watched = true;
        }
        self.tensor_reads[granule as usize * groups + group] = u64::from(time + 1) << 32 | u64::from(pc);
        Ok(())
    }

    /// Whether words may be written that the asynchronous proxy has read or reads.
    #[inline(never)]
    pub(super) fn examine_async_reads(&self, at: usize, words: usize, by: Toucher<'_>) -> Result<(), Refusal> {
        let (first, last) = (at / 4, (at + words - 1) / 4);
        if !self.tensor_reads.is_empty() {
            let groups = self.warps.div_ceil(4);
            let known = &by.seen[self.warps..self.warps + groups];
            for granule in first..=last {
                let reads = &self.tensor_reads[granule * groups..][..groups];
                for (group, (read, known)) in reads.iter().zip(known).enumerate() {
                    if (*read >> 32) as u32 > *known {
                        let read = Earlier { thread: group as u32 * 128, pc: *read as u32 };
                        return Err(Refusal::BeingRead { address: granule as u32 * 16, read });
                    }
                }
            }
        }
        for source in &self.sources {
            let within = (first as u32) < source.end && last as u32 >= source.first;
            if within && by.seen.get(source.column).is_none_or(|known| source.time >= *known) {
                let address = 16 * source.first.max(first as u32);
                return Err(Refusal::BeingRead { address, read: source.by });
            }
        }
        Ok(())
    }

    /// A bulk copy into shared memory is issued: from now on these bytes belong to it. It is complete at `time` of `column`.
    pub(crate) fn async_poison(
        &mut self,
        address: u32,
        bytes: u32,
        thread: Thread,
        by: Toucher<'_>,
        column: usize,
        time: u32,
    ) -> Result<(), Refusal> {
        debug_assert!(time <= CLOCK_LIMIT && column < 1 << 10, "a write bears 16 bits of time and 10 of a column");
        let granules = self.granules(address, bytes)?;
        for granule in granules.clone() {
            self.may_poison(granule * 4, by)?;
        }
        let words = granules.start * 4..granules.end * 4;
        self.state[words.clone()].fill(stamp(column, time) | PENDING);
        self.writer[words].fill(by.pc);
        self.issuers.insert(by.pc, thread);
        Ok(())
    }

    fn may_poison(&self, at: usize, by: Toucher<'_>) -> Result<(), Refusal> {
        for at in at..at + 4 {
            let state = self.state[at];
            if state & PENDING != 0 {
                return Err(Refusal::Pending { address: 4 * at as u32, copy: self.writer_of(at) });
            }
            // What is half written, or by nobody knows whom, is written all the same.
            if state & WRITTEN != 0 && !readable(state | WRITTEN, by) {
                return Err(self.unordered(at, by));
            }
        }
        self.adds.fenced(at, by)?;
        let reads = &self.reads[at / 4 * self.warps..][..self.warps];
        if reads.iter().zip(by.seen).any(|(read, seen)| *read >> READ_CLOCK >= u64::from(*seen)) {
            self.examine_reads(at, 4, by)?;
        }
        if self.watched { self.examine_async_reads(at, 4, by) } else { Ok(()) }
    }

    /// The data of a bulk copy lands in what belongs to it.
    pub(crate) fn async_land(&mut self, address: u32, words: &[u32], column: usize, time: u32) {
        let at = address as usize / 4;
        self.state[at..at + words.len()].fill(stamp(column, time) | WRITTEN);
        self.data[at..at + words.len()].copy_from_slice(words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clocks::Clocks;

    const WARPS: usize = 8;

    fn shared() -> (Shared, Clocks) {
        (Shared::new(1024, WARPS), Clocks::new(WARPS))
    }

    #[test]
    fn a_generic_write_is_read_by_the_asynchronous_proxy_once_its_writer_fenced_it() {
        let (mut shared, mut clocks) = shared();
        shared.write(16, [1, 2, 3, 4], 3, clocks.toucher(0, 7)).unwrap();
        let write = Earlier { thread: 3, pc: 7 };
        let read =
            |shared: &Shared, clocks: &Clocks, warp| shared.async_granule(1, clocks.toucher(warp, 8), &mut { UNKNOWN });
        assert_eq!(read(&shared, &clocks, 0), Err(Refusal::Unfenced { address: 16, write }));
        assert_eq!(read(&shared, &clocks, 1), Err(Refusal::AfterWrite { address: 16, write }));
        // Ordered, and not fenced.
        clocks.tick(0);
        let mut handed = Default::default();
        clocks.release(0, &mut handed);
        clocks.acquire(1, &handed);
        assert_eq!(read(&shared, &clocks, 1), Err(Refusal::Unfenced { address: 16, write }));
        // A fence of the reader's is too late.
        clocks.tick(1);
        clocks.fence_proxy(1);
        assert_eq!(read(&shared, &clocks, 1), Err(Refusal::Unfenced { address: 16, write }));
        clocks.tick(0);
        clocks.fence_proxy(0);
        assert_eq!(read(&shared, &clocks, 0), Ok([1, 2, 3, 4]));
        clocks.release(0, &mut handed);
        clocks.acquire(1, &handed);
        assert_eq!(read(&shared, &clocks, 1), Ok([1, 2, 3, 4]));
        // What is written behind the fence is another matter.
        shared.write(16, [5], 3, clocks.toucher(0, 9)).unwrap();
        assert!(matches!(read(&shared, &clocks, 0), Err(Refusal::Unfenced { .. })));
    }

    #[test]
    fn a_bulk_copy_is_seen_by_those_who_waited_for_its_phase() {
        let (mut shared, mut clocks) = shared();
        let (mine, other) = (clocks.add_column(), clocks.add_column());
        shared.async_poison(32, 32, 5, clocks.toucher(0, 3), mine, 0).unwrap();
        let copy = Earlier { thread: 5, pc: 3 };
        assert_eq!(shared.read::<1>(36, 5, clocks.toucher(0, 4)), Err(Refusal::Pending { address: 36, copy }));
        shared.async_land(32, &[9; 8], mine, 0);
        assert_eq!(
            shared.read::<1>(36, 5, clocks.toucher(0, 4)),
            Err(Refusal::AfterWrite { address: 36, write: copy })
        );
        clocks.saw(0, other, 1);
        assert!(shared.read::<1>(36, 5, clocks.toucher(0, 4)).is_err());
        clocks.saw(0, mine, 1);
        assert_eq!(shared.read(36, 5, clocks.toucher(0, 4)), Ok([9]));
        assert_eq!(shared.async_granule(2, clocks.toucher(0, 4), &mut { UNKNOWN }), Ok([9; 4]));
        assert!(shared.write(32, [1], 40, clocks.toucher(1, 5)).is_err());
        shared.write(32, [1], 5, clocks.toucher(0, 5)).unwrap();
    }

    #[test]
    fn a_bulk_copy_waits_for_readers_and_fences() {
        let (mut shared, mut clocks) = shared();
        let column = clocks.add_column();
        shared.write(0, [1, 2, 3, 4], 0, clocks.toucher(0, 1)).unwrap();
        let write = Earlier { thread: 0, pc: 1 };
        let refused = shared.async_poison(0, 16, 0, clocks.toucher(0, 2), column, 0);
        assert_eq!(refused, Err(Refusal::Unfenced { address: 0, write }));
        clocks.tick(0);
        clocks.fence_proxy(0);
        let mut handed = Default::default();
        clocks.release(0, &mut handed);
        clocks.acquire(1, &handed);
        shared.read::<4>(0, 33, clocks.toucher(1, 6)).unwrap();
        let read = Earlier { thread: 33, pc: 6 };
        let refused = shared.async_poison(0, 16, 0, clocks.toucher(0, 2), column, 0);
        assert_eq!(refused, Err(Refusal::AfterRead { address: 0, read }));
        clocks.tick(1);
        clocks.release(1, &mut handed);
        clocks.acquire(0, &handed);
        shared.async_poison(0, 16, 0, clocks.toucher(0, 2), column, 0).unwrap();
    }

    #[test]
    fn what_is_read_asynchronously_is_not_written_before_the_wait_is_seen() {
        let (mut shared, mut clocks) = shared();
        let column = clocks.add_column();
        shared.write(64, [1, 2, 3, 4], 0, clocks.toucher(0, 1)).unwrap();
        clocks.tick(0);
        clocks.fence_proxy(0);
        let group = clocks.group_column(1);
        shared.tensor_read(4, 1, 0, 11).unwrap();
        let read = Earlier { thread: 128, pc: 11 };
        let refused = shared.write(72, [5], 0, clocks.toucher(0, 12));
        assert_eq!(refused, Err(Refusal::BeingRead { address: 64, read }));
        clocks.saw(0, group, 1);
        let by = clocks.toucher(0, 13);
        assert_eq!(shared.async_read(64, 16, 3, by, column, 4).unwrap(), [1, 2, 3, 4]);
        let read = Earlier { thread: 3, pc: 13 };
        let refused = shared.write(72, [5], 0, clocks.toucher(0, 14));
        assert_eq!(refused, Err(Refusal::BeingRead { address: 64, read }));
        clocks.saw(0, column, 5);
        shared.write(72, [5], 0, clocks.toucher(0, 14)).unwrap();
    }
}
