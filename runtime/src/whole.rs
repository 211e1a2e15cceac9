//! Files that appear under their names whole, or not at all.
//!
//! A file is written beside its place under a temporary name and renamed into it, so that a crash, a full disk or an
//! interruption leaves what was there before. What is no regular file (a pipe, `/dev/stdout`) cannot be renamed over, and is
//! written through. A symbolic link stays one: the file that it names is replaced.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use lacuna_ptx::tidy;
use tempfile::NamedTempFile;

/// The beginning of the name of a file that is being written.
pub(crate) const TEMPORARY: &str = ".writing-";

/// A file that is being written. Dropped before [`WholeFile::keep`], it leaves no trace.
#[derive(Debug)]
pub struct WholeFile(Kind);

#[derive(Debug)]
enum Kind {
    /// What is written, and where it goes.
    Beside(Beside, PathBuf),
    /// No regular file.
    Through(File),
}

impl WholeFile {
    /// Begins a file. Whether it could be put in its place is asked now.
    ///
    /// # Errors
    /// A directory that is not there or may not be written, a file that may not be, a place that is a directory.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let (place, permissions) = match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(found) if !found.is_file() => {
                return Ok(WholeFile(Kind::Through(File::options().write(true).open(path)?)));
            }
            Ok(found) => {
                // Renaming would pass over a file that is protected from writing; opening it does not.
                File::options().append(true).open(path)?;
                (fs::canonicalize(path)?, Some(found.permissions()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_owned(), None),
            Err(error) => return Err(error),
        };
        let dir = place.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut beside = Beside::new(dir, new_file())?;
        if let Some(permissions) = permissions {
            beside.file().set_permissions(permissions)?;
        }
        Ok(WholeFile(Kind::Beside(beside, place)))
    }

    /// Gives the file its name, once everything has reached the disk.
    ///
    /// # Errors
    /// A disk that turns out to be full; a place that it cannot take any more.
    pub fn keep(self) -> io::Result<()> {
        match self.0 {
            Kind::Through(mut file) => file.flush(),
            Kind::Beside(mut beside, place) => {
                // Some file systems tell of a full disk only here.
                beside.file().sync_all()?;
                beside.keep(&place)
            }
        }
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Beside(beside, _) => beside.file().write(bytes),
            Kind::Through(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The permissions that a new file has.
fn new_file() -> Option<Permissions> {
    #[cfg(unix)]
    return Some(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    #[cfg(not(unix))]
    None
}

/// A file under a temporary name, which [`tidy::abandon`] knows of.
#[derive(Debug)]
pub(crate) struct Beside(Option<NamedTempFile>, PathBuf);

impl Beside {
    /// In this directory; without permissions, for this user alone.
    pub(crate) fn new(dir: &Path, permissions: Option<Permissions>) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY);
        if let Some(permissions) = permissions {
            builder.permissions(permissions);
        }
        let made = tidy::make(|| builder.tempfile_in(dir))?;
        let path = made.path().to_owned();
        Ok(Beside(Some(made), path))
    }

    pub(crate) fn file(&mut self) -> &mut File {
        self.0.as_mut().expect("it is taken by `keep` and `drop` alone").as_file_mut()
    }

    pub(crate) fn keep(mut self, place: &Path) -> io::Result<()> {
        let Some(file) = self.0.take() else { return Ok(()) };
        tidy::settle(&self.1, || file.persist(place).map(|_| ()).map_err(|error| error.error))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(file) = self.0.take() {
            tidy::settle(&self.1, || drop(file));
        }
    }
}
