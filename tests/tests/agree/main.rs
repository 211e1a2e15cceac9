//! The same cases on the emulator, and on a GPU where there is one: each within the tolerance of the f64 reference.
//!
//! Outputs are poison before a run, so that one that is not written is found; what lies beside them must stay poison.
//! `cargo test -p lacuna-tests --test agree -- --nocapture` shows every case with its error over what is allowed.
#![allow(clippy::print_stdout, reason = "a table of cases is for people to read")]

mod apart;
mod by_block;
mod classes;
mod group_centric;
mod harness;
mod large;
mod moba;
mod picks;
mod query_major;
mod real;
mod scored;
mod tables;
mod warpgroups;
