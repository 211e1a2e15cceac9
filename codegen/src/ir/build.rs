//! Building a [`Func`] operation by operation, with types inferred and mistakes collected.
//!
//! Staging runs an author's function, which cannot stop half-way through at a mistake; so a builder method that meets one
//! records a [`Diagnostic`] at the caller's line and returns a value of the best guess of a type. [`Builder::finish`]
//! returns the first ones.

use std::panic::Location;

use lacuna_ptx::Target;

use super::{
    Axis, AxisId, Best, BestId, Binary, Compare, Const, Elem, Fold, Func, Op, Param, ParamId, Reduce, Slice, Stmt,
    Table, TableId, Tensor, Type, Unary, Value, ValueId, Var, VarId,
};

/// A mistake of the author's, at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong.
    pub message: String,
    /// What was found at the place, or what would be right.
    pub label: String,
    /// Where.
    pub loc: &'static Location<'static>,
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({}:{}:{})", self.message, self.label, self.loc.file(), self.loc.line(), self.loc.column())
    }
}

impl std::error::Error for Diagnostic {}

/// Builds a [`Func`].
#[derive(Debug)]
pub struct Builder {
    func: Func,
    /// Bodies under construction: the function's, then each open loop's or branch's.
    open: Vec<Open>,
    mistakes: Vec<Diagnostic>,
    /// The line that everything is laid to, if not to each method's caller.
    at: Option<&'static Location<'static>>,
}

#[derive(Debug)]
struct Open {
    body: Vec<Stmt>,
    /// What closes into, with the body left empty; `None` for the function.
    op: Option<Op>,
    loc: &'static Location<'static>,
}

impl Builder {
    /// An empty func.
    #[track_caller]
    pub fn new(name: impl Into<String>, target: Target, warps: u32) -> Self {
        let func = Func::new(name, target, warps);
        let open = vec![Open { body: Vec::new(), op: None, loc: Location::caller() }];
        Self { func, open, mistakes: Vec::new(), at: None }
    }

    /// The func, or the mistakes.
    pub fn finish(mut self) -> Result<Func, Vec<Diagnostic>> {
        while self.open.len() > 1 {
            let loc = self.open.last().expect("more than one").loc;
            self.fail_at(loc, "a staged loop or branch is never closed", "opened here");
            self.close();
        }
        if !self.mistakes.is_empty() {
            return Err(self.mistakes);
        }
        self.func.body = self.open.pop().expect("the function's body is always open").body;
        Ok(self.func)
    }

    /// The func so far, for looking at axes, parameters and types.
    pub fn func(&self) -> &Func {
        &self.func
    }

    /// Runs `f` with every operation and mistake laid to one line of the author's: for code that emits several operations
    /// for one that the author wrote.
    pub fn at<T>(&mut self, loc: &'static Location<'static>, f: impl FnOnce(&mut Builder) -> T) -> T {
        let outer = self.at.replace(loc);
        let made = f(self);
        self.at = outer;
        made
    }

    #[track_caller]
    fn here(&self) -> &'static Location<'static> {
        self.at.unwrap_or(Location::caller())
    }

    /// Records a mistake at the caller's line.
    #[track_caller]
    pub fn fail(&mut self, message: impl Into<String>, label: impl Into<String>) {
        self.fail_at(self.here(), message, label);
    }

    /// Records a mistake.
    pub fn fail_at(&mut self, loc: &'static Location<'static>, message: impl Into<String>, label: impl Into<String>) {
        self.mistakes.push(Diagnostic { message: message.into(), label: label.into(), loc });
    }

    /// How many bodies are open: 1 outside every loop and branch.
    pub fn depth(&self) -> usize {
        self.open.len()
    }

    /// Declares an axis.
    pub fn axis(&mut self, name: impl Into<String>, extent: u32) -> AxisId {
        self.func.axes.push(Axis { name: name.into(), extent });
        AxisId(self.func.axes.len() as u32 - 1)
    }

    /// Declares a tensor parameter.
    pub fn tensor(&mut self, name: impl Into<String>, elem: Elem, dims: &[&str]) -> ParamId {
        let dims = dims.iter().map(|&d| d.to_owned()).collect();
        self.func.params.push(Param::Tensor(Tensor { name: name.into(), elem, dims }));
        ParamId(self.func.params.len() as u32 - 1)
    }

