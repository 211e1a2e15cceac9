//! Turns the copies of a `pipelined` loop into asynchronous copies, `stages` deep, and makes every shared tile waited for.
//!
//! In:  every shared tile is made right after its copy, in slot 0 of a buffer of its own; no commit, wait or barrier.
//! Out: in a pipelined loop the copies of round `i + stages - 1` are issued in round `i`, after the barrier that ends every
//!      warp's use of the slot they overwrite; each round commits one group, full or empty, so that the number in flight is
//!      the same on every path. Buffers have one slot a stage. What the copies' addresses are computed from is computed for
//!      the round that they serve; single table elements among it (block indices) are fetched one round deeper still, and
//!      travel in vars. Copies outside loops are one group, issued before the first loop fills its stages. Nothing is in flight
//!      after a loop.
//!
//! ```text
//!   copy q; commit
//!   round 0 .. stages-2:  if it exists { copy k, v };  commit             fill
//!   for i in lo..hi {
//!     wait stages-2; barrier                                             round i has landed, for every warp
//!     if i + stages-1 < hi { copy k, v of that round };  commit          into the slot that round i-1 used
//!     ...                                                                 the body, on round i's slot
//!   }
//!   wait 0
//! ```
//!
//! One stage fetches nothing ahead: a round begins with a barrier, its own copies, and their wait. Consumers fill a loop's stages
//! before they wait for what is fetched for them, where they can ([`early`](super::early)).

use std::collections::{HashMap, HashSet};

use super::{fresh, operands, operands_mut};
use crate::Error;
use crate::ir::{Binary, Compare, Const, Elem, Func, Loc, Op, Stmt, Type, ValueId, Var, VarId};

/// The pass.
pub(super) fn run(mut func: Func) -> Result<Func, Error> {
    let mut body = std::mem::take(&mut func.body);
    // Where there are roles, what is left to copy is the consumers'.
    match body.pop() {
        Some(Stmt { result, op: Op::Consume(consumers), loc }) => {
            let consumers = top(&mut func, consumers)?;
            body.push(Stmt { result, op: Op::Consume(consumers), loc });
        }
        last => {
            body.extend(last);
            body = top(&mut func, body)?;
        }
    }
    func.body = body;
    Ok(func)
}

/// The function's own statements: copies outside loops become groups, loops are pipelined.
fn top(func: &mut Func, mut body: Vec<Stmt>) -> Result<Vec<Stmt>, Error> {
    let early = super::early::place(func, &mut body);
    let mut filled = None;
    let mut out = Out { func, stmts: Vec::new(), loc: None };
    // Shared tiles whose copy is under way, and the operands to be read from them once they have landed.
    let mut pending: HashSet<ValueId> = HashSet::new();
    let mut held: Vec<Stmt> = Vec::new();
    let mut committed = true;
    for (at, stmt) in body.into_iter().enumerate() {
        if let Some((_, of)) = early.as_ref().filter(|&&(before, _)| before == at) {
            out.loc = of.loc;
            filled = Some(filled_stages(&mut out, of)?);
        }
        out.loc = stmt.loc;
        match &stmt.op {
            Op::CopyAsync { .. } => {
                committed = false;
                out.stmts.push(stmt);
            }
            // What a producer fetches is awaited already.
            Op::Shared(buffer, _) if out.func.buffers[buffer.index()].ring => out.stmts.push(stmt),
            Op::Shared(..) => {
                pending.extend(stmt.result);
                out.stmts.push(stmt);
            }
            Op::Operand(shared) if pending.contains(shared) => held.push(stmt),
            Op::For { pipelined: Some(stages), .. } => {
                let stages = *stages;
                if stages == 0 {
                    return Err(Error::Unsupported("a pipelined loop with 0 stages; 1 or more are right".to_owned()));
                }
                if !committed {
                    out.effect(Op::Commit);
                    committed = true;
                }
                let landing = (!pending.is_empty()).then(|| std::mem::take(&mut held));
                pending.clear();
                let filled = match filled.take() {
                    Some(filled) => filled,
                    None => filled_stages(&mut out, &stmt)?,
                };
                pipelined_loop(&mut out, stmt, filled, stages, landing);
            }
            op => {
                let uses_pending =
                    operands(op).iter().any(|v| pending.contains(v) || held.iter().any(|h| h.result == Some(*v)));
                if uses_pending || matches!(op, Op::For { .. } | Op::If { .. }) && !pending.is_empty() {
                    if !committed {
                        out.effect(Op::Commit);
                        committed = true;
                    }
                    out.effect(Op::Wait(0));
                    out.seen_by_products();
                    out.effect(Op::Barrier);
                    out.stmts.append(&mut held);
                    pending.clear();
                }
                out.stmts.push(stmt);
            }
        }
    }
    Ok(out.stmts)
}

