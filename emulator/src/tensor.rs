//! Tensor maps: what a bulk tensor copy knows of a tensor, and where the elements of a box lie in both memories.
//!
//! A box is `tile` elements along every dimension. In shared memory it is dense, the innermost dimension fastest, its 16-byte
//! pieces exchanged by the swizzle. In global memory an element is at
//!
//! ```text
//! base + coordinate 0 x bytes of an element + coordinate 1 x stride 1 + ..        modulo 2^64
//! ```
//!
//! and is in bounds where every coordinate is at least 0 and below its extent (PTX ISA, "Tensors"; CUDA driver API,
//! `cuTensorMapEncodeTiled`).
//!
//! Not every box is copied. What the PTX ISA leaves open an H200 answers, most of it with an illegal instruction, even where
//! nothing of the tensor is in the box:
//!
//! | box | load | store, add |
//! |---|---|---|
//! | coordinate 0 is no multiple of 16 bytes | illegal | illegal |
//! | a coordinate is below 0 | zeros there | illegal |
//! | a coordinate, or the box's end, is past the extent | zeros there | nothing there |
//! | the same, and rows of the tensor are no multiple of 16 bytes | zeros there | the last 16 bytes of a row are written whole |

use crate::fault::{FaultKind, Trap};

/// Where a parameter lies in the generic address space: far from all of global memory.
pub(crate) const PARAM_WINDOW: u64 = 1 << 60;

/// What a tensor map is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// The address of the element whose coordinates are all 0.
    pub base: u64,
    /// What it holds.
    pub elem: TensorElem,
    /// One to five dimensions, innermost first.
    pub dims: Vec<TensorDim>,
    /// How a box lies in shared memory.
    pub swizzle: Swizzle,
}

/// A dimension of a tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorDim {
    /// Elements.
    pub extent: u64,
    /// Bytes between two neighbours; of the innermost dimension those of an element.
    pub stride: u64,
    /// Elements of a box.
    pub tile: u32,
}

/// The type of a tensor's elements, which says what adding to one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorElem {
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
    /// 32-bit integer.
    I32,
}

impl TensorElem {
    /// Bytes of one.
    pub const fn bytes(self) -> u32 {
        match self {
            TensorElem::Bf16 | TensorElem::F16 => 2,
            TensorElem::F32 | TensorElem::I32 => 4,
        }
    }
}

/// Which bits of a shared address exchange its 16-byte pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Swizzle {
    /// None.
    #[default]
    None,
    /// Over 32 bytes: bit 4 by bit 7.
    B32,
    /// Over 64 bytes: bits 4 and 5 by bits 7 and 8.
    B64,
    /// Over 128 bytes: bits 4 to 6 by bits 7 to 9.
    B128,
}

impl Swizzle {
    /// Bytes that pieces are exchanged within.
    const fn span(self) -> Option<u64> {
        match self {
            Swizzle::None => None,
            Swizzle::B32 => Some(32),
            Swizzle::B64 => Some(64),
            Swizzle::B128 => Some(128),
        }
    }

    /// Where a byte of shared memory goes.
    pub(crate) const fn place(self, address: u32) -> u32 {
        let mask = match self {
            Swizzle::None => 0,
            Swizzle::B32 => 1,
            Swizzle::B64 => 3,
            Swizzle::B128 => 7,
        };
        address ^ (address >> 7 & mask) << 4
    }
}

/// What a shared address of a box must be a multiple of.
pub(crate) const BOX_ALIGN: u32 = 128;

