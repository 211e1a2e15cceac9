//! Whether a func makes sense: what every later pass and the lowering rely on.
//!
//! In:  any func.
//! Out: the same func, of which this holds.
//!  * Ids are in range, extents and warp counts are possible, no axis stands twice in a type.
//!  * A value is made once, before its uses, in the same body or in one around them; a loop's index is known in its body.
//!  * Every operation has operands of the right types, and its result the type that follows from them.
//!  * Bounds are i32 scalars, conditions bool scalars; a tensor is indexed in every dimension that the tile does not span.
//!    Where rows are, and which of them there are, is said by scalars, and by tiles over the rows that can be worked out for
//!    any row by itself: made of its number, scalars and table elements.
//!  * A sum that is spread over lanes starts at zero, and is only scaled, added to another, kept in a var and merged.
//!  * The CTA ends early only at the top level, before any store.
//!  * Reductions to a scalar, prefix sums, stores of elements, tables and counts are of scalars and lane tiles; one warp
//!    counts; no tensor is both read and stored element by element.
//!  * The best of rows is offered tiles over those rows, settled, and then read; a loop or branch leaves it as it finds it.
//!  * A buffer is read and written as tiles of its own type, in slots that it has; a register operand comes from a shared
//!    tile.
//!  * A loop that is left is left by statements of its own body, and by one at least. Where it goes on with rounds that are a loop
//!    of their own, scalars and ends alone stand before them, and they read none of these.
//!  * A func has both roles or none, at its end, and each has vars of its own; only rings are handed from one to the other.
//!
//! What tensor cores can do with the extents is `partition`'s to say.

mod best;
mod lanes;
mod roles;

use std::collections::HashSet;

use super::{lane_axes, operands, visit};
use crate::Error;
use crate::ir::{
    AxisId, Binary, Buffer, BufferId, Const, Diagnostic, Elem, Func, Loc, Op, Param, ParamId, Reduce, Slice, Stmt,
    Tensor, Type, Unary, ValueId, Var, VarId,
};

/// The pass.
pub(super) fn run(func: Func) -> Result<Func, Error> {
    verify(&func)?;
    Ok(func)
}

/// Whether the func makes sense. A mistake with the author's line is [`Error::Staging`]; one without is [`Error::Internal`],
/// or [`Error::Unsupported`] where a size is to blame.
pub fn verify(func: &Func) -> Result<(), Error> {
    sizes(func)?;
    let count = func.values.len();
    let mut verifier = Verifier {
        func,
        made: vec![false; count],
        visible: vec![false; count],
        shared: vec![false; count],
        constant: vec![None; count],
        scanned: vec![false; count],
        lane_axes: lane_axes(func),
        set: HashSet::new(),
        settled: vec![false; func.bests.len()],
        by_row: vec![false; count],
        stored: false,
        wrong: Vec::new(),
    };
    visit(&func.body, &mut |stmt| {
        if let Op::SetElement { tensor, .. } = stmt.op {
            verifier.set.insert(tensor);
        }
    });
    verifier.declarations();
    if verifier.wrong.is_empty() {
        verifier.body(&func.body, 0);
    }
    let (placed, unplaced): (Vec<_>, Vec<_>) = verifier.wrong.into_iter().partition(|wrong| wrong.loc.is_some());
    let internal = |wrong: &Wrong| Error::Internal {
        pass: "verify",
        message: format!("`{}`: {}: {}", wrong.place, wrong.mistake.message, wrong.mistake.label),
    };
    match unplaced.first() {
        Some(first) if placed.is_empty() => Err(internal(first)),
        None if placed.is_empty() => Ok(()),
        _ => Err(Error::Staging(
            placed
                .into_iter()
                .filter_map(|wrong| {
                    let Mistake { message, label } = wrong.mistake;
                    wrong.loc.map(|loc| Diagnostic { message, label, loc })
                })
                .collect(),
        )),
    }
}

