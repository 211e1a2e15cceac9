//! Which values may live in a var's own registers.
//!
//! A var is a fixed set of registers. Reading it copies them unless the copy could never be told from the original, and
//! writing it copies into them unless the value can be made there in the first place. `acc = acc * alpha` is then one
//! multiplication in place and no move.
//!
//! A left operand that is only made for one product, such as the weights of a softmax, is made step by step as the product
//! needs it: its arithmetic stands between the tensor cores' instructions, which run beside it, and its tile is never whole
//! in registers.

use std::collections::{HashMap, HashSet};

use crate::ir::{Binary, Elem, Func, Op, Reduce, Stmt, ValueId, VarId};
use crate::passes::{operands, visit};

/// The answer.
#[derive(Default)]
pub(super) struct Placement {
    /// Values that are not computed where they are made but, element by element, where they are used.
    pub(super) lazy: HashSet<ValueId>,
    /// Values to be made in a var's registers.
    pub(super) made_in: HashMap<ValueId, VarId>,
    /// Reads that need registers of their own.
    pub(super) copied: HashSet<ValueId>,
    /// Left operands that are made step by step, and the f32 tiles that they are rounded from.
    pub(super) stepped: HashMap<ValueId, ValueId>,
    /// Such f32 tiles whose row sums are wanted after the product.
    pub(super) summed: HashMap<ValueId, Summed>,
    /// What such products make by the way: neither these sums nor those that they are added to are computed again.
    pub(super) by_the_way: HashSet<ValueId>,
}

/// Row sums that a product makes while it makes its left operand.
#[derive(Clone, Copy)]
pub(super) struct Summed {
    /// What they are added to.
    pub(super) start: Option<ValueId>,
    /// The value that they are then.
    pub(super) result: ValueId,
}

/// Finds the left operands that can be made step by step among the statements of one body: an f32 tile made by arithmetic,
/// rounded for one product, and used besides for its row sums alone, after that product. What it is made of is lazy from
/// here on, as far back as nothing else wants it.
fn find_stepped(func: &Func, stmts: &[Stmt], placement: &mut Placement) {
    let mut made: HashMap<ValueId, usize> = HashMap::new();
    let mut uses: HashMap<ValueId, Vec<usize>> = HashMap::new();
    for (at, stmt) in stmts.iter().enumerate() {
        made.extend(stmt.result.map(|r| (r, at)));
        visit(std::slice::from_ref(stmt), &mut |s| {
            operands(&s.op).into_iter().for_each(|v| uses.entry(v).or_default().push(at));
        });
    }
    let arithmetic = |value: &ValueId| {
        let ty = &func.values[value.index()].ty;
        let op = made.get(value).map(|&at| &stmts[at].op);
        ty.rank() == 2
            && ty.elem == Elem::F32
            && matches!(op, Some(Op::Unary(..) | Op::Binary(..) | Op::Select(..) | Op::Fma(..)))
    };
    for (at, stmt) in stmts.iter().enumerate() {
        let (Op::Dot(weights, _) | Op::Accumulate(_, weights, _)) = stmt.op else { continue };
        let Some(&rounded) = made.get(&weights) else { continue };
        let Op::Convert(tile) = stmts[rounded].op else { continue };
        let others: Vec<usize> = uses[&tile].iter().copied().filter(|&user| user != rounded).collect();
        let sum = match others.as_slice() {
            [] => None,
            [user] if *user > at && matches!(stmts[*user].op, Op::Reduce(Reduce::Sum, _)) => stmts[*user].result,
            _ => continue,
        };
        if uses[&weights].len() != 1 || !arithmetic(&tile) {
            continue;
        }
        placement.stepped.insert(weights, tile);
        if let Some(sum) = sum {
            placement.by_the_way.insert(sum);
            let known = |value: &ValueId| made.get(value).is_some_and(|&made| made < at);
            let added = match uses.get(&sum).map(Vec::as_slice) {
                Some([user]) => match (&stmts[*user].op, stmts[*user].result) {
                    (Op::Binary(Binary::Add, a, b), Some(total)) => {
                        let start = if *a == sum { *b } else { *a };
                        (known(&start) && !placement.lazy.contains(&start)).then_some((start, total))
                    }
                    _ => None,
                },
                _ => None,
            };
            placement.by_the_way.extend(added.map(|(_, total)| total));
            let summed = match added {
                Some((start, result)) => Summed { start: Some(start), result },
                None => Summed { start: None, result: sum },
            };
            placement.summed.insert(tile, summed);
        }
        let mut chain = vec![tile];
        while let Some(value) = chain.pop() {
            placement.lazy.insert(value);
            let parts = operands(&stmts[made[&value]].op);
            chain.extend(parts.into_iter().filter(|part| uses[part].len() == 1 && arithmetic(part)));
        }
    }
    for stmt in stmts {
        if let Op::For { body, .. } | Op::If { body, .. } = &stmt.op {
            find_stepped(func, body, placement);
        }
    }
}

/// The values of `stmts` that are computed where they are used: in tiles over rows and columns truth, indices, elements of
/// tables by row or column, and floats that are made of rows and columns alone, such as a bias by distance. A tile of those
/// would hold registers beside the scores.
fn find_lazy(func: &Func, stmts: &[Stmt], lazy: &mut HashSet<ValueId>) {
    let lane_axes = crate::passes::lane_axes(func);
    visit(stmts, &mut |stmt| {
        let Some(result) = stmt.result else { return };
        let ty = &func.values[result.index()].ty;
        let across = ty.axes.first().is_some_and(|axis| lane_axes[axis.index()]);
        let yes = match stmt.op {
            Op::Broadcast(_) | Op::Iota(_) => true,
            // A lane tile is made once, where it stands: its elements may be loaded.
            _ if across => false,
            Op::Element { .. } => ty.rank() > 0,
            Op::Unary(..) | Op::Binary(..) | Op::Compare(..) | Op::Select(..)
                if ty.rank() > 0 && matches!(ty.elem, Elem::Bool | Elem::I32) =>
            {
                operands(&stmt.op).iter().all(|v| func.values[v.index()].ty.elem != Elem::F32)
            }
            Op::Unary(..) | Op::Binary(..) | Op::Select(..) | Op::Fma(..) | Op::Convert(_) => {
                ty.rank() == 2 && ty.elem == Elem::F32 && operands(&stmt.op).iter().all(|v| lazy.contains(v))
            }
            _ => false,
        };
        if yes {
            lazy.insert(result);
        }
    });
}

