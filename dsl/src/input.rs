//! What a schedule reads and what it returns.
//!
//! Layouts: q `[tokens, heads_q, Dk]`, k `[tokens, heads_kv, Dk]`, v `[tokens, heads_kv, Dv]`, o like q with Dv, LSE f32
//! `[tokens, heads_q]` in natural log, block lists i32 `[tokens, heads_kv, n]` relative to the document and padded with -1,
//! and `cu_seqlens` i32 `[documents + 1]`. Positions are counted in their document.
//!
//! Where a shape has its keys apart, k and v are `[tokens_k, ..]`, and `cu_seqlens_k`, i32 `[documents + 1]` too, has where
//! the keys of each document begin. Positions are then those of keys: queries and keys end together.

use std::marker::PhantomData;

use lacuna_codegen::ir::{Binary, Elem, ParamId, Slice, Type, ValueId};
use lacuna_codegen::plan::{Access, Dim, Expr};

use crate::axis::{Axis, Bool, F32, Half, I32};
use crate::choices::Choices;
use crate::flow::BlockList;
use crate::grid::{
    KvHead, KvHeads, OfKvHead, QueryHead, QueryHeads, SegmentCount, SegmentIndex, TileIndex, Tiles, Token, Tokens,
};
use crate::lists::Pickers;
use crate::staging::{Home, Raw, State, current};
use crate::value::{Handle, Scalar, Tile, Vector};
use crate::{Cx, cx};

/// What can be a parameter of a schedule, in global memory.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an input of a schedule",
    label = "an input is `Queries`, `Keys`, `Values`, `Segments`, `Blocks`, `TileBlocks`, `Lists`, `Parts`, `PooledKeys`, `Routed`, `Routing`, `Sinks`, `Span`, `TableIn` or `TableOut`",
    note = "a choice that is made before compiling is marked `#[fixed]`, an `Option` of an input `#[optional]`"
)]
pub trait Input: Sized {
    /// Declares it under the parameter's name.
    #[doc(hidden)]
    #[track_caller]
    fn declare(cx: &Cx, name: &str) -> Self;
}

/// What a schedule can return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not what a schedule returns",
    label = "a schedule returns `OutLse<Dv>`, which `OnlineSoftmax::finish` makes, `PartLse<Dv>`, its parts, `PooledKey<Dk>`, or nothing where it writes tables or a `Routing`"
)]
pub trait Output {
    /// Stores it.
    #[doc(hidden)]
    #[track_caller]
    fn store(self, cx: &Cx);
}

/// A schedule that returns nothing has written a [`TableOut`](crate::TableOut).
#[diagnostic::do_not_recommend]
impl Output for () {
    fn store(self, cx: &Cx) {
        let mut state = cx.state.borrow_mut();
        if !state.tensors.iter().any(|tensor| tensor.access == Access::Write) {
            let label = "it returns `OutLse<Dv>`, or has a parameter that it writes, `TableOut`";
            state.builder.fail("the schedule stores nothing", label);
        }
    }
}

/// A dimension of any extent.
pub(crate) fn symbol(name: &str) -> (&str, Dim) {
    (name, Dim::Symbol(name.to_owned()))
}

/// A dimension as wide as an axis.
pub(crate) fn fixed<A: Axis>(extent: u32) -> (&'static str, Dim) {
    (A::NAME, Dim::Fixed(extent.into()))
}

/// A tensor parameter and its run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensor {
    pub(crate) id: ParamId,
    pub(crate) home: Home,
}

impl Tensor {
    #[track_caller]
    pub(crate) fn declare(cx: &Cx, name: &str, elem: Option<Elem>, dims: &[(&str, Dim)]) -> Self {
        let elem = elem.unwrap_or_else(|| cx.state.borrow().elem::<Half>());
        Tensor::declare_as(cx, name, elem, dims, Access::Read)
    }

    #[track_caller]
    pub(crate) fn declare_as(cx: &Cx, name: &str, elem: Elem, dims: &[(&str, Dim)], access: Access) -> Self {
        let mut state = cx.state.borrow_mut();
        let id = state.tensor(name, elem, dims, access);
        Tensor { id, home: state.home() }
    }

