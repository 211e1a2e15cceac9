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
//! What warpgroups multiply lies in panels instead, side by side: a panel has all rows, and 128, 64 or 32 bytes of each, as
//! many as divide a row. Within a panel the chunks are permuted by the same rule, which is then the swizzle of tensor maps
//! and of `wgmma` for that width (PTX ISA, "Shared Memory Matrix Layout"). Such tiles begin at multiples of 1024 bytes, where
//! the swizzle of the address is that of the row.
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

/// What a panel's tile begins at a multiple of: the swizzle of 128 bytes repeats after so many.
const PANELS: u32 = 1024;

/// Bytes of an mbarrier.
const BARRIER: u32 = 8;

/// Tiles that a CTA may have drawn ahead: a power of two.
pub(super) const DRAWN: u32 = 4;

/// What scores are parked at a multiple of: two of them.
const PARKED: u32 = 8;

/// Where everything stands in a CTA's dynamic shared memory.
pub(super) struct Layout {
    offsets: Vec<u32>,
    tables: Vec<u32>,
    /// The barriers of each ring: first `full`, a slot each, then `empty`.
    barriers: Vec<u32>,
    /// Where warps leave each other what reductions and prefix sums of lane tiles are made of.
    pub(super) exchange: u32,
    /// Where lanes park scores.
    pub(super) parked: u32,
    /// The tiles that a CTA has drawn, a slot each; then their barriers, as a ring's.
    pub(super) drawn: u32,
    /// Bytes of everything.
    pub(super) bytes: u32,
}

/// How one tile lies in its slot.
#[derive(Clone, Copy)]
pub(super) struct TileLayout {
    /// Rows.
    pub(super) rows: u32,
    /// Bytes of a row in a panel: of a whole row, where there is one panel.
    pub(super) pitch: u32,
    /// Panels, one behind the other.
    pub(super) panels: u32,
}

