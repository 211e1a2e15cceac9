//! Bulk copies: bytes in one piece, or boxes of a tensor, between the memories, by themselves.
//!
//! | copy | complete | its bytes |
//! |---|---|---|
//! | global or shared to shared | at an mbarrier, which counts them | belong to the copy from its issue on, and are written when it lands |
//! | shared to global, and adds | with the group of its thread, which is waited for | are read when it is issued, may be written to again once the group's reads were waited for, and are written to global memory when it lands |
//!
//! A copy lands as late as it may: to shared memory when no warp of the CTA can go on without it, to global memory when its
//! thread waits for its group, or when the CTA ends; under a seed at any time before. What orders it stands in
//! [`order`](crate::order).
//!
//! In: addresses, sizes and coordinates of lanes. Out: everything that could be wrong with a copy is found when it is issued,
//! but races of what it does to global memory when it lands.

use std::collections::BTreeMap;

use crate::access::{self, each};
use crate::clocks::Knowledge;
use crate::cluster::{self, Remote};
use crate::cta::Common;
use crate::decode::Inst;
use crate::fault::{FaultKind, Other, Space, Trap};
use crate::global::Deed;
use crate::lanes::{bf16_bits, f16_bits};
use crate::mbarrier::Moment;
use crate::memory::View;
use crate::mma::f32_of_f16;
use crate::shared::{Earlier, Thread};
use crate::step::{Machine, add_whole_float_bits};
use crate::tensor::{BOX_ALIGN, Maps, Row, Swizzle, TensorElem, TensorMap};
use crate::warp::Warp;

/// What a copy to shared memory brings.
#[derive(Clone, Debug)]
enum From {
    Global(u64),
    Box {
        map: u64,
        coords: Vec<i32>,
    },
    /// What lay in shared memory.
    Words(Vec<u32>),
}

/// What completes at an mbarrier.
#[derive(Debug)]
enum Flying {
    Copy {
        to: u32,
        from: From,
        bytes: u32,
        moment: Moment,
    },
    /// The arrival that follows the `cp.async`s that a thread had issued before this serial number, with what it had seen.
    Arrival {
        before: u64,
        known: Knowledge,
        clock: u32,
    },
}

/// Something in flight.
#[derive(Debug)]
struct Flight {
    thread: Thread,
    pc: u32,
    mbarrier: u32,
    what: Flying,
}

/// How global memory takes what is copied to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Put {
    Write,
    Add(TensorElem),
}

/// A copy to global memory that has not landed.
#[derive(Debug)]
struct Store {
    pc: u32,
    group: u32,
    put: Put,
    /// Runs of bytes in global memory, and what goes there.
    runs: Vec<(u64, Vec<u8>)>,
}

/// The bulk groups of a thread.
#[derive(Debug)]
struct Groups {
    column: usize,
    committed: u32,
    /// Groups whose reads of shared memory were waited for.
    read: u32,
    /// The last copy, and its group.
    last: (u32, u32),
    stores: Vec<Store>,
}

/// The bulk copies of a CTA.
#[derive(Debug, Default)]
pub(crate) struct Bulk {
    flying: Vec<Flight>,
    threads: BTreeMap<Thread, Groups>,
    /// By instruction, the mbarrier and the phase of its last copy.
    phases: BTreeMap<u32, (u32, Moment)>,
}

impl Bulk {
    pub(crate) fn clear(&mut self) {
        self.flying.clear();
        self.threads.clear();
        self.phases.clear();
    }

    /// The clocks of this many warps start anew.
    pub(crate) fn forget(&mut self, warps: usize) {
        for flight in &mut self.flying {
            if let Flying::Arrival { known, clock, .. } = &mut flight.what {
                known.forget(warps);
                *clock = 0;
            }
        }
    }

    /// Whether something may land.
    pub(crate) fn is_flying(&self) -> bool {
        !self.flying.is_empty()
    }

