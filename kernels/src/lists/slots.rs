use lacuna_dsl::prelude::*;

use super::{Lane, Slots};

/// For each slot its document, `slot_documents[slot]`, and its first key, counted through all keys, `slot_keys[slot]`. A slot
/// that is no block, behind the last one of a document, counts as that document's.
#[schedule(tune(Lane in [128, 256], warps in [4]))]
pub fn number_slots(
    cx: &Cx,
    docs: Segments,
    slot_keys: TableOut<I32, Slots>,
    slot_documents: TableOut<I32, Slots>,
    #[fixed] block: u32,
) {
    let d = cx.grid1(docs.count());
    let (block, lanes) = (block as i32, cx.extent::<Lane>() as i32);
    let document = docs.at(d);
    let first = document.first_key() / block + d.0;
    let behind = document.first_key() + document.keys();
    // The last document has all that is left.
    let end = docs.is_last(d).select(cx.size::<Slots>(), behind / block + d.0 + 1);
    for round in cx.range(0, (end - first + (lanes - 1)) / lanes) {
        let number = cx.iota::<Lane>() + round * lanes;
        let (slot, there) = (number + first, number.lt(end - first));
        slot_keys.set_where(slot, (number * block).min(document.keys()) + document.first_key(), there);
        slot_documents.set_where(slot, d.0, there);
    }
}
