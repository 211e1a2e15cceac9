//! How the tiles of a grid are gone through by CTAs that do one after another.
//!
//! A tile of a grid `[x, y, z]` is a place along `x` of a pair of places along `y` and `z`: a tile of queries of a head of a
//! document. Pairs that lie together share what they read, as far as L2 holds it, so they come in sections; within one a place
//! along `x` is done for all of the pairs before the next place is, and a grid whose first places have most work has it done
//! first. Tiles are numbered in that order. Of each row of as many tiles as there are CTAs, a CTA does one, every other row in
//! reverse: what falls as numbers rise is shared out evenly.

use super::{Arg, Expr};

/// The parameters of an entry whose CTAs do tile after tile: how many tiles, those of a section, pairs of a section, pairs in
/// all, and how many of them have one place along `z`.
pub(crate) const PARAMS: [&str; 5] = ["tile_count", "tile_section", "tile_pairs", "tile_all_pairs", "tile_across"];

/// Bytes of keys and values that a section reads: what L2 holds beside what flows through it. An H200 has 60 MiB, an H100 50.
const SECTION: u64 = 32 << 20;

/// A grid of CTAs that do tile after tile, and what they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// The grid.
    pub grid: [Expr; 3],
    /// The last of the arguments but tensor maps.
    pub args: [Arg; 5],
}

impl Tiles {
    /// Those of a grid, by as many CTAs as a GPU has multiprocessors, or fewer where there are fewer tiles. `bytes` are what
    /// the tiles of a pair read together; `sharing` pairs that lie together read the same.
    pub fn of([x, y, z]: [Expr; 3], bytes: Expr, sharing: u64) -> Self {
        let pairs = y.clone() * z;
        let wanted = Expr::Const(SECTION).ceil_div(one_or_more(bytes)) * sharing.into();
        // Sections as large as each other.
        let sections = one_or_more(pairs.clone().ceil_div(wanted));
        let together = one_or_more(pairs.clone().ceil_div(sections.clone()));
        let section = together.clone() * x;
        let tiles = section.clone() * sections;
        let grid = [tiles.clone().min(Expr::multiprocessors()), pairs.clone().min(1u64), Expr::Const(1)];
        let args = [tiles, one_or_more(section), together, pairs, one_or_more(y)];
        Tiles { grid, args: args.map(Arg::Computed) }
    }
}

/// A number to divide by: one where there is nothing.
fn one_or_more(count: Expr) -> Expr {
    count.clone() + Expr::Const(1) - count.min(1u64)
}
