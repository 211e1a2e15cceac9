//! `lacuna tune` and `lacuna tuned`, without a GPU: what the model says of one, candidates on the emulator, the command's own
//! workers with plans that hang, fault and are wrong, and records that outlive the command.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::lacuna;
use lacuna::codegen::plan::{Plan, Tunable as _};
use lacuna::dsl::{Elem, Shape, Target};
use lacuna::kernels::registry;
use lacuna::runtime::tune::{Failed, Invalid, Lab as _, Record, Records, Shipped, Workers};
use serde_json::{Value, json};

/// A shape that the emulator runs at once, timed by the host's clock.
const SMALL: [&str; 13] = [
    "tune",
    "window",
    "--window",
    "20",
    "--tokens",
    "64",
    "--heads",
    "1",
    "--head-dim",
    "32",
    "--device",
    "emulator",
    "--host-clock",
];

/// The command with records of its own.
fn at(dir: &Path, args: &[&str]) -> common::Call {
    lacuna(args).env("LACUNA_TUNED", "").env("LACUNA_DATA_DIR", dir.to_str().unwrap())
}

fn start(dir: &Path, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command.args(args).env("LACUNA_CACHE", "off").env("LACUNA_TUNED", "").env("LACUNA_DATA_DIR", dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn file(dir: &Path) -> PathBuf {
    Records::at(dir).file("emulator", "window").unwrap()
}

fn lines(dir: &Path) -> usize {
    fs::read_to_string(file(dir)).map_or(0, |text| text.lines().count())
}

#[test]
fn without_a_gpu_the_model_ranks_for_a_named_target_and_says_that_nothing_was_timed() {
    let args = ["tune", "causal", "--tokens", "8k,32k", "--device", "emulator"];
    let refused = lacuna(&args).ends(2).stderr;
    assert!(refused.starts_with("error: there is no GPU to time candidates on: "), "{refused}");
    assert!(refused.contains("--target sm_90 ranks them"), "{refused}");
    let text = lacuna(&[&args[..], &["--target", "sm_90"]].concat()).ends(0).stdout;
    assert!(text.starts_with("causal: sm_90, by the static model of the NVIDIA H200\n"), "{text}");
    assert!(text.ends_with("nothing was timed: there is no GPU here\n"), "{text}");
    assert_eq!(text.matches("  choice    query-major ").count(), 2, "{text}");
    let json = lacuna(&[&args[..], &["--target", "sm_90", "--json"]].concat()).ends(0).json();
    assert_eq!((&json["timed"], json["rows"].as_array().unwrap().len()), (&json!(false), 2));
    let expected = |row: &Value| -> Vec<f64> {
        let all = row["candidates"].as_array().unwrap().iter();
        all.filter_map(|candidate| candidate["expected_milliseconds"].as_f64()).collect()
    };
    for row in json["rows"].as_array().unwrap() {
        let ms = expected(row);
        assert!(ms.len() > 4 && ms.is_sorted() && ms[0] > 0.0, "{ms:?}");
    }
    let (short, long) = (expected(&json["rows"][0])[0], expected(&json["rows"][1])[0]);
    assert!((12.0..20.0).contains(&(long / short)), "16 times the pairs: {short} and {long}");
    lacuna(&[&args[..], &["--target", "sm_100"]].concat()).refuses(2, "error: the model knows no GPU of sm_100");
}

#[test]
fn on_the_emulator_candidates_are_held_to_f64_on_request() {
    let args = [
        "tune",
        "nsa-selected",
        "--block",
        "32",
        "--blocks",
        "3",
        "--tokens",
        "128",
        "--heads",
        "2",
        "--kv-heads",
        "1",
        "--head-dim",
        "32",
        "--target",
        "sm_80",
        "--device",
        "emulator",
        "--check",
        "--json",
    ];
    let row = &lacuna(&args).ends(0).json()["rows"][0];
    let candidates = row["candidates"].as_array().unwrap();
    let checked: Vec<&Value> = candidates.iter().filter(|candidate| candidate["does_not_fit"].is_null()).collect();
    assert!(checked.iter().all(|candidate| candidate["checked"] == true && candidate["wrong"].is_null()));
    for schedule in ["group-centric", "block-major"] {
        assert!(checked.iter().any(|candidate| candidate["schedule"] == schedule), "{schedule} is a candidate");
    }
}

#[test]
fn what_was_tuned_is_remembered_used_explained_and_exported() {
    let dir = tempfile::tempdir().unwrap();
    let first = at(dir.path(), &[&SMALL[..], &["--budget", "20s", "--json"]].concat()).ends(0).json();
    let row = &first["rows"][0];
    assert!(row["measured"].as_u64() > Some(1) && row["seconds"].as_f64() < Some(25.0), "{row:#}");
    let time = &row["winner"]["time"];
    assert!(time["median_ms"].as_f64() > Some(0.0) && time["low_ms"].as_f64() <= time["high_ms"].as_f64(), "{time}");
    // A second search has it from the records; on request it measures again.
    let text = at(dir.path(), &[&SMALL[..], &["--budget", "1ms"]].concat()).ends(0).stdout;
    assert!(text.contains(" 0 timed now, ") && text.contains("winner     query-major "), "{text}");
    assert!(text.contains(&format!("records    {}", file(dir.path()).display())), "{text}");
    let again = at(dir.path(), &[&SMALL[..], &["--again", "--budget", "10s", "--json"]].concat()).ends(0).json();
    assert!(again["rows"][0]["measured"].as_u64() > Some(1));

    // A run of the class takes the winner, and says why; one of another class, and one with a pick, does not.
    let records = Records::at(dir.path()).load("emulator", "window");
    let timed = |record: &Record| record.time().map_or(f64::INFINITY, |time| time.median_ms);
    let best = records.iter().min_by(|a, b| timed(a).total_cmp(&timed(b))).unwrap();
    let run =
        ["run", "window", "--window", "20", "--tokens", "60", "--heads", "1", "--dim", "32", "--device", "emulator"];
    let used = at(dir.path(), &[&run[..], &["--json"]].concat()).ends(0).json();
    assert_eq!(used["pick"], json!(best.pick));
    assert!(used["pick_why"].as_str().unwrap().starts_with("tuned on this GPU: "), "{}", used["pick_why"]);
    let said = at(dir.path(), &run).ends(0).stdout;
    assert!(said.contains("tuned on this GPU: "), "{said}");
    let asked = at(dir.path(), &[&run[..], &["--pick", "warps=8", "--json"]].concat()).ends(0).json();
    assert_eq!((&asked["pick"]["warps"], &asked["pick_why"]), (&json!(8), &json!("as asked for")));
    let other: Vec<&str> = run.iter().map(|&arg| if arg == "60" { "400" } else { arg }).collect();
    let other = at(dir.path(), &[&other[..], &["--json"]].concat()).ends(0).json();
    assert_eq!(other["pick_why"], "not tuned: the schedule's own choice");

    let listed = at(dir.path(), &["tuned"]).ends(0).stdout;
    assert!(listed.contains("window") && listed.contains("tokens 64, documents 1"), "{listed}");
    let why = at(dir.path(), &["tuned", "window", "--why"]).ends(0).stdout;
    for part in ["winner     query-major ", "runner-up  query-major ", "model      expected "] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert!(at(dir.path(), &["tuned", "causal"]).ends(0).stdout.starts_with("nothing is tuned"));
    let (exported, picture) = (dir.path().join("emulator.json"), dir.path().join("landscape.png"));
    at(dir.path(), &["tuned", "--export", exported.to_str().unwrap(), "--picture", picture.to_str().unwrap()]).ends(0);
    let shipped = Shipped::read(&fs::read_to_string(&exported).unwrap()).unwrap();
    assert_eq!((shipped.gpu.as_str(), shipped.winners.len()), ("emulator", 1));
    assert_eq!(shipped.winners[0].record, *best);
    // The winner's bar is drawn in its own colour, and it is the first.
    let drawn = image::open(&picture).unwrap().into_rgb8();
    let rows = drawn.enumerate_pixels().filter(|(.., pixel)| pixel.0 == [38, 84, 140]).map(|(_, y, _)| y);
    let rows: Vec<u32> = rows.collect();
    assert!(rows.len() > 20 && rows.iter().all(|y| (70..90).contains(y)), "{} pixels", rows.len());
}

#[test]
fn two_tuners_at_once_share_their_records() {
    let dir = tempfile::tempdir().unwrap();
    let args = [&SMALL[..], &["--budget", "10s"]].concat();
    let all: Vec<Child> = (0..2).map(|_| start(dir.path(), &args)).collect();
    for child in all {
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let records = Records::at(dir.path());
    assert!(!records.load("emulator", "window").is_empty() && records.warnings().is_empty());
}

/// Waits until a few candidates have records.
fn until_some(dir: &Path) {
    let begun = Instant::now();
    while lines(dir) < 2 {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing is measured");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_tuner_that_is_killed_leaves_what_it_measured_and_the_next_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let long = [&SMALL[..], &["--exhaustive", "--budget", "300s"]].concat();
    let mut child = start(dir.path(), &long);
    until_some(dir.path());
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = Records::at(dir.path()).load("emulator", "window").len();
    assert!(kept >= 2);
    let next = at(dir.path(), &[&SMALL[..], &["--budget", "5s", "--json"]].concat()).ends(0).json();
    let (new, all) = (next["rows"][0]["measured"].as_u64().unwrap(), next["rows"][0]["candidates"].as_u64().unwrap());
    assert!(new + kept as u64 <= all, "{new} of {all} are new, and {kept} were known");
}

#[test]
fn ctrl_c_keeps_what_was_measured_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let long = [&SMALL[..], &["--exhaustive", "--budget", "300s"]].concat();
    let child = start(dir.path(), &long);
    until_some(dir.path());
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(130));
    let said = String::from_utf8(done.stderr).unwrap();
    let want = format!("interrupted; what was measured is kept: {}\n", file(dir.path()).display());
    assert!(said.ends_with(&want), "{said}");
    assert!(Records::at(dir.path()).load("emulator", "window").len() >= 2);
}

#[test]
fn where_records_cannot_be_kept_tuning_says_so_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tuned"), "no directory").unwrap();
    let short = [&SMALL[..], &["--budget", "10s"]].concat();
    let done = at(dir.path(), &short).ends(0);
    assert!(done.stderr.starts_with("warning: tuning records are not kept: "), "{}", done.stderr);
    assert!(done.stdout.contains("winner     query-major "), "{}", done.stdout);
    let off = lacuna(&short).ends(0).stdout;
    assert!(off.contains("winner     query-major ") && off.contains("not kept: LACUNA_TUNED is off"), "{off}");
}

#[test]
fn a_damaged_record_is_told_with_its_line_and_not_used() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(file(dir.path()).parent().unwrap()).unwrap();
    fs::write(file(dir.path()), "{\"class\": \n").unwrap();
    let run =
        ["run", "window", "--window", "20", "--tokens", "60", "--heads", "1", "--dim", "32", "--device", "emulator"];
    let done = at(dir.path(), &run).ends(0);
    let start = format!("warning: {}:1: not a tuning record, skipped: ", file(dir.path()).display());
    assert!(done.stderr.starts_with(&start), "{}", done.stderr);
}

