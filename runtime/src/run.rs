//! Running a plan: compile, check, launch, time.

use std::{sync::Arc, time::Instant};

use lacuna_codegen::plan::{Access, Plan};
use lacuna_emulator::Stats;

use crate::{
    Bindings, CheckError, Device, Error, Result,
    bind::{BindError, Expected, Limits, Places, Resolved, check_signature, resolve},
    buffer::Buffer,
    check,
    cuda::{self, Events, Gpu},
    device::Inner,
    emulated::{Emulated, Loaded},
};

/// What a run did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Milliseconds from the first launch to the end of the last: by CUDA events on a GPU, by the host's clock on the
    /// emulator.
    pub millis: f64,
    /// How many kernels were launched. A grid without CTAs launches nothing.
    pub launches: usize,
    /// What the emulator counted, one item a launch; empty on a GPU.
    pub stats: Vec<Stats>,
}

impl Report {
    /// What the emulator counted over all launches; `None` where it counted nothing.
    pub fn total(&self) -> Option<Stats> {
        let mut total = self.stats.first()?.clone();
        for stats in &self.stats[1..] {
            total.warp_instructions += stats.warp_instructions;
            total.ctas += stats.ctas;
            total.shared_bytes += stats.shared_bytes;
            total.global_bytes += stats.global_bytes;
            total.bank_conflicts += stats.bank_conflicts;
            for &(op, count) in &stats.by_op {
                match total.by_op.iter_mut().find(|(known, _)| *known == op) {
                    Some((_, sum)) => *sum += count,
                    None => total.by_op.push((op, count)),
                }
            }
        }
        total.by_op.sort_unstable();
        Some(total)
    }
}

/// What a compiled kernel uses, as the driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of local memory a thread: the stack, and with it every spilled register. 0 means no spills.
    pub local_bytes: u32,
    /// Bytes of shared memory of a fixed size a CTA.
    pub static_shared: u32,
    /// The most threads a CTA with which it can run.
    pub max_threads: u32,
}

/// A kernel of a plan, compiled and loaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Compiled {
    /// Its entry.
    pub entry: String,
    /// What it uses; `None` on the emulator, which runs the text as it is.
    pub resources: Option<Resources>,
    /// CTAs of its launch that a multiprocessor holds at a time, as the driver says; `None` on the emulator.
    pub ctas: Option<u32>,
    /// What the PTX compiler said, warnings included.
    pub log: String,
    /// Whether its machine code came from the cache on disk.
    pub cached: bool,
    /// Milliseconds that compiling and loading its module took, when it was first loaded in this process.
    pub millis: f64,
}

/// How to time a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BenchOptions {
    /// Runs before the first timed one.
    pub warmup: u32,
    /// Timed runs, at least one.
    pub reps: u32,
    /// Whether to overwrite the L2 cache before each timed run. Without it the time of a short plan is mostly that of
    /// launching it.
    pub flush_l2: bool,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self { warmup: 10, reps: 50, flush_l2: true }
    }
}

/// How long a plan takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// The middle of the samples, or the mean of the two in the middle.
    pub median_ms: f64,
    /// The least.
    pub min_ms: f64,
    /// The greatest.
    pub max_ms: f64,
    /// How many there are.
    pub reps: u32,
    /// Milliseconds of each timed run, in order.
    pub samples_ms: Vec<f64>,
}

impl Timing {
    /// Of at least one sample.
    fn of(samples_ms: Vec<f64>) -> Self {
        let mut sorted = samples_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len() - 1;
        let median_ms = (sorted[last / 2] + sorted[last.div_ceil(2)]) / 2.0;
        let (min_ms, max_ms) = (sorted[0], sorted[last]);
        Self { median_ms, min_ms, max_ms, reps: samples_ms.len() as u32, samples_ms }
    }

