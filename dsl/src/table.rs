//! Tables in global memory, read and written element by element.

use std::marker::PhantomData;

use lacuna_codegen::ir::{Elem, ValueId};
use lacuna_codegen::plan::{Access, Dim};

use crate::Cx;
use crate::axis::{Axis, Bool, I32, Number};
use crate::cx::constant;
use crate::extent::Extent;
use crate::input::{Input, Tensor};
use crate::staging::{State, current};
use crate::value::{Handle, Onto, Scalar, Shaped, Tile, Vector};

/// The extents of a table, outermost first: one [`Extent`], or a tuple of two or three.
pub trait Extents: 'static {
    /// Their names.
    #[doc(hidden)]
    fn names() -> Vec<&'static str>;
}

impl<X: Extent> Extents for X {
    fn names() -> Vec<&'static str> {
        vec![X::NAME]
    }
}

impl<X: Extent, Y: Extent> Extents for (X, Y) {
    fn names() -> Vec<&'static str> {
        vec![X::NAME, Y::NAME]
    }
}

impl<X: Extent, Y: Extent, Z: Extent> Extents for (X, Y, Z) {
    fn names() -> Vec<&'static str> {
        vec![X::NAME, Y::NAME, Z::NAME]
    }
}

/// Two indices together: the one with more axes says what there is an element for.
pub trait Beside<I>: Shaped<Element = I32> {
    /// That one.
    type Both: Shaped<Element = I32>;
}

macro_rules! beside {
    ($([$($param:ident),*] $a:ty, $b:ty => $both:ty;)*) => {$(
        impl<$($param: Axis),*> Beside<$b> for $a {
            type Both = $both;
        }
    )*};
}

beside! {
    [] Scalar<I32>, Scalar<I32> => Scalar<I32>;
    [A] Scalar<I32>, Vector<I32, A> => Vector<I32, A>;
    [A] Vector<I32, A>, Scalar<I32> => Vector<I32, A>;
    [A] Vector<I32, A>, Vector<I32, A> => Vector<I32, A>;
    [R, C] Scalar<I32>, Tile<I32, R, C> => Tile<I32, R, C>;
    [R, C] Tile<I32, R, C>, Scalar<I32> => Tile<I32, R, C>;
    [R, C] Vector<I32, R>, Tile<I32, R, C> => Tile<I32, R, C>;
    [R, C] Tile<I32, R, C>, Vector<I32, R> => Tile<I32, R, C>;
    [R, C] Tile<I32, R, C>, Tile<I32, R, C> => Tile<I32, R, C>;
}

/// Where elements of a table are: an index for every extent, each a scalar, a vector or a tile of i32. There is an element
/// for each of the widest index.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an index",
    label = "an index is an i32 scalar, vector or tile, or a tuple of two or three that go together"
)]
pub trait Index: Copy {
    /// The widest index.
    type Widest: Shaped<Element = I32>;

    /// Each of them.
    #[doc(hidden)]
    #[track_caller]
    fn values(self, state: &mut State) -> Vec<ValueId>;
}

macro_rules! index {
    ($([$($param:ident),*] $index:ty;)*) => {$(
        impl<$($param: Axis),*> Index for $index {
            type Widest = $index;

            fn values(self, state: &mut State) -> Vec<ValueId> {
                vec![state.take(self)]
            }
        }
    )*};
}

index! {
    [] Scalar<I32>;
    [A] Vector<I32, A>;
    [R, C] Tile<I32, R, C>;
}

impl<A: Beside<B>, B: Handle> Index for (A, B) {
    type Widest = A::Both;

    fn values(self, state: &mut State) -> Vec<ValueId> {
        vec![state.take(self.0), state.take(self.1)]
    }
}

impl<A: Beside<B>, B: Handle, C: Handle> Index for (A, B, C)
where
    A::Both: Beside<C>,
{
    type Widest = <A::Both as Beside<C>>::Both;

    fn values(self, state: &mut State) -> Vec<ValueId> {
        vec![state.take(self.0), state.take(self.1), state.take(self.2)]
    }
}

/// What there is an element for at an index.
type At<I, E> = <<I as Index>::Widest as Shaped>::Of<E>;

macro_rules! tables {
    ($($(#[$meta:meta])* $name:ident: $access:ident;)*) => {$(
        $(#[$meta])*
        pub struct $name<E, X> {
            tensor: Tensor,
            of: PhantomData<*const (E, X)>,
        }

        impl<E, X> Clone for $name<E, X> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<E, X> Copy for $name<E, X> {}

        impl<E, X> std::fmt::Debug for $name<E, X> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }

        impl<E: Number, X: Extents> Input for $name<E, X> {
            fn declare(cx: &Cx, name: &str) -> Self {
                let names = X::names();
                let dims: Vec<(&str, Dim)> = names.iter().map(|&x| (x, Dim::Symbol(x.to_owned()))).collect();
                // Any half will do: no number is one.
                let elem = E::elem(Elem::Bf16);
                $name { tensor: Tensor::declare_as(cx, name, elem, &dims, Access::$access), of: PhantomData }
            }
        }
    )*};
}

tables! {
    /// A table that a schedule reads: `E` is [`F32`](crate::F32) or [`I32`], `X` its [extents](Extents), outermost first.
    TableIn: Read;
    /// A table that a schedule writes, and does not read. What it leaves out holds what it held.
    TableOut: Write;
}

impl<E: Number, X: Extents> TableIn<E, X> {
    /// The elements at an index. The author keeps it in the table, also where the element counts for nothing.
    #[track_caller]
    pub fn at<I: Index>(&self, index: I) -> At<I, E> {
        let run = current();
        let mut state = run.borrow_mut();
        let index = index.values(&mut state);
        let id = if state.lives(self.tensor.home, "input") {
            state.builder.element(self.tensor.id, &index)
        } else {
            state.stand_in::<At<I, E>>()
        };
        state.give(id)
    }
}

impl<E: Number, X: Extents> TableOut<E, X> {
    /// Stores elements at an index. The author keeps it in the table, and gives no place twice.
    #[track_caller]
    pub fn set<I: Index>(&self, index: I, value: impl Onto<At<I, E>>) {
        self.store(index, value.handle(), constant::<Scalar<Bool>, _>(true));
    }

    /// Stores elements at an index where `keep` is true. The author keeps it in the table there, and gives no place twice.
    #[track_caller]
    pub fn set_where<I: Index>(&self, index: I, value: impl Onto<At<I, E>>, keep: impl Onto<At<I, Bool>>) {
        self.store(index, value.handle(), keep.handle());
    }

    #[track_caller]
    fn store(&self, index: impl Index, value: impl Handle, keep: impl Handle) {
        let run = current();
        let mut state = run.borrow_mut();
        let index = index.values(&mut state);
        let (value, keep) = (state.take(value), state.take(keep));
        if state.lives(self.tensor.home, "output") {
            state.builder.set_element(self.tensor.id, &index, value, keep);
        }
    }
}
