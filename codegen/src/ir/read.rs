//! Reading the text form of a func.
//!
//! The reader resolves names and checks that the text is one; whether the func makes sense is the verifier's to say. So a
//! value may be used that nothing makes, and a type may be wrong.

use std::fmt;

use lacuna_ptx::Target;

use super::lex::{Place, Token, lex};
use super::print::evident;
use super::{
    Axis, AxisId, Best, BestId, Binary, Buffer, BufferId, Compare, Const, Elem, Fold, Func, Op, Overlap, Param,
    ParamId, Partition, Reduce, Roles, Slice, Stmt, Table, TableId, Tensor, Type, Unary, Value, ValueId, Var, VarId,
};

/// Why a text is no func, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ReadError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Loops and branches may be nested so deep.
const MAX_DEPTH: usize = 64;

/// Values are numbered below this.
const MAX_VALUES: u32 = 1 << 20;

/// The func that a text is.
pub fn read(text: &str) -> Result<Func, ReadError> {
    // The header says the rest.
    let func = Func::new("", Target::SM_80, 0);
    let mut reader = Reader { tokens: lex(text)?, at: 0, func, typed: Vec::new() };
    reader.func()?;
    Ok(reader.func)
}

struct Reader {
    /// Ends in [`Token::End`].
    tokens: Vec<(Token, Place)>,
    at: usize,
    func: Func,
    /// Which values have been given a type.
    typed: Vec<bool>,
}

type Read<T> = Result<T, ReadError>;

impl Reader {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn place(&self) -> Place {
        self.tokens[self.at].1
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        if token != Token::End {
            self.at += 1;
        }
        token
    }