    /// Rows of the tensor as a tile.
    #[track_caller]
    pub(crate) fn load<R: Axis, D: Axis>(self, place: Place) -> Tile<Half, R, D> {
        let run = current();
        let mut state = run.borrow_mut();
        let id = if state.lives(self.home, "input") {
            let axes = [state.axis::<R>(), state.axis::<D>()];
            let slice = place.slice(&mut state, self.id);
            state.builder.load(slice, &axes)
        } else {
            state.stand_in::<Tile<Half, R, D>>()
        };
        state.give(id)
    }

    /// Rows of the tensor as a tile, or a number of it for each row, where each row's own indices are.
    #[track_caller]
    pub(crate) fn load_at<H: Handle>(self, index: &[Index], count: Index) -> H {
        self.load_along(index, None, count)
    }

    /// As [`load_at`](Self::load_at), where rows run along a dimension.
    #[track_caller]
    pub(crate) fn load_along<H: Handle>(self, index: &[Index], along: Option<usize>, count: Index) -> H {
        let run = current();
        let mut state = run.borrow_mut();
        let id = if state.lives(self.home, "input") {
            let axes = H::ty(&mut state).axes;
            let mut ids = Vec::with_capacity(index.len());
            for &i in index {
                ids.push(i.take(&mut state));
            }
            let slice = Slice { tensor: self.id, index: ids, along, count: count.take(&mut state) };
            state.builder.load(slice, &axes)
        } else {
            state.stand_in::<H>()
        };
        state.give(id)
    }

    /// One element.
    #[track_caller]
    pub(crate) fn element(self, index: &[Scalar<I32>]) -> Scalar<I32> {
        let index: Vec<Index> = index.iter().map(|&i| i.into()).collect();
        self.elements(&index)
    }

    /// One element, or one for each row of the indices.
    #[track_caller]
    pub(crate) fn elements<H: Handle>(self, index: &[Index]) -> H {
        let run = current();
        let mut state = run.borrow_mut();
        let id = if state.lives(self.home, "input") {
            let mut ids = Vec::with_capacity(index.len());
            for &i in index {
                ids.push(i.take(&mut state));
            }
            state.builder.element(self.id, &ids)
        } else {
            state.stand_in::<H>()
        };
        state.give(id)
    }

    /// The elements at an index.
    #[track_caller]
    pub(crate) fn at<I: crate::table::Index>(self, index: I) -> I::Widest {
        let run = current();
        let mut state = run.borrow_mut();
        let index = index.values(&mut state);
        let id = if state.lives(self.home, "input") {
            state.builder.element(self.id, &index)
        } else {
            state.stand_in::<I::Widest>()
        };
        state.give(id)
    }

    /// The segment of a row of the tensor that holds a position.
    #[track_caller]
    pub(crate) fn segment(self, row: &[Scalar<I32>], count: Scalar<I32>, at: Scalar<I32>) -> Scalar<I32> {
        let run = current();
        let mut state = run.borrow_mut();
        let id = if state.lives(self.home, "input") {
            let mut ids = Vec::with_capacity(row.len());
            for &i in row {
                ids.push(state.take(i));
            }
            let (count, at) = (state.take(count), state.take(at));
            state.builder.segment(self.id, &ids, count, at)
        } else {
            state.stand_in::<Scalar<I32>>()
        };
        state.give(id)
    }
}

/// An index, or which rows there are: the same for every row, or each row's own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Index {
    One(Scalar<I32>),
    Each(Raw),
}

impl Index {
    #[track_caller]
    pub(crate) fn take(self, state: &mut State) -> ValueId {
        match self {
            Index::One(scalar) => state.take(scalar),
            Index::Each(raw) => state.take_raw(raw, Type::scalar(Elem::I32)),
        }
    }
}

impl From<Scalar<I32>> for Index {
    fn from(scalar: Scalar<I32>) -> Self {
        Index::One(scalar)
    }
}

impl<E: crate::axis::Element, R: Axis> From<Vector<E, R>> for Index {
    fn from(vector: Vector<E, R>) -> Self {
        Index::Each(vector.raw())
    }
}

/// Where rows stand in a tensor `[tokens, heads, ..]`: from `token` and `head` on, `count` of them along one of the two; or
/// each where its own token and head are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) token: Index,
    pub(crate) head: Index,
    pub(crate) along: Option<usize>,
    pub(crate) count: Index,
}

impl Place {
    #[track_caller]
    fn slice(self, state: &mut State, tensor: ParamId) -> Slice {
        let index = vec![self.token.take(state), self.head.take(state)];
        Slice { tensor, index, along: self.along, count: self.count.take(state) }
    }

