//! Candidates in processes of their own.
//!
//! A worker is this program again, under a command of its own. It is told what to run on, then given plans, as JSON, a line
//! each on its standard input; it answers on its standard output:
//!
//! ```text
//!   tuner                                          worker
//!   {"id":1,"do":"open","setup":{..}}       ──▶    opens the device, draws operands
//!                                           ◀──    {"id":1,"answer":"open"}
//!   {"id":2,"do":"plan","key":"..","plan":{..}}    keeps it
//!   {"id":3,"do":"compile","key":".."}      ──▶    in a thread of its own, so that several compile at once
//!   {"id":4,"do":"time","key":"..","runs":3} ──▶   one after the other
//!                                           ◀──    {"id":4,"answer":{"times":[1.2,1.1,1.2]}}
//! ```
//!
//! One that dies, or that does not answer in time and is killed, costs the candidate that it was running, and nothing else:
//! another one is started, and finds compiled kernels in the cache on disk. While it begins, the budget goes on; it may be
//! passed by that much, where the last candidate of a search ends a worker.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use lacuna_codegen::plan::Plan;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::gate::Gate;
use super::lab::{Failed, Lab, Made};
use super::record::Invalid;
use crate::Key;

/// How long a worker may take to open its device and to draw its operands.
const OPEN: Duration = Duration::from_secs(120);

/// How long a compiler may take for one plan.
const COMPILE: Duration = Duration::from_secs(120);

/// What is asked of a worker.
#[derive(Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Ask {
    Open { setup: Value },
    Plan { key: String, plan: Box<Plan> },
    Compile { key: String },
    Check { key: String },
    Time { key: String, runs: u32 },
}

#[derive(Serialize, Deserialize)]
struct Asked {
    id: u64,
    #[serde(flatten)]
    ask: Ask,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Open,
    /// A step has begun: its time counts from now.
    Begun,
    Made(Made),
    Right,
    Times(Vec<f64>),
    Failed(Failed),
}

#[derive(Serialize, Deserialize)]
struct Answered {
    id: u64,
    answer: Answer,
}

/// Does what a tuner asks for until it asks no more, in a worker's process. `open` makes the lab of a setup.
///
/// The caller ends the process afterwards, whatever still runs.
///
/// # Errors
/// Where input or output fail.
pub fn serve(
    input: impl BufRead,
    output: impl Write + Send + 'static,
    open: impl FnOnce(&Value) -> Result<Arc<dyn Lab + Send>, String>,
) -> std::io::Result<()> {
    let output = Arc::new(Mutex::new(output));
    let answer = move |id: u64, answer: Answer| {
        let mut line = serde_json::to_vec(&Answered { id, answer }).expect("an answer is JSON");
        line.push(b'\n');
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        // Where nobody reads, nobody asks any more either.
        let _ = output.write_all(&line).and_then(|()| output.flush());
    };
    let answer = Arc::new(answer);
    let mut open = Some(open);
    let mut lab: Option<Arc<dyn Lab + Send>> = None;
    let mut plans: HashMap<String, Arc<Plan>> = HashMap::new();
    let gate = Arc::new(Gate::default());
    // What runs on the device runs one after the other.
    let (device, steps) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
    std::thread::spawn(move || steps.into_iter().for_each(|step| step()));
    for line in input.lines() {
        let line = line?;
        let Ok(Asked { id, ask }) = serde_json::from_str::<Asked>(&line) else { continue };
        let key = match ask {
            Ask::Open { setup } => {
                answer(
                    id,
                    match open.take().map(|open| open(&setup)) {
                        Some(Ok(opened)) => {
                            lab = Some(opened);
                            Answer::Open
                        }
                        Some(Err(why)) => Answer::Failed(Failed::Lost(why)),
                        None => Answer::Failed(Failed::Lost("it is open already".to_owned())),
                    },
                );
                continue;
            }
            Ask::Plan { key, plan } => {
                plans.insert(key, Arc::from(plan));
                continue;
            }
            Ask::Compile { ref key } | Ask::Check { ref key } | Ask::Time { ref key, .. } => key.clone(),
        };
        let (Some(lab), Some(plan)) = (lab.clone(), plans.get(&key).cloned()) else {
            answer(id, Answer::Failed(Failed::Lost("a plan was asked for that was never given".to_owned())));
            continue;
        };
        let answer = answer.clone();
        match ask {
            Ask::Compile { .. } => {
                let gate = gate.clone();
                std::thread::spawn(move || {
                    let made = gate.compiling(|| lab.compile(&plan));
                    answer(id, made.map_or_else(Answer::Failed, Answer::Made));
                });
            }
            Ask::Check { .. } => {
                // The tuner keeps the time, from here on.
                let gate = gate.clone();
                let step = move || {
                    gate.step(|| {
                        answer(id, Answer::Begun);
                        answer(id, lab.check(&plan, FOREVER).map_or_else(Answer::Failed, |()| Answer::Right));
                    });
                };
                let _ = device.send(Box::new(step));
            }
            Ask::Time { runs, .. } => {
                let gate = gate.clone();
                let step = move || {
                    gate.step(|| {
                        answer(id, Answer::Begun);
                        answer(id, lab.time(&plan, runs, FOREVER).map_or_else(Answer::Failed, Answer::Times));
                    });
                };
                let _ = device.send(Box::new(step));
            }
            Ask::Open { .. } | Ask::Plan { .. } => unreachable!("these have been answered"),
        }
    }
    Ok(())
}

