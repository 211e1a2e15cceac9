//! How fast the emulator is: warp instructions a second and core on a real attention kernel, and where they go.
//!
//! `cargo run --release -p lacuna-emulator --example profile [tokens] [blocks] [threads]`

#![allow(clippy::print_stdout, unreachable_pub, reason = "it prints, and shares a file with the tests")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::{Case, SHARED, error};
use lacuna_emulator::Options;

fn main() {
    let mut args =
        std::env::args().skip(1).map(|arg| arg.parse::<usize>().unwrap_or_else(|_| panic!("`{arg}` is not a number")));
    let (tokens, blocks) = (args.next().unwrap_or(64), args.next().unwrap_or(16));
    let threads = args.next().unwrap_or(1);
    let case = Case::draw(tokens, blocks.max(tokens.div_ceil(64)), blocks, true, 7);
    let options = Options { threads, ..Options::default() };
    let ptx = include_str!("../tests/data/k4m_mask.ptx");
    let (mut best, mut result) = (f64::INFINITY, None);
    for _ in 0..5 {
        let start = Instant::now();
        result = Some(case.run(ptx, SHARED, &options).unwrap_or_else(|fault| panic!("{fault}")));
        best = best.min(start.elapsed().as_secs_f64());
    }
    let Some((out, stats)) = result else { return };
    let millions = stats.warp_instructions as f64 * 1e-6;
    println!(
        "k4m, {tokens} tokens x {blocks} blocks, {threads} threads, error {:.2e}",
        error(&out, &case.expected(true))
    );
    println!(
        "{millions:.2} M warp instructions in {best:.3} s: {:.2} M/s a core",
        millions / best / threads.max(1) as f64
    );
    let mut by_op = stats.by_op;
    by_op.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (op, count) in by_op {
        println!("{:5.1}%  {}", 100.0 * count as f64 / stats.warp_instructions as f64, op.pattern());
    }
}
