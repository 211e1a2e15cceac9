//! The machine that emits IR: scalars, row vectors, column vectors and tiles, each computed at the lowest rank that it has
//! and once.

use std::collections::HashMap;

use super::machine::Machine;
use crate::ir::{AxisId, Binary, Builder, Compare, Elem, Type, Unary, ValueId};

const LOW: i64 = i32::MIN as i64;
const HIGH: i64 = i32::MAX as i64;

/// How far a value is spread. Ordered by what an operation on it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Shape {
    Scalar,
    Row,
    Col,
    Both,
}

impl Shape {
    fn with(self, other: Shape) -> Shape {
        match (self, other) {
            (Shape::Row, Shape::Col) | (Shape::Col, Shape::Row) => Shape::Both,
            _ => self.max(other),
        }
    }
}

/// A number: known now, or a value of the IR.
#[derive(Clone, Copy, Debug)]
pub(super) struct Num {
    what: What<i64>,
    pub(super) shape: Shape,
    lo: i64,
    hi: i64,
}

/// A truth: known now, or a value of the IR.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bool {
    pub(super) what: What<bool>,
    pub(super) shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What<C> {
    Known(C),
    Value(ValueId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Int(i32),
    Negative(ValueId),
    Binary(Binary, ValueId, ValueId),
    Compare(Compare, ValueId, ValueId),
    Select(ValueId, ValueId, ValueId),
    Broadcast(ValueId, Shape),
}

/// Emits into a builder, every operation once.
pub(super) struct Emit<'b> {
    b: &'b mut Builder,
    rows: Vec<AxisId>,
    cols: Vec<AxisId>,
    made: HashMap<Key, ValueId>,
}

impl<'b> Emit<'b> {
    /// For scalars.
    pub(super) fn scalars(b: &'b mut Builder) -> Self {
        Self::tiles(b, Vec::new(), Vec::new())
    }

    /// For values over these axes.
    pub(super) fn tiles(b: &'b mut Builder, rows: Vec<AxisId>, cols: Vec<AxisId>) -> Self {
        Emit { b, rows, cols, made: HashMap::new() }
    }

    /// A value of the caller's, known to lie in a range.
    pub(super) fn given(&mut self, value: ValueId, shape: Shape, (lo, hi): (i64, i64)) -> Num {
        let ty = self.b.ty(value);
        if *ty != Type::tile(Elem::I32, self.axes(shape)) {
            let (found, want) = (self.b.show(ty), self.b.show(&Type::tile(Elem::I32, self.axes(shape))));
            self.b.fail(format!("a pattern takes {want} here"), format!("this is {found}"));
        }
        Num { what: What::Value(value), shape, lo: lo.max(LOW), hi: hi.min(HIGH) }
    }

    fn axes(&self, shape: Shape) -> Vec<AxisId> {
        match shape {
            Shape::Scalar => Vec::new(),
            Shape::Row => self.rows.clone(),
            Shape::Col => self.cols.clone(),
            Shape::Both => self.rows.iter().chain(&self.cols).copied().collect(),
        }
    }

    fn once(&mut self, key: Key, make: impl FnOnce(&mut Builder) -> ValueId) -> ValueId {
        if let Some(&made) = self.made.get(&key) {
            return made;
        }
        let value = make(self.b);
        self.made.insert(key, value);
        value
    }

    /// A number as a value of its own shape.
    pub(super) fn value(&mut self, a: Num) -> ValueId {
        match a.what {
            What::Value(value) => value,
            What::Known(known) => {
                let known = known.clamp(LOW, HIGH) as i32;
                self.once(Key::Int(known), |b| b.int(known))
            }
        }
    }

    /// A truth as a value of its own shape.
    pub(super) fn truth_value(&mut self, a: Bool) -> ValueId {
        match a.what {
            What::Value(value) => value,
            What::Known(known) => self.b.truth(known),
        }
    }

    /// A value repeated to a shape.
    pub(super) fn spread(&mut self, value: ValueId, from: Shape, to: Shape) -> ValueId {
        if self.axes(from) == self.axes(to) {
            return value;
        }
        let axes = self.axes(to);
        self.once(Key::Broadcast(value, to), |b| b.broadcast(value, &axes))
    }

    fn both(&mut self, a: (ValueId, Shape), b: (ValueId, Shape)) -> (ValueId, ValueId, Shape) {
        let shape = a.1.with(b.1);
        (self.spread(a.0, a.1, shape), self.spread(b.0, b.1, shape), shape)
    }

