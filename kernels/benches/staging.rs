//! How long one pick takes to become PTX text, on one core: `cargo bench -p lacuna-kernels --bench staging`.
//!
//! A tuner does this for every candidate, so it must stay far below what the driver's compiler takes: under 5 ms.
//! `stage` is the author's function alone; `plan` is all of it: staging, every pass, lowering, and the text.
#![allow(missing_docs, reason = "criterion's macros make what has no documentation")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use lacuna_dsl::{Elem, Knobs, Schedule, Shape, Target, Tunable};
use lacuna_kernels::dense::QueryMajor;
use lacuna_kernels::nsa::GroupCentric;
use lacuna_kernels::patterns::{causal, window_sink};

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

criterion_group!(benches, both);
criterion_main!(benches);
