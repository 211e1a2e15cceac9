//! The classifier of blocks: which blocks of keys a tile of queries visits, where a pattern's own bounds do not say it.
//!
//! Launches before the attention's find it: the least and largest of what tables hold for each block of keys, then, for each
//! tile of queries, a class for every block of its document, by intervals: blocks in which no pair counts are left out,
//! those in which every pair counts are kept apart from those that need their mask. The attention walks what is left.
//!
//! Tiles and blocks of all documents are numbered through: block `b` of document `d` is `start / width + d + b`, which no
//! other block is, and there are `ceil(tokens / width) + documents` numbers at most; blocks by the document's keys, tiles by
//! its queries. So lists of ragged documents take no more memory than they need.

use std::marker::PhantomData;

use lacuna_codegen::Temporary;
use lacuna_codegen::ir::{Elem, ParamId};
use lacuna_codegen::pattern::Read;
use lacuna_codegen::plan::{Access, Dim, Expr};

use crate::axis::{Axis, Bool, I32};
use crate::flow::{BlockList, Var};
use crate::grid::TileIndex;
use crate::input::{Block, Document, Input, QueryRows, Segments};
use crate::mask::Mask;
use crate::staging::{State, current};
use crate::table::TableIn;
use crate::value::{Scalar, Vector};
use crate::{Cx, Shape, cx, extent};

crate::extents! {
    /// Tiles of queries of all documents, numbered through.
    pub TileSlots = "tile_slots";
    /// Blocks of keys of all documents, numbered through.
    pub BlockSlots = "block_slots";
    /// Blocks of keys of the longest document.
    pub KeyBlocks = "key_blocks";
}

/// What lies between the launches of a classified attention of a shape, in tiles of `rows` queries and blocks of `keys` keys.
pub fn temporaries(mask: &Mask, shape: &Shape, rows: u32, keys: u32) -> Vec<Temporary> {
    let slots = |tokens: &str, width: u32| Expr::symbol(tokens).ceil_div(u64::from(width)) + Segments::count_of_plan();
    let tiles = slots("tokens", rows);
    let blocks = Expr::scalar(shape.longest_keys()).ceil_div(u64::from(keys));
    let mut all = vec![
        Temporary::new("visits", Elem::I32, [tiles.clone(), blocks]),
        Temporary::new("partial_counts", Elem::I32, [tiles.clone()]),
        Temporary::new("full_counts", Elem::I32, [tiles]),
    ];
    for name in mask.bounded() {
        let ends = [least(&name), largest(&name)];
        all.extend(ends.map(|name| Temporary::new(name, Elem::I32, [slots(shape.key_tokens(), keys)])));
    }
    all
}

fn least(table: &str) -> String {
    format!("{table}_least")
}

fn largest(table: &str) -> String {
    format!("{table}_largest")
}

/// The number of a document's first tile among those of all documents.
#[track_caller]
fn first_tile(document: Document, width: i32) -> Scalar<I32> {
    document.start / width + document.number
}

/// The number of a document's first block of keys among those of all documents.
#[track_caller]
fn first_block(document: Document, width: i32) -> Scalar<I32> {
    document.first_key() / width + document.number
}

#[track_caller]
fn bounds_tensor(state: &mut State, name: &str, access: Access) -> ParamId {
    let dims = [("block_slots", Dim::Symbol("block_slots".to_owned()))];
    state.known(name, Elem::I32, &dims).unwrap_or_else(|| state.tensor(name, Elem::I32, &dims, access))
}

impl Mask {
    /// The tables that the pattern reads at the key's position, by name.
    pub fn bounded(&self) -> Vec<String> {
        let mut tables: Vec<usize> = self.pattern().reads().iter().filter(|read| read.key).map(|r| r.table).collect();
        tables.dedup();
        tables.into_iter().map(|table| self.pattern().tables[table].clone()).collect()
    }

    /// The elements of a table for the positions of a vector, each at most the document's last. There is a key.
    #[track_caller]
    fn elements_of<A: Axis>(&self, table: usize, document: Document, positions: Vector<I32, A>) -> Vector<I32, A> {
        let tokens = positions.min(document.keys() - 1) + document.first_key();
        let run = current();
        let mut state = run.borrow_mut();
        let table = self.declare(&mut state)[table];
        let at = state.take(tokens);
        let id = state.builder.element(table, &[at]);
        state.give(id)
    }

