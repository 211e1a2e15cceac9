//! Masks: a pattern with its arguments, and what a schedule does with one.

use std::sync::Arc;

use lacuna_codegen::Error;
use lacuna_codegen::ir::{Binary, Compare, Elem, ParamId, Type, ValueId};
use lacuna_codegen::pattern::{self, Keep, Pattern, Pos, Table};
use lacuna_codegen::plan::{Access, Dim, Scalar as Given};

use crate::axis::{Axis, Bool, F32, I32};
use crate::cx;
use crate::flow::{BlockList, Var};
use crate::input::{Block, Document, Positions, QueryRows};
use crate::staging::{Raw, State, current};
use crate::value::{Handle, Scalar, Tile, Vector};

/// Which keys a query sees: a pattern and its arguments. A function under [`#[pattern]`](macro@crate::pattern) makes one.
///
/// The pattern is compiled; the arguments are not, they are given at each launch, and so are the tables that it reads.
///
/// Where a document has more queries than keys, its first queries are before every key: their positions are below 0
/// ([`Document::position`]). Under a pattern that looks at the query's position they see nothing; one that does not, such as
/// every key, is the same for them as for all.
#[derive(Clone, Debug)]
pub struct Mask(Arc<Recorded>);

/// A first and a last position.
type Ends = (Scalar<I32>, Scalar<I32>);

#[derive(Debug)]
struct Recorded {
    pattern: Pattern,
    args: Vec<u32>,
    /// Numbers of a schedule under way that stand in the place of arguments.
    made: Vec<Option<Raw>>,
}

impl Mask {
    /// Runs `predicate` once, on symbolic positions, arguments and tables, and keeps what it computes.
    #[track_caller]
    pub fn record(
        name: &str,
        args: &[(&str, u32)],
        tables: &[&str],
        predicate: impl FnOnce(Pos, Pos, &[Pos], &[Table]) -> Keep,
    ) -> Self {
        let ranges: Vec<_> = args.iter().map(|&(name, _)| (name, 0..=i32::MAX)).collect();
        let pattern = Pattern::record_with(name, &ranges, tables, predicate);
        let made = vec![None; args.len()];
        Mask(Arc::new(Recorded { pattern, args: args.iter().map(|(_, value)| *value).collect(), made }))
    }

    /// The mask with a number that a schedule makes in the place of an argument: each CTA may have its own.
    ///
    /// # Panics
    /// If the pattern has no argument of that name.
    #[must_use]
    pub fn with_made(&self, name: &str, value: Scalar<I32>) -> Self {
        let Some(at) = self.0.pattern.args.iter().position(|arg| arg == name) else {
            panic!("`{}` has no argument `{name}`", self.0.pattern.name)
        };
        let mut made = self.0.made.clone();
        made[at] = Some(value.raw());
        Mask(Arc::new(Recorded { pattern: self.0.pattern.clone(), args: self.0.args.clone(), made }))
    }

    /// The pattern.
    pub fn pattern(&self) -> &Pattern {
        &self.0.pattern
    }

    /// The arguments by name, in the order the pattern takes them.
    pub fn args(&self) -> impl Iterator<Item = (&str, u32)> {
        self.0.pattern.args.iter().map(String::as_str).zip(self.0.args.iter().copied())
    }

    /// The tensors `[tokens]`, i32, that it reads, by name: a number for each token, of every document. Where keys are apart,
    /// they are `[tokens_k]`, a number for each key: a query has that of the key at its position.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.0.pattern.tables.iter().map(String::as_str)
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

    /// Whether the query at `q` sees the key at `kv`, for a pattern without tables.
    ///
    /// # Panics
    /// If the pattern reads tables.
    pub fn keeps(&self, q: i64, kv: i64) -> bool {
        self.keeps_in(q, kv, &[])
    }

    /// Whether the query at `q` sees the key at `kv` in a document, given the tables: what each holds for its positions.
    ///
    /// # Panics
    /// If `tables` are not as many as the pattern's.
    pub fn keeps_in(&self, q: i64, kv: i64, tables: &[&[i32]]) -> bool {
        if q < 0 && self.0.pattern.looks_at_query() {
            return false;
        }
        let args: Vec<i64> = self.0.args.iter().map(|&a| a.into()).collect();
        self.0.pattern.keeps(q, kv, pattern::Given { args: &args, tables })
    }

    /// The blocks of keys that some of the rows see something of, in ascending order.
    #[track_caller]
    pub fn visits<K: Axis>(&self, rows: &QueryRows<impl Axis, impl Axis>) -> Visits<K> {
        let ends = self.ends(&rows.document, rows.ends);
        let (extent, runs) = {
            let run = current();
            let mut state = run.borrow_mut();
            let args = self.values(&mut state);
            state.uneven |= self.0.pattern.looks_at_query();
            let q = (state.take(ends.0), state.take(ends.1));
            let (len, extent) = (state.take(rows.document.keys()), state.extent::<K>());
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
        let count = if self.may_be_before(&rows.document) { rows.ends.1.ge(0).select(count, 0) } else { count };
        Visits { steps, count, document: rows.document, extent, of: std::marker::PhantomData }
    }

    /// Whether rows of a document may be before every key, and so see nothing.
    pub(crate) fn may_be_before(&self, document: &Document) -> bool {
        document.is_apart() && self.0.pattern.looks_at_query()
    }

    /// The first and last position of rows, as the pattern takes them: none is below 0.
    #[track_caller]
    pub(crate) fn ends(&self, document: &Document, (first, last): Ends) -> Ends {
        if self.may_be_before(document) { (first.max(0), last.max(0)) } else { (first, last) }
    }

    /// The scores of a block with -inf where the mask says no. The mask is computed only for blocks that it cuts, for those
    /// that reach past the document's end, and for rows that are before every key.
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
        let whole = match block.whole {
            Some(whole) => whole,
            None => self.whole(rows, block, block.first + (extent - 1)),
        };
        let region = cx::open_branch(&current(), !whole);
        let kv = cx::iota::<K>() + block.first;
        let keep = self.emit(rows, kv);
        let inside = kv.lt(block.document.keys()).under::<R>();
        kept.set((keep & inside).select(kept.get(), f32::NEG_INFINITY));
        current().borrow_mut().leave(region);
        kept.get()
    }

