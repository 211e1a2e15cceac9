//! `wgmma`: products of a warpgroup that run by themselves between their issue and the wait for their group.
//!
//! Each warp of a warpgroup issues a `wgmma` in its own time, and goes on. Its registers are in flight from then on, and what
//! it reads of shared memory is under way; both by the table in [`order`](crate::order). Once all four have issued it, it is
//! computed, for all of them at once and in the order of issue. `wgmma.wait_group` holds a warp until that has happened to
//! the groups that it waits for.
//!
//! What is found here: warps of a warpgroup that issue different `wgmma`s, descriptors that differ, registers that are touched
//! too early or without `wgmma.fence`, operands in shared memory that are not there yet for all four warps.

mod compute;
mod descriptor;
mod tile;

use std::collections::VecDeque;

pub(crate) use compute::compute;
pub(crate) use descriptor::{Descriptor, Major};
pub(crate) use tile::Element;
use tile::Tile;

use crate::access::refused;
use crate::clocks::Knowledge;
use crate::cta::Common;
use crate::decode::{File, Inst, Kernel, Slot};
use crate::fault::{FaultKind, Other, Trap};
use crate::shared::Earlier;
use crate::step::Machine;
use crate::sync;
use crate::warp::{ALL, Status, Warp};

/// Warps of a warpgroup.
pub(crate) const WARPS: usize = 4;

/// Where A comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Registers([Slot; 4]),
    /// The register of its descriptor.
    Shared(Slot, Major),
}

/// A `wgmma.mma_async`, decoded. It has more operands than an [`Inst`] holds.
#[derive(Clone, Debug)]
pub(crate) struct Wgmma {
    pub(crate) element: Element,
    pub(crate) d: Vec<Slot>,
    pub(crate) a: Source,
    /// The register of its descriptor.
    pub(crate) b: Slot,
    pub(crate) b_major: Major,
    /// The product is taken away.
    pub(crate) negated: bool,
    /// Its accumulators, numbered among the registers that `wgmma`s use.
    pub(crate) accumulators: Vec<u16>,
    /// A's fragments, likewise.
    pub(crate) fragments: Vec<u16>,
    /// Accumulators that may not have been written, which matters where D is added to.
    pub(crate) unproven: Vec<(Slot, lacuna_ptx::Reg)>,
    /// Accumulators of which it must be noted that they are written, where that depends on a predicate.
    pub(crate) tracked: Vec<Slot>,
}

impl Wgmma {
    const fn columns(&self) -> usize {
        self.d.len() * 2
    }
}

/// What was last done to a register that `wgmma`s use.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    /// One more than the fences before the last touch by another instruction; 0: none.
    touched: u32,
    touched_at: u32,
    /// One more than the group of the last `wgmma`; 0: none.
    group: u32,
    issued_at: u32,
    /// Fences before it.
    fences: u32,
    /// N where it accumulates there, 0 where it reads A.
    columns: u16,
}

/// A warp's part in the products of its warpgroup.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    /// Times of `wgmma.fence`.
    fences: u32,
    /// Groups committed.
    committed: u32,
    /// Groups that the warp has waited for.
    done: u32,
    /// `wgmma`s issued.
    issued: u32,
    /// The last wait and how many groups it let pass.
    waited: Option<(u32, u32)>,
    registers: Vec<Use>,
}

impl Flight {
    pub(crate) fn new(registers: usize) -> Flight {
        Flight { registers: vec![Use::default(); registers], ..Flight::default() }
    }

    pub(crate) fn clear(&mut self) {
        let mut registers = std::mem::take(&mut self.registers);
        registers.fill(Use::default());
        *self = Flight { registers, ..Flight::default() };
    }

    /// What stands between the issue of a `wgmma` and what touches its registers, for a report.
    pub(crate) fn note(&self, register: usize, line: impl Fn(u32) -> usize) -> String {
        let group = self.registers[register].group - 1;
        match (self.committed.checked_sub(group + 1), self.waited) {
            (None, _) => "its group was not committed: a wgmma.commit_group and a wait must stand between".to_owned(),
            (Some(after), None) => format!("nothing was waited for: a wgmma.wait_group {after} must stand between"),
            (Some(after), Some((at, pending))) => format!(
                "the last wait, at line {}, lets {pending} groups pass: a wgmma.wait_group {after} must stand between",
                line(at)
            ),
        }
    }
}

