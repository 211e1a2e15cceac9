//! Loops and branches.

use lacuna_ptx::{Class, Operand};

use super::Lower;
use super::value::Low;
use crate::ir::{Op, Stmt, ValueId};

impl Lower<'_> {
    pub(super) fn for_loop(&mut self, index: ValueId, lo: ValueId, hi: ValueId, body: &[Stmt]) {
        let (lo, hi) = (self.scalar(lo), self.scalar(hi));
        if matches!(lo, Operand::Int(first) if first >= 0) {
            self.counts.insert(index);
        }
        let counter = self.e.mutable(Class::B32);
        self.e.mov(counter, lo);
        self.e.open(true);
        let (head, done) = (self.e.label("loop"), self.e.label("done"));
        let empty = self.e.op(Class::Pred, "setp.ge.s32", [counter.into(), hi.clone()]);
        self.e.guarded((empty, false), "bra", [Operand::Label(done.clone())]);
        self.e.place(&head);
        self.e.pragma("nounroll");
        // One copy a round, so that what is computed from it is computed once a round.
        let round = self.e.reg(Class::B32);
        self.e.mov(round, counter.into());
        self.set(index, Low::Scalar(round));
        self.body(body);
        self.e.inst("add.s32", [counter.into(), counter.into(), 1i64.into()]);
        let more = self.e.op(Class::Pred, "setp.lt.s32", [counter.into(), hi]);
        self.e.guarded((more, false), "bra", [Operand::Label(head)]);
        self.e.place(&done);
        self.e.close();
    }

    pub(super) fn endless(&mut self, body: &[Stmt]) {
        self.e.open(true);
        let (head, done) = (self.e.label("loop"), self.e.label("done"));
        self.e.place(&head);
        self.e.pragma("nounroll");
        self.ends.push(done);
        let again = body.iter().position(|stmt| matches!(stmt.op, Op::Again { .. }));
        let (before, rest) = body.split_at(again.unwrap_or(0));
        self.body(before);
        match rest {
            [Stmt { op: Op::Again { cond, body }, .. }, rest @ ..] => {
                self.again(&head, before, *cond, body);
                self.body(rest);
            }
            rest => self.body(rest),
        }
        self.e.inst("bra", [Operand::Label(head)]);
        let done = self.ends.pop().expect("pushed above");
        self.e.place(&done);
        self.e.close();
    }

    /// Rounds of a loop that follow one another, each by `body`: a loop of their own. What stands `before` them in the loop is
    /// worked out anew behind each; where that is the end, or another round, the loop's `head` finds the same.
    fn again(&mut self, head: &str, before: &[Stmt], cond: ValueId, body: &[Stmt]) {
        let holds = |lower: &mut Self| {
            let cond = lower.scalar(cond);
            lower.in_predicate(cond)
        };
        let (again, others) = (self.e.label("again"), self.e.label("others"));
        let first = holds(self);
        self.e.guarded((first, true), "bra", [Operand::Label(others.clone())]);
        let kept = self.low.clone();
        // No level that repeats: what the loop's begin made is not the same in each of its rounds.
        self.e.open(false);
        self.e.place(&again);
        self.e.pragma("nounroll");
        self.body(body);
        for stmt in before {
            match &stmt.op {
                Op::Leave { cond, .. } => {
                    let over = self.scalar(*cond);
                    let over = self.in_predicate(over);
                    self.e.guarded((over, false), "bra", [Operand::Label(head.to_owned())]);
                }
                _ => self.stmt(stmt),
            }
        }
        let more = holds(self);
        self.e.guarded((more, false), "bra", [Operand::Label(again)]);
        self.e.inst("bra", [Operand::Label(head.to_owned())]);
        self.e.close();
        self.e.place(&others);
        self.low = kept;
    }

    pub(super) fn leave(&mut self, cond: ValueId, body: &[Stmt]) {
        let cond = self.scalar(cond);
        let cond = self.in_predicate(cond);
        let stay = self.e.label("stay");
        self.e.open(false);
        self.e.guarded((cond, true), "bra", [Operand::Label(stay.clone())]);
        self.body(body);
        let done = self.ends.last().expect("verified: a loop is left").clone();
        self.e.inst("bra", [Operand::Label(done)]);
        self.e.place(&stay);
        self.e.close();
    }

    pub(super) fn branch(&mut self, cond: ValueId, body: &[Stmt]) {
        match self.scalar(cond) {
            Operand::Int(0) => {}
            Operand::Int(_) => self.body(body),
            cond => {
                let cond = self.in_predicate(cond);
                let skip = self.e.label("skip");
                self.e.open(false);
                self.e.guarded((cond, true), "bra", [Operand::Label(skip.clone())]);
                self.body(body);
                self.e.place(&skip);
                self.e.close();
            }
        }
    }
}
