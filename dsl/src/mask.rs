//! Masks: a pattern with its arguments, and what a schedule does with one.

use std::sync::Arc;

use lacuna_codegen::Error;
use lacuna_codegen::ir::ValueId;
use lacuna_codegen::pattern::{Keep, Pattern, Pos};
use lacuna_codegen::plan::Scalar as Given;

use crate::axis::{Axis, Bool, F32, I32};
use crate::cx;
use crate::flow::{BlockList, Var};
use crate::input::{Block, Document, Positions, QueryRows};
use crate::staging::{State, current};
use crate::value::{Scalar, Tile, Vector};

/// Which keys a query sees: a pattern and its arguments. A function under [`#[pattern]`](macro@crate::pattern) makes one.
///
/// The pattern is compiled; the arguments are not, they are given at each launch.
#[derive(Clone, Debug)]
pub struct Mask(Arc<Recorded>);

#[derive(Debug)]
struct Recorded {
    pattern: Pattern,
    args: Vec<u32>,
}

impl Mask {
    /// Runs `predicate` once, on symbolic positions and arguments, and keeps what it computes.
    #[track_caller]
    pub fn record(name: &str, args: &[(&str, u32)], predicate: impl FnOnce(Pos, Pos, &[Pos]) -> Keep) -> Self {
        let names: Vec<&str> = args.iter().map(|(name, _)| *name).collect();
        let pattern = Pattern::record(name, &names, predicate);
        Mask(Arc::new(Recorded { pattern, args: args.iter().map(|(_, value)| *value).collect() }))
    }

    /// The pattern.
    pub fn pattern(&self) -> &Pattern {
        &self.0.pattern
    }

    /// The arguments by name, in the order the pattern takes them.
    pub fn args(&self) -> impl Iterator<Item = (&str, u32)> {
        self.0.pattern.args.iter().map(String::as_str).zip(self.0.args.iter().copied())
    }

    /// Refuses what the pattern does wrong, and arguments that are past `i32`.
    pub fn check(&self) -> Result<(), Error> {
        self.0.pattern.check()?;
        match self.args().find(|(_, value)| i32::try_from(*value).is_err()) {
            None => Ok(()),
            Some((name, value)) => Err(Error::Unsupported(format!(
                "`{name}` of `{}` is {value}; positions end at {}, so nothing above it means more",
                self.0.pattern.name,
                i32::MAX
            ))),
        }
    }

    /// Whether the query at `q` sees the key at `kv`.
    pub fn keeps(&self, q: i64, kv: i64) -> bool {
        let args: Vec<i64> = self.0.args.iter().map(|&a| a.into()).collect();
        self.0.pattern.keeps(q, kv, &args)
    }

    /// The blocks of keys that some of the rows see something of, in ascending order.
    #[track_caller]
    pub fn visits<K: Axis>(&self, rows: &QueryRows<impl Axis, impl Axis>) -> Visits<K> {
        let (extent, runs) = {
            let run = current();
            let mut state = run.borrow_mut();
            let args = self.values(&mut state);
            let q = (state.take(rows.ends.0), state.take(rows.ends.1));
            let (len, extent) = (state.take(rows.document.len), state.extent::<K>());
            let runs = self.0.pattern.emit_runs(&mut state.builder, q, len, extent, &args);
            let give = |(first, end)| (state.give::<Scalar<I32>>(first), state.give::<Scalar<I32>>(end));
            (extent as i32, runs.into_iter().map(give).collect::<Vec<_>>())
        };
        // One loop goes through all runs: round `i` is block `i + offset` of the run that it falls in.
        let mut steps: Vec<(Scalar<I32>, Scalar<I32>)> = Vec::with_capacity(runs.len());
        for (first, end) in runs {
            steps.push(match steps.last() {
                None => (end - first, first),
                Some(&(before, _)) => (before + (end - first), first - before),
            });
        }
        let count = match steps.last() {
            Some(&(count, _)) => count,
            None => cx::constant::<Scalar<I32>, _>(0),
        };
        Visits { steps, count, document: rows.document, extent, of: std::marker::PhantomData }
    }

