//! Recording a pattern: handles that an author computes with, and the arena behind them.
//!
//! A handle is an index into the arena of one recording, and carries that recording's number. Arenas stand on a stack of the
//! thread that records, so recordings nest; a handle used in another recording than its own is a mistake that the pattern
//! reports, never an index into the wrong arena.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Rem, Sub};
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};

use super::tree::{KV, Linear, Q, Term, TooLarge, Tree, TruthId};
use crate::ir::{Compare, Diagnostic};

/// A position, an argument, or arithmetic on them: 32-bit integers.
///
/// `+` and `-` take anything; of a product one factor, and of `/` and `%` the divisor, holds arguments and constants only.
/// `/` truncates and `%` has the dividend's sign, as in Rust; a divisor below 1 counts as 1.
#[derive(Clone, Copy)]
pub struct Pos(Handle<i64>);

/// Whether a pair counts: comparisons of [`Pos`] under `&`, `|` and `!`.
#[derive(Clone, Copy)]
pub struct Keep(Handle<bool>);

/// A table: a 32-bit integer for each position of a document, given at launch.
#[derive(Clone, Copy)]
pub struct Table {
    recording: u64,
    index: usize,
    thread: PhantomData<*const ()>,
}

/// A constant, or an index into an arena. Tied to its thread.
#[derive(Clone, Copy)]
enum Handle<C> {
    Const(C),
    Node { recording: u64, index: u32, thread: PhantomData<*const ()> },
}

/// One recording.
struct Arena {
    recording: u64,
    tree: Tree,
    numbers: Vec<Linear>,
    mistakes: Vec<Diagnostic>,
}

thread_local! {
    static ARENAS: RefCell<Vec<Arena>> = const { RefCell::new(Vec::new()) };
}

static RECORDINGS: AtomicU64 = AtomicU64::new(0);

/// What a recording leaves.
pub(super) struct Recorded {
    pub(super) tree: Tree,
    pub(super) root: TruthId,
    pub(super) mistakes: Vec<Diagnostic>,
}

/// Takes the arena off the stack, also where the author's function panics.
struct Open;

impl Open {
    fn close(self) -> Arena {
        std::mem::forget(self);
        ARENAS.with_borrow_mut(|arenas| arenas.pop().expect("the arena of an open recording"))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        ARENAS.with_borrow_mut(|arenas| arenas.pop());
    }
}

/// Runs `f` on handles for the two positions, an argument for each range, and so many tables.
#[track_caller]
pub(super) fn record(
    ranges: Vec<(i64, i64)>,
    tables: usize,
    f: impl FnOnce(Pos, Pos, &[Pos], &[Table]) -> Keep,
) -> Recorded {
    let recording = RECORDINGS.fetch_add(1, Ordering::Relaxed);
    let count = ranges.len();
    let tree = Tree::new(ranges, tables);
    let numbers = (0..count as u32 + 2).map(Linear::term).collect();
    ARENAS.with_borrow_mut(|arenas| arenas.push(Arena { recording, tree, numbers, mistakes: Vec::new() }));
    let open = Open;
    let handle = |index| Pos(Handle::Node { recording, index, thread: PhantomData });
    let args: Vec<Pos> = (0..count as u32).map(|n| handle(n + 2)).collect();
    let tables: Vec<Table> = (0..tables).map(|index| Table { recording, index, thread: PhantomData }).collect();
    let keep = f(handle(0), handle(1), &args, &tables);
    let mut arena = open.close();
    let root = arena.truth(keep, Location::caller());
    let root = arena.tree.compact(root);
    Recorded { tree: arena.tree, root, mistakes: arena.mistakes }
}

impl Arena {
    fn mistake(&mut self, at: &'static Location<'static>, message: &str, label: &str) {
        self.mistakes.push(Diagnostic { message: message.to_owned(), label: label.to_owned(), loc: at });
    }

    fn number(&mut self, pos: Pos, at: &'static Location<'static>) -> Linear {
        match pos.0 {
            Handle::Const(value) => Linear::constant(value),
            Handle::Node { recording, index, .. } if recording == self.recording => {
                self.numbers[index as usize].clone()
            }
            Handle::Node { .. } => {
                self.foreign(at);
                Linear::constant(0)
            }
        }
    }

