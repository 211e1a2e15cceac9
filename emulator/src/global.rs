//! Who wrote and who read global memory in a launch, and whether what comes next is ordered after it.
//!
//! The rules stand in [`order`](crate::order). A [`Ledger`] lasts for one launch: its end orders everything. It remembers
//! the reads and writes of allocations that the kernel may store to (see [`stores`](crate::stores)), a [`Shadow`] for each
//! page of them, and of any other page from its first write on. Reads of what nobody stores to cost nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::memory::{PAGE, PAGE_BITS};
use crate::order::{Seen, Since, Time};

/// What an instruction does to global memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Read,
    /// `ld.global.nc`: the memory model does not cover it.
    ReadConstant,
    /// `cp.async`: its source is read at any time until the issuing thread has waited.
    ReadLater,
    /// The thread has waited for its `cp.async`.
    ReadDone,
    /// A bulk copy that read this has landed: whoever waits for it knows.
    ReadOver,
    Write,
    Atomic,
}

/// Who touches global memory now.
#[derive(Clone, Copy)]
pub(crate) struct Toucher<'a> {
    pub(crate) cta: u32,
    /// `warp * 32 + lane`.
    pub(crate) thread: u32,
    pub(crate) pc: u32,
    pub(crate) now: Time,
    pub(crate) seen: Seen<'a>,
}

impl Toucher<'_> {
    /// Whether what a thread did then is ordered before what this one does now.
    fn after(&self, what: &Access) -> bool {
        if what.cta == self.cta && what.thread == self.thread {
            return true;
        }
        self.seen.covers(self.cta, what.cta, what.thread / 32, what.time)
    }
}

/// An access that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) cta: u32,
    pub(crate) thread: u32,
    pub(crate) pc: u32,
    time: Time,
}

/// Why an access is in nobody's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// A write, or an atomic update, that is not ordered before this.
    AfterWrite(Access),
    /// A read that is not ordered before this write.
    AfterRead(Access),
    /// An asynchronous copy that reads these bytes is in flight.
    InFlight(Access),
    /// What `ld.global.nc` reads was written in this launch.
    Constant(Access),
}

/// The last write of a word: 16 bytes.
#[derive(Clone, Copy, Debug)]
struct Writing {
    cta: u32,
    time: Time,
    pc: u32,
    thread: u16,
    /// Which halves of the word, in bits 0 and 1; none if it was not written in this launch.
    state: u8,
}

const ATOMIC: u8 = 1 << 2;
/// Halves came from threads with nothing between them: the word's order is not known.
const MIXED: u8 = 1 << 3;

impl Writing {
    const NONE: Writing = Writing { cta: 0, time: Time::ZERO, pc: 0, thread: 0, state: 0 };

    const fn by(&self) -> Access {
        Access { cta: self.cta, thread: self.thread as u32, pc: self.pc, time: self.time }
    }
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    by: Access,
    /// Which halves of the granule's four words.
    halves: u8,
    in_flight: bool,
}

/// Reads of a granule that are remembered at most; later ones are let pass.
const MOST_READS: usize = 64;

/// What was done to a page in this launch.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    /// The last write of each word; empty before the first.
    writes: Vec<Writing>,
    /// Where that is an atomic update, the last one by another CTA.
    others: HashMap<u32, Writing>,
    /// By granule of 16 bytes.
    reads: HashMap<u32, Vec<Reading>>,
}

/// The halves of the granule at `offset` that lie in `bytes` from there.
fn halves(offset: u32, bytes: u32) -> u8 {
    let first = offset % 16 / 2;
    let count = bytes.div_ceil(2).min(8 - first);
    (((1u32 << count) - 1) << first) as u8
}

impl Shadow {
    /// Notes what is done to up to 16 bytes of one granule.
    pub(crate) fn touch(&mut self, offset: u32, bytes: u32, deed: Deed, by: &Toucher<'_>) -> Result<(), Conflict> {
        let halves = halves(offset, bytes);
        let granule = offset / 16;
        match deed {
            Deed::Read | Deed::ReadConstant | Deed::ReadLater => {
                self.examine_writes(granule, halves, deed, by)?;
                self.read(granule, halves, deed == Deed::ReadLater, by);
            }
            Deed::ReadDone => self.land(granule, by),
            Deed::ReadOver => self.forget(granule, by),
            Deed::Write | Deed::Atomic => {
                self.examine_writes(granule, halves, deed, by)?;
                self.examine_reads(granule, halves, by)?;
                self.write(granule, halves, deed == Deed::Atomic, by);
            }
        }
        Ok(())
    }

