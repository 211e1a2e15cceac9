//! Block lists turned around: for each block of keys the tokens that picked it, and what becomes of a token that is seen to
//! block by block.
//!
//! A *slot* is a block of a document: block `b` of document `d` has slot `first / B + d + b`, where `first` is the document's
//! first key, `cu_seqlens[d]` or `cu_seqlens_k[d]`. No other block has it.
//! A list has `token * n + j` for the `j`th of the `n` picks of a token, in ascending order. It is worked through in tiles of
//! rows, each row one query head of one token. What a row sees of the block is a *part* of its output; a merge of the `n`
//! parts of a row has the whole.

use std::marker::PhantomData;

use lacuna_codegen::ir::{Elem, Slice};
use lacuna_codegen::plan::{Access, Expr};

use crate::Cx;
use crate::axis::{Axis, Bool, F32, Half, I32};
use crate::cx;
use crate::flow::BlockList;
use crate::grid::{GridAxis, KvHead, Token, Tokens};
use crate::input::{
    Block, Blocks, Index, Input, Located, OutLse, Output, Place, Segments, Stored, Tensor, fixed, symbol,
};
use crate::staging::current;
use crate::value::{Scalar, Tile, Vector};

/// For each KV head and slot, who picked that block: the tensors `list_starts` and `list_tiles`, i32
/// `[heads_kv, slots + 1]`, and `list_entries`, i32 `[heads_kv, tokens * n]`, whatever the parameter is called.
///
/// The list of slot `s` are the entries from `list_starts[s]` up to `list_starts[s + 1]`; its tiles are those from
/// `list_tiles[s]` up to `list_tiles[s + 1]`, counted through all slots of a head.
#[derive(Clone, Copy, Debug)]
pub struct Lists {
    starts: Tensor,
    tiles: Tensor,
    entries: Tensor,
}

impl Input for Lists {
    fn declare(cx: &Cx, _: &str) -> Self {
        let table = |name, symbols: [&str; 2]| Tensor::declare(cx, name, Some(Elem::I32), &symbols.map(symbol));
        Lists {
            starts: table("list_starts", ["heads_kv", "slots_plus_one"]),
            tiles: table("list_tiles", ["heads_kv", "slots_plus_one"]),
            entries: table("list_entries", ["heads_kv", "entries"]),
        }
    }
}

/// A number made from the extents of tensors.
#[track_caller]
fn computed(name: &str, expr: Expr) -> Scalar<I32> {
    let run = current();
    let mut state = run.borrow_mut();
    let id = state.computed(name, expr);
    state.give(id)
}

/// Query heads of a KV head.
fn group() -> i32 {
    current().borrow().shape.group as i32
}

/// `x / by`, without a division by one.
#[track_caller]
fn over<R: Axis>(x: Vector<I32, R>, by: i32) -> Vector<I32, R> {
    if by == 1 { x } else { x / by }
}

impl Lists {
    /// Tokens that a tile of `R` rows has: as many as have room with all heads of a group.
    #[track_caller]
    pub fn tokens_a_tile<R: Axis>() -> u32 {
        let (rows, group) = (cx::extent::<R>() as u32, group() as u32);
        if rows < group {
            let label = format!("a tile has {rows} rows; as many as a group has, or more, are right");
            current().borrow_mut().builder.fail(format!("a group has {group} query heads"), label);
        }
        (rows / group).max(1)
    }

    /// Every tile of `R` rows of every list of a KV head, as a dimension of the grid. How many there are is known to the device
    /// alone: [`Lists::tile`] ends the CTAs that are left over.
    #[track_caller]
    pub fn tiles<R: Axis>(&self) -> ListTiles<R> {
        ListTiles { tokens: Self::tokens_a_tile::<R>(), of: PhantomData }
    }

    /// A tile: which block of `K` keys it is about, and which rows it has. Ends the CTA where there is no such tile.
    #[track_caller]
    pub fn tile<R: Axis, K: Axis>(&self, tile: ListTile<R>, head: KvHead, docs: &Segments) -> Pickers<R, K> {
        let slots = computed("slots", Expr::symbol("slots_plus_one") - Expr::Const(1));
        let n = computed("blocks", Expr::symbol("blocks"));
        let (size, group) = (Self::tokens_a_tile::<R>() as i32, group());
        let table = |table: Tensor, at: Scalar<I32>| table.elements::<Scalar<I32>>(&[head.0.into(), at.into()]);

        cx::exit_when(&current(), tile.0.ge(table(self.tiles, slots)));
        let slot = self.tiles.segment(&[head.0], slots, tile.0);
        let first = table(self.starts, slot) + (tile.0 - table(self.tiles, slot)) * size;
        let tokens = (table(self.starts, slot + 1) - first).min(size);

        let (earliest, latest) = (table(self.entries, first) / n, table(self.entries, first + (tokens - 1)) / n);
        let index = docs.index_of(Token(earliest));
        let document = docs.at(index);
        let extent = cx::extent::<K>();
        let block = slot - (document.first_key() / extent + index.0);

        // Rows past the last token stay in the list.
        let row = cx::iota::<R>();
        let entry = over(row, group).min(tokens - 1) + first;
        let entry: Vector<I32, R> = self.entries.elements(&[head.0.into(), entry.into()]);
        Pickers {
            block: Block::new(block * extent, document),
            kv_head: head,
            token: entry / n,
            pick: entry % n,
            head: if group == 1 { head.0.into() } else { (row % group + head.0 * group).into() },
            count: tokens * group,
            ends: (document.position(earliest - document.start), document.position(latest - document.start)),
        }
    }
}

