//! Roles: tiles that follow from the launch alone are fetched by a thread of a warpgroup of its own.
//!
//! In:  every shared tile is made right after its copy, in slot 0 of a buffer of its own.
//! Out: without roles, the same. With roles, the func ends in `produce` and `consume`. What both need is worked out before.
//!      The producer fills the slots of rings, round after round: a slot is acquired, which waits until its last tile has been
//!      released, and filled. Table elements that say where a tile is are fetched a round ahead. Consumers await a slot before
//!      the first use of its tile, and release it after the last. Rings have one slot a stage, and the slot and phase of a
//!      round are the same for both. A tile that is fetched once is never released. Other copies are left to the consumers.
//!
//! ```text
//!   produce {
//!     fill q
//!     for i in lo..hi { acquire k[i % stages]; fill k; acquire v; fill v }
//!   }
//!   consume {
//!     await q
//!     for i in lo..hi { await k[i % stages]; .. q . k ..; release k; ..; await v; .. p . v ..; release v }
//!     ...
//!   }
//! ```

use std::collections::{HashMap, HashSet};

use super::operands;
use super::pipeline::{Out, issue_of, rename, replay};
use super::warpgroups::{is_common, is_fetched, is_produced};
use crate::Error;
use crate::ir::{Binary, BufferId, Const, Elem, Func, Op, Overlap, Stmt, Type, ValueId, VarId};

/// The pass.
pub(super) fn run(mut func: Func) -> Result<Func, Error> {
    if func.partition.is_none_or(|part| part.roles.is_none()) {
        return Ok(func);
    }
    let body = std::mem::take(&mut func.body);
    let mut known = HashSet::new();
    let (mut common, mut rest) = (Vec::new(), Vec::new());
    for stmt in body {
        if is_common(&stmt, &known) {
            known.extend(stmt.result);
            common.push(stmt);
        } else {
            rest.push(stmt);
        }
    }
    // Slots of tiles outside loops are constants.
    let zero: HashSet<ValueId> =
        common.iter().filter(|s| matches!(s.op, Op::Const(Const::I32(0)))).filter_map(|s| s.result).collect();

    let mut producer = Vec::new();
    let mut consumers = Vec::with_capacity(rest.len());
    let mut once: Vec<(BufferId, ValueId)> = Vec::new();
    for mut stmt in rest {
        match &stmt.op {
            Op::CopyAsync { from, buffer, slot } if is_fetched(&func, from, &known) => {
                func.buffers[buffer.index()].ring = true;
                once.push((*buffer, *slot));
                let op = Op::Fill { from: from.clone(), buffer: *buffer, slot: *slot };
                producer.push(Stmt { result: None, op, loc: stmt.loc });
                continue;
            }
            Op::For { lo, .. } if is_produced(&func, &stmt, &known) => {
                let from_zero = zero.contains(lo);
                producer.extend(fetching(&mut func, &stmt, from_zero)?);
                consuming(&mut func, &mut stmt, from_zero);
            }
            _ => {}
        }
        consumers.push(stmt);
    }
    for (buffer, slot) in once {
        await_once(&mut func, &mut consumers, buffer, slot);
    }
    common.push(Stmt { result: None, op: Op::Produce(producer), loc: None });
    common.push(Stmt { result: None, op: Op::Consume(consumers), loc: None });
    func.body = common;
    Ok(func)
}

/// Where a round's tiles stand: their slot, and how often it was filled before, modulo 2.
struct Turn {
    slot: ValueId,
    phase: ValueId,
    /// What counts them, where they do not follow from the round's number.
    counted: Option<(VarId, VarId)>,
    stages: u32,
}