    fn examine_writes(&self, granule: u32, halves: u8, deed: Deed, by: &Toucher<'_>) -> Result<(), Conflict> {
        if self.writes.is_empty() {
            return Ok(());
        }
        for word in words(halves) {
            let now = halves >> (2 * word) & 3;
            let at = granule * 4 + word;
            let last = &self.writes[at as usize];
            if last.state & now != 0 {
                examine(last, deed, by)?;
                if last.state & ATOMIC != 0
                    && let Some(other) = self.others.get(&at)
                {
                    examine(other, deed, by)?;
                }
            }
        }
        Ok(())
    }

    fn examine_reads(&self, granule: u32, halves: u8, by: &Toucher<'_>) -> Result<(), Conflict> {
        let reads = self.reads.get(&granule).into_iter().flatten();
        for read in reads.filter(|read| read.halves & halves != 0) {
            if read.in_flight {
                return Err(Conflict::InFlight(read.by));
            }
            let same_warp = (read.by.cta, read.by.thread / 32) == (by.cta, by.thread / 32);
            if !(same_warp || by.after(&read.by)) {
                return Err(Conflict::AfterRead(read.by));
            }
        }
        Ok(())
    }

    fn read(&mut self, granule: u32, halves: u8, in_flight: bool, by: &Toucher<'_>) {
        let reads = self.reads.entry(granule).or_default();
        // What is ordered before this read, and within it, is ordered before whatever is ordered after this read.
        reads.retain(|read| read.in_flight || read.halves & !halves != 0 || !by.after(&read.by));
        let covered = |read: &Reading| {
            (read.by.cta, read.by.thread / 32, read.by.time) == (by.cta, by.thread / 32, by.now)
                && read.halves & halves == halves
        };
        if reads.len() < MOST_READS && (in_flight || !reads.iter().any(covered)) {
            reads.push(Reading { by: access(by), halves, in_flight });
        }
    }

    /// A copy that this thread issued here has landed: it was the read of an instruction that ends now.
    fn land(&mut self, granule: u32, by: &Toucher<'_>) {
        let Some(reads) = self.reads.get_mut(&granule) else { return };
        let issued = |read: &&mut Reading| {
            read.in_flight && (read.by.cta, read.by.thread, read.by.pc) == (by.cta, by.thread, by.pc)
        };
        if let Some(read) = reads.iter_mut().find(issued) {
            read.in_flight = false;
            read.by.time = by.now;
        }
    }

    /// A read of this thread's instruction here is over, and orders nothing.
    fn forget(&mut self, granule: u32, by: &Toucher<'_>) {
        let Some(reads) = self.reads.get_mut(&granule) else { return };
        let issued =
            |read: &Reading| read.in_flight && (read.by.cta, read.by.thread, read.by.pc) == (by.cta, by.thread, by.pc);
        if let Some(at) = reads.iter().position(issued) {
            reads.swap_remove(at);
        }
    }

    fn write(&mut self, granule: u32, halves: u8, atomic: bool, by: &Toucher<'_>) {
        if self.writes.is_empty() {
            self.writes.resize((PAGE / 4) as usize, Writing::NONE);
        }
        for word in words(halves) {
            let now = halves >> (2 * word) & 3;
            let at = granule * 4 + word;
            let last = self.writes[at as usize];
            let mut state = now | if atomic { ATOMIC } else { 0 };
            if atomic && last.state & ATOMIC != 0 {
                if last.cta != by.cta {
                    self.others.insert(at, last);
                }
            } else {
                if last.state & ATOMIC != 0 {
                    self.others.remove(&at);
                }
                if last.state & 3 & !now != 0 {
                    state |= last.state & (3 | MIXED);
                    state |= if by.after(&last.by()) { 0 } else { MIXED };
                }
            }
            self.writes[at as usize] =
                Writing { cta: by.cta, time: by.now, pc: by.pc, thread: by.thread as u16, state };
        }
    }
}

/// The words of a granule of which some half is meant.
fn words(halves: u8) -> impl Iterator<Item = u32> {
    (0..4).filter(move |word| halves >> (2 * word) & 3 != 0)
}

