//! `lacuna emit`: a kernel's PTX, and all that another program needs to launch it.

use std::path::PathBuf;

use clap::Args;
use lacuna::codegen::plan::{
    Access, Arg, Dim, Expr, Launch, MapBase, MapDim, MapStride, Pick, Plan, Promotion, Scalar, TensorMap,
};
use lacuna::dsl::Tunable as _;
use lacuna::kernels::registry::{Attention, Extents, Known};
use lacuna::runtime::Device;
use serde_json::{Value, json};

use super::args;
use super::failure::Result;
use super::output;
use super::picked::{Launching, Picked};
use super::shaped::{self, Shaped};

/// What `lacuna emit` takes.
#[derive(Debug, Args)]
pub(crate) struct Emit {
    #[command(flatten)]
    shaped: Shaped,
    /// List the picks, and what each needs, instead of the PTX
    #[arg(long, conflicts_with = "pick")]
    space: bool,
    /// For a launch on documents of these lengths, as a list with commas: what depends on them is decided, such as chunks
    #[arg(long, value_name = "N,..", value_delimiter = ',', help_heading = "Launch")]
    docs: Vec<u32>,
    /// Query heads of that launch, a multiple of --group [default: 16 or the group, whichever is more]
    #[arg(long, value_name = "N", help_heading = "Launch", requires = "docs")]
    heads: Option<u32>,
    /// Write to this file
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON: PTX, entry, threads, shared memory, grid, and arguments in order
    #[arg(long)]
    pub(crate) json: bool,
}

/// The most picks that are all shown.
const MOST_PICKS: usize = 512;

impl Emit {
    /// Emits it.
    ///
    /// # Errors
    /// A shape or pick that cannot be compiled; a file that cannot be written.
    pub(crate) fn emit(&self) -> Result {
        let known = match self.docs.is_empty() {
            true => Known::default(),
            false => {
                let heads = self.shaped.heads(self.heads)?;
                shaped::known(&self.docs, heads.into(), (heads / self.shaped.group.max(1)).into())
            }
        };
        let attention = self.shaped.attention(&known)?;
        let text = match (self.space, if self.space { None } else { self.tuned()? }) {
            (true, _) => self.space(&attention)?,
            (false, Some(tuned)) => tuned,
            (false, None) => self.kernel(&attention)?,
        };
        match &self.output {
            Some(path) => output::write(path, text.as_bytes()),
            None => output::print(&text),
        }
    }

    fn kernel(&self, attention: &Attention) -> Result<String> {
        let (pick, plan) = self.shaped.plan(attention)?;
        self.plan(attention, &pick, &plan, None)
    }

    /// The kernel as a launch on documents of known lengths has it: in the pick that was tuned for it on the GPU that is
    /// there, where one was and none is asked for.
    fn tuned(&self) -> Result<Option<String>> {
        let device = Device::best();
        if self.docs.is_empty() || !self.shaped.pick.is_empty() || !device.is_cuda() || !device.runs(self.shaped.target)
        {
            return Ok(None);
        }
        let heads = self.shaped.heads(self.heads)?;
        let (heads, kv_heads) = (u64::from(heads), u64::from(heads / self.shaped.group.max(1)));
        let shape = self.shaped.shape();
        let extents = Extents { docs: self.docs.clone(), heads, kv_heads, dk: shape.dk.into(), dv: shape.dv.into() };
        let options = self.shaped.chosen.options()?;
        let launch = Launching {
            kernel: self.shaped.chosen.kernel,
            options: &options,
            shape,
            target: self.shaped.target,
            known: &shaped::known(&self.docs, heads, kv_heads),
            extents: &extents,
        };
        let Picked { attention, pick, why } = launch.picked(&device, &Pick::new())?;
        let plan = attention.plan(self.shaped.target, &pick)?;
        output::note(&format!("{}: {why}", args::pick_text(&pick)));
        self.plan(&attention, &pick, &plan, Some(&why)).map(Some)
    }