/// The limit of a worker's own steps: its tuner has another one, and kills it.
const FOREVER: Duration = Duration::from_secs(1 << 20);

/// Workers as a lab: one at a time, and another one where it dies. A driver compiles one text of a process after the other, so
/// there can be more that compile, and leave what they made where drivers and devices keep it.
pub struct Workers {
    command: Box<dyn Fn() -> Command + Send + Sync>,
    main: Seat,
    compilers: Vec<(Mutex<()>, Seat)>,
    begun: Instant,
    stopped: AtomicBool,
    started: AtomicU64,
}

/// Where a worker is, if one was needed.
struct Seat {
    setup: Value,
    worker: Mutex<Option<Arc<Worker>>>,
}

impl Seat {
    fn new(setup: Value) -> Self {
        Seat { setup, worker: Mutex::default() }
    }
}

/// A worker's process.
struct Worker {
    child: Mutex<Child>,
    input: Mutex<ChildStdin>,
    /// Plans that it has.
    has: Mutex<HashSet<String>>,
    /// Whether it has begun; nothing, where nobody asked it to.
    opened: Mutex<Option<Result<(), Failed>>>,
    next: AtomicU64,
    /// Who waits for which answer; none once it has died.
    waiting: Arc<Mutex<Option<Waiting>>>,
    /// Whether it was ended from here: what else it did is not at fault.
    killed: AtomicBool,
}

/// Who waits for the answer of that number.
type Waiting = HashMap<u64, mpsc::Sender<Answer>>;

