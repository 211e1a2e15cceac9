//! Mixture of Block Attention: over routings that are given, and from queries and keys to outputs by the routing of its gate.
//! A routing that is made is one of the scores in f64, near ties either way; outputs are held to the routing that there was.

use lacuna_dsl::{Elem, Pick, Shape, Target};
use lacuna_kernels::inputs::Route;
use lacuna_tests::{Case, Layout, Mixture, Numbers, Outcome, Problem, Routes, Seen, Work, run, target_for, widths};

use crate::harness::{agree, devices};

const ROUTES: [Routes; 6] = [
    Routes::Made,
    Routes::Drawn(Route::Random),
    Routes::Drawn(Route::Local),
    Routes::Garbage,
    Routes::Repeated,
    Routes::Nothing,
];

/// Widths of keys and of values.
const WIDTHS: [(u32, u32); 6] = [(64, 64), (128, 128), (192, 128), (256, 256), (32, 32), (96, 96)];

/// Documents of one token; shorter than a block, as long as one, a token longer; not a multiple; empty ones; ragged batches.
const LENGTHS: [&[usize]; 9] =
    [&[1], &[31], &[32], &[33], &[100], &[0, 90], &[64, 0, 33, 0], &[1, 1, 70, 1], &[129, 40]];

fn case(mixture: Mixture, (dk, dv): (u32, u32), group: u32, block: u32, lengths: &[usize]) -> Case {
    let shape = Shape::new(Elem::Bf16, dk, dv, group).with_block(block);
    Case::of(Work::Moba(mixture), shape, lengths)
}

fn mixture(i: usize, top: u32) -> Mixture {
    Mixture::new(ROUTES[i % ROUTES.len()], top)
}

/// Sequences of all lengths, in blocks and with choices that take turns: with periods that have no common factor.
#[test]
fn every_width_and_length() {
    let mut cases = Vec::new();
    for widths in WIDTHS {
        for lengths in LENGTHS {
            let i = cases.len();
            let (group, top) = ([1, 4, 2, 3, 8][i % 5], [3, 1, 2, 8, 4, 64, 5][i % 7]);
            let mut case = case(mixture(i + i / 6, top), widths, group, [32, 48, 64, 128][i % 4], lengths);
            case.hk = if group < 4 { 1 + i % 2 } else { 1 };
            case.shape.elem = if i % 5 < 3 { Elem::Bf16 } else { Elem::F16 };
            case.seed = i as u64;
            case.slack = if i % 4 == 3 { 150 } else { 0 };
            cases.push(case);
        }
    }
    agree("moba: widths and lengths", &cases);
}

/// Query heads of a KV head, MQA with 64 of them; every head its own way, the lists of a group in one.
#[test]
fn every_group() {
    let mut cases = Vec::new();
    for (group, hk) in [(1, 3), (2, 2), (3, 1), (4, 2), (7, 1), (8, 2), (16, 1), (17, 1), (64, 1)] {
        for routes in [Routes::Made, Routes::Drawn(Route::Random)] {
            let mut case = case(Mixture::new(routes, 4), (64, 64), group, 32, &[150, 0, 40]);
            (case.hk, case.seed) = (hk, group.into());
            cases.push(case);
        }
    }
    agree("moba: groups", &cases);
}

/// Blocks from 32 keys to more than there are, and choices from 1 to 64, fewer and more than there are blocks.
#[test]
fn every_block_and_number_of_choices() {
    let mut cases = Vec::new();
    for (block, length) in [(32, 500), (48, 300), (80, 400), (208, 700), (512, 1100), (160_000, 200)] {
        for top in [1, 2, 3, 9, 64] {
            let routes = [Routes::Made, Routes::Drawn(Route::Random), Routes::Garbage][cases.len() % 3];
            let mut case = case(Mixture::new(routes, top), (64, 64), 2, block, &[length, 0, 33]);
            case.seed = cases.len() as u64;
            cases.push(case);
        }
    }
    agree("moba: blocks and choices", &cases);
}