    fn truth(&mut self, keep: Keep, at: &'static Location<'static>) -> TruthId {
        match keep.0 {
            Handle::Const(value) => self.tree.always(value),
            Handle::Node { recording, index, .. } if recording == self.recording => index,
            Handle::Node { .. } => {
                self.foreign(at);
                self.tree.always(true)
            }
        }
    }

    /// What a table holds for a position, which must be the query's or the key's as it is: its least and largest value over
    /// a block of positions are then known.
    fn element(&mut self, table: Table, position: Pos, at: &'static Location<'static>) -> Pos {
        if table.recording != self.recording {
            self.foreign(at);
            return Pos(Handle::Const(0));
        }
        let position = self.number(position, at);
        let key = match position {
            _ if position == Linear::term(Q) => false,
            _ if position == Linear::term(KV) => true,
            _ => {
                let label = "index it by the query's position or the key's, as it is: `table.at(q)` or `table.at(kv)`";
                self.mistake(at, "a table has a number for each position, not for what is computed from one", label);
                return Pos(Handle::Const(0));
            }
        };
        let element = self.tree.term(Term::At { table: table.index, key });
        self.keep_number(Linear::term(element))
    }

    fn foreign(&mut self, at: &'static Location<'static>) {
        self.mistake(
            at,
            "this belongs to another pattern",
            "a position, a truth or a table is only known inside the pattern that was given it",
        );
    }

    fn keep_number(&mut self, number: Linear) -> Pos {
        if let Some(value) = number.as_constant() {
            return Pos(Handle::Const(value));
        }
        let index = self.numbers.iter().position(|n| *n == number).unwrap_or_else(|| {
            self.numbers.push(number);
            self.numbers.len() - 1
        });
        Pos(Handle::Node { recording: self.recording, index: index as u32, thread: PhantomData })
    }

    fn keep_truth(&mut self, truth: Result<TruthId, TooLarge>, at: &'static Location<'static>) -> Keep {
        let index = truth.unwrap_or_else(|TooLarge| {
            self.too_large(at);
            self.tree.always(true)
        });
        Keep(Handle::Node { recording: self.recording, index, thread: PhantomData })
    }

    fn too_large(&mut self, at: &'static Location<'static>) {
        self.mistake(at, "the constants in this are too large", "positions and arguments are 32-bit integers");
    }

    /// A divisor must not depend on a position, and a constant one must be positive.
    fn divisor(&mut self, divisor: Linear, at: &'static Location<'static>) -> Linear {
        if !self.tree.is_fixed(&divisor) {
            self.mistake(at, "a divisor cannot depend on a position", "divide by a positive constant or an argument");
            return Linear::constant(1);
        }
        if divisor.as_constant().is_some_and(|d| d < 1) {
            self.mistake(at, "a divisor must be positive", &format!("this is {}", divisor.constant));
            return Linear::constant(1);
        }
        divisor
    }

