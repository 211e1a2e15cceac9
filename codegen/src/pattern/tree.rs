//! The expression tree of a pattern: integer forms linear in terms, and truths over them.
//!
//! Numbers are kept as sums `Σ coefficient · term + constant`, so that `(q - kv) < window` and `kv > q - window` are one
//! thing, and a bound on `kv` can be read off. A term is a position, an argument, or an operation that is not linear. Truths
//! are in negation normal form from the start: comparisons with zero under `and` and `or`.
//!
//! Ids only point backwards: what a term or truth is made of has smaller ids.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// A term by its place in [`Tree::terms`].
pub(super) type TermId = u32;

/// A truth by its place in [`Tree::truths`].
pub(super) type TruthId = u32;

/// The query's position, as a term.
pub(super) const Q: TermId = 0;

/// The key's position, as a term.
pub(super) const KV: TermId = 1;

/// Positions are below an i32 length.
pub(super) const POSITION: (i64, i64) = (0, i32::MAX as i64 - 1);

/// What a table may hold: any 32-bit integer.
pub(super) const ELEMENT: (i64, i64) = (i32::MIN as i64, i32::MAX as i64);

/// Coefficients and constants stay within this; what an author means is far below.
const LIMIT: i64 = 1 << 40;

/// What a linear form is linear in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Term {
    Q,
    Kv,
    Arg(usize),
    /// What a table holds for a position: the key's, or the query's.
    At {
        table: usize,
        key: bool,
    },
    /// The right factor holds arguments and constants only.
    Mul(Linear, Linear),
    /// Truncates. The divisor holds arguments and constants only; one below 1 counts as 1.
    Div(Linear, Linear),
    /// Has the dividend's sign. The divisor as for `Div`.
    Rem(Linear, Linear),
    Min(Linear, Linear),
    Max(Linear, Linear),
}

/// `Σ coefficient · term + constant`. Terms ascend, no coefficient is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Linear {
    pub(super) terms: Vec<(TermId, i64)>,
    pub(super) constant: i64,
}

impl Linear {
    pub(super) fn constant(constant: i64) -> Self {
        Self { terms: Vec::new(), constant }
    }

    pub(super) fn term(term: TermId) -> Self {
        Self { terms: vec![(term, 1)], constant: 0 }
    }

    pub(super) fn as_constant(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }

    /// `self + factor * other`; `None` where a number leaves [`LIMIT`].
    pub(super) fn plus(&self, factor: i64, other: &Linear) -> Option<Linear> {
        let step =
            |old: i64, by: i64| by.checked_mul(factor)?.checked_add(old).filter(|new| (-LIMIT..=LIMIT).contains(new));
        let mut terms: BTreeMap<TermId, i64> = self.terms.iter().copied().collect();
        for &(term, coefficient) in &other.terms {
            let slot = terms.entry(term).or_insert(0);
            *slot = step(*slot, coefficient)?;
        }
        let constant = step(self.constant, other.constant)?;
        Some(Linear { terms: terms.into_iter().filter(|&(_, c)| c != 0).collect(), constant })
    }

    /// `factor * self + constant`.
    pub(super) fn scaled(&self, factor: i64, constant: i64) -> Option<Linear> {
        Linear::constant(constant).plus(factor, self)
    }

    /// The form without one term, and that term's coefficient.
    pub(super) fn without(&self, term: TermId) -> (Linear, i64) {
        let coefficient = self.terms.iter().find(|t| t.0 == term).map_or(0, |t| t.1);
        let terms = self.terms.iter().copied().filter(|t| t.0 != term).collect();
        (Linear { terms, constant: self.constant }, coefficient)
    }
}

/// A truth value. `And` and `Or` have at least two members, ascending.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Truth {
    Const(bool),
    /// The form is at most zero.
    Le(Linear),
    /// The form is zero.
    Eq(Linear),
    /// The form is not zero.
    Ne(Linear),
    And(Vec<TruthId>),
    Or(Vec<TruthId>),
}

/// Which of the two positions something depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Depends {
    pub(super) q: bool,
    pub(super) kv: bool,
}

