//! Mixture of Block Attention, arXiv 2502.13189.

mod pool;
mod route;

pub use pool::{Alike, MobaPool, MobaPoolPick, moba_pool};
pub use route::{MobaRoute, MobaRoutePick, moba_route};
