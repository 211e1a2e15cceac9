//! The best scores of each row, found while the scores come by in tiles, and the share that each has of their softmax.

use std::f32::consts::LOG2_E;

use lacuna_codegen::ir::{BestId, Elem};

use crate::Cx;
use crate::axis::{Axis, F32, I32};
use crate::flow::Var;
use crate::staging::{Home, State, current};
use crate::value::{Handle, Onto, PartialSum, Scalar, Tile, Vector};

/// The `K` greatest scores of each row of `R`, with the columns that they stand in: in descending order, of equal
/// scores the lower column first. [`Cx::top_k`] makes one.
///
/// Scores are offered tile by tile, in descending order of their columns: the last ones of a causal row are the best as
/// a rule, and once they are known little is put into lists any more. One that is -inf or NaN is never taken: what is
/// no candidate is -inf. After [`settle`](Self::settle) the best can be read; after [`clear`](Self::clear) it is empty
/// and takes scores again.
///
/// ```ignore
/// let best = cx.top_k::<Rows>("picks", 4);
/// for b in cx.pipelined(blocks, stages) {
///     best.take(cx.dot(rows.q, k.block(b, h)), b.first);
/// }
/// best.settle();
/// let (column, score) = (best.column(0), best.score(0));
/// ```
///
/// A lane holds two registers for each place and row of its own, so `K` is small; more are found in passes, each of
/// which [takes what comes after](Self::take_after) the last of the pass before.
pub struct TopK<R> {
    id: BestId,
    count: u32,
    home: Home,
    of: std::marker::PhantomData<*const R>,
}

impl<R> Clone for TopK<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for TopK<R> {}

impl<R> std::fmt::Debug for TopK<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopK").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Cx {
    /// Storage for the `count` best scores of each row, from 1 to 32, empty where the schedule begins. `name` is what
    /// messages and the compiled text call it.
    #[track_caller]
    pub fn top_k<R: Axis>(&self, name: &str, count: u32) -> TopK<R> {
        let mut state = self.state.borrow_mut();
        let most = lacuna_codegen::ir::Best::MOST;
        if !(1..=most).contains(&count) {
            let label = format!("from 1 to {most} are kept at once; more are found in passes");
            state.builder.fail(format!("the {count} best of each row"), label);
        }
        let axis = state.axis::<R>();
        let id = state.builder.best(name, axis, count.clamp(1, most));
        TopK { id, count, home: state.home(), of: std::marker::PhantomData }
    }
}

impl<R: Axis> TopK<R> {
    /// How many are kept.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Offers a tile of scores whose first column is number `first`.
    #[track_caller]
    pub fn take<C: Axis>(&self, scores: Tile<F32, R, C>, first: impl Onto<Scalar<I32>>) {
        self.offer(scores, first.handle(), None);
    }

    /// Offers what of a tile of scores comes after a score and a column of each row: what is less, or equal in a later
    /// column. After +inf and -1 comes everything; after what [`score`](Self::score) and [`column`](Self::column) say
    /// of a place that nothing was found for comes nothing.
    #[track_caller]
    pub fn take_after<C: Axis>(
        &self,
        scores: Tile<F32, R, C>,
        first: impl Onto<Scalar<I32>>,
        after: (Vector<F32, R>, Vector<I32, R>),
    ) {
        self.offer(scores, first.handle(), Some(after));
    }

    #[track_caller]
    fn offer<C: Axis>(
        &self,
        scores: Tile<F32, R, C>,
        first: impl Handle,
        after: Option<(Vector<F32, R>, Vector<I32, R>)>,
    ) {
        let run = current();
        let mut state = run.borrow_mut();
        let (scores, first) = (state.take(scores), state.take(first));
        // No closure: it would be the place that a mistake names.
        let mut behind = None;
        if let Some((score, column)) = after {
            behind = Some([state.take(score), state.take(column)]);
        }
        if self.lives(&mut state) {
            state.builder.take(self.id, scores, first, behind);
        }
    }

    /// Nothing more is taken, and the best of each row can be read.
    #[track_caller]
    pub fn settle(&self) {
        let run = current();
        let mut state = run.borrow_mut();
        if self.lives(&mut state) {
            state.builder.settle(self.id);
        }
    }

    /// Forgets what was taken.
    #[track_caller]
    pub fn clear(&self) {
        let run = current();
        let mut state = run.borrow_mut();
        if self.lives(&mut state) {
            state.builder.clear(self.id);
        }
    }