    /// Declares a scalar parameter and reads it.
    #[track_caller]
    pub fn scalar_param(&mut self, name: impl Into<String>, elem: Elem) -> ValueId {
        self.func.params.push(Param::Scalar { name: name.into(), elem });
        let id = ParamId(self.func.params.len() as u32 - 1);
        self.push(Op::Param(id), Type::scalar(elem))
    }

    /// Declares storage.
    #[track_caller]
    pub fn var(&mut self, name: impl Into<String>, ty: Type, init: Const) -> VarId {
        let loc = Some(self.here());
        self.func.vars.push(Var { name: name.into(), ty, init, lasts: false, loc });
        VarId(self.func.vars.len() as u32 - 1)
    }

    /// The type of a value.
    pub fn ty(&self, value: ValueId) -> &Type {
        &self.func.values[value.index()].ty
    }

    /// A type as the author reads it: `f32<Q, Kv>`.
    pub fn show(&self, ty: &Type) -> String {
        let axes: Vec<&str> = ty.axes.iter().map(|a| self.func.axes[a.index()].name.as_str()).collect();
        let partial = if ty.partial { "partial " } else { "" };
        if axes.is_empty() {
            format!("{partial}{}", ty.elem.name())
        } else {
            format!("{partial}{}<{}>", ty.elem.name(), axes.join(", "))
        }
    }

    fn value(&mut self, ty: Type, loc: &'static Location<'static>) -> ValueId {
        self.func.values.push(Value { ty, loc: Some(loc) });
        ValueId(self.func.values.len() as u32 - 1)
    }

    /// Appends an operation that makes a value of type `ty`.
    #[track_caller]
    pub fn push(&mut self, op: Op, ty: Type) -> ValueId {
        let loc = self.here();
        let result = self.value(ty, loc);
        self.append(Stmt { result: Some(result), op, loc: Some(loc) });
        result
    }

    /// Appends an operation that makes no value.
    #[track_caller]
    pub fn effect(&mut self, op: Op) {
        let loc = Some(self.here());
        self.append(Stmt { result: None, op, loc });
    }

    fn append(&mut self, stmt: Stmt) {
        self.open.last_mut().expect("the function's body is always open").body.push(stmt);
    }

    /// An integer constant.
    #[track_caller]
    pub fn int(&mut self, value: i32) -> ValueId {
        self.push(Op::Const(Const::I32(value)), Type::scalar(Elem::I32))
    }

    /// A float constant.
    #[track_caller]
    pub fn float(&mut self, value: f32) -> ValueId {
        self.push(Op::Const(Const::f32(value)), Type::scalar(Elem::F32))
    }

    /// A bool constant.
    #[track_caller]
    pub fn truth(&mut self, value: bool) -> ValueId {
        self.push(Op::Const(Const::Bool(value)), Type::scalar(Elem::Bool))
    }

    /// The CTA's index along a grid dimension.
    #[track_caller]
    pub fn program_id(&mut self, dim: u8) -> ValueId {
        self.push(Op::ProgramId(dim), Type::scalar(Elem::I32))
    }

    /// One-operand arithmetic.
    #[track_caller]
    pub fn unary(&mut self, op: Unary, x: ValueId) -> ValueId {
        let ty = self.ty(x).clone();
        let fits = match op {
            Unary::Neg => matches!(ty.elem, Elem::I32 | Elem::F32),
            Unary::Exp2 | Unary::Log2 | Unary::Recip | Unary::Tanh => ty.elem == Elem::F32,
            Unary::Not => ty.elem == Elem::Bool,
        };
        if !fits {
            let found = self.show(&ty);
            self.fail(format!("{op:?} does not take {}", ty.elem.name()).to_lowercase(), format!("this is {found}"));
        }
        self.push(Op::Unary(op, x), ty)
    }

    /// Brings two operands to one set of axes: the one that lacks axes of the other is repeated along them.
    #[track_caller]
    fn align(&mut self, a: ValueId, b: ValueId) -> (ValueId, ValueId, Vec<AxisId>) {
        let (ta, tb) = (self.ty(a).clone(), self.ty(b).clone());
        if ta.axes == tb.axes {
            return (a, b, ta.axes);
        }
        if tb.axes.iter().all(|x| ta.axes.contains(x)) && ta.rank() > tb.rank() {
            let b = self.broadcast(b, &ta.axes.clone());
            return (a, b, ta.axes);
        }
        if ta.axes.iter().all(|x| tb.axes.contains(x)) && tb.rank() > ta.rank() {
            let a = self.broadcast(a, &tb.axes.clone());
            return (a, b, tb.axes);
        }
        let (a_text, b_text) = (self.show(&ta), self.show(&tb));
        self.fail("the axes of these two operands do not go together", format!("{a_text} and {b_text}"));
        (a, b, ta.axes)
    }

