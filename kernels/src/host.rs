//! Tensors on the host: plain vectors with a shape, row-major, in the layouts that every kernel here uses.
//!
//! | tensor | shape | element |
//! |---|---|---|
//! | q | `[total, Hq, Dk]` | bf16, f16 or f32 |
//! | k, v | `[keys, Hk, Dk]`, `[keys, Hk, Dv]` | the same |
//! | o | `[total, Hq, Dv]` | the same |
//! | lse | `[total, Hq]` | f32, natural log |
//! | picks | `[total, Hk, n]` | i32, block indices relative to the sequence, -1 where there is none |
//! | cu_seqlens, cu_seqlens_k | `[batch + 1]` | i32, kept as plain slices |
//!
//! As a rule each sequence has as many keys as queries, and `keys` is `total`. Where it has another number, as in a chunked
//! prefill or a decode step, the last query stands at the last key: token `i` of a sequence of `n` queries and `m` keys has
//! position `i + m - n`, below 0 where it is before every key.

use std::ops::Range;

use half::{bf16, f16};

/// How finely a number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// bfloat16: 8 bits of exponent, 7 of mantissa.
    Bf16,
    /// IEEE half: 5 bits of exponent, 10 of mantissa.
    F16,
    /// IEEE single: 8 bits of exponent, 23 of mantissa.
    F32,
}

impl Precision {
    /// Its name: `bf16`, `f16`, `f32`.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
            Precision::F32 => "f32",
        }
    }

    /// The nearest number that it can store, ties to even; infinite beyond its range, NaN from NaN.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Precision::Bf16 => bf16::from_f32(x).to_f32(),
            Precision::F16 => f16::from_f32(x).to_f32(),
            Precision::F32 => x,
        }
    }

    /// One unit in the last place of the numbers as large as `x`: the distance between neighbours there.
    /// Below the normal range it is the distance between subnormals.
    pub fn ulp(self, x: f64) -> f64 {
        let (mantissa, smallest) = match self {
            Precision::Bf16 => (7, -126),
            Precision::F16 => (10, -14),
            Precision::F32 => (23, -126),
        };
        let exponent = if x == 0.0 { smallest } else { exponent_of(x).max(smallest) };
        2f64.powi(exponent - mantissa)
    }
}

/// The power of two just below or at `|x|`, for a normal `x`.
fn exponent_of(x: f64) -> i32 {
    ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

/// A number that a reference can read.
pub trait Real: Copy + Default + Send + Sync + 'static {
    /// The same number, exactly.
    fn to_f64(self) -> f64;
}

/// A number that a kernel takes or gives.
pub trait Float: Real {
    /// How finely it is stored.
    const PRECISION: Precision;
    /// The nearest such number, ties to even.
    fn from_f32(x: f32) -> Self;
    /// The same number, exactly.
    fn to_f32(self) -> f32;
}

impl Real for f64 {
    fn to_f64(self) -> f64 {
        self
    }
}

macro_rules! float {
    ($t:ty, $precision:expr, $from:expr, $to:expr) => {
        impl Real for $t {
            fn to_f64(self) -> f64 {
                f64::from($to(self))
            }
        }
        impl Float for $t {
            const PRECISION: Precision = $precision;
            fn from_f32(x: f32) -> Self {
                $from(x)
            }
            fn to_f32(self) -> f32 {
                $to(self)
            }
        }
    };
}
float!(bf16, Precision::Bf16, bf16::from_f32, bf16::to_f32);
float!(f16, Precision::F16, f16::from_f32, f16::to_f32);
float!(f32, Precision::F32, std::convert::identity, std::convert::identity);

/// Where documents begin and where the last one ends, on the side of the queries and on that of the keys: the same where each
/// has as many of both, and a slice becomes that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides<'a> {
    /// cu_seqlens of the queries, `[documents + 1]`.
    pub q: &'a [i32],
    /// Those of the keys.
    pub k: &'a [i32],
}

impl<'a, T: AsRef<[i32]> + ?Sized> From<&'a T> for Sides<'a> {
    fn from(both: &'a T) -> Self {
        Sides::same(both.as_ref())
    }
}

/// Where a query stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its document.
    pub document: usize,
    /// Its position among the keys of the document; below 0 where it is before every key.
    pub position: i64,
    /// How many keys the document has.
    pub keys: usize,
}

impl<'a> Sides<'a> {
    /// As many keys as queries in each document.
    pub fn same(cu_seqlens: &'a [i32]) -> Self {
        Sides { q: cu_seqlens, k: cu_seqlens }
    }

    /// Documents.
    pub fn documents(&self) -> usize {
        self.q.len() - 1
    }

    /// The queries of a document.
    pub fn queries(&self, document: usize) -> Range<usize> {
        self.q[document] as usize..self.q[document + 1] as usize
    }

    /// The keys of a document.
    pub fn keys(&self, document: usize) -> Range<usize> {
        self.k[document] as usize..self.k[document + 1] as usize
    }

    /// How many more keys than queries a document has: by so much positions are beyond the places of queries.
    pub fn shift(&self, document: usize) -> i64 {
        self.keys(document).len() as i64 - self.queries(document).len() as i64
    }

    /// Each document's queries and keys.
    pub fn each(self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + 'a {
        (0..self.documents()).map(move |document| (self.queries(document), self.keys(document)))
    }

