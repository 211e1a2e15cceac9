use lacuna_dsl::prelude::*;

use crate::patterns::causal;

/// Selected attention of Native Sparse Attention (arXiv 2502.11089, section 3.4 and equation 5, the selected branch): each
/// token attends to the blocks that were picked for it and its KV head.
///
/// One CTA has one token and all query heads of one KV head, so that each block of keys is fetched once for the whole group.
/// Tokens are the grid's fastest dimension: CTAs that run together read the same KV head. The causal mask bites only in the
/// block that holds the token; a pick that is no block of the document, -1 say, counts for nothing, and a token without
/// picks gets zeros and an LSE of -inf, or of its sink.
#[schedule(tune(stages in [2, 3, 4, 1], warps in [4, 2, 1]))]
pub fn group_centric(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    picks: Blocks,
    docs: Segments,
    #[optional] score: Option<&Score>,
    #[optional] sinks: Option<Sinks>,
) -> OutLse<Dv> {
    let (t, h) = cx.grid2(q.tokens(), k.heads());
    let rows = q.group::<Group>(docs.locate(t), h);
    let softmax = OnlineSoftmax::under(cx, &rows, score).with_sinks(sinks);
    let mask = causal();
    for b in cx.pipelined(picks.of::<Kv>(&rows), stages) {
        let s = softmax.logits(cx.dot(rows.q, k.block(b, h)), b);
        softmax.step(mask.keep(s, &rows, b), v.block(b, h));
    }
    softmax.finish()
}
