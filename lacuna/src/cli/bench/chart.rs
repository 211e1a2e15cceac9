//! Time against tokens, both logarithmic: the whole, each step, and the floor.

use std::path::Path;

use font8x8::legacy::BASIC_LEGACY;
use plotters::prelude::RGBColor;

use super::{Measured, report};
use crate::cli::failure::Result;
use crate::cli::picture::{Sheet, paint};

/// The picture, and the part of it that lines are drawn in: pixels.
const SIZE: (u32, u32) = (1280, 800);
const LEFT: i32 = 110;
const RIGHT: i32 = 860;
const TOP: i32 = 60;
const BOTTOM: i32 = 720;

/// Pixels of a point of the font, and of a letter.
pub(crate) const DOT: i32 = 2;
pub(crate) const LETTER: i32 = 8 * DOT;

pub(crate) const INK: RGBColor = RGBColor(24, 28, 36);
pub(crate) const GRID: RGBColor = RGBColor(214, 218, 226);
const FINE: RGBColor = RGBColor(238, 240, 244);
pub(crate) const FLOOR: RGBColor = RGBColor(140, 146, 158);

/// One for each step, told apart without telling red from green; after them they come again, with hollow points.
const COLOURS: [RGBColor; 8] = [
    RGBColor(38, 84, 140),
    RGBColor(240, 160, 48),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(120, 94, 240),
    RGBColor(150, 130, 20),
];

const PAPER: RGBColor = RGBColor(255, 255, 255);

/// Pixels from one name of the legend to the next, and where the names begin.
const ROW: i32 = 30;
const NAMES: i32 = RIGHT + 62;

/// The most steps that have a line of their own, as many as look different. Of more the shortest are joined.
const MOST_STEPS: usize = 2 * COLOURS.len();

/// They fit beside the lines, with the whole and the floor.
const _: () = assert!(TOP + ROW * (MOST_STEPS as i32 + 1) + LETTER <= BOTTOM);

/// A line of the picture.
struct Series {
    name: String,
    colour: RGBColor,
    width: u32,
    hollow: bool,
    /// Tokens and milliseconds.
    points: Vec<(f64, f64)>,
}

/// Writes the picture.
///
/// # Errors
/// A name that is no picture's; a file that cannot be written.
pub(super) fn draw(path: &Path, rows: &[Measured]) -> Result {
    let all = series(rows);
    let (x, y) = axes(&all);
    paint(path, SIZE, |sheet| {
        grid(sheet, &all, &x, &y)?;
        for line in &all {
            let points: Vec<(i32, i32)> = line.points.iter().map(|&(t, ms)| (x.at(t), y.at(ms))).collect();
            sheet.line(&points, line.width, line.colour)?;
            points.into_iter().try_for_each(|at| line.point(sheet, at))?;
        }
        legend(sheet, &all)
    })
}

impl Series {
    /// Of rows, what `each` says of them. What takes no time at a shape has no point there.
    fn of(rows: &[Measured], name: &str, (colour, width): (RGBColor, u32), each: impl Fn(&Measured) -> f64) -> Self {
        let mut points: Vec<(f64, f64)> =
            rows.iter().map(|row| (row.tokens as f64, each(row))).filter(|&(_, ms)| ms > 0.0).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: name.to_owned(), colour, width, hollow: false, points }
    }

    /// The time at the most tokens.
    fn last(&self) -> f64 {
        self.points.last().map_or(0.0, |&(_, ms)| ms)
    }

    fn point(&self, sheet: &dyn Sheet, (x, y): (i32, i32)) -> Result {
        sheet.fill_between([(x - 4, y - 4), (x + 4, y + 4)], self.colour)?;
        if self.hollow { sheet.fill_between([(x - 2, y - 2), (x + 2, y + 2)], PAPER) } else { Ok(()) }
    }
}

/// The whole, the floor, and the steps where there are several.
fn series(rows: &[Measured]) -> Vec<Series> {
    let mut all = vec![
        Series::of(rows, "floor (H200)", (FLOOR, 3), |row| row.floor.bound().1),
        Series::of(rows, "whole", (INK, 4), |row| row.whole.median_ms),
    ];
    if report::steps(rows).len() > 1 {
        all.extend(steps(rows));
    }
    all.retain(|series| !series.points.is_empty());
    all
}

/// The steps, each of them all launches of an entry; those with the least last times as one, where there are too many.
fn steps(rows: &[Measured]) -> Vec<Series> {
    let ms = |row: &Measured, step: &str| row.step(step).map_or(0.0, |(ms, _)| ms);
    let one = |step: &&str| Series::of(rows, step, (INK, 2), |row| ms(row, step));
    let mut all: Vec<Series> = report::steps(rows).iter().map(one).filter(|series| !series.points.is_empty()).collect();
    if all.len() > MOST_STEPS {
        all.sort_by(|a, b| b.last().total_cmp(&a.last()));
        let joined = all.split_off(MOST_STEPS - 1);
        let sum = |row: &Measured| joined.iter().map(|series| ms(row, &series.name)).sum();
        all.push(Series::of(rows, "others", (INK, 2), sum));
    }
    for (i, series) in all.iter_mut().enumerate() {
        (series.colour, series.hollow) = (COLOURS[i % COLOURS.len()], i >= COLOURS.len());
    }
    all
}