/// A `wgmma` that was issued by some of its warps.
#[derive(Debug)]
struct Issued {
    pc: u32,
    /// Its group, from the beginning of the CTA.
    group: u32,
    /// Descriptors; A's is 0 where A is in registers.
    descriptors: [u64; 2],
    /// Where A and B lie, over 16, in the order of their descriptors.
    granules: [Vec<u32>; 2],
    adds: bool,
    /// The warp that came first.
    first: usize,
    /// Warps that have issued it, by bit.
    warps: u32,
    /// What these have seen in common.
    seen: Knowledge,
}

/// The products of a warpgroup that are under way.
#[derive(Debug, Default)]
struct Warpgroup {
    issued: VecDeque<Issued>,
    /// How many were computed before.
    computed: u32,
}

/// The products of a CTA that are under way.
#[derive(Debug, Default)]
pub(crate) struct Products {
    groups: Vec<Warpgroup>,
    /// Warpgroups that have something to compute, by bit.
    ready: u32,
    tile: Tile,
    granules: Vec<[u32; 4]>,
    /// What one of several warps has seen.
    scratch: Knowledge,
}

impl Products {
    pub(crate) fn new(warps: usize) -> Products {
        let groups = std::iter::repeat_with(Warpgroup::default).take(warps.div_ceil(WARPS)).collect();
        Products { groups, ..Products::default() }
    }

    pub(crate) fn clear(&mut self) {
        self.groups.iter_mut().for_each(|group| {
            group.issued.clear();
            group.computed = 0;
        });
        self.ready = 0;
    }

    pub(crate) const fn ready(&self) -> bool {
        self.ready != 0
    }

    /// Whether all that a warpgroup issued before a group was computed.
    pub(crate) fn over(&self, warpgroup: usize, group: u32) -> bool {
        self.groups[warpgroup].issued.front().is_none_or(|issued| issued.group >= group)
    }

    /// A `wgmma` that some warps of a warpgroup have issued and others have not: where, and which have.
    pub(crate) fn partial(&self) -> Option<(u32, usize, Vec<usize>)> {
        let mut groups = self.groups.iter().enumerate();
        groups.find_map(|(number, group)| {
            let issued = group.issued.front()?;
            let warps = (0..WARPS).filter(|warp| issued.warps >> warp & 1 != 0);
            Some((issued.pc, number, warps.map(|warp| number * WARPS + warp).collect()))
        })
    }
}

/// A fault of the current instruction with the earlier one that it clashes with.
pub(crate) fn clash(kind: FaultKind, warp: usize, pc: u32) -> Box<Trap> {
    let mut trap = Trap::new(kind, None);
    trap.other = Some(Other { cta: None, earlier: Earlier { thread: warp as u32 * 32, pc } });
    trap
}

/// The name of a register that `wgmma`s use.
fn name(kernel: &Kernel, register: u16) -> String {
    let reg = kernel.tensor_registers[usize::from(register)];
    format!("%{}{}", reg.class.letter(), reg.index)
}

/// An instruction that is no `wgmma` touches registers that some `wgmma` uses.
#[inline(never)]
pub(crate) fn touch(m: &mut Machine<'_, '_, '_>, pc: u32) -> Result<(), Box<Trap>> {
    let kernel = m.kernel;
    let flight = &mut m.warp.tensor;
    for &register in &kernel.touches[pc as usize] {
        let last = &mut flight.registers[usize::from(register)];
        if last.group > flight.done {
            let kind = FaultKind::RegisterInFlight { register: name(kernel, register) };
            return Err(clash(kind, m.number, last.issued_at));
        }
        (last.touched, last.touched_at) = (flight.fences + 1, pc);
    }
    Ok(())
}

