//! How results are compared.
//!
//! Integers, bits, moves and floats of exact operations are equal bit for bit. PTX leaves open which NaN an operation makes
//! and what a division by zero gives; the emulator gives what the H200 gave, so these are equal too.
//!
//! An approximation is within the error that the PTX ISA states, and so is what was recorded; where the value is a zero,
//! an infinity or a NaN, it is that one.
//!
//! The PTX ISA states no error for `mma`. Tensor cores align the products, exact ones, at the largest and cut what is below;
//! the emulator rounds after each. On these operands the H200 is measured to be at most 2.11 units from the exact sum and
//! the emulator 3.53, a unit being 2^-23 of the largest of the terms and the sum: [`Rule::MMA_UNITS`] holds both to that,
//! rounded up. Sums of integers that fit are therefore equal, and so are infinities and whether it is a NaN.
//! `wgmma` is held to the same, on the same kinds of operands, and to equal bits on whole numbers.

use half::{bf16, f16};
use lacuna_ptx::{Form, Op};

use super::Case;

/// How the results of a form are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Every word is equal.
    Bits,
    /// Every word is within the error of an approximation.
    Approximate(Function),
    /// Words of an accumulator, within [`Rule::MMA_UNITS`].
    Products,
}

/// What an approximation is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `ex2.approx.ftz`
    Ex2,
    /// `lg2.approx.ftz`
    Lg2,
    /// `rcp.approx.ftz`
    Rcp,
    /// `rsqrt.approx.ftz`
    Rsqrt,
    /// `tanh.approx`
    Tanh,
    /// `div.full`
    DivFull,
    /// `div.approx.ftz`
    DivApprox,
}

/// A result that is not what it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// The row of its lane.
    pub row: usize,
    /// Which word of its results.
    pub word: usize,
    /// What was recorded.
    pub recorded: u32,
    /// What was found.
    pub found: u32,
    /// The distance from the true value, of what was recorded and of what was found: in what is allowed, for sums of
    /// products in units. NaN where that has no meaning.
    pub errors: [f64; 2],
}

impl Rule {
    /// What a sum of products may be from the exact one, in 2^-23 of the largest of its terms and itself: a recorded one,
    /// and the emulator's.
    pub const MMA_UNITS: [f64; 2] = [3.0, 4.0];

    pub(super) fn of(form: Form) -> Rule {
        use Function::*;
        match (form.op(), form.choices()) {
            (Op::Approx, ["ex2"]) => Rule::Approximate(Ex2),
            (Op::Approx, ["lg2"]) => Rule::Approximate(Lg2),
            (Op::Approx, ["rcp"]) => Rule::Approximate(Rcp),
            (Op::Approx, _) => Rule::Approximate(Rsqrt),
            (Op::Tanh, _) => Rule::Approximate(Tanh),
            (Op::DivFloat, ["full"]) => Rule::Approximate(DivFull),
            (Op::DivFloat, _) => Rule::Approximate(DivApprox),
            (Op::MmaK16 | Op::MmaK8, _) => Rule::Products,
            _ => Rule::Bits,
        }
    }

    /// What is wrong with results, and how far from the truth the recorded ones and these are at most, as in
    /// [`Mismatch::errors`].
    pub fn compare(self, case: &Case, recorded: &[u32], found: &[u32]) -> (Vec<Mismatch>, [f64; 2]) {
        let mut wrong = Vec::new();
        let mut worst = [0.0f64; 2];
        for at in 0..recorded.len() {
            let (row, word) = (at / case.output_words, at % case.output_words);
            let pair = [recorded[at], found[at]];
            let (right, errors) = match self {
                Rule::Bits => (pair[0] == pair[1], [f64::NAN; 2]),
                Rule::Approximate(function) => {
                    let errors = pair.map(|bits| function.error(case.row(row), f32::from_bits(bits)));
                    (errors.iter().all(|error| *error <= 1.0), errors)
                }
                Rule::Products => {
                    let errors = pair.map(|bits| products_error(case, row, word, f32::from_bits(bits)));
                    (errors.iter().zip(Rule::MMA_UNITS).all(|(error, allowed)| *error <= allowed), errors)
                }
            };
            if !right {
                let [recorded, found] = pair;
                wrong.push(Mismatch { row, word, recorded, found, errors });
            }
            for (worst, error) in worst.iter_mut().zip(errors) {
                *worst = worst.max(error);
            }
        }
        (wrong, worst)
    }
}

/// 2^-126, the least normal f32.
const LEAST: f64 = f32::MIN_POSITIVE as f64;

