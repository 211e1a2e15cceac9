//! How far a result may lie from the f64 reference.
//!
//! The error of a result is `max |x - f64|` over the root mean square of the f64 result. Allowed is twice the error of the
//! [plain computation](plain_attention) of the same inputs, stored in the type of the result, plus one unit in the last
//! place of that type at the RMS. Nobody has to invent a number, and one that is right for 64 keys is right for 64k.
//!
//! Two cases the rule leaves open:
//!  * Where the plain computation itself is lost (large logits in bf16), twice its error would allow anything. Never more
//!    is allowed than half the error of an output of zeros.
//!  * What is not finite has no distance. A NaN of the reference must be a NaN, an infinity the same infinity (the LSE of
//!    a row without keys is -inf), and nothing else may be either.

mod plain;

use crate::host::{Precision, Row};
use crate::reference::Attended;
pub use plain::{
    plain_attention, plain_attention_rows, plain_listed, plain_listed_rows, plain_of, plain_of_rows, plain_routed,
    plain_selected, plain_selected_rows, plain_under,
};
use std::fmt;

/// What a comparison with the reference came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Whether the result is within the tolerance.
    pub ok: bool,
    /// `max |x - f64|` over the RMS of the f64 result (over 1 where that is 0); infinite if one is finite where the other
    /// is not.
    pub error: f64,
    /// The largest error that is right.
    pub allowed: f64,
    /// Where the result is farthest off: an index into the elements, row-major.
    pub worst: usize,
    /// What stands there.
    pub got: f64,
    /// What the reference has there.
    pub want: f64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ok, error, allowed, worst, got, want } = self;
        let word = if *ok { "within" } else { "beyond" };
        write!(
            f,
            "error {error:.2e}, {word} the allowed {allowed:.2e}; worst at element {worst}: {got} where {want} is right"
        )
    }
}

/// The verdicts on the two results of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdicts {
    /// On the outputs.
    pub o: Verdict,
    /// On the LSE, always stored as f32.
    pub lse: Verdict,
}

impl Verdicts {
    /// Whether both are within the tolerance.
    pub fn ok(&self) -> bool {
        self.o.ok && self.lse.ok
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "o: {}\nlse: {}", self.o, self.lse)
    }
}

/// Compares a result with the reference.
///
/// `result` is what the kernel stored, widened to f32; `reference` the f64 result; `plain` the plain computation, not yet
/// rounded to `stored`, the type of the result.
///
/// # Panics
/// If the three differ in length.
pub fn check(result: &[f32], reference: &[f64], plain: &[f32], stored: Precision) -> Verdict {
    assert_eq!(result.len(), reference.len(), "as many results as reference values");
    assert_eq!(plain.len(), reference.len(), "as many plain values as reference values");
    let (sum, count) = reference.iter().filter(|x| x.is_finite()).fold((0.0, 0u64), |(s, n), x| (s + x * x, n + 1));
    let rms = if count == 0 { 0.0 } else { (sum / count as f64).sqrt() };
    let unit = if rms == 0.0 { 1.0 } else { rms };

    let largest = |values: &mut dyn Iterator<Item = f64>| values.filter(|x| x.is_finite()).fold(0.0, f64::max) / unit;
    let plain_error = largest(&mut plain.iter().zip(reference).map(|(&p, r)| (f64::from(stored.round(p)) - r).abs()));
    let of_zeros = largest(&mut reference.iter().map(|r| r.abs()));
    let last_place = if rms == 0.0 { 0.0 } else { stored.ulp(rms) / rms };
    let allowed = (2.0 * plain_error + last_place).min(0.5 * of_zeros);

    let (mut error, mut worst) = (0.0, 0);
    for (i, (&x, &r)) in result.iter().zip(reference).enumerate() {
        let off = distance(f64::from(x), r) / unit;
        if off > error {
            (error, worst) = (off, i);
        }
    }
    let (got, want) = (result.get(worst).map_or(0.0, |&x| x.into()), reference.get(worst).copied().unwrap_or(0.0));
    Verdict { ok: error <= allowed, error, allowed, worst, got, want }
}

/// Compares outputs (stored as `stored`, widened to f32) and LSE with the reference, both of the same rows.
///
/// # Panics
/// If the lengths differ.
pub fn check_attention(
    o: &[f32],
    lse: &[f32],
    reference: &Attended<f64>,
    plain: &Attended<f32>,
    stored: Precision,
) -> Verdicts {
    Verdicts {
        o: check(o, &reference.o.data, &plain.o.data, stored),
        lse: check(lse, &reference.lse.data, &plain.lse.data, Precision::F32),
    }
}

/// Which query row of `[total, heads, width]` an element belongs to, and where in it.
pub fn locate(element: usize, heads: usize, width: usize) -> (Row, usize) {
    let row = element / width;
    (Row { token: row / heads, head: row % heads }, element % width)
}

/// How far `x` is from `r`: infinite if one is not finite and the other not the same.
fn distance(x: f64, r: f64) -> f64 {
    if x.is_finite() && r.is_finite() {
        (x - r).abs()
    } else if x == r || (x.is_nan() && r.is_nan()) {
        0.0
    } else {
        f64::INFINITY
    }
}

#[cfg(test)]
mod tests;
