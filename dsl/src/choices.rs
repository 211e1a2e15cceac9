//! What tokens choose: blocks of keys, for each KV head or for each query head, and which of them a launch is about.

use std::marker::PhantomData;

use lacuna_codegen::ir::Elem;
use lacuna_codegen::plan::{Expr, Requirement};

use crate::axis::{Axis, I32};
use crate::extent::{Extent, Piece};
use crate::grid::{GridAxis, KvHead, QueryHead, TileIndex};
use crate::input::{Blocks, Input, Tensor, symbol};
use crate::staging::current;
use crate::table::Index;
use crate::value::Scalar;
use crate::{Cx, cx, extent};

/// Block lists, i32, `[tokens, heads_q, top]`: for each token and query head the blocks of keys that it attends to, in any order.
/// An index that is no block of the document, -1 say, is none.
#[derive(Clone, Copy, Debug)]
pub struct Routed {
    tensor: Tensor,
}

crate::extents! {
    /// Blocks that are listed for a token and query head.
    pub Top = "top";
    /// KV heads that a launch is about.
    pub ListHeads = "list_heads";
}

impl Input for Routed {
    fn declare(cx: &Cx, name: &str) -> Self {
        let dims = [symbol("tokens"), symbol("heads_q"), symbol("top")];
        Routed { tensor: Tensor::declare(cx, name, Some(Elem::I32), &dims) }
    }
}

impl Routed {
    /// The blocks that are listed for tokens and query heads at places of their lists, as they stand there.
    #[track_caller]
    pub fn at<I: Index>(&self, token_head_place: I) -> I::Widest {
        self.tensor.at(token_head_place)
    }
}

/// A run of tokens and of KV heads, where a launch is about some of them alone: the numbers `span_token`, `span_tokens`,
/// `span_head` and `span_heads`, whatever the parameter is called. The first of each, and how many.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The first token.
    pub token: Scalar<I32>,
    /// How many tokens.
    pub tokens: Scalar<I32>,
    /// The first KV head.
    pub head: Scalar<I32>,
    /// How many KV heads.
    pub heads: Scalar<I32>,
}

impl Input for Span {
    fn declare(cx: &Cx, _: &str) -> Self {
        let mut state = cx.state.borrow_mut();
        let [token, tokens, head, heads] = Span::NAMES.map(|name| {
            let id = state.scalar(name, Elem::I32);
            state.give(id)
        });
        Span { token, tokens, head, heads }
    }
}

impl Span {
    /// The names of its numbers, in the order of its fields.
    pub const NAMES: [&str; 4] = ["span_token", "span_tokens", "span_head", "span_heads"];
}

/// What tokens choose: picks of each KV head, or a routing of each query head; of all tokens and heads, or of a [`Span`].
///
/// A KV head's *entry* is `token * n + j`: the `j`th of the `n` choices of a token of the span, counted from its first one. Of a
/// routing, `n` is `group * top`: a query head's choices stand behind those of the head before.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    of: Of,
    span: Option<Span>,
    /// Whether the first choice of each query head is none.
    without_first: bool,
}

#[derive(Clone, Copy, Debug)]
enum Of {
    Groups(Option<Blocks>),
    Heads(Option<Routed>, u32),
}

impl Choices {
    /// Picks, the same for all query heads of a KV head.
    pub fn of_groups(picks: impl Into<Option<Blocks>>, span: Option<Span>) -> Self {
        Choices { of: Of::Groups(picks.into()), span, without_first: false }
    }

    /// A routing with `top` choices for each query head. `None` where its entries are read alone.
    #[track_caller]
    pub fn of_heads(routing: impl Into<Option<Routed>>, top: u32, span: Option<Span>) -> Self {
        let routing = routing.into();
        if routing.is_some() {
            let what = format!("`top` must be {top}: so many blocks are listed for each token and query head");
            let requirement = Requirement { what, left: Expr::symbol(Top::NAME), right: u64::from(top).into() };
            current().borrow_mut().require(requirement);
        }
        Choices { of: Of::Heads(routing, top), span, without_first: false }
    }

    /// The choices without the first one of each query head, which is its own block, whatever stands there.
    #[must_use]
    pub fn without_first(self) -> Self {
        Choices { without_first: true, ..self }
    }

    /// The span.
    pub fn span(&self) -> Option<Span> {
        self.span
    }

    /// How many choices of a KV head each token has.
    #[track_caller]
    pub fn per_token(&self) -> Scalar<I32> {
        match self.of {
            Of::Groups(_) => extent::value::<crate::input::Listed>(),
            Of::Heads(_, top) => cx::constant::<Scalar<I32>, _>((top * group()) as i32),
        }
    }

    fn per_token_of_plan(&self) -> Expr {
        match self.of {
            Of::Groups(_) => Expr::symbol("blocks"),
            Of::Heads(_, top) => Expr::Const((top * group()).into()),
        }
    }

    /// How many tokens there are in the span.
    #[track_caller]
    pub fn tokens(&self) -> Scalar<I32> {
        match self.span {
            Some(span) => span.tokens,
            None => extent::value::<crate::grid::Tokens>(),
        }
    }

    /// A token of the span, counted through all.
    #[track_caller]
    pub fn token<T>(&self, token: T) -> T
    where
        T: std::ops::Add<Scalar<I32>, Output = T>,
    {
        match self.span {
            Some(span) => token + span.token,
            None => token,
        }
    }

    /// A KV head of the span, counted through all.
    #[track_caller]
    pub fn kv_head(&self, head: Scalar<I32>) -> KvHead {
        KvHead(match self.span {
            Some(span) => head + span.head,
            None => head,
        })
    }

