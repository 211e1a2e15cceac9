//! What warpgroups can multiply, and what a producer can fetch for them.
//!
//! A warpgroup multiplies 64 rows at once, in registers that lie as those of four warps with a band of 16 rows each; the right
//! operand lies in shared memory, where one thread has it copied, box by box. That asks more of a func than warps that
//! multiply and copy for themselves do; what does not fit stays with those.

use std::collections::HashSet;

use lacuna_ptx::Target;

use super::pipeline::issue_of;
use super::{lane_axes, operands, visit};
use crate::Error;
use crate::ir::{AxisId, BufferId, Elem, Func, Loc, Op, Overlap, Param, Roles, Slice, Stmt, ValueId};

/// Warps of a warpgroup.
pub(crate) const WARPGROUP: u32 = 4;

/// Rows of a box, and columns of a product, at most.
const MOST: u32 = 256;

/// Registers of a thread of the producer, and how many CTAs share a multiprocessor with them, by the number of the others'
/// warpgroups: the first that fits. A thread that only starts copies needs few. Of one warpgroup alone nothing runs beside its
/// softmax, but another CTA where that needs no more.
const PRODUCERS: [&[(u32, u32)]; 3] = [&[(24, 3), (40, 2), (56, 1)], &[(24, 1)], &[(32, 1)]];

/// Registers of a thread of the producer, at least, where its warps gather rows: to work out where they are takes more.
const GATHERING: u32 = 40;

/// Registers that ptxas (13.0) needs to begin with, beside its accumulators, where a thread multiplies.
const BESIDE: u32 = 30;

/// Registers of a consumer beside its tiles, and beside them those of a round that is under way with the next one's product.
const SCALARS: u32 = 27;
const UNDER_WAY: u32 = 42;

/// How the registers are shared out, if warpgroups of 64 rows each can do what a func says.
///
/// # Errors
/// If a thread begins with fewer than a product takes.
pub(super) fn roles(func: &Func, row_axis: AxisId) -> Result<Option<Roles>, Error> {
    let rows = func.axes[row_axis.index()].extent;
    let groups = rows / 64;
    let able = func.target.has(Target::SM_90A) && rows.is_multiple_of(64) && (1..=3).contains(&groups) && fits(func);
    if !able {
        return Ok(None);
    }
    let begins = |roles: &Roles| begin(groups, roles.ctas);
    let takes = widest(func) / 2 + BESIDE;
    let needs = tiles(func, groups) + SCALARS + if func.overlap == Overlap::Deferred { UNDER_WAY } else { 0 };
    let least = if gathers(func) { GATHERING } else { 0 };
    let of =
        PRODUCERS[groups as usize - 1].iter().map(|&(producer, ctas)| shared_out(groups, producer.max(least), ctas));
    let of: Vec<Roles> = of.collect();
    let fitting = |roles: &&Roles| takes <= begins(roles) && (roles.ctas == 1 || needs <= roles.consumer);
    match of.iter().find(fitting) {
        Some(roles) => Ok(Some(*roles)),
        None => Err(Error::Unsupported(format!(
            "{} threads begin with {} registers each, and a product of {} columns takes {takes}; fewer rows fit",
            32 * WARPGROUP * (groups + 1),
            begins(&of[of.len() - 1]),
            widest(func),
        ))),
    }
}

/// Registers that each thread begins with, beside so many other CTAs, in steps of 8.
fn begin(groups: u32, ctas: u32) -> u32 {
    65536 / (32 * WARPGROUP * (groups + 1) * ctas) / 8 * 8
}

/// What all threads begin with, but for the producer's, goes to the others, in steps of 8 and as far as a thread can have them.
fn shared_out(groups: u32, producer: u32, ctas: u32) -> Roles {
    let consumer = (begin(groups, ctas) * (groups + 1) - producer) / groups / 8 * 8;
    Roles { producer, consumer: consumer.min(256), ctas }
}

/// Columns of the widest product.
fn widest(func: &Func) -> u32 {
    let mut most = 0;
    visit(&func.body, &mut |stmt| {
        let ty = match (&stmt.op, stmt.result) {
            (Op::Dot(..), Some(result)) => &func.values[result.index()].ty,
            (Op::Accumulate(var, ..), _) => &func.vars[var.index()].ty,
            _ => return,
        };
        most = most.max(func.axes[ty.axes[1].index()].extent);
    });
    most
}

/// Registers of a consumer's tiles: what it sums up, a score tile, and half of that again where it is multiplied.
fn tiles(func: &Func, groups: u32) -> u32 {
    let threads = 32 * WARPGROUP * groups;
    let cells = |axes: &[AxisId]| axes.iter().map(|axis| func.axes[axis.index()].extent).product::<u32>();
    let vars: u32 = func.vars.iter().filter(|var| var.ty.rank() == 2).map(|var| cells(&var.ty.axes)).sum();
    let (mut scores, mut again) = (0, false);
    visit(&func.body, &mut |stmt| match (&stmt.op, stmt.result) {
        (Op::Dot(..), Some(result)) => scores = scores.max(cells(&func.values[result.index()].ty.axes)),
        (Op::Accumulate(..), _) => again = true,
        _ => {}
    });
    (vars + if again { scores * 3 / 2 } else { scores }) / threads
}

