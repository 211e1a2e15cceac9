//! One attention, from a problem to a verdict.

use lacuna::codegen::plan::{Access, Launch, Pick, Plan};
use lacuna::dsl::Tunable as _;
use lacuna::kernels::host::{Float, Host, Row};
use lacuna::kernels::inputs;
use lacuna::kernels::reference::Problem;
use lacuna::kernels::registry::{Attention, Expected, Extras, Kernel, Options, Tables};
use lacuna::kernels::tolerance::Verdicts;
use lacuna::kernels::validate;
use lacuna::ptx::Target;
use lacuna::runtime::{BenchOptions, Bindings, Device, Elem, Element, Report, Tensor};

use super::failure::Result;
use super::input::{Input, Qkv};

/// The launch of a plan that attends: the last one that multiplies. Those before it find the blocks that it visits, those
/// after it put its parts together.
///
/// # Panics
/// If the plan launches nothing.
pub(crate) fn attending(plan: &Plan) -> &Launch {
    let multiplies = |launch: &&Launch| launch.ptx.contains("mma.sync");
    plan.launches.iter().rfind(multiplies).or(plan.launches.last()).expect("a plan launches something")
}

/// The most multiply-adds that go into the comparison of every row. Beyond that, rows are sampled.
const MOST_COMPARED: u128 = 4_000_000_000;

/// The fewest and the most rows of a sample.
const FEWEST_ROWS: usize = 64;
const MOST_ROWS: usize = 4096;

/// What is to be done.
pub(crate) struct Job<'a> {
    /// Where.
    pub(crate) device: &'a Device,
    /// Compiled for what.
    pub(crate) target: Target,
    /// Which kernel.
    pub(crate) kernel: &'static Kernel,
    /// Its options.
    pub(crate) options: &'a Options,
    /// The knobs that are wanted.
    pub(crate) wanted: &'a Pick,
    /// On what.
    pub(crate) input: &'a Input,
    /// The picks, where the kernel needs them.
    pub(crate) picks: Option<&'a Host<i32>>,
    /// What the logits are multiplied by.
    pub(crate) scale: f32,
    /// Whether inputs are scanned and outputs poisoned.
    pub(crate) checked: bool,
    /// Whether the result is compared with f64.
    pub(crate) compare: bool,
}

/// What came of it.
pub(crate) struct Done {
    /// The kernel at its shape.
    pub(crate) attention: Attention,
    /// The tables that it read.
    pub(crate) extras: Extras,
    /// How it was planned.
    pub(crate) pick: Pick,
    /// What ran.
    pub(crate) plan: Plan,
    /// What the device says of the run.
    pub(crate) report: Report,
    /// How long it takes: on a GPU the median of several runs, on the emulator that one.
    pub(crate) millis: f64,
    /// The outputs.
    pub(crate) o: Tensor,
    /// The LSE.
    pub(crate) lse: Tensor,
    /// How the result compares.
    pub(crate) compared: Option<Compared>,
}

/// A comparison with f64.
pub(crate) struct Compared {
    /// The verdicts.
    pub(crate) verdicts: Verdicts,
    /// How many query rows were compared.
    pub(crate) rows: usize,
    /// How many there are.
    pub(crate) of: usize,
}

/// A kernel on a problem, ready to run.
pub(crate) struct Prepared {
    /// The kernel at its shape.
    pub(crate) attention: Attention,
    /// The whole numbers that it reads.
    pub(crate) extras: Extras,
    /// The numbers of f32 that it reads.
    pub(crate) tables: Tables,
    /// How it is planned.
    pub(crate) pick: Pick,
    /// What will run.
    pub(crate) plan: Plan,
    /// Its operands.
    pub(crate) bindings: Bindings,
    /// Where the outputs go.
    pub(crate) o: Tensor,
    /// Where the LSE goes.
    pub(crate) lse: Tensor,
}

