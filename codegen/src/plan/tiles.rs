//! How the tiles of a grid are gone through by CTAs that do one after another.
//!
//! A tile of a grid `[x, y, z]` is a place along `x` of a pair of places along `y` and `z`: a tile of queries of a head of a
//! document. Pairs that lie together share what they read, as far as L2 holds it, so they come in sections; within one a place
//! along `x` is done for all of the pairs before the next place is, and a grid whose first places have most work has it done
//! first.
//!
//! The tiles of a section come in rows of as many as there are CTAs, and of each row a CTA does one: of one row as it stands, of
//! the next from the other end, and the other way around in the next section. So where work falls from place to place, two rows
//! are the same for every CTA, and what a CTA is spared where the last row of a section is not full, another is in the next. A
//! section has an even number of rows, and they are as full as whole pairs fill them; the last has the pairs that are left.
//!
//! Where CTAs draw their tiles instead, there are no rows: tiles go out in the order of sections, each to whoever comes first, and
//! a section need not even out what each CTA has to do.

use super::{Arg, Expr};

/// The parameters of an entry whose CTAs do tile after tile: rows of all sections, and of all but the last; rows of a section,
/// with their [`reciprocal`]; tiles and pairs of a section and of the last, and pairs that have one place along `z`.
pub(crate) const PARAMS: [&str; 12] = [
    "tile_rows",
    "tile_rows_before_last",
    "tile_section",
    "tile_section_reciprocal",
    "tile_count",
    "tile_together",
    "tile_together_reciprocal",
    "tile_last_count",
    "tile_last_together",
    "tile_last_together_reciprocal",
    "tile_across",
    "tile_across_reciprocal",
];

/// Those where tiles are drawn: tiles of all sections, and of all but the last; tiles and pairs of a section, with their
/// [`reciprocal`]s; pairs of the last, and pairs that have one place along `z`.
pub(crate) const DRAWN: [&str; 10] = [
    "tiles",
    "tiles_before_last",
    "tile_count",
    "tile_count_reciprocal",
    "tile_together",
    "tile_together_reciprocal",
    "tile_last_together",
    "tile_last_together_reciprocal",
    "tile_across",
    "tile_across_reciprocal",
];

/// The parameter behind those: the address of the counter that tiles are drawn from.
pub(crate) const COUNTER: &str = "tile_counter_ptr";

/// Bytes of keys and values that a section reads, or more where rows are not full otherwise: of an L2 of 50 or 60 MiB, in two
/// halves that may each hold the same, what is left beside all that flows through it.
const SECTION: u64 = 16 << 20;

/// A grid of CTAs that do tile after tile, and what they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// The grid.
    pub grid: [Expr; 3],
    /// The last of the arguments but the counter and tensor maps.
    pub args: Vec<Arg>,
}

impl Tiles {
    /// Those of a grid, by as many CTAs as a GPU has at once, `ctas` on a multiprocessor, or fewer where there are fewer tiles.
    /// `bytes` are what the tiles of a pair read together; `sharing` pairs that lie together read the same.
    pub fn of([x, y, z]: [Expr; 3], bytes: Expr, sharing: u64, ctas: u32) -> Self {
        // As much as L2 holds, and four pairs or four rows at least, so that long and short tiles even out; an even number of rows,
        // and of pairs as many as fill them.
        let held = held(bytes, sharing);
        let four = floor_div(at_once(ctas) * 4.into(), x.clone().max(1u64)).min(4u64);
        let (held, twice) = (held.max(four), at_once(ctas) * 2.into());
        let even = (held * x.clone()).ceil_div(twice.clone()).max(1u64) * twice;
        let pairs = y.clone() * z.clone();
        let together = floor_div(even, x.clone().max(1u64)).min(pairs).max(1u64);
        Self::in_sections([x, y, z], together, ctas)
    }

    /// Those of a grid whose pairs come one after another: rows that are gathered for the tiles of one stay in L2.
    pub fn pair_by_pair(grid: [Expr; 3], ctas: u32) -> Self {
        Self::in_sections(grid, Expr::Const(1), ctas)
    }

    /// Those of a grid whose tiles are drawn, as [`of`](Tiles::of) a grid has them.
    pub fn drawn(grid: [Expr; 3], bytes: Expr, sharing: u64, ctas: u32) -> Self {
        let pairs = grid[1].clone() * grid[2].clone();
        Self::drawn_in_sections(grid, held(bytes, sharing).min(pairs).max(1u64), ctas)
    }

    /// The same, pair by pair.
    pub fn drawn_pair_by_pair(grid: [Expr; 3], ctas: u32) -> Self {
        Self::drawn_in_sections(grid, Expr::Const(1), ctas)
    }

