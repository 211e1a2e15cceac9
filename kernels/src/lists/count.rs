use lacuna_dsl::grid::KvHeads;
use lacuna_dsl::prelude::*;

use super::picks::{Picked, each_pick};
use super::{Chunk, Chunks, Lane, Slot, Slots};

/// How often each slot is picked in each chunk of picks: `list_counts[head, chunk, slot]`.
///
/// A warp has a chunk of the picks of one KV head and a table of counts in shared memory. The lanes whose picks are alike find
/// each other, so that each count is changed once for all of them, and in order.
#[schedule(tune(Lane in [256, 128, 64], Chunk in [4096, 2048, 8192], Slot in [2048, 1024, 4096], warps in [1]))]
pub fn count_picks(cx: &Cx, picks: Blocks, docs: Segments, list_counts: TableOut<I32, (KvHeads, Chunks, Slots)>) {
    let (chunk, head, slots) = cx.grid3(picks.pieces::<Chunk>(), picks.heads(), cx.pieces::<Slots, Slot>());
    let (table, lane) = (cx.shared_table::<Slot>("counts"), cx.iota::<Lane>());
    let lanes = cx.extent::<Lane>() as i32;
    let rounds = (slots.end - slots.first + (lanes - 1)) / lanes;
    for round in cx.range(0, rounds) {
        table.set(lane + round * lanes, 0, true);
    }
    each_pick(cx, picks, docs, chunk, head, |Picked { slot, there, .. }| {
        let _ = table.count_up(slot - slots.first, there);
    });
    for round in cx.range(0, rounds) {
        let at = lane + round * lanes;
        let slot = at + slots.first;
        list_counts.set_where((head.0, chunk.number, slot), table.get(at), slot.lt(slots.end));
    }
}
