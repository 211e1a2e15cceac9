//! Whether a [`Module`] is well formed for its target and version.
//!
//! This is what ptxas would refuse, and a little more: registers keep to their class. (ptxas lets any 32-bit register
//! stand for any other; here `%f` stays out of integer arithmetic and `%r` out of float arithmetic, and only data
//! movement, `.b32` in `ld`, `st`, `mov`, `selp` and `shfl`, takes both.) Everything that it accepts, ptxas assembles.

use std::collections::HashSet;

use crate::isa::{Ints, Slot, Space, Type};
use crate::read::is_identifier;
use crate::{
    Address, Base, Class, Entry, Inst, Module, Op, Operand, ParamType, Reg, SharedArray, Special, Stmt, Target, Version,
};

/// Something in a module that is not PTX.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct VerifyError {
    /// The entry; `None` for what concerns the module.
    pub entry: Option<String>,
    /// Which statement of its body; `None` for what concerns its head.
    pub statement: Option<usize>,
    /// The text of that statement.
    pub text: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl std::fmt::Display for VerifyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(entry) = &self.entry {
            write!(f, "{entry}: ")?;
        }
        if let Some(statement) = self.statement {
            write!(f, "statement {statement}, `{}`: ", self.text)?;
        }
        f.write_str(&self.message)
    }
}

/// Shared memory that a kernel may declare with a fixed size, in bytes; more must be sized at launch (CUDA C++
/// Programming Guide, table of compute capabilities).
const STATIC_SHARED: u64 = 48 * 1024;

/// Checks a module.
///
/// ```
/// let text = ".version 7.0 .target sm_80 .address_size 64
///             .visible .entry k() { .reg .f32 %f<2>; add.u32 %f0, %f1, 1; ret; }";
/// let errors = lacuna_ptx::verify(&lacuna_ptx::read(text).unwrap()).unwrap_err();
/// assert_eq!(
///     errors[0].to_string(),
///     "k: statement 0, `add.u32 %f0, %f1, 1;`: operand 1 is %f0; expected a %r register (.u32)"
/// );
/// ```
///
/// # Errors
/// Everything that is wrong with it, in the order of the text.
pub fn verify(module: &Module) -> Result<(), Vec<VerifyError>> {
    let mut check = Check { module, errors: Vec::new(), entry: None, statement: None };
    check.module();
    if check.errors.is_empty() { Ok(()) } else { Err(check.errors) }
}

struct Check<'m> {
    module: &'m Module,
    errors: Vec<VerifyError>,
    /// Where the checker stands.
    entry: Option<&'m Entry>,
    statement: Option<(usize, &'m Stmt)>,
}

/// The names that an entry may use.
struct Names<'m> {
    params: HashSet<&'m str>,
    shared: HashSet<&'m str>,
    labels: HashSet<&'m str>,
}

impl<'m> Check<'m> {
    fn error(&mut self, message: impl Into<String>) {
        self.errors.push(VerifyError {
            entry: self.entry.map(|entry| entry.name.clone()),
            statement: self.statement.map(|(index, _)| index),
            text: self.statement.map_or(String::new(), |(_, stmt)| stmt.to_string()),
            message: message.into(),
        });
    }

    fn module(&mut self) {
        let Module { version, target, .. } = self.module;
        if *version < target.since() {
            self.error(format!("{target} needs .version {} or later, and this is {version}", target.since()));
        }
        let mut names = HashSet::new();
        for array in &self.module.shared {
            self.shared(array, &mut names);
        }
        for entry in &self.module.entries {
            self.name(&entry.name, "kernel", &mut names);
        }
        for entry in &self.module.entries {
            self.entry = Some(entry);
            self.entry(entry);
        }
    }

    /// A declared name: an identifier, and new.
    fn name(&mut self, name: &'m str, what: &str, names: &mut HashSet<&'m str>) {
        if !is_identifier(name) || name.starts_with('%') {
            self.error(format!("`{name}` cannot be the name of a {what}: use letters, digits, `_` and `$`"));
        }
        if !names.insert(name) {
            self.error(format!("the {what} `{name}` is declared twice"));
        }
    }

