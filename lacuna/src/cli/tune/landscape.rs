//! A picture of the landscape: each candidate's time beside what the model expected, the fastest first.

use std::path::Path;

use lacuna::runtime::tune::{Record, Staged, State, Trial, pick_text};

use crate::cli::bench::chart::{FLOOR, GRID, INK, LETTER, write};
use crate::cli::failure::Result;
use crate::cli::picture::paint;
use plotters::prelude::RGBColor;

/// A candidate in the picture.
pub(crate) struct Bar {
    name: String,
    ms: Option<f64>,
    expected_ms: f64,
}

/// The most candidates that are drawn: the fastest.
const MOST: usize = 48;

/// Pixels.
const WIDTH: u32 = 1280;
const ROW: i32 = 30;
const TOP: i32 = 70;
const LEFT: i32 = 620;
const RIGHT: i32 = 1240;
const WON: RGBColor = RGBColor(38, 84, 140);

/// Of a search's candidates.
pub(crate) fn of_trials(trials: &[Trial]) -> Vec<Bar> {
    let bar = |trial: &Trial| Bar {
        name: match &trial.state {
            State::Invalid(..) => format!("{} (invalid)", trial.candidate.name()),
            _ => trial.candidate.name(),
        },
        ms: trial.time().map(|time| time.median_ms),
        expected_ms: trial.candidate.prediction.ms,
    };
    trials.iter().map(bar).collect()
}

/// Of what the model expects alone.
pub(crate) fn of_staged(staged: &[Staged]) -> Vec<Bar> {
    let candidates = staged.iter().filter_map(|staged| staged.as_ref().ok());
    candidates.map(|c| Bar { name: c.name(), ms: None, expected_ms: c.prediction.ms }).collect()
}

/// Of records of one class.
pub(crate) fn of_records(records: &[&Record]) -> Vec<Bar> {
    let bar = |record: &&Record| Bar {
        name: format!("{} {}", record.schedule, pick_text(&record.pick)),
        ms: record.time().map(|time| time.median_ms),
        expected_ms: record.predicted_ms,
    };
    records.iter().map(bar).collect()
}

/// Draws them.
///
/// # Errors
/// A name that is no picture's; a file that cannot be written.
pub(crate) fn draw(path: &Path, bars: &[Bar]) -> Result {
    let mut bars: Vec<&Bar> = bars.iter().collect();
    bars.sort_by(|a, b| {
        a.ms.unwrap_or(f64::INFINITY)
            .total_cmp(&b.ms.unwrap_or(f64::INFINITY))
            .then(a.expected_ms.total_cmp(&b.expected_ms))
    });
    bars.truncate(MOST);
    let most = bars.iter().map(|bar| bar.ms.unwrap_or(0.0).max(bar.expected_ms)).fold(f64::MIN_POSITIVE, f64::max);
    let at = |ms: f64| LEFT + (f64::from(RIGHT - LEFT) * ms / most).round() as i32;
    let bottom = TOP + ROW * bars.len() as i32;
    paint(path, (WIDTH, bottom as u32 + 50), |sheet| {
        for tenth in 0..=4 {
            let x = LEFT + (RIGHT - LEFT) * tenth / 4;
            sheet.line(&[(x, TOP - 8), (x, bottom)], 1, GRID)?;
            write(sheet, (x - 2 * LETTER, bottom + 12), &format!("{:.3}", most * f64::from(tenth) / 4.0), INK)?;
        }
        write(sheet, (LEFT, 14), "ms", INK)?;
        sheet.fill_between([(LEFT + 90, 14), (LEFT + 130, 28)], INK)?;
        write(sheet, (LEFT + 140, 14), "measured", INK)?;
        sheet.fill_between([(LEFT + 320, 14), (LEFT + 360, 28)], FLOOR)?;
        write(sheet, (LEFT + 370, 14), "expected", INK)?;
        for (i, bar) in bars.iter().enumerate() {
            let top = TOP + ROW * i as i32;
            // Names are cut at their beginning, where they are most alike.
            let room = ((LEFT - 30) / LETTER) as usize;
            let skip = bar.name.chars().count().saturating_sub(room);
            let name: String = bar.name.chars().skip(skip).collect();
            write(sheet, (16, top + 3), &name, INK)?;
            if let Some(ms) = bar.ms {
                sheet.fill_between([(LEFT, top), (at(ms), top + 13)], if i == 0 { WON } else { INK })?;
            }
            sheet.fill_between([(LEFT, top + 14), (at(bar.expected_ms), top + 20)], FLOOR)?;
        }
        Ok(())
    })
}
