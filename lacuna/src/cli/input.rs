//! What a kernel is run on: a file's tensors, drawn ones, or those of a real model. All of it has been checked.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use lacuna::dsl::Shape;
use lacuna::kernels::host::{Dims, Float, Host, Precision, Sides};
use lacuna::kernels::inputs::{self, Locality};
use lacuna::kernels::reference::moba;
use lacuna::kernels::reference::nsa::{self, NsaConfig};
use lacuna::kernels::registry::{Extents, Extras, Floats, Ints, Kernel, Need, Options, Tables};
use lacuna::kernels::validate::{self, Described, Invalid};
use lacuna::runtime::{Device, Elem, load};
use safetensors::{Dtype, SafeTensors};

use super::failure::{Failure, Result};
use super::output::count;

/// The most elements of a drawn tensor: 8 GiB of them.
const MOST_DRAWN: usize = 1 << 32;

/// The most multiplications that go into a selection by the reference.
const MOST_SCORING: u128 = 20_000_000_000;

/// Queries, keys and values.
pub(crate) enum Qkv {
    /// Of bf16.
    Bf16(inputs::Qkv<bf16>),
    /// Of f16.
    F16(inputs::Qkv<f16>),
}

/// Where picks come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The file.
    Given,
    /// The reference's scoring.
    Scored,
    /// A draw: scoring so many tokens takes too long.
    Drawn,
}

/// A problem.
pub(crate) struct Input {
    /// What it is, for people: `minilm layer 3`.
    pub(crate) name: String,
    /// Its extents.
    pub(crate) dims: Dims,
    /// What q, k and v hold.
    pub(crate) precision: Precision,
    /// Queries, keys and values.
    pub(crate) qkv: Qkv,
    /// Where the sequences begin, and where the last one ends.
    pub(crate) cu_seqlens: Vec<i32>,
    /// Where their keys begin and the last ones end, where they are apart from the queries.
    pub(crate) keys: Option<Vec<i32>>,
    /// Whether the caller said where sequences begin; if not, there is one.
    pub(crate) packed: bool,
    /// The longest sequence, in queries.
    pub(crate) max_seqlen: usize,
    /// The longest sequence, in keys.
    pub(crate) max_seqlen_k: usize,
    /// Picks that the caller gave.
    pub(crate) picks: Option<Host<i32>>,
    /// Other tensors of i32 that the caller gave: tables.
    pub(crate) extras: Extras,
    /// Tensors of f32 that the caller gave: tables of a score, and sinks.
    pub(crate) tables: Tables,
    /// The seed of what is drawn besides.
    pub(crate) seed: u64,
    /// Whether it was drawn.
    pub(crate) drawn: bool,
}

/// Extents and seed of a drawn problem.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    /// Tokens, if given.
    pub(crate) tokens: Option<usize>,
    /// Lengths of the documents, if given.
    pub(crate) docs: Vec<usize>,
    /// Keys of each document, if given; else as many as tokens.
    pub(crate) keys: Vec<usize>,
    /// Query heads.
    pub(crate) heads: usize,
    /// KV heads.
    pub(crate) kv_heads: usize,
    /// Width of queries and keys.
    pub(crate) dim: usize,
    /// Width of values.
    pub(crate) dv: usize,
    /// The seed.
    pub(crate) seed: u64,
    /// What q, k and v hold.
    pub(crate) elem: Elem,
    /// Whether numbers may repeat: enough for timing, and at once.
    pub(crate) repeats: bool,
}

