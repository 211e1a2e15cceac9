//! Arithmetic on all the lanes of a warp. Everything here is inlined into the interpreter's loop, which is compiled for
//! the vector unit at hand.

use half::f16;

use crate::decode::Inst;
use crate::mma::canonical;
use crate::warp::{Doubles, Registers, Words};

#[inline(always)]
pub(crate) fn word1(r: &mut Registers<'_>, i: &Inst, lanes: u32, f: impl Fn(u32) -> u32) {
    let mut out: Words = [0; 32];
    let a = r.word(i.slots[1]);
    for lane in 0..32 {
        out[lane] = f(a[lane]);
    }
    r.set_word(i.slots[0], &out, lanes);
}

#[inline(always)]
pub(crate) fn word2(r: &mut Registers<'_>, i: &Inst, lanes: u32, f: impl Fn(u32, u32) -> u32) {
    let mut out: Words = [0; 32];
    let (a, b) = (r.word(i.slots[1]), r.word(i.slots[2]));
    for lane in 0..32 {
        out[lane] = f(a[lane], b[lane]);
    }
    r.set_word(i.slots[0], &out, lanes);
}

#[inline(always)]
pub(crate) fn word3(r: &mut Registers<'_>, i: &Inst, lanes: u32, f: impl Fn(u32, u32, u32) -> u32) {
    let mut out: Words = [0; 32];
    let (a, b, c) = (r.word(i.slots[1]), r.word(i.slots[2]), r.word(i.slots[3]));
    for lane in 0..32 {
        out[lane] = f(a[lane], b[lane], c[lane]);
    }
    r.set_word(i.slots[0], &out, lanes);
}

#[inline(always)]
pub(crate) fn float1(r: &mut Registers<'_>, i: &Inst, lanes: u32, f: impl Fn(f32) -> f32) {
    word1(r, i, lanes, |a| canonical(f(f32::from_bits(a))));
}

#[inline(always)]
pub(crate) fn float2(r: &mut Registers<'_>, i: &Inst, lanes: u32, f: impl Fn(f32, f32) -> f32) {
    word2(r, i, lanes, |a, b| canonical(f(f32::from_bits(a), f32::from_bits(b))));
}

#[inline(always)]
pub(crate) fn float3(r: &mut Registers<'_>, i: &Inst, lanes: u32, f: impl Fn(f32, f32, f32) -> f32) {
    word3(r, i, lanes, |a, b, c| canonical(f(f32::from_bits(a), f32::from_bits(b), f32::from_bits(c))));
}

#[inline(always)]
pub(crate) fn double2(r: &mut Registers<'_>, i: &Inst, lanes: u32, f: impl Fn(u64, u64) -> u64) {
    let mut out: Doubles = [0; 32];
    let (a, b) = (r.double(i.slots[1]), r.double(i.slots[2]));
    for lane in 0..32 {
        out[lane] = f(a[lane], b[lane]);
    }
    r.set_double(i.slots[0], &out, lanes);
}

/// A double and a word, for shifts.
#[inline(always)]
pub(crate) fn double_word(r: &mut Registers<'_>, i: &Inst, lanes: u32, f: impl Fn(u64, u32) -> u64) {
    let mut out: Doubles = [0; 32];
    let (a, b) = (r.double(i.slots[1]), r.word(i.slots[2]));
    for lane in 0..32 {
        out[lane] = f(a[lane], b[lane]);
    }
    r.set_double(i.slots[0], &out, lanes);
}

/// Two words into a double.
#[inline(always)]
pub(crate) fn widen2(r: &mut Registers<'_>, i: &Inst, lanes: u32, f: impl Fn(u32, u32) -> u64) {
    let mut out: Doubles = [0; 32];
    let (a, b) = (r.word(i.slots[1]), r.word(i.slots[2]));
    for lane in 0..32 {
        out[lane] = f(a[lane], b[lane]);
    }
    r.set_double(i.slots[0], &out, lanes);
}

/// Two words and a double into a double.
#[inline(always)]
pub(crate) fn widen3(r: &mut Registers<'_>, i: &Inst, lanes: u32, f: impl Fn(u32, u32, u64) -> u64) {
    let mut out: Doubles = [0; 32];
    let (a, b, c) = (r.word(i.slots[1]), r.word(i.slots[2]), r.double(i.slots[3]));
    for lane in 0..32 {
        out[lane] = f(a[lane], b[lane], c[lane]);
    }
    r.set_double(i.slots[0], &out, lanes);
}

