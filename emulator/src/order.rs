//! The order in which memory may be touched: the table that `shared`, `global` and the copies check by.
//!
//! **Clocks.** A warp's time is its *clock*: it ticks when the warp arrives at a barrier, synchronises with itself
//! (`bar.warp.sync`) or fences (`membar.gl`). A warp *has seen* another up to a clock. An access is *ordered after* an
//! earlier one if the same thread made both, or if the warp has seen the clock that the earlier one bears. The launch's end
//! orders everything. Sections are those of the PTX ISA 9.1.
//!
//! **What lets a warp see another:**
//!
//! | | what is seen | PTX ISA |
//! |---|---|---|
//! | `bar.sync`, `bar.arrive` then `bar.sync` | who waited sees what those who arrived had seen, and did | 9.7.13.1, 8.9 |
//! | `mbarrier.arrive`, `cp.async.mbarrier.arrive`, then a wait for the phase that passes | who waited sees what those who arrived in it, or in one before, had seen, and did; and what bulk copies brought in it | 9.7.13.15, 8.9 |
//! | the same on the mbarrier of another CTA of the cluster | the same, and what each has seen of the other's shared memory | 9.7.13.15, 8.9 |
//! | `barrier.cluster.arrive`, not `.relaxed`, then `.wait` | who waited sees what all warps of the cluster had seen, and did | 9.7.13.4 |
//! | `cp.async.bulk.wait_group` | the warp sees the end of its thread's groups but the last ones: they have read their sources and, without `.read`, written | 9.7.9.25.4 |
//! | `fence.mbarrier_init`, `fence.proxy.async` | bulk copies may count on the mbarriers that the warp made before | 9.7.13.15.9, 8.4 |
//! | `wgmma.wait_group` | the warp sees the end of its warpgroup's groups but the last ones: they have read their operands | 9.7.15.7.3 |
//! | `fence.proxy.async` | the asynchronous proxy sees what the warp wrote before, for whoever sees the fence | 8.4, 9.7.15.4 |
//! | `bar.warp.sync` | the lanes see each other's accesses | 9.7.13.2 |
//! | `membar.gl`, then `atom` or `red` at M; elsewhere `atom` at M after it, then `membar.gl` | what the first warp had seen, and did before its fence | 8.8 patterns, 8.9.2 |
//! | `shfl`, `vote`, `match`, `redux`, `membar.cta`; `atom` without a fence on both sides | nothing | 9.7.9.6, 8.8 |
//!
//! **Shared memory.** Each word keeps its last write, each 16-byte granule the last read of every warp:
//!
//! | earlier | later | faults unless | PTX ISA |
//! |---|---|---|---|
//! | `st` | `ld`, `ldmatrix`, `st`, `cp.async` issued | the later is ordered after it; two lanes of one instruction may write a word | 8.7 |
//! | `ld`, `ldmatrix` by another warp | `st`, `cp.async` issued | the later is ordered after it | 8.7 |
//! | `st` | `red` | the later is ordered after it, and something was stored | 8.7 |
//! | `red` | `red` | never faults | 8.7.1 |
//! | `red` | any other, as after a `st` by its thread | the later is ordered after it | 8.7.1 |
//! | `ld`, `ldmatrix` by another warp | `red` | the later is ordered after it | 8.7 |
//! | `cp.async` issued | any | its thread has waited for its group | 9.7.9.25.1 |
//! | `cp.async` landed | any | the later is ordered after the wait; by that thread, at once | 9.7.9.25.3.1 |
//! | `st`, `stmatrix`, `cp.async` landed | `wgmma`, bulk copy from or to it | their warp has executed `fence.proxy.async` since, and the later is ordered after that | 8.4, 9.7.15.4 |
//! | `wgmma` issued | `st`, `stmatrix`, `cp.async`, bulk copy to what it reads | a warp of its warpgroup has waited for its group, and the later is ordered after that | 9.7.15.7.3 |
//! | bulk copy from it issued | `st`, `stmatrix`, `cp.async`, bulk copy to it | its thread has waited for its group, and the later is ordered after that | 9.7.9.25.1 |
//! | bulk copy to it issued | any | its mbarrier's phase is complete | 9.7.9.25.1 |
//! | bulk copy to it landed | any | the warp has waited for that phase, or is ordered after one that has; no fence, the wait is one | 9.7.9.25.1, 8.4 |
//! | `ld`, `ldmatrix` by another warp | bulk copy to it issued | the later is ordered after it | 8.7 |
//!
//! **Registers of `wgmma`**, the accumulators and A's fragments, in each warp (9.7.15.7):
//!
//! | earlier | later | faults unless |
//! |---|---|---|
//! | any instruction that reads or writes one | `wgmma` on it | a `wgmma.fence` stands between |
//! | `wgmma` that accumulates in it | `wgmma` that accumulates in it | they have one shape, or a wait and a `wgmma.fence` stand between |
//! | `wgmma` that reads it as A | `wgmma` that reads it as A | never faults |
//! | any other `wgmma` on it | `wgmma` on it | a wait and a `wgmma.fence` stand between |
//! | `wgmma` on it | any other instruction that reads or writes it | `wgmma.wait_group` has let its group end |
//!
//! All four warps of a warpgroup issue the same `wgmma`s, in the same order and groups, with the same descriptors (9.7.15.5.2):
//! what the four have seen in common when they issue one is what counts for its operands.
//!
//! **Global memory**, within a launch:
//!
//! | earlier | later | faults unless | PTX ISA |
//! |---|---|---|---|
//! | `st` | `ld`, `cp.async`, `st`, `atom`, `red` | the later is ordered after it | 8.7 |
//! | `atom`, `red` | `atom`, `red` | never faults | 8.7.1 |
//! | `atom`, `red` | `ld`, `cp.async`, `st` | the later is ordered after it | 8.7.1 |
//! | `ld`, `cp.async` landed, by another warp | `st`, `atom`, `red` | the later is ordered after it, for a copy after its wait | 8.7 |
//! | `cp.async` issued | `st`, `atom`, `red` of its source, by anyone | its thread has waited for its group | 9.7.9.25.1 |
//! | bulk copy from it issued | `st`, `atom`, `red` of its source, by anyone | it has landed, which is as late as it may be | 9.7.9.25.1 |
//! | bulk copy or add to it issued | as after a `st` or `red` by its thread, then and when it lands | | 9.7.9.25.4 |
//! | `st`, `atom`, `red` | `ld.global.nc` | always faults: the memory model does not cover `.nc` | 8.1 |
//!
//! **Proxies** (8.4). Everything goes through the generic proxy, `cp.async` too, but `wgmma`'s operands in shared memory and
//! bulk copies. By the letter a proxy fence may stand anywhere between the two accesses; here it is the writer's, which is where
//! hardware is known to need it. What one warp fences counts for all its lanes.
//!
//! **Mbarriers** are used once their making was seen; their bytes are no ordinary memory until they are unmade.
//!
//! **What is let pass**: global memory is not told apart by proxies; a read and a write by two lanes of one warp in that order;
//! a warp's earlier read of other words of a granule of shared memory, once it reads it again; halves of one word written with
//! nothing between (the word is then unordered until a write that has seen the last one); of several atomic updates of a word
//! all but the last by each of two CTAs; what one warp acquires counts for its CTA, and a fence for all lanes of its warp; reads
//! of an allocation that no address which the kernel stores to seems to derive from, before the first such store; the 65th
//! reader at once; waits at an mbarrier see other CTAs of the cluster whatever their scope.

use crate::global::Known;
use crate::shared::CLOCK_LIMIT;

/// A moment of a warp. Clocks that run full start anew; how often they did comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(u32);

impl Time {
    pub(crate) const ZERO: Time = Time(0);

    pub(crate) fn new(round: u32, clock: u32) -> Time {
        debug_assert!(clock <= CLOCK_LIMIT, "clocks start anew at {CLOCK_LIMIT}");
        Time(round << 16 | clock)
    }
}

/// Up to when something is known of a warp of another CTA.
pub(crate) trait Since {
    /// The first moment that is not known.
    fn since(&self, cta: u32, warp: u32) -> Time;
}

/// What a warp has seen: of its own CTA by clock, of others by what was handed over.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) round: u32,
    /// For each warp of the CTA, the first of its clocks that was not seen.
    pub(crate) own: &'a [u32],
    pub(crate) others: &'a Known,
}

impl Seen<'_> {
    /// Whether what a warp did at a time was seen by a warp of `cta`.
    pub(crate) fn covers(&self, cta: u32, of: u32, warp: u32, time: Time) -> bool {
        if cta == of {
            time < Time::new(self.round, self.own[warp as usize])
        } else {
            time < self.others.since(of, warp)
        }
    }
}