/// A causal kernel's setup and plan, as the command gives them to its workers.
fn causal() -> (Value, Plan) {
    let kernel = registry::find("causal").unwrap();
    let attention = kernel.build(Shape::new(Elem::Bf16, 32, 32, 1), &kernel.options([]).unwrap()).unwrap();
    let pick = attention.pick(Target::SM_80, &Default::default()).unwrap();
    let setup = json!({
        "kernel": "causal", "options": {}, "score": null, "sinks": false, "docs": [200], "small": [150, 1, 40],
        "heads": 1, "kv_heads": 1, "dim": 32, "dv": 32, "dtype": "bf16", "overlap": null, "target": "sm_80", "gpu": null,
    });
    (setup, attention.plan(Target::SM_80, &pick).unwrap())
}

/// The plan with another text.
fn with(plan: &Plan, change: impl Fn(&str) -> String) -> Plan {
    let mut plan = plan.clone();
    let text = change(&plan.launches[0].ptx);
    assert_ne!(text, *plan.launches[0].ptx, "the text has what is changed");
    plan.launches[0].ptx = text.into();
    plan
}

#[test]
fn the_commands_worker_finds_what_is_wrong_faults_or_hangs_and_the_next_one_goes_on() {
    let (setup, plan) = causal();
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
        command.arg("tune-worker").env("LACUNA_CACHE", "off").stderr(Stdio::null());
        command
    };
    let lab = Workers::new(command, setup);
    let limit = Duration::from_secs(300);
    lab.compile(&plan).unwrap();
    assert_eq!(lab.check(&plan, limit), Ok(()));
    let times = lab.time(&plan, 2, limit).unwrap();
    assert!(times.len() >= 2 && times.iter().all(|&ms| ms > 0.0), "{times:?}");

    let invalid = |plan: &Plan, limit| match lab.check(plan, limit) {
        Err(Failed::Invalid(why)) => why,
        other => panic!("{other:?}"),
    };
    let wrong = with(&plan, |text| text.replace("ex2.approx.ftz.f32", "rcp.approx.ftz.f32"));
    let why = invalid(&wrong, limit);
    assert!(matches!(&why, Invalid::Wrong(how) if how.contains("beyond the allowed")), "{why}");
    let racing = with(&plan, |text| text.replace("bar.sync 0;", ""));
    let why = invalid(&racing, limit);
    assert!(matches!(&why, Invalid::Faults(how) if how.contains("race")), "{why}");
    let refused = with(&plan, |text| text.replace("mma.sync", "mma.dense"));
    assert!(matches!(lab.compile(&refused), Err(Failed::Invalid(Invalid::Refused(_)))));
    assert_eq!(lab.started(), 1, "none of these costs a worker");

    let hanging = with(&plan, |text| {
        let end = text.rfind("ret;").unwrap();
        format!("{}round_and_round:\n  bra.uni round_and_round;\n  {}", &text[..end], &text[end..])
    });
    assert_eq!(invalid(&hanging, Duration::from_secs(3)), Invalid::Hangs(3000));
    assert_eq!(lab.check(&plan, limit), Ok(()), "another worker goes on");
    assert_eq!(lab.started(), 2);
}

