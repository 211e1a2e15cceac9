//! What surely holds in a box of positions: interval arithmetic as a computation.

use std::panic::Location;

use super::Pattern;
use super::emit::{Emit, Num, Shape};
use super::machine::{Machine, Values};
use super::tree::{KV, Linear, POSITION, Q, Term, TermId, Tree, Truth, linear_range};
use crate::ir::{Builder, ValueId};

/// The ends of terms over a box of positions.
pub(super) struct Ends<'t, M: Machine> {
    tree: &'t Tree,
    /// What is known of every term when the pattern is compiled.
    ranges: Vec<(i64, i64)>,
    q: (M::Num, M::Num),
    /// `None` where terms with the key's position have no ends.
    kv: Option<(M::Num, M::Num)>,
    fixed: Values<'t, M>,
}

impl<'t, M: Machine> Ends<'t, M> {
    pub(super) fn new(tree: &'t Tree, q: (M::Num, M::Num), kv: Option<(M::Num, M::Num)>, args: &[M::Num]) -> Self {
        let ranges = tree.term_ranges([POSITION; 2]);
        Ends { tree, ranges, q, kv, fixed: Values::new(tree, None, args) }
    }

    /// Between what a form lies, as known when the pattern is compiled.
    pub(super) fn range(&self, form: &Linear) -> (i64, i64) {
        linear_range(form, &self.ranges)
    }

    /// The largest (`upper`) or smallest value of a term, or beyond it; `None` where nothing is known.
    fn term(&mut self, m: &mut M, term: TermId, upper: bool) -> Option<M::Num> {
        let tree = self.tree;
        if self.tree.is_fixed(&Linear::term(term)) {
            return Some(self.fixed.term(m, term));
        }
        let end = |ends: (M::Num, M::Num)| if upper { ends.1 } else { ends.0 };
        match &tree.terms[term as usize] {
            Term::Q => Some(end(self.q)),
            Term::Kv => self.kv.map(end),
            Term::Arg(_) => Some(self.fixed.term(m, term)),
            Term::Mul(a, b) => {
                let (least, most) = self.range(b);
                let upper = match () {
                    () if least >= 0 => upper,
                    () if most <= 0 => !upper,
                    () => return None,
                };
                let (a, b) = (self.form(m, a, upper)?, self.fixed.form(m, b));
                Some(m.mul(a, b))
            }
            Term::Div(a, b) => {
                let (a, b) = (self.form(m, a, upper)?, self.fixed.divisor(m, b));
                Some(m.div(a, b))
            }
            Term::Rem(a, b) => {
                let (lo, hi) = self.range(a);
                if (upper && hi <= 0) || (!upper && lo >= 0) {
                    return Some(m.int(0));
                }
                let divisor = self.fixed.divisor(m, b);
                Some(if upper { m.sum(&[(divisor, 1)], -1) } else { m.sum(&[(divisor, -1)], 1) })
            }
            Term::Min(a, b) | Term::Max(a, b) => {
                let min = matches!(tree.terms[term as usize], Term::Min(..));
                match (self.form(m, a, upper), self.form(m, b, upper)) {
                    (Some(a), Some(b)) => Some(if min { m.min(a, b) } else { m.max(a, b) }),
                    // A minimum is at most either, a maximum at least either.
                    (one, other) if min == upper => one.or(other),
                    _ => None,
                }
            }
        }
    }

    /// The ends of the terms of a form, on the side that makes the form large (`upper`) or small.
    pub(super) fn terms(&mut self, m: &mut M, form: &Linear, upper: bool) -> Option<Vec<(M::Num, i64)>> {
        form.terms.iter().map(|&(t, factor)| Some((self.term(m, t, upper == (factor > 0))?, factor))).collect()
    }

    /// The largest or smallest value of a form, or beyond it.
    pub(super) fn form(&mut self, m: &mut M, form: &Linear, upper: bool) -> Option<M::Num> {
        let terms = self.terms(m, form, upper)?;
        Some(m.sum(&terms, form.constant))
    }

