//! The context: what a schedule does that no handle does by itself.

use std::cell::RefCell;
use std::panic::Location;
use std::rc::Rc;

use lacuna_codegen::ir::{Const, Op, Type};
use lacuna_codegen::plan::Expr;

use crate::F32;
use crate::axis::{Axis, Bool, Half, I32};
use crate::extent::{self, Each, Extent, Pieces};
use crate::flow::{BlockList, Loop, Range, Storable, Var};
use crate::grid::GridAxis;
use crate::staging::{State, current};
use crate::value::{Handle, Onto, Scalar, Tile, Vector};

/// The context of one staging, which every schedule takes first.
pub struct Cx {
    pub(crate) state: Rc<RefCell<State>>,
}

impl std::fmt::Debug for Cx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cx").finish_non_exhaustive()
    }
}

impl Cx {
    /// The product of `lhs` and `rhs`, contracted over the axis that both have last, in f32: `lhs · rhsᵀ`.
    ///
    /// The axes are types: a tile of values where keys are meant does not compile, however wide either is.
    #[track_caller]
    pub fn dot<M: Axis, N: Axis, K: Axis>(&self, lhs: Tile<Half, M, K>, rhs: Tile<Half, N, K>) -> Tile<F32, M, N> {
        let mut state = self.state.borrow_mut();
        let (lhs, rhs) = (state.take(lhs), state.take(rhs));
        let id = state.builder.dot(lhs, rhs);
        state.give(id)
    }

    /// `0, 1, 2, ..` along `A`.
    #[track_caller]
    pub fn iota<A: Axis>(&self) -> Vector<I32, A> {
        iota()
    }

    /// A tile of one number.
    #[track_caller]
    pub fn filled<R: Axis, C: Axis>(&self, value: f32) -> Tile<F32, R, C> {
        let mut state = self.state.borrow_mut();
        let axes = [state.axis::<R>(), state.axis::<C>()];
        let value = state.builder.push(Op::Const(Const::f32(value)), Type::scalar(lacuna_codegen::ir::Elem::F32));
        let id = state.builder.broadcast(value, &axes);
        state.give(id)
    }

    /// How wide `A` is in this staging.
    #[track_caller]
    pub fn extent<A: Axis>(&self) -> u32 {
        self.state.borrow_mut().extent::<A>()
    }

    /// State that changes: set to `init` here, in every element. `name` is what messages and the compiled text call it.
    #[track_caller]
    pub fn var<T: Storable>(&self, name: &str, init: T::Constant) -> Var<T> {
        Var::new(name, init)
    }

    /// A loop over the blocks of `list`, with shared memory for the loads of `stages` rounds: all but one are fetched ahead.
    /// Stands in the head of a `for`.
    ///
    /// The body runs once, on a block that stands for every one; see [`Var`] for state.
    #[track_caller]
    pub fn pipelined<L: BlockList>(&self, list: L, stages: u32) -> Loop<L> {
        if stages == 0 {
            let label = "0 stages: with 1 a block is fetched and used, with 2 the next one is fetched meanwhile";
            self.state.borrow_mut().builder.fail("a pipelined loop needs at least 1 stage", label);
        }
        Loop::new(list, Some(stages))
    }

    /// A plain loop over `lo..hi`. Stands in the head of a `for`; the body runs once, on an index that stands for every one.
    #[track_caller]
    pub fn range(&self, lo: impl Onto<Scalar<I32>>, hi: impl Onto<Scalar<I32>>) -> Loop<Range> {
        let (lo, hi) = (self.scalar(lo), self.scalar(hi));
        Loop::new(Range { lo, hi }, None)
    }

    /// Does `body` where `cond` holds. The body runs once, when the schedule is staged.
    #[track_caller]
    pub fn when(&self, cond: Scalar<Bool>, body: impl FnOnce()) {
        let region = open_branch(&self.state, cond);
        body();
        self.state.borrow_mut().leave(region);
    }

    /// A constant, or a scalar as it is.
    #[track_caller]
    pub fn scalar<E: crate::axis::Element>(&self, value: impl Onto<Scalar<E>>) -> Scalar<E> {
        let handle = value.handle();
        let mut state = self.state.borrow_mut();
        let id = state.take(handle);
        state.give(id)
    }

