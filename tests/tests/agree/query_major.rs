//! A tile of queries over the keys that its mask lets it see.

use lacuna_dsl::{Elem, Pick, Shape, Target};
use lacuna_tests::{Case, Layout, Numbers, Problem, Seen, Work, run, target_for, widths};

use crate::harness::{agree, devices, pairs};

/// Documents of every kind: one token, tails of a tile and of a block, whole tiles, none at all.
const LENGTHS: [&[usize]; 11] =
    [&[1], &[63], &[64], &[65], &[129], &[200], &[17, 0, 70, 1], &[0, 0, 33], &[64, 128], &[0, 5, 0], &[1, 1, 1, 1]];

const GROUPS: [u32; 6] = [1, 2, 3, 4, 7, 16];

pub(crate) const SEEN: [Seen; 19] = [
    Seen::Full,
    Seen::Causal,
    Seen::Window(1),
    Seen::Window(17),
    Seen::Window(64),
    Seen::Window(1000),
    Seen::WindowSink(16, 4),
    Seen::WindowSink(8, 0),
    Seen::WindowSink(5, 1000),
    Seen::WindowSink(33, 70),
    Seen::WindowSink(1000, 3),
    Seen::PrefixLm(40),
    Seen::PrefixLm(0),
    Seen::Dilated(3),
    Seen::Dilated(64),
    Seen::BlockDiagonal(48),
    Seen::BlockDiagonal(1),
    Seen::Longformer(10, 2),
    Seen::Longformer(33, 70),
];

const NUMBERS: [Numbers; 6] = [
    Numbers::Large(30.0),
    Numbers::Large(300.0),
    Numbers::InfiniteRows,
    Numbers::NanQueries,
    Numbers::NanKey,
    Numbers::InfiniteKey,
];

fn case(seen: Seen, width: u32, group: u32, lengths: &[usize]) -> Case {
    Case::new(Work::QueryMajor(seen), width, group, lengths)
}

/// Every mask over every kind of batch. Widths, groups, element types and picks take turns, with periods that have no
/// common factor with one another's.
fn masks(seen: &[Seen]) -> Vec<Case> {
    let picks = Work::QueryMajor(Seen::Full).space(Target::SM_80).picks();
    let mut cases = Vec::new();
    for &seen in seen {
        for lengths in LENGTHS {
            let i = cases.len();
            let group = GROUPS[i % GROUPS.len()];
            let mut case = case(seen, widths()[(i + i / 6) % 6], group, lengths);
            case.hk = if group < 4 { 1 + i % 2 } else { 1 };
            case.shape.elem = if i % 5 < 3 { Elem::Bf16 } else { Elem::F16 };
            let fits = |pick: &&Pick| case.work.plan(Target::SM_80, &case.shape, pick).is_ok();
            case.pick = picks.iter().cycle().skip(i * 3 % picks.len()).find(fits).expect("a pick fits").clone();
            case.seed = i as u64;
            case.slack = if i % 4 == 3 { 150 } else { 0 };
            cases.push(case);
        }
    }
    cases
}

#[test]
fn full_causal_and_window() {
    agree("query-major: full, causal, window", &masks(&SEEN[..6]));
}

#[test]
fn window_and_sink() {
    agree("query-major: window and sink", &masks(&SEEN[6..11]));
}

#[test]
fn prefixes_steps_chunks_and_global_tokens() {
    agree("query-major: prefix, dilated, block diagonal, Longformer", &masks(&SEEN[11..]));
}

#[test]
fn every_pick_at_every_width() {
    let mut cases = Vec::new();
    for width in widths() {
        for pick in Work::QueryMajor(Seen::Causal).space(Target::SM_80).picks() {
            let seen = [Seen::Causal, Seen::WindowSink(20, 6), Seen::Full][cases.len() % 3];
            let mut case = case(seen, width, 2, &[40, 0, 150]);
            case.pick = pick;
            // The widest need more shared memory than there is at every other pick.
            if case.plan(Target::SM_80).is_ok() {
                cases.push(case);
            }
        }
    }
    let picks = Work::QueryMajor(Seen::Causal).space(Target::SM_80).picks().len();
    assert!(cases.len() >= 5 * picks, "{} cases", cases.len());
    agree("query-major: every pick", &cases);
}

#[test]
fn every_group_at_every_width() {
    let mut cases = Vec::new();
    for width in widths() {
        for group in GROUPS {
            cases.push(case(Seen::Causal, width, group, &[70, 3]));
        }
    }
    agree("query-major: every group", &cases);
}

#[test]
fn keys_and_values_of_different_widths() {
    let mut cases = Vec::new();
    for (dk, dv) in pairs() {
        cases.push(Case::of(Work::QueryMajor(Seen::Causal), Shape::new(Elem::F16, dk, dv, 3), &[90, 20]));
    }
    agree("query-major: Dk and Dv", &cases);
}

