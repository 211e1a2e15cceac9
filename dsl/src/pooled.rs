//! Blocks of keys by their means: how they are made, which of them a row may choose from, and what it has chosen.
//!
//! A document's keys are cut into blocks of `B`, the last one where they end. Block `b` of document `d` has the *slot*
//! `first_key / B + d + b`, which no other block has; there are `ceil(keys / B) + documents` slots.

use std::marker::PhantomData;

use lacuna_codegen::ir::{Elem, Slice};
use lacuna_codegen::plan::{Access, Expr, Requirement};

use crate::axis::{Axis, Bool, F32, Half, I32};
use crate::extent::{self, Extent};
use crate::flow::{BlockList, Var};
use crate::grid::{GridAxis, OfKvHead};
use crate::input::{Document, Index, Input, Keys, Output, Place, Positions, QueryRows, Segments, Stored, Tensor};
use crate::input::{fixed, symbol};
use crate::staging::current;
use crate::value::{Onto, Scalar, Tile, Vector};
use crate::{Cx, cx};

crate::extents! {
    /// Blocks of all documents, and some that are none.
    pub Slots = "slots";
    /// Blocks of a row of a routing.
    pub Top = "top";
}

/// The number of a document's first block among those of all documents.
#[track_caller]
fn first_slot(document: &Document, block: i32) -> Scalar<I32> {
    document.first_key() / block + document.number
}

/// `block` as a number of keys.
#[track_caller]
fn keys_of(block: u32) -> i32 {
    let fits = i32::try_from(block).ok().filter(|&keys| keys > 0 && keys % 16 == 0);
    fits.unwrap_or_else(|| {
        let label = "a multiple of 16 is right, below 2^31";
        current().borrow_mut().builder.fail(format!("blocks have {block} keys"), label);
        16
    })
}

// Means.

impl Segments {
    /// Every block of `block` keys, as a dimension of the grid. Shorter documents have fewer: [`Document::block`] ends
    /// the CTAs that are left over.
    #[track_caller]
    pub fn key_blocks(&self, block: u32) -> KeyBlocks {
        let run = current();
        let mut state = run.borrow_mut();
        let longest = state.shape.longest_keys();
        state.scalar(longest, Elem::I32);
        drop(state);
        KeyBlocks { keys: keys_of(block), longest }
    }
}

/// Every block of keys that the longest document has.
#[derive(Clone, Copy, Debug)]
pub struct KeyBlocks {
    keys: i32,
    /// The number of a launch that says how many keys the longest document has.
    longest: &'static str,
}

/// A block of keys of some document.
#[derive(Clone, Copy, Debug)]
pub struct KeyBlock {
    number: Scalar<I32>,
    keys: i32,
}

impl GridAxis for KeyBlocks {
    type Index = KeyBlock;

    fn extent(&self) -> Expr {
        Expr::scalar(self.longest).ceil_div(self.keys as u64)
    }

    fn index(self, id: Scalar<I32>) -> KeyBlock {
        KeyBlock { number: id, keys: self.keys }
    }
}

impl Document {
    /// One of its blocks of keys, the last perhaps cut. Ends the CTA where it has no such block.
    #[track_caller]
    pub fn block(&self, block: KeyBlock) -> Span {
        let first = block.number * block.keys;
        cx::exit_when(&current(), first.ge(self.keys()));
        let count = (self.keys() - first).min(block.keys);
        Span { document: *self, first, count, slot: first_slot(self, block.keys) + block.number }
    }
}

/// Some keys of a document, one behind the other: a block of them.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    document: Document,
    /// The position of its first key.
    first: Scalar<I32>,
    /// How many keys it has, at least one.
    pub count: Scalar<I32>,
    slot: Scalar<I32>,
}

/// The keys of a [`Span`], `K` of them at a time. A [`BlockList`].
#[derive(Debug)]
pub struct Pieces<K> {
    span: Span,
    of: PhantomData<*const K>,
}

/// `K` keys of a [`Span`], or those that are left.
pub struct Piece<K> {
    token: Scalar<I32>,
    count: Scalar<I32>,
    of: PhantomData<*const K>,
}

impl<K> Clone for Piece<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Piece<K> {}

impl<K> std::fmt::Debug for Piece<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Piece").finish_non_exhaustive()
    }
}

