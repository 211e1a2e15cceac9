//! Extents of tensors that are known at launch only, by name: how many tokens there are, how many chunks. A tensor's type
//! says them, and a grid runs over them.

use std::marker::PhantomData;

use lacuna_codegen::plan::Expr;

use crate::axis::{Axis, I32};
use crate::grid::{GridAxis, KvHeads, QueryHeads, Tokens};
use crate::staging::current;
use crate::value::Scalar;

/// An extent of a tensor, known at launch. Tensors of one plan with the same extent in their types have the same extent.
///
/// [`extents!`](crate::extents) declares more of them.
pub trait Extent: 'static {
    /// Its name, as a tensor's dimension has it.
    const NAME: &'static str;
}

/// Declares extents.
///
/// ```
/// lacuna_dsl::extents! {
///     /// Chunks of tokens.
///     pub Chunks = "chunks";
/// }
/// ```
#[macro_export]
macro_rules! extents {
    ($($(#[$meta:meta])* $vis:vis $name:ident = $text:literal;)*) => {$(
        $(#[$meta])*
        #[derive(Debug)]
        $vis enum $name {}

        impl $crate::Extent for $name {
            const NAME: &'static str = $text;
        }
    )*};
}

impl Extent for Tokens {
    const NAME: &'static str = "tokens";
}

impl Extent for KvHeads {
    const NAME: &'static str = "heads_kv";
}

impl Extent for QueryHeads {
    const NAME: &'static str = "heads_q";
}

/// An extent's value.
#[track_caller]
pub(crate) fn value<X: Extent>() -> Scalar<I32> {
    let run = current();
    let mut state = run.borrow_mut();
    let id = state.computed(X::NAME, Expr::symbol(X::NAME));
    state.give(id)
}

/// Each position along an extent, as a dimension of the grid. [`Cx::each`](crate::Cx::each) makes one.
#[derive(Clone, Copy, Debug)]
pub struct Each<X>(PhantomData<*const X>);

impl<X> Each<X> {
    pub(crate) fn new() -> Self {
        Each(PhantomData)
    }
}

impl<X: Extent> GridAxis for Each<X> {
    type Index = Scalar<I32>;

    fn extent(&self) -> Expr {
        Expr::symbol(X::NAME)
    }

    fn index(self, id: Scalar<I32>) -> Scalar<I32> {
        id
    }
}

/// An extent in pieces as long as an axis, the last one perhaps shorter, as a dimension of the grid.
/// [`Cx::pieces`](crate::Cx::pieces) makes one.
#[derive(Clone, Copy, Debug)]
pub struct Pieces<X, A> {
    extent: u32,
    of: PhantomData<*const (X, A)>,
}

/// A piece of an extent.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Which.
    pub number: Scalar<I32>,
    /// Its first position.
    pub first: Scalar<I32>,
    /// One past its last position.
    pub end: Scalar<I32>,
}

impl Piece {
    /// The `number`th piece of `extent` positions of `all`. Its end is found from what is left: the end of a whole piece may be
    /// past 2^31.
    #[track_caller]
    pub(crate) fn new(number: Scalar<I32>, extent: i32, all: Scalar<I32>) -> Self {
        let first = number * extent;
        Piece { number, first, end: first + (all - first).min(extent) }
    }
}

impl<X: Extent, A: Axis> Pieces<X, A> {
    #[track_caller]
    pub(crate) fn new() -> Self {
        Pieces { extent: current().borrow_mut().extent::<A>(), of: PhantomData }
    }
}

impl<X: Extent, A: Axis> GridAxis for Pieces<X, A> {
    type Index = Piece;

    fn extent(&self) -> Expr {
        Expr::symbol(X::NAME).ceil_div(u64::from(self.extent))
    }

    fn index(self, id: Scalar<I32>) -> Piece {
        Piece::new(id, self.extent as i32, value::<X>())
    }
}
