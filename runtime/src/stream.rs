//! Streams: queues of work on a device.

use std::{ffi::c_void, fmt, sync::Arc};

use crate::{Device, Result, ShapeError, cuda, device::Inner};

/// A queue of runs on a device, in order. Cloning shares it. On the emulator, where every run ends before the call does,
/// a stream is only a name.
#[derive(Clone)]
pub struct Stream {
    device: Device,
    cuda: Option<Arc<cuda::Stream>>,
}

impl Stream {
    /// A new stream. It does not wait for CUDA's legacy default stream.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(device: &Device) -> Result<Self> {
        let cuda = match &device.0 {
            Inner::Cuda(gpu) => Some(Arc::new(cuda::Stream::non_blocking(gpu)?)),
            Inner::Emulator(_) => None,
        };
        Ok(Self { device: device.clone(), cuda })
    }

    /// Another library's stream, a `CUstream` (or `cudaStream_t`) of the device's primary context; null is the legacy
    /// default stream.
    ///
    /// # Errors
    /// [`ShapeError::Foreign`] where the device is not CUDA.
    ///
    /// # Safety
    /// The stream must stay alive until this and its last clone are dropped.
    #[allow(unsafe_code)]
    pub unsafe fn borrow(device: &Device, stream: *mut c_void) -> Result<Self> {
        let Inner::Cuda(gpu) = &device.0 else {
            return Err(ShapeError::Foreign { device: device.name() }.into());
        };
        // SAFETY: the caller's promise.
        let cuda = unsafe { cuda::Stream::borrow(gpu, stream.cast()) };
        Ok(Self { device: device.clone(), cuda: Some(Arc::new(cuda)) })
    }

    /// Its device.
    pub fn device(&self) -> Device {
        self.device.clone()
    }

    /// Waits for everything enqueued on it.
    ///
    /// # Errors
    /// The driver's, among them those of the runs that were enqueued.
    pub fn synchronize(&self) -> Result<()> {
        self.cuda.as_ref().map_or(Ok(()), |stream| stream.synchronize())
    }

    pub(crate) fn cuda(&self) -> Option<&Arc<cuda::Stream>> {
        self.cuda.as_ref()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream on {}", self.device.name())
    }
}
