//! Handles: scalars, vectors and tiles, with their element type and axes in their type.
//!
//! All of them are `Copy`. Operators repeat an operand of lower rank along the axes that it lacks: a scalar stands for every
//! element, and a vector over the rows of a tile for every column. A vector over the columns is repeated with
//! [`Vector::under`] first, so that the type says which one is meant.

use std::marker::PhantomData;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Rem, Sub};

use lacuna_codegen::ir::{Binary, Compare, Reduce, Type, Unary};

use crate::axis::{Axis, Bool, Element, F32, Half, I32, Number, Stored};
use crate::staging::{Raw, State, current};

/// A number or truth value, the same for the whole CTA.
pub struct Scalar<E> {
    raw: Raw,
    of: PhantomData<*const E>,
}

/// One element for each position along an axis.
pub struct Vector<E, A> {
    raw: Raw,
    of: PhantomData<*const (E, A)>,
}

/// A tile: rows along `R`, columns along `C`.
pub struct Tile<E, R, C> {
    raw: Raw,
    of: PhantomData<*const (E, R, C)>,
}

/// Row sums whose addends are still spread over the lanes of the CTA. It can be scaled, added to another one and kept in a
/// [`Var`](crate::Var); [`OnlineSoftmax`](crate::OnlineSoftmax) completes it after its loop, once.
pub struct PartialSum<R> {
    raw: Raw,
    of: PhantomData<*const R>,
}

/// Any of the handles.
pub trait Handle: Copy {
    /// What it holds.
    #[doc(hidden)]
    fn raw(self) -> Raw;

    /// A handle for a value.
    #[doc(hidden)]
    fn from_raw(raw: Raw) -> Self;

    /// The type of its value in a run.
    #[doc(hidden)]
    fn ty(state: &mut State) -> Type;
}

macro_rules! handles {
    ($($name:ident<$($param:ident: $bound:ident),+> |$state:ident| $ty:expr;)*) => {$(
        impl<$($param),+> Clone for $name<$($param),+> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<$($param),+> Copy for $name<$($param),+> {}

        impl<$($param: $bound),+> std::fmt::Debug for $name<$($param),+> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }

        impl<$($param: $bound),+> Handle for $name<$($param),+> {
            fn raw(self) -> Raw {
                self.raw
            }

            fn from_raw(raw: Raw) -> Self {
                Self { raw, of: PhantomData }
            }

            fn ty($state: &mut State) -> Type {
                $ty
            }
        }
    )*};
}

handles! {
    Scalar<E: Element> |state| Type::scalar(state.elem::<E>());
    Vector<E: Element, A: Axis> |state| {
        let axis = state.axis::<A>();
        Type::tile(state.elem::<E>(), [axis])
    };
    Tile<E: Element, R: Axis, C: Axis> |state| {
        let axes = [state.axis::<R>(), state.axis::<C>()];
        Type::tile(state.elem::<E>(), axes)
    };
    PartialSum<R: Axis> |state| {
        let axis = state.axis::<R>();
        Type { elem: state.elem::<F32>(), axes: vec![axis], partial: true }
    };
}

/// Handles of the same axes over another element.
pub trait Shaped: Handle {
    /// Its element.
    type Element: Element;
    /// The same axes over `E`.
    type Of<E: Element>: Shaped<Element = E>;
}

impl<E: Element> Shaped for Scalar<E> {
    type Element = E;
    type Of<T: Element> = Scalar<T>;
}

impl<E: Element, A: Axis> Shaped for Vector<E, A> {
    type Element = E;
    type Of<T: Element> = Vector<T, A>;
}

impl<E: Element, R: Axis, C: Axis> Shaped for Tile<E, R, C> {
    type Element = E;
    type Of<T: Element> = Tile<T, R, C>;
}

/// What can stand where a `T` is wanted: a `T`, a handle of lower rank that is repeated along the axes it lacks, or a Rust
/// constant.
#[diagnostic::on_unimplemented(
    message = "{Self} cannot stand where {T} is wanted",
    label = "its axes or its element type do not go with those of {T}",
    note = "a scalar goes with everything, a vector over the rows of a tile with that tile; a vector over the columns is repeated with `.under::<Rows>()`"
)]
pub trait Onto<T: Handle>: Copy {
    /// The handle to use.
    #[doc(hidden)]
    type Handle: Handle;

