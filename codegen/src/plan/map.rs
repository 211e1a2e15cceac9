//! Tensor maps: what a bulk tensor copy knows of a tensor, described by names and extents. A device makes the 128 bytes of it
//! that a kernel takes as `.param .align 64 .b8 map[128]`.
//!
//! A copy moves a box: `tile` elements along every dimension, from coordinates that the kernel gives. What lies outside of the
//! extents is read as zeros and not written. The device checks what hardware asks: a base and strides that are multiples of
//! 16 bytes, strides below 2^40 bytes, at most 256 elements of a box along a dimension, rows of a box that are multiples of 16
//! bytes and, under a swizzle, just as long as its span.

use super::Expr;
use crate::ir::Elem;

/// A tensor map: one to five dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Where it begins.
    pub base: MapBase,
    /// What it holds.
    pub elem: Elem,
    /// Its innermost dimension, whose elements follow each other.
    pub inner: MapRow,
    /// The others, from the inside out.
    pub outer: Vec<MapDim>,
    /// How a box lies in shared memory.
    pub swizzle: Swizzle,
    /// How much of a line L2 fetches at once.
    pub promotion: Promotion,
}

/// Where the tensor of a map begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapBase {
    /// At the address of a tensor.
    Tensor(String),
    /// So many bytes from the start of the workspace.
    Workspace(Expr),
}

/// The innermost dimension of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapRow {
    /// Elements.
    pub extent: Expr,
    /// Elements of a box.
    pub tile: u32,
}

/// Any other dimension of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDim {
    /// Elements.
    pub extent: Expr,
    /// Between two neighbours.
    pub stride: MapStride,
    /// Elements of a box.
    pub tile: u32,
}

/// What lies between two neighbours along a dimension of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapStride {
    /// The stride of a tensor's dimension.
    Dim {
        /// The tensor.
        tensor: String,
        /// Its dimension, the outermost being 0.
        dim: usize,
    },
    /// [`WRAP`] elements less the stride of a tensor's dimension: see [`TensorMap::ragged`].
    WrapLess {
        /// The tensor.
        tensor: String,
        /// Its dimension, the outermost being 0.
        dim: usize,
    },
    /// So many elements.
    Elements(Expr),
}

/// Where the 16-byte pieces of a box's rows lie: bits 4 to 6 of a shared address are exchanged by bits 7 to 9, or fewer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// As they come.
    #[default]
    None,
    /// Over 32 bytes: bit 4 by bit 7.
    B32,
    /// Over 64 bytes: bits 4 and 5 by bits 7 and 8.
    B64,
    /// Over 128 bytes: bits 4 to 6 by bits 7 to 9.
    B128,
}

impl Swizzle {
    /// Bytes of a row of a box that it can hold; any number without one.
    pub const fn span(self) -> Option<u32> {
        match self {
            Swizzle::None => None,
            Swizzle::B32 => Some(32),
            Swizzle::B64 => Some(64),
            Swizzle::B128 => Some(128),
        }
    }
}

/// How much of a line L2 fetches from memory when a part of it is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Promotion {
    /// What is wanted.
    #[default]
    None,
    /// 64 bytes.
    B64,
    /// 128 bytes.
    B128,
    /// 256 bytes.
    B256,
}

/// Elements after which [`RAGGED_ORIGIN`] steps have gone around the address space, whatever the size of an element.
pub const WRAP: u64 = 1 << 34;

/// The coordinate along the wrapping dimension of a [ragged](TensorMap::ragged) map, and the extent of its rows.
pub const RAGGED_ORIGIN: u32 = 1 << 30;

/// The extent of dimensions that bound nothing: any coordinate of a row is below.
const UNBOUNDED: u64 = 0x7fff_0000;

