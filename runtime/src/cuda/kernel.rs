//! Loaded modules and their launches.

use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    sync::{Arc, Weak},
    time::Instant,
};

use cudarc::driver::sys::{self, CUfunction_attribute_enum as Attribute};
use lacuna_codegen::plan::Launch;

use super::{
    Gpu, Stream, driver,
    jit::{self, Refusal},
    map,
};
use crate::{
    Error, Key, Resources, Result,
    bind::{KernelArg, Places, Step},
    header::Header,
};

/// A module on a device, with the functions of its entries.
pub(crate) struct Module {
    gpu: Weak<Gpu>,
    handle: sys::CUmodule,
    kernels: HashMap<String, Kernel>,
    pub(crate) header: Header,
    /// What the compiler said.
    pub(crate) log: String,
    /// Whether the machine code came from the store.
    pub(crate) cached: bool,
    /// What compiling and loading took.
    pub(crate) millis: f64,
}

// SAFETY: the driver API is thread-safe, and module and function handles may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// A function of a module.
pub(crate) struct Kernel {
    function: sys::CUfunction,
    pub(crate) resources: Resources,
}

impl Module {
    /// Compiles `ptx`, or takes its machine code from the store, and loads it. `plan` and `entry` are for messages.
    pub(crate) fn load(gpu: &Arc<Gpu>, plan: &str, entry: &str, ptx: &str) -> Result<Self> {
        let begin = Instant::now();
        let header = Header::read(plan, ptx)?;
        let version = &gpu.properties.driver;
        if header.version > version.reads() {
            return Err(Error::PtxVersion {
                device: gpu.name(),
                plan: plan.to_owned(),
                needs: header.version,
                driver: version.cuda_name(),
                reads: version.reads(),
                wants: driver::first_cuda(header.version),
            });
        }
        let refuse = |refusal| match refusal {
            Refusal::Device(error) => error,
            Refusal::Text { reason, log } => Error::Jit {
                device: gpu.name(),
                plan: plan.to_owned(),
                entry: entry.to_owned(),
                reason,
                log: if log.is_empty() { "the compiler said nothing more".to_owned() } else { log },
            },
        };
        let _current = gpu.current()?;
        let key = key(gpu, ptx, &header);
        let kept = gpu.store.get(&key).and_then(|entry| {
            let (log, cubin) = unpack(&entry)?;
            Some((jit::load_cubin(gpu, cubin).ok()?, log.to_owned()))
        });
        let cached = kept.is_some();
        let (handle, log) = match kept {
            Some(kept) => kept,
            None => compile_and_keep(gpu, ptx, &header, &key).map_err(refuse)?,
        };
        let mut module =
            Self { gpu: Arc::downgrade(gpu), handle, kernels: HashMap::new(), header, log, cached, millis: 0.0 };
        for name in module.header.entries.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>() {
            let kernel = module.kernel_of(gpu, &name)?;
            module.kernels.insert(name, kernel);
        }
        module.millis = begin.elapsed().as_secs_f64() * 1e3;
        Ok(module)
    }

    /// Asks for a function, what it uses, and leave to use all the shared memory that a CTA may have.
    fn kernel_of(&self, gpu: &Gpu, name: &str) -> Result<Kernel> {
        let symbol = CString::new(name).expect("our reader takes no NUL in a name");
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is loaded; the symbol ends with a NUL; a context is current.
        let answer = unsafe { sys::cuModuleGetFunction(&mut function, self.handle, symbol.as_ptr()) };
        gpu.check("cuModuleGetFunction", answer)?;
        let attribute = |which| -> Result<u32> {
            let mut value = 0;
            // SAFETY: the function is loaded; `value` is a valid place for an int.
            gpu.check("cuFuncGetAttribute", unsafe { sys::cuFuncGetAttribute(&mut value, which, function) })?;
            Ok(value.unsigned_abs())
        };
        let resources = Resources {
            registers: attribute(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            local_bytes: attribute(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            static_shared: attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            max_threads: attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        };
        let dynamic = gpu.properties.shared_per_cta.saturating_sub(resources.static_shared);
        let which = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is loaded.
        gpu.check("cuFuncSetAttribute", unsafe { sys::cuFuncSetAttribute(function, which, dynamic as i32) })?;
        Ok(Kernel { function, resources })
    }

    pub(crate) fn kernel(&self, entry: &str) -> Option<&Kernel> {
        self.kernels.get(entry)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Some(gpu) = self.gpu.upgrade()
            && let Ok(_current) = gpu.current()
        {
            // SAFETY: loaded by `load`, unloaded once.
            let _ = unsafe { sys::cuModuleUnload(self.handle) };
        }
    }
}

impl Kernel {
    /// CTAs of this launch that a multiprocessor holds.
    pub(crate) fn ctas(&self, gpu: &Gpu, launch: &Launch) -> Result<u32> {
        let _current = gpu.current()?;
        let mut ctas = 0;
        // SAFETY: the function is loaded and its context current; `ctas` is a valid place for an int.
        let answer = unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut ctas,
                self.function,
                launch.threads as i32,
                launch.shared as usize,
            )
        };
        gpu.check("cuOccupancyMaxActiveBlocksPerMultiprocessor", answer)?;
        Ok(ctas.unsigned_abs())
    }

