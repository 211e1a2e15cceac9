//! Documents with a number of keys of their own, as in a chunked prefill or a decode step: queries and keys end together.

use lacuna_dsl::{Elem, Pick, Target};
use lacuna_kernels::inputs::{Locality, Spoil};
use lacuna_runtime::Device;
use lacuna_tests::{Case, Numbers, Picks, Problem, Seen, Work, run, widths};

use crate::harness::agree;

/// Queries and keys of each document. A chunk behind many keys; one token; as many of both; more queries than keys, in the
/// tile of the first keys and in tiles before it; no keys, and no queries; and batches of these.
const LENGTHS: [(&[usize], &[usize]); 14] = [
    (&[70], &[200]),
    (&[1], &[130]),
    (&[64], &[64]),
    (&[65], &[129]),
    (&[129], &[65]),
    (&[200], &[1]),
    (&[300], &[40]),
    (&[70], &[0]),
    (&[0], &[70]),
    (&[1, 1, 1, 1], &[1, 200, 64, 0]),
    (&[40, 0, 130, 1], &[90, 33, 20, 65]),
    (&[0, 150, 7], &[64, 0, 100]),
    (&[100, 20], &[0, 130]),
    (&[20, 100], &[130, 0]),
];

const GROUPS: [u32; 6] = [1, 2, 3, 4, 7, 16];

const SEEN: [Seen; 12] = [
    Seen::Full,
    Seen::Causal,
    Seen::Window(1),
    Seen::Window(40),
    Seen::Window(1000),
    Seen::WindowSink(16, 4),
    Seen::WindowSink(33, 70),
    Seen::PrefixLm(40),
    Seen::Dilated(3),
    Seen::BlockDiagonal(48),
    Seen::Longformer(10, 2),
    Seen::Longformer(33, 70),
];

/// The `i`th of the schedule's picks, or the next one with which the case can be planned.
fn take_pick(case: &mut Case, i: usize) {
    let fits = |pick: &&Pick| case.work.plan(Target::SM_80, &case.shape, pick).is_ok();
    let picks = case.work.space(Target::SM_80).picks();
    case.pick = picks.iter().cycle().skip(i % picks.len()).take(picks.len()).find(fits).expect("a pick fits").clone();
}

/// The work over every kind of batch. Widths, groups, element types and picks take turns.
fn batches(works: &[Work], widest: u32) -> Vec<Case> {
    let mut cases = Vec::new();
    for &work in works {
        for (lengths, keys) in LENGTHS {
            let i = cases.len();
            let (group, widths) = (GROUPS[i % GROUPS.len()], widths().into_iter().filter(|&width| width <= widest));
            let width = widths.cycle().nth(i + i / 6).expect("widths in a cycle");
            let mut case = Case::new(work, width, group, lengths).with_keys(keys);
            case.hk = if group < 4 { 1 + i % 2 } else { 1 };
            case.shape.elem = if i % 5 < 3 { Elem::Bf16 } else { Elem::F16 };
            case.seed = i as u64;
            case.slack = if i % 4 == 3 { 150 } else { 0 };
            take_pick(&mut case, i * 3);
            cases.push(case);
        }
    }
    cases
}

#[test]
fn every_mask() {
    let works = SEEN.map(Work::QueryMajor);
    agree("keys apart: masks", &batches(&works, 256));
}

#[test]
fn picked_blocks() {
    let picks = [Picks::Drawn(Locality::PerToken), Picks::Wild, Picks::Spoiled(Spoil::Empty), Picks::Scored];
    let works = |work: fn(Picks, usize) -> Work| picks.map(|picks| work(picks, 5));
    agree("keys apart: token by token", &batches(&works(Work::GroupCentric), 256));
    agree("keys apart: block by block", &batches(&works(Work::ByBlock), 128));
}

#[test]
fn unusual_numbers() {
    let numbers =
        [Numbers::Large(300.0), Numbers::InfiniteRows, Numbers::NanQueries, Numbers::NanKey, Numbers::InfiniteKey];
    let works = [
        Work::QueryMajor(Seen::Causal),
        Work::QueryMajor(Seen::Window(40)),
        Work::GroupCentric(Picks::Drawn(Locality::PerBlock), 4),
        Work::ByBlock(Picks::Drawn(Locality::PerBlock), 4),
    ];
    let mut cases = Vec::new();
    for numbers in numbers {
        for work in works {
            let case = Case::new(work, 64, 2, &[40, 90]).with_keys(&[120, 70]);
            cases.push(Case { numbers, ..case });
        }
    }
    agree("keys apart: numbers", &cases);
}

fn bits(case: &Case) -> (Vec<u32>, Vec<u32>) {
    bits_of(&Problem::draw(case))
}

fn bits_of(problem: &Problem) -> (Vec<u32>, Vec<u32>) {
    let plan = problem.case.plan(Target::SM_80).expect("the default pick fits");
    let outcome = run(&Device::emulator(), &plan, problem).expect("a sound run");
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect();
    (bits(&outcome.o), bits(&outcome.lse))
}

/// With as many keys as queries it is the kernel that knows of no other number, bit for bit.
#[test]
fn as_many_keys_as_queries_are_the_same_attention() {
    let lengths = [70, 0, 130, 1];
    let picks = Picks::Wild;
    let mut works = SEEN.map(Work::QueryMajor).to_vec();
    works.extend([Work::GroupCentric(picks, 4), Work::ByBlock(picks, 4)]);
    for work in works {
        let case = Case::new(work, 64, 2, &lengths);
        assert_eq!(bits(&case), bits(&case.clone().with_keys(&lengths)), "{case}");
    }
}

/// The last queries of a document, over all of its keys, give what they give among all queries, bit for bit, where their
/// tiles are the same: a chunked prefill is the prefill.
#[test]
fn chunks_of_a_prefill_are_the_prefill() {
    let works = [
        Work::QueryMajor(Seen::Causal),
        Work::QueryMajor(Seen::Window(70)),
        Work::QueryMajor(Seen::WindowSink(40, 5)),
        Work::GroupCentric(Picks::Everything, 6),
        Work::ByBlock(Picks::Everything, 6),
    ];
    for work in works {
        let case = Case::new(work, 64, 2, &[300]);
        let whole = Problem::draw(&case);
        let (o, lse) = bits_of(&whole);
        for chunk in [0..128, 128..256, 256..300, 128..300] {
            let (o_chunk, lse_chunk) = bits_of(&whole.chunk(chunk.clone()));
            assert_eq!(o_chunk, o[chunk.start * 2 * 64..chunk.end * 2 * 64], "outputs of {case}, tokens {chunk:?}");
            assert_eq!(lse_chunk, lse[chunk.start * 2..chunk.end * 2], "LSE of {case}, tokens {chunk:?}");
        }
    }
}
