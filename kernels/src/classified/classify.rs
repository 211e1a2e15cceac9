use lacuna_dsl::classes::{KeyBlocks, TileSlots};
use lacuna_dsl::prelude::*;

axes! {
    /// Blocks that are classed at a time.
    Lane;
}

/// The classes of the blocks of keys for each tile of queries, by intervals. A block in which no pair counts is left out; those
/// that need their mask are listed from the begin of the tile's row on, those of which every pair counts from its end
/// backwards, both in ascending order.
///
/// One CTA has one tile of `Rows` tokens of one document. A thread has a block at a time; where each goes is a prefix sum.
#[schedule(tune(Rows in [128, 64], Kv in [64, 32], Lane in [128], warps in [4]))]
pub fn classify(
    cx: &Cx,
    visits: TableOut<I32, (TileSlots, KeyBlocks)>,
    partial_counts: TableOut<I32, TileSlots>,
    full_counts: TableOut<I32, TileSlots>,
    docs: Segments,
    #[fixed] mask: &Mask,
) {
    let (i, d) = cx.grid2(docs.tiles::<Rows>(), docs.count());
    let tile = mask.classify::<Rows>(cx, docs.at(d), i);
    let (partial, full) = (cx.var::<Scalar<I32>>("partial", 0), cx.var::<Scalar<I32>>("full", 0));
    let (lanes, last) = (cx.extent::<Lane>() as i32, cx.size::<KeyBlocks>() - 1);
    for round in cx.range(0, tile.rounds::<Kv, Lane>()) {
        let blocks = cx.iota::<Lane>() + round * lanes;
        let class = tile.class::<Kv, Lane>(blocks);
        let from_begin = class.partial.prefix_sum();
        visits.set_where((tile.slot, from_begin.before + partial.get()), blocks, class.partial);
        partial.set(partial.get() + from_begin.total);
        let from_end = class.full.prefix_sum();
        visits.set_where((tile.slot, -(from_end.before + full.get()) + last), blocks, class.full);
        full.set(full.get() + from_end.total);
    }
    partial_counts.set(tile.slot, partial.get());
    full_counts.set(tile.slot, full.get());
}
