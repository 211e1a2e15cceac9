//! Matrix descriptors of `wgmma` (PTX ISA 9.7.15.5.1, "Matrix Descriptor Format"), and where they say that operands lie.
//!
//! An operand is 64 or N by 16 elements of 16 bits, in granules of 8 along the dimension that is contiguous: k where it is
//! K-major, else M or N. `W` is the width of the swizzle in bytes; the swizzle exchanges granules by the bits of the address
//! in shared memory, so that it does not matter where in its pattern a descriptor starts.
//!
//! | | granule `(i / 8, j)`, or `(i, j / 8)` where it is K-major, lies at |
//! |---|---|
//! | K-major, swizzled | `start + i % 8 * W + i / 8 * stride + j / 8 * 16` |
//! | K-major, plain | `start + i % 8 * 16 + i / 8 * stride + j / 8 * leading` |
//! | MN-major, swizzled | `start + i % (W / 2) * 2 + i / (W / 2) * leading + j % 8 * W + j / 8 * stride` |
//! | MN-major, plain | `start + i / 8 * stride + j % 8 * 16 + j / 8 * leading` |

/// Elements along k of one instruction.
pub(crate) const K: usize = 16;

/// The dimension along which an operand is contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Major {
    K,
    Mn,
}

/// A matrix descriptor, in granules of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    /// Granules of a row of the swizzle's pattern: 1 without a swizzle.
    width: u32,
}

impl Descriptor {
    /// Takes a descriptor apart.
    ///
    /// # Errors
    /// When it has bits that this hardware gives no meaning, or a base offset, which the emulator does not know.
    pub(crate) fn new(bits: u64) -> Result<Descriptor, String> {
        const KNOWN: u64 = 0xc00e_3fff_3fff_3fff;
        if bits & !KNOWN != 0 {
            return Err(format!(
                "the matrix descriptor {bits:#018x} has bits {:#018x}, which mean nothing on sm_90a: start, leading and stride \
                 byte offsets are 14 bits each, divided by 16, at 0, 16 and 32, the swizzle is at 62",
                bits & !KNOWN
            ));
        }
        let offset = bits >> 49 & 7;
        if offset != 0 {
            return Err(format!(
                "the matrix descriptor {bits:#018x} has a base offset of {offset}: the emulator knows tiles that begin where the \
                 swizzle's pattern does (1024, 512 or 256 bytes), whose base offset is 0"
            ));
        }
        let field = |at: u32| (bits >> at) as u32 & 0x3fff;
        let width = [1, 8, 4, 2][(bits >> 62) as usize];
        Ok(Descriptor { start: field(0), leading: field(16), stride: field(32), width })
    }

    /// Whose granules go where: a granule's address over 16.
    const fn swizzled(self, granule: u32) -> u32 {
        granule ^ granule >> 3 & (self.width - 1)
    }

    /// The granules of an operand of `extent` rows (or columns): in K-major order `(i, j / 8)`, in MN-major order
    /// `(j, i / 8)`, as addresses over 16.
    pub(crate) fn granules(self, major: Major, extent: usize) -> Vec<u32> {
        let width = self.width;
        let at = |offset: u32| self.swizzled(self.start.wrapping_add(offset));
        match (major, width) {
            (Major::K, 1) => pairs(extent, 2, |i, c| at(i % 8 + i / 8 * self.stride + c * self.leading)),
            (Major::K, _) => pairs(extent, 2, |i, c| at(i % 8 * width + i / 8 * self.stride + c)),
            (Major::Mn, 1) => pairs(K, extent / 8, |j, c| at(c * self.stride + j % 8 + j / 8 * self.leading)),
            (Major::Mn, _) => pairs(K, extent / 8, |j, c| {
                at(c % width + c / width * self.leading + j % 8 * width + j / 8 * self.stride)
            }),
        }
    }
}

fn pairs(outer: usize, inner: usize, f: impl Fn(u32, u32) -> u32) -> Vec<u32> {
    (0..outer as u32).flat_map(|a| (0..inner as u32).map(move |b| (a, b))).map(|(a, b)| f(a, b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address of element `(row, column)` of a tile that lies as TMA lays it: panels of `width` bytes, rows beneath
    /// each other, granules exchanged by the row's address (cuTensorMapEncodeTiled, "swizzle").
    fn placed(rows: u32, width: u32, row: u32, column: u32) -> u32 {
        let address = column * 2 / width * rows * width + row * width + column * 2 % width;
        address ^ (address >> 7 & (width / 16 - 1)) << 4
    }

    fn descriptor(start: u32, leading: u32, stride: u32, swizzle: u64) -> Descriptor {
        let bits = u64::from(start >> 4) | u64::from(leading >> 4) << 16 | u64::from(stride >> 4) << 32 | swizzle << 62;
        Descriptor::new(bits).unwrap()
    }

    #[test]
    fn a_k_major_operand_is_a_step_of_16_columns_of_a_swizzled_tile() {
        for (width, swizzle) in [(128, 1), (64, 2), (32, 3)] {
            for (rows, columns) in [(64, 64), (128, 128), (80, 256), (8, 192)] {
                for step in 0..columns / 16 {
                    let per_panel = width / 32;
                    let start = step / per_panel * rows * width + step % per_panel * 32;
                    let granules = descriptor(start, 16, 8 * width, swizzle).granules(Major::K, rows as usize);
                    for row in 0..rows {
                        for half in 0..2 {
                            let expected = placed(rows, width, row, step * 16 + 8 * half) / 16;
                            assert_eq!(
                                granules[(row * 2 + half) as usize],
                                expected,
                                "{width} {rows} {columns} {step}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_mn_major_operand_is_16_rows_of_a_swizzled_tile() {
        for (width, swizzle) in [(128, 1), (64, 2), (32, 3)] {
            for (rows, columns) in [(64, 64), (128, 128), (80, 256), (16, 80)] {
                for step in 0..rows / 16 {
                    let start = step * 16 * width;
                    let granules =
                        descriptor(start, rows * width, 8 * width, swizzle).granules(Major::Mn, columns as usize);
                    for k in 0..16 {
                        for c in 0..columns / 8 {
                            let expected = placed(rows, width, step * 16 + k, 8 * c) / 16;
                            assert_eq!(granules[(k * columns / 8 + c) as usize], expected, "{width} {rows} {columns}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_swizzle_core_matrices_lie_where_the_offsets_say() {
        let plain = descriptor(0x400, 0x80, 0x300, 0);
        let k_major = plain.granules(Major::K, 24);
        assert_eq!(k_major[..4], [0x40, 0x48, 0x41, 0x49]);
        assert_eq!(k_major[2 * 8..2 * 8 + 2], [0x70, 0x78]);
        let mn_major = plain.granules(Major::Mn, 24);
        assert_eq!(mn_major[..6], [0x40, 0x70, 0xa0, 0x41, 0x71, 0xa1]);
        assert_eq!(mn_major[3 * 8], 0x48);
    }

    #[test]
    fn descriptors_of_other_hardware_are_refused() {
        assert!(Descriptor::new(1 << 46).unwrap_err().contains("0x0000400000000000"));
        assert!(Descriptor::new(0x4000_0040_0001_0000 | 3 << 49).unwrap_err().contains("base offset of 3"));
    }
}
