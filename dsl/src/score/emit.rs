//! A recorded score as operations on a block of logits.
//!
//! Each node keeps the lowest rank that it can: what is the same for the whole CTA is computed once, what is of a row or a
//! column once for it. A product that is added or subtracted becomes a fused multiply-add.

use lacuna_codegen::ir::{AxisId, Binary, Builder, Elem, Unary, ValueId};

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
    /// Scalars.
    pub(super) args: Vec<ValueId>,
    /// Scalars.
    pub(super) tables: Vec<ValueId>,
}

/// Emits the expression, over rows and columns.
#[track_caller]
pub(super) fn emit(builder: &mut Builder, tree: &Tree, values: &Values) -> ValueId {
    let mut emission = Emission { builder, nodes: &tree.nodes, values, done: vec![None; tree.nodes.len()] };
    let root = emission.node(tree.root);
    emission.spread(root)
}

struct Emission<'a> {
    builder: &'a mut Builder,
    nodes: &'a [Node],
    values: &'a Values,
    done: Vec<Option<ValueId>>,
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
            Node::Arg(n) => self.values.args[n],
            Node::Table(n) => self.values.tables[n],
            Node::Const(value) => self.builder.float(value),
            Node::Unary(op, x) => {
                let x = self.node(x);
                self.builder.unary(op, x)
            }
            Node::Binary(op, a, b) => self.binary(op, a, b),
        };
        self.done[at] = Some(id);
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
