//! Instructions that touch memory, and the asynchronous copies.

use crate::cta::Common;
use crate::decode::Inst;
use crate::fault::{FaultKind, Other, Space, Trap};
use crate::global::{Conflict, Deed};
use crate::lanes::ballot;
use crate::memory::{Denied, View};
use crate::mma;
use crate::shared::{Earlier, Refusal, Shared, Thread, Toucher, WARP_WIDE};
use crate::step::Machine;
use crate::warp::{Copies, Copy, Doubles, Warp, Words};

/// The lanes in a mask, lowest first.
pub(crate) struct Each(u32);

impl Iterator for Each {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        let lane = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    }
}

#[inline(always)]
pub(crate) const fn each(lanes: u32) -> Each {
    Each(lanes)
}

#[cold]
#[inline(never)]
fn denied(why: Denied, address: u64, bytes: usize, lane: usize) -> Box<Trap> {
    let space = Space::Global;
    let kind = match why {
        Denied::OutOfBounds => FaultKind::OutOfBounds { space, address, bytes: bytes as u32, limit: None },
        Denied::Unwritten => FaultKind::UnwrittenMemory { space, address },
        Denied::Unordered(conflict) => return unordered(conflict, address, lane),
    };
    Trap::new(kind, Some(lane as u32))
}

fn unordered(conflict: Conflict, address: u64, lane: usize) -> Box<Trap> {
    let space = Space::Global;
    // Who did the later deed is told by its instruction.
    let (kind, other) = match conflict {
        Conflict::AfterWrite(write) => {
            (FaultKind::Race { space, address, first_writes: true, second_writes: false }, write)
        }
        Conflict::AfterRead(read) => {
            (FaultKind::Race { space, address, first_writes: false, second_writes: true }, read)
        }
        Conflict::InFlight(copy) => (FaultKind::SourceInFlight { address }, copy),
        Conflict::Constant(write) => (FaultKind::Constant { address }, write),
    };
    let mut trap = Trap::new(kind, Some(lane as u32));
    trap.other = Some(Other { cta: Some(other.cta), earlier: Earlier { thread: other.thread, pc: other.pc } });
    trap
}

/// Notes what a lane does to global memory that it may touch, where that is remembered.
#[inline(always)]
fn note(m: &mut Machine<'_, '_, '_>, address: u64, bytes: usize, deed: Deed, lane: usize) -> Result<(), Box<Trap>> {
    if m.view.remembers(address, deed) {
        let pc = m.warp.paths.pc;
        let by = m.common.global_toucher(m.number, lane, pc);
        m.view.note(address, bytes, deed, &by).map_err(|why| clash(why, address, bytes, lane, deed))?;
    }
    Ok(())
}

#[cold]
pub(crate) fn clash(why: Denied, address: u64, bytes: usize, lane: usize, deed: Deed) -> Box<Trap> {
    let mut trap = denied(why, address, bytes, lane);
    if let FaultKind::Race { second_writes, .. } = &mut trap.kind {
        *second_writes = matches!(deed, Deed::Write | Deed::Atomic);
    }
    trap
}

/// What `ld.global` does: with `.nc` the memory model does not cover it.
#[inline(always)]
fn loading(i: &Inst) -> Deed {
    if i.aux == 0 { Deed::Read } else { Deed::ReadConstant }
}

#[cold]
#[inline(never)]
fn misaligned(space: Space, address: u64, bytes: usize, lane: usize) -> Box<Trap> {
    Trap::new(FaultKind::Misaligned { space, address, bytes: bytes as u32 }, Some(lane as u32))
}

