//! Lists of blocks for tiles of queries: block-sparse rows.

use std::marker::PhantomData;

use lacuna_codegen::ir::Elem;
use lacuna_codegen::plan::{Expr, Requirement};

use crate::axis::{Axis, I32};
use crate::flow::BlockList;
use crate::grid::QueryHead;
use crate::input::{Block, Document, Input, QueryRows, Segments, Tensor, symbol};
use crate::staging::current;
use crate::value::Scalar;
use crate::{Cx, cx};

/// How large the blocks of a list are, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileSize {
    /// Queries of a tile that has a list.
    pub rows: u32,
    /// Keys of a block that is listed.
    pub keys: u32,
}

/// Block lists of tiles of queries, as block-sparse rows have them: for each document, query head and tile the blocks of
/// keys to visit, in any order. Two tensors: the lists under the parameter's name, i32 `[documents, heads_q, query_blocks, n]`,
/// and `NAME_counts`, i32 `[documents, heads_q, query_blocks]`, how many entries of each list count. An entry that is no
/// block of the document's keys, -1 say, is skipped; one that stands twice counts twice. Lists that are the same for all heads are
/// bound with a stride of 0.
#[derive(Clone, Copy, Debug)]
pub struct TileBlocks {
    lists: Tensor,
    counts: Tensor,
}

impl Input for TileBlocks {
    fn declare(cx: &Cx, name: &str) -> Self {
        let dims = [symbol("documents"), symbol("heads_q"), symbol("query_blocks"), symbol("blocks")];
        let lists = Tensor::declare(cx, name, Some(Elem::I32), &dims);
        let counts = Tensor::declare(cx, &format!("{name}_counts"), Some(Elem::I32), &dims[..3]);
        TileBlocks { lists, counts }
    }
}

impl TileBlocks {
    /// The blocks that are listed for a tile of queries and its head, cut into blocks of `K` keys.
    #[track_caller]
    pub fn of<K: Axis>(
        &self,
        rows: &QueryRows<impl Axis, impl Axis>,
        head: QueryHead,
        size: TileSize,
    ) -> ListedBlocks<K> {
        let (width, (tile, first)) = (cx::extent::<K>(), rows.tiled());
        let (row, most) = {
            let run = current();
            let mut state = run.borrow_mut();
            state.uneven = true;
            if size.rows == 0 || !size.rows.is_multiple_of(tile) {
                let label = format!("tiles of {tile} queries do not make them up");
                state.builder.fail(format!("lists are of {} queries", size.rows), label);
            }
            if size.keys == 0 || !size.keys.is_multiple_of(width as u32) {
                let label = format!("blocks of {width} keys do not make them up");
                state.builder.fail(format!("listed blocks have {} keys", size.keys), label);
            }
            let longest = Expr::scalar("max_seqlen").ceil_div(u64::from(size.rows.max(1)));
            let tiles = format!("`query_blocks` must be `max_seqlen` in tiles of {} queries", size.rows);
            state.require(Requirement { what: tiles, left: Expr::symbol("query_blocks"), right: longest });
            let what = "`documents` must be as many as `cu_seqlens` has".to_owned();
            state.require(Requirement { what, left: Expr::symbol("documents"), right: Segments::count_of_plan() });
            let most = state.computed("blocks", Expr::symbol("blocks"));
            (size.rows as i32, state.give::<Scalar<I32>>(most))
        };
        let tile = first / row;
        let document = rows.document;
        let count = self.counts.element(&[document.number, head.head, tile]).min(most);
        let keys = size.keys as i32;
        let steps = (keys / width).max(1);
        let rounds = if steps == 1 { count } else { count * steps };
        let blocks = (document.keys() + (keys - 1)) / keys;
        ListedBlocks { lists: self.lists, head, tile, rounds, blocks, document, keys, width, steps, of: PhantomData }
    }
}

/// The blocks that are listed for one tile of queries.
#[derive(Debug)]
pub struct ListedBlocks<K> {
    lists: Tensor,
    head: QueryHead,
    tile: Scalar<I32>,
    rounds: Scalar<I32>,
    /// How many blocks the document has.
    blocks: Scalar<I32>,
    document: Document,
    /// Keys of a listed block, and of one of its parts.
    keys: i32,
    width: i32,
    /// How many parts it has.
    steps: i32,
    of: PhantomData<*const K>,
}

impl<K: Axis> BlockList for ListedBlocks<K> {
    type Block = Block<K>;

    fn bounds(&self) -> (Scalar<I32>, Scalar<I32>) {
        (cx::constant::<Scalar<I32>, _>(0), self.rounds)
    }

    fn at(&self, index: Scalar<I32>) -> Block<K> {
        let entry = if self.steps == 1 { index } else { index / self.steps };
        let block = self.lists.element(&[self.document.number, self.head.head, self.tile, entry]);
        // Compared as an index: times the block size, a wild one could come out as a position of the document.
        let exists = block.ge(0) & block.lt(self.blocks);
        let mut first = block * self.keys;
        if self.steps > 1 {
            first = first + (index - entry * self.steps) * self.width;
        }
        // The last parts of the last block may lie behind the document's end.
        Block::new(exists.select(first.min(self.document.keys()), self.document.keys()), self.document)
    }
}