    /// Whether `form <= 0` holds everywhere in the box (`everywhere`: true is sure), or somewhere (false is sure).
    pub(super) fn at_most_zero(&mut self, m: &mut M, form: &Linear, everywhere: bool) -> M::Bool {
        let (lo, hi) = self.range(form);
        if hi <= 0 || lo > 0 {
            return m.truth(hi <= 0);
        }
        let (left, right) = self.tree.sides(form);
        match (self.terms(m, &left, everywhere), self.terms(m, &right, everywhere)) {
            (Some(left), Some(right)) => m.at_most_zero(&left, &right, form.constant),
            _ => m.truth(!everywhere),
        }
    }

    /// Whether a truth surely holds everywhere in the box.
    fn surely(&mut self, m: &mut M) -> Vec<M::Bool> {
        let tree = self.tree;
        let mut known: Vec<M::Bool> = Vec::with_capacity(tree.truths.len());
        for truth in &tree.truths {
            let holds = match truth {
                Truth::Const(value) => m.truth(*value),
                Truth::Le(form) => self.at_most_zero(m, form, true),
                Truth::Eq(form) => {
                    let sides = (form.scaled(-1, 0))
                        .map(|below| (self.at_most_zero(m, form, true), self.at_most_zero(m, &below, true)));
                    sides.map_or(m.truth(false), |(a, b)| m.join(true, a, b))
                }
                Truth::Ne(form) => {
                    let sides = form
                        .scaled(1, 1)
                        .zip(form.scaled(-1, 1))
                        .map(|(below, above)| (self.at_most_zero(m, &below, true), self.at_most_zero(m, &above, true)));
                    sides.map_or(m.truth(false), |(a, b)| m.join(false, a, b))
                }
                Truth::And(members) | Truth::Or(members) => {
                    let both = matches!(truth, Truth::And(_));
                    members.iter().fold(m.truth(both), |all, &one| m.join(both, all, known[one as usize]))
                }
            };
            known.push(holds);
        }
        known
    }
}

impl Pattern {
    /// Whether every pair of a box surely counts, as a bool scalar. `q` and `kv` are the first and last positions, i32
    /// scalars; `args` the arguments, i32 scalars.
    #[track_caller]
    pub fn emit_full(
        &self,
        b: &mut Builder,
        q: (ValueId, ValueId),
        kv: (ValueId, ValueId),
        args: &[ValueId],
    ) -> ValueId {
        b.at(Location::caller(), |b| {
            self.report(b, args.len());
            let mut m = Emit::scalars(b);
            let (q, kv) = (positions(&mut m, q), positions(&mut m, kv));
            let args = self.given_args(&mut m, args);
            let known = Ends::new(&self.tree, q, Some(kv), &args).surely(&mut m);
            m.truth_value(known[self.root as usize])
        })
    }

    /// Tells the builder of the author's mistakes, and of a wrong number of arguments.
    pub(super) fn report(&self, b: &mut Builder, given: usize) {
        for mistake in &self.mistakes {
            b.fail_at(mistake.loc, mistake.message.clone(), mistake.label.clone());
        }
        if given != self.args.len() {
            let (name, wanted) = (&self.name, self.args.len());
            b.fail(format!("pattern `{name}` takes {wanted} arguments"), format!("{given} are given"));
        }
    }

    /// The arguments as numbers of the machine; a missing one, which `report` told of, is zero.
    pub(super) fn given_args(&self, m: &mut Emit<'_>, args: &[ValueId]) -> Vec<Num> {
        let mut given = Vec::with_capacity(self.args.len());
        for (arg, &range) in self.tree.ranges.iter().enumerate() {
            given.push(match args.get(arg) {
                Some(&value) => m.given(value, Shape::Scalar, range),
                None => m.int(0),
            });
        }
        given
    }
}

/// First and last position as numbers of the machine.
pub(super) fn positions(m: &mut Emit<'_>, (first, last): (ValueId, ValueId)) -> (Num, Num) {
    (m.given(first, Shape::Scalar, POSITION), m.given(last, Shape::Scalar, POSITION))
}

/// The terms of the two positions stand first in every tree.
const _: () = assert!(Q == 0 && KV == 1);
