use lacuna_dsl::prelude::*;

/// The least and largest of what each table of a mask holds over each block of keys: what the classifier knows of a block.
#[schedule(tune(Kv in [64, 32], warps in [1]))]
pub fn table_bounds(cx: &Cx, docs: Segments, #[fixed] mask: &Mask) {
    let (i, d) = cx.grid2(docs.blocks::<Kv>(), docs.count());
    mask.bound(cx, docs.at(d), i);
}
