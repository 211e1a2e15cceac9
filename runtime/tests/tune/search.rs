//! What a search finds, what it costs, and what can never win.

use std::time::Duration;

use lacuna_runtime::tune::{Ended, Invalid, Options, Outcome, Profile, Progress, Records, Stamp, State, search};

use super::simulated::{Call, Kind, Landscape, Simulated, found, options, records, stamp};

fn off() -> Records {
    Records::off()
}

/// The true time of a pick over that of the fastest.
fn over(landscape: &Landscape, found: &lacuna_runtime::tune::Found) -> f64 {
    let winner = found.winner().expect("something was timed");
    landscape.picks[&winner.candidate.pick].0 / landscape.least()
}

#[test]
fn the_winner_is_within_3_percent_of_the_fastest_on_drawn_landscapes() {
    let mut runs = (0u64, 0u64);
    for seed in 0..200 {
        let landscape = Landscape::small(seed);
        let lab = Simulated::of(&landscape, seed);
        let result = found(&landscape, &lab, &off(), &options());
        assert_eq!(result.ended, Ended::Done);
        let over = over(&landscape, &result);
        assert!(over < 1.03, "seed {seed}: {over} of the fastest");
        let count = |lab: &Simulated| -> u64 {
            lab.calls().iter().map(|call| if let Call::Time(_, runs) = call { u64::from(*runs) } else { 0 }).sum()
        };
        let all = Simulated::of(&landscape, seed);
        let exhaustive = found(&landscape, &all, &off(), &Options { exhaustive: true, ..options() });
        let best = exhaustive.winner().unwrap().time().unwrap();
        assert!(exhaustive.trials.iter().all(|trial| trial.time().is_some()), "all are timed");
        assert!(best.is_within(0.01) || best.repetitions >= 200, "to the end: {best:?}");
        runs = (runs.0 + count(&lab), runs.1 + count(&all));
    }
    assert!(runs.0 * 2 < runs.1, "halving takes {} runs, and every candidate to the end {}", runs.0, runs.1);
}

#[test]
fn where_each_launch_has_knobs_of_its_own_the_search_goes_from_best_to_best() {
    for seed in 0..30 {
        let knobs = ["a_rows", "a_kv", "b_rows", "b_kv", "c_rows"].map(|name| (name, 4));
        let landscape = Landscape::draw(seed, &knobs, 0.0);
        assert!(landscape.picks.len() > 1000);
        let lab = Simulated::of(&landscape, seed);
        let result = found(&landscape, &lab, &off(), &options());
        let over = over(&landscape, &result);
        assert!(over < 1.03, "seed {seed}: {over} of the fastest");
        assert!(result.trials.len() < 120, "{} of {} were planned", result.trials.len(), landscape.picks.len());
    }
}

#[test]
fn a_tile_is_found_though_all_that_differ_from_it_in_one_knob_are_slow() {
    let knobs = [("rows", 2), ("kv", 4), ("stages", 2), ("overlap", 3), ("turns", 2), ("pack", 2), ("persist", 3)];
    for seed in 0..10 {
        let mut landscape = Landscape::draw(seed, &knobs, 0.0);
        assert!(landscape.picks.len() > 512);
        let best = landscape.least();
        for (pick, (ms, ..)) in &mut landscape.picks {
            let of_far = [("rows", 2), ("kv", 3), ("stages", 2), ("overlap", 2)].map(|(knob, is)| pick[knob] == is);
            *ms *= if of_far.iter().all(|&is| is) {
                0.5 * best / *ms
            } else if of_far[0] {
                4.0
            } else {
                1.0
            };
        }
        let lab = Simulated::of(&landscape, seed);
        let result = found(&landscape, &lab, &off(), &options());
        let over = over(&landscape, &result);
        assert!(over < 1.03, "seed {seed}: {over} of the fastest");
        assert!(result.trials.len() < 160, "{} of {} were planned", result.trials.len(), landscape.picks.len());
    }
}

