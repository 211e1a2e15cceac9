//! A CTA: its warps, its shared memory, its barriers, and what each warp has seen of the others.

use crate::access;
use crate::bulk::Bulk;
use crate::clocks::{Clocks, Knowledge};
use crate::cluster::{self, Place};
use crate::decode::Kernel;
use crate::fault::{BarrierState, FaultKind, MbarrierState, RegisterPool, Trap};
use crate::global::{self, Handover, Known, learn};
use crate::mbarrier::Mbarriers;
use crate::order::{Seen, Time};
use crate::pool::{self, Pool};
use crate::shared::{Refusal, Shared};
use crate::warp::{Copies, Paths, Registers, Status, Warp};
use crate::wgmma::{self, Flight, Products, WARPS};

/// A named barrier.
#[derive(Clone, Debug, Default)]
struct Barrier {
    /// Threads that it is for, where an instruction says so; otherwise every thread that has not ended.
    count: Option<u32>,
    /// Threads that have arrived.
    arrived: u32,
    /// Which warps these are, and where they arrived.
    arrivals: Vec<(usize, u32)>,
    /// A warp that was counted twice when it was last complete, and where it arrived.
    twice: Option<(usize, u32, u32)>,
    /// Warps that wait, by bit.
    waiting: u32,
    /// What those who arrived have seen, joined.
    seen: Knowledge,
}

/// What the warps of a CTA share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) shared: Shared,
    pub(crate) clocks: Clocks,
    barriers: Vec<Barrier>,
    /// Warps that a barrier has let go, by bit.
    released: u32,
    live_warps: u32,
    /// The CTA's number in the grid.
    number: u32,
    /// How often the clocks started anew.
    round: u32,
    /// What was acquired of other CTAs.
    known: Known,
    /// By warp.
    handovers: Vec<Handover>,
    pub(crate) products: Products,
    pub(crate) pool: Pool,
    pub(crate) place: Place,
    pub(crate) mbarriers: Mbarriers,
    pub(crate) bulk: Bulk,
}

impl Common {
    /// Who touches global memory, for the checks.
    pub(crate) fn global_toucher(&self, warp: usize, lane: usize, pc: u32) -> global::Toucher<'_> {
        let own = self.clocks.of_warps(warp);
        global::Toucher {
            cta: self.number,
            thread: (warp * 32 + lane) as u32,
            pc,
            now: Time::new(self.round, own[warp]),
            seen: Seen { round: self.round, own, others: &self.known },
        }
    }

    /// Its number in the grid.
    pub(crate) const fn number(&self) -> u32 {
        self.number
    }

    /// `membar.gl`: what was offered to the warp is acquired, and what it has seen may be handed on.
    pub(crate) fn fence(&mut self, warp: usize) {
        self.tick(warp);
        for offered in std::mem::take(&mut self.handovers[warp].offered) {
            learn(&mut self.known, &offered);
        }
        self.handovers[warp].released = Some(self.knows(warp).into());
    }

    /// What a warp has seen of what was done to global memory, by its own CTA too.
    pub(crate) fn knows(&self, warp: usize) -> Known {
        let mut all = self.known.clone();
        let own = self.clocks.of_warps(warp).iter().map(|clock| Time::new(self.round, *clock)).collect();
        learn(&mut all, &Known::from([(self.number, own)]));
        all
    }

    /// The same was handed over by another CTA of the cluster.
    pub(crate) fn learn(&mut self, other: &Known) {
        learn(&mut self.known, other);
    }

    /// What a warp hands to others and was handed.
    pub(crate) fn handover(&mut self, warp: usize) -> &mut Handover {
        &mut self.handovers[warp]
    }

    /// A moment passes for a warp: what its lanes did is now seen by its other lanes.
    pub(crate) fn tick(&mut self, warp: usize) {
        if self.clocks.tick(warp) {
            self.shared.forget_clocks();
            self.round += 1;
            let warps = self.clocks.warps();
            self.barriers.iter_mut().for_each(|barrier| barrier.seen.forget(warps));
            self.mbarriers.forget(warps);
            self.bulk.forget(warps);
        }
    }

    /// Why shared memory cannot be touched, as a fault.
    pub(crate) fn refused(&self, why: Refusal, address: u32, bytes: u32, writes: bool) -> Box<Trap> {
        let mut trap = access::refused(self.shared.bytes(), why, address, bytes as usize, 0, writes);
        trap.lane = None;
        trap
    }

    /// `fence.proxy.async`: the asynchronous proxy sees what the warp wrote before.
    pub(crate) fn fence_proxy(&mut self, warp: usize) {
        self.tick(warp);
        self.clocks.fence_proxy(warp);
    }

    /// A warp arrives at a barrier; `waits` for `bar.sync`. Whether it must wait.
    pub(crate) fn arrive(
        &mut self,
        warp: usize,
        number: u32,
        pc: u32,
        count: Option<u32>,
        waits: bool,
    ) -> Result<bool, Box<Trap>> {
        self.tick(warp);
        let everyone = self.live_warps * 32;
        let barrier = &mut self.barriers[number as usize];
        if barrier.arrived == 0 {
            barrier.count = count;
            barrier.seen.clear();
        } else if barrier.count != count {
            let (before, now) = (barrier.count.unwrap_or(everyone), count.unwrap_or(everyone));
            return Err(Trap::new(FaultKind::BarrierCount { barrier: number, before, now }, None));
        }
        barrier.arrived += 32;
        barrier.arrivals.push((warp, pc));
        self.clocks.release(warp, &mut barrier.seen);
        if waits {
            barrier.waiting |= 1 << warp;
        }
        self.complete(number);
        let released = self.released >> warp & 1 != 0;
        self.released &= !(1 << warp);
        Ok(waits && !released)
    }

    /// Lets the warps at a barrier go if everybody is there.
    fn complete(&mut self, number: u32) {
        let barrier = &mut self.barriers[number as usize];
        if barrier.arrived == 0 || barrier.arrived < barrier.count.unwrap_or(self.live_warps * 32) {
            return;
        }
        let seen = std::mem::take(&mut barrier.seen);
        let waiting = std::mem::take(&mut barrier.waiting);
        barrier.arrived = 0;
        barrier.twice = barrier.twice.or_else(|| twice(&barrier.arrivals));
        barrier.arrivals.clear();
        self.released |= waiting;
        for warp in (0..self.clocks.warps()).filter(|warp| waiting >> warp & 1 != 0) {
            self.clocks.acquire(warp, &seen);
        }
        self.barriers[number as usize].seen = seen;
    }

    /// A warp has ended: barriers without a count do not wait for it.
    pub(crate) fn warp_ended(&mut self) {
        self.live_warps -= 1;
        for number in 0..self.barriers.len() as u32 {
            self.complete(number);
        }
    }
}

