//! A schedule of one's own on drawn numbers: run on any device, and held to attention in f64.
//!
//! ```
//! use lacuna::kernels::{dense::QueryMajor, patterns::window};
//! use lacuna::prelude::*;
//! use lacuna::{Trial, bf16, runtime::Device};
//!
//! let attention = QueryMajor::new(window(20)).at(Shape::new(Elem::Bf16, 64, 64, 2));
//! let trial = Trial::<bf16>::draw(&attention.shape, 1, &[70, 33]); // one KV head, two documents
//! let result = trial.run(&Device::emulator(), &attention, &Default::default())?;
//! let verdicts = trial.check(&result, |q, kv| kv <= q && q - kv < 20); // the same mask, by hand
//! assert!(verdicts.ok(), "{verdicts}");
//! assert!(trial.check_rows(&result, |q, kv| kv <= q && q - kv < 20, 9).ok(), "nine rows of them");
//! assert!(!trial.check_rows(&result, |q, kv| kv <= q, 9).ok(), "which another mask would not be");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Under a score, the trial is told by hand what becomes of a logit, and gets the tables that the score reads. Sinks are a
//! table, too:
//!
//! ```
//! use lacuna::kernels::{dense::QueryMajor, patterns::causal, scores::relative_bias};
//! use lacuna::prelude::*;
//! use lacuna::{Trial, bf16, runtime::Device};
//!
//! let attention = QueryMajor::new(causal()).with_score(relative_bias(0)).with_sinks();
//! let attention = attention.at(Shape::new(Elem::Bf16, 64, 64, 2));
//! let bias = [[1.5, 0.5, -1.0], [0.0, -0.5, -2.0]]; // two query heads, distances 0, 1, and 2 or more
//! let trial = Trial::<bf16>::draw(&attention.shape, 1, &[70, 33])
//!     .with_table("bias", &[2, 3], bias.concat())
//!     .with_table("sinks", &[2], vec![3.0, -1.0])
//!     .under(move |logit, q, kv, head| logit + f64::from(bias[head][(q - kv).clamp(0, 2) as usize]));
//! let result = trial.run(&Device::emulator(), &attention, &Default::default())?;
//! let verdicts = trial.check(&result, |q, kv| kv <= q);
//! assert!(verdicts.ok(), "{verdicts}");
//! let other = trial.under(|logit, _, _, _| logit);
//! assert!(!other.check(&result, |q, kv| kv <= q).ok(), "which no score would not be");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It takes any schedule whose inputs are queries, keys, values and documents, and tables of f32. For others, name the
//! tensors to [`Bindings`] as the readme does.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use lacuna_codegen::plan::{Pick, Plan, Scalar, Tunable as _};
use lacuna_dsl::{Bound, Schedule, Shape, Target};
use lacuna_kernels::host::{Dims, Float, Host, Row};
use lacuna_kernels::inputs::{self, Qkv};
use lacuna_kernels::reference::{self, Attended, Keys, Mask, Problem, Score, Under};
use lacuna_kernels::registry::{Floats, SINKS};
use lacuna_kernels::tolerance::{self, Verdicts};
use lacuna_runtime::check::Index;
use lacuna_runtime::tune::Lengths;
use lacuna_runtime::{Bindings, CheckError, Device, Element, Tensor};

/// Drawn queries, keys and values of some documents, of [`bf16`](crate::bf16) or [`f16`](crate::f16): the same numbers on
/// every machine. Logits are scaled by `1 / sqrt(Dk)`, and then near standard normal.
#[derive(Clone)]
pub struct Trial<T> {
    qkv: Qkv<T>,
    cu_seqlens: Vec<i32>,
    scale: f32,
    score: Option<Arc<ScoreByHand>>,
    tables: BTreeMap<String, Floats>,
}

/// What becomes of a scaled logit: of the query and the key at these positions of their document, in this query head.
type ScoreByHand = dyn Fn(f64, i64, i64, usize) -> f64 + Send + Sync;

impl<T: fmt::Debug> fmt::Debug for Trial<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trial")
            .field("qkv", &self.qkv)
            .field("cu_seqlens", &self.cu_seqlens)
            .field("scale", &self.scale)
            .field("scored", &self.score.is_some())
            .field("tables", &self.tables)
            .finish()
    }
}

