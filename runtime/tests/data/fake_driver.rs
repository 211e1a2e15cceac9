//! A driver library with no GPU behind it: device memory is the host's, and the kernels are the axpys of the tests. Built
//! by `tests/driver.rs` as `libcuda.so`; environment variables make it fail.
#![crate_type = "cdylib"]
#![allow(non_snake_case, clippy::all)]

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::{CStr, c_char, c_void},
    sync::Mutex,
    time::Instant,
};

type R = u32;
const INVALID_VALUE: R = 1;
const INVALID_CONTEXT: R = 201;
const NOT_FOUND: R = 500;

static MEMORY: Mutex<BTreeMap<u64, usize>> = Mutex::new(BTreeMap::new());
thread_local!(static DEPTH: Cell<usize> = const { Cell::new(0) });

fn setting(name: &str) -> Option<u32> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a call answers that needs a context.
fn context() -> R {
    if DEPTH.get() == 0 { INVALID_CONTEXT } else { 0 }
}

/// Whether a range lies in an allocation.
fn live(address: u64, bytes: usize) -> bool {
    let memory = MEMORY.lock().unwrap();
    memory.range(..=address).next_back().is_some_and(|(start, size)| address + bytes as u64 <= start + *size as u64)
}

fn layout(bytes: usize) -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(bytes, 512).unwrap()
}

macro_rules! api {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> R { unsafe { $body } }
    )*};
}

#[repr(C)]
pub struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: *mut c_void,
    attributes: *mut c_void,
    count: u32,
}

pub struct Link {
    info: *mut c_char,
    error: *mut c_char,
    code: Vec<u8>,
}

