//! One attention, from a problem to a verdict.

use lacuna::codegen::plan::{Pick, Plan};
use lacuna::dsl::Tunable as _;
use lacuna::kernels::host::{Float, Host, Row};
use lacuna::kernels::inputs;
use lacuna::kernels::moba::RoutingIs;
use lacuna::kernels::reference::Problem;
use lacuna::kernels::reference::moba::{self, MobaConfig};
use lacuna::kernels::registry::{Attention, Expected, Extras, Ints, Kernel, Known, Options, Tables};
use lacuna::kernels::tolerance::Verdicts;
use lacuna::kernels::validate;
use lacuna::ptx::Target;
use lacuna::runtime::{BenchOptions, Bindings, Device, Elem, Element, Report, Tensor};

use super::failure::Result;
use super::input::{Input, Qkv};
use super::picked::{Launching, Picked};
use super::place::{Given, Placed};

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
    /// Why so.
    pub(crate) why: String,
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

impl Done {
    /// The routing that the kernel made or was given, where it has one.
    pub(crate) fn routing(&self) -> Option<Host<i32>> {
        self.extras.get(ROUTING).cloned().map(listed)
    }
}

/// A comparison with f64.
pub(crate) struct Compared {
    /// The verdicts.
    pub(crate) verdicts: Verdicts,
    /// The verdict on the routing, where the kernel made one.
    pub(crate) routing: Option<RoutingVerdict>,
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
    /// Why so.
    pub(crate) why: String,
    /// What will run.
    pub(crate) plan: Plan,
    /// Its operands.
    pub(crate) bindings: Bindings,
    /// Where the outputs go.
    pub(crate) o: Tensor,
    /// Where the LSE goes.
    pub(crate) lse: Tensor,
    /// Where the routing goes, where the kernel makes one that is looked at.
    routing: Option<Tensor>,
}

/// What the routing is called among the tensors of a plan.
const ROUTING: &str = "routing";
/// That of the table of full heads.
const FULL_HEADS: &str = "full_heads";

/// How a routing compares with the reference's gate.
pub(crate) struct RoutingVerdict {
    /// How many rows were compared.
    pub(crate) rows: usize,
    /// The first row that is wrong, and why.
    pub(crate) wrong: Option<String>,
}

impl Compared {
    /// What is wrong, by its name; nothing, where all is right.
    pub(crate) fn wrong(&self) -> Option<&'static str> {
        match &self.routing {
            Some(RoutingVerdict { wrong: Some(_), .. }) => Some("routing"),
            _ if !self.verdicts.o.ok => Some("o"),
            _ if !self.verdicts.lse.ok => Some("lse"),
            _ => None,
        }
    }
}

