//! What bounds are computed with: integers on the host, or scalars and tiles of the IR. One description of a computation
//! serves both, so that the host's runs are the device's.

use std::collections::HashMap;

use super::tree::{Linear, Read, Term, TermId, Tree};
use crate::ir::Compare;

/// 32-bit arithmetic.
pub(super) trait Machine {
    /// An integer, or a tile of them.
    type Num: Copy;
    /// A truth, or a tile of them.
    type Bool: Copy;

    /// A constant.
    fn int(&mut self, value: i64) -> Self::Num;
    /// `Σ factor · number + constant`, saturating.
    fn sum(&mut self, terms: &[(Self::Num, i64)], constant: i64) -> Self::Num;
    /// Product; the caller knows that it fits.
    fn mul(&mut self, a: Self::Num, b: Self::Num) -> Self::Num;
    /// Truncated quotient; `b` is at least 1.
    fn div(&mut self, a: Self::Num, b: Self::Num) -> Self::Num;
    /// Remainder; `b` is at least 1.
    fn rem(&mut self, a: Self::Num, b: Self::Num) -> Self::Num;
    /// The smaller.
    fn min(&mut self, a: Self::Num, b: Self::Num) -> Self::Num;
    /// The larger.
    fn max(&mut self, a: Self::Num, b: Self::Num) -> Self::Num;
    /// A comparison.
    fn compare(&mut self, op: Compare, a: Self::Num, b: Self::Num) -> Self::Bool;
    /// A constant truth.
    fn truth(&mut self, value: bool) -> Self::Bool;
    /// Both (`true`) or either.
    fn join(&mut self, both: bool, a: Self::Bool, b: Self::Bool) -> Self::Bool;
    /// `if cond { a } else { b }`.
    fn choose(&mut self, cond: Self::Bool, a: Self::Num, b: Self::Num) -> Self::Num;

    /// `left <= right + constant` (`at_most`) or `left >= right + constant`, by the comparison that saves adding 1.
    fn bound(&mut self, left: Self::Num, at_most: bool, right: &[(Self::Num, i64)], constant: i64) -> Self::Bool {
        let (strict, loose, saved) =
            if at_most { (Compare::Lt, Compare::Le, -1) } else { (Compare::Gt, Compare::Ge, 1) };
        let (op, constant) = if constant == saved && !right.is_empty() { (strict, 0) } else { (loose, constant) };
        let right = self.sum(right, constant);
        self.compare(op, left, right)
    }

    /// `left + right + constant <= 0` as one comparison of the left terms with the right ones.
    fn at_most_zero(&mut self, left: &[(Self::Num, i64)], right: &[(Self::Num, i64)], constant: i64) -> Self::Bool {
        let flipped = !left.is_empty() && left.iter().all(|t| t.1 < 0);
        if flipped {
            let left = self.sum(&negated(left), 0);
            self.bound(left, false, right, constant)
        } else {
            let left = self.sum(left, 0);
            self.bound(left, true, &negated(right), -constant)
        }
    }
}

/// The terms with the opposite signs.
pub(super) fn negated<N: Copy>(terms: &[(N, i64)]) -> Vec<(N, i64)> {
    terms.iter().map(|&(n, factor)| (n, -factor)).collect()
}

/// Plain integers, saturating to 32 bits where the device does.
pub(super) struct Host;

impl Machine for Host {
    type Num = i64;
    type Bool = bool;

    fn int(&mut self, value: i64) -> i64 {
        value
    }

    fn sum(&mut self, terms: &[(i64, i64)], constant: i64) -> i64 {
        let sum = terms.iter().fold(constant, |sum, &(n, factor)| sum.saturating_add(n.saturating_mul(factor)));
        sum.clamp(i32::MIN.into(), i32::MAX.into())
    }

    fn mul(&mut self, a: i64, b: i64) -> i64 {
        a.saturating_mul(b)
    }

    fn div(&mut self, a: i64, b: i64) -> i64 {
        a / b.max(1)
    }

    fn rem(&mut self, a: i64, b: i64) -> i64 {
        a % b.max(1)
    }

    fn min(&mut self, a: i64, b: i64) -> i64 {
        a.min(b)
    }

    fn max(&mut self, a: i64, b: i64) -> i64 {
        a.max(b)
    }

    fn compare(&mut self, op: Compare, a: i64, b: i64) -> bool {
        match op {
            Compare::Eq => a == b,
            Compare::Ne => a != b,
            Compare::Lt => a < b,
            Compare::Le => a <= b,
            Compare::Gt => a > b,
            Compare::Ge => a >= b,
        }
    }

    fn truth(&mut self, value: bool) -> bool {
        value
    }

    fn join(&mut self, both: bool, a: bool, b: bool) -> bool {
        if both { a && b } else { a || b }
    }

    fn choose(&mut self, cond: bool, a: i64, b: i64) -> i64 {
        if cond { a } else { b }
    }
}

/// The values of terms where the positions have values.
pub(super) struct Values<'t, M: Machine> {
    pub(super) tree: &'t Tree,
    /// `None` where only fixed terms are asked for.
    pub(super) positions: Option<[M::Num; 2]>,
    pub(super) args: Vec<M::Num>,
    /// What tables hold at the two positions.
    pub(super) elements: HashMap<Read, M::Num>,
    pub(super) known: HashMap<TermId, M::Num>,
}

impl<'t, M: Machine> Values<'t, M> {
    pub(super) fn new(tree: &'t Tree, positions: Option<[M::Num; 2]>, args: &[M::Num]) -> Self {
        Values { tree, positions, args: args.to_vec(), elements: HashMap::new(), known: HashMap::new() }
    }

    pub(super) fn term(&mut self, m: &mut M, term: TermId) -> M::Num {
        if let Some(&known) = self.known.get(&term) {
            return known;
        }
        let tree = self.tree;
        let value = match &tree.terms[term as usize] {
            Term::Q => self.positions.expect("positions have values")[0],
            Term::Kv => self.positions.expect("positions have values")[1],
            Term::Arg(arg) => self.args[*arg],
            &Term::At { table, key } => self.elements[&Read { table, key }],
            Term::Mul(a, b) => {
                let (a, b) = (self.form(m, a), self.form(m, b));
                m.mul(a, b)
            }
            Term::Div(a, b) => {
                let (a, b) = (self.form(m, a), self.divisor(m, b));
                m.div(a, b)
            }
            Term::Rem(a, b) => {
                let (a, b) = (self.form(m, a), self.divisor(m, b));
                m.rem(a, b)
            }
            Term::Min(a, b) => {
                let (a, b) = (self.form(m, a), self.form(m, b));
                m.min(a, b)
            }
            Term::Max(a, b) => {
                let (a, b) = (self.form(m, a), self.form(m, b));
                m.max(a, b)
            }
        };
        self.known.insert(term, value);
        value
    }

    pub(super) fn terms(&mut self, m: &mut M, form: &Linear) -> Vec<(M::Num, i64)> {
        form.terms.iter().map(|&(term, factor)| (self.term(m, term), factor)).collect()
    }

    pub(super) fn form(&mut self, m: &mut M, form: &Linear) -> M::Num {
        let terms = self.terms(m, form);
        m.sum(&terms, form.constant)
    }

    /// A divisor, at least 1.
    pub(super) fn divisor(&mut self, m: &mut M, form: &Linear) -> M::Num {
        let (value, one) = (self.form(m, form), m.int(1));
        m.max(value, one)
    }
}
