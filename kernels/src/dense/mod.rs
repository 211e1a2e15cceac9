//! Schedules that walk keys in order.

mod query_major;
mod query_major_scored;

pub use query_major::{QueryMajor, QueryMajorPick, query_major};
pub use query_major_scored::{QueryMajorScored, QueryMajorScoredPick, query_major_scored};
