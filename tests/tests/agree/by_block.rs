//! Picked blocks one by one, each for all tokens that picked it, and the merge of what they give.

use lacuna_dsl::Target;
use lacuna_kernels::inputs::{Locality, Spoil};
use lacuna_tests::{Case, Picks, Work, widths};

use crate::harness::agree;

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

fn case(picks: Picks, n: usize, width: u32, group: u32, lengths: &[usize]) -> Case {
    Case::new(Work::ByBlock(picks, n), width, group, lengths)
}

/// The `i`th of the schedule's picks, or the next one with which the case can be planned.
fn take_pick(case: &mut Case, i: usize) {
    let picks = case.work.space().picks();
    for i in i..i + picks.len() {
        case.pick = picks[i % picks.len()].clone();
        if case.plan(Target::SM_80).map_err(|e| println!("{e}")).is_ok() {
            return;
        }
    }
    panic!("no pick fits {:?}", case.shape);
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
