use lacuna_dsl::prelude::*;

/// Attention of a tile of queries over every block of keys that its mask lets it see: FlashAttention-2, arXiv 2307.08691,
/// algorithm 1, for any mask and for documents of unequal lengths.
///
/// One CTA has one tile of `Rows` tokens of one document and one query head; packed, `Rows` rows of all heads of a group.
///
/// Blocks that the mask empties are not visited, and those it leaves whole are not masked. The last block of a document
/// reaches past its end, and is masked there. A score changes each logit before the mask, by the positions of its query and
/// its key and by its head: `score_mod` of FlexAttention, arXiv 2412.05496. Blocks of 32 keys leave it its registers.
#[schedule(tune(
    warps in [4, 8], Rows in [128, 64], Kv in [64, 32], stages in [2, 3, 1], sm_90a(Kv in [128, 112, 80, 64],
    Rows in [192, 128], stages in [3, 2], overlap in [3, 2, 1], turns in [2, 1], pack in [1, 2], persist in [1, 2, 3]),
))]
pub fn query_major(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    docs: Segments,
    #[fixed] mask: &Mask,
    #[optional] score: Option<&Score>,
    #[optional] sinks: Option<Sinks>,
) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>().longest_first(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let softmax = OnlineSoftmax::under(cx, &rows, score).with_sinks(sinks);
    for b in cx.pipelined(mask.visits::<Kv>(&rows), stages) {
        let s = softmax.logits(cx.dot(rows.q, k.block(b, h)), b);
        softmax.step(mask.keep(s, &rows, b), v.block(b, h));
    }
    softmax.finish()
}
