//! How good a search was: its winner beside those of an exhaustive search, of the model, and of other shape classes, timed
//! again, one after the other in turns.

use std::fmt;
use std::time::Duration;

use lacuna::runtime::tune::{self, Found, Lab as _, Options, Progress, Records, Stamp, Subject as _, Time};
use lacuna::tuning::Tuned;
use serde_json::{Value, json};

use super::super::failure::{Failure, Result};
use super::{Done, Setup, Sitting, workers};

/// Turns of each candidate, and runs of a turn.
const TURNS: u32 = 15;
const RUNS: u32 = 4;

/// Times of one shape, beside one another.
pub(super) struct Figures {
    /// What the search found, and how long it took.
    winner: (String, Time),
    seconds: f64,
    /// What an exhaustive search found.
    exhaustive: Option<(String, Time)>,
    /// What the model chooses.
    model: Option<(String, Time)>,
    /// The winner of another class of the same kernel, and by how much its record there was better than the next one.
    other: Option<(String, Time, String)>,
}

/// Searches exhaustively, then times the winners in turns.
///
/// # Errors
/// Where a worker cannot be had, or the winner fails.
pub(super) fn measure(
    setup: &Setup,
    subject: &Tuned,
    found: &Found,
    (records, stamp): (&Records, &Stamp),
    (sitting, budget): (&Sitting, Duration),
) -> Result<Figures> {
    let winner =
        found.winner().ok_or_else(|| Failure::Trouble("nothing was timed".to_owned(), vec![]))?.candidate.clone();
    let options = Options { exhaustive: true, budget: 10 * budget, ..Options::default() };
    let quiet = &mut |_: Progress<'_>| {};
    let all = tune::search(subject, &workers(setup)?, (records, stamp), &sitting.profile, &options, quiet)?;
    let exhaustive = all.winner().map(|trial| trial.candidate.clone());
    let staged = tune::rank(subject, &[], &sitting.profile);
    let schedules = subject.schedules();
    let model = tune::models_choice(&staged, &schedules[0]).cloned();
    // The winner of the shape of this kernel that was tuned before.
    let before = |done: &&Done| done.setup.kernel == setup.kernel && done.setup.dim == setup.dim;
    let other = sitting.rows.iter().rfind(before).and_then(|done| {
        let pick = &done.found.winner()?.candidate;
        let way = schedules.iter().find(|way| way.name == pick.schedule)?;
        let plan = way.tunable.plan(subject.target(), &pick.pick).ok()?;
        Some((pick.name(), plan, done.class.clone()))
    });
    let named = |candidate: Option<tune::Candidate>| candidate.map(|c| (c.name(), (*c.plan).clone()));
    let (exhaustive, model) = (named(exhaustive), named(model));
    let plans = [
        Some((winner.name(), (*winner.plan).clone())),
        exhaustive,
        model,
        other.as_ref().map(|(name, plan, _)| (name.clone(), plan.clone())),
    ];
    let lab = workers(setup)?;
    let mut samples: [Vec<f64>; 4] = Default::default();
    for _ in 0..TURNS {
        for (plan, samples) in plans.iter().zip(&mut samples) {
            let Some((name, plan)) = plan else { continue };
            let times = lab.time(plan, RUNS, Duration::from_secs(120));
            let failed = |failed| Failure::Trouble(format!("{name} cannot be timed: {failed:?}"), vec![]);
            samples.extend(times.map_err(failed)?);
        }
    }
    let timed = |i: usize| plans[i].as_ref().map(|(name, _)| (name.clone(), Time::of(&samples[i])));
    let winner = timed(0).ok_or_else(|| Failure::Trouble("nothing was timed".to_owned(), vec![]))?;
    let other = timed(3).zip(other).map(|((name, time), (_, _, class))| (name, time, class));
    Ok(Figures { winner, seconds: found.elapsed.as_secs_f64(), exhaustive: timed(1), model: timed(2), other })
}

impl Figures {
    fn over(&self, time: &Time) -> f64 {
        time.median_ms / self.winner.1.median_ms
    }

    /// As JSON.
    pub(super) fn as_json(&self) -> Value {
        let one = |(name, time): &(String, Time)| json!({ "pick": name, "time": time, "over_winner": self.over(time) });
        json!({
            "seconds": self.seconds,
            "winner": one(&self.winner),
            "exhaustive": self.exhaustive.as_ref().map(one),
            "model": self.model.as_ref().map(one),
            "other_class": self.other.as_ref().map(|(name, time, class)| {
                json!({ "pick": name, "time": time, "over_winner": self.over(time), "class": class })
            }),
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, time) = &self.winner;
        writeln!(f, "again      winner {name}: {:.4} ms ± {:.1}%", time.median_ms, 100.0 * time.error())?;
        let mut line = |what: &str, name: &str, time: &Time| {
            let over = self.over(time);
            writeln!(f, "           {what} {name}: {:.4} ms, {over:.3} of the winner's", time.median_ms)
        };
        if let Some((name, time)) = &self.exhaustive {
            line("exhaustive", name, time)?;
        }
        if let Some((name, time)) = &self.model {
            line("model", name, time)?;
        }
        if let Some((name, time, class)) = &self.other {
            line(&format!("of another class ({class})"), name, time)?;
        }
        Ok(())
    }
}

/// What all of them come to.
pub(super) fn summary(all: &[&Figures]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let over =
        |of: &dyn Fn(&Figures) -> Option<f64>| -> Vec<f64> { all.iter().filter_map(|figures| of(figures)).collect() };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let exhaustive = over(&|f| f.exhaustive.as_ref().map(|(_, time)| f.winner.1.median_ms / time.median_ms));
    let model = over(&|f| f.model.as_ref().map(|(_, time)| f.over(time)));
    let other = over(&|f| f.other.as_ref().map(|(_, time, _)| f.over(time)));
    let seconds: Vec<f64> = all.iter().map(|figures| figures.seconds).collect();
    let within = exhaustive.iter().filter(|&&over| over <= 1.03).count();
    format!(
        "{} shapes: the winner is within 3% of the exhaustive search's on {within} of {}, {:.3} of it at most; the model's pick \
         takes {:.3} of the winner's time on average, {:.3} at most; another class's winner {:.3} on average; a search takes \
         {:.0} s on average, {:.0} s at most\n",
        all.len(),
        exhaustive.len(),
        most(&exhaustive),
        mean(&model),
        most(&model),
        mean(&other),
        mean(&seconds),
        most(&seconds),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_compares_with_the_winner() {
        let time = |ms: f64| ("pick".to_owned(), Time::of(&[ms; 8]));
        let of = |winner: f64, exhaustive: f64, model: f64| Figures {
            winner: time(winner),
            seconds: 20.0,
            exhaustive: Some(time(exhaustive)),
            model: Some(time(model)),
            other: None,
        };
        let (near, far) = (of(1.0, 0.99, 1.1), of(2.0, 1.0, 2.6));
        let text = summary(&[&near, &far]);
        for part in ["2 shapes", "on 1 of 2, 2.000 of it at most", "takes 1.200 of", "1.300 at most", "20 s on average"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(summary(&[]), "");
        assert!(near.to_string().contains("model pick: 1.1000 ms, 1.100 of the winner's"), "{near}");
    }
}
