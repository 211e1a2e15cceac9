//! What a kernel's candidates run on: drawn operands at the shape that is timed, and small ones whose right result is known.

use std::sync::OnceLock;

use lacuna::codegen::plan::Plan;
use lacuna::kernels::host::{Float, Host, Row};
use lacuna::kernels::inputs::{self, Locality};
use lacuna::kernels::reference::Problem;
use lacuna::kernels::registry::{Attention, Expected, Extras, Tables};
use lacuna::runtime::tune::{Operands, Subject as _};
use lacuna::runtime::{Bindings, CheckError, Device, Result as Ran, check::Index};
use lacuna::tuning::Tuned;

use super::super::failure::Result;
use super::super::input::{Draw, Input, Qkv};
use super::super::place::{Given, Placed};
use super::setup::Setup;

/// Rows that are compared with f64.
const ROWS: usize = 256;

/// The operands of a kernel's candidates, on a device.
pub(crate) struct Drawn {
    subject: Tuned,
    timed: Placed,
    small: Small,
}

/// A small problem, and its right result.
struct Small {
    input: Input,
    picks: Option<Host<i32>>,
    extras: Extras,
    tables: Tables,
    placed: Placed,
    rows: Vec<Row>,
    expected: OnceLock<Expected>,
}

/// A problem of a setup: documents of these lengths, so many KV heads.
fn draw(setup: &Setup, docs: &[u32], kv_heads: u64, repeats: bool) -> Result<Input> {
    let heads = kv_heads * (setup.heads / setup.kv_heads.max(1));
    Input::draw(&Draw {
        tokens: None,
        docs: docs.iter().map(|&len| len as usize).collect(),
        keys: Vec::new(),
        heads: heads as usize,
        kv_heads: kv_heads as usize,
        dim: setup.dim as usize,
        dv: setup.dv as usize,
        seed: 0,
        elem: setup.dtype,
        repeats,
    })
}

impl Drawn {
    /// Draws them, and puts them on the device.
    ///
    /// # Errors
    /// Extents that are no problem; no room on the device.
    pub(crate) fn new(setup: &Setup, device: &Device) -> Result<Self> {
        let (case, subject) = (setup.case()?, setup.subject()?);
        let names: Vec<String> = subject.schedules().iter().map(|schedule| schedule.name.to_owned()).collect();
        let attentions: Vec<&Attention> = names.iter().filter_map(|name| subject.attention(name)).collect();
        // Half of a selection or more in common: the tokens of a block draw theirs together.
        let locality = match setup.overlap {
            Some(50..) => Locality::PerBlock,
            _ => Locality::PerToken,
        };
        let scale = 1.0 / (setup.dim as f32).sqrt();
        let place = |input: &Input| -> Result<(Option<Host<i32>>, Extras, Tables, Placed)> {
            let picks = case
                .kernel
                .selection(&case.options)
                .map(|config| inputs::picks(1, &input.cu_seqlens, input.dims.hk, config.l_sel, config.n, locality));
            let extras = attentions[0].extras(&Extras::new(), &input.cu_seqlens, input.dims.hq, input.seed)?;
            let tables = attentions[0].tables(&Tables::new(), input.dims.hq, input.seed)?;
            let (options, target) = (&case.options, case.target);
            let given = Given { options, target, picks: picks.as_ref(), extras: &extras, tables: &tables, scale };
            let placed = Placed::new(device, input, &attentions, &given)?;
            Ok((picks, extras, tables, placed))
        };
        let (.., timed) = place(&draw(setup, &setup.docs, setup.kv_heads, true)?)?;
        let input = draw(setup, &setup.small, setup.few_kv_heads(), false)?;
        let (picks, extras, tables, placed) = place(&input)?;
        let (of, heads) = (input.dims.total * input.dims.hq, input.dims.hq);
        let at = |i: usize| (of - 1) * i / (ROWS - 1);
        let mut rows: Vec<Row> = (0..ROWS).map(|i| Row { token: at(i) / heads, head: at(i) % heads }).collect();
        rows.dedup();
        let small = Small { input, picks, extras, tables, placed, rows, expected: OnceLock::new() };
        Ok(Drawn { subject, timed, small })
    }
}

impl Small {
    fn expected<T: Float>(&self, attention: &Attention, x: &inputs::Qkv<T>) -> Expected {
        let (cu_seqlens, scale) = (&self.input.cu_seqlens, 1.0 / (self.input.dims.dk as f32).sqrt());
        let problem = Problem { q: &x.q, k: &x.k, v: &x.v, cu_seqlens, cu_seqlens_k: cu_seqlens, scale };
        attention.expected(&problem, self.picks.as_ref(), &self.extras, &self.tables, Some(&self.rows))
    }
}

impl Operands for Drawn {
    fn timed(&self, _: &Device, plan: &Plan) -> Ran<Bindings> {
        Ok(self.timed.bindings(plan))
    }

    fn check(&self, device: &Device, plan: &Plan) -> Ran<Option<String>> {
        let Small { input, placed, rows, .. } = &self.small;
        for tensor in [&placed.o, &placed.lse] {
            tensor.poison()?;
        }
        device.run(plan, &placed.bindings(plan))?;
        for (name, tensor) in [("o", &placed.o), ("lse", &placed.lse)] {
            if let Some(element) = tensor.first_poison()? {
                let (plan, index) = (plan.name.clone(), Index(vec![element]));
                return Err(CheckError::NotWritten { plan, tensor: name.to_owned(), index }.into());
            }
        }
        let dims = input.dims;
        let o = Host::new(placed.o.to_f32_vec()?, [dims.total, dims.hq, dims.dv]);
        let lse = Host::new(placed.lse.to_f32_vec()?, [dims.total, dims.hq]);
        // Every schedule computes the same.
        let expected = self.small.expected.get_or_init(|| {
            let first = self.subject.schedules()[0].name.to_owned();
            let attention = self.subject.attention(&first).expect("a subject has its own schedules");
            match &input.qkv {
                Qkv::Bf16(x) => self.small.expected(attention, x),
                Qkv::F16(x) => self.small.expected(attention, x),
            }
        });
        let verdicts = expected.check(&o.gather(rows).data, &lse.gather(rows).data, input.precision);
        Ok(match (verdicts.o.ok, verdicts.lse.ok) {
            (true, true) => None,
            (false, _) => Some(format!("o: {}", verdicts.o)),
            (true, false) => Some(format!("lse: {}", verdicts.lse)),
        })
    }
}
