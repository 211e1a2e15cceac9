//! Clusters: CTAs that run together, wait for each other, and reach each other's shared memory (PTX ISA 2.2.1.2, 4.1.6).
//!
//! What one CTA does to another goes into its outbox, and is delivered at the end of the warp's turn, with what the warp
//! has seen. An address in the cluster's window bears the rank of a CTA, plus one, above the 24 bits of an address in its shared
//! memory; an address without it is the own CTA's, as a shared::cta address is.
//!
//! | | orders |
//! |---|---|
//! | `barrier.cluster.arrive` then `.wait` | who waited sees what all warps of the cluster had seen, and did |
//! | `.arrive.relaxed` | nothing for what its warp did |
//! | an arrival at another CTA's mbarrier | as one at the own |
//! | a bulk copy into another CTA's shared memory | as one of the own, by what the issuing warp had seen |

use crate::bulk::Sent;
use crate::clocks::Knowledge;
use crate::cta::{Common, Cta};
use crate::decode::Inst;
use crate::fault::{FaultKind, Trap};
use crate::global::{self, Known};
use crate::shared::Thread;
use crate::step::Machine;
use crate::warp::Status;

/// Bits of an address in a CTA's shared memory.
const RANK: u32 = 24;

/// CTAs that a cluster may have: eight anywhere, sixteen where the launch asks for it.
const MOST: u32 = 16;

/// The CTAs of a cluster along x, y and z, where the grid has whole ones of them.
///
/// # Errors
/// When the kernel leaves it to a launch to say, or the grid or the hardware has no such clusters.
pub(crate) fn extents(limits: &lacuna_ptx::Limits, grid: [u32; 3]) -> Result<[u32; 3], String> {
    let Some(cluster) = limits.required_cluster else {
        return if limits.explicit_cluster {
            Err("the kernel runs in clusters only: `.reqnctapercluster` must say how many CTAs one has".to_owned())
        } else {
            Ok([1; 3])
        };
    };
    let size = cluster.iter().fold(1u32, |size, extent| size.saturating_mul((*extent).max(1)));
    if size > MOST {
        return Err(format!("a cluster has up to {MOST} CTAs, and the kernel says .reqnctapercluster {cluster:?}"));
    }
    match (0..3).find(|axis| !grid[*axis].is_multiple_of(cluster[*axis].max(1))) {
        None => Ok(cluster.map(|extent| extent.max(1))),
        Some(axis) => Err(format!(
            "the kernel runs in clusters of {cluster:?} CTAs, and {} along {} are no whole number of them",
            grid[axis],
            ["x", "y", "z"][axis]
        )),
    }
}

/// What a CTA does to another of its cluster.
#[derive(Debug)]
pub(crate) struct Remote {
    /// The other's rank.
    pub(crate) to: usize,
    pub(crate) thread: Thread,
    pub(crate) pc: u32,
    /// What the warp has seen, of global memory too.
    pub(crate) known: Knowledge,
    pub(crate) global: Known,
    pub(crate) deed: Deed,
}

#[derive(Debug)]
pub(crate) enum Deed {
    /// An arrival at an mbarrier.
    Arrive { mbarrier: u32 },
    /// A bulk copy into its shared memory.
    Copy(Box<Sent>),
}