#[cold]
#[inline(never)]
pub(crate) fn refused(limit: u32, why: Refusal, address: u32, bytes: usize, lane: usize, writes: bool) -> Box<Trap> {
    let space = Space::Shared;
    let at = u64::from;
    let race =
        |address, first_writes| FaultKind::Race { space, address: at(address), first_writes, second_writes: writes };
    let (kind, other) = match why {
        Refusal::OutOfBounds => {
            let limit = Some(limit.into());
            (FaultKind::OutOfBounds { space, address: at(address), bytes: bytes as u32, limit }, None)
        }
        Refusal::Misaligned => (FaultKind::Misaligned { space, address: at(address), bytes: bytes as u32 }, None),
        Refusal::Unwritten { address } => (FaultKind::UnwrittenMemory { space, address: at(address) }, None),
        Refusal::Pending { address, copy } => (FaultKind::Pending { address: at(address) }, Some(copy)),
        Refusal::AfterWrite { address, write } => (race(address, true), Some(write)),
        Refusal::AfterRead { address, read } => (race(address, false), Some(read)),
        Refusal::Unfenced { address, write } => (FaultKind::Unfenced { address: at(address) }, Some(write)),
        Refusal::BeingRead { address, read } => (FaultKind::BeingRead { address: at(address) }, Some(read)),
    };
    let mut trap = Trap::new(kind, Some(lane as u32));
    trap.other = other.map(|earlier| Other { cta: None, earlier });
    trap
}

/// The global address of a lane, aligned to the access.
#[inline(always)]
fn aligned(base: &Doubles, lane: usize, offset: i64, bytes: usize) -> Result<u64, Box<Trap>> {
    let address = base[lane].wrapping_add(offset as u64);
    if address.is_multiple_of(bytes as u64) {
        Ok(address)
    } else {
        Err(misaligned(Space::Global, address, bytes, lane))
    }
}

#[inline(always)]
fn gather_global<const N: usize>(
    m: &mut Machine<'_, '_, '_>,
    base: &Doubles,
    offset: i64,
    lanes: u32,
    deed: Deed,
) -> Result<[Words; N], Box<Trap>> {
    let mut out = [[0; 32]; N];
    for lane in each(lanes) {
        let address = aligned(base, lane, offset, 4 * N)?;
        let words = m.view.load::<N>(address).map_err(|why| denied(why, address, 4 * N, lane))?;
        note(m, address, 4 * N, deed, lane)?;
        for (out, word) in out.iter_mut().zip(words) {
            out[lane] = word;
        }
    }
    m.moved.global += u64::from(lanes.count_ones()) * 4 * N as u64;
    Ok(out)
}

#[inline(always)]
fn scatter_global<const N: usize>(
    m: &mut Machine<'_, '_, '_>,
    base: &Doubles,
    offset: i64,
    lanes: u32,
    value: &[Words; N],
) -> Result<(), Box<Trap>> {
    for lane in each(lanes) {
        let address = aligned(base, lane, offset, 4 * N)?;
        let words = std::array::from_fn(|i| value[i][lane]);
        m.view.holds(address, 4 * N).map_err(|why| denied(why, address, 4 * N, lane))?;
        note(m, address, 4 * N, Deed::Write, lane)?;
        m.view.store::<N>(address, words).map_err(|why| denied(why, address, 4 * N, lane))?;
    }
    m.moved.global += u64::from(lanes.count_ones()) * 4 * N as u64;
    Ok(())
}

/// `ld.global` of `N` words: destinations, base.
#[inline(always)]
pub(crate) fn load_global<const N: usize>(m: &mut Machine<'_, '_, '_>, i: &Inst, lanes: u32) -> Result<(), Box<Trap>> {
    let base = *m.warp.registers.double(i.slots[N]);
    let value = gather_global::<N>(m, &base, i.imm[0], lanes, loading(i))?;
    for (slot, value) in i.slots.iter().zip(&value) {
        m.warp.registers.set_word(*slot, value, lanes);
    }
    Ok(())
}

