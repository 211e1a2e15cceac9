//! The interpreter's own instruction names: a row of the ISA table with its choices taken and its types narrowed to
//! what makes a difference to a register file of words, doubles and predicates.

use lacuna_ptx::{Inst, Op, Operand};

use crate::decode::width;

/// What the interpreter does for an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum Micro {
    // Moves.
    Mov, MovDouble, MovPred, PackHalves, UnpackHalves, PackWords, UnpackWords, Selp, SelpDouble, Prmt,
    // Memory. The number is how many registers.
    LdParam, LdParamDouble, LdGlobalHalf, LdGlobal1, LdGlobal2, LdGlobal4, LdGlobalDouble, LdGlobalDouble2,
    StGlobalHalf, StGlobal1, StGlobal2, StGlobal4, StGlobalDouble, StGlobalDouble2,
    LdSharedHalf, LdShared1, LdShared2, LdShared4, LdSharedDouble,
    StSharedHalf, StShared1, StShared2, StShared4, StSharedDouble,
    AtomAdd, AtomAddFloat, AtomMin, AtomMax, RedAdd, RedAddFloat, RedAddShared, RedVector, RedVectorBf16, RedVectorF16, Prefetch,
    CpAsync, CpAsyncCommit, CpAsyncWait, CpAsyncWaitAll,
    // Integers.
    Add, Sub, Mul, MulHiU, MulHiS, MulWideU, MulWideS, Mad, MadWideU, MadWideS, DivU, DivS, RemU, RemS,
    MinU, MinS, MaxU, MaxS, Neg, Abs,
    AddDouble, SubDouble, MulDouble, MadDouble, MinDoubleU, MinDoubleS, MaxDoubleU, MaxDoubleS,
    And, Or, Xor, AndDouble, OrDouble, XorDouble, AndPred, OrPred, XorPred, Not, NotDouble, NotPred,
    Shl, ShrU, ShrS, ShlDouble, ShrDoubleU, ShrDoubleS, Bfe, Bfi, Popc, Clz,
    // Comparisons; `aux` says which.
    SetpU, SetpS, SetpDoubleU, SetpDoubleS, SetpFloat,
    // Floats.
    FAdd, FSub, FMul, Fma, Div, DivFlush, FMin, FMax, FNeg, FAbs, Ex2, Lg2, Rcp, Rsqrt, Tanh,
    // Conversions.
    WidenU, WidenS, Narrow, FloatFromU, FloatFromS, FloatToU, FloatToS, PackBf16, PackF16, ToBf16, ToF16, FromF16, FromBf16,
    // Control.
    Bra, Ret, Trap, BarSync, BarArrive, BarWarp, Fence, ProxyFence, SetRegisters, Nothing,
    Mapa, ClusterArrive, ClusterWait, MbarrierRemote,
    // Copies by themselves; `aux` is the dimensions of a tensor, what an add adds, whether a wait is for reads alone.
    BulkLoad, BulkPass, BulkStore, BulkCommit, BulkWait, TensorLoad, TensorCast, TensorStore, TensorAdd, TensorPrefetch, CpAsyncArrive,
    CvtaParam, CreatePolicy,
    // Mbarriers.
    MbarrierInit, MbarrierInval, MbarrierFence, MbarrierArrive, MbarrierExpect, MbarrierTx, MbarrierTry, MbarrierTest,
    // Across a warp; `aux` says which way.
    Elect, Shfl, Ballot, VoteAny, VoteAll, Match, ReduxAdd, ReduxMinU, ReduxMinS, ReduxMaxU, ReduxMaxS,
    // Tensor cores; `aux` is how many matrices.
    Ldmatrix, LdmatrixTrans, Stmatrix, StmatrixTrans, MmaK16Bf16, MmaK16F16, MmaK8Bf16, MmaK8F16,
    // Over a warpgroup; `aux` of a product is its number in the kernel.
    Wgmma, WgmmaFence, WgmmaCommit, WgmmaWait,
}

