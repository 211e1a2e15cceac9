//! Decodes `wgmma`s, which have more operands than an [`Inst`](super::Inst) holds, and finds who touches their registers.

use std::collections::HashMap;

use lacuna_ptx::{Inst as Text, Op, Operand, Reg};

use super::{Pool, Slot};
use crate::wgmma::{Element, Major, Source, Wgmma};

/// The registers in which `wgmma`s accumulate or read A, numbered.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub(super) registers: Vec<Reg>,
    number: HashMap<Reg, u16>,
}

impl Numbers {
    fn of(&mut self, reg: Reg) -> u16 {
        let next = self.registers.len() as u16;
        *self.number.entry(reg).or_insert_with(|| {
            self.registers.push(reg);
            next
        })
    }

    /// Which of them an instruction reads or writes.
    pub(super) fn touched(&self, text: &Text) -> Vec<u16> {
        if text.form.op() == Op::Wgmma {
            return Vec::new();
        }
        let mut touched: Vec<u16> =
            text.reads().chain(text.writes()).filter_map(|reg| self.number.get(&reg).copied()).collect();
        touched.sort_unstable();
        touched.dedup();
        touched
    }
}

/// Decodes a `wgmma.mma_async`: D, A, B, whether D is added to, two signs, the transpositions of those in shared memory.
pub(super) fn wgmma(text: &Text, pool: &Pool, numbers: &mut Numbers) -> Option<Wgmma> {
    let slot = |reg: &Reg| pool.register(*reg).1 as Slot;
    let [Operand::Vector(d), a, Operand::Reg(b), _, signs @ ..] = text.operands.as_slice() else { return None };
    let ints: Option<Vec<i64>> =
        signs.iter().map(|operand| if let Operand::Int(value) = operand { Some(*value) } else { None }).collect();
    let major = |transposed: i64| if transposed == 0 { Major::K } else { Major::Mn };
    let (a, fragments, signs, b_major) = match (a, ints?.as_slice()) {
        (Operand::Vector(regs), [x, y, b]) => (
            Source::Registers(regs.iter().map(slot).collect::<Vec<_>>().try_into().ok()?),
            regs.as_slice(),
            [*x, *y],
            major(*b),
        ),
        (Operand::Reg(reg), [x, y, a, b]) => (Source::Shared(slot(reg), major(*a)), &[][..], [*x, *y], major(*b)),
        _ => return None,
    };
    Some(Wgmma {
        element: if text.form.choices().last() == Some(&"f16.f16") { Element::F16 } else { Element::Bf16 },
        d: d.iter().map(slot).collect(),
        a,
        b: slot(b),
        b_major,
        negated: signs[0] != signs[1],
        accumulators: d.iter().map(|reg| numbers.of(*reg)).collect(),
        fragments: fragments.iter().map(|reg| numbers.of(*reg)).collect(),
        unproven: Vec::new(),
        tracked: Vec::new(),
    })
}

/// The accumulators of a `wgmma` that adds to them only where a predicate says so.
pub(super) fn maybe_added(text: &Text) -> &[Reg] {
    match text.operands.as_slice() {
        [Operand::Vector(d), _, _, Operand::Reg(_), ..] if text.form.op() == Op::Wgmma => d,
        _ => &[],
    }
}
