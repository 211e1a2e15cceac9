//! What nothing needs is left out: an author's library computes more about rows and blocks than every schedule asks for.
//!
//! In:  a verified func.
//! Out: every statement that only makes a value makes one that some other statement reads. What has an effect, and branches
//!      and loops, stay where they are.

use std::collections::{HashMap, HashSet};

use super::{operands, visit};
use crate::Error;
use crate::ir::{Func, Op, Stmt, ValueId};

/// The pass.
pub(super) fn run(mut func: Func) -> Result<Func, Error> {
    let mut made: HashMap<ValueId, Vec<ValueId>> = HashMap::new();
    let mut wanted = Vec::new();
    visit(&func.body, &mut |stmt| match stmt.result {
        Some(result) if is_pure(&stmt.op) => {
            made.insert(result, operands(&stmt.op));
        }
        _ => wanted.extend(operands(&stmt.op)),
    });
    let mut needed = vec![false; func.values.len()];
    while let Some(value) = wanted.pop() {
        if !std::mem::replace(&mut needed[value.index()], true) {
            wanted.extend(made.get(&value).into_iter().flatten());
        }
    }
    sweep(&mut func.body, &needed);
    Ok(func)
}

/// Leaves out of a body what nothing in it needs, where nothing else may.
pub(super) fn unused(body: &mut Vec<Stmt>) {
    let mut needed: HashSet<ValueId> = HashSet::new();
    for stmt in body.iter().rev() {
        if stmt.result.is_none_or(|result| !is_pure(&stmt.op) || needed.contains(&result)) {
            visit(std::slice::from_ref(stmt), &mut |stmt| needed.extend(operands(&stmt.op)));
        }
    }
    body.retain(|stmt| stmt.result.is_none_or(|result| !is_pure(&stmt.op) || needed.contains(&result)));
}

/// Whether an operation does nothing but make its value.
pub(super) fn is_pure(op: &Op) -> bool {
    matches!(
        op,
        Op::Const(_)
            | Op::Param(_)
            | Op::ProgramId(_)
            | Op::Unary(..)
            | Op::Binary(..)
            | Op::Compare(..)
            | Op::Select(..)
            | Op::Fma(..)
            | Op::Convert(_)
            | Op::Iota(_)
            | Op::Broadcast(_)
            | Op::Reduce(..)
            | Op::Element { .. }
            | Op::Segment { .. }
            | Op::Fold(..)
            | Op::Scan(_)
            | Op::Total(_)
            | Op::TableGet { .. }
            | Op::Load(_)
            | Op::Dot(..)
            | Op::Read(_)
    )
}

fn sweep(body: &mut Vec<Stmt>, needed: &[bool]) {
    body.retain_mut(|stmt| {
        if let Op::For { body, .. } | Op::If { body, .. } = &mut stmt.op {
            sweep(body, needed);
        }
        match stmt.result {
            Some(result) => !is_pure(&stmt.op) || needed[result.index()],
            None => true,
        }
    });
}