    /// The column of each row's `n`th best, from 0; -1 where there are no more than `n`.
    #[track_caller]
    pub fn column(&self, n: u32) -> Vector<I32, R> {
        let run = current();
        let mut state = run.borrow_mut();
        let id = if self.has(&mut state, n) {
            state.builder.best_column(self.id, n)
        } else {
            state.stand_in::<Vector<I32, R>>()
        };
        state.give(id)
    }

    /// The score of each row's `n`th best, from 0; -inf where there are no more than `n`.
    #[track_caller]
    pub fn score(&self, n: u32) -> Vector<F32, R> {
        let run = current();
        let mut state = run.borrow_mut();
        let id = if self.has(&mut state, n) {
            state.builder.best_score(self.id, n)
        } else {
            state.stand_in::<Vector<F32, R>>()
        };
        state.give(id)
    }

    #[track_caller]
    fn has(&self, state: &mut State, n: u32) -> bool {
        if n >= self.count {
            let label = format!("they are number 0 to {}", self.count.saturating_sub(1));
            state.builder.fail(format!("number {n} of the {} best of each row", self.count), label);
            return false;
        }
        self.lives(state)
    }

    #[track_caller]
    fn lives(&self, state: &mut State) -> bool {
        state.lives(self.home, "list of the best")
    }
}

/// The softmax over scores that come by: which share of it each of them has. Scores are as [`TopK`]'s: -inf and NaN
/// count for nothing. They are multiplied by the kernel's parameter `scale`.
///
/// ```ignore
/// let mass = Mass::new(cx);
/// for b in cx.pipelined(blocks, stages) {
///     mass.take(cx.dot(rows.q, k.block(b, h)));
/// }
/// let share = mass.settle().share(best.score(0));
/// ```
#[derive(Debug)]
pub struct Mass<R> {
    max: Var<Vector<F32, R>>,
    sum: Var<PartialSum<R>>,
    /// What scores are multiplied by, times log2(e).
    scale: Scalar<F32>,
}

/// The greatest of all scores of each row, and the sum of their exponentials.
pub struct Whole<R> {
    max: Vector<F32, R>,
    sum: Vector<F32, R>,
    scale: Scalar<F32>,
}

impl<R> std::fmt::Debug for Whole<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Whole").finish_non_exhaustive()
    }
}

impl<R: Axis> Mass<R> {
    /// Of no score yet.
    #[track_caller]
    pub fn new(cx: &Cx) -> Self {
        let scale: Scalar<F32> = {
            let mut state = cx.state.borrow_mut();
            let scale = state.scalar("scale", Elem::F32);
            state.give(scale)
        };
        Mass { max: cx.var("greatest", f32::NEG_INFINITY), sum: cx.var("mass", 0.0), scale: scale * LOG2_E }
    }

    /// Takes a tile of scores in.
    #[track_caller]
    pub fn take<C: Axis>(&self, scores: Tile<F32, R, C>) {
        // Of NaN and a number the maximum is the number.
        let scores = scores.max(f32::NEG_INFINITY);
        let before = self.max.get();
        let max = before.max(scores.row_max());
        // Where nothing has been seen, `-inf - -inf` would be NaN.
        let safe = max.eq_(f32::NEG_INFINITY).select(0.0, max);
        let sum = self.sum.get() * ((before - safe) * self.scale).exp2();
        self.sum.set(sum + scores.fma(self.scale, -(safe * self.scale)).exp2().row_sum());
        self.max.set(max);
    }

    /// What the scores so far come to.
    #[track_caller]
    pub fn settle(&self) -> Whole<R> {
        let (max, sum) = (self.max.storage(), self.sum.storage());
        let whole: Vector<F32, R> = {
            let run = current();
            let mut state = run.borrow_mut();
            let scale = state.take(self.scale);
            let id = match (max, sum) {
                (Some(max), Some(sum)) => state.builder.merge(max, sum, None, scale),
                _ => state.stand_in::<Vector<F32, R>>(),
            };
            state.give(id)
        };
        let max = self.max.get();
        Whole { max: max.eq_(f32::NEG_INFINITY).select(0.0, max), sum: whole, scale: self.scale }
    }
}

impl<R: Axis> Whole<R> {
    /// The share of the softmax that a score of each row has, from 0 to 1.
    #[track_caller]
    pub fn share(&self, score: Vector<F32, R>) -> Vector<F32, R> {
        ((score - self.max) * self.scale).exp2() * self.sum.recip()
    }
}
