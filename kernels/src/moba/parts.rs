use lacuna_dsl::choices::ListHeads;
use lacuna_dsl::prelude::*;

use super::Blocking;

/// What the rows that chose a block of keys see of it: Mixture of Block Attention (arXiv 2502.13189, section 2.2), block by block.
///
/// One CTA has a tile of the rows, (token, query head), that chose one block for its KV head, and goes through the block's keys
/// like dense attention does: however large the block is, each key is fetched once for all rows of the tile. Rows are gathered.
/// Of complete blocks in the past nothing is masked. What a row sees is one part of its output.
///
/// A row and a block of `B` keys cost `2 B (Dk + Dv)` multiplications and additions, and a row of Q and one of parts: `2 Dk + 2 Dv + 4`
/// bytes. On an H200 that is bound by bytes up to 256 keys, and by tensor cores beyond.
#[schedule(tune(warps in [4, 8], Rows in [128, 64], Kv in [64, 32, 16], stages in [2, 3, 1]))]
pub fn chosen_blocks(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    lists: Lists,
    docs: Segments,
    #[optional] span: Option<Span>,
    #[fixed] blocks: Blocking,
) -> PartLse<Dv> {
    let choices = Choices::of_heads(None, blocks.top, span);
    let (i, h) = cx.grid2(lists.work::<Rows>(&choices), cx.each::<ListHeads>());
    choices.exit_past(h);
    let listed = lists.tile(i, h, &choices, &docs);
    let (rows, h) = (q.gather(&listed), listed.kv_head);
    let softmax = OnlineSoftmax::new(cx, &rows);
    let mask = blocks.mask();
    for b in cx.pipelined(listed.pieces::<Kv>(blocks.block, mask.is_none()), stages) {
        let s = cx.dot(rows.q, k.block(b, h));
        let s = match &mask {
            Some(mask) => mask.keep(s, &rows, b),
            None => s,
        };
        softmax.step(s, v.block(b, h));
    }
    softmax.finish().parts_from(&listed, blocks.own() as i32)
}