    fn arithmetic(&mut self, op: Arithmetic, a: Linear, b: Linear, at: &'static Location<'static>) -> Pos {
        let made = match op {
            Arithmetic::Add => a.plus(1, &b),
            Arithmetic::Sub => a.plus(-1, &b),
            Arithmetic::Mul => match (a.as_constant(), b.as_constant()) {
                (Some(factor), _) => b.scaled(factor, 0),
                (_, Some(factor)) => a.scaled(factor, 0),
                _ if self.tree.is_fixed(&b) => Some(Linear::term(self.tree.term(Term::Mul(a, b)))),
                _ if self.tree.is_fixed(&a) => Some(Linear::term(self.tree.term(Term::Mul(b, a)))),
                _ => {
                    let label = "one factor must be a constant or an argument";
                    self.mistake(at, "positions cannot be multiplied with one another", label);
                    Some(a)
                }
            },
            Arithmetic::Div => {
                let b = self.divisor(b, at);
                match (a.as_constant(), b.as_constant()) {
                    (Some(a), Some(b)) => Some(Linear::constant(a / b)),
                    (_, Some(1)) => Some(a),
                    _ => Some(Linear::term(self.tree.term(Term::Div(a, b)))),
                }
            }
            Arithmetic::Rem => {
                let b = self.divisor(b, at);
                match (a.as_constant(), b.as_constant()) {
                    (Some(a), Some(b)) => Some(Linear::constant(a % b)),
                    (_, Some(1)) => Some(Linear::constant(0)),
                    _ => Some(Linear::term(self.tree.term(Term::Rem(a, b)))),
                }
            }
            Arithmetic::Min | Arithmetic::Max => {
                let min = matches!(op, Arithmetic::Min);
                let apart = a.plus(-1, &b).and_then(|d| d.as_constant());
                Some(match apart {
                    Some(apart) if (apart <= 0) == min => a,
                    Some(_) => b,
                    None => {
                        let (a, b) = if a <= b { (a, b) } else { (b, a) };
                        let term = if min { Term::Min(a, b) } else { Term::Max(a, b) };
                        Linear::term(self.tree.term(term))
                    }
                })
            }
        };
        let made = made.unwrap_or_else(|| {
            self.too_large(at);
            Linear::constant(0)
        });
        self.keep_number(made)
    }

    fn compare(&mut self, op: Compare, a: Linear, b: Linear, at: &'static Location<'static>) -> Keep {
        let difference = match op {
            Compare::Gt | Compare::Ge => b.plus(-1, &a),
            _ => a.plus(-1, &b),
        };
        let strict = i64::from(matches!(op, Compare::Lt | Compare::Gt));
        let truth = match difference.and_then(|d| d.scaled(1, strict)) {
            None => Err(TooLarge),
            Some(form) if matches!(op, Compare::Eq | Compare::Ne) => Ok(self.tree.zero(op == Compare::Eq, form)),
            Some(form) => self.tree.at_most_zero(form),
        };
        self.keep_truth(truth, at)
    }
}

#[derive(Clone, Copy)]
enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Min,
    Max,
}

/// What is computed outside of every recording: foreign to any pattern that it is brought into.
fn nowhere<C>() -> Handle<C> {
    Handle::Node { recording: u64::MAX, index: 0, thread: PhantomData }
}

/// Runs `f` in the recording on top of the stack; `None` where none is open.
fn innermost<T>(f: impl FnOnce(&mut Arena) -> T) -> Option<T> {
    ARENAS.with_borrow_mut(|arenas| arenas.last_mut().map(f))
}

#[track_caller]
fn arithmetic(op: Arithmetic, a: Pos, b: Pos) -> Pos {
    let at = Location::caller();
    let made = innermost(|arena| {
        let (a, b) = (arena.number(a, at), arena.number(b, at));
        arena.arithmetic(op, a, b, at)
    });
    made.unwrap_or(Pos(nowhere()))
}

#[track_caller]
fn compare(op: Compare, a: Pos, b: Pos) -> Keep {
    let at = Location::caller();
    let made = innermost(|arena| {
        let (a, b) = (arena.number(a, at), arena.number(b, at));
        arena.compare(op, a, b, at)
    });
    made.unwrap_or(Keep(nowhere()))
}

#[track_caller]
fn join(both: bool, a: Keep, b: Keep) -> Keep {
    let at = Location::caller();
    let made = innermost(|arena| {
        let members = [arena.truth(a, at), arena.truth(b, at)];
        let joined = arena.tree.join(both, &members);
        arena.keep_truth(Ok(joined), at)
    });
    made.unwrap_or(Keep(nowhere()))
}

impl Pos {
    /// `self < other`.
    #[track_caller]
    pub fn lt(self, other: impl Into<Pos>) -> Keep {
        compare(Compare::Lt, self, other.into())
    }

    /// `self <= other`.
    #[track_caller]
    pub fn le(self, other: impl Into<Pos>) -> Keep {
        compare(Compare::Le, self, other.into())
    }

    /// `self > other`.
    #[track_caller]
    pub fn gt(self, other: impl Into<Pos>) -> Keep {
        compare(Compare::Gt, self, other.into())
    }

    /// `self >= other`.
    #[track_caller]
    pub fn ge(self, other: impl Into<Pos>) -> Keep {
        compare(Compare::Ge, self, other.into())
    }