    fn shared(&mut self, array: &'m SharedArray, names: &mut HashSet<&'m str>) {
        self.name(&array.name, "shared array", names);
        if !array.align.is_power_of_two() {
            self.error(format!("the alignment of `{}` is {}; expected a power of two", array.name, array.align));
        }
        if array.bytes == Some(0) {
            self.error(format!("the shared array `{}` is empty", array.name));
        }
    }

    fn entry(&mut self, entry: &'m Entry) {
        let names = self.head(entry);
        for (i, stmt) in entry.body.iter().enumerate() {
            self.statement = Some((i, stmt));
            match stmt {
                Stmt::Inst(inst) => self.inst(entry, inst, &names),
                Stmt::Pragma(text) if text.contains(['"', '\n']) => {
                    self.error("a pragma holds no quote and no line break")
                }
                Stmt::Comment(text) if text.contains(['\n', '\r']) => self.error("a comment holds no line break"),
                Stmt::Label(_) | Stmt::Pragma(_) | Stmt::Comment(_) => {}
            }
        }
        self.statement = None;
        let last = entry.body.iter().rev().find(|stmt| matches!(stmt, Stmt::Inst(_) | Stmt::Label(_)));
        let leaves =
            |inst: &Inst| matches!(inst.form.op(), Op::Ret | Op::Exit | Op::Bra | Op::Trap) && inst.guard.is_none();
        if !matches!(last, Some(Stmt::Inst(inst)) if leaves(inst)) {
            self.error("the body runs off its end; its last instruction must be an unguarded ret, exit, trap or bra");
        }
    }

