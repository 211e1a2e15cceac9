//! Roles: where they stand, what each may do, and what is handed from one to the other.

use super::{INT, Mistake, Verifier, mistake};
use crate::ir::{BufferId, Elem, Op, Stmt, Type, ValueId, VarId};
use crate::passes::{is_scalar, operands, visit};

/// What a statement stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Within {
    /// The body of a loop that is left.
    Loop,
    /// Rounds that such a loop goes on with.
    Again,
    /// Something else.
    Other,
}

impl Verifier<'_> {
    /// Where the roles of a func stand: `produce`, and `consume` right behind it at the end, or neither.
    pub(super) fn roles(&self) -> Result<(), Mistake> {
        let mut found = 0;
        visit(&self.func.body, &mut |stmt| found += usize::from(matches!(stmt.op, Op::Produce(_) | Op::Consume(_))));
        let has_roles = self.func.partition.is_some_and(|part| part.roles.is_some());
        match self.func.body.as_slice() {
            _ if found == 0 => Ok(()),
            [.., Stmt { op: Op::Produce(producer), .. }, Stmt { op: Op::Consume(consumers), .. }] if found == 2 => {
                if !has_roles {
                    return mistake("roles have registers of their own", "the partition does not say which");
                }
                apart(self.func.vars.len(), producer, consumers)
            }
            _ => mistake("a func ends in `produce` and `consume`, or has neither", "they stand elsewhere here"),
        }
    }

    /// Loops without an end of their own are left from their own bodies, and go on from there.
    pub(super) fn leaves(&self, body: &[Stmt], within: Within) -> Result<(), Mistake> {
        for (at, stmt) in body.iter().enumerate() {
            let inside = match &stmt.op {
                Op::Leave { .. } if within == Within::Other => {
                    return mistake("what is left is a loop", "this stands in none");
                }
                Op::Loop(inner) if !inner.iter().any(|stmt| matches!(stmt.op, Op::Leave { .. })) => {
                    return mistake("a loop ends", "nothing leaves this one");
                }
                Op::Loop(_) => Within::Loop,
                Op::Again { .. } if within != Within::Loop => {
                    return mistake("what goes on is a loop", "this stands in no loop's own body");
                }
                Op::Again { body: inner, .. } => {
                    self.goes_on(&body[..at], inner)?;
                    Within::Again
                }
                _ => Within::Other,
            };
            if let Some(inner) = stmt.op.body() {
                self.leaves(inner, inside)?;
            }
        }
        Ok(())
    }

    /// What stands `before` rounds that are a loop of their own can be worked out again behind each of them, and is: `again`
    /// knows of it by vars.
    fn goes_on(&self, before: &[Stmt], again: &[Stmt]) -> Result<(), Mistake> {
        let repeated = |stmt: &Stmt| matches!(stmt.op, Op::Leave { .. }) || is_scalar(self.func, stmt);
        if let Some(other) = before.iter().find(|stmt| !repeated(stmt)) {
            let label = format!("`{}` stands before this", self.func.show_stmt(other));
            return mistake("a round that a loop goes on with is known by scalars and ends of the loop", label);
        }
        let mut read = None;
        visit(again, &mut |stmt| {
            let made = |value: &ValueId| before.iter().any(|stmt| stmt.result == Some(*value));
            read = read.or(operands(&stmt.op).into_iter().find(made));
        });
        match read {
            None => Ok(()),
            Some(read) => mistake(
                "a round that a loop goes on with knows of the one before by vars",
                format!("this reads {read}"),
            ),
        }
    }

    fn ring(&self, id: BufferId, slot: ValueId) -> Result<(), Mistake> {
        match self.buffer(id, slot)? {
            buffer if buffer.ring => Ok(()),
            buffer => mistake("only a ring is handed on slot by slot", format!("`{}` is none", buffer.name)),
        }
    }

    /// An operation that hands a tile on, or multiplies in groups.
    pub(super) fn role_op(&self, op: &Op) -> Result<(), Mistake> {
        match op {
            Op::Acquire { buffer, slot, phase } | Op::Await { buffer, slot, phase } => {
                self.ring(*buffer, *slot)?;
                self.is("a phase", *phase, &INT)
            }
            Op::Release { buffer, slot } => self.ring(*buffer, *slot),
            Op::Fill { from, buffer, slot } => {
                self.only_read(from.tensor)?;
                self.ring(*buffer, *slot)?;
                self.slice(from, &self.buffer(*buffer, *slot)?.ty)
            }
            Op::Start { acc, lhs, rhs, .. } => {
                if !self.shared[rhs.index()] {
                    return mistake("a warpgroup reads its right operand from shared memory", "this is elsewhere");
                }
                self.product_into(*acc, *lhs, *rhs)
            }
            Op::Hold(values) => values.iter().try_for_each(|&value| match self.of(value) {
                Type { elem: Elem::F32, axes, .. } if axes.len() == 1 => Ok(()),
                ty => mistake("what is held is a number for each row", format!("this is {}", self.show(ty))),
            }),
            _ => Ok(()),
        }
    }

    /// The product is what a var holds.
    pub(super) fn product_into(&self, var: VarId, lhs: ValueId, rhs: ValueId) -> Result<(), Mistake> {
        let (var, product) = (self.var(var)?, self.product(lhs, rhs)?);
        if var.ty == product {
            return Ok(());
        }
        let (product, found) = (self.show(&product), self.show(&var.ty));
        mistake(format!("the product is {product}"), format!("and `{}` holds {found}", var.name))
    }
}

/// A var is one role's alone: what it holds is in that role's registers.
fn apart(vars: usize, producer: &[Stmt], consumers: &[Stmt]) -> Result<(), Mistake> {
    let named = |body: &[Stmt]| {
        let mut named = vec![false; vars];
        visit(body, &mut |stmt| {
            let vars: Vec<VarId> = match &stmt.op {
                Op::Read(var) | Op::Write(var, _) | Op::Accumulate(var, ..) | Op::Start { acc: var, .. } => vec![*var],
                Op::Merge { max, sum, acc, .. } => [*max, *sum].into_iter().chain(*acc).collect(),
                _ => Vec::new(),
            };
            for var in vars {
                if let Some(named) = named.get_mut(var.index()) {
                    *named = true;
                }
            }
        });
        named
    };
    match named(producer).iter().zip(named(consumers)).any(|(a, b)| *a && b) {
        false => Ok(()),
        true => mistake("a var is one role's alone", "both name one here"),
    }
}
