//! The search for the fastest candidate.
//!
//! ```text
//!   picks ──▶ plans, in the model's order ──▶ compiled, by several threads ──▶ checked ──▶ timed a little
//!                what does not fit: dropped                                                   │
//!              ┌──────────────────────────────────────────────────────────────────────────────┘
//!              ▼
//!   halving: those that may still be the best, interleaved, with more runs each round, until the intervals are narrow
//!              │
//!              ▼
//!   the best beside its rivals, all of them anew, in turns: what their records say of one another is of one minute
//! ```
//!
//! What records say already is not measured again. Each step is given what is left of the budget, so that it is kept; each
//! result is a record at once, so that whatever ends the search loses nothing.

mod beside;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use lacuna_codegen::Error;
use lacuna_codegen::plan::{Pick, Space};

use super::candidates::{Candidate, Dropped, MOST_EXHAUSTIVE, MOST_PICKS, Staged, Subject, picks, stage};
use super::found::{Ended, Found, Options, Progress, State, Trial};
use super::lab::{Failed, Lab, Made};
use super::model::Registers;
use super::profile::Profile;
use super::record::{Invalid, Outcome, Record, Stamp, Time, nanoseconds, now};
use super::records::Records;

/// Runs of a candidate that is seen for the first time, and those at a time from then on.
const FIRST_RUNS: u32 = 3;
const TURN: u32 = 3;

/// How much slower a tile's best is than the overall one, where the tile is no rival.
const NO_RIVAL: f64 = 1.10;

/// Winners of other classes, at most.
const MOST_OTHERS: usize = 4;

/// Nothing is begun when less than this is left.
const TOO_LATE: Duration = Duration::from_millis(1);

/// Finds the fastest candidate of a subject on a device. `watch` is told of each step.
///
/// # Errors
/// Where no pick of any schedule can be planned, why the first one cannot.
pub fn search(
    subject: &dyn Subject,
    lab: &dyn Lab,
    (records, stamp): (&Records, &Stamp),
    profile: &Profile,
    options: &Options,
    watch: &mut dyn FnMut(Progress<'_>),
) -> Result<Found, Error> {
    let known = records.load(&stamp.gpu, subject.kernel());
    let registers = Registers::known(known.iter().filter_map(|record| {
        let (estimate, said) = record.registers?;
        Some((record.ptx.clone(), estimate, said))
    }));
    let class = subject.class().to_string();
    let elsewhere = beside::winners_elsewhere(&known, &class, stamp);
    let known = known.into_iter().filter(|record| record.class == class).collect();
    let mut run = Run {
        subject,
        lab,
        records,
        stamp,
        profile,
        options,
        watch,
        known,
        elsewhere,
        registers,
        class,
        trials: Vec::new(),
        dropped: Vec::new(),
        ended: Ended::Done,
        measured: 0,
        finalists: Vec::new(),
    };
    let mut round = picks(subject, run.most());
    round.extend(run.of_others(&round));
    while !round.is_empty() && run.ended == Ended::Done {
        let before = run.best();
        let new = run.add(std::mem::take(&mut round));
        run.finalists.clear();
        run.screen(new);
        run.halve();
        // Of a space that is too wide, what lies around a best that has moved; where that leads nowhere, its other tiles.
        if run.best() != before {
            round = run.new_of(Space::around);
        }
        if round.is_empty() && run.ended == Ended::Done {
            round = run.new_of(Space::tiles);
        }
    }
    if run.ended == Ended::Done {
        run.beside();
    }
    if run.ended == Ended::Budget {
        lab.stop();
    }
    let best = run.best();
    let Run { trials, dropped, ended, measured, .. } = run;
    if trials.is_empty()
        && let Some(first) = dropped.first()
    {
        return Err(first.why.clone());
    }
    Ok(Found { trials, dropped, best, ended, elapsed: lab.elapsed(), measured })
}

struct Run<'a> {
    subject: &'a dyn Subject,
    lab: &'a dyn Lab,
    records: &'a Records,
    stamp: &'a Stamp,
    profile: &'a Profile,
    options: &'a Options,
    watch: &'a mut dyn FnMut(Progress<'_>),
    /// Records of the class.
    known: Vec<Record>,
    /// Winners of other classes.
    elsewhere: Vec<(String, Pick)>,
    registers: Registers,
    class: String,
    trials: Vec<Trial>,
    dropped: Vec<Dropped>,
    ended: Ended,
    measured: usize,
    /// Those that were left when the last halving ended, or that were timed beside the best.
    finalists: Vec<usize>,
}