/// `ld.global` of `N` doubles, which are `W` words.
#[inline(always)]
pub(crate) fn load_global_doubles<const N: usize, const W: usize>(
    m: &mut Machine<'_, '_, '_>,
    i: &Inst,
    lanes: u32,
) -> Result<(), Box<Trap>> {
    let base = *m.warp.registers.double(i.slots[N]);
    let value = gather_global::<W>(m, &base, i.imm[0], lanes, loading(i))?;
    for (slot, value) in i.slots.iter().zip(value.chunks_exact(2)) {
        m.warp.registers.set_double(*slot, &joined(&value[0], &value[1]), lanes);
    }
    Ok(())
}

fn joined(low: &Words, high: &Words) -> Doubles {
    std::array::from_fn(|lane| u64::from(high[lane]) << 32 | u64::from(low[lane]))
}

fn halves_of(value: &Doubles) -> [Words; 2] {
    [value.map(|value| value as u32), value.map(|value| (value >> 32) as u32)]
}

pub(crate) fn load_global_half(m: &mut Machine<'_, '_, '_>, i: &Inst, lanes: u32) -> Result<(), Box<Trap>> {
    let base = *m.warp.registers.double(i.slots[1]);
    let mut out = [0; 32];
    for lane in each(lanes) {
        let address = aligned(&base, lane, i.imm[0], 2)?;
        out[lane] = m.view.load_half(address).map_err(|why| denied(why, address, 2, lane))?;
        note(m, address, 2, loading(i), lane)?;
    }
    m.moved.global += u64::from(lanes.count_ones()) * 2;
    m.warp.registers.set_word(i.slots[0], &out, lanes);
    Ok(())
}

/// `st.global` of `N` words: base, sources.
#[inline(always)]
pub(crate) fn store_global<const N: usize>(m: &mut Machine<'_, '_, '_>, i: &Inst, lanes: u32) -> Result<(), Box<Trap>> {
    let base = *m.warp.registers.double(i.slots[0]);
    let value: [Words; N] = std::array::from_fn(|n| *m.warp.registers.word(i.slots[n + 1]));
    scatter_global(m, &base, i.imm[0], lanes, &value)
}

#[inline(always)]
pub(crate) fn store_global_doubles<const N: usize, const W: usize>(
    m: &mut Machine<'_, '_, '_>,
    i: &Inst,
    lanes: u32,
) -> Result<(), Box<Trap>> {
    let base = *m.warp.registers.double(i.slots[0]);
    let value: [Words; W] = std::array::from_fn(|n| halves_of(m.warp.registers.double(i.slots[n / 2 + 1]))[n % 2]);
    scatter_global(m, &base, i.imm[0], lanes, &value)
}

pub(crate) fn store_global_half(m: &mut Machine<'_, '_, '_>, i: &Inst, lanes: u32) -> Result<(), Box<Trap>> {
    let base = *m.warp.registers.double(i.slots[0]);
    let value = *m.warp.registers.word(i.slots[1]);
    for lane in each(lanes) {
        let address = aligned(&base, lane, i.imm[0], 2)?;
        m.view.holds(address, 2).map_err(|why| denied(why, address, 2, lane))?;
        note(m, address, 2, Deed::Write, lane)?;
        m.view.store_half(address, value[lane]).map_err(|why| denied(why, address, 2, lane))?;
    }
    m.moved.global += u64::from(lanes.count_ones()) * 2;
    Ok(())
}

/// `atom` (destination, base, operand) and `red` (base, operand), lane by lane.
pub(crate) fn atomic(
    m: &mut Machine<'_, '_, '_>,
    i: &Inst,
    lanes: u32,
    returns: bool,
    f: impl Fn(u32, u32) -> u32,
) -> Result<(), Box<Trap>> {
    let first = usize::from(returns);
    let (base, operand) = (*m.warp.registers.double(i.slots[first]), *m.warp.registers.word(i.slots[first + 1]));
    let mut out = [0; 32];
    for lane in each(lanes) {
        let address = aligned(&base, lane, i.imm[0], 4)?;
        m.view.holds(address, 4).map_err(|why| denied(why, address, 4, lane))?;
        note(m, address, 4, Deed::Atomic, lane)?;
        // What is handed over here and the value that says so change together.
        let mut places = m.kernel.fences.then(|| m.view.ledger().released());
        let old = m.view.update(address, |old| f(old, operand[lane]));
        if let Some(places) = &mut places {
            m.common.handover(m.number).exchange(places, address, returns);
        }
        out[lane] = old.map_err(|why| denied(why, address, 4, lane))?;
    }
    if returns {
        m.warp.registers.set_word(i.slots[0], &out, lanes);
    }
    m.moved.global += u64::from(lanes.count_ones()) * 4;
    Ok(())
}

