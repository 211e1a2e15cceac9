//! Times the launches that turn block lists around, on CUDA device 0, and compares what they make with going through the picks:
//! `cargo run --release -p lacuna-tests --example inverse_lists -- 65536 16 16 64` (tokens, KV heads, picks, keys of a block).
#![allow(clippy::print_stdout, reason = "it is a measurement")]

use lacuna_dsl::{Elem, Shape};
use lacuna_kernels::host::Host;
use lacuna_kernels::inputs::{self, Locality};
use lacuna_kernels::lists::{Chosen, InverseLists};
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
    let shape = Shape::new(Elem::Bf16, 128, 128, 1);
    println!("{tokens} tokens, {heads} KV heads, {n} picks, blocks of {block}");
    for chunk in [2048, 4096, 8192] {
        let lists = InverseLists::new(shape.clone(), Chosen::picks(block as u32), TILE);
        check(&device, &InverseLists { chunk, ..lists }, &picks, &cu_seqlens)?;
    }
    Ok(())
}

/// The whole against the reference, and its time, launch by launch: each is the difference between the plan up to it and the
/// plan up to the one before.
fn check(
    device: &Device,
    lists: &InverseLists,
    picks: &Host<i32>,
    cu_seqlens: &[i32],
) -> Result<(), Box<dyn std::error::Error>> {
    let wanted = inverse_lists(picks, cu_seqlens, lists.chosen.block as usize);
    let [total, heads, n] = picks.shape;
    let pieces = (total * n).div_ceil(lists.tile as usize) + wanted.slots();
    let ints = |shape: &[usize]| {
        let shape: Vec<u64> = shape.iter().map(|&extent| extent as u64).collect();
        Tensor::zeros(device, Elem::I32, &shape)
    };
    let (entries, work) = (ints(&[heads, total * n])?, ints(&[heads, pieces, 4])?);
    let bindings = Bindings::new()
        .tensor("picks", &Tensor::from_slice(device, &picks.shape.map(|extent| extent as u64), &picks.data)?)
        .tensor("cu_seqlens", &Tensor::from_slice(device, &[cu_seqlens.len() as u64], cu_seqlens)?)
        .tensor("list_work", &work)
        .tensor("list_entries", &entries);
    let plan = lists.plan(target_for(device))?;
    device.run(&plan, &bindings)?;
    let (entries, work) = (entries.to_vec::<i32>()?, work.to_vec::<i32>()?);
    for head in 0..heads {
        let pieces_of_head = wanted.work(head, TILE as usize).concat();
        assert_eq!(work[head * pieces * 4..][..pieces_of_head.len()], pieces_of_head, "head {head}");
        let list = wanted.entries(head);
        assert!(entries[head * total * n..][..list.len()] == list, "entries of head {head}");
    }
    let mut before = 0.0;
    print!("chunks of {}:", lists.chunk);
    for launches in 1..=plan.launches.len() {
        let mut part = plan.clone();
        part.launches.truncate(launches);
        let us = 1e3 * device.bench(&part, &bindings, &BenchOptions::default())?.median_ms;
        print!(" {} {:.1}", part.launches[launches - 1].entry, us - before);
        before = us;
    }
    println!(", in all {before:.1} us");
    Ok(())
}
