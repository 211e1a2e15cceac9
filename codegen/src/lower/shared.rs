//! Shared memory: where buffers stand, and how a tile lies in its slot.
//!
//! A tile is row-major with rows of `pitch` bytes; the 16-byte chunks of a row are permuted by the row's number, so that the
//! eight rows that one phase of `ldmatrix` reads lie in eight different groups of banks. With `span` the largest power of two
//! that divides the chunks of a row, 8 at most,
//!
//! ```text
//! chunk ^ ((row / (8 / span)) & (span - 1))     within each span
//!
//! pitch 128, 256, 384, 512:  span 8, every row begins at bank 0: its number alone tells rows apart
//! pitch 64, 192:             span 4, rows begin at banks 0 and 16 in turn: pairs of rows are told apart
//! ```
//!
//! Eight neighbouring rows begin at `8 / span` places in turn, and those that begin at the same place are permuted in `span`
//! different ways. A test goes through every pitch.

use crate::ir::{Buffer, BufferId, Func, TableId};

/// Bytes of an `ldmatrix` row and of an asynchronous copy.
pub(super) const CHUNK: u32 = 16;

/// Rows after which the permutation repeats, and groups of banks: 128 bytes in chunks.
pub(super) const PERIOD: u32 = 8;

/// Chunks of a panel at most: 256 bytes in a row are as good as more, and more rows a pass need fewer addresses.
const MAX_PANEL: u32 = 16;

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
        let power = 1 << self.chunks().trailing_zeros();
        if power < PERIOD { power } else { PERIOD }
    }

    /// How far right a row's number is shifted before its low bits permute the chunks.
    pub(super) const fn row_shift(self) -> u32 {
        (PERIOD / self.span()).trailing_zeros()
    }

    /// Chunks of a row that neighbouring threads copy: a power of two, so that a thread finds its row by a shift where the
    /// chunks of a row are no power. Whole spans, so that the next panel lies a constant further on.
    pub(super) const fn panel(self) -> u32 {
        let power = 1 << self.chunks().trailing_zeros();
        if power < MAX_PANEL { power } else { MAX_PANEL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a chunk lies, in chunks from the start of its tile.
    fn place(tile: TileLayout, row: u32, chunk: u32) -> u32 {
        row * tile.chunks() + (chunk ^ ((row >> tile.row_shift()) & (tile.span() - 1)))
    }

    fn tiles() -> impl Iterator<Item = TileLayout> {
        // Every width that is a multiple of 16, up to 512, of 16-bit elements.
        (1..=32).map(|n| TileLayout { rows: 64, pitch: 32 * n })
    }

    #[test]
    fn a_phase_of_ldmatrix_reads_every_group_of_banks_once() {
        for tile in tiles() {
            for (first, chunk) in (0..tile.rows / 8).flat_map(|r| (0..tile.chunks()).map(move |c| (r * 8, c))) {
                let banks: u32 = (first..first + 8).map(|row| 1 << (place(tile, row, chunk) % 8)).sum();
                assert_eq!(banks, 0xff, "pitch {}, rows from {first}, chunk {chunk}", tile.pitch);
            }
        }
    }

    #[test]
    fn a_phase_of_copies_writes_every_group_of_banks_once() {
        for tile in tiles() {
            let panel = tile.panel();
            for (threads, at) in
                (0..tile.rows * panel / 8).flat_map(|t| (0..tile.chunks() / panel).map(move |p| (t * 8, p)))
            {
                let thread = |t: u32| place(tile, t / panel, at * panel + t % panel);
                let banks: u32 = (threads..threads + 8).map(|t| 1 << (thread(t) % 8)).sum();
                assert_eq!(banks, 0xff, "pitch {}, threads from {threads}, panel {at}", tile.pitch);
            }
        }
    }

    #[test]
    fn every_chunk_has_a_place_of_its_own() {
        for tile in tiles() {
            let all = (0..tile.rows).flat_map(|row| (0..tile.chunks()).map(move |chunk| (row, chunk)));
            let mut places: Vec<u32> = all.map(|(row, chunk)| place(tile, row, chunk)).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..tile.rows * tile.chunks()), "pitch {}", tile.pitch);
        }
    }
}
