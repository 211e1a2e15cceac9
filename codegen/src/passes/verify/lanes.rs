//! Lane tiles and tables: what reductions, prefix sums, stores of elements and counts may be of.

use super::{INT, Mistake, TRUTH, Verifier, mistake};
use crate::ir::{AxisId, Elem, Fold, Op, ParamId, Table, TableId, Type, ValueId};

impl<'f> Verifier<'f> {
    /// A tile of one axis that is in no tile of two.
    fn lanes(&self, what: &str, value: ValueId) -> Result<&'f Type, Mistake> {
        let ty = self.of(value);
        if ty.rank() == 1 && !ty.partial && self.lane_axes[ty.axes[0].index()] {
            return Ok(ty);
        }
        mistake(
            format!("{what} takes a tile of one axis, which no tile of two axes has"),
            format!("this is {}", self.show(ty)),
        )
    }

    /// Scalars, and lane tiles of one axis: each of its type. The axis, where there is a tile.
    fn spread<'v>(
        &self,
        what: &str,
        values: impl IntoIterator<Item = (&'v str, ValueId, Elem)>,
    ) -> Result<Option<AxisId>, Mistake> {
        let mut axis = None;
        for (name, value, elem) in values {
            let ty = self.of(value);
            let wanted = match ty.rank() {
                0 => Type::scalar(elem),
                _ => Type::tile(elem, [*axis.get_or_insert(self.lanes(what, value)?.axes[0])]),
            };
            self.is(name, value, &wanted)?;
        }
        Ok(axis)
    }

    fn table(&self, id: TableId) -> Result<&'f Table, Mistake> {
        self.func.tables.get(id.index()).map_or_else(|| mistake("a table is unknown", ""), Ok)
    }

    /// A func does not read what it stores.
    pub(super) fn only_read(&self, tensor: ParamId) -> Result<(), Mistake> {
        match self.tensor(tensor) {
            Ok(tensor_of) if self.set.contains(&tensor) => mistake(
                format!("`{}` is stored element by element, and cannot be read as well", tensor_of.name),
                "what one thread stores another may not see; a launch that follows does",
            ),
            _ => Ok(()),
        }
    }

    /// Checks an operation on lane tiles that makes a value; its type.
    pub(super) fn lane_op(&self, op: &Op) -> Result<Type, Mistake> {
        match op {
            Op::Fold(fold, x) => {
                let ty = self.lanes("a reduction to one scalar", *x)?;
                let allowed: &[Elem] = if *fold == Fold::Any { &[Elem::Bool] } else { &[Elem::I32, Elem::F32] };
                self.elems(&format!("`{}`", fold.name()), &[*x], allowed)?;
                Ok(Type::scalar(ty.elem))
            }
            Op::Scan(x) => {
                let ty = self.lanes("a prefix sum", *x)?;
                self.elems("a prefix sum", &[*x], if ty.elem == Elem::Bool { &[Elem::Bool] } else { &[Elem::I32] })?;
                Ok(Type::tile(Elem::I32, ty.axes.clone()))
            }
            Op::Total(x) if !self.scanned[x.index()] => {
                mistake("a total is of a prefix sum", format!("this is {}", self.show(self.of(*x))))
            }
            Op::Total(_) => Ok(INT),
            Op::TableGet { table, index } => {
                self.table(*table)?;
                let axis = self.spread("a table", [("a place", *index, Elem::I32)])?;
                Ok(Type::tile(Elem::I32, Vec::from_iter(axis)))
            }
            Op::CountUp { table, key, keep } => {
                self.table(*table)?;
                if self.func.warps != 1 {
                    return mistake("one warp counts in order", format!("this CTA has {}", self.func.warps));
                }
                let ty = self.lanes("a count", *key)?;
                self.spread("a count", [("a key", *key, Elem::I32), ("a condition", *keep, Elem::Bool)])?;
                Ok(Type::tile(Elem::I32, ty.axes.clone()))
            }
            _ => unreachable!("an operation on lane tiles that makes a value"),
        }
    }

    /// Checks a store of elements.
    pub(super) fn set_element(
        &self,
        tensor: ParamId,
        index: &[ValueId],
        value: ValueId,
        keep: ValueId,
    ) -> Result<(), Mistake> {
        let tensor = self.tensor(tensor)?;
        if !matches!(tensor.elem, Elem::I32 | Elem::F32) {
            let label = format!("`{}` holds {}", tensor.name, tensor.elem.name());
            return mistake("single elements are stored to i32 and f32 tensors", label);
        }
        if index.len() != tensor.dims.len() {
            let message = format!("`{}` has {} dimensions", tensor.name, tensor.dims.len());
            return mistake(message, format!("{} indices are given", index.len()));
        }
        let stored = [("what is stored", value, tensor.elem), ("a condition", keep, TRUTH.elem)];
        self.spread("a store of elements", index.iter().map(|&i| ("an index", i, Elem::I32)).chain(stored))?;
        Ok(())
    }

    /// Checks that a table is set, or added to.
    pub(super) fn table_set(
        &self,
        table: TableId,
        index: ValueId,
        value: ValueId,
        keep: ValueId,
    ) -> Result<(), Mistake> {
        self.table(table)?;
        let values = [("a place", index, Elem::I32), ("what a table holds", value, Elem::I32)];
        self.spread("a table", values.into_iter().chain([("a condition", keep, Elem::Bool)]))?;
        Ok(())
    }
}
