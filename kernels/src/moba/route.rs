use lacuna_dsl::grid::QueryHeads;
use lacuna_dsl::pooled::{Candidates, Passes, PooledTile};
use lacuna_dsl::prelude::*;

/// MoBA's gate (arXiv 2502.13189, equations 3 to 6) and what it selects, as one: the row of each token and query head
/// has its own block first, then the `top - 1` best of the complete blocks before it in descending score, and -1 where
/// there are fewer. A block's score is the product of the query with its pooled key, f32, unscaled; of equal scores the
/// lower block comes first.
///
/// One CTA has `Rows` tokens of one document and one query head, and goes through the pooled keys from the last row's
/// own block down in tiles of `Kv`. Scores never leave registers. Of more than 12 the next are found by another pass,
/// which takes what comes after the last of the one before. A head that attends fully has -1 throughout, and looks at
/// one tile of zeros. CTAs that persist have the next tile's queries and first pooled keys come beside this one's selection.
///
/// S tokens a document, blocks of B: 2 · Dk · S² / 2B FLOPs a head and pass. L2: pooled keys once a tile of rows, S² /
/// 2B · 2 Dk / Rows bytes a head. HBM: Q and the routing once. 2 x 128k tokens, 16 heads of 128, B 128: 0.55 TFLOP, 0.8
/// ms of warpgroups, 1.2 of warps (16 rows each); 2.1e9 pairs of row and candidate, of which each costs its bit.
#[schedule(tune(
    Rows in [64, 128], Kv in [64, 128], stages in [2, 3], warps in [4, 8],
    sm_90a(Rows in [192, 128, 64], Kv in [128, 64], stages in [2, 3], persist in [2, 1, 3]),
))]
pub fn moba_route(
    cx: &Cx,
    q: Queries<Dk>,
    pooled: PooledKeys<Dk>,
    docs: Segments,
    routing: Routing,
    #[optional] full_heads: Option<TableIn<I32, QueryHeads>>,
    #[fixed] block: u32,
    #[fixed] top: u32,
) {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>().longest_first(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let mut past = Candidates::past(&rows, block);
    if let Some(full) = full_heads {
        past = past.unless(full.at(h.head).ne_(0));
    }
    routing.set(&rows, 0, past.own());
    let scores = |tile| past.keep(cx.dot(rows.q, pooled.tile(tile, h)), tile);
    let wanted = routing.others(top);
    if wanted > 0 {
        choose(cx, past.passes(passes(wanted)), wanted, stages, scores, |best, place| {
            (0..best.count()).for_each(|n| routing.set(&rows, place + n as i32, best.column(n)));
        });
    }
}

/// How often the candidates are gone through to find so many.
pub(super) fn passes(wanted: u32) -> u32 {
    wanted.div_ceil(AT_ONCE)
}

/// Finds the `wanted` best candidates of each row by their scores, those that are none at -inf. Hands over the best of
/// each pass, and the place of the first of them in a row that has its own block first.
pub(super) fn choose(
    cx: &Cx,
    tiles: Passes<Kv>,
    wanted: u32,
    stages: u32,
    scores: impl Fn(PooledTile<Kv>) -> Tile<F32, Rows, Kv>,
    found: impl Fn(TopK<Rows>, Scalar<I32>),
) {
    let passes = passes(wanted);
    let best = cx.top_k::<Rows>("best", wanted.div_ceil(passes));
    let (score, column) = (cx.var("score", f32::INFINITY), cx.var("column", -1));
    for tile in cx.pipelined(tiles, stages) {
        match passes {
            1 => best.take(scores(tile), tile.first),
            _ => best.take_after(scores(tile), tile.first, (score.get(), column.get())),
        }
        cx.when(tile.last, || {
            best.settle();
            found(best, tile.pass * best.count() as i32 + 1);
            if passes > 1 {
                score.set(best.score(best.count() - 1));
                column.set(best.column(best.count() - 1));
            }
            best.clear();
        });
    }
}

/// Blocks that are found in one pass over the pooled keys: a lane has two registers for each and row.
const AT_ONCE: u32 = 12;
