//! Recording a score: handles that an author computes with, the arena behind them, and its values in f64.
//!
//! As in a pattern's recording, a handle is an index with the number of its recording; arenas stand on a stack of the
//! thread, and a handle that is used in another recording than its own is a mistake that the score reports.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Add, Div, Mul, Neg, Sub};
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};

use lacuna_codegen::ir::{Binary, Diagnostic, Unary};

/// A logit, or what it is computed with: the two positions, arguments, numbers of the head and of tables.
///
/// Positions, `u32` and `i32` arguments and integers are whole, and so is what `+`, `-`, `*`, `min`, `max` and `abs` make of
/// whole numbers alone: an index of a [`Table`]. Everything else is f32; where a whole number meets one it is f32 as well,
/// exact up to 2^24.
#[derive(Clone, Copy)]
pub struct Logit(Handle);

/// A table of f32 numbers, given at launch.
#[derive(Clone, Copy)]
pub struct Table {
    recording: u64,
    table: usize,
    thread: PhantomData<*const ()>,
}

/// A constant, or an index into an arena. Tied to its thread.
#[derive(Clone, Copy)]
enum Handle {
    Const(f32),
    Whole(i32),
    Node { recording: u64, index: usize, thread: PhantomData<*const ()> },
}

impl fmt::Debug for Logit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logit").finish_non_exhaustive()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

/// What is computed at a node, from nodes before it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    Logit,
    Query,
    Key,
    Arg(usize),
    /// A number of the head.
    Number(usize),
    /// An element of a table, at a whole node.
    At(usize, usize),
    Const(f32),
    Whole(i32),
    Unary(Unary, usize),
    Binary(Binary, usize, usize),
}

/// A recorded expression.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) root: usize,
}

struct Arena {
    recording: u64,
    nodes: Vec<Node>,
    /// Of each node, whether it is whole.
    whole: Vec<bool>,
    mistakes: Vec<Diagnostic>,
}

thread_local! {
    static ARENAS: RefCell<Vec<Arena>> = const { RefCell::new(Vec::new()) };
}

static RECORDINGS: AtomicU64 = AtomicU64::new(0);

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

/// Runs `f` on handles for the logit, the two positions, an argument for each of `wholes`, which says whether it is whole,
/// and as many tables.
#[track_caller]
pub(super) fn record(
    wholes: &[bool],
    tables: usize,
    f: impl FnOnce(Logit, Logit, Logit, &[Logit], &[Table]) -> Logit,
) -> (Tree, Vec<Diagnostic>) {
    let recording = RECORDINGS.fetch_add(1, Ordering::Relaxed);
    let leaves = [Node::Logit, Node::Query, Node::Key].into_iter();
    let nodes: Vec<Node> = leaves.chain((0..wholes.len()).map(Node::Arg)).collect();
    let whole = [false, true, true].iter().chain(wholes).copied().collect();
    let handles: Vec<Logit> = (0..nodes.len()).map(|index| Logit(Handle::node(recording, index))).collect();
    let tables: Vec<Table> = (0..tables).map(|table| Table { recording, table, thread: PhantomData }).collect();
    ARENAS.with_borrow_mut(|arenas| arenas.push(Arena { recording, nodes, whole, mistakes: Vec::new() }));
    let open = Open;
    let logit = f(handles[0], handles[1], handles[2], &handles[3..], &tables);
    let mut arena = open.close();
    let root = arena.index(logit, Location::caller());
    (Tree { nodes: arena.nodes, root }, arena.mistakes)
}

impl Handle {
    fn node(recording: u64, index: usize) -> Self {
        Handle::Node { recording, index, thread: PhantomData }
    }
}

impl Arena {
    fn push(&mut self, node: Node) -> usize {
        let whole = match node {
            Node::Whole(_) => true,
            Node::Unary(op, x) => op == Unary::Neg && self.whole[x],
            Node::Binary(op, a, b) => op != Binary::Div && self.whole[a] && self.whole[b],
            _ => false,
        };
        self.nodes.push(node);
        self.whole.push(whole);
        self.nodes.len() - 1
    }

    fn index(&mut self, logit: Logit, at: &'static Location<'static>) -> usize {
        match logit.0 {
            Handle::Const(value) => self.push(Node::Const(value)),
            Handle::Whole(value) => self.push(Node::Whole(value)),
            Handle::Node { recording, index, .. } if recording == self.recording => index,
            Handle::Node { .. } => self.stray(at),
        }
    }

    /// What stands in for a number or table of another recording.
    fn stray(&mut self, at: &'static Location<'static>) -> usize {
        self.mistakes.push(Diagnostic {
            message: "this belongs to another score".to_owned(),
            label: "a logit, a position or a table is only known inside the score that was given it".to_owned(),
            loc: at,
        });
        self.push(Node::Whole(0))
    }
}

/// Records an operation.
///
/// # Panics
/// If no score is being recorded on this thread.
#[track_caller]
fn node(operands: &[Logit], make: impl FnOnce(&[usize]) -> Node) -> Logit {
    let at = Location::caller();
    ARENAS.with_borrow_mut(|arenas| {
        let arena = arenas.last_mut().expect("a `Logit` computes only inside a score, on the thread that records it");
        let operands: Vec<usize> = operands.iter().map(|&x| arena.index(x, at)).collect();
        let index = arena.push(make(&operands));
        Logit(Handle::node(arena.recording, index))
    })
}

