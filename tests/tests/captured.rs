//! Plans on a stream that a CUDA graph captures: what its replays write is what a run writes, bit for bit. Without a GPU, each
//! test says that it did nothing.
#![allow(clippy::print_stderr, unsafe_code)]

use std::sync::{Mutex, PoisonError};

use cudarc::driver::{CudaContext, sys};
use lacuna_dsl::Target;
use lacuna_kernels::inputs::Locality;
use lacuna_runtime::{Device, Error, Stream};
use lacuna_tests::{Case, Mixture, Outcome, Picks, Problem, Routes, Seen, Work, run, run_by, target_for};

/// Without a meaning here: nothing in these graphs allocates.
const NO_FLAG: sys::CUgraphInstantiate_flags =
    sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;

/// How often a graph is replayed.
const REPLAYS: usize = 3;

/// Held by the test that captures: others allocate and wait for the device, which is not for a thread to do meanwhile.
static ALONE: Mutex<()> = Mutex::new(());

/// The GPU, with the targets that a plan is compiled for: the portable one, and the highest.
fn gpu() -> Option<(Device, Vec<Target>)> {
    match Device::cuda(0) {
        Ok(device) => {
            let mut targets = vec![target_for(&device)];
            targets.extend(device.targets().pop().filter(|highest| highest != &targets[0]));
            Some((device, targets))
        }
        Err(why) => {
            eprintln!("nothing was tested: {why}");
            None
        }
    }
}

fn bits(outcome: &Outcome) -> (Vec<u32>, Vec<u32>, Option<&[i32]>) {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
    (bits(&outcome.o), bits(&outcome.lse), outcome.routing.as_ref().map(|routing| routing.data.as_slice()))
}

/// Runs a case on a stream of its own, and captures that stream. Outputs are poison before each replay.
fn replays_are_runs(case: Case) {
    let Some((device, targets)) = gpu() else { return };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let context = CudaContext::new(0).expect("the context that the device has");
    for target in targets {
        let case = case.clone().on(target, case.work.default_pick_on(target, &case.shape));
        let plan = case.plan(target).expect("a plan");
        let problem = Problem::draw(&case);
        let expected = run(&device, &plan, &problem).expect("a run");
        assert!(problem.judge(&[&expected]).iter().all(|verdicts| verdicts.ok()), "{case} for {target}");

        let theirs = context.new_stream().expect("a stream");
        // SAFETY: `theirs` lives until the end of this round, `stream` and its clones in bindings do not.
        let stream = unsafe { Stream::borrow(&device, theirs.cu_stream().cast()) }.expect("the same stream");
        for replay in 0..REPLAYS {
            let outcome = run_by(&device, &plan, &problem, |bindings, outputs| {
                let bindings = bindings.clone().stream(&stream);
                // The first run of a stream makes its scratch memory.
                let report = device.run(&plan, &bindings)?;
                theirs
                    .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
                    .expect("a capture begins");
                let enqueued = device.enqueue(&plan, &bindings);
                let graph = theirs.end_capture(NO_FLAG);
                enqueued?;
                let graph = graph.expect("a capture ends").expect("a graph");
                for _ in 0..=replay {
                    outputs.iter().try_for_each(|output| output.poison())?;
                    graph.launch().expect("a replay");
                    stream.synchronize()?;
                }
                Ok::<_, Error>(report)
            });
            let outcome = outcome.unwrap_or_else(|error| panic!("{case} for {target}: {error}"));
            assert!(bits(&outcome) == bits(&expected), "{} replays of {case} for {target}", replay + 1);
        }
    }
}

#[test]
fn moba_from_the_gate_to_the_merge() {
    for chunks in [[1, 1], [2, 3]] {
        for group in [1, 2] {
            let mixture = Mixture { chunks, ..Mixture::new(Routes::Made, 4) };
            let mut case = Case::new(Work::Moba(mixture), 128, group, &[900, 0, 1300, 70]);
            (case.shape.block, case.hk) = (128, 2);
            replays_are_runs(case);
        }
    }
}

/// Whose blocks are large, and are seen by tiles of queries.
#[test]
fn moba_of_large_blocks() {
    let mut case = Case::new(Work::Moba(Mixture::new(Routes::Made, 3)), 128, 1, &[9000]);
    case.shape.block = 2048;
    replays_are_runs(case);
}

#[test]
fn tiles_that_are_drawn_from_a_counter() {
    let mut case = Case::new(Work::QueryMajor(Seen::Causal), 128, 2, &[1500, 3000, 0, 70]);
    case.hk = 8;
    replays_are_runs(case);
}

#[test]
fn selected_blocks_token_by_token_and_block_by_block() {
    for work in [Work::GroupCentric, Work::ByBlock] {
        let mut case = Case::new(work(Picks::Drawn(Locality::PerToken), 8), 128, 4, &[700, 1100]);
        case.hk = 2;
        replays_are_runs(case);
    }
}
