//! Every instruction of the shipped kernels that orders copies, threads or lanes is needed, and the emulator notices when it is
//! gone or altered, and names the PTX line and the author's line.
//!
//! The kernels are those of the registry, each at its default pick: a new one is covered as soon as it is registered. One line
//! at a time is changed; the rest runs at a small size. What survives is listed with the reason.
#![allow(clippy::print_stdout, reason = "what each change comes to is for people to read")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use half::bf16;
use lacuna_codegen::plan::Access;
use lacuna_dsl::{Elem, Pick, Plan, Shape, Target, Tunable};
use lacuna_emulator::{Fault, Options};
use lacuna_kernels::host::{Dims, Host, Precision};
use lacuna_kernels::inputs::{self, Locality, Qkv};
use lacuna_kernels::reference::Problem;
use lacuna_kernels::registry::{Allowed, Attention, Expected, Extras, KERNELS, Kernel, Need, Setting, Tables};
use lacuna_runtime::{Bindings, Device, Error, Scalar, Tensor};
use rayon::prelude::*;

/// The instructions that order asynchronous copies, threads and lanes.
const ORDERING: [&str; 19] = [
    "cp.async.wait_group",
    "cp.async.wait_all",
    "cp.async.commit_group",
    "bar.sync",
    "bar.arrive",
    "bar.warp.sync",
    "membar",
    "fence.proxy.async",
    "fence.mbarrier_init",
    "mbarrier.init",
    "mbarrier.arrive",
    "mbarrier.try_wait",
    "cp.async.bulk.commit_group",
    "cp.async.bulk.wait_group",
    "wgmma.fence",
    "wgmma.commit_group",
    "wgmma.wait_group",
    "shfl.sync",
    "vote.sync",
];

/// Every lane, as a member mask is printed, and all lanes but the last.
const MASKS: [&str; 2] = ["4294967295", "2147483647"];

/// What became of a change.
enum Fate {
    Found(Box<Fault>),
    /// No fault of an instruction: what a launch leaves behind is in the next one's way.
    Left(String),
    Wrong,
    Survived,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Found(fault) => f.write_str(fault.kind.title()),
            Fate::Left(what) => f.write_str(what),
            Fate::Wrong => f.write_str("wrong"),
            Fate::Survived => f.write_str("survived"),
        }
    }
}

/// A text with one change.
struct Mutant {
    /// The kernel of the plan whose text it is.
    launch: usize,
    /// The instruction, which of its kind, and the change: `bar.sync 2 deleted`.
    what: String,
    text: String,
}

/// The instruction of a line, without its guard.
fn instruction(line: &str) -> &str {
    let line = line.trim_start();
    if line.starts_with('@') { line.split_once(' ').map_or(line, |(_, rest)| rest) } else { line }
}

/// Every change to a text.
fn mutants(launch: usize, text: &str) -> Vec<Mutant> {
    let lines: Vec<&str> = text.lines().collect();
    let mut mutants = Vec::new();
    for kind in ORDERING {
        let places = (0..lines.len()).filter(|&i| instruction(lines[i]).starts_with(kind));
        for (number, at) in places.enumerate() {
            let mut change = |how: &str, line: Option<&str>| {
                let changed = lines.iter().enumerate().filter_map(|(i, old)| if i == at { line } else { Some(*old) });
                let text = changed.map(|line| format!("{line}\n")).collect();
                mutants.push(Mutant { launch, what: format!("{kind} {number} {how}"), text });
            };
            // Whose result is missing is found by its register, and says nothing of order.
            if !["shfl.sync", "vote.sync", "mbarrier.try_wait"].contains(&kind) {
                change("deleted", None);
            }
            if kind == "mbarrier.try_wait" {
                let operands = instruction(lines[at]).split_once(' ').expect("operands").1;
                let passes = operands.split(',').next().expect("a predicate");
                change("passed at once", Some(&format!("  setp.eq.u32 {passes}, 0, 0;")));
            }
            if kind.ends_with(".wait_group") {
                let (name, groups) = instruction(lines[at]).split_once(' ').expect("a number of groups");
                let groups: u32 = groups.trim_end_matches(';').parse().expect("a number of groups");
                change("for one group fewer", Some(&format!("  {name} {};", groups + 1)));
            }
            if kind == "mbarrier.init" {
                let (barrier, arrivals) = lines[at].rsplit_once(' ').expect("a number of arrivals");
                let arrivals: u32 = arrivals.trim_end_matches(';').parse().expect("a number of arrivals");
                if arrivals > 1 {
                    change("for one arrival fewer", Some(&format!("{barrier} {};", arrivals - 1)));
                }
                change("for one arrival more", Some(&format!("{barrier} {};", arrivals + 1)));
            }
            if kind == "mbarrier.arrive" && instruction(lines[at]) != lines[at].trim_start() {
                change("by every lane", Some(instruction(lines[at])));
            }
            if lines[at].contains(MASKS[0]) {
                change("without a lane", Some(&lines[at].replace(MASKS[0], MASKS[1])));
            }
        }
    }
    mutants
}

