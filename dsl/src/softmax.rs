//! The online softmax: attention over keys that come block by block.
//!
//! Milakov and Gimelshein, arXiv 1805.02867; as FlashAttention-2 uses it, arXiv 2307.08691, algorithm 1. In base 2: scores
//! stay unscaled, and `scale * log2(e)` is multiplied in as the exponent is formed, in one fused multiply-add.

use std::f32::consts::{LN_2, LOG2_E};

use lacuna_codegen::ir::Elem;

use crate::Cx;
use crate::axis::{Axis, F32, Half};
use crate::flow::Var;
use crate::input::{OutLse, Place, QueryRows};
use crate::value::{PartialSum, Scalar, Tile, Vector};

/// Running maximum, sum of exponentials and weighted sum of values of each query row.
///
/// A row that sees no key, or only keys at `-inf`, comes out as zeros with an LSE of `-inf`; never NaN. NaN and `+inf` in
/// the scores propagate as in the plain formula.
#[derive(Debug)]
pub struct OnlineSoftmax<R, D> {
    max: Var<Vector<F32, R>>,
    sum: Var<PartialSum<R>>,
    acc: Var<Tile<F32, R, D>>,
    /// The softmax scale times log2(e).
    scale: Scalar<F32>,
    place: Place,
}

impl<R: Axis, D: Axis> OnlineSoftmax<R, D> {
    /// The softmax of `rows`, before any key. Its scale is the kernel's parameter `scale`, `1/sqrt(Dk)` as a rule.
    #[track_caller]
    pub fn new(cx: &Cx, rows: &QueryRows<R, impl Axis>) -> Self {
        let scale: Scalar<F32> = {
            let mut state = cx.state.borrow_mut();
            let scale = state.scalar("scale", Elem::F32);
            state.give(scale)
        };
        Self::scaled(cx, rows, Some(scale))
    }

    /// The softmax of `rows`, before any key, of logits that are scaled already: what a [score](crate::HeadScore::logits)
    /// makes.
    #[track_caller]
    pub fn of_logits(cx: &Cx, rows: &QueryRows<R, impl Axis>) -> Self {
        Self::scaled(cx, rows, None)
    }

    #[track_caller]
    fn scaled(cx: &Cx, rows: &QueryRows<R, impl Axis>, scale: Option<Scalar<F32>>) -> Self {
        OnlineSoftmax {
            max: cx.var("max", f32::NEG_INFINITY),
            sum: cx.var("sum", 0.0),
            acc: cx.var("acc", 0.0),
            scale: match scale {
                Some(scale) => scale * LOG2_E,
                None => cx.scalar::<F32>(LOG2_E),
            },
            place: rows.place,
        }
    }

    /// Takes in a block: its scores, unscaled and masked, and its values.
    #[track_caller]
    pub fn step<K: Axis>(&self, scores: Tile<F32, R, K>, values: Tile<Half, K, D>) {
        let before = self.max.get();
        let max = before.max(scores.row_max());
        // Where nothing has been seen, `-inf - -inf` would be NaN.
        let safe = max.eq_(f32::NEG_INFINITY).select(0.0, max);
        let p = scores.fma(self.scale, -(safe * self.scale)).exp2();
        let shrink = ((before - safe) * self.scale).exp2();
        self.sum.set(self.sum.get() * shrink + p.row_sum());
        // Halved before the output is rescaled: half the registers live through it.
        let weights = p.to_half();
        self.acc.set(self.acc.get() * shrink);
        self.acc.add_dot(weights, values);
        self.max.set(max);
    }

    /// The output rows and their LSE, after the last block.
    #[track_caller]
    pub fn finish(&self) -> OutLse<D> {
        let sum = self.merge();
        let empty = sum.eq_(0.0);
        let o = self.acc.get() * empty.select(0.0, sum.recip());
        let lse = (self.max.get() * self.scale + sum.log2()) * LN_2;
        OutLse::new(o.to_half(), empty.select(f32::NEG_INFINITY, lse), self.place)
    }

    /// The whole sum of each row; `max` and `acc` are whole as well from here on.
    #[track_caller]
    fn merge(&self) -> Vector<F32, R> {
        let (max, sum, acc) = (self.max.storage(), self.sum.storage(), self.acc.storage());
        let run = crate::staging::current();
        let mut state = run.borrow_mut();
        let scale = state.take(self.scale);
        if !state.at_top() {
            state.builder.fail("the softmax is finished inside a loop or branch", "finish it after the loop, once");
        }
        let id = match (max, sum, acc) {
            (Some(max), Some(sum), Some(acc)) => state.builder.merge(max, sum, acc, scale),
            _ => state.stand_in::<Vector<F32, R>>(),
        };
        state.give(id)
    }
}
