use lacuna_dsl::grid::KvHeads;
use lacuna_dsl::prelude::*;

use super::picks::{Picked, each_pick};
use super::{Chunk, Chunks, Entries, Lane, Slot, SlotEnds, Slots};

/// Puts each pick into its list: `list_entries[head, ..]`.
///
/// A warp sorts its chunk by slots in shared memory first, counting from where each slot begins among the chunk's picks, so
/// that neighbours in a list are stored together. Then the chunk's share of each list goes where it begins.
#[schedule(tune(Lane in [256, 128, 64], Chunk in [4096, 2048, 8192], Slot in [2048, 1024, 4096], warps in [1]))]
pub fn scatter_picks(
    cx: &Cx,
    picks: Blocks,
    docs: Segments,
    list_counts: TableIn<I32, (KvHeads, Chunks, Slots)>,
    list_offsets: TableIn<I32, (KvHeads, Chunks, Slots)>,
    list_starts: TableIn<I32, (KvHeads, SlotEnds)>,
    list_entries: TableOut<I32, (KvHeads, Entries)>,
) {
    let (chunk, head, slots) = cx.grid3(picks.pieces::<Chunk>(), picks.heads(), cx.pieces::<Slots, Slot>());
    let (places, sorted) = (cx.shared_table::<Slot>("places"), cx.shared_table::<Chunk>("sorted"));
    let (lane, lanes, size) = (cx.iota::<Lane>(), cx.extent::<Lane>() as i32, cx.extent::<Chunk>() as i32);
    let rounds = (slots.end - slots.first + (lanes - 1)) / lanes;
    let count = cx.var::<Scalar<I32>>("count", 0);
    for round in cx.range(0, rounds) {
        let at = lane + round * lanes;
        let picked = list_counts.at((head.0, chunk.number, (at + slots.first).min(slots.end - 1)));
        let before = at.lt(slots.end - slots.first).select(picked, 0).prefix_sum();
        places.set(at, before.before + count.get(), true);
        count.set(count.get() + before.total);
    }
    each_pick(cx, picks, docs, chunk, head, |Picked { entry, slot, there }| {
        let here = there & slot.ge(slots.first) & slot.lt(slots.end);
        let slot = slot - slots.first;
        sorted.set(places.count_up(slot, here), slot * size + (entry - chunk.first), here);
    });
    // Each slot's place has come to where the next slot began. From the last one down, it becomes the way from the place of a
    // pick here to its place in the list.
    for round in cx.range(0, rounds) {
        let at = lane + (rounds - 1 - round) * lanes;
        let slot = (at + slots.first).min(slots.end - 1);
        let begins = list_starts.at((head.0, slot)) + list_offsets.at((head.0, chunk.number, slot));
        places.set(at, begins - places.get(at - 1), true);
    }
    for round in cx.range(0, (count.get() + (lanes - 1)) / lanes) {
        let at = lane + round * lanes;
        let pick = sorted.get(at.min(count.get() - 1));
        let place = at + places.get(pick / size);
        list_entries.set_where((head.0, place), pick % size + chunk.first, at.lt(count.get()));
    }
}