/// Extents and warp counts, which picks decide.
fn sizes(func: &Func) -> Result<(), Error> {
    if !(1..=32).contains(&func.warps) {
        return Err(Error::Unsupported(format!("a CTA of {} warps; 1 to 32 are possible", func.warps)));
    }
    match func.axes.iter().find(|axis| !(1..=1 << 16).contains(&axis.extent)) {
        Some(axis) => Err(Error::Unsupported(format!(
            "{} has {} elements; an axis of a tile has from 1 to 65536",
            axis.name, axis.extent
        ))),
        None => Ok(()),
    }
}

/// What is wrong.
#[derive(Debug)]
struct Mistake {
    message: String,
    label: String,
}

/// What is wrong, and where.
struct Wrong {
    mistake: Mistake,
    place: String,
    loc: Loc,
}

fn mistake<T>(message: impl Into<String>, label: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake { message: message.into(), label: label.into() })
}

struct Verifier<'f> {
    func: &'f Func,
    /// Which values something makes.
    made: Vec<bool>,
    /// Which of them are known at this place.
    visible: Vec<bool>,
    /// Which of them stand in shared memory.
    shared: Vec<bool>,
    /// Those that are integer constants.
    constant: Vec<Option<i32>>,
    /// Those that are prefix sums.
    scanned: Vec<bool>,
    /// Which axes are in no tile of two axes.
    lane_axes: Vec<bool>,
    /// Tensors that are stored element by element.
    set: HashSet<ParamId>,
    /// Which of the bests are settled at this place.
    settled: Vec<bool>,
    /// Those that can be worked out for one row by itself.
    by_row: Vec<bool>,
    /// Whether a store has been seen.
    stored: bool,
    wrong: Vec<Wrong>,
}

const INT: Type = Type::scalar(Elem::I32);
const TRUTH: Type = Type::scalar(Elem::Bool);

impl<'f> Verifier<'f> {
    fn note(&mut self, found: Result<(), Mistake>, place: impl FnOnce() -> String, loc: Loc) {
        if let Err(mistake) = found {
            self.wrong.push(Wrong { mistake, place: place(), loc });
        }
    }

    fn show(&self, ty: &Type) -> String {
        self.func.show_type(ty)
    }

    fn declarations(&mut self) {
        let func = self.func;
        for param in &func.params {
            let found = match param {
                Param::Tensor(Tensor { elem: Elem::Bool, .. }) => {
                    mistake("a tensor in memory cannot hold bools", "this does")
                }
                Param::Tensor(tensor) if tensor.dims.is_empty() => mistake("a tensor has a dimension", "this has none"),
                Param::Scalar { elem, .. } if !matches!(elem, Elem::I32 | Elem::F32) => {
                    mistake("a number given at launch is i32 or f32", format!("this is {}", elem.name()))
                }
                _ => Ok(()),
            };
            self.note(found, || param.name().to_owned(), None);
        }
        for var in &func.vars {
            let found = self.ty(&var.ty).and_then(|()| match var.init.elem() {
                // There are no constants of 16 bits but this one.
                Elem::F32 if matches!(var.ty.elem, Elem::Bf16 | Elem::F16) && var.init == Const::f32(0.0) => Ok(()),
                elem if elem != var.ty.elem => {
                    let (holds, init) = (self.show(&var.ty), var.init);
                    mistake(format!("`{}` holds {holds}", var.name), format!("it cannot start as {init}"))
                }
                _ if var.ty.partial && var.init != Const::f32(0.0) => mistake(
                    "a sum that is spread over lanes starts at 0, or every lane would add its start",
                    format!("`{}` starts at {}", var.name, var.init),
                ),
                _ => Ok(()),
            });
            self.note(found, || var.name.clone(), var.loc);
        }
        for buffer in &func.buffers {
            let found = self.ty(&buffer.ty).and_then(|()| match &buffer.ty {
                ty if ty.rank() != 2 || ty.elem == Elem::Bool || ty.partial => {
                    mistake("a buffer holds tiles of two axes", format!("this one {}", self.show(ty)))
                }
                _ if buffer.slots == 0 => mistake("a buffer has a slot", "this has none"),
                _ => Ok(()),
            });
            self.note(found, || buffer.name.clone(), None);
        }
        for table in &func.tables {
            let found = if table.axis.index() < func.axes.len() { Ok(()) } else { mistake("an axis is unknown", "") };
            self.note(found, || table.name.clone(), None);
        }
        for best in &func.bests {
            let found = self.best_of_rows(best);
            self.note(found, || best.name.clone(), None);
        }
        for (n, value) in func.values.iter().enumerate() {
            let found = self.ty(&value.ty);
            self.note(found, || ValueId(n as u32).to_string(), value.loc);
        }
        if let Some(part) = func.partition {
            let known = |axis: AxisId| axis.index() < func.axes.len();
            let found = match () {
                () if !part.row_axis.is_none_or(known) || !part.col_axis.is_none_or(known) => {
                    mistake("an axis is unknown", "")
                }
                () if part.rows.checked_mul(part.cols) != Some(func.warps) => {
                    mistake(format!("{} by {} warps", part.rows, part.cols), format!("the CTA has {}", func.warps))
                }
                () if part.row_axis.is_some() && part.row_axis == part.col_axis => {
                    mistake("rows and columns are one axis", "")
                }
                () => Ok(()),
            };
            self.note(found, || "partition".to_owned(), None);
        }
        let found = self.roles().and_then(|()| self.leaves(&self.func.body, roles::Within::Other));
        self.note(found, || "roles".to_owned(), None);
    }

