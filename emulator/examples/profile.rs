//! How fast the emulator is: warp instructions a second and core on real attention kernels, and where they go.
//!
//! `cargo run --release -p lacuna-emulator --example profile [tokens] [blocks] [threads]` runs one for mma.sync, group-centric;
//! `.. profile wgmma [tokens] [threads]` one for wgmma, causal, of one head and width 128.

#![allow(clippy::print_stdout, unreachable_pub, reason = "it prints, and shares files with the tests")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/hopper.rs"]
mod hopper;

use std::time::Instant;

use common::{Case, SHARED, error};
use hopper::{Attention, CAUSAL, D128};
use lacuna_emulator::{Options, Stats};

/// The best of some runs in seconds, and what the last one gave.
fn best<T>(runs: usize, mut f: impl FnMut() -> T) -> Option<(f64, T)> {
    let mut result = None;
    for _ in 0..runs {
        let start = Instant::now();
        let out = f();
        let seconds = start.elapsed().as_secs_f64();
        let best = result.as_ref().map_or(seconds, |(best, _): &(f64, T)| best.min(seconds));
        result = Some((best, out));
    }
    result
}

fn report(seconds: f64, stats: Stats, threads: usize) {
    let millions = stats.warp_instructions as f64 * 1e-6;
    let rate = millions / seconds / threads.max(1) as f64;
    println!("{millions:.2} M warp instructions in {seconds:.3} s: {rate:.2} M/s a core");
    let mut by_op = stats.by_op;
    by_op.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (op, count) in by_op {
        println!("{:5.1}%  {}", 100.0 * count as f64 / stats.warp_instructions as f64, op.pattern());
    }
}

fn main() {
    let mut args = std::env::args().skip(1).peekable();
    let wgmma = args.next_if(|arg| arg == "wgmma").is_some();
    let mut args = args.map(|arg| arg.parse::<usize>().unwrap_or_else(|_| panic!("`{arg}` is not a number")));
    let mut next = |usual: usize| args.next().unwrap_or(usual);
    if wgmma {
        let (tokens, threads) = (next(1024), next(1));
        let case = Attention::draw(tokens, tokens, 1, 1, 128, true);
        let options = Options { threads, ..Options::default() };
        let run = || case.run(CAUSAL, D128, &options).unwrap_or_else(|fault| panic!("{fault}"));
        let Some((seconds, (out, _, stats))) = best(3, run) else { return };
        println!("k2c, {tokens} tokens, {threads} threads, error {:.2e}", error(&out, &case.expected().0));
        report(seconds, stats, threads);
        return;
    }
    let (tokens, blocks) = (next(64), next(16));
    let threads = next(1);
    let case = Case::draw(tokens, blocks.max(tokens.div_ceil(64)), blocks, true, 7);
    let options = Options { threads, ..Options::default() };
    let ptx = include_str!("../../ptx/tests/kernels/gqa16_masked.ptx");
    let Some((seconds, (out, stats))) =
        best(5, || case.run(ptx, SHARED, &options).unwrap_or_else(|fault| panic!("{fault}")))
    else {
        return;
    };
    println!(
        "k4m, {tokens} tokens x {blocks} blocks, {threads} threads, error {:.2e}",
        error(&out, &case.expected(true))
    );
    report(seconds, stats, threads);
}
