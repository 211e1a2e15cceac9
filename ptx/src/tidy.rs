//! Files and folders under temporary names, which are gone when the process ends, whatever ends it.
//!
//! Destructors remove them on every way out but one: a signal runs none. Everything that has a temporary name is therefore
//! listed from the moment it is made, under one lock, and [`abandon`] removes what the list has. Renaming a file to its
//! right name takes it off the list under the same lock, so an interruption comes either before it or after it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static UNSETTLED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unsettled() -> MutexGuard<'static, Vec<PathBuf>> {
    UNSETTLED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a file or folder under a temporary name, and lists it. Its path must be absolute, or the working directory must
/// stay what it is.
///
/// # Errors
/// Those of `make`.
pub fn make<T: AsRef<Path>>(make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut unsettled = unsettled();
    let made = make()?;
    unsettled.push(made.as_ref().to_owned());
    Ok(made)
}

/// Renames or removes what stands at `path`, and takes it off the list.
pub fn settle<T>(path: &Path, settle: impl FnOnce() -> T) -> T {
    let mut unsettled = unsettled();
    let settled = settle();
    unsettled.retain(|listed| listed != path);
    settled
}

/// Removes everything on the list. Call it right before the process ends: whoever makes or settles something afterwards
/// waits for that end.
pub fn abandon() {
    let mut unsettled = unsettled();
    for path in unsettled.drain(..) {
        // What cannot be removed now cannot be removed at all.
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    std::mem::forget(unsettled);
}
