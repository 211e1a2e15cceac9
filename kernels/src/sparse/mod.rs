//! Schedules that walk lists of blocks, one list for each tile of queries.

mod block_sparse;

pub use block_sparse::{BlockSparse, BlockSparsePick, block_sparse};