    /// Two-operand arithmetic; a scalar or a row vector is repeated as the other operand needs it.
    #[track_caller]
    pub fn binary(&mut self, op: Binary, a: ValueId, b: ValueId) -> ValueId {
        let (a, b, axes) = self.align(a, b);
        let (ta, tb) = (self.ty(a).clone(), self.ty(b).clone());
        let elem = ta.elem;
        let fits = match op {
            Binary::And | Binary::Or => elem == Elem::Bool,
            Binary::Rem => elem == Elem::I32,
            _ => matches!(elem, Elem::I32 | Elem::F32),
        };
        if !fits || tb.elem != elem {
            let found = format!("{} and {}", self.show(&ta), self.show(&tb));
            self.fail(format!("`{op:?}` does not take these operands").to_lowercase(), found);
        }
        let partial = match op {
            Binary::Mul => ta.partial ^ tb.partial,
            Binary::Add => ta.partial && tb.partial,
            _ => false,
        };
        if (ta.partial || tb.partial) && !partial {
            self.fail(
                "a sum that is still spread over lanes can only be scaled by a complete value or added to another such sum",
                format!("{} and {}", self.show(&ta), self.show(&tb)),
            );
        }
        self.push(Op::Binary(op, a, b), Type { elem, axes, partial })
    }

    /// A comparison.
    #[track_caller]
    pub fn compare(&mut self, op: Compare, a: ValueId, b: ValueId) -> ValueId {
        let (a, b, axes) = self.align(a, b);
        let (ta, tb) = (self.ty(a).clone(), self.ty(b).clone());
        if ta.elem != tb.elem || !matches!(ta.elem, Elem::I32 | Elem::F32) || ta.partial || tb.partial {
            let found = format!("{} and {}", self.show(&ta), self.show(&tb));
            self.fail("these two cannot be compared", found);
        }
        self.push(Op::Compare(op, a, b), Type::tile(Elem::Bool, axes))
    }

    /// `if cond { a } else { b }`, element by element.
    #[track_caller]
    pub fn select(&mut self, cond: ValueId, a: ValueId, b: ValueId) -> ValueId {
        let (a, b, _) = self.align(a, b);
        let (cond, a, _) = self.align(cond, a);
        let (cond, b, axes) = self.align(cond, b);
        let a = self.broadcast(a, &axes);
        let (tc, ta, tb) = (self.ty(cond).clone(), self.ty(a).clone(), self.ty(b).clone());
        if tc.elem != Elem::Bool || ta.elem != tb.elem || ta.partial || tb.partial {
            let found = format!("{}, {} and {}", self.show(&tc), self.show(&ta), self.show(&tb));
            self.fail("a choice needs a bool and two values of one type", found);
        }
        self.push(Op::Select(cond, a, b), Type::tile(ta.elem, axes))
    }

    /// `a * b + c`, f32.
    #[track_caller]
    pub fn fma(&mut self, a: ValueId, b: ValueId, c: ValueId) -> ValueId {
        let (a, b, _) = self.align(a, b);
        let (a, c, axes) = self.align(a, c);
        let b = self.broadcast(b, &axes);
        if [a, b, c].iter().any(|&v| self.ty(v).elem != Elem::F32 || self.ty(v).partial) {
            self.fail("a fused multiply-add takes three f32 operands", "");
        }
        self.push(Op::Fma(a, b, c), Type::tile(Elem::F32, axes))
    }

    /// To another element type.
    #[track_caller]
    pub fn convert(&mut self, x: ValueId, elem: Elem) -> ValueId {
        let ty = self.ty(x).clone();
        if ty.elem == elem {
            return x;
        }
        let known = matches!(
            (ty.elem, elem),
            (Elem::F32, Elem::Bf16 | Elem::F16) | (Elem::Bf16 | Elem::F16 | Elem::I32, Elem::F32)
        );
        if !known || ty.partial {
            let found = self.show(&ty);
            self.fail(format!("no conversion to {}", elem.name()), format!("this is {found}"));
        }
        self.push(Op::Convert(x), Type { elem, ..ty })
    }

