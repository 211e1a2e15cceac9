//! Tensors: typed, strided views of device memory.

use std::{any::Any, fmt, ops::Range, sync::Arc};

use bytemuck::Pod;
use half::{bf16, f16};
use lacuna_codegen::ir::Elem;

use crate::{
    CheckError, Device, Error, Result, ShapeError,
    buffer::Buffer,
    check::index_of,
    layout::{self, Layout},
};

/// A Rust type that a tensor can hold: `bf16`, `f16` (of the `half` crate), `f32` and `i32`.
pub trait Element: Pod + sealed::Sealed {
    /// The same type in the compiler's words.
    const DTYPE: Elem;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! element {
    ($($ty:ty, $elem:ident;)*) => {$(
        impl sealed::Sealed for $ty {}
        impl Element for $ty {
            const DTYPE: Elem = Elem::$elem;
        }
    )*};
}

element! { bf16, Bf16; f16, F16; f32, F32; i32, I32; }

/// A view of device memory: an element type, a shape, and a stride for every dimension.
///
/// Cloning and slicing share the memory, which is freed with the last tensor that sees it. Extents and strides count
/// elements, outermost dimension first; a contiguous tensor of shape `[tokens, heads, width]` has strides
/// `[heads * width, width, 1]`.
///
/// Copies between host and device wait for everything that was enqueued on the device, on any stream, so a tensor reads
/// as the last run left it.
///
/// ```
/// use lacuna_runtime::{Device, Tensor};
///
/// let device = Device::emulator();
/// // Q, K and V of 2 tokens, 3 heads of width 4, as one projection writes them.
/// let data: Vec<f32> = (0..2 * 3 * 3 * 4).map(|i| i as f32).collect();
/// let qkv = Tensor::from_slice(&device, &[2, 3, 3, 4], &data)?;
/// let k = qkv.select(1, 1)?;
/// assert_eq!((k.shape(), k.strides()), (&[2, 3, 4][..], &[36, 4, 1][..]));
/// assert_eq!(k.to_vec::<f32>()?[..4], [12.0, 13.0, 14.0, 15.0]);
/// # Ok::<(), lacuna_runtime::Error>(())
/// ```
#[derive(Clone)]
pub struct Tensor {
    dtype: Elem,
    layout: Layout,
    /// Byte offset of the first element in the buffer.
    offset: u64,
    buffer: Arc<Buffer>,
}

impl Tensor {
    /// A contiguous tensor of `data`, in row-major order.
    ///
    /// # Errors
    /// [`ShapeError::Length`] where `data` and `shape` differ in size; no room on the device.
    pub fn from_slice<T: Element>(device: &Device, shape: &[u64], data: &[T]) -> Result<Self> {
        let expected = layout::numel(shape)?;
        if data.len() as u64 != expected {
            let found = data.len() as u64;
            return Err(ShapeError::Length { unit: "elements", shape: shape.to_vec(), found, expected }.into());
        }
        Self::from_bytes(device, T::DTYPE, shape, bytemuck::cast_slice(data))
    }

    /// A contiguous tensor of little-endian bytes, in row-major order.
    ///
    /// # Errors
    /// [`ShapeError::Length`] where `bytes` and `shape` differ in size; no room on the device.
    pub fn from_bytes(device: &Device, dtype: Elem, shape: &[u64], bytes: &[u8]) -> Result<Self> {
        let expected = layout::bytes(shape, storable(dtype)?)?;
        if bytes.len() as u64 != expected {
            let found = bytes.len() as u64;
            return Err(ShapeError::Length { unit: "bytes", shape: shape.to_vec(), found, expected }.into());
        }
        let tensor = Self::uninit(device, dtype, shape)?;
        tensor.buffer.write(0, bytes)?;
        Ok(tensor)
    }

    /// A contiguous tensor of `data`, rounded to `dtype` (to nearest, ties to even; integers are truncated).
    ///
    /// # Errors
    /// [`ShapeError::Length`] where `data` and `shape` differ in size; no room on the device.
    pub fn from_f32(device: &Device, dtype: Elem, shape: &[u64], data: &[f32]) -> Result<Self> {
        match dtype {
            Elem::Bf16 => Self::from_slice(device, shape, &convert(data, bf16::from_f32)),
            Elem::F16 => Self::from_slice(device, shape, &convert(data, f16::from_f32)),
            Elem::I32 => Self::from_slice(device, shape, &convert(data, |x| x as i32)),
            _ => {
                storable(dtype)?;
                Self::from_slice(device, shape, data)
            }
        }
    }