    fn wrong<T>(&self, wanted: &str) -> Read<T> {
        let found = match self.peek() {
            Token::Word(text) | Token::Number(text) => format!("`{text}`"),
            Token::Quoted(name) => format!("the name {name:?}"),
            Token::Sign(sign) => format!("`{sign}`"),
            Token::End => "the end of the text".to_owned(),
        };
        Err(self.place().error(format!("{wanted} should stand here, not {found}")))
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if *s == sign)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(w) if w == word)
    }

    fn skip(&mut self, found: bool) -> bool {
        self.at += usize::from(found);
        found
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        self.skip(self.is_sign(sign))
    }

    fn take_word(&mut self, word: &str) -> bool {
        self.skip(self.is_word(word))
    }

    fn sign(&mut self, sign: &str) -> Read<()> {
        if self.take_sign(sign) { Ok(()) } else { self.wrong(&format!("`{sign}`")) }
    }

    fn word(&mut self, word: &str) -> Read<()> {
        if self.take_word(word) { Ok(()) } else { self.wrong(&format!("`{word}`")) }
    }

    fn name(&mut self) -> Read<String> {
        match self.peek() {
            Token::Word(_) | Token::Quoted(_) => match self.next() {
                Token::Word(name) | Token::Quoted(name) => Ok(name),
                _ => unreachable!("just looked at"),
            },
            _ => self.wrong("a name"),
        }
    }

    fn number<T: std::str::FromStr>(&mut self, what: &str) -> Read<T> {
        let place = self.place();
        match self.peek() {
            Token::Number(_) => match self.next() {
                Token::Number(text) => text.parse().map_err(|_| place.error(format!("`{text}` is not {what}"))),
                _ => unreachable!("just looked at"),
            },
            _ => self.wrong(what),
        }
    }

    /// A name, and its id where the name is not alone.
    fn label(&mut self) -> Read<(String, Option<usize>)> {
        let name = self.name()?;
        let id = if self.take_sign("#") { Some(self.number("an id")?) } else { None };
        Ok((name, id))
    }

    /// The name of what is declared as the `position`th of its kind.
    fn declared(&mut self, position: usize) -> Read<String> {
        let place = self.place();
        match self.label()? {
            (_, Some(id)) if id != position => {
                Err(place.error(format!("this is number {position} of its kind, and says that it is number {id}")))
            }
            (name, _) => Ok(name),
        }
    }

    /// Which of `names` is meant.
    fn meant(&mut self, what: &str, names: fn(&Func) -> Vec<&str>) -> Read<usize> {
        let place = self.place();
        let (name, id) = self.label()?;
        let names = names(&self.func);
        one_of(place, what, &name, id, &names)
    }

    fn axis(&mut self) -> Read<AxisId> {
        let at = self.meant("an axis", |func| func.axes.iter().map(|axis| axis.name.as_str()).collect())?;
        Ok(AxisId(at as u32))
    }

    fn param(&mut self) -> Read<ParamId> {
        let at = self.meant("a parameter", |func| func.params.iter().map(Param::name).collect())?;
        Ok(ParamId(at as u32))
    }

    fn var(&mut self) -> Read<VarId> {
        self.sign("%")?;
        let at = self.meant("a var", |func| func.vars.iter().map(|var| var.name.as_str()).collect())?;
        Ok(VarId(at as u32))
    }

    fn buffer(&mut self) -> Read<BufferId> {
        self.sign("$")?;
        let at = self.meant("a buffer", |func| func.buffers.iter().map(|buffer| buffer.name.as_str()).collect())?;
        Ok(BufferId(at as u32))
    }

    fn best(&mut self) -> Read<BestId> {
        self.sign("$")?;
        let at = self.meant("the best of rows", |func| func.bests.iter().map(|best| best.name.as_str()).collect())?;
        Ok(BestId(at as u32))
    }

    /// `$best[n]`
    fn in_best(&mut self) -> Read<(BestId, u32)> {
        let best = self.best()?;
        self.sign("[")?;
        let n = self.number("a place among the best")?;
        self.sign("]")?;
        Ok((best, n))
    }

    /// `$table[%index]`
    fn in_table(&mut self) -> Read<(TableId, ValueId)> {
        self.sign("$")?;
        let at = self.meant("a table", |func| func.tables.iter().map(|table| table.name.as_str()).collect())?;
        self.sign("[")?;
        let index = self.value()?;
        self.sign("]")?;
        Ok((TableId(at as u32), index))
    }

    /// `$buffer[%slot]`
    fn slot(&mut self) -> Read<(BufferId, ValueId)> {
        let buffer = self.buffer()?;
        self.sign("[")?;
        let slot = self.value()?;
        self.sign("]")?;
        Ok((buffer, slot))
    }

    /// ` phase %phase`
    fn phase(&mut self) -> Read<ValueId> {
        self.word("phase")?;
        self.value()
    }

    /// ` = %value`
    fn assigned(&mut self) -> Read<ValueId> {
        self.sign("=")?;
        self.value()
    }

    /// ` where %keep`
    fn condition(&mut self) -> Read<ValueId> {
        self.word("where")?;
        self.value()
    }

    fn elem(&mut self) -> Read<Elem> {
        let elems = [Elem::Bf16, Elem::F16, Elem::F32, Elem::I32, Elem::Bool];
        match elems.into_iter().find(|elem| self.is_word(elem.name())) {
            Some(elem) => {
                self.at += 1;
                Ok(elem)
            }
            None => self.wrong("an element type (bf16, f16, f32, i32 or bool)"),
        }
    }

    fn ty(&mut self) -> Read<Type> {
        let partial = self.take_word("partial");
        let elem = self.elem()?;
        let mut axes = Vec::new();
        if self.take_sign("<") {
            axes.push(self.axis()?);
            while self.take_sign(",") {
                axes.push(self.axis()?);
            }
            self.sign(">")?;
        }
        Ok(Type { elem, axes, partial })
    }

    fn constant(&mut self) -> Read<Const> {
        let place = self.place();
        for (word, value) in [("true", true), ("false", false)] {
            if self.take_word(word) {
                return Ok(Const::Bool(value));
            }
        }
        let minus = self.take_sign("-");
        if self.take_word("inf") {
            return Ok(Const::f32(if minus { f32::NEG_INFINITY } else { f32::INFINITY }));
        }
        let Token::Number(digits) = self.peek().clone() else { return self.wrong("a constant") };
        self.at += 1;
        let text = if minus { format!("-{digits}") } else { digits.clone() };
        let value = match digits.strip_prefix("0f") {
            Some(hex) if !minus && hex.len() == 8 => u32::from_str_radix(hex, 16).ok().map(Const::F32),
            Some(_) => None,
            None if digits.contains(['.', 'e']) => text.parse().ok().filter(|f: &f32| f.is_finite()).map(Const::f32),
            None => text.parse().ok().map(Const::I32),
        };
        value.ok_or_else(|| place.error(format!("`{text}` is not a constant of 32 bits")))
    }

    fn value(&mut self) -> Read<ValueId> {
        self.sign("%")?;
        let place = self.place();
        let id: u32 = self.number("a value's number")?;
        if id >= MAX_VALUES {
            return Err(place.error(format!("values are numbered below {MAX_VALUES}")));
        }
        while self.func.values.len() <= id as usize {
            self.func.values.push(Value { ty: Type::scalar(Elem::I32), loc: None });
            self.typed.push(false);
        }
        Ok(ValueId(id))
    }

    fn give_type(&mut self, place: Place, id: ValueId, ty: Type) -> Read<()> {
        let known = &mut self.func.values[id.index()].ty;
        if std::mem::replace(&mut self.typed[id.index()], true) && *known != ty {
            return Err(place.error(format!("{id} is made a second time, as another type")));
        }
        *known = ty;
        Ok(())
    }

    fn values(&mut self) -> Read<Vec<ValueId>> {
        let mut values = Vec::new();
        self.sign("[")?;
        while !self.take_sign("]") {
            if !values.is_empty() {
                self.sign(",")?;
            }
            values.push(self.value()?);
        }
        Ok(values)
    }

    fn slice(&mut self) -> Read<Slice> {
        let tensor = self.param()?;
        let index = self.values()?;
        let along = if self.take_word("rows") {
            let place = self.place();
            let (name, id) = self.label()?;
            let dims: Vec<&str> = match &self.func.params[tensor.index()] {
                Param::Tensor(tensor) => tensor.dims.iter().map(String::as_str).collect(),
                Param::Scalar { .. } => Vec::new(),
            };
            Some(one_of(place, "a dimension of this tensor", &name, id, &dims)?)
        } else {
            None
        };
        self.word("count")?;
        Ok(Slice { tensor, index, along, count: self.value()? })
    }

    fn func(&mut self) -> Read<()> {
        self.word("func")?;
        self.sign("@")?;
        self.func.name = self.name()?;
        self.word("target")?;
        let place = self.place();
        let target = self.name()?.parse::<Target>();
        self.func.target = target.map_err(|unknown| place.error(unknown.to_string()))?;
        self.word("warps")?;
        self.func.warps = self.number("a number of warps")?;
        if self.take_word("overlap") {
            let Some(overlap) = Overlap::ALL.into_iter().find(|overlap| self.is_word(overlap.name())) else {
                return self.wrong("`serial`, `fenced` or `deferred`");
            };
            self.at += 1;
            self.func.overlap = overlap;
        }
        self.func.turns = self.take_word("turns");
        self.func.persist = self.take_word("persist");
        self.func.draws = self.func.persist && self.take_word("draws");
        self.sign("{")?;
        while self.declaration()? {}
        self.func.body = self.body(0)?;
        if *self.peek() != Token::End {
            return self.wrong("the end of the text");
        }
        Ok(())
    }

    fn declaration(&mut self) -> Read<bool> {
        if self.take_word("axis") {
            let name = self.declared(self.func.axes.len())?;
            self.sign("=")?;
            let extent = self.number("an extent")?;
            self.func.axes.push(Axis { name, extent });
        } else if self.take_word("param") {
            let name = self.declared(self.func.params.len())?;
            self.sign(":")?;
            let elem = self.elem()?;
            let param = if self.take_sign("[") {
                let mut dims = Vec::new();
                while !self.take_sign("]") {
                    if !dims.is_empty() {
                        self.sign(",")?;
                    }
                    dims.push(self.name()?);
                }
                Param::Tensor(Tensor { name, elem, dims })
            } else {
                Param::Scalar { name, elem }
            };
            self.func.params.push(param);
        } else if self.take_word("var") {
            self.sign("%")?;
            let name = self.declared(self.func.vars.len())?;
            self.sign(":")?;
            let ty = self.ty()?;
            self.sign("=")?;
            let init = self.constant()?;
            let lasts = self.take_word("lasts");
            self.func.vars.push(Var { name, ty, init, lasts, loc: None });
        } else if self.take_word("buffer") {
            self.sign("$")?;
            let name = self.declared(self.func.buffers.len())?;
            self.sign(":")?;
            let ty = self.ty()?;
            self.word("x")?;
            let slots = self.number("a number of slots")?;
            let ring = self.take_word("ring");
            self.func.buffers.push(Buffer { name, ty, slots, ring });
        } else if self.take_word("table") {
            self.sign("$")?;
            let name = self.declared(self.func.tables.len())?;
            self.word("over")?;
            let axis = self.axis()?;
            self.func.tables.push(Table { name, axis });
        } else if self.take_word("best") {
            self.sign("$")?;
            let name = self.declared(self.func.bests.len())?;
            self.sign(":")?;
            let count = self.number("how many are kept")?;
            self.word("over")?;
            let axis = self.axis()?;
            self.func.bests.push(Best { name, axis, count });
        } else if self.is_word("partition") && self.func.partition.is_none() {
            self.at += 1;
            self.word("rows")?;
            let row_axis = if self.take_sign("-") { None } else { Some(self.axis()?) };
            self.word("x")?;
            let rows = self.number("a number of warps")?;
            self.word("cols")?;
            let col_axis = if self.take_sign("-") { None } else { Some(self.axis()?) };
            self.word("x")?;
            let cols = self.number("a number of warps")?;
            let roles = if self.take_word("registers") {
                let producer = self.number("a number of registers")?;
                self.word("and")?;
                let consumer = self.number("a number of registers")?;
                let ctas = if self.take_word("ctas") { self.number("a number of CTAs")? } else { 1 };
                Some(Roles { producer, consumer, ctas })
            } else {
                None
            };
            self.func.partition = Some(Partition { row_axis, col_axis, rows, cols, roles });
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Statements up to the closing brace.
    fn body(&mut self, depth: usize) -> Read<Vec<Stmt>> {
        if depth > MAX_DEPTH {
            return Err(self.place().error(format!("loops and branches are nested more than {MAX_DEPTH} deep")));
        }
        let mut body = Vec::new();
        while !self.take_sign("}") {
            body.push(self.stmt(depth)?);
        }
        Ok(body)
    }

    fn stmt(&mut self, depth: usize) -> Read<Stmt> {
        let place = self.place();
        let result = if self.is_sign("%") { Some(self.value()?) } else { None };
        if result.is_some() {
            self.sign("=")?;
        }
        let op_place = self.place();
        let op = self.op(depth)?;
        if let Some(result) = result {
            let evident = evident(&self.func, &op);
            let ty = match (self.take_sign(":"), evident) {
                (true, _) => self.ty()?,
                (false, Some(ty)) => ty,
                (false, None) => {
                    return Err(op_place.error("the type of what this makes should stand behind it, `: f32<..>`"));
                }
            };
            if op.body().is_some() {
                return Err(place.error("a loop or branch makes no value"));
            }
            self.give_type(place, result, ty)?;
        }
        Ok(Stmt { result, op, loc: None })
    }

    fn two(&mut self, between: &str) -> Read<(ValueId, ValueId)> {
        let a = self.value()?;
        self.sign(between)?;
        Ok((a, self.value()?))
    }

    fn three(&mut self) -> Read<(ValueId, ValueId, ValueId)> {
        let (a, b) = self.two(",")?;
        self.sign(",")?;
        Ok((a, b, self.value()?))
    }

    fn op(&mut self, depth: usize) -> Read<Op> {
        let place = self.place();
        let Token::Word(word) = self.peek().clone() else { return self.wrong("an operation") };
        self.at += 1;
        if let Some(op) = Unary::ALL.into_iter().find(|op| op.name() == word) {
            return Ok(Op::Unary(op, self.value()?));
        }
        if let Some(op) = Binary::ALL.into_iter().find(|op| op.name() == word) {
            let (a, b) = self.two(",")?;
            return Ok(Op::Binary(op, a, b));
        }
        if let Some(op) = Compare::ALL.into_iter().find(|op| op.name() == word) {
            let (a, b) = self.two(",")?;
            return Ok(Op::Compare(op, a, b));
        }
        Ok(match word.as_str() {
            "const" => Op::Const(self.constant()?),
            "param" => Op::Param(self.param()?),
            "program_id" => Op::ProgramId(self.number("a grid dimension")?),
            "select" => {
                let (cond, a, b) = self.three()?;
                Op::Select(cond, a, b)
            }
            "fma" => {
                let (a, b, c) = self.three()?;
                Op::Fma(a, b, c)
            }
            "convert" => Op::Convert(self.value()?),
            "iota" => Op::Iota(self.axis()?),
            "broadcast" => Op::Broadcast(self.value()?),
            "reduce" => {
                let op = match () {
                    () if self.take_word("max") => Reduce::Max,
                    () if self.take_word("sum") => Reduce::Sum,
                    () => return self.wrong("`max` or `sum`"),
                };
                Op::Reduce(op, self.value()?)
            }
            "element" => Op::Element { tensor: self.param()?, index: self.values()? },
            "segment" => {
                let table = self.param()?;
                let row = if self.is_sign("[") { self.values()? } else { Vec::new() };
                self.word("of")?;
                let segments = self.value()?;
                self.word("at")?;
                Op::Segment { table, row, segments, at: self.value()? }
            }
            "fold" => {
                let Some(op) = Fold::ALL.into_iter().find(|op| self.is_word(op.name())) else {
                    return self.wrong("`sum`, `min`, `max` or `any`");
                };
                self.at += 1;
                Op::Fold(op, self.value()?)
            }
            "scan" => Op::Scan(self.value()?),
            "total" => Op::Total(self.value()?),
            "set_element" => {
                let (tensor, index) = (self.param()?, self.values()?);
                Op::SetElement { tensor, index, value: self.assigned()?, keep: self.condition()? }
            }
            "get" => {
                let (table, index) = self.in_table()?;
                Op::TableGet { table, index }
            }
            "set" => {
                let (table, index) = self.in_table()?;
                Op::TableSet { table, index, value: self.assigned()?, keep: self.condition()? }
            }
            "add_to" => {
                let (table, index) = self.in_table()?;
                self.sign("+=")?;
                Op::TableAdd { table, index, value: self.value()?, keep: self.condition()? }
            }
            "count_up" => {
                let (table, key) = self.in_table()?;
                Op::CountUp { table, key, keep: self.condition()? }
            }
            "take" => {
                let best = self.best()?;
                self.sign("+=")?;
                let scores = self.value()?;
                self.word("at")?;
                let first = self.value()?;
                let after = if self.take_word("after") {
                    let (score, column) = self.two(",")?;
                    Some([score, column])
                } else {
                    None
                };
                Op::Take { best, scores, first, after }
            }
            "settle" => Op::Settle(self.best()?),
            "clear" => Op::Clear(self.best()?),
            "best_column" => {
                let (best, n) = self.in_best()?;
                Op::BestColumn(best, n)
            }
            "best_score" => {
                let (best, n) = self.in_best()?;
                Op::BestScore(best, n)
            }
            "load" => Op::Load(self.slice()?),
            "store" => {
                let slice = self.slice()?;
                self.sign("=")?;
                Op::Store(slice, self.value()?)
            }
            "dot" => {
                let (a, b) = self.two(".")?;
                Op::Dot(a, b)
            }
            "read" => Op::Read(self.var()?),
            "write" => {
                let var = self.var()?;
                self.sign("=")?;
                Op::Write(var, self.value()?)
            }
            "accumulate" => {
                let var = self.var()?;
                self.sign("+=")?;
                let (a, b) = self.two(".")?;
                Op::Accumulate(var, a, b)
            }
            "merge" => {
                self.word("max")?;
                let max = self.var()?;
                self.word("sum")?;
                let sum = self.var()?;
                let acc = if self.take_word("acc") { Some(self.var()?) } else { None };
                self.word("scale")?;
                Op::Merge { max, sum, acc, scale: self.value()? }
            }
            "for" => {
                let place = self.place();
                let index = self.value()?;
                let ty = if self.take_sign(":") { self.ty()? } else { Type::scalar(Elem::I32) };
                self.give_type(place, index, ty)?;
                self.word("in")?;
                let (lo, hi) = self.two("..")?;
                let pipelined =
                    if self.take_word("pipelined") { Some(self.number("a number of stages")?) } else { None };
                self.sign("{")?;
                Op::For { index, lo, hi, pipelined, body: self.body(depth + 1)? }
            }
            "if" => {
                let cond = self.value()?;
                self.sign("{")?;
                Op::If { cond, body: self.body(depth + 1)? }
            }
            "exit" => Op::Exit(self.value()?),
            "copy_async" => {
                let (buffer, slot) = self.slot()?;
                self.sign("=")?;
                Op::CopyAsync { from: self.slice()?, buffer, slot }
            }
            "commit" => Op::Commit,
            "wait" => Op::Wait(self.number("a number of groups")?),
            "barrier" => Op::Barrier,
            "shared" => {
                let (buffer, slot) = self.slot()?;
                Op::Shared(buffer, slot)
            }
            "operand" => Op::Operand(self.value()?),
            "produce" | "consume" | "loop" => {
                self.sign("{")?;
                let body = self.body(depth + 1)?;
                match word.as_str() {
                    "produce" => Op::Produce(body),
                    "consume" => Op::Consume(body),
                    _ => Op::Loop(body),
                }
            }
            "leave" | "again" => {
                let cond = self.value()?;
                self.sign("{")?;
                let body = self.body(depth + 1)?;
                if word == "leave" { Op::Leave { cond, body } } else { Op::Again { cond, body } }
            }
            "acquire" => {
                let (buffer, slot) = self.slot()?;
                Op::Acquire { buffer, slot, phase: self.phase()? }
            }
            "await" => {
                let (buffer, slot) = self.slot()?;
                Op::Await { buffer, slot, phase: self.phase()? }
            }
            "release" => {
                let (buffer, slot) = self.slot()?;
                Op::Release { buffer, slot }
            }
            "fill" => {
                let (buffer, slot) = self.slot()?;
                self.sign("=")?;
                Op::Fill { from: self.slice()?, buffer, slot }
            }
            "publish" => Op::Publish,
            "fence" => Op::Fence,
            "start" => {
                let acc = self.var()?;
                let fresh = self.take_sign("=");
                if !fresh {
                    self.sign("+=")?;
                }
                let (lhs, rhs) = self.two(".")?;
                Op::Start { acc, lhs, rhs, fresh }
            }
            "turn" => Op::Turn,
            "pass" => Op::Pass,
            "close" => Op::Close,
            "land" => Op::Land(self.number("a number of groups")?),
            "hold" => {
                let mut values = vec![self.value()?];
                while self.take_sign(",") {
                    values.push(self.value()?);
                }
                Op::Hold(values)
            }
            _ => return Err(place.error(format!("`{word}` is no operation"))),
        })
    }
}

/// Which of `names` is meant by `name`, or by `name#id`.
fn one_of(place: Place, what: &str, name: &str, id: Option<usize>, names: &[&str]) -> Read<usize> {
    match id {
        Some(id) if names.get(id) == Some(&name) => Ok(id),
        Some(id) => Err(place.error(format!("number {id} is not called {name:?}"))),
        None => {
            let mut found = (0..names.len()).filter(|&n| names[n] == name);
            match (found.next(), found.next()) {
                (Some(only), None) => Ok(only),
                (None, _) => Err(place.error(format!("{name:?} is not the name of {what}"))),
                (Some(first), Some(_)) => Err(place.error(format!("{name:?} is several: `{name}#{first}` says which"))),
            }
        }
    }
}