/// Whether this may be done to what was written so.
fn examine(write: &Writing, deed: Deed, by: &Toucher<'_>) -> Result<(), Conflict> {
    let earlier = write.by();
    if deed == Deed::ReadConstant {
        return Err(Conflict::Constant(earlier));
    }
    let both_atomic = deed == Deed::Atomic && write.state & ATOMIC != 0;
    // Lanes of one store may write the same bytes: one of them wins.
    let together = deed == Deed::Write
        && write.state & ATOMIC == 0
        && (write.cta, earlier.thread / 32, write.pc, write.time) == (by.cta, by.thread / 32, by.pc, by.now);
    if both_atomic || together || write.state & MIXED != 0 || by.after(&earlier) {
        Ok(())
    } else {
        Err(Conflict::AfterWrite(earlier))
    }
}

fn access(by: &Toucher<'_>) -> Access {
    Access { cta: by.cta, thread: by.thread, pc: by.pc, time: by.now }
}

/// What the CTAs of a launch know of each other's times: for each CTA that was heard of, its warps' times.
pub(crate) type Known = BTreeMap<u32, Vec<Time>>;

/// Takes in what somebody else knows.
pub(crate) fn learn(known: &mut Known, other: &Known) {
    for (cta, times) in other {
        let mine = known.entry(*cta).or_insert_with(|| vec![Time::default(); times.len()]);
        mine.iter_mut().zip(times).for_each(|(mine, time)| *mine = (*mine).max(*time));
    }
}

/// Who did what in a launch.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Allocations that the kernel may store to: start and end.
    watched: Vec<(u64, u64)>,
    shadows: RwLock<HashMap<u64, Arc<Mutex<Shadow>>>>,
    /// What was released at an address by a fence and an atomic update after it.
    released: Mutex<HashMap<u64, Arc<Known>>>,
}

impl Ledger {
    pub(crate) fn new(watched: Vec<(u64, u64)>) -> Ledger {
        Ledger { watched, ..Ledger::default() }
    }

    /// The shadow of the page of `address`, where there is one or it lies in a watched allocation.
    pub(crate) fn shadow(&self, address: u64) -> Option<Arc<Mutex<Shadow>>> {
        let number = address >> PAGE_BITS;
        let touches = |&(start, end): &(u64, u64)| start >> PAGE_BITS <= number && address < end;
        if self.watched.iter().any(touches) {
            return Some(self.make(address));
        }
        self.shadows.read().unwrap_or_else(PoisonError::into_inner).get(&number).map(Arc::clone)
    }

    /// The same, made if there is none: it is written.
    pub(crate) fn make(&self, address: u64) -> Arc<Mutex<Shadow>> {
        let mut shadows = self.shadows.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shadows.entry(address >> PAGE_BITS).or_default())
    }

    /// Locks the places through which CTAs tell each other what they did, for one atomic update.
    pub(crate) fn released(&self) -> MutexGuard<'_, HashMap<u64, Arc<Known>>> {
        self.released.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a warp has released and not yet handed on, and what it was handed and has not yet acquired.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// What this warp's CTA knew at its last `membar.gl`.
    pub(crate) released: Option<Arc<Known>>,
    /// What lay at the addresses that it has updated since.
    pub(crate) offered: Vec<Arc<Known>>,
}

impl Handover {
    /// An atomic update at an address: what this warp released goes there; unless it is a `red`, what lay there is offered.
    pub(crate) fn exchange(&mut self, place: &mut HashMap<u64, Arc<Known>>, address: u64, reads: bool) {
        if reads
            && let Some(there) = place.get(&address)
            && self.offered.last().is_none_or(|last| !Arc::ptr_eq(last, there))
        {
            self.offered.push(Arc::clone(there));
        }
        if let Some(mine) = &self.released {
            let there = place.entry(address).or_default();
            if !Arc::ptr_eq(there, mine) && !includes(there, mine) {
                learn(Arc::make_mut(there), mine);
            }
        }
    }
}

fn includes(known: &Known, other: &Known) -> bool {
    let all = |cta: &u32, times: &Vec<Time>| {
        known.get(cta).is_some_and(|mine| mine.iter().zip(times).all(|(mine, time)| mine >= time))
    };
    other.iter().all(|(cta, times)| all(cta, times))
}

impl Since for Known {
    fn since(&self, cta: u32, warp: u32) -> Time {
        self.get(&cta).and_then(|times| times.get(warp as usize)).copied().unwrap_or_default()
    }
}
