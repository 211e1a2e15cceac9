//! The pick of a launch: which one, why, and how fast it is found.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lacuna_codegen::Error;
use lacuna_runtime::tune::{
    Chooser, Lengths, Options, Profile, Record, Records, Shipped, Stale, Stamp, Subject, Why, Winner,
};

use super::simulated::{Kind, Landscape, Simulated, found, lengths, options, records, stamp};

/// A chooser for a landscape, and how often it asked for its subject.
fn chooser<'a>(
    landscape: &'a Landscape,
    records: &Records,
    shipped: Vec<Record>,
    stamp: Stamp,
    profile: Option<Profile>,
) -> (Chooser<'a>, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let counted = asked.clone();
    let subject = move |_: &Lengths| -> Result<Box<dyn Subject + 'a>, Error> {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(landscape.clone()))
    };
    (Chooser::new("drawn", (records, shipped), (stamp, profile), false, Box::new(subject)), asked)
}

fn tuned(landscape: &Landscape, dir: &std::path::Path) -> Records {
    let records = records(dir);
    found(landscape, &Simulated::of(landscape, 1), &records, &Options { exhaustive: true, ..options() });
    records
}

#[test]
fn a_launch_has_the_fastest_pick_of_its_class() {
    let dir = tempfile::tempdir().unwrap();
    let landscape = Landscape::small(12);
    let (chooser, _) = chooser(&landscape, &tuned(&landscape, dir.path()), vec![], stamp(), Some(Profile::H200));
    let choice = chooser.choose(&lengths()).unwrap();
    assert!(landscape.picks[&choice.pick].0 < 1.03 * landscape.least());
    let Why::Tuned(time, 24) = choice.why else { panic!("{}", choice.why) };
    let said = choice.why.to_string();
    assert!(said.starts_with(&format!("tuned on this GPU: {:.4} ms", time.median_ms)), "{said}");
    assert!(choice.plan.launches[0].ptx.contains(&format!("{:?}", choice.pick)));
}

#[test]
fn without_records_the_model_chooses_and_without_a_profile_the_author() {
    let mut landscape = Landscape::small(12);
    let none = Records::off();
    let first = landscape.schedules()[0].first.clone();
    let choice = |landscape: &Landscape, profile| {
        chooser(landscape, &none, vec![], stamp(), profile).0.choose(&lengths()).unwrap()
    };
    let chosen = choice(&landscape, None);
    assert_eq!((&chosen.pick, &chosen.why), (&first, &Why::First));
    let expected = |landscape: &Landscape, pick| landscape.picks[pick].2;
    let chosen = choice(&landscape, Some(Profile::H200));
    assert!(matches!(chosen.why, Why::Model(_, None)));
    assert!(landscape.picks.values().all(|known| known.2 >= expected(&landscape, &chosen.pick)), "by its own times");
    // Where the model expects little of another pick, the author's stands.
    let fastest = landscape.picks.values().map(|known| known.2).fold(f64::INFINITY, f64::min);
    landscape.picks.get_mut(&first).unwrap().2 = fastest * 1.05;
    assert_eq!(choice(&landscape, Some(Profile::H200)).pick, first);
    landscape.picks.get_mut(&first).unwrap().2 = fastest * 1.5;
    assert_ne!(choice(&landscape, Some(Profile::H200)).pick, first);
}

#[test]
fn stale_records_are_refused_and_not_approximated() {
    let dir = tempfile::tempdir().unwrap();
    let landscape = Landscape::small(12);
    let all = tuned(&landscape, dir.path());
    let why = |landscape: &Landscape, stamp: Stamp| {
        let (chooser, _) = chooser(landscape, &all, vec![], stamp, Some(Profile::H200));
        chooser.choose(&lengths()).unwrap().why.clone()
    };
    let driver = Stamp { driver: "CUDA 13.0, driver 580.10".to_owned(), ..stamp() };
    let Why::Model(_, Some(Stale::Driver(was))) = why(&landscape, driver) else { panic!("another driver") };
    assert_eq!(was, stamp().driver);
    let other = Landscape { version: "2".to_owned(), ..landscape.clone() };
    let found = why(&other, stamp());
    assert!(matches!(found, Why::Model(_, Some(Stale::Text))), "another text: {found}");
    assert!(found.to_string().contains("what was tuned is refused: the pick's PTX is another one now"));
    let elsewhere = Stamp { gpu: "NVIDIA H100".to_owned(), ..stamp() };
    assert!(matches!(why(&landscape, elsewhere), Why::Model(_, None)), "another GPU has records of its own");
}

