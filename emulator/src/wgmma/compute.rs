//! Computes what all four warps of a warpgroup have issued: operands out of shared memory and registers, products, accumulators
//! into registers.
//!
//! In: `wgmma`s whose registers and descriptors were found right. Out: their results, or why an operand in shared memory is not
//! there for all four warps. Accumulators stay in the tile while one `wgmma` after the other adds to them.

use pulp::Arch;

use super::tile::Tile;
use super::{Issued, Source, WARPS, Wgmma, reads};
use crate::cta::Common;
use crate::decode::{Kernel, Slot};
use crate::fault::Trap;
use crate::shared::UNKNOWN;
use crate::warp::{ALL, Warp};

/// Computes what all four warps of a warpgroup have issued. A fault comes with the warp that issued it first.
pub(crate) fn compute(kernel: &Kernel, warps: &mut [Warp<'_>], common: &mut Common) -> Result<(), (usize, Box<Trap>)> {
    Arch::new().dispatch(Compute { kernel, warps, common })
}

struct Compute<'a, 'k> {
    kernel: &'a Kernel,
    warps: &'a mut [Warp<'k>],
    common: &'a mut Common,
}

impl pulp::WithSimd for Compute<'_, '_> {
    type Output = Result<(), (usize, Box<Trap>)>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) -> Self::Output {
        let Compute { kernel, warps, common } = self;
        let mut products = std::mem::take(&mut common.products);
        let ready = std::mem::take(&mut products.ready);
        for number in (0..products.groups.len()).filter(|number| ready >> number & 1 != 0) {
            let warps = &mut warps[number * WARPS..][..WARPS];
            // Accumulators that the tile holds.
            let mut held: &[Slot] = &[];
            while products.groups[number].issued.front().is_some_and(|issued| issued.warps == 0xf) {
                let group = &mut products.groups[number];
                let Some(issued) = group.issued.pop_front() else { break };
                group.computed += 1;
                let wgmma = &kernel.wgmmas[kernel.code[issued.pc as usize].aux as usize];
                let tile = &mut products.tile;
                if held != wgmma.d {
                    give(tile, held, warps);
                    take(tile, wgmma, issued.adds, warps);
                } else if !issued.adds {
                    tile.clear(wgmma.columns());
                }
                held = &wgmma.d;
                gather(tile, &mut products.granules, wgmma, &issued, common, warps)
                    .map_err(|trap| (issued.first, trap))?;
                if wgmma.negated {
                    tile.negate_a();
                }
                tile.multiply(simd);
            }
            give(&products.tile, held, warps);
        }
        common.products = products;
        Ok(())
    }
}

#[inline(always)]
fn take(tile: &mut Tile, wgmma: &Wgmma, adds: bool, warps: &[Warp<'_>]) {
    tile.clear(wgmma.columns());
    if adds {
        for (number, warp) in warps.iter().enumerate() {
            tile.load(number, |i| warp.registers.word(wgmma.d[i]));
        }
    }
}

#[inline(always)]
fn give(tile: &Tile, held: &[Slot], warps: &mut [Warp<'_>]) {
    if !held.is_empty() {
        for (number, warp) in warps.iter_mut().enumerate() {
            tile.store(number, |i, value| warp.registers.set_word(held[i], value, ALL));
        }
    }
}

/// The operands of a `wgmma`, into the tile.
#[inline(always)]
fn gather(
    tile: &mut Tile,
    granules: &mut Vec<[u32; 4]>,
    wgmma: &Wgmma,
    issued: &Issued,
    common: &Common,
    warps: &[Warp<'_>],
) -> Result<(), Box<Trap>> {
    let by = issued.seen.toucher(issued.first, issued.pc);
    let mut good = UNKNOWN;
    let mut read = |at: &[u32], out: &mut Vec<[u32; 4]>| -> Result<(), Box<Trap>> {
        out.clear();
        for &granule in at {
            let words = common.shared.async_granule(granule, by, &mut good);
            out.push(words.map_err(|why| reads(why, common.shared.bytes(), granule, issued.pc))?);
        }
        Ok(())
    };
    match wgmma.a {
        Source::Registers(slots) => {
            for (number, warp) in warps.iter().enumerate() {
                tile.load_a(number, wgmma.element, slots.map(|slot| warp.registers.word(slot)));
            }
        }
        Source::Shared(_, major) => {
            read(&issued.granules[0], granules)?;
            tile.gather_a(major, wgmma.element, granules);
        }
    }
    read(&issued.granules[1], granules)?;
    tile.gather_b(wgmma.b_major, wgmma.element, granules);
    Ok(())
}
