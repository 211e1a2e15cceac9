//! What is known about a kernel's control flow before it runs: where divergent lanes meet again, and which registers
//! are certainly written before they are read.

use std::collections::VecDeque;

/// What an instruction does to control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Goes on to the next instruction (all of them, or the lanes that a guard keeps from leaving).
    Next,
    /// Every lane goes to another instruction.
    Jump(u32),
    /// Some lanes may go to another instruction.
    Branch(u32),
    /// Every lane ends.
    End,
}

/// No instruction.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// Basic blocks over a list of instructions.
struct Blocks {
    first: Vec<u32>,
    of: Vec<u32>,
    next: Vec<Vec<u32>>,
    before: Vec<Vec<u32>>,
}

impl Blocks {
    fn new(steps: &[Step]) -> Blocks {
        let mut leads = vec![false; steps.len()];
        for (pc, step) in steps.iter().enumerate() {
            leads[pc] |= pc == 0;
            if let Step::Jump(to) | Step::Branch(to) = *step {
                leads[to as usize] = true;
            }
            if *step != Step::Next && pc + 1 < steps.len() {
                leads[pc + 1] = true;
            }
        }
        let first: Vec<u32> = (0..steps.len() as u32).filter(|pc| leads[*pc as usize]).collect();
        let mut of = vec![0; steps.len()];
        for (pc, block) in of.iter_mut().enumerate() {
            *block = first.partition_point(|first| *first as usize <= pc) as u32 - 1;
        }
        let mut blocks =
            Blocks { next: vec![Vec::new(); first.len()], before: vec![Vec::new(); first.len()], first, of };
        for block in 0..blocks.first.len() {
            let last = blocks.last(block, steps.len());
            let mut to = Vec::new();
            match steps[last] {
                Step::Next => to.push(last as u32 + 1),
                Step::Jump(target) => to.push(target),
                Step::Branch(target) => to.extend([target, last as u32 + 1]),
                Step::End => {}
            }
            for pc in to {
                let successor = blocks.of[pc as usize];
                if !blocks.next[block].contains(&successor) {
                    blocks.next[block].push(successor);
                    blocks.before[successor as usize].push(block as u32);
                }
            }
        }
        blocks
    }

    fn last(&self, block: usize, len: usize) -> usize {
        self.first.get(block + 1).map_or(len, |next| *next as usize) - 1
    }
}

/// For every instruction that may branch, where the lanes that part there meet again: the first instruction of the
/// block that every path from here to the end goes through first.
///
/// Paths that end early say nothing about where the others meet, since lanes that have ended wait for nobody. So the
/// end is the `ret` that most of the code leads to; code that cannot reach it is taken by itself, in the same way.
pub(crate) fn meeting_points(steps: &[Step]) -> Vec<u32> {
    let blocks = Blocks::new(steps);
    let count = blocks.first.len();
    let mut meets = vec![NOWHERE; count];
    let mut left = vec![true; count];
    let ends: Vec<usize> = (0..count).filter(|block| steps[blocks.last(*block, steps.len())] == Step::End).collect();
    let size = |order: &Vec<usize>| -> usize {
        order.iter().map(|block| blocks.last(*block, steps.len()) + 1 - blocks.first[*block] as usize).sum()
    };
    loop {
        let orders = ends.iter().filter(|end| left[**end]).map(|end| backwards(&blocks, *end, &left));
        let Some(order) = orders.max_by_key(size) else { break };
        let mut place = vec![usize::MAX; count];
        for (i, block) in order.iter().enumerate() {
            place[*block] = i;
        }
        // Cooper, Harvey and Kennedy: a simple, fast dominance algorithm, on the reversed graph.
        let mut above = vec![usize::MAX; order.len()];
        above[0] = 0;
        let mut changed = true;
        while changed {
            changed = false;
            for i in 1..order.len() {
                let mut meet = usize::MAX;
                for &next in &blocks.next[order[i]] {
                    let mut other = place[next as usize];
                    if other == usize::MAX || above[other] == usize::MAX {
                        continue;
                    }
                    while meet != usize::MAX && meet != other {
                        while meet > other {
                            meet = above[meet];
                        }
                        while other > meet {
                            other = above[other];
                        }
                    }
                    meet = other;
                }
                if above[i] != meet {
                    above[i] = meet;
                    changed = true;
                }
            }
        }
        for (i, &block) in order.iter().enumerate() {
            left[block] = false;
            if i > 0 && above[i] != usize::MAX {
                meets[block] = blocks.first[order[above[i]]];
            }
        }
    }
    let at =
        |(pc, step): (usize, &Step)| if let Step::Branch(_) = step { meets[blocks.of[pc] as usize] } else { NOWHERE };
    steps.iter().enumerate().map(at).collect()
}

