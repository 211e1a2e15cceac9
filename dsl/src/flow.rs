//! State and loops.

use std::marker::PhantomData;
use std::panic::Location;

use lacuna_codegen::ir::{Const, Op, Type, VarId};

use crate::axis::{Axis, F32, Half, I32, Stored};
use crate::staging::{Home, current};
use crate::value::{Handle, Onto, PartialSum, Scalar, Tile, Vector};

/// What a [`Var`] can hold: scalars, vectors and tiles of f32, i32 and bool, and partial sums.
pub trait Storable: Handle {
    /// The Rust type of its first content.
    type Constant: Copy;

    /// Its first content.
    #[doc(hidden)]
    fn constant(value: Self::Constant) -> Const;
}

macro_rules! storable {
    ($([$($param:ident: $bound:ident),*] $name:ty, $elem:ident;)*) => {$(
        impl<$($param: $bound),*> Storable for $name {
            type Constant = <$elem as Stored>::Constant;

            fn constant(value: Self::Constant) -> Const {
                <$elem as Stored>::constant(value)
            }
        }
    )*};
}

storable! {
    [E: Stored] Scalar<E>, E;
    [E: Stored, A: Axis] Vector<E, A>, E;
    [E: Stored, R: Axis, C: Axis] Tile<E, R, C>, E;
    [R: Axis] PartialSum<R>, F32;
}

/// State of a schedule that changes from one round of a staged loop to the next. [`Cx::var`](crate::Cx::var) makes one.
///
/// A staged body runs once in Rust, so a Rust variable cannot carry anything from round to round; this can.
pub struct Var<T> {
    id: VarId,
    home: Home,
    of: PhantomData<*const T>,
}

impl<T> Clone for Var<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Var<T> {}

impl<T> std::fmt::Debug for Var<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Var").finish_non_exhaustive()
    }
}

impl<T: Storable> Var<T> {
    #[track_caller]
    pub(crate) fn new(name: &str, init: T::Constant) -> Self {
        let run = current();
        let mut state = run.borrow_mut();
        let constant = T::constant(init);
        let ty = T::ty(&mut state);
        let id = state.builder.var(name, ty.clone(), constant);
        if !state.at_top() {
            // Storage is set before the function runs; here it is set anew in each round.
            let value = state.builder.push(Op::Const(constant), Type::scalar(constant.elem()));
            let value = state.builder.broadcast(value, &ty.axes);
            state.builder.write(id, value);
        }
        Var { id, home: state.home(), of: PhantomData }
    }

    /// Storage that is set before it is read, so that no first content matters.
    #[track_caller]
    pub(crate) fn unset(name: &str, init: T::Constant) -> Self {
        let run = current();
        let mut state = run.borrow_mut();
        let ty = T::ty(&mut state);
        let id = state.builder.var(name, ty, T::constant(init));
        Var { id, home: state.home(), of: PhantomData }
    }

    /// What it holds now.
    #[track_caller]
    pub fn get(self) -> T {
        let run = current();
        let mut state = run.borrow_mut();
        let id = if state.lives(self.home, "state") { state.builder.read(self.id) } else { state.stand_in::<T>() };
        state.give(id)
    }

    /// Sets it, for this round and all that follow.
    #[track_caller]
    pub fn set(self, value: impl Onto<T>) {
        let value = value.handle();
        let run = current();
        let mut state = run.borrow_mut();
        let value = state.take(value);
        if state.lives(self.home, "state") {
            state.builder.write(self.id, value);
        }
    }

    /// The storage itself, where it exists here.
    #[track_caller]
    pub(crate) fn storage(self) -> Option<VarId> {
        let run = current();
        let mut state = run.borrow_mut();
        state.lives(self.home, "state").then_some(self.id)
    }
}

impl<M: Axis, N: Axis> Var<Tile<F32, M, N>> {
    /// Adds the product of `lhs` and `rhs`, in place: `self += lhs · rhs`, contracted over `lhs`' columns and `rhs`' rows.
    #[track_caller]
    pub fn add_dot<K: Axis>(self, lhs: Tile<Half, M, K>, rhs: Tile<Half, K, N>) {
        let run = current();
        let mut state = run.borrow_mut();
        let (lhs, rhs) = (state.take(lhs), state.take(rhs));
        if state.lives(self.home, "state") {
            state.builder.accumulate(self.id, lhs, rhs);
        }
    }
}

/// Blocks that a loop can go through.
pub trait BlockList {
    /// What the body is given.
    type Block;

    /// The first index, and one past the last.
    #[track_caller]
    fn bounds(&self) -> (Scalar<I32>, Scalar<I32>);

    /// The block at an index.
    #[track_caller]
    fn at(&self, index: Scalar<I32>) -> Self::Block;
}

/// The indices of [`Cx::range`](crate::Cx::range).
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub(crate) lo: Scalar<I32>,
    pub(crate) hi: Scalar<I32>,
}

impl BlockList for Range {
    type Block = Scalar<I32>;

    fn bounds(&self) -> (Scalar<I32>, Scalar<I32>) {
        (self.lo, self.hi)
    }

    fn at(&self, index: Scalar<I32>) -> Scalar<I32> {
        index
    }
}

/// A staged loop. As an iterator it yields one item, which stands for every round; asked again, it closes the loop.
pub struct Loop<L> {
    list: L,
    bounds: (Scalar<I32>, Scalar<I32>),
    stages: Option<u32>,
    phase: Phase,
    loc: &'static Location<'static>,
}

enum Phase {
    Ready,
    Open(u32),
    Done,
}

impl<L> std::fmt::Debug for Loop<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loop").field("stages", &self.stages).finish_non_exhaustive()
    }
}

impl<L: BlockList> Loop<L> {
    #[track_caller]
    pub(crate) fn new(list: L, stages: Option<u32>) -> Self {
        Loop { bounds: list.bounds(), list, stages, phase: Phase::Ready, loc: Location::caller() }
    }
}

impl<L: BlockList> Iterator for Loop<L> {
    type Item = L::Block;

    #[track_caller]
    fn next(&mut self) -> Option<L::Block> {
        match self.phase {
            Phase::Ready => {
                let index = {
                    let run = current();
                    let mut state = run.borrow_mut();
                    let (lo, hi) = (state.take(self.bounds.0), state.take(self.bounds.1));
                    let index = state.builder.open_for(lo, hi, self.stages);
                    self.phase = Phase::Open(state.enter("the loop", self.loc));
                    state.give(index)
                };
                Some(self.list.at(index))
            }
            Phase::Open(region) => {
                current().borrow_mut().leave(region);
                self.phase = Phase::Done;
                None
            }
            Phase::Done => None,
        }
    }
}

impl<L> Drop for Loop<L> {
    fn drop(&mut self) {
        if let Phase::Open(region) = self.phase
            && !std::thread::panicking()
        {
            let run = current();
            let mut state = run.borrow_mut();
            state.builder.fail_at(
                self.loc,
                "this loop is left before its end",
                "a staged body runs once, so the kernel cannot leave it where Rust does; bound the loop instead",
            );
            state.leave(region);
        }
    }
}