/// `red` of a vector, element by element: base, operands.
pub(crate) fn atomic_vector(
    m: &mut Machine<'_, '_, '_>,
    i: &Inst,
    lanes: u32,
    f: impl Fn(u32, u32) -> u32,
) -> Result<(), Box<Trap>> {
    let (base, count) = (*m.warp.registers.double(i.slots[0]), i.aux as usize);
    for lane in each(lanes) {
        let address = aligned(&base, lane, i.imm[0], 4 * count)?;
        m.view.holds(address, 4 * count).map_err(|why| denied(why, address, 4 * count, lane))?;
        note(m, address, 4 * count, Deed::Atomic, lane)?;
        for element in 0..count {
            let operand = m.warp.registers.word(i.slots[1 + element])[lane];
            let at = address + 4 * element as u64;
            let mut places = m.kernel.fences.then(|| m.view.ledger().released());
            let done = m.view.update(at, |old| f(old, operand));
            if let Some(places) = &mut places {
                m.common.handover(m.number).exchange(places, at, false);
            }
            done.map_err(|why| denied(why, at, 4, lane))?;
        }
    }
    m.moved.global += u64::from(lanes.count_ones()) * 4 * count as u64;
    Ok(())
}

#[inline(always)]
fn thread(m: &Machine<'_, '_, '_>, lane: usize) -> Thread {
    m.number as u32 * 32 + lane as u32
}

#[inline(always)]
fn shared_address(base: &Words, lane: usize, offset: i64) -> u32 {
    base[lane].wrapping_add(offset as u32)
}

#[inline(always)]
fn gather_shared<const N: usize>(
    m: &mut Machine<'_, '_, '_>,
    base: &Words,
    offset: i64,
    pc: u32,
    lanes: u32,
) -> Result<[Words; N], Box<Trap>> {
    let mut out = [[0; 32]; N];
    for lane in each(lanes) {
        let address = shared_address(base, lane, offset);
        let thread = thread(m, lane);
        let by = m.common.clocks.toucher(m.number, pc);
        match m.common.shared.read::<N>(address, thread, by) {
            Ok(words) => (0..N).for_each(|n| out[n][lane] = words[n]),
            Err(why) => return Err(refused(m.common.shared.bytes(), why, address, 4 * N, lane, false)),
        }
    }
    m.moved.shared += u64::from(lanes.count_ones()) * 4 * N as u64;
    Ok(out)
}

#[inline(always)]
fn scatter_shared<const N: usize>(
    m: &mut Machine<'_, '_, '_>,
    base: &Words,
    offset: i64,
    pc: u32,
    lanes: u32,
    value: &[Words; N],
) -> Result<(), Box<Trap>> {
    for lane in each(lanes) {
        let address = shared_address(base, lane, offset);
        let thread = thread(m, lane);
        let words = std::array::from_fn(|n| value[n][lane]);
        let by = m.common.clocks.toucher(m.number, pc);
        if let Err(why) = m.common.shared.write::<N>(address, words, thread, by) {
            return Err(refused(m.common.shared.bytes(), why, address, 4 * N, lane, true));
        }
    }
    m.moved.shared += u64::from(lanes.count_ones()) * 4 * N as u64;
    Ok(())
}

