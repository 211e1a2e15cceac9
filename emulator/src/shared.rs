//! Shared memory of a CTA, and the order in which it may be touched.
//!
//! Every access from an instruction goes through [`Shared::read`] or [`Shared::write`] (or the asynchronous pair
//! [`Shared::poison`] and [`Shared::land`]), so that the rules stand in one place.
//!
//! **The rules** are the table in [`order`](crate::order). What goes through the asynchronous proxy is in [`proxy`].

mod adds;
mod proxy;

use std::collections::BTreeMap;

use adds::Adds;
use proxy::Source;
pub(crate) use proxy::UNKNOWN;

/// Which thread of the CTA, `warp * 32 + lane`. More than any thread of a CTA: a warp as a whole.
pub(crate) type Thread = u32;

/// A reader that is no thread in particular.
pub(crate) const WARP_WIDE: Thread = 1 << 10;

/// One bit a half of the word.
const WRITTEN: u32 = 3;
/// The halves come from different threads of a warp: each lane of it may read either.
const OF_WARP: u32 = 1 << 2;
/// The halves come from different warps: the word's order is not known.
const MIXED: u32 = 1 << 3;
const PENDING: u32 = 1 << 4;
/// Written through the asynchronous proxy: a column and its time stand in the places of thread and clock.
const ASYNC: u32 = 1 << 5;
const CLOCK_SHIFT: u32 = 16;
/// The clock at which a CTA must start counting anew.
pub(crate) const CLOCK_LIMIT: u32 = (1 << (32 - CLOCK_SHIFT)) - 1;

const fn thread_of(word: u32) -> Thread {
    word >> 6 & 0x3ff
}

const fn clock_of(word: u32) -> u32 {
    word >> CLOCK_SHIFT
}

const fn warp_of(word: u32) -> usize {
    (word >> 11 & 31) as usize
}

/// The column of the clocks that says when the word's write was seen.
#[inline(always)]
const fn column_of(word: u32) -> usize {
    (if word & ASYNC == 0 { word >> 11 & 31 } else { word >> 6 & 0x3ff }) as usize
}

/// Whether a word was written by this thread, through the generic proxy.
#[inline(always)]
const fn is_of(word: u32, thread: Thread) -> bool {
    word >> 5 & 0x7ff == thread << 1
}

const fn stamp(thread: Thread, clock: u32) -> u32 {
    clock << CLOCK_SHIFT | thread << 6
}

/// Who touches shared memory now.
#[derive(Clone, Copy)]
pub(crate) struct Toucher<'a> {
    pub(crate) warp: usize,
    pub(crate) clock: u32,
    pub(crate) pc: u32,
    /// For each column, the first of its times that this warp has not seen.
    pub(crate) seen: &'a [u32],
    /// For each warp, the first of its clocks whose writes the asynchronous proxy does not see for this warp.
    pub(crate) fenced: &'a [u32],
}

/// An earlier access that a report names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Earlier {
    pub(crate) thread: Thread,
    pub(crate) pc: u32,
}

/// Why an access to shared memory cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    OutOfBounds,
    Misaligned,
    Unwritten {
        address: u32,
    },
    /// The destination of an asynchronous copy that was not waited for.
    Pending {
        address: u32,
        copy: Earlier,
    },
    /// A write that is not ordered before this access.
    AfterWrite {
        address: u32,
        write: Earlier,
    },
    /// A read that is not ordered before this write.
    AfterRead {
        address: u32,
        read: Earlier,
    },
    /// The asynchronous proxy touches what the generic one wrote, with no proxy fence between.
    Unfenced {
        address: u32,
        write: Earlier,
    },
    /// A write while the asynchronous proxy may still read.
    BeingRead {
        address: u32,
        read: Earlier,
    },
}

