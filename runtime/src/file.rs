//! Tensors in safetensors files.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
};

use lacuna_codegen::ir::Elem;
use safetensors::tensor::{Dtype, TensorInfo};
use serde::{Deserialize, Serialize};

use crate::{Device, Error, FileError, Result, Tensor, WholeFile};

/// The most bytes of a header (the format's own limit).
const MOST_HEADER: u64 = 100_000_000;
/// The key of the metadata, which no tensor may have.
const METADATA: &str = "__metadata__";

/// The tensors of a file, on a device.
#[derive(Clone, Debug)]
pub struct Tensors {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

impl Tensors {
    /// A tensor by its name.
    ///
    /// # Errors
    /// [`FileError::Missing`], with the names that there are.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| {
            let known = self.tensors.keys().cloned().collect::<Vec<_>>().join(", ");
            FileError::Missing { path: self.path.clone(), name: name.to_owned(), known }.into()
        })
    }

    /// A tensor by its name, of this shape; `None` stands for any extent.
    ///
    /// # Errors
    /// [`FileError::Missing`], [`FileError::Shape`].
    pub fn get_shaped(&self, name: &str, shape: &[Option<u64>]) -> Result<&Tensor> {
        let tensor = self.get(name)?;
        let fits = |(found, expected): (&u64, &Option<u64>)| expected.is_none_or(|expected| expected == *found);
        if tensor.shape().len() == shape.len() && tensor.shape().iter().zip(shape).all(fits) {
            return Ok(tensor);
        }
        let extents = shape.iter().map(|extent| extent.map_or("_".to_owned(), |extent| extent.to_string()));
        let expected = format!("[{}]", extents.collect::<Vec<_>>().join(", "));
        let found = tensor.shape().to_vec();
        Err(FileError::Shape { path: self.path.clone(), name: name.to_owned(), found, expected }.into())
    }

    /// Every tensor with its name, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The file's metadata.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

/// The JSON at the head of a file.
#[derive(Serialize, Deserialize)]
struct Header {
    #[serde(rename = "__metadata__", default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<String, TensorInfo>,
}

/// Reads every tensor of a safetensors file onto a device.
///
/// # Errors
/// [`FileError`]: no such file, one that is cut short, a bad header, an element type other than BF16, F16, F32 and I32;
/// no room on the device.
pub fn load(device: &Device, path: impl AsRef<Path>) -> Result<Tensors> {
    let path = path.as_ref();
    let io = |what| move |source| FileError::Io { path: path.to_owned(), what, source };
    let bad = |what: String| FileError::Header { path: path.to_owned(), what };
    let mut file = File::open(path).map_err(io("open"))?;
    let found = file.metadata().map_err(io("read"))?.len();
    let short = |expected| FileError::CutShort { path: path.to_owned(), found, expected };
    if found < 8 {
        return Err(short(8).into());
    }
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(io("read"))?;
    let length = u64::from_le_bytes(length);
    if length > MOST_HEADER {
        return Err(bad(format!("its length is given as {length} bytes, and at most {MOST_HEADER} are allowed")).into());
    }
    if found < 8 + length {
        return Err(short(8 + length).into());
    }
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json).map_err(io("read"))?;
    let header: Header = serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?;
    let mut infos: Vec<_> = header.tensors.into_iter().collect();
    infos.sort_by_key(|(_, info)| info.data_offsets);
    let end = check(path, &infos)?;
    let expected = (8 + length).saturating_add(end);
    if found < expected {
        return Err(short(expected).into());
    }
    if found > expected {
        return Err(FileError::Trailing { path: path.to_owned(), extra: found - expected }.into());
    }
    let mut tensors = BTreeMap::new();
    for (name, info) in infos {
        // In the order of the offsets, which follow each other without gaps.
        let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
        file.read_exact(&mut bytes).map_err(io("read"))?;
        let shape: Vec<u64> = info.shape.iter().map(|&extent| extent as u64).collect();
        let dtype = elem(info.dtype).expect("`check` refused the others");
        tensors.insert(name, Tensor::from_bytes(device, dtype, &shape, &bytes)?);
    }
    Ok(Tensors { path: path.to_owned(), tensors, metadata: header.metadata })
}

