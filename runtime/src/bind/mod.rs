//! Tensors and numbers given to a plan by name, and everything that must hold of them before anything is launched.

mod error;
mod map;
mod resolve;

use std::collections::BTreeMap;

use lacuna_codegen::plan::{Promotion, Scalar};
use lacuna_emulator::TensorMap;

pub use error::BindError;
use resolve::Known;
pub(crate) use resolve::{Limits, Places, Resolved, Step, check_signature, resolve};

use crate::{Stream, Tensor};

/// An argument of a launch, by value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum KernelArg {
    U32(u32),
    U64(u64),
    F32(f32),
    /// A tensor map that was checked.
    Map(Box<TensorMap>, Promotion),
}

/// What a run is given: tensors and numbers by the plan's names, and how to run.
///
/// A name that is bound twice has the later value. Tensors are shared, not copied.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    pub(crate) tensors: BTreeMap<String, Tensor>,
    pub(crate) scalars: BTreeMap<String, Scalar>,
    pub(crate) stream: Option<Stream>,
    pub(crate) checked: bool,
    pub(crate) expected: BTreeMap<String, Expected>,
}

/// What checked mode expects of an i32 input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Indices { low: i64, high: i64 },
    CuSeqlens { total: u64 },
}

impl Bindings {
    /// Nothing bound.
    pub fn new() -> Self {
        Self::default()
    }

    /// Binds a tensor.
    #[must_use]
    pub fn tensor(mut self, name: impl Into<String>, tensor: &Tensor) -> Self {
        self.tensors.insert(name.into(), tensor.clone());
        self
    }

    /// Binds a number.
    #[must_use]
    pub fn scalar(mut self, name: impl Into<String>, value: Scalar) -> Self {
        self.scalars.insert(name.into(), value);
        self
    }

    /// Binds an integer.
    #[must_use]
    pub fn int(self, name: impl Into<String>, value: i32) -> Self {
        self.scalar(name, Scalar::I32(value))
    }

    /// Binds a float.
    #[must_use]
    pub fn float(self, name: impl Into<String>, value: f32) -> Self {
        self.scalar(name, Scalar::F32(value))
    }

    /// Runs on this stream. Without one, a run uses the device's own, which is ordered with CUDA's legacy default stream.
    #[must_use]
    pub fn stream(mut self, stream: &Stream) -> Self {
        self.stream = Some(stream.clone());
        self
    }

    /// Checked mode. Before the run: float inputs must be finite, index inputs within what [`Bindings::indices`] and
    /// [`Bindings::cu_seqlens`] said, and outputs are filled with poison. After it: every element of every output must
    /// have been written. Slow: each tensor is copied to the host.
    #[must_use]
    pub fn checked(mut self) -> Self {
        self.checked = true;
        self
    }

    /// In checked mode, the i32 input `name` must hold only values of `low..high` ([`check::indices`](crate::check::indices)).
    #[must_use]
    pub fn indices(mut self, name: impl Into<String>, low: i64, high: i64) -> Self {
        self.expected.insert(name.into(), Expected::Indices { low, high });
        self
    }

    /// In checked mode, the i32 input `name` must be cumulative sequence lengths of `total` tokens
    /// ([`check::cu_seqlens`](crate::check::cu_seqlens)).
    #[must_use]
    pub fn cu_seqlens(mut self, name: impl Into<String>, total: u64) -> Self {
        self.expected.insert(name.into(), Expected::CuSeqlens { total });
        self
    }
}
