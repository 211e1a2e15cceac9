//! How a search is asked for, and what it finds.

use std::time::Duration;

use lacuna_codegen::plan::Pick;

use super::candidates::{Candidate, Dropped};
use super::record::{Invalid, Time};
use super::stats::rank_correlation;

/// How to search.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How long it may take.
    pub budget: Duration,
    /// Whether every candidate is timed to the end.
    pub exhaustive: bool,
    /// Candidates of one tile in a row that may be slower than its best before the rest of them is left out, where that
    /// best is no rival of the overall one.
    pub patience: usize,
    /// How narrow the interval of a time is to be: half of it over the median.
    pub precision: f64,
    /// Runs of a candidate at most.
    pub most_runs: u32,
    /// Whether what records say already is measured again.
    pub again: bool,
    /// How long a step of a candidate may take beyond what the model expects of it, before it counts as hanging.
    pub watchdog: Duration,
    /// Threads that compile.
    pub threads: usize,
    /// Picks, by schedule, that are timed beside the best at the end where they are candidates, with the winners that records
    /// have of other classes: winners that were shipped.
    pub beside: Vec<(String, Pick)>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            budget: Duration::from_secs(60),
            exhaustive: false,
            patience: 3,
            precision: 0.01,
            most_runs: 200,
            again: false,
            watchdog: Duration::from_secs(5),
            threads: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            beside: Vec::new(),
        }
    }
}

/// A candidate and what became of it.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The candidate.
    pub candidate: Candidate,
    /// What became of it.
    pub state: State,
    /// Registers of a thread, as the compiler says.
    pub registers: Option<u32>,
    /// Whether its result was compared in this search.
    pub(super) checked: bool,
    pub(super) samples: Vec<f64>,
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Nothing yet, or nothing at all: the budget ended before.
    Waiting,
    /// Others of its tile were tried, and were no rivals of the best.
    LeftOut,
    /// It is no candidate. Whether a record said so.
    Invalid(Invalid, bool),
    /// It was timed. Whether a record said so.
    Timed(Time, bool),
}

impl Trial {
    /// Its time, where it has one.
    pub fn time(&self) -> Option<&Time> {
        match &self.state {
            State::Timed(time, _) => Some(time),
            _ => None,
        }
    }
}

/// Why a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything that it set out to do is done.
    Done,
    /// The budget is spent.
    Budget,
    /// The device cannot go on.
    Lost(String),
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Every candidate, in the model's order.
    pub trials: Vec<Trial>,
    /// Picks that do not fit.
    pub dropped: Vec<Dropped>,
    /// Which trial is the fastest; `None` where none has a time.
    pub best: Option<usize>,
    /// Why it ended.
    pub ended: Ended,
    /// How long it took.
    pub elapsed: Duration,
    /// Candidates that were measured now.
    pub measured: usize,
}

impl Found {
    /// The fastest.
    pub fn winner(&self) -> Option<&Trial> {
        self.best.map(|best| &self.trials[best])
    }

    /// Spearman's rank correlation of the model's times with the measured ones.
    pub fn correlation(&self) -> Option<f64> {
        let timed = self.trials.iter().filter_map(|t| Some((t.candidate.prediction.ms, t.time()?.median_ms)));
        rank_correlation(&timed.collect::<Vec<_>>())
    }
}

/// How far a search is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Candidates of which something is known.
    pub done: usize,
    /// Candidates.
    pub of: usize,
    /// What is under way: `timing`, `halving: 6 left`.
    pub stage: &'a str,
    /// The best so far.
    pub best: Option<&'a Trial>,
}
