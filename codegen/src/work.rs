//! What a launch computes and moves, in numbers: what a static model of a GPU turns into a time.

/// The work of one launch of an operation in one pick. The schedule says it, or the registry for the schedules that ship;
/// nothing in here knows a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Floating-point operations that count: of pairs of a query and a key that are seen.
    pub flops: f64,
    /// Floating-point operations that are done: of whole tiles, with what is masked in them and rows that are padding.
    pub done: f64,
    /// Exponentials: one for each logit of a tile that is visited.
    pub exps: f64,
    /// Rounds of a pipelined loop, over all CTAs: visits of a block by a tile of rows.
    pub rounds: f64,
    /// Bytes of K and V, once for each tile that reads them: what L2 delivers.
    pub l2_bytes: f64,
    /// Bytes that HBM moves at least: of each tensor once, and of parts that are written and read.
    pub hbm_bytes: f64,
    /// Of those, and of what is moved besides, the bytes of launches other than the one that attends: nothing of theirs is
    /// hidden behind its products.
    pub besides_bytes: f64,
    /// Rows of a tile that one warp has: with 16 or fewer, each right operand is read from shared memory for one product.
    pub rows_a_warp: u32,
    /// CTAs of the launch that attends.
    pub ctas: f64,
}
