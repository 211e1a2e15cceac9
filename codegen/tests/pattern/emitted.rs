//! What a pattern emits, run by the interpreter.

use std::ops::RangeInclusive;

use lacuna_codegen::ir::{Binary, Builder, Elem, Func, Op, ValueId};
use lacuna_codegen::pattern::Pattern;
use lacuna_ptx::Target;

use crate::interp;

pub(crate) const ROWS: u32 = 8;
pub(crate) const COLS: u32 = 8;

/// A func whose parameters are `q0`, `kv0`, `len` and the pattern's arguments.
pub(crate) struct Emitted {
    pub(crate) func: Func,
    values: Vec<ValueId>,
}

impl Emitted {
    pub(crate) fn new(
        pattern: &Pattern,
        f: impl FnOnce(&mut Builder, [ValueId; 3], &[ValueId]) -> Vec<ValueId>,
    ) -> Self {
        let mut b = Builder::new("test", Target::SM_80, 4);
        let given = ["q0", "kv0", "len"].map(|name| b.scalar_param(name, Elem::I32));
        let args: Vec<ValueId> = pattern.args.iter().map(|name| b.scalar_param(name, Elem::I32)).collect();
        let values = f(&mut b, given, &args);
        Emitted { func: b.finish().expect("no mistakes"), values }
    }

    pub(crate) fn keep(pattern: &Pattern) -> Self {
        Self::new(pattern, |b, [q0, kv0, _], args| {
            let (rows, cols) = (b.axis("Rows", ROWS), b.axis("Cols", COLS));
            let (r, c) = (b.iota(rows), b.iota(cols));
            let (q, kv) = (b.binary(Binary::Add, r, q0), b.binary(Binary::Add, c, kv0));
            vec![pattern.emit_keep(b, q, kv, args)]
        })
    }

    /// Over the boxes `q0..=q0 + ROWS - 1`, `kv0..=kv0 + COLS - 1`.
    pub(crate) fn full(pattern: &Pattern) -> Self {
        Self::new(pattern, |b, [q0, kv0, _], args| {
            let (up, across) = (b.int(ROWS as i32 - 1), b.int(COLS as i32 - 1));
            let (q1, kv1) = (b.binary(Binary::Add, q0, up), b.binary(Binary::Add, kv0, across));
            vec![pattern.emit_full(b, (q0, q1), (kv0, kv1), args)]
        })
    }

    pub(crate) fn runs(pattern: &Pattern, rows: u32, block: u32) -> Self {
        Self::new(pattern, |b, [q0, _, len], args| {
            let up = b.int(rows as i32 - 1);
            let q1 = b.binary(Binary::Add, q0, up);
            let runs = pattern.emit_runs(b, (q0, q1), len, block, args);
            runs.into_iter().flat_map(|(first, end)| [first, end]).collect()
        })
    }

    pub(crate) fn eval(&self, q0: i64, kv0: i64, len: i64, args: &[i64]) -> Vec<Vec<i64>> {
        let made = interp::run(&self.func, &[&[q0, kv0, len], args].concat());
        self.values.iter().map(|v| made[v.index()].clone().expect("a value").data).collect()
    }

    pub(crate) fn eval_runs(&self, q0: i64, len: i64, args: &[i64]) -> Vec<std::ops::Range<i64>> {
        self.eval(q0, 0, len, args).chunks(2).map(|run| run[0][0]..run[1][0]).collect()
    }

    pub(crate) fn count(&self, op: impl Fn(&Op) -> bool) -> usize {
        self.func.body.iter().filter(|stmt| op(&stmt.op)).count()
    }

    pub(crate) fn rank(&self, stmt: usize) -> usize {
        self.func.values[self.func.body[stmt].result.expect("a value").index()].ty.rank()
    }
}

/// Holds runs against the predicate: every block with a pair that counts is visited once, in order, and within the length.
pub(crate) fn check_runs(
    pattern: &Pattern,
    runs: &[std::ops::Range<i64>],
    q: RangeInclusive<i64>,
    len: i64,
    block: i64,
    args: &[i64],
) {
    let blocks = (len + block - 1) / block;
    let mut at = 0;
    for run in runs {
        assert!(at <= run.start && run.start <= run.end && run.end <= blocks, "{pattern}: {runs:?} of {blocks} blocks");
        at = run.end;
    }
    for b in 0..blocks {
        let keys = b * block..(b * block + block).min(len);
        let needed = q.clone().any(|q| keys.clone().any(|kv| pattern.keeps(q, kv, args)));
        let visited = runs.iter().any(|run| run.contains(&b));
        assert!(
            visited || !needed,
            "{pattern}: block {b} of queries {q:?} is not in {runs:?}, len {len}, args {args:?}"
        );
    }
}
