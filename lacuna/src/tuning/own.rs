//! A schedule of one's own, tuned in one call.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use lacuna_codegen::Work;
use lacuna_codegen::plan::{Pick, Plan, Scalar, Tunable as _};
use lacuna_dsl::{Bound, Schedule, Target};
use lacuna_kernels::host::Float;
use lacuna_runtime::tune::{
    Class, Ended, Explanation, Found, Here, Operands, Options, Profile, Progress, Records, Schedule as Way, Stamp,
    Subject, bucket, models_choice, rank, search,
};
use lacuna_runtime::{Bindings, Device, Element};

use crate::Trial;

/// What tuning a schedule came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The pick to take: the fastest that was timed, or the model's choice where nothing was.
    pub pick: Pick,
    /// What was found on the way, where something was timed.
    pub found: Option<Found>,
    text: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Finds the fastest pick of a schedule on a device, in a minute at most: on the numbers of a trial, with every candidate held to
/// attention in f64 on a `small` one before its time counts, where the query at a position of its document sees the keys for
/// which `sees` is true. What is measured is kept in the user's records, and not measured again.
///
/// It runs in this process: a candidate that faults on a GPU ends the search, and leaves a process that cannot use the GPU
/// any more; what was measured until then is kept. On the emulator nothing is timed: every candidate that the model has among
/// its first few is checked, and the model's choice is the outcome.
///
/// ```no_run
/// use lacuna::kernels::{dense::QueryMajor, patterns::window};
/// use lacuna::prelude::*;
/// use lacuna::{Trial, bf16, runtime::Device};
///
/// let attention = QueryMajor::new(window(1024)).at(Shape::new(Elem::Bf16, 64, 64, 2));
/// let trial = Trial::<bf16>::draw(&attention.shape, 8, &[8192, 8192]);
/// let small = Trial::<bf16>::draw(&attention.shape, 1, &[1500, 70]);
/// let tuned = lacuna::tune(&Device::best(), &attention, (&trial, &small), |q, kv| kv <= q && q - kv < 1024)?;
/// println!("{tuned}");
/// let result = trial.run(&Device::best(), &attention, &tuned.pick)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// What staging refuses of every pick; a device that is lost before anything was timed; where no candidate is right.
pub fn tune<S, T>(
    device: &Device,
    attention: &Bound<S>,
    trials: (&Trial<T>, &Trial<T>),
    sees: impl Fn(i64, i64) -> bool + Send + Sync + 'static,
) -> Result<Outcome, Box<dyn Error>>
where
    S: Schedule + Clone + Send + Sync + 'static,
    T: Float + Element,
{
    tune_with(device, attention, trials, sees, &Records::user(), &Options::default())
}