impl Job<'_> {
    /// Plans it, and puts its operands on the device.
    ///
    /// # Errors
    /// A pick that cannot be; extents and indices that are no problem; what the device refuses.
    pub(crate) fn prepare(&self) -> Result<Prepared> {
        let dims = self.input.dims;
        let (known, extents) = (self.known(), self.input.launch());
        let launch = Launching {
            kernel: self.kernel,
            options: self.options,
            shape: self.input.shape(),
            target: self.target,
            known: &known,
            extents: &extents,
        };
        let Picked { attention, pick, why } = launch.picked(self.device, self.wanted)?;
        let plan = attention.plan(self.target, &pick)?;
        if self.checked
            && let Some(picks) = self.picks
        {
            validate::picks_exist(picks, self.input.sides(), self.options.get("block") as usize)?;
        }
        let extras = attention.extras(&self.input.extras, self.input.sides(), self.input.dims.hq, self.input.seed)?;
        let tables = attention.tables(&self.input.tables, dims.hq, self.input.seed)?;
        if self.checked
            && let (Some(config), Some(given)) = (attention.routed(), extras.get(ROUTING))
        {
            let full = extras.get(FULL_HEADS).map(|ints| ints.data.as_slice());
            validate::routing_exists(&listed(given.clone()), self.input.sides(), config.block, full)?;
        }
        let given = Given {
            options: self.options,
            target: self.target,
            picks: self.picks,
            extras: &extras,
            tables: &tables,
            scale: self.scale,
        };
        let placed = Placed::new(self.device, self.input, &[&attention], &given)?;
        let bindings = placed.bindings(&plan);
        let mut bindings = if self.checked { bindings.checked() } else { bindings };
        let Placed { o, lse, .. } = placed;
        let routing = match attention.routed().filter(|_| attention.returns_routing()) {
            None => None,
            Some(config) => {
                let extents = [dims.total, dims.hq, config.top].map(|extent| extent as u64);
                let routing = Tensor::uninit(self.device, Elem::I32, &extents)?;
                bindings = bindings.tensor(ROUTING, &routing);
                Some(routing)
            }
        };
        Ok(Prepared { attention, extras, tables, pick, why, plan, bindings, o, lse, routing })
    }

    /// What is known of the launch. A routing that the kernel makes is looked at where there is a choice.
    fn known(&self) -> Known {
        let Input { dims, max_seqlen_k, .. } = *self.input;
        let config = self.kernel.routed(self.options);
        let choice = config.is_some_and(|config| max_seqlen_k > config.block * config.top);
        let routing = match self.input.extras.contains_key(ROUTING) {
            true => RoutingIs::Given,
            false if choice && self.compare => RoutingIs::Returned,
            false => RoutingIs::Internal,
        };
        let extents = [
            ("tokens", dims.total),
            ("tokens_k", dims.keys),
            ("heads_q", dims.hq),
            ("heads_kv", dims.hk),
            ("segments_plus_one", self.input.cu_seqlens.len()),
        ];
        let extents = extents.map(|(name, extent)| (name.to_owned(), extent as u64)).into();
        Known { max_seqlen: Some(max_seqlen_k), extents: Some(extents), routing }
    }

    /// Plans, runs, compares; `stage` is told what is under way.
    ///
    /// # Errors
    /// A pick that cannot be; what the device refuses; inputs that checked mode refuses.
    pub(crate) fn run(&self, mut stage: impl FnMut(&str)) -> Result<Done> {
        stage("compiling");
        let Prepared { attention, mut extras, tables, pick, why, plan, bindings, o, lse, routing } = self.prepare()?;
        stage("running");
        let report = self.device.run(&plan, &bindings)?;
        let millis = match self.device.is_cuda() {
            true => match bench_options(report.millis) {
                Some(options) => self.device.bench(&plan, &bindings, &options)?.median_ms,
                None => report.millis,
            },
            false => report.millis,
        };
        if let Some(routing) = &routing {
            // The reference attends by the kernel's own routing, which is compared by itself.
            let shape = routing.shape().iter().map(|&extent| extent as usize).collect();
            extras.insert(ROUTING.to_owned(), Ints { shape, data: routing.to_vec::<i32>()? });
        }
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
        Ok(Done { attention, extras, pick, why, plan, report, millis, o, lse, compared })
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
        let routing = match (attention.routed(), extras.get(ROUTING)) {
            (Some(config), Some(found)) if attention.returns_routing() => {
                let full = extras.get(FULL_HEADS).map(|ints| ints.data.as_slice());
                Some(self.routed(x, (&listed(found.clone()), full), config, sample.as_deref()))
            }
            _ => None,
        };
        Ok(Compared { verdicts, routing, rows: sample.map_or(of, |rows| rows.len()), of })
    }

    /// Compares a routing with the reference's gate, on these rows or on as many as do not take too long.
    fn routed<T: Float>(
        &self,
        x: &inputs::Qkv<T>,
        (routing, full): (&Host<i32>, Option<&[i32]>),
        config: MobaConfig,
        sample: Option<&[Row]>,
    ) -> RoutingVerdict {
        let (sides, dims) = (self.input.sides(), self.input.dims);
        let each = (self.input.max_seqlen_k / config.block).max(1) as u128 * dims.dk as u128;
        let rows = match sample {
            Some(rows) => rows.to_vec(),
            None => self.spread((MOST_COMPARED / each).min(usize::MAX as u128) as usize),
        };
        let gated = moba::gate_rows(&x.q, &x.k, sides, config, &rows);
        let wrong = rows.iter().zip(&gated).find_map(|(&Row { token, head }, gated)| {
            let position = sides.place(token)?.position;
            if full.is_some_and(|full| full[head] == 1) {
                let row = routing.row(token, head);
                return row
                    .iter()
                    .any(|&block| block != -1)
                    .then(|| format!("token {token}, query head {head}: the head is full, and is routed to {row:?}"));
            }
            let why = moba::check_route(routing.row(token, head), gated, position, config).err()?;
            Some(format!("token {token}, query head {head}: {why}"))
        });
        RoutingVerdict { rows: rows.len(), wrong }
    }

    /// So many rows, evenly spread over tokens and heads, the first and the last one among them; all, where there are
    /// no more.
    fn spread(&self, rows: usize) -> Vec<Row> {
        let dims = self.input.dims;
        let of = dims.total * dims.hq;
        let rows = rows.min(of);
        let at = |i: usize| ((of - 1) as u128 * i as u128 / (rows - 1).max(1) as u128) as usize;
        (0..rows).map(|i| Row { token: at(i) / dims.hq, head: at(i) % dims.hq }).collect()
    }

    /// The rows to compare, where there are too many to compare all: the first and the last one, and others evenly
    /// spread over tokens and heads.
    fn sample(&self) -> Option<Vec<Row>> {
        let dims = self.input.dims;
        // Keys that a row of a sequence can see.
        let keys = |length: usize| match self.picks {
            Some(picks) => length.min(picks.shape[2] * self.options.get("block") as usize) as u128,
            None => match self.kernel.routed(self.options) {
                Some(config) if self.options.get("full-heads") == 0 => length.min(config.top * config.block) as u128,
                _ => length as u128,
            },
        };
        let width = (dims.dk + dims.dv) as u128;
        let sequences = self.input.sides().each();
        let all: u128 = sequences.map(|(queries, all)| queries.len() as u128 * keys(all.len())).sum();
        if all * dims.hq as u128 * width <= MOST_COMPARED {
            return None;
        }
        let rows = (MOST_COMPARED / (keys(self.input.max_seqlen_k) * width)) as usize;
        Some(self.spread(rows.clamp(FEWEST_ROWS, MOST_ROWS)))
    }
}

/// A routing as a tensor.
fn listed(ints: Ints) -> Host<i32> {
    let shape = ints.shape.try_into().expect("a routing has three extents");
    Host::new(ints.data, shape)
}

/// How often to time what took this long: for about a second. `None` where once is enough.
fn bench_options(millis: f64) -> Option<BenchOptions> {
    let default = BenchOptions::default();
    let fits = (1e3 / millis.max(1e-3)) as u32;
    (fits >= 2).then(|| BenchOptions { warmup: default.warmup.min(fits), reps: default.reps.min(fits), ..default })
}
