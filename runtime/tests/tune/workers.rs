//! Candidates in worker processes: one that hangs, one that dies, one that is wrong, and the search that goes on.

use std::io::{BufReader, Write as _, stdin, stdout};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lacuna_codegen::plan::{Plan, Tunable as _};
use lacuna_ptx::Target;
use lacuna_runtime::tune::{Failed, Invalid, Lab, Made, Options, Outcome, Workers, serve};
use serde_json::json;

use super::simulated::{Landscape, found, options, records};

const WORKER: &str = "LACUNA_TEST_WORKER";

/// In a worker's process: does what the setup says of each text.
struct Scripted {
    kinds: std::collections::BTreeMap<String, String>,
    times: std::collections::BTreeMap<String, f64>,
}

impl Scripted {
    fn kind(&self, plan: &Plan) -> &str {
        self.kinds.get(&*plan.launches[0].ptx).map_or("", String::as_str)
    }

    fn perhaps(&self, plan: &Plan, step: &str) {
        match self.kind(plan) {
            kind if kind == format!("dies in {step}") => std::process::abort(),
            kind if kind == format!("hangs in {step}") => std::thread::sleep(Duration::from_secs(3600)),
            _ => {}
        }
    }
}

impl Lab for Scripted {
    fn compile(&self, plan: &Plan) -> Result<Made, Failed> {
        self.perhaps(plan, "compile");
        Ok(Made { registers: Some(77) })
    }

    fn check(&self, plan: &Plan, _: Duration) -> Result<(), Failed> {
        self.perhaps(plan, "check");
        match self.kind(plan) {
            "wrong" => Err(Failed::Invalid(Invalid::Wrong("o is off".to_owned()))),
            "takes the context" => Err(Failed::Last(Invalid::Faults("the context is lost".to_owned()))),
            _ => Ok(()),
        }
    }

    fn time(&self, plan: &Plan, runs: u32, _: Duration) -> Result<Vec<f64>, Failed> {
        self.perhaps(plan, "time");
        Ok(vec![self.times[&*plan.launches[0].ptx]; runs as usize])
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

/// No test by itself: what a worker's process does. Its standard input is a tuner's.
#[test]
fn worker() {
    if std::env::var_os(WORKER).is_none() {
        return;
    }
    writeln!(stdout(), "what a library prints is no answer").unwrap();
    let open = |setup: &serde_json::Value| -> Result<Arc<dyn Lab + Send>, String> {
        if setup["device"] == "none" {
            return Err("there is no such device".to_owned());
        }
        let read = |name: &str| setup[name].clone();
        let kinds = serde_json::from_value(read("kinds")).map_err(|error| error.to_string())?;
        let times = serde_json::from_value(read("times")).map_err(|error| error.to_string())?;
        Ok(Arc::new(Scripted { kinds, times }))
    };
    serve(BufReader::new(stdin()), stdout(), open).unwrap();
    std::process::exit(0);
}

fn program() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "workers::worker", "--nocapture"]).env(WORKER, "1").stderr(std::process::Stdio::null());
    command
}

fn text(landscape: &Landscape, pick: &lacuna_codegen::plan::Pick) -> String {
    landscape.plan(Target::SM_90, pick).unwrap().launches[0].ptx.to_string()
}

/// Workers for a landscape in which some picks misbehave.
fn workers(landscape: &Landscape, kinds: &[(usize, &str)]) -> Workers {
    let fastest = landscape.fastest();
    let kinds: serde_json::Map<String, serde_json::Value> =
        kinds.iter().map(|&(rank, kind)| (text(landscape, &fastest[rank]), json!(kind))).collect();
    let times: serde_json::Map<String, serde_json::Value> =
        landscape.picks.iter().map(|(pick, known)| (text(landscape, pick), json!(known.0))).collect();
    Workers::new(program, json!({ "kinds": kinds, "times": times }))
}

