//! Warpgroups on sm_90a: a producer that fetches by tensor maps, `wgmma`, and every way in which products overlap.

use lacuna_dsl::{Elem, Pick, Target, Tunable as _};
use lacuna_kernels::inputs::{Locality, Route};
use lacuna_tests::{Case, Layout, Mixture, Numbers, Picks, Routes, Seen, Work, widths};

use crate::harness::agree;
use crate::query_major::SEEN;

const SM_90A: Target = Target::SM_90A;

fn case(seen: Seen, (dk, dv): (u32, u32), group: u32, lengths: &[usize], pick: Pick) -> Case {
    let shape = lacuna_dsl::Shape::new(Elem::Bf16, dk, dv, group);
    Case::of(Work::QueryMajor(seen), shape, lengths).on(SM_90A, pick)
}

fn pick(rows: u32, kv: u32, stages: u32, overlap: u32) -> Pick {
    let turns = ("turns", 1 + rows / 64 % 2);
    let knobs = [("rows", rows), ("kv", kv), ("stages", stages), ("overlap", overlap), turns];
    knobs.map(|(knob, value)| (knob.to_owned(), value)).into()
}

/// CTAs that do tile after tile: those that fall to them by where they stand, and those that they draw.
const PERSIST: [u32; 2] = [2, 3];

/// The same for CTAs that do tile after tile.
fn persistent(mut pick: Pick, how: u32) -> Pick {
    pick.insert("persist".to_owned(), how);
    pick
}

/// Every number of rounds about the number of stages: no loop, its opening alone, odd and even ends.
#[test]
fn every_number_of_rounds() {
    let mut cases = Vec::new();
    for (overlap, stages) in [(1, 2), (2, 2), (3, 2), (1, 3), (2, 3), (3, 3)] {
        for rounds in 0..=2 * stages as usize + 1 {
            let lengths = [(rounds * 64).max(1), 0, 1];
            let seen = [Seen::Causal, Seen::Full][rounds % 2];
            let case = case(seen, (64, 64), 1, &lengths, pick(64, 64, stages, overlap));
            cases.push(Case { seed: cases.len() as u64, ..case });
        }
    }
    agree("warpgroups: rounds", &cases);
}

/// Rounds that need their mask and rounds that need none, which are loops of their own: runs of every length of either, none
/// among them, in every order that a mask has them, beginning and ending at odd rounds and even ones.
#[test]
fn masked_and_whole_rounds() {
    let mut cases = Vec::new();
    for (overlap, stages) in [(2, 2), (3, 2), (2, 3), (3, 3)] {
        // Masked, whole, masked.
        let windows = (0..=6).map(|whole| Seen::Window(64 * whole + 70));
        // Whole, masked by turns; whole, then all masked; each its chunk, at any round of it.
        let others = [Seen::WindowSink(130, 64), Seen::WindowSink(200, 130), Seen::PrefixLm(200), Seen::Dilated(3)];
        let chunks = [Seen::BlockDiagonal(192), Seen::Longformer(100, 70), Seen::Longformer(64, 128)];
        for seen in windows.chain(others).chain(chunks) {
            let lengths = [&[576][..], &[520], &[64, 450]][cases.len() % 3];
            let pick = pick(64, 64, stages, overlap);
            let pick = if cases.len() % 4 == 3 { persistent(pick, PERSIST[cases.len() / 4 % 2]) } else { pick };
            let case = case(seen, (64, 64), 1, lengths, pick);
            cases.push(Case { seed: cases.len() as u64, ..case });
        }
    }
    for case in &cases {
        let plan = case.plan(SM_90A).expect("a pick that fits");
        assert!(plan.launches.iter().any(|launch| launch.ptx.contains("again_1:")), "{case}");
    }
    agree("warpgroups: masked and whole rounds", &cases);
}

