//! `lacuna` alone: the whole product on one screen.

use std::path::{Path, PathBuf};

use clap::Args;
use lacuna::kernels::registry::{self, Need};
use lacuna::runtime::Device;
use serde_json::{Value, json};

use super::args::{self, Place};
use super::attend::{Compared, Done, Job};
use super::failure::{Failure, Result};
use super::input::Input;
use super::output::{self, duration, measure, spinner};
use super::picture;

/// What `lacuna` alone takes.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// best, emulator, cuda, or cuda:1 [default: best]
    #[arg(long)]
    device: Option<Place>,
    /// Where PTX and pictures go
    #[arg(long, value_name = "DIR", default_value = "target/lacuna")]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// An attention that is shown.
struct Row {
    label: &'static str,
    kernel: &'static str,
    options: &'static [(&'static str, u32)],
    /// Knobs: small tiles, for documents of some hundred tokens.
    knobs: &'static [(&'static str, u32)],
    /// The name of its files.
    stem: &'static str,
}

const SMALL: &[(&str, u32)] = &[("rows", 64), ("kv", 32)];

const ROWS: [Row; 5] = [
    Row { label: "documents, causal", kernel: "documents", options: &[], knobs: SMALL, stem: "documents" },
    Row { label: "sliding window 128", kernel: "window", options: &[("window", 128)], knobs: SMALL, stem: "window" },
    Row {
        label: "sink 4 + window 128",
        kernel: "sink-window",
        options: &[("window", 128), ("sink", 4)],
        knobs: SMALL,
        stem: "sink_window",
    },
    Row {
        label: "NSA selected, n 4",
        kernel: "nsa-selected",
        options: &[("blocks", 4)],
        knobs: &[],
        stem: "nsa_selected",
    },
    Row {
        label: "MoBA, top-k 3 of 64",
        kernel: "moba",
        options: &[("block", 64), ("top-k", 3)],
        knobs: &[],
        stem: "moba",
    },
];

/// Shows it.
///
/// # Errors
/// What `--help` says of exit codes.
pub(crate) fn demo(demo: &Demo) -> Result {
    let device = args::device(demo.device)?;
    let target = args::target(&device, None)?;
    output::directory(&demo.out)?;
    let input = Input::minilm()?;
    let print = |text: String| if demo.json { Ok(()) } else { output::print(&text) };
    print(format!(
        "lacuna {}   device: {}   input: {}: {}\n",
        env!("CARGO_PKG_VERSION"),
        described(&device, demo.device),
        input.name,
        input.extents()
    ))?;
    print(format!(
        "  {:<19}  {:<13}  {:<6}  {:>7}  {:>7}  {:>8}    {}\n",
        "attention", "schedule", "target", "error", "allowed", "time", "PTX"
    ))?;
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for row in &ROWS {
        let kernel = registry::find(row.kernel).ok_or_else(|| Failure::usage(format!("no kernel `{}`", row.kernel)))?;
        let options = kernel.options(row.options.iter().copied())?;
        let progress = spinner(demo.json);
        progress.set_message(row.label);
        let picks = input.picks_for(kernel, &options, false)?;
        let picks = picks.as_ref().map(|(picks, _)| picks);
        let scale = 1.0 / (input.dims.dk as f32).sqrt();
        let wanted = &row.knobs.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        let (device, input) = (&device, &input);
        let job = Job {
            device,
            target,
            kernel,
            options: &options,
            wanted,
            input,
            picks,
            scale,
            checked: true,
            compare: true,
        };
        let done = job.run(|stage| progress.set_message(format!("{}: {stage}", row.label)))?;
        let ptx = demo.out.join(format!("{}.ptx", row.stem));
        output::write(&ptx, done.plan.attending().ptx.as_bytes())?;
        let png = demo.out.join(format!("{}.png", row.stem));
        draw(&png, &job, &done)?;
        progress.finish_and_clear();
        let Some(compared) = &done.compared else { continue };
        let Compared { verdicts, .. } = compared;
        print(format!(
            "  {:<19}  {:<13}  {:<6}  {:>7}  {:>7}  {:>8}    {}{}\n",
            row.label,
            done.attention.schedule_name,
            target.to_string(),
            measure(verdicts.o.error),
            measure(verdicts.o.allowed),
            duration(done.millis),
            ptx.display(),
            if compared.wrong().is_none() { "" } else { "   WRONG" }
        ))?;
        if compared.wrong().is_some() {
            print(verdicts.to_string().lines().map(|line| format!("    {line}\n")).collect())?;
            if let Some(why) = compared.routing.as_ref().and_then(|routing| routing.wrong.as_ref()) {
                print(format!("    routing: {why}\n"))?;
            }
            wrong.push(row.label);
        }
        rows.push(as_json(row, &done, &ptx, &png));
    }
    if demo.json {
        let all =
            json!({ "ok": wrong.is_empty(), "device": device.name(), "target": target.to_string(), "rows": rows });
        output::print(&format!("{all:#}\n"))?;
    }
    print(format!(
        "pictures: {}: {}\nnext: `lacuna emit nsa-selected --target sm_90`, `lacuna run causal`, README\n",
        demo.out.join("*.png").display(),
        picture::LEGEND
    ))?;
    output::warn(&device.warnings());
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::Wrong(format!("farther from f64 than is allowed: {}", wrong.join("; "))))
}

/// `emulator (no NVIDIA driver found)`.
fn described(device: &Device, flag: Option<Place>) -> String {
    let asked = flag.is_some() || std::env::var_os("LACUNA_DEVICE").is_some();
    match Device::no_cuda() {
        Some(lacuna::runtime::NoCuda::NoDriver { .. }) if !asked => format!("{device} (no NVIDIA driver found)"),
        Some(why) if !asked => format!("{device} ({why})"),
        _ => device.name(),
    }
}

fn draw(path: &Path, job: &Job<'_>, done: &Done) -> Result {
    let cu_seqlens = &job.input.cu_seqlens;
    match (done.attention.mask(), job.picks) {
        (Some(mask), _) => picture::blocks(path, mask, &done.extras, cu_seqlens, (done.pick["rows"], done.pick["kv"])),
        _ if done.attention.lists().is_some() => picture::lists(path, &done.attention, &done.extras, cu_seqlens),
        _ if let (Some(config), Some(routing)) = (done.attention.routed(), done.routing()) => {
            picture::routing(path, &routing, cu_seqlens, config.block)
        }
        (None, Some(picks)) if job.kernel.needs(Need::Picks) => {
            picture::picks(path, picks, cu_seqlens, job.options.get("block") as usize)
        }
        _ => Ok(()),
    }
}

fn as_json(row: &Row, done: &Done, ptx: &Path, png: &Path) -> Value {
    let verdicts = done.compared.as_ref().map(|compared| compared.verdicts);
    let ok = done.compared.as_ref().is_some_and(|compared| compared.wrong().is_none());
    json!({
        "attention": row.label,
        "kernel": row.kernel,
        "schedule": done.attention.schedule_name,
        "pick": done.pick,
        "ok": ok,
        "error": verdicts.map(|v| v.o.error),
        "allowed": verdicts.map(|v| v.o.allowed),
        "lse_error": verdicts.map(|v| v.lse.error),
        "lse_allowed": verdicts.map(|v| v.lse.allowed),
        "milliseconds": done.millis,
        "ptx": ptx.display().to_string(),
        "picture": png.display().to_string(),
    })
}