/// A kernel at a shape with its operands and what they must give.
struct Subject {
    kernel: &'static Kernel,
    attention: Attention,
    pick: Pick,
    plan: Plan,
    dims: Dims,
    qkv: Qkv<bf16>,
    cu_seqlens: Vec<i32>,
    /// What a launch is told of the longest document.
    longest: usize,
    picks: Option<Host<i32>>,
    extras: Extras,
    tables: Tables,
    expected: Expected,
}

/// One document of some blocks and a tail: of `moba`'s, which have several pieces each.
fn tokens(kernel: &Kernel) -> usize {
    if kernel.name == "moba" { 700 } else { 200 }
}

/// An option that shows on a document of so many tokens.
fn small(setting: &Setting) -> (&'static str, u32) {
    let value = match setting.allowed {
        // Fewer than there are, and more than are fetched ahead.
        _ if setting.name == "top-k" => 5,
        Allowed::Range(low, _) => setting.default.min(7).max(low),
        Allowed::OneOf(_) => setting.default,
        Allowed::Steps(..) => setting.default,
    };
    (setting.name, value)
}

impl Subject {
    fn draw(kernel: &'static Kernel, width: u32, group: u32) -> Subject {
        Self::picked(kernel, width, group, Target::SM_80, &Pick::new())
    }

    fn picked(kernel: &'static Kernel, width: u32, group: u32, target: Target, wanted: &Pick) -> Subject {
        Self::of_tokens(kernel, width, group, target, wanted, tokens(kernel))
    }

    fn of_tokens(
        kernel: &'static Kernel,
        width: u32,
        group: u32,
        target: Target,
        wanted: &Pick,
        tokens: usize,
    ) -> Subject {
        let options = kernel.options(kernel.settings.iter().map(small)).expect("options in their range");
        let attention = kernel.build(Shape::new(Elem::Bf16, width, width, group), &options).expect("a shipped shape");
        let pick = attention.pick(target, wanted).expect("a pick that fits");
        let plan = attention.plan(target, &pick).expect("a pick that fits");
        let (hq, dk) = (group as usize, width as usize);
        let dims = Dims { total: tokens, keys: tokens, hq, hk: 1, dk, dv: dk };
        let cu_seqlens = inputs::cu_seqlens(&[tokens]);
        let qkv = inputs::qkv(1, dims);
        let draw = || {
            let (block, n) = (options.get("block") as usize, options.get("blocks") as usize);
            inputs::picks(101, &cu_seqlens, 1, block, n, Locality::PerBlock)
        };
        let picks = kernel.needs(Need::Picks).then(draw);
        let extras = attention.extras(&Extras::new(), &cu_seqlens, hq, 1).expect("extras are drawn");
        let tables = attention.tables(&Tables::new(), hq, 1).expect("tables are drawn");
        let problem = Problem {
            q: &qkv.q,
            k: &qkv.k,
            v: &qkv.v,
            cu_seqlens: &cu_seqlens,
            cu_seqlens_k: &cu_seqlens,
            scale: scale(dk),
        };
        let expected = attention.expected(&problem, picks.as_ref(), &extras, &tables, None);
        Subject {
            kernel,
            attention,
            pick,
            plan,
            dims,
            qkv,
            cu_seqlens,
            longest: tokens,
            picks,
            extras,
            tables,
            expected,
        }
    }

