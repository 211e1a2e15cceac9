//! A drawn case: its operands, what they must give, and what a device makes of them.

use half::{bf16, f16};
use lacuna_dsl::{Elem, Plan, Shape, Target};
use lacuna_kernels::host::{Dims, Float, Host, Row, Sides};
use lacuna_kernels::inputs::{self, Locality, Qkv, Route, Spoil};
use lacuna_kernels::reference::moba::{self, MobaConfig, Routed, Rule};
use lacuna_kernels::reference::nsa::{NsaConfig, select, selected_attention};
use lacuna_kernels::reference::{self, Attended, attention};
use lacuna_kernels::tolerance::{self, Verdicts, plain_attention, plain_routed, plain_selected};
use lacuna_runtime::{Bindings, Device, Element, Error, Report, Tensor};

use safetensors::SafeTensors;

use crate::{Case, Layout, Mixture, Numbers, Picks, Routes, Work};

/// Operands of one of the two types that tensor cores take.
#[derive(Clone, Debug)]
enum Operands {
    Bf16(Qkv<bf16>),
    F16(Qkv<f16>),
}

/// Does the same with operands of either type.
macro_rules! either {
    ($operands:expr, $qkv:ident => $body:expr) => {
        match $operands {
            Operands::Bf16($qkv) => $body,
            Operands::F16($qkv) => $body,
        }
    };
}

/// The operands of a case.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What is to be computed.
    pub case: Case,
    /// Where each document begins, and where the last one ends.
    pub cu_seqlens: Vec<i32>,
    /// The same of keys.
    pub cu_seqlens_k: Vec<i32>,
    /// The selection, `[total, Hk, n]`, or the routing, `[total, Hq, top]`, where one is given.
    pub picks: Option<Host<i32>>,
    operands: Operands,
}

/// What a run gave, widened to f32: outputs `[total, Hq, Dv]` and LSE `[total, Hq]`.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The outputs.
    pub o: Vec<f32>,
    /// Their LSE.
    pub lse: Vec<f32>,
    /// The routing `[total, Hq, top]`, where it is made on the way.
    pub routing: Option<Host<i32>>,
}

impl Problem {
    /// Draws the operands of a case.
    pub fn draw(case: &Case) -> Self {
        let (cu_seqlens, cu_seqlens_k) = (inputs::cu_seqlens(&case.lengths), inputs::cu_seqlens(case.key_lengths()));
        let operands = match case.shape.elem {
            Elem::Bf16 if case.numbers == Numbers::Real => Operands::Bf16(real(case)),
            Elem::Bf16 => Operands::Bf16(numbers(case, &cu_seqlens_k)),
            Elem::F16 => Operands::F16(numbers(case, &cu_seqlens_k)),
            other => panic!("no operands of {}", other.name()),
        };
        let picks = selection(case, Sides { q: &cu_seqlens, k: &cu_seqlens_k }, &operands);
        Self { case: case.clone(), cu_seqlens, cu_seqlens_k, picks, operands }
    }

    /// The softmax scale.
    pub fn scale(&self) -> f32 {
        self.case.scale.unwrap_or(1.0 / (self.case.shape.dk as f32).sqrt())
    }