    /// `0, 1, 2, ..` along an axis.
    #[track_caller]
    pub fn iota(&mut self, axis: AxisId) -> ValueId {
        self.push(Op::Iota(axis), Type::tile(Elem::I32, vec![axis]))
    }

    /// Repeats `x` along the axes that it lacks. The result has exactly `axes`, in that order.
    #[track_caller]
    pub fn broadcast(&mut self, x: ValueId, axes: &[AxisId]) -> ValueId {
        let ty = self.ty(x).clone();
        if ty.axes == axes {
            return x;
        }
        if !ty.axes.iter().all(|a| axes.contains(a)) || (ty.rank() == 2) {
            let found = self.show(&ty);
            self.fail("this tile has an axis that the result lacks", found);
        }
        self.push(Op::Broadcast(x), Type { axes: axes.to_vec(), ..ty })
    }

    /// Reduces the columns of a tile of rank 2.
    #[track_caller]
    pub fn reduce(&mut self, op: Reduce, x: ValueId) -> ValueId {
        let ty = self.ty(x).clone();
        if ty.rank() != 2 || ty.elem != Elem::F32 {
            let found = self.show(&ty);
            self.fail("a reduction takes an f32 tile of two axes", format!("this is {found}"));
        }
        let axes = ty.axes.first().copied().into_iter().collect();
        self.push(Op::Reduce(op, x), Type { elem: Elem::F32, axes, partial: op == Reduce::Sum })
    }

    /// The tensor behind a parameter; a scalar there is a broken invariant of the caller.
    pub fn tensor_of(&self, id: ParamId) -> &Tensor {
        match &self.func.params[id.index()] {
            Param::Tensor(tensor) => tensor,
            Param::Scalar { name, .. } => panic!("parameter `{name}` is a scalar where a tensor is meant"),
        }
    }

    /// Elements of a tensor, one or one for each element of the indices: scalars are repeated along the axes of tiles, and
    /// tiles of fewer axes along those that they lack.
    #[track_caller]
    pub fn element(&mut self, tensor: ParamId, index: &[ValueId]) -> ValueId {
        let t = self.tensor_of(tensor);
        let (elem, rank, name) = (t.elem, t.dims.len(), t.name.clone());
        if index.len() != rank {
            self.fail(format!("`{name}` has {rank} dimensions"), format!("{} indices are given", index.len()));
        }
        if !matches!(elem, Elem::I32 | Elem::F32) {
            self.fail("single elements are read from i32 and f32 tensors", format!("`{name}` holds {}", elem.name()));
        }
        if let Some(&odd) = index.iter().find(|&&i| self.ty(i).elem != Elem::I32 || self.ty(i).partial) {
            let found = self.show(&self.ty(odd).clone());
            self.fail("an index is a whole number", format!("this is {found}"));
        }
        let widest = index.iter().copied().max_by_key(|&i| self.ty(i).rank());
        let axes = widest.map_or_else(Vec::new, |i| self.ty(i).axes.clone());
        let mut aligned = Vec::with_capacity(index.len());
        for &i in index {
            aligned.push(if self.ty(i).rank() == 0 { i } else { self.broadcast(i, &axes) });
        }
        self.push(Op::Element { tensor, index: aligned }, Type::tile(elem, axes))
    }

    /// The segment of a table that holds a position: of the tensor's row at `row`, an index for every dimension but the last.
    #[track_caller]
    pub fn segment(&mut self, table: ParamId, row: &[ValueId], segments: ValueId, at: ValueId) -> ValueId {
        self.push(Op::Segment { table, row: row.to_vec(), segments, at }, Type::scalar(Elem::I32))
    }

    /// A lane tile reduced to a scalar.
    #[track_caller]
    pub fn fold(&mut self, op: Fold, x: ValueId) -> ValueId {
        let elem = self.ty(x).elem;
        self.push(Op::Fold(op, x), Type::scalar(elem))
    }

    /// The exclusive prefix sum of a lane tile, and its total.
    #[track_caller]
    pub fn scan(&mut self, x: ValueId) -> (ValueId, ValueId) {
        let axes = self.ty(x).axes.clone();
        let before = self.push(Op::Scan(x), Type::tile(Elem::I32, axes));
        (before, self.push(Op::Total(before), Type::scalar(Elem::I32)))
    }

