//! How long one pick takes to become PTX text, on one core: `cargo bench -p lacuna-kernels --bench staging`.
//!
//! A tuner does this for every candidate, so it must stay far below what the driver's compiler takes: under 10 ms a launch.
//! `stage` is the author's function alone; `plan` is all of it: staging, every pass, lowering, and the text. After the
//! schedules alone come all kernels of the registry, each at its default pick; a plan of several launches is the sum of them.
//! `.. --bench staging -- sm_90a` times those for one target.
#![allow(missing_docs, reason = "criterion's macros make what has no documentation")]

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use lacuna_dsl::{Elem, Knobs, Pick, Schedule, Shape, Target, Tunable};
use lacuna_kernels::dense::QueryMajor;
use lacuna_kernels::moba::{Blocking, ChosenBlocks, MobaPool, MobaRoute, OwnAndParts};
use lacuna_kernels::nsa::{BlockMajor, GroupCentric};
use lacuna_kernels::patterns::{causal, window_sink};
use lacuna_kernels::registry::KERNELS;

fn schedule<S: Schedule>(criterion: &mut Criterion, name: &str, make: impl Fn() -> S) {
    let shape = Shape::new(Elem::Bf16, 128, 128, 16);
    let pick = S::Pick::default();
    let mut group = criterion.benchmark_group(name);
    group.bench_function("stage", |bencher| {
        let schedule = make();
        bencher.iter(|| schedule.stage(Target::SM_90, black_box(&shape), &pick).expect("the default pick stages"));
    });
    group.bench_function("plan", |bencher| {
        let bound = make().at(shape.clone());
        let pick = pick.to_pick();
        bencher.iter(|| bound.plan(Target::SM_90, black_box(&pick)).expect("the default pick compiles"));
    });
    group.finish();
}

fn both(criterion: &mut Criterion) {
    schedule(criterion, "query_major, causal, D128", || QueryMajor::new(causal()));
    schedule(criterion, "query_major, window and sink, D128", || QueryMajor::new(window_sink(1024, 4)));
    schedule(criterion, "group_centric, G16, D128", GroupCentric::new);
}

/// How long the default pick of an operation takes, for each target.
fn default_picks(criterion: &mut Criterion, operations: &[(String, &dyn Tunable)]) {
    for target in [Target::SM_90, Target::SM_90A] {
        let mut group = criterion.benchmark_group(target.to_string());
        group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        for (name, operation) in operations {
            let pick = operation.choose(target, &Pick::new()).expect("a pick fits");
            let launches = operation.plan(target, &pick).expect("the default pick compiles").launches.len();
            group.bench_function(format!("{name}, launches: {launches}"), |bencher| {
                bencher.iter(|| operation.plan(target, black_box(&pick)).expect("the default pick compiles"));
            });
        }
        group.finish();
    }
}

/// Every kernel of the registry.
fn shipped(criterion: &mut Criterion) {
    let attentions: Vec<_> = KERNELS
        .iter()
        .map(|kernel| {
            let shape = Shape::new(Elem::Bf16, 128, 128, if kernel.name == "nsa-selected" { 16 } else { 1 });
            kernel
                .build(shape, &kernel.options([]).expect("defaults are allowed"))
                .expect("a shape that it is made for")
        })
        .collect();
    let named = |attention| -> (String, &dyn Tunable) { attention };
    let operations = attentions.iter().map(|attention| named((attention.kernel.name.to_owned(), attention)));
    default_picks(criterion, &operations.collect::<Vec<_>>());
}

/// What MoBA and NSA's block by block are chained of, launch by launch.
fn pieces(criterion: &mut Criterion) {
    let blocks = Blocking { block: 128, top: 8, causal: true, fused: true, joined: 1, wide: false };
    let shape = || Shape::new(Elem::Bf16, 128, 128, 1).with_block(128);
    let own = OwnAndParts { parts: true, routing: true, ..OwnAndParts::new(blocks) };
    let pieces: [(&str, Box<dyn Tunable>); 5] = [
        ("moba pool", Box::new(MobaPool::new(128).at(shape()))),
        ("moba route", Box::new(MobaRoute::new(128, 8).at(shape()))),
        ("moba parts", Box::new(ChosenBlocks::new(blocks).at(shape()))),
        ("moba own", Box::new(own.at(shape()))),
        ("nsa parts", Box::new(BlockMajor.at(Shape::new(Elem::Bf16, 128, 128, 1)))),
    ];
    let operations = pieces.iter().map(|(name, piece)| ((*name).to_owned(), piece.as_ref()));
    default_picks(criterion, &operations.collect::<Vec<_>>());
}

criterion_group!(benches, both, shipped, pieces);
criterion_main!(benches);
