use lacuna_dsl::grid::{KvHeads, Tokens};
use lacuna_dsl::prelude::*;

use super::picks::{Picked, each_pick};
use super::{Chunk, Chunks, Entries, Lane, Slot, SlotEnds, Slots};

/// Puts each pick into its list: `list_entries[head, ..]`.
///
/// A warp counts as [`count_picks`](super::count_picks()) does, from where its chunk's share of each list begins: what the count
/// of a slot stands at is the pick's place.
#[schedule(tune(Lane in [128, 64, 256], Chunk in [512, 256, 1024], Slot in [2048, 1024, 4096], warps in [1]))]
pub fn scatter_picks(
    cx: &Cx,
    picks: Blocks,
    docs: Segments,
    list_offsets: TableIn<I32, (KvHeads, Chunks, Slots)>,
    list_starts: TableIn<I32, (KvHeads, SlotEnds)>,
    list_entries: TableOut<I32, (KvHeads, Entries)>,
) {
    let (chunk, head, slots) = cx.grid3(cx.pieces::<Tokens, Chunk>(), picks.heads(), cx.pieces::<Slots, Slot>());
    let (table, lane) = (cx.shared_table::<Slot>("places"), cx.iota::<Lane>());
    let lanes = cx.extent::<Lane>() as i32;
    for round in cx.range(0, (slots.end - slots.first + (lanes - 1)) / lanes) {
        let at = lane + round * lanes;
        let slot = (at + slots.first).min(slots.end - 1);
        table.set(at, list_starts.at((head.0, slot)) + list_offsets.at((head.0, chunk.number, slot)), true);
    }
    each_pick(cx, picks, docs, chunk, head, |Picked { entry, slot, there }| {
        let here = there & slot.ge(slots.first) & slot.lt(slots.end);
        list_entries.set_where((head.0, table.count_up(slot - slots.first, here)), entry, here);
    });
}
