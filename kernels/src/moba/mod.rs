//! Mixture of Block Attention, arXiv 2502.13189, and VMoBA's way to choose blocks, arXiv 2506.23858.

mod attention;
mod join;
mod own;
mod parts;
mod pool;
mod route;
mod vmoba;

pub use attention::{MOST_CHOICES, Moba, WORKSPACE};
pub use join::{JoinChoices, JoinChoicesPick, join_choices};
pub use own::{OwnAndParts, OwnAndPartsPick, own_and_parts};
pub use parts::{ChosenBlocks, ChosenBlocksPick, chosen_blocks};
pub use pool::{Alike, MobaPool, MobaPoolPick, moba_pool};
pub use route::{MobaRoute, MobaRoutePick, moba_route};
pub use vmoba::{VmobaRoute, VmobaRoutePick, vmoba_route};

use lacuna_dsl::grid::QueryHead;
use lacuna_dsl::prelude::*;

use crate::lists::Reach;

/// How a row chooses the blocks besides its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Gate {
    /// The best of those before its own: [`moba_route`].
    #[default]
    Best,
    /// Of all others, the best until they have this share of the softmax: [`vmoba_route`].
    Share(f32),
}

/// Whose the routing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoutingIs {
    /// Made on the way, in the workspace.
    #[default]
    Internal,
    /// Made on the way, and the caller's afterwards.
    Returned,
    /// The caller's: nothing is pooled, and no gate asked.
    Given,
}

/// The tokens of the same block, up to the token itself.
#[pattern]
pub fn own_block(q: Pos, kv: Pos, block: u32) -> Keep {
    kv.ge(q / block * block) & kv.le(q)
}

/// How tokens choose blocks, and where they see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Keys of a block: a multiple of 16.
    pub block: u32,
    /// Choices of each query head, its own block's among them: the paper's top-k.
    pub top: u32,
    /// Whether keys behind the token are hidden.
    pub causal: bool,
    /// Whether the own block is seen where the parts are merged. It is a part like others otherwise.
    pub fused: bool,
    /// How many neighbouring blocks are one where parts are made: 1, 2 or 4. The own block is fused then.
    pub joined: u32,
    /// Whether parts are stored in f32: they are 16-bit otherwise, like the output.
    pub wide: bool,
}

impl Blocking {
    /// Choices that have no part.
    fn own(&self) -> u32 {
        u32::from(self.fused)
    }

    /// Keys of the blocks that parts are made of.
    pub fn keys(&self) -> u32 {
        self.block * self.joined
    }

    /// Parts of a row, at most.
    pub fn parts(&self) -> u32 {
        self.top - self.own()
    }

    /// Which choices have a part.
    pub fn reach(&self) -> Reach {
        if self.joined > 1 {
            // What does not count was left out where choices were joined.
            return Reach::All;
        }
        match (self.causal, self.fused) {
            (true, true) => Reach::Past,
            (true, false) => Reach::PastAndOwn,
            (false, true) => Reach::Others,
            (false, false) => Reach::All,
        }
    }

    /// What is hidden in blocks that have parts: of complete ones in the past, nothing.
    fn mask(&self) -> Option<Mask> {
        match self.reach() {
            Reach::Past => None,
            Reach::PastAndOwn => Some(crate::patterns::causal()),
            Reach::Others | Reach::All => (self.joined == 1).then(crate::patterns::full),
        }
    }

    /// For which rows of one query head there is a part.
    #[track_caller]
    fn has_part<R: Axis, D>(
        &self,
        routing: &Routed,
        rows: &QueryRows<R, D>,
        head: QueryHead,
        part: Scalar<I32>,
    ) -> Vector<Bool, R> {
        let place = if self.fused { part + 1 } else { part };
        let choice = routing.at((rows.tokens(), head.head, place));
        let keys = self.keys();
        let blocks = (rows.document.keys() + (keys as i32 - 1)) / keys as i32;
        self.reach().counts(choice, rows.positions(), blocks, keys) & rows.inside()
    }
}
