//! Parts of outputs: what rows see of one block of keys each, and what becomes of a row when its parts are merged.

use std::marker::PhantomData;

use lacuna_codegen::ir::{Elem, Slice};
use lacuna_codegen::plan::{Access, Expr};

use crate::Cx;
use crate::axis::{Axis, Bool, Element, F32, Half, I32};
use crate::choices::{Choices, group};
use crate::cx;
use crate::extent;
use crate::flow::{BlockList, Var};
use crate::grid::{GridAxis, QueryHead, Token, Tokens};
use crate::input::{Blocks, Index, Input, Located, OutLse, Output, Place, QueryRows, Stored, Tensor, fixed, symbol};
use crate::lists::{Pickers, over};
use crate::value::{Scalar, Tile, Vector};

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
    TokenParts<R, D>;
}

impl<R, D, E, F> std::fmt::Debug for PartsAhead<R, D, E, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartsAhead").finish_non_exhaustive()
    }
}

impl<R, D, E> std::fmt::Debug for Part<R, D, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").finish_non_exhaustive()
    }
}

/// Parts of outputs, 16-bit or f32, and their log-sum-exp, in natural log: stored as `o_parts` `[part_tokens, parts, part_heads, Dv]` and
/// `lse_parts` `[part_heads, part_tokens, parts]`, f32: the tokens and query heads that a launch is about, and a part for each
/// choice. What a head's rows store of the second lies together, as they run at about one time.
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
    pub fn parts<R: Axis>(self, listed: &Pickers<R>) -> PartLse<D> {
        self.parts_from(listed, 0)
    }

    /// As [`parts`](Self::parts), where the first choices have no part: choice `first` has the first one.
    #[track_caller]
    pub fn parts_from<R: Axis>(self, listed: &Pickers<R>, first: i32) -> PartLse<D> {
        let Pickers { part_token, pick, part_head: head, count, .. } = *listed;
        let pick = if first == 0 { pick } else { pick - first };
        PartLse { o: self.o, lse: self.lse, token: part_token.into(), pick: pick.into(), head, count, of: PhantomData }
    }
}

/// The dimensions of `o_parts`, and of `lse_parts`.
macro_rules! dims_of_parts {
    ($d:ident, $width:expr) => {
        (
            [symbol("part_tokens"), symbol("parts"), symbol("part_heads"), fixed::<$d>($width)],
            [symbol("part_heads"), symbol("part_tokens"), symbol("parts")],
        )
    };
}