    /// Makes it.
    #[doc(hidden)]
    #[track_caller]
    fn handle(self) -> Self::Handle;
}

// Written out: rustc quotes them where operands do not go together.

impl<E: Element> Onto<Scalar<E>> for Scalar<E> {
    type Handle = Scalar<E>;

    fn handle(self) -> Scalar<E> {
        self
    }
}

impl<E: Element, A: Axis> Onto<Vector<E, A>> for Scalar<E> {
    type Handle = Scalar<E>;

    fn handle(self) -> Scalar<E> {
        self
    }
}

impl<E: Element, R: Axis, C: Axis> Onto<Tile<E, R, C>> for Scalar<E> {
    type Handle = Scalar<E>;

    fn handle(self) -> Scalar<E> {
        self
    }
}

impl<E: Element, A: Axis> Onto<Vector<E, A>> for Vector<E, A> {
    type Handle = Vector<E, A>;

    fn handle(self) -> Vector<E, A> {
        self
    }
}

impl<E: Element, R: Axis, C: Axis> Onto<Tile<E, R, C>> for Vector<E, R> {
    type Handle = Vector<E, R>;

    fn handle(self) -> Vector<E, R> {
        self
    }
}

impl<E: Element, R: Axis, C: Axis> Onto<Tile<E, R, C>> for Tile<E, R, C> {
    type Handle = Tile<E, R, C>;

    fn handle(self) -> Tile<E, R, C> {
        self
    }
}

impl<R: Axis> Onto<PartialSum<R>> for PartialSum<R> {
    type Handle = PartialSum<R>;

    fn handle(self) -> PartialSum<R> {
        self
    }
}

macro_rules! constants {
    ($($rust:ty: $elem:ident;)*) => {$(
        impl Onto<Scalar<$elem>> for $rust {
            type Handle = Scalar<$elem>;

            #[track_caller]
            fn handle(self) -> Scalar<$elem> {
                constant(self)
            }
        }

        impl<A: Axis> Onto<Vector<$elem, A>> for $rust {
            type Handle = Scalar<$elem>;

            #[track_caller]
            fn handle(self) -> Scalar<$elem> {
                constant(self)
            }
        }

        impl<R: Axis, C: Axis> Onto<Tile<$elem, R, C>> for $rust {
            type Handle = Scalar<$elem>;

            #[track_caller]
            fn handle(self) -> Scalar<$elem> {
                constant(self)
            }
        }
    )*};
}

constants! { f32: F32; i32: I32; bool: Bool; }

#[track_caller]
fn constant<E: Stored>(value: E::Constant) -> Scalar<E> {
    let run = current();
    let mut state = run.borrow_mut();
    let constant = E::constant(value);
    let ty = Type::scalar(constant.elem());
    let id = state.builder.push(lacuna_codegen::ir::Op::Const(constant), ty);
    state.give(id)
}

#[track_caller]
pub(crate) fn unary<H: Handle>(op: Unary, x: H) -> H {
    let run = current();
    let mut state = run.borrow_mut();
    let x = state.take(x);
    let id = state.builder.unary(op, x);
    state.give(id)
}

#[track_caller]
pub(crate) fn binary<A: Handle, B: Handle, T: Handle>(op: Binary, a: A, b: B) -> T {
    let run = current();
    let mut state = run.borrow_mut();
    let (a, b) = (state.take(a), state.take(b));
    let id = state.builder.binary(op, a, b);
    state.give(id)
}

#[track_caller]
fn compare<A: Handle, B: Handle, T: Handle>(op: Compare, a: A, b: B) -> T {
    let run = current();
    let mut state = run.borrow_mut();
    let (a, b) = (state.take(a), state.take(b));
    let id = state.builder.compare(op, a, b);
    state.give(id)
}

#[track_caller]
fn select<A: Handle, B: Handle, C: Handle, T: Handle>(cond: C, a: A, b: B) -> T {
    let run = current();
    let mut state = run.borrow_mut();
    let (cond, a, b) = (state.take(cond), state.take(a), state.take(b));
    let id = state.builder.select(cond, a, b);
    state.give(id)
}

