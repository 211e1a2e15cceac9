//! Mbarriers: objects in shared memory that count arrivals and bytes, phase by phase.
//!
//! | instruction | does |
//! |---|---|
//! | `mbarrier.init` | makes one for so many arrivals a phase; phase 0 is under way |
//! | `mbarrier.arrive` | one arrival fewer is missing; whoever waits for the phase sees what the warp has seen, and did |
//! | `.expect_tx` | so many bytes more are missing |
//! | a bulk copy that lands | so many bytes fewer are missing |
//! | `mbarrier.try_wait`, `.test_wait` | whether the last phase of a parity is over; then its arrivals and its bytes are seen |
//! | `mbarrier.inval` | the memory is ordinary again |
//!
//! A phase is over when no arrival and no byte is missing, and the next one begins (PTX ISA, "mbarrier"). A wait for parity p
//! passes while the phase under way has the other one: on a new mbarrier a wait for parity 1 passes at once.
//!
//! In: threads of a CTA. Out: a count that goes out of its range, a phase that ends with bytes of its copies still to come, an
//! object that is not there, or that a thread need not see yet, is a fault, never another count.

use std::collections::BTreeMap;

use crate::access::each;
use crate::clocks::{Clocks, Knowledge};
use crate::cta::Common;
use crate::decode::Inst;
use crate::fault::{FaultKind, MbarrierState, Misuse, Other, Space, Trap};
use crate::shared::{Earlier, Thread, Toucher};
use crate::step::Machine;
use crate::warp::Status;

/// Arrivals, and bytes, that an mbarrier can count.
const MOST: u32 = (1 << 20) - 1;

/// Times of a column that a word of shared memory can bear.
const MOST_TIMES: u32 = u16::MAX as u32 - 1;

/// Columns that one can bear.
const MOST_COLUMNS: usize = (1 << 10) - 1;

/// Bytes of one.
const BYTES: u32 = 8;

/// Where an mbarrier completes something: a column of the clocks and a time of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) column: usize,
    pub(crate) time: u32,
    pub(crate) phase: u32,
}

/// Who made one.
#[derive(Clone, Copy, Debug)]
struct Maker {
    thread: Thread,
    pc: u32,
    /// Of its warp, until everybody has seen it.
    clock: Option<u32>,
    /// The asynchronous proxy sees it too.
    fenced: bool,
}

#[derive(Debug)]
struct Object {
    /// Arrivals of a phase.
    count: u32,
    /// Phases that are over.
    phase: u32,
    /// Arrivals that are missing.
    arrivals: u32,
    /// Bytes that are missing; below zero where they came before they were expected.
    bytes: i64,
    /// Bytes of copies that were issued in this phase and have not landed.
    flying: u64,
    /// What those who arrived in this phase had seen.
    arrived: Knowledge,
    /// The same of all phases before.
    passed: Knowledge,
    column: usize,
    /// What a phase must be added to for its time in the column.
    start: u32,
    maker: Maker,
}

impl Object {
    const fn time(&self) -> u32 {
        self.phase.wrapping_add(self.start)
    }

    const fn moment(&self) -> Moment {
        Moment { column: self.column, time: self.time(), phase: self.phase }
    }

    const fn passes(&self, parity: u32) -> bool {
        self.phase & 1 != parity
    }

    /// Ends the phase if nothing is missing.
    fn settle(&mut self, clocks: &mut Clocks) -> Result<(), Misuse> {
        if self.arrivals > 0 || self.bytes > 0 {
            return Ok(());
        }
        if self.bytes < 0 {
            return Err(Misuse::TooManyBytes { bytes: self.bytes.unsigned_abs(), phase: self.phase });
        }
        if self.flying > 0 {
            return Err(Misuse::Unexpected { bytes: self.flying, phase: self.phase });
        }
        self.phase += 1;
        self.arrivals = self.count;
        self.passed.join(&self.arrived);
        self.arrived.clear();
        if self.time() > MOST_TIMES {
            self.column = clocks.add_column();
            self.start = 0u32.wrapping_sub(self.phase);
        }
        Ok(())
    }
}

/// The mbarriers of a CTA.
#[derive(Debug, Default)]
pub(crate) struct Mbarriers {
    objects: BTreeMap<u32, Object>,
    /// By address, the column of one that is no more, and its first time that nothing was given.
    retired: BTreeMap<u32, (usize, u32)>,
}

