//! The text form of a func. [`read`](super::read()) reads it back.
//!
//! ```text
//! func @name target sm_80 warps 4 {
//!   axis Kv = 64                              ; axes, parameters, storage and buffers, each in the order of its ids
//!   param k : bf16[token, head, Dk]
//!   param scale : f32
//!   var %m : f32<Group> = -inf
//!   buffer $k : bf16<Kv, Dk> x 3
//!   table $counts over Slot
//!   best $picks : 7 over Group
//!   partition rows Group x 1 cols Kv x 4
//!   %5 = load k[%0, %3] rows token count %4 : bf16<Kv, Dk>
//!   for %6 in %1..%2 pipelined 3 {
//!     ...
//!   }
//! }
//! ```
//! Values go by their ids, everything else by its name; a name that is no identifier is quoted, and one that is not alone
//! has its id behind it, `Kv#4`. A value's type stands behind its operation unless it follows from the operation and the
//! declarations alone. `;` starts a comment. The author's lines are not part of the text.

use std::fmt::{self, Display, Formatter};

use super::{
    AxisId, BestId, Binary, BufferId, Compare, Const, Elem, Fold, Func, Op, Overlap, Param, ParamId, Reduce, Roles,
    Slice, Stmt, TableId, Type, Unary, ValueId, VarId,
};

impl Unary {
    /// Every one of them.
    pub const ALL: [Unary; 6] = [Unary::Neg, Unary::Exp2, Unary::Log2, Unary::Recip, Unary::Tanh, Unary::Not];

    /// Its name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Unary::Neg => "neg",
            Unary::Exp2 => "exp2",
            Unary::Log2 => "log2",
            Unary::Recip => "recip",
            Unary::Tanh => "tanh",
            Unary::Not => "not",
        }
    }
}

impl Binary {
    /// Every one of them.
    pub const ALL: [Binary; 9] = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Rem,
        Binary::Min,
        Binary::Max,
        Binary::And,
        Binary::Or,
    ];

    /// Its name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Binary::Add => "add",
            Binary::Sub => "sub",
            Binary::Mul => "mul",
            Binary::Div => "div",
            Binary::Rem => "rem",
            Binary::Min => "min",
            Binary::Max => "max",
            Binary::And => "and",
            Binary::Or => "or",
        }
    }
}

impl Compare {
    /// Every one of them.
    pub const ALL: [Compare; 6] = [Compare::Eq, Compare::Ne, Compare::Lt, Compare::Le, Compare::Gt, Compare::Ge];

    /// Its name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Compare::Eq => "eq",
            Compare::Ne => "ne",
            Compare::Lt => "lt",
            Compare::Le => "le",
            Compare::Gt => "gt",
            Compare::Ge => "ge",
        }
    }
}

impl Reduce {
    /// Its name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Reduce::Max => "max",
            Reduce::Sum => "sum",
        }
    }
}

impl Fold {
    /// Every one of them.
    pub const ALL: [Fold; 4] = [Fold::Sum, Fold::Min, Fold::Max, Fold::Any];

    /// Its name in the text form.
    pub const fn name(self) -> &'static str {
        match self {
            Fold::Sum => "sum",
            Fold::Min => "min",
            Fold::Max => "max",
            Fold::Any => "any",
        }
    }
}

impl Display for Const {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Const::I32(value) => write!(f, "{value}"),
            Const::Bool(value) => write!(f, "{value}"),
            Const::F32(bits) => {
                let value = f32::from_bits(bits);
                if value.is_nan() { write!(f, "0f{bits:08X}") } else { write!(f, "{value:?}") }
            }
        }
    }
}