#[track_caller]
fn convert<A: Handle, T: Shaped>(x: A) -> T {
    let run = current();
    let mut state = run.borrow_mut();
    let x = state.take(x);
    let elem = state.elem::<T::Element>();
    let id = state.builder.convert(x, elem);
    state.give(id)
}

#[track_caller]
fn reduce<A: Handle, T: Handle>(op: Reduce, x: A) -> T {
    let run = current();
    let mut state = run.borrow_mut();
    let x = state.take(x);
    let id = state.builder.reduce(op, x);
    state.give(id)
}

/// Repeats a vector over columns along new rows.
#[track_caller]
fn under<A: Handle, T: Handle>(x: A) -> T {
    let run = current();
    let mut state = run.borrow_mut();
    let x = state.take(x);
    let axes = T::ty(&mut state).axes;
    let id = state.builder.broadcast(x, &axes);
    state.give(id)
}

macro_rules! operators {
    ([$($param:ident: $bound:ident),*] $name:ty, $num:ident, $trait:ident $method:ident $op:ident) => {
        impl<$num: Number, $($param: $bound,)* X: Onto<$name>> $trait<X> for $name {
            type Output = $name;

            #[track_caller]
            fn $method(self, other: X) -> $name {
                binary(Binary::$op, self, other.handle())
            }
        }
    };
}

macro_rules! integer_operators {
    ([$($param:ident: $bound:ident),*] $name:ty) => {
        impl<$($param: $bound,)* X: Onto<$name>> Rem<X> for $name {
            type Output = $name;

            #[track_caller]
            fn rem(self, other: X) -> $name {
                binary(Binary::Rem, self, other.handle())
            }
        }
    };
}

macro_rules! bool_operators {
    ([$($param:ident: $bound:ident),*] $name:ty) => {
        impl<$($param: $bound,)* X: Onto<$name>> BitAnd<X> for $name {
            type Output = $name;

            #[track_caller]
            fn bitand(self, other: X) -> $name {
                binary(Binary::And, self, other.handle())
            }
        }

        impl<$($param: $bound,)* X: Onto<$name>> BitOr<X> for $name {
            type Output = $name;

            #[track_caller]
            fn bitor(self, other: X) -> $name {
                binary(Binary::Or, self, other.handle())
            }
        }

        impl<$($param: $bound),*> Not for $name {
            type Output = $name;

            #[track_caller]
            fn not(self) -> $name {
                unary(Unary::Not, self)
            }
        }
    };
}

