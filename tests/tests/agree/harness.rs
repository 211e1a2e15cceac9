//! Runs cases wherever they can run, and says how they did.

use std::f32::consts::LOG2_E;
use std::fmt::Write as _;
use std::sync::OnceLock;

use lacuna_dsl::Target;
use lacuna_kernels::inputs::Spoil;
use lacuna_kernels::tolerance::{Verdict, Verdicts};
use lacuna_runtime::Device;
use lacuna_tests::{Case, Outcome, Picks, Problem, Seen, Work, run, target_for, widths};

/// The emulator, and CUDA device 0 where it can be used.
pub(crate) fn devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let gpu = Device::cuda(0);
        match &gpu {
            Ok(device) => println!("emulator, and {device} with PTX for {}", target_for(device)),
            Err(why) => println!("emulator alone: {why}"),
        }
        [Device::emulator()].into_iter().chain(gpu.ok()).collect()
    })
}

/// Every two different widths of keys and values.
pub(crate) fn pairs() -> impl Iterator<Item = (u32, u32)> {
    widths().into_iter().flat_map(|dk| widths().map(|dv| (dk, dv))).filter(|(dk, dv)| dk != dv)
}

/// Runs every case on every device. Prints a line a case: for each device the largest error of outputs and LSE, each over
/// what is allowed.
///
/// # Panics
/// If any is beyond the tolerance, at the end, with all that are.
pub(crate) fn agree(title: &str, cases: &[Case]) {
    let devices = devices();
    let mut table = String::new();
    let mut failures = Vec::new();
    for case in cases {
        let problem = Problem::draw(case);
        let runs = |device: &&Device| case.target.is_none_or(|target| device.targets().contains(&target));
        let devices: Vec<&Device> = devices.iter().filter(runs).collect();
        let outcomes: Vec<Result<Outcome, String>> = devices.iter().map(|device| one(device, &problem)).collect();
        let done: Vec<&Outcome> = outcomes.iter().flatten().collect();
        let mut verdicts = problem.judge(&done).into_iter();
        let mut line = String::new();
        for (device, outcome) in devices.iter().zip(&outcomes) {
            match outcome {
                Ok(_) => {
                    let verdicts = verdicts.next().expect("a verdict for every outcome");
                    let _ = write!(line, "{} ", cells(&verdicts));
                    if !verdicts.ok() {
                        failures.push(format!("{case}\non {device}:\n{verdicts}"));
                    }
                }
                Err(error) => {
                    line.push_str("failed ");
                    failures.push(format!("{case}\non {device}:\n{error}"));
                }
            }
        }
        if let [first, others @ ..] = done.as_slice() {
            for other in others {
                if let Some(at) = (0..first.lse.len()).find(|&i| empty(first.lse[i]) != empty(other.lse[i])) {
                    let (a, b) = (first.lse[at], other.lse[at]);
                    failures.push(format!("{case}\nthe LSE of row {at} is {a} on one device, and {b} on another"));
                }
            }
        }
        let _ = writeln!(table, "{line} {case}");
    }
    let names: Vec<String> = devices.iter().map(|device| format!("{:15}", device.name())).collect();
    println!("\n{title}: {} cases; error/allowed of o, of LSE\n{}\n{table}", cases.len(), names.join(" "));
    let count = failures.len();
    failures.truncate(8);
    assert!(failures.is_empty(), "{title}: {count} failures, the first of them:\n\n{}", failures.join("\n\n"));
}

/// Whether a row has seen no key.
fn empty(lse: f32) -> bool {
    lse == f32::NEG_INFINITY
}

fn one(device: &Device, problem: &Problem) -> Result<Outcome, String> {
    let plan = problem
        .case
        .plan(problem.case.target.unwrap_or_else(|| target_for(device)))
        .map_err(|error| error.to_string())?;
    run(device, &plan, problem).map_err(|error| error.to_string())
}

/// `0.5210  0.0033`: the parts of what is allowed, of outputs and of LSE.
fn cells(verdicts: &Verdicts) -> String {
    let part = |verdict: &Verdict| match verdict.error {
        0.0 => "0".to_owned(),
        error => format!("{:.4}", error / verdict.allowed),
    };
    format!("{:>7} {:>7}", part(&verdicts.o), part(&verdicts.lse))
}

/// A result that is nearly right is not within the tolerance: one key too few or too many, a block left out, another scale.
#[test]
fn near_misses_are_beyond_the_tolerance() {
    let run_here = |case: &Case| {
        let problem = Problem::draw(case);
        let plan = case.plan(Target::SM_80).expect("the default pick fits");
        (run(&Device::emulator(), &plan, &problem).expect("a sound run"), problem)
    };
    let of = |seen| Case::new(Work::QueryMajor(seen), 64, 2, &[150]);
    let selected = |picks| Case::new(Work::GroupCentric(picks, 4), 64, 2, &[150]);
    let right = of(Seen::Window(40));
    let pairs = [
        (right.clone(), of(Seen::Window(41))),
        (right.clone(), of(Seen::Window(39))),
        (right.clone(), of(Seen::WindowSink(40, 1))),
        (right.clone(), Case { scale: Some(0.13), ..right.clone() }),
        (of(Seen::Causal), Case { seed: 2, ..of(Seen::Causal) }),
        (selected(Picks::Everything), selected(Picks::Spoiled(Spoil::Empty))),
        (selected(Picks::Everything), selected(Picks::Spoiled(Spoil::Repeat))),
    ];
    for (right, wrong) in &pairs {
        let (_, problem) = run_here(right);
        let (outcome, _) = run_here(wrong);
        let verdicts = &problem.judge(&[&outcome])[0];
        assert!(!verdicts.o.ok, "outputs of {wrong} pass for those of {right}:\n{verdicts}");
        assert!(!verdicts.lse.ok, "the LSE of {wrong} passes for that of {right}:\n{verdicts}");
    }
    let (outcome, problem) = run_here(&right);
    let lse = outcome.lse.iter().map(|x| x * LOG2_E).collect();
    let nothing = Outcome { o: vec![0.0; outcome.o.len()], lse, routing: None };
    let verdicts = &problem.judge(&[&nothing])[0];
    assert!(!verdicts.o.ok && !verdicts.lse.ok, "zeros, and an LSE in base 2:\n{verdicts}");
}