impl Function {
    /// The true value, in f64.
    fn truth(self, operands: &[f64; 2]) -> f64 {
        let [a, b] = *operands;
        match self {
            Function::Ex2 => a.exp2(),
            // log2 of -0 is that of 0.
            Function::Lg2 => {
                if a == 0.0 {
                    f64::NEG_INFINITY
                } else {
                    a.log2()
                }
            }
            Function::Rcp => 1.0 / a,
            Function::Rsqrt => {
                if a == 0.0 {
                    1.0 / a
                } else {
                    1.0 / a.sqrt()
                }
            }
            Function::Tanh => a.tanh(),
            Function::DivFull => a / b,
            // PTX ISA, div: with a divisor past 2^126 the result is 0, and NaN for an infinite dividend.
            Function::DivApprox if b.abs() > 126f64.exp2() && b.is_finite() => {
                if a.is_infinite() {
                    f64::NAN
                } else {
                    a * b.signum() * 0.0
                }
            }
            Function::DivApprox => a / b,
        }
    }

    /// The error that the PTX ISA 9.1 allows at this value, for the operand `a`: 9.7.3.8 `div`, 9.7.3.13 `rcp`, 9.7.3.16
    /// `rsqrt`, 9.7.3.20 `lg2`, 9.7.3.21 `ex2`, 9.7.3.22 `tanh`.
    fn allowed(self, a: f64, truth: f64) -> f64 {
        let ulp = truth.abs().log2().floor().max(-126.0).exp2() * 2f64.powi(-23);
        match self {
            // 2 from the correctly rounded result, which is half of one from the truth.
            Function::Ex2 => 2.5 * ulp,
            Function::Lg2 if a > 0.5 && a < 2.0 => 2f64.powi(-22),
            Function::Lg2 => truth.abs() * 2f64.powi(-22),
            Function::Rcp => ulp,
            Function::Rsqrt => truth.abs() * 2f64.powf(-22.9),
            Function::Tanh => truth.abs() * 2f64.powi(-11),
            Function::DivFull | Function::DivApprox => 2.0 * ulp,
        }
    }

    fn flushes(self) -> bool {
        !matches!(self, Function::Tanh | Function::DivFull)
    }

    /// How far a result is from the truth, in what is allowed.
    fn error(self, row: &[u32], found: f32) -> f64 {
        let operand = |at: usize| {
            let value = f64::from(f32::from_bits(row[at]));
            if self.flushes() && value.abs() < LEAST { value * 0.0 } else { value }
        };
        let operands = [operand(0), operand(1)];
        let truth = self.truth(&operands);
        let far = |same: bool| if same { 0.0 } else { f64::INFINITY };
        let rounded = truth as f32;
        if truth.is_nan() {
            return far(found.is_nan());
        }
        let flushed = self.flushes() && truth.abs() < LEAST;
        if truth == 0.0 || flushed && truth.abs() < LEAST * (1.0 - 1e-6) {
            return far(found.to_bits() == (truth as f32 * 0.0).to_bits());
        }
        if rounded.is_infinite() {
            return far(found == rounded);
        }
        if flushed && found == 0.0 {
            return 0.0;
        }
        let error = (f64::from(found) - truth).abs() / self.allowed(operands[0], truth);
        if error.is_nan() { f64::INFINITY } else { error }
    }
}

/// How far an element of an accumulator is from the exact sum, in 2^-23 of the largest of its terms and itself.
fn products_error(case: &Case, index: usize, word: usize, found: f32) -> f64 {
    let first = index / 32 * 32;
    let lane = index % 32;
    let depth = if case.form.op() == Op::MmaK8 { 8 } else { 16 };
    let bf16s = case.name.contains("bf16");
    let element = |lane: usize, word: usize, high: usize| {
        let bits = (case.row(first + lane)[word] >> (16 * high)) as u16;
        if bf16s { bf16::from_bits(bits).to_f64() } else { f16::from_bits(bits).to_f64() }
    };
    // PTX ISA, "Matrix fragments for mma.m16n8k16": pieces of 8 x 8, a lane two elements of one row (of B: one column).
    let (row, column) = (lane / 4 + word / 2 * 8, lane % 4 * 2 + word % 2);
    let (words_a, words_b) = (depth / 4, depth / 8);
    let a = |k: usize| element(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2, k % 2);
    let b = |k: usize| element(column * 4 + k % 8 / 2, words_a + k / 8, k % 2);
    let c = f64::from(f32::from_bits(case.row(index)[words_a + words_b + word]));
    let terms: Vec<f64> = (0..depth).map(|k| a(k) * b(k)).chain([c]).collect();
    let exact: f64 = terms.iter().sum();
    let far = |same: bool| if same { 0.0 } else { f64::INFINITY };
    if !exact.is_finite() {
        return far(exact.is_nan() && found.is_nan() || exact == f64::from(found));
    }
    let largest = terms.iter().fold(exact.abs(), |largest, term| largest.max(term.abs()));
    let distance = (f64::from(found) - exact).abs();
    // Below the normal numbers the unit is that of the least.
    let error = distance / (largest.max(LEAST) * 2f64.powi(-23));
    if error.is_nan() { f64::INFINITY } else { error }
}
