//! Records the conformance set: `cargo run --release -p lacuna-tests --bin conformance [FILE]`. It needs a GPU.
//!
//! Cases run in a process of their own, one after the other, which says what the GPU answered to each. After a case that fails,
//! or does not end, the next ones run in another: what a GPU does after a fault says nothing, and a kernel that waits for ever
//! ends with its process. A kind of case of a row of the instruction table that has lost two of them is not asked for any further. What was answered
//! is written whenever a process ends; what was not is said, and is the exit status; and where the emulator answers otherwise.
#![allow(clippy::print_stdout, reason = "a command says what it did")]

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use lacuna_runtime::Device;
use lacuna_tests::conformance::{Case, Recording, Rule, cases};

/// How the process of the cases is told which one is the first.
const FROM: &str = "--from";

/// How long a process may take to start, and a case.
const START: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(5);

/// How long all of them may take: the cases of a process that would start later are not asked.
const ALL: Duration = Duration::from_secs(40);

/// Processes that the cases of a kind may cost.
const LOSSES: usize = 2;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<ExitCode, Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [from, first, lost] if from == FROM => answer(first.parse()?, lost).map(|()| ExitCode::SUCCESS),
        [] => record(Recording::path()),
        [file] => record(PathBuf::from(file)),
        _ => Err("expected at most a file".into()),
    }
}

/// What a process says: of which device it is, and of its cases one after the other.
enum Said {
    Device(String),
    Words(Vec<u32>),
    Failed(String),
}

impl Said {
    fn to_bytes(&self) -> Vec<u8> {
        let (kind, bytes) = match self {
            Said::Device(text) => (0, text.clone().into_bytes()),
            Said::Words(words) => (1, words.iter().flat_map(|word| word.to_le_bytes()).collect()),
            Said::Failed(text) => (2, text.clone().into_bytes()),
        };
        let length = bytes.len() as u32;
        [&[kind][..], &length.to_le_bytes(), &bytes].concat()
    }

    fn read(from: &mut impl Read) -> io::Result<Said> {
        let (mut kind, mut length) = ([0], [0; 4]);
        from.read_exact(&mut kind)?;
        from.read_exact(&mut length)?;
        let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
        from.read_exact(&mut bytes)?;
        let text = || String::from_utf8_lossy(&bytes).into_owned();
        Ok(match kind {
            [0] => Said::Device(text()),
            [1] => Said::Words(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            _ => Said::Failed(text()),
        })
    }
}

/// Runs cases from `first` on, but those of rows that are `lost`, up to one that fails, and says what they gave.
fn answer(first: usize, lost: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let mut say = |said: Said| out.write_all(&said.to_bytes()).and_then(|()| out.flush());
    let device = match Device::cuda(0) {
        Ok(device) => device,
        Err(why) => return Ok(say(Said::Failed(format!("recording needs a GPU: {why}")))?),
    };
    let info = device.info();
    say(Said::Device(format!("{}, {}", info.name, info.driver.unwrap_or_default())))?;
    for case in cases().iter().skip(first).filter(|case| !lost.split(',').any(|row| row == row_of(case))) {
        match case.run(&device) {
            Ok(words) => say(Said::Words(words))?,
            Err(error) => return Ok(say(Said::Failed(error.to_string()))?),
        }
    }
    Ok(())
}

/// The row of the instruction table that a case is of, and of what kind it is there: the last words of its name.
fn row_of(case: &Case) -> String {
    let mut words = case.name.rsplit(' ').take(2);
    let [last, before] = [(); 2].map(|()| words.next().filter(|word| !word.contains('.')).unwrap_or_default());
    format!("{:?} {before} {last}", case.form.op())
}

/// A process of cases, and what it says.
struct Worker {
    child: Child,
    said: Receiver<Said>,
}

impl Worker {
    fn start(first: usize, lost: &str) -> Result<Worker, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args([FROM, &first.to_string(), lost]).stdout(Stdio::piped()).spawn()?;
        let mut out = io::BufReader::new(child.stdout.take().ok_or("a process says nothing")?);
        let (sender, said) = channel();
        std::thread::spawn(move || while Said::read(&mut out).is_ok_and(|said| sender.send(said).is_ok()) {});
        Ok(Worker { child, said })
    }