#[test]
fn what_cannot_be_tuned() {
    let said = lacuna(&["tune"]).ends(2).stderr;
    assert!(said.contains("<KERNEL>"), "{said}");
    let said = lacuna(&["tune", "causal", "--all"]).ends(2).stderr;
    assert!(said.contains("'[KERNEL]' cannot be used with '--all'"), "{said}");
    let said = lacuna(&["tune", "causal", "--budget", "soon"]).ends(2).stderr;
    assert!(said.contains("a time is right, such as 60s, 2m or 500ms"), "{said}");
    let on = ["tune", "causal", "--target", "sm_90", "--device", "emulator"];
    lacuna(&[&on[..], &["--heads", "3", "--kv-heads", "2"]].concat()).refuses(
        2,
        "error: 3 query heads cannot be shared out evenly over 2 KV heads; the query heads must be a multiple of the KV heads",
    );
    lacuna(&["tune", "causal", "--picture", "map.jpg"]).refuses(2, "error: map.jpg: a picture is a .png or an .svg");
    let help = lacuna(&["--help"]).ends(0).stdout;
    assert!(help.contains("  tune ") && help.contains("  tuned ") && !help.contains("tune-worker"), "{help}");
    assert!(help.contains("LACUNA_DATA_DIR") && help.contains("LACUNA_TUNED"), "{help}");
}
