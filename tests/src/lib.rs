//! What the tests that cross crates share: attention problems, and running them on a device.
//!
//! A [`Case`] says what is computed and how; [`Problem`] is its drawn operands with what they must give, in f64 and with a
//! tolerance; [`run`] gives it to a [`Device`](lacuna_runtime::Device).

mod case;
pub mod conformance;
mod problem;

pub use case::{Case, Layout, Mixture, Numbers, Picks, Routes, Seen, Work, widths};
pub use problem::{Outcome, Problem, run, run_by, target_for};

/// Every Rust block of the readme, as a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