impl TensorMap {
    /// Whether hardware can have it, as the driver finds out when it encodes one.
    ///
    /// # Errors
    /// What stands against it, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=5).contains(&self.dims.len()) {
            return Err(format!("a tensor map has 1 to 5 dimensions, and this one {}", self.dims.len()));
        }
        if !self.base.is_multiple_of(16) {
            return Err(format!("a tensor map begins at a multiple of 16 bytes, and this one at {:#x}", self.base));
        }
        for (number, dim) in self.dims.iter().enumerate() {
            if dim.extent == 0 || dim.extent > 1 << 32 {
                return Err(format!("dimension {number} has {} elements; expected 1 to 2^32", dim.extent));
            }
            if dim.tile == 0 || dim.tile > 256 {
                return Err(format!("a box has {} elements along dimension {number}; expected 1 to 256", dim.tile));
            }
            let stride = dim.stride;
            match number {
                0 if stride != u64::from(self.elem.bytes()) => {
                    return Err(format!("the innermost dimension is contiguous, and its stride is {stride} bytes"));
                }
                1.. if !stride.is_multiple_of(16) || stride >= 1 << 40 => {
                    return Err(format!(
                        "the stride of dimension {number} is {stride} bytes; expected a multiple of 16 below 2^40"
                    ));
                }
                _ => {}
            }
        }
        let (row, bytes) = (self.row_bytes(), self.box_bytes());
        if bytes >= 1 << 20 {
            return Err(format!("a box is {bytes} bytes, and an mbarrier counts less than 2^20"));
        }
        match self.swizzle.span() {
            _ if !row.is_multiple_of(16) => {
                Err(format!("the rows of a box are {row} bytes; expected a multiple of 16"))
            }
            Some(span) if row != span => {
                Err(format!("the rows of a box are {row} bytes; under a swizzle over {span} they are as long as that"))
            }
            _ => Ok(()),
        }
    }

    fn row_bytes(&self) -> u64 {
        u64::from(self.dims[0].tile) * u64::from(self.elem.bytes())
    }

    /// Bytes of a box.
    pub(crate) fn box_bytes(&self) -> u64 {
        self.dims[1..].iter().fold(self.row_bytes(), |bytes, dim| bytes * u64::from(dim.tile))
    }

    /// What of the box at these coordinates is in bounds, row by row.
    pub(crate) fn rows(
        &self,
        coords: &[i32],
        mut f: impl FnMut(Row) -> Result<(), Box<Trap>>,
    ) -> Result<(), Box<Trap>> {
        let bytes = self.elem.bytes();
        let first = i64::from(coords[0]);
        let (inner, extent) = (&self.dims[0], self.dims[0].extent as i64);
        let from = (-first).clamp(0, inner.tile.into());
        let to = (extent - first).clamp(from, inner.tile.into());
        if from == to {
            return Ok(());
        }
        let rows: u64 = self.dims[1..].iter().map(|dim| u64::from(dim.tile)).product();
        for row in 0..rows {
            let mut rest = row;
            let mut address = self.base.wrapping_add(((first + from) as u64).wrapping_mul(bytes.into()));
            let mut inside = true;
            for (dim, coord) in self.dims[1..].iter().zip(&coords[1..]) {
                let at = i64::from(*coord) + (rest % u64::from(dim.tile)) as i64;
                rest /= u64::from(dim.tile);
                inside &= at >= 0 && (at as u64) < dim.extent;
                address = address.wrapping_add((at as u64).wrapping_mul(dim.stride));
            }
            if inside {
                let offset = row as u32 * self.row_bytes() as u32 + from as u32 * bytes;
                f(Row { offset, address, bytes: (to - from) as u32 * bytes, last: first + to == extent })?;
            }
        }
        Ok(())
    }

    /// That hardware copies a box that begins here, to or from.
    pub(crate) fn check_begin(&self, coords: &[i32]) -> Result<(), Box<Trap>> {
        let (first, bytes) = (coords[0], self.elem.bytes());
        if (i64::from(first) * i64::from(bytes)).unsigned_abs().is_multiple_of(16) {
            return Ok(());
        }
        Err(operand(format!(
            "the rows of a box begin at a multiple of 16 bytes, and coordinate 0 is {first}, of elements of {bytes} bytes"
        )))
    }

    /// That hardware stores this box, or adds it, and writes what it says. It writes the innermost dimension's last 16 bytes
    /// whole: of rows of 104 bytes an H200 writes, and adds to, the 8 bytes behind them too.
    pub(crate) fn check_store(&self, coords: &[i32]) -> Result<(), Box<Trap>> {
        self.check_begin(coords)?;
        if let Some((number, coord)) = coords.iter().enumerate().find(|(_, coord)| **coord < 0) {
            return Err(operand(format!(
                "a tensor store or add does not begin before the tensor, and coordinate {number} is {coord}"
            )));
        }
        let extent = self.dims[0].extent * u64::from(self.elem.bytes());
        self.rows(coords, |row| {
            if row.last && !extent.is_multiple_of(16) {
                return Err(operand(format!(
                    "a tensor store writes multiples of 16 bytes, and rows of this tensor end after {extent}: it would write past \
                     their end"
                )));
            }
            Ok(())
        })
    }
}

fn operand(what: String) -> Box<Trap> {
    Trap::new(FaultKind::Operand(what), None)
}

/// A run of bytes of a box that are in bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// From the start of the box.
    pub(crate) offset: u32,
    /// In global memory.
    pub(crate) address: u64,
    pub(crate) bytes: u32,
    /// Whether it ends where the tensor does.
    last: bool,
}

impl Row {
    /// Bytes that need no map.
    pub(crate) const fn whole(address: u64, bytes: u32) -> Row {
        Row { offset: 0, address, bytes, last: false }
    }
}

