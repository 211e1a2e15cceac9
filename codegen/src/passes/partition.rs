//! Who does what: gives the row axis and the column axis to warps.
//!
//! In:  a verified func; every product is between tiles that were loaded or made from scores. Without products, the rows are
//!      those of the tiles of two axes.
//! Out: `func.partition` is set. `rows * cols` is the number of warps; each warp has whole bands of 16 rows, and whole
//!      steps of 16 columns; one that finds the best of rows has all of their columns. A value that only one part of the
//!      column axis knows reaches a store only through a merge. Without tiles of two axes there are no rows
//!      and columns. No rows are loaded or stored as a lane tile. Where warpgroups can multiply, there is a warp a band,
//!      whatever the pick says of warps, and the registers are shared out between them and a warpgroup more, which fetches.
//!
//! Rows are split first: warps that share rows would need one another's row maxima. What rows are left over, a small
//! group's for instance, goes to the column axis: each warp then keeps a private online softmax over its own keys, and the
//! merge after the loop combines them once.

use std::collections::HashSet;

use super::{lane_axes, visit, warpgroups};
use crate::Error;
use crate::ir::{AxisId, Func, Op, Partition, ValueId, VarId};

/// Rows of a tensor-core tile.
pub(crate) const BAND: u32 = 16;

/// The pass.
pub(super) fn run(mut func: Func) -> Result<Func, Error> {
    lane_tiles(&func)?;
    let (row_axis, col_axis) = match roles(&func)? {
        (Some(row_axis), col_axis) => (row_axis, col_axis),
        (None, _) => {
            func.partition = Some(Partition { row_axis: None, col_axis: None, rows: func.warps, cols: 1, roles: None });
            return Ok(func);
        }
    };
    let extent = |axis: AxisId| func.axes[axis.index()].extent;
    let name = |axis: AxisId| func.axes[axis.index()].name.as_str();

    if extent(row_axis) == 0 || extent(row_axis) % BAND != 0 {
        return Err(Error::Unsupported(format!(
            "{} has {} rows, and a tensor-core tile has {BAND}: a multiple of {BAND} fits",
            name(row_axis),
            extent(row_axis)
        )));
    }
    let bands = extent(row_axis) / BAND;
    if let Some(roles) = warpgroups::roles(&func, row_axis)? {
        func.warps = bands;
        func.partition =
            Some(Partition { row_axis: Some(row_axis), col_axis, rows: bands, cols: 1, roles: Some(roles) });
        return Ok(func);
    }
    let Some(rows) = (1..=func.warps).rev().find(|&rows| func.warps.is_multiple_of(rows) && bands.is_multiple_of(rows))
    else {
        return Err(Error::Unsupported("a CTA has no warps; 1, 2, 4 or 8 are right".to_owned()));
    };
    let cols = func.warps / rows;
    if let Some(col_axis) = col_axis
        && (extent(col_axis) == 0 || extent(col_axis) % (BAND * cols) != 0)
    {
        return Err(Error::Unsupported(format!(
            "{} warps over {} rows of {} leave {cols} to share the {} columns of {}, each in steps of {BAND}: a multiple of {} fits",
            func.warps,
            extent(row_axis),
            name(row_axis),
            extent(col_axis),
            name(col_axis),
            BAND * cols
        )));
    }
    if col_axis.is_none() && cols > 1 {
        return Err(Error::Unsupported(format!(
            "{} warps for the {} rows of {}: at most {bands} have work",
            func.warps,
            extent(row_axis),
            name(row_axis)
        )));
    }
    func.partition = Some(Partition { row_axis: Some(row_axis), col_axis, rows, cols, roles: None });
    if cols > 1 {
        whole_rows_of_bests(&func, rows, cols)?;
        whole_rows_of_numbers(&func, row_axis, cols)?;
        merges_behind_loops(&func, cols)?;
        shares_of_a_merge(&func, cols)?;
        private_state(&func)?;
    }
    Ok(func)
}

/// What warps that share rows have of an output after a merge are columns of their own; no loaded tile comes in such pieces.
fn whole_rows_of_numbers(func: &Func, row_axis: AxisId, cols: u32) -> Result<(), Error> {
    let mut loaded = HashSet::new();
    let mut found = false;
    visit(&func.body, &mut |stmt| match (&stmt.op, stmt.result) {
        (Op::Load(_), Some(tile)) if func.values[tile.index()].ty.axes.first() == Some(&row_axis) => {
            let ty = &func.values[tile.index()].ty;
            found |= ty.rank() == 2 && ty.elem == crate::ir::Elem::F32;
            loaded.insert(tile);
        }
        (Op::Convert(tile), _) => found |= loaded.contains(tile),
        _ => {}
    });
    if !found {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "{cols} warps share rows that are computed with after they are loaded: as many warps as bands of {BAND} rows, or fewer, are right"
    )))
}

