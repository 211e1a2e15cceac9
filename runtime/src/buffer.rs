//! A block of a device's memory, freed with its last tensor.

use std::any::Any;

use crate::{Device, Result, device::Inner};

/// Device memory. Its address never changes.
pub(crate) struct Buffer {
    device: Device,
    address: u64,
    bytes: u64,
    owner: Owner,
}

/// Who frees it.
enum Owner {
    /// This buffer does.
    Device,
    /// Somebody else does, once this is dropped.
    Foreign { _keep: Option<Box<dyn Any + Send + Sync>> },
}

impl Buffer {
    /// New memory; its content is undefined, and reading it before writing it is an error on the emulator. No bytes have
    /// the address 0.
    pub(crate) fn new(device: &Device, bytes: u64) -> Result<Self> {
        let address = match (&device.0, bytes) {
            (_, 0) => 0,
            (Inner::Cuda(gpu), _) => gpu.alloc(bytes)?,
            (Inner::Emulator(emulated), _) => emulated.alloc(bytes)?,
        };
        Ok(Self { device: device.clone(), address, bytes, owner: Owner::Device })
    }

    /// Memory of somebody else, who keeps it valid while `keep` lives.
    pub(crate) fn foreign(device: &Device, address: u64, bytes: u64, keep: Option<Box<dyn Any + Send + Sync>>) -> Self {
        Self { device: device.clone(), address, bytes, owner: Owner::Foreign { _keep: keep } }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies from the device, after everything enqueued on it.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.assert_within(offset, out.len());
        match &self.device.0 {
            _ if out.is_empty() => Ok(()),
            Inner::Cuda(gpu) => gpu.read(self.address + offset, out),
            Inner::Emulator(emulated) => emulated.read(self.address + offset, out),
        }
    }

    /// The first byte from `offset` on that was never written, where the device knows.
    pub(crate) fn unwritten(&self, offset: u64, bytes: u64) -> Option<u64> {
        match &self.device.0 {
            Inner::Cuda(_) => None,
            Inner::Emulator(emulated) => {
                emulated.unwritten(self.address + offset, bytes).map(|address| address - self.address - offset)
            }
        }
    }

    /// Copies to the device, after everything enqueued on it.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.assert_within(offset, bytes.len());
        match &self.device.0 {
            _ if bytes.is_empty() => Ok(()),
            Inner::Cuda(gpu) => gpu.write(self.address + offset, bytes),
            Inner::Emulator(emulated) => emulated.write(self.address + offset, bytes),
        }
    }

    /// Sets every byte to zero.
    pub(crate) fn zero(&self) -> Result<()> {
        match &self.device.0 {
            _ if self.bytes == 0 => Ok(()),
            Inner::Cuda(gpu) => gpu.zero(self.address, self.bytes),
            Inner::Emulator(emulated) => emulated.zero(self.address, self.bytes),
        }
    }

    fn assert_within(&self, offset: u64, bytes: usize) {
        let end = offset.checked_add(bytes as u64);
        assert!(end.is_some_and(|end| end <= self.bytes), "a tensor reaches past its buffer: {end:?} > {}", self.bytes);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Owner::Device = self.owner
            && self.bytes > 0
        {
            match &self.device.0 {
                Inner::Cuda(gpu) => gpu.free(self.address),
                Inner::Emulator(emulated) => emulated.free(self.address),
            }
        }
    }
}
