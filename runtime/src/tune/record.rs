//! What was measured, one line each.

use std::time::{Duration, SystemTime};

use lacuna_codegen::plan::{Pick, Plan};
use serde::{Deserialize, Serialize};

use super::stats::Interval;
use crate::{DeviceInfo, Key};

/// One (shape class, pick), as a line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The shape class, as [`Class`](super::Class) prints it.
    pub class: String,
    /// The schedule.
    pub schedule: String,
    /// Its pick.
    pub pick: Pick,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What the static model expected, in milliseconds.
    pub predicted_ms: f64,
    /// Registers of a thread of the launch that attends: the compiler's estimate, and the driver's word.
    pub registers: Option<(u32, u32)>,
    /// [`text_hash`] of the plan.
    pub ptx: String,
    /// Where and when.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// Seconds since 1970.
    pub at: u64,
}

/// What came of a candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// How long it takes.
    Time(Time),
    /// Why it is no candidate.
    Invalid(Invalid),
}

/// How long a candidate takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// The median of the repetitions.
    pub median_ms: f64,
    /// The ends of its interval.
    pub low_ms: f64,
    /// The other one.
    pub high_ms: f64,
    /// In which share of cases the true median lies between them.
    pub confidence: f64,
    /// How many there were.
    pub repetitions: u32,
}

impl Time {
    /// Of samples in milliseconds, to the nanosecond.
    ///
    /// # Panics
    /// If there is no sample.
    pub fn of(samples: &[f64]) -> Self {
        let Interval { median, low, high, confidence } = Interval::of(samples);
        let [median_ms, low_ms, high_ms] = [median, low, high].map(nanoseconds);
        let confidence = (confidence * 1e4).round() / 1e4;
        Time { median_ms, low_ms, high_ms, confidence, repetitions: samples.len() as u32 }
    }

    /// Half the interval over the median.
    pub fn error(&self) -> f64 {
        if self.median_ms > 0.0 { (self.high_ms - self.low_ms) / 2.0 / self.median_ms } else { 0.0 }
    }

    /// Whether it is as sure as intervals are meant to be, and as narrow as `error` says.
    pub fn is_within(&self, error: f64) -> bool {
        self.confidence >= super::stats::CONFIDENCE - 1e-4 && self.error() <= error
    }
}

/// Milliseconds to the nanosecond: what a line of text holds.
pub(super) fn nanoseconds(ms: f64) -> f64 {
    (ms * 1e6).round() / 1e6
}

/// Why a candidate cannot win, whatever its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "why", content = "what", rename_all = "lowercase")]
pub enum Invalid {
    /// The driver does not take its text, or its launch.
    #[error("refused: {0}")]
    Refused(String),
    /// Registers go to memory: so many bytes of a thread.
    #[error("spills {0} bytes a thread")]
    Spills(u32),
    /// Its result is not that of the reference.
    #[error("wrong: {0}")]
    Wrong(String),
    /// It did what the hardware or the emulator does not allow.
    #[error("faults: {0}")]
    Faults(String),
    /// It did not end within so many milliseconds.
    #[error("hangs: no end after {0} ms")]
    Hangs(u64),
}

/// On what, and by what, something was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The GPU, as its driver calls it.
    pub gpu: String,
    /// The driver.
    pub driver: String,
    /// What the driver rates the clocks of multiprocessors and of memory at, in MHz.
    pub clocks_mhz: Option<(u32, u32)>,
    /// lacuna's version.
    pub lacuna: String,
}

/// Why a record says nothing any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// Another GPU.
    #[error("it is of another GPU, {0}")]
    Gpu(String),
    /// Another major version of the driver, whose compiler makes other code.
    #[error("it is of another driver, {0}")]
    Driver(String),
    /// Another text.
    #[error("the pick's PTX is another one now")]
    Text,
}

