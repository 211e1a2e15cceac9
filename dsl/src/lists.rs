//! Choices turned around: for each block of keys the tokens that chose it.
//!
//! A *slot* is a block of a document: block `b` of document `d`, whose first key is `k`, has slot `k / B + d + b`, which no other
//! block has. Its *list* has the [entries](Choices) that chose it, in ascending order. A list is worked through in tiles: a piece
//! of *work* is a tile of some list.

use std::marker::PhantomData;

use lacuna_codegen::ir::Elem;
use lacuna_codegen::plan::{Dim, Expr};

use crate::Cx;
use crate::axis::{Axis, I32};
use crate::choices::{Choices, Top, group};
use crate::cx;
use crate::flow::{BlockList, Var};
use crate::grid::{GridAxis, KvHead, QueryHeads, SegmentIndex, Tokens};
use crate::input::{Block, Document, Index, Input, Segments, Tensor, symbol};
use crate::staging::current;
use crate::table::TableIn;
use crate::value::{Handle, Scalar, Vector};

/// Numbers of a piece of work: its first entry's place in `list_entries`, how many entries it has, the first key of its block,
/// counted through all keys, and its document.
pub const WORK_FIELDS: u32 = 4;

/// For each KV head the lists of its blocks, cut into pieces of work: the tensors `list_work`, i32 `[list_heads, work, 4]`, each
/// row as [`WORK_FIELDS`] says, no entries where there is no work left; and `list_entries`, i32 `[list_heads, entries]`.
/// Whatever the parameter is called.
#[derive(Clone, Copy, Debug)]
pub struct Lists {
    work: Tensor,
    entries: Tensor,
}

impl Input for Lists {
    fn declare(cx: &Cx, _: &str) -> Self {
        let work = [symbol("list_heads"), symbol("work"), ("work_fields", Dim::Fixed(WORK_FIELDS.into()))];
        let entries = [symbol("list_heads"), symbol("entries")];
        Lists {
            work: Tensor::declare(cx, "list_work", Some(Elem::I32), &work),
            entries: Tensor::declare(cx, "list_entries", Some(Elem::I32), &entries),
        }
    }
}

/// `x / by`, without a division by one.
#[track_caller]
pub(crate) fn over<R: Axis>(x: Vector<I32, R>, by: i32) -> Vector<I32, R> {
    if by == 1 { x } else { x / by }
}

impl Lists {
    /// Entries that a tile of `R` rows has: as many as have room with all their rows.
    #[track_caller]
    pub fn entries_a_tile<R: Axis>(choices: &Choices) -> u32 {
        let (rows, each) = (cx::extent::<R>() as u32, choices.rows_an_entry());
        if rows < each {
            let label = format!("a tile has {rows} rows; as many as a group has, or more, are right");
            current().borrow_mut().builder.fail(format!("a group has {each} query heads"), label);
        }
        (rows / each).max(1)
    }

    /// Every piece of work of a KV head, as a dimension of the grid. How many there are is known to the device alone:
    /// [`Lists::tile`] ends the CTAs that are left over.
    #[track_caller]
    pub fn work<R: Axis>(&self, choices: &Choices) -> Works<R> {
        Self::entries_a_tile::<R>(choices);
        Works(PhantomData)
    }

    /// A piece of work: which block it is about, and which rows it has. Ends the CTA where there is none. `head` counts from the
    /// choices' first one.
    #[track_caller]
    pub fn tile<R: Axis>(
        &self,
        work: WorkTile<R>,
        head: Scalar<I32>,
        choices: &Choices,
        docs: &Segments,
    ) -> Pickers<R> {
        let field = |i: i32| {
            let field = cx::constant::<Scalar<I32>, _>(i);
            self.work.elements::<Scalar<I32>>(&[head.into(), work.0.into(), field.into()])
        };
        let [first, entries, key, number] = [0, 1, 2, 3].map(field);
        cx::exit_when(&current(), entries.eq_(0));
        let document = docs.at(SegmentIndex(number));
        let kv_head = choices.kv_head(head);

        let n = choices.per_token();
        let each = choices.rows_an_entry() as i32;
        let position_at = |at: Scalar<I32>| {
            let entry = self.entries.elements::<Scalar<I32>>(&[head.into(), at.into()]);
            document.position(choices.token(entry / n) - document.start)
        };
        let ends = (position_at(first), position_at(first + (entries - 1)));
        // Rows past the last one stay in the list.
        let row = cx::iota::<R>();
        let at = over(row, each).min(entries - 1) + first;
        let entry: Vector<I32, R> = self.entries.elements(&[head.into(), at.into()]);
        let (of_span, place) = (entry / n, entry % n);
        let (query_head, pick): (Index, _) = match (choices.top(), group() as i32) {
            (None, 1) => (kv_head.0.into(), place),
            (None, group) => ((row % group + kv_head.0 * group).into(), place),
            (Some(_), 1) => (kv_head.0.into(), place),
            (Some(top), group) => ((place / top as i32 + kv_head.0 * group).into(), place % top as i32),
        };
        let part_head = match (choices.span(), query_head) {
            (Some(span), Index::One(_)) => (kv_head.0 - span.head).into(),
            (Some(_), Index::Each(_)) => match choices.top() {
                None => (row % group() as i32 + head * group() as i32).into(),
                Some(top) => (place / top as i32 + head * group() as i32).into(),
            },
            (None, all) => all,
        };
        Pickers {
            key,
            document,
            kv_head,
            token: choices.token(of_span),
            part_token: of_span,
            pick,
            head: query_head,
            part_head,
            count: if each == 1 { entries } else { entries * each },
            ends,
        }
    }
}

