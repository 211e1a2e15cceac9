//! The tile IR: what a schedule says, before and after the passes.
//!
//! A [`Func`] is one CTA's work. Its values are scalars (rank 0) and tiles (rank 1 or 2) over named axes; they are SSA.
//! Storage that changes (accumulators, softmax state) is a named [`Var`], read and written by operations. Control flow is
//! structured: [`Op::For`], [`Op::If`], [`Op::Exit`]; every scalar is uniform over the CTA, so every branch is.
//!
//! A func has a text form: it displays as text, and [`read()`] reads that back.
//!
//! The last group of operations in [`Op`] is made by passes, never by a schedule.

mod build;
mod lex;
mod print;
mod read;
mod types;

pub use build::{Builder, Diagnostic};
pub use read::{ReadError, read};
pub use types::{
    Axis, AxisId, Best, BestId, Binary, Buffer, BufferId, Compare, Const, Elem, Fold, Func, Loc, Op, Overlap, Param,
    ParamId, Partition, Reduce, Roles, Slice, Stmt, Table, TableId, Tensor, Type, Unary, Value, ValueId, Var, VarId,
};
