//! Where each loaded tile lives: gives every load a shared-memory buffer, and decides which left operands stay in registers.
//!
//! In:  a partitioned func; tiles are loaded by `load`.
//! Out: no `load` of a tile of two axes is left: each is a copy into slot 0 of its own buffer, and the shared tile. Left operands loaded
//!      outside every loop are `operand`s in registers where the estimate of live registers allows it, and shared tiles
//!      otherwise. What is converted is an `operand` in registers: its fragment is that of the accumulators. Nothing waits
//!      yet for a copy: that is the next pass.

use std::collections::HashSet;

use super::{fresh, operands, visit};
use crate::Error;
use crate::ir::{Buffer, BufferId, Const, Elem, Func, Loc, Op, Stmt, Type, ValueId};

/// Registers that a thread may have, less what addresses, indices and row state take.
const BUDGET: u32 = 255 - 56;

/// The pass.
pub(super) fn run(mut func: Func) -> Result<Func, Error> {
    check_uses(&func)?;
    let (state, lhs) = registers(&func);
    // Where the best of rows are found, warps wait for one another's comparisons, and more of them at once is worth more than
    // fewer reads of Q.
    // Warpgroups multiply a left operand where it lies.
    let warps = func.partition.is_none_or(|part| part.roles.is_none());
    let keep = warps && state + lhs <= BUDGET && func.bests.is_empty();
    let mut body = std::mem::take(&mut func.body);
    place(&mut func, &mut body, 0, keep, &mut HashSet::new());
    func.body = body;
    Ok(func)
}

/// Whether a loaded tile comes to registers through shared memory: tiles of two axes that tensor cores multiply. Of others each
/// thread fetches what it has.
fn through_shared(ty: &Type) -> bool {
    ty.rank() == 2 && ty.elem != Elem::F32
}

/// A loaded 16-bit tile is an operand of products, or converted; nothing else is done with one.
fn check_uses(func: &Func) -> Result<(), Error> {
    let mut loaded = Vec::new();
    let mut wrong = None;
    visit(&func.body, &mut |stmt| match &stmt.op {
        Op::Load(_) => loaded.extend(stmt.result.filter(|v| through_shared(&func.values[v.index()].ty))),
        Op::Dot(..) | Op::Accumulate(..) | Op::Convert(_) => {}
        op => {
            if operands(op).iter().any(|v| loaded.contains(v)) {
                wrong.get_or_insert(stmt.loc);
            }
        }
    });
    match wrong {
        None => Ok(()),
        Some(Some(loc)) => Err(Error::Staging(vec![crate::ir::Diagnostic {
            message: "a tile loaded from memory is an operand of a product, or is converted to f32 first".to_owned(),
            label: "used here in another way".to_owned(),
            loc,
        }])),
        Some(None) => Err(Error::Unsupported(format!("`{}` uses a loaded tile outside a product", func.name))),
    }
}

/// Registers a thread needs for the accumulators and score tiles of the func, and for its left operands.
pub(crate) fn registers(func: &Func) -> (u32, u32) {
    let Some(part) = func.partition else { return (0, 0) };
    let threads = 32 * func.warps;
    let per_thread = |ty: &Type| {
        let cells: u32 = ty.axes.iter().map(|a| func.axes[a.index()].extent).product();
        let split = if part.col_axis.is_some_and(|c| ty.axes.contains(&c)) { threads } else { 32 * part.rows };
        cells * ty.elem.bytes().max(2) / 4 / split.max(1)
    };
    let vars: u32 = func.vars.iter().filter(|v| v.ty.rank() == 2).map(|v| per_thread(&v.ty)).sum();
    let (mut scores, mut lhs) = (0, 0);
    let mut loaded = Vec::new();
    let mut only_columns = None;
    visit(&func.body, &mut |stmt| match &stmt.op {
        Op::Load(_) | Op::Operand(_) => loaded.extend(stmt.result),
        Op::Dot(a, _) => {
            if let Some(result) = stmt.result {
                let ty = &func.values[result.index()].ty;
                scores = scores.max(per_thread(ty));
                only_columns = ty.axes.get(1).copied();
            }
            if loaded.contains(a) {
                lhs += per_thread(&func.values[a.index()].ty);
            }
        }
        _ => {}
    });
    // Each of the best of a row is a score and a column.
    let bests = |best: &crate::ir::Best| func.axes[best.axis.index()].extent / (8 * part.rows) * best.count * 2;
    let vars = vars + func.bests.iter().map(bests).sum::<u32>();
    // Scores once as f32 and half again as the 16-bit operand of the second product, where there is one; a score var stands
    // for the same.
    let second = if part.col_axis.is_some() { scores / 2 } else { 0 };
    let columns = part.col_axis.or(only_columns);
    let kept = func.vars.iter().any(|v| v.ty.rank() == 2 && v.ty.axes.get(1).copied() == columns && columns.is_some());
    (vars + if kept { second } else { scores + second }, lhs)
}

/// `shared` are the tiles that stand in shared memory so far.
fn place(func: &mut Func, body: &mut Vec<Stmt>, depth: usize, keep: bool, shared: &mut HashSet<ValueId>) {
    let lhs = left_operands(body);
    let mut out = Vec::with_capacity(body.len() + 8);
    for mut stmt in std::mem::take(body) {
        match &mut stmt.op {
            Op::For { body, .. } | Op::If { body, .. } => {
                place(func, body, depth + 1, keep, shared);
                out.push(stmt);
            }
            Op::Load(slice)
                if let Some(result) = stmt.result
                    && through_shared(&func.values[result.index()].ty) =>
            {
                let ty = func.values[result.index()].ty.clone();
                let name = func.params[slice.tensor.index()].name().to_owned();
                let buffer = buffer(func, name, ty.clone());
                let slot = fresh(func, Type::scalar(Elem::I32), stmt.loc);
                out.push(Stmt { result: Some(slot), op: Op::Const(Const::I32(0)), loc: stmt.loc });
                out.push(Stmt { result: None, op: Op::CopyAsync { from: slice.clone(), buffer, slot }, loc: stmt.loc });
                if depth == 0 && keep && lhs.contains(&result) {
                    let tile = fresh(func, ty, stmt.loc);
                    out.push(shared_tile(tile, buffer, slot, stmt.loc));
                    out.push(Stmt { result: Some(result), op: Op::Operand(tile), loc: stmt.loc });
                } else {
                    out.push(shared_tile(result, buffer, slot, stmt.loc));
                    shared.insert(result);
                }
            }
            Op::Convert(tile) if shared.contains(tile) => {
                let ty = func.values[tile.index()].ty.clone();
                let operand = fresh(func, ty, stmt.loc);
                out.push(Stmt { result: Some(operand), op: Op::Operand(*tile), loc: stmt.loc });
                *tile = operand;
                out.push(stmt);
            }
            _ => out.push(stmt),
        }
    }
    *body = out;
}

fn shared_tile(result: ValueId, buffer: BufferId, slot: ValueId, loc: Loc) -> Stmt {
    Stmt { result: Some(result), op: Op::Shared(buffer, slot), loc }
}

fn left_operands(body: &[Stmt]) -> Vec<ValueId> {
    let mut lhs = Vec::new();
    visit(body, &mut |stmt| {
        if let Op::Dot(a, _) | Op::Accumulate(_, a, _) = stmt.op {
            lhs.push(a);
        }
    });
    lhs
}

fn buffer(func: &mut Func, name: String, ty: Type) -> BufferId {
    func.buffers.push(Buffer { name, ty, slots: 1, ring: false });
    BufferId(func.buffers.len() as u32 - 1)
}
