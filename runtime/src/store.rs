//! A cache of bytes by key on disk, for compiled kernels.
//!
//! Content-addressed: an entry never changes, so nothing is ever invalid, only missing. A file is written beside its
//! place and renamed into it, so that readers of any process see a whole entry or none; its header holds the length and
//! the BLAKE3 hash of what follows, so that a torn or damaged file is a miss and is replaced. The hash guards against
//! accidents, not against another user: the directory is made with mode 0700, and one that anybody may write to is not
//! used. Failures are soft: the cache says once what went wrong ([`Store::warnings`]) and the caller compiles again.
//!
//! ```text
//! <root>/v1/cubin/<first 2 hex digits>/<64 hex digits>.cubin      magic, length, hash, bytes
//! ```

use std::{
    fs, io,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use etcetera::BaseStrategy as _;

use crate::whole::{Beside, TEMPORARY};

/// Opens every entry.
const MAGIC: &[u8; 8] = b"LACUNA1\n";
/// Magic, length and hash.
const HEADER: usize = 8 + 8 + 32;
/// The end of an entry's file name.
const SUFFIX: &str = ".cubin";
/// A temporary file older than this was left by a process that died.
const STALE: Duration = Duration::from_secs(3600);

/// The name of an entry: a BLAKE3 hash of everything that its content depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(blake3::Hash);

impl Key {
    /// The key of an ordered list of parts. Parts are hashed with their lengths, so that no two lists share a key by
    /// concatenation.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Key(hasher.finalize())
    }

    /// Its 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0.to_hex().to_string()
    }
}

/// A directory of entries, or nothing. Safe to share between threads, and the directory between processes.
#[derive(Debug)]
pub struct Store {
    root: Option<PathBuf>,
    cap: u64,
    warnings: Mutex<Vec<(Trouble, String)>>,
}

/// What a warning is about; each is reported once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Place,
    Open,
    Read,
    Damaged,
    Write,
    Evict,
}

impl Store {
    /// Bytes that a store keeps unless told otherwise: 1 GiB.
    pub const DEFAULT_CAP: u64 = 1 << 30;

    /// The user's store: `$LACUNA_CACHE_DIR`, else `lacuna` in the user's cache directory. `LACUNA_CACHE=off` turns it
    /// off.
    pub fn user() -> Self {
        if std::env::var_os("LACUNA_CACHE").is_some_and(|value| value == "off" || value == "0") {
            return Self::off();
        }
        if let Some(dir) = std::env::var_os("LACUNA_CACHE_DIR").filter(|dir| !dir.is_empty()) {
            return Self::at(PathBuf::from(dir), Self::DEFAULT_CAP);
        }
        match etcetera::choose_base_strategy() {
            Ok(base) => Self::at(base.cache_dir().join("lacuna"), Self::DEFAULT_CAP),
            Err(error) => {
                let store = Self::off();
                store.warn(Trouble::Place, || format!("no kernel cache: {error}; set LACUNA_CACHE_DIR"));
                store
            }
        }
    }

    /// A store under `root`, which is made when the first entry is put, of at most `cap` bytes.
    pub fn at(root: impl Into<PathBuf>, cap: u64) -> Self {
        Self { root: Some(root.into().join("v1").join("cubin")), cap, warnings: Mutex::default() }
    }

    /// A store that holds nothing.
    pub fn off() -> Self {
        Self { root: None, cap: 0, warnings: Mutex::default() }
    }

    /// Where its entries lie; `None` when it is off.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Where an entry lies or would lie.
    pub fn path(&self, key: &Key) -> Option<PathBuf> {
        let hex = key.hex();
        self.root.as_ref().map(|root| root.join(&hex[..2]).join(hex + SUFFIX))
    }

    /// What went wrong so far, each kind of trouble once. The store works without what failed.
    pub fn warnings(&self) -> Vec<String> {
        self.lock().iter().map(|(_, text)| text.clone()).collect()
    }

