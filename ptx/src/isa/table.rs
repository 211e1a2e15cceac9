//! The rows: one family of forms a line. The language of the operands is in `slot.rs`.
//!
//! Rows that are older than sm_80 and PTX 7.0, the floor of this crate, say sm_80 and 7.0.

use super::Row;

macro_rules! isa {
    ($( $op:ident $pattern:literal $signature:literal $lowest:ident $since:literal )*) => {
        /// A row of the instruction table.
        #[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Op {
            $( #[doc = concat!("`", $pattern, "`, operands `", $signature, "`")] $op, )*
        }

        impl Op {
            /// Every row, in the order of the table.
            pub const ALL: &'static [Op] = &[$( Op::$op ),*];

            /// The row's text, with its choices in braces.
            pub const fn pattern(self) -> &'static str {
                ROWS[self as usize].pattern
            }
        }

        pub(super) const ROWS: &[Row] = &[$( Row {
            op: Op::$op,
            pattern: $pattern,
            signature: $signature,
            lowest: stringify!($lowest),
            since: stringify!($since),
        } ),*];
    };
}

#[rustfmt::skip]
isa! {
    // form                                                                                 operands                                     from    PTX

    // Data movement.
    Mov             "mov.{u32,s32,u64,s64,f32,pred}"                                        "=$0, $0!"                                   sm_80   7.0
    MovB32          "mov.b32"                                                               "=~b32|b16x2, ~b32!|b16x2"                   sm_80   7.0
    MovB64          "mov.b64"                                                               "=b64|~b32x2, b64!|~b32x2"                   sm_80   7.0
    Selp            "selp.{b32,u32,s32,f32,b64,u64,s64}"                                    "=~$0, ~$0, ~$0, %pred"                      sm_80   7.0
    Prmt            "prmt.b32"                                                              "=b32, b32, b32, b32"                        sm_80   7.0
    CvtaTo          "cvta.to.{global,shared}.u64"                                           "=u64, %u64"                                 sm_80   7.0
    CvtaParam       "cvta.param.u64"                                                        "=u64, %u64"                                 sm_80   7.7

    // Memory.
    LdParam         "ld.param.{b32,u32,s32,f32,b64,u64,s64}"                                "=~$0, [param]"                              sm_80   7.0
    LdGlobal        "ld.global{,.nc}.{b16,u16,b32,u32,s32,f32,b64,u64}"                     "=~$1, [global]"                             sm_80   7.0
    LdGlobalVector  "ld.global{,.nc}.v{2,4}.{b32,u32,f32}"                                  "=~$2x$1, [global]"                          sm_80   7.0
    LdGlobalPair    "ld.global{,.nc}.v2.b64"                                                "=b64x2, [global]"                           sm_80   7.0
    StGlobal        "st.global.{b16,u16,b32,u32,s32,f32,b64,u64}"                           "[global], ~$0"                              sm_80   7.0
    StGlobalVector  "st.global.v{2,4}.{b32,u32,f32}"                                        "[global], ~$1x$0"                           sm_80   7.0
    StGlobalPair    "st.global.v2.b64"                                                      "[global], b64x2"                            sm_80   7.0
    LdShared        "ld.shared.{b16,b32,u32,s32,f32,b64}"                                   "=~$0, [shared]"                             sm_80   7.0
    LdSharedVector  "ld.shared.v{2,4}.{b32,f32}"                                            "=~$1x$0, [shared]"                          sm_80   7.0
    StShared        "st.shared.{b16,b32,u32,s32,f32,b64}"                                   "[shared], ~$0"                              sm_80   7.0
    StSharedVector  "st.shared.v{2,4}.{b32,f32}"                                            "[shared], ~$1x$0"                           sm_80   7.0
    AtomAdd         "atom.global.add.{u32,f32}"                                             "=$0, [global], $0"                          sm_80   7.0
    AtomMinMax      "atom.global.{min,max}.s32"                                             "=s32, [global], s32"                        sm_80   7.0
    RedAdd          "red.global.add.{u32,f32}"                                              "[global], $0"                               sm_80   7.0
    RedAddVector    "red.global.add.v{2,4}.f32"                                             "[global], f32x$0"                           sm_90   8.1
    RedAddHalves    "red.global.add.noftz.v{2,4}.{bf16x2,f16x2}"                            "[global], b32x$0"                           sm_90   8.1
    RedAddShared    "red.shared.add.u32"                                                    "[shared], u32"                              sm_80   7.0
    Prefetch        "prefetch.global.L2"                                                    "[global]"                                   sm_80   7.0

    // Asynchronous copies.
    CpAsyncCa       "cp.async.ca.shared.global"                                             "[shared], [global], #4|8|16, u32#0..16?"    sm_80   7.0
    CpAsyncCg       "cp.async.cg.shared.global"                                             "[shared], [global], #16, u32#0..16?"        sm_80   7.0
    CpAsyncCaL2     "cp.async.ca.shared.global.L2::{128B,256B}"                             "[shared], [global], #4|8|16, u32#0..16?"    sm_80   7.4
    CpAsyncCgL2     "cp.async.cg.shared.global.L2::{128B,256B}"                             "[shared], [global], #16, u32#0..16?"        sm_80   7.4
    CpAsyncCommit   "cp.async.commit_group"                                                 ""                                           sm_80   7.0
    CpAsyncWait     "cp.async.wait_group"                                                   "#0..2147483647"                             sm_80   7.0
    CpAsyncWaitAll  "cp.async.wait_all"                                                     ""                                           sm_80   7.0
    CpAsyncArrive   "cp.async.mbarrier.arrive.noinc.shared::cta.b64"                        "[shared]"                                   sm_80   7.8

    // Bulk copies: bytes in one piece, and boxes of a tensor. Where they end is an mbarrier, or a bulk group.
    BulkLoad        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"                                                       "[cluster], [global], u32#16..1048560/16, [cluster]"      sm_90   8.0
    BulkLoadHint    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"                                        "[cluster], [global], u32#16..1048560/16, [cluster], b64" sm_90   8.0
    BulkPass        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes"                                                  "[cluster], [shared], u32#16..1048560/16, [cluster]"      sm_90   8.0
    BulkStore       "cp.async.bulk.global.shared::cta.bulk_group"                                                                             "[global], [shared], u32#16..1048560/16"                  sm_90   8.0
    BulkStoreHint   "cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint"                                                              "[global], [shared], u32#16..1048560/16, b64"             sm_90   8.0
    BulkAdd         "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.{f32,noftz.bf16,noftz.f16}"                                       "[global], [shared], u32#16..1048560/16"                  sm_90   8.0
    BulkAddHint     "cp.reduce.async.bulk.global.shared::cta.bulk_group.L2::cache_hint.add.{f32,noftz.bf16,noftz.f16}"                        "[global], [shared], u32#16..1048560/16, b64"             sm_90   8.0
    TensorLoad      "cp.async.bulk.tensor.{1,2,3,4,5}d.shared::cluster.global.mbarrier::complete_tx::bytes"                                   "[cluster], [tensor$0], [cluster]"                        sm_90   8.0
    TensorLoadHint  "cp.async.bulk.tensor.{1,2,3,4,5}d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"                    "[cluster], [tensor$0], [cluster], b64"                   sm_90   8.0
    TensorCast      "cp.async.bulk.tensor.{1,2,3,4,5}d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"                "[cluster], [tensor$0], [cluster], b16"                   sm_90   8.0
    TensorCastHint  "cp.async.bulk.tensor.{1,2,3,4,5}d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint" "[cluster], [tensor$0], [cluster], b16, b64"              sm_90   8.0
    TensorStore     "cp.async.bulk.tensor.{1,2,3,4,5}d.global.shared::cta.bulk_group"                                                         "[tensor$0], [shared]"                                    sm_90   8.0
    TensorAdd       "cp.reduce.async.bulk.tensor.{1,2,3,4,5}d.global.shared::cta.add.bulk_group"                                              "[tensor$0], [shared]"                                    sm_90   8.0
    TensorPrefetch  "cp.async.bulk.prefetch.tensor.{1,2,3,4,5}d.L2.global"                                                                    "[tensor$0]"                                              sm_90   8.0
    PrefetchMap     "prefetch.tensormap"                                                                                                      "[generic]"                                               sm_90   8.0
    BulkCommit      "cp.async.bulk.commit_group"                                                                                              ""                                                        sm_90   8.0
    BulkWait        "cp.async.bulk.wait_group{,.read}"                                                                                        "#0..2147483647"                                          sm_90   8.0
    CreatePolicy    "createpolicy.fractional.L2::{evict_first,evict_last,evict_normal,evict_unchanged}.b64"                                   "=b64"                                                    sm_80   7.4

    // Integers.
    AddInt          "add.{u32,s32,u64,s64}"                                                 "=$0, $0, $0"                                sm_80   7.0
    SubInt          "sub.{u32,s32,u64,s64}"                                                 "=$0, $0, $0"                                sm_80   7.0
    MulLo           "mul.lo.{u32,s32,u64,s64}"                                              "=$0, $0, $0"                                sm_80   7.0
    MulHi           "mul.hi.{u32,s32}"                                                      "=$0, $0, $0"                                sm_80   7.0
    MulWide         "mul.wide.{u32,s32}"                                                    "=b64, $0, $0"                               sm_80   7.0
    MadLo           "mad.lo.{u32,s32,u64,s64}"                                              "=$0, $0, $0, $0"                            sm_80   7.0
    MadWide         "mad.wide.{u32,s32}"                                                    "=b64, $0, $0, b64"                          sm_80   7.0
    DivInt          "div.{u32,s32}"                                                         "=$0, $0, $0"                                sm_80   7.0
    RemInt          "rem.{u32,s32}"                                                         "=$0, $0, $0"                                sm_80   7.0
    MinMaxInt       "{min,max}.{u32,s32,u64,s64}"                                           "=$1, $1, $1"                                sm_80   7.0
    NegInt          "neg.s32"                                                               "=s32, s32"                                  sm_80   7.0
    AbsInt          "abs.s32"                                                               "=s32, s32"                                  sm_80   7.0

    // Bits and predicates.
    Logic           "{and,or,xor}.{b32,b64}"                                                "=$1, $1, $1"                                sm_80   7.0
    LogicPred       "{and,or,xor}.pred"                                                     "=pred, %pred, %pred"                        sm_80   7.0
    Not             "not.{b32,b64}"                                                         "=$0, $0"                                    sm_80   7.0
    NotPred         "not.pred"                                                              "=pred, %pred"                               sm_80   7.0
    Shl             "shl.{b32,b64}"                                                         "=$0, $0, u32"                               sm_80   7.0
    Shr             "shr.{b32,u32,s32,b64,u64,s64}"                                         "=$0, $0, u32"                               sm_80   7.0
    Bfe             "bfe.u32"                                                               "=u32, u32, u32#0..255, u32#0..255"          sm_80   7.0
    Bfi             "bfi.b32"                                                               "=b32, b32, b32, u32#0..255, u32#0..255"     sm_80   7.0
    Popc            "popc.b32"                                                              "=u32, b32"                                  sm_80   7.0
    Clz             "clz.b32"                                                               "=u32, b32"                                  sm_80   7.0
    Setp            "setp.{eq,ne,lt,le,gt,ge}.{u32,s32,u64,s64,f32}"                        "=pred, $1, $1"                              sm_80   7.0
    SetpBits        "setp.{eq,ne}.b32"                                                      "=pred, b32, b32"                            sm_80   7.0

    // Floats.
    AddFloat        "add.f32"                                                               "=f32, f32, f32"                             sm_80   7.0
    SubFloat        "sub.f32"                                                               "=f32, f32, f32"                             sm_80   7.0
    MulFloat        "mul.f32"                                                               "=f32, f32, f32"                             sm_80   7.0
    Fma             "fma.rn.f32"                                                            "=f32, f32, f32, f32"                        sm_80   7.0
    DivFloat        "div.{full,approx.ftz}.f32"                                             "=f32, f32, f32"                             sm_80   7.0
    MinMaxFloat     "{min,max}.f32"                                                         "=f32, f32, f32"                             sm_80   7.0
    NegFloat        "neg.f32"                                                               "=f32, f32"                                  sm_80   7.0
    AbsFloat        "abs.f32"                                                               "=f32, f32"                                  sm_80   7.0
    Approx          "{ex2,lg2,rcp,rsqrt}.approx.ftz.f32"                                    "=f32, f32"                                  sm_80   7.0
    Tanh            "tanh.approx.f32"                                                       "=f32, f32"                                  sm_80   7.0

    // Conversions.
    CvtWiden        "cvt.{u64,s64}.{u32,s32}"                                               "=$0, $1"                                    sm_80   7.0
    CvtNarrow       "cvt.{u32,s32}.{u64,s64}"                                               "=$0, $1"                                    sm_80   7.0
    CvtToFloat      "cvt.rn.f32.{u32,s32}"                                                  "=f32, $0"                                   sm_80   7.0
    CvtToInt        "cvt.rzi.{u32,s32}.f32"                                                 "=$0, f32"                                   sm_80   7.0
    CvtPack         "cvt.rn.{bf16x2,f16x2}.f32"                                             "=b32, f32, f32"                             sm_80   7.0
    CvtToHalf       "cvt.rn.{bf16,f16}.f32"                                                 "=b16, f32"                                  sm_80   7.0
    CvtFromF16      "cvt.f32.f16"                                                           "=f32, %b16"                                 sm_80   7.0
    CvtFromBf16     "cvt.f32.bf16"                                                          "=f32, %b16"                                 sm_80   7.1

    // Control.
    Bra             "bra{,.uni}"                                                            "label"                                      sm_80   7.0
    Ret             "ret"                                                                   ""                                           sm_80   7.0
    Exit            "exit"                                                                  ""                                           sm_80   7.0
    Trap            "trap"                                                                  ""                                           sm_80   7.0

    // Barriers and fences.
    BarSync         "bar.sync"                                                              "u32#0..15, u32#32..1024/32?"                sm_80   7.0
    BarArrive       "bar.arrive"                                                            "u32#0..15, u32#32..1024/32"                 sm_80   7.0
    BarWarp         "bar.warp.sync"                                                         "mask"                                       sm_80   7.0
    Membar          "membar.{cta,gl}"                                                       ""                                           sm_80   7.0
    FenceAcqRel     "fence.acq_rel.{cta,gpu}"                                               ""                                           sm_80   7.0
    FenceProxyAsync "fence.proxy.async{,.shared::cta,.global}"                              ""                                           sm_90   8.0

    // Objects in shared memory that count arrivals and bytes, phase by phase.
    MbarrierInit    "mbarrier.init.shared::cta.b64"                                         "[shared], u32#1..1048575"                   sm_80   7.8
    MbarrierInval   "mbarrier.inval.shared::cta.b64"                                        "[shared]"                                   sm_80   7.8
    MbarrierFence   "fence.mbarrier_init.release.cluster"                                   ""                                           sm_90   8.0
    MbarrierArrive  "mbarrier.arrive.shared::cta.b64"                                       "_, [shared]"                                sm_80   7.8
    MbarrierExpect  "mbarrier.arrive.expect_tx.shared::cta.b64"                             "_, [shared], u32#0..1048575"                sm_90   8.0
    MbarrierRemote  "mbarrier.arrive.release.cluster.shared::cluster.b64"                   "_, [cluster]"                               sm_90   8.0
    MbarrierTx      "mbarrier.expect_tx.relaxed.cta.shared::cta.b64"                        "[shared], u32#0..1048575"                   sm_90   8.0
    MbarrierTry     "mbarrier.try_wait.parity.shared::cta.b64"                              "=pred, [shared], u32#0|1, u32?"             sm_90   7.8
    MbarrierTryFar  "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64"              "=pred, [shared], u32#0|1, u32?"             sm_90   8.0
    MbarrierTest    "mbarrier.test_wait.parity.shared::cta.b64"                             "=pred, [shared], u32#0|1"                   sm_80   7.8

    // Clusters, grids, registers.
    Mapa            "mapa.shared::cluster.u32"                                              "=u32, %u32, u32"                            sm_90   7.8
    ClusterArrive   "barrier.cluster.arrive{,.aligned}"                                     ""                                           sm_90   7.8
    ClusterRelaxed  "barrier.cluster.arrive.relaxed{,.aligned}"                             ""                                           sm_90   8.0
    ClusterWait     "barrier.cluster.wait{,.aligned}"                                       ""                                           sm_90   7.8
    GridControl     "griddepcontrol.{wait,launch_dependents}"                               ""                                           sm_90   7.8
    SetMaxNReg      "setmaxnreg.{inc,dec}.sync.aligned.u32"                                 "#24..256/8"                                 sm_90a  8.0

    // Across a warp. The last operand is the member mask.
    Shfl            "shfl.sync.{bfly,idx,up,down}.b32"                                      "=~b32, %~b32, u32#0..31, u32#0..7967, mask" sm_80   7.0
    VoteBallot      "vote.sync.ballot.b32"                                                  "=b32, %pred, mask"                          sm_80   7.0
    Vote            "vote.sync.{any,all}.pred"                                              "=pred, %pred, mask"                         sm_80   7.0
    Match           "match.any.sync.b32"                                                    "=b32, b32, mask"                            sm_80   7.0
    Redux           "redux.sync.{add,min,max}.{s32,u32}"                                    "=$1, %$1, mask"                             sm_80   7.0
    Elect           "elect.sync"                                                            "=b32|pred, mask"                            sm_90   8.0

    // Tensor cores. `ldmatrix` loads 8 x 8 matrices of 16-bit elements; the accumulator comes first and last.
    Ldmatrix        "ldmatrix.sync.aligned.m8n8.{x1,x2,x4}{,.trans}.shared.b16"             "=b32$0, [shared]"                           sm_80   7.0
    Stmatrix        "stmatrix.sync.aligned.m8n8.{x1,x2,x4}{,.trans}.shared.b16"             "[shared], b32$0"                            sm_90   7.8
    MmaK16          "mma.sync.aligned.m16n8k16.row.col.f32.{bf16.bf16,f16.f16}.f32"         "=f32x4, b32x4, b32x2, f32x4"                sm_80   7.0
    MmaK8           "mma.sync.aligned.m16n8k8.row.col.f32.{bf16.bf16,f16.f16}.f32"          "=f32x4, b32x2, b32x1, f32x4"                sm_80   7.0

    // Tensor cores over a warpgroup. D, A, B, whether D is added to, the signs of A and B, their transpositions: a descriptor of
    // A has one, registers have none.
    Wgmma           "wgmma.mma_async.sync.aligned.m64n{8..256/8}k16.f32.{bf16.bf16,f16.f16}" "+f32x$0/2, %b64|b32x4, %b64, pred, #-1|1, #-1|1, #0|1, #0|1?" sm_90a  8.0
    WgmmaFence      "wgmma.fence.sync.aligned"                                               ""                                                             sm_90a  8.0
    WgmmaCommit     "wgmma.commit_group.sync.aligned"                                        ""                                                             sm_90a  8.0
    WgmmaWait       "wgmma.wait_group.sync.aligned"                                          "#0..7"                                                        sm_90a  8.0
}
