//! Why a pick won: against the runner-up, and against what the model expected.

use std::fmt;

use super::record::{Invalid, Outcome, Record, Time, pick_text};
use super::stats::rank_correlation;

/// Of one class, what its records say.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The fastest.
    pub winner: Entry,
    /// The next one.
    pub second: Option<Entry>,
    /// The one that the model expected to be the fastest.
    pub models: Entry,
    /// Where the winner stands in the model's order, from 1.
    pub expected_at: usize,
    /// How many were timed.
    pub timed: usize,
    /// Those that are no candidates, with the reason.
    pub invalid: Vec<(String, Invalid)>,
    /// How far the model's order agrees with the measured one, where there are three or more.
    pub correlation: Option<f64>,
}

/// A candidate with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The schedule and its pick, for people.
    pub name: String,
    /// Its time.
    pub time: Time,
    /// What the model expected, in milliseconds.
    pub predicted_ms: f64,
}

impl Explanation {
    /// Of records of one class; `None` where none has a time.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Option<Self> {
        let all: Vec<&Record> = records.into_iter().collect();
        let name = |record: &Record| format!("{} {}", record.schedule, pick_text(&record.pick)).trim_end().to_owned();
        let entry = |record: &&Record| {
            let time = *record.time()?;
            Some(Entry { name: name(record), time, predicted_ms: record.predicted_ms })
        };
        let mut timed: Vec<Entry> = all.iter().filter_map(entry).collect();
        timed.sort_by(|a, b| a.time.median_ms.total_cmp(&b.time.median_ms));
        let winner = timed.first()?.clone();
        let models = timed.iter().min_by(|a, b| a.predicted_ms.total_cmp(&b.predicted_ms))?.clone();
        let invalid = all.iter().filter_map(|record| match &record.outcome {
            Outcome::Invalid(why) => Some((name(record), why.clone())),
            Outcome::Time(_) => None,
        });
        let pairs: Vec<(f64, f64)> = timed.iter().map(|entry| (entry.predicted_ms, entry.time.median_ms)).collect();
        Some(Explanation {
            expected_at: 1 + timed.iter().filter(|entry| entry.predicted_ms < winner.predicted_ms).count(),
            second: timed.get(1).cloned(),
            timed: timed.len(),
            invalid: invalid.collect(),
            correlation: rank_correlation(&pairs),
            winner,
            models,
        })
    }
}

/// `4% more`, as a share of the first.
fn more(base: f64, other: f64) -> String {
    format!("{:.1}% more", 100.0 * (other / base - 1.0))
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Time { median_ms, repetitions, confidence, .. } = self.time;
        let error = 100.0 * self.time.error();
        write!(
            f,
            "{}: {median_ms:.4} ms ± {error:.1}% ({repetitions} runs, {:.0}% sure)",
            self.name,
            100.0 * confidence
        )
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let best = self.winner.time;
        writeln!(f, "winner     {}", self.winner)?;
        if let Some(second) = &self.second {
            let apart =
                if second.time.low_ms > best.high_ms { "their intervals are apart" } else { "their intervals meet" };
            writeln!(f, "runner-up  {}: {}; {apart}", second, more(best.median_ms, second.time.median_ms))?;
        }
        let (at, of) = (self.expected_at, self.timed);
        writeln!(
            f,
            "model      expected {:.4} ms of the winner, which it had at {at} of {of}",
            self.winner.predicted_ms
        )?;
        if self.models.name != self.winner.name {
            writeln!(
                f,
                "           its own choice: {}: {}",
                self.models,
                more(best.median_ms, self.models.time.median_ms)
            )?;
        }
        if let Some(correlation) = self.correlation {
            writeln!(f, "           its order and the measured one: rank correlation {correlation:.2}")?;
        }
        for (name, why) in &self.invalid {
            writeln!(f, "invalid    {name}: {why}")?;
        }
        Ok(())
    }
}
