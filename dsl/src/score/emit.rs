//! A recorded score as operations on a block of logits.
//!
//! Each node keeps the lowest rank that it can: what is the same for the whole CTA is computed once, what is of a row or a
//! column once for it. A product that is added or subtracted becomes a fused multiply-add.
//!
//! Whole numbers are i32 in the index of a table; elsewhere they are f32 from their leaves on, so that a bias by distance takes
//! one conversion a row and a column instead of one a logit.

use lacuna_codegen::ir::{AxisId, Binary, Builder, Elem, ParamId, Unary, ValueId};

use super::record::{Node, Tree};

/// What the leaves of the expression are: positions i32, the others f32.
pub(super) struct Values {
    /// Rows and columns of the logits.
    pub(super) axes: [AxisId; 2],
    /// Over both.
    pub(super) logit: ValueId,
    /// Over the rows, or a scalar.
    pub(super) q: ValueId,
    /// Over the columns.
    pub(super) kv: ValueId,
    /// The query heads, i32: over the rows, or a scalar. Where a table has a row for each.
    pub(super) heads: Option<ValueId>,
    /// Scalars, i32 or f32.
    pub(super) args: Vec<ValueId>,
    pub(super) tables: Vec<Table>,
}

/// A table for the rows.
pub(super) enum Table {
    /// The number of the head: over the rows, or a scalar.
    Number(ValueId),
    /// Numbers to be read; `last` is the last index, an i32 scalar.
    Row { table: ParamId, last: ValueId, of_head: bool },
}

/// Emits the expression, over rows and columns.
#[track_caller]
pub(super) fn emit(builder: &mut Builder, tree: &Tree, values: &Values) -> ValueId {
    let nodes = &tree.nodes;
    let (done, whole) = (vec![None; nodes.len()], vec![None; nodes.len()]);
    let mut emission = Emission { builder, nodes, values, done, whole };
    let root = emission.node(tree.root);
    emission.spread(root)
}

struct Emission<'a> {
    builder: &'a mut Builder,
    nodes: &'a [Node],
    values: &'a Values,
    done: Vec<Option<ValueId>>,
    /// Nodes of an index, as i32.
    whole: Vec<Option<ValueId>>,
}

impl Emission<'_> {
    #[track_caller]
    fn node(&mut self, at: usize) -> ValueId {
        if let Some(done) = self.done[at] {
            return done;
        }
        let id = match self.nodes[at] {
            Node::Logit => self.values.logit,
            Node::Query => self.builder.convert(self.values.q, Elem::F32),
            Node::Key => self.builder.convert(self.values.kv, Elem::F32),
            Node::Arg(n) => match self.values.args[n] {
                arg if self.builder.ty(arg).elem == Elem::F32 => arg,
                arg => self.builder.convert(arg, Elem::F32),
            },
            Node::Number(n) => match self.values.tables[n] {
                Table::Number(number) => number,
                Table::Row { .. } => unreachable!("a number is of a table that has one for each head"),
            },
            Node::At(n, index) => self.element(n, index),
            Node::Const(value) => self.builder.float(value),
            Node::Whole(value) => self.builder.float(value as f32),
            Node::Unary(op, x) => {
                let x = self.node(x);
                self.builder.unary(op, x)
            }
            Node::Binary(op, a, b) => self.binary(op, a, b),
        };
        self.done[at] = Some(id);
        id
    }

    /// An element of a table; an index below 0 is the first one, one past the end the last.
    #[track_caller]
    fn element(&mut self, table: usize, index: usize) -> ValueId {
        let Table::Row { table, last, of_head } = self.values.tables[table] else {
            unreachable!("an index is of a table that has entries")
        };
        let (index, zero) = (self.whole(index), self.builder.int(0));
        let index = self.builder.binary(Binary::Max, index, zero);
        let index = self.builder.binary(Binary::Min, index, last);
        match self.values.heads {
            Some(heads) if of_head => {
                let [head, index] = self.together([heads, index]);
                self.builder.element(table, &[head, index])
            }
            _ => self.builder.element(table, &[index]),
        }
    }

    /// A whole node as i32.
    #[track_caller]
    fn whole(&mut self, at: usize) -> ValueId {
        if let Some(done) = self.whole[at] {
            return done;
        }
        let id = match self.nodes[at] {
            Node::Query => self.values.q,
            Node::Key => self.values.kv,
            Node::Arg(n) => self.values.args[n],
            Node::Whole(value) => self.builder.int(value),
            Node::Unary(op, x) => {
                let x = self.whole(x);
                self.builder.unary(op, x)
            }
            Node::Binary(op, a, b) => {
                let (a, b) = (self.whole(a), self.whole(b));
                let [a, b] = self.together([a, b]);
                self.builder.binary(op, a, b)
            }
            // The recording has refused the index.
            Node::Logit | Node::Number(_) | Node::At(..) | Node::Const(_) => self.builder.int(0),
        };
        self.whole[at] = Some(id);
        id
    }

    #[track_caller]
    fn binary(&mut self, op: Binary, a: usize, b: usize) -> ValueId {
        if let (Binary::Add | Binary::Sub, Node::Binary(Binary::Mul, x, y)) = (op, self.nodes[b]) {
            let (mut x, y, c) = (self.node(x), self.node(y), self.node(a));
            let mut y = y;
            if op == Binary::Sub {
                // The factor of fewer elements changes its sign.
                if self.rank(y) < self.rank(x) {
                    std::mem::swap(&mut x, &mut y);
                }
                x = self.builder.unary(Unary::Neg, x);
            }
            return self.fma(x, y, c);
        }
        if let (Binary::Add, Node::Binary(Binary::Mul, x, y)) = (op, self.nodes[a]) {
            let (x, y, c) = (self.node(x), self.node(y), self.node(b));
            return self.fma(x, y, c);
        }
        let (a, b) = (self.node(a), self.node(b));
        if op == Binary::Div && self.rank(b) == 0 && self.rank(a) > 0 {
            // One division for all.
            let one = self.builder.float(1.0);
            let factor = self.builder.binary(Binary::Div, one, b);
            return self.builder.binary(Binary::Mul, a, factor);
        }
        let [a, b] = self.together([a, b]);
        self.builder.binary(op, a, b)
    }

    #[track_caller]
    fn fma(&mut self, x: ValueId, y: ValueId, c: ValueId) -> ValueId {
        let [x, y, c] = self.together([x, y, c]);
        self.builder.fma(x, y, c)
    }

    fn rank(&self, value: ValueId) -> usize {
        self.axes(value).len()
    }

    fn axes(&self, value: ValueId) -> &[AxisId] {
        &self.builder.func().values[value.index()].ty.axes
    }

    /// Rows and columns meet on the whole block.
    #[track_caller]
    fn together<const N: usize>(&mut self, mut values: [ValueId; N]) -> [ValueId; N] {
        let over = |axis| values.iter().any(|&v| self.axes(v).contains(&axis));
        let [rows, columns] = self.values.axes;
        if over(rows) && over(columns) {
            for value in &mut values {
                // A closure would be the place that the operation names.
                *value = self.spread(*value);
            }
        }
        values
    }

    #[track_caller]
    fn spread(&mut self, value: ValueId) -> ValueId {
        self.builder.broadcast(value, &self.values.axes.clone())
    }
}