impl Mbarriers {
    pub(crate) fn clear(&mut self) {
        self.objects.clear();
        self.retired.clear();
    }

    /// The clocks of this many warps start anew.
    pub(crate) fn forget(&mut self, warps: usize) {
        for object in self.objects.values_mut() {
            object.arrived.forget(warps);
            object.passed.forget(warps);
            object.maker.clock = None;
        }
    }

    /// A warp's fence for what it has made.
    fn fence(&mut self, warp: usize) {
        for object in self.objects.values_mut().filter(|object| object.maker.thread as usize / 32 == warp) {
            object.maker.fenced = true;
        }
    }

    /// The mbarrier that a byte of shared memory belongs to.
    pub(crate) fn holding(&self, address: u32) -> Option<u32> {
        let (at, _) = self.objects.range(..=address).next_back()?;
        (address - at < BYTES).then_some(*at)
    }

    /// Whether a wait need not go on: it would pass, or nothing is there.
    pub(crate) fn passes(&self, address: u32, parity: u32) -> bool {
        self.objects.get(&address).is_none_or(|object| object.passes(parity))
    }

    /// For a report.
    pub(crate) fn state(&self, address: u32) -> Option<MbarrierState> {
        let Object { phase, arrivals, bytes, .. } = self.objects.get(&address)?;
        Some(MbarrierState { address, phase: *phase, arrivals: *arrivals, bytes: *bytes })
    }

    /// The mbarrier at an address, for those who have seen it made.
    fn at(&mut self, address: u32, thread: Thread, by: Toucher<'_>) -> Result<&mut Object, Box<Trap>> {
        let Some(object) = self.objects.get_mut(&address) else { return Err(misuse(address, Misuse::NotThere)) };
        let Maker { thread: maker, pc, clock, .. } = object.maker;
        if maker != thread && clock.is_some_and(|clock| clock >= by.seen[maker as usize / 32]) {
            let space = Space::Shared;
            let kind = FaultKind::Race { space, address: address.into(), first_writes: true, second_writes: true };
            let mut trap = Trap::new(kind, None);
            trap.other = Some(Other { cta: None, earlier: Earlier { thread: maker, pc } });
            return Err(trap);
        }
        Ok(object)
    }
}

fn misuse(address: u32, what: Misuse) -> Box<Trap> {
    Trap::new(FaultKind::Mbarrier { address, what }, None)
}

impl Common {
    fn make_mbarrier(&mut self, address: u32, count: u32, thread: Thread, pc: u32) -> Result<(), Box<Trap>> {
        if count == 0 || count > MOST {
            return Err(Trap::new(
                FaultKind::Operand(format!("an mbarrier is for 1 to {MOST} arrivals, not {count}")),
                None,
            ));
        }
        if let Some(other) = self.mbarriers.holding(address) {
            return Err(misuse(other, Misuse::MadeTwice));
        }
        let by = self.clocks.toucher(thread as usize / 32, pc);
        self.shared.poison::<2>(address, thread, by).map_err(|why| self.refused(why, address, BYTES, true))?;
        let (column, start) = match self.mbarriers.retired.remove(&address) {
            Some(column) => column,
            None => (self.clocks.add_column(), 0),
        };
        if column > MOST_COLUMNS {
            let what = "a CTA has made more mbarriers than the emulator tells apart".to_owned();
            return Err(Trap::new(FaultKind::Operand(what), None));
        }
        let maker =
            Maker { thread, pc, clock: Some(self.clocks.toucher(thread as usize / 32, pc).clock), fenced: false };
        let object = Object {
            count,
            phase: 0,
            arrivals: count,
            bytes: 0,
            flying: 0,
            arrived: Knowledge::default(),
            passed: Knowledge::default(),
            column,
            start,
            maker,
        };
        self.mbarriers.objects.insert(address, object);
        Ok(())
    }

    fn unmake_mbarrier(&mut self, address: u32, thread: Thread, pc: u32) -> Result<(), Box<Trap>> {
        let by = self.clocks.toucher(thread as usize / 32, pc);
        let object = self.mbarriers.at(address, thread, by)?;
        if object.flying > 0 {
            return Err(misuse(address, Misuse::Unexpected { bytes: object.flying, phase: object.phase }));
        }
        // Whoever has seen a time of the old one has not seen it of the next.
        let next = (object.column, object.time() + 1);
        self.mbarriers.objects.remove(&address);
        self.mbarriers.retired.insert(address, next);
        self.shared.let_go::<2>(address);
        Ok(())
    }

