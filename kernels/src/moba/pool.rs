use lacuna_dsl::prelude::*;

axes! {
    /// Rows of a product of which one is wanted: as many as a tensor-core tile has.
    pub Alike;
}

/// The mean of each block of `block` keys, summed up in f32 and rounded to the type of the keys: `pooled[slot, head]`,
/// MoBA's `kbar` (arXiv 2502.13189, equation 6). A last block that is cut has the mean of the keys that there are.
///
/// One CTA has one block and KV head, and reads it once, a piece at a time; tensor cores sum up columns, as a product
/// with ones: 32 · D FLOPs a key, sixteen times what is needed, and far below what the reading costs. What there is to
/// do is keep copies in flight: a CTA is one warp, of which a multiprocessor has as many as shared memory has room for.
///
/// Floor, of HBM: the keys once, tokens · heads_kv · 2 Dk bytes, and a `block`th of that written. 2 x 128k tokens, 16
/// heads of 128: 1.07 GB, 0.24 ms at 4.5 TB/s.
#[schedule(tune(Kv in [32, 16, 64], stages in [4, 3, 2], Alike in [16], warps in [1]))]
pub fn moba_pool(cx: &Cx, k: Keys<Dk>, docs: Segments, #[fixed] block: u32) -> PooledKey<Dk> {
    let (b, h, d) = cx.grid3(docs.key_blocks(block), k.heads(), docs.count());
    let span = docs.at(d).block(b);
    let ones = cx.filled::<Alike, Kv>(1.0).to_half();
    let sum: Var<Tile<F32, Alike, Dk>> = cx.var("sum", 0.0);
    for piece in cx.pipelined(span.pieces::<Kv>(), stages) {
        sum.add_dot(ones, k.piece(piece, h));
    }
    let mean = sum.get() / span.count.to_f32();
    PooledKey::of_block(mean.to_half(), &span, h)
}