    /// Runs a plan on the operands. Whether the result is right.
    fn run(&self, device: &Device, plan: &Plan) -> Result<bool, Error> {
        let Dims { total, hq, dk, dv, .. } = self.dims;
        let upload = |x: &Host<bf16>| Tensor::from_slice(device, &x.shape.map(|extent| extent as u64), &x.data);
        let [q, k, v] = [upload(&self.qkv.q)?, upload(&self.qkv.k)?, upload(&self.qkv.v)?];
        let o = Tensor::poisoned(device, Elem::Bf16, &[total as u64, hq as u64, dv as u64])?;
        let lse = Tensor::poisoned(device, Elem::F32, &[total as u64, hq as u64])?;
        let reads = |name: &str| plan.tensors.iter().any(|t| t.name == name && t.access == Access::Read);
        let mut bindings = Bindings::new().tensor("q", &q).tensor("k", &k).tensor("v", &v);
        bindings = bindings.tensor("o", &o).tensor("lse", &lse);
        let ints = |x: &Host<i32>| Tensor::from_slice(device, &x.shape.map(|extent| extent as u64), &x.data);
        if reads("cu_seqlens") {
            let cu = Tensor::from_slice(device, &[self.cu_seqlens.len() as u64], &self.cu_seqlens)?;
            bindings = bindings.tensor("cu_seqlens", &cu);
        }
        if let Some(picks) = self.picks.as_ref().filter(|_| reads("picks")) {
            bindings = bindings.tensor("picks", &ints(picks)?);
        }
        for (name, table) in &self.tables {
            let extents: Vec<u64> = table.shape.iter().map(|&extent| extent as u64).collect();
            bindings = bindings.tensor(name, &Tensor::from_slice(device, &extents, &table.data)?);
        }
        for (name, table) in &self.extras {
            let extents: Vec<u64> = table.shape.iter().map(|&extent| extent as u64).collect();
            bindings = bindings.tensor(name, &Tensor::from_slice(device, &extents, &table.data)?);
        }
        let mut given: BTreeMap<String, Scalar> =
            self.attention.given(plan.target).expect("what was planned is staged");
        given.insert("scale".to_owned(), Scalar::F32(scale(dk)));
        given.insert("max_seqlen".to_owned(), Scalar::I32(self.longest as i32));
        for (name, value) in given.into_iter().filter(|(name, _)| plan.scalars.iter().any(|s| s.name == *name)) {
            bindings = bindings.scalar(&name, value);
        }
        device.run(plan, &bindings)?;
        let written = o.first_poison()?.is_none() && lse.first_poison()?.is_none();
        let verdicts =
            || -> Result<_, Error> { Ok(self.expected.check(&o.to_f32_vec()?, &lse.to_f32_vec()?, Precision::Bf16)) };
        Ok(written && verdicts()?.ok())
    }

    /// Runs a text in the place of one of the plan's, in several orders of turns.
    fn fate(&self, launch: usize, text: &str) -> Fate {
        let mut plan = self.plan.clone();
        plan.launches[launch].ptx = Arc::from(text);
        for seed in 0..3 {
            let options = Options { seed, threads: 1, max_instructions: Some(20_000_000), ..Options::default() };
            match self.run(&Device::emulator_with(options), &plan) {
                Ok(true) => {}
                Ok(false) => return Fate::Wrong,
                Err(Error::Fault { fault, .. }) => return Fate::Found(fault),
                Err(Error::Plan { what, .. }) => return Fate::Left(what),
                Err(other) => panic!("{other}"),
            }
        }
        Fate::Survived
    }
}

