//! Finding the driver, and what it says about devices before any of them is opened.

use std::{fmt, sync::OnceLock};

use cudarc::driver::{
    DriverError, result,
    sys::{self, CUdevice_attribute_enum as Attribute},
};
use lacuna_ptx::Version;

use crate::NoCuda;

/// The driver's library, and the names under which cudarc looks for it too.
#[cfg(windows)]
const LIBRARIES: [&str; 1] = ["nvcuda.dll"];
#[cfg(not(windows))]
const LIBRARIES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];

/// Every driver function that this crate calls, itself or through cudarc's `result` layer. cudarc panics when it calls
/// one that the library lacks; so all are looked up first. `cuLaunchKernelEx`, of CUDA 11.8, is the youngest.
const SYMBOLS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuCtxSynchronize",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemcpyHtoD_v2",
    "cuMemcpyDtoH_v2",
    "cuMemsetD8Async",
    "cuStreamCreate",
    "cuStreamSynchronize",
    "cuStreamDestroy_v2",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuEventDestroy_v2",
    "cuLinkCreate_v2",
    "cuLinkAddData_v2",
    "cuLinkComplete",
    "cuLinkDestroy",
    "cuModuleLoadDataEx",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuLaunchKernelEx",
    "cuGetErrorName",
    "cuGetErrorString",
];

/// The driver's versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DriverVersion {
    /// The CUDA version that it is for: 12080 is 12.8.
    pub(crate) cuda: u32,
    /// Its own version, such as 570.124.06, where the system tells.
    pub(crate) build: Option<String>,
}

impl DriverVersion {
    /// The CUDA version as `12.8`.
    pub(crate) fn cuda_name(&self) -> String {
        cuda_name(self.cuda)
    }

    /// The highest PTX version that it reads.
    pub(crate) fn reads(&self) -> Version {
        PTX_VERSIONS.iter().rev().find(|(cuda, _)| *cuda <= self.cuda).map_or(Version::new(0, 0), |&(_, ptx)| ptx)
    }
}

impl fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CUDA {}", self.cuda_name())?;
        self.build.as_ref().map_or(Ok(()), |build| write!(f, ", driver {build}"))
    }
}

/// The first CUDA version that reads each PTX version (PTX ISA, release notes).
#[rustfmt::skip]
const PTX_VERSIONS: &[(u32, Version)] = &[
    (11000, Version::new(7, 0)), (11010, Version::new(7, 1)), (11020, Version::new(7, 2)), (11030, Version::new(7, 3)),
    (11040, Version::new(7, 4)), (11050, Version::new(7, 5)), (11060, Version::new(7, 6)), (11070, Version::new(7, 7)),
    (11080, Version::new(7, 8)), (12000, Version::new(8, 0)), (12010, Version::new(8, 1)), (12020, Version::new(8, 2)),
    (12030, Version::new(8, 3)), (12040, Version::new(8, 4)), (12050, Version::new(8, 5)), (12070, Version::new(8, 6)),
    (12080, Version::new(8, 7)), (12090, Version::new(8, 8)), (13000, Version::new(9, 0)), (13010, Version::new(9, 1)),
    (13020, Version::new(9, 2)), (13030, Version::new(9, 3)),
];

/// The first CUDA version that reads `ptx`, as `12.8`; a version past the table counts on from its end.
pub(super) fn first_cuda(ptx: Version) -> String {
    PTX_VERSIONS
        .iter()
        .find(|(_, reads)| *reads >= ptx)
        .map_or_else(|| format!("{}.{}", ptx.major + 4, ptx.minor), |&(cuda, _)| cuda_name(cuda))
}

fn cuda_name(cuda: u32) -> String {
    format!("{}.{}", cuda / 1000, cuda % 1000 / 10)
}

/// The driver's name for an error, its number and its text.
pub(super) fn reason(error: DriverError) -> String {
    let name = error.error_name().map_or("an error without a name".into(), |name| name.to_string_lossy());
    let text = error.error_string().map_or("no description".into(), |text| text.to_string_lossy());
    format!("{name} ({}): {text}", error.0 as u32)
}

/// Starts the driver, once a process.
pub(super) fn start() -> Result<&'static DriverVersion, NoCuda> {
    static DRIVER: OnceLock<Result<DriverVersion, NoCuda>> = OnceLock::new();
    DRIVER.get_or_init(probe).as_ref().map_err(Clone::clone)
}