impl Layout {
    /// Buffers, and over them `scratch` bytes for a merge; then tables, `exchange` bytes for lane tiles, and `parking` bytes for scores.
    pub(super) fn new(func: &Func, scratch: u32, exchange: u32, parking: u32) -> Self {
        let mut bytes = 0u32;
        let offsets = func
            .buffers
            .iter()
            .map(|buffer| {
                if in_panels(func) {
                    bytes = bytes.next_multiple_of(PANELS);
                }
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
        let exchanged = bytes;
        bytes += exchange;
        let parked = if parking > 0 { bytes.next_multiple_of(PARKED) } else { bytes };
        bytes = parked + parking;
        let barriers = func
            .buffers
            .iter()
            .map(|buffer| {
                if buffer.ring {
                    bytes = bytes.next_multiple_of(BARRIER);
                }
                let offset = bytes;
                bytes += if buffer.ring { 2 * BARRIER * buffer.slots } else { 0 };
                offset
            })
            .collect();
        let drawn = if func.draws { bytes.next_multiple_of(BARRIER) } else { bytes };
        bytes = drawn + if func.draws { DRAWN * (4 + 2 * BARRIER) } else { 0 };
        Self { offsets, tables, barriers, exchange: exchanged, parked, drawn, bytes }
    }

    /// The barrier that says that a ring's first slot is full; those of the other slots follow.
    pub(super) fn full(&self, buffer: BufferId) -> u32 {
        self.barriers[buffer.index()]
    }

    /// The barrier that says that a ring's first slot is empty; those of the other slots follow.
    pub(super) fn empty(&self, func: &Func, buffer: BufferId) -> u32 {
        self.barriers[buffer.index()] + BARRIER * func.buffers[buffer.index()].slots
    }

    /// The barriers of the first tile that was drawn, that it is told and that it is read; those of the others follow.
    pub(super) const fn drawn_barriers(&self) -> [u32; 2] {
        let full = self.drawn + 4 * DRAWN;
        [full, full + BARRIER * DRAWN]
    }

    pub(super) fn table(&self, table: TableId) -> u32 {
        self.tables[table.index()]
    }

    pub(super) fn offset(&self, buffer: BufferId) -> u32 {
        self.offsets[buffer.index()]
    }
}

/// Whether tiles lie as warpgroups multiply them.
fn in_panels(func: &Func) -> bool {
    func.partition.is_some_and(|part| part.roles.is_some())
}

impl TileLayout {
    pub(super) fn of(func: &Func, buffer: &Buffer) -> Self {
        let extent = |i: usize| func.axes[buffer.ty.axes[i].index()].extent;
        let row = extent(1) * buffer.ty.elem.bytes();
        if in_panels(func) { Self::in_panels(extent(0), row) } else { Self { rows: extent(0), pitch: row, panels: 1 } }
    }

    /// In the widest panels that make up rows of so many bytes.
    const fn in_panels(rows: u32, row: u32) -> Self {
        let power = 1 << row.trailing_zeros();
        let pitch = if power < PERIOD * CHUNK { power } else { PERIOD * CHUNK };
        Self { rows, pitch, panels: row / pitch }
    }

    pub(super) const fn bytes(self) -> u32 {
        self.rows * self.row_bytes()
    }

    /// Bytes of a row, in all panels.
    pub(super) const fn row_bytes(self) -> u32 {
        self.pitch * self.panels
    }

    /// Bytes of a panel.
    pub(super) const fn panel_bytes(self) -> u32 {
        self.rows * self.pitch
    }

    /// Chunks of a row.
    pub(super) const fn chunks(self) -> u32 {
        self.row_bytes() / CHUNK
    }

    /// How far behind a row's begin its bytes from `ahead` on lie, a multiple of what is permuted.
    pub(super) const fn ahead(self, ahead: u32) -> u32 {
        ahead / self.pitch * self.panel_bytes() + ahead % self.pitch
    }

    /// How many chunks are permuted among themselves.
    pub(super) const fn span(self) -> u32 {
        let power = 1 << (self.pitch / CHUNK).trailing_zeros();
        if power < PERIOD { power } else { PERIOD }
    }

    /// How far right a row's number is shifted before its low bits permute the chunks.
    pub(super) const fn row_shift(self) -> u32 {
        (PERIOD / self.span()).trailing_zeros()
    }

    /// Chunks of a row that neighbouring threads copy: a power of two, so that a thread finds its row by a shift where the
    /// chunks of a row are no power. Whole spans, so that the next panel lies a constant further on.
    pub(super) const fn panel(self) -> u32 {
        let power = 1 << (self.pitch / CHUNK).trailing_zeros();
        if power < MAX_PANEL { power } else { MAX_PANEL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a chunk lies, in chunks from the start of its tile.
    fn place(tile: TileLayout, row: u32, chunk: u32) -> u32 {
        let (panel, chunk) = (chunk / (tile.pitch / CHUNK), chunk % (tile.pitch / CHUNK));
        let within = row * (tile.pitch / CHUNK) + (chunk ^ ((row >> tile.row_shift()) & (tile.span() - 1)));
        panel * tile.panel_bytes() / CHUNK + within
    }

    fn tiles() -> impl Iterator<Item = TileLayout> {
        // Every width that is a multiple of 16, up to 512, of 16-bit elements.
        let whole = |row| TileLayout { rows: 64, pitch: row, panels: 1 };
        (1..=32).flat_map(move |n| [whole(32 * n), TileLayout::in_panels(64, 32 * n)])
    }

    /// What a tensor map writes and `wgmma` reads under a swizzle: chunk bits of the address are exchanged by bits from the
    /// seventh on.
    #[test]
    fn panels_lie_as_the_hardwares_swizzle_has_them() {
        for row in (32..=512).step_by(32) {
            let tile = TileLayout::in_panels(64, row);
            let bits = (tile.pitch / CHUNK).trailing_zeros();
            for (r, chunk) in (0..tile.rows).flat_map(|r| (0..tile.chunks()).map(move |c| (r, c))) {
                let (panel, within) = (chunk * CHUNK / tile.pitch, chunk * CHUNK % tile.pitch);
                let linear = panel * tile.panel_bytes() + r * tile.pitch + within;
                let swizzled = linear ^ ((linear >> 7 & ((1 << bits) - 1)) << 4);
                assert_eq!(place(tile, r, chunk) * CHUNK, swizzled, "{row} bytes, row {r}, chunk {chunk}");
            }
        }
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
