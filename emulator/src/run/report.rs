//! What a run has found wrong, told in places of the text: where, who was there before, and what is wrong in terms of groups,
//! stages and phases, where that can be known.

use super::Grid;
use crate::bulk;
use crate::cta::Cta;
use crate::fault::{Fault, FaultKind, Misuse, Site, Space, Trap};
use crate::memory::View;
use crate::micro::Micro;
use crate::warp::Status;

impl Grid<'_> {
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

    pub(super) fn fault(&self, cta: &Cta<'_>, warp: usize, trap: Trap) -> Box<Fault> {
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

    /// Where every warp of a cluster stands that has not ended.
    pub(super) fn deadlock(&self, ctas: &[Cta<'_>]) -> Box<Fault> {
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
    pub(super) fn left(&self, cta: &mut Cta<'_>, view: &mut View<'_>) -> Result<(), Box<Fault>> {
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