/// That the tensors, sorted by offset, follow each other without gaps, each as long as its shape says; the bytes of all.
fn check(path: &Path, infos: &[(String, TensorInfo)]) -> Result<u64, FileError> {
    let mut at = 0;
    for (name, info) in infos {
        let path = || path.to_owned();
        let Some(dtype) = elem(info.dtype) else {
            return Err(FileError::Dtype { path: path(), name: name.clone(), found: info.dtype.to_string() });
        };
        let (begin, end) = info.data_offsets;
        if begin != at || end < begin {
            let what = format!("tensor `{name}` lies at bytes {begin}..{end}, and the one before it ends at {at}");
            return Err(FileError::Header { path: path(), what });
        }
        let size = info.shape.iter().try_fold(dtype.bytes() as usize, |size, &extent| size.checked_mul(extent));
        if size != Some(end - begin) {
            let (shape, given) = (&info.shape, end - begin);
            let what = format!("tensor `{name}` of {} {shape:?} does not fill its {given} bytes", info.dtype);
            return Err(FileError::Header { path: path(), what });
        }
        at = end;
    }
    Ok(at as u64)
}

fn elem(dtype: Dtype) -> Option<Elem> {
    match dtype {
        Dtype::BF16 => Some(Elem::Bf16),
        Dtype::F16 => Some(Elem::F16),
        Dtype::F32 => Some(Elem::F32),
        Dtype::I32 => Some(Elem::I32),
        _ => None,
    }
}

/// Writes tensors to a safetensors file, contiguous, in the order of their names. The same tensors and metadata give the
/// same bytes. The file appears under its name whole and synced, or not at all: it is written beside its place first.
///
/// # Errors
/// [`FileError::Name`] for a reserved or repeated name; [`FileError::Io`] where it cannot be written, a full disk
/// included; the device's errors. Then what was there before is there still.
pub fn save<'t>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (&'t str, &'t Tensor)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    let mut sorted = BTreeMap::new();
    for (name, tensor) in tensors {
        let refuse = |why| FileError::Name { path: path.to_owned(), name: name.to_owned(), why };
        if name == METADATA {
            return Err(refuse("the format keeps this name for itself").into());
        }
        if sorted.insert(name, tensor).is_some() {
            return Err(refuse("two tensors have this name").into());
        }
    }
    let mut header = Header { metadata: metadata.clone(), tensors: BTreeMap::new() };
    let mut at = 0;
    // The format asks for aligned tensors: those of wider elements come first.
    let order = |size: u32| sorted.iter().filter(move |(_, tensor)| tensor.dtype().bytes() == size);
    for (name, tensor) in order(4).chain(order(2)) {
        let bytes = crate::layout::host_bytes(tensor.shape(), tensor.dtype().bytes().into())?;
        let dtype = match tensor.dtype() {
            Elem::Bf16 => Dtype::BF16,
            Elem::F16 => Dtype::F16,
            Elem::I32 => Dtype::I32,
            _ => Dtype::F32,
        };
        let shape = tensor.shape().iter().map(|&extent| extent as usize).collect();
        let info = TensorInfo { dtype, shape, data_offsets: (at, at + bytes) };
        header.tensors.insert((*name).to_owned(), info);
        at += bytes;
    }
    let bad = |error: serde_json::Error| FileError::Header { path: path.to_owned(), what: error.to_string() };
    let mut json = serde_json::to_vec(&header).map_err(bad)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    if json.len() as u64 > MOST_HEADER {
        let what = format!("it has {} bytes, and at most {MOST_HEADER} are allowed", json.len());
        return Err(FileError::Header { path: path.to_owned(), what }.into());
    }
    let write = |source| Error::from(FileError::Io { path: path.to_owned(), what: "write", source });
    let mut file = WholeFile::create(path).map_err(write)?;
    {
        let mut out = BufWriter::new(&mut file);
        out.write_all(&(json.len() as u64).to_le_bytes()).map_err(write)?;
        out.write_all(&json).map_err(write)?;
        for (_, tensor) in order(4).chain(order(2)) {
            out.write_all(&tensor.to_bytes()?).map_err(write)?;
        }
        out.flush().map_err(write)?;
    }
    file.keep().map_err(write)
}
