//! Scores: what happens to a logit before the softmax, and what a schedule does with one.

mod emit;
mod record;

use std::sync::Arc;

use lacuna_codegen::Error;
use lacuna_codegen::ir::{Binary, Const, Diagnostic, Elem, ParamId, Type};
use lacuna_codegen::plan::{self, Access, Dim, Expr, Requirement};

use crate::axis::{Axis, F32, I32};
use crate::cx;
use crate::input::{Block, RowsAt};
use crate::staging::{State, current};
use crate::value::{Scalar, Tile, Vector};
use record::Tree;

pub use record::{Logit, Table};

/// A number for each query head, of the tensor `[heads_q]`, f32, that is called like the parameter. Stands in the signature
/// of a function under [`#[score]`](macro@crate::score); in its body it is the number of the row's head.
#[derive(Debug)]
pub enum PerHead {}

/// A row of numbers for each query head, of the tensor `[heads_q, n]`, f32, that is called like the parameter; `n` is known at
/// launch, and at least 1. Stands in the signature of a function under [`#[score]`](macro@crate::score), as a `Table` does for
/// one row `[n]` that all heads share; in its body `bias.at(i)` is the number at a whole index `i` of the row's head. An index
/// below 0 reads the first number, one past the end the last: no index is out of bounds, also where a query or a key is past
/// the document's end.
#[derive(Debug)]
pub enum PerHeadTable {}

/// What a table of a score holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// `[heads_q]`: a number for each head.
    Number,
    /// `[heads_q, n]`: a row for each head.
    Row,
    /// `[n]`: one row for all heads.
    Shared,
}

/// An argument of a score, given at launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A count, at most `i32::MAX`.
    U32(u32),
    /// An integer.
    I32(i32),
    /// A float.
    F32(f32),
}

macro_rules! args {
    ($($rust:ty: $variant:ident;)*) => {$(
        impl From<$rust> for Arg {
            fn from(value: $rust) -> Self {
                Arg::$variant(value)
            }
        }
    )*};
}

args! { u32: U32; i32: I32; f32: F32; }

/// What happens to a logit: an expression and its arguments. A function under [`#[score]`](macro@crate::score) makes one.
///
/// It works on the scaled logit, in f32, before the mask: what the mask hides stays hidden whatever the score makes of it.
/// The expression is compiled; the arguments are not, they are given at each launch, and so are the tables.
#[derive(Clone, Debug)]
pub struct Score(Arc<Recorded>);

#[derive(Debug)]
struct Recorded {
    name: String,
    args: Vec<(String, Arg)>,
    tables: Vec<(String, Holds)>,
    tree: Tree,
    mistakes: Vec<Diagnostic>,
}

