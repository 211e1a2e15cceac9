//! How good a search was: its winner beside those of an exhaustive search, of the model, and of other shape classes, timed
//! again, one after the other in turns; and whether records claim of another class's winner what is seen.

use std::fmt;
use std::time::Duration;

use lacuna::codegen::plan::Plan;
use lacuna::runtime::tune::{self, Candidate, Found, Lab as _, Options, Progress, Records, Stamp, Subject as _, Time};
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
    /// The winner of another class of the same kernel.
    other: Option<Other>,
}

/// What won another class.
struct Other {
    name: String,
    time: Time,
    class: String,
    /// Its time over the winner's by the records of this class, where they have both.
    claimed: Option<f64>,
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
    (sitting, options): (&Sitting, &Options),
) -> Result<Figures> {
    let winner =
        found.winner().ok_or_else(|| Failure::Trouble("nothing was timed".to_owned(), vec![]))?.candidate.clone();
    let options = Options { exhaustive: true, again: false, budget: 10 * options.budget, ..options.clone() };
    let quiet = &mut |_: Progress<'_>| {};
    let all = tune::search(subject, &workers(setup)?, (records, stamp), &sitting.profile, &options, quiet)?;
    let exhaustive = all.winner().map(|trial| trial.candidate.clone());
    let staged = tune::rank(subject, &[], &sitting.profile);
    let schedules = subject.schedules();
    let model = tune::models_choice(&staged, &schedules[0]).cloned();
    let other = of_another_class(setup, subject, &winner, sitting);
    let named = |candidate: Option<tune::Candidate>| candidate.map(|c| (c.name(), (*c.plan).clone()));
    let (exhaustive, model) = (named(exhaustive), named(model));
    let plans = [
        Some((winner.name(), (*winner.plan).clone())),
        exhaustive,
        model,
        other.as_ref().map(|(pick, plan, _)| (pick.name(), plan.clone())),
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
    let text = winner.ptx;
    let winner = timed(0).ok_or_else(|| Failure::Trouble("nothing was timed".to_owned(), vec![]))?;
    let other = timed(3).zip(other).map(|((name, time), (_, plan, class))| {
        let claimed =
            recorded(&all, &tune::text_hash(&plan)).zip(recorded(&all, &text)).map(|(other, won)| other / won);
        Other { name, time, class, claimed }
    });
    Ok(Figures { winner, seconds: found.elapsed.as_secs_f64(), exhaustive: timed(1), model: timed(2), other })
}

/// The winner of the shape of this kernel and width that was tuned last and has another one than this shape, with its plan
/// here and its class.
fn of_another_class<'a>(
    setup: &Setup,
    subject: &Tuned,
    winner: &Candidate,
    sitting: &'a Sitting,
) -> Option<(&'a Candidate, Plan, String)> {
    let schedules = subject.schedules();
    let of = |done: &'a Done| {
        let pick = &done.found.winner()?.candidate;
        let way = schedules.iter().find(|way| way.name == pick.schedule)?;
        let plan = way.tunable.plan(subject.target(), &pick.pick).ok()?;
        // Other knobs may be the same plan here.
        (tune::text_hash(&plan) != winner.ptx).then(|| (pick, plan, done.class.clone()))
    };
    let alike = |done: &&Done| done.setup.kernel == setup.kernel && done.setup.dim == setup.dim;
    sitting.rows.iter().rev().filter(alike).find_map(of)
}

/// The time of a text by a search that has all records.
fn recorded(all: &Found, text: &str) -> Option<f64> {
    all.trials.iter().find(|trial| trial.candidate.ptx == text)?.time().map(|time| time.median_ms)
}

impl Figures {
    fn over(&self, time: &Time) -> f64 {
        time.median_ms / self.winner.1.median_ms
    }

    /// How far another class's winner is from what records claim of it: a share of that.
    fn off_claim(&self) -> Option<f64> {
        let other = self.other.as_ref()?;
        Some((self.over(&other.time) / other.claimed? - 1.0).abs())
    }

