//! What a run can find wrong, and how it says so.

use std::fmt;

/// A memory that addresses point into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Global memory.
    Global,
    /// Shared memory of the CTA.
    Shared,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Space::Global => "global",
            Space::Shared => "shared",
        })
    }
}

/// What was found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The launch itself: a missing or wrong argument, a block that the kernel does not allow, too much shared memory.
    Launch(String),
    /// An access outside every allocation, or outside the CTA's shared memory.
    OutOfBounds {
        /// Which memory.
        space: Space,
        /// First byte of the access.
        address: u64,
        /// Its length.
        bytes: u32,
        /// How far the memory of the CTA goes, for shared memory.
        limit: Option<u64>,
    },
    /// An address that is not a multiple of the access's size.
    Misaligned {
        /// Which memory.
        space: Space,
        /// First byte of the access.
        address: u64,
        /// Its size.
        bytes: u32,
    },
    /// A register is read that this lane never wrote.
    UnwrittenRegister {
        /// The register's name.
        register: String,
    },
    /// Memory is read that nobody wrote.
    UnwrittenMemory {
        /// Which memory.
        space: Space,
        /// First such byte of the access (global memory: of the access).
        address: u64,
    },
    /// The destination of an asynchronous copy is touched before the thread that issued it has waited for it.
    Pending {
        /// The word.
        address: u64,
    },
    /// The source of an asynchronous copy is written before the thread that issued it has waited for it.
    SourceInFlight {
        /// First byte of the write.
        address: u64,
    },
    /// The asynchronous proxy, through which `wgmma` and bulk copies go, touches what was written through the generic one,
    /// and its writer has made no `fence.proxy.async` since.
    Unfenced {
        /// The word.
        address: u64,
    },
    /// Shared memory is written while a `wgmma` or a bulk copy may still read it.
    BeingRead {
        /// The first such granule of 16 bytes.
        address: u64,
    },
    /// `ld.global.nc` reads what this launch has written: no barrier and no fence makes that visible to it.
    Constant {
        /// First byte of the read.
        address: u64,
    },
    /// Two accesses, one of them a write, that nothing orders.
    Race {
        /// Which memory.
        space: Space,
        /// Shared memory: the word; global memory: the first byte of the second access.
        address: u64,
        /// Whether the access that came first was a write.
        first_writes: bool,
        /// Whether the access that came second was a write.
        second_writes: bool,
    },
    /// Every warp of the CTA waits for a barrier that cannot complete.
    Deadlock {
        /// The barriers that are waited for.
        barriers: Vec<BarrierState>,
        /// The registers that `setmaxnreg` waits for.
        registers: Option<RegisterPool>,
        /// The mbarriers that are waited for.
        mbarriers: Vec<MbarrierState>,
    },
    /// A thread ends before its bulk copies have read shared memory, or a CTA before those to its shared memory have landed.
    EndsInFlight {
        /// Whether they write shared memory.
        writes: bool,
    },
    /// An mbarrier is used otherwise than it may be.
    Mbarrier {
        /// Where it is, or should be.
        address: u32,
        /// How.
        what: Misuse,
    },
    /// A register that a `wgmma` accumulates in or reads A from is touched before its group was waited for.
    RegisterInFlight {
        /// The register's name.
        register: String,
    },
    /// A `wgmma` uses a register that was touched since the last `wgmma.fence`; or there was none before the first `wgmma`.
    RegisterUnfenced {
        /// The register's name; none before the first fence.
        register: Option<String>,
    },
    /// The warps of a warpgroup do not do together what they must.
    Warpgroup(String),
    /// An instruction that the whole warp must execute together is reached by part of it.
    Diverged {
        /// The lanes that are here.
        here: u32,
        /// The lanes that should be.
        wanted: u32,
    },
    /// An operand that must be the same in every lane is not, or has a value that the instruction does not take.
    Operand(String),
    /// Warps disagree on how many threads a barrier is for.
    BarrierCount {
        /// The barrier.
        barrier: u32,
        /// What the warps that came before said, in threads.
        before: u32,
        /// What this warp says.
        now: u32,
    },
    /// The kernel executed `trap`.
    Trap,
    /// More warp instructions than [`Options::max_instructions`](crate::Options::max_instructions).
    InstructionLimit(u64),
}

