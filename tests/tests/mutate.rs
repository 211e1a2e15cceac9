//! Every wait, commit and barrier of the shipped kernels is needed, and the emulator notices when one is gone.
//!
//! One line at a time is deleted from the PTX of a default pick, or its wait made to wait for one group fewer; the rest runs
//! at a small size. What survives is listed with the reason.
#![allow(clippy::print_stdout, reason = "what each change comes to is for people to read")]

use std::sync::Arc;

use lacuna_dsl::{Plan, Target};
use lacuna_emulator::{FaultKind, Options};
use lacuna_kernels::inputs::Locality;
use lacuna_runtime::{Device, Error};
use lacuna_tests::{Case, Picks, Problem, Seen, Work, run};

/// The lines that order asynchronous copies and threads.
const ORDERING: [&str; 3] = ["cp.async.wait_group", "cp.async.commit_group", "bar.sync"];

/// What became of a change.
#[derive(Debug, PartialEq)]
enum Fate {
    Found(FaultKind),
    Wrong,
    Survived,
}

/// A text with one change, and what the change is.
struct Mutant {
    what: String,
    text: String,
}

/// Every change to a text, named by the instruction, which of its kind it is, and what stands around it.
fn mutants(text: &str) -> Vec<Mutant> {
    let lines: Vec<&str> = text.lines().collect();
    let mut mutants = Vec::new();
    for kind in ORDERING {
        let places = (0..lines.len()).filter(|&i| lines[i].trim_start().starts_with(kind));
        for (number, at) in places.enumerate() {
            let with = |line: Option<&str>| {
                let changed = lines.iter().enumerate().filter_map(|(i, old)| if i == at { line } else { Some(*old) });
                changed.map(|line| format!("{line}\n")).collect::<String>()
            };
            mutants.push(Mutant { what: format!("{kind} {number} deleted"), text: with(None) });
            let groups = lines[at].trim().strip_prefix("cp.async.wait_group ").and_then(|rest| rest.strip_suffix(';'));
            if let Some(groups) = groups {
                let groups: u32 = groups.parse().expect("a number of groups");
                let line = format!("  cp.async.wait_group {};", groups + 1);
                mutants.push(Mutant { what: format!("{kind} {number} for one group fewer"), text: with(Some(&line)) });
            }
        }
    }
    mutants
}

/// Runs a text in the place of the plan's, in several orders of turns.
fn fate(plan: &Plan, text: &str, problem: &Problem) -> Fate {
    let mut plan = plan.clone();
    plan.launches[0].ptx = Arc::from(text);
    for seed in 0..4 {
        let options = Options { seed, max_instructions: Some(50_000_000), ..Options::default() };
        match run(&Device::emulator_with(options), &plan, problem) {
            Ok(outcome) if problem.judge(&[&outcome]).iter().all(|verdicts| verdicts.ok()) => {}
            Ok(_) => return Fate::Wrong,
            Err(Error::Fault { fault, .. }) => return Fate::Found(fault.kind),
            Err(other) => panic!("{other}"),
        }
    }
    Fate::Survived
}

/// Makes every change; compares what survives with the list.
fn survivors(case: &Case, expected: &[&str]) {
    let plan = case.plan(Target::SM_80).expect("the default pick fits");
    let problem = Problem::draw(case);
    let text = plan.launches[0].ptx.clone();
    assert_eq!(fate(&plan, &text, &problem), Fate::Survived, "{case}: the text as it is");
    let mut survived = Vec::new();
    let all = mutants(&text);
    for Mutant { what, text } in &all {
        let fate = fate(&plan, text, &problem);
        println!(
            "{what}: {}",
            match &fate {
                Fate::Found(kind) => kind.title(),
                Fate::Wrong => "wrong",
                Fate::Survived => "survived",
            }
        );
        if fate == Fate::Survived {
            survived.push(what.as_str());
        }
    }
    assert!(all.len() >= 6, "{} changes to {case}", all.len());
    assert_eq!(survived, expected, "of {} changes to {case}", all.len());
}

fn query_major(width: u32) -> Case {
    Case::new(Work::QueryMajor(Seen::Causal), width, 1, &[200])
}

fn group_centric(width: u32, group: u32) -> Case {
    let picks = Picks::Drawn(Locality::PerBlock);
    Case::new(Work::GroupCentric(picks, 4), width, group, &[200])
}

/// The wait behind the loop is for copies that nothing reads: a round commits a group also where no block is left to fetch,
/// so the groups still under way when the loop ends are empty. It stands there so that nothing can be in flight when a CTA
/// ends or uses its shared memory again.
const DRAIN: [&str; 2] = ["cp.async.wait_group 2 deleted", "cp.async.wait_group 2 for one group fewer"];

#[test]
fn query_major_64() {
    survivors(&query_major(64), &DRAIN);
}

/// Q stays in shared memory at this width, so nothing waits for it alone: without a commit of its own it is part of the
/// first block's group, which is waited for before either is used.
#[test]
fn query_major_128() {
    let drain = ["cp.async.wait_group 1 deleted", "cp.async.wait_group 1 for one group fewer"];
    survivors(&query_major(128), &[drain[0], drain[1], "cp.async.commit_group 0 deleted"]);
}

#[test]
fn group_centric_of_16() {
    survivors(&group_centric(64, 16), &DRAIN);
}

#[test]
fn group_centric_of_64() {
    survivors(&group_centric(128, 64), &DRAIN);
}