fn scale(width: usize) -> f32 {
    1.0 / (width as f32).sqrt()
}

/// A report names the lines of the text as it ran, and the author's.
fn names_its_lines(fault: &Fault, text: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let here =
        |line: usize| line.checked_sub(1).and_then(|at| lines.get(at)).is_some_and(|line| !line.trim().is_empty());
    !fault.sites.is_empty()
        && fault.sites.iter().all(|site| here(site.line) && site.source.as_ref().is_some_and(|at| at.contains(".rs:")))
}

/// Every kernel of the registry at one width, two that differ more at another, and picked blocks for a small group, which go
/// block by block.
fn cases() -> Vec<(&'static Kernel, u32, u32)> {
    let picked = |kernel: &Kernel| kernel.needs(Need::Picks);
    let usual = KERNELS.iter().map(|kernel| (kernel, 64, if picked(kernel) { 16 } else { 1 }));
    let others = KERNELS.iter().filter(|kernel| ["causal", "nsa-selected"].contains(&kernel.name));
    let wide = others.map(|kernel| (kernel, 128, if picked(kernel) { 64 } else { 1 }));
    let by_block = KERNELS.iter().filter(|kernel| picked(kernel)).map(|kernel| (kernel, 64, 4));
    usual.chain(wide).chain(by_block).collect()
}

/// Why a change that survives is no fault of the emulator.
///
/// The wait behind a pipelined loop is for copies that nothing reads: a round commits a group also where no block is left to
/// fetch, so the groups still under way when the loop ends are empty. It stands there so that nothing can be in flight when a
/// CTA ends or uses its shared memory again.
///
/// Of a document so short the pooled keys are one tile, which the gate has fetched before its loop begins.
///
/// Where Q stays in shared memory, which it does at a width of 128 and in the gate, nothing waits for it alone: without a commit
/// of its own it is part of the first block's group, which is waited for before either is used.
///
/// The first barrier of an exchange between warps keeps what the round before reads from being written over. At this size
/// those who classify blocks and sum up lengths of lists have one round.
///
/// Between a read and a later write of one warp, `bar.warp.sync` is what PTX asks for, and no warp of the emulator can tell:
/// its lanes read together, and the order of a warp's own accesses is what `emulator/src/order.rs` lets pass.
fn may_survive(subject: &Subject, mutant: &Mutant, text: &str) -> bool {
    let count = |kind| text.lines().filter(|line| instruction(line).starts_with(kind)).count();
    let mut behind_loop = false;
    let waits = text.lines().filter_map(|line| match instruction(line) {
        label if label.starts_with("done_") => {
            behind_loop = true;
            None
        }
        wait if wait.starts_with("cp.async.wait_group") => Some(std::mem::take(&mut behind_loop)),
        _ => None,
    });
    let drains: Vec<String> =
        waits.enumerate().filter(|(_, drain)| *drain).map(|(i, _)| format!("cp.async.wait_group {i} ")).collect();
    let drained = drains.iter().any(|drain| mutant.what.starts_with(drain));
    let gate = text.contains(".entry moba_route(");
    let one_tile = gate && mutant.what == "cp.async.commit_group 2 deleted";
    let with_block = mutant.what == "cp.async.commit_group 0 deleted" && (subject.dims.dk == 128 || gate);
    let lanes_alone = count("cp.async") == 0;
    let one_round = lanes_alone && mutant.what == "bar.sync 0 deleted";
    let own_warp = lanes_alone && mutant.what.starts_with("bar.warp.sync") && mutant.what.ends_with("deleted");
    drained || one_tile || with_block || one_round || own_warp
}

