//! The end of a search: the best beside its rivals, in turns.
//!
//! The times of a search are of different minutes: what left it early ran on a device that was cooler than the one that the
//! winner's last runs saw. Records are asked how much faster the winner is than the pick of another class, or than what is
//! taken without records; so those are timed anew, by turns and as often as one another, and their records are of these runs
//! alone. What has an earlier time that is less than theirs is timed with them: nothing wins by when it ran.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::super::candidates::models_choice_of;
use super::super::found::{Ended, State};
use super::super::record::{Record, Stamp, Time, text_hash};
use super::{MOST_OTHERS, Run, TURN};
use lacuna_codegen::plan::Pick;

/// Runs of each, at least: so many that the interval of a median leaves out the ends.
const RUNS: u32 = 12;

/// The winners of other classes than this one, by schedule, those that were timed last first.
pub(super) fn winners_elsewhere(known: &[Record], class: &str, stamp: &Stamp) -> Vec<(String, Pick)> {
    let ms = |record: &Record| record.time().map_or(f64::INFINITY, |time| time.median_ms);
    // Whether it is of the text that its class has today, only its class knows.
    let counts =
        |record: &&Record| record.class != class && record.time().is_some() && record.fresh(stamp, &record.ptx).is_ok();
    let all: Vec<&Record> = known.iter().filter(counts).collect();
    let mut least: BTreeMap<&str, f64> = BTreeMap::new();
    for record in &all {
        let least = least.entry(&record.class).or_insert(f64::INFINITY);
        *least = least.min(ms(record));
    }
    let winners = all.into_iter().rev().filter(|record| ms(record) == least[record.class.as_str()]);
    winners.map(|record| (record.schedule.clone(), record.pick.clone())).collect()
}

impl Run<'_> {
    /// Times the best beside its rivals, where there are any and not all of them are as an earlier search left them.
    pub(super) fn beside(&mut self) {
        let mut all = self.rivals();
        let left_so = |&i: &usize| matches!(self.trials[i].state, State::Timed(_, true));
        if all.iter().all(left_so) {
            return;
        }
        while let Some(timed) = self.in_turns(&all) {
            let least = timed.iter().map(|(_, samples)| Time::of(samples).median_ms).fold(f64::INFINITY, f64::min);
            let earlier = |i: &usize| !all.contains(i) && self.trials[*i].time().is_some_and(|t| t.median_ms <= least);
            let earlier: Vec<usize> = (0..self.trials.len()).filter(earlier).collect();
            if earlier.is_empty() {
                self.settle(timed);
                return;
            }
            all = timed.into_iter().map(|(trial, _)| trial).chain(earlier).collect();
        }
        // One that failed is no finalist.
        let trials = &self.trials;
        self.finalists.retain(|&i| trials[i].time().is_some());
    }

    /// The best, and what it is compared with: the model's choice, what records had as the fastest, and winners of other
    /// classes.
    fn rivals(&self) -> Vec<usize> {
        let Some(best) = self.best() else { return Vec::new() };
        let candidates = self.trials.iter().map(|trial| &trial.candidate);
        let schedules = self.subject.schedules();
        let models = schedules.first().and_then(|first| models_choice_of(candidates, first));
        let models = models.and_then(|choice| self.trial_of(&choice.schedule, &choice.pick));
        let known = (0..self.trials.len()).filter(|&i| matches!(self.trials[i].state, State::Timed(_, true)));
        let known = known.min_by(|&a, &b| self.by_time(a, b));
        let mut all = vec![best];
        let add = |all: &mut Vec<usize>, trial: usize| {
            let valid = !matches!(self.trials[trial].state, State::Invalid(..));
            if valid && !all.contains(&trial) {
                all.push(trial);
            }
        };
        models.into_iter().chain(known).for_each(|trial| add(&mut all, trial));
        let most = all.len() + MOST_OTHERS;
        let given = self.elsewhere.iter().chain(&self.options.beside);
        for trial in given.filter_map(|(schedule, pick)| self.trial_of(schedule, pick)) {
            if all.len() < most {
                add(&mut all, trial);
            }
        }
        if all.len() > 1 { all } else { Vec::new() }
    }

    fn by_time(&self, a: usize, b: usize) -> Ordering {
        let ms = |i: usize| self.trials[i].time().map_or(f64::INFINITY, |time| time.median_ms);
        ms(a).total_cmp(&ms(b))
    }

    /// The trial of a pick, or of one that has the same plan.
    fn trial_of(&self, schedule: &str, pick: &Pick) -> Option<usize> {
        let own = self.trials.iter().position(|t| t.candidate.schedule == schedule && t.candidate.pick == *pick);
        own.or_else(|| {
            self.dropped.iter().find(|dropped| dropped.schedule == schedule && dropped.pick == *pick)?;
            let schedules = self.subject.schedules();
            let way = schedules.iter().find(|way| way.name == schedule)?;
            let text = text_hash(&way.tunable.plan(self.subject.target(), pick).ok()?);
            self.trials.iter().position(|trial| trial.candidate.ptx == text)
        })
    }

    /// Times trials by turns, until each is sure; `None` where the search ends before, or one alone is left.
    fn in_turns(&mut self, all: &[usize]) -> Option<Vec<(usize, Vec<f64>)>> {
        let mut timed: Vec<(usize, Vec<f64>)> = all.iter().map(|&trial| (trial, Vec::new())).collect();
        let stage = format!("the best beside {} others", all.len() - 1);
        let mut runs = 0;
        let is_unsure = |run: &Self, samples: &Vec<f64>| !Time::of(samples).is_within(run.options.precision);
        let most = self.options.most_runs;
        while runs < RUNS.min(most) || runs < most && timed.iter().any(|(_, samples)| is_unsure(self, samples)) {
            for (trial, samples) in &mut timed {
                if self.trials[*trial].state == State::LeftOut && !self.trials[*trial].checked {
                    self.measured += 1;
                }
                match self.samples(*trial, TURN) {
                    Some(new) => samples.extend(new),
                    None if self.ended != Ended::Done => return None,
                    None => samples.clear(),
                }
            }
            runs += TURN;
            // Whatever warms or cools the device does so to each of them alike.
            timed.reverse();
            timed.retain(|(_, samples)| samples.len() >= runs as usize);
            if timed.len() < 2 {
                return None;
            }
            self.told(&stage);
        }
        Some(timed)
    }

    /// These samples are what is known of their trials, and one of them is the winner.
    fn settle(&mut self, timed: Vec<(usize, Vec<f64>)>) {
        self.finalists.clear();
        for (trial, samples) in timed {
            self.trials[trial].state = State::Timed(Time::of(&samples), false);
            self.trials[trial].samples = samples;
            self.finalists.push(trial);
            self.keep(trial);
        }
    }
}
