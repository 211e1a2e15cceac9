//! The command line: what can be said, and which exit code says how it went.
//!
//! Kernels and their options come from [`lacuna::kernels::registry`]; nothing here knows one of them by name but the
//! demonstration.

mod args;
mod attend;
mod bench;
mod demo;
mod devices;
mod draw;
mod emit;
mod failure;
mod input;
mod inspect;
mod interrupt;
mod output;
mod pages;
mod picked;
mod picture;
mod place;
mod run;
mod selftest;
mod shaped;
mod shapes;
mod tune;
mod tuned;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use failure::Failure;

/// Exit codes, as `--help` shows them.
const EXIT: &str = "\
Exit codes:
  0  everything is right
  1  the numbers are wrong: beyond what is allowed, or not all written
  2  bad usage or bad input, or a file that cannot be written
  3  trouble with the device: no driver, one that is too old, out of memory, a fault
  130  interrupted; every file is as it was, or whole

Environment:
  LACUNA_DEVICE     the device where --device is not given: best, emulator, cuda, cuda:1
  LACUNA_CACHE_DIR  where compiled kernels are kept; LACUNA_CACHE=off keeps none
  LACUNA_DATA_DIR   where tuning records are kept; LACUNA_TUNED=off keeps and uses none";

/// Block-sparse attention for NVIDIA tensor cores, as PTX that anyone can read, and run without a GPU.
///
/// Without a command it shows itself: five attentions over a real model's queries, keys and values, each compiled, run and
/// compared with f64.
///
/// Kernels are masks and picked blocks, each also under a score (ALiBi, softcap, a relative bias from a table) or with learnable
/// sinks: `lacuna run --help` lists them.
#[derive(Debug, Parser)]
#[command(name = "lacuna", version, after_help = EXIT, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    demo: demo::Demo,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a kernel on a file's tensors or on drawn ones, and compare the result with f64
    #[command(after_help = EXIT)]
    Run(Box<run::Run>),
    /// Print a kernel's PTX, or everything that another program needs to launch it
    #[command(after_help = EXIT)]
    Emit(emit::Emit),
    /// Say what a kernel takes of a GPU, and how fast it could be
    #[command(after_help = EXIT)]
    Inspect(Box<inspect::Inspect>),
    /// Time a kernel on a GPU, launch by launch, beside how fast it could be
    #[command(after_help = EXIT)]
    Bench(Box<bench::Bench>),
    /// Find a kernel's fastest pick on a GPU, and remember it
    #[command(after_help = EXIT)]
    Tune(Box<tune::Tune>),
    /// Show what was tuned, and why it won
    #[command(after_help = EXIT)]
    Tuned(tuned::Tuned),
    /// What `lacuna tune` runs candidates in: plans come on the standard input
    #[command(hide = true)]
    TuneWorker,
    /// Draw the blocks that a kernel visits
    #[command(after_help = EXIT)]
    Draw(draw::Picture),
    /// Test every kernel at every width on small inputs against f64
    #[command(after_help = EXIT)]
    Selftest(selftest::Selftest),
    /// List the devices that kernels can run on
    #[command(after_help = EXIT)]
    Devices(devices::Devices),
    /// Print what completes this command in a shell
    Completions(pages::Completions),
    /// Print a page of the manual, or write all of them
    Man(pages::Manual),
}

/// Parses, runs, reports.
pub(crate) fn main() -> ExitCode {
    interrupt::watch();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A reader that has gone away is no trouble.
            let _ = error.print();
            if !error.use_stderr() {
                return ExitCode::SUCCESS;
            }
            let json = std::env::args_os().any(|arg| arg == "--json");
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            return Failure::usage(line).said(json);
        }
    };
    let (done, json) = match &cli.command {
        None => (demo::demo(&cli.demo), cli.demo.json),
        Some(Command::Run(run)) => (run.run(), run.json),
        Some(Command::Emit(emit)) => (emit.emit(), emit.json),
        Some(Command::Inspect(inspect)) => (inspect.inspect(), inspect.json),
        Some(Command::Bench(bench)) => (bench.bench(), bench.json),
        Some(Command::Tune(tune)) => (tune.tune(), tune.json),
        Some(Command::Tuned(tuned)) => (tuned.show(), tuned.json),
        Some(Command::TuneWorker) => (tune::worker(), false),
        Some(Command::Draw(picture)) => (picture.draw(), picture.json),
        Some(Command::Selftest(selftest)) => (selftest.test(), selftest.json),
        Some(Command::Devices(devices)) => (devices.list(), devices.json),
        Some(Command::Completions(completions)) => (completions.write(Cli::command()), false),
        Some(Command::Man(manual)) => (manual.write(Cli::command()), false),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}
