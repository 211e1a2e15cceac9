//! Staged funcs with one operation of order changed.

use std::collections::BTreeMap;

use lacuna_codegen::check;
use lacuna_codegen::ir::{Binary, BufferId, Const, Elem, Func, Op, Overlap, Stmt, Type, Value, ValueId};
use lacuna_codegen::passes::verify;

use super::{asked, causal, copied_q, gathered_q};

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Left,
    Doubled,
    /// Past the next statement that matters.
    Later,
    /// Before the one that matters before it.
    Earlier,
    /// The slot after it.
    NextSlot,
    /// Always this slot.
    Slot(i32),
    /// A slot of the other buffer of its size.
    OtherBuffer,
    /// The other phase.
    OtherPhase,
    /// Always this phase.
    Phase(i32),
    /// One group more in flight.
    More,
    /// One group less.
    Fewer,
}

const CHANGES: [Change; 13] = [
    Change::Left,
    Change::Doubled,
    Change::Later,
    Change::Earlier,
    Change::NextSlot,
    Change::Slot(0),
    Change::Slot(1),
    Change::OtherBuffer,
    Change::OtherPhase,
    Change::Phase(0),
    Change::Phase(1),
    Change::More,
    Change::Fewer,
];

/// An operation of order: what is mutated.
fn orders(op: &Op) -> bool {
    matches!(
        op,
        Op::Acquire { .. }
            | Op::Fill { .. }
            | Op::Await { .. }
            | Op::Release { .. }
            | Op::CopyAsync { .. }
            | Op::Commit
            | Op::Wait(_)
            | Op::Barrier
            | Op::Publish
            | Op::Fence
            | Op::Start { .. }
            | Op::Close
            | Op::Land(_)
            | Op::Turn
            | Op::Pass
    )
}

/// What a change of place is counted by: operations of order, tiles in vars, and what encloses others.
fn matters(func: &Func, stmt: &Stmt) -> bool {
    match &stmt.op {
        Op::Read(var) | Op::Write(var, _) => func.vars[var.index()].ty.rank() == 2,
        Op::Merge { .. } | Op::Operand(_) => true,
        op => orders(op) || op.body().is_some(),
    }
}

/// Where a statement stands: its place in each body around it.
type Path = Vec<usize>;

fn paths(body: &[Stmt], at: &mut Path, all: &mut Vec<Path>) {
    for (place, stmt) in body.iter().enumerate() {
        at.push(place);
        if orders(&stmt.op) {
            all.push(at.clone());
        }
        if let Some(inner) = stmt.op.body() {
            paths(inner, at, all);
        }
        at.pop();
    }
}

fn body_of<'f>(func: &'f mut Func, path: &[usize]) -> &'f mut Vec<Stmt> {
    path[..path.len() - 1]
        .iter()
        .fold(&mut func.body, |body, &at| body[at].op.body_mut().expect("a path goes through bodies"))
}

/// Makes a scalar before a statement, which moves on by what makes it.
fn scalar(func: &mut Func, path: &mut Path, op: Op) -> ValueId {
    func.values.push(Value { ty: Type::scalar(Elem::I32), loc: None });
    let made = ValueId(func.values.len() as u32 - 1);
    let at = *path.last().expect("a path has an end");
    body_of(func, path).insert(at, Stmt { result: Some(made), op, loc: None });
    *path.last_mut().expect("a path has an end") += 1;
    made
}

fn stmt<'f>(func: &'f mut Func, path: &[usize]) -> &'f mut Stmt {
    let at = path[path.len() - 1];
    &mut body_of(func, path)[at]
}

fn slot_of(op: &mut Op) -> Option<(&mut BufferId, &mut ValueId)> {
    match op {
        Op::Acquire { buffer, slot, .. }
        | Op::Await { buffer, slot, .. }
        | Op::Fill { buffer, slot, .. }
        | Op::CopyAsync { buffer, slot, .. }
        | Op::Release { buffer, slot } => Some((buffer, slot)),
        _ => None,
    }
}

fn phase_of(op: &mut Op) -> Option<&mut ValueId> {
    match op {
        Op::Acquire { phase, .. } | Op::Await { phase, .. } => Some(phase),
        _ => None,
    }
}

