//! The pick of a launch: what was tuned, where something was.
//!
//! A [`Chooser`] reads the records of its kernel once, when it is made. The first launch of a class is planned then; every
//! further one finds its plan in a map by buckets of lengths, in well under a microsecond and without I/O.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use lacuna_codegen::Error;
use lacuna_codegen::plan::{Pick, Plan};

use super::candidates::{Subject, models_choice};
use super::class::{Bucket, Lengths};
use super::profile::Profile;
use super::record::{Record, Stale, Stamp, Time, text_hash};
use super::records::Records;
use super::search::rank;
use super::shipped::merged;

/// A subject at the class of some lengths.
pub type Shaped<'a> = dyn Fn(&Lengths) -> Result<Box<dyn Subject + 'a>, Error> + Send + Sync + 'a;

/// Chooses for the launches of one kernel on one device.
pub struct Chooser<'a> {
    subject: Box<Shaped<'a>>,
    local: Vec<Record>,
    shipped: Vec<Record>,
    stamp: Stamp,
    profile: Option<Profile>,
    exact: bool,
    chosen: RwLock<HashMap<Key, Arc<Choice>>>,
}

/// What a plan is kept under: the lengths themselves, where it depends on more of them than their buckets.
type Key = (Bucket, Option<Lengths>);

/// What was chosen, and why.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The schedule.
    pub schedule: String,
    /// Its pick.
    pub pick: Pick,
    /// What runs.
    pub plan: Arc<Plan>,
    /// Why this one.
    pub why: Why,
}

/// Why a pick was taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    /// It is the fastest of those that were timed on this GPU: its time, and how many were.
    Tuned(Time, usize),
    /// It was the fastest on a GPU of this model when lacuna was made.
    Shipped(Time),
    /// Nothing that holds was timed; the model expects so many milliseconds of it. Why what was timed does not hold.
    Model(f64, Option<Stale>),
    /// Nothing is known of this device; it is the author's first pick that fits.
    First,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |f: &mut fmt::Formatter<'_>, time: &Time| {
            write!(f, "{:.4} ms ± {:.1}%", time.median_ms, 100.0 * time.error())
        };
        match self {
            Why::Tuned(best, of) => {
                write!(f, "tuned on this GPU: ")?;
                time(f, best)?;
                write!(f, ", the fastest of {of}")
            }
            Why::Shipped(best) => {
                write!(f, "tuned on a GPU of this model: ")?;
                time(f, best)
            }
            Why::Model(ms, None) => write!(f, "not tuned: the model's choice, of which it expects {ms:.4} ms"),
            Why::Model(ms, Some(stale)) => {
                write!(f, "the model's choice, of which it expects {ms:.4} ms; what was tuned is refused: {stale}")
            }
            Why::First => write!(f, "not tuned: the schedule's own choice"),
        }
    }
}

/// The most choices that are kept.
const MOST: usize = 4096;

impl<'a> Chooser<'a> {
    /// For a kernel on a device that is `stamp`. Reads its records, once.
    ///
    /// `exact` says whether a plan depends on more of the lengths than their buckets, such as how the work is chunked: then a
    /// plan is kept for each lengths.
    pub fn new(
        kernel: &str,
        (records, shipped): (&Records, Vec<Record>),
        (stamp, profile): (Stamp, Option<Profile>),
        exact: bool,
        subject: Box<Shaped<'a>>,
    ) -> Self {
        let local = records.load(&stamp.gpu, kernel);
        Chooser { subject, local, shipped, stamp, profile, exact, chosen: RwLock::default() }
    }

    /// The choice for launches of these lengths.
    ///
    /// # Errors
    /// Where no pick can be planned, why the first one cannot.
    pub fn choose(&self, lengths: &Lengths) -> Result<Arc<Choice>, Error> {
        let key = (lengths.bucket(), self.exact.then_some(*lengths));
        if let Some(choice) = self.chosen.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(choice.clone());
        }
        let choice = Arc::new(choice(
            &*(self.subject)(lengths)?,
            (&self.local, &self.shipped),
            &self.stamp,
            self.profile.as_ref(),
        )?);
        let mut chosen = self.chosen.write().unwrap_or_else(PoisonError::into_inner);
        if chosen.len() >= MOST {
            chosen.clear();
        }
        chosen.insert(key, choice.clone());
        Ok(choice)
    }
}

/// What records and the model say of a subject: the fastest that holds of the local records and of those that came with
/// lacuna; the model's choice where there is none. A source whose fastest does not hold is refused as a whole: its second
/// best is no answer.
///
/// # Errors
/// Where no pick can be planned, why the first one cannot.
pub fn choice(
    subject: &dyn Subject,
    (local, shipped): (&[Record], &[Record]),
    stamp: &Stamp,
    profile: Option<&Profile>,
) -> Result<Choice, Error> {
    let schedules = subject.schedules();
    let plan = |schedule: &str, pick: &Pick| {
        let found = schedules.iter().find(|known| known.name == schedule)?;
        found.tunable.plan(subject.target(), pick).ok()
    };
    let mut timed = merged(&subject.class().to_string(), local, shipped);
    // What the caller does not let compute it, is no answer to them.
    let allowed = |record: &Record| schedules.iter().any(|schedule| schedule.name == record.schedule);
    timed.retain(|(record, _)| record.time().is_some() && allowed(record));
    let ms = |record: &Record| record.time().map_or(f64::INFINITY, |time| time.median_ms);
    timed.sort_by(|a, b| ms(a.0).total_cmp(&ms(b.0)));
    let of = timed.iter().filter(|(_, shipped)| !shipped).count();
    let (mut stale, mut refused) = (None, Vec::new());
    for (record, shipped) in timed {
        if refused.contains(&shipped) {
            continue;
        }
        // A pick that cannot be planned any more is as stale as one with another text.
        let planned = plan(&record.schedule, &record.pick);
        let text = planned.as_ref().map(text_hash).unwrap_or_default();
        match (record.fresh(stamp, &text), planned, record.time()) {
            (Ok(()), Some(plan), Some(time)) => {
                let why = if shipped { Why::Shipped(*time) } else { Why::Tuned(*time, of) };
                let (schedule, pick) = (record.schedule.clone(), record.pick.clone());
                return Ok(Choice { schedule, pick, plan: Arc::new(plan), why });
            }
            (outcome, ..) => {
                stale = stale.or(Some(outcome.err().unwrap_or(Stale::Text)));
                refused.push(shipped);
            }
        }
    }
    let first =
        schedules.first().ok_or_else(|| Error::Unsupported(format!("`{}` has no schedule", subject.kernel())))?;
    if let Some(profile) = profile {
        let staged = rank(subject, local, profile);
        if let Some(chosen) = models_choice(&staged, first) {
            let why = Why::Model(chosen.prediction.ms, stale);
            let (schedule, pick) = (chosen.schedule.clone(), chosen.pick.clone());
            return Ok(Choice { schedule, pick, plan: chosen.plan.clone(), why });
        }
    }
    let plan = Arc::new(first.tunable.plan(subject.target(), &first.first)?);
    Ok(Choice { schedule: first.name.to_owned(), pick: first.first.clone(), plan, why: Why::First })
}