/// A tensor as a file has it.
struct Raw {
    dtype: Elem,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Input {
    /// Q, K and V of a real model over a real text.
    ///
    /// # Errors
    /// None, while the file that is built in is whole.
    pub(crate) fn minilm() -> Result<Self> {
        let damaged = || Failure::usage("the built-in input is damaged");
        let file = SafeTensors::deserialize(inputs::MINILM).map_err(|_| damaged())?;
        let tensors = file.iter().map(|(name, view)| {
            let dtype = if view.dtype() == Dtype::I32 { Elem::I32 } else { Elem::Bf16 };
            let raw = Raw { dtype, shape: view.shape().to_vec(), bytes: view.data().to_vec() };
            (name.to_owned(), raw)
        });
        Self::of("minilm layer 3".to_owned(), tensors.collect(), damaged)
    }

    /// The tensors `q`, `k`, `v`, and where they are there `cu_seqlens` and `picks`, of a safetensors file.
    ///
    /// # Errors
    /// A file that cannot be read; tensors that are no problem.
    pub(crate) fn file(path: &Path) -> Result<Self> {
        // An emulator of its own is a place in host memory.
        let host = Device::emulator_with(Default::default());
        let file = load(&host, path)?;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in file.iter() {
            let shape = tensor.shape().iter().map(|&extent| extent as usize).collect();
            tensors.insert(name.to_owned(), Raw { dtype: tensor.dtype(), shape, bytes: tensor.to_bytes()? });
        }
        let known = tensors.keys().cloned().collect::<Vec<_>>().join(", ");
        let missing = || {
            let message = format!("{}: q, k and v are needed; it has: {known}", path.display());
            Failure::usage(message).hint("q [tokens, Hq, Dk], k [tokens, Hk, Dk], v [tokens, Hk, Dv]; k and v may have other tokens, behind which queries and keys end together; cu_seqlens and cu_seqlens_k [batch + 1], picks [tokens, Hk, n], a routing [tokens, Hq, top-k], full_heads [Hq] and the tables of a pattern [tokens], i32, may be there, and those of a score and sinks [Hq], f32")
        };
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        Self::of(name, tensors, missing)
    }

    fn of(name: String, mut tensors: BTreeMap<String, Raw>, missing: impl Fn() -> Failure) -> Result<Self> {
        let mut take = |name: &str| tensors.remove(name).ok_or_else(&missing);
        let (q, k, v) = (take("q")?, take("k")?, take("v")?);
        let (given, given_k) = (tensors.remove("cu_seqlens"), tensors.remove("cu_seqlens_k"));
        let packed = given.is_some();
        // Of one sequence it is clear whose all keys are.
        let others = k.shape.first() != q.shape.first() && k.shape.first() == v.shape.first();
        let apart = given_k.is_some() || others;
        let ([described_q, described_k], (dims, precision)) = {
            let [q, k, v] = [q.describe("q"), k.describe("k"), v.describe("v")];
            ([q, k], if apart { validate::qkv_apart(&q, &k, &v)? } else { validate::qkv(&q, &k, &v)? })
        };
        let cu_seqlens = match given {
            None => vec![0, dims.total as i32],
            Some(raw) => {
                validate::cu_seqlens_tensor(&raw.describe("cu_seqlens"))?;
                raw.ints()
            }
        };
        let max_seqlen = validate::cu_seqlens(&cu_seqlens, dims.total)?;
        let keys = match given_k {
            None if !apart => None,
            None if cu_seqlens.len() == 2 => Some(vec![0, dims.keys as i32]),
            None => {
                let (queries, keys, sequences) = (dims.total, dims.keys, cu_seqlens.len() - 1);
                return Err(Invalid::WhoseKeys { queries, keys, sequences }.into());
            }
            Some(raw) => {
                validate::cu_seqlens_tensor(&raw.describe("cu_seqlens_k"))?;
                Some(raw.ints())
            }
        };
        let max_seqlen_k = match &keys {
            None => max_seqlen,
            Some(keys) => validate::cu_seqlens_k(keys, dims.keys, &cu_seqlens)?,
        };
        let picks = match tensors.remove("picks") {
            None => None,
            Some(raw) => {
                let n = validate::picks(&raw.describe("picks"), &described_q, &described_k, dims)?;
                Some(Host::new(raw.ints(), [dims.total, dims.hk, n]))
            }
        };
        let qkv = match precision {
            Precision::F16 => Qkv::F16(inputs::Qkv {
                q: q.halves(f16::from_bits),
                k: k.halves(f16::from_bits),
                v: v.halves(f16::from_bits),
            }),
            _ => Qkv::Bf16(inputs::Qkv {
                q: q.halves(bf16::from_bits),
                k: k.halves(bf16::from_bits),
                v: v.halves(bf16::from_bits),
            }),
        };
        let of = |dtype| tensors.iter().filter(move |(_, raw)| raw.dtype == dtype);
        let ints = of(Elem::I32).map(|(name, raw)| (name.clone(), Ints { shape: raw.shape.clone(), data: raw.ints() }));
        let floats =
            of(Elem::F32).map(|(name, raw)| (name.clone(), Floats { shape: raw.shape.clone(), data: raw.floats() }));
        let (extras, tables) = (ints.collect(), floats.collect());
        Ok(Input {
            name,
            dims,
            precision,
            qkv,
            cu_seqlens,
            keys,
            packed,
            max_seqlen,
            max_seqlen_k,
            picks,
            extras,
            tables,
            seed: 0,
            drawn: false,
        })
    }

    /// Draws a problem.
    ///
    /// # Errors
    /// Extents that are no problem.
    pub(crate) fn draw(draw: &Draw) -> Result<Self> {
        let documents = draw.docs.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
        let total = match (draw.tokens, documents) {
            (Some(tokens), _) if draw.docs.is_empty() => tokens,
            (None, _) if draw.docs.is_empty() => 512,
            (Some(tokens), Some(sum)) if tokens != sum => {
                return Err(Failure::usage(format!(
                    "--tokens is {tokens}, and the documents of --docs have {sum} in all"
                )));
            }
            (_, sum) => sum.unwrap_or(usize::MAX),
        };
        let (apart, documents) = (!draw.keys.is_empty(), draw.docs.len().max(1));
        if apart && draw.keys.len() != documents {
            let (given, documents) = (count(draw.keys.len(), "document"), count(documents, "document"));
            return Err(Failure::usage(format!("--keys has numbers for {given}, and the draw has {documents}"))
                .hint("a number of keys for each document of --docs, or one number without --docs"));
        }
        let keys = draw.keys.iter().try_fold(0usize, |sum, &length| sum.checked_add(length));
        let keys = if apart { keys.unwrap_or(usize::MAX) } else { total };
        let dims = Dims { total, keys, hq: draw.heads, hk: draw.kv_heads, dk: draw.dim, dv: draw.dv };
        let dtype = draw.elem.name();
        let (q, k, v) = ([total, dims.hq, dims.dk], [keys, dims.hk, dims.dk], [keys, dims.hk, dims.dv]);
        let described = |name, shape| Described { name, shape, dtype };
        let (dims, precision) = validate::qkv_apart(&described("q", &q), &described("k", &k), &described("v", &v))?;
        for (name, shape) in [("q", q), ("k", k), ("v", v)] {
            let elements = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
            if elements.is_none_or(|elements| elements > MOST_DRAWN) {
                return Err(Failure::usage(format!(
                    "{name} of {shape:?} is too large to draw; at most {MOST_DRAWN} elements are right"
                )));
            }
        }
        let packed = !draw.docs.is_empty();
        let cu_seqlens = if packed { inputs::cu_seqlens(&draw.docs) } else { vec![0, total as i32] };
        let max_seqlen = validate::cu_seqlens(&cu_seqlens, total)?;
        let keys = apart.then(|| inputs::cu_seqlens(&draw.keys));
        let max_seqlen_k = draw.keys.iter().copied().max().unwrap_or(max_seqlen);
        let qkv = match (precision, draw.repeats) {
            (Precision::F16, false) => Qkv::F16(inputs::qkv(draw.seed, dims)),
            (Precision::F16, true) => Qkv::F16(inputs::repeated_qkv(draw.seed, dims)),
            (_, false) => Qkv::Bf16(inputs::qkv(draw.seed, dims)),
            (_, true) => Qkv::Bf16(inputs::repeated_qkv(draw.seed, dims)),
        };
        let name = format!("drawn with seed {}", draw.seed);
        let (picks, extras, tables, seed) = (None, Extras::new(), Tables::new(), draw.seed);
        Ok(Input {
            name,
            dims,
            precision,
            qkv,
            cu_seqlens,
            keys,
            packed,
            max_seqlen,
            max_seqlen_k,
            picks,
            extras,
            tables,
            seed,
            drawn: true,
        })
    }

    /// The element type of q, k and v.
    pub(crate) fn elem(&self) -> Elem {
        if self.precision == Precision::F16 { Elem::F16 } else { Elem::Bf16 }
    }

    /// Where its sequences begin and end, by queries and by keys.
    pub(crate) fn sides(&self) -> Sides<'_> {
        Sides { q: &self.cu_seqlens, k: self.keys.as_ref().unwrap_or(&self.cu_seqlens) }
    }