/// The registers of a CTA for a warp that waits for some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterPool {
    /// Registers that nobody has.
    pub free: u32,
    /// Registers that the warp wants besides those that it has.
    pub wanted: u32,
    /// Registers that each of its threads is to have.
    pub count: u32,
    /// Registers that each of its threads has.
    pub held: u32,
}

/// An mbarrier that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MbarrierState {
    /// Its address in shared memory.
    pub address: u32,
    /// The phase that is under way, from 0.
    pub phase: u32,
    /// Arrivals that the phase misses.
    pub arrivals: u32,
    /// Bytes that it misses; below zero, bytes that nobody expected yet.
    pub bytes: i64,
}

impl fmt::Display for MbarrierState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MbarrierState { address, phase, arrivals, bytes } = self;
        write!(f, "the mbarrier at {address:#x} is in phase {phase}, and misses {arrivals} arrivals and {bytes} bytes")
    }
}

/// How an mbarrier is misused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// None was made there.
    NotThere,
    /// One is made where one is.
    MadeTwice,
    /// Its memory is touched by an ordinary access.
    Touched,
    /// A bulk copy is to complete at it, and its maker has not fenced the making of it.
    Unfenced,
    /// An arrival more than a phase has.
    TooManyArrivals {
        /// Arrivals of a phase.
        count: u32,
        /// The phase.
        phase: u32,
    },
    /// All have arrived, and more bytes than were expected have landed.
    TooManyBytes {
        /// How many more.
        bytes: u64,
        /// The phase.
        phase: u32,
    },
    /// The phase is over by what was expected, and copies that belong to it are in flight.
    Unexpected {
        /// Their bytes.
        bytes: u64,
        /// The phase.
        phase: u32,
    },
    /// It cannot count so many bytes.
    OutOfRange {
        /// How many.
        bytes: i64,
    },
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misuse::NotThere => f.write_str("is used, and no mbarrier.init made it"),
            Misuse::MadeTwice => f.write_str("is made a second time: mbarrier.inval must come before"),
            Misuse::Touched => f.write_str("is touched by an ordinary access: only mbarrier instructions may"),
            Misuse::Unfenced => f.write_str(
                "is to count a bulk copy, and the warp that made it has made no fence.mbarrier_init since: the asynchronous proxy need \
                 not see it",
            ),
            Misuse::TooManyArrivals { count, phase } => {
                write!(f, "is arrived at once more in phase {phase}, which all of its {count} arrivals have made")
            }
            Misuse::TooManyBytes { bytes, phase } => {
                write!(f, "has {bytes} bytes more in phase {phase} than were expected, and nobody is left to expect them")
            }
            Misuse::Unexpected { bytes, phase } => {
                write!(f, "ends phase {phase} while {bytes} bytes of copies issued in it are still to come: too few were expected")
            }
            Misuse::OutOfRange { bytes } => write!(f, "cannot count {bytes} bytes"),
        }
    }
}

/// A barrier that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierState {
    /// Its number.
    pub barrier: u32,
    /// Threads that have arrived.
    pub arrived: u32,
    /// Threads that it waits for.
    pub expected: u32,
}

/// A place in the program, and who was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The CTA's index in the grid.
    pub cta: [u32; 3],
    /// The warp in the CTA.
    pub warp: u32,
    /// The lane in the warp; `None` when the warp as a whole is meant.
    pub lane: Option<u32>,
    /// Line of the PTX text, from 1; 0 when there is no text.
    pub line: usize,
    /// The instruction.
    pub text: String,
    /// The author's line, from the last `// from ..` comment.
    pub source: Option<String>,
    /// What the warp was doing here, for a deadlock.
    pub state: Option<String>,
}

/// A run was stopped.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Why.
    pub kind: FaultKind,
    /// The kernel.
    pub entry: String,
    /// Where: the access that faulted first, then the one that it clashes with; for a deadlock every warp.
    pub sites: Vec<Site>,
    /// What is wrong in terms of groups and stages, where that can be known.
    pub note: Option<String>,
}

impl std::error::Error for Fault {}

