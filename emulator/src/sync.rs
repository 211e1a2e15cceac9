//! Instructions in which lanes or warps meet: barriers, shuffles, votes, reductions.

use crate::decode::{Inst, NONE, Slot};
use crate::fault::{FaultKind, Trap};
use crate::step::Machine;
use crate::warp::ALL;

/// The whole warp must be here.
#[inline(always)]
pub(crate) fn together(lanes: u32) -> Result<(), Box<Trap>> {
    if lanes == ALL { Ok(()) } else { Err(diverged(lanes, ALL)) }
}

#[cold]
fn diverged(here: u32, wanted: u32) -> Box<Trap> {
    Trap::new(FaultKind::Diverged { here, wanted }, None)
}

/// An operand that must be the same in every lane.
fn uniform(m: &Machine<'_, '_, '_>, slot: Slot, lanes: u32, what: &str) -> Result<u32, Box<Trap>> {
    let register = m.warp.registers.word(slot);
    let first = lanes.trailing_zeros();
    let value = register[first as usize];
    match (0..32).find(|lane| lanes >> lane & 1 != 0 && register[*lane as usize] != value) {
        None => Ok(value),
        Some(lane) => {
            let other = register[lane as usize];
            let what = format!(
                "{what} must be the same in every lane, and is {value} in lane {first} and {other} in lane {lane}"
            );
            Err(Trap::new(FaultKind::Operand(what), Some(lane)))
        }
    }
}

/// `bar.sync` and `bar.arrive`. Whether the warp must wait; then its status says so.
pub(crate) fn barrier(m: &mut Machine<'_, '_, '_>, i: &Inst, lanes: u32, waits: bool) -> Result<bool, Box<Trap>> {
    if lanes != m.warp.paths.live {
        return Err(diverged(lanes, m.warp.paths.live));
    }
    let refuse = |what: String| Err(Trap::new(FaultKind::Operand(what), None));
    let number = uniform(m, i.slots[0], lanes, "a barrier's number")?;
    if number > 15 {
        return refuse(format!("there is no barrier {number}: a CTA has barriers 0 to 15"));
    }
    let count =
        if i.slots[1] == NONE { None } else { Some(uniform(m, i.slots[1], lanes, "a barrier's thread count")?) };
    if let Some(count) = count.filter(|count| *count == 0 || count % 32 != 0 || *count > 1024) {
        return refuse(format!("a barrier is for a multiple of 32 threads up to 1024, and this one is for {count}"));
    }
    let wait = m.common.arrive(m.number, number, m.warp.paths.pc, count, waits)?;
    if wait {
        m.warp.status = crate::warp::Status::Barrier(number);
    }
    Ok(wait)
}