/// The func with a change, and the statement that a change of place went past.
fn changed(func: &Func, path: &[usize], change: Change) -> Option<(Func, Option<Op>)> {
    let mut func = func.clone();
    let mut path = path.to_vec();
    let at = path[path.len() - 1];
    let mut past = None;
    match change {
        Change::Left => drop(body_of(&mut func, &path).remove(at)),
        Change::Doubled => {
            let again = stmt(&mut func, &path).clone();
            body_of(&mut func, &path).insert(at, again);
        }
        Change::Later | Change::Earlier => {
            let whole = func.clone();
            let body = body_of(&mut func, &path);
            let place = match change {
                Change::Later => (at + 1..body.len()).find(|&place| matters(&whole, &body[place])),
                _ => (0..at).rev().find(|&place| matters(&whole, &body[place])),
            }?;
            past = Some(body[place].op.clone());
            let moved = body.remove(at);
            body.insert(place, moved);
        }
        Change::NextSlot | Change::Slot(_) => {
            let (buffer, slot) = slot_of(&mut stmt(&mut func, &path).op).map(|(buffer, slot)| (*buffer, *slot))?;
            let slots = func.buffers[buffer.index()].slots as i32;
            let made = match change {
                Change::Slot(slot) if slot < slots && slots > 1 => {
                    scalar(&mut func, &mut path, Op::Const(Const::I32(slot)))
                }
                Change::NextSlot if slots > 1 => {
                    let one = scalar(&mut func, &mut path, Op::Const(Const::I32(1)));
                    let slots = scalar(&mut func, &mut path, Op::Const(Const::I32(slots)));
                    let next = scalar(&mut func, &mut path, Op::Binary(Binary::Add, slot, one));
                    scalar(&mut func, &mut path, Op::Binary(Binary::Rem, next, slots))
                }
                _ => return None,
            };
            *slot_of(&mut stmt(&mut func, &path).op)?.1 = made;
        }
        Change::OtherBuffer => {
            let buffer = *slot_of(&mut stmt(&mut func, &path).op)?.0;
            let alike = |other: usize| {
                let (a, b) = (&func.buffers[buffer.index()], &func.buffers[other]);
                other != buffer.index() && a.slots == b.slots && a.ring == b.ring
            };
            let other = (0..func.buffers.len()).find(|&other| alike(other))?;
            *slot_of(&mut stmt(&mut func, &path).op)?.0 = BufferId(other as u32);
        }
        Change::OtherPhase | Change::Phase(_) => {
            let phase = *phase_of(&mut stmt(&mut func, &path).op)?;
            let made = match change {
                Change::Phase(phase) => scalar(&mut func, &mut path, Op::Const(Const::I32(phase))),
                _ => {
                    let one = scalar(&mut func, &mut path, Op::Const(Const::I32(1)));
                    scalar(&mut func, &mut path, Op::Binary(Binary::Sub, one, phase))
                }
            };
            *phase_of(&mut stmt(&mut func, &path).op)? = made;
        }
        Change::More | Change::Fewer => match &mut stmt(&mut func, &path).op {
            Op::Land(groups) | Op::Wait(groups) => {
                *groups = if change == Change::More { *groups + 1 } else { groups.checked_sub(1)? };
            }
            _ => return None,
        },
    }
    // A value that is not made yet, or a tile of another type, is the verifier's to refuse.
    verify(&func).is_ok().then_some((func, past))
}

/// Whether a statement is in a round of a loop, and not where the loop is left.
fn repeats(func: &Func, path: &[usize]) -> bool {
    let mut body = &func.body;
    let mut repeats = false;
    for &at in &path[..path.len() - 1] {
        repeats = match body[at].op {
            Op::For { .. } | Op::Loop(_) => true,
            Op::Leave { .. } => false,
            _ => repeats,
        };
        body = body[at].op.body().expect("a path goes through bodies");
    }
    repeats
}

/// Whether all that statements do is to release slots.
fn releases(body: &[Stmt]) -> bool {
    body.iter().all(|stmt| matches!(stmt.op, Op::Release { .. } | Op::Read(_) | Op::Const(_) | Op::Binary(..)))
}

