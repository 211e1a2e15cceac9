//! The autotuner, without a GPU: on a simulated device with drawn times, noise, faults, hangs and wrong results; with worker
//! processes that die; with records that others write, damage or forbid.

mod beside;
mod explain;
mod launch;
mod search;
mod simulated;
mod survive;
mod workers;