/// One bit a lane: whether a relation holds.
#[inline(always)]
pub(crate) fn ballot(f: impl Fn(usize) -> bool) -> u32 {
    let mut bits = 0u32;
    for lane in 0..32 {
        bits |= u32::from(f(lane)) << lane;
    }
    bits
}

/// `a OP b` for the comparison that a `setp` has in `aux`, on anything ordered. A NaN makes it false.
#[inline(always)]
pub(crate) fn compare<T: Copy + PartialOrd>(which: u32, at: impl Fn(usize) -> (T, T)) -> u32 {
    macro_rules! relation {
        ($op:tt) => {
            ballot(|lane| {
                let (a, b) = at(lane);
                a $op b
            })
        };
    }
    match which {
        0 => relation!(==),
        1 => ballot(|lane| {
            let (a, b) = at(lane);
            // Not `!=`, which a NaN makes true.
            (a < b) | (a > b)
        }),
        2 => relation!(<),
        3 => relation!(<=),
        4 => relation!(>),
        _ => relation!(>=),
    }
}

/// A shift left by 32 or more gives 0.
#[inline(always)]
pub(crate) fn shl(a: u32, by: u32) -> u32 {
    if by > 31 { 0 } else { a << (by & 31) }
}

#[inline(always)]
pub(crate) fn shr(a: u32, by: u32) -> u32 {
    if by > 31 { 0 } else { a >> (by & 31) }
}

/// A shift right by 32 or more gives the sign.
#[inline(always)]
pub(crate) fn shr_signed(a: u32, by: u32) -> u32 {
    (a as i32 >> by.min(31)) as u32
}

/// `prmt.b32`: each nibble of the selector picks a byte of `b:a`, or its sign.
pub(crate) fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let pick = |i: u32| {
        let nibble = selector >> (4 * i) & 0xf;
        let byte = (bytes >> (8 * (nibble & 7))) as u32 & 0xff;
        let byte = if nibble & 8 == 0 { byte } else { (byte >> 7) * 0xff };
        byte << (8 * i)
    };
    pick(0) | pick(1) | pick(2) | pick(3)
}

/// `bfe.u32`: `len` bits of `a` from bit `from`.
pub(crate) fn bfe(a: u32, from: u32, len: u32) -> u32 {
    let (from, len) = (from & 0xff, len & 0xff);
    let field = if len > 31 { u32::MAX } else { (1 << len) - 1 };
    shr(a, from) & field
}

/// `bfi.b32`: `len` low bits of `a` put into `b` from bit `from`.
pub(crate) fn bfi(a: u32, b: u32, from: u32, len: u32) -> u32 {
    let (from, len) = (from & 0xff, len & 0xff);
    let field = if len > 31 { u32::MAX } else { (1 << len) - 1 };
    let field = shl(field, from);
    b & !field | shl(a, from) & field
}

/// The smaller; a NaN loses, and -0 is less than +0.
#[inline(always)]
pub(crate) fn fmin(a: f32, b: f32) -> f32 {
    let ordered = if a < b || (a == b && a.is_sign_negative()) { a } else { b };
    if b.is_nan() { a } else { ordered }
}

/// The larger; a NaN loses, and +0 is more than -0.
#[inline(always)]
pub(crate) fn fmax(a: f32, b: f32) -> f32 {
    let ordered = if a > b || (a == b && a.is_sign_positive()) { a } else { b };
    if b.is_nan() { a } else { ordered }
}

/// Subnormals to zero, with their sign.
#[inline(always)]
pub(crate) fn flush(a: f32) -> f32 {
    if a.to_bits() & 0x7f80_0000 == 0 { f32::from_bits(a.to_bits() & 0x8000_0000) } else { a }
}

/// 2^a, right to an f32 but for one in a million ties, subnormals flushed.
#[inline(always)]
pub(crate) fn ex2(a: f32) -> f32 {
    // Taylor's series of 2^x on [-1/2, 1/2], to 2e-13.
    const SERIES: [f64; 11] = [
        1.0,
        std::f64::consts::LN_2,
        0.240_226_506_959_100_7,
        5.550_410_866_482_158e-2,
        9.618_129_107_628_477e-3,
        1.333_355_814_642_844_3e-3,
        1.540_353_039_338_161e-4,
        1.525_273_380_405_984e-5,
        1.321_548_679_014_431e-6,
        1.017_808_600_923_969_9e-7,
        7.054_911_620_801_122e-9,
    ];
    // 1.5 * 2^52: added and taken away it rounds to an integer, which its low bits then hold.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let x = f64::from(if a >= -200.0 { a } else { -200.0 });
    let x = if x <= 200.0 { x } else { 200.0 };
    let rounded = x + ROUND;
    let f = x - (rounded - ROUND);
    let mut sum = SERIES[10];
    for i in (0..10).rev() {
        sum = sum.mul_add(f, SERIES[i]);
    }
    let scale = f64::from_bits((rounded.to_bits() << 52).wrapping_add(1023 << 52));
    let value = flush((sum * scale) as f32);
    if a.is_nan() { a } else { value }
}

