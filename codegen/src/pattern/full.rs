//! What surely holds in a box of positions: interval arithmetic as a computation.

use std::collections::HashMap;
use std::panic::Location;

use super::Pattern;
use super::emit::{Emit, Num, Shape};
use super::machine::{Machine, Values};
use super::tree::{KV, Linear, POSITION, Q, Read, Term, TermId, Tree, Truth, linear_range};
use crate::ir::{Builder, Compare, ValueId};

/// The ends of terms over a box of positions.
pub(super) struct Ends<'t, M: Machine> {
    tree: &'t Tree,
    /// What is known of every term when the pattern is compiled.
    ranges: Vec<(i64, i64)>,
    q: (M::Num, M::Num),
    /// `None` where terms with the key's position have no ends.
    kv: Option<(M::Num, M::Num)>,
    /// The least and largest of what tables hold; those that are not here are not known.
    pub(super) elements: HashMap<Read, (M::Num, M::Num)>,
    /// Whether remainders are looked at closely: two divisions each.
    pub(super) closely: bool,
    fixed: Values<'t, M>,
}

impl<'t, M: Machine> Ends<'t, M> {
    pub(super) fn new(tree: &'t Tree, q: (M::Num, M::Num), kv: Option<(M::Num, M::Num)>, args: &[M::Num]) -> Self {
        let ranges = tree.term_ranges([POSITION; 2]);
        let fixed = Values::new(tree, None, args);
        Ends { tree, ranges, q, kv, elements: HashMap::new(), closely: false, fixed }
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
            &Term::At { table, key } => self.elements.get(&Read { table, key }).copied().map(end),
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
                let divisor = self.fixed.divisor(m, b);
                let beyond = match () {
                    () if (upper && hi <= 0) || (!upper && lo >= 0) => m.int(0),
                    () if upper => m.sum(&[(divisor, 1)], -1),
                    () => m.sum(&[(divisor, -1)], 1),
                };
                if !self.closely {
                    return Some(beyond);
                }
                // While the quotient stays the same, the remainder rises with the dividend.
                let (Some(least), Some(most)) = (self.form(m, a, false), self.form(m, a, true)) else {
                    return Some(beyond);
                };
                let (first, last) = (m.div(least, divisor), m.div(most, divisor));
                let same = m.compare(Compare::Eq, first, last);
                let remainder = m.rem(if upper { most } else { least }, divisor);
                Some(m.choose(same, remainder, beyond))
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

    /// Of each truth, whether it holds everywhere in the box (`everywhere`: true is sure), or somewhere (false is sure).
    pub(super) fn holds(&mut self, m: &mut M, everywhere: bool) -> Vec<M::Bool> {
        let tree = self.tree;
        let mut known: Vec<M::Bool> = Vec::with_capacity(tree.truths.len());
        for truth in &tree.truths {
            let holds = match truth {
                Truth::Const(value) => m.truth(*value),
                Truth::Le(form) => self.at_most_zero(m, form, everywhere),
                Truth::Eq(form) => {
                    let sides = (form.scaled(-1, 0))
                        .map(|below| [form, &below].map(|side| self.at_most_zero(m, side, everywhere)));
                    sides.map_or(m.truth(!everywhere), |[a, b]| m.join(true, a, b))
                }
                Truth::Ne(form) => {
                    let sides = (form.scaled(1, 1).zip(form.scaled(-1, 1)))
                        .map(|(below, above)| [below, above].map(|side| self.at_most_zero(m, &side, everywhere)));
                    sides.map_or(m.truth(!everywhere), |[a, b]| m.join(false, a, b))
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
    /// scalars; `args` the arguments, i32 scalars. Of what tables hold nothing is known here: [`emit_class`](Self::emit_class)
    /// knows it.
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
            let known = Ends::new(&self.tree, q, Some(kv), &args).holds(&mut m, true);
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
