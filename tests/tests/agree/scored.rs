//! The schedule with scores: every shipped score over ragged documents, at every width and pick.

use half::{bf16, f16};
use lacuna_dsl::{Elem, Pick, Shape, Tunable};
use lacuna_kernels::host::{Dims, Float, Precision};
use lacuna_kernels::inputs::{self, Qkv};
use lacuna_kernels::reference::Problem;
use lacuna_kernels::registry::{self, Attention, Extras};
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
    pick: Pick,
    elem: Elem,
    /// The standard deviation of the logits.
    logits: f32,
}

impl Scored {
    fn new(kernel: &'static str, width: u32, group: u32, lengths: &[usize]) -> Self {
        let (lengths, pick) = (lengths.to_vec(), Pick::new());
        Scored { kernel, options: Vec::new(), width, group, lengths, pick, elem: Elem::Bf16, logits: 1.0 }
    }

    fn attention(&self) -> Attention {
        let kernel = registry::find(self.kernel).expect("a shipped kernel");
        let options = kernel.options(self.options.iter().copied()).expect("options that it has");
        kernel.build(Shape::new(self.elem, self.width, self.width, self.group), &options).expect("a shape")
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
        let dims = Dims { total, hq, hk: 2, dk: width, dv: width };
        let Qkv { q, k, v } = inputs::large_logits::<T>(7, dims, self.logits);
        let cu = inputs::cu_seqlens(&self.lengths);
        let attention = self.attention();
        let target = target_for(device);
        let pick = attention.pick(target, &self.pick).expect("a pick that fits");
        let plan = attention.plan(target, &pick).expect("a plan");
        let tensor = |x: &lacuna_kernels::host::Host<T>| {
            Tensor::from_slice(device, &x.shape.map(|extent| extent as u64), &x.data).expect("memory")
        };
        let (total, heads) = (total as u64, hq as u64);
        let o = Tensor::poisoned(device, self.elem, &[total, heads, width as u64]).expect("memory");
        let lse = Tensor::poisoned(device, Elem::F32, &[total, heads]).expect("memory");
        let cu_seqlens = Tensor::from_slice(device, &[cu.len() as u64], &cu).expect("memory");
        let scale = 1.0 / (self.width as f32).sqrt();
        let longest = self.lengths.iter().max().copied().unwrap_or(0);
        let mut bindings = Bindings::new().tensor("q", &tensor(&q)).tensor("k", &tensor(&k)).tensor("v", &tensor(&v));
        bindings = bindings.tensor("o", &o).tensor("lse", &lse).tensor("cu_seqlens", &cu_seqlens);
        bindings = bindings.float("scale", scale).int("max_seqlen", longest as i32);
        for (name, numbers) in attention.tables(hq) {
            bindings = bindings.tensor(&name, &Tensor::from_slice(device, &[heads], &numbers).expect("memory"));
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
        let problem = Problem { q: &q, k: &k, v: &v, cu_seqlens: &cu, scale };
        let expected = judge.attention().expected(&problem, None, &Extras::new(), None);
        let stored = if self.elem == Elem::Bf16 { Precision::Bf16 } else { Precision::F16 };
        expected.check(&o.to_f32_vec().expect("memory"), &lse.to_f32_vec().expect("memory"), stored)
    }
}

fn agree(title: &str, cases: &[Scored]) {
    println!("\n{title}: {} cases; error and allowed of o, of LSE", cases.len());
    for (case, device) in cases.iter().flat_map(|case| devices().iter().map(move |device| (case, device))) {
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
    for (kernel, options) in [("alibi", vec![]), ("softcap", vec![]), ("softcap", vec![("cap", 2)])] {
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

#[test]
fn scores_at_every_pick() {
    let mut cases = Vec::new();
    for kernel in ["alibi", "softcap"] {
        for pick in Scored::new(kernel, 32, 1, &[1]).attention().space().picks() {
            let mut case = Scored::new(kernel, 32, 2, LENGTHS[cases.len() % 4]);
            case.pick = pick;
            cases.push(case);
        }
    }
    agree("scores: picks", &cases);
}

/// Without its score, or under one that is nearly right, the result is beyond the tolerance.
#[test]
fn a_score_that_is_nearly_right_is_not() {
    let emulator = Device::emulator();
    let plain = Scored::new("causal", 64, 2, &[150]);
    let alibi = Scored { kernel: "alibi", ..plain.clone() };
    let softcap = |cap| Scored { kernel: "softcap", options: vec![("cap", cap)], ..plain.clone() };
    for (right, wrong) in [(&alibi, &plain), (&plain, &alibi), (&softcap(2), &plain), (&softcap(2), &softcap(3))] {
        let verdicts = wrong.run(&emulator, right);
        assert!(!verdicts.o.ok && !verdicts.lse.ok, "{wrong:?} passes for {right:?}:\n{verdicts}");
    }
}
