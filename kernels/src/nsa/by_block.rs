//! Selected attention by blocks, as one operation.

use std::collections::BTreeMap;

use lacuna_codegen::Temporary;
use lacuna_codegen::plan::Scalar;
use lacuna_dsl::prelude::*;
use lacuna_dsl::{Error, Expr, Pick, Plan, Space};

use super::{BlockMajor, BlockMajorPick, Merge, MergePick};
use crate::lists::{Chosen, InverseLists};

/// Who picked each block, then [`block_major`](super::block_major()), then [`merge`](super::merge()): from the same operands to
/// the same result as [`group_centric`](super::group_centric()), bit for bit the same in every run.
///
/// What lies between the launches is in the workspace: mostly the parts, `tokens * n * heads_q * (2 Dv + 4)` bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByBlock {
    /// The shape.
    pub shape: Shape,
}

impl ByBlock {
    /// Selected attention of this shape.
    pub fn new(shape: Shape) -> Self {
        ByBlock { shape }
    }

    /// The numbers that the schedules themselves give at launch.
    ///
    /// # Errors
    /// What staging refuses.
    pub fn given(&self, target: Target) -> Result<BTreeMap<String, Scalar>, Error> {
        BlockMajor.at(self.shape.clone()).given(target)
    }
}

impl Tunable for ByBlock {
    fn space(&self, target: Target) -> Space {
        BlockMajorPick::space(target)
    }

    fn plan(&self, target: Target, pick: &Pick) -> Result<Plan, Error> {
        let at = BlockMajorPick::from_pick(pick)?;
        let parts = BlockMajor.at(self.shape.clone()).plan(target, pick)?;
        let whole = Merge.at(self.shape.clone()).plan(target, &MergePick::default().to_pick())?;
        // The tokens that have room in a tile of rows with all heads of their group.
        let chosen = Chosen::picks(self.shape.block);
        let lists = InverseLists::new(self.shape.clone(), chosen, at.rows / self.shape.group);
        let many = lists.all();

        let [tokens, blocks, heads] = ["tokens", "blocks", "heads_q"].map(Expr::symbol);
        let width = Expr::Const(self.shape.dv.into());
        let mut between = lists.slot_tables(&many);
        between.extend(lists.scratch(&many));
        between.extend(lists.lists(&many));
        between.push(Temporary::new(
            "o_parts",
            self.shape.elem,
            [tokens.clone(), blocks.clone(), heads.clone(), width],
        ));
        between.push(Temporary::new("lse_parts", Elem::F32, [heads, tokens, blocks]));
        let mut plans = vec![lists.slots_plan(target)?];
        plans.extend(lists.plans(target)?);
        plans.extend([parts, whole]);
        let mut plan = Plan::chain("by_block", plans, &between)?;
        plan.requires.push(lists.requires(&many));
        Ok(plan)
    }
}