/// Comparisons, as `aux` of a `setp`.
pub(crate) const COMPARISONS: [&str; 6] = ["eq", "ne", "lt", "le", "gt", "ge"];

/// Ways to shuffle, as `aux` of a `shfl`.
pub(crate) const SHUFFLES: [&str; 4] = ["bfly", "idx", "up", "down"];

fn index(list: &[&str], choice: &str) -> u32 {
    list.iter().position(|entry| *entry == choice).unwrap_or(0) as u32
}

impl Micro {
    /// What runs an instruction, and its `aux`. A new row of the ISA table does not compile until it stands here.
    pub(crate) fn of(inst: &Inst) -> (Micro, u32) {
        use Micro::*;
        let c = inst.form.choices();
        let ty = |i: usize| c.get(i).copied().unwrap_or_default();
        let wide = |i: usize, word: Micro, double: Micro| if width(ty(i)) == 8 { double } else { word };
        let signed = |i: usize, unsigned: Micro, signed: Micro| if ty(i).starts_with('s') { signed } else { unsigned };
        let is_vector = |i: usize| matches!(inst.operands.get(i), Some(Operand::Vector(_)));
        let sized = |i: usize, half: Micro, word: Micro, double: Micro| match width(ty(i)) {
            2 => half,
            8 => double,
            _ => word,
        };
        let pick = |i: usize, names: &[&str], micros: &[Micro]| micros[index(names, ty(i)) as usize];
        let micro = match inst.form.op() {
            Op::Mov if ty(0) == "pred" => MovPred,
            Op::Mov => wide(0, Mov, MovDouble),
            Op::MovB32 if is_vector(0) => UnpackHalves,
            Op::MovB32 if is_vector(1) => PackHalves,
            Op::MovB32 => Mov,
            Op::MovB64 if is_vector(0) => UnpackWords,
            Op::MovB64 if is_vector(1) => PackWords,
            Op::MovB64 => MovDouble,
            Op::Selp => wide(0, Selp, SelpDouble),
            Op::Prmt => Prmt,
            Op::CvtaTo => MovDouble,

            Op::LdParam => wide(0, LdParam, LdParamDouble),
            Op::LdGlobal => sized(1, LdGlobalHalf, LdGlobal1, LdGlobalDouble),
            Op::LdGlobalVector => pick(1, &["2", "4"], &[LdGlobal2, LdGlobal4]),
            Op::LdGlobalPair => LdGlobalDouble2,
            Op::StGlobal => sized(0, StGlobalHalf, StGlobal1, StGlobalDouble),
            Op::StGlobalVector => pick(0, &["2", "4"], &[StGlobal2, StGlobal4]),
            Op::StGlobalPair => StGlobalDouble2,
            Op::LdShared => sized(0, LdSharedHalf, LdShared1, LdSharedDouble),
            Op::LdSharedVector => pick(0, &["2", "4"], &[LdShared2, LdShared4]),
            Op::StShared => sized(0, StSharedHalf, StShared1, StSharedDouble),
            Op::StSharedVector => pick(0, &["2", "4"], &[StShared2, StShared4]),
            Op::AtomAdd => pick(0, &["u32", "f32"], &[AtomAdd, AtomAddFloat]),
            Op::AtomMinMax => pick(0, &["min", "max"], &[AtomMin, AtomMax]),
            Op::RedAdd => pick(0, &["u32", "f32"], &[RedAdd, RedAddFloat]),
            Op::RedAddShared => RedAddShared,
            Op::Prefetch => Prefetch,

            Op::CpAsyncCa | Op::CpAsyncCg | Op::CpAsyncCaL2 | Op::CpAsyncCgL2 => CpAsync,
            Op::CpAsyncCommit => CpAsyncCommit,
            Op::CpAsyncWait => CpAsyncWait,
            Op::CpAsyncWaitAll => CpAsyncWaitAll,

            Op::AddInt => wide(0, Add, AddDouble),
            Op::SubInt => wide(0, Sub, SubDouble),
            Op::MulLo => wide(0, Mul, MulDouble),
            Op::MulHi => signed(0, MulHiU, MulHiS),
            Op::MulWide => signed(0, MulWideU, MulWideS),
            Op::MadLo => wide(0, Mad, MadDouble),
            Op::MadWide => signed(0, MadWideU, MadWideS),
            Op::DivInt => signed(0, DivU, DivS),
            Op::RemInt => signed(0, RemU, RemS),
            Op::MinMaxInt if ty(0) == "min" => wide(1, signed(1, MinU, MinS), signed(1, MinDoubleU, MinDoubleS)),
            Op::MinMaxInt => wide(1, signed(1, MaxU, MaxS), signed(1, MaxDoubleU, MaxDoubleS)),
            Op::NegInt => Neg,
            Op::AbsInt => Abs,

            Op::Logic => {
                let names = ["and", "or", "xor"];
                wide(1, pick(0, &names, &[And, Or, Xor]), pick(0, &names, &[AndDouble, OrDouble, XorDouble]))
            }
            Op::LogicPred => pick(0, &["and", "or", "xor"], &[AndPred, OrPred, XorPred]),
            Op::Not => wide(0, Not, NotDouble),
            Op::NotPred => NotPred,
            Op::Shl => wide(0, Shl, ShlDouble),
            Op::Shr => wide(0, signed(0, ShrU, ShrS), signed(0, ShrDoubleU, ShrDoubleS)),
            Op::Bfe => Bfe,
            Op::Bfi => Bfi,
            Op::Popc => Popc,
            Op::Clz => Clz,
            Op::Setp if ty(1) == "f32" => SetpFloat,
            Op::Setp => wide(1, signed(1, SetpU, SetpS), signed(1, SetpDoubleU, SetpDoubleS)),
            Op::SetpBits => SetpU,

            Op::AddFloat => FAdd,
            Op::SubFloat => FSub,
            Op::MulFloat => FMul,
            Op::Fma => Fma,
            Op::DivFloat => pick(0, &["full", "approx.ftz"], &[Div, DivFlush]),
            Op::MinMaxFloat => pick(0, &["min", "max"], &[FMin, FMax]),
            Op::NegFloat => FNeg,
            Op::AbsFloat => FAbs,
            Op::Approx => pick(0, &["ex2", "lg2", "rcp", "rsqrt"], &[Ex2, Lg2, Rcp, Rsqrt]),
            Op::Tanh => Tanh,

            Op::CvtWiden => signed(1, WidenU, WidenS),
            Op::CvtNarrow => Narrow,
            Op::CvtToFloat => signed(0, FloatFromU, FloatFromS),
            Op::CvtToInt => signed(0, FloatToU, FloatToS),
            Op::CvtPack => pick(0, &["bf16x2", "f16x2"], &[PackBf16, PackF16]),
            Op::CvtToHalf => pick(0, &["bf16", "f16"], &[ToBf16, ToF16]),
            Op::CvtFromF16 => FromF16,
            Op::CvtFromBf16 => FromBf16,

            Op::Bra => Bra,
            Op::Ret | Op::Exit => Ret,
            Op::Trap => Trap,
            Op::BarSync => BarSync,
            Op::BarArrive => BarArrive,
            Op::BarWarp => BarWarp,
            Op::Membar | Op::FenceAcqRel => Fence,

            Op::Shfl => Shfl,
            Op::VoteBallot => Ballot,
            Op::Vote => pick(0, &["any", "all"], &[VoteAny, VoteAll]),
            Op::Match => Match,
            Op::Redux => match ty(0) {
                "add" => ReduxAdd,
                "min" => signed(1, ReduxMinU, ReduxMinS),
                _ => signed(1, ReduxMaxU, ReduxMaxS),
            },

            Op::Ldmatrix => {
                if ty(1).is_empty() {
                    Ldmatrix
                } else {
                    LdmatrixTrans
                }
            }
            Op::MmaK16 => pick(0, &["bf16.bf16", "f16.f16"], &[MmaK16Bf16, MmaK16F16]),
            Op::MmaK8 => pick(0, &["bf16.bf16", "f16.f16"], &[MmaK8Bf16, MmaK8F16]),

            Op::CvtaParam => CvtaParam,
            Op::CreatePolicy => CreatePolicy,
            Op::RedAddVector => RedVector,
            Op::RedAddHalves => pick(1, &["bf16x2", "f16x2"], &[RedVectorBf16, RedVectorF16]),
            Op::MbarrierInit => MbarrierInit,
            Op::MbarrierInval => MbarrierInval,
            Op::MbarrierFence => MbarrierFence,
            Op::MbarrierArrive => MbarrierArrive,
            Op::MbarrierExpect => MbarrierExpect,
            Op::MbarrierTx => MbarrierTx,
            Op::MbarrierTry | Op::MbarrierTryFar => MbarrierTry,
            Op::MbarrierTest => MbarrierTest,
            Op::CpAsyncArrive => CpAsyncArrive,
            Op::BulkLoad | Op::BulkLoadHint => BulkLoad,
            Op::BulkPass => BulkPass,
            Op::BulkStore | Op::BulkStoreHint | Op::BulkAdd | Op::BulkAddHint => BulkStore,
            Op::BulkCommit => BulkCommit,
            Op::BulkWait => BulkWait,
            Op::TensorLoad | Op::TensorLoadHint => TensorLoad,
            Op::TensorStore => TensorStore,
            Op::TensorAdd => TensorAdd,
            Op::TensorPrefetch | Op::PrefetchMap => TensorPrefetch,
            Op::TensorCast | Op::TensorCastHint => TensorCast,
            Op::MbarrierRemote => MbarrierRemote,
            Op::FenceProxyAsync => ProxyFence,
            Op::Elect => Elect,
            Op::Stmatrix => {
                if ty(1).is_empty() {
                    Stmatrix
                } else {
                    StmatrixTrans
                }
            }
            Op::SetMaxNReg => SetRegisters,
            Op::Wgmma => Wgmma,
            Op::WgmmaFence => WgmmaFence,
            Op::WgmmaCommit => WgmmaCommit,
            Op::WgmmaWait => WgmmaWait,
            Op::Mapa => Mapa,
            Op::ClusterArrive | Op::ClusterRelaxed => ClusterArrive,
            Op::ClusterWait => ClusterWait,
            // Launches run one after the other: what it waits for is done, and nobody waits for it.
            Op::GridControl => Nothing,
        };
        let aux = match micro {
            SetpU | SetpS | SetpDoubleU | SetpDoubleS | SetpFloat => index(&COMPARISONS, ty(0)),
            Shfl => index(&SHUFFLES, ty(0)),
            Fence => u32::from(ty(0) != "cta"),
            LdGlobalHalf | LdGlobal1 | LdGlobal2 | LdGlobal4 | LdGlobalDouble | LdGlobalDouble2 => {
                u32::from(ty(0).contains("nc"))
            }
            SetRegisters => u32::from(ty(0) == "inc"),
            ClusterArrive => u32::from(inst.form.op() == Op::ClusterRelaxed),
            // Of global memory the proxies are not told apart.
            ProxyFence => u32::from(ty(0) == ".global"),
            TensorLoad | TensorCast | TensorStore | TensorAdd | TensorPrefetch => ty(0).parse().unwrap_or(0),
            BulkStore => {
                ["f32", "noftz.bf16", "noftz.f16"].iter().position(|add| *add == ty(0)).map_or(0, |add| add as u32 + 1)
            }
            BulkWait => u32::from(!ty(0).is_empty()),
            RedVector | RedVectorBf16 | RedVectorF16 => ty(0).parse().unwrap_or(0),
            Ldmatrix | LdmatrixTrans | Stmatrix | StmatrixTrans => ty(0).trim_start_matches('x').parse().unwrap_or(1),
            _ => 0,
        };
        (micro, aux)
    }
}