    /// Its sequences.
    pub fn sides(&self) -> Sides<'_> {
        Sides { q: &self.cu_seqlens, k: &self.cu_seqlens_k }
    }

    /// The f64 result, and the plain computation's; over a routing that was made on the way, where it was.
    fn expected(&self, made: Option<&Host<i32>>) -> (Attended<f64>, Attended<f32>) {
        either!(&self.operands, qkv => {
            let Qkv { q, k, v } = qkv;
            let problem = reference::Problem { q, k, v, cu_seqlens: &self.cu_seqlens, cu_seqlens_k: &self.cu_seqlens_k, scale: self.scale() };
            match (self.case.work, &self.picks) {
                (Work::QueryMajor(seen), _) => {
                    let mask = seen.by_hand();
                    (attention(&problem, &*mask), plain_attention(&problem, &*mask))
                }
                (Work::Moba(mixture), given) => {
                    let routing = made.or(given.as_ref()).expect("a routing that is given, or was made");
                    let full = mixture.full_heads(self.case.hq());
                    let routed = Routed { routing, config: self.mixture_config(), full_heads: full.as_deref() };
                    (moba::attention(&problem, &routed, None), plain_routed(&problem, &routed, None))
                }
                (_, picks) => {
                    let picks = picks.as_ref().expect("a selection is drawn with its case");
                    let block = self.case.shape.block as usize;
                    (selected_attention(&problem, picks, block), plain_selected(&problem, picks, block))
                }
            }
        })
    }

    /// How far these results, of any number of runs, are from the f64 result.
    ///
    /// # Panics
    /// If a routing that was made is none of the scores in f64, up to near ties.
    pub fn judge(&self, outcomes: &[&Outcome]) -> Vec<Verdicts> {
        let stored = either!(&self.operands, qkv => precision(qkv));
        let mut expected: Vec<(Option<&Host<i32>>, _)> = Vec::new();
        let mut verdicts = Vec::with_capacity(outcomes.len());
        for &run in outcomes {
            let made = run.routing.as_ref();
            let known = expected.iter().position(|(routing, _)| *routing == made).unwrap_or_else(|| {
                if let Some(routing) = made {
                    self.check_routing(routing);
                }
                expected.push((made, self.expected(made)));
                expected.len() - 1
            });
            let (reference, plain) = &expected[known].1;
            verdicts.push(tolerance::check_attention(&run.o, &run.lse, reference, plain, stored));
        }
        verdicts
    }

    /// Blocks and choices, where there are any.
    fn mixture_config(&self) -> MobaConfig {
        let Work::Moba(Mixture { top, share, .. }) = self.case.work else { panic!("{} has no routing", self.case) };
        let rule = match share {
            None => Rule::Past,
            // As the schedule has it, in f32.
            Some(hundredths) => {
                Rule::Mass { share: (f32::from(hundredths) / 100.0).into(), scale: self.scale().into() }
            }
        };
        MobaConfig { rule, ..MobaConfig::new(self.case.shape.block as usize, top as usize) }
    }

    /// That a routing is made of the scores in f64: near ties either way.
    fn check_routing(&self, routing: &Host<i32>) {
        let Work::Moba(mixture) = self.case.work else { panic!("{} has no routing", self.case) };
        let (config, hq) = (self.mixture_config(), self.case.hq());
        let full = mixture.full_heads(hq);
        let gated = either!(&self.operands, qkv => moba::gate(&qkv.q, &qkv.k, self.sides(), config));
        for (at, (row, gated)) in routing.data.chunks(config.top).zip(&gated).enumerate() {
            let (token, head) = (at / hq, at % hq);
            let place = self.sides().place(token).expect("a token of a document");
            if full.as_ref().is_some_and(|full| full[head] != 0) {
                assert!(row.iter().all(|&block| block == -1), "{}: a full head is sent to {row:?}", self.case);
            } else if let Err(bad) = moba::check_route(row, gated, place.position, config) {
                panic!("{}: token {token}, head {head}: {bad}", self.case);
            }
        }
    }

    /// The same problem without some of its documents, by their number.
    #[must_use]
    pub fn document(&self, number: usize) -> Self {
        let of = |cu: &[i32]| cu[number] as usize..cu[number + 1] as usize;
        let (tokens, keys) = (of(&self.cu_seqlens), of(&self.cu_seqlens_k));
        let apart = self.case.keys.as_ref().map(|_| vec![keys.len()]);
        let case = Case { lengths: vec![tokens.len()], keys: apart, ..self.case.clone() };
        let operands = match &self.operands {
            Operands::Bf16(qkv) => Operands::Bf16(tokens_of(qkv, &tokens, &keys)),
            Operands::F16(qkv) => Operands::F16(tokens_of(qkv, &tokens, &keys)),
        };
        let picks = self.picks.as_ref().map(|picks| rows(picks, &tokens));
        let [cu_seqlens, cu_seqlens_k] = [tokens, keys].map(|tokens| vec![0, tokens.len() as i32]);
        Self { case, cu_seqlens, cu_seqlens_k, picks, operands }
    }

    /// The queries `tokens` of a problem of one document, over the keys up to the last of them.
    ///
    /// # Panics
    /// If there are several documents, or keys are apart already.
    #[must_use]
    pub fn chunk(&self, tokens: std::ops::Range<usize>) -> Self {
        assert!(self.case.lengths.len() == 1 && self.case.keys.is_none(), "{} is no prefill", self.case);
        let keys = 0..tokens.end;
        let case = Case { lengths: vec![tokens.len()], ..self.case.clone() }.with_keys(&[keys.len()]);
        let operands = match &self.operands {
            Operands::Bf16(qkv) => Operands::Bf16(tokens_of(qkv, &tokens, &keys)),
            Operands::F16(qkv) => Operands::F16(tokens_of(qkv, &tokens, &keys)),
        };
        let picks = self.picks.as_ref().map(|picks| rows(picks, &tokens));
        let [cu_seqlens, cu_seqlens_k] = [tokens, keys].map(|tokens| vec![0, tokens.len() as i32]);
        Self { case, cu_seqlens, cu_seqlens_k, picks, operands }
    }

    /// The same problem with query head `order[h]` in the place of `h`.
    #[must_use]
    pub fn with_heads(&self, order: &[usize]) -> Self {
        let mut out = self.clone();
        either!(&mut out.operands, qkv => {
            let from = qkv.q.clone();
            for (token, (head, &other)) in (0..self.case.total()).flat_map(|t| order.iter().enumerate().map(move |x| (t, x))) {
                qkv.q.row_mut(token, head).copy_from_slice(from.row(token, other));
            }
        });
        if let (Work::Moba(_), Some(routing)) = (self.case.work, &self.picks) {
            let mut permuted = routing.clone();
            for token in 0..self.case.total() {
                for (head, &other) in order.iter().enumerate() {
                    permuted.row_mut(token, head).copy_from_slice(routing.row(token, other));
                }
            }
            out.picks = Some(permuted);
        }
        out
    }

    /// The same operands for another case, of the same shapes.
    #[must_use]
    pub fn under(&self, case: &Case) -> Self {
        let cu_seqlens = Sides { q: &self.cu_seqlens, k: &self.cu_seqlens_k };
        let picks = selection(case, cu_seqlens, &self.operands);
        Self { case: case.clone(), picks, ..self.clone() }
    }
}

