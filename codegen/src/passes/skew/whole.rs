//! Rounds that leave a branch of theirs out, apart from those that take it: what is asked of a block of keys, whether it needs
//! its mask, is asked a round ahead, and a round of one that needs none has no branch.

use std::collections::HashMap;

use super::{Round, copy};
use crate::ir::{Binary, Compare, Const, Elem, Func, Op, Stmt, Type, Unary, ValueId, Var, VarId};
use crate::passes::pipeline::Out;
use crate::passes::{is_scalar, operands, sweep};

/// Which statements a round has in the place of its branch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The branch.
    Asked,
    /// None: it is not taken.
    Past,
}

/// A branch of a round whose condition is known before the round begins, and the var that says it.
pub(super) struct Whole {
    /// The condition of the branch.
    cond: ValueId,
    /// What makes it of the round's number, in order.
    chain: Vec<Stmt>,
    /// Whether rounds that begin now go past the branch.
    var: VarId,
}

impl Whole {
    /// The first branch of a round's softmax that changes a tile and nothing but vars, where scalars that follow from the
    /// number of the round say whether it is taken.
    ///
    /// None where scores read tables: their elements are loaded before the branch, which keeps ptxas (13.0) from moving all of them,
    /// and what is made of them, about: without it some picks spill.
    pub(super) fn of(func: &mut Func, round: &Round) -> Option<Whole> {
        let loads = |stmt: &Stmt| {
            let tile = |value: ValueId| func.values[value.index()].ty.rank() > 0;
            matches!(stmt.op, Op::Element { .. }) && stmt.result.is_some_and(tile)
        };
        if round.soft.iter().any(loads) {
            return None;
        }
        let branch = round.soft.iter().find(|stmt| is_of_tiles(func, stmt))?;
        let Op::If { cond, .. } = branch.op else { unreachable!("found as a branch") };
        let mut chain = Vec::new();
        if !follows(func, &round.made, cond, &mut chain) {
            return None;
        }
        let name = format!("whole{}", func.vars.len());
        let ty = Type::scalar(Elem::Bool);
        func.vars.push(Var { name, ty, init: Const::Bool(false), lasts: false, loc: branch.loc });
        Some(Whole { cond, chain, var: VarId(func.vars.len() as u32 - 1) })
    }

    /// A round's softmax.
    pub(super) fn soft(&self, soft: &[Stmt], way: Way) -> Vec<Stmt> {
        let left = |stmt: &&Stmt| way == Way::Past && matches!(stmt.op, Op::If { cond, .. } if cond == self.cond);
        soft.iter().filter(|stmt| !left(stmt)).cloned().collect()
    }

    /// Whether the rounds so far ahead of `at` go past the branch, all of them. Of rounds that are not there anything is said.
    pub(super) fn ask(&self, out: &mut Out<'_>, index: ValueId, hi: ValueId, at: ValueId, ahead: &[i32]) {
        let int = || Type::scalar(Elem::I32);
        let truth = || Type::scalar(Elem::Bool);
        let tables = self.chain.iter().any(|stmt| matches!(stmt.op, Op::Element { .. }));
        let mut all = None;
        for &ahead in ahead {
            let mut round = out.add(at, ahead);
            if tables {
                // Tables have an entry for every round that there is.
                let last = out.add(hi, -1);
                round = out.value(Op::Binary(Binary::Min, round, last), int());
            }
            let mut map = HashMap::from([(index, round)]);
            let chain = copy(out.func, &self.chain, &mut map);
            let past = match chain.last() {
                Some(&Stmt { op: Op::Unary(Unary::Not, whole), .. }) => {
                    out.stmts.extend(chain.into_iter().rev().skip(1).rev());
                    whole
                }
                _ => {
                    out.stmts.extend(chain);
                    let taken = map.get(&self.cond).copied().unwrap_or(self.cond);
                    out.value(Op::Unary(Unary::Not, taken), truth())
                }
            };
            all = Some(match all {
                None => past,
                Some(all) => out.value(Op::Binary(Binary::And, all, past), truth()),
            });
        }
        out.stmts.extend(all.map(|all| Stmt { result: None, op: Op::Write(self.var, all), loc: out.loc }));
    }

    /// Whether rounds that begin now go past the branch, as it was asked.
    pub(super) fn said(&self, out: &mut Out<'_>) -> ValueId {
        out.read(self.var)
    }

    /// Rounds that go past the branch, and the loop's next follow, where the condition holds.
    pub(super) fn again(out: &mut Out<'_>, cond: ValueId, build: impl FnOnce(&mut Out<'_>)) {
        let before = std::mem::take(&mut out.stmts);
        build(out);
        let mut body = std::mem::replace(&mut out.stmts, before);
        sweep::unused(&mut body);
        out.effect(Op::Again { cond, body });
    }
}

/// One round after another from `lo` on, in a loop that keeps those apart that go past their branch.
pub(super) fn rounds(
    out: &mut Out<'_>,
    whole: &Whole,
    lo: ValueId,
    hi: ValueId,
    mut round: impl FnMut(&mut Out<'_>, ValueId, Way),
) {
    let counter = out.var(format!("round{}", out.func.vars.len()));
    out.effect(Op::Write(counter, lo));
    let mut counted = |out: &mut Out<'_>, index: ValueId, way: Way| {
        round(out, index, way);
        let next = out.add(index, 1);
        out.effect(Op::Write(counter, next));
    };
    let before = std::mem::take(&mut out.stmts);
    let index = out.read(counter);
    let over = out.value(Op::Compare(Compare::Ge, index, hi), Type::scalar(Elem::Bool));
    out.effect(Op::Leave { cond: over, body: Vec::new() });
    let past = whole.said(out);
    Whole::again(out, past, |out| {
        let index = out.read(counter);
        counted(out, index, Way::Past);
    });
    // With the branch, which bounds what ptxas (13.0) moves: a mask of divisions spills without it.
    counted(out, index, Way::Asked);
    let body = std::mem::replace(&mut out.stmts, before);
    out.effect(Op::Loop(body));
}

/// Whether a statement is a branch that changes a tile, and does nothing that is about order.
fn is_of_tiles(func: &Func, stmt: &Stmt) -> bool {
    let Op::If { body, .. } = &stmt.op else { return false };
    let tile = |stmt: &Stmt| matches!(stmt.op, Op::Write(var, _) if func.vars[var.index()].ty.rank() == 2);
    body.iter().any(tile) && body.iter().all(|stmt| matches!(stmt.op, Op::Write(..)) || sweep::is_pure(&stmt.op))
}

/// Whether scalars alone, and elements of tables, make a value of a round's number; appends what makes it.
fn follows(func: &Func, made: &HashMap<ValueId, Stmt>, value: ValueId, chain: &mut Vec<Stmt>) -> bool {
    let Some(stmt) = made.get(&value) else { return true };
    if chain.iter().any(|known| known.result == stmt.result) {
        return true;
    }
    let plain = is_scalar(func, stmt) && !matches!(stmt.op, Op::Read(_));
    let known = plain && operands(&stmt.op).into_iter().all(|value| follows(func, made, value, chain));
    if known {
        chain.push(stmt.clone());
    }
    known
}