api! {
    fn cuInit(_flags: u32) { setting("FAKE_INIT").unwrap_or(0) }
    fn cuDriverGetVersion(out: *mut i32) { *out = setting("FAKE_CUDA").unwrap_or(12080) as i32; 0 }
    fn cuDeviceGetCount(out: *mut i32) { *out = 1; 0 }
    fn cuDeviceGet(out: *mut i32, _ordinal: i32) { *out = 0; 0 }
    fn cuDeviceGetName(out: *mut c_char, _len: i32, _device: i32) { out.copy_from(c"Fake".as_ptr(), 5); 0 }
    fn cuDeviceTotalMem_v2(out: *mut usize, _device: i32) { *out = 1 << 30; 0 }
    fn cuDeviceGetAttribute(out: *mut i32, which: i32, _device: i32) {
        let capability = setting("FAKE_CAPABILITY").unwrap_or(80) as i32;
        *out = match which {
            75 => capability / 10,
            76 => capability % 10,
            16 => 108,
            38 => 40 << 20,
            97 => 163 * 1024,
            81 => 164 * 1024,
            _ => return INVALID_VALUE,
        };
        0
    }
    fn cuDevicePrimaryCtxRetain(out: *mut usize, _device: i32) { *out = 0xc0; 0 }
    fn cuCtxPushCurrent_v2(ctx: usize) { assert_eq!(ctx, 0xc0); DEPTH.set(DEPTH.get() + 1); 0 }
    fn cuCtxPopCurrent_v2(out: *mut usize) { *out = 0xc0; DEPTH.set(DEPTH.get() - 1); 0 }
    fn cuCtxSynchronize() { context() }
    fn cuMemAlloc_v2(out: *mut u64, bytes: usize) {
        if context() != 0 || bytes == 0 {
            return INVALID_VALUE;
        }
        if bytes > 1 << 30 {
            return 2;
        }
        *out = std::alloc::alloc_zeroed(layout(bytes)) as u64;
        MEMORY.lock().unwrap().insert(*out, bytes);
        context()
    }
    fn cuMemFree_v2(address: u64) {
        let Some(bytes) = MEMORY.lock().unwrap().remove(&address) else { return INVALID_VALUE };
        std::alloc::dealloc(address as *mut u8, layout(bytes));
        context()
    }
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) { (*free, *total) = (1 << 29, 1 << 30); context() }
    fn cuMemcpyHtoD_v2(to: u64, from: *const u8, bytes: usize) {
        if !live(to, bytes) {
            return INVALID_VALUE;
        }
        (to as *mut u8).copy_from(from, bytes);
        context()
    }
    fn cuMemcpyDtoH_v2(to: *mut u8, from: u64, bytes: usize) {
        if !live(from, bytes) {
            return INVALID_VALUE;
        }
        to.copy_from(from as *const u8, bytes);
        context()
    }
    fn cuMemsetD8Async(to: u64, byte: u8, bytes: usize, _stream: usize) {
        if !live(to, bytes) {
            return INVALID_VALUE;
        }
        (to as *mut u8).write_bytes(byte, bytes);
        context()
    }
    fn cuStreamCreate(out: *mut usize, _flags: u32) { *out = 0x57; context() }
    fn cuStreamSynchronize(_stream: usize) { setting("FAKE_FAULT").unwrap_or(context()) }
    fn cuStreamDestroy_v2(_stream: usize) { context() }
    fn cuEventCreate(out: *mut *mut Instant, _flags: u32) { *out = Box::into_raw(Box::new(Instant::now())); context() }
    fn cuEventRecord(event: *mut Instant, _stream: usize) { *event = Instant::now(); context() }
    fn cuEventSynchronize(_event: *mut Instant) { context() }
    fn cuEventElapsedTime(out: *mut f32, begin: *mut Instant, end: *mut Instant) {
        *out = (*end - *begin).as_secs_f32() * 1e3;
        context()
    }
    fn cuEventDestroy_v2(event: *mut Instant) { drop(Box::from_raw(event)); context() }
    fn cuLinkCreate_v2(count: u32, keys: *const u32, values: *const *mut c_char, out: *mut *mut Link) {
        let value = |key| (0..count as usize).find(|&i| *keys.add(i) == key).map(|i| *values.add(i)).unwrap();
        *out = Box::into_raw(Box::new(Link { info: value(3), error: value(5), code: Vec::new() }));
        context()
    }
    fn cuLinkAddData_v2(link: *mut Link, kind: u32, data: *const u8, size: usize, _name: usize, _n: u32, _k: usize, _v: usize) {
        assert_eq!((kind, *data.add(size - 1)), (1, 0), "PTX ends with a NUL");
        if setting("FAKE_JIT").is_some() {
            (*link).error.copy_from(c"ptxas lacuna.ptx, line 24; error : Fake".as_ptr(), 40);
            return 218;
        }
        (*link).info.copy_from(c"ptxas info : Used 12 registers".as_ptr(), 31);
        (*link).code = [b"\x7fELF", std::slice::from_raw_parts(data, size)].concat();
        context()
    }
    fn cuLinkComplete(link: *mut Link, out: *mut *const u8, size: *mut usize) {
        (*out, *size) = ((*link).code.as_ptr(), (*link).code.len());
        context()
    }
    fn cuLinkDestroy(link: *mut Link) { drop(Box::from_raw(link)); context() }
    fn cuModuleLoadDataEx(out: *mut usize, image: *const u8, _n: u32, _k: usize, _v: usize) {
        if *image != 0x7f {
            return 218;
        }
        *out = 0x30;
        context()
    }
    fn cuModuleUnload(_module: usize) { context() }
    fn cuModuleGetFunction(out: *mut usize, _module: usize, name: *const c_char) {
        if CStr::from_ptr(name) != c"axpy" {
            return NOT_FOUND;
        }
        *out = 0xf0;
        context()
    }
    fn cuFuncGetAttribute(out: *mut i32, which: u32, _function: usize) {
        *out = [1024, 0, 0, 8, 12][which as usize];
        context()
    }
    fn cuFuncSetAttribute(_function: usize, which: u32, value: i32) {
        assert_eq!((which, value), (8, 163 * 1024));
        context()
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(out: *mut i32, function: usize, threads: i32, shared: usize) {
        assert_eq!((function, threads, shared), (0xf0, 128, 0));
        *out = 21;
        context()
    }
    fn cuLaunchKernelEx(config: *const Config, function: usize, params: *const *const c_void, extra: usize) {
        assert_eq!((function, (*config).count, extra), (0xf0, 0, 0));
        let pointer = |i: usize| *(*params.add(i)).cast::<*mut f32>();
        let (a, n) = (*(*params.add(3)).cast::<f32>(), *(*params.add(4)).cast::<u32>() as usize);
        for i in 0..n.min((*config).grid[0] as usize * (*config).block[0] as usize) {
            *pointer(0).add(i) = a.mul_add(*pointer(1).add(i), *pointer(2).add(i));
        }
        context()
    }
    fn cuGetErrorName(_error: u32, out: *mut *const c_char) { *out = c"CUDA_ERROR_FAKE".as_ptr(); 0 }
    fn cuGetErrorString(_error: u32, out: *mut *const c_char) { *out = c"a fake error".as_ptr(); 0 }
}