    /// How many may.
    pub(crate) fn flying(&self) -> usize {
        self.flying.len()
    }

    /// A copy to shared memory that has not landed: who issued it, where, and the mbarrier that it completes at.
    pub(crate) fn left(&self) -> Option<(Thread, u32, u32)> {
        self.flying.first().map(|flight| (flight.thread, flight.pc, flight.mbarrier))
    }

    /// The mbarrier and the phase at which the last copy of an instruction completes.
    pub(crate) fn phase_of(&self, pc: u32) -> Option<(u32, Moment)> {
        self.phases.get(&pc).copied()
    }
}

fn at_lane(lane: usize) -> impl Fn(Box<Trap>) -> Box<Trap> {
    move |mut trap| {
        trap.lane.get_or_insert(lane as u32);
        trap
    }
}

/// The map at the address that an instruction's lane has.
fn find(maps: &Maps, address: u64) -> Result<&TensorMap, Box<Trap>> {
    maps.find(address).ok_or_else(|| {
        let what =
            format!("there is no tensor map at {address:#x}: expected the generic address of a parameter that is one");
        Trap::new(FaultKind::Operand(what), None)
    })
}

fn aligned(space: Space, address: u64, bytes: u32) -> Result<(), Box<Trap>> {
    if address.is_multiple_of(bytes.into()) {
        return Ok(());
    }
    Err(Trap::new(FaultKind::Misaligned { space, address, bytes }, None))
}

/// A size in bytes.
fn size(bytes: u32) -> Result<u32, Box<Trap>> {
    if bytes > 0 && bytes.is_multiple_of(16) {
        return Ok(bytes);
    }
    let what = format!("a bulk copy moves multiples of 16 bytes, and this one is of {bytes}");
    Err(Trap::new(FaultKind::Operand(what), None))
}

/// The pieces of up to 16 bytes, none of which crosses a multiple of 16.
fn pieces(address: u64, bytes: u32) -> impl Iterator<Item = (u64, usize)> {
    let end = address + u64::from(bytes);
    let mut at = address;
    std::iter::from_fn(move || {
        let next = end.min((at / 16 + 1) * 16);
        let piece = (at < end).then_some((at, (next - at) as usize));
        at = next;
        piece
    })
}

/// Who does something to global memory.
#[derive(Clone, Copy)]
struct Doer {
    thread: Thread,
    pc: u32,
}

impl Doer {
    /// Notes what is done to these bytes, all of them in bounds.
    fn note(self, common: &Common, view: &mut View<'_>, address: u64, bytes: u32, deed: Deed) -> Result<(), Box<Trap>> {
        let Doer { thread, pc } = self;
        let (warp, lane) = (thread as usize / 32, thread as usize % 32);
        for (address, bytes) in pieces(address, bytes) {
            let denied = |why| {
                let mut trap = access::clash(why, address, bytes, lane, deed);
                trap.pc = Some(pc);
                trap
            };
            view.holds(address, bytes).map_err(denied)?;
            if view.remembers(address, deed) {
                let by = common.global_toucher(warp, lane, pc);
                view.note(address, bytes, deed, &by).map_err(denied)?;
            }
        }
        Ok(())
    }

    /// Reads bytes.
    fn read(self, view: &mut View<'_>, address: u64, out: &mut [u8]) -> Result<(), Box<Trap>> {
        let mut at = 0;
        for (address, bytes) in pieces(address, out.len() as u32) {
            let words = view.copy_source(address, bytes).map_err(|why| self.denied(why, address, bytes))?;
            let piece: [u8; 16] = std::array::from_fn(|i| words[i / 4].to_le_bytes()[i % 4]);
            out[at..at + bytes].copy_from_slice(&piece[..bytes]);
            at += bytes;
        }
        Ok(())
    }