    /// Whether rows are those of a list: so many of them. Others that are anywhere say each whether it is there.
    fn is_listed(&self) -> bool {
        self.along.is_none() && matches!(self.count, Index::One(_))
    }
}

/// A document: a run of tokens that attend to one another only. Its queries and its keys are the same tokens, or, where the
/// shape has keys apart, runs of their own that end together.
#[derive(Clone, Copy, Debug)]
pub struct Document {
    /// Which one it is.
    pub number: Scalar<I32>,
    /// Its first token: the first of its queries.
    pub start: Scalar<I32>,
    /// How many tokens it has: how many queries.
    pub len: Scalar<I32>,
    /// Where its keys are, if they are apart from its queries.
    apart: Option<Apart>,
}

/// The keys of a document that has a number of them of its own.
#[derive(Clone, Copy, Debug)]
struct Apart {
    first: Scalar<I32>,
    count: Scalar<I32>,
    /// How many more keys than queries there are.
    more: Scalar<I32>,
}

impl Document {
    /// Its first key, counted through the keys of all documents.
    pub fn first_key(&self) -> Scalar<I32> {
        self.apart.map_or(self.start, |keys| keys.first)
    }

    /// How many keys it has.
    pub fn keys(&self) -> Scalar<I32> {
        self.apart.map_or(self.len, |keys| keys.count)
    }

    /// The position of its `nth` token, counted from 0, or of each of several: among its keys, as the last query stands at the
    /// last key. Below 0 where there are more queries than keys: such a token is before every key, and under a pattern that
    /// looks at the query's position it sees none.
    #[track_caller]
    pub fn position<P>(&self, nth: P) -> P
    where
        P: std::ops::Add<Scalar<I32>, Output = P>,
    {
        match self.apart {
            None => nth,
            Some(keys) => nth + keys.more,
        }
    }

    /// Whether its positions may be below 0.
    pub(crate) fn is_apart(&self) -> bool {
        self.apart.is_some()
    }
}

/// A token with its document.
#[derive(Clone, Copy, Debug)]
pub struct Located {
    /// The token.
    pub token: Token,
    /// Its document.
    pub document: Document,
    /// Its [position](Document::position) there.
    pub position: Scalar<I32>,
}

/// The documents that the tokens are divided into: the tensor `cu_seqlens`, i32, where each one starts, and at last the
/// number of tokens. Where the shape has keys apart, `cu_seqlens_k` says the same of keys. Whatever the parameter is called,
/// those are their names.
#[derive(Clone, Copy, Debug)]
pub struct Segments {
    table: Tensor,
    keys: Option<Tensor>,
}

impl Input for Segments {
    fn declare(cx: &Cx, _: &str) -> Self {
        let table = |name| Tensor::declare(cx, name, Some(Elem::I32), &[symbol("segments_plus_one")]);
        let apart = cx.state.borrow().shape.keys_apart;
        Segments { table: table("cu_seqlens"), keys: apart.then(|| table("cu_seqlens_k")) }
    }
}

impl Segments {
    pub(crate) fn count_of_plan() -> Expr {
        Expr::symbol("segments_plus_one") - Expr::Const(1)
    }

    /// Every document, as a dimension of the grid.
    pub fn count(&self) -> SegmentCount {
        SegmentCount(())
    }

    /// Every tile of `R` tokens, as a dimension of the grid. Shorter documents have fewer: [`Queries::tile`] ends the CTAs
    /// that are left over.
    #[track_caller]
    pub fn tiles<R: Axis>(&self) -> Tiles<R> {
        Tiles::new(false)
    }

    /// Every block of `K` keys, as a dimension of the grid. Shorter documents have fewer: what works on one ends the CTAs that
    /// are left over.
    #[track_caller]
    pub fn blocks<K: Axis>(&self) -> Tiles<K> {
        Tiles::new(true)
    }

    /// A document.
    #[track_caller]
    pub fn at(&self, segment: SegmentIndex) -> Document {
        let start = self.table.element(&[segment.0]);
        let end = self.table.element(&[segment.0 + 1]);
        let len = end - start;
        let apart = match self.keys {
            None => None,
            Some(table) => {
                let first = table.element(&[segment.0]);
                let end = table.element(&[segment.0 + 1]);
                let count = end - first;
                Some(Apart { first, count, more: count - len })
            }
        };
        Document { number: segment.0, start, len, apart }
    }