    /// A contiguous tensor of zeros.
    ///
    /// # Errors
    /// No room on the device.
    pub fn zeros(device: &Device, dtype: Elem, shape: &[u64]) -> Result<Self> {
        let tensor = Self::uninit(device, dtype, shape)?;
        tensor.buffer.zero()?;
        Ok(tensor)
    }

    /// A contiguous tensor of undefined content. On the emulator, reading an element before writing it is an error.
    ///
    /// # Errors
    /// No room on the device.
    pub fn uninit(device: &Device, dtype: Elem, shape: &[u64]) -> Result<Self> {
        let bytes = layout::bytes(shape, storable(dtype)?)?;
        let buffer = Arc::new(Buffer::new(device, bytes)?);
        Ok(Self { dtype, layout: Layout::contiguous(shape), offset: 0, buffer })
    }

    /// A contiguous tensor of poison ([`Tensor::poison`]).
    ///
    /// # Errors
    /// No room on the device.
    pub fn poisoned(device: &Device, dtype: Elem, shape: &[u64]) -> Result<Self> {
        let tensor = Self::uninit(device, dtype, shape)?;
        tensor.poison()?;
        Ok(tensor)
    }

    /// A view of memory that somebody else owns on a CUDA device: another library's tensor. `strides` count elements.
    /// `keep` is dropped with the last view.
    ///
    /// Runs that use it must be ordered after the work that wrote it: run on the owner's stream
    /// ([`Stream::borrow`](crate::Stream::borrow)), or synchronise first.
    ///
    /// # Errors
    /// [`ShapeError`] where the device is not CUDA, or the view's size does not fit 64 bits.
    ///
    /// # Safety
    /// Every element of the view must lie in an allocation of this device's primary context, which must stay allocated
    /// until `keep` and this tensor's last clone are dropped; nothing else may write there while a run reads it, or
    /// touch it while a run writes it.
    #[allow(unsafe_code)]
    pub unsafe fn foreign(
        device: &Device,
        dtype: Elem,
        shape: &[u64],
        strides: &[u64],
        address: u64,
        keep: Option<Box<dyn Any + Send + Sync>>,
    ) -> Result<Self> {
        if !device.is_cuda() {
            return Err(ShapeError::Foreign { device: device.name() }.into());
        }
        let layout = Layout::new(shape, strides)?;
        let bytes = layout.span()?.checked_mul(storable(dtype)?);
        let bytes = bytes.ok_or_else(|| ShapeError::TooLarge { shape: shape.to_vec() })?;
        let buffer = Arc::new(Buffer::foreign(device, address, bytes, keep));
        Ok(Self { dtype, layout, offset: 0, buffer })
    }