    fn denied(self, why: crate::memory::Denied, address: u64, bytes: usize) -> Box<Trap> {
        let mut trap = access::clash(why, address, bytes, self.thread as usize % 32, Deed::Read);
        trap.pc = Some(self.pc);
        trap
    }

    /// Puts bytes, an even number of them.
    fn put(self, view: &mut View<'_>, address: u64, bytes: &[u8], put: Put) -> Result<(), Box<Trap>> {
        let half = |at: usize| u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let word = |at: usize| half(at) | half(at + 2) << 16;
        let mut at = 0;
        while at < bytes.len() {
            let to = address + at as u64;
            let (done, moved) = match put {
                Put::Write if to.is_multiple_of(16) && bytes.len() - at >= 16 => {
                    (view.store::<4>(to, std::array::from_fn(|i| word(at + 4 * i))), 16)
                }
                Put::Write => (view.store_half(to, half(at)), 2),
                Put::Add(TensorElem::F32) => (view.update(to, |old| add_whole_float_bits(old, word(at))).map(drop), 4),
                Put::Add(TensorElem::I32) => (view.update(to, |old| old.wrapping_add(word(at))).map(drop), 4),
                Put::Add(elem) => {
                    let shift = to as u32 % 4 * 8;
                    let add = |old: u32| {
                        let sum = add_halves(elem, old >> shift & 0xffff, half(at));
                        old & !(0xffff << shift) | sum << shift
                    };
                    (view.update(to & !3, add).map(drop), 2)
                }
            };
            done.map_err(|why| self.denied(why, to, moved))?;
            at += moved;
        }
        Ok(())
    }
}

/// The sum of two halves, rounded to nearest.
pub(crate) fn add_halves(elem: TensorElem, a: u32, b: u32) -> u32 {
    match elem {
        TensorElem::F16 => f16_bits((f32_of_f16(a) + f32_of_f16(b)).to_bits()),
        _ => bf16_bits((f32::from_bits(a << 16) + f32::from_bits(b << 16)).to_bits()),
    }
}

/// A copy to shared memory: where to, and where it completes, both in one CTA's.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    thread: Thread,
    pc: u32,
    to: u32,
    mbarrier: u32,
}

impl Load {
    fn doer(&self) -> Doer {
        Doer { thread: self.thread, pc: self.pc }
    }

    /// The rank of the CTA in whose shared memory it ends, and the same without it.
    fn split(&self, common: &Common) -> Result<(usize, Load), Box<Trap>> {
        let ((rank, to), (other, mbarrier)) = (common.place.split(self.to)?, common.place.split(self.mbarrier)?);
        if rank == other {
            return Ok((rank, Load { to, mbarrier, ..*self }));
        }
        let what = format!(
            "a copy into the shared memory of CTA {rank} of the cluster completes at an mbarrier of it, not of CTA {other}"
        );
        Err(Trap::new(FaultKind::Operand(what), None))
    }

    /// What the copy does to global memory now: where it ends elsewhere, its source is read when it is issued, for the order.
    fn reads(&self, common: &Common) -> Result<Deed, Box<Trap>> {
        Ok(if self.split(common)?.0 == common.place.rank { Deed::ReadLater } else { Deed::Read })
    }

    /// From now on its destination belongs to it; in another CTA from when it is delivered.
    fn issue(self, common: &mut Common, from: From, bytes: u32) -> Result<(), Box<Trap>> {
        let (rank, load) = self.split(common)?;
        if rank == common.place.rank {
            load.receive(common, from, bytes, None)
        } else {
            load.send(common, rank, from, bytes)
        }
    }

    fn send(self, common: &mut Common, to: usize, from: From, bytes: u32) -> Result<(), Box<Trap>> {
        let Load { thread, pc, .. } = self;
        let warp = thread as usize / 32;
        common.tick(warp);
        let mut known = Knowledge::default();
        common.clocks.release(warp, &mut known);
        let deed = cluster::Deed::Copy(Box::new(Sent { load: self, from, bytes }));
        let global = common.knows(warp);
        common.place.outbox.push(Remote { to, thread, pc, known, global, deed });
        Ok(())
    }