    /// Whether a document is the last one.
    #[track_caller]
    pub fn is_last(&self, segment: SegmentIndex) -> Scalar<Bool> {
        let count: Scalar<I32> = {
            let run = current();
            let mut state = run.borrow_mut();
            let count = state.computed("segments", Self::count_of_plan());
            state.give(count)
        };
        segment.0.eq_(count - 1)
    }

    /// The number of the document that holds a token.
    #[track_caller]
    pub fn index_of(&self, token: Token) -> SegmentIndex {
        let count = {
            let run = current();
            let mut state = run.borrow_mut();
            let count = state.computed("segments", Self::count_of_plan());
            state.give(count)
        };
        SegmentIndex(self.table.segment(&[], count, token.0))
    }

    /// The document that holds a token.
    #[track_caller]
    pub fn locate(&self, token: Token) -> Located {
        let document = self.at(self.index_of(token));
        Located { token, document, position: document.position(token.0 - document.start) }
    }
}

/// Queries, 16-bit, `[tokens, heads_q, D]`.
#[derive(Clone, Copy, Debug)]
pub struct Queries<D> {
    tensor: Tensor,
    of: PhantomData<*const D>,
}

/// Keys, 16-bit, `[tokens, heads_kv, D]`; `[tokens_k, heads_kv, D]` where the shape has them apart.
#[derive(Clone, Copy, Debug)]
pub struct Keys<D> {
    tensor: Tensor,
    of: PhantomData<*const D>,
}

impl<D> Keys<D> {
    pub(crate) fn tensor(&self) -> Tensor {
        self.tensor
    }
}

/// Values, 16-bit, `[tokens, heads_kv, D]`; `[tokens_k, heads_kv, D]` where the shape has them apart.
#[derive(Clone, Copy, Debug)]
pub struct Values<D> {
    tensor: Tensor,
    of: PhantomData<*const D>,
}

macro_rules! rows_of {
    ($($name:ident $tokens:expr, $heads:literal;)*) => {$(
        impl<D: Axis> Input for $name<D> {
            fn declare(cx: &Cx, name: &str) -> Self {
                let tokens = $tokens(cx);
                let dims = [symbol(tokens), symbol($heads), fixed::<D>(cx.extent::<D>())];
                $name { tensor: Tensor::declare(cx, name, None, &dims), of: PhantomData }
            }
        }
    )*};
}

rows_of! {
    Queries |_| "tokens", "heads_q";
    Keys key_tokens, "heads_kv";
    Values key_tokens, "heads_kv";
}

/// The extent of keys.
fn key_tokens(cx: &Cx) -> &'static str {
    cx.state.borrow().shape.key_tokens()
}

macro_rules! blocks_of {
    ($($name:ident)*) => {$(
        impl<D: Axis> $name<D> {
            /// Every KV head, as a dimension of the grid.
            pub fn heads(&self) -> KvHeads {
                KvHeads(())
            }

            /// The rows of a block. Those past the document's end are zeros; a block that is none is zeros altogether.
            #[track_caller]
            pub fn block<K: Axis>(&self, block: Block<K>, head: impl OfKvHead) -> Tile<Half, K, D> {
                let head = head.kv_head().0;
                let (token, count) = match block.rows {
                    Some((token, keys)) => (token, cx::constant::<Scalar<I32>, _>(keys)),
                    None => (block.document.first_key() + block.first, block.document.keys() - block.first),
                };
                self.tensor.load(Place { token: token.into(), head: head.into(), along: Some(0), count: count.into() })
            }
        }
    )*};
}

blocks_of! { Keys Values }

impl<D: Axis> Queries<D> {
    /// Every token, as a dimension of the grid.
    pub fn tokens(&self) -> Tokens {
        Tokens(())
    }

    /// Every query head, as a dimension of the grid.
    pub fn heads(&self) -> QueryHeads {
        QueryHeads(())
    }

    /// A tile of tokens of a document, one head. Ends the CTA where the document has no such tile.
    ///
    /// In a pick that has `pack = 2` a tile has rows of all query heads that share a KV head, token by token: row `r` of a
    /// document is head `r % group` of token `r / group`. Such rows are as many as fit, whatever the group.
    #[track_caller]
    pub fn tile<R: Axis>(&self, document: Document, tile: TileIndex<R>, head: QueryHead) -> QueryRows<R, D> {
        let packed = current().borrow().packed;
        if packed > 1 {
            return self.pack(document, tile, head, packed as i32);
        }
        let extent = cx::extent::<R>();
        let first = tile.tile * extent;
        cx::exit_when(&current(), first.ge(document.len));
        let last = (first + (extent - 1)).min(document.len - 1);
        let place = Place {
            token: (document.start + first).into(),
            head: head.head.into(),
            along: Some(0),
            count: (document.len - first).into(),
        };
        let ends = (document.position(first), document.position(last));
        let positions = Positions::Each(cx::iota::<R>() + ends.0);
        QueryRows {
            q: self.tensor.load(place),
            kv_head: head.kv,
            token: None,
            positions,
            ends,
            document,
            place,
            tile: Some(Tiled { extent: extent as u32, first }),
        }
    }