    fn plan(&self, attention: &Attention, pick: &Pick, plan: &Plan, why: Option<&str>) -> Result<String> {
        if self.json {
            let given = attention.given(self.shaped.target)?;
            let given: serde_json::Map<String, Value> =
                given.iter().map(|(name, value)| (name.clone(), number(value))).collect();
            let mut all = described(plan);
            all["kernel"] = self.shaped.chosen.kernel.name.into();
            all["schedule"] = attention.schedule_name.into();
            all["pick"] = json!(pick);
            all["pick_why"] = json!(why);
            all["given"] = given.into();
            return Ok(format!("{all:#}\n"));
        }
        Ok(shaped::text(plan))
    }

    fn space(&self, attention: &Attention) -> Result<String> {
        let space = attention.space(self.shaped.target);
        let size = space.size();
        // Where several launches have knobs of their own, all picks are too many to compile.
        let picks = match size > MOST_PICKS {
            true => space.around(&attention.pick(self.shaped.target, &Pick::new())?),
            false => space.picks(),
        };
        let plans: Vec<(Pick, _)> =
            picks.into_iter().map(|pick| (pick.clone(), attention.plan(self.shaped.target, &pick))).collect();
        if self.json {
            let row = |(pick, plan): &(Pick, Result<Plan, lacuna::codegen::Error>)| match plan {
                Ok(plan) => {
                    json!({ "pick": pick, "threads": plan.attending().threads, "shared_bytes": plan.attending().shared })
                }
                Err(error) => json!({ "pick": pick, "error": error.to_string() }),
            };
            let rows: Vec<Value> = plans.iter().map(row).collect();
            let (kernel, target) = (self.shaped.chosen.kernel.name, self.shaped.target.to_string());
            return Ok(format!("{:#}\n", json!({ "kernel": kernel, "target": target, "of": size, "picks": rows })));
        }
        let width = plans.iter().map(|(pick, _)| args::pick_text(pick).len()).max().unwrap_or(0);
        let row = |(pick, plan): &(Pick, Result<Plan, lacuna::codegen::Error>)| match plan {
            Ok(plan) => {
                let Launch { threads, shared, .. } = *plan.attending();
                format!("{:<width$}  {threads:>4} threads  {shared:>6} bytes of shared memory\n", args::pick_text(pick))
            }
            Err(error) => format!("{:<width$}  {error}\n", args::pick_text(pick)),
        };
        let mut text: String = plans.iter().map(row).collect();
        if plans.len() < size {
            text.push_str(&format!("the default pick and those that differ from it in one knob, of {size} picks\n"));
        }
        Ok(text)
    }
}

/// A plan as JSON: everything that a launch needs.
fn described(plan: &Plan) -> Value {
    let tensors: Vec<Value> = plan
        .tensors
        .iter()
        .map(|tensor| {
            let dims: Vec<Value> = tensor
                .dims
                .iter()
                .map(|dim| match dim {
                    Dim::Symbol(name) => name.as_str().into(),
                    Dim::Fixed(extent) => (*extent).into(),
                })
                .collect();
            let access = if tensor.access == Access::Read { "read" } else { "write" };
            json!({ "name": tensor.name, "dtype": tensor.elem.name(), "dims": dims, "access": access, "align_bytes": tensor.align })
        })
        .collect();
    let scalars: Vec<Value> = plan.scalars.iter().map(|s| json!({ "name": s.name, "dtype": s.elem.name() })).collect();
    let launches: Vec<Value> = plan.launches.iter().map(launch).collect();
    json!({
        "target": plan.target.to_string(),
        "tensors": tensors,
        "scalars": scalars,
        "workspace_bytes": expr(&plan.workspace),
        "launches": launches,
    })
}

fn launch(launch: &Launch) -> Value {
    let args: Vec<Value> = launch
        .args
        .iter()
        .map(|arg| match arg {
            Arg::Pointer(tensor) => json!({ "type": "u64", "pointer": tensor }),
            Arg::Stride { tensor, dim } => json!({ "type": "u64", "stride": { "tensor": tensor, "dim": dim } }),
            Arg::Scalar(name) => json!({ "type": "b32", "scalar": name }),
            Arg::Computed(value) => json!({ "type": "i32", "value": expr(value) }),
            Arg::Wide(value) => json!({ "type": "u64", "value": expr(value) }),
            Arg::Workspace { offset } => json!({ "type": "u64", "workspace_offset": expr(offset) }),
            Arg::Counter => json!({ "type": "u64", "counter": true }),
            Arg::TensorMap(map) => json!({ "type": "tensor_map", "tensor_map": tensor_map(map) }),
        })
        .collect();
    json!({
        "entry": launch.entry,
        "grid": launch.grid.iter().map(expr).collect::<Vec<_>>(),
        "threads": launch.threads,
        "shared_bytes": launch.shared,
        "cluster": launch.cluster,
        "args": args,
        "ptx": &*launch.ptx,
    })
}

