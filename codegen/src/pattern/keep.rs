//! The mask of a partial block: a pattern as element-wise IR.
//!
//! Each part is computed at the rank that it needs: arguments as scalars, what depends on the query alone as a row vector,
//! on the key alone as a column vector. A comparison is arranged so that the key's side is a column vector and everything
//! else the row's, one compare an element; several bounds on the same key side become one, `kv <= min(..)`.

use std::collections::{BTreeMap, HashMap};
use std::panic::Location;

use super::Pattern;
use super::emit::{Bool, Emit, Num, Shape};
use super::machine::{Machine, Values, negated};
use super::tree::{Depends, ELEMENT, Linear, POSITION, TermId, Tree, Truth, TruthId};
use crate::ir::{Builder, Compare, ValueId};

impl Pattern {
    /// Which pairs count. `q` holds the query's positions, i32 over the rows (or a scalar: one query); `kv` the key's, i32
    /// over the columns (or a scalar); `args` i32 scalars; `elements` what tables hold for each of [`reads`](Self::reads),
    /// i32 over the rows or the columns. The result is bool over the rows and the columns.
    #[track_caller]
    pub fn emit_keep(
        &self,
        b: &mut Builder,
        q: ValueId,
        kv: ValueId,
        args: &[ValueId],
        elements: &[ValueId],
    ) -> ValueId {
        b.at(Location::caller(), |b| {
            self.report(b, args.len());
            self.expect_elements(elements.len());
            let (rows, cols) = (b.ty(q).axes.clone(), b.ty(kv).axes.clone());
            if rows.len() > 1 || cols.len() > 1 || (rows == cols && !rows.is_empty()) {
                let found = format!("{} and {}", b.show(b.ty(q)), b.show(b.ty(kv)));
                b.fail("a pattern takes the positions of the rows and those of the columns", found);
                return b.truth(true);
            }
            let shape = |axes: &[_], shape| if axes.is_empty() { Shape::Scalar } else { shape };
            let (q_shape, kv_shape) = (shape(&rows, Shape::Row), shape(&cols, Shape::Col));
            let mut m = Emit::tiles(b, rows, cols);
            let positions = [m.given(q, q_shape, POSITION), m.given(kv, kv_shape, POSITION)];
            let args = self.given_args(&mut m, args);
            let mut values = Values::new(&self.tree, Some(positions), &args);
            for (read, &element) in self.reads().into_iter().zip(elements) {
                let shape = if read.key { kv_shape } else { q_shape };
                values.elements.insert(read, m.given(element, shape, ELEMENT));
            }
            let mask = Masks { tree: &self.tree, values, made: HashMap::new() }.truth(&mut m, self.root);
            let value = m.truth_value(mask);
            m.spread(value, mask.shape, Shape::Both)
        })
    }
}

struct Masks<'t, 'b> {
    tree: &'t Tree,
    values: Values<'t, Emit<'b>>,
    made: HashMap<TruthId, Bool>,
}

/// Numbers, each with a factor.
type Terms = Vec<(Num, i64)>;

/// Terms of a form, each with its factor.
type Key = Vec<(TermId, i64)>;

/// A comparison of the key's side, a column vector, with everything else.
struct Bound {
    /// `key <= rest + constant` (`true`) or `key >= rest + constant`.
    at_most: bool,
    rest: Terms,
    constant: i64,
}

impl<'b> Masks<'_, 'b> {
    fn truth(&mut self, m: &mut Emit<'b>, id: TruthId) -> Bool {
        if let Some(&made) = self.made.get(&id) {
            return made;
        }
        let tree = self.tree;
        let made = match &tree.truths[id as usize] {
            Truth::Const(value) => m.truth(*value),
            Truth::Le(form) => {
                let (left, right) = self.sides(m, form);
                m.at_most_zero(&left, &right, form.constant)
            }
            Truth::Eq(form) | Truth::Ne(form) => {
                let (mut left, mut right) = self.sides(m, form);
                let mut constant = -form.constant;
                if left.iter().all(|t| t.1 < 0) {
                    left = negated(&left);
                    constant = -constant;
                } else {
                    right = negated(&right);
                }
                let (left, right) = (m.sum(&left, 0), m.sum(&right, constant));
                let equal = matches!(tree.truths[id as usize], Truth::Eq(_));
                m.compare(if equal { Compare::Eq } else { Compare::Ne }, left, right)
            }
            Truth::And(members) => self.list(m, true, members),
            Truth::Or(members) => self.list(m, false, members),
        };
        self.made.insert(id, made);
        made
    }

    /// The two sides of a comparison with zero, both still on one side of it.
    fn sides(&mut self, m: &mut Emit<'b>, form: &Linear) -> (Terms, Terms) {
        let (left, right) = self.tree.sides(form);
        (self.values.terms(m, &left), self.values.terms(m, &right))
    }

    /// All (`both`) or any of `members`: bounds on one key side together, cheap ones before dear ones.
    fn list(&mut self, m: &mut Emit<'b>, both: bool, members: &[TruthId]) -> Bool {
        let mut bounds: BTreeMap<(Key, bool), Vec<Bound>> = BTreeMap::new();
        let mut made = Vec::new();
        for &member in members {
            match self.bound(m, member) {
                Some((key, bound)) => bounds.entry((key, bound.at_most)).or_default().push(bound),
                None => made.push(self.truth(m, member)),
            }
        }
        for ((key, at_most), bounds) in bounds {
            let key = self.values.form(m, &Linear { terms: key, constant: 0 });
            made.push(match bounds.as_slice() {
                [one] => m.bound(key, at_most, &one.rest, one.constant),
                several => {
                    let ends: Vec<Num> = several.iter().map(|bound| m.sum(&bound.rest, bound.constant)).collect();
                    let tightest = both == at_most;
                    let end = ends.into_iter().reduce(|a, b| if tightest { m.min(a, b) } else { m.max(a, b) });
                    m.bound(key, at_most, &[(end.expect("several bounds"), 1)], 0)
                }
            });
        }
        made.sort_by_key(|one| one.shape);
        let neutral = m.truth(both);
        made.into_iter().fold(neutral, |all, one| m.join(both, all, one))
    }

    /// A comparison in which the key's terms stand apart from the query's: those terms, and what bounds them.
    fn bound(&mut self, m: &mut Emit<'b>, id: TruthId) -> Option<(Key, Bound)> {
        let Truth::Le(form) = &self.tree.truths[id as usize] else { return None };
        let (key, rest) = self.tree.sides(form);
        let apart = |&(term, _): &(TermId, i64)| self.tree.term_depends(term) == Depends { q: false, kv: true };
        if !key.terms.iter().all(apart) {
            return None;
        }
        let at_most = key.terms.iter().any(|t| t.1 > 0);
        let rest = self.values.terms(m, &rest);
        Some(match at_most {
            true => (key.terms, Bound { at_most, rest: negated(&rest), constant: -form.constant }),
            false => (negated(&key.terms), Bound { at_most, rest, constant: form.constant }),
        })
    }
}
