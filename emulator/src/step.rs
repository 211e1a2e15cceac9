//! The interpreter's loop: one warp runs until it waits, ends, or has used its slice.

use crate::cta::Common;
use crate::decode::{Inst, Kernel, MEETS, NEGATED, NONE, POLLS, TOUCHES, TRACKED};
use crate::fault::{FaultKind, Trap};
use crate::lanes::*;
use crate::memory::View;
use crate::micro::Micro;
use crate::mma::{self, canonical, piece_bf16, piece_f16};
use crate::tensor::{Maps, PARAM_WINDOW, TensorElem};
use crate::warp::{ALL, Status, Warp};
use crate::{access, bulk, cluster, mbarrier, sync, wgmma};

/// Bytes moved by a worker, and rows of shared memory that had to wait for each other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) shared: u64,
    pub(crate) global: u64,
    pub(crate) conflicts: u64,
}

/// Everything that an instruction may touch.
pub(crate) struct Machine<'a, 'k, 'm> {
    pub(crate) kernel: &'k Kernel,
    pub(crate) params: &'a [u8],
    pub(crate) maps: &'a Maps,
    pub(crate) number: usize,
    pub(crate) warp: &'a mut Warp<'k>,
    pub(crate) common: &'a mut Common,
    pub(crate) view: &'a mut View<'m>,
    /// How often each instruction was issued.
    pub(crate) counts: &'a mut [u64],
    pub(crate) moved: &'a mut Moved,
    /// Instructions that may be issued before another warp's turn.
    pub(crate) slice: u64,
    /// Instructions that were.
    pub(crate) used: u64,
    /// Times round a loop that may be a wait; at [`PATIENCE`] the warp's turn is over.
    pub(crate) polls: u32,
}

/// How often a warp asks in vain before another's turn.
pub(crate) const PATIENCE: u32 = 64;

/// A running warp, as work for the vector unit.
pub(crate) struct Run<'r, 'a, 'k, 'm>(pub(crate) &'r mut Machine<'a, 'k, 'm>);

impl pulp::WithSimd for Run<'_, '_, '_, '_> {
    type Output = Result<(), Box<Trap>>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) -> Self::Output {
        run(self.0, simd)
    }
}

/// Work on its own for the vector unit: a function of the loop that is too large to stand in it.
struct Apart<F>(F);

impl<R, F: FnOnce() -> R> pulp::WithSimd for Apart<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> R {
        (self.0)()
    }
}

#[inline(never)]
fn apart<S: pulp::Simd, R>(simd: S, f: impl FnOnce() -> R) -> R {
    simd.vectorize(Apart(f))
}

