//! Devices: CUDA GPUs, and the emulator.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use lacuna_emulator::Options;
use lacuna_ptx::Target;

use crate::{NoCuda, Result, cuda, emulated::Emulated};

/// Where tensors live and plans run: a CUDA GPU, or the emulator. Cloning shares it.
#[derive(Clone)]
pub struct Device(pub(crate) Inner);

#[derive(Clone)]
pub(crate) enum Inner {
    Cuda(Arc<cuda::Gpu>),
    Emulator(Arc<Emulated>),
}

/// What a device is, for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// `emulator`, or the GPU's name.
    pub name: String,
    /// The CUDA ordinal; `None` for the emulator.
    pub ordinal: Option<usize>,
    /// Compute capability, ten times major plus minor; `None` for the emulator, which takes PTX for every target.
    pub capability: Option<u16>,
    /// The driver: `CUDA 12.8, driver 570.124.06`.
    pub driver: Option<String>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Streaming multiprocessors.
    pub sms: Option<u32>,
    /// Bytes of L2 cache.
    pub l2: Option<u64>,
    /// Bytes of shared memory that one CTA may have.
    pub shared_per_cta: Option<u32>,
    /// Bytes of shared memory of a streaming multiprocessor.
    pub shared_per_sm: Option<u32>,
    /// What the driver rates the clocks of multiprocessors and of memory at, in MHz, where it says.
    pub clocks_mhz: Option<(u32, u32)>,
    /// Why it cannot be used, where it cannot.
    pub trouble: Option<NoCuda>,
}

impl Device {
    /// The CUDA device of that ordinal, counted from 0 among those that `CUDA_VISIBLE_DEVICES` leaves. Opening it makes
    /// its primary context, once a process: every call gives the same device.
    ///
    /// # Errors
    /// [`NoCuda`]: no driver, one that is too old, no such GPU, one of compute capability below 8.0.
    pub fn cuda(ordinal: usize) -> Result<Self, NoCuda> {
        cuda::Gpu::open(ordinal).map(|gpu| Self(Inner::Cuda(gpu)))
    }

    /// The emulator; every call gives the same device, with the same memory.
    pub fn emulator() -> Self {
        static EMULATOR: OnceLock<Device> = OnceLock::new();
        let make = || Self(Inner::Emulator(Arc::new(Emulated::new("emulator".to_owned(), Options::default()))));
        EMULATOR.get_or_init(make).clone()
    }

    /// Another emulator, with memory of its own, that runs with these options: `emulator 1`, `emulator 2`, ..
    pub fn emulator_with(options: Options) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("emulator {}", MADE.fetch_add(1, Relaxed) + 1);
        Self(Inner::Emulator(Arc::new(Emulated::new(name, options))))
    }

    /// CUDA device 0 where there is one that can be used, else the emulator; [`Device::no_cuda`] says why.
    pub fn best() -> Self {
        Self::cuda(0).unwrap_or_else(|_| Self::emulator())
    }

    /// Why [`Device::best`] is the emulator; `None` where it is a GPU.
    pub fn no_cuda() -> Option<NoCuda> {
        Self::cuda(0).err()
    }

    /// Every CUDA device that the driver shows, usable or not, then the emulator. Opens none of them.
    pub fn list() -> Vec<DeviceInfo> {
        let gpus = (0..cuda::count().unwrap_or(0)).map(|ordinal| match cuda::properties(ordinal) {
            Ok(properties) => info(&properties),
            Err(trouble) => {
                let (name, capability) = match &trouble {
                    NoCuda::OldDevice { name, capability, .. } => (name.clone(), Some(*capability)),
                    _ => ("unknown GPU".to_owned(), None),
                };
                DeviceInfo { ordinal: Some(ordinal), capability, trouble: Some(trouble), ..nameless(name) }
            }
        });
        gpus.chain([nameless("emulator".to_owned())]).collect()
    }

    /// What it is.
    pub fn info(&self) -> DeviceInfo {
        match &self.0 {
            Inner::Cuda(gpu) => info(&gpu.properties),
            Inner::Emulator(emulated) => nameless(emulated.name.clone()),
        }
    }

    /// `emulator`, or `cuda:0 (NVIDIA H200)`.
    pub fn name(&self) -> String {
        match &self.0 {
            Inner::Cuda(gpu) => gpu.name(),
            Inner::Emulator(emulated) => emulated.name.clone(),
        }
    }

    /// Compute capability, ten times major plus minor; `None` for the emulator, which takes PTX for every target.
    pub fn capability(&self) -> Option<u16> {
        match &self.0 {
            Inner::Cuda(gpu) => Some(gpu.properties.capability),
            Inner::Emulator(_) => None,
        }
    }

    /// Streaming multiprocessors: how many CTAs do a grid tile after tile, where each has one to itself. On the emulator 4, so
    /// that small problems have more tiles than that.
    pub fn multiprocessors(&self) -> u32 {
        match &self.0 {
            Inner::Cuda(gpu) => gpu.properties.sms,
            Inner::Emulator(_) => 4,
        }
    }

    /// Whether PTX for `target` can run here.
    pub fn runs(&self, target: Target) -> bool {
        self.capability().is_none_or(|capability| target.runs_on(capability))
    }

    /// The targets whose PTX can run here, lowest first.
    pub fn targets(&self) -> Vec<Target> {
        Target::ALL.into_iter().filter(|&target| self.runs(target)).collect()
    }

    /// Whether it is a GPU.
    pub fn is_cuda(&self) -> bool {
        matches!(self.0, Inner::Cuda(_))
    }

    /// What went wrong in keeping compiled kernels on disk, once each; nothing that a run depends on.
    pub fn warnings(&self) -> Vec<String> {
        match &self.0 {
            Inner::Cuda(gpu) => gpu.store.warnings(),
            Inner::Emulator(_) => Vec::new(),
        }
    }
}

/// The same device, not an equal one.
impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Inner::Cuda(a), Inner::Cuda(b)) => Arc::ptr_eq(a, b),
            (Inner::Emulator(a), Inner::Emulator(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

fn nameless(name: String) -> DeviceInfo {
    DeviceInfo {
        name,
        ordinal: None,
        capability: None,
        driver: None,
        memory: None,
        sms: None,
        l2: None,
        shared_per_cta: None,
        shared_per_sm: None,
        clocks_mhz: None,
        trouble: None,
    }
}

fn info(properties: &cuda::Properties) -> DeviceInfo {
    DeviceInfo {
        name: properties.name.clone(),
        ordinal: Some(properties.ordinal),
        capability: Some(properties.capability),
        driver: Some(properties.driver.to_string()),
        memory: Some(properties.memory),
        sms: Some(properties.sms),
        l2: Some(properties.l2),
        shared_per_cta: Some(properties.shared_per_cta),
        shared_per_sm: Some(properties.shared_per_sm),
        clocks_mhz: properties.clocks_mhz,
        trouble: None,
    }
}
