//! Checks of the values in tensors, for the `checked` mode of a run and for whoever wants them.
//!
//! Each copies the tensor to the host and looks at every element, so they are slow and exact.

use std::fmt;

use lacuna_codegen::ir::Elem;

use crate::{Result, ShapeError, Tensor};

/// A value that is not what it must be, with the index of the first one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// NaN or infinity.
    #[error("{tensor}[{index}] is {value}: only finite numbers are allowed here")]
    NotFinite {
        /// The tensor's name, or `the tensor`.
        tensor: String,
        /// Which element, dimension by dimension.
        index: Index,
        /// Its value.
        value: f64,
    },
    /// An index out of its range.
    #[error("{tensor}[{index}] is {value}, which is not in {low}..{high}")]
    OutOfRange {
        /// The tensor's name, or `the tensor`.
        tensor: String,
        /// Which element, dimension by dimension.
        index: Index,
        /// Its value.
        value: i64,
        /// The least allowed value.
        low: i64,
        /// One past the greatest allowed value.
        high: i64,
    },
    /// Sequence boundaries that do not begin at 0.
    #[error("{tensor}[0] is {value}: cumulative sequence lengths begin with 0")]
    FirstBoundary {
        /// The tensor's name, or `the tensor`.
        tensor: String,
        /// Its first element.
        value: i32,
    },
    /// Sequence boundaries that go down.
    #[error("{tensor}[{index}] is {value}, less than {previous} before it: cumulative sequence lengths never go down")]
    DescendingBoundary {
        /// The tensor's name, or `the tensor`.
        tensor: String,
        /// Which element.
        index: u64,
        /// Its value.
        value: i32,
        /// The value before it.
        previous: i32,
    },
    /// Sequence boundaries that do not end at the number of tokens.
    #[error(
        "{tensor} ends with {value}, and there are {total} tokens: cumulative sequence lengths end with that number"
    )]
    LastBoundary {
        /// The tensor's name, or `the tensor`.
        tensor: String,
        /// Its last element.
        value: i32,
        /// The number of tokens.
        total: u64,
    },
    /// No sequence boundaries at all.
    #[error("{tensor} is empty: cumulative sequence lengths hold one element more than there are sequences")]
    NoBoundaries {
        /// The tensor's name, or `the tensor`.
        tensor: String,
    },
    /// An element of an output that the run left as it was.
    #[error("`{plan}` did not write {tensor}[{index}]")]
    NotWritten {
        /// The plan.
        plan: String,
        /// The output.
        tensor: String,
        /// Which element, dimension by dimension.
        index: Index,
    },
    /// An element that nothing ever wrote, read by the host from the emulator.
    #[error("element [{index}] was never written")]
    Unwritten {
        /// Which element, dimension by dimension.
        index: Index,
    },
}

/// A multi-dimensional index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index(pub Vec<u64>);

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (dim, index) in self.0.iter().enumerate() {
            write!(f, "{}{index}", if dim == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The index of the `linear`-th element in row-major order.
pub(crate) fn index_of(shape: &[u64], mut linear: u64) -> Index {
    let mut index = vec![0; shape.len()];
    for dim in (0..shape.len()).rev() {
        (index[dim], linear) = (linear % shape[dim], linear / shape[dim]);
    }
    Index(index)
}

/// That a float tensor holds no NaN and no infinity. Integers always pass.
///
/// # Errors
/// [`CheckError::NotFinite`] with the first one; the device's errors.
pub fn finite(tensor: &Tensor) -> Result<()> {
    finite_named(tensor, "the tensor")
}

/// That an i32 tensor holds only values of `low..high`. For selections, which are padded with -1, `low` is -1.
///
/// # Errors
/// [`CheckError::OutOfRange`] with the first one; [`ShapeError::Dtype`] where it holds floats; the device's errors.
pub fn indices(tensor: &Tensor, low: i64, high: i64) -> Result<()> {
    indices_named(tensor, low, high, "the tensor")
}

/// That an i32 tensor holds cumulative sequence lengths: it begins with 0, never goes down, and ends with `total`, the
/// number of tokens.
///
/// # Errors
/// The [`CheckError`] that names the first bad element; [`ShapeError::Dtype`] where it holds floats; the device's
/// errors.
pub fn cu_seqlens(tensor: &Tensor, total: u64) -> Result<()> {
    cu_seqlens_named(tensor, total, "the tensor")
}

pub(crate) fn finite_named(tensor: &Tensor, name: &str) -> Result<()> {
    if tensor.dtype() == Elem::I32 {
        return Ok(());
    }
    match tensor.to_f64_vec()?.into_iter().enumerate().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((at, value)) => {
            let index = index_of(tensor.shape(), at as u64);
            Err(CheckError::NotFinite { tensor: name.to_owned(), index, value }.into())
        }
    }
}

pub(crate) fn indices_named(tensor: &Tensor, low: i64, high: i64, name: &str) -> Result<()> {
    let values = integers(tensor)?;
    match values.into_iter().map(i64::from).enumerate().find(|(_, value)| !(low..high).contains(value)) {
        None => Ok(()),
        Some((at, value)) => {
            let index = index_of(tensor.shape(), at as u64);
            Err(CheckError::OutOfRange { tensor: name.to_owned(), index, value, low, high }.into())
        }
    }
}

pub(crate) fn cu_seqlens_named(tensor: &Tensor, total: u64, name: &str) -> Result<()> {
    let values = integers(tensor)?;
    let tensor = name.to_owned();
    let (Some(&first), Some(&last)) = (values.first(), values.last()) else {
        return Err(CheckError::NoBoundaries { tensor }.into());
    };
    if first != 0 {
        return Err(CheckError::FirstBoundary { tensor, value: first }.into());
    }
    if let Some(at) = values.windows(2).position(|pair| pair[1] < pair[0]) {
        let (index, value, previous) = (at as u64 + 1, values[at + 1], values[at]);
        return Err(CheckError::DescendingBoundary { tensor, index, value, previous }.into());
    }
    if u64::try_from(last) != Ok(total) {
        return Err(CheckError::LastBoundary { tensor, value: last, total }.into());
    }
    Ok(())
}

fn integers(tensor: &Tensor) -> Result<Vec<i32>> {
    if tensor.dtype() != Elem::I32 {
        return Err(ShapeError::Dtype { found: tensor.dtype().name(), asked: Elem::I32.name() }.into());
    }
    tensor.to_vec()
}
