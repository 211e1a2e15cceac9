//! The passes, in the order they run.
//!
//! Each takes a [`Func`] and gives one back; the head of its file says what holds before and after. A pass is found by its
//! name in [`ORDER`], which is also what file tests call it.

mod early;
mod layout;
mod multiply;
mod partition;
mod pipeline;
mod produce;
mod sign;
mod skew;
mod sweep;
mod verify;
mod walk;
mod warpgroups;

pub use verify::verify;

pub(crate) use layout::registers;
pub(crate) use sign::never_negative;
pub(crate) use walk::{fresh, is_scalar, lane_axes, name_of, operands, operands_mut, visit};
pub(crate) use warpgroups::WARPGROUP;

use crate::Error;
use crate::ir::Func;

/// A pass.
pub type Pass = fn(Func) -> Result<Func, Error>;

/// The passes by name, in the order they run.
pub const ORDER: [(&str, Pass); 9] = [
    ("verify", verify::run),
    ("sweep", sweep::run),
    ("partition", partition::run),
    ("layout", layout::run),
    ("produce", produce::run),
    ("pipeline", pipeline::run),
    ("multiply", multiply::run),
    ("skew", skew::run),
    ("check", checked),
];

/// Rules that no pass may break, held to what they all have made.
fn checked(func: Func) -> Result<Func, Error> {
    crate::check(&func)?;
    Ok(func)
}

/// Runs one pass by name. An unknown name is an error that lists the known ones.
pub fn run(name: &str, func: Func) -> Result<Func, Error> {
    match ORDER.iter().find(|(n, _)| *n == name) {
        Some((_, pass)) => pass(func),
        None => {
            let known: Vec<&str> = ORDER.iter().map(|(n, _)| *n).collect();
            Err(Error::Unsupported(format!("no pass is called `{name}`; there are {}", known.join(", "))))
        }
    }
}
