use lacuna_dsl::choices::ListHeads;
use lacuna_dsl::prelude::*;

use super::{Chunks, Lane, SlotEnds, Slots};

/// Chunks whose counts are fetched together: their sums wait for each other, and the fetches do not.
const TOGETHER: i32 = 16;

/// Sums over chunks: `list_offsets[head, chunk, slot]` is how often earlier chunks picked the slot, `list_lengths[head, slot]` how
/// often all did. Each thread has slots of its own, and goes through the chunks.
#[schedule(tune(Lane in [128, 256], warps in [4, 8]))]
pub fn sum_counts(
    cx: &Cx,
    list_counts: TableIn<I32, (ListHeads, Chunks, Slots)>,
    list_offsets: TableOut<I32, (ListHeads, Chunks, Slots)>,
    list_lengths: TableOut<I32, (ListHeads, Slots)>,
) {
    let (slots, head) = cx.grid2(cx.pieces::<Slots, Lane>(), cx.each::<ListHeads>());
    let chunks = cx.size::<Chunks>();
    let at = cx.iota::<Lane>() + slots.first;
    let (slot, there) = (at.min(slots.end - 1), at.lt(slots.end));
    let length = cx.var::<Vector<I32, Lane>>("length", 0);
    for some in cx.range(0, (chunks + (TOGETHER - 1)) / TOGETHER) {
        let chunk: Vec<_> = (0..TOGETHER).map(|i| some * TOGETHER + i).collect();
        let counts: Vec<_> = chunk.iter().map(|&c| list_counts.at((head, c.min(chunks - 1), slot))).collect();
        for (&c, count) in chunk.iter().zip(counts) {
            let counts = there & c.lt(chunks);
            list_offsets.set_where((head, c, slot), length.get(), counts);
            length.set(length.get() + counts.select(count, 0));
        }
    }
    list_lengths.set_where((head, slot), length.get(), there);
}

/// Sums over slots: where lists begin, `list_starts[head, slot]`, how many whole tiles of `tile` entries those before have,
/// `list_whole[head, slot]`, and how many of them have a last tile that is none, `list_rest[head, slot]`.
#[schedule(tune(Lane in [1024, 512], warps in [32, 16]))]
pub fn sum_lengths(
    cx: &Cx,
    list_lengths: TableIn<I32, (ListHeads, Slots)>,
    list_starts: TableOut<I32, (ListHeads, SlotEnds)>,
    list_whole: TableOut<I32, (ListHeads, SlotEnds)>,
    list_rest: TableOut<I32, (ListHeads, SlotEnds)>,
    #[fixed] tile: u32,
) {
    let head = cx.grid1(cx.each::<ListHeads>());
    let (slots, tile, lanes) = (cx.size::<Slots>(), tile as i32, cx.extent::<Lane>() as i32);
    let [entries, whole, rest] = ["entries", "whole", "rest"].map(|name| cx.var::<Scalar<I32>>(name, 0));
    for round in cx.range(0, (slots + (lanes - 1)) / lanes) {
        let at = cx.iota::<Lane>() + round * lanes;
        let (slot, there) = (at.min(slots - 1), at.lt(slots));
        let length = there.select(list_lengths.at((head, slot)), 0);
        let tiles = length / tile;
        let left = (length - tiles * tile).min(1);
        for (ends, sum, each) in [(list_starts, entries, length), (list_whole, whole, tiles), (list_rest, rest, left)] {
            let before = each.prefix_sum();
            ends.set_where((head, slot), before.before + sum.get(), there);
            sum.set(sum.get() + before.total);
        }
    }
    list_starts.set((head, slots), entries.get());
    list_whole.set((head, slots), whole.get());
    list_rest.set((head, slots), rest.get());
}