    /// How far the samples lie apart: half the distance between the quartiles, over the median; 0 where that is 0.
    pub fn spread(&self) -> f64 {
        let mut sorted = self.samples_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        match self.median_ms {
            0.0 => 0.0,
            median => (sorted[last - last / 4] - sorted[last / 4]) / 2.0 / median,
        }
    }
}

/// A plan that is checked, compiled and loaded, for one device.
enum Ready<'a> {
    Cuda(&'a Arc<Gpu>, Arc<cuda::Stream>, Vec<Arc<cuda::Module>>),
    Emulator(&'a Emulated, Vec<Arc<Loaded>>),
}

impl Device {
    /// Runs a plan and waits for its end.
    ///
    /// Everything is checked before anything is launched. A plan's PTX is trusted: on a GPU, text that writes past its
    /// tensors does so (the emulator stops it).
    ///
    /// # Errors
    /// [`Error::Bind`] where the bindings do not fit the plan; [`Error::Target`], [`Error::PtxVersion`] and
    /// [`Error::Jit`] where its PTX cannot run here; [`Error::Fault`] and [`Error::ContextLost`] where it went wrong while
    /// running; [`Error::Check`] from checked mode.
    pub fn run(&self, plan: &Plan, bindings: &Bindings) -> Result<Report> {
        let resolved = resolve(self, plan, bindings)?;
        let ready = self.ready(&resolved, bindings)?;
        if bindings.checked {
            before(plan, bindings)?;
        }
        let report = match &ready {
            Ready::Cuda(_, stream, modules) => {
                let events = Events::new(stream, 2)?;
                let launches = launch(stream, modules, &resolved, bindings.checked, Some(&events))?;
                stream.synchronize()?;
                Report { millis: events.elapsed_ms(0, 1)?, launches, stats: Vec::new() }
            }
            Ready::Emulator(emulated, programs) => emulate(self, emulated, programs, &resolved)?.0,
        };
        if bindings.checked {
            after(plan, bindings)?;
        }
        Ok(report)
    }

    /// Enqueues a plan on its stream and does not wait; errors of the launches surface at the next call that waits. The
    /// emulator runs it at once.
    ///
    /// Tensors may be dropped meanwhile: their memory is freed after the launches. Memory of another library must stay
    /// allocated until they are done.
    ///
    /// # Errors
    /// Those of [`Device::run`] that are known before the launches run; [`BindError::CheckedEnqueue`] for bindings in
    /// checked mode.
    pub fn enqueue(&self, plan: &Plan, bindings: &Bindings) -> Result<()> {
        if bindings.checked {
            let source = Box::new(BindError::CheckedEnqueue);
            return Err(Error::Bind { plan: plan.name.clone(), source });
        }
        let resolved = resolve(self, plan, bindings)?;
        match self.ready(&resolved, bindings)? {
            Ready::Cuda(_, stream, modules) => launch(&stream, &modules, &resolved, false, None).map(|_| ()),
            Ready::Emulator(emulated, programs) => emulate(self, emulated, &programs, &resolved).map(|_| ()),
        }
    }

    /// Times a plan: warm-up, then CUDA events around each run, with the L2 cache overwritten before it. On the emulator,
    /// one run by the host's clock.
    ///
    /// # Errors
    /// Those of [`Device::run`]. Checked mode is not applied.
    pub fn bench(&self, plan: &Plan, bindings: &Bindings, options: &BenchOptions) -> Result<Timing> {
        let mut whole = self.timed(plan, bindings, options, false)?;
        Ok(whole.remove(0))
    }

    /// Times each launch of a plan, in their order: as [`Device::bench`] times the whole, with an event between every two
    /// launches. The events keep a launch from beginning while the one before it ends, so that the sum is a little more than
    /// the time of the whole. A launch without CTAs takes no time.
    ///
    /// # Errors
    /// Those of [`Device::run`]. Checked mode is not applied.
    pub fn bench_launches(&self, plan: &Plan, bindings: &Bindings, options: &BenchOptions) -> Result<Vec<Timing>> {
        self.timed(plan, bindings, options, true)
    }

    /// The times of a whole plan, as one, or of each of its launches.
    fn timed(&self, plan: &Plan, bindings: &Bindings, options: &BenchOptions, each: bool) -> Result<Vec<Timing>> {
        let resolved = resolve(self, plan, bindings)?;
        let spans = if each { resolved.steps.len() } else { 1 };
        let mut samples = vec![Vec::new(); spans];
        match self.ready(&resolved, bindings)? {
            Ready::Cuda(gpu, stream, modules) => {
                let flush = match options.flush_l2 {
                    // Twice the cache, and at least 256 MiB: what a write allocates, later reads must not find.
                    true => Some(Buffer::new(self, (256 << 20).max(2 * gpu.properties.l2))?),
                    false => None,
                };
                for _ in 0..options.warmup {
                    launch(&stream, &modules, &resolved, false, None)?;
                }
                let events = Events::new(&stream, spans + 1)?;
                for rep in 0..options.reps.max(1) {
                    if let Some(flush) = &flush {
                        stream.fill(flush.address(), rep as u8, flush.bytes())?;
                    }
                    launch(&stream, &modules, &resolved, false, Some(&events))?;
                    for (span, samples) in samples.iter_mut().enumerate() {
                        // Waiting for each keeps the next fill out of this one's time.
                        let millis = events.elapsed_ms(span, span + 1)?;
                        let idle = each && resolved.steps[span].is_empty();
                        samples.push(if idle { 0.0 } else { millis });
                    }
                }
            }
            Ready::Emulator(emulated, programs) => {
                let (report, of_launches) = emulate(self, emulated, &programs, &resolved)?;
                let millis = if each { of_launches } else { vec![report.millis] };
                samples.iter_mut().zip(millis).for_each(|(samples, millis)| samples.push(millis));
            }
        }
        Ok(samples.into_iter().map(Timing::of).collect())
    }

    /// Compiles and loads a plan's kernels, which a first run does too, and says what they use. Modules compile in
    /// parallel when called from several threads.
    ///
    /// # Errors
    /// [`Error::Target`], [`Error::PtxVersion`], [`Error::Ptx`], [`Error::Jit`]; [`Error::Plan`] where an entry is
    /// missing.
    pub fn compile(&self, plan: &Plan) -> Result<Vec<Compiled>> {
        self.check_target(plan)?;
        let mut all = Vec::new();
        for launch in &plan.launches {
            let entry = launch.entry.clone();
            let missing = || Error::Plan { plan: plan.name.clone(), what: format!("its PTX has no entry `{entry}`") };
            all.push(match &self.0 {
                Inner::Cuda(gpu) => {
                    let module = load(gpu, plan, launch)?;
                    let kernel = module.kernel(&entry).ok_or_else(missing)?;
                    let (resources, ctas) = (Some(kernel.resources), Some(kernel.ctas(gpu, launch)?));
                    let (log, cached, millis) = (module.log.clone(), module.cached, module.millis);
                    Compiled { entry, resources, ctas, log, cached, millis }
                }
                Inner::Emulator(emulated) => {
                    let begin = Instant::now();
                    emulated.load(plan, &launch.ptx)?.header.entry(&entry).ok_or_else(missing)?;
                    let millis = begin.elapsed().as_secs_f64() * 1e3;
                    Compiled { entry, resources: None, ctas: None, log: String::new(), cached: false, millis }
                }
            });
        }
        Ok(all)
    }

    /// Compiles, loads and checks every launch of a run.
    fn ready<'a>(&'a self, resolved: &Resolved<'_>, bindings: &Bindings) -> Result<Ready<'a>> {
        let plan = resolved.plan;
        self.check_target(plan)?;
        match &self.0 {
            Inner::Cuda(gpu) => {
                let stream = match bindings.stream.as_ref().and_then(|stream| stream.cuda()) {
                    Some(stream) => stream.clone(),
                    None => gpu.stream()?,
                };
                let mut modules = Vec::new();
                for step in &resolved.steps {
                    let module = load(gpu, plan, step.launch)?;
                    let entry = module.header.entry(&step.launch.entry);
                    let kernel = module.kernel(&step.launch.entry);
                    let limits = Limits {
                        shared: gpu.properties.shared_per_cta.into(),
                        static_shared: kernel.map_or(0, |kernel| kernel.resources.static_shared).into(),
                        threads: kernel.map_or(1024, |kernel| kernel.resources.max_threads),
                        no_clusters: (gpu.properties.capability < 90).then_some("no clusters (they need sm_90)"),
                    };
                    check_own_target(plan, module.header.target)?;
                    check_signature(self, plan, step, entry, &limits)?;
                    modules.push(module);
                }
                Ok(Ready::Cuda(gpu, stream, modules))
            }
            Inner::Emulator(emulated) => {
                let mut programs = Vec::new();
                for step in &resolved.steps {
                    let loaded = emulated.load(plan, &step.launch.ptx)?;
                    let entry = loaded.header.entry(&step.launch.entry);
                    let limits = Limits {
                        shared: plan.target.shared_per_cta().into(),
                        static_shared: entry.map_or(0, |entry| entry.static_shared).into(),
                        threads: 1024,
                        no_clusters: entry
                            .is_none_or(|entry| entry.limits.required_cluster.is_none())
                            .then_some("none but those that a kernel requires (.reqnctapercluster)"),
                    };
                    check_own_target(plan, loaded.header.target)?;
                    check_signature(self, plan, step, entry, &limits)?;
                    programs.push(loaded);
                }
                Ok(Ready::Emulator(emulated, programs))
            }
        }
    }

    fn check_target(&self, plan: &Plan) -> Result<()> {
        if self.runs(plan.target) {
            return Ok(());
        }
        let right: Vec<String> = self.targets().iter().map(ToString::to_string).collect();
        let right = format!("compile it for {}", right.join(" or "));
        Err(Error::Target { device: self.name(), plan: plan.name.clone(), target: plan.target, right })
    }
}

fn check_own_target(plan: &Plan, found: lacuna_ptx::Target) -> Result<()> {
    if found == plan.target {
        return Ok(());
    }
    let what = format!("it is for {}, and its PTX is for {found}", plan.target);
    Err(Error::Plan { plan: plan.name.clone(), what })
}

fn load(gpu: &Arc<Gpu>, plan: &Plan, launch: &lacuna_codegen::plan::Launch) -> Result<Arc<cuda::Module>> {
    gpu.modules.get_or_make(&launch.ptx, || cuda::Module::load(gpu, &plan.name, &launch.entry, &launch.ptx))
}

/// Enqueues every launch; how many there were. Plans on one stream do not interleave: its scratch is held meanwhile. Two
/// events stand around all of them; one more than there are launches, around each.
fn launch(
    stream: &cuda::Stream,
    modules: &[Arc<cuda::Module>],
    resolved: &Resolved<'_>,
    checked: bool,
    events: Option<&Events>,
) -> Result<usize> {
    let (workspace, mut held) = stream.scratch(resolved.workspace)?;
    let counter = if resolved.counts() { stream.counter(&mut held)? } else { 0 };
    let places = Places { workspace, counter };
    if checked && resolved.workspace > 0 {
        // All ones: NaN in every float type, -1 as an integer. What a launch reads before writing it shows.
        stream.fill(workspace, 0xff, resolved.workspace)?;
    }
    let mark = |event: usize| events.map_or(Ok(()), |events| events.record(event, stream));
    let each = events.is_some_and(|events| events.count() > 2);
    mark(0)?;
    let mut launches = 0;
    for (i, (step, module)) in resolved.steps.iter().zip(modules).enumerate() {
        if !step.is_empty() {
            let kernel = module.kernel(&step.launch.entry).expect("`ready` found the entry");
            cuda::launch(kernel, stream, step, places)?;
            launches += 1;
        }
        if each {
            mark(i + 1)?;
        }
    }
    if !each {
        mark(1)?;
    }
    Ok(launches)
}

/// Runs every launch on the emulator, and says how many milliseconds each took. The workspace is new, so that reading it
/// before writing it is a fault. A launch that does not leave its counter at zero is one as well.
fn emulate(
    device: &Device,
    emulated: &Emulated,
    programs: &[Arc<Loaded>],
    resolved: &Resolved<'_>,
) -> Result<(Report, Vec<f64>)> {
    let workspace = Buffer::new(device, resolved.workspace)?;
    let counter = resolved.counts().then(|| Buffer::new(device, 4)).transpose()?;
    counter.as_ref().map_or(Ok(()), Buffer::zero)?;
    let places = Places { workspace: workspace.address(), counter: counter.as_ref().map_or(0, Buffer::address) };
    let begin = Instant::now();
    let (mut stats, mut millis) = (Vec::new(), Vec::new());
    for (step, program) in resolved.steps.iter().zip(programs) {
        if step.is_empty() {
            millis.push(0.0);
            continue;
        }
        let begin = Instant::now();
        stats.push(emulated.launch(resolved.plan, program, step, places)?);
        if let Some(counter) = &counter {
            let mut left = [0; 4];
            counter.read(0, &mut left)?;
            if left != [0; 4] {
                let what = format!("`{}` leaves its counter at {}", step.launch.entry, u32::from_le_bytes(left));
                return Err(Error::Plan { plan: resolved.plan.name.clone(), what });
            }
        }
        millis.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok((Report { millis: begin.elapsed().as_secs_f64() * 1e3, launches: stats.len(), stats }, millis))
}

/// Checked mode, before the run: inputs are sound, outputs are poison.
fn before(plan: &Plan, bindings: &Bindings) -> Result<()> {
    for spec in &plan.tensors {
        let tensor = &bindings.tensors[&spec.name];
        match (spec.access, bindings.expected.get(&spec.name)) {
            (Access::Write, _) => tensor.poison()?,
            (Access::Read, None) => check::finite_named(tensor, &spec.name)?,
            (Access::Read, Some(&Expected::Indices { low, high })) => {
                check::indices_named(tensor, low, high, &spec.name)?;
            }
            (Access::Read, Some(&Expected::CuSeqlens { total })) => check::cu_seqlens_named(tensor, total, &spec.name)?,
        }
    }
    Ok(())
}

/// Checked mode, after the run: no output holds poison.
fn after(plan: &Plan, bindings: &Bindings) -> Result<()> {
    for spec in plan.tensors.iter().filter(|spec| spec.access == Access::Write) {
        let output = &bindings.tensors[&spec.name];
        if let Some(at) = output.first_poison()? {
            let (plan, tensor, index) = (plan.name.clone(), spec.name.clone(), check::index_of(output.shape(), at));
            return Err(CheckError::NotWritten { plan, tensor, index }.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        let timing = Timing::of(vec![3.0, 1.0, 9.0]);
        assert_eq!((timing.median_ms, timing.min_ms, timing.max_ms, timing.reps), (3.0, 1.0, 9.0, 3));
        assert_eq!(Timing::of(vec![4.0, 1.0, 2.0, 3.0]).median_ms, 2.5);
        assert_eq!(Timing::of(vec![7.0]).median_ms, 7.0);
    }

    #[test]
    fn a_spread_leaves_out_what_is_far_off() {
        let timing = Timing::of(vec![8.0, 10.0, 9.0, 11.0, 12.0, 500.0, 7.0, 13.0, 1.0]);
        assert_eq!((timing.median_ms, timing.spread()), (10.0, 0.2));
        assert_eq!(Timing::of(vec![7.0]).spread(), 0.0);
        assert_eq!(Timing::of(vec![0.0; 3]).spread(), 0.0);
    }
}
