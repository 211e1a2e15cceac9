//! Axes and element types: the names in a tile's type. None of them has values.

use lacuna_codegen::ir::{Const, Elem};

/// An axis of tiles. Its extent is not here: it is a value, set by the shape or a knob when a schedule is staged.
///
/// [`axes!`](crate::axes) declares more of them.
pub trait Axis: 'static {
    /// What it is called in messages and in the text of the compiled kernel.
    const NAME: &'static str;
}

/// Declares axes.
///
/// ```
/// lacuna_dsl::axes! {
///     /// Keys of a compressed block.
///     pub Compressed;
/// }
/// ```
#[macro_export]
macro_rules! axes {
    ($($(#[$meta:meta])* $vis:vis $name:ident;)*) => {$(
        $(#[$meta])*
        #[derive(Debug)]
        $vis enum $name {}

        impl $crate::Axis for $name {
            const NAME: &'static str = ::core::stringify!($name);
        }
    )*};
}

axes! {
    /// A tile of query tokens, one head.
    pub Rows;
    /// The query heads that share one KV head, one token; padded to 16, 32 or 64.
    pub Group;
    /// A block of keys.
    pub Kv;
    /// The width of queries and keys.
    pub Dk;
    /// The width of values and of the output.
    pub Dv;
}

/// What one element is. The types are [`Half`], [`F32`], [`I32`] and [`Bool`].
pub trait Element: sealed::Sealed + 'static {
    /// The element type, given which one `Half` is.
    #[doc(hidden)]
    fn elem(half: Elem) -> Elem;
}

/// Elements that can be computed with: [`F32`] and [`I32`].
pub trait Number: Stored {}

/// Elements that a [`Var`](crate::Var) can hold.
pub trait Stored: Element {
    /// The Rust type of a constant.
    type Constant: Copy;

    /// A constant.
    #[doc(hidden)]
    fn constant(value: Self::Constant) -> Const;
}

/// bf16 or f16, whichever the [`Shape`](crate::Shape) says: what tensor cores multiply.
#[derive(Debug)]
pub enum Half {}

/// IEEE single: scores, sums, accumulators.
#[derive(Debug)]
pub enum F32 {}

/// 32-bit signed integers: positions and indices.
#[derive(Debug)]
pub enum I32 {}

/// Truth values.
#[derive(Debug)]
pub enum Bool {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Half {}
    impl Sealed for super::F32 {}
    impl Sealed for super::I32 {}
    impl Sealed for super::Bool {}
}

impl Element for Half {
    fn elem(half: Elem) -> Elem {
        half
    }
}

macro_rules! stored {
    ($($name:ident $rust:ty: $elem:ident, $constant:expr;)*) => {$(
        impl Element for $name {
            fn elem(_: Elem) -> Elem {
                Elem::$elem
            }
        }

        impl Stored for $name {
            type Constant = $rust;

            fn constant(value: $rust) -> Const {
                $constant(value)
            }
        }
    )*};
}

stored! {
    F32 f32: F32, Const::f32;
    I32 i32: I32, Const::I32;
    Bool bool: Bool, Const::Bool;
}

impl Number for F32 {}
impl Number for I32 {}
