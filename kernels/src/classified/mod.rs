//! Attention under a mask whose blocks are found by a classifier: launches before the attention's.

mod classify;
mod query_major_classified;
mod table_bounds;

use std::collections::BTreeMap;

use lacuna_codegen::plan::{Scalar as Given, ScalarSpec};
use lacuna_dsl::prelude::*;
use lacuna_dsl::{Error, Pick, Plan, Space, classes};

pub use classify::{Classify, ClassifyPick, classify};
pub use query_major_classified::{QueryMajorClassified, QueryMajorClassifiedPick, query_major_classified};
pub use table_bounds::{TableBounds, TableBoundsPick, table_bounds};

/// A masked attention whose blocks are found by a classifier, at one shape: the bounds of tables, the classes of blocks and
/// the attention as one plan. Its knobs are those of [`query_major_classified`].
#[derive(Clone, Debug)]
pub struct Classified {
    mask: Mask,
    shape: Shape,
}

impl Classified {
    /// The attention of a mask at a shape.
    pub fn new(mask: Mask, shape: Shape) -> Self {
        Classified { mask, shape }
    }

    /// The numbers that the schedules themselves give at launch: the mask's arguments, by the names that the plan has for them.
    ///
    /// # Errors
    /// What staging refuses.
    pub fn given(&self, target: Target) -> Result<BTreeMap<String, Given>, Error> {
        QueryMajorClassified::new(self.mask.clone()).at(self.shape.clone()).given(target)
    }
}

impl Tunable for Classified {
    fn space(&self, target: Target) -> Space {
        QueryMajorClassifiedPick::space(target)
    }

    fn plan(&self, target: Target, pick: &Pick) -> Result<Plan, Error> {
        let pick = QueryMajorClassifiedPick::from_pick(pick)?.to_pick();
        let some = |knobs: &[&str]| knobs.iter().map(|&knob| (knob.to_owned(), pick[knob])).collect::<Pick>();
        let (mask, shape) = (|| self.mask.clone(), || self.shape.clone());
        let mut plans = Vec::new();
        if !self.mask.bounded().is_empty() {
            plans.push(TableBounds::new(mask()).at(shape()).plan(target, &some(&["kv"]))?);
        }
        plans.push(Classify::new(mask()).at(shape()).plan(target, &some(&["rows", "kv"]))?);
        plans.push(QueryMajorClassified::new(mask()).at(shape()).plan(target, &pick)?);
        // How many keys the longest document has sizes the workspace, even where no launch asks for it.
        let longest = ScalarSpec { name: self.shape.longest_keys().to_owned(), elem: Elem::I32 };
        if plans.iter().all(|plan| !plan.scalars.contains(&longest)) {
            plans[0].scalars.push(longest);
        }
        let between = classes::temporaries(&self.mask, &self.shape, pick["rows"], pick["kv"]);
        Plan::chain("query_major_classified", plans, &between)
    }
}