/// Works out the turn of a round, at its begin.
fn turn(out: &mut Out<'_>, index: ValueId, stages: u32, from_zero: bool) -> Turn {
    let int = Type::scalar(Elem::I32);
    if from_zero && stages.is_power_of_two() {
        let slots = out.int(stages as i32);
        let slot = if stages == 1 { out.int(0) } else { out.value(Op::Binary(Binary::Rem, index, slots), int.clone()) };
        let lap = if stages == 1 { index } else { out.value(Op::Binary(Binary::Div, index, slots), int.clone()) };
        let two = out.int(2);
        let phase = out.value(Op::Binary(Binary::Rem, lap, two), int);
        return Turn { slot, phase, counted: None, stages };
    }
    let count = out.func.vars.len();
    let vars = (out.var(format!("slot{count}")), out.var(format!("phase{count}")));
    let (slot, phase) = (out.read(vars.0), out.read(vars.1));
    Turn { slot, phase, counted: Some(vars), stages }
}

/// Counts on, at the end of a round.
fn count_on(out: &mut Out<'_>, turn: &Turn) {
    let Some((slot, phase)) = turn.counted else { return };
    let last = out.int(turn.stages as i32 - 1);
    let stays = out.less(turn.slot, last);
    let (one, zero) = (out.int(1), out.int(0));
    let next = out.value(Op::Binary(Binary::Add, turn.slot, one), Type::scalar(Elem::I32));
    let next = out.value(Op::Select(stays, next, zero), Type::scalar(Elem::I32));
    let other = out.value(Op::Binary(Binary::Sub, one, turn.phase), Type::scalar(Elem::I32));
    let other = out.value(Op::Select(stays, turn.phase, other), Type::scalar(Elem::I32));
    out.effect(Op::Write(slot, next));
    out.effect(Op::Write(phase, other));
}

/// The producer's loop: what fetches the tiles of a consumers' loop.
fn fetching(func: &mut Func, stmt: &Stmt, from_zero: bool) -> Result<Vec<Stmt>, Error> {
    let Op::For { index, lo, hi, pipelined: Some(stages), body } = &stmt.op else { unreachable!("produced loops") };
    let (lo, hi, stages) = (*lo, *hi, *stages);
    if stages == 0 {
        return Err(Error::Unsupported("a pipelined loop with 0 stages; 1 or more are right".to_owned()));
    }
    // The next round's keys would wait for this one's values, and these for them.
    if stages == 1 && func.overlap == Overlap::Deferred {
        return Err(Error::Unsupported("products are deferred by a stage: 2 stages or more are right".to_owned()));
    }
    let issue = issue_of(func, body)?;
    let mut out = Out { func, stmts: Vec::new(), loc: stmt.loc };
    let tables: Vec<ValueId> =
        issue.elements.iter().filter(|s| matches!(s.op, Op::Element { .. })).filter_map(|s| s.result).collect();
    let ahead: Vec<VarId> = (0..tables.len()).map(|t| out.var(format!("ahead{}_{t}", out.func.vars.len()))).collect();
    let fetch = |out: &mut Out<'_>, round: ValueId| {
        let mut map = HashMap::from([(*index, round)]);
        replay(out, &issue.elements, &mut map);
        for (table, &var) in tables.iter().zip(&ahead) {
            out.effect(Op::Write(var, map[table]));
        }
    };
    if !tables.is_empty() {
        let exists = out.less(lo, hi);
        out.when(exists, |out| fetch(out, lo));
    }
    let round = super::fresh(out.func, Type::scalar(Elem::I32), stmt.loc);
    let before = std::mem::take(&mut out.stmts);
    let mut map = HashMap::from([(*index, round)]);
    for (table, &var) in tables.iter().zip(&ahead) {
        let element = out.read(var);
        map.insert(*table, element);
    }
    if !tables.is_empty() {
        let later = out.add(round, 1);
        let exists = out.less(later, hi);
        out.when(exists, |out| fetch(out, later));
    }
    replay(&mut out, &issue.scalars, &mut map);
    let turn = turn(&mut out, round, stages, from_zero);
    for copy in &issue.copies {
        let Op::CopyAsync { from, buffer, .. } = &copy.op else { unreachable!("copies are copies") };
        out.func.buffers[buffer.index()].ring = true;
        out.func.buffers[buffer.index()].slots = stages;
        out.loc = copy.loc;
        out.effect(Op::Acquire { buffer: *buffer, slot: turn.slot, phase: turn.phase });
        let mut fill =
            Stmt { result: None, op: Op::Fill { from: from.clone(), buffer: *buffer, slot: turn.slot }, loc: copy.loc };
        rename(&mut fill, &map);
        out.stmts.push(fill);
    }
    out.loc = stmt.loc;
    count_on(&mut out, &turn);
    let body = std::mem::replace(&mut out.stmts, before);
    out.effect(Op::For { index: round, lo, hi, pipelined: None, body });
    Ok(out.stmts)
}