    /// As JSON.
    pub(super) fn as_json(&self) -> Value {
        let one = |(name, time): &(String, Time)| json!({ "pick": name, "time": time, "over_winner": self.over(time) });
        json!({
            "seconds": self.seconds,
            "winner": one(&self.winner),
            "exhaustive": self.exhaustive.as_ref().map(one),
            "model": self.model.as_ref().map(one),
            "other_class": self.other.as_ref().map(|Other { name, time, class, claimed }| {
                let over = self.over(time);
                json!({ "pick": name, "time": time, "over_winner": over, "claimed": claimed, "class": class })
            }),
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, time) = &self.winner;
        writeln!(f, "again      winner {name}: {:.4} ms ± {:.1}%", time.median_ms, 100.0 * time.error())?;
        let mut line = |what: &str, name: &str, time: &Time, more: &str| {
            let over = self.over(time);
            writeln!(f, "           {what} {name}: {:.4} ms, {over:.3} of the winner's{more}", time.median_ms)
        };
        if let Some((name, time)) = &self.exhaustive {
            line("exhaustive", name, time, "")?;
        }
        if let Some((name, time)) = &self.model {
            line("model", name, time, "")?;
        }
        if let Some(Other { name, time, class, claimed }) = &self.other {
            let claimed = claimed.map_or(String::new(), |claimed| format!("; its records claim {claimed:.3}"));
            line(&format!("of another class ({class})"), name, time, &claimed)?;
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
    let other = over(&|f| f.other.as_ref().map(|other| f.over(&other.time)));
    let claims = over(&|f| f.off_claim());
    let seconds: Vec<f64> = all.iter().map(|figures| figures.seconds).collect();
    let within = exhaustive.iter().filter(|&&over| over <= 1.03).count();
    format!(
        "{} shapes: the winner is within 3% of the exhaustive search's on {within} of {}, {:.3} of it at most; the model's pick \
         takes {:.3} of the winner's time on average, {:.3} at most; another class's winner {:.3} on average, {}; a search takes \
         {:.0} s on average, {:.0} s at most\n",
        all.len(),
        exhaustive.len(),
        most(&exhaustive),
        mean(&model),
        most(&model),
        mean(&other),
        match claims.is_empty() {
            true => "of which records claim nothing".to_owned(),
            false => format!("{:.1}% from what records claim at most", 100.0 * most(&claims)),
        },
        mean(&seconds),
        most(&seconds),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna::dsl::{Elem, Shape};
    use lacuna::kernels::registry::{self, Extents};
    use lacuna::ptx::Target;
    use lacuna::runtime::Device;
    use lacuna::runtime::tune::Profile;
    use lacuna::tuning::Case;

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
        assert!(text.contains("of which records claim nothing"), "{text}");
        let claiming = |ms: f64, claimed: f64| {
            let (name, time) = time(ms);
            let other = Other { name, time, class: "dk 128".to_owned(), claimed: Some(claimed) };
            Figures { other: Some(other), ..of(1.0, 1.0, 1.0) }
        };
        let (much, little) = (claiming(1.0, 1.25), claiming(1.5, 1.45));
        let text = summary(&[&near, &much, &little]);
        assert!(text.contains("winner 1.250 on average, 20.0% from what records claim at most"), "{text}");
        let said = "of another class (dk 128) pick: 1.5000 ms, 1.500 of the winner's; its records claim 1.450";
        assert!(little.to_string().contains(said), "{little}");
        assert_eq!(little.as_json()["other_class"]["claimed"], json!(1.45));
        assert_eq!(summary(&[]), "");
        assert!(near.to_string().contains("model pick: 1.1000 ms, 1.100 of the winner's"), "{near}");
    }

    /// A device on which one text is faster than all others.
    struct Favours(String);

    impl tune::Lab for Favours {
        fn compile(&self, _: &Plan) -> Result<tune::Made, tune::Failed> {
            Ok(tune::Made::default())
        }

        fn check(&self, _: &Plan, _: Duration) -> Result<(), tune::Failed> {
            Ok(())
        }

        fn time(&self, plan: &Plan, runs: u32, _: Duration) -> Result<Vec<f64>, tune::Failed> {
            Ok(vec![if tune::text_hash(plan) == self.0 { 1.0 } else { 2.0 }; runs as usize])
        }

        fn elapsed(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn setup(width: u32, tokens: u32, device: &Device) -> Setup {
        let kernel = registry::find("window").unwrap();
        let (options, shape) = (kernel.options([]).unwrap(), Shape::new(Elem::Bf16, width, width, 1));
        let case = Case { kernel, options, shape, target: Target::SM_80 };
        let (dk, dv) = (width.into(), width.into());
        Setup::new(&case, &Extents { docs: vec![tokens], heads: 2, kv_heads: 2, dk, dv }, None, device).unwrap()
    }

    /// A shape whose fastest candidate is the one at a place in the model's order.
    fn done(setup: Setup, place: usize, device: &Device) -> Done {
        let subject = setup.subject().unwrap();
        let staged = tune::rank(&subject, &[], &Profile::H200);
        let lab = Favours(staged[place].as_ref().unwrap().ptx.clone());
        let (records, stamp) = (Records::off(), Stamp::of(&device.info()));
        let quiet = &mut |_: Progress<'_>| {};
        let options = Options { exhaustive: true, ..Options::default() };
        let found = tune::search(&subject, &lab, (&records, &stamp), &Profile::H200, &options, quiet).unwrap();
        let class = lacuna::runtime::tune::Subject::class(&subject).to_string();
        Done { setup, class, found, explained: None, file: None, figures: None }
    }

    #[test]
    fn another_class_s_winner_is_the_last_one_that_is_another_pick_of_this_width() {
        let device = Device::emulator();
        let of = |width, tokens, place| done(setup(width, tokens, &device), place, &device);
        let rows = vec![of(64, 4096, 0), of(64, 8192, 1), of(64, 16384, 2), of(32, 32768, 3)];
        let classes: Vec<String> = rows.iter().map(|done| done.class.clone()).collect();
        let (target, profile) = (Target::SM_80, Profile::H200);
        let sitting = Sitting { device: device.clone(), target, profile, rows };
        let new = setup(64, 65536, &device);
        let subject = new.subject().unwrap();
        let other = |winner: &Candidate| {
            of_another_class(&new, &subject, winner, &sitting).map(|(pick, _, class)| (pick.name(), class))
        };
        let candidate = |row: usize| sitting.rows[row].found.winner().unwrap().candidate.clone();
        assert_eq!(other(&candidate(0)), Some((candidate(2).name(), classes[2].clone())));
        assert_eq!(other(&candidate(2)), Some((candidate(1).name(), classes[1].clone())), "its own is no other");
        let wide = setup(128, 65536, &device);
        assert!(of_another_class(&wide, &wide.subject().unwrap(), &candidate(0), &sitting).is_none());
        assert_eq!(recorded(&sitting.rows[1].found, &candidate(1).ptx), Some(1.0));
        assert_eq!(recorded(&sitting.rows[1].found, "no text"), None);
    }
}