/// Queries and keys that end together: chunks of a prefill, single tokens, more queries than keys, none of one.
#[test]
fn keys_apart() {
    let batches: [(&[usize], &[usize]); 7] = [
        (&[70], &[200]),
        (&[1], &[130]),
        (&[150], &[60]),
        (&[40], &[0]),
        (&[0, 33], &[64, 33]),
        (&[1, 1, 1], &[1, 200, 0]),
        (&[40, 100, 0, 90], &[300, 60, 50, 0]),
    ];
    let mut cases = Vec::new();
    for (lengths, keys) in batches {
        for routes in [Routes::Made, Routes::Drawn(Route::Random), Routes::Garbage] {
            let i = cases.len();
            let chunks = [[1, 1], [2, 3], [1, 2]][i % 3];
            let mixture = Mixture { chunks, ..Mixture::new(routes, [4, 2, 64][i / 2 % 3]) };
            let mut case = case(mixture, WIDTHS[i % 3], [2, 1, 4][i % 3], [32, 64][i % 2], lengths).with_keys(keys);
            (case.hk, case.seed, case.slack) = (1 + i % 2, i as u64, [0, 70][i % 2]);
            cases.push(case);
        }
    }
    agree("moba: keys apart", &cases);
}

/// The knobs of the chosen blocks and of the own one, each at every value.
#[test]
fn every_knob() {
    let mut cases = Vec::new();
    for widths in [(64, 64), (128, 128)] {
        let first = case(Mixture::new(Routes::Drawn(Route::Random), 3), widths, 2, 64, &[200, 0, 70]);
        for (knob, values) in first.work.space(Target::SM_80).knobs {
            for value in values {
                let shape = &first.shape;
                let Work::Moba(mixture) = first.work else { unreachable!() };
                let wanted = Pick::from([(knob.clone(), value)]);
                if let Ok(pick) = lacuna_dsl::Tunable::choose(&mixture.at(shape), Target::SM_80, &wanted) {
                    cases.push(Case { pick, seed: cases.len() as u64, ..first.clone() });
                }
            }
        }
    }
    assert!(cases.len() > 30, "{} cases", cases.len());
    agree("moba: knobs", &cases);
}

/// Neighbouring blocks as one: a row fetches two or four of them together, and has one part of those that it chose.
#[test]
fn neighbouring_blocks_joined() {
    let batches: [(&[usize], Option<&[usize]>); 6] = [
        (&[33], None),
        (&[64, 0, 129, 1], None),
        (&[500], None),
        (&[300, 31, 330], None),
        (&[40, 100, 0, 90], Some(&[300, 60, 50, 0])),
        (&[1, 1, 1], Some(&[1, 259, 0])),
    ];
    let mut cases = Vec::new();
    for (lengths, keys) in batches {
        for (joined, top) in [(2, 4), (4, 3), (4, 16), (2, 2)] {
            let i = cases.len();
            let chunks = [[1, 1], [2, 3], [1, 2]][i % 3];
            let mixture = Mixture { chunks, ..Mixture::new(Routes::Made, top) };
            let mut case = case(mixture, WIDTHS[i % 3], [2, 1, 3][i % 3], [32, 64][i / 2 % 2], lengths);
            if let Some(keys) = keys {
                case = case.with_keys(keys);
            }
            let wanted = Pick::from([("joined".to_owned(), joined)]);
            case.pick = lacuna_dsl::Tunable::choose(&mixture.at(&case.shape), Target::SM_80, &wanted).expect("a pick");
            (case.hk, case.seed) = (1 + i % 2, i as u64);
            cases.push(case);
        }
    }
    agree("moba: neighbours joined", &cases);
}

#[test]
fn heads_that_attend_fully() {
    let mut cases = Vec::new();
    for full_heads in [0b0110, 0b1111, 0b1000] {
        for routes in [Routes::Made, Routes::Drawn(Route::Random)] {
            for (lengths, keys) in [(&[70, 0, 230][..], None), (&[40, 90, 5][..], Some([130, 50, 0]))] {
                let mixture = Mixture { full_heads, ..Mixture::new(routes, 3) };
                let case = Case { hk: 2, ..case(mixture, (64, 64), 2, 32, lengths) };
                cases.push(match keys {
                    Some(keys) => case.with_keys(&keys),
                    None => case,
                });
            }
        }
    }
    agree("moba: full heads", &cases);
}