fn precision<T: Float>(_: &Qkv<T>) -> lacuna_kernels::host::Precision {
    T::PRECISION
}

fn rows<T: Copy>(x: &Host<T>, tokens: &std::ops::Range<usize>) -> Host<T> {
    let [_, heads, width] = x.shape;
    let each = heads * width;
    Host::new(x.data[tokens.start * each..tokens.end * each].to_vec(), [tokens.len(), heads, width])
}

fn tokens_of<T: Copy>(qkv: &Qkv<T>, tokens: &std::ops::Range<usize>, keys: &std::ops::Range<usize>) -> Qkv<T> {
    Qkv { q: rows(&qkv.q, tokens), k: rows(&qkv.k, keys), v: rows(&qkv.v, keys) }
}

fn dims(case: &Case) -> Dims {
    let Shape { dk, dv, .. } = case.shape;
    let keys = case.key_lengths().iter().sum();
    Dims { total: case.total(), keys, hq: case.hq(), hk: case.hk, dk: dk as usize, dv: dv as usize }
}

fn numbers<T: Float>(case: &Case, cu_seqlens_k: &[i32]) -> Qkv<T> {
    let dims = dims(case);
    let every = |n: usize| {
        let rows = (0..dims.total).flat_map(|token| (0..dims.hq).map(move |head| Row { token, head }));
        rows.filter(move |row| (row.token + row.head) % n == 1).collect::<Vec<_>>()
    };
    let nan = T::from_f32(f32::NAN);
    match case.numbers {
        Numbers::Normal => inputs::qkv(case.seed, dims),
        Numbers::Large(logits) => inputs::large_logits(case.seed, dims, logits),
        Numbers::InfiniteRows => inputs::infinite_rows(case.seed, dims, &every(3)),
        Numbers::NanQueries => {
            let mut qkv = inputs::qkv(case.seed, dims);
            every(5).iter().for_each(|row| qkv.q.row_mut(row.token, row.head)[dims.dk - 1] = nan);
            qkv
        }
        Numbers::NanKey | Numbers::InfiniteKey | Numbers::NanValue => {
            let mut qkv = inputs::qkv(case.seed, dims);
            for document in cu_seqlens_k.windows(2).filter(|document| document[0] < document[1]) {
                let middle = (document[0] + document[1]) as usize / 2;
                for head in 0..dims.hk {
                    match case.numbers {
                        Numbers::NanKey => qkv.k.row_mut(middle, head)[1] = nan,
                        Numbers::InfiniteKey => qkv.k.row_mut(middle, head)[1] = T::from_f32(f32::INFINITY),
                        _ => qkv.v.row_mut(middle, head)[1] = nan,
                    }
                }
            }
            qkv
        }
        Numbers::Real => panic!("the real numbers are bf16"),
    }
}