/// Statements under construction.
pub(super) struct Out<'a> {
    pub(super) func: &'a mut Func,
    pub(super) stmts: Vec<Stmt>,
    pub(super) loc: Loc,
}

impl Out<'_> {
    pub(super) fn effect(&mut self, op: Op) {
        self.stmts.push(Stmt { result: None, op, loc: self.loc });
    }

    pub(super) fn value(&mut self, op: Op, ty: Type) -> ValueId {
        let result = fresh(self.func, ty, self.loc);
        self.stmts.push(Stmt { result: Some(result), op, loc: self.loc });
        result
    }

    pub(super) fn int(&mut self, value: i32) -> ValueId {
        self.value(Op::Const(Const::I32(value)), Type::scalar(Elem::I32))
    }

    pub(super) fn add(&mut self, a: ValueId, b: i32) -> ValueId {
        if b == 0 {
            return a;
        }
        let b = self.int(b);
        self.value(Op::Binary(Binary::Add, a, b), Type::scalar(Elem::I32))
    }

    pub(super) fn less(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.value(Op::Compare(Compare::Lt, a, b), Type::scalar(Elem::Bool))
    }

    /// Tiles outside of loops that have landed are seen by the products of warpgroups, after the barrier that follows.
    fn seen_by_products(&mut self) {
        if self.func.partition.is_some_and(|part| part.roles.is_some()) {
            self.effect(Op::Publish);
        }
    }

    /// `slot + by`, round again past the last of `slots`.
    pub(super) fn wrapped(&mut self, slot: ValueId, by: i32, slots: u32) -> ValueId {
        let slots = slots as i32;
        let on = self.add(slot, by);
        let back = self.add(slot, by - slots);
        let last = self.int(slots);
        let fits = self.less(on, last);
        self.value(Op::Select(fits, on, back), Type::scalar(Elem::I32))
    }

    pub(super) fn var(&mut self, name: String) -> VarId {
        let ty = Type::scalar(Elem::I32);
        self.func.vars.push(Var { name, ty, init: Const::I32(0), lasts: false, loc: self.loc });
        VarId(self.func.vars.len() as u32 - 1)
    }

    pub(super) fn read(&mut self, var: VarId) -> ValueId {
        let ty = self.func.vars[var.index()].ty.clone();
        self.value(Op::Read(var), ty)
    }

    /// Everything that `build` appends, under a condition.
    pub(super) fn when(&mut self, cond: ValueId, build: impl FnOnce(&mut Self)) {
        let before = std::mem::take(&mut self.stmts);
        build(self);
        let body = std::mem::replace(&mut self.stmts, before);
        self.effect(Op::If { cond, body });
    }
}

/// What one round's copies need: the statements that compute it, in order, and the copies.
pub(super) struct Issue {
    /// What the copies depend on, without single table elements. Tiles among it are worked out where the rows are copied.
    pub(super) scalars: Vec<Stmt>,
    /// Table elements among them, with the statements that their own indices depend on before each.
    pub(super) elements: Vec<Stmt>,
    pub(super) copies: Vec<Stmt>,
}