/// A CTA's place in its cluster.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) rank: usize,
    /// CTAs of the cluster.
    pub(crate) size: usize,
    /// Whether the kernel runs in clusters, be they of one CTA.
    clustered: bool,
    pub(crate) outbox: Vec<Remote>,
    /// Warps that have arrived at the cluster's barrier, by bit; and those of them, or before them, that have not waited.
    arrived: u32,
    entered: u32,
    /// What those who arrived had seen, and all of the cluster the last time.
    arriving: Knowledge,
    passed: Knowledge,
    /// The same of global memory.
    global: Known,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place {
            rank: 0,
            size: 1,
            clustered: false,
            outbox: Vec::new(),
            arrived: 0,
            entered: 0,
            arriving: Knowledge::default(),
            passed: Knowledge::default(),
            global: Known::new(),
        }
    }

    pub(crate) fn begin(&mut self, rank: usize, size: usize, clustered: bool) {
        *self = Place { rank, size, clustered, ..Place::new() };
    }

    /// That bytes may be passed on within shared memory: an H200 does that in clusters alone, to the own CTA too, and calls it
    /// an illegal instruction elsewhere.
    pub(crate) fn check_pass(&self) -> Result<(), Box<Trap>> {
        if self.clustered {
            return Ok(());
        }
        let what = "a bulk copy from shared memory to shared memory is for kernels that run in clusters, of one CTA at least, and \
                    this one has no `.reqnctapercluster`";
        Err(Trap::new(FaultKind::Operand(what.to_owned()), None))
    }

    /// Whether the barrier that a warp has arrived at is complete.
    pub(crate) const fn passes(&self, warp: usize) -> bool {
        self.arrived >> warp & 1 == 0
    }

    /// An address, and the rank of the CTA in whose shared memory it lies.
    pub(crate) fn split(&self, address: u32) -> Result<(usize, u32), Box<Trap>> {
        let rank = (address >> RANK).checked_sub(1).map_or(self.rank, |rank| rank as usize);
        if rank < self.size {
            return Ok((rank, address & ((1 << RANK) - 1)));
        }
        let what = format!("{address:#x} is in the shared memory of CTA {rank} of a cluster of {}", self.size);
        Err(Trap::new(FaultKind::Operand(what), None))
    }
}

/// `mapa`: destination, address, rank.
pub(crate) fn map(m: &mut Machine<'_, '_, '_>, i: &Inst, lanes: u32) -> Result<(), Box<Trap>> {
    let (addresses, ranks) = (m.warp.registers.word(i.slots[1]), m.warp.registers.word(i.slots[2]));
    let mut out = [0; 32];
    for lane in crate::access::each(lanes) {
        let (address, rank) = (addresses[lane], ranks[lane]);
        if rank as usize >= m.common.place.size || address >> RANK != 0 {
            let what = format!(
                "mapa takes an address in the own CTA's shared memory and a rank below {}, and has {address:#x} and {rank}",
                m.common.place.size
            );
            return Err(Trap::new(FaultKind::Operand(what), Some(lane as u32)));
        }
        out[lane] = (rank + 1) << RANK | address;
    }
    m.warp.registers.set_word(i.slots[0], &out, lanes);
    Ok(())
}

