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
//! | `cp.async` issued | any | its thread has waited for its group | 9.7.9.25.1 |
//! | `cp.async` landed | any | the later is ordered after the wait; by that thread, at once | 9.7.9.25.3.1 |
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
//! | `st`, `atom`, `red` | `ld.global.nc` | always faults: the memory model does not cover `.nc` | 8.1 |
//!
//! Every access that the table of instructions has goes through the generic proxy (8.4), `cp.async` too, so a clock a warp
//! is enough: other proxies bring clocks of their own, and rows that their fences close.
//!
//! **What is let pass**: a read and a write by two lanes of one warp in that order; a warp's earlier read of other words of a
//! granule of shared memory, once it reads it again; halves of one word written with nothing between (the word is then
//! unordered until a write that has seen the last one); of several atomic updates of a word all but the last by each of two
//! CTAs; what one warp acquires counts for its CTA, and a fence for all lanes of its warp; reads of an allocation that
//! no address which the kernel stores to seems to derive from, before the first such store; the 65th reader at once.

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
