use lacuna_dsl::prelude::*;

/// [`query_major`](super::query_major()) under a score: what happens to each logit before the mask, by the positions of its
/// query and its key and by its head. FlexAttention, arXiv 2412.05496, calls it `score_mod`.
/// Blocks of 32 keys leave the score its registers at heads of 128.
#[schedule(tune(Rows in [128, 64], Kv in [32, 64], stages in [2, 3], warps in [4, 8]))]
pub fn query_major_scored(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    docs: Segments,
    #[fixed] score: &Score,
    #[fixed] mask: &Mask,
) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>().longest_first(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let score = score.at(h);
    let softmax = OnlineSoftmax::of_logits(cx, &rows);
    for b in cx.pipelined(mask.visits::<Kv>(&rows), stages) {
        let s = score.logits(cx.dot(rows.q, k.block(b, h)), &rows, b);
        softmax.step(mask.keep(s, &rows, b), v.block(b, h));
    }
    softmax.finish()
}