    /// Stores elements of a tensor where `keep` is true.
    #[track_caller]
    pub fn set_element(&mut self, tensor: ParamId, index: &[ValueId], value: ValueId, keep: ValueId) {
        self.effect(Op::SetElement { tensor, index: index.to_vec(), value, keep });
    }

    /// Declares a table in shared memory.
    pub fn table(&mut self, name: impl Into<String>, axis: AxisId) -> TableId {
        self.func.tables.push(Table { name: name.into(), axis });
        TableId(self.func.tables.len() as u32 - 1)
    }

    /// What a table holds at places.
    #[track_caller]
    pub fn table_get(&mut self, table: TableId, index: ValueId) -> ValueId {
        let axes = self.ty(index).axes.clone();
        self.push(Op::TableGet { table, index }, Type::tile(Elem::I32, axes))
    }

    /// Sets a table at places, where `keep` is true.
    #[track_caller]
    pub fn table_set(&mut self, table: TableId, index: ValueId, value: ValueId, keep: ValueId) {
        self.effect(Op::TableSet { table, index, value, keep });
    }

    /// Adds to a table at places, where `keep` is true.
    #[track_caller]
    pub fn table_add(&mut self, table: TableId, index: ValueId, value: ValueId, keep: ValueId) {
        self.effect(Op::TableAdd { table, index, value, keep });
    }

    /// Counts keys in their order where `keep` is true; each one's count before it.
    #[track_caller]
    pub fn count_up(&mut self, table: TableId, key: ValueId, keep: ValueId) -> ValueId {
        let axes = self.ty(key).axes.clone();
        self.push(Op::CountUp { table, key, keep }, Type::tile(Elem::I32, axes))
    }

    /// Declares storage for the `count` best of each row.
    pub fn best(&mut self, name: impl Into<String>, axis: AxisId, count: u32) -> BestId {
        self.func.bests.push(Best { name: name.into(), axis, count });
        BestId(self.func.bests.len() as u32 - 1)
    }

    /// Offers a tile of scores whose columns begin at `first`, or what of it comes after a score and a column of each row.
    #[track_caller]
    pub fn take(&mut self, best: BestId, scores: ValueId, first: ValueId, after: Option<[ValueId; 2]>) {
        self.effect(Op::Take { best, scores, first, after });
    }

    /// Completes the best of each row.
    #[track_caller]
    pub fn settle(&mut self, best: BestId) {
        self.effect(Op::Settle(best));
    }

    /// Forgets the best of each row.
    #[track_caller]
    pub fn clear(&mut self, best: BestId) {
        self.effect(Op::Clear(best));
    }

    /// The column of each row's `n`th best.
    #[track_caller]
    pub fn best_column(&mut self, best: BestId, n: u32) -> ValueId {
        let axis = self.func.bests[best.index()].axis;
        self.push(Op::BestColumn(best, n), Type::tile(Elem::I32, [axis]))
    }

    /// The score of each row's `n`th best.
    #[track_caller]
    pub fn best_score(&mut self, best: BestId, n: u32) -> ValueId {
        let axis = self.func.bests[best.index()].axis;
        self.push(Op::BestScore(best, n), Type::tile(Elem::F32, [axis]))
    }

    /// Loads rows of a tensor as a tile over `axes` (rows, then the tensor's last dimension).
    #[track_caller]
    pub fn load(&mut self, slice: Slice, axes: &[AxisId]) -> ValueId {
        let elem = self.tensor_of(slice.tensor).elem;
        self.push(Op::Load(slice), Type::tile(elem, axes))
    }

    /// Stores a tile's rows.
    #[track_caller]
    pub fn store(&mut self, slice: Slice, tile: ValueId) {
        let (elem, name) = (self.tensor_of(slice.tensor).elem, self.tensor_of(slice.tensor).name.clone());
        let ty = self.ty(tile).clone();
        if ty.elem != elem || ty.partial {
            let found = self.show(&ty);
            self.fail(format!("`{name}` holds {}", elem.name()), format!("this is {found}"));
        }
        self.effect(Op::Store(slice, tile));
    }

    /// `lhs · rhs`, contracting the axis that both have.
    #[track_caller]
    pub fn dot(&mut self, lhs: ValueId, rhs: ValueId) -> ValueId {
        let axes = self.contract(lhs, rhs);
        self.push(Op::Dot(lhs, rhs), Type::tile(Elem::F32, axes))
    }