    /// Ends the CTA where the span has no such KV head.
    #[track_caller]
    pub fn exit_past(&self, head: Scalar<I32>) {
        if let Some(span) = self.span {
            cx::exit_when(&current(), head.ge(span.heads));
        }
    }

    /// Every query head, as a dimension of the grid.
    pub fn query_heads(&self) -> ChoosingHeads {
        ChoosingHeads(self.span)
    }

    /// Every tile of `R` tokens that a document can have in the span, the last one first, as a dimension of the grid.
    /// [`Queries::tile_of`](crate::Queries::tile_of) ends the CTAs that are left over.
    #[track_caller]
    pub fn tiles<R: Axis>(&self) -> ChoosingTiles<R> {
        let extent = cx::extent::<R>() as u64;
        let longest = Expr::scalar("max_seqlen").ceil_div(extent);
        let tiles = match self.span {
            Some(_) => (Expr::scalar(Span::NAMES[1]).ceil_div(extent) + 1.into()).min(longest),
            None => longest,
        };
        let run = current();
        let mut state = run.borrow_mut();
        // The number that the grid is made of is the caller's to give.
        state.scalar("max_seqlen", Elem::I32);
        let count = state.computed("tiles", tiles.clone());
        ChoosingTiles { tiles, count: state.give(count), of: PhantomData }
    }

    /// The entries of a KV head, `A` of them at a time, as a dimension of the grid.
    #[track_caller]
    pub fn pieces<A: Axis>(&self) -> EntryPieces<A> {
        let tokens = match self.span {
            Some(_) => Expr::scalar(Span::NAMES[1]),
            None => Expr::symbol("tokens"),
        };
        let all = self.tokens() * self.per_token();
        let extent = cx::extent::<A>();
        EntryPieces { of_plan: tokens * self.per_token_of_plan(), all, extent, of: PhantomData }
    }

    /// As [`pieces`](Self::pieces), as many as the extent `X` counts where there is a span: those behind the span's last one are
    /// empty, their end at their first entry or before it.
    #[track_caller]
    pub fn pieces_along<A: Axis, X: Extent>(&self) -> EntryPieces<A> {
        let pieces = self.pieces();
        match self.span {
            Some(_) => EntryPieces { of_plan: Expr::symbol(X::NAME) * (pieces.extent as u64).into(), ..pieces },
            None => pieces,
        }
    }

    /// The blocks that tokens (counted through all) chose for a KV head at places of their choices; -1 where that is none.
    ///
    /// # Panics
    /// If there is no tensor to read them from.
    #[track_caller]
    pub fn at<A: Axis>(
        &self,
        token: crate::Vector<I32, A>,
        head: KvHead,
        place: crate::Vector<I32, A>,
    ) -> crate::Vector<I32, A> {
        match self.of {
            Of::Groups(picks) => picks.expect("picks to read").at((token, head.0, place)),
            Of::Heads(routing, top) => {
                let routing = routing.expect("a routing to read");
                let (group, top) = (group() as i32, top as i32);
                let (choice, place) = if group == 1 {
                    (routing.at((token, head.0, place)), place)
                } else {
                    let of_group = place / top;
                    let of_head = place - of_group * top;
                    (routing.at((token, of_group + head.0 * group, of_head)), of_head)
                };
                if self.without_first { place.gt(0).select(choice, -1) } else { choice }
            }
        }
    }

    /// Rows that an entry has: every query head of the KV head, or one.
    pub(crate) fn rows_an_entry(&self) -> u32 {
        match self.of {
            Of::Groups(_) => group(),
            Of::Heads(..) => 1,
        }
    }

    /// The choices of each query head, where each has its own.
    pub(crate) fn top(&self) -> Option<u32> {
        match self.of {
            Of::Groups(_) => None,
            Of::Heads(_, top) => Some(top),
        }
    }
}

/// Query heads of a KV head.
pub(crate) fn group() -> u32 {
    current().borrow().shape.group
}

/// The entries of a KV head, `A` of them at a time. [`Choices::pieces`] makes one.
#[derive(Clone, Debug)]
pub struct EntryPieces<A> {
    of_plan: Expr,
    all: Scalar<I32>,
    extent: i32,
    of: PhantomData<*const A>,
}

impl<A: Axis> GridAxis for EntryPieces<A> {
    type Index = Piece;

    fn extent(&self) -> Expr {
        self.of_plan.clone().ceil_div(self.extent as u64)
    }

    fn index(self, id: Scalar<I32>) -> Piece {
        Piece::new(id, self.extent, self.all)
    }
}

/// Every query head of the KV heads that a launch is about. [`Choices::query_heads`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct ChoosingHeads(Option<Span>);

impl GridAxis for ChoosingHeads {
    type Index = QueryHead;

    fn extent(&self) -> Expr {
        match self.0 {
            Some(_) => Expr::scalar(Span::NAMES[3]) * u64::from(group()).into(),
            None => Expr::symbol("heads_q"),
        }
    }

    fn index(self, id: Scalar<I32>) -> QueryHead {
        let group = group() as i32;
        let head = match self.0 {
            Some(span) => id + span.head * group,
            None => id,
        };
        QueryHead { head, kv: KvHead(if group == 1 { head } else { head / group }) }
    }
}

/// Every tile of `R` tokens of a document in a span. [`Choices::tiles`] makes one.
#[derive(Clone, Debug)]
pub struct ChoosingTiles<R> {
    tiles: Expr,
    count: Scalar<I32>,
    of: PhantomData<*const R>,
}

impl<R: Axis> GridAxis for ChoosingTiles<R> {
    type Index = TileIndex<R>;

    fn extent(&self) -> Expr {
        self.tiles.clone()
    }

    fn index(self, id: Scalar<I32>) -> TileIndex<R> {
        TileIndex::new(self.count - 1 - id)
    }
}