/// The statements of `body` that its copies depend on.
pub(super) fn issue_of(func: &Func, body: &[Stmt]) -> Result<Issue, Error> {
    let copies: Vec<Stmt> = body.iter().filter(|s| matches!(s.op, Op::CopyAsync { .. })).cloned().collect();
    let mut needed: HashSet<ValueId> = HashSet::new();
    for copy in &copies {
        if let Op::CopyAsync { from, .. } = &copy.op {
            needed.extend(from.index.iter().copied().chain([from.count]));
        }
    }
    let mut of_elements: HashSet<ValueId> = HashSet::new();
    let (mut scalars, mut elements) = (Vec::new(), Vec::new());
    for stmt in body.iter().rev() {
        let Some(result) = stmt.result else { continue };
        let (direct, through) = (needed.contains(&result), of_elements.contains(&result));
        if !direct && !through {
            continue;
        }
        match &stmt.op {
            Op::Element { index, .. } if func.values[result.index()].ty.rank() == 0 => {
                if through {
                    return Err(Error::Unsupported(
                        "a pipelined loop whose loads follow two tables, one indexed by the other; read the first outside the loop"
                            .to_owned(),
                    ));
                }
                of_elements.extend(index.iter().copied());
                elements.push(stmt.clone());
            }
            Op::Const(_)
            | Op::Unary(..)
            | Op::Binary(..)
            | Op::Compare(..)
            | Op::Select(..)
            | Op::Iota(_)
            | Op::Broadcast(_)
            | Op::Element { .. }
            | Op::Param(_)
            | Op::ProgramId(_) => {
                let into = if direct { &mut needed } else { &mut of_elements };
                into.extend(operands(&stmt.op));
                if through {
                    of_elements.extend(operands(&stmt.op));
                    elements.push(stmt.clone());
                }
                if direct {
                    scalars.push(stmt.clone());
                }
            }
            op => {
                return Err(Error::Unsupported(format!(
                    "the loads of a pipelined loop depend on {}, which is not known before the round they are for",
                    super::name_of(op)
                )));
            }
        }
    }
    scalars.reverse();
    elements.reverse();
    Ok(Issue { scalars, elements, copies })
}

/// Appends copies of `stmts` with fresh results, `map` renaming their operands.
pub(super) fn replay(out: &mut Out<'_>, stmts: &[Stmt], map: &mut HashMap<ValueId, ValueId>) {
    for stmt in stmts {
        let mut stmt = stmt.clone();
        operands_mut(&mut stmt.op, &mut |v| *v = map.get(v).copied().unwrap_or(*v));
        if let Some(result) = stmt.result {
            let ty = out.func.values[result.index()].ty.clone();
            let renamed = fresh(out.func, ty, stmt.loc);
            map.insert(result, renamed);
            stmt.result = Some(renamed);
        }
        out.stmts.push(stmt);
    }
}

/// A loop's stages, but for the last one, filled: what a round's copies need, and the table elements that are fetched ahead.
struct Filled {
    issue: Issue,
    tables: Vec<ValueId>,
    /// A queue a table element: entry k serves round i + k; the last is one round deeper than the copies need.
    queues: Vec<Vec<VarId>>,
}

impl Filled {
    /// Fetches the table elements of a round.
    fn fetch(&self, out: &mut Out<'_>, index: ValueId, round: ValueId, entry: usize) {
        let mut map = HashMap::from([(index, round)]);
        replay(out, &self.issue.elements, &mut map);
        for (table, queue) in self.tables.iter().zip(&self.queues) {
            out.effect(Op::Write(queue[entry], map[table]));
        }
    }

    /// Makes the copies of a round.
    fn copy(&self, out: &mut Out<'_>, index: ValueId, round: ValueId, entry: usize, slot: ValueId) {
        let mut map = HashMap::from([(index, round)]);
        for (table, queue) in self.tables.iter().zip(&self.queues) {
            let element = out.read(queue[entry]);
            map.insert(*table, element);
        }
        replay(out, &self.issue.scalars, &mut map);
        for stmt in &self.issue.copies {
            let mut stmt = stmt.clone();
            operands_mut(&mut stmt.op, &mut |v| *v = map.get(v).copied().unwrap_or(*v));
            if let Op::CopyAsync { slot: s, .. } = &mut stmt.op {
                *s = slot;
            }
            out.stmts.push(stmt);
        }
    }
}

/// Fills the stages of a loop.
fn filled_stages(out: &mut Out<'_>, stmt: &Stmt) -> Result<Filled, Error> {
    let Op::For { index, lo, hi, pipelined: Some(stages), body } = &stmt.op else {
        unreachable!("called for pipelined loops")
    };
    let (index, lo, hi, stages) = (*index, *lo, *hi, *stages);
    let issue = issue_of(out.func, body)?;
    for copy in &issue.copies {
        if let Op::CopyAsync { buffer, .. } = &copy.op {
            out.func.buffers[buffer.index()].slots = stages;
        }
    }
    let tables: Vec<ValueId> =
        issue.elements.iter().filter(|s| matches!(s.op, Op::Element { .. })).filter_map(|s| s.result).collect();
    let queues = (0..tables.len())
        .map(|t| (0..=stages).map(|k| out.var(format!("ahead{}_{t}_{k}", out.func.vars.len()))).collect())
        .collect();
    let filled = Filled { issue, tables, queues };
    if !filled.tables.is_empty() {
        for k in 0..=stages as i32 {
            let round = out.add(lo, k);
            let exists = out.less(round, hi);
            out.when(exists, |out| filled.fetch(out, index, round, k as usize));
        }
    }
    for k in 0..stages as i32 - 1 {
        let round = out.add(lo, k);
        let exists = out.less(round, hi);
        out.when(exists, |out| {
            let slot = out.int(k);
            filled.copy(out, index, round, k as usize, slot);
        });
        out.effect(Op::Commit);
    }
    Ok(filled)
}