impl Run<'_> {
    /// The fastest so far, of the finalists where there are any: of others a few lucky runs say nothing.
    fn best(&self) -> Option<usize> {
        let counts = |&(i, _): &(usize, &Time)| self.finalists.is_empty() || self.finalists.contains(&i);
        let timed = self.trials.iter().enumerate().filter_map(|(i, trial)| Some((i, trial.time()?))).filter(counts);
        let first =
            timed.min_by(|a, b| a.1.median_ms.total_cmp(&b.1.median_ms).then(b.1.repetitions.cmp(&a.1.repetitions)));
        first.map(|(i, _)| i)
    }

    fn best_ms(&self) -> f64 {
        self.best().and_then(|best| self.trials[best].time()).map_or(f64::INFINITY, |time| time.median_ms)
    }

    fn told(&mut self, stage: &str) {
        let done = self.trials.iter().filter(|trial| trial.state != State::Waiting).count();
        let best = self.best().map(|best| &self.trials[best]);
        (self.watch)(Progress { done, of: self.trials.len(), stage, best });
    }

    /// Plans picks; which of them are new candidates, of which nothing is known. The others have their records.
    fn add(&mut self, picks: Vec<(String, Pick)>) -> Vec<usize> {
        (self.watch)(Progress { done: 0, of: picks.len(), stage: "planning", best: None });
        let mut new = Vec::new();
        for staged in stage(self.subject, picks, self.profile, &self.registers) {
            match staged {
                Err(dropped) => self.dropped.push(dropped),
                Ok(candidate) => {
                    let state = self.recorded(&candidate);
                    if state == State::Waiting {
                        new.push(self.trials.len());
                    }
                    self.trials.push(Trial { candidate, state, registers: None, checked: false, samples: Vec::new() });
                }
            }
        }
        new
    }

    /// What a record that holds says of a candidate.
    fn recorded(&self, candidate: &Candidate) -> State {
        if self.options.again {
            return State::Waiting;
        }
        let of = |record: &&Record| record.schedule == candidate.schedule && record.pick == candidate.pick;
        let holds = |record: &&Record| record.fresh(self.stamp, &candidate.ptx).is_ok();
        match self.known.iter().filter(of).rfind(holds).map(|record| &record.outcome) {
            None => State::Waiting,
            Some(Outcome::Time(time)) => State::Timed(*time, true),
            Some(Outcome::Invalid(why)) => State::Invalid(why.clone(), true),
        }
    }

    /// Of the best trial's schedule, where its space is too wide, the picks near it that are not candidates yet.
    fn new_of(&self, near: fn(&Space, &Pick) -> Vec<Pick>) -> Vec<(String, Pick)> {
        let Some(best) = self.best().map(|best| &self.trials[best].candidate) else { return Vec::new() };
        let schedules = self.subject.schedules();
        let Some(space) =
            schedules.iter().find(|s| s.name == best.schedule).map(|s| s.tunable.space(self.subject.target()))
        else {
            return Vec::new();
        };
        if space.size() <= self.most() {
            return Vec::new();
        }
        let seen = |pick: &Pick| {
            let trial = |t: &Trial| t.candidate.schedule == best.schedule && t.candidate.pick == *pick;
            let dropped = |d: &Dropped| d.schedule == best.schedule && d.pick == *pick;
            self.trials.iter().any(trial) || self.dropped.iter().any(dropped)
        };
        let new = near(&space, &best.pick).into_iter().filter(|pick| !seen(pick));
        new.map(|pick| (best.schedule.clone(), pick)).collect()
    }

    /// Winners of other classes that this one's spaces have, and that are not among picks: one may be far from the first.
    fn of_others(&self, picks: &[(String, Pick)]) -> Vec<(String, Pick)> {
        let schedules = self.subject.schedules();
        let has = |(schedule, pick): &&(String, Pick)| {
            let way = schedules.iter().find(|way| way.name == schedule);
            way.is_some_and(|way| way.tunable.space(self.subject.target()).has(pick))
        };
        let new = self.elsewhere.iter().filter(has).filter(|other| !picks.contains(other));
        new.take(MOST_OTHERS).cloned().collect()
    }

    /// How many picks of a schedule are all candidates.
    fn most(&self) -> usize {
        if self.options.exhaustive { MOST_EXHAUSTIVE } else { MOST_PICKS }
    }

    fn left(&self) -> Duration {
        self.options.budget.saturating_sub(self.lab.elapsed())
    }

    /// Compiles in parallel; checks and times what is ready, what is expected to be fastest first.
    fn screen(&mut self, new: Vec<usize>) {
        let plans: Vec<_> = new.iter().map(|&i| self.trials[i].candidate.plan.clone()).collect();
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (done, ready) = mpsc::channel::<(usize, Result<Made, Failed>)>();
        let lab = self.lab;
        std::thread::scope(|scope| {
            for _ in 0..self.options.threads.clamp(1, plans.len().max(1)) {
                let (done, plans, next, stop) = (done.clone(), &plans, &next, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(plan) = plans.get(at) else { break };
                        if done.send((at, lab.compile(plan))).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(done);
            self.time_ready(&new, &ready);
            stop.store(true, Ordering::Relaxed);
            if self.ended != Ended::Done {
                lab.stop();
            }
        });
    }

    fn time_ready(&mut self, new: &[usize], ready: &mpsc::Receiver<(usize, Result<Made, Failed>)>) {
        let mut groups: BTreeMap<String, (f64, usize)> = BTreeMap::new();
        let mut waiting: Vec<(usize, Result<Made, Failed>)> = Vec::new();
        self.told("timing");
        loop {
            waiting.extend(ready.try_iter());
            if waiting.is_empty() {
                match ready.recv_timeout(self.left()) {
                    Ok(made) => waiting.push(made),
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        self.ended = Ended::Budget;
                        return;
                    }
                }
            }
            // Candidates are in the model's order.
            let first = (0..waiting.len()).min_by_key(|&i| waiting[i].0).expect("one is waiting");
            let (at, made) = waiting.swap_remove(first);
            let trial = new[at];
            let group = self.trials[trial].candidate.group();
            let (best, misses) = *groups.entry(group.clone()).or_insert((f64::INFINITY, 0));
            if !self.options.exhaustive && misses >= self.options.patience && best > NO_RIVAL * self.best_ms() {
                self.trials[trial].state = State::LeftOut;
            } else {
                let time = self.first_time(trial, made);
                if self.ended != Ended::Done {
                    return;
                }
                let better = time.is_some_and(|time| time < best);
                groups.insert(group, if better { (time.unwrap_or(best), 0) } else { (best, misses + 1) });
            }
            self.told("timing");
        }
    }

    /// Checks a candidate and times it a little. Its median, where it is valid.
    fn first_time(&mut self, trial: usize, made: Result<Made, Failed>) -> Option<f64> {
        self.check(trial, made)?;
        self.measured += 1;
        self.timed(trial, FIRST_RUNS)?;
        self.keep(trial);
        self.trials[trial].time().map(|time| time.median_ms)
    }

    /// Holds a candidate that is compiled to the reference; `None` where it is none.
    fn check(&mut self, trial: usize, made: Result<Made, Failed>) -> Option<()> {
        let made = made.map_err(|failed| self.failed(trial, failed, false)).ok()?;
        self.trials[trial].registers = made.registers;
        let plan = self.trials[trial].candidate.plan.clone();
        let (limit, cut) = self.limit(trial, 1)?;
        if let Err(failed) = self.lab.check(&plan, limit) {
            self.failed(trial, failed, cut);
            return None;
        }
        self.trials[trial].checked = true;
        Some(())
    }

    /// How long a step of so many runs may take, and whether that is less than a hanging one is given. `None` where the
    /// budget is spent.
    fn limit(&mut self, trial: usize, runs: u32) -> Option<(Duration, bool)> {
        let left = self.left();
        if left < TOO_LATE {
            self.ended = Ended::Budget;
            return None;
        }
        let trial = &self.trials[trial];
        let ms = trial.time().map_or(trial.candidate.prediction.ms, |time| time.median_ms);
        let limit = self.options.watchdog + Duration::from_secs_f64(ms.min(1e9) / 1e3 * f64::from(runs + 1) * 20.0);
        Some((limit.min(left), limit > left))
    }

    /// Times so many runs more; `None` where that failed.
    fn timed(&mut self, trial: usize, runs: u32) -> Option<()> {
        let new = self.samples(trial, runs)?;
        let trial = &mut self.trials[trial];
        trial.samples.extend(new);
        trial.state = State::Timed(Time::of(&trial.samples), false);
        Some(())
    }

    /// Milliseconds of so many runs; `None` where they failed. One that a record has is checked first, as every other was.
    fn samples(&mut self, trial: usize, runs: u32) -> Option<Vec<f64>> {
        let plan = self.trials[trial].candidate.plan.clone();
        if !self.trials[trial].checked {
            let made = self.lab.compile(&plan);
            self.check(trial, made)?;
        }
        let (limit, cut) = self.limit(trial, runs)?;
        match self.lab.time(&plan, runs, limit) {
            Ok(samples) => Some(samples),
            Err(failed) => {
                self.failed(trial, failed, cut);
                None
            }
        }
    }

    /// Notes a failure. A step that was cut short by the budget says nothing of the candidate.
    fn failed(&mut self, trial: usize, failed: Failed, cut: bool) {
        match failed {
            Failed::Invalid(Invalid::Hangs(_)) | Failed::Last(Invalid::Hangs(_)) if cut => self.ended = Ended::Budget,
            Failed::Lost(why) => self.ended = Ended::Lost(why),
            Failed::Invalid(why) => {
                self.trials[trial].state = State::Invalid(why, false);
                self.keep(trial);
            }
            Failed::Last(why) => {
                self.ended = Ended::Lost(format!("{}: {why}", self.trials[trial].candidate.name()));
                self.trials[trial].state = State::Invalid(why, false);
                self.keep(trial);
            }
        }
    }

    /// Keeps a trial's record.
    fn keep(&self, trial: usize) {
        let Trial { candidate, state, registers, .. } = &self.trials[trial];
        let outcome = match state {
            State::Timed(time, false) => Outcome::Time(*time),
            State::Invalid(why, false) => Outcome::Invalid(why.clone()),
            _ => return,
        };
        let estimate = candidate.plan.attending().registers;
        self.records.append(
            self.subject.kernel(),
            &Record {
                class: self.class.clone(),
                schedule: candidate.schedule.clone(),
                pick: candidate.pick.clone(),
                outcome,
                predicted_ms: nanoseconds(candidate.prediction.ms),
                registers: registers.map(|said| (estimate, said)),
                ptx: candidate.ptx.clone(),
                stamp: self.stamp.clone(),
                at: now(),
            },
        );
    }

    /// Times those that may still be the best, interleaved, until their intervals are narrow; half of them each round, and
    /// those besides whose interval meets the best one's.
    fn halve(&mut self) {
        let mut alive: Vec<usize> = (0..self.trials.len()).filter(|&i| self.trials[i].time().is_some()).collect();
        let begun: Vec<usize> = self.trials.iter().map(|trial| trial.samples.len()).collect();
        let mut turns = 1;
        while self.ended == Ended::Done {
            alive.retain(|&i| self.trials[i].time().is_some());
            let time = |i: usize| *self.trials[i].time().expect("those without are left out");
            alive.sort_by(|&a, &b| time(a).median_ms.total_cmp(&time(b).median_ms));
            if !self.options.exhaustive {
                let Some(&best) = alive.first() else { break };
                let (half, high) = (alive.len().div_ceil(2), time(best).high_ms);
                // Few runs say little: after them half go on, whatever their intervals.
                let goes_on = |rank: usize, i: usize| rank == 0 || time(i).low_ms <= high || turns == 1 && rank < half;
                let kept = alive.iter().enumerate().filter(|&(rank, &i)| goes_on(rank, i));
                alive = kept.map(|(_, &i)| i).collect();
            }
            let unsure: Vec<usize> = alive.iter().copied().filter(|&i| self.is_unsure(i)).collect();
            if unsure.is_empty() {
                break;
            }
            let stage = format!("{} left, {} runs more of each", alive.len(), TURN * turns);
            for _ in 0..turns {
                for &trial in &unsure {
                    if self.ended != Ended::Done {
                        break;
                    }
                    self.timed(trial, TURN);
                }
                self.told(&stage);
            }
            turns = (turns * 2).min(8);
        }
        if self.ended == Ended::Done {
            self.finalists = alive;
        }
        for (trial, begun) in begun.into_iter().enumerate() {
            if self.trials[trial].samples.len() > begun {
                self.keep(trial);
            }
        }
    }

    /// Whether more runs are to say more of a trial's time.
    fn is_unsure(&self, trial: usize) -> bool {
        let trial = &self.trials[trial];
        let Some(time) = trial.time() else { return false };
        !time.is_within(self.options.precision) && time.repetitions < self.options.most_runs
    }
}

/// What the model says of a subject without a device: the candidates in its order, and what does not fit.
pub fn rank(subject: &dyn Subject, records: &[Record], profile: &Profile) -> Vec<Staged> {
    let registers = Registers::known(records.iter().filter_map(|record| {
        let (estimate, said) = record.registers?;
        Some((record.ptx.clone(), estimate, said))
    }));
    stage(subject, picks(subject, MOST_PICKS), profile, &registers)
}
