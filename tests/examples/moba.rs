//! Times attention given a routing, launch by launch, on CUDA device 0:
//! `cargo run --release -p lacuna-tests --example moba -- batch tokens heads group block top [head_chunks token_chunks [knob=value..]]`.
//! What a launch takes is the difference between the plan up to it and the plan up to the one before.
#![allow(clippy::print_stdout, reason = "it is a measurement")]

use half::bf16;
use lacuna_dsl::{Elem, Pick, Shape, Tunable};
use lacuna_kernels::inputs::{self, Route};
use lacuna_kernels::moba::{Moba, RoutingIs, WORKSPACE};
use lacuna_runtime::{BenchOptions, Bindings, Device, Tensor};
use lacuna_tests::target_for;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (knobs, numbers): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|arg| arg.contains('='));
    let numbers: Vec<usize> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let at = |i: usize, default: usize| numbers.get(i).copied().unwrap_or(default);
    let (batch, tokens, heads, group) = (at(0, 2), at(1, 8192), at(2, 16), at(3, 1));
    let (block, top) = (at(4, 128), at(5, 8));
    let device = Device::cuda(0)?;
    let target = target_for(&device);
    let shape = Shape::new(Elem::Bf16, 128, 128, group as u32);
    let mut wanted = Pick::new();
    let (mut unfused, mut whole, mut given, mut local) = (false, false, false, false);
    for knob in &knobs {
        let (name, value) = knob.split_once('=').expect("it has one");
        match name {
            "fused" => unfused = value == "0",
            "whole" => whole = value == "1",
            "local" => local = value == "1",
            "given" => given = value == "1",
            _ => {
                wanted.insert(name.to_owned(), value.parse()?);
            }
        }
    }
    let total = batch * tokens;
    let kv = heads / group;
    let mut moba = Moba::new(shape, block as u32, top as u32);
    if given {
        moba = moba.with_routing(RoutingIs::Given);
    }
    let extents = [("tokens", total), ("heads_q", heads), ("heads_kv", kv), ("segments_plus_one", batch + 1)];
    let extents = extents.map(|(name, extent)| (name.to_owned(), extent as u64)).into();
    moba = moba.within(WORKSPACE, &extents)?;
    if numbers.len() > 6 {
        moba = moba.in_chunks(at(6, 1) as u32, at(7, 1) as u32);
    }
    moba.blocks.fused = !unfused;
    let pick = moba.choose(target, &wanted)?;
    let plan = moba.plan(target, &pick)?;

    let cu: Vec<i32> = (0..=batch).map(|d| (d * tokens) as i32).collect();
    let drawn = inputs::normal::<bf16, 1>(1, [1 << 20], 1.0).data;
    let tensor = |heads: usize, from: usize| {
        // Each time from elsewhere: blocks of keys that are alike have scores that are the same.
        let mask = drawn.len() - 1;
        let mut data: Vec<bf16> =
            (from..from + total * heads * 128).map(|i| drawn[(i + (i >> 20) * 12_345_677) & mask]).collect();
        if local && from < 77_000 {
            // Waves that agree best where queries and keys are near one another.
            for (at, row) in data.chunks_mut(128).enumerate() {
                let position = (at / heads % tokens) as f64 / block as f64;
                for wave in 0..6 {
                    let angle = std::f64::consts::TAU * position / (16.0 * 1.9f64.powi(wave));
                    row[2 * wave as usize] = bf16::from_f64(3.0 * angle.cos());
                    row[2 * wave as usize + 1] = bf16::from_f64(3.0 * angle.sin());
                }
            }
        }
        Tensor::from_slice(&device, &[total as u64, heads as u64, 128], &data)
    };
    let (q, k, v) = (tensor(heads, 0)?, tensor(kv, 1000)?, tensor(kv, 77_000)?);
    let o = Tensor::zeros(&device, Elem::Bf16, &[total as u64, heads as u64, 128])?;
    let lse = Tensor::zeros(&device, Elem::F32, &[total as u64, heads as u64])?;
    let bindings = Bindings::new()
        .tensor("q", &q)
        .tensor("k", &k)
        .tensor("v", &v)
        .tensor("o", &o)
        .tensor("lse", &lse)
        .tensor("cu_seqlens", &Tensor::from_slice(&device, &[cu.len() as u64], &cu)?)
        .float("scale", 128f32.powf(-0.5))
        .int("max_seqlen", tokens as i32);
    let bindings = match given {
        true => {
            let routing = inputs::routing(7, &cu, &cu, heads, block, top, Route::Random);
            let shape = [total as u64, heads as u64, top as u64];
            bindings.tensor("routing", &Tensor::from_slice(&device, &shape, &routing.data)?)
        }
        false => bindings,
    };
    let options = BenchOptions { warmup: 1, reps: 7, ..BenchOptions::default() };
    println!(
        "{batch} x {tokens}, {heads}/{kv} heads, block {block}, top {top}, {pick:?}, chunks {} {}",
        at(6, 1),
        at(7, 1)
    );
    let mut before = 0.0;
    for launches in 1..=plan.launches.len() {
        if whole && launches < plan.launches.len() {
            continue;
        }
        let mut part = plan.clone();
        part.launches.truncate(launches);
        let ms = device.bench(&part, &bindings, &options)?.median_ms;
        println!("  {:20} {:9.3} ms, in all {ms:9.3}", part.launches[launches - 1].entry, ms - before);
        before = ms;
    }
    Ok(())
}
