//! Which loop can fill its stages early: while consumers multiply what a producer fetches, copies of their own are on their way.
//!
//! ```text
//!   await q; for .. { await k; q . k; .. }           copy parts of the first rounds; commit
//!   copy parts of the first rounds; commit     =>    await q; for .. { await k; q . k; .. }
//!   for .. { wait; .. }                              for .. { wait; .. }
//! ```
//!
//! Slots are nobody else's, and what is before waits for no group. What the copies' addresses are computed from is computed
//! before them: it is moved with them where nothing but values is needed for it.

use std::collections::HashSet;

use super::pipeline::issue_of;
use super::{operands, visit};
use crate::ir::{Func, Op, Stmt, ValueId};

/// The pipelined loop of consumers that can fill its stages before the statement of this number, the first that waits for what is
/// fetched for them; statements of `body` that its copies need have been moved before that one.
pub(super) fn place(func: &Func, body: &mut Vec<Stmt>) -> Option<(usize, Stmt)> {
    if func.partition.is_none_or(|part| part.roles.is_none()) {
        return None;
    }
    let has = |stmt: &Stmt, wanted: &dyn Fn(&Op) -> bool| {
        let mut found = false;
        visit(std::slice::from_ref(stmt), &mut |s| found |= wanted(&s.op));
        found
    };
    let copying: Vec<usize> =
        (0..body.len()).filter(|&at| has(&body[at], &|op| matches!(op, Op::CopyAsync { .. }))).collect();
    let [at] = *copying else { return None };
    let Op::For { lo, hi, pipelined: Some(2..), body: round, .. } = &body[at].op else { return None };
    let before = body[..at].iter().position(|stmt| has(stmt, &|op| matches!(op, Op::Await { .. })))?;
    let issue = issue_of(func, round).ok()?;
    let copied = issue.scalars.iter().chain(&issue.elements).chain(&issue.copies);
    let mut needed: HashSet<ValueId> = copied.flat_map(|stmt| operands(&stmt.op)).chain([*lo, *hi]).collect();
    let mut moved = Vec::new();
    for n in (before..at).rev() {
        if body[n].result.is_some_and(|result| needed.contains(&result)) {
            if !is_value(&body[n].op) {
                return None;
            }
            needed.extend(operands(&body[n].op));
            moved.push(body.remove(n));
        }
    }
    let there = before + moved.len();
    moved.into_iter().for_each(|stmt| body.insert(before, stmt));
    Some((there, body[at].clone()))
}

/// Whether an operation has a result that is the same wherever its operands are known.
const fn is_value(op: &Op) -> bool {
    matches!(
        op,
        Op::Const(_)
            | Op::Param(_)
            | Op::ProgramId(_)
            | Op::Unary(..)
            | Op::Binary(..)
            | Op::Compare(..)
            | Op::Select(..)
            | Op::Iota(_)
            | Op::Broadcast(_)
            | Op::Element { .. }
    )
}