    /// Whether a block needs no mask: every pair counts, and the document's keys go on to its `last` position at least.
    #[track_caller]
    fn whole<R: Axis, K: Axis, D: Axis>(
        &self,
        rows: &QueryRows<R, D>,
        block: Block<K>,
        last: Scalar<I32>,
    ) -> Scalar<Bool> {
        let ends = self.ends(&rows.document, rows.ends);
        let seen: Scalar<Bool> = {
            let run = current();
            let mut state = run.borrow_mut();
            let args = self.values(&mut state);
            let q = (state.take(ends.0), state.take(ends.1));
            let kv = (state.take(block.first), state.take(last));
            let full = self.0.pattern.emit_full(&mut state.builder, q, kv, &args);
            state.give(full)
        };
        let whole = seen & last.lt(block.document.keys());
        if self.may_be_before(&rows.document) { whole & rows.ends.0.ge(0) } else { whole }
    }

    /// The mask of a tile of scores.
    #[track_caller]
    fn emit<R: Axis, K: Axis, D: Axis>(&self, rows: &QueryRows<R, D>, kv: Vector<I32, K>) -> Tile<Bool, R, K> {
        let run = current();
        let mut state = run.borrow_mut();
        let args = self.values(&mut state);
        let kv = state.take(kv);
        let mut q = match rows.positions {
            Positions::Each(positions) => state.take(positions),
            Positions::One(position) => state.take(position),
        };
        let mut among = None;
        if self.may_be_before(&rows.document) {
            let zero = state.builder.int(0);
            among = Some(state.builder.compare(Compare::Ge, q, zero));
            q = state.builder.binary(Binary::Max, q, zero);
        }
        let elements = self.elements(&mut state, &rows.document, q, kv);
        let keep = self.0.pattern.emit_keep(&mut state.builder, q, kv, &args, &elements);
        let axes = [state.axis::<R>(), state.axis::<K>()];
        let mut keep = state.builder.broadcast(keep, &axes);
        if let Some(among) = among {
            let among = state.builder.broadcast(among, &axes);
            keep = state.builder.binary(Binary::And, keep, among);
        }
        state.give(keep)
    }

    /// What the tables hold at the positions of rows and columns, for each element that the pattern reads. Positions past the
    /// last key, of rows that are not stored and columns that are masked, read its element.
    #[track_caller]
    fn elements(&self, state: &mut State, document: &Document, q: ValueId, kv: ValueId) -> Vec<ValueId> {
        let reads = self.0.pattern.reads();
        if reads.is_empty() {
            return Vec::new();
        }
        let tables = self.declare(state);
        let (start, len) = (state.take(document.first_key()), state.take(document.keys()));
        let one = state.builder.int(1);
        let last = state.builder.binary(Binary::Sub, len, one);
        // Loops, not closures: a closure would be the place that the operations name.
        let mut tokens = [None; 2];
        for (key, position) in [(false, q), (true, kv)] {
            if reads.iter().any(|read| read.key == key) {
                let inside = state.builder.binary(Binary::Min, position, last);
                tokens[usize::from(key)] = Some(state.builder.binary(Binary::Add, inside, start));
            }
        }
        let mut elements = Vec::with_capacity(reads.len());
        for read in &reads {
            let at = tokens[usize::from(read.key)].expect("made where something is read there");
            elements.push(state.builder.element(tables[read.table], &[at]));
        }
        elements
    }

    /// The tables as tensors of the kernel. Masks that call a table alike share it.
    #[track_caller]
    pub(crate) fn declare(&self, state: &mut State) -> Vec<ParamId> {
        let mut tables = Vec::with_capacity(self.0.pattern.tables.len());
        for name in self.tables() {
            let tokens = state.shape.key_tokens();
            let dims = [(tokens, Dim::Symbol(tokens.to_owned()))];
            let known = state.known(name, Elem::I32, &dims);
            tables.push(known.unwrap_or_else(|| state.tensor(name, Elem::I32, &dims, Access::Read)));
        }
        tables
    }

    /// The arguments as values.
    #[track_caller]
    pub(crate) fn values(&self, state: &mut State) -> Vec<ValueId> {
        if let Err(Error::Unsupported(message)) = self.check() {
            state.builder.fail(message, "the mask is used here");
        }
        let owner = Arc::as_ptr(&self.0) as usize;
        let mut values = Vec::with_capacity(self.0.args.len());
        for ((name, value), made) in self.args().zip(&self.0.made) {
            if let Some(made) = made {
                values.push(state.take_raw(*made, Type::scalar(Elem::I32)));
                continue;
            }
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