/// `wgmma.fence`.
pub(crate) fn fence(m: &mut Machine<'_, '_, '_>, lanes: u32) -> Result<(), Box<Trap>> {
    sync::together(lanes)?;
    m.warp.tensor.fences += 1;
    Ok(())
}

/// `wgmma.commit_group`.
pub(crate) fn commit(m: &mut Machine<'_, '_, '_>, lanes: u32) -> Result<(), Box<Trap>> {
    sync::together(lanes)?;
    m.warp.tensor.committed += 1;
    Ok(())
}

/// `wgmma.wait_group`: whether the warp must wait until all but the last `pending` groups are computed.
pub(crate) fn wait(m: &mut Machine<'_, '_, '_>, pending: u32, lanes: u32) -> Result<bool, Box<Trap>> {
    sync::together(lanes)?;
    let flight = &mut m.warp.tensor;
    flight.waited = Some((m.warp.paths.pc, pending));
    let group = flight.committed.saturating_sub(pending);
    let waits = !m.common.products.over(m.number / WARPS, group);
    if waits {
        m.warp.status = Status::Products(group);
    } else {
        waited(m.warp, m.common, m.number, group);
    }
    Ok(waits)
}

/// A warp has waited for all groups before this one.
pub(crate) fn waited(warp: &mut Warp<'_>, common: &mut Common, number: usize, group: u32) {
    let done = &mut warp.tensor.done;
    *done = group.max(*done);
    let column = common.clocks.group_column(number / WARPS);
    common.clocks.saw(number, column, group);
}

/// The registers of a `wgmma` may be used by it now, and are in flight from now on.
fn take_registers(m: &mut Machine<'_, '_, '_>, wgmma: &Wgmma, pc: u32) -> Result<(), Box<Trap>> {
    let kernel = m.kernel;
    let flight = &mut m.warp.tensor;
    let (fences, done, group) = (flight.fences, flight.done, flight.committed + 1);
    if fences == 0 {
        return Err(Trap::new(FaultKind::RegisterUnfenced { register: None }, None));
    }
    let accumulators = wgmma.accumulators.iter().map(|register| (*register, wgmma.columns() as u16));
    for (register, columns) in wgmma.fragments.iter().map(|register| (*register, 0)).chain(accumulators) {
        let last = &mut flight.registers[usize::from(register)];
        let unfenced = || FaultKind::RegisterUnfenced { register: Some(name(kernel, register)) };
        if last.touched == fences + 1 {
            return Err(clash(unfenced(), m.number, last.touched_at));
        }
        // What accumulates in one shape, or is only read, is in order by itself.
        if last.group != 0 && last.columns != columns {
            if last.group > done {
                let kind = FaultKind::RegisterInFlight { register: name(kernel, register) };
                return Err(clash(kind, m.number, last.issued_at));
            }
            if last.fences == fences {
                return Err(clash(unfenced(), m.number, last.issued_at));
            }
        }
        (last.group, last.issued_at, last.fences, last.columns) = (group, pc, fences, columns);
    }
    Ok(())
}

/// A register of 64 bits that holds one value in all lanes.
fn uniform(m: &Machine<'_, '_, '_>, slot: Slot, whose: &str) -> Result<u64, Box<Trap>> {
    let register = m.warp.registers.double(slot);
    match register.iter().position(|value| *value != register[0]) {
        None => Ok(register[0]),
        Some(lane) => {
            let what = format!(
                "the descriptor of {whose} must be the same in every lane, and is {:#018x} in lane 0 and {:#018x} in lane {lane}",
                register[0], register[lane]
            );
            Err(Trap::new(FaultKind::Operand(what), Some(lane as u32)))
        }
    }
}

