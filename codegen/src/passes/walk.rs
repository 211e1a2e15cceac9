//! Walking over statements: their operands, and what they enclose.

use crate::ir::{Func, Loc, Op, Slice, Stmt, Type, Value, ValueId};

/// Calls `see` for every statement, enclosed ones after the one that encloses them.
pub(crate) fn visit(body: &[Stmt], see: &mut impl FnMut(&Stmt)) {
    for stmt in body {
        see(stmt);
        if let Some(body) = stmt.op.body() {
            visit(body, see);
        }
    }
}

/// Calls `see` for every value that the operation itself reads, not for what enclosed statements read.
pub(crate) fn operands_mut(op: &mut Op, see: &mut impl FnMut(&mut ValueId)) {
    let slice = |slice: &mut Slice, see: &mut dyn FnMut(&mut ValueId)| {
        slice.index.iter_mut().for_each(&mut *see);
        see(&mut slice.count);
    };
    match op {
        Op::Const(_)
        | Op::Param(_)
        | Op::ProgramId(_)
        | Op::Iota(_)
        | Op::Read(_)
        | Op::Settle(_)
        | Op::Clear(_)
        | Op::BestColumn(..)
        | Op::BestScore(..)
        | Op::Commit
        | Op::Wait(_)
        | Op::Barrier
        | Op::Produce(_)
        | Op::Consume(_)
        | Op::Loop(_)
        | Op::Publish
        | Op::Turn
        | Op::Pass
        | Op::Fence
        | Op::Close
        | Op::Land(_) => {}
        Op::Unary(_, a)
        | Op::Convert(a)
        | Op::Broadcast(a)
        | Op::Reduce(_, a)
        | Op::Write(_, a)
        | Op::Exit(a)
        | Op::Fold(_, a)
        | Op::Scan(a)
        | Op::Total(a)
        | Op::Operand(a) => {
            see(a);
        }
        Op::Binary(_, a, b) | Op::Compare(_, a, b) | Op::Dot(a, b) | Op::Accumulate(_, a, b) => {
            see(a);
            see(b);
        }
        Op::Select(a, b, c) | Op::Fma(a, b, c) => [a, b, c].into_iter().for_each(see),
        Op::Element { index, .. } => index.iter_mut().for_each(see),
        Op::Segment { row, segments, at, .. } => {
            row.iter_mut().for_each(&mut *see);
            see(segments);
            see(at);
        }
        Op::SetElement { index, value, keep, .. } => {
            index.iter_mut().for_each(&mut *see);
            see(value);
            see(keep);
        }
        Op::TableGet { index, .. } => see(index),
        Op::TableSet { index, value, keep, .. } | Op::TableAdd { index, value, keep, .. } => {
            [index, value, keep].into_iter().for_each(see)
        }
        Op::CountUp { key, keep, .. } => {
            see(key);
            see(keep);
        }
        Op::Take { scores, first, after, .. } => {
            see(scores);
            see(first);
            after.iter_mut().flatten().for_each(see);
        }
        Op::Load(s) => slice(s, see),
        Op::Store(s, tile) => {
            slice(s, see);
            see(tile);
        }
        Op::Merge { scale, .. } => see(scale),
        Op::For { lo, hi, .. } => {
            see(lo);
            see(hi);
        }
        Op::If { cond, .. } | Op::Leave { cond, .. } | Op::Again { cond, .. } => see(cond),
        Op::CopyAsync { from, slot, .. } | Op::Fill { from, slot, .. } => {
            slice(from, see);
            see(slot);
        }
        Op::Shared(_, slot) | Op::Release { slot, .. } => see(slot),
        Op::Acquire { slot, phase, .. } | Op::Await { slot, phase, .. } => {
            see(slot);
            see(phase);
        }
        Op::Start { lhs, rhs, .. } => {
            see(lhs);
            see(rhs);
        }
        Op::Hold(values) => values.iter_mut().for_each(see),
    }
}