#[test]
fn shipped_winners_serve_until_something_local_is_better() {
    let dir = tempfile::tempdir().unwrap();
    let landscape = Landscape::small(12);
    let all = tuned(&landscape, &dir.path().join("shipped")).load("NVIDIA H200", "drawn");
    let best = all.iter().min_by(|a, b| a.time().unwrap().median_ms.total_cmp(&b.time().unwrap().median_ms)).unwrap();
    let winner = Winner { kernel: "drawn".to_owned(), record: best.clone() };
    let text = Shipped { gpu: "NVIDIA H200".to_owned(), winners: vec![winner] }.text();
    let shipped = Shipped::read(&text).unwrap();
    assert_eq!(shipped.text(), text);
    let of = |gpu: &str, kernel: &str| shipped.of(gpu, kernel).cloned().collect::<Vec<_>>();
    assert_eq!((of("NVIDIA H200", "drawn"), of("NVIDIA H100", "drawn")), (vec![best.clone()], vec![]));

    let empty = records(&dir.path().join("local"));
    let choose = |local: &Records| {
        let shipped = of("NVIDIA H200", "drawn");
        let (chooser, _) = chooser(&landscape, local, shipped, stamp(), Some(Profile::H200));
        (*chooser.choose(&lengths()).unwrap()).clone()
    };
    let choice = choose(&empty);
    assert_eq!((&choice.pick, &choice.why), (&best.pick, &Why::Shipped(*best.time().unwrap())));
    // Something slower was timed here: the shipped one stands. The same pick was timed here: that counts for it.
    let slow = all.iter().max_by(|a, b| a.time().unwrap().median_ms.total_cmp(&b.time().unwrap().median_ms)).unwrap();
    assert!(empty.append("drawn", slow));
    assert_eq!(choose(&empty).pick, best.pick);
    let same = Record { stamp: Stamp { driver: "CUDA 12.8, driver 570.1".to_owned(), ..stamp() }, ..best.clone() };
    assert!(empty.append("drawn", &same));
    assert!(matches!(choose(&empty).why, Why::Tuned(_, 2)));
}

#[test]
fn what_is_not_a_file_of_winners_is_refused() {
    assert!(Shipped::read("[]").unwrap_err().starts_with("no file of tuned winners: "));
}

#[test]
fn what_was_found_invalid_is_not_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let mut landscape = Landscape::small(12);
    let fastest = landscape.fastest();
    landscape.picks.get_mut(&fastest[0]).unwrap().1 = Kind::Wrong;
    let (chooser, _) = chooser(&landscape, &tuned(&landscape, dir.path()), vec![], stamp(), None);
    assert_ne!(chooser.choose(&lengths()).unwrap().pick, fastest[0]);
}

#[test]
fn a_second_launch_is_found_in_less_than_a_microsecond() {
    let dir = tempfile::tempdir().unwrap();
    let landscape = Landscape::small(12);
    let (chooser, asked) = chooser(&landscape, &tuned(&landscape, dir.path()), vec![], stamp(), Some(Profile::H200));
    chooser.choose(&lengths()).unwrap();
    let near = |i: u64| Lengths { tokens: 8192 - i % 512, ..lengths() };
    // The best of many batches: what else the machine does is not the look-up's.
    let batch = |_| {
        let begin = Instant::now();
        (0..1000).for_each(|i| drop(std::hint::black_box(chooser.choose(&near(i)))));
        begin.elapsed() / 1000
    };
    let best = (0..100).map(batch).min().unwrap();
    assert!(best < Duration::from_micros(1), "{best:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 1, "one class is planned once");
    chooser.choose(&Lengths { tokens: 65536, ..lengths() }).unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

/// What a process has read and written, in calls and in bytes, is counted by the system; this is a process of its own.
#[test]
#[cfg(target_os = "linux")]
fn a_second_launch_reads_and_writes_nothing() {
    const CHILD: &str = "LACUNA_TEST_LAUNCH";
    if std::env::var_os(CHILD).is_none() {
        let program = std::env::current_exe().unwrap();
        let name = "launch::a_second_launch_reads_and_writes_nothing";
        let mut command = std::process::Command::new(program);
        let done = command.args(["--exact", name, "--test-threads=1"]).env(CHILD, "1").output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let landscape = Landscape::small(12);
    let (chooser, _) = chooser(&landscape, &tuned(&landscape, dir.path()), vec![], stamp(), Some(Profile::H200));
    let io = || -> Vec<u64> {
        let text = std::fs::read_to_string("/proc/self/io").unwrap();
        let count = |line: &str| line.split_once(": ").unwrap().1.parse().unwrap();
        text.lines().take(4).map(count).collect()
    };
    let spent = |what: &dyn Fn()| {
        let (before, nothing) = (io(), io());
        what();
        let after = io();
        // Reading the counters is itself counted.
        let own: Vec<u64> = nothing.iter().zip(&before).map(|(b, a)| b - a).collect();
        after.iter().zip(&nothing).zip(own).map(|((b, a), own)| (b - a).abs_diff(own)).sum::<u64>()
    };
    let file = || drop(std::fs::read(records(dir.path()).file("NVIDIA H200", "drawn").unwrap()));
    assert!(spent(&file) > 1000, "a file that is read is seen");
    chooser.choose(&lengths()).unwrap();
    std::fs::remove_dir_all(dir.path()).unwrap();
    let calls = spent(&|| (0..10_000).for_each(|_| drop(chooser.choose(&lengths()).unwrap())));
    assert!(calls < 20, "{calls} bytes and calls: the counters' own digits at most");
}
