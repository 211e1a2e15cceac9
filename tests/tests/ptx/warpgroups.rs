//! What ptxas makes of kernels of warpgroups (sm_90a): that it keeps their products asynchronous, and in the order that was
//! meant.

use lacuna_codegen::plan::Launch;
use lacuna_dsl::{Pick, Target, Tunable as _};
use lacuna_kernels::registry::Kernel;
use lacuna_ptx::tools::{Assembled, Stage, Warpgroups, assemble, disassemble};
use rayon::prelude::*;

use crate::kernels::{attending, attention_of, default_pick, group, kernels, plan, written};

const TARGET: Target = Target::SM_90A;

/// Kernels that warpgroups do not multiply for: rows of one token are too few.
const OTHERS: [&str; 1] = ["nsa-selected"];

/// The ways in which products overlap, as picks say them.
const SERIAL: u32 = 1;
const FENCED: u32 = 2;
const DEFERRED: u32 = 3;

/// CTAs that do one tile, those whose tiles follow from where they stand, and those that draw them, as picks say it.
const ONE_TILE: u32 = 1;
const BY_PLACE: u32 = 2;
const DRAWN: u32 = 3;

/// Where those are looked at whose tiles follow from where they stand, if these are not the usual ones and tiles may be drawn: from
/// those they differ little.
const BY_PLACE_AT: (u32, u32) = (128, 128);

/// A kernel that persists, where it is asked to, with one or two registers more than there are, at two widths: they are in memory
/// from a tile's begin to its end, and not in its loop.
const TIGHT: (&str, [(u32, u32); 2]) = ("token-tree", [(64, 64), (96, 96)]);

struct Line {
    kernel: &'static Kernel,
    shape: (u32, u32),
    pick: Pick,
    /// Whether CTAs do tile after tile in a way that is not the usual one.
    asked: bool,
}

/// Widths of keys and values: one, two, three and four panels of 128 bytes, and three of 64.
const SHAPES: [(u32, u32); 5] = [(64, 64), (128, 128), (256, 256), (192, 128), (96, 96)];

/// Every kernel at its default pick, and the same for CTAs that do one tile or several in each way there is; one at those that differ
/// from these in one knob.
fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    for kernel in kernels().filter(|kernel| !OTHERS.contains(&kernel.name)) {
        for shape in SHAPES {
            let attention = attention_of(kernel, shape.0, shape.1, group(kernel));
            let usual = default_pick(&attention, TARGET);
            let way = |pick: &Pick| pick.get("persist").copied();
            let mut picks = vec![usual.clone()];
            picks.extend(other_ways(&attention, &usual, shape));
            if kernel.name == "sink-window" {
                let space = attention.space(TARGET);
                let around: Vec<Pick> = picks.iter().flat_map(|pick| space.around(pick)).collect();
                picks.extend(around.into_iter().filter(|pick| fits(&attention, pick)));
                picks.sort();
                picks.dedup();
            }
            lines.extend(picks.into_iter().map(|pick| {
                let asked = way(&pick).is_some_and(|way| way != ONE_TILE) && way(&pick) != way(&usual);
                Line { kernel, shape, pick, asked }
            }));
        }
    }
    lines
}

/// A pick for CTAs that do one tile, or several, in each other way that the space has.
fn other_ways(attention: &lacuna_kernels::registry::Attention, usual: &Pick, shape: (u32, u32)) -> Vec<Pick> {
    let knobs = attention.space(TARGET).knobs;
    let ways = knobs.into_iter().find_map(|(knob, ways)| (knob == "persist").then_some(ways)).unwrap_or_default();
    let looked_at = |&way: &u32| way != BY_PLACE || shape == BY_PLACE_AT || !ways.contains(&DRAWN);
    let others = ways.iter().copied().filter(|way| way != &usual["persist"] && looked_at(way));
    let with = |way| Pick::from_iter(usual.clone().into_iter().chain([("persist".to_owned(), way)]));
    others.map(with).collect()
}

/// Whether a pick fits shared memory, and registers by the estimate.
fn fits(attention: &lacuna_kernels::registry::Attention, pick: &Pick) -> bool {
    let most = lacuna_codegen::plan::MAX_REGISTERS;
    plan(attention, TARGET, pick).is_some_and(|plan| attending(&plan).registers <= most)
}

fn attention(line: &Line) -> lacuna_kernels::registry::Attention {
    attention_of(line.kernel, line.shape.0, line.shape.1, group(line.kernel))
}

