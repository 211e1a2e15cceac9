//! What can go wrong between a plan and its result. Every message names the value at fault and what would be right.

use std::path::PathBuf;

use lacuna_ptx::{Target, Version};

use crate::{bind::BindError, check::CheckError};

/// A `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that a device, a tensor or a run can refuse.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such CUDA device to use.
    #[error(transparent)]
    NoCuda(#[from] NoCuda),

    /// A driver call failed.
    #[error("{device}: {call} failed: {reason}")]
    Driver {
        /// The device.
        device: String,
        /// The driver's function.
        call: &'static str,
        /// The driver's name for the error, its number and its text.
        reason: String,
    },

    /// A kernel faulted, and with it every allocation, stream and module of this process on the device.
    #[error(
        "{device}: the CUDA context is lost: {call} reported {reason}; every tensor on this device is gone, and this \
         process cannot use the device again: start a new one, and run the plan on the emulator to find the access"
    )]
    ContextLost {
        /// The device.
        device: String,
        /// The driver's function that reported it first; the fault itself is in an earlier launch.
        call: &'static str,
        /// The driver's name for the error, its number and its text.
        reason: String,
    },

    /// The device has no room.
    #[error("{device}: no room for {bytes} bytes: {free} of {total} bytes are free")]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes asked for.
        bytes: u64,
        /// Bytes free when it failed.
        free: u64,
        /// Bytes of the device.
        total: u64,
    },

    /// The PTX is newer than the driver.
    #[error(
        "{device}: the PTX of `{plan}` is version {needs}, and this driver (CUDA {driver}) reads up to {reads}: install \
         a driver for CUDA {wants} or later"
    )]
    PtxVersion {
        /// The device.
        device: String,
        /// The plan.
        plan: String,
        /// The `.version` of the text.
        needs: Version,
        /// The CUDA version that the driver is for.
        driver: String,
        /// The highest `.version` that the driver reads.
        reads: Version,
        /// The first CUDA version that reads `needs`.
        wants: String,
    },

    /// The plan is compiled for a GPU that this device is not.
    #[error("{device} cannot run `{plan}`, which is compiled for {target}: {right}")]
    Target {
        /// The device.
        device: String,
        /// The plan.
        plan: String,
        /// What it is compiled for.
        target: Target,
        /// What would be right.
        right: String,
    },

    /// The driver's compiler refused the PTX.
    #[error("{device}: the driver's PTX compiler refused `{entry}` of `{plan}` ({reason}):\n{log}")]
    Jit {
        /// The device.
        device: String,
        /// The plan.
        plan: String,
        /// The entry that was to be launched.
        entry: String,
        /// The driver's name for the error, its number and its text.
        reason: String,
        /// The compiler's log, with line numbers of the PTX text.
        log: String,
    },

    /// The plan's own parts do not fit each other.
    #[error("`{plan}` is not a valid plan: {what}")]
    Plan {
        /// The plan.
        plan: String,
        /// Which parts, and how they differ.
        what: String,
    },

    /// The PTX text could not be read.
    #[error("the PTX of `{plan}` cannot be read: {what}")]
    Ptx {
        /// The plan.
        plan: String,
        /// The reader's report, with its line.
        what: String,
    },

    /// The emulator stopped a launch.
    #[error("`{plan}`, launch `{entry}`: {fault}")]
    Fault {
        /// The plan.
        plan: String,
        /// The entry that ran.
        entry: String,
        /// What it found.
        fault: Box<lacuna_emulator::Fault>,
    },

    /// The emulator refused an access of the host.
    #[error("emulator memory: {0}")]
    Memory(String),

    /// The bindings do not fit the plan.
    #[error("`{plan}`: {source}")]
    Bind {
        /// The plan.
        plan: String,
        /// Which binding, and why.
        source: Box<BindError>,
    },

    /// A value in a tensor is not what it must be.
    #[error(transparent)]
    Check(#[from] CheckError),

    /// A shape, a stride, a range or a length does not fit a tensor.
    #[error(transparent)]
    Shape(#[from] ShapeError),

    /// A tensor file could not be read or written.
    #[error(transparent)]
    File(#[from] Box<FileError>),
}

/// Why a CUDA device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoCuda {
    /// The driver's library is not there.
    #[error("no NVIDIA driver found ({library} is not on the library path)")]
    NoDriver {
        /// The library's name.
        library: &'static str,
    },
    /// The driver's library is older than the functions that this crate calls.
    #[error("the NVIDIA driver is too old: it has no {symbol}; install a driver for CUDA 12.0 or later")]
    OldDriver {
        /// The missing function.
        symbol: &'static str,
    },
    /// The driver did not start.
    #[error("the NVIDIA driver did not start: {reason}")]
    Init {
        /// The driver's name for the error, its number and its text.
        reason: String,
    },
    /// No such GPU.
    #[error("there is no CUDA device {ordinal}: the driver shows {count}")]
    NoDevice {
        /// Which was asked for, from 0.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// A GPU that no target runs on.
    #[error("CUDA device {ordinal} ({name}) has compute capability {}.{}; 8.0 or later is needed", .capability / 10, .capability % 10)]
    OldDevice {
        /// Which, from 0.
        ordinal: usize,
        /// Its name.
        name: String,
        /// Ten times major plus minor.
        capability: u16,
    },
    /// The device is there and cannot be opened: its context could not be made.
    #[error("CUDA device {ordinal} ({name}) cannot be opened: {reason}")]
    Open {
        /// Which, from 0.
        ordinal: usize,
        /// Its name.
        name: String,
        /// The driver's name for the error, its number and its text.
        reason: String,
    },
}

/// A shape, a stride, a range or a length that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// Data of another length.
    #[error("{found} {unit} given for shape {shape:?}, which takes {expected}")]
    Length {
        /// `elements` or `bytes`.
        unit: &'static str,
        /// The shape.
        shape: Vec<u64>,
        /// How many were given.
        found: u64,
        /// How many it takes.
        expected: u64,
    },
    /// More bytes than 64 bits count, or than the host can hold.
    #[error("shape {shape:?} is too large: its size in bytes does not fit")]
    TooLarge {
        /// The shape.
        shape: Vec<u64>,
    },
    /// A view that leaves its buffer.
    #[error(
        "a view of shape {shape:?} and strides {strides:?} from element {start} reaches element {last}; the tensor ends \
         at element {end}"
    )]
    Outside {
        /// The view's shape.
        shape: Vec<u64>,
        /// The view's strides in elements.
        strides: Vec<u64>,
        /// Its first element.
        start: u64,
        /// The last element that it reaches.
        last: u64,
        /// One past the last element of the tensor.
        end: u64,
    },
    /// Shape and strides of different lengths.
    #[error("shape {shape:?} and strides {strides:?} differ in length")]
    Strides {
        /// The shape.
        shape: Vec<u64>,
        /// The strides.
        strides: Vec<u64>,
    },
    /// A dimension that the tensor does not have.
    #[error("there is no dimension {dim} in shape {shape:?}")]
    Dimension {
        /// Which.
        dim: usize,
        /// The shape.
        shape: Vec<u64>,
    },
    /// A range that leaves its dimension.
    #[error("{start}..{end} is not within dimension {dim} of shape {shape:?}")]
    Range {
        /// First index.
        start: u64,
        /// One past the last index.
        end: u64,
        /// Which dimension.
        dim: usize,
        /// The shape.
        shape: Vec<u64>,
    },
    /// A reshape that keeps neither order nor number of elements.
    #[error("shape {from:?} cannot become {to:?}: {why}")]
    Reshape {
        /// The tensor's shape.
        from: Vec<u64>,
        /// The shape asked for.
        to: Vec<u64>,
        /// `the numbers of elements differ`, or `it is not contiguous`.
        why: &'static str,
    },
    /// Another element type than the tensor holds.
    #[error("the tensor holds {found}, not {asked}")]
    Dtype {
        /// What it holds.
        found: &'static str,
        /// What was asked for.
        asked: &'static str,
    },
    /// A type that has no form in memory.
    #[error("`{dtype}` lives in registers only; a tensor holds bf16, f16, f32 or i32")]
    Unstorable {
        /// Its name.
        dtype: &'static str,
    },
    /// A foreign pointer that is not on a CUDA device.
    #[error("a foreign CUDA pointer needs a CUDA device, and this is the {device}")]
    Foreign {
        /// The device.
        device: String,
    },
    /// A stream of another device.
    #[error("the stream is on {found}, and the device is {expected}")]
    Stream {
        /// The stream's device.
        found: String,
        /// The device of the call.
        expected: String,
    },
}

