//! A device of this process as a lab.
//!
//! What faults on a GPU takes the context with it, and what hangs cannot be ended: either ends the search, with everything
//! measured so far kept. Workers ([`Workers`](super::Workers)) go on.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use lacuna_codegen::plan::Plan;

use super::gate::Gate;
use super::lab::{Failed, Lab, Made};
use super::record::Invalid;
use crate::{BenchOptions, Bindings, CheckError, Device, Error, Result};

/// What plans are run on: the operands of the timed runs, and small ones whose right result is known.
pub trait Operands: Send + Sync + 'static {
    /// Everything that a timed run of the plan is given.
    ///
    /// # Errors
    /// No room on the device.
    fn timed(&self, device: &Device, plan: &Plan) -> Result<Bindings>;

    /// Runs the plan on small drawn inputs; how its result is wrong, where it is.
    ///
    /// # Errors
    /// What the device refuses, and what it finds.
    fn check(&self, device: &Device, plan: &Plan) -> Result<Option<String>>;
}

/// A device of this process, with operands.
pub struct Here {
    device: Device,
    operands: Option<Arc<dyn Operands>>,
    begun: Instant,
    gate: Arc<Gate>,
    /// Why nothing can be done any more.
    gone: Mutex<Option<String>>,
}

impl Here {
    /// From now on.
    pub fn new(device: &Device, operands: Arc<dyn Operands>) -> Self {
        Here { operands: Some(operands), ..Here::compiling(device) }
    }

    /// One that compiles only: there is nothing to run.
    pub fn compiling(device: &Device) -> Self {
        Here {
            device: device.clone(),
            operands: None,
            begun: Instant::now(),
            gate: Arc::default(),
            gone: Mutex::default(),
        }
    }

    /// Does something that may not end, and waits for it no longer than the limit.
    fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        what: impl FnOnce(&Device, &dyn Operands) -> Result<T> + Send + 'static,
    ) -> Result<T, Failed> {
        if let Some(why) = &*self.gone() {
            return Err(Failed::Lost(why.clone()));
        }
        let (done, ended) = mpsc::channel();
        let Some(operands) = self.operands.clone() else {
            return Err(Failed::Lost("there are no operands: plans are only compiled here".to_owned()));
        };
        let device = self.device.clone();
        // It is not joined: one that hangs never ends.
        let (begins, begun) = mpsc::channel();
        let gate = self.gate.clone();
        std::thread::spawn(move || {
            gate.step(|| {
                let _ = begins.send(());
                done.send(what(&device, &*operands))
            })
        });
        // What is being compiled is waited for, and that is not the step's time.
        let _ = begun.recv();
        match ended.recv_timeout(limit) {
            Ok(result) => result.map_err(|error| self.failed(error)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                *self.gone() = Some("a kernel that does not end holds the device".to_owned());
                Err(Failed::Last(Invalid::Hangs(limit.as_millis() as u64)))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                *self.gone() = Some("the thread of a run panicked".to_owned());
                Err(Failed::Last(Invalid::Faults("the thread of the run panicked".to_owned())))
            }
        }
    }

    fn failed(&self, error: Error) -> Failed {
        let what = one_line(&error.to_string());
        match error {
            Error::ContextLost { .. } => {
                *self.gone() = Some(what.clone());
                Failed::Last(Invalid::Faults(what))
            }
            Error::Fault { .. } | Error::Driver { .. } | Error::Memory(_) => Failed::Invalid(Invalid::Faults(what)),
            Error::Check(CheckError::NotWritten { .. } | CheckError::Unwritten { .. }) => {
                Failed::Invalid(Invalid::Wrong(what))
            }
            _ => Failed::Invalid(Invalid::Refused(what)),
        }
    }

    fn gone(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

impl Lab for Here {
    fn compile(&self, plan: &Plan) -> Result<Made, Failed> {
        if let Some(why) = &*self.gone() {
            return Err(Failed::Lost(why.clone()));
        }
        let compiled = self.gate.compiling(|| self.device.compile(plan)).map_err(|error| self.failed(error))?;
        let spilled = compiled.iter().filter_map(|kernel| kernel.resources).map(|uses| uses.local_bytes).max();
        match spilled {
            Some(bytes) if bytes > 0 => Err(Failed::Invalid(Invalid::Spills(bytes))),
            _ => {
                let attends = &plan.attending().entry;
                let kernel = compiled.iter().find(|kernel| kernel.entry == *attends);
                Ok(Made { registers: kernel.and_then(|kernel| kernel.resources).map(|uses| uses.registers) })
            }
        }
    }

    fn check(&self, plan: &Plan, limit: Duration) -> Result<(), Failed> {
        let plan = plan.clone();
        match self.within(limit, move |device, operands| operands.check(device, &plan))? {
            None => Ok(()),
            Some(how) => Err(Failed::Invalid(Invalid::Wrong(how))),
        }
    }

    fn time(&self, plan: &Plan, runs: u32, limit: Duration) -> Result<Vec<f64>, Failed> {
        let plan = plan.clone();
        self.within(limit, move |device, operands| {
            let bindings = operands.timed(device, &plan)?;
            let options = BenchOptions { warmup: 1, reps: runs, flush_l2: true };
            let mut samples = Vec::new();
            // The emulator runs once, whatever it is asked.
            while samples.len() < runs as usize {
                samples.extend(device.bench(&plan, &bindings, &options)?.samples_ms);
            }
            Ok(samples)
        })
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}