    fn binary(&mut self, op: Binary, a: Num, b: Num, (lo, hi): (i64, i64)) -> Num {
        let (x, y) = (self.value(a), self.value(b));
        let (x, y, shape) = self.both((x, a.shape), (y, b.shape));
        let swaps = matches!(op, Binary::Add | Binary::Mul | Binary::Min | Binary::Max);
        let key = if swaps && y < x { Key::Binary(op, y, x) } else { Key::Binary(op, x, y) };
        let value = self.once(key, |builder| builder.binary(op, x, y));
        Num { what: What::Value(value), shape, lo: lo.max(LOW), hi: hi.min(HIGH) }
    }

    /// `a + b` or `a - b`; where that may leave 32 bits, `a` is first brought so close that it does not.
    fn add(&mut self, a: Num, b: Num, minus: bool) -> Num {
        let (lo, hi) = step((a.lo, a.hi), b, minus);
        let mut a = a;
        if hi > HIGH {
            // a <= HIGH - max(b, 0), or a <= HIGH + min(b, 0).
            let zero = self.int(0);
            let part = if minus { self.min(b, zero) } else { self.max(b, zero) };
            let most = self.sum(&[(part, if minus { 1 } else { -1 })], HIGH);
            a = self.min(a, most);
        }
        if lo < LOW {
            // a >= LOW - min(b, 0), or a >= LOW + max(b, 0).
            let zero = self.int(0);
            let part = if minus { self.max(b, zero) } else { self.min(b, zero) };
            let least = self.sum(&[(part, if minus { 1 } else { -1 })], LOW);
            a = self.max(a, least);
        }
        self.binary(if minus { Binary::Sub } else { Binary::Add }, a, b, (lo, hi))
    }
}

/// The range of a sum or difference.
fn step((lo, hi): (i64, i64), b: Num, minus: bool) -> (i64, i64) {
    if minus { (lo - b.hi, hi - b.lo) } else { (lo + b.lo, hi + b.hi) }
}

fn fits((lo, hi): (i64, i64)) -> bool {
    LOW <= lo && hi <= HIGH
}

/// The order in which to add `parts` (a number, and whether it is subtracted) so that no partial sum leaves 32 bits if one
/// order can be found: by shape, cheapest first; else whatever fits next.
fn order(mut parts: Vec<(Num, bool)>) -> Vec<(Num, bool)> {
    parts.sort_by_key(|part| part.0.shape);
    let start = parts.iter().position(|part| !part.1).unwrap_or(0);
    let first = parts.remove(start);
    let begin = if first.1 { (-first.0.hi, -first.0.lo) } else { (first.0.lo, first.0.hi) };
    let mut range = begin;
    let in_order = parts.iter().all(|&(n, minus)| {
        range = step(range, n, minus);
        fits(range)
    });
    let mut ordered = vec![first];
    if in_order {
        ordered.extend(parts);
        return ordered;
    }
    range = begin;
    while !parts.is_empty() {
        let next = parts.iter().position(|&(n, minus)| fits(step(range, n, minus))).unwrap_or(0);
        let (n, minus) = parts.remove(next);
        let (lo, hi) = step(range, n, minus);
        range = (lo.clamp(LOW, HIGH), hi.clamp(LOW, HIGH));
        ordered.push((n, minus));
    }
    ordered
}