    /// The shape of a kernel for it.
    pub(crate) fn shape(&self) -> Shape {
        let Dims { dk, dv, .. } = self.dims;
        let shape = Shape::new(self.elem(), dk as u32, dv as u32, self.dims.group() as u32);
        if self.keys.is_some() { shape.with_keys_apart() } else { shape }
    }

    /// The extents of a launch on it. Of keys apart, the documents are as long as their keys: that is what a row reads.
    pub(crate) fn launch(&self) -> Extents {
        let Dims { hq, hk, dk, dv, .. } = self.dims;
        let docs = self.sides().each().map(|(queries, keys)| queries.len().max(keys.len()) as u32).collect();
        Extents { docs, heads: hq as u64, kv_heads: hk as u64, dk: dk as u64, dv: dv as u64 }
    }

    /// Its extents, for people: `1341 tokens in 3 sequences, 12 heads x 32`.
    pub(crate) fn extents(&self) -> String {
        let Dims { total, keys, hq, hk, dk, dv } = self.dims;
        let heads = if hq == hk {
            count(hq, "head")
        } else {
            format!("{} over {}", count(hq, "query head"), count(hk, "KV head"))
        };
        let width = if dk == dv { dk.to_string() } else { format!("{dk} (v {dv})") };
        let sequences = count(self.cu_seqlens.len() - 1, "sequence");
        let over = self.keys.as_ref().map(|_| format!(" over {}", count(keys, "key"))).unwrap_or_default();
        format!("{}{over} in {sequences}, {heads} x {width}", count(total, "token"))
    }

