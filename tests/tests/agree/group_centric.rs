//! The query heads of a group over the blocks that are picked for their token.

use lacuna_dsl::{Elem, Shape, Target};
use lacuna_kernels::inputs::{Locality, Spoil};
use lacuna_tests::{Case, Layout, Numbers, Picks, Work, widths};

use crate::harness::{agree, pairs};
use crate::picks::fits;

/// Padded to 16, 32, 48 and 64 rows, and exactly as many.
const GROUPS: [u32; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 32, 48, 64];

const BLOCKS: [u32; 4] = [16, 32, 64, 128];

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
    Case::new(Work::GroupCentric(picks, n), width, group, lengths)
}

/// Whether the case can be planned for the smallest GPU that it may run on.
fn runs(case: &Case) -> bool {
    fits(&case.shape, &case.pick) && case.plan(Target::SM_80).is_ok()
}

/// The `i`th of the schedule's picks, or the next one with which the case can be planned.
fn take_pick(case: &mut Case, i: usize) {
    let picks = case.work.space(Target::SM_80).picks();
    for i in i..i + picks.len() {
        case.pick = picks[i % picks.len()].clone();
        if runs(case) {
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
            let n = 1 + i * 7 % 20;
            // Few tokens where each is much work.
            let lengths = if group * width > 2000 { &[40, 0, 9][..] } else { LENGTHS[i % LENGTHS.len()] };
            let mut case = case(PICKS[i % PICKS.len()], n, width, group, lengths);
            case.shape.block = BLOCKS[i / 3 % 4].max(if group <= 16 || group == 17 || group == 48 { 32 } else { 16 });
            case.hk = if group < 8 { 1 + i % 3 } else { 1 };
            case.shape.elem = if i % 5 < 3 { Elem::Bf16 } else { Elem::F16 };
            case.seed = i as u64;
            take_pick(&mut case, i);
            cases.push(case);
        }
    }
    agree("group-centric: every group", &cases);
}

#[test]
fn every_kind_of_selection() {
    let mut cases = Vec::new();
    for picks in PICKS {
        for lengths in LENGTHS {
            let i = cases.len();
            let group = [4, 1, 16, 7][i % 4];
            let mut case = case(picks, 1 + i * 3 % 20, widths()[(i + i / 6) % 6], group, lengths);
            case.shape.block = [64, 32, 128][i / 2 % 3];
            case.seed = i as u64;
            take_pick(&mut case, i);
            cases.push(case);
        }
    }
    agree("group-centric: selections", &cases);
}

#[test]
fn every_pick_at_every_width_and_block() {
    let mut cases = Vec::new();
    for width in widths() {
        for block in BLOCKS {
            for pick in Work::GroupCentric(Picks::Wild, 3).space(Target::SM_80).picks() {
                let group = [6, 17, 64][cases.len() % 3];
                let picks = [Picks::Wild, Picks::Spoiled(Spoil::Empty), Picks::Drawn(Locality::PerToken)];
                let mut case = case(picks[cases.len() / 3 % 3], 4, width, group, &[20, 0, 50]);
                case.shape.block = block;
                case.pick = pick;
                if !runs(&case) {
                    // The rows of the largest group alone keep the warps busy.
                    case.shape.group = 64;
                }
                if runs(&case) {
                    cases.push(case);
                }
            }
        }
    }
    // All but a few that need more shared memory than there is.
    let picks = Work::GroupCentric(Picks::Wild, 3).space(Target::SM_80).picks().len();
    assert!(cases.len() >= 20 * picks, "{} cases", cases.len());
    agree("group-centric: every pick", &cases);
}

#[test]
fn every_number_of_picks() {
    let mut cases = Vec::new();
    for n in 1..=20 {
        let mut case = case(PICKS[n % 7], n, 64, 4, &[8, 0, 33 + 2 * n]);
        case.shape.block = 32;
        take_pick(&mut case, n);
        cases.push(case);
    }
    agree("group-centric: every n", &cases);
}

/// Far more picks than blocks, most of them none.
#[test]
fn hundreds_of_picks() {
    let cases = [65, 300].map(|n| case(Picks::Wild, n, 32, 3, &[70, 0, 9]));
    agree("group-centric: hundreds of picks", &cases);
}

#[test]
fn many_documents() {
    let lengths: Vec<usize> = (0..120).map(|i| [0, 1, 3, 0, 0, 7, 2, 0, 20][i * i % 9]).collect();
    let cases = [1, 3].map(|n| case(Picks::Wild, n, 32, 2, &lengths));
    agree("group-centric: many documents", &cases);
}

#[test]
fn keys_and_values_of_different_widths() {
    let mut cases = Vec::new();
    for (dk, dv) in pairs() {
        cases.push(Case::of(Work::GroupCentric(Picks::Wild, 5), Shape::new(Elem::F16, dk, dv, 6), &[90, 20]));
    }
    agree("group-centric: Dk and Dv", &cases);
}

#[test]
fn tensors_within_tensors() {
    let mut cases = Vec::new();
    for (width, group, hk) in [(32, 1, 4), (64, 1, 3), (96, 5, 2), (128, 2, 2), (192, 16, 1), (256, 3, 1)] {
        let mut case = case(Picks::Wild, 6, width, group, &[75, 0, 12]);
        (case.hk, case.layout) = (hk, Layout::Fused);
        cases.push(case);
    }
    agree("group-centric: fused Q, K and V", &cases);
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
        for scale in [1.0, 1e-3] {
            let mut case = case(Picks::Wild, 4, width, 3, &[70]);
            case.scale = Some(scale);
            cases.push(case);
        }
    }
    agree("group-centric: scales and numbers", &cases);
}

#[test]
fn batches_without_tokens() {
    let cases: Vec<Case> =
        [&[0][..], &[0, 0, 0]].into_iter().map(|lengths| case(Picks::Nothing, 4, 64, 2, lengths)).collect();
    agree("group-centric: nothing to do", &cases);
}
