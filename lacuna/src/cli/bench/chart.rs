//! Time against tokens, both logarithmic: the whole, each launch, and the floor.

use std::path::Path;

use font8x8::legacy::BASIC_LEGACY;
use plotters::prelude::RGBColor;

use super::{Measured, report};
use crate::cli::failure::Result;
use crate::cli::picture::{Sheet, paint};

/// The picture, and the part of it that lines are drawn in: pixels.
const SIZE: (u32, u32) = (1280, 800);
const LEFT: i32 = 110;
const RIGHT: i32 = 880;
const TOP: i32 = 60;
const BOTTOM: i32 = 720;

/// Pixels of a point of the font, and of a letter.
pub(crate) const DOT: i32 = 2;
pub(crate) const LETTER: i32 = 8 * DOT;

pub(crate) const INK: RGBColor = RGBColor(24, 28, 36);
pub(crate) const GRID: RGBColor = RGBColor(214, 218, 226);
const FINE: RGBColor = RGBColor(238, 240, 244);
pub(crate) const FLOOR: RGBColor = RGBColor(140, 146, 158);

/// One for each launch, told apart without telling red from green.
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

/// A line of the picture.
struct Series {
    name: String,
    colour: RGBColor,
    width: u32,
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
            for (px, py) in points {
                sheet.fill_between([(px - 4, py - 4), (px + 4, py + 4)], line.colour)?;
            }
        }
        legend(sheet, &all)
    })
}

/// The whole, the floor, and the launches where there are several. A launch that takes no time at a shape has no point
/// there.
fn series(rows: &[Measured]) -> Vec<Series> {
    let of = |name: &str, colour, width, each: &dyn Fn(&Measured) -> Option<f64>| {
        let mut points: Vec<(f64, f64)> =
            rows.iter().filter_map(|row| Some((row.tokens as f64, each(row).filter(|&ms| ms > 0.0)?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: name.to_owned(), colour, width, points }
    };
    let names = report::launches(rows);
    let mut all = vec![
        of("floor (H200)", FLOOR, 3, &|row| Some(row.floor.bound().1)),
        of("whole", INK, 4, &|row| Some(row.whole.median_ms)),
    ];
    if names.len() > 1 {
        let launches = names.iter().zip(COLOURS.iter().cycle());
        all.extend(launches.map(|(name, &colour)| of(name, colour, 2, &|row| row.launch(name))));
    }
    all.retain(|series| !series.points.is_empty());
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
    let last = |series: &Series| series.points.last().map_or(0.0, |p| p.1);
    all.sort_by(|a, b| last(b).total_cmp(&last(a)));
    for (i, series) in all.into_iter().enumerate() {
        let top = TOP + 30 * i as i32;
        let middle = top + LETTER / 2;
        sheet.line(&[(RIGHT + 20, middle), (RIGHT + 50, middle)], series.width, series.colour)?;
        write(sheet, (RIGHT + 62, top), &series.name, INK)?;
    }
    Ok(())
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
        let series = Series { name: String::new(), colour: INK, width: 1, points };
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
}