/// A CTA that runs.
#[derive(Debug)]
pub(crate) struct Cta<'k> {
    pub(crate) index: [u32; 3],
    pub(crate) warps: Vec<Warp<'k>>,
    pub(crate) common: Common,
    /// The warp that runs next.
    pub(crate) turn: usize,
}

impl<'k> Cta<'k> {
    pub(crate) fn new(kernel: &'k Kernel, threads: u32, shared: u32) -> Cta<'k> {
        let count = threads.div_ceil(32) as usize;
        let warps = std::iter::repeat_with(|| Warp {
            registers: Registers::new(kernel),
            paths: Paths::new(0),
            copies: Copies::new(),
            tensor: Flight::new(kernel.tensor_registers.len()),
            status: Status::Ended,
        });
        Cta {
            index: [0; 3],
            warps: warps.take(count).collect(),
            common: Common {
                shared: Shared::new(shared, count),
                clocks: Clocks::new(count),
                barriers: vec![Barrier::default(); 16],
                released: 0,
                live_warps: 0,
                number: 0,
                round: 0,
                known: Known::new(),
                handovers: std::iter::repeat_with(Handover::default).take(count).collect(),
                products: Products::new(count),
                pool: Pool::new(pool::at_entry(&kernel.limits, threads, kernel.most_registers), count),
                place: Place::new(),
                mbarriers: Mbarriers::default(),
                bulk: Bulk::default(),
            },
            turn: 0,
        }
    }

    /// Makes this the CTA at `index`, of a rank in a cluster of so many, at its beginning.
    pub(crate) fn begin(
        &mut self,
        kernel: &Kernel,
        index: [u32; 3],
        grid: [u32; 3],
        block: [u32; 3],
        (rank, size): (usize, usize),
    ) {
        let [x, y, z] = index.map(u64::from);
        self.common.number = (x + u64::from(grid[0]) * (y + u64::from(grid[1]) * z)) as u32;
        self.common.round = 0;
        self.common.known.clear();
        self.common.handovers.iter_mut().for_each(|handover| *handover = Handover::default());
        use lacuna_ptx::Special;
        self.index = index;
        self.turn = 0;
        self.common.shared.clear();
        self.common.clocks.clear(rank, size);
        self.common.place.begin(rank, size, kernel.limits.required_cluster.is_some());
        self.common.released = 0;
        self.common.products.clear();
        self.common.pool.clear();
        self.common.mbarriers.clear();
        self.common.bulk.clear();
        self.common.live_warps = self.warps.len() as u32;
        self.common.barriers.iter_mut().for_each(|barrier| *barrier = Barrier::default());
        let threads = block.iter().product::<u32>();
        for (number, warp) in (0u32..).zip(&mut self.warps) {
            let lanes = threads - number * 32;
            warp.registers.clear();
            warp.copies.clear();
            warp.tensor.clear();
            warp.paths = Paths::new(if lanes < 32 { (1 << lanes) - 1 } else { u32::MAX });
            warp.status = Status::Ready;
            for &(special, slot) in &kernel.specials {
                let register = warp.registers.word_mut(slot);
                for (lane, value) in (0u32..).zip(register) {
                    let thread = number * 32 + lane;
                    let thread = [thread % block[0], thread / block[0] % block[1], thread / (block[0] * block[1])];
                    *value = match special {
                        Special::Tid(axis) => thread[usize::from(axis)],
                        Special::Ntid(axis) => block[usize::from(axis)],
                        Special::Ctaid(axis) => index[usize::from(axis)],
                        Special::Nctaid(axis) => grid[usize::from(axis)],
                        Special::Laneid => lane,
                        Special::Warpid => number,
                        Special::ClusterCtarank => rank as u32,
                        Special::ClusterNctarank => size as u32,
                    };
                }
            }
        }
    }

    /// Lets warps go on whose barrier is complete, whose products are there, or whose registers are.
    pub(crate) fn wake(&mut self) {
        let common = &mut self.common;
        let released = std::mem::take(&mut common.released);
        for (number, warp) in self.warps.iter_mut().enumerate() {
            let goes_on = match warp.status {
                Status::Barrier(_) => released >> number & 1 != 0,
                Status::Products(group) => {
                    let over = common.products.over(number / WARPS, group);
                    if over {
                        wgmma::waited(warp, common, number, group);
                    }
                    over
                }
                Status::Cluster => {
                    let passes = common.place.passes(number);
                    if passes {
                        cluster::waited(common, number);
                    }
                    passes
                }
                Status::Registers(count) => common.pool.take(number, count),
                Status::Mbarrier { address, parity } => common.mbarriers.passes(address, parity),
                Status::Ready | Status::Ended => false,
            };
            if goes_on {
                warp.status = Status::Ready;
            }
        }
    }

    pub(crate) fn ended(&self) -> bool {
        self.warps.iter().all(|warp| warp.status == Status::Ended)
    }

    /// What is pending that nobody waits for, in words: who arrived at a barrier and went on, a `wgmma` that some warps have
    /// not issued.
    pub(crate) fn pending(&self, line: impl Fn(u32) -> usize) -> Vec<String> {
        let mut said = Vec::new();
        for (number, barrier) in self.common.barriers.iter().enumerate().filter(|(_, barrier)| barrier.arrived != 0) {
            let went_on = |(warp, _): &&(usize, u32)| barrier.waiting >> warp & 1 == 0;
            let arrivals: Vec<&(usize, u32)> = barrier.arrivals.iter().filter(went_on).collect();
            if let Some((_, pc)) = arrivals.first() {
                let warps: Vec<usize> = arrivals.iter().map(|(warp, _)| *warp).collect();
                said.push(format!(
                    "{} arrived at barrier {number}, at line {}, and went on",
                    warps_of(&warps),
                    line(*pc)
                ));
            }
        }
        for (number, barrier) in self.common.barriers.iter().enumerate().filter(|(_, barrier)| barrier.waiting != 0) {
            if let Some((warp, first, second)) = barrier.twice {
                said.push(format!(
                    "barrier {number} was complete before with warp {warp} counted twice, at lines {} and {}: those who arrive and \
                     those who wait must be different warps, and the count theirs together",
                    line(first),
                    line(second)
                ));
            } else if let Some(missing) = barrier.count.and_then(|count| count.checked_sub(barrier.arrived)) {
                said.push(format!(
                    "barrier {number} misses {missing} threads: other warps must arrive at it, or it must be for {}",
                    barrier.arrived
                ));
            }
        }
        if let Some((pc, group, warps)) = self.common.products.partial() {
            said.push(format!(
                "the wgmma at line {} was issued by {} alone: all four warps of warpgroup {group} must issue it",
                line(pc),
                warps_of(&warps)
            ));
        }
        let ended: Vec<usize> =
            (0..self.warps.len()).filter(|warp| self.warps[*warp].status == Status::Ended).collect();
        if !ended.is_empty() {
            said.push(format!("{} ended", warps_of(&ended)));
        }
        said
    }

    /// The mbarriers that somebody waits for.
    pub(crate) fn mbarriers(&self) -> Vec<MbarrierState> {
        let mut addresses: Vec<u32> = self.warps.iter().filter_map(|warp| warp.status.mbarrier()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.into_iter().filter_map(|address| self.common.mbarriers.state(address)).collect()
    }

    /// The registers that the first warp wants which waits for some.
    pub(crate) fn registers(&self) -> Option<RegisterPool> {
        self.warps.iter().enumerate().find_map(|(number, warp)| match warp.status {
            Status::Registers(count) => Some(self.common.pool.state(number, count)),
            _ => None,
        })
    }

    /// The barriers that somebody waits for.
    pub(crate) fn barriers(&self) -> Vec<BarrierState> {
        let everyone = self.common.live_warps * 32;
        let state = |(number, barrier): (u32, &Barrier)| BarrierState {
            barrier: number,
            arrived: barrier.arrived,
            expected: barrier.count.unwrap_or(everyone),
        };
        (0u32..).zip(&self.common.barriers).filter(|(_, barrier)| barrier.waiting != 0).map(state).collect()
    }
}

/// A warp that arrived more than once, and where.
fn twice(arrivals: &[(usize, u32)]) -> Option<(usize, u32, u32)> {
    arrivals.iter().enumerate().find_map(|(at, (warp, pc))| {
        let before = arrivals[..at].iter().find(|(other, _)| other == warp)?;
        Some((*warp, before.1, *pc))
    })
}

/// Warps by name: `warp 3`, `warps 0 to 3 and 7`.
fn warps_of(warps: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &warp in warps {
        match runs.last_mut() {
            Some((_, last)) if *last == warp || *last + 1 == warp => *last = warp,
            _ => runs.push((warp, warp)),
        }
    }
    let run = |(first, last): &(usize, usize)| match last - first {
        0 => format!("{first}"),
        1 => format!("{first} and {last}"),
        _ => format!("{first} to {last}"),
    };
    let many = runs.len() > 1 || runs.first().is_some_and(|(first, last)| first != last);
    format!("warp{} {}", if many { "s" } else { "" }, runs.iter().map(run).collect::<Vec<_>>().join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::CLOCK_LIMIT;

    fn common(warps: usize) -> Common {
        Common {
            shared: Shared::new(64, warps),
            clocks: Clocks::new(warps),
            barriers: vec![Barrier::default(); 16],
            released: 0,
            live_warps: warps as u32,
            number: 0,
            round: 0,
            known: Known::new(),
            handovers: std::iter::repeat_with(Handover::default).take(warps).collect(),
            products: Products::new(warps),
            pool: Pool::new(None, warps),
            place: Place::new(),
            mbarriers: Mbarriers::default(),
            bulk: Bulk::default(),
        }
    }

    #[test]
    fn who_arrives_is_seen_and_who_waits_sees() {
        let mut cta = common(3);
        assert!(!cta.arrive(0, 1, 9, Some(64), false).unwrap());
        assert!(!cta.arrive(1, 1, 9, Some(64), true).unwrap());
        assert_eq!(cta.clocks.of_warps(0), [2, 1, 1]);
        assert_eq!(cta.clocks.of_warps(1), [2, 2, 1]);
        // What warp 1 has seen of warp 0 goes on to warp 2.
        assert!(cta.arrive(2, 2, 9, Some(64), true).unwrap());
        assert!(!cta.arrive(1, 2, 9, Some(64), true).unwrap());
        assert_eq!(cta.clocks.of_warps(2), [2, 3, 2]);
    }

    #[test]
    fn the_ended_are_not_waited_for_unless_counted() {
        let mut cta = common(2);
        assert!(cta.arrive(0, 0, 9, None, true).unwrap());
        cta.warp_ended();
        assert_eq!(cta.released, 1);
        let mut cta = common(2);
        assert!(cta.arrive(0, 0, 9, Some(64), true).unwrap());
        cta.warp_ended();
        assert_eq!(cta.released, 0);
    }

    #[test]
    fn clocks_that_run_full_start_anew() {
        let mut cta = common(2);
        (0..CLOCK_LIMIT + 5).for_each(|_| cta.tick(1));
        assert!(cta.clocks.of_warps(1)[1] < 20);
    }
}