/// Terms and truths, each once.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) terms: Vec<Term>,
    depends: Vec<Depends>,
    pub(super) truths: Vec<Truth>,
    /// What each argument may be.
    pub(super) ranges: Vec<(i64, i64)>,
    /// What each table may hold for a query, and for a key.
    pub(super) tables: Vec<[(i64, i64); 2]>,
}

/// An element of a table that a pattern reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Read {
    /// Which table, by its place among the pattern's.
    pub table: usize,
    /// Whether it stands at the key's position; if not, at the query's.
    pub key: bool,
}

/// What an author calls arguments and tables.
pub(super) struct Names<'a> {
    pub(super) args: &'a [String],
    pub(super) tables: &'a [String],
}

/// A number left the range in which patterns are reckoned.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooLarge;

impl Tree {
    /// The positions, an argument for each range, and so many tables.
    pub(super) fn new(ranges: Vec<(i64, i64)>, tables: usize) -> Self {
        let tables = vec![[ELEMENT; 2]; tables];
        let mut tree = Tree { terms: Vec::new(), depends: Vec::new(), truths: Vec::new(), ranges, tables };
        tree.term(Term::Q);
        tree.term(Term::Kv);
        for arg in 0..tree.ranges.len() {
            tree.term(Term::Arg(arg));
        }
        tree
    }

    /// A term, made once.
    pub(super) fn term(&mut self, term: Term) -> TermId {
        if let Some(known) = self.terms.iter().position(|t| *t == term) {
            return known as TermId;
        }
        let depends = match &term {
            Term::Q => Depends { q: true, kv: false },
            Term::Kv => Depends { q: false, kv: true },
            Term::Arg(_) => Depends::default(),
            Term::At { key, .. } => Depends { q: !key, kv: *key },
            Term::Mul(a, b) | Term::Div(a, b) | Term::Rem(a, b) | Term::Min(a, b) | Term::Max(a, b) => {
                let (a, b) = (self.depends(a), self.depends(b));
                Depends { q: a.q || b.q, kv: a.kv || b.kv }
            }
        };
        self.terms.push(term);
        self.depends.push(depends);
        self.terms.len() as TermId - 1
    }

    /// What a term depends on.
    pub(super) fn term_depends(&self, term: TermId) -> Depends {
        self.depends[term as usize]
    }

    /// What a form depends on.
    pub(super) fn depends(&self, form: &Linear) -> Depends {
        form.terms.iter().fold(Depends::default(), |d, &(term, _)| {
            let t = self.term_depends(term);
            Depends { q: d.q || t.q, kv: d.kv || t.kv }
        })
    }

    /// Whether a form holds arguments and constants only.
    pub(super) fn is_fixed(&self, form: &Linear) -> bool {
        self.depends(form) == Depends::default()
    }

    /// A form's terms in two: those to stand on the left of a comparison, and the rest. The key's go left; where there are
    /// none, the query's; where there are none either, those of one sign. Both without the constant.
    pub(super) fn sides(&self, form: &Linear) -> (Linear, Linear) {
        let rank = |term: TermId| {
            let depends = self.term_depends(term);
            if depends.kv { 2 } else { u8::from(depends.q) }
        };
        let highest = form.terms.iter().map(|t| rank(t.0)).max().unwrap_or(0);
        let sign = form.terms.first().map_or(1, |t| t.1.signum());
        let (left, right) =
            form.terms.iter().partition(|t| rank(t.0) == highest && (highest > 0 || t.1.signum() == sign));
        (Linear { terms: left, constant: 0 }, Linear { terms: right, constant: 0 })
    }

    fn truth(&mut self, truth: Truth) -> TruthId {
        if let Some(known) = self.truths.iter().position(|t| *t == truth) {
            return known as TruthId;
        }
        self.truths.push(truth);
        self.truths.len() as TruthId - 1
    }

    pub(super) fn always(&mut self, value: bool) -> TruthId {
        self.truth(Truth::Const(value))
    }

    /// `form <= 0`. Minima and maxima in it become choices between forms without them, so that they bound as well.
    pub(super) fn at_most_zero(&mut self, form: Linear) -> Result<TruthId, TooLarge> {
        if let Some(value) = form.as_constant() {
            return Ok(self.always(value <= 0));
        }
        match self.split(&form)? {
            Some((both, a, b)) => {
                let (a, b) = (self.at_most_zero(a)?, self.at_most_zero(b)?);
                Ok(self.join(both, &[a, b]))
            }
            None => Ok(self.truth(Truth::Le(form))),
        }
    }