impl TensorMap {
    /// A map over a packed tensor `[rows, heads, features]` (rows are the tensor's dimension `rows`, heads its dimension
    /// `heads`) whose boxes end where a document ends, wherever that is: `rows_tile` rows of `features_tile` features of one
    /// head.
    ///
    /// A box of a plain map would read on into the next document, and would overwrite it. Here a document of `len` rows from
    /// `first` on has bounds of its own, without a map of its own, by the way in which hardware makes addresses. The map has
    /// five dimensions, from the inside out:
    ///
    /// | dimension | extent | stride | coordinate of the box at `row` of the document |
    /// |---|---|---|---|
    /// | feature | `features` | | the feature |
    /// | x | 2^30 | s | 2^30 - `len` + `row` |
    /// | y | 0x7fff0000 | s | `first` + `len` |
    /// | z | 0x7fff0000 | 2^34 - s | 2^30 |
    /// | head | `heads` | that of heads | the head |
    ///
    /// with s the stride of rows. What is added to the base is, in elements,
    ///
    /// ```text
    /// s (2^30 - len + row) + s (first + len) + (2^34 - s) 2^30  =  s (first + row) + 2^64
    /// ```
    ///
    /// and addresses are modulo 2^64 bytes, so it is the row `first + row`. It is in bounds where x is: where `row < len`. The
    /// other extents bound nothing, and rows before the document's first one are not kept out.
    pub fn ragged(
        tensor: &str,
        elem: Elem,
        [rows, heads]: [usize; 2],
        extents: [Expr; 2],
        tile: [u32; 2],
    ) -> TensorMap {
        let [heads_extent, features] = extents;
        let [rows_tile, features_tile] = tile;
        let stride = |dim| MapStride::Dim { tensor: tensor.to_owned(), dim };
        let unbounded = |stride| MapDim { extent: UNBOUNDED.into(), stride, tile: 1 };
        TensorMap {
            base: MapBase::Tensor(tensor.to_owned()),
            elem,
            inner: MapRow { extent: features, tile: features_tile },
            outer: vec![
                MapDim { extent: u64::from(RAGGED_ORIGIN).into(), stride: stride(rows), tile: rows_tile },
                unbounded(stride(rows)),
                unbounded(MapStride::WrapLess { tensor: tensor.to_owned(), dim: rows }),
                MapDim { extent: heads_extent, stride: stride(heads), tile: 1 },
            ],
            swizzle: Swizzle::default(),
            promotion: Promotion::default(),
        }
    }

    /// The same map under a swizzle.
    #[must_use]
    pub fn swizzled(self, swizzle: Swizzle) -> TensorMap {
        TensorMap { swizzle, ..self }
    }

    /// The same map with so much of a line fetched at once.
    #[must_use]
    pub fn promoted(self, promotion: Promotion) -> TensorMap {
        TensorMap { promotion, ..self }
    }

    /// Bytes of a box in shared memory.
    pub fn box_bytes(&self) -> u64 {
        let elements = self.outer.iter().fold(u64::from(self.inner.tile), |product, dim| product * u64::from(dim.tile));
        elements * u64::from(self.elem.bytes())
    }

    /// The map with other expressions in the place of its own.
    pub(crate) fn replaced(&self, f: impl Fn(&Expr) -> Expr) -> TensorMap {
        let base = match &self.base {
            MapBase::Workspace(offset) => MapBase::Workspace(f(offset)),
            base @ MapBase::Tensor(_) => base.clone(),
        };
        let outer = self.outer.iter().map(|dim| {
            let stride = match &dim.stride {
                MapStride::Elements(expr) => MapStride::Elements(f(expr)),
                stride @ (MapStride::Dim { .. } | MapStride::WrapLess { .. }) => stride.clone(),
            };
            MapDim { extent: f(&dim.extent), stride, tile: dim.tile }
        });
        let inner = MapRow { extent: f(&self.inner.extent), tile: self.inner.tile };
        TensorMap { base, inner, outer: outer.collect(), ..self.clone() }
    }

    /// The names of tensors that it knows of.
    pub(crate) fn tensors_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let base = match &mut self.base {
            MapBase::Tensor(name) => Some(name),
            MapBase::Workspace(_) => None,
        };
        let strides = self.outer.iter_mut().filter_map(|dim| match &mut dim.stride {
            MapStride::Dim { tensor, .. } | MapStride::WrapLess { tensor, .. } => Some(tensor),
            MapStride::Elements(_) => None,
        });
        base.into_iter().chain(strides)
    }
}