/// `wgmma.mma_async`.
pub(crate) fn issue(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    sync::together(lanes)?;
    let kernel = m.kernel;
    let wgmma = &kernel.wgmmas[i.aux as usize];
    let (warpgroup, warps) = (m.number / WARPS, m.common.clocks.warps());
    if warps < (warpgroup + 1) * WARPS {
        let what = format!("a warpgroup has four warps, and this one only {}", warps % WARPS);
        return Err(Trap::new(FaultKind::Warpgroup(what), None));
    }
    let refuse = |what: String| Trap::new(FaultKind::Operand(what), None);
    let b = uniform(m, wgmma.b, "B")?;
    let of_b = Descriptor::new(b).map_err(refuse)?;
    let (a, of_a) = match wgmma.a {
        Source::Registers(_) => (0, None),
        Source::Shared(slot, major) => {
            let a = uniform(m, slot, "A")?;
            (a, Some((Descriptor::new(a).map_err(refuse)?, major)))
        }
    };
    let adds = m.warp.registers.pred(i.slots[0]);
    if adds != 0 && adds != ALL {
        return Err(refuse("whether D is added to must be the same in every lane".to_owned()));
    }
    if adds == ALL {
        for &(slot, reg) in &wgmma.unproven {
            crate::step::unwritten(m, (File::Word, slot, reg), ALL)?;
        }
    }
    for &slot in &wgmma.tracked {
        *m.warp.registers.written(File::Word, slot) = ALL;
    }
    take_registers(m, wgmma, pc)?;
    let flight = &mut m.warp.tensor;
    let (group, index) = (flight.committed, flight.issued - m.common.products.groups[warpgroup].computed);
    flight.issued += 1;
    let products = &mut m.common.products;
    if products.groups[warpgroup].issued.get(index as usize).is_none() {
        let mut seen = Knowledge::default();
        m.common.clocks.release(m.number, &mut seen);
        let granules = [
            of_a.map(|(of_a, major)| of_a.granules(major, tile::ROWS)).unwrap_or_default(),
            of_b.granules(wgmma.b_major, wgmma.columns()),
        ];
        m.moved.shared += 16 * granules.iter().map(Vec::len).sum::<usize>() as u64;
        for &granule in granules.iter().flatten() {
            let noted = m.common.shared.tensor_read(granule, warpgroup, group, pc);
            noted.map_err(|why| reads(why, m.common.shared.bytes(), granule, pc))?;
        }
        products.groups[warpgroup].issued.push_back(Issued {
            pc,
            group,
            descriptors: [a, b],
            granules,
            adds: adds == ALL,
            first: m.number,
            warps: 1 << (m.number % WARPS),
            seen,
        });
        return Ok(());
    }
    products.scratch.clear();
    m.common.clocks.release(m.number, &mut products.scratch);
    let issued = &mut products.groups[warpgroup].issued[index as usize];
    let differs = |what: String| Err(clash(FaultKind::Warpgroup(what), issued.first, issued.pc));
    let first = issued.first;
    if issued.pc != pc {
        return differs(format!(
            "the four warps of a warpgroup must issue the same wgmmas in the same order, and warp {} issues one where warp \
             {first} issued another",
            m.number
        ));
    }
    for ((whose, mine), theirs) in ["A", "B"].iter().zip([a, b]).zip(issued.descriptors) {
        if mine != theirs {
            return differs(format!(
                "the descriptor of {whose} must be the same in the four warps of a warpgroup, and is {mine:#018x} in warp {} and \
                 {theirs:#018x} in warp {first}",
                m.number
            ));
        }
    }
    if issued.adds != (adds == ALL) {
        return differs(format!(
            "whether D is added to must be the same in the four warps of a warpgroup, and differs in warps {} and {first}",
            m.number
        ));
    }
    if issued.group != group {
        return differs(format!(
            "the four warps of a warpgroup must commit the same groups: warp {} has committed {group} before this wgmma, and warp \
             {first} {}",
            m.number, issued.group
        ));
    }
    issued.seen.narrow(&products.scratch);
    issued.warps |= 1 << (m.number % WARPS);
    if issued.warps == 0xf {
        products.ready |= 1 << warpgroup;
    }
    Ok(())
}

/// Why an operand cannot be read.
fn reads(why: crate::shared::Refusal, limit: u32, granule: u32, pc: u32) -> Box<Trap> {
    let mut trap = refused(limit, why, granule * 16, 16, 0, false);
    (trap.lane, trap.pc) = (None, Some(pc));
    trap
}