/// A tensor map, its dimensions innermost first; the innermost has no stride. A stride is a tensor's, or a number of elements,
/// or 2^34 elements less a tensor's.
fn tensor_map(map: &TensorMap) -> Value {
    let base = match &map.base {
        MapBase::Tensor(name) => json!({ "tensor": name }),
        MapBase::Workspace(offset) => json!({ "workspace_offset": expr(offset) }),
    };
    let stride = |dim: &MapDim| match &dim.stride {
        MapStride::Dim { tensor, dim } => json!({ "stride": { "tensor": tensor, "dim": dim } }),
        MapStride::WrapLess { tensor, dim } => json!({ "wrap_less": { "tensor": tensor, "dim": dim } }),
        MapStride::Elements(value) => json!({ "elements": expr(value) }),
    };
    let extents = std::iter::once(&map.inner.extent).chain(map.outer.iter().map(|dim| &dim.extent));
    let tile = std::iter::once(map.inner.tile).chain(map.outer.iter().map(|dim| dim.tile));
    let promotion = match map.promotion {
        Promotion::None => 0,
        Promotion::B64 => 64,
        Promotion::B128 => 128,
        Promotion::B256 => 256,
    };
    json!({
        "base": base,
        "dtype": map.elem.name(),
        "extents": extents.map(expr).collect::<Vec<_>>(),
        "strides": map.outer.iter().map(stride).collect::<Vec<_>>(),
        "tile": tile.collect::<Vec<_>>(),
        "swizzle_bytes": map.swizzle.span().unwrap_or(0),
        "promotion_bytes": promotion,
    })
}

/// An expression: a number, `{"symbol": ..}` for an extent of the tensors or for the device's `multiprocessors`, `{"scalar": ..}`
/// for a number of the launch, or an operation on two.
fn expr(value: &Expr) -> Value {
    let both = |name: &str, a: &Expr, b: &Expr| json!({ name: [expr(a), expr(b)] });
    match value {
        Expr::Const(number) => (*number).into(),
        Expr::Symbol(name) => json!({ "symbol": name }),
        Expr::Scalar(name) => json!({ "scalar": name }),
        Expr::Add(a, b) => both("add", a, b),
        Expr::Sub(a, b) => both("sub", a, b),
        Expr::Mul(a, b) => both("mul", a, b),
        Expr::CeilDiv(a, b) => both("ceil_div", a, b),
        Expr::Min(a, b) => both("min", a, b),
        Expr::Max(a, b) => both("max", a, b),
    }
}

fn number(value: &Scalar) -> Value {
    match value {
        Scalar::I32(value) => (*value).into(),
        Scalar::F32(value) => (*value).into(),
    }
}

#[cfg(test)]
mod tests {
    use lacuna::codegen::ir::Elem;
    use lacuna::codegen::plan::Swizzle;

    use super::*;

    #[test]
    fn a_tensor_map_says_all_that_another_program_needs() {
        let extents = [Expr::symbol("heads"), Expr::Const(128)];
        let map = TensorMap::ragged("k", Elem::Bf16, [0, 1], extents, [96, 64]).swizzled(Swizzle::B128);
        let k = |dim: u32| json!({ "tensor": "k", "dim": dim });
        let expected = json!({
            "base": { "tensor": "k" },
            "dtype": "bf16",
            "extents": [128, 1 << 30, 0x7fff_0000, 0x7fff_0000, { "symbol": "heads" }],
            "strides": [{ "stride": k(0) }, { "stride": k(0) }, { "wrap_less": k(0) }, { "stride": k(1) }],
            "tile": [64, 96, 1, 1, 1],
            "swizzle_bytes": 128,
            "promotion_bytes": 256,
        });
        assert_eq!(tensor_map(&map.promoted(Promotion::B256)), expected);
    }
}