/// The consumers' loop: what its copies fetched is awaited and released.
fn consuming(func: &mut Func, stmt: &mut Stmt, from_zero: bool) {
    let loc = stmt.loc;
    let Op::For { index, pipelined, body, .. } = &mut stmt.op else { unreachable!("produced loops") };
    let stages = pipelined.take().expect("produced loops are pipelined");
    let mut out = Out { func, stmts: Vec::new(), loc };
    let turn = turn(&mut out, *index, stages, from_zero);
    let mut tiles: HashMap<ValueId, BufferId> = HashMap::new();
    let body = std::mem::take(body);
    let mut last: HashMap<ValueId, usize> = HashMap::new();
    for (at, stmt) in body.iter().enumerate() {
        super::visit(std::slice::from_ref(stmt), &mut |s| {
            last.extend(operands(&s.op).into_iter().map(|value| (value, at)));
        });
    }
    let mut waiting: HashSet<ValueId> = HashSet::new();
    for (at, mut stmt) in body.into_iter().enumerate() {
        out.loc = stmt.loc;
        match &mut stmt.op {
            Op::CopyAsync { .. } => continue,
            Op::Shared(buffer, slot) => {
                *slot = turn.slot;
                let tile = stmt.result.expect("a shared tile is a value");
                tiles.insert(tile, *buffer);
                waiting.insert(tile);
            }
            _ => {}
        }
        let used = used_in(&stmt);
        let mut used: Vec<ValueId> = used.into_iter().filter(|value| tiles.contains_key(value)).collect();
        used.sort_unstable();
        for tile in used.iter().filter(|tile| waiting.remove(tile)) {
            out.effect(Op::Await { buffer: tiles[tile], slot: turn.slot, phase: turn.phase });
        }
        out.stmts.push(stmt);
        for tile in used.iter().filter(|tile| last[tile] == at) {
            out.effect(Op::Release { buffer: tiles[tile], slot: turn.slot });
        }
    }
    out.loc = loc;
    count_on(&mut out, &turn);
    let body_of = out.stmts;
    let Op::For { body, .. } = &mut stmt.op else { unreachable!("it is a loop") };
    *body = body_of;
}

/// Every value that a statement or what it encloses reads.
fn used_in(stmt: &Stmt) -> HashSet<ValueId> {
    let mut used = HashSet::new();
    super::visit(std::slice::from_ref(stmt), &mut |s| used.extend(operands(&s.op)));
    used
}

/// Waits for a tile that is fetched once, before its first use.
fn await_once(func: &mut Func, consumers: &mut Vec<Stmt>, buffer: BufferId, slot: ValueId) {
    let tile = consumers.iter().find_map(|stmt| match stmt.op {
        Op::Shared(of, _) if of == buffer => stmt.result,
        _ => None,
    });
    let Some(tile) = tile else { return };
    let Some(first) = consumers.iter().position(|stmt| used_in(stmt).contains(&tile)) else { return };
    let mut out = Out { func, stmts: Vec::new(), loc: consumers[first].loc };
    let phase = out.int(0);
    out.effect(Op::Await { buffer, slot, phase });
    let stmts = out.stmts;
    consumers.splice(first..first, stmts);
}