    /// Enqueues a launch.
    ///
    /// # Safety
    /// `args` are the entry's parameters in number, order and type; every pointer among them is to memory of this
    /// device that is large enough for what the kernel does with it, and stays allocated until it is done.
    unsafe fn launch(
        &self,
        stream: &Stream,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        cluster: [u32; 3],
        args: &[KernelArg],
    ) -> Result<()> {
        let gpu = stream.gpu();
        let _current = gpu.current()?;
        let mut slots = args.iter().map(|arg| Slot::of(&gpu, arg)).collect::<Result<Vec<Slot>>>()?;
        let mut pointers: Vec<*mut c_void> = slots.iter_mut().map(Slot::pointer).collect();
        let [x, y, z] = cluster;
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z },
            },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: grid[2],
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared,
            hStream: stream.handle(),
            attrs: &mut attribute,
            numAttrs: u32::from(cluster != [1; 3]),
        };
        // SAFETY: the function is loaded and its context current; `pointers` has a valid place for every parameter (the
        // caller's promise), read before the call returns, as are `config` and `attribute`.
        let answer =
            unsafe { sys::cuLaunchKernelEx(&config, self.function, pointers.as_mut_ptr(), std::ptr::null_mut()) };
        gpu.check("cuLaunchKernelEx", answer)
    }
}

/// Enqueues a launch of a resolved run.
pub(crate) fn launch(kernel: &Kernel, stream: &Stream, step: &Step<'_>, places: Places) -> Result<()> {
    let Launch { threads, shared, cluster, .. } = *step.launch;
    // SAFETY: `check_signature` compared the arguments with the entry's parameters in number, order and type. Tensors
    // cover what the plan says (`resolve`), the workspace has the plan's size; memory is freed only after everything on
    // the device is done with it (`Gpu::free`). That the PTX keeps within them is the plan's promise.
    unsafe { kernel.launch(stream, step.grid, threads, shared, cluster, &step.args(places)) }
}

/// An argument where the driver reads it: as many bytes as the parameter has.
enum Slot {
    Word(u64),
    Map(Box<sys::CUtensorMap>),
}

impl Slot {
    fn of(gpu: &Gpu, arg: &KernelArg) -> Result<Slot> {
        Ok(match arg {
            KernelArg::U32(value) => Slot::Word(u64::from_ne_bytes(low_half(value.to_ne_bytes()))),
            KernelArg::F32(value) => Slot::Word(u64::from_ne_bytes(low_half(value.to_ne_bytes()))),
            KernelArg::U64(value) => Slot::Word(*value),
            KernelArg::Map(map, promotion) => Slot::Map(Box::new(map::encode(gpu, map, *promotion)?)),
        })
    }

    fn pointer(&mut self) -> *mut c_void {
        match self {
            Slot::Word(word) => std::ptr::from_mut(word).cast(),
            Slot::Map(map) => std::ptr::from_mut(map.as_mut()).cast(),
        }
    }
}

/// Four bytes at the low address of eight, where the driver reads a 4-byte parameter.
fn low_half(value: [u8; 4]) -> [u8; 8] {
    let mut slot = [0; 8];
    slot[..4].copy_from_slice(&value);
    slot
}

/// Everything that the machine code depends on.
fn key(gpu: &Gpu, ptx: &str, header: &Header) -> Key {
    let properties = &gpu.properties;
    Key::of(&[
        b"cubin",
        ptx.as_bytes(),
        header.target.to_string().as_bytes(),
        &properties.capability.to_le_bytes(),
        properties.driver.to_string().as_bytes(),
        env!("CARGO_PKG_VERSION").as_bytes(),
        b"jit",
    ])
}

/// Compiles, loads, and keeps the machine code and the log. Where the linker does not take a text that the loader takes,
/// the loader's word counts, and nothing is kept. What passes registers between warpgroups goes to the loader at once: the
/// linker compiles for other units to be linked, and then ignores `setmaxnreg`. That machine code the driver's own cache
/// keeps.
fn compile_and_keep(gpu: &Gpu, ptx: &str, header: &Header, key: &Key) -> Result<(sys::CUmodule, String), Refusal> {
    if ptx.contains("setmaxnreg") {
        return jit::load_text(gpu, ptx);
    }
    match jit::compile(gpu, ptx, header.target) {
        Ok(compiled) => {
            let module = jit::load_cubin(gpu, &compiled.cubin)?;
            gpu.store.put(key, &pack(&compiled.log, &compiled.cubin));
            Ok((module, compiled.log))
        }
        Err(Refusal::Text { reason, log }) => match jit::load_text(gpu, ptx) {
            Err(Refusal::Text { .. }) => Err(Refusal::Text { reason, log }),
            answer => answer,
        },
        Err(refusal) => Err(refusal),
    }
}

/// The log's length, the log, the machine code.
fn pack(log: &str, cubin: &[u8]) -> Vec<u8> {
    [&(log.len() as u64).to_le_bytes(), log.as_bytes(), cubin].concat()
}

fn unpack(entry: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = entry.split_first_chunk()?;
    let (log, cubin) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some((std::str::from_utf8(log).ok()?, cubin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_holds_log_and_code() {
        let entry = pack("ptxas info: 12 registers", &[1, 2, 3]);
        assert_eq!(unpack(&entry), Some(("ptxas info: 12 registers", &[1, 2, 3][..])));
        assert_eq!(unpack(&entry[..20]), None);
        assert_eq!(unpack(&[0xff; 12]), None);
    }

    #[test]
    fn a_word_lies_where_the_driver_reads_it() {
        assert_eq!(low_half(7u32.to_ne_bytes())[..4], 7u32.to_ne_bytes());
    }
}
