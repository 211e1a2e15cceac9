//! `lacuna tune`: a kernel's fastest pick on the GPU that is there, found in worker processes and remembered; without a GPU,
//! what the static model expects.

mod all;
mod figures;
pub(crate) mod landscape;
mod operands;
mod report;
mod setup;

use std::io::{self, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgMatches, Args, Command as Clap, FromArgMatches};
use lacuna::codegen::plan::Pick;
use lacuna::ptx::Target;
use lacuna::runtime::Device;
use lacuna::runtime::tune::{
    self, Ended, Here, Lab, Options, Profile, Progress, Records, Stamp, Subject as _, Workers,
};
use lacuna::tuning::Case;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::args::{self, Chosen, Place};
use super::failure::{Failure, Result};
use super::interrupt;
use super::output::{self, bar, spinner};
use super::picture::Format;
use super::shapes::Shapes;
use operands::Drawn;
use setup::Setup;

/// What `lacuna tune` takes.
#[derive(Debug, Args)]
pub(crate) struct Tune {
    #[command(flatten)]
    chosen: Perhaps,
    #[command(flatten)]
    shapes: Shapes,
    /// Of a hundred blocks that a token selects, how many its neighbour selects too: a class of its own, drawn so from 50 on
    #[arg(long, value_name = "N", help_heading = "Shapes", value_parser = clap::value_parser!(u8).range(0..=100))]
    overlap: Option<u8>,
    /// How long a shape may take: 60s, 2m, 500ms
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = budget)]
    budget: Duration,
    /// Time every candidate to the end, and not those alone that may still be the fastest
    #[arg(long)]
    exhaustive: bool,
    /// Slower candidates of one tile in a row before the rest of them is left out
    #[arg(long, value_name = "N", default_value_t = Options::default().patience)]
    patience: usize,
    /// Measure again what records have
    #[arg(long)]
    again: bool,
    /// Tune the shapes whose winners lacuna ships, each within the budget
    #[arg(long, conflicts_with_all = ["KERNEL", "tokens", "batch", "heads", "kv_heads", "head_dim", "dv", "dtype", "overlap"])]
    all: bool,
    /// Search every shape exhaustively too, time the winners beside one another, and say how far they are apart
    #[arg(long)]
    figures: bool,
    /// Without a GPU: hold every candidate to f64 on the emulator
    #[arg(long)]
    check: bool,
    /// Compile for this GPU; without one, rank candidates for it [default: the highest that the device runs]
    #[arg(long)]
    target: Option<Target>,
    /// cuda, or cuda:1; on the emulator nothing is timed [default: best]
    #[arg(long)]
    device: Option<Place>,
    /// Time on the emulator by the host's clock, and keep that as the emulator's own: it says nothing of a GPU
    #[arg(long, hide = true)]
    host_clock: bool,
    /// Draw each candidate's time beside what the model expected, for the last shape: a .png or an .svg
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A kernel, or none where every one is meant.
#[derive(Clone, Debug)]
struct Perhaps(Option<Chosen>);