    /// The scores of a block with -inf where the mask says no. The mask is computed only for blocks that it cuts, and for
    /// those that reach past the document's end.
    #[track_caller]
    pub fn keep<R: Axis, K: Axis, D: Axis>(
        &self,
        scores: Tile<F32, R, K>,
        rows: &QueryRows<R, D>,
        block: Block<K>,
    ) -> Tile<F32, R, K> {
        let extent = cx::extent::<K>();
        let kept = Var::<Tile<F32, R, K>>::unset("scores", 0.0);
        kept.set(scores);
        let last = block.first + (extent - 1);
        let seen: Scalar<Bool> = {
            let run = current();
            let mut state = run.borrow_mut();
            let args = self.values(&mut state);
            let q = (state.take(rows.ends.0), state.take(rows.ends.1));
            let kv = (state.take(block.first), state.take(last));
            let full = self.0.pattern.emit_full(&mut state.builder, q, kv, &args);
            state.give(full)
        };
        let whole = seen & last.lt(block.document.len);
        let region = cx::open_branch(&current(), !whole);
        let kv = cx::iota::<K>() + block.first;
        let keep = self.emit(rows, kv);
        let inside = kv.lt(block.document.len).under::<R>();
        kept.set((keep & inside).select(kept.get(), f32::NEG_INFINITY));
        current().borrow_mut().leave(region);
        kept.get()
    }

    /// The mask of a tile of scores.
    #[track_caller]
    fn emit<R: Axis, K: Axis, D: Axis>(&self, rows: &QueryRows<R, D>, kv: Vector<I32, K>) -> Tile<Bool, R, K> {
        let run = current();
        let mut state = run.borrow_mut();
        let args = self.values(&mut state);
        let kv = state.take(kv);
        let q = match rows.positions {
            Positions::Each(positions) => state.take(positions),
            Positions::One(position) => state.take(position),
        };
        let keep = self.0.pattern.emit_keep(&mut state.builder, q, kv, &args);
        let axes = [state.axis::<R>(), state.axis::<K>()];
        let keep = state.builder.broadcast(keep, &axes);
        state.give(keep)
    }

    /// The arguments as values.
    #[track_caller]
    fn values(&self, state: &mut State) -> Vec<ValueId> {
        if let Err(Error::Unsupported(message)) = self.check() {
            state.builder.fail(message, "the mask is used here");
        }
        let owner = Arc::as_ptr(&self.0) as usize;
        let mut values = Vec::with_capacity(self.0.args.len());
        for (name, value) in self.args() {
            values.push(state.given(name, owner, Given::I32(i32::try_from(value).unwrap_or(i32::MAX))));
        }
        values
    }
}

/// The blocks of `K` keys that a tile of query rows visits under a mask.
#[derive(Debug)]
pub struct Visits<K> {
    /// For each run, how many blocks it and those before have, and what to add to a round's number to get its block.
    steps: Vec<(Scalar<I32>, Scalar<I32>)>,
    count: Scalar<I32>,
    document: Document,
    extent: i32,
    of: std::marker::PhantomData<*const K>,
}

impl<K: Axis> BlockList for Visits<K> {
    type Block = Block<K>;

    fn bounds(&self) -> (Scalar<I32>, Scalar<I32>) {
        (cx::constant::<Scalar<I32>, _>(0), self.count)
    }

    fn at(&self, index: Scalar<I32>) -> Block<K> {
        let mut steps = self.steps.iter().rev();
        let Some(&(_, mut offset)) = steps.next() else { return Block::new(index, self.document) };
        for &(end, earlier) in steps {
            offset = index.lt(end).select(earlier, offset);
        }
        Block::new((index + offset) * self.extent, self.document)
    }
}