    /// The picks for a kernel: the given ones, else those that the reference's own scoring selects, else, for a drawn
    /// problem too large for that, drawn ones. Nothing for a kernel that needs none.
    ///
    /// # Errors
    /// Given picks of another number than the options say; no picks, and too many tokens to score.
    pub(crate) fn picks_for(
        &self,
        kernel: &Kernel,
        options: &Options,
        explicit: bool,
    ) -> Result<Option<(Host<i32>, Origin)>> {
        let Some(config) = kernel.selection(options) else { return Ok(None) };
        if let Some(picks) = &self.picks {
            if explicit && picks.shape[2] != config.n {
                let n = picks.shape[2];
                let message = format!("--blocks is {}, and the picks of {} have {n} blocks", config.n, self.name);
                return Err(Failure::usage(message).hint("leave --blocks away"));
            }
            return Ok(Some((picks.clone(), Origin::Given)));
        }
        validate::nsa(config)?;
        if self.scoring(config) <= MOST_SCORING {
            let picks = match &self.qkv {
                Qkv::Bf16(x) => nsa::select(&x.q, &x.k, self.sides(), config),
                Qkv::F16(x) => nsa::select(&x.q, &x.k, self.sides(), config),
            };
            return Ok(Some((picks, Origin::Scored)));
        }
        if self.drawn {
            let picks = inputs::picks(1, self.sides(), self.dims.hk, config.l_sel, config.n, Locality::PerToken);
            return Ok(Some((picks, Origin::Drawn)));
        }
        let message = format!(
            "{} has no `picks`, and {} are too many to score on the CPU",
            self.name,
            count(self.dims.total, "token")
        );
        Err(Failure::usage(message).hint("add `picks`, i32 [tokens, Hk, n], to the file"))
    }