impl Display for ValueId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// What an operation's type is where it follows from the operation and the declarations alone.
pub(super) fn evident(func: &Func, op: &Op) -> Option<Type> {
    match op {
        Op::Const(value) => Some(Type::scalar(value.elem())),
        Op::Param(id) => match func.params.get(id.index())? {
            Param::Scalar { elem, .. } => Some(Type::scalar(*elem)),
            Param::Tensor(_) => None,
        },
        Op::ProgramId(_) | Op::Segment { .. } | Op::Total(_) => Some(Type::scalar(Elem::I32)),
        Op::Iota(axis) => Some(Type::tile(Elem::I32, vec![*axis])),
        // A tile of elements says its axes.
        Op::Element { tensor, .. } => match func.params.get(tensor.index())? {
            Param::Tensor(tensor) => Some(Type::scalar(tensor.elem)),
            Param::Scalar { .. } => None,
        },
        Op::Read(var) => func.vars.get(var.index()).map(|var| var.ty.clone()),
        Op::BestColumn(best, _) => func.bests.get(best.index()).map(|best| Type::tile(Elem::I32, [best.axis])),
        Op::BestScore(best, _) => func.bests.get(best.index()).map(|best| Type::tile(Elem::F32, [best.axis])),
        Op::Shared(buffer, _) => func.buffers.get(buffer.index()).map(|buffer| buffer.ty.clone()),
        Op::Merge { sum, .. } => func.vars.get(sum.index()).map(|sum| Type { partial: false, ..sum.ty.clone() }),
        _ => None,
    }
}

/// Writes `name`, quoted where it is no identifier, with its place among `all` where it is not alone.
fn label<'n>(f: &mut impl fmt::Write, at: usize, all: impl Iterator<Item = &'n str> + Clone) -> fmt::Result {
    let Some(name) = all.clone().nth(at) else { return write!(f, "?#{at}") };
    quoted(f, name)?;
    if all.filter(|other| *other == name).count() > 1 { write!(f, "#{at}") } else { Ok(()) }
}

/// Writes `name`, quoted where it is no identifier.
fn quoted(f: &mut impl fmt::Write, name: &str) -> fmt::Result {
    if is_identifier(name) {
        return f.write_str(name);
    }
    f.write_char('"')?;
    for c in name.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            '\n' => f.write_str("\\n")?,
            c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

/// A letter or underscore, then letters, digits and underscores.
pub(super) fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Writes parts of a func's text.
struct Printer<'f, W> {
    func: &'f Func,
    out: W,
}