/// Why a change does no harm, where it does none.
fn harmless(func: &Func, path: &[usize], change: Change, past: Option<&Op>) -> Option<&'static str> {
    let op = stmt(&mut func.clone(), path).op.clone();
    let slots = func.buffers.iter().map(|buffer| buffer.slots).max();
    // Where CTAs persist, all of it is gone through again.
    let repeats = func.persist || repeats(func, path);
    let in_pairs = func.overlap == Overlap::Deferred && slots == Some(2);
    Some(match (change, &op, past) {
        (Change::Doubled, Op::Acquire { .. } | Op::Await { .. } | Op::Barrier | Op::Wait(_), _) => {
            "what has come is waited for again"
        }
        (Change::Doubled, Op::Fence | Op::Publish, _) => "what is in order is put in order again",
        (Change::Doubled, Op::Land(_), _) => "nothing is left to land",
        (Change::Doubled, Op::Commit, _) => "a group without copies has landed",
        (Change::Fewer, Op::Land(_), _) => "more products are waited for than need be",
        (Change::Slot(0) | Change::Phase(0), ..) if !repeats => "the first tile comes to slot 0, in phase 0",
        (Change::Slot(1), ..) if !repeats => "the second tile comes to slot 1",
        (Change::Slot(_), ..) if in_pairs => "where rounds go in pairs, each of a pair has its slot of two",
        (Change::Left, Op::Release { .. }, _) if !repeats => "nothing is filled after the last tiles",
        (Change::OtherBuffer, Op::Release { buffer, .. }, _) if !repeats && func.buffers[buffer.index()].slots == 1 => {
            "nothing is filled after the last tiles, and Q is released, which is as good"
        }
        (Change::Later | Change::Earlier, Op::Await { .. } | Op::Fence, Some(Op::Await { .. } | Op::Fence)) => {
            "a fence is about registers, an await about tiles"
        }
        (Change::Later | Change::Earlier, Op::Await { .. } | Op::Release { .. }, Some(Op::Read(_) | Op::Write(..))) => {
            "registers are not tiles"
        }
        (
            Change::Later | Change::Earlier,
            Op::Acquire { .. } | Op::Fill { .. },
            Some(Op::Acquire { .. } | Op::Fill { .. }),
        ) => "consumers release one ring's slot without the other ring's tile",
        (Change::Later, Op::Close, Some(Op::Read(_))) => "what is read between is no product's of the group",
        (Change::Later, Op::Release { .. }, Some(Op::Merge { .. })) => {
            "a slot may be released later in its tile of work"
        }
        (Change::Later, Op::Release { .. }, Some(Op::If { body, .. })) if releases(body) => {
            "a slot may be released behind another tile's"
        }
        (Change::Later, Op::Release { .. }, Some(Op::If { body, .. })) if !body.iter().any(|stmt| orders(&stmt.op)) => {
            "a slot may be released behind what is done to scores alone"
        }
        (Change::Earlier, Op::Land(_), Some(Op::Read(_) | Op::Write(..))) => "products are waited for sooner",
        (Change::Later | Change::Earlier, Op::Turn | Op::Pass, _)
        | (Change::Later | Change::Earlier, _, Some(Op::Turn | Op::Pass)) => {
            "a turn may begin sooner and end later, and orders no product of the warpgroup itself"
        }
        (
            Change::Later | Change::Earlier,
            Op::Publish | Op::Barrier | Op::CopyAsync { .. } | Op::Commit | Op::Wait(_),
            Some(Op::Await { .. }),
        )
        | (
            Change::Later | Change::Earlier,
            Op::Await { .. },
            Some(Op::Publish | Op::Barrier | Op::CopyAsync { .. } | Op::Commit | Op::Wait(_)),
        ) => "what consumers copy is not what the producer brings",
        _ => return None,
    })
}

