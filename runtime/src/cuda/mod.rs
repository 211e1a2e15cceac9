//! CUDA devices, through the driver API.
//!
//! The driver is found at run time ([`driver`]): a program that uses this crate builds and starts without it. Every call
//! goes through cudarc's bindings; everything that owns a driver object frees it when dropped.
//!
//! The context is the device's primary one, which other libraries of the process share, so that their pointers and
//! streams can be used. Nothing here leaves a context current on the caller's thread that was not current before.

#![allow(unsafe_code)]

mod driver;
mod gpu;
mod jit;
mod kernel;
mod map;
mod stream;

pub(crate) use driver::{Properties, count, properties};
pub(crate) use gpu::Gpu;
pub(crate) use kernel::{Module, launch};
pub(crate) use stream::{Events, Stream};
