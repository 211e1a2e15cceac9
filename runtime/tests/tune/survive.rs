//! Records that several write at once, that a killed process leaves, that a disk has no room for, that somebody damaged.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use lacuna_runtime::tune::{Outcome, Record, Records, Stale, Stamp, Time};

use super::simulated::{Landscape, Simulated, found, options, records, stamp};

const GPU: &str = "NVIDIA H200";

/// A record of its own pick.
fn record(n: u32) -> Record {
    Record {
        class: "a class".to_owned(),
        schedule: "drawn".to_owned(),
        pick: [("n".to_owned(), n)].into(),
        outcome: Outcome::Time(Time::of(&[1.0 + f64::from(n)])),
        predicted_ms: 2.5,
        registers: None,
        ptx: "0".repeat(64),
        stamp: stamp(),
        at: 1,
    }
}

/// This test again, in a process of its own that is told to be a child.
fn child(test: &str, variable: &str, dir: &Path) -> Child {
    let program = std::env::current_exe().unwrap();
    Command::new(program).args(["--exact", test]).env(variable, dir).spawn().unwrap()
}

#[test]
fn two_tuners_at_once_share_a_file() {
    const CHILD: &str = "LACUNA_TEST_TUNER";
    if let Some(dir) = std::env::var_os(CHILD) {
        for seed in 0..20 {
            let landscape = Landscape { version: seed.to_string(), ..Landscape::small(seed) };
            let result = found(&landscape, &Simulated::of(&landscape, seed), &records(Path::new(&dir)), &options());
            assert!(result.winner().is_some());
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let name = "survive::two_tuners_at_once_share_a_file";
    let mut all: Vec<Child> = (0..3).map(|_| child(name, CHILD, dir.path())).collect();
    for child in &mut all {
        assert!(child.wait().unwrap().success());
    }
    let path = records(dir.path()).file(GPU, "drawn").unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.ends_with('\n') && text.lines().count() >= 20 * 10);
    for line in text.lines() {
        serde_json::from_str::<Record>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    let all = records(dir.path());
    assert!(all.load(GPU, "drawn").len() > 20 && all.warnings().is_empty());
}

#[test]
fn a_tuner_that_is_killed_loses_no_line_that_it_wrote() {
    const CHILD: &str = "LACUNA_TEST_KILLED";
    if let Some(dir) = std::env::var_os(CHILD) {
        let records = records(Path::new(&dir));
        // Until it is killed, which is long before.
        (0..u32::MAX).for_each(|n| assert!(records.append("drawn", &record(n))));
    }
    let name = "survive::a_tuner_that_is_killed_loses_no_line_that_it_wrote";
    for wait in [20, 60, 110] {
        let dir = tempfile::tempdir().unwrap();
        let mut killed = child(name, CHILD, dir.path());
        let path = records(dir.path()).file(GPU, "drawn").unwrap();
        let begun = Instant::now();
        while fs::metadata(&path).map_or(0, |found| found.len()) < 20_000 {
            assert!(begun.elapsed() < Duration::from_secs(60), "the child writes");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(wait));
        killed.kill().unwrap();
        killed.wait().unwrap();
        // Its lock went with it, and its last line may be cut.
        let records = records(dir.path());
        assert!(records.append("drawn", &record(u32::MAX)));
        let all = records.load(GPU, "drawn");
        let (last, written) = all.split_last().unwrap();
        assert_eq!(last, &record(u32::MAX));
        assert!(written.iter().enumerate().all(|(n, found)| *found == record(n as u32)), "in order, none missing");
        assert!(written.len() > 10 && records.warnings().len() <= 1, "{:?}", records.warnings());
    }
}

#[test]
fn a_line_that_is_cut_short_does_not_swallow_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = records(dir.path()).file(GPU, "drawn").unwrap();
    for cut in [1, 40, 200] {
        let _ = fs::remove_file(&path);
        let records = records(dir.path());
        assert!(records.append("drawn", &record(1)) && records.append("drawn", &record(2)));
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() - cut]).unwrap();
        assert!(records.append("drawn", &record(3)));
        // Without its newline alone, a line is whole.
        let want = if cut == 1 { vec![record(1), record(2), record(3)] } else { vec![record(1), record(3)] };
        assert_eq!(records.load(GPU, "drawn"), want);
        assert_eq!(records.warnings().len(), usize::from(cut > 1));
    }
}

#[test]
fn a_damaged_line_is_skipped_with_a_warning_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let records = records(dir.path());
    for n in 0..3 {
        assert!(records.append("drawn", &record(n)));
    }
    let path = records.file(GPU, "drawn").unwrap();
    let mut lines: Vec<Vec<u8>> = fs::read(&path).unwrap().split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
    lines[1] = b"\xff\x00 no record {".to_vec();
    lines.insert(3, br#"{"class":"a class","schedule":"drawn"}"#.to_vec());
    fs::write(&path, lines.join(&b'\n')).unwrap();
    assert_eq!(records.load(GPU, "drawn"), [record(0), record(2)]);
    let warnings = records.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (warning, line) in warnings.iter().zip([2, 4]) {
        let start = format!("{}:{line}: not a tuning record, skipped: ", path.display());
        assert!(warning.starts_with(&start), "{warning}");
    }
    records.load(GPU, "drawn");
    assert_eq!(records.warnings().len(), 2, "each is told once");
}