/// Why there is no answer.
enum Silence {
    Died,
    TooLong,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workers {
    /// Workers that `command` starts, each told `setup`. None is started yet.
    pub fn new(command: impl Fn() -> Command + Send + Sync + 'static, setup: Value) -> Self {
        let (main, compilers, begun) = (Seat::new(setup), Vec::new(), Instant::now());
        let (stopped, started) = (AtomicBool::new(false), AtomicU64::new(0));
        Workers { command: Box::new(command), main, compilers, begun, stopped, started }
    }

    /// The same with so many more that compile and do nothing else, each told `setup`.
    #[must_use]
    pub fn with_compilers(mut self, count: usize, setup: &Value) -> Self {
        self.compilers = (0..count).map(|_| (Mutex::default(), Seat::new(setup.clone()))).collect();
        self
    }

    /// How many were started.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// The process of the one that checks and times, if it runs.
    pub fn process(&self) -> Option<u32> {
        lock(&self.main.worker).as_ref().map(|worker| lock(&worker.child).id())
    }

    /// The worker that runs, or another one, once it has begun.
    fn worker(&self, seat: &Seat) -> Result<Arc<Worker>, Failed> {
        let worker = {
            let mut current = lock(&seat.worker);
            if self.stopped.load(Ordering::Relaxed) {
                return Err(ended());
            }
            match current.as_ref().filter(|worker| worker.is_alive()) {
                Some(worker) => worker.clone(),
                None => {
                    let refused = |error| Failed::Lost(format!("a worker process cannot be started: {error}"));
                    let worker = Arc::new(Worker::start((self.command)()).map_err(refused)?);
                    self.started.fetch_add(1, Ordering::Relaxed);
                    *current = Some(worker.clone());
                    worker
                }
            }
        };
        // Nobody but those who need it waits for it to begin: a search can be stopped meanwhile.
        let mut opened = lock(&worker.opened);
        if opened.is_none() {
            *opened = Some(self.open(&worker, &seat.setup));
        }
        let begun = opened.clone().unwrap_or(Ok(()));
        drop(opened);
        begun.map(|()| worker)
    }

    fn open(&self, worker: &Worker, setup: &Value) -> Result<(), Failed> {
        match worker.ask(Ask::Open { setup: setup.clone() }, OPEN) {
            Ok(Answer::Open) => Ok(()),
            Ok(Answer::Failed(Failed::Lost(why))) => Err(Failed::Lost(why)),
            Ok(_) => Err(Failed::Lost("a worker process says what was not asked".to_owned())),
            Err(_) if self.stopped.load(Ordering::Relaxed) => Err(ended()),
            Err(Silence::Died) => {
                Err(Failed::Lost(format!("a worker process {} before it began", worker.how_it_ended())))
            }
            Err(Silence::TooLong) => {
                worker.kill();
                Err(Failed::Lost(format!("a worker process does not begin within {} s", OPEN.as_secs())))
            }
        }
    }

    fn ask(&self, seat: &Seat, plan: &Plan, ask: impl Fn(String) -> Ask, limit: Duration) -> Result<Answer, Failed> {
        let worker = self.worker(seat)?;
        let text = serde_json::to_string(plan).expect("a plan is JSON");
        let key = Key::of(&[text.as_bytes()]).hex();
        {
            // Held until it is told: two picks may have one plan, and neither may ask of it before.
            let mut has = lock(&worker.has);
            if has.insert(key.clone()) {
                worker.tell(0, &Ask::Plan { key: key.clone(), plan: Box::new(plan.clone()) });
            }
        }
        match worker.ask(ask(key), limit) {
            // The device is the worker's: with another worker there is another context.
            Ok(Answer::Failed(Failed::Last(why))) => {
                worker.kill();
                Err(Failed::Invalid(why))
            }
            Ok(Answer::Failed(failed)) => Err(failed),
            Ok(answer) => Ok(answer),
            Err(Silence::TooLong) => {
                worker.kill();
                Err(Failed::Invalid(Invalid::Hangs(limit.as_millis() as u64)))
            }
            Err(Silence::Died) if self.stopped.load(Ordering::Relaxed) => Err(ended()),
            Err(Silence::Died) if worker.killed.load(Ordering::SeqCst) => self.ask(seat, plan, ask, limit),
            Err(Silence::Died) => {
                Err(Failed::Invalid(Invalid::Faults(format!("its worker process {}", worker.how_it_ended()))))
            }
        }
    }
}

impl Lab for Workers {
    fn compile(&self, plan: &Plan) -> Result<Made, Failed> {
        let free = || self.compilers.iter().find_map(|(used, seat)| Some((used.try_lock().ok()?, seat)));
        let (_used, seat) = match self.compilers.first() {
            None => (None, &self.main),
            // Where all are busy, it is one's turn next.
            Some((used, seat)) => free().map_or_else(|| (Some(lock(used)), seat), |(used, seat)| (Some(used), seat)),
        };
        let mut died = 0;
        loop {
            // Who dies while this compiles, dies of what it runs beside it; who does so three times, does not.
            match self.ask(seat, plan, |key| Ask::Compile { key }, COMPILE) {
                Ok(Answer::Made(made)) => return Ok(made),
                Ok(other) => return Err(unasked(&other)),
                Err(Failed::Invalid(Invalid::Faults(_))) if died < 2 => died += 1,
                Err(failed) => return Err(failed),
            }
        }
    }