/// `ld.shared` of `N` words: destinations, base.
#[inline(always)]
pub(crate) fn load_shared<const N: usize>(
    m: &mut Machine<'_, '_, '_>,
    i: &Inst,
    pc: u32,
    lanes: u32,
) -> Result<(), Box<Trap>> {
    let base = *m.warp.registers.word(i.slots[N]);
    let value = gather_shared::<N>(m, &base, i.imm[0], pc, lanes)?;
    for (slot, value) in i.slots.iter().zip(&value) {
        m.warp.registers.set_word(*slot, value, lanes);
    }
    Ok(())
}

pub(crate) fn load_shared_double(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    let base = *m.warp.registers.word(i.slots[1]);
    let [low, high] = gather_shared::<2>(m, &base, i.imm[0], pc, lanes)?;
    m.warp.registers.set_double(i.slots[0], &joined(&low, &high), lanes);
    Ok(())
}

pub(crate) fn load_shared_half(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    let base = *m.warp.registers.word(i.slots[1]);
    let mut out = [0; 32];
    for lane in each(lanes) {
        let address = shared_address(&base, lane, i.imm[0]);
        let thread = thread(m, lane);
        let by = m.common.clocks.toucher(m.number, pc);
        match m.common.shared.read_half(address, thread, by) {
            Ok(half) => out[lane] = half,
            Err(why) => return Err(refused(m.common.shared.bytes(), why, address, 2, lane, false)),
        }
    }
    m.moved.shared += u64::from(lanes.count_ones()) * 2;
    m.warp.registers.set_word(i.slots[0], &out, lanes);
    Ok(())
}

/// `st.shared` of `N` words: base, sources.
#[inline(always)]
pub(crate) fn store_shared<const N: usize>(
    m: &mut Machine<'_, '_, '_>,
    i: &Inst,
    pc: u32,
    lanes: u32,
) -> Result<(), Box<Trap>> {
    let base = *m.warp.registers.word(i.slots[0]);
    let value: [Words; N] = std::array::from_fn(|n| *m.warp.registers.word(i.slots[n + 1]));
    scatter_shared(m, &base, i.imm[0], pc, lanes, &value)
}

