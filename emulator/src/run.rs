//! A run: the grid's CTAs over the cores, some of them interleaved on each.
//!
//! A worker takes CTAs in order. It runs one for a slice of instructions, or until all of its warps ask memory for
//! something in vain; then that one goes to the back of the queue, and another is admitted, up to
//! [`Options::resident`]. So CTAs run one after the other, warm in the cache, but those that wait for each other all get
//! to run. Within a CTA the warps take turns: each runs until it
//! waits, ends, or has used its share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use lacuna_ptx::Op;
use pulp::Arch;
use rayon::prelude::*;

use crate::bulk;
use crate::cluster;
use crate::cta::Cta;
use crate::decode::Kernel;
use crate::fault::{Fault, FaultKind, Misuse, Site, Space, Trap};
use crate::global::Ledger;
use crate::launch::{self, Arg, Launch};
use crate::memory::{Memory, View};
use crate::micro::Micro;
use crate::program::Program;
use crate::step::{Machine, Moved, PATIENCE, Run};
use crate::tensor::Maps;
use crate::warp::Status;
use crate::wgmma;

/// How to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Cores to use; 0 for all.
    pub threads: usize,
    /// CTAs that a core may have under way at a time.
    pub resident: usize,
    /// Changes the order in which warps and CTAs take turns, and how long each turn is; 0 is the plain order.
    pub seed: u64,
    /// Warp instructions after which the run is stopped.
    pub max_instructions: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Options { threads: 0, resident: 256, seed: 0, max_instructions: None }
    }
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Instructions issued, counted once a warp, guarded-off ones included.
    pub warp_instructions: u64,
    /// The same by row of the ISA table; rows that were not used are left out.
    pub by_op: Vec<(Op, u64)>,
    /// CTAs that ran.
    pub ctas: u64,
    /// Bytes that instructions read from or wrote to shared memory.
    pub shared_bytes: u64,
    /// Bytes that instructions read from or wrote to global memory.
    pub global_bytes: u64,
    /// Rows that `ldmatrix` had to read apart from the other seven of their matrix, because they share banks.
    pub bank_conflicts: u64,
}

/// Instructions of a CTA between looks at the other CTAs.
const CTA_SLICE: u64 = 4_000_000;
/// Instructions of a warp before the next warp's turn.
const WARP_SLICE: u64 = 50_000;

/// Runs a kernel to its end.
///
/// # Errors
/// The first fault found; of several found at once on several cores, the one in the earliest CTA.
pub fn run(program: &Program, launch: &Launch<'_>, memory: &Memory, options: &Options) -> Result<Stats, Box<Fault>> {
    let refuse = |what: String| {
        Box::new(Fault { kind: FaultKind::Launch(what), entry: launch.entry.to_owned(), sites: Vec::new(), note: None })
    };
    let Some(kernel) = program.kernel(launch.entry) else {
        let known: Vec<&str> = program.entries().collect();
        return Err(refuse(format!("the module has no kernel `{}`; it has {}", launch.entry, known.join(", "))));
    };
    let (params, maps) = launch::params(kernel, launch, program.target()).map_err(refuse)?;
    let ctas: u64 = launch.grid.iter().map(|extent| u64::from(*extent)).product();
    if u32::try_from(ctas).is_err() {
        return Err(refuse(format!("{ctas} CTAs are more than the emulator tells apart")));
    }
    let grid = Grid {
        kernel,
        launch,
        params: &params,
        maps,
        memory,
        ledger: Ledger::new(watched(kernel, launch, memory)),
        options,
        ctas,
        cluster: cluster::extents(&kernel.limits, launch.grid).map_err(refuse)?,
        next: AtomicU64::new(0),
        issued: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        fault: Mutex::new(None),
    };
    let cores = if options.threads == 0 { rayon::current_num_threads() } else { options.threads };
    let workers = cores.min(grid.ctas.min(1 << 16) as usize).max(1);
    let tallies: Vec<Tally> = if workers == 1 {
        vec![grid.work(0)]
    } else {
        let work = || (0..workers).into_par_iter().with_max_len(1).map(|worker| grid.work(worker as u64)).collect();
        if options.threads == 0 {
            work()
        } else {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(workers).build();
            pool.map_err(|error| refuse(format!("no threads to run on: {error}")))?.install(work)
        }
    };
    if let Some((_, fault)) = grid.fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(fault);
    }
    Ok(total(kernel, &tallies))
}