impl Stamp {
    /// Of what is measured on a device from here on.
    pub fn of(info: &DeviceInfo) -> Self {
        let lacuna = env!("CARGO_PKG_VERSION").to_owned();
        let driver = info.driver.clone().unwrap_or_else(|| "none".to_owned());
        Stamp { gpu: info.name.clone(), driver, clocks_mhz: info.clocks_mhz, lacuna }
    }

    /// What decides of the driver: `570` of `CUDA 12.8, driver 570.124.06`; its CUDA version where nothing else is known.
    fn driver_major(&self) -> &str {
        match self.driver.split_once("driver ") {
            Some((_, build)) => build.split('.').next().unwrap_or(build),
            None => &self.driver,
        }
    }
}

impl Record {
    /// The time, where it is valid.
    pub fn time(&self) -> Option<&Time> {
        match &self.outcome {
            Outcome::Time(time) => Some(time),
            Outcome::Invalid(_) => None,
        }
    }

    /// Whether it holds here and now, for a plan whose text has this hash.
    ///
    /// # Errors
    /// Why it does not. It is refused then: no part of it is approximated.
    pub fn fresh(&self, stamp: &Stamp, text: &str) -> Result<(), Stale> {
        if self.stamp.gpu != stamp.gpu {
            return Err(Stale::Gpu(self.stamp.gpu.clone()));
        }
        if self.stamp.driver_major() != stamp.driver_major() {
            return Err(Stale::Driver(self.stamp.driver.clone()));
        }
        if self.ptx != text { Err(Stale::Text) } else { Ok(()) }
    }

    /// Whether it is of the same class and pick as another one.
    pub fn same(&self, other: &Record) -> bool {
        (&self.class, &self.schedule, &self.pick) == (&other.class, &other.schedule, &other.pick)
    }
}

/// BLAKE3 of everything that the machine runs of a plan: the text but for its comments, entry, threads, shared memory and
/// cluster of its launches, each once. A launch that comes again, for another chunk of the work, is the same code.
pub fn text_hash(plan: &Plan) -> String {
    let mut parts: Vec<[Vec<u8>; 3]> = Vec::new();
    for launch in &plan.launches {
        let [x, y, z] = launch.cluster;
        let sizes = [launch.threads, launch.shared, x, y, z].iter().flat_map(|n| n.to_le_bytes()).collect();
        let instructions = launch.ptx.lines().filter(|line| !line.trim_start().starts_with("//"));
        let text = instructions.flat_map(|line| [line, "\n"]).collect::<String>().into_bytes();
        let part = [text, launch.entry.as_bytes().to_vec(), sizes];
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    Key::of(&parts.iter().flatten().map(Vec::as_slice).collect::<Vec<_>>()).hex()
}

/// Now, in seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// `rows=64,stages=2`.
pub fn pick_text(pick: &Pick) -> String {
    pick.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lacuna_codegen::plan::{Expr, Launch};
    use lacuna_ptx::Target;

    #[test]
    fn a_comment_is_no_other_text() {
        let of = |ptx: &str| {
            let launch = Launch {
                ptx: ptx.into(),
                entry: "attend".to_owned(),
                grid: [1, 1, 1].map(Expr::Const),
                threads: 128,
                shared: 0,
                registers: 1,
                resident: 1,
                cluster: [1; 3],
                args: Vec::new(),
            };
            let (tensors, scalars, requires) = (Vec::new(), Vec::new(), Vec::new());
            let (name, workspace) = ("test".to_owned(), Expr::Const(0));
            text_hash(&Plan {
                name,
                target: Target::SM_90,
                tensors,
                scalars,
                requires,
                workspace,
                launches: vec![launch],
            })
        };
        assert_eq!(of("  // from one.rs:1:2 loop\n  ret;\n"), of("  // from one.rs:9:2 loop\n  ret;\n"));
        assert_ne!(of("  // from one.rs:1:2 loop\n  ret;\n"), of("  // from one.rs:1:2 loop\n  exit;\n"));
        assert_ne!(of("a\nbc\n"), of("ab\nc\n"));
    }
}
