//! Native Sparse Attention, arXiv 2502.11089.

mod block_major;
mod by_block;
mod group_centric;
mod merge;

pub use block_major::{BlockMajor, BlockMajorPick, block_major};
pub use by_block::ByBlock;
pub use group_centric::{GroupCentric, GroupCentricPick, group_centric};
pub use merge::{Merge, MergePick, merge};
