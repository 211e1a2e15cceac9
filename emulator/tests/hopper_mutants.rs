//! Every instruction of the hand-made kernels for sm_90a that orders copies, products, phases or warps is needed, and the
//! emulator names it when it is gone or altered.
//!
//! One line at a time is changed, and the rest runs at a small size; what survives is listed with the reason. Of the kernels
//! that share their text with the first, every third change is made.

#![allow(clippy::print_stdout, reason = "what each change comes to is for people to read")]

mod common;
#[path = "common/hopper.rs"]
mod hopper;

use common::error;
use hopper::*;
use lacuna_emulator::{Fault, Options};
use rayon::prelude::*;

/// The instructions that order something.
const ORDERING: [&str; 15] = [
    "mbarrier.init",
    "fence.mbarrier_init",
    "mbarrier.arrive.expect_tx",
    "mbarrier.arrive.shared",
    "mbarrier.try_wait",
    "fence.proxy.async",
    "bar.sync",
    "bar.arrive",
    "wgmma.fence",
    "wgmma.commit_group",
    "wgmma.wait_group",
    "cp.async.bulk.commit_group",
    "cp.async.bulk.wait_group",
    "cp.async.wait_all",
    "setmaxnreg",
];

/// A text with one change.
struct Mutant {
    /// The instruction, which of its kind, and the change: `bar.sync 2 deleted`.
    what: String,
    text: String,
    /// The text with a `trap` in its place, which is not reached where the instruction is not.
    trap: String,
}

/// The instruction of a line, without its guard.
fn instruction(line: &str) -> &str {
    let line = line.trim_start();
    if line.starts_with('@') { line.split_once(' ').map_or(line, |(_, rest)| rest) } else { line }
}

/// The integer that a line ends with, and the line with another.
fn with_number(line: &str, f: impl Fn(u32) -> u32) -> Option<String> {
    let (head, number) = line.trim_end().strip_suffix(';')?.rsplit_once(' ')?;
    Some(format!("{head} {};", f(number.parse().ok()?)))
}

/// A text whose words have one more register, and its name.
fn with_register(text: &str) -> (String, String) {
    let (before, after) = text.split_once(".reg .b32 %r<").expect("words are declared");
    let (count, rest) = after.split_once('>').expect("how many");
    let count: u32 = count.parse().expect("a number");
    (format!("{before}.reg .b32 %r<{}>{rest}", count + 1), format!("%r{count}"))
}

/// Every change to a text.
fn mutants(text: &str) -> Vec<Mutant> {
    let (text, spare) = with_register(text);
    let lines: Vec<&str> = text.lines().collect();
    let mut mutants = Vec::new();
    for kind in ORDERING {
        let places = (0..lines.len()).filter(|&i| instruction(lines[i]).starts_with(kind));
        for (number, at) in places.enumerate() {
            let line = lines[at];
            // A wait is a loop of two lines.
            let end = if kind == "mbarrier.try_wait" { at + 2 } else { at + 1 };
            let mut change = |how: &str, new: &str| {
                let with = |new| [&lines[..at], &[new], &lines[end..]].concat().join("\n");
                mutants.push(Mutant { what: format!("{kind} {number} {how}"), text: with(new), trap: with("trap;") });
            };
            change("deleted", "");
            match kind {
                "mbarrier.init" => {
                    change("for one more", &with_number(line, |count| count + 1).expect("a count"));
                }
                "mbarrier.arrive.expect_tx" => {
                    change("of 16 bytes more", &with_number(line, |bytes| bytes + 16).expect("bytes"));
                }
                "mbarrier.try_wait" => {
                    let (head, parity) = line.trim_end_matches(';').rsplit_once(' ').expect("a parity");
                    let other = format!("xor.b32 {spare}, {parity}, 1;\n{head} {spare};\n{}", lines[at + 1]);
                    let other = if parity == "0" { format!("{head} 1;\n{}", lines[at + 1]) } else { other };
                    change("of the other parity", &other);
                }
                "bar.sync" | "bar.arrive" => {
                    if let Some(more) = with_number(line, |count| count + 32).filter(|_| line.contains(", ")) {
                        change("for 32 more", &more);
                    }
                }
                "wgmma.wait_group" | "cp.async.bulk.wait_group" => {
                    change("for one group fewer", &with_number(line, |groups| groups + 1).expect("groups"));
                }
                _ => {}
            }
        }
    }
    mutants
}

/// What became of a change.
enum Fate {
    Found(Box<Fault>),
    Wrong,
    Survived,
}

/// Runs a text: whether its result is right.
type Trial = Box<dyn Fn(&str, &Options) -> Result<bool, Box<Fault>> + Sync>;

/// A kernel at a size.
struct Subject {
    name: &'static str,
    text: &'static str,
    run: Trial,
    /// Of so many changes one is made.
    every: usize,
}

impl Subject {
    fn fate(&self, text: &str) -> Fate {
        for seed in 0..3 {
            let options = Options { seed, threads: 1, max_instructions: Some(3_000_000), ..Options::default() };
            match (self.run)(text, &options) {
                Ok(true) => {}
                Ok(false) => return Fate::Wrong,
                Err(fault) => return Fate::Found(fault),
            }
        }
        Fate::Survived
    }
}

fn attention(name: &'static str, text: &'static str, cases: Vec<Attention>, tiles: Tiles, every: usize) -> Subject {
    let cases: Vec<_> = cases.into_iter().map(|case| (case.expected(), case)).collect();
    let run = move |text: &str, options: &Options| {
        for ((exact, exact_lse), case) in &cases {
            let (o, lse, _) = case.run(text, tiles, options)?;
            if error(&o, exact) >= 2.5e-3 || error(&lse, exact_lse) >= 1e-5 {
                return Ok(false);
            }
        }
        Ok(true)
    };
    Subject { name, text, run: Box::new(run), every }
}