/// The tensor maps among a launch's arguments, by their place in the parameter space.
#[derive(Clone, Debug, Default)]
pub(crate) struct Maps(pub(crate) Vec<(u32, TensorMap)>);

impl Maps {
    /// The map at a generic address.
    pub(crate) fn find(&self, address: u64) -> Option<&TensorMap> {
        let at = address.checked_sub(PARAM_WINDOW)?;
        self.0.iter().find(|(place, _)| u64::from(*place) == at).map(|(_, map)| map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dim(extent: u64, stride: u64, tile: u32) -> TensorDim {
        TensorDim { extent, stride, tile }
    }

    fn rows(map: &TensorMap, coords: &[i32]) -> Vec<(u32, u64, u32)> {
        let mut rows = Vec::new();
        map.rows(coords, |row| {
            rows.push((row.offset, row.address, row.bytes));
            Ok(())
        })
        .unwrap();
        rows
    }

    #[test]
    fn what_is_out_of_bounds_is_left_out_on_every_side() {
        let dims = vec![dim(20, 2, 8), dim(5, 64, 2), dim(3, 512, 2)];
        let map = TensorMap { base: 0x1000, elem: TensorElem::Bf16, dims, swizzle: Swizzle::None };
        assert_eq!(map.check(), Ok(()));
        assert_eq!(map.box_bytes(), 64);
        assert_eq!(rows(&map, &[0, 0, 0]), [(0, 0x1000, 16), (16, 0x1040, 16), (32, 0x1200, 16), (48, 0x1240, 16)]);
        assert_eq!(rows(&map, &[-3, -1, 2]), [(16 + 6, 0x1400, 10)]);
        assert_eq!(rows(&map, &[18, 4, -1]), [(32, 0x1000 + 36 + 256, 4)]);
        assert_eq!(rows(&map, &[20, 0, 0]), []);
        assert_eq!(rows(&map, &[-8, 0, 0]), []);
        assert_eq!(rows(&map, &[0, i32::MAX, 0]), []);
    }

    #[test]
    fn addresses_go_around() {
        // Rows that end where a document of 3 ends, which begins at row 7: see `rows` with x from 2^30 - 3 on.
        let (s, origin) = (256, 1 << 30);
        let dims = vec![dim(64, 2, 64), dim(1 << 30, s, 4), dim(0x7fff_0000, s, 1), dim(0x7fff_0000, (1 << 35) - s, 1)];
        let map = TensorMap { base: 0x10_0000, elem: TensorElem::F16, dims, swizzle: Swizzle::B128 };
        assert_eq!(map.check(), Ok(()));
        let row = |i: u64| (i as u32 * 128, 0x10_0000 + (7 + i) * s, 128);
        assert_eq!(rows(&map, &[0, origin - 3, 7 + 3, origin]), [row(0), row(1), row(2)]);
    }

    #[test]
    fn what_no_map_can_be() {
        let map = |change: fn(&mut TensorMap)| {
            let dims = vec![dim(64, 2, 64), dim(5, 128, 2)];
            let mut map = TensorMap { base: 0, elem: TensorElem::F16, dims, swizzle: Swizzle::B128 };
            change(&mut map);
            map.check().expect_err("it is none")
        };
        assert_eq!(map(|map| map.base = 8), "a tensor map begins at a multiple of 16 bytes, and this one at 0x8");
        assert_eq!(map(|map| map.dims.clear()), "a tensor map has 1 to 5 dimensions, and this one 0");
        assert_eq!(map(|map| map.dims[1].extent = 0), "dimension 1 has 0 elements; expected 1 to 2^32");
        assert_eq!(map(|map| map.dims[1].tile = 257), "a box has 257 elements along dimension 1; expected 1 to 256");
        assert_eq!(
            map(|map| map.dims[0].stride = 4),
            "the innermost dimension is contiguous, and its stride is 4 bytes"
        );
        let stride = "the stride of dimension 1 is 136 bytes; expected a multiple of 16 below 2^40";
        assert_eq!(map(|map| map.dims[1].stride = 136), stride);
        let bytes = "a box is 1048576 bytes, and an mbarrier counts less than 2^20";
        let large = |map: &mut TensorMap| map.dims = vec![dim(64, 2, 64), dim(256, 128, 256), dim(32, 65536, 32)];
        assert_eq!(map(large), bytes);
        let row = "the rows of a box are 64 bytes; under a swizzle over 128 they are as long as that";
        assert_eq!(map(|map| map.dims[0].tile = 32), row);
        assert_eq!(map(|map| map.dims[0].tile = 4), "the rows of a box are 8 bytes; expected a multiple of 16");
    }
}