/// Whether a tile is fetched through shared memory.
fn is_operand(func: &Func, value: ValueId) -> bool {
    let ty = &func.values[value.index()].ty;
    ty.rank() == 2 && matches!(ty.elem, Elem::Bf16 | Elem::F16)
}

fn fits(func: &Func) -> bool {
    let lanes = lane_axes(func);
    let across = func.values.iter().any(|v| v.ty.rank() == 1 && lanes[v.ty.axes[0].index()]);
    if across || !func.tables.is_empty() {
        return false;
    }
    let known = common(&func.body);
    let mut fetched = false;
    // Loaded tiles that stand in shared memory where they are used: those of this body, and those outside loops.
    let mut outside = HashSet::new();
    for stmt in &func.body {
        let fits = match (&stmt.op, stmt.result) {
            (Op::Load(slice), Some(tile)) if is_operand(func, tile) => {
                outside.insert(tile);
                fetched |= fetched_by(func, &func.body, slice, &known).is_some_and(|says| says.is_empty());
                lies(func, tile)
            }
            (Op::For { pipelined: Some(_), body, lo, hi, .. }, _) => {
                let multiplied = multiplied(body);
                let loads: Vec<(&Slice, ValueId)> = body
                    .iter()
                    .filter_map(|stmt| match (&stmt.op, stmt.result) {
                        (Op::Load(slice), Some(tile)) if is_operand(func, tile) => Some((slice, tile)),
                        _ => None,
                    })
                    .collect();
                let here: HashSet<ValueId> = outside.iter().copied().chain(loads.iter().map(|load| load.1)).collect();
                let produced = loads.iter().all(|(slice, _)| boxed(func, slice))
                    && known.contains(lo)
                    && known.contains(hi)
                    && issue_is_known(func, body, &known);
                fetched |= produced && !loads.is_empty();
                loads.iter().all(|&(_, tile)| (produced || !multiplied.contains(&tile)) && lies(func, tile))
                    && products_fit(func, body, &here)
            }
            (Op::For { body, .. } | Op::If { body, .. }, _) => {
                let mut loads = false;
                visit(body, &mut |s| {
                    loads |= matches!(s.op, Op::Load(_)) && s.result.is_some_and(|r| is_operand(func, r))
                });
                !loads && products_fit(func, body, &outside)
            }
            _ => products_fit(func, std::slice::from_ref(stmt), &outside),
        };
        if !fits {
            return false;
        }
    }
    fetched
}

/// The left and right operands of the products of a body.
fn multiplied(body: &[Stmt]) -> HashSet<ValueId> {
    let mut found = HashSet::new();
    visit(body, &mut |stmt| {
        if let Op::Dot(lhs, rhs) | Op::Accumulate(_, lhs, rhs) = stmt.op {
            found.extend([lhs, rhs]);
        }
    });
    found
}

/// Whether a loaded tile can lie in panels of 32, 64 or 128 bytes a row, of whole groups of 8 rows.
fn lies(func: &Func, tile: ValueId) -> bool {
    let extent = |axis: AxisId| func.axes[axis.index()].extent;
    let axes = &func.values[tile.index()].ty.axes;
    extent(axes[0]).is_multiple_of(8) && extent(axes[1]).is_multiple_of(16)
}

/// Whether the products of a body have shapes that a warpgroup multiplies, with the right operands among `shared`.
fn products_fit(func: &Func, body: &[Stmt], shared: &HashSet<ValueId>) -> bool {
    let extent = |axis: AxisId| func.axes[axis.index()].extent;
    let mut fit = true;
    visit(body, &mut |stmt| {
        let (Op::Dot(lhs, rhs) | Op::Accumulate(_, lhs, rhs)) = stmt.op else { return };
        let (l, r) = (&func.values[lhs.index()].ty.axes, &func.values[rhs.index()].ty.axes);
        let free = if r[0] == l[1] { r[1] } else { r[0] };
        fit &= shared.contains(&rhs)
            && extent(free).is_multiple_of(8)
            && extent(free) <= MOST
            && extent(l[1]).is_multiple_of(16);
    });
    fit
}

/// Scalars that follow from the launch alone: every role can work them out before there are any.
pub(super) fn common(body: &[Stmt]) -> HashSet<ValueId> {
    let mut known = HashSet::new();
    for stmt in body {
        if is_common(stmt, &known) {
            known.extend(stmt.result);
        }
    }
    known
}

/// Whether a statement stands before the roles: scalars that follow from others there, and the early end of a CTA.
pub(super) fn is_common(stmt: &Stmt, known: &HashSet<ValueId>) -> bool {
    let pure = matches!(
        stmt.op,
        Op::Const(_)
            | Op::Param(_)
            | Op::ProgramId(_)
            | Op::Unary(..)
            | Op::Binary(..)
            | Op::Compare(..)
            | Op::Select(..)
            | Op::Fma(..)
            | Op::Convert(_)
            | Op::Element { .. }
            | Op::Segment { .. }
            | Op::Exit(_)
    );
    pure && operands(&stmt.op).iter().all(|operand| known.contains(operand))
}

