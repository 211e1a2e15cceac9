//! Making an instruction, and which registers it touches.

use super::Slot;
use crate::{Address, Base, Form, Guard, Inst, Op, Operand, Reg};

impl Inst {
    /// An instruction without a guard. Whether the operands fit the form is for [`verify`](crate::verify()) to say.
    ///
    /// ```
    /// use lacuna_ptx::{Class, Inst, Operand, Reg};
    /// let r = |index| Reg { class: Class::B32, index };
    /// let add = Inst::new("add.u32", [r(0).into(), r(1).into(), Operand::Int(16)]);
    /// assert_eq!(add.to_string(), "add.u32 %r0, %r1, 16;");
    /// ```
    ///
    /// # Panics
    /// When the table has no such form.
    #[track_caller]
    pub fn new(form: &'static str, operands: impl IntoIterator<Item = Operand>) -> Inst {
        Inst { guard: None, form: Form::named(form), operands: operands.into_iter().collect() }
    }

    /// The same instruction under `@reg` or `@!reg`.
    #[must_use]
    pub fn guarded(self, reg: Reg, negated: bool) -> Inst {
        Inst { guard: Some(Guard { reg, negated }), ..self }
    }

    /// The registers that it writes, in the order of the text.
    pub fn writes(&self) -> impl Iterator<Item = Reg> + '_ {
        self.operands
            .iter()
            .zip(self.form.slots())
            .filter(|(_, slot)| slot.is_written())
            .flat_map(|(o, _)| registers(o))
    }

    /// The registers that it reads: the guard, sources, the bases of addresses.
    pub fn reads(&self) -> impl Iterator<Item = Reg> + '_ {
        let slots = self.form.slots();
        let accumulates = self.accumulates();
        let read = move |i: usize| match slots.get(i) {
            Some(Slot::Accumulator(..)) => accumulates,
            slot => !slot.is_some_and(|slot| slot.is_written()),
        };
        let operands = self.operands.iter().enumerate().filter(move |(i, _)| read(*i)).flat_map(|(_, o)| registers(o));
        self.guard.iter().map(|guard| guard.reg).chain(operands)
    }

    /// Whether what its accumulator holds may count: not where the scale of it, the fourth operand, is the immediate 0.
    fn accumulates(&self) -> bool {
        self.form.op() != Op::Wgmma || self.operands.get(3) != Some(&Operand::Int(0))
    }
}

/// The registers that an operand names.
fn registers(operand: &Operand) -> impl Iterator<Item = Reg> + '_ {
    let (first, others): (Option<Reg>, &[Reg]) = match operand {
        Operand::Reg(reg) => (Some(*reg), &[]),
        Operand::WithPred(value, pred) => (*value, std::slice::from_ref(pred)),
        Operand::Vector(regs) => (None, regs),
        Operand::Address(address) => (base(address), &[]),
        Operand::Tensor { map, coords } => (base(map), coords),
        Operand::Int(_)
        | Operand::Float(_)
        | Operand::Symbol(_)
        | Operand::Label(_)
        | Operand::Special(_)
        | Operand::Sink => (None, &[]),
    };
    first.into_iter().chain(others.iter().copied())
}

fn base(address: &Address) -> Option<Reg> {
    match address.base {
        Base::Reg(reg) => Some(reg),
        Base::Symbol(_) => None,
    }
}