/// Every tile of `R` rows of every list.
#[derive(Clone, Copy, Debug)]
pub struct ListTiles<R> {
    tokens: u32,
    of: PhantomData<*const R>,
}

/// A tile of `R` rows of some list of a KV head.
#[derive(Clone, Copy, Debug)]
pub struct ListTile<R>(Scalar<I32>, PhantomData<*const R>);

impl<R: Axis> GridAxis for ListTiles<R> {
    type Index = ListTile<R>;

    /// As many as there can be: every list may leave a tile unfilled.
    fn extent(&self) -> Expr {
        let entries = Expr::symbol("tokens") * Expr::symbol("blocks");
        entries.ceil_div(u64::from(self.tokens)) + Expr::symbol("slots_plus_one")
    }

    fn index(self, id: Scalar<I32>) -> ListTile<R> {
        ListTile(id, PhantomData)
    }
}

/// The query rows of some tokens that picked a block of `K` keys: each token has a row for every head of its group.
pub struct Pickers<R, K> {
    /// The block.
    pub block: Block<K>,
    /// The KV head.
    pub kv_head: KvHead,
    /// The token of each row.
    pub(crate) token: Vector<I32, R>,
    /// Which of the token's picks the block is.
    pick: Vector<I32, R>,
    /// The query head of each row.
    pub(crate) head: Index,
    /// How many rows there are.
    pub(crate) count: Scalar<I32>,
    /// The first and the last position.
    pub(crate) ends: (Scalar<I32>, Scalar<I32>),
}

impl<R, K> Clone for Pickers<R, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, K> Copy for Pickers<R, K> {}