#[diagnostic::do_not_recommend]
impl<D: Axis> Output for PartLse<D> {
    fn store(self, cx: &Cx) {
        let mut state = cx.state.borrow_mut();
        let (o_rows, lse_rows) = (self.o.value(&mut state), self.lse.value(&mut state));
        let (elem, width) = (state.builder.func().values[o_rows.index()].ty.elem, state.extent::<D>());
        let (o_dims, lse_dims) = dims_of_parts!(D, width);
        let o = state.tensor("o_parts", elem, &o_dims, Access::Write);
        let lse = state.tensor("lse_parts", Elem::F32, &lse_dims, Access::Write);
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
pub struct Parts<D, E = Half> {
    o: Tensor,
    lse: Tensor,
    of: PhantomData<*const (D, E)>,
}

/// What parts of outputs can be stored as: [`Half`], or [`F32`].
pub trait PartElement: Element {
    /// Parts as they are merged.
    #[doc(hidden)]
    #[track_caller]
    fn widened<R: Axis, D: Axis>(part: Tile<Self, R, D>) -> Tile<F32, R, D>
    where
        Self: Sized;
}

impl PartElement for Half {
    fn widened<R: Axis, D: Axis>(part: Tile<Half, R, D>) -> Tile<F32, R, D> {
        part.to_f32()
    }
}

impl PartElement for F32 {
    fn widened<R: Axis, D: Axis>(part: Tile<F32, R, D>) -> Tile<F32, R, D> {
        part
    }
}

impl<D: Axis, E: PartElement> Input for Parts<D, E> {
    fn declare(cx: &Cx, _: &str) -> Self {
        let (o_dims, lse_dims) = dims_of_parts!(D, cx.extent::<D>());
        Parts {
            o: {
                let elem = cx.state.borrow().elem::<E>();
                Tensor::declare(cx, "o_parts", Some(elem), &o_dims)
            },
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
        let heads = extent::value::<crate::grid::QueryHeads>();
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
            n: extent::value::<crate::input::Listed>(),
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

impl<D: Axis, E: PartElement> Parts<D, E> {
    /// The parts of a tile of rows of one query head: part `i` of the rows for which `there(i)` says that there is one. With what
    /// is fetched [`ahead`](RowParts::ahead), a [`BlockList`] of `count` rounds.
    #[track_caller]
    pub fn of_rows<R: Axis, W>(
        self,
        rows: &QueryRows<R, W>,
        head: QueryHead,
        choices: &Choices,
        count: u32,
        there: impl Fn(Scalar<I32>) -> Vector<Bool, R>,
    ) -> RowParts<R, D, E, impl Fn(Scalar<I32>) -> Vector<Bool, R>> {
        let Index::One(token) = rows.place.token else { unreachable!("tiles of tokens begin at one") };
        let (token, head) = match choices.span() {
            Some(span) => (token - span.token, head.head - span.head * group() as i32),
            None => (token, head.head),
        };
        let rounds = cx::constant::<Scalar<I32>, _>(count as i32);
        RowParts { o: self.o, lse: self.lse, token, head, rounds, there, of: PhantomData }
    }
}

/// The parts of a tile of rows of one query head.
pub struct RowParts<R, D, E, F> {
    o: Tensor,
    lse: Tensor,
    /// The first row's token, and the head, as the parts count them.
    token: Scalar<I32>,
    head: Scalar<I32>,
    rounds: Scalar<I32>,
    there: F,
    of: PhantomData<*const (R, D, E)>,
}

impl<R, D, E, F> std::fmt::Debug for RowParts<R, D, E, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowParts").finish_non_exhaustive()
    }
}

impl<R: Axis, D: Axis, E: PartElement, F: Fn(Scalar<I32>) -> Vector<Bool, R>> RowParts<R, D, E, F> {
    /// The same, each round's log-sum-exp fetched a round before: that of the first here, which may be long before the loop.
    #[track_caller]
    pub fn ahead(self, cx: &Cx) -> PartsAhead<R, D, E, F> {
        let (lse, there) = (cx.var("lse_ahead", f32::NEG_INFINITY), cx.var("there_ahead", false));
        let ahead = PartsAhead { parts: self, lse, there };
        ahead.fetch(cx.scalar(0));
        ahead
    }
}

/// The parts of a tile of rows of one query head, with the next one's log-sum-exp.
pub struct PartsAhead<R, D, E, F> {
    parts: RowParts<R, D, E, F>,
    /// The log-sum-exp of the next round's part, and whether there is one.
    lse: Var<Vector<F32, R>>,
    there: Var<Vector<Bool, R>>,
}

impl<R: Axis, D: Axis, E: PartElement, F: Fn(Scalar<I32>) -> Vector<Bool, R>> PartsAhead<R, D, E, F> {
    /// Fetches the log-sum-exp of a part.
    #[track_caller]
    fn fetch(&self, part: Scalar<I32>) {
        let RowParts { lse, token, head, there, .. } = &self.parts;
        let there = there(part);
        self.lse.set(lse.load_along::<Vector<F32, R>>(
            &[(*head).into(), (*token).into(), part.into()],
            Some(1),
            there.into(),
        ));
        self.there.set(there);
    }
}

impl<R: Axis, D: Axis, E: PartElement, F: Fn(Scalar<I32>) -> Vector<Bool, R>> BlockList for PartsAhead<R, D, E, F> {
    type Block = Part<R, D, E>;

    fn bounds(&self) -> (Scalar<I32>, Scalar<I32>) {
        (cx::constant::<Scalar<I32>, _>(0), self.parts.rounds)
    }

    fn at(&self, index: Scalar<I32>) -> Part<R, D, E> {
        let RowParts { o, token, head, rounds, there, .. } = &self.parts;
        let lse = self.there.get().select(self.lse.get(), f32::NEG_INFINITY);
        // Behind the last one, that one again.
        self.fetch((index + 1).min(*rounds - 1));
        Part { o: o.load_along(&[(*token).into(), index.into(), (*head).into()], Some(0), there(index).into()), lse }
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
pub struct Part<R, D, E = Half> {
    /// What the row saw: zeros where there is no such part.
    pub o: Tile<E, R, D>,
    /// Its log-sum-exp in natural log: -inf where there is no such part.
    pub lse: Vector<F32, R>,
}

impl<R: Axis, D: Axis> TokenParts<R, D> {
    /// The merged rows: their output, and their log-sum-exp in natural log.
    pub fn whole(&self, (o, lse): (Tile<Half, R, D>, Vector<F32, R>)) -> OutLse<D> {
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
        let kv_head = over(self.head, group() as i32);
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