macro_rules! methods {
    ([$($param:ident: $bound:ident),*] $of:ident<$($rest:ident),*>) => {
        operators! { [$($param: $bound),*] $of<N $(, $rest)*>, N, Add add Add }
        operators! { [$($param: $bound),*] $of<N $(, $rest)*>, N, Sub sub Sub }
        operators! { [$($param: $bound),*] $of<N $(, $rest)*>, N, Mul mul Mul }
        operators! { [$($param: $bound),*] $of<N $(, $rest)*>, N, Div div Div }
        integer_operators! { [$($param: $bound),*] $of<I32 $(, $rest)*> }
        bool_operators! { [$($param: $bound),*] $of<Bool $(, $rest)*> }

        impl<N: Number $(, $param: $bound)*> Neg for $of<N $(, $rest)*> {
            type Output = Self;

            #[track_caller]
            fn neg(self) -> Self {
                unary(Unary::Neg, self)
            }
        }

        impl<N: Number $(, $param: $bound)*> $of<N $(, $rest)*> {
            /// The larger of two.
            #[track_caller]
            pub fn max(self, other: impl Onto<Self>) -> Self {
                binary(Binary::Max, self, other.handle())
            }

            /// The smaller of two.
            #[track_caller]
            pub fn min(self, other: impl Onto<Self>) -> Self {
                binary(Binary::Min, self, other.handle())
            }

            /// `self < other`.
            #[track_caller]
            pub fn lt(self, other: impl Onto<Self>) -> $of<Bool $(, $rest)*> {
                compare(Compare::Lt, self, other.handle())
            }

            /// `self <= other`.
            #[track_caller]
            pub fn le(self, other: impl Onto<Self>) -> $of<Bool $(, $rest)*> {
                compare(Compare::Le, self, other.handle())
            }

            /// `self > other`.
            #[track_caller]
            pub fn gt(self, other: impl Onto<Self>) -> $of<Bool $(, $rest)*> {
                compare(Compare::Gt, self, other.handle())
            }

            /// `self >= other`.
            #[track_caller]
            pub fn ge(self, other: impl Onto<Self>) -> $of<Bool $(, $rest)*> {
                compare(Compare::Ge, self, other.handle())
            }

            /// `self == other`.
            #[track_caller]
            pub fn eq_(self, other: impl Onto<Self>) -> $of<Bool $(, $rest)*> {
                compare(Compare::Eq, self, other.handle())
            }

            /// `self != other`.
            #[track_caller]
            pub fn ne_(self, other: impl Onto<Self>) -> $of<Bool $(, $rest)*> {
                compare(Compare::Ne, self, other.handle())
            }
        }

        impl<$($param: $bound),*> $of<Bool $(, $rest)*> {
            /// `if self { a } else { b }`, element by element.
            #[track_caller]
            pub fn select<E: Element>(
                self,
                a: impl Onto<$of<E $(, $rest)*>>,
                b: impl Onto<$of<E $(, $rest)*>>,
            ) -> $of<E $(, $rest)*> {
                select(self, a.handle(), b.handle())
            }
        }

        impl<$($param: $bound),*> $of<F32 $(, $rest)*> {
            /// `2^x`.
            #[track_caller]
            pub fn exp2(self) -> Self {
                unary(Unary::Exp2, self)
            }

            /// `log2 x`.
            #[track_caller]
            pub fn log2(self) -> Self {
                unary(Unary::Log2, self)
            }

            /// `1/x`.
            #[track_caller]
            pub fn recip(self) -> Self {
                unary(Unary::Recip, self)
            }

            /// `self * factor + addend`, rounded once.
            #[track_caller]
            pub fn fma(self, factor: impl Onto<Self>, addend: impl Onto<Self>) -> Self {
                let (factor, addend) = (factor.handle(), addend.handle());
                let run = current();
                let mut state = run.borrow_mut();
                let (a, b, c) = (state.take(self), state.take(factor), state.take(addend));
                let id = state.builder.fma(a, b, c);
                state.give(id)
            }

            /// To the 16-bit type that tensor cores multiply, rounded to nearest even.
            #[track_caller]
            pub fn to_half(self) -> $of<Half $(, $rest)*> {
                convert(self)
            }
        }

        impl<$($param: $bound),*> $of<I32 $(, $rest)*> {
            /// To a float, rounded to nearest even.
            #[track_caller]
            pub fn to_f32(self) -> $of<F32 $(, $rest)*> {
                convert(self)
            }
        }
    };
}

methods! { [] Scalar<> }
methods! { [A: Axis] Vector<A> }
methods! { [R: Axis, C: Axis] Tile<R, C> }

impl<E: Element, C: Axis> Vector<E, C> {
    /// The vector under every row of `R`: a tile whose columns are this axis.
    #[track_caller]
    pub fn under<R: Axis>(self) -> Tile<E, R, C> {
        under(self)
    }
}

impl<R: Axis, C: Axis> Tile<Half, R, C> {
    /// To f32, exactly.
    #[track_caller]
    pub fn to_f32(self) -> Tile<F32, R, C> {
        convert(self)
    }
}

impl<R: Axis, C: Axis> Tile<F32, R, C> {
    /// The largest element of each row.
    #[track_caller]
    pub fn row_max(self) -> Vector<F32, R> {
        reduce(Reduce::Max, self)
    }

    /// The sum of each row, not yet complete.
    #[track_caller]
    pub fn row_sum(self) -> PartialSum<R> {
        reduce(Reduce::Sum, self)
    }
}

impl<R: Axis> Add for PartialSum<R> {
    type Output = Self;

    #[track_caller]
    fn add(self, other: Self) -> Self {
        binary(Binary::Add, self, other)
    }
}

impl<R: Axis> Mul<Vector<F32, R>> for PartialSum<R> {
    type Output = Self;

    #[track_caller]
    fn mul(self, factor: Vector<F32, R>) -> Self {
        binary(Binary::Mul, self, factor)
    }
}
