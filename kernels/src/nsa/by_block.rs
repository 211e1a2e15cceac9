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
        BlockMajor.at(self.shape.clone()).given(multiplying(target, &Pick::new()))
    }
}

/// The knob of whether CTAs do tile after tile, which those of warpgroups can.
const PERSIST: &str = "persist";

/// What blocks are multiplied for. A CTA has one product of each kind, with nothing beside: on an H200 warps that multiply for
/// themselves, several CTAs a multiprocessor, take 0.74 of the time of warpgroups (64k tokens, 16 heads of width 128) that do one
/// tile. Those that do tile after tile have the next one's rows gathered beside.
fn multiplying(target: Target, pick: &Pick) -> Target {
    if target == Target::SM_90A && pick.get(PERSIST) != Some(&2) { Target::SM_90 } else { target }
}

impl Tunable for ByBlock {
    fn space(&self, target: Target) -> Space {
        let mut space = BlockMajorPick::space(multiplying(target, &Pick::new()));
        if target == Target::SM_90A {
            space.knobs.push((PERSIST.to_owned(), vec![1, 2]));
        }
        space
    }

    fn plan(&self, target: Target, pick: &Pick) -> Result<Plan, Error> {
        let at = BlockMajorPick::from_pick(pick)?;
        let parts = Plan { target, ..BlockMajor.at(self.shape.clone()).plan(multiplying(target, pick), pick)? };
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