impl Machine for Emit<'_> {
    type Num = Num;
    type Bool = Bool;

    fn int(&mut self, value: i64) -> Num {
        Num { what: What::Known(value), shape: Shape::Scalar, lo: value, hi: value }
    }

    fn sum(&mut self, terms: &[(Num, i64)], constant: i64) -> Num {
        let mut constant = constant;
        let mut parts = Vec::new();
        for &(n, factor) in terms {
            match n.what {
                What::Known(known) => constant = constant.saturating_add(known.saturating_mul(factor)),
                What::Value(_) => {
                    let size = self.int(factor.saturating_abs());
                    parts.push((self.mul(n, size), factor < 0));
                }
            }
        }
        if parts.is_empty() {
            return self.int(constant.clamp(LOW, HIGH));
        }
        while constant != 0 {
            let piece = constant.clamp(LOW, HIGH);
            // The lowest number has no opposite to subtract.
            let minus = LOW < piece && piece < 0;
            parts.push((self.int(if minus { -piece } else { piece }), minus));
            constant -= piece;
        }
        let mut parts = order(parts).into_iter();
        let (first, minus) = parts.next().expect("at least one part");
        let mut sum = first;
        if minus {
            // The lowest number has no opposite.
            let least = self.int(-HIGH);
            let first = self.max(first, least);
            let value = self.value(first);
            let value = self.once(Key::Negative(value), |b| b.unary(Unary::Neg, value));
            sum = Num { what: What::Value(value), shape: first.shape, lo: -first.hi, hi: -first.lo };
        }
        for (n, minus) in parts {
            sum = self.add(sum, n, minus);
        }
        sum
    }

    fn mul(&mut self, a: Num, b: Num) -> Num {
        match (a.what, b.what) {
            (What::Known(x), What::Known(y)) => self.int(x.saturating_mul(y)),
            (What::Known(1), _) => b,
            (_, What::Known(1)) => a,
            (What::Known(0), _) | (_, What::Known(0)) => self.int(0),
            _ => self.binary(Binary::Mul, a, b, super::tree::corners((a.lo, a.hi), (b.lo, b.hi), i64::saturating_mul)),
        }
    }

    fn div(&mut self, a: Num, b: Num) -> Num {
        match (a.what, b.what) {
            (What::Known(x), What::Known(y)) => self.int(x / y.max(1)),
            (_, What::Known(1)) => a,
            _ => {
                let range = super::tree::corners((a.lo, a.hi), (b.lo.max(1), b.hi.max(1)), |x, y| x / y);
                self.binary(Binary::Div, a, b, range)
            }
        }
    }

    fn rem(&mut self, a: Num, b: Num) -> Num {
        match (a.what, b.what) {
            (What::Known(x), What::Known(y)) => self.int(x % y.max(1)),
            (_, What::Known(1)) => self.int(0),
            _ => {
                let most = b.hi.max(1) - 1;
                let range = (if a.lo < 0 { a.lo.max(-most) } else { 0 }, if a.hi > 0 { a.hi.min(most) } else { 0 });
                self.binary(Binary::Rem, a, b, range)
            }
        }
    }

    fn min(&mut self, a: Num, b: Num) -> Num {
        if a.hi <= b.lo {
            a
        } else if b.hi <= a.lo {
            b
        } else {
            self.binary(Binary::Min, a, b, (a.lo.min(b.lo), a.hi.min(b.hi)))
        }
    }

    fn max(&mut self, a: Num, b: Num) -> Num {
        if a.lo >= b.hi {
            a
        } else if b.lo >= a.hi {
            b
        } else {
            self.binary(Binary::Max, a, b, (a.lo.max(b.lo), a.hi.max(b.hi)))
        }
    }

    fn compare(&mut self, op: Compare, a: Num, b: Num) -> Bool {
        let (less, more) = (a.hi < b.lo, a.lo > b.hi);
        let equal = a.lo == a.hi && (b.lo, b.hi) == (a.lo, a.hi);
        let known = match op {
            Compare::Lt if less => Some(true),
            Compare::Lt if a.lo >= b.hi => Some(false),
            Compare::Le if a.hi <= b.lo => Some(true),
            Compare::Le if more => Some(false),
            Compare::Gt if more => Some(true),
            Compare::Gt if a.hi <= b.lo => Some(false),
            Compare::Ge if a.lo >= b.hi => Some(true),
            Compare::Ge if less => Some(false),
            Compare::Eq if less || more => Some(false),
            Compare::Eq if equal => Some(true),
            Compare::Ne if less || more => Some(true),
            Compare::Ne if equal => Some(false),
            _ => None,
        };
        if let Some(known) = known {
            return self.truth(known);
        }
        let (x, y) = (self.value(a), self.value(b));
        let (x, y, shape) = self.both((x, a.shape), (y, b.shape));
        let value = self.once(Key::Compare(op, x, y), |b| b.compare(op, x, y));
        Bool { what: What::Value(value), shape }
    }

    fn truth(&mut self, value: bool) -> Bool {
        Bool { what: What::Known(value), shape: Shape::Scalar }
    }

    fn join(&mut self, both: bool, a: Bool, b: Bool) -> Bool {
        match (a.what, b.what) {
            (What::Known(known), _) if known == both => b,
            (_, What::Known(known)) if known != both => b,
            (What::Known(_), _) | (_, What::Known(_)) => a,
            (What::Value(x), What::Value(y)) if x == y => a,
            (What::Value(x), What::Value(y)) => {
                let op = if both { Binary::And } else { Binary::Or };
                let (x, y, shape) = self.both((x, a.shape), (y, b.shape));
                let value = self.once(Key::Binary(op, x, y), |b| b.binary(op, x, y));
                Bool { what: What::Value(value), shape }
            }
        }
    }

    fn choose(&mut self, cond: Bool, a: Num, b: Num) -> Num {
        match cond.what {
            What::Known(true) => a,
            What::Known(false) => b,
            What::Value(truth) => {
                let (x, y) = (self.value(a), self.value(b));
                let shape = cond.shape.with(a.shape).with(b.shape);
                let truth = self.spread(truth, cond.shape, shape);
                let (x, y) = (self.spread(x, a.shape, shape), self.spread(y, b.shape, shape));
                let value = self.once(Key::Select(truth, x, y), |b| b.select(truth, x, y));
                Num { what: What::Value(value), shape, lo: a.lo.min(b.lo), hi: a.hi.max(b.hi) }
            }
        }
    }
}