#[test]
fn every_operation_of_order_is_needed_where_it_stands() {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut refused, mut missed) = (0, Vec::new());
    for (way, func) in [
        ("serial, 1 stage", causal("serial", 1, 64)),
        ("serial, 2 stages", causal("serial", 2, 128)),
        ("serial, 3 stages", causal("serial", 3, 64)),
        ("fenced, 1 stage", causal("fenced", 1, 128)),
        ("fenced, 2 stages", causal("fenced", 2, 64)),
        ("fenced, 3 stages", causal("fenced", 3, 128)),
        ("deferred, 2 stages", causal("deferred", 2, 128)),
        ("deferred, 3 stages", causal("deferred", 3, 64)),
        ("fenced, in turns", causal("fenced turns", 2, 128)),
        ("deferred, in turns", causal("deferred turns", 3, 128)),
        ("consumers copy Q", copied_q("fenced", 2)),
        ("serial, tile after tile", causal("serial persist", 2, 64)),
        ("fenced, tile after tile", causal("fenced turns persist", 3, 64)),
        ("deferred, tile after tile", causal("deferred turns persist", 2, 128)),
        ("deferred, tile after tile, Q in one slot", causal("deferred turns persist", 6, 128)),
        ("serial, tile after tile, Q gathered", gathered_q("serial", 1, 64)),
        ("fenced, tile after tile, Q gathered", gathered_q("fenced turns", 2, 128)),
        ("deferred, tile after tile, Q gathered in one slot", gathered_q("deferred", 6, 128)),
        ("fenced, whole rounds apart", asked("fenced turns", 3, 64)),
        ("deferred, whole rounds apart", asked("deferred turns", 2, 128)),
        ("fenced, whole rounds apart, tile after tile", asked("fenced persist", 2, 64)),
        ("deferred, whole rounds apart, tile after tile", asked("deferred turns persist", 3, 64)),
    ] {
        let mut all = Vec::new();
        paths(&func.body, &mut Vec::new(), &mut all);
        for path in all {
            for change in CHANGES {
                let Some((mutant, past)) = changed(&func, &path, change) else { continue };
                match (check(&mutant), harmless(&func, &path, change, past.as_ref())) {
                    (Err(_), _) => refused += 1,
                    (Ok(()), Some(reason)) => *reasons.entry(reason).or_default() += 1,
                    (Ok(()), None) => {
                        let shown = func.show_stmt(stmt(&mut func.clone(), &path));
                        let past = past.map(|op| func.show_stmt(&Stmt { result: None, op, loc: None }));
                        missed.push(format!("{way}: {change:?} {path:?} {shown} {past:?}"));
                    }
                }
            }
        }
    }
    let survived: usize = reasons.values().sum();
    assert!(refused > 2 * survived, "{refused} mutants are refused; of the others {reasons:#?}");
    assert!(missed.is_empty(), "{} mutants pass:\n{}", missed.len(), missed.join("\n"));
}

/// Counts that go on from tile to tile of work are needed, all of them.
#[test]
fn what_lasts_from_tile_to_tile_is_needed() {
    let ways = [("serial", 1, 2), ("fenced turns", 3, 2), ("deferred", 6, 1)];
    for ((way, stages, slots), gathers) in ways.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let func = match gathers {
            true => gathered_q(way, stages, 128),
            false => causal(&format!("{way} persist"), stages, 128),
        };
        let once = func.buffers.iter().find(|buffer| buffer.name.contains('q')).expect("Q is fetched");
        assert_eq!((once.slots, once.ring), (slots, true), "{way}, {stages} stages");
        // With one slot it is released before the loop ends, where its round is the last.
        let Some(Op::Consume(consumers)) = func.body.last().map(|stmt| &stmt.op) else { panic!("roles") };
        let behind = consumers.iter().any(
            |stmt| matches!(stmt.op, Op::Release { buffer, .. } if func.buffers[buffer.index()].name == once.name),
        );
        assert_eq!(behind, slots == 2, "{way}, {stages} stages");
        let lasting: Vec<usize> = (0..func.vars.len()).filter(|&var| func.vars[var].lasts).collect();
        assert!(lasting.len() >= 4, "each role counts Q, and blocks of keys: {func}");
        for var in lasting {
            let mut mutant = func.clone();
            mutant.vars[var].lasts = false;
            let name = &func.vars[var].name;
            assert!(check(&mutant).is_err(), "{way}, {stages} stages: %{name} may begin anew in each tile");
        }
    }
}