    /// An entry's bytes; `None` when there is none, or none that is whole.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let path = self.path(key)?;
        if !self.trusted() {
            return None;
        }
        let mut file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound && error.kind() != io::ErrorKind::NotADirectory {
                    self.warn(Trouble::Read, || format!("cannot read the kernel cache: {}: {error}", path.display()));
                }
                return None;
            }
        };
        let mut bytes = Vec::new();
        if let Err(error) = file.read_to_end(&mut bytes) {
            self.warn(Trouble::Read, || format!("cannot read the kernel cache: {}: {error}", path.display()));
            return None;
        }
        let Some(content) = verified(&bytes) else {
            self.warn(Trouble::Damaged, || {
                format!("a damaged entry of the kernel cache was dropped: {}", path.display())
            });
            let _ = fs::remove_file(&path);
            return None;
        };
        // The time of the last use orders eviction. A read-only cache keeps the time of writing.
        let _ = file.set_modified(SystemTime::now());
        Some(content.to_vec())
    }

    /// Keeps an entry, then drops the least recently used ones past the cap.
    pub fn put(&self, key: &Key, content: &[u8]) {
        let (Some(root), Some(path)) = (self.root(), self.path(key)) else { return };
        if (content.len() + HEADER) as u64 > self.cap || !self.trusted() {
            return;
        }
        if let Err(error) = write(&path, content) {
            self.warn(Trouble::Write, || format!("compiled kernels are not kept: {}: {error}", path.display()));
            return;
        }
        if let Err(error) = evict(root, self.cap, &path) {
            self.warn(Trouble::Evict, || format!("the kernel cache cannot be kept under its cap: {error}"));
        }
    }

    /// Bytes of all entries, with their headers.
    pub fn size(&self) -> u64 {
        self.root().and_then(|root| entries(root).ok()).map_or(0, |all| all.iter().map(|entry| entry.bytes).sum())
    }

    /// Whether nobody else can have planted an entry.
    fn trusted(&self) -> bool {
        #[cfg(unix)]
        if let Some(root) = self.root()
            && let Ok(found) = fs::metadata(root)
        {
            use std::os::unix::fs::MetadataExt as _;
            if found.mode() & 0o002 != 0 {
                self.warn(Trouble::Open, || {
                    format!("the kernel cache is not used: anybody may write to {}; chmod it to 700", root.display())
                });
                return false;
            }
        }
        true
    }

    fn warn(&self, trouble: Trouble, text: impl FnOnce() -> String) {
        let mut warnings = self.lock();
        if !warnings.iter().any(|(seen, _)| *seen == trouble) {
            warnings.push((trouble, text()));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Trouble, String)>> {
        self.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The content of an entry whose header tells the truth about it.
fn verified(bytes: &[u8]) -> Option<&[u8]> {
    let (header, content) = bytes.split_at_checked(HEADER)?;
    let (magic, rest) = header.split_at(8);
    let (length, hash) = rest.split_at(8);
    let whole =
        magic == MAGIC && length == (content.len() as u64).to_le_bytes() && hash == blake3::hash(content).as_bytes();
    whole.then_some(content)
}

/// Writes an entry beside its place, then renames it there. Not synced: after a crash of the machine the hash decides.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    private_dir(dir)?;
    let mut beside = Beside::new(dir, None)?;
    let file = beside.file();
    file.write_all(MAGIC)?;
    file.write_all(&(content.len() as u64).to_le_bytes())?;
    file.write_all(blake3::hash(content).as_bytes())?;
    file.write_all(content)?;
    file.flush()?;
    beside.keep(path)
}

/// Makes a directory and its missing parents, for this user alone.
fn private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// Every entry; files left by dead writers are removed on the way. What vanishes meanwhile is skipped.
fn entries(root: &Path) -> io::Result<Vec<Entry>> {
    let mut all = Vec::new();
    for shard in fs::read_dir(root)?.flatten() {
        let Ok(files) = fs::read_dir(shard.path()) else { continue };
        for file in files.flatten() {
            let (path, Ok(found)) = (file.path(), file.metadata()) else { continue };
            let used = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let name = file.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(SUFFIX) {
                all.push(Entry { path, bytes: found.len(), used });
            } else if name.starts_with(TEMPORARY) && used.elapsed().is_ok_and(|age| age > STALE) {
                let _ = fs::remove_file(path);
            }
        }
    }
    Ok(all)
}

/// Drops the least recently used entries until nine tenths of the cap are left; never `keep`, which was just written.
fn evict(root: &Path, cap: u64, keep: &Path) -> io::Result<()> {
    let mut all = entries(root)?;
    let mut total: u64 = all.iter().map(|entry| entry.bytes).sum();
    if total <= cap {
        return Ok(());
    }
    all.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
    for entry in all.iter().filter(|entry| entry.path != keep) {
        if total <= cap / 10 * 9 {
            break;
        }
        match fs::remove_file(&entry.path) {
            Ok(()) => total -= entry.bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => total -= entry.bytes,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