    /// A type is possible.
    fn ty(&self, ty: &Type) -> Result<(), Mistake> {
        if ty.axes.iter().any(|axis| axis.index() >= self.func.axes.len()) {
            return mistake("an axis is unknown", "");
        }
        if ty.rank() > 2 {
            return mistake("a tile has at most two axes", format!("this is {}", self.show(ty)));
        }
        if ty.rank() == 2 && ty.axes[0] == ty.axes[1] {
            return mistake("the two axes of a tile differ", format!("this is {}", self.show(ty)));
        }
        if ty.partial && (ty.rank() != 1 || ty.elem != Elem::F32) {
            return mistake("only an f32 sum of rows can be spread over lanes", format!("this is {}", self.show(ty)));
        }
        Ok(())
    }

    fn body(&mut self, body: &[Stmt], depth: usize) {
        let mut here = Vec::new();
        for stmt in body {
            let found = self.stmt(stmt, depth);
            let func = self.func;
            self.note(found, || func.show_stmt(stmt), stmt.loc);
            match &stmt.op {
                Op::For { index, body, .. } => {
                    let before = self.make(*index);
                    self.note(before, || func.show_stmt(stmt), stmt.loc);
                    self.enclosed(stmt, body, depth);
                    if let Some(visible) = self.visible.get_mut(index.index()) {
                        *visible = false;
                    }
                }
                Op::If { .. } | Op::Leave { .. } | Op::Again { .. } => {
                    self.enclosed(stmt, stmt.op.body().expect("these enclose statements"), depth);
                }
                Op::Produce(_) | Op::Consume(_) | Op::Loop(_) => {
                    self.enclosed(stmt, stmt.op.body().expect("these enclose statements"), depth);
                }
                _ => {}
            }
            if let Some(result) = stmt.result {
                here.push(result);
            }
        }
        for value in here {
            if let Some(visible) = self.visible.get_mut(value.index()) {
                *visible = false;
            }
        }
    }

    /// The value is made here, for the first time.
    fn make(&mut self, value: ValueId) -> Result<(), Mistake> {
        let Some(made) = self.made.get_mut(value.index()) else {
            return mistake("a value is unknown", value.to_string());
        };
        self.visible[value.index()] = true;
        if std::mem::replace(made, true) {
            mistake("a value is made once", format!("{value} is made again"))
        } else {
            Ok(())
        }
    }

