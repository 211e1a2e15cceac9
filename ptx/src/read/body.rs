//! The body of an entry: declarations and statements.

use super::cursor::{Number, shown};
use super::registers::{Registers, class};
use super::{ReadError, Reader, suggest};
use crate::isa::Slot;
use crate::{Address, Base, Entry, Form, Guard, Inst, Operand, Reg, Special, Stmt};

impl<'t> Reader<'t> {
    /// From after the `{` to after the `}`. Where each statement begins.
    pub(super) fn body(&mut self, entry: &mut Entry) -> Result<Vec<usize>, ReadError> {
        let mut registers = Registers::default();
        let mut offsets = Vec::new();
        loop {
            if let Some(comment) = self.cursor.line_comment()? {
                if let Some(text) = comment {
                    // The cursor stands at the end of the comment's line.
                    offsets.push(self.cursor.offset());
                    entry.body.push(Stmt::Comment(text.to_owned()));
                }
                continue;
            }
            let start = self.cursor.offset();
            let stmt = match self.cursor.peek() {
                None => return Err(self.cursor.error("the body has no `}`")),
                Some(b'}') => {
                    self.cursor.eat(b'}');
                    entry.regs = registers.counts;
                    return Ok(offsets);
                }
                Some(b'{') => return Err(self.cursor.error("nested scopes are not supported")),
                Some(b';') => {
                    self.cursor.eat(b';');
                    continue;
                }
                Some(b'.') => match self.declaration(entry, &mut registers)? {
                    Some(stmt) => stmt,
                    None => continue,
                },
                Some(_) => self.statement(&registers)?,
            };
            offsets.push(start);
            entry.body.push(stmt);
        }
    }

    /// What begins with a dot. A pragma is a statement too.
    fn declaration(&mut self, entry: &mut Entry, registers: &mut Registers<'t>) -> Result<Option<Stmt>, ReadError> {
        let start = self.cursor.offset();
        match self.cursor.word() {
            ".reg" => self.registers(registers)?,
            ".shared" => self.shared(false, &mut entry.shared)?,
            ".loc" | ".file" => self.cursor.skip_line(),
            ".pragma" => {
                let text = self.cursor.string()?.to_owned();
                self.cursor.expect(b';')?;
                return Ok(Some(Stmt::Pragma(text)));
            }
            word => {
                let message = format!("`{}` is not supported in a body", shown(word));
                return Err(self.cursor.error_at(start, message));
            }
        }
        Ok(None)
    }

    /// `.b32 %r<12>, a, b;` after `.reg`.
    fn registers(&mut self, registers: &mut Registers<'t>) -> Result<(), ReadError> {
        let ty = self.word()?;
        let Some(class) = class(ty) else {
            let start = self.cursor.offset() - ty.len();
            return Err(self.cursor.error_at(start, format!("registers of type `{}` are not supported", shown(ty))));
        };
        loop {
            let name = self.cursor.identifier("the name of a register")?;
            let start = self.cursor.offset() - name.len();
            let range = if self.next_is(b'<')? {
                let count = self.cursor.count("a number of registers")?;
                self.cursor.expect(b'>')?;
                Some(count)
            } else {
                None
            };
            registers.declare(name, class, range).map_err(|message| self.cursor.error_at(start, message))?;
            if !self.next_is(b',')? {
                return self.cursor.expect(b';');
            }
        }
    }

    /// A label, or an instruction with or without a guard.
    fn statement(&mut self, registers: &Registers<'t>) -> Result<Stmt, ReadError> {
        let guard = if self.cursor.eat(b'@') { Some(self.guard(registers)?) } else { None };
        self.cursor.skip()?;
        let start = self.cursor.offset();
        let word = self.cursor.word();
        if word.is_empty() {
            return Err(self.cursor.error(format!("expected an instruction, found {}", self.cursor.found())));
        }
        if guard.is_none() && self.next_is(b':')? {
            if !super::is_identifier(word) {
                return Err(self.cursor.error_at(start, format!("`{}` cannot be a label", shown(word))));
            }
            return Ok(Stmt::Label(word.to_owned()));
        }
        let Some(form) = Form::find(word) else {
            let hint = suggest::nearest(word).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            let message = format!("unknown instruction `{}`{hint}", shown(word));
            return Err(self.cursor.error_at(start, message));
        };
        let operands = self.operands(form, registers)?;
        Ok(Stmt::Inst(Inst { guard, form, operands }))
    }

    /// `!%p0`, after the `@`.
    fn guard(&mut self, registers: &Registers<'t>) -> Result<Guard, ReadError> {
        let negated = self.next_is(b'!')?;
        let name = self.cursor.identifier("a predicate register")?;
        Ok(Guard { reg: self.register(name, registers)?, negated })
    }

    /// The register that was just read.
    fn register(&self, name: &str, registers: &Registers<'t>) -> Result<Reg, ReadError> {
        registers.find(name).ok_or_else(|| {
            let start = self.cursor.offset() - name.len();
            self.cursor.error_at(start, format!("the register `{}` is not declared before this", shown(name)))
        })
    }

