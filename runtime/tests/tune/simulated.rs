//! A subject whose candidates have drawn true times, and a device that shows them with noise.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lacuna_codegen::plan::{Expr, Launch, Pick, Plan, Space, Tunable};
use lacuna_codegen::{Error, Work};
use lacuna_ptx::Target;
use lacuna_runtime::tune::{
    Class, Failed, Found, Invalid, Lab, Lengths, Made, Options, Profile, Progress, Records, Schedule, Stamp, Subject,
    search,
};

/// Numbers that are the same on every machine: SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    pub(crate) fn part(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A factor about 1: as often above as below, by the deviation of its logarithm.
    pub(crate) fn factor(&mut self, deviation: f64) -> f64 {
        // The sum of 12 is near normal, with a deviation of 1.
        let normal: f64 = (0..12).map(|_| self.part()).sum::<f64>() - 6.0;
        (deviation * normal).exp()
    }
}

/// What becomes of a candidate that is run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Right,
    Refused,
    Spills,
    Wrong,
    Faults,
    /// It faults, and takes the device with it.
    TakesAll,
    HangsInCheck,
    HangsInTime,
}

/// Times by knob: a landscape whose candidates have a time each.
#[derive(Clone)]
pub(crate) struct Landscape {
    pub(crate) space: Space,
    /// Milliseconds of each pick, its kind, and what the model is told.
    pub(crate) picks: BTreeMap<Pick, (f64, Kind, f64)>,
    /// What is in each text besides its pick: another version is another text.
    pub(crate) version: String,
    /// Picks that do not fit.
    pub(crate) unfit: Vec<Pick>,
    /// Tokens, by which it is of one class or another.
    pub(crate) tokens: u64,
}

impl Landscape {
    /// Every knob has a factor for each of its values, and each pick one of its own; the model is wrong by a third on the
    /// whole.
    pub(crate) fn draw(seed: u64, sizes: &[(&str, u32)], own: f64) -> Self {
        let mut draw = Draw(seed);
        let knobs = sizes.iter().map(|&(name, n)| (name.to_owned(), (1..=n).collect())).collect();
        let space = Space { knobs };
        let base = 0.2 * draw.factor(1.0);
        let factors: BTreeMap<(String, u32), f64> = space
            .knobs
            .iter()
            .flat_map(|(name, values)| values.iter().map(|&value| (name.clone(), value)))
            .map(|knob| (knob, draw.factor(0.25)))
            .collect();
        let time = |pick: Pick| {
            let of_knobs: f64 = pick.iter().map(|(name, &value)| factors[&(name.clone(), value)]).product();
            let ms = base * of_knobs * draw.factor(own);
            (pick, (ms, Kind::Right, ms * draw.factor(0.3)))
        };
        let picks = space.picks().into_iter().map(time).collect();
        Landscape { space, picks, version: "1".to_owned(), unfit: Vec::new(), tokens: lengths().tokens }
    }

    /// 24 picks in 6 tiles.
    pub(crate) fn small(seed: u64) -> Self {
        Self::draw(seed, &[("rows", 3), ("kv", 2), ("stages", 2), ("warps", 2)], 0.08)
    }

    /// The least true time of a right candidate that fits.
    pub(crate) fn least(&self) -> f64 {
        let right = self.picks.iter().filter(|(pick, (_, kind, _))| *kind == Kind::Right && !self.unfit.contains(pick));
        right.map(|(_, (ms, ..))| *ms).fold(f64::INFINITY, f64::min)
    }

    /// The picks, the fastest first.
    pub(crate) fn fastest(&self) -> Vec<Pick> {
        let mut picks: Vec<_> = self.picks.iter().collect();
        picks.sort_by(|a, b| a.1.0.total_cmp(&b.1.0));
        picks.into_iter().map(|(pick, _)| pick.clone()).collect()
    }
}

/// The text of a pick: what a device knows it by.
fn text(pick: &Pick, version: &str) -> String {
    format!("mma.sync {pick:?} {version}")
}

impl Tunable for Landscape {
    fn space(&self, _: Target) -> Space {
        self.space.clone()
    }

