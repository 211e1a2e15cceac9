use lacuna_dsl::grid::KvHeads;
use lacuna_dsl::prelude::*;

use super::{Chunks, Lane, SlotEnds, Slots};

/// Chunks whose counts are fetched together: their sums wait for each other, and the fetches do not.
const TOGETHER: i32 = 8;

/// Sums of the counts: `list_offsets[head, chunk, slot]` is how often earlier chunks picked the slot; `list_starts` and
/// `list_tiles` are sums over slots, of entries and of tiles of `tile` entries.
///
/// One CTA has a KV head: each thread keeps sums of its own slots over the chunks, and all together sum up over slots.
#[schedule(tune(Lane in [2048, 1024], warps in [32, 16]))]
pub fn list_offsets(
    cx: &Cx,
    list_counts: TableIn<I32, (KvHeads, Chunks, Slots)>,
    list_offsets: TableOut<I32, (KvHeads, Chunks, Slots)>,
    list_starts: TableOut<I32, (KvHeads, SlotEnds)>,
    list_tiles: TableOut<I32, (KvHeads, SlotEnds)>,
    #[fixed] tile: u32,
) {
    let head = cx.grid1(cx.each::<KvHeads>());
    let (slots, chunks) = (cx.size::<Slots>(), cx.size::<Chunks>());
    let (tile, lanes) = (tile as i32, cx.extent::<Lane>() as i32);
    let [entries, tiles] = ["entries", "tiles"].map(|name| cx.var::<Scalar<I32>>(name, 0));
    for round in cx.range(0, (slots + (lanes - 1)) / lanes) {
        let at = cx.iota::<Lane>() + round * lanes;
        let (slot, there) = (at.min(slots - 1), at.lt(slots));
        let len = cx.var::<Vector<I32, Lane>>("len", 0);
        for some in cx.range(0, (chunks + (TOGETHER - 1)) / TOGETHER) {
            let chunk: Vec<_> = (0..TOGETHER).map(|i| some * TOGETHER + i).collect();
            let counts: Vec<_> = chunk.iter().map(|&c| list_counts.at((head, c.min(chunks - 1), slot))).collect();
            for (&c, count) in chunk.iter().zip(counts) {
                let counts = there & c.lt(chunks);
                list_offsets.set_where((head, c, slot), len.get(), counts);
                len.set(len.get() + counts.select(count, 0));
            }
        }
        for (ends, sum, each) in
            [(list_starts, entries, len.get()), (list_tiles, tiles, (len.get() + (tile - 1)) / tile)]
        {
            let before = each.prefix_sum();
            ends.set_where((head, slot), before.before + sum.get(), there);
            sum.set(sum.get() + before.total);
        }
    }
    list_starts.set((head, slots), entries.get());
    list_tiles.set((head, slots), tiles.get());
}