/// The first heads of the real Q, K and V.
fn real(case: &Case) -> Qkv<bf16> {
    assert_eq!(case.lengths, [512, 512, 317], "the documents of the real text");
    let file = SafeTensors::deserialize(inputs::MINILM).expect("the committed file is whole");
    let heads_of = |name: &str, heads: usize| {
        let tensor = file.tensor(name).expect("the file has q, k and v");
        let [total, all, width] = *tensor.shape() else { panic!("{name} has {:?}", tensor.shape()) };
        assert!(
            heads <= all && (total, width) == (case.total(), case.shape.dk as usize),
            "{name} is {:?}",
            tensor.shape()
        );
        let token = |bytes: &[u8]| {
            bytes[..heads * width * 2].chunks(2).map(|x| bf16::from_le_bytes([x[0], x[1]])).collect::<Vec<_>>()
        };
        Host::new(tensor.data().chunks(all * width * 2).flat_map(token).collect(), [total, heads, width])
    };
    Qkv { q: heads_of("q", case.hq()), k: heads_of("k", case.hk), v: heads_of("v", case.hk) }
}

/// The picks of a case, where it has any.
fn selection(case: &Case, cu_seqlens: Sides<'_>, operands: &Operands) -> Option<Host<i32>> {
    match case.work {
        Work::QueryMajor(_) => None,
        Work::Moba(mixture) => routing(case, cu_seqlens, mixture),
        Work::GroupCentric(Picks::Scored, n) | Work::ByBlock(Picks::Scored, n) => {
            let config = NsaConfig { l_sel: case.shape.block as usize, n, ..NsaConfig::PAPER };
            Some(either!(operands, qkv => select(&qkv.q, &qkv.k, cu_seqlens, config)))
        }
        Work::GroupCentric(picks, n) | Work::ByBlock(picks, n) => Some(draw_picks(case, cu_seqlens, picks, n)),
    }
}

/// The routing of a case, where it is given.
fn routing(case: &Case, sides: Sides<'_>, mixture: Mixture) -> Option<Host<i32>> {
    let (hq, block, top) = (case.hq(), case.shape.block as usize, mixture.top as usize);
    let seed = case.seed + 200;
    let drawn = |route| inputs::routing(seed, sides.q, sides.k, hq, block, top, route);
    Some(match mixture.routes {
        Routes::Made => return None,
        Routes::Drawn(route) => drawn(route),
        Routes::Nothing => Host::filled(-1, [case.total(), hq, top]),
        Routes::Garbage => {
            let mut routing = drawn(Route::Random);
            inputs::garbage(seed, &mut routing, sides.q, sides.k, block);
            // What stands first is not looked at, be it another block.
            routing.data.chunks_mut(top).step_by(2).for_each(|row| row[0] = 0);
            routing
        }
        Routes::Repeated => {
            let mut routing = drawn(Route::Random);
            for (_, row) in routing.data.chunks_mut(top).enumerate().filter(|(row, _)| row % 3 == 1) {
                if let [_, first, others @ ..] = row {
                    others.fill(*first);
                }
            }
            routing
        }
        Routes::Everything => {
            let routing = drawn(Route::Local);
            let blocks = sides.each().map(|(_, keys)| keys.len().div_ceil(block)).max().unwrap_or(0);
            assert!(blocks <= top, "{top} choices cannot hold {blocks} blocks");
            routing
        }
    })
}

fn draw_picks(case: &Case, cu_seqlens: Sides<'_>, picks: Picks, n: usize) -> Host<i32> {
    let block = case.shape.block as usize;
    let seed = case.seed + 100;
    let drawn = |locality| {
        let many = inputs::picks(seed, cu_seqlens, case.hk, block, n.max(3), locality);
        let [total, hk, wide] = many.shape;
        // Of fewer than the forced blocks, the token's own.
        let keep = |row: &[i32]| {
            let listed = row.iter().filter(|&&block| block >= 0).count();
            let first = listed.saturating_sub(n);
            (first..first + n).map(|i| row.get(i).copied().unwrap_or(-1)).collect::<Vec<_>>()
        };
        Host::new(many.data.chunks(wide).flat_map(keep).collect(), [total, hk, n])
    };
    let spoiled = |mut picks: Host<i32>, how| {
        inputs::spoil(seed, &mut picks, cu_seqlens, block, how);
        picks
    };
    match picks {
        Picks::Drawn(locality) => drawn(locality),
        Picks::Spoiled(how) => spoiled(drawn(Locality::PerToken), how),
        Picks::Wild => spoiled(spoiled(drawn(Locality::PerToken), Spoil::OutOfRange), Spoil::Shuffle),
        Picks::Scored => panic!("scored picks are not drawn"),
        Picks::Nothing => Host::filled(-1, [case.total(), case.hk, n]),
        Picks::Everything => {
            let mut picks = Host::filled(-1, [case.total(), case.hk, n]);
            for (queries, keys) in cu_seqlens.each() {
                let blocks = keys.len().div_ceil(block);
                assert!(blocks <= n, "{n} picks cannot hold {blocks} blocks");
                for (token, head) in queries.flat_map(|token| (0..case.hk).map(move |head| (token, head))) {
                    let descending = (0..blocks as i32).rev();
                    picks.row_mut(token, head).iter_mut().zip(descending).for_each(|(slot, block)| *slot = block);
                }
            }
            picks
        }
    }
}