    fn plan(&self, target: Target, pick: &Pick) -> Result<Plan, Error> {
        if self.unfit.contains(pick) {
            return Err(Error::Unsupported(format!("{pick:?} does not fit")));
        }
        let launch = Launch {
            ptx: text(pick, &self.version).into(),
            entry: "attend".to_owned(),
            grid: [1, 1, 1].map(Expr::Const),
            threads: 128,
            shared: 1024,
            registers: 128,
            resident: 4,
            cluster: [1; 3],
            args: Vec::new(),
        };
        let (tensors, scalars, requires) = (Vec::new(), Vec::new(), Vec::new());
        let (name, workspace) = ("drawn".to_owned(), Expr::Const(0));
        Ok(Plan { name, target, tensors, scalars, requires, workspace, launches: vec![launch] })
    }
}

pub(crate) fn lengths() -> Lengths {
    Lengths { tokens: 8192, documents: 1, longest: 8192, heads_kv: 16, overlap: None }
}

impl Subject for Landscape {
    fn kernel(&self) -> &str {
        "drawn"
    }

    fn class(&self) -> Class {
        Class::new([("dk".to_owned(), "128".to_owned())].into(), &Lengths { tokens: self.tokens, ..lengths() })
    }

    fn target(&self) -> Target {
        Target::SM_90
    }

    fn schedules(&self) -> Vec<Schedule<'_>> {
        let first = self.space.picks().into_iter().find(|pick| !self.unfit.contains(pick)).unwrap_or_default();
        vec![Schedule { name: "drawn", tunable: self, first }]
    }

    fn work(&self, _: &str, pick: &Pick, _: &Plan) -> Work {
        let told = self.picks.get(pick).map_or(1.0, |known| known.2);
        Work { l2_bytes: told / 1e3 * Profile::H200.l2, rows_a_warp: 32, ctas: 1056.0, ..Work::default() }
    }
}

/// What a device was asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Call {
    Compile(String),
    Check(String),
    Time(String, u32),
}

/// Seconds of virtual time that each step takes besides what runs.
const COMPILE: f64 = 0.5;
const CHECK: f64 = 0.02;
const FLUSH: f64 = 0.001;

/// A device with a clock of its own, which only its own work moves.
pub(crate) struct Simulated {
    known: BTreeMap<String, (f64, Kind)>,
    state: Mutex<State>,
    compiled: AtomicU64,
    threads: u64,
    /// By how much of a time it gets slower in a second.
    warms: f64,
    /// What takes twice as long the first time that it is timed.
    late: Option<String>,
}

struct State {
    now: f64,
    draw: Draw,
    calls: Vec<Call>,
    gone: bool,
    ready: BTreeMap<String, f64>,
}

impl Simulated {
    pub(crate) fn of(landscape: &Landscape, seed: u64) -> Self {
        let known = landscape.picks.iter().map(|(pick, &(ms, kind, _))| (text(pick, &landscape.version), (ms, kind)));
        let state =
            State { now: 0.0, draw: Draw(seed ^ 0x5eed), calls: Vec::new(), gone: false, ready: BTreeMap::new() };
        Simulated {
            known: known.collect(),
            state: Mutex::new(state),
            compiled: AtomicU64::new(0),
            threads: 16,
            warms: 0.0,
            late: None,
        }
    }

    /// One that gets slower as its clock goes on, by this share of a time in a second.
    pub(crate) fn warming(self, warms: f64) -> Self {
        Simulated { warms, ..self }
    }

    /// One on which a pick takes twice as long the first time that it is timed.
    pub(crate) fn late(self, landscape: &Landscape, pick: &Pick) -> Self {
        Simulated { late: Some(text(pick, &landscape.version)), ..self }
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state.lock().unwrap().calls.clone()
    }

    /// How many candidates were timed.
    pub(crate) fn timed(&self) -> usize {
        let calls = self.calls();
        let times: std::collections::BTreeSet<&String> =
            calls.iter().filter_map(|call| if let Call::Time(text, _) = call { Some(text) } else { None }).collect();
        times.len()
    }

    fn of_plan(&self, plan: &Plan) -> (String, f64, Kind) {
        let text = plan.launches[0].ptx.to_string();
        let (ms, kind) = self.known[&text];
        (text, ms, kind)
    }
}

/// A step that does not end takes all it is given.
fn hang(state: &mut State, left: Duration, limit: Duration) -> Failed {
    state.now += left.as_secs_f64();
    Failed::Invalid(Invalid::Hangs(limit.as_millis() as u64))
}