impl<T: Float + Element> Trial<T> {
    /// Documents of these lengths, one behind the other, with `kv_heads * shape.group` query heads.
    ///
    /// # Panics
    /// If the shape's elements are not `T`, or its keys are apart: a trial has as many of them as queries.
    pub fn draw(shape: &Shape, kv_heads: usize, lengths: &[usize]) -> Self {
        assert!(shape.elem == T::DTYPE, "the shape has {}, the trial {}", shape.elem.name(), T::DTYPE.name());
        assert!(!shape.keys_apart, "a trial has as many keys as queries, and the shape has them apart");
        let (dk, dv, hq) = (shape.dk as usize, shape.dv as usize, kv_heads * shape.group as usize);
        Trial {
            qkv: inputs::qkv(
                0,
                Dims { total: lengths.iter().sum(), keys: lengths.iter().sum(), hq, hk: kv_heads, dk, dv },
            ),
            cu_seqlens: inputs::cu_seqlens(lengths),
            scale: 1.0 / (dk as f32).sqrt(),
            score: None,
            tables: BTreeMap::new(),
        }
    }

    /// Compared with attention under a score from here on: by hand, what becomes of a scaled logit of the query and the
    /// key at these positions of their document, in this query head: `|logit, q, kv, head| ..`. The schedule has its own.
    #[must_use]
    pub fn under(mut self, score: impl Fn(f64, i64, i64, usize) -> f64 + Send + Sync + 'static) -> Self {
        self.score = Some(Arc::new(score));
        self
    }

    /// With a table of f32 for the schedule, called as its score calls it, the last extent fastest: `[heads]`, `[n]` or
    /// `[heads, n]`, with the query heads. One called `sinks`, `[heads]`, has learnable sinks, which the comparison counts.
    ///
    /// # Panics
    /// If the numbers are not as many as the shape says.
    #[must_use]
    pub fn with_table(mut self, name: &str, shape: &[usize], numbers: Vec<f32>) -> Self {
        assert_eq!(numbers.len(), shape.iter().product::<usize>(), "`{name}` of {shape:?}");
        self.tables.insert(name.to_owned(), Floats { shape: shape.to_vec(), data: numbers });
        self
    }

    /// Compiles the schedule at a pick, for the highest target of the device that is not of one architecture alone (sm_80 on
    /// the emulator), and runs it. A knob that the pick does not name has its default.
    ///
    /// # Errors
    /// What staging, compiling or the device refuses; what the emulator finds; an element of the result that the schedule
    /// does not write.
    pub fn run<S: Schedule>(
        &self,
        device: &Device,
        attention: &Bound<S>,
        pick: &Pick,
    ) -> Result<Attended<f32>, Box<dyn Error>> {
        let target = Self::target(device);
        let plan = attention.plan(target, pick)?;
        Ok(self.run_plan(device, &plan, &attention.given(target)?)?)
    }

    /// The highest target of the device that is not of one architecture alone, or sm_90a; sm_80 on the emulator.
    pub(crate) fn target(device: &Device) -> Target {
        let known = |target: &Target| !target.specific || *target == Target::SM_90A;
        let highest = device.targets().into_iter().rfind(|target| known(target) && device.is_cuda());
        highest.unwrap_or(Target::SM_80)
    }

    /// Its lengths.
    pub(crate) fn lengths(&self) -> Lengths {
        let lengths = || self.cu_seqlens.windows(2).map(|ends| (ends[1] - ends[0]) as u64);
        let (tokens, documents) = (lengths().sum(), lengths().count() as u64);
        let longest = lengths().max().unwrap_or(0);
        Lengths { tokens, documents, longest, heads_kv: self.qkv.k.shape[1] as u64, overlap: None }
    }

    /// Pairs of a query and a key that count, for one head: of a long document, as many as evenly spread queries have.
    pub(crate) fn pairs(&self, sees: &dyn Fn(i64, i64) -> bool) -> u64 {
        const SAMPLE: i64 = 512;
        let of = |ends: &[i32]| -> f64 {
            let length = i64::from(ends[1] - ends[0]);
            let step = (length / SAMPLE).max(1);
            let queries = (0..length).step_by(step as usize);
            let seen = |q: i64| (0..length).filter(|&kv| sees(q, kv)).count() as f64;
            let (sum, many) = queries.fold((0.0, 0u32), |(sum, many), q| (sum + seen(q), many + 1));
            if many == 0 { 0.0 } else { sum / f64::from(many) * length as f64 }
        };
        self.cu_seqlens.windows(2).map(of).sum::<f64>() as u64
    }

