use lacuna_dsl::choices::ListHeads;
use lacuna_dsl::prelude::*;

use super::choose::{Chosen, Seen, each_choice};
use super::{Chunk, Chunks, Lane, Slot, Slots};

/// How often each slot is chosen in each chunk of choices: `list_counts[head, chunk, slot]`.
///
/// A CTA has a chunk of the choices of one KV head and a table of counts in shared memory, to which all of its warps add: of counts,
/// the order does not matter.
#[schedule(tune(Lane in [256, 128, 512], Chunk in [4096, 2048, 8192, 16384], Slot in [2048, 1024, 4096], warps in [4, 2, 1]))]
pub fn count_picks(
    cx: &Cx,
    #[optional] picks: Option<Blocks>,
    #[optional] routing: Option<Routed>,
    docs: Segments,
    list_counts: TableOut<I32, (ListHeads, Chunks, Slots)>,
    #[optional] span: Option<Span>,
    #[fixed] chosen: Chosen,
) {
    let choices = chosen.choices(picks, routing, span);
    // All chunks that there can be: what a span before has counted is of no use.
    let grid = (choices.pieces_along::<Chunk, Chunks>(), cx.each::<ListHeads>(), cx.pieces::<Slots, Slot>());
    let (chunk, head, slots) = cx.grid3(grid.0, grid.1, grid.2);
    choices.exit_past(head);
    let (table, lane) = (cx.shared_table::<Slot>("counts"), cx.iota::<Lane>());
    let lanes = cx.extent::<Lane>() as i32;
    let rounds = (slots.end - slots.first + (lanes - 1)) / lanes;
    for round in cx.range(0, rounds) {
        table.set(lane + round * lanes, 0, true);
    }
    each_choice(cx, &chosen, &choices, docs, [chunk, slots], head, |Seen { slot, there, .. }| {
        table.add(slot - slots.first, 1, there);
    });
    for round in cx.range(0, rounds) {
        let at = lane + round * lanes;
        let slot = at + slots.first;
        list_counts.set_where((head, chunk.number, slot), table.get(at), slot.lt(slots.end));
    }
}
