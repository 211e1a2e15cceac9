//! Selected attention by blocks, as one operation.

use std::collections::BTreeMap;

use lacuna_codegen::Temporary;
use lacuna_codegen::plan::Scalar;
use lacuna_dsl::prelude::*;
use lacuna_dsl::{Error, Expr, Pick, Plan, Space};

use super::{BlockMajor, BlockMajorPick, Merge, MergePick};

/// [`block_major`](super::block_major()) and [`merge`](super::merge()), one after the other. What lies between them is in the
/// workspace: the parts, `tokens * n * heads_q * (2 Dv + 4)` bytes.
#[derive(Clone, Debug)]
pub struct ByBlock {
    /// The shape.
    pub shape: Shape,
}

impl ByBlock {
    /// The numbers that the schedules themselves give at launch.
    ///
    /// # Errors
    /// What staging refuses.
    pub fn given(&self, target: Target) -> Result<BTreeMap<String, Scalar>, Error> {
        BlockMajor.at(self.shape.clone()).given(target)
    }
}

impl Tunable for ByBlock {
    fn space(&self) -> Space {
        BlockMajorPick::space()
    }

    fn plan(&self, target: Target, pick: &Pick) -> Result<Plan, Error> {
        let [tokens, blocks, heads] = ["tokens", "blocks", "heads_q"].map(Expr::symbol);
        let width = Expr::Const(self.shape.dv.into());
        let temporaries = [
            Temporary::new("o_parts", self.shape.elem, [tokens.clone(), blocks.clone(), heads.clone(), width]),
            Temporary::new("lse_parts", Elem::F32, [heads, tokens, blocks]),
        ];
        let parts = BlockMajor.at(self.shape.clone()).plan(target, pick)?;
        let whole = Merge.at(self.shape.clone()).plan(target, &MergePick::default().to_pick())?;
        Plan::chain("by_block", [parts, whole], &temporaries)
    }
}
