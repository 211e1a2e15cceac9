//! A warp: its registers, its lanes' paths, its asynchronous copies.

use crate::decode::{File, Kernel, Slot};
use crate::flow::NOWHERE;
use crate::wgmma::Flight;

/// One 32-bit register of a warp.
pub(crate) type Words = [u32; 32];
/// One 64-bit register of a warp.
pub(crate) type Doubles = [u64; 32];

/// Every lane.
pub(crate) const ALL: u32 = u32::MAX;

/// The register files of a warp, with the kernel's constants behind them.
#[derive(Debug)]
pub(crate) struct Registers<'k> {
    words: Vec<Words>,
    doubles: Vec<Doubles>,
    /// One bit a lane.
    preds: Vec<u32>,
    word_constants: &'k [Words],
    double_constants: &'k [Doubles],
    /// For tracked registers, the lanes that have written them.
    written_words: Vec<u32>,
    written_doubles: Vec<u32>,
    written_preds: Vec<u32>,
}

impl<'k> Registers<'k> {
    pub(crate) fn new(kernel: &'k Kernel) -> Self {
        let mut preds = vec![0; kernel.preds + 2];
        preds[kernel.preds + 1] = ALL;
        Registers {
            words: vec![[0; 32]; kernel.words],
            doubles: vec![[0; 32]; kernel.doubles],
            preds,
            word_constants: &kernel.word_constants,
            double_constants: &kernel.double_constants,
            written_words: vec![0; kernel.words],
            written_doubles: vec![0; kernel.doubles],
            written_preds: vec![0; kernel.preds],
        }
    }

    /// Nothing is written any more.
    pub(crate) fn clear(&mut self) {
        self.written_words.fill(0);
        self.written_doubles.fill(0);
        self.written_preds.fill(0);
    }

    #[inline(always)]
    pub(crate) fn word(&self, slot: Slot) -> &Words {
        let slot = usize::from(slot);
        match self.words.get(slot) {
            Some(register) => register,
            None => &self.word_constants[slot - self.words.len()],
        }
    }

    #[inline(always)]
    pub(crate) fn double(&self, slot: Slot) -> &Doubles {
        let slot = usize::from(slot);
        match self.doubles.get(slot) {
            Some(register) => register,
            None => &self.double_constants[slot - self.doubles.len()],
        }
    }

    #[inline(always)]
    pub(crate) fn pred(&self, slot: Slot) -> u32 {
        self.preds[usize::from(slot)]
    }

    #[inline(always)]
    pub(crate) fn set_word(&mut self, slot: Slot, value: &Words, mask: u32) {
        let register = &mut self.words[usize::from(slot)];
        if mask == ALL {
            *register = *value;
        } else {
            for lane in 0..32 {
                register[lane] = if mask >> lane & 1 != 0 { value[lane] } else { register[lane] };
            }
        }
    }

    #[inline(always)]
    pub(crate) fn set_double(&mut self, slot: Slot, value: &Doubles, mask: u32) {
        let register = &mut self.doubles[usize::from(slot)];
        if mask == ALL {
            *register = *value;
        } else {
            for lane in 0..32 {
                register[lane] = if mask >> lane & 1 != 0 { value[lane] } else { register[lane] };
            }
        }
    }

    #[inline(always)]
    pub(crate) fn set_pred(&mut self, slot: Slot, value: u32, mask: u32) {
        let register = &mut self.preds[usize::from(slot)];
        *register = *register & !mask | value & mask;
    }

    /// One lane of a word register.
    #[inline(always)]
    pub(crate) fn word_mut(&mut self, slot: Slot) -> &mut Words {
        &mut self.words[usize::from(slot)]
    }

    /// The lanes that have written a tracked register.
    pub(crate) fn written(&mut self, file: File, slot: Slot) -> &mut u32 {
        match file {
            File::Word => &mut self.written_words[usize::from(slot)],
            File::Double => &mut self.written_doubles[usize::from(slot)],
            File::Pred => &mut self.written_preds[usize::from(slot)],
        }
    }
}

/// Lanes that wait for others, or for their turn.
#[derive(Clone, Copy, Debug)]
struct Frame {
    lanes: u32,
    pc: u32,
    meets: u32,
}

/// The paths of a warp's lanes.
///
/// Lanes run together until a branch parts them. One part runs until it reaches the meeting point of that branch (its
/// immediate post-dominator), then the other, then both go on from there. This is where ptxas makes them meet too.
#[derive(Debug)]
pub(crate) struct Paths {
    /// Lanes that have not ended.
    pub(crate) live: u32,
    /// Lanes that run now.
    pub(crate) lanes: u32,
    pub(crate) pc: u32,
    /// Where these lanes stop to meet others.
    meets: u32,
    waiting: Vec<Frame>,
}

impl Paths {
    pub(crate) fn new(lanes: u32) -> Paths {
        Paths { live: lanes, lanes, pc: 0, meets: NOWHERE, waiting: Vec::new() }
    }

    /// At an instruction where lanes may meet: if these wait for others here, the others run first.
    #[inline(always)]
    pub(crate) fn meet(&mut self) {
        while self.pc == self.meets {
            self.resume();
        }
    }

