//! `setmaxnreg`: the registers of a CTA as a pool that its warps give to and take from (PTX ISA 9.7.19.5).
//!
//! At its beginning every warp has the registers that the kernel's limits leave a thread, and the pool is empty. A warp that
//! ends gives nothing back. What a warp really uses is ptxas's to know: PTX has no bound on registers, so a warp that keeps
//! more values than it has left is not found here, and ptxas refuses it or spills. Where the limits do not fix the registers at
//! entry (neither `.maxnreg` nor `.minnctapersm` beside `.maxntid` or `.reqntid`), ptxas ignores `setmaxnreg`, and so does the
//! emulator.

use crate::fault::{FaultKind, RegisterPool, Trap};
use crate::wgmma::WARPS;

/// Registers of a multiprocessor.
const REGISTERS: u32 = 1 << 16;

/// Registers of a thread when a kernel begins, where its limits fix them: as many as fit, and no more than the most that it ever
/// asks for.
pub(crate) fn at_entry(limits: &lacuna_ptx::Limits, threads: u32, most: u32) -> Option<u32> {
    // ptxas rounds down to eight.
    let fitting = |ctas: u32| {
        let threads = threads.next_multiple_of(32).saturating_mul(ctas.max(1)).max(1);
        (REGISTERS / threads / 8 * 8).min(most)
    };
    let bounded = limits.max_threads.is_some() || limits.required_threads.is_some();
    limits.max_regs.map(|count| count.next_multiple_of(8)).or_else(|| limits.min_ctas.filter(|_| bounded).map(fitting))
}

/// One `setmaxnreg` that some warps of a warpgroup have executed.
#[derive(Clone, Copy, Debug)]
struct Step {
    pc: u32,
    count: u32,
    warp: usize,
}

/// The registers of a CTA.
#[derive(Debug)]
pub(crate) struct Pool {
    entry: Option<u32>,
    /// Registers of a thread, by warp.
    held: Vec<u32>,
    /// Registers that nobody has.
    free: u32,
    /// By warpgroup, what it did in order; and how many of these each warp has done.
    steps: Vec<Vec<Step>>,
    done: Vec<usize>,
}

impl Pool {
    pub(crate) fn new(entry: Option<u32>, warps: usize) -> Pool {
        let mut pool = Pool {
            entry,
            held: vec![0; warps],
            free: 0,
            steps: vec![Vec::new(); warps.div_ceil(WARPS)],
            done: vec![0; warps],
        };
        pool.clear();
        pool
    }

    pub(crate) fn clear(&mut self) {
        self.held.fill(self.entry.unwrap_or(0));
        self.free = 0;
        self.steps.iter_mut().for_each(Vec::clear);
        self.done.fill(0);
    }

    /// The pool for a warp that wants this many registers a thread.
    pub(crate) fn state(&self, warp: usize, count: u32) -> RegisterPool {
        RegisterPool { free: self.free, wanted: (count - self.held[warp]) * 32, count, held: self.held[warp] }
    }

    /// `setmaxnreg` of a warp. Whether it must wait until the pool has what it wants.
    pub(crate) fn set(&mut self, warp: usize, pc: u32, count: u32, takes: bool) -> Result<bool, Box<Trap>> {
        self.agree(warp, pc, count)?;
        if self.entry.is_none() {
            return Ok(false);
        }
        let held = self.held[warp];
        if takes && count < held || !takes && count > held {
            let (way, other) = if takes { ("inc", "fewer") } else { ("dec", "more") };
            let what = format!(
                "setmaxnreg.{way} to {count} registers, and the warp has {held}: it would leave it with {other}"
            );
            return Err(Trap::new(FaultKind::Operand(what), None));
        }
        if takes {
            return Ok(!self.take(warp, count));
        }
        self.free += (held - count) * 32;
        self.held[warp] = count;
        Ok(false)
    }

    /// All warps of a warpgroup execute the same `setmaxnreg`.
    fn agree(&mut self, warp: usize, pc: u32, count: u32) -> Result<(), Box<Trap>> {
        let steps = &mut self.steps[warp / WARPS];
        let number = self.done[warp];
        self.done[warp] += 1;
        match steps.get(number) {
            None => steps.push(Step { pc, count, warp }),
            Some(step) if step.count != count => {
                let what = format!(
                    "the warps of a warpgroup must execute the same setmaxnreg: warp {warp} wants {count} registers, and warp {} {}",
                    step.warp, step.count
                );
                return Err(crate::wgmma::clash(FaultKind::Warpgroup(what), step.warp, step.pc));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Gives a warp what it wants, if the pool has it.
    pub(crate) fn take(&mut self, warp: usize, count: u32) -> bool {
        let wanted = (count - self.held[warp]) * 32;
        let has = wanted <= self.free;
        if has {
            self.free -= wanted;
            self.held[warp] = count;
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use lacuna_ptx::Limits;

    use super::*;

    fn limits(threads: u32, ctas: Option<u32>) -> Limits {
        Limits { max_threads: Some([threads, 1, 1]), min_ctas: ctas, ..Limits::default() }
    }

    #[test]
    fn registers_at_entry_are_what_ptxas_says() {
        let entry = |threads, ctas| at_entry(&limits(threads, ctas), threads, 240);
        assert_eq!((entry(384, Some(1)), entry(512, Some(1)), entry(256, Some(2))), (Some(168), Some(128), Some(128)));
        assert_eq!(entry(256, Some(1)), Some(240));
        assert_eq!(entry(384, None), None);
        assert_eq!(at_entry(&Limits { max_regs: Some(168), ..Limits::default() }, 384, 240), Some(168));
    }

    #[test]
    fn what_one_warpgroup_gives_the_others_take() {
        let mut pool = Pool::new(Some(168), 12);
        // Two warpgroups of consumers want 240 before the producer has given anything.
        assert!((4..12).all(|warp| pool.set(warp, 9, 240, true).unwrap()));
        for warp in 0..4 {
            assert!(!pool.set(warp, 5, 24, false).unwrap());
        }
        assert!((4..12).all(|warp| pool.take(warp, 240)));
        assert_eq!(pool.free, 0);
        assert!(!pool.take(0, 32));
        assert_eq!(pool.state(0, 32), RegisterPool { free: 0, wanted: 256, count: 32, held: 24 });
    }

    #[test]
    fn a_warpgroup_agrees() {
        let mut pool = Pool::new(Some(168), 4);
        pool.set(0, 5, 24, false).unwrap();
        assert!(pool.set(1, 6, 32, false).is_err());
        assert!(Pool::new(Some(168), 4).set(0, 5, 176, false).is_err());
        assert!(!Pool::new(None, 4).set(0, 5, 240, true).unwrap());
    }
}
