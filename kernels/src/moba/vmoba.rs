use lacuna_dsl::pooled::{Candidates, PooledTile};
use lacuna_dsl::prelude::*;

use super::route::{choose, passes};

/// VMoBA's gate (arXiv 2506.23858, its selection by threshold): not causal, and a row takes as many blocks as its
/// scores want. The row of each token and query head has its own block first, then of all others of the document, also
/// those behind it, the best in descending score until those taken have `threshold` of the softmax over the scores of
/// all others, times the kernel's parameter `scale`; `top - 1` at most, and -1 behind them. Each row chooses for
/// itself; the paper's other variant, one ranking for all rows of a head, is not this.
///
/// As [`moba_route`](super::moba_route()) otherwise. The mass is found in the first pass, beside its best.
#[schedule(tune(
    Rows in [64, 128], Kv in [64, 128], stages in [2, 3], warps in [4, 8],
    sm_90a(Rows in [192, 128, 64], Kv in [128, 64], stages in [2, 3], persist in [2, 1, 3]),
))]
pub fn vmoba_route(
    cx: &Cx,
    q: Queries<Dk>,
    pooled: PooledKeys<Dk>,
    docs: Segments,
    routing: Routing,
    #[fixed] block: u32,
    #[fixed] top: u32,
    #[fixed] threshold: f32,
) {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let others = Candidates::others(&rows, block);
    routing.set(&rows, 0, others.own());
    let wanted = routing.others(top);
    if wanted > 0 {
        let mass = Mass::<Rows>::new(cx);
        let taken = cx.var::<Vector<F32, Rows>>("taken", 0.0);
        let scores = |tile: PooledTile<Kv>| {
            let s = others.keep(cx.dot(rows.q, pooled.tile(tile, h)), tile);
            cx.when(tile.pass.eq_(0), || mass.take(s));
            s
        };
        choose(cx, others.passes(passes(wanted)), wanted, stages, scores, |best, place| {
            let whole = mass.settle();
            (0..best.count()).for_each(|n| {
                let column = taken.get().lt(threshold).select(best.column(n), -1);
                routing.set(&rows, place + n as i32, column);
                taken.set(taken.get() + whole.share(best.score(n)));
            });
        });
    }
}
