//! Scores: what happens to a logit before the softmax, and what a schedule does with one.

mod emit;
mod record;

use std::sync::Arc;

use lacuna_codegen::Error;
use lacuna_codegen::ir::{Diagnostic, Elem};
use lacuna_codegen::plan::{self, Access, Dim};

use crate::axis::{Axis, F32, I32};
use crate::cx;
use crate::grid::QueryHead;
use crate::input::{Block, Positions, QueryRows};
use crate::staging::current;
use crate::value::{Scalar, Tile};
use record::Tree;

pub use record::Logit;

/// A number for each query head, of the tensor `[heads_q]`, f32, that is called like the parameter. Stands in the signature
/// of a function under [`#[score]`](macro@crate::score); in its body it is the number of the row's head.
#[derive(Debug)]
pub enum PerHead {}

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
    tables: Vec<String>,
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
        tables: &[&str],
        score: impl FnOnce(Logit, Logit, Logit, &[Logit], &[Logit]) -> Logit,
    ) -> Self {
        let (tree, mistakes) = record::record(args.len(), tables.len(), score);
        Score(Arc::new(Recorded {
            name: name.to_owned(),
            args: args.iter().map(|&(name, value)| (name.to_owned(), value)).collect(),
            tables: tables.iter().map(|&name| name.to_owned()).collect(),
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

    /// The tensors `[heads_q]`, f32, that it reads a number a head from, by name.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.0.tables.iter().map(String::as_str)
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

    /// What becomes of a scaled logit, in f64, of the query at `q` with the key at `kv`; `tables` has the numbers of the
    /// query's head.
    ///
    /// # Panics
    /// If `tables` are not as many as the score's.
    pub fn of(&self, logit: f64, q: i64, kv: i64, tables: &[f32]) -> f64 {
        assert_eq!(tables.len(), self.0.tables.len(), "a number for each table of `{}`", self.0.name);
        let args: Vec<f64> = self.args().map(|(_, arg)| arg.value()).collect();
        self.0.tree.value(logit, q as f64, kv as f64, &args, tables)
    }

    /// The score for one query head: reads its tables, once. Outside the loop over keys.
    #[track_caller]
    pub fn at(&self, head: QueryHead) -> HeadScore {
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
            state
                .builder
                .fail("a score reads its tables inside a loop or branch", "make it before the loop: `score.at(h)`");
        }
        let owner = Arc::as_ptr(&self.0) as usize;
        let mut args = Vec::with_capacity(self.0.args.len());
        for (name, arg) in self.args() {
            let id = state.given(name, owner, arg.scalar());
            let id = state.builder.convert(id, Elem::F32);
            args.push(state.give(id));
        }
        let mut tables = Vec::with_capacity(self.0.tables.len());
        for name in self.tables() {
            let dims = [("heads_q", Dim::Symbol("heads_q".to_owned()))];
            let table = state.tensor(name, Elem::F32, &dims, Access::Read);
            let at = state.take(head.head);
            let id = state.builder.element(table, &[at]);
            tables.push(state.give(id));
        }
        let scale = state.scalar("scale", Elem::F32);
        let scale = state.give(scale);
        drop(state);
        HeadScore { score: self.clone(), scale, args, tables }
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

/// A score for one query head. [`Score::at`] makes it.
#[derive(Clone, Debug)]
pub struct HeadScore {
    score: Score,
    scale: Scalar<F32>,
    args: Vec<Scalar<F32>>,
    tables: Vec<Scalar<F32>>,
}

impl HeadScore {
    /// The logits of a block: its products, unscaled, times the kernel's parameter `scale`, under the score. They go to a
    /// softmax [of logits](crate::OnlineSoftmax::of_logits).
    #[track_caller]
    pub fn logits<R: Axis, K: Axis, D: Axis>(
        &self,
        products: Tile<F32, R, K>,
        rows: &QueryRows<R, D>,
        block: Block<K>,
    ) -> Tile<F32, R, K> {
        let logits = products * self.scale;
        let kv = cx::iota::<K>() + block.first;
        let run = current();
        let mut state = run.borrow_mut();
        let q = match rows.positions {
            Positions::Each(positions) => state.take(positions),
            Positions::One(position) => state.take::<Scalar<I32>>(position),
        };
        let mut values = emit::Values {
            axes: [state.axis::<R>(), state.axis::<K>()],
            logit: state.take(logits),
            q,
            kv: state.take(kv),
            args: Vec::new(),
            tables: Vec::new(),
        };
        for &arg in &self.args {
            values.args.push(state.take(arg));
        }
        for &table in &self.tables {
            values.tables.push(state.take(table));
        }
        let id = emit::emit(&mut state.builder, &self.score.0.tree, &values);
        state.give(id)
    }
}