    /// `form <= 0` as two such forms, both (`true`) or either (`false`) of which must hold, where a minimum or maximum stands
    /// in it. A form with many of them stays whole.
    pub(super) fn split(&self, form: &Linear) -> Result<Option<(bool, Linear, Linear)>, TooLarge> {
        let choice = |term: TermId| matches!(self.terms[term as usize], Term::Min(..) | Term::Max(..));
        let choices: Vec<TermId> = form.terms.iter().map(|t| t.0).filter(|&t| choice(t)).collect();
        let (Some(&term), true) = (choices.last(), choices.len() <= 3) else { return Ok(None) };
        let (rest, factor) = form.without(term);
        let (Term::Min(a, b) | Term::Max(a, b)) = &self.terms[term as usize] else { return Ok(None) };
        let both = matches!(self.terms[term as usize], Term::Max(..)) == (factor > 0);
        let with = |part: &Linear| rest.plus(factor, part).ok_or(TooLarge);
        Ok(Some((both, with(a)?, with(b)?)))
    }

    /// `form == 0` or `form != 0`.
    pub(super) fn zero(&mut self, equal: bool, form: Linear) -> TruthId {
        if let Some(value) = form.as_constant() {
            return self.always((value == 0) == equal);
        }
        self.truth(if equal { Truth::Eq(form) } else { Truth::Ne(form) })
    }

    /// All (`both`) or any of `members`.
    pub(super) fn join(&mut self, both: bool, members: &[TruthId]) -> TruthId {
        let mut flat = Vec::new();
        for &member in members {
            match (&self.truths[member as usize], both) {
                (Truth::Const(value), _) if *value == both => {}
                (Truth::Const(_), _) => return member,
                (Truth::And(inner), true) | (Truth::Or(inner), false) => flat.extend_from_slice(inner),
                _ => flat.push(member),
            }
        }
        flat.sort_unstable();
        flat.dedup();
        match flat.as_slice() {
            [] => self.always(both),
            [one] => *one,
            _ => self.truth(if both { Truth::And(flat) } else { Truth::Or(flat) }),
        }
    }

    /// The opposite of a truth.
    pub(super) fn not(&mut self, truth: TruthId) -> Result<TruthId, TooLarge> {
        let mut opposite = Vec::with_capacity(truth as usize + 1);
        for id in 0..=truth {
            let made = match self.truths[id as usize].clone() {
                Truth::Const(value) => self.always(!value),
                // Not `form <= 0`: `form >= 1`, that is `1 - form <= 0`.
                Truth::Le(form) => self.at_most_zero(form.scaled(-1, 1).ok_or(TooLarge)?)?,
                Truth::Eq(form) => self.zero(false, form),
                Truth::Ne(form) => self.zero(true, form),
                Truth::And(members) => self.join(false, &pick(&opposite, &members)),
                Truth::Or(members) => self.join(true, &pick(&opposite, &members)),
            };
            opposite.push(made);
        }
        Ok(opposite[truth as usize])
    }

