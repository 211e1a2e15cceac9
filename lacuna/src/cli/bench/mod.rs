//! `lacuna bench`: how long a kernel takes on a GPU, launch by launch, beside how fast it could be.

pub(crate) mod chart;
pub(crate) mod report;

use std::path::PathBuf;

use clap::Args;
use lacuna::codegen::plan::Pick;
use lacuna::kernels::inputs::{self, Locality};
use lacuna::kernels::registry::Options;
use lacuna::ptx::Target;
use lacuna::runtime::{BenchOptions, Device, Timing};

use super::args::{self, Chosen, Knob, Place};
use super::attend::{Job, Prepared};
use super::failure::{Failure, Result};
use super::input::{Draw, Input};
use super::inspect::floor::Floor;
use super::output::{self, spinner};
use super::picture::Format;
use super::shaped;
use super::shapes::Shapes;

/// What `lacuna bench` takes.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    shapes: Shapes,
    /// Timed runs of a shape at most; fewer where they would take longer than two seconds, and at least 3
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Knobs, as stages=3,rows=64; the others as they come first in `lacuna emit KERNEL --space`
    #[arg(long, value_name = "KNOB=N,..", value_delimiter = ',')]
    pick: Vec<Knob>,
    /// Compile for this GPU [default: the highest of sm_80, sm_86, sm_89, sm_90, sm_90a and sm_120 that the device runs]
    #[arg(long)]
    target: Option<Target>,
    /// cuda, or cuda:1; emulator runs each shape once, and its times say nothing of a GPU's [default: cuda]
    #[arg(long)]
    device: Option<Place>,
    /// Draw time against tokens, step by step, both logarithmic, with the floor: a .png or an .svg
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How long the timed runs of a shape may take in all, in milliseconds, where there are enough of them.
const MOST_MILLIS: f64 = 2000.0;

/// How many timed runs there are at least, unless fewer are asked for.
const FEWEST: u32 = 3;

/// A shape, timed.
struct Measured {
    /// Tokens of a document.
    tokens: usize,
    /// How it was planned.
    pick: Pick,
    /// Why so.
    why: String,
    schedule: &'static str,
    workspace: u64,
    /// The whole plan, with nothing between its launches.
    whole: Timing,
    /// Each launch, with events between them.
    launches: Vec<Launched>,
    floor: Floor,
}

/// A launch, timed.
struct Launched {
    entry: String,
    /// Which one of this entry's it is, from 1: work in chunks launches it for each of them.
    turn: usize,
    timing: Timing,
}

/// All of it.
struct Sitting {
    device: Device,
    target: Target,
    options: Options,
    rows: Vec<Measured>,
}

impl Bench {
    /// Times it.
    ///
    /// # Errors
    /// No GPU; extents that are no problem; what the device refuses; a picture that cannot be written.
    pub(crate) fn bench(&self) -> Result {
        let options = self.chosen.options()?;
        let wanted = args::pick(&self.pick)?;
        if let Some(path) = &self.picture {
            Format::of(path)?;
            // A place that cannot be written is told of before the work.
            output::writable(path)?;
        }
        let device = self.gpu()?;
        let target = args::target(&device, self.target)?;
        let progress = spinner(self.json);
        let mut rows = Vec::new();
        for &tokens in &self.shapes.tokens {
            let stage = |what: &str| {
                progress.set_message(format!("{what} {} at {tokens} tokens", self.chosen.kernel.name));
            };
            rows.push(self.measure(&device, target, (&options, &wanted), tokens, stage)?);
        }
        progress.finish_and_clear();
        output::warn(&device.warnings());
        let sitting = Sitting { device, target, options, rows };
        if let Some(path) = &self.picture {
            chart::draw(path, &sitting.rows)?;
        }
        output::print(&match self.json {
            true => format!("{:#}\n", self.as_json(&sitting)),
            false => self.as_text(&sitting),
        })
    }

    /// The GPU; the emulator where it is asked for by name.
    fn gpu(&self) -> Result<Device> {
        let asked = self.device.is_some() || std::env::var_os("LACUNA_DEVICE").is_some_and(|text| !text.is_empty());
        if let Some(why) = Device::no_cuda()
            && !asked
        {
            let failure =
                Failure::Trouble(format!("there is no GPU to time `{}` on: {why}", self.chosen.kernel.name), vec![]);
            return Err(failure.hint("--device emulator runs it here; its times say nothing of a GPU's"));
        }
        args::device(self.device)
    }

    fn measure(
        &self,
        device: &Device,
        target: Target,
        (options, wanted): (&Options, &Pick),
        tokens: usize,
        stage: impl Fn(&str),
    ) -> Result<Measured> {
        stage("drawing inputs of");
        let kernel = self.chosen.kernel;
        let shapes = &self.shapes;
        let kv_heads = shapes.kv_heads();
        let input = Input::draw(&Draw {
            tokens: None,
            docs: vec![tokens; shapes.batch],
            keys: Vec::new(),
            heads: shapes.heads,
            kv_heads,
            dim: shapes.head_dim,
            dv: shapes.dv(),
            seed: 0,
            elem: shapes.dtype,
            repeats: true,
        })?;
        input.fits(kernel)?;
        let picks = kernel
            .selection(options)
            .map(|config| inputs::picks(1, &input.cu_seqlens, kv_heads, config.l_sel, config.n, Locality::PerToken));
        let job = Job {
            device,
            target,
            kernel,
            options,
            wanted,
            input: &input,
            picks: picks.as_ref(),
            scale: 1.0 / (shapes.head_dim as f32).sqrt(),
            checked: false,
            compare: false,
        };
        stage("compiling");
        let Prepared { attention, pick, why, plan, bindings, .. } = job.prepare()?;
        stage("timing");
        let once = device.run(&plan, &bindings)?.millis;
        let fits = (MOST_MILLIS / once.max(1e-3)) as u32;
        let reps = fits.clamp(FEWEST.min(self.rounds), self.rounds);
        let timed = BenchOptions { warmup: reps.min(3), reps, flush_l2: true };
        let whole = device.bench(&plan, &bindings, &timed)?;
        let each = device.bench_launches(&plan, &bindings, &timed)?;
        let extents = shapes.extents(tokens);
        Ok(Measured {
            tokens,
            schedule: attention.schedule_name,
            workspace: shaped::workspace(&plan, extents.symbols(&attention), [tokens; 2]),
            whole,
            launches: launched(plan.launches.iter().map(|launch| launch.entry.clone()).zip(each)),
            floor: Floor::of(&attention, &pick, &plan, &extents),
            pick,
            why,
        })
    }
}

/// Entries and times of launches, in order; those of one entry are counted.
fn launched(timed: impl IntoIterator<Item = (String, Timing)>) -> Vec<Launched> {
    let mut all: Vec<Launched> = Vec::new();
    for (entry, timing) in timed {
        let turn = 1 + all.iter().filter(|before| before.entry == entry).count();
        all.push(Launched { entry, turn, timing });
    }
    all
}