    /// Its destination is in this CTA; `afar` is what is known by a thread of another one that issues it.
    fn receive(self, common: &mut Common, from: From, bytes: u32, afar: Option<&Knowledge>) -> Result<(), Box<Trap>> {
        let Load { thread, pc, to, mbarrier } = self;
        let moment = common.expect_copy(mbarrier, bytes.into(), thread, pc, afar)?;
        let by = afar.map_or_else(|| common.clocks.toucher(thread as usize / 32, pc), |known| known.afar(pc));
        let poisoned = common.shared.async_poison(to, bytes, thread, by, moment.column, moment.time);
        poisoned.map_err(|why| common.refused(why, to, bytes, true))?;
        common.bulk.phases.insert(pc, (mbarrier, moment));
        common.bulk.flying.push(Flight { thread, pc, mbarrier, what: Flying::Copy { to, from, bytes, moment } });
        Ok(())
    }
}

/// A copy on its way to another CTA of the cluster.
#[derive(Debug)]
pub(crate) struct Sent {
    load: Load,
    from: From,
    bytes: u32,
}

impl Sent {
    /// It is issued there.
    pub(crate) fn deliver(self, common: &mut Common, known: &Knowledge) -> Result<(), Box<Trap>> {
        self.load.receive(common, self.from, self.bytes, Some(known))
    }
}

/// Each running lane for itself, and the lane at fault told.
fn per_lane(
    m: &mut Machine<'_, '_, '_>,
    lanes: u32,
    mut f: impl FnMut(&mut Machine<'_, '_, '_>, usize, Thread) -> Result<(), Box<Trap>>,
) -> Result<(), Box<Trap>> {
    for lane in each(lanes) {
        let thread = m.number as u32 * 32 + lane as u32;
        f(m, lane, thread).map_err(at_lane(lane))?;
    }
    Ok(())
}

fn word(m: &Machine<'_, '_, '_>, i: &Inst, slot: usize, lane: usize) -> u32 {
    m.warp.registers.word(i.slots[slot])[lane]
}

fn double(m: &Machine<'_, '_, '_>, i: &Inst, slot: usize, lane: usize) -> u64 {
    m.warp.registers.double(i.slots[slot])[lane]
}

/// A shared address: a register, and an immediate.
fn place(m: &Machine<'_, '_, '_>, i: &Inst, slot: usize, imm: usize, lane: usize) -> u32 {
    word(m, i, slot, lane).wrapping_add(i.imm[imm] as u32)
}

/// The address of a map and the coordinates behind it.
fn tensor(m: &Machine<'_, '_, '_>, i: &Inst, slot: usize, imm: usize, lane: usize) -> (u64, Vec<i32>) {
    let map = double(m, i, slot, lane).wrapping_add(i.imm[imm] as u64);
    let coords = (0..i.aux as usize).map(|dim| word(m, i, slot + 1 + dim, lane).cast_signed());
    (map, coords.collect())
}

fn ranked<'a>(maps: &'a Maps, address: u64, coords: &[i32]) -> Result<&'a TensorMap, Box<Trap>> {
    let map = find(maps, address)?;
    if map.dims.len() == coords.len() {
        return Ok(map);
    }
    let what = format!("the tensor map has {} dimensions, and here are {} coordinates", map.dims.len(), coords.len());
    Err(Trap::new(FaultKind::Operand(what), None))
}