    /// Drops what `root` is not made of, and returns its new id.
    pub(super) fn compact(&mut self, root: TruthId) -> TruthId {
        let (mut truths, mut terms) = (vec![false; self.truths.len()], vec![false; self.terms.len()]);
        let mark = |form: &Linear, terms: &mut Vec<bool>| form.terms.iter().for_each(|t| terms[t.0 as usize] = true);
        truths[root as usize] = true;
        for id in (0..self.truths.len()).rev().filter(|&id| id <= root as usize) {
            match &self.truths[id] {
                _ if !truths[id] => {}
                Truth::Const(_) => {}
                Truth::Le(form) | Truth::Eq(form) | Truth::Ne(form) => mark(form, &mut terms),
                Truth::And(members) | Truth::Or(members) => members.iter().for_each(|&m| truths[m as usize] = true),
            }
        }
        for id in (0..self.terms.len()).rev() {
            match &self.terms[id] {
                Term::Q | Term::Kv | Term::Arg(_) => terms[id] = true,
                _ if !terms[id] => {}
                Term::At { .. } => {}
                Term::Mul(a, b) | Term::Div(a, b) | Term::Rem(a, b) | Term::Min(a, b) | Term::Max(a, b) => {
                    mark(a, &mut terms);
                    mark(b, &mut terms);
                }
            }
        }
        let (truth_at, term_at) = (places(&truths), places(&terms));
        let moved = |form: &mut Linear| form.terms.iter_mut().for_each(|t| t.0 = term_at[t.0 as usize]);
        retain(&mut self.truths, &truths);
        retain(&mut self.terms, &terms);
        retain(&mut self.depends, &terms);
        for truth in &mut self.truths {
            match truth {
                Truth::Const(_) => {}
                Truth::Le(form) | Truth::Eq(form) | Truth::Ne(form) => moved(form),
                Truth::And(members) | Truth::Or(members) => {
                    members.iter_mut().for_each(|m| *m = truth_at[*m as usize]);
                }
            }
        }
        for term in &mut self.terms {
            if let Term::Mul(a, b) | Term::Div(a, b) | Term::Rem(a, b) | Term::Min(a, b) | Term::Max(a, b) = term {
                moved(a);
                moved(b);
            }
        }
        truth_at[root as usize]
    }

    /// The least and largest value of a term, given those of the terms before it. Sums and products stop at the ends of i64.
    pub(super) fn term_range(&self, term: TermId, before: &[(i64, i64)], positions: [(i64, i64); 2]) -> (i64, i64) {
        let range = |form: &Linear| linear_range(form, before);
        match &self.terms[term as usize] {
            Term::Q => positions[0],
            Term::Kv => positions[1],
            Term::Arg(arg) => self.ranges[*arg],
            Term::At { table, key } => self.tables[*table][usize::from(*key)],
            Term::Mul(a, b) => corners(range(a), range(b), i64::saturating_mul),
            Term::Div(a, b) => corners(range(a), at_least_one(range(b)), |a, b| a / b),
            Term::Rem(a, b) => {
                let ((lo, hi), (least, most)) = (range(a), at_least_one(range(b)));
                if least == most && lo / most == hi / most {
                    (lo % most, hi % most)
                } else {
                    (if lo < 0 { lo.max(1 - most) } else { 0 }, if hi > 0 { hi.min(most - 1) } else { 0 })
                }
            }
            Term::Min(a, b) => {
                let (a, b) = (range(a), range(b));
                (a.0.min(b.0), a.1.min(b.1))
            }
            Term::Max(a, b) => {
                let (a, b) = (range(a), range(b));
                (a.0.max(b.0), a.1.max(b.1))
            }
        }
    }

    /// The least and largest value of every term.
    pub(super) fn term_ranges(&self, positions: [(i64, i64); 2]) -> Vec<(i64, i64)> {
        let mut ranges = Vec::with_capacity(self.terms.len());
        for term in 0..self.terms.len() {
            let range = self.term_range(term as TermId, &ranges, positions);
            ranges.push(range);
        }
        ranges
    }

    /// What is read of tables, in the order of the terms.
    pub(super) fn reads(&self) -> Vec<Read> {
        let read = |term: &Term| match term {
            Term::At { table, key } => Some(Read { table: *table, key: *key }),
            _ => None,
        };
        self.terms.iter().filter_map(read).collect()
    }

