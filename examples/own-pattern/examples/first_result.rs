//! How long a pattern's author waits for a first checked result, and for that of a further pattern in the same process.
//!
//! ```sh
//! cargo run --release -p own-pattern --example first_result            # 8192 tokens, 16 heads, D 128, on the best device
//! cargo run --release -p own-pattern --example first_result -- 512     # fewer tokens, for the emulator
//! ```
//!
//! It starts itself once more, with no kernel compiled before and the driver's own cache off, and measures from that start to
//! each line that the new process prints: drawn inputs, PTX from the pattern, machine code from the PTX, a run, and a
//! comparison with f64 on 64 rows. JSON goes to stdout, milliseconds throughout.

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use lacuna::kernels::dense::QueryMajor;
use lacuna::prelude::*;
use lacuna::{Trial, bf16, runtime::Device};

/// The token's own stretch of `stride` tokens up to itself, and the last `summary` tokens of every stretch before it.
#[pattern]
fn fixed(q: Pos, kv: Pos, stride: u32, summary: u32) -> Keep {
    kv.le(q) & ((q / stride).eq_(kv / stride) | (kv % stride).ge(stride - summary))
}

/// The last `window` tokens, and of those before them every `step`-th.
#[pattern]
fn comb(q: Pos, kv: Pos, window: u32, step: u32) -> Keep {
    kv.le(q) & ((q - kv).lt(window) | ((q - kv) % step).eq_(0))
}

const ROWS: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["measured", tokens] => measured(tokens.parse()?),
        [] => measure(8192),
        [tokens] => measure(tokens.parse()?),
        _ => Err("one number of tokens is right".into()),
    }
}

/// Starts the process that is measured, and says when each of its lines came.
fn measure(tokens: usize) -> Result<(), Box<dyn Error>> {
    let cache = std::env::temp_dir().join(format!("lacuna-first-result-{}", std::process::id()));
    let begin = Instant::now();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["measured", &tokens.to_string()])
        .env("LACUNA_CACHE_DIR", &cache)
        .env("CUDA_CACHE_DISABLE", "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut last = 0.0;
    let mut results = Vec::new();
    for line in BufReader::new(child.stdout.take().ok_or("no pipe")?).lines() {
        let line = line?;
        let at = begin.elapsed().as_secs_f64() * 1e3;
        results.push(format!("    {{ \"milliseconds\": {:.1}, {line} }}", at - last));
        last = at;
    }
    let status = child.wait()?;
    // Without a GPU nothing is kept there.
    let _ = std::fs::remove_dir_all(&cache);
    println!("{{\n  \"tokens\": {tokens},\n  \"rows\": {ROWS},\n  \"results\": [\n{}\n  ]\n}}", results.join(",\n"));
    if status.success() { Ok(()) } else { Err(format!("the measured process ended with {status}").into()) }
}

/// One result after the other, a line each.
fn measured(tokens: usize) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let device = Device::best();
    let opened = begin.elapsed();
    let shape = Shape::new(Elem::Bf16, 128, 128, 1);
    let trial = Trial::<bf16>::draw(&shape, 16, &[tokens]);
    let drawn = begin.elapsed() - opened;
    let result = |name: &str, mask: Mask, by_hand: &(dyn Fn(i64, i64) -> bool + Sync)| -> Result<(), Box<dyn Error>> {
        let begin = Instant::now();
        let result = trial.run(&device, &QueryMajor::new(mask).at(shape.clone()), &Default::default())?;
        let ran = begin.elapsed();
        let verdicts = trial.check_rows(&result, by_hand, ROWS);
        let [open, draw, run, check] =
            [opened, drawn, ran, begin.elapsed() - ran].map(|took| format!("{:.1}", took.as_secs_f64() * 1e3));
        println!(
            "\"pattern\": \"{name}\", \"device\": \"{}\", \"ok\": {}, \"open\": {open}, \"draw\": {draw}, \
             \"compile_and_run\": {run}, \"check\": {check}",
            device.name(),
            verdicts.ok()
        );
        if verdicts.ok() { Ok(()) } else { Err(verdicts.to_string().into()) }
    };
    result("fixed", fixed(128, 8), &|q, kv| kv <= q && (kv >= q - q % 128 || kv % 128 >= 120))?;
    result("comb", comb(256, 64), &|q, kv| kv <= q && (q - kv < 256 || (q - kv) % 64 == 0))
}