/// Makes every change to a subject. What should not be so.
fn trouble(subject: &Subject) -> Vec<String> {
    let name = format!("{} D{}", subject.kernel.name, subject.dims.dk);
    let mut trouble = Vec::new();
    let mut changes = 0;
    for (number, launch) in subject.plan.launches.iter().enumerate() {
        let fate = subject.fate(number, &launch.ptx);
        if !matches!(fate, Fate::Survived) {
            trouble.push(format!("{name}: the text as it is: {fate}"));
        }
        for mutant in mutants(number, &launch.ptx) {
            changes += 1;
            let fate = subject.fate(mutant.launch, &mutant.text);
            let what = format!("{name}, {}: {}: {fate}", launch.entry, mutant.what);
            println!("{what}");
            match &fate {
                Fate::Found(fault) if !names_its_lines(fault, &mutant.text) => {
                    trouble.push(format!("{what}, without its lines\n{fault}"));
                }
                Fate::Survived if !may_survive(subject, &mutant, &launch.ptx) => trouble.push(what),
                Fate::Found(_) | Fate::Left(_) | Fate::Wrong | Fate::Survived => {}
            }
        }
    }
    if changes < 6 {
        trouble.push(format!("{name}: only {changes} changes"));
    }
    trouble
}

#[test]
fn every_ordering_instruction_is_needed_and_found_gone() {
    // Kernels of the same text are changed once.
    let seen = Mutex::new(BTreeSet::new());
    let all: Vec<String> = cases()
        .par_iter()
        .flat_map_iter(|&(kernel, width, group)| {
            let subject = Subject::draw(kernel, width, group);
            let texts: Vec<String> = subject.plan.launches.iter().map(|launch| launch.ptx.to_string()).collect();
            let new = seen.lock().is_ok_and(|mut seen| seen.insert(texts));
            if new { trouble(&subject) } else { Vec::new() }
        })
        .collect();
    assert!(all.is_empty(), "{}", all.join("\n"));
}

/// The taking-back of what was drawn, gone and by everybody who draws.
fn takings_back(launch: usize, text: &str) -> Vec<Mutant> {
    let lines: Vec<&str> = text.lines().collect();
    let back = |line: &str| line.trim_start().starts_with('@') && instruction(line).starts_with("atom.global.add");
    let at: Vec<usize> = (0..lines.len()).filter(|&i| back(lines[i])).collect();
    let [at] = at.as_slice() else { panic!("{} takings-back", at.len()) };
    let change = |(how, line): (&str, &str)| {
        let text =
            lines.iter().enumerate().map(|(i, old)| format!("{}\n", if i == *at { line } else { old })).collect();
        Mutant { launch, what: format!("taking back {how}"), text }
    };
    [("deleted", ""), ("by each who draws", instruction(lines[*at]))].map(change).into()
}

/// A pick of two stages for CTAs that do tile after tile in one way or another.
fn tiles(persist: u32, [rows, kv]: [u32; 2]) -> Pick {
    let knobs = [("persist", persist), ("rows", rows), ("kv", kv), ("stages", 2)];
    knobs.map(|(knob, value)| (knob.to_owned(), value)).into()
}

/// Makes every change to a launch of CTAs that do tile after tile. What should be noticed and is not.
fn missed_of_tiles(subject: &Subject, at: usize, harmless: &[&str]) -> Vec<String> {
    let text = subject.plan.launches[at].ptx.to_string();
    let fate = subject.fate(at, &text);
    assert!(matches!(fate, Fate::Survived), "the text as it is: {fate}");
    let persist = subject.pick["persist"];
    let mut mutants = mutants(at, &text);
    if text.contains("tile_counter_ptr") {
        mutants.extend(takings_back(at, &text));
    }
    let missed = |mutant: &Mutant| {
        let fate = subject.fate(at, &mutant.text);
        let what = format!("{} at persist {persist}: {}: {fate}", subject.kernel.name, mutant.what);
        println!("{what}");
        (matches!(fate, Fate::Survived) && !harmless.contains(&mutant.what.as_str())).then_some(what)
    };
    mutants.par_iter().filter_map(missed).collect()
}

/// Between the first of a round's products and the second no register is touched: there needs no fence.
const SECOND_FENCE: &str = "wgmma.fence 2 deleted";

