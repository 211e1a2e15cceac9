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

/// A logit, or what it is computed with: the two positions, arguments, numbers of the head. All of them are f32 here.
#[derive(Clone, Copy)]
pub struct Logit(Handle);

/// A constant, or an index into an arena. Tied to its thread.
#[derive(Clone, Copy)]
enum Handle {
    Const(f32),
    Node { recording: u64, index: usize, thread: PhantomData<*const ()> },
}

impl fmt::Debug for Logit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logit").finish_non_exhaustive()
    }
}

/// What is computed at a node, from nodes before it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    Logit,
    Query,
    Key,
    Arg(usize),
    Table(usize),
    Const(f32),
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

/// Runs `f` on handles for the logit, the two positions, and as many arguments and tables.
#[track_caller]
pub(super) fn record(
    args: usize,
    tables: usize,
    f: impl FnOnce(Logit, Logit, Logit, &[Logit], &[Logit]) -> Logit,
) -> (Tree, Vec<Diagnostic>) {
    let recording = RECORDINGS.fetch_add(1, Ordering::Relaxed);
    let leaves = [Node::Logit, Node::Query, Node::Key].into_iter();
    let nodes: Vec<Node> = leaves.chain((0..args).map(Node::Arg)).chain((0..tables).map(Node::Table)).collect();
    let handles: Vec<Logit> = (0..nodes.len()).map(|index| Logit(Handle::node(recording, index))).collect();
    ARENAS.with_borrow_mut(|arenas| arenas.push(Arena { recording, nodes, mistakes: Vec::new() }));
    let open = Open;
    let logit = f(handles[0], handles[1], handles[2], &handles[3..3 + args], &handles[3 + args..]);
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
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn index(&mut self, logit: Logit, at: &'static Location<'static>) -> usize {
        match logit.0 {
            Handle::Const(value) => self.push(Node::Const(value)),
            Handle::Node { recording, index, .. } if recording == self.recording => index,
            Handle::Node { .. } => {
                self.mistakes.push(Diagnostic {
                    message: "this belongs to another score".to_owned(),
                    label: "a logit or a position is only known inside the score that was given it".to_owned(),
                    loc: at,
                });
                self.push(Node::Const(0.0))
            }
        }
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

impl From<f32> for Logit {
    fn from(value: f32) -> Self {
        Logit(Handle::Const(value))
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
    /// The value in f64.
    pub(super) fn value(&self, logit: f64, q: f64, kv: f64, args: &[f64], tables: &[f32]) -> f64 {
        let mut values: Vec<f64> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            values.push(match *node {
                Node::Logit => logit,
                Node::Query => q,
                Node::Key => kv,
                Node::Arg(n) => args[n],
                Node::Table(n) => tables[n].into(),
                Node::Const(value) => value.into(),
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