impl FromArgMatches for Perhaps {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let named = matches.contains_id("KERNEL");
        Ok(Perhaps(if named { Some(Chosen::from_arg_matches(matches)?) } else { None }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Perhaps {
    fn augment_args(command: Clap) -> Clap {
        Chosen::augment_args(command).mut_arg("KERNEL", |arg: Arg| arg.required(false).required_unless_present("all"))
    }

    fn augment_args_for_update(command: Clap) -> Clap {
        Self::augment_args(command)
    }
}

/// `60s`, `2m`, `500ms`.
fn budget(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0)];
    let (digits, unit) =
        units.into_iter().find_map(|(name, seconds)| Some((text.strip_suffix(name)?, seconds))).unwrap_or((text, 1.0));
    let seconds = digits.parse::<f64>().ok().map(|count| count * unit);
    let seconds = seconds.filter(|seconds| seconds.is_finite() && (0.0..=1e6).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "a time is right, such as 60s, 2m or 500ms".to_owned())
}

/// A shape, tuned.
struct Done {
    setup: Setup,
    class: String,
    found: tune::Found,
    /// Why the winner won, by all records of the class.
    explained: Option<tune::Explanation>,
    /// Where records are kept, where they are.
    file: Option<PathBuf>,
    /// Winners of this shape beside one another.
    figures: Option<figures::Figures>,
}

/// All of it.
struct Sitting {
    device: Device,
    target: Target,
    profile: Profile,
    rows: Vec<Done>,
}

impl Tune {
    /// Tunes.
    ///
    /// # Errors
    /// Extents that are no problem; a target that is not named where there is no GPU; what the device refuses; on the
    /// emulator, a candidate that is wrong.
    pub(crate) fn tune(&self) -> Result {
        if let Some(path) = &self.picture {
            Format::of(path)?;
            output::writable(path)?;
        }
        let device = args::device(self.device)?;
        if !device.is_cuda() && !self.host_clock {
            return self.expected(&device);
        }
        let target = args::target(&device, self.target)?;
        let profile = lacuna::tuning::profile(&device).or_else(|| Profile::of_capability(target.capability));
        let profile = profile.unwrap_or(Profile::H200);
        let (records, stamp) = (Records::user(), Stamp::of(&device.info()));
        let mut sitting = Sitting { device: device.clone(), target, profile, rows: Vec::new() };
        let setups = self.setups(&device, target)?;
        let of = setups.len();
        for (i, setup) in setups.into_iter().enumerate() {
            let which = if of > 1 { format!("{} of {of}: ", i + 1) } else { String::new() };
            let done = self.one(setup, &which, (&records, &stamp), &sitting)?;
            if !self.json {
                // A sitting may be interrupted: what is done is said at once.
                output::print(&self.of_shape(&done, &sitting))?;
            }
            sitting.rows.push(done);
        }
        output::warn(&records.warnings());
        output::warn(&device.warnings());
        if let (Some(path), Some(last)) = (&self.picture, sitting.rows.last()) {
            landscape::draw(path, &landscape::of_trials(&last.found.trials))?;
        }
        output::print(&match self.json {
            true => format!("{:#}\n", self.as_json(&sitting)),
            false => Self::of_all(&sitting),
        })?;
        match sitting.rows.iter().find_map(|done| match (&done.found.ended, done.found.best) {
            (Ended::Lost(why), _) => Some(Failure::Trouble(format!("the device is lost: {why}"), vec![])),
            (_, None) => Some(Failure::Trouble(format!("nothing was timed of `{}`", done.setup.kernel), vec![])),
            _ => None,
        }) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// What is to be tuned.
    fn setups(&self, device: &Device, target: Target) -> Result<Vec<Setup>> {
        let Some(chosen) = &self.chosen.0 else { return all::setups(device, target) };
        self.shapes.check()?;
        let case = Case { kernel: chosen.kernel, options: chosen.options()?, shape: self.shapes.shape(), target };
        let of = |&tokens: &usize| Setup::new(&case, &self.shapes.extents(tokens), self.overlap, device);
        self.shapes.tokens.iter().map(of).collect()
    }

    fn options(&self) -> Options {
        let Tune { budget, exhaustive, patience, again, .. } = *self;
        Options { budget, exhaustive, patience, again, ..Options::default() }
    }

    /// Tunes one shape, in workers.
    fn one(&self, setup: Setup, which: &str, kept: (&Records, &Stamp), sitting: &Sitting) -> Result<Done> {
        let (records, stamp) = kept;
        let subject = setup.subject()?;
        let class = subject.class().to_string();
        let file = records.file(&stamp.gpu, &setup.kernel);
        let lab = workers(&setup)?;
        let progress = bar(self.json, 0);
        let mut measured = 0;
        let mut watch = |now: Progress<'_>| {
            progress.set_length(now.of as u64);
            progress.set_position(now.done as u64);
            let best = now.best.and_then(|best| Some((best.time()?.median_ms, best.candidate.name())));
            let best = best.map_or(String::new(), |(ms, name)| format!(", best {ms:.4} ms {name}"));
            progress.set_message(format!("{which}{}: {}{best}", setup.kernel, now.stage));
            if now.done > measured {
                measured = now.done;
                let place = file.as_ref().map(|path| path.display().to_string());
                interrupt::keeping(match place {
                    Some(place) => format!("what was measured is kept: {place}"),
                    None => "nothing is kept: LACUNA_TUNED is off".to_owned(),
                });
            }
        };
        let options = Options { beside: shipped_elsewhere(&stamp.gpu, &setup.kernel, &class), ..self.options() };
        let found = tune::search(&subject, &lab, kept, &sitting.profile, &options, &mut watch);
        progress.finish_and_clear();
        let found = found?;
        let figures = match self.figures {
            true => Some(figures::measure(&setup, &subject, &found, kept, (sitting, &options))?),
            false => None,
        };
        let known = records.load(&stamp.gpu, &setup.kernel);
        let explained = tune::Explanation::of(known.iter().filter(|record| record.class == class));
        Ok(Done { setup, class, found, explained, file, figures })
    }