#[test]
fn what_won_elsewhere_is_tried_wherever_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    let knobs = ["a_rows", "b_rows", "c_rows", "d_rows", "e_rows"].map(|name| (name, 4));
    let mut landscape = Landscape::draw(1, &knobs, 0.0);
    for (pick, (ms, ..)) in &mut landscape.picks {
        *ms = if pick.values().all(|&value| value == 3) { 0.1 } else { 1.0 };
    }
    let search_of = |tokens: u64, exhaustive: bool| {
        let landscape = Landscape { tokens, ..landscape.clone() };
        let lab = Simulated::of(&landscape, tokens);
        let result = found(&landscape, &lab, &records(dir.path()), &Options { exhaustive, ..options() });
        over(&landscape, &result)
    };
    assert!(search_of(2048, false) > 9.0, "it is found from where the search begins");
    assert_eq!(search_of(8192, true), 1.0);
    assert_eq!(search_of(65536, false), 1.0);
}

#[test]
fn a_budget_is_kept_and_what_was_measured_in_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    for (i, seconds) in [0.0, 0.1, 0.51, 0.6, 0.7, 1.0, 1.6, 3.0].into_iter().enumerate() {
        for seed in 0..10 {
            let landscape = Landscape::small(seed);
            let lab = Simulated::of(&landscape, seed);
            let records = records(&dir.path().join(format!("{i}-{seed}")));
            let budget = Duration::from_secs_f64(seconds);
            let result = found(&landscape, &lab, &records, &Options { budget, ..options() });
            assert!(result.elapsed <= budget, "{:?} of {budget:?}", result.elapsed);
            let timed = result.trials.iter().filter(|trial| trial.time().is_some()).count();
            let kept = records.load("NVIDIA H200", "drawn");
            assert_eq!(kept.iter().filter(|record| record.time().is_some()).count(), timed);
            assert!(
                kept.iter().all(|record| record.time().is_some()),
                "a step that was cut short is no hang: {kept:?}"
            );
            assert_eq!(result.best.is_some(), timed > 0);
            assert!(seconds > 1.5 || result.ended == Ended::Budget, "{:?} after {:?}", result.ended, result.elapsed);
        }
    }
}

#[test]
fn what_is_invalid_never_wins_and_is_recorded_with_its_reason() {
    let kinds = [
        (Kind::Refused, Invalid::Refused("no such instruction".to_owned())),
        (Kind::Spills, Invalid::Spills(24)),
        (Kind::Wrong, Invalid::Wrong("o is off".to_owned())),
        (Kind::Faults, Invalid::Faults("an illegal address".to_owned())),
        (Kind::HangsInCheck, Invalid::Hangs(0)),
        (Kind::HangsInTime, Invalid::Hangs(0)),
    ];
    for seed in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let mut landscape = Landscape::small(seed);
        let fastest = landscape.fastest();
        for (pick, (kind, _)) in fastest.iter().zip(&kinds) {
            landscape.picks.get_mut(pick).unwrap().1 = *kind;
        }
        let lab = Simulated::of(&landscape, seed);
        let result = found(&landscape, &lab, &records(dir.path()), &Options { exhaustive: true, ..options() });
        let over = over(&landscape, &result);
        assert!((1.0..1.03).contains(&over), "seed {seed}: {over}");
        let kept = records(dir.path()).load("NVIDIA H200", "drawn");
        for (pick, (kind, why)) in fastest.iter().zip(&kinds) {
            let record = kept.iter().find(|record| record.pick == *pick).unwrap();
            match (&record.outcome, why) {
                (Outcome::Invalid(Invalid::Hangs(ms)), Invalid::Hangs(_)) => {
                    assert!((5000..8000).contains(ms), "the watchdog waits 5 s and a little: {ms}");
                }
                (Outcome::Invalid(found), why) => assert_eq!(found, why),
                (found, _) => panic!("{kind:?} is taken for {found:?}"),
            }
        }
        let again = Simulated::of(&landscape, seed);
        let result = found(&landscape, &again, &records(dir.path()), &options());
        assert!(again.calls().is_empty() && result.measured == 0, "what hung once is not run again");
        assert!((1.0..1.03).contains(&self::over(&landscape, &result)));
    }
}