    /// Everything before the statements.
    fn head(&mut self, entry: &'m Entry) -> Names<'m> {
        let module = self.module;
        let mut params = HashSet::new();
        for param in &entry.params {
            self.name(&param.name, "parameter", &mut params);
            if let ParamType::Bytes { align, bytes } = param.ty
                && (!align.is_power_of_two() || bytes == 0)
            {
                self.error(format!("the parameter `{}` needs a size and an alignment, a power of two", param.name));
            }
        }
        let bytes: u64 = entry.params.iter().map(|param| u64::from(param.ty.bytes())).sum();
        let limit = if module.version >= Version::new(8, 1) { 32764 } else { 4352 };
        if bytes > limit {
            self.error(format!("the parameters take {bytes} bytes; .version {} allows {limit}", module.version));
        }
        for (name, threads) in [(".maxntid", entry.limits.max_threads), (".reqntid", entry.limits.required_threads)] {
            let Some(threads) = threads else { continue };
            let count = threads.iter().fold(1_u64, |count, axis| count.saturating_mul(u64::from(*axis)));
            if !(1..=1024).contains(&count) {
                self.error(format!("{name} says {count} threads; a CTA has 1 to 1024"));
            }
        }
        if entry.limits.explicit_cluster || entry.limits.required_cluster.is_some() {
            let (target, version) = (Target::SM_90, Version::new(7, 8));
            if !module.target.has(target) || module.version < version {
                self.error(format!("clusters need .target {target} and .version {version} or later"));
            }
        }
        if let Some(extents) = entry.limits.required_cluster {
            let count = extents.iter().fold(1_u64, |count, axis| count.saturating_mul(u64::from(*axis)));
            if !(1..=16).contains(&count) {
                self.error(format!(".reqnctapercluster says {count} CTAs; a cluster has 1 to 16"));
            }
        }
        if entry.limits.max_threads.is_some() && entry.limits.required_threads.is_some() {
            self.error(".maxntid and .reqntid exclude each other");
        }
        let mut shared = HashSet::new();
        for array in &entry.shared {
            self.shared(array, &mut shared);
            if array.bytes.is_none() {
                self.error(format!("`{}` is sized at launch, so it must be declared at module scope", array.name));
            }
        }
        let both = || module.shared.iter().chain(&entry.shared);
        shared.extend(both().map(|array| array.name.as_str()));
        let bytes: u64 = both().filter_map(|array| array.bytes).map(u64::from).sum();
        if bytes > STATIC_SHARED {
            self.error(format!(
                "{bytes} bytes of shared memory have a fixed size; above {STATIC_SHARED}, use `.extern`"
            ));
        }
        let mut labels = HashSet::new();
        for (i, stmt) in entry.body.iter().enumerate() {
            if let Stmt::Label(name) = stmt {
                self.statement = Some((i, stmt));
                self.name(name, "label", &mut labels);
                self.statement = None;
            }
        }
        for name in params.intersection(&shared).chain(labels.intersection(&shared)).chain(labels.intersection(&params))
        {
            self.error(format!("`{name}` names two things"));
        }
        Names { params, shared, labels }
    }

    fn inst(&mut self, entry: &Entry, inst: &Inst, names: &Names<'_>) {
        let (module, form) = (self.module, inst.form);
        if !module.target.has(form.lowest()) {
            self.error(format!("{form} needs .target {}; this module is for {}", form.lowest(), module.target));
        }
        if module.version < form.since() {
            self.error(format!("{form} needs .version {} or later; this module has {}", form.since(), module.version));
        }
        if let Some(guard) = inst.guard {
            if guard.reg.class == Class::Pred {
                self.declared(entry, guard.reg);
            } else {
                self.error(format!("the guard is {}; expected a %p register", guard.reg));
            }
        }
        let (required, slots) = (form.required(), form.slots());
        if !(required..=slots.len()).contains(&inst.operands.len()) {
            let expected =
                if required == slots.len() { required.to_string() } else { format!("{required} to {}", slots.len()) };
            return self.error(format!("{form} takes {expected} operands, and here are {}", inst.operands.len()));
        }
        for (i, (operand, slot)) in inst.operands.iter().zip(slots).enumerate() {
            if let Err(what) = fits(operand, *slot, names) {
                self.error(format!("operand {} is {operand}; {what}", i + 1));
            }
        }
        for operand in &inst.operands {
            if let Operand::Special(special) = operand {
                let (target, version) = special.from();
                if !module.target.has(target) || module.version < version {
                    self.error(format!("{special} needs .target {target} and .version {version} or later"));
                }
            }
        }
        for reg in inst.writes().chain(inst.reads().filter(|reg| inst.guard.is_none_or(|guard| guard.reg != *reg))) {
            self.declared(entry, reg);
        }
        self.pairs(inst);
    }

    /// What depends on two operands at once.
    fn pairs(&mut self, inst: &Inst) {
        match (inst.form.op(), inst.operands.as_slice()) {
            (Op::MovB32 | Op::MovB64, [Operand::Vector(_), Operand::Vector(_)]) => {
                self.error("a mov takes a register apart or puts one together, not both");
            }
            (
                Op::CpAsyncCa | Op::CpAsyncCg | Op::CpAsyncCaL2 | Op::CpAsyncCgL2,
                [_, _, Operand::Int(copied), Operand::Int(read)],
            ) if read > copied => {
                self.error(format!("operand 4 is {read}; the bytes to read cannot exceed the {copied} to write"));
            }
            (Op::Wgmma, [_, a, ..]) if matches!(a, Operand::Vector(_)) == (inst.operands.len() == 8) => {
                self.error("with A in registers it takes 7 operands, the last of them B's transposition; else 8");
            }
            _ => {}
        }
    }

    fn declared(&mut self, entry: &Entry, reg: Reg) {
        let count = entry.regs[reg.class.index()];
        if reg.index >= count {
            let letter = reg.class.letter();
            self.error(match count {
                0 => format!("{reg} is not declared; the entry has no %{letter} registers"),
                _ => format!("{reg} is not declared; the entry has %{letter}0 to %{letter}{}", count - 1),
            });
        }
    }
}

/// Whether an operand may stand in a slot; where not, what may.
fn fits(operand: &Operand, slot: Slot, names: &Names<'_>) -> Result<(), String> {
    match (slot, operand) {
        (Slot::Out(ty) | Slot::In(ty) | Slot::Source(ty, _) | Slot::Value(ty), Operand::Reg(reg))
        | (Slot::OutOrParts(ty, _) | Slot::ValueOrParts(ty, _), Operand::Reg(reg))
            if ty.takes(reg.class) =>
        {
            Ok(())
        }
        (Slot::InOrVector(ty, ..), Operand::Reg(reg)) if ty.takes(reg.class) => Ok(()),
        (
            Slot::OutVector(ty, count)
            | Slot::Accumulator(ty, count)
            | Slot::InVector(ty, count)
            | Slot::InOrVector(_, ty, count),
            Operand::Vector(regs),
        ) => vector(regs, ty, usize::from(count), slot.is_written()),
        (Slot::OutWithPred(ty), Operand::WithPred(value, pred))
            if pred.class == Class::Pred && value.is_none_or(|reg| ty.takes(reg.class)) =>
        {
            Ok(())
        }
        (Slot::Sink, Operand::Sink) => Ok(()),
        (Slot::Tensor(dims), Operand::Tensor { map, coords }) => {
            address(map, Space::Generic, names)?;
            vector(coords, Type::S32, dims.into(), false)
        }
        (Slot::OutOrParts(whole, part) | Slot::ValueOrParts(whole, part), Operand::Vector(regs)) => {
            vector(regs, part, (whole.bits() / part.bits()) as usize, slot.is_written())
        }
        (Slot::Source(ty, allowed), Operand::Int(value)) => int(*value, ty, allowed),
        (Slot::Value(ty) | Slot::ValueOrParts(ty, _), Operand::Int(value)) => int(*value, ty, Ints::Any),
        (Slot::Source(Type::F32 | Type::Word, _), Operand::Float(_)) => Ok(()),
        (Slot::Value(ty) | Slot::ValueOrParts(ty, _), Operand::Float(_)) if matches!(ty, Type::F32 | Type::Word) => {
            Ok(())
        }
        (Slot::Value(ty) | Slot::ValueOrParts(ty, _), Operand::Special(special)) if integer(ty, 32) => axis(*special),
        (Slot::Value(ty) | Slot::ValueOrParts(ty, _), Operand::Symbol(name)) if integer(ty, 32) => {
            symbol(name, &names.shared, "shared array")
        }
        (Slot::Value(ty) | Slot::ValueOrParts(ty, _), Operand::Symbol(name)) if integer(ty, 64) => {
            let known = names.params.contains(name.as_str());
            if known { Ok(()) } else { symbol(name, &names.shared, "shared array or parameter") }
        }
        (Slot::Imm(allowed), Operand::Int(value)) if allowed.contains(*value) => Ok(()),
        (Slot::Address(space), Operand::Address(at)) => address(at, space, names),
        (Slot::Label, Operand::Label(name)) => symbol(name, &names.labels, "label"),
        _ => Err(format!("expected {}", expected(slot))),
    }
}

fn integer(ty: Type, bits: u32) -> bool {
    ty.bits() == bits && ty != Type::F32
}

fn vector(regs: &[Reg], ty: Type, count: usize, written: bool) -> Result<(), String> {
    if regs.len() != count {
        return Err(format!("expected {count} registers, and here are {}", regs.len()));
    }
    if let Some(reg) = regs.iter().find(|reg| !ty.takes(reg.class)) {
        return Err(format!("expected {count} {}, and {reg} is none", register(ty)));
    }
    let twice = |i: usize| regs[..i].contains(&regs[i]);
    match (0..count).find(|i| written && twice(*i)) {
        Some(i) => Err(format!("{} is written twice", regs[i])),
        None => Ok(()),
    }
}

/// Whether an immediate fits its type and its range. Negative values stand for unsigned ones by their bits.
fn int(value: i64, ty: Type, allowed: Ints) -> Result<(), String> {
    let (least, greatest) = match (ty, ty.bits()) {
        (Type::F32, _) => return Err("expected a float, written by its bits: 0f3F800000".to_owned()),
        (_, 64) => (i64::MIN, i64::MAX),
        (_, 1) => (0, 1),
        (_, bits) => (-(1 << (bits - 1)), (1 << bits) - 1),
    };
    if !(least..=greatest).contains(&value) {
        return Err(format!("expected {least} to {greatest} (.{})", ty.name()));
    }
    let bits = if ty == Type::U32 { i64::from(value as u32) } else { value };
    if allowed.contains(bits) { Ok(()) } else { Err(format!("expected {allowed}")) }
}

fn axis(special: Special) -> Result<(), String> {
    match special {
        Special::Tid(axis) | Special::Ntid(axis) | Special::Ctaid(axis) | Special::Nctaid(axis) if axis > 2 => {
            Err(format!("expected the axis 0, 1 or 2, found {axis}"))
        }
        _ => Ok(()),
    }
}

fn symbol(name: &str, known: &HashSet<&str>, what: &str) -> Result<(), String> {
    if known.contains(name) { Ok(()) } else { Err(format!("there is no {what} `{name}`")) }
}

fn address(address: &Address, space: Space, names: &Names<'_>) -> Result<(), String> {
    if i32::try_from(address.offset).is_err() {
        return Err("its offset does not fit 32 bits".to_owned());
    }
    match (space, &address.base) {
        (Space::Param, Base::Symbol(name)) => symbol(name, &names.params, "parameter"),
        (Space::Shared | Space::Cluster, Base::Symbol(name)) => symbol(name, &names.shared, "shared array"),
        (Space::Shared | Space::Cluster, Base::Reg(reg)) if reg.class == Class::B32 => Ok(()),
        (Space::Global | Space::Generic, Base::Reg(reg)) if reg.class == Class::B64 => Ok(()),
        _ => Err(format!("expected {}", expected(Slot::Address(space)))),
    }
}

fn register(ty: Type) -> String {
    match ty {
        Type::Word => "%r or %f registers (.b32)".to_owned(),
        ty => format!("%{} registers (.{})", ty.class().letter(), ty.name()),
    }
}

/// What a slot takes, in words.
fn expected(slot: Slot) -> String {
    let one = |ty: Type| register(ty).replace("registers", "register");
    let literal = |ty: Type| match ty {
        Type::F32 => "a float such as 0f3F800000",
        Type::Word => "a number or a float",
        _ => "a number",
    };
    let mov = |ty: Type| match ty {
        Type::Pred | Type::F32 => String::new(),
        _ if ty.bits() == 32 => ", a special register, a shared array".to_owned(),
        _ => ", a shared array, a parameter".to_owned(),
    };
    let parts = |whole: Type, part: Type| format!("{} {} in braces", whole.bits() / part.bits(), register(part));
    match slot {
        Slot::Out(ty) | Slot::In(ty) => format!("a {}", one(ty)),
        Slot::OutVector(ty, count) | Slot::Accumulator(ty, count) | Slot::InVector(ty, count) => {
            format!("{count} {} in braces", register(ty))
        }
        Slot::OutWithPred(ty) => format!("a {} or `_`, then `|` and a %p register", one(ty)),
        Slot::Sink => "`_`".to_owned(),
        Slot::InOrVector(ty, other, count) => format!("a {} or {count} {} in braces", one(ty), register(other)),
        Slot::OutOrParts(whole, part) => format!("a {} or {}", one(whole), parts(whole, part)),
        Slot::Source(ty, Ints::Any) => format!("a {} or {}", one(ty), literal(ty)),
        Slot::Source(ty, allowed) => format!("a {} or {allowed}", one(ty)),
        Slot::Value(ty) => format!("a {}, {}{}", one(ty), literal(ty), mov(ty)),
        Slot::ValueOrParts(whole, part) => {
            format!("a {}, {}{} or {}", one(whole), literal(whole), mov(whole), parts(whole, part))
        }
        Slot::Imm(allowed) => allowed.to_string(),
        Slot::Address(Space::Param) => "an address whose base is a parameter".to_owned(),
        Slot::Address(Space::Shared | Space::Cluster) => {
            "an address whose base is a %r register or a shared array".to_owned()
        }
        Slot::Address(Space::Global | Space::Generic) => "an address whose base is a %d register".to_owned(),
        Slot::Tensor(dims) => format!("the address of a tensor map in a %d register and {dims} coordinates in braces"),
        Slot::Label => "a label".to_owned(),
    }
}