    /// A tile of rows of a document: of all heads of a group, token by token.
    #[track_caller]
    fn pack<R: Axis>(&self, document: Document, tile: TileIndex<R>, head: QueryHead, group: i32) -> QueryRows<R, D> {
        let extent = cx::extent::<R>();
        let (first, rows) = (tile.tile * extent, document.len * group);
        cx::exit_when(&current(), first.ge(rows));
        let last = (first + (extent - 1)).min(rows - 1);
        let row = cx::iota::<R>() + first;
        let nth = row / group;
        let place = Place {
            token: (nth + document.start).into(),
            head: (row % group + head.head).into(),
            along: None,
            count: row.lt(rows).into(),
        };
        QueryRows {
            q: self.tensor.load(place),
            kv_head: head.kv,
            token: None,
            positions: Positions::Each(document.position(nth)),
            ends: (document.position(first / group), document.position(last / group)),
            document,
            place,
            tile: None,
        }
    }

    /// A tile of tokens of a document, one head, of those that choices are about: where a span begins in the document, tiles are
    /// counted from there, and none goes on behind its end. Ends the CTA where there is no such tile.
    #[track_caller]
    pub fn tile_of<R: Axis>(
        &self,
        document: Document,
        tile: TileIndex<R>,
        head: QueryHead,
        choices: &Choices,
    ) -> QueryRows<R, D> {
        let Some(span) = choices.span() else { return self.tile(document, tile, head) };
        let extent = cx::extent::<R>();
        let begin = (span.token - document.start).max(0);
        let end = (span.token + span.tokens - document.start).min(document.len);
        let first = begin + tile.tile * extent;
        cx::exit_when(&current(), first.ge(end));
        let count = (end - first).min(extent);
        let place = Place {
            token: (document.start + first).into(),
            head: head.head.into(),
            along: Some(0),
            count: count.into(),
        };
        QueryRows {
            q: self.tensor.load(place),
            kv_head: head.kv,
            token: None,
            positions: Positions::Each(document.position(cx::iota::<R>() + first)),
            ends: (document.position(first), document.position(first + (count - 1))),
            document,
            place,
            tile: None,
        }
    }

    /// The queries of a tile of a list: each row is gathered from where it is. Rows past the last one are zeros, and are not
    /// stored.
    #[track_caller]
    pub fn gather<R: Axis>(&self, listed: &Pickers<R>) -> QueryRows<R, D> {
        let place = Place { token: listed.token.into(), head: listed.head, along: None, count: listed.count.into() };
        QueryRows {
            q: self.tensor.load(place),
            kv_head: listed.kv_head,
            token: None,
            positions: Positions::Each(listed.document.position(listed.token - listed.document.start)),
            ends: listed.ends,
            document: listed.document,
            place,
            tile: None,
        }
    }

    /// All query heads of one token that share a KV head. The rows past the group's size are zeros, and are not stored.
    #[track_caller]
    pub fn group<R: Axis>(&self, at: Located, head: KvHead) -> QueryRows<R, D> {
        let group = {
            let run = current();
            let mut state = run.borrow_mut();
            let (group, extent) = (state.shape.group, state.extent::<R>());
            if extent < group {
                let label = format!("the rows are {extent}; take `Group`, which is the group padded to 16, 32 or 64");
                state.builder.fail(format!("a group has {group} query heads"), label);
            }
            group as i32
        };
        let count = cx::constant::<Scalar<I32>, _>(group);
        let place =
            Place { token: at.token.0.into(), head: (head.0 * group).into(), along: Some(1), count: count.into() };
        QueryRows {
            q: self.tensor.load(place),
            kv_head: head,
            token: Some(at.token),
            positions: Positions::One(at.position),
            ends: (at.position, at.position),
            document: at.document,
            place,
            tile: None,
        }
    }
}

