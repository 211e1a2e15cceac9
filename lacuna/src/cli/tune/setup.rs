//! A kernel at a shape, as a tuner tells it to its workers.

use std::collections::BTreeMap;

use lacuna::kernels::registry::{self, Extents, Options};
use lacuna::runtime::{Device, Elem};
use lacuna::tuning::{Case, Tuned};
use serde::{Deserialize, Serialize};

use super::super::failure::{Failure, Result};
use super::super::shaped;

/// What candidates are of, and what they run on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// The kernel.
    pub(crate) kernel: String,
    /// Its options.
    pub(crate) options: BTreeMap<String, u32>,
    pub(crate) score: Option<String>,
    pub(crate) sinks: bool,
    /// Lengths of the documents that are timed, and of those that are compared with f64.
    pub(crate) docs: Vec<u32>,
    pub(crate) small: Vec<u32>,
    pub(crate) heads: u64,
    pub(crate) kv_heads: u64,
    pub(crate) dim: u64,
    pub(crate) dv: u64,
    pub(crate) dtype: Elem,
    /// Of a hundred blocks that a token selects, how many its neighbour selects too.
    pub(crate) overlap: Option<u8>,
    pub(crate) target: String,
    /// The GPU's ordinal; none for the emulator.
    pub(crate) gpu: Option<usize>,
}

/// Documents that are compared: several tiles of queries, one token, a ragged end. The emulator is slower.
const SMALL: [u32; 4] = [1500, 1, 300, 75];
const SMALLER: [u32; 3] = [150, 1, 40];

impl Setup {
    /// Of a kernel under options, on documents of these extents.
    pub(crate) fn new(case: &Case, extents: &Extents, overlap: Option<u8>, device: &Device) -> Result<Self> {
        let Case { kernel, options, shape, target } = case;
        // A score or sinks that are the kernel's own need not be said.
        let own = kernel.options([])?;
        Ok(Setup {
            kernel: kernel.name.to_owned(),
            options: options.iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            score: options.score.filter(|_| own.score.is_none()).map(|score| score.name.to_owned()),
            sinks: options.sinks && !own.sinks,
            docs: extents.docs.clone(),
            small: if device.is_cuda() { SMALL.to_vec() } else { SMALLER.to_vec() },
            heads: extents.heads,
            kv_heads: extents.kv_heads,
            dim: extents.dk,
            dv: extents.dv,
            dtype: shape.elem,
            overlap,
            target: target.to_string(),
            gpu: device.info().ordinal,
        })
    }

    /// The kernel and its options.
    ///
    /// # Errors
    /// Names or values that there are not.
    pub(crate) fn case(&self) -> Result<Case> {
        let kernel = registry::find(&self.kernel)
            .ok_or_else(|| Failure::usage(format!("there is no kernel `{}`", self.kernel)))?;
        let given = self.options.iter().map(|(name, &value)| (name.as_str(), value));
        let options: Options = kernel.options_under(self.score.as_deref(), self.sinks, given)?;
        let group = self.heads / self.kv_heads.max(1);
        let shape = lacuna::dsl::Shape::new(self.dtype, self.dim as u32, self.dv as u32, group as u32);
        let target = self.target.parse().map_err(|error| Failure::usage(format!("{error}")))?;
        Ok(Case { kernel, options, shape, target })
    }

    /// The extents of the timed launch.
    pub(crate) fn extents(&self) -> Extents {
        let Setup { heads, kv_heads, dim, dv, .. } = *self;
        Extents { docs: self.docs.clone(), heads, kv_heads, dk: dim, dv }
    }

    /// What a tuner sees of it.
    ///
    /// # Errors
    /// A shape that no schedule has a pick for.
    pub(crate) fn subject(&self) -> Result<Tuned> {
        let known = shaped::known(&self.docs, self.heads, self.kv_heads);
        Ok(self.case()?.at(&known, &self.extents(), self.overlap)?)
    }

    /// The device.
    ///
    /// # Errors
    /// One that cannot be used.
    pub(crate) fn device(&self) -> Result<Device> {
        Ok(match self.gpu {
            Some(ordinal) => Device::cuda(ordinal)?,
            None => Device::emulator(),
        })
    }

    /// KV heads of what is compared: few, but all where heads are told apart.
    pub(crate) fn few_kv_heads(&self) -> u64 {
        let apart = self.options.get("full-heads").is_some_and(|&full| full > 0);
        if apart { self.kv_heads } else { self.kv_heads.min(2) }
    }
}
