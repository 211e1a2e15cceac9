//! The emulator against a GPU, instruction by instruction: what an H200 answered to drawn operands is committed
//! (`emulator/tests/conformance`), and asked again of the emulator. `lacuna_tests::conformance` says how; the rules of
//! comparison, and the measured bound of `mma`, are at the head of its `rule.rs`.
#![allow(clippy::print_stderr, reason = "with --nocapture it shows how far approximations are from the truth")]

use std::collections::BTreeSet;

use lacuna_ptx::Form;
use lacuna_runtime::Device;
use lacuna_tests::conformance::{Case, Recording, cases, without_result};

/// How to bring the file up to date.
const AGAIN: &str = "record it again on a GPU: `cargo run --release -p lacuna-tests --bin conformance`";

fn recording() -> Recording {
    let path = Recording::path();
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Recording::from_bytes(&bytes).unwrap_or_else(|| panic!("{} is not a recording", path.display()))
}

#[test]
fn every_form_that_leaves_a_result_has_a_case() {
    let with_case: BTreeSet<Form> = cases().iter().map(|case| case.form).collect();
    for form in Form::all() {
        let reason = without_result(form);
        assert_ne!(with_case.contains(&form), reason.is_some(), "{form}: {reason:?}");
    }
}

#[test]
fn every_case_was_recorded_with_these_operands() {
    let recording = recording();
    let cases: Vec<Case> = cases();
    for case in &cases {
        let recorded =
            recording.cases.get(&case.name).unwrap_or_else(|| panic!("`{}` has no recording: {AGAIN}", case.name));
        assert_eq!(recorded.digest, case.digest(), "`{}` is not what was recorded: {AGAIN}", case.name);
        assert_eq!(recorded.words.len(), case.rows() * case.output_words, "{}", case.name);
    }
    assert_eq!(recording.cases.len(), cases.len(), "there are recordings of no case: {AGAIN}");
    assert_eq!(Recording::from_bytes(&recording.to_bytes()), Some(recording), "what is written is read");
}

#[test]
fn the_emulator_answers_as_the_gpu_did() {
    let recording = recording();
    let mut wrong = String::new();
    for case in cases() {
        let found = match case.run(&Device::emulator()) {
            Ok(found) => found,
            Err(error) => {
                wrong += &format!("{}: {error}\n", case.name);
                continue;
            }
        };
        assert_eq!(found.len(), case.rows() * case.output_words, "{}", case.name);
        let recorded =
            recording.cases.get(&case.name).unwrap_or_else(|| panic!("`{}` has no recording: {AGAIN}", case.name));
        let (mismatches, [theirs, ours]) = case.rule.compare(&case, &recorded.words, &found);
        if theirs > 0.0 || ours > 0.0 {
            eprintln!("{}: from the truth the GPU is {theirs:.3}, the emulator {ours:.3}", case.name);
        }
        if !mismatches.is_empty() {
            wrong += &case.report(&mismatches);
        }
    }
    assert!(wrong.is_empty(), "recorded on {}\n{wrong}", recording.device);
}