/// The same of CTAs that do tile after tile, beside warps that gather rows: a thread that fetches blocks, those that multiply, and,
/// where it draws, a ring of four numbers, which many tiles go through.
///
/// Before the first number its slot is empty, and nobody need wait for it. A warp's 32 lanes arrive together, for all that the
/// emulator can tell: where a barrier is for 31, each fill leaves one over, and a phase too many is over after so many fills.
#[test]
fn every_ordering_instruction_of_a_producer_that_gathers_is_needed() {
    let kernel = KERNELS.iter().find(|kernel| kernel.name == "moba").expect("it ships");
    let gathers = |text: &str| text.contains("tile_count") && text.contains("cp.async.cg");
    let harmless = |persist| match persist {
        2 => vec![SECOND_FENCE, "mbarrier.init 0 for one arrival fewer", "mbarrier.init 1 for one arrival fewer"],
        _ => vec![SECOND_FENCE, "mbarrier.try_wait 0 passed at once"],
    };
    let missed = [2, 3].map(|persist| {
        let subject = Subject::picked(kernel, 64, 4, Target::SM_90A, &tiles(persist, [64, 64]));
        let at = subject.plan.launches.iter().position(|launch| gathers(&launch.ptx)).expect("rows are gathered ahead");
        missed_of_tiles(&subject, at, &harmless(persist))
    });
    assert!(missed.concat().is_empty(), "{missed:#?}");
}

/// The same where nothing is gathered: a tile is drawn once all of the one before has been fetched. Many tiles are of rows that the
/// document does not have, which keep no slot of any ring but that of numbers.
#[test]
fn every_ordering_instruction_of_tiles_that_are_drawn_is_needed() {
    let kernel = KERNELS.iter().find(|kernel| kernel.name == "causal").expect("it ships");
    let mut pick = tiles(3, [128, 128]);
    pick.insert("pack".to_owned(), 1);
    // Rounds that need no mask are a loop of their own, with a second fence: a tile has some that are not its first.
    let subject = Subject::of_tokens(kernel, 64, 8, Target::SM_90A, &pick, 420);
    assert_eq!(subject.plan.launches.len(), 1);
    let subject = Subject { longest: 4 * subject.dims.total, ..subject };
    let missed = missed_of_tiles(&subject, 0, &[SECOND_FENCE, "wgmma.fence 4 deleted"]);
    assert!(missed.is_empty(), "{missed:#?}");
}

/// Rounds that need no mask are a loop of their own. A round that needs one and is of that loop all the same is noticed, whether it
/// is the loop's first or follows another.
#[test]
fn a_round_that_needs_its_mask_is_of_no_loop_without_it() {
    let kernel = KERNELS.iter().find(|kernel| kernel.name == "causal").expect("it ships");
    for overlap in [2, 3] {
        let knobs = [("rows", 128), ("kv", 64), ("stages", 2), ("persist", 1), ("pack", 1), ("overlap", overlap)];
        let pick = knobs.map(|(knob, value)| (knob.to_owned(), value)).into();
        // Tiles of none, two and more rounds that need no mask.
        let subject = Subject::of_tokens(kernel, 64, 1, Target::SM_90A, &pick, 700);
        let text = subject.plan.launches[0].ptx.to_string();
        let fate = subject.fate(0, &text);
        assert!(matches!(fate, Fate::Survived), "the text as it is: {fate}");
        for (asks, always) in [("bra others_", ""), ("bra again_", "  bra again_1;")] {
            let asked = |line: &str| line.trim_start().starts_with('@') && instruction(line).starts_with(asks);
            assert_eq!(text.lines().filter(|line| asked(line)).count(), 1, "{asks}");
            let changed = text.lines().map(|line| format!("{}\n", if asked(line) { always } else { line })).collect();
            let mutant = Mutant { launch: 0, what: format!("{asks} not asked"), text: changed };
            let fate = subject.fate(mutant.launch, &mutant.text);
            assert!(!matches!(fate, Fate::Survived), "overlap {overlap}: {}: {fate}", mutant.what);
        }
    }
}
