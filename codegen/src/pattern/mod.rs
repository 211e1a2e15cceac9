//! Patterns: one predicate on a query's and a key's position, recorded once as an expression tree, with several uses.
//!
//! ```
//! use lacuna_codegen::pattern::{Class, Pattern};
//! let window_sink = Pattern::record("window_sink", &["window", "sink"], |q, kv, args| {
//!     kv.le(q) & ((q - kv).lt(args[0]) | kv.lt(args[1]))
//! });
//! assert!(window_sink.keeps(100, 99, &[16, 4]) && window_sink.keeps(100, 3, &[16, 4]));
//! assert!(!window_sink.keeps(100, 50, &[16, 4]));
//! assert_eq!(window_sink.class(100..=115, 0..=3, &[16, 4]), Class::Full);
//! assert_eq!(window_sink.runs(100..=115, 128, 16, &[16, 4]), [0..1, 5..8]);
//! ```
//!
//! | use | on | by |
//! |---|---|---|
//! | [`keeps`](Pattern::keeps) | integers: the reference's mask | evaluation |
//! | [`class`](Pattern::class), [`emit_class`](Pattern::emit_class) | a box of positions: Empty, Partial or Full | intervals, on integers and as IR |
//! | [`emit_keep`](Pattern::emit_keep) | tiles: the mask of a partial block | `keep`, as IR |
//! | [`emit_full`](Pattern::emit_full) | a box, at run time: may the mask be left out | intervals, as IR |
//! | [`emit_runs`](Pattern::emit_runs), [`runs`](Pattern::runs) | a query tile: the key blocks to visit | `runs`, as IR and on integers |
//!
//! **What is assumed.** Lengths are at most `2^31 - block`, so positions are in `0..2^31 - 1`; arguments are in the ranges
//! that the pattern was recorded with (`0..2^31` unless said otherwise); a table holds any 32-bit integers. Every product, by
//! a constant or an argument, and every dividend fits 32 bits for the positions, arguments and elements in use. Other sums
//! may leave 32 bits: where the ranges allow it they are emitted saturating, and comparisons are arranged so that a
//! saturated side gives the right answer. (A sum whose partial sums can overflow both upwards and downwards, which takes
//! three arguments or elements of either sign on one side of a comparison, is not covered.)

mod class;
mod emit;
mod full;
mod keep;
mod machine;
mod record;
mod runs;
mod tree;

use std::fmt;
use std::ops::{Range, RangeInclusive};

pub use record::{Keep, Pos, Table};
pub use tree::Read;
use tree::{Linear, Names, Term, Tree, Truth, TruthId};

use crate::Error;
use crate::ir::Diagnostic;

/// A recorded predicate.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// The author's name for it.
    pub name: String,
    /// The names of its arguments: 32-bit integers given at launch.
    pub args: Vec<String>,
    /// The names of its tables: an i32 for each position, given at launch.
    pub tables: Vec<String>,
    tree: Tree,
    root: TruthId,
    mistakes: Vec<Diagnostic>,
}

/// What a pattern makes of a box of pairs. Sound, not exact: `Partial` may be claimed of any box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// No pair counts.
    Empty,
    /// Some may count.
    Partial,
    /// Every pair counts.
    Full,
}

/// What a pattern is given besides positions, on integers. Arguments alone become one by themselves: `&[16, 4]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// A value for each argument.
    pub args: &'a [i64],
    /// The numbers of each table, by position; a position past the end of one reads 0.
    pub tables: &'a [&'a [i32]],
}

impl<'a> From<&'a [i64]> for Given<'a> {
    fn from(args: &'a [i64]) -> Self {
        Given { args, tables: &[] }
    }
}

impl<'a, const N: usize> From<&'a [i64; N]> for Given<'a> {
    fn from(args: &'a [i64; N]) -> Self {
        Given { args, tables: &[] }
    }
}