/// What is wrong with what ptxas makes of a line, if something is.
fn verdict(line: &Line) -> Result<(), String> {
    let plan = plan(&attention(line), TARGET, &line.pick).ok_or("does not fit")?;
    let last = attending(&plan);
    for launch in plan.launches.iter().filter(|launch| launch.by_warpgroups() && !std::ptr::eq(*launch, last)) {
        // Loops whose rounds are constants have fewer products than are written.
        kept(line, launch)?;
    }
    let assembled = kept(line, last)?;
    let machine = disassemble(&assembled.cubin).map_err(|error| error.to_string())?;
    let module = lacuna_ptx::read(&last.ptx).map_err(|error| error.to_string())?;
    let made = Warpgroups::of(&module, &last.entry, &machine.entries[&last.entry]);
    let made = made.ok_or("has no products of warpgroups")?;
    if !made.as_written() {
        return Err(format!("{} products, {} waits, {} fences", made.products, made.waits, made.fences));
    }
    // Of several launches the last has knobs of its own.
    let knob = |name: &str| line.pick.get(&format!("own_{name}")).or(line.pick.get(name));
    if let Some(&overlap) = knob("overlap") {
        let apart = whole_rounds(&last.ptx)?;
        overlaps(&made.stages, overlap, knob("kv").copied().unwrap_or_default() as usize, apart)?;
    }
    Ok(())
}

/// Whether rounds that need no mask are a loop of their own, in which nothing hides a score.
fn whole_rounds(text: &str) -> Result<bool, String> {
    let Some((_, rounds)) = text.split_once("again_1:") else { return Ok(false) };
    let (rounds, _) = rounds.split_once("bra again_1;").ok_or("a loop that does not go on")?;
    let hides = |line: &str| line.trim_start().starts_with("selp.f32") && line.contains("0fFF800000");
    match rounds.lines().find(|line| hides(line)) {
        Some(line) => Err(format!("rounds that need no mask have `{}`", line.trim())),
        None => Ok(true),
    }
}

/// What ptxas makes of a launch, without a remark, and without anything that a thread keeps in memory.
fn kept(line: &Line, launch: &Launch) -> Result<Assembled, String> {
    let assembled = assemble(&launch.ptx, TARGET).map_err(|error| error.to_string())?;
    if let Some(remark) = assembled.remark() {
        return Err(format!("{}: {remark}", launch.entry));
    }
    let used = assembled.usage(&launch.entry).ok_or("ptxas reports nothing of the entry")?;
    let tight = line.kernel.name == TIGHT.0 && TIGHT.1.contains(&line.shape) && line.asked;
    let kept = if tight { 8 } else { 0 };
    if used.spill_stores.max(used.spill_loads).max(used.stack) > kept {
        let spills = used.spill_stores + used.spill_loads;
        return Err(format!("{}: {spills} bytes of spills, {} of stack", launch.entry, used.stack));
    }
    Ok(assembled)
}

/// Where the exponentials stand, in each of one loop or two (`apart`): a row has two of a lane's, of `kv / 4` columns each, and one more for its factor.
fn overlaps(stages: &[Stage], overlap: u32, kv: usize, apart: bool) -> Result<(), String> {
    let all = kv / 2 + 2;
    let loops = 1 + usize::from(apart);
    let found = match overlap {
        // Between the end of one product and the start of the other.
        SERIAL => stages.len() == 3 && stages[1].exponentials >= all && stages[1].beside == 0,
        // Between two waits, without a product: beside the one that the second wait is for.
        FENCED => stages.iter().filter(|stage| stage.products == 0 && stage.beside >= all).count() >= loops,
        // In both rounds of the loop: after a wait, before QK of the next round, beside PV.
        DEFERRED => {
            let of = |count: fn(&Stage) -> usize| stages.iter().filter(|stage| count(stage) >= all).count();
            of(|stage| stage.exponentials) >= 2 + 2 * loops && of(|stage| stage.beside) > loops
        }
        _ => false,
    };
    if found { Ok(()) } else { Err(format!("products and exponentials between waits: {stages:?}")) }
}

#[test]
fn products_stay_asynchronous_and_nothing_spills() {
    let lines = lines();
    let wrong = |line: &Line| {
        let (dk, dv) = line.shape;
        let what = || format!("{} D{dk}/{dv} at {}", line.kernel.name, written(&line.pick));
        verdict(line).err().map(|why| format!("{}: {why}", what()))
    };
    let wrong: Vec<String> = lines.par_iter().filter_map(wrong).collect();
    assert!(wrong.is_empty(), "{} of {} are not as they should be:\n{}", wrong.len(), lines.len(), wrong.join("\n"));
}
