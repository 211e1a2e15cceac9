//! What records say of one another: the winner beside the winners of other classes, on a device that gets slower.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lacuna_codegen::plan::Pick;
use lacuna_runtime::tune::{Ended, Found, Options, Profile, Progress, Record, Records, State, search};

use super::simulated::{Call, Landscape, Simulated, found, options, records, stamp};

/// How much slower the device gets in a second.
const WARMS: f64 = 0.05;

/// A landscape, and another class of the same kernel whose times are others.
fn two(seed: u64) -> [Landscape; 2] {
    [Landscape::small(seed), Landscape { tokens: 32768, ..Landscape::small(seed + 1000) }]
}

fn tuned(landscape: &Landscape, seed: u64, dir: &Path) -> Found {
    let found = found(landscape, &Simulated::of(landscape, seed).warming(WARMS), &records(dir), &options());
    assert_eq!(found.ended, Ended::Done);
    found
}

fn winner(found: &Found) -> Pick {
    found.winner().unwrap().candidate.pick.clone()
}

/// The records of a landscape's class.
fn of_class(landscape: &Landscape, dir: &Path) -> Vec<Record> {
    let class = lacuna_runtime::tune::Subject::class(landscape).to_string();
    let all = records(dir).load("NVIDIA H200", "drawn");
    all.into_iter().filter(|record| record.class == class).collect()
}

fn median(records: &[Record], pick: &Pick) -> f64 {
    records.iter().find(|record| record.pick == *pick).and_then(Record::time).unwrap().median_ms
}

/// A round of turns, as often as the search says that one is under way.
fn rounds(landscape: &Landscape, lab: &Simulated, records: &Records, options: &Options) -> (Found, Vec<Duration>) {
    let mut at = Vec::new();
    let mut watch = |now: Progress<'_>| {
        if now.stage.starts_with("the best beside") {
            at.push(lacuna_runtime::tune::Lab::elapsed(lab));
        }
    };
    let found = search(landscape, lab, (records, &stamp()), &Profile::H200, options, &mut watch).unwrap();
    (found, at)
}

#[test]
fn what_records_claim_of_another_class_s_winner_is_so() {
    let mut off = Vec::new();
    for seed in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = two(seed);
        let other = winner(&tuned(&first, seed, dir.path()));
        let best = winner(&tuned(&second, seed, dir.path()));
        if other == best {
            continue;
        }
        let kept = of_class(&second, dir.path());
        let claimed = median(&kept, &other) / median(&kept, &best);
        let is = second.picks[&other].0 / second.picks[&best].0;
        off.push((claimed / is - 1.0).abs());
    }
    off.sort_by(f64::total_cmp);
    assert!(off.len() > 40, "{} of 60 have a winner of their own", off.len());
    let (median, most) = (off[off.len() / 2], off[off.len() - 1]);
    assert!(median < 0.006 && most < 0.02, "claims are off by {median:.4}, and by {most:.4}");
}

/// Those of the last round have as many runs as one another, and none has a record of an earlier minute that beats them.
#[test]
fn the_winner_is_the_fastest_of_its_class_s_records() {
    for seed in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = two(seed);
        let other = winner(&tuned(&first, seed, dir.path()));
        let found = tuned(&second, seed, dir.path());
        let kept = of_class(&second, dir.path());
        let ms = |record: &Record| record.time().map_or(f64::INFINITY, |time| time.median_ms);
        let fastest = kept.iter().min_by(|a, b| ms(a).total_cmp(&ms(b))).unwrap();
        assert_eq!(fastest.pick, winner(&found), "seed {seed}");
        assert!(second.picks[&fastest.pick].0 < 1.03 * second.least(), "seed {seed}");
        let runs = |pick: &Pick| kept.iter().find(|r| r.pick == *pick).and_then(Record::time).unwrap().repetitions;
        assert_eq!(runs(&other), runs(&fastest.pick), "seed {seed}");
        assert!(runs(&other) >= 12);
    }
}

#[test]
fn a_rival_that_left_early_and_is_faster_is_the_winner() {
    for seed in 0..10 {
        let landscape = Landscape::small(seed);
        let fastest = &landscape.fastest()[0];
        let lab = || Simulated::of(&landscape, seed).late(&landscape, fastest);
        let alone = found(&landscape, &lab(), &Records::off(), &options());
        let beside = Options { beside: vec![("drawn".to_owned(), fastest.clone())], ..options() };
        let given = found(&landscape, &lab(), &Records::off(), &beside);
        let is = |found: &Found| landscape.picks[&winner(found)].0;
        assert!(is(&given) <= is(&alone) && is(&given) < 1.015 * landscape.least(), "seed {seed}");
    }
}

#[test]
fn a_rival_whose_tile_was_left_out_has_a_time_too() {
    let mut landscape = Landscape::draw(1, &[("rows", 2), ("stages", 4), ("warps", 4)], 0.0);
    for (pick, (ms, _, told)) in &mut landscape.picks {
        *ms = f64::from(pick["rows"] * pick["rows"]) + f64::from(pick["stages"] * 4 + pick["warps"]) / 100.0;
        *told = *ms;
    }
    let last = landscape.fastest().pop().unwrap();
    let beside = vec![("drawn".to_owned(), last.clone())];
    let one = Options { threads: 1, patience: 2, beside, ..options() };
    let lab = Simulated::of(&landscape, 1);
    let found = found(&landscape, &lab, &Records::off(), &one);
    let trial = found.trials.iter().find(|trial| trial.candidate.pick == last).unwrap();
    let over = trial.time().unwrap().median_ms / found.winner().unwrap().time().unwrap().median_ms;
    assert!((over / (landscape.picks[&last].0 / landscape.least()) - 1.0).abs() < 0.02, "{over}");
    assert_eq!(found.trials.iter().filter(|trial| trial.state == State::LeftOut).count(), 12);
    assert_eq!((found.measured, lab.timed()), (20, 20));
}

