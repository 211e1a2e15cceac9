//! Ctrl-C, and a request to end: nothing is left half written.

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use lacuna::ptx::tidy;

/// The exit code of a command that was interrupted, as shells have it for Ctrl-C.
const INTERRUPTED: i32 = 130;

/// What an interrupted command has kept, where it says.
static KEPT: Mutex<Option<String>> = Mutex::new(None);

/// From here on an interruption says this besides: what is kept.
pub(crate) fn keeping(what: String) {
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
}

fn say() {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).take();
    let kept = kept.map(|what| format!("; {what}")).unwrap_or_default();
    let _ = writeln!(std::io::stderr(), "interrupted{kept}");
}

/// From here on an interruption removes what has only a temporary name, and ends the process.
#[cfg(unix)]
pub(crate) fn watch() {
    use signal_hook::consts::{SIGINT, SIGTERM};
    // Without a handler the signal ends the process as it always did.
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) else { return };
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            tidy::abandon();
            say();
            // Without the destructors of the driver, which wait for what runs.
            signal_hook::low_level::exit(INTERRUPTED);
        }
    });
}

/// From here on an interruption removes what has only a temporary name, and ends the process.
#[cfg(not(unix))]
pub(crate) fn watch() {
    let _ = ctrlc::set_handler(|| {
        tidy::abandon();
        say();
        std::process::exit(INTERRUPTED);
    });
}