    /// Up to and over the `;`.
    fn operands(&mut self, form: Form, registers: &Registers<'t>) -> Result<Vec<Operand>, ReadError> {
        let slots = form.slots();
        let mut operands = Vec::with_capacity(slots.len());
        if self.next_is(b';')? {
            return Ok(operands);
        }
        loop {
            let label = slots.get(operands.len()) == Some(&Slot::Label);
            operands.push(self.operand(label, registers)?);
            if self.next_is(b';')? {
                return Ok(operands);
            }
            if !self.cursor.eat(b',') {
                return Err(self.cursor.error(format!("expected `,` or `;`, found {}", self.cursor.found())));
            }
        }
    }

    fn operand(&mut self, label: bool, registers: &Registers<'t>) -> Result<Operand, ReadError> {
        self.cursor.skip()?;
        match self.cursor.peek() {
            Some(b'{') => Ok(Operand::Vector(self.vector(registers)?)),
            Some(b'[') => self.address(registers),
            Some(b'!') => Err(self.cursor.error("a negated operand is not supported: negate it with `not.pred`")),
            Some(b'-' | b'0'..=b'9') => Ok(match self.cursor.number()? {
                Number::Int(value) => Operand::Int(value),
                Number::Float(bits) => Operand::Float(bits),
            }),
            Some(b'%') => {
                let start = self.cursor.offset();
                let name = self.cursor.word();
                match (special(name), registers.find(name)) {
                    (Some(special), _) => Ok(Operand::Special(special)),
                    (None, Some(reg)) => self.with_pred(Some(reg), registers),
                    (None, None) => {
                        let message = format!("`{}` is no declared register and no special register", shown(name));
                        Err(self.cursor.error_at(start, message))
                    }
                }
            }
            _ if self.cursor.eat_sink() => self.with_pred(None, registers),
            _ => {
                let name = self.cursor.identifier("an operand")?;
                match registers.find(name) {
                    _ if label => Ok(Operand::Label(name.to_owned())),
                    Some(reg) => self.with_pred(Some(reg), registers),
                    None => Ok(Operand::Symbol(name.to_owned())),
                }
            }
        }
    }

    /// After a register, or after a `_` in its place: `%r0`, `%r0|%p0`, `_`, `_|%p0`.
    fn with_pred(&mut self, value: Option<Reg>, registers: &Registers<'t>) -> Result<Operand, ReadError> {
        if !self.next_is(b'|')? {
            return Ok(value.map_or(Operand::Sink, Operand::Reg));
        }
        let name = self.cursor.identifier("a predicate register")?;
        Ok(Operand::WithPred(value, self.register(name, registers)?))
    }

    /// `{%r0, %r1}`.
    fn vector(&mut self, registers: &Registers<'t>) -> Result<Vec<Reg>, ReadError> {
        self.cursor.expect(b'{')?;
        let mut regs = Vec::new();
        loop {
            let name = self.cursor.identifier("a register")?;
            regs.push(self.register(name, registers)?);
            if !self.next_is(b',')? {
                break;
            }
        }
        self.cursor.expect(b'}')?;
        Ok(regs)
    }

    /// `[%r1]`, `[%r1+16]`, `[%r1+-16]`, `[smem+16]`, `[%d1, {%r1, %r2}]`.
    fn address(&mut self, registers: &Registers<'t>) -> Result<Operand, ReadError> {
        self.cursor.expect(b'[')?;
        let name = self.cursor.identifier("a register or a symbol")?;
        let base = match registers.find(name) {
            Some(reg) => Base::Reg(reg),
            None if name.starts_with('%') => Base::Reg(self.register(name, registers)?),
            None => Base::Symbol(name.to_owned()),
        };
        let mut offset = 0;
        if self.next_is(b'+')? {
            let start = self.cursor.offset();
            offset = match self.cursor.number()? {
                Number::Int(offset) => offset,
                Number::Float(_) => return Err(self.cursor.error_at(start, "an offset is a number of bytes")),
            };
        } else if self.cursor.peek() == Some(b'-') {
            return Err(self.cursor.error("PTX writes a negative offset with a plus, `+-16`"));
        }
        let address = Address { base, offset };
        let operand = if self.next_is(b',')? {
            Operand::Tensor { map: address, coords: self.vector(registers)? }
        } else {
            Operand::Address(address)
        };
        self.cursor.expect(b']')?;
        Ok(operand)
    }
}

/// The special register with this name.
fn special(name: &str) -> Option<Special> {
    let axis = |axis: &str| ["x", "y", "z"].iter().position(|known| *known == axis).map(|axis| axis as u8);
    match name.split_once('.') {
        Some(("%tid", of)) => axis(of).map(Special::Tid),
        Some(("%ntid", of)) => axis(of).map(Special::Ntid),
        Some(("%ctaid", of)) => axis(of).map(Special::Ctaid),
        Some(("%nctaid", of)) => axis(of).map(Special::Nctaid),
        None if name == "%laneid" => Some(Special::Laneid),
        None if name == "%warpid" => Some(Special::Warpid),
        None if name == "%cluster_ctarank" => Some(Special::ClusterCtarank),
        None if name == "%cluster_nctarank" => Some(Special::ClusterNctarank),
        _ => None,
    }
}
