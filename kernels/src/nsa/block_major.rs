use lacuna_dsl::choices::ListHeads;
use lacuna_dsl::prelude::*;

use crate::patterns::causal;

/// The selected branch of Native Sparse Attention (arXiv 2502.11089, section 3.4), block by block: each block of keys is fetched
/// once for the many tokens that picked it, not once a token. What FlashMoBA (arXiv 2511.11571, section 4.2) and Flash Sparse
/// Attention (arXiv 2508.18224, section 3) do for small groups, where [`group_centric`](super::group_centric()) would fetch a
/// block for a handful of rows.
///
/// One CTA has one block and a tile of the rows that picked it: all heads of its KV head's group, for as many tokens as have
/// room. Queries are gathered; what a row sees of the block is one part of its output, which [`merge`](super::merge())
/// combines with the others. Heads are the grid's slowest dimension: what is gathered of one head stays in L2. The causal mask
/// bites where a row stands in the block; lists are ascending, so a tile's first row says whether one does. CTAs of warpgroups
/// do tile after tile: a CTA has one product of each kind, and the next one's rows come beside.
#[schedule(tune(
    Rows in [64, 128, 256], warps in [4, 8],
    sm_90a(Rows in [128, 64], persist in [3, 2, 1]),
))]
pub fn block_major(cx: &Cx, q: Queries<Dk>, k: Keys<Dk>, v: Values<Dv>, lists: Lists, docs: Segments) -> PartLse<Dv> {
    let choices = Choices::of_groups(None, None);
    let (i, h) = cx.grid2(lists.work::<Rows>(&choices), cx.each::<ListHeads>());
    let listed = lists.tile(i, h, &choices, &docs);
    let rows = q.gather(&listed);
    let softmax = OnlineSoftmax::new(cx, &rows);
    let (block, h) = (listed.block::<Kv>(), listed.kv_head);
    let s = cx.dot(rows.q, k.block(block, h));
    softmax.step(causal().keep(s, &rows, block), v.block(block, h));
    softmax.finish().parts(&listed)
}
