//! Printing, and files that appear whole or not at all.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lacuna::runtime::WholeFile;

use super::failure::{Failure, Result};

/// Prints to stdout.
///
/// # Errors
/// [`Failure::ReaderGone`] where the other end of a pipe has closed.
pub(crate) fn print(text: &str) -> Result {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ReaderGone,
        _ => Failure::usage(format!("cannot print: {error}")),
    })
}

/// Says on stderr what went wrong without harm.
pub(crate) fn warn(warnings: &[String]) {
    for warning in warnings {
        let _ = writeln!(io::stderr(), "warning: {warning}");
    }
}

/// Says on stderr what is good to know beside what is printed.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// That a file could be written there.
///
/// # Errors
/// Where it could not.
pub(crate) fn writable(path: &Path) -> Result {
    // Opening a pipe would already be noticed at its other end.
    if path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return Ok(());
    }
    WholeFile::create(path).map(|_| ()).map_err(|error| refused(path, &error))
}

/// Writes a file, whole or not at all.
///
/// # Errors
/// Where it cannot be written.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result {
    let written = WholeFile::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.keep()
    });
    written.map_err(|error| refused(path, &error))
}

/// Makes a directory and its missing parents.
///
/// # Errors
/// Where it cannot be made.
pub(crate) fn directory(path: &Path) -> Result {
    std::fs::create_dir_all(path).map_err(|error| refused(path, &error))
}

fn refused(path: &Path, error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "there is no such directory".to_owned(),
        kind => kind.to_string(),
    };
    Failure::usage(format!("cannot write {}: {why}", path.display()))
}

/// A spinner on a terminal; nothing elsewhere, and nothing beside JSON.
pub(crate) fn spinner(json: bool) -> ProgressBar {
    if json || !io::stderr().is_terminal() {
        return hidden();
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

/// A bar of so many steps, under the rules of [`spinner`].
pub(crate) fn bar(json: bool, length: u64) -> ProgressBar {
    if json || !io::stderr().is_terminal() {
        return hidden();
    }
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("  {bar:24} {pos}/{len}  {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn hidden() -> ProgressBar {
    ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
}

/// `1.6e-3`.
pub(crate) fn measure(x: f64) -> String {
    if x == 0.0 { "0".to_owned() } else { format!("{x:.1e}") }
}

/// `0.81 s`, `12 ms`, `0.143 ms`.
pub(crate) fn duration(millis: f64) -> String {
    match millis {
        ms if ms >= 100.0 => format!("{:.2} s", ms / 1e3),
        ms if ms >= 10.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.3} ms"),
    }
}

/// `1 token`, `1341 tokens`.
pub(crate) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