    /// Everything that a plan of a schedule is given, on a device; and the tensors that the result goes to.
    pub(crate) fn place(
        &self,
        device: &Device,
        plan: &Plan,
        given: &BTreeMap<String, Scalar>,
    ) -> lacuna_runtime::Result<(Bindings, Tensor, Tensor)> {
        let ([total, hq, _], [.., dv]) = (self.qkv.q.shape, self.qkv.v.shape);
        let upload = |x: &Host<T>| Tensor::from_slice(device, &x.shape.map(|x| x as u64), &x.data);
        let (q, k, v) = (upload(&self.qkv.q)?, upload(&self.qkv.k)?, upload(&self.qkv.v)?);
        let o = Tensor::poisoned(device, T::DTYPE, &[total as u64, hq as u64, dv as u64])?;
        let lse = Tensor::poisoned(device, lacuna_runtime::Elem::F32, &[total as u64, hq as u64])?;
        let cu_seqlens = Tensor::from_slice(device, &[self.cu_seqlens.len() as u64], &self.cu_seqlens)?;

        let bindings = Bindings::new().tensor("q", &q).tensor("k", &k).tensor("v", &v).tensor("o", &o);
        let mut bindings = bindings.tensor("lse", &lse).tensor("cu_seqlens", &cu_seqlens).float("scale", self.scale);
        for (name, Floats { shape, data }) in &self.tables {
            let shape: Vec<u64> = shape.iter().map(|&extent| extent as u64).collect();
            bindings = bindings.tensor(name.as_str(), &Tensor::from_slice(device, &shape, data)?);
        }
        for (name, value) in given {
            bindings = bindings.scalar(name, *value);
        }
        if plan.scalars.iter().any(|scalar| scalar.name == "max_seqlen") {
            let longest = self.cu_seqlens.windows(2).map(|ends| ends[1] - ends[0]).max();
            bindings = bindings.int("max_seqlen", longest.unwrap_or(0));
        }
        Ok((bindings, o, lse))
    }

    /// Runs a plan of a schedule that gives these numbers itself.
    pub(crate) fn run_plan(
        &self,
        device: &Device,
        plan: &Plan,
        given: &BTreeMap<String, Scalar>,
    ) -> lacuna_runtime::Result<Attended<f32>> {
        let ([total, hq, _], [.., dv]) = (self.qkv.q.shape, self.qkv.v.shape);
        let (bindings, o, lse) = self.place(device, plan, given)?;
        device.run(plan, &bindings)?;
        for (name, tensor) in [("o", &o), ("lse", &lse)] {
            if let Some(element) = tensor.first_poison()? {
                let (plan, index) = (plan.name.clone(), Index(vec![element]));
                return Err(CheckError::NotWritten { plan, tensor: name.to_owned(), index }.into());
            }
        }
        let (o, lse) = (Host::new(o.to_f32_vec()?, [total, hq, dv]), Host::new(lse.to_f32_vec()?, [total, hq]));
        Ok(Attended { o, lse })
    }

    /// How far a result is from attention in f64, where the query at a position of its document sees the keys for which
    /// `sees` is true. [`tolerance`] says what is allowed.
    pub fn check(&self, result: &Attended<f32>, sees: impl Fn(i64, i64) -> bool + Sync) -> Verdicts {
        self.compare(&result.o.data, &result.lse.data, &sees, None)
    }

    /// As [`Trial::check`], on at most so many query rows, evenly spread over tokens and heads: f64 of every row of a long
    /// document takes far longer than its attention. The first row and the last are among them.
    ///
    /// # Panics
    /// If the trial has no query row.
    pub fn check_rows(&self, result: &Attended<f32>, sees: impl Fn(i64, i64) -> bool + Sync, rows: usize) -> Verdicts {
        let [total, heads, _] = self.qkv.q.shape;
        let of = total * heads;
        assert!(of > 0, "a trial without query rows has nothing to compare");
        let rows = rows.clamp(1, of);
        let at = |i: usize| (of - 1) * i / (rows - 1).max(1);
        let rows: Vec<Row> = (0..rows).map(|i| Row { token: at(i) / heads, head: at(i) % heads }).collect();
        let (o, lse) = (result.o.gather(&rows), result.lse.gather(&rows));
        self.compare(&o.data, &lse.data, &sees, Some(&rows))
    }

    /// Of all rows, or of these alone.
    fn compare(&self, o: &[f32], lse: &[f32], sees: Mask<'_>, rows: Option<&[Row]>) -> Verdicts {
        let Qkv { q, k, v } = &self.qkv;
        let problem =
            Problem { q, k, v, cu_seqlens: &self.cu_seqlens, cu_seqlens_k: &self.cu_seqlens, scale: self.scale };
        let score = self.score.as_deref().map(|score| score as Score<'_>);
        let under = Under { score, sinks: self.tables.get(SINKS).map(|sinks| &sinks.data[..]) };
        let exact = reference::attention_under(&problem, Keys::Mask(sees), under, rows);
        let plain = tolerance::plain_under(&problem, Keys::Mask(sees), under, rows);
        tolerance::check_attention(o, lse, &exact, &plain, T::PRECISION)
    }
}
