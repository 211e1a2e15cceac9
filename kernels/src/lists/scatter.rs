use lacuna_dsl::choices::ListHeads;
use lacuna_dsl::prelude::*;

use super::choose::{Chosen, Seen, each_choice};
use super::{Chunk, Chunks, Entries, Lane, Slot, SlotEnds, Slots};

/// Puts each choice into its list: `list_entries[head, ..]`.
///
/// A warp sorts its chunk by slots in shared memory first, counting from where each slot begins among the chunk's choices, so
/// that neighbours in a list are stored together. Then the chunk's share of each list goes where it begins.
#[schedule(tune(Lane in [256, 128, 64], Chunk in [4096, 2048, 8192, 16384], Slot in [2048, 1024, 4096], warps in [1]))]
pub fn scatter_picks(
    cx: &Cx,
    #[optional] picks: Option<Blocks>,
    #[optional] routing: Option<Routed>,
    docs: Segments,
    list_counts: TableIn<I32, (ListHeads, Chunks, Slots)>,
    list_offsets: TableIn<I32, (ListHeads, Chunks, Slots)>,
    list_starts: TableIn<I32, (ListHeads, SlotEnds)>,
    list_entries: TableOut<I32, (ListHeads, Entries)>,
    #[optional] span: Option<Span>,
    #[fixed] chosen: Chosen,
) {
    let choices = chosen.choices(picks, routing, span);
    let grid = (choices.pieces::<Chunk>(), cx.each::<ListHeads>(), cx.pieces::<Slots, Slot>());
    let (chunk, head, slots) = cx.grid3(grid.0, grid.1, grid.2);
    choices.exit_past(head);
    let (places, sorted) = (cx.shared_table::<Slot>("places"), cx.shared_table::<Chunk>("sorted"));
    let (lane, lanes, size) = (cx.iota::<Lane>(), cx.extent::<Lane>() as i32, cx.extent::<Chunk>() as i32);
    let rounds = (slots.end - slots.first + (lanes - 1)) / lanes;
    let count = cx.var::<Scalar<I32>>("count", 0);
    for round in cx.range(0, rounds) {
        let at = lane + round * lanes;
        let picked = list_counts.at((head, chunk.number, (at + slots.first).min(slots.end - 1)));
        let before = at.lt(slots.end - slots.first).select(picked, 0).prefix_sum();
        places.set(at, before.before + count.get(), true);
        count.set(count.get() + before.total);
    }
    each_choice(cx, &chosen, &choices, docs, [chunk, slots], head, |Seen { entry, slot, there }| {
        let here = there & slot.ge(slots.first) & slot.lt(slots.end);
        let slot = slot - slots.first;
        sorted.set(places.count_up(slot, here), slot * size + (entry - chunk.first), here);
    });
    // Each slot's place has come to where the next slot began. From the last one down, it becomes the way from the place of a
    // pick here to its place in the list, if there is any.
    for round in cx.range(0, count.get().gt(0).select(rounds, 0)) {
        let at = lane + (rounds - 1 - round) * lanes;
        let slot = (at + slots.first).min(slots.end - 1);
        let begins = list_starts.at((head, slot)) + list_offsets.at((head, chunk.number, slot));
        places.set(at, begins - places.get(at - 1), true);
    }
    for round in cx.range(0, (count.get() + (lanes - 1)) / lanes) {
        let at = lane + round * lanes;
        let pick = sorted.get(at.min(count.get() - 1));
        let place = at + places.get(pick / size);
        list_entries.set_where((head, place), pick % size + chunk.first, at.lt(count.get()));
    }
}