/// Query rows: the tile, and where its rows are.
pub struct QueryRows<R, D> {
    /// The queries.
    pub q: Tile<Half, R, D>,
    /// The KV head that they read.
    pub kv_head: KvHead,
    /// The token that all rows are of, where they are a group.
    pub token: Option<Token>,
    /// The document that they are in.
    pub document: Document,
    pub(crate) positions: Positions<R>,
    /// The first and the last position.
    pub(crate) ends: (Scalar<I32>, Scalar<I32>),
    pub(crate) place: Place,
    /// Which tile they are, where the rows are a tile of tokens.
    pub(crate) tile: Option<Tiled>,
}

/// A tile of tokens of a document.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiled {
    /// How many tokens a tile has.
    extent: u32,
    /// The first one, counted in the document.
    first: Scalar<I32>,
}

impl<R, D> Clone for QueryRows<R, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, D> Copy for QueryRows<R, D> {}

/// A scalar for every row.
#[track_caller]
fn broadcast<R: Axis>(scalar: Scalar<I32>) -> Vector<I32, R> {
    let run = current();
    let mut state = run.borrow_mut();
    let (scalar, axis) = (state.take(scalar), state.axis::<R>());
    let id = state.builder.broadcast(scalar, &[axis]);
    state.give(id)
}

impl<R: Axis, D> QueryRows<R, D> {
    /// The position of each row.
    #[track_caller]
    pub fn positions(&self) -> Vector<I32, R> {
        match self.positions {
            Positions::Each(positions) => positions,
            Positions::One(position) => broadcast(position),
        }
    }

    /// The token of each row, counted through all documents. Rows past the last one have the last token.
    #[track_caller]
    pub fn tokens(&self) -> Vector<I32, R> {
        let one = |index: Index| match index {
            Index::One(scalar) => scalar,
            Index::Each(_) => unreachable!("the rows of a tile are counted"),
        };
        match self.place.token {
            Index::Each(raw) => Vector::from_raw(raw),
            Index::One(token) if self.place.along == Some(0) => cx::iota::<R>().min(one(self.place.count) - 1) + token,
            Index::One(token) => broadcast(token),
        }
    }

    /// Merged rows as the schedule's output: their output, and their log-sum-exp in natural log.
    pub fn whole<V: Axis>(&self, (o, lse): (Tile<Half, R, V>, Vector<F32, R>)) -> OutLse<V> {
        OutLse::new(o, lse, self.place)
    }

    /// Which rows there are.
    #[track_caller]
    pub fn inside(&self) -> Vector<Bool, R> {
        match self.place.count {
            Index::One(count) => cx::iota::<R>().lt(count),
            Index::Each(raw) => Vector::from_raw(raw),
        }
    }
}

impl<R, D> QueryRows<R, D> {
    /// How many tokens its tile has, and which one is the first, counted in the document: for lists of tiles.
    #[track_caller]
    pub(crate) fn tiled(&self) -> (u32, Scalar<I32>) {
        match self.tile {
            Some(tile) => (tile.extent, tile.first),
            None => {
                let label = "these rows are no tile of tokens; `q.tile(..)` makes one";
                current().borrow_mut().builder.fail("these block lists are of tiles of tokens", label);
                (16, self.ends.0)
            }
        }
    }
}

impl<R, D> std::fmt::Debug for QueryRows<R, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryRows").finish_non_exhaustive()
    }
}

/// Where query rows are, without the queries.
#[derive(Debug)]
pub(crate) struct RowsAt<R> {
    pub(crate) positions: Positions<R>,
    pub(crate) place: Place,
}

impl<R, D> QueryRows<R, D> {
    pub(crate) fn at(&self) -> RowsAt<R> {
        RowsAt { positions: self.positions, place: self.place }
    }
}

impl<R: Axis> RowsAt<R> {
    /// The query head: a scalar where all rows are of one, else i32 over the rows. Rows past the last head have the last one.
    #[track_caller]
    pub(crate) fn heads(&self, state: &mut State) -> ValueId {
        let head = self.place.head.take(state);
        if self.place.along != Some(1) {
            return head;
        }
        let (axis, count) = (state.axis::<R>(), self.place.count.take(state));
        let (row, one) = (state.builder.iota(axis), state.builder.int(1));
        let last = state.builder.binary(Binary::Sub, count, one);
        let row = state.builder.binary(Binary::Min, row, last);
        state.builder.binary(Binary::Add, row, head)
    }