#[test]
fn what_dies_hangs_or_is_wrong_ends_a_worker_and_not_the_search() {
    let dir = tempfile::tempdir().unwrap();
    let landscape = Landscape::small(6);
    let kinds = [
        (0, "dies in check"),
        (1, "hangs in time"),
        (2, "wrong"),
        (3, "dies in time"),
        (4, "takes the context"),
        (5, "hangs in check"),
    ];
    let lab = workers(&landscape, &kinds);
    let watchdog = Duration::from_millis(700);
    let result = found(&landscape, &lab, &records(dir.path()), &Options { watchdog, exhaustive: true, ..options() });
    let fastest = landscape.fastest();
    assert_eq!(result.winner().unwrap().candidate.pick, fastest[6]);
    assert_eq!(result.winner().unwrap().registers, Some(77));
    assert!(lab.started() >= 6, "each of five cost a worker: {}", lab.started());
    let kept = records(dir.path()).load("NVIDIA H200", "drawn");
    for (rank, kind) in kinds {
        let record = kept.iter().find(|record| record.pick == fastest[rank]).unwrap();
        let Outcome::Invalid(why) = &record.outcome else { panic!("{kind}: {:?}", record.outcome) };
        let right = match why {
            Invalid::Wrong(_) => kind == "wrong",
            Invalid::Hangs(ms) => kind.starts_with("hangs") && (700..1500).contains(ms),
            Invalid::Faults(why) if kind == "takes the context" => why == "the context is lost",
            Invalid::Faults(why) => kind.starts_with("dies") && why.contains("ended with signal"),
            _ => false,
        };
        assert!(right, "{kind}: {why}");
    }
    assert_eq!(kept.iter().filter(|record| record.time().is_some()).count(), 18);
}

#[test]
fn a_budget_ends_a_worker_that_is_in_the_middle_of_something() {
    let landscape = Landscape::small(6);
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<(usize, &str)> = (0..24).map(|rank| (rank, "hangs in time")).collect();
    let lab = workers(&landscape, &all);
    let begun = Instant::now();
    let budget = Duration::from_millis(2500);
    let result = found(&landscape, &lab, &records(dir.path()), &Options { budget, ..options() });
    assert!(result.best.is_none() && begun.elapsed() < budget + Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(lab.process(), None, "no worker is left");
    assert_eq!(records(dir.path()).load("NVIDIA H200", "drawn"), [], "what the budget cut short is no hang");
}

/// A plan that kills its worker while it is compiled is no candidate; those that were compiled beside it are.
#[test]
fn a_compiler_that_dies_costs_its_own_candidate() {
    let landscape = Landscape::small(9);
    let lab = workers(&landscape, &[(0, "dies in compile")]);
    let plan = |rank: usize| landscape.plan(Target::SM_90, &landscape.fastest()[rank]).unwrap();
    let Err(Failed::Invalid(Invalid::Faults(why))) = lab.compile(&plan(0)) else { panic!("it dies") };
    assert!(why.contains("ended with signal"), "{why}");
    assert_eq!(lab.started(), 3, "a worker that dies beside others is not blamed on them at once");
    assert_eq!(lab.compile(&plan(1)), Ok(Made { registers: Some(77) }));
}

#[test]
fn a_worker_that_is_killed_from_outside_is_replaced() {
    let landscape = Landscape::small(9);
    let lab = workers(&landscape, &[(0, "hangs in time")]);
    let plan = |rank: usize| landscape.plan(Target::SM_90, &landscape.fastest()[rank]).unwrap();
    lab.compile(&plan(0)).unwrap();
    let process = lab.process().unwrap();
    std::thread::scope(|scope| {
        let timed = scope.spawn(|| lab.time(&plan(0), 3, Duration::from_secs(30)));
        std::thread::sleep(Duration::from_millis(300));
        assert!(Command::new("kill").args(["-9", &process.to_string()]).status().unwrap().success());
        let Err(Failed::Invalid(Invalid::Faults(why))) = timed.join().unwrap() else { panic!("it was killed") };
        assert!(why.contains("signal: 9"), "{why}");
    });
    let ms = landscape.picks[&landscape.fastest()[1]].0;
    let times = lab.time(&plan(1), 2, Duration::from_secs(30)).unwrap();
    assert!(times.len() == 2 && times.iter().all(|time| (time / ms - 1.0).abs() < 1e-12), "{times:?}");
    assert_eq!(lab.started(), 2);
}

#[test]
fn a_worker_that_cannot_begin_says_why() {
    let landscape = Landscape::small(1);
    let plan = landscape.plan(Target::SM_90, &landscape.fastest()[0]).unwrap();
    let lost = |lab: Workers| match lab.compile(&plan) {
        Err(Failed::Lost(why)) => why,
        other => panic!("{other:?}"),
    };
    let refused = Workers::new(program, json!({ "device": "none" }));
    assert_eq!(lost(refused), "there is no such device");
    let absent = Workers::new(|| Command::new("/no/such/program"), json!({}));
    assert!(lost(absent).starts_with("a worker process cannot be started: "));
    let silent = Workers::new(|| Command::new("true"), json!({}));
    assert!(lost(silent).contains("exit status: 0 before it began"));
}