impl Score {
    /// Runs `score` once, on symbols for the logit, the two positions, the arguments and the tables, and keeps what it
    /// computes.
    #[track_caller]
    pub fn record(
        name: &str,
        args: &[(&str, Arg)],
        tables: &[(&str, Holds)],
        score: impl FnOnce(Logit, Logit, Logit, &[Logit], &[Table]) -> Logit,
    ) -> Self {
        let wholes: Vec<bool> = args.iter().map(|(_, arg)| !matches!(arg, Arg::F32(_))).collect();
        let (tree, mistakes) = record::record(&wholes, tables.len(), score);
        Score(Arc::new(Recorded {
            name: name.to_owned(),
            args: args.iter().map(|&(name, value)| (name.to_owned(), value)).collect(),
            tables: tables.iter().map(|&(name, holds)| (name.to_owned(), holds)).collect(),
            tree,
            mistakes,
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The arguments by name, in the order the score takes them.
    pub fn args(&self) -> impl Iterator<Item = (&str, Arg)> {
        self.0.args.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// The tensors, f32, that it reads, by name, with what they hold.
    pub fn tables(&self) -> impl Iterator<Item = (&str, Holds)> {
        self.0.tables.iter().map(|(name, holds)| (name.as_str(), *holds))
    }

    /// Refuses what the expression does wrong, and arguments that are past `i32`.
    pub fn check(&self) -> Result<(), Error> {
        if !self.0.mistakes.is_empty() {
            return Err(Error::Staging(self.0.mistakes.clone()));
        }
        let wide = |(name, arg)| match arg {
            Arg::U32(value) if i32::try_from(value).is_err() => Some((name, value)),
            _ => None,
        };
        match self.args().find_map(wide) {
            None => Ok(()),
            Some((name, value)) => Err(Error::Unsupported(format!(
                "`{name}` of `{}` is {value}; whole arguments end at {}",
                self.0.name,
                i32::MAX
            ))),
        }
    }

    /// What becomes of a scaled logit, in f64, of the query at `q` with the key at `kv`; `tables` has for each table what it
    /// holds for the query's head: one number, or a row.
    ///
    /// # Panics
    /// If `tables` are not as many as the score's, or one of them is empty.
    pub fn of(&self, logit: f64, q: i64, kv: i64, tables: &[&[f32]]) -> f64 {
        assert_eq!(tables.len(), self.0.tables.len(), "numbers for each table of `{}`", self.0.name);
        assert!(tables.iter().all(|table| !table.is_empty()), "an empty table of `{}`", self.0.name);
        let args: Vec<f64> = self.args().map(|(_, arg)| arg.value()).collect();
        self.0.tree.value(logit, q as f64, kv as f64, &args, tables)
    }

    /// The score for some rows: reads its arguments, and its tables' numbers of heads, once. Outside the loop over keys.
    #[track_caller]
    pub(crate) fn of_rows<R: Axis>(&self, rows: &RowsAt<R>) -> RowScore<R> {
        let run = current();
        let mut state = run.borrow_mut();
        match self.check() {
            Err(Error::Staging(mistakes)) => mistakes.into_iter().for_each(|m| {
                state.builder.fail_at(m.loc, m.message, m.label);
            }),
            Err(error) => state.builder.fail(error.to_string(), "the score is used here"),
            Ok(()) => {}
        }
        if !state.at_top() {
            let label = "make the softmax before the loop: `OnlineSoftmax::under(cx, &rows, score)`";
            state.builder.fail("a score reads its tables inside a loop or branch", label);
        }
        let owner = Arc::as_ptr(&self.0) as usize;
        let mut args = Vec::with_capacity(self.0.args.len());
        for (name, arg) in self.args() {
            let id = state.given(name, owner, arg.scalar());
            args.push(match arg {
                Arg::F32(_) => Given::Float(state.give(id)),
                Arg::U32(_) | Arg::I32(_) => Given::Whole(state.give(id)),
            });
        }
        let mut tables = Vec::with_capacity(self.0.tables.len());
        for (name, holds) in self.tables() {
            tables.push(RowTable::declare(&mut state, rows, name, holds));
        }
        let scale = state.scalar("scale", Elem::F32);
        let scale = state.give(scale);
        RowScore { score: self.clone(), scale, args, tables }
    }
}

impl Arg {
    /// As the kernel takes it.
    fn scalar(self) -> plan::Scalar {
        match self {
            Arg::U32(value) => plan::Scalar::I32(i32::try_from(value).unwrap_or(i32::MAX)),
            Arg::I32(value) => plan::Scalar::I32(value),
            Arg::F32(value) => plan::Scalar::F32(value),
        }
    }

    /// In f64, exactly.
    fn value(self) -> f64 {
        match self {
            Arg::U32(value) => value.into(),
            Arg::I32(value) => value.into(),
            Arg::F32(value) => value.into(),
        }
    }
}

/// An argument, as the kernel has it.
#[derive(Clone, Copy, Debug)]
enum Given {
    Whole(Scalar<I32>),
    Float(Scalar<F32>),
}

/// A table for some rows.
enum RowTable<R> {
    /// The number of the one head of all rows.
    Number(Scalar<F32>),
    /// The number of each row's head.
    Numbers(Vector<F32, R>),
    /// A row for the head, or for all heads; `last` is its last index.
    Row { table: ParamId, last: Scalar<I32>, of_head: bool },
}

impl<R: Axis> RowTable<R> {
    #[track_caller]
    fn declare(state: &mut State, rows: &RowsAt<R>, name: &str, holds: Holds) -> Self {
        let heads = ("heads_q", Dim::Symbol("heads_q".to_owned()));
        let extent = format!("{name}_entries");
        let entries = (extent.as_str(), Dim::Symbol(extent.clone()));
        let dims = match holds {
            Holds::Number => vec![heads],
            Holds::Row => vec![heads, entries],
            Holds::Shared => vec![entries],
        };
        let table = state.tensor(name, Elem::F32, &dims, Access::Read);
        if holds != Holds::Number {
            state.requires.push(Requirement {
                what: format!("`{name}` must have at least 1 entry: an index past its end reads the last one"),
                left: Expr::symbol(&extent).ceil_div(u64::from(u32::MAX)),
                right: Expr::Const(1),
            });
            let entries = state.computed(&extent, Expr::symbol(&extent));
            let one = state.builder.int(1);
            let last = state.builder.binary(Binary::Sub, entries, one);
            return RowTable::Row { table, last: state.give(last), of_head: holds == Holds::Row };
        }
        let heads = rows.heads(state);
        let number = state.builder.element(table, &[heads]);
        if state.builder.ty(number).axes.is_empty() {
            return RowTable::Number(state.give(number));
        }
        // Elements by row are read where they are used; a var holds them through the loop.
        let (axis, init) = (state.axis::<R>(), Const::f32(0.0));
        let held = state.builder.var(name, Type::tile(Elem::F32, [axis]), init);
        state.builder.write(held, number);
        let number = state.builder.read(held);
        RowTable::Numbers(state.give(number))
    }
}

/// A score for some rows. [`OnlineSoftmax::under`](crate::OnlineSoftmax::under) makes it.
pub(crate) struct RowScore<R> {
    score: Score,
    scale: Scalar<F32>,
    args: Vec<Given>,
    tables: Vec<RowTable<R>>,
}

impl<R> std::fmt::Debug for RowScore<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowScore").field("score", &self.score).finish_non_exhaustive()
    }
}

impl<R: Axis> RowScore<R> {
    /// The logits of a block: its products, unscaled, times the kernel's parameter `scale`, under the score.
    #[track_caller]
    pub(crate) fn logits<K: Axis>(
        &self,
        products: Tile<F32, R, K>,
        rows: &RowsAt<R>,
        block: Block<K>,
    ) -> Tile<F32, R, K> {
        let logits = products * self.scale;
        let kv = cx::iota::<K>() + block.first;
        let run = current();
        let mut state = run.borrow_mut();
        let mut values = emit::Values {
            axes: [state.axis::<R>(), state.axis::<K>()],
            logit: state.take(logits),
            q: rows.positions(&mut state),
            kv: state.take(kv),
            heads: None,
            args: Vec::new(),
            tables: Vec::new(),
        };
        for &arg in &self.args {
            values.args.push(match arg {
                Given::Whole(arg) => state.take(arg),
                Given::Float(arg) => state.take(arg),
            });
        }
        for table in &self.tables {
            values.tables.push(match *table {
                RowTable::Number(number) => emit::Table::Number(state.take(number)),
                RowTable::Numbers(numbers) => emit::Table::Number(state.take(numbers)),
                RowTable::Row { table, last, of_head } => {
                    if of_head && values.heads.is_none() {
                        values.heads = Some(rows.heads(&mut state));
                    }
                    emit::Table::Row { table, last: state.take(last), of_head }
                }
            });
        }
        let id = emit::emit(&mut state.builder, &self.score.0.tree, &values);
        state.give(id)
    }
}
