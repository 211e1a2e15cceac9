//! What may be tried: every way to plan an operation, in the order in which the static model has them.

use std::collections::HashMap;
use std::sync::Arc;

use lacuna_codegen::plan::{Pick, Plan, Tunable};
use lacuna_codegen::{Error, Work};
use lacuna_ptx::Target;
use rayon::prelude::*;

use super::class::Class;
use super::model::{Prediction, Registers, predict};
use super::profile::Profile;
use super::record::{pick_text, text_hash};

/// An operation at one shape class, to be planned in any of its ways.
pub trait Subject: Sync {
    /// What its records are filed under: the kernel's name.
    fn kernel(&self) -> &str;

    /// Which launches it stands for.
    fn class(&self) -> Class;

    /// What it is compiled for.
    fn target(&self) -> Target;

    /// The schedules that compute it, the one that is taken without a tuner first.
    fn schedules(&self) -> Vec<Schedule<'_>>;

    /// What a launch does in one of its ways.
    fn work(&self, schedule: &str, pick: &Pick, plan: &Plan) -> Work;
}

/// One of the schedules that compute an operation.
#[derive(Clone)]
pub struct Schedule<'a> {
    /// Its name: `group-centric`.
    pub name: &'a str,
    /// It, at the shape.
    pub tunable: &'a (dyn Tunable + Sync),
    /// The pick that it has without a tuner.
    pub first: Pick,
}

/// One way to do it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The schedule.
    pub schedule: String,
    /// Its pick.
    pub pick: Pick,
    /// What would run.
    pub plan: Arc<Plan>,
    /// [`text_hash`] of the plan.
    pub ptx: String,
    /// What the model says.
    pub prediction: Prediction,
}

impl Candidate {
    /// `query-major rows=64,stages=2`.
    pub fn name(&self) -> String {
        format!("{} {}", self.schedule, pick_text(&self.pick)).trim_end().to_owned()
    }

    /// Candidates that differ in how many stages and warps they have alone share a group: one tile.
    pub(super) fn group(&self) -> String {
        let tile = self.pick.iter().filter(|(name, _)| !name.ends_with("stages") && !name.ends_with("warps"));
        tile.fold(self.schedule.clone(), |group, (name, value)| format!("{group} {name}={value}"))
    }
}

/// What became of a pick before anything ran.
pub type Staged = Result<Candidate, Dropped>;

/// A pick that does not fit the target.
#[derive(Clone, Debug)]
pub struct Dropped {
    /// The schedule.
    pub schedule: String,
    /// The pick.
    pub pick: Pick,
    /// Why it cannot be.
    pub why: Error,
}

/// Plans a subject's picks and asks the model about them, in parallel; those that the model expects to be faster first,
/// and those that cannot be, or have the plan of another, last.
pub(super) fn stage(
    subject: &dyn Subject,
    picks: Vec<(String, Pick)>,
    profile: &Profile,
    registers: &Registers,
) -> Vec<Staged> {
    let schedules = subject.schedules();
    let one = |(schedule, pick): (String, Pick)| -> Staged {
        let found = schedules.iter().find(|known| known.name == schedule);
        let missing = || Error::Unsupported(format!("`{}` has no schedule `{schedule}`", subject.kernel()));
        let plan = found.ok_or_else(missing).and_then(|known| known.tunable.plan(subject.target(), &pick));
        let plan = match plan {
            Ok(plan) => Arc::new(plan),
            Err(why) => return Err(Dropped { schedule, pick, why }),
        };
        let ptx = text_hash(&plan);
        let work = subject.work(&schedule, &pick, &plan);
        let uses = registers.of(&ptx, plan.attending().registers);
        // A schedule without a pipelined loop has nothing in flight beside what it computes, but other CTAs.
        let stages = pick.get("stages").copied().unwrap_or(1);
        let prediction = predict(&work, &plan, uses, stages, profile);
        Ok(Candidate { schedule, pick, plan, ptx, prediction })
    };
    let mut all: Vec<Staged> = picks.into_par_iter().map(one).collect();
    let expected = |staged: &Staged| staged.as_ref().map_or(f64::INFINITY, |candidate| candidate.prediction.ms);
    // Of picks with one plan the first is as good as all.
    let mut had: HashMap<String, Pick> = HashMap::new();
    for staged in &mut all {
        let Ok(candidate) = staged else { continue };
        let Candidate { schedule, pick, ptx, .. } = &*candidate;
        if let Some(same) = had.get(ptx) {
            let why = Error::Unsupported(format!("{} is the same plan", pick_text(same)));
            *staged = Err(Dropped { schedule: schedule.clone(), pick: pick.clone(), why });
        } else {
            had.insert(ptx.clone(), pick.clone());
        }
    }
    all.sort_by(|a, b| expected(a).total_cmp(&expected(b)));
    all
}

/// The most picks of a schedule that are all candidates, and the most where a search is exhaustive. Where several launches have
/// knobs of their own, their product is more: then those are that differ from the best so far in one knob, or in a launch's tile.
pub(super) const MOST_PICKS: usize = 512;
pub(super) const MOST_EXHAUSTIVE: usize = 2048;

/// The picks to begin with, all of those of a schedule that has at most `most`.
pub(super) fn picks(subject: &dyn Subject, most: usize) -> Vec<(String, Pick)> {
    let of = |schedule: &Schedule<'_>| -> Vec<(String, Pick)> {
        let space = schedule.tunable.space(subject.target());
        let picks = if space.size() > most { space.around(&schedule.first) } else { space.picks() };
        picks.into_iter().map(|pick| (schedule.name.to_owned(), pick)).collect()
    };
    subject.schedules().iter().flat_map(of).collect()
}

/// By how much a candidate must be expected to be faster than the first schedule's own pick to be taken in its place
/// untimed: what the model's word is good for.
const MARGIN: f64 = 0.10;

/// The same where there are several launches: their CTAs are counted as if all were the last one's.
const MARGIN_OF_SEVERAL: f64 = 0.5;

/// What the model chooses among candidates in its order: the first schedule's own pick, unless another one is expected to
/// be faster by more than the model is usually wrong by. `None` where none can be.
pub fn models_choice<'a>(staged: &'a [Staged], schedule: &Schedule<'_>) -> Option<&'a Candidate> {
    models_choice_of(staged.iter().filter_map(|staged| staged.as_ref().ok()), schedule)
}

/// The same among candidates in any order.
pub(super) fn models_choice_of<'a>(
    candidates: impl Iterator<Item = &'a Candidate> + Clone,
    schedule: &Schedule<'_>,
) -> Option<&'a Candidate> {
    let fastest = candidates.clone().min_by(|a, b| a.prediction.ms.total_cmp(&b.prediction.ms))?;
    let own = candidates.clone().find(|c| c.schedule == schedule.name && c.pick == schedule.first);
    match own {
        Some(own) => {
            let margin = if own.plan.launches.len() > 1 { MARGIN_OF_SEVERAL } else { MARGIN };
            Some(if fastest.prediction.ms > own.prediction.ms * (1.0 - margin) { own } else { fastest })
        }
        None => Some(fastest),
    }
}
