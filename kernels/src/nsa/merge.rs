use lacuna_dsl::prelude::*;

/// Combines what each token's rows have seen of its picked blocks one by one, as [`block_major`](super::block_major()) leaves
/// it: [`LseMerge`], in ascending order of the picks. A pick that is no block of the document has no part.
///
/// One CTA has a tile of query heads of one token. It does nothing but read, so it wants many parts in flight.
#[schedule(tune(Rows in [16, 32], stages in [2, 3, 4], warps in [1, 2]))]
pub fn merge(cx: &Cx, parts: Parts<Dv>, picks: Blocks, docs: Segments) -> OutLse<Dv> {
    let (t, i) = cx.grid2(parts.tokens(), parts.heads::<Rows>());
    let rows = parts.of::<Rows, Kv>(docs.locate(t), i, &picks);
    let whole = LseMerge::new(cx);
    for part in cx.pipelined(&rows, stages) {
        whole.add(part);
    }
    rows.whole(whole.finish())
}
