use std::f32::consts::{LN_2, LOG2_E};

use lacuna_dsl::prelude::*;

/// Combines what each token's rows have seen of its picked blocks one by one, as [`block_major`](super::block_major()) leaves
/// it: with parts `o_j` and their log-sum-exp `l_j`,
///
/// ```text
/// l = log Σ exp l_j        o = Σ exp(l_j - l) o_j
/// ```
///
/// taken in one pass, in ascending `j`, like the online softmax (arXiv 1805.02867). A pick that is no block of the document has no
/// part; a row without parts is zeros with an LSE of -inf.
///
/// One CTA has a tile of query heads of one token. It does nothing but read, so it wants many parts in flight.
#[schedule(tune(Rows in [16, 32], stages in [2, 3, 4], warps in [1, 2]))]
pub fn merge(cx: &Cx, parts: Parts<Dv>, picks: Blocks, docs: Segments) -> OutLse<Dv> {
    let (t, i) = cx.grid2(parts.tokens(), parts.heads::<Rows>());
    let rows = parts.of::<Rows, Kv>(docs.locate(t), i, &picks);
    let max: Var<Vector<F32, Rows>> = cx.var("max", f32::NEG_INFINITY);
    let sum: Var<Vector<F32, Rows>> = cx.var("sum", 0.0);
    let acc: Var<Tile<F32, Rows, Dv>> = cx.var("acc", 0.0);
    for part in cx.pipelined(&rows, stages) {
        let before = max.get();
        let now = before.max(part.lse);
        // Where nothing has been seen, `-inf - -inf` would be NaN.
        let safe = now.eq_(f32::NEG_INFINITY).select(0.0, now);
        let shrink = ((before - safe) * LOG2_E).exp2();
        let weight = ((part.lse - safe) * LOG2_E).exp2();
        sum.set(sum.get() * shrink + weight);
        acc.set(acc.get() * shrink);
        acc.set(part.o.to_f32().fma(weight, acc.get()));
        max.set(now);
    }
    let empty = sum.get().eq_(0.0);
    let o = acc.get() * empty.select(0.0, sum.get().recip());
    let lse = empty.select(f32::NEG_INFINITY, max.get() + sum.get().log2() * LN_2);
    rows.whole(o.to_half(), lse)
}