/// What a case is compiled for on this device: the highest target without features of one architecture alone; sm_80 on the
/// emulator.
pub fn target_for(device: &Device) -> Target {
    let mut portable = device.targets().into_iter().filter(|target| !target.specific);
    if device.is_cuda() { portable.next_back().unwrap_or(Target::SM_80) } else { Target::SM_80 }
}

/// Runs a plan of the problem's case on a device, into poisoned outputs.
///
/// # Errors
/// The device's.
///
/// # Panics
/// If an output was not written, or something beside it was.
pub fn run(device: &Device, plan: &Plan, problem: &Problem) -> Result<Outcome, Error> {
    run_by(device, plan, problem, |bindings, _| device.run(plan, bindings))
}

/// The same with a `launch` of the caller's, which gets the bindings and the outputs among them, and ends after the plan has.
///
/// # Errors
/// The device's, and those of `launch`.
///
/// # Panics
/// As [`run`].
pub fn run_by(
    device: &Device,
    plan: &Plan,
    problem: &Problem,
    launch: impl FnOnce(&Bindings, &[&Tensor]) -> Result<Report, Error>,
) -> Result<Outcome, Error> {
    either!(&problem.operands, qkv => run_typed(device, plan, problem, qkv, launch))
}

/// A tensor and the one that it is part of.
struct Part {
    whole: Tensor,
    view: Tensor,
}

impl Part {
    /// Poison, of which `shape[dim]` is used and `more` lies behind.
    fn poisoned(device: &Device, elem: Elem, shape: &[u64], dim: usize, more: u64) -> Result<Self, Error> {
        let mut larger = shape.to_vec();
        larger[dim] += more;
        let whole = Tensor::poisoned(device, elem, &larger)?;
        let view = whole.slice(dim, 0..shape[dim])?;
        Ok(Self { whole, view })
    }

    /// That all of the view was written, and nothing else.
    fn check(&self, name: &str, dim: usize) -> Result<(), Error> {
        let unwritten = self.view.first_poison()?;
        assert!(unwritten.is_none(), "element {unwritten:?} of {name} was not written");
        let (used, all) = (self.view.shape()[dim], self.whole.shape()[dim]);
        let beside = self.whole.slice(dim, used..all)?;
        let poison = Tensor::poisoned(beside.device(), beside.dtype(), beside.shape())?;
        assert!(beside.to_bytes()? == poison.to_bytes()?, "memory beside {name} was written");
        Ok(())
    }
}