#[test]
fn of_two_lines_of_one_candidate_the_later_one_counts() {
    let dir = tempfile::tempdir().unwrap();
    let records = records(dir.path());
    let later = Record { outcome: Outcome::Time(Time::of(&[9.0; 8])), ..record(1) };
    let other_text = Record { ptx: "1".repeat(64), ..record(1) };
    for line in [&record(1), &record(2), &later, &other_text] {
        assert!(records.append("drawn", line));
    }
    assert_eq!(records.load(GPU, "drawn"), [record(2), later, other_text]);
}

#[test]
fn an_old_record_is_refused_and_says_why() {
    let text = "0".repeat(64);
    let with = |stamp: Stamp| Record { stamp, ..record(1) };
    assert_eq!(record(1).fresh(&stamp(), &text), Ok(()));
    let other = Stamp { gpu: "NVIDIA H100".to_owned(), ..stamp() };
    assert_eq!(with(other).fresh(&stamp(), &text), Err(Stale::Gpu("NVIDIA H100".to_owned())));
    let driver = "CUDA 12.4, driver 550.54.14".to_owned();
    let older = with(Stamp { driver: driver.clone(), ..stamp() });
    assert_eq!(older.fresh(&stamp(), &text), Err(Stale::Driver(driver)));
    let unknown = with(Stamp { driver: "CUDA 12.8".to_owned(), ..stamp() });
    assert!(unknown.fresh(&stamp(), &text).is_err(), "whose driver is not known");
    assert_eq!(record(1).fresh(&stamp(), &"1".repeat(64)), Err(Stale::Text));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_costs_the_record_and_not_the_search() {
    let dir = tempfile::tempdir().unwrap();
    let path = records(dir.path()).file(GPU, "drawn").unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let landscape = Landscape::small(1);
    let all = records(dir.path());
    let result = found(&landscape, &Simulated::of(&landscape, 1), &all, &options());
    assert!(result.winner().is_some());
    // That a device is no file to read is told too.
    let warnings: Vec<String> = all.warnings().into_iter().filter(|text| text.contains("are not kept")).collect();
    assert_eq!(warnings.len(), 1, "told once: {warnings:?}");
    assert!(warnings[0].contains("No space left"), "{warnings:?}");
    assert!(warnings[0].contains("drawn.jsonl"), "{warnings:?}");
}

/// A limit on file sizes stands in for a disk that fills up in the middle of a line.
#[test]
#[cfg(unix)]
fn a_disk_that_fills_up_leaves_whole_lines() {
    const CHILD: &str = "LACUNA_TEST_TUNER_FULL";
    if let Some(dir) = std::env::var_os(CHILD) {
        let records = records(Path::new(&dir));
        let kept = (0..100).filter(|&n| records.append("drawn", &record(n))).count();
        assert!((1..100).contains(&kept) && records.warnings().len() == 1, "{kept} {:?}", records.warnings());
        assert_eq!(records.load(GPU, "drawn").len(), kept);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Without a trap the signal would end the child before the error does.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact survive::a_disk_that_fills_up_leaves_whole_lines";
    let test = std::env::current_exe().unwrap();
    let out = Command::new("bash").args(["-c", script]).arg(test).env(CHILD, dir.path()).output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let text = fs::read_to_string(records(dir.path()).file(GPU, "drawn").unwrap()).unwrap();
    assert!(text.ends_with('\n') && text.lines().all(|line| serde_json::from_str::<Record>(line).is_ok()), "{text}");
}

#[test]
fn a_directory_that_cannot_be_written_costs_the_record_and_not_the_search() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the directory should be stands in for one that forbids writing, which root may write all the same.
    fs::write(dir.path().join("tuned"), "").unwrap();
    let landscape = Landscape::small(1);
    let all = records(dir.path());
    let result = found(&landscape, &Simulated::of(&landscape, 1), &all, &options());
    assert!(result.winner().is_some());
    let warnings = all.warnings();
    assert!(warnings.len() == 1 && warnings[0].starts_with("tuning records are not kept: "), "{warnings:?}");
    assert_eq!(all.load(GPU, "drawn"), []);
}

#[test]
#[cfg(unix)]
fn a_read_only_directory_is_still_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let all = records(dir.path());
    assert!(all.append("drawn", &record(1)));
    let path = all.file(GPU, "drawn").unwrap();
    let folder = path.parent().unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o500)).unwrap();
    assert_eq!(all.load(GPU, "drawn"), [record(1)]);
    let root = fs::write(folder.join("probe"), b"").is_ok();
    if !root {
        assert!(!all.append("drawn", &record(2)) && all.warnings()[0].contains("Permission denied"));
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!((all.gpus(), all.kernels(GPU)), (vec!["nvidia-h200".to_owned()], vec!["drawn".to_owned()]));
}

#[test]
fn records_that_are_off_keep_and_know_nothing() {
    let off = Records::off();
    assert!(!off.append("drawn", &record(1)) && off.warnings().is_empty());
    assert_eq!((off.file(GPU, "drawn"), off.load(GPU, "drawn"), off.gpus()), (None, vec![], vec![]));
}
