//! Picked blocks one by one, each for all tokens that picked it: lists, parts and their merge, against f64.

use lacuna_dsl::{Elem, Shape, Target};
use lacuna_kernels::inputs::{Locality, Spoil};
use lacuna_tests::{Case, Layout, Numbers, Picks, Problem, Work, run, target_for, widths};

use crate::harness::{agree, devices};

/// Tiles of rows that groups fill, and that they leave rows of.
const GROUPS: [u32; 9] = [1, 2, 3, 4, 7, 8, 16, 17, 48];

const LENGTHS: [&[usize]; 7] = [&[1], &[15], &[64], &[65], &[90, 0, 33], &[0, 130], &[31, 1, 0, 70]];

const PICKS: [Picks; 8] = [
    Picks::Drawn(Locality::PerToken),
    Picks::Drawn(Locality::PerBlock),
    Picks::Spoiled(Spoil::Shuffle),
    Picks::Spoiled(Spoil::OutOfRange),
    Picks::Spoiled(Spoil::Empty),
    Picks::Spoiled(Spoil::Repeat),
    Picks::Wild,
    Picks::Nothing,
];

const NUMBERS: [Numbers; 6] = [
    Numbers::Large(30.0),
    Numbers::Large(300.0),
    Numbers::InfiniteRows,
    Numbers::NanQueries,
    Numbers::NanKey,
    Numbers::InfiniteKey,
];

fn case(picks: Picks, n: usize, width: u32, group: u32, lengths: &[usize]) -> Case {
    Case::new(Work::ByBlock(picks, n), width, group, lengths)
}

/// The `i`th of the schedule's picks, or the next one with which the case can be planned.
fn take_pick(case: &mut Case, i: usize) {
    let picks = case.work.space(Target::SM_80).picks();
    for i in i..i + picks.len() {
        case.pick = picks[i % picks.len()].clone();
        if case.plan(Target::SM_80).is_ok() {
            return;
        }
    }
    panic!("no pick fits {:?}", case.shape);
}

#[test]
fn every_group_at_every_width() {
    let mut cases = Vec::new();
    for group in GROUPS {
        for width in widths() {
            let i = cases.len();
            let lengths = if group * width > 2000 { &[40, 0, 9][..] } else { LENGTHS[i % LENGTHS.len()] };
            let mut case = case(PICKS[i % PICKS.len()], 1 + i * 7 % 20, width, group, lengths);
            case.shape.block = [16, 32, 64, 128][i / 3 % 4];
            case.hk = if group < 8 { 1 + i % 3 } else { 1 };
            case.shape.elem = if i % 5 < 3 { Elem::Bf16 } else { Elem::F16 };
            case.seed = i as u64;
            take_pick(&mut case, i);
            cases.push(case);
        }
    }
    agree("by block: every group", &cases);
}

#[test]
fn every_kind_of_selection() {
    let mut cases = Vec::new();
    for picks in PICKS {
        for lengths in LENGTHS {
            let i = cases.len();
            let group = [4, 1, 3, 16, 7][i % 5];
            let mut case = case(picks, 1 + i * 3 % 20, widths()[i % 3], group, lengths);
            case.shape.block = [64, 32, 128][i / 2 % 3];
            case.hk = 1 + i % 2;
            case.seed = i as u64;
            take_pick(&mut case, i);
            cases.push(case);
        }
    }
    agree("by block: selections", &cases);
}

/// Far more picks than blocks, most of them none.
#[test]
fn hundreds_of_picks() {
    let cases = [65, 300].map(|n| case(Picks::Wild, n, 32, 3, &[70, 0, 9]));
    agree("by block: hundreds of picks", &cases);
}

#[test]
fn many_documents() {
    let lengths: Vec<usize> = (0..120).map(|i| [0, 1, 3, 0, 0, 7, 2, 0, 20][i * i % 9]).collect();
    let cases = [1, 3].map(|n| case(Picks::Wild, n, 32, 2, &lengths));
    agree("by block: many documents", &cases);
}

#[test]
fn keys_and_values_of_different_widths() {
    let mut cases = Vec::new();
    for (dk, dv) in [(32, 64), (32, 128), (64, 32), (128, 32), (128, 64)] {
        let mut case = case(Picks::Wild, 5, dk, 6, &[90, 20]);
        case.shape = Shape::new(Elem::F16, dk, dv, 6);
        cases.push(case);
    }
    agree("by block: Dk and Dv", &cases);
}

#[test]
fn tensors_within_tensors() {
    let mut cases = Vec::new();
    for (width, group, hk) in [(32, 1, 4), (64, 1, 3), (64, 5, 2), (128, 2, 2), (128, 16, 2)] {
        let mut case = case(Picks::Wild, 6, width, group, &[75, 0, 12]);
        (case.hk, case.layout) = (hk, Layout::Fused);
        cases.push(case);
    }
    agree("by block: fused Q, K and V", &cases);
}

#[test]
fn unusual_scales_and_numbers() {
    let mut cases = Vec::new();
    for width in widths() {
        for numbers in NUMBERS {
            let mut case = case(Picks::Drawn(Locality::PerToken), 4, width, 5, &[70, 0, 20]);
            case.numbers = numbers;
            case.shape.elem = if cases.len() % 2 == 0 { Elem::Bf16 } else { Elem::F16 };
            cases.push(case);
        }
        let mut case = case(Picks::Wild, 4, width, 3, &[70]);
        case.scale = Some(1e-3);
        cases.push(case);
    }
    agree("by block: scales and numbers", &cases);
}

#[test]
fn batches_without_tokens() {
    let cases: Vec<Case> =
        [&[0][..], &[0, 0, 0]].into_iter().map(|lengths| case(Picks::Nothing, 4, 64, 2, lengths)).collect();
    agree("by block: nothing to do", &cases);
}

/// No atomics: nothing depends on which CTA is first.
#[test]
fn every_run_gives_the_same_bits() {
    let case = Case { hk: 2, ..case(Picks::Wild, 7, 64, 3, &[150, 0, 61]) };
    let problem = Problem::draw(&case);
    for device in devices() {
        let plan = case.plan(target_for(device)).expect("the default pick fits");
        let bits = || {
            let outcome = run(device, &plan, &problem).expect("a sound run");
            outcome.o.iter().chain(&outcome.lse).map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let first = bits();
        assert!((0..3).all(|_| bits() == first), "on {device}");
    }
}
