//! What a pattern emits, run by the interpreter.

use std::ops::RangeInclusive;

use lacuna_codegen::ir::{Binary, Builder, Elem, Func, Op, ParamId, Type, ValueId};
use lacuna_codegen::pattern::{Given, Pattern};
use lacuna_ptx::Target;

use crate::interp;

pub(crate) const ROWS: u32 = 8;
pub(crate) const COLS: u32 = 8;

/// A func whose parameters are `q0`, `kv0`, `len` and the pattern's arguments, and its tables.
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
            let tables: Vec<ParamId> =
                pattern.tables.iter().map(|name| b.tensor(name, Elem::I32, &["tokens"])).collect();
            let (rows, cols) = (b.axis("Rows", ROWS), b.axis("Cols", COLS));
            let (r, c) = (b.iota(rows), b.iota(cols));
            let (q, kv) = (b.binary(Binary::Add, r, q0), b.binary(Binary::Add, c, kv0));
            let element = |read: lacuna_codegen::pattern::Read| {
                let at = if read.key { kv } else { q };
                let ty = Type::tile(Elem::I32, b.ty(at).axes.clone());
                b.push(Op::Element { tensor: tables[read.table], index: vec![at] }, ty)
            };
            let elements: Vec<ValueId> = pattern.reads().into_iter().map(element).collect();
            vec![pattern.emit_keep(b, q, kv, args, &elements)]
        })
    }

    /// Of `COLS` blocks of `block` keys from the one that begins at `kv0`, for `rows` queries: whether some pair may count,
    /// and whether every pair surely does. After `len` there are the least and largest of what the tables hold at queries.
    pub(crate) fn class(pattern: &Pattern, rows: u32, block: u32) -> Self {
        let mut b = Builder::new("test", Target::SM_80, 4);
        let [q0, kv0, _] = ["q0", "kv0", "len"].map(|name| b.scalar_param(name, Elem::I32));
        let args: Vec<ValueId> = pattern.args.iter().map(|name| b.scalar_param(name, Elem::I32)).collect();
        let lanes = b.axis("Lanes", COLS);
        let (up, across, width) = (b.int(rows as i32 - 1), b.int(block as i32 - 1), b.int(block as i32));
        let q1 = b.binary(Binary::Add, q0, up);
        let (lane, ty) = (b.iota(lanes), Type::tile(Elem::I32, vec![lanes]));
        let offset = b.binary(Binary::Mul, lane, width);
        let first = b.binary(Binary::Add, offset, kv0);
        let last = b.binary(Binary::Add, first, across);
        // Two tables for each element that is read of keys: the ends of each block.
        let ends = |read: lacuna_codegen::pattern::Read| {
            if !read.key {
                return (b.scalar_param("least", Elem::I32), b.scalar_param("largest", Elem::I32));
            }
            let mut of_blocks = |name| {
                let tensor = b.tensor(name, Elem::I32, &["blocks"]);
                b.push(Op::Element { tensor, index: vec![lane] }, ty.clone())
            };
            (of_blocks("least"), of_blocks("largest"))
        };
        let elements: Vec<(ValueId, ValueId)> = pattern.reads().into_iter().map(ends).collect();
        let (some, every) = pattern.emit_class(&mut b, (q0, q1), (first, last), &args, &elements);
        Emitted { func: b.finish().expect("no mistakes"), values: vec![some, every] }
    }

    /// What [`class`](Self::class) finds, for each of the blocks.
    pub(crate) fn eval_class(
        &self,
        pattern: &Pattern,
        (q0, rows): (i64, i64),
        (kv0, block): (i64, i64),
        given: Given<'_>,
    ) -> Vec<(bool, bool)> {
        let mut params = [&[q0, kv0, 0], given.args].concat();
        let mut tables: Vec<Vec<i32>> = Vec::new();
        for read in pattern.reads() {
            let ends = |from: i64, count: i64| {
                let table = given.tables[read.table];
                let over = (from..from + count).map(|at| table.get(at as usize).copied().unwrap_or(0));
                [over.clone().min().expect("a block has keys"), over.max().expect("a block has keys")]
            };
            if read.key {
                let blocks: Vec<[i32; 2]> = (0..i64::from(COLS)).map(|n| ends(kv0 + n * block, block)).collect();
                tables.extend([0, 1].map(|end| blocks.iter().map(|ends| ends[end]).collect()));
            } else {
                params.extend(ends(q0, rows).map(i64::from));
            }
        }
        let tables: Vec<&[i32]> = tables.iter().map(Vec::as_slice).collect();
        let made = interp::run(&self.func, &params, &tables);
        let [some, every] = [0, 1].map(|n| made[self.values[n].index()].clone().expect("a value").data);
        some.into_iter().zip(every).map(|(some, every)| (some != 0, every != 0)).collect()
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

    pub(crate) fn eval<'a>(&self, q0: i64, kv0: i64, len: i64, given: impl Into<Given<'a>>) -> Vec<Vec<i64>> {
        let given = given.into();
        let made = interp::run(&self.func, &[&[q0, kv0, len], given.args].concat(), given.tables);
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
    given: Given<'_>,
) {
    let blocks = (len + block - 1) / block;
    let mut at = 0;
    for run in runs {
        assert!(at <= run.start && run.start <= run.end && run.end <= blocks, "{pattern}: {runs:?} of {blocks} blocks");
        at = run.end;
    }
    for b in 0..blocks {
        let keys = b * block..(b * block + block).min(len);
        let needed = q.clone().any(|q| keys.clone().any(|kv| pattern.keeps(q, kv, given)));
        let visited = runs.iter().any(|run| run.contains(&b));
        assert!(visited || !needed, "{pattern}: block {b} of queries {q:?} is not in {runs:?}, len {len}, {given:?}");
    }
}