    /// What it says next.
    fn next(&self, patience: Duration) -> Said {
        self.said.recv_timeout(patience).unwrap_or_else(|why| {
            Said::Failed(match why {
                RecvTimeoutError::Timeout => format!("no answer in {} seconds", patience.as_secs()),
                RecvTimeoutError::Disconnected => "its process ended".to_owned(),
            })
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Which cases of one process were answered.
struct Asked {
    /// The case after the last one.
    next: usize,
    /// The row of the last one, where it failed.
    lost: Option<String>,
}

/// Asks a process for the cases from `first` on.
fn ask(cases: &[Case], first: usize, lost: &str, recording: &mut Recording) -> Result<Asked, Failure> {
    let worker = Worker::start(first, lost)?;
    match worker.next(START) {
        Said::Device(device) => recording.device = device,
        Said::Failed(why) => return Err(why.into()),
        Said::Words(_) => return Err("a process begins with its device".into()),
    }
    let asked = cases.iter().enumerate().skip(first);
    for (at, case) in asked.filter(|(_, case)| !lost.split(',').any(|row| row == row_of(case))) {
        match worker.next(PATIENCE) {
            Said::Words(words) => recording.insert(case, words),
            Said::Failed(why) => {
                println!("{}: {why}", case.name);
                return Ok(Asked { next: at + 1, lost: Some(row_of(case)) });
            }
            Said::Device(_) => return Err("a process has one device".into()),
        }
    }
    Ok(Asked { next: cases.len(), lost: None })
}

fn write(recording: &Recording, path: &Path) -> Result<usize, Failure> {
    let bytes = recording.to_bytes();
    std::fs::write(path, &bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(bytes.len())
}

/// Asks for every case, and writes what was answered.
fn record(path: PathBuf) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let cases = cases();
    let mut recording = Recording::default();
    let mut losses: BTreeMap<String, usize> = BTreeMap::new();
    let mut next = 0;
    while next < cases.len() && began.elapsed() < ALL {
        let lost: Vec<&str> = losses.iter().filter(|(_, n)| **n >= LOSSES).map(|(row, _)| row.as_str()).collect();
        let asked = ask(&cases, next, &lost.join(","), &mut recording)?;
        next = asked.next;
        asked.lost.into_iter().for_each(|row| *losses.entry(row).or_default() += 1);
        write(&recording, &path)?;
    }
    let bytes = write(&recording, &path)?;
    println!("{}: {} cases, {bytes} bytes, from {}", path.display(), recording.cases.len(), recording.device);
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    for case in cases.iter().filter(|case| !recording.cases.contains_key(&case.name)) {
        *missing.entry(row_of(case)).or_default() += 1;
    }
    let differ = cases.iter().filter(|case| differs(case, &recording)).count();
    let failed: usize = missing.values().sum();
    println!("{failed} cases have no answer: {missing:?}");
    println!("the emulator differs in {differ}, in {:.1} s", began.elapsed().as_secs_f64());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the emulator's answer is another, which it says.
fn differs(case: &Case, recording: &Recording) -> bool {
    let Some(recorded) = recording.cases.get(&case.name) else { return false };
    match case.run(&Device::emulator()) {
        Ok(found) => {
            let (wrong, [theirs, ours]) = case.rule.compare(case, &recorded.words, &found);
            if case.rule == Rule::Products {
                println!("{}: from the truth the GPU is {theirs:.3}, the emulator {ours:.3}", case.name);
            }
            if !wrong.is_empty() {
                print!("{}", case.report(&wrong));
            }
            !wrong.is_empty()
        }
        Err(error) => {
            println!("{}: on the emulator: {error}", case.name);
            true
        }
    }
}
