//! What is added to shared memory: in any order among themselves; for whoever reads or writes, additions are writes.

use super::{Earlier, READ_CLOCK, READ_LANE, READ_PC, Refusal, Thread, Toucher};

/// Lanes besides the one that is named added at the same time.
const SEVERAL: u64 = 1 << 13;
const ADDED: u64 = 1;

/// The last addition of each warp to each word.
#[derive(Debug)]
pub(super) struct Adds {
    /// For each word and warp, as reads are kept; empty before the first of the CTA.
    last: Vec<u64>,
    warps: usize,
}

const fn clock(add: u64) -> u32 {
    (add >> READ_CLOCK) as u32
}

const fn lane(add: u64) -> u32 {
    (add >> READ_LANE & 31) as u32
}

const fn earlier(add: u64, warp: usize) -> Earlier {
    Earlier { thread: warp as u32 * 32 + lane(add), pc: (add >> READ_PC & 0xff_ffff) as u32 }
}

impl Adds {
    pub(super) const fn new(warps: usize) -> Self {
        Adds { last: Vec::new(), warps }
    }

    /// As new, for the next CTA.
    pub(super) fn clear(&mut self) {
        self.last.clear();
    }

    /// All that was added counts as seen by everyone.
    pub(super) fn forget_clocks(&mut self) {
        self.last.fill(0);
    }

    /// A thread adds to a word, of so many.
    pub(super) fn note(&mut self, at: usize, words: usize, thread: Thread, by: Toucher<'_>) {
        if self.last.is_empty() {
            self.last.resize(words * self.warps, 0);
        }
        let add = &mut self.last[at * self.warps + by.warp];
        let others = *add & ADDED != 0 && clock(*add) == by.clock && (*add & SEVERAL != 0 || lane(*add) != thread % 32);
        *add = u64::from(by.clock) << READ_CLOCK
            | u64::from(by.pc) << READ_PC
            | if others { SEVERAL } else { 0 }
            | u64::from(thread % 32) << READ_LANE
            | ADDED;
    }

    /// Whether a thread sees all that was added to words.
    #[inline(always)]
    pub(super) fn ordered(&self, at: usize, words: usize, thread: Thread, by: Toucher<'_>) -> Result<(), Refusal> {
        if self.last.is_empty() { Ok(()) } else { self.examine(at, words, thread, by) }
    }

    #[inline(never)]
    fn examine(&self, at: usize, words: usize, thread: Thread, by: Toucher<'_>) -> Result<(), Refusal> {
        for at in at..at + words {
            for (warp, &add) in self.last[at * self.warps..][..self.warps].iter().enumerate() {
                let own = warp == by.warp && add & SEVERAL == 0 && lane(add) == thread % 32;
                if add & ADDED != 0 && clock(add) >= by.seen[warp] && !own {
                    return Err(Refusal::AfterWrite { address: 4 * at as u32, write: earlier(add, warp) });
                }
            }
        }
        Ok(())
    }

    /// Whether the asynchronous proxy sees all that was added to a granule.
    #[inline(always)]
    pub(super) fn fenced(&self, at: usize, by: Toucher<'_>) -> Result<(), Refusal> {
        if self.last.is_empty() { Ok(()) } else { self.examine_fenced(at, by) }
    }