/// The own block as a part like others.
#[test]
fn own_blocks_as_parts() {
    let mut cases = Vec::new();
    for (top, chunks) in [(1, [1, 1]), (4, [1, 1]), (3, [2, 2])] {
        let mixture = Mixture { fused: false, chunks, ..Mixture::new(Routes::Made, top) };
        cases.push(Case { hk: 2, ..case(mixture, (64, 64), 2, 32, &[70, 0, 230]) });
    }
    agree("moba: own blocks as parts", &cases);
}

/// Of a NaN or an infinite key all rows that are sent to its block know, and those of its own block behind it. The gate sends none
/// to a block whose score is NaN or -inf, nor a row that has no other; neighbours that are joined with such a block do not see it.
#[test]
fn unusual_scales_and_numbers() {
    let numbers = [
        Numbers::Large(30.0),
        Numbers::Large(300.0),
        Numbers::InfiniteRows,
        Numbers::NanQueries,
        Numbers::NanKey,
        Numbers::InfiniteKey,
    ];
    let mut cases = Vec::new();
    for widths in [(64, 64), (128, 128), (192, 128)] {
        for numbers in numbers {
            for routes in [Routes::Drawn(Route::Random), Routes::Garbage, Routes::Made] {
                let mut case = case(Mixture::new(routes, 3), widths, 2, 32, &[100, 0, 166]);
                case.numbers = numbers;
                case.shape.elem = if cases.len() % 2 == 0 { Elem::Bf16 } else { Elem::F16 };
                if routes == Routes::Made && cases.len() % 4 < 2 {
                    case.pick.insert("joined".to_owned(), 2);
                }
                cases.push(case);
            }
        }
        for scale in [1.0, 1e-3] {
            cases.push(Case { scale: Some(scale), ..case(Mixture::new(Routes::Made, 4), widths, 2, 32, &[130]) });
        }
    }
    agree("moba: scales and numbers", &cases);
}

#[test]
fn tensors_within_tensors() {
    let mut cases = Vec::new();
    for (routes, width, group, hk) in
        [(Routes::Made, 64, 2, 2), (Routes::Drawn(Route::Random), 32, 1, 3), (Routes::Garbage, 128, 4, 1)]
    {
        let mut case = case(Mixture::new(routes, 4), (width, width), group, 32, &[75, 0, 120]);
        (case.hk, case.layout) = (hk, Layout::Fused);
        cases.push(case);
    }
    agree("moba: fused Q, K and V", &cases);
}

#[test]
fn many_documents() {
    let lengths: Vec<usize> = (0..120).map(|i| [0, 1, 3, 0, 0, 40, 2, 0, 70][i * i % 9]).collect();
    let cases = [Routes::Made, Routes::Garbage].map(|routes| case(Mixture::new(routes, 3), (32, 32), 2, 32, &lengths));
    agree("moba: many documents", &cases);
}

#[test]
fn batches_without_tokens() {
    let mut cases = Vec::new();
    for lengths in [&[0][..], &[0, 0, 0]] {
        for routes in [Routes::Made, Routes::Nothing] {
            cases.push(case(Mixture::new(routes, 3), (64, 64), 2, 32, lengths));
        }
    }
    agree("moba: nothing to do", &cases);
}

/// VMoBA: no key is hidden, and a row takes others, before and behind it, until they have their share.
#[test]
fn blocks_by_their_share_of_the_softmax() {
    let mut cases = Vec::new();
    for (share, top) in [(0, 4), (30, 4), (60, 64), (100, 8), (100, 1)] {
        for routes in [Routes::Made, Routes::Drawn(Route::Random), Routes::Garbage] {
            for (lengths, keys) in [(&[200, 0, 45][..], None), (&[33, 64], None), (&[40, 90, 5], Some([130, 50, 0]))] {
                let i = cases.len();
                let chunks = [[1, 1], [2, 3]][i % 2];
                let mixture = Mixture { share: Some(share), chunks, ..Mixture::new(routes, top) };
                let mut case =
                    Case { hk: 2, ..case(mixture, WIDTHS[i % 3], [2, 1, 3][i % 3], [32, 64][i / 2 % 2], lengths) };
                case.seed = i as u64;
                cases.push(match keys {
                    Some(keys) => case.with_keys(&keys),
                    None => case,
                });
            }
        }
    }
    for chunks in [[1, 1], [2, 2]] {
        let mixture = Mixture { share: Some(40), fused: false, chunks, ..Mixture::new(Routes::Made, 4) };
        cases.push(Case { hk: 2, ..case(mixture, (64, 64), 2, 32, &[70, 0, 230]) });
        cases.push(Case { hk: 2, ..case(mixture, (64, 64), 2, 32, &[70, 0, 130]) }.with_keys(&[30, 64, 200]));
    }
    agree("vmoba", &cases);
}

