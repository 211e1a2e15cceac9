//! `lacuna run`: a kernel on a problem, with its verdict.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use lacuna::kernels::host::Host;
use lacuna::kernels::tolerance::Verdict;
use lacuna::kernels::validate;
use lacuna::ptx::Target;
use lacuna::runtime::{Elem, save};
use serde_json::{Value, json};

use super::args::{self, Chosen, Knob, Place};
use super::attend::{Compared, Done, Job};
use super::failure::{Failure, Result};
use super::input::{Draw, Input, Origin};
use super::output::{self, count, duration, measure, spinner};
use super::shaped;

/// What `lacuna run` takes.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    chosen: Chosen,
    /// A safetensors file with q, k, v, and cu_seqlens, cu_seqlens_k and picks where there are any [default: a real model's]
    #[arg(long, value_name = "FILE", help_heading = "Input", conflicts_with_all = DRAW)]
    input: Option<PathBuf>,
    /// Draw that many tokens [default: 512, where anything of the draw is given]
    #[arg(long, value_name = "N", help_heading = "Input")]
    tokens: Option<usize>,
    /// Draw documents of these lengths, as a list with commas
    #[arg(long, value_name = "N,..", value_delimiter = ',', help_heading = "Input")]
    docs: Vec<usize>,
    /// Draw so many keys for each document, as a list with commas: queries and keys end together [default: its tokens]
    #[arg(long, value_name = "N,..", value_delimiter = ',', help_heading = "Input")]
    keys: Vec<usize>,
    /// Draw that many query heads [default: 8]
    #[arg(long, value_name = "N", help_heading = "Input")]
    heads: Option<usize>,
    /// Draw that many KV heads [default: as many as query heads]
    #[arg(long, value_name = "N", help_heading = "Input")]
    kv_heads: Option<usize>,
    /// Draw queries and keys that wide: 32, 64, 96, 128, 192 or 256 [default: 64]
    #[arg(long, value_name = "N", help_heading = "Input")]
    dim: Option<usize>,
    /// Draw values that wide [default: as wide as keys]
    #[arg(long, value_name = "N", help_heading = "Input")]
    dv: Option<usize>,
    /// Draw with this seed [default: 0]
    #[arg(long, value_name = "N", help_heading = "Input")]
    seed: Option<u64>,
    /// Draw bf16 or f16 [default: bf16]
    #[arg(long, value_parser = args::dtype, help_heading = "Input")]
    dtype: Option<Elem>,
    /// What logits are multiplied by [default: 1/sqrt of the width of keys]
    #[arg(long, value_name = "X", help_heading = "Input", allow_negative_numbers = true)]
    scale: Option<f32>,
    /// Knobs, as stages=3,rows=64; the others as they come first in `lacuna emit KERNEL --space`
    #[arg(long, value_name = "KNOB=N,..", value_delimiter = ',')]
    pick: Vec<Knob>,
    /// Compile for this GPU [default: the highest of sm_80, sm_86, sm_89, sm_90, sm_90a and sm_120 that the device runs]
    #[arg(long)]
    target: Option<Target>,
    /// best, emulator, cuda, or cuda:1 [default: best]
    #[arg(long)]
    device: Option<Place>,
    /// Refuse NaN, infinities and indices out of range in the input, and find elements that are not written
    #[arg(long)]
    checked: bool,
    /// Save o and lse to this safetensors file
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Do not compare with f64
    #[arg(long)]
    no_check: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The arguments that make a drawn input.
const DRAW: [&str; 9] = ["tokens", "docs", "keys", "heads", "kv_heads", "dim", "dv", "seed", "dtype"];

