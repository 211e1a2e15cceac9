//! Instructions of every form, with every kind of operand that its slots take.

#![allow(dead_code, reason = "every test crate uses its own part of this")]

use lacuna_ptx::isa::{Ints, Slot, Space, Type};
use lacuna_ptx::*;

/// Registers of each class that [`module`] declares.
pub(crate) const REGS: u32 = 192;

/// Registers that an operand may start from: a vector still fits above.
pub(crate) const STARTS: u32 = 32;

pub(crate) fn reg(class: Class, index: u32) -> Reg {
    Reg { class, index }
}

/// Everything that may stand in a slot. Registers are numbered from `at`; `salt` fills what is free.
pub(crate) fn alternatives(slot: Slot, at: u32, salt: u32) -> Vec<Operand> {
    let regs = |ty: Type| classes(ty).into_iter().map(|class| Operand::Reg(reg(class, at))).collect::<Vec<_>>();
    let vectors = |ty: Type, count: u32| {
        let vector = |class| Operand::Vector((0..count).map(|i| reg(class, at + i)).collect());
        let mut vectors: Vec<Operand> = classes(ty).into_iter().map(vector).collect();
        if ty == Type::Word {
            // Both classes in one vector.
            vectors.push(Operand::Vector((0..count).map(|i| reg(classes(ty)[i as usize % 2], at + i)).collect()));
        }
        vectors
    };
    match slot {
        Slot::Out(ty) | Slot::In(ty) => regs(ty),
        Slot::OutVector(ty, count) | Slot::Accumulator(ty, count) | Slot::InVector(ty, count) => {
            vectors(ty, count.into())
        }
        Slot::OutWithPred(ty) => {
            let pred = reg(Class::Pred, at);
            let with = |value| Operand::WithPred(Some(value), pred);
            classes(ty).into_iter().map(|class| with(reg(class, at))).collect()
        }
        Slot::Sink => vec![Operand::Sink],
        Slot::InOrVector(ty, other, count) => [regs(ty), vectors(other, count.into())].concat(),
        Slot::Tensor(dims) => {
            let coords: Vec<Reg> = (0..dims.into()).map(|i| reg(Class::B32, at + i)).collect();
            let map = Address::at(reg(Class::B64, at), 0);
            vec![Operand::Tensor { map, coords }]
        }
        Slot::OutOrParts(whole, part) => [regs(whole), vectors(part, whole.bits() / part.bits())].concat(),
        Slot::Source(ty, allowed) => [regs(ty), literals(ty, allowed, salt)].concat(),
        Slot::Value(ty) => [regs(ty), literals(ty, Ints::Any, salt), values(ty)].concat(),
        Slot::ValueOrParts(whole, part) => {
            [regs(whole), literals(whole, Ints::Any, salt), values(whole), vectors(part, whole.bits() / part.bits())]
                .concat()
        }
        Slot::Imm(allowed) => literals(Type::S64, allowed, salt),
        Slot::Address(space) => addresses(space, at, salt),
        Slot::Label => vec![Operand::Label("top".to_owned()), Operand::Label("bottom".to_owned())],
    }
}

fn classes(ty: Type) -> Vec<Class> {
    Class::ALL.into_iter().filter(|class| ty.takes(*class)).collect()
}

fn literals(ty: Type, allowed: Ints, salt: u32) -> Vec<Operand> {
    let ints = match (allowed, ty, ty.bits()) {
        (Ints::OneOf(values), ..) => values.to_vec(),
        (Ints::Range { first, last, step }, ..) => vec![first, last, first + step],
        (Ints::Any, Type::F32, _) => vec![],
        (Ints::Any, _, 1) => vec![0, 1],
        (Ints::Any, _, 64) => vec![i64::MIN, -1, 0, i64::MAX, i64::from(salt) << 16],
        (Ints::Any, _, bits) => vec![-1 << (bits - 1), -1, 0, (1 << bits) - 1, i64::from(salt) & ((1 << bits) - 1)],
    };
    let floats = if matches!(ty, Type::F32 | Type::Word) { vec![0, 0x3f80_0000, 0xff80_0000, salt] } else { vec![] };
    ints.into_iter().map(Operand::Int).chain(floats.into_iter().map(Operand::Float)).collect()
}