/// Choices that cover every block are full attention: by the routing, and as the dense kernel that takes its place, with the
/// routing that is asked for.
#[test]
fn choices_of_every_block_are_causal_attention() {
    let lengths = [100, 0, 64, 1];
    for (routes, covering) in [(Routes::Everything, false), (Routes::Made, false), (Routes::Made, true)] {
        for hk in [1, 2] {
            let mixture = Mixture { covering, ..Mixture::new(routes, 4) };
            let case = Case { hk, ..case(mixture, (64, 64), 2, 32, &lengths) };
            let problem = Problem::draw(&case);
            let dense = Work::QueryMajor(Seen::Causal);
            let causal = problem.under(&Case { work: dense, pick: dense.default_pick(&case.shape), ..case.clone() });
            for device in devices() {
                let of = |problem: &Problem| {
                    let plan = problem.case.plan(target_for(device)).expect("the default pick fits");
                    run(device, &plan, problem).unwrap_or_else(|error| panic!("{case} on {device}: {error}"))
                };
                let (mixed, whole) = (of(&problem), of(&causal));
                let blind = Outcome { routing: None, ..mixed.clone() };
                for verdicts in [&causal.judge(&[&blind])[0], &problem.judge(&[&mixed])[0]] {
                    assert!(verdicts.ok(), "{case} on {device}:\n{verdicts}");
                }
                if covering {
                    assert!(bits(&blind) == bits(&whole), "{case} on {device} is not the dense kernel");
                }
            }
        }
    }
}

fn bits(outcome: &Outcome) -> Vec<u32> {
    let routing = outcome.routing.iter().flat_map(|routing| &routing.data);
    let floats = outcome.o.iter().chain(&outcome.lse).map(|x| x.to_bits());
    floats.chain(routing.map(|block| block.cast_unsigned())).collect()
}

/// Nothing depends on which CTA is first, nor on how many chunks there are: a row has its parts in one order.
#[test]
fn every_run_and_any_chunks_give_the_same_bits() {
    for (routes, top, keys) in
        [(Routes::Made, 4, None), (Routes::Garbage, 6, None), (Routes::Made, 3, Some([300, 40, 61]))]
    {
        let of = |chunks| {
            let mixture = Mixture { chunks, ..Mixture::new(routes, top) };
            let case = Case { hk: 2, ..case(mixture, (64, 64), 2, 32, &[150, 0, 61]) };
            keys.map_or(case.clone(), |keys| case.with_keys(&keys))
        };
        let problem = Problem::draw(&of([1, 1]));
        for device in devices() {
            let run = |chunks| {
                let mut problem = problem.clone();
                problem.case = of(chunks);
                let plan = problem.case.plan(target_for(device)).expect("the default pick fits");
                bits(&run(device, &plan, &problem).unwrap_or_else(|error| panic!("{}: {error}", problem.case)))
            };
            let first = run([1, 1]);
            assert!((0..3).all(|_| run([1, 1]) == first), "{} on {device}", problem.case);
            for chunks in [[2, 1], [1, 2], [2, 2], [1, 3], [2, 7], [3, 1], [1, 300]] {
                assert!(run(chunks) == first, "{} on {device}: {chunks:?} chunks", problem.case);
            }
        }
    }
}

