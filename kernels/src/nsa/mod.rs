//! Native Sparse Attention, arXiv 2502.11089.

mod group_centric;

pub use group_centric::{GroupCentric, GroupCentricPick, group_centric};