    /// A branch: `taken` of the running lanes go to `target`, the others to the next instruction; they meet at `meets`.
    pub(crate) fn branch(&mut self, taken: u32, target: u32, meets: u32) {
        let next = self.pc + 1;
        let rest = self.lanes & !taken;
        if rest == 0 {
            self.pc = target;
            return;
        }
        if taken == 0 {
            self.pc = next;
            return;
        }
        // Where nothing is known, they meet where these lanes meet the others.
        let meets = if meets == NOWHERE { self.meets } else { meets };
        if meets != self.meets {
            self.waiting.push(Frame { lanes: self.lanes, pc: meets, meets: self.meets });
        }
        let parts = [Frame { lanes: taken, pc: target, meets }, Frame { lanes: rest, pc: next, meets }];
        let mut runs = parts.into_iter().filter(|part| part.pc != meets);
        // Both parts cannot stand at the meeting point: a branch to the next instruction parts nobody.
        let first = runs.next().unwrap_or(parts[0]);
        if let Some(second) = runs.next() {
            self.waiting.push(second);
        }
        (self.lanes, self.pc, self.meets) = (first.lanes, first.pc, first.meets);
    }

    /// The running lanes among `lanes` end. Whether others are left.
    pub(crate) fn end(&mut self, lanes: u32) -> bool {
        self.live &= !lanes;
        self.lanes &= !lanes;
        if self.lanes == 0 {
            self.resume();
        }
        self.lanes != 0
    }

    /// The next frame that still has lanes runs.
    fn resume(&mut self) {
        self.lanes = 0;
        while self.lanes == 0 {
            let Some(frame) = self.waiting.pop() else {
                self.meets = NOWHERE;
                return;
            };
            (self.lanes, self.pc, self.meets) = (frame.lanes & self.live, frame.pc, frame.meets);
        }
    }

    #[cfg(test)]
    /// Where every lane stands that has not ended: lanes and instruction, the running ones first.
    pub(crate) fn places(&self) -> Vec<(u32, u32)> {
        let waiting = self.waiting.iter().rev().map(|frame| (frame.lanes & self.live, frame.pc));
        let mut seen = 0;
        let mut places = Vec::new();
        for (lanes, pc) in std::iter::once((self.lanes, self.pc)).chain(waiting) {
            if lanes & !seen != 0 {
                places.push((lanes & !seen, pc));
            }
            seen |= lanes;
        }
        places
    }
}

/// One `cp.async` of a warp in flight.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    /// Lanes whose copy has not landed.
    pub(crate) lanes: u32,
    /// The group that it is in: how many these lanes had committed when they issued it.
    pub(crate) group: u32,
    /// Bytes written.
    pub(crate) size: u32,
    pub(crate) shared: Words,
    pub(crate) global: Doubles,
    /// Bytes read; the rest is zero.
    pub(crate) source: Words,
    pub(crate) pc: u32,
    /// How many its warp had issued before it.
    pub(crate) serial: u64,
}

/// The asynchronous copies of a warp.
#[derive(Debug)]
pub(crate) struct Copies {
    pub(crate) flying: Vec<Copy>,
    /// Groups that each lane has committed.
    pub(crate) committed: Words,
    /// The last `cp.async.wait_group` and how many groups it let pass.
    pub(crate) waited: Option<(u32, u32)>,
    /// Copies that have landed, for their room.
    pub(crate) spare: Vec<Copy>,
    /// Copies that the warp has issued.
    pub(crate) issued: u64,
}

impl Copies {
    pub(crate) fn new() -> Copies {
        Copies { flying: Vec::new(), committed: [0; 32], waited: None, spare: Vec::new(), issued: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.spare.append(&mut self.flying);
        self.committed = [0; 32];
        self.waited = None;
    }
}

/// What a warp waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ready,
    /// A named barrier.
    Barrier(u32),
    /// The `wgmma`s of its groups before this one.
    Products(u32),
    /// The barrier of the cluster.
    Cluster,
    /// `setmaxnreg.inc` to this many registers.
    Registers(u32),
    /// The last phase of this parity of an mbarrier.
    Mbarrier {
        address: u32,
        parity: u32,
    },
    Ended,
}

impl Status {
    /// The mbarrier that is waited for.
    pub(crate) const fn mbarrier(self) -> Option<u32> {
        match self {
            Status::Mbarrier { address, .. } => Some(address),
            _ => None,
        }
    }
}

/// A warp of a CTA.
#[derive(Debug)]
pub(crate) struct Warp<'k> {
    pub(crate) registers: Registers<'k>,
    pub(crate) paths: Paths,
    pub(crate) copies: Copies,
    pub(crate) tensor: Flight,
    pub(crate) status: Status,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_part_and_meet() {
        let mut paths = Paths::new(0xff);
        paths.pc = 3;
        // To 10 or on to 4, meeting at 10: those who go on run first.
        paths.branch(0x0f, 10, 10);
        assert_eq!((paths.lanes, paths.pc), (0xf0, 4));
        // Inside, again, with a meeting point of its own.
        paths.branch(0x30, 8, 9);
        assert_eq!((paths.lanes, paths.pc), (0x30, 8));
        assert_eq!(paths.places(), [(0x30, 8), (0xc0, 5), (0x0f, 10)]);
        paths.pc = 9;
        paths.meet();
        assert_eq!((paths.lanes, paths.pc), (0xc0, 5));
        // One of these ends before it gets there.
        assert!(paths.end(0x40));
        paths.pc = 9;
        paths.meet();
        assert_eq!((paths.lanes, paths.pc), (0xb0, 9));
        paths.pc = 10;
        paths.meet();
        assert_eq!((paths.lanes, paths.pc, paths.live), (0xbf, 10, 0xbf));
        assert!(!paths.end(0xbf));
    }

    #[test]
    fn a_loop_with_different_trip_counts_needs_no_more_room_each_time() {
        let mut paths = Paths::new(ALL);
        for trip in 1..32 {
            paths.pc = 7;
            paths.branch(ALL << trip, 4, 8);
            assert_eq!((paths.lanes, paths.pc), (ALL << trip, 4));
        }
        assert_eq!(paths.waiting.len(), 1);
        paths.pc = 8;
        paths.meet();
        assert_eq!((paths.lanes, paths.pc), (ALL, 8));
    }
}
