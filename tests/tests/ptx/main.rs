//! The PTX of every shipped kernel: what it is, what ptxas makes of it, and what must hold of it.
//!
//! * [`snapshots`]: the whole text for one target and two widths at the default pick.
//! * [`matrix`]: a line for every other kernel, width and pick, and what ptxas makes of it for every target.
//! * [`warpgroups`]: what ptxas makes of asynchronous products.
//! * [`gate`]: no spills; well formed; the same bytes every time; one text for every target but for its head.
//!
//! `cargo xtask bless` takes what the compiler makes now as what is right.
#![allow(clippy::print_stdout, reason = "how long ptxas takes is for people to read")]

mod gate;
mod kernels;
mod matrix;
mod snapshots;
mod warpgroups;