/// `setmaxnreg`. Whether the warp must wait; then its status says so.
pub(crate) fn set_registers(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<bool, Box<Trap>> {
    together(lanes)?;
    let count = i.imm[0] as u32;
    let waits = m.common.pool.set(m.number, pc, count, i.aux != 0)?;
    if waits {
        m.warp.status = crate::warp::Status::Registers(count);
    }
    Ok(waits)
}

/// `elect.sync`: who is elected, in every lane, and whether this lane is; mask. The lowest lane is, always.
pub(crate) fn elect(m: &mut Machine<'_, '_, '_>, i: &Inst, lanes: u32) -> Result<(), Box<Trap>> {
    members(m, i.slots[2], lanes)?;
    let leader = lanes.trailing_zeros();
    if i.slots[0] != NONE {
        m.warp.registers.set_word(i.slots[0], &[leader; 32], lanes);
    }
    m.warp.registers.set_pred(i.slots[1], 1 << leader, lanes);
    Ok(())
}

/// The lanes that a member mask names are all here, and all who are here are named.
#[inline(always)]
pub(crate) fn members(m: &Machine<'_, '_, '_>, slot: Slot, lanes: u32) -> Result<(), Box<Trap>> {
    let masks = m.warp.registers.word(slot);
    let mut named = ALL;
    let mut any = 0;
    for lane in 0..32 {
        let mask = if lanes >> lane & 1 != 0 { masks[lane] } else { masks[lanes.trailing_zeros() as usize & 31] };
        named &= mask;
        any |= mask;
    }
    if named != any || named & m.warp.paths.live != lanes {
        return Err(bad_members(m, slot, lanes));
    }
    Ok(())
}

#[cold]
#[inline(never)]
fn bad_members(m: &Machine<'_, '_, '_>, slot: Slot, lanes: u32) -> Box<Trap> {
    match uniform(m, slot, lanes, "the member mask") {
        Err(trap) => trap,
        Ok(named) if lanes & !named != 0 => {
            let lane = (lanes & !named).trailing_zeros();
            Trap::new(FaultKind::Operand(format!("lane {lane} is not among the members {named:#010x}")), Some(lane))
        }
        Ok(named) => diverged(lanes, named & m.warp.paths.live),
    }
}

/// `shfl.sync` (PTX ISA, "Data Movement: shfl.sync"). Slots: destination, source, b, c, member mask.
#[inline(always)]
pub(crate) fn shuffle(m: &mut Machine<'_, '_, '_>, i: &Inst, lanes: u32) -> Result<(), Box<Trap>> {
    members(m, i.slots[4], lanes)?;
    let r = &mut m.warp.registers;
    let (source, by, clamp) = (r.word(i.slots[1]), r.word(i.slots[2]), r.word(i.slots[3]));
    let mut out = [0; 32];
    let mut absent = 0;
    for lane in 0..32u32 {
        let (b, c) = (by[lane as usize] & 31, clamp[lane as usize]);
        let (limit, segment) = (c & 31, c >> 8 & 31);
        let (first, last) = (lane & segment, lane & segment | limit & !segment);
        // Where the lane is out of its segment it reads itself.
        let (from, within) = match i.aux {
            0 => (lane ^ b, lane ^ b <= last),
            1 => (first | b & !segment, first | b & !segment <= last),
            2 => (lane.wrapping_sub(b), lane as i32 - b as i32 >= last as i32),
            _ => (lane + b, lane + b <= last),
        };
        let from = if within { from & 31 } else { lane };
        absent |= u32::from(lanes >> from & 1 == 0 && lanes >> lane & 1 != 0) << lane;
        out[lane as usize] = source[from as usize];
    }
    if absent != 0 {
        let lane = absent.trailing_zeros();
        return Err(Trap::new(
            FaultKind::Operand(format!("lane {lane} reads from a lane that is not here")),
            Some(lane),
        ));
    }
    r.set_word(i.slots[0], &out, lanes);
    Ok(())
}

/// `match.any.sync`: destination, value, member mask. Each lane has the lanes whose values are its own.
pub(crate) fn matching(m: &mut Machine<'_, '_, '_>, i: &Inst, lanes: u32) -> Result<(), Box<Trap>> {
    members(m, i.slots[2], lanes)?;
    let values = m.warp.registers.word(i.slots[1]);
    let alike = |value: u32| (0..32).filter(|&other| values[other] == value).fold(0, |mask, other| mask | 1 << other);
    let out: [u32; 32] = std::array::from_fn(|lane| alike(values[lane]) & lanes);
    m.warp.registers.set_word(i.slots[0], &out, lanes);
    Ok(())
}

/// `redux.sync`: destination, source, member mask.
pub(crate) fn reduce(
    m: &mut Machine<'_, '_, '_>,
    i: &Inst,
    lanes: u32,
    f: impl Fn(u32, u32) -> u32,
) -> Result<(), Box<Trap>> {
    members(m, i.slots[2], lanes)?;
    let source = m.warp.registers.word(i.slots[1]);
    let here = (0..32).filter(|lane| lanes >> lane & 1 != 0).map(|lane| source[lane]);
    let value = here.reduce(f).unwrap_or_default();
    m.warp.registers.set_word(i.slots[0], &[value; 32], lanes);
    Ok(())
}