    /// `self == other`.
    #[track_caller]
    pub fn eq_(self, other: impl Into<Pos>) -> Keep {
        compare(Compare::Eq, self, other.into())
    }

    /// `self != other`.
    #[track_caller]
    pub fn ne_(self, other: impl Into<Pos>) -> Keep {
        compare(Compare::Ne, self, other.into())
    }

    /// The smaller of two.
    #[track_caller]
    pub fn min(self, other: impl Into<Pos>) -> Pos {
        arithmetic(Arithmetic::Min, self, other.into())
    }

    /// The larger of two.
    #[track_caller]
    pub fn max(self, other: impl Into<Pos>) -> Pos {
        arithmetic(Arithmetic::Max, self, other.into())
    }

    /// The distance from zero: `(q - kv).abs()` is how far the two are apart.
    #[track_caller]
    pub fn abs(self) -> Pos {
        let negative = arithmetic(Arithmetic::Sub, 0.into(), self);
        arithmetic(Arithmetic::Max, self, negative)
    }
}

impl Table {
    /// Its number for a position: the query's or the key's, as it is.
    #[track_caller]
    pub fn at(self, position: Pos) -> Pos {
        let at = Location::caller();
        innermost(|arena| arena.element(self, position, at)).unwrap_or(Pos(nowhere()))
    }
}

impl Keep {
    /// Every pair counts.
    pub const fn always() -> Self {
        Keep(Handle::Const(true))
    }

    /// No pair counts.
    pub const fn never() -> Self {
        Keep(Handle::Const(false))
    }
}

impl From<i32> for Pos {
    fn from(value: i32) -> Self {
        Pos(Handle::Const(value.into()))
    }
}

impl From<u32> for Pos {
    fn from(value: u32) -> Self {
        Pos(Handle::Const(value.into()))
    }
}

impl From<bool> for Keep {
    fn from(value: bool) -> Self {
        Keep(Handle::Const(value))
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $op:ident)*) => {$(
        impl<T: Into<Pos>> $trait<T> for Pos {
            type Output = Pos;

            #[track_caller]
            fn $method(self, other: T) -> Pos {
                arithmetic(Arithmetic::$op, self, other.into())
            }
        }

        impl $trait<Pos> for i32 {
            type Output = Pos;

            #[track_caller]
            fn $method(self, other: Pos) -> Pos {
                arithmetic(Arithmetic::$op, self.into(), other)
            }
        }

        impl $trait<Pos> for u32 {
            type Output = Pos;

            #[track_caller]
            fn $method(self, other: Pos) -> Pos {
                arithmetic(Arithmetic::$op, self.into(), other)
            }
        }
    )*};
}

operators! { Add add Add  Sub sub Sub  Mul mul Mul  Div div Div  Rem rem Rem }

impl Neg for Pos {
    type Output = Pos;

    #[track_caller]
    fn neg(self) -> Pos {
        arithmetic(Arithmetic::Sub, 0.into(), self)
    }
}

impl BitAnd for Keep {
    type Output = Keep;

    #[track_caller]
    fn bitand(self, other: Keep) -> Keep {
        join(true, self, other)
    }
}

impl BitOr for Keep {
    type Output = Keep;

    #[track_caller]
    fn bitor(self, other: Keep) -> Keep {
        join(false, self, other)
    }
}

impl Not for Keep {
    type Output = Keep;

    #[track_caller]
    fn not(self) -> Keep {
        let at = Location::caller();
        let made = innermost(|arena| {
            let truth = arena.truth(self, at);
            let opposite = arena.tree.not(truth);
            arena.keep_truth(opposite, at)
        });
        made.unwrap_or(Keep(nowhere()))
    }
}

impl<C: fmt::Debug> fmt::Debug for Handle<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Handle::Const(value) => write!(f, "{value:?}"),
            Handle::Node { recording, index, .. } => write!(f, "{recording}.{index}"),
        }
    }
}

impl fmt::Debug for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pos({:?})", self.0)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({}.{})", self.recording, self.index)
    }
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keep({:?})", self.0)
    }
}