    /// `var += lhs · rhs`.
    #[track_caller]
    pub fn accumulate(&mut self, var: VarId, lhs: ValueId, rhs: ValueId) {
        let axes = self.contract(lhs, rhs);
        let ty = self.func.vars[var.index()].ty.clone();
        if ty != Type::tile(Elem::F32, axes.clone()) {
            let (want, found) = (self.show(&Type::tile(Elem::F32, axes)), self.show(&ty));
            self.fail(
                "the product does not fit the accumulator",
                format!("the product is {want}, the accumulator {found}"),
            );
        }
        self.effect(Op::Accumulate(var, lhs, rhs));
    }

    #[track_caller]
    fn contract(&mut self, lhs: ValueId, rhs: ValueId) -> Vec<AxisId> {
        let (tl, tr) = (self.ty(lhs).clone(), self.ty(rhs).clone());
        let shared = (tl.rank() == 2 && tr.rank() == 2).then(|| tl.axes[1]).filter(|k| tr.axes.contains(k));
        let Some(k) = shared else {
            let found = format!("{} and {}", self.show(&tl), self.show(&tr));
            self.fail("these two axes cannot be contracted", found);
            return tl.axes;
        };
        if tl.elem != tr.elem || !matches!(tl.elem, Elem::Bf16 | Elem::F16) {
            let found = format!("{} and {}", self.show(&tl), self.show(&tr));
            self.fail("a product takes two tiles of bf16 or two of f16", found);
        }
        let n = if tr.axes[0] == k { tr.axes[1] } else { tr.axes[0] };
        vec![tl.axes[0], n]
    }

    /// The content of a var.
    #[track_caller]
    pub fn read(&mut self, var: VarId) -> ValueId {
        let ty = self.func.vars[var.index()].ty.clone();
        self.push(Op::Read(var), ty)
    }

    /// Sets a var.
    #[track_caller]
    pub fn write(&mut self, var: VarId, value: ValueId) {
        let want = self.func.vars[var.index()].ty.clone();
        let value = self.broadcast(value, &want.axes);
        let ty = self.ty(value).clone();
        if ty != want {
            let (want, found) = (self.show(&want), self.show(&ty));
            let name = self.func.vars[var.index()].name.clone();
            self.fail(format!("`{name}` holds {want}"), format!("this is {found}"));
        }
        self.effect(Op::Write(var, value));
    }

    /// Completes an online softmax; the result is the complete sum of each row.
    #[track_caller]
    pub fn merge(&mut self, max: VarId, sum: VarId, acc: Option<VarId>, scale: ValueId) -> ValueId {
        let axes = self.func.vars[sum.index()].ty.axes.clone();
        self.push(Op::Merge { max, sum, acc, scale }, Type::tile(Elem::F32, axes))
    }

    /// Opens `for index in lo..hi` and returns the index.
    #[track_caller]
    pub fn open_for(&mut self, lo: ValueId, hi: ValueId, pipelined: Option<u32>) -> ValueId {
        let loc = self.here();
        let index = self.value(Type::scalar(Elem::I32), loc);
        let op = Op::For { index, lo, hi, pipelined, body: Vec::new() };
        self.open.push(Open { body: Vec::new(), op: Some(op), loc });
        index
    }

    /// Opens a branch.
    #[track_caller]
    pub fn open_if(&mut self, cond: ValueId) {
        let loc = self.here();
        let ty = self.ty(cond).clone();
        if ty != Type::scalar(Elem::Bool) {
            let found = self.show(&ty);
            self.fail("a branch takes one bool, the same for the whole CTA", format!("this is {found}"));
        }
        self.open.push(Open { body: Vec::new(), op: Some(Op::If { cond, body: Vec::new() }), loc });
    }

    /// Closes the innermost loop or branch.
    ///
    /// # Panics
    /// If none is open.
    pub fn close(&mut self) {
        let Open { body: done, op, loc } = self.open.pop().expect("a body to close");
        let mut op = op.expect("close without open");
        if let Op::For { body, .. } | Op::If { body, .. } = &mut op {
            *body = done;
        }
        self.append(Stmt { result: None, op, loc: Some(loc) });
    }

    /// Ends the CTA where `cond` holds.
    #[track_caller]
    pub fn exit_if(&mut self, cond: ValueId) {
        if self.depth() > 1 {
            self.fail("a schedule can only end early outside loops and branches", "");
        }
        self.effect(Op::Exit(cond));
    }
}