    /// Stores the least and largest of what each table holds over a block of keys, for those that the pattern reads at keys:
    /// as `NAME_least` and `NAME_largest`, i32 `[block_slots]`. Ends the CTA where the document has no such block.
    #[track_caller]
    pub fn bound<K: Axis>(&self, cx: &Cx, document: Document, block: TileIndex<K>) {
        let width = cx::extent::<K>();
        let first = block.tile * width;
        cx.exit_when(first.ge(document.keys()));
        let at = first_block(document, width) + block.tile;
        for name in self.bounded() {
            let table = self.pattern().tables.iter().position(|table| *table == name).expect("a table of its own");
            let elements = self.elements_of(table, document, cx::iota::<K>() + first);
            for (name, value) in [(least(&name), elements.least()), (largest(&name), elements.greatest())] {
                let mut state = cx.state.borrow_mut();
                let tensor = bounds_tensor(&mut state, &name, Access::Write);
                let (at, value, keep) = (state.take(at), state.take(value), state.builder.truth(true));
                state.builder.set_element(tensor, &[at], value, keep);
            }
        }
    }

    /// A tile of queries whose blocks are to be classed. Ends the CTA where the document has no such tile, or no keys.
    #[track_caller]
    pub fn classify<R: Axis>(&self, cx: &Cx, document: Document, tile: TileIndex<R>) -> Classifier {
        let extent = cx::extent::<R>();
        let first = tile.tile * extent;
        cx.exit_when(first.ge(document.len));
        let last = (first + (extent - 1)).min(document.len - 1);
        let queries = (document.position(first), document.position(last));
        if document.is_apart() {
            cx.exit_when(document.keys().le(0));
        }
        let over = |read: &Read| {
            let mut positions = cx::iota::<R>() + queries.0;
            if document.is_apart() {
                positions = positions.max(0);
            }
            let elements = self.elements_of(read.table, document, positions);
            (*read, (elements.least(), elements.greatest()))
        };
        let ends = self.pattern().reads().iter().filter(|read| !read.key).map(over).collect();
        Classifier { mask: self.clone(), document, slot: first_tile(document, extent) + tile.tile, queries, ends }
    }
}

/// A tile of queries, for the classes of its blocks. [`Mask::classify`] makes one.
#[derive(Debug)]
pub struct Classifier {
    mask: Mask,
    document: Document,
    /// The tile's number among those of all documents.
    pub slot: Scalar<I32>,
    /// The first and the last position, which may be below 0.
    queries: (Scalar<I32>, Scalar<I32>),
    /// The least and largest of what tables hold for the tile's queries.
    ends: Vec<(Read, LeastAndLargest)>,
}

/// The least and the largest of what a table holds for some positions.
type LeastAndLargest = (Scalar<I32>, Scalar<I32>);

/// The classes of some blocks of keys. Blocks that are in neither are left out.
#[derive(Debug)]
pub struct Classed<L: Axis> {
    /// Those that need their mask.
    pub partial: Vector<Bool, L>,
    /// Those of which every pair counts.
    pub full: Vector<Bool, L>,
}

impl Classifier {
    /// How many rounds of `L` blocks there are; none where all queries are before every key, and see nothing.
    #[track_caller]
    pub fn rounds<K: Axis, L: Axis>(&self) -> Scalar<I32> {
        let all = cx::extent::<K>() * cx::extent::<L>();
        let rounds = (self.document.keys() + (all - 1)) / all;
        if self.mask.may_be_before(&self.document) { self.queries.1.ge(0).select(rounds, 0) } else { rounds }
    }