    /// The routing for a kernel that has one: the given one, else the one that the reference's gate makes.
    ///
    /// # Errors
    /// A given one of another shape; too many tokens for the gate.
    pub(crate) fn routing_for(&self, kernel: &'static Kernel, options: &Options) -> Result<Option<Host<i32>>> {
        let Some(config) = kernel.routed(options) else { return Ok(None) };
        if let Some(given) = self.extras.get("routing") {
            let shape = Described { name: "routing", shape: &given.shape, dtype: "i32" };
            let q = Described { name: "q", shape: &[], dtype: "" };
            let top = validate::routing(&shape, &q, self.dims)?;
            return Ok(Some(Host::new(given.data.clone(), [self.dims.total, self.dims.hq, top])));
        }
        let sides = self.sides();
        let blocks = sides.each().map(|(queries, keys)| queries.len() as u128 * (keys.len() / config.block) as u128);
        if blocks.sum::<u128>() * (self.dims.hq * self.dims.dk) as u128 > MOST_SCORING {
            let tokens = count(self.dims.total, "token");
            return Err(Failure::usage(format!("{tokens} are too many for the gate on the CPU"))
                .hint("add `routing`, i32 [tokens, Hq, top-k], to the file"));
        }
        Ok(Some(match &self.qkv {
            Qkv::Bf16(x) => moba::route(&x.q, &x.k, sides, config),
            Qkv::F16(x) => moba::route(&x.q, &x.k, sides, config),
        }))
    }

    /// Multiplications of a selection by the reference.
    fn scoring(&self, config: NsaConfig) -> u128 {
        let pairs =
            self.sides().each().map(|(queries, keys)| queries.len() as u128 * config.compressed(keys.len()) as u128);
        pairs.sum::<u128>() * (self.dims.hq * self.dims.dk) as u128
    }

    /// Refuses a problem that a kernel cannot take.
    ///
    /// # Errors
    /// No cu_seqlens, where the kernel needs them.
    pub(crate) fn fits(&self, kernel: &Kernel) -> Result {
        if kernel.needs(Need::CuSeqlens) && !self.packed {
            let message = format!("`{}` needs cu_seqlens, and the input ({}) has none", kernel.name, self.name);
            let hint = if self.drawn {
                "say how long the documents are: --docs 300,200"
            } else {
                "add `cu_seqlens`, i32 [batch + 1], to the file"
            };
            return Err(Failure::usage(message).hint(hint).hint("one document: `causal`"));
        }
        Ok(())
    }
}

impl Raw {
    fn describe(&self, name: &'static str) -> Described<'_> {
        Described { name, shape: &self.shape, dtype: self.dtype.name() }
    }

    /// Its elements, which are i32: that has been checked.
    fn ints(&self) -> Vec<i32> {
        self.bytes.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes)).collect()
    }

    /// Its elements, which are f32: that has been checked.
    fn floats(&self) -> Vec<f32> {
        self.bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    /// Its elements, which are 16 bits wide, and its shape, which has three extents: that has been checked.
    fn halves<T: Float>(&self, of_bits: fn(u16) -> T) -> Host<T> {
        let data = self.bytes.as_chunks().0.iter().map(|&bytes| of_bits(u16::from_le_bytes(bytes))).collect();
        Host::new(data, [self.shape[0], self.shape[1], self.shape[2]])
    }
}
