//! A launch, and whether the kernel takes it.

use lacuna_ptx::{ParamType, Target};

use crate::decode::Kernel;
use crate::tensor::{Maps, TensorMap};

/// An argument of a launch.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// For a `.u32` parameter (also `.s32`, `.b32`).
    U32(u32),
    /// For a `.u64` parameter: an integer or an address.
    U64(u64),
    /// For an `.f32` parameter.
    F32(f32),
    /// For a `.b8 name[N]` parameter: `N` bytes.
    Bytes(Vec<u8>),
    /// For a `.align 64 .b8 name[128]` parameter: a tensor map. Its bytes mean nothing to a kernel that reads them.
    TensorMap(TensorMap),
}

/// A kernel, its grid and its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The kernel's name.
    pub entry: &'a str,
    /// CTAs along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a CTA along x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a CTA, in bytes.
    pub shared: u32,
    /// One for every parameter, in order.
    pub args: &'a [Arg],
}

fn describe(ty: ParamType) -> String {
    match ty {
        ParamType::U32 => ".u32".into(),
        ParamType::U64 => ".u64".into(),
        ParamType::F32 => ".f32".into(),
        ParamType::Bytes { bytes, .. } => format!(".b8[{bytes}]"),
    }
}

/// Checks a launch as the driver would; gives the parameter space, and the tensor maps in it.
pub(crate) fn params(kernel: &Kernel, launch: &Launch<'_>, target: Target) -> Result<(Vec<u8>, Maps), String> {
    let Launch { grid, block, shared, args, .. } = launch;
    if grid.contains(&0) || block.contains(&0) {
        return Err(format!("a grid of {grid:?} CTAs of {block:?} threads has nothing to run"));
    }
    let most = [(1 << 31) - 1, 65_535, 65_535];
    if let Some(axis) = (0..3).find(|axis| grid[*axis] > most[*axis]) {
        return Err(format!(
            "a grid may have {} CTAs along {}, and this one has {}",
            most[axis],
            ["x", "y", "z"][axis],
            grid[axis]
        ));
    }
    let threads = block.iter().map(|extent| u64::from(*extent)).product::<u64>();
    if threads > 1024 || block[2] > 64 {
        return Err(format!("a CTA may have 1024 threads, 64 of them along z, and this one has {block:?}"));
    }
    if let Some(required) = kernel.limits.required_threads.filter(|required| required != block) {
        return Err(format!("the kernel says .reqntid {required:?}, and the launch has {block:?} threads"));
    }
    crate::cluster::extents(&kernel.limits, *grid)?;
    // `.maxntid` bounds the product only.
    if let Some(max) = kernel.limits.max_threads
        && threads > max.iter().map(|extent| u64::from((*extent).max(1))).product()
    {
        return Err(format!("the kernel says .maxntid {max:?}, and the launch has {block:?} threads"));
    }
    let bytes = u64::from(kernel.static_shared) + u64::from(*shared);
    if bytes > u64::from(target.shared_per_cta()) {
        let limit = target.shared_per_cta();
        return Err(format!(
            "{bytes} bytes of shared memory ({} fixed, {shared} at launch) are more than the {limit} that a CTA may have on {target}",
            kernel.static_shared
        ));
    }
    if args.len() != kernel.params.len() {
        return Err(format!(
            "the kernel has {} parameters, and the launch {} arguments",
            kernel.params.len(),
            args.len()
        ));
    }
    let mut space = vec![0; kernel.param_bytes as usize];
    let mut maps = Maps::default();
    for ((at, param), arg) in kernel.params.iter().zip(args.iter()) {
        let bytes: &[u8] = match (param.ty, arg) {
            (ParamType::U32, Arg::U32(value)) => &value.to_le_bytes(),
            (ParamType::U64, Arg::U64(value)) => &value.to_le_bytes(),
            (ParamType::F32, Arg::F32(value)) => &value.to_le_bytes(),
            (ParamType::Bytes { bytes, .. }, Arg::Bytes(value)) if bytes as usize == value.len() => value,
            (ParamType::Bytes { align: 64.., bytes: 128 }, Arg::TensorMap(map)) => {
                map.check().map_err(|what| format!("parameter `{}`: {what}", param.name))?;
                maps.0.push((*at, map.clone()));
                &[]
            }
            (ty, _) => {
                let given = match arg {
                    Arg::U32(_) => "a U32".to_owned(),
                    Arg::U64(_) => "a U64".to_owned(),
                    Arg::F32(_) => "an F32".to_owned(),
                    Arg::Bytes(value) => format!("{} bytes", value.len()),
                    Arg::TensorMap(_) => "a tensor map, for which it would be .align 64 .b8[128]".to_owned(),
                };
                return Err(format!("parameter `{}` is {}, and the argument is {given}", param.name, describe(ty)));
            }
        };
        let at = *at as usize;
        space[at..at + bytes.len()].copy_from_slice(bytes);
    }
    Ok((space, maps))
}