    #[inline(never)]
    fn examine_fenced(&self, at: usize, by: Toucher<'_>) -> Result<(), Refusal> {
        for at in at..at + 4 {
            for (warp, &add) in self.last[at * self.warps..][..self.warps].iter().enumerate() {
                if add & ADDED != 0 && clock(add) >= by.fenced[warp] {
                    let (address, write) = (4 * at as u32, earlier(add, warp));
                    let ordered = warp == by.warp || clock(add) < by.seen[warp];
                    return Err(match ordered {
                        true => Refusal::Unfenced { address, write },
                        false => Refusal::AfterWrite { address, write },
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Shared;
    use super::*;
    use crate::clocks::Clocks;

    fn shared() -> (Shared, Clocks) {
        let (mut shared, mut clocks) = (Shared::new(64, 2), Clocks::new(2));
        shared.write(0, [10, 20, 30, 40], 0, clocks.toucher(0, 1)).unwrap();
        synchronise(&mut clocks);
        (shared, clocks)
    }

    fn synchronise(clocks: &mut Clocks) {
        let mut handed = Default::default();
        for warp in [0, 1] {
            clocks.tick(warp);
            clocks.release(warp, &mut handed);
        }
        for warp in [0, 1] {
            clocks.acquire(warp, &handed);
        }
    }

    #[test]
    fn additions_of_all_meet_and_are_read_once_they_are_seen() {
        let (mut shared, mut clocks) = shared();
        for thread in [0, 1, 1, 32, 63] {
            shared.add(4, 5, thread, clocks.toucher(thread as usize / 32, 7)).unwrap();
        }
        let write = Earlier { thread: 63, pc: 7 };
        let refused = shared.read::<1>(4, 63, clocks.toucher(1, 8));
        assert!(
            matches!(refused, Err(Refusal::AfterWrite { address: 4, .. })),
            "another lane's, and warp's: {refused:?}"
        );
        let refused = shared.write(4, [1], 0, clocks.toucher(0, 8));
        assert!(matches!(refused, Err(Refusal::AfterWrite { address: 4, .. })), "{refused:?}");
        assert_eq!(shared.read(8, 0, clocks.toucher(0, 8)), Ok([30]), "its neighbours are as they were");
        // One warp has synchronised with itself alone.
        clocks.tick(0);
        assert_eq!(shared.read::<1>(4, 0, clocks.toucher(0, 9)), Err(Refusal::AfterWrite { address: 4, write }));
        synchronise(&mut clocks);
        for thread in [0, 33] {
            assert_eq!(shared.read(4, thread, clocks.toucher(thread as usize / 32, 9)), Ok([20 + 5 * 5]));
        }
    }

    #[test]
    fn a_lane_sees_what_it_alone_has_added() {
        let (mut shared, clocks) = shared();
        shared.add(0, 1, 3, clocks.toucher(0, 7)).unwrap();
        shared.add(0, 1, 3, clocks.toucher(0, 8)).unwrap();
        assert_eq!(shared.read(0, 3, clocks.toucher(0, 9)), Ok([12]));
        let write = Earlier { thread: 3, pc: 8 };
        assert_eq!(shared.read::<1>(0, 4, clocks.toucher(0, 9)), Err(Refusal::AfterWrite { address: 0, write }));
    }

    #[test]
    fn what_was_written_and_read_comes_before() {
        let (mut shared, clocks) = shared();
        assert_eq!(shared.add(16, 1, 0, clocks.toucher(0, 3)), Err(Refusal::Unwritten { address: 16 }));
        assert_eq!(shared.add(2, 1, 0, clocks.toucher(0, 3)), Err(Refusal::Misaligned));
        assert_eq!(shared.add(64, 1, 0, clocks.toucher(0, 3)), Err(Refusal::OutOfBounds));
        shared.write(8, [1], 0, clocks.toucher(0, 4)).unwrap();
        let write = Earlier { thread: 0, pc: 4 };
        assert_eq!(shared.add(8, 1, 32, clocks.toucher(1, 5)), Err(Refusal::AfterWrite { address: 8, write }));
        shared.read::<1>(4, 32, clocks.toucher(1, 6)).unwrap();
        let read = Earlier { thread: 32, pc: 6 };
        assert_eq!(shared.add(4, 1, 0, clocks.toucher(0, 7)), Err(Refusal::AfterRead { address: 4, read }));
    }

    #[test]
    fn the_asynchronous_proxy_sees_what_was_fenced() {
        let (mut shared, mut clocks) = shared();
        clocks.fence_proxy(0);
        let unknown = || super::super::UNKNOWN;
        assert_eq!(shared.async_granule(0, clocks.toucher(0, 3), &mut unknown()), Ok([10, 20, 30, 40]));
        shared.add(4, 1, 0, clocks.toucher(0, 4)).unwrap();
        let write = Earlier { thread: 0, pc: 4 };
        let refused = shared.async_granule(0, clocks.toucher(0, 5), &mut unknown());
        assert_eq!(refused, Err(Refusal::Unfenced { address: 4, write }));
        clocks.tick(0);
        clocks.fence_proxy(0);
        assert_eq!(shared.async_granule(0, clocks.toucher(0, 5), &mut unknown()), Ok([10, 21, 30, 40]));
    }
}