/// Shared memory of one CTA.
#[derive(Debug)]
pub(crate) struct Shared {
    data: Vec<u32>,
    state: Vec<u32>,
    /// The instruction of the last write.
    writer: Vec<u32>,
    /// For each granule and warp its last read: clock, instruction, lane, words.
    reads: Vec<u64>,
    adds: Adds,
    warps: usize,
    bytes: u32,
    /// Whether the asynchronous proxy has read anything.
    watched: bool,
    /// For each granule and warpgroup the last `wgmma` that reads it; empty before the first of the CTA.
    tensor_reads: Vec<u64>,
    /// What bulk copies read.
    sources: Vec<Source>,
    /// Who last executed an instruction that writes through the asynchronous proxy.
    issuers: BTreeMap<u32, Thread>,
}

const READ_CLOCK: u32 = 44;
const READ_PC: u32 = 20;
const READ_LANE: u32 = 8;

impl Shared {
    pub(crate) fn new(bytes: u32, warps: usize) -> Self {
        let granules = bytes.div_ceil(16) as usize;
        Shared {
            data: vec![0; granules * 4],
            state: vec![0; granules * 4],
            writer: vec![0; granules * 4],
            reads: vec![0; granules * warps],
            adds: Adds::new(warps),
            warps,
            bytes,
            watched: false,
            tensor_reads: Vec::new(),
            sources: Vec::new(),
            issuers: BTreeMap::new(),
        }
    }

    /// How many there are, in bytes.
    pub(crate) const fn bytes(&self) -> u32 {
        self.bytes
    }

    /// As new, for the next CTA.
    pub(crate) fn clear(&mut self) {
        self.state.fill(0);
        self.reads.fill(0);
        self.adds.clear();
        self.forget_async();
    }

    /// Forgets all order up to now: every access made so far counts as seen by everyone.
    pub(crate) fn forget_clocks(&mut self) {
        for state in &mut self.state {
            if *state & (ASYNC | PENDING) == ASYNC {
                *state &= WRITTEN;
            } else if *state & ASYNC == 0 {
                *state &= (1 << CLOCK_SHIFT) - 1;
            }
        }
        self.reads.fill(0);
        self.adds.forget_clocks();
    }

