//! Tuning: the fastest pick of a kernel, or of a schedule of one's own, found on the GPU in front of it.
//!
//! [`tune()`](fn@tune) tunes an author's schedule in one call; [`Tuned`] is a kernel of the registry at one shape class, which
//! the command tunes in worker processes; [`chooser`] finds at each launch what was tuned. The search itself, its records and
//! its model are [`lacuna_runtime::tune`].

mod kernel;
mod own;

pub use kernel::{Case, Tuned, chooser, profile, shipped};
pub use own::{Outcome, tune, tune_with};