impl Span {
    /// Its keys, `K` of them at a time.
    pub fn pieces<K: Axis>(&self) -> Pieces<K> {
        Pieces { span: *self, of: PhantomData }
    }
}

impl<K: Axis> BlockList for Pieces<K> {
    type Block = Piece<K>;

    fn bounds(&self) -> (Scalar<I32>, Scalar<I32>) {
        let extent = cx::extent::<K>();
        (cx::constant::<Scalar<I32>, _>(0), (self.span.count + (extent - 1)) / extent)
    }

    fn at(&self, index: Scalar<I32>) -> Piece<K> {
        let ahead = index * cx::extent::<K>();
        let token = self.span.document.first_key() + self.span.first + ahead;
        Piece { token, count: self.span.count - ahead, of: PhantomData }
    }
}

impl<D: Axis> Keys<D> {
    /// The rows of a piece of keys. Those past the span's end are zeros.
    #[track_caller]
    pub fn piece<K: Axis>(&self, piece: Piece<K>, head: impl OfKvHead) -> Tile<Half, K, D> {
        let (token, head, count) = (piece.token.into(), head.kv_head().0.into(), piece.count.into());
        self.tensor().load(Place { token, head, along: Some(0), count })
    }
}

/// The pooled key of a block, which a schedule returns: stored as `pooled`, 16-bit, `[slots, heads_kv, Dk]`.
#[derive(Debug)]
pub struct PooledKey<D> {
    rows: Box<dyn Stored>,
    slot: Scalar<I32>,
    head: Scalar<I32>,
    of: PhantomData<*const D>,
}

impl<D: Axis> PooledKey<D> {
    /// The first row of `rows` is the pooled key of a block.
    #[track_caller]
    pub fn of_block<R: Axis>(rows: Tile<Half, R, D>, block: &Span, head: impl OfKvHead) -> Self {
        PooledKey { rows: Box::new(rows), slot: block.slot, head: head.kv_head().0, of: PhantomData }
    }
}

#[diagnostic::do_not_recommend]
impl<D: Axis> Output for PooledKey<D> {
    fn store(self, cx: &Cx) {
        let mut state = cx.state.borrow_mut();
        let (half, width) = (state.elem::<Half>(), state.extent::<D>());
        let dims = [symbol(Slots::NAME), symbol("heads_kv"), fixed::<D>(width)];
        let pooled = state.tensor("pooled", half, &dims, Access::Write);
        let rows = self.rows.value(&mut state);
        let (index, count) = (vec![state.take(self.slot), state.take(self.head)], state.builder.int(1));
        state.builder.store(Slice { tensor: pooled, index, along: Some(0), count }, rows);
    }
}

// Candidates.

/// Pooled keys, 16-bit, `[slots, heads_kv, D]`.
#[derive(Clone, Copy, Debug)]
pub struct PooledKeys<D> {
    tensor: Tensor,
    of: PhantomData<*const D>,
}

impl<D: Axis> Input for PooledKeys<D> {
    fn declare(cx: &Cx, name: &str) -> Self {
        let dims = [symbol(Slots::NAME), symbol("heads_kv"), fixed::<D>(cx.extent::<D>())];
        PooledKeys { tensor: Tensor::declare(cx, name, None, &dims), of: PhantomData }
    }
}

impl<D: Axis> PooledKeys<D> {
    /// The pooled keys of a tile of blocks. Those past the last candidate are zeros.
    #[track_caller]
    pub fn tile<K: Axis>(&self, tile: PooledTile<K>, head: impl OfKvHead) -> Tile<Half, K, D> {
        let (token, head, count) = (tile.slot.into(), head.kv_head().0.into(), tile.count.into());
        self.tensor.load(Place { token, head, along: Some(0), count })
    }
}

/// Which blocks of its document each row may choose from, besides its own.
enum Rule {
    /// The complete blocks before its own.
    Past,
    /// All but its own.
    Others,
}

/// The blocks of `B` keys that a tile of query rows may choose from. A row's *own* block is the one that holds its
/// position; a row before every key has none, and chooses none.
pub struct Candidates<R> {
    rule: Rule,
    document: Document,
    keys: i32,
    /// The own block of each row; -1 or less where there is none.
    own: Vector<I32, R>,
    /// The own blocks of the first and the last row.
    ends: (Scalar<I32>, Scalar<I32>),
    /// Some row may choose from the blocks below this.
    count: Scalar<I32>,
}