    /// A thread expects more bytes, or arrives, or both.
    pub(crate) fn arrive_at(
        &mut self,
        address: u32,
        thread: Thread,
        pc: u32,
        bytes: u32,
        arrives: bool,
    ) -> Result<(), Box<Trap>> {
        let Common { mbarriers, clocks, .. } = self;
        let warp = thread as usize / 32;
        let object = mbarriers.at(address, thread, clocks.toucher(warp, pc))?;
        object.bytes += i64::from(bytes);
        if object.bytes > MOST.into() {
            return Err(misuse(address, Misuse::OutOfRange { bytes: object.bytes }));
        }
        if arrives {
            if object.arrivals == 0 {
                return Err(misuse(address, Misuse::TooManyArrivals { count: object.count, phase: object.phase }));
            }
            object.arrivals -= 1;
            clocks.release(warp, &mut object.arrived);
        }
        object.settle(clocks).map_err(|what| misuse(address, what))
    }

    /// An arrival that was put off until a thread's copies had landed: with what it had seen when it asked.
    pub(crate) fn arrive_late(&mut self, address: u32, known: &Knowledge) -> Result<(), Box<Trap>> {
        let Some(object) = self.mbarriers.objects.get_mut(&address) else {
            return Err(misuse(address, Misuse::NotThere));
        };
        if object.arrivals == 0 {
            return Err(misuse(address, Misuse::TooManyArrivals { count: object.count, phase: object.phase }));
        }
        object.arrivals -= 1;
        object.arrived.join(known);
        object.settle(&mut self.clocks).map_err(|what| misuse(address, what))
    }

    /// An arrival of a warp of another CTA.
    pub(crate) fn arrive_from(&mut self, address: u32, known: &Knowledge, pc: u32) -> Result<(), Box<Trap>> {
        if !address.is_multiple_of(BYTES) {
            let space = Space::Shared;
            return Err(Trap::new(FaultKind::Misaligned { space, address: address.into(), bytes: BYTES }, None));
        }
        self.mbarriers.at(address, Thread::MAX, known.from_afar(pc))?;
        self.arrive_late(address, known)
    }

    /// When the phase under way ends, for a thread that has seen the mbarrier made.
    pub(crate) fn see_mbarrier(&mut self, address: u32, thread: Thread, pc: u32) -> Result<Moment, Box<Trap>> {
        let by = self.clocks.toucher(thread as usize / 32, pc);
        Ok(self.mbarriers.at(address, thread, by)?.moment())
    }

    /// A bulk copy of a thread is issued that completes so many bytes: when that is.
    pub(crate) fn expect_copy(
        &mut self,
        address: u32,
        bytes: u64,
        thread: Thread,
        pc: u32,
    ) -> Result<Moment, Box<Trap>> {
        if !address.is_multiple_of(BYTES) {
            let space = Space::Shared;
            return Err(Trap::new(FaultKind::Misaligned { space, address: address.into(), bytes: BYTES }, None));
        }
        let by = self.clocks.toucher(thread as usize / 32, pc);
        let object = self.mbarriers.at(address, thread, by)?;
        if !object.maker.fenced {
            let mut trap = misuse(address, Misuse::Unfenced);
            let Maker { thread, pc, .. } = object.maker;
            trap.other = Some(Other { cta: None, earlier: Earlier { thread, pc } });
            return Err(trap);
        }
        object.flying += bytes;
        Ok(object.moment())
    }

    /// Bytes of a bulk copy have landed.
    pub(crate) fn complete_copy(&mut self, address: u32, bytes: u64) -> Result<(), Box<Trap>> {
        let Some(object) = self.mbarriers.objects.get_mut(&address) else {
            return Err(misuse(address, Misuse::NotThere));
        };
        object.flying -= bytes;
        object.bytes -= bytes as i64;
        if object.bytes < -i64::from(MOST) {
            return Err(misuse(address, Misuse::OutOfRange { bytes: object.bytes }));
        }
        object.settle(&mut self.clocks).map_err(|what| misuse(address, what))
    }

    /// Whether the last phase of a parity is over; then the warp sees it.
    fn test(&mut self, address: u32, parity: u32, thread: Thread, pc: u32) -> Result<bool, Box<Trap>> {
        let Common { mbarriers, clocks, .. } = self;
        let warp = thread as usize / 32;
        let object = mbarriers.at(address, thread, clocks.toucher(warp, pc))?;
        if !object.passes(parity) {
            return Ok(false);
        }
        clocks.acquire(warp, &object.passed);
        clocks.saw(warp, object.column, object.time());
        Ok(true)
    }
}