macro_rules! opaque {
    ($($name:ident<$a:ident, $b:ident>;)*) => {$(
        impl<$a, $b> std::fmt::Debug for $name<$a, $b> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

opaque! {
    Pickers<R, K>;
    TokenParts<R, D>;
    Part<R, D>;
}

/// Parts of outputs and their log-sum-exp, in natural log: stored as `o_parts` `[tokens, n, heads_q, Dv]` and `lse_parts`
/// `[heads_q, tokens, n]`, f32. What a head's rows store of the second lies together, as they run at about one time.
#[derive(Debug)]
pub struct PartLse<D> {
    o: Box<dyn Stored>,
    lse: Box<dyn Stored>,
    token: Index,
    pick: Index,
    head: Index,
    count: Scalar<I32>,
    of: PhantomData<*const D>,
}

impl<D: Axis> OutLse<D> {
    /// As parts of the outputs of the rows' tokens: what these rows see of one block.
    pub fn parts<R: Axis, K>(self, listed: &Pickers<R, K>) -> PartLse<D> {
        let Pickers { token, pick, head, count, .. } = *listed;
        PartLse { o: self.o, lse: self.lse, token: token.into(), pick: pick.into(), head, count, of: PhantomData }
    }
}

/// The dimensions of `o_parts`, and of `lse_parts`.
macro_rules! dims_of_parts {
    ($d:ident, $width:expr) => {
        (
            [symbol("tokens"), symbol("blocks"), symbol("heads_q"), fixed::<$d>($width)],
            [symbol("heads_q"), symbol("tokens"), symbol("blocks")],
        )
    };
}

#[diagnostic::do_not_recommend]
impl<D: Axis> Output for PartLse<D> {
    fn store(self, cx: &Cx) {
        let mut state = cx.state.borrow_mut();
        let (half, width) = (state.elem::<Half>(), state.extent::<D>());
        let (o_dims, lse_dims) = dims_of_parts!(D, width);
        let o = state.tensor("o_parts", half, &o_dims, Access::Write);
        let lse = state.tensor("lse_parts", Elem::F32, &lse_dims, Access::Write);
        let (o_rows, lse_rows) = (self.o.value(&mut state), self.lse.value(&mut state));
        let [token, pick, head] = [self.token, self.pick, self.head].map(|index| index.take(&mut state));
        let count = state.take(self.count);
        let at = |tensor, index: [_; 3]| Slice { tensor, index: index.to_vec(), along: None, count };
        state.builder.store(at(o, [token, pick, head]), o_rows);
        state.builder.store(at(lse, [head, token, pick]), lse_rows);
    }
}

/// Parts of outputs and their log-sum-exp, as [`PartLse`] stores them: the tensors `o_parts` and `lse_parts`, whatever the
/// parameter is called.
#[derive(Clone, Copy, Debug)]
pub struct Parts<D> {
    o: Tensor,
    lse: Tensor,
    of: PhantomData<*const D>,
}

impl<D: Axis> Input for Parts<D> {
    fn declare(cx: &Cx, _: &str) -> Self {
        let (o_dims, lse_dims) = dims_of_parts!(D, cx.extent::<D>());
        Parts {
            o: Tensor::declare(cx, "o_parts", None, &o_dims),
            lse: Tensor::declare(cx, "lse_parts", Some(Elem::F32), &lse_dims),
            of: PhantomData,
        }
    }
}

impl<D: Axis> Parts<D> {
    /// Every token, as a dimension of the grid.
    pub fn tokens(&self) -> Tokens {
        Tokens(())
    }

    /// Every tile of `R` query heads, as a dimension of the grid.
    #[track_caller]
    pub fn heads<R: Axis>(&self) -> HeadTiles<R> {
        HeadTiles { extent: cx::extent::<R>() as u32, of: PhantomData }
    }

    /// The parts of a tile of heads of one token: one for each of its picks that is a block of `K` keys of its document. A
    /// [`BlockList`].
    #[track_caller]
    pub fn of<R: Axis, K: Axis>(&self, at: Located, tile: HeadTile<R>, picks: &Blocks) -> TokenParts<R, D> {
        let heads = computed("heads_q", Expr::symbol("heads_q"));
        let extent = cx::extent::<K>();
        let first = tile.0 * cx::extent::<R>();
        // Rows past the last head stay in the tables.
        let row = cx::iota::<R>();
        let head = (row + first).min(heads - 1);
        TokenParts {
            o: self.o,
            lse: self.lse,
            picks: *picks,
            token: at.token,
            head,
            inside: row.lt(heads - first),
            n: computed("blocks", Expr::symbol("blocks")),
            blocks: (at.document.keys() + (extent - 1)) / extent,
            place: Place {
                token: at.token.0.into(),
                head: first.into(),
                along: Some(1),
                count: (heads - first).into(),
            },
            of: PhantomData,
        }
    }
}

/// Every tile of `R` query heads.
#[derive(Clone, Copy, Debug)]
pub struct HeadTiles<R> {
    extent: u32,
    of: PhantomData<*const R>,
}

/// A tile of `R` query heads.
#[derive(Clone, Copy, Debug)]
pub struct HeadTile<R>(Scalar<I32>, PhantomData<*const R>);

impl<R: Axis> GridAxis for HeadTiles<R> {
    type Index = HeadTile<R>;

    fn extent(&self) -> Expr {
        Expr::symbol("heads_q").ceil_div(u64::from(self.extent))
    }

    fn index(self, id: Scalar<I32>) -> HeadTile<R> {
        HeadTile(id, PhantomData)
    }
}

/// The parts of a tile of query heads of one token.
pub struct TokenParts<R, D> {
    o: Tensor,
    lse: Tensor,
    picks: Blocks,
    token: Token,
    head: Vector<I32, R>,
    /// Rows that are heads.
    inside: Vector<Bool, R>,
    n: Scalar<I32>,
    /// How many blocks the document has.
    blocks: Scalar<I32>,
    place: Place,
    of: PhantomData<*const D>,
}

/// One part of each row.
pub struct Part<R, D> {
    /// What the row saw: zeros where there is no such part.
    pub o: Tile<Half, R, D>,
    /// Its log-sum-exp in natural log: -inf where there is no such part.
    pub lse: Vector<F32, R>,
}

impl<R: Axis, D: Axis> TokenParts<R, D> {
    /// The merged rows: their output, and their log-sum-exp in natural log.
    pub fn whole(&self, o: Tile<Half, R, D>, lse: Vector<F32, R>) -> OutLse<D> {
        OutLse::new(o, lse, self.place)
    }
}

impl<R: Axis, D: Axis> BlockList for &TokenParts<R, D> {
    type Block = Part<R, D>;

    fn bounds(&self) -> (Scalar<I32>, Scalar<I32>) {
        (cx::constant::<Scalar<I32>, _>(0), self.n)
    }

    fn at(&self, index: Scalar<I32>) -> Part<R, D> {
        let Token(token) = self.token;
        let kv_head = over(self.head, group());
        let pick: Vector<I32, R> = self.picks.tensor().elements(&[token.into(), kv_head.into(), index.into()]);
        // The rule of `Picked`: what it skips was never stored.
        let there = pick.ge(0) & pick.lt(self.blocks) & self.inside;
        let lse: Vector<F32, R> = self.lse.load_at(&[self.head.into(), token.into(), index.into()], there.into());
        Part {
            o: self.o.load_at(&[token.into(), index.into(), self.head.into()], there.into()),
            lse: there.select(lse, f32::NEG_INFINITY),
        }
    }
}