/// Places the values of a func.
pub(super) fn place(func: &Func) -> Placement {
    let mut placement = Placement::default();
    find_lazy(func, &func.body, &mut placement.lazy);
    // Warpgroups take a left operand that is whole.
    if func.partition.is_none_or(|part| part.roles.is_none()) {
        find_stepped(func, &func.body, &mut placement);
    }
    body(func, &func.body, &mut placement);
    placement
}

fn mutated(stmt: &Stmt) -> HashSet<VarId> {
    let mut vars = HashSet::new();
    visit(std::slice::from_ref(stmt), &mut |s| match &s.op {
        Op::Write(var, _) | Op::Accumulate(var, ..) | Op::Start { acc: var, .. } => {
            vars.insert(*var);
        }
        Op::Merge { max, sum, acc, .. } => vars.extend([*max, *sum].into_iter().chain(*acc)),
        _ => {}
    });
    vars
}

fn mentioned(stmt: &Stmt) -> HashSet<VarId> {
    let mut vars = mutated(stmt);
    visit(std::slice::from_ref(stmt), &mut |s| {
        if let Op::Read(var) = s.op {
            vars.insert(var);
        }
    });
    vars
}

fn body(func: &Func, stmts: &[Stmt], placement: &mut Placement) {
    let is_lazy = |placement: &Placement, stmt: &Stmt| stmt.result.is_some_and(|r| placement.lazy.contains(&r));
    // Where each value is really used: a lazy value's operands are used where it is.
    let mut uses: HashMap<ValueId, Vec<usize>> = HashMap::new();
    let mut count: HashMap<ValueId, usize> = HashMap::new();
    let mut lazy: HashMap<ValueId, Vec<ValueId>> = HashMap::new();
    let mut made_at: HashMap<ValueId, usize> = HashMap::new();
    for (at, stmt) in stmts.iter().enumerate() {
        made_at.extend(stmt.result.map(|r| (r, at)));
        visit(std::slice::from_ref(stmt), &mut |s| {
            for value in operands(&s.op) {
                *count.entry(value).or_default() += 1;
                if !is_lazy(placement, s) {
                    uses.entry(value).or_default().push(at);
                }
            }
        });
        if is_lazy(placement, stmt) {
            lazy.extend(stmt.result.map(|r| (r, operands(&stmt.op))));
        }
    }
    // Latest made first, so that uses reach through chains of lazy values.
    let mut order: Vec<(ValueId, usize)> = lazy.keys().map(|v| (*v, made_at[v])).collect();
    order.sort_by_key(|&(_, at)| std::cmp::Reverse(at));
    for (value, _) in order {
        let at = uses.get(&value).cloned().unwrap_or_default();
        for operand in &lazy[&value] {
            uses.entry(*operand).or_default().extend(&at);
        }
    }

    let mentions: Vec<HashSet<VarId>> = stmts.iter().map(mentioned).collect();
    let mut mutations: Vec<HashSet<VarId>> = stmts.iter().map(mutated).collect();
    let mut in_place: HashSet<(usize, VarId)> = HashSet::new();
    for (at, stmt) in stmts.iter().enumerate() {
        let Op::Write(var, value) = stmt.op else { continue };
        let Some(&made) = made_at.get(&value) else { continue };
        let packed = |value: ValueId| matches!(func.values[value.index()].ty.elem, Elem::Bf16 | Elem::F16);
        let elementwise = match stmts[made].op {
            Op::Unary(..) | Op::Binary(..) | Op::Select(..) | Op::Fma(..) | Op::Dot(..) | Op::Reduce(..) => true,
            Op::Convert(_) => packed(value),
            _ => false,
        } && !is_lazy(placement, &stmts[made])
            && !placement.by_the_way.contains(&value);
        let same = func.values[value.index()].ty.rank() > 0;
        let alone = count[&value] == 1 && !mentions[made + 1..at].iter().any(|m| m.contains(&var));
        // A read of the var before, used after the value is made, would see the new content.
        let stale = stmts[..made].iter().any(|s| {
            matches!(s.op, Op::Read(v) if v == var)
                && s.result.is_some_and(|r| uses.get(&r).is_some_and(|u| u.iter().any(|&u| u > made)))
        });
        if elementwise && same && alone && !stale {
            placement.made_in.insert(value, var);
            mutations[at].remove(&var);
            mutations[made].insert(var);
            in_place.insert((made, var));
        }
    }
    for (at, stmt) in stmts.iter().enumerate() {
        if let (Op::Read(var), Some(result)) = (&stmt.op, stmt.result) {
            let first = (at + 1..stmts.len()).find(|&m| mutations[m].contains(var));
            let used = uses.get(&result).map_or(&[][..], Vec::as_slice);
            let safe = first.is_none_or(|m| used.iter().all(|&u| u < m || u == m && in_place.contains(&(m, *var))));
            if !safe {
                placement.copied.insert(result);
            }
        }
        if let Some(inner) = stmt.op.body() {
            body(func, inner, placement);
        }
    }
}