/// The allocations that the kernel may store to, by where its addresses come from.
fn watched(kernel: &Kernel, launch: &Launch<'_>, memory: &Memory) -> Vec<(u64, u64)> {
    let mut watched = Vec::new();
    for &param in &kernel.stored.params {
        match &launch.args[param] {
            Arg::U64(address) => watched.extend(memory.allocation(*address)),
            Arg::Bytes(_) => return memory.allocations(),
            Arg::TensorMap(map) => watched.extend(memory.allocation(map.base)),
            Arg::U32(_) | Arg::F32(_) => {}
        }
    }
    if kernel.stored.anything { memory.allocations() } else { watched }
}

struct Tally {
    counts: Vec<u64>,
    moved: Moved,
    ctas: u64,
}

fn total(kernel: &Kernel, tallies: &[Tally]) -> Stats {
    let mut stats = Stats::default();
    let mut by_op = vec![0; Op::ALL.len()];
    for tally in tallies {
        for (op, count) in kernel.ops.iter().zip(&tally.counts) {
            by_op[*op as usize] += count;
        }
        stats.warp_instructions += tally.counts.iter().sum::<u64>();
        stats.ctas += tally.ctas;
        stats.shared_bytes += tally.moved.shared;
        stats.global_bytes += tally.moved.global;
        stats.bank_conflicts += tally.moved.conflicts;
    }
    stats.by_op = Op::ALL.iter().copied().zip(by_op).filter(|(_, count)| *count != 0).collect();
    stats
}

/// A launch under way, as its workers see it.
struct Grid<'a> {
    kernel: &'a Kernel,
    launch: &'a Launch<'a>,
    params: &'a [u8],
    maps: Maps,
    memory: &'a Memory,
    ledger: Ledger,
    options: &'a Options,
    ctas: u64,
    /// CTAs of a cluster.
    cluster: [u32; 3],
    next: AtomicU64,
    issued: AtomicU64,
    stop: AtomicBool,
    fault: Mutex<Option<(u64, Box<Fault>)>>,
}

/// How a CTA's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Ended,
    /// It could go on.
    Paused,
    /// It cannot go on by itself, or has something for another CTA, without which it shall not.
    Stuck,
}

/// Where a number lies in a grid of these extents.
fn place(number: u64, grid: [u32; 3]) -> [u32; 3] {
    let (x, y) = (u64::from(grid[0]), u64::from(grid[1]));
    [(number % x) as u32, (number / x % y) as u32, (number / (x * y)) as u32]
}

/// SplitMix64, for the order of turns.
struct Turns(u64);

impl Turns {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % below.max(1)
    }
}

impl<'a> Grid<'a> {
    /// Takes CTAs until there are none left.
    fn work(&self, worker: u64) -> Tally {
        let mut view = View::new(self.memory, &self.ledger);
        let mut tally = Tally { counts: vec![0; self.kernel.code.len()], moved: Moved::default(), ctas: 0 };
        let mut turns = Turns(self.options.seed ^ worker.rotate_left(32));
        let mut live: VecDeque<(u64, Vec<Cta<'a>>)> = VecDeque::new();
        let mut spare: Vec<Cta<'a>> = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            if live.len() < self.options.resident.max(1)
                && let Some(cluster) = self.admit(&mut spare)
            {
                // The newest runs first: those before it have had their slice.
                live.push_front(cluster);
            }
            let Some((number, mut ctas)) = live.pop_front() else { break };
            match self.run_cluster(&mut ctas, &mut view, &mut tally, &mut turns) {
                Ok(true) => {
                    tally.ctas += ctas.len() as u64;
                    spare.append(&mut ctas);
                }
                Ok(false) => live.push_back((number, ctas)),
                Err(fault) => {
                    self.report(number, fault);
                    break;
                }
            }
        }
        tally
    }