    /// The positions of the rows: i32, a scalar or over the rows.
    #[track_caller]
    pub(crate) fn positions(&self, state: &mut State) -> ValueId {
        match self.positions {
            Positions::Each(positions) => state.take(positions),
            Positions::One(position) => state.take(position),
        }
    }
}

/// A learnable sink for each query head, f32, `[heads_q]`: a logit that takes part in the softmax of every row and has no
/// value, as in gpt-oss. It is a logit as the softmax sees it: neither the kernel's scale nor a score changes it, no mask hides
/// it, and the LSE counts it. A row that sees no key has the sink as its LSE; a sink of -inf is none.
///
/// [`OnlineSoftmax::with_sinks`](crate::OnlineSoftmax::with_sinks) takes it.
#[derive(Clone, Copy, Debug)]
pub struct Sinks {
    tensor: Tensor,
}

impl Input for Sinks {
    fn declare(cx: &Cx, name: &str) -> Self {
        Sinks { tensor: Tensor::declare(cx, name, Some(Elem::F32), &[symbol("heads_q")]) }
    }
}

impl Sinks {
    /// The sink of each row.
    #[track_caller]
    pub(crate) fn of_rows<R: Axis>(self, rows: &RowsAt<R>) -> Vector<F32, R> {
        let run = current();
        let mut state = run.borrow_mut();
        if !state.lives(self.tensor.home, "input") {
            let id = state.stand_in::<Vector<F32, R>>();
            return state.give(id);
        }
        let heads = rows.heads(&mut state);
        let sinks = state.builder.element(self.tensor.id, &[heads]);
        let axis = state.axis::<R>();
        let sinks = state.builder.broadcast(sinks, &[axis]);
        state.give(sinks)
    }
}

/// The position of each row.
pub(crate) enum Positions<R> {
    /// Its own.
    Each(Vector<I32, R>),
    /// One for all.
    One(Scalar<I32>),
}

impl<R> Clone for Positions<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Positions<R> {}

impl<R> std::fmt::Debug for Positions<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Positions").finish_non_exhaustive()
    }
}

/// A block of `K` keys of a document.
pub struct Block<K> {
    /// The position of its first key. That of a block which is none is how many keys the document has.
    pub first: Scalar<I32>,
    /// The document.
    pub document: Document,
    /// Whether no pair of it is hidden, where a classifier has found it.
    pub(crate) whole: Option<Scalar<Bool>>,
    /// Its first key, counted through all, and how many there are, where all of them are known to be there.
    pub(crate) rows: Option<(Scalar<I32>, i32)>,
    of: PhantomData<*const K>,
}

impl<K> Clone for Block<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Block<K> {}

impl<K> std::fmt::Debug for Block<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").finish_non_exhaustive()
    }
}

impl<K: Axis> Block<K> {
    pub(crate) fn new(first: Scalar<I32>, document: Document) -> Self {
        Block { first, document, whole: None, rows: None, of: PhantomData }
    }

    /// The block, all keys of which are known to be there: the first of them is `key`, counted through all.
    pub(crate) fn complete(self, key: Scalar<I32>, keys: i32) -> Self {
        Block { rows: Some((key, keys)), ..self }
    }

    /// The block, of which it is known whether no pair of it is hidden.
    pub(crate) fn whole(self, whole: Scalar<Bool>) -> Self {
        Block { whole: Some(whole), ..self }
    }
}

crate::extents! {
    /// Blocks that are listed for a token and KV head.
    pub(crate) Listed = "blocks";
}

/// Block lists, i32, `[tokens, heads_kv, n]`: for each token and KV head the blocks of keys to visit, in any order. An index
/// that is no block of the document, -1 say, is skipped.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    tensor: Tensor,
}

impl Input for Blocks {
    fn declare(cx: &Cx, name: &str) -> Self {
        let dims = [symbol("tokens"), symbol("heads_kv"), symbol("blocks")];
        Blocks { tensor: Tensor::declare(cx, name, Some(Elem::I32), &dims) }
    }
}

impl Blocks {
    /// Every KV head, as a dimension of the grid.
    pub fn heads(&self) -> KvHeads {
        KvHeads(())
    }

    /// Every token, as a dimension of the grid.
    pub fn tokens(&self) -> Tokens {
        Tokens(())
    }

    /// How many blocks are listed for each token and KV head.
    #[track_caller]
    pub fn per_token(&self) -> Scalar<I32> {
        crate::extent::value::<Listed>()
    }

