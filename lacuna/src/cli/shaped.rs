//! A kernel at a shape, for a GPU, in one pick: what every command that compiles without running takes.

use clap::Args;
use lacuna::codegen::plan::{Pick, Plan, Scalar};
use lacuna::dsl::{Shape, Tunable as _};
use lacuna::kernels::registry::{Attention, Known};
use lacuna::ptx::Target;
use lacuna::runtime::Elem;

use super::args::{self, Chosen, Knob};
use super::failure::{Failure, Result};

/// A kernel, and what it is compiled for.
#[derive(Debug, Args)]
pub(crate) struct Shaped {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Compile for this GPU
    #[arg(long, default_value = "sm_80")]
    pub(crate) target: Target,
    /// Knobs, as stages=3,rows=64; the others as they come first in `lacuna emit KERNEL --space`
    #[arg(long, value_name = "KNOB=N,..", value_delimiter = ',')]
    pub(crate) pick: Vec<Knob>,
    /// Width of queries and keys: 32, 64, 96, 128, 192 or 256
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) dim: u32,
    /// Width of values [default: as wide as keys]
    #[arg(long, value_name = "N")]
    pub(crate) dv: Option<u32>,
    /// Query heads of a KV head: 1 to 64
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) group: u32,
    /// bf16 or f16
    #[arg(long, value_parser = args::dtype, default_value = "bf16")]
    pub(crate) dtype: Elem,
}

/// The PTX of every launch, in their order.
pub(crate) fn text(plan: &Plan) -> String {
    plan.launches.iter().map(|launch| &*launch.ptx).collect::<Vec<_>>().join("\n")
}

/// Bytes of a plan's workspace, given tokens, keys, documents and one, query heads, KV heads, and blocks listed for a
/// token; and the most queries and keys of a document.
pub(crate) fn workspace(plan: &Plan, extents: [u64; 6], most: [usize; 2]) -> u64 {
    let names = ["tokens", "tokens_k", "segments_plus_one", "heads_q", "heads_kv", "blocks"].map(str::to_owned);
    let symbols = names.into_iter().zip(extents).collect();
    let longest = ["max_seqlen", "max_seqlen_k"].map(str::to_owned).into_iter().zip(most);
    let scalars = longest.map(|(name, most)| (name, Scalar::I32(most as i32))).collect();
    plan.workspace.eval(&symbols, &scalars).unwrap_or(0)
}

/// What is known of a launch on documents of these lengths, queries and keys alike.
pub(crate) fn known(docs: &[u32], heads: u64, kv_heads: u64) -> Known {
    let tokens = docs.iter().map(|&len| u64::from(len)).sum();
    let extents = [
        ("tokens", tokens),
        ("tokens_k", tokens),
        ("heads_q", heads),
        ("heads_kv", kv_heads),
        ("segments_plus_one", docs.len() as u64 + 1),
    ];
    let extents = extents.map(|(name, extent)| (name.to_owned(), extent)).into();
    let longest = docs.iter().max().map(|&len| len as usize);
    Known { max_seqlen: longest, extents: Some(extents), ..Known::default() }
}

impl Shaped {
    /// The shape. Blocks are the kernel's option, and are set where it is built.
    pub(crate) fn shape(&self) -> Shape {
        Shape::new(self.dtype, self.dim, self.dv.unwrap_or(self.dim), self.group)
    }

    /// The kernel at its shape, for launches of which so much is known.
    ///
    /// # Errors
    /// A shape that no kernel is made for; an option that this one does not have.
    pub(crate) fn attention(&self, known: &Known) -> Result<Attention> {
        Ok(self.chosen.kernel.build_for(self.shape(), &self.chosen.options()?, known)?)
    }

    /// Query heads of a launch: those that are given, else 16 or the group, whichever is more.
    ///
    /// # Errors
    /// No multiple of the group.
    pub(crate) fn heads(&self, given: Option<u32>) -> Result<u32> {
        let group = self.group.max(1);
        let heads = given.unwrap_or_else(|| 16_u32.next_multiple_of(group));
        if heads == 0 || !heads.is_multiple_of(group) {
            return Err(Failure::usage(format!("--heads is {heads}; a multiple of --group, {group}, is right")));
        }
        Ok(heads)
    }

    /// The pick that is meant, and its plan.
    ///
    /// # Errors
    /// A pick that there is not, or that does not compile.
    pub(crate) fn plan(&self, attention: &Attention) -> Result<(Pick, Plan)> {
        let pick = attention.pick(self.target, &args::pick(&self.pick)?)?;
        let plan = attention.plan(self.target, &pick)?;
        Ok((pick, plan))
    }
}
