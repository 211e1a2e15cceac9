use lacuna_dsl::grid::QueryHeads;
use lacuna_dsl::prelude::*;

use super::{Blocking, own_block};
use crate::patterns::block_diagonal;

/// Each token's own block, up to the token itself, and the merge with what [`chosen_blocks`](super::chosen_blocks()) saw of the
/// others.
///
/// One CTA has a tile of tokens and one query head: dense attention over the keys from the first row's block on, then one part
/// after the other, so that of the own block no part is ever stored. A head that `full_heads` says attends to every key before
/// it begins at the first key instead, and has no parts.
#[schedule(tune(
    warps in [8, 4], Rows in [128, 64], Kv in [64, 32], stages in [2, 3, 1], ahead in [3, 2, 4, 1],
    sm_90a(Kv in [128, 64], Rows in [128, 64], stages in [2, 3, 1], ahead in [2, 3, 4, 1], overlap in [2, 3, 1], turns in [2, 1]),
))]
pub fn own_and_parts(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    docs: Segments,
    #[optional] parts: Option<Parts<Dv>>,
    #[optional] wide_parts: Option<Parts<Dv, F32>>,
    #[optional] routing: Option<Routed>,
    #[optional] full_heads: Option<TableIn<I32, QueryHeads>>,
    #[optional] span: Option<Span>,
    #[fixed] blocks: Blocking,
) -> OutLse<Dv> {
    let choices = Choices::of_heads(routing, blocks.top, span);
    let (i, h, d) = cx.grid3(choices.tiles::<Rows>(), choices.query_heads(), docs.count());
    let rows = q.tile_of(docs.at(d), i, h, &choices);
    // A head that attends fully has seen what a routing lists for it.
    let chooses = full_heads.map(|full| full.at(h.head).eq_(0));
    let there = |routing: Routed| {
        let rows = &rows;
        move |part| match chooses {
            Some(chooses) => blocks.has_part(&routing, rows, h, part) & chooses,
            None => blocks.has_part(&routing, rows, h, part),
        }
    };
    // What the first round needs is fetched before the own block's products.
    let (mut narrow, mut wide) = (None, None);
    if let Some(routing) = routing {
        let count = blocks.parts();
        narrow = parts.map(|parts| parts.of_rows(&rows, h, &choices, count, there(routing)).ahead(cx));
        wide = wide_parts.map(|parts| parts.of_rows(&rows, h, &choices, count, there(routing)).ahead(cx));
    }
    let whole = if blocks.fused {
        let mut mask = if blocks.causal { own_block(blocks.block) } else { block_diagonal(blocks.block) };
        if let Some(full) = full_heads {
            // One block, as long as positions go.
            mask = mask.with_made("block", full.at(h.head).ne_(0).select(1 << 30, blocks.block as i32));
        }
        let softmax = OnlineSoftmax::new(cx, &rows);
        for b in cx.pipelined(mask.visits::<Kv>(&rows), stages) {
            let s = cx.dot(rows.q, k.block(b, h));
            softmax.step(mask.keep(s, &rows, b), v.block(b, h));
        }
        softmax.merging(cx)
    } else {
        LseMerge::new(cx)
    };
    if let Some(parts) = narrow {
        for part in cx.pipelined(parts, ahead) {
            whole.add(part);
        }
    }
    if let Some(parts) = wide {
        for part in cx.pipelined(parts, ahead) {
            whole.add(part);
        }
    }
    rows.whole(whole.finish())
}
