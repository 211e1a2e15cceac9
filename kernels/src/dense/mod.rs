//! Schedules that walk keys in order.

mod query_major;

pub use query_major::{QueryMajor, QueryMajorPick, query_major};
