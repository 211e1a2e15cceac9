//! The arithmetic of a warpgroup: an accumulator of 64 by N in f32, and products of 16-bit operands onto it.
//!
//! Row `16 w + l / 4 + 8 h` and columns `8 j + 2 (l % 4) + {0, 1}` of an accumulator are registers `4 j + 2 h + {0, 1}` of lane
//! `l` of the warpgroup's warp `w`; a fragment of A in registers has the same rows, and k in the place of columns (PTX ISA
//! 9.7.15.5.1.1). So what holds for `mma.sync` in [`mma`](crate::mma) holds of each warp's sixteen rows.
//!
//! Products of 16-bit elements are exact, and every sum is an f32 fused multiply-add in ascending `k`, rounded to nearest,
//! beginning with the accumulator, as in [`mma`](crate::mma). Hardware aligns the sixteen products of an instruction and the
//! accumulator at the largest of them and cuts off what is below: it is nearer to the exact sum of one instruction, and always
//! errs towards zero.

use pulp::Simd;

use super::descriptor::{K, Major};
use crate::mma::{canonical, f32_of_f16, piece_bf16, piece_f16};
use crate::warp::Words;

/// Rows of an accumulator.
pub(crate) const ROWS: usize = 64;

/// Rows that are computed together: as many sums are in registers, and as many times an element of B is used.
const BAND: usize = 4;

/// Columns of a row are filled up to a multiple of this, which every vector divides.
const LANES: usize = 16;

/// Elements of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Bf16,
    F16,
}

/// The elements of granules.
#[inline(always)]
fn widen(element: Element, granules: &[[u32; 4]], to: &mut Vec<[f32; 8]>) {
    to.clear();
    match element {
        Element::Bf16 => to.extend(granules.iter().map(|granule| {
            std::array::from_fn(|i| {
                f32::from_bits(if i % 2 == 0 { granule[i / 2] << 16 } else { granule[i / 2] & 0xffff_0000 })
            })
        })),
        Element::F16 => to.extend(granules.iter().map(|granule| {
            std::array::from_fn(|i| f32_of_f16(if i % 2 == 0 { granule[i / 2] & 0xffff } else { granule[i / 2] >> 16 }))
        })),
    }
}

/// An accumulator in row-major order, and room for operands.
#[derive(Debug, Default)]
pub(crate) struct Tile {
    columns: usize,
    /// Columns that a row has room for.
    stride: usize,
    /// `[row][column]`.
    sums: Vec<f32>,
    /// `[row][k]`.
    a: Vec<f32>,
    /// `[k][column]`.
    b: Vec<f32>,
    /// Granules of an operand.
    wide: Vec<[f32; 8]>,
}

impl Tile {
    /// An accumulator of zeros.
    pub(crate) fn clear(&mut self, columns: usize) {
        (self.columns, self.stride) = (columns, columns.next_multiple_of(LANES));
        self.sums.clear();
        self.sums.resize(ROWS * self.stride, 0.0);
        self.b.resize(K * self.stride, 0.0);
    }

