//! Which whole numbers are never negative: quotients and remainders of those by powers of two are shifts and masks.

use std::collections::HashSet;

use super::visit;
use crate::ir::{Binary, Const, Elem, Func, Op, ValueId, VarId};

/// Scalars that are never negative, as far as that follows from constants, sums, products and loops from zero or more. The
/// author keeps them within 31 bits.
pub(crate) fn never_negative(func: &Func) -> HashSet<ValueId> {
    let whole = |value: usize| {
        let ty = &func.values[value].ty;
        ty.rank() == 0 && ty.elem == Elem::I32
    };
    // All are, until something says otherwise.
    let mut values: HashSet<ValueId> =
        (0..func.values.len()).filter(|&v| whole(v)).map(|v| ValueId(v as u32)).collect();
    let starts = |var: usize| matches!(func.vars[var].init, Const::I32(first) if first >= 0);
    let mut vars: HashSet<VarId> = (0..func.vars.len()).filter(|&v| starts(v)).map(|v| VarId(v as u32)).collect();
    loop {
        let before = (values.len(), vars.len());
        visit(&func.body, &mut |stmt| {
            match &stmt.op {
                Op::Write(var, value) if !values.contains(value) => {
                    vars.remove(var);
                }
                Op::For { index, lo, .. } if !values.contains(lo) => {
                    values.remove(index);
                }
                _ => {}
            }
            let Some(result) = stmt.result else { return };
            let kept = match &stmt.op {
                Op::Const(Const::I32(value)) => *value >= 0,
                Op::ProgramId(_) => true,
                Op::Binary(Binary::Add | Binary::Mul | Binary::Min | Binary::Div | Binary::Rem, a, b)
                | Op::Select(_, a, b) => values.contains(a) && values.contains(b),
                Op::Binary(Binary::Max, a, b) => values.contains(a) || values.contains(b),
                Op::Read(var) => vars.contains(var),
                _ => false,
            };
            if !kept {
                values.remove(&result);
            }
        });
        if (values.len(), vars.len()) == before {
            return values;
        }
    }
}
