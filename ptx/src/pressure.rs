//! How many registers of a thread are live at once, where the text is run as it stands.

use std::collections::HashMap;

use crate::{Class, Entry, Inst, Operand, Reg, Special, Stmt};

/// A statement, as far as registers live through it. Registers are numbered, classes one behind the other.
enum Step<'a> {
    Label(&'a str),
    /// Written for every thread, read, and what it takes beside while it runs.
    Inst(Vec<u32>, Vec<u32>, u32),
    /// The label, the registers read, and whether some threads may go on.
    Jump(&'a str, Vec<u32>, bool),
}

/// Sets of registers, and what each takes in registers of 32 bits.
struct Walk {
    takes: Vec<u32>,
    live: Vec<u64>,
    now: u32,
    most: u32,
}

impl Entry {
    /// The most 32-bit registers that are live at once. Predicates count for nothing, as they have registers of their own;
    /// nor do values that an instruction can take without one: parameters, immediates, symbols, the numbers of the CTA.
    ///
    /// An assembler moves instructions, shares and repeats them, and keeps vectors together: what it takes is near this, as
    /// a rule some twenty more where there is room.
    pub fn pressure(&self) -> u32 {
        let mut first = [0; Class::COUNT];
        let mut takes = Vec::new();
        for class in Class::ALL {
            first[class.index()] = takes.len() as u32;
            let each = match class {
                Class::Pred => 0,
                Class::B16 | Class::B32 | Class::F32 => 1,
                Class::B64 => 2,
            };
            takes.resize(takes.len() + self.regs[class.index()] as usize, each);
        }
        let number = |reg: Reg| first[reg.class.index()] + reg.index;
        let steps = steps(&self.body, &number);
        for free in free(&self.body, &number, takes.len()) {
            takes[free] = 0;
        }
        let mut walk = Walk { live: vec![0; takes.len().div_ceil(64)], takes, now: 0, most: 0 };
        // A loop's head is met after the jump back to it: again, until no label is reached by more than before.
        let mut at_label: HashMap<&str, Vec<u64>> = HashMap::new();
        while walk.backwards(&steps, &mut at_label) {}
        walk.most
    }
}

fn steps<'a>(body: &'a [Stmt], number: &impl Fn(Reg) -> u32) -> Vec<Step<'a>> {
    let step = |stmt: &'a Stmt| match stmt {
        Stmt::Label(name) => Some(Step::Label(name)),
        Stmt::Inst(inst) => {
            let reads = inst.reads().map(number).collect();
            Some(match inst.operands.as_slice() {
                [Operand::Label(to)] => Step::Jump(to, reads, inst.guard.is_some()),
                // Under a guard, threads may keep what was there.
                _ if inst.guard.is_some() => Step::Inst(Vec::new(), reads, beside(inst)),
                _ => Step::Inst(inst.writes().map(number).collect(), reads, beside(inst)),
            })
        }
        Stmt::Comment(_) | Stmt::Pragma(_) => None,
    };
    body.iter().filter_map(step).collect()
}

/// Registers that an instruction takes while it runs: no GPU divides integers, and what stands for a quotient works in about
/// six. A remainder's are not counted: ptxas (13.0) finds room for them where it finds none for a quotient's.
fn beside(inst: &Inst) -> u32 {
    let name = inst.form.name();
    let known = matches!(inst.operands.get(2), Some(Operand::Int(_)));
    if !known && ["div.s32", "div.u32"].contains(&name) { 6 } else { 0 }
}

/// Registers that only ever hold what needs none.
fn free(body: &[Stmt], number: &impl Fn(Reg) -> u32, count: usize) -> Vec<usize> {
    let mut writes = vec![0u8; count];
    let mut free = Vec::new();
    for stmt in body {
        let Stmt::Inst(inst) = stmt else { continue };
        let needs_none = needs_none(inst);
        for reg in inst.writes() {
            let at = number(reg) as usize;
            writes[at] = writes[at].saturating_add(1);
            if needs_none {
                free.push(at);
            }
        }
    }
    free.retain(|&at| writes[at] == 1);
    free
}

/// Whether what it makes can be named where it is used.
fn needs_none(inst: &Inst) -> bool {
    let name = inst.form.name();
    let source = inst.operands.get(1);
    let named = matches!(
        source,
        Some(Operand::Int(_) | Operand::Float(_) | Operand::Symbol(_) | Operand::Special(Special::Ctaid(_)))
    );
    name.starts_with("ld.param") || name.starts_with("mov.") && named
}

impl Walk {
    /// One walk from the end to the start: whether a label was reached by more than before.
    fn backwards<'a>(&mut self, steps: &[Step<'a>], at_label: &mut HashMap<&'a str, Vec<u64>>) -> bool {
        let mut more = false;
        self.replace(&[]);
        for step in steps.iter().rev() {
            match step {
                Step::Label(name) => {
                    let known = at_label.entry(name).or_default();
                    if *known != self.live {
                        known.clone_from(&self.live);
                        more = true;
                    }
                }
                Step::Inst(writes, reads, beside) => {
                    writes.iter().for_each(|&reg| self.end(reg));
                    reads.iter().for_each(|&reg| self.begin(reg));
                    self.most = self.most.max(self.now + beside);
                }
                Step::Jump(to, reads, goes_on) => {
                    let mut there = at_label.get(to).cloned().unwrap_or_default();
                    if *goes_on {
                        there.resize(self.live.len(), 0);
                        there.iter_mut().zip(&self.live).for_each(|(a, b)| *a |= b);
                    }
                    self.replace(&there);
                    reads.iter().for_each(|&reg| self.begin(reg));
                }
            }
        }
        more
    }

    fn begin(&mut self, reg: u32) {
        let (word, bit) = (&mut self.live[reg as usize / 64], 1 << (reg % 64));
        if *word & bit == 0 {
            *word |= bit;
            self.now += self.takes[reg as usize];
        }
    }

    fn end(&mut self, reg: u32) {
        let (word, bit) = (&mut self.live[reg as usize / 64], 1 << (reg % 64));
        if *word & bit != 0 {
            *word &= !bit;
            self.now -= self.takes[reg as usize];
        }
    }

    /// Makes this what is live; words that are left out are empty.
    fn replace(&mut self, live: &[u64]) {
        self.live.fill(0);
        self.live[..live.len()].copy_from_slice(live);
        self.now = 0;
        for (at, &word) in live.iter().enumerate() {
            let mut left = word;
            while left != 0 {
                self.now += self.takes[64 * at + left.trailing_zeros() as usize];
                left &= left - 1;
            }
        }
    }
}