    fn check(&self, plan: &Plan, limit: Duration) -> Result<(), Failed> {
        match self.ask(&self.main, plan, |key| Ask::Check { key }, limit)? {
            Answer::Right => Ok(()),
            other => Err(unasked(&other)),
        }
    }

    fn time(&self, plan: &Plan, runs: u32, limit: Duration) -> Result<Vec<f64>, Failed> {
        match self.ask(&self.main, plan, |key| Ask::Time { key, runs }, limit)? {
            Answer::Times(times) if !times.is_empty() => Ok(times),
            other => Err(unasked(&other)),
        }
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        for seat in self.compilers.iter().map(|(_, seat)| seat).chain([&self.main]) {
            if let Some(worker) = lock(&seat.worker).take() {
                worker.kill();
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

fn ended() -> Failed {
    Failed::Lost("the search has ended".to_owned())
}

fn unasked(answer: &Answer) -> Failed {
    Failed::Lost(format!("a worker process answers what was not asked: {answer:?}"))
}

impl Worker {
    fn start(mut command: Command) -> std::io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        };
        let waiting = Arc::new(Mutex::new(Some(Waiting::new())));
        let told = waiting.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // What is no answer, a library has printed.
                let Ok(Answered { id, answer }) = serde_json::from_str(&line) else { continue };
                let mut told = lock(&told);
                let Some(all) = told.as_mut() else { continue };
                let waits = if matches!(answer, Answer::Begun) { all.get(&id).cloned() } else { all.remove(&id) };
                if let Some(waits) = waits {
                    let _ = waits.send(answer);
                }
            }
            // It has died: nobody waits any longer.
            *lock(&told) = None;
        });
        let (child, input, killed) = (Mutex::new(child), Mutex::new(input), AtomicBool::new(false));
        Ok(Worker {
            child,
            input,
            has: Mutex::default(),
            opened: Mutex::default(),
            next: AtomicU64::new(1),
            waiting,
            killed,
        })
    }

    fn is_alive(&self) -> bool {
        lock(&self.waiting).is_some()
    }

    fn tell(&self, id: u64, ask: &Ask) {
        #[derive(Serialize)]
        struct Asks<'a> {
            id: u64,
            #[serde(flatten)]
            ask: &'a Ask,
        }
        let mut line = serde_json::to_vec(&Asks { id, ask }).expect("what is asked is JSON");
        line.push(b'\n');
        // One that has died does not read; its reader says so.
        let _ = lock(&self.input).write_all(&line);
    }

    fn ask(&self, ask: Ask, limit: Duration) -> Result<Answer, Silence> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answers, answer) = mpsc::channel();
        match lock(&self.waiting).as_mut() {
            Some(all) => all.insert(id, answers),
            None => return Err(Silence::Died),
        };
        self.tell(id, &ask);
        let within = |limit| {
            answer.recv_timeout(limit).map_err(|error| match error {
                mpsc::RecvTimeoutError::Timeout => Silence::TooLong,
                mpsc::RecvTimeoutError::Disconnected => Silence::Died,
            })
        };
        // A step waits for what is being compiled, and that is not its time.
        let is_step = matches!(ask, Ask::Check { .. } | Ask::Time { .. });
        match within(if is_step { COMPILE } else { limit })? {
            Answer::Begun => within(limit),
            answer => Ok(answer),
        }
    }

    fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        *lock(&self.waiting) = None;
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// `ended with signal: 9 (SIGKILL)`.
    fn how_it_ended(&self) -> String {
        let mut child = lock(&self.child);
        let _ = child.kill();
        child.wait().map_or_else(|error| format!("was lost: {error}"), |status| format!("ended with {status}"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}
