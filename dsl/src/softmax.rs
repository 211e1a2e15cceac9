//! The online softmax: attention over keys that come block by block.
//!
//! Milakov and Gimelshein, arXiv 1805.02867; as FlashAttention-2 uses it, arXiv 2307.08691, algorithm 1. In base 2: scores
//! stay unscaled, and `scale * log2(e)` is multiplied in as the exponent is formed, in one fused multiply-add. What is taken from
//! the scores is a maximum that stays while they pass it by little.

use std::cell::Cell;
use std::f32::consts::{LN_2, LOG2_E};

use lacuna_codegen::ir::Elem;

use crate::Cx;
use crate::axis::{Axis, F32, Half};
use crate::flow::Var;
use crate::input::{Block, OutLse, QueryRows, RowsAt, Sinks};
use crate::parts::{Part, PartElement};
use crate::score::{RowScore, Score};
use crate::value::{PartialSum, Scalar, Tile, Vector};

/// How far scores may pass what is taken from them, as a power of two: the maximum that has been seen stays until then. Most rows
/// never meet a score that moves it again, and a warp whose rows have none rescales nothing. Weights reach `2^8`, which f16 holds;
/// what they are rounded to has as many digits as below one.
const SLACK: f32 = 8.0;

/// Running maximum, sum of exponentials and weighted sum of values of each query row.
///
/// A row that sees no key, or only keys at `-inf`, comes out as zeros with an LSE of `-inf`, or of its [sink](Sinks); never
/// NaN. NaN and `+inf` in the scores propagate as in the plain formula.
#[derive(Debug)]
pub struct OnlineSoftmax<R, D> {
    max: Var<Vector<F32, R>>,
    sum: Var<PartialSum<R>>,
    acc: Var<Tile<F32, R, D>>,
    /// What the scores are multiplied by, times log2(e).
    scale: Scalar<F32>,
    rows: RowsAt<R>,
    score: Option<RowScore<R>>,
    /// Whether the score was applied to what the next step takes.
    scored: Cell<bool>,
    sinks: Option<Sinks>,
}

impl<R: Axis, D: Axis> OnlineSoftmax<R, D> {
    /// The softmax of `rows`, before any key. Its scale is the kernel's parameter `scale`, `1/sqrt(Dk)` as a rule.
    #[track_caller]
    pub fn new(cx: &Cx, rows: &QueryRows<R, impl Axis>) -> Self {
        Self::under(cx, rows, None)
    }