/// `cp.async.bulk` from global memory: destination, source, bytes, mbarrier.
pub(crate) fn load(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    per_lane(m, lanes, |m, lane, thread| {
        let load = Load { thread, pc, to: place(m, i, 0, 0, lane), mbarrier: place(m, i, 3, 2, lane) };
        let from = double(m, i, 1, lane).wrapping_add(i.imm[1] as u64);
        let bytes = size(word(m, i, 2, lane))?;
        aligned(Space::Global, from, 16)?;
        let reads = load.reads(m.common)?;
        load.doer().note(m.common, m.view, from, bytes, reads)?;
        m.moved.global += u64::from(bytes);
        m.moved.shared += u64::from(bytes);
        load.issue(m.common, From::Global(from), bytes)
    })
}

/// `cp.async.bulk` from shared memory: destination, source, bytes, mbarrier.
pub(crate) fn pass(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    per_lane(m, lanes, |m, lane, thread| {
        let load = Load { thread, pc, to: place(m, i, 0, 0, lane), mbarrier: place(m, i, 3, 2, lane) };
        m.common.place.check_pass()?;
        let from = place(m, i, 1, 1, lane);
        let bytes = size(word(m, i, 2, lane))?;
        let (rank, local) = load.split(m.common)?;
        let (column, time) = if rank == m.common.place.rank {
            let moment = m.common.see_mbarrier(local.mbarrier, thread, pc)?;
            (moment.column, moment.time)
        } else {
            // When it has been read is known in the other CTA alone; here it counts as read at once.
            let column = m.common.clocks.add_column();
            (0..m.common.clocks.warps()).for_each(|warp| m.common.clocks.saw(warp, column, 1));
            (column, 0)
        };
        let by = m.common.clocks.toucher(m.number, pc);
        let words = m.common.shared.async_read(from, bytes, thread, by, column, time);
        let words = words.map_err(|why| m.common.refused(why, from, bytes, false))?;
        m.moved.shared += 2 * u64::from(bytes);
        load.issue(m.common, From::Words(words), bytes)
    })
}

/// `cp.async.bulk.tensor` to shared memory: destination, map, coordinates, mbarrier.
pub(crate) fn load_tensor(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    per_lane(m, lanes, |m, lane, thread| {
        let mbarrier = place(m, i, 2 + i.aux as usize, 2, lane);
        let load = Load { thread, pc, to: place(m, i, 0, 0, lane), mbarrier };
        let (address, coords) = tensor(m, i, 1, 1, lane);
        let map = ranked(m.maps, address, &coords)?;
        map.check_begin(&coords)?;
        aligned(Space::Shared, load.to.into(), BOX_ALIGN)?;
        let (doer, bytes, reads) = (load.doer(), map.box_bytes() as u32, load.reads(m.common)?);
        map.rows(&coords, |row| doer.note(m.common, m.view, row.address, row.bytes, reads))?;
        m.moved.global += u64::from(bytes);
        m.moved.shared += u64::from(bytes);
        load.issue(m.common, From::Box { map: address, coords }, bytes)
    })
}

/// `cp.async.bulk.tensor` to the same place in several CTAs of the cluster: destination, map, coordinates, mbarrier, mask of ranks.
/// Each copy completes at the mbarrier at the same place there.
pub(crate) fn cast_tensor(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    per_lane(m, lanes, |m, lane, thread| {
        let mbarrier = place(m, i, 2 + i.aux as usize, 2, lane);
        let mask = word(m, i, 3 + i.aux as usize, lane) & 0xffff;
        let load = Load { thread, pc, to: place(m, i, 0, 0, lane), mbarrier };
        let (address, coords) = tensor(m, i, 1, 1, lane);
        let map = ranked(m.maps, address, &coords)?;
        map.check_begin(&coords)?;
        let (own, size) = (m.common.place.rank, m.common.place.size);
        if mask == 0 || mask >> size != 0 {
            let what = format!(
                "the mask of a multicast names CTAs of the cluster, of which there are {size}, and is {mask:#x}"
            );
            return Err(Trap::new(FaultKind::Operand(what), None));
        }
        let (_, load) = load.split(m.common)?;
        aligned(Space::Shared, load.to.into(), BOX_ALIGN)?;
        let (doer, bytes) = (load.doer(), map.box_bytes() as u32);
        let reads = if mask >> own & 1 != 0 { Deed::ReadLater } else { Deed::Read };
        map.rows(&coords, |row| doer.note(m.common, m.view, row.address, row.bytes, reads))?;
        m.moved.global += u64::from(bytes);
        m.moved.shared += u64::from(bytes) * u64::from(mask.count_ones());
        for rank in each(mask) {
            let (load, from) = (load.clone(), From::Box { map: address, coords: coords.clone() });
            if rank == own {
                load.receive(m.common, from, bytes, None)?;
            } else {
                load.send(m.common, rank, from, bytes)?;
            }
        }
        Ok(())
    })
}