    /// Those that are drawn, in sections of so many pairs, one or more.
    fn drawn_in_sections([x, y, z]: [Expr; 3], together: Expr, ctas: u32) -> Self {
        let pairs = y.clone() * z;
        let [before, last] = sections(&pairs, &together);
        let last = last.max(1u64);
        let [all, before_last, count] =
            [pairs.clone(), before * together.clone(), together.clone()].map(|pairs| pairs * x.clone());
        let (count, across) = (count.max(1u64), y.max(1u64));
        // No tile, no CTA.
        let grid = [all.clone().min(at_once(ctas)), pairs.min(1u64), x.min(1u64)];
        let divisors = [count, together, last, across].map(|by| [by.clone(), reciprocal(&by)]);
        let args = [all, before_last].into_iter().chain(divisors.into_iter().flatten());
        Tiles { grid, args: args.map(Arg::Computed).collect() }
    }

    /// Those of a grid in sections of so many pairs, one or more.
    fn in_sections([x, y, z]: [Expr; 3], together: Expr, ctas: u32) -> Self {
        let (ctas, pairs) = (at_once(ctas), y.clone() * z);
        let least = |expr: &Expr| expr.clone().max(1u64);
        let [before, last] = sections(&pairs, &together);
        let [count, last_count] = [&together, &last].map(|pairs| pairs.clone() * x.clone());
        let [rows, last_rows] = [&count, &last_count].map(|count| count.clone().ceil_div(ctas.clone()));
        let section = least(&rows);
        let (rows_before, last_together, across) = (section.clone() * before, least(&last), least(&y));
        // No tile, no CTA.
        let grid = [(pairs.clone() * x.clone()).min(ctas), pairs.min(1u64), x.min(1u64)];
        let by = [&section, &together, &last_together, &across].map(reciprocal);
        let [by_section, by_together, by_last, by_across] = by;
        let all = rows_before.clone() + last_rows;
        let whole = [all, rows_before, section, by_section, count, together, by_together];
        let rest = [last_count, last_together, by_last, across, by_across];
        Tiles { grid, args: whole.into_iter().chain(rest).map(Arg::Computed).collect() }
    }
}

/// How many pairs L2 holds what they read of.
fn held(bytes: Expr, sharing: u64) -> Expr {
    Expr::Const(SECTION).ceil_div(bytes.max(1u64)) * sharing.into()
}

/// Sections of so many pairs before the last one, and pairs of the last one.
fn sections(pairs: &Expr, together: &Expr) -> [Expr; 2] {
    let before = pairs.clone().ceil_div(together.clone()).max(1u64) - 1.into();
    let last = pairs.clone() - before.clone() * together.clone();
    [before, last]
}

/// How many CTAs a GPU has at once, of so many on a multiprocessor.
fn at_once(ctas: u32) -> Expr {
    match ctas {
        1 => Expr::multiprocessors(),
        _ => Expr::multiprocessors() * u64::from(ctas).into(),
    }
}

