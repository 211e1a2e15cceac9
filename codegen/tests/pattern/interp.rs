//! A small interpreter of the IR's integer and truth arithmetic, for tests: an i32 that overflows is a failure.

use lacuna_codegen::ir::{AxisId, Binary, Compare, Const, Func, Op, Param, Stmt, Unary, ValueId};

/// A scalar or tile: its axes, and its elements in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) axes: Vec<AxisId>,
    pub(crate) data: Vec<i64>,
}

/// Runs a straight-line func on scalar parameters and tables, each in order, and returns every value. A read past a table's
/// end gives 0.
pub(crate) fn run(func: &Func, params: &[i64], tables: &[&[i32]]) -> Vec<Option<Tile>> {
    let mut values: Vec<Option<Tile>> = vec![None; func.values.len()];
    for Stmt { result, op, .. } in &func.body {
        let result = result.expect("only operations that make values");
        let axes = func.values[result.index()].ty.axes.clone();
        let extents: Vec<usize> = axes.iter().map(|a| func.axes[a.index()].extent as usize).collect();
        let count = extents.iter().product();
        let get = |id: ValueId| values[id.index()].as_ref().expect("made before it is used");
        let each = |ids: &[ValueId], f: &dyn Fn(&[i64]) -> i64| -> Vec<i64> {
            let tiles: Vec<&Tile> = ids.iter().map(|&id| get(id)).collect();
            tiles.iter().for_each(|tile| assert_eq!(tile.axes, axes, "operands of {op:?} have the result's axes"));
            (0..count).map(|n| f(&tiles.iter().map(|tile| tile.data[n]).collect::<Vec<_>>())).collect()
        };
        let data = match op {
            Op::Const(Const::I32(value)) => vec![i64::from(*value)],
            Op::Const(Const::Bool(value)) => vec![i64::from(*value)],
            Op::Param(id) => {
                let scalars = func.params[..id.index()].iter().filter(|p| matches!(p, Param::Scalar { .. })).count();
                vec![i64::from(i32::try_from(params[scalars]).expect("a 32-bit argument"))]
            }
            Op::Element { tensor, index } => {
                let table = func.params[..tensor.index()].iter().filter(|p| matches!(p, Param::Tensor(_))).count();
                let at =
                    |n: i64| usize::try_from(n).ok().and_then(|n| tables[table].get(n)).copied().map_or(0, i64::from);
                each(index, &|v| at(v[0]))
            }
            Op::Iota(_) => (0..count as i64).collect(),
            Op::Unary(Unary::Neg, x) => each(&[*x], &|v| narrow(-v[0])),
            Op::Unary(Unary::Not, x) => each(&[*x], &|v| 1 - v[0]),
            Op::Binary(op, a, b) => each(&[*a, *b], &|v| binary(*op, v[0], v[1])),
            Op::Compare(op, a, b) => each(&[*a, *b], &|v| compare(*op, v[0], v[1]).into()),
            Op::Select(c, a, b) => each(&[*c, *a, *b], &|v| if v[0] != 0 { v[1] } else { v[2] }),
            Op::Broadcast(x) => {
                let from = get(*x);
                (0..count)
                    .map(|n| {
                        let at = |axis| match axes.iter().position(|a| a == axis).expect("an axis of the result") {
                            0 if axes.len() == 2 => n / extents[1],
                            0 => n,
                            _ => n % extents[1],
                        };
                        match from.axes.as_slice() {
                            [] => from.data[0],
                            [axis] => from.data[at(axis)],
                            _ => unreachable!("a tile of two axes is never repeated"),
                        }
                    })
                    .collect()
            }
            other => panic!("the interpreter does not know {other:?}"),
        };
        assert_eq!(data.len(), count);
        values[result.index()] = Some(Tile { axes, data });
    }
    values
}

fn narrow(value: i64) -> i64 {
    i64::from(i32::try_from(value).expect("32-bit arithmetic does not overflow"))
}

fn binary(op: Binary, a: i64, b: i64) -> i64 {
    match op {
        Binary::Add => narrow(a + b),
        Binary::Sub => narrow(a - b),
        Binary::Mul => narrow(a * b),
        Binary::Div | Binary::Rem if b < 1 => panic!("a divisor of {b}"),
        Binary::Div => a / b,
        Binary::Rem => a % b,
        Binary::Min => a.min(b),
        Binary::Max => a.max(b),
        Binary::And => a & b,
        Binary::Or => a | b,
    }
}

fn compare(op: Compare, a: i64, b: i64) -> bool {
    match op {
        Compare::Eq => a == b,
        Compare::Ne => a != b,
        Compare::Lt => a < b,
        Compare::Le => a <= b,
        Compare::Gt => a > b,
        Compare::Ge => a >= b,
    }
}
