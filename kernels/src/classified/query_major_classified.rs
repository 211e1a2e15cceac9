use lacuna_dsl::classes::Classes;
use lacuna_dsl::prelude::*;

/// [`query_major`](crate::dense::query_major()) over the blocks that [`classify`](super::classify()) has found: those that need
/// their mask first, then those that do not. One loop goes through both, so that no copies run dry between them.
#[schedule(tune(
    Rows in [128, 64], Kv in [64, 32], stages in [2, 3], warps in [4, 8],
    sm_90a(Kv in [128, 112, 80, 64], Rows in [192, 128], stages in [3, 2], overlap in [3, 2, 1], turns in [2, 1], persist in [1, 2]),
))]
pub fn query_major_classified(
    cx: &Cx,
    q: Queries<Dk>,
    k: Keys<Dk>,
    v: Values<Dv>,
    classes: Classes,
    docs: Segments,
    #[fixed] mask: &Mask,
) -> OutLse<Dv> {
    let (i, h, d) = cx.grid3(docs.tiles::<Rows>().longest_first(), q.heads(), docs.count());
    let rows = q.tile(docs.at(d), i, h);
    let softmax = OnlineSoftmax::new(cx, &rows);
    for b in cx.pipelined(classes.of::<Kv>(&rows), stages) {
        let s = cx.dot(rows.q, k.block(b, h));
        softmax.step(mask.keep(s, &rows, b), v.block(b, h));
    }
    softmax.finish()
}