fn backward(name: &'static str, text: &'static str, causal: bool, every: usize) -> Subject {
    let case = Backward::draw(if causal { 384 } else { 256 }, causal);
    let exact = case.expected();
    let run = move |text: &str, options: &Options| {
        Ok(case.run(text, options)?.iter().zip(&exact).all(|(out, exact)| error(out, exact) < 3e-3))
    };
    Subject { name, text, run: Box::new(run), every }
}

fn subjects() -> Vec<Subject> {
    let gathered = Gathered::draw(1, 5, 90);
    let (exact, _) = gathered.expected();
    let gather = move |text: &str, options: &Options| Ok(error(&gathered.run(text, options)?.0, &exact) < 2.5e-3);
    let tile = |text: &str, options: &Options| {
        let (c, exact) = product(text, 64, 64, options)?;
        Ok(error(&c, &exact) < 2.5e-3)
    };
    let of = |queries, keys, width, causal| Attention::draw(queries, keys, 1, 1, width, causal);
    vec![
        Subject { name: "product", text: PRODUCT, run: Box::new(tile), every: 1 },
        attention("forward", FORWARD, vec![of(128, 512, 128, false)], D128, 1),
        attention("deferred", DEFERRED, vec![of(128, 512, 128, false), of(128, 640, 128, false)], D128, 3),
        attention("causal", CAUSAL, vec![of(512, 512, 128, true)], D128, 3),
        attention("narrow", NARROW, vec![of(192, 512, 64, false)], D64, 3),
        attention("wide", WIDE, vec![of(128, 320, 256, false)], D256, 3),
        Subject { name: "gather", text: GATHER, run: Box::new(gather), every: 1 },
        backward("backward", BACKWARD, false, 1),
        backward("backward causal", BACKWARD_CAUSAL, true, 3),
    ]
}

/// Changes that survive, and why they are no fault of the emulator.
const SURVIVORS: [(&str, &str); 10] = [
    // The warpgroups take turns at the tensor cores for speed: waiting for one's turn orders nothing.
    ("forward|deferred|causal|narrow|wide", "bar.sync 1 deleted|bar.sync 2 deleted"),
    // What a warp really uses of its registers is ptxas's to know; and where nobody asks for more, nobody need give.
    ("forward|backward", "setmaxnreg 1 deleted"),
    ("gather", "setmaxnreg 0 deleted|setmaxnreg 1 deleted"),
    // The last release of a stage is for a producer that has ended.
    ("forward", "mbarrier.arrive.shared 3 deleted"),
    ("deferred", "mbarrier.arrive.shared 5 deleted|mbarrier.arrive.shared 8 deleted"),
    ("causal", "mbarrier.arrive.shared 5 deleted"),
    // No register of the product was touched since the fence of the one before.
    ("forward|backward", "wgmma.fence 1 deleted|wgmma.fence 2 deleted|wgmma.fence 3 deleted|wgmma.fence 4 deleted"),
    // The gradient's stage is filled again after Q's was released, and each warp releases the gradient's first.
    ("backward", "mbarrier.try_wait 1 deleted|wgmma.commit_group 2 deleted|wgmma.wait_group 2"),
    // Whose sources were waited for may end; the stores of the gradient of V are waited for with those of K.
    ("backward", "cp.async.bulk.wait_group 2|cp.async.bulk.commit_group 2 deleted"),
    // Either of the barriers before the two outputs orders them after the last product.
    ("backward", "bar.sync 5 deleted|bar.sync 7 deleted"),
];

fn may_survive(subject: &Subject, mutant: &Mutant) -> bool {
    let kernel = subject.name.trim_end_matches(" causal");
    SURVIVORS.iter().any(|(kernels, changes)| {
        kernels.split('|').any(|name| name == kernel)
            && changes.split('|').any(|change| mutant.what.starts_with(change))
    })
}

/// A report names lines of the text as it ran.
fn names_its_lines(fault: &Fault, text: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let here =
        |line: usize| line.checked_sub(1).and_then(|at| lines.get(at)).is_some_and(|line| !line.trim().is_empty());
    !fault.sites.is_empty() && fault.sites.iter().all(|site| here(site.line))
}

#[test]
fn every_ordering_instruction_is_needed_and_found_gone() {
    let mut trouble: Vec<String> = Vec::new();
    for subject in subjects() {
        assert!(matches!(subject.fate(subject.text), Fate::Survived), "{} as it is", subject.name);
        let mutants: Vec<Mutant> = mutants(subject.text).into_iter().step_by(subject.every).collect();
        let all: Vec<(String, Option<String>)> = mutants
            .par_iter()
            .map(|mutant| {
                let (fate, bad) = match subject.fate(&mutant.text) {
                    Fate::Found(fault) if !names_its_lines(&fault, &mutant.text) => (fault.to_string(), true),
                    Fate::Found(fault) => (fault.kind.title().to_owned(), false),
                    Fate::Wrong => ("wrong".to_owned(), false),
                    Fate::Survived if matches!(subject.fate(&mutant.trap), Fate::Survived) => {
                        ("not reached".to_owned(), false)
                    }
                    Fate::Survived => ("survived".to_owned(), !may_survive(&subject, mutant)),
                };
                let what = format!("{}: {}: {fate}", subject.name, mutant.what);
                (what.clone(), bad.then_some(what))
            })
            .collect();
        all.iter().for_each(|(what, _)| println!("{what}"));
        trouble.extend(all.into_iter().filter_map(|(_, bad)| bad));
    }
    assert!(trouble.is_empty(), "{}", trouble.join("\n"));
}