/// Whether rows are a box of a tensor `[rows, heads, features]`, along its first dimension.
fn boxed(func: &Func, slice: &Slice) -> bool {
    let Param::Tensor(tensor) = &func.params[slice.tensor.index()] else { return false };
    tensor.dims.len() == 3 && slice.along == Some(0) && !func.is_gathered(slice)
}

/// The copy that `layout` makes of a load, for what looks at where its rows are: into any buffer and slot.
fn copied(from: &Slice, loc: Loc) -> Stmt {
    Stmt { result: None, op: Op::CopyAsync { from: from.clone(), buffer: BufferId(0), slot: from.count }, loc }
}

/// By what a producer fetches a tile that is loaded outside of loops, if it does: rows of a box by nothing but what is known,
/// and gathered ones, where CTAs persist, by statements of the body that say where each is. CTAs that do one tile have
/// nothing to gather ahead, and all their threads do it sooner.
pub(super) fn fetched_by(func: &Func, body: &[Stmt], slice: &Slice, known: &HashSet<ValueId>) -> Option<Vec<Stmt>> {
    let says = || slice.index.iter().chain([&slice.count]);
    if boxed(func, slice) && says().all(|value| known.contains(value)) {
        return Some(Vec::new());
    }
    if !func.persist || !func.is_gathered(slice) {
        return None;
    }
    let unknown = |stmt: &&Stmt| stmt.result.is_some_and(|result| !known.contains(&result));
    let copy = copied(slice, None);
    let issue = issue_of(func, &body.iter().filter(unknown).cloned().chain([copy]).collect::<Vec<_>>()).ok()?;
    let made: HashSet<ValueId> = issue.scalars.iter().filter_map(|stmt| stmt.result).collect();
    let needed = issue.scalars.iter().flat_map(|stmt| operands(&stmt.op)).chain(says().copied());
    let follows = needed.into_iter().all(|value| made.contains(&value) || known.contains(&value));
    (follows && issue.elements.is_empty()).then_some(issue.scalars)
}

/// Whether a producer gathers rows.
fn gathers(func: &Func) -> bool {
    let known = common(&func.body);
    func.body.iter().any(|stmt| match (&stmt.op, stmt.result) {
        (Op::Load(slice), Some(tile)) if is_operand(func, tile) => {
            fetched_by(func, &func.body, slice, &known).is_some_and(|says| !says.is_empty())
        }
        _ => false,
    })
}

/// Whether a producer fetches the tiles of a loop, once they are copies.
pub(super) fn is_produced(func: &Func, stmt: &Stmt, known: &HashSet<ValueId>) -> bool {
    let Op::For { pipelined: Some(_), lo, hi, body, .. } = &stmt.op else { return false };
    let mut copies = body.iter().filter_map(|stmt| match &stmt.op {
        Op::CopyAsync { from, .. } => Some(from),
        _ => None,
    });
    let multiplied = multiplied(body);
    let tiles = body.iter().filter(|s| matches!(s.op, Op::Shared(..))).filter_map(|s| s.result);
    let mut tiles = tiles.peekable();
    tiles.peek().is_some()
        && tiles.all(|tile| multiplied.contains(&tile))
        && copies.all(|from| boxed(func, from))
        && known.contains(lo)
        && known.contains(hi)
        && issue_is_known(func, body, known)
}

/// Whether what says where a round's rows are follows from the round and from what every role knows.
fn issue_is_known(func: &Func, body: &[Stmt], known: &HashSet<ValueId>) -> bool {
    // Before `layout` rows are loaded, after it they are copied.
    let as_copies: Vec<Stmt> = body
        .iter()
        .map(|stmt| match (&stmt.op, stmt.result) {
            (Op::Load(from), Some(tile)) if is_operand(func, tile) => copied(from, stmt.loc),
            _ => stmt.clone(),
        })
        .collect();
    let Ok(issue) = issue_of(func, &as_copies) else { return false };
    let made: HashSet<ValueId> = issue.scalars.iter().chain(&issue.elements).filter_map(|stmt| stmt.result).collect();
    let inside: HashSet<ValueId> = body.iter().filter_map(|stmt| stmt.result).collect();
    let mut needed = issue.scalars.iter().chain(&issue.elements).flat_map(|stmt| operands(&stmt.op)).chain(
        issue
            .copies
            .iter()
            .filter_map(|stmt| match &stmt.op {
                Op::CopyAsync { from, .. } => Some(from.index.iter().copied().chain([from.count])),
                _ => None,
            })
            .flatten(),
    );
    // The loop's index is made by no statement, and known to no one else.
    needed.all(|value| {
        made.contains(&value) || known.contains(&value) || !inside.contains(&value) && !is_made(func, value)
    })
}

/// Whether some statement outside of loops makes a value; if none does, it is a loop's index.
fn is_made(func: &Func, value: ValueId) -> bool {
    func.body.iter().any(|stmt| stmt.result == Some(value))
}