fn run_typed<T: Float + Element>(
    device: &Device,
    plan: &Plan,
    problem: &Problem,
    qkv: &Qkv<T>,
    launch: impl FnOnce(&Bindings, &[&Tensor]) -> Result<Report, Error>,
) -> Result<Outcome, Error> {
    let case = &problem.case;
    let fused = case.layout == Layout::Fused;
    let extents = |shape: [usize; 3]| shape.map(|x| x as u64);
    let (total, hq) = (case.total() as u64, case.hq() as u64);

    let (q, k, v) = if fused {
        fuse(device, qkv)?
    } else {
        let upload = |x: &Host<T>| Tensor::from_slice(device, &extents(x.shape), &x.data);
        (upload(&qkv.q)?, upload(&qkv.k)?, upload(&qkv.v)?)
    };
    let beside = u64::from(fused);
    let o = Part::poisoned(device, T::DTYPE, &[total, hq, case.shape.dv.into()], 1, beside)?;
    let lse = Part::poisoned(device, Elem::F32, &[total, hq], 1, 3 * beside)?;
    let cu_seqlens = Tensor::from_slice(device, &[problem.cu_seqlens.len() as u64], &problem.cu_seqlens)?;

    let cu_seqlens_k = Tensor::from_slice(device, &[problem.cu_seqlens_k.len() as u64], &problem.cu_seqlens_k)?;

    let scalars = case.work.given(plan.target, &case.shape).expect("a case that was planned can be staged");
    let mut bindings = Bindings::new().tensor("q", &q).tensor("k", &k).tensor("v", &v);
    bindings = bindings.tensor("o", &o.view).tensor("lse", &lse.view).tensor("cu_seqlens", &cu_seqlens);
    if case.keys.is_some() {
        bindings = bindings.tensor("cu_seqlens_k", &cu_seqlens_k);
    }
    bindings = bindings.float("scale", problem.scale());
    bindings = scalars.into_iter().fold(bindings, |bindings, (name, value)| bindings.scalar(name, value));
    if plan.scalars.iter().any(|scalar| scalar.name == "max_seqlen") {
        let longest = case.lengths.iter().max().map_or(0, |&longest| longest + case.slack);
        bindings = bindings.int("max_seqlen", longest as i32);
    }
    if plan.scalars.iter().any(|scalar| scalar.name == "max_seqlen_k") {
        bindings =
            bindings.int("max_seqlen_k", case.key_lengths().iter().max().map_or(0, |&most| most + case.slack) as i32);
    }
    let mut made = None;
    if let Work::Moba(mixture) = case.work {
        if let Some(full) = mixture.full_heads(case.hq()) {
            bindings = bindings.tensor("full_heads", &Tensor::from_slice(device, &[hq], &full)?);
        }
        if mixture.routes == Routes::Made {
            let routing = Part::poisoned(device, Elem::I32, &[total, hq, mixture.top.into()], 2, 5 * beside)?;
            bindings = bindings.tensor("routing", &routing.view);
            made = Some(routing);
        }
    }
    if let Some(picks) = &problem.picks {
        let [total, hk, n] = extents(picks.shape);
        let tensor = if fused {
            let larger = Tensor::poisoned(device, Elem::I32, &[total, hk, n + 5])?.slice(2, 2..2 + n)?;
            larger.copy_from_slice(&picks.data)?;
            larger
        } else {
            Tensor::from_slice(device, &[total, hk, n], &picks.data)?
        };
        let name = if matches!(case.work, Work::Moba(_)) { "routing" } else { "picks" };
        // Of one choice, the own block, nobody asks.
        if plan.tensors.iter().any(|tensor| tensor.name == name) {
            bindings = bindings.tensor(name, &tensor);
        }
    }

    let outputs: Vec<&Tensor> = [&o, &lse].into_iter().chain(&made).map(|output| &output.view).collect();
    let report = launch(&bindings, &outputs)?;
    if let Some(stats) = report.total() {
        assert_eq!(stats.bank_conflicts, 0, "the swizzle of a shipped kernel leaves bank conflicts");
    }
    o.check("o", 1)?;
    lse.check("lse", 1)?;
    let routing = match made {
        None => None,
        Some(routing) => {
            routing.check("routing", 2)?;
            let shape = [case.total(), case.hq(), routing.view.shape()[2] as usize];
            Some(Host::new(routing.view.to_vec()?, shape))
        }
    };
    Ok(Outcome { o: o.view.to_f32_vec()?, lse: lse.view.to_f32_vec()?, routing })
}

/// Q, K and V as views of one tensor `[total, Hq + 2 Hk, D]`.
fn fuse<T: Float + Element>(device: &Device, qkv: &Qkv<T>) -> Result<(Tensor, Tensor, Tensor), Error> {
    let ([total, hq, width], [_, hk, _]) = (qkv.q.shape, qkv.k.shape);
    assert_eq!(qkv.v.shape[2], width, "heads of one tensor are equally wide");
    let heads = hq + 2 * hk;
    assert_eq!(qkv.k.shape[0], total, "heads of one tensor are of as many tokens");
    let mut data = Vec::with_capacity(total * heads * width);
    for token in 0..total {
        for x in [&qkv.q, &qkv.k, &qkv.v] {
            (0..x.shape[1]).for_each(|head| data.extend_from_slice(x.row(token, head)));
        }
    }
    let whole = Tensor::from_slice(device, &[total as u64, heads as u64, width as u64], &data)?;
    let (hq, hk) = (hq as u64, hk as u64);
    Ok((whole.slice(1, 0..hq)?, whole.slice(1, hq..hq + hk)?, whole.slice(1, hq + hk..hq + 2 * hk)?))
}
