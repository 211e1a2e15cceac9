use lacuna_dsl::grid::KvHeads;
use lacuna_dsl::prelude::*;

use super::{Chunks, Lane, SlotEnds, Slots};

/// Chunks whose counts are fetched together: their sums wait for each other, and the fetches do not.
const TOGETHER: i32 = 16;

/// Sums over chunks: `list_offsets[head, chunk, slot]` is how often earlier chunks picked the slot, `list_lengths[head, slot]` how
/// often all did. Each thread has slots of its own, and goes through the chunks.
#[schedule(tune(Lane in [128, 256], warps in [4, 8]))]
pub fn sum_counts(
    cx: &Cx,
    list_counts: TableIn<I32, (KvHeads, Chunks, Slots)>,
    list_offsets: TableOut<I32, (KvHeads, Chunks, Slots)>,
    list_lengths: TableOut<I32, (KvHeads, Slots)>,
) {
    let (slots, head) = cx.grid2(cx.pieces::<Slots, Lane>(), cx.each::<KvHeads>());
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

/// Sums over slots: where lists begin, `list_starts[head, slot]`, and how many tiles of `tile` entries those before have,
/// `list_tiles[head, slot]`.
#[schedule(tune(Lane in [1024, 512], warps in [32, 16]))]
pub fn sum_lengths(
    cx: &Cx,
    list_lengths: TableIn<I32, (KvHeads, Slots)>,
    list_starts: TableOut<I32, (KvHeads, SlotEnds)>,
    list_tiles: TableOut<I32, (KvHeads, SlotEnds)>,
    #[fixed] tile: u32,
) {
    let head = cx.grid1(cx.each::<KvHeads>());
    let (slots, tile, lanes) = (cx.size::<Slots>(), tile as i32, cx.extent::<Lane>() as i32);
    let [entries, tiles] = ["entries", "tiles"].map(|name| cx.var::<Scalar<I32>>(name, 0));
    for round in cx.range(0, (slots + (lanes - 1)) / lanes) {
        let at = cx.iota::<Lane>() + round * lanes;
        let (slot, there) = (at.min(slots - 1), at.lt(slots));
        let length = there.select(list_lengths.at((head, slot)), 0);
        for (ends, sum, each) in [(list_starts, entries, length), (list_tiles, tiles, (length + (tile - 1)) / tile)] {
            let before = each.prefix_sum();
            ends.set_where((head, slot), before.before + sum.get(), there);
            sum.set(sum.get() + before.total);
        }
    }
    list_starts.set((head, slots), entries.get());
    list_tiles.set((head, slots), tiles.get());
}
