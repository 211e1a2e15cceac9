//! Scalars as far as the checker follows them: which slot, which phase, how many rounds, and which way a branch goes.
//!
//! A number has its value in this run, and says how that value changes with the run, so that what holds of one round can be
//! said of all. Where a loop's begin or end is not known, it is a number *from* an origin of its own: differences and comparisons
//! of two from one origin are known, and its remainder is not.

use crate::ir::{Binary, Compare, Const, Op, Unary, ValueId};

/// How many rounds before its end a loop may be asked whether it ends. At all greater distances the answer is the same.
pub(super) const AHEAD: i64 = 2;

/// How a number changes, from a round to the one a period later and from a run to the one that has a period more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not at all.
    Still,
    /// It is a period more.
    Round,
    /// A round, divided by this much.
    Lap(i32),
    /// The end of a loop that begins here: the same in all rounds, a period more in the longer run.
    End(i32),
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    /// What it is here.
    pub(super) at: i64,
    /// How far it is from the round or the end that it was made of.
    pub(super) off: i64,
    /// What it is known relative to.
    pub(super) from: Option<u16>,
    /// How it changes.
    pub(super) kind: Kind,
}

/// What is known of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing.
    #[default]
    Nothing,
    /// It is a number.
    Int(Number),
    /// It is true or false.
    Bool(bool),
    /// It is the tile in this slot, counted over all buffers.
    Tile(usize),
}

impl Known {
    /// What is left of it when the loops that it was followed through have ended.
    pub(super) fn settled(self) -> Self {
        match self {
            Known::Int(Number { at, from: None, kind: Kind::Still, .. }) => Known::Int(Number::still(at)),
            Known::Bool(holds) => Known::Bool(holds),
            _ => Known::Nothing,
        }
    }
}

impl Number {
    pub(super) const fn still(at: i64) -> Self {
        Number { at, off: 0, from: None, kind: Kind::Still }
    }
}

/// What an operation on scalars makes, where a period is so many rounds.
pub(super) fn eval(op: &Op, get: impl Fn(ValueId) -> Known, period: i64) -> Known {
    match *op {
        Op::Const(Const::I32(value)) => Known::Int(Number::still(i64::from(value))),
        Op::Const(Const::Bool(value)) => Known::Bool(value),
        Op::Unary(Unary::Not, x) => match get(x) {
            Known::Bool(x) => Known::Bool(!x),
            _ => Known::Nothing,
        },
        Op::Unary(Unary::Neg, x) => match get(x) {
            Known::Int(x) => sum(Number::still(0), x, -1),
            _ => Known::Nothing,
        },
        Op::Binary(op, a, b) => match (op, get(a), get(b)) {
            (op, Known::Int(a), Known::Int(b)) => binary(op, a, b, period),
            (Binary::And, Known::Bool(a), Known::Bool(b)) => Known::Bool(a && b),
            (Binary::And, Known::Bool(false), _) | (Binary::And, _, Known::Bool(false)) => Known::Bool(false),
            (Binary::Or, Known::Bool(a), Known::Bool(b)) => Known::Bool(a || b),
            (Binary::Or, Known::Bool(true), _) | (Binary::Or, _, Known::Bool(true)) => Known::Bool(true),
            _ => Known::Nothing,
        },
        Op::Compare(op, a, b) => match (get(a), get(b)) {
            (Known::Int(a), Known::Int(b)) => compare(op, a, b),
            _ => Known::Nothing,
        },
        Op::Select(cond, a, b) => match get(cond) {
            Known::Bool(cond) => get(if cond { a } else { b }),
            _ if get(a) == get(b) => get(a),
            _ => Known::Nothing,
        },
        _ => Known::Nothing,
    }
}

/// `a + sign * b`.
fn sum(a: Number, b: Number, sign: i64) -> Known {
    let kind = match (a.kind, b.kind) {
        (kind, Kind::Still) => kind,
        (Kind::Still, kind) if sign > 0 => kind,
        (Kind::Round, Kind::Round) if sign < 0 => Kind::Still,
        _ => return Known::Nothing,
    };
    let from = match (a.from, b.from) {
        (from, None) => from,
        (None, from) if sign > 0 => from,
        (Some(a), Some(b)) if sign < 0 && a == b => None,
        _ => return Known::Nothing,
    };
    // What is added to a round or an end is how far off it is; a number that stands still is as far off as it is large.
    let off = |number: Number| if number.kind == Kind::Still { number.at } else { number.off };
    Known::Int(Number { at: a.at + sign * b.at, off: off(a) + sign * off(b), from, kind })
}

fn binary(op: Binary, a: Number, b: Number, period: i64) -> Known {
    let still = a.kind == Kind::Still && b.kind == Kind::Still && a.from.is_none() && b.from.is_none();
    // Rounds that are divided by a divisor of the period come to the same remainder a period later.
    let divisor =
        (b.kind == Kind::Still && b.from.is_none() && a.from.is_none() && a.at >= 0 && b.at > 0).then_some(b.at);
    let whole = |divisor: i64| period > 0 && period % divisor == 0;
    match (op, a.kind, divisor) {
        (Binary::Add, ..) => sum(a, b, 1),
        (Binary::Sub, ..) => sum(a, b, -1),
        (Binary::Mul, ..) if still => Known::Int(Number::still(a.at * b.at)),
        (Binary::Div, Kind::Still, Some(by)) => Known::Int(Number::still(a.at / by)),
        (Binary::Rem, Kind::Still, Some(by)) => Known::Int(Number::still(a.at % by)),
        (Binary::Div, Kind::Round, Some(by)) if whole(by) => {
            Known::Int(Number { at: a.at / by, kind: Kind::Lap(by as i32), ..Number::still(0) })
        }
        (Binary::Rem, Kind::Round, Some(by)) if whole(by) => Known::Int(Number::still(a.at % by)),
        (Binary::Rem, Kind::Lap(laps), Some(by)) if whole(i64::from(laps) * by) => Known::Int(Number::still(a.at % by)),
        (Binary::Min | Binary::Max, kind, _) if kind == b.kind && a.from == b.from => {
            let first = (a.at <= b.at) == matches!(op, Binary::Min);
            Known::Int(if first { a } else { b })
        }
        _ => Known::Nothing,
    }
}

fn compare(op: Compare, a: Number, b: Number) -> Known {
    let ahead = |x: Number, end: Number, lo: i64| {
        let off = if x.kind == Kind::Still { x.at - lo } else { x.off };
        (off - end.off).abs() <= AHEAD
    };
    let same = a.from == b.from
        && match (a.kind, b.kind) {
            (Kind::Still | Kind::Round, Kind::End(lo)) => ahead(a, b, lo.into()),
            (Kind::End(lo), Kind::Still | Kind::Round) => ahead(b, a, lo.into()),
            (a, b) => a == b,
        };
    if !same {
        return Known::Nothing;
    }
    Known::Bool(match op {
        Compare::Eq => a.at == b.at,
        Compare::Ne => a.at != b.at,
        Compare::Lt => a.at < b.at,
        Compare::Le => a.at <= b.at,
        Compare::Gt => a.at > b.at,
        Compare::Ge => a.at >= b.at,
    })
}