#[test]
fn tensors_within_tensors() {
    let mut cases = Vec::new();
    for (width, group, hk) in [(32, 1, 4), (64, 1, 3), (96, 4, 2), (128, 2, 1), (192, 7, 1), (256, 2, 1)] {
        let mut case = case(Seen::WindowSink(30, 5), width, group, &[75, 0, 12]);
        (case.hk, case.layout) = (hk, Layout::Fused);
        cases.push(case);
    }
    agree("query-major: fused Q, K and V", &cases);
}

#[test]
fn unusual_scales_and_numbers() {
    let mut cases = Vec::new();
    for (i, width) in widths().into_iter().enumerate() {
        for numbers in NUMBERS {
            let seen = [Seen::Causal, Seen::Window(40), Seen::Full][(i + cases.len()) % 3];
            let mut case = case(seen, width, 2, &[100, 0, 66]);
            case.numbers = numbers;
            case.shape.elem = if cases.len() % 2 == 0 { Elem::Bf16 } else { Elem::F16 };
            cases.push(case);
        }
        for scale in [1.0, 1e-3, 0.25] {
            let mut case = case(Seen::Causal, width, 1, &[90]);
            case.scale = Some(scale);
            cases.push(case);
        }
    }
    agree("query-major: scales and numbers", &cases);
}

/// A weight of zero times NaN is NaN: a value that a row does not see still reaches it where the row's tile goes through the
/// value's block, as in every kernel that multiplies whole tiles. It reaches nothing else.
#[test]
fn a_nan_among_the_values_stays_in_its_column_and_tile() {
    let mut cases = vec![case(Seen::Full, 64, 2, &[100, 0, 66])];
    cases[0].numbers = Numbers::NanValue;
    agree("query-major: NaN among the values", &cases);

    let mut case = case(Seen::Causal, 64, 1, &[300]);
    case.numbers = Numbers::NanValue;
    let (tile, problem) = (case.pick["rows"] as usize, Problem::draw(&case));
    let clean = Problem::draw(&Case { numbers: Numbers::Normal, ..case.clone() });
    for device in devices() {
        let plan = case.plan(target_for(device)).expect("the default pick fits");
        let results = [&problem, &clean].map(|problem| run(device, &plan, problem).expect("a sound run"));
        let [o, without] = results.map(|outcome| outcome.o);
        for (i, (o, without)) in o.iter().zip(without).enumerate() {
            let (token, column) = (i / 64, i % 64);
            if column != 1 || token < 150 / tile * tile {
                assert_eq!(*o, without, "token {token}, column {column} on {device}");
            } else if token >= 150 {
                assert!(o.is_nan(), "token {token} on {device} sees a NaN, and is {o}");
            }
        }
    }
}

/// Arguments at the ends of their range: sums and differences with positions must not wrap. A window of nothing empties
/// whole tiles.
#[test]
fn arguments_at_their_ends() {
    let most = i32::MAX as u32;
    let mut cases = Vec::new();
    for (window, sink) in
        [(0, 0), (0, 3), (0, most), (1, most), (most, 0), (most, most), (most - 1, 1), (1 << 30, 1 << 30)]
    {
        for seen in [Seen::Window(window), Seen::WindowSink(window, sink)] {
            for lengths in [&[1][..], &[150, 0, 70]] {
                let picks = Work::QueryMajor(seen).space(Target::SM_80).picks();
                let mut case = case(seen, 32, 1, lengths);
                case.pick = picks[cases.len() * 5 % picks.len()].clone();
                cases.push(case);
            }
        }
    }
    let ends = [
        Seen::PrefixLm(most),
        Seen::Dilated(most),
        Seen::BlockDiagonal(most),
        Seen::Longformer(0, 0),
        Seen::Longformer(most, 0),
        Seen::Longformer(0, most),
        Seen::Longformer(most, most),
    ];
    cases.extend(ends.map(|seen| case(seen, 32, 1, &[150, 0, 70])));
    agree("query-major: arguments at their ends", &cases);
}

#[test]
fn many_documents() {
    let lengths: Vec<usize> = (0..120).map(|i| [0, 1, 3, 0, 0, 7, 2, 0, 20][i * i % 9]).collect();
    let cases = [Seen::Causal, Seen::Window(2), Seen::Full].map(|seen| case(seen, 32, 2, &lengths));
    agree("query-major: many documents", &cases);
}

#[test]
fn batches_without_tokens() {
    let cases: Vec<Case> =
        [&[0][..], &[0, 0, 0]].into_iter().map(|lengths| case(Seen::Causal, 64, 2, lengths)).collect();
    agree("query-major: nothing to do", &cases);
}