#[inline(always)]
fn run<S: pulp::Simd>(m: &mut Machine<'_, '_, '_>, simd: S) -> Result<(), Box<Trap>> {
    use Micro::*;
    let code: &[Inst] = &m.kernel.code;
    loop {
        let pc = m.warp.paths.pc;
        let i = &code[pc as usize];
        if i.flags & MEETS != 0 {
            m.warp.paths.meet();
            if m.warp.paths.pc != pc {
                continue;
            }
        }
        if m.used == m.slice {
            return Ok(());
        }
        m.used += 1;
        m.counts[pc as usize] += 1;
        let mut lanes = m.warp.paths.lanes;
        if i.guard != NONE {
            let guard = m.warp.registers.pred(i.guard);
            if i.flags & TRACKED != 0 {
                check_guard(m, i, pc, lanes)?;
            }
            lanes &= if i.flags & NEGATED != 0 { !guard } else { guard };
        }
        if lanes == 0 && i.micro != Bra {
            m.warp.paths.pc = pc + 1;
            continue;
        }
        if i.flags & TRACKED != 0 {
            track(m, i, pc, lanes)?;
        }
        if i.flags & TOUCHES != 0 {
            wgmma::touch(m, pc)?;
        }
        let r = &mut m.warp.registers;
        match i.micro {
            Mov => word1(r, i, lanes, |a| a),
            MovDouble => double2(r, &both(i), lanes, |a, _| a),
            MovPred => r.set_pred(i.slots[0], r.pred(i.slots[1]), lanes),
            PackHalves => word2(r, i, lanes, |low, high| low & 0xffff | high << 16),
            UnpackHalves => {
                let whole = *r.word(i.slots[2]);
                r.set_word(i.slots[0], &whole.map(|a| a & 0xffff), lanes);
                r.set_word(i.slots[1], &whole.map(|a| a >> 16), lanes);
            }
            PackWords => widen2(r, i, lanes, |low, high| u64::from(high) << 32 | u64::from(low)),
            UnpackWords => {
                let whole = *r.double(i.slots[2]);
                r.set_word(i.slots[0], &whole.map(|a| a as u32), lanes);
                r.set_word(i.slots[1], &whole.map(|a| (a >> 32) as u32), lanes);
            }
            Selp => {
                let mut out = *r.word(i.slots[2]);
                let (a, p) = (r.word(i.slots[1]), r.pred(i.slots[3]));
                for lane in 0..32 {
                    out[lane] = if p >> lane & 1 != 0 { a[lane] } else { out[lane] };
                }
                r.set_word(i.slots[0], &out, lanes);
            }
            SelpDouble => {
                let mut out = *r.double(i.slots[2]);
                let (a, p) = (r.double(i.slots[1]), r.pred(i.slots[3]));
                for lane in 0..32 {
                    out[lane] = if p >> lane & 1 != 0 { a[lane] } else { out[lane] };
                }
                r.set_double(i.slots[0], &out, lanes);
            }
            Prmt => word3(r, i, lanes, prmt),

            LdParam => {
                let value = param(m.params, i.imm[0]);
                r.set_word(i.slots[0], &[value; 32], lanes);
            }
            LdParamDouble => {
                let value = u64::from(param(m.params, i.imm[0] + 4)) << 32 | u64::from(param(m.params, i.imm[0]));
                r.set_double(i.slots[0], &[value; 32], lanes);
            }
            LdGlobal1 => apart(simd, || access::load_global::<1>(m, i, lanes))?,
            LdGlobal2 => apart(simd, || access::load_global::<2>(m, i, lanes))?,
            LdGlobal4 => apart(simd, || access::load_global::<4>(m, i, lanes))?,
            LdGlobalDouble => apart(simd, || access::load_global_doubles::<1, 2>(m, i, lanes))?,
            LdGlobalDouble2 => apart(simd, || access::load_global_doubles::<2, 4>(m, i, lanes))?,
            LdGlobalHalf => access::load_global_half(m, i, lanes)?,
            StGlobal1 => apart(simd, || access::store_global::<1>(m, i, lanes))?,
            StGlobal2 => apart(simd, || access::store_global::<2>(m, i, lanes))?,
            StGlobal4 => apart(simd, || access::store_global::<4>(m, i, lanes))?,
            StGlobalDouble => apart(simd, || access::store_global_doubles::<1, 2>(m, i, lanes))?,
            StGlobalDouble2 => apart(simd, || access::store_global_doubles::<2, 4>(m, i, lanes))?,
            StGlobalHalf => access::store_global_half(m, i, lanes)?,
            LdShared1 => apart(simd, || access::load_shared::<1>(m, i, pc, lanes))?,
            LdShared2 => apart(simd, || access::load_shared::<2>(m, i, pc, lanes))?,
            LdShared4 => apart(simd, || access::load_shared::<4>(m, i, pc, lanes))?,
            LdSharedDouble => access::load_shared_double(m, i, pc, lanes)?,
            LdSharedHalf => access::load_shared_half(m, i, pc, lanes)?,
            StShared1 => apart(simd, || access::store_shared::<1>(m, i, pc, lanes))?,
            StShared2 => apart(simd, || access::store_shared::<2>(m, i, pc, lanes))?,
            StShared4 => apart(simd, || access::store_shared::<4>(m, i, pc, lanes))?,
            StSharedDouble => access::store_shared_double(m, i, pc, lanes)?,
            StSharedHalf => access::store_shared_half(m, i, pc, lanes)?,
            AtomAdd => access::atomic(m, i, lanes, true, u32::wrapping_add)?,
            AtomAddFloat => access::atomic(m, i, lanes, true, add_float_bits)?,
            AtomMin => access::atomic(m, i, lanes, true, |a, b| (a as i32).min(b as i32) as u32)?,
            AtomMax => access::atomic(m, i, lanes, true, |a, b| (a as i32).max(b as i32) as u32)?,
            RedAdd => access::atomic(m, i, lanes, false, u32::wrapping_add)?,
            RedAddFloat => access::atomic(m, i, lanes, false, add_float_bits)?,
            RedAddShared => access::add_shared(m, i, pc, lanes)?,
            // A hint: an address that is in no allocation does no harm.
            Prefetch => {}
            CpAsync => apart(simd, || access::issue_copy(m, i, pc, lanes))?,
            CpAsyncCommit => access::commit(m.warp, lanes),
            CpAsyncWait => apart(simd, || access::wait(m, i.imm[0] as u32, lanes))?,
            CpAsyncWaitAll => {
                access::commit(m.warp, lanes);
                access::wait(m, 0, lanes)?;
            }

            Add => word2(r, i, lanes, u32::wrapping_add),
            Sub => word2(r, i, lanes, u32::wrapping_sub),
            Mul => word2(r, i, lanes, u32::wrapping_mul),
            MulHiU => word2(r, i, lanes, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
            MulHiS => word2(r, i, lanes, |a, b| (wide(a).wrapping_mul(wide(b)) >> 32) as u32),
            MulWideU => widen2(r, i, lanes, |a, b| u64::from(a) * u64::from(b)),
            MulWideS => widen2(r, i, lanes, |a, b| wide(a).wrapping_mul(wide(b)) as u64),
            Mad => word3(r, i, lanes, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            MadWideU => widen3(r, i, lanes, |a, b, c| (u64::from(a) * u64::from(b)).wrapping_add(c)),
            MadWideS => widen3(r, i, lanes, |a, b, c| (wide(a).wrapping_mul(wide(b)) as u64).wrapping_add(c)),
            // PTX leaves a division by zero open; here, as on an H200, quotient and remainder are all ones.
            DivU => word2(r, i, lanes, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
            DivS => word2(r, i, lanes, |a, b| if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 }),
            RemU => word2(r, i, lanes, |a, b| a.checked_rem(b).unwrap_or(u32::MAX)),
            RemS => word2(r, i, lanes, |a, b| if b == 0 { u32::MAX } else { (a as i32).wrapping_rem(b as i32) as u32 }),
            MinU => word2(r, i, lanes, u32::min),
            MinS => word2(r, i, lanes, |a, b| (a as i32).min(b as i32) as u32),
            MaxU => word2(r, i, lanes, u32::max),
            MaxS => word2(r, i, lanes, |a, b| (a as i32).max(b as i32) as u32),
            Neg => word1(r, i, lanes, u32::wrapping_neg),
            Abs => word1(r, i, lanes, |a| (a as i32).wrapping_abs() as u32),
            AddDouble => double2(r, i, lanes, u64::wrapping_add),
            SubDouble => double2(r, i, lanes, u64::wrapping_sub),
            MulDouble => double2(r, i, lanes, u64::wrapping_mul),
            MadDouble => {
                let mut out = *r.double(i.slots[3]);
                let (a, b) = (r.double(i.slots[1]), r.double(i.slots[2]));
                for lane in 0..32 {
                    out[lane] = a[lane].wrapping_mul(b[lane]).wrapping_add(out[lane]);
                }
                r.set_double(i.slots[0], &out, lanes);
            }
            MinDoubleU => double2(r, i, lanes, u64::min),
            MinDoubleS => double2(r, i, lanes, |a, b| (a as i64).min(b as i64) as u64),
            MaxDoubleU => double2(r, i, lanes, u64::max),
            MaxDoubleS => double2(r, i, lanes, |a, b| (a as i64).max(b as i64) as u64),

            And => word2(r, i, lanes, |a, b| a & b),
            Or => word2(r, i, lanes, |a, b| a | b),
            Xor => word2(r, i, lanes, |a, b| a ^ b),
            AndDouble => double2(r, i, lanes, |a, b| a & b),
            OrDouble => double2(r, i, lanes, |a, b| a | b),
            XorDouble => double2(r, i, lanes, |a, b| a ^ b),
            AndPred => r.set_pred(i.slots[0], r.pred(i.slots[1]) & r.pred(i.slots[2]), lanes),
            OrPred => r.set_pred(i.slots[0], r.pred(i.slots[1]) | r.pred(i.slots[2]), lanes),
            XorPred => r.set_pred(i.slots[0], r.pred(i.slots[1]) ^ r.pred(i.slots[2]), lanes),
            Not => word1(r, i, lanes, |a| !a),
            NotDouble => double2(r, &both(i), lanes, |a, _| !a),
            NotPred => r.set_pred(i.slots[0], !r.pred(i.slots[1]), lanes),
            Shl => word2(r, i, lanes, shl),
            ShrU => word2(r, i, lanes, shr),
            ShrS => word2(r, i, lanes, shr_signed),
            ShlDouble => double_word(r, i, lanes, |a, by| if by > 63 { 0 } else { a << (by & 63) }),
            ShrDoubleU => double_word(r, i, lanes, |a, by| if by > 63 { 0 } else { a >> (by & 63) }),
            ShrDoubleS => double_word(r, i, lanes, |a, by| (a as i64 >> by.min(63)) as u64),
            Bfe => word3(r, i, lanes, bfe),
            Bfi => {
                let mut out = *r.word(i.slots[4]);
                let (a, b, from) = (r.word(i.slots[1]), r.word(i.slots[2]), r.word(i.slots[3]));
                for lane in 0..32 {
                    out[lane] = bfi(a[lane], b[lane], from[lane], out[lane]);
                }
                r.set_word(i.slots[0], &out, lanes);
            }
            Popc => word1(r, i, lanes, u32::count_ones),
            Clz => word1(r, i, lanes, u32::leading_zeros),

            SetpU => {
                let (a, b) = (r.word(i.slots[1]), r.word(i.slots[2]));
                r.set_pred(i.slots[0], compare(i.aux, |lane| (a[lane], b[lane])), lanes);
            }
            SetpS => {
                let (a, b) = (r.word(i.slots[1]), r.word(i.slots[2]));
                r.set_pred(i.slots[0], compare(i.aux, |lane| (a[lane] as i32, b[lane] as i32)), lanes);
            }
            SetpFloat => {
                let (a, b) = (r.word(i.slots[1]), r.word(i.slots[2]));
                let at = |lane: usize| (f32::from_bits(a[lane]), f32::from_bits(b[lane]));
                r.set_pred(i.slots[0], compare(i.aux, at), lanes);
            }
            SetpDoubleU => {
                let (a, b) = (r.double(i.slots[1]), r.double(i.slots[2]));
                r.set_pred(i.slots[0], compare(i.aux, |lane| (a[lane], b[lane])), lanes);
            }
            SetpDoubleS => {
                let (a, b) = (r.double(i.slots[1]), r.double(i.slots[2]));
                r.set_pred(i.slots[0], compare(i.aux, |lane| (a[lane] as i64, b[lane] as i64)), lanes);
            }

            FAdd => float2(r, i, lanes, |a, b| a + b),
            FSub => float2(r, i, lanes, |a, b| a - b),
            FMul => float2(r, i, lanes, |a, b| a * b),
            Fma => float3(r, i, lanes, f32::mul_add),
            Div => float2(r, i, lanes, |a, b| a / b),
            DivFlush => float2(r, i, lanes, div_flush),
            FMin => float2(r, i, lanes, fmin),
            FMax => float2(r, i, lanes, fmax),
            FNeg => float1(r, i, lanes, |a| -a),
            FAbs => float1(r, i, lanes, f32::abs),
            Ex2 => float1(r, i, lanes, ex2),
            Lg2 => float1(r, i, lanes, lg2),
            Rcp => float1(r, i, lanes, rcp),
            Rsqrt => float1(r, i, lanes, rsqrt),
            Tanh => float1(r, i, lanes, |a| f64::from(a).tanh() as f32),

            WidenU => widen2(r, &both(i), lanes, |a, _| u64::from(a)),
            WidenS => widen2(r, &both(i), lanes, |a, _| wide(a) as u64),
            Narrow => {
                let value = r.double(i.slots[1]).map(|a| a as u32);
                r.set_word(i.slots[0], &value, lanes);
            }
            FloatFromU => word1(r, i, lanes, |a| (a as f32).to_bits()),
            FloatFromS => word1(r, i, lanes, |a| (a as i32 as f32).to_bits()),
            // Saturates; a NaN gives 0.
            FloatToU => word1(r, i, lanes, |a| f32::from_bits(a) as u32),
            FloatToS => word1(r, i, lanes, |a| f32::from_bits(a) as i32 as u32),
            PackBf16 => word2(r, i, lanes, |high, low| bf16_bits(high) << 16 | bf16_bits(low)),
            PackF16 => word2(r, i, lanes, |high, low| f16_bits(high) << 16 | f16_bits(low)),
            ToBf16 => word1(r, i, lanes, bf16_bits),
            ToF16 => word1(r, i, lanes, f16_bits),
            FromF16 => word1(r, i, lanes, |a| canonical(mma::f32_of_f16(a & 0xffff))),
            // A shift: a NaN stays the one that it is.
            FromBf16 => word1(r, i, lanes, |a| a << 16),

            Bra => {
                let target = i.imm[0] as u32;
                if lanes == m.warp.paths.lanes {
                    m.warp.paths.pc = target;
                } else {
                    m.warp.paths.branch(lanes, target, i.aux);
                }
                if i.flags & POLLS != 0 && lanes != 0 {
                    m.polls += 1;
                    if m.polls == PATIENCE {
                        return Ok(());
                    }
                }
                continue;
            }
            Ret => {
                bulk::end(m, lanes)?;
                m.warp.paths.pc = pc + 1;
                if !m.warp.paths.end(lanes) {
                    m.warp.status = Status::Ended;
                    m.common.warp_ended();
                    return Ok(());
                }
                continue;
            }
            Trap => return Err(crate::fault::Trap::new(FaultKind::Trap, Some(lanes.trailing_zeros()))),
            BarSync => {
                if sync::barrier(m, i, lanes, true)? {
                    m.warp.paths.pc = pc + 1;
                    return Ok(());
                }
            }
            BarArrive => {
                sync::barrier(m, i, lanes, false)?;
            }
            BarWarp => {
                sync::members(m, i.slots[0], lanes)?;
                m.common.tick(m.number);
            }
            Fence => {
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                // `membar.cta` hands nothing to other CTAs.
                if i.aux != 0 {
                    m.common.fence(m.number);
                }
            }

            ProxyFence => {
                if i.aux == 0 {
                    m.common.fence_proxy(m.number);
                    mbarrier::fence(m);
                }
            }
            Mapa => cluster::map(m, i, lanes)?,
            MbarrierRemote => {
                if cluster::arrive_at(m, i, pc, lanes)? {
                    m.warp.paths.pc = pc + 1;
                    return Ok(());
                }
            }
            ClusterArrive => cluster::arrive(m, i, lanes)?,
            ClusterWait => {
                if cluster::wait(m, lanes)? {
                    m.warp.paths.pc = pc + 1;
                    return Ok(());
                }
            }
            CvtaParam => double2(r, &both(i), lanes, |a, _| a.wrapping_add(PARAM_WINDOW)),
            // What it is made of is nobody's affair.
            CreatePolicy => r.set_double(i.slots[0], &[0; 32], lanes),
            RedVector => access::atomic_vector(m, i, lanes, add_float_bits)?,
            RedVectorBf16 => access::atomic_vector(m, i, lanes, |a, b| add_pairs(TensorElem::Bf16, a, b))?,
            RedVectorF16 => access::atomic_vector(m, i, lanes, |a, b| add_pairs(TensorElem::F16, a, b))?,
            BulkLoad => {
                bulk::load(m, i, pc, lanes)?;
                if !m.common.place.outbox.is_empty() {
                    m.warp.paths.pc = pc + 1;
                    return Ok(());
                }
            }
            BulkPass => {
                bulk::pass(m, i, pc, lanes)?;
                if !m.common.place.outbox.is_empty() {
                    m.warp.paths.pc = pc + 1;
                    return Ok(());
                }
            }
            BulkStore => bulk::store(m, i, pc, lanes)?,
            TensorCast => {
                bulk::cast_tensor(m, i, pc, lanes)?;
                if !m.common.place.outbox.is_empty() {
                    m.warp.paths.pc = pc + 1;
                    return Ok(());
                }
            }
            TensorLoad => {
                bulk::load_tensor(m, i, pc, lanes)?;
                if !m.common.place.outbox.is_empty() {
                    m.warp.paths.pc = pc + 1;
                    return Ok(());
                }
            }
            TensorStore => bulk::store_tensor(m, i, pc, lanes, false)?,
            TensorAdd => bulk::store_tensor(m, i, pc, lanes, true)?,
            TensorPrefetch => bulk::prefetch(m, i, lanes)?,
            BulkCommit => bulk::commit(m, lanes),
            BulkWait => bulk::wait(m, i.imm[0] as u32, lanes, i.aux != 0)?,
            CpAsyncArrive => bulk::arrive(m, i, pc, lanes)?,
            MbarrierInit => mbarrier::init(m, i, pc, lanes)?,
            MbarrierInval => mbarrier::invalidate(m, i, pc, lanes)?,
            MbarrierFence => mbarrier::fence(m),
            MbarrierArrive => mbarrier::arrive(m, i, pc, lanes)?,
            MbarrierExpect => mbarrier::expect(m, i, pc, lanes, true)?,
            MbarrierTx => mbarrier::expect(m, i, pc, lanes, false)?,
            MbarrierTry => {
                if mbarrier::wait(m, i, pc, lanes, true)? {
                    return Ok(());
                }
            }
            MbarrierTest => {
                mbarrier::wait(m, i, pc, lanes, false)?;
            }
            SetRegisters => {
                if sync::set_registers(m, i, pc, lanes)? {
                    m.warp.paths.pc = pc + 1;
                    return Ok(());
                }
            }
            Nothing => {}

            Elect => sync::elect(m, i, lanes)?,
            Shfl => apart(simd, || sync::shuffle(m, i, lanes))?,
            Ballot => {
                sync::members(m, i.slots[2], lanes)?;
                let value = m.warp.registers.pred(i.slots[1]) & lanes;
                m.warp.registers.set_word(i.slots[0], &[value; 32], lanes);
            }
            VoteAny | VoteAll => {
                sync::members(m, i.slots[2], lanes)?;
                let value = m.warp.registers.pred(i.slots[1]) & lanes;
                let holds = if i.micro == VoteAny { value != 0 } else { value == lanes };
                m.warp.registers.set_pred(i.slots[0], if holds { ALL } else { 0 }, lanes);
            }
            Match => sync::matching(m, i, lanes)?,
            ReduxAdd => sync::reduce(m, i, lanes, u32::wrapping_add)?,
            ReduxMinU => sync::reduce(m, i, lanes, u32::min)?,
            ReduxMaxU => sync::reduce(m, i, lanes, u32::max)?,
            ReduxMinS => sync::reduce(m, i, lanes, |a, b| (a as i32).min(b as i32) as u32)?,
            ReduxMaxS => sync::reduce(m, i, lanes, |a, b| (a as i32).max(b as i32) as u32)?,

            Ldmatrix => {
                sync::together(lanes)?;
                apart(simd, || access::ldmatrix(m, i, pc, false))?;
            }
            LdmatrixTrans => {
                sync::together(lanes)?;
                apart(simd, || access::ldmatrix(m, i, pc, true))?;
            }
            Stmatrix => {
                sync::together(lanes)?;
                apart(simd, || access::stmatrix(m, i, pc, false))?;
            }
            StmatrixTrans => {
                sync::together(lanes)?;
                apart(simd, || access::stmatrix(m, i, pc, true))?;
            }
            Wgmma => wgmma::issue(m, i, pc, lanes)?,
            WgmmaFence => wgmma::fence(m, lanes)?,
            WgmmaCommit => wgmma::commit(m, lanes)?,
            WgmmaWait => {
                if wgmma::wait(m, i.imm[0] as u32, lanes)? {
                    m.warp.paths.pc = pc + 1;
                    return Ok(());
                }
            }
            MmaK16Bf16 => {
                sync::together(lanes)?;
                apart(simd, || mma_k16(m, i, piece_bf16));
            }
            MmaK16F16 => {
                sync::together(lanes)?;
                apart(simd, || mma_k16(m, i, piece_f16));
            }
            MmaK8Bf16 => {
                sync::together(lanes)?;
                apart(simd, || mma_k8(m, i, piece_bf16));
            }
            MmaK8F16 => {
                sync::together(lanes)?;
                apart(simd, || mma_k8(m, i, piece_f16));
            }
        }
        m.warp.paths.pc = pc + 1;
    }
}

/// An instruction with one source, for a function of two.
#[inline(always)]
fn both(i: &Inst) -> Inst {
    let mut twice = i.clone();
    twice.slots[2] = i.slots[1];
    twice
}

/// A word as a signed integer of 64 bits.
#[inline(always)]
const fn wide(a: u32) -> i64 {
    a as i32 as i64
}

/// Adds in global memory flush subnormals, of operands and results (PTX ISA, "atom").
pub(crate) fn add_float_bits(a: u32, b: u32) -> u32 {
    canonical(flush(flush(f32::from_bits(a)) + flush(f32::from_bits(b))))
}

/// Adds of bulk copies keep subnormals, as an H200 does.
pub(crate) fn add_whole_float_bits(a: u32, b: u32) -> u32 {
    canonical(f32::from_bits(a) + f32::from_bits(b))
}

/// Adds both halves of a word.
fn add_pairs(elem: TensorElem, a: u32, b: u32) -> u32 {
    let add = |shift: u32| bulk::add_halves(elem, a >> shift & 0xffff, b >> shift & 0xffff) << shift;
    add(0) | add(16)
}

fn param(params: &[u8], offset: i64) -> u32 {
    let at = offset as usize;
    params[at..at + 4].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

#[inline(always)]
fn mma_k16(m: &mut Machine<'_, '_, '_>, i: &Inst, piece: impl Fn(&[u32; 32]) -> mma::Piece) {
    let r = &mut m.warp.registers;
    let s = &i.slots;
    let a = [[piece(r.word(s[4])), piece(r.word(s[5]))], [piece(r.word(s[6])), piece(r.word(s[7]))]];
    let b = [piece(r.word(s[8])), piece(r.word(s[9]))];
    let d = mma::mma(a, b, [r.word(s[10]), r.word(s[11]), r.word(s[12]), r.word(s[13])]);
    for (slot, value) in s.iter().zip(&d) {
        r.set_word(*slot, value, ALL);
    }
}

#[inline(always)]
fn mma_k8(m: &mut Machine<'_, '_, '_>, i: &Inst, piece: impl Fn(&[u32; 32]) -> mma::Piece) {
    let r = &mut m.warp.registers;
    let s = &i.slots;
    let a = [[piece(r.word(s[4])), piece(r.word(s[5]))]];
    let b = [piece(r.word(s[6]))];
    let d = mma::mma(a, b, [r.word(s[7]), r.word(s[8]), r.word(s[9]), r.word(s[10])]);
    for (slot, value) in s.iter().zip(&d) {
        r.set_word(*slot, value, ALL);
    }
}

/// The guard of a tracked instruction was written in every lane that asks it.
#[cold]
#[inline(never)]
fn check_guard(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    for &(file, slot, reg) in &m.kernel.tracks[pc as usize].reads {
        if reg.class == lacuna_ptx::Class::Pred && slot == i.guard {
            unwritten(m, (file, slot, reg), lanes)?;
        }
    }
    Ok(())
}

/// Sources were written in every lane that runs, and destinations now are.
#[inline(never)]
fn track(m: &mut Machine<'_, '_, '_>, i: &Inst, pc: u32, lanes: u32) -> Result<(), Box<Trap>> {
    let track = &m.kernel.tracks[pc as usize];
    for &read in &track.reads {
        if read.2.class != lacuna_ptx::Class::Pred || read.1 != i.guard {
            unwritten(m, read, lanes)?;
        }
    }
    for &(file, slot) in &track.writes {
        *m.warp.registers.written(file, slot) |= lanes;
    }
    Ok(())
}

pub(crate) fn unwritten(
    m: &mut Machine<'_, '_, '_>,
    (file, slot, reg): (crate::decode::File, crate::decode::Slot, lacuna_ptx::Reg),
    lanes: u32,
) -> Result<(), Box<Trap>> {
    let missing = lanes & !*m.warp.registers.written(file, slot);
    if missing == 0 {
        return Ok(());
    }
    let register = format!("%{}{}", reg.class.letter(), reg.index);
    Err(crate::fault::Trap::new(FaultKind::UnwrittenRegister { register }, Some(missing.trailing_zeros())))
}