    /// Takes a warp's part of the accumulator; `register` gives its registers in order.
    #[inline(always)]
    pub(crate) fn load<'r>(&mut self, warp: usize, register: impl Fn(usize) -> &'r Words) {
        for group in 0..self.columns / 8 {
            for half in 0..2 {
                let (even, odd) = (register(4 * group + 2 * half), register(4 * group + 2 * half + 1));
                let mut piece = [0.0; 64];
                for lane in 0..32 {
                    piece[2 * lane] = f32::from_bits(even[lane]);
                    piece[2 * lane + 1] = f32::from_bits(odd[lane]);
                }
                for (row, from) in piece.chunks_exact(8).enumerate() {
                    let at = (16 * warp + 8 * half + row) * self.stride + 8 * group;
                    self.sums[at..at + 8].copy_from_slice(from);
                }
            }
        }
    }

    /// Gives a warp's part of the accumulator: register by register.
    #[inline(always)]
    pub(crate) fn store(&self, warp: usize, mut register: impl FnMut(usize, &Words)) {
        for group in 0..self.columns / 8 {
            for half in 0..2 {
                let mut piece = [0.0; 64];
                for (row, to) in piece.chunks_exact_mut(8).enumerate() {
                    let at = (16 * warp + 8 * half + row) * self.stride + 8 * group;
                    to.copy_from_slice(&self.sums[at..at + 8]);
                }
                let (mut even, mut odd): (Words, Words) = ([0; 32], [0; 32]);
                for lane in 0..32 {
                    even[lane] = canonical(piece[2 * lane]);
                    odd[lane] = canonical(piece[2 * lane + 1]);
                }
                register(4 * group + 2 * half, &even);
                register(4 * group + 2 * half + 1, &odd);
            }
        }
    }

    /// Takes A's fragment of a warp, four registers.
    #[inline(always)]
    pub(crate) fn load_a(&mut self, warp: usize, element: Element, fragment: [&Words; 4]) {
        self.a.resize(ROWS * K, 0.0);
        for (r, register) in fragment.into_iter().enumerate() {
            let piece = match element {
                Element::Bf16 => piece_bf16(register),
                Element::F16 => piece_f16(register),
            };
            for (row, from) in piece.chunks_exact(8).enumerate() {
                let at = (16 * warp + 8 * (r & 1) + row) * K + 8 * (r >> 1);
                self.a[at..at + 8].copy_from_slice(from);
            }
        }
    }

    /// Takes all of A from its granules, in the order of its descriptor's.
    #[inline(always)]
    pub(crate) fn gather_a(&mut self, major: Major, element: Element, granules: &[[u32; 4]]) {
        self.a.resize(ROWS * K, 0.0);
        widen(element, granules, &mut self.wide);
        place(&mut self.a, major == Major::K, K, K, &self.wide);
    }

    /// Takes all of B, likewise.
    #[inline(always)]
    pub(crate) fn gather_b(&mut self, major: Major, element: Element, granules: &[[u32; 4]]) {
        widen(element, granules, &mut self.wide);
        place(&mut self.b, major == Major::Mn, self.columns, self.stride, &self.wide);
    }

    /// Changes the sign of A.
    pub(crate) fn negate_a(&mut self) {
        self.a.iter_mut().for_each(|value| *value = -*value);
    }

    /// `sums += a b`.
    #[inline(always)]
    pub(crate) fn multiply<S: Simd>(&mut self, simd: S) {
        let stride = self.stride;
        for (rows, a) in self.sums.chunks_exact_mut(BAND * stride).zip(self.a.chunks_exact(BAND * K)) {
            let (first, rest) = rows.split_at_mut(stride);
            let (second, rest) = rest.split_at_mut(stride);
            let (third, fourth) = rest.split_at_mut(stride);
            let rows = [first, second, third, fourth].map(|row| S::as_mut_simd_f32s(row).0);
            let b: [&[S::f32s]; K] = std::array::from_fn(|k| S::as_simd_f32s(&self.b[k * stride..][..stride]).0);
            for at in 0..rows[0].len() {
                let mut sums: [S::f32s; BAND] = std::array::from_fn(|row| rows[row][at]);
                for (k, b) in b.iter().enumerate() {
                    for row in 0..BAND {
                        sums[row] = simd.mul_add_f32s(simd.splat_f32s(a[row * K + k]), b[at], sums[row]);
                    }
                }
                for row in 0..BAND {
                    rows[row][at] = sums[row];
                }
            }
        }
    }
}