    /// Where a token stands; none outside of every document.
    pub fn place(&self, token: usize) -> Option<Place> {
        let behind = self.q.partition_point(|&start| start as usize <= token);
        let document = behind.checked_sub(1).filter(|&document| document < self.documents())?;
        let nth = (token - self.queries(document).start) as i64;
        Some(Place { document, position: nth + self.shift(document), keys: self.keys(document).len() })
    }
}

/// Shapes of a problem: tokens, query heads, KV heads, widths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dims {
    /// Tokens of all sequences: queries.
    pub total: usize,
    /// Keys of all sequences: `total` where each has as many of them as queries.
    pub keys: usize,
    /// `Hq`: query heads.
    pub hq: usize,
    /// `Hk`: KV heads; divides `Hq`.
    pub hk: usize,
    /// `Dk`: width of queries and keys.
    pub dk: usize,
    /// `Dv`: width of values.
    pub dv: usize,
}

impl Dims {
    /// `G`: query heads to a KV head.
    pub fn group(&self) -> usize {
        self.hq / self.hk
    }
}

/// One query row: a token (counted over all sequences) and a query head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    /// The token, in `0..total`.
    pub token: usize,
    /// The query head, in `0..Hq`.
    pub head: usize,
}

/// A tensor of rank `R`, row-major and contiguous.
#[derive(Clone, Debug, PartialEq)]
pub struct Host<T, const R: usize = 3> {
    /// The elements, the last dimension fastest.
    pub data: Vec<T>,
    /// The extents, outermost first.
    pub shape: [usize; R],
}

impl<T: Copy, const R: usize> Host<T, R> {
    /// A tensor of these elements.
    ///
    /// # Panics
    /// If there are more or fewer elements than the shape says.
    pub fn new(data: Vec<T>, shape: [usize; R]) -> Self {
        assert_eq!(
            data.len(),
            shape.iter().product::<usize>(),
            "a tensor of shape {shape:?} from {} elements",
            data.len()
        );
        Self { data, shape }
    }

    /// A tensor with the same value everywhere.
    pub fn filled(value: T, shape: [usize; R]) -> Self {
        Self { data: vec![value; shape.iter().product()], shape }
    }

    /// The same shape, each element changed by `f`.
    pub fn map<U: Copy>(&self, f: impl Fn(T) -> U) -> Host<U, R> {
        Host { data: self.data.iter().map(|&x| f(x)).collect(), shape: self.shape }
    }
}

impl<T: Copy> Host<T, 3> {
    /// What lies at one token and head: the last dimension.
    pub fn row(&self, token: usize, head: usize) -> &[T] {
        let [_, heads, width] = self.shape;
        let at = (token * heads + head) * width;
        &self.data[at..at + width]
    }

    /// The same, to write.
    pub fn row_mut(&mut self, token: usize, head: usize) -> &mut [T] {
        let [_, heads, width] = self.shape;
        let at = (token * heads + head) * width;
        &mut self.data[at..at + width]
    }

    /// These rows alone, in this order: `[rows, 1, width]`, as the sampled references give theirs.
    pub fn gather(&self, rows: &[Row]) -> Self {
        let data = rows.iter().flat_map(|r| self.row(r.token, r.head)).copied().collect();
        Host { data, shape: [rows.len(), 1, self.shape[2]] }
    }
}

impl<T: Copy> Host<T, 2> {
    /// These rows alone, in this order: `[rows, 1]`, as the sampled references give theirs.
    pub fn gather(&self, rows: &[Row]) -> Self {
        let data = rows.iter().map(|r| self.data[r.token * self.shape[1] + r.head]).collect();
        Host { data, shape: [rows.len(), 1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulp_is_the_distance_to_the_next_number() {
        for x in [1.0f32, 1.5, 3.0, 0.1, 100.0, 6e-5] {
            let up = |b: f32, next: f32| f64::from(next) - f64::from(b);
            let b = bf16::from_f32(x);
            assert_eq!(Precision::Bf16.ulp(b.to_f64()), up(b.to_f32(), bf16::from_bits(b.to_bits() + 1).to_f32()));
            let h = f16::from_f32(x);
            assert_eq!(Precision::F16.ulp(h.to_f64()), up(h.to_f32(), f16::from_bits(h.to_bits() + 1).to_f32()));
            assert_eq!(Precision::F32.ulp(f64::from(x)), up(x, f32::from_bits(x.to_bits() + 1)));
        }
        let tiny = f16::from_bits(3);
        assert_eq!(Precision::F16.ulp(tiny.to_f64()), f16::from_bits(1).to_f64());
        assert_eq!(Precision::F16.ulp(0.0), f16::from_bits(1).to_f64());
    }

    #[test]
    fn rows_are_found_by_token_and_head() {
        let t = Host::new((0..24).collect::<Vec<i32>>(), [2, 3, 4]);
        assert_eq!(t.row(1, 2), [20, 21, 22, 23]);
        let rows = [Row { token: 1, head: 0 }, Row { token: 0, head: 1 }];
        assert_eq!(t.gather(&rows).data, [12, 13, 14, 15, 4, 5, 6, 7]);
        let lse = Host::new(vec![0, 1, 2, 3], [2, 2]);
        assert_eq!(lse.gather(&rows).data, [2, 1]);
    }

    #[test]
    #[should_panic(expected = "a tensor of shape [2, 2] from 3 elements")]
    fn a_shape_that_does_not_fit_is_refused() {
        Host::new(vec![1, 2, 3], [2, 2]);
    }
}