/// Neither where there is no rival, nor where everything is as an earlier search left it.
#[test]
fn where_there_is_nothing_to_compare_nothing_is_run_for_it() {
    let mut landscape = Landscape::small(2);
    landscape.picks.values_mut().for_each(|(ms, _, told)| *told = *ms);
    let fastest = landscape.fastest()[0].clone();
    let (ms, ..) = landscape.picks[&fastest];
    // It is the fastest by far, and so the model's choice too.
    *landscape.picks.get_mut(&fastest).unwrap() = (ms / 2.0, super::simulated::Kind::Right, ms / 2.0);
    let dir = tempfile::tempdir().unwrap();
    let sure = Options { exhaustive: true, most_runs: 2000, ..options() };
    let (found, at) = rounds(&landscape, &Simulated::of(&landscape, 1), &records(dir.path()), &sure);
    assert_eq!((winner(&found), at), (fastest.clone(), vec![]));
    let beside = Options { beside: vec![("drawn".to_owned(), landscape.fastest()[3].clone())], ..sure };
    let lab = Simulated::of(&landscape, 2);
    let (_, at) = rounds(&landscape, &lab, &records(dir.path()), &beside);
    assert!(at.is_empty() && lab.calls().is_empty(), "{:?}", lab.calls());
    // Measured again, the two of them are compared.
    let (_, at) = rounds(&landscape, &Simulated::of(&landscape, 3), &Records::off(), &beside);
    assert!(at.len() >= 4, "{at:?}");
}

/// A budget that ends between the turns is kept, and what was known before them stays as it was.
#[test]
fn a_round_that_is_cut_short_says_nothing() {
    let [first, second] = two(5);
    let one = Options { threads: 1, ..options() };
    let tuned = |dir: &Path, budget: Option<Duration>| {
        found(&first, &Simulated::of(&first, 5), &records(dir), &one);
        let options = budget.map_or(one.clone(), |budget| Options { budget, ..one.clone() });
        rounds(&second, &Simulated::of(&second, 5), &records(dir), &options)
    };
    let whole = tempfile::tempdir().unwrap();
    let (done, at) = tuned(whole.path(), None);
    assert!(done.ended == Ended::Done && at.len() >= 4, "{at:?}");
    let dir = tempfile::tempdir().unwrap();
    let budget = (at[1] + at[2]) / 2;
    let (cut, turns) = tuned(dir.path(), Some(budget));
    assert_eq!((&cut.ended, turns.len()), (&Ended::Budget, 2));
    assert!(cut.elapsed <= budget, "{:?} of {budget:?}", cut.elapsed);
    let kept = of_class(&second, dir.path());
    for trial in cut.trials.iter().filter(|trial| matches!(trial.state, State::Timed(..))) {
        assert_eq!(kept.iter().find(|r| r.pick == trial.candidate.pick).unwrap().time(), trial.time());
    }
    // The whole round's records come after those that the one that was cut short has.
    let text = |dir: &Path| std::fs::read_to_string(records(dir).file("NVIDIA H200", "drawn").unwrap()).unwrap();
    let lines = |dir: &Path| text(dir).lines().count();
    assert!(lines(whole.path()) > lines(dir.path()), "{} and {}", lines(whole.path()), lines(dir.path()));
}

/// Of many classes, the winners of those that were tuned last.
#[test]
fn rivals_are_few_and_run_in_turns_as_often_as_one_another() {
    let dir = tempfile::tempdir().unwrap();
    let of = |seed: u64| Landscape { tokens: 8192 << seed, ..Landscape::small(seed) };
    let mut winners: Vec<Pick> = (1..12).map(|seed| winner(&tuned(&of(seed), seed, dir.path()))).collect();
    let (landscape, last) = (of(0), winners.pop().unwrap());
    let lab = Simulated::of(&landscape, 0);
    let mut before = None;
    let mut watch = |now: Progress<'_>| {
        if now.stage.starts_with("the best beside") {
            before.get_or_insert(lab.calls().len());
        }
    };
    search(&landscape, &lab, (&records(dir.path()), &stamp()), &Profile::H200, &options(), &mut watch).unwrap();
    let (calls, mut runs) = (lab.calls(), BTreeMap::new());
    // It is told of a turn once that is done.
    for call in &calls[before.unwrap()..] {
        let Call::Time(text, count) = call else { panic!("{call:?}") };
        *runs.entry(text).or_insert(0) += count;
    }
    let counts: Vec<u32> = runs.values().copied().collect();
    assert!((4..=6).contains(&counts.len()) && counts.iter().all(|&count| count == counts[0]), "{runs:?}");
    assert!(runs.keys().any(|text| text.contains(&format!("{last:?}"))), "{last:?} is not among {runs:?}");
    let twice = calls[before.unwrap()..].windows(3).any(|three| three[0] == three[1] && three[1] == three[2]);
    assert!(!twice, "others run between any three turns");
}
