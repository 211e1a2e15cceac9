use lacuna_dsl::choices::{ListHeads, Top};
use lacuna_dsl::grid::{QueryHeads, Tokens};
use lacuna_dsl::prelude::*;

use super::Blocking;

/// What the rows that chose a block of keys see of it: Mixture of Block Attention (arXiv 2502.13189, section 2.2), block by block.
///
/// One CTA has a tile of the rows, (token, query head), that chose one block for its KV head, and goes through the block's keys
/// like dense attention does: however large the block is, each key is fetched once for all rows of the tile. Rows are gathered.
/// Of complete blocks in the past nothing is masked. What a row sees is one part of its output.
///
/// Where choices are joined, `members` says which of the neighbouring blocks of a tile each row chose. CTAs that persist gather ahead.
///
/// A row and a block of `B` keys cost `2 B (Dk + Dv)` multiplications and additions, and a row of Q and one of parts: `2 Dk + 2 Dv + 4`
/// bytes. On an H200 that is bound by bytes up to 256 keys, and by tensor cores beyond.
#[schedule(tune(
    warps in [4, 8], Rows in [128, 64], Kv in [64, 32, 16], stages in [2, 3, 1],
    sm_90a(Kv in [128, 64, 32], Rows in [128, 64, 192], stages in [3, 2, 1], overlap in [2, 3, 1], turns in [2, 1], persist in [1, 2, 3]),
))]
pub fn chosen_blocks(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    lists: Lists,
    docs: Segments,
    #[optional] members: Option<TableIn<I32, (Tokens, QueryHeads, Top)>>,
    #[optional] span: Option<Span>,
    #[fixed] blocks: Blocking,
) -> PartLse<Dv> {
    let choices = Choices::of_heads(None, blocks.top, span);
    let (i, h) = cx.grid2(lists.work::<Rows>(&choices), cx.each::<ListHeads>());
    choices.exit_past(h);
    let listed = lists.tile(i, h, &choices, &docs);
    let (rows, h) = (q.gather(&listed), listed.kv_head);
    let softmax = OnlineSoftmax::new(cx, &rows);
    let members = members.map(|members| listed.of_choice(cx, "members", &members));
    let (mask, row_sees) = (blocks.mask(), cx.var::<Vector<F32, Rows>>("row_sees", f32::INFINITY));
    for member in 0..blocks.joined {
        if let Some(members) = members {
            let is = (members.get() / (1 << member) % 2).eq_(1);
            row_sees.set(is.select(f32::INFINITY, f32::NEG_INFINITY));
        }
        let complete = mask.is_none() && blocks.joined == 1;
        for b in cx.pipelined(listed.pieces::<Kv>(member * blocks.block, blocks.block, complete), stages) {
            let s = cx.dot(rows.q, k.block(b, h));
            let s = match (&mask, members) {
                (Some(mask), _) => mask.keep(s, &rows, b),
                (None, Some(_)) => s.min(row_sees.get()),
                (None, None) => s,
            };
            softmax.step(s, v.block(b, h));
        }
    }
    let part = if blocks.wide { softmax.finish_wide() } else { softmax.finish() };
    part.parts_from(&listed, blocks.own() as i32)
}