    /// What it holds.
    pub fn dtype(&self) -> Elem {
        self.dtype
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[u64] {
        self.layout.shape()
    }

    /// Strides in elements, one a dimension.
    pub fn strides(&self) -> &[u64] {
        self.layout.strides()
    }

    /// The number of elements.
    pub fn numel(&self) -> u64 {
        self.layout.numel()
    }

    /// The device that holds it.
    pub fn device(&self) -> &Device {
        self.buffer.device()
    }

    /// The device address of its first element; 0 where it has no elements of its own.
    pub fn address(&self) -> u64 {
        self.buffer.address() + self.offset
    }

    /// Bytes from its first element to the end of its last one; 0 where it has no elements.
    pub fn span_bytes(&self) -> u64 {
        self.layout.span_within_memory() * u64::from(self.dtype.bytes())
    }

    /// Whether its elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.layout.is_contiguous()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Another view of the same memory: `start` counts elements from this tensor's first one.
    ///
    /// # Errors
    /// [`ShapeError::Outside`] where it would leave the memory that this tensor's buffer has.
    pub fn strided(&self, start: u64, shape: &[u64], strides: &[u64]) -> Result<Self> {
        let layout = Layout::new(shape, strides)?;
        let size = u64::from(self.dtype.bytes());
        let end = (self.buffer.bytes() - self.offset) / size;
        let span = layout.span()?;
        let last = start.checked_add(span).ok_or_else(|| ShapeError::TooLarge { shape: shape.to_vec() })?;
        if last > end {
            let (shape, strides) = (shape.to_vec(), strides.to_vec());
            return Err(ShapeError::Outside { shape, strides, start, last: last.saturating_sub(1), end }.into());
        }
        Ok(Self { dtype: self.dtype, layout, offset: self.offset + start * size, buffer: self.buffer.clone() })
    }

    /// The part of dimension `dim` within `range`.
    ///
    /// # Errors
    /// [`ShapeError`] where there is no such dimension or range.
    pub fn slice(&self, dim: usize, range: Range<u64>) -> Result<Self> {
        let Range { start, end } = range;
        let mut shape = self.shape().to_vec();
        let extent = *shape.get(dim).ok_or_else(|| ShapeError::Dimension { dim, shape: shape.clone() })?;
        if start > end || end > extent {
            return Err(ShapeError::Range { start, end, dim, shape }.into());
        }
        shape[dim] = end - start;
        let skip = if layout::numel(&shape)? == 0 { 0 } else { start * self.strides()[dim] };
        self.strided(skip, &shape, self.strides())
    }

    /// Index `index` of dimension `dim`, without that dimension: K of a fused `[tokens, 3, heads, width]` is
    /// `select(1, 1)`.
    ///
    /// # Errors
    /// [`ShapeError`] where there is no such dimension or index.
    pub fn select(&self, dim: usize, index: u64) -> Result<Self> {
        let one = self.slice(dim, index..index.saturating_add(1))?;
        let drop_dim = |all: &[u64]| [&all[..dim], &all[dim + 1..]].concat();
        one.strided(0, &drop_dim(one.shape()), &drop_dim(one.strides()))
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`ShapeError::Reshape`] where it is not contiguous, or the numbers of elements differ.
    pub fn reshape(&self, shape: &[u64]) -> Result<Self> {
        let refuse = |why| ShapeError::Reshape { from: self.shape().to_vec(), to: shape.to_vec(), why };
        if layout::numel(shape)? != self.numel() {
            return Err(refuse("the numbers of elements differ").into());
        }
        if !self.is_contiguous() {
            return Err(refuse("it is not contiguous").into());
        }
        self.strided(0, shape, Layout::contiguous(shape).strides())
    }

    /// A contiguous copy on `device`.
    ///
    /// # Errors
    /// No room on the device; elements never written, on the emulator.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Self::from_bytes(device, self.dtype, self.shape(), &self.to_bytes()?)
    }

