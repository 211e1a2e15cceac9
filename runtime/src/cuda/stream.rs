//! Streams, and the events that time what runs on them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cudarc::driver::{result, sys};

use super::Gpu;
use crate::Result;

/// A stream, ours or borrowed, with the scratch memory of the plans that run on it.
pub(crate) struct Stream {
    gpu: Weak<Gpu>,
    handle: sys::CUstream,
    owned: bool,
    /// Held while a plan's launches are enqueued, so that plans on one stream do not interleave and may share scratch.
    scratch: Mutex<Scratch>,
}

/// Scratch memory, kept for the next plan on the same stream and grown when one needs more.
#[derive(Default)]
pub(crate) struct Scratch {
    address: u64,
    bytes: u64,
    /// A word that every launch leaves at zero; nowhere until the first asks for it.
    counter: u64,
}

/// Bytes of a counter.
const COUNTER: u64 = 4;

// SAFETY: the driver API is thread-safe, and a stream handle may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub(crate) fn new(gpu: &Arc<Gpu>, flags: sys::CUstream_flags) -> Result<Self> {
        let _current = gpu.current()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: a context is current; `handle` is a valid place for the stream.
        gpu.check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut handle, flags as u32) })?;
        Ok(Self { gpu: Arc::downgrade(gpu), handle, owned: true, scratch: Mutex::default() })
    }

    /// A stream that does not wait for the legacy default stream.
    pub(crate) fn non_blocking(gpu: &Arc<Gpu>) -> Result<Self> {
        Self::new(gpu, sys::CUstream_flags::CU_STREAM_NON_BLOCKING)
    }

    /// A stream of somebody else.
    ///
    /// # Safety
    /// `handle` is a stream of the device's primary context, which outlives this.
    pub(crate) unsafe fn borrow(gpu: &Arc<Gpu>, handle: sys::CUstream) -> Self {
        Self { gpu: Arc::downgrade(gpu), handle, owned: false, scratch: Mutex::default() }
    }

    /// The device. It lives as long as the process, in `Gpu::open`'s map.
    pub(super) fn gpu(&self) -> Arc<Gpu> {
        self.gpu.upgrade().expect("a device is never closed")
    }

    pub(super) fn handle(&self) -> sys::CUstream {
        self.handle
    }

    /// Waits for everything enqueued here.
    pub(crate) fn synchronize(&self) -> Result<()> {
        let gpu = self.gpu();
        let _current = gpu.current()?;
        // SAFETY: the handle is live: ours until drop, or borrowed from an owner who promised so.
        gpu.check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.handle) })
    }

    /// Enqueues a fill with one byte.
    pub(crate) fn fill(&self, address: u64, byte: u8, bytes: u64) -> Result<()> {
        let gpu = self.gpu();
        let _current = gpu.current()?;
        // SAFETY: the callers fill whole live buffers; the handle is live.
        let answer = unsafe { sys::cuMemsetD8Async(address, byte, bytes as usize, self.handle) };
        gpu.check("cuMemsetD8Async", answer)
    }

    /// Scratch memory of at least `bytes`, for launches that are enqueued before the guard is dropped.
    pub(crate) fn scratch(&self, bytes: u64) -> Result<(u64, MutexGuard<'_, Scratch>)> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if scratch.bytes < bytes {
            let gpu = self.gpu();
            // Freeing waits for the launches that still use it.
            if std::mem::take(&mut scratch.bytes) > 0 {
                gpu.free(scratch.address);
            }
            scratch.address = gpu.alloc(bytes)?;
            scratch.bytes = bytes;
        }
        Ok((scratch.address, scratch))
    }

    /// The counter of launches that are enqueued before the guard of its scratch is dropped.
    pub(crate) fn counter(&self, scratch: &mut Scratch) -> Result<u64> {
        if scratch.counter == 0 {
            let counter = self.gpu().alloc(COUNTER)?;
            self.fill(counter, 0, COUNTER)?;
            scratch.counter = counter;
        }
        Ok(scratch.counter)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Some(gpu) = self.gpu.upgrade() else { return };
        let scratch = self.scratch.get_mut().unwrap_or_else(PoisonError::into_inner);
        if scratch.bytes > 0 {
            gpu.free(scratch.address);
        }
        if scratch.counter > 0 {
            gpu.free(scratch.counter);
        }
        if self.owned
            && let Ok(_current) = gpu.current()
        {
            // SAFETY: ours, made in `new`, destroyed once; the driver finishes its work before it frees it.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.handle) };
        }
    }
}

/// Events between work on a stream.
pub(crate) struct Events {
    gpu: Arc<Gpu>,
    all: Vec<sys::CUevent>,
}

impl Events {
    /// So many events, none recorded yet.
    pub(crate) fn new(stream: &Stream, count: usize) -> Result<Self> {
        let gpu = stream.gpu();
        let mut events = Self { gpu: gpu.clone(), all: Vec::with_capacity(count) };
        let _current = gpu.current()?;
        for _ in 0..count {
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
            events.all.push(gpu.checked("cuEventCreate", event)?);
        }
        Ok(events)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// Enqueues an event: it is reached when everything enqueued before it is done.
    pub(crate) fn record(&self, event: usize, stream: &Stream) -> Result<()> {
        let _current = self.gpu.current()?;
        // SAFETY: the event lives until drop, the stream is live, both are of this context.
        self.gpu.checked("cuEventRecord", unsafe { result::event::record(self.all[event], stream.handle) })
    }

    /// Milliseconds from one to another, once the second is reached.
    pub(crate) fn elapsed_ms(&self, from: usize, to: usize) -> Result<f64> {
        let _current = self.gpu.current()?;
        // SAFETY: the event lives until drop.
        self.gpu.checked("cuEventSynchronize", unsafe { result::event::synchronize(self.all[to]) })?;
        // SAFETY: both events live until drop and were recorded.
        let elapsed = unsafe { result::event::elapsed(self.all[from], self.all[to]) };
        self.gpu.checked("cuEventElapsedTime", elapsed).map(f64::from)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Ok(_current) = self.gpu.current() {
            for &event in &self.all {
                // SAFETY: made in `new`, destroyed once.
                let _ = unsafe { result::event::destroy(event) };
            }
        }
    }
}
