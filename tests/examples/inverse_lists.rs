//! Times the launches that turn block lists around, on CUDA device 0, and compares what they make with going through the picks:
//! `cargo run --release -p lacuna-tests --example inverse_lists -- 65536 16 16 64` (tokens, KV heads, picks, keys of a block).
#![allow(clippy::print_stdout, reason = "it is a measurement")]

use std::collections::BTreeMap;

use lacuna_dsl::{Elem, Error, Plan, Schedule, Shape};
use lacuna_kernels::host::Host;
use lacuna_kernels::inputs::{self, Locality};
use lacuna_kernels::lists::{
    CountPicks, CountPicksPick, InverseLists, ScatterPicks, ScatterPicksPick, SumCounts, SumCountsPick, SumLengths,
    SumLengthsPick,
};
use lacuna_kernels::reference::lists::inverse_lists;
use lacuna_runtime::{BenchOptions, Bindings, Device, Tensor};
use lacuna_tests::target_for;

/// Entries of a tile.
const TILE: u32 = 128;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<usize> = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    let [tokens, heads, n, block] = args.try_into().unwrap_or([65536, 16, 16, 64]);
    let device = Device::cuda(0)?;
    let cu_seqlens = [0, tokens as i32];
    let picks = inputs::picks(7, &cu_seqlens, heads, block, n, Locality::PerToken);
    let shape = Shape::new(Elem::Bf16, 128, 128, 1).with_block(block as u32);
    println!("{tokens} tokens, {heads} KV heads, {n} picks, blocks of {block}");
    check(&device, &InverseLists::new(shape.clone(), TILE), &picks, &cu_seqlens)?;
    for chunk in [2048, 4096, 8192] {
        let [count, scatter] = parts(&device, &shape, chunk, &picks, &cu_seqlens)?;
        println!("chunks of {chunk}: {count}");
        println!("                {scatter}");
    }
    Ok(())
}

fn ints(device: &Device, shape: &[usize], data: &[i32]) -> Result<Tensor, lacuna_runtime::Error> {
    let shape: Vec<u64> = shape.iter().map(|&extent| extent as u64).collect();
    if data.is_empty() { Tensor::zeros(device, Elem::I32, &shape) } else { Tensor::from_slice(device, &shape, data) }
}

/// The whole against the reference, and its time.
fn check(
    device: &Device,
    lists: &InverseLists,
    picks: &Host<i32>,
    cu_seqlens: &[i32],
) -> Result<(), Box<dyn std::error::Error>> {
    let wanted = inverse_lists(picks, cu_seqlens, lists.shape.block as usize);
    let [total, heads, n] = picks.shape;
    let ends = wanted.slots() + 1;
    let starts = ints(device, &[heads, ends], &[])?;
    let tiles = ints(device, &[heads, ends], &[])?;
    let entries = ints(device, &[heads, total * n], &[])?;
    let bindings = Bindings::new()
        .tensor("picks", &ints(device, &picks.shape, &picks.data)?)
        .tensor("cu_seqlens", &ints(device, &[cu_seqlens.len()], cu_seqlens)?)
        .tensor("list_starts", &starts)
        .tensor("list_tiles", &tiles)
        .tensor("list_entries", &entries);
    let plan = lists.plan(target_for(device))?;
    device.run(&plan, &bindings)?;
    let (starts, tiles, entries) = (starts.to_vec::<i32>()?, tiles.to_vec::<i32>()?, entries.to_vec::<i32>()?);
    for head in 0..heads {
        assert_eq!(starts[head * ends..][..ends], wanted.starts(head), "head {head}");
        assert_eq!(tiles[head * ends..][..ends], wanted.tiles(head, TILE as usize), "head {head}");
        let list = wanted.entries(head);
        assert!(entries[head * total * n..][..list.len()] == list, "entries of head {head}");
    }
    let timing = device.bench(&plan, &bindings, &BenchOptions::default())?;
    println!("all four, as by the reference: {:.1} us", 1e3 * timing.median_ms);
    Ok(())
}

/// Each launch at one length of chunks, for several numbers of lanes.
fn parts(
    device: &Device,
    shape: &Shape,
    chunk: u32,
    picks: &Host<i32>,
    cu_seqlens: &[i32],
) -> Result<[String; 2], Box<dyn std::error::Error>> {
    let [total, heads, n] = picks.shape;
    let target = target_for(device);
    let slots = total.div_ceil(shape.block as usize) + cu_seqlens.len() - 1;
    let chunks = (total * n).div_ceil(chunk as usize);
    let tensors = BTreeMap::from([
        ("picks", ints(device, &picks.shape, &picks.data)?),
        ("cu_seqlens", ints(device, &[cu_seqlens.len()], cu_seqlens)?),
        ("list_counts", ints(device, &[heads, chunks, slots], &[])?),
        ("list_offsets", ints(device, &[heads, chunks, slots], &[])?),
        ("list_lengths", ints(device, &[heads, slots], &[])?),
        ("list_starts", ints(device, &[heads, slots + 1], &[])?),
        ("list_tiles", ints(device, &[heads, slots + 1], &[])?),
        ("list_entries", ints(device, &[heads, total * n], &[])?),
    ]);
    let time = |plan: Result<Plan, Error>| -> Result<f64, Box<dyn std::error::Error>> {
        let plan = plan?;
        let bound = plan.tensors.iter().fold(Bindings::new(), |b, t| b.tensor(&t.name, &tensors[t.name.as_str()]));
        device.run(&plan, &bound)?;
        Ok(1e3 * device.bench(&plan, &bound, &BenchOptions::default())?.median_ms)
    };
    let mut texts = [String::new(), String::new()];
    for lane in [64, 128, 256] {
        let pick = CountPicksPick { lane, chunk, ..CountPicksPick::default() };
        let count = time(CountPicks.stage(target, shape, &pick)?.compile())?;
        texts[0] += &format!("count {lane} lanes {count:.1} us, ");
    }
    for (lane, warps) in [(128, 4), (256, 8), (128, 2)] {
        let sums = time(SumCounts.stage(target, shape, &SumCountsPick { lane, warps })?.compile())?;
        texts[0] += &format!("sums {lane} lanes {warps} warps {sums:.1} us, ");
    }
    for (lane, warps) in [(1024, 32), (1024, 16), (512, 16)] {
        let starts = time(SumLengths::new(TILE).stage(target, shape, &SumLengthsPick { lane, warps })?.compile())?;
        texts[0] += &format!("starts {lane} lanes {warps} warps {starts:.1} us, ");
    }
    for lane in [64, 128, 256] {
        let pick = ScatterPicksPick { lane, chunk, ..ScatterPicksPick::default() };
        let scatter = time(ScatterPicks.stage(target, shape, &pick)?.compile())?;
        texts[1] += &format!("scatter {lane} lanes {scatter:.1} us, ");
    }
    Ok(texts)
}
