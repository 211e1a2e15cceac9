//! The best of rows, against sorting.

use lacuna_codegen::compile;
use lacuna_codegen::ir::read;

use crate::program::{Words, assembled, floats, run};

/// So many scores of each of so many rows, by tiles of columns; the best of them, and then the best of what comes
/// after.
#[derive(Clone, Copy, Debug)]
struct Search {
    warps: u32,
    rows: usize,
    /// Columns of a tile.
    cols: usize,
    tiles: usize,
    best: usize,
    /// How often as many more are found after those.
    passes: usize,
}

impl Search {
    fn width(self) -> usize {
        self.cols * self.tiles
    }

    /// A func that goes through the tiles once a pass, and stores columns and scores by place and row.
    fn text(self) -> String {
        let Search { warps, rows, cols, tiles, best, passes } = self;
        let mut text = format!(
            "func @f target sm_80 warps {warps} {{
               axis Rows = {rows}
               axis Cols = {cols}
               param x : f32[n]
               param columns : i32[n]
               param scores : f32[n]
               var %score : f32<Rows> = inf
               var %column : i32<Rows> = -1
               best $best : {best} over Rows
               %0 = const 0  %1 = const {tiles}  %2 = const {cols}  %3 = const {width}  %4 = const {rows}
               %5 = iota Rows  %6 = iota Cols  %7 = broadcast %3 : i32<Rows>  %8 = mul %5, %7 : i32<Rows>
               %9 = broadcast %8 : i32<Rows, Cols>  %10 = broadcast %6 : i32<Rows, Cols>
               %11 = add %9, %10 : i32<Rows, Cols>\n",
            width = self.width(),
        );
        let mut next = 12;
        for pass in 0..passes {
            let [index, first, wide, at, scores, score, column, back, last] = std::array::from_fn(|i| next + i);
            next += 9;
            let after = if pass > 0 { format!(" after %{score}, %{column}") } else { String::new() };
            text += &format!(
                "clear $best  %{last} = const {}  %{score} = read %score  %{column} = read %column
                 for %{index} in %0..%1 {{
                   %{back} = sub %{last}, %{index} : i32  %{first} = mul %{back}, %2 : i32
                   %{wide} = broadcast %{first} : i32<Rows, Cols>
                   %{at} = add %11, %{wide} : i32<Rows, Cols>  %{scores} = element x[%{at}] : f32<Rows, Cols>
                   take $best += %{scores} at %{first}{after}
                 }}
                 settle $best\n",
                tiles as i32 - 1,
            );
            for place in 0..best {
                let [score, column, at] = std::array::from_fn(|i| next + i);
                next += 3;
                text += &format!(
                    "%{score} = best_score $best[{place}]  %{column} = best_column $best[{place}]
                     %{at} = const {}
                     store columns[%{at}] rows n count %4 = %{column}  store scores[%{at}] rows n count %4 = %{score}\n",
                    (pass * best + place) * rows,
                );
                if place + 1 == best {
                    text += &format!("write %score = %{score}  write %column = %{column}\n");
                }
            }
        }
        text + "}"
    }

    /// The columns and the scores, by place and row.
    fn wanted(self, x: &[f32]) -> (Vec<i32>, Vec<f32>) {
        let places = self.best * self.passes;
        let (mut columns, mut scores) = (vec![-1; places * self.rows], vec![f32::NEG_INFINITY; places * self.rows]);
        for (row, all) in x.chunks(self.width()).enumerate() {
            let mut sorted: Vec<usize> = (0..all.len()).filter(|&c| all[c] > f32::NEG_INFINITY).collect();
            // A stable sort: of equal scores the lower column stays before.
            sorted.sort_by(|&a, &b| all[b].partial_cmp(&all[a]).expect("numbers"));
            for (place, &column) in sorted.iter().enumerate().take(places) {
                columns[place * self.rows + row] = column as i32;
                scores[place * self.rows + row] = all[column];
            }
        }
        (columns, scores)
    }

    #[track_caller]
    fn check(self, x: &[f32]) {
        let places = self.best * self.passes * self.rows;
        let found = run(&self.text(), &[Words::from(x)], &[places, places]);
        let (columns, scores) = self.wanted(x);
        assert_eq!(found[0], columns, "{self:?}");
        assert_eq!(floats(&found[1]), scores, "{self:?}");
    }
}