/// A logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
    from: i32,
    to: i32,
}

impl Axis {
    fn at(&self, value: f64) -> i32 {
        let part = (value / self.low).ln() / (self.high / self.low).ln();
        self.from + (part * f64::from(self.to - self.from)).round() as i32
    }
}

/// Tokens across, with a margin; milliseconds upwards, in whole decades.
fn axes(all: &[Series]) -> (Axis, Axis) {
    let points = || all.iter().flat_map(|series| &series.points);
    let span = |of: fn(&(f64, f64)) -> f64| {
        points().map(of).fold((f64::INFINITY, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)))
    };
    let ((t0, t1), (ms0, ms1)) = (span(|p| p.0), span(|p| p.1));
    let (low, high) = (10f64.powf(ms0.log10().floor()), 10f64.powf(ms1.log10().ceil()));
    let x = Axis { low: t0 / 1.3, high: t1 * 1.3, from: LEFT, to: RIGHT };
    (x, Axis { low, high: high.max(low * 10.0), from: BOTTOM, to: TOP })
}

/// Lines behind, with what they stand for: the token counts that were timed, and decades of milliseconds.
fn grid(sheet: &dyn Sheet, all: &[Series], x: &Axis, y: &Axis) -> Result {
    let mut decade = y.low;
    while decade < y.high * 1.5 {
        for part in 2..10 {
            let value = decade * f64::from(part);
            if value < y.high {
                sheet.line(&[(LEFT, y.at(value)), (RIGHT, y.at(value))], 1, FINE)?;
            }
        }
        sheet.line(&[(LEFT, y.at(decade)), (RIGHT, y.at(decade))], 1, GRID)?;
        let label = plain(decade);
        write(sheet, (LEFT - 12 - LETTER * label.len() as i32, y.at(decade) - LETTER / 2), &label, INK)?;
        decade *= 10.0;
    }
    let mut free = i32::MIN;
    let mut tokens: Vec<f64> = all.iter().flat_map(|series| series.points.iter().map(|p| p.0)).collect();
    tokens.sort_by(f64::total_cmp);
    tokens.dedup();
    for tokens in tokens {
        let at = x.at(tokens);
        sheet.line(&[(at, TOP), (at, BOTTOM)], 1, GRID)?;
        let label = binary(tokens as usize);
        let from = at - LETTER * label.len() as i32 / 2;
        // A label that would touch the one before it is left out.
        if from > free {
            write(sheet, (from, BOTTOM + 14), &label, INK)?;
            free = from + LETTER * (label.len() as i32 + 1);
        }
    }
    write(sheet, (LEFT, TOP - 34), "ms", INK)?;
    write(sheet, ((LEFT + RIGHT) / 2 - 3 * LETTER, BOTTOM + 44), "tokens", INK)
}

/// The names to the right, the longest last time first.
fn legend(sheet: &dyn Sheet, all: &[Series]) -> Result {
    let mut all: Vec<&Series> = all.iter().collect();
    all.sort_by(|a, b| b.last().total_cmp(&a.last()));
    for (i, series) in (0..).zip(all) {
        let top = TOP + ROW * i;
        let middle = top + LETTER / 2;
        sheet.line(&[(RIGHT + 20, middle), (RIGHT + 50, middle)], series.width, series.colour)?;
        series.point(sheet, (RIGHT + 35, middle))?;
        write(sheet, (NAMES, top), &fitting(&series.name), INK)?;
    }
    Ok(())
}

/// A name, or as much of it as the sheet has room for.
fn fitting(name: &str) -> String {
    let room = ((SIZE.0 as i32 - NAMES) / LETTER) as usize;
    match name.chars().count() > room {
        true => name.chars().take(room - 2).chain("..".chars()).collect(),
        false => name.to_owned(),
    }
}

/// A power of ten: `1e-4`, `0.01`, `1`, `100`.
fn plain(value: f64) -> String {
    match value.log10().round() as i32 {
        power if power < -3 => format!("1e{power}"),
        power => format!("{value:.digits$}", digits = (-power).max(0) as usize),
    }
}

/// `8k`, `1m`, `1000`.
fn binary(tokens: usize) -> String {
    match tokens {
        t if t >= 1 << 20 && t.is_multiple_of(1 << 20) => format!("{}m", t >> 20),
        t if t >= 1 << 10 && t.is_multiple_of(1 << 10) => format!("{}k", t >> 10),
        t => t.to_string(),
    }
}