    /// A form in the author's words, `q + 1` say.
    pub(super) fn show(&self, form: &Linear, names: &Names<'_>) -> String {
        let mut text = String::new();
        for &(term, coefficient) in &form.terms {
            let sign = match (text.is_empty(), coefficient < 0) {
                (true, false) => "",
                (true, true) => "-",
                (false, false) => " + ",
                (false, true) => " - ",
            };
            let shown = match &self.terms[term as usize] {
                Term::Q => "q".to_owned(),
                Term::Kv => "kv".to_owned(),
                Term::Arg(arg) => names.args.get(*arg).cloned().unwrap_or_else(|| format!("arg{arg}")),
                Term::At { table, key } => {
                    let name = names.tables.get(*table).cloned().unwrap_or_else(|| format!("table{table}"));
                    format!("{name}[{}]", if *key { "kv" } else { "q" })
                }
                Term::Mul(a, b) => format!("({}) * ({})", self.show(a, names), self.show(b, names)),
                Term::Div(a, b) => format!("({}) / ({})", self.show(a, names), self.show(b, names)),
                Term::Rem(a, b) => format!("({}) % ({})", self.show(a, names), self.show(b, names)),
                Term::Min(a, b) => format!("min({}, {})", self.show(a, names), self.show(b, names)),
                Term::Max(a, b) => format!("max({}, {})", self.show(a, names), self.show(b, names)),
            };
            let factor = coefficient.unsigned_abs();
            let factor = if factor == 1 { String::new() } else { format!("{factor} * ") };
            let _ = write!(text, "{sign}{factor}{shown}");
        }
        match (text.is_empty(), form.constant) {
            (true, constant) => text = constant.to_string(),
            (false, 0) => {}
            (false, constant) if constant < 0 => text.push_str(&format!(" - {}", constant.unsigned_abs())),
            (false, constant) => text.push_str(&format!(" + {constant}")),
        }
        text
    }

    /// A truth in the author's words, into `f`.
    pub(super) fn show_truth(&self, truth: TruthId, names: &Names<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = |form: &Linear| {
            let side = |sign: i64| Linear {
                terms: form.terms.iter().filter(|t| t.1 * sign > 0).map(|&(t, c)| (t, c.abs())).collect(),
                constant: (form.constant * sign).max(0),
            };
            (self.show(&side(1), names), self.show(&side(-1), names))
        };
        let compare = |f: &mut fmt::Formatter<'_>, form, op| {
            let (left, right) = sides(form);
            write!(f, "{left} {op} {right}")
        };
        let list = |f: &mut fmt::Formatter<'_>, members: &[TruthId], between| {
            for (n, &member) in members.iter().enumerate() {
                let inner = matches!(self.truths[member as usize], Truth::And(_) | Truth::Or(_));
                let (open, close) = if inner { ("(", ")") } else { ("", "") };
                write!(f, "{}{open}", if n == 0 { "" } else { between })?;
                self.show_truth(member, names, f)?;
                f.write_str(close)?;
            }
            Ok(())
        };
        match &self.truths[truth as usize] {
            Truth::Const(value) => write!(f, "{value}"),
            Truth::Le(form) => compare(f, form, "<="),
            Truth::Eq(form) => compare(f, form, "=="),
            Truth::Ne(form) => compare(f, form, "!="),
            Truth::And(members) => list(f, members, " & "),
            Truth::Or(members) => list(f, members, " | "),
        }
    }
}

/// Where each kept entry stands once the others are gone.
fn places(kept: &[bool]) -> Vec<u32> {
    kept.iter().scan(0, |next, &kept| Some(std::mem::replace(next, *next + u32::from(kept)))).collect()
}

fn retain<T>(list: &mut Vec<T>, kept: &[bool]) {
    let mut at = kept.iter();
    list.retain(|_| *at.next().expect("a mark for each"));
}

fn pick(from: &[TruthId], which: &[TruthId]) -> Vec<TruthId> {
    which.iter().map(|&id| from[id as usize]).collect()
}

/// The least and largest value of a form.
pub(super) fn linear_range(form: &Linear, terms: &[(i64, i64)]) -> (i64, i64) {
    form.terms.iter().fold((form.constant, form.constant), |(lo, hi), &(term, factor)| {
        let (a, b) = terms[term as usize];
        let (a, b) = (a.saturating_mul(factor), b.saturating_mul(factor));
        (lo.saturating_add(a.min(b)), hi.saturating_add(a.max(b)))
    })
}

fn at_least_one((lo, hi): (i64, i64)) -> (i64, i64) {
    (lo.max(1), hi.max(1))
}

/// The range of an operation that is monotone in each operand.
pub(super) fn corners(a: (i64, i64), b: (i64, i64), op: impl Fn(i64, i64) -> i64) -> (i64, i64) {
    let all = [op(a.0, b.0), op(a.0, b.1), op(a.1, b.0), op(a.1, b.1)];
    (all.into_iter().min().expect("four"), all.into_iter().max().expect("four"))
}
