//! Shapes and strides, in elements, apart from any memory.

use crate::{Result, ShapeError};

/// The number of elements of a shape.
pub(crate) fn numel(shape: &[u64]) -> Result<u64, ShapeError> {
    let product = shape.iter().try_fold(1u64, |product, &extent| product.checked_mul(extent));
    // A zero extent makes the product zero however large the others are.
    if shape.contains(&0) { Ok(0) } else { product.ok_or_else(|| ShapeError::TooLarge { shape: shape.to_vec() }) }
}

/// The bytes of a contiguous tensor.
pub(crate) fn bytes(shape: &[u64], size: u64) -> Result<u64, ShapeError> {
    numel(shape)?.checked_mul(size).ok_or_else(|| ShapeError::TooLarge { shape: shape.to_vec() })
}

/// The same, of a copy on the host.
pub(crate) fn host_bytes(shape: &[u64], size: u64) -> Result<usize, ShapeError> {
    let bytes = bytes(shape, size)?;
    isize::try_from(bytes).map(|bytes| bytes as usize).map_err(|_| ShapeError::TooLarge { shape: shape.to_vec() })
}

/// A shape and its strides, of equal length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    shape: Vec<u64>,
    strides: Vec<u64>,
}

impl Layout {
    pub(crate) fn new(shape: &[u64], strides: &[u64]) -> Result<Self, ShapeError> {
        if shape.len() != strides.len() {
            return Err(ShapeError::Strides { shape: shape.to_vec(), strides: strides.to_vec() });
        }
        numel(shape)?;
        Ok(Self { shape: shape.to_vec(), strides: strides.to_vec() })
    }

    /// Row-major without gaps. The shape's size is known to fit.
    pub(crate) fn contiguous(shape: &[u64]) -> Self {
        let mut strides = vec![1u64; shape.len()];
        for dim in (1..shape.len()).rev() {
            strides[dim - 1] = strides[dim].saturating_mul(shape[dim].max(1));
        }
        Self { shape: shape.to_vec(), strides }
    }

    pub(crate) fn shape(&self) -> &[u64] {
        &self.shape
    }

    pub(crate) fn strides(&self) -> &[u64] {
        &self.strides
    }

    pub(crate) fn numel(&self) -> u64 {
        if self.shape.contains(&0) { 0 } else { self.shape.iter().product() }
    }

    /// Elements from the first to one past the last.
    pub(crate) fn span(&self) -> Result<u64, ShapeError> {
        if self.numel() == 0 {
            return Ok(0);
        }
        let reach = |(&extent, &stride): (&u64, &u64)| (extent - 1).checked_mul(stride);
        let last = self.shape.iter().zip(&self.strides).try_fold(0u64, |sum, dim| sum.checked_add(reach(dim)?));
        last.and_then(|last| last.checked_add(1)).ok_or_else(|| ShapeError::TooLarge { shape: self.shape.clone() })
    }

    /// The same, of a layout that is known to lie within memory.
    pub(crate) fn span_within_memory(&self) -> u64 {
        self.span().unwrap_or_else(|_| unreachable!("a tensor's span was checked when it was made"))
    }

    pub(crate) fn is_contiguous(&self) -> bool {
        self.dense_tail() == 0
    }

    /// The first dimension from which on the elements lie without gaps. Strides of extents up to 1 mean nothing.
    fn dense_tail(&self) -> usize {
        if self.numel() == 0 {
            return 0;
        }
        let mut expected = 1;
        for dim in (0..self.shape.len()).rev() {
            if self.shape[dim] > 1 && self.strides[dim] != expected {
                return dim + 1;
            }
            expected *= self.shape[dim];
        }
        0
    }

    /// How many runs of elements without gaps there are.
    pub(crate) fn runs(&self) -> u64 {
        self.shape[..self.dense_tail()].iter().product()
    }

    /// Calls `f(start, index, length)` for every run of elements without gaps, in row-major order: `start` is where it
    /// lies, `index` its row-major index, both in elements.
    pub(crate) fn for_each_run(&self, mut f: impl FnMut(u64, u64, u64) -> Result<()>) -> Result<()> {
        if self.numel() == 0 {
            return Ok(());
        }
        let outer = self.dense_tail();
        let run: u64 = self.shape[outer..].iter().product();
        let mut at = vec![0; outer];
        let (mut start, mut index) = (0, 0);
        loop {
            f(start, index, run)?;
            index += run;
            let Some(dim) = (0..outer).rev().find(|&dim| at[dim] + 1 < self.shape[dim]) else { return Ok(()) };
            at[dim] += 1;
            at[dim + 1..].fill(0);
            start = at.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum();
        }
    }

    /// Whether two index tuples may lie at one address. Exact where every stride covers what is inside it, which holds
    /// for every slice and permutation of a contiguous tensor; otherwise yes.
    pub(crate) fn overlaps_itself(&self) -> bool {
        if self.numel() == 0 {
            return false;
        }
        let mut dims: Vec<_> = self.dims().collect();
        dims.sort_unstable_by_key(|&(_, stride)| stride);
        let mut inside = 1;
        for (extent, stride) in dims {
            if stride < inside {
                return true;
            }
            inside += (extent - 1) * stride;
        }
        false
    }

    /// Dimensions of more than one element: (extent, stride).
    fn dims(&self) -> impl Iterator<Item = (u64, u64)> {
        self.shape.iter().copied().zip(self.strides.iter().copied()).filter(|&(extent, _)| extent > 1)
    }