impl FaultKind {
    /// One word for the kind of fault, with which its report begins.
    pub fn title(&self) -> &'static str {
        match self {
            FaultKind::Launch(_) => "launch",
            FaultKind::OutOfBounds { .. } => "out of bounds",
            FaultKind::Misaligned { .. } => "misaligned",
            FaultKind::UnwrittenRegister { .. } | FaultKind::UnwrittenMemory { .. } => "uninitialised",
            FaultKind::RegisterInFlight { .. } => "missing wait",
            FaultKind::RegisterUnfenced { .. } => "missing fence",
            FaultKind::Warpgroup(_) => "warpgroup",
            FaultKind::Pending { .. } | FaultKind::SourceInFlight { .. } | FaultKind::BeingRead { .. } => {
                "missing wait"
            }
            FaultKind::Unfenced { .. } => "missing fence",
            FaultKind::Race { .. } | FaultKind::Constant { .. } => "race",
            FaultKind::Deadlock { .. } => "deadlock",
            FaultKind::Diverged { .. } => "divergence",
            FaultKind::Operand(_) => "operand",
            FaultKind::BarrierCount { .. } => "barrier",
            FaultKind::Mbarrier { .. } => "mbarrier",
            FaultKind::EndsInFlight { .. } => "missing wait",
            FaultKind::Trap => "trap",
            FaultKind::InstructionLimit(_) => "endless",
        }
    }

    fn describe(&self, sites: &[Site], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultKind::Launch(what) | FaultKind::Operand(what) | FaultKind::Warpgroup(what) => f.write_str(what),
            FaultKind::OutOfBounds { space, address, bytes, limit } => {
                write!(f, "{bytes} bytes of {space} memory at {address:#x} are ")?;
                match limit {
                    Some(limit) => write!(f, "not all in the {limit} bytes that the CTA has"),
                    None => f.write_str("not all in one allocation"),
                }
            }
            FaultKind::Misaligned { space, address, bytes } => {
                write!(f, "{bytes} bytes of {space} memory at {address:#x}, which is not a multiple of {bytes}")
            }
            FaultKind::UnwrittenRegister { register } => write!(f, "{register} is read and was never written"),
            FaultKind::UnwrittenMemory { space, address } => {
                write!(f, "{space} memory at {address:#x} is read and was never written")
            }
            FaultKind::Pending { address } => write!(
                f,
                "shared memory at {address:#x} is touched while an asynchronous copy to it is in flight: the thread that issued \
                 it has not waited for its group"
            ),
            FaultKind::SourceInFlight { address } => write!(
                f,
                "global memory at {address:#x} is written while an asynchronous copy from it is in flight: the thread that issued it \
                 has not waited for its group"
            ),
            FaultKind::Unfenced { address } => write!(
                f,
                "shared memory at {address:#x} was written through the generic proxy and is touched through the asynchronous one: its \
                 writer must execute fence.proxy.async after the write, before the barrier that orders the two"
            ),
            FaultKind::BeingRead { address } => write!(
                f,
                "shared memory at {address:#x} is written while an asynchronous read of it is under way for all that this warp knows: \
                 who issued it must wait for its group, and then a barrier or an mbarrier must say so to the writer"
            ),
            FaultKind::Constant { address } => write!(
                f,
                "global memory at {address:#x} is read through the non-coherent cache after this launch has written it"
            ),
            FaultKind::Race { space, address, first_writes, second_writes } => {
                let verb = |writes: &bool| if *writes { "written" } else { "read" };
                let apart = sites.len() > 1 && sites[0].cta != sites[1].cta;
                let who = |site: Option<&Site>| match site {
                    Some(site) if apart => {
                        let [x, y, z] = site.cta;
                        format!(" by CTA {x},{y},{z}")
                    }
                    Some(site) => format!(" by warp {}", site.warp),
                    None => String::new(),
                };
                let within = sites.len() > 1 && !apart && sites[0].warp == sites[1].warp;
                let (second, first) = (verb(second_writes), verb(first_writes));
                if within {
                    return write!(
                        f,
                        "{space} memory at {address:#x} is {second} by one lane of warp {} after it was {first} by another, and no \
                         bar.warp.sync or barrier orders them",
                        sites[0].warp
                    );
                }
                let orders = if apart {
                    "nothing orders CTAs of a launch but membar.gl around atomics at one address"
                } else {
                    "no barrier orders them"
                };
                write!(
                    f,
                    "{space} memory at {address:#x} is {second}{} after it was {first}{}, and {orders}",
                    who(sites.first()),
                    who(sites.get(1))
                )
            }
            FaultKind::EndsInFlight { writes: false } => f.write_str(
                "the thread ends, and a bulk copy that it has issued may still read shared memory: cp.async.bulk.wait_group.read must \
                 come before",
            ),
            FaultKind::EndsInFlight { writes: true } => f.write_str(
                "the CTA ends, and a bulk copy to its shared memory is in flight: somebody must wait for its mbarrier before",
            ),
            FaultKind::Mbarrier { address, what } => write!(f, "the mbarrier at {address:#x} {what}"),
            FaultKind::Deadlock { barriers, registers, mbarriers } => {
                f.write_str("no warp of the CTA can go on")?;
                for BarrierState { barrier, arrived, expected } in barriers {
                    write!(f, "; barrier {barrier} has {arrived} of {expected} threads")?;
                }
                if let Some(RegisterPool { free, wanted, count, held }) = registers {
                    write!(
                        f,
                        "; setmaxnreg wants {count} registers a thread where a warp has {held}, which are {wanted} more, and the pool of the \
                         CTA has {free}"
                    )?;
                }
                mbarriers.iter().try_for_each(|state| write!(f, "; {state}"))
            }
            FaultKind::RegisterInFlight { register } => {
                write!(f, "{register} is touched while a wgmma that was not waited for uses it")
            }
            FaultKind::RegisterUnfenced { register: Some(register) } => write!(
                f,
                "a wgmma uses {register}, which was touched since the last wgmma.fence: one must stand between the two"
            ),
            FaultKind::RegisterUnfenced { register: None } => {
                f.write_str("a wgmma.fence must stand before the first wgmma")
            }
            FaultKind::Diverged { here, wanted } => write!(
                f,
                "an instruction for the whole warp is reached by lanes {here:#010x} of {wanted:#010x}: the others took another path"
            ),
            FaultKind::BarrierCount { barrier, before, now } => {
                write!(f, "barrier {barrier} is for {before} threads by those who came first, and for {now} here")
            }
            FaultKind::Trap => f.write_str("the kernel gave up"),
            FaultKind::InstructionLimit(limit) => write!(f, "more than {limit} warp instructions"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.kind.title())?;
        self.kind.describe(&self.sites, f)?;
        let width = self.sites.iter().map(|site| site.text.len()).max().unwrap_or(0).min(80);
        let mut source = None;
        for (i, site) in self.sites.iter().enumerate() {
            let arrow = if i == 0 { "-->" } else { "   " };
            write!(f, "\n  {arrow} {}.ptx:{}   {:width$}   {site}", self.entry, site.line, site.text)?;
            if site.source.is_some() && site.source != source {
                source.clone_from(&site.source);
                write!(f, "\n      from {}", source.as_deref().unwrap_or_default())?;
            }
        }
        if let Some(note) = &self.note {
            write!(f, "\n  {note}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.cta;
        write!(f, "CTA {x},{y},{z} warp {}", self.warp)?;
        if let Some(lane) = self.lane {
            write!(f, " lane {lane}")?;
        }
        if let Some(state) = &self.state {
            write!(f, ", {state}")?;
        }
        Ok(())
    }
}

/// The other party to a fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Other {
    /// Its CTA's number in the grid, where it may be another.
    pub(crate) cta: Option<u32>,
    pub(crate) earlier: crate::shared::Earlier,
}

/// A fault as the interpreter raises it, before places have names.
#[derive(Debug)]
pub(crate) struct Trap {
    pub(crate) kind: FaultKind,
    /// The lane at fault, if one is.
    pub(crate) lane: Option<u32>,
    /// Where, when it is not the current instruction.
    pub(crate) pc: Option<u32>,
    pub(crate) other: Option<Other>,
}

impl Trap {
    pub(crate) fn new(kind: FaultKind, lane: Option<u32>) -> Box<Trap> {
        Box::new(Trap { kind, lane, pc: None, other: None })
    }
}