    /// Without a GPU: what the model expects, and on request whether candidates are right.
    fn expected(&self, device: &Device) -> Result {
        let Some(target) = self.target else {
            let why = Device::no_cuda().map_or("the emulator was asked for".to_owned(), |why| why.to_string());
            let failure = Failure::usage(format!("there is no GPU to time candidates on: {why}"));
            return Err(failure.hint("--target sm_90 ranks them for that GPU by the static model, and times nothing"));
        };
        let profile = Profile::of_capability(target.capability).ok_or_else(|| {
            Failure::usage(format!("the model knows no GPU of {target}"))
                .hint("sm_80, sm_86, sm_89, sm_90 and sm_120 are right")
        })?;
        let mut wrong = None;
        let mut rows = Vec::new();
        for setup in self.setups(device, target)? {
            let subject = setup.subject()?;
            let staged = tune::rank(&subject, &[], &profile);
            let schedules = subject.schedules();
            let chosen = tune::models_choice(&staged, &schedules[0]).map(|chosen| chosen.name());
            let mut checked = Vec::new();
            if self.check {
                let progress = spinner(self.json);
                progress.set_message(format!("drawing inputs of {}", setup.kernel));
                let lab = Here::new(device, Arc::new(Drawn::new(&setup, device)?));
                for candidate in staged.iter().filter_map(|staged| staged.as_ref().ok()) {
                    progress.set_message(format!("checking {}", candidate.name()));
                    let done = lab.check(&candidate.plan, Duration::from_secs(600)).err();
                    let why = done.map(|failed| match failed {
                        tune::Failed::Invalid(why) | tune::Failed::Last(why) => why.to_string(),
                        tune::Failed::Lost(why) => why,
                    });
                    if let Some(why) = &why {
                        wrong = wrong.or(Some(format!("`{}`, {}: {why}", setup.kernel, candidate.name())));
                    }
                    checked.push((candidate.name(), why));
                }
                progress.finish_and_clear();
            }
            rows.push(report::Expected {
                setup: setup.clone(),
                class: subject.class().to_string(),
                staged,
                chosen,
                checked,
            });
        }
        if let (Some(path), Some(last)) = (&self.picture, rows.last()) {
            landscape::draw(path, &landscape::of_staged(&last.staged))?;
        }
        output::print(&match self.json {
            true => format!("{:#}\n", report::expected_json(&rows, target, &profile)),
            false => report::expected_text(&rows, target, &profile),
        })?;
        wrong.map_or(Ok(()), |why| Err(Failure::Wrong(why)))
    }
}

/// The winners of other classes of a kernel that come with lacuna.
fn shipped_elsewhere(gpu: &str, kernel: &str, class: &str) -> Vec<(String, Pick)> {
    let others = lacuna::tuning::shipped(gpu, kernel).into_iter().filter(|record| record.class != class);
    others.map(|record| (record.schedule, record.pick)).collect()
}

/// Workers that run this program's hidden command.
fn workers(setup: &Setup) -> Result<Workers> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::Trouble(format!("this program cannot be started again: {error}"), vec![]))?;
    let command = move || {
        let mut command = Command::new(&program);
        command.arg("tune-worker").stderr(Stdio::null());
        command
    };
    let (setup, compiling) = (json!(setup), json!({ COMPILES: setup }));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Workers::new(command, setup).with_compilers((cores / 2).min(MOST_COMPILERS), &compiling))
}

/// What the setup of a worker that only compiles lies in: it draws no operands.
const COMPILES: &str = "compiles";

/// Workers that compile, at most: each has a context on the device.
const MOST_COMPILERS: usize = 8;

/// What a worker's process does: what its tuner asks, until it asks no more.
///
/// # Errors
/// Where the standard input fails.
pub(crate) fn worker() -> Result {
    let open = |setup: &Value| -> Result<Arc<dyn Lab + Send>, String> {
        let compiles = setup.get(COMPILES);
        let setup = Setup::deserialize(compiles.unwrap_or(setup)).map_err(|error| error.to_string())?;
        let lab = || -> Result<Here> {
            let device = setup.device()?;
            if compiles.is_some() {
                return Ok(Here::compiling(&device));
            }
            Ok(Here::new(&device, Arc::new(Drawn::new(&setup, &device)?)))
        };
        Ok(Arc::new(lab().map_err(|failure| failure.message().to_owned())?))
    };
    tune::serve(BufReader::new(io::stdin()), io::stdout(), open)
        .map_err(|error| Failure::usage(format!("cannot read plans: {error}")))?;
    // Without the destructors of the driver, which wait for what runs.
    std::process::exit(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_times() {
        let of = |text| budget(text).unwrap().as_millis();
        assert_eq!(["60s", "2m", "500ms", "1.5s", "7"].map(of), [60_000, 120_000, 500, 1500, 7000]);
        for text in ["", "s", "-1s", "1h", "NaN", "1e99s"] {
            assert_eq!(budget(text).unwrap_err(), "a time is right, such as 60s, 2m or 500ms", "{text}");
        }
    }
}
