//! What a grid runs over, and where in it a CTA is. Each index has a type of its own, so that a query head is not taken for a
//! KV head, nor a tile for a token.

use std::marker::PhantomData;

use lacuna_codegen::ir::Elem;
use lacuna_codegen::plan::Expr;

use crate::axis::{Axis, I32};
use crate::input::Segments;
use crate::staging::current;
use crate::value::Scalar;

/// What a dimension of the grid runs over.
pub trait GridAxis {
    /// Where in it a CTA is.
    type Index;

    /// How many CTAs.
    #[doc(hidden)]
    fn extent(&self) -> Expr;

    /// The CTA's place.
    #[doc(hidden)]
    #[track_caller]
    fn index(self, id: Scalar<I32>) -> Self::Index;
}

macro_rules! indices {
    ($($(#[$meta:meta])* $name:ident;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name(pub Scalar<I32>);
    )*};
}

indices! {
    /// A token, counted through all documents.
    Token;
    /// A KV head.
    KvHead;
    /// A document.
    SegmentIndex;
}

/// A query head, and the KV head that it reads.
#[derive(Clone, Copy, Debug)]
pub struct QueryHead {
    /// The query head; the first of the group, where heads of a group share a tile.
    pub head: Scalar<I32>,
    /// Its KV head: `head / group`.
    pub kv: KvHead,
}

/// A tile of `R` tokens, or of as many keys, of a document.
#[derive(Clone, Copy, Debug)]
pub struct TileIndex<R> {
    /// Which.
    pub tile: Scalar<I32>,
    of: PhantomData<*const R>,
}

impl<R> TileIndex<R> {
    pub(crate) fn new(tile: Scalar<I32>) -> Self {
        TileIndex { tile, of: PhantomData }
    }
}

/// What knows its KV head.
pub trait OfKvHead: Copy {
    /// The KV head.
    fn kv_head(self) -> KvHead;
}

impl OfKvHead for KvHead {
    fn kv_head(self) -> KvHead {
        self
    }
}

impl OfKvHead for QueryHead {
    fn kv_head(self) -> KvHead {
        self.kv
    }
}

/// Every token of every document.
#[derive(Clone, Copy, Debug)]
pub struct Tokens(pub(crate) ());

impl GridAxis for Tokens {
    type Index = Token;

    fn extent(&self) -> Expr {
        Expr::symbol("tokens")
    }

    fn index(self, id: Scalar<I32>) -> Token {
        Token(id)
    }
}

/// Every query head; every group of them, where heads of a group share a tile.
#[derive(Clone, Copy, Debug)]
pub struct QueryHeads(pub(crate) ());

impl GridAxis for QueryHeads {
    type Index = QueryHead;

    fn extent(&self) -> Expr {
        match current().borrow().packed {
            1 => Expr::symbol("heads_q"),
            _ => Expr::symbol("heads_kv"),
        }
    }

    fn index(self, id: Scalar<I32>) -> QueryHead {
        let (group, packed) = (current().borrow().shape.group as i32, current().borrow().packed);
        if packed > 1 {
            return QueryHead { head: id * group, kv: KvHead(id) };
        }
        QueryHead { head: id, kv: KvHead(if group == 1 { id } else { id / group }) }
    }
}

/// Every KV head.
#[derive(Clone, Copy, Debug)]
pub struct KvHeads(pub(crate) ());

impl GridAxis for KvHeads {
    type Index = KvHead;

    fn extent(&self) -> Expr {
        Expr::symbol("heads_kv")
    }

    fn index(self, id: Scalar<I32>) -> KvHead {
        KvHead(id)
    }
}

/// Every document.
#[derive(Clone, Copy, Debug)]
pub struct SegmentCount(pub(crate) ());

impl GridAxis for SegmentCount {
    type Index = SegmentIndex;

    fn extent(&self) -> Expr {
        Segments::count_of_plan()
    }

    fn index(self, id: Scalar<I32>) -> SegmentIndex {
        SegmentIndex(id)
    }
}

/// Every tile of `R` tokens, or of as many keys, that the longest document has; of `R` rows, where heads share a tile.
#[derive(Clone, Copy, Debug)]
pub struct Tiles<R> {
    extent: u32,
    /// The number of a launch that says how many the longest one has.
    name: &'static str,
    longest: Scalar<I32>,
    /// Rows of a token.
    rows: u32,
    reversed: bool,
    of: PhantomData<*const R>,
}

impl<R: Axis> Tiles<R> {
    #[track_caller]
    pub(crate) fn new(keys: bool) -> Self {
        let run = current();
        let mut state = run.borrow_mut();
        let extent = state.extent::<R>();
        let name = if keys { state.shape.longest_keys() } else { "max_seqlen" };
        let longest = state.scalar(name, Elem::I32);
        let rows = if keys { 1 } else { state.packed };
        Tiles { extent, name, longest: state.give(longest), rows, reversed: false, of: PhantomData }
    }

    /// From the last tile to the first. Under a causal mask the last tile has most keys, so that what is started last is
    /// shortest, and the GPU's last CTAs end together.
    pub fn longest_first(self) -> Self {
        Self { reversed: true, ..self }
    }
}

impl<R: Axis> GridAxis for Tiles<R> {
    type Index = TileIndex<R>;

    fn extent(&self) -> Expr {
        let longest = Expr::scalar(self.name);
        let rows = if self.rows == 1 { longest } else { longest * u64::from(self.rows).into() };
        rows.ceil_div(u64::from(self.extent))
    }

    fn index(self, id: Scalar<I32>) -> TileIndex<R> {
        let longest = if self.rows == 1 { self.longest } else { self.longest * self.rows as i32 };
        let tile = if self.reversed { (longest - 1) / self.extent as i32 - id } else { id };
        TileIndex { tile, of: PhantomData }
    }
}