/// A tensor file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("{}: cannot {what}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `open`, `read`, `write`, ..
        what: &'static str,
        /// Its reason.
        source: std::io::Error,
    },
    /// Fewer bytes than the header says.
    #[error("{}: cut short: it has {found} bytes, and {expected} are needed", .path.display())]
    CutShort {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length that its header implies.
        expected: u64,
    },
    /// More bytes than the header says.
    #[error("{}: {extra} bytes follow the last tensor; not a safetensors file, or a damaged one", .path.display())]
    Trailing {
        /// The file.
        path: PathBuf,
        /// How many.
        extra: u64,
    },
    /// A header that is not one.
    #[error("{}: bad safetensors header: {what}", .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// How.
        what: String,
    },
    /// An element type that this crate has none for.
    #[error("{}: tensor `{name}` holds {found}; supported: BF16, F16, F32, I32", .path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type in the file.
        found: String,
    },
    /// A name that the file does not have.
    #[error("{}: no tensor `{name}`; it has: {known}", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// The names it has.
        known: String,
    },
    /// A shape other than the expected one.
    #[error("{}: tensor `{name}` has shape {found:?}; expected {expected}", .path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<u64>,
        /// What was expected; `_` stands for any extent.
        expected: String,
    },
    /// A tensor's name is reserved, or the same name was given twice.
    #[error("{}: cannot save a tensor as `{name}`: {why}", .path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// Why not.
        why: &'static str,
    },
}

impl From<FileError> for Error {
    fn from(error: FileError) -> Self {
        Error::File(Box::new(error))
    }
}