/// The row axis is the free axis of every left operand, or the first axis of every tile where nothing is multiplied; the column
/// axis is the free axis of the right operand of a product whose result is contracted again. Neither where there are lane tiles
/// alone.
fn roles(func: &Func) -> Result<(Option<AxisId>, Option<AxisId>), Error> {
    let mut row_axis = None;
    let mut col_axis = None;
    let mut mixed = false;
    visit(&func.body, &mut |stmt| {
        let (Op::Dot(lhs, rhs) | Op::Accumulate(_, lhs, rhs)) = stmt.op else { return };
        let (lhs, rhs) = (&func.values[lhs.index()].ty.axes, &func.values[rhs.index()].ty.axes);
        mixed |= row_axis.replace(lhs[0]).is_some_and(|axis| axis != lhs[0]);
        if rhs[0] == lhs[1] {
            mixed |= col_axis.replace(lhs[1]).is_some_and(|axis| axis != lhs[1]);
        }
    });
    if row_axis.is_none() {
        for value in func.values.iter().filter(|value| value.ty.rank() == 2) {
            let axis = value.ty.axes[0];
            mixed |= row_axis.replace(axis).is_some_and(|other| other != axis);
        }
    }
    match (row_axis, mixed) {
        (Some(_), false) => Ok((row_axis, col_axis)),
        (None, _) => Ok((None, None)),
        (_, true) => Err(Error::Unsupported(format!(
            "the tiles of `{}` have different row or key axes; one CTA works on one of each",
            func.name
        ))),
    }
}

/// A lane tile is loaded and stored element by element.
fn lane_tiles(func: &Func) -> Result<(), Error> {
    let lanes = lane_axes(func);
    let mut wrong = None;
    visit(&func.body, &mut |stmt| {
        let tile = match stmt.op {
            Op::Load(_) => stmt.result,
            Op::Store(_, tile) => Some(tile),
            _ => None,
        };
        let axes = tile.map_or(&[][..], |tile| func.values[tile.index()].ty.axes.as_slice());
        if let [axis] = axes
            && lanes[axis.index()]
        {
            wrong.get_or_insert((stmt.loc, *axis));
        }
    });
    let Some((loc, axis)) = wrong else { return Ok(()) };
    let name = &func.axes[axis.index()].name;
    let message = format!("no product has {name}: a tile over it is read and stored by the indices of its elements");
    Err(match loc {
        Some(loc) => Error::Staging(vec![crate::ir::Diagnostic { message, label: "not by rows".to_owned(), loc }]),
        None => Error::Unsupported(message),
    })
}

/// The best of a row are kept by the one warp that has all of its columns.
fn whole_rows_of_bests(func: &Func, rows: u32, cols: u32) -> Result<(), Error> {
    match func.bests.first() {
        None => Ok(()),
        Some(best) => Err(Error::Unsupported(format!(
            "the best scores of a row are found by one warp: {} has rows for {rows} of them, and {cols} would share each",
            func.axes[best.axis.index()].name
        ))),
    }
}

/// What warps tell each other as they merge lies over the buffers of loops, which have ended.
fn merges_behind_loops(func: &Func, cols: u32) -> Result<(), Error> {
    let mut inside = false;
    for stmt in &func.body {
        if let Op::For { body, .. } | Op::If { body, .. } = &stmt.op {
            visit(body, &mut |stmt| inside |= matches!(stmt.op, Op::Merge { .. }));
        }
    }
    if !inside {
        return Ok(());
    }
    let name = &func.name;
    Err(Error::Unsupported(format!("`{name}` merges inside a loop or branch, and {cols} warps share its columns")))
}

/// After a merge each of the warps that shared columns has a part of the output's, whole blocks of 8.
fn shares_of_a_merge(func: &Func, cols: u32) -> Result<(), Error> {
    let mut wrong = None;
    visit(&func.body, &mut |stmt| {
        if let Op::Merge { acc: Some(acc), .. } = stmt.op {
            let axis = &func.axes[func.vars[acc.index()].ty.axes[1].index()];
            if !axis.extent.is_multiple_of(8 * cols) {
                wrong.get_or_insert(axis);
            }
        }
    });
    match wrong {
        None => Ok(()),
        Some(axis) => Err(Error::Unsupported(format!(
            "{cols} warps share what is merged over {} in blocks of 8 columns: a multiple of {} fits, not {}",
            axis.name,
            8 * cols,
            axis.extent
        ))),
    }
}

/// What each warp knows of its own columns alone must pass through a merge before it is stored.
fn private_state(func: &Func) -> Result<(), Error> {
    let col_axis = func.partition.and_then(|p| p.col_axis);
    let mut values: HashSet<ValueId> = HashSet::new();
    let mut vars: HashSet<VarId> = HashSet::new();
    let mut stored = None;
    // Twice, so that what a loop leaves in a var is known where its next round reads it.
    for _ in 0..2 {
        visit(&func.body, &mut |stmt| {
            let from_private = super::operands(&stmt.op).iter().any(|v| values.contains(v));
            match &stmt.op {
                Op::Reduce(_, x) if func.values[x.index()].ty.axes.get(1).copied() == col_axis => {
                    values.extend(stmt.result);
                }
                Op::Accumulate(var, lhs, _) if func.values[lhs.index()].ty.axes.get(1).copied() == col_axis => {
                    vars.insert(*var);
                }
                Op::Read(var) if vars.contains(var) => values.extend(stmt.result),
                Op::Write(var, _) if from_private => {
                    vars.insert(*var);
                }
                Op::Merge { max, sum, acc, .. } => [max, sum].into_iter().chain(acc).for_each(|var| {
                    vars.remove(var);
                }),
                Op::Store(_, value) if values.contains(value) => {
                    stored = stmt.loc.or(stored).or(func.values[value.index()].loc)
                }
                _ if from_private => values.extend(stmt.result),
                _ => {}
            }
        });
        if stored.is_some() {
            break;
        }
    }
    match stored {
        None => Ok(()),
        Some(loc) => Err(Error::Staging(vec![crate::ir::Diagnostic {
            message: "a row's sum or maximum over one part of the keys is stored as if it were the whole".to_owned(),
            label: "several warps share these keys; merge their state first".to_owned(),
            loc,
        }])),
    }
}