#[inline(always)]
pub(crate) fn lg2(a: f32) -> f32 {
    f64::from(flush(a)).log2() as f32
}

#[inline(always)]
pub(crate) fn rcp(a: f32) -> f32 {
    flush(1.0 / flush(a))
}

#[inline(always)]
pub(crate) fn rsqrt(a: f32) -> f32 {
    let a = flush(a);
    if a == 0.0 { f32::INFINITY.copysign(a) } else { (1.0 / f64::from(a).sqrt()) as f32 }
}

/// `div.approx.ftz`. It multiplies by the divisor's inverse, which past 2^126 is flushed: then the result is 0, and NaN
/// for an infinite dividend (PTX ISA, "Floating Point Instructions: div").
#[inline(always)]
pub(crate) fn div_flush(a: f32, b: f32) -> f32 {
    let a = flush(a);
    let product = a * 0.0f32.copysign(b);
    let quotient = flush(a / flush(b));
    if b.abs() > TWO_126 && b.is_finite() { product } else { quotient }
}

/// 2^126.
const TWO_126: f32 = f32::from_bits(0x7e80_0000);

/// f32 to bf16 bits, to nearest even.
#[inline(always)]
pub(crate) fn bf16_bits(a: u32) -> u32 {
    let rounded = a.wrapping_add(0x7fff + (a >> 16 & 1)) >> 16;
    if a & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { rounded }
}

/// f32 to f16 bits, to nearest even.
pub(crate) fn f16_bits(a: u32) -> u32 {
    let value = f32::from_bits(a);
    if value.is_nan() { 0x7fff } else { u32::from(f16::from_f32(value).to_bits()) }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn ex2_is_right_to_the_last_place() {
        for i in -130_000..130_000 {
            let a = i as f32 * 1.000_123e-3;
            let exact = f64::from(a).exp2();
            let value = ex2(a);
            let expected = flush(exact as f32);
            assert!(
                value == expected || (f64::from(value) / exact - 1.0).abs() < 6.0e-8,
                "{a}: {value} for {expected}"
            );
        }
        assert_eq!(ex2(0.0), 1.0);
        assert_eq!(ex2(10.0), 1024.0);
        assert_eq!(ex2(f32::NEG_INFINITY), 0.0);
        assert_eq!(ex2(f32::INFINITY), f32::INFINITY);
        assert_eq!(ex2(-127.0), 0.0);
        assert!(ex2(f32::NAN).is_nan());
    }

    #[test]
    fn a_nan_loses_and_zeros_have_an_order() {
        assert_eq!(fmax(f32::NAN, -3.0), -3.0);
        assert_eq!(fmin(-3.0, f32::NAN), -3.0);
        assert!(fmax(f32::NAN, f32::NAN).is_nan());
        assert_eq!(fmax(-0.0, 0.0).to_bits(), 0);
        assert_eq!(fmax(0.0, -0.0).to_bits(), 0);
        assert_eq!(fmin(0.0, -0.0).to_bits(), 0x8000_0000);
    }

    #[test]
    fn bf16_rounds_to_even() {
        for bits in (0..=u32::MAX).step_by(65_521) {
            let value = f32::from_bits(bits);
            if !value.is_nan() {
                assert_eq!(bf16_bits(bits), u32::from(bf16::from_f32(value).to_bits()), "{bits:#x}");
            }
        }
        assert_eq!(bf16_bits(0x3f80_8000), 0x3f80);
        assert_eq!(bf16_bits(0x3f81_8000), 0x3f82);
    }

    #[test]
    fn bits_move_as_the_manual_says() {
        assert_eq!(prmt(0x3322_1100, 0x7766_5544, 0x7531), 0x7755_3311);
        assert_eq!(prmt(0x0000_0080, 0, 0x8888), 0xffff_ffff);
        assert_eq!(bfe(0xabcd_1234, 8, 12), 0xd12);
        assert_eq!(bfe(0xabcd_1234, 8, 0), 0);
        assert_eq!(bfi(0xff, 0, 28, 8), 0xf000_0000);
        assert_eq!((shl(1, 32), shr(1, 40), shr_signed(0x8000_0000, 99)), (0, 0, u32::MAX));
    }
}