impl Lab for Simulated {
    fn compile(&self, plan: &Plan) -> Result<Made, Failed> {
        let (text, _, kind) = self.of_plan(plan);
        // As many at a time as there are threads.
        let before = self.compiled.fetch_add(1, Ordering::Relaxed) / self.threads;
        let mut state = self.state.lock().unwrap();
        state.calls.push(Call::Compile(text.clone()));
        state.ready.insert(text, COMPILE * (before + 1) as f64);
        match kind {
            Kind::Refused => Err(Failed::Invalid(Invalid::Refused("no such instruction".to_owned()))),
            Kind::Spills => Err(Failed::Invalid(Invalid::Spills(24))),
            _ => Ok(Made { registers: Some(136) }),
        }
    }

    fn check(&self, plan: &Plan, limit: Duration) -> Result<(), Failed> {
        let (text, _, kind) = self.of_plan(plan);
        let mut state = self.state.lock().unwrap();
        state.calls.push(Call::Check(text.clone()));
        assert!(!state.gone, "nothing runs on a device that is gone");
        let ready = state.ready.get(&text).copied().expect("what is checked has been compiled");
        // Nobody waits longer than the limit, for what is still compiled or for the check.
        let waits = (ready - state.now).clamp(0.0, limit.as_secs_f64());
        state.now += waits;
        let left = limit - Duration::from_secs_f64(waits).min(limit);
        match kind {
            Kind::HangsInCheck => return Err(hang(&mut state, left, limit)),
            Kind::Wrong => return Err(Failed::Invalid(Invalid::Wrong("o is off".to_owned()))),
            Kind::Faults => return Err(Failed::Invalid(Invalid::Faults("an illegal address".to_owned()))),
            Kind::TakesAll => {
                state.gone = true;
                return Err(Failed::Last(Invalid::Faults("the context is lost".to_owned())));
            }
            _ => {}
        }
        if CHECK > left.as_secs_f64() {
            return Err(hang(&mut state, left, limit));
        }
        state.now += CHECK;
        Ok(())
    }

    /// Noise of 1.5%, a slow drift of the clock of 2% either way, and one run in thirty that something else disturbs.
    fn time(&self, plan: &Plan, runs: u32, limit: Duration) -> Result<Vec<f64>, Failed> {
        let (text, ms, kind) = self.of_plan(plan);
        let mut state = self.state.lock().unwrap();
        assert!(state.calls.contains(&Call::Check(text.clone())), "what is timed has been checked");
        let before = state.calls.iter().any(|call| matches!(call, Call::Time(known, _) if *known == text));
        let ms = if self.late.as_ref() == Some(&text) && !before { 2.0 * ms } else { ms };
        state.calls.push(Call::Time(text, runs));
        let takes = f64::from(runs + 1) * (ms / 1e3 + FLUSH);
        if kind == Kind::HangsInTime || takes > limit.as_secs_f64() {
            return Err(hang(&mut state, limit, limit));
        }
        let mut samples = Vec::new();
        for _ in 0..runs {
            let drift = 1.0 + 0.02 * (state.now * 3.0).sin();
            let disturbed = if state.draw.part() < 1.0 / 30.0 { 1.5 } else { 1.0 };
            let noise = state.draw.factor(0.015);
            let warm = 1.0 + self.warms * state.now;
            samples.push(ms * drift * warm * noise * disturbed);
            state.now += ms / 1e3 + FLUSH;
        }
        state.now += ms / 1e3 + FLUSH;
        Ok(samples)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs_f64(self.state.lock().unwrap().now)
    }
}

pub(crate) fn stamp() -> Stamp {
    Stamp {
        gpu: "NVIDIA H200".to_owned(),
        driver: "CUDA 12.8, driver 570.124.06".to_owned(),
        clocks_mhz: Some((1980, 3201)),
        lacuna: "0.1.0".to_owned(),
    }
}

/// Searches on a simulated device.
pub(crate) fn found(landscape: &Landscape, lab: &dyn Lab, records: &Records, options: &Options) -> Found {
    let quiet = &mut |_: Progress<'_>| {};
    search(landscape, lab, (records, &stamp()), &Profile::H200, options, quiet).unwrap()
}

/// Options for landscapes whose device counts its own time.
pub(crate) fn options() -> Options {
    Options { budget: Duration::from_secs(600), threads: 4, ..Options::default() }
}

/// Records under a folder.
pub(crate) fn records(dir: &Path) -> Records {
    Records::at(dir)
}
