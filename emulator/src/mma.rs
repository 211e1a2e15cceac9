//! The tensor core's arithmetic and the fragments' layouts (PTX ISA, "Matrix fragments for mma.m16n8k16").
//!
//! Lane `l` has row `l / 4` and columns `2 (l % 4) + {0, 1}` of every 8 x 8 piece, so a register of a fragment, read in
//! the order of the lanes, is a piece in row-major order; B's pieces are transposed.
//!
//! Products of 16-bit elements are exact, and every sum is an f32 fused multiply-add in ascending `k`, rounded to
//! nearest, beginning with the accumulator. Hardware aligns the products at the largest and truncates. From the exact sum, in
//! 2^-23 of its largest term or itself, an H200 is at most 2 away and this at most 4, on the drawn operands of
//! `tests/tests/conformance.rs`.

use crate::warp::Words;

/// An 8 x 8 piece in f32.
pub(crate) type Piece = [f32; 64];

/// bf16 to f32 in each half.
#[inline(always)]
pub(crate) fn piece_bf16(register: &Words) -> Piece {
    let mut piece = [0.0; 64];
    for lane in 0..32 {
        piece[2 * lane] = f32::from_bits(register[lane] << 16);
        piece[2 * lane + 1] = f32::from_bits(register[lane] & 0xffff_0000);
    }
    piece
}

/// f16 to f32 in each half.
#[inline(always)]
pub(crate) fn piece_f16(register: &Words) -> Piece {
    let mut piece = [0.0; 64];
    for lane in 0..32 {
        piece[2 * lane] = f32_of_f16(register[lane] & 0xffff);
        piece[2 * lane + 1] = f32_of_f16(register[lane] >> 16);
    }
    piece
}

/// The value of an f16 by its bits.
#[inline(always)]
pub(crate) fn f32_of_f16(bits: u32) -> f32 {
    // Moved into place, the exponent is 112 too small; a multiplication sets that right, subnormals included.
    let magnitude = (bits & 0x7fff) << 13;
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = 0x7f80_0000 | magnitude & 0x007f_ffff;
    let value = if bits & 0x7c00 == 0x7c00 { special } else { finite };
    f32::from_bits(value | (bits & 0x8000) << 16)
}

#[inline(always)]
fn transposed(piece: &Piece) -> Piece {
    let mut out = [0.0; 64];
    for row in 0..8 {
        for column in 0..8 {
            out[column * 8 + row] = piece[row * 8 + column];
        }
    }
    out
}

/// `rows += a b` for eight rows of the accumulator.
#[inline(always)]
fn multiply_rows(rows: &mut Piece, a: &Piece, b: &Piece) {
    for row in 0..8 {
        let mut sum = [0.0; 8];
        sum.copy_from_slice(&rows[row * 8..row * 8 + 8]);
        for k in 0..8 {
            let a = a[row * 8 + k];
            for column in 0..8 {
                sum[column] = a.mul_add(b[k * 8 + column], sum[column]);
            }
        }
        rows[row * 8..row * 8 + 8].copy_from_slice(&sum);
    }
}

/// `d = a b + c` for m16n8k(8 K): `a` has `2 K` registers, `b` has `K`.
#[inline(always)]
pub(crate) fn mma<const K: usize>(a: [[Piece; 2]; K], b: [Piece; K], c: [&Words; 4]) -> [Words; 4] {
    let mut d = [[0; 32]; 4];
    let b = b.map(|piece| transposed(&piece));
    for half in 0..2 {
        let mut rows = [0.0; 64];
        for lane in 0..32 {
            rows[2 * lane] = f32::from_bits(c[2 * half][lane]);
            rows[2 * lane + 1] = f32::from_bits(c[2 * half + 1][lane]);
        }
        for k in 0..K {
            multiply_rows(&mut rows, &a[k][half], &b[k]);
        }
        for lane in 0..32 {
            d[2 * half][lane] = canonical(rows[2 * lane]);
            d[2 * half + 1][lane] = canonical(rows[2 * lane + 1]);
        }
    }
    d
}

/// The bits of a result: a NaN is the one that the hardware makes.
#[inline(always)]
pub(crate) fn canonical(value: f32) -> u32 {
    if value.is_nan() { 0x7fff_ffff } else { value.to_bits() }
}

/// The four registers of a transposed `ldmatrix`: lane `l` gets rows `2 (l % 4) + {0, 1}` of column `l / 4`.
#[inline(always)]
pub(crate) fn transpose_halves(register: &Words) -> Words {
    let mut halves = [0u16; 64];
    for (i, word) in register.iter().enumerate() {
        halves[2 * i] = *word as u16;
        halves[2 * i + 1] = (*word >> 16) as u16;
    }
    let mut out = [0; 32];
    for (lane, out) in out.iter_mut().enumerate() {
        let (column, row) = (lane / 4, 2 * (lane % 4));
        *out = u32::from(halves[row * 8 + column]) | u32::from(halves[row * 8 + 8 + column]) << 16;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_what_half_says() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f32_of_f16(bits.into()), half::f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn transposing_twice_is_nothing() {
        let register: Words = std::array::from_fn(|i| (i as u32).wrapping_mul(0x9e37_79b9));
        assert_ne!(transpose_halves(&register), register);
        assert_eq!(transpose_halves(&transpose_halves(&register)), register);
    }
}
