use lacuna_dsl::prelude::*;

/// Attention of a tile of queries over the blocks of keys that a list has for it: block-sparse rows, as in the block masks of
/// FlexAttention, arXiv 2412.05496. A listed block counts whole, but for what `mask` hides: with `full()` the keys behind the
/// document's end alone, with `causal()` the future as well.
///
/// One CTA has one tile of `Rows` tokens of one document and one query head. Lists may be of larger tiles, and of larger
/// blocks: those are walked in blocks of `Kv` keys. A tile without blocks gets zeros and an LSE of -inf.
#[schedule(tune(
    Rows in [128, 64], Kv in [64, 32], stages in [2, 3], warps in [4, 8],
    sm_90a(Kv in [128, 64], Rows in [128, 64], stages in [3, 2], overlap in [2, 3, 1], turns in [2, 1], persist in [1, 2, 3]),
))]
pub fn block_sparse(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    lists: TileBlocks,
    docs: Segments,
    #[fixed] size: &TileSize,
    #[fixed] mask: &Mask,
) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>().longest_first(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let softmax = OnlineSoftmax::new(cx, &rows);
    for b in cx.pipelined(lists.of::<Kv>(&rows, h, *size), stages) {
        let s = cx.dot(rows.q, k.block(b, h));
        softmax.step(mask.keep(s, &rows, b), v.block(b, h));
    }
    softmax.finish()
}
