//! Where candidates are compiled, checked and timed: a GPU in this process, workers of their own, or a simulated device.

use std::time::Duration;

use lacuna_codegen::plan::Plan;
use serde::{Deserialize, Serialize};

use super::record::Invalid;

/// What the compiler says of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Registers of a thread of the launch that attends, where it says.
    pub registers: Option<u32>,
}

/// A step of a candidate that did not end well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Failed {
    /// The candidate is no candidate; others can go on.
    Invalid(Invalid),
    /// The candidate is no candidate, and has taken the device with it: nothing more can be done here.
    Last(Invalid),
    /// The device cannot go on, and that is not the candidate's fault.
    Lost(String),
}

/// A device as a tuner sees it, with the clock that its budget is counted by.
///
/// `compile` is called from several threads at once, while one thread checks and times; a plan is compiled before it is
/// checked, and checked before it is timed.
pub trait Lab: Sync {
    /// Compiles a plan.
    ///
    /// # Errors
    /// What the compiler refuses; spilled registers.
    fn compile(&self, plan: &Plan) -> Result<Made, Failed>;

    /// Runs a plan on small drawn inputs, and holds the result to the reference.
    ///
    /// # Errors
    /// A wrong result, a fault, no end within the `limit`.
    fn check(&self, plan: &Plan, limit: Duration) -> Result<(), Failed>;

    /// Milliseconds of so many runs, after one that is not timed, L2 overwritten before each.
    ///
    /// # Errors
    /// A fault, no end within the `limit`.
    fn time(&self, plan: &Plan, runs: u32, limit: Duration) -> Result<Vec<f64>, Failed>;

    /// How long since the lab began.
    fn elapsed(&self) -> Duration;

    /// That nothing more is wanted: what still compiles need not end. Workers are ended.
    fn stop(&self) {}
}