/// A loop whose stages are filled.
fn pipelined_loop(out: &mut Out<'_>, stmt: Stmt, filled: Filled, stages: u32, landing: Option<Vec<Stmt>>) {
    let Op::For { index, lo, hi, pipelined, body } = stmt.op else { unreachable!("called for loops") };
    let ahead = stages as i32 - 1;
    let Filled { tables, queues, .. } = &filled;
    if let Some(mut held) = landing
        && !held.is_empty()
    {
        out.effect(Op::Wait(ahead as u32));
        out.seen_by_products();
        out.effect(Op::Barrier);
        out.stmts.append(&mut held);
    }

    // The loop. Its slot is worked out from its index where that is a mask away, and counted otherwise; the slot ahead is
    // worked out from it. Either costs less than a register would.
    let from_zero = out.stmts.iter().any(|s| s.result == Some(lo) && matches!(s.op, Op::Const(Const::I32(0))));
    let counted = (stages > 1 && (!from_zero || !stages.is_power_of_two()))
        .then(|| out.var(format!("slot{}", out.func.vars.len())));
    let before = std::mem::take(&mut out.stmts);
    if stages > 1 {
        out.effect(Op::Wait(stages - 2));
    }
    out.effect(Op::Barrier);
    let later = (stages > 1).then(|| {
        let later = out.add(index, ahead);
        (later, out.less(later, hi))
    });
    let slot = match counted {
        None if stages == 1 => out.int(0),
        Some(var) => out.read(var),
        None => {
            let slots = out.int(stages as i32);
            out.value(Op::Binary(Binary::Rem, index, slots), Type::scalar(Elem::I32))
        }
    };
    match later {
        Some((later, exists)) => out.when(exists, |out| {
            let slot = out.wrapped(slot, ahead, stages);
            filled.copy(out, index, later, ahead as usize, slot);
        }),
        None => filled.copy(out, index, index, 0, slot),
    }
    out.effect(Op::Commit);
    if stages == 1 {
        out.effect(Op::Wait(0));
        out.effect(Op::Barrier);
    }
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    for (table, queue) in tables.iter().zip(queues) {
        let element = out.read(queue[0]);
        map.insert(*table, element);
    }
    for mut stmt in body {
        out.loc = stmt.loc;
        match &mut stmt.op {
            Op::CopyAsync { .. } => continue,
            Op::Element { .. } if stmt.result.is_some_and(|r| map.contains_key(&r)) => continue,
            Op::Shared(_, s) => *s = slot,
            _ => {}
        }
        rename(&mut stmt, &map);
        out.stmts.push(stmt);
    }
    if !tables.is_empty() {
        for queue in queues {
            for pair in queue.windows(2) {
                let moved = out.read(pair[1]);
                out.effect(Op::Write(pair[0], moved));
            }
        }
        let deeper = out.add(index, stages as i32 + 1);
        let exists = out.less(deeper, hi);
        out.when(exists, |out| filled.fetch(out, index, deeper, stages as usize));
    }
    if let Some(var) = counted {
        let slot = out.wrapped(slot, 1, stages);
        out.effect(Op::Write(var, slot));
    }
    let body = std::mem::replace(&mut out.stmts, before);
    out.stmts.push(Stmt { result: None, op: Op::For { index, lo, hi, pipelined, body }, loc: stmt.loc });
    out.effect(Op::Wait(0));
}

/// Renames operands in a statement and in what it encloses.
pub(super) fn rename(stmt: &mut Stmt, map: &HashMap<ValueId, ValueId>) {
    operands_mut(&mut stmt.op, &mut |v| *v = map.get(v).copied().unwrap_or(*v));
    if let Some(body) = stmt.op.body_mut() {
        body.iter_mut().for_each(|s| rename(s, map));
    }
}