/// What a copy to global memory is given.
struct Away {
    thread: Thread,
    pc: u32,
    from: u32,
    bytes: u32,
    put: Put,
}

impl Away {
    /// Reads its source, which may not be written to until the group's reads were waited for. `rows` says where the bytes of the
    /// source go.
    fn issue(
        self,
        m: &mut Machine<'_, '_, '_>,
        swizzle: Swizzle,
        rows: impl FnOnce(&mut dyn FnMut(Row) -> Result<(), Box<Trap>>) -> Result<(), Box<Trap>>,
    ) -> Result<(), Box<Trap>> {
        let Away { thread, pc, from, bytes, put } = self;
        let Common { bulk, clocks, .. } = &mut *m.common;
        let groups = bulk.threads.entry(thread).or_insert_with(|| Groups {
            column: clocks.add_column(),
            committed: 0,
            read: 0,
            last: (0, 0),
            stores: Vec::new(),
        });
        let (column, group) = (groups.column, groups.committed);
        groups.last = (pc, group);
        let by = m.common.clocks.toucher(m.number, pc);
        let words = m.common.shared.async_read(from, bytes, thread, by, column, group);
        let words = words.map_err(|why| m.common.refused(why, from, bytes, false))?;
        let byte = |at: u32| {
            let at = swizzle.place(from + at) - from;
            words[at as usize / 4].to_le_bytes()[at as usize % 4]
        };
        let deed = if put == Put::Write { Deed::Write } else { Deed::Atomic };
        let doer = Doer { thread, pc };
        let mut runs = Vec::new();
        rows(&mut |row| {
            doer.note(m.common, m.view, row.address, row.bytes, deed)?;
            runs.push((row.address, (row.offset..row.offset + row.bytes).map(byte).collect()));
            Ok(())
        })?;
        m.moved.global += u64::from(bytes);
        m.moved.shared += u64::from(bytes);
        let store = Store { pc, group, put, runs };
        if let Some(groups) = m.common.bulk.threads.get_mut(&thread) {
            groups.stores.push(store);
        }
        Ok(())
    }
}

/// `cp.async.bulk` to global memory, and `cp.reduce.async.bulk` with an `add` of `aux - 1`: destination, source, bytes.
pub(crate) fn store(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    let put = match i.aux {
        0 => Put::Write,
        1 => Put::Add(TensorElem::F32),
        2 => Put::Add(TensorElem::Bf16),
        _ => Put::Add(TensorElem::F16),
    };
    per_lane(m, lanes, |m, lane, thread| {
        let address = double(m, i, 0, lane).wrapping_add(i.imm[0] as u64);
        let (from, bytes) = (place(m, i, 1, 1, lane), size(word(m, i, 2, lane))?);
        aligned(Space::Global, address, 16)?;
        let away = Away { thread, pc, from, bytes, put };
        away.issue(m, Swizzle::None, |f| f(Row::whole(address, bytes)))
    })
}