fn probe() -> Result<DriverVersion, NoCuda> {
    // SAFETY: running the initialisers of the system's driver library is what every CUDA program does.
    let library = LIBRARIES.iter().find_map(|name| unsafe { libloading::Library::new(*name) }.ok());
    let library = library.ok_or(NoCuda::NoDriver { library: LIBRARIES[LIBRARIES.len() - 1] })?;
    for &symbol in SYMBOLS {
        // SAFETY: the address is only asked for, never called or read.
        if unsafe { library.get::<*const ()>(symbol.as_bytes()) }.is_err() {
            return Err(NoCuda::OldDriver { symbol });
        }
    }
    // It stays loaded for the life of the process: cudarc holds its own handle, and unloading a driver is not supported.
    std::mem::forget(library);
    result::init().map_err(|error| NoCuda::Init { reason: reason(error) })?;
    let mut cuda = 0;
    // SAFETY: the driver is initialised and `cuda` is a valid place for an int.
    unsafe { sys::cuDriverGetVersion(&mut cuda) }.result().map_err(|error| NoCuda::Init { reason: reason(error) })?;
    Ok(DriverVersion { cuda: cuda.unsigned_abs(), build: build() })
}

/// The kernel module's version, which is the driver's.
fn build() -> Option<String> {
    let text = std::fs::read_to_string("/sys/module/nvidia/version").ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// How many devices the driver shows.
pub(crate) fn count() -> Result<usize, NoCuda> {
    start()?;
    let count = result::device::get_count().map_err(|error| NoCuda::Init { reason: reason(error) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// What a device is.
#[derive(Clone, Debug)]
pub(crate) struct Properties {
    pub(crate) ordinal: usize,
    pub(crate) handle: sys::CUdevice,
    pub(crate) name: String,
    pub(crate) capability: u16,
    pub(crate) driver: DriverVersion,
    pub(crate) memory: u64,
    pub(crate) sms: u32,
    pub(crate) l2: u64,
    pub(crate) shared_per_cta: u32,
    pub(crate) shared_per_sm: u32,
    /// Multiprocessors' and memory's, in MHz, where the driver says.
    pub(crate) clocks_mhz: Option<(u32, u32)>,
}

/// Asks the driver about a device; makes no context.
pub(crate) fn properties(ordinal: usize) -> Result<Properties, NoCuda> {
    let driver = start()?.clone();
    let count = count()?;
    if ordinal >= count {
        return Err(NoCuda::NoDevice { ordinal, count });
    }
    let all = || -> Result<Properties, DriverError> {
        let handle = result::device::get(ordinal as i32)?;
        // SAFETY: `handle` is a device that the driver just gave.
        let attribute = |which| unsafe { result::device::get_attribute(handle, which) }.map(i32::unsigned_abs);
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let mhz = |which| attribute(which).ok().filter(|&khz| khz > 0).map(|khz| khz / 1000);
        let memory_mhz = mhz(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
        Ok(Properties {
            ordinal,
            handle,
            name: result::device::get_name(handle)?,
            capability: (major * 10 + minor) as u16,
            driver,
            // SAFETY: `handle` is a device that the driver just gave.
            memory: unsafe { result::device::total_mem(handle) }? as u64,
            sms: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            l2: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
            shared_per_cta: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            shared_per_sm: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
            clocks_mhz: mhz(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE).zip(memory_mhz),
        })
    };
    let found = all().map_err(|error| NoCuda::Init { reason: reason(error) })?;
    if found.capability < 80 {
        return Err(NoCuda::OldDevice { ordinal, name: found.name, capability: found.capability });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(cuda: u32) -> DriverVersion {
        DriverVersion { cuda, build: None }
    }

    #[test]
    fn a_driver_reads_every_version_up_to_its_own() {
        assert_eq!(driver(12040).reads(), Version::new(8, 4));
        assert_eq!(driver(12060).reads(), Version::new(8, 5), "12.6 brought no new PTX");
        assert_eq!(driver(12080).reads(), Version::new(8, 7));
        assert_eq!(driver(13990).reads(), Version::new(9, 3));
        assert_eq!(driver(10020).reads(), Version::new(0, 0));
    }

    #[test]
    fn a_version_names_the_cuda_that_reads_it() {
        assert_eq!(first_cuda(Version::new(8, 0)), "12.0");
        assert_eq!(first_cuda(Version::new(8, 6)), "12.7");
        assert_eq!(first_cuda(Version::new(9, 7)), "13.7");
        assert_eq!(driver(12080).to_string(), "CUDA 12.8");
    }
}