/// [`tune`] with records and options of the caller's.
///
/// # Errors
/// As [`tune`].
pub fn tune_with<S, T>(
    device: &Device,
    attention: &Bound<S>,
    (trial, small): (&Trial<T>, &Trial<T>),
    sees: impl Fn(i64, i64) -> bool + Send + Sync + 'static,
    records: &Records,
    options: &Options,
) -> Result<Outcome, Box<dyn Error>>
where
    S: Schedule + Clone + Send + Sync + 'static,
    T: Float + Element,
{
    let target = Trial::<T>::target(device);
    let sees = Arc::new(sees);
    let given = attention.given(target)?;
    let (pairs, name) = (trial.pairs(&*sees), attention.schedule.name().to_owned());
    let first = attention.choose(target, &Pick::new())?;
    let own = Own { name, attention: attention.clone(), target, first, trial: trial.clone(), given, pairs };
    let operands = Trials {
        attention: attention.clone(),
        trial: trial.clone(),
        small: small.clone(),
        sees,
        placed: Mutex::default(),
    };
    if !device.is_cuda() {
        return on_the_emulator(device, &own, &operands, target);
    }
    let stamp = Stamp::of(&device.info());
    let profile = Profile::of(&device.info()).unwrap_or(Profile::H200);
    let lab = Here::new(device, Arc::new(operands));
    let found = search(&own, &lab, (records, &stamp), &profile, options, &mut |_: Progress<'_>| {})?;
    let Some(winner) = found.winner() else {
        return Err(match &found.ended {
            Ended::Lost(why) => format!("nothing was timed: {why}").into(),
            Ended::Budget => "nothing was timed within the budget".into(),
            Ended::Done => format!("no candidate of {} is right", own.name).into(),
        });
    };
    let pick = winner.candidate.pick.clone();
    let class = own.class().to_string();
    let known = records.load(&stamp.gpu, &own.name);
    let explained = Explanation::of(known.iter().filter(|record| record.class == class));
    let mut text = explained.map_or_else(|| winner.candidate.name(), |explained| explained.to_string());
    if let Ended::Lost(why) = &found.ended {
        text.push_str(&format!("the search ended early: {why}\n"));
    }
    Ok(Outcome { pick, found: Some(found), text })
}

/// Candidates that are checked on the emulator: those that the model has first.
const CHECKED: usize = 4;

fn on_the_emulator<S, T>(
    device: &Device,
    own: &Own<S, T>,
    operands: &Trials<S, T>,
    target: Target,
) -> Result<Outcome, Box<dyn Error>>
where
    S: Schedule + Clone + Send + Sync + 'static,
    T: Float + Element,
{
    let profile = Profile::of_capability(target.capability).unwrap_or(Profile::H200);
    let staged = rank(own, &[], &profile);
    let chosen = models_choice(&staged, &own.schedules()[0]).ok_or("no pick fits")?;
    let others = staged.iter().filter_map(|staged| staged.as_ref().ok()).filter(|other| other.pick != chosen.pick);
    for candidate in std::iter::once(chosen).chain(others.take(CHECKED - 1)) {
        if let Some(how) = operands.check(device, &candidate.plan)? {
            return Err(format!("{} is wrong: {how}", candidate.name()).into());
        }
    }
    let text = format!(
        "{}: the model's choice for {target}, of which it expects {:.4} ms on a {}; nothing was timed: there is no GPU\n",
        chosen.name(),
        chosen.prediction.ms,
        profile.name
    );
    Ok(Outcome { pick: chosen.pick.clone(), found: None, text })
}

/// The schedule as what a tuner sees.
struct Own<S, T> {
    name: String,
    attention: Bound<S>,
    target: Target,
    first: Pick,
    trial: Trial<T>,
    given: std::collections::BTreeMap<String, Scalar>,
    /// Pairs of a query and a key that count, for one head.
    pairs: u64,
}

impl<S: Schedule + Send + Sync, T: Float + Element> Subject for Own<S, T> {
    fn kernel(&self) -> &str {
        &self.name
    }

    fn class(&self) -> Class {
        let shape = &self.attention.shape;
        let mut facts: std::collections::BTreeMap<String, String> = [
            ("target", self.target.to_string()),
            ("dtype", shape.elem.name().to_owned()),
            ("dk", shape.dk.to_string()),
            ("dv", shape.dv.to_string()),
            ("group", shape.group.to_string()),
            ("block", shape.block.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        // What masks and scores are given: numbers of tokens, mostly.
        facts.extend(self.given.iter().map(|(name, value)| match value {
            Scalar::I32(n) if *n >= 0 => (name.clone(), format!("about {}", bucket(*n as u64))),
            Scalar::I32(n) => (name.clone(), n.to_string()),
            Scalar::F32(x) => (name.clone(), x.to_string()),
        }));
        Class::new(facts, &self.trial.lengths())
    }

    fn target(&self) -> Target {
        self.target
    }

    fn schedules(&self) -> Vec<Way<'_>> {
        vec![Way { name: &self.name, tunable: &self.attention, first: self.first.clone() }]
    }

    /// Of a schedule that nobody here knows: its tiles have the rows that a knob of that name says, else those of a group,
    /// and read each key that one of their rows sees.
    fn work(&self, _: &str, pick: &Pick, _: &Plan) -> Work {
        let (shape, lengths) = (&self.attention.shape, self.trial.lengths());
        let heads = (lengths.heads_kv * u64::from(shape.group)) as f64;
        let group = shape.group.max(16).next_power_of_two();
        let (rows, tiles) = match pick.get("rows") {
            Some(&rows) => (rows, lengths.tokens.div_ceil(rows.into()) as f64 * heads),
            None => (group, (lengths.tokens * lengths.heads_kv) as f64),
        };
        let kv = pick.get("kv").copied().unwrap_or(shape.block);
        let width = f64::from(shape.dk + shape.dv);
        // Keys that one row sees, in whole blocks: what its tile reads, at least.
        let seen = self.pairs as f64 / lengths.tokens.max(1) as f64;
        let read = tiles * (seen / f64::from(kv)).ceil() * f64::from(kv);
        let logits = read * f64::from(rows);
        Work {
            flops: 2.0 * self.pairs as f64 * heads * width,
            done: 2.0 * logits * width,
            exps: logits,
            rounds: read / f64::from(kv),
            l2_bytes: read * width * 2.0,
            hbm_bytes: lengths.tokens as f64 * (heads + lengths.heads_kv as f64) * width * 2.0,
            besides_bytes: 0.0,
            rows_a_warp: rows / pick.get("warps").copied().unwrap_or(4).max(1),
            ctas: tiles,
        }
    }
}

/// The two trials as what candidates run on.
struct Trials<S, T> {
    attention: Bound<S>,
    trial: Trial<T>,
    small: Trial<T>,
    sees: Arc<dyn Fn(i64, i64) -> bool + Send + Sync>,
    /// The operands of the timed runs, once they are on the device.
    placed: Mutex<Option<Bindings>>,
}

/// Rows of the small trial that are compared.
const ROWS: usize = 512;

impl<S: Schedule + Send + Sync + 'static, T: Float + Element> Operands for Trials<S, T> {
    fn timed(&self, device: &Device, plan: &Plan) -> lacuna_runtime::Result<Bindings> {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bindings) = &*placed {
            return Ok(bindings.clone());
        }
        let given = self.attention.given(plan.target).unwrap_or_default();
        let (bindings, ..) = self.trial.place(device, plan, &given)?;
        Ok(placed.insert(bindings).clone())
    }

    fn check(&self, device: &Device, plan: &Plan) -> lacuna_runtime::Result<Option<String>> {
        let given = self.attention.given(plan.target).unwrap_or_default();
        let result = self.small.run_plan(device, plan, &given)?;
        let verdicts = self.small.check_rows(&result, |q, kv| (self.sees)(q, kv), ROWS);
        Ok((!verdicts.ok()).then(|| verdicts.to_string()))
    }
}