/// Every piece of work of a KV head, in tiles of `R` rows.
#[derive(Clone, Copy, Debug)]
pub struct Works<R>(PhantomData<*const R>);

/// A piece of work of some KV head.
#[derive(Clone, Copy, Debug)]
pub struct WorkTile<R>(Scalar<I32>, PhantomData<*const R>);

impl<R: Axis> GridAxis for Works<R> {
    type Index = WorkTile<R>;

    fn extent(&self) -> Expr {
        Expr::symbol("work")
    }

    fn index(self, id: Scalar<I32>) -> WorkTile<R> {
        WorkTile(id, PhantomData)
    }
}

/// The query rows of some entries of a list: those that chose a block.
pub struct Pickers<R> {
    /// The first key of the block, counted through all.
    key: Scalar<I32>,
    /// Its document.
    pub document: Document,
    /// The KV head.
    pub kv_head: KvHead,
    /// The token of each row, through all and in the span.
    pub(crate) token: Vector<I32, R>,
    pub(crate) part_token: Vector<I32, R>,
    /// Which of its choices the block is.
    pub(crate) pick: Vector<I32, R>,
    /// The query head of each row, through all and in the span.
    pub(crate) head: Index,
    pub(crate) part_head: Index,
    /// How many rows there are.
    pub(crate) count: Scalar<I32>,
    /// The first and the last position.
    pub(crate) ends: (Scalar<I32>, Scalar<I32>),
}

impl<R> Clone for Pickers<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Pickers<R> {}

impl<R> std::fmt::Debug for Pickers<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pickers").finish_non_exhaustive()
    }
}

impl<R: Axis> Pickers<R> {
    /// What a table has for each row's token, query head and choice, as a named value that is fetched once.
    #[track_caller]
    pub fn of_choice(
        &self,
        cx: &Cx,
        name: &str,
        table: &TableIn<I32, (Tokens, QueryHeads, Top)>,
    ) -> Var<Vector<I32, R>> {
        let fetched = cx.var::<Vector<I32, R>>(name, 0);
        fetched.set(match self.head {
            Index::One(head) => table.at((self.token, head, self.pick)),
            Index::Each(raw) => table.at((self.token, Vector::<I32, R>::from_raw(raw), self.pick)),
        });
        fetched
    }
}

impl<R> Pickers<R> {
    /// The block, where it is one of `K` keys.
    #[track_caller]
    pub fn block<K: Axis>(&self) -> Block<K> {
        Block::new(self.key - self.document.first_key(), self.document)
    }

    /// Some `keys` of the block's keys, from the `first` one on, `K` of them at a time: a [`BlockList`]. A document's last block may
    /// have fewer, and masks see to that; where all keys are `complete`ly there, no copy asks for the document's end.
    #[track_caller]
    pub fn pieces<K: Axis>(&self, first: u32, keys: u32, complete: bool) -> Chosen<K> {
        Chosen::new(self, first, keys, complete)
    }
}

/// The keys of a block that was chosen, `K` of them at a time.
#[derive(Debug)]
pub struct Chosen<K> {
    key: Scalar<I32>,
    document: Document,
    pieces: Scalar<I32>,
    width: i32,
    complete: bool,
    of: PhantomData<*const K>,
}

impl<K: Axis> Chosen<K> {
    #[track_caller]
    fn new<R>(listed: &Pickers<R>, first: u32, keys: u32, complete: bool) -> Self {
        let width = cx::extent::<K>();
        let key = if first == 0 { listed.key } else { listed.key + first as i32 };
        if keys == 0 || !keys.is_multiple_of(width as u32) {
            let label = format!("pieces of {width} keys do not make them up");
            current().borrow_mut().builder.fail(format!("blocks have {keys} keys"), label);
        }
        let pieces = cx::constant::<Scalar<I32>, _>((keys / width as u32) as i32);
        let pieces = if complete {
            pieces
        } else {
            let left = listed.document.keys() - (key - listed.document.first_key());
            ((left + (width - 1)) / width).min(pieces).max(0)
        };
        Chosen { key, document: listed.document, pieces, width, complete, of: PhantomData }
    }
}

impl<K: Axis> BlockList for Chosen<K> {
    type Block = Block<K>;

    fn bounds(&self) -> (Scalar<I32>, Scalar<I32>) {
        (cx::constant::<Scalar<I32>, _>(0), self.pieces)
    }

    fn at(&self, index: Scalar<I32>) -> Block<K> {
        let key = self.key + index * self.width;
        let block = Block::new(key - self.document.first_key(), self.document);
        if self.complete { block.complete(key, self.width) } else { block }
    }
}
