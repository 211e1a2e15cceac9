//! Products of warpgroups: started, and landed.
//!
//! In:  a func with roles, or without; a product gives its result where it stands.
//! Out: without roles, the same. With roles, every product of the consumers is a group of its own that is started into a var
//!      and has landed before the next statement: the serial order. Its result is the var that it would be written to, where
//!      nothing else wants it, or one of its own.

use super::{operands, visit};
use crate::Error;
use crate::ir::{Const, Func, Op, Stmt, ValueId, Var, VarId};

/// The pass.
pub(super) fn run(mut func: Func) -> Result<Func, Error> {
    let mut body = std::mem::take(&mut func.body);
    if let Some(Stmt { op: Op::Consume(consumers), .. }) = body.last_mut() {
        *consumers = started(&mut func, std::mem::take(consumers));
    }
    func.body = body;
    Ok(func)
}

fn started(func: &mut Func, body: Vec<Stmt>) -> Vec<Stmt> {
    let mut out = Vec::with_capacity(body.len() + 16);
    // Writes that products make.
    let mut dropped = Vec::new();
    for at in 0..body.len() {
        let mut stmt = body[at].clone();
        let loc = stmt.loc;
        let mut effect = |op: Op| out.push(Stmt { result: None, op, loc });
        match &stmt.op {
            _ if dropped.contains(&at) => continue,
            Op::Dot(lhs, rhs) => {
                let result = stmt.result.expect("a product is a value");
                let home = written_to(&body, at, result);
                let acc = match home {
                    Some((_, var)) => var,
                    None => {
                        let ty = func.values[result.index()].ty.clone();
                        let name = format!("product{}", func.vars.len());
                        func.vars.push(Var { name, ty, init: Const::f32(0.0), lasts: false, loc });
                        VarId(func.vars.len() as u32 - 1)
                    }
                };
                group(&mut effect, Op::Start { acc, lhs: *lhs, rhs: *rhs, fresh: true });
                match home {
                    Some((write, _)) => dropped.push(write),
                    None => out.push(Stmt { result: Some(result), op: Op::Read(acc), loc }),
                }
            }
            Op::Accumulate(acc, lhs, rhs) => {
                group(&mut effect, Op::Start { acc: *acc, lhs: *lhs, rhs: *rhs, fresh: false });
            }
            _ => {
                if let Some(inner) = stmt.op.body_mut() {
                    *inner = started(func, std::mem::take(inner));
                }
                out.push(stmt);
            }
        }
    }
    out
}

/// One product, alone.
fn group(effect: &mut impl FnMut(Op), start: Op) {
    effect(Op::Fence);
    effect(start);
    effect(Op::Close);
    effect(Op::Land(0));
}

/// Where the product at `at` is written to and nothing else: the write, and the var, which nothing names in between.
fn written_to(body: &[Stmt], at: usize, result: ValueId) -> Option<(usize, VarId)> {
    let mut uses = 0;
    visit(body, &mut |stmt| uses += operands(&stmt.op).iter().filter(|&&value| value == result).count());
    let (write, var) = body[at..].iter().enumerate().find_map(|(ahead, stmt)| match stmt.op {
        Op::Write(var, value) if value == result => Some((at + ahead, var)),
        _ => None,
    })?;
    let mut named = false;
    visit(&body[at + 1..write], &mut |stmt| named |= names(&stmt.op, var));
    (uses == 1 && !named).then_some((write, var))
}

fn names(op: &Op, var: VarId) -> bool {
    match op {
        Op::Read(v) | Op::Write(v, _) | Op::Accumulate(v, ..) | Op::Start { acc: v, .. } => *v == var,
        Op::Merge { max, sum, acc, .. } => [Some(*max), Some(*sum), *acc].contains(&Some(var)),
        _ => false,
    }
}