impl<'a> From<&'a Vec<i64>> for Given<'a> {
    fn from(args: &'a Vec<i64>) -> Self {
        Given { args, tables: &[] }
    }
}

impl Given<'_> {
    fn element(&self, table: usize, position: i64) -> i64 {
        let element = usize::try_from(position).ok().and_then(|at| self.tables[table].get(at));
        element.copied().map_or(0, i64::from)
    }

    /// The least and largest element of a table over these positions, which are at least one.
    fn ends(&self, table: usize, over: &RangeInclusive<i64>) -> (i64, i64) {
        let all = self.tables[table];
        let at = |position: i64| usize::try_from(position).map_or(0, |at| at.min(all.len()));
        let inside = all[at(*over.start())..at(*over.end() + 1)].iter().copied().map(i64::from);
        let past = (*over.end() >= all.len() as i64).then_some(0);
        inside.chain(past).fold((i64::MAX, i64::MIN), |(least, most), x| (least.min(x), most.max(x)))
    }
}

impl Pattern {
    /// Runs `f` once, on the query's position, the key's, and the arguments, and keeps what it computes. Arguments are not
    /// negative.
    #[track_caller]
    pub fn record(name: impl Into<String>, args: &[&str], f: impl FnOnce(Pos, Pos, &[Pos]) -> Keep) -> Self {
        let args: Vec<_> = args.iter().map(|&arg| (arg, 0..=i32::MAX)).collect();
        Self::record_ranged(name, &args, f)
    }

    /// [`record`](Self::record), with arguments that may be negative, or are known to be small.
    #[track_caller]
    pub fn record_ranged(
        name: impl Into<String>,
        args: &[(&str, RangeInclusive<i32>)],
        f: impl FnOnce(Pos, Pos, &[Pos]) -> Keep,
    ) -> Self {
        Self::record_with(name, args, &[], |q, kv, args, _| f(q, kv, args))
    }

    /// [`record_ranged`](Self::record_ranged), with tables: each holds an i32 for every position of the document.
    ///
    /// ```
    /// use lacuna_codegen::pattern::{Class, Given, Pattern};
    /// let same = Pattern::record_with("same", &[], &["docs"], |q, kv, _, tables| tables[0].at(q).eq_(tables[0].at(kv)));
    /// let given = Given { args: &[], tables: &[&[0, 0, 0, 1, 1]] };
    /// assert!(same.keeps(2, 0, given) && !same.keeps(3, 2, given));
    /// assert_eq!(same.class(3..=4, 3..=4, given), Class::Full);
    /// assert_eq!(same.class(3..=4, 0..=1, given), Class::Empty);
    /// ```
    #[track_caller]
    pub fn record_with(
        name: impl Into<String>,
        args: &[(&str, RangeInclusive<i32>)],
        tables: &[&str],
        f: impl FnOnce(Pos, Pos, &[Pos], &[Table]) -> Keep,
    ) -> Self {
        let ranges = args.iter().map(|(_, range)| (i64::from(*range.start()), i64::from(*range.end()))).collect();
        let recorded = record::record(ranges, tables.len(), f);
        Pattern {
            name: name.into(),
            args: args.iter().map(|&(arg, _)| arg.to_owned()).collect(),
            tables: tables.iter().map(|&table| table.to_owned()).collect(),
            tree: recorded.tree,
            root: recorded.root,
            mistakes: recorded.mistakes,
        }
    }

    /// The author's mistakes, if there are any. Every `emit_` function reports them to its builder as well.
    pub fn check(&self) -> Result<(), Error> {
        if self.mistakes.is_empty() { Ok(()) } else { Err(Error::Staging(self.mistakes.clone())) }
    }