fn search(rows: usize, cols: usize, tiles: usize, best: usize) -> Search {
    Search { warps: 1, rows, cols, tiles, best, passes: 1 }
}

/// Numbers of a few kinds, from a seed.
fn drawn(seed: u32, count: usize, number: impl Fn(u32) -> f32) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = move || {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        number(((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737) >> 8)
    };
    (0..count).map(|_| next()).collect()
}

fn any_number(bits: u32) -> f32 {
    (bits % 20011) as f32 * 0.25 - 2500.0
}

/// Few different numbers, some of which are none.
fn odd_number(bits: u32) -> f32 {
    match bits % 13 {
        0 => f32::NAN,
        1 | 2 => f32::NEG_INFINITY,
        3 => f32::INFINITY,
        4 => -0.0,
        5 => f32::from_bits(1),
        6 => -f32::from_bits(1),
        n => (n % 4) as f32,
    }
}

#[test]
fn the_best_of_rows_are_those_that_sorting_puts_first() {
    for (n, (rows, cols, tiles)) in
        [(16, 16, 1), (16, 64, 5), (32, 48, 3), (64, 32, 4), (16, 96, 4), (16, 128, 3), (16, 8, 6)]
            .into_iter()
            .enumerate()
    {
        for best in [1, 2, 3, 4, 5, 6, 7, 8, 9, 11] {
            let search = search(rows, cols, tiles, best);
            search.check(&drawn(best as u32 * 97 + n as u32, rows * search.width(), any_number));
        }
    }
}

#[test]
fn of_equal_scores_the_lower_column_comes_first_and_what_is_no_score_is_not_taken() {
    for best in 1..=9 {
        let search = search(32, 64, 3, best);
        search.check(&drawn(best as u32, 32 * search.width(), odd_number));
        search.check(&vec![1.5; 32 * search.width()]);
    }
}

#[test]
fn rows_with_fewer_scores_than_places_say_so() {
    let search = search(16, 64, 2, 8);
    let few = |bits: u32| if bits.is_multiple_of(40) { (bits % 7) as f32 } else { f32::NEG_INFINITY };
    search.check(&drawn(5, 16 * search.width(), few));
    search.check(&vec![f32::NEG_INFINITY; 16 * search.width()]);
    search.check(&vec![f32::NAN; 16 * search.width()]);
}

#[test]
fn scores_that_rise_or_fall_along_a_row_are_all_taken_or_none() {
    let search = search(16, 64, 4, 7);
    let rising: Vec<f32> = (0..16 * search.width()).map(|i| (i % search.width()) as f32).collect();
    search.check(&rising);
    search.check(&rising.iter().map(|x| -x).collect::<Vec<_>>());
}

#[test]
fn what_comes_after_the_last_of_a_pass_is_found_by_the_next() {
    for (best, passes) in [(8, 8), (4, 3), (1, 5), (7, 2)] {
        let search = Search { passes, ..search(16, 64, 3, best) };
        search.check(&drawn(best as u32, 16 * search.width(), any_number));
        search.check(&drawn(best as u32, 16 * search.width(), odd_number));
        search.check(&vec![0.0; 16 * search.width()]);
    }
}

#[test]
fn warps_have_rows_of_their_own() {
    for (warps, rows) in [(2, 32), (4, 64), (4, 128)] {
        let search = Search { warps, ..search(rows, 64, 3, 7) };
        search.check(&drawn(warps, rows * search.width(), odd_number));
    }
    let shared = Search { warps: 2, ..search(16, 64, 1, 7) };
    let error = compile(read(&shared.text()).expect("a func")).expect_err("two warps and 16 rows");
    assert!(error.to_string().contains("at most 1 have work"), "{error}");
}

#[test]
fn lists_stay_in_registers() {
    for best in [1, 4, 7, 8] {
        let used = assembled(&Search { warps: 4, ..search(64, 64, 4, best) }.text());
        assert_eq!((used.spill_stores, used.spill_loads, used.stack), (0, 0, 0), "{best} best: {used:?}");
    }
}