/// One change of shared memory a lane, of so many bytes: base, operand.
fn change_shared(
    m: &mut Machine<'_, '_, '_>,
    i: &Inst,
    pc: u32,
    lanes: u32,
    bytes: usize,
    change: impl Fn(&mut Shared, u32, u32, Thread, Toucher<'_>) -> Result<(), Refusal>,
) -> Result<(), Box<Trap>> {
    let (base, operand) = (*m.warp.registers.word(i.slots[0]), *m.warp.registers.word(i.slots[1]));
    for lane in each(lanes) {
        let address = shared_address(&base, lane, i.imm[0]);
        let thread = thread(m, lane);
        let by = m.common.clocks.toucher(m.number, pc);
        if let Err(why) = change(&mut m.common.shared, address, operand[lane], thread, by) {
            return Err(refused(m.common.shared.bytes(), why, address, bytes, lane, true));
        }
    }
    m.moved.shared += u64::from(lanes.count_ones()) * bytes as u64;
    Ok(())
}

/// `red.shared.add`.
pub(crate) fn add_shared(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    change_shared(m, i, pc, lanes, 4, Shared::add)
}

pub(crate) fn store_shared_double(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    let base = *m.warp.registers.word(i.slots[0]);
    let value = halves_of(m.warp.registers.double(i.slots[1]));
    scatter_shared(m, &base, i.imm[0], pc, lanes, &value)
}

pub(crate) fn store_shared_half(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    change_shared(m, i, pc, lanes, 2, Shared::write_half)
}

/// `ldmatrix`: lane `8 q + r` has the address of row `r` of matrix `q`.
#[inline(always)]
pub(crate) fn ldmatrix(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, transposed: bool) -> Result<(), Box<Trap>> {
    let matrices = i.aux as usize;
    let base = *m.warp.registers.word(i.slots[matrices]);
    for (q, slot) in i.slots[..matrices].iter().enumerate() {
        let mut matrix: Words = [0; 32];
        let mut banks = 0u32;
        for row in 0..8 {
            let lane = 8 * q + row;
            let address = shared_address(&base, lane, i.imm[0]);
            // Eight rows of 16 bytes are read at once where they lie in eight different groups of four banks.
            let group = 1 << (address / 16 % 8);
            m.moved.conflicts += u64::from(banks & group != 0);
            banks |= group;
            let by = m.common.clocks.toucher(m.number, pc);
            match m.common.shared.read::<4>(address, WARP_WIDE, by) {
                Ok(words) => matrix[4 * row..4 * row + 4].copy_from_slice(&words),
                Err(why) => return Err(refused(m.common.shared.bytes(), why, address, 16, lane, false)),
            }
        }
        let value = if transposed { mma::transpose_halves(&matrix) } else { matrix };
        m.warp.registers.set_word(*slot, &value, u32::MAX);
    }
    m.moved.shared += 128 * matrices as u64;
    Ok(())
}

/// `stmatrix`: lane `8 q + r` has the address of row `r` of matrix `q`, base and sources. Its lanes write four words each, of
/// a row that others hold: the row is written by the lane that has its address.
#[inline(always)]
pub(crate) fn stmatrix(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, transposed: bool) -> Result<(), Box<Trap>> {
    let matrices = i.aux as usize;
    let base = *m.warp.registers.word(i.slots[0]);
    for q in 0..matrices {
        let value = m.warp.registers.word(i.slots[1 + q]);
        let matrix = if transposed { mma::transpose_halves(value) } else { *value };
        let mut banks = 0u32;
        for row in 0..8 {
            let lane = 8 * q + row;
            let address = shared_address(&base, lane, i.imm[0]);
            let group = 1 << (address / 16 % 8);
            m.moved.conflicts += u64::from(banks & group != 0);
            banks |= group;
            let words = std::array::from_fn(|n| matrix[4 * row + n]);
            let thread = thread(m, lane);
            let by = m.common.clocks.toucher(m.number, pc);
            if let Err(why) = m.common.shared.write::<4>(address, words, thread, by) {
                return Err(refused(m.common.shared.bytes(), why, address, 16, lane, true));
            }
        }
    }
    m.moved.shared += 128 * matrices as u64;
    Ok(())
}

/// `cp.async`: shared base, global base, bytes of the source. The destination is poisoned now and written when the
/// issuing thread waits.
#[inline(always)]
pub(crate) fn issue_copy(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    let size = i.aux as usize;
    let spare = m.warp.copies.spare.pop();
    let mut copy = spare.unwrap_or(Copy {
        lanes: 0,
        group: 0,
        size: 0,
        shared: [0; 32],
        global: [0; 32],
        source: [0; 32],
        pc: 0,
        serial: 0,
    });
    copy.size = i.aux;
    copy.pc = pc;
    copy.serial = m.warp.copies.issued;
    m.warp.copies.issued += 1;
    copy.source = *m.warp.registers.word(i.slots[2]);
    let (shared, global) = (m.warp.registers.word(i.slots[0]), m.warp.registers.double(i.slots[1]));
    for lane in 0..32 {
        copy.shared[lane] = shared[lane].wrapping_add(i.imm[0] as u32);
        copy.global[lane] = global[lane].wrapping_add(i.imm[1] as u64);
    }
    for lane in each(lanes) {
        let (address, bytes) = (copy.global[lane], copy.source[lane] as usize);
        if bytes > size {
            let what = format!("cp.async of {size} bytes cannot read {bytes}");
            return Err(Trap::new(FaultKind::Operand(what), Some(lane as u32)));
        }
        if !address.is_multiple_of(size as u64) {
            return Err(misaligned(Space::Global, address, size, lane));
        }
        // A source of no bytes is not read: it may lie anywhere.
        if bytes != 0 {
            m.view.probe(address, bytes).map_err(|why| denied(why, address, bytes, lane))?;
            note(m, address, bytes, Deed::ReadLater, lane)?;
        }
        let thread = thread(m, lane);
        let by = m.common.clocks.toucher(m.number, pc);
        let poisoned = match size {
            16 => m.common.shared.poison::<4>(copy.shared[lane], thread, by),
            8 => m.common.shared.poison::<2>(copy.shared[lane], thread, by),
            _ => m.common.shared.poison::<1>(copy.shared[lane], thread, by),
        };
        if let Err(why) = poisoned {
            return Err(refused(m.common.shared.bytes(), why, copy.shared[lane], size, lane, true));
        }
    }
    m.moved.shared += u64::from(lanes.count_ones()) * size as u64;
    m.moved.global += u64::from(lanes.count_ones()) * size as u64;
    // Lanes that have committed as many groups as each other share an entry; nearly always all of them do.
    let copies = &mut m.warp.copies;
    let mut rest = lanes;
    while rest != 0 {
        copy.group = copies.committed[rest.trailing_zeros() as usize];
        copy.lanes = rest & ballot(|lane| copies.committed[lane] == copy.group);
        rest &= !copy.lanes;
        if rest != 0 {
            copies.flying.push(copy.clone());
        }
    }
    copies.flying.push(copy);
    Ok(())
}

/// `cp.async.commit_group`.
pub(crate) fn commit(warp: &mut Warp<'_>, lanes: u32) {
    for lane in each(lanes) {
        warp.copies.committed[lane] += 1;
    }
}

/// `cp.async.wait_group`: all but the last `pending` groups of these lanes have landed.
#[inline(always)]
pub(crate) fn wait(m: &mut Machine<'_, '_, '_>, pending: u32, lanes: u32) -> Result<(), Box<Trap>> {
    let clock = m.common.clocks.toucher(m.number, 0).clock;
    let copies = &mut m.warp.copies;
    copies.waited = Some((m.warp.paths.pc, pending));
    let committed = copies.committed;
    land_copies(copies, m.common, m.view, m.number, clock, |copy| {
        // The group is among the last `pending`, or not committed at all, unless this many were committed.
        let needed = copy.group.saturating_add(pending);
        copy.lanes & lanes & ballot(|lane| committed[lane] > needed)
    })
}

/// Copies of a warp land, of those lanes that are said of each, as writes at this clock.
#[inline(always)]
pub(crate) fn land_copies(
    copies: &mut Copies,
    common: &mut Common,
    view: &mut View<'_>,
    number: usize,
    clock: u32,
    which: impl Fn(&Copy) -> u32,
) -> Result<(), Box<Trap>> {
    for copy in &mut copies.flying {
        let landing = which(copy);
        copy.lanes &= !landing;
        for lane in each(landing) {
            let (address, bytes) = (copy.global[lane], copy.source[lane] as usize);
            let thread = (number * 32 + lane) as u32;
            let words = view.copy_source(address, bytes).map_err(|why| denied(why, address, bytes, lane))?;
            if bytes != 0 && view.remembers(address, Deed::ReadDone) {
                let by = common.global_toucher(number, lane, copy.pc);
                view.note(address, bytes, Deed::ReadDone, &by).map_err(|why| denied(why, address, bytes, lane))?;
            }
            let to = copy.shared[lane];
            match copy.size {
                16 => common.shared.land::<4>(to, words, thread, clock),
                8 => common.shared.land::<2>(to, [words[0], words[1]], thread, clock),
                _ => common.shared.land::<1>(to, [words[0]], thread, clock),
            }
        }
    }
    for at in (0..copies.flying.len()).rev() {
        if copies.flying[at].lanes == 0 {
            copies.spare.push(copies.flying.swap_remove(at));
        }
    }
    Ok(())
}