    fn report(&self, number: u64, fault: Box<Fault>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut first = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|(earlier, _)| number < *earlier) {
            *first = Some((number, fault));
        }
    }

    /// The next cluster of the grid, at its beginning: nearly always one CTA.
    fn admit(&self, spare: &mut Vec<Cta<'a>>) -> Option<(u64, Vec<Cta<'a>>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let size = self.cluster.iter().product::<u32>();
        if number >= self.ctas / u64::from(size) {
            return None;
        }
        let Launch { grid, block, shared, .. } = *self.launch;
        let clusters: [u32; 3] = std::array::from_fn(|axis| grid[axis] / self.cluster[axis]);
        let first = place(number, clusters);
        let dynamic = if self.kernel.dynamic_shared { shared } else { 0 };
        let ctas = (0..size).map(|rank| {
            let within = place(rank.into(), self.cluster);
            let index = std::array::from_fn(|axis| first[axis] * self.cluster[axis] + within[axis]);
            let mut cta = spare
                .pop()
                .unwrap_or_else(|| Cta::new(self.kernel, block.iter().product(), self.kernel.static_shared + dynamic));
            cta.begin(self.kernel, index, grid, block, (rank as usize, size as usize));
            cta
        });
        Some((number, ctas.collect()))
    }

    /// Runs the CTAs of a cluster for a slice. Whether all have ended.
    fn run_cluster(
        &self,
        ctas: &mut [Cta<'a>],
        view: &mut View<'_>,
        tally: &mut Tally,
        turns: &mut Turns,
    ) -> Result<bool, Box<Fault>> {
        loop {
            let (mut ended, mut goes_on, mut paused) = (0, false, false);
            for number in 0..ctas.len() {
                match self.run_cta(&mut ctas[number], view, tally, turns)? {
                    Turn::Ended => ended += 1,
                    Turn::Paused => paused = true,
                    Turn::Stuck => {}
                }
                for remote in std::mem::take(&mut ctas[number].common.place.outbox) {
                    goes_on = true;
                    let (to, warp, pc) = (remote.to, remote.thread / 32, remote.pc);
                    let lane = remote.thread % 32;
                    cluster::deliver(remote, number, &mut ctas[to]).map_err(|mut trap| {
                        (trap.pc, trap.lane) = (Some(pc), Some(lane));
                        // Who was there before was in the other CTA.
                        if let Some(other) = &mut trap.other {
                            other.cta = Some(ctas[to].common.number());
                        }
                        self.fault(&ctas[number], warp as usize, *trap)
                    })?;
                }
                goes_on |= cluster::meet(ctas);
            }
            if ended == ctas.len() {
                return Ok(true);
            }
            if !paused && !goes_on {
                return Err(self.deadlock(ctas));
            }
            if paused {
                return Ok(false);
            }
        }
    }

    /// Runs a CTA for a slice, or until it sends something to another.
    fn run_cta(
        &self,
        cta: &mut Cta<'a>,
        view: &mut View<'_>,
        tally: &mut Tally,
        turns: &mut Turns,
    ) -> Result<Turn, Box<Fault>> {
        let mut left = CTA_SLICE;
        let mut vain = 0;
        while left > 0 && vain <= cta.warps.len() {
            cta.wake();
            let count = cta.warps.len();
            let first = if self.options.seed == 0 { cta.turn } else { turns.next(count as u64) as usize };
            let ready =
                (0..count).map(|step| (first + step) % count).find(|warp| cta.warps[*warp].status == Status::Ready);
            let Some(number) = ready else {
                if cta.ended() {
                    self.left(cta, view)?;
                    return Ok(Turn::Ended);
                }
                if self.land(cta, view, turns)? {
                    continue;
                }
                return Ok(Turn::Stuck);
            };
            cta.turn = (number + 1) % count;
            let share = if self.options.seed == 0 { WARP_SLICE } else { 1 + turns.next(4 * WARP_SLICE) };
            let mut machine = Machine {
                kernel: self.kernel,
                params: self.params,
                maps: &self.maps,
                number,
                warp: &mut cta.warps[number],
                common: &mut cta.common,
                view,
                counts: &mut tally.counts,
                moved: &mut tally.moved,
                slice: share,
                used: 0,
                polls: 0,
            };
            let result = dispatch(&mut machine);
            let used = machine.used;
            // Once every warp in turn has asked in vain, it is for another CTA to answer.
            vain = if machine.polls == PATIENCE { vain + 1 } else { 0 };
            if let Err(trap) = result {
                return Err(self.fault(cta, number, *trap));
            }
            if cta.common.products.ready() {
                let computed = wgmma::compute(self.kernel, &mut cta.warps, &mut cta.common);
                computed.map_err(|(warp, trap)| self.fault(cta, warp, *trap))?;
            }
            // Copies land as late as they may; under a seed, any time.
            let early = self.options.seed != 0 && cta.common.bulk.is_flying() && turns.next(2) == 0;
            if (early || vain > cta.warps.len()) && self.land(cta, view, turns)? {
                vain = 0;
            }
            left = left.saturating_sub(used.max(1));
            self.count(used, cta, number)?;
            if self.stop.load(Ordering::Relaxed) {
                return Ok(Turn::Paused);
            }
            if !cta.common.place.outbox.is_empty() {
                return Ok(Turn::Stuck);
            }
        }
        Ok(Turn::Paused)
    }

    /// A bulk copy lands, the oldest or, under a seed, any. Whether there was one.
    fn land(&self, cta: &mut Cta<'a>, view: &mut View<'_>, turns: &mut Turns) -> Result<bool, Box<Fault>> {
        let flying = cta.common.bulk.flying();
        if flying == 0 {
            return Ok(false);
        }
        let which = if self.options.seed == 0 { 0 } else { turns.next(flying as u64) as usize };
        let landed = bulk::land(&mut cta.warps, &mut cta.common, view, &self.maps, which);
        landed.map_err(|(warp, trap)| self.fault(cta, warp, *trap))?;
        Ok(true)
    }

    /// Counts instructions against the limit.
    fn count(&self, used: u64, cta: &Cta<'_>, warp: usize) -> Result<(), Box<Fault>> {
        let Some(limit) = self.options.max_instructions else { return Ok(()) };
        let issued = self.issued.fetch_add(used, Ordering::Relaxed) + used;
        if issued <= limit {
            return Ok(());
        }
        Err(self.fault(cta, warp, Trap { kind: FaultKind::InstructionLimit(limit), lane: None, pc: None, other: None }))
    }

    fn site(&self, cta: &Cta<'_>, warp: u32, lane: Option<u32>, pc: u32) -> Site {
        let at = pc as usize;
        Site {
            cta: cta.index,
            warp,
            lane,
            line: self.kernel.lines.get(at).copied().unwrap_or_default(),
            text: self.kernel.texts.get(at).cloned().unwrap_or_default(),
            source: self.kernel.sources.get(at).cloned().flatten(),
            state: None,
        }
    }

    fn fault(&self, cta: &Cta<'_>, warp: usize, trap: Trap) -> Box<Fault> {
        let pc = trap.pc.unwrap_or(cta.warps[warp].paths.pc);
        let mut sites = vec![self.site(cta, warp as u32, trap.lane, pc)];
        if let Some(other) = trap.other {
            let earlier = other.earlier;
            let mut site = self.site(cta, earlier.thread / 32, Some(earlier.thread % 32), earlier.pc);
            site.cta = other.cta.map_or(cta.index, |number| self.index(number.into()));
            sites.push(site);
        }
        let mut trap = trap;
        if let FaultKind::Pending { address } = trap.kind
            && let Some(at) = cta.common.mbarriers.holding(address as u32)
        {
            trap.kind = FaultKind::Mbarrier { address: at, what: Misuse::Touched };
        }
        let note = self.note(cta, warp, &trap, pc);
        Box::new(Fault { kind: trap.kind, entry: self.kernel.name.clone(), sites, note })
    }

    /// What is wrong in terms of groups and stages, where that can be known.
    fn note(&self, cta: &Cta<'_>, warp: usize, trap: &Trap, pc: u32) -> Option<String> {
        let earlier = trap.other?.earlier;
        let brought = matches!(trap.kind, FaultKind::Pending { .. } | FaultKind::Race { first_writes: true, .. });
        if let Some((mbarrier, moment)) = cta.common.bulk.phase_of(earlier.pc).filter(|_| brought) {
            let seen = cta.common.clocks.toucher(warp, pc).seen.get(moment.column).copied().unwrap_or(0);
            let phases = i64::from(moment.phase) + i64::from(seen) - i64::from(moment.time);
            return Some(format!(
                "the copy completes phase {} of the mbarrier at {mbarrier:#x}, and of its phases this warp has waited for {}",
                moment.phase,
                match phases {
                    ..=0 => "none".to_owned(),
                    1 => "phase 0 alone".to_owned(),
                    phases => format!("those before phase {phases}"),
                }
            ));
        }
        let copies = |pc: u32| self.kernel.code[pc as usize].micro == Micro::CpAsync;
        let line = |pc: u32| self.line(pc);
        match trap.kind {
            FaultKind::Pending { .. } | FaultKind::SourceInFlight { .. } => {
                let thread = earlier.thread as usize;
                let warp = cta.warps.get(thread / 32)?;
                let lane = thread % 32;
                let mut mine = warp.copies.flying.iter().filter(|copy| copy.lanes >> lane & 1 != 0);
                let group = mine.find(|copy| copy.pc == earlier.pc)?.group;
                let committed = warp.copies.committed[lane];
                let after = committed.checked_sub(group + 1);
                Some(match (after, warp.copies.waited) {
                    (None, _) => "its group was never committed: no wait covers it".to_owned(),
                    (Some(after), Some((at, pending))) if pending > after => format!(
                        "the last wait, at line {}, lets {pending} groups pass, and of those committed this copy's is number {} from \
                         the last: the wait lets {} too many pass",
                        line(at),
                        after + 1,
                        pending - after
                    ),
                    (Some(after), Some((at, _))) => format!(
                        "the last wait, at line {}, came before this copy's group was committed: one that lets {after} groups pass \
                         must follow",
                        line(at)
                    ),
                    (Some(after), None) => {
                        format!("its thread has waited for nothing: a wait that lets {after} groups pass must follow")
                    }
                })
            }
            FaultKind::RegisterInFlight { ref register } => {
                let flight = &cta.warps[earlier.thread as usize / 32].tensor;
                let names = self.kernel.tensor_registers.iter();
                let number = names.map(|reg| format!("%{}{}", reg.class.letter(), reg.index)).position(|name| name == *register)?;
                Some(flight.note(number, line))
            }
            FaultKind::Race { space: Space::Shared, first_writes: true, .. } if copies(earlier.pc) => Some(
                "the copy has landed for the thread that waited for it: a barrier after its wait shows it to the others".to_owned(),
            ),
            FaultKind::Race { space: Space::Shared, first_writes: false, .. } if copies(pc) => {
                Some("the copy refills a stage that is still read: a barrier must stand after the last read of it".to_owned())
            }
            _ => None,
        }
    }

    /// Where a CTA of this number lies in the grid.
    fn index(&self, number: u64) -> [u32; 3] {
        place(number, self.launch.grid)
    }

    /// Where every warp of a cluster stands that has not ended.
    fn deadlock(&self, ctas: &[Cta<'_>]) -> Box<Fault> {
        let mut sites = Vec::new();
        for (cta, number, warp) in
            ctas.iter().flat_map(|cta| (0u32..).zip(&cta.warps).map(move |(n, warp)| (cta, n, warp)))
        {
            let state = match warp.status {
                Status::Cluster => "waits for the barrier of the cluster".to_owned(),
                Status::Barrier(barrier) => format!("waits for barrier {barrier}"),
                Status::Products(_) => "waits for its wgmmas".to_owned(),
                Status::Registers(count) => format!("waits for {count} registers a thread"),
                Status::Mbarrier { address, parity } => {
                    format!("waits for parity {parity} of the mbarrier at {address:#x}")
                }
                Status::Ready | Status::Ended => continue,
            };
            // What it waits at is the instruction before the one that comes next; a `try_wait` comes next itself.
            let pc = warp.paths.pc - u32::from(warp.status.mbarrier().is_none());
            let mut site = self.site(cta, number, None, pc);
            site.state = Some(state);
            sites.push(site);
        }
        let mut pending = Vec::new();
        for cta in ctas {
            let said = cta.pending(|pc| self.line(pc));
            let [x, y, z] = cta.index;
            let of = if ctas.len() > 1 { format!("in CTA {x},{y},{z} ") } else { String::new() };
            pending.extend(said.into_iter().map(|said| format!("{of}{said}")));
        }
        Box::new(Fault {
            kind: FaultKind::Deadlock {
                barriers: ctas.iter().flat_map(Cta::barriers).collect(),
                registers: ctas.iter().find_map(Cta::registers),
                mbarriers: ctas.iter().flat_map(Cta::mbarriers).collect(),
            },
            entry: self.kernel.name.clone(),
            sites,
            note: (!pending.is_empty()).then(|| pending.join("; ")),
        })
    }

    /// A CTA has ended. What it left undone.
    fn left(&self, cta: &mut Cta<'_>, view: &mut View<'_>) -> Result<(), Box<Fault>> {
        if let Some((thread, pc, mbarrier)) = cta.common.bulk.left() {
            let mut site = self.site(cta, thread / 32, Some(thread % 32), pc);
            site.state = Some(format!("to the mbarrier at {mbarrier:#x}"));
            let kind = FaultKind::EndsInFlight { writes: true };
            return Err(Box::new(Fault { kind, entry: self.kernel.name.clone(), sites: vec![site], note: None }));
        }
        bulk::finish(&mut cta.common, view).map_err(|(warp, trap)| self.fault(cta, warp, *trap))?;
        let Some((pc, group, warps)) = cta.common.products.partial() else { return Ok(()) };
        let what = format!("a wgmma was not issued by all four warps of warpgroup {group}");
        let sites = warps.into_iter().map(|warp| self.site(cta, warp as u32, None, pc)).collect();
        Err(Box::new(Fault { kind: FaultKind::Warpgroup(what), entry: self.kernel.name.clone(), sites, note: None }))
    }

    fn line(&self, pc: u32) -> usize {
        self.kernel.lines.get(pc as usize).copied().unwrap_or_default()
    }
}

/// Runs a warp on the best vector unit that there is.
fn dispatch(machine: &mut Machine<'_, '_, '_>) -> Result<(), Box<Trap>> {
    Arch::new().dispatch(Run(machine))
}
