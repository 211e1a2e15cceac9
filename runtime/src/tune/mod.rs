//! The autotuner: the fastest pick of a schedule, found on the GPU in front of it, and remembered.
//!
//! ```text
//!   Subject ─▶ candidates ─▶ model ─▶ search ──────────▶ Records ──▶ Chooser ─▶ the plan of a launch
//!   (a kernel at   plans, in     a time      on a Lab:        JSON Lines      │
//!    a class)      parallel      for each    Here, Workers    a file a GPU    shipped winners, else the model
//!                                            or simulated     and kernel
//! ```
//!
//! A [`Subject`] is what can be tuned: it plans, and says in numbers what a launch does. A [`Lab`] is where candidates run.
//! Nothing in here knows a schedule, a pattern or a kernel.

mod candidates;
mod choose;
mod class;
mod explain;
mod found;
mod gate;
mod here;
mod lab;
mod model;
pub mod occupancy;
mod profile;
mod record;
mod records;
mod search;
mod shipped;
mod stats;
mod worker;

pub use candidates::{Candidate, Dropped, Schedule, Staged, Subject, models_choice};
pub use choose::{Choice, Chooser, Shaped, Why, choice};
pub use class::{Bucket, Class, Lengths, bucket};
pub use explain::{Entry, Explanation};
pub use found::{Ended, Found, Options, Progress, State, Trial};
pub use here::{Here, Operands};
pub use lab::{Failed, Lab, Made};
pub use model::{Prediction, Registers, predict};
pub use profile::Profile;
pub use record::{Invalid, Outcome, Record, Stale, Stamp, Time, pick_text, text_hash};
pub use records::Records;
pub use search::{rank, search};
pub use shipped::{Shipped, Winner, merged};
pub use stats::{CONFIDENCE, Interval, rank_correlation};
pub use worker::{Workers, serve};