impl<R> std::fmt::Debug for Candidates<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidates").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// `position / keys`, towards minus infinity as far as it matters: below 0 for every position below 0.
macro_rules! block_of {
    ($position:expr, $keys:expr) => {{
        let (position, keys) = ($position, $keys);
        position.ge(0).select(position / keys, -1)
    }};
}

impl<R: Axis> Candidates<R> {
    /// For each row the complete blocks before its own: those whose keys are all before it.
    #[track_caller]
    pub fn past(rows: &QueryRows<R, impl Axis>, block: u32) -> Self {
        let keys = keys_of(block);
        Self::new(Rule::Past, rows, keys, block_of!(rows.ends.1, keys).max(0))
    }

    /// For each row all blocks of the document but its own, also those behind it, and a cut one at the end.
    #[track_caller]
    pub fn others(rows: &QueryRows<R, impl Axis>, block: u32) -> Self {
        let keys = keys_of(block);
        Self::new(Rule::Others, rows, keys, (rows.document.keys() + (keys - 1)) / keys)
    }

    #[track_caller]
    fn new(rule: Rule, rows: &QueryRows<R, impl Axis>, keys: i32, count: Scalar<I32>) -> Self {
        let own = match rows.positions {
            Positions::Each(positions) => block_of!(positions, keys),
            Positions::One(position) => {
                let run = current();
                let mut state = run.borrow_mut();
                let id = state.take(position);
                let axis = state.axis::<R>();
                let id = state.builder.broadcast(id, &[axis]);
                let positions: Vector<I32, R> = state.give(id);
                drop(state);
                block_of!(positions, keys)
            }
        };
        let ends = (block_of!(rows.ends.0, keys), block_of!(rows.ends.1, keys));
        Candidates { rule, document: rows.document, keys, own, ends, count }
    }

    /// None of them where `out` holds: no row has a block of its own either.
    #[track_caller]
    #[must_use]
    pub fn unless(self, out: Scalar<Bool>) -> Self {
        let most = out.select(-1, i32::MAX);
        Candidates {
            own: self.own.min(most),
            ends: (self.ends.0.min(most), self.ends.1.min(most)),
            count: out.select(0, self.count),
            ..self
        }
    }

    /// The own block of each row; -1 where it has none.
    pub fn own(&self) -> Vector<I32, R> {
        self.own
    }

    /// The blocks, in tiles of `K` of them, gone through `passes` times from the last to the first, which there is
    /// even without a block.
    #[track_caller]
    pub fn passes<K: Axis>(&self, passes: u32) -> Passes<K> {
        let extent = cx::extent::<K>();
        Passes {
            slot: first_slot(&self.document, self.keys),
            count: self.count,
            tiles: ((self.count + (extent - 1)) / extent).max(1),
            passes: passes as i32,
            of: PhantomData,
        }
    }

    /// The scores of a tile of blocks, -inf where a row may not choose the block. Masked only where some row may not.
    #[track_caller]
    pub fn keep<K: Axis>(&self, scores: Tile<F32, R, K>, tile: PooledTile<K>) -> Tile<F32, R, K> {
        let last = tile.first + (cx::extent::<K>() - 1);
        let free = match self.rule {
            Rule::Past => last.lt(self.ends.0),
            Rule::Others => (last.lt(self.ends.0) | tile.first.gt(self.ends.1)) & last.lt(self.count),
        };
        let kept = Var::<Tile<F32, R, K>>::unset("scores", 0.0);
        kept.set(scores);
        let region = cx::open_branch(&current(), !free);
        let block = (cx::iota::<K>() + tile.first).under::<R>();
        let may = match self.rule {
            Rule::Past => block.lt(self.own),
            Rule::Others => block.ne_(self.own) & block.lt(self.count) & self.own.ge(0),
        };
        kept.set(may.select(kept.get(), f32::NEG_INFINITY));
        current().borrow_mut().leave(region);
        kept.get()
    }
}

/// Tiles of `K` pooled keys of a document, gone through several times. A [`BlockList`].
#[derive(Debug)]
pub struct Passes<K> {
    slot: Scalar<I32>,
    count: Scalar<I32>,
    /// Tiles of a pass, at least one.
    tiles: Scalar<I32>,
    passes: i32,
    of: PhantomData<*const K>,
}

