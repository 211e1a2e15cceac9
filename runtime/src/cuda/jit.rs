//! The driver's PTX compiler, with its logs.
//!
//! The linker interface gives the machine code back, so that it can be kept; loading the text as a module does not.

use std::ffi::{CString, c_void};

use cudarc::driver::sys::{self, CUjit_option, CUjit_target_enum as JitTarget};
use lacuna_ptx::Target;

use super::{Gpu, driver};
use crate::{Error, Result};

/// Bytes of each log; the driver cuts what is longer.
const LOG: usize = 64 * 1024;

/// What the compiler made.
pub(super) struct Compiled {
    pub(super) cubin: Vec<u8>,
    /// Everything it said: registers, spills, warnings.
    pub(super) log: String,
}

/// Why it did not.
pub(super) enum Refusal {
    /// The driver's answer, and what the compiler said.
    Text { reason: String, log: String },
    /// Nothing to do with the text.
    Device(Error),
}

/// Compiles for the device of `gpu`, whose context is current.
pub(super) fn compile(gpu: &Gpu, ptx: &str, target: Target) -> Result<Compiled, Refusal> {
    let text = terminated(ptx)?;
    let mut options = Options::new();
    options.set(CUjit_option::CU_JIT_LOG_VERBOSE, 1);
    match specific(target) {
        Some(exact) => options.set(CUjit_option::CU_JIT_TARGET, exact as usize),
        None => options.set(CUjit_option::CU_JIT_TARGET_FROM_CUCONTEXT, 0),
    }
    let mut state = std::ptr::null_mut();
    // SAFETY: a context is current; both arrays have `len` elements and outlive the link state, as do the log buffers
    // that they point to (`options` is dropped after `Link`, which is declared after it).
    let answer = unsafe {
        let (len, keys, values) = options.raw();
        sys::cuLinkCreate_v2(len, keys, values, &mut state)
    };
    gpu.check("cuLinkCreate", answer).map_err(Refusal::Device)?;
    let link = Link(state);
    let bytes = text.as_bytes_with_nul();
    // SAFETY: the state is live; the driver reads `bytes.len()` bytes of text, which end with a NUL, and keeps nothing.
    let answer = unsafe {
        sys::cuLinkAddData_v2(
            link.0,
            sys::CUjitInputType_enum::CU_JIT_INPUT_PTX,
            bytes.as_ptr().cast_mut().cast(),
            bytes.len(),
            c"lacuna.ptx".as_ptr(),
            0,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    options.judge(gpu, "cuLinkAddData", answer)?;
    let (mut cubin, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the state is live; both places are valid.
    let answer = unsafe { sys::cuLinkComplete(link.0, &mut cubin, &mut size) };
    options.judge(gpu, "cuLinkComplete", answer)?;
    // SAFETY: the driver gave `size` bytes, valid until the state is destroyed, which is after this copy.
    let cubin = unsafe { std::slice::from_raw_parts(cubin.cast::<u8>(), size) }.to_vec();
    drop(link);
    Ok(Compiled { cubin, log: options.log() })
}

/// Loads machine code. The context is current.
pub(super) fn load_cubin(gpu: &Gpu, cubin: &[u8]) -> Result<sys::CUmodule, Refusal> {
    // SAFETY: `cubin` is a whole ELF image: the driver made it, and the store's hash vouches for the copy.
    unsafe { load(gpu, cubin.as_ptr().cast()) }.map(|(module, _)| module)
}

/// Compiles and loads text in one step; the machine code is not given back. The context is current.
pub(super) fn load_text(gpu: &Gpu, ptx: &str) -> Result<(sys::CUmodule, String), Refusal> {
    let text = terminated(ptx)?;
    // SAFETY: the text ends with a NUL.
    unsafe { load(gpu, text.as_ptr().cast()) }
}

/// # Safety
/// `image` is a whole cubin or a text that ends with a NUL; a context is current.
unsafe fn load(gpu: &Gpu, image: *const c_void) -> Result<(sys::CUmodule, String), Refusal> {
    let mut options = Options::new();
    options.set(CUjit_option::CU_JIT_LOG_VERBOSE, 1);
    let mut module = std::ptr::null_mut();
    // SAFETY: the image is whole (the caller's promise); both arrays have `len` elements; they and the log buffers are
    // needed during the call only.
    let answer = unsafe {
        let (len, keys, values) = options.raw();
        sys::cuModuleLoadDataEx(&mut module, image, len, keys, values)
    };
    options.judge(gpu, "cuModuleLoadDataEx", answer)?;
    Ok((module, options.log()))
}

fn terminated(ptx: &str) -> Result<CString, Refusal> {
    let refuse = |e: std::ffi::NulError| Refusal::Text {
        reason: format!("a NUL character at byte {}", e.nul_position()),
        log: String::new(),
    };
    CString::new(ptx).map_err(refuse)
}

/// The linker's name for a target with features of one architecture. Without it, it compiles for the portable one.
fn specific(target: Target) -> Option<JitTarget> {
    match target {
        Target::SM_90A => Some(JitTarget::CU_TARGET_COMPUTE_90A),
        Target::SM_100A => Some(JitTarget::CU_TARGET_COMPUTE_100A),
        Target::SM_120A => Some(JitTarget::CU_TARGET_COMPUTE_120A),
        _ => None,
    }
}

/// A link state, destroyed on drop.
struct Link(sys::CUlinkState);

impl Drop for Link {
    fn drop(&mut self) {
        // SAFETY: made by `cuLinkCreate`, destroyed once.
        let _ = unsafe { sys::cuLinkDestroy(self.0) };
    }
}

/// Options of the compiler, with its two log buffers.
struct Options {
    keys: Vec<CUjit_option>,
    values: Vec<*mut c_void>,
    /// Information, errors. Boxed, so that they stay where the values point.
    logs: [Box<[u8]>; 2],
}

impl Options {
    fn new() -> Self {
        use CUjit_option as O;
        let mut options = Self { keys: Vec::new(), values: Vec::new(), logs: [(); 2].map(|()| vec![0; LOG].into()) };
        let buffers: Vec<usize> = options.logs.iter_mut().map(|log| log.as_mut_ptr() as usize).collect();
        options.set(O::CU_JIT_INFO_LOG_BUFFER, buffers[0]);
        options.set(O::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, LOG);
        options.set(O::CU_JIT_ERROR_LOG_BUFFER, buffers[1]);
        options.set(O::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, LOG);
        options
    }

    /// Integers travel in the pointer itself (`cuLinkCreate`).
    fn set(&mut self, key: CUjit_option, value: usize) {
        self.keys.push(key);
        self.values.push(value as *mut c_void);
    }

    fn raw(&mut self) -> (u32, *mut CUjit_option, *mut *mut c_void) {
        (self.keys.len() as u32, self.keys.as_mut_ptr(), self.values.as_mut_ptr())
    }

    /// What the compiler said so far: errors first.
    fn log(&self) -> String {
        let text = |log: &[u8]| {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            String::from_utf8_lossy(&log[..end]).trim_end().to_owned()
        };
        let parts = [text(&self.logs[1]), text(&self.logs[0])];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
    }

    /// An answer about the text, or about the device.
    fn judge(&self, gpu: &Gpu, call: &'static str, answer: sys::CUresult) -> Result<(), Refusal> {
        use sys::CUresult as E;
        // The linker says no more than `UNKNOWN` of static shared memory past the limit; its log says the rest.
        let about_text = matches!(
            answer,
            E::CUDA_ERROR_INVALID_PTX
                | E::CUDA_ERROR_INVALID_IMAGE
                | E::CUDA_ERROR_NO_BINARY_FOR_GPU
                | E::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
                | E::CUDA_ERROR_INVALID_SOURCE
                | E::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
                | E::CUDA_ERROR_JIT_COMPILATION_DISABLED
                | E::CUDA_ERROR_NOT_FOUND
                | E::CUDA_ERROR_SHARED_OBJECT_INIT_FAILED
                | E::CUDA_ERROR_INVALID_VALUE
        ) || answer == E::CUDA_ERROR_UNKNOWN && self.logs[1][0] != 0;
        match answer.result() {
            Ok(()) => Ok(()),
            Err(error) if about_text => Err(Refusal::Text { reason: driver::reason(error), log: self.log() }),
            Err(_) => {
                Err(gpu.check(call, answer).map_or_else(Refusal::Device, |()| unreachable!("an error is no success")))
            }
        }
    }
}