/// The values that the operation itself reads.
pub(crate) fn operands(op: &Op) -> Vec<ValueId> {
    let mut all = Vec::new();
    // Enclosed statements are not looked at, so they need not be copied.
    let mut shallow = match op {
        Op::For { index, lo, hi, pipelined, .. } => {
            Op::For { index: *index, lo: *lo, hi: *hi, pipelined: *pipelined, body: Vec::new() }
        }
        Op::If { cond, .. } => Op::If { cond: *cond, body: Vec::new() },
        Op::Leave { cond, .. } | Op::Again { cond, .. } => Op::Leave { cond: *cond, body: Vec::new() },
        Op::Produce(_) | Op::Consume(_) | Op::Loop(_) => return all,
        op => op.clone(),
    };
    operands_mut(&mut shallow, &mut |v| all.push(*v));
    all
}

/// Which axes are in no tile of two axes: tiles over them lie across the threads of the CTA.
pub(crate) fn lane_axes(func: &Func) -> Vec<bool> {
    let mut lanes = vec![true; func.axes.len()];
    let values = func.values.iter().map(|value| &value.ty);
    let kept = func.vars.iter().map(|var| &var.ty).chain(func.buffers.iter().map(|buffer| &buffer.ty));
    for axis in values.chain(kept).filter(|ty| ty.rank() > 1).flat_map(|ty| &ty.axes) {
        // The verifier has yet to say that the axis exists.
        if let Some(lane) = lanes.get_mut(axis.index()) {
            *lane = false;
        }
    }
    lanes
}

/// A new value.
pub(crate) fn fresh(func: &mut Func, ty: Type, loc: Loc) -> ValueId {
    func.values.push(Value { ty, loc });
    ValueId(func.values.len() as u32 - 1)
}

/// Whether a statement does nothing but make a scalar, which it makes again wherever it is repeated: of scalars, elements of tables
/// and what vars hold.
pub(crate) fn is_scalar(func: &Func, stmt: &Stmt) -> bool {
    let plain = matches!(
        stmt.op,
        Op::Const(_)
            | Op::Param(_)
            | Op::ProgramId(_)
            | Op::Unary(..)
            | Op::Binary(..)
            | Op::Compare(..)
            | Op::Select(..)
            | Op::Element { .. }
            | Op::Read(_)
    );
    let ty = |value: ValueId| func.values.get(value.index()).map(|value| &value.ty);
    plain && stmt.result.and_then(ty).is_some_and(|ty| ty.rank() == 0)
}

/// What an operation is called in a message to an author.
pub(crate) fn name_of(op: &Op) -> &'static str {
    match op {
        Op::Const(_) => "a constant",
        Op::Param(_) => "a parameter",
        Op::ProgramId(_) => "the grid position",
        Op::Unary(..) | Op::Binary(..) | Op::Fma(..) => "arithmetic",
        Op::Compare(..) | Op::Select(..) => "a choice",
        Op::Convert(_) => "a conversion",
        Op::Iota(_) | Op::Broadcast(_) => "an index tile",
        Op::Reduce(..) | Op::Fold(..) => "a reduction",
        Op::Scan(_) | Op::Total(_) => "a prefix sum",
        Op::SetElement { .. } => "an element that is stored",
        Op::TableGet { .. } | Op::TableSet { .. } | Op::TableAdd { .. } => "a table in shared memory",
        Op::CountUp { .. } => "a count",
        Op::Take { .. } | Op::Settle(_) | Op::Clear(_) | Op::BestColumn(..) | Op::BestScore(..) => "the best of rows",
        Op::Element { .. } => "a table element",
        Op::Segment { .. } => "a search of a table",
        Op::Load(_) | Op::CopyAsync { .. } | Op::Fill { .. } | Op::Shared(..) | Op::Operand(_) => "a loaded tile",
        Op::Store(..) => "a store",
        Op::Dot(..) | Op::Accumulate(..) | Op::Start { .. } => "a product",
        Op::Read(_) | Op::Write(..) => "a var",
        Op::Merge { .. } => "a merge",
        Op::For { .. } | Op::Loop(_) | Op::Leave { .. } | Op::Again { .. } => "a loop",
        Op::If { .. } => "a branch",
        Op::Exit(_) => "an early end",
        Op::Produce(_) | Op::Consume(_) => "a role",
        Op::Commit | Op::Wait(_) | Op::Barrier => "a wait",
        Op::Acquire { .. } | Op::Await { .. } | Op::Release { .. } | Op::Publish => "a wait",
        Op::Fence | Op::Close | Op::Land(_) | Op::Hold(_) | Op::Turn | Op::Pass => "a wait",
    }
}