    /// The classes of blocks of `K` keys, by their numbers in the document. A number past the last block is in neither class.
    #[track_caller]
    pub fn class<K: Axis, L: Axis>(&self, blocks: Vector<I32, L>) -> Classed<L> {
        let (width, len) = (cx::extent::<K>(), self.document.keys());
        let count = (len + (width - 1)) / width;
        let inside = blocks.lt(count);
        let block = blocks.min(count - 1);
        let first = block * width;
        let end = first + (width - 1);
        let last = end.min(len - 1);
        let at = block + first_block(self.document, width);
        let queries = self.mask.ends(&self.document, self.queries);
        let (some, every): (Vector<Bool, L>, Vector<Bool, L>) = {
            let run = current();
            let mut state = run.borrow_mut();
            let args = self.mask.values(&mut state);
            let at = state.take(at);
            let mut elements = Vec::new();
            for read in self.mask.pattern().reads() {
                elements.push(match self.ends.iter().find(|(known, _)| *known == read) {
                    Some(&(_, (least, largest))) => (state.take(least), state.take(largest)),
                    None => {
                        let name = &self.mask.pattern().tables[read.table];
                        let [least, largest] = [least(name), largest(name)].map(|name| {
                            let tensor = bounds_tensor(&mut state, &name, Access::Read);
                            state.builder.element(tensor, &[at])
                        });
                        (least, largest)
                    }
                });
            }
            let q = (state.take(queries.0), state.take(queries.1));
            let kv = (state.take(first), state.take(last));
            let pattern = self.mask.pattern();
            let (some, every) = pattern.emit_class(&mut state.builder, q, kv, &args, &elements);
            (state.give(some), state.give(every))
        };
        // The mask also hides what lies behind the document's end, and everything from rows that are before every key.
        let mut full = inside & every & end.lt(len);
        if self.mask.may_be_before(&self.document) {
            full = full & self.queries.0.ge(0);
        }
        Classed { partial: inside & (some | every) & !full, full }
    }
}

/// What the classifier found: `visits`, i32 `[tile_slots, key_blocks]`, has the blocks of each tile that need their mask from
/// its begin on, and those that do not from its end backwards; `partial_counts` and `full_counts`, i32 `[tile_slots]`, how
/// many they are.
#[derive(Clone, Copy, Debug)]
pub struct Classes {
    visits: TableIn<I32, (TileSlots, KeyBlocks)>,
    partial: TableIn<I32, TileSlots>,
    full: TableIn<I32, TileSlots>,
}

impl Input for Classes {
    fn declare(cx: &Cx, _: &str) -> Self {
        Classes {
            visits: Input::declare(cx, "visits"),
            partial: Input::declare(cx, "partial_counts"),
            full: Input::declare(cx, "full_counts"),
        }
    }
}

impl Classes {
    /// The blocks of `K` keys that a tile of query rows visits, in the classes that were found for them.
    #[track_caller]
    pub fn of<K: Axis>(&self, rows: &QueryRows<impl Axis, impl Axis>) -> Visited<K> {
        let (extent, first) = rows.tiled();
        current().borrow_mut().uneven = true;
        let extent = extent as i32;
        let slot = first_tile(rows.document, extent) + first / extent;
        let (partial, rounds) = if rows.document.is_apart() {
            // Without keys no tile was classed, and there are no counts to read.
            let [partial, rounds] = ["partial", "rounds"].map(|name| Var::<Scalar<I32>>::new(name, 0));
            let region = cx::open_branch(&current(), rows.document.keys().gt(0));
            partial.set(self.partial.at(slot));
            rounds.set(partial.get() + self.full.at(slot));
            current().borrow_mut().leave(region);
            (partial.get(), rounds.get())
        } else {
            let partial = self.partial.at(slot);
            (partial, partial + self.full.at(slot))
        };
        let last = extent::value::<KeyBlocks>() - 1;
        let of = PhantomData;
        Visited { visits: self.visits, slot, partial, rounds, last, document: rows.document, of }
    }
}

/// The blocks that a tile of queries visits.
#[derive(Debug)]
pub struct Visited<K> {
    visits: TableIn<I32, (TileSlots, KeyBlocks)>,
    slot: Scalar<I32>,
    partial: Scalar<I32>,
    rounds: Scalar<I32>,
    last: Scalar<I32>,
    document: Document,
    of: PhantomData<*const K>,
}

impl<K: Axis> BlockList for Visited<K> {
    type Block = Block<K>;

    fn bounds(&self) -> (Scalar<I32>, Scalar<I32>) {
        (cx::constant::<Scalar<I32>, _>(0), self.rounds)
    }

    fn at(&self, index: Scalar<I32>) -> Block<K> {
        let partial = index.lt(self.partial);
        let place = partial.select(index, self.last - (index - self.partial));
        let block = self.visits.at((self.slot, place));
        Block::new(block * cx::extent::<K>(), self.document).whole(!partial)
    }
}