#[test]
fn every_pick_at_every_width() {
    let mut cases = Vec::new();
    let uneven = [(192, 128), (64, 128), (128, 32)];
    for (n, shape) in widths().map(|width| (width, width)).into_iter().chain(uneven).enumerate() {
        // All of them at one width; others have every seventh, each width others.
        let picks = Work::QueryMajor(Seen::Causal).space(SM_90A).picks().into_iter().enumerate();
        let picks = picks.filter(|(at, _)| shape == (64, 64) || at % 7 == n % 7);
        for (_, pick) in picks {
            let seen = [Seen::Causal, Seen::WindowSink(20, 6), Seen::Full][cases.len() % 3];
            let mut case = case(seen, shape, 2, &[200, 0, 330], pick);
            case.shape.elem = [Elem::Bf16, Elem::F16][cases.len() / 2 % 2];
            // The widest need more shared memory than there is at every other pick.
            if case.plan(SM_90A).is_ok() {
                cases.push(Case { seed: cases.len() as u64, ..case });
            }
        }
    }
    agree("warpgroups: every pick", &cases);
}

#[test]
fn every_mask() {
    let picks = Work::QueryMajor(Seen::Full).space(SM_90A).picks();
    let mut cases = Vec::new();
    for seen in SEEN {
        for lengths in [&[1][..], &[300, 0, 70], &[129, 128, 127]] {
            let i = cases.len();
            let pick = picks[i * 5 % picks.len()].clone();
            // One head is no group to be packed.
            let group = (1 + i as u32 % 3).max(pick["pack"]);
            let mut case = case(seen, (64, 64), group, lengths, pick);
            case.layout = [Layout::Packed, Layout::Fused][i % 2];
            case.slack = if i % 4 == 3 { 150 } else { 0 };
            cases.push(Case { seed: i as u64, ..case });
        }
    }
    agree("warpgroups: masks", &cases);
}

/// Neighbouring documents lie in one tensor: what one holds reaches no other, also through 0 x NaN.
#[test]
fn numbers_that_are_none() {
    let mut cases = Vec::new();
    for overlap in 1..=3 {
        for numbers in
            [Numbers::Large(30.0), Numbers::InfiniteRows, Numbers::NanQueries, Numbers::NanKey, Numbers::InfiniteKey]
        {
            let case = case(Seen::Causal, (64, 64), 1, &[90, 40, 200], pick(128, 64, 2, overlap));
            cases.push(Case { numbers, ..case });
        }
        // Every row sees every value of its document, and so may be NaN by it; no other document's may.
        let case = case(Seen::Full, (64, 64), 1, &[90, 40, 200], pick(128, 64, 2, overlap));
        cases.push(Case { numbers: Numbers::NanValue, ..case });
    }
    agree("warpgroups: numbers", &cases);
}

/// Several tiles a CTA, the emulator having four at once: documents of unequal lengths and without tokens, so that tiles have
/// many rounds, few, or none, and a last row of tiles that is not full; with as many slots for Q as fit.
#[test]
fn tile_after_tile() {
    let mut cases = Vec::new();
    for (overlap, stages) in [(1, 2), (2, 2), (3, 2), (1, 3), (2, 3), (3, 3)] {
        for (rows, kv, width) in [(64, 64, 64), (128, 64, 64), (192, 64, 64), (128, 128, 128)] {
            let seen = [Seen::Causal, Seen::Full, Seen::Window(70), Seen::WindowSink(20, 6)][cases.len() % 4];
            let lengths = [&[300, 0, 70, 1, 450][..], &[0, 513], &[64; 9]][cases.len() % 3];
            let group = 1 + cases.len() as u32 % 3;
            let mut case = case(seen, (width, width), group, lengths, pick(rows, kv, stages, overlap));
            case.slack = if cases.len() % 4 == 3 { 150 } else { 0 };
            // Turns where there are warpgroups to take them, and not.
            case.hk = 1 + cases.len() / 5 % 2;
            case.pick.insert("turns".to_owned(), 1 + cases.len() as u32 / 2 % 2);
            case.pick = persistent(case.pick, PERSIST[0]);
            if case.plan(SM_90A).is_ok() {
                cases.push(Case { seed: cases.len() as u64, ..case });
            }
        }
    }
    // Nobody has a token; a single tile.
    for lengths in [&[0, 0][..], &[3]] {
        let case = case(Seen::Causal, (64, 64), 2, lengths, persistent(pick(128, 64, 2, 3), PERSIST[0]));
        cases.push(Case { seed: cases.len() as u64, ..case });
    }
    for n in 0..cases.len() {
        let mut case = cases[n].clone();
        case.pick = persistent(case.pick, PERSIST[1]);
        if case.plan(SM_90A).is_ok() {
            cases.push(case);
        }
    }
    assert!(cases.iter().filter(|case| case.pick["persist"] == PERSIST[1]).count() > 20);
    agree("warpgroups: tile after tile", &cases);
}

