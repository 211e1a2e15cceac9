//! What the producer does as several: one thread for boxes of rows, and warps for rows that are gathered.
//!
//! Each goes through the producer's statements, but for those that are about the others' rings alone. So that it counts as they
//! do, no statement that it leaves out may write a var that it reads.

use super::hand::at;
use crate::ir::{BufferId, Func, Op, Stmt};
use crate::passes::visit;

/// Which rings have rows gathered, by their buffers.
fn rings(func: &Func, producer: &[Stmt]) -> Vec<bool> {
    let mut rings = vec![false; func.buffers.len()];
    visit(producer, &mut |stmt| {
        if let Op::Fill { from, buffer, .. } = &stmt.op {
            rings[buffer.index()] |= func.is_gathered(from);
        }
    });
    rings
}

/// What is wrong with it, and where.
pub(super) fn wrong(func: &Func, producer: &[Stmt]) -> Option<String> {
    let rings = rings(func, producer);
    if rings.iter().all(|gathered| !gathered) {
        return None;
    }
    let mut wrong = None;
    visit(producer, &mut |stmt| {
        let Op::Fill { from, buffer, .. } = &stmt.op else { return };
        let what = match (func.is_gathered(from), rings[buffer.index()]) {
            (true, _) if !func.persist => "rows are gathered where CTAs do tile after tile, and these do one",
            (false, true) => "a ring whose rows are gathered has no boxes: no thread that fetches these fills it",
            _ => return,
        };
        wrong.get_or_insert_with(|| format!("{}: {what}", at(func, stmt)));
    });
    wrong.or_else(|| [false, true].into_iter().find_map(|kind| lost(func, producer, &rings, kind)))
}

/// A var that is read where what writes it is left out: what fills rings of one kind alone.
fn lost(func: &Func, producer: &[Stmt], rings: &[bool], kind: bool) -> Option<String> {
    let mut left_out = vec![false; func.vars.len()];
    sides(producer, rings, kind, &mut |stmt, alone| match stmt.op {
        Op::Write(var, _) if alone => left_out[var.index()] = true,
        _ => {}
    });
    let mut found = None;
    sides(producer, rings, kind, &mut |stmt, alone| match stmt.op {
        Op::Read(var) if !alone && left_out[var.index()] => {
            let name = &func.vars[var.index()].name;
            let what = "is written by those alone who fill other rings, and read by all of the producer";
            found.get_or_insert_with(|| format!("{}: %{name} {what}", at(func, stmt)));
        }
        _ => {}
    });
    found
}

/// Calls `see` with every statement, and whether it stands where rings of one kind alone are filled.
fn sides(body: &[Stmt], rings: &[bool], kind: bool, see: &mut impl FnMut(&Stmt, bool)) {
    let ring = |stmt: &Stmt| match stmt.op {
        Op::Acquire { buffer, .. } | Op::Fill { buffer, .. } => Some(buffer),
        _ => None,
    };
    let of = |buffer: BufferId| rings[buffer.index()] == kind;
    for stmt in body {
        let (mut own, mut other) = (false, false);
        visit(std::slice::from_ref(stmt), &mut |inner| {
            own |= ring(inner).is_some_and(of);
            other |= ring(inner).is_some_and(|buffer| !of(buffer));
        });
        match stmt.op.body() {
            Some(inner) if own && !other => visit(inner, &mut |inner| see(inner, true)),
            Some(inner) => sides(inner, rings, kind, see),
            None => see(stmt, false),
        }
    }
}