    fn stmt(&mut self, stmt: &Stmt, depth: usize) -> Result<(), Mistake> {
        let known = operands(&stmt.op).into_iter().try_for_each(|value| match self.visible.get(value.index()) {
            Some(true) => Ok(()),
            Some(false) if self.made[value.index()] => mistake(
                "a value is used outside of the loop or branch that makes it",
                "what a loop leaves behind is kept in a var",
            ),
            Some(false) => mistake("a value is used before it is made", value.to_string()),
            None => mistake("a value is unknown", value.to_string()),
        });
        let declared = stmt.result.and_then(|result| self.func.values.get(result.index())).map(|value| &value.ty);
        let checked =
            known.and_then(|()| self.op(&stmt.op, declared, depth)).and_then(|follows| match (follows, declared) {
                (Some(_), None) => mistake("this makes a value", "and gives it to nothing"),
                (None, Some(_)) => mistake("this makes no value", "and something is to hold it"),
                (Some(follows), Some(declared)) if follows != *declared => mistake(
                    format!("this makes {}", self.show(&follows)),
                    format!("and is said to make {}", self.show(declared)),
                ),
                _ => Ok(()),
            });
        // Made even where it is wrong, so that its uses are not wrong as well.
        let made = stmt.result.map_or(Ok(()), |result| self.make(result));
        if let Some(result) = stmt.result.filter(|result| result.index() < self.func.values.len()) {
            match &stmt.op {
                Op::Shared(..) => self.shared[result.index()] = true,
                Op::Scan(_) => self.scanned[result.index()] = true,
                Op::Const(Const::I32(value)) => self.constant[result.index()] = Some(*value),
                _ => {}
            }
            self.by_row[result.index()] = self.is_by_row(&stmt.op);
        }
        checked.and(made)
    }

    /// Whether what an operation makes can be worked out for one row by itself, without the tile.
    fn is_by_row(&self, op: &Op) -> bool {
        let known =
            |value: &ValueId| self.by_row.get(value.index()).is_some_and(|&known| known || self.of(*value).rank() == 0);
        match op {
            Op::Iota(_) => true,
            Op::Broadcast(_) | Op::Element { .. } => operands(op).iter().all(known),
            Op::Unary(..) | Op::Binary(..) | Op::Compare(..) | Op::Select(..) => {
                operands(op).iter().all(|v| known(v) && self.of(*v).elem != Elem::F32)
            }
            _ => false,
        }
    }