/// What only a `mov` reads.
fn values(ty: Type) -> Vec<Operand> {
    let mut values = Vec::new();
    if ty != Type::F32 && ty.bits() >= 32 {
        values.push(Operand::Symbol("smem".to_owned()));
        values.push(Operand::Symbol("fixed".to_owned()));
    }
    if ty != Type::F32 && ty.bits() == 64 {
        values.push(Operand::Symbol("bytes".to_owned()));
    }
    if ty != Type::F32 && ty.bits() == 32 {
        let axes = (0..3)
            .flat_map(|axis| [Special::Tid(axis), Special::Ntid(axis), Special::Ctaid(axis), Special::Nctaid(axis)]);
        values.extend(axes.chain([Special::Laneid, Special::Warpid]).map(Operand::Special));
    }
    values
}

fn addresses(space: Space, at: u32, salt: u32) -> Vec<Operand> {
    let offset = i64::from(salt & 0xff0);
    let bases = match space {
        Space::Param => return ["bytes", "wide"].map(|name| Address::symbol(name, 0).into()).into(),
        Space::Shared | Space::Cluster => {
            vec![Base::Reg(reg(Class::B32, at)), Base::Symbol("smem".to_owned()), Base::Symbol("fixed".to_owned())]
        }
        Space::Global | Space::Generic => vec![Base::Reg(reg(Class::B64, at))],
    };
    let at = |base: Base| [0, offset, -16].map(|offset| Operand::Address(Address { base: base.clone(), offset }));
    bases.into_iter().flat_map(at).collect()
}

/// The form with its plainest operands, then with each operand in turn as everything else that it may be; each of these
/// without and with the optional operands.
pub(crate) fn variants(form: Form) -> Vec<Inst> {
    let slots = form.slots();
    let choices: Vec<Vec<Operand>> =
        slots.iter().enumerate().map(|(i, slot)| alternatives(*slot, 8 * i as u32 % STARTS, 7)).collect();
    let mut insts = Vec::new();
    for count in form.required()..=slots.len() {
        let plain: Vec<Operand> = choices[..count].iter().map(|choice| choice[0].clone()).collect();
        insts.push(Inst { guard: None, form, operands: plain.clone() });
        for (i, choice) in choices[..count].iter().enumerate() {
            for other in &choice[1..] {
                let mut operands = plain.clone();
                operands[i] = other.clone();
                insts.push(Inst { guard: None, form, operands });
            }
        }
    }
    insts.iter_mut().for_each(mend);
    insts
}

/// Repairs what depends on two operands at once.
pub(crate) fn mend(inst: &mut Inst) {
    // Products of a warpgroup: A in registers has no transposition.
    if inst.form.op() == Op::Wgmma {
        let in_registers = matches!(inst.operands[1], Operand::Vector(_));
        inst.operands.resize(if in_registers { 7 } else { 8 }, Operand::Int(1));
    }
    // Asynchronous copies: no more bytes read than written.
    if let [_, _, Operand::Int(written), Operand::Int(read)] = inst.operands.as_mut_slice()
        && *read > *written
    {
        *read = *written;
    }
    // A mov that takes apart and puts together at once.
    if let [out, source] = inst.operands.as_mut_slice()
        && matches!((&*out, &*source), (Operand::Vector(_), Operand::Vector(_)))
        && let Slot::ValueOrParts(whole, _) = inst.form.slots()[1]
    {
        *source = Operand::Reg(reg(whole.class(), 0));
    }
}

/// An entry around a body, with every name that [`alternatives`] uses, and a `ret` at its end.
pub(crate) fn entry(name: impl Into<String>, body: impl IntoIterator<Item = Stmt>) -> Entry {
    let param = |name: &str, ty| Param { name: name.to_owned(), ty };
    let label = |name: &str| Stmt::Label(name.to_owned());
    let ret = Stmt::Inst(Inst::new("ret", []));
    Entry {
        name: name.into(),
        params: vec![
            param("wide", ParamType::U64),
            param("word", ParamType::U32),
            param("scale", ParamType::F32),
            param("bytes", ParamType::Bytes { align: 64, bytes: 128 }),
        ],
        limits: Limits { max_threads: Some([128, 1, 1]), ..Limits::default() },
        regs: [REGS; Class::COUNT],
        shared: vec![SharedArray { name: "fixed".to_owned(), align: 16, bytes: Some(1024) }],
        body: std::iter::once(label("top")).chain(body).chain([label("bottom"), ret]).collect(),
    }
}

pub(crate) fn module(target: Target, version: Version, entries: Vec<Entry>) -> Module {
    let smem = SharedArray { name: "smem".to_owned(), align: 128, bytes: None };
    Module { version, target, shared: vec![smem], entries }
}

/// A module whose target and version have this form, and none lower.
pub(crate) fn lowest(form: Form) -> (Target, Version) {
    (form.lowest(), form.since().max(form.lowest().since()))
}