impl Run {
    /// Runs it.
    ///
    /// # Errors
    /// What `--help` says of exit codes.
    pub(crate) fn run(&self) -> Result {
        let options = self.chosen.options()?;
        let wanted = args::pick(&self.pick)?;
        let device = args::device(self.device)?;
        let target = args::target(&device, self.target)?;
        if let Some(path) = &self.output {
            // A place that cannot be written is told of before the work.
            output::writable(path)?;
        }
        let progress = spinner(self.json);
        progress.set_message("reading the input");
        let kernel = self.chosen.kernel;
        let input = self.problem()?;
        input.fits(kernel)?;
        let scale = self.scale.unwrap_or(1.0 / (input.dims.dk as f32).sqrt());
        validate::scale(scale)?;
        let explicit = self.chosen.given.iter().any(|(name, _)| *name == "blocks");
        let picks = input.picks_for(kernel, &options, explicit)?;
        let job = Job {
            device: &device,
            target,
            kernel,
            options: &options,
            wanted: &wanted,
            input: &input,
            picks: picks.as_ref().map(|(picks, _)| picks),
            scale,
            checked: self.checked,
            compare: !self.no_check,
        };
        let done = job.run(|stage| progress.set_message(format!("{stage} {} on {device}", kernel.name)))?;
        if let Some(path) = &self.output {
            let metadata = BTreeMap::from([("kernel".to_owned(), kernel.name.to_owned())]);
            save(path, [("o", &done.o), ("lse", &done.lse)], &metadata)?;
        }
        progress.finish_and_clear();
        output::warn(&device.warnings());
        output::print(&match self.json {
            true => format!("{:#}\n", self.as_json(&job, &done, picks.as_ref())),
            false => self.as_text(&job, &done, picks.as_ref()),
        })?;
        match done.compared.as_ref().and_then(Compared::wrong) {
            Some("routing") => {
                Err(Failure::Wrong(format!("`{}` on {device}: the routing is not that of its scores", kernel.name)))
            }
            Some(which) => Err(Failure::Wrong(format!(
                "`{}` on {device}: {which} is farther from f64 than is allowed",
                kernel.name
            ))),
            None => Ok(()),
        }
    }

    fn problem(&self) -> Result<Input> {
        if let Some(path) = &self.input {
            return Input::file(path);
        }
        let Run { tokens, docs, keys, heads, kv_heads, dim, dv, seed, dtype, .. } = self;
        let nothing = tokens.is_none() && docs.is_empty() && keys.is_empty() && dtype.is_none() && seed.is_none();
        if nothing && [heads, kv_heads, dim, dv].iter().all(|given| given.is_none()) {
            return Input::minilm();
        }
        let (heads, dim) = (heads.unwrap_or(8), dim.unwrap_or(64));
        Input::draw(&Draw {
            tokens: *tokens,
            docs: docs.clone(),
            keys: keys.clone(),
            heads,
            kv_heads: kv_heads.unwrap_or(heads),
            dim,
            dv: dv.unwrap_or(dim),
            seed: seed.unwrap_or(0),
            elem: dtype.unwrap_or(Elem::Bf16),
            repeats: false,
        })
    }

