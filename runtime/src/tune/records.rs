//! Records on disk: JSON Lines, a file for each GPU model and kernel in the user's data directory.
//!
//! ```text
//! <root>/v1/<gpu>/<kernel>.jsonl      one record a line; of two of one class and pick, the later one counts
//! ```
//!
//! A line is appended in one write under an advisory lock, so that tuners of any number of processes share a file and one
//! that is killed leaves whole lines, and at most one that is cut. A cut line is ended by the next append, which so loses
//! nothing; a line that is none is skipped with a warning that names it. Failures are soft: a full disk or a directory that
//! may not be written costs the record, never the search, and is told.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use etcetera::BaseStrategy as _;

use super::record::Record;

/// The records of a user, or of nobody. Safe to share between threads, and the directory between processes.
#[derive(Debug)]
pub struct Records {
    root: Option<PathBuf>,
    warnings: Mutex<Vec<String>>,
}

impl Records {
    /// The user's: in `$LACUNA_DATA_DIR`, else in `lacuna` in the user's data directory. `LACUNA_TUNED=off` turns them off.
    pub fn user() -> Self {
        if std::env::var_os("LACUNA_TUNED").is_some_and(|value| value == "off" || value == "0") {
            return Self::off();
        }
        if let Some(dir) = std::env::var_os("LACUNA_DATA_DIR").filter(|dir| !dir.is_empty()) {
            return Self::at(PathBuf::from(dir));
        }
        match etcetera::choose_base_strategy() {
            Ok(base) => Self::at(base.data_dir().join("lacuna")),
            Err(error) => {
                let records = Self::off();
                records.warn(format!("no tuning records: {error}; set LACUNA_DATA_DIR"));
                records
            }
        }
    }

    /// Records under `root`, which is made with the first of them.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: Some(root.into().join("tuned").join("v1")), warnings: Mutex::default() }
    }

    /// Records that are not kept.
    pub fn off() -> Self {
        Self { root: None, warnings: Mutex::default() }
    }

    /// Where those of a kernel on a GPU lie or would lie; `None` where none are kept.
    pub fn file(&self, gpu: &str, kernel: &str) -> Option<PathBuf> {
        Some(self.root.as_ref()?.join(slug(gpu)).join(slug(kernel) + ".jsonl"))
    }

    /// The kernels that have records of a GPU, in the order of their names.
    pub fn kernels(&self, gpu: &str) -> Vec<String> {
        self.root.as_ref().map_or(Vec::new(), |root| names(&root.join(slug(gpu)), ".jsonl"))
    }

    /// The GPUs that have records, as folders are called: `nvidia-h200`.
    pub fn gpus(&self) -> Vec<String> {
        self.root.as_ref().map_or(Vec::new(), |root| names(root, ""))
    }

    /// What went wrong so far, each trouble once. Tuning works without what failed.
    pub fn warnings(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// The records of a kernel on a GPU, oldest first, whether they hold or not; of one class and pick the latest only, for
    /// each text.
    pub fn load(&self, gpu: &str, kernel: &str) -> Vec<Record> {
        let Some(path) = self.file(gpu, kernel) else { return Vec::new() };
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Vec::new();
            }
            Err(error) => {
                self.warn(format!("cannot read tuning records: {}: {error}", path.display()));
                return Vec::new();
            }
        };
        let mut all: Vec<Record> = Vec::new();
        for (line, text) in bytes.split(|&byte| byte == b'\n').enumerate().filter(|(_, text)| !text.is_empty()) {
            match serde_json::from_slice::<Record>(text) {
                Ok(record) => {
                    all.retain(|known| !(known.same(&record) && known.ptx == record.ptx));
                    all.push(record);
                }
                Err(error) => {
                    self.warn(format!("{}:{}: not a tuning record, skipped: {error}", path.display(), line + 1))
                }
            }
        }
        all
    }

    /// Keeps a record. Whether it did; if not, a warning says why.
    pub fn append(&self, kernel: &str, record: &Record) -> bool {
        let Some(path) = self.file(&record.stamp.gpu, kernel) else { return false };
        match append(&path, record) {
            Ok(()) => true,
            Err(error) => {
                self.warn(format!("tuning records are not kept: {}: {error}", path.display()));
                false
            }
        }
    }

    fn warn(&self, text: String) {
        let mut warnings = self.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name as a file has it: letters and digits, in small letters, with hyphens between.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

/// What lies in a folder under names with this end, without it.
fn names(folder: &Path, end: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let name =
        |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| name.strip_suffix(end)).map(str::to_owned);
    let mut all: Vec<String> = entries.flatten().filter_map(name).collect();
    all.sort();
    all
}

/// The whole file, not in the middle of an append.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    // A file system without locks is read as it is: a line that is cut is skipped.
    let _ = file.lock_shared();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Appends a line in one write. What is left of one that could not be written is taken back.
fn append(path: &Path, record: &Record) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    let mut file = File::options().create(true).read(true).append(true).open(path)?;
    file.lock()?;
    let length = file.metadata()?.len();
    let mut line = Vec::new();
    if length > 0 {
        // A writer that was killed in the middle of a line: that line ends here.
        let mut last = [b'\n'];
        file.seek(SeekFrom::Start(length - 1))?;
        file.read_exact(&mut last)?;
        if last != [b'\n'] {
            line.push(b'\n');
        }
    }
    serde_json::to_writer(&mut line, record)?;
    line.push(b'\n');
    file.write_all(&line).and_then(|()| file.flush()).inspect_err(|_| {
        let _ = file.set_len(length);
    })
}
