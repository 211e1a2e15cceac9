//! One GPU: its context, its memory, its default stream, its modules.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use cudarc::driver::{
    DriverError, result,
    sys::{self, CUresult},
};

use super::{Module, Properties, Stream, driver};
use crate::{Error, NoCuda, Result, Store, modules::Modules};

/// A CUDA device with its primary context, which is kept until the process ends.
pub(crate) struct Gpu {
    pub(crate) properties: Properties,
    context: sys::CUcontext,
    stream: OnceLock<Arc<Stream>>,
    pub(crate) modules: Modules<Module>,
    pub(crate) store: Store,
    /// The call that first reported a fault, and what it said.
    lost: OnceLock<(&'static str, String)>,
}

// SAFETY: the driver API is thread-safe, and a context handle may be used from any thread that makes it current, which
// every use here does (`Gpu::current`).
unsafe impl Send for Gpu {}
// SAFETY: as above; everything else in here is `Sync` itself.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// The device of that ordinal; the same one for every call in a process.
    pub(crate) fn open(ordinal: usize) -> Result<Arc<Gpu>, NoCuda> {
        static OPEN: OnceLock<Mutex<HashMap<usize, Arc<Gpu>>>> = OnceLock::new();
        let mut open = OPEN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = open.get(&ordinal) {
            return Ok(gpu.clone());
        }
        let properties = driver::properties(ordinal)?;
        let refuse = |error| NoCuda::Open { ordinal, name: properties.name.clone(), reason: driver::reason(error) };
        // SAFETY: the handle is a device that the driver gave. The context is never released: the process keeps it.
        let context = unsafe { result::primary_ctx::retain(properties.handle) }.map_err(refuse)?;
        let gpu = Arc::new(Gpu {
            properties,
            context,
            stream: OnceLock::new(),
            modules: Modules::new(),
            store: Store::user(),
            lost: OnceLock::new(),
        });
        open.insert(ordinal, gpu.clone());
        Ok(gpu)
    }

    pub(crate) fn name(&self) -> String {
        format!("cuda:{} ({})", self.properties.ordinal, self.properties.name)
    }

    /// The stream of runs that name none. It is ordered with the legacy default stream, as other libraries expect.
    pub(crate) fn stream(self: &Arc<Self>) -> Result<Arc<Stream>> {
        if let Some(stream) = self.stream.get() {
            return Ok(stream.clone());
        }
        let stream = Arc::new(Stream::new(self, sys::CUstream_flags::CU_STREAM_DEFAULT)?);
        Ok(self.stream.get_or_init(|| stream).clone())
    }

    /// Makes the context current on this thread until the guard is dropped.
    pub(super) fn current(&self) -> Result<Current> {
        if let Some((call, reason)) = self.lost.get() {
            return Err(Error::ContextLost { device: self.name(), call, reason: reason.clone() });
        }
        // SAFETY: the context is the primary one, retained in `open` and never released.
        self.check("cuCtxPushCurrent", unsafe { sys::cuCtxPushCurrent_v2(self.context) })?;
        Ok(Current { _this_thread: std::marker::PhantomData })
    }

    /// Turns a driver's answer into a result; remembers a fault that the context does not survive.
    pub(super) fn check(&self, call: &'static str, answer: CUresult) -> Result<()> {
        self.checked(call, answer.result())
    }

    /// The same for an answer of cudarc's `result` layer.
    pub(super) fn checked<T>(&self, call: &'static str, answer: Result<T, DriverError>) -> Result<T> {
        answer.map_err(|error| {
            let (device, reason) = (self.name(), driver::reason(error));
            if is_sticky(error.0) {
                let (call, reason) = self.lost.get_or_init(|| (call, reason));
                return Error::ContextLost { device, call, reason: reason.clone() };
            }
            Error::Driver { device, call, reason }
        })
    }

    pub(crate) fn alloc(&self, bytes: u64) -> Result<u64> {
        let _current = self.current()?;
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: a context is current; the size is not zero (`Buffer::new`).
        match unsafe { result::malloc_sync(size) } {
            Err(error) if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = result::mem_get_info().unwrap_or((0, self.properties.memory as usize));
                Err(Error::OutOfMemory { device: self.name(), bytes, free: free as u64, total: total as u64 })
            }
            answer => self.checked("cuMemAlloc", answer),
        }
    }

    /// Frees memory once everything that runs on the device is done with it.
    pub(crate) fn free(&self, address: u64) {
        // In a lost context there is nothing left to free, and no one to tell.
        if let Ok(_current) = self.current()
            && self.synchronize().is_ok()
        {
            // SAFETY: `Buffer` frees what `alloc` gave, once.
            let _ = self.checked("cuMemFree", unsafe { result::free_sync(address) });
        }
    }

    pub(crate) fn read(&self, address: u64, out: &mut [u8]) -> Result<()> {
        let _current = self.current()?;
        self.synchronize()?;
        // SAFETY: the range lies in a live allocation (`Buffer` checks it); a context is current.
        self.checked("cuMemcpyDtoH", unsafe { result::memcpy_dtoh_sync(out, address) })
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let _current = self.current()?;
        self.synchronize()?;
        // SAFETY: the range lies in a live allocation (`Buffer` checks it); a context is current.
        self.checked("cuMemcpyHtoD", unsafe { result::memcpy_htod_sync(address, bytes) })?;
        // From pageable memory the copy may still be on its way, and a stream of another library does not wait for it.
        self.synchronize()
    }

    pub(crate) fn zero(self: &Arc<Self>, address: u64, bytes: u64) -> Result<()> {
        let stream = self.stream()?;
        stream.fill(address, 0, bytes)?;
        let _current = self.current()?;
        self.synchronize()
    }

    /// Waits for everything on the device. A context is current.
    fn synchronize(&self) -> Result<()> {
        // SAFETY: the callers made a context current.
        self.check("cuCtxSynchronize", unsafe { sys::cuCtxSynchronize() })
    }
}

/// A context that is current on this thread; the one before it comes back on drop.
pub(super) struct Current {
    /// Not `Send`: the stack of contexts belongs to the thread.
    _this_thread: std::marker::PhantomData<*const ()>,
}

impl Drop for Current {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: pops what `Gpu::current` pushed on this thread; `popped` is a valid place for the handle.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
    }
}

/// Errors after which "the process must be terminated and relaunched" (CUDA driver API, `CUresult`).
fn is_sticky(error: CUresult) -> bool {
    use CUresult as E;
    matches!(
        error,
        E::CUDA_ERROR_ECC_UNCORRECTABLE
            | E::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | E::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | E::CUDA_ERROR_ILLEGAL_ADDRESS
            | E::CUDA_ERROR_LAUNCH_TIMEOUT
            | E::CUDA_ERROR_ASSERT
            | E::CUDA_ERROR_HARDWARE_STACK_ERROR
            | E::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | E::CUDA_ERROR_MISALIGNED_ADDRESS
            | E::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | E::CUDA_ERROR_INVALID_PC
            | E::CUDA_ERROR_LAUNCH_FAILED
    )
}