/// Queries and keys of unequal lengths: a chunk, one token, more queries than keys, no keys, no queries.
#[test]
fn keys_apart() {
    let mut cases = Vec::new();
    for (lengths, keys) in [
        (&[70, 1][..], &[300, 130][..]),
        (&[300], &[40]),
        (&[40, 0, 130, 1], &[90, 33, 20, 265]),
        (&[20, 100], &[130, 0]),
    ] {
        for overlap in 1..=3 {
            let seen = [Seen::Causal, Seen::Full][cases.len() % 2];
            let case = case(seen, (64, 64), 2, lengths, pick(128, 64, 2, overlap)).with_keys(keys);
            cases.push(Case { seed: cases.len() as u64, ..case });
        }
    }
    agree("warpgroups: keys apart", &cases);
}

/// Rows of all heads of a group: few tokens and many, groups that divide a tile and that do not, tiles that end within a token,
/// queries and keys of unequal lengths.
#[test]
fn heads_of_a_group_share_a_tile() {
    let mut cases = Vec::new();
    for group in [2, 3, 4, 7, 8, 16, 64] {
        for lengths in [&[1][..], &[5, 0, 17, 1], &[90, 40]] {
            for keys in [None, Some(lengths.iter().map(|length| length * 3 % 130).collect::<Vec<_>>())] {
                let i = cases.len();
                let rows = [64, 128, 192][i % 3];
                let pick = pick(rows, 64, 2, 1 + i as u32 % 3).into_iter().chain([("pack".to_owned(), 2)]).collect();
                let seen = [Seen::Causal, Seen::Full, Seen::WindowSink(20, 6)][i / 2 % 3];
                let case = case(seen, [(64, 64), (128, 128)][i / 3 % 2], group, lengths, pick);
                let case = Case { hk: 1 + i % 2, seed: i as u64, ..case };
                cases.push(if let Some(keys) = keys { case.with_keys(&keys) } else { case });
            }
        }
    }
    let fits = |case: &Case| case.plan(SM_90A).is_ok();
    assert!(cases.iter().filter(|case| fits(case)).count() > cases.len() * 2 / 3, "most fit shared memory");
    cases.retain(fits);
    agree("warpgroups: packed heads", &cases);
}

/// Gathered queries, whole blocks without a mask, and loops whose tiles are converted beside those that are multiplied.
#[test]
fn rows_that_chose_blocks() {
    let mixture = Mixture::new(Routes::Drawn(Route::Random), 3);
    let mut cases = Vec::new();
    for overlap in 1..=3 {
        for dk in [64, 128] {
            let shape = lacuna_dsl::Shape::new(Elem::Bf16, dk, dk, 2).with_block(128);
            let wanted: Pick = [("overlap", overlap), ("own_overlap", overlap)].map(|(k, v)| (k.to_owned(), v)).into();
            let pick = mixture.at(&shape).choose(SM_90A, &wanted).expect("a pick fits");
            let case = Case::of(Work::Moba(mixture), shape, &[500, 0, 70]).on(SM_90A, pick);
            cases.push(Case { seed: cases.len() as u64, ..case });
        }
    }
    for rows in [64, 128] {
        let pick: Pick = [("rows".to_owned(), rows)].into();
        let work = Work::ByBlock(Picks::Drawn(Locality::PerToken), 3);
        cases.push(Case::new(work, 64, 4, &[300, 0, 70]).on(SM_90A, pick));
    }
    agree("warpgroups: chosen blocks", &cases);
}

/// Whether a launch of a case's plan gathers ahead: it knows its tiles, and copies rows.
fn gathers(case: &Case) -> bool {
    let plan = case.plan(SM_90A).expect("a pick that fits");
    plan.launches.iter().any(|launch| launch.ptx.contains("tile_count") && launch.ptx.contains("cp.async.cg"))
}