#[test]
fn a_device_that_is_lost_ends_the_search_and_loses_nothing_measured() {
    let dir = tempfile::tempdir().unwrap();
    let mut landscape = Landscape::small(3);
    // What the model expects to be slow is timed last.
    let last = landscape.picks.iter().max_by(|a, b| a.1.2.total_cmp(&b.1.2)).unwrap().0.clone();
    landscape.picks.get_mut(&last).unwrap().1 = Kind::TakesAll;
    let lab = Simulated::of(&landscape, 3);
    let one = Options { exhaustive: true, threads: 1, ..options() };
    let result = found(&landscape, &lab, &records(dir.path()), &one);
    let Ended::Lost(why) = &result.ended else { panic!("{:?}", result.ended) };
    assert!(why.contains("the context is lost") && why.contains("rows="), "{why}");
    let kept = records(dir.path()).load("NVIDIA H200", "drawn");
    assert!(kept.len() > 1 && kept.iter().any(|record| record.pick == last && record.time().is_none()));
    // The next search goes on where that one ended.
    let again = Simulated::of(&landscape, 4);
    let result = found(&landscape, &again, &records(dir.path()), &options());
    assert_eq!(result.ended, Ended::Done);
    let over = over(&landscape, &result);
    assert!(over < 1.03 && again.timed() < 24, "{over}");
}

#[test]
fn adding_a_candidate_measures_one_candidate() {
    let dir = tempfile::tempdir().unwrap();
    let all = Landscape::small(11);
    let mut most = all.clone();
    let new = all.fastest()[5].clone();
    most.unfit.push(new.clone());
    let sure = Options { exhaustive: true, most_runs: 2000, ..options() };
    found(&most, &Simulated::of(&most, 1), &records(dir.path()), &sure);
    let lab = Simulated::of(&all, 2);
    let result = found(&all, &lab, &records(dir.path()), &sure);
    let asked: Vec<Call> = lab.calls().into_iter().filter(|call| matches!(call, Call::Compile(_))).collect();
    assert!(asked.len() == 1 && format!("{asked:?}").contains(&format!("{new:?}").replace('"', "\\\"")), "{asked:?}");
    assert_eq!((result.measured, lab.timed()), (1, 1), "no other is run");
    assert!(result.trials.iter().filter(|trial| matches!(trial.state, State::Timed(_, true))).count() == 23);
}

#[test]
fn stale_records_are_measured_again_and_others_are_not() {
    let landscape = Landscape::small(5);
    let exhaustive = Options { exhaustive: true, precision: 1.0, ..options() };
    let timed_again = |landscape: &Landscape, stamp: &Stamp| {
        let dir = tempfile::tempdir().unwrap();
        found(&Landscape::small(5), &Simulated::of(&Landscape::small(5), 1), &records(dir.path()), &exhaustive);
        let lab = Simulated::of(landscape, 2);
        let quiet = &mut |_: Progress<'_>| {};
        search(landscape, &lab, (&records(dir.path()), stamp), &Profile::H200, &exhaustive, quiet).unwrap();
        lab.timed()
    };
    assert_eq!(timed_again(&landscape, &stamp()), 0);
    let minor = Stamp { driver: "CUDA 12.9, driver 570.200.01".to_owned(), ..stamp() };
    assert_eq!(timed_again(&landscape, &minor), 0, "a minor version makes the same code");
    let major = Stamp { driver: "CUDA 13.0, driver 580.10.01".to_owned(), ..stamp() };
    assert_eq!(timed_again(&landscape, &major), 24);
    let other = Stamp { gpu: "NVIDIA H100".to_owned(), ..stamp() };
    assert_eq!(timed_again(&landscape, &other), 24);
    assert_eq!(timed_again(&Landscape { version: "2".to_owned(), ..landscape.clone() }, &stamp()), 24, "other texts");
}

#[test]
fn candidates_are_interleaved_when_they_are_compared() {
    let landscape = Landscape::small(8);
    let lab = Simulated::of(&landscape, 8);
    found(&landscape, &lab, &off(), &options());
    let calls = lab.calls();
    let timed: Vec<&String> =
        calls.iter().filter_map(|call| if let Call::Time(text, _) = call { Some(text) } else { None }).collect();
    // The winner's runs are spread over the search: others run between any two turns of it, but at the end, alone.
    let winner = timed[timed.len() - 1];
    let turns: Vec<usize> = (0..timed.len()).filter(|&i| timed[i] == winner).collect();
    let between = turns.windows(2).filter(|pair| pair[1] - pair[0] > 1).count();
    assert!(between >= 2, "{turns:?} of {}", timed.len());
}