    /// Every element in row-major order.
    ///
    /// # Errors
    /// [`ShapeError::Dtype`] where it holds another type; elements never written, on the emulator.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype {
            return Err(ShapeError::Dtype { found: self.dtype.name(), asked: T::DTYPE.name() }.into());
        }
        let bytes = self.to_bytes()?;
        let mut out = vec![T::zeroed(); bytes.len() / size_of::<T>()];
        bytemuck::cast_slice_mut(&mut out).copy_from_slice(&bytes);
        Ok(out)
    }

    /// Every element as f32, in row-major order. Exact for floats; integers past 2^24 round.
    ///
    /// # Errors
    /// Elements never written, on the emulator.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        Ok(self.to_f64_vec()?.into_iter().map(|x| x as f32).collect())
    }

    /// Every element as f64, exactly, in row-major order.
    ///
    /// # Errors
    /// Elements never written, on the emulator.
    pub fn to_f64_vec(&self) -> Result<Vec<f64>> {
        Ok(match self.dtype {
            Elem::Bf16 => convert(&self.to_vec::<bf16>()?, bf16::to_f64),
            Elem::F16 => convert(&self.to_vec::<f16>()?, f16::to_f64),
            Elem::F32 => convert(&self.to_vec::<f32>()?, f64::from),
            _ => convert(&self.to_vec::<i32>()?, f64::from),
        })
    }

    /// Every element's bytes, little-endian, in row-major order.
    ///
    /// # Errors
    /// Elements never written, on the emulator.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let size = u64::from(self.dtype.bytes());
        let mut out = vec![0; layout::host_bytes(self.shape(), size)?];
        if self.by_span() {
            let mut span = vec![0; usize::try_from(self.span_bytes()).map_err(|_| self.too_large())?];
            self.buffer.read(self.offset, &mut span)?;
            self.layout.for_each_run(|start, at, run| {
                let (from, to, bytes) = ((start * size) as usize, (at * size) as usize, (run * size) as usize);
                out[to..to + bytes].copy_from_slice(&span[from..from + bytes]);
                Ok(())
            })?;
        } else {
            self.layout.for_each_run(|start, at, run| {
                let (to, bytes) = ((at * size) as usize, (run * size) as usize);
                if let Some(byte) = self.buffer.unwritten(self.offset + start * size, run * size) {
                    return Err(CheckError::Unwritten { index: index_of(self.shape(), at + byte / size) }.into());
                }
                self.buffer.read(self.offset + start * size, &mut out[to..to + bytes])
            })?;
        }
        Ok(out)
    }

    /// Overwrites every element with `data`, in row-major order.
    ///
    /// # Errors
    /// [`ShapeError`] where it holds another type or number of elements.
    pub fn copy_from_slice<T: Element>(&self, data: &[T]) -> Result<()> {
        if T::DTYPE != self.dtype {
            return Err(ShapeError::Dtype { found: self.dtype.name(), asked: T::DTYPE.name() }.into());
        }
        if data.len() as u64 != self.numel() {
            let (shape, found) = (self.shape().to_vec(), data.len() as u64);
            return Err(ShapeError::Length { unit: "elements", shape, found, expected: self.numel() }.into());
        }
        self.write_bytes(bytemuck::cast_slice(data))
    }

    /// Overwrites every element with poison: a NaN that no instruction makes (`bf16` 0x7fca, `f16` 0x7eca, `f32`
    /// 0x7fcacaca), or the least integer (`i32`). Elements that are still poison after a run were not written.
    ///
    /// # Errors
    /// The device's.
    pub fn poison(&self) -> Result<()> {
        let one = poison_bytes(self.dtype);
        self.write_bytes(&one.repeat(usize::try_from(self.numel()).map_err(|_| self.too_large())?))
    }

    /// The row-major index of the first element that is still poison.
    ///
    /// # Errors
    /// The device's.
    pub fn first_poison(&self) -> Result<Option<u64>> {
        let one = poison_bytes(self.dtype);
        let found = self.to_bytes()?.chunks_exact(one.len()).position(|element| element == one);
        Ok(found.map(|index| index as u64))
    }

    /// Writes row-major bytes to the view, and to nothing between its elements.
    fn write_bytes(&self, data: &[u8]) -> Result<()> {
        let size = u64::from(self.dtype.bytes());
        if self.by_span() {
            let mut span = vec![0; usize::try_from(self.span_bytes()).map_err(|_| self.too_large())?];
            self.buffer.read(self.offset, &mut span)?;
            self.layout.for_each_run(|start, at, run| {
                let (to, from, bytes) = ((start * size) as usize, (at * size) as usize, (run * size) as usize);
                span[to..to + bytes].copy_from_slice(&data[from..from + bytes]);
                Ok(())
            })?;
            self.buffer.write(self.offset, &span)
        } else {
            self.layout.for_each_run(|start, at, run| {
                let (from, bytes) = ((at * size) as usize, (run * size) as usize);
                self.buffer.write(self.offset + start * size, &data[from..from + bytes])
            })
        }
    }

    /// Whether the host gets the whole span in one copy: on CUDA a copy for each run is a driver call, which takes as long as
    /// [`A_CALL`] bytes do.
    fn by_span(&self) -> bool {
        let apart = self.device().is_cuda() && !self.is_contiguous();
        apart && self.span_bytes() / A_CALL <= self.layout.runs()
    }

    fn too_large(&self) -> Error {
        ShapeError::TooLarge { shape: self.shape().to_vec() }.into()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor {}{:?}", self.dtype.name(), self.shape())?;
        if !self.is_contiguous() {
            write!(f, " strides {:?}", self.strides())?;
        }
        write!(f, " on {}", self.device().name())
    }
}

/// Bytes that are copied in the time of a driver call, some 10 us.
const A_CALL: u64 = 64 << 10;

fn convert<A: Copy, B>(data: &[A], f: impl Fn(A) -> B) -> Vec<B> {
    data.iter().map(|&x| f(x)).collect()
}

/// Bytes of an element, for types that have any.
fn storable(dtype: Elem) -> Result<u64, ShapeError> {
    match dtype.bytes() {
        0 => Err(ShapeError::Unstorable { dtype: dtype.name() }),
        bytes => Ok(u64::from(bytes)),
    }
}

/// One element of poison. PTX makes the canonical NaN, 0x7fff and 0x7fffffff, and never these.
fn poison_bytes(dtype: Elem) -> &'static [u8] {
    match dtype {
        Elem::Bf16 => &[0xca, 0x7f],
        Elem::F16 => &[0xca, 0x7e],
        Elem::F32 => &[0xca, 0xca, 0xca, 0x7f],
        _ => &[0, 0, 0, 0x80],
    }
}
