//! Hand-made kernels for sm_90a that are right on an H200 are right here: TMA, mbarriers, wgmma, warp-specialised.

mod common;
#[path = "common/hopper.rs"]
mod hopper;

use common::error;
use hopper::*;
use lacuna_emulator::{FaultKind, Options};

/// P and the outputs are bf16; the H200 makes 2.0e-3 to 2.2e-3 of the RMS.
const ALLOWED: f64 = 2.5e-3;
/// P, dS and the gradients of K and V are bf16; the H200 makes 2.2e-3 to 2.5e-3.
const ALLOWED_GRADIENTS: f64 = 3.0e-3;
/// The LSE is f32; the H200 makes 1e-6 to 6e-6.
const ALLOWED_LSE: f64 = 1.0e-5;

fn attends(case: &Attention, ptx: &str, tiles: Tiles) {
    for seed in 0..2 {
        let options = Options { seed, ..Options::default() };
        let (o, lse, _) = case.run(ptx, tiles, &options).unwrap_or_else(|fault| panic!("{fault}"));
        let (exact, exact_lse) = case.expected();
        let (o, lse) = (error(&o, &exact), error(&lse, &exact_lse));
        assert!(o < ALLOWED && lse < ALLOWED_LSE, "{o} {lse}");
    }
}

#[test]
fn a_product_from_tma_to_tma() {
    // Rows of C past the last are not written; the inner extent is a multiple of 8 elements.
    for (rows, columns) in [(64, 64), (100, 136)] {
        let (c, exact) = product(PRODUCT, rows, columns, &Options::default()).unwrap_or_else(|fault| panic!("{fault}"));
        let error = error(&c, &exact);
        assert!(error < ALLOWED, "{error}");
    }
}

#[test]
fn attention_with_one_producer_and_two_consumers() {
    attends(&Attention::draw(256, 384, 2, 2, 128, false), FORWARD, D128);
}

#[test]
fn attention_whose_second_product_is_waited_for_a_round_later() {
    // An even and an odd number of blocks, and one.
    for keys in [128, 384, 512] {
        attends(&Attention::draw(128, keys, 1, 1, 128, false), DEFERRED, D128);
    }
}

#[test]
fn causal_attention() {
    attends(&Attention::draw(384, 384, 2, 1, 128, true), CAUSAL, D128);
}

#[test]
fn attention_with_three_consumers() {
    attends(&Attention::draw(192, 384, 2, 1, 64, false), NARROW, D64);
}

#[test]
fn attention_of_width_256() {
    attends(&Attention::draw(128, 240, 1, 1, 256, false), WIDE, D256);
}

#[test]
fn rows_gathered_by_cp_async_for_wgmma() {
    let case = Gathered::draw(2, 3, 300);
    for seed in 0..2 {
        let options = Options { seed, ..Options::default() };
        let (o, lse) = case.run(GATHER, &options).unwrap_or_else(|fault| panic!("{fault}"));
        let (exact, exact_lse) = case.expected();
        let (o, lse) = (error(&o, &exact), error(&lse, &exact_lse));
        assert!(o < ALLOWED && lse < ALLOWED_LSE, "{o} {lse}");
    }
}

fn gradients(case: &Backward, ptx: &str) {
    for seed in 0..2 {
        let options = Options { seed, ..Options::default() };
        let out = case.run(ptx, &options).unwrap_or_else(|fault| panic!("{fault}"));
        for ((name, out), exact) in ["dQ", "dK", "dV"].iter().zip(out).zip(case.expected()) {
            let error = error(&out, &exact);
            assert!(error < ALLOWED_GRADIENTS, "{name}: {error}");
        }
    }
}

#[test]
fn gradients_of_attention() {
    gradients(&Backward::draw(256, false), BACKWARD);
}

#[test]
fn gradients_of_causal_attention() {
    gradients(&Backward::draw(256, true), BACKWARD_CAUSAL);
}

#[test]
fn the_hang_of_the_backward_is_a_barrier_for_more_threads_than_come() {
    let fault = Backward::draw(256, false).run(BACKWARD_HANGS, &Options::default()).unwrap_err();
    let report = fault.to_string();
    assert!(matches!(fault.kind, FaultKind::Deadlock { .. }), "{report}");
    for word in [
        "barrier 4 has 96 of 160 threads; barrier 5 has 96 of 160 threads",
        "fa_bwd.ptx:745   bar.sync %r31, 160;                                           CTA 0,0,0 warp 5, waits for barrier 4",
        "fa_bwd.ptx:153   bar.sync 2, 160;                                              CTA 0,0,0 warp 1, waits for barrier 2",
        "barrier 4 was complete before with warp 4 counted twice, at lines 180 and 745",
    ] {
        assert!(report.contains(word), "{word}\n{report}");
    }
}