#[test]
fn a_tile_that_is_no_rival_is_left_after_as_many_misses_as_patience_says() {
    let mut landscape = Landscape::draw(1, &[("rows", 2), ("stages", 4), ("warps", 4)], 0.0);
    for (pick, (ms, _, told)) in &mut landscape.picks {
        // Each tile's candidates get slower in the model's order; the second tile is three times as slow.
        *ms = f64::from(pick["rows"] * pick["rows"]) + f64::from(pick["stages"] * 4 + pick["warps"]) / 100.0;
        *told = *ms;
    }
    let one = Options { threads: 1, patience: 2, ..options() };
    let lab = Simulated::of(&landscape, 1);
    let result = found(&landscape, &lab, &off(), &one);
    let left = result.trials.iter().filter(|trial| trial.state == State::LeftOut);
    assert_eq!(left.clone().count(), 13, "16 but the best and two misses");
    assert!(left.clone().all(|trial| trial.candidate.pick["rows"] == 2));
    let all = found(&landscape, &Simulated::of(&landscape, 1), &off(), &Options { exhaustive: true, ..one });
    assert!(all.trials.iter().all(|trial| trial.time().is_some()));
}

#[test]
fn the_models_order_is_compared_with_the_measured_one() {
    let exact = |sign: f64| {
        let mut landscape = Landscape::small(2);
        landscape.picks.values_mut().for_each(|(ms, _, told)| *told = if sign > 0.0 { *ms } else { 1.0 / *ms });
        let lab = Simulated::of(&landscape, 2);
        found(&landscape, &lab, &off(), &Options { exhaustive: true, ..options() }).correlation().unwrap()
    };
    let (same, turned) = (exact(1.0), exact(-1.0));
    assert!(same > 0.9 && turned < -0.9, "{same} and {turned}");
}

#[test]
fn a_record_says_what_was_measured_and_what_the_model_expected() {
    let dir = tempfile::tempdir().unwrap();
    let landscape = Landscape::small(4);
    let result = found(&landscape, &Simulated::of(&landscape, 4), &records(dir.path()), &options());
    let winner = result.winner().unwrap();
    let path = records(dir.path()).file("NVIDIA H200", "drawn").unwrap();
    assert_eq!(path, dir.path().join("tuned/v1/nvidia-h200/drawn.jsonl"));
    let kept = records(dir.path()).load("NVIDIA H200", "drawn");
    let record = kept.iter().find(|record| record.pick == winner.candidate.pick).unwrap();
    assert_eq!(record.time(), winner.time());
    let time = record.time().unwrap();
    assert!(time.low_ms <= time.median_ms && time.median_ms <= time.high_ms && time.repetitions > 6, "{time:?}");
    assert!((record.predicted_ms / winner.candidate.prediction.ms - 1.0).abs() < 1e-3);
    assert_eq!((record.registers, &record.stamp), (Some((128, 136)), &stamp()));
    assert_eq!(record.class, "dk 128, tokens 8k, documents 1, longest 8k, KV heads 16");
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().last().unwrap();
    for field in ["\"median_ms\":", "\"driver\":", "\"clocks_mhz\":[1980,3201]", "\"ptx\":", "\"predicted_ms\":"] {
        assert!(line.contains(field), "{field}: {line}");
    }
}

#[test]
fn where_nothing_fits_the_first_reason_is_told() {
    let mut landscape = Landscape::small(1);
    landscape.unfit = landscape.picks.keys().cloned().collect();
    let lab = Simulated::of(&landscape, 1);
    let quiet = &mut |_: Progress<'_>| {};
    let error = search(&landscape, &lab, (&off(), &stamp()), &Profile::H200, &options(), quiet).unwrap_err();
    assert!(error.to_string().contains("does not fit"), "{error}");
}