/// The blocks that lead to one, from it backwards in reverse postorder.
fn backwards(blocks: &Blocks, end: usize, left: &[bool]) -> Vec<usize> {
    let mut order = Vec::new();
    let mut entered = vec![false; left.len()];
    let mut stack = vec![(end, 0)];
    entered[end] = true;
    while let Some((block, tried)) = stack.pop() {
        match blocks.before[block].get(tried) {
            Some(&before) => {
                stack.push((block, tried + 1));
                if left[before as usize] && !std::mem::replace(&mut entered[before as usize], true) {
                    stack.push((before as usize, 0));
                }
            }
            None => order.push(block),
        }
    }
    order.reverse();
    order
}

/// A set of small numbers.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Set(Vec<u64>);

impl Set {
    pub(crate) fn empty(size: usize) -> Set {
        Set(vec![0; size.div_ceil(64)])
    }

    fn full(size: usize) -> Set {
        Set(vec![u64::MAX; size.div_ceil(64)])
    }

    pub(crate) fn insert(&mut self, item: u32) {
        self.0[item as usize / 64] |= 1 << (item % 64);
    }

    pub(crate) fn contains(&self, item: u32) -> bool {
        self.0[item as usize / 64] >> (item % 64) & 1 != 0
    }

    fn intersect(&mut self, other: &Set) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a &= b;
        }
    }
}

/// Registers touched by an instruction, by number.
pub(crate) struct Touched {
    pub(crate) reads: Vec<u32>,
    /// Written for certain: no guard.
    pub(crate) writes: Vec<u32>,
}

/// For every instruction, whether some register that it reads may not have been written on some path. Every lane takes
/// its own path, so what holds for paths holds for lanes.
pub(crate) fn unproven_reads(steps: &[Step], touched: &[Touched], registers: usize) -> Vec<Vec<u32>> {
    let blocks = Blocks::new(steps);
    let count = blocks.first.len();
    let range = |block: usize| blocks.first[block] as usize..blocks.last(block, steps.len()) + 1;
    let mut known = vec![Set::full(registers); count];
    known[0] = Set::empty(registers);
    let mut queue: VecDeque<usize> = (0..count).collect();
    while let Some(block) = queue.pop_front() {
        let mut set = known[block].clone();
        touched[range(block)].iter().flat_map(|touched| &touched.writes).for_each(|register| set.insert(*register));
        for &next in &blocks.next[block] {
            let next = next as usize;
            let mut narrowed = known[next].clone();
            narrowed.intersect(&set);
            if narrowed != known[next] {
                known[next] = narrowed;
                queue.push_back(next);
            }
        }
    }
    let mut unproven = vec![Vec::new(); steps.len()];
    for (block, mut set) in known.into_iter().enumerate() {
        for pc in range(block) {
            unproven[pc] = touched[pc].reads.iter().copied().filter(|register| !set.contains(*register)).collect();
            touched[pc].writes.iter().for_each(|register| set.insert(*register));
        }
    }
    unproven
}

#[cfg(test)]
mod tests {
    use super::Step::*;
    use super::*;

    #[test]
    fn an_if_meets_after_it_and_a_loop_at_its_exit() {
        // 0: if -> 3;  1, 2: then;  3: join;  4: loop head;  5: back to 4;  6: end
        let steps = [Branch(3), Next, Next, Next, Next, Branch(4), End];
        let meets = meeting_points(&steps);
        assert_eq!((meets[0], meets[5]), (3, 6));
    }

    #[test]
    fn an_early_end_does_not_stop_the_others_from_meeting() {
        // 0: loop head, to 5 on error;  1;  2: back to 0;  3, 4: end;  5: error, end at the end of the text
        assert_eq!(meeting_points(&[Branch(5), Next, Branch(0), Next, End, End])[2], 3);
        // The same with the error first in the text.
        assert_eq!(meeting_points(&[Jump(2), End, Branch(1), Next, Branch(2), Next, End])[4], 5);
    }

    #[test]
    fn code_behind_a_backward_jump_meets_at_the_lower_address() {
        // 0: to 3;  1: join;  2: end;  3: branch to 5;  4: to 1;  5: to 1
        let steps = [Jump(3), Next, End, Branch(5), Jump(1), Jump(1)];
        assert_eq!(meeting_points(&steps)[3], 1);
    }

    #[test]
    fn a_write_on_one_side_proves_nothing() {
        let steps = [Branch(2), Next, Next, End];
        let none = || Touched { reads: vec![], writes: vec![] };
        let one_side =
            [none(), Touched { reads: vec![], writes: vec![0] }, Touched { reads: vec![0], writes: vec![0] }, none()];
        assert_eq!(unproven_reads(&steps, &one_side, 1), [vec![], vec![], vec![0], vec![]]);
    }
}