    /// Whether the pair counts.
    ///
    /// # Panics
    /// If `given` has not as many arguments and tables as the pattern.
    pub fn keeps<'a>(&self, q: i64, kv: i64, given: impl Into<Given<'a>>) -> bool {
        let given = given.into();
        self.expect(&given);
        let count = self.tree.terms.len();
        with_slots(count + self.tree.truths.len(), |slots| {
            let (terms, truths) = slots.split_at_mut(count);
            for id in 0..count {
                terms[id] = match &self.tree.terms[id] {
                    Term::Q => q,
                    Term::Kv => kv,
                    Term::Arg(arg) => given.args[*arg],
                    Term::At { table, key } => given.element(*table, if *key { kv } else { q }),
                    Term::Mul(a, b) => value(a, terms).saturating_mul(value(b, terms)),
                    Term::Div(a, b) => value(a, terms) / value(b, terms).max(1),
                    Term::Rem(a, b) => value(a, terms) % value(b, terms).max(1),
                    Term::Min(a, b) => value(a, terms).min(value(b, terms)),
                    Term::Max(a, b) => value(a, terms).max(value(b, terms)),
                };
            }
            for id in 0..truths.len() {
                let holds = match &self.tree.truths[id] {
                    Truth::Const(holds) => *holds,
                    Truth::Le(form) => value(form, terms) <= 0,
                    Truth::Eq(form) => value(form, terms) == 0,
                    Truth::Ne(form) => value(form, terms) != 0,
                    Truth::And(members) => members.iter().all(|&m| truths[m as usize] != 0),
                    Truth::Or(members) => members.iter().any(|&m| truths[m as usize] != 0),
                };
                truths[id] = holds.into();
            }
            truths[self.root as usize] != 0
        })
    }

    /// The runs of key blocks that [`emit_runs`](Self::emit_runs) computes on the device.
    ///
    /// # Panics
    /// If there are not as many `args` as the pattern takes, `q` is empty, or `block` is zero.
    pub fn runs(&self, q: RangeInclusive<i64>, len: i64, block: u32, args: &[i64]) -> Vec<Range<i64>> {
        self.expect_args(args.len());
        assert!(!q.is_empty() && block > 0, "a query tile and a block have at least one position");
        let mut host = machine::Host;
        let ends = (*q.start(), *q.end());
        runs::runs(&mut host, &self.tree, self.root, ends, len, block, args).into_iter().map(|(a, b)| a..b).collect()
    }

    /// Whether the query's position decides anything: where it does not, every query sees the same keys.
    pub fn looks_at_query(&self) -> bool {
        let looks = |truth: &Truth| match truth {
            Truth::Le(form) | Truth::Eq(form) | Truth::Ne(form) => self.tree.depends(form).q,
            Truth::Const(_) | Truth::And(_) | Truth::Or(_) => false,
        };
        self.tree.truths.iter().any(looks)
    }

    fn expect(&self, given: &Given<'_>) {
        self.expect_args(given.args.len());
        let (name, wanted, tables) = (&self.name, self.tables.len(), given.tables.len());
        assert!(tables == wanted, "pattern `{name}` takes {wanted} tables, {tables} are given");
    }

    fn expect_args(&self, given: usize) {
        assert!(
            given == self.args.len(),
            "pattern `{}` takes {} arguments, {given} are given",
            self.name,
            self.args.len()
        );
    }
}

/// `kv <= q & (q <= kv + window - 1 | kv <= sink - 1)`.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tree.show_truth(self.root, &Names { args: &self.args, tables: &self.tables }, f)
    }
}

/// The value of a form, given its terms'. Stops at the ends of i64.
fn value(form: &Linear, terms: &[i64]) -> i64 {
    form.terms
        .iter()
        .fold(form.constant, |sum, &(term, factor)| sum.saturating_add(terms[term as usize].saturating_mul(factor)))
}

/// Scratch numbers: on the stack for the trees that authors write.
fn with_slots<T>(count: usize, f: impl FnOnce(&mut [i64]) -> T) -> T {
    let mut small = [0; 48];
    match small.get_mut(..count) {
        Some(slots) => f(slots),
        None => f(&mut vec![0; count]),
    }
}