/// Rows that warps of the producer gather for the next tile, several tiles a CTA: chosen blocks at every width, joined, in chunks and
/// with keys apart, and every way in which products overlap.
#[test]
fn gathered_tile_after_tile() {
    let widths = [(64, 64), (128, 128), (96, 96), (32, 32), (192, 128), (256, 256)];
    let batches: [(&[usize], Option<&[usize]>); 5] = [
        (&[500, 0, 70], None),
        (&[33], None),
        (&[300, 31, 330], None),
        (&[40, 100, 0, 190], Some(&[300, 60, 50, 0])),
        (&[1, 1, 1], Some(&[1, 259, 0])),
    ];
    let routes = [Routes::Drawn(Route::Random), Routes::Drawn(Route::Local), Routes::Garbage, Routes::Nothing];
    let mut cases = Vec::new();
    let tiles = [(64, 64, 2), (64, 64, 1), (128, 64, 2), (64, 32, 3), (128, 32, 1)];
    let all = tiles.into_iter().flat_map(|tile| widths.map(|width| (tile, width)));
    for (i, ((rows, kv, stages), width)) in all.enumerate() {
        let (chunks, (lengths, keys)) = ([[1, 1], [2, 3], [1, 1], [1, 2]][i % 4], batches[i % 5]);
        let mixture = Mixture { chunks, ..Mixture::new(routes[i % 7 % 4], [3, 64, 8][i % 3]) };
        let shape = lacuna_dsl::Shape::new(Elem::Bf16, width.0, width.1, [1, 2, 3][i / 2 % 3]);
        let shape = shape.with_block([64, 128][i / 3 % 2]);
        let persist = ("persist", PERSIST[i / 2 % 2]);
        let knobs = [("rows", rows), ("kv", kv), ("stages", stages), ("overlap", 1 + i as u32 % 2), persist];
        let joined = ("joined", [2, 1, 1][i % 3]);
        let wanted: Pick = knobs.into_iter().chain([joined]).map(|(k, v)| (k.to_owned(), v)).collect();
        let Ok(pick) = mixture.at(&shape).choose(SM_90A, &wanted) else { continue };
        let case = Case::of(Work::Moba(mixture), shape, lengths).on(SM_90A, pick);
        let case = Case { seed: i as u64, hk: 1 + i % 2, ..case };
        cases.push(if let Some(keys) = keys { case.with_keys(keys) } else { case });
    }
    assert!(cases.len() >= 20, "{} cases", cases.len());
    for case in &cases {
        assert!(gathers(case), "{case}");
    }
    agree("warpgroups: gathered tile after tile", &cases);
}

/// The same with products that are deferred, of picked blocks, which are no loop, and of the heads of a group.
#[test]
fn gathered_tile_after_tile_of_others() {
    let mut cases = Vec::new();
    for (i, rows) in [64, 128].into_iter().enumerate() {
        for (width, group) in [(64, 4), (128, 3), (64, 1)] {
            let persist = ("persist", PERSIST[(i + group as usize / 2) % 2]);
            let pick: Pick = [("rows", rows), persist].map(|(k, v)| (k.to_owned(), v)).into();
            let lengths = [&[300, 0, 70][..], &[129, 1]][i];
            let case = Case::new(Work::ByBlock(Picks::Drawn(Locality::PerToken), 3), width, group, lengths);
            cases.push(Case { seed: cases.len() as u64, ..case.on(SM_90A, pick) });
        }
        let shape = lacuna_dsl::Shape::new(Elem::F16, 64, 64, 2).with_block(128);
        let mixture = Mixture::new(Routes::Drawn(Route::Random), 4);
        let knobs = [("rows", rows), ("kv", 32), ("stages", 2), ("overlap", 3), ("turns", 2), ("persist", 2)];
        let chosen = mixture.at(&shape).choose(SM_90A, &knobs.map(|(k, v)| (k.to_owned(), v)).into()).expect("a pick");
        cases.push(Case::of(Work::Moba(mixture), shape, &[400, 90]).on(SM_90A, chosen));
        for group in [3, 8] {
            let mut pick = persistent(pick(rows, 64, 2, 2 + i as u32), PERSIST[group as usize / 8]);
            pick.insert("pack".to_owned(), 2);
            let seen = [Seen::Causal, Seen::WindowSink(20, 6)][i];
            cases.push(case(seen, (64, 64), group, &[5, 0, 130, 1], pick));
        }
    }
    for case in &cases {
        assert!(gathers(case), "{case}");
    }
    agree("warpgroups: gathered, others", &cases);
}
