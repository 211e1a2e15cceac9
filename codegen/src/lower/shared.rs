//! Shared memory: where buffers stand, and how a tile lies in its slot.
//!
//! A tile is row-major with rows of `pitch` bytes; the 16-byte chunks of a row are permuted by the row's number, so that the
//! eight rows that one phase of `ldmatrix` reads lie in eight different groups of banks:
//!
//! ```text
//! pitch 128, 256:  chunk ^ (row & 7)            within each 128 bytes
//! pitch 64:        chunk ^ ((row >> 1) & 3)     two rows make 128 bytes
//! ```

use crate::ir::{Buffer, BufferId, Func, TableId};

/// Bytes of an `ldmatrix` row and of an asynchronous copy.
pub(super) const CHUNK: u32 = 16;

/// Where everything stands in a CTA's dynamic shared memory.
pub(super) struct Layout {
    offsets: Vec<u32>,
    tables: Vec<u32>,
    /// Where warps leave each other what reductions and prefix sums of lane tiles are made of.
    pub(super) exchange: u32,
    /// Bytes of everything.
    pub(super) bytes: u32,
}

/// How one tile lies in its slot.
#[derive(Clone, Copy)]
pub(super) struct TileLayout {
    /// Rows.
    pub(super) rows: u32,
    /// Bytes of a row.
    pub(super) pitch: u32,
}

impl Layout {
    /// Buffers, and over them `scratch` bytes for a merge; then tables, and `exchange` bytes for lane tiles.
    pub(super) fn new(func: &Func, scratch: u32, exchange: u32) -> Self {
        let mut bytes = 0;
        let offsets = func
            .buffers
            .iter()
            .map(|buffer| {
                let offset = bytes;
                bytes += TileLayout::of(func, buffer).bytes() * buffer.slots;
                offset
            })
            .collect();
        bytes = bytes.max(scratch);
        let tables = func
            .tables
            .iter()
            .map(|table| {
                let offset = bytes;
                bytes += 4 * func.axes[table.axis.index()].extent;
                offset
            })
            .collect();
        Self { offsets, tables, exchange: bytes, bytes: bytes + exchange }
    }

    pub(super) fn table(&self, table: TableId) -> u32 {
        self.tables[table.index()]
    }

    pub(super) fn offset(&self, buffer: BufferId) -> u32 {
        self.offsets[buffer.index()]
    }
}

impl TileLayout {
    pub(super) fn of(func: &Func, buffer: &Buffer) -> Self {
        let extent = |i: usize| func.axes[buffer.ty.axes[i].index()].extent;
        Self { rows: extent(0), pitch: extent(1) * buffer.ty.elem.bytes() }
    }

    pub(super) const fn bytes(self) -> u32 {
        self.rows * self.pitch
    }

    /// Chunks of a row.
    pub(super) const fn chunks(self) -> u32 {
        self.pitch / CHUNK
    }

    /// How many chunks are permuted among themselves.
    pub(super) const fn span(self) -> u32 {
        if self.pitch >= 128 { 8 } else { 4 }
    }

    /// How far right a row's number is shifted before its low bits permute the chunks.
    pub(super) const fn row_shift(self) -> u32 {
        if self.pitch >= 128 { 0 } else { 1 }
    }

    /// Rows after which the permutation repeats.
    pub(super) const fn period(self) -> u32 {
        8
    }
}
