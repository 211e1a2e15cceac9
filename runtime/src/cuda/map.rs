//! Tensor maps as the driver makes them.

use std::ffi::c_void;

use cudarc::driver::sys::{
    self, CUtensorMapDataType_enum as DataType, CUtensorMapFloatOOBfill_enum as Fill,
    CUtensorMapInterleave_enum as Interleave, CUtensorMapL2promotion_enum as L2, CUtensorMapSwizzle_enum as Swizzles,
};
use lacuna_codegen::plan::Promotion;
use lacuna_emulator::{Swizzle, TensorElem, TensorMap};

use super::Gpu;
use crate::Result;

/// The 128 bytes of a map that was checked.
///
/// # Errors
/// What the driver says against it.
pub(super) fn encode(gpu: &Gpu, map: &TensorMap, promotion: Promotion) -> Result<sys::CUtensorMap> {
    let elem = match map.elem {
        TensorElem::Bf16 => DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        TensorElem::F16 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        TensorElem::F32 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        TensorElem::I32 => DataType::CU_TENSOR_MAP_DATA_TYPE_INT32,
    };
    let swizzle = match map.swizzle {
        Swizzle::None => Swizzles::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::B32 => Swizzles::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::B64 => Swizzles::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::B128 => Swizzles::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let promotion = match promotion {
        Promotion::None => L2::CU_TENSOR_MAP_L2_PROMOTION_NONE,
        Promotion::B64 => L2::CU_TENSOR_MAP_L2_PROMOTION_L2_64B,
        Promotion::B128 => L2::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
        Promotion::B256 => L2::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
    };
    let extents: Vec<u64> = map.dims.iter().map(|dim| dim.extent).collect();
    // The innermost dimension has none.
    let strides: Vec<u64> = map.dims.iter().skip(1).map(|dim| dim.stride).collect();
    let tile: Vec<u32> = map.dims.iter().map(|dim| dim.tile).collect();
    let every = vec![1u32; map.dims.len()];
    let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
    // SAFETY: `encoded` is a valid place for a map, of the alignment that its type has; extents, tile and `every` hold as many
    // numbers as there are dimensions, strides one fewer, and are read before the call returns. The address is not followed.
    let answer = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut encoded,
            elem,
            map.dims.len() as u32,
            map.base as *mut c_void,
            extents.as_ptr(),
            strides.as_ptr(),
            tile.as_ptr(),
            every.as_ptr(),
            Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            promotion,
            Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    gpu.check("cuTensorMapEncodeTiled", answer)?;
    Ok(encoded)
}