/// Of 43 tokens in a chunk, whose choices two warps sort, and 42, for which one is enough: what the second counted before is of
/// no use.
#[test]
fn a_chunk_knows_nothing_of_the_one_before() {
    let of = |chunks| {
        let mixture = Mixture { chunks, ..Mixture::new(Routes::Repeated, 48) };
        case(mixture, (32, 32), 2, 32, &[211])
    };
    let problem = Problem::draw(&of([1, 1]));
    for device in devices() {
        let run = |chunks| {
            let mut problem = problem.clone();
            problem.case = of(chunks);
            let plan = problem.case.plan(target_for(device)).expect("the default pick fits");
            run(device, &plan, &problem).unwrap_or_else(|error| panic!("{}: {error}", problem.case))
        };
        let (whole, chunks) = (run([1, 1]), run([1, 5]));
        assert!(problem.judge(&[&whole])[0].ok(), "{} on {device}", problem.case);
        assert!(bits(&whole) == bits(&chunks), "{} on {device}", problem.case);
    }
}

/// The last queries of a document, over all of its keys, choose and see what they do among all queries, bit for bit.
#[test]
fn a_chunk_of_a_prefill_is_the_prefill() {
    for routes in [Routes::Made, Routes::Drawn(Route::Random)] {
        let case = case(Mixture::new(routes, 3), (64, 64), 2, 32, &[300]);
        let whole = Problem::draw(&case);
        let compute = |problem: &Problem| {
            let plan = problem.case.plan(Target::SM_80).expect("the default pick fits");
            run(&devices()[0], &plan, problem).unwrap_or_else(|error| panic!("{}: {error}", problem.case))
        };
        let all = compute(&whole);
        for tokens in [0..128, 128..256, 256..300, 128..300] {
            let part = compute(&whole.chunk(tokens.clone()));
            let same = |part: &[f32], all: &[f32], width: usize| {
                let all = &all[tokens.start * width..tokens.end * width];
                part.iter().map(|x| x.to_bits()).eq(all.iter().map(|x| x.to_bits()))
            };
            assert!(same(&part.o, &all.o, 2 * 64) && same(&part.lse, &all.lse, 2), "{case}, tokens {tokens:?}");
            if let (Some(part), Some(all)) = (part.routing, &all.routing) {
                assert_eq!(part.data, all.data[tokens.start * 2 * 3..tokens.end * 2 * 3], "{case}, tokens {tokens:?}");
            }
        }
    }
}

/// One choice too few or another one is beyond the tolerance.
#[test]
fn near_misses_are_beyond_the_tolerance() {
    let of = |routes, top| case(Mixture::new(routes, top), (64, 64), 2, 32, &[200]);
    let right = of(Routes::Drawn(Route::Local), 3);
    let wrongs = [
        of(Routes::Nothing, 3),
        of(Routes::Drawn(Route::Random), 3),
        of(Routes::Drawn(Route::Local), 4),
        of(Routes::Drawn(Route::Local), 2),
        Case { shape: right.shape.clone().with_block(64), ..right.clone() },
    ];
    let problem = Problem::draw(&right);
    for wrong in wrongs {
        let plan = wrong.plan(Target::SM_80).expect("the default pick fits");
        let outcome = run(&devices()[0], &plan, &Problem::draw(&wrong)).expect("a sound run");
        let verdicts = &problem.judge(&[&outcome])[0];
        assert!(!verdicts.o.ok && !verdicts.lse.ok, "{wrong} passes for {right}:\n{verdicts}");
    }
}

#[test]
fn every_width_has_a_pick_that_fits_every_target() {
    for (dk, dv) in WIDTHS.into_iter().chain(widths().map(|width| (width, width))) {
        for target in [Target::SM_80, Target::SM_86, Target::SM_90, Target::SM_120] {
            let shape = Shape::new(Elem::Bf16, dk, dv, 4);
            let moba = Mixture::new(Routes::Made, 8).at(&shape.with_block(128));
            let pick = lacuna_dsl::Tunable::choose(&moba, target, &Pick::new());
            let pick = pick.unwrap_or_else(|error| panic!("D{dk}/{dv} for {target}: {error}"));
            lacuna_dsl::Tunable::plan(&moba, target, &pick).unwrap_or_else(|error| panic!("D{dk}/{dv}: {error}"));
        }
    }
}
