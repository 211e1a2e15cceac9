//! Every chore of this repository, as `cargo xtask NAME`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks to its user")]

mod tools;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Parser;

/// The chores of lacuna's repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Chore {
    /// Fetch what the tests need and cargo does not bring: ptxas and nvdisasm, into target/tools
    Tools,
    /// Run every test; arguments go to `cargo test --workspace`
    Test {
        /// For instance `-p lacuna-ptx`, or a filter, or `-- --nocapture`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// What must pass before a change is taken: formatting, clippy and the documentation without warnings, every test
    Ci,
    /// Package every crate that is published and build it from its package, in order, as `cargo publish` would; nothing is
    /// uploaded
    Package {
        /// For instance `--allow-dirty`, or `--no-verify`, which builds nothing
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// On a GPU: tune the shapes that lacuna ships winners for, say how good the search is, and write kernels/tuned/GPU.json
    Tuned {
        /// The file's name, such as `h200`
        name: String,
        /// Arguments for `lacuna tune --all --figures`, such as `--budget 60s`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run the tests and take what they make as the new snapshots; arguments as for `test`
    Bless {
        /// As for `test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Chore::parse() {
        Chore::Tools => tools::fetch(root()),
        Chore::Test { args } => test(&args, &[]),
        Chore::Ci => {
            cargo(["fmt", "--all", "--check"], &[])?;
            cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
            cargo(["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])?;
            // Whatever fails, the rest is told as well.
            test(&["--no-fail-fast".to_owned()], &[])
        }
        Chore::Package { args } => {
            // Workspace publishing lets a package depend on one that is packaged in the same go, and not yet on crates.io.
            let publish = ["publish", "--workspace", "--dry-run", "--locked"].map(OsStr::new);
            cargo(publish.into_iter().chain(args.iter().map(OsStr::new)), &[])
        }
        Chore::Tuned { name, args } => tuned(&name, &args),
        Chore::Bless { args } => test(&args, &[("INSTA_UPDATE", "always")]),
    }
}

/// Tunes with records of its own, so that each winner is of one sitting, and keeps them under `target/tuned`.
fn tuned(name: &str, args: &[String]) -> Result<()> {
    let records = root().join("target/tuned").join(name);
    let file = root().join("kernels/tuned").join(name).with_extension("json");
    std::fs::create_dir_all(file.parent().unwrap_or(root())).context("kernels/tuned cannot be made")?;
    let Some((records, out)) = records.to_str().zip(file.to_str()) else { bail!("the workspace's path is no text") };
    let lacuna = ["run", "--release", "--package", "lacuna", "--"];
    let env = [("LACUNA_DATA_DIR", records), ("LACUNA_TUNED", "")];
    let tune = lacuna.iter().chain(&["tune", "--all", "--figures"]).copied();
    cargo(tune.chain(args.iter().map(String::as_str)), &env)?;
    cargo(lacuna.iter().chain(&["tuned", "--export", out]).copied(), &env)?;
    eprintln!("xtask: {out} is written; `TUNED` in kernels/src/tuned.rs names it, and a test says where it does not");
    Ok(())
}

fn test(args: &[String], env: &[(&str, &str)]) -> Result<()> {
    tools::fetch(root())?;
    let base = ["test", "--workspace"].map(OsStr::new);
    // A package or a manifest that the caller names stands in the place of the whole workspace.
    let narrowed =
        args.iter().take_while(|arg| *arg != "--").any(|arg| arg.starts_with("-p") || arg.starts_with("--package"));
    let base = if narrowed { &base[..1] } else { &base[..] };
    cargo(base.iter().copied().chain(args.iter().map(OsStr::new)), env)
}

/// Runs cargo in the workspace root.
fn cargo(args: impl IntoIterator<Item = impl AsRef<OsStr>>, env: &[(&str, &str)]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).envs(env.iter().copied()).current_dir(root());
    let shown: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let shown = format!("cargo {}", shown.join(" "));
    eprintln!("xtask: {shown}");
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed");
    }
    Ok(())
}

/// The workspace root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ stands in the workspace root")
}