/// `cp.async.bulk.tensor` to global memory, and `cp.reduce.async.bulk.tensor`: map, coordinates, source.
pub(crate) fn store_tensor(
    m: &mut Machine<'_, '_, '_>,
    i: &Inst,
    pc: u32,
    lanes: u32,
    adds: bool,
) -> Result<(), Box<Trap>> {
    per_lane(m, lanes, |m, lane, thread| {
        let (address, coords) = tensor(m, i, 0, 0, lane);
        let from = place(m, i, 1 + i.aux as usize, 1, lane);
        let map = ranked(m.maps, address, &coords)?;
        aligned(Space::Shared, from.into(), BOX_ALIGN)?;
        map.check_store(&coords)?;
        let put = if adds { Put::Add(map.elem) } else { Put::Write };
        let away = Away { thread, pc, from, bytes: map.box_bytes() as u32, put };
        away.issue(m, map.swizzle, |f| map.rows(&coords, f))
    })
}

/// `cp.async.bulk.prefetch.tensor` (map, coordinates) and `prefetch.tensormap` (map, where `aux` is 0): hints, to a map.
pub(crate) fn prefetch(m: &mut Machine<'_, '_, '_>, i: &Inst, lanes: u32) -> Result<(), Box<Trap>> {
    per_lane(m, lanes, |m, lane, _| {
        let (address, coords) = tensor(m, i, 0, 0, lane);
        if i.aux == 0 { find(m.maps, address).map(drop) } else { ranked(m.maps, address, &coords).map(drop) }
    })
}

/// `cp.async.bulk.commit_group`.
pub(crate) fn commit(m: &mut Machine<'_, '_, '_>, lanes: u32) {
    for lane in each(lanes) {
        if let Some(groups) = m.common.bulk.threads.get_mut(&(m.number as u32 * 32 + lane as u32)) {
            groups.committed += 1;
        }
    }
}

/// `cp.async.bulk.wait_group`: all but the last `pending` groups of these lanes have read their sources; unless it is for these
/// `reads` alone, they have landed.
pub(crate) fn wait(m: &mut Machine<'_, '_, '_>, pending: u32, lanes: u32, reads: bool) -> Result<(), Box<Trap>> {
    for lane in each(lanes) {
        let thread = m.number as u32 * 32 + lane as u32;
        let Some(groups) = m.common.bulk.threads.get_mut(&thread) else { continue };
        let over = groups.committed.saturating_sub(pending);
        groups.read = groups.read.max(over);
        let column = groups.column;
        m.common.clocks.saw(m.number, column, over);
        if !reads {
            land_stores(m.common, m.view, thread, over)?;
        }
    }
    Ok(())
}

/// `cp.async.mbarrier.arrive.noinc`: base. The arrival is made once what these lanes have copied has landed.
pub(crate) fn arrive(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    let clock = m.common.clocks.toucher(m.number, pc).clock;
    m.common.tick(m.number);
    let mut known = Knowledge::default();
    m.common.clocks.release(m.number, &mut known);
    let before = m.warp.copies.issued;
    per_lane(m, lanes, |m, lane, thread| {
        let mbarrier = place(m, i, 0, 0, lane);
        m.common.see_mbarrier(mbarrier, thread, pc)?;
        let what = Flying::Arrival { before, known: known.clone(), clock };
        m.common.bulk.flying.push(Flight { thread, pc, mbarrier, what });
        Ok(())
    })
}

/// The running lanes end: nothing that they have issued may still read shared memory.
pub(crate) fn end(m: &Machine<'_, '_, '_>, lanes: u32) -> Result<(), Box<Trap>> {
    for lane in each(lanes) {
        let thread = m.number as u32 * 32 + lane as u32;
        let Some(groups) = m.common.bulk.threads.get(&thread) else { continue };
        let (pc, group) = groups.last;
        if group >= groups.read {
            let mut trap = Trap::new(FaultKind::EndsInFlight { writes: false }, Some(lane as u32));
            trap.other = Some(Other { cta: None, earlier: Earlier { thread, pc } });
            return Err(trap);
        }
    }
    Ok(())
}