/// `a / b`, rounded down.
fn floor_div(a: Expr, b: Expr) -> Expr {
    (a + 1.into()).ceil_div(b) - 1.into()
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
    fn told(grid: [u64; 3], bytes: u64, sharing: u64) -> ([u64; 3], [u64; PARAMS.len()]) {
        numbers(&Tiles::of(grid.map(Expr::Const), Expr::Const(bytes), sharing, 1))
    }

    fn numbers<const N: usize>(tiles: &Tiles) -> ([u64; 3], [u64; N]) {
        let symbols = BTreeMap::from([(crate::plan::MULTIPROCESSORS.to_owned(), 132)]);
        let number = |expr: &Expr| expr.eval(&symbols, &BTreeMap::new()).expect("a number");
        let args = tiles.args.iter().map(|arg| match arg {
            Arg::Computed(expr) => number(expr),
            other => panic!("{other:?} is no number"),
        });
        let args: Vec<u64> = args.collect();
        (tiles.grid.each_ref().map(number), args.try_into().expect("one each"))
    }

    #[test]
    fn sections_are_what_l2_holds_in_full_rows() {
        // 4096 keys of width 128 are 2 MiB a pair: 8 of them are 256 tiles, in two rows of 132.
        let (grid, [rows, before, section, _, count, together, _, last_count, last, _, across, _]) =
            told([32, 16, 4], 2 << 20, 1);
        assert_eq!((grid, rows, before), ([132, 1, 1], 16, 14));
        assert_eq!((section, count, together, last_count, last, across), (2, 256, 8, 256, 8, 16));
        // 16 query heads of a KV head read the same.
        assert_eq!(told([64, 64, 4], 4 << 20, 16).1[5], 66);
        // Where one pair has more than that, and rows enough, it makes a section; of 90 tiles, five fill four rows.
        assert_eq!(told([1024, 16, 4], 64 << 20, 1).1[2..6], [8, (1 << 31) / 8 - 1, 1024, 1]);
        assert_eq!(told([90, 16, 1], 16 << 20, 1).1[4..6], [5 * 90, 5]);
        assert_eq!(told([90, 16, 1], 16 << 20, 1).1[7..9], [90, 1]);
        assert_eq!(told([3, 5, 2], 0, 1).0, [30, 1, 1], "fewer tiles than multiprocessors");
        for nothing in [[0, 16, 4], [64, 0, 4], [64, 16, 0]] {
            assert!(told(nothing, 1, 1).0.contains(&0), "{nothing:?}");
        }
    }

    /// What a CTA has to do beyond the mean, where tiles have the less to do the later they stand, as under a causal mask.
    #[test]
    fn every_cta_gets_long_and_short_tiles() {
        for (x, pairs) in [(16, 128), (32, 64), (64, 64), (64, 16), (128, 32), (171, 48), (256, 16), (1024, 8)] {
            let (_, [rows, before_last, section, _, count, together, _, last_count, last, ..]) =
                told([x, pairs, 1], x * (64 << 10), 1);
            let mut load = [0; 132];
            for (row, cta) in (0..rows).flat_map(|row| (0..132).map(move |cta| (row, cta))) {
                let (before, within) = (row / section, row % section);
                let at = if (before + within) % 2 == 1 { 131 - cta } else { cta };
                let (count, together) = if row < before_last { (count, together) } else { (last_count, last) };
                let tile = within * 132 + at;
                if tile < count {
                    load[cta as usize] += x - tile / together;
                }
            }
            let (most, all) = (load.iter().max().expect("CTAs"), load.iter().sum::<u64>());
            assert_eq!(all, pairs * x * (x + 1) / 2, "each tile once");
            assert!(most * 132 * 100 <= all * 104, "{x} places of {pairs} pairs: {most} of {}", all / 132);
        }
    }

    #[test]
    fn pairs_that_share_nothing_come_one_by_one() {
        let (grid, [rows, _, section, _, count, together, ..]): (_, [u64; PARAMS.len()]) =
            numbers(&Tiles::pair_by_pair([1000, 16, 1].map(Expr::Const), 2));
        assert_eq!((grid, rows, section), ([264, 1, 1], 64, 4));
        assert_eq!((count, together), (1000, 1));
        assert_eq!(numbers::<{ PARAMS.len() }>(&Tiles::pair_by_pair([3, 5, 2].map(Expr::Const), 3)).0, [30, 1, 1]);
    }

    /// Every place of a grid is one tile's, and within a section all pairs' first places are before their next ones.
    #[test]
    fn tiles_that_are_drawn_come_in_sections() {
        let drawn = |grid: [u64; 3], bytes| numbers(&Tiles::drawn(grid.map(Expr::Const), Expr::Const(bytes), 1, 1));
        for ([x, y, z], bytes) in [([32, 16, 4], 2 << 20), ([7, 5, 3], 4 << 20), ([3, 1, 1], 0), ([9, 4, 2], 64 << 20)]
        {
            let (grid, [all, before_last, count, _, together, _, last, _, across, _]) = drawn([x, y, z], bytes);
            assert_eq!((grid, all, across), ([all.min(132), 1, 1], x * y * z, y));
            assert_eq!((count, before_last % count), (together * x, 0));
            let places = (0..all).map(|tile| {
                let (section, within) = (tile / count, tile % count);
                let pairs = if tile < before_last { together } else { last };
                (section, within / pairs, section * together + within % pairs)
            });
            let places: Vec<_> = places.collect();
            assert!(places.is_sorted(), "by sections, then places along x");
            let seen: std::collections::BTreeSet<_> = places.iter().map(|&(_, x, pair)| (x, pair)).collect();
            assert_eq!(seen, (0..x).flat_map(|at| (0..y * z).map(move |pair| (at, pair))).collect());
        }
        assert_eq!(drawn([32, 16, 4], 2 << 20).1[4], 8, "as many pairs as L2 holds");
        for nothing in [[0, 16, 4], [64, 0, 4], [64, 16, 0]] {
            let (grid, [all, ..]): (_, [u64; DRAWN.len()]) = drawn(nothing, 1);
            assert!(grid.contains(&0) && all == 0, "{nothing:?}");
        }
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
