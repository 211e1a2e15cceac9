//! Scores and learnable sinks: every shipped one over ragged documents, at every width and pick, under other masks, over picked
//! blocks, and with tables of any numbers.

use half::{bf16, f16};
use lacuna_dsl::{Elem, Pick, Shape, Target, Tunable};
use lacuna_kernels::host::{Dims, Float, Host, Precision, Sides};
use lacuna_kernels::inputs::{self, Locality, Qkv};
use lacuna_kernels::reference::Problem;
use lacuna_kernels::registry::{self, Attention, Expected, Extras, Floats, Tables};
use lacuna_kernels::tolerance::Verdicts;
use lacuna_runtime::{Bindings, Device, Element, Tensor};
use lacuna_tests::{target_for, widths};

use crate::harness::devices;

/// One attention under a score.
#[derive(Clone, Debug)]
struct Scored {
    kernel: &'static str,
    options: Vec<(&'static str, u32)>,
    width: u32,
    group: u32,
    lengths: Vec<usize>,
    /// Keys of each document, where they are apart from its queries.
    keys: Option<Vec<usize>>,
    pick: Pick,
    /// What it is compiled for, where it is not what a device runs best.
    target: Option<Target>,
    elem: Elem,
    /// The score and the sinks, where they are not the kernel's own.
    under: (Option<&'static str>, bool),
    /// Tables and sinks that are not drawn.
    tables: Tables,
    /// Blocks of picks are drawn; without any, there are none.
    empty: bool,
    /// The standard deviation of the logits.
    logits: f32,
}

impl Scored {
    fn new(kernel: &'static str, width: u32, group: u32, lengths: &[usize]) -> Self {
        let (lengths, pick) = (lengths.to_vec(), Pick::new());
        let (under, tables, empty) = ((None, false), Tables::new(), false);
        let (options, elem, logits) = (Vec::new(), Elem::Bf16, 1.0);
        let (keys, target) = (None, None);
        Scored { kernel, options, width, group, lengths, keys, pick, target, elem, under, tables, empty, logits }
    }

    /// By warpgroups whose products overlap so.
    fn overlapping(self, overlap: u32) -> Self {
        let pick = [("overlap".to_owned(), overlap)].into();
        Scored { target: Some(Target::SM_90A), pick, ..self }
    }

    /// The kernel under a score, with sinks or without.
    fn under(self, score: Option<&'static str>, sinks: bool) -> Self {
        Scored { under: (score, sinks), ..self }
    }

    fn with(mut self, name: &str, shape: &[usize], data: Vec<f32>) -> Self {
        self.tables.insert(name.to_owned(), Floats { shape: shape.to_vec(), data });
        self
    }

    fn with_keys(self, keys: &[usize]) -> Self {
        Scored { keys: Some(keys.to_vec()), ..self }
    }

    /// Picks of its blocks for every token and KV head.
    fn picks(&self, sides: Sides<'_>) -> Option<Host<i32>> {
        let attention = self.attention();
        let config = attention.kernel.selection(&attention.options)?;
        Some(match self.empty {
            true => Host::filled(-1, [*sides.q.last().expect("an end") as usize, 2, config.n]),
            false => inputs::picks(3, sides, 2, config.l_sel, config.n, Locality::PerToken),
        })
    }

    fn attention(&self) -> Attention {
        let kernel = registry::find(self.kernel).expect("a shipped kernel");
        let (score, sinks) = self.under;
        let options = kernel.options_under(score, sinks, self.options.iter().copied()).expect("options that it has");
        let shape = Shape::new(self.elem, self.width, self.width, self.group);
        let shape = if self.keys.is_some() { shape.with_keys_apart() } else { shape };
        kernel.build(shape, &options).expect("a shape")
    }

    fn judged<T: Float>(&self, problem: &Problem<'_, T>, picks: Option<&Host<i32>>, hq: usize) -> Expected {
        let attention = self.attention();
        let tables = attention.tables(&self.tables, hq, 5).expect("tables that fit");
        attention.expected(problem, picks, &Extras::new(), &tables, None)
    }

    /// What a device makes of it, held to what `judge` must give.
    fn run(&self, device: &Device, judge: &Scored) -> Verdicts {
        match self.elem {
            Elem::Bf16 => self.typed::<bf16>(device, judge),
            _ => self.typed::<f16>(device, judge),
        }
    }

    fn typed<T: Float + Element>(&self, device: &Device, judge: &Scored) -> Verdicts {
        let total: usize = self.lengths.iter().sum();
        let (hq, width) = (self.group as usize * 2, self.width as usize);
        let key_lengths = self.keys.as_ref().unwrap_or(&self.lengths);
        let dims = Dims { total, keys: key_lengths.iter().sum(), hq, hk: 2, dk: width, dv: width };
        let Qkv { q, k, v } = inputs::large_logits::<T>(7, dims, self.logits);
        let (cu, cu_k) = (inputs::cu_seqlens(&self.lengths), inputs::cu_seqlens(key_lengths));
        let attention = self.attention();
        let target = self.target.unwrap_or_else(|| target_for(device));
        let pick = attention.pick(target, &self.pick).expect("a pick that fits");
        let plan = attention.plan(target, &pick).expect("a plan");
        let tensor =
            |x: &Host<T>| Tensor::from_slice(device, &x.shape.map(|extent| extent as u64), &x.data).expect("memory");
        let (total, heads) = (total as u64, hq as u64);
        let o = Tensor::poisoned(device, self.elem, &[total, heads, width as u64]).expect("memory");
        let lse = Tensor::poisoned(device, Elem::F32, &[total, heads]).expect("memory");
        let cu_seqlens = Tensor::from_slice(device, &[cu.len() as u64], &cu).expect("memory");
        let scale = 1.0 / (self.width as f32).sqrt();
        let longest = self.lengths.iter().max().copied().unwrap_or(0);
        let mut bindings = Bindings::new().tensor("q", &tensor(&q)).tensor("k", &tensor(&k)).tensor("v", &tensor(&v));
        bindings = bindings.tensor("o", &o).tensor("lse", &lse).tensor("cu_seqlens", &cu_seqlens);
        bindings = bindings.float("scale", scale);
        let cu_seqlens_k = Tensor::from_slice(device, &[cu_k.len() as u64], &cu_k).expect("memory");
        if self.keys.is_some() {
            bindings = bindings.tensor("cu_seqlens_k", &cu_seqlens_k);
        }
        if plan.scalars.iter().any(|scalar| scalar.name == "max_seqlen") {
            bindings = bindings.int("max_seqlen", longest as i32);
        }
        let picks = self.picks(Sides { q: &cu, k: &cu_k });
        let tables = attention.tables(&self.tables, hq, 5).expect("tables that fit");
        for (name, Floats { shape, data }) in &tables {
            let shape: Vec<u64> = shape.iter().map(|&extent| extent as u64).collect();
            bindings = bindings.tensor(name, &Tensor::from_slice(device, &shape, data).expect("memory"));
        }
        if let Some(picks) = &picks {
            let shape = picks.shape.map(|extent| extent as u64);
            bindings = bindings.tensor("picks", &Tensor::from_slice(device, &shape, &picks.data).expect("memory"));
        }
        for (name, value) in attention.given(target).expect("it was planned") {
            bindings = bindings.scalar(&name, value);
        }
        let report = device.run(&plan, &bindings).unwrap_or_else(|error| panic!("{self:?} on {device}: {error}"));
        if let Some(stats) = report.total() {
            assert_eq!(stats.bank_conflicts, 0, "{self:?}");
        }
        assert_eq!(o.first_poison().expect("memory"), None, "{self:?} on {device}: o");
        assert_eq!(lse.first_poison().expect("memory"), None, "{self:?} on {device}: lse");
        let problem = Problem { q: &q, k: &k, v: &v, cu_seqlens: &cu, cu_seqlens_k: &cu_k, scale };
        let expected = judge.judged(&problem, picks.as_ref(), hq);
        let stored = if self.elem == Elem::Bf16 { Precision::Bf16 } else { Precision::F16 };
        expected.check(&o.to_f32_vec().expect("memory"), &lse.to_f32_vec().expect("memory"), stored)
    }
}

fn agree(title: &str, cases: &[Scored]) {
    println!("\n{title}: {} cases; error and allowed of o, of LSE", cases.len());
    let runs = |case: &Scored, device: &Device| case.target.is_none_or(|target| device.runs(target));
    let everywhere = cases.iter().flat_map(|case| devices().iter().map(move |device| (case, device)));
    for (case, device) in everywhere.filter(|(case, device)| runs(case, device)) {
        let verdicts = case.run(device, case);
        println!(
            "{device}: {} D{}: {:.4} {:.4}",
            case.kernel,
            case.width,
            verdicts.o.error / verdicts.o.allowed,
            verdicts.lse.error / verdicts.lse.allowed
        );
        assert!(verdicts.ok(), "{case:?} on {device}:\n{verdicts}");
    }
}

const LENGTHS: [&[usize]; 4] = [&[1, 0, 65], &[150], &[64, 128], &[17, 90, 3]];

#[test]
fn every_score_at_every_width() {
    let mut cases = Vec::new();
    let kernels = [
        ("alibi", vec![]),
        ("softcap", vec![]),
        ("softcap", vec![("cap", 2)]),
        ("relative-bias", vec![]),
        ("learnable-sink", vec![]),
    ];
    for (kernel, options) in kernels {
        for (width, group) in widths().into_iter().flat_map(|width| [1, 3].map(|group| (width, group))) {
            let mut case = Scored::new(kernel, width, group, LENGTHS[cases.len() % 4]);
            case.options = options.clone();
            case.elem = if cases.len() % 2 == 0 { Elem::Bf16 } else { Elem::F16 };
            case.logits = [1.0, 10.0, 1.0][cases.len() % 3];
            cases.push(case);
        }
    }
    agree("scores: widths", &cases);
}

/// Rows of all heads of a group in one tile: each has the slope, the sink and the row of the table that its head has.
#[test]
fn heads_that_share_a_tile_are_scored_apart() {
    let mut cases = Vec::new();
    for kernel in ["alibi", "softcap", "relative-bias", "learnable-sink"] {
        for (group, width) in [(2, 64), (3, 128), (8, 64)] {
            let mut case = Scored::new(kernel, width, group, LENGTHS[cases.len() % 4]);
            case.pick = Pick::from([("pack".to_owned(), 2)]);
            case.target = Some(Target::SM_90A);
            cases.push(if cases.len() % 2 == 0 { case.under(None, kernel != "learnable-sink") } else { case });
        }
    }
    agree("scores: packed heads", &cases);
}

/// Positions are those of keys, as the pattern has them: below 0 for a query that is before every key. Such a row has its sink
/// alone, but where it does not matter where a query is.
#[test]
fn scores_of_documents_with_keys_of_their_own() {
    let apart: [(&[usize], &[usize]); 5] =
        [(&[70], &[200]), (&[1, 1], &[130, 1]), (&[200], &[40]), (&[40, 0, 90], &[90, 33, 20]), (&[30, 20], &[0, 64])];
    let mut cases = Vec::new();
    for (lengths, keys) in apart {
        let under = |kernel, score, sinks| Scored::new(kernel, 64, 2, lengths).under(score, sinks).with_keys(keys);
        cases.push(under("alibi", None, true));
        cases.push(under("full", Some("alibi"), true));
        cases.push(under("window", Some("relative-bias"), false));
        cases.push(under("causal", Some("softcap"), true));
        cases.push(under("nsa-selected", Some("relative-bias"), true));
    }
    agree("scores: keys apart", &cases);
}

#[test]
fn scores_at_every_pick() {
    let mut cases = Vec::new();
    for kernel in ["alibi", "softcap", "relative-bias", "learnable-sink"] {
        for pick in Scored::new(kernel, 32, 1, &[1]).attention().space(Target::SM_80).picks() {
            let mut case = Scored::new(kernel, 32, 2, LENGTHS[cases.len() % 4]);
            case.pick = pick;
            cases.push(case);
        }
    }
    agree("scores: picks", &cases);
}

/// Scores and sinks where warpgroups multiply, in every way in which their products overlap: softmax of one block stands
/// between products of others, and a score is part of it.
#[test]
fn scores_beside_products_of_warpgroups() {
    let kernels = ["alibi", "softcap", "relative-bias", "learnable-sink"];
    let mut cases = Vec::new();
    for overlap in 1..=3 {
        for (n, kernel) in kernels.into_iter().enumerate() {
            for (width, group) in [(64, 1 + n as u32), (128, 2)] {
                let lengths = [&[1, 0, 65][..], &[330], &[64, 128], &[17, 190, 3]][cases.len() % 4];
                let mut case = Scored::new(kernel, width, group, lengths).overlapping(overlap);
                case.elem = if cases.len() % 2 == 0 { Elem::Bf16 } else { Elem::F16 };
                case.logits = [1.0, 10.0, 1.0][cases.len() % 3];
                cases.push(case);
            }
        }
        let under = |kernel, score, sinks| Scored::new(kernel, 64, 3, &[150, 0, 70]).under(score, sinks);
        cases.push(under("window", Some("relative-bias"), true).overlapping(overlap));
        cases.push(under("full", Some("alibi"), true).with_keys(&[90, 33, 200]).overlapping(overlap));
        let none = f32::NEG_INFINITY;
        let far = under("causal", Some("softcap"), true).with("sinks", &[6], vec![200.0, -200.0, none, 0.0, 1.0, 1e4]);
        cases.push(far.overlapping(overlap));
    }
    // Classes of blocks are found by a launch before.
    cases.push(Scored::new("longformer", 64, 2, &[150, 90]).under(Some("softcap"), true).overlapping(1));
    agree("scores: warpgroups", &cases);
}

/// Without its score, or under one that is nearly right, the result is beyond the tolerance.
#[test]
fn a_score_that_is_nearly_right_is_not() {
    let emulator = Device::emulator();
    let plain = Scored::new("causal", 64, 2, &[150]);
    let alibi = Scored { kernel: "alibi", ..plain.clone() };
    let nearer = Scored { kernel: "relative-bias", ..plain.clone() };
    let off_by_one = Scored { options: vec![("ahead", 1)], ..nearer.clone() };
    let sunk = Scored { kernel: "learnable-sink", ..plain.clone() };
    let softcap = |cap| Scored { kernel: "softcap", options: vec![("cap", cap)], ..plain.clone() };
    for (right, wrong) in [
        (&alibi, &plain),
        (&plain, &alibi),
        (&softcap(2), &plain),
        (&softcap(2), &softcap(3)),
        (&nearer, &off_by_one),
        (&nearer, &plain),
        (&sunk, &plain),
    ] {
        let verdicts = wrong.run(&emulator, right);
        assert!(!verdicts.o.ok && !verdicts.lse.ok, "{wrong:?} passes for {right:?}:\n{verdicts}");
    }
}

/// Rows of a group have a head each: numbers of heads and rows of tables differ from row to row, and padding reads the last.
#[test]
fn groups_over_picked_blocks() {
    let mut cases = Vec::new();
    for (score, sinks) in [(Some("alibi"), false), (Some("softcap"), true), (Some("relative-bias"), true), (None, true)]
    {
        for (group, width) in [(1, 32), (3, 64), (16, 32), (16, 128)] {
            let mut case = Scored::new("nsa-selected", width, group, LENGTHS[cases.len() % 4]).under(score, sinks);
            case.options = vec![("block", [16, 64][cases.len() % 2]), ("blocks", 3)];
            case.elem = if cases.len() % 2 == 0 { Elem::Bf16 } else { Elem::F16 };
            cases.push(case);
        }
    }
    agree("scores: groups", &cases);
}

#[test]
fn any_mask_under_any_score() {
    let masks = [
        ("window", vec![("window", 20)]),
        ("sink-window", vec![("window", 20), ("sink", 3)]),
        ("full", vec![]),
        ("dilated", vec![("step", 3)]),
        ("longformer", vec![("reach", 9), ("global", 2)]),
    ];
    let mut cases = Vec::new();
    for (n, (kernel, options)) in masks.into_iter().enumerate() {
        let (score, ahead) = [(Some("relative-bias"), true), (Some("softcap"), false), (Some("alibi"), false)][n % 3];
        let mut case = Scored::new(kernel, 64, 3, LENGTHS[n % 4]).under(score, n % 2 == 0);
        case.options = options;
        case.options.extend(ahead.then_some(("ahead", 64)));
        cases.push(case);
    }
    agree("scores: masks", &cases);
}

/// What a sink is where nothing else is: a row without keys has it as its LSE, and zeros.
#[test]
fn a_sink_alone_is_the_lse() {
    let none = f32::NEG_INFINITY;
    let sinks = [2.5, none, -40.0, 1e4];
    let case = Scored { empty: true, ..Scored::new("nsa-selected", 32, 2, &[17, 0, 5]).under(None, true) };
    let case = Scored { options: vec![("blocks", 3)], ..case.with("sinks", &[4], sinks.to_vec()) };
    agree("sinks: no key", &[case]);
    // Beyond the logits and below them, by more than an exponent holds; and none at all.
    let far = [200.0, -200.0, none, 0.0];
    let seen =
        |kernel, width| Scored::new(kernel, width, 2, &[150, 1]).under(None, true).with("sinks", &[4], far.to_vec());
    agree("sinks: far", &[seen("causal", 64), seen("window", 128), seen("nsa-selected", 64)]);
}

/// NaN and infinities in tables and sinks are logits like others: as in the plain formula.
#[test]
fn tables_of_any_numbers() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let bias = |kernel: &'static str, rows: [[f32; 4]; 4]| {
        let own = kernel == "relative-bias";
        let case = Scored::new(kernel, 32, 2, &[70, 9]).under((!own).then_some("relative-bias"), false);
        case.with("bias", &[4, 4], rows.concat())
    };
    let rows = [[0.5, -inf, 1.0, 2.0], [-inf; 4], [0.0, 1.0, nan, -inf], [-1.0, -2.0, -inf, -inf]];
    let one = Scored::new("relative-bias", 32, 2, &[70, 9]).with("bias", &[4, 1], vec![0.5, -1.0, -inf, 3.0]);
    let sinks =
        |kernel| Scored::new(kernel, 32, 2, &[70, 9]).under(None, true).with("sinks", &[4], vec![nan, 1.0, nan, -inf]);
    let cases = [bias("relative-bias", rows), bias("nsa-selected", rows), one, sinks("causal"), sinks("nsa-selected")];
    agree("tables: any numbers", &cases);
}

#[test]
fn a_table_needs_an_entry() {
    let case = Scored::new("relative-bias", 32, 1, &[3]).with("bias", &[2, 0], vec![]);
    let refused = case.attention().tables(&case.tables, 2, 0).unwrap_err().to_string();
    assert_eq!(refused, "bias has no entries; an index past its end reads the last one, so it needs at least 1");
    let plan = case.attention().plan(Target::SM_80, &Pick::new()).expect("a plan");
    let wants = plan.requires.iter().any(|requirement| requirement.what.contains("`bias` must have at least 1 entry"));
    assert!(wants, "{:?}", plan.requires);
}
