//! Records the conformance set: `cargo run --release -p lacuna-tests --bin conformance [FILE]`. It needs a GPU.
//!
//! Cases run in a process of their own, one after the other, which says what the GPU answered to each. After a case that fails,
//! or does not end, the next ones run in another: what a GPU does after a fault says nothing, and a kernel that waits for ever
//! ends with its process. What was answered is written, what was not is said, and is the exit status; and where the emulator
//! answers otherwise.
#![allow(clippy::print_stdout, reason = "a command says what it did")]

use std::{
    error::Error,
    io::{self, Read, Write},
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use lacuna_runtime::Device;
use lacuna_tests::conformance::{Case, Recording, Rule, cases};

/// How the process of the cases is told which one is the first.
const FROM: &str = "--from";

/// How long a case may take, with the start of its process.
const PATIENCE: Duration = Duration::from_secs(15);

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<ExitCode, Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [from, first] if from == FROM => answer(first.parse()?).map(|()| ExitCode::SUCCESS),
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

/// Runs cases from `first` on, up to one that fails, and says what they gave.
fn answer(first: usize) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let mut say = |said: Said| out.write_all(&said.to_bytes()).and_then(|()| out.flush());
    let device = match Device::cuda(0) {
        Ok(device) => device,
        Err(why) => return Ok(say(Said::Failed(format!("recording needs a GPU: {why}")))?),
    };
    let info = device.info();
    say(Said::Device(format!("{}, {}", info.name, info.driver.unwrap_or_default())))?;
    for case in cases().iter().skip(first) {
        match case.run(&device) {
            Ok(words) => say(Said::Words(words))?,
            Err(error) => return Ok(say(Said::Failed(error.to_string()))?),
        }
    }
    Ok(())
}

/// A process of cases, and what it says.
struct Worker {
    child: Child,
    said: Receiver<Said>,
}

impl Worker {
    fn start(first: usize) -> Result<Worker, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args([FROM, &first.to_string()]).stdout(Stdio::piped()).spawn()?;
        let mut out = io::BufReader::new(child.stdout.take().ok_or("a process says nothing")?);
        let (sender, said) = channel();
        std::thread::spawn(move || while Said::read(&mut out).is_ok_and(|said| sender.send(said).is_ok()) {});
        Ok(Worker { child, said })
    }

    /// What it says next.
    fn next(&self) -> Said {
        self.said.recv_timeout(PATIENCE).unwrap_or_else(|why| {
            Said::Failed(match why {
                RecvTimeoutError::Timeout => format!("no answer in {} seconds", PATIENCE.as_secs()),
                RecvTimeoutError::Disconnected => "its process ended".to_owned(),
            })
        })
    }

    fn end(mut self) -> io::Result<()> {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().map(drop)
    }
}

/// Asks for every case, and writes what was answered.
fn record(path: PathBuf) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let cases = cases();
    let mut recording = Recording::default();
    let mut failed = 0;
    let mut next = 0;
    while next < cases.len() {
        let worker = Worker::start(next)?;
        match worker.next() {
            Said::Device(device) => recording.device = device,
            Said::Failed(why) => {
                worker.end()?;
                return Err(why.into());
            }
            Said::Words(_) => return Err("a process begins with its device".into()),
        }
        while next < cases.len() {
            let case = &cases[next];
            next += 1;
            match worker.next() {
                Said::Words(words) => recording.insert(case, words),
                Said::Failed(why) => {
                    failed += 1;
                    println!("{}: {why}", case.name);
                    break;
                }
                Said::Device(_) => return Err("a process has one device".into()),
            }
        }
        worker.end()?;
    }
    let bytes = recording.to_bytes();
    std::fs::write(&path, &bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{}: {} cases, {} bytes, from {}", path.display(), recording.cases.len(), bytes.len(), recording.device);
    let differ = cases.iter().filter(|case| differs(case, &recording)).count();
    println!("{failed} cases failed, the emulator differs in {differ}, in {:.1} s", began.elapsed().as_secs_f64());
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