impl<W: fmt::Write> Printer<'_, W> {
    fn axis(&mut self, id: AxisId) -> fmt::Result {
        label(&mut self.out, id.index(), self.func.axes.iter().map(|axis| axis.name.as_str()))
    }

    fn param(&mut self, id: ParamId) -> fmt::Result {
        label(&mut self.out, id.index(), self.func.params.iter().map(Param::name))
    }

    fn var(&mut self, id: VarId) -> fmt::Result {
        self.out.write_char('%')?;
        label(&mut self.out, id.index(), self.func.vars.iter().map(|var| var.name.as_str()))
    }

    fn buffer(&mut self, id: BufferId) -> fmt::Result {
        self.out.write_char('$')?;
        label(&mut self.out, id.index(), self.func.buffers.iter().map(|buffer| buffer.name.as_str()))
    }

    /// `$table[%index]`
    fn place(&mut self, id: TableId, index: ValueId) -> fmt::Result {
        self.table(id)?;
        write!(self.out, "[{index}]")
    }

    fn table(&mut self, id: TableId) -> fmt::Result {
        self.out.write_char('$')?;
        label(&mut self.out, id.index(), self.func.tables.iter().map(|table| table.name.as_str()))
    }

    fn best(&mut self, id: BestId) -> fmt::Result {
        self.out.write_char('$')?;
        label(&mut self.out, id.index(), self.func.bests.iter().map(|best| best.name.as_str()))
    }

    fn ty(&mut self, ty: &Type) -> fmt::Result {
        if ty.partial {
            self.out.write_str("partial ")?;
        }
        self.out.write_str(ty.elem.name())?;
        for (n, &axis) in ty.axes.iter().enumerate() {
            self.out.write_str(if n == 0 { "<" } else { ", " })?;
            self.axis(axis)?;
        }
        if ty.axes.is_empty() { Ok(()) } else { self.out.write_char('>') }
    }

    fn values(&mut self, values: &[ValueId]) -> fmt::Result {
        for (n, value) in values.iter().enumerate() {
            write!(self.out, "{}{value}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }

    fn indexed(&mut self, tensor: ParamId, index: &[ValueId]) -> fmt::Result {
        self.param(tensor)?;
        self.out.write_char('[')?;
        self.values(index)?;
        self.out.write_char(']')
    }

    fn slice(&mut self, slice: &Slice) -> fmt::Result {
        self.indexed(slice.tensor, &slice.index)?;
        if let Some(along) = slice.along {
            self.out.write_str(" rows ")?;
            let dims = match self.func.params.get(slice.tensor.index()) {
                Some(Param::Tensor(tensor)) => tensor.dims.as_slice(),
                _ => &[],
            };
            label(&mut self.out, along, dims.iter().map(String::as_str))?;
        }
        write!(self.out, " count {}", slice.count)
    }

    /// `await $ring[%slot] phase %phase`
    fn turn(&mut self, word: &str, buffer: BufferId, slot: ValueId, phase: Option<ValueId>) -> fmt::Result {
        self.out.write_str(word)?;
        self.buffer(buffer)?;
        write!(self.out, "[{slot}]")?;
        phase.map_or(Ok(()), |phase| write!(self.out, " phase {phase}"))
    }

    fn func(&mut self) -> fmt::Result {
        let func = self.func;
        self.out.write_str("func @")?;
        quoted(&mut self.out, &func.name)?;
        write!(self.out, " target {} warps {}", func.target, func.warps)?;
        if func.overlap != Overlap::Serial {
            write!(self.out, " overlap {}", func.overlap.name())?;
        }
        if func.turns {
            self.out.write_str(" turns")?;
        }
        if func.persist {
            self.out.write_str(if func.draws { " persist draws" } else { " persist" })?;
        }
        self.out.write_str(" {\n")?;
        for (n, axis) in func.axes.iter().enumerate() {
            self.out.write_str("  axis ")?;
            self.axis(AxisId(n as u32))?;
            writeln!(self.out, " = {}", axis.extent)?;
        }
        for (n, param) in func.params.iter().enumerate() {
            self.out.write_str("  param ")?;
            self.param(ParamId(n as u32))?;
            match param {
                Param::Scalar { elem, .. } => writeln!(self.out, " : {}", elem.name())?,
                Param::Tensor(tensor) => {
                    write!(self.out, " : {}[", tensor.elem.name())?;
                    for (n, dim) in tensor.dims.iter().enumerate() {
                        self.out.write_str(if n == 0 { "" } else { ", " })?;
                        quoted(&mut self.out, dim)?;
                    }
                    self.out.write_str("]\n")?;
                }
            }
        }
        for (n, var) in func.vars.iter().enumerate() {
            self.out.write_str("  var ")?;
            self.var(VarId(n as u32))?;
            self.out.write_str(" : ")?;
            self.ty(&var.ty)?;
            writeln!(self.out, " = {}{}", var.init, if var.lasts { " lasts" } else { "" })?;
        }
        for (n, buffer) in func.buffers.iter().enumerate() {
            self.out.write_str("  buffer ")?;
            self.buffer(BufferId(n as u32))?;
            self.out.write_str(" : ")?;
            self.ty(&buffer.ty)?;
            writeln!(self.out, " x {}{}", buffer.slots, if buffer.ring { " ring" } else { "" })?;
        }
        for (n, table) in func.tables.iter().enumerate() {
            self.out.write_str("  table ")?;
            self.table(TableId(n as u32))?;
            self.out.write_str(" over ")?;
            self.axis(table.axis)?;
            self.out.write_char('\n')?;
        }
        for (n, best) in func.bests.iter().enumerate() {
            self.out.write_str("  best ")?;
            self.best(BestId(n as u32))?;
            write!(self.out, " : {} over ", best.count)?;
            self.axis(best.axis)?;
            self.out.write_char('\n')?;
        }
        if let Some(part) = func.partition {
            for (word, axis, warps) in
                [("  partition rows ", part.row_axis, part.rows), (" cols ", part.col_axis, part.cols)]
            {
                self.out.write_str(word)?;
                match axis {
                    Some(axis) => self.axis(axis)?,
                    None => self.out.write_char('-')?,
                }
                write!(self.out, " x {warps}")?;
            }
            if let Some(Roles { producer, consumer, ctas }) = part.roles {
                write!(self.out, " registers {producer} and {consumer}")?;
                if ctas != 1 {
                    write!(self.out, " ctas {ctas}")?;
                }
            }
            self.out.write_char('\n')?;
        }
        self.body(&func.body, 1)?;
        self.out.write_str("}\n")
    }

    fn body(&mut self, body: &[Stmt], depth: usize) -> fmt::Result {
        for stmt in body {
            write!(self.out, "{:1$}", "", 2 * depth)?;
            self.stmt(stmt)?;
            if let Some(body) = stmt.op.body() {
                self.out.write_str(" {\n")?;
                self.body(body, depth + 1)?;
                write!(self.out, "{:1$}}}", "", 2 * depth)?;
            }
            self.out.write_char('\n')?;
        }
        Ok(())
    }

    /// A statement without what it encloses.
    fn stmt(&mut self, stmt: &Stmt) -> fmt::Result {
        if let Some(result) = stmt.result {
            write!(self.out, "{result} = ")?;
        }
        self.op(&stmt.op)?;
        let ty = stmt.result.and_then(|result| self.func.values.get(result.index())).map(|value| &value.ty);
        match ty {
            Some(ty) if evident(self.func, &stmt.op).as_ref() != Some(ty) => {
                self.out.write_str(" : ")?;
                self.ty(ty)
            }
            _ => Ok(()),
        }
    }

    fn op(&mut self, op: &Op) -> fmt::Result {
        match op {
            Op::Const(value) => write!(self.out, "const {value}"),
            Op::Param(id) => {
                self.out.write_str("param ")?;
                self.param(*id)
            }
            Op::ProgramId(dim) => write!(self.out, "program_id {dim}"),
            Op::Unary(op, x) => write!(self.out, "{} {x}", op.name()),
            Op::Binary(op, a, b) => write!(self.out, "{} {a}, {b}", op.name()),
            Op::Compare(op, a, b) => write!(self.out, "{} {a}, {b}", op.name()),
            Op::Select(cond, a, b) => write!(self.out, "select {cond}, {a}, {b}"),
            Op::Fma(a, b, c) => write!(self.out, "fma {a}, {b}, {c}"),
            Op::Convert(x) => write!(self.out, "convert {x}"),
            Op::Iota(axis) => {
                self.out.write_str("iota ")?;
                self.axis(*axis)
            }
            Op::Broadcast(x) => write!(self.out, "broadcast {x}"),
            Op::Reduce(op, x) => write!(self.out, "reduce {} {x}", op.name()),
            Op::Element { tensor, index } => {
                self.out.write_str("element ")?;
                self.indexed(*tensor, index)
            }
            Op::Segment { table, row, segments, at } => {
                self.out.write_str("segment ")?;
                if row.is_empty() {
                    self.param(*table)?
                } else {
                    self.indexed(*table, row)?
                }
                write!(self.out, " of {segments} at {at}")
            }
            Op::Fold(op, x) => write!(self.out, "fold {} {x}", op.name()),
            Op::Scan(x) => write!(self.out, "scan {x}"),
            Op::Total(x) => write!(self.out, "total {x}"),
            Op::SetElement { tensor, index, value, keep } => {
                self.out.write_str("set_element ")?;
                self.indexed(*tensor, index)?;
                write!(self.out, " = {value} where {keep}")
            }
            Op::TableGet { table, index } => {
                self.out.write_str("get ")?;
                self.place(*table, *index)
            }
            Op::TableSet { table, index, value, keep } => {
                self.out.write_str("set ")?;
                self.place(*table, *index)?;
                write!(self.out, " = {value} where {keep}")
            }
            Op::TableAdd { table, index, value, keep } => {
                self.out.write_str("add_to ")?;
                self.place(*table, *index)?;
                write!(self.out, " += {value} where {keep}")
            }
            Op::CountUp { table, key, keep } => {
                self.out.write_str("count_up ")?;
                self.place(*table, *key)?;
                write!(self.out, " where {keep}")
            }
            Op::Take { best, scores, first, after } => {
                self.out.write_str("take ")?;
                self.best(*best)?;
                write!(self.out, " += {scores} at {first}")?;
                after.map_or(Ok(()), |[score, column]| write!(self.out, " after {score}, {column}"))
            }
            Op::Settle(best) => {
                self.out.write_str("settle ")?;
                self.best(*best)
            }
            Op::Clear(best) => {
                self.out.write_str("clear ")?;
                self.best(*best)
            }
            Op::BestColumn(best, n) | Op::BestScore(best, n) => {
                let word = if matches!(op, Op::BestColumn(..)) { "best_column " } else { "best_score " };
                self.out.write_str(word)?;
                self.best(*best)?;
                write!(self.out, "[{n}]")
            }
            Op::Load(slice) => {
                self.out.write_str("load ")?;
                self.slice(slice)
            }
            Op::Store(slice, tile) => {
                self.out.write_str("store ")?;
                self.slice(slice)?;
                write!(self.out, " = {tile}")
            }
            Op::Dot(a, b) => write!(self.out, "dot {a} . {b}"),
            Op::Read(var) => {
                self.out.write_str("read ")?;
                self.var(*var)
            }
            Op::Write(var, value) => {
                self.out.write_str("write ")?;
                self.var(*var)?;
                write!(self.out, " = {value}")
            }
            Op::Accumulate(var, a, b) => {
                self.out.write_str("accumulate ")?;
                self.var(*var)?;
                write!(self.out, " += {a} . {b}")
            }
            Op::Merge { max, sum, acc, scale } => {
                for (word, var) in [("merge max ", Some(max)), (" sum ", Some(sum)), (" acc ", acc.as_ref())] {
                    if let Some(var) = var {
                        self.out.write_str(word)?;
                        self.var(*var)?;
                    }
                }
                write!(self.out, " scale {scale}")
            }
            Op::For { index, lo, hi, pipelined, .. } => {
                write!(self.out, "for {index}")?;
                if let Some(value) = self.func.values.get(index.index()).filter(|v| v.ty != Type::scalar(Elem::I32)) {
                    self.out.write_str(" : ")?;
                    self.ty(&value.ty)?;
                }
                write!(self.out, " in {lo}..{hi}")?;
                pipelined.map_or(Ok(()), |stages| write!(self.out, " pipelined {stages}"))
            }
            Op::If { cond, .. } => write!(self.out, "if {cond}"),
            Op::Exit(cond) => write!(self.out, "exit {cond}"),
            Op::CopyAsync { from, buffer, slot } => {
                self.out.write_str("copy_async ")?;
                self.buffer(*buffer)?;
                write!(self.out, "[{slot}] = ")?;
                self.slice(from)
            }
            Op::Commit => self.out.write_str("commit"),
            Op::Wait(groups) => write!(self.out, "wait {groups}"),
            Op::Barrier => self.out.write_str("barrier"),
            Op::Shared(buffer, slot) => {
                self.out.write_str("shared ")?;
                self.buffer(*buffer)?;
                write!(self.out, "[{slot}]")
            }
            Op::Operand(x) => write!(self.out, "operand {x}"),
            Op::Produce(_) => self.out.write_str("produce"),
            Op::Consume(_) => self.out.write_str("consume"),
            Op::Acquire { buffer, slot, phase } => self.turn("acquire ", *buffer, *slot, Some(*phase)),
            Op::Await { buffer, slot, phase } => self.turn("await ", *buffer, *slot, Some(*phase)),
            Op::Release { buffer, slot } => self.turn("release ", *buffer, *slot, None),
            Op::Fill { from, buffer, slot } => {
                self.turn("fill ", *buffer, *slot, None)?;
                self.out.write_str(" = ")?;
                self.slice(from)
            }
            Op::Publish => self.out.write_str("publish"),
            Op::Fence => self.out.write_str("fence"),
            Op::Start { acc, lhs, rhs, fresh } => {
                self.out.write_str("start ")?;
                self.var(*acc)?;
                write!(self.out, " {} {lhs} . {rhs}", if *fresh { "=" } else { "+=" })
            }
            Op::Close => self.out.write_str("close"),
            Op::Land(groups) => write!(self.out, "land {groups}"),
            Op::Turn => self.out.write_str("turn"),
            Op::Pass => self.out.write_str("pass"),
            Op::Loop(_) => self.out.write_str("loop"),
            Op::Leave { cond, .. } => write!(self.out, "leave {cond}"),
            Op::Again { cond, .. } => write!(self.out, "again {cond}"),
            Op::Hold(values) => {
                self.out.write_str("hold ")?;
                self.values(values)
            }
        }
    }
}

impl Param {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Param::Tensor(tensor) => &tensor.name,
            Param::Scalar { name, .. } => name,
        }
    }
}

impl Display for Func {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Printer { func: self, out: f }.func()
    }
}

impl Func {
    /// A type of this func as an author reads it: `f32<Q, Kv>`.
    pub fn show_type(&self, ty: &Type) -> String {
        let mut printer = Printer { func: self, out: String::new() };
        // Writing to a string does not fail.
        let _ = printer.ty(ty);
        printer.out
    }

    /// A statement of this func as it stands in the text form, without what it encloses.
    pub fn show_stmt(&self, stmt: &Stmt) -> String {
        let mut printer = Printer { func: self, out: String::new() };
        let _ = printer.stmt(stmt);
        printer.out
    }
}
