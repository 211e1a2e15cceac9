//! Tensor maps of a launch: from names and expressions to numbers that were checked.

use lacuna_codegen::{
    ir::Elem,
    plan::{self, MapBase, MapStride, Promotion, WRAP},
};
use lacuna_emulator::{TensorDim, TensorElem, TensorMap};

use super::{BindError, KernelArg, Known};
use crate::Tensor;

/// A tensor map with every number known, except where its workspace lies.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Map {
    /// Its base counts from the workspace's start where it `is_workspace`.
    map: TensorMap,
    promotion: Promotion,
    is_workspace: bool,
}

/// What the resolver says of an argument that is one.
pub(super) enum MapError {
    /// It is the caller's fault.
    Bind(BindError),
    /// It is the plan's fault.
    Plan(String),
}

impl From<BindError> for MapError {
    fn from(error: BindError) -> Self {
        MapError::Bind(error)
    }
}

impl Map {
    /// The argument, once the workspace is placed.
    pub(super) fn placed(&self, workspace: u64) -> KernelArg {
        let mut map = self.map.clone();
        if self.is_workspace {
            map.base += workspace;
        }
        KernelArg::Map(Box::new(map), self.promotion)
    }

    /// Computes and checks a map. `tensor` finds a tensor of the plan; nothing is launched with it where the grid is `empty`, and
    /// then it may have no elements.
    pub(super) fn resolve<'t>(
        map: &plan::TensorMap,
        known: &Known<'_>,
        tensor: impl Fn(&str) -> Result<&'t Tensor, String>,
        [entry, what]: [&str; 2],
        workspace: u64,
        empty: bool,
    ) -> Result<Map, MapError> {
        let find = |name: &str| tensor(name).map_err(MapError::Plan);
        let elem = match map.elem {
            Elem::Bf16 => TensorElem::Bf16,
            Elem::F16 => TensorElem::F16,
            Elem::F32 => TensorElem::F32,
            Elem::I32 => TensorElem::I32,
            Elem::Bool => {
                return Err(MapError::Plan(format!("{what} is a tensor map of bool, which has no form in memory")));
            }
        };
        let (base, is_workspace) = match &map.base {
            MapBase::Tensor(name) => (find(name)?.address(), false),
            MapBase::Workspace(offset) => (known.eval(offset, || what.to_owned())?, true),
        };
        if is_workspace && base > workspace {
            let message = format!("{what} lies at byte {base} of a workspace of {workspace} bytes");
            return Err(MapError::Plan(message));
        }
        let stride = |tensor: &str, dim: usize| {
            let found = find(tensor)?.strides().get(dim).copied();
            found.ok_or_else(|| MapError::Plan(format!("{what} is of no dimension {dim} of `{tensor}`")))
        };
        let bytes = u64::from(elem.bytes());
        let refuse = |what: String| BindError::TensorMap { entry: entry.to_owned(), argument: what };
        let inner = known.eval(&map.inner.extent, || what.to_owned())?;
        let mut dims = vec![TensorDim { extent: inner, stride: bytes, tile: map.inner.tile }];
        for dim in &map.outer {
            let extent = known.eval(&dim.extent, || what.to_owned())?;
            let elements = match &dim.stride {
                MapStride::Dim { tensor, dim } => stride(tensor, *dim)?,
                MapStride::WrapLess { tensor, dim } => {
                    let stride = stride(tensor, *dim)?;
                    WRAP.checked_sub(stride).ok_or_else(|| {
                        refuse(format!("{what}: dimension {dim} of tensor `{tensor}` has a stride of {stride} elements; at most {WRAP} fit"))
                    })?
                }
                MapStride::Elements(expr) => known.eval(expr, || what.to_owned())?,
            };
            // What is never followed may be anything.
            let stride = if extent == 1 { 16 } else { elements.saturating_mul(bytes) };
            dims.push(TensorDim { extent, stride, tile: dim.tile });
        }
        let swizzle = match map.swizzle {
            plan::Swizzle::None => lacuna_emulator::Swizzle::None,
            plan::Swizzle::B32 => lacuna_emulator::Swizzle::B32,
            plan::Swizzle::B64 => lacuna_emulator::Swizzle::B64,
            plan::Swizzle::B128 => lacuna_emulator::Swizzle::B128,
        };
        let map = Map { map: TensorMap { base, elem, dims, swizzle }, promotion: map.promotion, is_workspace };
        if !empty {
            map.map.check().map_err(|why| refuse(format!("{what}: {why}")))?;
        }
        Ok(map)
    }
}
