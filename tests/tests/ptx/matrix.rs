//! A line for each kernel, width, group and pick: a change that should not change code shows that it did not, and one that
//! should shows what it costs.

use std::fmt::Write as _;
use std::time::Instant;

use lacuna_dsl::{Pick, Plan, Target};
use lacuna_kernels::registry::Kernel;
use lacuna_ptx::tools::Usage;
use lacuna_tests::widths;
use rayon::prelude::*;

use crate::kernels::{
    TARGETS, assembled, attending, attention, default_pick, group, kernels, picks, plan, text, written,
};
use crate::snapshots::settings;

/// Kernels with masks differ in little but the mask, so their other picks are looked at for one of them.
const EVERY_PICK: [&str; 2] = ["sink-window", "nsa-selected"];

struct Line {
    kernel: &'static Kernel,
    width: u32,
    group: u32,
    pick: Pick,
    default: bool,
}

fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    for kernel in kernels() {
        // Rows of one band and of four, where rows are a group.
        let groups = if kernel.name == "nsa-selected" { vec![group(kernel), 64] } else { vec![group(kernel)] };
        for (width, group) in widths().into_iter().flat_map(|width| groups.iter().map(move |&group| (width, group))) {
            let make = || attention(kernel, width, group);
            let usual = default_pick(&make(), Target::SM_80);
            let all = picks(&make(), Target::SM_80).into_iter();
            let picks = all.filter(|pick| EVERY_PICK.contains(&kernel.name) || *pick == usual);
            for pick in picks {
                let default = pick == usual;
                lines.push(Line { kernel, width, group, pick, default });
            }
        }
    }
    lines
}

/// How often instructions with this beginning stand in the text.
fn count(text: &str, what: &str) -> usize {
    let instruction = |line: &str| {
        let line = line.trim_start();
        let line = if line.starts_with('@') { line.split_once(' ').map_or(line, |(_, rest)| rest) } else { line };
        line.starts_with(what)
    };
    text.lines().filter(|line| instruction(line)).count()
}

/// `124`, `124!8` with 8 bytes spilled; `-` where the pick does not fit, a space where it was not assembled.
fn registers(usage: &Option<Option<Usage>>) -> String {
    match usage {
        None => String::new(),
        Some(None) => "-".to_owned(),
        Some(Some(usage)) => match usage.spill_stores + usage.spill_loads + usage.stack {
            0 => usage.registers.to_string(),
            bytes => format!("{}!{bytes}", usage.registers),
        },
    }
}

#[test]
fn what_every_pick_costs() {
    let begin = Instant::now();
    let lines = lines();
    let row = |line: &Line| {
        let Line { kernel, width, group, pick, default } = line;
        let plan = |target| plan(&attention(kernel, *width, *group), target, pick);
        // Other picks are assembled for the lowest target and for the one with the most shared memory.
        let wanted = |target| *default || [Target::SM_80, Target::SM_90].contains(&target);
        let used = |&target: &Target| wanted(target).then(|| plan(target).map(|plan| assembled(&plan)));
        let used: Vec<Option<Option<Usage>>> = TARGETS.par_iter().map(used).collect();
        let mut row =
            format!("{:13} {width:4} {group:3} {:34}", kernel.name, written(pick) + if *default { " *" } else { "" });
        match plan(Target::SM_80) {
            None => row.push_str("does not fit"),
            Some(plan) => describe(&mut row, &plan, &used),
        }
        row.truncate(row.trim_end().len());
        row
    };
    let rows: Vec<String> = lines.par_iter().map(row).collect();
    println!("{} lines in {:.0?}", rows.len(), begin.elapsed());
    let mut head = format!("{:13} {:>4} {:>3} {:34}", "kernel", "D", "G", "pick (*: the default)");
    let _ = write!(head, "{:12} {:>6} {:>5}  mma ldm cpa bar ex2 ", "hash", "shared", "insts");
    TARGETS.iter().for_each(|target| write!(head, "{:>9}", target.to_string()).expect("a string takes all"));
    let note =
        "Instructions as they stand in the text; then registers a thread by target, with `!` and the bytes that spill.";
    let table = format!("{note}\n\n{head}\n{}\n", rows.join("\n"));
    settings().bind(|| insta::assert_snapshot!("matrix", table));
}

fn describe(row: &mut String, plan: &Plan, used: &[Option<Option<Usage>>]) {
    let text = text(plan);
    let hash = blake3::hash(text.as_bytes()).to_hex();
    let instructions = text.lines().filter(|line| line.trim_start().ends_with(';') && !line.contains(".reg")).count();
    let _ = write!(row, "{} {:6} {instructions:5} ", &hash[..12], attending(plan).shared);
    for what in ["mma.sync", "ldmatrix", "cp.async.cg", "bar.sync", "ex2"] {
        let _ = write!(row, " {:3}", count(text, what));
    }
    row.push(' ');
    for usage in used {
        let _ = write!(row, "{:>9}", registers(usage));
    }
}
