//! Hand-made attention kernels that are right on an H200 are right here, and wrong when a wait or a barrier is missing.

mod common;

use common::{Case, SHARED, error};
use lacuna_emulator::{FaultKind, Options};

const K4: &str = include_str!("../../ptx/tests/kernels/gqa16.ptx");
const K4O: &str = include_str!("../../ptx/tests/kernels/gqa16_overlaid.ptx");
const K4M: &str = include_str!("../../ptx/tests/kernels/gqa16_masked.ptx");
/// k4o's merge buffer lies over K and V.
const SHARED_OVERLAY: u32 = 2 * 2 * 64 * 256 + 16 * 256;

/// P and the outputs are bf16; the H200 makes 2.1e-3.
const ALLOWED: f64 = 2.5e-3;

#[test]
fn every_key_of_the_selected_blocks() {
    let case = Case::draw(8, 9, 5, false, 1);
    for (ptx, shared) in [(K4, SHARED), (K4O, SHARED_OVERLAY)] {
        let (out, stats) = case.run(ptx, shared, &Options::default()).unwrap_or_else(|fault| panic!("{fault}"));
        let error = error(&out, &case.expected(false));
        assert!(error < ALLOWED, "{error}");
        assert_eq!(stats.ctas, 8);
    }
}

#[test]
fn causal_with_holes_in_the_selection() {
    let case = Case::draw(150, 3, 3, true, 2);
    let (out, _) = case.run(K4M, SHARED, &Options::default()).unwrap_or_else(|fault| panic!("{fault}"));
    let error = error(&out, &case.expected(true));
    assert!(error < ALLOWED, "{error}");
}

#[test]
fn the_order_of_turns_changes_nothing() {
    let case = Case::draw(3, 4, 4, false, 3);
    let plain = case.run(K4, SHARED, &Options::default()).unwrap().0;
    for seed in 1..4 {
        let options = Options { seed, resident: 2, threads: 1, ..Options::default() };
        assert_eq!(case.run(K4, SHARED, &options).unwrap_or_else(|fault| panic!("{fault}")).0, plain);
    }
}

/// The text without the `n`th line that holds `what`.
fn without(ptx: &str, what: &str, n: usize) -> String {
    let lines: Vec<&str> = ptx.lines().collect();
    let (at, _) =
        lines.iter().enumerate().filter(|(_, line)| line.contains(what)).nth(n).expect("there is such a line");
    lines.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, line)| format!("{line}\n")).collect()
}

#[test]
fn a_missing_wait_is_found() {
    // The last wait has only empty groups to wait for.
    for n in 0..2 {
        let fault = Case::draw(2, 4, 4, false, 4)
            .run(&without(K4, "cp.async.wait_group", n), SHARED, &Options::default())
            .unwrap_err();
        assert!(matches!(fault.kind, FaultKind::Pending { .. }), "{n}: {fault}");
        assert!(fault.sites[0].text.starts_with("ldmatrix") && fault.sites[1].text.starts_with("cp.async"), "{fault}");
    }
}

#[test]
fn a_missing_barrier_is_found() {
    // The fourth orders the last step of the loop before the merge, which the one at the loop's end has done already.
    for n in [0, 1, 2, 4] {
        let fault = Case::draw(2, 4, 4, false, 5)
            .run(&without(K4O, "bar.sync 0", n), SHARED_OVERLAY, &Options::default())
            .unwrap_err();
        assert!(matches!(fault.kind, FaultKind::Race { .. } | FaultKind::Pending { .. }), "{n}: {fault}");
    }
    Case::draw(2, 4, 4, false, 5).run(&without(K4O, "bar.sync 0", 3), SHARED_OVERLAY, &Options::default()).unwrap();
}