/// The stores of a thread's groups before `group` land.
fn land_stores(common: &mut Common, view: &mut View<'_>, thread: Thread, group: u32) -> Result<(), Box<Trap>> {
    let Some(groups) = common.bulk.threads.get_mut(&thread) else { return Ok(()) };
    let (landing, stay) = std::mem::take(&mut groups.stores).into_iter().partition(|store| store.group < group);
    groups.stores = stay;
    for Store { pc, put, runs, .. } in landing {
        let doer = Doer { thread, pc };
        let deed = if put == Put::Write { Deed::Write } else { Deed::Atomic };
        for (address, bytes) in runs {
            doer.note(common, view, address, bytes.len() as u32, deed)?;
            doer.put(view, address, &bytes, put)?;
        }
    }
    Ok(())
}

/// The CTA has ended: every copy to global memory lands. The warp at fault is told.
pub(crate) fn finish(common: &mut Common, view: &mut View<'_>) -> Result<(), (usize, Box<Trap>)> {
    let threads: Vec<Thread> = common.bulk.threads.keys().copied().collect();
    for thread in threads {
        land_stores(common, view, thread, u32::MAX).map_err(|trap| (thread as usize / 32, trap))?;
    }
    Ok(())
}

/// The `which`-th of what is in flight to an mbarrier lands. The warp at fault is told.
pub(crate) fn land(
    warps: &mut [Warp<'_>],
    common: &mut Common,
    view: &mut View<'_>,
    maps: &Maps,
    which: usize,
) -> Result<(), (usize, Box<Trap>)> {
    let Flight { thread, pc, mbarrier, what } = common.bulk.flying.remove(which);
    let warp = thread as usize / 32;
    let landed = match what {
        Flying::Copy { to, from, bytes, moment } => {
            let doer = Doer { thread, pc };
            bring(common, view, maps, doer, to, &from, bytes).and_then(|words| {
                common.shared.async_land(to, &words, moment.column, moment.time);
                common.complete_copy(mbarrier, bytes.into())
            })
        }
        Flying::Arrival { before, known, clock } => {
            let lane = 1 << (thread % 32);
            let copies = &mut warps[warp].copies;
            access::land_copies(copies, common, view, warp, clock, |copy| {
                if copy.serial < before { copy.lanes & lane } else { 0 }
            })
            .and_then(|()| common.arrive_late(mbarrier, &known))
        }
    };
    landed.map_err(|mut trap| {
        trap.pc.get_or_insert(pc);
        trap.lane.get_or_insert(thread % 32);
        (warp, trap)
    })
}

/// What a copy to shared memory brings, as it lies there.
fn bring(
    common: &Common,
    view: &mut View<'_>,
    maps: &Maps,
    doer: Doer,
    to: u32,
    from: &From,
    bytes: u32,
) -> Result<Vec<u32>, Box<Trap>> {
    let mut data = vec![0; bytes as usize];
    let mut swizzle = Swizzle::None;
    match from {
        From::Words(words) => return Ok(words.clone()),
        From::Global(address) => {
            doer.read(view, *address, &mut data)?;
            doer.note(common, view, *address, bytes, Deed::ReadOver)?;
        }
        From::Box { map, coords } => {
            let map = find(maps, *map)?;
            swizzle = map.swizzle;
            map.rows(coords, |row| {
                let at = row.offset as usize;
                doer.read(view, row.address, &mut data[at..at + row.bytes as usize])?;
                doer.note(common, view, row.address, row.bytes, Deed::ReadOver)
            })?;
        }
    }
    let mut words = vec![0; data.len() / 4];
    for (at, piece) in (0u32..).step_by(16).zip(data.chunks_exact(16)) {
        let place = (swizzle.place(to + at) - to) as usize / 4;
        for (word, bytes) in words[place..place + 4].iter_mut().zip(piece.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
    Ok(words)
}
