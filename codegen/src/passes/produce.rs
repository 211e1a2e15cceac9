//! Roles: tiles that follow from the launch alone are fetched by a thread of a warpgroup of its own.
//!
//! In:  every shared tile is made right after its copy, in slot 0 of a buffer of its own.
//! Out: without roles, the same. With roles, the func ends in `produce` and `consume`. What both need is worked out before.
//!      The producer fills the slots of rings, round after round: a slot is acquired, which waits until its last tile has been
//!      released, and filled. Table elements that say where a tile is are fetched a round ahead. Consumers await a slot before
//!      the first use of its tile, and release it after the last. Rings have one slot a stage, and the slot and phase of a
//!      round are the same for both. A tile that is fetched once is never released. Other copies are left to the consumers.
//!      Where CTAs persist, turns are counted from tile to tile, in vars that last, and every tile that is fetched once a tile of
//!      work is in a ring of its own, two slots deep where they fit: it is acquired and released as others are, so that the
//!      producer is ahead of the consumers by what the rings hold, also where that is the next tile's. There it gathers as
//!      well: what says where rows are is worked out by both roles. CTAs that have other copies than the producer's do not
//!      persist.
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
use super::warpgroups::{fetched_by, is_common, is_produced};
use crate::Error;
use crate::ir::{Binary, BufferId, Const, Elem, Func, Loc, Op, Overlap, Slice, Stmt, Type, ValueId, VarId};