    /// The first word of an access of `N` words, if it is in bounds and aligned to its size.
    #[inline(always)]
    fn locate(&self, address: u32, bytes: u32) -> Result<usize, Refusal> {
        if !address.is_multiple_of(bytes) {
            return Err(Refusal::Misaligned);
        }
        if address.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(Refusal::OutOfBounds);
        }
        Ok((address / 4) as usize)
    }

    /// Reads `N` words that lie in one granule.
    #[inline(always)]
    pub(crate) fn read<const N: usize>(
        &mut self,
        address: u32,
        thread: Thread,
        by: Toucher<'_>,
    ) -> Result<[u32; N], Refusal> {
        let at = self.locate(address, 4 * N as u32)?;
        let mut state = [0; N];
        state.copy_from_slice(&self.state[at..at + N]);
        // One writer for all the words is the usual case.
        let first = state[0];
        let alike = state.iter().fold(0, |differ, state| differ | (state ^ first)) == 0;
        if !(alike && readable(first, WRITTEN, thread, by)) {
            self.examine_read(at, &state, WRITTEN, thread, by)?;
        }
        self.adds.ordered(at, N, thread, by)?;
        self.note_read(at, (1 << N) - 1, thread, by);
        let mut out = [0; N];
        out.copy_from_slice(&self.data[at..at + N]);
        Ok(out)
    }

    /// Reads 16 bits.
    pub(crate) fn read_half(&mut self, address: u32, thread: Thread, by: Toucher<'_>) -> Result<u32, Refusal> {
        let at = self.locate(address, 2)?;
        let half = address / 2 % 2;
        let need = 1 << half;
        let state = self.state[at];
        if !readable(state, need, thread, by) {
            self.examine_read(at, &[state], need, thread, by)?;
        }
        self.adds.ordered(at, 1, thread, by)?;
        self.note_read(at, 1, thread, by);
        Ok(self.data[at] >> (16 * half) & 0xffff)
    }

    #[inline(always)]
    fn note_read(&mut self, at: usize, words: u64, thread: Thread, by: Toucher<'_>) {
        let read = &mut self.reads[at / 4 * self.warps + by.warp];
        let words = words << (at % 4);
        let same_time = *read >> READ_CLOCK == u64::from(by.clock);
        let before = if same_time { *read & 0xf } else { 0 };
        let lane = u64::from(thread % 32);
        *read = u64::from(by.clock) << READ_CLOCK | u64::from(by.pc) << READ_PC | lane << READ_LANE | before | words;
    }

    #[cold]
    #[inline(never)]
    fn examine_read(
        &self,
        at: usize,
        states: &[u32],
        need: u32,
        thread: Thread,
        by: Toucher<'_>,
    ) -> Result<(), Refusal> {
        for (i, &state) in states.iter().enumerate() {
            let address = 4 * (at + i) as u32;
            let write = self.writer_of(at + i);
            if state & PENDING != 0 {
                return Err(Refusal::Pending { address, copy: write });
            }
            if state & need != need {
                return Err(Refusal::Unwritten { address });
            }
            if !readable(state, need, thread, by) {
                return Err(Refusal::AfterWrite { address, write });
            }
        }
        Ok(())
    }

    /// Writes `N` words that lie in one granule.
    #[inline(always)]
    pub(crate) fn write<const N: usize>(
        &mut self,
        address: u32,
        value: [u32; N],
        thread: Thread,
        by: Toucher<'_>,
    ) -> Result<(), Refusal> {
        let at = self.locate(address, 4 * N as u32)?;
        self.may_write::<N>(at, thread, by, false)?;
        self.state[at..at + N].fill(stamp(thread, by.clock) | WRITTEN);
        self.writer[at..at + N].fill(by.pc);
        self.data[at..at + N].copy_from_slice(&value);
        Ok(())
    }

    /// Adds to a word, in whatever order with others that do.
    pub(crate) fn add(&mut self, address: u32, value: u32, thread: Thread, by: Toucher<'_>) -> Result<(), Refusal> {
        let at = self.locate(address, 4)?;
        if !readable(self.state[at], WRITTEN, thread, by) {
            self.examine_read(at, &[self.state[at]], WRITTEN, thread, by)?;
        }
        self.unread::<1>(at, by)?;
        self.adds.note(at, self.data.len(), thread, by);
        self.data[at] = self.data[at].wrapping_add(value);
        Ok(())
    }

    /// Writes 16 bits.
    pub(crate) fn write_half(
        &mut self,
        address: u32,
        value: u32,
        thread: Thread,
        by: Toucher<'_>,
    ) -> Result<(), Refusal> {
        let at = self.locate(address, 2)?;
        let half = address / 2 % 2;
        self.may_write::<1>(at, thread, by, true)?;
        let state = self.state[at];
        let shared = match () {
            () if state & WRITTEN == 0 || seen(state, by) || is_of(state, thread) => 0,
            () if warp_of(state) == by.warp => OF_WARP | state & MIXED,
            () => MIXED,
        };
        self.state[at] = stamp(thread, by.clock) | state & WRITTEN | 1 << half | shared;
        self.writer[at] = by.pc;
        let shift = 16 * half;
        self.data[at] = self.data[at] & !(0xffff << shift) | (value & 0xffff) << shift;
        Ok(())
    }

    /// An asynchronous copy is issued: from now on `4 N` bytes belong to it.
    #[inline(always)]
    pub(crate) fn poison<const N: usize>(
        &mut self,
        address: u32,
        thread: Thread,
        by: Toucher<'_>,
    ) -> Result<(), Refusal> {
        let at = self.locate(address, 4 * N as u32)?;
        self.may_write::<N>(at, thread, by, false)?;
        self.state[at..at + N].fill(stamp(thread, by.clock) | PENDING);
        self.writer[at..at + N].fill(by.pc);
        Ok(())
    }

    /// Words that belonged to something are anybody's again, and hold nothing.
    pub(crate) fn let_go<const N: usize>(&mut self, address: u32) {
        let at = (address / 4) as usize;
        self.state[at..at + N].fill(0);
    }

    /// The data of an asynchronous copy lands, as a write of its thread at this clock.
    #[inline(always)]
    pub(crate) fn land<const N: usize>(&mut self, address: u32, value: [u32; N], thread: Thread, clock: u32) {
        let at = (address / 4) as usize;
        self.state[at..at + N].fill(stamp(thread, clock) | WRITTEN);
        self.data[at..at + N].copy_from_slice(&value);
    }

    /// Whether `N` words may be overwritten now.
    #[inline(always)]
    fn may_write<const N: usize>(&self, at: usize, thread: Thread, by: Toucher<'_>, part: bool) -> Result<(), Refusal> {
        let mut state = [0; N];
        state.copy_from_slice(&self.state[at..at + N]);
        let first = state[0];
        let alike = state.iter().fold(0, |differ, state| differ | (state ^ first)) == 0;
        if !(alike && first & PENDING == 0 && (first == 0 || seen(first, by) || is_of(first, thread))) {
            self.examine_write(at, &state, thread, by, part)?;
        }
        self.adds.ordered(at, N, thread, by)?;
        self.unread::<N>(at, by)
    }

    /// Whether `N` words may be changed, for all that has read them.
    #[inline(always)]
    fn unread<const N: usize>(&self, at: usize, by: Toucher<'_>) -> Result<(), Refusal> {
        let granule = at / 4 * self.warps;
        let reads = &self.reads[granule..granule + self.warps];
        let late = reads
            .iter()
            .zip(by.seen)
            .fold(false, |late, (read, seen)| late | (*read >> READ_CLOCK >= u64::from(*seen)));
        if late {
            self.examine_reads(at, N, by)?;
        }
        if self.watched {
            self.examine_async_reads(at, N, by)?;
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn examine_write(
        &self,
        at: usize,
        states: &[u32],
        thread: Thread,
        by: Toucher<'_>,
        part: bool,
    ) -> Result<(), Refusal> {
        for (i, &state) in states.iter().enumerate() {
            let address = 4 * (at + i) as u32;
            let write = self.writer_of(at + i);
            if state & PENDING != 0 {
                return Err(Refusal::Pending { address, copy: write });
            }
            let generic = state & ASYNC == 0;
            let same_instruction =
                generic && warp_of(state) == by.warp && clock_of(state) == by.clock && write.pc == by.pc;
            let ordered = seen(state, by) || is_of(state, thread) || same_instruction;
            if state & WRITTEN != 0 && state & MIXED == 0 && !(ordered || part && generic) {
                return Err(Refusal::AfterWrite { address, write });
            }
        }
        Ok(())
    }

    /// Who wrote a word, or will.
    fn writer_of(&self, at: usize) -> Earlier {
        let (state, pc) = (self.state[at], self.writer[at]);
        let thread = if state & ASYNC == 0 { thread_of(state) } else { self.issuers.get(&pc).copied().unwrap_or(0) };
        Earlier { thread, pc }
    }

    #[cold]
    #[inline(never)]
    fn examine_reads(&self, at: usize, words: usize, by: Toucher<'_>) -> Result<(), Refusal> {
        let mask = ((1u64 << words) - 1) << (at % 4);
        let granule = at / 4 * self.warps;
        let reads = &self.reads[granule..granule + self.warps];
        for (warp, (read, seen)) in reads.iter().zip(by.seen).enumerate() {
            if warp != by.warp && *read & mask != 0 && *read >> READ_CLOCK >= u64::from(*seen) {
                let lane = (*read >> READ_LANE & 31) as u32;
                let pc = (*read >> READ_PC & 0xff_ffff) as u32;
                let word = at + ((*read & mask) >> (at % 4)).trailing_zeros() as usize;
                let read = Earlier { thread: warp as u32 * 32 + lane, pc };
                return Err(Refusal::AfterRead { address: 4 * word as u32, read });
            }
        }
        Ok(())
    }
}

#[inline(always)]
fn seen(state: u32, by: Toucher<'_>) -> bool {
    clock_of(state) < by.seen[column_of(state)]
}

#[inline(always)]
fn readable(state: u32, need: u32, thread: Thread, by: Toucher<'_>) -> bool {
    let unordered = state & MIXED != 0 || state & OF_WARP != 0 && warp_of(state) == by.warp;
    state & (need | PENDING) == need && (is_of(state, thread) || unordered || seen(state, by))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn by(warp: usize, clock: u32, pc: u32, seen: &[u32]) -> Toucher<'_> {
        Toucher { warp, clock, pc, seen, fenced: seen }
    }

    #[test]
    fn a_write_is_seen_by_its_thread_at_once_and_by_others_after_a_barrier() {
        let mut shared = Shared::new(64, 2);
        shared.write(16, [5], 3, by(0, 1, 7, &[1, 1])).unwrap();
        assert_eq!(shared.read(16, 3, by(0, 1, 8, &[1, 1])), Ok([5]));
        let write = Earlier { thread: 3, pc: 7 };
        assert_eq!(shared.read::<1>(16, 4, by(0, 1, 8, &[1, 1])), Err(Refusal::AfterWrite { address: 16, write }));
        assert_eq!(shared.read::<1>(16, 32, by(1, 1, 8, &[1, 1])), Err(Refusal::AfterWrite { address: 16, write }));
        assert_eq!(shared.read(16, 4, by(0, 2, 8, &[2, 1])), Ok([5]));
        assert_eq!(shared.read(16, 32, by(1, 2, 8, &[2, 2])), Ok([5]));
    }

    #[test]
    fn an_overwrite_waits_for_the_readers() {
        let mut shared = Shared::new(64, 2);
        shared.write(0, [1, 2, 3, 4], 0, by(0, 1, 1, &[1, 1])).unwrap();
        shared.read::<4>(0, 33, by(1, 2, 9, &[2, 2])).unwrap();
        let read = Earlier { thread: 33, pc: 9 };
        let refused = shared.poison::<4>(0, 0, by(0, 2, 2, &[2, 2]));
        assert_eq!(refused, Err(Refusal::AfterRead { address: 0, read }));
        shared.poison::<4>(0, 0, by(0, 3, 2, &[3, 3])).unwrap();
        let copy = Earlier { thread: 0, pc: 2 };
        assert_eq!(shared.read::<1>(8, 0, by(0, 3, 3, &[3, 3])), Err(Refusal::Pending { address: 8, copy }));
        shared.land(0, [9; 4], 0, 3);
        assert_eq!(shared.read(8, 0, by(0, 3, 3, &[3, 3])), Ok([9]));
    }

    /// Columns behind the warps are of what completes by itself, and no reader of the next granule.
    #[test]
    fn an_overwrite_waits_for_no_reader_of_its_neighbours() {
        let mut shared = Shared::new(64, 1);
        let now = || by(0, 1, 1, &[1, 0, 0]);
        shared.write(0, [1], 0, now()).unwrap();
        shared.write(16, [2], 0, now()).unwrap();
        shared.read::<1>(0, 0, now()).unwrap();
        shared.read::<1>(16, 0, now()).unwrap();
        assert_eq!(shared.write(0, [3], 0, now()), Ok(()));
    }

    #[test]
    fn halves_and_bounds() {
        let mut shared = Shared::new(20, 1);
        shared.write_half(18, 0xabcd, 0, by(0, 1, 1, &[1])).unwrap();
        assert_eq!(shared.read::<1>(16, 0, by(0, 1, 1, &[1])), Err(Refusal::Unwritten { address: 16 }));
        shared.write_half(16, 0x1234, 1, by(0, 1, 1, &[1])).unwrap();
        assert_eq!(shared.read(16, 0, by(0, 1, 1, &[1])), Ok([0xabcd_1234]));
        assert_eq!(shared.read::<1>(20, 0, by(0, 1, 1, &[1])), Err(Refusal::OutOfBounds));
        assert_eq!(shared.read::<2>(4, 0, by(0, 1, 1, &[1])), Err(Refusal::Misaligned));
    }
}