/// [`node`] of a table.
#[track_caller]
fn element(table: Table, make: impl FnOnce(&mut Arena, &'static Location<'static>) -> Node) -> Logit {
    let at = Location::caller();
    ARENAS.with_borrow_mut(|arenas| {
        let arena = arenas.last_mut().expect("a `Table` is read only inside a score, on the thread that records it");
        let index = if table.recording == arena.recording {
            let node = make(arena, at);
            arena.push(node)
        } else {
            arena.stray(at)
        };
        Logit(Handle::node(arena.recording, index))
    })
}

impl Table {
    /// The element at a whole index: one below 0 reads the first element, one past the end the last. The index is computed
    /// in 32 bits.
    #[track_caller]
    #[must_use]
    pub fn at(self, index: impl Into<Logit>) -> Logit {
        let index = index.into();
        element(self, |arena, at| {
            let node = arena.index(index, at);
            if !arena.whole[node] {
                arena.mistakes.push(Diagnostic {
                    message: "the index of a table is a whole number".to_owned(),
                    label: "made of positions, `u32` and `i32` arguments and integers, by `+`, `-`, `*`, `min`, `max` and `abs`"
                        .to_owned(),
                    loc: at,
                });
            }
            Node::At(self.table, node)
        })
    }

    /// The number of the head, of a table that has one for each.
    #[doc(hidden)]
    #[track_caller]
    #[must_use]
    pub fn number(self) -> Logit {
        element(self, |_, _| Node::Number(self.table))
    }
}

impl From<f32> for Logit {
    fn from(value: f32) -> Self {
        Logit(Handle::Const(value))
    }
}

impl From<i32> for Logit {
    fn from(value: i32) -> Self {
        Logit(Handle::Whole(value))
    }
}

impl Logit {
    #[track_caller]
    fn unary(self, op: Unary) -> Logit {
        node(&[self], |x| Node::Unary(op, x[0]))
    }

    #[track_caller]
    fn binary(self, op: Binary, other: Logit) -> Logit {
        node(&[self, other], |x| Node::Binary(op, x[0], x[1]))
    }

    /// The hyperbolic tangent. GPUs approximate it, to about 2^-11 of its value.
    #[track_caller]
    #[must_use]
    pub fn tanh(self) -> Logit {
        self.unary(Unary::Tanh)
    }

    /// `2^x`.
    #[track_caller]
    #[must_use]
    pub fn exp2(self) -> Logit {
        self.unary(Unary::Exp2)
    }

    /// The distance from zero.
    #[track_caller]
    #[must_use]
    pub fn abs(self) -> Logit {
        self.max(-self)
    }

    /// The larger of two.
    #[track_caller]
    #[must_use]
    pub fn max(self, other: impl Into<Logit>) -> Logit {
        self.binary(Binary::Max, other.into())
    }

    /// The smaller of two.
    #[track_caller]
    #[must_use]
    pub fn min(self, other: impl Into<Logit>) -> Logit {
        self.binary(Binary::Min, other.into())
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident;)*) => {$(
        impl<T: Into<Logit>> $trait<T> for Logit {
            type Output = Logit;

            #[track_caller]
            fn $method(self, other: T) -> Logit {
                self.binary(Binary::$trait, other.into())
            }
        }

        impl $trait<Logit> for f32 {
            type Output = Logit;

            #[track_caller]
            fn $method(self, other: Logit) -> Logit {
                Logit::from(self).binary(Binary::$trait, other)
            }
        }

        impl $trait<Logit> for i32 {
            type Output = Logit;

            #[track_caller]
            fn $method(self, other: Logit) -> Logit {
                Logit::from(self).binary(Binary::$trait, other)
            }
        }
    )*};
}

operators! { Add add; Sub sub; Mul mul; Div div; }

impl Neg for Logit {
    type Output = Logit;

    #[track_caller]
    fn neg(self) -> Logit {
        self.unary(Unary::Neg)
    }
}

impl Tree {
    /// The value in f64. Of each table, the numbers of the head.
    pub(super) fn value(&self, logit: f64, q: f64, kv: f64, args: &[f64], tables: &[&[f32]]) -> f64 {
        let mut values: Vec<f64> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            values.push(match *node {
                Node::Logit => logit,
                Node::Query => q,
                Node::Key => kv,
                Node::Arg(n) => args[n],
                Node::Number(n) => tables[n][0].into(),
                Node::At(n, index) => tables[n][values[index].clamp(0.0, (tables[n].len() - 1) as f64) as usize].into(),
                Node::Const(value) => value.into(),
                Node::Whole(value) => value.into(),
                Node::Unary(op, x) => match (op, values[x]) {
                    (Unary::Neg, x) => -x,
                    (Unary::Tanh, x) => x.tanh(),
                    (Unary::Exp2, x) => x.exp2(),
                    _ => unreachable!("no score records {}", op.name()),
                },
                Node::Binary(op, a, b) => match (op, values[a], values[b]) {
                    (Binary::Add, a, b) => a + b,
                    (Binary::Sub, a, b) => a - b,
                    (Binary::Mul, a, b) => a * b,
                    (Binary::Div, a, b) => a / b,
                    (Binary::Min, a, b) => a.min(b),
                    (Binary::Max, a, b) => a.max(b),
                    _ => unreachable!("no score records {}", op.name()),
                },
            });
        }
        values[self.root]
    }
}