    /// Ends the CTA where `cond` holds. Outside loops and branches, before anything is stored.
    #[track_caller]
    pub fn exit_when(&self, cond: Scalar<Bool>) {
        exit_when(&self.state, cond);
    }

    /// Each position along an extent, as a dimension of the grid.
    pub fn each<X: Extent>(&self) -> Each<X> {
        Each::new()
    }

    /// An extent in pieces as long as `A`, as a dimension of the grid; the last one may be shorter.
    #[track_caller]
    pub fn pieces<X: Extent, A: Axis>(&self) -> Pieces<X, A> {
        Pieces::new()
    }

    /// How long an extent is.
    #[track_caller]
    pub fn size<X: Extent>(&self) -> Scalar<I32> {
        extent::value::<X>()
    }

    /// A grid of one dimension, and this CTA's place in it.
    #[track_caller]
    pub fn grid1<X: GridAxis>(&self, x: X) -> X::Index {
        self.grid([x.extent(), Expr::Const(1), Expr::Const(1)]);
        x.index(self.program_id(0))
    }

    /// A grid of two dimensions, the first one fastest, and this CTA's place in it.
    #[track_caller]
    pub fn grid2<X: GridAxis, Y: GridAxis>(&self, x: X, y: Y) -> (X::Index, Y::Index) {
        self.grid([x.extent(), y.extent(), Expr::Const(1)]);
        (x.index(self.program_id(0)), y.index(self.program_id(1)))
    }

    /// A grid of three dimensions, the first one fastest, and this CTA's place in it.
    #[track_caller]
    pub fn grid3<X: GridAxis, Y: GridAxis, Z: GridAxis>(&self, x: X, y: Y, z: Z) -> (X::Index, Y::Index, Z::Index) {
        self.grid([x.extent(), y.extent(), z.extent()]);
        (x.index(self.program_id(0)), y.index(self.program_id(1)), z.index(self.program_id(2)))
    }

    #[track_caller]
    fn grid(&self, grid: [Expr; 3]) {
        let mut state = self.state.borrow_mut();
        if !state.at_top() {
            state.builder.fail("the grid is named inside a loop or branch", "name it first in the schedule");
        }
        if state.grid.is_some() {
            state.builder.fail("a schedule has one grid", "this is the second");
        }
        state.grid = Some(grid);
    }

    #[track_caller]
    fn program_id(&self, dim: u8) -> Scalar<I32> {
        let mut state = self.state.borrow_mut();
        let id = state.builder.program_id(dim);
        state.give(id)
    }

    /// A knob by its name.
    #[doc(hidden)]
    #[track_caller]
    pub fn knob(&self, name: &str) -> u32 {
        self.state.borrow_mut().knob(name)
    }

    /// Says where the schedule's function stands.
    #[doc(hidden)]
    #[track_caller]
    pub fn begin(&self) {
        self.state.borrow_mut().begin();
    }
}

#[track_caller]
pub(crate) fn iota<A: Axis>() -> Vector<I32, A> {
    let run = current();
    let mut state = run.borrow_mut();
    let axis = state.axis::<A>();
    let id = state.builder.iota(axis);
    state.give(id)
}

/// Opens a branch, to be left by its number.
#[track_caller]
pub(crate) fn open_branch(state: &RefCell<State>, cond: Scalar<Bool>) -> u32 {
    let mut state = state.borrow_mut();
    let cond = state.take(cond);
    state.builder.open_if(cond);
    state.enter("the branch", Location::caller())
}

#[track_caller]
pub(crate) fn exit_when(state: &RefCell<State>, cond: Scalar<Bool>) {
    let mut state = state.borrow_mut();
    let cond = state.take(cond);
    state.builder.exit_if(cond);
}

/// How wide `A` is in the run under way.
#[track_caller]
pub(crate) fn extent<A: Axis>() -> i32 {
    current().borrow_mut().extent::<A>() as i32
}

/// A handle for a constant.
#[track_caller]
pub(crate) fn constant<T: Handle, X: Onto<T>>(value: X) -> X::Handle {
    value.handle()
}