/// The pass.
pub(super) fn run(mut func: Func) -> Result<Func, Error> {
    if func.partition.is_none_or(|part| part.roles.is_none()) {
        (func.persist, func.draws) = (false, false);
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
    func.persist &= all_produced(&func, &rest, &known);
    func.draws &= func.persist;
    let once = fetched_once(&func, &rest, &known);
    if func.persist {
        let slots = once_slots(&func, &rest, &once);
        once.iter().for_each(|of| func.buffers[of.buffer.index()].slots = slots);
    }

    let mut producer = Vec::with_capacity(rest.len());
    let mut consumers = Vec::with_capacity(rest.len());
    let alone = opened(&mut func, &once, &mut producer);
    let own = opened(&mut func, &once, &mut consumers);
    for mut stmt in rest {
        match &mut stmt.op {
            Op::CopyAsync { from, buffer, .. } if let Some(of) = once.iter().find(|of| of.buffer == *buffer) => {
                filling(&mut func, &mut producer, from, of, alone.as_ref(), stmt.loc);
                continue;
            }
            Op::Shared(buffer, slot) if once.iter().any(|of| of.buffer == *buffer) => {
                *slot = own.as_ref().map_or(*slot, |turn| turn.slot);
            }
            Op::For { lo, .. } => {
                let from_zero = zero.contains(lo);
                if is_produced(&func, &stmt, &known) {
                    producer.extend(fetching(&mut func, &stmt, from_zero)?);
                    consuming(&mut func, &mut stmt, from_zero);
                }
            }
            _ => {}
        }
        consumers.push(stmt);
    }
    for of in once {
        await_once(&mut func, &mut consumers, of.buffer, of.slot, own.as_ref());
    }
    closed(&mut func, alone, &mut producer);
    closed(&mut func, own, &mut consumers);
    common.push(Stmt { result: None, op: Op::Produce(producer), loc: None });
    common.push(Stmt { result: None, op: Op::Consume(consumers), loc: None });
    func.body = common;
    Ok(func)
}

/// A tile that is fetched outside of loops.
struct Once {
    buffer: BufferId,
    slot: ValueId,
    /// What says where its rows are, where they are gathered.
    says: Vec<Stmt>,
}

fn fetched_once(func: &Func, body: &[Stmt], known: &HashSet<ValueId>) -> Vec<Once> {
    let fetched = |stmt: &Stmt| match &stmt.op {
        Op::CopyAsync { from, buffer, slot } => {
            fetched_by(func, body, from, known).map(|says| Once { buffer: *buffer, slot: *slot, says })
        }
        _ => None,
    };
    body.iter().filter_map(fetched).collect()
}

/// The producer fetches a tile outside of loops.
fn filling(func: &mut Func, producer: &mut Vec<Stmt>, from: &Slice, of: &Once, turn: Option<&Turn>, loc: Loc) {
    func.buffers[of.buffer.index()].ring = true;
    let mut out = Out { func, stmts: Vec::new(), loc };
    let mut map = HashMap::new();
    replay(&mut out, &of.says, &mut map);
    let slot = turn.map_or(of.slot, |turn| turn.slot);
    if let Some(turn) = turn {
        out.effect(Op::Acquire { buffer: of.buffer, slot, phase: turn.phase });
    }
    let mut fill = Stmt { result: None, op: Op::Fill { from: from.clone(), buffer: of.buffer, slot }, loc };
    rename(&mut fill, &map);
    out.stmts.push(fill);
    producer.append(&mut out.stmts);
}

/// Whether the producer makes every copy there is: nothing that consumers do to shared memory is in the way of the next tile.
fn all_produced(func: &Func, body: &[Stmt], known: &HashSet<ValueId>) -> bool {
    let others = |stmt: &Stmt| {
        let mut others = false;
        super::visit(std::slice::from_ref(stmt), &mut |s| others |= matches!(s.op, Op::CopyAsync { .. }));
        others
    };
    func.partition.is_some_and(|part| part.cols == 1)
        && body.iter().all(|stmt| match &stmt.op {
            Op::CopyAsync { from, .. } => fetched_by(func, body, from, known).is_some(),
            _ => is_produced(func, stmt, known) || !others(stmt),
        })
}

/// Shared memory that is left for barriers, at least.
const BARRIERS: u32 = 1024;

/// Slots of tiles that are fetched once a tile of work: two, where they fit beside the slots of loops and what is parked.
fn once_slots(func: &Func, body: &[Stmt], once: &[Once]) -> u32 {
    let bytes = |buffer: &BufferId| {
        let ty = &func.buffers[buffer.index()].ty;
        ty.axes.iter().map(|axis| func.axes[axis.index()].extent).product::<u32>() * ty.elem.bytes()
    };
    let mut all: u32 = once.iter().map(|of| 2 * bytes(&of.buffer)).sum();
    all += crate::lower::parked_bytes(func, body);
    for stmt in body {
        let Op::For { pipelined, body, .. } = &stmt.op else { continue };
        super::visit(body, &mut |s| {
            if let Op::CopyAsync { buffer, .. } = &s.op {
                all += pipelined.unwrap_or(1) * bytes(buffer);
            }
        });
    }
    if all + BARRIERS <= func.target.shared_per_cta() { 2 } else { 1 }
}

/// The turn of tiles that are fetched once, where CTAs persist, at a role's begin.
fn opened(func: &mut Func, once: &[Once], role: &mut Vec<Stmt>) -> Option<Turn> {
    let first = once.first().filter(|_| func.persist)?;
    let slots = func.buffers[first.buffer.index()].slots;
    let mut out = Out { func, stmts: Vec::new(), loc: None };
    let turn = lasting(&mut out, slots);
    role.append(&mut out.stmts);
    Some(turn)
}

/// Counts that turn on, at a role's end.
fn closed(func: &mut Func, turn: Option<Turn>, role: &mut Vec<Stmt>) {
    let Some(turn) = turn else { return };
    let mut out = Out { func, stmts: Vec::new(), loc: None };
    count_on(&mut out, &turn);
    role.append(&mut out.stmts);
}

/// Where a round's tiles stand: their slot, and how often it was filled before, modulo 2.
struct Turn {
    slot: ValueId,
    phase: ValueId,
    counted: Counted,
    stages: u32,
}

/// What counts rounds.
#[derive(Clone, Copy)]
enum Counted {
    /// Nothing: slot and phase follow from the round's number.
    Not,
    /// A var each for the slot and the phase.
    Apart(VarId, VarId),
    /// A var that counts twice as many rounds as there are slots.
    Together(VarId),
}

/// Works out the turn of a round, at its begin.
fn turn(out: &mut Out<'_>, index: ValueId, stages: u32, from_zero: bool) -> Turn {
    if out.func.persist {
        return lasting(out, stages);
    }
    let int = Type::scalar(Elem::I32);
    if from_zero && stages.is_power_of_two() {
        let slots = out.int(stages as i32);
        let slot = if stages == 1 { out.int(0) } else { out.value(Op::Binary(Binary::Rem, index, slots), int.clone()) };
        let lap = if stages == 1 { index } else { out.value(Op::Binary(Binary::Div, index, slots), int.clone()) };
        let two = out.int(2);
        let phase = out.value(Op::Binary(Binary::Rem, lap, two), int);
        return Turn { slot, phase, counted: Counted::Not, stages };
    }
    apart(out, stages)
}

/// A turn that is counted by slots and by phases.
fn apart(out: &mut Out<'_>, stages: u32) -> Turn {
    let count = out.func.vars.len();
    let vars = (out.var(format!("slot{count}")), out.var(format!("phase{count}")));
    Turn::of(out, Counted::Apart(vars.0, vars.1), stages)
}

/// A turn that is counted on from tile to tile.
fn lasting(out: &mut Out<'_>, stages: u32) -> Turn {
    let count = out.func.vars.len();
    let counted = if stages.is_power_of_two() {
        Counted::Together(out.var(format!("count{count}")))
    } else {
        Counted::Apart(out.var(format!("slot{count}")), out.var(format!("phase{count}")))
    };
    out.func.vars[count..].iter_mut().for_each(|var| var.lasts = true);
    Turn::of(out, counted, stages)
}

impl Turn {
    /// The turn that vars count.
    fn of(out: &mut Out<'_>, counted: Counted, stages: u32) -> Turn {
        let int = Type::scalar(Elem::I32);
        let (slot, phase) = match counted {
            Counted::Not => unreachable!("nothing counts it"),
            Counted::Apart(slot, phase) => (out.read(slot), out.read(phase)),
            Counted::Together(var) if stages == 1 => (out.int(0), out.read(var)),
            Counted::Together(var) => {
                let (count, slots) = (out.read(var), out.int(stages as i32));
                let slot = out.value(Op::Binary(Binary::Rem, count, slots), int.clone());
                (slot, out.value(Op::Binary(Binary::Div, count, slots), int))
            }
        };
        Turn { slot, phase, counted, stages }
    }

    /// The same turn, read again.
    fn again(&self, out: &mut Out<'_>) -> Turn {
        Turn::of(out, self.counted, self.stages)
    }
}

/// Counts on, at the end of a round.
fn count_on(out: &mut Out<'_>, turn: &Turn) {
    let (slot, phase) = match turn.counted {
        Counted::Not => return,
        Counted::Apart(slot, phase) => (slot, phase),
        Counted::Together(var) => {
            let count = out.read(var);
            let (next, laps) = (out.add(count, 1), out.int(2 * turn.stages as i32));
            let next = out.value(Op::Binary(Binary::Rem, next, laps), Type::scalar(Elem::I32));
            return out.effect(Op::Write(var, next));
        }
    };
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

/// Waits for a tile that is fetched once, before its first use. Where turns are counted it is released after its last.
fn await_once(func: &mut Func, consumers: &mut Vec<Stmt>, buffer: BufferId, slot: ValueId, counted: Option<&Turn>) {
    let tile = consumers.iter().find_map(|stmt| match stmt.op {
        Op::Shared(of, _) if of == buffer => stmt.result,
        _ => None,
    });
    let Some(tile) = tile else { return };
    let uses = |stmt: &Stmt| used_in(stmt).contains(&tile);
    let (Some(first), Some(last)) = (consumers.iter().position(uses), consumers.iter().rposition(uses)) else { return };
    let mut out = Out { func, stmts: Vec::new(), loc: consumers[last].loc };
    if let Some(turn) = counted {
        // Worked out again: kept, it would hold a register through the loop.
        let slot = turn.again(&mut out).slot;
        out.effect(Op::Release { buffer, slot });
        consumers.splice(last + 1..last + 1, std::mem::take(&mut out.stmts));
    }
    out.loc = consumers[first].loc;
    let (slot, phase) = match counted {
        Some(turn) => (turn.slot, turn.phase),
        None => (slot, out.int(0)),
    };
    out.effect(Op::Await { buffer, slot, phase });
    let stmts = out.stmts;
    consumers.splice(first..first, stmts);
}
