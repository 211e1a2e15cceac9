//! Devices, tensors, and running plans on them.
//!
//! ```text
//!   Plan (lacuna-codegen) ─┐
//!   Bindings: tensors, ────┴─▶ bind::resolve ──▶ every extent, grid and argument, or a BindError; no device call yet
//!   numbers, stream                 │
//!                                   ▼
//!                     ┌── Device ───┴────────────────┐
//!                     ▼                              ▼
//!   cuda: driver, JIT, Store of cubins      emulated: lacuna-emulator
//!                     │                              │
//!                     └───────────▶ Report ◀─────────┘    time, launches, what the emulator counted
//! ```
//! [`Device::best`] is a GPU where there is one, else the emulator; the same plan and bindings run on both. No CUDA
//! toolkit is needed: the driver's library is loaded when a CUDA device is first asked for, and its compiler takes the
//! PTX. `unsafe` stays within `cuda` and the two constructors that borrow another library's memory and stream.
//!
//! Nothing here transforms a plan: passes live in `lacuna-codegen`.

mod bind;
mod buffer;
pub mod check;
mod cuda;
mod device;
mod emulated;
mod error;
mod file;
mod header;
mod layout;
mod modules;
mod run;
mod store;
mod stream;
mod tensor;
pub mod tune;
mod whole;

pub use bind::{BindError, Bindings};
pub use check::CheckError;
pub use device::{Device, DeviceInfo};
pub use error::{Error, FileError, NoCuda, Result, ShapeError};
pub use file::{Tensors, load, save};
pub use lacuna_codegen::{
    ir::Elem,
    plan::{Plan, Scalar},
};
pub use run::{BenchOptions, Compiled, Report, Resources, Timing};
pub use store::{Key, Store};
pub use stream::Stream;
pub use tensor::{Element, Tensor};
pub use whole::WholeFile;
