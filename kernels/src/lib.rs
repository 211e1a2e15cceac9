//! The shipped attention schedules, and what they are held to.
//!
//! [`mod@reference`] computes in f64 what a schedule must give, [`tolerance`] says how far it may be off, [`inputs`] draws
//! problems for both, and [`validate`] refuses what is no problem. They share no code with the compiler. [`registry`] lists
//! the kernels by name.

pub mod classified;
pub mod dense;
pub mod host;
pub mod inputs;
pub mod lists;
pub mod moba;
pub mod nsa;
pub mod patterns;
pub mod reference;
pub mod registry;
pub mod scores;
pub mod sparse;
pub mod tolerance;
pub mod tuned;
pub mod validate;
