use lacuna_dsl::choices::ListHeads;
use lacuna_dsl::prelude::*;

use super::{Lane, SlotEnds, Slots, WorkFields, Works};

/// Halvings that find one of any number of slots.
const HALVINGS: i32 = 31;

/// The pieces of work of each KV head: `list_work[head, piece, ..]`, as [`InverseLists`](super::InverseLists) has it. Whole tiles
/// come first, list by list, so that those that run at one time share their keys; then the last tiles of lists that are not
/// whole. Each thread finds the list of one piece.
#[schedule(tune(Lane in [128, 256], warps in [4, 8]))]
pub fn list_work(
    cx: &Cx,
    list_starts: TableIn<I32, (ListHeads, SlotEnds)>,
    list_whole: TableIn<I32, (ListHeads, SlotEnds)>,
    list_rest: TableIn<I32, (ListHeads, SlotEnds)>,
    slot_keys: TableIn<I32, Slots>,
    slot_documents: TableIn<I32, Slots>,
    list_work: TableOut<I32, (ListHeads, Works, WorkFields)>,
    #[fixed] tile: u32,
) {
    let (pieces, head) = cx.grid2(cx.pieces::<Works, Lane>(), cx.each::<ListHeads>());
    let (slots, tile) = (cx.size::<Slots>(), tile as i32);
    let (whole, rest) = (list_whole.at((head, slots)), list_rest.at((head, slots)));
    let piece = cx.iota::<Lane>() + pieces.first;
    let (written, is_whole) = (piece.lt(pieces.end), piece.lt(whole));
    let there = piece.lt(whole + rest);
    let number = is_whole.select(piece, piece - whole);
    // The last slot before which there are at most as many tiles as the piece's number: between `low` and `high`.
    let low = cx.var::<Vector<I32, Lane>>("low", 0);
    let high = cx.var::<Vector<I32, Lane>>("high", 0);
    high.set(low.get() + slots);
    for _ in cx.range(0, HALVINGS) {
        cx.when((high.get() - low.get()).gt(1).any(), || {
            let middle = (low.get() + high.get()) / 2;
            let tiles = is_whole.select(list_whole.at((head, middle)), list_rest.at((head, middle)));
            let down = tiles.gt(number);
            high.set(down.select(middle, high.get()));
            low.set(down.select(low.get(), middle));
        });
    }
    let slot = low.get();
    let (start, end) = (list_starts.at((head, slot)), list_starts.at((head, slot + 1)));
    let left = (end - start) % tile;
    let first = is_whole.select(start + (number - list_whole.at((head, slot))) * tile, end - left);
    let entries = there.select(is_whole.select(tile, left), 0);
    for (field, value) in [first, entries, slot_keys.at(slot), slot_documents.at(slot)].into_iter().enumerate() {
        list_work.set_where((head, piece, cx.scalar(field as i32)), value, written);
    }
}