/// The addresses of the running lanes, and what each does there; the lane at fault is told.
fn per_lane(
    m: &mut Machine<'_, '_, '_>,
    base: crate::decode::Slot,
    offset: i64,
    lanes: u32,
    mut f: impl FnMut(&mut Machine<'_, '_, '_>, u32, Thread, usize) -> Result<(), Box<Trap>>,
) -> Result<(), Box<Trap>> {
    let base = *m.warp.registers.word(base);
    for lane in each(lanes) {
        let address = base[lane].wrapping_add(offset as u32);
        let thread = m.number as u32 * 32 + lane as u32;
        let done = if address.is_multiple_of(BYTES) {
            f(m, address, thread, lane)
        } else {
            let space = Space::Shared;
            Err(Trap::new(FaultKind::Misaligned { space, address: address.into(), bytes: BYTES }, None))
        };
        done.map_err(|mut trap| {
            trap.lane.get_or_insert(lane as u32);
            trap
        })?;
    }
    Ok(())
}

/// `mbarrier.init`: base, count.
pub(crate) fn init(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    per_lane(m, i.slots[0], i.imm[0], lanes, |m, address, thread, lane| {
        let count = m.warp.registers.word(i.slots[1])[lane];
        m.common.make_mbarrier(address, count, thread, pc)
    })
}

/// `mbarrier.inval`: base.
pub(crate) fn invalidate(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    per_lane(m, i.slots[0], i.imm[0], lanes, |m, address, thread, _| m.common.unmake_mbarrier(address, thread, pc))
}

/// `fence.mbarrier_init`, and `fence.proxy.async` as far as mbarriers go.
pub(crate) fn fence(m: &mut Machine<'_, '_, '_>) {
    m.common.mbarriers.fence(m.number);
}

/// `mbarrier.arrive`: base.
pub(crate) fn arrive(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    m.common.tick(m.number);
    per_lane(m, i.slots[0], i.imm[0], lanes, |m, address, thread, _| m.common.arrive_at(address, thread, pc, 0, true))
}

/// `mbarrier.expect_tx`, and with an arrival: base, bytes.
pub(crate) fn expect(
    m: &mut Machine<'_, '_, '_>,
    i: &Inst,
    pc: u32,
    lanes: u32,
    arrives: bool,
) -> Result<(), Box<Trap>> {
    m.common.tick(m.number);
    per_lane(m, i.slots[0], i.imm[0], lanes, |m, address, thread, lane| {
        let bytes = m.warp.registers.word(i.slots[1])[lane];
        if bytes > MOST {
            let what = format!("an mbarrier counts up to {MOST} bytes, and these are {bytes}");
            return Err(Trap::new(FaultKind::Operand(what), None));
        }
        m.common.arrive_at(address, thread, pc, bytes, arrives)
    })
}

/// `mbarrier.try_wait` and `.test_wait` by parity: predicate, base, parity. Whether the warp must wait; then its status says so,
/// and it comes back to this instruction.
///
/// A `try_wait` whose lanes all wait for one phase goes to sleep until it is over: how long it may is the hardware's affair.
pub(crate) fn wait(
    m: &mut Machine<'_, '_, '_>,
    i: &Inst,
    pc: u32,
    lanes: u32,
    sleeps: bool,
) -> Result<bool, Box<Trap>> {
    let parities = *m.warp.registers.word(i.slots[2]);
    let mut passed = 0;
    let mut waits = Vec::new();
    per_lane(m, i.slots[1], i.imm[0], lanes, |m, address, thread, lane| {
        let parity = parities[lane];
        if parity > 1 {
            let what = format!("the parity of a phase is 0 or 1, and this one is {parity}");
            return Err(Trap::new(FaultKind::Operand(what), None));
        }
        if m.common.test(address, parity, thread, pc)? {
            passed |= 1 << lane;
        } else if !waits.contains(&(address, parity)) {
            waits.push((address, parity));
        }
        Ok(())
    })?;
    if let ([(address, parity)], true, 0) = (waits.as_slice(), sleeps, passed) {
        m.warp.status = Status::Mbarrier { address: *address, parity: *parity };
        return Ok(true);
    }
    m.warp.registers.set_pred(i.slots[0], passed, lanes);
    Ok(false)
}