    fn of(&self, value: ValueId) -> &'f Type {
        &self.func.values[value.index()].ty
    }

    /// `value` is exactly a `want`.
    fn is(&self, what: &str, value: ValueId, want: &Type) -> Result<(), Mistake> {
        match self.of(value) {
            ty if ty == want => Ok(()),
            ty => mistake(format!("{what} is {}", self.show(want)), format!("this is {}", self.show(ty))),
        }
    }

    fn ints(&self, what: &str, values: &[ValueId]) -> Result<(), Mistake> {
        values.iter().try_for_each(|&value| self.is(what, value, &INT))
    }

    /// None of the operands is spread over lanes.
    fn whole(&self, values: &[ValueId]) -> Result<(), Mistake> {
        match values.iter().find(|&&value| self.of(value).partial) {
            None => Ok(()),
            Some(&value) => mistake(
                "a sum that is spread over lanes can only be scaled, added to another, kept and merged",
                format!("this is {}", self.show(self.of(value))),
            ),
        }
    }

    /// The operands have the same axes.
    fn aligned(&self, values: &[ValueId]) -> Result<(), Mistake> {
        match values.windows(2).find(|pair| self.of(pair[0]).axes != self.of(pair[1]).axes) {
            None => Ok(()),
            Some(pair) => {
                let (a, b) = (self.show(self.of(pair[0])), self.show(self.of(pair[1])));
                mistake("the axes of these operands differ", format!("{a} and {b}"))
            }
        }
    }

    fn elems(&self, what: &str, values: &[ValueId], allowed: &[Elem]) -> Result<(), Mistake> {
        let first = self.of(values[0]).elem;
        match values.iter().find(|&&value| self.of(value).elem != first || !allowed.contains(&first)) {
            None => Ok(()),
            Some(_) => {
                let names: Vec<&str> = allowed.iter().map(|elem| elem.name()).collect();
                let found: Vec<String> = values.iter().map(|&value| self.show(self.of(value))).collect();
                mistake(format!("{what} takes {}", names.join(" or ")), format!("this is {}", found.join(" and ")))
            }
        }
    }

    fn tensor(&self, id: ParamId) -> Result<&'f Tensor, Mistake> {
        match self.func.params.get(id.index()) {
            Some(Param::Tensor(tensor)) => Ok(tensor),
            Some(Param::Scalar { name, .. }) => mistake("a tensor should stand here", format!("`{name}` is a number")),
            None => mistake("a parameter is unknown", ""),
        }
    }

    fn var(&self, id: VarId) -> Result<&'f Var, Mistake> {
        self.func.vars.get(id.index()).map_or_else(|| mistake("a var is unknown", ""), Ok)
    }

    fn buffer(&self, id: BufferId, slot: ValueId) -> Result<&'f Buffer, Mistake> {
        let Some(buffer) = self.func.buffers.get(id.index()) else { return mistake("a buffer is unknown", "") };
        self.is("a slot", slot, &INT)?;
        match self.constant[slot.index()] {
            Some(slot) if !(0..i64::from(buffer.slots)).contains(&slot.into()) => {
                mistake(format!("`{}` has {} slots", buffer.name, buffer.slots), format!("this is slot {slot}"))
            }
            _ => Ok(buffer),
        }
    }

    /// Rows of a tensor are a tile of this type.
    fn slice(&self, slice: &Slice, tile: &Type) -> Result<(), Mistake> {
        let tensor = self.tensor(slice.tensor)?;
        let name = &tensor.name;
        if tile.elem != tensor.elem || tile.partial {
            return mistake(
                format!("`{name}` holds {}", tensor.elem.name()),
                format!("the tile is {}", self.show(tile)),
            );
        }
        let spanned = match tile.rank() {
            0 => return mistake("a tile of one or two axes should stand here", format!("this is {}", self.show(tile))),
            rank => rank - 1,
        };
        let (given, dims) = (slice.index.len(), tensor.dims.len());
        if given + spanned != dims {
            return mistake(
                format!("`{name}` has {dims} dimensions, of which {} spans {spanned}", self.show(tile)),
                format!("{given} indices are given"),
            );
        }
        match slice.along {
            Some(along) if along >= given => {
                return mistake(
                    format!("rows of `{name}` run along an indexed dimension"),
                    format!("dimension {along} has no index"),
                );
            }
            None if slice.index.iter().all(|&i| self.of(i).rank() == 0) => {
                return mistake(
                    format!("rows of `{name}` run along a dimension, or are at a tile of indices"),
                    "every row would be the same",
                );
            }
            _ => {}
        }
        for &index in &slice.index {
            self.row("an index", index, tile.axes[0], Elem::I32)?;
        }
        match self.of(slice.count).rank() {
            0 => self.is("a count", slice.count, &INT),
            _ => self.row("what says which rows there are", slice.count, tile.axes[0], Elem::Bool),
        }
    }

    /// An i32 scalar, or a tile over the rows that can be worked out for any row by itself.
    fn row(&self, what: &str, value: ValueId, axis: AxisId, elem: Elem) -> Result<(), Mistake> {
        if self.of(value).rank() == 0 {
            return self.is(what, value, &INT);
        }
        self.is(what, value, &Type::tile(elem, vec![axis]))?;
        if self.by_row[value.index()] {
            return Ok(());
        }
        mistake(
            "where a row is must follow from its number, numbers that are the same for the whole CTA, and tables",
            "this comes from elsewhere",
        )
    }

    /// The type of a product.
    fn product(&self, lhs: ValueId, rhs: ValueId) -> Result<Type, Mistake> {
        let (l, r) = (self.of(lhs), self.of(rhs));
        let found = || format!("{} and {}", self.show(l), self.show(r));
        if l.rank() != 2 || r.rank() != 2 || !r.axes.contains(&l.axes[1]) {
            return mistake("these two axes cannot be contracted", found());
        }
        self.elems("a product", &[lhs, rhs], &[Elem::Bf16, Elem::F16])?;
        let free = if r.axes[0] == l.axes[1] { r.axes[1] } else { r.axes[0] };
        if free == l.axes[0] {
            return mistake("the rows of the two factors are one axis; a product has two", found());
        }
        Ok(Type::tile(Elem::F32, vec![l.axes[0], free]))
    }

    /// Checks an operation whose operands are known; the type of what it makes.
    fn op(&mut self, op: &Op, declared: Option<&Type>, depth: usize) -> Result<Option<Type>, Mistake> {
        let like = |value: ValueId, elem: Elem| Type { elem, axes: self.of(value).axes.clone(), partial: false };
        // What only the declaration says; where there is none, that is reported as the value it lacks.
        let said = || declared.cloned().unwrap_or(INT);
        Ok(Some(match op {
            Op::Const(value) => Type::scalar(value.elem()),
            Op::Param(id) => match self.func.params.get(id.index()) {
                Some(Param::Scalar { elem, .. }) => Type::scalar(*elem),
                Some(Param::Tensor(tensor)) => {
                    return mistake("a number should stand here", format!("`{}` is a tensor", tensor.name));
                }
                None => return mistake("a parameter is unknown", ""),
            },
            Op::ProgramId(dim) if *dim > 2 => {
                return mistake("a grid has 3 dimensions", format!("this is dimension {dim}"));
            }
            Op::ProgramId(_) => INT,
            Op::Unary(op, x) => {
                self.whole(&[*x])?;
                match op {
                    Unary::Neg => self.elems("a negation", &[*x], &[Elem::I32, Elem::F32])?,
                    Unary::Not => self.elems("a negation", &[*x], &[Elem::Bool])?,
                    Unary::Exp2 | Unary::Log2 | Unary::Recip | Unary::Tanh => {
                        self.elems(op.name(), &[*x], &[Elem::F32])?
                    }
                }
                self.of(*x).clone()
            }
            Op::Binary(op, a, b) => self.binary(*op, *a, *b)?,
            Op::Compare(_, a, b) => {
                self.whole(&[*a, *b])?;
                self.aligned(&[*a, *b])?;
                self.elems("a comparison", &[*a, *b], &[Elem::I32, Elem::F32])?;
                like(*a, Elem::Bool)
            }
            Op::Select(cond, a, b) => {
                self.whole(&[*a, *b])?;
                self.aligned(&[*cond, *a, *b])?;
                self.elems("a choice", &[*cond], &[Elem::Bool])?;
                self.elems("a choice", &[*a, *b], &[self.of(*a).elem])?;
                self.of(*a).clone()
            }
            Op::Fma(a, b, c) => {
                self.whole(&[*a, *b, *c])?;
                self.aligned(&[*a, *b, *c])?;
                self.elems("a fused multiply-add", &[*a, *b, *c], &[Elem::F32])?;
                self.of(*a).clone()
            }
            Op::Convert(x) => {
                self.whole(&[*x])?;
                let to = said().elem;
                if !matches!(
                    (self.of(*x).elem, to),
                    (Elem::F32, Elem::Bf16 | Elem::F16) | (Elem::Bf16 | Elem::F16 | Elem::I32, Elem::F32)
                ) {
                    return mistake(
                        format!("there is no conversion to {}", to.name()),
                        format!("this is {}", self.show(self.of(*x))),
                    );
                }
                like(*x, to)
            }
            Op::Iota(axis) if axis.index() >= self.func.axes.len() => return mistake("an axis is unknown", ""),
            Op::Iota(axis) => Type::tile(Elem::I32, vec![*axis]),
            Op::Broadcast(x) => {
                self.whole(&[*x])?;
                let (from, to) = (self.of(*x), said());
                if from.rank() >= to.rank() || !from.axes.iter().all(|axis| to.axes.contains(axis)) {
                    return mistake(
                        format!("{} cannot be repeated along further axes", self.show(from)),
                        format!("the result is {}", self.show(&to)),
                    );
                }
                Type { elem: from.elem, axes: to.axes, partial: false }
            }
            Op::Reduce(op, x) => {
                let ty = self.of(*x);
                if ty.rank() != 2 || ty.elem != Elem::F32 {
                    return mistake("a reduction takes an f32 tile of two axes", format!("this is {}", self.show(ty)));
                }
                Type { elem: Elem::F32, axes: vec![ty.axes[0]], partial: *op == Reduce::Sum }
            }
            Op::Element { tensor, index } => {
                self.only_read(*tensor)?;
                let tensor = self.tensor(*tensor)?;
                if !matches!(tensor.elem, Elem::I32 | Elem::F32) {
                    let label = format!("`{}` holds {}", tensor.name, tensor.elem.name());
                    return mistake("single elements are read from i32 and f32 tensors", label);
                }
                if index.len() != tensor.dims.len() {
                    let message = format!("`{}` has {} dimensions", tensor.name, tensor.dims.len());
                    return mistake(message, format!("{} indices are given", index.len()));
                }
                let tiles = index.iter().copied().find(|&i| self.of(i).rank() > 0);
                let axes = tiles.map_or_else(Vec::new, |i| self.of(i).axes.clone());
                for &i in index {
                    let wanted = if self.of(i).rank() == 0 { INT } else { Type::tile(Elem::I32, axes.clone()) };
                    self.is("an index", i, &wanted)?;
                }
                Type::tile(tensor.elem, axes)
            }
            Op::Segment { table, row, segments, at } => {
                self.only_read(*table)?;
                let table = self.tensor(*table)?;
                if table.elem != Elem::I32 || table.dims.len() != row.len() + 1 {
                    let holds =
                        format!("`{}` holds {} in {} dimensions", table.name, table.elem.name(), table.dims.len());
                    let label = format!("{holds}, and {} indices say which row", row.len());
                    return mistake("a table of segments is a row of an i32 tensor", label);
                }
                self.ints("an index", row)?;
                self.ints("a position", &[*segments, *at])?;
                INT
            }
            Op::Fold(..) | Op::Scan(_) | Op::Total(_) | Op::TableGet { .. } | Op::CountUp { .. } => self.lane_op(op)?,
            Op::BestColumn(best, n) => self.read_best(*best, *n, Elem::I32)?,
            Op::BestScore(best, n) => self.read_best(*best, *n, Elem::F32)?,
            Op::Load(slice) => {
                self.only_read(slice.tensor)?;
                let ty = said();
                self.slice(slice, &ty)?;
                ty
            }
            Op::Dot(lhs, rhs) => self.product(*lhs, *rhs)?,
            Op::Read(var) => self.var(*var)?.ty.clone(),
            Op::Merge { max, sum, acc, scale } => self.merge(*max, *sum, *acc, *scale)?,
            Op::Shared(buffer, slot) => self.buffer(*buffer, *slot)?.ty.clone(),
            Op::Operand(x) if !self.shared[x.index()] => {
                return mistake("a register operand comes from a shared tile", "this is not one");
            }
            Op::Operand(x) => self.of(*x).clone(),
            effect => {
                self.effect(effect, depth)?;
                return Ok(None);
            }
        }))
    }

    fn binary(&self, op: Binary, a: ValueId, b: ValueId) -> Result<Type, Mistake> {
        let (ta, tb) = (self.of(a), self.of(b));
        let partial = match op {
            Binary::Mul if ta.partial != tb.partial => true,
            Binary::Add if ta.partial && tb.partial => true,
            _ => {
                self.whole(&[a, b])?;
                false
            }
        };
        self.aligned(&[a, b])?;
        let allowed: &[Elem] = match op {
            Binary::And | Binary::Or => &[Elem::Bool],
            Binary::Rem => &[Elem::I32],
            _ => &[Elem::I32, Elem::F32],
        };
        self.elems(&format!("`{}`", op.name()), &[a, b], allowed)?;
        Ok(Type { elem: ta.elem, axes: ta.axes.clone(), partial })
    }

    fn merge(&self, max: VarId, sum: VarId, acc: Option<VarId>, scale: ValueId) -> Result<Type, Mistake> {
        let (max, sum) = (self.var(max)?, self.var(sum)?);
        let acc = acc.map(|acc| self.var(acc)).transpose()?;
        let rows = Type::tile(Elem::F32, max.ty.axes.clone());
        let spread = Type { partial: true, ..rows.clone() };
        let fits = rows.rank() == 1
            && max.ty == rows
            && sum.ty == spread
            && acc.is_none_or(|acc| {
                acc.ty.rank() == 2
                    && acc.ty == Type::tile(Elem::F32, acc.ty.axes.clone())
                    && acc.ty.axes[0] == rows.axes[0]
            });
        if !fits {
            let [max, sum] = [max, sum].map(|var| self.show(&var.ty));
            let acc = acc.map_or_else(|| "nothing".to_owned(), |acc| self.show(&acc.ty));
            return mistake(
                "a merge takes the maxima and the spread sums of rows, and an accumulator over the same rows, all f32",
                format!("these are {max}, {sum} and {acc}"),
            );
        }
        self.is("a merge's scale", scale, &Type::scalar(Elem::F32))?;
        Ok(rows)
    }

    /// Checks an operation that makes no value.
    fn effect(&mut self, op: &Op, depth: usize) -> Result<(), Mistake> {
        match op {
            Op::Store(slice, tile) => {
                self.stored = true;
                self.whole(&[*tile])?;
                self.slice(slice, self.of(*tile))
            }
            Op::SetElement { tensor, index, value, keep } => {
                self.stored = true;
                self.set_element(*tensor, index, *value, *keep)
            }
            Op::TableSet { table, index, value, keep } | Op::TableAdd { table, index, value, keep } => {
                self.table_set(*table, *index, *value, *keep)
            }
            Op::Take { best, scores, first, after } => self.take(*best, *scores, *first, *after),
            Op::Settle(best) => self.settle(*best),
            Op::Clear(best) => self.clear(*best),
            Op::Write(var, value) => {
                let var = self.var(*var)?;
                self.is(&format!("what `{}` holds", var.name), *value, &var.ty)
            }
            Op::Accumulate(var, lhs, rhs) => self.product_into(*var, *lhs, *rhs),
            Op::For { index, lo, hi, .. } => {
                self.ints("a bound of a loop", &[*lo, *hi])?;
                match self.func.values.get(index.index()) {
                    Some(value) if value.ty != INT => {
                        mistake("a loop's index is i32", format!("this is {}", self.show(&value.ty)))
                    }
                    _ => Ok(()),
                }
            }
            Op::If { cond, .. } | Op::Leave { cond, .. } | Op::Again { cond, .. } => {
                self.is("a condition", *cond, &TRUTH)
            }
            Op::Exit(cond) => {
                self.is("a condition", *cond, &TRUTH)?;
                match () {
                    () if depth > 0 => {
                        mistake("a schedule can only end early outside loops and branches", "this is inside one")
                    }
                    () if self.stored => {
                        mistake("a schedule can only end early before it stores", "something is stored above")
                    }
                    () => Ok(()),
                }
            }
            Op::CopyAsync { from, buffer, slot } => {
                self.only_read(from.tensor)?;
                let buffer = self.buffer(*buffer, *slot)?;
                self.slice(from, &buffer.ty)
            }
            // What is left of the rest has no operands, or makes values and does not come here.
            op => self.role_op(op),
        }
    }
}
