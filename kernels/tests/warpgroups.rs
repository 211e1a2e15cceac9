//! Kernels for warpgroups: every pick is compiled, which ends in the checker of roles, so that none of them leaves a tile, a
//! product or a wait out of order.

use lacuna_dsl::{Elem, Error, Pick, Shape, Target, Tunable};
use lacuna_kernels::registry::{Attention, KERNELS, Kernel};
use rayon::prelude::*;

fn attention(kernel: &'static Kernel, shape: &Shape) -> Attention {
    let options = kernel.options([]).expect("defaults are allowed");
    kernel.build(shape.clone(), &options).expect("a shape that kernels are made for")
}

/// Every pick; where the knobs of several launches are too many together, the usual one and those beside it.
fn picks(attention: &Attention) -> Vec<Pick> {
    let space = attention.space(Target::SM_90A);
    if space.size() <= 200 {
        return space.picks();
    }
    let usual = attention.pick(Target::SM_90A, &Pick::new()).expect("there is a pick that fits");
    space.around(&usual)
}

#[test]
fn every_pick_is_in_order() {
    let shapes = [(64, 64), (128, 128)].map(|(dk, dv)| Shape::new(Elem::Bf16, dk, dv, 4));
    let all: Vec<(&'static Kernel, Shape, Pick)> = KERNELS
        .iter()
        .flat_map(|kernel| shapes.clone().map(|shape| (kernel, shape)))
        .flat_map(|(kernel, shape)| {
            picks(&attention(kernel, &shape)).into_iter().map(move |pick| (kernel, shape.clone(), pick))
        })
        .collect();
    let multiplied: usize = all
        .par_iter()
        .map(|(kernel, shape, pick)| match attention(kernel, shape).plan(Target::SM_90A, pick) {
            Ok(plan) => plan.launches.iter().filter(|launch| launch.ptx.contains("wgmma.mma_async")).count(),
            // Picks of several knobs that do not go together.
            Err(Error::SharedMemory { .. } | Error::Unsupported(_)) => 0,
            Err(error) => panic!("{} at {pick:?}: {error}", kernel.name),
        })
        .sum();
    assert!(multiplied > all.len() / 4, "of {} picks {multiplied} launches are of warpgroups", all.len());
}