    fn as_text(&self, job: &Job<'_>, done: &Done, picks: Option<&(Host<i32>, Origin)>) -> String {
        let mut text = format!("{}: {}, {}\n", job.kernel.name, done.attention.schedule_name, job.target);
        let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<8}  {value}\n"));
        line("device", job.device.name());
        line("input", format!("{}: {}, {}", job.input.name, job.input.extents(), job.input.precision.name()));
        let mut options: Vec<String> = job.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        options.extend(job.options.score.map(|score| format!("score {}", score.name)));
        options.extend(job.options.sinks.then(|| "sink logits".to_owned()));
        if !options.is_empty() {
            line("options", options.join(","));
        }
        if let Some((picks, origin)) = picks {
            let [_, _, n] = picks.shape;
            line("picks", format!("{} a token and KV head, {}", count(n, "block"), origin.text()));
        }
        let launch = done.plan.attending();
        line(
            "pick",
            format!(
                "{}: {}, {} bytes of shared memory a CTA",
                args::pick_text(&done.pick),
                count(launch.threads as usize, "thread"),
                launch.shared
            ),
        );
        line("", done.why.clone());
        if done.plan.launches.len() > 1 {
            let names: Vec<&str> = done.plan.launches.iter().map(|launch| launch.entry.as_str()).collect();
            line("launches", format!("{}; {} bytes of workspace", names.join(", "), workspace(job, done)));
        }
        match &done.compared {
            None => line("result", "not compared with f64 (--no-check)".to_owned()),
            Some(Compared { verdicts, routing, rows, of }) => {
                if let Some(routing) = routing {
                    line(
                        "routing",
                        match &routing.wrong {
                            None => {
                                format!("that of its scores in f64, up to near ties: {}", count(routing.rows, "row"))
                            }
                            Some(why) => format!("WRONG: {why}"),
                        },
                    );
                }
                line("o", said(&verdicts.o));
                line("lse", said(&verdicts.lse));
                line(
                    "compared",
                    match rows == of {
                        true => format!("every row: {of}"),
                        false => format!("{rows} rows of {of}, evenly spread: f64 of all takes too long"),
                    },
                );
            }
        }
        let counted = done
            .report
            .total()
            .map(|stats| format!(", {:.1}M warp instructions", stats.warp_instructions as f64 / 1e6));
        line("time", format!("{}{}", duration(done.millis), counted.unwrap_or_default()));
        if let Some(path) = &self.output {
            line("saved", format!("{}: o, lse", path.display()));
        }
        text
    }

    fn as_json(&self, job: &Job<'_>, done: &Done, picks: Option<&(Host<i32>, Origin)>) -> Value {
        let dims = job.input.dims;
        let launch = done.plan.attending();
        let verdict = |v: &Verdict| json!({ "ok": v.ok, "error": v.error, "allowed": v.allowed, "worst": v.worst, "got": v.got, "want": v.want });
        let compared = done.compared.as_ref().map(|compared| {
            let Compared { verdicts, routing, rows, of } = compared;
            let routing = routing
                .as_ref()
                .map(|routing| json!({ "ok": routing.wrong.is_none(), "rows": routing.rows, "wrong": routing.wrong }));
            json!({
                "o": verdict(&verdicts.o),
                "lse": verdict(&verdicts.lse),
                "routing": routing,
                "rows": rows,
                "of": of,
            })
        });
        json!({
            "ok": done.compared.as_ref().is_none_or(|compared| compared.wrong().is_none()),
            "kernel": job.kernel.name,
            "schedule": done.attention.schedule_name,
            "device": job.device.name(),
            "target": job.target.to_string(),
            "options": job.options.iter().collect::<BTreeMap<_, _>>(),
            "score": job.options.score.map(|score| score.name),
            "sink_logits": job.options.sinks,
            "pick": done.pick,
            "pick_why": done.why,
            "launches": done.plan.launches.iter().map(|launch| launch.entry.as_str()).collect::<Vec<_>>(),
            "threads": launch.threads,
            "shared_bytes": launch.shared,
            "workspace_bytes": workspace(job, done),
            "input": {
                "name": job.input.name,
                "dtype": job.input.precision.name(),
                "tokens": dims.total,
                "keys": dims.keys,
                "sequences": job.input.cu_seqlens.len() - 1,
                "max_seqlen": job.input.max_seqlen,
                "max_seqlen_k": job.input.max_seqlen_k,
                "heads": dims.hq,
                "kv_heads": dims.hk,
                "dim": dims.dk,
                "dv": dims.dv,
                "scale": job.scale,
                "picks": picks.map(|(_, origin)| origin.text()),
            },
            "compared": compared,
            "milliseconds": done.millis,
            "warp_instructions": done.report.total().map(|stats| stats.warp_instructions),
            "output": self.output.as_ref().map(|path| path.display().to_string()),
        })
    }
}

/// Bytes of the plan's workspace.
fn workspace(job: &Job<'_>, done: &Done) -> u64 {
    let Input { dims, cu_seqlens, max_seqlen, max_seqlen_k, .. } = job.input;
    let blocks = job.picks.map_or(0, |picks| picks.shape[2]);
    let extents = [dims.total, dims.keys, cu_seqlens.len(), dims.hq, dims.hk, blocks].map(|extent| extent as u64);
    shaped::workspace(&done.plan, extents, [*max_seqlen, *max_seqlen_k])
}

impl Origin {
    fn text(self) -> &'static str {
        match self {
            Origin::Given => "from the file",
            Origin::Scored => "scored by the reference",
            Origin::Drawn => "drawn: there are too many tokens to score",
        }
    }
}

fn said(verdict: &Verdict) -> String {
    let Verdict { ok, error, allowed, worst, got, want } = verdict;
    let numbers = format!("error {}, allowed {}", measure(*error), measure(*allowed));
    if *ok { numbers } else { format!("{numbers}: WRONG, farthest at element {worst}: {got} where {want} is right") }
}
