//! The operands of a kernel on a device: uploaded once, bound to any of its plans.

use std::collections::BTreeMap;

use lacuna::codegen::plan::{Access, Plan, Scalar};
use lacuna::kernels::host::{Float, Host};
use lacuna::kernels::inputs;
use lacuna::kernels::registry::{Attention, Extras, Options, Tables};
use lacuna::ptx::Target;
use lacuna::runtime::{Bindings, Device, Elem, Element, Tensor};

use super::failure::Result;
use super::input::{Input, Qkv};

/// Everything that a kernel may be given.
pub(crate) struct Placed {
    /// Inputs by the names that plans have for them.
    inputs: BTreeMap<String, Tensor>,
    scalars: BTreeMap<String, Scalar>,
    /// Where the outputs go.
    pub(crate) o: Tensor,
    /// Where the LSE goes.
    pub(crate) lse: Tensor,
    /// Blocks that there are, where the kernel is given picks.
    blocks: i64,
    /// Query tokens and key tokens.
    tokens: [u64; 2],
}

/// What is given to a kernel besides its input.
pub(crate) struct Given<'a> {
    pub(crate) options: &'a Options,
    pub(crate) target: Target,
    pub(crate) picks: Option<&'a Host<i32>>,
    pub(crate) extras: &'a Extras,
    pub(crate) tables: &'a Tables,
    pub(crate) scale: f32,
}

impl Placed {
    /// Uploads an input, and what else these attentions are given: schedules that compute the same kernel.
    ///
    /// # Errors
    /// What staging refuses; no room on the device.
    pub(crate) fn new(device: &Device, input: &Input, attentions: &[&Attention], given: &Given<'_>) -> Result<Self> {
        let Input { dims, cu_seqlens, max_seqlen, max_seqlen_k, .. } = input;
        let extents = |shape: &[usize]| shape.iter().map(|&extent| extent as u64).collect::<Vec<u64>>();
        let ints = |shape: &[usize], data: &[i32]| Tensor::from_slice(device, &extents(shape), data);
        let [q, k, v] = match &input.qkv {
            Qkv::Bf16(x) => qkv(device, x)?,
            Qkv::F16(x) => qkv(device, x)?,
        };
        let o = Tensor::uninit(device, input.elem(), &extents(&[dims.total, dims.hq, dims.dv]))?;
        let lse = Tensor::uninit(device, Elem::F32, &extents(&[dims.total, dims.hq]))?;
        let keys = input.sides().k;
        let mut inputs = vec![
            ("q".to_owned(), q),
            ("k".to_owned(), k),
            ("v".to_owned(), v),
            ("cu_seqlens".to_owned(), ints(&[cu_seqlens.len()], cu_seqlens)?),
            ("cu_seqlens_k".to_owned(), ints(&[keys.len()], keys)?),
        ];
        let mut blocks = 0;
        if let Some(picks) = given.picks {
            blocks = max_seqlen_k.div_ceil(given.options.get("block") as usize) as i64;
            inputs.push(("picks".to_owned(), ints(&picks.shape, &picks.data)?));
        }
        for (name, floats) in given.tables {
            inputs.push((name.clone(), Tensor::from_slice(device, &extents(&floats.shape), &floats.data)?));
        }
        for (name, table) in given.extras {
            inputs.push((name.clone(), ints(&table.shape, &table.data)?));
        }
        let mut scalars = BTreeMap::new();
        for attention in attentions {
            scalars.extend(attention.given(given.target)?);
        }
        scalars.insert("scale".to_owned(), Scalar::F32(given.scale));
        scalars.insert("max_seqlen".to_owned(), Scalar::I32(*max_seqlen as i32));
        scalars.insert("max_seqlen_k".to_owned(), Scalar::I32(*max_seqlen_k as i32));
        let tokens = [dims.total as u64, dims.keys as u64];
        Ok(Placed { inputs: inputs.into_iter().collect(), scalars, o, lse, blocks, tokens })
    }

    /// What a plan is given of them.
    pub(crate) fn bindings(&self, plan: &Plan) -> Bindings {
        let mut bindings = Bindings::new().tensor("o", &self.o).tensor("lse", &self.lse);
        for spec in plan.tensors.iter().filter(|spec| spec.access == Access::Read) {
            let Some(tensor) = self.inputs.get(&spec.name) else { continue };
            bindings = bindings.tensor(spec.name.as_str(), tensor);
            bindings = match spec.name.as_str() {
                name @ "cu_seqlens" => bindings.cu_seqlens(name, self.tokens[0]),
                name @ "cu_seqlens_k" => bindings.cu_seqlens(name, self.tokens[1]),
                name @ "picks" => bindings.indices(name, -1, self.blocks),
                _ => bindings,
            };
        }
        for scalar in &plan.scalars {
            if let Some(value) = self.scalars.get(&scalar.name) {
                bindings = bindings.scalar(scalar.name.as_str(), *value);
            }
        }
        bindings
    }
}

fn qkv<T: Element + Float>(device: &Device, x: &inputs::Qkv<T>) -> Result<[Tensor; 3]> {
    let tensor = |host: &Host<T>| Tensor::from_slice(device, &host.shape.map(|extent| extent as u64), &host.data);
    Ok([tensor(&x.q)?, tensor(&x.k)?, tensor(&x.v)?])
}