    /// The softmax of `rows` under a score, or under none: [`logits`](Self::logits) applies it. The score reads its arguments
    /// here, so this stands before the loop over keys.
    #[track_caller]
    pub fn under<'s>(cx: &Cx, rows: &QueryRows<R, impl Axis>, score: impl Into<Option<&'s Score>>) -> Self {
        let rows = rows.at();
        // Matches, not closures: a closure would be the place that the operation names.
        let (score, scale): (_, Option<Scalar<F32>>) = match score.into() {
            Some(score) => (Some(score.of_rows(&rows)), None),
            None => {
                let mut state = cx.state.borrow_mut();
                let scale = state.scalar("scale", Elem::F32);
                (None, Some(state.give(scale)))
            }
        };
        OnlineSoftmax {
            max: cx.var("max", f32::NEG_INFINITY),
            sum: cx.var("sum", 0.0),
            acc: cx.var("acc", 0.0),
            scale: match scale {
                Some(scale) => scale * LOG2_E,
                // Scores scale their logits themselves.
                None => cx.scalar::<F32>(LOG2_E),
            },
            rows,
            score,
            scored: Cell::new(false),
            sinks: None,
        }
    }

    /// The softmax with a sink for each row, or with none.
    #[must_use]
    pub fn with_sinks(self, sinks: impl Into<Option<Sinks>>) -> Self {
        OnlineSoftmax { sinks: sinks.into(), ..self }
    }

    /// What [`step`](Self::step) takes for the products of a block, before the mask: the products times the kernel's parameter
    /// `scale` under the score; without one the products as they are.
    #[track_caller]
    pub fn logits<K: Axis>(&self, products: Tile<F32, R, K>, block: Block<K>) -> Tile<F32, R, K> {
        self.scored.set(true);
        match &self.score {
            Some(score) => score.logits(products, &self.rows, block),
            None => products,
        }
    }

    /// Takes in a block: its scores, unscaled and masked, and its values.
    #[track_caller]
    pub fn step<K: Axis>(&self, scores: Tile<F32, R, K>, values: Tile<Half, K, D>) {
        if self.score.is_some() && !self.scored.take() {
            let label = "apply it to the products of the block: `softmax.logits(cx.dot(..), b)`";
            crate::staging::current()
                .borrow_mut()
                .builder
                .fail("these scores are not under the softmax's score", label);
        }
        let before = self.max.get();
        let most = before.max(scores.row_max());
        // NaN, where nothing has been seen, is no reason to stay.
        let max = ((before - most) * self.scale).ge(-SLACK).select(before, most);
        // Where nothing has been seen, `-inf - -inf` would be NaN.
        let safe = max.eq_(f32::NEG_INFINITY).select(0.0, max);
        let shrink = ((before - safe) * self.scale).exp2();
        self.acc.set(self.acc.get() * shrink);
        let before = self.sum.get() * shrink;
        // The weights are made as the product takes them, and summed by the way.
        let p = scores.fma(self.scale, -(safe * self.scale)).exp2();
        self.acc.add_dot(p.to_half(), values);
        self.sum.set(before + p.row_sum());
        self.max.set(max);
    }

    /// The output rows and their LSE, after the last block.
    #[track_caller]
    pub fn finish(&self) -> OutLse<D> {
        let sum = self.merge();
        let Some(sinks) = self.sinks else {
            let empty = sum.eq_(0.0);
            let o = self.acc.get() * empty.select(0.0, sum.recip());
            let lse = (self.max.get() * self.scale + sum.log2()) * LN_2;
            return OutLse::new(o.to_half(), empty.select(f32::NEG_INFINITY, lse), self.rows.place);
        };
        // The sink is one more logit, without a value. It takes part in the maximum, so that no exponential overflows.
        let sink = sinks.of_rows(&self.rows) * LOG2_E;
        let seen = self.max.get() * self.scale;
        let max = seen.max(sink);
        let safe = max.eq_(f32::NEG_INFINITY).select(0.0, max);
        let shrink = (seen - safe).exp2();
        let sum = sum * shrink + (sink - safe).exp2();
        let empty = sum.eq_(0.0);
        let o = self.acc.get() * empty.select(0.0, shrink * sum.recip());
        let lse = (max + sum.log2()) * LN_2;
        OutLse::new(o.to_half(), empty.select(f32::NEG_INFINITY, lse), self.rows.place)
    }

    /// As [`finish`](Self::finish), the output in f32: for parts that are merged without rounding. Without sinks.
    #[track_caller]
    pub fn finish_wide(&self) -> OutLse<D> {
        let sum = self.merge();
        let empty = sum.eq_(0.0);
        let o = self.acc.get() * empty.select(0.0, sum.recip());
        let lse = (self.max.get() * self.scale + sum.log2()) * LN_2;
        OutLse::of(o, empty.select(f32::NEG_INFINITY, lse), self.rows.place)
    }

    /// What the rows have seen, after the last block, to be merged with parts that were seen elsewhere.
    ///
    /// A sink is no part of it.
    #[track_caller]
    pub fn merging(&self, cx: &Cx) -> LseMerge<R, D> {
        let sum = self.merge();
        let none = self.max.get().eq_(f32::NEG_INFINITY);
        let merge =
            LseMerge { max: cx.var("merged_max", f32::NEG_INFINITY), sum: cx.var("merged_sum", 0.0), acc: self.acc };
        merge.max.set(none.select(f32::NEG_INFINITY, self.max.get() * self.scale));
        merge.sum.set(sum);
        merge
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
            (Some(max), Some(sum), Some(acc)) => state.builder.merge(max, sum, Some(acc), scale),
            _ => state.stand_in::<Vector<F32, R>>(),
        };
        state.give(id)
    }
}

/// Rows whose outputs come in parts, each with its log-sum-exp: with parts `o_j` and their `l_j`,
///
/// ```text
/// l = log Σ exp l_j        o = Σ exp(l_j - l) o_j
/// ```
///
/// taken in one pass, in the order in which they come, like the online softmax. A row without parts comes out as zeros with an
/// LSE of `-inf`.
#[derive(Debug)]
pub struct LseMerge<R, D> {
    /// In base 2.
    max: Var<Vector<F32, R>>,
    sum: Var<Vector<F32, R>>,
    acc: Var<Tile<F32, R, D>>,
}

impl<R: Axis, D: Axis> LseMerge<R, D> {
    /// Rows without a part.
    #[track_caller]
    pub fn new(cx: &Cx) -> Self {
        LseMerge { max: cx.var("max", f32::NEG_INFINITY), sum: cx.var("sum", 0.0), acc: cx.var("acc", 0.0) }
    }

    /// Takes in a part of each row: its output, and its log-sum-exp in natural log, -inf where the row has no such part.
    #[track_caller]
    pub fn add<E: PartElement>(&self, part: Part<R, D, E>) {
        let (o, lse) = (part.o, part.lse * LOG2_E);
        let before = self.max.get();
        let most = before.max(lse);
        let now = (before - most).ge(-SLACK).select(before, most);
        // Where nothing has been seen, `-inf - -inf` would be NaN.
        let safe = now.eq_(f32::NEG_INFINITY).select(0.0, now);
        let shrink = (before - safe).exp2();
        let weight = (lse - safe).exp2();
        self.sum.set(self.sum.get() * shrink + weight);
        self.acc.set(self.acc.get() * shrink);
        self.acc.set(E::widened(o).fma(weight, self.acc.get()));
        self.max.set(now);
    }

    /// The merged rows, and their log-sum-exp in natural log.
    #[track_caller]
    pub fn finish(&self) -> (Tile<Half, R, D>, Vector<F32, R>) {
        let empty = self.sum.get().eq_(0.0);
        let o = self.acc.get() * empty.select(0.0, self.sum.get().recip());
        let lse = empty.select(f32::NEG_INFINITY, (self.max.get() + self.sum.get().log2()) * LN_2);
        (o.to_half(), lse)
    }
}