impl Job<'_> {
    /// Plans it, and puts its operands on the device.
    ///
    /// # Errors
    /// A pick that cannot be; extents and indices that are no problem; what the device refuses.
    pub(crate) fn prepare(&self) -> Result<Prepared> {
        let dims = self.input.dims;
        let attention = self.kernel.build(self.input.shape(), self.options)?;
        let pick = attention.pick(self.target, self.wanted)?;
        let plan = attention.plan(self.target, &pick)?;
        if self.checked
            && let Some(picks) = self.picks
        {
            validate::picks_exist(picks, self.input.sides(), self.options.get("block") as usize)?;
        }
        let extras = attention.extras(&self.input.extras, self.input.sides(), self.input.dims.hq, self.input.seed)?;
        let tables = attention.tables(&self.input.tables, dims.hq, self.input.seed)?;
        let (bindings, o, lse) = self.bind(&attention, &plan, &extras, &tables)?;
        Ok(Prepared { attention, extras, tables, pick, plan, bindings, o, lse })
    }

    /// Plans, runs, compares; `stage` is told what is under way.
    ///
    /// # Errors
    /// A pick that cannot be; what the device refuses; inputs that checked mode refuses.
    pub(crate) fn run(&self, mut stage: impl FnMut(&str)) -> Result<Done> {
        stage("compiling");
        let Prepared { attention, extras, tables, pick, plan, bindings, o, lse } = self.prepare()?;
        stage("running");
        let report = self.device.run(&plan, &bindings)?;
        let millis = match self.device.is_cuda() {
            true => match bench_options(report.millis) {
                Some(options) => self.device.bench(&plan, &bindings, &options)?.median_ms,
                None => report.millis,
            },
            false => report.millis,
        };
        let compared = match self.compare {
            true => {
                stage("comparing with f64");
                Some(match &self.input.qkv {
                    Qkv::Bf16(x) => self.compare(&attention, (&extras, &tables), x, &o, &lse)?,
                    Qkv::F16(x) => self.compare(&attention, (&extras, &tables), x, &o, &lse)?,
                })
            }
            false => None,
        };
        Ok(Done { attention, extras, pick, plan, report, millis, o, lse, compared })
    }

    /// Every tensor and number of the plan, on the device.
    fn bind(
        &self,
        attention: &Attention,
        plan: &Plan,
        extras: &Extras,
        tables: &Tables,
    ) -> Result<(Bindings, Tensor, Tensor)> {
        let Input { dims, cu_seqlens, max_seqlen, max_seqlen_k, .. } = self.input;
        let extents = |shape: &[usize]| shape.iter().map(|&extent| extent as u64).collect::<Vec<u64>>();
        let (q, k, v) = match &self.input.qkv {
            Qkv::Bf16(x) => self.place(x)?,
            Qkv::F16(x) => self.place(x)?,
        };
        let o = Tensor::uninit(self.device, self.input.elem(), &extents(&[dims.total, dims.hq, dims.dv]))?;
        let lse = Tensor::uninit(self.device, Elem::F32, &extents(&[dims.total, dims.hq]))?;
        let cu = Tensor::from_slice(self.device, &[cu_seqlens.len() as u64], cu_seqlens)?;
        let mut bindings =
            Bindings::new().tensor("q", &q).tensor("k", &k).tensor("v", &v).tensor("o", &o).tensor("lse", &lse);
        let reads = |name: &str| plan.tensors.iter().any(|t| t.name == name && t.access == Access::Read);
        if reads("cu_seqlens") {
            bindings = bindings.tensor("cu_seqlens", &cu).cu_seqlens("cu_seqlens", dims.total as u64);
        }
        if reads("cu_seqlens_k") {
            let cu = self.input.sides().k;
            let cu = Tensor::from_slice(self.device, &[cu.len() as u64], cu)?;
            bindings = bindings.tensor("cu_seqlens_k", &cu).cu_seqlens("cu_seqlens_k", dims.keys as u64);
        }
        if let Some(picks) = self.picks
            && reads("picks")
        {
            let block = self.options.get("block") as usize;
            let tensor = Tensor::from_slice(self.device, &extents(&picks.shape), &picks.data)?;
            bindings = bindings.tensor("picks", &tensor).indices("picks", -1, max_seqlen_k.div_ceil(block) as i64);
        }
        for (name, floats) in tables {
            bindings = bindings.tensor(name, &Tensor::from_slice(self.device, &extents(&floats.shape), &floats.data)?);
        }
        for (name, ints) in extras {
            bindings = bindings.tensor(name, &Tensor::from_slice(self.device, &extents(&ints.shape), &ints.data)?);
        }
        let mut given = attention.given(self.target)?;
        given.insert("scale".to_owned(), lacuna::runtime::Scalar::F32(self.scale));
        given.insert("max_seqlen".to_owned(), lacuna::runtime::Scalar::I32(*max_seqlen as i32));
        given.insert("max_seqlen_k".to_owned(), lacuna::runtime::Scalar::I32(*max_seqlen_k as i32));
        for (name, value) in given {
            if plan.scalars.iter().any(|scalar| scalar.name == name) {
                bindings = bindings.scalar(name, value);
            }
        }
        Ok((if self.checked { bindings.checked() } else { bindings }, o, lse))
    }

    fn place<T: Element + Float>(&self, x: &inputs::Qkv<T>) -> Result<(Tensor, Tensor, Tensor)> {
        let tensor =
            |host: &Host<T>| Tensor::from_slice(self.device, &host.shape.map(|extent| extent as u64), &host.data);
        Ok((tensor(&x.q)?, tensor(&x.k)?, tensor(&x.v)?))
    }

    fn compare<T: Element + Float>(
        &self,
        attention: &Attention,
        (extras, tables): (&Extras, &Tables),
        x: &inputs::Qkv<T>,
        o: &Tensor,
        lse: &Tensor,
    ) -> Result<Compared> {
        let dims = self.input.dims;
        let problem = Problem {
            q: &x.q,
            k: &x.k,
            v: &x.v,
            cu_seqlens: &self.input.cu_seqlens,
            cu_seqlens_k: self.input.sides().k,
            scale: self.scale,
        };
        let o = Host::new(o.to_f32_vec()?, [dims.total, dims.hq, dims.dv]);
        let lse = Host::new(lse.to_f32_vec()?, [dims.total, dims.hq]);
        let of = dims.total * dims.hq;
        let sample = self.sample();
        let expected: Expected = attention.expected(&problem, self.picks, extras, tables, sample.as_deref());
        let (o, lse) = match &sample {
            None => (o.data, lse.data),
            Some(rows) => (o.gather(rows).data, lse.gather(rows).data),
        };
        let verdicts = expected.check(&o, &lse, self.input.precision);
        Ok(Compared { verdicts, rows: sample.map_or(of, |rows| rows.len()), of })
    }

    /// The rows to compare, where there are too many to compare all: the first and the last one, and others evenly spread
    /// over tokens and heads.
    fn sample(&self) -> Option<Vec<Row>> {
        let dims = self.input.dims;
        // Keys that a row of a sequence can see.
        let keys = |length: usize| match self.picks {
            Some(picks) => length.min(picks.shape[2] * self.options.get("block") as usize) as u128,
            None => length as u128,
        };
        let width = (dims.dk + dims.dv) as u128;
        let sequences = self.input.sides().each();
        let all: u128 = sequences.map(|(queries, all)| queries.len() as u128 * keys(all.len())).sum();
        if all * dims.hq as u128 * width <= MOST_COMPARED {
            return None;
        }
        let of = dims.total * dims.hq;
        let rows = (MOST_COMPARED / (keys(self.input.max_seqlen_k) * width)) as usize;
        let rows = rows.clamp(FEWEST_ROWS, MOST_ROWS).min(of);
        let at = |i: usize| ((of - 1) as u128 * i as u128 / (rows - 1).max(1) as u128) as usize;
        let row = |i: usize| Row { token: at(i) / dims.hq, head: at(i) % dims.hq };
        Some((0..rows).map(row).collect())
    }
}

/// How often to time what took this long: for about a second. `None` where once is enough.
fn bench_options(millis: f64) -> Option<BenchOptions> {
    let default = BenchOptions::default();
    let fits = (1e3 / millis.max(1e-3)) as u32;
    (fits >= 2).then(|| BenchOptions { warmup: default.warmup.min(fits), reps: default.reps.min(fits), ..default })
}