    /// How far elements reach within a period of `period` elements, strides that are multiples of it apart.
    fn reach_within(&self, period: u64) -> u64 {
        self.dims().filter(|(_, stride)| stride % period != 0).map(|(extent, stride)| (extent - 1) * stride).sum()
    }
}

/// A layout at an address, with elements of `size` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed<'a> {
    pub(crate) address: u64,
    pub(crate) layout: &'a Layout,
    pub(crate) size: u64,
}

impl Placed<'_> {
    fn end(&self) -> u64 {
        self.address + self.layout.span_within_memory() * self.size
    }

    /// Bytes that the elements cover within a period of `period` bytes; `None` where it is no whole number of elements.
    fn cover(&self, period: u64) -> Option<u64> {
        period.is_multiple_of(self.size).then(|| (self.layout.reach_within(period / self.size) + 1) * self.size)
    }
}

/// Whether two placed layouts may share a byte. They do not where their ranges are apart, nor where they interleave with
/// a period that is a stride of either, as Q, K and V of a fused tensor do; otherwise the answer is yes.
pub(crate) fn overlap(a: Placed<'_>, b: Placed<'_>) -> bool {
    if a.layout.numel() == 0 || b.layout.numel() == 0 || a.end() <= b.address || b.end() <= a.address {
        return false;
    }
    let strides = |p: Placed<'_>| p.layout.dims().map(|(_, stride)| stride * p.size).collect::<Vec<_>>();
    let apart = |period: u64| {
        let (Some(cover_a), Some(cover_b)) = (a.cover(period), b.cover(period)) else { return false };
        // Where b begins on the circle, seen from a: after a's last byte, and its own last byte before a comes again.
        let from_a = (i128::from(b.address) - i128::from(a.address)).rem_euclid(i128::from(period)) as u64;
        cover_a <= from_a && from_a.checked_add(cover_b).is_some_and(|end| end <= period)
    };
    !strides(a).into_iter().chain(strides(b)).filter(|&period| period > 0).any(apart)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(shape: &[u64], strides: &[u64]) -> Layout {
        Layout::new(shape, strides).unwrap()
    }

    /// Every byte of a placed layout, by counting.
    fn touched(p: Placed<'_>) -> std::collections::BTreeSet<u64> {
        let mut out = std::collections::BTreeSet::new();
        p.layout
            .for_each_run(|start, _, run| {
                out.extend((p.address + start * p.size)..(p.address + (start + run) * p.size));
                Ok(())
            })
            .unwrap();
        out
    }

    #[test]
    fn runs_cover_each_element_once_in_order() {
        let view = layout(&[2, 3, 4], &[100, 10, 1]);
        assert_eq!(view.runs(), 6);
        let mut seen = Vec::new();
        view.for_each_run(|start, index, run| {
            seen.push((start, index, run));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [(0, 0, 4), (10, 4, 4), (20, 8, 4), (100, 12, 4), (110, 16, 4), (120, 20, 4)]);
        assert!(layout(&[2, 1, 4], &[4, 77, 1]).is_contiguous(), "the stride of one element means nothing");
        assert!(layout(&[], &[]).is_contiguous());
        assert_eq!(layout(&[], &[]).numel(), 1);
        assert_eq!(layout(&[0, 5], &[9, 9]).span(), Ok(0));
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        assert!(numel(&[1 << 40, 1 << 40]).is_err());
        assert_eq!(numel(&[1 << 40, 1 << 40, 0]), Ok(0));
        assert!(layout(&[2, 2], &[u64::MAX, 1]).span().is_err());
    }

    #[test]
    fn interleaved_views_do_not_overlap() {
        let q = layout(&[7, 2, 4], &[24, 4, 1]);
        let at = |address| Placed { address, layout: &q, size: 2 };
        assert!(!overlap(at(0), at(16)), "Q and K of [7, 3, 2, 4]");
        assert!(!overlap(at(16), at(0)));
        assert!(overlap(at(0), at(8)), "one head too few between them");
        let nested = layout(&[7, 2, 4], &[24, 12, 1]);
        let at = |address| Placed { address, layout: &nested, size: 2 };
        assert!(!overlap(at(0), at(8)), "Q and K of [7, 2, 3, 4]");
        assert!(overlap(at(0), at(0)));
    }

    /// Whatever `overlap` calls apart is apart, by counting bytes.
    #[test]
    fn apart_is_never_a_mistake() {
        let shapes = [layout(&[3, 2], &[4, 1]), layout(&[2, 2], &[3, 1]), layout(&[3], &[2]), layout(&[2, 2], &[6, 2])];
        let mut apart = 0;
        for (a, b) in shapes.iter().flat_map(|a| shapes.iter().map(move |b| (a, b))) {
            for (size_a, size_b, address) in
                [(2, 2), (4, 2)].into_iter().flat_map(|(a, b)| (0..40).map(move |x| (a, b, x)))
            {
                let a = Placed { address: 16, layout: a, size: size_a };
                let b = Placed { address, layout: b, size: size_b };
                if !overlap(a, b) {
                    apart += 1;
                    assert!(touched(a).is_disjoint(&touched(b)), "{a:?} {b:?}");
                }
            }
        }
        assert!(apart > 100);
    }

    #[test]
    fn an_output_must_not_fold_onto_itself() {
        assert!(layout(&[4, 3], &[0, 1]).overlaps_itself(), "a broadcast");
        assert!(layout(&[4, 3], &[2, 1]).overlaps_itself());
        assert!(!layout(&[4, 3], &[3, 1]).overlaps_itself());
        assert!(!layout(&[3, 4], &[1, 3]).overlaps_itself(), "a transpose");
        assert!(!layout(&[4, 0], &[0, 0]).overlaps_itself());
    }
}