/// Puts granules into rows of `width` elements, `stride` apart: along them, or, where a granule's elements lie in a column,
/// eight rows at a time.
#[inline(never)]
fn place(to: &mut [f32], along: bool, width: usize, stride: usize, granules: &[[f32; 8]]) {
    if along {
        for (to, granules) in to.chunks_exact_mut(stride).zip(granules.chunks_exact(width / 8)) {
            for (to, granule) in to.chunks_exact_mut(8).zip(granules) {
                to.copy_from_slice(granule);
            }
        }
    } else {
        for (column, granules) in granules.chunks_exact(granules.len() / width).enumerate() {
            for (group, granule) in granules.iter().enumerate() {
                for (row, value) in granule.iter().enumerate() {
                    to[(8 * group + row) * stride + column] = *value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use pulp::Scalar;

    use super::*;

    /// Small integers, exact in every format.
    fn value(row: usize, column: usize) -> f32 {
        ((row * 37 + column * 11) % 15) as f32 - 7.0
    }

    fn bits(value: f32, element: Element) -> u32 {
        u32::from(match element {
            Element::Bf16 => bf16::from_f32(value).to_bits(),
            Element::F16 => f16::from_f32(value).to_bits(),
        })
    }

    fn granule(element: Element, at: impl Fn(usize) -> f32) -> [u32; 4] {
        std::array::from_fn(|i| bits(at(2 * i), element) | bits(at(2 * i + 1), element) << 16)
    }

    /// Granules of a matrix of `extent` by 16, whose element is `at(i, k)`.
    fn granules(major: Major, extent: usize, element: Element, at: impl Fn(usize, usize) -> f32) -> Vec<[u32; 4]> {
        match major {
            Major::K => (0..2 * extent).map(|g| granule(element, |e| at(g / 2, 8 * (g % 2) + e))).collect(),
            Major::Mn => {
                let wide = extent / 8;
                (0..K * wide).map(|g| granule(element, |e| at(8 * (g % wide) + e, g / wide))).collect()
            }
        }
    }

    #[test]
    fn products_are_exact_in_every_order_of_operands() {
        for element in [Element::Bf16, Element::F16] {
            for (columns, a, b) in [(8, Major::K, Major::K), (24, Major::Mn, Major::K), (40, Major::K, Major::Mn)] {
                let mut tile = Tile::default();
                tile.clear(columns);
                tile.gather_a(a, element, &granules(a, ROWS, element, value));
                tile.gather_b(b, element, &granules(b, columns, element, |n, k| value(k + 3, n)));
                tile.multiply(Scalar);
                tile.negate_a();
                tile.multiply(Scalar);
                tile.multiply(Scalar);
                for at in 0..ROWS * columns {
                    let (row, column) = (at / columns, at % columns);
                    let sum = tile.sums[row * tile.stride + column];
                    let exact: f32 = (0..K).map(|k| value(row, k) * value(k + 3, column)).sum();
                    assert_eq!(sum, -exact, "{element:?} {columns} {row} {column}");
                }
            }
        }
    }

    #[test]
    fn fragments_lie_as_the_manual_says() {
        let columns = 24;
        let mut tile = Tile::default();
        tile.clear(columns);
        for warp in 0..4 {
            let registers: Vec<Words> = (0..columns / 2)
                .map(|i| {
                    std::array::from_fn(|lane| {
                        let (row, column) =
                            (16 * warp + lane / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * (lane % 4) + i % 2);
                        value(row, column).to_bits()
                    })
                })
                .collect();
            tile.load(warp, |i| &registers[i]);
            let mut back = vec![[0; 32]; columns / 2];
            tile.store(warp, |i, register| back[i] = *register);
            assert_eq!(back, registers);
            let fragment: [Words; 4] = std::array::from_fn(|r| {
                std::array::from_fn(|lane| {
                    let (row, k) = (16 * warp + lane / 4 + 8 * (r % 2), 8 * (r / 2) + 2 * (lane % 4));
                    bits(value(row, k), Element::Bf16) | bits(value(row, k + 1), Element::Bf16) << 16
                })
            });
            tile.load_a(warp, Element::Bf16, fragment.each_ref());
        }
        assert!((0..ROWS * columns).all(|at| {
            let (row, column) = (at / columns, at % columns);
            tile.sums[row * tile.stride + column] == value(row, column)
        }));
        assert!((0..ROWS * K).all(|at| tile.a[at] == value(at / K, at % K)));
    }
}