/// Writes text from its upper left corner. What lies outside of ASCII is a blank.
pub(crate) fn write(sheet: &dyn Sheet, (left, top): (i32, i32), text: &str, colour: RGBColor) -> Result {
    for (i, letter) in text.chars().enumerate() {
        let rows = BASIC_LEGACY.get(letter as usize).copied().unwrap_or_default();
        for (y, row) in (0..).zip(rows) {
            // A run of points at once.
            let mut x = 0;
            while x < 8 {
                let run = (x..8).take_while(|bit| row >> bit & 1 == 1).count() as i32;
                if run > 0 {
                    let (left, top) = (left + LETTER * i as i32 + DOT * x, top + DOT * y);
                    // The far corner is not filled.
                    sheet.fill_between([(left, top), (left + DOT * run, top + DOT)], colour)?;
                }
                x += run + 1;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Collects what is drawn.
    #[derive(Default)]
    struct Drawn(RefCell<Vec<[(i32, i32); 2]>>);

    impl Sheet for Drawn {
        fn fill_between(&self, corners: [(i32, i32); 2], _: RGBColor) -> Result {
            self.0.borrow_mut().push(corners);
            Ok(())
        }

        fn line(&self, _: &[(i32, i32)], _: u32, _: RGBColor) -> Result {
            Ok(())
        }
    }

    #[test]
    fn axes_are_logarithmic() {
        let points = vec![(8192.0, 0.5), (32768.0, 2.0), (131_072.0, 40.0)];
        let series = Series { name: String::new(), colour: INK, width: 1, hollow: false, points };
        let (x, y) = axes(&[series]);
        assert_eq!((y.low, y.high), (0.1, 100.0));
        assert_eq!((y.at(0.1), y.at(100.0)), (BOTTOM, TOP));
        assert_eq!(y.at(1.0) - y.at(10.0), (BOTTOM - TOP) / 3);
        let [a, b, c] = [8192.0, 32768.0, 131_072.0].map(|tokens| x.at(tokens));
        assert!(LEFT < a && c < RIGHT && (b - a - (c - b)).abs() <= 1, "{a} {b} {c}");
    }

    #[test]
    fn labels_say_their_value() {
        assert_eq!([1e-4, 0.001, 0.1, 1.0, 100.0].map(plain), ["1e-4", "0.001", "0.1", "1", "100"]);
        assert_eq!([8192, 1 << 20, 1000, 3 << 20].map(binary), ["8k", "1m", "1000", "3m"]);
    }

    /// A hyphen is one bar, in the middle of the line.
    #[test]
    fn letters_are_drawn_where_they_belong() {
        let drawn = Drawn::default();
        write(&drawn, (100, 50), " -", INK).unwrap();
        let bars = drawn.0.into_inner();
        let [[(left, top), (right, bottom)]] = bars[..] else { panic!("{bars:?}") };
        assert!(left >= 100 + LETTER && right < 100 + 2 * LETTER && right - left > LETTER / 2, "{left} to {right}");
        assert!(top > 50 && bottom < 50 + LETTER && bottom - top == DOT, "{top} to {bottom}");
    }

    fn points<'a>(all: &'a [Series], name: &str) -> &'a [(f64, f64)] {
        &all.iter().find(|series| series.name == name).unwrap_or_else(|| panic!("no line is called {name}")).points
    }

    #[test]
    fn launches_that_come_again_are_one_line() {
        let rows = report::drawn(&[
            (32768, &[("route", 2.0), ("blocks", 1.0), ("blocks", 1.5), ("tables", 0.0)]),
            (8192, &[("route", 0.5), ("blocks", 0.25)]),
        ]);
        let all = series(&rows);
        assert_eq!(
            all.iter().map(|series| series.name.as_str()).collect::<Vec<_>>(),
            ["floor (H200)", "whole", "route", "blocks"]
        );
        assert_eq!(points(&all, "blocks"), [(8192.0, 0.25), (32768.0, 2.5)]);
    }

    /// Every line is told apart from every other one, and what has no line of its own is in the last one.
    #[test]
    fn of_many_steps_the_shortest_are_joined_and_the_legend_stays_on_the_sheet() {
        let names: Vec<String> = (0..40).map(|i| format!("a_step_of_a_long_name_{i}")).collect();
        let at = |scale: f64| names.iter().zip(1..).map(move |(name, i)| (name.as_str(), scale * f64::from(i)));
        let (short, long) = (at(1.0).collect::<Vec<_>>(), at(2.0).collect::<Vec<_>>());
        let rows = report::drawn(&[(8192, &short), (32768, &long)]);
        let all = series(&rows);
        assert_eq!(all.len(), 2 + MOST_STEPS);
        assert_eq!(points(&all, &names[39]), [(8192.0, 40.0), (32768.0, 80.0)]);
        let joined: f64 = (1..=40 - (MOST_STEPS as i32 - 1)).map(f64::from).sum();
        assert_eq!(points(&all, "others"), [(8192.0, joined), (32768.0, 2.0 * joined)]);
        let looks: std::collections::BTreeSet<String> =
            all.iter().map(|series| format!("{:?} {}", series.colour, series.hollow)).collect();
        assert_eq!(looks.len(), all.len());
        let drawn = Drawn::default();
        legend(&drawn, &all).unwrap();
        for [_, (right, bottom)] in drawn.0.into_inner() {
            assert!(right <= SIZE.0 as i32 && bottom <= BOTTOM, "{right}, {bottom}");
        }
        let few = report::drawn(&[(8192, &short[..MOST_STEPS])]);
        assert!(series(&few).iter().all(|series| series.name != "others"));
    }
}
