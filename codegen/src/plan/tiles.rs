//! How the tiles of a grid are gone through by CTAs that do one after another.
//!
//! A tile of a grid `[x, y, z]` is a place along `x` of a pair of places along `y` and `z`: a tile of queries of a head of a
//! document. Pairs that lie together share what they read, as far as L2 holds it, so they come in sections; within one a place
//! along `x` is done for all of the pairs before the next place is, and a grid whose first places have most work has it done
//! first. Tiles are numbered in that order. Of each row of as many tiles as there are CTAs, a CTA does one, every other row in
//! reverse: what falls as numbers rise is shared out evenly.

use super::{Arg, Expr};

/// The parameters of an entry whose CTAs do tile after tile: how many tiles, and how many pairs there are; tiles of a section,
/// pairs of a section, and pairs that have one place along `z`, each with its [`reciprocal`].
pub(crate) const PARAMS: [&str; 8] = [
    "tile_count",
    "tile_pairs",
    "tile_section",
    "tile_section_reciprocal",
    "tile_together",
    "tile_together_reciprocal",
    "tile_across",
    "tile_across_reciprocal",
];

/// Bytes of keys and values that a section reads: what L2 holds beside what flows through it. An H200 has 60 MiB, an H100 50.
const SECTION: u64 = 32 << 20;

/// A grid of CTAs that do tile after tile, and what they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// The grid.
    pub grid: [Expr; 3],
    /// The last of the arguments but tensor maps.
    pub args: [Arg; 8],
}

impl Tiles {
    /// Those of a grid whose pairs come one after another: rows that are gathered for the tiles of one stay in L2.
    pub fn pair_by_pair(grid: [Expr; 3], ctas: u32) -> Self {
        Self::of(grid, Expr::Const(SECTION), 1, ctas)
    }

    /// Those of a grid, by as many CTAs as a GPU has at once, `ctas` on a multiprocessor, or fewer where there are fewer tiles.
    /// `bytes` are what the tiles of a pair read together; `sharing` pairs that lie together read the same.
    pub fn of([x, y, z]: [Expr; 3], bytes: Expr, sharing: u64, ctas: u32) -> Self {
        let pairs = y.clone() * z;
        let wanted = Expr::Const(SECTION).ceil_div(bytes.max(1u64)) * sharing.into();
        // Sections as large as each other.
        let sections = pairs.clone().ceil_div(wanted).max(1u64);
        let together = pairs.clone().ceil_div(sections.clone()).max(1u64);
        let section = together.clone() * x.clone().max(1u64);
        let across = y.max(1u64);
        let tiles = section.clone() * sections;
        // No tile, no CTA.
        let at_once = match ctas {
            1 => Expr::multiprocessors(),
            _ => Expr::multiprocessors() * u64::from(ctas).into(),
        };
        let grid = [tiles.clone().min(at_once), pairs.clone().min(1u64), x.min(1u64)];
        let [by_section, by_together, by_across] = [&section, &together, &across].map(reciprocal);
        let args = [tiles, pairs, section, by_section, together, by_together, across, by_across];
        Tiles { grid, args: args.map(Arg::Computed) }
    }
}

/// `(2^31 - 1) / by`, rounded down. With it `a / by` is `2 a * reciprocal / 2^32`, rounded down, or one more, for every `a` below
/// 2^31: the reciprocal is at most one less than `2^31 / by`, so that the estimate is less than one below `a / by`.
fn reciprocal(by: &Expr) -> Expr {
    (Expr::Const(1 << 31) - by.clone()).ceil_div(by.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What CTAs are told, and the grid.
    fn told(grid: [u64; 3], bytes: u64, sharing: u64) -> ([u64; 3], [u64; 8]) {
        numbers(&Tiles::of(grid.map(Expr::Const), Expr::Const(bytes), sharing, 1))
    }

    fn numbers(tiles: &Tiles) -> ([u64; 3], [u64; 8]) {
        let symbols = BTreeMap::from([(crate::plan::MULTIPROCESSORS.to_owned(), 132)]);
        let number = |expr: &Expr| expr.eval(&symbols, &BTreeMap::new()).expect("a number");
        let args = tiles.args.each_ref().map(|arg| match arg {
            Arg::Computed(expr) => number(expr),
            other => panic!("{other:?} is no number"),
        });
        (tiles.grid.each_ref().map(number), args)
    }

    #[test]
    fn sections_are_what_l2_holds_and_as_large_as_each_other() {
        // 8192 keys of width 128 are 4 MiB a pair.
        let (grid, [tiles, pairs, section, _, together, _, across, _]) = told([64, 16, 4], 4 << 20, 1);
        assert_eq!((grid, tiles, pairs), ([132, 1, 1], 4096, 64));
        assert_eq!((section, together, across), (512, 8, 16));
        // 16 query heads of a KV head read the same.
        assert_eq!(told([64, 64, 4], 4 << 20, 16).1[4], 128);
        // Where one pair has more than that, each has a section of its own.
        assert_eq!(told([64, 16, 4], 64 << 20, 1).1[4], 1);
        // 17 pairs in sections of at most 8 are three sections of 6, the last of which has 5.
        let (_, [tiles, _, section, _, together, ..]) = told([10, 17, 1], 4 << 20, 1);
        assert_eq!((tiles, section, together), (180, 60, 6));
        assert_eq!(told([3, 5, 2], 0, 1).0, [30, 1, 1], "fewer tiles than multiprocessors");
        for nothing in [[0, 16, 4], [64, 0, 4], [64, 16, 0]] {
            assert!(told(nothing, 1, 1).0.contains(&0), "{nothing:?}");
        }
    }

    #[test]
    fn pairs_that_share_nothing_come_one_by_one() {
        let (grid, [tiles, pairs, section, _, together, ..]) =
            numbers(&Tiles::pair_by_pair([1000, 16, 1].map(Expr::Const), 2));
        assert_eq!((grid, tiles, pairs), ([264, 1, 1], 16_000, 16));
        assert_eq!((section, together), (1000, 1));
        assert_eq!(numbers(&Tiles::pair_by_pair([3, 5, 2].map(Expr::Const), 3)).0, [30, 1, 1]);
    }

    #[test]
    fn a_reciprocal_estimates_a_quotient_to_one() {
        let drawn = (0..31).flat_map(|bit| [1u64 << bit, (1 << bit) + 1, (1 << bit) * 3 / 2, (1 << (bit + 1)) - 1]);
        let numbers: Vec<u64> = drawn.filter(|&number| number < 1 << 31).collect();
        for &by in numbers.iter().filter(|&&by| by > 0) {
            let reciprocal = reciprocal(&Expr::Const(by)).eval(&BTreeMap::new(), &BTreeMap::new()).expect("a number");
            assert!(i32::try_from(reciprocal).is_ok(), "{by}: {reciprocal}");
            for &a in numbers
                .iter()
                .flat_map(|a| [*a, a / by * by, (a / by * by).saturating_sub(1)])
                .collect::<Vec<_>>()
                .iter()
            {
                let estimate = (2 * a * reciprocal) >> 32;
                assert!(estimate == a / by || estimate + 1 == a / by, "{a} / {by}: {estimate}");
            }
        }
    }
}