/// `mbarrier.arrive` in the cluster's window. Whether something is to be delivered.
pub(crate) fn arrive_at(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<bool, Box<Trap>> {
    m.common.tick(m.number);
    let base = *m.warp.registers.word(i.slots[0]);
    for lane in crate::access::each(lanes) {
        let thread = (m.number * 32 + lane) as Thread;
        let at_lane = |mut trap: Box<Trap>| {
            trap.lane.get_or_insert(lane as u32);
            trap
        };
        let address = base[lane].wrapping_add(i.imm[0] as u32);
        let (to, mbarrier) = m.common.place.split(address).map_err(at_lane)?;
        if to == m.common.place.rank {
            m.common.arrive_at(mbarrier, thread, pc, 0, true).map_err(at_lane)?;
        } else {
            let mut known = Knowledge::default();
            m.common.clocks.release(m.number, &mut known);
            m.common.place.outbox.push(Remote {
                to,
                thread,
                pc,
                known,
                global: m.common.knows(m.number),
                deed: Deed::Arrive { mbarrier },
            });
        }
    }
    Ok(!m.common.place.outbox.is_empty())
}

/// `barrier.cluster.arrive`.
pub(crate) fn arrive(m: &mut Machine<'_, '_, '_>, i: &Inst, lanes: u32) -> Result<(), Box<Trap>> {
    if lanes != m.warp.paths.live {
        return Err(Trap::new(FaultKind::Diverged { here: lanes, wanted: m.warp.paths.live }, None));
    }
    let bit = 1 << m.number;
    if m.common.place.entered & bit != 0 {
        let what = "barrier.cluster.arrive, and the warp has not waited since it arrived before".to_owned();
        return Err(Trap::new(FaultKind::Operand(what), None));
    }
    m.common.tick(m.number);
    let knows = m.common.knows(m.number);
    let Common { place, clocks, .. } = &mut *m.common;
    place.arrived |= bit;
    place.entered |= bit;
    // A relaxed arrival hands nothing over.
    if i.aux == 0 {
        clocks.release(m.number, &mut place.arriving);
        global::learn(&mut place.global, &knows);
    }
    Ok(())
}

/// `barrier.cluster.wait`. Whether the warp must wait; then its status says so.
pub(crate) fn wait(m: &mut Machine<'_, '_, '_>, lanes: u32) -> Result<bool, Box<Trap>> {
    if lanes != m.warp.paths.live {
        return Err(Trap::new(FaultKind::Diverged { here: lanes, wanted: m.warp.paths.live }, None));
    }
    if m.common.place.entered >> m.number & 1 == 0 {
        let what = "barrier.cluster.wait, and the warp has not arrived: barrier.cluster.arrive must stand before it"
            .to_owned();
        return Err(Trap::new(FaultKind::Operand(what), None));
    }
    let passes = m.common.place.passes(m.number);
    if passes {
        waited(m.common, m.number);
    } else {
        m.warp.status = Status::Cluster;
    }
    Ok(!passes)
}

/// A warp has waited at the cluster's barrier.
pub(crate) fn waited(common: &mut Common, warp: usize) {
    common.place.entered &= !(1 << warp);
    common.clocks.acquire(warp, &common.place.passed);
}

/// Completes the cluster's barrier if every warp that has not ended is there. Whether it did.
pub(crate) fn meet(ctas: &mut [Cta<'_>]) -> bool {
    let here = |cta: &Cta<'_>| {
        let arrived = cta.common.place.arrived;
        (0..cta.warps.len()).all(|warp| arrived >> warp & 1 != 0 || cta.warps[warp].status == Status::Ended)
    };
    if ctas.iter().all(|cta| cta.common.place.arrived == 0) || !ctas.iter().all(here) {
        return false;
    }
    let size = ctas.len();
    for to in 0..size {
        let mut passed = Knowledge::default();
        for from in 0..size {
            let known = ctas[from].common.place.arriving.clone();
            let known = if from == to { known } else { known.handed(from, &ctas[to].common.clocks) };
            passed.join(&known);
        }
        ctas[to].common.place.passed = passed;
    }
    let mut all = Known::new();
    for cta in ctas.iter_mut() {
        global::learn(&mut all, &std::mem::take(&mut cta.common.place.global));
    }
    for cta in ctas {
        cta.common.learn(&all);
        cta.common.place.arrived = 0;
        cta.common.place.arriving.clear();
    }
    true
}

/// Does to a CTA what another sent.
pub(crate) fn deliver(remote: Remote, from: usize, cta: &mut Cta<'_>) -> Result<(), Box<Trap>> {
    let Remote { to, pc, known, global, deed, .. } = remote;
    if cta.ended() {
        let what = format!(
            "CTA {to} of the cluster has ended: its shared memory is no more, and it must wait for those who reach it"
        );
        return Err(Trap::new(FaultKind::Operand(what), None));
    }
    let known = known.handed(from, &cta.common.clocks);
    cta.common.learn(&global);
    match deed {
        Deed::Arrive { mbarrier } => cta.common.arrive_from(mbarrier, &known, pc),
        Deed::Copy(copy) => copy.deliver(&mut cta.common, &known),
    }
}