    /// The blocks that are listed for tokens at places of their lists, as they stand there.
    #[track_caller]
    pub fn at<I: crate::table::Index>(&self, token_head_place: I) -> I::Widest {
        self.tensor.at(token_head_place)
    }

    pub(crate) fn tensor(&self) -> Tensor {
        self.tensor
    }

    /// The blocks of `K` keys that are listed for a group of query rows.
    #[track_caller]
    pub fn of<K: Axis>(&self, rows: &QueryRows<impl Axis, impl Axis>) -> Picked<K> {
        let extent = cx::extent::<K>();
        let count = {
            let run = current();
            let mut state = run.borrow_mut();
            if rows.token.is_none() {
                let label =
                    "these rows are many tokens, each with a list of its own; `q.group(..)` makes rows of one token";
                state.builder.fail("a block list is of one token", label);
            }
            let count = state.computed("blocks", Expr::symbol("blocks"));
            state.give(count)
        };
        Picked {
            tensor: self.tensor,
            token: rows.token.unwrap_or(Token(rows.ends.0)),
            head: rows.kv_head,
            count,
            document: rows.document,
            blocks: (rows.document.keys() + (extent - 1)) / extent,
            extent,
            of: PhantomData,
        }
    }
}

/// The blocks that are listed for one token and KV head.
#[derive(Debug)]
pub struct Picked<K> {
    tensor: Tensor,
    token: Token,
    head: KvHead,
    count: Scalar<I32>,
    document: Document,
    /// How many blocks the document has.
    blocks: Scalar<I32>,
    extent: i32,
    of: PhantomData<*const K>,
}

impl<K: Axis> BlockList for Picked<K> {
    type Block = Block<K>;

    fn bounds(&self) -> (Scalar<I32>, Scalar<I32>) {
        (cx::constant::<Scalar<I32>, _>(0), self.count)
    }

    fn at(&self, index: Scalar<I32>) -> Block<K> {
        let block = self.tensor.element(&[self.token.0, self.head.0, index]);
        // Compared as an index: times the block size, a wild one could come out as a position of the document.
        let exists = block.ge(0) & block.lt(self.blocks);
        Block::new(exists.select(block * self.extent, self.document.keys()), self.document)
    }
}

/// The output rows of a schedule and their log-sum-exp, in natural log: stored as `o` and `lse`.
#[derive(Debug)]
pub struct OutLse<D> {
    pub(crate) o: Box<dyn Stored>,
    pub(crate) lse: Box<dyn Stored>,
    place: Place,
    of: PhantomData<*const D>,
}

/// A handle whose axes are not in its type.
pub(crate) trait Stored: std::fmt::Debug {
    #[track_caller]
    fn value(&self, state: &mut State) -> ValueId;
}

impl<H: Handle + std::fmt::Debug> Stored for H {
    fn value(&self, state: &mut State) -> ValueId {
        state.take(*self)
    }
}

impl<D: Axis> OutLse<D> {
    pub(crate) fn new<R: Axis>(o: Tile<Half, R, D>, lse: Vector<F32, R>, place: Place) -> Self {
        OutLse::of(o, lse, place)
    }

    /// Of rows of any element.
    pub(crate) fn of<E: crate::axis::Element, R: Axis>(o: Tile<E, R, D>, lse: Vector<F32, R>, place: Place) -> Self {
        OutLse { o: Box::new(o), lse: Box::new(lse), place, of: PhantomData }
    }
}

#[diagnostic::do_not_recommend]
impl<D: Axis> Output for OutLse<D> {
    fn store(self, cx: &Cx) {
        let mut state = cx.state.borrow_mut();
        if self.place.is_listed() {
            let label = "`.parts(..)` says which, and a merge of the parts has the whole";
            state.builder.fail("these rows have seen one of the blocks that their tokens picked", label);
        }
        let (half, width) = (state.elem::<Half>(), state.extent::<D>());
        let dims = [symbol("tokens"), symbol("heads_q"), fixed::<D>(width)];
        let o = state.tensor("o", half, &dims, Access::Write);
        let lse = state.tensor("lse", Elem::F32, &dims[..2], Access::Write);
        let (o_rows, lse_rows) = (self.o.value(&mut state), self.lse.value(&mut state));
        let slice = self.place.slice(&mut state, o);
        state.builder.store(slice, o_rows);
        let slice = self.place.slice(&mut state, lse);
        state.builder.store(slice, lse_rows);
    }
}