/// A tile of `K` pooled keys of a document.
pub struct PooledTile<K> {
    /// The block whose key is the tile's first.
    pub first: Scalar<I32>,
    /// Which pass this is, from 0.
    pub pass: Scalar<I32>,
    /// Whether it is the last tile of its pass.
    pub last: Scalar<Bool>,
    slot: Scalar<I32>,
    count: Scalar<I32>,
    of: PhantomData<*const K>,
}

impl<K> Clone for PooledTile<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for PooledTile<K> {}

impl<K> std::fmt::Debug for PooledTile<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PooledTile").finish_non_exhaustive()
    }
}

impl<K: Axis> BlockList for Passes<K> {
    type Block = PooledTile<K>;

    fn bounds(&self) -> (Scalar<I32>, Scalar<I32>) {
        (cx::constant::<Scalar<I32>, _>(0), self.tiles * self.passes)
    }

    fn at(&self, index: Scalar<I32>) -> PooledTile<K> {
        let once = self.passes == 1;
        let pass = if once { cx::constant::<Scalar<I32>, _>(0) } else { index / self.tiles };
        let tile = if once { index } else { index - pass * self.tiles };
        // From the last tile to the first, as the best of rows are found.
        let tile = self.tiles - 1 - tile;
        let first = tile * cx::extent::<K>();
        PooledTile {
            first,
            pass,
            last: tile.eq_(0),
            slot: self.slot + first,
            count: self.count - first,
            of: PhantomData,
        }
    }
}

// Choices.

/// The blocks that each token and query head is sent to, i32 `[tokens, heads_q, top]`, which a schedule writes: -1
/// where there are fewer.
#[derive(Clone, Copy, Debug)]
pub struct Routing {
    tensor: Tensor,
}

/// Blocks of a row at most.
const MOST: u32 = 64;

impl Input for Routing {
    fn declare(cx: &Cx, name: &str) -> Self {
        let dims = [symbol("tokens"), symbol("heads_q"), symbol(Top::NAME)];
        Routing { tensor: Tensor::declare_as(cx, name, Elem::I32, &dims, Access::Write) }
    }
}

impl Routing {
    /// How many blocks a row has room for besides its own, where it has `top` in all, from 1 to 64.
    #[track_caller]
    pub fn others(&self, top: u32) -> u32 {
        let run = current();
        let mut state = run.borrow_mut();
        if !(1..=MOST).contains(&top) {
            let label = format!("from 1 to {MOST} are right, the row's own block among them");
            state.builder.fail(format!("a row has {top} blocks"), label);
        }
        let what = format!("`{}` must be {top}: the plan is compiled for {top} blocks a row", Top::NAME);
        state.require(Requirement { what, left: Expr::symbol(Top::NAME), right: u64::from(top).into() });
        top.clamp(1, MOST) - 1
    }

    /// Stores the `place`th block of each row, from 0. Nothing where rows have no such place.
    #[track_caller]
    pub fn set<R: Axis>(
        &self,
        rows: &QueryRows<R, impl Axis>,
        place: impl Onto<Scalar<I32>>,
        blocks: impl Onto<Vector<I32, R>>,
    ) {
        let (place, blocks) = (place.handle(), blocks.handle());
        let Place { token, head, along, count } = rows.place;
        let room = extent::value::<Top>();
        let run = current();
        let mut state = run.borrow_mut();
        let (place, blocks) = (state.take(place), state.take(blocks));
        let axis = state.axis::<R>();
        let blocks = state.builder.broadcast(blocks, &[axis]);
        let index = vec![token.take(&mut state), head.take(&mut state), place];
        let Index::One(count) = count else {
            let label = "a tile of tokens, or a group, has a routing";
            return state.builder.fail("these rows are of a list", label);
        };
        let (count, room, zero) = (state.take(count), state.take(room), state.builder.int(0));
        let there = state.builder.compare(lacuna_codegen::ir::Compare::Lt, place, room);
        let count = state.builder.select(there, count, zero);
        if state.lives(self.tensor.home, "output") {
            state.builder.store(Slice { tensor: self.tensor.id, index, along, count }, blocks);
        }
    }
}
