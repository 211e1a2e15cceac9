//! Printing, and files that appear whole or not at all.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tempfile::NamedTempFile;

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

/// A file beside its place, with the permissions that a new file has. [`keep`] gives it its name.
///
/// # Errors
/// Where the directory is not there or cannot be written.
pub(crate) fn beside(path: &Path, suffix: &str) -> Result<NamedTempFile> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".writing-").suffix(suffix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(dir).map_err(|error| refused(path, &error))
}

/// Gives a file its name.
///
/// # Errors
/// Where it cannot have it: it is a directory's, say.
pub(crate) fn keep(file: NamedTempFile, path: &Path) -> Result {
    file.persist(path).map(|_| ()).map_err(|error| refused(path, &error.error))
}

/// Writes a file, whole or not at all.
///
/// # Errors
/// Where it cannot be written.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result {
    let mut file = beside(path, "")?;
    file.write_all(bytes).and_then(|()| file.flush()).map_err(|error| refused(path, &error))?;
    keep(file, path)
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

/// A spinner on a terminal; nothing elsewhere.
pub(crate) fn spinner() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
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
